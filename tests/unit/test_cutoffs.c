#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/shared/cutoffs.h"

static struct key numbered(uint32_t n)
{
    struct key key = {{1}};

    memcpy(key.raw + 1, &n, sizeof(n));
    return key;
}

static void what_was_put_before_its_repository_was_invalidated_is_refused(void **state)
{
    struct cutoffs *c = cutoffs_new();
    struct key one = numbered(1), two = numbered(2);

    (void)state;
    assert_false(cutoffs_refuse(c, &one, NULL));
    cutoffs_note(c, &one, "1000-1 abcd");
    assert_true(cutoffs_refuse(c, &one, NULL));
    assert_true(cutoffs_refuse(c, &one, ""));
    assert_true(cutoffs_refuse(c, &one, "1000-0"));
    assert_true(cutoffs_refuse(c, &one, "999-9 ef"));
    assert_false(cutoffs_refuse(c, &one, "1000-1"));
    assert_false(cutoffs_refuse(c, &one, "1000-2"));
    assert_false(cutoffs_refuse(c, &two, "1000-0"));
    cutoffs_free(&c);
}

static void an_older_note_that_is_heard_of_later_changes_nothing(void **state)
{
    struct cutoffs *c = cutoffs_new();
    struct key one = numbered(1);

    (void)state;
    cutoffs_note(c, &one, "1000-1");
    cutoffs_note(c, &one, "999-0");
    assert_true(cutoffs_refuse(c, &one, "1000-0"));
    cutoffs_note(c, NULL, "2000-0");
    cutoffs_note(c, NULL, "1500-0");
    assert_true(cutoffs_refuse(c, &one, "1999-9"));
    assert_false(cutoffs_refuse(c, &one, "2000-0"));
    cutoffs_free(&c);
}

static void an_invalidation_of_everything_is_about_each_repository(void **state)
{
    struct cutoffs *c = cutoffs_new();
    struct key one = numbered(1), two = numbered(2);

    (void)state;
    cutoffs_note(c, NULL, "1000-0");
    cutoffs_note(c, &two, "1001-0");
    assert_true(cutoffs_refuse(c, &one, "999-0"));
    assert_false(cutoffs_refuse(c, &one, "1000-0"));
    assert_true(cutoffs_refuse(c, &two, "1000-0"));
    cutoffs_free(&c);
}

/* Bounded, and to forget must not mean to serve. */
static void of_too_many_the_oldest_are_taken_for_all(void **state)
{
    struct cutoffs *c = cutoffs_new();
    struct key first = numbered(0), other = numbered(UINT32_MAX);
    const uint32_t eighth = CUTOFFS_MAX / 8;
    char id[EVENT_ID_SIZE];

    (void)state;
    for (uint32_t i = 0; i < CUTOFFS_MAX; i++) {
        struct key key = numbered(i);

        snprintf(id, sizeof(id), "%u-0", 1000 + i);
        cutoffs_note(c, &key, id);
    }
    assert_false(cutoffs_refuse(c, &other, "999-0"));
    cutoffs_note(c, &other, "900000-0");
    snprintf(id, sizeof(id), "%u-0", 1000 + eighth - 2);
    assert_true(cutoffs_refuse(c, &first, id));
    snprintf(id, sizeof(id), "%u-0", 1000 + eighth - 1);
    assert_false(cutoffs_refuse(c, &first, id));
    first = numbered(eighth);
    assert_true(cutoffs_refuse(c, &first, id));
    first = numbered(CUTOFFS_MAX - 1);
    assert_true(cutoffs_refuse(c, &first, id));
    assert_true(cutoffs_refuse(c, &other, "899999-0"));
    cutoffs_free(&c);
}

/* Uploads and downloads wait for the lock meanwhile. */
static void a_list_that_is_full_is_seldom_looked_through(void **state)
{
    struct cutoffs *c = cutoffs_new();
    struct cutoff_seen *seen = calloc(CUTOFFS_MAX, sizeof(*seen));
    size_t most = 0, least = CUTOFFS_MAX;
    char id[EVENT_ID_SIZE];

    (void)state;
    assert_non_null(seen);
    for (uint32_t i = 0; i < 2 * CUTOFFS_MAX; i++) {
        struct key key = numbered(i);
        size_t count;

        snprintf(id, sizeof(id), "%u-0", 1000 + i);
        cutoffs_note(c, &key, id);
        if (i < CUTOFFS_MAX || i % 64 != 0)
            continue;
        count = cutoffs_behind(c, "", seen, CUTOFFS_MAX);
        most = count > most ? count : most;
        least = count < least ? count : least;
    }
    assert_in_range(most, CUTOFFS_MAX - 64, CUTOFFS_MAX + 1); /* one of all */
    assert_in_range(least, CUTOFFS_MAX / 8 * 7, CUTOFFS_MAX / 8 * 7 + 64);
    free(seen);
    cutoffs_free(&c);
}

static void what_is_newer_than_what_was_applied_can_be_told(void **state)
{
    struct cutoffs *c = cutoffs_new();
    struct key one = numbered(1), two = numbered(2);
    struct cutoff_seen seen[2];
    char id[EVENT_ID_SIZE];

    (void)state;
    assert_int_equal(cutoffs_behind(c, "", seen, 2), 0);
    cutoffs_newest(c, &one, id);
    assert_false(cutoffs_refuse(c, &one, id));
    cutoffs_note(c, &one, "1000-1");
    cutoffs_note(c, &two, "900-0");
    assert_int_equal(cutoffs_behind(c, "1000-1", seen, 2), 0);
    assert_int_equal(cutoffs_behind(c, "1000-0 ab", seen, 2), 1);
    assert_false(seen[0].all);
    assert_true(key_equal(&seen[0].repo_id, &one));
    assert_int_equal(seen[0].ms, 1000);
    cutoffs_newest(c, &one, id);
    assert_string_equal(id, "1000-1");
    cutoffs_note(c, NULL, "2000-0");
    assert_int_equal(cutoffs_behind(c, "1000-1", seen, 2), 1);
    assert_true(seen[0].all);
    assert_int_equal(seen[0].ms, 2000);
    assert_int_equal(cutoffs_behind(c, "", seen, 2), 3);
    cutoffs_newest(c, &two, id);
    assert_string_equal(id, "2000-0");
    cutoffs_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_put_before_its_repository_was_invalidated_is_refused),
        cmocka_unit_test(an_older_note_that_is_heard_of_later_changes_nothing),
        cmocka_unit_test(an_invalidation_of_everything_is_about_each_repository),
        cmocka_unit_test(of_too_many_the_oldest_are_taken_for_all),
        cmocka_unit_test(a_list_that_is_full_is_seldom_looked_through),
        cmocka_unit_test(what_is_newer_than_what_was_applied_can_be_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
