#include "proxy/admin/call.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "protocol/base.h"
#include "proxy/control.h"

struct call *call_of(struct exchange *x)
{
    return x->state;
}

void call_free(void *call)
{
    struct call *c = call;

    free(c->id);
    query_clear(&c->query);
    json_decref(c->body);
    free(c);
}

/* ---- replies ---- */

json_t *json_words(const char *s)
{
    return s != NULL ? control_string(s) : json_null();
}

json_t *json_number(uint64_t n)
{
    return n <= INT64_MAX ? json_integer((json_int_t)n) : json_null();
}

static void reply_typed(struct exchange *x, int status, const char *type, json_t *json,
                        const char *result)
{
    char *text;
    size_t len;

    must(json != NULL);
    text = json_dumps(json, JSON_COMPACT);
    must(text != NULL);
    json_decref(json);
    len = strlen(text);
    text[len] = '\n'; /* in place of its NUL */
    reply_header(x, "Cache-Control", "no-store");
    reply_bytes(x, status, type, text, len + 1, result);
    free(text);
}

void reply_json_as(struct exchange *x, int status, json_t *json, const char *result)
{
    reply_typed(x, status, "application/json", json, result);
}

void reply_json(struct exchange *x, int status, json_t *json)
{
    reply_json_as(x, status, json, "admin");
}

static const char *title_of(int status)
{
    switch (status) {
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 409: return "Conflict";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 421: return "Misdirected Request";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    default: return "Internal Server Error";
    }
}

void reply_problem(struct exchange *x, int status, const char *field, const char *fmt, ...)
{
    char detail[ERR_TEXT_MAX];
    json_t *json;
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(detail, sizeof(detail), fmt, ap);
    va_end(ap);
    json = json_pack("{s:s, s:s, s:i, s:o, s:o*}", "type", "about:blank", "title", title_of(status),
                     "status", status, "detail", control_string(detail), "field",
                     field != NULL ? control_string(field) : NULL);
    reply_typed(x, status, "application/problem+json", json, status < 500 ? "refused" : "error");
}

void reply_failure(struct exchange *x, const struct err *why)
{
    static const struct {
        enum err_kind kind;
        int status;
    } statuses[] = {
        {ERR_INPUT, 400},    {ERR_LIMIT, 413},   {ERR_REFUSED, 403}, {ERR_NOT_FOUND, 404},
        {ERR_CONFLICT, 409}, {ERR_DENIED, 502},  {ERR_BUSY, 503},    {ERR_CANCELLED, 503},
        {ERR_UPSTREAM, 502}, {ERR_TIMEOUT, 504}, {ERR_DOWN, 502},    {ERR_THROTTLED, 503},
    };
    int status = 500;

    for (size_t i = 0; i < ARRAY_LEN(statuses); i++)
        if (statuses[i].kind == why->kind)
            status = statuses[i].status;
    if (status == 503)
        reply_header(x, "Retry-After", "5");
    reply_problem(x, status, NULL, "%s", why->text);
}

/* ---- the query ---- */

bool call_parse_query(struct exchange *x, struct call *c, const char *query)
{
    struct err why;
    char *name;
    bool read = query_parse(query, &c->query, &name, &why) == 0;

    if (!read)
        reply_problem(x, 400, name, "%s", why.text);
    free(name);
    return read;
}

static bool is_among(const char *name, const char *const *names)
{
    for (; *names != NULL; names++)
        if (strcmp(*names, name) == 0)
            return true;
    return false;
}

bool call_knows(struct exchange *x, const char *const *names)
{
    const struct call *c = call_of(x);

    for (size_t i = 0; i < c->query.count; i++)
        if (!is_among(c->query.parameters[i].name, names)) {
            reply_problem(x, 400, c->query.parameters[i].name, "this is no parameter of this call");
            return false;
        }
    return true;
}

const char *call_parameter(const struct exchange *x, const char *name)
{
    const struct call *c = x->state;

    return query_get(&c->query, name);
}

bool call_page(struct exchange *x, size_t *limit, const char **cursor)
{
    const char *text = call_parameter(x, "limit");
    char *end;
    unsigned long n;

    *cursor = call_parameter(x, "cursor");
    *limit = CALL_PAGE_DEFAULT;
    if (text == NULL)
        return true;
    n = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || n < 1 || n > CALL_PAGE_MAX) {
        reply_problem(x, 400, "limit", "write a number from 1 to %d", CALL_PAGE_MAX);
        return false;
    }
    *limit = n;
    return true;
}

bool call_repository(struct exchange *x, struct key *out)
{
    if (key_from_hex(call_of(x)->id, out))
        return true;
    reply_problem(x, 404, "id", "a repository's id is 64 hex digits; see GET /api/v1/repositories");
    return false;
}

/* ---- the body ---- */

json_t *call_body(struct exchange *x)
{
    struct call *c = call_of(x);
    json_error_t why;

    if (x->body.len > CALL_BODY_MAX) {
        reply_problem(x, 413, NULL, "a body has at most %d bytes here", CALL_BODY_MAX);
        return NULL;
    }
    if (x->body.len == 0)
        return c->body = json_object();
    /* A page elsewhere may send forms and plain text here, but not this without being asked. */
    if (x->content_type == NULL ||
        strncasecmp(x->content_type, "application/json", strlen("application/json")) != 0) {
        reply_problem(x, 415, NULL, "a body has to be application/json");
        return NULL;
    }
    c->body = json_loadb(x->body.data, x->body.len, JSON_REJECT_DUPLICATES, &why);
    if (c->body == NULL) {
        reply_problem(x, 400, NULL, "the body is no JSON: %s (line %d, column %d)", why.text,
                      why.line, why.column);
        return NULL;
    }
    if (!json_is_object(c->body)) {
        reply_problem(x, 400, NULL, "the body is no JSON object");
        return NULL;
    }
    return c->body;
}

bool call_body_knows(struct exchange *x, const char *const *names)
{
    const char *name;
    json_t *value;

    json_object_foreach(call_of(x)->body, name, value)
    {
        if (!is_among(name, names)) {
            reply_problem(x, 400, name, "this is no member of this call's body");
            return false;
        }
    }
    return true;
}

bool call_bool(struct exchange *x, const char *name, bool *out)
{
    json_t *value = json_object_get(call_of(x)->body, name);

    if (value != NULL && !json_is_boolean(value)) {
        reply_problem(x, 400, name, "write true or false");
        return false;
    }
    if (value != NULL)
        *out = json_is_true(value);
    return true;
}

bool call_string(struct exchange *x, const char *name, const char **out)
{
    json_t *value = json_object_get(call_of(x)->body, name);

    if (value == NULL)
        return true;
    if (!json_is_string(value) || json_string_length(value) == 0 ||
        json_string_length(value) > CALL_TEXT_MAX ||
        strlen(json_string_value(value)) != json_string_length(value)) {
        reply_problem(x, 400, name, "write a text of 1 to %d bytes", CALL_TEXT_MAX);
        return false;
    }
    *out = json_string_value(value);
    return true;
}
