/* TLS towards clients: what we show them, and whose certificates we believe.  The home of GnuTLS,
 * by which libmicrohttpd speaks TLS; HTTP is 1.1, TLS 1.2 or newer.
 *
 *     tls_identity_load(&files, &identity, &err)     at start, and on each reload
 *     tls_session_begin(session, identity)           when a connection has been accepted
 *     tls_session_subject(session)                   when its first request has come
 *     tls_identity_unref(&identity)                  when the connection has ended
 *
 * libmicrohttpd takes certificates only when it is started, so each session is given ours before
 * its handshake.  A session keeps what it began with: a reload is for those that come after it, and
 * what is under way goes on.  An identity is immutable and counted; any thread. */
#ifndef PANNIER_PROXY_TLS_H
#define PANNIER_PROXY_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

/* For MHD_OPTION_HTTPS_PRIORITIES. */
#define TLS_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

enum tls_client { TLS_CLIENT_REQUIRED, TLS_CLIENT_OPTIONAL };

/* Paths of PEM files; borrowed. */
struct tls_files {
    const char *certificate; /* ours first, then what leads to a root */
    const char *key;
    const char *client_ca;  /* NULL: clients are asked for no certificate */
    enum tls_client client; /* with client_ca: may they come without one? */
};

struct tls_identity;
/* -1: ERR_INPUT, one sentence that names the file. */
int tls_identity_load(const struct tls_files *files, struct tls_identity **out, struct err *err);
struct tls_identity *tls_identity_ref(struct tls_identity *id);
void tls_identity_unref(struct tls_identity **id); /* NULL is fine */
/* When the first certificate of ours to do so runs out, in seconds since 1970. */
int64_t tls_identity_expires(const struct tls_identity *id);

/* session is libmicrohttpd's gnutls_session_t, on its thread.  Before the handshake; id must live
 * as long as the session. */
void tls_session_begin(void *session, const struct tls_identity *id);
/* The subject of the client's verified certificate, as in RFC 4514 ("CN=ci,O=Example"); NULL
 * without one.  Yours to free. */
char *tls_session_subject(void *session);
/* Send data past libmicrohttpd, and that nothing follows.  Only between two of its own calls; false
 * when the socket doesn't take it at once. */
bool tls_session_last_words(void *session, const char *data, size_t len);

/* libmicrohttpd wants to know where certificates come from before it starts; this is never asked,
 * as each session has its own. */
typedef void tls_unused_fn(void);
tls_unused_fn *tls_unused(void);

#endif
