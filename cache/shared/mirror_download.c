#include "cache/shared/mirror_download.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/compress.h"
#include "cache/lock.h"
#include "protocol/base.h"

enum { TICK_MS = 1000 };

/* A file that is down, and right. */
struct mirror_arrived {
    char *name;
    struct key sha256;
};

static uint64_t stored_size(const struct manifest_file *file)
{
    return file->stored_size != 0 ? file->stored_size : file->size;
}

/* It may have been invalidated since its manifest was read. */
static int check_not_late(struct mirror_download *d, struct err *err)
{
    if (!d->there.usable || d->cutoffs == NULL ||
        !cutoffs_refuse(d->cutoffs, d->repo_id, d->there.manifest.applied))
        return 0;
    d->ours = d->there.late = true;
    return err_set(err, ERR_CANCELLED, "the mirror was invalidated while it was fetched");
}

static int tick(struct mirror_download *d, struct err *err)
{
    if (check_not_late(d, err) != 0)
        return -1;
    d->ticked_ms = now_ms();
    if (d->tick == NULL || d->tick(d->ctx, d->done, d->total, err) == 0)
        return 0;
    d->ours = true;
    return -1;
}

static int tick_if_due(struct mirror_download *d, struct err *err)
{
    return now_ms() - d->ticked_ms >= TICK_MS ? tick(d, err) : 0;
}

int mirror_download_idle(void *ctx, struct err *err)
{
    return check_not_late(ctx, err) == 0 ? tick_if_due(ctx, err) : -1;
}

/* ---- one file ---- */

struct incoming {
    struct mirror_download *download;
    const struct manifest_file *file;
    int fd;
    struct digest *sha256;
    uint64_t written;               /* to fd */
    struct decompressor *unpacking; /* NULL: the file comes as it is */
    uint64_t came;
};

static int write_all(struct mirror_download *d, int fd, const void *data, size_t len,
                     struct err *err)
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
    struct mirror_download *d = in->download;

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

static void note_why(struct mirror_download *d, const struct manifest_file *file, const char *name,
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

static int get_into(struct mirror_download *d, const char *name, const struct manifest_file *file,
                    int fd, struct err *err)
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

static void note_arrival(struct mirror_download *d, const char *name,
                         const struct manifest_file *file)
{
    d->arrived = xrealloc(d->arrived, (d->arrived_count + 1) * sizeof(*d->arrived));
    d->arrived[d->arrived_count++] = (struct mirror_arrived){xstrdup(name), file->sha256};
    d->got->files++;
}

static int get_file(struct mirror_download *d, const char *name, const struct manifest_file *file,
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

static const struct mirror_arrived *arrived_as(const struct mirror_download *d, const char *name)
{
    for (size_t i = 0; i < d->arrived_count; i++)
        if (strcmp(d->arrived[i].name, name) == 0)
            return &d->arrived[i];
    return NULL;
}

struct walk {
    struct mirror_download *download;
    struct err *err;
};

static int get_missing(void *ctx, const char *name, const struct manifest_file *file)
{
    struct walk *w = ctx;

    return arrived_as(w->download, name) == NULL ? get_file(w->download, name, file, w->err) : 0;
}

static int get_all(struct mirror_download *d, struct err *err)
{
    struct walk walk = {d, err};

    d->stale = ERR_NONE;
    return manifest_each(&d->part, get_missing, &walk);
}

/* ---- another manifest in the middle ---- */

struct still {
    const struct mirror_arrived *arrived;
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
static void keep_arrived(struct mirror_download *d)
{
    size_t kept = 0;

    d->done = 0;
    for (size_t i = 0; i < d->arrived_count; i++) {
        struct still still = {&d->arrived[i], 0};

        manifest_each(&d->part, compare, &still);
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

static int read_and_choose(struct mirror_download *d, struct err *err)
{
    int rc = stored_manifest_read(d->store, d->cutoffs, d->repo_id, &d->there, err);

    d->damaged = rc != 0 && err->kind == ERR_CORRUPT;
    d->part = (struct manifest){0};
    if (rc == 0)
        rc = d->choose(d, err);
    d->total = manifest_stored_bytes(&d->part);
    return rc;
}

static int read_again(struct mirror_download *d, struct err *err)
{
    struct stored_manifest before = d->there;
    struct err why = *err;
    bool same;
    int rc = read_and_choose(d, err);

    same = d->there.usable && strcmp(before.etag, d->there.etag) == 0;
    stored_manifest_clear(&before);
    if (rc == 0 && same && d->stale == ERR_NOT_FOUND) {
        d->damaged = true;
        return err_set(err, ERR_CORRUPT, "a file of a mirror in the shared tier is missing: %s",
                       why.text);
    }
    if (rc == 0)
        rc = mirror_copy_in_room(d->in, manifest_bytes(&d->part), err);
    if (rc == 0)
        keep_arrived(d);
    return rc;
}

int mirror_download_begin(struct mirror_download *d, struct err *err)
{
    d->ticked_ms = now_ms();
    return read_and_choose(d, err);
}

void mirror_download_about(const struct mirror_download *d, char hex[KEY_HEX_SIZE],
                           struct entry *out)
{
    const struct manifest *m = &d->there.manifest;

    key_to_hex(d->repo_id, hex);
    *out = (struct entry){.kind = ENTRY_MIRROR, .repo_id = hex, .repo = m->repo, .url = m->url};
}

int mirror_download_files(struct mirror_download *d, struct err *err)
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

void mirror_download_content(const struct mirror_download *d, struct mirror_content *out)
{
    const struct manifest *m = &d->part;

    *out = (struct mirror_content){
        .packs = xcalloc(m->packs_count + 1, sizeof(*out->packs)),
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

/* ---- the end ---- */

/* So that it is put anew by who has one.  Not the manifest of somebody who has done so already. */
static void remove_damaged(struct mirror_download *d)
{
    char key[OBJECT_KEY_MAX + 1];
    struct err none;

    if (stored_manifest_is_same(d->store, d->repo_id, &d->there)) {
        manifest_key(d->repo_id, key);
        d->got->removed = object_remove(d->store, key, &none) == 0;
    }
    if (d->broken != NULL) {
        manifest_file_key(d->repo_id, d->broken, key);
        object_remove(d->store, key, &none);
    }
}

void mirror_download_end(struct mirror_download *d)
{
    if (d->damaged || d->there.late)
        remove_damaged(d);
    mirror_copy_in_abort(&d->in);
    for (size_t i = 0; i < d->arrived_count; i++)
        free(d->arrived[i].name);
    free(d->arrived);
    stored_manifest_clear(&d->there);
}
