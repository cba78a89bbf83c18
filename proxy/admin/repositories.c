/* The handlers about repositories and what is kept of them. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache/invalidate.h"
#include "protocol/base.h"
#include "protocol/oid.h"
#include "proxy/admin/call.h"
#include "proxy/admin/handlers.h"
#include "proxy/admin/page.h"
#include "proxy/commands.h"
#include "proxy/fleet.h"
#include "proxy/log.h"
#include "proxy/mirroring.h"
#include "proxy/seen.h"
#include "proxy/traffic.h"

enum { SHOWN_ANSWERS_MAX = 100 }; /* with a repository; GET answers has all */

static const char *const no_names[] = {NULL};

/* Else it is replied: a change wants a body, and this one takes nothing in it or in the query. */
static bool names_only_a_repository(struct exchange *x, struct key *id)
{
    return call_knows(x, no_names) && call_body(x) != NULL && call_body_knows(x, no_names) &&
           call_repository(x, id);
}

/* ---- the lines of proxy/commands.h ---- */

/* What commands_run() says, line by line.  fn gets the object behind the first name. */
struct hearing {
    bool (*fn)(void *ctx, const char *kind, json_t *object); /* false: enough */
    void *ctx;
    struct err why;
    json_t *result;
};

static bool hear(void *ctx, const char *text, size_t len)
{
    struct hearing *h = ctx;
    json_error_t ignored;
    json_t *line = json_loadb(text, len, 0, &ignored), *error;
    void *first = json_object_iter(line);
    bool more = true;

    must(first != NULL);
    error = json_object_get(line, "error");
    if (error != NULL)
        err_set(&h->why,
                strcmp(json_string_value(json_object_get(error, "kind")),
                       err_kind_name(ERR_NOT_FOUND)) == 0
                    ? ERR_NOT_FOUND
                    : ERR_STORAGE,
                "%s", json_string_value(json_object_get(error, "text")));
    else if (json_object_get(line, "result") != NULL)
        h->result = json_incref(json_object_get(line, "result"));
    else
        more = h->fn(h->ctx, json_object_iter_key(first), json_object_iter_value(first));
    json_decref(line);
    return more;
}

/* -1: *err is what the command said.  The result is h->result, yours. */
static int run(struct exchange *x, const struct commands_request *request, struct hearing *h,
               struct err *err)
{
    const struct commands_output out = {.line = hear, .ctx = h};

    commands_run(&x->proxy->cache, request, &out);
    *err = h->why;
    return h->why.kind == ERR_NONE ? 0 : -1;
}

/* ---- numbers of one repository ---- */

static json_t *ratio(uint64_t hits, uint64_t rest)
{
    return hits + rest > 0 ? json_real((double)hits / (double)(hits + rest)) : json_null();
}

static json_t *errors_json(const struct traffic_view *v)
{
    json_t *list = json_array();

    for (size_t i = 0; i < v->error_count; i++)
        must(json_array_append_new(list, json_pack("{s:I, s:s, s:s, s:o}", "time",
                                                   (json_int_t)v->errors[i].time_s, "event",
                                                   v->errors[i].what, "kind",
                                                   err_kind_name(v->errors[i].why.kind), "text",
                                                   json_words(v->errors[i].why.text))) == 0);
    return list;
}

static void add_traffic(json_t *repository, const struct traffic_view *v)
{
    const struct traffic_counts *c = &v->counts;
    json_t *more = json_pack(
        "{s:{s:o, s:o, s:o, s:o, s:o, s:o, s:o}}", "traffic", "hits",
        json_number(c->requests[TRAFFIC_HIT]), "misses", json_number(c->requests[TRAFFIC_MISS]),
        "passes", json_number(c->requests[TRAFFIC_PASS]), "hit_bytes",
        json_number(c->bytes[TRAFFIC_HIT]), "bytes",
        json_number(c->bytes[TRAFFIC_HIT] + c->bytes[TRAFFIC_MISS] + c->bytes[TRAFFIC_PASS]),
        "hit_ratio",
        ratio(c->requests[TRAFFIC_HIT], c->requests[TRAFFIC_MISS] + c->requests[TRAFFIC_PASS]),
        "byte_hit_ratio",
        ratio(c->bytes[TRAFFIC_HIT], c->bytes[TRAFFIC_MISS] + c->bytes[TRAFFIC_PASS]));

    must(more != NULL && json_object_update(repository, more) == 0);
    json_decref(more);
}

/* The id under "id", as in the paths of this API. */
static const char *name_id(json_t *object)
{
    json_t *id = json_object_get(object, "repo_id");

    must(json_object_set(object, "id", id) == 0);
    must(json_object_del(object, "repo_id") == 0);
    return json_string_value(id);
}

/* ---- lists ---- */

struct order {
    const char *member; /* whose numbers are sorted by; NULL: names */
    bool descending;
};

/* Ratios as numbers that sort: nobody can tell finer ones apart. */
enum { RATIO_STEPS = 1000000000 };

/* "name", "size", "-size".  False: answered. */
static bool read_order(struct exchange *x, const char *const *members, struct order *out)
{
    const char *sort = call_parameter(x, "sort");

    *out = (struct order){.member = NULL};
    if (sort == NULL || strcmp(sort, "name") == 0)
        return true;
    out->descending = *sort == '-';
    sort += out->descending;
    for (; *members != NULL; members++)
        if (strcmp(*members, sort) == 0) {
            out->member = *members;
            return true;
        }
    reply_problem(x, 400, "sort", "this is nothing to sort by here");
    return false;
}

struct selection {
    struct exchange *x;
    struct page page;
    struct order order;
    const char *needle, *upstream, *repository;
    int pinned; /* -1: whichever */
};

/* What object is sorted by, also among its traffic.  False: it has no such number. */
static bool sort_value(const json_t *object, const char *member, uint64_t *out)
{
    const json_t *traffic = json_object_get(object, "traffic");
    const json_t *value = json_object_get(object, member);

    if (value == NULL)
        value = json_object_get(traffic, member);
    if (strcmp(member, "requests") == 0)
        *out = (uint64_t)(json_integer_value(json_object_get(traffic, "hits")) +
                          json_integer_value(json_object_get(traffic, "misses")) +
                          json_integer_value(json_object_get(traffic, "passes")));
    else if (json_is_integer(value))
        *out = (uint64_t)json_integer_value(value);
    else if (json_is_real(value))
        *out = (uint64_t)(json_real_value(value) * RATIO_STEPS);
    else
        return false;
    return true;
}

static void offer(struct selection *l, json_t *object, const char *name, const char *id)
{
    char number[24] = PAGE_LAST;
    uint64_t value;

    if (l->order.member != NULL && sort_value(object, l->order.member, &value))
        page_number(value, l->order.descending, number);
    page_offer(&l->page, l->order.member != NULL ? number : name, id, json_incref(object));
}

static bool starts_with_upstream(const char *repo, const char *upstream)
{
    size_t len = strlen(upstream);

    return strncmp(repo, upstream, len) == 0 && repo[len] == '/';
}

static bool list_repository(void *ctx, const char *kind, json_t *object)
{
    struct selection *l = ctx;
    const char *repo = json_string_value(json_object_get(object, "repo"));
    struct traffic_view traffic;
    const char *id;
    struct key key;

    (void)kind;
    if ((l->needle != NULL && strstr(repo, l->needle) == NULL) ||
        (l->upstream != NULL && !starts_with_upstream(repo, l->upstream)) ||
        (l->pinned >= 0 && json_is_true(json_object_get(object, "pinned")) != l->pinned))
        return true;
    id = name_id(object);
    if (key_from_hex(id, &key)) {
        traffic_get(l->x->proxy->traffic, &key, &traffic);
        add_traffic(object, &traffic);
    }
    offer(l, object, repo, id);
    return true;
}

static void reply_page(struct selection *l, const char *name, struct hearing *h)
{
    char *next;
    json_t *list = page_end(&l->page, &next);

    reply_json(l->x, 200,
               json_pack("{s:o, s:o, s:O}", name, list, "next", json_words(next), "complete",
                         json_object_get(h->result, "complete")));
    free(next);
}

static void reply_list(struct selection *l, const struct commands_request *request,
                       struct hearing *h, const char *name)
{
    struct err why;

    if (run(l->x, request, h, &why) == 0 || why.kind == ERR_NOT_FOUND) {
        /* None of what was asked for: an empty list, when it is known that there is none. */
        if (h->result == NULL)
            h->result =
                json_pack("{s:b}", "complete", (int)local_scanned(l->x->proxy->cache.local));
        reply_page(l, name, h);
    } else {
        page_drop(&l->page);
        reply_failure(l->x, &why);
    }
    json_decref(h->result);
}

static bool begin_list(struct selection *l, const char *const *names, const char *const *members)
{
    const char *cursor;
    size_t limit;

    if (!call_knows(l->x, names) || !call_page(l->x, &limit, &cursor) ||
        !read_order(l->x, members, &l->order))
        return false;
    if (page_init(&l->page, limit, cursor) == 0)
        return true;
    reply_problem(l->x, 400, "cursor", "this is no cursor of this list");
    return false;
}

static bool read_pinned(struct exchange *x, int *out)
{
    const char *text = call_parameter(x, "pinned");

    *out = -1;
    if (text == NULL)
        return true;
    *out = strcmp(text, "true") == 0;
    if (*out || strcmp(text, "false") == 0)
        return true;
    reply_problem(x, 400, "pinned", "write true or false");
    return false;
}

void admin_list_repositories(struct exchange *x)
{
    static const char *const names[] = {"limit",    "cursor", "sort", "q",
                                        "upstream", "pinned", "name", NULL};
    static const char *const members[] = {"size",      "stored_size",    "accessed",
                                          "accesses",  "requests",       "hit_bytes",
                                          "hit_ratio", "byte_hit_ratio", NULL};
    struct commands_request request = {.kind = COMMANDS_LS, .goal = UINT64_MAX};
    struct selection l = {.x = x};
    struct hearing h = {.fn = list_repository, .ctx = &l};

    if (!read_pinned(x, &l.pinned) || !begin_list(&l, names, members))
        return;
    l.needle = call_parameter(x, "q");
    l.upstream = call_parameter(x, "upstream");
    request.repo = (char *)call_parameter(x, "name"); /* borrowed: the request isn't cleared */
    reply_list(&l, &request, &h, "repositories");
}

static bool list_answer(void *ctx, const char *kind, json_t *object)
{
    struct selection *l = ctx;
    const char *repo = json_string_value(json_object_get(object, "repo"));
    const char *path = json_string_value(json_object_get(object, "path"));

    (void)kind;
    if (strcmp(json_string_value(json_object_get(object, "kind")), "answer") != 0 || path == NULL ||
        (l->needle != NULL && strstr(repo, l->needle) == NULL))
        return true;
    must(json_object_set_new(object, "key", json_words(strrchr(path, '/') + 1)) == 0);
    must(json_object_set(object, "repository", json_object_get(object, "repo_id")) == 0);
    must(json_object_del(object, "repo_id") == 0 && json_object_del(object, "kind") == 0);
    offer(l, object, repo, path);
    return true;
}

void admin_list_answers(struct exchange *x)
{
    static const char *const names[] = {"limit", "cursor", "sort", "q", "repository", NULL};
    static const char *const members[] = {"size",     "stored_size", "accessed",
                                          "accesses", "created",     NULL};
    struct commands_request request = {.kind = COMMANDS_LS, .entries = true, .goal = UINT64_MAX};
    struct selection l = {.x = x};
    struct hearing h = {.fn = list_answer, .ctx = &l};
    const char *repository = call_parameter(x, "repository");
    struct key key;

    if (repository != NULL && !key_from_hex(repository, &key)) {
        reply_problem(x, 400, "repository", "a repository's id is 64 hex digits");
        return;
    }
    if (!begin_list(&l, names, members))
        return;
    l.needle = call_parameter(x, "q");
    request.repo_id = (char *)repository; /* borrowed: the request isn't cleared */
    reply_list(&l, &request, &h, "answers");
}

/* ---- one ---- */

/* Everything that is known of one repository; *repo is its name, or NULL when nothing is kept of
 * it. */
struct known {
    json_t *repository; /* as ls has it */
    json_t *mirror, *answers;
    size_t answer_count;
};

static bool know_repository(void *ctx, const char *kind, json_t *object)
{
    struct known *k = ctx;

    (void)kind;
    if (k->repository == NULL)
        k->repository = json_incref(object);
    return true;
}

static bool know_entry(void *ctx, const char *kind, json_t *object)
{
    struct known *k = ctx;

    (void)kind;
    must(json_object_del(object, "repo_id") == 0);
    if (strcmp(json_string_value(json_object_get(object, "kind")), "mirror") == 0) {
        json_decref(k->mirror);
        k->mirror = json_incref(object);
    } else if (k->answer_count++ < SHOWN_ANSWERS_MAX) {
        must(json_array_append(k->answers, object) == 0);
    }
    return true;
}

static void known_clear(struct known *k)
{
    json_decref(k->repository);
    json_decref(k->mirror);
    json_decref(k->answers);
}

/* -1: ERR_NOT_FOUND, or the index fails. */
static int look_up(struct exchange *x, bool entries, struct known *out, struct err *err)
{
    struct commands_request request = {.kind = COMMANDS_LS, .goal = UINT64_MAX};
    struct hearing h = {.fn = know_repository, .ctx = out};
    int rc;

    *out = (struct known){.answers = json_array()};
    request.repo_id = call_of(x)->id; /* borrowed */
    rc = run(x, &request, &h, err);
    json_decref(h.result);
    if (rc != 0 || !entries)
        return rc;
    request.kind = COMMANDS_SHOW;
    h = (struct hearing){.fn = know_entry, .ctx = out};
    rc = run(x, &request, &h, err);
    json_decref(h.result);
    return rc;
}

/* As the nodes have told each other; null: they have told nothing, or Redis is away. */
static json_t *shared_mirror_json(struct exchange *x, const struct key *id)
{
    struct fleet *fleet = x->proxy->fleet;
    struct entry e;
    struct err ignored;
    json_t *json;

    if (fleet_find_mirror(fleet, id, &e, &ignored) != 0)
        return json_null();
    json = json_pack("{s:o, s:o, s:o}", "path", json_words(e.path), "node", json_words(e.node),
                     "generation", json_number(fleet_generation(fleet, id)));
    must(json != NULL);
    entry_clear(&e);
    return json;
}

/* ---- its refs ---- */

/* null: upstream has shown none since the start. */
static json_t *seen_json(const struct seen_view *v)
{
    if (v->listed_s == 0)
        return json_null();
    return json_pack("{s:o, s:I, s:s, s:b}", "count", json_number(v->count), "listed",
                     (json_int_t)v->listed_s, "shown_to", seen_by_name(v->by), "complete",
                     (int)v->complete);
}

static void offer_ref(struct selection *l, const struct seen_ref *r)
{
    char object[OID_HEX_SIZE], id[KEY_HEX_SIZE];
    struct key key;
    json_t *json;

    oid_to_hex(r->algo, &r->oid, object);
    json = json_pack("{s:o, s:s, s:I, s:s}", "name", json_words(r->name), "object", object, "seen",
                     (json_int_t)r->seen_s, "shown_to", seen_by_name(r->by));
    must(json != NULL);
    /* Long names may be alike as far as a page looks. */
    key_of(r->name, strlen(r->name), &key);
    key_to_hex(&key, id);
    offer(l, json, r->name, id);
    json_decref(json);
}

static void reply_refs(struct selection *l, const struct seen_view *v)
{
    json_t *list;
    char *next;

    for (size_t i = 0; i < v->count; i++)
        if (l->needle == NULL || strstr(v->refs[i].name, l->needle) != NULL)
            offer_ref(l, &v->refs[i]);
    list = page_end(&l->page, &next);
    reply_json(
        l->x, 200,
        json_pack("{s:o, s:o, s:o}", "refs", list, "next", json_words(next), "seen", seen_json(v)));
    free(next);
}

void admin_list_refs(struct exchange *x)
{
    static const char *const names[] = {"limit", "cursor", "sort", "q", NULL};
    static const char *const members[] = {"seen", NULL};
    struct selection l = {.x = x};
    struct seen_view v = {0};
    struct known k = {0};
    struct key id;
    struct err why;

    if (!call_repository(x, &id) || !begin_list(&l, names, members))
        return;
    l.needle = call_parameter(x, "q");
    if (seen_get(x->proxy->seen, &id, &v) || look_up(x, false, &k, &why) == 0) {
        reply_refs(&l, &v);
    } else {
        page_drop(&l.page);
        reply_failure(x, &why);
    }
    known_clear(&k);
    seen_view_clear(&v);
}

/* ---- all of it ---- */

void admin_show_repository(struct exchange *x)
{
    struct traffic_view traffic;
    struct seen_view seen;
    struct known k;
    struct key id;
    struct err why;

    if (!call_knows(x, no_names) || !call_repository(x, &id))
        return;
    if (look_up(x, true, &k, &why) != 0) {
        reply_failure(x, &why);
    } else {
        traffic_get(x->proxy->traffic, &id, &traffic);
        name_id(k.repository);
        add_traffic(k.repository, &traffic);
        must(json_object_set_new(k.repository, "errors", errors_json(&traffic)) == 0);
        must(json_object_set_new(k.repository, "mirror_entry",
                                 k.mirror != NULL ? json_incref(k.mirror) : json_null()) == 0);
        must(json_object_set_new(k.repository, "shared_mirror", shared_mirror_json(x, &id)) == 0);
        must(json_object_set(k.repository, "answer_entries", k.answers) == 0);
        seen_get(x->proxy->seen, &id, &seen);
        must(json_object_set_new(k.repository, "refs_seen", seen_json(&seen)) == 0);
        seen_view_clear(&seen);
        reply_json(x, 200, json_incref(k.repository));
    }
    known_clear(&k);
}

/* ---- going ---- */

/* No ref can be called so: what is known of refs goes by the repository, and nothing else by it. */
static const char ALL_REFS[] = "*";

struct going {
    struct fleet_invalidation what;
    struct known known; /* the repository, for its name */
    char *repo;         /* that, as other nodes have told it */
    char object[OID_HEX_SIZE];
    bool dry_run;
};

static json_t *late_json(const struct node_list *late)
{
    json_t *names = json_array();

    for (size_t i = 0; i < late->count; i++)
        must(json_array_append_new(names, json_words(late->nodes[i].id)) == 0);
    return names;
}

/* done NULL: a dry run. */
static void reply_invalidated(struct exchange *x, const struct invalidated *here,
                              const struct fleet_invalidated *done)
{
    json_t *shared = x->proxy->cache.shared == NULL || done == NULL
                         ? json_null()
                         : json_pack("{s:o, s:o}", "objects", json_number(done->shared_objects),
                                     "bytes", json_number(done->shared_bytes));
    bool acknowledged = done != NULL && done->acknowledged;

    reply_json(x, done == NULL || acknowledged ? 200 : 202,
               json_pack("{s:b, s:b, s:b, s:o, s:[{s:o, s:o, s:b, s:o, s:o}], s:o}", "dry_run",
                         done == NULL, "refs", 1, "acknowledged", (int)acknowledged, "late",
                         done != NULL ? late_json(&done->late) : json_array(), "nodes", "name",
                         json_words(x->config->node), "entries",
                         json_number(here->answers + here->mirrors), "mirror", here->mirrors > 0,
                         "bytes", json_number(here->size), "stored_bytes", json_number(here->bytes),
                         "shared", shared));
}

/* What lies here is counted before, as each node removes by itself what it is told of. */
static int count_here(struct exchange *x, const struct going *g, struct invalidated *out,
                      struct err *err)
{
    const struct invalidation here = {
        .scope = g->what.scope,
        .repo_id = g->what.scope == SCOPE_EVERYTHING ? "" : call_of(x)->id,
        .object = g->what.name,
        .dry_run = true,
    };

    return cache_invalidate(&x->proxy->cache, &here, out, err);
}

static void invalidate(struct exchange *x, struct going *g)
{
    struct fleet_invalidated done;
    struct invalidated here;
    struct err why;

    if (count_here(x, g, &here, &why) != 0) {
        reply_failure(x, &why);
        return;
    }
    if (g->dry_run) {
        reply_invalidated(x, &here, NULL);
        return;
    }
    if (fleet_invalidate(x->proxy->fleet, &g->what, &done, &why) == 0) {
        reply_invalidated(x, &here, &done);
    } else {
        /* Whatever it is, some of it may be there still, and it is worth another try. */
        if (why.kind != ERR_INPUT)
            why.kind = ERR_BUSY;
        reply_failure(x, &why);
    }
    node_list_clear(&done.late);
}

static void going_clear(struct going *g)
{
    known_clear(&g->known);
    free(g->repo);
}

/* Of what nothing is known here nothing can be said to have gone; but the shared tier may have it,
 * and other nodes: what is kept goes by the repository's id.  By its name refs go that clients
 * wrote with other capitals. */
static bool must_be_known(struct exchange *x, struct going *g)
{
    struct traffic_view traffic;
    struct entry mirror;
    struct err why, ignored;

    if (look_up(x, false, &g->known, &why) == 0)
        g->what.repo = json_string_value(json_object_get(g->known.repository, "repo"));
    else if (fleet_find_mirror(x->proxy->fleet, &g->what.repo_id, &mirror, &ignored) == 0) {
        g->what.repo = g->repo = xstrdup(mirror.repo);
        entry_clear(&mirror);
    } else if (x->proxy->cache.shared == NULL && fleet_is_alone(x->proxy->fleet) &&
               !traffic_get(x->proxy->traffic, &g->what.repo_id, &traffic)) {
        reply_failure(x, &why);
        return false;
    }
    if (g->what.repo == NULL)
        g->what.repo = "";
    return true;
}

void admin_remove_repository(struct exchange *x)
{
    struct going g = {.what = {.scope = SCOPE_REPOSITORY, .name = "", .reason = "", .unpin = true}};

    if (names_only_a_repository(x, &g.what.repo_id) && must_be_known(x, &g))
        invalidate(x, &g);
    going_clear(&g);
}

static bool read_object(struct exchange *x, const char *text, struct going *g)
{
    size_t len = strlen(text);
    enum hash_algo algo = len == 64 ? HASH_SHA256 : HASH_SHA1;
    struct oid oid;

    if (!oid_from_hex(algo, text, len, &oid)) {
        reply_problem(x, 400, "object", "an object's id is 40 or 64 hex digits");
        return false;
    }
    oid_to_hex(algo, &oid, g->object);
    g->what.name = g->object;
    return true;
}

/* Exactly one of them.  False: answered. */
static bool read_what(struct exchange *x, struct going *g)
{
    const char *ref = NULL, *object = NULL, *reason = NULL;
    bool refs = false, everything = false;

    if (!call_bool(x, "refs", &refs) || !call_bool(x, "everything", &everything) ||
        !call_string(x, "ref", &ref) || !call_string(x, "object", &object) ||
        !call_bool(x, "dry_run", &g->dry_run) || !call_string(x, "reason", &reason))
        return false;
    if (refs + everything + (ref != NULL) + (object != NULL) != 1) {
        reply_problem(x, 400, NULL,
                      "say what is to go: one of refs (true), ref, object, everything (true)");
        return false;
    }
    if (reason != NULL)
        g->what.reason = reason;
    if (refs || ref != NULL) {
        g->what.scope = SCOPE_REF;
        g->what.name = refs ? ALL_REFS : ref;
    } else if (object != NULL) {
        g->what.scope = SCOPE_OBJECT;
        return read_object(x, object, g);
    }
    return true;
}

void admin_invalidate(struct exchange *x)
{
    static const char *const names[] = {"refs",    "ref",    "object", "everything",
                                        "dry_run", "reason", NULL};
    struct going g = {.what = {.scope = SCOPE_REPOSITORY, .name = "", .reason = ""}};

    if (call_knows(x, no_names) && call_body(x) != NULL && call_body_knows(x, names) &&
        call_repository(x, &g.what.repo_id) && read_what(x, &g) && must_be_known(x, &g))
        invalidate(x, &g);
    going_clear(&g);
}

void admin_invalidate_all(struct exchange *x)
{
    static const char *const names[] = {"everything", "dry_run", "reason", NULL};
    struct going g = {.what = {.scope = SCOPE_EVERYTHING, .repo = "", .name = "", .reason = ""}};
    bool everything = false;

    if (!call_knows(x, no_names) || call_body(x) == NULL || !call_body_knows(x, names) ||
        !call_bool(x, "everything", &everything) || !call_bool(x, "dry_run", &g.dry_run) ||
        !call_string(x, "reason", &g.what.reason))
        return;
    /* So much isn't meant by an empty body. */
    if (everything)
        invalidate(x, &g);
    else
        reply_problem(x, 400, "everything", "write true: all that is kept of all repositories");
}

/* ---- staying ---- */

static void reply_pinned(struct exchange *x)
{
    int64_t since_s;
    bool pinned = local_is_pinned(x->proxy->cache.local, call_of(x)->id, &since_s);

    log_line(LOG_INFO, pinned ? "pinned" : "unpinned", "repo_id", LOG_STR, call_of(x)->id, "who",
             LOG_STR, call_of(x)->who[0] != '\0' ? call_of(x)->who : NULL, NULL);
    reply_json(x, 200,
               json_pack("{s:b, s:o}", "pinned", (int)pinned, "since",
                         pinned ? json_integer((json_int_t)since_s) : json_null()));
}

void admin_pin(struct exchange *x)
{
    struct known k;
    struct key id;
    struct err why;
    int rc;

    if (!names_only_a_repository(x, &id))
        return;
    rc = look_up(x, false, &k, &why);
    known_clear(&k);
    if (rc == 0)
        rc = local_pin(x->proxy->cache.local, call_of(x)->id, (int64_t)time(NULL), &why);
    if (rc == 0)
        reply_pinned(x);
    else
        reply_failure(x, &why);
}

void admin_unpin(struct exchange *x)
{
    struct key id;
    struct err why;

    if (!names_only_a_repository(x, &id))
        return;
    if (local_unpin(x->proxy->cache.local, call_of(x)->id, &why) == 0)
        reply_pinned(x);
    else
        reply_failure(x, &why);
}

/* ---- bringing forward ---- */

void admin_refresh(struct exchange *x)
{
    struct mirror_refreshed done;
    const char *name = NULL;
    struct known k;
    struct key id;
    struct err why;
    int rc;

    if (!names_only_a_repository(x, &id))
        return;
    if (!admin_may_refresh(x)) {
        reply_failure(x, &(struct err){ERR_BUSY, "as many refreshes are under way as may"});
        return;
    }
    rc = look_up(x, false, &k, &why);
    if (rc == 0) {
        name = json_string_value(json_object_get(k.repository, "repo"));
        rc = mirroring_refresh(x->proxy, x->config, name, &done, &why);
    }
    admin_refreshed(x);
    if (rc == 0) {
        log_line(LOG_INFO, "mirror refreshed", "repository", LOG_STR, name, "tips", LOG_U64,
                 (uint64_t)done.tips, "missing", LOG_U64, (uint64_t)done.missing, "who", LOG_STR,
                 call_of(x)->who[0] != '\0' ? call_of(x)->who : NULL, NULL);
        reply_json(x, 200,
                   json_pack("{s:b, s:o, s:o}", "made", (int)done.made, "tips",
                             json_number(done.tips), "missing", json_number(done.missing)));
    } else {
        reply_failure(x, &why);
    }
    known_clear(&k);
}

/* ---- room ---- */

static bool hear_entry(void *ctx, const char *kind, json_t *object)
{
    json_t *list = ctx;

    (void)kind;
    if (json_array_size(list) < CALL_PAGE_MAX)
        must(json_array_append(list, object) == 0);
    return true;
}

void admin_evict(struct exchange *x)
{
    static const char *const names[] = {"to_bytes", "dry_run", NULL};
    struct commands_request request = {.kind = COMMANDS_EVICT, .goal = UINT64_MAX};
    struct hearing h = {.fn = hear_entry};
    json_t *body, *goal;
    struct err why;

    if (!call_knows(x, no_names) || (body = call_body(x)) == NULL || !call_body_knows(x, names) ||
        !call_bool(x, "dry_run", &request.dry_run))
        return;
    goal = json_object_get(body, "to_bytes");
    if (goal != NULL && (!json_is_integer(goal) || json_integer_value(goal) < 0)) {
        reply_problem(x, 400, "to_bytes", "write a whole number of bytes");
        return;
    }
    if (goal != NULL)
        request.goal = (uint64_t)json_integer_value(goal);
    h.ctx = json_array();
    if (run(x, &request, &h, &why) == 0)
        reply_json(x, 200,
                   json_pack("{s:b, s:O, s:O, s:O, s:O, s:O}", "dry_run", (int)request.dry_run,
                             "entries", json_object_get(h.result, "count"), "stored_bytes",
                             json_object_get(h.result, "stored_size"), "before",
                             json_object_get(h.result, "before"), "total",
                             json_object_get(json_object_get(h.result, "usage"), "total"),
                             "preview", h.ctx));
    else
        reply_failure(x, &why);
    json_decref(h.ctx);
    json_decref(h.result);
}
