#include "proxy/fill.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <uthash.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "proxy/flights.h"
#include "proxy/log.h"
#include "proxy/stream.h"

enum {
    HAVES_MAX = 256, /* tips that upstream is told of: more than that adds little */
    IDLE_MS = 1000,
    GATHER_SIZE = 512 * 1024,
    GATHER_US = 5000,
    BULK_AFTER = 1 << 20,
    RECEIVE_MAX = 128 * 1024, /* bytes that upstream.c hands out in one piece, at most */
    WRITER_WAIT_MS = 20 * 1000,
    FEED_BLOCK = 256 * 1024,
    REPOSITORIES_MAX = 65536, /* counted; beyond it all are forgotten */
};

/* ---- how often is a repository asked for? ---- */

struct asked {
    struct key repo_id;
    unsigned count;
    UT_hash_handle hh;
};

struct repositories {
    struct lock lock;
    struct asked *by_id;
};

struct repositories *repositories_new(void)
{
    struct repositories *r = xcalloc(1, sizeof(*r));

    lock_init(&r->lock, LOCK_REPOSITORIES);
    return r;
}

static void forget_all_locked(struct repositories *r)
{
    struct asked *a, *next;

    HASH_ITER(hh, r->by_id, a, next)
    {
        HASH_DEL(r->by_id, a);
        free(a);
    }
}

void repositories_free(struct repositories **rp)
{
    struct repositories *r = *rp;

    *rp = NULL;
    if (r == NULL)
        return;
    forget_all_locked(r);
    lock_clear(&r->lock);
    free(r);
}

static unsigned count_cold(struct repositories *r, const struct key *repo_id)
{
    struct asked *a;
    unsigned count;

    lock_take(&r->lock);
    HASH_FIND(hh, r->by_id, repo_id, sizeof(*repo_id), a);
    if (a == NULL) {
        if (HASH_COUNT(r->by_id) >= REPOSITORIES_MAX)
            forget_all_locked(r);
        a = xcalloc(1, sizeof(*a));
        a->repo_id = *repo_id;
        HASH_ADD(hh, r->by_id, repo_id, sizeof(a->repo_id), a);
    }
    count = ++a->count;
    lock_drop(&r->lock);
    return count;
}

/* ---- a fetch upstream ---- */

/* Where the response goes: into the stream of an answer, or as a pack into a mirror. */
struct transfer {
    const struct asker *asker;
    const struct fill *fill; /* NULL: for nobody in particular */
    struct response_head head;
    struct stream *stream; /* NULL: into the mirror */
    struct bytes gathered; /* on its way into the stream */
    uint64_t passed_us;    /* when it last went there */
    struct fetch_response *watch;
    struct mirror *mirror; /* takes the pack in */
    bool background;
    struct mirror_intake *intake; /* begun at the pack's first byte: git slots are few */
    struct stream *waiting;       /* kept alive meanwhile; may be NULL */
};

/* What is kept is made for those to come; a round is for one reader, who may have gone. */
static int check_wanted(const struct fill *f, struct err *err)
{
    if (f->kept || answer_has_readers(f->answer))
        return 0;
    return err_set(err, ERR_CANCELLED, "the client is gone");
}

static int on_head(void *ctx, const struct response_head *head, struct err *err)
{
    struct transfer *t = ctx;
    const char *name = t->asker->upstream->name;

    response_head_copy(head, &t->head);
    access_learn(t->asker, head);
    if (head->status == 200)
        return 0;
    if (access_is_denial(head))
        return err_set(err, ERR_DENIED, "%s refuses this credential: HTTP status %d", name,
                       head->status);
    return err_set(err, head->status == 429 || head->status == 503 ? ERR_BUSY : ERR_UPSTREAM,
                   "%s answered with HTTP status %d", name, head->status);
}

/* Into the answer in big pieces: whoever follows is woken less often. */
static int pass_gathered(struct transfer *t, struct err *err)
{
    int rc = 0;

    if (t->stream != NULL && t->gathered.len > 0)
        rc = stream_feed(t->stream, t->gathered.data, t->gathered.len, err);
    t->passed_us = now_us();
    bytes_reset(&t->gathered);
    return rc;
}

static int on_data(void *ctx, const void *data, size_t len, struct err *err)
{
    struct transfer *t = ctx;

    if (t->fill != NULL && check_wanted(t->fill, err) != 0)
        return -1;
    if (t->stream == NULL)
        return fetch_response_feed(t->watch, data, len, err);
    must(bytes_add(&t->gathered, data, len) == 0);
    return t->gathered.len >= GATHER_SIZE ? pass_gathered(t, err) : 0;
}

/* The first bytes go on at once.  Later, while much comes, a few milliseconds' worth is put
 * together; curl looks in at least once a second, so nothing waits for longer. */
static int on_pause(void *ctx, struct err *err)
{
    struct transfer *t = ctx;

    if (t->stream != NULL && t->stream->seen > BULK_AFTER && now_us() - t->passed_us < GATHER_US)
        return 0;
    return pass_gathered(t, err);
}

static int on_tick(void *ctx, struct err *err)
{
    struct transfer *t = ctx;
    struct stream *s = t->stream != NULL ? t->stream : t->waiting;

    /* Not before upstream has let us in: a 401 must leave the way open for the next credential. */
    return s != NULL && t->head.status == 200 ? stream_idle(s, err) : 0;
}

static int begin_intake(struct transfer *t, struct err *err)
{
    const struct asker *a = t->asker;
    char repo_id[KEY_HEX_SIZE];
    char *url = xasprintf("%s/%s", a->base_url, a->wire_repo);
    const struct entry about = {
        .kind = ENTRY_MIRROR, .repo_id = repo_id, .repo = a->name, .url = url};
    int rc;

    key_to_hex(&a->repo_id, repo_id);
    rc = mirror_intake_begin(t->mirror, &about, t->background, &t->intake, err);
    free(url);
    return rc;
}

static int on_intake(void *ctx, const void *data, size_t len, struct err *err)
{
    struct transfer *t = ctx;

    if (t->intake == NULL && begin_intake(t, err) != 0)
        return -1;
    return mirror_intake_feed(t->intake, data, len, err);
}

static int transfer(struct transfer *t, const struct fetch_request *req, struct err *err)
{
    const struct asker *a = t->asker;
    char *repo = asker_wire_repo(a);
    struct upstream_request r;
    struct bytes body;
    struct err ignored;
    int rc;

    bytes_init(&body, SIZE_MAX / 2);
    fetch_request_write(req, &body);
    r = (struct upstream_request){
        .method = "POST",
        .base_url = a->base_url,
        .repo = repo,
        .rest = "git-upload-pack",
        .authorization = a->authorization,
        .git_protocol = req->version == 2 ? "version=2" : NULL,
        .content_type = content_type_request(SERVICE_UPLOAD_PACK),
        .accept = content_type_response(SERVICE_UPLOAD_PACK),
        .body = body.data,
        .body_len = body.len,
        .head_fn = on_head,
        .data_fn = on_data,
        .pause_fn = on_pause,
        .tick_fn = on_tick,
        .ctx = t,
    };
    bytes_init(&t->gathered, GATHER_SIZE + RECEIVE_MAX);
    rc = upstream_perform(a->proxy->origins, a->upstream, &r, NULL, err);
    /* The end comes without a pause before it; so may a failure. */
    if (pass_gathered(t, rc == 0 ? err : &ignored) != 0)
        rc = -1;
    bytes_clear(&t->gathered);
    bytes_clear(&body);
    free(repo);
    return rc;
}

/* Fetch wants into the mirror; haves are what it has.  Between mirror_write_begin and _end. */
static int pull(const struct asker *a, struct mirror *m, const struct oid_list *wants,
                const struct oid_list *haves, bool background, struct stream *waiting,
                struct err *err)
{
    struct advert advert = {0};
    struct fetch_request req = {
        .version = 2,
        .command = COMMAND_FETCH,
        .wants = *wants, /* borrowed, as are the haves: req is not cleared */
        .haves = *haves,
        .thin_pack = haves->count > 0,
        .ofs_delta = true,
        .done = true,
        .sideband = SIDEBAND_64K,
    };
    struct fetch_response_shape shape;
    struct transfer t = {.asker = a, .mirror = m, .background = background, .waiting = waiting};
    int rc;

    if (decisions_get_advert(a->proxy->decisions, &a->subject, now_ms(), &advert))
        req.version = advert.version == 2 ? 2 : 0;
    advert_clear(&advert);
    fetch_response_shape_of(&req, &shape);
    t.watch = fetch_response_new(&shape, on_intake, &t);
    rc = transfer(&t, &req, err);
    if (rc == 0 && fetch_response_refused(t.watch))
        rc = err_set(err, ERR_REFUSED, "upstream says: %s", fetch_response_error(t.watch));
    if (rc == 0)
        rc = fetch_response_finish(t.watch, err);
    if (rc == 0)
        rc = mirror_intake_commit(&t.intake, wants, err);
    mirror_intake_abort(&t.intake);
    fetch_response_free(t.watch);
    response_head_clear(&t.head);
    return rc;
}

/* ---- what went wrong with a mirror ---- */

/* A disk that fails is told once for all that it fails; what found no room in the cache, was
 * evicted meanwhile, or ended because nobody wants it any more, is of no interest. */
static void warn(const struct asker *a, const char *event, enum folder_part part,
                 const struct err *why)
{
    bool quiet = why->kind == ERR_STORAGE || why->kind == ERR_LIMIT || why->kind == ERR_NOT_FOUND ||
                 why->kind == ERR_CANCELLED;

    if (why->kind == ERR_STORAGE)
        folder_report_trouble(a->proxy->cache.folder, part, why);
    log_line(quiet ? LOG_DEBUG : LOG_WARN, event, "repository", LOG_STR, a->name, "reason", LOG_STR,
             why->text, NULL);
}

/* ---- mirrors that are made behind the answers ---- */

struct making {
    struct asker asker;
    struct mirror *mirror;
    struct answer *answer; /* to be made from this answer's pack; NULL: from upstream */
    struct fetch_request req;
    struct lock lock;
    pthread_cond_t more;
    bool woken;
};

static void making_free(struct making *k)
{
    answer_unref(&k->answer);
    mirror_unref(&k->mirror);
    asker_clear(&k->asker);
    fetch_request_clear(&k->req);
    pthread_cond_destroy(&k->more);
    lock_clear(&k->lock);
    free(k);
}

static void on_more(void *ctx)
{
    struct making *k = ctx;

    lock_take(&k->lock);
    k->woken = true;
    pthread_cond_signal(&k->more);
    lock_drop(&k->lock);
}

static void wait_for_more(struct making *k, struct answer_reader *r)
{
    if (!answer_reader_arm(r))
        return;
    lock_take(&k->lock);
    while (!k->woken)
        lock_wait(&k->lock, &k->more);
    k->woken = false;
    lock_drop(&k->lock);
}

/* Follow the answer as any client does, and give its pack to index-pack. */
static int make_from_answer(struct making *k, struct err *err)
{
    struct fetch_response_shape shape;
    struct transfer t = {.asker = &k->asker, .mirror = k->mirror, .background = true};
    struct answer_reader r = {0};
    char *block = xmalloc(FEED_BLOCK);
    int rc;

    fetch_response_shape_of(&k->req, &shape);
    t.watch = fetch_response_new(&shape, on_intake, &t);
    rc = answer_reader_open(&r, k->answer, on_more, k, err);
    if (rc != 0) /* the disk didn't take it, which is told elsewhere */
        err->kind = ERR_CANCELLED;
    while (rc == 0) {
        ssize_t n = answer_reader_read(&r, block, FEED_BLOCK);

        if (n == READER_END)
            break;
        if (n == READER_WAIT)
            wait_for_more(k, &r);
        else if (n == READER_FAILED)
            rc = err_set(err, ERR_CANCELLED, "the answer it was made from failed");
        else
            rc = fetch_response_feed(t.watch, block, (size_t)n, err);
    }
    if (rc == 0)
        rc = fetch_response_finish(t.watch, err);
    if (rc == 0)
        rc = mirror_intake_commit(&t.intake, &k->req.wants, err);
    mirror_intake_abort(&t.intake);
    answer_reader_close(&r);
    fetch_response_free(t.watch);
    free(block);
    return rc;
}

static int make_from_upstream(struct making *k, struct err *err)
{
    struct oid_list tips = {0}, none = {0};
    int rc = access_list_refs(&k->asker, &tips, err);

    if (rc == 0 && tips.count == 0)
        rc = err_set(err, ERR_NOT_FOUND, "the repository has no branches");
    if (rc == 0)
        rc = pull(&k->asker, k->mirror, &tips, &none, true, NULL, err);
    oid_list_clear(&tips);
    return rc;
}

static void make_mirror(void *ctx)
{
    struct making *k = ctx;
    uint64_t started = now_us();
    struct err why;
    int rc = 0;
    bool needed;

    mirror_write_begin(k->mirror);
    needed = !mirror_ready(k->mirror);
    if (needed)
        rc = k->answer != NULL ? make_from_answer(k, &why) : make_from_upstream(k, &why);
    mirror_write_end(k->mirror);
    if (rc != 0) {
        warn(&k->asker, "mirror not made", FOLDER_MIRRORS, &why);
    } else if (needed) {
        folder_report_success(k->asker.proxy->cache.folder, FOLDER_MIRRORS);
        log_line(LOG_INFO, "mirror made", "repository", LOG_STR, k->asker.name, "total_ms", LOG_MS,
                 now_us() - started, NULL);
    }
    making_free(k);
}

static void start_making(const struct fill *f, struct mirror *m, bool from_answer)
{
    struct making *k = xcalloc(1, sizeof(*k));

    asker_copy(&f->asker, &k->asker);
    k->mirror = mirrors_get(f->asker.proxy->cache.mirrors, f->mirror_upstream, f->mirror_repo);
    must(k->mirror == m);
    if (from_answer)
        k->answer = answer_ref(f->answer);
    fetch_request_copy(&f->req, &k->req);
    lock_init(&k->lock, LOCK_EXCHANGE);
    lock_cond_init(&k->more);
    if (!workers_submit(f->asker.proxy->background, make_mirror, k))
        making_free(k);
}

/* A pack that is closed under reachability makes the mirror by the way; for the rest a mirror
 * follows when the repository turns out to be asked for more often. */
static void consider_mirror(const struct fill *f, struct mirror *m)
{
    const struct config *c = f->asker.config;
    unsigned cold;

    if (m == NULL || mirror_ready(m))
        return;
    cold = count_cold(f->asker.proxy->repositories, &f->asker.repo_id);
    if (f->kept && fetch_request_is_closed(&f->req))
        start_making(f, m, true);
    else if (c->cache.mirror_after > 0 && cold % c->cache.mirror_after == 0)
        start_making(f, m, false);
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

static void succeed(struct fill *f, const struct stream *s)
{
    struct answers *answers = f->asker.proxy->cache.answers;
    struct entry entry;

    if (!f->kept) {
        answer_end(f->answer);
        return;
    }
    describe(f, &entry);
    entry.objects = fetch_response_objects(s->watch);
    answers_keep(answers, &f->key, f->answer, &entry);
    entry_clear(&entry);
}

static void give_up(struct fill *f, const struct err *why)
{
    if (f->kept)
        answers_fail(f->asker.proxy->cache.answers, &f->key, f->answer, why);
    else
        answer_fail(f->answer, why);
}

static void end_unkept(struct fill *f)
{
    if (f->kept)
        answers_end(f->asker.proxy->cache.answers, &f->key, f->answer);
    else
        answer_end(f->answer);
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
        succeed(f, s);
        return;
    }
    refusal = stream_refused(s);
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
        log_line(LOG_WARN, "answer not whole", "repository", LOG_STR, f->asker.name, "reason",
                 LOG_STR, why.text, NULL);
        stream_break(s, &why);
        give_up(f, &why);
    }
}

struct output {
    struct fill *fill;
    struct stream *stream;
};

static int on_output(void *ctx, const void *data, size_t len, struct err *err)
{
    const struct output *o = ctx;

    return check_wanted(o->fill, err) != 0 ? -1 : stream_feed(o->stream, data, len, err);
}

static int on_idle(void *ctx, struct err *err)
{
    const struct output *o = ctx;

    return check_wanted(o->fill, err) != 0 ? -1 : stream_idle(o->stream, err);
}

/* git failed on the mirror.  It may be the question that it refuses, and a client must not be able
 * to have good mirrors thrown away; of a question for everything behind the wants only damage can
 * keep it. */
static void distrust(const struct fill *f, struct mirror *m, const struct err *why)
{
    /* A machine without memory ends git by a signal; git says so of its children. */
    bool killed = why->kind == ERR_TIMEOUT || strstr(why->text, " signal ") != NULL;

    if (fetch_request_is_closed(&f->req) && !killed)
        mirror_drop_damaged(m, why);
    else
        mirror_doubt(m);
}

/* Not that a view can't be written; nor that what was there before git looked, the mirror itself or
 * a pack that a kill had kept from becoming a part of it, has been cleared away. */
static bool says_damage(const struct err *why)
{
    return why->kind != ERR_BUSY && why->kind != ERR_STORAGE && why->kind != ERR_NOT_FOUND;
}

/* True when the answer is settled, well or badly; false: try the next source. */
static bool from_mirror(struct fill *f, struct mirror *m, struct stream *s)
{
    struct output output = {f, s};
    struct err why;
    int rc;

    /* Until the pack begins a mirror that turns out broken can still be replaced by upstream. */
    s->hold = true;
    rc = mirror_upload_pack(m, &f->req, &f->tags, &f->targets, on_output, on_idle, IDLE_MS, &output,
                            &why);
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
    if (why.kind == ERR_PROCESS && !mirror_has_all(m, &f->req.wants))
        why.kind = ERR_NOT_FOUND;
    warn(&f->asker, "mirror failed", FOLDER_VIEWS, &why);
    if (says_damage(&why))
        distrust(f, m, &why);
    if (stream_restart(s))
        return false;
    stream_break(s, &why);
    give_up(f, &why);
    return true;
}

/* Fetch what is missing, if anything is.  *pulled is left or set to true. */
static int pull_missing(struct fill *f, struct mirror *m, const struct oid_list *missing,
                        struct stream *s, bool *pulled, struct err *err)
{
    struct oid_list tips = {0};
    int rc;

    if (missing->count == 0)
        return 0;
    *pulled = true;
    mirror_tips(m, HAVES_MAX, &tips);
    rc = pull(&f->asker, m, missing, &tips, false, s, err);
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

/* False when the mirror couldn't be brought to where it can answer.  *pulled: upstream was needed.
 */
static bool bring_forward(struct fill *f, struct mirror *m, struct stream *s, bool *pulled)
{
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
    mirror_missing(m, &f->req.wants, &missing);
    rc = pull_missing(f, m, &missing, s, pulled, &why);
    /* Only now is it known which tags point into what the mirror has. */
    if (rc == 0) {
        mirror_missing_tags(m, &f->tags, &f->targets, &missing_tags);
        rc = pull_missing(f, m, &missing_tags, s, pulled, &why);
    }
    mirror_write_end(m);
    if (rc != 0) {
        warn(&f->asker, "mirror not refreshed", FOLDER_MIRRORS, &why);
    } else if (*pulled) {
        folder_report_success(f->asker.proxy->cache.folder, FOLDER_MIRRORS);
        log_line(LOG_INFO, "mirror refreshed", "repository", LOG_STR, f->asker.name, "total_ms",
                 LOG_MS, now_us() - started, NULL);
    }
    oid_list_clear(&missing);
    oid_list_clear(&missing_tags);
    return rc == 0;
}

static void from_upstream(struct fill *f, struct mirror *m, struct stream *s)
{
    struct transfer t = {.asker = &f->asker, .fill = f, .stream = s};
    struct err why;
    int rc;

    answer_set_source(f->answer, SOURCE_UPSTREAM);
    consider_mirror(f, m);
    rc = transfer(&t, &f->req, &why);
    if (rc == 0) {
        conclude(f, s);
    } else {
        if (t.head.status == 200)
            log_line(LOG_WARN, "upstream broke off", "repository", LOG_STR, f->asker.name, "reason",
                     LOG_STR, why.text, NULL);
        stream_break(s, &why);
        give_up(f, &why);
    }
    response_head_clear(&t.head);
}

static bool try_mirror(struct fill *f, struct mirror *m, struct stream *s)
{
    bool pulled = false;

    if (m == NULL || f->only_upstream || !mirror_ready(m) || !bring_forward(f, m, s, &pulled))
        return false;
    answer_set_source(f->answer, pulled ? SOURCE_REFRESH : SOURCE_MIRROR);
    return from_mirror(f, m, s);
}

static void fill_free(struct fill *f)
{
    if (f->only_upstream)
        flights_landed(f->asker.proxy->flights, &f->leading);
    asker_clear(&f->asker);
    fetch_request_clear(&f->req);
    oid_list_clear(&f->tags);
    oid_list_clear(&f->targets);
    answer_unref(&f->answer);
    free(f->url);
    free(f->mirror_upstream);
    free(f->mirror_repo);
    free(f);
}

static void run(void *ctx)
{
    struct fill *f = ctx;
    struct proxy *proxy = f->asker.proxy;
    struct mirror *m = NULL;
    struct stream s;

    if (f->asker.config->cache.mirrors && f->req.algo == HASH_SHA1)
        m = mirrors_get(proxy->cache.mirrors, f->mirror_upstream, f->mirror_repo);
    answers_begin(proxy->cache.answers, f->kept ? &f->key : NULL, f->answer);
    stream_init(&s, f->answer, &f->req);
    if (!try_mirror(f, m, &s))
        from_upstream(f, m, &s);
    stream_clear(&s);
    mirror_unref(&m);
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
