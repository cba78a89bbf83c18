/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */

#include <stdatomic.h>
#include <sched.h>

#include "cache/lock.h"
#include "proxy/purge.h"
#include "scratch.h"

static struct key number(unsigned n)
{
    struct key key;

    key_of(&n, sizeof(n), &key);
    return key;
}

static bool may_keep(struct purges *all, const struct key *id, uint64_t begun)
{
    bool may = purges_enter(all, id, begun);

    if (may)
        purges_leave(all, id);
    return may;
}

static void what_was_begun_before_is_not_kept(void **state)
{
    struct purges *all = purges_new();
    struct key one = number(1), two = number(2);
    uint64_t before = purges_now(all), amid;

    (void)state;
    assert_true(may_keep(all, &one, before));
    purges_begin(all, &one);
    amid = purges_now(all);
    assert_false(may_keep(all, &one, before));
    assert_false(may_keep(all, &one, amid));
    assert_true(may_keep(all, &two, before));
    purges_end(all, &one);
    assert_false(may_keep(all, &one, before));
    assert_false(may_keep(all, &one, amid)); /* made of what was just going */
    assert_true(may_keep(all, &one, purges_now(all)));
    assert_true(may_keep(all, &two, before));
    purges_free(&all);
    assert_null(all);
}

static void what_is_forgotten_of_is_refused_rather_than_kept(void **state)
{
    struct purges *all = purges_new();
    struct key first = number(0), other = number(1000000);
    uint64_t begun = purges_now(all);

    (void)state;
    for (unsigned i = 0; i <= PURGES_MAX; i++) {
        struct key id = number(i);

        purges_begin(all, &id);
        purges_end(all, &id);
    }
    assert_false(may_keep(all, &first, begun));
    assert_false(may_keep(all, &other, begun)); /* it might have been among them */
    assert_true(may_keep(all, &first, purges_now(all)));
    purges_free(&all);
}

/* ---- at once ---- */

struct meeting {
    struct purges *all;
    struct key id;
    atomic_bool inside, ended, stop;
    atomic_uint kept;
    atomic_uint_fast64_t floor; /* nothing that was begun before may be kept any more */
    atomic_uint wrong;
};

static void *invalidate_once(void *ctx)
{
    struct meeting *m = ctx;

    purges_begin(m->all, &m->id);
    m->ended = true;
    purges_end(m->all, &m->id);
    return NULL;
}

static void it_waits_for_who_is_just_keeping(void **state)
{
    struct meeting m = {.all = purges_new(), .id = number(1)};
    uint64_t begun = purges_now(m.all);
    pthread_t thread;

    (void)state;
    assert_true(purges_enter(m.all, &m.id, begun));
    assert_int_equal(pthread_create(&thread, NULL, invalidate_once, &m), 0);
    while (may_keep(m.all, &m.id, begun)) /* until it has begun */
        sched_yield();
    assert_false(m.ended);
    purges_leave(m.all, &m.id);
    pthread_join(thread, NULL);
    assert_true(m.ended);
    purges_free(&m.all);
}

static void *keep_on(void *ctx)
{
    struct meeting *m = ctx;

    while (!m->stop) {
        uint64_t begun = purges_now(m->all);

        if (!purges_enter(m->all, &m->id, begun))
            continue;
        m->wrong += begun < m->floor;
        m->kept++;
        purges_leave(m->all, &m->id);
    }
    return NULL;
}

static void nobody_keeps_what_an_ended_invalidation_forbids(void **state)
{
    struct meeting m = {.all = purges_new(), .id = number(1)};
    pthread_t threads[3];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, keep_on, &m), 0);
    for (unsigned i = 0; i < 300; i++) {
        unsigned kept;

        purges_begin(m.all, &m.id);
        kept = m.kept;
        sched_yield();
        m.wrong += m.kept != kept; /* nobody inside */
        m.floor = purges_now(m.all);
        purges_end(m.all, &m.id);
    }
    m.stop = true;
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(m.wrong, 0);
    purges_free(&m.all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_begun_before_is_not_kept),
        cmocka_unit_test(what_is_forgotten_of_is_refused_rather_than_kept),
        cmocka_unit_test(it_waits_for_who_is_just_keeping),
        cmocka_unit_test(nobody_keeps_what_an_ended_invalidation_forbids),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
