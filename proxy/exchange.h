/* One request of a client and its reply.
 *
 *      phase       who holds it        what happens
 *      RECEIVING   HTTP thread         headers and body come in
 *      WORKING     one worker          handler(x) decides; the connection sleeps; left out where
 *                                      a quick_fn could decide
 *      FOLLOWING   HTTP thread         waits for the first byte, end or failure of x->answer, then
 *                                      calls ready(x), which starts the reply or asks for WORKING
 *      REPLYING    HTTP thread         the reply goes out
 *
 * A handler runs in a worker and, before it returns (only then does the connection go on), calls
 * exactly one of reply_text(), reply_bytes(), reply_error() or exchange_follow().  A ready function
 * runs in an HTTP thread (never blocks) and calls exactly one of the first three, reply_stream() or
 * exchange_again().
 *
 * A streamed upload (push, LFS) is different in one point: the handler runs while the body
 * still comes, and takes it with exchange_read_upload().
 *
 * Nothing here is libmicrohttpd's: only the files of the front know it (server_part.h). */
#ifndef PANNIER_PROXY_EXCHANGE_H
#define PANNIER_PROXY_EXCHANGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "cache/answer.h"
#include "protocol/bytes.h"
#include "protocol/smart_http.h"
#include "proxy/config.h"
#include "proxy/proxy.h"
#include "proxy/upstream.h"

struct exchange;
typedef void exchange_fn(struct exchange *x);
/* What an HTTP thread tries before it hands x to a worker: it decides from memory and never blocks.
 * True: it has done as a handler does.  False: it has called nothing of the sort. */
typedef bool quick_fn(struct exchange *x);

enum { NOTE_MAX = 160, REPLY_HEADERS_MAX = 24 };

struct exchange {
    /* Set by the server before any handler sees it; read only. */
    struct proxy *proxy;
    const struct config *config;
    char id[17];
    char client[64];
    char *tls_subject; /* of the client's verified certificate, as RFC 4514 writes it; or NULL */
    char *method, *target;
    struct smart_path path; /* valid when upstream is set */
    const struct upstream_config *upstream;
    const struct client_config *who; /* clients.h; NULL: it wasn't asked for */
    char *base_url;
    char *authorization, *git_protocol, *content_type, *content_encoding, *accept_encoding, *accept,
        *range;
    int protocol;           /* 0, 1, 2 */
    int64_t content_length; /* -1: chunked, or none */
    bool has_body;
    struct bytes body; /* a kept body, as sent */

    /* The handler's own. */
    void *state;
    void (*free_state)(void *state);
    uint64_t stale_age_ms; /* not 0: upstream couldn't be asked, and this old is what it said */
    const char *result;    /* how it was answered: static words, for the log */

    struct server_part *server; /* opaque */
};

/* What to do with a request, once its headers are known. */
struct plan {
    enum { PLAN_REPLIED, PLAN_KEEP_BODY, PLAN_STREAM_BODY } kind;
    exchange_fn *handler;    /* not for PLAN_REPLIED, where a reply_...() was called */
    struct workers *workers; /* where it runs */
    quick_fn *quick;         /* tried first, where there is a kept body; or NULL */
};
typedef struct plan plan_fn(struct exchange *x);
/* In a plan function: a header of the request as it was sent, or NULL.  Borrowed. */
const char *exchange_header(const struct exchange *x, const char *name);

/* How an exchange ended.  Times are from the request's first line. */
struct exchange_end {
    int status;     /* 0: there was no reply */
    uint64_t bytes; /* of the reply's body */
    uint64_t first_byte_us, total_us;
    bool whole; /* the connection lasted until the reply's end */
};

/* ---- replying ---- */

/* Headers of the reply; before the reply is started.  Values are copied. */
void reply_header(struct exchange *x, const char *name, const char *value);

/* One sentence as text/plain. */
void reply_text(struct exchange *x, int status, const char *result, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* data is copied. */
void reply_bytes(struct exchange *x, int status, const char *content_type, const void *data,
                 size_t len, const char *result);
/* What a failure looks like to a client: 400, 413, 403, 404, 502, 429 and 503 with Retry-After, 504
 * by kind. */
void reply_error(struct exchange *x, const struct err *err);

/* Wait for a to say something, then call ready(x).  Opens the reader at once, so that a producer
 * that is started afterwards finds it.  -1 (ERR_BUSY): too late to join, nothing was done. */
int exchange_follow(struct exchange *x, struct answer *a, exchange_fn *ready, struct err *err);
/* In ready(): the answer's state now. */
struct answer *exchange_answer(struct exchange *x);
/* In ready(): the body is the answer, by sendfile where its length is known.  note, when not
 * NULL, is put in at the answer's note offset as a sideband-2 pkt. */
void reply_stream(struct exchange *x, int status, const char *content_type, const char *note,
                  const char *result);
/* In ready(): let handler(x) run again in a worker; the answer is let go. */
void exchange_again(struct exchange *x, exchange_fn *handler);

/* For a job of a handler's own that outlives the handler and still needs x. */
void exchange_hold(struct exchange *x);
void exchange_release(struct exchange *x);

/* Streamed uploads; worker that holds x.  As read(2): bytes, 0 at the end, -1 when the client is
 * gone. */
ssize_t exchange_read_upload(struct exchange *x, void *buf, size_t len);
/* The rest of the upload is not wanted; it is read and thrown away. */
void exchange_end_upload(struct exchange *x);

#endif
