/* What every file may use: assertions that stay on, and allocation that cannot fail.
 *
 * Three kinds of wrong have three words here.  A bug of ours: must() aborts, in release
 * builds too.  The world's fault (network, disk, peers): return -1 and fill a struct err
 * (protocol/err.h).  No memory: the x-functions abort, so every size that comes from
 * outside is bounded before it reaches them. */
#ifndef PANNIER_PROTOCOL_BASE_H
#define PANNIER_PROTOCOL_BASE_H

#include <stddef.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Abort with the place and the text of the condition when it does not hold. */
#define must(cond) ((cond) ? (void)0 : must_failed(#cond, __FILE__, __LINE__))

_Noreturn void must_failed(const char *what, const char *file, int line);

/* As malloc, calloc, realloc, strdup, strndup and asprintf, but never NULL: they abort.
 * Any thread. */
void *xmalloc(size_t size);
void *xcalloc(size_t count, size_t size);
void *xrealloc(void *p, size_t size);
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t len);
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
