/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */

#include <stdlib.h>

#include "proxy/admin/history.h"

enum { BEGIN_S = 1000000, STEPS_IN_A_MINUTE = HISTORY_MINUTE_S / HISTORY_STEP_S };

/* After n steps, of which number i counts i of all things. */
static struct history_counts totals_after(uint64_t n)
{
    uint64_t sum = n * (n + 1) / 2;

    return (struct history_counts){
        .requests = 8 * sum,
        .hits = {sum, 0, 0, 2 * sum},
        .misses = {0, 0, 3 * sum, 0},
        .client_bytes = 100 * sum,
        .upstream_bytes = 1000 * n,
    };
}

static void note_until(struct history *h, uint64_t *done, uint64_t n)
{
    for (; *done <= n; ++*done) {
        struct history_counts totals = totals_after(*done);

        history_note(h, &totals, BEGIN_S + (int64_t)*done * HISTORY_STEP_S);
    }
}

static struct history_sample *read_all(struct history *h, enum history_grain grain, int64_t since,
                                       size_t *count)
{
    struct history_sample *samples;

    history_read(h, grain, since, &samples, count);
    return samples;
}

static void the_first_look_is_only_where_it_begins(void **state)
{
    struct history *h = history_new();
    struct history_counts totals = totals_after(7);
    size_t count;

    (void)state;
    free(read_all(h, HISTORY_STEPS, 0, &count));
    assert_int_equal(count, 0);
    history_note(h, &totals, BEGIN_S);
    free(read_all(h, HISTORY_STEPS, 0, &count));
    assert_int_equal(count, 0);
    history_free(&h);
    assert_null(h);
}

static void each_step_has_what_was_counted_in_it(void **state)
{
    struct history *h = history_new();
    struct history_sample *samples;
    uint64_t done = 0;
    size_t count;

    (void)state;
    note_until(h, &done, 5);
    samples = read_all(h, HISTORY_STEPS, 0, &count);
    assert_int_equal(count, 5);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(samples[i].time_s, BEGIN_S + (int64_t)(i + 1) * HISTORY_STEP_S);
        assert_int_equal(samples[i].counts.requests, 8 * (i + 1));
        assert_int_equal(samples[i].counts.hits[0], i + 1);
        assert_int_equal(samples[i].counts.hits[3], 2 * (i + 1));
        assert_int_equal(samples[i].counts.misses[2], 3 * (i + 1));
        assert_int_equal(samples[i].counts.client_bytes, 100 * (i + 1));
        assert_int_equal(samples[i].counts.upstream_bytes, 1000);
    }
    free(samples);
    history_free(&h);
}

static void a_minute_is_the_sum_of_its_steps(void **state)
{
    struct history *h = history_new();
    struct history_sample *samples;
    uint64_t done = 0;
    size_t count;

    (void)state;
    note_until(h, &done, STEPS_IN_A_MINUTE - 1);
    free(read_all(h, HISTORY_MINUTES, 0, &count));
    assert_int_equal(count, 0);
    note_until(h, &done, 2 * STEPS_IN_A_MINUTE);
    samples = read_all(h, HISTORY_MINUTES, 0, &count);
    assert_int_equal(count, 2);
    assert_int_equal(samples[0].time_s, BEGIN_S + HISTORY_MINUTE_S);
    assert_int_equal(samples[0].counts.requests, totals_after(STEPS_IN_A_MINUTE).requests);
    assert_int_equal(samples[1].counts.requests + samples[0].counts.requests,
                     totals_after(2 * STEPS_IN_A_MINUTE).requests);
    assert_int_equal(samples[1].counts.upstream_bytes, 1000 * STEPS_IN_A_MINUTE);
    free(samples);
    history_free(&h);
}

static void only_news_are_told_to_who_knows_the_rest(void **state)
{
    struct history *h = history_new();
    struct history_sample *samples;
    uint64_t done = 0;
    size_t count;

    (void)state;
    note_until(h, &done, 10);
    samples = read_all(h, HISTORY_STEPS, BEGIN_S + 8 * HISTORY_STEP_S, &count);
    assert_int_equal(count, 2);
    assert_int_equal(samples[0].time_s, BEGIN_S + 9 * HISTORY_STEP_S);
    free(samples);
    free(read_all(h, HISTORY_STEPS, BEGIN_S + 10 * HISTORY_STEP_S, &count));
    assert_int_equal(count, 0);
    history_free(&h);
}

static void what_is_too_old_makes_room(void **state)
{
    struct history *h = history_new();
    struct history_sample *samples;
    const uint64_t steps = (uint64_t)(HISTORY_MINUTES_MAX + 3) * STEPS_IN_A_MINUTE;
    uint64_t done = 0;
    size_t count;

    (void)state;
    note_until(h, &done, steps);
    samples = read_all(h, HISTORY_STEPS, 0, &count);
    assert_int_equal(count, HISTORY_STEPS_MAX);
    assert_int_equal(samples[0].counts.hits[0], steps - HISTORY_STEPS_MAX + 1);
    assert_int_equal(samples[count - 1].counts.hits[0], steps);
    free(samples);
    samples = read_all(h, HISTORY_MINUTES, 0, &count);
    assert_int_equal(count, HISTORY_MINUTES_MAX);
    assert_int_equal(samples[0].time_s, BEGIN_S + 4 * HISTORY_MINUTE_S);
    free(samples);
    history_free(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_look_is_only_where_it_begins),
        cmocka_unit_test(each_step_has_what_was_counted_in_it),
        cmocka_unit_test(a_minute_is_the_sum_of_its_steps),
        cmocka_unit_test(only_news_are_told_to_who_knows_the_rest),
        cmocka_unit_test(what_is_too_old_makes_room),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
