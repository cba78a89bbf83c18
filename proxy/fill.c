#include "proxy/fill.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache/invalidate.h"
#include "cache/lock.h"
#include "cache/shared/shared.h"
#include "protocol/base.h"
#include "proxy/fleet.h"
#include "proxy/flights.h"
#include "proxy/log.h"
#include "proxy/metrics.h"
#include "proxy/mirroring.h"
#include "proxy/peer.h"
#include "proxy/pull.h"
#include "proxy/stream.h"

enum {
    HAVES_MAX = 256, /* tips that upstream is told of: more than that adds little */
    IDLE_MS = 1000,
    WRITER_WAIT_MS = 20 * 1000,
    PEERS_TRIED = 3,
    /* Of a client's time; the mirror comes down in the background then, however long that takes. */
    RESTORE_MS = 60 * 1000,
    CATCH_UP_MS = 10 * 1000,
};

/* What is kept is made for those to come; a round is for one reader, who may have gone. */
static int is_wanted(void *ctx, struct err *err)
{
    const struct fill *f = ctx;

    if (f->kept || answer_has_readers(f->answer))
        return 0;
    return err_set(err, ERR_CANCELLED, "the client is gone");
}

/* Its pack makes a mirror. */
static bool is_closed(const struct fill *f)
{
    return f->kept && fetch_request_is_closed(&f->req);
}

/* ---- one answer ---- */

static void describe(const struct fill *f, struct entry *e)
{
    char hex[OID_HEX_SIZE];
    char repo_hex[KEY_HEX_SIZE];

    oid_to_hex(f->req.algo, &f->req.wants.items[0], hex);
    key_to_hex(&f->asker.repo_id, repo_hex);
    *e = (struct entry){
        .kind = ENTRY_ANSWER,
        .repo_id = xstrdup(repo_hex),
        .repo = xstrdup(f->asker.name),
        .url = xstrdup(f->url),
        .commit = xstrdup(hex),
        .created = (int64_t)time(NULL),
    };
}

/* Before the answer is settled: from then on another one's may be under this key, which those who
 * follow this credential have no right to. */
static void land(struct fill *f)
{
    if (f->only_upstream)
        flights_landed(f->asker.proxy->flights, &f->leading);
    f->only_upstream = false;
}

/* Other nodes need not wait for it any more, or follow it here. */
static void unclaim(struct fill *f, bool kept)
{
    if (f->claimed)
        fleet_unclaim(f->asker.proxy->fleet, &f->claim, kept);
    f->claimed = false;
}

static void end_unkept(struct fill *f)
{
    land(f);
    unclaim(f, false);
    if (f->kept)
        answers_end(f->asker.proxy->cache.answers, &f->key, f->answer);
    else
        answer_end(f->answer);
}

/* objects: in its pack. */
static void succeed(struct fill *f, uint32_t objects)
{
    struct cache *cache = &f->asker.proxy->cache;
    struct entry entry;
    bool kept;

    land(f);
    if (!f->kept || cache_epoch(cache) != f->epoch) {
        end_unkept(f);
        return;
    }
    describe(f, &entry);
    entry.objects = objects;
    /* Nor is it what was invalidated from here on: that lets go of it. */
    kept = answers_keep(cache->answers, &f->key, f->answer, &entry);
    if (kept && answer_source(f->answer) != SOURCE_SHARED)
        fleet_note_kept(f->asker.proxy->fleet, &f->key, &entry);
    entry_clear(&entry);
    unclaim(f, kept);
}

static void give_up(struct fill *f, const struct err *why)
{
    land(f);
    unclaim(f, false);
    if (f->kept)
        answers_fail(f->asker.proxy->cache.answers, &f->key, f->answer, why);
    else
        answer_fail(f->answer, why);
}

/* What the source has said is all; decide what becomes of the answer. */
static void conclude(struct fill *f, struct stream *s)
{
    const char *refusal;
    struct err why;

    if (stream_finish(s, &why) == 0) {
        if (answer_source(f->answer) == SOURCE_UPSTREAM)
            decisions_grant(f->asker.proxy->decisions, &f->asker.subject, now_ms(),
                            f->asker.upstream->access_ttl_ms, &f->req.wants);
        succeed(f, fetch_response_objects(s->watch));
        return;
    }
    refusal = stream_refused(s);
    if (refusal != NULL && answer_source(f->answer) == SOURCE_UPSTREAM)
        access_heard(&f->asker, refusal);
    if (refusal != NULL && !s->handed_on) {
        err_set(&why, ERR_REFUSED, "%s", refusal);
        give_up(f, &why);
    } else if (refusal != NULL) { /* opened early: the refusal has to go by the sideband */
        err_set(&why, ERR_UPSTREAM, "upstream says: %s", refusal);
        stream_break(s, &why);
        give_up(f, &why);
    } else if (stream_said_error(s) || s->raw || !f->req.done) {
        end_unkept(f); /* the client has upstream's own words, or a round of negotiation */
    } else {
        asker_warn(&f->asker, "answer not whole", &why);
        stream_break(s, &why);
        give_up(f, &why);
    }
}

struct output {
    struct fill *fill;
    struct stream *stream;
    uint64_t until_ms; /* how long a client waits for the shared tier */
};

static int on_output(void *ctx, const void *data, size_t len, struct err *err)
{
    const struct output *o = ctx;

    return is_wanted(o->fill, err) != 0 ? -1 : stream_feed(o->stream, data, len, err);
}

static int on_idle(void *ctx, struct err *err)
{
    const struct output *o = ctx;

    return is_wanted(o->fill, err) != 0 ? -1 : stream_idle(o->stream, err);
}

/* git failed on the mirror.  It may be the question that it refuses, and a client must not be able
 * to have good mirrors thrown away; of a question for everything behind the wants only damage can
 * keep it. */
static void distrust(const struct fill *f, const struct err *why)
{
    /* A machine without memory ends git by a signal; git says so of its children. */
    bool killed = why->kind == ERR_TIMEOUT || strstr(why->text, " signal ") != NULL;

    if (fetch_request_is_closed(&f->req) && !killed)
        mirror_drop_damaged(f->mirror, why);
    else
        mirror_doubt(f->mirror);
}

/* Not that a view can't be written; nor that what was there before git looked, the mirror itself or
 * a pack that a kill had kept from becoming a part of it, has been cleared away. */
static bool says_damage(const struct err *why)
{
    return why->kind != ERR_BUSY && why->kind != ERR_STORAGE && why->kind != ERR_NOT_FOUND;
}

/* True when the answer is settled, well or badly; false: try the next source. */
static bool from_mirror(struct fill *f, struct stream *s)
{
    struct output output = {.fill = f, .stream = s};
    struct err why;
    int rc;

    /* Until the pack begins a mirror that turns out broken can still be replaced by upstream. */
    s->hold = true;
    rc = mirror_upload_pack(f->mirror, &f->req, &f->tags, &f->targets, on_output, on_idle, IDLE_MS,
                            &output, &why);
    if (rc == 0 && f->tags.count > 0)
        folder_report_success(f->asker.proxy->cache.folder, FOLDER_VIEWS);
    if (rc == 0 && stream_refused(s) == NULL) {
        conclude(f, s);
        return true;
    }
    if (rc == 0)
        err_set(&why, ERR_CORRUPT, "upload-pack says: %s", stream_refused(s));
    if (why.kind == ERR_CANCELLED) {
        give_up(f, &why);
        return true;
    }
    if (why.kind == ERR_PROCESS && !mirror_has_all(f->mirror, &f->req.wants))
        why.kind = ERR_NOT_FOUND;
    mirroring_warn(&f->asker, "mirror failed", FOLDER_VIEWS, &why);
    if (says_damage(&why))
        distrust(f, &why);
    if (stream_restart(s))
        return false;
    stream_break(s, &why);
    give_up(f, &why);
    return true;
}

/* Fetch what is missing, if anything is.  *pulled is left or set to true. */
static int pull_missing(struct fill *f, const struct oid_list *missing, struct stream *s,
                        bool *pulled, struct err *err)
{
    struct oid_list tips = {0};
    int rc;

    if (missing->count == 0)
        return 0;
    *pulled = true;
    mirror_tips(f->mirror, HAVES_MAX, &tips);
    rc = pull_into_mirror(&f->asker, f->mirror, missing, &tips, false, s, err);
    oid_list_clear(&tips);
    return rc;
}

/* Another one's pull may take long; the client must hear something meanwhile, and upstream may well
 * be the faster way. */
static bool wait_for_writer(struct mirror *m, struct stream *s)
{
    uint64_t until = now_ms() + WRITER_WAIT_MS;
    struct err ignored;

    while (now_ms() < until) {
        if (mirror_write_try(m, IDLE_MS))
            return true;
        if (stream_idle(s, &ignored) != 0)
            break;
    }
    return false;
}

/* What waits for a mirror out of the shared tier must hear something meanwhile. */
static int on_restoring(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
    const struct output *o = ctx;

    if (now_ms() > o->until_ms)
        return err_set(err, ERR_TIMEOUT,
                       "only %" PRIu64 " of %" PRIu64 " bytes have come; upstream may be faster",
                       done, total);
    return is_wanted(o->fill, err) != 0 ? -1 : stream_idle(o->stream, err);
}

/* False when the mirror couldn't be brought to where it can answer.  *pulled: upstream was needed.
 */
static bool bring_forward(struct fill *f, struct stream *s, bool *pulled)
{
    struct mirror *m = f->mirror;
    struct output output = {.fill = f, .stream = s};
    struct lease *lease;
    struct oid_list missing = {0}, missing_tags = {0};
    uint64_t started = now_us();
    struct err why = {0};
    int rc;

    if (mirror_has_all(m, &f->req.wants)) {
        mirror_missing_tags(m, &f->tags, &f->targets, &missing_tags);
        if (missing_tags.count == 0)
            return true;
        oid_list_clear(&missing_tags);
    }
    if (!wait_for_writer(m, s))
        return false;
    lease = fleet_lease(f->asker.proxy->fleet, &f->asker.repo_id, NULL);
    output.until_ms = now_ms() + CATCH_UP_MS;
    mirroring_catch_up(&f->asker, m, on_restoring, &output);
    mirror_missing(m, &f->req.wants, &missing);
    rc = pull_missing(f, &missing, s, pulled, &why);
    /* Only now is it known which tags point into what the mirror has. */
    if (rc == 0) {
        mirror_missing_tags(m, &f->tags, &f->targets, &missing_tags);
        rc = pull_missing(f, &missing_tags, s, pulled, &why);
    }
    lease_release(&lease);
    mirror_write_end(m);
    if (rc != 0) {
        mirroring_warn(&f->asker, "mirror not refreshed", FOLDER_MIRRORS, &why);
    } else if (*pulled) {
        folder_report_success(f->asker.proxy->cache.folder, FOLDER_MIRRORS);
        log_line(LOG_INFO, "mirror refreshed", "repository", LOG_STR, f->asker.name, "total_ms",
                 LOG_MS, now_us() - started, NULL);
    }
    oid_list_clear(&missing);
    oid_list_clear(&missing_tags);
    return rc == 0;
}

/* ---- out of the shared tier ---- */

struct delivery {
    struct fill *fill;
    struct stream *stream;
    struct entry entry; /* what the shared tier says that it is */
};

/* Another node may mean another host by this name. */
static bool is_of_host(const char *url, const char *base_url)
{
    size_t len = strlen(base_url);

    return strncmp(url, base_url, len) == 0 && url[len] == '/';
}

static int on_delivery(void *ctx, const struct shared_answer *what, struct err *err)
{
    struct delivery *d = ctx;

    if (!is_of_host(what->entry.url, d->fill->asker.base_url))
        return err_set(err, ERR_NOT_FOUND, "what the shared tier has is another host's");
    entry_copy(&what->entry, &d->entry);
    answer_set_source(d->fill->answer, SOURCE_SHARED);
    answer_set_digest(d->fill->answer, what->sha256);
    stream_begin_kept(d->stream, what->entry.note_offset, (int64_t)what->entry.size);
    return 0;
}

static int on_delivered(void *ctx, const void *data, size_t len, struct err *err)
{
    const struct delivery *d = ctx;

    return stream_feed_kept(d->stream, data, len, err);
}

/* For the index, where it was found. */
static void note_use(const struct fill *f, const char *repo_id, struct entry *e)
{
    char object[OBJECT_KEY_MAX + 1];

    shared_answer_key(repo_id, &f->key, object);
    free(e->path);
    e->path = xstrdup(object);
    e->tier = TIER_SHARED;
    fleet_note_use(f->asker.proxy->fleet, &f->key, e);
}

/* True when the answer is settled, well or badly; false: try the next source, and *absent says that
 * it isn't there. */
static bool try_shared(struct fill *f, struct stream *s, bool *absent)
{
    struct shared *shared = f->asker.proxy->cache.shared;
    struct delivery d = {.fill = f, .stream = s};
    const struct shared_answer_sink sink = {on_delivery, on_delivered, &d};
    char repo_id[KEY_HEX_SIZE];
    struct err why;
    int rc;

    *absent = false;
    if (shared == NULL)
        return false;
    key_to_hex(&f->asker.repo_id, repo_id);
    rc = shared_get_answer(shared, repo_id, &f->key, &sink, &why);
    *absent = rc != 0 && why.kind == ERR_NOT_FOUND;
    if (rc == 0)
        rc = stream_finish_kept(s, &why);
    if (rc == 0) {
        mirroring_consider(&f->asker, f->mirror, &f->req, is_closed(f) ? f->answer : NULL);
        succeed(f, d.entry.objects);
        note_use(f, repo_id, &d.entry);
    }
    entry_clear(&d.entry);
    if (rc == 0)
        return true;
    if (stream_restart(s)) {
        answer_set_digest(f->answer, NULL);
        return false;
    }
    asker_warn(&f->asker, "the shared tier broke off", &why);
    stream_break(s, &why);
    give_up(f, &why);
    return true;
}

/* ---- from another node ---- */

static int on_followed(void *ctx, int64_t note_offset, int64_t size, struct err *err)
{
    struct delivery *d = ctx;

    (void)err;
    answer_set_source(d->fill->answer, SOURCE_PEER);
    answer_await_digest(d->fill->answer);
    stream_begin_kept(d->stream, note_offset, size);
    return 0;
}

/* All of it has come; it is kept if it is what the other has. */
static int judge_followed(struct fill *f, struct stream *s, const struct peer_sums *sums, bool kept,
                          struct err *err)
{
    uint8_t own[CHECKSUM_SIZE];

    if (stream_finish_kept(s, err) != 0)
        return -1;
    if (!kept || !answer_checksum_so_far(f->answer, own)) {
        end_unkept(f);
        return 0;
    }
    if (memcmp(own, sums->checksum, CHECKSUM_SIZE) != 0)
        return err_set(err, ERR_CORRUPT, "another node's answer is not what it has");
    answer_tell_digest(f->answer, sums->sha256);
    succeed(f, 0);
    return 0;
}

/* True when the answer is settled; false: nothing of it was handed on, and *why says why. */
static bool follow(struct fill *f, struct stream *s, const char *node, const char *address,
                   struct err *why)
{
    struct delivery d = {.fill = f, .stream = s};
    const struct peer_sink sink = {on_followed, on_delivered, &d};
    struct peer_sums sums;
    bool kept = false;

    if (peer_follow(f->asker.proxy, address, &f->key, &sink, &sums, &kept, why) == 0 &&
        judge_followed(f, s, &sums, kept, why) == 0)
        return true;
    if (stream_restart(s)) {
        answer_set_digest(f->answer, NULL);
        log_line(LOG_DEBUG, "another node can't be followed", "repository", LOG_STR, f->asker.name,
                 "node", LOG_STR, node, "reason", LOG_STR, why->text, NULL);
        return false;
    }
    log_line(LOG_WARN, "another node broke off", "repository", LOG_STR, f->asker.name, "node",
             LOG_STR, node, "reason", LOG_STR, why->text, NULL);
    stream_break(s, why);
    give_up(f, why);
    return true;
}

/* It is ours to make now; another node may have it on its disk. */
static bool take_from_holder(struct fill *f, struct stream *s, const struct seek_found *found)
{
    struct fleet *fleet = f->asker.proxy->fleet;
    struct err why;

    if (found->holder[0] == '\0' || f->asker.proxy->peers == NULL)
        return false;
    if (follow(f, s, found->holder, found->address, &why))
        return true;
    if (why.kind == ERR_NOT_FOUND)
        fleet_note_left(fleet, &f->key, found->holder);
    return false;
}

/* What the shared tier or another node has, or makes.  True when the answer is settled, well or
 * badly; false: it is ours to make. */
static bool try_others(struct fill *f, struct stream *s)
{
    struct fleet *fleet = f->asker.proxy->fleet;
    enum seek_mode mode = f->asker.proxy->cache.shared != NULL ? SEEK_OR_CLAIM : SEEK_NOT_SHARED;
    bool asked = false, absent;
    struct seek_found found;
    struct err why;

    for (unsigned i = 0; f->kept && i < PEERS_TRIED; i++) {
        switch (fleet_seek(fleet, &f->key, mode, &found)) {
        case SOUGHT_NOTHING: return !asked && try_shared(f, s, &absent);
        case SOUGHT_SHARED:
            if (try_shared(f, s, &absent))
                return true;
            asked = true;
            mode = absent ? SEEK_NOT_THERE : SEEK_NOT_SHARED;
            break;
        case SOUGHT_OURS:
            f->claimed = true;
            f->claim = found.filling;
            /* What nobody knows of may still be there: Redis may have lost it. */
            return take_from_holder(f, s, &found) || (!asked && try_shared(f, s, &absent));
        case SOUGHT_THEIRS:
            if (f->asker.proxy->peers == NULL)
                return !asked && try_shared(f, s, &absent);
            if (follow(f, s, found.filling.node, found.filling.address, &why))
                return true;
            /* What it had may have gone up meanwhile; else one of those who ask makes it anew. */
            if (!asked && try_shared(f, s, &absent))
                return true;
            fleet_disclaim(fleet, &found.filling);
        }
    }
    return false;
}

/* Upstream itself is asked, whoever else may have it; those to whom it has said yes elsewhere may
 * follow here. */
static void let_follow(struct fill *f)
{
    struct seek_found found;

    f->claimed = f->kept &&
                 fleet_seek(f->asker.proxy->fleet, &f->key, SEEK_NOT_SHARED, &found) == SOUGHT_OURS;
    f->claim = found.filling;
}

/* ---- mirrors ---- */

/* The mirror is there, now at least. */
static bool have_mirror(struct fill *f, struct stream *s)
{
    struct output output = {f, s, now_ms() + RESTORE_MS};

    if (f->mirror == NULL || mirror_ready(f->mirror))
        return f->mirror != NULL;
    if (!mirroring_may_restore(&f->asker) || !wait_for_writer(f->mirror, s))
        return false;
    mirroring_restore(&f->asker, f->mirror, on_restoring, &output);
    mirror_write_end(f->mirror);
    return mirror_ready(f->mirror);
}

/* ---- from upstream ---- */

static void from_upstream(struct fill *f, struct stream *s)
{
    struct pull p = {.asker = &f->asker, .wanted = is_wanted, .ctx = f, .stream = s};
    struct err why;
    int rc;

    answer_set_source(f->answer, SOURCE_UPSTREAM);
    mirroring_consider(&f->asker, f->mirror, &f->req, is_closed(f) ? f->answer : NULL);
    rc = pull_perform(&p, &f->req, &why);
    if (rc == 0) {
        conclude(f, s);
    } else {
        if (p.head.status == 200)
            asker_warn(&f->asker, "upstream broke off", &why);
        stream_break(s, &why);
        give_up(f, &why);
    }
    pull_clear(&p);
}

static bool try_mirror(struct fill *f, struct stream *s)
{
    bool pulled = false;

    if (!have_mirror(f, s) || !bring_forward(f, s, &pulled))
        return false;
    answer_set_source(f->answer, pulled ? SOURCE_REFRESH : SOURCE_MIRROR);
    return from_mirror(f, s);
}

static void fill_free(struct fill *f)
{
    land(f);
    asker_clear(&f->asker);
    fetch_request_clear(&f->req);
    oid_list_clear(&f->tags);
    oid_list_clear(&f->targets);
    answer_unref(&f->answer);
    mirror_unref(&f->mirror);
    free(f->url);
    if (f->ended != NULL)
        f->ended(f->ctx);
    free(f);
}

static void count_made(struct answer *a, uint64_t took_us)
{
    static const struct {
        enum answer_source source;
        enum timer timer;
    } timers[] = {{SOURCE_MIRROR, TIMER_MADE_MIRROR},
                  {SOURCE_REFRESH, TIMER_MADE_REFRESH},
                  {SOURCE_UPSTREAM, TIMER_MADE_UPSTREAM},
                  {SOURCE_SHARED, TIMER_MADE_SHARED},
                  {SOURCE_PEER, TIMER_MADE_PEER}};

    for (size_t i = 0; i < ARRAY_LEN(timers); i++)
        if (timers[i].source == answer_source(a))
            metrics_time(timers[i].timer, took_us);
    if (answer_state(a) == ANSWER_FAILED)
        metrics_count(CELL_GENERATION_FAILED, 1);
}

static void run(void *ctx)
{
    struct fill *f = ctx;
    uint64_t started = now_us();
    struct stream s;

    answers_begin(f->asker.proxy->cache.answers, f->kept ? &f->key : NULL, f->answer);
    stream_init(&s, f->answer, &f->req);
    f->epoch = cache_epoch(&f->asker.proxy->cache);
    if (f->only_upstream)
        let_follow(f);
    if (f->only_upstream || (!try_others(f, &s) && !try_mirror(f, &s)))
        from_upstream(f, &s);
    stream_clear(&s);
    count_made(f->answer, now_us() - started);
    fill_free(f);
}

void fill_start(struct fill *f)
{
    struct fill *job = xmalloc(sizeof(*job));

    *job = *f;
    *f = (struct fill){0};
    if (workers_submit(job->asker.proxy->fills, run, job))
        return;
    give_up(job, &(struct err){ERR_BUSY, "too many answers are being made"});
    fill_free(job);
}
