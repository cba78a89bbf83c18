#include "cache/shared/uploads.h"

#include <stdlib.h>
#include <string.h>

#include <uthash.h>
#include <utlist.h>

#include "cache/lock.h"
#include "cache/workers.h"
#include "protocol/base.h"

/* One path: it waits, or is being sent, or is being sent and is to be sent again. */
struct upload {
    char *path;
    enum entry_kind kind;
    unsigned tries; /* that failed */
    bool sending;
    uint64_t begun;             /* which one it is of all that were begun to be sent */
    bool again;                 /* while it is being sent; counts as one that waits */
    struct upload *prev, *next; /* among those that wait */
    UT_hash_handle hh;
};

struct uploads {
    uploads_fn *fn;
    void *ctx;
    size_t queue_max;
    struct workers *workers;

    struct lock lock;
    pthread_cond_t ended; /* one of those that were sent */
    uint64_t begun;
    struct upload *by_path;
    struct upload *first;
    size_t waiting, sending;
    size_t turns, turns_max; /* of workers, each of which sends one after the other */
    bool paused, stopped;
    uint64_t sent, failed, dropped;
};

static void upload_free_locked(struct uploads *u, struct upload *up)
{
    HASH_DEL(u->by_path, up);
    free(up->path);
    free(up);
}

/* The next one, which is being sent from now on; NULL: this turn is over. */
static struct upload *begin_locked(struct uploads *u)
{
    struct upload *up = u->paused ? NULL : u->first;

    if (up == NULL) {
        u->turns--;
        return NULL;
    }
    DL_DELETE(u->first, up);
    u->waiting--;
    up->sending = true;
    up->begun = ++u->begun;
    u->sending++;
    return up;
}

static void end_locked(struct uploads *u, struct upload *up, bool sent)
{
    bool tries_left = ++up->tries < UPLOADS_TRIES_MAX;

    up->sending = false;
    pthread_cond_broadcast(&u->ended);
    u->sending--;
    u->sent += sent;
    if (up->again) { /* what it was sent as, or could not be, is of no interest any more */
        up->again = false;
        up->tries = 0;
        DL_APPEND(u->first, up);
        return;
    }
    if (!sent && tries_left && !u->stopped && u->waiting < u->queue_max) {
        u->waiting++;
        DL_APPEND(u->first, up);
        return;
    }
    /* One that would have had another try, had there been room, was dropped. */
    if (!sent && tries_left && !u->stopped)
        u->dropped++;
    else if (!sent)
        u->failed++;
    upload_free_locked(u, up);
}

static void take_turn(void *ctx)
{
    struct uploads *u = ctx;
    struct upload *up;

    lock_take(&u->lock);
    while ((up = begin_locked(u)) != NULL) {
        bool sent;

        lock_drop(&u->lock);
        sent = u->fn(u->ctx, up->kind, up->path); /* nobody changes these two */
        lock_take(&u->lock);
        end_locked(u, up, sent);
    }
    lock_drop(&u->lock);
}

/* As many turns as there is work for.  Where the system refuses a thread, what waits does so until
 * the next call. */
static void start_turns(struct uploads *u)
{
    for (;;) {
        bool wanted;

        lock_take(&u->lock);
        wanted = !u->paused && !u->stopped && u->turns < u->turns_max &&
                 u->turns < u->waiting + u->sending;
        u->turns += wanted;
        lock_drop(&u->lock);
        if (!wanted)
            return;
        if (workers_submit(u->workers, take_turn, u))
            continue;
        lock_take(&u->lock);
        u->turns--;
        lock_drop(&u->lock);
        return;
    }
}

struct uploads *uploads_new(unsigned threads, size_t queue_max, uploads_fn *fn, void *ctx)
{
    struct uploads *u = xcalloc(1, sizeof(*u));

    u->fn = fn;
    u->ctx = ctx;
    u->queue_max = queue_max;
    u->turns_max = threads;
    lock_init(&u->lock, LOCK_UPLOADS);
    lock_cond_init(&u->ended);
    /* A turn that is over may still be in its thread when the next one is submitted: it has to find
     * room in the queue. */
    u->workers = workers_new("uploads", threads, threads);
    return u;
}

static bool add_locked(struct uploads *u, enum entry_kind kind, const char *path)
{
    struct upload *up;

    if (u->stopped)
        return false;
    HASH_FIND_STR(u->by_path, path, up);
    if (up != NULL && (up->again || !up->sending))
        return true;
    if (u->waiting >= u->queue_max)
        return false;
    u->waiting++;
    if (up != NULL) {
        up->again = true;
        return true;
    }
    up = xcalloc(1, sizeof(*up));
    up->path = xstrdup(path);
    up->kind = kind;
    HASH_ADD_KEYPTR(hh, u->by_path, up->path, strlen(up->path), up);
    DL_APPEND(u->first, up);
    return true;
}

bool uploads_add(struct uploads *u, enum entry_kind kind, const char *path)
{
    bool added;

    lock_take(&u->lock);
    added = add_locked(u, kind, path);
    u->dropped += !added;
    lock_drop(&u->lock);
    start_turns(u);
    return added;
}

void uploads_pause(struct uploads *u, bool paused)
{
    lock_take(&u->lock);
    u->paused = paused;
    lock_drop(&u->lock);
    start_turns(u);
}

static bool is_sending_locked(const struct uploads *u, uint64_t begun)
{
    for (const struct upload *up = u->by_path; up != NULL; up = up->hh.next)
        if (up->sending && up->begun <= begun)
            return true;
    return false;
}

uint64_t uploads_begun(struct uploads *u)
{
    uint64_t begun;

    lock_take(&u->lock);
    begun = u->begun;
    lock_drop(&u->lock);
    return begun;
}

bool uploads_settle(struct uploads *u, uint64_t begun, uint64_t deadline_ms)
{
    bool settled;

    lock_take(&u->lock);
    while (!(settled = !is_sending_locked(u, begun)) &&
           lock_wait_until(&u->lock, &u->ended, deadline_ms))
        ;
    lock_drop(&u->lock);
    return settled;
}

void uploads_stop(struct uploads *u)
{
    struct upload *up, *next;

    lock_take(&u->lock);
    u->stopped = true;
    u->first = NULL;
    u->waiting = 0;
    HASH_ITER(hh, u->by_path, up, next)
    {
        up->again = false;
        if (!up->sending)
            upload_free_locked(u, up);
    }
    lock_drop(&u->lock);
}

void uploads_free(struct uploads **up)
{
    struct uploads *u = *up;

    *up = NULL;
    if (u == NULL)
        return;
    uploads_stop(u);
    workers_free(&u->workers);
    must(u->by_path == NULL);
    pthread_cond_destroy(&u->ended);
    lock_clear(&u->lock);
    free(u);
}

void uploads_count(struct uploads *u, struct uploads_counts *out)
{
    lock_take(&u->lock);
    *out = (struct uploads_counts){
        .waiting = u->waiting,
        .sending = u->sending,
        .sent = u->sent,
        .failed = u->failed,
        .dropped = u->dropped,
    };
    lock_drop(&u->lock);
}
