/* A mirror on its way down from the object store, all of it or a part: what shared_mirror_restore.c
 * and shared_mirror_catch_up.c have in common.
 *
 *     mirror_download_begin()       reads the manifest; choose() says what of it is to come
 * the caller begins a copy with room for it: d->in
 *     mirror_download_files()       each file, checked; when another manifest comes in the middle,
 *                                   choose() is asked again, once
 * the caller has mirror_download_content() put in
 *     mirror_download_end()         whatever happened
 *
 * Worker threads: blocks on the network and the disk. */
#ifndef PANNIER_CACHE_SHARED_MIRROR_DOWNLOAD_H
#define PANNIER_CACHE_SHARED_MIRROR_DOWNLOAD_H

#include "cache/mirror/copy.h"
#include "cache/shared/shared_mirror.h"
#include "cache/shared/stored_manifest.h"

struct mirror_download;
/* Sets d->part from d->there.manifest. */
typedef int mirror_download_choose_fn(struct mirror_download *d, struct err *err);

/* On the caller's stack; the first of these are the caller's to set. */
struct mirror_download {
    struct object_store *store;
    struct cutoffs *cutoffs; /* may be NULL */
    struct mirror *mirror;
    const struct key *repo_id;
    shared_mirror_tick_fn *tick; /* may be NULL */
    void *ctx;                   /* tick's */
    struct shared_mirror_got *got;
    mirror_download_choose_fn *choose;
    void *chooser; /* choose's */

    struct stored_manifest there;
    struct manifest part; /* of it; it borrows everything */
    struct mirror_copy_in *in;

    struct mirror_arrived *arrived;
    size_t arrived_count;
    uint64_t done, total;
    uint64_t ticked_ms;
    /* Why it ended, as the kind of an error doesn't say whose it is. */
    bool ours;                          /* the disk, or who is told */
    enum err_kind stale;                /* ERR_NOT_FOUND, ERR_CONFLICT: of a file in the store */
    bool damaged;                       /* what the store has is not what was put: */
    const struct manifest_file *broken; /* NULL: all of it together */
};

/* -1: as stored_manifest_read(), or what choose() said. */
int mirror_download_begin(struct mirror_download *d, struct err *err);
/* What the mirror will be called here: *out points into d and hex. */
void mirror_download_about(const struct mirror_download *d, char hex[KEY_HEX_SIZE],
                           struct entry *out);
/* -1: as shared_mirror_restore(). */
int mirror_download_files(struct mirror_download *d, struct err *err);
/* For what takes long behind the files: a mirror_idle_fn, whose ctx is the download. */
int mirror_download_idle(void *ctx, struct err *err);
/* What came; yours to clear by mirror_content_clear(). */
void mirror_download_content(const struct mirror_download *d, struct mirror_content *out);
/* What is damaged leaves the store, and its manifest, so that it is put anew; so does a manifest
 * that was put too late. */
void mirror_download_end(struct mirror_download *d);

#endif
