#include "proxy/access.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <utlist.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/fetch_response.h"
#include "proxy/credentials/credentials.h"
#include "proxy/decisions_refs.h"
#include "proxy/flights.h"
#include "proxy/manners/stale.h"
#include "proxy/log.h"
#include "proxy/metrics.h"
#include "proxy/traffic.h"
#include "proxy/upstream.h"

enum {
    REFS_BODY_OIDS_MAX = DECISION_OIDS_MAX,
    /* Asking for more at once would transfer what we only want to know about. */
    PROBE_OIDS_MAX = 16,
    /* One commit with a long message; a probe that gets more than this isn't filtered. */
    PROBE_BYTES_MAX = 1 << 20,
};

static struct credential_use use_of(const struct asker *a)
{
    return (struct credential_use){
        .upstream = a->upstream,
        .base_url = a->base_url,
        .repo = strchr(a->name, '/') + 1, /* behind the upstream's name, which has none */
        .push = a->push,
    };
}

/* With a credential of pannier's own a decision is for the client and that credential together: no
 * client's rights are another's, and none outlive a credential that had them.  No Authorization can
 * hold a newline, so none can be taken for such a pair. */
static int name_own_subject(struct asker *a, const struct client_config *who, struct err *err)
{
    const struct credential_use use = use_of(a);
    char *authorization, *pair;

    if (credentials_get(a->proxy->credentials, &use, time(NULL), &authorization, err) != 0)
        return -1;
    pair = xasprintf("\n%s\n%s", who != NULL ? who->name : "", authorization);
    decisions_subject(a->proxy->decisions, pair, a->base_url, a->wire_repo, &a->repo_id,
                      &a->subject);
    credentials_wipe(&pair);
    credentials_wipe(&authorization);
    return 0;
}

int asker_init(struct asker *a, const struct exchange *x, struct err *err)
{
    enum service service = x->path.service;
    bool push = service == SERVICE_RECEIVE_PACK || service == SERVICE_RECEIVE_PACK_REFS;

    *a = (struct asker){
        .proxy = x->proxy,
        .config = config_ref(x->config),
        .upstream = x->upstream,
        .name = xasprintf("%s/%s", x->path.upstream, x->path.repo),
        .base_url = xstrdup(x->base_url),
        .wire_repo = xstrdup(x->path.wire_repo),
        .push = push,
    };
    repo_id_of(x->path.upstream, x->path.repo, &a->repo_id);
    /* Who isn't known by name may read with it, and pushes, or asks for what isn't git's smart
     * protocol, with what it has itself.  A known one is let in for nothing else, and what it has
     * is for pannier alone. */
    a->own = x->upstream->auth != AUTH_PASSTHROUGH &&
             (service == SERVICE_UPLOAD_PACK || service == SERVICE_UPLOAD_PACK_REFS ||
              (push && x->who != NULL));
    must(a->own ? !push || x->who->push : x->who == NULL);
    if (a->own) {
        if (name_own_subject(a, x->who, err) == 0)
            return 0;
        asker_clear(a);
        return -1;
    }
    a->authorization = x->authorization != NULL ? xstrdup(x->authorization) : NULL;
    decisions_subject(x->proxy->decisions, a->authorization, a->base_url, a->wire_repo, &a->repo_id,
                      &a->subject);
    return 0;
}

/* A repository's name is kept unescaped. */
static char *escape_path(const char *name)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/:";
    char *out = xmalloc(3 * strlen(name) + 1), *at = out;

    for (; *name != '\0'; name++) {
        if (strchr(plain, *name) != NULL)
            *at++ = *name;
        else
            at += sprintf(at, "%%%02X", (unsigned char)*name);
    }
    *at = '\0';
    return out;
}

int asker_init_for_program(struct asker *a, struct proxy *p, const struct config *config,
                           const char *name, struct err *err)
{
    char *escaped = escape_path(name);
    char *target = xasprintf("/%s.git/info/refs?service=git-upload-pack", escaped);
    const struct upstream_config *upstream;
    struct smart_path path;
    char *base_url = NULL;
    int rc = smart_path_parse(target, &path, err);

    free(escaped);
    free(target);
    if (rc != 0)
        return -1;
    upstream = config_find_upstream(config, path.upstream, &base_url);
    if (upstream == NULL) {
        smart_path_clear(&path);
        return err_set(err, ERR_REFUSED, "its host is not among the configured upstreams");
    }
    *a = (struct asker){
        .proxy = p,
        .config = config_ref(config),
        .upstream = upstream,
        .name = xasprintf("%s/%s", path.upstream, path.repo),
        .base_url = base_url,
        .wire_repo = xstrdup(path.wire_repo),
        .own = upstream->auth != AUTH_PASSTHROUGH,
    };
    repo_id_of(path.upstream, path.repo, &a->repo_id);
    smart_path_clear(&path);
    if (a->own)
        rc = name_own_subject(a, NULL, err);
    else
        decisions_subject(p->decisions, NULL, a->base_url, a->wire_repo, &a->repo_id, &a->subject);
    if (rc != 0)
        asker_clear(a);
    return rc;
}

void asker_copy(const struct asker *from, struct asker *to)
{
    *to = *from;
    to->config = config_ref(from->config);
    to->name = xstrdup(from->name);
    to->base_url = xstrdup(from->base_url);
    to->wire_repo = xstrdup(from->wire_repo);
    to->authorization = from->authorization != NULL ? xstrdup(from->authorization) : NULL;
}

void asker_clear(struct asker *a)
{
    if (a->config != NULL)
        config_unref((struct config **)&a->config);
    free(a->name);
    free(a->base_url);
    free(a->wire_repo);
    asker_forget_credential(a);
    *a = (struct asker){0};
}

void asker_warn(const struct asker *a, const char *event, const struct err *why)
{
    log_line(LOG_WARN, event, "repository", LOG_STR, a->name, "reason", LOG_STR, why->text, NULL);
    traffic_failed(a->proxy->traffic, a->name, event, why, (int64_t)time(NULL));
}

void asker_forget_credential(struct asker *a)
{
    if (a->authorization != NULL)
        explicit_bzero(a->authorization, strlen(a->authorization));
    free(a->authorization);
    a->authorization = NULL;
}

static int perform_with_own(const struct asker *a, struct upstream_request *r, char **moved_repo,
                            struct err *err)
{
    struct credentials *all = a->proxy->credentials;
    const struct credential_use use = use_of(a);
    int status, rc;

    r->status = &status;
    for (bool again = false;; again = true) {
        char *authorization;

        if (credentials_get(all, &use, time(NULL), &authorization, err) != 0)
            return -1;
        r->authorization = authorization;
        rc = upstream_perform(a->proxy->origins, a->upstream, r, moved_repo, err);
        if (status == 401)
            credentials_refused(all, &use, time(NULL), authorization);
        else if (rc == 0 && status == 200)
            credentials_accepted(all, &use, authorization);
        credentials_wipe(&authorization);
        if (status != 401 || again || r->read_fn != NULL)
            return rc;
    }
}

int asker_perform(const struct asker *a, const struct upstream_request *request, char **moved_repo,
                  struct err *err)
{
    struct upstream_request r = *request;

    r.base_url = a->base_url;
    if (a->own)
        return perform_with_own(a, &r, moved_repo, err);
    r.authorization = a->authorization;
    return upstream_perform(a->proxy->origins, a->upstream, &r, moved_repo, err);
}

uint32_t question_share(const struct asker *a)
{
    uint32_t all = a->config->limits.queries;

    return all < 4 ? all : all - all / 4;
}

char *asker_wire_repo(const struct asker *a)
{
    char *moved = decisions_moved(a->proxy->decisions, &a->subject, now_ms());

    return moved != NULL ? moved : xstrdup(a->wire_repo);
}

bool access_is_outage(enum err_kind kind)
{
    return kind == ERR_DOWN || kind == ERR_TIMEOUT || kind == ERR_THROTTLED;
}

bool access_is_denial(const struct response_head *head)
{
    const char *remaining = response_head_get(head, "x-ratelimit-remaining");

    /* Hosts throttle with 403 as well as 429; that says nothing about rights. */
    if (response_head_get(head, "retry-after") != NULL ||
        (head->status == 403 && remaining != NULL && strcmp(remaining, "0") == 0))
        return false;
    return head->status == 401 || head->status == 403 || head->status == 404;
}

void access_heard(const struct asker *a, const char *words)
{
    const struct manners_who who = {a->upstream, a->base_url, a->authorization, a->wire_repo};

    upstream_said(a->proxy->origins, &who, words);
}

/* Only what goes to clients is worth remembering. */
static void deny(const struct asker *a, const struct response_head *head)
{
    struct response_head kept = {.status = head->status};

    stale_refused(a->proxy->stale, &a->subject); /* before: see stale_admit() */

    for (size_t i = 0; i < head->header_count; i++)
        if (strcmp(head->headers[i].name, "www-authenticate") == 0)
            kept.headers[kept.header_count++] = head->headers[i];
    decisions_deny(a->proxy->decisions, &a->subject, now_ms(), a->upstream->denied_ttl_ms, &kept);
}

void access_learn(const struct asker *a, const struct response_head *head)
{
    if (head->status == 200) {
        decisions_allow(a->proxy->decisions, &a->subject, now_ms(), a->upstream->access_ttl_ms);
        stale_allowed(a->proxy->stale, &a->subject, a->upstream, now_ms());
    } else if (access_is_denial(head)) {
        deny(a, head);
    }
}

/* For operators. */
static void note_seen(const struct asker *a, const struct refs_reader *refs,
                      const struct seen_listing *listing, const struct bytes *asked)
{
    struct seen_how how = {.by = a->own                     ? SEEN_OWN
                                 : a->authorization != NULL ? SEEN_CLIENT
                                                            : SEEN_ANONYMOUS,
                           .algo = refs_reader_algo(refs),
                           .now_s = time(NULL)};
    struct fetch_request question = {0};
    struct err ignored;

    if (asked == NULL && refs_reader_version(refs) == 2)
        return; /* capabilities, and no refs */
    if (asked != NULL)
        how.unclear = fetch_request_parse(2, asked->data, asked->len, &question, &ignored) != 0 ||
                      question.unknown;
    how.prefixes = question.ls_prefixes;
    how.prefix_count = question.ls_prefix_count;
    seen_note(a->proxy->seen, &a->repo_id, &how, listing);
    fetch_request_clear(&question);
}

void access_learn_refs(const struct asker *a, const struct refs_reader *refs,
                       const struct seen_listing *listing, const char *content_type,
                       const struct bytes *asked, const struct bytes *v2_body)
{
    note_seen(a, refs, listing, asked);
    decisions_learn_refs(a->proxy->decisions, &a->subject, now_ms(), a->upstream->access_ttl_ms,
                         refs, content_type, asked, v2_body);
}

void reply_denial(struct exchange *x, const struct response_head *denial)
{
    for (size_t i = 0; i < denial->header_count; i++)
        if (strcmp(denial->headers[i].name, "www-authenticate") == 0)
            reply_header(x, "WWW-Authenticate", denial->headers[i].value);
    reply_text(x, denial->status, "denied", "upstream refuses: HTTP status %d", denial->status);
}

/* ---- questions of our own ---- */

struct question {
    const struct asker *asker;
    struct response_head head;
    struct refs_reader *refs;
    struct seen_listing listing;
    struct bytes body;  /* of an advertisement, up to DECISION_ADVERT_MAX */
    struct bytes asked; /* the body of an ls-refs, in canonical form */
    refs_ref_fn *on_ref;
    void *ctx;
    struct fetch_response *fetched;
    bool broken;
};

static int question_head(void *ctx, const struct response_head *head, struct err *err)
{
    struct question *q = ctx;

    (void)err;
    response_head_copy(head, &q->head);
    access_learn(q->asker, head);
    return 0;
}

static int refs_data(void *ctx, const void *data, size_t len, struct err *err)
{
    struct question *q = ctx;
    struct err ignored;

    (void)err;
    if (q->head.status != 200)
        return 0;
    bytes_add(&q->body, data, len); /* over the limit: it is only not remembered */
    if (!q->broken && refs_reader_feed(q->refs, data, len, &ignored) != 0)
        q->broken = true;
    return 0;
}

static void hear_ref(void *ctx, const char *name, size_t len, const struct oid *oid)
{
    struct question *q = ctx;

    seen_listing_add(&q->listing, name, len, oid);
    if (q->on_ref != NULL)
        q->on_ref(q->ctx, name, len, oid);
}

static int ask_refs(struct question *q, struct upstream_request *r, enum refs_form form,
                    enum hash_algo algo, struct err *err)
{
    const struct asker *a = q->asker;
    struct err ignored;
    char *repo = asker_wire_repo(a), *moved = NULL;
    int rc;

    q->refs = refs_reader_new(form, algo, REFS_BODY_OIDS_MAX);
    refs_reader_on_ref(q->refs, hear_ref, q);
    seen_listing_init(&q->listing);
    bytes_init(&q->body, DECISION_ADVERT_MAX);
    r->repo = form == REFS_ADVERTISEMENT ? a->wire_repo : repo;
    r->git_protocol = "version=2";
    r->decode = true;
    r->share = question_share(a);
    r->head_fn = question_head;
    r->data_fn = refs_data;
    r->ctx = q;
    rc = asker_perform(a, r, &moved, err);
    if (rc == 0 && form == REFS_ADVERTISEMENT)
        decisions_set_moved(a->proxy->decisions, &a->subject, now_ms(), a->upstream->access_ttl_ms,
                            moved);
    if (rc == 0 && q->head.status == 200 && !q->broken &&
        refs_reader_finish(q->refs, &ignored) == 0 && refs_reader_error(q->refs) == NULL)
        access_learn_refs(a, q->refs, &q->listing, response_head_get(&q->head, "content-type"),
                          form == REFS_LS_REFS ? &q->asked : NULL,
                          form == REFS_ADVERTISEMENT ? &q->body : NULL);
    else
        q->broken = true;
    if (rc == 0 && refs_reader_error(q->refs) != NULL)
        access_heard(a, refs_reader_error(q->refs));
    free(moved);
    free(repo);
    return rc;
}

static void question_clear(struct question *q)
{
    response_head_clear(&q->head);
    refs_reader_free(q->refs);
    seen_listing_clear(&q->listing);
    fetch_response_free(q->fetched);
    bytes_clear(&q->body);
    bytes_clear(&q->asked);
}

static int ask_for_decision(void *ctx, struct response_head *denial, struct err *err)
{
    const struct asker *a = ctx;
    struct question q = {.asker = a};
    struct upstream_request r = {.method = "GET", .rest = "info/refs?service=git-upload-pack"};
    enum verdict verdict = VERDICT_NONE;

    if (ask_refs(&q, &r, REFS_ADVERTISEMENT, HASH_SHA1, err) != 0) {
        ;
    } else if (q.head.status == 200) {
        verdict = VERDICT_ALLOWED;
    } else if (access_is_denial(&q.head)) {
        verdict = VERDICT_DENIED;
        response_head_copy(&q.head, denial);
    } else {
        upstream_trouble(a->upstream, &q.head, err);
    }
    question_clear(&q);
    return verdict;
}

enum verdict access_check(const struct asker *a, struct response_head *denial, struct err *err)
{
    static const enum timer timers[] = {[VERDICT_NONE] = TIMER_ACCESS_NONE,
                                        [VERDICT_ALLOWED] = TIMER_ACCESS_ALLOWED,
                                        [VERDICT_DENIED] = TIMER_ACCESS_DENIED};
    uint64_t started = now_us();
    enum verdict v = decisions_get(a->proxy->decisions, &a->subject, now_ms(), denial);

    if (v == VERDICT_NONE)
        v = (enum verdict)flights_ask_once(a->proxy->flights, &a->subject.key, ask_for_decision,
                                           (void *)a, denial, err);
    if (v == VERDICT_NONE && access_is_outage(err->kind) &&
        stale_admit(a->proxy->stale, a->proxy->decisions, &a->subject, a->upstream, now_ms()))
        v = VERDICT_ALLOWED;
    metrics_time(timers[v], now_us() - started);
    return v;
}

int access_require(const struct asker *a, struct err *err)
{
    struct response_head denial = {0};
    enum verdict verdict = access_check(a, &denial, err);

    if (verdict == VERDICT_DENIED)
        err_set(err, ERR_DENIED, "%s refuses: HTTP status %d", a->upstream->name, denial.status);
    response_head_clear(&denial);
    return verdict == VERDICT_ALLOWED ? 0 : -1;
}

/* By protocol 2; algo: as upstream has advertised it. */
static int ask_ls_refs(struct question *q, bool head, enum hash_algo algo, struct err *err)
{
    static const char *const prefixes[] = {"HEAD", "refs/heads/", "refs/tags/"};
    struct fetch_request asked = {.version = 2,
                                  .command = COMMAND_LS_REFS,
                                  .algo = algo,
                                  .algo_named = algo != HASH_SHA1, /* else taken for granted */
                                  .ls_peel = true,
                                  .ls_prefixes = (char **)prefixes + !head,
                                  .ls_prefix_count = ARRAY_LEN(prefixes) - !head};
    struct upstream_request r = {.method = "POST",
                                 .rest = "git-upload-pack",
                                 .content_type = content_type_request(SERVICE_UPLOAD_PACK),
                                 .accept = content_type_response(SERVICE_UPLOAD_PACK)};

    bytes_init(&q->asked, SIZE_MAX / 2);
    fetch_request_write(&asked, &q->asked);
    r.body = q->asked.data;
    r.body_len = q->asked.len;
    return ask_refs(q, &r, REFS_LS_REFS, algo, err);
}

static bool speaks_v2(const struct asker *a, enum hash_algo *algo)
{
    struct advert advert = {0};
    bool does = decisions_get_advert(a->proxy->decisions, &a->subject, now_ms(), &advert) &&
                advert.version == 2;

    *algo = advert.algo;
    advert_clear(&advert);
    return does;
}

/* Heads and tags, and head: HEAD, too.  out and fn may be NULL. */
static int list_refs(const struct asker *a, bool head, refs_ref_fn *fn, void *ctx,
                     struct oid_list *out, struct err *err)
{
    struct question q = {.asker = a, .on_ref = fn, .ctx = ctx};
    struct upstream_request r = {.method = "GET", .rest = "info/refs?service=git-upload-pack"};
    enum hash_algo algo;
    bool v2 = speaks_v2(a, &algo);
    int rc = 0;

    if (!v2) {
        /* An older host, or what was known of it was forgotten a moment ago: somebody has pushed.
         */
        rc = ask_refs(&q, &r, REFS_ADVERTISEMENT, HASH_SHA1, err);
        v2 = rc == 0 && !q.broken && refs_reader_version(q.refs) == 2;
        algo = refs_reader_algo(q.refs);
        if (v2) {
            question_clear(&q);
            q = (struct question){.asker = a, .on_ref = fn, .ctx = ctx};
        }
    }
    if (v2)
        rc = ask_ls_refs(&q, head, algo, err);
    if (rc == 0 && q.broken)
        rc = err_set(err, ERR_UPSTREAM, "%s did not list its refs", a->upstream->name);
    if (rc == 0 && out != NULL) {
        oid_list_copy(refs_reader_oids(q.refs), out);
        oid_list_sort(out);
    }
    question_clear(&q);
    return rc;
}

int access_list_refs(const struct asker *a, struct oid_list *out, struct err *err)
{
    return list_refs(a, false, NULL, NULL, out, err);
}

int access_list_names(const struct asker *a, refs_ref_fn *fn, void *ctx, struct oid_list *out,
                      struct err *err)
{
    return list_refs(a, true, fn, ctx, out, err);
}

/* ---- probing ---- */

static int probe_data(void *ctx, const void *data, size_t len, struct err *err)
{
    struct question *q = ctx;

    if (q->head.status != 200)
        return 0;
    if (bytes_add(&q->body, data, len) != 0)
        return err_set(err, ERR_LIMIT, "upstream sent too much for a probe");
    return fetch_response_feed(q->fetched, data, len, err);
}

bool access_probe(const struct asker *a, const struct oid_list *oids)
{
    struct fetch_request req = {.version = 2,
                                .command = COMMAND_FETCH,
                                .depth = 1,
                                .filter = (char *)"tree:0",
                                .ofs_delta = true,
                                .done = true,
                                .sideband = SIDEBAND_64K};
    struct fetch_response_shape shape;
    struct question q = {.asker = a};
    struct advert advert = {0};
    struct upstream_request r;
    struct bytes body;
    struct err err;
    bool yes;

    if (oids->count > PROBE_OIDS_MAX ||
        !decisions_get_advert(a->proxy->decisions, &a->subject, now_ms(), &advert) ||
        advert.version != 2 || !advert.filter) {
        advert_clear(&advert);
        return false;
    }
    req.algo = advert.algo;
    req.algo_named = advert.algo != HASH_SHA1;
    req.wants = *oids; /* borrowed: req is not cleared */
    fetch_response_shape_of(&req, &shape);
    bytes_init(&body, SIZE_MAX / 2);
    fetch_request_write(&req, &body);
    q.fetched = fetch_response_new(&shape, NULL, NULL);
    bytes_init(&q.body, PROBE_BYTES_MAX);
    char *repo = asker_wire_repo(a);
    r = (struct upstream_request){.method = "POST",
                                  .repo = repo,
                                  .rest = "git-upload-pack",
                                  .git_protocol = "version=2",
                                  .content_type = content_type_request(SERVICE_UPLOAD_PACK),
                                  .accept = content_type_response(SERVICE_UPLOAD_PACK),
                                  .body = body.data,
                                  .body_len = body.len,
                                  .share = question_share(a),
                                  .head_fn = question_head,
                                  .data_fn = probe_data,
                                  .ctx = &q};
    yes = asker_perform(a, &r, NULL, &err) == 0 && q.head.status == 200 &&
          fetch_response_finish(q.fetched, &err) == 0;
    if (yes)
        decisions_grant(a->proxy->decisions, &a->subject, now_ms(), a->upstream->access_ttl_ms,
                        oids);
    free(repo);
    bytes_clear(&body);
    advert_clear(&advert);
    question_clear(&q);
    return yes;
}
