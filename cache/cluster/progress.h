/* How far tasks of many items have come, whichever nodes see to the items: warm-ups, say
 * (proxy/warm/warmups.h).  A queue's jobs know nothing of each other; this is what they have in
 * common.
 *
 *     progress_new(redis or NULL)                       before redis_start()
 *     progress_begin(p, &what, id, &err)                all its items wait
 *     progress_set(p, id, item, &state, now_s, &err)    whoever sees to one
 *     progress_list(p, &tasks, &err)                    the latest, newest first
 *     progress_get(p, id, now_s, &task, &err)           one, with its items
 *     progress_free(&p)
 *
 * The last PROGRESS_TASKS_MAX are known, for PROGRESS_TTL_S after they last changed.  In Redis:
 *
 *     progress:tasks    list    ids, newest first
 *     progress:<id>     hash    by, started, ended, total, done, failed; and of item n its
 *                               name:<n>, state:<n>, detail:<n>, error:<n>
 *
 * What Redis loses is not known any more; with it went the jobs that waited, where it came back
 * empty.  An id begins with when its task began, and so tells whoever asks whether it is lost or
 * only long ago.  redis NULL: the same within the process.  Worker threads: these block. */
#ifndef PANNIER_CACHE_CLUSTER_PROGRESS_H
#define PANNIER_CACHE_CLUSTER_PROGRESS_H

#include <stddef.h>
#include <stdint.h>

#include "cache/cluster/redis.h"

enum {
    PROGRESS_TASKS_MAX = 20,
    PROGRESS_ITEMS_MAX = 1000, /* of one task */
    PROGRESS_TTL_S = 7 * 24 * 3600,
};

enum progress_state { PROGRESS_WAITING, PROGRESS_RUNNING, PROGRESS_DONE, PROGRESS_FAILED };
const char *progress_state_name(enum progress_state state);

struct progress_item {
    char *name;
    enum progress_state state;
    char *detail, *error; /* or NULL */
};

struct progress_task {
    char id[REDIS_TOKEN_SIZE];
    char *by;
    int64_t started, ended; /* seconds since 1970; ended 0: it goes on */
    size_t total, done, failed;
    struct progress_item *items; /* total of them; NULL in a list */
};

struct progress_tasks {
    struct progress_task *tasks;
    size_t count;
};

struct progress;

struct progress *progress_new(struct redis *redis);
void progress_free(struct progress **p);

/* names: one line each, 1 to PROGRESS_ITEMS_MAX.  0: id is the task's.  -1: as redis_ask(). */
int progress_begin(struct progress *p, const char *by, const char *const *names, size_t count,
                   int64_t now_s, char id[REDIS_TOKEN_SIZE], struct err *err);

/* detail and error may be NULL.  The task has ended when all of its items are done or failed.  -1:
 * ERR_NOT_FOUND, such a task or item is not known (any more); or as redis_ask(). */
int progress_set(struct progress *p, const char *id, size_t item, enum progress_state state,
                 const char *detail, const char *error, int64_t now_s, struct err *err);

/* 0: *out is yours to clear.  -1: ERR_NOT_FOUND, and a sentence for people about what became of it
 * (lost, long ago, never there); or as redis_ask(). */
int progress_list(struct progress *p, struct progress_tasks *out, struct err *err);
int progress_get(struct progress *p, const char *id, int64_t now_s, struct progress_task *out,
                 struct err *err);
void progress_tasks_clear(struct progress_tasks *t);
void progress_task_clear(struct progress_task *t);

#endif
