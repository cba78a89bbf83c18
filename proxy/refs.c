#include "proxy/refs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/pkt.h"
#include "proxy/access.h"
#include "proxy/decisions.h"

enum {
    KEPT_MAX = 256, /* with refs_ttl; each costs an open file, and beyond it upstream is asked */
};

/* One question to upstream about refs, and its answer. */
struct flight {
    struct refs *all;
    struct key key;
    int refs; /* under all->lock */
    struct asker asker;
    enum refs_form form;
    char *git_protocol;
    struct bytes body; /* of the POST */
    enum hash_algo algo;

    struct answer *answer;
    struct response_head head; /* complete before the answer's first byte or end */
    struct refs_reader *reader;
    bool broken;       /* what came is not refs; it is passed on all the same */
    struct bytes held; /* an unfinished pkt */
    struct bytes v2_body;
    unsigned pushes; /* of its group when it started */
    uint64_t asked_ms;
    uint64_t kept_until_ms; /* with refs_ttl: who asks before then gets this answer again */
};

/* All flights of one question. */
struct group {
    struct key key;
    int running;
    struct flight *gathering; /* not started: who comes may still join */
    struct flight *kept;      /* landed, and good until its kept_until_ms */
    unsigned pushes;          /* seen; an answer from before the last one isn't kept */
    UT_hash_handle hh;
};

struct refs {
    struct lock lock;
    struct group *groups;
    size_t kept_count;
};

struct refs *refs_new(void)
{
    struct refs *r = xcalloc(1, sizeof(*r));

    lock_init(&r->lock, LOCK_REFS);
    return r;
}

static void flight_unref(struct flight *f)
{
    struct refs *all = f->all;
    bool last;

    lock_take(&all->lock);
    last = --f->refs == 0;
    lock_drop(&all->lock);
    if (!last)
        return;
    answer_unref(&f->answer);
    asker_clear(&f->asker);
    refs_reader_free(f->reader);
    response_head_clear(&f->head);
    bytes_clear(&f->body);
    bytes_clear(&f->held);
    bytes_clear(&f->v2_body);
    free(f->git_protocol);
    free(f);
}

static void flight_release(void *state)
{
    flight_unref(state);
}

/* What makes two questions the same: who asks, what, in which protocol. */
static void flight_key(const struct flight *f, struct key *out)
{
    struct bytes text;

    bytes_init(&text, SIZE_MAX / 2);
    bytes_add(&text, f->asker.subject.key.raw, sizeof(f->asker.subject.key.raw));
    bytes_addf(&text, "%d %s", (int)f->form, f->git_protocol != NULL ? f->git_protocol : "");
    bytes_add(&text, "", 1);
    bytes_add(&text, f->body.data, f->body.len);
    key_of(text.data, text.len, out);
    bytes_clear(&text);
}

static int on_head(void *ctx, const struct response_head *head, struct err *err)
{
    struct flight *f = ctx;

    (void)err;
    response_head_copy(head, &f->head);
    access_learn(&f->asker, head);
    return 0;
}

/* Hand on whole pkts only, so that an ERR of ours can stand behind them if upstream breaks off. */
static int pass_whole_pkts(struct flight *f, const void *data, size_t len, struct err *err)
{
    const char *at;
    size_t left;
    struct pkt pkt;
    struct err ignored;
    int rc;

    if (bytes_add(&f->held, data, len) != 0)
        return err_set(err, ERR_UPSTREAM, "a pkt without an end");
    at = f->held.data;
    left = f->held.len;
    while ((rc = pkt_next(&at, &left, &pkt, &ignored)) == 1)
        ;
    if (rc < 0) {
        f->broken = true;
        left = 0;
    }
    rc = answer_append(f->answer, f->held.data, f->held.len - left, err);
    bytes_drop_front(&f->held, f->held.len - left);
    return rc;
}

static int on_data(void *ctx, const void *data, size_t len, struct err *err)
{
    struct flight *f = ctx;
    struct err ignored;

    if (f->head.status != 200)
        return answer_append(f->answer, data, len, err);
    if (f->form == REFS_ADVERTISEMENT)
        bytes_add(&f->v2_body, data, len); /* over its limit it is only not remembered */
    if (!f->broken && refs_reader_feed(f->reader, data, len, &ignored) != 0)
        f->broken = true;
    if (f->broken && f->held.len == 0)
        return answer_append(f->answer, data, len, err);
    return pass_whole_pkts(f, data, len, err);
}

static int ask(struct flight *f, char **moved, struct err *err)
{
    bool post = f->form == REFS_LS_REFS;
    char *repo = post ? asker_wire_repo(&f->asker) : xstrdup(f->asker.wire_repo);
    const struct upstream_request r = {
        .method = post ? "POST" : "GET",
        .base_url = f->asker.base_url,
        .repo = repo,
        .rest = post ? "git-upload-pack" : "info/refs?service=git-upload-pack",
        .authorization = f->asker.authorization,
        .git_protocol = f->git_protocol,
        .content_type = post ? content_type_request(SERVICE_UPLOAD_PACK) : NULL,
        .accept = post ? content_type_response(SERVICE_UPLOAD_PACK) : NULL,
        .decode = true,
        .share = question_share(&f->asker),
        .body = post ? f->body.data : NULL,
        .body_len = f->body.len,
        .head_fn = on_head,
        .data_fn = on_data,
        .ctx = f,
    };
    int rc = upstream_perform(f->asker.proxy->origins, f->asker.upstream, &r, moved, err);

    free(repo);
    return rc;
}

/* True when what came was refs, whole. */
static bool learn(struct flight *f, const char *moved)
{
    const struct asker *a = &f->asker;
    struct err ignored;

    if (f->form == REFS_ADVERTISEMENT)
        decisions_set_moved(a->proxy->decisions, &a->subject, now_ms(), a->upstream->access_ttl_ms,
                            moved);
    if (f->head.status != 200 || f->broken || refs_reader_finish(f->reader, &ignored) != 0 ||
        refs_reader_error(f->reader) != NULL)
        return false;
    access_learn_refs(a, f->reader, response_head_get(&f->head, "content-type"),
                      f->form == REFS_LS_REFS ? &f->body : NULL,
                      f->form == REFS_ADVERTISEMENT ? &f->v2_body : NULL);
    return true;
}

static void finish(struct flight *f, int rc, const struct err *why)
{
    struct err ignored;

    if (rc == 0) {
        if (f->held.len > 0) /* ends inside a pkt: passed on as far as it came */
            answer_append(f->answer, f->held.data, f->held.len, &ignored);
        answer_end(f->answer);
        return;
    }
    if (answer_size(f->answer) > 0 && f->head.status == 200 && !f->broken) {
        struct bytes message;

        bytes_init(&message, PKT_MAX);
        pkt_addf(&message, "ERR pannier: %s\n", why->text);
        answer_append(f->answer, message.data, message.len, &ignored);
        bytes_clear(&message);
    }
    answer_fail(f->answer, why);
}

static void fly(void *ctx);

/* Next one off.  Its reference for the run was taken when it was made. */
static void start(struct flight *f)
{
    if (workers_submit(f->asker.proxy->queries, fly, f))
        return;
    answer_fail(f->answer, &(struct err){ERR_BUSY, "too many requests are waiting"});
    fly(f); /* only lands it: there is nothing left to ask */
}

static void drop_if_idle_locked(struct refs *all, struct group *g)
{
    if (g->running > 0 || g->gathering != NULL || g->kept != NULL)
        return;
    HASH_DEL(all->groups, g);
    free(g);
}

/* Takes out one kept answer that has expired or, with repo_id, that is of this repository (NULL in
 * both: any); NULL when there is none. */
static struct flight *take_kept_locked(struct refs *all, bool expired, const struct key *repo_id)
{
    uint64_t now = now_ms();
    struct group *g, *next;

    HASH_ITER(hh, all->groups, g, next)
    {
        struct flight *f = g->kept;

        if (f == NULL || (expired && now < f->kept_until_ms) ||
            (repo_id != NULL && !key_equal(&f->asker.repo_id, repo_id)))
            continue;
        g->kept = NULL;
        all->kept_count--;
        drop_if_idle_locked(all, g);
        return f;
    }
    return NULL;
}

static void drop_kept(struct refs *all, bool expired, const struct key *repo_id)
{
    struct flight *f;

    do {
        lock_take(&all->lock);
        f = take_kept_locked(all, expired, repo_id);
        lock_drop(&all->lock);
        if (f != NULL)
            flight_unref(f);
    } while (f != NULL);
}

static struct flight *land_locked(struct refs *all, struct flight *f, struct flight **dropped)
{
    struct flight *next = NULL;
    struct group *g;

    *dropped = NULL;
    HASH_FIND(hh, all->groups, &f->key, sizeof(f->key), g);
    must(g != NULL);
    g->running--;
    if (f->kept_until_ms > 0 && f->pushes == g->pushes &&
        (g->kept != NULL || all->kept_count < KEPT_MAX)) {
        *dropped = g->kept;
        all->kept_count += g->kept == NULL;
        g->kept = f;
        f->refs++;
    }
    if (g->gathering != NULL) {
        next = g->gathering;
        next->pushes = g->pushes;
        g->gathering = NULL;
        g->running++;
    } else {
        drop_if_idle_locked(all, g);
    }
    return next;
}

static void fly(void *ctx)
{
    struct flight *f = ctx, *next, *dropped;
    struct refs *all = f->all;
    char *path, *moved = NULL;
    struct claim *claim;
    struct err why;
    int rc;

    if (answer_state(f->answer) == ANSWER_FILLING) {
        path = folder_incoming_path(f->asker.proxy->cache.folder, ".refs");
        claim = local_claim_new(f->asker.proxy->cache.local);
        answer_store_at(f->answer, path, &claim);
        free(path);
        f->asked_ms = now_ms();
        rc = ask(f, &moved, &why);
        if (rc == 0 && learn(f, moved) && f->asker.upstream->refs_ttl_ms > 0 &&
            !answer_storage_trouble(f->answer, &why))
            f->kept_until_ms = now_ms() + f->asker.upstream->refs_ttl_ms;
        finish(f, rc, &why);
        free(moved);
    }
    lock_take(&all->lock);
    next = land_locked(all, f, &dropped);
    lock_drop(&all->lock);
    asker_forget_credential(&f->asker);
    flight_unref(f);
    if (dropped != NULL)
        flight_unref(dropped);
    drop_kept(all, true, NULL);
    if (next != NULL)
        start(next);
}

static bool is_kept(const struct flight *f)
{
    return f != NULL && now_ms() < f->kept_until_ms;
}

static struct group *group_of_locked(struct refs *all, const struct key *key)
{
    struct group *g;

    HASH_FIND(hh, all->groups, key, sizeof(*key), g);
    if (g == NULL) {
        g = xcalloc(1, sizeof(*g));
        g->key = *key;
        HASH_ADD(hh, all->groups, key, sizeof(g->key), g);
    }
    return g;
}

enum company {
    WITH_KEPT,      /* an answer of before will do (refs_ttl), or a flight that hasn't started */
    WITH_GATHERING, /* only the latter */
    ALONE,
};

/* The flight that mine may join, or mine itself; *starts when it is to start now, *old when it has
 * landed before.  The reference is the caller's; mine is consumed when another one serves. */
static struct flight *board(struct refs *all, struct flight *mine, enum company company,
                            bool *starts, bool *old)
{
    struct flight *f = mine;
    struct group *g;

    *starts = false;
    lock_take(&all->lock);
    g = group_of_locked(all, &mine->key);
    *old = company == WITH_KEPT && is_kept(g->kept);
    if (*old) {
        f = g->kept;
    } else if (company != ALONE && g->gathering != NULL) {
        f = g->gathering;
    } else if (company == ALONE || g->running < REFS_FLIGHTS_MAX) {
        g->running++;
        f->pushes = g->pushes;
        *starts = true;
    } else {
        g->gathering = f;
    }
    f->refs++; /* the run's, or that of the one who joins */
    lock_drop(&all->lock);
    if (f != mine)
        flight_unref(mine);
    return f;
}

/* HTTP thread: upstream has begun to answer, or failed. */
static void refs_ready(struct exchange *x)
{
    struct flight *f = x->state;
    struct answer *a = exchange_answer(x);
    const char *type;

    if (answer_state(a) == ANSWER_FAILED && answer_size(a) == 0) {
        struct err why;

        answer_why(a, &why);
        reply_error(x, &why);
        return;
    }
    for (size_t i = 0; i < f->head.header_count; i++) {
        const struct header *h = &f->head.headers[i];

        if (strcmp(h->name, "www-authenticate") == 0)
            reply_header(x, "WWW-Authenticate", h->value);
        else if (strcmp(h->name, "retry-after") == 0)
            reply_header(x, "Retry-After", h->value);
    }
    reply_header(x, "Cache-Control", "no-cache, max-age=0, must-revalidate");
    reply_header(x, "Cache-Status", "pannier; fwd=request; detail=refs");
    type = response_head_get(&f->head, "content-type");
    reply_stream(x, f->head.status, type != NULL ? type : "application/octet-stream", NULL,
                 f->head.status == 200        ? "refs"
                 : access_is_denial(&f->head) ? "denied"
                                              : "error");
}

static struct flight *flight_new(struct exchange *x, enum refs_form form, enum hash_algo algo,
                                 const struct bytes *body)
{
    struct flight *f = xcalloc(1, sizeof(*f));

    f->all = x->proxy->refs;
    f->refs = 1;
    asker_init(&f->asker, x);
    f->form = form;
    f->algo = algo;
    f->git_protocol = x->git_protocol != NULL ? xstrdup(x->git_protocol) : NULL;
    bytes_init(&f->held, SIZE_MAX / 2);
    bytes_init(&f->v2_body, DECISION_ADVERT_MAX);
    bytes_init(&f->body, SIZE_MAX / 2);
    if (body != NULL)
        bytes_add(&f->body, body->data, body->len);
    f->answer = answer_new_filling();
    f->reader = refs_reader_new(form, algo, DECISION_OIDS_MAX);
    flight_key(f, &f->key);
    return f;
}

/* Board a flight and follow it.  -1: it has gone too far to be joined. */
static int serve_with(struct exchange *x, struct flight *mine, enum company company,
                      struct err *err)
{
    bool starts, old;
    struct flight *f = board(x->proxy->refs, mine, company, &starts, &old);
    int rc = exchange_follow(x, f->answer, refs_ready, err);

    if (rc == 0) {
        x->state = f;
        x->free_state = flight_release;
        if (old)
            decisions_gave_old_refs(x->proxy->decisions, &f->asker.subject, f->asked_ms);
    }
    if (starts)
        start(f);
    if (rc != 0)
        flight_unref(f);
    return rc;
}

static void serve(struct exchange *x, enum refs_form form, enum hash_algo algo,
                  const struct bytes *body)
{
    struct flight *f = flight_new(x, form, algo, body);
    /* Kept refs, too, only for whom upstream has lately said yes to. */
    bool allowed =
        decisions_get(x->proxy->decisions, &f->asker.subject, now_ms(), NULL) == VERDICT_ALLOWED;
    struct err why;

    if (serve_with(x, f, allowed ? WITH_KEPT : WITH_GATHERING, &why) == 0)
        return;
    /* Only when the disk fails do bytes pass that a late one can't get any more. */
    if (why.kind != ERR_BUSY || serve_with(x, flight_new(x, form, algo, body), ALONE, &why) != 0)
        reply_error(x, &why);
}

static bool reply_from_memory(struct exchange *x, const struct asker *a)
{
    struct decisions *d = a->proxy->decisions;
    struct response_head denial = {0};
    struct advert advert = {0};
    bool replied = true;

    if (decisions_get(d, &a->subject, now_ms(), &denial) == VERDICT_DENIED) {
        reply_denial(x, &denial);
    } else if (x->protocol == 2 && decisions_get_advert(d, &a->subject, now_ms(), &advert) &&
               advert.v2_body != NULL) {
        /* Capabilities only: v2's refs come from the POST, which always asks. */
        reply_header(x, "Cache-Control", "no-cache, max-age=0, must-revalidate");
        reply_header(x, "Cache-Status", "pannier; hit; detail=capabilities");
        reply_bytes(x, 200, content_type_response(SERVICE_UPLOAD_PACK_REFS), advert.v2_body,
                    advert.v2_len, "refs");
    } else {
        replied = false;
    }
    response_head_clear(&denial);
    advert_clear(&advert);
    return replied;
}

void refs_serve_advertisement(struct exchange *x)
{
    struct asker a;

    asker_init(&a, x);
    if (!reply_from_memory(x, &a))
        serve(x, REFS_ADVERTISEMENT, HASH_SHA1, NULL);
    asker_clear(&a);
}

void refs_serve_ls(struct exchange *x, const struct fetch_request *req, struct bytes *body)
{
    struct response_head denial = {0};
    struct asker a;

    asker_init(&a, x);
    if (decisions_get(x->proxy->decisions, &a.subject, now_ms(), &denial) == VERDICT_DENIED)
        reply_denial(x, &denial);
    else
        serve(x, REFS_LS_REFS, req->algo, body);
    response_head_clear(&denial);
    asker_clear(&a);
}

void refs_forget(struct refs *all, const struct key *repo_id)
{
    struct group *g, *next;

    lock_take(&all->lock);
    HASH_ITER(hh, all->groups, g, next)
    g->pushes++; /* of any repository: it only costs that something isn't kept */
    lock_drop(&all->lock);
    drop_kept(all, false, repo_id);
}

void refs_free(struct refs **rp)
{
    struct refs *all = *rp;

    *rp = NULL;
    if (all == NULL)
        return;
    drop_kept(all, false, NULL);
    must(all->groups == NULL);
    lock_clear(&all->lock);
    free(all);
}
