/* The way to Redis.  What is said to it and what comes back are plain C values: redis_words.h.
 *
 *     redis_open(&config, &r)              checks the configuration, connects to nothing
 *     redis_subscribe(), redis_watch()     who wants to hear what
 *     redis_start(r)                       its thread connects, and goes on trying
 *     redis_ask(), redis_run()             from then on, by any number of worker threads
 *     redis_stop(r)                        no more callbacks; commands end by ERR_CANCELLED
 *     redis_free(&r)                       after those who listened
 *
 * Commands share a few connections, each one's for the length of a command: a thread that asks
 * writes and reads by itself, so a round trip wakes no other thread, and a command that hangs
 * takes its own connection with it and nobody else's.  They are opened when they are needed.
 *
 * Redis is UP or AWAY.  The thread of the client holds the connection for subscriptions, asks it
 * for a sign of life each ping_ms, and connects anew with waits that grow from 20 ms to 5 s, half
 * of each by chance.  As soon as it or any command finds a connection broken, refused or silent,
 * Redis is AWAY: commands are refused at once (ERR_BUSY, with the reason), so that one request pays
 * for the deadline and not every one.  UP again: when the thread has subscribed anew.
 *
 * A command is never sent twice.  After -1 it may or may not have taken effect.
 *
 * Redis 6 and newer, Valkey.  Not Redis Cluster: scripts use keys that would lie apart there. */
#ifndef PANNIER_CACHE_CLUSTER_REDIS_H
#define PANNIER_CACHE_CLUSTER_REDIS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/cluster/redis_words.h"
#include "cache/timing.h"
#include "protocol/err.h"

enum {
    REDIS_CONNECTIONS_MAX = 16,
    REDIS_LISTENERS_MAX = 8,
};

struct redis;

struct redis_config {
    const char *url; /* redis_url.h */
    /* NULL, or a file with the password in its first line; or, with two lines, the user and the
     * password.  Read at each connect, so it may be changed at any time. */
    const char *password_file;
    const char *prefix; /* before every key and channel; NULL: "pannier:" */
    /* For TLS, read at each connect, too: authorities, NULL: the system's; and what we show
     * who asks for a certificate of ours, NULL: nothing. */
    const char *ca_file, *certificate, *key;
    uint64_t timeout_ms;  /* of one command, with connecting where that is needed; 0: 1000 */
    uint64_t ping_ms;     /* 0: 1000 */
    unsigned connections; /* for commands, at most; 0: 4 */
};

/* -1: ERR_INPUT, one sentence about the URL, or a file for TLS. */
int redis_open(const struct redis_config *config, struct redis **out, struct err *err);

/* Before redis_start().  Callbacks come from the client's thread, one at a time, without a lock,
 * in the order in which they were registered; they must not block. */
typedef void redis_message_fn(void *ctx, const char *text);
typedef void redis_watch_fn(void *ctx, bool up,
                            const struct err *why); /* why: NULL when it is up */
/* channel: without the prefix, borrowed for as long as r lives. */
void redis_subscribe(struct redis *r, const char *channel, redis_message_fn *fn, void *ctx);
/* Once per change, the first being that it came up or could not be reached.  After AWAY and UP
 * messages may have been missed. */
void redis_watch(struct redis *r, redis_watch_fn *fn, void *ctx);

void redis_start(struct redis *r);
void redis_stop(struct redis *r);
void redis_free(struct redis **r); /* nobody may be using it any more */

/* Any thread, HTTP's too.  why (may be NULL) is filled when it is not. */
bool redis_is_up(struct redis *r, struct err *why);
/* Wait for it to come up; for the start and for tests. */
bool redis_wait_up(struct redis *r, uint64_t timeout_ms);
/* "127.0.0.1:6379", "unix:/run/redis.sock", for people; no secrets. */
const char *redis_name(const struct redis *r);

/* ---- commands ---- */

/* words: the command, REDIS_WORDS("GET", key).  0: *out (may be NULL) is yours.  -1: ERR_BUSY,
 * Redis is away, or all connections were in use to the end; ERR_TIMEOUT; ERR_UPSTREAM, the
 * connection broke, or what came is no reply; ERR_DENIED, the password; ERR_REFUSED, Redis
 * understood and said no, in its words; ERR_CANCELLED, stopping.  Worker threads: blocks. */
int redis_ask(struct redis *r, const char *const *words, struct redis_reply **out, struct err *err);

/* A script runs whole or not at all, and nothing else meanwhile.  It is sent once; after that, and
 * until Redis forgets it, its digest is enough. */
struct redis_script {
    const char *text; /* borrowed */
    char sha1[41];
};
void redis_script_init(struct redis_script *s, const char *text);
/* keys and args end with NULL, and may be NULL.  As redis_ask(). */
int redis_run(struct redis *r, const struct redis_script *s, const char *const *keys,
              const char *const *args, struct redis_reply **out, struct err *err);

/* The prefix and what follows; yours. */
char *redis_key(const struct redis *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

struct redis_counts {
    uint64_t asked;     /* commands that went out */
    uint64_t failed;    /* of them, without a reply */
    uint64_t refused;   /* at once, while it was away */
    uint64_t connected; /* connections that were made */
    uint64_t away;      /* times that it went away */
    struct timing took; /* those with a reply, from the sending to it */
};
void redis_count(struct redis *r, struct redis_counts *out); /* any thread, HTTP's too */

#endif
