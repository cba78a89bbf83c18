#include "proxy/admin/query.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"
#include "protocol/digest.h"

void query_clear(struct query *q)
{
    for (size_t i = 0; i < q->count; i++) {
        free(q->parameters[i].name);
        free(q->parameters[i].value);
    }
    q->count = 0;
}

const char *query_get(const struct query *q, const char *name)
{
    for (size_t i = 0; i < q->count; i++)
        if (strcmp(q->parameters[i].name, name) == 0)
            return q->parameters[i].value;
    return NULL;
}

/* The byte that *s begins with; 0 for what is none, and for an escaped NUL. */
static char take_byte(const char **s, const char *end)
{
    char c = *(*s)++;
    int high, low;

    if (c == '+')
        return ' ';
    if (c != '%')
        return c;
    if (end - *s < 2)
        return '\0';
    high = hex_value((*s)[0]);
    low = hex_value((*s)[1]);
    *s += 2;
    return high < 0 || low < 0 ? '\0' : (char)(high * 16 + low);
}

/* NULL: a broken escape, a NUL, or more than QUERY_TEXT_MAX. */
static char *unescape(const char *s, size_t len)
{
    const char *end = s + len;
    char *out = xmalloc(len + 1);
    size_t n = 0;

    while (s < end) {
        char c = take_byte(&s, end);

        if (c == '\0' || n == QUERY_TEXT_MAX) {
            free(out);
            return NULL;
        }
        out[n++] = c;
    }
    out[n] = '\0';
    return out;
}

static int check(const struct query *q, const char *name, const char *value, struct err *err)
{
    if (name == NULL || value == NULL)
        return err_set(err, ERR_INPUT, "a parameter of the query can't be read, or is too long");
    if (query_get(q, name) != NULL)
        return err_set(err, ERR_INPUT, "this parameter stands there twice");
    if (q->count == QUERY_PARAMETERS_MAX)
        return err_set(err, ERR_INPUT, "there are more than %d parameters", QUERY_PARAMETERS_MAX);
    return 0;
}

static int add(struct query *q, const char *s, size_t len, char **to_blame, struct err *err)
{
    const char *equals = memchr(s, '=', len);
    size_t name_len = equals != NULL ? (size_t)(equals - s) : len;
    char *name = unescape(s, name_len);
    char *value = equals != NULL ? unescape(equals + 1, len - name_len - 1) : xstrdup("");

    if (check(q, name, value, err) != 0) {
        *to_blame = name;
        free(value);
        return -1;
    }
    q->parameters[q->count].name = name;
    q->parameters[q->count++].value = value;
    return 0;
}

int query_parse(const char *text, struct query *out, char **name, struct err *err)
{
    *out = (struct query){.count = 0};
    *name = NULL;
    while (*text != '\0') {
        size_t len = strcspn(text, "&");

        if (len > 0 && add(out, text, len, name, err) != 0) {
            query_clear(out);
            return -1;
        }
        text += len + (text[len] == '&');
    }
    return 0;
}
