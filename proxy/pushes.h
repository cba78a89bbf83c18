/* Somebody has pushed to upstream, through this node or past all of them. */
#ifndef PANNIER_PROXY_PUSHES_H
#define PANNIER_PROXY_PUSHES_H

#include "cache/cluster/queue.h"
#include "proxy/proxy.h"

/* What is known of the repository's refs is worth nothing from here on: it is forgotten here at
 * once, and on the other nodes as soon as they hear of it; and its mirror, if there is one, is
 * brought forward: by whichever node is free, or, where nodes have no bucket in common, on each
 * that has one.  Twice does no harm.  name: "<upstream>/<path>";
 * reason: how it came to be known, for the other nodes.  Worker threads. */
void pushes_seen(struct proxy *p, const char *name, const struct key *repo_id, const char *reason,
                 enum queue_priority priority);

#endif
