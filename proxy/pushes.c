#include "proxy/pushes.h"

#include "proxy/chores.h"
#include "proxy/decisions.h"
#include "proxy/fleet.h"
#include "proxy/manners/stale.h"
#include "proxy/refs.h"

void pushes_seen(struct proxy *p, const char *name, const struct key *repo_id, const char *reason,
                 enum queue_priority priority)
{
    decisions_forget(p->decisions, repo_id);
    refs_forget(p->refs, repo_id);
    refs_forget_named(p->refs, name);
    /* After refs.c: it has none kept from then on. */
    stale_forget(p->stale, repo_id);
    fleet_tell_update(p->fleet, repo_id, name, reason);
    chores_add_refresh(p->fleet, priority, repo_id, name);
}
