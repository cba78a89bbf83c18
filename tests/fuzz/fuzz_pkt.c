/* Feeding in pieces sees the same pkts as reading at once; what was read can be written again. */
#include "tests/fuzz/fuzz.h"

#include "protocol/pkt.h"
#include "protocol/sideband.h"

enum { LOG_MAX = 1 << 24 };

static int write_again(void *ctx, const struct pkt *pkt, struct err *err)
{
    struct bytes *out = ctx;
    const char *data;
    size_t len;
    enum band band;

    (void)err;
    if (sideband_split(pkt, &band, &data, &len))
        must(len == pkt->len - 1);
    switch (pkt->type) {
    case PKT_DATA: must(pkt_add(out, pkt->data, pkt->len) == 0); break;
    case PKT_FLUSH: must(pkt_add_flush(out) == 0); break;
    case PKT_DELIM: must(pkt_add_delim(out) == 0); break;
    case PKT_RESPONSE_END: must(bytes_add_str(out, "0002") == 0); break;
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t split = fuzz_choice(&data, &size) + 1u;
    char *copy = fuzz_copy(data, size);
    const char *p = copy;
    size_t left = size;
    struct pkt_reader reader;
    struct bytes whole, pieces;
    struct pkt pkt;
    struct err err;
    int rc, rc_pieces = 0;

    bytes_init(&whole, LOG_MAX);
    bytes_init(&pieces, LOG_MAX);
    pkt_reader_init(&reader);
    while ((rc = pkt_next(&p, &left, &pkt, &err)) == 1)
        write_again(&whole, &pkt, &err);
    for (size_t at = 0; rc_pieces == 0 && at < size; at += split)
        rc_pieces = pkt_reader_feed(&reader, copy + at, size - at < split ? size - at : split,
                                    write_again, &pieces, &err);
    must(rc == rc_pieces);
    must(whole.len == pieces.len && whole.len == size - left);
    must(whole.len == 0 || memcmp(whole.data, pieces.data, whole.len) == 0);
    must(rc != 0 || pkt_reader_at_boundary(&reader) == (left == 0));
    pkt_reader_clear(&reader);
    bytes_clear(&whole);
    bytes_clear(&pieces);
    free(copy);
    return 0;
}
