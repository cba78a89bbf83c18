/* What the files of cache/mirror/ share, and nobody else sees.
 *
 *     mirror.c       the table, handles, writers, users, removal
 *     list.c         the list of packs
 *     check.c        is it whole?
 *     record.c       what the local tier is told of a mirror
 *     objects.c      questions to its objects and refs: a home of libgit2
 *     closed.c       do tips reach only what is there?  The other one
 *     tips.c         which tip was last wanted when
 *     intake.c       packs that come in
 *     upload_pack.c  packs that go out
 *     upkeep.c       repacking; see upkeep.h
 *     sweep.c        files that nobody needs any more
 *     verify.c       reading all of it
 *     copy_out.c     what it consists of, for the shared tier; see copy.h
 *     copy_in.c      one made from such a copy, or packs of it beside what is here
 */
#ifndef PANNIER_CACHE_MIRROR_INTERNAL_H
#define PANNIER_CACHE_MIRROR_INTERNAL_H

#include <stdatomic.h>
#include <stdio.h>

#include <uthash.h>

#include "cache/answer_file.h"
#include "cache/lock.h"
#include "cache/mirror/mirror.h"
#include "protocol/base.h"

enum { GIT_HEX_LEN = 40 };

/* ---- mirror.c ---- */

/* A file whose bytes were checked, as it was then. */
struct verified_file {
    char *name;
    struct file_identity identity;
};

/* A commit or tag, and when it was last asked for. */
struct tip {
    struct oid oid;
    int64_t wanted_s;
};
struct tip_list {
    struct tip *items; /* sorted by oid */
    size_t count;
};

/* Somebody who reads the mirror's files; on the reader's stack. */
struct mirror_use {
    uint64_t epoch; /* in which it began */
    struct mirror_use *next, *prev;
};

struct mirror {
    struct mirrors *all;
    char *name; /* "<upstream>/<path>", the table's key */
    char *path;
    int refs; /* under all->lock, as is all below */
    bool writing;
    bool checking; /* somebody reads it to see whether it is whole */
    bool doomed;   /* nobody new gets it; goes when the last handle does */
    struct verified_file *verified;
    size_t verified_count;
    /* Files may be taken away in two steps, each of which ends an epoch: see sweep.c. */
    uint64_t epoch;
    struct mirror_use *users;
    bool sweep_due;
    uint64_t generation;    /* see mirror_generation() */
    struct tip_list wanted; /* what was asked for since that was last written down */
    UT_hash_handle hh;
};

struct mirrors {
    struct folder *folder;
    struct local *local; /* NULL in tests; only record.c looks */
    struct processes *processes;
    struct lock lock;
    pthread_cond_t done; /* some mirror's writer is, or who checks it */
    struct mirror *by_name;
    atomic_uint_fast64_t damaged;
    atomic_bool stop;
};

/* What a user sees when it begins stays on the disk until it ends. */
void mirror_use_begin(struct mirror *m, struct mirror_use *use);
void mirror_use_end(struct mirror *m, struct mirror_use *use);
/* False while somebody reads who began before the present epoch. */
bool mirror_users_are_new(struct mirror *m);
void mirror_epoch_end(struct mirror *m);
bool mirror_doomed(struct mirror *m);

/* "<path of m>/<name>", yours to free. */
char *mirror_file(const struct mirror *m, const char *name);
/* Write a small file below folder. */
int write_below(const char *folder, const char *name, const char *text, bool durable,
                struct err *err);
/* The same by way of another name and a rename: readers see the old one or the new one. */
int replace_below(const char *folder, const char *name, const struct bytes *text, bool durable,
                  struct err *err);
bool ends_with(const char *s, const char *end);

/* ---- list.c ---- */

struct listed_pack {
    char name[64]; /* "pack-<hash>.pack" */
    uint64_t size;
};

/* What the mirror is: its packs, and the multi-pack index that goes with the first of them. */
struct pack_list {
    struct listed_pack *packs;
    size_t count;
    size_t indexed;             /* so many of them are in the multi-pack index */
    char midx[GIT_HEX_LEN + 1]; /* its checksum; "" where there is none */
};
void pack_list_clear(struct pack_list *list);
/* -1: ERR_NOT_FOUND where there is no mirror, ERR_CORRUPT, or ERR_STORAGE when it can't be told. */
int pack_list_read(const char *path, struct pack_list *out, struct err *err);
/* The list is what makes a folder a mirror: it is replaced as one, by rename. */
int pack_list_write(const char *path, const struct pack_list *list, struct err *err);
/* False: it has it already. */
bool pack_list_add(struct pack_list *list, const char *name, uint64_t size);
/* stem_len: without ".pack" or what stands in its place. */
bool pack_list_has(const struct pack_list *list, const char *name, size_t stem_len);
uint64_t pack_list_bytes(const struct pack_list *list);
bool is_pack(const char *name);
/* errno's error: what is gone or can't be read is damage.  A want of descriptors or memory is not:
 * that must not cost a mirror. */
int cannot_look(const char *name, struct err *err);

/* ---- check.c ---- */

extern const char MIRROR_CONFIG[], MIRROR_HEAD[];

/* Is it whole?  anew: also read what was read before. */
int mirror_check(struct mirror *m, bool anew, struct err *err);
/* Is what lies at path, where nobody else knows of it, a whole mirror?  All of it is read, with a
 * tick (may be NULL) before each MiB. */
int mirror_check_folder(struct mirror *m, const char *path, mirror_idle_fn *tick, void *ctx,
                        struct err *err);
/* A git program that finished has written what it was given, so the bytes of what it made need no
 * reading back: a pack, or what goes with all of them. */
void mirror_trust_pack(struct mirror *m, const struct listed_pack *pack);
void mirror_trust_indexes(struct mirror *m, const struct pack_list *list);
/* Set its time of change, and trust it as before. */
void mirror_date_pack(struct mirror *m, const struct listed_pack *pack, int64_t time_s);
/* Forget files that are not of the list any more. */
void mirror_forget_verified_but(struct mirror *m, const struct pack_list *list);

/* ---- record.c ---- */

/* It is there, or has changed on the disk: as its record says.  *claim (or NULL) is over. */
void mirror_publish(struct mirror *m, struct claim **claim);
void mirror_touch(struct mirror *m);
void mirror_forget(struct mirror *m);
/* use: what for, where the tier may remember that there is no room for it; NULL: it is small. */
struct claim *mirror_claim_new(struct mirror *m, const char *use);
int mirror_claim_grow(struct claim *c, uint64_t bytes, struct err *err);
void mirror_claim_free(struct claim **c);
/* Write what is known of the mirror with this name into the folder at path; when it was created
 * stays. */
int record_write(const char *path, const char *name, const struct entry *about,
                 const struct oid_list *tips, struct err *err);
/* It is the owner of the local tier's mirrors. */
void records_own(struct mirrors *all, local_remove_fn *remove_fn);

/* ---- objects.c ---- */

void objects_start(void);
void objects_stop(void);
/* tips must exist in the repository at path; *out gets those that are commits or tags: others can't
 * be compared with what upstream has. */
int objects_choose_tips(const char *path, const struct oid_list *tips, struct oid_list *out,
                        struct err *err);
/* Add to *out those of oids that are commits or tags, and are there.  -1: it can't be told of all.
 */
int objects_that_are_tips(const char *path, const struct oid_list *oids, struct oid_list *out,
                          struct err *err);
/* libgit2 takes a pack that it can't open for one that isn't there: an object that it doesn't find
 * lacks only if all packs can be opened.  Asked before what it has open is closed.  -1: as
 * cannot_look(). */
int objects_can_be_read(const char *path, struct err *err);
/* Add to *out those of oids that the repository at path lacks. */
void objects_missing(const char *path, const struct oid_list *oids, struct oid_list *out);
int objects_add_refs(const char *path, const struct oid_list *tips, struct err *err);
/* All that refs of the repository at path say, sorted. */
int objects_refs(const char *path, struct oid_list *out, struct err *err);

/* ---- closed.c ---- */

/* Has the repository at path all of tips, as commits and tags?  -1: ERR_CORRUPT: it hasn't;
 * ERR_STORAGE: it can't be told now. */
int objects_check_tips(const char *path, const struct oid_list *tips, struct err *err);
/* Is all that tips reach in the repository at path, and are they commits and tags?  What the one at
 * had holds, which path sees, too, is closed, and isn't looked through again.  -1: ERR_CORRUPT: it
 * isn't; ERR_STORAGE: it can't be told now; ERR_LIMIT: it is too much to look through;
 * ERR_CANCELLED: *stop. */
int objects_check_closed(const char *path, const char *had, const struct oid_list *tips,
                         const atomic_bool *stop, struct err *err);

/* ---- tips.c ---- */

extern const char TIP_PREFIX[];

void tip_list_clear(struct tip_list *list);
/* What is written in the mirror at path; nothing when that can't be read. */
void tip_list_read(const char *path, struct tip_list *out);
int tip_list_write(const char *path, const struct tip_list *list, struct err *err);
struct tip *tip_list_find(const struct tip_list *list, const struct oid *oid);
/* oid was wanted then; it is added when it isn't there. */
void tip_list_want(struct tip_list *list, const struct oid *oid, int64_t time_s);
/* oids were asked for, now. */
void mirror_want(struct mirror *m, const struct oid_list *oids, int64_t now_s);
/* What was asked for since the last call; yours to clear. */
void mirror_take_wanted(struct mirror *m, struct tip_list *out);
/* All refs of the repository at path, in one file. */
int packed_refs_write(const char *path, const struct oid_list *tips, struct err *err);

/* ---- intake.c ---- */

/* What a bare repository consists of, but for packs and refs. */
int make_bare(const char *path, bool durable, struct err *err);
/* The whole repository in the folder from, in incoming/, is the mirror from here on. */
int mirror_appear(struct mirror *m, const char *from, struct err *err);

/* ---- sweep.c ---- */

/* Take away what a git program left that was killed, and packs that are not of the list, as far as
 * nobody reads them.  Between mirror_write_begin and _end. */
void mirror_sweep(struct mirror *m);
/* The checksum of the multi-pack index in this folder; false where there is none. */
bool midx_checksum(int folder, char out[GIT_HEX_LEN + 1]);
/* Would mirror_sweep() find something? */
bool mirror_has_leftovers(struct mirror *m, const struct pack_list *list);

#endif
