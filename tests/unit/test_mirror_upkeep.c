#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <glob.h>
#include <time.h>

#include <cmocka.h>

#include "one_mirror.h"

enum { TTL_S = 30 * 24 * 3600, MEMORY = 64 << 20 };

static int64_t started_s;

static struct mirror_upkeep_options at(int64_t after_s)
{
    return (struct mirror_upkeep_options){
        .now_s = started_s + after_s, .unreachable_ttl_s = TTL_S, .memory = MEMORY};
}

static struct mirror_upkeep keep_up_at(struct fixture *f, int64_t after_s)
{
    struct mirror_upkeep_options options = at(after_s);
    struct mirror_upkeep done;
    struct err err;

    assert_int_equal(mirror_upkeep(f->mirror, &options, &done, &err), 0);
    assert_true(mirror_ready(f->mirror));
    return done;
}

static bool needs_at(struct fixture *f, int64_t after_s)
{
    struct mirror_upkeep_options options = at(after_s);

    return mirror_needs_upkeep(f->mirror, &options);
}

/* What it takes a while to have: every commit by a fetch of its own. */
static void fetch_often(struct fixture *f, int from, int to)
{
    for (int i = from; i > to; i--) {
        char *tip = xasprintf("main~%d", i - 1);
        char *revisions = xasprintf("main~%d\n^main~%d\n", i - 1, i);

        fill(f, revisions, true, tip);
        free(revisions);
        free(tip);
    }
}

static void make_old(struct fixture *f)
{
    fill(f, "main~12\n", false, "main~12");
    fetch_often(f, 12, 0);
    assert_true(mirror_ready(f->mirror));
}

/* A commit on main~5 that main doesn't reach, named side. */
static void make_side_branch(void)
{
    assert_int_equal(REAL_GIT(&upstream, NULL, "", 0, NULL, "sh", "-c",
                              "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org "
                              "GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org;"
                              "git branch -f side $(git commit-tree -p main~5 -m side "
                              "$(git mktree < /dev/null))"),
                     0);
}

static size_t count_files(const struct fixture *f, const char *folder, const char *end)
{
    char *path = xasprintf("%s/%s", f->path, folder);
    DIR *dir = opendir(path);
    struct dirent *d;
    size_t count = 0;

    assert_non_null(dir);
    while ((d = readdir(dir)) != NULL) {
        size_t len = strlen(d->d_name), n = strlen(end);

        count += len > n && strcmp(d->d_name + len - n, end) == 0;
    }
    closedir(dir);
    free(path);
    return count;
}

static size_t count_packs(const struct fixture *f)
{
    return count_files(f, "objects/pack", ".pack");
}

static size_t count_tips(const struct fixture *f)
{
    struct oid_list tips = {0};
    size_t count;

    mirror_tips(f->mirror, SIZE_MAX, &tips);
    count = tips.count;
    oid_list_clear(&tips);
    return count;
}

static void clone_is_right(const struct fixture *f, const char *want)
{
    struct fetch_request req = request(2, want);
    struct bytes pack;
    struct err err;

    assert_int_equal(serve(f, &req, NULL, NULL, &pack, &err), 0);
    assert_int_equal(count_objects(&pack, false), count_revisions(want));
    bytes_clear(&pack);
    request_clear(&req);
}

static void is_sound(struct fixture *f)
{
    struct err err;

    assert_true(mirror_ready(f->mirror));
    assert_int_equal(mirror_verify(f->mirror, &err), 0);
    assert_int_equal(mirrors_damaged(f->mirrors), 0);
}

/* ---- repacking ---- */

static void one_that_was_fetched_into_often_gets_few_packs_and_a_bitmap(void **state)
{
    struct fixture *f = *state;
    struct mirror_upkeep done;

    make_old(f);
    assert_int_equal(count_packs(f), 13);
    assert_true(needs_at(f, 0));
    done = keep_up_at(f, 0);
    assert_int_equal(done.packs_before, 13);
    assert_int_equal(done.packs_after, count_packs(f));
    assert_true(done.packs_after <= 6);
    assert_int_equal(done.tips_before, 13);
    assert_int_equal(done.tips_after, 1);
    assert_int_equal(count_tips(f), 1);
    assert_true(done.bitmap && done.commit_graph);
    assert_int_equal(count_files(f, "objects/pack", ".bitmap"), 1);
    assert_int_equal(count_files(f, "objects/info", "graph"), 1);
    assert_int_equal(count_files(f, "objects/pack", ".idx"), done.packs_after);
    assert_false(needs_at(f, 0));
    clone_is_right(f, "main");
    clone_is_right(f, "main~7");
    is_sound(f);
    restart(f);
    is_sound(f);
}

static void nothing_is_done_where_nothing_is_needed(void **state)
{
    struct fixture *f = *state;
    struct mirror_upkeep done;

    make_old(f);
    keep_up_at(f, 0);
    done = keep_up_at(f, 0);
    assert_int_equal(done.packs_before, 0);
    assert_false(done.bitmap);
}

static void there_is_no_upkeep_of_nothing(void **state)
{
    struct fixture *f = *state;
    struct mirror_upkeep_options options = at(0);
    struct mirror_upkeep done;
    struct err err;

    assert_false(needs_at(f, 0));
    assert_int_equal(mirror_upkeep(f->mirror, &options, &done, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
}

static void it_is_fetched_into_and_kept_up_again_and_again(void **state)
{
    struct fixture *f = *state;
    struct oid_list oids = list_of("main~39");

    fill(f, "main~39\n", false, "main~39");
    for (int i = 39; i > 0; i -= 13) {
        fetch_often(f, i, i - 13);
        assert_true(needs_at(f, 0));
        keep_up_at(f, 0);
        assert_true(count_packs(f) <= 6);
        is_sound(f);
    }
    clone_is_right(f, "main");
    assert_true(reaches(f, &oids, "main"));
    oid_list_clear(&oids);
}

static void it_ends_when_it_is_told_to_stop(void **state)
{
    struct fixture *f = *state;
    struct mirror_upkeep_options options = at(0);
    atomic_bool stop = true;
    struct mirror_upkeep done;
    struct err err;

    make_old(f);
    options.stop = &stop;
    assert_int_equal(mirror_upkeep(f->mirror, &options, &done, &err), -1);
    assert_int_equal(err.kind, ERR_CANCELLED);
    assert_int_equal(processes_running(f->processes), 0);
    assert_int_equal(count_packs(f), 13);
    is_sound(f);
}

/* ---- who reads meanwhile ---- */

struct slow_reader {
    const struct fixture *fixture;
    pthread_barrier_t begun, go_on;
    bool waited;
    struct output output;
    int rc;
};

static int on_output_wait(void *ctx, const void *data, size_t len, struct err *err)
{
    struct slow_reader *r = ctx;

    if (!r->waited) {
        r->waited = true;
        pthread_barrier_wait(&r->begun);
        pthread_barrier_wait(&r->go_on);
    }
    return on_output(&r->output, data, len, err);
}

static void *read_slowly(void *ctx)
{
    static const struct oid_list none;
    struct slow_reader *r = ctx;
    struct fetch_request req = request(2, "main");
    struct fetch_response_shape shape;
    struct err err;

    fetch_response_shape_of(&req, &shape);
    r->output.watch = fetch_response_new(&shape, on_pack, &r->output);
    bytes_init(&r->output.pack, REAL_GIT_OUTPUT_MAX);
    r->rc = mirror_upload_pack(r->fixture->mirror, &req, &none, &none, on_output_wait, NULL, 1000,
                               r, &err);
    if (r->rc == 0)
        r->rc = fetch_response_finish(r->output.watch, &err);
    fetch_response_free(r->output.watch);
    request_clear(&req);
    return NULL;
}

static void who_began_before_keeps_the_packs_that_it_saw(void **state)
{
    struct fixture *f = *state;
    struct slow_reader reader = {.fixture = f};
    struct mirror_upkeep done;
    pthread_t thread;

    make_old(f);
    pthread_barrier_init(&reader.begun, NULL, 2);
    pthread_barrier_init(&reader.go_on, NULL, 2);
    assert_int_equal(pthread_create(&thread, NULL, read_slowly, &reader), 0);
    pthread_barrier_wait(&reader.begun);
    done = keep_up_at(f, 0);
    assert_true(count_packs(f) >= 13);
    assert_int_equal(count_files(f, "objects/pack", ".idx"), count_packs(f));
    clone_is_right(f, "main");          /* who begins now is served alike */
    fill(f, "v1\n^main\n", true, "v1"); /* and so is who writes */
    assert_true(count_packs(f) >= 13);
    assert_true(mirror_ready(f->mirror));
    pthread_barrier_wait(&reader.go_on);
    pthread_join(thread, NULL);
    assert_int_equal(reader.rc, 0);
    assert_int_equal(count_objects(&reader.output.pack, false), count_revisions("main"));
    assert_int_equal(count_packs(f), done.packs_after + 1); /* the last one out takes them along */
    is_sound(f);
    bytes_clear(&reader.output.pack);
    pthread_barrier_destroy(&reader.begun);
    pthread_barrier_destroy(&reader.go_on);
}

struct asker {
    struct fixture *fixture;
    atomic_bool *over;
    bool wrong;
};

static void *ask_on_and_on(void *ctx)
{
    struct asker *a = ctx;
    struct oid_list old, tips;
    struct oid oid;

    old = (struct oid_list){0};
    tips = (struct oid_list){0};
    oid = oid_of("main~39");
    oid_list_add(&old, &oid);
    oid = oid_of("main");
    oid_list_add(&tips, &oid);
    while (!atomic_load(a->over)) {
        struct mirror *m = mirrors_get(a->fixture->mirrors, "example.org", "group/repo");

        a->wrong |=
            !mirror_ready(m) || !mirror_reaches_all(m, &old, &tips) || !mirror_has_all(m, &tips);
        mirror_unref(&m);
    }
    oid_list_clear(&old);
    oid_list_clear(&tips);
    return NULL;
}

static void questions_are_answered_all_the_while(void **state)
{
    enum { ASKERS = 3 };
    struct fixture *f = *state;
    struct asker askers[ASKERS];
    pthread_t threads[ASKERS];
    atomic_bool over = false;

    make_old(f);
    for (size_t i = 0; i < ASKERS; i++) {
        askers[i] = (struct asker){f, &over, false};
        assert_int_equal(pthread_create(&threads[i], NULL, ask_on_and_on, &askers[i]), 0);
    }
    keep_up_at(f, 0);
    keep_up_at(f, 2 * TTL_S);
    atomic_store(&over, true);
    for (size_t i = 0; i < ASKERS; i++) {
        pthread_join(threads[i], NULL);
        assert_false(askers[i].wrong);
    }
    assert_true(count_packs(f) <= 6);
    is_sound(f);
}

/* ---- tips and cruft ---- */

/* As if it was last asked for then. */
static void set_tip_time(const struct fixture *f, const char *revision, int64_t time_s)
{
    char *file = xasprintf("%s/pannier-tips", f->path);
    char line[256], hex[65];
    struct bytes text;
    FILE *in = fopen(file, "re");

    assert_non_null(in);
    real_git_id(&upstream, revision, hex);
    bytes_init(&text, REAL_GIT_OUTPUT_MAX);
    while (fgets(line, sizeof(line), in) != NULL)
        if (strncmp(line, hex, 40) != 0)
            bytes_add_str(&text, line);
    bytes_addf(&text, "%s %lld\n", hex, (long long)time_s);
    fclose(in);
    put_file(file, text.data, text.len);
    bytes_clear(&text);
    free(file);
}

static void tips_that_nobody_asked_for_become_cruft_and_go(void **state)
{
    struct fixture *f = *state;
    struct mirror_upkeep done;

    make_old(f);
    make_side_branch();
    fill(f, "side\n^main\n", true, "side");
    done = keep_up_at(f, 0);
    assert_int_equal(done.tips_after, 2);
    /* Both are old, and so nothing is: the last state of a mirror stays. */
    assert_true(has(f, "side"));
    fill(f, "v1\n^main\n", true, "v1"); /* asked for now; side was before */
    assert_int_equal(count_files(f, "objects/pack", ".mtimes"), 0);
    set_tip_time(f, "side", started_s - 2 * TTL_S);
    set_tip_time(f, "main", started_s);
    assert_true(needs_at(f, 0));
    done = keep_up_at(f, 0);
    assert_false(needs_at(f, 0));
    assert_int_equal(done.tips_after, 2);
    assert_int_equal(count_files(f, "objects/pack", ".mtimes"), 1);
    assert_true(has(f, "side")); /* for a while yet */
    is_sound(f);
    set_tip_time(f, "main", started_s + 3 * TTL_S);
    set_tip_time(f, "v1", started_s + 3 * TTL_S);
    assert_true(needs_at(f, 2 * TTL_S));
    keep_up_at(f, 2 * TTL_S);
    assert_false(has(f, "side"));
    assert_int_equal(count_files(f, "objects/pack", ".mtimes"), 0);
    assert_false(needs_at(f, 2 * TTL_S));
    clone_is_right(f, "main");
    assert_true(has(f, "v1"));
    is_sound(f);
}

static void remove_bitmap(const struct fixture *f)
{
    char *bitmap = pack_file(f, ".bitmap");

    assert_int_equal(unlink(bitmap), 0);
    free(bitmap);
}

/* It may be cruft of long ago that was asked for again, and is told to upstream as what is here
 * until it is no tip any more. */
static void what_a_tip_reaches_does_not_go_together_with_it(void **state)
{
    struct fixture *f = *state;

    make_old(f);
    make_side_branch();
    fill(f, "side\n^main\n", true, "side");
    fill(f, "v1\n^main\n", true, "v1");
    set_tip_time(f, "side", started_s - 2 * TTL_S);
    keep_up_at(f, 0);
    assert_int_equal(count_files(f, "objects/pack", ".mtimes"), 1);
    clone_is_right(f, "side"); /* a tip again */
    remove_bitmap(f);
    keep_up_at(f, 0);
    assert_int_equal(count_tips(f), 3);
    set_tip_time(f, "main", started_s + 5 * TTL_S);
    set_tip_time(f, "v1", started_s + 5 * TTL_S);
    while (count_tips(f) == 3) {
        assert_true(needs_at(f, 2 * TTL_S));
        keep_up_at(f, 2 * TTL_S);
        assert_true(has(f, "side"));
    }
    assert_false(needs_at(f, 2 * TTL_S));
    keep_up_at(f, 4 * TTL_S);
    assert_false(has(f, "side"));
    is_sound(f);
}

static void what_is_asked_for_stays(void **state)
{
    struct fixture *f = *state;

    make_old(f);
    make_side_branch();
    fill(f, "side\n^main\n", true, "side");
    set_tip_time(f, "side", started_s - 2 * TTL_S);
    clone_is_right(f, "side"); /* by no intake */
    keep_up_at(f, 0);
    assert_int_equal(count_tips(f), 2);
    assert_int_equal(count_files(f, "objects/pack", ".mtimes"), 0);
}

static void a_tip_that_was_asked_for_later_than_what_reaches_it_stays(void **state)
{
    struct fixture *f = *state;

    make_old(f);
    set_tip_time(f, "main", started_s + 1000);
    set_tip_time(f, "main~1", started_s + 2000);
    keep_up_at(f, 0);
    assert_int_equal(count_tips(f), 2);
}

static void the_last_tips_stay_however_old_they_are(void **state)
{
    struct fixture *f = *state;

    make_old(f);
    for (int i = 0; i <= 12; i++) {
        char *tip = xasprintf("main~%d", i);

        set_tip_time(f, tip, started_s - 5 * TTL_S - i);
        free(tip);
    }
    assert_int_equal(keep_up_at(f, 0).tips_after, 1);
    assert_int_equal(count_files(f, "objects/pack", ".mtimes"), 0);
    assert_false(needs_at(f, 0));
    clone_is_right(f, "main");
}

/* ---- what a crash leaves ---- */

static void put_in_packs(const struct fixture *f, const char *name, const char *text)
{
    char *file = xasprintf("%s/objects/pack/%s", f->path, name);

    put_file(file, text, strlen(text));
    free(file);
}

static void left_over_files_go(void **state)
{
    struct fixture *f = *state;
    char *lock, *graph_lock, *folder;
    size_t files;
    struct err err;

    make_old(f);
    keep_up_at(f, 0);
    lock = xasprintf("%s/packed-refs.lock", f->path);
    graph_lock = xasprintf("%s/objects/info/commit-graph.lock", f->path);
    folder = xasprintf("%s/objects/pack", f->path);
    files = count_entries(folder);
    assert_int_equal(make_folders(folder, &err), 0);
    put_file(lock, "", 0);
    put_file(graph_lock, "", 0);
    put_in_packs(f, "tmp_pack_abc", "half");
    put_in_packs(f, "pack-0000000000000000000000000000000000000000.pack", "not of the list");
    put_in_packs(f, "pack-0000000000000000000000000000000000000000.idx", "nor this");
    put_in_packs(f, "multi-pack-index-0000000000000000000000000000000000000000.bitmap", "");
    restart(f);
    assert_true(needs_at(f, 0));
    keep_up_at(f, 0);
    assert_false(exists(lock));
    assert_false(exists(graph_lock));
    assert_int_equal(count_entries(folder), files);
    assert_false(needs_at(f, 0));
    is_sound(f);
    /* The first look after a start does so, too: what isn't listed must not count as here. */
    put_in_packs(f, "pack-0000000000000000000000000000000000000000.pack", "not of the list");
    put_in_packs(f, "pack-0000000000000000000000000000000000000000.idx", "nor this");
    restart(f);
    assert_true(mirror_ready(f->mirror));
    assert_int_equal(count_entries(folder), files);
    free(folder);
    free(lock);
    free(graph_lock);
}

static void copy(const char *options, const char *from, const char *to)
{
    char *command = xasprintf("cp -pf %s %s %s", options, from, to);

    assert_int_equal(system(command), 0);
    free(command);
}

/* The files that match pattern come from another state of the mirror. */
static void take_from(const char *state, const char *pattern, const struct fixture *f)
{
    char *from = xasprintf("%s/%s", state, pattern);
    char *slash = strrchr(pattern, '/');
    char *to = xasprintf("%s/%.*s", f->path, slash != NULL ? (int)(slash - pattern) : 0, pattern);

    copy("", from, to);
    free(from);
    free(to);
}

/* Each state that a kill between two steps of the switch leaves, made from the old and the new. */
static void a_kill_in_the_middle_leaves_a_whole_mirror(void **state)
{
    static const char *const steps[] = {
        "objects/pack/pack-*",           "objects/pack/*.bitmap",     "pannier-packs",
        "objects/pack/multi-pack-index", "objects/info/commit-graph", "packed-refs"};
    struct fixture *f = *state;
    char *old = scratch_path(&f->scratch, "old"), *new = scratch_path(&f->scratch, "new");

    make_old(f);
    copy("-r", f->path, old);
    keep_up_at(f, 0);
    copy("-r", f->path, new);
    for (size_t step = 0; step <= ARRAY_LEN(steps); step++) {
        remove_tree(f->path);
        copy("-r", old, f->path);
        for (size_t i = 0; i < step; i++)
            take_from(new, steps[i], f);
        restart(f);
        is_sound(f);
        clone_is_right(f, "main");
        keep_up_at(f, 0);
        is_sound(f);
        assert_true(count_packs(f) <= 6);
        assert_int_equal(count_files(f, "objects/pack", ".bitmap"), 1);
        assert_false(needs_at(f, 0));
        clone_is_right(f, "main");
    }
    free(old);
    free(new);
}

/* ---- reading all of it ---- */

/* As a disk does it: nobody wrote, so only reading tells. */
static void rot(const char *file)
{
    struct timespec times[2];
    struct stat st;

    assert_int_equal(stat(file, &st), 0);
    flip_byte(file, (uint64_t)st.st_size / 2);
    times[0] = st.st_atim;
    times[1] = st.st_mtim;
    assert_int_equal(utimensat(AT_FDCWD, file, times, 0), 0);
}

static void damage_is_found_by_verification(void **state)
{
    static const char *const files[] = {"pack/pack-*.pack",   "pack/pack-*.idx",
                                        "pack/pack-*.rev",    "pack/multi-pack-index",
                                        "pack/multi*.bitmap", "info/commit-graph"};
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        void *other;
        struct fixture *f;
        char *pattern_of;
        glob_t found;
        struct err err;

        set_up(&other);
        f = other;
        make_old(f);
        keep_up_at(f, 0);
        pattern_of = xasprintf("%s/objects/%s", f->path, files[i]);
        assert_int_equal(glob(pattern_of, 0, NULL, &found), 0);
        rot(found.gl_pathv[0]);
        assert_true(mirror_ready(f->mirror));
        assert_int_equal(mirror_verify(f->mirror, &err), -1);
        assert_int_equal(err.kind, ERR_CORRUPT);
        assert_true(exists(f->path));
        globfree(&found);
        free(pattern_of);
        tear_down(&other);
    }
}

static void a_hole_is_found_by_verification(void **state)
{
    struct fixture *f = *state;
    struct err err;

    fill(f, "main~10\n", false, "main~10");
    fill(f, "main\n^main~5\n", false, "main"); /* closed in itself, as index-pack sees it */
    assert_true(mirror_ready(f->mirror));
    assert_int_equal(mirror_verify(f->mirror, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
}

/* A tip that can't be looked at now is one nevertheless: what only it reaches would go. */
static void a_want_of_descriptors_costs_no_tips(void **state)
{
    struct fixture *f = *state;
    struct mirror_upkeep_options options = at(0);
    struct mirror_upkeep done;
    struct rlimit before;
    struct err err;
    rlim_t few = 0;
    int rc;

    make_old(f);
    do {
        few_descriptors(few++, &before);
        rc = mirror_upkeep(f->mirror, &options, &done, &err);
        descriptors_are_back(&before);
        if (rc != 0 && err.kind == ERR_CORRUPT)
            fail_msg("with %d descriptors: %s", (int)few - 1, err.text);
        empty_incoming(f);
    } while (rc != 0);
    assert_true(few > 2);
    assert_int_equal(done.packs_after, 1);
    for (int i = 0; i < 12; i++) {
        char *tip = xasprintf("main~%d", i);

        assert_true(has(f, tip));
        free(tip);
    }
    assert_true(mirror_ready(f->mirror));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(one_that_was_fetched_into_often_gets_few_packs_and_a_bitmap),
        TEST(a_want_of_descriptors_costs_no_tips),
        TEST(nothing_is_done_where_nothing_is_needed),
        TEST(there_is_no_upkeep_of_nothing),
        TEST(it_is_fetched_into_and_kept_up_again_and_again),
        TEST(it_ends_when_it_is_told_to_stop),
        TEST(who_began_before_keeps_the_packs_that_it_saw),
        TEST(questions_are_answered_all_the_while),
        TEST(tips_that_nobody_asked_for_become_cruft_and_go),
        TEST(what_a_tip_reaches_does_not_go_together_with_it),
        TEST(what_is_asked_for_stays),
        TEST(a_tip_that_was_asked_for_later_than_what_reaches_it_stays),
        TEST(the_last_tips_stay_however_old_they_are),
        TEST(left_over_files_go),
        TEST(a_kill_in_the_middle_leaves_a_whole_mirror),
        cmocka_unit_test(damage_is_found_by_verification),
        TEST(a_hole_is_found_by_verification),
    };

    started_s = time(NULL);
    return cmocka_run_group_tests(tests, make_upstream, remove_upstream);
}
