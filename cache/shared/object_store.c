#include "cache/shared/object_store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "protocol/base.h"

struct object_store {
    struct object_driver driver;
    void *self;
    char *name;
    atomic_bool stopped;
};

/* ---- keys ---- */

static const char KEY_BYTES[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/-";

static int check_key(const char *key, struct err *err)
{
    size_t len = strlen(key);

    if (len == 0 || len > OBJECT_KEY_MAX)
        return err_set(err, ERR_INPUT, "an object's key has 1 to %d bytes, not %zu", OBJECT_KEY_MAX,
                       len);
    if (key[strspn(key, KEY_BYTES)] != '\0')
        return err_set(err, ERR_INPUT, "an object's key holds only letters, digits and ._/-");
    if (key[0] == '/' || key[len - 1] == '/' || strstr(key, "//") != NULL)
        return err_set(err, ERR_INPUT, "an object's key has no empty parts: %s", key);
    if (strstr(key, "..") != NULL)
        return err_set(err, ERR_INPUT, "an object's key has no '..': %s", key);
    return 0;
}

/* What keys may begin with. */
static int check_prefix(const char *prefix, struct err *err)
{
    if (strlen(prefix) > OBJECT_KEY_MAX)
        return err_set(err, ERR_INPUT, "a prefix of keys has at most %d bytes", OBJECT_KEY_MAX);
    if (prefix[strspn(prefix, KEY_BYTES)] != '\0' || prefix[0] == '/' ||
        strstr(prefix, "//") != NULL || strstr(prefix, "..") != NULL)
        return err_set(err, ERR_INPUT,
                       "a prefix of keys holds only letters, digits and ._/-, no '..' and no empty "
                       "parts");
    return 0;
}

const char *object_listed_key(const char *stored, const char *store_prefix, const char *prefix)
{
    size_t skip = strlen(store_prefix);
    struct err none;

    if (strncmp(stored, store_prefix, skip) != 0 ||
        strncmp(stored + skip, prefix, strlen(prefix)) != 0 || check_key(stored + skip, &none) != 0)
        return NULL;
    return stored + skip;
}

/* ---- sources ---- */

uint64_t object_source_size(const struct object_source *source)
{
    must(source->fd >= 0);
    return source->head_len + source->size;
}

ssize_t object_source_read(const struct object_source *source, uint64_t at, void *buf, size_t len,
                           struct err *err)
{
    uint64_t left;
    ssize_t n;

    if (source->fd < 0)
        return source->read(source->ctx, buf, len, err);
    if (at < source->head_len) {
        left = source->head_len - at;
        if (len > left)
            len = (size_t)left;
        memcpy(buf, (const char *)source->head + at, len);
        return (ssize_t)len;
    }
    at -= source->head_len;
    left = at < source->size ? source->size - at : 0;
    if (len > left)
        len = (size_t)left;
    if (len == 0)
        return 0;
    do {
        n = pread(source->fd, buf, len, (off_t)(source->offset + at));
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return err_errno(err, ERR_STORAGE, "read what is to be put");
    if (n == 0)
        return err_set(err, ERR_STORAGE, "the file to be put is shorter than was said");
    return n;
}

/* ---- operations ---- */

int object_store_cancelled(struct err *err)
{
    return err_set(err, ERR_CANCELLED, "the object store is no longer asked: pannier stops");
}

/* May it be asked? */
static int check_running(const struct object_store *s, struct err *err)
{
    return atomic_load(&s->stopped) ? object_store_cancelled(err) : 0;
}

int object_put(struct object_store *s, const char *key, const struct object_source *source,
               const struct object_put_options *options, struct object_info *out, struct err *err)
{
    static const struct object_put_options anyhow;
    struct object_info unasked;

    if (options == NULL)
        options = &anyhow;
    must(!options->only_new || options->if_match == NULL);
    must(source->head_len == 0 || (source->fd >= 0 && source->head != NULL));
    if (check_key(key, err) != 0 || check_running(s, err) != 0)
        return -1;
    if (!object_store_has_conditions(s) && (options->only_new || options->if_match != NULL))
        return err_set(err, ERR_REFUSED, "%s has no conditional writes", s->name);
    return s->driver.put(s->self, key, source, options, out != NULL ? out : &unasked, err);
}

int object_get(struct object_store *s, const char *key, uint64_t offset, uint64_t length,
               struct object_info *info, object_sink_fn *fn, void *ctx, struct err *err)
{
    struct object_info unasked;

    if (info == NULL)
        info = &unasked;
    if (check_key(key, err) != 0 || check_running(s, err) != 0)
        return -1;
    if (length > 0)
        return s->driver.get(s->self, key, offset, length, info, fn, ctx, err);
    /* No byte: what S3 has no range for. */
    if (s->driver.head(s->self, key, info, err) != 0)
        return -1;
    if (offset > 0 && offset >= info->size)
        return err_set(err, ERR_LIMIT, "the range begins behind the end of %s", key);
    return 0;
}

int object_head(struct object_store *s, const char *key, struct object_info *out, struct err *err)
{
    if (check_key(key, err) != 0 || check_running(s, err) != 0)
        return -1;
    return s->driver.head(s->self, key, out, err);
}

int object_list(struct object_store *s, const char *prefix, object_list_fn *fn, void *ctx,
                struct err *err)
{
    if (check_prefix(prefix, err) != 0 || check_running(s, err) != 0)
        return -1;
    return s->driver.list(s->self, prefix, fn, ctx, err);
}

int object_remove(struct object_store *s, const char *key, struct err *err)
{
    if (check_key(key, err) != 0 || check_running(s, err) != 0)
        return -1;
    return s->driver.remove(s->self, key, err);
}

bool object_store_has_conditions(const struct object_store *s)
{
    return s->driver.has_conditions &&
           (s->driver.lacks_conditions == NULL || !s->driver.lacks_conditions(s->self));
}

const char *object_store_name(const struct object_store *s)
{
    return s->name;
}

struct object_store *object_store_new(const struct object_driver *driver, void *self,
                                      const char *name)
{
    struct object_store *s = xcalloc(1, sizeof(*s));

    s->driver = *driver;
    s->self = self;
    s->name = xstrdup(name);
    return s;
}

void object_store_stop(struct object_store *s)
{
    atomic_store(&s->stopped, true);
    if (s->driver.stop != NULL)
        s->driver.stop(s->self);
}

void object_store_free(struct object_store **sp)
{
    struct object_store *s = *sp;

    *sp = NULL;
    if (s == NULL)
        return;
    s->driver.free(s->self);
    free(s->name);
    free(s);
}

/* ---- configuration ---- */

static bool is_set(const char *s)
{
    return s != NULL && s[0] != '\0';
}

/* http(s)://host[:port], and nothing that would end up in names and logs: no user, no query.
 * What is wrong is not repeated: it might hold a password. */
static int check_endpoint(const char *endpoint, struct err *err)
{
    static const char host_bytes[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:[]";
    const char *host = endpoint;

    if (strncmp(host, "http://", 7) == 0)
        host += 7;
    else if (strncmp(host, "https://", 8) == 0)
        host += 8;
    else
        return err_set(err, ERR_INPUT,
                       "the endpoint of an object store begins with http:// or https://");
    if (host[0] == '\0' || host[strspn(host, host_bytes)] != '\0')
        return err_set(err, ERR_INPUT,
                       "the endpoint of an object store is http(s)://host[:port]: no user, no path "
                       "and no '/' at its end");
    return 0;
}

static int check_bucket(const char *bucket, struct err *err)
{
    size_t len = strlen(bucket);

    /* Old buckets have capitals and '_'; none has a '/'. */
    if (len > 255 || bucket[strspn(bucket, KEY_BYTES)] != '\0' || strchr(bucket, '/') != NULL ||
        bucket[0] == '.')
        return err_set(err, ERR_INPUT,
                       "a bucket's name holds only letters, digits and ._-, at most 255 of them");
    return 0;
}

static int check_web(const struct object_store_config *c, struct err *err)
{
    if (!is_set(c->endpoint))
        return err_set(err, ERR_INPUT, "an object store needs an endpoint: http(s)://host[:port]");
    if (check_endpoint(c->endpoint, err) != 0)
        return -1;
    if (!is_set(c->bucket))
        return err_set(err, ERR_INPUT, "an object store at %s needs a bucket", c->endpoint);
    if (is_set(c->access_key) != is_set(c->secret_key))
        return err_set(err, ERR_INPUT,
                       "an object store's access key and secret key go together; one is missing");
    return 0;
}

static int check_folder(const struct object_store_config *c, struct err *err)
{
    if (!is_set(c->endpoint) || c->endpoint[0] != '/')
        return err_set(err, ERR_INPUT,
                       "the endpoint of an object store of files is a folder's absolute path");
    return 0;
}

static const struct driver {
    const char *name;
    int (*check)(const struct object_store_config *c, struct err *err);
    int (*open)(const struct object_store_config *c, struct object_store **out, struct err *err);
} drivers[] = {
    {"s3", check_web, object_store_open_s3},
    {"libs3", check_web, object_store_open_libs3},
    {"file", check_folder, object_store_open_file},
};

static const struct driver *driver_named(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(drivers); i++) {
        if (name != NULL && strcmp(drivers[i].name, name) == 0)
            return &drivers[i];
    }
    return NULL;
}

int object_store_open(const struct object_store_config *config, struct object_store **out,
                      struct err *err)
{
    const struct driver *d = driver_named(config->driver);

    if (d == NULL)
        return err_set(err, ERR_INPUT, "the driver of an object store is s3, libs3 or file");
    if (d->check(config, err) != 0)
        return -1;
    if (is_set(config->bucket) && check_bucket(config->bucket, err) != 0)
        return -1;
    if (is_set(config->prefix) && check_prefix(config->prefix, err) != 0)
        return -1;
    return d->open(config, out, err);
}
