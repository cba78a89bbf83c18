#include "proxy/flights.h"

#include <stdlib.h>

#include <uthash.h>

#include "cache/lock.h"
#include "protocol/base.h"

struct asking {
    struct key key;
    size_t refs; /* who asks, and who waits */
    bool done;
    int verdict;
    struct response_head head;
    struct err err;
    UT_hash_handle hh;
};

/* A credential whose own question upstream is answering right now. */
struct leading {
    struct key key;
    size_t count;
    UT_hash_handle hh;
};

struct flights {
    struct lock lock;
    pthread_cond_t decided;
    struct asking *asking;
    struct leading *leading;
};

struct flights *flights_new(void)
{
    struct flights *f = xcalloc(1, sizeof(*f));

    lock_init(&f->lock, LOCK_FLIGHTS);
    lock_cond_init(&f->decided);
    return f;
}

void flights_free(struct flights **fp)
{
    struct flights *f = *fp;

    *fp = NULL;
    if (f == NULL)
        return;
    must(f->asking == NULL && f->leading == NULL);
    pthread_cond_destroy(&f->decided);
    lock_clear(&f->lock);
    free(f);
}

static struct asking *join_asking_locked(struct flights *f, const struct key *key, bool *leads)
{
    struct asking *a;

    HASH_FIND(hh, f->asking, key, sizeof(*key), a);
    *leads = a == NULL;
    if (a == NULL) {
        a = xcalloc(1, sizeof(*a));
        a->key = *key;
        HASH_ADD(hh, f->asking, key, sizeof(a->key), a);
    }
    a->refs++;
    return a;
}

/* True when the caller was the last and is to free it, without the lock. */
static bool leave_asking_locked(struct asking *a)
{
    return --a->refs == 0;
}

static void free_asking(struct asking *a)
{
    response_head_clear(&a->head);
    free(a);
}

int flights_ask_once(struct flights *f, const struct key *key, flights_ask_fn *ask, void *ctx,
                     struct response_head *head, struct err *err)
{
    struct asking *a;
    bool leads, last;
    int verdict;

    lock_take(&f->lock);
    a = join_asking_locked(f, key, &leads);
    if (leads) {
        lock_drop(&f->lock);
        verdict = ask(ctx, &a->head, &a->err); /* nobody else looks before it is done */
        lock_take(&f->lock);
        a->verdict = verdict;
        a->done = true;
        HASH_DEL(f->asking, a);
        pthread_cond_broadcast(&f->decided);
    }
    while (!a->done)
        lock_wait(&f->lock, &f->decided);
    verdict = a->verdict;
    if (head != NULL)
        response_head_copy(&a->head, head);
    *err = a->err;
    last = leave_asking_locked(a);
    lock_drop(&f->lock);
    if (last)
        free_asking(a);
    return verdict;
}

void flights_enter(struct flights *f, const struct key *key)
{
    bool leads, last;

    do {
        struct asking *a;

        lock_take(&f->lock);
        a = join_asking_locked(f, key, &leads);
        while (!leads && !a->done)
            lock_wait(&f->lock, &f->decided);
        last = !leads && leave_asking_locked(a);
        lock_drop(&f->lock);
        if (last)
            free_asking(a);
    } while (!leads);
}

void flights_leave(struct flights *f, const struct key *key)
{
    struct asking *a;
    bool last;

    lock_take(&f->lock);
    HASH_FIND(hh, f->asking, key, sizeof(*key), a);
    must(a != NULL);
    a->done = true;
    HASH_DEL(f->asking, a);
    pthread_cond_broadcast(&f->decided);
    last = leave_asking_locked(a);
    lock_drop(&f->lock);
    if (last)
        free_asking(a);
}

void flights_lead(struct flights *f, const struct key *key)
{
    struct leading *l;

    lock_take(&f->lock);
    HASH_FIND(hh, f->leading, key, sizeof(*key), l);
    if (l == NULL) {
        l = xcalloc(1, sizeof(*l));
        l->key = *key;
        HASH_ADD(hh, f->leading, key, sizeof(l->key), l);
    }
    l->count++;
    lock_drop(&f->lock);
}

bool flights_leads(struct flights *f, const struct key *key)
{
    struct leading *l;

    lock_take(&f->lock);
    HASH_FIND(hh, f->leading, key, sizeof(*key), l);
    lock_drop(&f->lock);
    return l != NULL;
}

void flights_landed(struct flights *f, const struct key *key)
{
    struct leading *l;

    lock_take(&f->lock);
    HASH_FIND(hh, f->leading, key, sizeof(*key), l);
    must(l != NULL);
    if (--l->count == 0) {
        HASH_DEL(f->leading, l);
        free(l);
    }
    lock_drop(&f->lock);
}
