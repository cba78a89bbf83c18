/* What stands behind '?' in a request's target: names and values, unescaped.  Pure. */
#ifndef PANNIER_PROXY_ADMIN_QUERY_H
#define PANNIER_PROXY_ADMIN_QUERY_H

#include <stddef.h>

#include "protocol/err.h"

enum {
    QUERY_PARAMETERS_MAX = 16,
    QUERY_TEXT_MAX = 1024, /* of one name or value */
};

struct query {
    struct {
        char *name, *value;
    } parameters[QUERY_PARAMETERS_MAX];
    size_t count;
};

/* 0: *out is yours to clear.  -1: ERR_INPUT; *name is then the parameter that is to blame, yours,
 * or NULL where not even that can be read. */
int query_parse(const char *text, struct query *out, char **name, struct err *err);
void query_clear(struct query *q);
const char *query_get(const struct query *q, const char *name); /* or NULL */

#endif
