/* POST git-upload-pack: access first, then the question, then its answer.
 *
 *     access ─▶ inflate ─▶ parse ─▶ refs? ── refs.h
 *                                   keyed? ─ may this credential have these objects? ─ answers
 *                                   else ─── a round of negotiation, or forwarded as it came
 *
 * Which objects a credential may have (rule 10: upload-pack gives any object by id): those that
 * upstream advertised to it, those that the mirror shows to be reachable from them, those that
 * upstream has handed to it before, and else those that upstream hands to it when asked. */
#ifndef PANNIER_PROXY_FETCH_H
#define PANNIER_PROXY_FETCH_H

#include "protocol/fetch_request.h"
#include "proxy/exchange.h"

/* A handler, with the body kept. */
void fetch_serve(struct exchange *x);
/* Its quick_fn: the same for what needs no one else.  The decision is fresh, the objects were
 * advertised or handed to this credential, and the answer is at hand, whole. */
bool fetch_serve_quickly(struct exchange *x);

/* What the answer to req is kept under.  tags, targets: with include-tag, the annotated tags that
 * upstream shows to who asks, which make a part of the answer. */
void fetch_key(const struct fetch_request *req, const struct key *repo_id,
               const struct oid_list *tags, const struct oid_list *targets, struct key *out);

#endif
