/* The handlers about the whole of it: metrics, numbers, nodes, the log. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache/shared/shared.h"
#include "protocol/base.h"
#include "proxy/admin/admin.h"
#include "proxy/admin/call.h"
#include "proxy/admin/handlers.h"
#include "proxy/admin/openapi.h"
#include "proxy/collect.h"
#include "proxy/fleet.h"
#include "proxy/log.h"
#include "proxy/metrics.h"
#include "proxy/server.h"

enum { METRICS_TEXT_MAX = 64 << 20 };

static const char *const no_names[] = {NULL};

void admin_metrics(struct exchange *x)
{
    struct bytes text;

    bytes_init(&text, METRICS_TEXT_MAX);
    collect_metrics(x->proxy, x->config, &text);
    reply_header(x, "Cache-Control", "no-store");
    reply_bytes(x, 200, "text/plain; version=0.0.4; charset=utf-8", text.data, text.len, "admin");
    bytes_clear(&text);
}

void admin_openapi(struct exchange *x)
{
    reply_bytes(x, 200, "application/json", openapi_json, openapi_json_len, "admin");
}

/* ---- numbers ---- */

static json_t *counted(enum cell cell)
{
    return json_number(metrics_counted(cell));
}

static uint64_t sum(const enum cell *cells, size_t count)
{
    uint64_t n = 0;

    for (size_t i = 0; i < count; i++)
        n += metrics_counted(cells[i]);
    return n;
}

/* null where nothing was asked yet: 0 would be said of a cache that never hits. */
static json_t *ratio(uint64_t part, uint64_t rest)
{
    return part + rest > 0 ? json_real((double)part / (double)(part + rest)) : json_null();
}

static json_t *traffic_json(void)
{
    static const enum cell hits[] = {CELL_HITS_LOCAL, CELL_HITS_SHARED, CELL_HITS_COALESCED,
                                     CELL_HITS_PEER};
    static const enum cell misses[] = {CELL_MISSES_MIRROR, CELL_MISSES_REFRESH,
                                       CELL_MISSES_UPSTREAM, CELL_MISSES_PASS};
    static const enum cell hit_bytes[] = {CELL_BYTES_LOCAL, CELL_BYTES_SHARED, CELL_BYTES_COALESCED,
                                          CELL_BYTES_PEER};
    static const enum cell made_here[] = {CELL_BYTES_MIRROR, CELL_BYTES_REFRESH};
    static const enum cell from_upstream[] = {CELL_BYTES_UPSTREAM, CELL_BYTES_PASS};
    uint64_t hit = sum(hit_bytes, ARRAY_LEN(hit_bytes)),
             made = sum(made_here, ARRAY_LEN(made_here));
    uint64_t passed = sum(from_upstream, ARRAY_LEN(from_upstream));
    uint64_t packs = hit + made + passed, upstream = metrics_upstream_bytes_all();

    return json_pack(
        "{s:{s:o, s:o, s:o, s:o}, s:{s:o, s:o, s:o, s:o}, s:o, s:o, s:o, s:o, s:o, s:o}", "hits",
        "local", counted(CELL_HITS_LOCAL), "shared", counted(CELL_HITS_SHARED), "coalesced",
        counted(CELL_HITS_COALESCED), "peer", counted(CELL_HITS_PEER), "misses", "mirror",
        counted(CELL_MISSES_MIRROR), "refresh", counted(CELL_MISSES_REFRESH), "upstream",
        counted(CELL_MISSES_UPSTREAM), "pass", counted(CELL_MISSES_PASS), "hit_ratio",
        ratio(sum(hits, ARRAY_LEN(hits)), sum(misses, ARRAY_LEN(misses))), "byte_hit_ratio",
        ratio(hit, made + passed), "client_bytes", json_number(packs), "hit_bytes",
        json_number(hit), "upstream_bytes", json_number(upstream), "saved_bytes",
        json_number(packs > upstream ? packs - upstream : 0));
}

static json_t *local_json(struct proxy *p)
{
    struct local_usage u;

    local_usage(p->cache.local, &u);
    return json_pack(
        "{s:o, s:o, s:{s:o, s:o}, s:{s:o, s:o}, s:o, s:o, s:o, s:o}", "total", json_number(u.total),
        "limit", json_number(u.limit), "entries", "answers", json_number(u.entries[ENTRY_ANSWER]),
        "mirrors", json_number(u.entries[ENTRY_MIRROR]), "bytes", "answers",
        json_number(u.bytes[ENTRY_ANSWER]), "mirrors", json_number(u.bytes[ENTRY_MIRROR]),
        "filling", json_number(u.filling), "pinned", json_number(u.pinned), "evicted",
        json_number(u.evicted), "evicted_bytes", json_number(u.evicted_bytes));
}

static json_t *shared_json(struct proxy *p)
{
    struct shared *shared = p->cache.shared;
    struct shared_counts n;
    struct err why;
    bool troubled;

    if (shared == NULL)
        return json_null();
    troubled = shared_troubled(shared, &why);
    shared_count(shared, &n);
    return json_pack("{s:b, s:o, s:o, s:o, s:o, s:o, s:o}", "works", (int)!troubled, "reason",
                     json_words(troubled ? why.text : NULL), "objects",
                     json_number(n.round.objects), "bytes", json_number(n.round.bytes), "hits",
                     json_number(n.hits), "misses", json_number(n.misses), "uploads_waiting",
                     json_number(n.uploads.waiting + n.uploads.sending));
}

void admin_stats(struct exchange *x)
{
    struct proxy *p = x->proxy;
    struct server *clients = p->clients;

    if (!call_knows(x, no_names))
        return;
    reply_json(x, 200,
               json_pack("{s:o, s:o, s:o, s:o, s:{s:o, s:o, s:o, s:o}}", "in_flight",
                         json_number(clients != NULL ? server_active(clients) : 0), "traffic",
                         traffic_json(), "local", local_json(p), "shared", shared_json(p), "pools",
                         "queries", json_number(workers_load(p->queries)), "fills",
                         json_number(workers_load(p->fills)), "relays",
                         json_number(workers_load(p->relays)), "background",
                         json_number(workers_load(p->background))));
}

/* ---- nodes ---- */

static const char *state_name(enum proxy_state state)
{
    static const char *const names[] = {
        [PROXY_STARTING] = "starting", [PROXY_SERVING] = "ready", [PROXY_DRAINING] = "draining"};

    return names[state];
}

/* What this node knows of itself at first hand. */
static json_t *self_json(struct exchange *x)
{
    struct proxy *p = x->proxy;
    struct server *clients = p->clients;

    return json_pack("{s:o, s:s, s:s, s:b, s:o, s:o}", "name", json_words(x->config->node),
                     "version", PANNIER_VERSION, "state", state_name(proxy_state(p)), "self", 1,
                     "address", json_words(clients != NULL ? server_address(clients) : NULL),
                     "admin", json_words(admin_address(p->admin)));
}

/* What nodes say of themselves.  A silent one is known by its name alone. */
static void add_said(json_t *json, const struct node *n)
{
    bool silent = n->silent_ms > 0;
    json_t *said = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "peer_address",
                             json_words(n->address[0] != '\0' ? n->address : NULL), "requests",
                             silent ? json_null() : json_number(n->load.requests), "disk_used",
                             silent ? json_null() : json_number(n->load.disk_used), "disk_limit",
                             silent ? json_null() : json_number(n->load.disk_limit), "started",
                             silent ? json_null() : json_integer((json_int_t)n->started),
                             "silent_ms", json_number(n->silent_ms));

    must(said != NULL && json_object_update(json, said) == 0);
    json_decref(said);
}

static json_t *other_json(const struct node *n)
{
    bool silent = n->silent_ms > 0;

    return json_pack("{s:o, s:o, s:s, s:b, s:n, s:n}", "name", json_words(n->id), "version",
                     json_words(silent ? NULL : n->version), "state", silent ? "silent" : "alive",
                     "self", 0, "address", "admin");
}

void admin_list_nodes(struct exchange *x)
{
    struct nodes *nodes = cluster_nodes(fleet_cluster(x->proxy->fleet));
    struct node_list list;
    struct node nothing = {.silent_ms = 0};
    json_t *all, *self;
    struct err why;
    bool known;

    if (!call_knows(x, no_names))
        return;
    known = nodes_list(nodes, &list, &why) == 0;
    all = json_array();
    self = self_json(x);
    add_said(self, &nothing); /* until it has been told, or while nobody can tell */
    must(json_array_append_new(all, self) == 0);
    for (size_t i = 0; known && i < list.count; i++) {
        bool ours = strcmp(list.nodes[i].id, nodes_id(nodes)) == 0;
        json_t *json = ours ? self : other_json(&list.nodes[i]);

        add_said(json, &list.nodes[i]);
        if (!ours)
            must(json_array_append_new(all, json) == 0);
    }
    reply_json(x, 200,
               json_pack("{s:o, s:b, s:b, s:o}", "nodes", all, "alone",
                         (int)fleet_is_alone(x->proxy->fleet), "complete", known && list.complete,
                         "reason", json_words(known ? NULL : why.text)));
    if (known)
        node_list_clear(&list);
}

void admin_forget_node(struct exchange *x)
{
    struct nodes *nodes = cluster_nodes(fleet_cluster(x->proxy->fleet));
    const char *name = call_of(x)->id;
    struct err why;

    if (!call_knows(x, no_names) || call_body(x) == NULL || !call_body_knows(x, no_names))
        return;
    if (nodes_forget(nodes, name, &why) != 0) {
        reply_failure(x, &why);
        return;
    }
    log_line(LOG_INFO, "node forgotten", "node", LOG_STR, name, "who", LOG_STR,
             call_of(x)->who[0] != '\0' ? call_of(x)->who : NULL, NULL);
    reply_json(x, 200, json_pack("{s:o}", "forgotten", json_words(name)));
}

/* ---- the log ---- */

void admin_get_log_level(struct exchange *x)
{
    if (!call_knows(x, no_names))
        return;
    reply_json(x, 200, json_pack("{s:s}", "level", log_level_name(log_get_level())));
}

void admin_set_log_level(struct exchange *x)
{
    static const char *const names[] = {"level", NULL};
    const char *word = NULL;
    enum log_level level;

    if (!call_knows(x, no_names) || call_body(x) == NULL || !call_body_knows(x, names) ||
        !call_string(x, "level", &word))
        return;
    if (word == NULL || !log_level_parse(word, &level)) {
        reply_problem(x, 400, "level", "write debug, info, warn or error");
        return;
    }
    log_set_level(level);
    log_line(LOG_INFO, "log level set", "now", LOG_STR, word, "who", LOG_STR,
             call_of(x)->who[0] != '\0' ? call_of(x)->who : NULL, NULL);
    reply_json(x, 200, json_pack("{s:s}", "level", word));
}
