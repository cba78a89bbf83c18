#include "protocol/bytes.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

void bytes_init(struct bytes *b, size_t limit)
{
    *b = (struct bytes){.limit = limit};
}

void bytes_clear(struct bytes *b)
{
    free(b->data);
    bytes_init(b, b->limit);
}

void bytes_reset(struct bytes *b)
{
    b->len = 0;
    if (b->data != NULL)
        b->data[0] = '\0';
}

static void reserve(struct bytes *b, size_t more)
{
    size_t cap = b->cap > 0 ? b->cap : 64;

    if (b->len + more + 1 <= b->cap)
        return;
    while (cap < b->len + more + 1)
        cap *= 2;
    b->data = xrealloc(b->data, cap);
    b->cap = cap;
}

int bytes_add(struct bytes *b, const void *data, size_t len)
{
    if (len > b->limit - b->len)
        return -1;
    reserve(b, len);
    if (len > 0)
        memcpy(b->data + b->len, data, len);
    b->len += len;
    b->data[b->len] = '\0';
    return 0;
}

int bytes_add_str(struct bytes *b, const char *s)
{
    return bytes_add(b, s, strlen(s));
}

int bytes_addf(struct bytes *b, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    must(n >= 0);
    if ((size_t)n > b->limit - b->len)
        return -1;
    reserve(b, (size_t)n);
    va_start(ap, fmt);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
    return 0;
}

void bytes_drop_front(struct bytes *b, size_t n)
{
    must(n <= b->len);
    if (n == 0)
        return;
    memmove(b->data, b->data + n, b->len - n + 1);
    b->len -= n;
}

char *bytes_take(struct bytes *b, size_t *len)
{
    char *data;

    reserve(b, 0);
    b->data[b->len] = '\0';
    data = b->data;
    if (len != NULL)
        *len = b->len;
    bytes_init(b, b->limit);
    return data;
}
