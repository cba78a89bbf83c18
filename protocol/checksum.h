/* XXH3 of 128 bits: tells damage and mistakes, at ten times the speed of SHA-256, but whoever wants
 * to can make other bytes with the same sum.  The home of xxHash: no other file includes its
 * header. */
#ifndef PANNIER_PROTOCOL_CHECKSUM_H
#define PANNIER_PROTOCOL_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

enum { CHECKSUM_SIZE = 16 };

/* A running sum. */
struct checksum;
struct checksum *checksum_new(void);
void checksum_free(struct checksum *c); /* NULL is fine */
void checksum_update(struct checksum *c, const void *data, size_t len);
/* Of what came since it was new, or since this was last called. */
void checksum_take(struct checksum *c, uint8_t out[CHECKSUM_SIZE]);

#endif
