#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "protocol/time_zone.h"

enum { FILE_MAX = 64 * 1024, DAY_S = 86400 };

static const char ZONES[] = "/usr/share/zoneinfo";

static size_t read_file(const char *name, uint8_t *data)
{
    char *path = xasprintf("%s/%s", ZONES, name);
    int fd = open(path, O_RDONLY);
    ssize_t len = read(fd, data, FILE_MAX);

    if (fd < 0 || len < 0)
        fail_msg("no %s: install tzdata", path);
    close(fd);
    free(path);
    return (size_t)len;
}

static struct time_zone *zone(const char *name)
{
    static uint8_t data[FILE_MAX];
    struct time_zone *z = NULL;
    struct err err;

    if (time_zone_read(data, read_file(name, data), &z, &err) != 0)
        fail_msg("%s %s", name, err.text);
    return z;
}

static int64_t at(int year, int month, int day, int hour, int minute)
{
    return days_of_date(year, month, day) * DAY_S + hour * 3600 + minute * 60;
}

static void dates_are_counted_as_the_c_library_counts_them(void **state)
{
    (void)state;
    for (int64_t days = -200000; days < 800000; days += 37) {
        time_t t = (time_t)(days * DAY_S);
        int64_t year;
        int month, day;
        struct tm tm;

        gmtime_r(&t, &tm);
        date_of_days(days, &year, &month, &day);
        assert_int_equal(year, tm.tm_year + 1900);
        assert_int_equal(month, tm.tm_mon + 1);
        assert_int_equal(day, tm.tm_mday);
        assert_int_equal(days_of_date(year, month, day), days);
    }
}

/* The C library's own reader of these files is the second opinion. */
static void offsets_are_those_of_the_c_library(void **state)
{
    static const char *const names[] = {
        "Europe/Berlin",    "Europe/Dublin",       "America/New_York",
        "America/St_Johns", "Australia/Lord_Howe", "Asia/Kolkata",
        "Pacific/Apia",     "Pacific/Chatham",     "Africa/Casablanca",
        "Asia/Tehran",      "America/Nuuk",        "Etc/GMT+12",
        "Asia/Gaza",        "America/Santiago",    "UTC",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct time_zone *z = zone(names[i]);

        setenv("TZ", names[i], 1);
        tzset();
        /* From before the first transition to long behind the last; an odd step meets all hours. */
        for (int64_t t = at(1880, 1, 1, 0, 0); t < at(2200, 1, 1, 0, 0); t += 7 * 3600 + 1801) {
            time_t c = (time_t)t;
            struct tm tm;

            localtime_r(&c, &tm);
            if (time_zone_offset(z, t) != tm.tm_gmtoff)
                fail_msg("%s at %lld: %d, not %ld", names[i], (long long)t,
                         (int)time_zone_offset(z, t), tm.tm_gmtoff);
        }
        time_zone_free(&z);
    }
    unsetenv("TZ");
}

static void local_times_lead_back(void **state)
{
    static const char *const names[] = {"Europe/Berlin", "America/St_Johns", "Pacific/Apia",
                                        "Australia/Lord_Howe", "Asia/Kolkata"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct time_zone *z = zone(names[i]);

        for (int64_t t = at(1995, 1, 1, 0, 0); t < at(2060, 1, 1, 0, 0); t += 1800) {
            int64_t local = t + time_zone_offset(z, t), back = time_zone_from_local(z, local);

            /* The same moment, or an earlier one at which the clocks said so, too. */
            assert_true(back <= t && back + time_zone_offset(z, back) == local);
        }
        time_zone_free(&z);
    }
}

static void what_is_skipped_is_when_the_clocks_are_put(void **state)
{
    struct time_zone *berlin = zone("Europe/Berlin"), *apia = zone("Pacific/Apia");

    (void)state;
    assert_int_equal(time_zone_from_local(berlin, at(2026, 3, 29, 2, 0)), at(2026, 3, 29, 1, 0));
    assert_int_equal(time_zone_from_local(berlin, at(2026, 3, 29, 2, 59)), at(2026, 3, 29, 1, 0));
    assert_int_equal(time_zone_from_local(berlin, at(2026, 3, 29, 3, 0)), at(2026, 3, 29, 1, 0));
    assert_int_equal(time_zone_from_local(berlin, at(2026, 3, 29, 3, 1)), at(2026, 3, 29, 1, 1));
    /* A whole day that there wasn't. */
    assert_int_equal(time_zone_from_local(apia, at(2011, 12, 30, 12, 0)), at(2011, 12, 30, 10, 0));
    time_zone_free(&berlin);
    time_zone_free(&apia);
}

static void what_is_said_twice_is_the_first(void **state)
{
    struct time_zone *z = zone("Europe/Berlin");

    (void)state;
    assert_int_equal(time_zone_from_local(z, at(2026, 10, 25, 2, 30)), at(2026, 10, 25, 0, 30));
    assert_int_equal(time_zone_from_local(z, at(2040, 10, 28, 2, 30)), at(2040, 10, 28, 0, 30));
    time_zone_free(&z);
}

static void what_is_cut_or_changed_is_refused_or_read_without_harm(void **state)
{
    static uint8_t data[FILE_MAX], copy[FILE_MAX];
    size_t len = read_file("Europe/Berlin", data);
    struct time_zone *z;
    struct err err;

    (void)state;
    for (size_t n = 0; n < len; n++) {
        uint8_t *part = malloc(n + 1);

        memcpy(part, data, n);
        assert_int_equal(time_zone_read(part, n, &z, &err), -1);
        assert_int_equal(err.kind, ERR_INPUT);
        free(part);
    }
    for (size_t n = 0; n < len; n++) {
        memcpy(copy, data, len);
        copy[n] ^= 0x41;
        if (time_zone_read(copy, len, &z, &err) == 0) {
            time_zone_offset(z, at(2026, 7, 1, 0, 0));
            time_zone_from_local(z, at(2026, 3, 29, 2, 30));
            time_zone_free(&z);
        }
    }
}

static void one_that_counts_leap_seconds_is_refused(void **state)
{
    static uint8_t data[FILE_MAX];
    struct time_zone *z;
    struct err err;
    size_t len;

    (void)state;
    if (access("/usr/share/zoneinfo/right/Europe/Berlin", R_OK) != 0)
        skip();
    len = read_file("right/Europe/Berlin", data);
    assert_int_equal(time_zone_read(data, len, &z, &err), -1);
    assert_non_null(strstr(err.text, "leap"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dates_are_counted_as_the_c_library_counts_them),
        cmocka_unit_test(offsets_are_those_of_the_c_library),
        cmocka_unit_test(local_times_lead_back),
        cmocka_unit_test(what_is_skipped_is_when_the_clocks_are_put),
        cmocka_unit_test(what_is_said_twice_is_the_first),
        cmocka_unit_test(what_is_cut_or_changed_is_refused_or_read_without_harm),
        cmocka_unit_test(one_that_counts_leap_seconds_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
