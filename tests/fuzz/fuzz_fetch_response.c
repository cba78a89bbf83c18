/* Feeding in pieces gives the same verdict, texts and offsets as feeding at once. */
#include "tests/fuzz/fuzz.h"

#include "protocol/fetch_response.h"

struct outcome {
    int feed, finish;
    uint64_t complete, pack_bytes;
    int64_t note_offset;
    bool open, refused;
    uint32_t objects;
    char error[2048];
};

static int count_bytes(void *ctx, const void *data, size_t len, struct err *err)
{
    (void)data;
    (void)err;
    must(len > 0);
    *(uint64_t *)ctx += len;
    return 0;
}

static void watch(const struct fetch_response_shape *shape, const char *data, size_t size,
                  size_t split, struct outcome *out)
{
    struct fetch_response *w;
    struct err err;

    memset(out, 0, sizeof(*out));
    w = fetch_response_new(shape, count_bytes, &out->pack_bytes);
    for (size_t at = 0; out->feed == 0 && at < size; at += split)
        out->feed = fetch_response_feed(w, data + at, size - at < split ? size - at : split, &err);
    must(out->feed == 0 || err.kind == ERR_UPSTREAM);
    out->finish = fetch_response_finish(w, &err);
    out->complete = fetch_response_complete(w);
    out->note_offset = fetch_response_note_offset(w);
    out->open = fetch_response_sideband_open(w);
    out->refused = fetch_response_refused(w);
    out->objects = fetch_response_objects(w);
    if (fetch_response_error(w) != NULL)
        strncpy(out->error, fetch_response_error(w), sizeof(out->error) - 1);
    must(out->complete <= size);
    must(out->finish != 0 || (out->feed == 0 && out->complete == size && out->error[0] == '\0'));
    fetch_response_free(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t choice = fuzz_choice(&data, &size);
    size_t split = fuzz_choice(&data, &size) + 1u;
    const struct fetch_response_shape shape = {
        .version = choice & 1 ? 2 : 0,
        .algo = choice & 2 ? HASH_SHA256 : HASH_SHA1,
        .sideband = choice & 1 || choice & 4 ? SIDEBAND_64K : SIDEBAND_NONE,
        .shallow = choice & 8,
        .done = choice & 16,
    };
    char *copy = fuzz_copy(data, size);
    struct outcome whole, pieces;

    watch(&shape, copy, size, size + 1, &whole);
    watch(&shape, copy, size, split, &pieces);
    must(whole.feed == pieces.feed && whole.finish == pieces.finish);
    must(whole.note_offset == pieces.note_offset && whole.open == pieces.open);
    must(whole.refused == pieces.refused && strcmp(whole.error, pieces.error) == 0);
    must(whole.objects == pieces.objects);
    /* A piece that turns out bad is not handed on, so only good responses count the same. */
    must(whole.feed != 0 ||
         (whole.complete == pieces.complete && whole.pack_bytes == pieces.pack_bytes));
    free(copy);
    return 0;
}
