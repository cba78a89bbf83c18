/* Mirrors: bare repositories kept from upstream ones, by path, each holding objects that are
 * closed under reachability and, as refs/pannier/oid/<hex>, the tips that were asked for.
 *
 * No branch or tag names are kept: a mirror is never advertised, its tips only say what it has, and
 * `include-tag` can't hand out a tag that upstream has hidden or deleted since: see
 * mirror_upload_pack().
 *
 *      absent -> intake (in incoming/) -> ready -> intake (in place) -> ready ... -> dropped
 *
 * A mirror is trusted while its packs are those of its list (`pannier-packs`: name and size);
 * their checksums are read once per process, and again when a pack's file has changed.  One that
 * fails this is dropped and made again.  SHA-1 repositories only: libgit2 1.5 knows no others, so
 * the rest are served from answers and from upstream.
 *
 * Worker threads only, unless said otherwise: these read the disk. */
#ifndef PANNIER_CACHE_MIRROR_H
#define PANNIER_CACHE_MIRROR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/entry.h"
#include "cache/folder.h"
#include "cache/local/local.h"
#include "cache/process.h"
#include "protocol/fetch_request.h"
#include "protocol/oid.h"

struct mirrors;
struct mirror;

/* Is the owner of local's mirrors from here on: removes them when room is needed. */
struct mirrors *mirrors_new(struct folder *folder, struct processes *processes,
                            struct local *local);
/* Whoever reads packs to check them gives up (ERR_CANCELLED), for the end of the program. */
void mirrors_stop(struct mirrors *all);
void mirrors_free(struct mirrors **all);
/* Mirrors dropped because they were not what was written. */
uint64_t mirrors_damaged(struct mirrors *all);

/* The mirror's handle, whether or not it exists on disk yet; yours to mirror_unref().  NULL when
 * such a path can't be a mirror's (a segment that ends in ".git" or is too long for a file). */
struct mirror *mirrors_get(struct mirrors *all, const char *upstream, const char *repo);
struct mirror *mirror_ref(struct mirror *m);
void mirror_unref(struct mirror **m); /* NULL inside is fine */

/* True when it is on disk and whole; damage is found here, and dropped. */
bool mirror_ready(struct mirror *m);
/* A git program failed on it, perhaps for a reason of its own (a request that git refuses, a
 * machine without memory): what was read before is read again before it is trusted further. */
void mirror_doubt(struct mirror *m);
/* Drop it: it was found broken.  Who reads from it goes on as long as it can. */
void mirror_drop_damaged(struct mirror *m, const struct err *why);

/* True when it holds every one of oids. */
bool mirror_has_all(struct mirror *m, const struct oid_list *oids);
/* True when it is sure that it doesn't; false also when that can't be told (descriptors lack). */
bool mirror_lacks(struct mirror *m, const struct oid *oid);
/* Add to *out those that it lacks, or that can't be looked for now. */
void mirror_missing(struct mirror *m, const struct oid_list *oids, struct oid_list *out);
/* Add to *out those of tags that it lacks though it has what they peel to (pairs). */
void mirror_missing_tags(struct mirror *m, const struct oid_list *tags,
                         const struct oid_list *targets, struct oid_list *out);
/* True when each of oids is a commit that is one of tips or an ancestor of one. */
bool mirror_reaches_all(struct mirror *m, const struct oid_list *oids, const struct oid_list *tips);
/* The most recent tips, at most max: what to tell upstream that we have. */
void mirror_tips(struct mirror *m, size_t max, struct oid_list *out);

/* Which generation of the one in the shared tier has nothing (that was worth its bytes) that isn't
 * here; 0: that isn't known.  Remembered while the program runs and the mirror lives.  Any thread.
 */
uint64_t mirror_generation(struct mirror *m);
void mirror_set_generation(struct mirror *m, uint64_t generation);

/* One writer at a time.  Waits for the one before.  After mirror_write_begin() look again whether
 * there is still something to do. */
void mirror_write_begin(struct mirror *m);
/* The same, but only for timeout_ms: false when the one before is still at it. */
bool mirror_write_try(struct mirror *m, uint64_t timeout_ms);
void mirror_write_end(struct mirror *m);

/* Takes a pack in; between mirror_write_begin and _end.
 *
 *     mirror_intake_begin(m, &in, &err)
 *     mirror_intake_feed(in, data, len, &err) ...
 *     mirror_intake_commit(&in, &tips, &err)    indexes, checks that all tips are there, records
 *                                               them; only commits and tags become tips
 *     or mirror_intake_abort(&in)
 *
 * When there is no mirror yet the pack must be closed under reachability, and the mirror
 * appears whole by rename; otherwise it may be thin. */
struct mirror_intake;
/* about: repo_id, repo and url of the repository, for the entry.  What is fed is claimed from local
 * before it is written (ERR_LIMIT: there is no room, and the intake is to be given up), and the
 * mirror published there.  ERR_BUSY: it is being removed. */
int mirror_intake_begin(struct mirror *m, const struct entry *about, bool background,
                        struct mirror_intake **out, struct err *err);
/* After it failed there is nothing to commit any more. */
int mirror_intake_feed(struct mirror_intake *in, const void *data, size_t len, struct err *err);
int mirror_intake_commit(struct mirror_intake **in, const struct oid_list *tips, struct err *err);
void mirror_intake_abort(struct mirror_intake **in);

/* Run `git upload-pack` on it for req and give what it says to fn, piece by piece.  With
 * include-tag only tags (pairs with targets) may be included, and of them those that it has: git
 * sees the mirror's objects through a view that has just these tags.  idle_fn, when not NULL, is
 * called each idle_ms without output.  -1: what fn returned, or ERR_PROCESS. */
typedef int mirror_output_fn(void *ctx, const void *data, size_t len, struct err *err);
typedef int mirror_idle_fn(void *ctx, struct err *err);
int mirror_upload_pack(struct mirror *m, const struct fetch_request *req,
                       const struct oid_list *tags, const struct oid_list *targets,
                       mirror_output_fn *fn, mirror_idle_fn *idle_fn, int idle_ms, void *ctx,
                       struct err *err);

/* ---- upkeep: what keeps it fast ---- */

struct mirror_upkeep_options {
    int64_t now_s;
    int64_t
        unreachable_ttl_s;   /* tips that nobody asked for so long, and what only they reach, go */
    uint64_t memory;         /* bytes for git, about */
    const atomic_bool *stop; /* ends git early; may be NULL */
};

/* What was done; all 0 when nothing was needed. */
struct mirror_upkeep {
    unsigned packs_before, packs_after;
    unsigned tips_before, tips_after;
    uint64_t bytes_before, bytes_after;
    bool bitmap, commit_graph; /* written anew */
};

/* A glance at the folder: many packs or tips, no bitmap, left-over files? */
bool mirror_needs_upkeep(struct mirror *m, const struct mirror_upkeep_options *options);
/* Geometric repack, multi-pack index with bitmap, commit-graph, tips that others reach dropped,
 * cruft packs that expire, stale locks.  Serving and fetching go on: git works on a copy of hard
 * links in incoming/, the result is linked in, and old packs go when those who began to read before
 * are done.  -1: the mirror is as it was. */
int mirror_upkeep(struct mirror *m, const struct mirror_upkeep_options *options,
                  struct mirror_upkeep *out, struct err *err);

/* What is written in the folder of a mirror about it; *out is yours to clear, and its stored_size
 * the caller's to measure.  -1: ERR_NOT_FOUND, ERR_CORRUPT, or ERR_STORAGE. */
int mirror_read_entry(const char *mirror_path, struct entry *out, struct err *err);

/* Reads all of it: checksums of packs and indexes, and `git fsck --connectivity-only`.
 * -1: ERR_CORRUPT when it is damaged (it is still there), others when it can't be told. */
int mirror_verify(struct mirror *m, struct err *err);

/* As by force: nobody new gets any of them, and they go with their last users; one that is being
 * made isn't published.  All; or that of this repository (repo_id_of()) if it isn't in the index
 * yet, or takes something in just now. */
void mirrors_remove_all(struct mirrors *all);
void mirrors_remove_unborn(struct mirrors *all, const struct key *repo_id);

/* The mirror at an entry's path ("mirrors/<upstream>/<repo>.git"); NULL when that is none. */
struct mirror *mirrors_at(struct mirrors *all, const char *path);

#endif
