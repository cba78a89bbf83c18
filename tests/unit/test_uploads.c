#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/lock.h"
#include "cache/shared/uploads.h"
#include "scratch.h"

/* What is sent waits at a gate, and is then said to have failed so many times. */
struct sender {
    struct uploads *uploads;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned allowed; /* how many more may go through the gate */
    unsigned begun, ended;
    unsigned failures; /* so many more fail */
    bool pausing;      /* who fails pauses the queue, as it would when the store is away */
    char order[64];    /* the last byte of each path that was begun */
};

static bool send(void *ctx, enum entry_kind kind, const char *path)
{
    struct sender *s = ctx;
    bool fails;

    assert_int_equal(kind, path[0] == 'm' ? ENTRY_MIRROR : ENTRY_ANSWER);
    pthread_mutex_lock(&s->mutex);
    if (s->begun < sizeof(s->order) - 1)
        s->order[s->begun] = path[strlen(path) - 1];
    s->begun++;
    pthread_cond_broadcast(&s->changed);
    while (s->allowed == 0)
        pthread_cond_wait(&s->changed, &s->mutex);
    s->allowed--;
    fails = s->failures > 0;
    s->failures -= fails;
    s->ended++;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mutex);
    if (fails && s->pausing)
        uploads_pause(s->uploads, true);
    return !fails;
}

static void set_up_sender(struct sender *s, unsigned threads, size_t queue_max)
{
    *s = (struct sender){0};
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->changed, NULL);
    s->uploads = uploads_new(threads, queue_max, send, s);
}

static void allow(struct sender *s, unsigned more)
{
    pthread_mutex_lock(&s->mutex);
    s->allowed += more;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mutex);
}

static void wait_until_begun(struct sender *s, unsigned count)
{
    pthread_mutex_lock(&s->mutex);
    while (s->begun < count)
        pthread_cond_wait(&s->changed, &s->mutex);
    pthread_mutex_unlock(&s->mutex);
}

static struct uploads_counts counts_of(struct sender *s)
{
    struct uploads_counts c;

    uploads_count(s->uploads, &c);
    return c;
}

static void wait_until_idle(struct sender *s)
{
    struct uploads_counts c;

    while (c = counts_of(s), c.waiting + c.sending > 0)
        sched_yield();
}

static void expect_counts(struct sender *s, uint64_t sent, uint64_t failed, uint64_t dropped)
{
    struct uploads_counts c = counts_of(s);

    assert_int_equal(c.sent, sent);
    assert_int_equal(c.failed, failed);
    assert_int_equal(c.dropped, dropped);
}

static void tear_down_sender(struct sender *s)
{
    uploads_free(&s->uploads);
    assert_null(s->uploads);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->mutex);
}

static bool add(struct sender *s, const char *path)
{
    return uploads_add(s->uploads, path[0] == 'm' ? ENTRY_MIRROR : ENTRY_ANSWER, path);
}

static void everything_is_sent_in_the_order_in_which_it_came(void **state)
{
    struct sender s;

    (void)state;
    set_up_sender(&s, 1, 10);
    assert_true(add(&s, "answers/1"));
    assert_true(add(&s, "mirrors/2"));
    assert_true(add(&s, "answers/3"));
    allow(&s, 3);
    wait_until_idle(&s);
    expect_counts(&s, 3, 0, 0);
    assert_string_equal(s.order, "123");
    tear_down_sender(&s);
}

static void what_waits_already_is_not_put_in_twice(void **state)
{
    struct sender s;

    (void)state;
    set_up_sender(&s, 1, 10);
    assert_true(add(&s, "answers/1"));
    wait_until_begun(&s, 1);
    assert_true(add(&s, "answers/2"));
    assert_true(add(&s, "answers/3"));
    assert_true(add(&s, "answers/2"));
    assert_int_equal(counts_of(&s).waiting, 2);
    assert_int_equal(counts_of(&s).sending, 1);
    allow(&s, 10);
    wait_until_idle(&s);
    expect_counts(&s, 3, 0, 0);
    assert_string_equal(s.order, "123");
    tear_down_sender(&s);
}

static void what_is_being_sent_may_wait_once_more_and_is_not_sent_twice_at_once(void **state)
{
    struct sender s;

    (void)state;
    set_up_sender(&s, 4, 10);
    assert_true(add(&s, "mirrors/1"));
    wait_until_begun(&s, 1);
    for (int i = 0; i < 5; i++)
        assert_true(add(&s, "mirrors/1"));
    assert_int_equal(counts_of(&s).waiting, 1);
    /* Other threads would begin it before this one, if they could. */
    assert_true(add(&s, "answers/2"));
    wait_until_begun(&s, 2);
    assert_int_equal(counts_of(&s).waiting, 1);
    assert_int_equal(counts_of(&s).sending, 2);
    allow(&s, 10);
    wait_until_idle(&s);
    expect_counts(&s, 3, 0, 0);
    assert_string_equal(s.order, "121");
    tear_down_sender(&s);
}

static void a_full_queue_drops_and_says_so(void **state)
{
    struct sender s;

    (void)state;
    set_up_sender(&s, 1, 2);
    assert_true(add(&s, "answers/1"));
    wait_until_begun(&s, 1);
    assert_true(add(&s, "answers/2"));
    assert_true(add(&s, "answers/3"));
    assert_false(add(&s, "answers/4"));
    assert_false(add(&s, "answers/1")); /* a second one waits like others */
    assert_true(add(&s, "answers/3"));  /* stands there already */
    expect_counts(&s, 0, 0, 2);
    allow(&s, 10);
    wait_until_idle(&s);
    expect_counts(&s, 3, 0, 2);
    assert_true(add(&s, "answers/4")); /* there is room again */
    wait_until_idle(&s);
    expect_counts(&s, 4, 0, 2);
    tear_down_sender(&s);
}

static void a_paused_queue_keeps_everything(void **state)
{
    struct sender s;

    (void)state;
    set_up_sender(&s, 3, 100);
    allow(&s, 100);
    uploads_pause(s.uploads, true);
    for (char name[] = "answers/a"; name[8] <= 'z'; name[8]++)
        assert_true(add(&s, name));
    assert_int_equal(counts_of(&s).waiting, 26);
    assert_int_equal(counts_of(&s).sending, 0);
    assert_int_equal(s.begun, 0);
    uploads_pause(s.uploads, false);
    wait_until_idle(&s);
    expect_counts(&s, 26, 0, 0);
    tear_down_sender(&s);
}

static void what_failed_is_tried_again_after_the_pause(void **state)
{
    struct sender s;

    (void)state;
    set_up_sender(&s, 1, 10);
    s.pausing = true;
    s.failures = 1;
    assert_true(add(&s, "answers/1"));
    wait_until_begun(&s, 1);
    assert_true(add(&s, "answers/2"));
    allow(&s, 1);
    while (counts_of(&s).sending > 0)
        sched_yield();
    assert_int_equal(counts_of(&s).waiting, 2);
    expect_counts(&s, 0, 0, 0);
    allow(&s, 2);
    uploads_pause(s.uploads, false);
    wait_until_idle(&s);
    expect_counts(&s, 2, 0, 0);
    assert_string_equal(s.order, "121"); /* it went to the end */
    tear_down_sender(&s);
}

static void what_fails_each_time_is_given_up(void **state)
{
    struct sender s;

    (void)state;
    set_up_sender(&s, 1, 10);
    s.failures = UPLOADS_TRIES_MAX;
    allow(&s, 10);
    assert_true(add(&s, "answers/1"));
    wait_until_idle(&s);
    expect_counts(&s, 0, 1, 0);
    assert_int_equal(s.begun, UPLOADS_TRIES_MAX);
    assert_true(add(&s, "answers/1")); /* it may come again, with all its tries */
    wait_until_idle(&s);
    expect_counts(&s, 1, 1, 0);
    tear_down_sender(&s);
}

static void one_that_waits_again_has_all_its_tries(void **state)
{
    struct sender s;

    (void)state;
    set_up_sender(&s, 1, 10);
    s.failures = UPLOADS_TRIES_MAX;
    assert_true(add(&s, "answers/1"));
    wait_until_begun(&s, 1);
    assert_true(add(&s, "answers/1"));
    allow(&s, 10);
    wait_until_idle(&s);
    assert_int_equal(s.begun, UPLOADS_TRIES_MAX + 1);
    expect_counts(&s, 1, 0, 0);
    tear_down_sender(&s);
}

static void a_try_that_finds_the_queue_full_is_dropped(void **state)
{
    struct sender s;

    (void)state;
    set_up_sender(&s, 1, 1);
    s.failures = 1;
    assert_true(add(&s, "answers/1"));
    wait_until_begun(&s, 1);
    assert_true(add(&s, "answers/2"));
    allow(&s, 10);
    wait_until_idle(&s);
    assert_int_equal(s.begun, 2);
    expect_counts(&s, 1, 0, 1);
    tear_down_sender(&s);
}

static void stopping_forgets_what_waits_and_waits_for_what_is_being_sent(void **state)
{
    struct sender s;

    (void)state;
    set_up_sender(&s, 2, 10);
    s.failures = 1;
    assert_true(add(&s, "answers/1"));
    assert_true(add(&s, "answers/2"));
    wait_until_begun(&s, 2);
    assert_true(add(&s, "answers/3"));
    assert_true(add(&s, "answers/1"));
    uploads_stop(s.uploads);
    assert_int_equal(counts_of(&s).waiting, 0);
    assert_int_equal(counts_of(&s).sending, 2);
    assert_false(add(&s, "answers/4"));
    uploads_pause(s.uploads, false);
    allow(&s, 10);
    wait_until_idle(&s);
    expect_counts(&s, 1, 1, 1); /* the one that failed has no second try */
    tear_down_sender(&s);
    assert_int_equal(s.begun, 2);
}

static void freeing_while_all_of_it_waits_sends_nothing(void **state)
{
    struct uploads *none = NULL;
    struct sender s;

    (void)state;
    set_up_sender(&s, 2, 10);
    uploads_pause(s.uploads, true);
    assert_true(add(&s, "answers/1"));
    assert_true(add(&s, "mirrors/2"));
    tear_down_sender(&s);
    assert_int_equal(s.begun, 0);
    uploads_free(&none);
}

enum { ADDERS = 6, EACH = 300 };

struct adder {
    struct sender *sender;
    pthread_barrier_t *barrier;
    unsigned number, dropped;
};

struct settling {
    struct sender *sender;
    uint64_t begun;
    bool settled;
};

static void *settle(void *ctx)
{
    struct settling *s = ctx;

    s->settled = uploads_settle(s->sender->uploads, s->begun, now_ms() + 60 * 1000);
    return NULL;
}

static void settling_waits_for_what_is_being_sent_and_for_nothing_else(void **state)
{
    struct sender s;
    struct settling waiting = {.sender = &s};
    pthread_t thread;

    (void)state;
    set_up_sender(&s, 1, 10);
    assert_true(uploads_settle(s.uploads, uploads_begun(s.uploads), 0)); /* nothing is */
    assert_true(add(&s, "answers/1"));
    wait_until_begun(&s, 1);
    assert_true(add(&s, "answers/1"));
    assert_true(add(&s, "answers/2"));
    waiting.begun = uploads_begun(s.uploads);
    assert_false(uploads_settle(s.uploads, waiting.begun, 0));
    assert_int_equal(pthread_create(&thread, NULL, settle, &waiting), 0);
    allow(&s, 1);
    pthread_join(thread, NULL); /* though another one is being sent by now, or waits */
    assert_true(waiting.settled);
    allow(&s, 2);
    wait_until_idle(&s);
    expect_counts(&s, 3, 0, 0);
    tear_down_sender(&s);
}

static void *add_many(void *ctx)
{
    struct adder *a = ctx;

    pthread_barrier_wait(a->barrier);
    for (unsigned i = 0; i < EACH; i++) {
        char path[32];

        snprintf(path, sizeof(path), "answers/%u", i % 40);
        a->dropped += !add(a->sender, path);
        if (i % 50 == a->number)
            uploads_pause(a->sender->uploads, i % 100 < 50);
    }
    return NULL;
}

static void many_at_once_lose_nothing_but_what_was_dropped(void **state)
{
    struct adder adders[ADDERS];
    pthread_barrier_t barrier;
    struct uploads_counts c;
    struct sender s;
    uint64_t dropped = 0;

    (void)state;
    set_up_sender(&s, 3, 20);
    allow(&s, 1000000);
    pthread_barrier_init(&barrier, NULL, ADDERS);
    for (unsigned i = 0; i < ADDERS; i++)
        adders[i] = (struct adder){&s, &barrier, i, 0};
    run_together(ADDERS, add_many, adders, sizeof(adders[0]));
    uploads_pause(s.uploads, false);
    wait_until_idle(&s);
    for (unsigned i = 0; i < ADDERS; i++)
        dropped += adders[i].dropped;
    c = counts_of(&s);
    assert_int_equal(c.sent, s.ended);
    assert_int_equal(c.failed, 0);
    assert_int_equal(c.dropped, dropped);
    assert_true(c.sent >= 20); /* as many as the queue holds */
    pthread_barrier_destroy(&barrier);
    tear_down_sender(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_is_sent_in_the_order_in_which_it_came),
        cmocka_unit_test(what_waits_already_is_not_put_in_twice),
        cmocka_unit_test(what_is_being_sent_may_wait_once_more_and_is_not_sent_twice_at_once),
        cmocka_unit_test(a_full_queue_drops_and_says_so),
        cmocka_unit_test(a_paused_queue_keeps_everything),
        cmocka_unit_test(what_failed_is_tried_again_after_the_pause),
        cmocka_unit_test(what_fails_each_time_is_given_up),
        cmocka_unit_test(one_that_waits_again_has_all_its_tries),
        cmocka_unit_test(a_try_that_finds_the_queue_full_is_dropped),
        cmocka_unit_test(stopping_forgets_what_waits_and_waits_for_what_is_being_sent),
        cmocka_unit_test(freeing_while_all_of_it_waits_sends_nothing),
        cmocka_unit_test(settling_waits_for_what_is_being_sent_and_for_nothing_else),
        cmocka_unit_test(many_at_once_lose_nothing_but_what_was_dropped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
