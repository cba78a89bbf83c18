/* Mutexes with a rank.  Taking one while holding one of an equal or higher rank aborts, so that
 * the order in lock_table.h can't rot. */
#ifndef PANNIER_CACHE_LOCK_H
#define PANNIER_CACHE_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "cache/lock_table.h"

enum lock_rank {
#define LOCK_RANK(name, what) LOCK_##name,
    LOCK_TABLE(LOCK_RANK)
#undef LOCK_RANK
};

struct lock {
    pthread_mutex_t mutex;
    enum lock_rank rank;
};

void lock_init(struct lock *l, enum lock_rank rank);
void lock_clear(struct lock *l);
void lock_take(struct lock *l);
void lock_drop(struct lock *l);

/* Condition variables on the monotonic clock. */
void lock_cond_init(pthread_cond_t *c);
/* Wait with l held; it is held again on return. */
void lock_wait(struct lock *l, pthread_cond_t *c);
/* As lock_wait, until deadline_ms of now_ms().  False when it has passed. */
bool lock_wait_until(struct lock *l, pthread_cond_t *c, uint64_t deadline_ms);

/* Monotonic milliseconds and microseconds; the program's only clock besides wall time in
 * entries and logs. */
uint64_t now_ms(void);
uint64_t now_us(void);
/* Milliseconds since 1970, for what other machines or later starts compare: this one may be set. */
uint64_t wall_ms(void);

#endif
