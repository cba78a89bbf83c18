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
 * repository stands between purges_enter() and _leave():
 *
 *     begun = purges_now(all)              before the first byte is asked for
 *     ...
 *     if (purges_enter(all, &repo_id, begun)) {      false: invalidated since; keep nothing
 *         ... publish
 *         purges_leave(all, &repo_id);
 *     }
 *
 * Clients who are being answered get their bytes to the end either way. */
#ifndef PANNIER_PROXY_PURGE_H
#define PANNIER_PROXY_PURGE_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/digest.h"
#include "protocol/oid.h"
#include "proxy/commands.h"
#include "proxy/proxy.h"

/* ---- who keeps something ---- */

struct purges;

/* So many repositories that were invalidated are remembered one by one; of older ones no more is
 * known than that one was, and then everything that was begun before it isn't kept. */
enum { PURGES_MAX = 1024 };

struct purges *purges_new(void);
void purges_free(struct purges **all); /* NULL inside is fine */

/* Any thread; these don't block but for each other. */
uint64_t purges_now(struct purges *all);
bool purges_enter(struct purges *all, const struct key *repo_id, uint64_t begun);
void purges_leave(struct purges *all, const struct key *repo_id);

/* Between these two nobody keeps anything of the repository, and what was begun before the second
 * is never kept.  The first waits for those who are just keeping.  Workers. */
void purges_begin(struct purges *all, const struct key *repo_id);
void purges_end(struct purges *all, const struct key *repo_id);

/* ---- invalidating ---- */

enum purge_what { PURGE_REFS, PURGE_REF, PURGE_OBJECT, PURGE_EVERYTHING };

struct purge {
    struct key repo_id;
    enum purge_what what;
    const char *ref;   /* REF: "refs/heads/main" */
    struct oid object; /* OBJECT */
    enum hash_algo algo;
    const char *reason; /* for the log; or NULL */
    const char *who;    /* likewise */
    bool dry_run;
};

/* What went, or would go here. */
struct purged {
    struct commands_removed removed;
    bool mirror; /* it is among them */
};

/* On this node and in the shared tier.  The one place where it is done: whatever makes all nodes do
 * it calls this on each.  0: it is true.  -1: some of it may be there still.  Workers: blocks. */
int purge_here(struct proxy *p, const struct purge *what, struct purged *out, struct err *err);

#endif
