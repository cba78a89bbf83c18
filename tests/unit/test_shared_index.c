#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/cluster/filling.h"
#include "cache/cluster/shared_index.h"
#include "real_redis.h"

enum { TTL_S = 1000, TTL_MS = 60000 };

#define REPO  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define REFS  "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define NEWER "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"

struct fixture {
    struct real_redis server;
    struct redis *redis;
    struct shared_index *index;
    struct key key;
};

static void fixture_init(struct fixture *f)
{
    real_redis_init(&f->server, NULL);
    f->redis = real_redis_open(f->server.unix_url);
    real_redis_connect(f->redis);
    f->index = shared_index_new(f->redis, TTL_S);
    key_of("x", 1, &f->key);
}

static void fixture_clear(struct fixture *f)
{
    shared_index_free(&f->index);
    redis_free(&f->redis);
    real_redis_clear(&f->server);
}

static struct entry make_entry(enum entry_tier tier)
{
    return (struct entry){.kind = ENTRY_ANSWER,
                          .repo_id = (char *)REPO,
                          .repo = (char *)"github.com/a/b",
                          .url = (char *)"https://github.com/a/b",
                          .ref = (char *)"refs/heads/\xff main",
                          .size = UINT64_C(5000000000),
                          .stored_size = 17,
                          .created = 1700000000,
                          .accessed = 1700000001,
                          .accesses = 3,
                          .tier = tier,
                          .path = (char *)"answers/ab/x",
                          .node = (char *)"node-a",
                          .note_offset = -1,
                          .objects = 9,
                          .packed = true};
}

static void an_entry_is_found_as_it_was_put(void **state)
{
    struct fixture f;
    struct entry e = make_entry(TIER_SHARED), out;
    struct err err;

    (void)state;
    fixture_init(&f);
    assert_int_equal(shared_index_find(f.index, ENTRY_ANSWER, &f.key, &out, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    assert_int_equal(shared_index_put(f.index, &f.key, &e, &err), 0);
    assert_int_equal(shared_index_find(f.index, ENTRY_MIRROR, &f.key, &out, &err), -1);
    assert_int_equal(shared_index_use(f.index, ENTRY_ANSWER, &f.key, 1700000099, &err), 0);
    assert_int_equal(shared_index_find(f.index, ENTRY_ANSWER, &f.key, &out, &err), 0);
    assert_string_equal(out.repo_id, REPO);
    assert_string_equal(out.repo, e.repo);
    assert_string_equal(out.url, e.url);
    assert_string_equal(out.ref, e.ref);
    assert_null(out.commit);
    assert_string_equal(out.path, e.path);
    assert_string_equal(out.node, "node-a");
    assert_int_equal(out.size, e.size);
    assert_int_equal(out.stored_size, 17);
    assert_int_equal(out.created, e.created);
    assert_int_equal(out.accessed, 1700000099);
    assert_int_equal(out.accesses, 4);
    assert_int_equal(out.tier, TIER_SHARED);
    assert_int_equal(out.note_offset, -1);
    assert_int_equal(out.objects, 9);
    assert_true(out.packed);
    entry_clear(&out);
    assert_int_equal(shared_index_remove(f.index, ENTRY_ANSWER, &f.key, &err), 0);
    assert_int_equal(shared_index_find(f.index, ENTRY_ANSWER, &f.key, &out, &err), -1);
    fixture_clear(&f);
}

static void a_use_of_what_is_gone_makes_nothing(void **state)
{
    struct fixture f;
    struct err err;
    char *size;

    (void)state;
    fixture_init(&f);
    assert_int_equal(shared_index_use(f.index, ENTRY_ANSWER, &f.key, 1, &err), 0);
    size = real_redis_ask(f.redis, REDIS_WORDS("DBSIZE"));
    assert_string_equal(size, "0");
    free(size);
    fixture_clear(&f);
}

static void a_local_one_does_not_push_a_shared_one_aside(void **state)
{
    struct fixture f;
    struct entry shared = make_entry(TIER_SHARED), local = make_entry(TIER_LOCAL), out;
    struct err err;

    (void)state;
    fixture_init(&f);
    local.path = (char *)"local";
    assert_int_equal(shared_index_put(f.index, &f.key, &local, &err), 0);
    assert_int_equal(shared_index_put(f.index, &f.key, &shared, &err), 0);
    assert_int_equal(shared_index_put(f.index, &f.key, &local, &err), 0);
    assert_int_equal(shared_index_find(f.index, ENTRY_ANSWER, &f.key, &out, &err), 0);
    assert_string_equal(out.path, shared.path);
    entry_clear(&out);
    fixture_clear(&f);
}

static void everything_runs_out_by_itself(void **state)
{
    struct fixture f;
    struct entry e = make_entry(TIER_SHARED);
    struct err err;
    struct redis_reply *keys = NULL;

    (void)state;
    fixture_init(&f);
    assert_int_equal(shared_index_put(f.index, &f.key, &e, &err), 0);
    assert_int_equal(shared_version_put(f.index, REPO, REFS, 0, 5, NULL, &err), 0);
    assert_int_equal(redis_ask(f.redis, REDIS_WORDS("KEYS", "*"), &keys, &err), 0);
    assert_int_equal(keys->count, 2);
    for (size_t i = 0; i < keys->count; i++) {
        char *left = real_redis_ask(f.redis, REDIS_WORDS("TTL", redis_item_text(keys, i)));

        assert_in_range(strtol(left, NULL, 10), 1, TTL_S);
        free(left);
    }
    redis_reply_free(&keys);
    fixture_clear(&f);
}

static void a_record_that_is_damaged_is_none(void **state)
{
    struct fixture f;
    struct entry out;
    struct err err;
    char hex[KEY_HEX_SIZE], *name;

    (void)state;
    fixture_init(&f);
    key_to_hex(&f.key, hex);
    name = redis_key(f.redis, "entry:answer:%s", hex);
    free(real_redis_ask(f.redis, REDIS_WORDS("HSET", name, "tier", "shared", "repo", "x")));
    assert_int_equal(shared_index_find(f.index, ENTRY_ANSWER, &f.key, &out, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    free(name);
    fixture_clear(&f);
}

static void generations_only_rise_and_refs_are_the_last_ones_asked_for(void **state)
{
    struct fixture f;
    struct shared_version first, v;
    struct err err;

    (void)state;
    fixture_init(&f);
    assert_int_equal(shared_version_get(f.index, REPO, &first, &err), 0);
    assert_string_equal(first.refs, "");
    assert_int_equal(first.generation, 0);
    assert_true(first.now_ms > 1600000000000);
    assert_int_equal(shared_version_put(f.index, REPO, REFS, first.now_ms + 5, 7, &v, &err), 0);
    assert_string_equal(v.refs, REFS);
    assert_int_equal(v.generation, 7);
    /* From a node that had asked earlier, and was slower. */
    assert_int_equal(shared_version_put(f.index, REPO, NEWER, first.now_ms, 6, &v, &err), 0);
    assert_string_equal(v.refs, REFS);
    assert_int_equal(v.generation, 7);
    assert_int_equal(shared_version_put(f.index, REPO, "", 0, 8, &v, &err), 0);
    assert_string_equal(v.refs, REFS);
    assert_int_equal(v.generation, 8);
    assert_int_equal(shared_version_put(f.index, REPO, NEWER, first.now_ms + 6, 0, NULL, &err), 0);
    assert_int_equal(shared_version_get(f.index, REPO, &v, &err), 0);
    assert_string_equal(v.refs, NEWER);
    assert_int_equal(v.refs_ms, first.now_ms + 6);
    assert_int_equal(v.generation, 8);
    fixture_clear(&f);
}

static void one_node_fills_and_the_others_are_told_who(void **state)
{
    struct fixture f;
    struct filling a, b;
    struct err err;

    (void)state;
    fixture_init(&f);
    assert_int_equal(filling_find(f.redis, &f.key, &b, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    assert_int_equal(filling_claim(f.redis, &f.key, "a", "10.0.0.1:90", TTL_MS, &a, &err), 0);
    assert_true(a.started_ms > 1600000000000);
    assert_int_equal(filling_claim(f.redis, &f.key, "b", "", TTL_MS, &b, &err), -1);
    assert_int_equal(err.kind, ERR_CONFLICT);
    assert_string_equal(b.node, "a");
    assert_string_equal(b.address, "10.0.0.1:90");
    assert_int_equal(b.started_ms, a.started_ms);
    assert_in_range(b.left_ms, 1, TTL_MS);
    assert_true(filling_renew(f.redis, &a, 2 * TTL_MS));
    assert_int_equal(filling_find(f.redis, &f.key, &b, &err), 0);
    assert_in_range(b.left_ms, TTL_MS, 2 * TTL_MS);
    filling_clear(f.redis, &a);
    assert_int_equal(filling_claim(f.redis, &f.key, "b", "", TTL_MS, &b, &err), 0);
    /* Late, and no longer its own. */
    assert_false(filling_renew(f.redis, &a, TTL_MS));
    filling_clear(f.redis, &a);
    assert_int_equal(filling_find(f.redis, &f.key, &a, &err), 0);
    assert_string_equal(a.node, "b");
    assert_string_equal(a.address, "");
    filling_clear(f.redis, &b);
    fixture_clear(&f);
}

static bool nobody_fills(struct fixture *f)
{
    struct filling other;
    struct err err;

    return filling_find(f->redis, &f->key, &other, &err) != 0 && err.kind == ERR_NOT_FOUND;
}

static void who_dies_fills_no_longer(void **state)
{
    struct fixture f;
    struct filling a;
    struct err err;

    (void)state;
    fixture_init(&f);
    assert_int_equal(filling_claim(f.redis, &f.key, "a", "", 50, &a, &err), 0);
    AWAIT(nobody_fills(&f));
    fixture_clear(&f);
}

static void what_redis_says_of_a_filler_may_be_nonsense(void **state)
{
    static const char *const values[] = {"",
                                         "x",
                                         "0123456789abcdef",
                                         "0123456789abcdef 1",
                                         "0123456789abcdef 1 a",
                                         "0123456789abcdef 1  b"};
    struct fixture f;
    struct filling other;
    struct err err;
    char hex[KEY_HEX_SIZE], *name;

    (void)state;
    fixture_init(&f);
    key_to_hex(&f.key, hex);
    name = redis_key(f.redis, "filling:%s", hex);
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        free(real_redis_ask(f.redis, REDIS_WORDS("SET", name, values[i])));
        assert_int_equal(filling_find(f.redis, &f.key, &other, &err), -1);
        assert_int_equal(err.kind, ERR_UPSTREAM);
    }
    free(name);
    fixture_clear(&f);
}

static void alone_everything_is_ours_and_nothing_is_known(void **state)
{
    struct shared_index *x = shared_index_new(NULL, TTL_S);
    struct entry e = make_entry(TIER_SHARED), out;
    struct shared_version v;
    struct filling a;
    struct err err;
    struct key key;

    (void)state;
    key_of("x", 1, &key);
    assert_int_equal(shared_index_put(x, &key, &e, &err), 0);
    assert_int_equal(shared_index_find(x, ENTRY_ANSWER, &key, &out, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    assert_int_equal(shared_version_put(x, REPO, REFS, 0, 1, &v, &err), 0);
    assert_int_equal(v.generation, 0);
    assert_int_equal(filling_claim(NULL, &key, "a", "", TTL_MS, &a, &err), 0);
    assert_true(filling_renew(NULL, &a, TTL_MS));
    filling_clear(NULL, &a);
    shared_index_free(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_entry_is_found_as_it_was_put),
        cmocka_unit_test(a_use_of_what_is_gone_makes_nothing),
        cmocka_unit_test(a_local_one_does_not_push_a_shared_one_aside),
        cmocka_unit_test(everything_runs_out_by_itself),
        cmocka_unit_test(a_record_that_is_damaged_is_none),
        cmocka_unit_test(generations_only_rise_and_refs_are_the_last_ones_asked_for),
        cmocka_unit_test(one_node_fills_and_the_others_are_told_who),
        cmocka_unit_test(who_dies_fills_no_longer),
        cmocka_unit_test(what_redis_says_of_a_filler_may_be_nonsense),
        cmocka_unit_test(alone_everything_is_ours_and_nothing_is_known),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
