/* No bytes do harm as a head; and what is read of one is, written again, read as the same.  The
 * digests in an input are mended first if its choice says so, or nothing would come past them. */
#include "tests/fuzz/fuzz.h"

#include "cache/shared/shared_answer.h"

enum {
    REST_AT = SHARED_ANSWER_FIXED - 24 - SHA256_SIZE, /* the digest of what follows */
    CHECK_AT = SHARED_ANSWER_FIXED - 24,
    TEXT_MAX = 1 << 20,
};

static void mend(char *head, size_t size)
{
    struct key digest;

    if (size < SHARED_ANSWER_FIXED)
        return;
    key_of(head + SHARED_ANSWER_FIXED, size - SHARED_ANSWER_FIXED, &digest);
    memcpy(head + REST_AT, digest.raw, SHA256_SIZE);
    key_of(head, CHECK_AT, &digest);
    memcpy(head + CHECK_AT, digest.raw, SHARED_ANSWER_FIXED - CHECK_AT);
}

/* What it says is what a reader makes room for. */
static bool is_bounded(const char *head, size_t size, size_t *said)
{
    enum { SAID_MAX = 5 << 20 };
    struct err err;

    if (size < SHARED_ANSWER_FIXED)
        return false;
    if (shared_answer_head_size(head, size, said, &err) == 0) {
        must(*said >= SHARED_ANSWER_FIXED && *said <= SAID_MAX);
        return true;
    }
    must(err.kind == ERR_CORRUPT || err.kind == ERR_REFUSED);
    return false;
}

static void check_same(const struct shared_answer_head *a, const struct shared_answer_head *b)
{
    must(a->packed == b->packed && a->stored_size == b->stored_size);
    must(memcmp(a->answer.sha256, b->answer.sha256, SHA256_SIZE) == 0);
    must(a->answer.entry.size == b->answer.entry.size);
    must(strcmp(a->answer.entry.repo_id, b->answer.entry.repo_id) == 0);
    must(strcmp(a->answer.entry.path, b->answer.entry.path) == 0);
    must(a->pieces_count == b->pieces_count);
    must(a->pieces_count == 0 ||
         memcmp(a->pieces, b->pieces, a->pieces_count * CHECKSUM_SIZE) == 0);
}

static void try_it(const char *head, size_t size)
{
    struct shared_answer_head h, again;
    size_t said = 0;
    bool bounded = is_bounded(head, size, &said);
    struct bytes text;
    struct err err;

    if (shared_answer_head_read(head, size, &h, &err) != 0) {
        must(err.kind == ERR_CORRUPT || err.kind == ERR_REFUSED);
        must(h.pieces == NULL && h.answer.entry.repo_id == NULL);
        return;
    }
    must(bounded && said == size);
    must(h.pieces_count == shared_answer_pieces(h.stored_size));
    bytes_init(&text, TEXT_MAX);
    if (shared_answer_head_write(&h, &text, &err) == 0) {
        must(shared_answer_head_read(text.data, text.len, &again, &err) == 0);
        check_same(&h, &again);
        shared_answer_head_clear(&again);
    } else {
        must(err.kind == ERR_INPUT); /* longer with its escapes, or than text */
    }
    bytes_clear(&text);
    shared_answer_head_clear(&h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool mended = fuzz_choice(&data, &size) % 2 == 1;
    char *copy = fuzz_copy(data, size);

    if (mended)
        mend(copy, size);
    try_it(copy, size);
    free(copy);
    return 0;
}
