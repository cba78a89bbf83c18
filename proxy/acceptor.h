/* A listening socket and its thread: each connection that comes goes to the taker with the fewest.
 *
 *     acceptor_listen(host, port, &fd, &err)     or a socket of systemd's
 *     acceptor_new(fd, &config)
 *     acceptor_start(a)
 *     acceptor_left(a, taker)                    each time that a connection has ended
 *     acceptor_stop(a)                           nobody comes any more
 *     acceptor_free(&a)
 *
 * Takers are the threads that serve.  Where each of them accepts by itself, who is awake first
 * takes what lies there, and of 64 long transfers one of two threads had 40 (docs/performance.md).
 *
 * At the limit nothing is accepted: who comes waits in the kernel's queue until somebody leaves. */
#ifndef PANNIER_PROXY_ACCEPTOR_H
#define PANNIER_PROXY_ACCEPTOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "protocol/err.h"

enum { ACCEPTOR_ADDRESS_SIZE = 128 };

struct acceptor;

struct acceptor_config {
    unsigned takers; /* at least 1 */
    unsigned limit;  /* connections of all takers at once; at least 1 */
    /* fd is taker's from here on, also when it fails (false), and then it is closed.  fd doesn't
     * block and isn't inherited.  In the acceptor's thread: must not block. */
    bool (*give)(void *ctx, unsigned taker, int fd, const struct sockaddr *from, socklen_t len);
    void *ctx;
};

/* port 0: whichever is free.  0: *fd is yours.  -1: ERR_INPUT. */
int acceptor_listen(const char *host, uint16_t port, int *fd, struct err *err);

/* listen_fd, which doesn't block, is the acceptor's from here on. */
struct acceptor *acceptor_new(int listen_fd, const struct acceptor_config *config);
void acceptor_start(struct acceptor *a);
/* One of taker's connections has ended.  Any thread. */
void acceptor_left(struct acceptor *a, unsigned taker);
/* Returns when no more connections are given; the socket is closed by then, as the kernel would go
 * on to accept for nobody.  Again, never started and NULL are fine; one thread. */
void acceptor_stop(struct acceptor *a);
void acceptor_free(struct acceptor **a); /* stops it first */

/* "HOST:PORT" as it is listened on, with the port that the kernel chose for port 0. */
const char *acceptor_address(const struct acceptor *a);

#endif
