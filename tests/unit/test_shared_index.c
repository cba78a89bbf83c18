#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/cluster/filling.h"
#include "cache/cluster/records.h"
#include "cache/cluster/shared_index.h"
#include "real_redis.h"

enum { TTL_S = 1000, TTL_MS = 60000 };

#define REPO "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

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

static void tell(struct fixture *f, enum index_change change, const struct entry *e)
{
    struct index_note note = {.change = change, .key = f->key, .entry = *e};
    struct err err;

    if (shared_index_tell(f->index, &note, 1, &err) != 0)
        fail_msg("%s", err.text);
}

/* "<tier> <node>" of its record, or "none". */
static void check_record(struct fixture *f, const char *expected)
{
    struct entry out;
    struct err err;
    char said[64] = "none";

    if (shared_index_find(f->index, ENTRY_ANSWER, &f->key, &out, &err) == 0)
        snprintf(said, sizeof(said), "%s %s", out.tier == TIER_SHARED ? "shared" : "local",
                 out.node);
    entry_clear(&out);
    assert_string_equal(said, expected);
}

/* As nodes.c has it, for as long as the test lasts. */
static void node_lives(struct fixture *f, const char *id, const char *address)
{
    char *name = redis_key(f->redis, "node:%s", id);

    free(real_redis_ask(f->redis, REDIS_WORDS("HSET", name, "address", address)));
    free(name);
}

static void node_dies(struct fixture *f, const char *id)
{
    char *name = redis_key(f->redis, "node:%s", id);

    free(real_redis_ask(f->redis, REDIS_WORDS("DEL", name)));
    free(name);
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
    tell(&f, INDEX_SHARED, &e);
    assert_int_equal(shared_index_find(f.index, ENTRY_MIRROR, &f.key, &out, &err), -1);
    tell(&f, INDEX_USED, &e);
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
    assert_true(out.accessed > e.accessed);
    assert_int_equal(out.accesses, 4);
    assert_int_equal(out.tier, TIER_SHARED);
    assert_int_equal(out.note_offset, -1);
    assert_int_equal(out.objects, 9);
    assert_true(out.packed);
    entry_clear(&out);
    tell(&f, INDEX_GONE, &e);
    check_record(&f, "none");
    fixture_clear(&f);
}

static void a_use_of_what_redis_has_lost_is_told_anew(void **state)
{
    struct fixture f;
    struct entry e = make_entry(TIER_SHARED);

    (void)state;
    fixture_init(&f);
    tell(&f, INDEX_USED, &e);
    check_record(&f, "shared node-a");
    fixture_clear(&f);
}

static void a_local_one_does_not_push_a_shared_one_aside(void **state)
{
    struct fixture f;
    struct entry shared = make_entry(TIER_SHARED), local = make_entry(TIER_LOCAL);

    (void)state;
    fixture_init(&f);
    local.node = (char *)"node-b";
    tell(&f, INDEX_LOCAL, &local);
    check_record(&f, "local node-b");
    tell(&f, INDEX_SHARED, &shared);
    tell(&f, INDEX_LOCAL, &local);
    tell(&f, INDEX_STILL, &local);
    tell(&f, INDEX_LEFT, &local);
    check_record(&f, "shared node-a");
    fixture_clear(&f);
}

static void who_has_the_newest_copy_is_named_and_takes_back_only_its_own_word(void **state)
{
    struct fixture f;
    struct entry a = make_entry(TIER_LOCAL), b = make_entry(TIER_LOCAL);

    (void)state;
    fixture_init(&f);
    b.node = (char *)"node-b";
    tell(&f, INDEX_LOCAL, &a);
    tell(&f, INDEX_LOCAL, &b);
    check_record(&f, "local node-b");
    tell(&f, INDEX_LEFT, &a);
    check_record(&f, "local node-b");
    tell(&f, INDEX_LEFT, &b);
    check_record(&f, "none");
    fixture_clear(&f);
}

static void what_is_told_again_takes_the_place_of_a_dead_node_only(void **state)
{
    struct fixture f;
    struct entry a = make_entry(TIER_LOCAL), b = make_entry(TIER_LOCAL);

    (void)state;
    fixture_init(&f);
    b.node = (char *)"node-b";
    tell(&f, INDEX_STILL, &a);
    check_record(&f, "local node-a");
    node_lives(&f, "node-a", "");
    tell(&f, INDEX_STILL, &b);
    check_record(&f, "local node-a");
    node_dies(&f, "node-a");
    tell(&f, INDEX_STILL, &b);
    check_record(&f, "local node-b");
    fixture_clear(&f);
}

static void many_are_told_in_one_round_trip(void **state)
{
    struct index_note notes[SHARED_INDEX_NOTES_MAX];
    struct fixture f;
    struct redis_counts before, after;
    struct entry long_one = make_entry(TIER_SHARED), out;
    char *text = xcalloc(1, SHARED_INDEX_TEXT_MAX + 2);
    struct err err;

    (void)state;
    fixture_init(&f);
    memset(text, 'x', SHARED_INDEX_TEXT_MAX + 1);
    long_one.ref = text;
    for (size_t i = 0; i < SHARED_INDEX_NOTES_MAX; i++) {
        notes[i] = (struct index_note){.change = INDEX_LOCAL, .entry = make_entry(TIER_LOCAL)};
        key_of(&i, sizeof(i), &notes[i].key);
        notes[i].entry.commit = (char *)"cccccccccccccccccccccccccccccccccccccccc";
        notes[i].entry.accesses = i;
    }
    notes[1].entry = long_one;              /* is left out, and disturbs nothing */
    tell(&f, INDEX_LOCAL, &notes[0].entry); /* the script is known from here on */
    redis_count(f.redis, &before);
    assert_int_equal(shared_index_tell(f.index, notes, SHARED_INDEX_NOTES_MAX, &err), 0);
    redis_count(f.redis, &after);
    assert_int_equal(after.asked, before.asked + 1);
    for (size_t i = 0; i < SHARED_INDEX_NOTES_MAX; i++) {
        int rc = shared_index_find(f.index, ENTRY_ANSWER, &notes[i].key, &out, &err);

        assert_int_equal(rc, i == 1 ? -1 : 0);
        assert_int_equal(out.accesses, i == 1 ? 0 : i);
        entry_clear(&out);
    }
    free(text);
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
    tell(&f, INDEX_SHARED, &e);
    assert_int_equal(shared_generation_raise(f.index, REPO, 5, &err), 0);
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

static void generations_only_rise_and_begin_anew_with_another_mirror(void **state)
{
    struct fixture f;
    uint64_t newest = 1;
    struct err err;

    (void)state;
    fixture_init(&f);
    assert_int_equal(shared_generation_get(f.index, REPO, &newest, &err), 0);
    assert_int_equal(newest, 0);
    assert_int_equal(shared_generation_raise(f.index, REPO, 7, &err), 0);
    assert_int_equal(shared_generation_raise(f.index, REPO, 6, &err), 0);
    assert_int_equal(shared_generation_get(f.index, REPO, &newest, &err), 0);
    assert_int_equal(newest, 7);
    assert_int_equal(shared_generation_forget(f.index, REPO, &err), 0);
    assert_int_equal(shared_generation_raise(f.index, REPO, 1, &err), 0);
    assert_int_equal(shared_generation_get(f.index, REPO, &newest, &err), 0);
    assert_int_equal(newest, 1);
    fixture_clear(&f);
}

/* ---- where is it? ---- */

static const struct filler a_node = {"a", "10.0.0.1:90", TTL_MS};
static const struct filler b_node = {"b", "10.0.0.2:90", TTL_MS};

static enum sought seek(struct fixture *f, const struct filler *us, enum seek_mode mode,
                        struct seek_found *out)
{
    struct err err;

    if (filling_seek(f->redis, us, &f->key, mode, out, &err) != 0)
        fail_msg("%s", err.text);
    return out->sought;
}

static void one_node_fills_and_the_others_are_told_who(void **state)
{
    struct seek_found a, b;
    struct fixture f;

    (void)state;
    fixture_init(&f);
    node_lives(&f, "a", a_node.address);
    assert_int_equal(seek(&f, &b_node, SEEK_LOOK, &b), SOUGHT_NOTHING);
    assert_int_equal(seek(&f, &a_node, SEEK_OR_CLAIM, &a), SOUGHT_OURS);
    assert_true(a.filling.started_ms > 1600000000000);
    assert_int_equal(seek(&f, &b_node, SEEK_OR_CLAIM, &b), SOUGHT_THEIRS);
    assert_string_equal(b.filling.node, "a");
    assert_string_equal(b.filling.address, "10.0.0.1:90");
    assert_int_equal(b.filling.started_ms, a.filling.started_ms);
    assert_in_range(b.filling.left_ms, 1, TTL_MS);
    assert_true(filling_renew(f.redis, &a.filling, 2 * TTL_MS));
    assert_int_equal(seek(&f, &b_node, SEEK_LOOK, &b), SOUGHT_THEIRS);
    assert_in_range(b.filling.left_ms, TTL_MS, 2 * TTL_MS);
    filling_clear(f.redis, &a.filling);
    assert_int_equal(seek(&f, &b_node, SEEK_OR_CLAIM, &b), SOUGHT_OURS);
    /* Late, and no longer its own. */
    assert_false(filling_renew(f.redis, &a.filling, TTL_MS));
    filling_clear(f.redis, &a.filling);
    node_lives(&f, "b", b_node.address);
    assert_int_equal(seek(&f, &a_node, SEEK_LOOK, &a), SOUGHT_THEIRS);
    assert_string_equal(a.filling.node, "b");
    filling_clear(f.redis, &b.filling);
    fixture_clear(&f);
}

static void who_is_dead_fills_nothing_nor_does_who_asks(void **state)
{
    struct seek_found first, again, other;
    struct fixture f;

    (void)state;
    fixture_init(&f);
    node_lives(&f, "a", a_node.address);
    assert_int_equal(seek(&f, &a_node, SEEK_OR_CLAIM, &first), SOUGHT_OURS);
    assert_int_equal(seek(&f, &a_node, SEEK_OR_CLAIM, &again), SOUGHT_OURS);
    assert_false(filling_renew(f.redis, &first.filling, TTL_MS));
    node_dies(&f, "a");
    assert_int_equal(seek(&f, &b_node, SEEK_LOOK, &other), SOUGHT_NOTHING);
    assert_int_equal(seek(&f, &b_node, SEEK_OR_CLAIM, &other), SOUGHT_OURS);
    assert_false(filling_renew(f.redis, &again.filling, TTL_MS));
    fixture_clear(&f);
}

static void a_claim_runs_out_by_itself(void **state)
{
    const struct filler brief = {"a", "10.0.0.1:90", 50};
    struct seek_found found;
    struct fixture f;

    (void)state;
    fixture_init(&f);
    node_lives(&f, "a", a_node.address);
    assert_int_equal(seek(&f, &brief, SEEK_OR_CLAIM, &found), SOUGHT_OURS);
    AWAIT(seek(&f, &b_node, SEEK_LOOK, &found) == SOUGHT_NOTHING);
    fixture_clear(&f);
}

static void one_round_trip_tells_of_the_shared_tier_and_claims_nothing_then(void **state)
{
    struct entry e = make_entry(TIER_SHARED);
    struct redis_counts before, after;
    struct seek_found found;
    struct fixture f;

    (void)state;
    fixture_init(&f);
    node_lives(&f, "node-a", "10.0.0.9:90");
    tell(&f, INDEX_SHARED, &e);
    assert_int_equal(seek(&f, &a_node, SEEK_LOOK, &found), SOUGHT_SHARED);
    redis_count(f.redis, &before);
    assert_int_equal(seek(&f, &a_node, SEEK_OR_CLAIM, &found), SOUGHT_SHARED);
    redis_count(f.redis, &after);
    assert_int_equal(after.asked, before.asked + 1);
    /* It can't be had there just now: it is ours, and who put it there may have it. */
    assert_int_equal(seek(&f, &a_node, SEEK_NOT_SHARED, &found), SOUGHT_OURS);
    assert_string_equal(found.holder, "node-a");
    assert_string_equal(found.address, "10.0.0.9:90");
    check_record(&f, "shared node-a");
    assert_int_equal(seek(&f, &a_node, SEEK_NOT_THERE, &found), SOUGHT_OURS);
    check_record(&f, "none");
    fixture_clear(&f);
}

static void one_round_trip_tells_who_has_it_on_its_disk(void **state)
{
    struct entry e = make_entry(TIER_LOCAL);
    struct seek_found found;
    struct fixture f;

    (void)state;
    fixture_init(&f);
    tell(&f, INDEX_LOCAL, &e);
    assert_int_equal(seek(&f, &a_node, SEEK_LOOK, &found), SOUGHT_NOTHING);
    assert_string_equal(found.holder, ""); /* it isn't alive */
    node_lives(&f, "node-a", "10.0.0.9:90");
    assert_int_equal(seek(&f, &a_node, SEEK_LOOK, &found), SOUGHT_NOTHING);
    assert_string_equal(found.holder, "node-a");
    assert_string_equal(found.address, "10.0.0.9:90");
    assert_int_equal(seek(&f, &a_node, SEEK_OR_CLAIM, &found), SOUGHT_OURS);
    assert_string_equal(found.holder, "node-a");
    e.node = (char *)"a";
    tell(&f, INDEX_LOCAL, &e);
    node_lives(&f, "a", a_node.address);
    assert_int_equal(seek(&f, &a_node, SEEK_OR_CLAIM, &found), SOUGHT_OURS);
    assert_string_equal(found.holder, ""); /* we have looked */
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
    struct seek_found found;
    struct fixture f;
    char hex[KEY_HEX_SIZE], *name;

    (void)state;
    fixture_init(&f);
    node_lives(&f, "a", a_node.address);
    key_to_hex(&f.key, hex);
    name = redis_key(f.redis, "filling:%s", hex);
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        free(real_redis_ask(f.redis, REDIS_WORDS("SET", name, values[i])));
        assert_int_equal(seek(&f, &b_node, SEEK_LOOK, &found), SOUGHT_NOTHING);
        assert_int_equal(seek(&f, &b_node, SEEK_OR_CLAIM, &found), SOUGHT_OURS);
    }
    free(name);
    fixture_clear(&f);
}

static void alone_everything_is_ours_and_nothing_is_known(void **state)
{
    struct shared_index *x = shared_index_new(NULL, TTL_S);
    struct index_note note = {.change = INDEX_SHARED, .entry = make_entry(TIER_SHARED)};
    struct seek_found found;
    struct entry out;
    uint64_t newest = 1;
    struct err err;

    (void)state;
    key_of("x", 1, &note.key);
    assert_int_equal(shared_index_tell(x, &note, 1, &err), 0);
    assert_int_equal(shared_index_find(x, ENTRY_ANSWER, &note.key, &out, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    assert_int_equal(shared_generation_raise(x, REPO, 1, &err), 0);
    assert_int_equal(shared_generation_get(x, REPO, &newest, &err), 0);
    assert_int_equal(newest, 0);
    assert_int_equal(shared_generation_forget(x, REPO, &err), 0);
    assert_int_equal(filling_seek(NULL, &a_node, &note.key, SEEK_LOOK, &found, &err), 0);
    assert_int_equal(found.sought, SOUGHT_NOTHING);
    assert_int_equal(filling_seek(NULL, &a_node, &note.key, SEEK_OR_CLAIM, &found, &err), 0);
    assert_int_equal(found.sought, SOUGHT_OURS);
    assert_true(filling_renew(NULL, &found.filling, TTL_MS));
    filling_clear(NULL, &found.filling);
    shared_index_free(&x);
}

/* ---- records: behind everybody's back ---- */

struct disk {
    struct key keys[2 * SHARED_INDEX_NOTES_MAX + 1];
    atomic_uint listed;
};

static void list_disk(void *ctx, struct records *r)
{
    struct disk *d = ctx;
    struct entry e = make_entry(TIER_LOCAL);

    e.node = NULL;
    for (size_t i = 0; i < ARRAY_LEN(d->keys); i++)
        if (records_again(r, &d->keys[i], &e) != 0)
            return;
    atomic_fetch_add(&d->listed, 1);
}

static bool is_known(struct fixture *f, const struct key *key)
{
    struct entry out;
    struct err err;
    bool known = shared_index_find(f->index, ENTRY_ANSWER, key, &out, &err) == 0;

    entry_clear(&out);
    return known;
}

static bool are_known(struct fixture *f, const struct disk *d)
{
    for (size_t i = 0; i < ARRAY_LEN(d->keys); i++)
        if (!is_known(f, &d->keys[i]))
            return false;
    return true;
}

static void
what_lies_here_is_told_when_redis_comes_up_and_again_when_it_comes_back_empty(void **state)
{
    struct disk disk = {.listed = 0};
    struct records_config config = {.node = "a", .list = list_disk, .ctx = &disk};
    struct fixture f = {0};
    struct records *records;
    struct entry e = make_entry(TIER_LOCAL), out;
    struct records_counts counts;
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(disk.keys); i++)
        key_of(&i, sizeof(i), &disk.keys[i]);
    real_redis_init(&f.server, NULL);
    f.redis = real_redis_open(f.server.unix_url);
    f.index = shared_index_new(f.redis, TTL_S);
    key_of("x", 1, &f.key);
    e.node = NULL;
    records = records_new(f.redis, f.index, &config);
    records_tell(records, INDEX_LOCAL, &f.key, &e); /* Redis isn't there yet */
    records_count(records, &counts);
    assert_int_equal(counts.dropped, 1);
    real_redis_connect(f.redis);
    AWAIT(are_known(&f, &disk));
    assert_int_equal(shared_index_find(f.index, ENTRY_ANSWER, &disk.keys[0], &out, &err), 0);
    assert_string_equal(out.node, "a");
    entry_clear(&out);
    records_tell(records, INDEX_LOCAL, &f.key, &e);
    AWAIT(is_known(&f, &f.key));
    records_tell(records, INDEX_LEFT, &f.key, &e);
    AWAIT(!is_known(&f, &f.key));
    real_redis_restart_empty(&f.server);
    AWAIT(are_known(&f, &disk));
    AWAIT(atomic_load(&disk.listed) == 2);
    redis_stop(f.redis);
    records_free(&records);
    fixture_clear(&f);
}

static void records_that_are_not_told_end_with_their_node(void **state)
{
    struct records_config config = {.node = "a"};
    struct entry e = make_entry(TIER_LOCAL);
    struct fixture f;
    struct records *records;

    (void)state;
    fixture_init(&f);
    redis_stop(f.redis);
    records = records_new(NULL, f.index, &config);
    records_tell(records, INDEX_LOCAL, &f.key, &e);
    records_stop(records);
    records_free(&records);
    fixture_clear(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_entry_is_found_as_it_was_put),
        cmocka_unit_test(a_use_of_what_redis_has_lost_is_told_anew),
        cmocka_unit_test(a_local_one_does_not_push_a_shared_one_aside),
        cmocka_unit_test(who_has_the_newest_copy_is_named_and_takes_back_only_its_own_word),
        cmocka_unit_test(what_is_told_again_takes_the_place_of_a_dead_node_only),
        cmocka_unit_test(many_are_told_in_one_round_trip),
        cmocka_unit_test(everything_runs_out_by_itself),
        cmocka_unit_test(a_record_that_is_damaged_is_none),
        cmocka_unit_test(generations_only_rise_and_begin_anew_with_another_mirror),
        cmocka_unit_test(one_node_fills_and_the_others_are_told_who),
        cmocka_unit_test(who_is_dead_fills_nothing_nor_does_who_asks),
        cmocka_unit_test(a_claim_runs_out_by_itself),
        cmocka_unit_test(one_round_trip_tells_of_the_shared_tier_and_claims_nothing_then),
        cmocka_unit_test(one_round_trip_tells_who_has_it_on_its_disk),
        cmocka_unit_test(what_redis_says_of_a_filler_may_be_nonsense),
        cmocka_unit_test(alone_everything_is_ours_and_nothing_is_known),
        cmocka_unit_test(
            what_lies_here_is_told_when_redis_comes_up_and_again_when_it_comes_back_empty),
        cmocka_unit_test(records_that_are_not_told_end_with_their_node),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
