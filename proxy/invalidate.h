/* Making a repository's things go away, and telling only the truth about it.
 *
 *     what              goes
 *     REFS              what is remembered of refs, and of who may see what: asked for anew
 *     REF               the same, and answers that are known to be of this ref
 *     OBJECT            the same, the mirror if it has the object or can't tell, and every answer:
 * no pack is opened to see what is in it, and a secret must not stay for that EVERYTHING        all
 * of it
 *
 * What is being made just then must not come back behind it, so whoever keeps something of a
 * repository stands between invalidations_enter() and _leave():
 *
 *     begun = invalidations_now(all)              before the first byte is asked for
 *     ...
 *     if (invalidations_enter(all, &repo_id, begun)) {      false: invalidated since; keep nothing
 *         ... publish
 *         invalidations_leave(all, &repo_id);
 *     }
 *
 * Clients who are being answered get their bytes to the end either way. */
#ifndef PANNIER_PROXY_INVALIDATE_H
#define PANNIER_PROXY_INVALIDATE_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/digest.h"
#include "protocol/oid.h"
#include "proxy/commands.h"
#include "proxy/proxy.h"

/* ---- who keeps something ---- */

struct invalidations;

/* So many repositories that were invalidated are remembered one by one; of older ones no more is
 * known than that one was, and then everything that was begun before it isn't kept. */
enum { INVALIDATIONS_MAX = 1024 };

struct invalidations *invalidations_new(void);
void invalidations_free(struct invalidations **all); /* NULL inside is fine */

/* Any thread; these don't block but for each other. */
uint64_t invalidations_now(struct invalidations *all);
bool invalidations_enter(struct invalidations *all, const struct key *repo_id, uint64_t begun);
void invalidations_leave(struct invalidations *all, const struct key *repo_id);

/* Between these two nobody keeps anything of the repository, and what was begun before the second
 * is never kept.  The first waits for those who are just keeping.  Workers. */
void invalidations_begin(struct invalidations *all, const struct key *repo_id);
void invalidations_end(struct invalidations *all, const struct key *repo_id);

/* ---- invalidating ---- */

enum invalidate_what { INVALIDATE_REFS, INVALIDATE_REF, INVALIDATE_OBJECT, INVALIDATE_EVERYTHING };

struct invalidation {
    struct key repo_id;
    enum invalidate_what what;
    const char *ref;   /* REF: "refs/heads/main" */
    struct oid object; /* OBJECT */
    enum hash_algo algo;
    const char *reason; /* for the log; or NULL */
    const char *who;    /* likewise */
    bool dry_run;
};

/* What went, or would go here. */
struct invalidated {
    struct commands_removed removed;
    bool mirror; /* it is among them */
};

/* On this node and in the shared tier.  The one place where it is done: whatever makes all nodes do
 * it calls this on each.  0: it is true.  -1: some of it may be there still.  Workers: blocks. */
int invalidate_here(struct proxy *p, const struct invalidation *what, struct invalidated *out,
                    struct err *err);

#endif
