/* Inside the HTTP front: what its files share.  Each calls only those that stand below it.  But for
 * exchange.c and upload.c they are the home of libmicrohttpd.
 *
 *     server.c        starts and stops it all, and tells who looks on
 *     phases.c        takes an exchange from phase to phase, as libmicrohttpd calls
 *     exchange.c      what handlers decide (exchange.h)
 *     sending.c       how a reply goes out
 *     connection.c    what requests come through, and for how long it may be silent
 *     server_part.c   an exchange's life, its sleep, and who wakes it
 *     upload.c        the window of a streamed body
 *
 * An exchange is looked at by its HTTP thread and by one worker at a time; who holds it is in
 * exchange.h.  The fields that a lock's comment names are for whoever has that lock, the others
 * for whoever holds the exchange. */
#ifndef PANNIER_PROXY_SERVER_PART_H
#define PANNIER_PROXY_SERVER_PART_H

#include <pthread.h>
#include <stdatomic.h>

#include "cache/lock.h"
#include "proxy/exchange.h"
#include "proxy/upload.h"

struct MHD_Connection;
struct MHD_Daemon;
struct connection;

/* A thread that speaks HTTP: a daemon of libmicrohttpd's that doesn't listen. */
struct front {
    struct server *server;
    unsigned index;
    struct MHD_Daemon *daemon;
};

struct server {
    struct proxy *proxy;
    plan_fn *plan;
    void (*ended)(const struct exchange *x, const struct exchange_end *end);
    struct acceptor *acceptor;
    struct front *fronts;
    unsigned front_count;
    bool tls;

    struct lock lock;
    pthread_cond_t idle;     /* the last exchange has ended */
    pthread_cond_t stop_now; /* for the watchman, who has no business with each request's end */
    struct config *config;
    struct tls_identity *identity; /* for connections to come; NULL: no TLS */
    struct connection *connections;
    struct server_part *exchanges;
    size_t active;
    bool draining, stopping;
    pthread_t watchman;
};

enum phase { RECEIVING, WORKING, FOLLOWING, REPLYING };

/* What a sleeping connection waits for; who brings something else doesn't wake it. */
enum wait {
    WAIT_NOTHING = 0,
    WAIT_WORKER = 1, /* a handler's decision */
    WAIT_ROOM = 2,   /* in the upload's window */
    WAIT_ANSWER = 4, /* the answer to grow; the reader is armed */
};

/* The server's side of an exchange. */
struct server_part {
    struct exchange x;
    struct server *server;
    struct lock lock;                  /* phase, known, waits_for, connection, upload, refs */
    int refs;                          /* libmicrohttpd's one, and one per job */
    struct MHD_Connection *connection; /* NULL: gone */
    enum phase phase;
    enum phase decided;  /* what a handler decided; becomes the phase when it returns */
    enum wait waits_for; /* not WAIT_NOTHING: suspended */
    bool started;        /* headers were looked at */
    bool known;          /* what x asks for; it stays so */
    bool queued;         /* the response was handed over */
    bool refused;        /* a 413 has gone out by the back door */
    struct plan plan;
    exchange_fn *handler;
    struct upload *upload; /* NULL: the body isn't streamed */
    uint64_t body_seen;
    uint64_t started_us, first_byte_us;

    struct answer_reader reader;
    exchange_fn *ready;

    int status;
    struct header headers[REPLY_HEADERS_MAX];
    size_t header_count;
    const char *content_type;
    char *body; /* a reply out of memory */
    size_t body_len;
    bool stream;
    struct bytes note; /* as a pkt */
    int64_t note_offset;
    size_t note_sent;
    atomic_uint_fast64_t body_sent; /* others look at it meanwhile */

    struct server_part *prev, *next;
};

/* A request's first line has come; the reference is libmicrohttpd's. */
struct server_part *part_new(struct server *s, const char *target,
                             struct MHD_Connection *connection);
void part_ref(struct server_part *p);
void part_unref(struct server_part *p);
/* Of the request as it was sent, or NULL.  HTTP thread; borrowed. */
const char *part_header(const struct server_part *p, const char *name);

/* The handler, ready or plan function has returned: only now may another thread go on. */
void part_commit_phase(struct server_part *p);

/* HTTP thread, with p->lock held. */
void part_sleep_locked(struct server_part *p, enum wait what);
/* HTTP thread: sleep until the answer that p reads has more to say. */
void part_sleep_until_more(struct server_part *p);
/* what: one or more of enum wait. */
void part_wake(struct server_part *p, int what);
/* For answer_reader_open(): the answer that ctx, a part, reads has more to say. */
void part_on_answer(void *ctx);

#endif
