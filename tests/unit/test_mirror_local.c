#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "one_mirror.h"

/* Mirrors and the local tier: what it is told, and what it takes away. */

static const char PATH[] = "mirrors/example.org/group/repo.git";

static struct local *local;

static const struct entry ABOUT = {
    .kind = ENTRY_MIRROR,
    .repo_id = (char *)"00ff",
    .repo = (char *)"example.org/group/repo",
    .url = (char *)"https://example.org/group/repo",
};

/* size: what the tier may hold. */
static void open_tier(struct fixture *f, uint64_t size)
{
    const struct local_limits limits = {.size = {.bytes = size}, .policy = POLICY_LRU};
    struct err err;

    assert_int_equal(folder_open(f->scratch.dir, NULL, &f->folder, &err), 0);
    assert_int_equal(processes_new(4, &f->processes, &err), 0);
    local = local_open(f->folder, &limits);
    f->mirrors = mirrors_new(f->folder, f->processes, local);
    f->mirror = mirrors_get(f->mirrors, "example.org", "group/repo");
    f->about = &ABOUT;
}

static int set_up_sized(void **state, uint64_t size)
{
    struct fixture *f = xcalloc(1, sizeof(*f));

    scratch_init(&f->scratch);
    f->path = scratch_path(&f->scratch, PATH);
    open_tier(f, size);
    *state = f;
    return 0;
}

static int set_up_big(void **state)
{
    return set_up_sized(state, 1 << 30);
}

static int set_up_small(void **state)
{
    return set_up_sized(state, 200 << 10);
}

static void close_tier(struct fixture *f)
{
    mirror_unref(&f->mirror);
    local_close(&local);
    mirrors_free(&f->mirrors);
    processes_free(&f->processes);
    folder_close(&f->folder);
}

static int tear_down_tier(void **state)
{
    struct fixture *f = *state;
    char *incoming = folder_pathf(f->folder, "incoming");

    assert_int_equal(count_entries(incoming), 0);
    free(incoming);
    close_tier(f);
    scratch_clear(&f->scratch);
    free(f->path);
    free(f);
    return 0;
}

static struct local_usage usage(void)
{
    struct local_usage now;

    local_usage(local, &now);
    return now;
}

static void a_mirror_is_an_entry(void **state)
{
    struct fixture *f = *state;
    struct entry e;
    struct err err;

    make_whole(f);
    assert_int_equal(usage().entries[ENTRY_MIRROR], 1);
    assert_int_equal(usage().bytes[ENTRY_MIRROR], disk_usage(f->path));
    assert_int_equal(usage().filling, 0);
    assert_int_equal(mirror_read_entry(f->path, &e, &err), 0);
    assert_int_equal(e.kind, ENTRY_MIRROR);
    assert_string_equal(e.repo_id, ABOUT.repo_id);
    assert_string_equal(e.repo, ABOUT.repo);
    assert_string_equal(e.url, ABOUT.url);
    assert_string_equal(e.path, PATH);
    assert_int_equal(strlen(e.commit), 40);
    assert_true(e.size > 0 && e.created > 0);
    entry_clear(&e);
}

static void it_grows_and_shrinks_with_what_it_takes(void **state)
{
    const struct mirror_upkeep_options options = {
        .now_s = time(NULL), .unreachable_ttl_s = 1000, .memory = 64 << 20};
    struct fixture *f = *state;
    struct mirror_upkeep done;
    struct err err;
    uint64_t before;

    fill(f, "main~12\n", false, "main~12");
    before = usage().bytes[ENTRY_MIRROR];
    for (int i = 12; i > 0; i--) {
        char *tip = xasprintf("main~%d", i - 1);
        char *revisions = xasprintf("main~%d\n^main~%d\n", i - 1, i);

        fill(f, revisions, true, tip);
        free(revisions);
        free(tip);
    }
    assert_true(usage().bytes[ENTRY_MIRROR] > before);
    assert_int_equal(usage().bytes[ENTRY_MIRROR], disk_usage(f->path));
    assert_int_equal(mirror_upkeep(f->mirror, &options, &done, &err), 0);
    assert_true(done.packs_before > done.packs_after);
    assert_int_equal(usage().bytes[ENTRY_MIRROR], disk_usage(f->path));
    assert_int_equal(usage().filling, 0);
    assert_int_equal(usage().entries[ENTRY_MIRROR], 1);
}

static void one_that_is_too_big_for_the_tier_is_not_made(void **state)
{
    struct fixture *f = *state;
    struct mirror_intake *in;
    struct bytes pack;
    struct err err;

    make_pack("main\n", false, &pack);
    assert_int_equal(mirror_intake_begin(f->mirror, &ABOUT, false, &in, &err), 0);
    assert_int_equal(mirror_intake_feed(in, pack.data, pack.len, &err), -1);
    assert_int_equal(err.kind, ERR_LIMIT);
    mirror_intake_abort(&in);
    assert_int_equal(usage().filling, 0);
    assert_int_equal(usage().entries[ENTRY_MIRROR], 0);
    assert_false(exists(f->path));
    /* Nor does it empty the tier when it is tried again. */
    assert_int_equal(mirror_intake_begin(f->mirror, &ABOUT, false, &in, &err), 0);
    assert_int_equal(mirror_intake_feed(in, pack.data, 1000, &err), -1);
    assert_int_equal(err.kind, ERR_LIMIT);
    mirror_intake_abort(&in);
    bytes_clear(&pack);
}

static void one_that_is_in_use_stays_when_room_is_needed(void **state)
{
    struct fixture *f = *state;

    make_whole(f);
    assert_int_equal(local_evict(local, time(NULL), 0), 0);
    assert_true(mirror_ready(f->mirror));
    assert_int_equal(usage().entries[ENTRY_MIRROR], 1);
    mirror_unref(&f->mirror);
    assert_true(local_evict(local, time(NULL), 0) > 0);
    assert_false(exists(f->path));
    assert_int_equal(usage().entries[ENTRY_MIRROR], 0);
    f->mirror = mirrors_get(f->mirrors, "example.org", "group/repo");
    assert_false(mirror_ready(f->mirror));
    assert_int_equal(mirrors_damaged(f->mirrors), 0);
}

static void one_that_is_removed_goes_when_nobody_is_at_it(void **state)
{
    struct fixture *f = *state;
    char *mirrors;
    struct mirror_intake *in;
    struct err err;

    make_whole(f);
    mirror_write_begin(f->mirror);
    assert_int_equal(local_remove(local, PATH, &err), 0);
    assert_true(exists(f->path));
    assert_false(mirror_ready(f->mirror)); /* nobody new gets it */
    assert_int_equal(mirror_intake_begin(f->mirror, &ABOUT, false, &in, &err), -1);
    assert_int_equal(err.kind, ERR_BUSY);
    mirror_write_end(f->mirror);
    assert_false(exists(f->path)); /* though there is a handle */
    mirrors = scratch_path(&f->scratch, "mirrors");
    assert_int_equal(count_entries(mirrors), 0); /* nor are there empty folders */
    free(mirrors);
    make_whole(f);
    assert_int_equal(usage().entries[ENTRY_MIRROR], 1);
}

static void damage_is_no_entry_any_more(void **state)
{
    struct fixture *f = *state;
    char *pack;

    make_whole(f);
    pack = pack_file(f, ".pack");
    flip_byte(pack, size_of(pack) / 2);
    assert_false(mirror_ready(f->mirror));
    assert_int_equal(usage().entries[ENTRY_MIRROR], 0);
    free(pack);
}

static void the_index_can_be_made_anew_from_its_record(void **state)
{
    static const atomic_bool go_on = false;
    struct fixture *f = *state;
    char *command = xasprintf("rm -f %s/index.db*", f->scratch.dir);

    make_whole(f);
    close_tier(f);
    assert_int_equal(system(command), 0);
    open_tier(f, 1 << 30);
    assert_int_equal(usage().entries[ENTRY_MIRROR], 0);
    local_scan(local, &go_on);
    assert_int_equal(usage().entries[ENTRY_MIRROR], 1);
    assert_int_equal(usage().bytes[ENTRY_MIRROR], disk_usage(f->path));
    free(command);
}

static void only_paths_of_mirrors_have_one(void **state)
{
    static const char *const none[] = {"answers/ab/cdef", "mirrors/example.org",
                                       "mirrors/x.git",   "mirrors/a/b.git/c.git",
                                       "mirrors//b.git",  "mirrors/a/b"};
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(none); i++)
        assert_null(mirrors_at(f->mirrors, none[i]));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up_big, tear_down_tier)
    const struct CMUnitTest tests[] = {
        TEST(a_mirror_is_an_entry),
        TEST(it_grows_and_shrinks_with_what_it_takes),
        cmocka_unit_test_setup_teardown(one_that_is_too_big_for_the_tier_is_not_made, set_up_small,
                                        tear_down_tier),
        TEST(one_that_is_in_use_stays_when_room_is_needed),
        TEST(one_that_is_removed_goes_when_nobody_is_at_it),
        TEST(damage_is_no_entry_any_more),
        TEST(the_index_can_be_made_anew_from_its_record),
        TEST(only_paths_of_mirrors_have_one),
    };

    return cmocka_run_group_tests(tests, make_upstream, remove_upstream);
}
