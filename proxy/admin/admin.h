/* The admin listener: metrics, the API, health, for operators.
 *
 *     admin_start(proxy, config, &a, &err)      a is NULL where it is off
 *     admin_configure(a, config)                on reload
 *     admin_drain(a, deadline_ms)               no new connections; true: nobody is there any more
 *     admin_stop(&a)
 *
 * Its handlers run in workers of its own, so that they neither block HTTP threads nor take what
 * clients need.  It answers to the end, also while clients are being seen off: /readyz says so. */
#ifndef PANNIER_PROXY_ADMIN_ADMIN_H
#define PANNIER_PROXY_ADMIN_ADMIN_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/err.h"
#include "proxy/config.h"
#include "proxy/exchange.h"
#include "proxy/proxy.h"

struct admin;

/* socket: one that listens already, such as systemd's, in place of admin.listen's; 0: none.  -1:
 * ERR_INPUT, the address can't be listened on, or the tokens file is wrong. */
int admin_start(struct proxy *p, struct config *c, int socket, struct admin **out, struct err *err);
/* NULL is fine for all of these. */
void admin_configure(struct admin *a, struct config *c);
bool admin_drain(struct admin *a, uint64_t deadline_ms, const volatile int *stop_waiting);
void admin_stop(struct admin **a);
/* "HOST:PORT"; NULL: off. */
const char *admin_address(struct admin *a);

#endif
