#include "proxy/connection.h"

#include <stdlib.h>
#include <sys/socket.h>

#include <utlist.h>

#include "protocol/base.h"
#include "proxy/acceptor.h"
#include "proxy/tls.h"

enum { WATCH_INTERVAL_MS = 250 };

struct connection {
    struct server *server;
    int fd;
    void *session;                 /* GnuTLS's; NULL: no TLS */
    struct tls_identity *identity; /* what the session began with */
    char *subject;                 /* of the client's certificate, or NULL */
    bool subject_known;
    enum awaiting awaiting;
    uint64_t since_ms;
    uint64_t body_timeout_ms;
    struct connection *prev, *next;
};

/* Before the handshake. */
static void begin_session(struct connection *c, struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);

    lock_take(&c->server->lock);
    c->identity = tls_identity_ref(c->server->identity);
    lock_drop(&c->server->lock);
    must(info != NULL && info->tls_session != NULL);
    c->session = info->tls_session;
    tls_session_begin(c->session, c->identity);
}

void connection_on_notice(void *cls, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    struct front *f = cls;
    struct server *s = f->server;
    struct connection *c = *context;

    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

        c = xcalloc(1, sizeof(*c));
        c->server = s;
        c->fd = info->connect_fd;
        c->since_ms = now_ms();
        *context = c;
        if (s->tls)
            begin_session(c, connection);
        lock_take(&s->lock);
        DL_APPEND(s->connections, c);
        lock_drop(&s->lock);
    } else if (c != NULL) {
        lock_take(&s->lock);
        DL_DELETE(s->connections, c);
        lock_drop(&s->lock);
        tls_identity_unref(&c->identity);
        free(c->subject);
        free(c);
        *context = NULL;
        acceptor_left(s->acceptor, f->index);
    }
}

struct connection *connection_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

    return info != NULL ? info->socket_context : NULL;
}

void connection_await(struct connection *c, enum awaiting what, const struct config *config)
{
    if (c == NULL)
        return;
    lock_take(&c->server->lock);
    c->awaiting = what;
    c->since_ms = now_ms();
    c->body_timeout_ms = config->limits.body_timeout_ms;
    lock_drop(&c->server->lock);
}

/* A certificate is looked at once: it says the same to each request. */
char *connection_subject(struct connection *c)
{
    if (c == NULL || c->session == NULL)
        return NULL;
    if (!c->subject_known)
        c->subject = tls_session_subject(c->session);
    c->subject_known = true;
    return c->subject != NULL ? xstrdup(c->subject) : NULL;
}

bool connection_last_words(struct connection *c, const char *text, size_t len)
{
    if (c == NULL)
        return false;
    if (c->session != NULL ? !tls_session_last_words(c->session, text, len)
                           : send(c->fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        return false;
    shutdown(c->fd, SHUT_WR);
    return true;
}

size_t connection_count(struct server *s)
{
    struct connection *c;
    size_t n;

    lock_take(&s->lock);
    DL_COUNT(s->connections, c, n);
    lock_drop(&s->lock);
    return n;
}

/* ---- the watchman ---- */

static bool is_overdue(const struct connection *c, const struct config *config, uint64_t now)
{
    uint64_t waited = now - c->since_ms;

    switch (c->awaiting) {
    case AWAIT_HEADERS: return waited > config->limits.header_timeout_ms;
    case AWAIT_REQUEST: return waited > config->limits.idle_timeout_ms;
    case AWAIT_BODY: return waited > c->body_timeout_ms;
    case BUSY: return false;
    }
    return false;
}

void *connection_watchman(void *server)
{
    struct server *s = server;
    struct connection *c;

    lock_take(&s->lock);
    while (!s->stopping) {
        uint64_t now = now_ms();

        /* Shutting the socket down is how another thread may end a connection of
         * libmicrohttpd's: its thread sees the end of the stream and cleans up. */
        DL_FOREACH(s->connections, c)
        {
            if (is_overdue(c, s->config, now)) {
                shutdown(c->fd, SHUT_RDWR);
                c->awaiting = BUSY;
            }
        }
        lock_wait_until(&s->lock, &s->stop_now, now + WATCH_INTERVAL_MS);
    }
    lock_drop(&s->lock);
    return NULL;
}
