/* One connection to Redis: inside redis.c, which shares them out.  The home of hiredis.
 *
 *     redis_connection_open()     finds the place, connects, says who we are
 *     redis_connection_send()     a command; several may be under way
 *     redis_connection_read()     its reply, in turn
 *
 * Sockets are our own and never block: hiredis writes commands and reads replies, but its deadline
 * is one for each read, so that a server that drips would pass any of them; and it writes so that a
 * socket whose other end is gone raises SIGPIPE.  TLS is redis_tls.h's.
 *
 * After any -1 there is nothing to be done with a connection but to free it.  One thread at a time.
 */
#ifndef PANNIER_CACHE_CLUSTER_REDIS_CONNECTION_H
#define PANNIER_CACHE_CLUSTER_REDIS_CONNECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/cluster/redis_tls.h"
#include "cache/cluster/redis_url.h"
#include "cache/cluster/redis_words.h"

struct redis_place;
struct redis_connection;

/* Takes over what url holds.  password_file, read at each connect: NULL, or a file with the
 * password in its first line; or, with two lines, the user and the password.  files: for TLS,
 * read at each connect, too, and now, to say at once what is wrong with them.  -1: ERR_INPUT, a
 * file for TLS. */
int redis_place_new(struct redis_url *url, const char *password_file,
                    const struct redis_tls_files *files, struct redis_place **out, struct err *err);
void redis_place_free(struct redis_place **p);
const char *redis_place_name(const struct redis_place *p);

/* Connected, authenticated, database chosen, and what answers may be written to.  -1: ERR_DENIED,
 * ERR_TIMEOUT, ERR_UPSTREAM.  Names are looked up by the system, for as long as it takes. */
int redis_connection_open(struct redis_place *p, uint64_t deadline_ms,
                          struct redis_connection **out, struct err *err);
void redis_connection_free(struct redis_connection **c);

int redis_connection_send(struct redis_connection *c, const char *const *words,
                          uint64_t deadline_ms, struct err *err);
/* *reply is yours; it may be a REDIS_ERROR. */
int redis_connection_read(struct redis_connection *c, uint64_t deadline_ms,
                          struct redis_reply **reply, struct err *err);

/* For who waits by poll(): take what came, then what is whole of it (NULL: nothing more). */
int redis_connection_fd(const struct redis_connection *c);
int redis_connection_receive(struct redis_connection *c, struct err *err);
int redis_connection_next(struct redis_connection *c, struct redis_reply **reply, struct err *err);

/* Nobody asks on it: is it still good?  Something that came unasked, as an end, says that not. */
bool redis_connection_is_quiet(const struct redis_connection *c);

/* What a REDIS_ERROR means for who asked.  True: as good as away, for anybody on any connection
 * (it loads, is a replica, wants another password). */
bool redis_judge(const struct redis_reply *error, struct err *err);

#endif
