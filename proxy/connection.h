/* One TCP connection of the HTTP front's, TLS included, and the watchman, who ends those from which
 * nothing has come for too long: deadlines that restart at no byte, as whoever sends one byte
 * a minute would keep a connection for ever. */
#ifndef PANNIER_PROXY_CONNECTION_H
#define PANNIER_PROXY_CONNECTION_H

#include <microhttpd.h>

#include "proxy/server_part.h"

enum awaiting { AWAIT_HEADERS, AWAIT_REQUEST, AWAIT_BODY, BUSY };

/* libmicrohttpd tells that one has come, or has ended.  cls: its struct front. */
void connection_on_notice(void *cls, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode what);

/* That are open.  Any thread. */
size_t connection_count(struct server *s);

/* NULL: it isn't known, and has no deadlines.  The rest is for its HTTP thread; NULL is fine. */
struct connection *connection_of(struct MHD_Connection *connection);
/* From now on this is waited for; config: whose limits.body_timeout goes for the body. */
void connection_await(struct connection *c, enum awaiting what, const struct config *config);
/* Of the client's certificate; yours.  NULL: it showed none. */
char *connection_subject(struct connection *c);
/* Past libmicrohttpd, straight to the socket, or into the TLS session; nothing follows.  False:
 * the socket doesn't take it at once. */
bool connection_last_words(struct connection *c, const char *text, size_t len);

/* The watchman's thread, until server->stopping. */
void *connection_watchman(void *server);

#endif
