/* Feeding in pieces gives the same verdict as feeding at once.  Bit 7 of the choice puts the right
 * checksum behind the input, which hunting alone would never find. */
#include "tests/fuzz/fuzz.h"

#include "protocol/bytes.h"
#include "protocol/pack_watch.h"

static int watch(enum hash_algo algo, const struct bytes *pack, size_t split, uint32_t *objects)
{
    struct pack_watch *w = pack_watch_new(algo);
    struct err err;
    int rc = 0;

    for (size_t at = 0; rc == 0 && at < pack->len; at += split)
        rc = pack_watch_feed(w, pack->data + at, pack->len - at < split ? pack->len - at : split,
                             &err);
    if (rc == 0)
        rc = pack_watch_finish(w, &err);
    must(rc == 0 || err.kind == ERR_UPSTREAM);
    must(rc != 0 || pack_watch_bytes(w) == pack->len);
    *objects = pack_watch_objects(w);
    pack_watch_free(w);
    return rc;
}

static void add_checksum(enum hash_algo algo, struct bytes *pack)
{
    struct digest *d = digest_new(algo);
    uint8_t sum[DIGEST_MAX];

    digest_update(d, pack->data, pack->len);
    digest_final(d, sum);
    digest_free(d);
    must(bytes_add(pack, sum, hash_size(algo)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t choice = fuzz_choice(&data, &size);
    enum hash_algo algo = choice & 1 ? HASH_SHA256 : HASH_SHA1;
    uint32_t objects_whole, objects_pieces;
    struct bytes pack;

    bytes_init(&pack, size + DIGEST_MAX);
    must(bytes_add(&pack, data, size) == 0);
    if (choice & 0x80)
        add_checksum(algo, &pack);
    must(watch(algo, &pack, pack.len + 1, &objects_whole) ==
         watch(algo, &pack, (choice >> 1 & 31) + 1u, &objects_pieces));
    must(objects_whole == objects_pieces);
    bytes_clear(&pack);
    return 0;
}
