/* How a reply goes out, once it is decided: out of memory, or behind an answer; by sendfile where
 * its length is known. */
#ifndef PANNIER_PROXY_SENDING_H
#define PANNIER_PROXY_SENDING_H

#include "proxy/server_part.h"

/* Hands the response over to libmicrohttpd, which calls for its bytes.  HTTP thread.  False: it
 * can't be had, and the connection is to be broken off. */
bool sending_start(struct server_part *p);

#endif
