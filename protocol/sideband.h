/* The multiplexing inside pkts once a pack is on its way: band 1 pack data, 2 text for the
 * person, 3 a fatal error.  Source: git's gitprotocol-pack.txt, "Packfile Data". */
#ifndef PANNIER_PROTOCOL_SIDEBAND_H
#define PANNIER_PROTOCOL_SIDEBAND_H

#include <stdbool.h>
#include <stddef.h>

#include "protocol/bytes.h"
#include "protocol/pkt.h"

enum sideband {
    SIDEBAND_NONE = 0, /* the response is a bare pack */
    SIDEBAND_SMALL,    /* "side-band": pkts of at most 1000 bytes */
    SIDEBAND_64K,      /* "side-band-64k"; what v2 always uses */
};

enum band { BAND_PACK = 1, BAND_PROGRESS = 2, BAND_ERROR = 3 };

/* An empty progress pkt: shows nothing, resets the clients' low-speed guards. */
extern const char SIDEBAND_KEEPALIVE[6]; /* "0005\2", 5 bytes and a NUL */

/* Append data on band, split into as many pkts as kind needs (kind is not SIDEBAND_NONE).
 * -1 at the buffer's limit. */
int sideband_add(struct bytes *out, enum sideband kind, enum band band, const void *data,
                 size_t len);

/* False when pkt is not a data pkt with a band of 1, 2 or 3 as its first byte. */
bool sideband_split(const struct pkt *pkt, enum band *band, const char **data, size_t *len);

#endif
