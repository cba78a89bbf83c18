#include "proxy/health.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "cache/lock.h"
#include "cache/shared/shared.h"
#include "protocol/base.h"
#include "proxy/fleet.h"
#include "proxy/manners/stale.h"
#include "proxy/upstream.h"

/* UINT64_MAX is "no limit". */
static json_t *number(uint64_t n)
{
    return n == UINT64_MAX ? json_null() : json_integer((json_int_t)n);
}

/* Error texts may hold what an endpoint said. */
static json_t *words(const char *text)
{
    json_t *string = json_string(text);

    return string != NULL ? string : json_string("(not UTF-8)");
}

static json_t *describe_shared(const struct proxy *p, bool *troubled)
{
    struct shared *shared = p->cache.shared;
    struct shared_counts n;
    struct err why;

    if (shared == NULL)
        return json_pack("{s:s}", "status", "off");
    *troubled = shared_troubled(shared, &why);
    shared_count(shared, &n);
    return json_pack(
        "{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:{s:o, s:o, s:o, s:o, s:o}, s:o, s:o, s:o, s:o, "
        "s:{s:o, s:o, s:o, s:o}}",
        "status", *troubled ? "degraded" : "ok", "reason",
        *troubled ? words(why.text) : json_null(), "hits", number(n.hits), "misses",
        number(n.misses), "restored", number(n.restored), "caught_up", number(n.caught_up),
        "damaged", number(n.damaged), "demoted", number(n.demoted), "uploads", "waiting",
        number(n.uploads.waiting), "sending", number(n.uploads.sending), "sent",
        number(n.uploads.sent), "failed", number(n.uploads.failed), "dropped",
        number(n.uploads.dropped), "bytes_up", number(n.store.bytes_up), "bytes_down",
        number(n.store.bytes_down), "refused", number(n.store.refused), "opened",
        number(n.store.opened), "tidied", "objects", number(n.round.objects), "bytes",
        number(n.round.bytes), "removed", number(n.round.removed), "orphans",
        number(n.round.orphans));
}

static json_t *describe_cluster(const struct proxy *p, bool *troubled)
{
    struct cluster *cluster = fleet_cluster(p->fleet);
    struct events_counts events;
    struct leases_counts leases;
    struct redis_counts redis;
    struct err why;

    if (fleet_is_alone(p->fleet))
        return json_pack("{s:s}", "status", "off");
    *troubled = cluster_trouble(cluster, &why);
    events_count(cluster_events(cluster), &events);
    leases_count(cluster_leases(cluster), &leases);
    redis_count(cluster_redis(cluster), &redis);
    return json_pack(
        "{s:s, s:o, s:s, s:b, s:{s:o, s:o, s:o}, s:{s:o, s:o, s:o, s:o}, s:{s:o, s:o, "
        "s:o}}",
        "status", *troubled ? "degraded" : "ok", "reason",
        *troubled ? words(why.text) : json_null(), "node", nodes_id(cluster_nodes(cluster)),
        "caught_up", (int)cluster_may_serve(cluster, now_ms()), "events", "sent",
        number(events.sent), "applied", number(events.applied), "missed", number(events.missed),
        "leases", "held", number(leases.held), "waiting", number(leases.waiting), "taken",
        number(leases.taken), "lost", number(leases.lost), "redis", "asked", number(redis.asked),
        "failed", number(redis.failed), "away", number(redis.away));
}

static json_t *describe_local(const struct proxy *p)
{
    struct local_usage usage;

    local_usage(p->cache.local, &usage);
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "total", number(usage.total), "limit",
                     number(usage.limit), "filling", number(usage.filling), "answers",
                     number(usage.entries[ENTRY_ANSWER]), "mirrors",
                     number(usage.entries[ENTRY_MIRROR]), "evicted", number(usage.evicted));
}

/* Steals json. */
static char *as_line(json_t *json, size_t *len)
{
    char *text, *line;

    must(json != NULL);
    text = json_dumps(json, JSON_COMPACT);
    must(text != NULL);
    json_decref(json);
    line = xasprintf("%s\n", text);
    free(text);
    *len = strlen(line);
    return line;
}

char *health_describe(const struct proxy *p, size_t *len)
{
    struct answers_counts answers;
    struct janitor_counts upkeep;
    struct err trouble;
    bool failing = folder_troubled(p->cache.folder, &trouble), no_store = false, no_redis = false;
    json_t *json, *shared = describe_shared(p, &no_store),
                  *cluster = describe_cluster(p, &no_redis);
    bool degraded = failing || no_store || no_redis;
    struct manners_counts manners;

    answers_count(p->cache.answers, &answers);
    janitor_count(p->janitor, &upkeep);
    upstream_manners(p->origins, &manners);
    json =
        json_pack("{s:s, s:s, s:s, s:{s:o, s:o, s:o}, s:{s:o}, s:{s:o, s:o, s:o}, s:o, s:o, s:o, "
                  "s:{s:o, s:o, s:o}}",
                  "status", degraded ? "degraded" : "ok", "version", PANNIER_VERSION, "storage",
                  failing ? "failing" : "ok", "answers", "filling", number(answers.filling), "kept",
                  number(answers.kept), "damaged", number(answers.damaged), "mirrors", "damaged",
                  number(mirrors_damaged(p->cache.mirrors)), "upstream", "throttled",
                  number(manners.throttled), "refused", number(manners.refused), "stale",
                  number(stale_count(p->stale)), "space", describe_local(p), "shared", shared,
                  "cluster", cluster, "janitor", "maintained", number(upkeep.maintained),
                  "verified", number(upkeep.verified), "failed", number(upkeep.failed));
    return as_line(json, len);
}

static void add_degraded(json_t *list, const char *part, const struct err *why)
{
    must(json_array_append_new(
             list, json_pack("{s:s, s:o}", "part", part, "reason", words(why->text))) == 0);
}

char *health_ready(struct proxy *p, bool *ready, size_t *len)
{
    static const char *const states[] = {
        [PROXY_STARTING] = "starting", [PROXY_SERVING] = "ready", [PROXY_DRAINING] = "draining"};
    enum proxy_state state = proxy_state(p);
    json_t *degraded = json_array();
    struct err why;

    if (folder_troubled(p->cache.folder, &why))
        add_degraded(degraded, "storage", &why);
    if (p->cache.shared != NULL && shared_troubled(p->cache.shared, &why))
        add_degraded(degraded, "shared", &why);
    *ready = state == PROXY_SERVING;
    return as_line(json_pack("{s:s, s:o}", "status", states[state], "degraded", degraded), len);
}

bool health_serve(struct exchange *x)
{
    bool alive = strcmp(x->target, "/healthz") == 0, ready = true;
    char *text;
    size_t len;

    if ((!alive && strcmp(x->target, "/readyz") != 0) ||
        (strcmp(x->method, "GET") != 0 && strcmp(x->method, "HEAD") != 0))
        return false;
    text = alive ? health_describe(x->proxy, &len) : health_ready(x->proxy, &ready, &len);
    reply_header(x, "Cache-Control", "no-store");
    reply_bytes(x, ready ? 200 : 503, "application/json", text, len, "health");
    free(text);
    return true;
}
