/* The answers of this node, by key: those being filled, those whole in memory's reach, and those
 * on disk.
 *
 *     a = answers_join(all, &key, &leads)     one caller leads, the others follow
 *     leader, in a worker:
 *         answers_find_local(all, &key, a)    true: it was on disk, whole; done
 *         answers_begin(all, &key, a)         its file in incoming/
 *         answer_append()..., then one of
 *         answers_keep(all, &key, a, &entry)  end, and publish under the key
 *         answers_end(all, &key, a)           end, keep nothing
 *         answers_fail(all, &key, a, &why)    give up
 *
 * A key with a FILLING answer always has its leader; the next to ask after a failure leads anew. */
#ifndef PANNIER_CACHE_ANSWERS_H
#define PANNIER_CACHE_ANSWERS_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/answer.h"
#include "cache/compress.h"
#include "cache/folder.h"
#include "cache/local/local.h"

struct answers;

/* Where it pays (compression), what is kept lies packed on the disk: a published answer goes on
 * with the file that it was made in until it is closed, and one that is found packed is unpacked
 * into a file without a name, so readers have it by sendfile in any case. */

enum {
    /* Whole answers that stay open while nobody reads them; each costs a descriptor. */
    ANSWERS_IDLE_OPEN_MAX = 256,
    /* Of those, such that lie packed and are open unpacked; each takes its whole size on the disk,
     * which isn't to be had by evicting other things. */
    ANSWERS_IDLE_APART_MAX = 16,
    /* Files whose bytes were checked since the start, remembered so as not to check them
     * at each use; about 150 bytes each. */
    ANSWERS_VERIFIED_MAX = 65536,
};

/* Is the owner of local's answers from here on: removes them when room is needed. */
struct answers *answers_new(struct folder *folder, struct local *local,
                            enum compression compression);
/* Whoever reads a file to check it gives up (ERR_CANCELLED), for the end of the program. */
void answers_stop(struct answers *all);
void answers_free(struct answers **all); /* nobody may be filling any more */

/* Any thread.  The reference is yours. */
struct answer *answers_join(struct answers *all, const struct key *key, bool *leads);
/* The answer if it is at hand, filling or whole, without ever leading; NULL otherwise. */
struct answer *answers_peek(struct answers *all, const struct key *key);

/* The same, if it is whole and kept, and counted as used like one that is joined.  Only a glance at
 * its file: what an HTTP thread may do. */
struct answer *answers_at_hand(struct answers *all, const struct key *key);

/* Is there anything under the key, at hand or on disk?  A glance; looks at the disk. */
bool answers_have(struct answers *all, const struct key *key);

/* Workers.  Files are checked against their digest on their first use, and whenever they have
 * changed since; damaged ones are removed and counted. */
bool answers_find_local(struct answers *all, const struct key *key, struct answer *a);
/* key: what it is to be kept under; NULL when it isn't to be kept. */
void answers_begin(struct answers *all, const struct key *key, struct answer *a);
/* Readers come to the end at once; publishing follows.  Trouble with the disk is reported to the
 * folder, not to the caller: the answer was right, it is only not kept.  Nor is what was let go of
 * meanwhile.  Returns true when it is kept. */
bool answers_keep(struct answers *all, const struct key *key, struct answer *a,
                  struct entry *entry);
void answers_end(struct answers *all, const struct key *key, struct answer *a);
void answers_fail(struct answers *all, const struct key *key, struct answer *a,
                  const struct err *why);

/* What is being filled just now is not found any more, and not kept: who follows it goes on, who
 * asks from here on has it made anew.  What is just being published is an entry when this returns.
 * Workers. */
void answers_let_go(struct answers *all);

/* Reads the file at an entry's path against its digest.  0: it is what was written, or is gone.
 * -1: ERR_CORRUPT, or ERR_STORAGE when it can't be told. */
int answers_verify(struct answers *all, const char *path, struct err *err);

struct answers_counts {
    uint64_t damaged; /* files dropped because they were not what was written */
    uint64_t filling; /* now */
    uint64_t kept;    /* published since the start */
};
void answers_count(struct answers *all, struct answers_counts *out);

#endif
