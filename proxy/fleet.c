#include "proxy/fleet.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "cache/invalidate.h"
#include "cache/lock.h"
#include "cache/shared/shared.h"
#include "protocol/base.h"
#include "proxy/chores.h"
#include "proxy/decisions.h"
#include "proxy/log.h"
#include "proxy/refs.h"
#include "proxy/seen.h"

enum {
    TICK_MS = 1000,
    CLAIM_TTL_MS = 10 * 1000, /* a node that dies leaves what it was making to others */
    CLAIM_RENEW_MS = 3 * 1000,
    /* What is whole can be followed here until the shared tier has it; a transfer of some GB. */
    CLAIM_KEPT_MS = 60 * 1000,
    LEASE_WAIT_MS = 5000,
    APPLIED_WAIT_MS = 5000,
    REMEMBER_MS = 24 * 3600 * 1000, /* nodes that may be cut off and serve */
};

/* An answer that we are making, or have, and others may follow. */
struct held {
    struct filling filling;
    bool kept;
    struct held *prev, *next;
};

struct fleet {
    struct proxy *proxy;
    struct cluster *cluster;
    struct queue *own; /* fleet_own_jobs() */
    bool alone;
    char *node, *address;
    uint64_t node_ttl_ms;

    struct lock lock;
    pthread_cond_t stop_wanted;
    struct held *held;
    bool stopping;
    pthread_t thread;
    bool started;
};

/* ---- events ---- */

/* id: of the event, or where it couldn't be sent clock_id(). */
static void describe(const struct event *e, const char *id, struct invalidation *out)
{
    int64_t unpin_s = event_id_ms(e->unpin_id[0] != '\0' ? e->unpin_id : id) / 1000;

    *out = (struct invalidation){.scope = e->scope,
                                 .repo_id = e->repo_id,
                                 .object = e->name,
                                 .unpin_s = e->unpin ? unpin_s : 0};
}

static void log_invalidated(const struct event *e, const struct invalidated *what)
{
    log_line(LOG_INFO, "invalidated", "scope", LOG_STR, event_scope_name(e->scope), "repository",
             LOG_STR, e->repo[0] != '\0' ? e->repo : NULL, "name", LOG_STR,
             e->name[0] != '\0' ? e->name : NULL, "node", LOG_STR, e->node, "reason", LOG_STR,
             e->reason[0] != '\0' ? e->reason : NULL, "answers", LOG_U64, what->answers, "mirrors",
             LOG_U64, what->mirrors, "bytes", LOG_U64, what->bytes, "unpin", LOG_STR,
             e->unpin ? "yes" : NULL, NULL);
}

static void forget_all_refs(struct fleet *f)
{
    decisions_forget_all(f->proxy->decisions);
    refs_forget(f->proxy->refs, NULL);
}

static void forget_refs(struct fleet *f, const struct event *e)
{
    struct key repo_id;

    if (key_from_hex(e->repo_id, &repo_id)) {
        decisions_forget(f->proxy->decisions, &repo_id);
        refs_forget(f->proxy->refs, &repo_id);
        if (e->repo[0] != '\0')
            refs_forget_named(f->proxy->refs, e->repo);
    } else {
        forget_all_refs(f);
    }
}

/* Ours were told of it by whoever has seen it here (proxy/pushes.h). */
static void refresh_own(struct fleet *f, const struct event *e)
{
    struct key repo_id;

    if (f->own != NULL && strcmp(e->node, f->node) != 0 && e->repo[0] != '\0' &&
        key_from_hex(e->repo_id, &repo_id))
        chores_add_refresh(f, QUEUE_NORMAL, &repo_id, e->repo);
}

/* A push leaves it: what was seen says when. */
static void forget_seen(struct fleet *f, const struct event *e)
{
    struct key repo_id;
    bool one = key_from_hex(e->repo_id, &repo_id);

    seen_forget(f->proxy->seen, one ? &repo_id : NULL);
}

static int apply_event(void *ctx, const char *id, const struct event *e, struct err *err)
{
    struct fleet *f = ctx;
    struct invalidation what;
    struct invalidated gone;
    int rc;

    switch (e->kind) {
    case EVENT_UPDATE:
        if (e->generation == 0) { /* a push: what is known of the refs is old */
            forget_refs(f, e);
            refresh_own(f, e);
        }
        return 0;
    case EVENT_INVALIDATE:
        forget_refs(f, e);
        forget_seen(f, e);
        if (f->proxy->cache.shared != NULL && e->scope != SCOPE_REF)
            shared_refuse_older(f->proxy->cache.shared, e->repo_id, id);
        describe(e, id, &what);
        rc = cache_invalidate(&f->proxy->cache, &what, &gone, err);
        if (rc == 0)
            log_invalidated(e, &gone);
        return rc;
    }
    return 0;
}

/* Nobody can tell which: what the shared tier has a record of goes; without one, everything. */
static int take_for_invalidated(void *ctx, const char *why, struct err *err)
{
    struct fleet *f = ctx;
    const struct invalidation everything = {.scope = SCOPE_EVERYTHING, .repo_id = "", .object = ""};
    struct invalidated gone = {.answers = 0};
    uint64_t count = 0;
    int rc;

    forget_all_refs(f);
    seen_forget(f->proxy->seen, NULL);
    if (f->proxy->cache.shared != NULL) {
        rc = shared_invalidations_apply(f->proxy->cache.shared, &count, err);
    } else {
        rc = cache_invalidate(&f->proxy->cache, &everything, &gone, err);
        count = gone.answers + gone.mirrors;
    }
    /* At the first start of a node there is nothing to lose. */
    if (rc == 0)
        log_line(count > 0 ? LOG_WARN : LOG_INFO, "events of other nodes may have been missed",
                 "reason", LOG_STR, why, "invalidations", LOG_STR,
                 f->proxy->cache.shared != NULL ? "those that the shared tier has"
                                                : "everything was dropped",
                 "count", LOG_U64, count, NULL);
    return rc;
}

/* ---- the thread: heartbeats' contents, renewals ---- */

static void describe_load(struct fleet *f)
{
    struct local_usage usage;

    local_usage(f->proxy->cache.local, &usage);
    nodes_describe(cluster_nodes(f->cluster),
                   &(struct node_load){.requests = workers_load(f->proxy->queries) +
                                                   workers_load(f->proxy->fills),
                                       .disk_used = usage.total,
                                       .disk_limit = usage.limit});
}

static size_t copy_held(struct fleet *f, struct filling **out)
{
    const struct held *h;
    size_t count = 0, n;

    lock_take(&f->lock);
    DL_COUNT(f->held, h, n);
    *out = xcalloc(n + 1, sizeof(**out));
    DL_FOREACH(f->held, h)
    (*out)[count++] = h->filling;
    lock_drop(&f->lock);
    return count;
}

static void renew_claims(struct fleet *f)
{
    struct filling *all;
    size_t count = copy_held(f, &all);

    for (size_t i = 0; i < count; i++)
        filling_renew(cluster_redis(f->cluster), &all[i], CLAIM_TTL_MS);
    free(all);
}

static void *keep_up(void *ctx)
{
    struct fleet *f = ctx;
    uint64_t renew_ms = 0;

    lock_take(&f->lock);
    while (!f->stopping) {
        lock_drop(&f->lock);
        describe_load(f);
        if (now_ms() >= renew_ms) {
            renew_claims(f);
            renew_ms = now_ms() + CLAIM_RENEW_MS;
        }
        lock_take(&f->lock);
        if (!f->stopping)
            lock_wait_until(&f->lock, &f->stop_wanted, now_ms() + TICK_MS);
    }
    lock_drop(&f->lock);
    return NULL;
}

/* ---- its life ---- */

static char *listening_on(const struct config *c)
{
    bool v6 = strchr(c->cluster.listen.host, ':') != NULL;

    return xasprintf("%s%s%s:%u", v6 ? "[" : "", c->cluster.listen.host, v6 ? "]" : "",
                     c->cluster.listen.port);
}

static int check(const struct config *c, struct err *err)
{
    if (c->cluster.listen.host != NULL && c->cluster.secret_file == NULL)
        return err_set(err, ERR_INPUT, "cluster.listen needs cluster.secret_file");
    if (c->cluster.listen.host != NULL && c->cluster.listen.port == 0 &&
        c->cluster.advertise == NULL)
        return err_set(err, ERR_INPUT, "cluster.listen needs a port, or cluster.advertise");
    return 0;
}

/* ---- what lies here ---- */

static bool can_be_followed(const struct fleet *f)
{
    return !f->alone && f->address[0] != '\0';
}

static bool key_of_path(const char *path, struct key *out)
{
    const char *slash = strrchr(path, '/');

    return slash != NULL && key_from_hex(slash + 1, out);
}

static int list_one(void *ctx, const struct entry *e)
{
    struct key key;

    if (e->kind != ENTRY_ANSWER || !key_of_path(e->path, &key))
        return 0;
    return records_again(ctx, &key, e);
}

static void list_kept(void *ctx, struct records *r)
{
    struct fleet *f = ctx;
    struct err ignored; /* told when something is published */

    /* Also where there is a shared tier: that may have refused it, or not have it yet.  Of what it
     * has, who gets it from there tells, which counts for more. */
    if (can_be_followed(f))
        local_each(f->proxy->cache.local, list_one, r, &ignored);
}

/* holder: NULL, this node. */
static void tell_left(struct records *r, const struct key *key, const char *holder)
{
    const struct entry e = {.kind = ENTRY_ANSWER, .node = (char *)holder};

    records_tell(r, INDEX_LEFT, key, &e);
}

static void on_gone(void *ctx, enum entry_kind kind, const char *path)
{
    struct key key;

    if (kind == ENTRY_ANSWER && key_of_path(path, &key))
        tell_left(ctx, &key, NULL);
}

int fleet_new(struct proxy *p, const struct config *c, struct fleet **out, struct err *err)
{
    struct fleet *f = xcalloc(1, sizeof(*f));
    char *position = folder_pathf(p->cache.folder, "events");
    struct cluster_config config = {
        .redis = {.url = c->redis.url,
                  .password_file = c->redis.password_file,
                  .prefix = c->redis.prefix,
                  .ca_file = c->redis.ca_file,
                  .certificate = c->redis.certificate,
                  .key = c->redis.key,
                  .timeout_ms = c->redis.timeout_ms},
        .node = {.id = c->node,
                 .version = PANNIER_VERSION,
                 .ttl_ms = c->cluster.node_ttl_ms,
                 .heartbeat_ms = c->cluster.node_ttl_ms / 5,
                 .remember_ms = c->cluster.when_away == AWAY_SERVE ? REMEMBER_MS : 0},
        .handler = {.apply = apply_event, .missed = take_for_invalidated, .ctx = f},
        .position_file = position,
        .lease_ttl_ms = c->cluster.lease_ttl_ms,
        .list = list_kept,
        .list_ctx = f,
    };
    int rc = check(c, err);

    f->proxy = p;
    f->alone = c->redis.url == NULL;
    if (!f->alone && c->shared.driver == SHARED_OFF)
        f->own = queue_new(NULL, &(struct queue_config){0});
    f->node = xstrdup(c->node);
    f->node_ttl_ms = c->cluster.node_ttl_ms;
    f->address = c->cluster.listen.host == NULL ? xstrdup("")
                 : c->cluster.advertise != NULL ? xstrdup(c->cluster.advertise)
                                                : listening_on(c);
    config.node.address = f->address;
    lock_init(&f->lock, LOCK_FLEET);
    lock_cond_init(&f->stop_wanted);
    if (rc == 0)
        rc = cluster_open(&config, &f->cluster, err);
    free(position);
    if (rc == 0 && can_be_followed(f))
        local_set_gone_listener(p->cache.local, on_gone, cluster_records(f->cluster));
    if (rc == 0)
        *out = f;
    else
        fleet_free(&f);
    return rc;
}

void fleet_start(struct fleet *f)
{
    cluster_start(f->cluster);
    must(pthread_create(&f->thread, NULL, keep_up, f) == 0);
    f->started = true;
}

void fleet_stop(struct fleet *f)
{
    lock_take(&f->lock);
    f->stopping = true;
    pthread_cond_signal(&f->stop_wanted);
    lock_drop(&f->lock);
    if (f->own != NULL)
        queue_stop(f->own);
    if (f->started)
        cluster_stop(f->cluster);
}

void fleet_free(struct fleet **fp)
{
    struct fleet *f = *fp;
    struct held *h, *next;

    *fp = NULL;
    if (f == NULL)
        return;
    if (f->started) {
        fleet_stop(f);
        pthread_join(f->thread, NULL);
    }
    cluster_free(&f->cluster); /* until its end events remove what is here */
    local_set_gone_listener(f->proxy->cache.local, NULL, NULL);
    queue_free(&f->own);
    DL_FOREACH_SAFE(f->held, h, next)
    free(h);
    pthread_cond_destroy(&f->stop_wanted);
    lock_clear(&f->lock);
    free(f->address);
    free(f->node);
    free(f);
}

struct cluster *fleet_cluster(struct fleet *f)
{
    return f->cluster;
}

struct queue *fleet_own_jobs(struct fleet *f)
{
    return f->own;
}

bool fleet_is_alone(struct fleet *f)
{
    return f->alone;
}

bool fleet_may_serve(struct fleet *f, const struct config *c)
{
    if (f->alone || cluster_may_serve(f->cluster, now_ms()))
        return true;
    return c->cluster.when_away == AWAY_SERVE && !redis_is_up(cluster_redis(f->cluster), NULL);
}

/* ---- claims ---- */

static void hold(struct fleet *f, const struct filling *filling)
{
    struct held *h = xcalloc(1, sizeof(*h));

    h->filling = *filling;
    lock_take(&f->lock);
    DL_APPEND(f->held, h);
    lock_drop(&f->lock);
}

enum sought fleet_seek(struct fleet *f, const struct key *key, enum seek_mode mode,
                       struct seek_found *found)
{
    const struct filler us = {f->node, f->address, CLAIM_TTL_MS};
    struct err ignored;

    if (!can_be_followed(f) ||
        filling_seek(cluster_redis(f->cluster), &us, key, mode, found, &ignored) != 0)
        *found = (struct seek_found){.sought = SOUGHT_NOTHING};
    if (found->sought == SOUGHT_OURS)
        hold(f, &found->filling);
    return found->sought;
}

void fleet_unclaim(struct fleet *f, const struct filling *ours, bool kept)
{
    struct held *h, *found = NULL;

    lock_take(&f->lock);
    DL_FOREACH(f->held, h)
    {
        /* By its token: what an invalidation let go of may have a successor under its key. */
        if (strcmp(h->filling.token, ours->token) == 0)
            found = h;
    }
    if (found != NULL)
        DL_DELETE(f->held, found);
    lock_drop(&f->lock);
    if (found == NULL)
        return;
    if (kept)
        filling_renew(cluster_redis(f->cluster), &found->filling, CLAIM_KEPT_MS);
    else
        filling_clear(cluster_redis(f->cluster), &found->filling);
    free(found);
}

void fleet_disclaim(struct fleet *f, const struct filling *theirs)
{
    filling_clear(cluster_redis(f->cluster), theirs);
}

bool fleet_knows_of(struct fleet *f, const struct key *key)
{
    struct seek_found found;

    return fleet_seek(f, key, SEEK_LOOK, &found) != SOUGHT_NOTHING || found.holder[0] != '\0';
}

/* ---- leases ---- */

struct lease *fleet_lease(struct fleet *f, const struct key *repo_id, bool *theirs)
{
    char hex[KEY_HEX_SIZE];
    struct lease *lease = NULL;
    struct err why;
    char *name;

    if (theirs != NULL)
        *theirs = false;
    if (f->alone)
        return NULL; /* the mirror's own writers come one at a time */
    key_to_hex(repo_id, hex);
    name = xasprintf("repo:%s", hex);
    if (leases_take(cluster_leases(f->cluster), name, LEASE_WAIT_MS, &lease, &why) != 0) {
        lease = NULL;
        if (theirs != NULL)
            *theirs = why.kind == ERR_TIMEOUT;
    }
    free(name);
    return lease;
}

/* ---- what all know ---- */

void fleet_on_put(void *fleet, const struct key *key, const struct entry *e, uint64_t generation)
{
    struct fleet *f = fleet;

    if (f->alone)
        return;
    records_tell(cluster_records(f->cluster), INDEX_SHARED, key, e);
    if (generation > 0)
        fleet_note_generation(f, key, generation);
}

void fleet_on_removed(void *fleet, enum entry_kind kind, const struct key *key)
{
    struct fleet *f = fleet;
    const struct entry e = {.kind = kind};
    char hex[KEY_HEX_SIZE];
    struct err ignored; /* then it is higher than it need be, and the shared tier is asked */

    if (f->alone)
        return;
    records_tell(cluster_records(f->cluster), INDEX_GONE, key, &e);
    if (kind == ENTRY_MIRROR) {
        key_to_hex(key, hex);
        shared_generation_forget(cluster_index(f->cluster), hex, &ignored);
    }
}

void fleet_note_use(struct fleet *f, const struct key *key, const struct entry *e)
{
    if (!f->alone)
        records_tell(cluster_records(f->cluster), INDEX_USED, key, e);
}

void fleet_note_kept(struct fleet *f, const struct key *key, const struct entry *e)
{
    if (can_be_followed(f))
        records_tell(cluster_records(f->cluster), INDEX_LOCAL, key, e);
}

void fleet_note_left(struct fleet *f, const struct key *key, const char *holder)
{
    tell_left(cluster_records(f->cluster), key, holder);
}

int fleet_find_mirror(struct fleet *f, const struct key *repo_id, struct entry *out,
                      struct err *err)
{
    return shared_index_find(cluster_index(f->cluster), ENTRY_MIRROR, repo_id, out, err);
}

uint64_t fleet_generation(struct fleet *f, const struct key *repo_id)
{
    char hex[KEY_HEX_SIZE];
    struct err ignored;
    uint64_t newest;

    key_to_hex(repo_id, hex);
    return shared_generation_get(cluster_index(f->cluster), hex, &newest, &ignored) == 0 ? newest
                                                                                         : 0;
}

void fleet_note_generation(struct fleet *f, const struct key *repo_id, uint64_t generation)
{
    char hex[KEY_HEX_SIZE];
    struct err ignored; /* or it is told with the next one */

    key_to_hex(repo_id, hex);
    shared_generation_raise(cluster_index(f->cluster), hex, generation, &ignored);
}

/* ---- telling ---- */

void fleet_tell_update(struct fleet *f, const struct key *repo_id, const char *name,
                       const char *reason)
{
    struct event e = {.kind = EVENT_UPDATE, .repo = name, .name = "", .reason = reason, .node = ""};
    char id[EVENT_ID_SIZE];
    struct err why;

    if (f->alone)
        return;
    key_to_hex(repo_id, e.repo_id);
    if (events_send(cluster_events(f->cluster), &e, id, &why) != 0)
        log_line(LOG_WARN, "a push was not told to the other nodes", "reason", LOG_STR, why.text,
                 NULL);
}

static int remove_shared(struct fleet *f, const struct fleet_invalidation *what,
                         struct fleet_invalidated *out, struct err *err)
{
    struct shared *shared = f->proxy->cache.shared;
    struct shared_removed gone = {0};
    int rc = 0;

    if (shared == NULL || what->scope == SCOPE_REF)
        return 0;
    if (what->scope == SCOPE_EVERYTHING)
        rc = shared_remove_everything(shared, &gone, err);
    else
        rc = shared_remove_repository(shared, &what->repo_id, &gone, err);
    out->shared_objects += gone.objects;
    out->shared_bytes += gone.bytes;
    return rc;
}

/* Have all applied it?  0: *out says so. */
static int wait_told(struct fleet *f, const char *id, struct fleet_invalidated *out,
                     struct err *err)
{
    struct err late;

    node_list_clear(&out->late);
    /* A node that died just now counts as alive for its ttl. */
    out->acknowledged =
        events_wait_applied(cluster_events(f->cluster), id, f->node_ttl_ms + APPLIED_WAIT_MS,
                            &out->late, &late) == 0;
    if (out->acknowledged || late.kind == ERR_TIMEOUT)
        return 0;
    *err = late;
    return -1;
}

/* Of what can't be sent now. */
static void clock_id(char out[EVENT_ID_SIZE])
{
    snprintf(out, EVENT_ID_SIZE, "%" PRIu64 "-0", wall_ms());
}

static int tell(struct fleet *f, const struct event *e, char id[EVENT_ID_SIZE], struct err *err)
{
    return events_send(cluster_events(f->cluster), e, id, err);
}

int fleet_invalidate(struct fleet *f, const struct fleet_invalidation *what,
                     struct fleet_invalidated *out, struct err *err)
{
    struct event e = {.kind = EVENT_INVALIDATE,
                      .scope = what->scope,
                      .repo = what->repo,
                      .name = what->name,
                      .reason = what->reason,
                      .node = f->node,
                      .unpin = what->unpin};
    struct invalidation here;
    struct invalidated gone;
    char id[EVENT_ID_SIZE];
    struct err why;
    int rc = 0, told;

    *out = (struct fleet_invalidated){0};
    if (what->scope != SCOPE_EVERYTHING)
        key_to_hex(&what->repo_id, e.repo_id);
    /* First, as it has effect at once, and the shared tier may take its time. */
    told = tell(f, &e, id, &why);
    if (told != 0) { /* here at least */
        clock_id(id);
        forget_refs(f, &e);
        forget_seen(f, &e);
        if (f->proxy->cache.shared != NULL && what->scope != SCOPE_REF)
            shared_refuse_older(f->proxy->cache.shared, e.repo_id, id);
        describe(&e, id, &here);
        cache_invalidate(&f->proxy->cache, &here, &gone, err);
    }
    /* A node that has missed the event finds it written down. */
    if (f->proxy->cache.shared != NULL && what->scope != SCOPE_REF)
        rc = shared_invalidation_note(f->proxy->cache.shared, &e, id, err);
    if (told == 0)
        told = wait_told(f, id, out, &why);
    if (rc == 0)
        rc = remove_shared(f, what, out, err);
    /* And again: who had applied it may have taken it meanwhile from one that had not, or out of
     * the shared tier; or may have missed it, and looked before it was written down.  Now nobody
     * has it to give. */
    if (rc == 0 && told == 0 && !f->alone) {
        bool all = out->acknowledged;

        if (e.unpin) /* and not a pin that was set since */
            strcpy(e.unpin_id, id);
        told = tell(f, &e, id, &why);
        if (told == 0 && all)
            told = wait_told(f, id, out, &why);
        out->acknowledged &= told == 0;
    }
    if (rc == 0 && told != 0)
        *err = why;
    out->acknowledged &= rc == 0;
    return rc != 0 || told != 0 ? -1 : 0;
}
