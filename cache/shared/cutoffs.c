#include "cache/shared/cutoffs.h"

#include <stdio.h>
#include <stdlib.h>

#include <uthash.h>

#include "cache/lock.h"
#include "protocol/base.h"

enum { ROOM_PART = 8 }; /* so many goes make room for the next ones: one walk for thousands */

struct cutoff {
    struct key repo_id;
    struct event_place when;
    UT_hash_handle hh;
};

struct cutoffs {
    struct lock lock;
    struct cutoff *by_repo;
    struct event_place all; /* what was put before this is too late */
};

struct cutoffs *cutoffs_new(void)
{
    struct cutoffs *c = xcalloc(1, sizeof(*c));

    lock_init(&c->lock, LOCK_CUTOFFS);
    return c;
}

void cutoffs_free(struct cutoffs **cp)
{
    struct cutoffs *c = *cp;
    struct cutoff *one, *next;

    *cp = NULL;
    if (c == NULL)
        return;
    HASH_ITER(hh, c->by_repo, one, next)
    {
        HASH_DEL(c->by_repo, one);
        free(one);
    }
    lock_clear(&c->lock);
    free(c);
}

static void raise_to(struct event_place *at, const struct event_place *to)
{
    if (event_place_compare(to, at) > 0)
        *at = *to;
}

static int by_age(const void *a, const void *b)
{
    return event_place_compare(a, b);
}

static void make_room_locked(struct cutoffs *c)
{
    size_t count = HASH_COUNT(c->by_repo), i = 0;
    struct cutoff *one, *next;
    struct event_place *ages, until;

    if (count < CUTOFFS_MAX)
        return;
    ages = xcalloc(count, sizeof(*ages));
    HASH_ITER(hh, c->by_repo, one, next)
    ages[i++] = one->when;
    qsort(ages, count, sizeof(*ages), by_age);
    until = ages[count / ROOM_PART - 1];
    free(ages);
    HASH_ITER(hh, c->by_repo, one, next)
    {
        if (event_place_compare(&one->when, &until) > 0)
            continue;
        HASH_DEL(c->by_repo, one);
        free(one);
    }
    raise_to(&c->all, &until);
}

static struct cutoff *find_locked(struct cutoffs *c, const struct key *repo_id)
{
    struct cutoff *one;

    HASH_FIND(hh, c->by_repo, repo_id, sizeof(*repo_id), one);
    return one;
}

static void note_locked(struct cutoffs *c, const struct key *repo_id,
                        const struct event_place *when)
{
    struct cutoff *one = find_locked(c, repo_id);

    if (one == NULL) {
        make_room_locked(c);
        one = xcalloc(1, sizeof(*one));
        one->repo_id = *repo_id;
        HASH_ADD(hh, c->by_repo, repo_id, sizeof(one->repo_id), one);
    }
    raise_to(&one->when, when);
}

void cutoffs_note(struct cutoffs *c, const struct key *repo_id, const char *id)
{
    struct event_place when = event_place_of(id);

    lock_take(&c->lock);
    if (repo_id != NULL)
        note_locked(c, repo_id, &when);
    else
        raise_to(&c->all, &when);
    lock_drop(&c->lock);
}

bool cutoffs_refuse(struct cutoffs *c, const struct key *repo_id, const char *applied)
{
    struct event_place when = event_place_of(applied != NULL ? applied : "");
    const struct cutoff *one;
    bool late;

    lock_take(&c->lock);
    one = find_locked(c, repo_id);
    late = event_place_compare(&when, &c->all) < 0 ||
           (one != NULL && event_place_compare(&when, &one->when) < 0);
    lock_drop(&c->lock);
    return late;
}

void cutoffs_newest(struct cutoffs *c, const struct key *repo_id, char out[EVENT_ID_SIZE])
{
    const struct cutoff *one;
    struct event_place when;

    lock_take(&c->lock);
    one = find_locked(c, repo_id);
    when = c->all;
    if (one != NULL)
        raise_to(&when, &one->when);
    lock_drop(&c->lock);
    snprintf(out, EVENT_ID_SIZE, "%llu-%llu", when.ms, when.number);
}

size_t cutoffs_behind(struct cutoffs *c, const char *applied, struct cutoff_seen *out, size_t room)
{
    struct event_place when = event_place_of(applied);
    struct cutoff *one, *next;
    size_t count = 0;

    lock_take(&c->lock);
    if (event_place_compare(&c->all, &when) > 0) {
        if (count < room)
            out[count] = (struct cutoff_seen){.all = true, .ms = c->all.ms};
        count++;
    }
    HASH_ITER(hh, c->by_repo, one, next)
    {
        if (event_place_compare(&one->when, &when) <= 0)
            continue;
        if (count < room)
            out[count] = (struct cutoff_seen){.repo_id = one->repo_id, .ms = one->when.ms};
        count++;
    }
    lock_drop(&c->lock);
    return count;
}
