#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/shared/guard.h"
#include "scratch.h"

enum { S = 1000, PIECE = 10 };

/* A store that answers as it is told, and a guard around it. */
struct bench {
    struct object_store *store;
    struct guard *guard;
    atomic_int kind;      /* of what every operation fails with; ERR_NONE: it works */
    atomic_int list_kind; /* of a list; -1: as the others */
    atomic_uint asked;
    atomic_uint opened, closed; /* as was told */
    atomic_bool freed, stopped, lacks_conditions;
    pthread_barrier_t *gate; /* a get waits there, twice */
    struct err why;          /* the last that was told */
};

/* ---- the store ---- */

static int answer(struct bench *b, int kind, struct err *err)
{
    atomic_fetch_add(&b->asked, 1);
    return kind == ERR_NONE ? 0 : err_set(err, (enum err_kind)kind, "as it was told");
}

static int fake_put(void *self, const char *key, const struct object_source *source,
                    const struct object_put_options *options, struct object_info *out,
                    struct err *err)
{
    struct bench *b = self;
    char buf[PIECE];

    (void)key;
    (void)options;
    if (source->fd < 0 && source->read(source->ctx, buf, sizeof(buf), err) < 0) {
        atomic_fetch_add(&b->asked, 1);
        return -1;
    }
    *out = (struct object_info){.size = PIECE};
    return answer(b, b->kind, err);
}

static int fake_get(void *self, const char *key, uint64_t offset, uint64_t length,
                    struct object_info *info, object_sink_fn *fn, void *ctx, struct err *err)
{
    struct bench *b = self;
    pthread_barrier_t *gate = b->gate;
    int rc;

    (void)key;
    (void)offset;
    (void)length;
    *info = (struct object_info){.size = PIECE};
    if (gate != NULL) {
        pthread_barrier_wait(gate);
        pthread_barrier_wait(gate);
        return answer(b, ERR_TIMEOUT, err);
    }
    rc = answer(b, b->kind, err);
    return rc == 0 ? fn(ctx, "0123456789", PIECE, err) : rc;
}

static int fake_head(void *self, const char *key, struct object_info *out, struct err *err)
{
    struct bench *b = self;

    (void)key;
    *out = (struct object_info){.size = PIECE};
    return answer(b, b->kind, err);
}

static int fake_list(void *self, const char *prefix, object_list_fn *fn, void *ctx, struct err *err)
{
    struct bench *b = self;

    (void)prefix;
    (void)fn;
    (void)ctx;
    return answer(b, b->list_kind >= 0 ? b->list_kind : b->kind, err);
}

static int fake_remove(void *self, const char *key, struct err *err)
{
    struct bench *b = self;

    (void)key;
    return answer(b, b->kind, err);
}

static bool fake_lacks_conditions(void *self)
{
    struct bench *b = self;

    return b->lacks_conditions;
}

static void fake_stop(void *self)
{
    struct bench *b = self;

    b->stopped = true;
}

static void fake_free(void *self)
{
    struct bench *b = self;

    b->freed = true;
}

/* ---- the guard ---- */

static void note_change(void *ctx, const struct err *why)
{
    struct bench *b = ctx;

    if (why != NULL)
        b->why = *why;
    atomic_fetch_add(why != NULL ? &b->opened : &b->closed, 1);
}

static int set_up(void **state)
{
    static const struct object_driver driver = {
        .put = fake_put,
        .get = fake_get,
        .head = fake_head,
        .list = fake_list,
        .remove = fake_remove,
        .stop = fake_stop,
        .free = fake_free,
        .has_conditions = true,
        .lacks_conditions = fake_lacks_conditions,
    };
    struct bench *b = xcalloc(1, sizeof(*b));
    struct object_store *inner = object_store_new(&driver, b, "fake");

    b->list_kind = -1;
    b->store = guard_new(&inner, note_change, b, &b->guard);
    assert_null(inner);
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *b = *state;

    object_store_free(&b->store);
    assert_true(b->freed);
    free(b);
    return 0;
}

/* ---- asking ---- */

static int keep(void *ctx, const void *data, size_t len, struct err *err)
{
    (void)ctx;
    (void)data;
    (void)len;
    (void)err;
    return 0;
}

static int refuse(void *ctx, const void *data, size_t len, struct err *err)
{
    (void)ctx;
    (void)data;
    (void)len;
    return err_set(err, ERR_TIMEOUT, "the sink's");
}

static int list_any(void *ctx, const char *key, const struct object_info *info)
{
    (void)ctx;
    (void)key;
    (void)info;
    return 0;
}

static int ask(struct bench *b, enum guard_operation operation, struct err *err)
{
    struct object_source source = {.fd = 0, .size = PIECE};
    struct object_info info;

    switch (operation) {
    case GUARD_PUT: return object_put(b->store, "key", &source, NULL, NULL, err);
    case GUARD_GET: return object_get(b->store, "key", 0, UINT64_MAX, NULL, keep, NULL, err);
    case GUARD_HEAD: return object_head(b->store, "key", &info, err);
    case GUARD_LIST: return object_list(b->store, "", list_any, NULL, err);
    default: return object_remove(b->store, "key", err);
    }
}

static void expect(struct bench *b, enum guard_operation operation, enum err_kind kind)
{
    struct err err = {0};

    assert_int_equal(ask(b, operation, &err), kind == ERR_NONE ? 0 : -1);
    assert_int_equal(err.kind, kind);
}

static void expect_told(struct bench *b, unsigned opened, unsigned closed)
{
    assert_int_equal(b->opened, opened);
    assert_int_equal(b->closed, closed);
    assert_int_equal(guard_open(b->guard, NULL), opened > closed);
}

static void fail_once(struct bench *b)
{
    b->kind = ERR_TIMEOUT;
    expect(b, GUARD_HEAD, ERR_TIMEOUT);
    assert_true(guard_open(b->guard, NULL));
}

/* ---- tests ---- */

static void what_works_goes_through_and_is_counted(void **state)
{
    struct bench *b = *state;
    struct guard_counts counts;

    assert_true(object_store_has_conditions(b->store));
    assert_string_equal(object_store_name(b->store), "fake");
    for (int i = 0; i < GUARD_OPERATIONS_COUNT; i++)
        expect(b, (enum guard_operation)i, ERR_NONE);
    expect(b, GUARD_GET, ERR_NONE);
    guard_count(b->guard, &counts);
    for (int i = 0; i < GUARD_OPERATIONS_COUNT; i++) {
        assert_int_equal(counts.asked[i], i == GUARD_GET ? 2 : 1);
        assert_int_equal(counts.failed[i], 0);
    }
    assert_int_equal(counts.bytes_up, PIECE);
    assert_int_equal(counts.bytes_down, 2 * PIECE);
    assert_int_equal(counts.refused + counts.opened, 0);
    expect_told(b, 0, 0);
}

static void the_first_failure_opens_it_and_the_rest_is_refused_at_once(void **state)
{
    static const enum err_kind kinds[] = {ERR_DENIED, ERR_REFUSED, ERR_BUSY, ERR_TIMEOUT,
                                          ERR_UPSTREAM};
    struct bench *b = *state;
    struct guard_counts counts;
    struct err why;
    uint64_t now = 1;
    unsigned times = 0;

    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        for (int i = 0; i < GUARD_OPERATIONS_COUNT; i++) {
            unsigned asked;

            b->kind = kinds[k];
            expect(b, (enum guard_operation)i, kinds[k]);
            times++;
            expect_told(b, times, times - 1);
            assert_int_equal(b->why.kind, kinds[k]);
            asked = b->asked;
            for (int j = 0; j < GUARD_OPERATIONS_COUNT; j++)
                expect(b, (enum guard_operation)j, ERR_BUSY);
            assert_int_equal(b->asked, asked);
            assert_true(guard_open(b->guard, &why));
            assert_string_equal(why.text, "as it was told");
            b->kind = ERR_NONE;
            guard_probe(b->guard, now, true);
            expect_told(b, times, times);
            now += 100 * S;
        }
    }
    guard_count(b->guard, &counts);
    assert_int_equal(counts.opened, times);
    assert_int_equal(counts.refused, times * GUARD_OPERATIONS_COUNT);
    assert_int_equal(counts.failed[GUARD_GET], ARRAY_LEN(kinds));
}

static void who_is_refused_hears_why(void **state)
{
    struct bench *b = *state;
    struct err err;

    fail_once(b);
    assert_int_equal(ask(b, GUARD_GET, &err), -1);
    assert_int_equal(err.kind, ERR_BUSY);
    assert_non_null(strstr(err.text, "as it was told"));
}

static void answers_open_nothing(void **state)
{
    static const enum err_kind kinds[] = {ERR_NOT_FOUND, ERR_CONFLICT, ERR_LIMIT,    ERR_INPUT,
                                          ERR_STORAGE,   ERR_CORRUPT,  ERR_CANCELLED};
    struct bench *b = *state;

    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        b->kind = kinds[k];
        for (int i = 0; i < GUARD_OPERATIONS_COUNT; i++)
            expect(b, (enum guard_operation)i, kinds[k]);
    }
    expect_told(b, 0, 0);
}

static void what_the_sink_says_opens_nothing(void **state)
{
    struct bench *b = *state;
    struct err err;

    assert_int_equal(object_get(b->store, "key", 0, UINT64_MAX, NULL, refuse, NULL, &err), -1);
    assert_string_equal(err.text, "the sink's");
    expect_told(b, 0, 0);
}

static ssize_t break_off(void *ctx, void *buf, size_t len, struct err *err)
{
    (void)ctx;
    (void)buf;
    (void)len;
    return err_set(err, ERR_UPSTREAM, "the source's");
}

static void what_the_source_says_opens_nothing(void **state)
{
    struct bench *b = *state;
    struct object_source source = {.fd = -1, .read = break_off};
    struct err err;

    assert_int_equal(object_put(b->store, "key", &source, NULL, NULL, &err), -1);
    assert_string_equal(err.text, "the source's");
    expect_told(b, 0, 0);
}

static void a_put_that_alone_is_refused_opens_nothing(void **state)
{
    struct bench *b = *state;

    b->kind = ERR_REFUSED;
    b->list_kind = ERR_NONE;
    expect(b, GUARD_PUT, ERR_REFUSED);
    expect_told(b, 0, 0);
    b->list_kind = ERR_CANCELLED;
    expect(b, GUARD_PUT, ERR_REFUSED);
    expect_told(b, 0, 0);
    b->list_kind = ERR_UPSTREAM;
    expect(b, GUARD_PUT, ERR_REFUSED);
    expect_told(b, 1, 0);
    assert_int_equal(b->why.kind, ERR_REFUSED);
}

static void keys_that_may_only_read_open_nothing(void **state)
{
    struct bench *b = *state;

    b->kind = ERR_DENIED;
    b->list_kind = ERR_NONE;
    expect(b, GUARD_PUT, ERR_DENIED);
    expect_told(b, 0, 0);
    expect(b, GUARD_GET, ERR_DENIED);
    expect_told(b, 1, 0);
}

static void a_store_that_turns_out_to_have_no_conditions_is_asked_for_none(void **state)
{
    struct object_put_options only_new = {.only_new = true};
    struct object_source source = {.fd = -1, .read = break_off};
    struct bench *b = *state;
    struct err err;

    assert_true(object_store_has_conditions(b->store));
    b->lacks_conditions = true;
    assert_false(object_store_has_conditions(b->store));
    assert_int_equal(object_put(b->store, "k", &source, &only_new, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_REFUSED);
    assert_int_equal(b->asked, 0);
    expect_told(b, 0, 0);
}

/* How often the store was asked by a probe at each of these times. */
static void expect_probe(struct bench *b, uint64_t now, bool asks)
{
    unsigned before = b->asked;

    guard_probe(b->guard, now, false);
    assert_int_equal(b->asked - before, asks ? 1 : 0);
}

static void probes_come_ever_more_rarely(void **state)
{
    static const unsigned waits[] = {1, 2, 4, 8, 16, 32, 60, 60};
    struct bench *b = *state;
    uint64_t now = 500 * S;

    expect_probe(b, now, false); /* it works */
    fail_once(b);
    expect_probe(b, now, false); /* the first look */
    for (size_t i = 0; i < ARRAY_LEN(waits); i++) {
        expect_probe(b, now + waits[i] * S - 1, false);
        now += waits[i] * S;
        expect_probe(b, now, true);
        expect_probe(b, now, false);
    }
    expect_told(b, 1, 0);
    b->kind = ERR_NONE;
    expect_probe(b, now + 60 * S, true);
    expect_told(b, 1, 1);
    expect(b, GUARD_GET, ERR_NONE);
    expect_probe(b, now + 1000 * S, false);
}

static void who_fails_again_soon_is_asked_as_rarely_as_before(void **state)
{
    struct bench *b = *state;

    b->list_kind = ERR_NONE; /* it may be listed, and nothing else */
    fail_once(b);
    expect_probe(b, 10 * S, false);
    expect_probe(b, 11 * S, true);
    expect_told(b, 1, 1);
    fail_once(b);
    expect_probe(b, 12 * S, false);
    expect_probe(b, 13 * S, false);
    expect_probe(b, 14 * S, true);
    expect_told(b, 2, 2);
    fail_once(b);
    expect_probe(b, 74 * S, false); /* a minute later: as at first */
    expect_probe(b, 75 * S, true);
    expect_told(b, 3, 3);
}

static void the_first_question_is_asked_whatever_the_state(void **state)
{
    struct bench *b = *state;

    guard_probe(b->guard, 5, true);
    expect_told(b, 0, 0 + 1);
    guard_probe(b->guard, 6, true);
    assert_int_equal(b->closed, 1);
    assert_int_equal(b->asked, 2);
    b->kind = ERR_DENIED;
    guard_probe(b->guard, 7, true);
    assert_int_equal(b->opened, 1);
    assert_true(guard_open(b->guard, NULL));
    expect_probe(b, 6 + S, false);
    expect_probe(b, 7 + S, true);
}

static void a_probe_that_was_cancelled_says_nothing(void **state)
{
    struct bench *b = *state;

    b->kind = ERR_CANCELLED;
    guard_probe(b->guard, 5, true);
    expect_told(b, 0, 0);
    fail_once(b);
    b->kind = ERR_CANCELLED;
    guard_probe(b->guard, 6, true);
    expect_told(b, 1, 0);
    assert_int_equal(b->why.kind, ERR_TIMEOUT);
}

static void whoever_stops_it_stops_the_store(void **state)
{
    struct bench *b = *state;

    object_store_stop(b->store);
    assert_true(b->stopped);
    expect(b, GUARD_GET, ERR_CANCELLED);
    expect_told(b, 0, 0);
}

static void *get_slowly(void *ctx)
{
    struct err err;

    must(ask(ctx, GUARD_GET, &err) == -1 && err.kind == ERR_TIMEOUT);
    return NULL;
}

static void what_began_before_it_worked_again_opens_nothing(void **state)
{
    struct bench *b = *state;
    pthread_barrier_t gate;
    pthread_t thread;

    pthread_barrier_init(&gate, NULL, 2);
    b->gate = &gate;
    assert_int_equal(pthread_create(&thread, NULL, get_slowly, b), 0);
    pthread_barrier_wait(&gate); /* it is under way */
    fail_once(b);
    b->kind = ERR_NONE;
    guard_probe(b->guard, 1, true);
    expect_told(b, 1, 1);
    pthread_barrier_wait(&gate);
    assert_int_equal(pthread_join(thread, NULL), 0);
    pthread_barrier_destroy(&gate);
    expect_told(b, 1, 1);
}

enum { THREADS = 8 };

struct asker {
    struct bench *b;
    pthread_barrier_t *start;
    bool probes;
};

static void *ask_on_and_on(void *ctx)
{
    enum { TIMES = 500 };
    const struct asker *a = ctx;
    struct guard_counts counts;
    struct err err;

    pthread_barrier_wait(a->start);
    for (unsigned i = 0; i < TIMES; i++) {
        if (a->probes)
            guard_probe(a->b->guard, (i + 1) * 100 * (uint64_t)S, false);
        else
            ask(a->b, (enum guard_operation)(i % GUARD_OPERATIONS_COUNT), &err);
        if (i % 50 == 0)
            a->b->kind = i % 100 == 0 ? ERR_TIMEOUT : ERR_NONE;
        guard_count(a->b->guard, &counts);
        guard_open(a->b->guard, &err);
    }
    return NULL;
}

/* Each change was told, whoever found out. */
static void many_threads_hear_of_each_change_once(void **state)
{
    struct bench *b = *state;
    struct asker askers[THREADS];
    pthread_barrier_t start;
    struct guard_counts counts;

    pthread_barrier_init(&start, NULL, THREADS);
    for (unsigned i = 0; i < THREADS; i++)
        askers[i] = (struct asker){b, &start, i == 0};
    run_together(THREADS, ask_on_and_on, askers, sizeof(askers[0]));
    pthread_barrier_destroy(&start);
    guard_count(b->guard, &counts);
    assert_true(counts.opened > 0);
    assert_int_equal(counts.opened, b->opened);
    assert_int_equal(b->opened, b->closed + guard_open(b->guard, NULL));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_works_goes_through_and_is_counted),
        TEST(the_first_failure_opens_it_and_the_rest_is_refused_at_once),
        TEST(who_is_refused_hears_why),
        TEST(answers_open_nothing),
        TEST(what_the_sink_says_opens_nothing),
        TEST(what_the_source_says_opens_nothing),
        TEST(a_put_that_alone_is_refused_opens_nothing),
        TEST(keys_that_may_only_read_open_nothing),
        TEST(a_store_that_turns_out_to_have_no_conditions_is_asked_for_none),
        TEST(probes_come_ever_more_rarely),
        TEST(who_fails_again_soon_is_asked_as_rarely_as_before),
        TEST(the_first_question_is_asked_whatever_the_state),
        TEST(a_probe_that_was_cancelled_says_nothing),
        TEST(whoever_stops_it_stops_the_store),
        TEST(what_began_before_it_worked_again_opens_nothing),
        TEST(many_threads_hear_of_each_change_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
