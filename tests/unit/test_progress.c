#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/cluster/progress.h"
#include "real_redis.h"

struct member {
    struct redis *redis;
    struct progress *progress;
};

static void member_init(struct member *m, const char *url)
{
    m->redis = url != NULL ? real_redis_open(url) : NULL;
    m->progress = progress_new(m->redis);
    if (m->redis != NULL)
        real_redis_connect(m->redis);
}

static void member_clear(struct member *m)
{
    if (m->redis != NULL)
        redis_stop(m->redis);
    progress_free(&m->progress);
    redis_free(&m->redis);
}

/* Alone, or two nodes. */
static void both_ways(void (*check)(struct member *a, struct member *b))
{
    struct real_redis s;
    struct member a, b;

    member_init(&a, NULL);
    check(&a, &a);
    member_clear(&a);
    real_redis_init(&s, NULL);
    member_init(&a, s.unix_url);
    member_init(&b, s.unix_url);
    check(&a, &b);
    member_clear(&a);
    member_clear(&b);
    real_redis_clear(&s);
}

static const char *const three[] = {"one", "two with blanks", "three"};

static void begin(struct member *m, int64_t now_s, char id[REDIS_TOKEN_SIZE])
{
    struct err err;

    if (progress_begin(m->progress, "tests", three, ARRAY_LEN(three), now_s, id, &err) != 0)
        fail_msg("%s", err.text);
}

static void set(struct member *m, const char *id, size_t item, enum progress_state state,
                const char *detail, const char *error, int64_t now_s)
{
    struct err err;

    if (progress_set(m->progress, id, item, state, detail, error, now_s, &err) != 0)
        fail_msg("%s", err.text);
}

static struct progress_task get(struct member *m, const char *id)
{
    struct progress_task task;
    struct err err;

    if (progress_get(m->progress, id, 200, &task, &err) != 0)
        fail_msg("%s", err.text);
    return task;
}

static void check_way(struct member *a, struct member *b)
{
    struct progress_task t;
    char id[REDIS_TOKEN_SIZE];

    begin(a, 100, id);
    t = get(b, id);
    assert_string_equal(t.id, id);
    assert_string_equal(t.by, "tests");
    assert_int_equal(t.started, 100);
    assert_int_equal(t.ended, 0);
    assert_int_equal(t.total, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_string_equal(t.items[i].name, three[i]);
        assert_int_equal(t.items[i].state, PROGRESS_WAITING);
        assert_null(t.items[i].detail);
        assert_null(t.items[i].error);
    }
    progress_task_clear(&t);
    set(b, id, 1, PROGRESS_RUNNING, NULL, NULL, 101);
    set(b, id, 1, PROGRESS_DONE, "all of it", NULL, 102);
    set(a, id, 0, PROGRESS_FAILED, "half of it", "it broke", 103);
    t = get(a, id);
    assert_int_equal(t.done, 1);
    assert_int_equal(t.failed, 1);
    assert_int_equal(t.ended, 0);
    assert_string_equal(t.items[1].detail, "all of it");
    assert_string_equal(t.items[0].error, "it broke");
    progress_task_clear(&t);
    set(a, id, 2, PROGRESS_DONE, NULL, NULL, 104);
    t = get(b, id);
    assert_int_equal(t.done, 2);
    assert_int_equal(t.ended, 104);
    progress_task_clear(&t);
}

static void it_goes_from_waiting_to_its_end(void **state)
{
    (void)state;
    both_ways(check_way);
}

/* A job that was lost to another node is done twice. */
static void check_twice(struct member *a, struct member *b)
{
    struct progress_task t;
    char id[REDIS_TOKEN_SIZE];

    begin(a, 100, id);
    for (size_t i = 0; i < 3; i++)
        set(a, id, i, PROGRESS_DONE, NULL, NULL, 101);
    set(b, id, 1, PROGRESS_RUNNING, NULL, NULL, 102);
    t = get(a, id);
    assert_int_equal(t.done, 2);
    assert_int_equal(t.ended, 0);
    progress_task_clear(&t);
    set(b, id, 1, PROGRESS_FAILED, NULL, "x", 103);
    set(b, id, 1, PROGRESS_FAILED, NULL, "y", 104);
    t = get(a, id);
    assert_int_equal(t.done, 2);
    assert_int_equal(t.failed, 1);
    assert_int_equal(t.ended, 104);
    assert_string_equal(t.items[1].error, "y");
    progress_task_clear(&t);
}

static void what_is_done_twice_counts_once(void **state)
{
    (void)state;
    both_ways(check_twice);
}

static void check_bound(struct member *a, struct member *b)
{
    char ids[PROGRESS_TASKS_MAX + 2][REDIS_TOKEN_SIZE];
    struct progress_tasks list;
    struct progress_task t;
    struct err err;

    for (size_t i = 0; i < ARRAY_LEN(ids); i++)
        begin(a, 100 + (int64_t)i, ids[i]);
    assert_int_equal(progress_list(b->progress, &list, &err), 0);
    assert_int_equal(list.count, PROGRESS_TASKS_MAX);
    for (size_t i = 0; i < list.count; i++) {
        assert_string_equal(list.tasks[i].id, ids[ARRAY_LEN(ids) - 1 - i]);
        assert_null(list.tasks[i].items);
    }
    progress_tasks_clear(&list);
    assert_int_equal(progress_get(b->progress, ids[0], 200, &t, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "not among the last 20"));
    assert_int_equal(progress_set(b->progress, ids[1], 0, PROGRESS_DONE, NULL, NULL, 1, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    /* It doesn't come to be by that. */
    assert_int_equal(progress_get(b->progress, ids[1], 200, &t, &err), -1);
    assert_int_equal(progress_set(b->progress, ids[2], 3, PROGRESS_DONE, NULL, NULL, 1, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
}

static void the_last_twenty_are_known(void **state)
{
    (void)state;
    both_ways(check_bound);
}

static void in_redis_it_goes_after_a_week(void **state)
{
    struct real_redis s;
    struct member m;
    struct redis_reply *reply = NULL;
    char id[REDIS_TOKEN_SIZE], *key;
    struct err err;

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&m, s.unix_url);
    begin(&m, 100, id);
    key = redis_key(m.redis, "progress:%s", id);
    assert_int_equal(redis_ask(m.redis, REDIS_WORDS("TTL", key), &reply, &err), 0);
    assert_in_range(reply->integer, PROGRESS_TTL_S - 60, PROGRESS_TTL_S);
    redis_reply_free(&reply);
    free(key);
    member_clear(&m);
    real_redis_clear(&s);
}

static void assert_unknown(struct member *m, const char *id, int64_t now_s, const char *words)
{
    struct progress_task t;
    struct err err;

    assert_int_equal(progress_get(m->progress, id, now_s, &t, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    if (strstr(err.text, words) == NULL)
        fail_msg("says '%s', and not '%s'", err.text, words);
}

static void one_that_is_lost_is_told_from_one_that_is_long_ago(void **state)
{
    const int64_t began = 1800000000;
    char lost[REDIS_TOKEN_SIZE], later[REDIS_TOKEN_SIZE];
    struct real_redis s;
    struct member m, alone;

    (void)state;
    real_redis_init(&s, NULL);
    member_init(&m, s.unix_url);
    begin(&m, began, lost);
    free(real_redis_ask(m.redis, REDIS_WORDS("FLUSHALL")));
    assert_unknown(&m, lost, began + 60, "Redis has lost");
    /* Whatever was begun since, as long as that didn't push it out. */
    begin(&m, began + 60, later);
    assert_unknown(&m, lost, began + 60, "Redis has lost");
    assert_unknown(&m, lost, began + PROGRESS_TTL_S, "within the last 7 days");
    assert_unknown(&m, "0123456789abcdef", began, "within the last 7 days");
    assert_unknown(&m, "ffffffff89abcdef", began, "none has this id");
    member_init(&alone, NULL);
    assert_unknown(&alone, later, began + 120, "started anew");
    member_clear(&alone);
    member_clear(&m);
    real_redis_clear(&s);
}

struct crowd {
    struct member *m;
    const char *id;
    size_t item;
};

static void *set_one(void *ctx)
{
    struct crowd *c = ctx;

    set(c->m, c->id, c->item, PROGRESS_RUNNING, NULL, NULL, 1);
    set(c->m, c->id, c->item, PROGRESS_DONE, "d", NULL, 2);
    return NULL;
}

static void check_at_once(struct member *a, struct member *b)
{
    struct crowd crowd[3];
    pthread_t threads[3];
    struct progress_task t;
    char id[REDIS_TOKEN_SIZE];

    begin(a, 100, id);
    for (size_t i = 0; i < 3; i++) {
        crowd[i] = (struct crowd){i % 2 ? a : b, id, i};
        assert_int_equal(pthread_create(&threads[i], NULL, set_one, &crowd[i]), 0);
    }
    for (size_t i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    t = get(a, id);
    assert_int_equal(t.done, 3);
    assert_int_equal(t.ended, 2);
    progress_task_clear(&t);
}

static void items_may_be_seen_to_at_once(void **state)
{
    (void)state;
    both_ways(check_at_once);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_goes_from_waiting_to_its_end),
        cmocka_unit_test(what_is_done_twice_counts_once),
        cmocka_unit_test(the_last_twenty_are_known),
        cmocka_unit_test(in_redis_it_goes_after_a_week),
        cmocka_unit_test(one_that_is_lost_is_told_from_one_that_is_long_ago),
        cmocka_unit_test(items_may_be_seen_to_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
