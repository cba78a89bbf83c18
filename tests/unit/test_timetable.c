#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "protocol/time_zone.h"
#include "proxy/warm/timetable.h"

static int64_t at(int year, int month, int day, int hour, int minute)
{
    return days_of_date(year, month, day) * 86400 + hour * 3600 + minute * 60;
}

static struct timetable *table(const char *schedule, const char *zone)
{
    struct timetable *t = NULL;
    struct err err;
    bool ignored;

    if (timetable_open(schedule, zone, &t, &ignored, &err) != 0)
        fail_msg("%s", err.text);
    return t;
}

static void it_goes_by_the_clocks_of_its_zone(void **state)
{
    struct timetable *t = table("0 6 * * *", "Europe/Berlin");
    int64_t when;

    (void)state;
    assert_true(timetable_next(t, at(2026, 7, 1, 0, 0), &when));
    assert_int_equal(when, at(2026, 7, 1, 4, 0));
    assert_true(timetable_next(t, at(2026, 12, 1, 0, 0), &when));
    assert_int_equal(when, at(2026, 12, 1, 5, 0));
    timetable_free(&t);
}

static void nothing_is_due_until_its_time(void **state)
{
    struct timetable *t = table("0 6 * * *", "UTC");
    int64_t last = at(2026, 11, 26, 6, 0), when;

    (void)state;
    assert_false(timetable_due(t, last, last, &when));
    assert_false(timetable_due(t, last, last + 86399, &when));
    assert_true(timetable_due(t, last, last + 86400, &when));
    assert_int_equal(when, last + 86400);
    assert_false(timetable_due(t, when, last + 86400 + 59, &when));
    timetable_free(&t);
}

static void of_those_that_were_missed_the_latest_is_due_once(void **state)
{
    struct timetable *t = table("*/10 * * * *", "UTC");
    int64_t last = at(2026, 1, 1, 0, 0), now = at(2026, 11, 26, 9, 55) + 3, when;

    (void)state;
    assert_true(timetable_due(t, last, now, &when));
    assert_int_equal(when, at(2026, 11, 26, 9, 50));
    assert_false(timetable_due(t, when, now, &last));
    timetable_free(&t);
}

/* Nothing is due again that was made before the clock was put back. */
static void a_clock_that_is_put_back_makes_nothing_due(void **state)
{
    struct timetable *t = table("*/10 * * * *", "UTC");
    int64_t last = at(2026, 11, 26, 9, 50), when;

    (void)state;
    assert_false(timetable_due(t, last, at(2026, 11, 26, 8, 55), &when));
    timetable_free(&t);
}

static void what_is_wrong_is_the_schedule_or_the_zone(void **state)
{
    static const char *const zones[] = {
        "", "Europe/Nowhere", "../../etc/passwd", "/etc/localtime", "zone.tab", "Europe"};
    struct timetable *t = NULL;
    struct err err;
    bool zone;

    (void)state;
    assert_int_equal(timetable_open("0 25 * * *", "UTC", &t, &zone, &err), -1);
    assert_false(zone);
    for (size_t i = 0; i < ARRAY_LEN(zones); i++) {
        assert_int_equal(timetable_open("0 6 * * *", zones[i], &t, &zone, &err), -1);
        assert_true(zone);
        assert_int_equal(err.kind, ERR_INPUT);
    }
    assert_null(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_goes_by_the_clocks_of_its_zone),
        cmocka_unit_test(nothing_is_due_until_its_time),
        cmocka_unit_test(of_those_that_were_missed_the_latest_is_due_once),
        cmocka_unit_test(a_clock_that_is_put_back_makes_nothing_due),
        cmocka_unit_test(what_is_wrong_is_the_schedule_or_the_zone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
