#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "protocol/cron.h"

static int64_t at(int year, int month, int day, int hour, int minute)
{
    return days_of_date(year, month, day) * 86400 + hour * 3600 + minute * 60;
}

static struct cron cron(const char *text)
{
    struct cron c;
    struct err err;

    if (cron_parse(text, &c, &err) != 0)
        fail_msg("%s: %s", text, err.text);
    return c;
}

static int64_t next_in(const char *text, const struct time_zone *z, int64_t after)
{
    const struct cron c = cron(text);
    int64_t next;

    assert_true(cron_next(&c, z, after, &next));
    assert_true(next > after);
    return next;
}

static int64_t next(const char *text, int64_t after)
{
    struct time_zone *utc = time_zone_utc();
    int64_t when = next_in(text, utc, after);

    time_zone_free(&utc);
    return when;
}

/* Central Europe, as a file of the tz database says it: no transition, only the rule. */
static struct time_zone *berlin(void)
{
    static const char file[] = "TZif2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
                               "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\4"
                               "\0\0\x0e\x10\0\0CET\0"
                               "TZif2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
                               "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\4"
                               "\0\0\x0e\x10\0\0CET\0"
                               "\nCET-1CEST,M3.5.0,M10.5.0/3\n";
    struct time_zone *z = NULL;
    struct err err;

    if (time_zone_read(file, sizeof(file) - 1, &z, &err) != 0)
        fail_msg("%s", err.text);
    return z;
}

/* ---- reading ---- */

static void fields_are_numbers_ranges_lists_and_steps(void **state)
{
    (void)state;
    assert_true(cron("* * * * *").minutes == (UINT64_C(1) << 60) - 1);
    assert_true(cron("5 * * * *").minutes == UINT64_C(1) << 5);
    assert_true(cron("0,30 * * * *").minutes == (1 | UINT64_C(1) << 30));
    assert_true(cron("*/20 * * * *").minutes == (1 | UINT64_C(1) << 20 | UINT64_C(1) << 40));
    assert_int_equal(cron("0 8-18/5 * * *").hours, 1 << 8 | 1 << 13 | 1 << 18);
    assert_int_equal(cron("0 20/2 * * *").hours, 1 << 20 | 1 << 22);
    assert_int_equal(cron("0 0 1-3,31 * *").days, 1 << 1 | 1 << 2 | 1 << 3 | 1u << 31);
    assert_int_equal(cron("0 0 * jan,DEC *").months, 1 << 1 | 1 << 12);
    assert_int_equal(cron("0 0 * * mon-fri").weekdays, 0x3e);
    assert_int_equal(cron(" 0\t0  * * 7 ").weekdays, 1);
    assert_int_equal(cron("0 0 * * 5-7").weekdays, 1 << 5 | 1 << 6 | 1);
    assert_int_equal(cron("0 0 * * */2").weekdays, 1 | 1 << 2 | 1 << 4 | 1 << 6);
}

static void words_stand_for_fields(void **state)
{
    int64_t noon = at(2026, 11, 26, 12, 0); /* a Thursday */

    (void)state;
    assert_int_equal(next("@hourly", noon), at(2026, 11, 26, 13, 0));
    assert_int_equal(next("@Daily", noon), at(2026, 11, 27, 0, 0));
    assert_int_equal(next("@midnight", noon), at(2026, 11, 27, 0, 0));
    assert_int_equal(next("@weekly", noon), at(2026, 11, 29, 0, 0));
    assert_int_equal(next("@monthly", noon), at(2026, 12, 1, 0, 0));
    assert_int_equal(next("@yearly", noon), at(2027, 1, 1, 0, 0));
    assert_int_equal(next("@annually", noon), at(2027, 1, 1, 0, 0));
}

static void what_is_none_says_which_field(void **state)
{
    static const struct {
        const char *text, *words;
    } bad[] = {
        {"", "no minute"},
        {"0", "no hour"},
        {"0 0 * *", "no day of the week"},
        {"60 0 * * *", "first field"},
        {"0 24 * * *", "second field"},
        {"0 0 0 * *", "third field"},
        {"0 0 32 * *", "third field"},
        {"0 0 * 13 *", "fourth field"},
        {"0 0 * foo *", "fourth field"},
        {"0 0 * * 8", "fifth field"},
        {"0 0 * * mon-", "fifth field"},
        {"5-3 0 * * *", "first field"},
        {"*/0 0 * * *", "first field"},
        {"1,,2 0 * * *", "first field"},
        {"-1 0 * * *", "first field"},
        {"0x1 0 * * *", "first field"},
        {"99999999999999999999 0 * * *", "first field"},
        {"0 0 * * * *", "more than five"},
        {"@often", "no word of cron's"},
        {"0 0 30 2 *", "never comes"},
        {"0 0 31 2,4,6,9,11 *", "never comes"},
    };
    struct cron c;
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(cron_parse(bad[i].text, &c, &err), -1);
        assert_int_equal(err.kind, ERR_INPUT);
        if (strstr(err.text, bad[i].words) == NULL)
            fail_msg("'%s' is said to be: %s", bad[i].text, err.text);
    }
}

/* ---- when ---- */

static void the_next_time_is_behind_the_one_given(void **state)
{
    (void)state;
    assert_int_equal(next("30 6 * * *", at(2026, 11, 26, 6, 29)), at(2026, 11, 26, 6, 30));
    assert_int_equal(next("30 6 * * *", at(2026, 11, 26, 6, 30)), at(2026, 11, 27, 6, 30));
    assert_int_equal(next("30 6 * * *", at(2026, 11, 26, 6, 30) - 1), at(2026, 11, 26, 6, 30));
    assert_int_equal(next("0 6 * * 1-5", at(2026, 11, 27, 6, 0)), at(2026, 11, 30, 6, 0));
    assert_int_equal(next("0 0 31 * *", at(2026, 11, 1, 0, 0)), at(2026, 12, 31, 0, 0));
}

static void either_day_will_do_where_both_are_restricted(void **state)
{
    (void)state;
    /* The 1st is a Tuesday; Friday comes on the 4th. */
    assert_int_equal(next("0 0 1 * fri", at(2026, 12, 1, 0, 0)), at(2026, 12, 4, 0, 0));
    assert_int_equal(next("0 0 1 * fri", at(2026, 12, 25, 0, 0)), at(2027, 1, 1, 0, 0));
    /* A star with a step is a star: both have to fit. */
    assert_int_equal(next("0 0 */2 * fri", at(2026, 12, 4, 0, 0)), at(2026, 12, 11, 0, 0));
    assert_int_equal(next("0 0 30 2 mon", at(2026, 2, 1, 0, 0)), at(2026, 2, 2, 0, 0));
}

static void the_29th_of_february_is_waited_for(void **state)
{
    (void)state;
    assert_int_equal(next("0 0 29 2 *", at(2096, 3, 1, 0, 0)), at(2104, 2, 29, 0, 0));
    assert_int_equal(next("0 0 */28 2 sun", at(2032, 3, 1, 0, 0)), at(2037, 2, 1, 0, 0));
}

static void what_the_clocks_skip_is_due_in_that_moment_once(void **state)
{
    struct time_zone *z = berlin();
    /* On 29 March 2026 two o'clock is followed by three, at 01:00 UTC. */
    int64_t gap = at(2026, 3, 29, 1, 0);

    (void)state;
    assert_int_equal(next_in("30 2 * * *", z, at(2026, 3, 28, 12, 0)), gap);
    assert_int_equal(next_in("30 2 * * *", z, gap), at(2026, 3, 30, 0, 30));
    assert_int_equal(next_in("*/10 2 * * *", z, at(2026, 3, 29, 0, 59)), gap);
    assert_int_equal(next_in("*/10 2 * * *", z, gap), at(2026, 3, 30, 0, 0));
    assert_int_equal(next_in("0 3 * * *", z, at(2026, 3, 28, 12, 0)), gap);
    time_zone_free(&z);
}

static void what_the_clocks_say_twice_is_due_the_first_time(void **state)
{
    struct time_zone *z = berlin();
    /* On 25 October 2026 three o'clock is followed by two, at 01:00 UTC. */
    int64_t first = at(2026, 10, 25, 0, 30);

    (void)state;
    assert_int_equal(next_in("30 2 * * *", z, at(2026, 10, 24, 12, 0)), first);
    assert_int_equal(next_in("30 2 * * *", z, first), at(2026, 10, 26, 1, 30));
    assert_int_equal(next_in("30 2 * * *", z, first + 3600), at(2026, 10, 26, 1, 30));
    assert_int_equal(next_in("0 3 * * *", z, at(2026, 10, 24, 12, 0)), at(2026, 10, 25, 2, 0));
    time_zone_free(&z);
}

static void the_latest_time_is_not_behind_now(void **state)
{
    struct time_zone *z = berlin();
    struct cron daily = cron("0 6 * * *"), often = cron("* * * * *"), leap = cron("0 0 29 2 *");
    int64_t when;

    (void)state;
    assert_true(cron_latest(&daily, z, at(2026, 11, 26, 5, 0), &when));
    assert_int_equal(when, at(2026, 11, 26, 5, 0));
    assert_true(cron_latest(&daily, z, at(2026, 11, 26, 5, 0) - 1, &when));
    assert_int_equal(when, at(2026, 11, 25, 5, 0));
    assert_true(cron_latest(&often, z, at(2026, 11, 26, 5, 0) + 59, &when));
    assert_int_equal(when, at(2026, 11, 26, 5, 0));
    assert_true(cron_latest(&leap, z, at(2026, 11, 26, 5, 0), &when));
    assert_int_equal(when, at(2024, 2, 28, 23, 0));
    time_zone_free(&z);
}

static void before_1970_and_behind_9999_nothing_is_due(void **state)
{
    struct time_zone *utc = time_zone_utc();
    struct cron c = cron("0 0 * * *");
    int64_t when;

    (void)state;
    assert_false(cron_next(&c, utc, -1, &when));
    assert_false(cron_next(&c, utc, INT64_MAX, &when));
    assert_false(cron_latest(&c, utc, 60, &when));
    time_zone_free(&utc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_are_numbers_ranges_lists_and_steps),
        cmocka_unit_test(words_stand_for_fields),
        cmocka_unit_test(what_is_none_says_which_field),
        cmocka_unit_test(the_next_time_is_behind_the_one_given),
        cmocka_unit_test(either_day_will_do_where_both_are_restricted),
        cmocka_unit_test(the_29th_of_february_is_waited_for),
        cmocka_unit_test(what_the_clocks_skip_is_due_in_that_moment_once),
        cmocka_unit_test(what_the_clocks_say_twice_is_due_the_first_time),
        cmocka_unit_test(the_latest_time_is_not_behind_now),
        cmocka_unit_test(before_1970_and_behind_9999_nothing_is_due),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
