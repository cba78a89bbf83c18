#include "protocol/checksum.h"

#include <string.h>

#include <xxhash.h>

#include "protocol/base.h"

/* The library's state is opaque, and aligned as malloc() does not. */
static XXH3_state_t *state_of(struct checksum *c)
{
    return (XXH3_state_t *)c;
}

struct checksum *checksum_new(void)
{
    XXH3_state_t *state = XXH3_createState();

    must(state != NULL && XXH3_128bits_reset(state) == XXH_OK);
    return (struct checksum *)state;
}

void checksum_free(struct checksum *c)
{
    XXH3_freeState(state_of(c));
}

void checksum_update(struct checksum *c, const void *data, size_t len)
{
    must(XXH3_128bits_update(state_of(c), data, len) == XXH_OK);
}

void checksum_take(struct checksum *c, uint8_t out[CHECKSUM_SIZE])
{
    XXH128_canonical_t bytes; /* alike on all machines */

    XXH128_canonicalFromHash(&bytes, XXH3_128bits_digest(state_of(c)));
    _Static_assert(sizeof(bytes.digest) == CHECKSUM_SIZE, "a sum has 128 bits");
    memcpy(out, bytes.digest, CHECKSUM_SIZE);
    must(XXH3_128bits_reset(state_of(c)) == XXH_OK);
}
