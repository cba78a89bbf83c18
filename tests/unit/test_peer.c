#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "proxy/peer.h"

static const char SECRET[] = "a line that all nodes know";
static const char TARGET[] = "/peer/answers/00";
static const int64_t NOW = 1700000000;

static bool holds(const char *secret, const char *method, const char *target, int64_t until_s,
                  int64_t now_s)
{
    char token[PEER_TOKEN_MAX];

    peer_sign(SECRET, "GET", TARGET, until_s, token);
    return peer_token_holds(secret, method, target, token, now_s);
}

static void what_is_signed_holds_for_a_while(void **state)
{
    (void)state;
    assert_true(holds(SECRET, "GET", TARGET, NOW + PEER_VALID_S, NOW));
    assert_true(holds(SECRET, "GET", TARGET, NOW + PEER_VALID_S, NOW + PEER_VALID_S));
    assert_false(holds(SECRET, "GET", TARGET, NOW + PEER_VALID_S, NOW + PEER_VALID_S + 1));
    /* Whoever signs for years has a clock that is off, or means no good. */
    assert_false(holds(SECRET, "GET", TARGET, NOW + 2 * PEER_VALID_S + 1, NOW));
}

static void it_holds_for_this_request_and_secret_only(void **state)
{
    (void)state;
    assert_false(holds("another line altogether", "GET", TARGET, NOW + 1, NOW));
    assert_false(holds(SECRET, "POST", TARGET, NOW + 1, NOW));
    assert_false(holds(SECRET, "GET", "/peer/answers/01", NOW + 1, NOW));
}

static void what_is_no_token_does_not_hold(void **state)
{
    static const char *const tokens[] = {
        NULL,
        "",
        "Pannier",
        "Pannier ",
        "Pannier 1700000001",
        "Pannier 1700000001.",
        "Pannier 1700000001.00",
        "Basic dXNlcjpwYXNz",
        "Pannier x.y",
    };
    char token[PEER_TOKEN_MAX + 1];

    (void)state;
    for (size_t i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++)
        assert_false(peer_token_holds(SECRET, "GET", TARGET, tokens[i], NOW));
    peer_sign(SECRET, "GET", TARGET, NOW + 1, token);
    assert_true(peer_token_holds(SECRET, "GET", TARGET, token, NOW));
    strcat(token, "0");
    assert_false(peer_token_holds(SECRET, "GET", TARGET, token, NOW));
    token[strlen(token) - 2] ^= 1;
    token[strlen(token) - 1] = '\0';
    assert_false(peer_token_holds(SECRET, "GET", TARGET, token, NOW));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_signed_holds_for_a_while),
        cmocka_unit_test(it_holds_for_this_request_and_secret_only),
        cmocka_unit_test(what_is_no_token_does_not_hold),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
