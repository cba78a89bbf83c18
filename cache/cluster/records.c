#include "cache/cluster/records.h"

#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "cache/lock.h"
#include "protocol/base.h"

enum {
    AGAIN_DEFAULT_MS = 24 * 3600 * 1000,
    /* A Redis that comes and goes doesn't have all nodes tell all they have each time. */
    AGAIN_SOONEST_MS = 5000,
    /* Between two round trips of a list: 1,000 entries a second, a hundredth of Redis's time. */
    PAUSE_MS = 10,
};

struct waiting {
    struct index_note note;
    struct waiting *prev, *next;
};

struct records {
    struct redis *redis; /* NULL: nothing is told */
    struct shared_index *index;
    struct records_config config;
    pthread_t thread;

    /* The thread's alone: what it lists. */
    struct index_note listed[SHARED_INDEX_NOTES_MAX];
    size_t listed_count;

    struct lock lock;
    pthread_cond_t woken;
    struct waiting *waiting;
    size_t waiting_count;
    uint64_t list_at_ms; /* UINT64_MAX: when Redis comes up */
    bool up, ending;
    struct records_counts counts;
};

static void copy_note(struct records *r, enum index_change change, const struct key *key,
                      const struct entry *e, struct index_note *out)
{
    *out = (struct index_note){.change = change, .key = *key};
    entry_copy(e, &out->entry);
    if (out->entry.node == NULL)
        out->entry.node = xstrdup(r->config.node);
}

static void clear_notes(struct index_note *notes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        entry_clear(&notes[i].entry);
}

/* ---- what waits ---- */

void records_tell(struct records *r, enum index_change change, const struct key *key,
                  const struct entry *e)
{
    struct waiting *w;
    bool fits;

    if (r->redis == NULL)
        return;
    w = xcalloc(1, sizeof(*w));
    copy_note(r, change, key, e, &w->note);
    lock_take(&r->lock);
    /* While it is away: all is told again when it is back. */
    fits = r->up && !r->ending && r->waiting_count < RECORDS_WAITING_MAX;
    if (fits) {
        DL_APPEND(r->waiting, w);
        r->waiting_count++;
        pthread_cond_signal(&r->woken);
    } else {
        r->counts.dropped++;
    }
    lock_drop(&r->lock);
    if (fits)
        return;
    entry_clear(&w->note.entry);
    free(w);
}

static size_t take(struct records *r, struct index_note notes[SHARED_INDEX_NOTES_MAX])
{
    size_t count = 0;

    lock_take(&r->lock);
    while (r->waiting != NULL && count < SHARED_INDEX_NOTES_MAX && !r->ending) {
        struct waiting *w = r->waiting;

        DL_DELETE(r->waiting, w);
        r->waiting_count--;
        notes[count++] = w->note;
        free(w);
    }
    lock_drop(&r->lock);
    return count;
}

static bool tell(struct records *r, struct index_note *notes, size_t count)
{
    struct err ignored; /* redis.h tells that it is away, and that it is there again */
    bool told = shared_index_tell(r->index, notes, count, &ignored) == 0;

    lock_take(&r->lock);
    *(told ? &r->counts.told : &r->counts.dropped) += count;
    lock_drop(&r->lock);
    return told;
}

static void tell_waiting(struct records *r)
{
    struct index_note notes[SHARED_INDEX_NOTES_MAX];
    size_t count;

    while ((count = take(r, notes)) > 0) {
        tell(r, notes, count);
        clear_notes(notes, count);
    }
}

/* ---- all that lies here ---- */

static int tell_listed(struct records *r)
{
    bool told = tell(r, r->listed, r->listed_count), ends;

    clear_notes(r->listed, r->listed_count);
    r->listed_count = 0;
    tell_waiting(r);
    lock_take(&r->lock);
    if (!r->ending)
        lock_wait_until(&r->lock, &r->woken, now_ms() + PAUSE_MS);
    ends = r->ending || !told;
    lock_drop(&r->lock);
    return ends ? -1 : 0;
}

int records_again(struct records *r, const struct key *key, const struct entry *e)
{
    copy_note(r, INDEX_STILL, key, e, &r->listed[r->listed_count++]);
    return r->listed_count < SHARED_INDEX_NOTES_MAX ? 0 : tell_listed(r);
}

static void list_all(struct records *r)
{
    if (r->config.list != NULL)
        r->config.list(r->config.ctx, r);
    if (r->listed_count > 0)
        tell_listed(r);
    lock_take(&r->lock);
    r->counts.listed++;
    lock_drop(&r->lock);
}

/* ---- the thread ---- */

static void *records_main(void *arg)
{
    struct records *r = arg;

    lock_take(&r->lock);
    while (!r->ending) {
        uint64_t now = now_ms();

        if (r->waiting != NULL) {
            lock_drop(&r->lock);
            tell_waiting(r);
            lock_take(&r->lock);
        } else if (r->up && now >= r->list_at_ms) {
            r->list_at_ms = now + r->config.again_ms;
            lock_drop(&r->lock);
            list_all(r);
            lock_take(&r->lock);
        } else if (r->up) {
            lock_wait_until(&r->lock, &r->woken, r->list_at_ms);
        } else {
            lock_wait(&r->lock, &r->woken);
        }
    }
    lock_drop(&r->lock);
    return NULL;
}

static void hear_change(void *ctx, bool up, const struct err *why)
{
    struct records *r = ctx;

    (void)why;
    lock_take(&r->lock);
    r->up = up;
    if (up) {
        r->list_at_ms = r->counts.listed > 0 ? now_ms() + AGAIN_SOONEST_MS : now_ms();
        pthread_cond_signal(&r->woken);
    }
    lock_drop(&r->lock);
}

/* ---- beginning and end ---- */

struct records *records_new(struct redis *redis, struct shared_index *index,
                            const struct records_config *config)
{
    struct records *r = xcalloc(1, sizeof(*r));

    r->redis = redis;
    r->index = index;
    r->config = *config;
    if (r->config.again_ms == 0)
        r->config.again_ms = AGAIN_DEFAULT_MS;
    lock_init(&r->lock, LOCK_RECORDS);
    lock_cond_init(&r->woken);
    if (redis != NULL) {
        redis_watch(redis, hear_change, r);
        must(pthread_create(&r->thread, NULL, records_main, r) == 0);
        pthread_setname_np(r->thread, "records");
    }
    return r;
}

void records_stop(struct records *r)
{
    lock_take(&r->lock);
    r->ending = true;
    pthread_cond_signal(&r->woken);
    lock_drop(&r->lock);
}

void records_free(struct records **rp)
{
    struct records *r = *rp;
    struct waiting *w, *next;

    *rp = NULL;
    if (r == NULL)
        return;
    if (r->redis != NULL) {
        records_stop(r);
        must(pthread_join(r->thread, NULL) == 0);
    }
    DL_FOREACH_SAFE(r->waiting, w, next)
    {
        entry_clear(&w->note.entry);
        free(w);
    }
    pthread_cond_destroy(&r->woken);
    lock_clear(&r->lock);
    free(r);
}

void records_count(struct records *r, struct records_counts *out)
{
    lock_take(&r->lock);
    *out = r->counts;
    lock_drop(&r->lock);
}
