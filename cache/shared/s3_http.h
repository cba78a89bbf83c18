/* One HTTP request to an S3 endpoint, or to who hands out keys for it.  The home of libcurl in
 * cache/.  No signing and no second tries: see s3.h.
 *
 * Connections are kept and used again.  Worker threads: blocks until the response is complete. */
#ifndef PANNIER_CACHE_SHARED_S3_HTTP_H
#define PANNIER_CACHE_SHARED_S3_HTTP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/shared/object_store.h"
#include "protocol/bytes.h"
#include "protocol/err.h"

enum {
    HTTP_BODY_MAX = 8 * 1024 * 1024, /* of what isn't handed to data_fn: lists, errors */
    HTTP_WORD_MAX = 128,
};

struct s3_http;

/* ca_file: NULL for the system's. */
struct s3_http *s3_http_new(const char *ca_file, uint64_t connect_timeout_ms,
                            uint64_t stall_timeout_ms);
void s3_http_free(struct s3_http **h);
/* From now on every request ends, within a second, with ERR_CANCELLED.  Any thread. */
void s3_http_stop(struct s3_http *h);
bool s3_http_stopped(const struct s3_http *h);

/* What a request sends: memory, or a piece of what is to be put if data is NULL. */
struct http_body {
    const void *data;
    const struct object_source *source; /* a file */
    uint64_t offset;                    /* in the object that it makes */
    uint64_t size;                      /* 0: no body */
};
/* At most len bytes of it from at on, which is before its end.  -1: ERR_STORAGE. */
ssize_t http_body_read(const struct http_body *b, uint64_t at, void *buf, size_t len,
                       struct err *err);

/* What a response says that somebody here wants to know. */
struct http_reply {
    int status; /* 0: none came */
    bool has_length, has_range, has_date;
    uint64_t length;
    uint64_t range_first, range_total; /* Content-Range */
    int64_t modified;                  /* seconds since 1970 */
    int64_t date;                      /* of the server's clock */
    uint32_t retry_after_s;            /* 0: it didn't say */
    char etag[OBJECT_ETAG_MAX];        /* as sent, with its quotes */
    char mark[HTTP_WORD_MAX];   /* the x-amz-meta-pannier-mark that the object was put with */
    char region[HTTP_WORD_MAX]; /* x-amz-bucket-region */
    struct bytes body;          /* whatever did not go to data_fn */
};
void http_reply_init(struct http_reply *r);
void http_reply_clear(struct http_reply *r);

struct http_call {
    const char *method;
    const char *url;
    const char *const *headers; /* "name: value" */
    size_t header_count;
    struct http_body body;
    uint64_t
        deadline_ms; /* of now_ms(): by then bytes must be moving; after that, the stall timeout */
    const atomic_bool *stop; /* NULL, or: set, it ends with ERR_CANCELLED */
    uint64_t grace_ms;       /* how long after s3_http_stop() it may still go on */
    /* For statuses from 200 to 299: the head, then the body.  -1 ends it with what they put into
     * err.  Either may be NULL. */
    int (*head_fn)(void *ctx, const struct http_reply *reply, struct err *err);
    object_sink_fn *data_fn;
    void *ctx;
};

/* 0: a whole response came, of any status.  -1: ERR_UPSTREAM or ERR_TIMEOUT with *again true, when
 * another try may help; or false: TLS, a function's error, a file of ours, ERR_CANCELLED.  reply is
 * what had come by then; the caller clears it. */
int s3_http_perform(struct s3_http *h, const struct http_call *c, struct http_reply *reply,
                    bool *again, struct err *err);

#endif
