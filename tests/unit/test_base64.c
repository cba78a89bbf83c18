#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "protocol/base64.h"

static void the_examples_of_the_rfc_go_both_ways(void **state)
{
    static const struct {
        const char *plain, *coded;
    } examples[] = {{"", ""},
                    {"f", "Zg=="},
                    {"fo", "Zm8="},
                    {"foo", "Zm9v"},
                    {"foob", "Zm9vYg=="},
                    {"fooba", "Zm9vYmE="},
                    {"foobar", "Zm9vYmFy"}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(examples); i++) {
        char *coded = base64_encode(examples[i].plain, strlen(examples[i].plain)), *plain;
        size_t len;

        assert_string_equal(coded, examples[i].coded);
        plain = base64_decode(coded, &len);
        assert_string_equal(plain, examples[i].plain);
        assert_int_equal(len, strlen(examples[i].plain));
        free(plain);
        free(coded);
    }
}

static void every_byte_survives(void **state)
{
    uint8_t all[256];

    (void)state;
    for (size_t i = 0; i < sizeof(all); i++)
        all[i] = (uint8_t)(255 - i);
    for (size_t n = 0; n <= sizeof(all); n++) {
        char *coded = base64_encode(all, n);
        size_t len;
        char *plain = base64_decode(coded, &len);

        assert_int_equal(len, n);
        assert_memory_equal(plain, all, n);
        free(plain);
        free(coded);
    }
}

static void for_urls_it_has_other_letters_and_no_padding(void **state)
{
    static const uint8_t raw[] = {0xfb, 0xff, 0xfe, 0xff};
    char *coded = base64url_encode(raw, sizeof(raw));

    (void)state;
    assert_string_equal(coded, "-__-_w");
    free(coded);
}

static void what_is_no_base64_is_refused(void **state)
{
    static const char *const bad[] = {
        "Z", "Zg=", "Zg===", "Zg==x", "Z g==", "Zm9v=", "=", "Zm9vY", "-__-", "Zm9v\n"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        size_t len;

        if (base64_decode(bad[i], &len) != NULL)
            fail_msg("taken: %s", bad[i]);
    }
}

static void padding_may_be_left_out(void **state)
{
    size_t len;
    char *plain = base64_decode("Zm8", &len);

    (void)state;
    assert_string_equal(plain, "fo");
    free(plain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_examples_of_the_rfc_go_both_ways),
        cmocka_unit_test(every_byte_survives),
        cmocka_unit_test(for_urls_it_has_other_letters_and_no_padding),
        cmocka_unit_test(what_is_no_base64_is_refused),
        cmocka_unit_test(padding_may_be_left_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
