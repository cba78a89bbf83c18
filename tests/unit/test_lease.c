#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/cluster/lease.h"
#include "real_redis.h"

enum { LONG_MS = 60000, TTL_MS = 20000 };

/* A node: its own client and leases; or leases in the process, when there is no Redis. */
struct node {
    struct redis *redis;
    struct leases *leases;
};

static void node_init(struct node *n, const char *url, const char *name, uint64_t ttl_ms)
{
    n->redis = url != NULL ? real_redis_open(url) : NULL;
    n->leases = leases_new(n->redis, name, ttl_ms);
    if (n->redis != NULL)
        real_redis_connect(n->redis);
}

static void node_clear(struct node *n)
{
    if (n->redis != NULL)
        redis_stop(n->redis);
    leases_free(&n->leases);
    redis_free(&n->redis);
}

static struct lease *take(struct node *n, const char *name, uint64_t wait_ms)
{
    struct lease *l = NULL;
    struct err err;

    if (leases_take(n->leases, name, wait_ms, &l, &err) != 0)
        fail_msg("%s", err.text);
    assert_true(lease_held(l, now_ms()));
    return l;
}

static enum err_kind take_and_fail(struct node *n, const char *name, uint64_t wait_ms,
                                   struct err *err)
{
    struct lease *l = NULL;

    assert_int_equal(leases_take(n->leases, name, wait_ms, &l, err), -1);
    assert_null(l);
    return err->kind;
}

/* ---- both ways ---- */

static void check_one_holder(struct node *a, struct node *b)
{
    struct lease *l = take(a, "repo:x", 0), *other;
    uint64_t fence = lease_fence(l);
    struct err err;

    assert_int_equal(take_and_fail(b, "repo:x", 0, &err), ERR_TIMEOUT);
    assert_int_equal(take_and_fail(b, "repo:x", 5, &err), ERR_TIMEOUT);
    other = take(b, "repo:y", 0); /* another's name is another lease */
    assert_true(lease_fence(other) > fence);
    lease_release(&other);
    lease_release(&l);
    assert_null(l);
    l = take(b, "repo:x", 0);
    assert_true(lease_fence(l) > fence);
    lease_release(&l);
}

struct waiter {
    struct node *node;
    struct lease *lease;
    struct err err;
    int rc;
};

static void *wait_for_lease(void *ctx)
{
    struct waiter *w = ctx;

    w->rc = leases_take(w->node->leases, "repo:x", LONG_MS, &w->lease, &w->err);
    return NULL;
}

static bool somebody_waits(struct node *n)
{
    struct leases_counts counts;

    leases_count(n->leases, &counts);
    return counts.waiting > 0;
}

static void check_waiter(struct node *a, struct node *b)
{
    struct lease *l = take(a, "repo:x", 0);
    struct waiter w = {.node = b};
    uint64_t start = now_ms();
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, wait_for_lease, &w), 0);
    AWAIT(somebody_waits(b));
    lease_release(&l);
    pthread_join(thread, NULL);
    assert_int_equal(w.rc, 0);
    assert_true(now_ms() - start < TTL_MS);
    lease_release(&w.lease);
}

static void check_stop(struct node *a, struct node *b)
{
    struct lease *l = take(a, "repo:x", 0);
    struct waiter w = {.node = b};
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, wait_for_lease, &w), 0);
    AWAIT(somebody_waits(b));
    leases_stop(b->leases);
    pthread_join(thread, NULL);
    assert_int_equal(w.rc, -1);
    assert_int_equal(w.err.kind, ERR_CANCELLED);
    lease_release(&l);
}

enum { WORKERS = 6, EACH = 20 };

struct worker {
    struct node *node;
    pthread_barrier_t *barrier;
    atomic_uint *inside;
    _Atomic uint64_t *last_fence;
};

static void *work(void *ctx)
{
    struct worker *w = ctx;

    pthread_barrier_wait(w->barrier);
    for (int i = 0; i < EACH; i++) {
        struct lease *l = NULL;
        struct err err;

        must(leases_take(w->node->leases, "repo:x", LONG_MS, &l, &err) == 0);
        must(atomic_fetch_add(w->inside, 1) == 0);
        must(atomic_exchange(w->last_fence, lease_fence(l)) < lease_fence(l));
        atomic_fetch_sub(w->inside, 1);
        lease_release(&l);
    }
    return NULL;
}

static void check_workers(struct node *a, struct node *b)
{
    struct worker workers[WORKERS];
    pthread_barrier_t barrier;
    atomic_uint inside = 0;
    _Atomic uint64_t last_fence = 0;

    pthread_barrier_init(&barrier, NULL, WORKERS);
    for (int i = 0; i < WORKERS; i++)
        workers[i] = (struct worker){i % 2 ? a : b, &barrier, &inside, &last_fence};
    run_together(WORKERS, work, workers, sizeof(workers[0]));
    pthread_barrier_destroy(&barrier);
}

static void both_ways(void (*check)(struct node *a, struct node *b))
{
    struct real_redis s;
    struct node a, b;

    node_init(&a, NULL, "alone", TTL_MS);
    check(&a, &a);
    node_clear(&a);
    real_redis_init(&s, NULL);
    node_init(&a, s.unix_url, "a", TTL_MS);
    node_init(&b, s.unix_url, "b", TTL_MS);
    check(&a, &b);
    node_clear(&a);
    node_clear(&b);
    real_redis_clear(&s);
}

static void one_holds_it_and_later_ones_have_larger_fences(void **state)
{
    (void)state;
    both_ways(check_one_holder);
}

static void who_waits_has_it_as_soon_as_it_is_released(void **state)
{
    (void)state;
    both_ways(check_waiter);
}

static void who_waits_gives_up_when_the_node_stops(void **state)
{
    (void)state;
    both_ways(check_stop);
}

static void threads_and_nodes_are_never_inside_together(void **state)
{
    (void)state;
    both_ways(check_workers);
}

/* ---- with Redis ---- */

static void the_one_who_has_it_is_named(void **state)
{
    struct real_redis s;
    struct node a, b;
    struct lease *l;
    struct err err;

    (void)state;
    real_redis_init(&s, NULL);
    node_init(&a, s.unix_url, "node-a", TTL_MS);
    node_init(&b, s.unix_url, "node-b", TTL_MS);
    l = take(&a, "repo:x", 0);
    assert_int_equal(take_and_fail(&b, "repo:x", 0, &err), ERR_TIMEOUT);
    assert_string_equal(err.text, "repo:x is being worked at by node node-a");
    lease_release(&l);
    node_clear(&a);
    node_clear(&b);
    real_redis_clear(&s);
}

static void it_is_renewed_beyond_its_time(void **state)
{
    struct real_redis s;
    struct node a, b;
    struct lease *l;
    struct err err;

    (void)state;
    real_redis_init(&s, NULL);
    node_init(&a, s.unix_url, "a", 600);
    node_init(&b, s.unix_url, "b", 600);
    l = take(&a, "repo:x", 0);
    assert_int_equal(take_and_fail(&b, "repo:x", 1500, &err), ERR_TIMEOUT);
    assert_true(lease_held(l, now_ms()));
    lease_release(&l);
    node_clear(&a);
    node_clear(&b);
    real_redis_clear(&s);
}

static void the_clock_alone_says_that_it_is_over(void **state)
{
    struct real_redis s;
    struct node a;
    struct lease *l;

    (void)state;
    real_redis_init(&s, NULL);
    node_init(&a, s.unix_url, "a", TTL_MS);
    l = take(&a, "repo:x", 0);
    assert_false(lease_held(l, now_ms() + TTL_MS));
    assert_false(lease_held(l, now_ms() + TTL_MS - TTL_MS / 10));
    assert_true(lease_held(l, now_ms() + TTL_MS / 2));
    lease_release(&l);
    node_clear(&a);
    real_redis_clear(&s);
}

static uint64_t count_lost(struct leases *all)
{
    struct leases_counts counts;

    leases_count(all, &counts);
    return counts.lost;
}

/* A node in a process of its own, which stalls in the middle of its work. */
struct staller {
    pid_t pid;
    int in,
        out; /* a byte in: go on.  A byte out: it holds; then what lease_held() said, and more */
};

static void stall_main(const char *url, int in, int out)
{
    struct redis *r;
    struct leases *all;
    struct lease *l = NULL;
    struct err err;
    char said[2], byte;

    if (redis_open(&(struct redis_config){.url = url}, &r, &err) != 0)
        _exit(1);
    all = leases_new(r, "staller", 500);
    redis_start(r);
    if (!redis_wait_up(r, REAL_REDIS_DEADLINE_MS) || leases_take(all, "repo:x", 0, &l, &err) != 0 ||
        write(out, "h", 1) != 1 || read(in, &byte, 1) != 1)
        _exit(2);
    /* The very first thing after the stall. */
    said[0] = lease_held(l, now_ms()) ? 'y' : 'n';
    while (count_lost(all) == 0)
        sched_yield();
    said[1] = lease_held(l, now_ms()) ? 'y' : 'n';
    lease_release(&l); /* of what is another's by now */
    _exit(write(out, said, 2) == 2 ? 0 : 3);
}

static void staller_start(struct staller *st, const char *url)
{
    int in[2], out[2];
    char byte;

    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    st->pid = fork();
    assert_true(st->pid >= 0);
    if (st->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(in[1]);
        close(out[0]);
        stall_main(url, in[0], out[1]);
    }
    close(in[0]);
    close(out[1]);
    st->in = in[1];
    st->out = out[0];
    assert_int_equal(read(st->out, &byte, 1), 1);
}

static void check_holder(struct redis *r, const char *node)
{
    char *key = redis_key(r, "lock:repo:x");
    char *holder = real_redis_ask(r, REDIS_WORDS("GET", key));

    assert_true(strncmp(holder, node, strlen(node)) == 0);
    free(holder);
    free(key);
}

static void a_holder_that_stalls_past_its_time_knows_it_before_it_writes(void **state)
{
    struct real_redis s;
    struct staller st;
    struct lease *l;
    struct node b;
    int status;
    char said[2];

    (void)state;
    real_redis_init(&s, NULL);
    staller_start(&st, s.unix_url); /* before there are threads here */
    node_init(&b, s.unix_url, "b", TTL_MS);
    assert_int_equal(kill(st.pid, SIGSTOP), 0);
    assert_int_equal(waitpid(st.pid, &status, WUNTRACED), st.pid);
    l = take(&b, "repo:x", LONG_MS);
    assert_int_equal(write(st.in, "g", 1), 1);
    assert_int_equal(kill(st.pid, SIGCONT), 0);
    assert_int_equal(read(st.out, said, 2), 2);
    assert_int_equal(said[0], 'n');
    assert_int_equal(said[1], 'n');
    assert_int_equal(waitpid(st.pid, &status, 0), st.pid);
    assert_int_equal(status, 0);
    check_holder(b.redis, "b "); /* it released nothing of ours */
    lease_release(&l);
    close(st.in);
    close(st.out);
    node_clear(&b);
    real_redis_clear(&s);
}

static void a_holder_finds_out_that_redis_came_back_empty(void **state)
{
    struct real_redis s;
    struct node a, b;
    struct lease *l, *other;

    (void)state;
    real_redis_init(&s, NULL);
    node_init(&a, s.unix_url, "a", 3000);
    l = take(&a, "repo:x", 0);
    real_redis_restart_empty(&s);
    node_init(&b, s.unix_url, "b", 3000);
    other = take(&b, "repo:x", 0);
    /* Numbered from Redis's clock: also an empty one goes on where the last one was. */
    assert_true(lease_fence(other) > lease_fence(l));
    AWAIT(count_lost(a.leases) == 1);
    assert_false(lease_held(l, now_ms()));
    assert_true(lease_held(other, now_ms()));
    lease_release(&l);
    lease_release(&other);
    node_clear(&a);
    node_clear(&b);
    real_redis_clear(&s);
}

static void without_redis_for_long_it_is_lost(void **state)
{
    struct real_redis s;
    struct node a;
    struct lease *l;
    struct err err;

    (void)state;
    real_redis_init(&s, NULL);
    node_init(&a, s.unix_url, "a", 400);
    l = take(&a, "repo:x", 0);
    real_redis_kill(&s);
    AWAIT(count_lost(a.leases) == 1);
    assert_false(lease_held(l, now_ms()));
    assert_int_equal(take_and_fail(&a, "repo:y", LONG_MS, &err), ERR_BUSY); /* at once */
    lease_release(&l);
    node_clear(&a);
    real_redis_clear(&s);
}

static bool was_cut(struct redis *r)
{
    struct redis_counts counts;

    redis_count(r, &counts);
    return counts.away > 0;
}

static void a_short_absence_of_redis_costs_no_lease(void **state)
{
    struct real_redis s;
    struct node a, b;
    struct lease *l;
    struct err err;

    (void)state;
    real_redis_init(&s, NULL);
    node_init(&a, s.unix_url, "a", 2000);
    l = take(&a, "repo:x", 0);
    free(real_redis_ask(a.redis, REDIS_WORDS("CLIENT", "KILL", "TYPE", "pubsub")));
    AWAIT(was_cut(a.redis));
    node_init(&b, s.unix_url, "b", 2000);
    assert_int_equal(take_and_fail(&b, "repo:x", 3000, &err), ERR_TIMEOUT);
    assert_true(lease_held(l, now_ms()));
    lease_release(&l);
    node_clear(&a);
    node_clear(&b);
    real_redis_clear(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_holder_that_stalls_past_its_time_knows_it_before_it_writes),
        cmocka_unit_test(one_holds_it_and_later_ones_have_larger_fences),
        cmocka_unit_test(who_waits_has_it_as_soon_as_it_is_released),
        cmocka_unit_test(who_waits_gives_up_when_the_node_stops),
        cmocka_unit_test(threads_and_nodes_are_never_inside_together),
        cmocka_unit_test(the_one_who_has_it_is_named),
        cmocka_unit_test(it_is_renewed_beyond_its_time),
        cmocka_unit_test(the_clock_alone_says_that_it_is_over),
        cmocka_unit_test(a_holder_finds_out_that_redis_came_back_empty),
        cmocka_unit_test(without_redis_for_long_it_is_lost),
        cmocka_unit_test(a_short_absence_of_redis_costs_no_lease),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
