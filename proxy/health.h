/* What GET /healthz says: alive, and what is degraded. */
#ifndef PANNIER_PROXY_HEALTH_H
#define PANNIER_PROXY_HEALTH_H

#include <stddef.h>

#include "proxy/proxy.h"

/* A line of JSON; yours to free.  Any thread, HTTP's too. */
char *health_describe(const struct proxy *p, size_t *len);

#endif
