#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/cluster/nodes.h"
#include "real_redis.h"

struct member {
    struct redis *redis;
    struct nodes *nodes;
};

static void member_init_remembering(struct member *m, const char *url, const char *id,
                                    const char *address, uint64_t ttl_ms, uint64_t remember_ms)
{
    struct nodes_config config = {.id = id,
                                  .address = address,
                                  .version = "0.1",
                                  .heartbeat_ms = ttl_ms / 10,
                                  .ttl_ms = ttl_ms,
                                  .remember_ms = remember_ms};
    struct err err;

    m->redis = url != NULL ? real_redis_open(url) : NULL;
    if (nodes_new(m->redis, &config, &m->nodes, &err) != 0)
        fail_msg("%s", err.text);
    if (m->redis != NULL)
        real_redis_connect(m->redis);
}

static void member_init(struct member *m, const char *url, const char *id, const char *address,
                        uint64_t ttl_ms)
{
    member_init_remembering(m, url, id, address, ttl_ms, 0);
}

static void member_clear(struct member *m)
{
    if (m->redis != NULL)
        redis_stop(m->redis);
    nodes_free(&m->nodes);
    redis_free(&m->redis);
}

static bool is_alive(struct member *m)
{
    return nodes_is_alive(m->nodes, now_ms(), NULL);
}

static size_t count_nodes(struct member *m)
{
    struct node_list list;
    struct err err;
    size_t count;

    if (nodes_list(m->nodes, &list, &err) != 0)
        return 0; /* Redis is not back yet */
    count = list.count;
    node_list_clear(&list);
    return count;
}

static bool is_complete(struct member *m)
{
    struct node_list list;
    struct err err;
    bool complete;

    if (nodes_list(m->nodes, &list, &err) != 0)
        return false;
    complete = list.complete;
    node_list_clear(&list);
    return complete;
}

static void alone_we_are_the_list(void **state)
{
    struct member m;
    struct node_list list;
    struct err err;

    (void)state;
    member_init(&m, NULL, "solo", "127.0.0.1:1", 1000);
    assert_true(is_alive(&m));
    assert_int_equal(nodes_applied(m.nodes, "5-0", true, &err), 0);
    assert_int_equal(nodes_list(m.nodes, &list, &err), 0);
    assert_int_equal(list.count, 1);
    assert_true(list.complete);
    assert_string_equal(list.nodes[0].id, "solo");
    assert_string_equal(list.nodes[0].applied, "5-0");
    node_list_clear(&list);
    assert_int_equal(nodes_forget(m.nodes, "solo", &err), -1);
    assert_int_equal(err.kind, ERR_CONFLICT);
    assert_int_equal(nodes_forget(m.nodes, "other", &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    member_clear(&m);
}

static void who_joins_is_seen_with_what_it_says_of_itself(void **state)
{
    struct real_redis s;
    struct member a, b;
    struct node_list list;
    struct err err;

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, "a", "10.0.0.1:9000", 20000);
    member_init(&b, s.unix_url, "b", "", 20000);
    nodes_describe(a.nodes, &(struct node_load){.requests = 7, .disk_used = 1, .disk_limit = 2});
    AWAIT(count_nodes(&a) == 2);
    AWAIT(is_alive(&a) && is_alive(&b));
    assert_int_equal(nodes_applied(b.nodes, "12-3", true, &err), 0);
    assert_int_equal(nodes_list(a.nodes, &list, &err), 0);
    assert_string_equal(list.nodes[0].id, "a");
    assert_string_equal(list.nodes[0].address, "10.0.0.1:9000");
    assert_string_equal(list.nodes[0].version, "0.1");
    assert_string_equal(list.nodes[1].id, "b");
    assert_string_equal(list.nodes[1].applied, "12-3");
    assert_true(list.nodes[0].started > 1000000000);
    node_list_clear(&list);
    member_clear(&a);
    member_clear(&b);
    real_redis_clear(&s);
}

static bool requests_are(struct member *m, uint64_t wanted)
{
    struct node_list list;
    struct err err;
    bool are;

    assert_int_equal(nodes_list(m->nodes, &list, &err), 0);
    are = list.count == 1 && list.nodes[0].load.requests == wanted &&
          list.nodes[0].load.disk_limit == 2;
    node_list_clear(&list);
    return are;
}

static void the_next_heartbeat_tells_the_load(void **state)
{
    struct real_redis s;
    struct member a;

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, "a", "", 500);
    nodes_describe(a.nodes, &(struct node_load){.requests = 7, .disk_used = 1, .disk_limit = 2});
    AWAIT(requests_are(&a, 7));
    nodes_describe(a.nodes, &(struct node_load){.requests = 8, .disk_used = 1, .disk_limit = 2});
    AWAIT(requests_are(&a, 8));
    member_clear(&a);
    real_redis_clear(&s);
}

static void who_leaves_is_gone_at_once_and_who_dies_after_its_time(void **state)
{
    struct real_redis s;
    struct member a, b, c;

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, "a", "", 60000);
    member_init(&b, s.unix_url, "b", "", 60000);
    member_init(&c, s.unix_url, "c", "", 300);
    AWAIT(is_alive(&a) && is_alive(&b) && is_alive(&c));
    assert_int_equal(count_nodes(&a), 3);
    nodes_leave(b.nodes);
    assert_false(is_alive(&b));
    assert_int_equal(count_nodes(&a), 2);
    redis_stop(c.redis); /* its heartbeats end */
    AWAIT(count_nodes(&a) == 1);
    assert_false(is_alive(&c)); /* and it knew before the others did */
    member_clear(&a);
    member_clear(&b);
    member_clear(&c);
    real_redis_clear(&s);
}

static bool is_silent(struct member *m, const char *id)
{
    struct node_list list;
    struct err err;
    bool silent = false;

    if (nodes_list(m->nodes, &list, &err) != 0)
        return false;
    for (size_t i = 0; i < list.count; i++)
        silent |= strcmp(list.nodes[i].id, id) == 0 && list.nodes[i].silent_ms > 0;
    node_list_clear(&list);
    return silent;
}

static void who_fell_silent_is_remembered_also_by_a_redis_that_came_back_empty(void **state)
{
    struct real_redis s;
    struct member a, b;
    struct err err;

    (void)state;
    real_redis_init(&s, NULL);
    member_init_remembering(&a, s.unix_url, "a", "", 1000, 60000);
    member_init_remembering(&b, s.unix_url, "b", "", 1000, 60000);
    AWAIT(is_alive(&a) && is_alive(&b) && count_nodes(&a) == 2);
    assert_true(nodes_has(a.nodes, "b"));
    redis_stop(b.redis);
    AWAIT(is_silent(&a, "b"));
    assert_false(nodes_has(a.nodes, "b"));
    AWAIT(is_alive(&a)); /* it has looked since, at its heartbeat */
    real_redis_restart_empty(&s);
    AWAIT(is_silent(&a, "b"));
    /* Who is alive isn't gone, whatever somebody says. */
    assert_int_equal(nodes_forget(a.nodes, "a", &err), -1);
    assert_int_equal(err.kind, ERR_CONFLICT);
    assert_int_equal(nodes_forget(a.nodes, "nobody", &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    /* Until somebody says that it is gone; and the next server hears nothing of it. */
    assert_int_equal(nodes_forget(a.nodes, "b", &err), 0);
    AWAIT(is_complete(&a));
    real_redis_restart_empty(&s);
    AWAIT(is_complete(&a));
    assert_int_equal(count_nodes(&a), 1);
    member_clear(&a);
    member_clear(&b);
    real_redis_clear(&s);
}

static void by_the_clock_it_is_dead_before_others_think_so(void **state)
{
    struct real_redis s;
    struct member a;

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, "a", "", 60000);
    AWAIT(is_alive(&a));
    assert_false(nodes_is_alive(a.nodes, now_ms() + 54000, NULL));
    assert_true(nodes_is_alive(a.nodes, now_ms() + 30000, NULL));
    member_clear(&a);
    real_redis_clear(&s);
}

static uint64_t alive_since(struct member *m)
{
    uint64_t since;

    nodes_is_alive(m->nodes, now_ms(), &since);
    return since;
}

static void who_was_forgotten_is_alive_only_from_then_on(void **state)
{
    struct real_redis s;
    struct member a;
    uint64_t before;

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, "a", "", 2000);
    AWAIT(is_alive(&a));
    before = alive_since(&a);
    AWAIT(is_complete(&a));
    assert_int_equal(alive_since(&a), before);
    real_redis_restart_empty(&s);
    AWAIT(count_nodes(&a) == 1);
    /* Others may be alive that it hasn't heard of yet. */
    assert_false(is_complete(&a));
    AWAIT(alive_since(&a) > before);
    AWAIT(is_complete(&a));
    member_clear(&a);
    real_redis_clear(&s);
}

static bool is_refused(struct member *m)
{
    struct err why;

    return nodes_trouble(m->nodes, &why) && why.kind == ERR_CONFLICT;
}

static void two_may_not_have_one_name(void **state)
{
    struct real_redis s;
    struct member a, twin;

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, "a", "10.0.0.1:1", 2000);
    AWAIT(is_alive(&a));
    member_init(&twin, s.unix_url, "a", "10.0.0.2:1", 2000);
    AWAIT(is_refused(&twin));
    assert_false(is_alive(&twin));
    assert_true(is_alive(&a));
    nodes_leave(a.nodes);
    AWAIT(is_alive(&twin));
    assert_false(is_refused(&twin));
    member_clear(&a);
    member_clear(&twin);
    real_redis_clear(&s);
}

static void a_restart_takes_its_old_place(void **state)
{
    struct real_redis s;
    struct member a, again;

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url, "a", "10.0.0.1:1", 60000);
    AWAIT(is_alive(&a));
    member_clear(&a); /* without leaving, as by kill -9 */
    member_init(&again, s.unix_url, "a", "10.0.0.1:1", 60000);
    AWAIT(is_alive(&again));
    assert_int_equal(count_nodes(&again), 1);
    member_clear(&again);
    real_redis_clear(&s);
}

static void only_ids_are_taken_for_ids(void **state)
{
    static const char *const bad[] = {"", "a b", "a/b", "a:b",
                                      "0123456789012345678901234567890123456789012345678901234567"
                                      "8901234"};
    struct nodes *n = NULL;
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct nodes_config config = {.id = bad[i], .address = "", .version = ""};

        assert_int_equal(nodes_new(NULL, &config, &n, &err), -1);
        assert_int_equal(err.kind, ERR_INPUT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone_we_are_the_list),
        cmocka_unit_test(who_joins_is_seen_with_what_it_says_of_itself),
        cmocka_unit_test(the_next_heartbeat_tells_the_load),
        cmocka_unit_test(who_fell_silent_is_remembered_also_by_a_redis_that_came_back_empty),
        cmocka_unit_test(who_leaves_is_gone_at_once_and_who_dies_after_its_time),
        cmocka_unit_test(by_the_clock_it_is_dead_before_others_think_so),
        cmocka_unit_test(who_was_forgotten_is_alive_only_from_then_on),
        cmocka_unit_test(two_may_not_have_one_name),
        cmocka_unit_test(a_restart_takes_its_old_place),
        cmocka_unit_test(only_ids_are_taken_for_ids),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
