#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/cluster/cluster.h"
#include "cache/cluster/filling.h"
#include "real_redis.h"
#include "relay.h"

#define REPO "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

enum {
    NODES = 3,
    LONG_MS = 60000,
    TTL_MS = 600,
    TIMEOUT_MS = 200,
    HARMS = 20,
};

/* The whole world: what was sent, and what was acknowledged by all. */
struct world {
    struct real_redis server;
    /* Whether connections that say nothing are noticed: else only the clock tells. */
    bool blind;
    _Atomic uint64_t sent, acknowledged;
    struct member {
        struct world *world;
        struct relay relay;
        struct cluster *cluster;
        char id[16], *position_file;
        /* Whatever is older than that isn't held here any more. */
        _Atomic uint64_t floor;
        _Atomic uint64_t applied, missed;
        atomic_bool shut; /* nothing can be applied here */
    } members[NODES];
};

static void raise_floor(struct member *m, uint64_t to)
{
    uint64_t now = atomic_load(&m->floor);

    while (now < to && !atomic_compare_exchange_weak(&m->floor, &now, to))
        ;
}

static int apply(void *ctx, const char *id, const struct event *event, struct err *err)
{
    struct member *m = ctx;

    (void)id;
    (void)err;
    AWAIT(!atomic_load(&m->shut));
    raise_floor(m, event->generation);
    atomic_fetch_add(&m->applied, 1);
    return 0;
}

static int missed(void *ctx, const char *why, struct err *err)
{
    struct member *m = ctx;

    (void)why;
    (void)err;
    /* Everything goes, and what is fetched from now on is as new as upstream. */
    raise_floor(m, atomic_load(&m->world->sent));
    atomic_fetch_add(&m->missed, 1);
    return 0;
}

static void member_start(struct member *m)
{
    bool blind = m->world->blind;
    char url[64];
    struct cluster_config config = {
        .redis = {.url = url,
                  .timeout_ms = blind ? LONG_MS : TIMEOUT_MS,
                  .ping_ms = blind ? LONG_MS : TIMEOUT_MS / 2},
        .node = {.id = m->id,
                 .address = "",
                 .version = "0.1",
                 .heartbeat_ms = TTL_MS / 6,
                 .ttl_ms = TTL_MS},
        .events = {.poll_ms = blind ? LONG_MS : TTL_MS},
        .handler = {.apply = apply, .missed = missed, .ctx = m},
        .position_file = m->position_file,
        .lease_ttl_ms = TTL_MS,
    };
    struct err err;

    snprintf(url, sizeof(url), "redis://127.0.0.1:%u", m->relay.port);
    if (cluster_open(&config, &m->cluster, &err) != 0)
        fail_msg("%s", err.text);
    cluster_start(m->cluster);
}

static void world_init(struct world *w, bool blind)
{
    memset(w, 0, sizeof(*w));
    w->blind = blind;
    real_redis_init(&w->server, NULL);
    for (size_t i = 0; i < NODES; i++) {
        struct member *m = &w->members[i];

        m->world = w;
        snprintf(m->id, sizeof(m->id), "n%zu", i);
        m->position_file = scratch_path(&w->server.scratch, m->id);
        relay_init(&m->relay, w->server.port);
        member_start(m);
    }
    for (size_t i = 0; i < NODES; i++)
        AWAIT(cluster_may_serve(w->members[i].cluster, now_ms()));
}

static void world_clear(struct world *w)
{
    for (size_t i = 0; i < NODES; i++) {
        relay_freeze(&w->members[i].relay, false);
        cluster_free(&w->members[i].cluster);
        relay_clear(&w->members[i].relay);
        free(w->members[i].position_file);
    }
    real_redis_clear(&w->server);
}

/* Would a node serve what an acknowledged invalidation has taken? */
static void check_nobody_serves_old_things(struct world *w)
{
    for (size_t i = 0; i < NODES; i++) {
        struct member *m = &w->members[i];
        uint64_t acknowledged = atomic_load(&w->acknowledged);

        if (cluster_may_serve(m->cluster, now_ms()))
            assert_true(atomic_load(&m->floor) >= acknowledged);
    }
}

/* Invalidate from m; true when that was acknowledged. */
static bool invalidate(struct world *w, struct member *m, uint64_t timeout_ms)
{
    uint64_t number = atomic_fetch_add(&w->sent, 1) + 1;
    struct event event = {.kind = EVENT_INVALIDATE,
                          .scope = SCOPE_REPOSITORY,
                          .repo_id = REPO,
                          .repo = "",
                          .name = "",
                          .reason = "",
                          .node = "",
                          .generation = number};
    char id[EVENT_ID_SIZE];
    struct err err;

    if (events_send(cluster_events(m->cluster), &event, id, &err) != 0 ||
        events_wait_applied(cluster_events(m->cluster), id, timeout_ms, NULL, &err) != 0)
        return false;
    atomic_store(&w->acknowledged, number);
    return true;
}

static void an_invalidation_reaches_all_nodes(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, false);
    assert_true(invalidate(&w, &w.members[0], LONG_MS));
    for (size_t i = 0; i < NODES; i++)
        assert_int_equal(atomic_load(&w.members[i].floor), 1);
    check_nobody_serves_old_things(&w);
    world_clear(&w);
}

/* The network loses everything between one node and Redis, and tells nobody. */
static void a_node_that_is_cut_off_without_a_word_stops_serving_first(void **state)
{
    struct member *cut;
    struct world w;

    (void)state;
    world_init(&w, true);
    cut = &w.members[2];
    assert_true(invalidate(&w, &w.members[0], LONG_MS));
    relay_freeze(&cut->relay, true);
    assert_true(invalidate(&w, &w.members[0], LONG_MS));
    /* The others may go on now, so that one must not. */
    assert_false(cluster_may_serve(cut->cluster, now_ms()));
    assert_int_equal(atomic_load(&cut->floor), 1);
    assert_true(cluster_may_serve(w.members[1].cluster, now_ms()));
    /* It is heard of again, but has not applied anything. */
    atomic_store(&cut->shut, true);
    relay_freeze(&cut->relay, false);
    AWAIT(nodes_is_alive(cluster_nodes(cut->cluster), now_ms(), NULL));
    assert_false(cluster_may_serve(cut->cluster, now_ms()));
    atomic_store(&cut->shut, false);
    AWAIT(cluster_may_serve(cut->cluster, now_ms()));
    /* It has read what it missed, and had to forget nothing else. */
    assert_int_equal(atomic_load(&cut->floor), 2);
    assert_int_equal(atomic_load(&cut->missed), 1); /* at its first start */
    world_clear(&w);
}

/* Redis comes back empty while one node can't be told so, and so Redis doesn't know of it. */
static void a_redis_that_has_forgotten_a_node_does_not_speak_for_it(void **state)
{
    struct member *cut;
    struct world w;

    (void)state;
    world_init(&w, true);
    cut = &w.members[2];
    relay_freeze(&cut->relay, true);
    real_redis_restart_empty(&w.server);
    AWAIT(invalidate(&w, &w.members[0], LONG_MS));
    assert_false(cluster_may_serve(cut->cluster, now_ms()));
    relay_freeze(&cut->relay, false);
    AWAIT(cluster_may_serve(cut->cluster, now_ms()));
    assert_true(atomic_load(&cut->floor) >= atomic_load(&w.acknowledged));
    assert_int_equal(atomic_load(&cut->missed), 2);
    world_clear(&w);
}

static void a_node_that_restarts_goes_on_where_it_was(void **state)
{
    struct world w;
    struct member *m = &w.members[1];

    (void)state;
    world_init(&w, false);
    assert_true(invalidate(&w, &w.members[0], LONG_MS));
    cluster_free(&m->cluster);
    assert_true(invalidate(&w, &w.members[0], LONG_MS)); /* it has left: nobody waits for it */
    member_start(m);
    AWAIT(cluster_may_serve(m->cluster, now_ms()));
    assert_int_equal(atomic_load(&m->floor), 2);
    assert_int_equal(atomic_load(&m->missed), 1);
    world_clear(&w);
}

static void alone_all_of_it_works_without_redis(void **state)
{
    struct world w = {0};
    struct member *m = &w.members[0];
    struct cluster_config config = {
        .node = {.id = "solo", .address = "", .version = "0.1"},
        .handler = {.apply = apply, .missed = missed, .ctx = m},
    };
    struct lease *lease = NULL;
    struct queue_job *job = NULL;
    struct seek_found found;
    struct key key;
    struct err err;

    (void)state;
    m->world = &w;
    assert_int_equal(cluster_open(&config, &m->cluster, &err), 0);
    cluster_start(m->cluster);
    assert_true(cluster_may_serve(m->cluster, now_ms()));
    assert_false(cluster_trouble(m->cluster, &err));
    assert_true(invalidate(&w, m, LONG_MS));
    assert_int_equal(atomic_load(&m->floor), 1);
    assert_int_equal(leases_take(cluster_leases(m->cluster), "repo:x", 0, &lease, &err), 0);
    lease_release(&lease);
    assert_int_equal(queue_add(cluster_queue(m->cluster), QUEUE_LOW, "x", "", &err), 0);
    assert_int_equal(queue_take(cluster_queue(m->cluster), 0, &job, &err), 0);
    queue_done(&job);
    key_of("x", 1, &key);
    assert_int_equal(filling_seek(cluster_redis(m->cluster), &(struct filler){"solo", "", 1}, &key,
                                  SEEK_OR_CLAIM, &found, &err),
                     0);
    cluster_free(&m->cluster);
}

/* As docs/cluster.md says. */
static void a_user_with_few_rights_is_enough(void **state)
{
    struct cluster_config config = {
        .node = {.id = "n", .address = "", .version = "0.1", .heartbeat_ms = 50, .ttl_ms = 300},
        .handler = {.apply = apply, .missed = missed},
    };
    struct world w = {0};
    struct member *m = &w.members[0];
    struct lease *lease = NULL;
    struct queue_job *job = NULL;
    struct index_note note = {.change = INDEX_LOCAL, .entry = {.path = (char *)"x"}};
    struct seek_found found;
    struct redis *admin;
    struct key key;
    struct err err;
    char *file, url[64];

    (void)state;
    m->world = &w;
    real_redis_init(&w.server, NULL);
    admin = real_redis_open(w.server.unix_url);
    real_redis_connect(admin);
    free(real_redis_ask(admin,
                        REDIS_WORDS("ACL", "SETUSER", "pannier", "on", ">made-up", "~pannier:*",
                                    "&pannier:*", "+@read", "+@write", "+@stream", "+@pubsub",
                                    "+@scripting", "+@connection", "+time", "+info", "+role")));
    file = scratch_path(&w.server.scratch, "password");
    put_file(file, "made-up\n", 8);
    snprintf(url, sizeof(url), "redis://pannier@127.0.0.1:%u", w.server.port);
    config.redis = (struct redis_config){.url = url, .password_file = file};
    config.handler.ctx = m;
    assert_int_equal(cluster_open(&config, &m->cluster, &err), 0);
    cluster_start(m->cluster);
    AWAIT(cluster_may_serve(m->cluster, now_ms()));
    assert_true(invalidate(&w, m, LONG_MS));
    assert_int_equal(leases_take(cluster_leases(m->cluster), "repo:x", 0, &lease, &err), 0);
    lease_release(&lease);
    assert_int_equal(queue_add(cluster_queue(m->cluster), QUEUE_LOW, "x", "", &err), 0);
    assert_int_equal(queue_take(cluster_queue(m->cluster), 0, &job, &err), 0);
    queue_done(&job);
    key_of("x", 1, &key);
    assert_int_equal(filling_seek(cluster_redis(m->cluster), &(struct filler){"n", "", 1000}, &key,
                                  SEEK_OR_CLAIM, &found, &err),
                     0);
    assert_int_equal(shared_generation_raise(cluster_index(m->cluster), REPO, 1, &err), 0);
    assert_int_equal(shared_index_tell(cluster_index(m->cluster), &note, 1, &err), 0);
    cluster_free(&m->cluster);
    redis_free(&admin);
    free(file);
    real_redis_clear(&w.server);
}

/* ---- many faults ---- */

struct sender {
    struct world *world;
    size_t node;
    atomic_bool *stop;
    unsigned acknowledged;
};

static void *send_many(void *ctx)
{
    struct sender *s = ctx;

    while (!atomic_load(s->stop)) {
        s->acknowledged += invalidate(s->world, &s->world->members[s->node], 3 * TTL_MS);
        check_nobody_serves_old_things(s->world);
    }
    return NULL;
}

static unsigned random_below(uint64_t *seed, unsigned n)
{
    *seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (unsigned)(*seed >> 33) % n;
}

/* Look all the time, for as long as a fault lasts. */
static void look_for_ms(struct world *w, uint64_t ms)
{
    uint64_t until = now_ms() + ms;

    while (now_ms() < until) {
        check_nobody_serves_old_things(w);
        nanosleep(&(struct timespec){.tv_nsec = 100 * 1000}, NULL);
    }
}

static void do_harm(struct world *w, uint64_t *seed)
{
    struct member *m = &w->members[random_below(seed, NODES)];
    uint64_t ms = random_below(seed, 2) ? random_below(seed, 20) : random_below(seed, 2 * TTL_MS);

    switch (random_below(seed, 5)) {
    case 0: relay_cut(&m->relay); break;
    case 1:
    case 2:
        relay_freeze(&m->relay, true);
        look_for_ms(w, ms);
        relay_freeze(&m->relay, false);
        break;
    case 3:
        real_redis_signal(&w->server, SIGSTOP);
        look_for_ms(w, ms / 2);
        real_redis_signal(&w->server, SIGCONT);
        break;
    default: real_redis_restart_empty(&w->server);
    }
    look_for_ms(w, random_below(seed, TTL_MS));
}

static void whatever_fails_nobody_serves_what_was_invalidated_and_acknowledged(void **state)
{
    const char *seed_text = getenv("PANNIER_TEST_SEED");
    uint64_t seed = seed_text != NULL ? strtoull(seed_text, NULL, 10) : 1;
    atomic_bool stop = false;
    struct sender sender;
    pthread_t thread;
    struct world w;

    (void)state;
    world_init(&w, false);
    sender = (struct sender){.world = &w, .node = 0, .stop = &stop};
    assert_int_equal(pthread_create(&thread, NULL, send_many, &sender), 0);
    for (int i = 0; i < HARMS; i++)
        do_harm(&w, &seed);
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    /* All come back by themselves, and then it works. */
    AWAIT(invalidate(&w, &w.members[1], LONG_MS));
    check_nobody_serves_old_things(&w);
    for (size_t i = 0; i < NODES; i++)
        AWAIT(cluster_may_serve(w.members[i].cluster, now_ms()));
    assert_true(sender.acknowledged > 0);
    world_clear(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_invalidation_reaches_all_nodes),
        cmocka_unit_test(a_node_that_is_cut_off_without_a_word_stops_serving_first),
        cmocka_unit_test(a_redis_that_has_forgotten_a_node_does_not_speak_for_it),
        cmocka_unit_test(a_node_that_restarts_goes_on_where_it_was),
        cmocka_unit_test(a_user_with_few_rights_is_enough),
        cmocka_unit_test(alone_all_of_it_works_without_redis),
        cmocka_unit_test(whatever_fails_nobody_serves_what_was_invalidated_and_acknowledged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
