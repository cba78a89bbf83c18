#include "cache/shared/cutoffs.h"

#include <stdio.h>
#include <stdlib.h>

#include <uthash.h>

#include "cache/lock.h"
#include "protocol/base.h"

enum { ROOM_PART = 8 }; /* so many goes make room for the next ones: one walk for thousands */

/* An event's id, as it is compared; {0}: none. */
struct when {
    unsigned long long ms, number;
};

struct cutoff {
    struct key repo_id;
    struct when when;
    UT_hash_handle hh;
};

struct cutoffs {
    struct lock lock;
    struct cutoff *by_repo;
    struct when all; /* what was put before this is too late */
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

static struct when when_of(const char *id)
{
    struct when w = {0};

    if (id != NULL)
        sscanf(id, "%llu-%llu", &w.ms, &w.number);
    return w;
}

static int compare(const struct when *a, const struct when *b)
{
    if (a->ms != b->ms)
        return a->ms < b->ms ? -1 : 1;
    return a->number < b->number ? -1 : a->number > b->number;
}

static void raise_to(struct when *at, const struct when *to)
{
    if (compare(to, at) > 0)
        *at = *to;
}

static int by_age(const void *a, const void *b)
{
    return compare(a, b);
}

static void make_room_locked(struct cutoffs *c)
{
    size_t count = HASH_COUNT(c->by_repo), i = 0;
    struct cutoff *one, *next;
    struct when *ages, until;

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
        if (compare(&one->when, &until) > 0)
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

static void note_locked(struct cutoffs *c, const struct key *repo_id, const struct when *when)
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
    struct when when = when_of(id);

    lock_take(&c->lock);
    if (repo_id != NULL)
        note_locked(c, repo_id, &when);
    else
        raise_to(&c->all, &when);
    lock_drop(&c->lock);
}

bool cutoffs_refuse(struct cutoffs *c, const struct key *repo_id, const char *applied)
{
    struct when when = when_of(applied);
    const struct cutoff *one;
    bool late;

    lock_take(&c->lock);
    one = find_locked(c, repo_id);
    late = compare(&when, &c->all) < 0 || (one != NULL && compare(&when, &one->when) < 0);
    lock_drop(&c->lock);
    return late;
}

void cutoffs_newest(struct cutoffs *c, const struct key *repo_id, char out[EVENT_ID_SIZE])
{
    const struct cutoff *one;
    struct when when;

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
    struct when when = when_of(applied);
    struct cutoff *one, *next;
    size_t count = 0;

    lock_take(&c->lock);
    if (compare(&c->all, &when) > 0) {
        if (count < room)
            out[count] = (struct cutoff_seen){.all = true, .ms = c->all.ms};
        count++;
    }
    HASH_ITER(hh, c->by_repo, one, next)
    {
        if (compare(&one->when, &when) <= 0)
            continue;
        if (count < room)
            out[count] = (struct cutoff_seen){.repo_id = one->repo_id, .ms = one->when.ms};
        count++;
    }
    lock_drop(&c->lock);
    return count;
}
