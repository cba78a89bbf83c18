/* How mirrors come about: behind an answer whose pack is closed under reachability, from upstream
 * when a repository turns out to be asked for often, or out of the shared tier.
 *
 * Workers: reads disks; the making itself runs in background workers. */
#ifndef PANNIER_PROXY_MIRRORING_H
#define PANNIER_PROXY_MIRRORING_H

#include "cache/mirror/mirror.h"
#include "protocol/fetch_request.h"
#include "proxy/access.h"
#include "proxy/stream.h"

/* A question about a repository was not answered from its mirror: see to it that there will be one,
 * if it is worth it.  m may be NULL: none is wanted.  a is who asked; whole is the answer being
 * made to req when its pack is closed, so that the mirror can be made of it, or NULL. */
void mirroring_consider(const struct asker *a, struct mirror *m, const struct fetch_request *req,
                        struct answer *whole);

/* Log what went wrong with a mirror, as far as it is of interest. */
void mirroring_warn(const struct asker *a, const char *event, enum folder_part part,
                    const struct err *why);

/* Counts the cold requests of each repository, to know when a mirror is worth its making. */
struct repositories *repositories_new(void);
void repositories_free(struct repositories **r);

#endif
