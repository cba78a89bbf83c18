/* Is it alive (/healthz), and does it serve (/readyz)?  On both listeners, to everybody. */
#ifndef PANNIER_PROXY_HEALTH_H
#define PANNIER_PROXY_HEALTH_H

#include <stdbool.h>
#include <stddef.h>

#include "proxy/exchange.h"
#include "proxy/proxy.h"

/* One line of JSON, yours to free.  Any thread: asks nobody and no disk. */
char *health_describe(const struct proxy *p, size_t *len);

/* {"status":"ready","degraded":[{"part":"shared","reason":"..."}]}, likewise.  *ready: clients are
 * served; what is degraded makes them wait longer, no more. */
char *health_ready(struct proxy *p, bool *ready, size_t *len);

/* In a plan function: true when x asked for either, and was answered. */
bool health_serve(struct exchange *x);

#endif
