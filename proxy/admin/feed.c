#include "proxy/admin/feed.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cache/answer.h"
#include "cache/lock.h"
#include "cache/workers.h"
#include "protocol/base.h"
#include "protocol/bytes.h"
#include "proxy/admin/call.h"
#include "proxy/admin/handlers.h"
#include "proxy/log.h"
#include "proxy/metrics.h"

enum {
    KEEPALIVE_MS = 15 * 1000, /* a comment, by which a client that has left is noticed */
    PIECE_MAX_BYTES = 256 * 1024,
};

struct event {
    char *json;
    size_t len;
};

/* The process's, as the log is: whoever logs must find it there. */
static struct {
    struct lock lock;
    pthread_cond_t news;
    struct event ring[FEED_KEPT]; /* number n lies at n % FEED_KEPT */
    uint64_t next;                /* number of the one to come */
    size_t clients;
    bool stopped;
    struct workers *workers;
} events;

static pthread_once_t feed_once = PTHREAD_ONCE_INIT;

static void feed_init(void)
{
    lock_init(&events.lock, LOCK_LISTENERS);
    lock_cond_init(&events.news);
}

static void on_line(const char *json, size_t len)
{
    struct event *e;
    char *copy = xmalloc(len), *old;

    memcpy(copy, json, len);
    lock_take(&events.lock);
    e = &events.ring[events.next++ % FEED_KEPT];
    old = e->json;
    *e = (struct event){copy, len};
    pthread_cond_broadcast(&events.news);
    lock_drop(&events.lock);
    free(old);
}

void feed_start(void)
{
    pthread_once(&feed_once, feed_init);
    lock_take(&events.lock);
    events.stopped = false;
    lock_drop(&events.lock);
    events.workers = workers_new("events", FEED_CLIENTS_MAX, 0);
}

static void forget_all_locked(void)
{
    for (size_t i = 0; i < FEED_KEPT; i++) {
        free(events.ring[i].json);
        events.ring[i] = (struct event){0};
    }
}

void feed_stop(void)
{
    log_listen(NULL);
    lock_take(&events.lock);
    events.stopped = true;
    pthread_cond_broadcast(&events.news);
    lock_drop(&events.lock);
}

void feed_free(void)
{
    feed_stop();
    workers_free(&events.workers);
    lock_take(&events.lock);
    forget_all_locked();
    lock_drop(&events.lock);
}

size_t feed_clients(void)
{
    size_t n;

    pthread_once(&feed_once, feed_init);
    lock_take(&events.lock);
    n = events.clients;
    lock_drop(&events.lock);
    return n;
}

/* ---- one who listens ---- */

struct listener {
    struct answer *answer;
    uint64_t next; /* number of the event that is due */
};

/* False when there are enough, or it is over. */
static bool enter(struct listener *l)
{
    bool in;

    lock_take(&events.lock);
    in = !events.stopped && events.clients < FEED_CLIENTS_MAX;
    events.clients += in;
    l->next = events.next;
    if (in)
        log_listen(on_line);
    lock_drop(&events.lock);
    return in;
}

static void leave(void)
{
    lock_take(&events.lock);
    if (--events.clients == 0)
        log_listen(NULL);
    lock_drop(&events.lock);
}

/* Waits for what is due, and puts it into out, or a comment when nothing comes.  False: it is over.
 */
static bool next_piece(struct listener *l, struct bytes *out)
{
    uint64_t until = now_ms() + KEEPALIVE_MS, missed = 0;
    bool going_on;

    bytes_reset(out);
    lock_take(&events.lock);
    while (!events.stopped && l->next == events.next &&
           lock_wait_until(&events.lock, &events.news, until))
        ;
    if (events.next - l->next > FEED_KEPT) {
        missed = events.next - l->next - FEED_KEPT;
        l->next += missed;
        (void)bytes_addf(out, "event: missed\ndata: {\"count\":%" PRIu64 "}\n\n", missed);
    }
    for (; l->next < events.next; l->next++) {
        const struct event *e = &events.ring[l->next % FEED_KEPT];

        if (bytes_addf(out, "id: %" PRIu64 "\ndata: %.*s\n\n", l->next, (int)e->len, e->json) != 0)
            break; /* the next piece has it */
    }
    going_on = !events.stopped;
    lock_drop(&events.lock);
    if (missed > 0)
        metrics_count(CELL_EVENTS_DROPPED, missed);
    if (out->len == 0)
        (void)bytes_add_str(out, ":\n\n");
    return going_on;
}

static void listen_on(void *ctx)
{
    struct listener *l = ctx;
    struct bytes piece;
    struct err gone;
    int rc;

    bytes_init(&piece, PIECE_MAX_BYTES);
    /* The first byte is what the reply waits for. */
    rc = answer_append(l->answer, ": pannier\n\n", strlen(": pannier\n\n"), &gone);
    while (rc == 0 && next_piece(l, &piece))
        rc = answer_append(l->answer, piece.data, piece.len, &gone);
    answer_end(l->answer);
    leave();
    bytes_clear(&piece);
    answer_unref(&l->answer);
    free(l);
}

static void feed_ready(struct exchange *x)
{
    struct answer *a = exchange_answer(x);

    if (answer_state(a) == ANSWER_FAILED) {
        struct err why;

        answer_why(a, &why);
        reply_failure(x, &why);
        return;
    }
    reply_header(x, "Cache-Control", "no-store");
    reply_stream(x, 200, "text/event-stream", NULL, "admin");
}

void admin_events(struct exchange *x)
{
    static const char *const none[] = {NULL};
    struct listener *l;
    struct err why;

    if (!call_knows(x, none))
        return;
    l = xcalloc(1, sizeof(*l));
    if (!enter(l)) {
        free(l);
        reply_failure(x, &(struct err){ERR_BUSY, "as many listen as may"});
        return;
    }
    l->answer = answer_new_passing();
    if (exchange_follow(x, l->answer, feed_ready, &why) != 0) {
        reply_failure(x, &why);
    } else if (workers_submit(events.workers, listen_on, l)) {
        return;
    } else { /* a thread that is just ending its turn still counts */
        answer_fail(l->answer, &(struct err){ERR_BUSY, "as many listen as may"});
    }
    leave();
    answer_unref(&l->answer);
    free(l);
}
