#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/compress.h"
#include "cache/lock.h"
#include "cache/mirror/copy.h"
#include "cache/shared/shared_mirror.h"
#include "cache/shared/stored_manifest.h"
#include "protocol/base.h"

enum { TICK_MS = 1000 };

/* A file that is down, and right. */
struct arrived {
    char *name;
    struct key sha256;
};

struct download {
    struct object_store *store;
    struct mirror *mirror;
    const struct key *repo_id;
    shared_mirror_tick_fn *tick;
    void *ctx;
    struct shared_mirror_got *got;
    struct stored_manifest there;
    struct mirror_copy_in *in;
    struct arrived *arrived;
    size_t arrived_count;
    uint64_t done, total;
    uint64_t ticked_ms;
    /* Why it ended, as the kind of an error doesn't say whose it is. */
    bool ours;                          /* the disk, or who is told */
    enum err_kind stale;                /* ERR_NOT_FOUND, ERR_CONFLICT: of a file in the store */
    bool damaged;                       /* what the store has is not what was put: */
    const struct manifest_file *broken; /* NULL: all of it together */
};

static uint64_t stored_size(const struct manifest_file *file)
{
    return file->stored_size != 0 ? file->stored_size : file->size;
}

static int tick(struct download *d, struct err *err)
{
    d->ticked_ms = now_ms();
    if (d->tick == NULL || d->tick(d->ctx, d->done, d->total, err) == 0)
        return 0;
    d->ours = true;
    return -1;
}

static int tick_if_due(struct download *d, struct err *err)
{
    return now_ms() - d->ticked_ms >= TICK_MS ? tick(d, err) : 0;
}

/* ---- one file ---- */

struct incoming {
    struct download *download;
    const struct manifest_file *file;
    int fd;
    struct digest *sha256;
    uint64_t written;               /* to fd */
    struct decompressor *unpacking; /* NULL: the file comes as it is */
    uint64_t came;
};

static int write_all(struct download *d, int fd, const void *data, size_t len, struct err *err)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = write(fd, (const char *)data + done, len - done);

        if (n < 0 && errno != EINTR) {
            d->ours = true;
            return err_errno(err, ERR_STORAGE, "write a file of a mirror");
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return tick_if_due(d, err);
}

static int add_content(void *ctx, const void *data, size_t len, struct err *err)
{
    struct incoming *in = ctx;

    digest_update(in->sha256, data, len);
    in->written += len;
    return write_all(in->download, in->fd, data, len, err);
}

static int on_data(void *ctx, const void *data, size_t len, struct err *err)
{
    struct incoming *in = ctx;
    struct download *d = in->download;

    in->came += len;
    d->done += len;
    d->got->bytes += len;
    if (in->came > stored_size(in->file))
        return err_set(err, ERR_CORRUPT, "it is longer than it should be");
    return in->unpacking == NULL ? add_content(in, data, len, err)
                                 : decompressor_take(in->unpacking, data, len, err);
}

static int receive(struct incoming *in, struct err *err)
{
    const struct manifest_file *file = in->file;
    char key[OBJECT_KEY_MAX + 1];
    struct key found;
    int rc;

    manifest_file_key(in->download->repo_id, file, key);
    rc = object_get(in->download->store, key, 0, UINT64_MAX, NULL, on_data, in, err);
    if (rc == 0 && in->came < stored_size(file))
        rc = err_set(err, ERR_CORRUPT, "it is shorter than it should be");
    if (rc == 0 && in->unpacking != NULL)
        rc = decompressor_end(in->unpacking, err);
    digest_final(in->sha256, found.raw);
    if (rc == 0 && (in->written != file->size || !key_equal(&found, &file->sha256)))
        rc = err_set(err, ERR_CORRUPT, "it is not what was put");
    return rc;
}

static void note_why(struct download *d, const struct manifest_file *file, const char *name,
                     struct err *err)
{
    if (d->ours)
        return;
    if (err->kind == ERR_NOT_FOUND || err->kind == ERR_CONFLICT)
        d->stale = err->kind;
    if (err->kind != ERR_CORRUPT)
        return;
    d->damaged = true;
    d->broken = file;
    err_prefix(err, "%s of a mirror in the shared tier is damaged", name);
}

static int get_into(struct download *d, const char *name, const struct manifest_file *file, int fd,
                    struct err *err)
{
    struct incoming in = {.download = d, .file = file, .fd = fd};
    uint64_t before = d->done;
    int rc;

    if (file->stored_size != 0)
        in.unpacking = decompressor_new(file->size, add_content, &in);
    in.sha256 = digest_new(HASH_SHA256);
    rc = receive(&in, err);
    digest_free(in.sha256);
    decompressor_free(&in.unpacking);
    if (rc != 0) {
        note_why(d, file, name, err);
        d->done = before;
    }
    return rc;
}

static void note_arrival(struct download *d, const char *name, const struct manifest_file *file)
{
    d->arrived = xrealloc(d->arrived, (d->arrived_count + 1) * sizeof(*d->arrived));
    d->arrived[d->arrived_count++] = (struct arrived){xstrdup(name), file->sha256};
    d->got->files++;
}

static int get_file(struct download *d, const char *name, const struct manifest_file *file,
                    struct err *err)
{
    int fd, rc;

    if (mirror_copy_in_create(d->in, name, &fd, err) != 0)
        return -1;
    rc = get_into(d, name, file, fd, err);
    if (rc == 0) {
        rc = mirror_copy_in_close(d->in, name, fd, err);
    } else {
        close(fd);
        mirror_copy_in_remove(d->in, name);
    }
    if (rc == 0) {
        note_arrival(d, name, file);
        rc = tick(d, err);
    }
    return rc;
}

/* ---- all files ---- */

static const struct arrived *arrived_as(const struct download *d, const char *name)
{
    for (size_t i = 0; i < d->arrived_count; i++)
        if (strcmp(d->arrived[i].name, name) == 0)
            return &d->arrived[i];
    return NULL;
}

struct walk {
    struct download *download;
    struct err *err;
};

static int get_missing(void *ctx, const char *name, const struct manifest_file *file)
{
    struct walk *w = ctx;

    return arrived_as(w->download, name) == NULL ? get_file(w->download, name, file, w->err) : 0;
}

static int get_all(struct download *d, struct err *err)
{
    struct walk walk = {d, err};

    d->stale = ERR_NONE;
    return manifest_each(&d->there.manifest, get_missing, &walk);
}

/* ---- another manifest in the middle ---- */

struct still {
    const struct arrived *arrived;
    uint64_t stored; /* in the new manifest; 0: it isn't there */
};

static int compare(void *ctx, const char *name, const struct manifest_file *file)
{
    struct still *s = ctx;

    if (strcmp(name, s->arrived->name) != 0)
        return 0;
    if (key_equal(&file->sha256, &s->arrived->sha256))
        s->stored = stored_size(file);
    return 1;
}

/* What came and is still wanted stays. */
static void keep_arrived(struct download *d)
{
    size_t kept = 0;

    d->done = 0;
    d->total = manifest_stored_bytes(&d->there.manifest);
    for (size_t i = 0; i < d->arrived_count; i++) {
        struct still still = {&d->arrived[i], 0};

        manifest_each(&d->there.manifest, compare, &still);
        if (still.stored > 0) {
            d->done += still.stored;
            d->arrived[kept++] = d->arrived[i];
        } else {
            mirror_copy_in_remove(d->in, d->arrived[i].name);
            free(d->arrived[i].name);
        }
    }
    d->arrived_count = kept;
}

static int read_again(struct download *d, struct err *err)
{
    struct stored_manifest before = d->there;
    struct err why = *err;
    bool same;
    int rc = stored_manifest_read(d->store, d->repo_id, &d->there, err);

    same = rc == 0 && strcmp(before.etag, d->there.etag) == 0;
    stored_manifest_clear(&before);
    d->damaged = rc != 0 && err->kind == ERR_CORRUPT;
    if (same && d->stale == ERR_NOT_FOUND) {
        d->damaged = true;
        return err_set(err, ERR_CORRUPT, "a file of a mirror in the shared tier is missing: %s",
                       why.text);
    }
    if (rc == 0)
        rc = mirror_copy_in_room(d->in, manifest_bytes(&d->there.manifest), err);
    if (rc == 0)
        keep_arrived(d);
    return rc;
}

static int get_all_of_one(struct download *d, struct err *err)
{
    int rc = get_all(d, err);

    if (rc == 0 || d->stale == ERR_NONE)
        return rc;
    if (read_again(d, err) != 0)
        return -1;
    rc = get_all(d, err);
    if (rc != 0 && d->stale != ERR_NONE)
        err_set(err, ERR_CONFLICT, "a mirror in the shared tier changes while it is fetched");
    return rc;
}

/* ---- the mirror ---- */

static void to_content(const struct manifest *m, struct mirror_content *out)
{
    *out = (struct mirror_content){
        .packs = xcalloc(m->packs_count, sizeof(*out->packs)),
        .packs_count = m->packs_count,
        .indexed = m->indexed,
        .midx_size = m->midx.size,
        .midx_bitmap_size = m->midx_bitmap.size,
        .commit_graph_size = m->commit_graph.size,
        .tips = xcalloc(m->tips_count + 1, sizeof(*out->tips)),
        .tips_count = m->tips_count,
    };
    memcpy(out->midx_hash, m->midx_hash, sizeof(out->midx_hash));
    for (size_t i = 0; i < m->packs_count; i++) {
        memcpy(out->packs[i].hash, m->packs[i].hash, sizeof(out->packs[i].hash));
        for (int part = 0; part < MIRROR_PARTS_COUNT; part++)
            out->packs[i].sizes[part] = m->packs[i].parts[part].size;
    }
    for (size_t i = 0; i < m->tips_count; i++)
        out->tips[i] = (struct mirror_content_tip){m->tips[i].oid, m->tips[i].wanted_s};
}

static int begin(struct download *d, struct err *err)
{
    const struct manifest *m = &d->there.manifest;
    char hex[KEY_HEX_SIZE];
    const struct entry about = {
        .kind = ENTRY_MIRROR, .repo_id = hex, .repo = m->repo, .url = m->url};

    key_to_hex(d->repo_id, hex);
    d->total = manifest_stored_bytes(m);
    return mirror_copy_in_begin(d->mirror, &about, manifest_bytes(m), &d->in, err);
}

static int on_check(void *ctx, struct err *err)
{
    return tick_if_due(ctx, err);
}

static int commit(struct download *d, struct err *err)
{
    struct mirror_content content;
    int rc;

    to_content(&d->there.manifest, &content);
    rc = mirror_copy_in_commit(&d->in, &content, on_check, d, err);
    mirror_content_clear(&content);
    /* Each file is what was put, but together they are no mirror. */
    d->damaged = rc != 0 && err->kind == ERR_CORRUPT && !d->ours;
    return rc;
}

/* So that it is put anew by who has one.  Not the manifest of somebody who has done so already. */
static void remove_damaged(struct download *d)
{
    char key[OBJECT_KEY_MAX + 1];
    struct err none;

    if (stored_manifest_is_same(d->store, d->repo_id, &d->there)) {
        manifest_key(d->repo_id, key);
        object_remove(d->store, key, &none);
    }
    if (d->broken != NULL) {
        manifest_file_key(d->repo_id, d->broken, key);
        object_remove(d->store, key, &none);
    }
}

static void download_clear(struct download *d)
{
    mirror_copy_in_abort(&d->in);
    for (size_t i = 0; i < d->arrived_count; i++)
        free(d->arrived[i].name);
    free(d->arrived);
    stored_manifest_clear(&d->there);
}

int shared_mirror_restore(struct object_store *store, struct mirror *m, const struct key *repo_id,
                          shared_mirror_tick_fn *tick_fn, void *ctx, struct shared_mirror_got *out,
                          struct err *err)
{
    struct download d = {.store = store,
                         .mirror = m,
                         .repo_id = repo_id,
                         .tick = tick_fn,
                         .ctx = ctx,
                         .got = out,
                         .ticked_ms = now_ms()};
    int rc;

    *out = (struct shared_mirror_got){0};
    rc = stored_manifest_read(store, repo_id, &d.there, err);
    d.damaged = rc != 0 && err->kind == ERR_CORRUPT;
    out->bytes = d.there.size;
    if (rc == 0)
        rc = begin(&d, err);
    if (rc == 0)
        rc = get_all_of_one(&d, err);
    if (rc == 0)
        rc = commit(&d, err);
    if (rc == 0)
        out->generation = d.there.manifest.generation;
    if (d.damaged)
        remove_damaged(&d);
    download_clear(&d);
    return rc;
}
