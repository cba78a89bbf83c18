#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "cache/mirror/internal.h"

enum {
    OUTPUT_BLOCK = 256 * 1024,
    /* upload-pack sends a keepalive every 5 seconds; one that is silent this long hangs. */
    SILENCE_MAX_MS = 5 * 60 * 1000,
};

static int pump(int fd, mirror_output_fn *fn, mirror_idle_fn *idle_fn, int idle_ms, void *ctx,
                struct err *err)
{
    char *block = xmalloc(OUTPUT_BLOCK);
    uint64_t last_ms = now_ms();
    int rc = 0;

    while (rc == 0) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        ssize_t n;

        if (poll(&ready, 1, idle_ms) == 0) {
            if (now_ms() - last_ms > SILENCE_MAX_MS)
                rc = err_set(err, ERR_TIMEOUT, "git upload-pack said nothing for too long");
            else if (idle_fn != NULL)
                rc = idle_fn(ctx, err);
            continue;
        }
        last_ms = now_ms();
        n = read(fd, block, OUTPUT_BLOCK);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = err_errno(err, ERR_BUSY, "read from git upload-pack");
        else if (n == 0)
            break;
        else
            rc = fn(ctx, block, (size_t)n, err);
    }
    free(block);
    return rc;
}

/* The tags that the mirror has, as packed refs.  What they peel to stands beside them, so git
 * needn't look; their names are of no interest to anybody. */
static size_t list_tags(struct mirror *m, const struct oid_list *tags,
                        const struct oid_list *targets, struct bytes *out)
{
    struct oid_list missing = {0};
    size_t count = 0;

    mirror_missing(m, tags, &missing);
    oid_list_sort(&missing);
    bytes_add_str(out, "# pack-refs with: peeled fully-peeled sorted \n");
    for (size_t i = 0; i < tags->count; i++) {
        char tag_hex[OID_HEX_SIZE], target_hex[OID_HEX_SIZE];

        if (oid_list_contains(&missing, &tags->items[i]))
            continue;
        oid_to_hex(HASH_SHA1, &tags->items[i], tag_hex);
        oid_to_hex(HASH_SHA1, &targets->items[i], target_hex);
        bytes_addf(out, "%s refs/tags/%s\n^%s\n", tag_hex, tag_hex, target_hex);
        count++;
    }
    oid_list_clear(&missing);
    return count;
}

/* *view is a bare repository without objects of its own, which sees the mirror's; or NULL when
 * there are no tags to show and the mirror itself will do. */
static int make_view(struct mirror *m, const struct oid_list *tags, const struct oid_list *targets,
                     char **view, struct err *err)
{
    char *path = folder_incoming_path(m->all->folder, ".view");
    char *alternates = xasprintf("%s/objects\n", m->path);
    struct bytes refs;
    int rc = 0;

    *view = NULL;
    bytes_init(&refs, SIZE_MAX / 2);
    if (list_tags(m, tags, targets, &refs) > 0) {
        rc = make_bare(path, false, err);
        if (rc == 0)
            rc = write_below(path, "packed-refs", refs.data, false, err);
        if (rc == 0)
            rc = write_below(path, "objects/info/alternates", alternates, false, err);
        *view = path;
        path = NULL;
    }
    bytes_clear(&refs);
    free(alternates);
    free(path);
    return rc;
}

static int start(struct mirror *m, const struct fetch_request *req, const char *repo,
                 const struct bytes *body, struct process **out, struct err *err)
{
    /* For all of it, what lies deltified is sent as it lies.  To look for more deltas, for what
     * came in small packs since, takes a third of the time and saves next to nothing. */
    const char *window = fetch_request_is_closed(req) ? "pack.window=0" : "pack.window=10";
    /* Which objects a client may have was decided before; here everything is allowed. */
    const char *const args[] = {"-c",          "uploadpack.allowFilter=true",
                                "-c",          "uploadpack.allowAnySHA1InWant=true",
                                "-c",          window,
                                "upload-pack", "--stateless-rpc",
                                "--strict",    repo,
                                NULL};
    const struct process_spec spec = {
        .args = args,
        .protocol = req->version == 2 ? "version=2" : NULL,
        .input = body->data,
        .input_len = body->len,
    };

    return process_start(m->all->processes, &spec, out, err);
}

int mirror_upload_pack(struct mirror *m, const struct fetch_request *req,
                       const struct oid_list *tags, const struct oid_list *targets,
                       mirror_output_fn *fn, mirror_idle_fn *idle_fn, int idle_ms, void *ctx,
                       struct err *err)
{
    struct process *p = NULL;
    struct mirror_use use;
    struct bytes body;
    char *view = NULL;
    int rc;

    mirror_use_begin(m, &use);
    mirror_want(m, &req->wants, time(NULL));
    mirror_touch(m);
    bytes_init(&body, SIZE_MAX / 2);
    fetch_request_write(req, &body);
    rc = make_view(m, tags, targets, &view, err);
    if (rc == 0)
        rc = start(m, req, view != NULL ? view : m->path, &body, &p, err);
    if (rc == 0)
        rc = pump(p->out_fd, fn, idle_fn, idle_ms, ctx, err);
    if (rc == 0)
        rc = process_finish(&p, err);
    process_kill(&p);
    mirror_use_end(m, &use);
    if (view != NULL)
        remove_tree(view);
    free(view);
    bytes_clear(&body);
    return rc;
}
