/* Mirrors of two nodes and what they have in common in an object store.  Most tests have a store of
 * files; with PANNIER_TEST_S3 (s3_words.h) some run against that server, too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cache/shared/shared_remove.h"
#include "real_redis.h"
#include "two_nodes.h"

/* ---- round-trips ---- */

static void a_mirror_goes_up_and_comes_down_whole(void **state)
{
    struct bench *b = bench_of(state);
    struct ticks ticks = {0};
    struct shared_mirror_got got;
    struct shared_mirror_sent sent;
    struct err err;
    int rc;

    make_whole(&b->a.f);
    assert_false(store_has(b));
    assert_false(store_has_all(b, &b->a));
    sent = put(b, &b->a);
    assert_true(sent.files >= 2);
    assert_int_equal(sent.files, files_there(b));
    assert_int_equal(sent.generation, 1);
    assert_true(store_has(b));
    assert_true(store_has_all(b, &b->a));
    mirror_write_begin(b->b.f.mirror);
    rc = shared_mirror_restore(b->store, NULL, b->b.f.mirror, &b->repo_id, on_tick, &ticks, &got,
                               &err);
    mirror_write_end(b->b.f.mirror);
    assert_int_equal(rc, 0);
    assert_int_equal(got.files, sent.files);
    assert_int_equal(got.bytes, sent.bytes);
    assert_int_equal(got.generation, 1);
    assert_true(ticks.count >= got.files);
    assert_int_equal(ticks.done, ticks.total);
    is_sound(&b->b);
    is_an_entry(&b->b);
    clone_is_sound(&b->b, "main");
    assert_true(has(&b->b.f, "v1"));
    /* It is a mirror like any other, also after a start. */
    close_node(&b->b);
    open_node(&b->b);
    is_sound(&b->b);
    assert_int_equal(put(b, &b->b).bytes, 0);
}

static void what_upkeep_has_made_comes_down_with_it(void **state)
{
    struct bench *b = bench_of(state);

    make_old(&b->a);
    keep_up(&b->a);
    assert_int_equal(count_files(&b->a, "pack", ".bitmap"), 1);
    put(b, &b->a);
    restore(b, &b->b);
    assert_int_equal(count_files(&b->b, "pack", ".bitmap"), 1);
    assert_int_equal(count_files(&b->b, "pack", "multi-pack-index"), 1);
    assert_int_equal(count_files(&b->b, "info", "commit-graph"), 1);
    assert_int_equal(count_packs(&b->b), count_packs(&b->a));
    assert_int_equal(count_files(&b->b, "pack", ".rev"), count_files(&b->a, "pack", ".rev"));
    assert_false(needs_upkeep(&b->b));
    is_sound(&b->b);
    clone_is_sound(&b->b, "main~7");
}

static void files_that_compress_travel_as_frames(void **state)
{
    struct bench *b = bench_of(state);
    struct shared_mirror_put_options options = {.node = "a", .compression = COMPRESSION_ON};
    struct shared_mirror_sent sent;
    struct bytes keys;
    size_t frames = 0;
    struct err err;

    make_old(&b->a);
    keep_up(&b->a);
    assert_int_equal(put_with(b, &b->a, &options, &sent, &err), 0);
    list_keys(b->watched.inner, "mirrors/", &keys);
    for (size_t at = 0; at < keys.len; at += strlen(keys.data + at) + 1)
        frames += strstr(keys.data + at, ".zst") != NULL;
    assert_true(frames > 0);
    bytes_clear(&keys);
    restore(b, &b->b);
    is_sound(&b->b);
    is_an_entry(&b->b);
    assert_false(needs_upkeep(&b->b));
}

static void nothing_travels_twice(void **state)
{
    struct bench *b = bench_of(state);
    struct shared_mirror_sent first, again, more;

    fill(&b->a.f, "main~1\n", false, "main~1");
    first = put(b, &b->a);
    again = put(b, &b->a);
    assert_int_equal(again.bytes, 0);
    assert_int_equal(again.files, 0);
    assert_int_equal(again.generation, 1);
    fetch_often(&b->a, 1, 0);
    assert_false(store_has_all(b, &b->a));
    more = put(b, &b->a);
    assert_int_equal(more.generation, 2);
    assert_true(more.files >= 2 && more.files <= 3); /* pack, idx, rev */
    assert_true(more.bytes < first.bytes / 8);
    restore(b, &b->b);
    assert_int_equal(count_packs(&b->b), 2);
    clone_is_sound(&b->b, "main");
}

static void a_put_after_upkeep_brings_what_is_new(void **state)
{
    struct bench *b = bench_of(state);
    struct manifest m;

    make_old(&b->a);
    put(b, &b->a);
    keep_up(&b->a);
    assert_true(put(b, &b->a).bytes > 0);
    read_manifest(b, &m);
    assert_int_equal(m.generation, 2);
    assert_int_equal(m.packs_count, count_packs(&b->a));
    assert_int_equal(m.indexed, m.packs_count);
    assert_true(m.midx_bitmap.size > 0 && m.commit_graph.size > 0);
    manifest_clear(&m);
    assert_int_equal(put(b, &b->a).bytes, 0);
}

/* ---- nodes ---- */

static void nodes_with_other_packs_of_the_same_converge(void **state)
{
    struct bench *b = bench_of(state);

    fill(&b->a.f, "main\n", false, "main");
    make_old(&b->b);
    assert_int_equal(put(b, &b->b).generation, 1);
    /* One pack rather than thirteen is better kept. */
    assert_int_equal(put(b, &b->a).generation, 2);
    assert_int_equal(put(b, &b->b).bytes, 0);
    keep_up(&b->b); /* a bitmap */
    assert_int_equal(put(b, &b->b).generation, 3);
    assert_int_equal(put(b, &b->a).bytes, 0);
    assert_int_equal(put(b, &b->b).bytes, 0);
    assert_true(store_has_all(b, &b->a) && store_has_all(b, &b->b));
}

static void tips_that_a_node_lacks_stay(void **state)
{
    struct bench *b = bench_of(state);
    struct manifest m;
    struct node c = {.local = NULL};

    make_side_branch();
    fill(&b->a.f, "main\n", false, "main");
    fill(&b->b.f, "side\n", false, "side");
    put(b, &b->a);
    assert_int_equal(put(b, &b->b).generation, 2);
    read_manifest(b, &m);
    assert_string_equal(m.node, "b");
    assert_int_equal(m.packs_count, 2);
    assert_int_equal(m.tips_count, 2);
    manifest_clear(&m);
    assert_int_equal(put(b, &b->a).bytes, 0);
    assert_int_equal(put(b, &b->b).bytes, 0);
    make_node(&c, BIG);
    restore(b, &c);
    is_sound(&c);
    clone_is_sound(&c, "main");
    clone_is_sound(&c, "side");
    remove_node(&c);
}

/* Its upload may have begun before the invalidation, and ended behind it: neither does it come
 * down, nor do its packs stay beside those of the next one. */
static void one_that_was_put_too_late_is_not_there(void **state)
{
    struct bench *b = bench_of(state);
    struct cutoffs *cutoffs = cutoffs_new();
    struct shared_mirror_put_options options = options_of(b, &b->a);
    struct shared_mirror_got got;
    struct shared_mirror_sent sent;
    struct manifest m;
    struct err err;
    bool has;

    make_side_branch();
    fill(&b->a.f, "main\n", false, "main");
    options.applied = "1000-7";
    assert_int_equal(put_with(b, &b->a, &options, &sent, &err), 0);
    read_manifest(b, &m);
    assert_string_equal(m.applied, "1000-7");
    manifest_clear(&m);
    cutoffs_note(cutoffs, &b->repo_id, "1000-8");
    assert_int_equal(shared_mirror_has_all(b->store, cutoffs, b->a.f.mirror, &has, &err), 0);
    assert_false(has);
    fill(&b->b.f, "side\n", false, "side");
    options = options_of(b, &b->b);
    options.applied = "1000-8";
    options.cutoffs = cutoffs;
    assert_int_equal(put_with(b, &b->b, &options, &sent, &err), 0);
    read_manifest(b, &m);
    assert_string_equal(m.node, "b");
    assert_string_equal(m.applied, "1000-8");
    assert_int_equal(m.generation, 2); /* nodes know of the first */
    assert_int_equal(m.tips_count, 1);
    assert_int_equal(m.packs_count, 1);
    manifest_clear(&m);
    assert_int_equal(shared_mirror_has_all(b->store, cutoffs, b->b.f.mirror, &has, &err), 0);
    assert_true(has);
    cutoffs_note(cutoffs, &b->repo_id, "1000-9");
    remove_node(&b->b);
    make_node(&b->b, BIG);
    mirror_write_begin(b->b.f.mirror);
    assert_int_equal(shared_mirror_restore(b->store, cutoffs, b->b.f.mirror, &b->repo_id, NULL,
                                           NULL, &got, &err),
                     -1);
    mirror_write_end(b->b.f.mirror);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    assert_false(store_has(b));
    assert_true(got.removed);
    cutoffs_free(&cutoffs);
}

/* It was away, or has just started, and its mirror may be from before an invalidation: neither does
 * it go over one from behind that, nor to where there is none. */
static void one_of_a_node_that_has_heard_of_less_does_not_go_up(void **state)
{
    struct bench *b = bench_of(state);
    struct cutoffs *cutoffs = cutoffs_new();
    struct shared_mirror_put_options options = options_of(b, &b->b);
    struct shared_mirror_sent sent;
    struct manifest m;
    struct err err;

    make_side_branch();
    fill(&b->a.f, "main\n", false, "main");
    fill(&b->b.f, "side\n", false, "side");
    cutoffs_note(cutoffs, &b->repo_id, "1000-8");
    options.cutoffs = cutoffs;
    options.applied = "1000-7";
    assert_int_equal(put_with(b, &b->b, &options, &sent, &err), -1);
    assert_int_equal(err.kind, ERR_BUSY);
    assert_string_equal(sent.needed, "1000-8");
    assert_int_equal(sent.files, 0);
    assert_false(store_has(b));
    options = options_of(b, &b->a);
    options.applied = "1000-9";
    assert_int_equal(put_with(b, &b->a, &options, &sent, &err), 0);
    assert_string_equal(sent.needed, "");
    /* Nor when it knows of no invalidation. */
    options = options_of(b, &b->b);
    options.applied = "1000-8";
    assert_int_equal(put_with(b, &b->b, &options, &sent, &err), -1);
    assert_int_equal(err.kind, ERR_BUSY);
    assert_string_equal(sent.needed, "1000-9");
    read_manifest(b, &m);
    assert_string_equal(m.node, "a");
    assert_string_equal(m.applied, "1000-9");
    manifest_clear(&m);
    options.applied = "1000-9";
    options.cutoffs = cutoffs;
    assert_int_equal(put_with(b, &b->b, &options, &sent, &err), 0);
    assert_int_equal(sent.generation, 2);
    cutoffs_free(&cutoffs);
}

struct invalidating {
    struct bench *bench;
    struct cutoffs *cutoffs;
    uint64_t at; /* when so much has come; then none of the events is left */
};

static int invalidate_at(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
    struct invalidating *i = ctx;

    (void)total;
    (void)err;
    if (done >= i->at)
        cutoffs_note(i->cutoffs, &i->bench->repo_id, "1000-8");
    return 0;
}

static void one_that_is_invalidated_while_it_comes_is_not_made(void **state)
{
    struct bench *b = bench_of(state);
    struct shared_mirror_put_options options = options_of(b, &b->a);
    struct shared_mirror_sent sent;
    struct shared_mirror_got got;
    struct manifest m;
    struct err err;
    uint64_t last;

    make_whole(&b->a.f);
    options.applied = "1000-7";
    assert_int_equal(put_with(b, &b->a, &options, &sent, &err), 0);
    read_manifest(b, &m);
    last = manifest_stored_bytes(&m);
    manifest_clear(&m);
    for (int i = 0; i < 2; i++) {
        struct invalidating invalidating = {b, cutoffs_new(), i == 0 ? 1 : last};

        if (i > 0)
            assert_int_equal(put_with(b, &b->a, &options, &sent, &err), 0);
        mirror_write_begin(b->b.f.mirror);
        assert_int_equal(shared_mirror_restore(b->store, invalidating.cutoffs, b->b.f.mirror,
                                               &b->repo_id, invalidate_at, &invalidating, &got,
                                               &err),
                         -1);
        mirror_write_end(b->b.f.mirror);
        assert_int_equal(err.kind, ERR_CANCELLED);
        assert_false(mirror_ready(b->b.f.mirror));
        assert_true(got.removed);
        assert_false(store_has(b));
        cutoffs_free(&invalidating.cutoffs);
    }
}

static void packs_of_others_that_are_too_large_do_not_stay(void **state)
{
    struct bench *b = bench_of(state);
    struct manifest m;

    fill(&b->a.f, "main\n", false, "main");
    fill(&b->b.f, "main~30\n", false, "main~30");
    put(b, &b->a);
    /* Less than what is there is nothing new. */
    assert_int_equal(put(b, &b->b).generation, 2);
    read_manifest(b, &m);
    assert_int_equal(m.packs_count, 1);
    assert_int_equal(m.tips_count, 1);
    manifest_clear(&m);
    assert_int_equal(put(b, &b->a).generation, 3);
    read_manifest(b, &m);
    assert_int_equal(m.packs_count, 1); /* all of which b has told */
    manifest_clear(&m);
}

/* ---- what happens meanwhile ---- */

static int keep_up_before_the_first_file(void *ctx, enum watched_call call, const char *key,
                                         struct err *err)
{
    struct bench *b = ctx;

    (void)err;
    if (call == WATCHED_PUT && !is_manifest(key) && !b->seen) {
        b->seen = true;
        keep_up(&b->a);
        fill(&b->a.f, "v1\n^main\n", true, "v1");
    }
    return 0;
}

static void upkeep_and_fetches_go_on_during_a_put(void **state)
{
    struct bench *b = bench_of(state);
    struct manifest m;

    make_old(&b->a);
    b->watched.before = keep_up_before_the_first_file;
    put(b, &b->a);
    assert_true(b->seen);
    read_manifest(b, &m);
    assert_int_equal(m.packs_count, 13); /* of then */
    manifest_clear(&m);
    assert_true(count_packs(&b->a) < 13); /* the old ones went when the put was over */
    restore(b, &b->b);
    is_sound(&b->b);
    assert_false(has(&b->b.f, "v1"));
    put(b, &b->a);
    assert_true(store_has_all(b, &b->a));
}

static int evict_before_the_second_file(void *ctx, enum watched_call call, const char *key,
                                        struct err *err)
{
    struct bench *b = ctx;

    if (call == WATCHED_PUT && !is_manifest(key) && b->at++ == 1)
        assert_int_equal(local_remove(b->a.local, MIRROR_PATH, err), 0);
    return 0;
}

static void one_that_is_removed_during_a_put_goes(void **state)
{
    struct bench *b = bench_of(state);
    struct err err;

    make_old(&b->a);
    b->watched.before = evict_before_the_second_file;
    assert_int_equal(try_put(b, &b->a, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    assert_false(exists(b->a.f.path));
    assert_false(store_has(b));
    assert_int_equal(try_put(b, &b->a, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    assert_int_equal(shared_mirror_has_all(b->store, NULL, b->a.f.mirror, &b->seen, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
}

static void one_that_was_found_damaged_during_a_put_is_gone(void **state)
{
    struct bench *b = bench_of(state);
    struct err err;

    make_whole(&b->a.f);
    put(b, &b->a);
    mirror_drop_damaged(b->a.f.mirror, &(struct err){.kind = ERR_CORRUPT});
    assert_int_equal(try_put(b, &b->a, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
}

/* ---- conflicts ---- */

static int b_is_first(void *ctx, enum watched_call call, const char *key, struct err *err)
{
    struct bench *b = ctx;

    if (call == WATCHED_PUT && is_manifest(key) && !b->seen) {
        b->seen = true;
        assert_int_equal(try_put(b, &b->b, err), 0);
    }
    return 0;
}

static void the_second_of_two_puts_at_once_keeps_the_first(void **state)
{
    struct bench *b = bench_of(state);
    struct shared_mirror_put_options options = {.node = "a"};
    struct shared_mirror_sent sent;
    struct manifest m;
    struct err err;

    make_side_branch();
    fill(&b->a.f, "main\n", false, "main");
    fill(&b->b.f, "side\n", false, "side");
    b->watched.before = b_is_first;
    assert_int_equal(put_with(b, &b->a, &options, &sent, &err), 0);
    assert_int_equal(sent.generation, 2);
    assert_true(sent.files <= 3); /* none of them twice */
    read_manifest(b, &m);
    assert_string_equal(m.node, "a");
    assert_int_equal(m.tips_count, 2);
    manifest_clear(&m);
}

static void a_store_without_conditions_is_looked_at_last(void **state)
{
    struct bench *b = bench_of(state);

    make_side_branch();
    fill(&b->a.f, "main\n", false, "main");
    put(b, &b->a);
    assert_int_equal(put(b, &b->a).bytes, 0);
    restore(b, &b->b);
    is_sound(&b->b);
    fill(&b->b.f, "side\n^main\n", true, "side");
    assert_int_equal(put(b, &b->b).generation, 2);
}

/* Between the reading and the last look of a, b puts its own. */
static int b_is_first_at_the_last_look(void *ctx, enum watched_call call, const char *key,
                                       struct err *err)
{
    struct bench *b = ctx;

    if (call == WATCHED_HEAD && is_manifest(key) && !b->seen) {
        b->seen = true;
        assert_int_equal(try_put(b, &b->b, err), 0);
    }
    return 0;
}

static void what_came_before_the_last_look_is_kept(void **state)
{
    struct bench *b = bench_of(state);
    struct manifest m;
    struct err err;

    make_side_branch();
    fill(&b->a.f, "main\n", false, "main");
    fill(&b->b.f, "side\n", false, "side");
    b->watched.before = b_is_first_at_the_last_look;
    assert_int_equal(try_put(b, &b->a, &err), 0);
    read_manifest(b, &m);
    assert_int_equal(m.tips_count, 2);
    assert_int_equal(m.generation, 2);
    manifest_clear(&m);
}

static int somebody_is_always_first(void *ctx, enum watched_call call, const char *key,
                                    struct err *err)
{
    (void)ctx;
    return call == WATCHED_PUT && is_manifest(key) ? err_set(err, ERR_CONFLICT, "not you") : 0;
}

static void who_is_never_first_gives_up(void **state)
{
    struct bench *b = bench_of(state);
    struct err err;

    make_whole(&b->a.f);
    b->watched.before = somebody_is_always_first;
    assert_int_equal(try_put(b, &b->a, &err), -1);
    assert_int_equal(err.kind, ERR_CONFLICT);
    assert_true(b->watched.calls[WATCHED_GET] > 2);
    assert_int_equal(b->watched.calls[WATCHED_PUT], files_there(b) + b->watched.calls[WATCHED_GET]);
}

static void a_newer_lease_wins(void **state)
{
    struct bench *b = bench_of(state);
    struct shared_mirror_put_options newer = {.node = "a", .fence = 7}, older = newer;
    struct shared_mirror_sent sent;
    struct err err;

    older.fence = 6;
    fill(&b->a.f, "main~1\n", false, "main~1");
    assert_int_equal(put_with(b, &b->a, &newer, &sent, &err), 0);
    fetch_often(&b->a, 1, 0);
    assert_int_equal(put_with(b, &b->a, &older, &sent, &err), -1);
    assert_int_equal(err.kind, ERR_CONFLICT);
    assert_int_equal(sent.bytes, 0);
    assert_int_equal(put_with(b, &b->a, &newer, &sent, &err), 0);
}

/* ---- ends in the middle ---- */

static int fail_the_nth_put(void *ctx, enum watched_call call, const char *key, struct err *err)
{
    struct bench *b = ctx;

    (void)key;
    return call == WATCHED_PUT && b->at++ == b->skips ? err_set(err, ERR_UPSTREAM, "gone") : 0;
}

/* It is lost behind the back of who holds it; a store may know no conditions that would say so. */
static void who_has_lost_the_lease_publishes_nothing(void **state)
{
    struct bench *b = bench_of(state);
    struct shared_mirror_put_options options = options_of(b, &b->a);
    struct shared_mirror_sent sent;
    struct real_redis server;
    struct redis *redis;
    struct leases *leases;
    struct lease *lease = NULL;
    struct err err;

    real_redis_init(&server, NULL);
    redis = real_redis_open(server.unix_url);
    leases = leases_new(redis, "a", 400);
    real_redis_connect(redis);
    assert_int_equal(leases_take(leases, "repo:x", 0, &lease, &err), 0);
    options.lease = lease;
    real_redis_kill(&server);
    AWAIT(!lease_held(lease, now_ms()));
    make_whole(&b->a.f);
    assert_int_equal(put_with(b, &b->a, &options, &sent, &err), -1);
    assert_int_equal(err.kind, ERR_BUSY);
    assert_false(store_has(b));
    lease_release(&lease);
    redis_stop(redis);
    leases_free(&leases);
    redis_free(&redis);
    real_redis_clear(&server);
}

static void a_put_that_ends_in_the_middle_publishes_nothing(void **state)
{
    struct bench *b = bench_of(state);
    struct err err;

    make_old(&b->a);
    b->watched.before = fail_the_nth_put;
    for (b->at = 0; try_put(b, &b->a, &err) != 0; b->at = 0, b->skips += 7) {
        assert_int_equal(err.kind, ERR_UPSTREAM);
        assert_false(store_has(b));
    }
    assert_true(b->skips > 13);
    restore(b, &b->b);
    is_sound(&b->b);
}

static void a_put_stops_when_it_is_told_to(void **state)
{
    struct bench *b = bench_of(state);
    atomic_bool stop = true;
    struct shared_mirror_put_options options = {.node = "a", .stop = &stop};
    struct shared_mirror_sent sent;
    struct err err;

    make_whole(&b->a.f);
    assert_int_equal(put_with(b, &b->a, &options, &sent, &err), -1);
    assert_int_equal(err.kind, ERR_CANCELLED);
    assert_int_equal(sent.files, 0);
}

static int die_at_the_nth_get(void *ctx, enum watched_call call, const char *key, struct err *err)
{
    struct bench *b = ctx;

    (void)key;
    (void)err;
    if (call == WATCHED_GET && b->at++ == b->skips)
        raise(SIGKILL);
    return 0;
}

/* A child that restores into b's folder, and is killed; true when it came to its end first. */
static bool restore_and_die(struct bench *b)
{
    struct err err;
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        open_node(&b->b);
        b->watched.before = die_at_the_nth_get;
        _exit(try_restore(b, &b->b, &err) != 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    return !WIFSIGNALED(status);
}

static void a_kill_in_the_middle_of_a_restore_leaves_no_mirror(void **state)
{
    struct bench *b = bench_of(state);
    bool over;

    make_old(&b->a);
    put(b, &b->a);
    do {
        close_node(&b->b);
        over = restore_and_die(b);
        open_node(&b->b);
        assert_int_equal(mirror_ready(b->b.f.mirror), over);
        b->skips += 9;
    } while (!over);
    assert_true(b->skips > 20);
    is_sound(&b->b);
}

static void a_restore_that_nobody_wants_any_more_leaves_nothing(void **state)
{
    struct bench *b = bench_of(state);
    struct ticks ticks = {.give_up_at = 2};
    struct shared_mirror_got got;
    struct err err;

    make_whole(&b->a.f);
    put(b, &b->a);
    mirror_write_begin(b->b.f.mirror);
    assert_int_equal(shared_mirror_restore(b->store, NULL, b->b.f.mirror, &b->repo_id, on_tick,
                                           &ticks, &got, &err),
                     -1);
    mirror_write_end(b->b.f.mirror);
    /* Whatever tick says is no word of the store's. */
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    assert_string_equal(err.text, "nobody wants it");
    assert_int_equal(ticks.count, 2);
    assert_true(store_has(b));
    assert_false(exists(b->b.f.path));
    restore(b, &b->b);
}

static int wait_for_a_second(void *ctx, const void *data, size_t len, struct err *err)
{
    struct bench *b = ctx;
    uint64_t begun = now_ms();

    (void)data;
    (void)len;
    (void)err;
    while (b->at < 3 && now_ms() - begun < 1001)
        sched_yield();
    b->at++;
    return 0;
}

static void a_long_file_ticks(void **state)
{
    struct bench *b = bench_of(state);
    struct ticks ticks = {0};
    struct shared_mirror_got got;
    struct err err;

    make_whole(&b->a.f);
    put(b, &b->a);
    b->watched.on_piece = wait_for_a_second; /* the manifest, and the first file */
    mirror_write_begin(b->b.f.mirror);
    assert_int_equal(shared_mirror_restore(b->store, NULL, b->b.f.mirror, &b->repo_id, on_tick,
                                           &ticks, &got, &err),
                     0);
    mirror_write_end(b->b.f.mirror);
    assert_true(ticks.count > got.files);
}

/* When all is there, so that the next one is due while it is checked. */
static int wait_at_the_end(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
    struct ticks *t = ctx;
    uint64_t begun = now_ms();

    while (done == total && t->done != total && now_ms() - begun < 1001)
        sched_yield();
    return on_tick(ctx, done, total, err);
}

static void the_check_of_what_came_ticks(void **state)
{
    struct bench *b = bench_of(state);
    struct ticks ticks = {0};
    struct shared_mirror_got got;
    struct err err;

    make_whole(&b->a.f);
    ticks.give_up_at = put(b, &b->a).files + 1;
    mirror_write_begin(b->b.f.mirror);
    assert_int_equal(shared_mirror_restore(b->store, NULL, b->b.f.mirror, &b->repo_id,
                                           wait_at_the_end, &ticks, &got, &err),
                     -1);
    mirror_write_end(b->b.f.mirror);
    assert_string_equal(err.text, "nobody wants it");
    assert_int_equal(ticks.count, got.files + 1);
    assert_true(store_has(b));
    assert_false(exists(b->b.f.path));
    restore(b, &b->b);
}

/* ---- damage ---- */

static void a_damaged_file_is_put_anew(void **state)
{
    static const struct {
        enum manifest_part part;
        size_t cut, flip;
        bool longer;
    } cases[] = {
        {MANIFEST_PACK, 0, 100, false}, {MANIFEST_PACK, 1, 0, false}, {MANIFEST_PACK, 0, 0, true},
        {MANIFEST_IDX, 0, 1, false},    {MANIFEST_IDX, 20, 0, false}, {MANIFEST_IDX, 0, 30, false},
    };
    struct bench *b = bench_of(state);
    struct err err;

    make_whole(&b->a.f);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        /* As a frame, too. */
        struct shared_mirror_put_options options = {
            .node = "a", .compression = i % 2 == 0 ? COMPRESSION_OFF : COMPRESSION_ON};
        struct shared_mirror_sent sent;
        char *key;

        assert_int_equal(put_with(b, &b->a, &options, &sent, &err), 0);
        key = key_of_part(b, cases[i].part);
        change_object(b, key, cases[i].cut, cases[i].flip, cases[i].longer);
        assert_int_equal(try_restore(b, &b->b, &err), -1);
        assert_int_equal(err.kind, ERR_CORRUPT);
        assert_false(store_has(b));
        assert_int_equal(count_keys(b->watched.inner, key), 0);
        assert_false(exists(b->b.f.path));
        free(key);
    }
    put(b, &b->a);
    restore(b, &b->b);
    is_sound(&b->b);
}

static void a_file_that_is_missing_is_damage(void **state)
{
    struct bench *b = bench_of(state);
    struct err err;
    char *key;

    make_whole(&b->a.f);
    put(b, &b->a);
    key = key_of_part(b, MANIFEST_IDX);
    assert_int_equal(object_remove(b->watched.inner, key, &err), 0);
    free(key);
    assert_int_equal(try_restore(b, &b->b, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
    assert_false(store_has(b));
    assert_int_equal(try_restore(b, &b->b, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    put(b, &b->a);
    restore(b, &b->b);
}

/* Each file is whole, but the index is another pack's. */
static void files_that_do_not_belong_together_are_no_mirror(void **state)
{
    struct bench *b = bench_of(state);
    char key[OBJECT_KEY_MAX + 1];
    struct manifest m;
    struct manifest_file idx;
    struct bytes text;
    struct err err;

    fill(&b->a.f, "main~1\n", false, "main~1");
    fetch_often(&b->a, 1, 0);
    put(b, &b->a);
    read_manifest(b, &m);
    idx = m.packs[0].parts[MANIFEST_IDX];
    m.packs[0].parts[MANIFEST_IDX] = m.packs[1].parts[MANIFEST_IDX];
    m.packs[1].parts[MANIFEST_IDX] = idx;
    bytes_init(&text, MANIFEST_MAX);
    assert_int_equal(manifest_write(&m, &text, &err), 0);
    manifest_clear(&m);
    manifest_key(&b->repo_id, key);
    write_object(b->watched.inner, key, &text);
    assert_int_equal(try_restore(b, &b->b, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
    assert_false(store_has(b));
    assert_false(exists(b->b.f.path));
}

static void a_tip_that_is_in_no_pack_makes_no_mirror(void **state)
{
    struct bench *b = bench_of(state);
    char key[OBJECT_KEY_MAX + 1];
    struct manifest m;
    struct bytes text;
    struct err err;

    make_whole(&b->a.f);
    put(b, &b->a);
    read_manifest(b, &m);
    m.tips[0].oid.raw[0] ^= 1;
    bytes_init(&text, MANIFEST_MAX);
    assert_int_equal(manifest_write(&m, &text, &err), 0);
    manifest_clear(&m);
    manifest_key(&b->repo_id, key);
    write_object(b->watched.inner, key, &text);
    assert_int_equal(try_restore(b, &b->b, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
    assert_false(exists(b->b.f.path));
}

static void a_manifest_that_is_replaced_in_the_middle_is_read_again(void **state)
{
    struct bench *b = bench_of(state);
    struct manifest m;
    char key[OBJECT_KEY_MAX + 1];
    struct shared_mirror_got got;

    make_old(&b->a);
    put(b, &b->a);
    read_manifest(b, &m);
    manifest_file_key(&b->repo_id, &m.packs[12].parts[MANIFEST_PACK], key);
    manifest_clear(&m);
    b->key = xstrdup(key);
    b->watched.before = replace_in_the_middle;
    got = restore(b, &b->b);
    assert_true(b->seen);
    assert_int_equal(got.generation, 2);
    assert_int_equal(count_packs(&b->b), count_packs(&b->a));
    assert_int_equal(count_files(&b->b, "pack", ".idx"), count_packs(&b->a));
    is_sound(&b->b);
    is_an_entry(&b->b);
}

static void a_damaged_mirror_does_not_go_up(void **state)
{
    struct bench *b = bench_of(state);
    struct err err;
    char *file;

    make_whole(&b->a.f);
    file = pack_file(&b->a.f, ".pack");
    flip_byte(file, size_of(file) / 2);
    assert_int_equal(try_put(b, &b->a, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
    assert_int_equal(b->watched.calls[WATCHED_PUT], 0);
    assert_int_equal(truncate(file, 100), 0);
    assert_int_equal(try_put(b, &b->a, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(try_put(b, &b->a, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
    free(file);
}

static void a_damaged_manifest_is_replaced(void **state)
{
    struct bench *b = bench_of(state);
    char key[OBJECT_KEY_MAX + 1];
    struct err err;

    make_whole(&b->a.f);
    put(b, &b->a);
    manifest_key(&b->repo_id, key);
    change_object(b, key, 5, 0, false);
    assert_false(store_has_all(b, &b->a));
    assert_true(put(b, &b->a).bytes > 0);
    assert_true(store_has_all(b, &b->a));
    change_object(b, key, 0, 7, false);
    assert_int_equal(try_restore(b, &b->b, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
    assert_false(store_has(b));
}

static void what_a_newer_pannier_has_put_is_left_alone(void **state)
{
    static const char newer[] = "{\"version\":2}\n";
    struct bench *b = bench_of(state);
    char key[OBJECT_KEY_MAX + 1];
    struct bytes text;
    struct err err;

    make_whole(&b->a.f);
    manifest_key(&b->repo_id, key);
    bytes_init(&text, 100);
    assert_int_equal(bytes_add_str(&text, newer), 0);
    write_object(b->watched.inner, key, &text);
    assert_int_equal(try_put(b, &b->a, &err), -1);
    assert_int_equal(err.kind, ERR_REFUSED);
    assert_int_equal(try_restore(b, &b->b, &err), -1);
    assert_int_equal(err.kind, ERR_REFUSED);
    assert_int_equal(files_there(b), 0);
    read_object(b->watched.inner, key, &text);
    assert_string_equal(text.data, newer);
    bytes_clear(&text);
}

/* What can't be opened now is no damage, wherever descriptors run out: nothing leaves the store. */
static void a_want_of_descriptors_is_no_damage(void **state)
{
    struct bench *b = bench_of(state);
    struct shared_mirror_put_options options = options_of(b, &b->a);
    struct shared_mirror_sent sent;
    struct rlimit before;
    struct err err;
    rlim_t few = 0;
    int rc;

    make_old(&b->a);
    do {
        few_descriptors(few++, &before);
        rc = put_with(b, &b->a, &options, &sent, &err);
        descriptors_are_back(&before);
        empty_incoming(&b->a.f);
        if (rc != 0 && err.kind == ERR_CORRUPT)
            fail_msg("a put with %d descriptors: %s", (int)few - 1, err.text);
    } while (rc != 0);
    assert_true(few > 2);
    few = 0;
    do {
        few_descriptors(few++, &before);
        rc = try_restore(b, &b->b, &err);
        descriptors_are_back(&before);
        empty_incoming(&b->b.f);
        if (rc != 0 && err.kind == ERR_CORRUPT)
            fail_msg("a restore with %d descriptors: %s", (int)few - 1, err.text);
        assert_true(store_has(b));
    } while (rc != 0);
    assert_true(few > 2);
    is_sound(&b->b);
}

/* ---- what a restore needs ---- */

static void there_is_no_restore_of_nothing(void **state)
{
    struct bench *b = bench_of(state);
    struct err err;

    assert_int_equal(try_restore(b, &b->b, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    make_whole(&b->a.f);
    put(b, &b->a);
    assert_int_equal(try_restore(b, &b->a, &err), -1);
    assert_int_equal(err.kind, ERR_CONFLICT); /* it is there */
    is_sound(&b->a);
}

static void what_is_too_large_does_not_come_down(void **state)
{
    struct bench *b = bench_of(state);
    struct local_usage usage;
    struct node c = {.local = NULL};
    struct err err;

    make_whole(&b->a.f);
    put(b, &b->a);
    make_node(&c, SMALL);
    b->watched.calls[WATCHED_GET] = 0;
    assert_int_equal(try_restore(b, &c, &err), -1);
    assert_int_equal(err.kind, ERR_LIMIT);
    assert_int_equal(b->watched.calls[WATCHED_GET], 1); /* the manifest was enough */
    local_usage(c.local, &usage);
    assert_int_equal(usage.filling, 0);
    assert_false(exists(c.f.path));
    remove_node(&c);
    assert_true(store_has(b));
}

static void times_of_tips_come_down(void **state)
{
    struct bench *b = bench_of(state);
    struct manifest before, after;
    char *file = xasprintf("%s/pannier-tips", b->a.f.path), hex[65], *line;

    fill(&b->a.f, "main\n", false, "main");
    real_git_id(&upstream, "main", hex);
    line = xasprintf("%s 1000000000\n", hex);
    put_file(file, line, strlen(line));
    put(b, &b->a);
    read_manifest(b, &before);
    assert_int_equal(before.tips[0].wanted_s, 1000000000);
    manifest_clear(&before);
    restore(b, &b->b);
    clone_is_sound(&b->b, "main"); /* it is asked for now */
    assert_int_equal(put(b, &b->b).files, 0);
    read_manifest(b, &after);
    assert_int_equal(after.generation, 2);
    assert_true(after.tips[0].wanted_s > 1000000000);
    manifest_clear(&after);
    assert_int_equal(put(b, &b->b).bytes, 0);
    free(line);
    free(file);
}

static void tips_of_long_ago_do_not_stay(void **state)
{
    struct bench *b = bench_of(state);
    char *file = xasprintf("%s/pannier-tips", b->b.f.path), hex[65], *line;
    struct manifest m;

    make_side_branch();
    fill(&b->a.f, "main\n", false, "main");
    fill(&b->b.f, "side\n", false, "side");
    real_git_id(&upstream, "side", hex);
    line = xasprintf("%s 1000000000\n", hex);
    put_file(file, line, strlen(line));
    put(b, &b->b);
    put(b, &b->a);
    read_manifest(b, &m);
    assert_int_equal(m.packs_count, 1);
    assert_int_equal(m.tips_count, 1);
    manifest_clear(&m);
    free(line);
    free(file);
}

static void what_is_removed_leaves_nothing(void **state)
{
    struct bench *b = bench_of(state);
    struct shared_removed removed = {0};
    struct err err;

    make_old(&b->a);
    put(b, &b->a);
    keep_up(&b->a);
    put(b, &b->a);
    assert_true(files_there(b) > 26);
    assert_int_equal(shared_remove_mirror(b->store, &b->repo_id, NULL, &removed, &err), 0);
    assert_int_equal(count_keys(b->watched.inner, ""), 0);
    assert_int_equal(shared_remove_mirror(b->store, &b->repo_id, NULL, &removed, &err),
                     0); /* fine */
}

/* ---- threads ---- */

static void *fetch_on(void *ctx)
{
    struct fetcher *fetcher = ctx;

    for (int i = 0; i < FETCHES; i++)
        fetch_one(fetcher, i);
    keep_up(fetcher->node);
    atomic_store(&fetcher->over, true);
    return NULL;
}

static void puts_and_fetches_at_once(void **state)
{
    struct bench *b = bench_of(state);
    struct fetcher fetcher = {.over = false};
    pthread_t thread;
    struct err err;
    int rc = 0;

    fill(&b->a.f, "main~12\n", false, "main~12");
    prepare(&fetcher, &b->a);
    assert_int_equal(pthread_create(&thread, NULL, fetch_on, &fetcher), 0);
    while (rc == 0 && !atomic_load(&fetcher.over))
        rc = try_put(b, &b->a, &err);
    assert_int_equal(pthread_join(thread, NULL), 0);
    if (rc != 0)
        fail_msg("%s", err.text);
    assert_false(fetcher.failed);
    put(b, &b->a);
    assert_true(store_has_all(b, &b->a));
    restore(b, &b->b);
    is_sound(&b->b);
    clone_is_sound(&b->b, "main");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_mirror_goes_up_and_comes_down_whole),
        TEST(what_upkeep_has_made_comes_down_with_it),
        TEST(files_that_compress_travel_as_frames),
        TEST(nothing_travels_twice),
        TEST(a_put_after_upkeep_brings_what_is_new),
        TEST(nodes_with_other_packs_of_the_same_converge),
        TEST(tips_that_a_node_lacks_stay),
        TEST(one_that_was_put_too_late_is_not_there),
        TEST(one_of_a_node_that_has_heard_of_less_does_not_go_up),
        TEST(one_that_is_invalidated_while_it_comes_is_not_made),
        TEST(packs_of_others_that_are_too_large_do_not_stay),
        TEST(upkeep_and_fetches_go_on_during_a_put),
        TEST(one_that_is_removed_during_a_put_goes),
        TEST(one_that_was_found_damaged_during_a_put_is_gone),
        TEST(the_second_of_two_puts_at_once_keeps_the_first),
        TEST_PLAIN(a_store_without_conditions_is_looked_at_last),
        TEST_PLAIN(what_came_before_the_last_look_is_kept),
        TEST(who_is_never_first_gives_up),
        TEST(a_newer_lease_wins),
        TEST(who_has_lost_the_lease_publishes_nothing),
        TEST(a_put_that_ends_in_the_middle_publishes_nothing),
        TEST(a_put_stops_when_it_is_told_to),
        TEST(a_kill_in_the_middle_of_a_restore_leaves_no_mirror),
        TEST(a_restore_that_nobody_wants_any_more_leaves_nothing),
        TEST(a_long_file_ticks),
        TEST(the_check_of_what_came_ticks),
        TEST(a_damaged_file_is_put_anew),
        TEST(a_file_that_is_missing_is_damage),
        TEST(files_that_do_not_belong_together_are_no_mirror),
        TEST(a_tip_that_is_in_no_pack_makes_no_mirror),
        TEST(a_manifest_that_is_replaced_in_the_middle_is_read_again),
        TEST(a_damaged_mirror_does_not_go_up),
        TEST(a_damaged_manifest_is_replaced),
        TEST(a_want_of_descriptors_is_no_damage),
        TEST(what_a_newer_pannier_has_put_is_left_alone),
        TEST(there_is_no_restore_of_nothing),
        TEST(what_is_too_large_does_not_come_down),
        TEST(times_of_tips_come_down),
        TEST(tips_of_long_ago_do_not_stay),
        TEST(what_is_removed_leaves_nothing),
        TEST(puts_and_fetches_at_once),
        TEST_S3(a_mirror_goes_up_and_comes_down_whole),
        TEST_S3(what_upkeep_has_made_comes_down_with_it),
        TEST_S3(nothing_travels_twice),
        TEST_S3(tips_that_a_node_lacks_stay),
        TEST_S3(the_second_of_two_puts_at_once_keeps_the_first),
        TEST_S3(a_damaged_file_is_put_anew),
        TEST_S3(a_damaged_manifest_is_replaced),
        TEST_S3(a_manifest_that_is_replaced_in_the_middle_is_read_again),
        TEST_S3(what_is_removed_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, make_upstream, remove_upstream);
}
