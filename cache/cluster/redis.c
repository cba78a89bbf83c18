#include "cache/cluster/redis.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "cache/cluster/redis_connection.h"
#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/digest.h"

enum {
    TIMEOUT_DEFAULT_MS = 1000,
    PING_DEFAULT_MS = 1000,
    CONNECTIONS_DEFAULT = 4,
    BACKOFF_FIRST_MS = 20,
    BACKOFF_MAX_MS = 5000,
    /* A connection that lived for less doesn't count as a success: else a server that accepts and
     * closes would be asked fifty times a second. */
    GOOD_AFTER_MS = 1000,
};

struct subscription {
    const char *channel;
    char *full; /* with the prefix */
    redis_message_fn *fn;
    void *ctx;
};
struct watcher {
    redis_watch_fn *fn;
    void *ctx;
};

struct redis {
    struct redis_place *place;
    char *prefix;
    uint64_t timeout_ms, ping_ms;
    struct subscription subscriptions[REDIS_LISTENERS_MAX];
    struct watcher watchers[REDIS_LISTENERS_MAX];
    size_t subscription_count, watcher_count;

    pthread_t thread;
    bool started;
    int wake; /* an eventfd: something changed that the thread has to look at */

    struct lock lock;
    pthread_cond_t changed; /* a connection was given back; up or stopping has changed */
    bool up, stopping;      /* under lock, as all below */
    struct err why;         /* while it isn't up */
    unsigned epoch; /* counts the times that it went away: older connections are of no use */
    unsigned open_count, open_max, idle_count;
    struct redis_connection *idle[REDIS_CONNECTIONS_MAX]; /* of this epoch; the last used is last */
    struct redis_counts counts;
};

/* ---- the state ---- */

static void wake_thread(struct redis *r)
{
    uint64_t one = 1;

    /* Fails only when it is far from zero, and then it wakes as well. */
    (void)!write(r->wake, &one, sizeof(one));
}

/* Redis is away, says somebody who has just found out.  epoch: of the connection that it was found
 * out with; what an old one says is of no interest. */
static void put_away(struct redis *r, unsigned epoch, const struct err *why)
{
    struct redis_connection *idle[REDIS_CONNECTIONS_MAX];
    unsigned count = 0;

    lock_take(&r->lock);
    if (epoch == r->epoch && r->up) {
        r->up = false;
        r->why = *why;
        r->epoch++;
        r->counts.away++;
        count = r->idle_count;
        memcpy(idle, r->idle, count * sizeof(idle[0]));
        r->idle_count = 0;
        r->open_count -= count;
        pthread_cond_broadcast(&r->changed);
    }
    lock_drop(&r->lock);
    for (unsigned i = 0; i < count; i++)
        redis_connection_free(&idle[i]);
    wake_thread(r);
}

bool redis_is_up(struct redis *r, struct err *why)
{
    bool up;

    lock_take(&r->lock);
    up = r->up;
    if (!up && why != NULL)
        *why = r->why;
    lock_drop(&r->lock);
    return up;
}

bool redis_wait_up(struct redis *r, uint64_t timeout_ms)
{
    uint64_t deadline = now_ms() + timeout_ms;
    bool up;

    lock_take(&r->lock);
    while (!r->up && !r->stopping && lock_wait_until(&r->lock, &r->changed, deadline))
        ;
    up = r->up;
    lock_drop(&r->lock);
    return up;
}

char *redis_key(const struct redis *r, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    must(n >= 0 && (size_t)n < sizeof(text));
    return xasprintf("%s%s", r->prefix, text);
}

const char *redis_name(const struct redis *r)
{
    return redis_place_name(r->place);
}

void redis_count(struct redis *r, struct redis_counts *out)
{
    lock_take(&r->lock);
    *out = r->counts;
    lock_drop(&r->lock);
}

/* ---- connections for commands ---- */

static int refuse_locked(struct redis *r, struct err *err)
{
    if (r->stopping)
        return err_set(err, ERR_CANCELLED, "Redis is no longer asked: this node stops");
    r->counts.refused++;
    return err_set(err, ERR_BUSY, "Redis is away: %s", r->why.text);
}

/* 0: a place among the connections is ours; *out one that was used before, or NULL. */
static int claim(struct redis *r, uint64_t deadline_ms, struct redis_connection **out,
                 unsigned *epoch, struct err *err)
{
    int rc = 0;

    *out = NULL;
    lock_take(&r->lock);
    while (r->up && !r->stopping && r->idle_count == 0 && r->open_count == r->open_max && rc == 0) {
        if (!lock_wait_until(&r->lock, &r->changed, deadline_ms))
            rc = err_set(err, ERR_BUSY, "all %u connections to Redis were in use", r->open_max);
    }
    *epoch = r->epoch;
    if (rc == 0 && (r->stopping || !r->up))
        rc = refuse_locked(r, err);
    else if (rc == 0 && r->idle_count > 0)
        *out = r->idle[--r->idle_count];
    else if (rc == 0)
        r->open_count++;
    lock_drop(&r->lock);
    return rc;
}

/* *c NULL: it broke. */
static void give_back(struct redis *r, struct redis_connection **c, unsigned epoch)
{
    lock_take(&r->lock);
    if (*c != NULL && epoch == r->epoch && !r->stopping) {
        r->idle[r->idle_count++] = *c;
        *c = NULL;
    } else {
        r->open_count--;
    }
    pthread_cond_signal(&r->changed);
    lock_drop(&r->lock);
    redis_connection_free(c);
}

/* A connection that works, as far as can be told. */
static int get_connection(struct redis *r, uint64_t deadline_ms, struct redis_connection **c,
                          unsigned *epoch, struct err *err)
{
    if (claim(r, deadline_ms, c, epoch, err) != 0)
        return -1;
    /* It may have been closed since, by a restart of Redis or its own timeout: that is no reason
     * to fail a command that can still go out on another one. */
    if (*c != NULL && !redis_connection_is_quiet(*c))
        redis_connection_free(c);
    if (*c != NULL)
        return 0;
    if (redis_connection_open(r->place, deadline_ms, c, err) != 0) {
        give_back(r, c, *epoch);
        put_away(r, *epoch, err);
        return -1;
    }
    lock_take(&r->lock);
    r->counts.connected++;
    lock_drop(&r->lock);
    return 0;
}

static void count_command(struct redis *r, bool failed, uint64_t us)
{
    lock_take(&r->lock);
    r->counts.asked++;
    r->counts.failed += failed;
    if (!failed)
        timing_add(&r->counts.took, us);
    lock_drop(&r->lock);
}

int redis_ask(struct redis *r, const char *const *words, struct redis_reply **out, struct err *err)
{
    uint64_t deadline = now_ms() + r->timeout_ms;
    struct redis_connection *c;
    struct redis_reply *reply = NULL;
    unsigned epoch;
    bool away = false;
    uint64_t sent_us;
    int rc;

    if (get_connection(r, deadline, &c, &epoch, err) != 0)
        return -1;
    sent_us = now_us();
    rc = redis_connection_send(c, words, deadline, err);
    if (rc == 0)
        rc = redis_connection_read(c, deadline, &reply, err);
    count_command(r, rc != 0, now_us() - sent_us);
    if (rc != 0) {
        err_prefix(err, "Redis at %s", redis_name(r));
        redis_connection_free(&c);
        away = true;
    } else if (reply->type == REDIS_ERROR) {
        away = redis_judge(reply, err);
        rc = -1;
    }
    give_back(r, &c, epoch);
    if (away)
        put_away(r, epoch, err);
    if (rc == 0 && out != NULL) {
        *out = reply;
        reply = NULL;
    }
    redis_reply_free(&reply);
    return rc;
}

/* ---- scripts ---- */

void redis_script_init(struct redis_script *s, const char *text)
{
    struct digest *d = digest_new(HASH_SHA1);
    uint8_t raw[DIGEST_MAX];

    s->text = text;
    digest_update(d, text, strlen(text));
    digest_final(d, raw);
    digest_free(d);
    hex_encode(raw, SHA1_SIZE, s->sha1);
}

static size_t append_words(const char **to, size_t n, const char *const *from)
{
    for (; from != NULL && *from != NULL; from++) {
        must(n < REDIS_WORDS_MAX - 1);
        to[n++] = *from;
    }
    return n;
}

int redis_run(struct redis *r, const struct redis_script *s, const char *const *keys,
              const char *const *args, struct redis_reply **out, struct err *err)
{
    const char *words[REDIS_WORDS_MAX] = {"EVALSHA", s->sha1};
    char number[REDIS_NUMBER_SIZE];
    size_t n = append_words(words, 3, keys);
    struct err unknown;

    words[2] = redis_number(n - 3, number);
    words[append_words(words, n, args)] = NULL;
    if (redis_ask(r, words, out, &unknown) == 0)
        return 0;
    if (unknown.kind != ERR_NOT_FOUND) {
        *err = unknown;
        return -1;
    }
    words[0] = "EVAL";
    words[1] = s->text;
    return redis_ask(r, words, out, err);
}

/* ---- the thread ---- */

static void tell(struct redis *r, bool up, const struct err *why)
{
    for (size_t i = 0; i < r->watcher_count; i++)
        r->watchers[i].fn(r->watchers[i].ctx, up, why);
}

static void hand_out(struct redis *r, const struct redis_reply *reply)
{
    const char *channel = redis_item_text(reply, 1);

    if (strcmp(redis_item_text(reply, 0), "message") != 0)
        return; /* the answer to a PING */
    for (size_t i = 0; i < r->subscription_count; i++)
        if (strcmp(channel, r->subscriptions[i].full) == 0)
            r->subscriptions[i].fn(r->subscriptions[i].ctx, redis_item_text(reply, 2));
}

/* A message on an earlier channel may come before this one's answer: who reads the stream looks
 * there anyway once it is up. */
static int subscribe_one(struct redis_connection *c, const char *channel, uint64_t deadline_ms,
                         struct err *err)
{
    struct redis_reply *reply = NULL;
    bool message;
    int rc = 0;

    if (redis_connection_send(c, REDIS_WORDS("SUBSCRIBE", channel), deadline_ms, err) != 0)
        return -1;
    do {
        redis_reply_free(&reply);
        if (redis_connection_read(c, deadline_ms, &reply, err) != 0)
            return -1;
        message = strcmp(redis_item_text(reply, 0), "message") == 0;
    } while (message);
    if (reply->type == REDIS_ERROR) {
        redis_judge(reply, err);
        rc = -1;
    }
    redis_reply_free(&reply);
    return rc;
}

static int subscribe(struct redis *r, struct redis_connection *c, uint64_t deadline_ms,
                     struct err *err)
{
    for (size_t i = 0; i < r->subscription_count; i++)
        if (subscribe_one(c, r->subscriptions[i].full, deadline_ms, err) != 0)
            return -1;
    return 0;
}

static int open_subscribed(struct redis *r, struct redis_connection **c, struct err *err)
{
    uint64_t deadline = now_ms() + r->timeout_ms;

    if (redis_connection_open(r->place, deadline, c, err) != 0)
        return -1;
    if (subscribe(r, *c, deadline, err) == 0)
        return 0;
    redis_connection_free(c);
    return err_prefix(err, "Redis at %s", redis_name(r));
}

/* False: it is to end, as *err says. */
static bool go_on(struct redis *r, struct err *err)
{
    uint64_t ignored;
    bool go;

    (void)!read(r->wake, &ignored, sizeof(ignored));
    lock_take(&r->lock);
    go = r->up && !r->stopping;
    if (!go)
        *err = r->why;
    lock_drop(&r->lock);
    return go;
}

static int take_messages(struct redis *r, struct redis_connection *c, bool *any, struct err *err)
{
    struct redis_reply *reply;

    if (redis_connection_receive(c, err) != 0)
        return -1;
    for (;;) {
        if (redis_connection_next(c, &reply, err) != 0)
            return -1;
        if (reply == NULL)
            return 0;
        *any = true;
        hand_out(r, reply);
        redis_reply_free(&reply);
    }
}

/* Hand out what comes, until it breaks or somebody says that it is to end. */
static void serve(struct redis *r, struct redis_connection *c, struct err *err)
{
    struct pollfd fds[2] = {{.fd = redis_connection_fd(c), .events = POLLIN},
                            {.fd = r->wake, .events = POLLIN}};
    uint64_t ping_at = now_ms() + r->ping_ms, answer_by = 0;

    while (go_on(r, err)) {
        uint64_t now = now_ms(), until = answer_by != 0 ? answer_by : ping_at;
        bool any = false;

        if (poll(fds, 2, now < until ? (int)(until - now) : 0) < 0 && errno != EINTR) {
            err_errno(err, ERR_UPSTREAM, "poll");
            return;
        }
        if (fds[0].revents != 0 && take_messages(r, c, &any, err) != 0)
            return;
        now = now_ms();
        if (any) {
            answer_by = 0; /* whatever came is a sign of life */
            ping_at = now + r->ping_ms;
        } else if (answer_by != 0 && now >= answer_by) {
            err_set(err, ERR_TIMEOUT, "it gave no sign of life for %llu ms",
                    (unsigned long long)r->timeout_ms);
            return;
        } else if (answer_by == 0 && now >= ping_at) {
            answer_by = now + r->timeout_ms;
            if (redis_connection_send(c, REDIS_WORDS("PING"), answer_by, err) != 0)
                return;
        }
    }
}

static bool come_up(struct redis *r)
{
    bool go;

    lock_take(&r->lock);
    go = !r->stopping;
    r->up = go;
    r->counts.connected++;
    pthread_cond_broadcast(&r->changed);
    lock_drop(&r->lock);
    return go;
}

static uint64_t random_below(uint64_t n)
{
    uint64_t x = 0;

    must(getrandom(&x, sizeof(x), 0) == sizeof(x));
    return n > 0 ? x % n : 0;
}

static void back_off(struct redis *r, unsigned attempt)
{
    uint64_t wait = attempt < 8 ? (uint64_t)BACKOFF_FIRST_MS << attempt : BACKOFF_MAX_MS;
    uint64_t until = now_ms() + wait / 2 + random_below(wait / 2 + 1);

    lock_take(&r->lock);
    while (!r->stopping && lock_wait_until(&r->lock, &r->changed, until))
        ;
    lock_drop(&r->lock);
}

static bool is_stopping(struct redis *r)
{
    bool stopping;

    lock_take(&r->lock);
    stopping = r->stopping;
    lock_drop(&r->lock);
    return stopping;
}

/* One connection's life.  True: it lived long enough to begin with short waits again. */
static bool live_once(struct redis *r, bool *told_away)
{
    struct redis_connection *c = NULL;
    struct err err;
    uint64_t start;
    bool was_up = open_subscribed(r, &c, &err) == 0;

    start = now_ms();
    if (was_up && come_up(r)) {
        unsigned epoch;

        lock_take(&r->lock);
        epoch = r->epoch;
        lock_drop(&r->lock);
        tell(r, true, NULL);
        *told_away = false;
        serve(r, c, &err);
        if (!is_stopping(r))
            put_away(r, epoch, &err);
    } else if (!was_up) {
        lock_take(&r->lock);
        r->why = err; /* the newest reason */
        lock_drop(&r->lock);
    }
    redis_connection_free(&c);
    if (!is_stopping(r) && !*told_away) {
        tell(r, false, &err);
        *told_away = true;
    }
    return was_up && now_ms() - start >= GOOD_AFTER_MS;
}

static void *redis_main(void *arg)
{
    struct redis *r = arg;
    bool told_away = false;
    unsigned attempt = 0;

    while (!is_stopping(r)) {
        if (live_once(r, &told_away))
            attempt = 0;
        back_off(r, attempt++);
    }
    return NULL;
}

/* ---- opening and closing ---- */

int redis_open(const struct redis_config *config, struct redis **out, struct err *err)
{
    const struct redis_tls_files files = {config->ca_file, config->certificate, config->key};
    struct redis_url url;
    struct redis_place *place;
    struct redis *r;
    int rc;

    if (redis_url_read(config->url, &url, err) != 0)
        return -1;
    rc = redis_place_new(&url, config->password_file, &files, &place, err);
    if (rc != 0)
        return -1;
    r = xcalloc(1, sizeof(*r));
    r->place = place;
    r->prefix = xstrdup(config->prefix != NULL ? config->prefix : "pannier:");
    r->timeout_ms = config->timeout_ms != 0 ? config->timeout_ms : TIMEOUT_DEFAULT_MS;
    r->ping_ms = config->ping_ms != 0 ? config->ping_ms : PING_DEFAULT_MS;
    r->open_max = config->connections != 0 ? config->connections : CONNECTIONS_DEFAULT;
    must(r->open_max <= REDIS_CONNECTIONS_MAX);
    r->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    must(r->wake >= 0);
    lock_init(&r->lock, LOCK_REDIS);
    lock_cond_init(&r->changed);
    err_set(&r->why, ERR_BUSY, "it was not connected to yet");
    *out = r;
    return 0;
}

void redis_subscribe(struct redis *r, const char *channel, redis_message_fn *fn, void *ctx)
{
    must(!r->started && r->subscription_count < REDIS_LISTENERS_MAX);
    r->subscriptions[r->subscription_count++] = (struct subscription){
        .channel = channel, .full = redis_key(r, "%s", channel), .fn = fn, .ctx = ctx};
}

void redis_watch(struct redis *r, redis_watch_fn *fn, void *ctx)
{
    must(!r->started && r->watcher_count < REDIS_LISTENERS_MAX);
    r->watchers[r->watcher_count++] = (struct watcher){.fn = fn, .ctx = ctx};
}

void redis_start(struct redis *r)
{
    must(!r->started);
    must(pthread_create(&r->thread, NULL, redis_main, r) == 0);
    pthread_setname_np(r->thread, "redis");
    r->started = true;
}

void redis_stop(struct redis *r)
{
    lock_take(&r->lock);
    r->stopping = true;
    pthread_cond_broadcast(&r->changed);
    lock_drop(&r->lock);
    wake_thread(r);
    if (r->started)
        must(pthread_join(r->thread, NULL) == 0);
    r->started = false;
}

void redis_free(struct redis **rp)
{
    struct redis *r = *rp;

    *rp = NULL;
    if (r == NULL)
        return;
    redis_stop(r);
    must(r->open_count == r->idle_count); /* nobody may be using it */
    for (unsigned i = 0; i < r->idle_count; i++)
        redis_connection_free(&r->idle[i]);
    for (size_t i = 0; i < r->subscription_count; i++)
        free(r->subscriptions[i].full);
    redis_place_free(&r->place);
    close(r->wake);
    pthread_cond_destroy(&r->changed);
    lock_clear(&r->lock);
    free(r->prefix);
    free(r);
}
