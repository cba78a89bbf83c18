/* What may be shown while upstream is down: to whom, what, and for how long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proxy/manners/stale.h"

enum { MINUTE = 60000, HOUR = 60 * MINUTE };

static const struct upstream_config on = {.stale_if_error_ms = HOUR,
                                          .stale_access_ttl_ms = 2 * HOUR};
static const struct upstream_config off = {.stale_access_ttl_ms = 2 * HOUR};

#define OID "1111111111111111111111111111111111111111"
static const char listing[] = "003d" OID " refs/heads/main\n0000";

struct fixture {
    struct stale *stale;
    struct decisions *decisions;
    struct subject alice, bob;
};

static struct subject subject(struct fixture *f, const char *credential, const char *repo)
{
    struct key repo_id;
    struct subject s;

    key_of(repo, strlen(repo), &repo_id);
    decisions_subject(f->decisions, credential, "https://host", repo, &repo_id, &s);
    return s;
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->stale = stale_new();
    f->decisions = decisions_new();
    f->alice = subject(f, "alice", "r");
    f->bob = subject(f, "bob", "r");
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    stale_free(&f->stale);
    decisions_free(&f->decisions);
    free(f);
    return 0;
}

/* extra: bytes that make the answer as large as one likes. */
static struct shown *shown_with(const char *asked_text, size_t extra)
{
    static const char tail[] = "0000";
    struct refs_reader *reader = refs_reader_new(REFS_LS_REFS, HASH_SHA1, 1000);
    struct bytes asked, body;
    struct shown *shown;
    struct err err;

    bytes_init(&asked, 1000);
    bytes_add_str(&asked, asked_text);
    bytes_init(&body, STALE_BODY_MAX);
    bytes_add(&body, listing, sizeof(listing) - 1 - 4);
    for (size_t i = 0; i < extra; i++)
        bytes_add(&body, asked_text, strlen(asked_text) > 0 ? 1 : 0);
    bytes_add_str(&body, tail);
    assert_int_equal(refs_reader_feed(reader, listing, sizeof(listing) - 1, &err), 0);
    assert_int_equal(refs_reader_finish(reader, &err), 0);
    shown = shown_new(REFS_LS_REFS, &reader, "text/x", &asked, &body);
    assert_null(reader);
    bytes_clear(&asked);
    return shown;
}

static void question(const char *text, struct key *out)
{
    key_of(text, strlen(text), out);
}

static void keep(struct fixture *f, const struct subject *s, const char *text, uint64_t now)
{
    struct shown *shown = shown_with(text, 0);
    struct key key;

    question(text, &key);
    stale_keep(f->stale, s, &key, &shown, now);
    assert_null(shown);
}

static bool can(struct fixture *f, const struct subject *s, const char *text, uint64_t now)
{
    struct key key;
    struct bytes body;
    bool shown, said;

    question(text, &key);
    said = stale_can(f->stale, s, &key, &on, now);
    shown = stale_show(f->stale, s, &key, &on, now, &body);
    assert_true(said == shown);
    if (shown)
        assert_memory_equal(body.data, listing, 60);
    bytes_clear(&body);
    return said;
}

static void refs_are_shown_again_to_who_saw_them(void **state)
{
    struct fixture *f = *state;

    stale_allowed(f->stale, &f->alice, &on, 1000);
    keep(f, &f->alice, "q", 1000);
    assert_true(can(f, &f->alice, "q", 2000));
    assert_false(can(f, &f->alice, "another question", 2000));
    assert_false(can(f, &f->bob, "q", 2000));
}

static void they_are_never_older_than_allowed(void **state)
{
    struct fixture *f = *state;

    stale_allowed(f->stale, &f->alice, &on, 1000);
    keep(f, &f->alice, "q", 1000);
    assert_true(can(f, &f->alice, "q", 1000 + HOUR - 1));
    assert_false(can(f, &f->alice, "q", 1000 + HOUR));
    assert_false(stale_admit(f->stale, f->decisions, &f->alice, &on, 1000 + HOUR));
}

static void upstreams_yes_is_never_older_than_allowed(void **state)
{
    struct fixture *f = *state;

    stale_allowed(f->stale, &f->alice, &on, 1000);
    keep(f, &f->alice, "q", 1000 + 90 * MINUTE);
    assert_true(can(f, &f->alice, "q", 1000 + 2 * HOUR - 1));
    assert_false(can(f, &f->alice, "q", 1000 + 2 * HOUR));
    assert_false(stale_admit(f->stale, f->decisions, &f->alice, &on, 1000 + 2 * HOUR));
    stale_allowed(f->stale, &f->alice, &on, 1000 + 2 * HOUR);
    assert_true(can(f, &f->alice, "q", 1000 + 2 * HOUR));
}

static void a_refusal_ends_it(void **state)
{
    struct fixture *f = *state;

    stale_allowed(f->stale, &f->alice, &on, 1000);
    stale_allowed(f->stale, &f->bob, &on, 1000);
    keep(f, &f->alice, "q", 1000);
    keep(f, &f->bob, "q", 1000);
    stale_refused(f->stale, &f->alice);
    assert_false(can(f, &f->alice, "q", 1001));
    assert_true(can(f, &f->bob, "q", 1001));
    /* What was asked before the refusal and comes after it is not remembered. */
    keep(f, &f->alice, "q", 1002);
    assert_false(can(f, &f->alice, "q", 1002));
    assert_false(stale_admit(f->stale, f->decisions, &f->alice, &on, 1002));
}

static void a_push_ends_it_for_all(void **state)
{
    struct fixture *f = *state;
    struct subject other = subject(f, "alice", "other");

    stale_allowed(f->stale, &f->alice, &on, 1000);
    stale_allowed(f->stale, &f->bob, &on, 1000);
    stale_allowed(f->stale, &other, &on, 1000);
    keep(f, &f->alice, "q", 1000);
    keep(f, &f->bob, "q", 1000);
    keep(f, &other, "q", 1000);
    stale_forget(f->stale, &f->alice.repo_id);
    assert_false(can(f, &f->alice, "q", 1001));
    assert_false(can(f, &f->bob, "q", 1001));
    assert_true(can(f, &other, "q", 1001));
}

static void where_it_is_off_nothing_is_remembered(void **state)
{
    struct fixture *f = *state;
    struct key key;

    question("q", &key);
    stale_allowed(f->stale, &f->alice, &off, 1000);
    keep(f, &f->alice, "q", 1000);
    assert_false(can(f, &f->alice, "q", 1001));
    /* Nor is it shown once it was switched off. */
    stale_allowed(f->stale, &f->alice, &on, 1000);
    keep(f, &f->alice, "q", 1000);
    assert_false(stale_can(f->stale, &f->alice, &key, &off, 1001));
    assert_false(stale_admit(f->stale, f->decisions, &f->alice, &off, 1001));
}

static bool knows(struct fixture *f, uint64_t now)
{
    struct oid_list want = {0}, unknown = {0};
    struct oid oid;
    bool known;

    memset(&oid, 0, sizeof(oid));
    memset(&oid, 0x11, 20);
    oid_list_add(&want, &oid);
    decisions_unknown(f->decisions, &f->alice, now, &want, &unknown);
    known = unknown.count == 0;
    oid_list_clear(&want);
    oid_list_clear(&unknown);
    return known;
}

static void decisions_go_by_it_for_a_few_seconds(void **state)
{
    struct fixture *f = *state;
    uint64_t age;

    stale_allowed(f->stale, &f->alice, &on, 1000);
    keep(f, &f->alice, "q", 1000);
    assert_false(stale_holds(f->stale, &f->alice, 10000, &age));
    assert_false(knows(f, 10000));
    assert_true(stale_admit(f->stale, f->decisions, &f->alice, &on, 10000));
    assert_true(stale_holds(f->stale, &f->alice, 10000, &age));
    assert_int_equal(age, 9000);
    assert_true(knows(f, 10000));
    assert_int_equal(decisions_get(f->decisions, &f->alice, 10000 + STALE_HOLDS_MS - 1, NULL),
                     VERDICT_ALLOWED);
    assert_int_equal(decisions_get(f->decisions, &f->alice, 10000 + STALE_HOLDS_MS, NULL),
                     VERDICT_NONE);
    assert_false(stale_holds(f->stale, &f->alice, 10000 + STALE_HOLDS_MS, &age));
}

static void but_not_beyond_the_limits(void **state)
{
    struct fixture *f = *state;
    uint64_t late = 1000 + HOUR - 2000, age;

    stale_allowed(f->stale, &f->alice, &on, 1000);
    keep(f, &f->alice, "q", 1000);
    assert_true(stale_admit(f->stale, f->decisions, &f->alice, &on, late));
    assert_true(knows(f, late + 1999));
    assert_false(knows(f, late + 2000));
    assert_true(stale_holds(f->stale, &f->alice, late + 1, &age));
}

static void a_word_of_upstreams_ends_the_outage(void **state)
{
    struct fixture *f = *state;
    uint64_t age;

    stale_allowed(f->stale, &f->alice, &on, 1000);
    keep(f, &f->alice, "q", 1000);
    assert_true(stale_admit(f->stale, f->decisions, &f->alice, &on, 2000));
    stale_allowed(f->stale, &f->alice, &on, 2001);
    assert_false(stale_holds(f->stale, &f->alice, 2001, &age));
}

static void the_oldest_question_makes_room(void **state)
{
    struct fixture *f = *state;
    char text[16];

    stale_allowed(f->stale, &f->alice, &on, 1000);
    for (unsigned i = 0; i <= STALE_QUESTIONS_MAX; i++) {
        snprintf(text, sizeof(text), "q%u", i);
        keep(f, &f->alice, text, 1000 + i);
    }
    assert_false(can(f, &f->alice, "q0", 2000));
    for (unsigned i = 1; i <= STALE_QUESTIONS_MAX; i++) {
        snprintf(text, sizeof(text), "q%u", i);
        assert_true(can(f, &f->alice, text, 2000));
    }
    /* The same question again takes no place of another one's. */
    keep(f, &f->alice, "q4", 3000);
    assert_true(can(f, &f->alice, "q1", 3000));
}

static void all_together_are_bounded_and_equal_ones_count_once(void **state)
{
    enum { LARGE = 2 << 20 };
    struct fixture *f = *state;
    struct subject s[40];
    struct key key;
    unsigned left = 0;

    question("q", &key);
    for (unsigned i = 0; i < 40; i++) {
        char credential[16];
        struct shown *shown = shown_with("q", LARGE);

        snprintf(credential, sizeof(credential), "c%u", i);
        s[i] = subject(f, credential, "r");
        stale_allowed(f->stale, &s[i], &on, 1000);
        stale_keep(f->stale, &s[i], &key, &shown, 1000);
    }
    for (unsigned i = 0; i < 40; i++)
        left += stale_can(f->stale, &s[i], &key, &on, 1000);
    assert_int_equal(left, 40);
    /* Different ones, of twice the bound together. */
    for (unsigned i = 0; i < 40; i++) {
        struct shown *shown = shown_with("q", 3 * (size_t)(1 << 20) + i);

        stale_allowed(f->stale, &s[i], &on, 1000 + i); /* it may have gone to make room */
        stale_keep(f->stale, &s[i], &key, &shown, 1000 + i);
    }
    left = 0;
    for (unsigned i = 0; i < 40; i++)
        left += stale_can(f->stale, &s[i], &key, &on, 2000);
    assert_in_range(left, STALE_BYTES_MAX / (3 << 20) - 2, STALE_BYTES_MAX / (3 << 20));
    assert_true(stale_can(f->stale, &s[39], &key, &on, 2000));
}

static void credentials_are_bounded(void **state)
{
    struct fixture *f = *state;
    char credential[16];

    stale_allowed(f->stale, &f->alice, &on, 1000);
    keep(f, &f->alice, "q", 1000);
    for (unsigned i = 0; i < STALE_SUBJECTS_MAX; i++) {
        struct subject s;

        snprintf(credential, sizeof(credential), "c%u", i);
        s = subject(f, credential, "r");
        stale_allowed(f->stale, &s, &on, 1000);
    }
    assert_false(can(f, &f->alice, "q", 1001));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(refs_are_shown_again_to_who_saw_them, set_up, tear_down),
        cmocka_unit_test_setup_teardown(they_are_never_older_than_allowed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(upstreams_yes_is_never_older_than_allowed, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_refusal_ends_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_push_ends_it_for_all, set_up, tear_down),
        cmocka_unit_test_setup_teardown(where_it_is_off_nothing_is_remembered, set_up, tear_down),
        cmocka_unit_test_setup_teardown(decisions_go_by_it_for_a_few_seconds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(but_not_beyond_the_limits, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_word_of_upstreams_ends_the_outage, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_oldest_question_makes_room, set_up, tear_down),
        cmocka_unit_test_setup_teardown(all_together_are_bounded_and_equal_ones_count_once, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(credentials_are_bounded, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
