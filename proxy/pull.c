#include "proxy/pull.h"

#include <stdlib.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "proxy/purge.h"

enum {
    GATHER_SIZE = 512 * 1024,
    GATHER_US = 5000,
    BULK_AFTER = 1 << 20,
    RECEIVE_MAX = 128 * 1024, /* bytes that upstream.c hands out in one piece, at most */
};

static int on_head(void *ctx, const struct response_head *head, struct err *err)
{
    struct pull *p = ctx;
    const char *name = p->asker->upstream->name;

    response_head_copy(head, &p->head);
    access_learn(p->asker, head);
    if (head->status == 200)
        return 0;
    if (access_is_denial(head))
        return err_set(err, ERR_DENIED, "%s refuses this credential: HTTP status %d", name,
                       head->status);
    return err_set(err, head->status == 429 || head->status == 503 ? ERR_BUSY : ERR_UPSTREAM,
                   "%s answered with HTTP status %d", name, head->status);
}

/* Into the answer in big pieces: whoever follows is woken less often. */
static int pass_gathered(struct pull *p, struct err *err)
{
    int rc = 0;

    if (p->stream != NULL && p->gathered.len > 0)
        rc = stream_feed(p->stream, p->gathered.data, p->gathered.len, err);
    p->passed_us = now_us();
    bytes_reset(&p->gathered);
    return rc;
}

static int on_data(void *ctx, const void *data, size_t len, struct err *err)
{
    struct pull *p = ctx;

    if (p->wanted != NULL && p->wanted(p->ctx, err) != 0)
        return -1;
    if (p->stream == NULL)
        return fetch_response_feed(p->watch, data, len, err);
    must(bytes_add(&p->gathered, data, len) == 0);
    return p->gathered.len >= GATHER_SIZE ? pass_gathered(p, err) : 0;
}

/* The first bytes go on at once.  Later, while much comes, a few milliseconds' worth is put
 * together; curl looks in at least once a second, so nothing waits for longer. */
static int on_pause(void *ctx, struct err *err)
{
    struct pull *p = ctx;

    if (p->stream != NULL && p->stream->seen > BULK_AFTER && now_us() - p->passed_us < GATHER_US)
        return 0;
    return pass_gathered(p, err);
}

static int on_tick(void *ctx, struct err *err)
{
    struct pull *p = ctx;
    struct stream *s = p->stream != NULL ? p->stream : p->waiting;

    /* Not before upstream has let us in: a 401 must leave the way open for the next credential. */
    return s != NULL && p->head.status == 200 ? stream_idle(s, err) : 0;
}

int pull_perform(struct pull *p, const struct fetch_request *req, struct err *err)
{
    const struct asker *a = p->asker;
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
        .ctx = p,
    };
    bytes_init(&p->gathered, GATHER_SIZE + RECEIVE_MAX);
    rc = upstream_perform(a->proxy->origins, a->upstream, &r, NULL, err);
    /* The end comes without a pause before it; so may a failure. */
    if (pass_gathered(p, rc == 0 ? err : &ignored) != 0)
        rc = -1;
    bytes_clear(&p->gathered);
    bytes_clear(&body);
    free(repo);
    return rc;
}

void pull_clear(struct pull *p)
{
    response_head_clear(&p->head);
}

/* ---- into a mirror ---- */

static int begin_intake(struct pack_intake *in, struct err *err)
{
    const struct asker *a = in->asker;
    char repo_id[KEY_HEX_SIZE];
    char *url = xasprintf("%s/%s", a->base_url, a->wire_repo);
    const struct entry about = {
        .kind = ENTRY_MIRROR, .repo_id = repo_id, .repo = a->name, .url = url};
    int rc;

    key_to_hex(&a->repo_id, repo_id);
    rc = mirror_intake_begin(in->mirror, &about, in->background, &in->intake, err);
    free(url);
    return rc;
}

int pack_intake_feed(void *ctx, const void *data, size_t len, struct err *err)
{
    struct pack_intake *in = ctx;

    if (in->intake == NULL && begin_intake(in, err) != 0)
        return -1;
    return mirror_intake_feed(in->intake, data, len, err);
}

int pack_intake_commit(struct pack_intake *in, const struct oid_list *tips, struct err *err)
{
    struct purges *all = in->asker->proxy->purges;
    int rc;

    if (!purges_enter(all, &in->asker->repo_id, in->begun))
        return err_set(err, ERR_CANCELLED, "the repository was invalidated meanwhile");
    rc = mirror_intake_commit(&in->intake, tips, err);
    purges_leave(all, &in->asker->repo_id);
    return rc;
}

int pull_into_mirror(const struct asker *a, struct mirror *m, const struct oid_list *wants,
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
    struct pack_intake in = {
        .asker = a, .mirror = m, .background = background, .begun = purges_now(a->proxy->purges)};
    struct pull p = {.asker = a, .waiting = waiting};
    int rc;

    if (decisions_get_advert(a->proxy->decisions, &a->subject, now_ms(), &advert))
        req.version = advert.version == 2 ? 2 : 0;
    advert_clear(&advert);
    fetch_response_shape_of(&req, &shape);
    p.watch = fetch_response_new(&shape, pack_intake_feed, &in);
    rc = pull_perform(&p, &req, err);
    if (rc == 0 && fetch_response_refused(p.watch))
        rc = err_set(err, ERR_REFUSED, "upstream says: %s", fetch_response_error(p.watch));
    if (rc == 0)
        rc = fetch_response_finish(p.watch, err);
    if (rc == 0)
        rc = pack_intake_commit(&in, wants, err);
    mirror_intake_abort(&in.intake);
    fetch_response_free(p.watch);
    pull_clear(&p);
    return rc;
}
