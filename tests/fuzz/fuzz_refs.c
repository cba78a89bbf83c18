/* Feeding in pieces gives the same as feeding at once. */
#include "tests/fuzz/fuzz.h"

#include "protocol/refs.h"

enum { OIDS_MAX = 100 };

static struct refs_reader *read_split(uint8_t choice, const char *data, size_t size, size_t split,
                                      int *rc)
{
    enum refs_form form = choice & 1 ? REFS_LS_REFS : REFS_ADVERTISEMENT;
    enum hash_algo algo = choice & 2 ? HASH_SHA256 : HASH_SHA1;
    struct refs_reader *r = refs_reader_new(form, algo, OIDS_MAX);
    struct err err;

    *rc = 0;
    for (size_t at = 0; *rc == 0 && at < size; at += split)
        *rc = refs_reader_feed(r, data + at, size - at < split ? size - at : split, &err);
    if (*rc == 0)
        *rc = refs_reader_finish(r, &err);
    must(*rc == 0 || err.kind == ERR_UPSTREAM);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t choice = fuzz_choice(&data, &size);
    char *copy = fuzz_copy(data, size);
    int rc_whole, rc_pieces;
    struct refs_reader *whole = read_split(choice, copy, size, size + 1, &rc_whole);
    struct refs_reader *pieces = read_split(choice, copy, size, (choice >> 2) + 1u, &rc_pieces);

    must(rc_whole == rc_pieces);
    must(refs_reader_ref_count(whole) == refs_reader_ref_count(pieces));
    must(refs_reader_oids(whole)->count == refs_reader_oids(pieces)->count);
    must(refs_reader_oids(whole)->count <= OIDS_MAX);
    must(refs_reader_overflowed(whole) == refs_reader_overflowed(pieces));
    must(refs_reader_version(whole) == refs_reader_version(pieces));
    must(refs_reader_algo(whole) == refs_reader_algo(pieces));
    must((refs_reader_error(whole) == NULL) == (refs_reader_error(pieces) == NULL));
    must(refs_reader_fetch_feature(whole, "filter") == refs_reader_fetch_feature(pieces, "filter"));
    refs_reader_free(whole);
    refs_reader_free(pieces);
    free(copy);
    return 0;
}
