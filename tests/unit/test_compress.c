#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/compress.h"
#include "tests/unit/scratch.h"

enum { BIG = 3 << 20 };

struct place {
    struct scratch scratch;
    int from, packed, to;
};

static int open_new(const struct place *p, const char *name)
{
    char *path = scratch_path(&p->scratch, name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    free(path);
    return fd;
}

static void place_init(struct place *p)
{
    scratch_init(&p->scratch);
    p->from = open_new(p, "from");
    p->packed = open_new(p, "packed");
    p->to = open_new(p, "to");
}

static void place_clear(struct place *p)
{
    close(p->from);
    close(p->packed);
    close(p->to);
    scratch_clear(&p->scratch);
}

static void put_at(int fd, const void *data, size_t len, off_t at)
{
    assert_int_equal(pwrite(fd, data, len, at), (ssize_t)len);
}

static void put_text(int fd, size_t len)
{
    char *text = xmalloc(len + 64);

    for (size_t at = 0, n = 0; at < len; n++)
        at += (size_t)sprintf(text + at, "{\"path\": \"src/file%zu.c\", \"n\": %zu}\n", n % 977, n);
    put_at(fd, text, len, 0);
    free(text);
}

/* What deflated data looks like from outside. */
static void put_noise(int fd, size_t len, off_t at)
{
    uint8_t *noise = xmalloc(len);
    uint64_t x = 88172645463325252u;

    for (size_t i = 0; i < len; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        noise[i] = (uint8_t)(x >> 32);
    }
    put_at(fd, noise, len, at);
    free(noise);
}

static void check_same(int a, int b, size_t len)
{
    char *left = xmalloc(len + 1), *right = xmalloc(len + 1);

    assert_int_equal(pread(a, left, len, 0), (ssize_t)len);
    assert_int_equal(pread(b, right, len + 1, 0), (ssize_t)len);
    assert_memory_equal(left, right, len);
    free(left);
    free(right);
}

/* Where the pieces go. */
struct target {
    int fd;
    off_t at;
};

static int put_piece(void *ctx, const void *data, size_t len, struct err *err)
{
    struct target *t = ctx;

    if (pwrite(t->fd, data, len, t->at) != (ssize_t)len)
        return err_set(err, ERR_STORAGE, "no room");
    t->at += (off_t)len;
    return 0;
}

static int unpacked(int from, uint64_t frame_len, int to, uint64_t len, struct err *err)
{
    struct target t = {to, 0};
    struct decompressor *d = decompressor_new(len, put_piece, &t);
    char block[7000];
    int rc = 0;

    for (uint64_t at = 0; rc == 0 && at < frame_len;) {
        size_t want = frame_len - at < sizeof(block) ? (size_t)(frame_len - at) : sizeof(block);
        ssize_t n = pread(from, block, want, (off_t)at);

        if (n <= 0)
            break;
        rc = decompressor_take(d, block, (size_t)n, err);
        at += (uint64_t)n;
    }
    if (rc == 0)
        rc = decompressor_end(d, err);
    decompressor_free(&d);
    return rc;
}

static int pack(int from, uint64_t len, int to, uint64_t *frame_len, struct err *err)
{
    struct target t = {to, 0};
    int rc = compress_file(from, len, put_piece, &t, err);

    *frame_len = (uint64_t)t.at;
    return rc;
}

static uint64_t packed(const struct place *p, uint64_t len)
{
    uint64_t frame_len = 0;
    struct err err;

    assert_int_equal(pack(p->from, len, p->packed, &frame_len, &err), 0);
    assert_int_equal(lseek(p->packed, 0, SEEK_END), (off_t)frame_len);
    return frame_len;
}

static void check_corrupt(const struct place *p, uint64_t frame_len, uint64_t len)
{
    struct err err = {0};

    assert_int_equal(unpacked(p->packed, frame_len, p->to, len, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
    assert_true(strlen(err.text) > 0);
}

/* ---- does it pay ---- */

static void text_pays_and_noise_does_not(void **state)
{
    struct place p;

    (void)state;
    place_init(&p);
    put_text(p.from, BIG);
    assert_true(compress_pays(p.from, BIG));
    assert_true(compress_pays(p.from, 20000)); /* fewer bytes than the samples have */
    put_noise(p.from, BIG, 0);
    assert_false(compress_pays(p.from, BIG));
    assert_false(compress_pays(p.from, 20000));
    place_clear(&p);
}

static void a_beginning_of_text_does_not_make_noise_pay(void **state)
{
    struct place p;

    (void)state;
    place_init(&p);
    put_text(p.from, BIG / 8);
    put_noise(p.from, BIG - BIG / 8, BIG / 8);
    assert_false(compress_pays(p.from, BIG));
    place_clear(&p);
}

static void what_is_small_or_cannot_be_read_does_not_pay(void **state)
{
    struct place p;

    (void)state;
    place_init(&p);
    put_text(p.from, 100000);
    assert_false(compress_pays(p.from, 0));
    assert_false(compress_pays(p.from, 4096));
    assert_false(compress_pays(p.from, BIG)); /* there are not so many */
    assert_false(compress_pays(-1, BIG));
    place_clear(&p);
}

/* ---- packing and unpacking ---- */

static void what_was_packed_unpacks_to_what_it_was(void **state)
{
    static const size_t sizes[] = {0, 1, 5000, (128 << 10) - 1, 128 << 10, (128 << 10) + 1, BIG};

    (void)state;
    for (size_t i = 0; i < 2 * ARRAY_LEN(sizes); i++) {
        size_t len = sizes[i / 2];
        uint64_t frame_len;
        struct place p;
        struct err err;

        place_init(&p);
        if (i % 2 == 0)
            put_text(p.from, len);
        else
            put_noise(p.from, len, 0);
        frame_len = packed(&p, len);
        assert_int_equal(unpacked(p.packed, frame_len, p.to, len, &err), 0);
        check_same(p.from, p.to, len);
        if (i % 2 == 0 && len == BIG)
            assert_true(frame_len < BIG / 4);
        place_clear(&p);
    }
}

static void only_the_beginning_that_was_named_is_packed(void **state)
{
    struct place p;
    struct err err;
    uint64_t frame_len;

    (void)state;
    place_init(&p);
    put_text(p.from, BIG);
    frame_len = packed(&p, 5000);
    put_at(p.packed, "tail", 4, (off_t)frame_len); /* what stands behind is not looked at */
    assert_int_equal(unpacked(p.packed, frame_len, p.to, 5000, &err), 0);
    assert_int_equal(lseek(p.to, 0, SEEK_END), 5000);
    place_clear(&p);
}

static void a_file_that_is_shorter_than_it_should_be_is_not_packed(void **state)
{
    struct place p;
    struct err err;
    uint64_t frame_len;

    (void)state;
    place_init(&p);
    put_text(p.from, 1000);
    assert_int_equal(pack(p.from, 1001, p.packed, &frame_len, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
    place_clear(&p);
}

/* A header's byte may change how much memory unpacking takes, and nothing else. */
static void a_changed_byte_never_unpacks_to_anything_else(void **state)
{
    struct place p;
    uint64_t frame_len, harmless = 0;
    struct err err;

    (void)state;
    place_init(&p);
    put_text(p.from, 50000);
    frame_len = packed(&p, 50000);
    for (uint64_t at = 0; at < frame_len; at += at < 16 || at + 16 > frame_len ? 1 : 97) {
        char byte, other;

        assert_int_equal(pread(p.packed, &byte, 1, (off_t)at), 1);
        other = (char)(byte ^ 0x40);
        put_at(p.packed, &other, 1, (off_t)at);
        if (unpacked(p.packed, frame_len, p.to, 50000, &err) == 0) {
            check_same(p.from, p.to, 50000);
            harmless++;
        } else {
            assert_int_equal(err.kind, ERR_CORRUPT);
        }
        put_at(p.packed, &byte, 1, (off_t)at);
    }
    assert_true(harmless <= 1);
    place_clear(&p);
}

static void a_cut_frame_is_found(void **state)
{
    struct place p;
    uint64_t frame_len;

    (void)state;
    place_init(&p);
    put_text(p.from, 50000);
    frame_len = packed(&p, 50000);
    check_corrupt(&p, 0, 50000);
    check_corrupt(&p, 3, 50000);
    check_corrupt(&p, frame_len / 2, 50000);
    check_corrupt(&p, frame_len - 1, 50000);
    assert_int_equal(ftruncate(p.packed, (off_t)frame_len - 1), 0);
    check_corrupt(&p, frame_len, 50000);
    place_clear(&p);
}

static void a_wrong_length_is_refused(void **state)
{
    struct place p;
    uint64_t frame_len;

    (void)state;
    place_init(&p);
    put_text(p.from, BIG);
    frame_len = packed(&p, BIG);
    check_corrupt(&p, frame_len, BIG - 1);
    check_corrupt(&p, frame_len, BIG + 1);
    check_corrupt(&p, frame_len, 0);
    put_at(p.packed, "x", 1, (off_t)frame_len);
    check_corrupt(&p, frame_len + 1, BIG);
    place_clear(&p);
}

/* ---- the disk fails ---- */

static void a_full_disk_is_told(void **state)
{
    struct place p;
    struct err err;
    uint64_t frame_len, ignored;

    (void)state;
    place_init(&p);
    put_noise(p.from, BIG, 0);
    frame_len = packed(&p, BIG);
    assert_int_equal(ftruncate(p.packed, 0), 0);
    limit_file_size(BIG / 2);
    assert_int_equal(pack(p.from, BIG, p.packed, &ignored, &err), -1);
    limit_file_size(RLIM_INFINITY);
    assert_int_equal(err.kind, ERR_STORAGE);
    assert_int_equal(packed(&p, BIG), frame_len);
    limit_file_size(BIG / 2);
    assert_int_equal(unpacked(p.packed, frame_len, p.to, BIG, &err), -1);
    limit_file_size(RLIM_INFINITY);
    assert_int_equal(err.kind, ERR_STORAGE);
    place_clear(&p);
}

static void a_file_that_cannot_be_read_is_told(void **state)
{
    struct place p;
    struct err err;
    uint64_t ignored;

    (void)state;
    place_init(&p);
    assert_int_equal(pack(-1, 10, p.packed, &ignored, &err), -1);
    assert_int_equal(err.kind, ERR_STORAGE);
    assert_int_equal(unpacked(-1, 10, p.to, 10, &err), -1);
    assert_int_equal(err.kind, ERR_STORAGE);
    place_clear(&p);
}

/* ---- in pieces ---- */

/* All of the frame by so much at a time, and then `more` bytes. */
static int unpack_by(struct place *p, uint64_t frame_len, size_t by, size_t more, uint64_t len,
                     struct target *t, struct err *err)
{
    struct decompressor *d = decompressor_new(len, put_piece, t);
    char *frame = xmalloc(frame_len + more);
    int rc = 0;

    memset(frame, 'x', frame_len + more);
    assert_int_equal(pread(p->packed, frame, frame_len, 0), (ssize_t)frame_len);
    for (size_t at = 0; rc == 0 && at < frame_len + more;) {
        size_t left = frame_len + more - at, n = left < by ? left : by;
        char *piece = xmalloc(n); /* of its own, for the sanitizer */

        memcpy(piece, frame + at, n);
        rc = decompressor_take(d, piece, n, err);
        free(piece);
        at += n;
    }
    if (rc == 0)
        rc = decompressor_end(d, err);
    decompressor_free(&d);
    assert_null(d);
    free(frame);
    return rc;
}

static void a_frame_may_come_in_pieces_of_any_size(void **state)
{
    static const size_t by[] = {1, 7, 1000, 128 * 1024, BIG};
    static const size_t lengths[] = {0, 1, 300000};
    struct place p;
    struct err err;

    (void)state;
    place_init(&p);
    put_text(p.from, 300000);
    for (size_t l = 0; l < ARRAY_LEN(lengths); l++) {
        uint64_t frame_len;

        assert_int_equal(ftruncate(p.packed, 0), 0);
        frame_len = packed(&p, lengths[l]);
        for (size_t i = 0; i < ARRAY_LEN(by); i++) {
            struct target t = {p.to, 0};

            assert_int_equal(ftruncate(p.to, 0), 0);
            assert_int_equal(unpack_by(&p, frame_len, by[i], 0, lengths[l], &t, &err), 0);
            check_same(p.from, p.to, lengths[l]);
        }
    }
    place_clear(&p);
}

static void what_is_no_whole_frame_of_its_length_is_told(void **state)
{
    enum { LEN = 300000 };
    struct place p;
    uint64_t frame_len;

    (void)state;
    place_init(&p);
    put_text(p.from, LEN);
    frame_len = packed(&p, LEN);
    for (size_t by = 1000; by < 10000000; by *= 100) {
        const struct row {
            uint64_t frame_len, more, len;
        } rows[] = {
            {frame_len - 1, 0, LEN}, {frame_len, 1, LEN}, {frame_len, 0, LEN + 1},
            {frame_len, 0, LEN - 1}, {frame_len, 0, 0},   {0, 0, 0},
        };

        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
            struct target t = {p.to, 0};
            struct err err = {0};

            assert_int_equal(
                unpack_by(&p, rows[i].frame_len, by, rows[i].more, rows[i].len, &t, &err), -1);
            assert_int_equal(err.kind, ERR_CORRUPT);
            assert_true((uint64_t)t.at <= rows[i].len);
        }
    }
    place_clear(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_pays_and_noise_does_not),
        cmocka_unit_test(a_beginning_of_text_does_not_make_noise_pay),
        cmocka_unit_test(what_is_small_or_cannot_be_read_does_not_pay),
        cmocka_unit_test(what_was_packed_unpacks_to_what_it_was),
        cmocka_unit_test(only_the_beginning_that_was_named_is_packed),
        cmocka_unit_test(a_file_that_is_shorter_than_it_should_be_is_not_packed),
        cmocka_unit_test(a_changed_byte_never_unpacks_to_anything_else),
        cmocka_unit_test(a_cut_frame_is_found),
        cmocka_unit_test(a_wrong_length_is_refused),
        cmocka_unit_test(a_full_disk_is_told),
        cmocka_unit_test(a_file_that_cannot_be_read_is_told),
        cmocka_unit_test(a_frame_may_come_in_pieces_of_any_size),
        cmocka_unit_test(what_is_no_whole_frame_of_its_length_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
