/* What the parts of the program know of themselves, for /metrics and for people. */
#ifndef PANNIER_PROXY_COLLECT_H
#define PANNIER_PROXY_COLLECT_H

#include "protocol/bytes.h"
#include "proxy/config.h"
#include "proxy/proxy.h"

/* All metrics, appended to out.  Reads /proc: a worker. */
void collect_metrics(struct proxy *p, const struct config *config, struct bytes *out);

#endif
