/* A growable buffer that knows its limit.
 *
 *     struct bytes b;
 *     bytes_init(&b, limit);
 *     if (bytes_add(&b, data, len) != 0) ... over the limit, b is as it was
 *     bytes_clear(&b);
 *
 * data[len] is always readable and 0, so text may be used as a C string; data is never NULL
 * after the first add and may be NULL before.  Not thread-safe. */
#ifndef PANNIER_PROTOCOL_BYTES_H
#define PANNIER_PROTOCOL_BYTES_H

#include <stddef.h>

struct bytes {
    char *data;
    size_t len;
    size_t cap;
    size_t limit; /* len never passes it */
};

void bytes_init(struct bytes *b, size_t limit);

/* Frees what b holds and leaves it as after bytes_init with the same limit. */
void bytes_clear(struct bytes *b);

/* Forget the content, keep the memory. */
void bytes_reset(struct bytes *b);

/* Append.  -1 when that would pass the limit; then nothing was appended. */
int bytes_add(struct bytes *b, const void *data, size_t len);
int bytes_add_str(struct bytes *b, const char *s);
int bytes_addf(struct bytes *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Drop the first n bytes (n <= len). */
void bytes_drop_front(struct bytes *b, size_t n);

/* Hand over the memory (free() it); b is empty afterwards.  Never NULL. */
char *bytes_take(struct bytes *b, size_t *len);

#endif
