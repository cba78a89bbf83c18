/* TLS on the way to Redis: inside redis_connection.c, whose sockets never block and stay its own.
 * The home of OpenSSL's libssl.  Nothing here reads or writes a socket:
 *
 *     redis_tls_new(&files, host, &t, &err)
 *     redis_tls_handshake(t, &err)            1: done; 0: not yet
 *     redis_tls_write(t, text, len, &err)     ours, in the clear
 *     redis_tls_read(t, buf, len, &err)       Redis's, in the clear
 *     redis_tls_take(t, buf, len)             what is to go out after any of these
 *     redis_tls_give(t, data, len)            what came in, before them
 *
 * The other side's certificate must come from an authority that we trust and name the host. hiredis
 * has TLS of its own from 1.0 on, which compares no names, and writes so that a socket whose other
 * end is gone raises SIGPIPE.
 *
 * After any -1 (ERR_UPSTREAM) it is of no use any more.  One thread at a time. */
#ifndef PANNIER_CACHE_CLUSTER_REDIS_TLS_H
#define PANNIER_CACHE_CLUSTER_REDIS_TLS_H

#include <stddef.h>
#include <sys/types.h>

#include "protocol/err.h"

struct redis_tls_files {
    const char *ca_file;           /* authorities, PEM; NULL: the system's */
    const char *certificate, *key; /* ours, PEM; NULL: we show none */
};

struct redis_tls;

/* Reads the files.  host: a name or an address.  -1: ERR_INPUT, one sentence about a file. */
int redis_tls_new(const struct redis_tls_files *files, const char *host, struct redis_tls **out,
                  struct err *err);
void redis_tls_free(struct redis_tls **t);

int redis_tls_handshake(struct redis_tls *t, struct err *err);
int redis_tls_write(struct redis_tls *t, const void *data, size_t len, struct err *err);
/* 0: nothing more has come. */
ssize_t redis_tls_read(struct redis_tls *t, void *buf, size_t len, struct err *err);

/* 0: nothing more is to go out. */
size_t redis_tls_take(struct redis_tls *t, void *buf, size_t len);
void redis_tls_give(struct redis_tls *t, const void *data, size_t len);

#endif
