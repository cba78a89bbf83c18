#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "protocol/digest.h"

static void digests_are_those_of_the_standards(void **state)
{
    static const struct {
        enum hash_algo algo;
        const char *text, *hex;
    } rows[] = {
        {HASH_SHA1, "", "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
        {HASH_SHA1, "abc", "a9993e364706816aba3e25717850c26c9cd0d89d"},
        {HASH_SHA256, "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct digest *d = digest_new(rows[i].algo);
        uint8_t raw[DIGEST_MAX];
        char hex[2 * DIGEST_MAX + 1];

        for (const char *p = rows[i].text; *p != '\0'; p++)
            digest_update(d, p, 1);
        digest_final(d, raw);
        digest_free(d);
        hex_encode(raw, hash_size(rows[i].algo), hex);
        assert_string_equal(hex, rows[i].hex);
    }
}

static void algorithms_have_git_s_names(void **state)
{
    (void)state;
    assert_string_equal(hash_name(HASH_SHA1), "sha1");
    assert_string_equal(hash_name(HASH_SHA256), "sha256");
    assert_int_equal(hash_size(HASH_SHA1), 20);
    assert_int_equal(hash_size(HASH_SHA256), 32);
}

static void a_key_survives_its_hex(void **state)
{
    struct key k, back;
    char hex[KEY_HEX_SIZE];

    (void)state;
    key_of("abc", 3, &k);
    key_to_hex(&k, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_true(key_from_hex(hex, &back));
    assert_true(key_equal(&k, &back));
    back.raw[31] ^= 1;
    assert_false(key_equal(&k, &back));
}

static void what_is_no_64_hex_digits_is_no_key(void **state)
{
    static const char whole[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    char bad[80];
    struct key k;

    (void)state;
    for (size_t len = 0; len < 64; len++) {
        memcpy(bad, whole, len);
        bad[len] = '\0';
        assert_false(key_from_hex(bad, &k));
    }
    strcpy(bad, whole);
    bad[10] = 'g';
    assert_false(key_from_hex(bad, &k));
    strcpy(bad, whole);
    strcat(bad, "0");
    assert_false(key_from_hex(bad, &k));
}

static void hmac_is_that_of_rfc_4231(void **state)
{
    struct key secret = {{0}}, out;
    char hex[KEY_HEX_SIZE];

    (void)state;
    /* Test case 1: HMAC pads a key with zeros, so 20 bytes and 12 zeros are the same key. */
    memset(secret.raw, 0x0b, 20);
    key_hmac(&secret, "Hi There", 8, &out);
    key_to_hex(&out, hex);
    assert_string_equal(hex, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(digests_are_those_of_the_standards),
        cmocka_unit_test(algorithms_have_git_s_names),
        cmocka_unit_test(a_key_survives_its_hex),
        cmocka_unit_test(what_is_no_64_hex_digits_is_no_key),
        cmocka_unit_test(hmac_is_that_of_rfc_4231),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
