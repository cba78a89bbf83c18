/* The end of each request of a client, counted. */
#ifndef PANNIER_PROXY_COUNT_H
#define PANNIER_PROXY_COUNT_H

#include "proxy/server.h"

/* For struct server_listener: logs it, too. */
void count_request(const struct exchange *x, const struct exchange_end *end);

#endif
