/* Which manifest comes after the one that is there: mine says what this node's mirror has, there
 * what the store has, from this node or another.
 *
 * All that a mirror's tips reach is in its packs.  So who has all tips has everything, in whatever
 * packs, and packs of two mirrors beside each other are a mirror with the tips of both.  Pure
 * functions on memory. */
#ifndef PANNIER_CACHE_SHARED_MANIFEST_MERGE_H
#define PANNIER_CACHE_SHARED_MANIFEST_MERGE_H

#include <stdbool.h>

#include "cache/shared/manifest.h"

enum {
    MERGE_PACKS_MAX = MANIFEST_PACKS_MAX / 2,
    /* A tip that nobody asked for so long keeps nothing: each mirror lets go of it after about the
     * same time (cache.unreachable_ttl), and the manifest must, too. */
    MERGE_TIP_LIVES_S = 14 * 24 * 3600,
};

/* Has there packs that mine lacks, and may they stand beside mine's?  Another node's mirror is
 * about as large as ours, so one and a half times ours is the limit: packs of long ago would pile
 * up, and everyone would have to get them. */
bool manifest_can_keep(const struct manifest *there, const struct manifest *mine);

/* Would the next one be better kept: a bitmap, fewer packs beside the multi-pack index, a
 * commit-graph?  Strictly better, so that nodes that are as good as each other don't replace each
 * other's again and again. */
bool manifest_is_better(const struct manifest *mine, const struct manifest *there, bool keeps);

/* *next is mine, one generation on (there NULL: the first); where it keeps them, with the packs
 * that only there has behind its own, and its tips.  It borrows mine's strings.  To be cleared by
 * manifest_merge_clear(). */
void manifest_merge(const struct manifest *mine, const struct manifest *there, bool keeps,
                    struct manifest *next);
void manifest_merge_clear(struct manifest *next);

#endif
