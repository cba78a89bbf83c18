/* RFC 4648's base64: the usual alphabet for HTTP's Basic scheme, the URL's for tokens. */
#ifndef PANNIER_PROTOCOL_BASE64_H
#define PANNIER_PROTOCOL_BASE64_H

#include <stddef.h>

/* With padding; yours to free. */
char *base64_encode(const void *data, size_t len);
/* With '-' and '_', without padding; yours to free. */
char *base64url_encode(const void *data, size_t len);

/* text up to its NUL, in the usual alphabet, padded or not.  NULL: it is no base64.  Else yours to
 * free: *len bytes and a NUL behind them. */
char *base64_decode(const char *text, size_t *len);

#endif
