/* The local tier: what this disk keeps, how much that is, and what goes when room is needed.
 *
 *     local_open()                 reads the index; its entries are known from here on
 *     local_claim_new()            something is being written below incoming/:
 *         local_claim_grow()       ... room for so many bytes more; evicts, or says no
 *         local_publish()          ... it is an entry now; the claim is over
 *         local_claim_free()       ... or it is gone
 *     local_touch()                an entry was used; costs no I/O
 *     local_tick()                 now and then: writes the index, lets go what is over its time
 *
 * The files are the truth.  local_scan() finds what the index doesn't know, and forgets what is not
 * there; so a kill at any time costs a bit of an access count, no more.
 *
 *     known on disk     in the index    after the next start
 *     yes               yes             known at once
 *     yes               no              known when the scan comes by
 *     no                yes             forgotten when it is missed, or when the scan comes by
 *
 * Any thread but those of HTTP, unless said otherwise: room is made in the thread that needs it. */
#ifndef PANNIER_CACHE_LOCAL_LOCAL_H
#define PANNIER_CACHE_LOCAL_LOCAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "cache/entry.h"
#include "cache/folder.h"
#include "cache/local/policy.h"

struct local;

/* So many bytes, or when percent isn't 0, so much of the file system. */
struct share {
    uint64_t bytes;
    unsigned percent;
};

struct local_limits {
    struct share size;     /* for everything below the data folder */
    struct share min_free; /* stays free on the file system, whoever uses the rest */
    enum policy_kind policy;
    int64_t max_age_s;                /* for POLICY_SIZE */
    int64_t ttl_s[ENTRY_KINDS_COUNT]; /* unused for so long: gone; 0: never */
};

/* Removes what lies at path (relative to the data folder).  False: it is in use, so its room would
 * not come free.  force: what is in use goes, too, as soon as its users have left, and nobody new
 * gets it.  Called without a lock; blocks on the disk only. */
typedef bool local_remove_fn(void *ctx, const char *path, bool force);
/* What lies at path; *out is yours to clear.  -1: ERR_CORRUPT: it is nothing that can be used. */
typedef int local_describe_fn(void *ctx, const char *path, struct entry *out, struct err *err);
struct local_owner {
    local_remove_fn *remove;
    local_describe_fn *describe;
    void *ctx;
};

/* Never fails: where the index can't be had, what lies there is known after the scan. */
struct local *local_open(struct folder *folder, const struct local_limits *limits);
void local_close(struct local **l); /* writes what is still to be written */
/* Each kind has one before anything of it is published, or local_scan() called. */
void local_set_owner(struct local *l, enum entry_kind kind, const struct local_owner *owner);
void local_configure(struct local *l, const struct local_limits *limits);
/* Told of each entry that is published, in the publisher's thread and without a lock; must not
 * block.  NULL: nobody.  While nobody publishes, or removes. */
typedef void local_published_fn(void *ctx, enum entry_kind kind, const char *path);
void local_set_listener(struct local *l, local_published_fn *fn, void *ctx);
/* The same of each that is gone. */
void local_set_gone_listener(struct local *l, local_published_fn *fn, void *ctx);

/* ---- what is being written ---- */

struct claim;
struct claim *local_claim_new(struct local *l);
/* It is going to be the entry at path, or any other name that tells what it is for.  One that turns
 * out larger than the tier is then known, and doesn't empty the tier the next time. */
void local_claim_for(struct claim *c, const char *path);
/* Room for bytes more, made by evicting where it must be.  -1: there is none.  ERR_LIMIT: it is too
 * large for the tier, which is nobody's fault and nothing to log; ERR_STORAGE: others have filled
 * the file system, which is trouble. */
int local_claim_grow(struct claim *c, uint64_t bytes, struct err *err);
/* So much it is now, whatever was claimed. */
void local_claim_set(struct claim *c, uint64_t bytes);
void local_claim_free(struct claim **c);

/* ---- what is kept ---- */

/* e lies at e->path now, or has changed there; e->stored_size is what it takes on the disk.
 * Accesses and times that are known already stay.  *claim (may be NULL) is over. */
void local_publish(struct local *l, const struct entry *e, struct claim **claim);
/* It was used.  Any thread, HTTP's too. */
void local_touch(struct local *l, const char *path);
/* It is gone, or was found missing. */
void local_forget(struct local *l, const char *path);

/* ---- what stays ---- */

enum { PINS_MAX = 4096 }; /* repositories */

/* The entries of a repository (its id in hex) that there are at now_s, and its mirror whenever it
 * is made, stay: no room is made of them, and they don't get too old.  Answers that are made later
 * come and go as others do, or a busy repository would fill the disk with what nobody asks for
 * again. local_remove() removes them all the same.  Survives a restart.  Pinned anew, what was made
 * meanwhile stays, too.  -1: ERR_STORAGE, it can't be written down; ERR_BUSY, PINS_MAX are. */
int local_pin(struct local *l, const char *repo_id, int64_t now_s, struct err *err);
/* -1: ERR_NOT_FOUND, or ERR_STORAGE. */
int local_unpin(struct local *l, const char *repo_id, struct err *err);
/* The same, of one that was pinned at until_s or before; ERR_NOT_FOUND also if it was later. */
int local_unpin_older(struct local *l, const char *repo_id, int64_t until_s, struct err *err);
bool local_is_pinned(struct local *l, const char *repo_id, int64_t *since_s); /* any thread */

/* ---- from time to time ---- */

/* Writes changes into the index, and removes what is over its ttl or over the limits. */
void local_tick(struct local *l, int64_t now_s);
/* Compare with the files; slow (reads the end of each answer that the index doesn't know), in a
 * background thread.  stop: ends it early. */
void local_scan(struct local *l, const atomic_bool *stop);
bool local_scanned(struct local *l); /* once, since the start */

/* ---- for people ---- */

struct local_usage {
    uint64_t entries[ENTRY_KINDS_COUNT];
    uint64_t bytes[ENTRY_KINDS_COUNT]; /* on disk */
    uint64_t filling;                  /* claimed */
    uint64_t frame;                    /* folders, and the index */
    uint64_t total;                    /* of all these: what `du` says */
    uint64_t limit;                    /* what total may be at most now; UINT64_MAX: no limit */
    uint64_t evicted, evicted_bytes;   /* since the start */
    uint64_t pinned;                   /* entries that stay, whatever room is needed */
};
/* Any thread, HTTP's too: what was known at the last tick where that needs the disk. */
void local_usage(struct local *l, struct local_usage *out);

/* Every entry, oldest access first; fn's entry is borrowed, and fn may take its time.  Not under a
 * lock: what comes or goes meanwhile may be seen or not.  Returns what fn returned, unless 0. */
int local_each(struct local *l, int (*fn)(void *ctx, const struct entry *e), void *ctx,
               struct err *err);

/* The same for one repository's, in any order, at the cost of these. */
int local_each_of(struct local *l, const char *repo_id, int (*fn)(void *ctx, const struct entry *e),
                  void *ctx, struct err *err);

/* What would go, in this order, to bring the tier down to at most goal bytes (UINT64_MAX: to its
 * limits), and why. */
typedef void local_preview_fn(void *ctx, const struct entry *e, const char *why);
void local_preview(struct local *l, int64_t now_s, uint64_t goal, local_preview_fn *fn, void *ctx);
/* Do so.  Returns how many bytes went. */
uint64_t local_evict(struct local *l, int64_t now_s, uint64_t goal);
/* Remove this entry, also when it is in use (by force).  -1: ERR_NOT_FOUND; ERR_BUSY: it is being
 * made anew just now, or the disk fails. */
int local_remove(struct local *l, const char *path, struct err *err);
/* Remove it unless somebody wants it: -1 with ERR_BUSY, too, when it is in use, or was last
 * accessed later than used_s, or is pinned. */
int local_remove_unused(struct local *l, const char *path, int64_t used_s, struct err *err);

/* Bytes that path and all below take on the disk, as `du` counts; 0 when it isn't there. */
uint64_t disk_usage(const char *path);

#endif
