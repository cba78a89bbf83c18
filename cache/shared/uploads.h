/* Write-behind: what is to go up into the shared tier, in a queue with a bound.
 *
 *     uploads_new(threads, queue_max, fn, ctx)
 *     uploads_add(u, kind, path)       any thread, never blocks
 *     uploads_pause(u, true/false)     while the store is away the queue waits
 *     uploads_stop(u); uploads_free(&u)
 *
 * What stands in the queue already is not put in twice; of what is being sent a second one may
 * wait, as it may have changed since, and is sent when the first is done: one path is never sent
 * twice at once.  A full queue drops, which costs speed and nothing else. */
#ifndef PANNIER_CACHE_SHARED_UPLOADS_H
#define PANNIER_CACHE_SHARED_UPLOADS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/entry.h"

struct uploads;

/* Sends one.  True: it is done with, sent or not to be had any more.  False: it is worth another
 * try when the store works again (at most UPLOADS_TRIES_MAX in all; it goes to the end of the
 * queue).  In a thread of the queue's.  Who finds out here that the store is away pauses the queue
 * before it returns, or the other tries are for nothing. */
enum { UPLOADS_TRIES_MAX = 3 };
typedef bool uploads_fn(void *ctx, enum entry_kind kind, const char *path);

struct uploads *uploads_new(unsigned threads, size_t queue_max, uploads_fn *fn, void *ctx);
/* path: an entry's.  False: dropped; the queue is full, or was stopped. */
bool uploads_add(struct uploads *u, enum entry_kind kind, const char *path);
/* Nothing new begins while it is paused; what is being sent goes on. */
void uploads_pause(struct uploads *u, bool paused);
/* What has been begun to be sent so far; and wait until all of that has been, or could not be. What
 * is to be sent again waits like any other, and is not waited for.  False: deadline_ms (of
 * now_ms()) has passed. */
uint64_t uploads_begun(struct uploads *u);
bool uploads_settle(struct uploads *u, uint64_t begun, uint64_t deadline_ms);
/* Nothing new begins; what waits is forgotten. */
void uploads_stop(struct uploads *u);
void uploads_free(struct uploads **u); /* waits for what is being sent */

struct uploads_counts {
    uint64_t waiting, sending; /* now */
    uint64_t sent, failed;     /* for good: one that is tried again is neither */
    uint64_t dropped;          /* for want of room in the queue */
};
void uploads_count(struct uploads *u, struct uploads_counts *out); /* any thread, HTTP's too */

#endif
