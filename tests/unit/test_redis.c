#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/cluster/redis_connection.h"
#include "real_redis.h"

/* ---- listeners that are waited for ---- */

struct heard {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned up, away, messages;
    char last[64];
    struct err why;
};

static void heard_init(struct heard *h)
{
    *h = (struct heard){0};
    pthread_mutex_init(&h->mutex, NULL);
    pthread_cond_init(&h->changed, NULL);
}

static void heard_clear(struct heard *h)
{
    pthread_cond_destroy(&h->changed);
    pthread_mutex_destroy(&h->mutex);
}

static void hear_change(void *ctx, bool up, const struct err *why)
{
    struct heard *h = ctx;

    pthread_mutex_lock(&h->mutex);
    if (up)
        h->up++;
    else
        h->away++;
    if (why != NULL)
        h->why = *why;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->mutex);
}

static void hear_message(void *ctx, const char *text)
{
    struct heard *h = ctx;

    pthread_mutex_lock(&h->mutex);
    h->messages++;
    snprintf(h->last, sizeof(h->last), "%s", text);
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->mutex);
}

static void await_heard(struct heard *h, const unsigned *what, unsigned count)
{
    pthread_mutex_lock(&h->mutex);
    while (*what < count)
        pthread_cond_wait(&h->changed, &h->mutex);
    pthread_mutex_unlock(&h->mutex);
}

static void check_ask(struct redis *r, const char *const *words, const char *wanted)
{
    char *got = real_redis_ask(r, words);

    assert_string_equal(got, wanted);
    free(got);
}

static enum err_kind ask_and_fail(struct redis *r, const char *const *words, struct err *err)
{
    struct redis_reply *reply = NULL;

    assert_int_equal(redis_ask(r, words, &reply, err), -1);
    assert_null(reply);
    return err->kind;
}

static struct redis *open_with(const struct redis_config *config)
{
    struct redis *r = NULL;
    struct err err;

    if (redis_open(config, &r, &err) != 0)
        fail_msg("%s", err.text);
    return r;
}

/* ---- what works ---- */

static void replies_are_plain_values(void **state)
{
    struct real_redis s;
    struct redis *r;
    struct redis_reply *reply;
    struct err err;

    (void)state;
    real_redis_init(&s, NULL);
    r = real_redis_open(s.tcp_url);
    real_redis_connect(r);
    check_ask(r, REDIS_WORDS("SET", "a", "b c"), "OK");
    check_ask(r, REDIS_WORDS("GET", "a"), "b c");
    check_ask(r, REDIS_WORDS("SET", "a", ""), "OK");
    check_ask(r, REDIS_WORDS("STRLEN", "a"), "0");
    check_ask(r, REDIS_WORDS("HSET", "h", "x", "1", "y", "two"), "2");
    assert_int_equal(redis_ask(r, REDIS_WORDS("HGETALL", "h"), &reply, &err), 0);
    assert_int_equal(reply->type, REDIS_ARRAY);
    assert_int_equal(reply->count, 4);
    assert_string_equal(redis_field(reply, "y"), "two");
    assert_int_equal(redis_item_integer(reply, 1), 1);
    assert_null(redis_field(reply, "z"));
    assert_null(redis_item(reply, 4));
    redis_reply_free(&reply);
    assert_int_equal(redis_ask(r, REDIS_WORDS("GET", "none"), &reply, &err), 0);
    assert_int_equal(reply->type, REDIS_NIL);
    redis_reply_free(&reply);
    redis_free(&r);
    real_redis_clear(&s);
}

static void a_unix_socket_serves_too(void **state)
{
    struct real_redis s;
    struct redis *r;

    (void)state;
    real_redis_init(&s, NULL);
    r = real_redis_open(s.unix_url);
    real_redis_connect(r);
    check_ask(r, REDIS_WORDS("PING"), "PONG");
    redis_free(&r);
    real_redis_clear(&s);
}

static void the_database_of_the_url_is_used(void **state)
{
    struct real_redis s;
    struct redis *r, *other;
    char url[80];

    (void)state;
    real_redis_init(&s, NULL);
    snprintf(url, sizeof(url), "%s/5", s.tcp_url);
    r = real_redis_open(s.tcp_url);
    other = real_redis_open(url);
    real_redis_connect(r);
    real_redis_connect(other);
    check_ask(other, REDIS_WORDS("SET", "a", "here"), "OK");
    check_ask(r, REDIS_WORDS("EXISTS", "a"), "0");
    redis_free(&other);
    redis_free(&r);
    real_redis_clear(&s);
}

static void a_no_of_redis_leaves_the_connection_as_it_was(void **state)
{
    struct real_redis s;
    struct redis *r;
    struct redis_counts counts;
    struct err err;

    (void)state;
    real_redis_init(&s, NULL);
    r = real_redis_open(s.tcp_url);
    real_redis_connect(r);
    check_ask(r, REDIS_WORDS("SET", "a", "b"), "OK");
    assert_int_equal(ask_and_fail(r, REDIS_WORDS("INCR", "a"), &err), ERR_REFUSED);
    assert_non_null(strstr(err.text, "not an integer"));
    assert_true(redis_is_up(r, NULL));
    check_ask(r, REDIS_WORDS("GET", "a"), "b");
    redis_count(r, &counts);
    assert_int_equal(counts.connected, 2); /* for subscriptions, and one for commands */
    assert_int_equal(counts.asked, 3);
    redis_free(&r);
    real_redis_clear(&s);
}

static void a_script_is_sent_again_when_redis_has_forgotten_it(void **state)
{
    struct real_redis s;
    struct redis *r;
    struct redis_script script;
    struct redis_reply *reply;
    struct err err;

    (void)state;
    real_redis_init(&s, NULL);
    r = real_redis_open(s.tcp_url);
    real_redis_connect(r);
    redis_script_init(&script, "return {KEYS[1], ARGV[1], #KEYS, #ARGV}");
    for (int i = 0; i < 3; i++) {
        if (i == 2)
            check_ask(r, REDIS_WORDS("SCRIPT", "FLUSH"), "OK");
        assert_int_equal(
            redis_run(r, &script, REDIS_WORDS("k"), REDIS_WORDS("a", "b"), &reply, &err), 0);
        assert_string_equal(redis_item_text(reply, 0), "k");
        assert_string_equal(redis_item_text(reply, 1), "a");
        assert_int_equal(redis_item_integer(reply, 2), 1);
        assert_int_equal(redis_item_integer(reply, 3), 2);
        redis_reply_free(&reply);
    }
    redis_free(&r);
    real_redis_clear(&s);
}

static void messages_come_to_who_subscribed(void **state)
{
    struct real_redis s;
    struct redis *r;
    struct heard a, b;
    char *channel;

    (void)state;
    real_redis_init(&s, NULL);
    heard_init(&a);
    heard_init(&b);
    r = real_redis_open(s.unix_url);
    redis_subscribe(r, "a", hear_message, &a);
    redis_subscribe(r, "b", hear_message, &b);
    real_redis_connect(r);
    channel = redis_key(r, "a");
    assert_string_equal(channel, "pannier:a");
    check_ask(r, REDIS_WORDS("PUBLISH", channel, "news"), "1");
    check_ask(r, REDIS_WORDS("PUBLISH", "a", "not ours"), "0");
    await_heard(&a, &a.messages, 1);
    assert_string_equal(a.last, "news");
    redis_free(&r);
    assert_int_equal(b.messages, 0);
    free(channel);
    heard_clear(&a);
    heard_clear(&b);
    real_redis_clear(&s);
}

enum { ASKERS = 8, EACH = 200 };

struct asker {
    struct redis *r;
    pthread_barrier_t *barrier;
};

static void *ask_many(void *ctx)
{
    struct asker *a = ctx;
    struct err err;

    pthread_barrier_wait(a->barrier);
    for (int i = 0; i < EACH; i++)
        must(redis_ask(a->r, REDIS_WORDS("INCR", "n"), NULL, &err) == 0);
    return NULL;
}

static void many_threads_share_few_connections(void **state)
{
    struct real_redis s;
    struct asker askers[ASKERS];
    pthread_barrier_t barrier;
    struct redis_counts counts;
    struct redis *r;
    char total[16];

    (void)state;
    real_redis_init(&s, NULL);
    r = open_with(&(struct redis_config){.url = s.unix_url, .connections = 3, .timeout_ms = 20000});
    real_redis_connect(r);
    pthread_barrier_init(&barrier, NULL, ASKERS);
    for (int i = 0; i < ASKERS; i++)
        askers[i] = (struct asker){.r = r, .barrier = &barrier};
    run_together(ASKERS, ask_many, askers, sizeof(askers[0]));
    snprintf(total, sizeof(total), "%d", ASKERS * EACH);
    check_ask(r, REDIS_WORDS("GET", "n"), total);
    redis_count(r, &counts);
    assert_in_range(counts.connected, 2, 4);
    pthread_barrier_destroy(&barrier);
    redis_free(&r);
    real_redis_clear(&s);
}

/* ---- going away and coming back ---- */

static void what_goes_away_is_told_once_and_comes_back_by_itself(void **state)
{
    struct real_redis s;
    struct heard h;
    struct redis *r;
    struct err err;

    (void)state;
    real_redis_init(&s, NULL);
    heard_init(&h);
    r = real_redis_open(s.unix_url);
    redis_watch(r, hear_change, &h);
    real_redis_connect(r);
    check_ask(r, REDIS_WORDS("PING"), "PONG");
    real_redis_kill(&s);
    await_heard(&h, &h.away, 1);
    assert_int_equal(ask_and_fail(r, REDIS_WORDS("PING"), &err), ERR_BUSY);
    assert_non_null(strstr(err.text, "Redis is away"));
    real_redis_start(&s);
    await_heard(&h, &h.up, 2);
    check_ask(r, REDIS_WORDS("PING"), "PONG");
    redis_free(&r);
    assert_int_equal(h.away, 1);
    assert_int_equal(h.up, 2);
    heard_clear(&h);
    real_redis_clear(&s);
}

static void one_that_is_not_there_at_the_start_is_found_later(void **state)
{
    struct real_redis s;
    struct heard h;
    struct redis *r;

    (void)state;
    real_redis_init(&s, NULL);
    real_redis_kill(&s);
    heard_init(&h);
    r = real_redis_open(s.tcp_url);
    redis_watch(r, hear_change, &h);
    redis_start(r);
    await_heard(&h, &h.away, 1);
    assert_non_null(strstr(h.why.text, "refused"));
    assert_false(redis_wait_up(r, 0));
    real_redis_start(&s);
    assert_true(redis_wait_up(r, REAL_REDIS_DEADLINE_MS));
    redis_free(&r);
    assert_int_equal(h.away, 1);
    heard_clear(&h);
    real_redis_clear(&s);
}

struct long_ask {
    struct redis *r;
    struct err err;
    int rc;
};

static void *ask_for_long(void *ctx)
{
    struct long_ask *a = ctx;

    a->rc = redis_ask(a->r, REDIS_WORDS("BLPOP", "nothing", "0"), NULL, &a->err);
    return NULL;
}

static bool somebody_is_blocked(struct redis *r)
{
    char *info = real_redis_ask(r, REDIS_WORDS("INFO", "clients"));
    bool blocked = strstr(info, "blocked_clients:1") != NULL;

    free(info);
    return blocked;
}

static void a_kill_in_the_middle_of_a_command_fails_it(void **state)
{
    struct real_redis s;
    struct long_ask a = {0};
    pthread_t thread;

    (void)state;
    real_redis_init(&s, NULL);
    a.r = open_with(&(struct redis_config){.url = s.unix_url, .timeout_ms = 60000});
    real_redis_connect(a.r);
    assert_int_equal(pthread_create(&thread, NULL, ask_for_long, &a), 0);
    AWAIT(somebody_is_blocked(a.r));
    real_redis_kill(&s);
    pthread_join(thread, NULL);
    assert_int_equal(a.rc, -1);
    assert_int_equal(a.err.kind, ERR_UPSTREAM);
    assert_false(redis_is_up(a.r, NULL));
    redis_free(&a.r);
    real_redis_clear(&s);
}

static void a_connection_that_was_closed_meanwhile_costs_no_command(void **state)
{
    struct real_redis s;
    struct redis *r, *other;
    struct redis_counts counts;
    struct heard h;

    (void)state;
    real_redis_init(&s, NULL);
    r = real_redis_open(s.tcp_url);
    other = real_redis_open(s.unix_url);
    heard_init(&h);
    redis_subscribe(r, "a", hear_message, &h);
    redis_subscribe(other, "a", hear_message, &h);
    real_redis_connect(r);
    real_redis_connect(other);
    check_ask(r, REDIS_WORDS("PING"), "PONG");
    /* All that aren't subscribed, but the one that says so. */
    check_ask(other, REDIS_WORDS("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"), "1");
    check_ask(r, REDIS_WORDS("PING"), "PONG");
    redis_count(r, &counts);
    assert_int_equal(counts.failed, 0);
    assert_int_equal(counts.away, 0);
    redis_free(&other);
    redis_free(&r);
    heard_clear(&h);
    real_redis_clear(&s);
}

static void one_that_hangs_costs_one_command_its_deadline(void **state)
{
    struct real_redis s;
    struct heard h;
    struct redis *r;
    struct err err;
    uint64_t start;

    (void)state;
    real_redis_init(&s, NULL);
    heard_init(&h);
    r = open_with(&(struct redis_config){.url = s.tcp_url, .timeout_ms = 300, .ping_ms = 600000});
    redis_watch(r, hear_change, &h);
    real_redis_connect(r);
    check_ask(r, REDIS_WORDS("PING"), "PONG");
    real_redis_signal(&s, SIGSTOP);
    start = now_ms();
    assert_int_equal(ask_and_fail(r, REDIS_WORDS("PING"), &err), ERR_TIMEOUT);
    assert_true(now_ms() - start >= 300);
    start = now_ms();
    for (int i = 0; i < 100; i++)
        assert_int_equal(ask_and_fail(r, REDIS_WORDS("PING"), &err), ERR_BUSY);
    assert_true(now_ms() - start < 300);
    await_heard(&h, &h.away, 1);
    real_redis_signal(&s, SIGCONT);
    await_heard(&h, &h.up, 2);
    check_ask(r, REDIS_WORDS("PING"), "PONG");
    redis_free(&r);
    heard_clear(&h);
    real_redis_clear(&s);
}

static void one_that_hangs_is_noticed_without_a_command(void **state)
{
    struct real_redis s;
    struct heard h;
    struct redis *r;

    (void)state;
    real_redis_init(&s, NULL);
    heard_init(&h);
    r = open_with(&(struct redis_config){.url = s.unix_url, .timeout_ms = 200, .ping_ms = 50});
    redis_watch(r, hear_change, &h);
    real_redis_connect(r);
    real_redis_signal(&s, SIGSTOP);
    await_heard(&h, &h.away, 1);
    assert_non_null(strstr(h.why.text, "no sign of life"));
    real_redis_signal(&s, SIGCONT);
    await_heard(&h, &h.up, 2);
    redis_free(&r);
    heard_clear(&h);
    real_redis_clear(&s);
}

static void a_stop_ends_it_also_while_it_is_away(void **state)
{
    struct real_redis s;
    struct heard h;
    struct redis *r;
    struct err err;

    (void)state;
    real_redis_init(&s, NULL);
    heard_init(&h);
    r = real_redis_open(s.unix_url);
    redis_watch(r, hear_change, &h);
    real_redis_connect(r);
    real_redis_kill(&s);
    await_heard(&h, &h.away, 1);
    redis_stop(r);
    assert_int_equal(ask_and_fail(r, REDIS_WORDS("PING"), &err), ERR_CANCELLED);
    redis_free(&r);
    heard_clear(&h);
    real_redis_clear(&s);
}

/* ---- passwords ---- */

static void check_denied(const struct redis_config *config, const char *wanted)
{
    struct redis *r = open_with(config);
    struct heard h;

    heard_init(&h);
    redis_watch(r, hear_change, &h);
    redis_start(r);
    await_heard(&h, &h.away, 1);
    redis_free(&r);
    assert_int_equal(h.why.kind, ERR_DENIED);
    if (strstr(h.why.text, wanted) == NULL)
        fail_msg("%s", h.why.text);
    assert_null(strstr(h.why.text, "hunter2"));
    heard_clear(&h);
}

static void a_wrong_password_is_named_and_not_repeated(void **state)
{
    const char *const options[] = {"--requirepass", "s3cret", NULL};
    struct real_redis s;
    char *file;

    (void)state;
    real_redis_init(&s, options);
    file = scratch_path(&s.scratch, "password");
    check_denied(&(struct redis_config){.url = s.tcp_url}, "wants a password");
    check_denied(&(struct redis_config){.url = s.tcp_url, .password_file = file}, "can't be read");
    put_file(file, "\n", 1);
    check_denied(&(struct redis_config){.url = s.tcp_url, .password_file = file},
                 "holds no password");
    put_file(file, "hunter2\n", 8);
    check_denied(&(struct redis_config){.url = s.tcp_url, .password_file = file},
                 "refused the password (WRONGPASS)");
    put_file(file, "me\nhunter2\n", 11);
    check_denied(&(struct redis_config){.url = s.tcp_url, .password_file = file},
                 "refused user and password (WRONGPASS)");
    free(file);
    real_redis_clear(&s);
}

/* Redis repeats the beginning of what it doesn't know. */
static void a_password_that_redis_repeats_stays_out_of_the_reason(void **state)
{
    const char *const options[] = {"--rename-command", "AUTH", "", NULL};
    struct real_redis s;
    char *file;

    (void)state;
    real_redis_init(&s, options);
    file = scratch_path(&s.scratch, "password");
    put_file(file, "hunter2\n", 8);
    check_denied(&(struct redis_config){.url = s.tcp_url, .password_file = file},
                 "refused the password (ERR)");
    free(file);
    real_redis_clear(&s);
}

static void a_new_password_is_read_at_the_next_connect(void **state)
{
    const char *const options[] = {"--requirepass", "s3cret", NULL};
    struct real_redis s;
    struct heard h;
    struct redis *r;
    char *file;

    (void)state;
    real_redis_init(&s, options);
    heard_init(&h);
    file = scratch_path(&s.scratch, "password");
    put_file(file, "hunter2", 7);
    r = open_with(&(struct redis_config){.url = s.tcp_url, .password_file = file});
    redis_watch(r, hear_change, &h);
    redis_start(r);
    await_heard(&h, &h.away, 1);
    put_file(file, "default\r\ns3cret\r\n", 17);
    await_heard(&h, &h.up, 1);
    check_ask(r, REDIS_WORDS("ACL", "WHOAMI"), "default");
    redis_free(&r);
    free(file);
    heard_clear(&h);
    real_redis_clear(&s);
}

/* ---- sentinel, TLS ---- */

static void start_sentinel(struct real_redis *s, const struct real_redis *master)
{
    char *conf, *text;

    *s = (struct real_redis){.port = real_redis_free_port()};
    scratch_init(&s->scratch);
    conf = scratch_path(&s->scratch, "sentinel.conf");
    text = xasprintf("sentinel monitor mymaster 127.0.0.1 %u 1\n", master->port);
    put_file(conf, text, strlen(text));
    free(text);
    free(conf);
}

static bool was_away(struct redis *r)
{
    struct redis_counts counts;

    redis_count(r, &counts);
    return counts.away > 0;
}

static void the_master_is_asked_for(void **state)
{
    struct real_redis s, sentinel;
    struct redis *r, *admin;
    char url[128], port[16];
    pid_t parent = getpid();

    (void)state;
    real_redis_init(&s, NULL);
    start_sentinel(&sentinel, &s);
    snprintf(port, sizeof(port), "%u", sentinel.port);
    sentinel.pid = fork();
    assert_true(sentinel.pid >= 0);
    if (sentinel.pid == 0) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent ||
            chdir(sentinel.scratch.dir) != 0 || freopen("/dev/null", "w", stdout) == NULL)
            _exit(126);
        execlp("redis-server", "redis-server", "sentinel.conf", "--sentinel", "--port", port,
               "--bind", "127.0.0.1", (char *)NULL);
        _exit(127);
    }
    /* The first one isn't there. */
    snprintf(url, sizeof(url), "sentinel://127.0.0.1:%u,127.0.0.1:%u/mymaster", 1u, sentinel.port);
    r = real_redis_open(url);
    real_redis_connect(r);
    check_ask(r, REDIS_WORDS("SET", "a", "b"), "OK");
    /* With no sentinel to be asked the last one is tried. */
    real_redis_kill(&sentinel);
    admin = real_redis_open(s.unix_url);
    real_redis_connect(admin);
    free(real_redis_ask(admin, REDIS_WORDS("CLIENT", "KILL", "TYPE", "pubsub")));
    free(real_redis_ask(admin, REDIS_WORDS("CLIENT", "KILL", "TYPE", "normal")));
    AWAIT(was_away(r) && redis_is_up(r, NULL));
    check_ask(r, REDIS_WORDS("GET", "a"), "b");
    redis_free(&admin);
    redis_free(&r);
    scratch_clear(&sentinel.scratch);
    real_redis_clear(&s);
}

static void a_replica_is_as_good_as_away(void **state)
{
    struct real_redis s;
    struct heard h;
    struct redis *r;
    struct err err;

    (void)state;
    real_redis_init(&s, NULL);
    heard_init(&h);
    r = real_redis_open(s.unix_url);
    redis_watch(r, hear_change, &h);
    real_redis_connect(r);
    check_ask(r, REDIS_WORDS("REPLICAOF", "127.0.0.1", "1"), "OK");
    assert_int_equal(ask_and_fail(r, REDIS_WORDS("SET", "a", "b"), &err), ERR_UPSTREAM);
    assert_non_null(strstr(err.text, "READONLY"));
    await_heard(&h, &h.away, 1);
    redis_free(&r);
    heard_clear(&h);
    real_redis_clear(&s);
}

static void what_is_wrong_with_files_for_tls_is_said_at_once(void **state)
{
    static const struct {
        struct redis_config config;
        const char *says;
    } wrong[] = {
        {{.url = "rediss://host", .ca_file = "/nowhere/ca.pem"}, "redis.ca_file: /nowhere/ca.pem"},
        {{.url = "rediss://host", .certificate = "/nowhere/c.pem", .key = "/nowhere/k.pem"},
         "redis.certificate: /nowhere/c.pem"},
        {{.url = "rediss://host", .key = "/nowhere/k.pem"}, "need each other"},
    };
    struct redis *r = NULL;
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        assert_int_equal(redis_open(&wrong[i].config, &r, &err), -1);
        assert_int_equal(err.kind, ERR_INPUT);
        assert_non_null(strstr(err.text, wrong[i].says));
    }
}

static void a_full_redis_is_busy_and_not_away(void **state)
{
    const char *const options[] = {"--maxmemory", "1", NULL};
    struct redis_script script;
    struct real_redis s;
    struct redis *r;
    struct err err;

    (void)state;
    real_redis_init(&s, options);
    r = real_redis_open(s.unix_url);
    real_redis_connect(r);
    assert_int_equal(ask_and_fail(r, REDIS_WORDS("SET", "a", "b"), &err), ERR_BUSY);
    redis_script_init(&script, "return redis.call('SET', KEYS[1], 'b')");
    assert_int_equal(redis_run(r, &script, REDIS_WORDS("a"), NULL, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_BUSY);
    assert_true(redis_is_up(r, NULL));
    redis_free(&r);
    real_redis_clear(&s);
}

static void what_redis_6_says_of_a_script_is_understood(void **state)
{
    static char text[] = "ERR Error running script (call to f_1): @user_script:1: "
                         "@user_script: 1: -READONLY You can't write against a read only replica.";
    struct redis_reply reply = {.type = REDIS_ERROR, .text = text};
    struct err err;

    (void)state;
    assert_true(redis_judge(&reply, &err));
    assert_int_equal(err.kind, ERR_UPSTREAM);
    reply.text = (char[]){"ERR no such thing as -READONLY here"};
    assert_false(redis_judge(&reply, &err));
    assert_int_equal(err.kind, ERR_REFUSED);
}

/* ---- servers that are no Redis ---- */

/* Listens, and gives every connection the same bytes after it has said something; or one after the
 * other for as long as somebody listens. */
struct liar {
    int fd;
    const char *bytes;
    bool drips;
    pthread_t thread;
};

static void drip(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};

    while (poll(&p, 1, 5) == 0 && send(fd, "+", 1, MSG_NOSIGNAL) == 1)
        ;
}

static void *lie(void *ctx)
{
    struct liar *l = ctx;
    char buf[4096];
    int fd;

    while ((fd = accept(l->fd, NULL, NULL)) >= 0) {
        if (read(fd, buf, sizeof(buf)) <= 0) {
        } else if (l->drips) {
            drip(fd);
        } else {
            (void)!send(fd, l->bytes, strlen(l->bytes), MSG_NOSIGNAL);
        }
        close(fd);
    }
    return NULL;
}

/* How a client with so long a deadline fares with such a server. */
static struct err ask_liar(struct liar *l, uint64_t timeout_ms)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    struct heard h;
    struct redis *r;
    char url[64];

    l->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(l->fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(l->fd, 8), 0);
    assert_int_equal(getsockname(l->fd, (struct sockaddr *)&a, &len), 0);
    assert_int_equal(pthread_create(&l->thread, NULL, lie, l), 0);
    snprintf(url, sizeof(url), "redis://127.0.0.1:%u", ntohs(a.sin_port));
    heard_init(&h);
    r = open_with(&(struct redis_config){.url = url, .timeout_ms = timeout_ms});
    redis_watch(r, hear_change, &h);
    redis_start(r);
    await_heard(&h, &h.away, 1);
    redis_free(&r);
    shutdown(l->fd, SHUT_RDWR);
    pthread_join(l->thread, NULL);
    close(l->fd);
    heard_clear(&h);
    return h.why;
}

static void what_is_no_reply_is_called_so(void **state)
{
    static const char *const lies[] = {
        "HTTP/1.1 400 Bad Request\r\n\r\n", "*2000000000\r\n", "$-7\r\n", "\r\n",
        "$999999999999999999999\r\n",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(lies); i++) {
        struct liar l = {.bytes = lies[i]};

        assert_int_equal(ask_liar(&l, 20000).kind, ERR_UPSTREAM);
    }
}

/* A deadline for each read would never pass. */
static void one_that_drips_does_not_outlast_the_deadline(void **state)
{
    struct liar l = {.drips = true};

    (void)state;
    assert_int_equal(ask_liar(&l, 200).kind, ERR_TIMEOUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replies_are_plain_values),
        cmocka_unit_test(a_unix_socket_serves_too),
        cmocka_unit_test(the_database_of_the_url_is_used),
        cmocka_unit_test(a_no_of_redis_leaves_the_connection_as_it_was),
        cmocka_unit_test(a_script_is_sent_again_when_redis_has_forgotten_it),
        cmocka_unit_test(messages_come_to_who_subscribed),
        cmocka_unit_test(many_threads_share_few_connections),
        cmocka_unit_test(what_goes_away_is_told_once_and_comes_back_by_itself),
        cmocka_unit_test(one_that_is_not_there_at_the_start_is_found_later),
        cmocka_unit_test(a_kill_in_the_middle_of_a_command_fails_it),
        cmocka_unit_test(a_connection_that_was_closed_meanwhile_costs_no_command),
        cmocka_unit_test(one_that_hangs_costs_one_command_its_deadline),
        cmocka_unit_test(one_that_hangs_is_noticed_without_a_command),
        cmocka_unit_test(a_stop_ends_it_also_while_it_is_away),
        cmocka_unit_test(a_wrong_password_is_named_and_not_repeated),
        cmocka_unit_test(a_password_that_redis_repeats_stays_out_of_the_reason),
        cmocka_unit_test(a_new_password_is_read_at_the_next_connect),
        cmocka_unit_test(the_master_is_asked_for),
        cmocka_unit_test(a_replica_is_as_good_as_away),
        cmocka_unit_test(what_is_wrong_with_files_for_tls_is_said_at_once),
        cmocka_unit_test(a_full_redis_is_busy_and_not_away),
        cmocka_unit_test(what_redis_6_says_of_a_script_is_understood),
        cmocka_unit_test(what_is_no_reply_is_called_so),
        cmocka_unit_test(one_that_drips_does_not_outlast_the_deadline),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
