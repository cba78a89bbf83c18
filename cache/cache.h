/* Everything that is kept on this node, in one piece: what a server opens at its start, and a
 * command when no server has the folder. */
#ifndef PANNIER_CACHE_CACHE_H
#define PANNIER_CACHE_CACHE_H

#include "cache/answers.h"
#include "cache/compress.h"
#include "cache/folder.h"
#include "cache/local/local.h"
#include "cache/mirror/mirror.h"
#include "cache/process.h"

struct cache_options {
    struct local_limits limits;
    enum compression compression;
    size_t git_processes;
    int64_t unreachable_ttl_s;        /* what no tip of a mirror reaches is kept for so long */
    uint64_t maintenance_memory;      /* bytes for one repack */
    unsigned maintenance_threads;     /* mirrors maintained at once; 0: none, ever */
    uint64_t maintenance_interval_ms; /* between two looks at which mirrors need it */
    int64_t verify_interval_s;        /* each entry is read again about so often; 0: never */
};

struct shared;
struct cache {
    struct folder *folder;
    struct processes *processes;
    struct local *local;
    struct answers *answers;
    struct mirrors *mirrors;
    atomic_uint_fast64_t epoch; /* invalidate.h's */
    struct shared *shared; /* what nodes have in common (shared.h), which whoever serves opens and
                            * closes; NULL: there is none */
};

/* -1: as folder_open() and processes_new(); *out is to be closed nevertheless. */
int cache_open(const char *data, const struct folder_listener *listener,
               const struct cache_options *options, struct cache *out, struct err *err);
/* Ends git programs and whoever reads files to check them, at once; nothing of this starts anew. */
void cache_stop(struct cache *c);
void cache_close(struct cache *c); /* nobody may be using it any more */

/* ---- is all of it what was written? ---- */

struct cache_finding {
    const struct entry *entry;
    const struct err *why;
    bool repaired; /* dropped, to be made again when it is asked for */
};
struct cache_verify {
    bool repair;
    void (*progress)(void *ctx, uint64_t done, uint64_t total); /* bytes */
    void (*finding)(void *ctx, const struct cache_finding *finding);
    void *ctx;
    const atomic_bool *stop; /* may be NULL */
};
/* Reads every answer against its digest and runs `git fsck --connectivity-only` on every mirror.
 * Serving goes on; what comes meanwhile may be seen or not.  progress() is called before the first
 * entry, after each, and at the end with all that was read as total.  One who repairs removes what
 * is damaged, and nothing that only can't be read now.
 * 0: all was looked at, or stop said so; finding() tells what was found.  -1: as local_each(). */
int cache_verify(struct cache *c, const struct cache_verify *how, struct err *err);
/* One entry; 0 when it is what was written (or is gone by now). */
int cache_verify_entry(struct cache *c, const struct entry *e, struct err *err);

#endif
