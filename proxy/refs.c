#include "proxy/refs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <uthash.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/pkt.h"
#include "proxy/access.h"
#include "proxy/decisions.h"
#include "proxy/encoded.h"
#include "proxy/manners/stale.h"

enum {
    /* Where refs are kept; each costs an open file or three, and beyond it upstream is asked. */
    KEPT_MAX = 256,
    COPY_BLOCK = 64 * 1024,
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

    /* The answer as those who are aboard take it; NULL where nobody does.  Under all->lock until
     * the flight starts, and when it is kept. */
    struct encoded *forms[ENCODINGS_COUNT];
    bool refused;              /* there is no worker for it */
    bool handed_on;            /* some of the body */
    struct response_head head; /* complete before an answer's first byte or end */
    struct refs_reader *reader;
    struct seen_listing listing;
    bool broken;       /* what came is not refs; it is passed on all the same */
    struct bytes held; /* an unfinished pkt */
    struct bytes v2_body;
    struct bytes seen; /* with stale_if_error: all of a body, as far as STALE_BODY_MAX */
    bool seen_all;
    struct shown *shown; /* made of it, to be remembered */
    unsigned pushes;     /* of its group when it started */
    uint64_t asked_ms;
    uint64_t kept_until_ms; /* where refs are kept: who asks before then gets this answer again */
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

/* What an exchange keeps of a flight. */
struct passenger {
    struct flight *flight; /* a reference */
    struct err why;        /* of an outage */
    struct encoded *form;  /* the flight's */
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
    for (int i = 0; i < ENCODINGS_COUNT; i++) {
        if (f->forms[i] != NULL)
            encoded_clear(f->forms[i]);
        free(f->forms[i]);
    }
    asker_clear(&f->asker);
    refs_reader_free(f->reader);
    seen_listing_clear(&f->listing);
    response_head_clear(&f->head);
    bytes_clear(&f->body);
    bytes_clear(&f->held);
    bytes_clear(&f->v2_body);
    bytes_clear(&f->seen);
    shown_free(f->shown);
    free(f->git_protocol);
    free(f);
}

static void passenger_free(void *state)
{
    struct passenger *p = state;

    flight_unref(p->flight);
    free(p);
}

static struct encoded *add_form(struct flight *f, enum content_encoding encoding)
{
    if (f->forms[encoding] == NULL) {
        f->forms[encoding] = xmalloc(sizeof(*f->forms[encoding]));
        encoded_init(f->forms[encoding], answer_new_filling(), encoding);
    }
    return f->forms[encoding];
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

/* To every form.  -1: none of them is read any more. */
static int hand_on(struct flight *f, const void *data, size_t len, struct err *err)
{
    bool taken = false;

    for (int i = 0; i < ENCODINGS_COUNT; i++)
        if (f->forms[i] != NULL && encoded_append(f->forms[i], data, len, err) == 0)
            taken = true;
    f->handed_on = f->handed_on || len > 0;
    return taken ? 0 : -1;
}

/* why NULL: it is whole. */
static void end_forms(struct flight *f, const struct err *why)
{
    for (int i = 0; i < ENCODINGS_COUNT; i++) {
        if (f->forms[i] != NULL && why == NULL)
            encoded_end(f->forms[i]);
        else if (f->forms[i] != NULL)
            encoded_fail(f->forms[i], why);
    }
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
    rc = hand_on(f, f->held.data, f->held.len - left, err);
    bytes_drop_front(&f->held, f->held.len - left);
    return rc;
}

static int on_data(void *ctx, const void *data, size_t len, struct err *err)
{
    struct flight *f = ctx;
    struct err ignored;

    if (f->head.status != 200)
        return hand_on(f, data, len, err);
    if (f->seen_all && bytes_add(&f->seen, data, len) != 0)
        f->seen_all = false;
    if (f->form == REFS_ADVERTISEMENT)
        bytes_add(&f->v2_body, data, len); /* over its limit it is only not remembered */
    if (!f->broken && refs_reader_feed(f->reader, data, len, &ignored) != 0)
        f->broken = true;
    if (f->broken && f->held.len == 0)
        return hand_on(f, data, len, err);
    return pass_whole_pkts(f, data, len, err);
}

static int on_tick(void *ctx, struct err *err)
{
    struct flight *f = ctx;
    bool taken = false;

    for (int i = 0; i < ENCODINGS_COUNT; i++)
        if (f->forms[i] != NULL && encoded_flush(f->forms[i], err) == 0)
            taken = true;
    return taken ? 0 : -1;
}

static int ask(struct flight *f, char **moved, struct err *err)
{
    bool post = f->form == REFS_LS_REFS;
    char *repo = post ? asker_wire_repo(&f->asker) : xstrdup(f->asker.wire_repo);
    const struct upstream_request r = {
        .method = post ? "POST" : "GET",
        .repo = repo,
        .rest = post ? "git-upload-pack" : "info/refs?service=git-upload-pack",
        .git_protocol = f->git_protocol,
        .content_type = post ? content_type_request(SERVICE_UPLOAD_PACK) : NULL,
        .accept = post ? content_type_response(SERVICE_UPLOAD_PACK) : NULL,
        .decode = true,
        .share = question_share(&f->asker),
        .body = post ? f->body.data : NULL,
        .body_len = f->body.len,
        .head_fn = on_head,
        .data_fn = on_data,
        .tick_fn = on_tick,
        .ctx = f,
    };
    int rc = asker_perform(&f->asker, &r, moved, err);

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
    if (refs_reader_error(f->reader) != NULL)
        access_heard(a, refs_reader_error(f->reader));
    if (f->head.status != 200 || f->broken || refs_reader_finish(f->reader, &ignored) != 0 ||
        refs_reader_error(f->reader) != NULL)
        return false;
    access_learn_refs(a, f->reader, &f->listing, response_head_get(&f->head, "content-type"),
                      f->form == REFS_LS_REFS ? &f->body : NULL,
                      f->form == REFS_ADVERTISEMENT ? &f->v2_body : NULL);
    return true;
}

static void finish(struct flight *f, int rc, const struct err *why)
{
    struct err ignored;

    if (rc == 0) {
        if (f->held.len > 0) /* ends inside a pkt: passed on as far as it came */
            hand_on(f, f->held.data, f->held.len, &ignored);
        end_forms(f, NULL);
        return;
    }
    if (f->handed_on && f->head.status == 200 && !f->broken) {
        struct bytes message;

        bytes_init(&message, PKT_MAX);
        pkt_addf(&message, "ERR pannier: %s\n", why->text);
        hand_on(f, message.data, message.len, &ignored);
        bytes_clear(&message);
    }
    end_forms(f, why);
}

static void fly(void *ctx);

/* Next one off.  Its reference for the run was taken when it was made. */
static void start(struct flight *f)
{
    if (workers_submit(f->asker.proxy->queries, fly, f))
        return;
    f->refused = true;
    end_forms(f, &(struct err){ERR_BUSY, "too many requests are waiting"});
    fly(f); /* only lands it: there is nothing left to ask */
}

static void drop_if_idle_locked(struct refs *all, struct group *g)
{
    if (g->running > 0 || g->gathering != NULL || g->kept != NULL)
        return;
    HASH_DEL(all->groups, g);
    free(g);
}

/* Which kept answers are meant: those for which all holds that is said. */
struct choice {
    bool expired;
    const struct key *repo_id; /* NULL: of any repository */
    const char *name;          /* likewise; but for capitals */
};

static bool is_meant(const struct flight *f, const struct choice *which, uint64_t now)
{
    return (!which->expired || now >= f->kept_until_ms) &&
           (which->repo_id == NULL || key_equal(&f->asker.repo_id, which->repo_id)) &&
           (which->name == NULL || strcasecmp(f->asker.name, which->name) == 0);
}

/* Takes out one of them; NULL when there is none. */
static struct flight *take_kept_locked(struct refs *all, const struct choice *which)
{
    uint64_t now = now_ms();
    struct group *g, *next;

    HASH_ITER(hh, all->groups, g, next)
    {
        struct flight *f = g->kept;

        if (f == NULL || !is_meant(f, which, now))
            continue;
        g->kept = NULL;
        all->kept_count--;
        drop_if_idle_locked(all, g);
        return f;
    }
    return NULL;
}

static void drop_kept(struct refs *all, const struct choice *which)
{
    struct flight *f;

    do {
        lock_take(&all->lock);
        f = take_kept_locked(all, which);
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
    /* Under the lock that a push counts itself under before it has things forgotten. */
    if (f->shown != NULL && f->pushes == g->pushes)
        stale_keep(f->asker.proxy->stale, &f->asker.subject, &f->key, &f->shown, f->asked_ms);
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

static void store(const struct flight *f, struct encoded *form)
{
    const struct cache *cache = &f->asker.proxy->cache;
    char *path = folder_incoming_path(cache->folder, ".refs");
    struct claim *claim = local_claim_new(cache->local);

    answer_store_at(form->answer, path, &claim);
    free(path);
}

/* 0: not at all. */
static uint64_t keep_ms(const struct upstream_config *u)
{
    return u->refs == REFS_WEBHOOK ? u->refs_floor_ms : u->refs_ttl_ms;
}

static void ask_and_hand_on(struct flight *f)
{
    const struct encoded *plain = f->forms[ENCODING_IDENTITY];
    bool whole;
    char *moved = NULL;
    struct err why;
    int rc;

    for (int i = 0; i < ENCODINGS_COUNT; i++)
        if (f->forms[i] != NULL)
            store(f, f->forms[i]);
    f->asked_ms = now_ms();
    rc = ask(f, &moved, &why);
    whole = rc == 0 && learn(f, moved);
    seen_listing_clear(&f->listing); /* the flight may be kept for long */
    finish(f, rc, &why);
    if (whole && f->seen_all && !refs_reader_overflowed(f->reader))
        f->shown = shown_new(f->form, &f->reader, response_head_get(&f->head, "content-type"),
                             &f->body, &f->seen);
    /* From the question on: nobody knows when upstream looked. */
    if (whole && keep_ms(f->asker.upstream) > 0 && answer_fd(plain->answer) >= 0)
        f->kept_until_ms = f->asked_ms + keep_ms(f->asker.upstream);
    free(moved);
}

static void fly(void *ctx)
{
    struct flight *f = ctx, *next, *dropped;
    struct refs *all = f->all;

    if (!f->refused)
        ask_and_hand_on(f);
    lock_take(&all->lock);
    next = land_locked(all, f, &dropped);
    lock_drop(&all->lock);
    asker_forget_credential(&f->asker);
    flight_unref(f);
    if (dropped != NULL)
        flight_unref(dropped);
    drop_kept(all, &(struct choice){.expired = true});
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
    WITH_KEPT,      /* an answer of before will do, or a flight that hasn't started */
    WITH_GATHERING, /* only the latter */
    ALONE,
};

struct boarding {
    struct flight *flight; /* a reference of the caller's */
    struct encoded *form;
    bool starts;     /* the flight is to start now */
    bool old;        /* it has landed before */
    bool form_lacks; /* an old one: the form is still to be made, with a reference of its own */
};

/* A form of a flight that has landed whole.  One whose making failed is not tried again: plain will
 * do. */
static void choose_old_form_locked(struct boarding *b, enum content_encoding encoding)
{
    struct flight *f = b->flight;

    if (f->forms[encoding] != NULL && answer_state(f->forms[encoding]->answer) == ANSWER_FAILED)
        encoding = ENCODING_IDENTITY;
    b->form_lacks = f->forms[encoding] == NULL;
    b->form = add_form(f, encoding);
    f->refs += b->form_lacks;
}

/* Into the flight that mine may join, or mine itself.  mine is consumed when another one serves. */
static struct boarding board(struct refs *all, struct flight *mine, enum company company,
                             enum content_encoding encoding)
{
    struct boarding b = {0};
    struct flight *f = mine;
    struct group *g;

    lock_take(&all->lock);
    g = group_of_locked(all, &mine->key);
    b.old = company == WITH_KEPT && is_kept(g->kept);
    if (b.old) {
        f = g->kept;
    } else if (company != ALONE && g->gathering != NULL) {
        f = g->gathering;
    } else if (company == ALONE || g->running < REFS_FLIGHTS_MAX) {
        g->running++;
        f->pushes = g->pushes;
        b.starts = true;
    } else {
        g->gathering = f;
    }
    f->refs++; /* the run's, or that of the one who joins */
    b.flight = f;
    if (b.old)
        choose_old_form_locked(&b, encoding);
    else
        b.form = add_form(f, encoding);
    lock_drop(&all->lock);
    if (f != mine)
        flight_unref(mine);
    return b;
}

/* Another form of a flight that is kept, out of the plain one. */
static void make_form(void *ctx)
{
    struct passenger *p = ctx;
    struct answer_reader from;
    char *block = xmalloc(COPY_BLOCK);
    struct err why;
    ssize_t n = READER_FAILED;

    store(p->flight, p->form);
    if (answer_reader_open(&from, p->flight->forms[ENCODING_IDENTITY]->answer, NULL, NULL, &why) ==
        0) {
        while ((n = answer_reader_read(&from, block, COPY_BLOCK)) > 0 &&
               encoded_append(p->form, block, (size_t)n, &why) == 0)
            ;
        answer_reader_close(&from);
    }
    if (n == READER_END)
        encoded_end(p->form);
    else
        encoded_fail(p->form, &(struct err){ERR_STORAGE, "kept refs can't be read"});
    free(block);
    passenger_free(p);
}

/* In a job of its own: when the disk fails it waits for its readers. */
static void start_form(struct flight *f, struct encoded *form)
{
    struct passenger *p = xmalloc(sizeof(*p));

    *p = (struct passenger){.flight = f, .form = form};
    if (workers_submit(f->asker.proxy->queries, make_form, p))
        return;
    encoded_fail(form, &(struct err){ERR_BUSY, "too many requests are waiting"});
    passenger_free(p);
}

static void serve_again(struct exchange *x);

/* ---- while upstream is down ---- */

/* Upstream could not be asked, and nothing of what it may have said has gone out. */
static bool is_outage(const struct flight *f, struct answer *a, const struct err *why)
{
    if (answer_state(a) == ANSWER_FAILED && answer_size(a) == 0)
        return access_is_outage(why->kind);
    return f->head.status >= 500 || f->head.status == 429 ||
           (f->head.status == 403 && !access_is_denial(&f->head));
}

/* True: x is answered with what upstream said to the same credential and question before. */
static bool reply_stale(struct exchange *x, const struct flight *f)
{
    struct stale *st = x->proxy->stale;
    const struct subject *s = &f->asker.subject;
    const struct upstream_config *c = f->asker.upstream;
    char status[96];
    struct bytes body;
    bool shown;

    shown = stale_show(st, s, &f->key, c, now_ms(), &body) &&
            (stale_holds(st, s, now_ms(), &x->stale_age_ms) ||
             stale_admit(st, x->proxy->decisions, s, c, now_ms())) &&
            stale_holds(st, s, now_ms(), &x->stale_age_ms);
    if (shown) {
        x->stale_age_ms += x->stale_age_ms == 0; /* 0 says that it isn't */
        stale_served(st);
        snprintf(status, sizeof(status), "pannier; hit; detail=stale; ttl=-%llu",
                 (unsigned long long)(x->stale_age_ms + 999) / 1000);
        reply_header(x, "Cache-Control", "no-cache, max-age=0, must-revalidate");
        reply_header(x, "Cache-Status", status);
        reply_header(x, "Vary", "Accept-Encoding");
        reply_bytes(x, 200, content_type_response(x->path.service), body.data, body.len,
                    "refs, stale");
    }
    bytes_clear(&body);
    return shown;
}

/* In a worker, as much may have to be copied. */
static void serve_stale(struct exchange *x)
{
    struct passenger *p = x->state;

    if (!reply_stale(x, p->flight))
        reply_error(x, &p->why);
}

/* HTTP thread: upstream has begun to answer, or failed. */
static void refs_ready(struct exchange *x)
{
    struct passenger *p = x->state;
    const struct flight *f = p->flight;
    struct answer *a = exchange_answer(x);
    bool failed = answer_state(a) == ANSWER_FAILED && answer_size(a) == 0;
    const char *type, *encoding;

    if (failed)
        answer_why(a, &p->why);
    if (is_outage(f, a, &p->why) &&
        stale_can(x->proxy->stale, &f->asker.subject, &f->key, f->asker.upstream, now_ms())) {
        if (!failed)
            upstream_trouble(f->asker.upstream, &f->head, &p->why);
        exchange_again(x, serve_stale);
        return;
    }
    if (failed) {
        /* The disk fails, and this form of the answer had gone by before x came to read it. */
        if (p->form->deserted)
            exchange_again(x, serve_again);
        else
            reply_error(x, &p->why);
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
    reply_header(x, "Vary", "Accept-Encoding");
    encoding = encoded_header(p->form);
    if (encoding != NULL)
        reply_header(x, "Content-Encoding", encoding);
    type = response_head_get(&f->head, "content-type");
    reply_stream(x, f->head.status, type != NULL ? type : "application/octet-stream", NULL,
                 f->head.status == 200        ? "refs"
                 : access_is_denial(&f->head) ? "denied"
                                              : "error");
}

static struct flight *flight_new(struct exchange *x, const struct asker *a, enum refs_form form,
                                 enum hash_algo algo, const struct bytes *body)
{
    struct flight *f = xcalloc(1, sizeof(*f));

    f->all = x->proxy->refs;
    f->refs = 1;
    asker_copy(a, &f->asker);
    f->form = form;
    f->algo = algo;
    f->git_protocol = x->git_protocol != NULL ? xstrdup(x->git_protocol) : NULL;
    bytes_init(&f->held, SIZE_MAX / 2);
    bytes_init(&f->v2_body, DECISION_ADVERT_MAX);
    bytes_init(&f->seen, STALE_BODY_MAX);
    f->seen_all = f->asker.upstream->stale_if_error_ms > 0;
    bytes_init(&f->body, SIZE_MAX / 2);
    if (body != NULL)
        bytes_add(&f->body, body->data, body->len);
    if (keep_ms(f->asker.upstream) > 0)
        add_form(f, ENCODING_IDENTITY); /* to be kept; other forms can be made of it */
    f->reader = refs_reader_new(form, algo, DECISION_OIDS_MAX);
    seen_listing_init(&f->listing);
    refs_reader_on_ref(f->reader, seen_listing_add, &f->listing);
    flight_key(f, &f->key);
    return f;
}

/* Board a flight and follow it.  -1: it has gone too far to be joined. */
static int serve_with(struct exchange *x, struct flight *mine, enum company company,
                      struct err *err)
{
    struct boarding b =
        board(x->proxy->refs, mine, company, content_encoding_choose(x->accept_encoding));
    struct flight *f = b.flight;
    int rc = exchange_follow(x, b.form->answer, refs_ready, err);

    if (rc == 0) {
        struct passenger *p = xmalloc(sizeof(*p));

        *p = (struct passenger){.flight = f, .form = b.form};
        x->state = p;
        x->free_state = passenger_free;
        if (b.old)
            decisions_gave_old_refs(x->proxy->decisions, &f->asker.subject, f->asked_ms);
    }
    if (b.starts)
        start(f);
    if (b.form_lacks)
        start_form(f, b.form);
    if (rc != 0)
        flight_unref(f);
    return rc;
}

static void serve_again(struct exchange *x)
{
    struct passenger *p = x->state;
    const struct flight *f = p->flight;
    struct asker a; /* that of the flight has no credential any more */
    struct err why;

    x->state = NULL;
    x->free_state = NULL;
    if (asker_init(&a, x, &why) != 0) {
        reply_error(x, &why);
    } else {
        if (serve_with(x, flight_new(x, &a, f->form, f->algo, &f->body), ALONE, &why) != 0)
            reply_error(x, &why);
        asker_clear(&a);
    }
    passenger_free(p);
}

static void serve(struct exchange *x, const struct asker *a, enum refs_form form,
                  enum hash_algo algo, const struct bytes *body)
{
    struct flight *f = flight_new(x, a, form, algo, body);
    /* Kept refs, too, only for whom upstream has lately said yes to. */
    bool allowed =
        decisions_get(x->proxy->decisions, &a->subject, now_ms(), NULL) == VERDICT_ALLOWED;
    uint64_t age_ms;
    struct err why;

    /* Upstream was down a moment ago: not everybody needs to find out anew. */
    if (stale_holds(x->proxy->stale, &f->asker.subject, now_ms(), &age_ms) && reply_stale(x, f)) {
        flight_unref(f);
        return;
    }
    if (serve_with(x, f, allowed ? WITH_KEPT : WITH_GATHERING, &why) == 0)
        return;
    /* Only when the disk fails do bytes pass that a late one can't get any more. */
    if (why.kind != ERR_BUSY || serve_with(x, flight_new(x, a, form, algo, body), ALONE, &why) != 0)
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
        reply_header(x, "Vary", "Accept-Encoding"); /* as when upstream is asked */
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
    struct err why;

    if (asker_init(&a, x, &why) != 0) {
        reply_error(x, &why);
        return;
    }
    if (!reply_from_memory(x, &a))
        serve(x, &a, REFS_ADVERTISEMENT, HASH_SHA1, NULL);
    asker_clear(&a);
}

void refs_serve_ls(struct exchange *x, const struct fetch_request *req, struct bytes *body)
{
    struct response_head denial = {0};
    struct asker a;
    struct err why;

    if (asker_init(&a, x, &why) != 0) {
        reply_error(x, &why);
        return;
    }
    if (decisions_get(x->proxy->decisions, &a.subject, now_ms(), &denial) == VERDICT_DENIED)
        reply_denial(x, &denial);
    else
        serve(x, &a, REFS_LS_REFS, req->algo, body);
    response_head_clear(&denial);
    asker_clear(&a);
}

static void forget(struct refs *all, const struct choice *which)
{
    struct group *g, *next;

    lock_take(&all->lock);
    HASH_ITER(hh, all->groups, g, next)
    g->pushes++; /* of any repository: it only costs that something isn't kept */
    lock_drop(&all->lock);
    drop_kept(all, which);
}

void refs_forget(struct refs *all, const struct key *repo_id)
{
    forget(all, &(struct choice){.repo_id = repo_id});
}

void refs_forget_named(struct refs *all, const char *name)
{
    forget(all, &(struct choice){.name = name});
}

void refs_free(struct refs **rp)
{
    struct refs *all = *rp;

    *rp = NULL;
    if (all == NULL)
        return;
    drop_kept(all, &(struct choice){.expired = false});
    must(all->groups == NULL);
    lock_clear(&all->lock);
    free(all);
}
