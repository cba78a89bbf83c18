#include "cache/shared/cutoffs.h"

#include <stdio.h>
#include <stdlib.h>

#include <uthash.h>

#include "cache/lock.h"
#include "protocol/base.h"

struct cutoff {
    struct key repo_id;
    char id[EVENT_ID_SIZE];
    UT_hash_handle hh;
};

struct cutoffs {
    struct lock lock;
    struct cutoff *by_repo;
    char all[EVENT_ID_SIZE]; /* what was put before this is too late */
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

static void raise_to(char at[EVENT_ID_SIZE], const char *id)
{
    if (event_id_compare(id, at) > 0)
        snprintf(at, EVENT_ID_SIZE, "%s", id);
}

static void make_room_locked(struct cutoffs *c)
{
    struct cutoff *oldest = c->by_repo;

    if (HASH_COUNT(c->by_repo) < CUTOFFS_MAX)
        return;
    for (struct cutoff *one = c->by_repo; one != NULL; one = one->hh.next)
        if (event_id_compare(one->id, oldest->id) < 0)
            oldest = one;
    raise_to(c->all, oldest->id);
    HASH_DEL(c->by_repo, oldest);
    free(oldest);
}

static struct cutoff *find_locked(struct cutoffs *c, const struct key *repo_id)
{
    struct cutoff *one;

    HASH_FIND(hh, c->by_repo, repo_id, sizeof(*repo_id), one);
    return one;
}

static void note_locked(struct cutoffs *c, const struct key *repo_id, const char *id)
{
    struct cutoff *one = find_locked(c, repo_id);

    if (one == NULL) {
        make_room_locked(c);
        one = xcalloc(1, sizeof(*one));
        one->repo_id = *repo_id;
        HASH_ADD(hh, c->by_repo, repo_id, sizeof(one->repo_id), one);
    }
    raise_to(one->id, id);
}

void cutoffs_note(struct cutoffs *c, const struct key *repo_id, const char *id)
{
    lock_take(&c->lock);
    if (repo_id != NULL)
        note_locked(c, repo_id, id);
    else
        raise_to(c->all, id);
    lock_drop(&c->lock);
}

bool cutoffs_refuse(struct cutoffs *c, const struct key *repo_id, const char *applied)
{
    const struct cutoff *one;
    bool late;

    if (applied == NULL)
        applied = "";
    lock_take(&c->lock);
    one = find_locked(c, repo_id);
    late = event_id_compare(applied, c->all) < 0 ||
           (one != NULL && event_id_compare(applied, one->id) < 0);
    lock_drop(&c->lock);
    return late;
}
