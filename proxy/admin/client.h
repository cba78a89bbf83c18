/* Calls of the admin API over HTTP.  A home of libcurl.
 *
 *     client_new(url, token, &c, &err)      token NULL: none is shown
 *     client_call(c, "GET", "/stats", NULL, 0, &reply, &err)
 *     client_reply_clear(&reply)
 *     client_free(&c)
 *
 * One thread; a call takes as long as what it asks for, which may be minutes. */
#ifndef PANNIER_PROXY_ADMIN_CLIENT_H
#define PANNIER_PROXY_ADMIN_CLIENT_H

#include "protocol/bytes.h"
#include "protocol/err.h"

struct client;

struct client_reply {
    int status;
    unsigned retry_after_s; /* its header's; 0: none */
    struct bytes body;
};

/* -1: ERR_INPUT, the URL is none of http or https. */
int client_new(const char *url, const char *token, struct client **out, struct err *err);
void client_free(struct client **c);

/* path: below /api/v1, with its query.  body NULL: none.  0: there was a reply, whatever its
 * status. -1: ERR_UPSTREAM, it can't be reached; ERR_LIMIT, it says too much. */
int client_call(struct client *c, const char *method, const char *path, const char *body,
                size_t body_len, struct client_reply *out, struct err *err);
void client_reply_clear(struct client_reply *r);

#endif
