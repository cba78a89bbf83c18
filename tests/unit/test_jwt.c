#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "protocol/jwt.h"

/* Made for this test by `openssl genrsa -traditional 2048`; nothing takes it. */
static const char KEY[] = "-----BEGIN RSA PRIVATE KEY-----\n"
                          "MIIEpQIBAAKCAQEA30XjQKUdHhS8sb6kEhJTWBi0pPSHFh5vRyUwlWeHn2bkHqQ8\n"
                          "NIYT9nSUfnXchre2M8WNgfrG7OGIsYKPGJ0SAv4oCRn8CyZ7R0Pseu97SGDNwKn0\n"
                          "QR9cQAbLFSz1dKlNZl38w2KjQdsfRSJSmignKrFCWBbhKArU/0PCz+3Q6ASeQtHd\n"
                          "ZH12S6m6jpwi5iL2WC1e+6rBsN2Y2I1JBlSSMGRdO1q/RDYvJRCPeewPL0ddFwA+\n"
                          "dk7EFPXU9yKM9XuF8SKI8zdQzV4iJaj8yxKIn32RUUIIVmqiqMphIF7sWRTjrEcS\n"
                          "X949UohZm3hmphpJGn9Rf14ZnLoNqAiE3bgbBwIDAQABAoIBAEZZ1RNHc3dI/XPc\n"
                          "KAJxt8Uoc7MOQYpcqJ94Pmi1KGy3lOV6xmWeYafkb+2w4X2pYUXK152/EPMO1W1p\n"
                          "QAF3bHd48dB8WYiB5ZI8+sR5tRTHO82bP5VNdlnOSisv8V+DARpiPwSpjdtwWdgE\n"
                          "ypY8VKsFE2yCOQvO7fJIvZeazZptU0bFEo8HfdmLmNIjP4prMV1Dxbh9tAfzpt6d\n"
                          "ai9KZ+2tGA3esXfyDiAzgkWHNkbqV58xg19kplYH7fh3IIGb696X+wnTok+5nf5F\n"
                          "gNGzFBNqnZkQ8GtLJElonbgxTZ7epeIAyRtIcpwYZWYYgdgPpi9mBz5WTx+2yobE\n"
                          "8YLGw8ECgYEA+jfEjnaIDkFuoGsrVoKdHVVUnP8ftoj8Zy4L2UJq6I7E/DQqS7+L\n"
                          "5ESSzbyeBEsvX+j53ysnPTFjJydk14Bx91STKGSWAqoHuNloy9b0aW8qOf60HpWo\n"
                          "ssk8+H+GSP4c4epWDHb3Jcw//Tz5DxMT4x9lLrwRYktvrziyS38c3ZECgYEA5G64\n"
                          "ZYQJh0SNvJGGpWRB8GlB5c+S2Ob478jZpPcBmUQixErE2kg/Z2MWNdzTHYjeQu58\n"
                          "9LEupW1NJ/FZLl6LMAPtzEpQU2CnipkLamle4xTeq/+iy9LQLJAGtnJ+Q/6oHFQx\n"
                          "soasdHiiJZe5PL1t6Tpy12ioXLHKYNhr0P1PgxcCgYEAzWUb5ynrk3AoxGxUneYH\n"
                          "3L1gAKP4P1mBf50vwr8fjRktIC4eDiIFTnLv4wyS1cl18RAIlSYSRswUrV5MDA52\n"
                          "/uUhC0ZOUY+LWTS2LqWb6jSDgCnRZ03ItkI013OvIpnd0aEP05mQVSmt2U3E0JgD\n"
                          "eiwaXduplXuBCV/ME+cbJdECgYEAn8DTEqPRqhkGas73dGl2N/TU0ixlzW1SwRcd\n"
                          "JuJb6t0c11xW6TVHqj1AxjCGMIyMrBBvsQzMy4JySDHgpa4W92B4CLwcCwN4iFRa\n"
                          "CHRimLr6sx0XtCXd0pxzJVtS9Kh+1zkGfIz0xIutEk9Wi6UK3eYzdHRL8m+gUjRo\n"
                          "yoKs/ccCgYEAkvcKhxoZqxmqIb/3qRJzklcNNq/epkzDqktiJMaMgWvZlZAoBSL7\n"
                          "DQqzAkrRRSPsc1Dvg+LJsi5vFxGAA7k7UyKW3zyJVYNKDDC7WKsYz6YzyCHr6voq\n"
                          "LW5a47mD86c/qgeAfED09hIXKUT/6NajbObU2+rpRvcjHMI5kHs8iYQ=\n"
                          "-----END RSA PRIVATE KEY-----\n";
static const char SMALL_KEY[] = "-----BEGIN PRIVATE KEY-----\n"
                                "MIICdwIBADANBgkqhkiG9w0BAQEFAASCAmEwggJdAgEAAoGBANUE4WUA7QlJO+Si\n"
                                "tUh3DOzDKYwiXLsTZg/CZYfYgpO1EEysGwMUnDeyLhzl/8Ex7OFa4t7F9o68cFPz\n"
                                "a9uIMIz1kUCRpMBVu+PvvAvkqCO5ozAq9fYnDqu2K8keCWQhS8MIlA6bMrM5Ki/Q\n"
                                "NLpnoUDTy+R+1ookTnKnB/BFhJa9AgMBAAECgYEAyIFSgtbPRplXNcrtJethEA5X\n"
                                "Mh8596C3xYeuN6LUraGVWQX6WvjwXgBqJStcg4WxuSDqQNRHUm0OsgaC9F2Ji7zQ\n"
                                "EcDjTCIl3R8jMZybxz5ddy1PtBbEj+VGackgg7l5YXQzHsRO9sr406erkAJW1JdP\n"
                                "mQwCdPHQc9RpF1GugsECQQDxhCa2uHg4qgKwZh2REFbaY3ojUlVBY71w0TF9P21Z\n"
                                "tw6/H7ejlu1BVuXPxr9ER34S1LIIJcHDqZQZY7nykEKNAkEA4cs66PMf+zsb3JxE\n"
                                "EwWSdNDCTnFJnNyh4PKp/VDRe9ffPKH9WtgQWCXlYh6LGfW61+OrgxBPtiPsLJHM\n"
                                "wwmw8QJBAIg5FrD3KXAkjHG8ly6sPaDefRSRKt9AB6krhTN05BO3Sc0JccYGqfmx\n"
                                "rtvb6SP1AypR57zqtvjKnGsZsdccAT0CQBjcd7AOlQbkizzPN++gPW//TGW2s5RB\n"
                                "9tD95xmtPGOWcU4LyAmooKQUCB21nztMgzYiK1BTC3PSoL6HjzQqbQECQHvyXa4i\n"
                                "hWNYWuVw5fq7ZhpJ5xSrWtolfnypBgJGxgBK4+G52lUSYc7IMoeMjcxBJY1FWA1y\n"
                                "l71YA98/8FRuPoc=\n"
                                "-----END PRIVATE KEY-----\n";
static const char OTHER_KEY[] = "-----BEGIN EC PRIVATE KEY-----\n"
                                "MHcCAQEEIJizBoTcULRr0Yw+2jF/VoMAc9oU6y675u/f5up12kvEoAoGCCqGSM49\n"
                                "AwEHoUQDQgAEvp1+ijBqsZ8BZlk7vn4U6mUVpg2LBu0aqeyqb0AK8X7t+TReiXET\n"
                                "j/yVdhfZmJ4UpNozeTBECuXFcx7Qa8UEKA==\n"
                                "-----END EC PRIVATE KEY-----\n";
static const char LOCKED_KEY[] =
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
    "MIIFLTBXBgkqhkiG9w0BBQ0wSjApBgkqhkiG9w0BBQwwHAQI4WREl4LM0dICAggA\n"
    "MAwGCCqGSIb3DQIJBQAwHQYJYIZIAWUDBAECBBDndfA1NlED0OEC5R26YmnaBIIE\n"
    "0F/UnLgTyeId8axy39myILrfMtdjaWvZbY5h7/s8ZL+a1Vqx4R5z/u9SppFrch18\n"
    "z4Xn3fjy8NWvpzsNOhsAGzGDasdyBz4Nm/AC+BRrIXicE9vPsqzwwBD+M7Hz9Jey\n"
    "vVqBhvG1XbQJ4scx4xlGdHp04hAi6+08vjzIaZ0pYq4iJjYIgRM0BTQ7t3JhyT6V\n"
    "r3h4tus1k66+ZWxOqup9SD5/Mw1H9nOsYmBfeWxv/ucn5rqckI8X+770cXmoUy6x\n"
    "Nkameea5Up3yfnWEn370KBxC1n3jx/X0+EtdvgWsZxFNLh1Ik/zwUobRzzF9xSig\n"
    "Dia2Y9DFKFaX0KWvKtD4LSlW1fcMwYhDAyPR1PRJec4z4ddcmKYvj4Pd6LHXi1Fz\n"
    "A4hk5WCABpg+lyehrLdRrX+84IP8bYlkXEUr1xkhTZBuZvW6t0yHHrXmSyzclLVf\n"
    "I37yHTETmARhXB4loPrOtFcoLX9ZTf2pomn9AADn4XOpvN3JBFEat1tgTmpctW+w\n"
    "ILW8zAblM/xoOP+joV2oUfySH95robQB3WciRNyHAW/JbVjFvQ1smDpkljXoStp1\n"
    "JI6a5UcnYo5ps93RwsFow2zNzPtMXhFLDscDnCRR5FK9GEYM5w3XJoixKtLNLQc5\n"
    "fJyIfN/5aMeIM0AGqLZloLvtdUlfFrAxwPVMrnX+ILhQnXdYOilUOHZu4V4CYNg8\n"
    "vGPOBusEm1OEVAZ63bKaxHGsjIuodGrluv5zKnxgyBO0jf5uXarJOucEx6p1wTPR\n"
    "kTnM/FLFsz2UsLfJemJFO6mh6XYUxBvSffAxc/iYS1k6UJzLg+FLf6bnliFuaf00\n"
    "0agbRh/gT7rzx0X6psK9jFaN2IH+un1ZVnfOufLAnsJv1jmT3nOybaCH+dvXfmTj\n"
    "IMg4war/weWkql7/z2rn4iwunfItIpzuCcqg5KKnHrWZAFQD/dGlLMjI1nUbOwRZ\n"
    "/3axFbIVNkC7JBToIgJgRueWj4ztUqULZGLlBP3vAGIb4ng9PJ8y9of8t+mPfOo8\n"
    "ck+4tgEjyywCn418oDOt/U0kIfFhWKiI1B1cQUFXupskXt+4LF3Qq9/ha9AdW1X4\n"
    "79nz+vfavONAdRwsQeziwkcEAFzcPrsgG2NhkwXH9O498vMGseGiUeoYDc2L9d7v\n"
    "VsYusljRWc0VrwW79YVUW3MXURu6GHMuvCHml5CUn8+dNfYNbqMayy0qxk4DcKrl\n"
    "8RiHCvem5u6glFLNgrwRzpZsNfJ7Bh2wxQ0kYi7/+5WXVc2twP7WbugrOnf3FJJv\n"
    "KURYMiisTr5ob5KQewADG7m/aa2sSpwEpo/Ppz+LA6tmsB1j8KZN4ywi/8SNM0PU\n"
    "u8LduXeuXUX71PF0u1Quny78ckk7/N5IeM9JziCCg3ZhO631mQpEQsdExkGGHDkW\n"
    "Il60s2XeNhN2Bz3BeYesQ8RO911/GXt5rlBqgYLXFamBp9Yg8FoRxJwNK/m1dCfL\n"
    "H05IRVsQhPBcp72uQK2XbgD8Tyffd+GgJAcy7VpusRb1P7J0hIUJaHHjSGoOf/jk\n"
    "kMmYYnyczlu09P+dqRuePs1SB3aRF05SwRJWJ0OCWYsrXM8s4R4oldo5fA8cA07T\n"
    "KOAwhNVZBkAud60s/qaeVBb0+uoSWRfWV9VbQMBidO0d\n"
    "-----END ENCRYPTED PRIVATE KEY-----\n";

/* The header and claims in base64url, and what `openssl dgst -sha256 -sign` says of them. */
static const char TOKEN[] =
    "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9."
    "eyJpYXQiOjE3MDAwMDAwMDAsImV4cCI6MTcwMDAwMDU0MCwiaXNzIjoiNDcxMSJ9"
    "."
    "u76lHU_NzbAHZMAu1CaMaLdlyNr1hSIiS-RC8DtrpvunG-1f3vUem7g7bo_OYiItZ6fNfEauFl9rNcVw"
    "5RqIUDWtyXiDsW0KHLH9m60Bv7_9KQZofgz4FObARmzfpb1011Afbic9nUuQFScpyQaoAYjpUtbm2PkD"
    "XALFPacQsXiO-vABBR6FlbXvH9kJt-7_FU_9oke3gYpXXvlc4pdqa5zCB-jVEKJfNV4g6O38RmRlVzRZ"
    "BvdBuLqCXmaHxIOEz5Bq0ovBoAGtbqJUKL4_i-oK5YMDrBjmSPoSwtzd-LHR5cGWaFTExWszKNViQRYx"
    "bLMx-ZpdoMQssB8Asi3NLA";

static const struct jwt_claims CLAIMS = {"4711", 1700000000, 1700000540};

static void a_token_is_what_openssl_signs(void **state)
{
    struct err err;
    char *token;

    (void)state;
    assert_int_equal(jwt_sign(KEY, strlen(KEY), &CLAIMS, &token, &err), 0);
    assert_string_equal(token, TOKEN);
    free(token);
}

static void another_time_makes_another_token(void **state)
{
    const struct jwt_claims later = {"4711", 1700000001, 1700000541};
    struct err err;
    char *token;

    (void)state;
    assert_int_equal(jwt_sign(KEY, strlen(KEY), &later, &token, &err), 0);
    assert_string_not_equal(token, TOKEN);
    free(token);
}

static void what_is_no_key_to_sign_with_is_refused_without_a_word_of_it(void **state)
{
    static const struct {
        const char *pem, *words;
    } bad[] = {
        {"", "no private key"},
        {"s3cret", "no private key"},
        {LOCKED_KEY, "has a password"},
        {SMALL_KEY, "no RSA key of 2048 bits"},
        {OTHER_KEY, "no RSA key of 2048 bits"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err err;
        char *token = NULL;

        assert_int_equal(jwt_sign(bad[i].pem, strlen(bad[i].pem), &CLAIMS, &token, &err), -1);
        assert_int_equal(err.kind, ERR_INPUT);
        assert_non_null(strstr(err.text, bad[i].words));
        assert_null(strstr(err.text, "s3cret"));
        assert_null(token);
    }
}

static void a_key_that_is_cut_off_is_refused(void **state)
{
    struct err err;
    char *token;

    (void)state;
    for (size_t len = 0; len < strlen(KEY) - 1; len += 97)
        assert_int_equal(jwt_sign(KEY, len, &CLAIMS, &token, &err), -1);
}

static void an_issuer_is_a_plain_word(void **state)
{
    (void)state;
    assert_true(jwt_issuer_ok("4711"));
    assert_true(jwt_issuer_ok("Iv23.abc-d_e"));
    assert_false(jwt_issuer_ok(""));
    assert_false(jwt_issuer_ok("a\"b"));
    assert_false(jwt_issuer_ok("a b"));
    assert_false(jwt_issuer_ok("a\\"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_is_what_openssl_signs),
        cmocka_unit_test(another_time_makes_another_token),
        cmocka_unit_test(what_is_no_key_to_sign_with_is_refused_without_a_word_of_it),
        cmocka_unit_test(a_key_that_is_cut_off_is_refused),
        cmocka_unit_test(an_issuer_is_a_plain_word),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
