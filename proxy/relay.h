/* Passing requests on as they are, keeping nothing: pushes, LFS calls, the dumb protocol, and
 * fetches that this program has no better answer to.  The client's own credential goes along, or
 * pannier's for a client who may have that. */
#ifndef PANNIER_PROXY_RELAY_H
#define PANNIER_PROXY_RELAY_H

#include "protocol/fetch_request.h"
#include "proxy/exchange.h"

/* A handler, with the body streamed: the method, the rest of the path and the body as they came. */
void relay_serve(struct exchange *x);

/* Handler's part: relay a POST git-upload-pack whose body is kept.  req, when not NULL, is what the
 * body says, so that git can be told why if upstream breaks off; body is taken over. */
void relay_fetch(struct exchange *x, const struct fetch_request *req, struct bytes *body);

#endif
