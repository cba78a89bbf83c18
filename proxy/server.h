/* The HTTP front: accepts, reads, hands requests to workers, and sends what they decided.  What it
 * is made of, and where libmicrohttpd is at home, is in server_part.h.
 *
 * Its threads (epoll, one per core) never block: they read from the local disk, memory and sockets.
 */
#ifndef PANNIER_PROXY_SERVER_H
#define PANNIER_PROXY_SERVER_H

#include "proxy/exchange.h"
#include "proxy/tls.h"

struct server;

/* One address and what is served there. */
struct server_listener {
    const char *host;     /* borrowed for the call */
    uint16_t port;        /* 0: whichever is free */
    unsigned threads;     /* that speak HTTP; 0: as limits.http_threads says */
    unsigned connections; /* at once; 0: as limits.connections says */
    plan_fn *plan;
    struct tls_identity *tls; /* a reference of its own is taken; NULL: plain HTTP */
    /* One that listens already, such as systemd's; then host and port are not used.  The server's
     * from the call on when that succeeds.  0: none. */
    int socket;
    /* Told of the end of each exchange that had a plan, in an HTTP thread: must not block. */
    void (*ended)(const struct exchange *x, const struct exchange_end *end);
};

/* Any number of them, each with threads of its own.  config: the first one; server_configure()
 * replaces it.  -1: the address can't be listened on. */
int server_start(struct proxy *proxy, struct config *config, const struct server_listener *listener,
                 struct server **out, struct err *err);
/* The line that a client's request gets in the log. */
void server_log_request(const struct exchange *x, const struct exchange_end *end);
/* New requests get this configuration. */
void server_configure(struct server *s, struct config *config);
/* Connections that come from now on begin with this one (a reference of its own is taken); those
 * under way keep theirs.  Only where the listener was started with TLS. */
bool server_has_tls(const struct server *s);
void server_set_identity(struct server *s, struct tls_identity *id);
/* "HOST:PORT" as it is listened on, with the port that the kernel chose for port 0. */
const char *server_address(const struct server *s);

/* No new connections from here on; connections are closed after their request. */
void server_drain(struct server *s);
/* Connections that are open. */
size_t server_connections(struct server *s);
/* Requests that are not answered yet. */
size_t server_active(struct server *s);

/* One of them, as it was when somebody looked. */
struct server_request {
    char id[17], client[64];
    char *as; /* which of the configured clients it is; NULL: it wasn't asked for */
    char *method;
    char *repo; /* "<upstream>/<path>"; NULL, as is service: it is about none */
    struct key repo_id;
    const char *service, *state, *result; /* static words; result NULL: it isn't known yet */
    uint64_t bytes;                       /* of the reply's body that went out */
    uint64_t age_ms;
};
/* The oldest first, at most max of them; how many.  Each is yours to clear.  Any thread; what is
 * asked of many doesn't hold up the others. */
size_t server_requests(struct server *s, struct server_request *out, size_t max);
void server_request_clear(struct server_request *r);

/* Wait until none is active or deadline_ms (of now_ms()) has passed, or wake is true.  True: none.
 */
bool server_wait_idle(struct server *s, uint64_t deadline_ms, const volatile int *stop_waiting);
/* Only when no exchange is active. */
void server_stop(struct server **s);

#endif
