/* What was put into the object store too late: for each repository, the newest invalidation that is
 * known here.
 *
 * An upload may end after an invalidation that it began before: its node was cut off, or has died,
 * or the store took its time.  No removal can meet what isn't there yet.  So whoever puts something
 * says with it which event he had applied when he began (event.h; before he looked at his disk),
 * and whoever gets it refuses what was put by one who had not applied the newest that is about it.
 * Events have one order on all nodes.
 *
 * Any thread; never blocks on I/O. */
#ifndef PANNIER_CACHE_SHARED_CUTOFFS_H
#define PANNIER_CACHE_SHARED_CUTOFFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/cluster/event.h"
#include "protocol/digest.h"

enum {
    /* Repositories, some hundred bytes each.  Of more the eighth that was invalidated longest ago
     * is forgotten, and what was put before those counts as too late, whatever it is. */
    CUTOFFS_MAX = 16384,
};

struct cutoffs;

struct cutoffs *cutoffs_new(void);
void cutoffs_free(struct cutoffs **c);

/* repo_id NULL: of all repositories.  id: of the event. */
void cutoffs_note(struct cutoffs *c, const struct key *repo_id, const char *id);
/* Was it put too late?  applied: what who put it had applied; NULL, "": nothing. */
bool cutoffs_refuse(struct cutoffs *c, const struct key *repo_id, const char *applied);
/* What must have been applied for cutoffs_refuse() to let it pass; "0-0": nothing. */
void cutoffs_newest(struct cutoffs *c, const struct key *repo_id, char out[EVENT_ID_SIZE]);

struct cutoff_seen {
    bool all; /* of all repositories; otherwise: */
    struct key repo_id;
    uint64_t ms; /* when it was invalidated, by the clock of who counted it */
};
/* Invalidations that are newer than what was applied here.  Returns how many there are; room of
 * them, at most, are in out. */
size_t cutoffs_behind(struct cutoffs *c, const char *applied, struct cutoff_seen *out, size_t room);

#endif
