#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/cluster/events.h"
#include "real_redis.h"

#define REPO  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define OTHER "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

enum { LONG_MS = 60000, TTL_MS = 20000 };

/* ---- a node with a handler that takes notes ---- */

struct notes {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    char text[4096]; /* a word for each: "missed", or the event's name or reason */
    unsigned applied, missed;
    unsigned fail; /* so many times more */
    bool shut;     /* wait before applying */
    bool inside;   /* somebody waits there */
    char position[EVENT_ID_SIZE];
};

struct member {
    struct notes notes;
    struct redis *redis;
    struct nodes *nodes;
    struct events *events;
};

static void note(struct notes *n, const char *word)
{
    snprintf(n->text + strlen(n->text), sizeof(n->text) - strlen(n->text), "%s ", word);
    pthread_cond_broadcast(&n->changed);
}

static void wait_at_gate(struct notes *n)
{
    n->inside = true;
    pthread_cond_broadcast(&n->changed);
    while (n->shut)
        pthread_cond_wait(&n->changed, &n->mutex);
    n->inside = false;
}

static int apply(void *ctx, const char *id, const struct event *event, struct err *err)
{
    struct notes *n = ctx;
    int rc = 0;

    pthread_mutex_lock(&n->mutex);
    wait_at_gate(n);
    if (n->fail > 0) {
        n->fail--;
        rc = err_set(err, ERR_STORAGE, "not now");
        note(n, "failed");
    } else {
        must(id[0] != '\0' && event->node[0] != '\0');
        n->applied++;
        note(n, event->reason[0] != '\0' ? event->reason : event_kind_name(event->kind));
    }
    pthread_mutex_unlock(&n->mutex);
    return rc;
}

static int missed(void *ctx, const char *why, struct err *err)
{
    struct notes *n = ctx;

    (void)why;
    (void)err;
    pthread_mutex_lock(&n->mutex);
    wait_at_gate(n);
    n->missed++;
    note(n, "missed");
    pthread_mutex_unlock(&n->mutex);
    return 0;
}

static void keep_position(void *ctx, const char *position)
{
    struct notes *n = ctx;

    pthread_mutex_lock(&n->mutex);
    strcpy(n->position, position);
    pthread_mutex_unlock(&n->mutex);
}

/* Has it been told a position that holds this? */
static bool is_at(struct notes *n, const char *part)
{
    bool is;

    pthread_mutex_lock(&n->mutex);
    is = n->position[0] != '\0' && strstr(n->position, part) != NULL;
    pthread_mutex_unlock(&n->mutex);
    return is;
}

static void await_note(struct notes *n, const unsigned *what, unsigned count)
{
    pthread_mutex_lock(&n->mutex);
    while (*what < count)
        pthread_cond_wait(&n->changed, &n->mutex);
    pthread_mutex_unlock(&n->mutex);
}

static void set_gate(struct notes *n, bool shut)
{
    pthread_mutex_lock(&n->mutex);
    n->shut = shut;
    pthread_cond_broadcast(&n->changed);
    pthread_mutex_unlock(&n->mutex);
}

static void await_inside(struct notes *n)
{
    pthread_mutex_lock(&n->mutex);
    while (!n->inside)
        pthread_cond_wait(&n->changed, &n->mutex);
    pthread_mutex_unlock(&n->mutex);
}

static void member_start(struct member *m, const char *url, const char *id, const char *position,
                         uint64_t ttl_ms, const struct events_config *config)
{
    struct nodes_config nodes = {
        .id = id, .address = "", .version = "0.1", .heartbeat_ms = ttl_ms / 10, .ttl_ms = ttl_ms};
    struct events_handler handler = {
        .apply = apply, .missed = missed, .position = keep_position, .ctx = &m->notes};
    struct err err;

    pthread_mutex_init(&m->notes.mutex, NULL);
    pthread_cond_init(&m->notes.changed, NULL);
    m->redis = url != NULL ? real_redis_open(url) : NULL;
    assert_int_equal(nodes_new(m->redis, &nodes, &m->nodes, &err), 0);
    m->events = events_new(m->redis, m->nodes, &handler, position, config);
    if (m->redis != NULL)
        real_redis_connect(m->redis);
    AWAIT(events_caught_up(m->events, now_ms()));
}

static void member_init(struct member *m, const char *url, const char *id)
{
    *m = (struct member){0};
    member_start(m, url, id, NULL, TTL_MS, &(struct events_config){0});
}

static void member_stop(struct member *m)
{
    if (m->redis != NULL)
        redis_stop(m->redis);
    events_free(&m->events);
    nodes_free(&m->nodes);
    redis_free(&m->redis);
    pthread_cond_destroy(&m->notes.changed);
    pthread_mutex_destroy(&m->notes.mutex);
}

static struct event invalidation(const char *reason)
{
    return (struct event){.kind = EVENT_INVALIDATE,
                          .scope = SCOPE_REPOSITORY,
                          .repo_id = REPO,
                          .repo = "github.com/a/b",
                          .name = "",
                          .reason = reason,
                          .node = ""};
}

static void send_it(struct member *m, const char *reason, char id[EVENT_ID_SIZE])
{
    struct event event = invalidation(reason);
    struct err err;

    if (events_send(m->events, &event, id, &err) != 0)
        fail_msg("%s", err.text);
}

static void await_applied(struct member *m, const char *id)
{
    struct err err;

    if (events_wait_applied(m->events, id, LONG_MS, NULL, &err) != 0)
        fail_msg("%s", err.text);
}

/* ---- the format ---- */

static struct redis_reply **make_items(const char **words, size_t n)
{
    struct redis_reply **items = xcalloc(n, sizeof(*items));

    for (size_t i = 0; i < n; i++) {
        items[i] = xcalloc(1, sizeof(**items));
        items[i]->type = REDIS_TEXT;
        items[i]->text = xstrdup(words[i]);
        items[i]->len = strlen(words[i]);
    }
    return items;
}

static struct redis_reply *make_fields(const char **words, size_t n)
{
    struct redis_reply *r = xcalloc(1, sizeof(*r));

    r->type = REDIS_ARRAY;
    r->items = make_items(words, n);
    r->count = n;
    return r;
}

static void what_is_written_is_read(void **state)
{
    struct event e = {.kind = EVENT_UPDATE,
                      .repo_id = REPO,
                      .generation = 1234567890123,
                      .repo = "github.com/a/b",
                      .name = "refs/heads/\xff\n",
                      .reason = "webhook",
                      .node = "n1"},
                 out;
    const char *words[EVENT_WORDS_MAX];
    char generation[REDIS_NUMBER_SIZE];
    struct redis_reply *fields;
    struct err err;
    size_t n;

    (void)state;
    n = event_write(&e, words, 0, generation, &err);
    assert_true(n > 0 && n <= EVENT_WORDS_MAX);
    fields = make_fields(words, n);
    assert_int_equal(event_read(fields, &out, &err), 0);
    assert_int_equal(out.kind, EVENT_UPDATE);
    assert_string_equal(out.repo_id, REPO);
    assert_int_equal(out.generation, e.generation);
    assert_string_equal(out.repo, e.repo);
    assert_string_equal(out.name, e.name);
    assert_string_equal(out.reason, e.reason);
    assert_string_equal(out.node, e.node);
    redis_reply_free(&fields);
}

static void a_removal_takes_pins_along_and_nothing_else_does(void **state)
{
    struct event e = {.kind = EVENT_INVALIDATE,
                      .scope = SCOPE_REPOSITORY,
                      .repo_id = REPO,
                      .repo = "github.com/a/b",
                      .name = "",
                      .reason = "",
                      .node = "n1",
                      .unpin = true},
                 out;
    const char *words[EVENT_WORDS_MAX];
    char generation[REDIS_NUMBER_SIZE];
    struct redis_reply *fields;
    struct err err;

    (void)state;
    fields = make_fields(words, event_write(&e, words, 0, generation, &err));
    assert_int_equal(event_read(fields, &out, &err), 0);
    assert_true(out.unpin);
    assert_string_equal(out.unpin_id, "");
    redis_reply_free(&fields);
    strcpy(e.unpin_id, "1700000000000-3 0123456789abcdef");
    fields = make_fields(words, event_write(&e, words, 0, generation, &err));
    assert_int_equal(event_read(fields, &out, &err), 0);
    assert_true(out.unpin);
    assert_string_equal(out.unpin_id, e.unpin_id);
    redis_reply_free(&fields);
    e.unpin = false;
    fields = make_fields(words, event_write(&e, words, 0, generation, &err));
    assert_int_equal(event_read(fields, &out, &err), 0);
    assert_false(out.unpin);
    redis_reply_free(&fields);
    e.unpin = true;
    e.scope = SCOPE_REF;
    e.name = "refs/heads/main";
    fields = make_fields(words, event_write(&e, words, 0, generation, &err));
    assert_int_equal(event_read(fields, &out, &err), 0);
    assert_false(out.unpin);
    redis_reply_free(&fields);
}

static void an_id_tells_when_it_was_sent(void **state)
{
    (void)state;
    assert_int_equal(event_id_ms("1700000000000-3 0123456789abcdef"), 1700000000000);
    assert_int_equal(event_id_ms("1700000000000-0"), 1700000000000);
    assert_int_equal(event_id_ms(""), 0);
    assert_int_equal(event_id_ms("1"), 0);
    assert_int_equal(event_id_ms("-1-0"), 0);
    assert_int_equal(event_id_ms("9999999999999999999999-0"), 0);
}

static void what_lacks_something_is_not_sent(void **state)
{
    const struct event bad[] = {
        {.kind = EVENT_UPDATE, .repo = "", .name = "", .reason = "", .node = ""},
        {.kind = EVENT_UPDATE, .repo_id = "abc", .repo = "", .name = "", .reason = "", .node = ""},
        {.kind = EVENT_INVALIDATE,
         .scope = SCOPE_REF,
         .repo_id = REPO,
         .repo = "",
         .name = "",
         .reason = "",
         .node = ""},
        {.kind = EVENT_INVALIDATE,
         .scope = SCOPE_OBJECT,
         .repo = "",
         .name = "",
         .reason = "",
         .node = ""},
    };
    const char *words[EVENT_WORDS_MAX];
    char generation[REDIS_NUMBER_SIZE];
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(event_write(&bad[i], words, 0, generation, &err), 0);
        assert_int_equal(err.kind, ERR_INPUT);
    }
}

static void a_scope_of_later_versions_is_everything(void **state)
{
    const char *words[] = {"kind", "invalidate", "scope", "branch-pattern"};
    struct redis_reply *fields = make_fields(words, 4);
    struct event out;
    struct err err;

    (void)state;
    assert_int_equal(event_read(fields, &out, &err), 0);
    assert_int_equal(out.scope, SCOPE_EVERYTHING);
    redis_reply_free(&fields);
}

static void ids_are_compared_as_numbers(void **state)
{
    (void)state;
    assert_true(event_id_compare("9-0", "10-0") < 0);
    assert_true(event_id_compare("10-9", "10-10") < 0);
    assert_true(event_id_compare("10-1", "10-1") == 0);
    assert_true(event_id_compare("11-0", "10-99") > 0);
    assert_true(event_id_compare("", "0-1") < 0);
}

/* ---- both ways ---- */

static void check_order(struct member *a, struct member *b)
{
    char id[EVENT_ID_SIZE], text[512] = "";

    for (int i = 0; i < 20; i++) {
        char reason[16];

        snprintf(reason, sizeof(reason), "%d", i);
        send_it(i % 2 ? a : b, reason, id);
        strcat(strcat(text, reason), " ");
    }
    await_applied(a, id);
    assert_non_null(strstr(a->notes.text, text));
    assert_non_null(strstr(b->notes.text, text));
    assert_string_equal(b->notes.text + strlen(b->notes.text) - strlen(text), text);
}

/* Alone, or two of them. */
static void both_ways(void (*check)(struct member *a, struct member *b))
{
    struct real_redis s;
    struct member a, b;

    member_init(&a, NULL, "alone");
    check(&a, &a);
    member_stop(&a);
    real_redis_init(&s, NULL);
    member_start((a = (struct member){0}, &a), s.unix_url, "a", NULL, 2000,
                 &(struct events_config){0});
    member_start((b = (struct member){0}, &b), s.unix_url, "b", NULL, 2000,
                 &(struct events_config){0});
    check(&a, &b);
    member_stop(&a);
    member_stop(&b);
    real_redis_clear(&s);
}

static void all_nodes_apply_all_events_in_one_order(void **state)
{
    (void)state;
    both_ways(check_order);
}

/* What was kept before events_applied() was asked, and is there still, has survived all up to that:
 * so the number is that of the last one applied, and all later ones have larger ones. */
static void check_applied(struct member *a, struct member *b)
{
    char first[EVENT_ID_SIZE], second[EVENT_ID_SIZE], at[EVENT_ID_SIZE];

    send_it(a, "first", first);
    await_applied(a, first);
    events_applied(b->events, at);
    assert_true(event_id_compare(at, first) >= 0);
    set_gate(&b->notes, true);
    send_it(a, "second", second);
    assert_true(event_id_compare(at, second) < 0);
    await_inside(&b->notes);
    events_applied(b->events, at);
    assert_true(event_id_compare(at, second) < 0);
    set_gate(&b->notes, false);
    await_applied(a, second);
    events_applied(b->events, at);
    assert_true(event_id_compare(at, second) >= 0);
}

static void what_is_applied_is_older_than_what_is_to_come(void **state)
{
    (void)state;
    both_ways(check_applied);
}

/* Its notes of before are of a clock that went ahead. */
static void alone_a_clock_that_was_set_back_counts_on(void **state)
{
    struct member a;
    char at[EVENT_ID_SIZE], id[EVENT_ID_SIZE];
    const char *ahead = "99999999999999-7";

    (void)state;
    member_init(&a, NULL, "alone");
    events_applied(a.events, at);
    assert_true(event_id_compare(at, ahead) < 0);
    events_raise(a.events, ahead);
    events_raise(a.events, "1000-0");
    events_applied(a.events, at);
    assert_true(event_id_compare(at, ahead) > 0);
    send_it(&a, "first", id);
    assert_true(event_id_compare(id, at) > 0);
    await_applied(&a, id);
    member_stop(&a);
}

static void check_retry(struct member *a, struct member *b)
{
    char id[EVENT_ID_SIZE];

    pthread_mutex_lock(&b->notes.mutex);
    b->notes.fail = 2;
    pthread_mutex_unlock(&b->notes.mutex);
    send_it(a, "first", id);
    send_it(a, "second", id);
    await_applied(a, id);
    assert_non_null(strstr(b->notes.text, "failed failed first second "));
}

static void what_can_not_be_applied_is_tried_again_before_anything_else(void **state)
{
    (void)state;
    both_ways(check_retry);
}

static void check_wait(struct member *a, struct member *b)
{
    char id[EVENT_ID_SIZE];
    struct err err;

    set_gate(&b->notes, true);
    send_it(a, "x", id);
    assert_int_equal(events_wait_applied(a->events, id, 50, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_TIMEOUT);
    set_gate(&b->notes, false);
    await_applied(a, id);
    assert_non_null(strstr(b->notes.text, "x "));
}

static void the_sender_can_wait_until_all_have_applied_it(void **state)
{
    (void)state;
    both_ways(check_wait);
}

/* ---- with Redis ---- */

static void who_is_late_is_named(void **state)
{
    struct real_redis s;
    struct member a, b;
    struct node_list late;
    char id[EVENT_ID_SIZE];
    struct err err;

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, "a");
    member_init(&b, s.unix_url, "node-b");
    set_gate(&b.notes, true);
    send_it(&a, "x", id);
    await_inside(&b.notes);
    assert_int_equal(events_wait_applied(a.events, id, 300, &late, &err), -1);
    assert_int_equal(err.kind, ERR_TIMEOUT);
    assert_int_equal(late.count, 1);
    assert_string_equal(late.nodes[0].id, "node-b");
    assert_non_null(strstr(err.text, "node-b"));
    node_list_clear(&late);
    set_gate(&b.notes, false);
    member_stop(&a);
    member_stop(&b);
    real_redis_clear(&s);
}

/* For whoever would take something from it. */
static void who_has_yet_to_apply_what_another_has_begun_is_told_from_who_has(void **state)
{
    char id[EVENT_ID_SIZE], begun[EVENT_ID_SIZE], applied[EVENT_ID_SIZE];
    struct real_redis s;
    struct member a, b;

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, "a");
    member_init(&b, s.unix_url, "b");
    events_seen(a.events, begun, applied);
    assert_string_equal(begun, applied);
    assert_true(events_are_seen(b.events, begun));
    assert_true(events_are_seen(b.events, ""));
    set_gate(&b.notes, true);
    send_it(&a, "x", id);
    await_note(&a.notes, &a.notes.applied, 1);
    await_inside(&b.notes);
    /* It is begun before anything is done about it, and applied when all is. */
    events_seen(b.events, begun, applied);
    assert_string_equal(begun, id);
    assert_int_equal(event_id_compare(applied, id), -1);
    assert_false(events_are_seen(b.events, id));
    set_gate(&b.notes, false);
    AWAIT(events_are_seen(a.events, id) && events_are_seen(b.events, id));
    member_stop(&a);
    member_stop(&b);
    real_redis_clear(&s);
}

static void a_push_is_nothing_that_another_must_have_heard_of(void **state)
{
    char id[EVENT_ID_SIZE], before[EVENT_ID_SIZE], begun[EVENT_ID_SIZE], applied[EVENT_ID_SIZE];
    struct event event = {
        .kind = EVENT_UPDATE, .repo_id = REPO, .repo = "", .name = "", .reason = "", .node = ""};
    struct real_redis s;
    struct member a;
    struct err err;

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, "a");
    events_seen(a.events, before, applied);
    assert_int_equal(events_send(a.events, &event, id, &err), 0);
    AWAIT(events_are_seen(a.events, id));
    events_seen(a.events, begun, applied);
    assert_string_equal(begun, before);
    assert_string_equal(applied, id);
    member_stop(&a);
    real_redis_clear(&s);
}

static void a_new_node_forgets_what_it_holds_and_goes_on_from_there(void **state)
{
    struct real_redis s;
    struct member a, b;
    char id[EVENT_ID_SIZE];

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, "a");
    send_it(&a, "before", id);
    member_init(&b, s.unix_url, "b");
    send_it(&a, "after", id);
    await_note(&b.notes, &b.notes.applied, 1);
    assert_string_equal(b.notes.text, "missed after ");
    member_stop(&a);
    member_stop(&b);
    real_redis_clear(&s);
}

static void a_node_that_was_away_applies_what_it_missed(void **state)
{
    struct real_redis s;
    struct member a, b;
    char id[EVENT_ID_SIZE], position[EVENT_ID_SIZE];

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, "a");
    member_init(&b, s.unix_url, "b");
    send_it(&a, "1", id);
    await_note(&b.notes, &b.notes.applied, 1);
    AWAIT(events_caught_up(b.events, now_ms()));
    member_stop(&b);
    strcpy(position, b.notes.position);
    /* More than one look brings. */
    for (int i = 0; i < 250; i++)
        send_it(&a, "2", id);
    b = (struct member){0};
    member_start(&b, s.unix_url, "b", position, TTL_MS, &(struct events_config){0});
    /* Caught up: it has them all. */
    assert_int_equal(b.notes.applied, 250);
    assert_int_equal(b.notes.missed, 0);
    member_stop(&a);
    member_stop(&b);
    real_redis_clear(&s);
}

static void a_stream_that_was_cut_beyond_us_means_missed(void **state)
{
    struct real_redis s;
    struct member a, b;
    char id[EVENT_ID_SIZE], position[EVENT_ID_SIZE], *key;

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, "a");
    member_init(&b, s.unix_url, "b");
    send_it(&a, "1", id);
    await_note(&b.notes, &b.notes.applied, 1);
    AWAIT(is_at(&b.notes, ""));
    member_stop(&b);
    strcpy(position, b.notes.position);
    for (int i = 0; i < 5; i++)
        send_it(&a, "2", id);
    key = redis_key(a.redis, "events");
    free(real_redis_ask(a.redis, REDIS_WORDS("XTRIM", key, "MAXLEN", "3")));
    b = (struct member){0};
    member_start(&b, s.unix_url, "b", position, TTL_MS, &(struct events_config){0});
    assert_string_equal(b.notes.text, "missed ");
    send_it(&a, "3", id);
    await_note(&b.notes, &b.notes.applied, 1);
    assert_string_equal(b.notes.text, "missed 3 ");
    free(key);
    member_stop(&a);
    member_stop(&b);
    real_redis_clear(&s);
}

static void the_stream_is_cut_to_about_what_is_to_be_kept(void **state)
{
    struct real_redis s;
    struct member a = {0};
    char id[EVENT_ID_SIZE], *key, *length;

    (void)state;
    real_redis_init(&s, NULL);
    member_start(&a, s.unix_url, "a", NULL, TTL_MS, &(struct events_config){.keep = 100});
    for (int i = 0; i < 500; i++)
        send_it(&a, "x", id);
    key = redis_key(a.redis, "events");
    length = real_redis_ask(a.redis, REDIS_WORDS("XLEN", key));
    assert_in_range(strtol(length, NULL, 10), 100, 300);
    free(length);
    free(key);
    member_stop(&a);
    real_redis_clear(&s);
}

static void redis_empty_again_means_missed_before_anything_is_served(void **state)
{
    struct real_redis s;
    struct member a;
    char id[EVENT_ID_SIZE];

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, "a");
    send_it(&a, "1", id);
    await_note(&a.notes, &a.notes.applied, 1);
    set_gate(&a.notes, true);
    real_redis_kill(&s);
    AWAIT(!events_caught_up(a.events, now_ms()));
    real_redis_start(&s);
    await_inside(&a.notes); /* it is being told, and has not done it */
    assert_false(events_caught_up(a.events, now_ms()));
    set_gate(&a.notes, false);
    AWAIT(events_caught_up(a.events, now_ms()));
    assert_string_equal(a.notes.text, "missed 1 missed ");
    member_stop(&a);
    real_redis_clear(&s);
}

/* As after a failover to a replica that lagged behind. */
static void a_stream_with_another_past_means_missed(void **state)
{
    struct real_redis s;
    struct member a, b;
    struct redis_reply *dump = NULL;
    char id[EVENT_ID_SIZE], position[EVENT_ID_SIZE], *key, *copy;

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, "a");
    member_init(&b, s.unix_url, "b");
    send_it(&a, "1", id);
    key = redis_key(a.redis, "events");
    copy = redis_key(a.redis, "older");
    free(real_redis_ask(a.redis, REDIS_WORDS("COPY", key, copy)));
    send_it(&a, "lost", id);
    await_note(&b.notes, &b.notes.applied, 2);
    AWAIT(is_at(&b.notes, id));
    member_stop(&b);
    strcpy(position, b.notes.position);
    free(real_redis_ask(a.redis, REDIS_WORDS("RENAME", copy, key)));
    for (int i = 0; i < 3; i++)
        send_it(&a, "other", id);
    b = (struct member){0};
    member_start(&b, s.unix_url, "b", position, TTL_MS, &(struct events_config){0});
    assert_string_equal(b.notes.text, "missed ");
    redis_reply_free(&dump);
    free(key);
    free(copy);
    member_stop(&a);
    member_stop(&b);
    real_redis_clear(&s);
}

static void an_event_that_redis_lost_is_no_success(void **state)
{
    struct real_redis s;
    struct member a;
    char id[EVENT_ID_SIZE], *key;
    struct err err;

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, "a");
    send_it(&a, "1", id);
    key = redis_key(a.redis, "events");
    free(real_redis_ask(a.redis, REDIS_WORDS("DEL", key)));
    assert_int_equal(events_wait_applied(a.events, id, LONG_MS, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    free(key);
    member_stop(&a);
    real_redis_clear(&s);
}

static void a_cut_connection_stops_serving_until_all_is_applied(void **state)
{
    struct real_redis s;
    struct member a, b;
    char id[EVENT_ID_SIZE];

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, "a");
    member_init(&b, s.unix_url, "b");
    set_gate(&b.notes, true);
    send_it(&a, "x", id);
    await_inside(&b.notes);
    /* Both lose their subscriptions. */
    free(real_redis_ask(a.redis, REDIS_WORDS("CLIENT", "KILL", "TYPE", "pubsub")));
    AWAIT(!events_caught_up(b.events, now_ms()));
    AWAIT(redis_is_up(b.redis, NULL));
    assert_false(events_caught_up(b.events, now_ms()));
    set_gate(&b.notes, false);
    AWAIT(events_caught_up(b.events, now_ms()));
    assert_non_null(strstr(b.notes.text, "x "));
    member_stop(&a);
    member_stop(&b);
    real_redis_clear(&s);
}

static void a_dead_node_is_not_waited_for_and_does_not_serve(void **state)
{
    struct real_redis s;
    struct member a = {0}, b = {0};
    char id[EVENT_ID_SIZE];

    (void)state;
    real_redis_init(&s, NULL);
    member_start(&a, s.unix_url, "a", NULL, 500, &(struct events_config){0});
    member_start(&b, s.unix_url, "b", NULL, 500, &(struct events_config){0});
    redis_stop(b.redis); /* as if cut off: nothing goes out, and nobody tells it so */
    send_it(&a, "x", id);
    await_applied(&a, id);
    assert_false(events_caught_up(b.events, now_ms()));
    member_stop(&a);
    member_stop(&b);
    real_redis_clear(&s);
}

static void after_a_restart_of_redis_nobody_is_forgotten(void **state)
{
    struct real_redis s;
    struct member a = {0};
    char id[EVENT_ID_SIZE];
    struct node_list late;
    struct err err;

    (void)state;
    real_redis_init(&s, NULL);
    member_start(&a, s.unix_url, "a", NULL, TTL_MS, &(struct events_config){0});
    send_it(&a, "x", id);
    await_note(&a.notes, &a.notes.applied, 1);
    /* This Redis is young: others may be alive that have not told it. */
    assert_int_equal(events_wait_applied(a.events, id, 100, &late, &err), -1);
    assert_int_equal(err.kind, ERR_TIMEOUT);
    assert_non_null(strstr(err.text, "restarted"));
    assert_int_equal(late.count, 0);
    node_list_clear(&late);
    member_stop(&a);
    real_redis_clear(&s);
}

static void a_damaged_position_is_as_good_as_none(void **state)
{
    static const char *const positions[] = {
        "x", "1-1", "1-2-3 t", "- t", "99999999999999999999-0 t", " t", "1-1 t"};
    struct real_redis s;
    struct member a;

    (void)state;
    real_redis_init(&s, NULL);
    for (size_t i = 0; i < ARRAY_LEN(positions); i++) {
        a = (struct member){0};
        member_start(&a, s.unix_url, "a", positions[i], TTL_MS, &(struct events_config){0});
        assert_string_equal(a.notes.text, "missed ");
        member_stop(&a);
    }
    real_redis_clear(&s);
}

static void what_is_not_understood_is_skipped_or_taken_for_the_worst(void **state)
{
    struct real_redis s;
    struct member a;
    struct events_counts counts;
    char id[EVENT_ID_SIZE], *key;

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, "a");
    key = redis_key(a.redis, "events");
    free(real_redis_ask(a.redis, REDIS_WORDS("XADD", key, "*", "token", "t", "kind", "party")));
    free(real_redis_ask(
        a.redis, REDIS_WORDS("XADD", key, "*", "kind", "invalidate", "scope", "repository")));
    send_it(&a, "x", id);
    await_note(&a.notes, &a.notes.applied, 1);
    assert_string_equal(a.notes.text, "missed missed x ");
    events_count(a.events, &counts);
    assert_int_equal(counts.skipped, 1);
    assert_int_equal(counts.missed, 2);
    free(key);
    member_stop(&a);
    real_redis_clear(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(a_removal_takes_pins_along_and_nothing_else_does),
        cmocka_unit_test(an_id_tells_when_it_was_sent),
        cmocka_unit_test(what_lacks_something_is_not_sent),
        cmocka_unit_test(a_scope_of_later_versions_is_everything),
        cmocka_unit_test(ids_are_compared_as_numbers),
        cmocka_unit_test(all_nodes_apply_all_events_in_one_order),
        cmocka_unit_test(what_is_applied_is_older_than_what_is_to_come),
        cmocka_unit_test(alone_a_clock_that_was_set_back_counts_on),
        cmocka_unit_test(what_can_not_be_applied_is_tried_again_before_anything_else),
        cmocka_unit_test(the_sender_can_wait_until_all_have_applied_it),
        cmocka_unit_test(who_is_late_is_named),
        cmocka_unit_test(who_has_yet_to_apply_what_another_has_begun_is_told_from_who_has),
        cmocka_unit_test(a_push_is_nothing_that_another_must_have_heard_of),
        cmocka_unit_test(a_new_node_forgets_what_it_holds_and_goes_on_from_there),
        cmocka_unit_test(a_node_that_was_away_applies_what_it_missed),
        cmocka_unit_test(a_stream_that_was_cut_beyond_us_means_missed),
        cmocka_unit_test(the_stream_is_cut_to_about_what_is_to_be_kept),
        cmocka_unit_test(redis_empty_again_means_missed_before_anything_is_served),
        cmocka_unit_test(a_stream_with_another_past_means_missed),
        cmocka_unit_test(an_event_that_redis_lost_is_no_success),
        cmocka_unit_test(a_cut_connection_stops_serving_until_all_is_applied),
        cmocka_unit_test(a_dead_node_is_not_waited_for_and_does_not_serve),
        cmocka_unit_test(after_a_restart_of_redis_nobody_is_forgotten),
        cmocka_unit_test(a_damaged_position_is_as_good_as_none),
        cmocka_unit_test(what_is_not_understood_is_skipped_or_taken_for_the_worst),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
