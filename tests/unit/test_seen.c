/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"
#include "proxy/seen.h"

static const struct key ONE = {{1}}, OTHER = {{2}};

/* Names with a space between; each one's object ends in now_s. */
static void show(struct seen *s, const struct key *repo_id, const struct seen_how *how,
                 const char *names)
{
    struct oid oid = {0};
    struct seen_listing l;

    oid.raw[19] = (uint8_t)how->now_s;
    seen_listing_init(&l);
    while (*names != '\0') {
        size_t len = strcspn(names, " ");

        seen_listing_add(&l, names, len, &oid);
        names += len + (names[len] == ' ');
    }
    seen_note(s, repo_id, how, &l);
    seen_listing_clear(&l);
}

static void show_all(struct seen *s, enum seen_by by, int64_t now_s, const char *names)
{
    show(s, &ONE, &(struct seen_how){.by = by, .now_s = now_s}, names);
}

static void show_some(struct seen *s, enum seen_by by, int64_t now_s, const char *prefix,
                      const char *names)
{
    char *prefixes[] = {(char *)prefix};

    show(s, &ONE,
         &(struct seen_how){.by = by, .now_s = now_s, .prefixes = prefixes, .prefix_count = 1},
         names);
}

/* "name@time+who", with a space between. */
static void assert_seen(struct seen *s, const char *expected)
{
    char said[512] = "";
    struct seen_view v;

    seen_get(s, &ONE, &v);
    for (size_t i = 0; i < v.count; i++) {
        size_t len = strlen(said);

        assert_int_equal(v.refs[i].oid.raw[19], v.refs[i].seen_s);
        snprintf(said + len, sizeof(said) - len, "%s%s@%d+%c", len > 0 ? " " : "", v.refs[i].name,
                 (int)v.refs[i].seen_s, *seen_by_name(v.refs[i].by));
    }
    seen_view_clear(&v);
    assert_string_equal(said, expected);
}

static int open_seen(void **state)
{
    *state = seen_new();
    return 0;
}

static int close_seen(void **state)
{
    seen_free((struct seen **)state);
    return 0;
}

static void each_ref_says_when_and_to_whom_it_was_shown_last(void **state)
{
    struct seen_view v;

    assert_false(seen_get(*state, &ONE, &v));
    seen_view_clear(&v);
    show_all(*state, SEEN_ANONYMOUS, 1, "HEAD b a");
    show_some(*state, SEEN_CLIENT, 2, "b", "b");
    assert_seen(*state, "HEAD@1+a a@1+a b@2+c");
    assert_true(seen_get(*state, &ONE, &v));
    assert_int_equal(v.listed_s, 2);
    assert_int_equal(v.by, SEEN_CLIENT);
    assert_true(v.complete);
    seen_view_clear(&v);
    assert_false(seen_get(*state, &OTHER, &v));
    seen_view_clear(&v);
}

static void what_a_later_listing_would_have_had_and_has_not_goes(void **state)
{
    show_all(*state, SEEN_OWN, 1, "heads/a heads/b tags/t");
    show_some(*state, SEEN_OWN, 2, "heads/", "heads/b heads/c");
    assert_seen(*state, "heads/b@2+o heads/c@2+o tags/t@1+o");
    show_all(*state, SEEN_OWN, 3, "");
    assert_seen(*state, "");
}

static void what_others_were_shown_is_not_gone_as_somebody_does_not_see_it(void **state)
{
    show_all(*state, SEEN_CLIENT, 1, "a secret");
    show_all(*state, SEEN_ANONYMOUS, 2, "a");
    assert_seen(*state, "a@2+a secret@1+c");
}

static void a_question_that_is_not_understood_says_nothing_of_what_it_left_out(void **state)
{
    show_all(*state, SEEN_CLIENT, 1, "a b");
    show(*state, &ONE, &(struct seen_how){.by = SEEN_CLIENT, .now_s = 2, .unclear = true}, "b");
    assert_seen(*state, "a@1+c b@2+c");
}

static void a_question_about_very_much_drops_nothing(void **state)
{
    char *prefixes[SEEN_PREFIXES_MAX + 1];

    for (size_t i = 0; i < ARRAY_LEN(prefixes); i++)
        prefixes[i] = (char *)"a";
    show_all(*state, SEEN_CLIENT, 1, "a b");
    show(*state, &ONE,
         &(struct seen_how){.by = SEEN_CLIENT,
                            .now_s = 2,
                            .prefixes = prefixes,
                            .prefix_count = SEEN_PREFIXES_MAX + 1},
         "");
    assert_seen(*state, "a@1+c b@1+c");
    show(
        *state, &ONE,
        &(struct seen_how){
            .by = SEEN_CLIENT, .now_s = 3, .prefixes = prefixes, .prefix_count = SEEN_PREFIXES_MAX},
        "");
    assert_seen(*state, "b@1+c");
}

/* 'count' names from first on. */
static void show_many(struct seen *s, const struct key *repo_id, int64_t now_s, unsigned first,
                      unsigned count, const char *end)
{
    char *names = xmalloc(count * (strlen(end) + 12) + 1), *at = names;

    *at = '\0';
    for (unsigned i = first; i < first + count; i++)
        at += sprintf(at, "%s%06u%s", i > first ? " " : "", i, end);
    show(s, repo_id, &(struct seen_how){.now_s = now_s}, names);
    free(names);
}

static void what_is_beyond_the_bound_is_left_out_and_that_is_told(void **state)
{
    char long_name[SEEN_NAME_MAX + 2];
    struct seen_view v;

    show_many(*state, &ONE, 1, 0, SEEN_REFS_MAX + 5, "");
    assert_true(seen_get(*state, &ONE, &v));
    assert_int_equal(v.count, SEEN_REFS_MAX);
    assert_false(v.complete);
    assert_string_equal(v.refs[0].name, "000000");
    seen_view_clear(&v);

    /* A listing of some doesn't tell what all of them are. */
    show_some(*state, SEEN_ANONYMOUS, 2, "000001", "000001");
    seen_get(*state, &ONE, &v);
    assert_false(v.complete);
    seen_view_clear(&v);

    show_all(*state, SEEN_ANONYMOUS, 3, "a");
    assert_seen(*state, "a@3+a");
    seen_get(*state, &ONE, &v);
    assert_true(v.complete);
    seen_view_clear(&v);

    memset(long_name, 'x', sizeof(long_name) - 1);
    long_name[sizeof(long_name) - 1] = '\0';
    show_all(*state, SEEN_CLIENT, 4, long_name);
    assert_seen(*state, "a@3+a");
    seen_get(*state, &ONE, &v);
    assert_false(v.complete);
    seen_view_clear(&v);
}

static void who_was_not_shown_for_longest_makes_room(void **state)
{
    struct seen_view v;

    show_many(*state, &ONE, 1, 0, 10, "");
    show_many(*state, &OTHER, 2, 0, 10, "");
    show_some(*state, SEEN_CLIENT, 2, "000003", "000003");
    /* As another kind, so that nothing goes by not being there. */
    show_many(*state, &ONE, 3, 100, SEEN_REFS_MAX - 1, "");
    seen_get(*state, &ONE, &v);
    assert_int_equal(v.count, SEEN_REFS_MAX);
    assert_string_equal(v.refs[0].name, "000003");
    assert_string_equal(v.refs[1].name, "000100");
    assert_true(v.complete);
    seen_view_clear(&v);
    show_some(*state, SEEN_CLIENT, 4, "x", "x");
    seen_get(*state, &ONE, &v);
    assert_int_equal(v.count, SEEN_REFS_MAX);
    assert_string_equal(v.refs[0].name, "000100");
    assert_string_equal(v.refs[SEEN_REFS_MAX - 1].name, "x");
    assert_false(v.complete);
    seen_view_clear(&v);
}

static void repositories_make_room_for_others(void **state)
{
    char end[201];
    struct key id = {{3}};
    struct seen_view v;
    unsigned repositories = 2 * SEEN_BYTES_MAX / (SEEN_REFS_MAX * 200);

    memset(end, 'x', sizeof(end) - 1);
    end[sizeof(end) - 1] = '\0';
    show_all(*state, SEEN_CLIENT, 1, "a");
    for (unsigned i = 0; i < repositories; i++) {
        memcpy(&id.raw[1], &i, sizeof(i));
        show_many(*state, &id, 2, 0, SEEN_REFS_MAX, end);
    }
    assert_false(seen_get(*state, &ONE, &v));
    seen_view_clear(&v);
    assert_true(seen_get(*state, &id, &v));
    assert_int_equal(v.count, SEEN_REFS_MAX);
    seen_view_clear(&v);
}

static void what_is_forgotten_was_never_seen(void **state)
{
    struct seen_view v;

    show_all(*state, SEEN_CLIENT, 1, "a");
    show(*state, &OTHER, &(struct seen_how){.now_s = 1}, "a");
    seen_forget(*state, &ONE);
    assert_false(seen_get(*state, &ONE, &v));
    seen_view_clear(&v);
    assert_true(seen_get(*state, &OTHER, &v));
    seen_view_clear(&v);
    seen_forget(*state, NULL);
    assert_false(seen_get(*state, &OTHER, &v));
    seen_view_clear(&v);
    seen_forget(*state, &ONE);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_seen, close_seen)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_ref_says_when_and_to_whom_it_was_shown_last),
        TEST(what_a_later_listing_would_have_had_and_has_not_goes),
        TEST(what_others_were_shown_is_not_gone_as_somebody_does_not_see_it),
        TEST(a_question_that_is_not_understood_says_nothing_of_what_it_left_out),
        TEST(a_question_about_very_much_drops_nothing),
        TEST(what_is_beyond_the_bound_is_left_out_and_that_is_told),
        TEST(who_was_not_shown_for_longest_makes_room),
        TEST(repositories_make_room_for_others),
        TEST(what_is_forgotten_was_never_seen),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
