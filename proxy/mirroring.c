#include "proxy/mirroring.h"

#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "cache/lock.h"
#include "cache/shared/shared.h"
#include "protocol/base.h"
#include "proxy/fleet.h"
#include "proxy/log.h"
#include "proxy/pull.h"

enum {
    FEED_BLOCK = 256 * 1024,
    REFRESH_HAVES_MAX = 256,
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

/* ---- what went wrong with a mirror ---- */

/* A disk that fails is told once for all that it fails; what found no room in the cache, was
 * evicted meanwhile, or ended because nobody wants it any more, is of no interest. */
void mirroring_warn(const struct asker *a, const char *event, enum folder_part part,
                    const struct err *why)
{
    bool quiet = why->kind == ERR_STORAGE || why->kind == ERR_LIMIT || why->kind == ERR_NOT_FOUND ||
                 why->kind == ERR_CANCELLED;

    if (why->kind == ERR_STORAGE)
        folder_report_trouble(a->proxy->cache.folder, part, why);
    if (!quiet)
        asker_warn(a, event, why);
    else
        log_line(LOG_DEBUG, event, "repository", LOG_STR, a->name, "reason", LOG_STR, why->text,
                 NULL);
}

/* ---- mirrors that are made behind the answers ---- */

struct making {
    struct asker asker;
    struct mirror *mirror;
    struct answer *answer; /* to be made from this answer's pack; NULL: from upstream */
    bool worthwhile;       /* false: only if the shared tier has it */
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
    struct pack_intake in = {.asker = &k->asker, .mirror = k->mirror, .background = true};
    struct fetch_response *watch;
    struct answer_reader r = {0};
    char *block = xmalloc(FEED_BLOCK);
    int rc;

    fetch_response_shape_of(&k->req, &shape);
    watch = fetch_response_new(&shape, pack_intake_feed, &in);
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
            rc = fetch_response_feed(watch, block, (size_t)n, err);
    }
    if (rc == 0)
        rc = fetch_response_finish(watch, err);
    if (rc == 0)
        rc = mirror_intake_commit(&in.intake, &k->req.wants, err);
    mirror_intake_abort(&in.intake);
    answer_reader_close(&r);
    fetch_response_free(watch);
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
        rc = pull_into_mirror(&k->asker, k->mirror, &tips, &none, true, NULL, err);
    oid_list_clear(&tips);
    return rc;
}

bool mirroring_may_restore(const struct asker *a)
{
    struct shared *shared = a->proxy->cache.shared;

    return shared != NULL && shared_may_restore(shared, &a->repo_id);
}

/* newest: as it was told; what the manifest says is told where Redis has lost it. */
static void note_generation(const struct asker *a, struct mirror *m, uint64_t generation,
                            uint64_t newest)
{
    mirror_set_generation(m, generation);
    if (!fleet_is_alone(a->proxy->fleet) && generation > newest)
        fleet_note_generation(a->proxy->fleet, &a->repo_id, generation);
}

bool mirroring_restore(const struct asker *a, struct mirror *m, shared_mirror_tick_fn *tick,
                       void *ctx)
{
    uint64_t started = now_us();
    struct shared_mirror_got got;
    struct err why;

    if (mirror_ready(m))
        return true;
    if (!mirroring_may_restore(a))
        return false;
    if (shared_restore(a->proxy->cache.shared, m, &a->repo_id, tick, ctx, &got, &why) != 0) {
        mirroring_warn(a, "mirror not restored", FOLDER_MIRRORS, &why);
        return false;
    }
    note_generation(a, m, got.generation, 0);
    folder_report_success(a->proxy->cache.folder, FOLDER_MIRRORS);
    log_line(LOG_INFO, "mirror restored", "repository", LOG_STR, a->name, "files", LOG_U64,
             (uint64_t)got.files, "bytes", LOG_U64, got.bytes, "total_ms", LOG_MS,
             now_us() - started, NULL);
    return true;
}

void mirroring_catch_up(const struct asker *a, struct mirror *m, shared_mirror_tick_fn *tick,
                        void *ctx)
{
    struct shared *shared = a->proxy->cache.shared;
    uint64_t started = now_us(), newest;
    struct shared_mirror_got got;
    struct err why;
    int rc;

    if (shared == NULL || fleet_is_alone(a->proxy->fleet))
        return;
    newest = fleet_generation(a->proxy->fleet, &a->repo_id);
    if (newest > 0 && newest <= mirror_generation(m))
        return;
    rc = shared_catch_up(shared, m, &a->repo_id, tick, ctx, &got, &why);
    /* What wasn't worth it isn't worth a second look. */
    if (got.generation > 0 && (rc == 0 || why.kind == ERR_LIMIT))
        note_generation(a, m, got.generation, newest);
    if (rc == 0 && got.bytes > 0)
        log_line(LOG_INFO, "mirror caught up", "repository", LOG_STR, a->name, "files", LOG_U64,
                 (uint64_t)got.files, "bytes", LOG_U64, got.bytes, "total_ms", LOG_MS,
                 now_us() - started, NULL);
}

static void make_mirror(void *ctx)
{
    struct making *k = ctx;
    const struct proxy *p = k->asker.proxy;
    struct lease *lease = NULL;
    bool theirs = false, needed;
    uint64_t started;
    struct err why;
    int rc = 0;

    mirror_write_begin(k->mirror);
    /* All of a repository comes from upstream to one node; the others take it from the shared tier,
     * now or when they are asked again. */
    if (k->answer == NULL && k->worthwhile && !mirror_ready(k->mirror))
        lease = fleet_lease(p->fleet, &k->asker.repo_id, &theirs);
    needed = !mirroring_restore(&k->asker, k->mirror, NULL, NULL) && k->worthwhile &&
             !(theirs && p->cache.shared != NULL);
    started = now_us();
    if (needed)
        rc = k->answer != NULL ? make_from_answer(k, &why) : make_from_upstream(k, &why);
    lease_release(&lease);
    mirror_write_end(k->mirror);
    if (rc != 0) {
        mirroring_warn(&k->asker, "mirror not made", FOLDER_MIRRORS, &why);
    } else if (needed) {
        folder_report_success(k->asker.proxy->cache.folder, FOLDER_MIRRORS);
        log_line(LOG_INFO, "mirror made", "repository", LOG_STR, k->asker.name, "total_ms", LOG_MS,
                 now_us() - started, NULL);
    }
    making_free(k);
}

static void start_making(const struct asker *a, struct mirror *m, const struct fetch_request *req,
                         struct answer *whole, bool worthwhile)
{
    struct making *k = xcalloc(1, sizeof(*k));

    asker_copy(a, &k->asker);
    k->mirror = mirror_ref(m);
    if (whole != NULL)
        k->answer = answer_ref(whole);
    k->worthwhile = worthwhile;
    if (req != NULL)
        fetch_request_copy(req, &k->req);
    lock_init(&k->lock, LOCK_EXCHANGE);
    lock_cond_init(&k->more);
    if (!workers_submit(a->proxy->background, make_mirror, k))
        making_free(k);
}

void mirroring_want(const struct asker *a, struct mirror *m)
{
    if (m != NULL && !mirror_ready(m) && mirroring_may_restore(a))
        start_making(a, m, NULL, NULL, false);
}

void mirroring_consider(const struct asker *a, struct mirror *m, const struct fetch_request *req,
                        struct answer *whole)
{
    uint32_t after = a->config->cache.mirror_after;
    unsigned cold;
    bool worthwhile;

    if (m == NULL || mirror_ready(m))
        return;
    cold = count_cold(a->proxy->repositories, &a->repo_id);
    worthwhile = whole != NULL || (after > 0 && cold % after == 0);
    if (worthwhile || mirroring_may_restore(a))
        start_making(a, m, req, whole, worthwhile);
}

/* ---- mirrors that are brought forward though no client asks ---- */

static bool is_sha256(const struct asker *a)
{
    struct advert advert = {0};
    bool is = decisions_get_advert(a->proxy->decisions, &a->subject, now_ms(), &advert) &&
              advert.algo == HASH_SHA256;

    advert_clear(&advert);
    return is;
}

static int no_mirror(struct err *err)
{
    return err_set(err, ERR_NOT_FOUND, "there is no mirror of it");
}

/* How a mirror is brought forward. */
struct bringing {
    bool make;         /* also if there is none */
    refs_ref_fn *told; /* who wants to know what upstream's refs are; or NULL */
    void *ctx;
};

static int list_upstream(const struct asker *a, const struct bringing *how, struct oid_list *tips,
                         struct err *err)
{
    return how->told != NULL ? access_list_names(a, how->told, how->ctx, tips, err)
                             : access_list_refs(a, tips, err);
}

static int bring_forward(const struct asker *a, struct mirror *m, const struct bringing *how,
                         struct mirror_refreshed *out, struct err *err)
{
    struct oid_list tips = {0}, missing = {0}, haves = {0};
    struct lease *lease = NULL;
    bool theirs = false;
    int rc;

    if (!how->make && !mirror_ready(m) && !mirroring_may_restore(a))
        return no_mirror(err);
    /* Upstream's advertisement is known afterwards, which says how to ask for the rest. */
    if (access_require(a, err) != 0)
        return -1;
    if (is_sha256(a))
        return err_set(err, ERR_CONFLICT, "a SHA-256 repository has no mirror");
    mirror_write_begin(m);
    /* Without a bucket each node's mirror is its own, and none need wait for another's. */
    if (a->proxy->cache.shared != NULL)
        lease = fleet_lease(a->proxy->fleet, &a->repo_id, &theirs);
    out->restored = !theirs && !mirror_ready(m) && mirroring_restore(a, m, NULL, NULL);
    if (theirs)
        rc = err_set(err, ERR_BUSY, "another node is at it");
    else if (!how->make && !mirror_ready(m))
        rc = no_mirror(err);
    else
        rc = list_upstream(a, how, &tips, err);
    if (rc == 0 && tips.count == 0)
        rc = err_set(err, ERR_NOT_FOUND, "the repository has no branches");
    if (rc == 0 && mirror_ready(m)) {
        mirror_missing(m, &tips, &missing);
        if (missing.count > 0) {
            mirroring_catch_up(a, m, NULL, NULL);
            oid_list_clear(&missing);
            mirror_missing(m, &tips, &missing);
        }
        mirror_tips(m, REFRESH_HAVES_MAX, &haves);
    } else if (rc == 0) {
        out->made = true;
        oid_list_copy(&tips, &missing);
    }
    out->tips = tips.count;
    out->missing = missing.count;
    if (rc == 0 && missing.count > 0)
        rc = pull_into_mirror(a, m, &missing, &haves, true, NULL, err);
    lease_release(&lease);
    mirror_write_end(m);
    oid_list_clear(&tips);
    oid_list_clear(&missing);
    oid_list_clear(&haves);
    return rc;
}

struct mirror *mirroring_of(const struct asker *a)
{
    char *upstream = xstrndup(a->name, strcspn(a->name, "/"));
    struct mirror *m =
        mirrors_get(a->proxy->cache.mirrors, upstream, a->name + strlen(upstream) + 1);

    free(upstream);
    return m;
}

const char *mirroring_word(const struct mirror_refreshed *r)
{
    return r->restored ? "restored" : r->made ? "made" : r->missing > 0 ? "refreshed" : "unchanged";
}

static int refresh_as(const struct asker *a, const struct bringing *how,
                      struct mirror_refreshed *out, struct err *err)
{
    struct mirror *m;
    int rc;

    *out = (struct mirror_refreshed){.made = false};
    if (!a->config->cache.mirrors)
        return err_set(err, ERR_CONFLICT, "mirrors are off (cache.mirrors)");
    m = mirroring_of(a);
    if (m != NULL)
        rc = bring_forward(a, m, how, out, err);
    else
        rc = err_set(err, ERR_CONFLICT, "such a path can't be a mirror's");
    if (rc != 0 && err->kind == ERR_STORAGE)
        folder_report_trouble(a->proxy->cache.folder, FOLDER_MIRRORS, err);
    mirror_unref(&m);
    return rc;
}

static int refresh(struct proxy *p, const struct config *config, const char *name, bool make,
                   struct mirror_refreshed *out, struct err *err)
{
    const struct bringing how = {.make = make};
    struct asker a;
    int rc;

    *out = (struct mirror_refreshed){.made = false};
    if (asker_init_for_program(&a, p, config, name, err) != 0)
        return -1;
    rc = refresh_as(&a, &how, out, err);
    asker_clear(&a);
    return rc;
}

int mirroring_refresh_as(const struct asker *a, refs_ref_fn *fn, void *ctx,
                         struct mirror_refreshed *out, struct err *err)
{
    const struct bringing how = {.make = true, .told = fn, .ctx = ctx};

    return refresh_as(a, &how, out, err);
}

int mirroring_refresh(struct proxy *p, const struct config *config, const char *name,
                      struct mirror_refreshed *out, struct err *err)
{
    return refresh(p, config, name, true, out, err);
}

int mirroring_refresh_present(struct proxy *p, const struct config *config, const char *name,
                              struct mirror_refreshed *out, struct err *err)
{
    return refresh(p, config, name, false, out, err);
}
