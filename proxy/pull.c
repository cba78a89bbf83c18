#include "proxy/pull.h"

#include <stdlib.h>

#include "cache/lock.h"
#include "protocol/base.h"

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
    return upstream_trouble(p->asker->upstream, head, err);
}

static int pass_gathered(void *ctx, const void *data, size_t len, struct err *err)
{
    struct pull *p = ctx;

    return stream_feed(p->stream, data, len, err);
}

static int on_data(void *ctx, const void *data, size_t len, struct err *err)
{
    struct pull *p = ctx;

    if (p->wanted != NULL && p->wanted(p->ctx, err) != 0)
        return -1;
    if (p->stream == NULL)
        return fetch_response_feed(p->watch, data, len, err);
    return gather_add(&p->gathered, data, len, err);
}

static int on_pause(void *ctx, uint64_t *again_ms, struct err *err)
{
    struct pull *p = ctx;

    return gather_pause(&p->gathered, again_ms, err);
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
        .repo = repo,
        .rest = "git-upload-pack",
        .git_protocol = req->version == 2 ? "version=2" : NULL,
        .content_type = content_type_request(SERVICE_UPLOAD_PACK),
        .accept = content_type_response(SERVICE_UPLOAD_PACK),
        .body = body.data,
        .body_len = body.len,
        .need = p->spare ? NEED_SPARE : NEED_CLIENT,
        .head_fn = on_head,
        .data_fn = on_data,
        .pause_fn = on_pause,
        .tick_fn = on_tick,
        .ctx = p,
    };
    gather_init(&p->gathered, pass_gathered, p);
    rc = asker_perform(a, &r, NULL, err);
    if (gather_flush(&p->gathered, rc == 0 ? err : &ignored) != 0)
        rc = -1;
    gather_clear(&p->gathered);
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
    struct pack_intake in = {.asker = a, .mirror = m, .background = background};
    struct pull p = {.asker = a, .waiting = waiting, .spare = background};
    int rc;

    if (decisions_get_advert(a->proxy->decisions, &a->subject, now_ms(), &advert))
        req.version = advert.version == 2 ? 2 : 0;
    advert_clear(&advert);
    fetch_response_shape_of(&req, &shape);
    p.watch = fetch_response_new(&shape, pack_intake_feed, &in);
    rc = pull_perform(&p, &req, err);
    if (rc == 0 && fetch_response_refused(p.watch)) {
        access_heard(a, fetch_response_error(p.watch));
        rc = err_set(err, ERR_REFUSED, "upstream says: %s", fetch_response_error(p.watch));
    }
    if (rc == 0)
        rc = fetch_response_finish(p.watch, err);
    if (rc == 0)
        rc = mirror_intake_commit(&in.intake, wants, err);
    mirror_intake_abort(&in.intake);
    fetch_response_free(p.watch);
    pull_clear(&p);
    return rc;
}
