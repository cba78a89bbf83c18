#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proxy/decisions.h"
#include "scratch.h"

enum { TTL = 60000 };

static int set_up(void **state)
{
    *state = decisions_new();
    return 0;
}

static int tear_down(void **state)
{
    struct decisions *d = *state;

    decisions_free(&d);
    assert_null(d);
    return 0;
}

/* Who asks for what: a credential, and a repository as typed. */
static struct subject subject(struct decisions *d, const char *credential, const char *repo)
{
    struct key repo_id;
    struct subject s;

    key_of(repo, strcspn(repo, "."), &repo_id); /* the same with ".git" and without */
    decisions_subject(d, credential, "https://example.org", repo, &repo_id, &s);
    return s;
}

static struct oid oid_number(unsigned n)
{
    /* In the order of their numbers. */
    return (struct oid){{(uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n}};
}

static struct oid_list oids(unsigned from, unsigned count)
{
    struct oid_list list = {0};

    for (unsigned i = from; i < from + count; i++) {
        struct oid oid = oid_number(i);

        oid_list_add(&list, &oid);
    }
    return list;
}

/* question: the prefixes of the refs that were asked for, a space between; "" asks for all. */
static void advertise_pairs(struct decisions *d, const struct subject *s, uint64_t now,
                            const char *question, struct oid_list list, struct oid_list tags,
                            struct oid_list targets)
{
    char *words = xstrdup(question), *save = NULL, *prefixes[8];
    struct listing listing = {
        .prefixes = prefixes, .oids = &list, .tags = &tags, .targets = &targets};

    for (char *word = strtok_r(words, " ", &save); word != NULL; word = strtok_r(NULL, " ", &save))
        prefixes[listing.prefix_count++] = word;
    key_of(question, strlen(question), &listing.question);
    decisions_advertised(d, s, now, TTL, &listing);
    oid_list_clear(&list);
    oid_list_clear(&tags);
    oid_list_clear(&targets);
    free(words);
}

static void advertise(struct decisions *d, const struct subject *s, uint64_t now,
                      const char *question, unsigned from, unsigned count)
{
    advertise_pairs(d, s, now, question, oids(from, count), (struct oid_list){0},
                    (struct oid_list){0});
}

static void grant(struct decisions *d, const struct subject *s, uint64_t now, unsigned from,
                  unsigned count)
{
    struct oid_list list = oids(from, count);

    decisions_grant(d, s, now, TTL, &list);
    oid_list_clear(&list);
}

/* How many of from..from+count are unknown. */
static size_t unknown(struct decisions *d, const struct subject *s, uint64_t now, unsigned from,
                      unsigned count)
{
    struct oid_list list = oids(from, count), out = {0};
    size_t n;

    decisions_unknown(d, s, now, &list, &out);
    n = out.count;
    oid_list_clear(&list);
    oid_list_clear(&out);
    return n;
}

static size_t all_advertised(struct decisions *d, const struct subject *s, uint64_t now)
{
    struct oid_list out = {0};
    size_t n;

    decisions_all_advertised(d, s, now, &out);
    n = out.count;
    oid_list_clear(&out);
    return n;
}

static void deny(struct decisions *d, const struct subject *s, uint64_t now)
{
    struct response_head head = {
        .status = 401,
        .headers = {{(char *)"www-authenticate", (char *)"Basic realm=\"x\""},
                    {(char *)"server", (char *)"s"},
                    {(char *)"www-authenticate", (char *)"Bearer"}},
        .header_count = 3,
    };

    decisions_deny(d, s, now, 10000, &head);
}

/* ---- verdicts ---- */

static void nothing_is_known_of_who_never_asked(void **state)
{
    struct decisions *d = *state;
    struct subject s = subject(d, "Basic a", "r");
    struct advert advert;

    assert_int_equal(decisions_get(d, &s, 0, NULL), VERDICT_NONE);
    assert_int_equal(unknown(d, &s, 0, 1, 3), 3);
    assert_int_equal(all_advertised(d, &s, 0), 0);
    assert_false(decisions_get_advert(d, &s, 0, &advert));
    assert_null(decisions_moved(d, &s, 0));
}

static void a_yes_holds_for_its_time(void **state)
{
    struct decisions *d = *state;
    struct subject s = subject(d, "Basic a", "r");

    decisions_allow(d, &s, 1000, TTL);
    assert_int_equal(decisions_get(d, &s, 1000, NULL), VERDICT_ALLOWED);
    assert_int_equal(decisions_get(d, &s, 1000 + TTL - 1, NULL), VERDICT_ALLOWED);
    assert_int_equal(decisions_get(d, &s, 1000 + TTL, NULL), VERDICT_NONE);
    decisions_allow(d, &s, 1000 + TTL, TTL);
    assert_int_equal(decisions_get(d, &s, 1000 + 2 * TTL - 1, NULL), VERDICT_ALLOWED);
}

static void a_no_holds_for_its_own_time_and_keeps_upstreams_words(void **state)
{
    struct decisions *d = *state;
    struct subject s = subject(d, "Basic a", "r");
    struct response_head denial;

    deny(d, &s, 1000);
    assert_int_equal(decisions_get(d, &s, 1000, &denial), VERDICT_DENIED);
    assert_int_equal(denial.status, 401);
    assert_int_equal(denial.header_count, 2);
    assert_string_equal(denial.headers[0].value, "Basic realm=\"x\"");
    assert_string_equal(denial.headers[1].value, "Bearer");
    response_head_clear(&denial);
    assert_int_equal(decisions_get(d, &s, 10999, NULL), VERDICT_DENIED);
    assert_int_equal(decisions_get(d, &s, 11000, NULL), VERDICT_NONE);
}

static void the_newer_word_counts(void **state)
{
    struct decisions *d = *state;
    struct subject s = subject(d, "Basic a", "r");

    decisions_allow(d, &s, 0, TTL);
    advertise(d, &s, 0, "q", 1, 10);
    grant(d, &s, 0, 20, 5);
    deny(d, &s, 10);
    assert_int_equal(decisions_get(d, &s, 10, NULL), VERDICT_DENIED);
    assert_int_equal(unknown(d, &s, 10, 1, 10), 10);
    decisions_allow(d, &s, 20, TTL);
    assert_int_equal(decisions_get(d, &s, 20, NULL), VERDICT_ALLOWED);
    /* What was shown before the no isn't known any more. */
    assert_int_equal(unknown(d, &s, 20, 1, 10), 10);
    assert_int_equal(unknown(d, &s, 20, 20, 5), 5);
}

static void every_credential_and_spelling_is_asked_about_apart(void **state)
{
    struct decisions *d = *state;
    struct subject all[] = {
        subject(d, NULL, "r"),      subject(d, "", "r"),    subject(d, "Basic a", "r"),
        subject(d, "basic a", "r"), subject(d, NULL, "rB"), subject(d, "Basic a", "r.git"),
        subject(d, "Basic b", "r"), subject(d, "B", "r"),
    };

    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        for (size_t k = 0; k < ARRAY_LEN(all); k++)
            assert_int_equal(key_equal(&all[i].key, &all[k].key), i == k);
        decisions_allow(d, &all[i], 0, TTL);
        for (size_t k = i + 1; k < ARRAY_LEN(all); k++)
            assert_int_equal(decisions_get(d, &all[k], 0, NULL), VERDICT_NONE);
    }
}

static void a_credential_is_not_to_be_guessed_from_its_key(void **state)
{
    struct decisions *d = *state, *other = decisions_new();
    struct subject here = subject(d, "Basic a", "r"), there = subject(other, "Basic a", "r");

    assert_false(key_equal(&here.key, &there.key)); /* another process, another key */
    decisions_free(&other);
}

/* ---- what was shown ---- */

static void what_was_advertised_is_known_while_the_yes_and_the_listing_hold(void **state)
{
    struct decisions *d = *state;
    struct subject s = subject(d, "Basic a", "r"), other = subject(d, "Basic b", "r");

    advertise(d, &s, 0, "q", 1, 10); /* without a yes it counts for nothing */
    decisions_allow(d, &s, 0, TTL);
    assert_int_equal(unknown(d, &s, 0, 1, 10), 10);
    advertise(d, &s, 100, "q", 1, 10);
    assert_int_equal(unknown(d, &s, 100, 1, 12), 2);
    assert_int_equal(all_advertised(d, &s, 100), 10);
    decisions_allow(d, &other, 100, TTL);
    assert_int_equal(unknown(d, &other, 100, 1, 10), 10);
    assert_int_equal(unknown(d, &s, TTL, 1, 10), 10); /* the yes has ended */
    decisions_allow(d, &s, TTL, TTL);
    assert_int_equal(unknown(d, &s, TTL + 99, 1, 10), 0);
    assert_int_equal(unknown(d, &s, TTL + 100, 1, 10), 10); /* the listing, too */
    assert_int_equal(all_advertised(d, &s, TTL + 100), 0);
}

static void a_newer_listing_replaces_the_one_before(void **state)
{
    struct decisions *d = *state;
    struct subject s = subject(d, "Basic a", "r");

    decisions_allow(d, &s, 0, TTL);
    advertise(d, &s, 0, "heads", 1, 10);
    advertise(d, &s, 0, "tags", 100, 10);
    advertise(d, &s, 1, "heads", 6, 10); /* 1 to 5 are hidden now */
    assert_int_equal(unknown(d, &s, 1, 1, 5), 5);
    assert_int_equal(unknown(d, &s, 1, 6, 10), 0);
    assert_int_equal(unknown(d, &s, 1, 100, 10), 0);
    assert_int_equal(all_advertised(d, &s, 1), 20);
}

static void a_listing_ends_those_that_it_covers(void **state)
{
    struct decisions *d = *state;
    struct subject s = subject(d, "Basic a", "r");

    decisions_allow(d, &s, 0, TTL);
    advertise(d, &s, 0, "refs/heads/main", 1, 10);
    advertise(d, &s, 0, "refs/tags/", 20, 10);
    advertise(d, &s, 0, "HEAD", 40, 10);
    advertise(d, &s, 1, "refs/heads/", 60, 10); /* HEAD is a branch as well */
    assert_int_equal(unknown(d, &s, 1, 1, 10), 10);
    assert_int_equal(unknown(d, &s, 1, 40, 10), 10);
    assert_int_equal(unknown(d, &s, 1, 20, 10), 0);
    advertise(d, &s, 1, "refs/heads/side", 80, 10); /* says nothing of the others */
    assert_int_equal(unknown(d, &s, 1, 60, 10), 0);
    advertise(d, &s, 2, "", 100, 10);
    assert_int_equal(unknown(d, &s, 2, 20, 10), 10);
    assert_int_equal(unknown(d, &s, 2, 60, 30), 30);
    assert_int_equal(unknown(d, &s, 2, 100, 10), 0);
}

static void what_a_listing_covers_is_told_by_its_prefixes(void **state)
{
    static const struct {
        const char *old, *newer;
        bool ends;
    } rows[] = {
        {"refs/heads/", "", true},
        {"", "refs/heads/", false},
        {"", "", true},
        {"refs/heads/", "refs/", true},
        {"refs/", "refs/heads/", false},
        {"refs/heads/ refs/tags/", "refs/tags/ refs/heads/", true},
        {"refs/heads/ refs/tags/", "refs/heads/", false},
        {"HEAD refs/heads/main", "refs/heads/", true},
        {"refs/heads/", "HEAD refs/heads/main", false},
        {"refs/pull/", "refs/heads/", false},
    };
    struct decisions *d = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct subject s = subject(d, rows[i].old, rows[i].newer);

        decisions_allow(d, &s, 0, TTL);
        advertise(d, &s, 0, rows[i].old, 1, 5);
        advertise(d, &s, 1, rows[i].newer, 100, 5);
        assert_int_equal(unknown(d, &s, 1, 1, 5), rows[i].ends ? 5 : 0);
        assert_int_equal(unknown(d, &s, 1, 100, 5), 0);
    }
}

static void a_newer_listing_ends_what_was_handed_out_before(void **state)
{
    struct decisions *d = *state;
    struct subject s = subject(d, "Basic a", "r");

    decisions_allow(d, &s, 0, TTL);
    grant(d, &s, 0, 1, 5);
    advertise(d, &s, 1, "refs/heads/", 100, 5);
    assert_int_equal(unknown(d, &s, 1, 1, 5), 5);
    grant(d, &s, 2, 1, 5);
    assert_int_equal(unknown(d, &s, 2, 1, 5), 0);
}

static void refs_are_as_old_as_the_last_listing_that_was_given(void **state)
{
    struct decisions *d = *state;
    struct subject s = subject(d, "Basic a", "r");

    decisions_gave_old_refs(d, &s, 100); /* to nobody */
    assert_int_equal(decisions_refs_age(d, &s, 500), 0);
    decisions_allow(d, &s, 0, TTL);
    advertise(d, &s, 100, "", 1, 5);
    assert_int_equal(decisions_refs_age(d, &s, 500), 0);
    decisions_gave_old_refs(d, &s, 100);
    assert_int_equal(decisions_refs_age(d, &s, 500), 400);
    advertise(d, &s, 600, "", 1, 5);
    assert_int_equal(decisions_refs_age(d, &s, 700), 0);
}

static void of_too_many_listings_the_one_that_ends_first_goes(void **state)
{
    struct decisions *d = *state;
    struct subject s = subject(d, "Basic a", "r");
    char question[16];

    decisions_allow(d, &s, 0, 10 * TTL);
    for (unsigned i = 0; i <= DECISION_SETS_MAX; i++) {
        snprintf(question, sizeof(question), "q%u", i);
        advertise(d, &s, 100 + i, question, 10 * i, 10);
    }
    assert_int_equal(unknown(d, &s, 200, 0, 10), 10);
    assert_int_equal(unknown(d, &s, 200, 10, 10 * DECISION_SETS_MAX), 0);
}

static void tags_are_told_as_sorted_pairs(void **state)
{
    struct decisions *d = *state;
    struct subject s = subject(d, "Basic a", "r");
    struct oid_list tags = {0}, targets = {0}, out_tags = {0}, out_targets = {0};
    static const unsigned numbers[][2] = {{7, 70}, {3, 30}, {5, 50}};

    assert_false(decisions_tags(d, &s, 0, &out_tags, &out_targets));
    decisions_allow(d, &s, 0, TTL);
    assert_false(decisions_tags(d, &s, 0, &out_tags, &out_targets));
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        struct oid tag = oid_number(numbers[i][0]), target = oid_number(numbers[i][1]);

        oid_list_add(&tags, &tag);
        oid_list_add(&targets, &target);
    }
    advertise_pairs(d, &s, 0, "a", oids(1, 9), tags, targets);
    tags = targets = (struct oid_list){0};
    oid_list_add(&tags, &(struct oid){{0, 0, 0, 3}});
    oid_list_add(&targets, &(struct oid){{0, 0, 0, 30}});
    advertise_pairs(d, &s, 0, "b", oids(1, 9), tags, targets);
    assert_true(decisions_tags(d, &s, 0, &out_tags, &out_targets));
    assert_int_equal(out_tags.count, 3);
    assert_int_equal(out_targets.count, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(out_tags.items[i].raw[3], 3 + 2 * i);
        assert_int_equal(out_targets.items[i].raw[3], 30 + 20 * i);
    }
    oid_list_clear(&out_tags);
    oid_list_clear(&out_targets);
    assert_false(decisions_tags(d, &s, TTL, &out_tags, &out_targets));
}

static void what_was_handed_out_is_known_for_its_time(void **state)
{
    struct decisions *d = *state;
    struct subject s = subject(d, "Basic a", "r");

    grant(d, &s, 0, 1, 10);
    decisions_allow(d, &s, 0, 10 * TTL);
    assert_int_equal(unknown(d, &s, 0, 1, 10), 10);
    grant(d, &s, 100, 1, 10);
    assert_int_equal(unknown(d, &s, 100, 0, 12), 2);
    grant(d, &s, 200, 5, 2); /* again: their time starts anew */
    assert_int_equal(unknown(d, &s, TTL + 100, 1, 10), 8);
    assert_int_equal(unknown(d, &s, TTL + 200, 1, 10), 10);
    assert_int_equal(all_advertised(d, &s, 100), 0); /* handed out isn't advertised */
}

static void the_same_thing_handed_out_often_takes_no_more_room(void **state)
{
    struct decisions *d = *state;
    struct subject s = subject(d, "Basic a", "r");

    decisions_allow(d, &s, 0, TTL);
    for (unsigned i = 0; i < 2 * DECISION_GRANTS_MAX; i++)
        grant(d, &s, 0, 1, 1);
    grant(d, &s, 0, 2, 1);
    assert_int_equal(unknown(d, &s, 0, 1, 2), 0);
}

static void grants_are_bounded_and_make_room_when_they_end(void **state)
{
    struct decisions *d = *state;
    struct subject s = subject(d, "Basic a", "r");

    decisions_allow(d, &s, 0, 10 * TTL);
    grant(d, &s, 0, 0, DECISION_GRANTS_MAX / 2);
    grant(d, &s, 100, DECISION_GRANTS_MAX / 2, DECISION_GRANTS_MAX);
    assert_int_equal(unknown(d, &s, 100, 0, DECISION_GRANTS_MAX), 0);
    assert_int_equal(unknown(d, &s, 100, DECISION_GRANTS_MAX, DECISION_GRANTS_MAX / 2),
                     DECISION_GRANTS_MAX / 2);
    grant(d, &s, TTL, 100000, 100); /* the first half has ended */
    assert_int_equal(unknown(d, &s, TTL, 100000, 100), 0);
    assert_int_equal(unknown(d, &s, TTL, 0, DECISION_GRANTS_MAX / 2), DECISION_GRANTS_MAX / 2);
    assert_int_equal(unknown(d, &s, TTL, DECISION_GRANTS_MAX / 2, DECISION_GRANTS_MAX / 2), 0);
}

/* ---- bounds ---- */

static void equal_listings_are_held_once(void **state)
{
    struct decisions *d = *state;
    struct subject s[3] = {subject(d, "a", "r"), subject(d, "b", "r"), subject(d, "c", "r")};

    /* More than there is room for, were they not shared. */
    for (size_t i = 0; i < ARRAY_LEN(s); i++) {
        decisions_allow(d, &s[i], 0, TTL);
        advertise(d, &s[i], 0, "q", 0, DECISION_OIDS_MAX / 2);
    }
    for (size_t i = 0; i < ARRAY_LEN(s); i++)
        assert_int_equal(all_advertised(d, &s[i], 0), DECISION_OIDS_MAX / 2);
}

static void listings_that_have_ended_make_room(void **state)
{
    struct decisions *d = *state;
    struct subject first = subject(d, "a", "r"), second = subject(d, "b", "r");

    decisions_allow(d, &first, 0, TTL);
    advertise(d, &first, 0, "q", 0, DECISION_OIDS_MAX);
    assert_int_equal(all_advertised(d, &first, 0), DECISION_OIDS_MAX);
    decisions_allow(d, &second, TTL, TTL);
    advertise(d, &second, TTL, "q", 7, 1000);
    assert_int_equal(all_advertised(d, &second, TTL), 1000);
}

static void the_oldest_listings_make_room_for_new_ones(void **state)
{
    struct decisions *d = *state;
    struct subject s[3] = {subject(d, "a", "r"), subject(d, "b", "r"), subject(d, "c", "r")};

    for (unsigned i = 0; i < 3; i++) {
        decisions_allow(d, &s[i], i, TTL);
        advertise(d, &s[i], i, "q", i * DECISION_OIDS_MAX, DECISION_OIDS_MAX / 2);
    }
    assert_int_equal(all_advertised(d, &s[0], 3), 0);
    assert_int_equal(all_advertised(d, &s[1], 3), DECISION_OIDS_MAX / 2);
    assert_int_equal(all_advertised(d, &s[2], 3), DECISION_OIDS_MAX / 2);
    assert_int_equal(decisions_get(d, &s[0], 3, NULL), VERDICT_ALLOWED);
}

static void a_listing_beyond_all_bounds_is_not_held(void **state)
{
    struct decisions *d = *state;
    struct subject a = subject(d, "a", "r"), b = subject(d, "b", "r");

    decisions_allow(d, &a, 0, TTL);
    advertise(d, &a, 0, "q", 0, 10);
    decisions_allow(d, &b, 0, TTL);
    advertise(d, &b, 0, "q", 0, DECISION_OIDS_MAX + 1);
    assert_int_equal(all_advertised(d, &b, 0), 0);
    assert_int_equal(all_advertised(d, &a, 0), 10);
}

static void of_too_many_decisions_the_oldest_goes(void **state)
{
    struct decisions *d = *state;
    struct subject first = subject(d, "a", "r"), second = subject(d, "b", "r");
    char credential[16];

    decisions_allow(d, &first, 0, TTL);
    decisions_allow(d, &second, 0, TTL);
    decisions_allow(d, &first, 1, TTL); /* renewed: the second is the oldest now */
    for (unsigned i = 0; i < DECISIONS_MAX - 1; i++) {
        struct subject s;

        snprintf(credential, sizeof(credential), "c%u", i);
        s = subject(d, credential, "r");
        decisions_allow(d, &s, 1, TTL);
    }
    assert_int_equal(decisions_get(d, &first, 1, NULL), VERDICT_ALLOWED);
    assert_int_equal(decisions_get(d, &second, 1, NULL), VERDICT_NONE);
}

/* ---- adverts and moves ---- */

static void set_advert(struct decisions *d, const struct subject *s, uint64_t now, const char *text)
{
    struct advert a = {
        .version = 2,
        .filter = true,
        .v2_body = xstrdup(text),
        .v2_len = strlen(text),
        .v2_content_type = xstrdup("type"),
    };

    decisions_set_advert(d, s, now, TTL, &a);
    assert_null(a.v2_body); /* taken, whatever became of it */
}

static void an_advert_goes_with_the_yes(void **state)
{
    struct decisions *d = *state;
    struct subject s = subject(d, "Basic a", "r");
    struct advert out;

    set_advert(d, &s, 0, "nobody said yes");
    decisions_allow(d, &s, 0, TTL);
    assert_false(decisions_get_advert(d, &s, 0, &out));
    set_advert(d, &s, 0, "first");
    set_advert(d, &s, 100, "second");
    assert_true(decisions_get_advert(d, &s, 100, &out));
    assert_int_equal(out.version, 2);
    assert_true(out.filter);
    assert_memory_equal(out.v2_body, "second", out.v2_len);
    assert_string_equal(out.v2_content_type, "type");
    advert_clear(&out);
    assert_false(decisions_get_advert(d, &s, TTL, &out));
    decisions_allow(d, &s, TTL, TTL);
    assert_true(decisions_get_advert(d, &s, TTL, &out));
    advert_clear(&out);
    assert_false(decisions_get_advert(d, &s, TTL + 100, &out));
    deny(d, &s, TTL);
    decisions_allow(d, &s, TTL, TTL);
    assert_false(decisions_get_advert(d, &s, TTL, &out));
}

static void a_move_is_known_whatever_the_verdict(void **state)
{
    struct decisions *d = *state;
    struct subject s = subject(d, "Basic a", "r");
    char *moved;

    decisions_set_moved(d, &s, 0, TTL, NULL);
    assert_null(decisions_moved(d, &s, 0));
    decisions_set_moved(d, &s, 0, TTL, "new/place");
    assert_int_equal(decisions_get(d, &s, 0, NULL), VERDICT_NONE);
    deny(d, &s, 0);
    moved = decisions_moved(d, &s, TTL - 1);
    assert_string_equal(moved, "new/place");
    free(moved);
    assert_null(decisions_moved(d, &s, TTL));
    decisions_set_moved(d, &s, 0, TTL, NULL); /* and back again */
    assert_null(decisions_moved(d, &s, 0));
}

static void a_push_makes_all_forget_the_repository(void **state)
{
    struct decisions *d = *state;
    struct subject a = subject(d, "a", "r"), b = subject(d, "b", "r.git"), c = subject(d, "a", "s");

    decisions_allow(d, &a, 0, TTL);
    decisions_allow(d, &b, 0, TTL);
    decisions_allow(d, &c, 0, TTL);
    advertise(d, &a, 0, "q", 1, 10);
    decisions_forget(d, &a.repo_id);
    assert_int_equal(decisions_get(d, &a, 0, NULL), VERDICT_NONE);
    assert_int_equal(decisions_get(d, &b, 0, NULL), VERDICT_NONE);
    assert_int_equal(decisions_get(d, &c, 0, NULL), VERDICT_ALLOWED);
    decisions_allow(d, &a, 0, TTL);
    assert_int_equal(unknown(d, &a, 0, 1, 10), 10);
}

/* ---- all at once ---- */

struct user {
    struct decisions *decisions;
    pthread_barrier_t *barrier;
    unsigned seed;
};

static void *use_all(void *ctx)
{
    struct user *u = ctx;
    struct decisions *d = u->decisions;

    pthread_barrier_wait(u->barrier);
    for (unsigned i = 0; i < 150; i++) {
        char credential[16], repo[16];
        struct response_head denial;
        struct advert advert;
        struct subject s;

        snprintf(credential, sizeof(credential), "c%d", rand_r(&u->seed) % 4);
        snprintf(repo, sizeof(repo), "r%d", rand_r(&u->seed) % 2);
        s = subject(d, credential, repo);
        switch (rand_r(&u->seed) % 8) {
        case 0: deny(d, &s, i); break;
        case 1: decisions_forget(d, &s.repo_id); break;
        case 2: advertise(d, &s, i, repo, (unsigned)rand_r(&u->seed) % 3, 100); break;
        case 3: grant(d, &s, i, 0, 20); break;
        case 4: set_advert(d, &s, i, "advert"); break;
        case 5: decisions_set_moved(d, &s, i, TTL, "moved"); break;
        default: decisions_allow(d, &s, i, TTL); break;
        }
        unknown(d, &s, i, 0, 1100);
        all_advertised(d, &s, i);
        free(decisions_moved(d, &s, i));
        if (decisions_get(d, &s, i, &denial) == VERDICT_DENIED)
            response_head_clear(&denial);
        if (decisions_get_advert(d, &s, i, &advert))
            advert_clear(&advert);
    }
    return NULL;
}

static void all_of_it_at_once_holds(void **state)
{
    enum { USERS = 8 };
    struct user users[USERS];
    pthread_barrier_t barrier;

    pthread_barrier_init(&barrier, NULL, USERS);
    for (unsigned i = 0; i < USERS; i++)
        users[i] = (struct user){*state, &barrier, i + 1};
    run_together(USERS, use_all, users, sizeof(users[0]));
    pthread_barrier_destroy(&barrier);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_known_of_who_never_asked),
        TEST(a_yes_holds_for_its_time),
        TEST(a_no_holds_for_its_own_time_and_keeps_upstreams_words),
        TEST(the_newer_word_counts),
        TEST(every_credential_and_spelling_is_asked_about_apart),
        TEST(a_credential_is_not_to_be_guessed_from_its_key),
        TEST(what_was_advertised_is_known_while_the_yes_and_the_listing_hold),
        TEST(a_newer_listing_replaces_the_one_before),
        TEST(a_listing_ends_those_that_it_covers),
        TEST(what_a_listing_covers_is_told_by_its_prefixes),
        TEST(a_newer_listing_ends_what_was_handed_out_before),
        TEST(refs_are_as_old_as_the_last_listing_that_was_given),
        TEST(of_too_many_listings_the_one_that_ends_first_goes),
        TEST(tags_are_told_as_sorted_pairs),
        TEST(what_was_handed_out_is_known_for_its_time),
        TEST(the_same_thing_handed_out_often_takes_no_more_room),
        TEST(grants_are_bounded_and_make_room_when_they_end),
        TEST(equal_listings_are_held_once),
        TEST(listings_that_have_ended_make_room),
        TEST(the_oldest_listings_make_room_for_new_ones),
        TEST(a_listing_beyond_all_bounds_is_not_held),
        TEST(of_too_many_decisions_the_oldest_goes),
        TEST(a_push_makes_all_forget_the_repository),
        TEST(an_advert_goes_with_the_yes),
        TEST(a_move_is_known_whatever_the_verdict),
        TEST(all_of_it_at_once_holds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
