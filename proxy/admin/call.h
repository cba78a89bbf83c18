/* One call of the admin API: what was asked, and how it is answered.  For the handlers in
 * proxy/admin/, each of which is an exchange_fn and ends with one of the reply functions here.
 *
 * What is wrong with a request is said as a problem document (RFC 9457) with the member `field`
 * where one is to blame. */
#ifndef PANNIER_PROXY_ADMIN_CALL_H
#define PANNIER_PROXY_ADMIN_CALL_H

#include <jansson.h>
#include <stdbool.h>

#include "proxy/admin/query.h"
#include "proxy/admin/tokens.h"
#include "proxy/exchange.h"

enum {
    CALL_BODY_MAX = 64 * 1024, /* no request has more to say */
    CALL_PAGE_DEFAULT = 100,
    CALL_PAGE_MAX = 1000, /* entries of one response */
    CALL_TEXT_MAX = 1024, /* of one value */
};

struct call {
    const char *method; /* of the route */
    char *id;           /* what stands in {id}'s place; NULL: nothing does */
    struct query query;
    json_t *body; /* an object, once call_body() has read it */
    char who[TOKEN_NAME_MAX];
    unsigned scopes; /* enum scope: what whoever asks may do */
};

/* The call of x. */
struct call *call_of(struct exchange *x);
/* Splits what stands behind '?'.  False: it was answered with a problem. */
bool call_parse_query(struct exchange *x, struct call *c, const char *query);
void call_free(void *call);

/* ---- what was asked ---- */

/* False: there are parameters besides these (ended by NULL), and that was answered. */
bool call_knows(struct exchange *x, const char *const *names);
/* A parameter, or NULL. */
const char *call_parameter(const struct exchange *x, const char *name);
/* How many entries, and from where on.  False: answered. */
bool call_page(struct exchange *x, size_t *limit, const char **cursor);
/* {id} as a repository's id.  False: it is none, which was answered by 404. */
bool call_repository(struct exchange *x, struct key *out);
/* The body as an object, {} without one.  NULL: answered.  Borrowed. */
json_t *call_body(struct exchange *x);
/* False: the object has members besides these, and that was answered. */
bool call_body_knows(struct exchange *x, const char *const *names);
/* A member; false: it has another type, which was answered.  What isn't there leaves *out alone. */
bool call_bool(struct exchange *x, const char *name, bool *out);
bool call_string(struct exchange *x, const char *name, const char **out);

/* ---- how it is answered ---- */

/* Steals json. */
void reply_json(struct exchange *x, int status, json_t *json);
/* The same for requests of others than operators: result as reply_bytes() takes it. */
void reply_json_as(struct exchange *x, int status, json_t *json, const char *result);
void reply_problem(struct exchange *x, int status, const char *field, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Of what failed here, by its kind. */
void reply_failure(struct exchange *x, const struct err *why);

/* NULL becomes null, UINT64_MAX too. */
json_t *json_words(const char *s);
json_t *json_number(uint64_t n);

#endif
