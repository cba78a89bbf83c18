/* All that this process listens on: for operators, for git clients, and for other nodes.  Sockets
 * may be systemd's; TLS is the clients', and with cluster.tls the other nodes', too.  Main thread.
 *
 * Operators come first, so that they can see that clients are not served yet, and are not among
 * those who are drained here: serve.c sees them off after the last client. */
#ifndef PANNIER_PROXY_LISTENERS_H
#define PANNIER_PROXY_LISTENERS_H

#include "proxy/server.h"
#include "proxy/systemd.h"

struct tls_identity;

struct listeners {
    struct proxy *proxy; /* whose admin, clients and state are set here */
    struct server *clients;
    struct server *peers; /* NULL: other nodes can't follow us */
};

/* What the certificate's files say; NULL where there is no TLS.  -1: they can't be used. */
int listeners_identity(const struct config *c, struct tls_identity **out, struct err *err);

/* -1: an address can't be listened on; nothing is left.  identity is borrowed. */
int listeners_start(struct proxy *p, struct config *c, const struct systemd_sockets *sockets,
                    struct tls_identity *identity, struct listeners *out, struct err *err);

/* For a reload: *identity is what the certificate's files say now, or NULL where there is nothing
 * to change.  -1: they can't be used, and the configuration is to be refused. */
int listeners_prepare(const struct listeners *l, const struct config *loaded,
                      struct tls_identity **identity, struct err *err);
/* Take both over; consumes *identity. */
void listeners_configure(const struct listeners *l, struct config *loaded,
                         struct tls_identity **identity);

size_t listeners_active(const struct listeners *l);
void listeners_drain(const struct listeners *l);
/* As server_wait_idle(), of all. */
bool listeners_wait_idle(const struct listeners *l, uint64_t deadline_ms,
                         const volatile int *stop_waiting);
void listeners_stop(struct listeners *l);

#endif
