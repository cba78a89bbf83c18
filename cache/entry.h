/* What is known about one thing that is kept: an answer or a mirror.
 *
 * Written into the tail of an answer's file, so that an index can always be rebuilt from the files;
 * the fields are those of the index. */
#ifndef PANNIER_CACHE_ENTRY_H
#define PANNIER_CACHE_ENTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/bytes.h"
#include "protocol/err.h"

enum entry_kind { ENTRY_ANSWER, ENTRY_MIRROR };
enum { ENTRY_KINDS_COUNT = ENTRY_MIRROR + 1 };
enum entry_tier { TIER_LOCAL, TIER_SHARED };

struct entry {
    enum entry_kind kind;
    char *repo_id;        /* hex */
    char *repo;           /* as clients write it: "<upstream>/<path>" */
    char *url;            /* of the repository upstream, without credentials */
    char *ref;            /* branch or ref that it was asked for, where known; or NULL */
    char *commit;         /* hex of the (first) object wanted; or NULL */
    uint64_t size;        /* bytes as sent to clients */
    uint64_t stored_size; /* bytes on disk */
    int64_t created;      /* seconds since 1970 */
    int64_t accessed;
    uint64_t accesses;
    enum entry_tier tier;
    char *path; /* relative to the tier's root */
    char *node; /* NULL: this one */
    /* Shared tier: the last event that who put it there had applied (cutoffs.h); NULL: none. */
    char *applied;

    int64_t note_offset; /* answers: where a line for the person may be put in, or -1 */
    uint32_t objects;    /* answers: in its pack */
    bool packed;         /* answers: lies as a zstd frame; only the file tells, not the index */
};

void entry_clear(struct entry *e);
/* "answer", "mirror". */
const char *entry_kind_name(enum entry_kind kind);
void entry_copy(const struct entry *from, struct entry *to); /* to: uninitialised */

/* False for a name that is not UTF-8: no record can hold it, so nothing is kept of it. */
bool entry_can_name(const char *repo);
/* One line of JSON with what does not change once an entry is whole (no access times). */
int entry_write(const struct entry *e, struct bytes *out);
/* -1 (ERR_CORRUPT) when it is not what entry_write() makes. */
int entry_read(const char *json, size_t len, struct entry *out, struct err *err);

#endif
