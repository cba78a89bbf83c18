#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "tests/bench/replay.h"

enum { WEEK = 7 * 86400 };

static int read_text(const char *text, struct trace *out, size_t *line)
{
    FILE *in = fmemopen((void *)text, strlen(text), "r");
    int rc = trace_read(in, out, line);

    fclose(in);
    return rc;
}

/* A trace by hand: a letter for each request, a second apart; sizes in the order of first use. */
static struct trace make(const char *letters, const uint64_t *sizes)
{
    char text[1024] = "", order[32] = "";
    struct trace trace;
    size_t line;

    for (size_t i = 0; letters[i] != '\0'; i++) {
        const char *known = strchr(order, letters[i]);
        size_t key = known != NULL ? (size_t)(known - order) : strlen(order), at = strlen(text);

        order[key] = letters[i];
        snprintf(text + at, sizeof(text) - at, "%zu %zu %u\n", i, key, (unsigned)sizes[key]);
    }
    assert_int_equal(read_text(text, &trace, &line), 0);
    assert_int_equal(trace.count, strlen(letters));
    assert_int_equal(trace.keys, strlen(order));
    return trace;
}

static void assert_score(struct score score, double hits, double hit_bytes)
{
    assert_float_equal(score.hits, hits, 1e-9);
    assert_float_equal(score.hit_bytes, hit_bytes, 1e-9);
}

struct expected {
    double lru, size, s3fifo, belady; /* hits */
};

/* What each hits, where all that is hit has this size. */
static void assert_hits(const char *letters, const uint64_t *sizes, uint64_t capacity,
                        uint64_t size, struct expected hits)
{
    struct trace trace = make(letters, sizes);
    double each = (double)size;

    assert_score(replay_policy(&trace, POLICY_LRU, capacity, WEEK), hits.lru, hits.lru * each);
    assert_score(replay_policy(&trace, POLICY_SIZE, capacity, WEEK), hits.size, hits.size * each);
    assert_score(replay_policy(&trace, POLICY_S3FIFO, capacity, WEEK), hits.s3fifo,
                 hits.s3fifo * each);
    assert_score(replay_belady(&trace, capacity), hits.belady, hits.belady * each);
    trace_clear(&trace);
}

static const uint64_t tens[] = {10, 10, 10, 10, 10, 10, 10};

static void what_is_asked_for_again_outlives_a_row_of_others_but_with_lru(void **state)
{
    (void)state;
    assert_hits("aabcda", tens, 30, 10,
                (struct expected){.lru = 1, .size = 2, .s3fifo = 2, .belady = 2});
}

static void a_big_one_pushes_small_ones_out_but_with_size(void **state)
{
    static const uint64_t sizes[] = {10, 20, 10};

    (void)state;
    assert_hits("aBca", sizes, 30, 10,
                (struct expected){.lru = 0, .size = 1, .s3fifo = 0, .belady = 1});
}

static void a_circle_that_does_not_fit_is_missed_but_by_who_knows_the_future(void **state)
{
    (void)state;
    assert_hits("abcabc", tens, 20, 10,
                (struct expected){.lru = 0, .size = 0, .s3fifo = 0, .belady = 2});
}

static void s3fifo_knows_who_came_back(void **state)
{
    (void)state;
    /* a goes when d comes, comes back into main, and outlives e, f and g there. */
    assert_hits("abcdaefga", tens, 30, 10,
                (struct expected){.lru = 0, .size = 0, .s3fifo = 1, .belady = 2});
}

static void what_is_larger_than_the_cache_is_not_kept_and_pushes_nothing_out(void **state)
{
    static const uint64_t sizes[] = {10, 31};

    (void)state;
    assert_hits("aBBa", sizes, 30, 10,
                (struct expected){.lru = 1, .size = 1, .s3fifo = 1, .belady = 1});
}

static void in_an_endless_cache_only_first_requests_miss(void **state)
{
    struct trace trace = make("abcabcaa", tens);

    (void)state;
    assert_hits("abcabcaa", tens, UINT64_MAX / 2, 10, (struct expected){5, 5, 5, 5});
    assert_score(replay_bound(&trace, UINT64_MAX / 2), 5, 50);
    trace_clear(&trace);
}

static void size_lets_what_is_too_old_go(void **state)
{
    static const uint64_t sizes[] = {5, 10, 15};
    struct trace trace = make("aabbca", sizes);

    (void)state;
    /* When c comes, a is the lighter one, but was used 3 s ago. */
    assert_score(replay_policy(&trace, POLICY_SIZE, 25, WEEK), 3, 20);
    assert_score(replay_policy(&trace, POLICY_SIZE, 25, 2), 2, 15);
    trace_clear(&trace);
}

static void the_bound_on_bytes_keeps_parts(void **state)
{
    struct trace trace = make("abab", tens);

    (void)state;
    assert_score(replay_belady(&trace, 15), 1, 10);
    assert_float_equal(replay_bound(&trace, 15).hit_bytes, 15, 1e-9);
    trace_clear(&trace);
}

static void the_bound_on_requests_spends_room_and_time_on_the_cheapest(void **state)
{
    static const uint64_t sizes[] = {10, 10, 10, 2};
    struct trace trace = make("abcddabc", sizes);

    (void)state;
    /* 12 x 8 to spend: 2 for d, then 50 and 44 of 50 for two of the others. */
    assert_float_equal(replay_bound(&trace, 12).hits, 2 + 44.0 / 50, 1e-9);
    assert_float_equal(replay_bound(&trace, 9).hits, 1, 1e-9); /* only d fits */
    trace_clear(&trace);
}

static void nobody_passes_the_bound(void **state)
{
    static const enum policy_kind kinds[] = {POLICY_S3FIFO, POLICY_LRU, POLICY_SIZE};
    uint64_t sizes[26];
    char letters[101] = "";

    (void)state;
    srand(7);
    for (unsigned round = 0; round < 200; round++) {
        struct score bound, score;
        struct trace trace;
        uint64_t capacity = 20 + (uint64_t)rand() % 200;

        for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
            sizes[i] = 1 + (uint64_t)rand() % 60;
        for (size_t i = 0; i < sizeof(letters) - 1; i++)
            letters[i] = (char)('a' + rand() % 26 * (rand() % 26) / 26);
        trace = make(letters, sizes);
        bound = replay_bound(&trace, capacity);
        for (size_t k = 0; k <= ARRAY_LEN(kinds); k++) {
            score = k < ARRAY_LEN(kinds) ? replay_policy(&trace, kinds[k], capacity, 50)
                                         : replay_belady(&trace, capacity);
            assert_true(score.hits <= bound.hits + 1e-9);
            assert_true(score.hit_bytes <= bound.hit_bytes + 1e-9);
        }
        trace_clear(&trace);
    }
}

static void a_trace_that_is_none_is_refused_with_its_line(void **state)
{
    static const struct {
        const char *text;
        size_t line;
    } wrong[] = {{"0 0 10\n1 2 10\n", 2},         /* key 1 was left out */
                 {"0 0 10\n1 1 10\n2 0 11\n", 3}, /* another size */
                 {"5 0 10\n4 0 10\n", 2},         /* earlier */
                 {"0 0 10\n1 one 10\n", 2},       /* no number */
                 {"0 0 10\n1 0\n", 2}};           /* too short */
    struct trace trace;
    size_t line;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        assert_int_equal(read_text(wrong[i].text, &trace, &line), -1);
        assert_int_equal(line, wrong[i].line);
        assert_null(trace.requests);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_asked_for_again_outlives_a_row_of_others_but_with_lru),
        cmocka_unit_test(a_big_one_pushes_small_ones_out_but_with_size),
        cmocka_unit_test(a_circle_that_does_not_fit_is_missed_but_by_who_knows_the_future),
        cmocka_unit_test(s3fifo_knows_who_came_back),
        cmocka_unit_test(what_is_larger_than_the_cache_is_not_kept_and_pushes_nothing_out),
        cmocka_unit_test(in_an_endless_cache_only_first_requests_miss),
        cmocka_unit_test(size_lets_what_is_too_old_go),
        cmocka_unit_test(the_bound_on_bytes_keeps_parts),
        cmocka_unit_test(the_bound_on_requests_spends_room_and_time_on_the_cheapest),
        cmocka_unit_test(nobody_passes_the_bound),
        cmocka_unit_test(a_trace_that_is_none_is_refused_with_its_line),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
