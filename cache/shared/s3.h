/* Inside the s3 driver: what its files share.
 *
 *     s3.c               opening; one request, signed, with its second tries
 *     s3_error.c         what an endpoint's refusal means
 *     s3_put.c           objects in one request or in parts
 *     s3_get.c           ranges, several at once
 *     s3_list.c          lists
 *     s3_credentials.c   keys
 *     s3_http.c          curl */
#ifndef PANNIER_CACHE_SHARED_S3_H
#define PANNIER_CACHE_SHARED_S3_H

#include <stdatomic.h>

#include "cache/shared/object_store.h"
#include "cache/shared/s3_credentials.h"
#include "cache/shared/s3_http.h"
#include "protocol/s3_sign.h"

enum {
    S3_FIELDS_MAX = 8,
    S3_CODE_MAX = 64,
    S3_PARALLEL_MAX = 32,
    S3_MARK_SIZE = 33,
};

struct s3 {
    char *endpoint, *bucket, *prefix, *region;
    char *url;  /* what targets are put behind */
    char *host; /* the Host header */
    char *root; /* of paths: "/bucket", or "" with the bucket in the host */
    char *server_side_encryption, *kms_key;
    uint64_t deadline_ms;
    unsigned parallel;
    uint64_t alone_rate;
    struct s3_http *http;
    struct s3_credentials *credentials;
    /* Learnt as we go. */
    atomic_bool bucket_seen;
    atomic_bool bare_etags;    /* compares If-Match without quotes, as RGW does */
    atomic_bool no_conditions; /* on a PUT, as Swift */
};

struct s3_ask {
    const char *method;
    const char *key; /* without the prefix; NULL: the bucket itself */
    struct s3_field query[S3_FIELDS_MAX], headers[S3_FIELDS_MAX];
    size_t query_count, header_count;
    struct http_body body;
    char payload_hash[KEY_HEX_SIZE]; /* s3_ask_hash() */
    int (*head_fn)(void *ctx, const struct http_reply *reply, struct err *err);
    object_sink_fn *data_fn;
    void *ctx;
    const atomic_bool *stop; /* may be NULL */
    uint64_t grace_ms;       /* after the store was stopped */
};
void s3_ask_query(struct s3_ask *ask, const char *name, const char *value);
void s3_ask_header(struct s3_ask *ask, const char *name, const char *value); /* NULL: none */

struct s3_answer {
    struct http_reply reply;
    char code[S3_CODE_MAX]; /* of the refusal, "" when there was none */
    /* An earlier try may have taken effect although nothing came back. */
    bool unsure;
};
void s3_answer_init(struct s3_answer *a);
void s3_answer_clear(struct s3_answer *a);

enum s3_verdict { S3_DONE, S3_AGAIN, S3_FAILED };

/* How long to go on trying. */
struct s3_patience {
    uint64_t deadline_ms; /* of now_ms() */
    unsigned tries;
    bool distrusted;    /* the keys, once */
    struct err refusal; /* the last one */
    const struct s3_http *http;
    const atomic_bool *stop;
};
void s3_patience_init(struct s3_patience *p, const struct s3 *s, const atomic_bool *stop);
/* Wait before the next try, longer each time, and not all for as long; at least for as long as the
 * endpoint asked.  False: there is to be none; *err is as it was, or ERR_CANCELLED. */
bool s3_patience_wait(struct s3_patience *p, const struct http_reply *reply, struct err *err);

/* SHA-256 of what is to be sent; before s3_try(). */
int s3_ask_hash(struct s3_ask *ask, struct err *err);
/* One try.  S3_DONE: a status from 200 to 299. */
enum s3_verdict s3_try(struct s3 *s, const struct s3_ask *ask, struct s3_patience *p,
                       struct s3_answer *a, struct err *err);
/* Hash and try until the deadline. */
int s3_ask(struct s3 *s, struct s3_ask *ask, struct s3_answer *a, struct err *err);

/* s3_error.c: of a status that is no success.  Fills a->code and err. */
enum s3_verdict s3_judge(struct s3 *s, const struct s3_ask *ask, struct s3_answer *a,
                         struct err *err);

/* ---- operations ---- */

/* Etags without their quotes; some documents have them with, some without. */
void s3_copy_etag(const char *from, char out[OBJECT_ETAG_MAX]);

int s3_put(void *self, const char *key, const struct object_source *source,
           const struct object_put_options *options, struct object_info *out, struct err *err);
bool s3_lacks_conditions(void *self);
int s3_get(void *self, const char *key, uint64_t offset, uint64_t length, struct object_info *info,
           object_sink_fn *fn, void *ctx, struct err *err);
int s3_head(void *self, const char *key, struct object_info *out, struct err *err);
/* As s3_head; mark: of the put that made it, "" without one. */
int s3_head_mark(struct s3 *s, const char *key, struct object_info *out, char mark[HTTP_WORD_MAX],
                 struct err *err);
int s3_list(void *self, const char *prefix, object_list_fn *fn, void *ctx, struct err *err);
int s3_remove(void *self, const char *key, struct err *err);

#endif
