/* What the files of the local tier share; for nobody else.
 *
 *     local.c        the table of entries: what is here
 *     measure.c      how much it is, and how much it may be
 *     room.c         who goes when there is too much; claims
 *     write_index.c  what changed goes into the index; walking over all of it
 *     scan.c         comparing with the files
 *     pins.c         what stays
 *
 * The index can be made from the files at any time, so a change of it that fails is not kept: the
 * next scan makes up for it. */
#ifndef PANNIER_CACHE_LOCAL_INTERNAL_H
#define PANNIER_CACHE_LOCAL_INTERNAL_H

#include <uthash.h>
#include <utlist.h>

#include "cache/local/index.h"
#include "cache/local/local.h"
#include "cache/lock.h"
#include "protocol/digest.h"

enum { TOO_LARGE_MAX = 64 }; /* remembered */

/* What is known of one entry; the rest is in the index. */
struct record {
    struct policy_item item; /* its first member: policies hand it back */
    char *path;
    enum entry_kind kind;
    bool pinned;                /* out of the policy: it stays until somebody removes it by hand */
    bool leaving;               /* out of the policy: somebody removes it without the lock */
    bool counted;               /* among the bytes that are leaving */
    bool gone;                  /* while leaving: it was forgotten */
    bool expired;               /* a preview's mark */
    bool changed;               /* in the list of changes */
    struct entry *put;          /* to be written whole into the index; NULL: only its access */
    uint64_t seen;              /* the scan that saw its file */
    struct record *prev, *next; /* among the changed */
    UT_hash_handle hh;
};

struct claim {
    struct local *local;
    uint64_t id; /* of what it is going to be; 0: not said */
    uint64_t bytes;
};

struct local {
    struct folder *folder;
    struct index *index; /* used by whoever has index_busy */
    struct lock lock;
    pthread_cond_t changed; /* index_busy, or something has left */
    bool index_busy;

    struct record *by_path;
    struct record *changes;
    char **removed; /* paths, to be taken out of the index */
    size_t removed_count;
    struct policy *policy;
    struct local_limits limits;
    struct local_owner owners[ENTRY_KINDS_COUNT];
    local_published_fn *published, *gone; /* or NULL */
    void *published_ctx, *gone_ctx;

    uint64_t entries[ENTRY_KINDS_COUNT], bytes[ENTRY_KINDS_COUNT];
    uint64_t claimed;
    uint64_t leaving; /* bytes that somebody is removing just now */
    uint64_t frame;   /* of folders and the index */
    uint64_t asked;   /* what the settings say */
    uint64_t limit;   /* at most that, and what others leave of the file system */
    bool crowded;     /* the limit is less than was asked for: others have filled the file system */
    uint64_t evicted, evicted_bytes;
    struct pin *pins;
    uint64_t pinned; /* records */
    uint64_t scan;   /* number of the latest */
    bool scanned;
    bool index_lost;   /* it lacks things that are known here */
    int64_t expired_s; /* local_tick()'s own */
    struct {
        uint64_t id, limit;
    } too_large[TOO_LARGE_MAX];
    size_t too_large_next;
};

/* local.c */
uint64_t path_id(const char *path);
struct record *record_find_locked(struct local *l, const char *path);
struct record *record_add_locked(struct local *l, const struct entry *e);
/* Out of the table and the index; it is out of the policy already. */
void record_drop_locked(struct local *l, struct record *r);
/* Out of all three; when somebody is removing it, then by them. */
void record_forget_locked(struct local *l, struct record *r);
/* Nothing is to be written of it any more. */
void record_clear_change_locked(struct local *l, struct record *r);
/* It is not among the bytes that are leaving any more. */
void record_uncount_locked(struct local *l, struct record *r);
/* To be taken out of the index; takes path. */
void local_note_removed_locked(struct local *l, char *path);

/* Into the policy, or out of it for as long as it is pinned. */
void record_pin_locked(struct local *l, struct record *r, bool pinned);
/* It leaves the policy, or comes back, with a look at whether it is in there at all. */
void record_take_out_locked(struct local *l, struct record *r);
void record_put_in_locked(struct local *l, struct record *r);

/* pins.c */
void pins_load(struct local *l); /* before the entries */
void pins_clear(struct local *l);
bool pins_hold_locked(const struct local *l, const struct entry *e);

/* measure.c */
uint64_t local_total_locked(const struct local *l);
/* All that is neither an entry nor claimed: folders, the index.  Reads the disk. */
void local_measure_frame(struct local *l);
/* The limits depend on the file system, which others fill, too. */
void local_measure_limit(struct local *l);
/* Of the last part of a path. */
bool is_mirror_name(const char *name);

/* write_index.c */
/* At the start: fn for each entry of the index, if it can be had. */
void local_load_index(struct local *l, int (*fn)(void *ctx, const struct entry *e));
/* Who uses the index stands between these two. */
void local_take_index(struct local *l);
void local_give_index(struct local *l);
/* Every row, also those that nothing is known of here; fn keeps others from the index. */
int local_each_row(struct local *l, int (*fn)(void *ctx, const struct entry *e), void *ctx,
                   struct err *err);
/* True when there was something to write. */
bool local_write_index(struct local *l);

/* A list of paths, while the lock is not held. */
struct paths {
    char **items;
    size_t count;
};
void paths_add(struct paths *p, const char *path);
void paths_clear(struct paths *p);

#endif
