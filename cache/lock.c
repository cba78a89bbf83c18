#include "cache/lock.h"

#include <errno.h>
#include <time.h>

#include "protocol/base.h"

/* The ranks that this thread holds, as bits: there are fewer than 64. */
static _Thread_local uint64_t held;

void lock_init(struct lock *l, enum lock_rank rank)
{
    must(pthread_mutex_init(&l->mutex, NULL) == 0);
    l->rank = rank;
}

void lock_clear(struct lock *l)
{
    must(pthread_mutex_destroy(&l->mutex) == 0);
}

void lock_take(struct lock *l)
{
    must(held >> l->rank == 0);
    must(pthread_mutex_lock(&l->mutex) == 0);
    held |= UINT64_C(1) << l->rank;
}

void lock_drop(struct lock *l)
{
    must((held & UINT64_C(1) << l->rank) != 0);
    held &= ~(UINT64_C(1) << l->rank);
    must(pthread_mutex_unlock(&l->mutex) == 0);
}

void lock_cond_init(pthread_cond_t *c)
{
    pthread_condattr_t attr;

    must(pthread_condattr_init(&attr) == 0);
    must(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    must(pthread_cond_init(c, &attr) == 0);
    pthread_condattr_destroy(&attr);
}

void lock_wait(struct lock *l, pthread_cond_t *c)
{
    must((held & UINT64_C(1) << l->rank) != 0);
    must(pthread_cond_wait(c, &l->mutex) == 0);
}

bool lock_wait_until(struct lock *l, pthread_cond_t *c, uint64_t deadline_ms)
{
    struct timespec at = {
        .tv_sec = (time_t)(deadline_ms / 1000),
        .tv_nsec = (long)(deadline_ms % 1000) * 1000000,
    };
    int rc;

    must((held & UINT64_C(1) << l->rank) != 0);
    rc = pthread_cond_timedwait(c, &l->mutex, &at);
    must(rc == 0 || rc == ETIMEDOUT);
    return rc == 0;
}

uint64_t now_us(void)
{
    struct timespec t;

    must(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

uint64_t now_ms(void)
{
    return now_us() / 1000;
}

uint64_t wall_ms(void)
{
    struct timespec t;

    must(clock_gettime(CLOCK_REALTIME, &t) == 0);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}
