/* This node among others, as requests meet it: what of cache/cluster/ the proxy uses, and what it
 * does where that is away.
 *
 *     fleet_new(proxy, config, &f, &err)    always there; without redis.url this node is alone
 *     fleet_start(f)                        events come from here on
 *     fleet_stop(f)                         this node leaves; who waits gives up
 *     fleet_free(&f)                        when nobody asks any more
 *
 * Redis away is slower and nothing else: claims and leases are not to be had, and whoever asks goes
 * on without. */
#ifndef PANNIER_PROXY_FLEET_H
#define PANNIER_PROXY_FLEET_H

#include "cache/cluster/cluster.h"
#include "cache/cluster/filling.h"
#include "proxy/proxy.h"

struct fleet;

/* -1: ERR_INPUT, one sentence about a setting. */
int fleet_new(struct proxy *p, const struct config *c, struct fleet **out, struct err *err);
void fleet_start(struct fleet *f);
void fleet_stop(struct fleet *f);
void fleet_free(struct fleet **f);

struct cluster *fleet_cluster(struct fleet *f);

/* May what was kept be served?  False while events are being caught up with, and, with
 * cluster.when_away: pass, while Redis is away: then upstream makes every answer.  Any thread,
 * HTTP's too. */
bool fleet_may_serve(struct fleet *f, const struct config *c);

/* ---- who makes which answer; worker threads ---- */

/* Where key's answer is.  SOUGHT_NOTHING: nobody knows, or can be asked; make it.  SOUGHT_SHARED:
 * as the index says.  SOUGHT_THEIRS: follow found->filling, or when that fails: fleet_disclaim()
 * it, and seek again.  SOUGHT_OURS: make it, and say when that is over, fleet_unclaim(); or take it
 * from found->holder, if there is one, first. */
enum sought fleet_seek(struct fleet *f, const struct key *key, enum seek_mode mode,
                       struct seek_found *found);
/* kept: others may still follow it here, until the shared tier has it. */
void fleet_unclaim(struct fleet *f, const struct filling *ours, bool kept);
/* Whoever had it doesn't answer. */
void fleet_disclaim(struct fleet *f, const struct filling *theirs);
/* Does another node make, or have, key's answer, or has the shared tier it, as far as is known? */
bool fleet_knows_of(struct fleet *f, const struct key *key);

/* ---- one at a time ---- */

/* The lease on a repository, for who changes what all have of it; NULL: none is to be had, go on
 * without.  Waits a little for another node; *theirs (may be NULL): it is still at it.  Worker
 * threads. */
struct lease *fleet_lease(struct fleet *f, const struct key *repo_id, bool *theirs);
bool fleet_is_alone(struct fleet *f);

/* ---- what all know ---- */

/* e lies in the shared tier, under key; generation: of a mirror, else 0.  A shared_listener's. */
void fleet_on_put(void *fleet, const struct key *key, const struct entry *e, uint64_t generation);
/* As a shared_listener's: what lay there was removed. */
void fleet_on_removed(void *fleet, enum entry_kind kind, const struct key *key);
/* It was used from there; what Redis has lost is told again.  These do not block. */
void fleet_note_use(struct fleet *f, const struct key *key, const struct entry *e);
/* It lies on the disk here, for others to take. */
void fleet_note_kept(struct fleet *f, const struct key *key, const struct entry *e);
/* It doesn't lie on holder's disk any more. */
void fleet_note_left(struct fleet *f, const struct key *key, const char *holder);

/* What is known of a repository's mirror in the shared tier, for people.  0: *out is yours to
 * clear. -1: ERR_NOT_FOUND; or as redis_ask().  Worker threads. */
int fleet_find_mirror(struct fleet *f, const struct key *repo_id, struct entry *out,
                      struct err *err);
/* The newest generation of a repository's mirror in the shared tier; 0: not known.  Worker threads.
 */
uint64_t fleet_generation(struct fleet *f, const struct key *repo_id);
void fleet_note_generation(struct fleet *f, const struct key *repo_id, uint64_t generation);

/* ---- telling ---- */

/* Jobs that are for this node alone, as nobody else has what they are about: bringing its mirrors
 * forward, where each has its own.  NULL: where there is a bucket, or no other node, any node does
 * (cluster_queue()).  Never blocks. */
struct queue *fleet_own_jobs(struct fleet *f);

/* Somebody has pushed: what other nodes know of the refs is old, and so are their own mirrors.
 * name: "<upstream>/<path>"; reason: how it came to be known.  Worker threads. */
void fleet_tell_update(struct fleet *f, const struct key *repo_id, const char *name,
                       const char *reason);

/* What is not to be served any more, anywhere: goes from the shared tier and from all nodes. */
struct fleet_invalidation {
    enum event_scope scope;
    const char *repo;   /* "<upstream>/<path>"; "" with SCOPE_EVERYTHING */
    const char *name;   /* of the ref, or the object's id; "" otherwise */
    const char *reason; /* the operator's; may be "" */
    struct key repo_id;
    bool unpin; /* SCOPE_REPOSITORY: also its pins, as far as they aren't newer */
};
struct fleet_invalidated {
    uint64_t shared_objects, shared_bytes;
    struct node_list late; /* nodes that have not applied it; yours to clear */
    bool acknowledged;     /* no node serves it any more */
};
/* 0: it has been told, and *out says how far it has come.  -1: it could not be told (Redis is
 * away); on this node and in the shared tier it is gone nevertheless, as far as that went.  Worker
 * threads: waits for all nodes, a few seconds at most. */
int fleet_invalidate(struct fleet *f, const struct fleet_invalidation *what,
                     struct fleet_invalidated *out, struct err *err);

#endif
