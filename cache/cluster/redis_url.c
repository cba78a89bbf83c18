#include "cache/cluster/redis_url.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

enum { HOST_MAX = 255, WORD_MAX = 128, SOCKET_MAX = 107 /* sun_path, with its NUL 108 */ };
enum { REDIS_PORT = 6379, SENTINEL_PORT = 26379 };

static const struct {
    const char *prefix;
    enum redis_scheme scheme;
    bool tls;
} schemes[] = {
    {"redis://", REDIS_TCP, false},
    {"rediss://", REDIS_TCP, true},
    {"unix://", REDIS_UNIX, false},
    {"sentinel://", REDIS_SENTINEL, false},
    {"rediss+sentinel://", REDIS_SENTINEL, true},
};

static bool is_word_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '-' || c == '_';
}

static bool is_word(const char *s, size_t len, size_t max)
{
    for (size_t i = 0; i < len; i++)
        if (!is_word_char(s[i]))
            return false;
    return len > 0 && len <= max;
}

/* Digits only, no more than max. */
static bool read_number(const char *s, size_t len, unsigned max, unsigned *out)
{
    unsigned n = 0;

    if (len == 0 || len > 5)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        n = n * 10 + (unsigned)(s[i] - '0');
    }
    *out = n;
    return n <= max;
}

static int read_host(struct redis_url *u, const char *s, size_t len, struct err *err)
{
    struct redis_host *h = &u->hosts[u->host_count];
    const char *name = s, *colon;
    size_t name_len, rest;

    h->port = u->scheme == REDIS_SENTINEL ? SENTINEL_PORT : REDIS_PORT;
    if (len > 0 && s[0] == '[') {
        const char *end = memchr(s, ']', len);

        if (end == NULL)
            return err_set(err, ERR_INPUT, "the Redis URL has a '[' without its ']'");
        name = s + 1;
        name_len = (size_t)(end - name);
        if (name_len == 0 || name_len > HOST_MAX ||
            strspn(name, "0123456789abcdefABCDEF:.") < name_len)
            return err_set(err, ERR_INPUT, "the Redis URL has no IPv6 address in its brackets");
        colon = end + 1;
    } else {
        colon = memchr(s, ':', len);
        if (colon == NULL)
            colon = s + len;
        name_len = (size_t)(colon - s);
        if (!is_word(name, name_len, HOST_MAX))
            return err_set(err, ERR_INPUT, "the Redis URL has no host name where one should be");
    }
    rest = len - (size_t)(colon - s);
    if (rest > 0 &&
        (colon[0] != ':' || !read_number(colon + 1, rest - 1, 65535, &h->port) || h->port == 0))
        return err_set(err, ERR_INPUT, "the Redis URL's port is not a number from 1 to 65535");
    h->name = xstrndup(name, name_len);
    u->host_count++;
    return 0;
}

static int read_hosts(struct redis_url *u, const char *s, size_t len, struct err *err)
{
    for (;;) {
        const char *comma = u->scheme == REDIS_SENTINEL ? memchr(s, ',', len) : NULL;
        size_t n = comma != NULL ? (size_t)(comma - s) : len;

        if (u->host_count == REDIS_HOSTS_MAX)
            return err_set(err, ERR_INPUT, "the Redis URL names more than %d sentinels",
                           REDIS_HOSTS_MAX);
        if (read_host(u, s, n, err) != 0)
            return -1;
        if (comma == NULL)
            return 0;
        s += n + 1;
        len -= n + 1;
    }
}

static int read_user(struct redis_url *u, const char *s, size_t len, struct err *err)
{
    if (memchr(s, ':', len) != NULL)
        return err_set(err, ERR_INPUT,
                       "the Redis URL may hold no password: put it into a file, and name that by "
                       "redis.password_file");
    if (u->scheme == REDIS_SENTINEL)
        return err_set(err, ERR_INPUT,
                       "a sentinel URL has no user: it stands in the password file");
    if (!is_word(s, len, WORD_MAX))
        return err_set(err, ERR_INPUT, "the Redis URL's user has characters that no user has");
    u->user = xstrndup(s, len);
    return 0;
}

static int read_master(struct redis_url *u, const char **path, struct err *err)
{
    size_t len = *path != NULL ? strcspn(*path, "/") : 0;

    if (!is_word(*path, len, WORD_MAX))
        return err_set(err, ERR_INPUT,
                       "a sentinel URL ends with the master's name: sentinel://host,host/name");
    u->master = xstrndup(*path, len);
    *path = (*path)[len] == '/' ? *path + len + 1 : NULL;
    return 0;
}

static int read_network(struct redis_url *u, const char *s, struct err *err)
{
    size_t len = strcspn(s, "/");
    const char *at = memchr(s, '@', len), *path = s[len] == '/' ? s + len + 1 : NULL;

    if (at != NULL) {
        if (read_user(u, s, (size_t)(at - s), err) != 0)
            return -1;
        len -= (size_t)(at + 1 - s);
        s = at + 1;
    }
    if (read_hosts(u, s, len, err) != 0)
        return -1;
    if (u->scheme == REDIS_SENTINEL && read_master(u, &path, err) != 0)
        return -1;
    if (path != NULL && path[0] != '\0' && !read_number(path, strlen(path), REDIS_DB_MAX, &u->db))
        return err_set(err, ERR_INPUT, "the Redis URL's database is not a number from 0 to %d",
                       REDIS_DB_MAX);
    return 0;
}

static int read_socket(struct redis_url *u, const char *s, struct err *err)
{
    size_t len = strlen(s);

    if (s[0] != '/' || len < 2 || len > SOCKET_MAX)
        return err_set(err, ERR_INPUT,
                       "unix:// wants an absolute path of at most %d bytes: unix:///run/redis.sock",
                       SOCKET_MAX);
    u->path = xstrdup(s);
    return 0;
}

int redis_url_read(const char *text, struct redis_url *out, struct err *err)
{
    int rc = -1;

    *out = (struct redis_url){0};
    if (strlen(text) > REDIS_URL_MAX)
        return err_set(err, ERR_INPUT, "the Redis URL is longer than %d bytes", REDIS_URL_MAX);
    err_set(err, ERR_INPUT,
            "the Redis URL begins with none of redis://, rediss://, unix://, sentinel://, "
            "rediss+sentinel://");
    for (size_t i = 0; i < ARRAY_LEN(schemes); i++) {
        size_t len = strlen(schemes[i].prefix);

        if (strncmp(text, schemes[i].prefix, len) != 0)
            continue;
        out->scheme = schemes[i].scheme;
        out->tls = schemes[i].tls;
        rc = out->scheme == REDIS_UNIX ? read_socket(out, text + len, err)
                                       : read_network(out, text + len, err);
    }
    if (rc != 0)
        redis_url_clear(out);
    return rc;
}

void redis_url_clear(struct redis_url *u)
{
    for (size_t i = 0; i < u->host_count; i++)
        free(u->hosts[i].name);
    free(u->path);
    free(u->master);
    free(u->user);
    *u = (struct redis_url){0};
}
