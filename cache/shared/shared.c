#include "cache/shared/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <utlist.h>

#include "cache/answer_file.h"
#include "cache/invalidate.h"
#include "cache/lock.h"
#include "cache/shared/cutoffs.h"
#include "cache/shared/invalidations.h"
#include "cache/shared/manifest.h"
#include "cache/workers.h"
#include "protocol/base.h"

enum {
    TICK_MS = 1000,
    DEMOTE_MS = 10 * 1000, /* between two looks at what is large and cold */
    /* Before what should go there and isn't there is put into the queue once more: it was when it
     * was published, and what the store refuses costs all its reading each time. */
    MISSING_MS = 10 * 60 * 1000,
    /* How long a repository counts as having no mirror in the store (that is of use here).  A
     * glance then costs nothing, and what another node puts meanwhile is found a bit later. */
    LACKS_MS = 30 * 1000,
    LACKS_MAX = 256,
    LEASE_WAIT_MS = 10 * 1000,
    /* Removals that uploads under way can still meet; of more at once the oldest is forgotten, and
     * an upload that began before it may stay. */
    REMOVALS_MAX = 64,
    HELD_MAX = 4096, /* uploads that wait for events; of more the new ones are forgotten */
    /* An invalidation that could not be told is told by whoever knows of it, when Redis has had
     * time to tell it itself. */
    UNHEARD_MS = 3000,
    UNHEARD_MAX = 1024, /* of more at once everything is taken for invalidated */
};

struct lack {
    struct key repo_id;
    uint64_t until_ms;
};

struct shared {
    struct cache *cache;
    struct shared_listener listener;
    char *node;
    enum compression compression;
    uint64_t tidy_interval_ms; /* as the keeper has it */
    size_t upload_queue;

    struct object_store *store; /* behind the guard */
    struct guard *guard;
    struct uploads *uploads;
    atomic_bool joined; /* uploads and chores are gone */
    struct leases *leases;
    struct events *events;
    struct cutoffs *cutoffs;
    struct keeper *keeper;
    struct workers *chores; /* one thread: tidying may take long, and probing must go on */
    pthread_t clock;
    atomic_bool stop;

    struct lock lock;
    pthread_cond_t stop_wanted;
    pthread_cond_t learnt;
    bool learning, knows; /* of the invalidations before this start */
    struct lack lacks[LACKS_MAX];
    size_t lacks_next;
    struct held *held; /* uploads that wait for events */
    size_t held_count;
    struct key removals[REMOVALS_MAX]; /* of repositories; number n lies at n % REMOVALS_MAX */
    uint64_t removals_count;
    struct keeper_round round;
    uint64_t removed, removed_bytes; /* in all rounds */

    /* The clock's own. */
    uint64_t tidy_ms, demote_ms, unheard_ms;
    uint64_t missing_ms; /* the chores' own, as is */
    uint64_t told_ms;    /* the newest invalidation of those that were told once more */

    atomic_uint_fast64_t hits, misses, restored, caught_up, damaged, demoted;
};

static int64_t now_s(void)
{
    return (int64_t)time(NULL);
}

static void report_damage(struct shared *s, const char *what, const struct err *why)
{
    atomic_fetch_add(&s->damaged, 1);
    s->listener.damage(s->listener.ctx, what, why);
}

/* ---- what was invalidated ---- */

static void note_cutoff(void *ctx, const struct key *repo_id, const char *id)
{
    struct shared *s = ctx;

    events_raise(s->events, id);
    cutoffs_note(s->cutoffs, repo_id, id);
}

/* Events tell of what is invalidated from this start on, notes of all before it: without them
 * nothing there can be trusted.  Read once; who comes meanwhile waits. */
static int learn(struct shared *s, struct err *err)
{
    bool knows;
    int rc;

    lock_take(&s->lock);
    while (s->learning)
        lock_wait(&s->lock, &s->learnt);
    knows = s->knows;
    s->learning = !knows;
    lock_drop(&s->lock);
    if (knows)
        return 0;
    rc = invalidations_list(s->store, note_cutoff, s, err);
    lock_take(&s->lock);
    s->learning = false;
    s->knows = rc == 0;
    pthread_cond_broadcast(&s->learnt);
    lock_drop(&s->lock);
    return rc;
}

/* ---- up ---- */

/* Our failure, or one that another try would meet again.  Keys that are refused altogether open the
 * circuit, and may be mended; those that may only read never put. */
static bool is_final(struct shared *s, const struct err *why)
{
    if (why->kind == ERR_DENIED)
        return !guard_open(s->guard, NULL);
    switch (why->kind) {
    case ERR_BUSY:
    case ERR_TIMEOUT:
    case ERR_UPSTREAM: return false;
    default: return true;
    }
}

/* Gone meanwhile, there already, or the end of the program. */
static bool is_of_no_interest(const struct err *why)
{
    return why->kind == ERR_NOT_FOUND || why->kind == ERR_CONFLICT || why->kind == ERR_CANCELLED;
}

/* ---- removed while they are on their way up ---- */

static uint64_t count_removals(struct shared *s)
{
    uint64_t count;

    lock_take(&s->lock);
    count = s->removals_count;
    lock_drop(&s->lock);
    return count;
}

/* Stands for all repositories: no digest is all zeros. */
static const struct key ALL = {{0}};

static void note_removal(struct shared *s, const struct key *repo_id)
{
    lock_take(&s->lock);
    s->removals[s->removals_count++ % REMOVALS_MAX] = *repo_id;
    lock_drop(&s->lock);
}

void shared_refuse_older(struct shared *s, const char *repo_id, const char *id)
{
    struct key one;
    bool all = !key_from_hex(repo_id, &one);

    cutoffs_note(s->cutoffs, all ? NULL : &one, id);
    note_removal(s, all ? &ALL : &one);
}

/* since: count_removals() of then. */
static bool was_removed(struct shared *s, const struct key *repo_id, uint64_t since)
{
    bool found = false;

    lock_take(&s->lock);
    if (since + REMOVALS_MAX < s->removals_count)
        since = s->removals_count - REMOVALS_MAX;
    for (; since < s->removals_count && !found; since++)
        found = key_equal(&s->removals[since % REMOVALS_MAX], repo_id) ||
                key_equal(&s->removals[since % REMOVALS_MAX], &ALL);
    lock_drop(&s->lock);
    return found;
}

static void on_removed(void *ctx, enum entry_kind kind, const struct key *key)
{
    struct shared *s = ctx;

    if (s->listener.removed != NULL)
        s->listener.removed(s->listener.ctx, kind, key);
}

/* What came up when it was to be gone: nobody else will look there again. */
static int take_back(struct shared *s, const struct key *repo_id, struct err *err)
{
    struct shared_removed gone = {.gone = on_removed, .ctx = s};

    return shared_remove(s->store, repo_id, &s->stop, &gone, err);
}

/* ---- uploads that wait for events ---- */

/* What this node has may be from before an invalidation that it has yet to hear of.  Others would
 * refuse it there, and it would be in the way of what is good. */
struct held {
    struct held *prev, *next;
    enum entry_kind kind;
    char needed[EVENT_ID_SIZE];
    char path[];
};

static void hold_back(struct shared *s, enum entry_kind kind, const char *path, const char *needed)
{
    struct held *h = xcalloc(1, sizeof(*h) + strlen(path) + 1);
    bool full;

    events_raise(s->events, needed); /* without Redis it is of this node's own clock */
    h->kind = kind;
    strcpy(h->needed, needed);
    strcpy(h->path, path);
    lock_take(&s->lock);
    full = s->held_count == HELD_MAX;
    if (!full) {
        DL_APPEND(s->held, h);
        s->held_count++;
    }
    lock_drop(&s->lock);
    if (full)
        free(h);
}

static struct held *take_held(struct shared *s, const char *applied)
{
    struct held *h;

    lock_take(&s->lock);
    DL_FOREACH(s->held, h)
    if (event_id_compare(applied, h->needed) >= 0)
        break;
    if (h != NULL) {
        DL_DELETE(s->held, h);
        s->held_count--;
    }
    lock_drop(&s->lock);
    return h;
}

static void release_held(struct shared *s)
{
    char applied[EVENT_ID_SIZE];
    struct held *h;

    events_applied(s->events, applied);
    while ((h = take_held(s, applied)) != NULL) {
        uploads_add(s->uploads, h->kind, h->path);
        free(h);
    }
}

/* ---- one upload ---- */

struct sent {
    uint64_t bytes; /* 0: it was there */
    struct key repo_id;
    char needed[EVENT_ID_SIZE]; /* it is to wait until that is applied here; "": it isn't */
};

/* For other nodes to know. */
static void tell_put(struct shared *s, const struct key *key, const char *object, struct entry *e,
                     uint64_t generation)
{
    free(e->path);
    e->path = xstrdup(object);
    e->tier = TIER_SHARED;
    s->listener.put(s->listener.ctx, key, e, generation);
}

static int put_file(struct shared *s, const char *path, int fd, const char *applied,
                    struct sent *sent, struct err *err)
{
    const char *slash = strrchr(path, '/');
    char object[OBJECT_KEY_MAX + 1];
    struct entry entry;
    struct key key;
    int rc;

    if (slash == NULL || !key_from_hex(slash + 1, &key))
        return err_set(err, ERR_NOT_FOUND, "%s is no answer", path);
    rc = answer_file_describe(fd, &entry, NULL, err);
    if (rc == 0 && !key_from_hex(entry.repo_id, &sent->repo_id))
        rc = err_set(err, ERR_CORRUPT, "an answer's record names no repository");
    if (rc == 0 && cutoffs_refuse(s->cutoffs, &sent->repo_id, applied)) {
        cutoffs_newest(s->cutoffs, &sent->repo_id, sent->needed);
        rc = err_set(err, ERR_BUSY, "this node has yet to hear of an invalidation");
    }
    if (rc == 0)
        rc =
            shared_answer_put(s->store, s->cutoffs, &key, fd, applied, &s->stop, &sent->bytes, err);
    if (rc == 0) {
        shared_answer_key(entry.repo_id, &key, object);
        tell_put(s, &key, object, &entry, 0);
    }
    entry_clear(&entry);
    return rc;
}

static int put_answer(struct shared *s, const char *path, const char *applied, struct sent *sent,
                      struct err *err)
{
    char *full = folder_pathf(s->cache->folder, "%s", path);
    int fd = open(full, O_RDONLY | O_CLOEXEC);
    int rc = fd >= 0
                 ? put_file(s, path, fd, applied, sent, err)
                 : err_errno(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_STORAGE, "open %s", path);

    free(full);
    if (fd >= 0)
        close(fd);
    if (rc != 0 && err->kind == ERR_CORRUPT) {
        struct err ignored;

        folder_report_damage(s->cache->folder, path, err);
        local_remove(s->cache->local, path, &ignored);
    }
    return rc;
}

/* A lease, so that one node at a time puts a mirror; and a fence, so that one that has lost it is
 * refused.  While none is to be had (Redis is away) it goes without: the store itself sees to it
 * that no put undoes another. */
static struct lease *take_lease(struct shared *s, const char *repo_id)
{
    struct lease *lease = NULL;
    struct err ignored;
    char *name;

    if (s->leases == NULL)
        return NULL;
    name = xasprintf("repo:%s", repo_id);
    if (leases_take(s->leases, name, LEASE_WAIT_MS, &lease, &ignored) != 0)
        lease = NULL;
    free(name);
    return lease;
}

static int put_one_mirror(struct shared *s, struct mirror *m, struct entry *e, const char *applied,
                          struct sent *sent, struct err *err)
{
    struct lease *lease = take_lease(s, e->repo_id);
    const struct shared_mirror_put_options options = {.node = s->node,
                                                      .compression = s->compression,
                                                      .lease = lease,
                                                      .fence =
                                                          lease != NULL ? lease_fence(lease) : 0,
                                                      .cutoffs = s->cutoffs,
                                                      .applied = applied,
                                                      .stop = &s->stop};
    char object[OBJECT_KEY_MAX + 1];
    struct shared_mirror_sent what = {0};
    int rc = shared_mirror_put(s->store, m, &options, &what, err);

    lease_release(&lease);
    *sent = (struct sent){.bytes = what.bytes, .repo_id = what.repo_id};
    strcpy(sent->needed, what.needed);
    if (rc == 0) {
        /* What was put over one that has nothing more is no more than ours either. */
        if (what.bytes > 0 && what.generation == mirror_generation(m) + 1)
            mirror_set_generation(m, what.generation);
        manifest_key(&what.repo_id, object);
        tell_put(s, &what.repo_id, object, e, what.generation);
    }
    if (rc != 0 && err->kind == ERR_CORRUPT)
        mirror_drop_damaged(m, err);
    return rc;
}

static int put_mirror(struct shared *s, const char *path, const char *applied, struct sent *sent,
                      struct err *err)
{
    struct mirror *m = mirrors_at(s->cache->mirrors, path);
    char *full = folder_pathf(s->cache->folder, "%s", path);
    struct entry e = {0};
    int rc;

    if (m == NULL || !mirror_ready(m))
        rc = err_set(err, ERR_NOT_FOUND, "%s is no mirror", path);
    else
        rc = mirror_read_entry(full, &e, err);
    if (rc == 0)
        rc = put_one_mirror(s, m, &e, applied, sent, err);
    entry_clear(&e);
    free(full);
    mirror_unref(&m);
    return rc;
}

static enum uploads_result upload(void *ctx, enum entry_kind kind, const char *path)
{
    struct shared *s = ctx;
    uint64_t started = now_us(), removals = count_removals(s);
    bool conditions = object_store_has_conditions(s->store);
    char applied[EVENT_ID_SIZE];
    struct sent sent = {0};
    struct err why;
    int rc;

    if (guard_open(s->guard, NULL)) /* who found that out is about to pause the queue */
        return UPLOADS_NOT_TRIED;
    rc = learn(s, &why);
    events_applied(s->events, applied); /* before a look at what lies here */
    applied[strcspn(applied, " ")] = '\0';
    if (rc == 0 && kind == ENTRY_ANSWER)
        rc = put_answer(s, path, applied, &sent, &why);
    else if (rc == 0)
        rc = put_mirror(s, path, applied, &sent, &why);
    if (rc == 0 && sent.bytes > 0)
        s->listener.uploaded(s->listener.ctx, path, sent.bytes, now_us() - started);
    if (sent.bytes > 0 && was_removed(s, &sent.repo_id, removals))
        rc = take_back(s, &sent.repo_id, &why); /* also what there is of one that failed */
    if (rc != 0 && sent.needed[0] != '\0') {
        hold_back(s, kind, path, sent.needed);
        return UPLOADS_DONE;
    }
    /* The store knows no conditions, which shows with the first: again, without. */
    if (rc != 0 && why.kind == ERR_REFUSED && conditions && !object_store_has_conditions(s->store))
        return UPLOADS_FAILED;
    if (rc != 0 && !is_of_no_interest(&why))
        s->listener.not_uploaded(s->listener.ctx, path, &why);
    return rc == 0 || is_final(s, &why) ? UPLOADS_DONE : UPLOADS_FAILED;
}

static void on_published(void *ctx, enum entry_kind kind, const char *path)
{
    struct shared *s = ctx;

    uploads_add(s->uploads, kind, path);
}

/* ---- down ---- */

int shared_get_answer(struct shared *s, const char *repo_id, const struct key *key,
                      const struct shared_answer_sink *sink, struct err *err)
{
    char object[OBJECT_KEY_MAX + 1];
    struct err ignored;
    int rc = learn(s, err);

    if (rc == 0)
        rc = shared_answer_get(s->store, s->cutoffs, repo_id, key, sink, err);

    shared_answer_key(repo_id, key, object);
    if (rc == 0) {
        atomic_fetch_add(&s->hits, 1);
        keeper_used(s->keeper, object, now_s());
    } else if (err->kind == ERR_NOT_FOUND) {
        atomic_fetch_add(&s->misses, 1);
    } else if (err->kind == ERR_CORRUPT) {
        object_remove(s->store, object, &ignored);
        report_damage(s, object, err);
    }
    return rc;
}

static void note_lack(struct shared *s, const struct key *repo_id)
{
    lock_take(&s->lock);
    s->lacks[s->lacks_next] = (struct lack){*repo_id, now_ms() + LACKS_MS};
    s->lacks_next = (s->lacks_next + 1) % LACKS_MAX;
    lock_drop(&s->lock);
}

static bool lacks(struct shared *s, const struct key *repo_id)
{
    uint64_t now = now_ms();
    bool found = false;

    lock_take(&s->lock);
    for (size_t i = 0; i < LACKS_MAX && !found; i++)
        found = s->lacks[i].until_ms > now &&
                memcmp(&s->lacks[i].repo_id, repo_id, sizeof(*repo_id)) == 0;
    lock_drop(&s->lock);
    return found;
}

bool shared_can_answer(struct shared *s, const char *repo_id, const struct key *key)
{
    char object[OBJECT_KEY_MAX + 1];
    struct object_info info;
    struct key repo;
    bool has = false;
    struct err why;

    shared_answer_key(repo_id, key, object);
    if (object_head(s->store, object, &info, &why) == 0)
        return true;
    if (why.kind != ERR_NOT_FOUND || !key_from_hex(repo_id, &repo) || lacks(s, &repo))
        return false;
    if (shared_mirror_has(s->store, &repo, &has, &why) == 0 && !has)
        note_lack(s, &repo);
    return has;
}

bool shared_may_restore(struct shared *s, const struct key *repo_id)
{
    return !guard_open(s->guard, NULL) && !lacks(s, repo_id);
}

/* None, one for which there is no room here, or another version's: the next request would only read
 * its manifest again to find the same. */
static bool is_of_no_use_here(const struct err *why)
{
    return why->kind == ERR_NOT_FOUND || why->kind == ERR_LIMIT || why->kind == ERR_REFUSED;
}

/* A mirror was asked for (rc, err), or what is new in one. */
static void note_result(struct shared *s, const struct key *repo_id, int rc, const struct err *err)
{
    char manifest[OBJECT_KEY_MAX + 1];

    manifest_key(repo_id, manifest);
    if (rc == 0)
        keeper_used(s->keeper, manifest, now_s());
    else if (is_of_no_use_here(err))
        note_lack(s, repo_id);
    else if (err->kind == ERR_CORRUPT)
        report_damage(s, manifest, err);
}

int shared_restore(struct shared *s, struct mirror *m, const struct key *repo_id,
                   shared_mirror_tick_fn *tick, void *ctx, struct shared_mirror_got *out,
                   struct err *err)
{
    int rc;

    *out = (struct shared_mirror_got){0};
    if (!shared_may_restore(s, repo_id))
        return err_set(err, ERR_NOT_FOUND, "the shared tier has no mirror");
    rc = learn(s, err);
    if (rc == 0)
        rc = shared_mirror_restore(s->store, s->cutoffs, m, repo_id, tick, ctx, out, err);
    if (rc != 0 && out->removed)
        on_removed(s, ENTRY_MIRROR, repo_id);
    if (rc == 0)
        atomic_fetch_add(&s->restored, 1);
    note_result(s, repo_id, rc, err);
    return rc;
}

int shared_catch_up(struct shared *s, struct mirror *m, const struct key *repo_id,
                    shared_mirror_tick_fn *tick, void *ctx, struct shared_mirror_got *out,
                    struct err *err)
{
    int rc;

    *out = (struct shared_mirror_got){0};
    if (!shared_may_restore(s, repo_id))
        return err_set(err, ERR_NOT_FOUND, "the shared tier has no mirror");
    rc = learn(s, err);
    if (rc == 0)
        rc = shared_mirror_catch_up(s->store, s->cutoffs, m, repo_id, tick, ctx, out, err);
    if (rc != 0 && out->removed)
        on_removed(s, ENTRY_MIRROR, repo_id);
    if (rc == 0 && out->bytes > 0)
        atomic_fetch_add(&s->caught_up, 1);
    note_result(s, repo_id, rc, err);
    return rc;
}

int shared_remove_repository(struct shared *s, const struct key *repo_id,
                             struct shared_removed *out, struct err *err)
{
    note_removal(s, repo_id);
    out->gone = on_removed;
    out->ctx = s;
    return shared_remove(s->store, repo_id, &s->stop, out, err);
}

int shared_remove_everything(struct shared *s, struct shared_removed *out, struct err *err)
{
    note_removal(s, &ALL);
    out->gone = on_removed;
    out->ctx = s;
    return shared_remove_all(s->store, &s->stop, out, err);
}

int shared_invalidation_note(struct shared *s, const struct event *e, const char *id,
                             struct err *err)
{
    shared_refuse_older(s, e->repo_id, id);
    return invalidations_note(s->store, e, id, now_s() * 1000, err);
}

struct replay {
    struct shared *shared;
    uint64_t count;
};

static int apply_noted(void *ctx, const struct event *e, const char *id, struct err *err)
{
    struct replay *r = ctx;
    const struct invalidation what = {.scope = e->scope,
                                      .repo_id = e->repo_id,
                                      .object = e->name,
                                      .unpin_s = e->unpin ? event_id_ms(id) / 1000 : 0};
    struct invalidated gone;

    r->count++;
    shared_refuse_older(r->shared, e->repo_id, id);
    return cache_invalidate(r->shared->cache, &what, &gone, err);
}

int shared_invalidations_apply(struct shared *s, uint64_t *count, struct err *err)
{
    struct replay r = {.shared = s};
    int rc = invalidations_each(s->store, &s->stop, apply_noted, &r, err);

    *count = r.count;
    return rc;
}

/* ---- the clock ---- */

static void tidy(void *ctx)
{
    struct shared *s = ctx;
    uint64_t started = now_us();
    struct keeper_round round;
    struct err ignored; /* of the store's, which the guard tells */

    if (keeper_tidy(s->keeper, now_s(), &s->stop, &round, &ignored) != 0 || !round.held)
        return;
    lock_take(&s->lock);
    s->round = round;
    s->removed += round.removed;
    s->removed_bytes += round.removed_bytes;
    lock_drop(&s->lock);
    s->listener.tidied(s->listener.ctx, &round, now_us() - started);
}

static int has_all_of_mirror(void *ctx, const char *path, bool *has, struct err *err)
{
    struct shared *s = ctx;
    struct mirror *m = mirrors_at(s->cache->mirrors, path);
    int rc = 0;

    *has = true; /* of what has gone meanwhile nothing is missing */
    if (m != NULL && mirror_ready(m))
        rc = learn(s, err);
    if (m != NULL && mirror_ready(m) && rc == 0)
        rc = shared_mirror_has_all(s->store, s->cutoffs, m, has, err);
    mirror_unref(&m);
    return rc;
}

static void demote(void *ctx)
{
    struct shared *s = ctx;
    bool again = now_ms() >= s->missing_ms;
    struct keeper_demoted what;
    struct err ignored;

    if (learn(s, &ignored) != 0)
        return;
    if (again)
        s->missing_ms = now_ms() + MISSING_MS;
    if (keeper_demote(s->keeper, now_s(), &s->stop, again ? on_published : NULL, s, &what,
                      &ignored) != 0 ||
        what.entries == 0)
        return;
    atomic_fetch_add(&s->demoted, what.entries);
    s->listener.demoted(s->listener.ctx, &what);
}

/* ---- what could not be told ---- */

static int tell_again(struct shared *s, const struct cutoff_seen *what)
{
    struct event e = {.kind = EVENT_INVALIDATE,
                      .scope = what->all ? SCOPE_EVERYTHING : SCOPE_REPOSITORY,
                      .repo = "",
                      .name = "",
                      .reason = "noted while Redis was away",
                      .node = ""};
    char id[EVENT_ID_SIZE];
    struct err ignored;

    if (!what->all)
        key_to_hex(&what->repo_id, e.repo_id);
    return events_send(s->events, &e, id, &ignored);
}

/* Those that are newer than all that was applied here, though the stream has no more; room for
 * UNHEARD_MAX. */
static size_t find_unheard(struct shared *s, struct cutoff_seen *out)
{
    char applied[EVENT_ID_SIZE], begun[EVENT_ID_SIZE], still[EVENT_ID_SIZE];
    uint64_t until = wall_ms() - UNHEARD_MS;
    size_t found, count = 0;

    events_applied(s->events, applied);
    found = cutoffs_behind(s->cutoffs, applied, out, UNHEARD_MAX);
    /* One that is just being applied is noted before that. */
    events_seen(s->events, begun, still);
    if (!events_caught_up(s->events, now_ms()) || event_id_compare(begun, still) > 0 ||
        event_id_compare(still, applied) != 0)
        return 0;
    if (found > UNHEARD_MAX) {
        out[0] = (struct cutoff_seen){.all = true, .ms = until};
        found = 1;
    }
    for (size_t i = 0; i < found; i++)
        if (out[i].ms > s->told_ms && out[i].ms <= until)
            out[count++] = out[i];
    return count;
}

/* Who could not tell an invalidation, as Redis was away, has written it down.  Until some event is
 * newer all uploads are held back that it is about, and other nodes know nothing of it. */
static void tell_unheard(void *ctx)
{
    struct shared *s = ctx;
    struct cutoff_seen *unheard = xcalloc(UNHEARD_MAX, sizeof(*unheard));
    size_t count = find_unheard(s, unheard);
    uint64_t newest = s->told_ms;
    bool told = true;

    for (size_t i = 0; i < count && told; i++) {
        newest = unheard[i].ms > newest ? unheard[i].ms : newest;
        told = tell_again(s, &unheard[i]) == 0;
    }
    if (told) /* once: if Redis's clock is behind, the next event will do */
        s->told_ms = newest;
    free(unheard);
}

/* ---- its turns ---- */

/* A chore that is under way keeps the others waiting for their next time. */
static void do_if_due(struct shared *s, uint64_t *at_ms, uint64_t interval_ms, worker_fn *fn)
{
    uint64_t now = now_ms();

    if (now < *at_ms || workers_load(s->chores) > 0 || guard_open(s->guard, NULL))
        return;
    *at_ms = now + interval_ms;
    workers_submit(s->chores, fn, s);
}

struct leftover {
    struct shared *shared;
    size_t skip; /* of the oldest: the queue has no room for more */
};

static int add_leftover(void *ctx, const struct entry *e)
{
    struct leftover *l = ctx;

    if (l->skip > 0)
        l->skip--;
    else
        uploads_add(l->shared->uploads, e->kind, e->path);
    return l->shared->stop;
}

/* What waited when this node ended, however it did, goes up now: the latest that lie here.  What is
 * there already costs a glance each. */
static void resume(struct shared *s)
{
    struct leftover l = {.shared = s};
    struct local_usage usage;
    uint64_t count = 0;
    struct err ignored;

    local_usage(s->cache->local, &usage);
    for (size_t i = 0; i < ENTRY_KINDS_COUNT; i++)
        count += usage.entries[i];
    l.skip = count > s->upload_queue ? count - s->upload_queue : 0;
    local_each(s->cache->local, add_leftover, &l, &ignored);
}

static void *keep_time(void *ctx)
{
    struct shared *s = ctx;
    struct err ignored;

    learn(s, &ignored); /* or else the first who asks */
    guard_probe(s->guard, now_ms(), true);
    resume(s);
    lock_take(&s->lock);
    while (!s->stop) {
        lock_wait_until(&s->lock, &s->stop_wanted, now_ms() + TICK_MS);
        if (s->stop)
            break;
        lock_drop(&s->lock);
        guard_probe(s->guard, now_ms(), false);
        release_held(s);
        do_if_due(s, &s->demote_ms, DEMOTE_MS, demote);
        do_if_due(s, &s->tidy_ms, s->tidy_interval_ms, tidy);
        if (s->leases != NULL) /* the last, as it is due each time */
            do_if_due(s, &s->unheard_ms, TICK_MS, tell_unheard);
        lock_take(&s->lock);
    }
    lock_drop(&s->lock);
    return NULL;
}

/* ---- its life ---- */

static void on_changed(void *ctx, const struct err *why)
{
    struct shared *s = ctx;

    if (!s->joined)
        uploads_pause(s->uploads, why != NULL);
    s->listener.changed(s->listener.ctx, why);
}

int shared_open(struct cache *cache, const struct shared_options *options,
                const struct shared_listener *listener, struct shared **out, struct err *err)
{
    struct object_store *store;
    struct shared *s;

    if (object_store_open(&options->store, &store, err) != 0)
        return -1;
    s = xcalloc(1, sizeof(*s));
    s->cache = cache;
    s->listener = *listener;
    s->leases = options->leases;
    s->events = options->events;
    s->cutoffs = cutoffs_new();
    s->node = xstrdup(options->node);
    s->compression = options->compression;
    s->tidy_interval_ms = (uint64_t)options->limits.interval_s * 1000;
    s->upload_queue = options->upload_queue;
    lock_init(&s->lock, LOCK_SHARED);
    lock_cond_init(&s->stop_wanted);
    lock_cond_init(&s->learnt);
    s->uploads = uploads_new(options->uploads, options->upload_queue, upload, s);
    s->store = guard_new(&store, on_changed, s, &s->guard);
    s->keeper = keeper_new(s->store, cache->local, &(struct keeper_mirrors){has_all_of_mirror, s},
                           s->cutoffs, options->node, &options->limits);
    s->chores = workers_new("shared", 1, 1);
    s->tidy_ms = now_ms() + s->tidy_interval_ms;
    s->demote_ms = now_ms();
    s->missing_ms = now_ms() + MISSING_MS;
    local_set_listener(cache->local, on_published, s);
    must(pthread_create(&s->clock, NULL, keep_time, s) == 0);
    *out = s;
    return 0;
}

void shared_stop(struct shared *s)
{
    lock_take(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->stop_wanted);
    lock_drop(&s->lock);
    uploads_stop(s->uploads);
    object_store_stop(s->store);
}

void shared_join(struct shared *s)
{
    if (s->joined)
        return;
    s->joined = true;
    shared_stop(s);
    local_set_listener(s->cache->local, NULL, NULL);
    pthread_join(s->clock, NULL);
    workers_free(&s->chores);
    uploads_free(&s->uploads);
}

void shared_close(struct shared **sp)
{
    struct shared *s = *sp;
    struct held *h, *next;

    *sp = NULL;
    if (s == NULL)
        return;
    shared_join(s);
    keeper_free(&s->keeper);
    object_store_free(&s->store);
    cutoffs_free(&s->cutoffs);
    DL_FOREACH_SAFE(s->held, h, next)
    free(h);
    pthread_cond_destroy(&s->learnt);
    pthread_cond_destroy(&s->stop_wanted);
    lock_clear(&s->lock);
    free(s->node);
    free(s);
}

void shared_configure(struct shared *s, const struct keeper_limits *limits)
{
    keeper_configure(s->keeper, limits);
}

bool shared_troubled(struct shared *s, struct err *why)
{
    return guard_open(s->guard, why);
}

void shared_count(struct shared *s, struct shared_counts *out)
{
    *out = (struct shared_counts){
        .hits = atomic_load(&s->hits),
        .misses = atomic_load(&s->misses),
        .restored = atomic_load(&s->restored),
        .caught_up = atomic_load(&s->caught_up),
        .damaged = atomic_load(&s->damaged),
        .demoted = atomic_load(&s->demoted),
    };
    uploads_count(s->uploads, &out->uploads);
    guard_count(s->guard, &out->store);
    lock_take(&s->lock);
    out->round = s->round;
    out->removed = s->removed;
    out->removed_bytes = s->removed_bytes;
    lock_drop(&s->lock);
}
