#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/local/policy.h"
#include "protocol/base.h"

enum { ITEMS_MAX = 64, CAPACITY = 1000, DAY = 86400 };

struct fixture {
    struct policy *policy;
    struct policy_item items[ITEMS_MAX]; /* item i has the id i */
};

static int set_up(void **state)
{
    *state = xcalloc(1, sizeof(struct fixture));
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    policy_free(&f->policy);
    free(f);
    return 0;
}

static void use(struct fixture *f, enum policy_kind kind)
{
    f->policy = policy_new(kind, CAPACITY, DAY);
}

/* As an earlier run left it. */
static void insert_used(struct fixture *f, unsigned id, uint64_t size, int64_t accessed,
                        uint64_t accesses)
{
    struct policy_item *item = &f->items[id];

    memset(item, 0xaa, sizeof(*item)); /* what isn't ours to set may be anything */
    item->id = id;
    item->size = size;
    item->accessed = accessed;
    item->accesses = accesses;
    policy_insert(f->policy, item);
}

static void insert(struct fixture *f, unsigned id, uint64_t size, int64_t now)
{
    insert_used(f, id, size, now, 0);
}

static void touch(struct fixture *f, unsigned id, int64_t now)
{
    policy_touch(f->policy, &f->items[id], now);
}

/* They go in this order, and then nothing is left; a number below 0 ends the list. */
static void assert_all_go(struct fixture *f, int64_t now, const int *ids)
{
    for (; *ids >= 0; ids++) {
        struct policy_victim victim = policy_evict(f->policy, now);

        assert_non_null(victim.item);
        assert_int_equal(victim.item->id, *ids);
    }
    assert_null(policy_evict(f->policy, now).item);
    assert_int_equal(policy_count(f->policy), 0);
    assert_int_equal(policy_bytes(f->policy), 0);
}

#define ASSERT_ALL_GO(f, now, ...) assert_all_go(f, now, (const int[]){__VA_ARGS__, -1})

static void assert_next_goes(struct fixture *f, int64_t now, unsigned id, const char *why)
{
    struct policy_victim victim = policy_evict(f->policy, now);

    assert_non_null(victim.item);
    assert_int_equal(victim.item->id, id);
    assert_string_equal(victim.why, why);
}

/* ---- lru ---- */

static void lru_lets_the_longest_unused_go(void **state)
{
    struct fixture *f = *state;

    use(f, POLICY_LRU);
    insert(f, 1, 10, 100);
    insert(f, 2, 10, 101);
    insert(f, 3, 10, 102);
    touch(f, 1, 103);
    assert_next_goes(f, 200, 2, "unused for longest");
    ASSERT_ALL_GO(f, 200, 3, 1);
}

static void lru_tells_uses_within_a_second_apart(void **state)
{
    struct fixture *f = *state;

    use(f, POLICY_LRU);
    for (unsigned id = 1; id <= 4; id++)
        insert(f, id, 10, 100);
    touch(f, 2, 100);
    touch(f, 1, 100);
    ASSERT_ALL_GO(f, 100, 3, 4, 2, 1);
}

static void lru_goes_by_the_time_of_access_in_whatever_order_entries_were_found(void **state)
{
    struct fixture *f = *state;

    use(f, POLICY_LRU);
    insert_used(f, 1, 10, 300, 5);
    insert_used(f, 2, 10, 100, 9);
    insert_used(f, 3, 10, 200, 0);
    ASSERT_ALL_GO(f, 400, 2, 3, 1);
}

/* ---- size ---- */

static void size_lets_what_is_over_max_age_go_first_the_oldest_before_the_others(void **state)
{
    struct fixture *f = *state;
    const int64_t now = 10 * DAY;

    use(f, POLICY_SIZE);
    insert_used(f, 1, 999, now - DAY, 0); /* old, but not too old */
    insert_used(f, 2, 1, now - DAY - 1, 50);
    insert_used(f, 3, 1, now - 2 * DAY, 50);
    assert_next_goes(f, now, 3, "unused for longer than max_age");
    assert_next_goes(f, now, 2, "unused for longer than max_age");
    assert_next_goes(f, now, 1, "large for how often it is used");
}

static void size_then_takes_the_largest_for_its_accesses(void **state)
{
    struct fixture *f = *state;

    use(f, POLICY_SIZE);
    insert_used(f, 1, 100, 0, 0);
    insert_used(f, 2, 900, 0, 9); /* 90 */
    insert_used(f, 3, 330, 0, 2); /* 110 */
    insert_used(f, 4, 95, 0, 0);
    touch(f, 1, 0); /* 50 */
    ASSERT_ALL_GO(f, 1, 3, 4, 2, 1);
}

static void size_goes_by_the_size_that_an_entry_has_now(void **state)
{
    struct fixture *f = *state;

    use(f, POLICY_SIZE);
    for (unsigned id = 1; id <= 3; id++)
        insert(f, id, 100, 0);
    policy_resize(f->policy, &f->items[3], 101);
    policy_resize(f->policy, &f->items[1], 1);
    assert_int_equal(policy_bytes(f->policy), 202);
    ASSERT_ALL_GO(f, 1, 3, 2, 1);
}

static void size_without_a_max_age_goes_by_weight_alone(void **state)
{
    struct fixture *f = *state;

    f->policy = policy_new(POLICY_SIZE, CAPACITY, 0);
    insert_used(f, 1, 10, 0, 0);
    insert_used(f, 2, 20, 900 * DAY, 0);
    ASSERT_ALL_GO(f, 1000 * DAY, 2, 1);
}

/* ---- s3fifo ---- */

static void s3fifo_lets_one_hit_wonders_go_before_what_was_asked_for_again(void **state)
{
    struct fixture *f = *state;

    use(f, POLICY_S3FIFO);
    insert(f, 1, 100, 0);
    insert(f, 2, 100, 0);
    insert(f, 3, 100, 0);
    touch(f, 1, 1);
    assert_next_goes(f, 2, 2, "never asked for again");
    assert_next_goes(f, 2, 3, "never asked for again");
    assert_next_goes(f, 2, 1, "not asked for lately");
}

static void s3fifo_leaves_a_tenth_to_what_is_new(void **state)
{
    struct fixture *f = *state;

    use(f, POLICY_S3FIFO);
    for (unsigned id = 1; id <= 9; id++)
        insert_used(f, id, 100, 0, 1);
    insert(f, 11, 50, 0);
    insert(f, 12, 49, 0);
    assert_next_goes(f, 1, 1, "not asked for lately");   /* 99 of 999 are new */
    assert_next_goes(f, 1, 11, "never asked for again"); /* 99 of 899 */
    assert_next_goes(f, 1, 2, "not asked for lately");
}

static void s3fifo_puts_entries_of_an_earlier_run_where_their_accesses_say(void **state)
{
    struct fixture *f = *state;

    use(f, POLICY_S3FIFO);
    insert_used(f, 1, 100, 0, 3);
    insert_used(f, 2, 100, 1, 0);
    insert_used(f, 3, 100, 2, 1);
    ASSERT_ALL_GO(f, 3, 2, 1, 3);
}

static void s3fifo_gives_at_most_three_turns_to_the_often_used(void **state)
{
    struct fixture *f = *state;

    use(f, POLICY_S3FIFO);
    for (unsigned id = 1; id <= 6; id++)
        insert_used(f, id, 100, 0, 1);
    for (unsigned i = 0; i < 100; i++)
        touch(f, 1, 1);
    for (unsigned i = 0; i < 3; i++)
        touch(f, 2, 1);
    for (unsigned i = 0; i < 2; i++)
        touch(f, 3, 1);
    touch(f, 4, 1);
    ASSERT_ALL_GO(f, 2, 5, 6, 4, 3, 1, 2);
}

static void s3fifo_counts_from_nothing_in_main(void **state)
{
    struct fixture *f = *state;

    use(f, POLICY_S3FIFO);
    insert(f, 1, 100, 0);
    insert(f, 2, 100, 0);
    for (unsigned i = 0; i < 3; i++)
        touch(f, 1, 1);
    touch(f, 2, 1);
    ASSERT_ALL_GO(f, 2, 1, 2);
}

static void s3fifo_starts_who_comes_back_soon_in_main(void **state)
{
    struct fixture *f = *state;

    use(f, POLICY_S3FIFO);
    insert(f, 1, 100, 0);
    assert_next_goes(f, 1, 1, "never asked for again");
    insert(f, 1, 100, 2);
    insert(f, 2, 100, 2);
    ASSERT_ALL_GO(f, 3, 2, 1);
    /* Main's don't become ghosts, and a ghost that came back is none any more. */
    insert(f, 1, 100, 4);
    insert(f, 3, 100, 4);
    ASSERT_ALL_GO(f, 5, 1, 3);
}

static void s3fifo_remembers_as_many_bytes_as_main_can_hold(void **state)
{
    struct fixture *f = *state;

    use(f, POLICY_S3FIFO);
    for (unsigned id = 1; id <= 4; id++) {
        insert(f, id, 300, 0);
        assert_next_goes(f, 0, id, "never asked for again");
    }
    insert(f, 2, 300, 1); /* 2 to 4 are 900 bytes, 1 is forgotten */
    insert(f, 1, 300, 1);
    ASSERT_ALL_GO(f, 2, 1, 2);
}

static void s3fifo_forgets_ghosts_when_its_capacity_shrinks(void **state)
{
    struct fixture *f = *state;

    use(f, POLICY_S3FIFO);
    for (unsigned id = 1; id <= 3; id++)
        insert(f, id, 300, 0);
    ASSERT_ALL_GO(f, 0, 1, 2, 3);
    policy_set_capacity(f->policy, 400); /* only 3 is remembered */
    insert(f, 3, 300, 1);
    insert(f, 2, 300, 1);
    ASSERT_ALL_GO(f, 2, 2, 3);
}

static void s3fifo_remembers_so_many_however_small_they_are(void **state)
{
    enum { REMEMBERED = 65536, BASE = 10 };
    struct fixture *f = *state;

    use(f, POLICY_S3FIFO);
    for (unsigned i = 0; i < REMEMBERED + 1; i++) {
        f->items[0] = (struct policy_item){.id = BASE + i};
        policy_insert(f->policy, &f->items[0]);
        assert_ptr_equal(policy_evict(f->policy, 0).item, &f->items[0]);
    }
    insert(f, BASE + 1, 1, 0);
    insert(f, BASE, 1, 0); /* forgotten */
    ASSERT_ALL_GO(f, 0, BASE, BASE + 1);
}

static void s3fifo_remembers_nothing_of_what_was_removed(void **state)
{
    struct fixture *f = *state;

    use(f, POLICY_S3FIFO);
    insert(f, 1, 100, 0);
    policy_remove(f->policy, &f->items[1]);
    insert(f, 1, 100, 1);
    insert(f, 2, 100, 1);
    ASSERT_ALL_GO(f, 2, 1, 2);
}

static void s3fifo_takes_back_what_is_in_use_into_main(void **state)
{
    struct fixture *f = *state;
    struct policy_item *in_use;

    use(f, POLICY_S3FIFO);
    insert(f, 1, 100, 0);
    in_use = policy_evict(f->policy, 1).item;
    policy_insert(f->policy, in_use);
    insert(f, 2, 100, 1);
    ASSERT_ALL_GO(f, 2, 2, 1);
}

static void s3fifo_counts_a_queue_by_the_sizes_of_now(void **state)
{
    struct fixture *f = *state;

    use(f, POLICY_S3FIFO);
    insert_used(f, 1, 100, 0, 1);
    insert(f, 2, 5, 0);
    policy_resize(f->policy, &f->items[2], 50); /* more than a tenth now */
    assert_int_equal(policy_bytes(f->policy), 150);
    ASSERT_ALL_GO(f, 1, 2, 1);
}

/* ---- all ---- */

static const enum policy_kind kinds[] = {POLICY_S3FIFO, POLICY_LRU, POLICY_SIZE};

static void names_are_those_of_the_configuration(void **state)
{
    (void)state;
    assert_string_equal(policy_name(POLICY_S3FIFO), "s3fifo");
    assert_string_equal(policy_name(POLICY_LRU), "lru");
    assert_string_equal(policy_name(POLICY_SIZE), "size");
}

static void whoever_is_removed_is_no_victim(void **state)
{
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        use(f, kinds[i]);
        for (unsigned id = 1; id <= 3; id++)
            insert(f, id, 100, id);
        policy_remove(f->policy, &f->items[2]);
        assert_int_equal(policy_count(f->policy), 2);
        assert_int_equal(policy_bytes(f->policy), 200);
        ASSERT_ALL_GO(f, 9, 1, 3);
        policy_free(&f->policy);
    }
}

/* ---- at random ---- */

enum { CROWD = 300, STEPS = 20000 };

struct crowd {
    struct policy *policy;
    struct policy_item items[CROWD];
    bool in[CROWD];
    size_t count;
    uint64_t bytes;
    int64_t now;
    uint64_t random;
};

/* Deterministic: xorshift64. */
static uint64_t random_below(struct crowd *c, uint64_t limit)
{
    c->random ^= c->random << 13;
    c->random ^= c->random >> 7;
    c->random ^= c->random << 17;
    return c->random % limit;
}

static void gone(struct crowd *c, size_t i)
{
    assert_true(c->in[i]);
    c->in[i] = false;
    c->count--;
    c->bytes -= c->items[i].size;
}

static void step(struct crowd *c)
{
    size_t i = (size_t)random_below(c, CROWD);
    uint64_t size;

    c->now += (int64_t)random_below(c, 600);
    if (!c->in[i]) {
        c->items[i] = (struct policy_item){.id = i,
                                           .size = random_below(c, 1000),
                                           .accessed = c->now - (int64_t)random_below(c, DAY),
                                           .accesses = random_below(c, 3)};
        policy_insert(c->policy, &c->items[i]);
        c->in[i] = true;
        c->count++;
        c->bytes += c->items[i].size;
        return;
    }
    switch (random_below(c, 8)) {
    case 0:
        gone(c, i);
        policy_remove(c->policy, &c->items[i]);
        break;
    case 1:
        size = random_below(c, 1000);
        c->bytes += size - c->items[i].size;
        policy_resize(c->policy, &c->items[i], size);
        break;
    case 2:
    case 3: gone(c, (size_t)(policy_evict(c->policy, c->now).item - c->items)); break;
    default: policy_touch(c->policy, &c->items[i], c->now);
    }
}

struct forecast {
    struct policy_victim victims[CROWD];
    size_t count, limit;
};

static bool note(void *ctx, const struct policy_victim *victim)
{
    struct forecast *forecast = ctx;

    assert_in_range(forecast->count, 0, CROWD - 1);
    forecast->victims[forecast->count++] = *victim;
    return forecast->count < forecast->limit;
}

/* Everyone who is in goes, once, as it was said. */
static void check_end(struct crowd *c)
{
    struct forecast forecast = {.limit = SIZE_MAX};
    struct policy_victim victim;

    policy_preview(c->policy, c->now, note, &forecast);
    assert_int_equal(forecast.count, c->count);
    for (size_t i = 0; i < forecast.count; i++) {
        victim = policy_evict(c->policy, c->now);
        assert_ptr_equal(victim.item, forecast.victims[i].item);
        assert_ptr_equal(victim.why, forecast.victims[i].why);
        gone(c, (size_t)(victim.item - c->items));
        assert_int_equal(policy_bytes(c->policy), c->bytes);
    }
    assert_null(policy_evict(c->policy, c->now).item);
    assert_int_equal(policy_count(c->policy), 0);
    assert_int_equal(policy_bytes(c->policy), 0);
}

static void whatever_happens_every_entry_is_in_once_and_its_bytes_are_counted(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        struct crowd *c = xcalloc(1, sizeof(*c));

        c->random = 88172645463325252u + k;
        c->policy = policy_new(kinds[k], 10000, DAY);
        for (unsigned i = 0; i < STEPS; i++) {
            step(c);
            assert_int_equal(policy_count(c->policy), c->count);
            assert_int_equal(policy_bytes(c->policy), c->bytes);
        }
        check_end(c);
        policy_free(&c->policy);
        free(c);
    }
}

static void looking_ahead_changes_nothing_and_is_true(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        struct crowd *c = xcalloc(1, sizeof(*c));
        struct crowd *before = xcalloc(1, sizeof(*before));

        c->random = 123456789 + k;
        c->policy = policy_new(kinds[k], 10000, DAY);
        for (unsigned i = 0; i < 60; i++) {
            struct forecast forecast = {.limit = i};

            for (unsigned j = 0; j < 50; j++)
                step(c);
            *before = *c;
            policy_preview(c->policy, c->now, note, &forecast);
            assert_memory_equal(c, before, sizeof(*c));
            assert_in_range(forecast.count, 1, i > 0 ? i : 1);
            gone(c, (size_t)(forecast.victims[0].item - c->items));
            assert_ptr_equal(policy_evict(c->policy, c->now).item, forecast.victims[0].item);
        }
        check_end(c);
        policy_free(&c->policy);
        free(before);
        free(c);
    }
}

static void nothing_goes_from_nothing(void **state)
{
    struct fixture *f = *state;
    struct forecast forecast = {.limit = SIZE_MAX};

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        use(f, kinds[i]);
        assert_null(policy_evict(f->policy, 0).item);
        policy_preview(f->policy, 0, note, &forecast);
        assert_int_equal(forecast.count, 0);
        policy_free(&f->policy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(lru_lets_the_longest_unused_go),
        TEST(lru_tells_uses_within_a_second_apart),
        TEST(lru_goes_by_the_time_of_access_in_whatever_order_entries_were_found),
        TEST(size_lets_what_is_over_max_age_go_first_the_oldest_before_the_others),
        TEST(size_then_takes_the_largest_for_its_accesses),
        TEST(size_goes_by_the_size_that_an_entry_has_now),
        TEST(size_without_a_max_age_goes_by_weight_alone),
        TEST(s3fifo_lets_one_hit_wonders_go_before_what_was_asked_for_again),
        TEST(s3fifo_leaves_a_tenth_to_what_is_new),
        TEST(s3fifo_puts_entries_of_an_earlier_run_where_their_accesses_say),
        TEST(s3fifo_gives_at_most_three_turns_to_the_often_used),
        TEST(s3fifo_counts_from_nothing_in_main),
        TEST(s3fifo_starts_who_comes_back_soon_in_main),
        TEST(s3fifo_remembers_as_many_bytes_as_main_can_hold),
        TEST(s3fifo_forgets_ghosts_when_its_capacity_shrinks),
        TEST(s3fifo_remembers_so_many_however_small_they_are),
        TEST(s3fifo_remembers_nothing_of_what_was_removed),
        TEST(s3fifo_takes_back_what_is_in_use_into_main),
        TEST(s3fifo_counts_a_queue_by_the_sizes_of_now),
        TEST(names_are_those_of_the_configuration),
        TEST(whoever_is_removed_is_no_victim),
        TEST(whatever_happens_every_entry_is_in_once_and_its_bytes_are_counted),
        TEST(looking_ahead_changes_nothing_and_is_true),
        TEST(nothing_goes_from_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
