/* How mirrors come about: behind an answer whose pack is closed under reachability, from upstream
 * when a repository turns out to be asked for often, or out of the shared tier.
 *
 * Workers: reads disks; the making itself runs in background workers. */
#ifndef PANNIER_PROXY_MIRRORING_H
#define PANNIER_PROXY_MIRRORING_H

#include "cache/mirror/mirror.h"
#include "cache/shared/shared_mirror.h"
#include "protocol/fetch_request.h"
#include "proxy/access.h"
#include "proxy/stream.h"

/* A question about a repository was not answered from its mirror: see to it that there will be one,
 * if it is worth it, or if the shared tier has it.  m may be NULL: none is wanted.  a is who asked;
 * whole is the answer being made to req when its pack is closed, so that the mirror can be made of
 * it, or NULL. */
void mirroring_consider(const struct asker *a, struct mirror *m, const struct fetch_request *req,
                        struct answer *whole);

/* A question was asked that a mirror could have answered, m (or NULL) being none: have it made in
 * the background if the shared tier has it. */
void mirroring_want(const struct asker *a, struct mirror *m);

/* Bring a repository's mirror to where upstream's branches and tags are; make it, or have it from
 * the shared tier, if there is none; for those who operate pannier.  name: "<upstream>/<path>".
 * Waits for whoever writes to it.  -1: ERR_CONFLICT, mirrors are off, or it can't have one;
 * ERR_BUSY, another node is at it; ERR_DENIED; ERR_STORAGE, which the folder has been
 * told of; or as asker_init_for_program(), access_list_refs() and mirror_intake_commit().  Worker
 * threads. */
struct mirror_refreshed {
    bool restored;  /* there was none here, but in the shared tier */
    bool made;      /* there was none */
    size_t tips;    /* that upstream shows */
    size_t missing; /* of them, those that were not here */
};
int mirroring_refresh(struct proxy *p, const struct config *config, const char *name,
                      struct mirror_refreshed *out, struct err *err);

/* The same as a, who has more to ask: fn is told upstream's refs by name, HEAD with them, as
 * access_list_names() does it.  All were told when out->tips isn't 0, whatever became of the
 * mirror. */
int mirroring_refresh_as(const struct asker *a, refs_ref_fn *fn, void *ctx,
                         struct mirror_refreshed *out, struct err *err);

/* As mirroring_refresh(), but makes none: -1, ERR_NOT_FOUND, there is neither one here nor in the
 * shared tier. */
int mirroring_refresh_present(struct proxy *p, const struct config *config, const char *name,
                              struct mirror_refreshed *out, struct err *err);
/* "restored", "made", "refreshed", "unchanged" */
const char *mirroring_word(const struct mirror_refreshed *r);

/* The mirror of a's repository, whether it is ready or not; a reference, yours.  NULL: it can't
 * have one. */
struct mirror *mirroring_of(const struct asker *a);

/* Is a look into the shared tier for a's mirror worth it?  A glance. */
bool mirroring_may_restore(const struct asker *a);
/* Make m from what the shared tier has, unless it is ready; between mirror_write_begin() and
 * _end(). tick: as shared_restore()'s.  False: it isn't there, which is logged where it is of
 * interest. */
bool mirroring_restore(const struct asker *a, struct mirror *m, shared_mirror_tick_fn *tick,
                       void *ctx);

/* Bring m, which is ready, to where the shared tier's is, if that is newer: what upstream would be
 * asked for another node may have fetched already.  The index tells whether it is newer, so most
 * often the shared tier needn't be asked; between mirror_write_begin() and _end().  tick: as
 * shared_catch_up()'s. */
void mirroring_catch_up(const struct asker *a, struct mirror *m, shared_mirror_tick_fn *tick,
                        void *ctx);

/* Log what went wrong with a mirror, as far as it is of interest. */
void mirroring_warn(const struct asker *a, const char *event, enum folder_part part,
                    const struct err *why);

/* Counts the cold requests of each repository, to know when a mirror is worth its making. */
struct repositories *repositories_new(void);
void repositories_free(struct repositories **r);

#endif
