#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/cluster/queue.h"
#include "real_redis.h"

enum { LONG_MS = 60000 };

struct member {
    struct redis *redis;
    struct queue *queue;
};

static void member_init(struct member *m, const char *url, const struct queue_config *config)
{
    m->redis = url != NULL ? real_redis_open(url) : NULL;
    m->queue = queue_new(m->redis, config);
    if (m->redis != NULL)
        real_redis_connect(m->redis);
}

static void member_clear(struct member *m)
{
    if (m->redis != NULL)
        redis_stop(m->redis);
    queue_free(&m->queue);
    redis_free(&m->redis);
}

static void add(struct member *m, enum queue_priority priority, const char *id, const char *payload)
{
    struct err err;

    if (queue_add(m->queue, priority, id, payload, &err) != 0)
        fail_msg("%s", err.text);
}

static struct queue_job *take(struct member *m, const char *id)
{
    struct queue_job *job = NULL;
    struct err err;

    if (queue_take(m->queue, LONG_MS, &job, &err) != 0)
        fail_msg("%s", err.text);
    assert_string_equal(job->id, id);
    return job;
}

static void check_empty(struct member *m)
{
    struct queue_job *job = NULL;
    struct err err;

    assert_int_equal(queue_take(m->queue, 0, &job, &err), -1);
    assert_int_equal(err.kind, ERR_TIMEOUT);
    assert_null(job);
}

static struct queue_counts counts_of(struct member *m)
{
    struct queue_counts counts;
    struct err err;

    if (queue_count(m->queue, &counts, &err) != 0)
        fail_msg("%s", err.text);
    return counts;
}

/* Alone, or two nodes. */
static void both_ways(void (*check)(struct member *a, struct member *b),
                      const struct queue_config *config)
{
    struct real_redis s;
    struct member a, b;

    member_init(&a, NULL, config);
    check(&a, &a);
    member_clear(&a);
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, config);
    member_init(&b, s.unix_url, config);
    check(&a, &b);
    member_clear(&a);
    member_clear(&b);
    real_redis_clear(&s);
}

static void check_priorities(struct member *a, struct member *b)
{
    static const char *const wanted[] = {"h1", "h2", "n1", "l1"};
    struct queue_counts counts;

    add(a, QUEUE_LOW, "l1", "");
    add(a, QUEUE_NORMAL, "n1", "two words\nand a line");
    add(b, QUEUE_HIGH, "h1", "x");
    add(a, QUEUE_HIGH, "h2", "x");
    counts = counts_of(b);
    assert_int_equal(counts.waiting[QUEUE_HIGH], 2);
    assert_int_equal(counts.waiting[QUEUE_LOW], 1);
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        struct queue_job *job = take(i % 2 ? a : b, wanted[i]);

        if (i == 2) {
            assert_string_equal(job->payload, "two words\nand a line");
            assert_int_equal(job->priority, QUEUE_NORMAL);
            assert_int_equal(job->tries, 1);
            assert_int_equal(counts_of(a).taken, 1);
        }
        queue_done(&job);
        assert_null(job);
    }
    check_empty(a);
    assert_int_equal(counts_of(a).taken, 0);
}

static void any_node_takes_the_most_urgent_in_turn(void **state)
{
    (void)state;
    both_ways(check_priorities, &(struct queue_config){0});
}

static void check_dedupe(struct member *a, struct member *b)
{
    struct queue_job *job;

    add(a, QUEUE_NORMAL, "x", "1");
    add(b, QUEUE_NORMAL, "x", "2"); /* it waits already */
    job = take(a, "x");
    assert_string_equal(job->payload, "1");
    check_empty(b);
    add(b, QUEUE_HIGH, "x", "3"); /* it is being done: once more afterwards */
    add(b, QUEUE_HIGH, "x", "4");
    check_empty(b);
    queue_done(&job);
    job = take(b, "x");
    assert_string_equal(job->payload, "4");
    assert_int_equal(job->tries, 1);
    queue_done(&job);
    check_empty(a);
    add(a, QUEUE_LOW, "x", "5"); /* it was done: anew */
    job = take(b, "x");
    queue_done(&job);
}

static void there_is_one_of_an_id_and_one_more_while_it_is_done(void **state)
{
    (void)state;
    both_ways(check_dedupe, &(struct queue_config){0});
}

static void check_bound(struct member *a, struct member *b)
{
    struct queue_job *job;
    struct err err;

    add(a, QUEUE_LOW, "1", "");
    add(b, QUEUE_LOW, "2", "");
    assert_int_equal(queue_add(a->queue, QUEUE_LOW, "3", "", &err), -1);
    assert_int_equal(err.kind, ERR_LIMIT);
    add(a, QUEUE_LOW, "2", ""); /* that one waits already */
    add(a, QUEUE_HIGH, "3", "");
    job = take(a, "3");
    queue_done(&job);
    job = take(a, "1");
    add(a, QUEUE_LOW, "3", "");
    queue_done(&job);
}

static void a_full_queue_refuses(void **state)
{
    (void)state;
    both_ways(check_bound, &(struct queue_config){.max = 2});
}

static void check_overdue(struct member *a, struct member *b)
{
    struct queue_job *lost, *job;

    add(a, QUEUE_NORMAL, "x", "");
    lost = take(a, "x"); /* and nothing is heard of it */
    job = take(b, "x");
    assert_int_equal(job->tries, 2);
    assert_false(queue_extend(lost));
    assert_true(queue_extend(job));
    queue_done(&lost); /* late, and no longer its own to settle */
    assert_true(queue_extend(job));
    queue_done(&job);
    check_empty(a);
}

static void what_is_not_done_in_time_is_taken_by_another(void **state)
{
    (void)state;
    both_ways(check_overdue, &(struct queue_config){.visibility_ms = 300});
}

static void check_give_up(struct member *a, struct member *b)
{
    struct queue_job *job;

    add(a, QUEUE_NORMAL, "x", "p");
    add(a, QUEUE_NORMAL, "y", "");
    job = take(a, "x");
    queue_give_up(&job);
    job = take(b, "y");
    queue_done(&job);
    job = take(b, "x");
    assert_int_equal(job->tries, 2);
    assert_string_equal(job->payload, "p");
    queue_done(&job);
}

static void what_is_given_up_goes_to_the_end(void **state)
{
    (void)state;
    both_ways(check_give_up, &(struct queue_config){0});
}

static void check_given_up_too_often(struct member *a, struct member *b)
{
    struct queue_job *job;

    add(a, QUEUE_NORMAL, "x", "");
    for (unsigned i = 1; i <= QUEUE_TRIES_MAX; i++) {
        job = take(i % 2 ? a : b, "x");
        assert_int_equal(job->tries, i);
        queue_give_up(&job);
    }
    check_empty(a);
    assert_int_equal(counts_of(a).dropped, 1);
    /* It can come again. */
    add(b, QUEUE_NORMAL, "x", "");
    job = take(a, "x");
    assert_int_equal(job->tries, 1);
    queue_done(&job);
}

static void what_is_given_up_too_often_is_dropped(void **state)
{
    (void)state;
    both_ways(check_given_up_too_often, &(struct queue_config){0});
}

static void check_poison(struct member *a, struct member *b)
{
    struct queue_job *jobs[QUEUE_TRIES_MAX];

    add(a, QUEUE_NORMAL, "x", "");
    for (unsigned i = 0; i < QUEUE_TRIES_MAX; i++) {
        jobs[i] = take(i % 2 ? a : b, "x");
        assert_int_equal(jobs[i]->tries, i + 1);
    }
    /* The one who looks next drops it. */
    AWAIT((check_empty(a), counts_of(a).dropped == 1));
    assert_int_equal(counts_of(a).taken, 0);
    for (unsigned i = 0; i < QUEUE_TRIES_MAX; i++)
        queue_done(&jobs[i]);
}

static void what_nobody_survives_is_dropped(void **state)
{
    (void)state;
    both_ways(check_poison, &(struct queue_config){.visibility_ms = 20});
}

struct taker {
    struct member *m;
    struct queue_job *job;
    struct err err;
    pthread_barrier_t *barrier;
};

static void *take_later(void *ctx)
{
    struct taker *t = ctx;

    pthread_barrier_wait(t->barrier);
    if (queue_take(t->m->queue, LONG_MS, &t->job, &t->err) == 0)
        queue_done(&t->job);
    else
        must(t->err.kind == ERR_CANCELLED);
    return NULL;
}

static void check_waiting(struct member *a, struct member *b)
{
    pthread_barrier_t barrier;
    struct taker t = {.m = b, .barrier = &barrier};
    pthread_t thread;

    pthread_barrier_init(&barrier, NULL, 2);
    assert_int_equal(pthread_create(&thread, NULL, take_later, &t), 0);
    pthread_barrier_wait(&barrier);
    add(a, QUEUE_LOW, "x", "");
    pthread_join(thread, NULL);
    assert_int_equal(t.err.kind, ERR_NONE);
    assert_int_equal(pthread_create(&thread, NULL, take_later, &t), 0);
    pthread_barrier_wait(&barrier);
    queue_stop(b->queue);
    pthread_join(thread, NULL);
    assert_int_equal(t.err.kind, ERR_CANCELLED);
    pthread_barrier_destroy(&barrier);
}

static void who_waits_is_woken_by_a_job_and_by_the_end(void **state)
{
    (void)state;
    both_ways(check_waiting, &(struct queue_config){0});
}

enum { WORKERS = 4, JOBS = 100 };

struct worker {
    struct member *m;
    atomic_uint *done;
    pthread_barrier_t *barrier;
};

static void *work(void *ctx)
{
    struct worker *w = ctx;
    struct queue_job *job;
    struct err err;

    pthread_barrier_wait(w->barrier);
    while (queue_take(w->m->queue, 0, &job, &err) == 0) {
        atomic_fetch_add(&w->done[strtoul(job->id, NULL, 10)], 1);
        queue_done(&job);
    }
    must(err.kind == ERR_TIMEOUT);
    return NULL;
}

static void check_once(struct member *a, struct member *b)
{
    struct worker workers[WORKERS];
    atomic_uint done[JOBS] = {0};
    pthread_barrier_t barrier;

    pthread_barrier_init(&barrier, NULL, WORKERS);
    for (int i = 0; i < JOBS; i++) {
        char id[16];

        snprintf(id, sizeof(id), "%d", i);
        add(a, QUEUE_NORMAL, id, "");
    }
    for (int i = 0; i < WORKERS; i++)
        workers[i] = (struct worker){i % 2 ? a : b, done, &barrier};
    run_together(WORKERS, work, workers, sizeof(workers[0]));
    for (int i = 0; i < JOBS; i++)
        assert_int_equal(done[i], 1);
    pthread_barrier_destroy(&barrier);
}

static void each_job_is_done_once_when_nobody_fails(void **state)
{
    (void)state;
    both_ways(check_once, &(struct queue_config){0});
}

static void what_is_too_long_is_refused(void **state)
{
    struct member m;
    struct err err;
    char id[QUEUE_ID_MAX + 2];

    (void)state;
    member_init(&m, NULL, &(struct queue_config){0});
    memset(id, 'x', sizeof(id) - 1);
    id[sizeof(id) - 1] = '\0';
    assert_int_equal(queue_add(m.queue, QUEUE_LOW, id, "", &err), -1);
    assert_int_equal(err.kind, ERR_LIMIT);
    assert_int_equal(queue_add(m.queue, QUEUE_LOW, "", "", &err), -1);
    member_clear(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_node_takes_the_most_urgent_in_turn),
        cmocka_unit_test(there_is_one_of_an_id_and_one_more_while_it_is_done),
        cmocka_unit_test(a_full_queue_refuses),
        cmocka_unit_test(what_is_not_done_in_time_is_taken_by_another),
        cmocka_unit_test(what_is_given_up_goes_to_the_end),
        cmocka_unit_test(what_nobody_survives_is_dropped),
        cmocka_unit_test(what_is_given_up_too_often_is_dropped),
        cmocka_unit_test(who_waits_is_woken_by_a_job_and_by_the_end),
        cmocka_unit_test(each_job_is_done_once_when_nobody_fails),
        cmocka_unit_test(what_is_too_long_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
