#include "proxy/fetch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cache/lock.h"
#include "cache/shared/shared.h"
#include "protocol/base.h"
#include "protocol/fetch_request.h"
#include "protocol/inflate.h"
#include "protocol/pkt.h"
#include "proxy/access.h"
#include "proxy/fill.h"
#include "proxy/fleet.h"
#include "proxy/flights.h"
#include "proxy/manners/stale.h"
#include "proxy/mirroring.h"
#include "proxy/refs.h"
#include "proxy/relay.h"

enum {
    /* How often a request may lead after others' credentials failed before it goes its own way. */
    ATTEMPTS_MAX = 5,
    /* Wants of one request that history is walked for; a request with more is upstream's. */
    WALKS_MAX = 64,
    /* Of a body, inflated, an HTTP thread reads no more; 1,200 wants. */
    QUICK_BODY_MAX = 64 * 1024,
};

/* What one fetch has found out so far; lives as long as its exchange. */
struct fetch {
    struct asker asker;
    struct bytes body; /* inflated, as the client said it */
    struct fetch_request req;
    bool parsed;
    struct key key;
    struct oid_list tags, targets; /* annotated tags as advertised, for include-tag */
    int attempts;
    bool leads;
    bool joined_filling; /* somebody else had begun it */
};

static void free_fetch(void *state)
{
    struct fetch *f = state;

    asker_clear(&f->asker);
    bytes_clear(&f->body);
    oid_list_clear(&f->tags);
    oid_list_clear(&f->targets);
    if (f->parsed)
        fetch_request_clear(&f->req);
    free(f);
}

/* ---- reading the request ---- */

static int read_body(struct exchange *x, size_t limit, struct bytes *out, struct err *err)
{
    const char *coding = x->content_encoding;

    bytes_init(out, limit);
    if (coding == NULL || strcasecmp(coding, "identity") == 0) {
        if (bytes_add(out, x->body.data, x->body.len) != 0)
            return err_set(err, ERR_LIMIT, "the request's body is over the limit");
        return 0;
    }
    if (strcasecmp(coding, "gzip") == 0 || strcasecmp(coding, "x-gzip") == 0)
        return inflate_gzip(x->body.data, x->body.len, out, err);
    return err_set(err, ERR_INPUT, "a body in this Content-Encoding can't be read; use gzip");
}

static struct fetch *begin(struct exchange *x, size_t body_max, struct err *err)
{
    struct fetch *f = xcalloc(1, sizeof(*f));

    if (read_body(x, body_max, &f->body, err) != 0 ||
        fetch_request_parse(x->protocol, f->body.data, f->body.len, &f->req, err) != 0) {
        bytes_clear(&f->body);
        free(f);
        return NULL;
    }
    f->parsed = true;
    if (asker_init(&f->asker, x, err) != 0) {
        free_fetch(f);
        return NULL;
    }
    x->state = f;
    x->free_state = free_fetch;
    return f;
}

static void serve_refs(struct exchange *x, struct fetch *f)
{
    struct bytes body;

    if (f->req.unknown) {
        body = f->body;
        bytes_init(&f->body, f->body.limit);
    } else {
        bytes_init(&body, SIZE_MAX / 2);
        fetch_request_write(&f->req, &body);
    }
    /* From here on the state is the flight; what this function still needs it has. */
    x->state = NULL;
    x->free_state = NULL;
    refs_serve_ls(x, &f->req, &body);
    bytes_clear(&body);
    free_fetch(f);
}

/* ---- names of what requests share, per credential ---- */

enum purpose { TO_JOIN, TO_LEAD, TO_SEE, TO_LIST };

static void shared_key(const struct fetch *f, enum purpose purpose, struct key *out)
{
    const struct {
        struct key answer, subject;
        uint8_t purpose;
    } parts = {f->key, f->asker.subject.key, (uint8_t)purpose};

    key_of(&parts, sizeof(parts), out);
}

/* ---- may this credential have these objects? ---- */

static struct mirror *mirror_of(struct exchange *x, const struct fetch *f)
{
    if (!x->config->cache.mirrors || f->req.algo != HASH_SHA1)
        return NULL;
    return mirrors_get(x->proxy->cache.mirrors, x->path.upstream, x->path.repo);
}

/* By what is known here: advertised, granted, or reachable from what was advertised. */
static bool known_visible(const struct fetch *f, struct mirror *m)
{
    struct decisions *d = f->asker.proxy->decisions;
    struct oid_list unknown = {0}, tips = {0};
    bool visible;

    decisions_unknown(d, &f->asker.subject, now_ms(), &f->req.wants, &unknown);
    visible = unknown.count == 0;
    if (!visible && unknown.count <= WALKS_MAX && m != NULL && mirror_ready(m)) {
        decisions_all_advertised(d, &f->asker.subject, now_ms(), &tips);
        visible = tips.count > 0 && mirror_reaches_all(m, &unknown, &tips);
    }
    oid_list_clear(&unknown);
    oid_list_clear(&tips);
    return visible;
}

/* By asking upstream, which decides by handing them out. */
static bool ask_upstream_visible(const struct fetch *f, struct mirror *m)
{
    struct oid_list unknown = {0};
    struct advert advert = {0};
    struct err ignored;
    bool filters =
        decisions_get_advert(f->asker.proxy->decisions, &f->asker.subject, now_ms(), &advert) &&
        advert.filter;
    bool visible;

    advert_clear(&advert);
    if (filters) {
        decisions_unknown(f->asker.proxy->decisions, &f->asker.subject, now_ms(), &f->req.wants,
                          &unknown);
        visible = access_probe(&f->asker, &unknown);
    } else {
        visible = access_list_refs(&f->asker, NULL, &ignored) == 0 && known_visible(f, m);
    }
    oid_list_clear(&unknown);
    return visible;
}

struct sight {
    const struct fetch *fetch;
    struct mirror *mirror;
};

static int look(void *ctx, struct response_head *head, struct err *err)
{
    const struct sight *s = ctx;

    (void)head;
    *err = (struct err){ERR_NONE, ""};
    return known_visible(s->fetch, s->mirror) || ask_upstream_visible(s->fetch, s->mirror);
}

/* The same, asked once for all who ask for the same with the same credential. */
static bool ask_visible(const struct fetch *f, struct mirror *m)
{
    struct sight sight = {f, m};
    struct key question;
    struct err ignored;

    shared_key(f, TO_SEE, &question);
    return flights_ask_once(f->asker.proxy->flights, &question, look, &sight, NULL, &ignored) != 0;
}

static int list_tags(void *ctx, struct response_head *head, struct err *err)
{
    const struct fetch *f = ctx;

    (void)head;
    return access_list_refs(&f->asker, NULL, err) == 0;
}

static bool tags_known(struct fetch *f)
{
    oid_list_clear(&f->tags); /* this may be another attempt */
    oid_list_clear(&f->targets);
    return !f->req.include_tag || decisions_tags(f->asker.proxy->decisions, &f->asker.subject,
                                                 now_ms(), &f->tags, &f->targets);
}

/* include-tag makes the answer depend on which tags there are, so they belong to the question: as
 * upstream advertised them to this credential, or as it does now.  False: it doesn't say. */
static bool settle_tags(struct fetch *f)
{
    struct key question;
    struct err ignored;

    if (tags_known(f))
        return true;
    shared_key(f, TO_LIST, &question);
    return flights_ask_once(f->asker.proxy->flights, &question, list_tags, f, NULL, &ignored) &&
           tags_known(f);
}

void fetch_key(const struct fetch_request *req, const struct key *repo_id,
               const struct oid_list *tags, const struct oid_list *targets, struct key *out)
{
    struct key parts[3];

    fetch_request_key(req, repo_id, out);
    if (!req->include_tag)
        return;
    parts[0] = *out;
    key_of(tags->items, tags->count * sizeof(*tags->items), &parts[1]);
    key_of(targets->items, targets->count * sizeof(*targets->items), &parts[2]);
    key_of(parts, sizeof(parts), out);
}

static void settle_key(struct fetch *f)
{
    fetch_key(&f->req, &f->asker.repo_id, &f->tags, &f->targets, &f->key);
}

/* ---- answering ---- */

static void describe_result(const struct fetch *f, enum answer_source source, const char **result,
                            const char **cache_status)
{
    static const struct {
        enum answer_source source;
        const char *result, *cache_status;
    } words[] = {
        {SOURCE_LOCAL, "hit, local", "pannier; hit; detail=local"},
        {SOURCE_SHARED, "hit, shared", "pannier; hit; detail=shared"},
        {SOURCE_PEER, "hit, peer", "pannier; hit; detail=peer"},
        {SOURCE_MIRROR, "miss, mirror", "pannier; fwd=miss; detail=mirror"},
        {SOURCE_REFRESH, "miss, refresh", "pannier; fwd=miss; detail=refresh"},
        {SOURCE_UPSTREAM, "miss, upstream", "pannier; fwd=miss; detail=upstream"},
        {SOURCE_UNKNOWN, "hit, coalesced", "pannier; fwd=miss; collapsed; detail=coalesced"},
    };
    size_t i = 0;

    if (!f->leads && source != SOURCE_LOCAL)
        source = f->joined_filling ? SOURCE_UNKNOWN : SOURCE_LOCAL;
    while (words[i].source != source)
        must(++i < ARRAY_LEN(words));
    *result = words[i].result;
    *cache_status = words[i].cache_status;
}

static void pass_on(struct exchange *x);

/* Upstream refused the leader's question with an ERR.  The leader passes that on; the others ask
 * with their own credential. */
static void reply_refusal(struct exchange *x, const struct err *why)
{
    struct bytes pkt;

    bytes_init(&pkt, PKT_MAX);
    pkt_addf(&pkt, "ERR %s\n", why->text);
    reply_header(x, "Cache-Control", "no-cache, max-age=0, must-revalidate");
    reply_header(x, "Cache-Status", "pannier; fwd=miss; detail=upstream");
    reply_bytes(x, 200, content_type_response(SERVICE_UPLOAD_PACK), pkt.data, pkt.len,
                "miss, upstream");
    bytes_clear(&pkt);
}

static void handle_failure(struct exchange *x, struct fetch *f, const struct err *why)
{
    if (why->kind == ERR_REFUSED && f->leads)
        reply_refusal(x, why);
    else if (why->kind == ERR_REFUSED || f->attempts >= ATTEMPTS_MAX)
        exchange_again(x, pass_on);
    else if (why->kind == ERR_DENIED ||
             (!f->leads &&
              (why->kind == ERR_CANCELLED || why->kind == ERR_BUSY || why->kind == ERR_THROTTLED)))
        exchange_again(x, fetch_serve); /* rights and rate limits are each credential's own */
    else
        reply_error(x, why);
}

/* RFC 9211: a ttl below zero says for how long it has been stale. */
static void reply_cache_status(struct exchange *x, const char *status)
{
    char text[128];

    snprintf(text, sizeof(text), "%s; ttl=-%llu", status,
             (unsigned long long)(x->stale_age_ms + 999) / 1000);
    reply_header(x, "Cache-Status", x->stale_age_ms > 0 ? text : status);
}

static void fetch_ready(struct exchange *x)
{
    struct fetch *f = x->state;
    struct answer *a = exchange_answer(x);
    const char *result, *cache_status;
    char note[NOTE_MAX];
    uint64_t age_ms;

    if (answer_state(a) == ANSWER_FAILED && answer_size(a) == 0) {
        struct err why;

        answer_why(a, &why);
        handle_failure(x, f, &why);
        return;
    }
    describe_result(f, answer_source(a), &result, &cache_status);
    age_ms = decisions_refs_age(x->proxy->decisions, &f->asker.subject, now_ms());
    if (stale_holds(x->proxy->stale, &f->asker.subject, now_ms(), &x->stale_age_ms)) {
        x->stale_age_ms += x->stale_age_ms == 0; /* 0 says that it isn't */
        stale_served(x->proxy->stale);
        snprintf(note, sizeof(note),
                 "pannier: %s; upstream can't be asked, refs as of %.1f s ago\n", result,
                 (double)x->stale_age_ms / 1000);
    } else if (age_ms > 0) /* only with refs_ttl */
        snprintf(note, sizeof(note), "pannier: %s; refs as of %.1f s ago\n", result,
                 (double)age_ms / 1000);
    else
        snprintf(note, sizeof(note), "pannier: %s\n", result);
    reply_header(x, "Cache-Control", "no-cache, max-age=0, must-revalidate");
    reply_cache_status(x, cache_status);
    reply_stream(x, 200, content_type_response(SERVICE_UPLOAD_PACK),
                 f->req.no_progress ? NULL : note, result);
}

static void pass_on(struct exchange *x)
{
    struct fetch *f = x->state;
    struct bytes body;

    bytes_init(&body, f->body.limit);
    bytes_add(&body, f->body.data, f->body.len);
    /* The canonical body asks for no progress; here the client gets what it asked for. */
    relay_fetch(x, f->req.command == COMMAND_FETCH && !f->req.unknown ? &f->req : NULL, &body);
    bytes_clear(&body);
}

static void start_fill(const struct fetch *f, struct mirror *m, struct answer *a, bool kept,
                       bool only_upstream)
{
    struct fill fill = {
        .answer = answer_ref(a),
        .kept = kept,
        .key = f->key,
        .url = xasprintf("%s/%s", f->asker.base_url, f->asker.wire_repo),
        .mirror = m != NULL ? mirror_ref(m) : NULL,
        .only_upstream = only_upstream,
    };

    if (only_upstream)
        shared_key(f, TO_LEAD, &fill.leading);
    oid_list_copy(&f->tags, &fill.tags);
    oid_list_copy(&f->targets, &fill.targets);

    asker_copy(&f->asker, &fill.asker);
    fetch_request_copy(&f->req, &fill.req);
    fill_start(&fill);
}

/* A question that is answered for this client alone: a round of negotiation. */
static void serve_round(struct exchange *x, struct fetch *f, struct mirror *m)
{
    struct answer *a;
    struct err why;

    /* Mirrors have no names, so `deepen-not` is upstream's. */
    if (m == NULL || f->req.deepen_not_count > 0 || !mirror_ready(m) || !known_visible(f, m)) {
        mirroring_want(&f->asker, m);
        pass_on(x);
        return;
    }
    a = answer_new_filling();
    f->leads = true;
    if (exchange_follow(x, a, fetch_ready, &why) != 0)
        reply_error(x, &why);
    else
        start_fill(f, m, a, false, false);
    answer_unref(&a);
}

/* Join the answer to f's key, or make it. */
static void serve_keyed(struct exchange *x, struct fetch *f, struct mirror *m)
{
    struct answers *answers = x->proxy->cache.answers;
    struct answer *a = answers_join(answers, &f->key, &f->leads);
    struct err why;
    bool found;

    f->joined_filling = !f->leads && answer_state(a) == ANSWER_FILLING;
    found = f->leads && answers_find_local(answers, &f->key, a);
    if (exchange_follow(x, a, fetch_ready, &why) != 0) {
        if (f->leads && !found)
            answers_fail(answers, &f->key, a, &why);
        pass_on(x);
    } else if (f->leads && !found) {
        start_fill(f, m, a, true, false);
    }
    answer_unref(&a);
}

/* Nothing is here that could leak: put the question to upstream itself, which judges.  Who asks the
 * same with the same credential meanwhile may follow.  False: somebody else is in the way, and
 * nothing was done. */
static bool serve_judged(struct exchange *x, struct fetch *f, struct mirror *m)
{
    struct answers *answers = x->proxy->cache.answers;
    struct flights *flights = x->proxy->flights;
    struct key leading;
    struct answer *a;
    struct err why;
    bool may;

    shared_key(f, TO_LEAD, &leading);
    a = answers_join(answers, &f->key, &f->leads);
    if (f->leads)
        flights_lead(flights, &leading);
    may = f->leads || flights_leads(flights, &leading);
    f->joined_filling = !f->leads;
    if (may && exchange_follow(x, a, fetch_ready, &why) != 0) {
        if (f->leads) {
            flights_landed(flights, &leading);
            answers_fail(answers, &f->key, a, &why);
        }
        pass_on(x);
    } else if (f->leads) {
        start_fill(f, m, a, true, true);
    }
    answer_unref(&a);
    return may;
}

/* Is anything here, in the shared tier, or on another node, that an answer could be made of? */
static bool could_leak(const struct exchange *x, const struct fetch *f, struct mirror *m)
{
    struct shared *shared = x->proxy->cache.shared;
    char repo_id[KEY_HEX_SIZE];

    if (answers_have(x->proxy->cache.answers, &f->key) || (m != NULL && mirror_ready(m)))
        return true;
    key_to_hex(&f->asker.repo_id, repo_id);
    return fleet_knows_of(x->proxy->fleet, &f->key) ||
           (shared != NULL && shared_can_answer(shared, repo_id, &f->key));
}

/* True when x is answered or follows whoever asked upstream with the same credential. */
static bool let_upstream_judge(struct exchange *x, struct fetch *f, struct mirror *m)
{
    struct flights *flights = x->proxy->flights;
    struct key joining, leading;
    bool done = false;

    shared_key(f, TO_JOIN, &joining);
    shared_key(f, TO_LEAD, &leading);
    /* One at a time, so that the second finds the first leading. */
    flights_enter(flights, &joining);
    if (flights_leads(flights, &leading) || !could_leak(x, f, m))
        done = serve_judged(x, f, m);
    flights_leave(flights, &joining);
    return done;
}

static void serve_kept(struct exchange *x, struct fetch *f, struct mirror *m)
{
    if (known_visible(f, m))
        serve_keyed(x, f, m);
    else if (let_upstream_judge(x, f, m))
        return;
    else if (ask_visible(f, m))
        serve_keyed(x, f, m);
    else
        pass_on(x);
}

static void serve_fetch(struct exchange *x, struct fetch *f)
{
    struct mirror *m = mirror_of(x, f);

    if (f->req.unknown || f->req.command != COMMAND_FETCH || !entry_can_name(f->asker.name) ||
        !fleet_may_serve(x->proxy->fleet, x->config) || !settle_tags(f)) {
        pass_on(x);
    } else if (fetch_request_keepable(&f->req)) {
        settle_key(f);
        serve_kept(x, f, m);
    } else {
        serve_round(x, f, m);
    }
    mirror_unref(&m);
}

/* All that is asked here is asked again by fetch_serve() when the answer is no. */
static struct answer *find_at_hand(struct exchange *x, struct fetch *f)
{
    struct decisions *d = x->proxy->decisions;
    struct answer *a = NULL;

    if (f->req.command == COMMAND_FETCH && !f->req.unknown && entry_can_name(f->asker.name) &&
        fetch_request_keepable(&f->req) && fleet_may_serve(x->proxy->fleet, x->config) &&
        decisions_get(d, &f->asker.subject, now_ms(), NULL) == VERDICT_ALLOWED &&
        known_visible(f, NULL) && tags_known(f)) {
        settle_key(f);
        a = answers_at_hand(x->proxy->cache.answers, &f->key);
    }
    return a;
}

bool fetch_serve_quickly(struct exchange *x)
{
    struct answer *a;
    struct fetch *f;
    struct err why;
    bool done;

    if ((f = begin(x, QUICK_BODY_MAX, &why)) == NULL)
        return false;
    a = find_at_hand(x, f);
    done = a != NULL && exchange_follow(x, a, fetch_ready, &why) == 0;
    answer_unref(&a);
    return done;
}

void fetch_serve(struct exchange *x)
{
    struct fetch *f = x->state;
    struct response_head denial = {0};
    struct err why;

    if (f == NULL && (f = begin(x, x->config->limits.body_bytes, &why)) == NULL) {
        reply_error(x, &why);
        return;
    }
    f->attempts++;
    if (f->req.command == COMMAND_LS_REFS) {
        serve_refs(x, f);
        return;
    }
    switch (access_check(&f->asker, &denial, &why)) {
    case VERDICT_NONE: reply_error(x, &why); break;
    case VERDICT_DENIED: reply_denial(x, &denial); break;
    case VERDICT_ALLOWED:
        if (f->req.command == COMMAND_PROBE)
            reply_bytes(x, 200, content_type_response(SERVICE_UPLOAD_PACK), "", 0, "probe");
        else
            serve_fetch(x, f);
        break;
    }
    response_head_clear(&denial);
}
