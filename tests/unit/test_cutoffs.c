#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
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
static void of_too_many_the_oldest_is_taken_for_all(void **state)
{
    struct cutoffs *c = cutoffs_new();
    struct key first = numbered(0), other = numbered(UINT32_MAX);
    char id[EVENT_ID_SIZE];

    (void)state;
    for (uint32_t i = 0; i < CUTOFFS_MAX; i++) {
        struct key key = numbered(i);

        snprintf(id, sizeof(id), "%u-0", 1000 + i);
        cutoffs_note(c, &key, id);
    }
    assert_false(cutoffs_refuse(c, &other, "999-0"));
    cutoffs_note(c, &other, "900000-0");
    assert_true(cutoffs_refuse(c, &first, "999-0"));
    assert_false(cutoffs_refuse(c, &first, "1000-0"));
    first = numbered(1);
    assert_true(cutoffs_refuse(c, &first, "1000-0"));
    assert_true(cutoffs_refuse(c, &other, "899999-0"));
    cutoffs_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_put_before_its_repository_was_invalidated_is_refused),
        cmocka_unit_test(an_older_note_that_is_heard_of_later_changes_nothing),
        cmocka_unit_test(an_invalidation_of_everything_is_about_each_repository),
        cmocka_unit_test(of_too_many_the_oldest_is_taken_for_all),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
