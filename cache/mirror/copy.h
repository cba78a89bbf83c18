/* A mirror goes somewhere else, and comes back: what it consists of, apart from the disk.
 *
 *     out   mirror_copy_out_begin()       what it is at this moment
 *           mirror_copy_out_open() ...    its files, for as long as one likes
 *           mirror_copy_out_end()
 *     in    mirror_copy_in_begin()        a folder in incoming/, and room for all of it
 *           mirror_copy_in_create(), mirror_copy_in_close() ...     its files
 *           mirror_copy_in_commit()       the lists; the mirror's own check; then it appears whole
 *           or mirror_copy_in_abort()
 *     more  mirror_copy_in_begin_beside()    the same for packs that a mirror lacks
 *           mirror_copy_in_room(), files as above
 *           mirror_copy_in_join()       checked together with what is here, they become a part of
 * it
 *
 * Files are named as they lie below objects/: "pack/pack-<hash>.idx".  Whoever carries them needs
 * to know nothing of git, but that each of them ends in the SHA-1 of what stands before.
 *
 * Worker threads: these read and write the disk. */
#ifndef PANNIER_CACHE_MIRROR_COPY_H
#define PANNIER_CACHE_MIRROR_COPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/mirror/mirror.h"

enum { MIRROR_HASH_HEX = 40 };

enum mirror_part {
    MIRROR_PACK, /* these two each pack has */
    MIRROR_IDX,
    MIRROR_REV,
    MIRROR_BITMAP,
    MIRROR_MTIMES,
    MIRROR_PARTS_COUNT,
};

struct mirror_content_pack {
    char hash[MIRROR_HASH_HEX + 1];     /* "pack-<hash>.pack" */
    uint64_t sizes[MIRROR_PARTS_COUNT]; /* of each of its files; 0: there is none */
};

struct mirror_content_tip {
    struct oid oid;
    int64_t wanted_s; /* when it was last asked for */
};

struct mirror_content {
    struct entry about; /* repo_id, repo and url */
    struct mirror_content_pack *packs;
    size_t packs_count;
    size_t indexed;                      /* so many of them are in the multi-pack index */
    char midx_hash[MIRROR_HASH_HEX + 1]; /* its checksum; "" where there is none */
    uint64_t midx_size, midx_bitmap_size, commit_graph_size; /* 0: there is none */
    struct mirror_content_tip *tips;                         /* sorted by oid, none twice */
    size_t tips_count;
};
void mirror_content_clear(struct mirror_content *c); /* one that is {0} is fine */

/* ---- out ---- */

struct mirror_copy_out;
/* m is ready.  Serving, fetching, upkeep and eviction go on; what the content names stays until
 * mirror_copy_out_end(), but where it was found damaged.  All that tips reach is in the packs.
 * -1: ERR_NOT_FOUND: there is none, or it is being removed; ERR_CORRUPT; ERR_STORAGE; ERR_BUSY: it
 * changes all the time. */
int mirror_copy_out_begin(struct mirror *m, struct mirror_copy_out **out, struct err *err);
const struct mirror_content *mirror_copy_out_content(const struct mirror_copy_out *c);
/* True when it is to be removed, or was: to go on is of no use. */
bool mirror_copy_out_gone(const struct mirror_copy_out *c);
/* *fd is yours to close; read it by pread().  -1: ERR_NOT_FOUND: the mirror is gone; ERR_CORRUPT:
 * the file is; ERR_STORAGE. */
int mirror_copy_out_open(const struct mirror_copy_out *c, const char *name, int *fd,
                         struct err *err);
/* A file without a name to put up to so many bytes in, which are claimed from the local tier; one
 * at a time.  *fd is yours to close.  -1: ERR_LIMIT, ERR_STORAGE: there is no room. */
int mirror_copy_out_scratch(struct mirror_copy_out *c, uint64_t bytes, int *fd, struct err *err);
void mirror_copy_out_end(struct mirror_copy_out **c); /* NULL is fine */

/* ---- in ---- */

struct mirror_copy_in;
/* Between mirror_write_begin() and _end() of a mirror that isn't there.  bytes: of all files; room
 * for them is claimed of the local tier.  -1: ERR_CONFLICT: it is there; ERR_BUSY: it is being
 * removed; ERR_LIMIT, ERR_STORAGE: there is no room. */
int mirror_copy_in_begin(struct mirror *m, const struct entry *about, uint64_t bytes,
                         struct mirror_copy_in **out, struct err *err);
/* It turns out to be so many. */
int mirror_copy_in_room(struct mirror_copy_in *c, uint64_t bytes, struct err *err);
/* An empty file with this name. */
int mirror_copy_in_create(struct mirror_copy_in *c, const char *name, int *fd, struct err *err);
/* It is as it will be: on the disk, and read-only.  Closes fd, whatever happens. */
int mirror_copy_in_close(struct mirror_copy_in *c, const char *name, int fd, struct err *err);
void mirror_copy_in_remove(struct mirror_copy_in *c, const char *name);
/* All files of content are there, and are read once more.  tick (may be NULL) is called all the
 * while, and once more before the mirror appears; -1 gives it up.  -1: ERR_CORRUPT: together they
 * make no whole mirror; what tick said; others as mirror_intake_commit(). */
int mirror_copy_in_commit(struct mirror_copy_in **c, const struct mirror_content *content,
                          mirror_idle_fn *tick, void *ctx, struct err *err);
void mirror_copy_in_abort(struct mirror_copy_in **c); /* NULL is fine */

/* ---- in, beside what is there ---- */

/* Between mirror_write_begin() and _end() of a mirror that is ready; no room is claimed yet.
 * -1: ERR_BUSY: it is gone, or being removed; ERR_STORAGE. */
int mirror_copy_in_begin_beside(struct mirror *m, const struct entry *about,
                                struct mirror_copy_in **out, struct err *err);
/* What the mirror had then: that of its list, and not what waits to be swept. */
bool mirror_copy_in_has_pack(const struct mirror_copy_in *c, const char *hash);
uint64_t mirror_copy_in_bytes_beside(const struct mirror_copy_in *c); /* of its packs */
/* Add to *out those of oids that it didn't have. */
void mirror_copy_in_lacking(const struct mirror_copy_in *c, const struct oid_list *oids,
                            struct oid_list *out);
/* content: packs whose files are all there, and tips to be added; the rest of it doesn't count.
 * -1: ERR_CORRUPT: the files are not what they should be, or tips reach what is neither in them nor
 * in the mirror; ERR_LIMIT: too much to look through; others as mirror_intake_commit(). */
int mirror_copy_in_join(struct mirror_copy_in **c, const struct mirror_content *content,
                        struct err *err);

#endif
