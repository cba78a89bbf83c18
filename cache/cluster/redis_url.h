/* Where Redis is, as the operator writes it; pure.
 *
 *     redis://[user@]host[:port][/db]                      port 6379, database 0
 *     rediss://[user@]host[:port][/db]                     the same through TLS
 *     unix:///path/to/socket                               database 0
 *     sentinel://host[:port][,host[:port]...]/master[/db]  port 26379; who is master is asked
 *     rediss+sentinel://...                                the same, all of them through TLS
 *
 * host: a name, an IPv4 address, or an IPv6 address in brackets.  A password never stands here: it
 * would be seen in logs and by `pannier config`, so it comes from a file. */
#ifndef PANNIER_CACHE_CLUSTER_REDIS_URL_H
#define PANNIER_CACHE_CLUSTER_REDIS_URL_H

#include <stdbool.h>
#include <stddef.h>

#include "protocol/err.h"

enum {
    REDIS_URL_MAX = 1024,
    REDIS_HOSTS_MAX = 8, /* sentinels; three is usual */
    REDIS_DB_MAX = 9999,
};

enum redis_scheme { REDIS_TCP, REDIS_UNIX, REDIS_SENTINEL };

struct redis_host {
    char *name;
    unsigned port;
};

struct redis_url {
    enum redis_scheme scheme;
    bool tls;
    struct redis_host hosts[REDIS_HOSTS_MAX]; /* one, but for sentinels */
    size_t host_count;
    char *path;   /* REDIS_UNIX */
    char *master; /* REDIS_SENTINEL: the name that they know it by */
    char *user;   /* NULL: none, that is "default" */
    unsigned db;
};

/* 0: *out is yours to clear.  -1: ERR_INPUT with one sentence that never repeats the URL, as
 * somebody may have put a password there all the same; nothing is to be cleared. */
int redis_url_read(const char *text, struct redis_url *out, struct err *err);
void redis_url_clear(struct redis_url *u);

#endif
