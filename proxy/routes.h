/* Which request of a git client goes where. */
#ifndef PANNIER_PROXY_ROUTES_H
#define PANNIER_PROXY_ROUTES_H

#include "proxy/server.h"

/* HTTP threads; a plan_fn. */
struct plan routes_plan(struct exchange *x);

#endif
