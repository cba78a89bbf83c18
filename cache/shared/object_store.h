/* Objects by key, somewhere else: what the shared tier stands on.
 *
 *     driver    where                                     conditions   parts
 *     s3        an S3 endpoint, signature V4 (libcurl)    as the       yes
 *                                                         server can
 *     libs3     an S3 endpoint that wants signature V2    no           no
 *     file      a folder on a shared file system          yes          no need
 *
 * An object appears whole or not at all, and a reader sees one version of it.  Keys are
 * [A-Za-z0-9._/-], at most OBJECT_KEY_MAX bytes, without "..", "//" or a first or last '/'.
 *
 * Worker threads: everything blocks, for as long as the store's deadline says.  A store may be used
 * by many threads at once.  tests/unit/test_object_store.c is what every driver passes. */
#ifndef PANNIER_CACHE_SHARED_OBJECT_STORE_H
#define PANNIER_CACHE_SHARED_OBJECT_STORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol/err.h"

enum {
    OBJECT_KEY_MAX = 512,
    OBJECT_ETAG_MAX = 128, /* with its NUL */
};

struct object_store;

struct object_info {
    uint64_t size;
    int64_t modified;           /* seconds since 1970 */
    char etag[OBJECT_ETAG_MAX]; /* tells versions apart, if their bytes differ; opaque */
};

/* What is put.  Either a file, which may be read again, and in parts at once; or a stream. */
struct object_source {
    int fd;                /* -1: a stream */
    uint64_t offset, size; /* of what is to be put, in the file */
    /* Stands before the file's bytes in the object, and may be of any length; NULL: nothing.  Not
     * with a stream. */
    const void *head;
    size_t head_len;
    /* A stream's next bytes, at most len: >0, 0 at the end, -1 with err. */
    ssize_t (*read)(void *ctx, void *buf, size_t len, struct err *err);
    void *ctx;
};

struct object_put_options {
    bool only_new;        /* not over another object */
    const char *if_match; /* only over the object with this etag; NULL: over any */
    const char *content_type;
};

/* Pieces in their order; -1 ends the transfer with what fn put into err. */
typedef int object_sink_fn(void *ctx, const void *data, size_t len, struct err *err);
/* Not 0: enough. */
typedef int object_list_fn(void *ctx, const char *key, const struct object_info *info);

/* Failures: ERR_NOT_FOUND (no such object); ERR_CONFLICT (a condition did not hold, or what is
 * being read was overwritten and the rest of its version is gone); ERR_DENIED (credentials, rights,
 * a wrong clock); ERR_REFUSED (no such bucket, or the driver can't do this: it says what by name);
 * ERR_BUSY (asked to slow down, to the end of the deadline); ERR_TIMEOUT; ERR_UPSTREAM (cannot be
 * reached, or speaks nonsense); ERR_STORAGE (a disk of ours); ERR_CORRUPT (what the store has is
 * visibly damaged); ERR_INPUT (that is no key); or what the source or the sink said. */

/* options NULL: no conditions.  A condition on an object that isn't there does not hold.  *out (may
 * be NULL) is what is there now. */
int object_put(struct object_store *s, const char *key, const struct object_source *source,
               const struct object_put_options *options, struct object_info *out, struct err *err);
/* length UINT64_MAX: to the end.  A range that begins at the end or behind it is ERR_LIMIT, but for
 * offset 0 of an object of no bytes.  *info (may be NULL) is filled before the first piece, its
 * size being the whole object's. */
int object_get(struct object_store *s, const char *key, uint64_t offset, uint64_t length,
               struct object_info *info, object_sink_fn *fn, void *ctx, struct err *err);
int object_head(struct object_store *s, const char *key, struct object_info *out, struct err *err);
/* In the order of the keys' bytes.  prefix: what keys begin with, any of its bytes being the last;
 * "": all.  fn may be called while a connection is held: it collects, and acts afterwards. */
int object_list(struct object_store *s, const char *prefix, object_list_fn *fn, void *ctx,
                struct err *err);
/* What isn't there is fine. */
int object_remove(struct object_store *s, const char *key, struct err *err);

/* False: object_put() refuses options with a condition by ERR_REFUSED.  What an endpoint can't do
 * shows with the first such put, which is refused alike; from then on this is false. */
bool object_store_has_conditions(const struct object_store *s);
/* "s3 http://127.0.0.1:7480/bucket", for people; no secrets. */
const char *object_store_name(const struct object_store *s);
/* For the end of the program: what is under way ends soon (within a second or so; an upload in
 * parts has some more to take back what it sent), and whatever is asked from now on ends at once,
 * by ERR_CANCELLED.  Any thread; doesn't wait. */
void object_store_stop(struct object_store *s);
void object_store_free(struct object_store **s); /* nobody may be using it any more */

/* ---- drivers ---- */

struct object_store_config {
    const char *driver;   /* "s3", "libs3", "file" */
    const char *endpoint; /* http(s)://host[:port]; file: an absolute path */
    const char *bucket;   /* file: NULL, or a folder below endpoint */
    const char *prefix;   /* before every key, as it is (end it with '/'); NULL or "": none */
    const char *region;   /* NULL: us-east-1 */
    bool virtual_host;    /* bucket.host/key rather than host/bucket/key */
    const char *ca_file;
    /* Where keys come from: these two, or a file of that form that the AWS tools read, or the
     * environment, or the machine's own identity; the first that there is. */
    const char *access_key, *secret_key, *session_token;
    const char *credentials_file;
    const char *server_side_encryption; /* "AES256", "aws:kms"; NULL: none */
    const char *kms_key;
    uint64_t connect_timeout_ms, stall_timeout_ms;
    uint64_t deadline_ms; /* for one request with all its retries; a transfer that moves goes on */
    unsigned parallel;    /* parts or ranges of one object at once */
    /* A connection that brings so many MB/s reads an object without the others.  0: as tried. */
    uint64_t alone_rate_mb;
};

/* Checks the configuration, connects to nothing.  -1: ERR_INPUT with one clear sentence. */
int object_store_open(const struct object_store_config *config, struct object_store **out,
                      struct err *err);

/* For a driver: what it brings.  Keys and prefixes are checked before it is called, options, out
 * and info are never NULL, length is never 0, and conditions come only to who has them. */
struct object_driver {
    int (*put)(void *self, const char *key, const struct object_source *source,
               const struct object_put_options *options, struct object_info *out, struct err *err);
    int (*get)(void *self, const char *key, uint64_t offset, uint64_t length,
               struct object_info *info, object_sink_fn *fn, void *ctx, struct err *err);
    int (*head)(void *self, const char *key, struct object_info *out, struct err *err);
    int (*list)(void *self, const char *prefix, object_list_fn *fn, void *ctx, struct err *err);
    int (*remove)(void *self, const char *key, struct err *err);
    /* May be called more than once.  NULL: nothing of it takes long; object_store.c refuses what is
     * asked later by itself. */
    void (*stop)(void *self);
    void (*free)(void *self);
    bool has_conditions;
    /* NULL: has_conditions is the whole truth.  Else: has the far side turned out to have none? */
    bool (*lacks_conditions)(void *self);
};
struct object_store *object_store_new(const struct object_driver *driver, void *self,
                                      const char *name);
/* How many bytes the object will have; of a file. */
uint64_t object_source_size(const struct object_source *source);
/* Bytes of the object from at on, which head and file make up together: at most len, and fewer
 * where one of them ends; 0 at the end.  Of a stream, its next ones.  -1: ERR_STORAGE, also when
 * the file is shorter than was said; or the stream's. */
ssize_t object_source_read(const struct object_source *source, uint64_t at, void *buf, size_t len,
                           struct err *err);
/* Of what the far side lists, stored being its name with the store's prefix: the key, or NULL when
 * it is none of what was asked for.  Others may keep objects there, under names that object_get()
 * would not take, and a far side may lie. */
const char *object_listed_key(const char *stored, const char *store_prefix, const char *prefix);
/* What a driver that was stopped says: ERR_CANCELLED. */
int object_store_cancelled(struct err *err);
int object_store_open_s3(const struct object_store_config *config, struct object_store **out,
                         struct err *err);
int object_store_open_libs3(const struct object_store_config *config, struct object_store **out,
                            struct err *err);
int object_store_open_file(const struct object_store_config *config, struct object_store **out,
                           struct err *err);

#endif
