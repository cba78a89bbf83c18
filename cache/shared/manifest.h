/* What the shared tier has of one mirror: a small object that names all files, its last word.
 *
 *     mirrors/<repo_id>/manifest.json        this
 *     mirrors/<repo_id>/files/<sha256>       a file of the mirror's objects/, as it is
 *     mirrors/<repo_id>/files/<sha256>.zst   the same as one zstd frame, where that paid
 *
 * Files are named by what is in them, so they never change, and one that a manifest has needs no
 * second upload.  The manifest alone changes, as a whole, and only over the version that was read:
 *
 *     to upload     read the old one and keep its etag; make the new one: each file that is
 *                   manifest_find() in the old one as it is there, all others put by object_put();
 *                   manifest_check_next(); put it with if_match (or only_new)
 *                   ERR_CONFLICT: another node was first, read again
 *     to restore    read it, get each file of manifest_each(), check size and SHA-256, write the
 *                   list of packs and the tips, and let the mirror's own check look at it
 *     to tidy up    list files/, remove what no manifest has had for longer than an upload takes
 *
 * In the mirror: the order of packs is the order of its list, of which the first `indexed` are in
 * the multi-pack index.  Tips are commits and tags, with the time at which each was last asked for.
 * No names of refs, no credentials.
 *
 * The text is JSON in one form only: keys sorted, no spaces, a line end, and a digest of the rest.
 * What manifest_read() takes is, byte for byte, what manifest_write() makes of it.  Pure functions
 * on memory. */
#ifndef PANNIER_CACHE_SHARED_MANIFEST_H
#define PANNIER_CACHE_SHARED_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/shared/object_store.h"
#include "protocol/bytes.h"
#include "protocol/digest.h"
#include "protocol/err.h"
#include "protocol/oid.h"

enum {
    MANIFEST_VERSION = 1,
    MANIFEST_MAX = 32 * 1024 * 1024, /* bytes of text; get no more */
    MANIFEST_PACKS_MAX = 4096,       /* upkeep leaves dozens */
    MANIFEST_TIPS_MAX = 300 * 1000,  /* as many as a mirror keeps */
    MANIFEST_NAME_MAX = 4096,        /* bytes of a repository, a URL, a node's name */
    MANIFEST_HASH_HEX = 40,          /* mirrors are SHA-1 */
};
/* Of one file; all of them together fit into 64 bits. */
#define MANIFEST_SIZE_MAX (UINT64_C(1) << 46)

/* A file; size 0: there is none. */
struct manifest_file {
    uint64_t size; /* in the mirror */
    struct key sha256;
    uint64_t stored_size; /* of its zstd frame, when it travels as one; else 0 */
};

enum manifest_part {
    MANIFEST_PACK, /* these two each pack has */
    MANIFEST_IDX,
    MANIFEST_REV,
    MANIFEST_BITMAP,
    MANIFEST_MTIMES,
    MANIFEST_PARTS_COUNT,
};

struct manifest_pack {
    char hash[MANIFEST_HASH_HEX + 1]; /* "pack-<hash>.pack" */
    struct manifest_file parts[MANIFEST_PARTS_COUNT];
};

struct manifest_tip {
    struct oid oid;
    int64_t wanted_s; /* seconds since 1970 */
};

struct manifest {
    struct key repo_id;
    char *repo;    /* "<upstream>/<path>" */
    char *url;     /* upstream, without credentials */
    char *node;    /* who wrote it */
    char *applied; /* the last event that it had applied (cutoffs.h); NULL: none */

    uint64_t generation; /* 1, and 1 more each time */
    uint64_t fence;      /* the fencing number of the lease under which it was written; 0: none */
    int64_t created;     /* seconds since 1970 */

    struct manifest_pack *packs; /* at least one; no hash twice */
    size_t packs_count;
    size_t indexed;
    char midx_hash[MANIFEST_HASH_HEX + 1]; /* its checksum; "" where there is no midx */
    struct manifest_file midx, midx_bitmap, commit_graph;

    struct manifest_tip *tips; /* sorted by oid, none twice */
    size_t tips_count;
};

void manifest_clear(struct manifest *m); /* one that is {0} is fine */

/* -1: ERR_INPUT, it can't be told (bounds, order, text that isn't UTF-8, a URL with a user); out is
 * as it was.  ERR_LIMIT: out is full. */
int manifest_write(const struct manifest *m, struct bytes *out, struct err *err);
/* repo_id: whose it has to be.  *out is yours to clear.  -1: ERR_CORRUPT, it is damaged or another
 * repository's; ERR_REFUSED, another version of pannier wrote it, and it is none of our business.
 */
int manifest_read(const char *text, size_t len, const struct key *repo_id, struct manifest *out,
                  struct err *err);

/* May next be put over old (NULL: there is none)?  -1: ERR_CONFLICT; the writer's lease went to
 * another node, or it has not seen the latest one. */
int manifest_check_next(const struct manifest *old, const struct manifest *next, struct err *err);

/* Every file, with its name below objects/ ("pack/pack-<hash>.idx").  Not 0 ends it, and is
 * returned. */
typedef int manifest_file_fn(void *ctx, const char *name, const struct manifest_file *file);
int manifest_each(const struct manifest *m, manifest_file_fn *fn, void *ctx);
/* The file with this content; NULL. */
const struct manifest_file *manifest_find(const struct manifest *m, const struct key *sha256);
/* Bytes to come down for all of it, and bytes of the mirror. */
uint64_t manifest_stored_bytes(const struct manifest *m);
uint64_t manifest_bytes(const struct manifest *m);

/* Keys in the object store. */
void manifest_key(const struct key *repo_id, char out[OBJECT_KEY_MAX + 1]);
void manifest_file_key(const struct key *repo_id, const struct manifest_file *file,
                       char out[OBJECT_KEY_MAX + 1]);

#endif
