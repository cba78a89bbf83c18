/* One repository made ready before anybody asks: its mirror brought to where upstream is, and the
 * answers made that jobs will ask for.
 *
 * These are questions as git 2.39 and newer puts them over protocol 2, to the letter, since an
 * answer is found by its question (docs/operating.md has them for people):
 *
 *     clone --depth D [--branch B]      deepen D, include-tag, B's tip    for each branch
 *     fetch --depth D of B or its tip   deepen D, B's tip                 for each branch
 *     clone                             HEAD, all branches and tags       once
 *
 * What is there already costs a look.  They go the same way as a client's miss (proxy/fill.h), with
 * nobody waiting for them, so other nodes and the shared tier take part as ever.
 *
 * Upstream is asked with a credential of pannier's own where it has one, and else without any.
 * Nobody is shown anything of this before upstream has said yes to him (proxy/access.h). */
#ifndef PANNIER_PROXY_WARM_AHEAD_H
#define PANNIER_PROXY_WARM_AHEAD_H

#include "proxy/mirroring.h"

enum { AHEAD_TEXT_MAX = 128 };

struct ahead_wish {
    const char *name;      /* "<upstream>/<path>" */
    char *const *branches; /* none: the one that HEAD is */
    size_t branch_count;
    uint32_t depth; /* at least 1 */
};

struct ahead_made {
    bool mirror; /* it has one; else the repository can't, or mirrors are off */
    struct mirror_refreshed refreshed;
    size_t answers;            /* that can be had now */
    size_t there;              /* of them, those that could before */
    char text[AHEAD_TEXT_MAX]; /* "mirror made, 3 answers" */
};

/* 0, or -1: what of it failed first; the rest is made nevertheless as far as it can be, and *out
 * says what is there.  A worker of the queue's: blocks for as long as upstream and git take. */
int ahead_make(struct proxy *p, const struct config *config, const struct ahead_wish *wish,
               struct ahead_made *out, struct err *err);

/* What became of the mirror: mirroring_word(), or "none". */
const char *ahead_mirror_word(const struct ahead_made *made);

#endif
