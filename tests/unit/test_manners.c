/* What upstreams say of being left alone, and who has to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proxy/manners/manners.h"
#include "proxy/upstream.h"

enum { NOW_S = 1790000000 }; /* Mon, 21 Sep 2026 14:13:20 GMT */

/* ---- what a response says ---- */

static struct response_head head_of(int status, const char *const (*headers)[2], size_t count)
{
    struct response_head h = {.status = status, .header_count = count};

    for (size_t i = 0; i < count; i++) {
        h.headers[i].name = (char *)headers[i][0];
        h.headers[i].value = (char *)headers[i][1];
    }
    return h;
}

static void heads_say_it_in_many_ways(void **state)
{
    static const struct {
        int status;
        const char *headers[2][2];
        uint64_t wait_ms; /* 0: it says nothing of the kind */
    } rows[] = {
        {200, {{NULL, NULL}}, 0},
        {403, {{NULL, NULL}}, 0},
        {503, {{NULL, NULL}}, 0},
        {500, {{"retry-after", "7"}}, 0},
        {401, {{"retry-after", "7"}}, 0},
        {429, {{NULL, NULL}}, THROTTLE_DEFAULT_MS},
        {429, {{"retry-after", "7"}}, 7000},
        {429, {{"retry-after", "0"}}, 0},
        {429, {{"retry-after", "soon"}}, THROTTLE_DEFAULT_MS},
        {429, {{"retry-after", "-5"}}, THROTTLE_DEFAULT_MS},
        {429, {{"retry-after", "99999999999999999999"}}, THROTTLE_DEFAULT_MS},
        {429, {{"retry-after", "86400"}}, THROTTLE_MAX_MS},
        {429, {{"retry-after", "Mon, 21 Sep 2026 14:13:50 GMT"}}, 30000},
        {429, {{"retry-after", "Mon, 21 Sep 2026 14:13:00 GMT"}}, 0},
        {503, {{"retry-after", "7"}}, 7000},
        {403, {{"retry-after", "7"}}, 7000},
        {403, {{"x-ratelimit-remaining", "0"}, {"x-ratelimit-reset", "1790000042"}}, 42000},
        {200, {{"x-ratelimit-remaining", "0"}, {"x-ratelimit-reset", "1790000042"}}, 42000},
        {200, {{"x-ratelimit-remaining", "0"}, {"x-ratelimit-reset", "42"}}, 42000},
        {200, {{"ratelimit-remaining", "0"}, {"ratelimit-reset", "1790000042"}}, 42000},
        {200, {{"x-ratelimit-remaining", "1"}, {"x-ratelimit-reset", "1790000042"}}, 0},
        {200, {{"x-ratelimit-remaining", "0"}, {"x-ratelimit-reset", "1789999999"}}, 0},
        {200, {{"x-ratelimit-remaining", "0"}, {"x-other", "1790000042"}}, 0},
        {429, {{"x-ratelimit-remaining", "0"}, {"x-ratelimit-reset", "1790000042"}}, 42000},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        size_t count = rows[i].headers[0][0] == NULL ? 0 : rows[i].headers[1][0] == NULL ? 1 : 2;
        struct response_head h = head_of(rows[i].status, rows[i].headers, count);
        uint64_t wait;
        enum throttle_scope scope = throttle_of_head(&h, NOW_S, &wait);

        if (wait != rows[i].wait_ms || (scope == THROTTLE_NONE) != (wait == 0))
            fail_msg("row %zu: %llu ms", i, (unsigned long long)wait);
    }
}

static void known_words_are_recognised_and_others_not(void **state)
{
    uint64_t wait;

    (void)state;
    assert_int_equal(throttle_of_text("GitLab is currently unable to handle this request due to "
                                      "load (ID 01ABC).",
                                      &wait),
                     THROTTLE_REPOSITORY);
    assert_int_equal(wait, 5000);
    assert_int_equal(throttle_of_text("{\"message\":\"You have exceeded a secondary rate limit. "
                                      "Please wait a few minutes\"}",
                                      &wait),
                     THROTTLE_CREDENTIAL);
    assert_int_equal(wait, THROTTLE_DEFAULT_MS);
    assert_int_equal(throttle_of_text("Rate limit for this resource has been exceeded", &wait),
                     THROTTLE_CREDENTIAL);
    assert_int_equal(throttle_of_text("Your account is suspended", &wait), THROTTLE_NONE);
    assert_int_equal(throttle_of_text("", &wait), THROTTLE_NONE);
    assert_int_equal(wait, 0);
}

/* ---- who has to wait ---- */

static struct upstream_config limited = {.name = (char *)"host", .rate = {10, 1000}, .burst = 4};
static struct upstream_config unlimited = {.name = (char *)"host"};

static struct manners_who who(const struct upstream_config *c, const char *credential,
                              const char *repo)
{
    return (struct manners_who){c, "https://host", credential, repo};
}

static bool admitted(struct manners *m, struct manners_who w, enum need need, uint64_t now)
{
    struct err err;

    if (manners_admit(m, &w, need, now, &err) == 0)
        return true;
    assert_int_equal(err.kind, ERR_THROTTLED);
    assert_non_null(strstr(err.text, "host"));
    return false;
}

static void a_credential_that_was_told_to_wait_waits_and_others_do_not(void **state)
{
    struct manners *m = manners_new();
    struct manners_who a = who(&unlimited, "alice", "r"), b = who(&unlimited, "bob", "r");
    struct manners_counts n;

    (void)state;
    manners_heard(m, &a, THROTTLE_CREDENTIAL, 5000, 1000);
    assert_false(admitted(m, a, NEED_CLIENT, 1000));
    assert_false(admitted(m, who(&unlimited, "alice", "other"), NEED_SPARE, 5999));
    assert_true(admitted(m, b, NEED_CLIENT, 1000));
    assert_true(admitted(m, who(&unlimited, NULL, "r"), NEED_CLIENT, 1000));
    assert_int_equal(manners_retry_after_s(m, &a, 1000), 5);
    assert_int_equal(manners_retry_after_s(m, &a, 4900), 2);
    assert_true(admitted(m, a, NEED_CLIENT, 6000));
    manners_count(m, &n);
    assert_int_equal(n.throttled, 1);
    assert_int_equal(n.refused, 2);
    manners_free(&m);
}

static void when_two_are_told_the_host_is_closed_for_a_minute_at_most(void **state)
{
    struct manners *m = manners_new();
    struct manners_who a = who(&unlimited, "alice", "r"), b = who(&unlimited, NULL, "r"),
                       c = who(&unlimited, "carol", "r");

    (void)state;
    manners_heard(m, &a, THROTTLE_CREDENTIAL, 3600000, 1000);
    manners_heard(m, &a, THROTTLE_CREDENTIAL, 3600000, 1500);
    assert_true(admitted(m, c, NEED_CLIENT, 2000));
    manners_heard(m, &b, THROTTLE_CREDENTIAL, 3600000, 2000);
    assert_false(admitted(m, c, NEED_CLIENT, 2000));
    assert_false(admitted(m, c, NEED_CLIENT, 61999));
    assert_true(admitted(m, c, NEED_CLIENT, 62000));
    assert_false(admitted(m, a, NEED_CLIENT, 62000));
    /* Another host is another matter. */
    c.base_url = a.base_url = "https://elsewhere";
    assert_true(admitted(m, a, NEED_CLIENT, 2000));
    manners_free(&m);
}

static void one_repositorys_load_is_no_other_ones(void **state)
{
    struct manners *m = manners_new();
    struct manners_who a = who(&unlimited, "alice", "big"), b = who(&unlimited, "alice", "small");

    (void)state;
    manners_heard(m, &a, THROTTLE_REPOSITORY, 5000, 1000);
    assert_false(admitted(m, a, NEED_CLIENT, 1000));
    assert_true(admitted(m, b, NEED_CLIENT, 1000));
    assert_true(admitted(m, a, NEED_CLIENT, 6000));
    manners_free(&m);
}

static void pushes_are_upstreams_to_refuse(void **state)
{
    struct manners *m = manners_new();
    struct manners_who a = who(&limited, "alice", "r");

    (void)state;
    manners_heard(m, &a, THROTTLE_CREDENTIAL, 5000, 1000);
    for (int i = 0; i < 10; i++)
        assert_true(admitted(m, a, NEED_MUST, 1000));
    /* They count: the rest has to wait for a second's worth of them. */
    assert_false(admitted(m, who(&limited, "bob", "r"), NEED_CLIENT, 1000));
    manners_free(&m);
}

static void the_budget_is_all_credentials_together_and_clients_come_first(void **state)
{
    struct manners *m = manners_new();
    struct manners_who a = who(&limited, "alice", "r"), b = who(&limited, "bob", "s");

    (void)state;
    assert_true(admitted(m, a, NEED_SPARE, 1000));
    assert_true(admitted(m, b, NEED_SPARE, 1000));
    assert_false(admitted(m, a, NEED_SPARE, 1000));
    assert_true(admitted(m, a, NEED_CLIENT, 1000));
    assert_true(admitted(m, b, NEED_CLIENT, 1000));
    assert_false(admitted(m, a, NEED_CLIENT, 1000));
    assert_int_equal(manners_retry_after_s(m, &a, 1000), 1);
    assert_true(admitted(m, a, NEED_CLIENT, 1100));
    manners_free(&m);
}

static void made_up_hosts_and_credentials_take_a_bounded_memory(void **state)
{
    struct manners *m = manners_new();
    struct manners_who last = {0};
    char url[64], credential[64];

    (void)state;
    for (unsigned i = 0; i < MANNERS_TOLD_MAX + 100; i++) {
        snprintf(url, sizeof(url), "https://h%u", i);
        snprintf(credential, sizeof(credential), "c%u", i);
        last = (struct manners_who){&limited, url, credential, "r"};
        assert_true(admitted(m, last, NEED_CLIENT, 1000));
        manners_heard(m, &last, THROTTLE_CREDENTIAL, 5000 + i, 1000);
    }
    assert_false(admitted(m, last, NEED_CLIENT, 1000));
    /* The ones that were soonest over went. */
    assert_true(
        admitted(m, (struct manners_who){&limited, "https://h0", "c0", "r"}, NEED_CLIENT, 1000));
    manners_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_say_it_in_many_ways),
        cmocka_unit_test(known_words_are_recognised_and_others_not),
        cmocka_unit_test(a_credential_that_was_told_to_wait_waits_and_others_do_not),
        cmocka_unit_test(when_two_are_told_the_host_is_closed_for_a_minute_at_most),
        cmocka_unit_test(one_repositorys_load_is_no_other_ones),
        cmocka_unit_test(pushes_are_upstreams_to_refuse),
        cmocka_unit_test(the_budget_is_all_credentials_together_and_clients_come_first),
        cmocka_unit_test(made_up_hosts_and_credentials_take_a_bounded_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
