/* What the files of upkeep share: upkeep.c (the copy, git's work), due.c (is there something to
 * do?), reached.c (which tips stay), adopt.c (the switch). */
#ifndef PANNIER_CACHE_MIRROR_UPKEEP_H
#define PANNIER_CACHE_MIRROR_UPKEEP_H

#include <sys/stat.h>

#include "cache/mirror/internal.h"

struct upkeep {
    struct mirror *mirror;
    const struct mirror_upkeep_options *options;
    struct stat folder; /* of the mirror that was copied */
    char *copy;
    struct pack_list before, after;
    struct oid_list refs; /* of then */
    struct tip_list tips; /* these, and what was asked for, and when */
    bool *redundant;      /* tips that others reach, which were asked for as lately */
    struct oid_list kept; /* tips of the copy, and of the mirror to be */
    bool full;            /* something that no tip reaches becomes cruft, or goes */
    bool cruft_goes;      /* then no tip goes for its age */
    struct claim *claim;
};

/* ---- upkeep.c ---- */

typedef void line_fn(void *ctx, char *line);

struct program {
    const char *const *args;
    const char *input; /* "" for none */
    line_fn *line;     /* NULL: what it says is of no interest */
    void *ctx;
};

/* Run it in the background; ends early when told to stop (ERR_CANCELLED). */
int upkeep_run(struct upkeep *u, const struct program *program, struct err *err);
/* Wait for the one who writes now, but not when told to stop. */
int upkeep_write_begin(struct upkeep *u, struct err *err);
/* All files of a pack of the repository at path from go to the one at path to, as hard links. */
int link_pack(const char *from, const char *to, const char *name, struct err *err);
/* The bitmap of the list's multi-pack index, where there is one. */
int link_bitmap(const char *from, const char *to, const struct pack_list *list, struct err *err);

/* ---- due.c ---- */

/* Is there something for git to do? */
bool upkeep_needs_git(struct mirror *m, const struct pack_list *list,
                      const struct mirror_upkeep_options *options);
/* What was last asked for, or became cruft, before then may go.  with_slack: is worth going for. */
int64_t expired_before(const struct mirror_upkeep_options *options, bool with_slack);
/* The latest stay in any case: a mirror without tips would be nothing. */
int64_t latest_wanted(const struct tip_list *tips);
/* Is it worth while to drop tips for their age?  Those that are redundant (may be NULL) don't
 * count. */
bool tips_expired(const struct tip_list *tips, const bool *redundant,
                  const struct mirror_upkeep_options *options);
/* Is it worth while to look for cruft of the packs that is over its time? */
bool cruft_expired(const char *path, const struct pack_list *list,
                   const struct mirror_upkeep_options *options);
bool has_bitmap(const struct mirror *m, const struct pack_list *list);

/* ---- reached.c ---- */

/* Sets u->kept from u->tips: those that no other reaches that was asked for as lately, and that are
 * not over their time; u->full, and u->cruft_goes. */
int upkeep_choose_tips(struct upkeep *u, struct err *err);

/* ---- adopt.c ---- */

/* Make the mirror what git has made of the copy. */
int upkeep_adopt(struct upkeep *u, struct err *err);

#endif
