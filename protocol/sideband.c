#include "protocol/sideband.h"

#include "protocol/base.h"

const char SIDEBAND_KEEPALIVE[6] = "0005\2";

/* git's "side-band" counts the pkt's header and the band's byte into its 1000. */
enum { SMALL_PKT_MAX = 1000, BAND_BYTE = 1 };

static size_t chunk_max(enum sideband kind)
{
    must(kind == SIDEBAND_SMALL || kind == SIDEBAND_64K);
    return (size_t)(kind == SIDEBAND_SMALL ? SMALL_PKT_MAX : PKT_MAX) - PKT_HEADER - BAND_BYTE;
}

int sideband_add(struct bytes *out, enum sideband kind, enum band band, const void *data,
                 size_t len)
{
    const size_t max = chunk_max(kind);
    const char *p = data;

    while (len > 0) {
        size_t n = len < max ? len : max;

        if (out->limit - out->len < PKT_HEADER + BAND_BYTE + n)
            return -1;
        must(bytes_addf(out, "%04x%c", (unsigned)(PKT_HEADER + BAND_BYTE + n), (int)band) == 0);
        must(bytes_add(out, p, n) == 0);
        p += n;
        len -= n;
    }
    return 0;
}

bool sideband_split(const struct pkt *pkt, enum band *band, const char **data, size_t *len)
{
    if (pkt->type != PKT_DATA || pkt->len < BAND_BYTE || pkt->data[0] < BAND_PACK ||
        pkt->data[0] > BAND_ERROR)
        return false;
    *band = (enum band)pkt->data[0];
    *data = pkt->data + BAND_BYTE;
    *len = pkt->len - BAND_BYTE;
    return true;
}
