#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <zlib.h>

#include "protocol/pack_watch.h"
#include "real_git.h"

static const size_t splits[] = {1, 7, 4096, SIZE_MAX};

/* 0 when the pack was whole, fed in pieces of split bytes. */
static int watch(enum hash_algo algo, const struct bytes *pack, size_t split, uint32_t *objects,
                 struct err *err)
{
    struct pack_watch *w = pack_watch_new(algo);
    int rc = 0;

    for (size_t at = 0; rc == 0 && at < pack->len;) {
        size_t n = pack->len - at < split ? pack->len - at : split;

        rc = pack_watch_feed(w, pack->data + at, n, err);
        at += n;
    }
    if (rc == 0)
        rc = pack_watch_finish(w, err);
    else
        assert_int_equal(pack_watch_finish(w, err), -1); /* it stays so */
    if (rc == 0)
        assert_int_equal(pack_watch_bytes(w), pack->len);
    if (objects != NULL)
        *objects = pack_watch_objects(w);
    pack_watch_free(w);
    return rc;
}

static void packs_of_the_real_git_are_whole_in_every_split(void **state)
{
    static const char *const formats[] = {"sha1", "sha256"};
    static const char *const delta_options[] = {"--delta-base-offset", "--no-reuse-delta"};

    (void)state;
    for (size_t f = 0; f < 2; f++) {
        struct real_git g;

        real_git_init(&g, formats[f]);
        for (size_t d = 0; d < 2; d++) {
            struct bytes pack;
            struct err err = {0};
            uint32_t objects;

            bytes_init(&pack, REAL_GIT_OUTPUT_MAX);
            assert_int_equal(REAL_GIT(&g, NULL, "", 0, &pack, "git", "pack-objects", "--all",
                                      "--stdout", "-q", delta_options[d]),
                             0);
            for (size_t s = 0; s < ARRAY_LEN(splits); s++) {
                if (watch((enum hash_algo)f, &pack, splits[s], &objects, &err) != 0)
                    fail_msg("%s", err.text);
                assert_int_equal(objects, 4 * REAL_GIT_COMMITS + 1);
            }
            assert_int_equal(watch((enum hash_algo) !f, &pack, SIZE_MAX, NULL, &err), -1);
            bytes_clear(&pack);
        }
        real_git_clear(&g);
    }
}

/* A pack made by hand: begin, entries, end. */

static void begin(struct bytes *pack, unsigned version, unsigned objects)
{
    const char head[12] = {'P', 'A', 'C', 'K', 0, 0, 0, (char)version, 0, 0, 0, (char)objects};

    bytes_init(pack, 1 << 20);
    bytes_add(pack, head, sizeof(head));
}

static void entry(struct bytes *pack, int type, size_t said, const void *base, size_t base_len,
                  const char *content)
{
    unsigned char packed[1000];
    uLongf packed_len = sizeof(packed);
    unsigned char c = (unsigned char)(type << 4 | (said & 15));

    for (said >>= 4; said > 0; said >>= 7) {
        c |= 0x80;
        bytes_add(pack, &c, 1);
        c = said & 0x7f;
    }
    bytes_add(pack, &c, 1);
    bytes_add(pack, base, base_len);
    assert_int_equal(compress(packed, &packed_len, (const Bytef *)content, strlen(content)), Z_OK);
    bytes_add(pack, packed, packed_len);
}

static void end(struct bytes *pack)
{
    struct digest *d = digest_new(HASH_SHA1);
    uint8_t sum[DIGEST_MAX];

    digest_update(d, pack->data, pack->len);
    digest_final(d, sum);
    digest_free(d);
    bytes_add(pack, sum, SHA1_SIZE);
}

/* Feed, in every split, and clear. */
static void expect(struct bytes *pack, const char *error)
{
    for (size_t s = 0; s < ARRAY_LEN(splits); s++) {
        struct err err = {0};
        int rc = watch(HASH_SHA1, pack, splits[s], NULL, &err);

        if (error == NULL && rc != 0)
            fail_msg("%s", err.text);
        if (error != NULL) {
            assert_int_equal(rc, -1);
            assert_int_equal(err.kind, ERR_UPSTREAM);
            if (strstr(err.text, error) == NULL)
                fail_msg("expected '%s', got '%s'", error, err.text);
        }
    }
    bytes_clear(pack);
}

static const char base[32] = "a base's id, which may be long.";

static void versions_2_and_3_are_packs(void **state)
{
    struct bytes pack;

    (void)state;
    for (unsigned version = 1; version <= 4; version++) {
        begin(&pack, version, 1);
        entry(&pack, 3, 5, NULL, 0, "hello");
        end(&pack);
        expect(&pack, version == 2 || version == 3 ? NULL : "version");
    }
}

static void a_pack_may_be_empty(void **state)
{
    struct bytes pack;

    (void)state;
    begin(&pack, 2, 0);
    end(&pack);
    expect(&pack, NULL);
}

static void all_kinds_of_objects_are_walked(void **state)
{
    struct bytes pack;

    (void)state;
    begin(&pack, 2, 7);
    for (int type = 1; type <= 4; type++)
        entry(&pack, type, 5, NULL, 0, "hello");
    entry(&pack, 3, 0, NULL, 0, "");
    entry(&pack, 7, 40, base, SHA1_SIZE, "0123456789012345678901234567890123456789");
    entry(&pack, 6, 5, "\x0f", 1, "delta");
    end(&pack);
    expect(&pack, NULL);
}

static void a_header_that_promises_other_objects_is_found_out(void **state)
{
    struct bytes pack;

    (void)state;
    begin(&pack, 2, 3);
    entry(&pack, 3, 5, NULL, 0, "hello");
    entry(&pack, 3, 5, NULL, 0, "hello");
    end(&pack);
    for (size_t s = 0; s < ARRAY_LEN(splits); s++) {
        struct err err;

        assert_int_equal(watch(HASH_SHA1, &pack, splits[s], NULL, &err), -1);
    }
    bytes_clear(&pack);
    begin(&pack, 2, 1);
    entry(&pack, 3, 5, NULL, 0, "hello");
    entry(&pack, 3, 5, NULL, 0, "hello");
    end(&pack);
    expect(&pack, "checksum");
}

static void an_object_of_another_size_than_it_says_is_found_out(void **state)
{
    struct bytes pack;

    (void)state;
    begin(&pack, 2, 1);
    entry(&pack, 3, 4, NULL, 0, "hello");
    end(&pack);
    expect(&pack, "longer");
    begin(&pack, 2, 1);
    entry(&pack, 3, 600, NULL, 0, "hello");
    end(&pack);
    expect(&pack, "shorter");
}

static void unknown_types_and_bases_outside_are_found_out(void **state)
{
    static const int bad_types[] = {0, 5};
    struct bytes pack;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad_types); i++) {
        begin(&pack, 2, 1);
        entry(&pack, bad_types[i], 5, NULL, 0, "hello");
        end(&pack);
        expect(&pack, "type");
    }
    begin(&pack, 2, 1);
    entry(&pack, 6, 5, "\x01", 1, "hello");
    end(&pack);
    expect(&pack, "outside");
    begin(&pack, 2, 1);
    entry(&pack, 6, 5, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12, "hello");
    end(&pack);
    expect(&pack, "64 bits");
    begin(&pack, 2, 1);
    bytes_add(&pack, "\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12);
    expect(&pack, "64 bits");
}

static void damage_anywhere_is_found(void **state)
{
    struct bytes pack;

    (void)state;
    begin(&pack, 2, 2);
    entry(&pack, 3, 5, NULL, 0, "hello");
    entry(&pack, 7, 5, base, SHA1_SIZE, "delta");
    end(&pack);
    for (size_t i = 0; i < pack.len; i++) {
        struct err err;

        pack.data[i] ^= 0x10;
        assert_int_equal(watch(HASH_SHA1, &pack, SIZE_MAX, NULL, &err), -1);
        assert_int_equal(err.kind, ERR_UPSTREAM);
        pack.data[i] ^= 0x10;
    }
    expect(&pack, NULL);
}

static void a_pack_that_breaks_off_is_not_whole(void **state)
{
    struct bytes pack;
    size_t whole;

    (void)state;
    begin(&pack, 2, 1);
    entry(&pack, 3, 5, NULL, 0, "hello");
    end(&pack);
    whole = pack.len;
    for (pack.len = 0; pack.len < whole; pack.len++) {
        struct err err = {0};

        assert_int_equal(watch(HASH_SHA1, &pack, SIZE_MAX, NULL, &err), -1);
        assert_non_null(strstr(err.text, "broke off"));
    }
    bytes_clear(&pack);
}

static void nothing_may_follow_the_checksum(void **state)
{
    struct bytes pack;

    (void)state;
    begin(&pack, 2, 0);
    end(&pack);
    bytes_add(&pack, "x", 1);
    expect(&pack, "follows");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packs_of_the_real_git_are_whole_in_every_split),
        cmocka_unit_test(versions_2_and_3_are_packs),
        cmocka_unit_test(a_pack_may_be_empty),
        cmocka_unit_test(all_kinds_of_objects_are_walked),
        cmocka_unit_test(a_header_that_promises_other_objects_is_found_out),
        cmocka_unit_test(an_object_of_another_size_than_it_says_is_found_out),
        cmocka_unit_test(unknown_types_and_bases_outside_are_found_out),
        cmocka_unit_test(damage_anywhere_is_found),
        cmocka_unit_test(a_pack_that_breaks_off_is_not_whole),
        cmocka_unit_test(nothing_may_follow_the_checksum),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
