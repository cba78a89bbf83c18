#include <stdlib.h>
#include <string.h>

#include "cache/mirror/copy.h"
#include "cache/shared/mirror_download.h"
#include "protocol/base.h"

static int choose_all(struct mirror_download *d, struct err *err)
{
    (void)err;
    d->part = d->there.manifest;
    return 0;
}

static int begin(struct mirror_download *d, struct err *err)
{
    char hex[KEY_HEX_SIZE];
    struct entry about;

    mirror_download_about(d, hex, &about);
    return mirror_copy_in_begin(d->mirror, &about, manifest_bytes(&d->there.manifest), &d->in, err);
}

static int commit(struct mirror_download *d, struct err *err)
{
    struct mirror_content content;
    int rc;

    mirror_download_content(d, &content);
    rc = mirror_copy_in_commit(&d->in, &content, mirror_download_idle, d, err);
    mirror_content_clear(&content);
    /* Each file is what was put, but together they are no mirror. */
    d->damaged = rc != 0 && err->kind == ERR_CORRUPT && !d->ours;
    return rc;
}

int shared_mirror_restore(struct object_store *store, struct cutoffs *cutoffs, struct mirror *m,
                          const struct key *repo_id, shared_mirror_tick_fn *tick, void *ctx,
                          struct shared_mirror_got *out, struct err *err)
{
    struct mirror_download d = {.store = store,
                                .cutoffs = cutoffs,
                                .mirror = m,
                                .repo_id = repo_id,
                                .tick = tick,
                                .ctx = ctx,
                                .got = out,
                                .choose = choose_all};
    int rc;

    *out = (struct shared_mirror_got){0};
    rc = mirror_download_begin(&d, err);
    out->bytes = d.there.size;
    if (rc == 0)
        rc = begin(&d, err);
    if (rc == 0)
        rc = mirror_download_files(&d, err);
    if (rc == 0)
        rc = commit(&d, err);
    if (rc == 0)
        out->generation = d.there.manifest.generation;
    mirror_download_end(&d);
    return rc;
}
