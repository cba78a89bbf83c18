#include "proxy/warm/ahead.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "proxy/fetch.h"
#include "proxy/fill.h"
#include "proxy/fleet.h"

static const char HEADS[] = "refs/heads/";

/* What upstream shows, as far as it is asked for. */
struct shown {
    const struct ahead_wish *wish;
    struct oid head, *tips; /* of the wish's branches */
    bool has_head, *has_tip;
    struct oid_list all; /* what a full clone wants */
};

/* One repository being made ready. */
struct ahead {
    const struct ahead_wish *wish;
    struct asker asker;
    struct mirror *mirror; /* NULL: it has none */
    enum hash_algo algo;
    bool algo_named; /* clients name it in what they ask */
    struct oid_list tags, targets;
    struct shown shown;
    struct ahead_made *made;
};

/* ---- what upstream shows ---- */

static bool is_name(const char *name, size_t len, const char *what)
{
    return len == strlen(what) && memcmp(name, what, len) == 0;
}

static void on_ref(void *ctx, const char *name, size_t len, const struct oid *oid)
{
    struct shown *s = ctx;
    size_t heads = sizeof(HEADS) - 1;

    if (is_name(name, len, "HEAD")) {
        s->head = *oid;
        s->has_head = true;
    } else if (len > heads && memcmp(name, HEADS, heads) == 0) {
        for (size_t i = 0; i < s->wish->branch_count; i++)
            if (is_name(name + heads, len - heads, s->wish->branches[i])) {
                s->tips[i] = *oid;
                s->has_tip[i] = true;
            }
    } else if (len <= 10 || memcmp(name, "refs/tags/", 10) != 0) {
        return; /* over protocol 0 all are told, and clones don't want the others */
    }
    if (s->all.count < FETCH_LINES_MAX)
        oid_list_add(&s->all, oid);
}

/* Clients are shown upstream's capabilities, so they name the format when it does. */
static bool names_format(const struct advert *advert)
{
    static const char word[] = "object-format=";

    return advert->v2_body == NULL ||
           memmem(advert->v2_body, advert->v2_len, word, sizeof(word) - 1) != NULL;
}

/* Those that upstream showed while the mirror was brought forward will do, unless what it showed is
 * forgotten by now: that took longer than access_ttl, or somebody has pushed. */
static int know_refs(struct ahead *w, struct err *err)
{
    struct decisions *d = w->asker.proxy->decisions;
    struct shown *s = &w->shown;

    if (w->made->refreshed.tips > 0 &&
        decisions_tags(d, &w->asker.subject, now_ms(), &w->tags, &w->targets))
        return 0;
    oid_list_clear(&s->all);
    s->has_head = false;
    memset(s->has_tip, 0, s->wish->branch_count * sizeof(*s->has_tip));
    if (access_list_names(&w->asker, on_ref, s, NULL, err) != 0)
        return -1;
    if (s->all.count == 0)
        return err_set(err, ERR_NOT_FOUND, "the repository has no branches");
    return decisions_tags(d, &w->asker.subject, now_ms(), &w->tags, &w->targets)
               ? 0
               : err_set(err, ERR_LIMIT, "it has more refs than are remembered");
}

/* Which protocol its host speaks; 0: that is not known. */
static int know_host(struct ahead *w)
{
    struct advert advert = {0};
    int version = 0;

    if (decisions_get_advert(w->asker.proxy->decisions, &w->asker.subject, now_ms(), &advert))
        version = advert.version == 2 ? 2 : 1;
    w->algo = advert.algo;
    w->algo_named = names_format(&advert);
    advert_clear(&advert);
    return version;
}

/* 0: answers can be made.  -1: ERR_CONFLICT, they can't of this one. */
static int look_upstream(struct ahead *w, struct err *err)
{
    if (access_require(&w->asker, err) != 0)
        return -1;
    if (know_host(w) == 1)
        return err_set(err, ERR_CONFLICT, "its host speaks protocol 0");
    if (know_refs(w, err) != 0)
        return -1;
    /* A push forgets it; listing the refs anew brings it again. */
    if (know_host(w) != 2)
        return err_set(err, ERR_BUSY, "somebody has just pushed to it");
    oid_list_sort(&w->shown.all);
    return 0;
}

/* ---- one answer ---- */

/* Who waits for a fill. */
struct waiting {
    struct lock lock;
    pthread_cond_t changed;
    bool ended;
};

static void on_ended(void *ctx)
{
    struct waiting *w = ctx;

    lock_take(&w->lock);
    w->ended = true;
    pthread_cond_signal(&w->changed);
    lock_drop(&w->lock);
}

/* Consumes what *f holds. */
static void fill_and_wait(struct fill *f)
{
    struct waiting w = {.ended = false};

    lock_init(&w.lock, LOCK_EXCHANGE);
    lock_cond_init(&w.changed);
    f->ended = on_ended;
    f->ctx = &w;
    fill_start(f);
    lock_take(&w.lock);
    while (!w.ended)
        lock_wait(&w.lock, &w.changed);
    lock_drop(&w.lock);
    pthread_cond_destroy(&w.changed);
    lock_clear(&w.lock);
}

static void fill_of(const struct ahead *w, const struct fetch_request *req, const struct key *key,
                    struct answer *a, struct fill *out)
{
    *out = (struct fill){
        .answer = answer_ref(a),
        .kept = true,
        .key = *key,
        .url = xasprintf("%s/%s", w->asker.base_url, w->asker.wire_repo),
        .mirror = w->mirror != NULL ? mirror_ref(w->mirror) : NULL,
    };
    oid_list_copy(&w->tags, &out->tags);
    oid_list_copy(&w->targets, &out->targets);
    asker_copy(&w->asker, &out->asker);
    fetch_request_copy(req, &out->req);
}

/* Why it isn't there though it was made. */
static int explain(struct answer *a, struct err *err)
{
    if (answer_state(a) == ANSWER_FAILED)
        answer_why(a, err);
    else if (!answer_storage_trouble(a, err))
        err_set(err, ERR_LIMIT, "an answer found no room, or was invalidated while it was made");
    return -1;
}

static int make_keyed(struct ahead *w, const struct fetch_request *req, const struct key *key,
                      struct err *err)
{
    struct answers *answers = w->asker.proxy->cache.answers;
    struct answer *a;
    struct fill fill;
    bool leads;
    int rc = 0;

    /* Looked for so, it doesn't count as used: nobody has asked for it. */
    if (answers_have(answers, key)) {
        w->made->there++;
        w->made->answers++;
        return 0;
    }
    a = answers_join(answers, key, &leads);
    /* Who leads otherwise makes it for a client, who is told if that fails. */
    if (leads && !answers_find_local(answers, key, a)) {
        fill_of(w, req, key, a, &fill);
        fill_and_wait(&fill);
        if (!answers_have(answers, key))
            rc = explain(a, err);
    }
    if (rc == 0)
        w->made->answers++;
    answer_unref(&a);
    return rc;
}

static int make_answer(struct ahead *w, const struct oid_list *wants, uint32_t depth,
                       bool include_tag, struct err *err)
{
    const struct fetch_request req = {
        .version = 2,
        .command = COMMAND_FETCH,
        .algo = w->algo,
        .algo_named = w->algo_named,
        .wants = *wants, /* borrowed: req is not cleared */
        .depth = depth,
        .thin_pack = true,
        .ofs_delta = true,
        .include_tag = include_tag,
        .done = true,
        .no_progress = true,
        .sideband = SIDEBAND_64K,
    };
    struct key key;

    fetch_key(&req, &w->asker.repo_id, &w->tags, &w->targets, &key);
    return make_keyed(w, &req, &key, err);
}

/* As a clone and as a fetch put it. */
static int make_shallow(struct ahead *w, struct oid *tip, struct err *err)
{
    const struct oid_list wants = {.items = tip, .count = 1};

    if (make_answer(w, &wants, w->wish->depth, true, err) != 0)
        return -1;
    return make_answer(w, &wants, w->wish->depth, false, err);
}

static int make_branch(struct ahead *w, size_t i, struct err *err)
{
    if (w->wish->branch_count == 0)
        return w->shown.has_head ? make_shallow(w, &w->shown.head, err)
                                 : err_set(err, ERR_NOT_FOUND, "its HEAD is no branch that it has");
    if (!w->shown.has_tip[i])
        return err_set(err, ERR_NOT_FOUND, "it has no branch %s", w->wish->branches[i]);
    return make_shallow(w, &w->shown.tips[i], err);
}

/* The first that goes wrong is told; the others are made nevertheless. */
static int make_answers(struct ahead *w, struct err *err)
{
    size_t branches = w->wish->branch_count > 0 ? w->wish->branch_count : 1;
    struct err why;
    int rc = 0;

    for (size_t i = 0; i <= branches; i++) {
        int made =
            i < branches ? make_branch(w, i, &why) : make_answer(w, &w->shown.all, 0, false, &why);

        if (made != 0 && rc == 0) {
            *err = why;
            rc = -1;
        }
    }
    return rc;
}

/* ---- all of it ---- */

const char *ahead_mirror_word(const struct ahead_made *made)
{
    return made->mirror ? mirroring_word(&made->refreshed) : "none";
}

static void describe(struct ahead_made *m, const char *without)
{
    int n = snprintf(m->text, sizeof(m->text), "%s%s", m->mirror ? "mirror " : "no mirror",
                     m->mirror ? ahead_mirror_word(m) : "");
    char *rest = m->text + n;
    size_t size = sizeof(m->text) - (size_t)n;

    if (without != NULL)
        snprintf(rest, size, ", no answers: %s", without);
    else
        snprintf(rest, size, m->there > 0 ? ", %zu answer%s (%zu there before)" : ", %zu answer%s",
                 m->answers, m->answers == 1 ? "" : "s", m->there);
}

static void ahead_clear(struct ahead *w)
{
    asker_clear(&w->asker);
    mirror_unref(&w->mirror);
    oid_list_clear(&w->tags);
    oid_list_clear(&w->targets);
    oid_list_clear(&w->shown.all);
    free(w->shown.tips);
    free(w->shown.has_tip);
}

static int answers_of(struct ahead *w, struct err *err)
{
    int rc;

    if (w->made->mirror)
        w->mirror = mirroring_of(&w->asker);
    if (!entry_can_name(w->asker.name))
        rc = err_set(err, ERR_CONFLICT, "its name is not UTF-8");
    else if (!fleet_may_serve(w->asker.proxy->fleet, w->asker.config))
        rc = err_set(err, ERR_BUSY, "what the other nodes have told is not known yet");
    else
        rc = look_upstream(w, err);
    return rc == 0 ? make_answers(w, err) : -1;
}

static int make_ready(struct ahead *w, struct err *err)
{
    struct ahead_made *out = w->made;
    int rc = mirroring_refresh_as(&w->asker, on_ref, &w->shown, &out->refreshed, err);

    if (rc != 0 && err->kind != ERR_CONFLICT)
        return -1;
    out->mirror = rc == 0;
    rc = answers_of(w, err);
    if (rc != 0 && err->kind == ERR_CONFLICT && out->mirror) {
        describe(out, err->text);
        return 0;
    }
    describe(out, NULL);
    return rc;
}

int ahead_make(struct proxy *p, const struct config *config, const struct ahead_wish *wish,
               struct ahead_made *out, struct err *err)
{
    struct ahead w = {.wish = wish, .made = out, .shown = {.wish = wish}};
    int rc;

    *out = (struct ahead_made){.mirror = true};
    if (asker_init_for_program(&w.asker, p, config, wish->name, err) != 0)
        return -1;
    w.shown.tips = xcalloc(wish->branch_count + 1, sizeof(*w.shown.tips));
    w.shown.has_tip = xcalloc(wish->branch_count + 1, sizeof(*w.shown.has_tip));
    rc = make_ready(&w, err);
    ahead_clear(&w);
    return rc;
}
