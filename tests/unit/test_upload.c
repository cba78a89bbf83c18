#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "proxy/upload.h"

enum { MUCH = 1 << 20, TOTAL = 5 << 20 };

/* As an exchange has them. */
struct bench {
    struct lock lock;
    struct upload *upload;
    size_t window; /* so many bytes there is room for */
};

static int set_up(void **state)
{
    struct bench *b = xcalloc(1, sizeof(*b));
    struct upload *u = upload_new();
    char *much = xcalloc(1, MUCH);

    b->window = upload_put_locked(u, much, MUCH);
    assert_in_range(b->window, 2, MUCH - 1);
    upload_free(&u);
    assert_null(u);
    free(much);
    lock_init(&b->lock, LOCK_EXCHANGE);
    b->upload = upload_new();
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *b = *state;

    upload_free(&b->upload);
    upload_free(&b->upload); /* nothing inside is fine */
    lock_clear(&b->lock);
    free(b);
    return 0;
}

/* Byte number n of what is sent: of no period that a window's size has. */
static char byte_at(size_t n)
{
    return (char)(n % 251);
}

static size_t put_from(struct bench *b, size_t at, size_t len)
{
    char *data = xmalloc(len);
    size_t done;

    for (size_t i = 0; i < len; i++)
        data[i] = byte_at(at + i);
    done = upload_put_locked(b->upload, data, len);
    free(data);
    return done;
}

static ssize_t take_from(struct bench *b, size_t at, size_t len)
{
    char *data = xmalloc(len);
    ssize_t n = upload_take_locked(b->upload, data, len);

    for (ssize_t i = 0; i < n; i++)
        assert_int_equal(data[i], byte_at(at + (size_t)i));
    free(data);
    return n;
}

static void what_has_no_room_is_left_to_the_client(void **state)
{
    struct bench *b = *state;

    assert_int_equal(put_from(b, 0, b->window - 10), b->window - 10);
    assert_int_equal(put_from(b, b->window - 10, 100), 10);
    assert_int_equal(put_from(b, b->window, 100), 0);
    assert_int_equal(take_from(b, 0, 7), 7);
    assert_int_equal(put_from(b, b->window, 100), 7);
    assert_int_equal(take_from(b, 7, MUCH), b->window);
}

static void bytes_keep_their_order_where_the_window_wraps_around(void **state)
{
    struct bench *b = *state;
    size_t put = 0, taken = 0;

    /* Each step begins at another place of the window, and some cross its end. */
    while (taken < 5 * b->window) {
        put += put_from(b, put, b->window / 2 + 1);
        assert_int_equal(take_from(b, taken, b->window / 3), b->window / 3);
        taken += b->window / 3;
    }
    assert_int_equal(take_from(b, taken, MUCH), put - taken);
}

static void it_ends_when_all_was_taken_that_the_client_has_sent(void **state)
{
    struct bench *b = *state;

    assert_true(upload_is_dry_locked(b->upload));
    assert_int_equal(put_from(b, 0, 10), 10);
    assert_false(upload_is_dry_locked(b->upload));
    upload_end_locked(b->upload);
    upload_end_locked(b->upload);
    assert_int_equal(take_from(b, 0, 6), 6);
    assert_int_equal(take_from(b, 6, 6), 4);
    assert_int_equal(take_from(b, 10, 6), 0);
    assert_int_equal(take_from(b, 10, 6), 0);
    assert_false(upload_is_dry_locked(b->upload)); /* nobody waits for more */
    assert_false(upload_is_abandoned_locked(b->upload));
}

/* Or a client that breaks off would have pushed something. */
static void without_an_end_of_the_clients_there_is_none(void **state)
{
    struct bench *b = *state;

    assert_int_equal(take_from(b, 0, 6), -1);
    assert_int_equal(put_from(b, 0, 3), 3);
    assert_int_equal(take_from(b, 0, 6), 3);
    assert_int_equal(take_from(b, 3, 6), -1);
}

static void what_was_abandoned_has_no_proper_end(void **state)
{
    struct bench *b = *state;

    assert_int_equal(put_from(b, 0, 10), 10);
    upload_abandon_locked(b->upload);
    assert_true(upload_is_abandoned_locked(b->upload));
    assert_false(upload_is_dry_locked(b->upload));
    assert_int_equal(take_from(b, 0, 6), -1);
    upload_end_locked(b->upload);
    assert_int_equal(take_from(b, 0, 6), -1);
}

/* ---- with a worker ---- */

struct worker {
    struct bench *bench;
    pthread_t thread;
    pthread_cond_t room; /* it has taken something; in the program the connection is resumed */
    size_t taken;
    bool waits, gone;
    ssize_t last;
    bool wrong;
};

/* As exchange.c reads a body. */
static void *take_all(void *ctx)
{
    struct worker *w = ctx;
    struct bench *b = w->bench;
    char data[7001];

    lock_take(&b->lock);
    do {
        while (upload_is_dry_locked(b->upload) && !w->gone) {
            w->waits = true;
            pthread_cond_signal(&w->room);
            upload_wait_locked(b->upload, &b->lock);
        }
        w->waits = false;
        w->last = upload_take_locked(b->upload, data, sizeof(data));
        for (ssize_t i = 0; i < w->last; i++)
            w->wrong |= data[i] != byte_at(w->taken + (size_t)i);
        w->taken += w->last > 0 ? (size_t)w->last : 0;
        pthread_cond_signal(&w->room);
    } while (w->last > 0);
    lock_drop(&b->lock);
    return NULL;
}

static void start(struct worker *w, struct bench *b)
{
    *w = (struct worker){.bench = b};
    lock_cond_init(&w->room);
    must(pthread_create(&w->thread, NULL, take_all, w) == 0);
}

static void join(struct worker *w)
{
    must(pthread_join(w->thread, NULL) == 0);
    pthread_cond_destroy(&w->room);
    assert_false(w->wrong);
}

/* With the lock: until it has taken all that there is, and waits for more. */
static void let_it_wait(struct worker *w)
{
    while (!w->waits)
        lock_wait(&w->bench->lock, &w->room);
}

static void a_client_that_has_to_wait_for_room_loses_nothing(void **state)
{
    struct bench *b = *state;
    struct worker w;
    size_t put = 0, refused = 0;

    lock_take(&b->lock);
    start(&w, b);
    while (put < TOTAL) {
        size_t want = TOTAL - put < b->window + 1 ? TOTAL - put : b->window + 1;
        size_t n = put_from(b, put, want), taken = w.taken;

        put += n;
        refused += n < want;
        while (n < want && w.taken == taken)
            lock_wait(&b->lock, &w.room);
    }
    upload_end_locked(b->upload);
    lock_drop(&b->lock);
    join(&w);
    assert_true(refused > 0);
    assert_int_equal(w.taken, TOTAL);
    assert_int_equal(w.last, 0);
}

static void who_waits_for_more_is_woken_by_each_of_its_ends(void **state)
{
    struct bench *b = *state;

    for (int end = 0; end < 3; end++) {
        struct worker w;

        upload_free(&b->upload);
        b->upload = upload_new();
        lock_take(&b->lock);
        start(&w, b);
        let_it_wait(&w);
        assert_int_equal(put_from(b, 0, 100), 100);
        w.waits = false;
        let_it_wait(&w);
        assert_int_equal(w.taken, 100);
        if (end == 0) {
            upload_end_locked(b->upload);
        } else if (end == 1) {
            upload_abandon_locked(b->upload);
        } else {
            w.gone = true;
            upload_wake_locked(b->upload);
        }
        lock_drop(&b->lock);
        join(&w);
        assert_int_equal(w.last, end == 0 ? 0 : -1);
        assert_int_equal(w.taken, 100);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(what_has_no_room_is_left_to_the_client),
        TEST(bytes_keep_their_order_where_the_window_wraps_around),
        TEST(it_ends_when_all_was_taken_that_the_client_has_sent),
        TEST(without_an_end_of_the_clients_there_is_none),
        TEST(what_was_abandoned_has_no_proper_end),
        TEST(a_client_that_has_to_wait_for_room_loses_nothing),
        TEST(who_waits_for_more_is_woken_by_each_of_its_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
