#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cache/lock.h"
#include "proxy/gather.h"

enum {
    LATER_MS = 1000,
    MUCH = 4 << 20, /* from which on pieces are put together */
    PIECE = 64 * 1024,
};

struct rig {
    struct gather gather;
    size_t passed;
    unsigned times;
    bool refuses;
};

static int pass(void *ctx, const void *data, size_t len, struct err *err)
{
    struct rig *r = ctx;

    (void)data;
    r->passed += len;
    r->times++;
    return r->refuses ? err_set(err, ERR_CANCELLED, "nobody reads") : 0;
}

static void rig_init(struct rig *r, size_t begun)
{
    static char piece[PIECE];
    struct err err;

    *r = (struct rig){.passed = 0};
    gather_init(&r->gather, pass, r);
    for (size_t len = 0; len < begun; len += PIECE)
        assert_int_equal(gather_add(&r->gather, piece, PIECE, &err), 0);
    assert_int_equal(gather_flush(&r->gather, &err), 0);
    assert_int_equal(r->passed, begun);
}

static void the_first_bytes_go_on_at_each_pause(void **state)
{
    struct rig r;
    struct err err;
    uint64_t again_ms = LATER_MS;

    (void)state;
    rig_init(&r, 0);
    for (size_t i = 1; i <= 3; i++) {
        assert_int_equal(gather_add(&r.gather, "a", 1, &err), 0);
        assert_int_equal(r.passed, i - 1);
        assert_int_equal(gather_pause(&r.gather, &again_ms, &err), 0);
        assert_int_equal(r.passed, i);
    }
    assert_int_equal(again_ms, LATER_MS);
    gather_clear(&r.gather);
}

static void much_that_comes_is_put_together(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, MUCH);
    assert_true(r.times <= MUCH / PIECE / 4);
    gather_clear(&r.gather);
}

/* Nothing may come for long, and then what waits here would wait with it. */
static void what_waits_is_asked_for_again_soon(void **state)
{
    uint64_t again_ms = LATER_MS;
    struct rig r;
    struct err err;

    (void)state;
    rig_init(&r, MUCH);
    while (r.gather.held.len == 0) { /* unless we were held up and it went on at once */
        assert_int_equal(gather_flush(&r.gather, &err), 0);
        assert_int_equal(gather_add(&r.gather, "a", 1, &err), 0);
        assert_int_equal(gather_pause(&r.gather, &again_ms, &err), 0);
    }
    assert_in_range(again_ms, 1, 20);
    for (uint64_t until = now_ms() + again_ms; now_ms() < until;)
        ;
    assert_int_equal(gather_pause(&r.gather, &again_ms, &err), 0);
    assert_int_equal(r.gather.held.len, 0);
    gather_clear(&r.gather);
}

static void where_nothing_waits_nobody_asks(void **state)
{
    uint64_t again_ms = LATER_MS;
    struct rig r;
    struct err err;

    (void)state;
    rig_init(&r, MUCH);
    assert_int_equal(gather_pause(&r.gather, &again_ms, &err), 0);
    assert_int_equal(again_ms, LATER_MS);
    gather_clear(&r.gather);
}

static void who_refuses_ends_it(void **state)
{
    uint64_t again_ms = LATER_MS;
    struct rig r;
    struct err err;

    (void)state;
    rig_init(&r, 0);
    r.refuses = true;
    assert_int_equal(gather_add(&r.gather, "a", 1, &err), 0);
    assert_int_equal(gather_pause(&r.gather, &again_ms, &err), -1);
    assert_int_equal(err.kind, ERR_CANCELLED);
    gather_clear(&r.gather);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_bytes_go_on_at_each_pause),
        cmocka_unit_test(much_that_comes_is_put_together),
        cmocka_unit_test(what_waits_is_asked_for_again_soon),
        cmocka_unit_test(where_nothing_waits_nobody_asks),
        cmocka_unit_test(who_refuses_ends_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
