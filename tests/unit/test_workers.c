#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/workers.h"
#include "scratch.h"

/* A job that says when it runs, and goes on when it is let. */
struct gate {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned running, most, done;
    bool open;
};

static void gate_init(struct gate *g, bool open)
{
    *g = (struct gate){.open = open};
    pthread_mutex_init(&g->mutex, NULL);
    pthread_cond_init(&g->changed, NULL);
}

static void gate_clear(struct gate *g)
{
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->mutex);
}

static void pass_gate(void *ctx)
{
    struct gate *g = ctx;

    pthread_mutex_lock(&g->mutex);
    if (++g->running > g->most)
        g->most = g->running;
    pthread_cond_broadcast(&g->changed);
    while (!g->open)
        pthread_cond_wait(&g->changed, &g->mutex);
    g->running--;
    g->done++;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->mutex);
}

static void wait_until_running(struct gate *g, unsigned count)
{
    pthread_mutex_lock(&g->mutex);
    while (g->running < count)
        pthread_cond_wait(&g->changed, &g->mutex);
    pthread_mutex_unlock(&g->mutex);
}

static void open_gate(struct gate *g)
{
    pthread_mutex_lock(&g->mutex);
    g->open = true;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->mutex);
}

static void wait_until_done(struct gate *g, unsigned count)
{
    pthread_mutex_lock(&g->mutex);
    while (g->done < count)
        pthread_cond_wait(&g->changed, &g->mutex);
    pthread_mutex_unlock(&g->mutex);
}

static void as_many_run_at_once_as_there_may_be_threads(void **state)
{
    struct workers *w = workers_new("test", 3, 100);
    struct gate g;

    (void)state;
    gate_init(&g, false);
    for (int i = 0; i < 10; i++)
        assert_true(workers_submit(w, pass_gate, &g));
    wait_until_running(&g, 3);
    assert_int_equal(workers_load(w), 10);
    open_gate(&g);
    workers_free(&w);
    assert_null(w);
    assert_int_equal(g.done, 10);
    assert_int_equal(g.most, 3);
    gate_clear(&g);
}

static void a_full_queue_refuses(void **state)
{
    struct workers *w = workers_new("test", 2, 3);
    struct gate g;
    int taken = 0;

    (void)state;
    gate_init(&g, false);
    for (unsigned i = 1; i <= 2; i++) {
        assert_true(workers_submit(w, pass_gate, &g));
        wait_until_running(&g, i);
    }
    while (taken < 100 && workers_submit(w, pass_gate, &g))
        taken++;
    assert_int_equal(taken, 3);
    assert_int_equal(workers_load(w), 5);
    open_gate(&g);
    wait_until_done(&g, 5);
    assert_true(workers_submit(w, pass_gate, &g)); /* there is room again */
    workers_free(&w);
    assert_int_equal(g.done, 6);
    gate_clear(&g);
}

static void a_burst_that_fits_the_threads_needs_no_queue(void **state)
{
    struct workers *w = workers_new("test", 4, 0);
    struct gate g;

    (void)state;
    gate_init(&g, false);
    for (int i = 0; i < 4; i++)
        assert_true(workers_submit(w, pass_gate, &g));
    assert_false(workers_submit(w, pass_gate, &g));
    wait_until_running(&g, 4);
    assert_false(workers_submit(w, pass_gate, &g));
    open_gate(&g);
    workers_free(&w);
    assert_int_equal(g.done, 4);
    gate_clear(&g);
}

static void what_is_queued_runs_before_the_end(void **state)
{
    struct workers *w = workers_new("test", 1, 1000);
    struct gate g;

    (void)state;
    gate_init(&g, false);
    for (int i = 0; i < 500; i++)
        assert_true(workers_submit(w, pass_gate, &g));
    wait_until_running(&g, 1);
    open_gate(&g);
    workers_free(&w);
    assert_int_equal(g.done, 500);
    gate_clear(&g);
}

enum { SUBMITTERS = 8, EACH = 500 };

struct submitter {
    struct workers *workers;
    pthread_barrier_t *barrier;
    atomic_uint runs[EACH];
    unsigned taken;
};

static void count_run(void *ctx)
{
    atomic_fetch_add((atomic_uint *)ctx, 1);
}

static void *submit_many(void *ctx)
{
    struct submitter *s = ctx;

    pthread_barrier_wait(s->barrier);
    for (size_t i = 0; i < EACH; i++)
        s->taken += workers_submit(s->workers, count_run, &s->runs[i]);
    return NULL;
}

static void every_job_that_was_taken_runs_once(void **state)
{
    struct submitter *s = xcalloc(SUBMITTERS, sizeof(*s));
    struct workers *w = workers_new("test", 4, 50);
    pthread_barrier_t barrier;

    (void)state;
    pthread_barrier_init(&barrier, NULL, SUBMITTERS);
    for (size_t i = 0; i < SUBMITTERS; i++) {
        s[i].workers = w;
        s[i].barrier = &barrier;
    }
    run_together(SUBMITTERS, submit_many, s, sizeof(s[0]));
    workers_free(&w);
    for (size_t i = 0; i < SUBMITTERS; i++) {
        unsigned ran = 0;

        for (size_t k = 0; k < EACH; k++) {
            assert_true(s[i].runs[k] <= 1);
            ran += s[i].runs[k];
        }
        assert_int_equal(ran, s[i].taken);
    }
    pthread_barrier_destroy(&barrier);
    free(s);
}

/* A job that submits another, as a flight that lands starts the next one. */
struct chain {
    struct workers *workers;
    atomic_uint left;
    struct gate *last;
};

static void run_chain(void *ctx)
{
    struct chain *c = ctx;

    if (atomic_fetch_sub(&c->left, 1) == 1)
        pass_gate(c->last);
    else
        assert_true(workers_submit(c->workers, run_chain, c));
}

static void a_job_may_submit_the_next_one(void **state)
{
    struct chain c = {.workers = workers_new("test", 1, 1), .left = 100};
    struct gate g;

    (void)state;
    gate_init(&g, true);
    c.last = &g;
    assert_true(workers_submit(c.workers, run_chain, &c));
    wait_until_done(&g, 1);
    workers_free(&c.workers);
    gate_clear(&g);
}

/* A job that has more to submit while the workers are freed, as one that looks for work has. */
struct straggler {
    struct workers *workers;
    struct gate gate; /* says that the job runs */
    atomic_uint runs;
    bool refused;
};

static void submit_until_refused(void *ctx)
{
    struct straggler *s = ctx;

    pthread_mutex_lock(&s->gate.mutex);
    s->gate.running = 1;
    pthread_cond_broadcast(&s->gate.changed);
    pthread_mutex_unlock(&s->gate.mutex);
    while (workers_submit(s->workers, count_run, &s->runs))
        sched_yield();
    s->refused = true;
}

static void a_job_that_submits_while_the_workers_are_freed_is_refused(void **state)
{
    struct straggler s = {.workers = workers_new("test", 2, SIZE_MAX / 2)};

    (void)state;
    gate_init(&s.gate, false);
    assert_true(workers_submit(s.workers, submit_until_refused, &s));
    wait_until_running(&s.gate, 1);
    workers_free(&s.workers);
    assert_true(s.refused);
    assert_null(s.workers);
    gate_clear(&s.gate);
}

static void workers_that_never_worked_are_freed(void **state)
{
    struct workers *w = workers_new("long-name1", 1000, 1), *none = NULL;

    (void)state;
    assert_int_equal(workers_load(w), 0);
    workers_free(&w);
    workers_free(&none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_many_run_at_once_as_there_may_be_threads),
        cmocka_unit_test(a_full_queue_refuses),
        cmocka_unit_test(a_burst_that_fits_the_threads_needs_no_queue),
        cmocka_unit_test(what_is_queued_runs_before_the_end),
        cmocka_unit_test(every_job_that_was_taken_runs_once),
        cmocka_unit_test(a_job_may_submit_the_next_one),
        cmocka_unit_test(a_job_that_submits_while_the_workers_are_freed_is_refused),
        cmocka_unit_test(workers_that_never_worked_are_freed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
