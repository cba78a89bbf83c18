/* Token buckets: the moments are arguments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "proxy/manners/budget.h"

static const struct rate five_a_second = {5, 1000};

static void a_burst_is_free_and_then_one_at_a_time(void **state)
{
    struct budget b = {0};

    (void)state;
    for (int i = 0; i < 3; i++)
        assert_int_equal(budget_take(&b, &five_a_second, 3, 0, 1000), 0);
    assert_int_equal(budget_take(&b, &five_a_second, 3, 0, 1000), 200);
    assert_int_equal(budget_take(&b, &five_a_second, 3, 0, 1150), 50);
    assert_int_equal(budget_take(&b, &five_a_second, 3, 0, 1200), 0);
    assert_int_equal(budget_take(&b, &five_a_second, 3, 0, 1200), 200);
}

static void a_refusal_costs_nothing(void **state)
{
    struct budget b = {0};

    (void)state;
    assert_int_equal(budget_take(&b, &five_a_second, 1, 0, 1000), 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(budget_take(&b, &five_a_second, 1, 0, 1000), 200);
    assert_int_equal(budget_take(&b, &five_a_second, 1, 0, 1200), 0);
}

static void a_quiet_while_saves_up_no_more_than_a_burst(void **state)
{
    struct budget b = {0};
    int taken = 0;

    (void)state;
    assert_int_equal(budget_take(&b, &five_a_second, 4, 0, 1000), 0);
    while (budget_take(&b, &five_a_second, 4, 0, 1000000) == 0)
        taken++;
    assert_int_equal(taken, 4);
}

static void over_an_hour_it_is_the_rate(void **state)
{
    const struct rate rate = {300, 60000};
    struct budget b = {0};
    int taken = 0;

    (void)state;
    for (uint64_t now = 5000; now < 5000 + 3600 * 1000; now += 7)
        taken += budget_take(&b, &rate, 10, 0, now) == 0;
    assert_in_range(taken, 300 * 60, 300 * 60 + 10);
}

static void what_is_kept_for_others_is_left_alone(void **state)
{
    struct budget b = {0};

    (void)state;
    assert_int_equal(budget_take(&b, &five_a_second, 4, 2, 1000), 0);
    assert_int_equal(budget_take(&b, &five_a_second, 4, 2, 1000), 0);
    assert_true(budget_take(&b, &five_a_second, 4, 2, 1000) > 0);
    assert_int_equal(budget_take(&b, &five_a_second, 4, 0, 1000), 0);
    assert_int_equal(budget_take(&b, &five_a_second, 4, 0, 1000), 0);
    assert_true(budget_take(&b, &five_a_second, 4, 0, 1000) > 0);
}

static void an_overdraft_is_paid_back_but_not_for_ever(void **state)
{
    struct budget b = {0};

    (void)state;
    for (int i = 0; i < 5; i++)
        budget_overdraw(&b, &five_a_second, 1000);
    assert_int_equal(budget_take(&b, &five_a_second, 1, 0, 1000), 1000);
    for (int i = 0; i < 100000; i++)
        budget_overdraw(&b, &five_a_second, 1000);
    assert_in_range(budget_take(&b, &five_a_second, 1, 0, 1000), 10000, 10400);
}

static void without_a_rate_all_is_free(void **state)
{
    const struct rate none = {0, 0};
    struct budget b = {0};

    (void)state;
    for (int i = 0; i < 1000; i++) {
        budget_overdraw(&b, &none, 1);
        assert_int_equal(budget_take(&b, &none, 1, 0, 1), 0);
    }
}

static void a_thousand_a_millisecond_are_no_division_by_zero(void **state)
{
    const struct rate most = {RATE_COUNT_MAX, 1000};
    struct budget b = {0};
    int taken = 0;

    (void)state;
    while (budget_take(&b, &most, 10, 0, 1000) == 0)
        taken++;
    assert_int_equal(taken, 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_burst_is_free_and_then_one_at_a_time),
        cmocka_unit_test(a_refusal_costs_nothing),
        cmocka_unit_test(a_quiet_while_saves_up_no_more_than_a_burst),
        cmocka_unit_test(over_an_hour_it_is_the_rate),
        cmocka_unit_test(what_is_kept_for_others_is_left_alone),
        cmocka_unit_test(an_overdraft_is_paid_back_but_not_for_ever),
        cmocka_unit_test(without_a_rate_all_is_free),
        cmocka_unit_test(a_thousand_a_millisecond_are_no_division_by_zero),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
