/* Files of mirrors that no manifest names: of uploads that broke off, or that newer packs replaced.
 *
 *     orphans_begin(o)
 *     orphans_tidy(o, store, mirror, ...)   for each mirror that a listing showed
 *     orphans_end(o)                        whether or not all were looked at
 *
 * An upload puts files first and the manifest last, so a file goes only after it was put ORPHAN_S
 * ago and has been seen here without a name for as long.  That is remembered in memory: after a
 * start, or when another node has taken over, it takes an hour anew.  An upload that is under way
 * for longer than that may lose its first files; whoever restores it then finds them missing and
 * removes the manifest, so that it is put anew.
 *
 * Reading a manifest costs a request and up to 32 MiB, so a mirror whose listing is as it was when
 * there was nothing to do is not looked at again.
 *
 * One thread at a time; blocks on the network. */
#ifndef PANNIER_CACHE_SHARED_KEEPER_ORPHANS_H
#define PANNIER_CACHE_SHARED_KEEPER_ORPHANS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/shared/object_store.h"
#include "cache/shared/shared_remove.h"
#include "protocol/digest.h"

enum { ORPHAN_S = 3600 };

/* As they were listed. */
struct listed_file {
    struct key sha256;
    uint64_t size;
    int64_t modified;
    bool packed; /* ".zst" */
};
struct listed_mirror {
    struct key repo_id;
    size_t first, count; /* of its files, in a list of them all */
    uint64_t bytes;      /* all its objects */
    uint64_t objects;
    int64_t modified; /* the latest */
    bool manifest;    /* has one */
    struct object_info manifest_info;
};

struct orphans;

struct orphans *orphans_new(void);
void orphans_free(struct orphans **o);

void orphans_begin(struct orphans *o);
/* files: the mirror's, m->count of them.  What went is added to *out.  A manifest that can't be
 * read keeps its files.  -1: the store fails, or *stop. */
int orphans_tidy(struct orphans *o, struct object_store *store, const struct listed_mirror *m,
                 const struct listed_file *files, int64_t now_s, const atomic_bool *stop,
                 struct shared_removed *out, struct err *err);
/* What was not seen without a name in this round is forgotten: it has a name, or is gone, or nobody
 * looked, and then an hour more costs less than a file that had a name in between. */
void orphans_end(struct orphans *o);

#endif
