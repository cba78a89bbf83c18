#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/folder.h"
#include "scratch.h"

struct fixture {
    struct scratch scratch;
    char *data;
    struct folder *folder;
    struct err err;
};

static int set_up(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));

    scratch_init(&f->scratch);
    f->data = scratch_path(&f->scratch, "deep/er/data");
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    folder_close(&f->folder);
    scratch_clear(&f->scratch);
    free(f->data);
    free(f);
    return 0;
}

static char *inside(const struct fixture *f, const char *name)
{
    return xasprintf("%s/%s", f->data, name);
}

static bool opens(struct fixture *f)
{
    return folder_open(f->data, NULL, &f->folder, &f->err) == 0;
}

static void a_new_folder_is_made_with_its_places(void **state)
{
    static const char *const places[] = {"version", "lock", "answers", "mirrors", "incoming"};
    struct fixture *f = *state;

    assert_true(opens(f));
    assert_string_equal(folder_path(f->folder), f->data);
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        char *path = folder_pathf(f->folder, "%s", places[i]);
        struct stat st;

        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0077, 0); /* nobody else's */
        free(path);
    }
}

static void one_folder_serves_one_process(void **state)
{
    struct fixture *f = *state;
    struct folder *second;

    assert_true(opens(f));
    assert_int_equal(folder_open(f->data, NULL, &second, &f->err), -1);
    assert_int_equal(f->err.kind, ERR_BUSY);
    assert_non_null(strstr(f->err.text, "in use"));
    folder_close(&f->folder);
    assert_true(opens(f));
}

static void a_folder_of_another_version_is_left_alone(void **state)
{
    struct fixture *f = *state;
    char *version, *kept;

    assert_true(opens(f));
    folder_close(&f->folder);
    version = inside(f, "version");
    kept = inside(f, "incoming/kept");
    put_file(version, "pannier data 99\n", 16);
    put_file(kept, "x", 1);
    assert_false(opens(f));
    assert_int_equal(f->err.kind, ERR_STORAGE);
    assert_non_null(strstr(f->err.text, "another version"));
    assert_true(exists(kept));
    free(version);
    free(kept);
}

static void a_version_that_a_crash_left_empty_is_written_again(void **state)
{
    struct fixture *f = *state;
    char *version;

    assert_true(opens(f));
    folder_close(&f->folder);
    version = inside(f, "version");
    put_file(version, "", 0);
    assert_true(opens(f));
    assert_true(size_of(version) > 0);
    free(version);
}

static void what_was_being_filled_is_swept_and_the_rest_stays(void **state)
{
    struct fixture *f = *state;
    char *half, *tree, *in_tree, *link, *outside, *whole;
    struct err err;

    assert_true(opens(f));
    folder_close(&f->folder);
    half = inside(f, "incoming/half.answer");
    tree = inside(f, "incoming/half.git/objects/pack");
    in_tree = inside(f, "incoming/half.git/objects/pack/tmp_pack");
    link = inside(f, "incoming/link");
    outside = scratch_path(&f->scratch, "outside");
    whole = inside(f, "answers/whole");
    put_file(half, "x", 1);
    assert_int_equal(make_folders(tree, &err), 0);
    put_file(in_tree, "x", 1);
    put_file(whole, "x", 1);
    put_file(outside, "x", 1);
    assert_int_equal(symlink(outside, link), 0);
    assert_true(opens(f));
    assert_false(exists(half));
    assert_false(exists(tree));
    assert_false(exists(link));
    assert_true(exists(outside));
    assert_true(exists(whole));
    free(half);
    free(tree);
    free(in_tree);
    free(link);
    free(outside);
    free(whole);
}

static void a_path_that_is_a_file_is_refused(void **state)
{
    struct fixture *f = *state;
    char *file = scratch_path(&f->scratch, "deep");

    put_file(file, "x", 1);
    assert_false(opens(f));
    assert_int_equal(f->err.kind, ERR_STORAGE);
    assert_null(f->folder);
    free(file);
}

struct namer {
    struct folder *folder;
    pthread_barrier_t *barrier;
    char *names[100];
};

static void *make_names(void *ctx)
{
    struct namer *n = ctx;

    pthread_barrier_wait(n->barrier);
    for (size_t i = 0; i < ARRAY_LEN(n->names); i++)
        n->names[i] = folder_incoming_path(n->folder, ".x");
    return NULL;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void incoming_names_are_unlike_each_other(void **state)
{
    enum { NAMERS = 8 };
    struct fixture *f = *state;
    struct namer namers[NAMERS];
    char *all[NAMERS * ARRAY_LEN(namers[0].names)];
    pthread_barrier_t barrier;
    size_t n = 0;

    assert_true(opens(f));
    pthread_barrier_init(&barrier, NULL, NAMERS);
    for (size_t i = 0; i < NAMERS; i++)
        namers[i] = (struct namer){.folder = f->folder, .barrier = &barrier};
    run_together(NAMERS, make_names, namers, sizeof(namers[0]));
    for (size_t i = 0; i < NAMERS; i++)
        for (size_t k = 0; k < ARRAY_LEN(namers[i].names); k++)
            all[n++] = namers[i].names[k];
    qsort(all, n, sizeof(all[0]), compare_names);
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            assert_string_not_equal(all[i - 1], all[i]);
        assert_int_equal(strncmp(all[i], f->data, strlen(f->data)), 0);
    }
    for (size_t i = 0; i < n; i++)
        free(all[i]);
    pthread_barrier_destroy(&barrier);
}

/* ---- trouble ---- */

struct told {
    struct folder *folder;
    atomic_uint begun, ended;
    struct err last;
    char damaged[ERR_TEXT_MAX + 64];
};

static void on_trouble(void *ctx, const struct err *trouble)
{
    struct told *t = ctx;

    if (trouble != NULL) {
        atomic_fetch_add(&t->begun, 1);
        t->last = *trouble;
    } else {
        atomic_fetch_add(&t->ended, 1);
    }
    /* No lock is held over the call. */
    folder_troubled(t->folder, &(struct err){0});
}

static void on_damage(void *ctx, const char *what, const struct err *why)
{
    struct told *t = ctx;

    snprintf(t->damaged, sizeof(t->damaged), "%.32s: %s", what, why->text);
}

static void listen_to(struct fixture *f, struct told *told)
{
    const struct folder_listener listener = {on_trouble, on_damage, told};

    assert_int_equal(folder_open(f->data, &listener, &f->folder, &f->err), 0);
    told->folder = f->folder;
}

static void a_spell_of_trouble_is_told_once_at_each_end(void **state)
{
    struct fixture *f = *state;
    struct told told = {0};
    struct err found;

    listen_to(f, &told);
    folder_report_success(f->folder, FOLDER_ANSWERS);
    assert_int_equal(told.ended, 0);
    assert_false(folder_troubled(f->folder, &found));
    folder_report_trouble(f->folder, FOLDER_ANSWERS, &(struct err){ERR_STORAGE, "full"});
    folder_report_trouble(f->folder, FOLDER_ANSWERS, &(struct err){ERR_STORAGE, "still full"});
    assert_int_equal(told.begun, 1);
    assert_string_equal(told.last.text, "full");
    assert_true(folder_troubled(f->folder, &found));
    assert_string_equal(found.text, "still full");
    folder_report_success(f->folder, FOLDER_ANSWERS);
    folder_report_success(f->folder, FOLDER_ANSWERS);
    assert_int_equal(told.ended, 1);
    assert_false(folder_troubled(f->folder, &found));
    folder_report_trouble(f->folder, FOLDER_ANSWERS, &(struct err){ERR_STORAGE, "again"});
    assert_int_equal(told.begun, 2);
}

static void a_spell_ends_when_all_that_failed_can_be_written(void **state)
{
    const struct err full = {ERR_STORAGE, "full"};
    struct fixture *f = *state;
    struct told told = {0};

    listen_to(f, &told);
    folder_report_trouble(f->folder, FOLDER_MIRRORS, &full);
    folder_report_success(f->folder, FOLDER_ANSWERS); /* a small one still fits */
    folder_report_trouble(f->folder, FOLDER_MIRRORS, &full);
    folder_report_trouble(f->folder, FOLDER_ANSWERS, &full);
    folder_report_success(f->folder, FOLDER_MIRRORS);
    assert_int_equal(told.begun, 1);
    assert_int_equal(told.ended, 0);
    folder_report_success(f->folder, FOLDER_ANSWERS);
    assert_int_equal(told.ended, 1);
    assert_false(folder_troubled(f->folder, &(struct err){0}));
}

static void damage_is_told_each_time(void **state)
{
    struct fixture *f = *state;
    struct told told = {0};

    listen_to(f, &told);
    folder_report_damage(f->folder, "a file", &(struct err){ERR_CORRUPT, "flipped"});
    assert_string_equal(told.damaged, "a file: flipped");
    folder_close(&f->folder);
    assert_true(opens(f)); /* nobody listens */
    folder_report_damage(f->folder, "a file", &(struct err){ERR_CORRUPT, "flipped"});
    folder_report_trouble(f->folder, FOLDER_ANSWERS, &(struct err){ERR_STORAGE, "full"});
    folder_report_success(f->folder, FOLDER_ANSWERS);
}

struct reporter {
    struct told *told;
    pthread_barrier_t *barrier;
};

static void *report_together(void *ctx)
{
    struct reporter *r = ctx;

    pthread_barrier_wait(r->barrier);
    folder_report_trouble(r->told->folder, FOLDER_ANSWERS, &(struct err){ERR_STORAGE, "full"});
    return NULL;
}

static void trouble_that_many_meet_at_once_is_told_once(void **state)
{
    enum { REPORTERS = 8 };
    struct reporter reporters[REPORTERS];
    struct fixture *f = *state;
    pthread_barrier_t barrier;
    struct told told = {0};

    listen_to(f, &told);
    pthread_barrier_init(&barrier, NULL, REPORTERS);
    for (size_t i = 0; i < REPORTERS; i++)
        reporters[i] = (struct reporter){&told, &barrier};
    run_together(REPORTERS, report_together, reporters, sizeof(reporters[0]));
    assert_int_equal(told.begun, 1);
    pthread_barrier_destroy(&barrier);
}

/* ---- small file work ---- */

static void a_file_is_written_whole(void **state)
{
    struct fixture *f = *state;
    char *path = scratch_path(&f->scratch, "file");
    struct err err;

    assert_int_equal(write_file(path, "longer text", 11, true, &err), 0);
    assert_int_equal(write_file(path, "short", 5, false, &err), 0);
    assert_int_equal(size_of(path), 5);
    assert_int_equal(sync_parent(path, &err), 0);
    assert_int_equal(write_file("/nonexistent/file", "x", 1, true, &err), -1);
    assert_int_equal(err.kind, ERR_STORAGE);
    assert_int_equal(write_file("/dev/full", "x", 1, true, &err), -1);
    assert_int_equal(err.kind, ERR_STORAGE);
    free(path);
}

static void what_is_gone_already_is_removed(void **state)
{
    (void)state;
    remove_tree("/nonexistent/tree");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_new_folder_is_made_with_its_places, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_folder_serves_one_process, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_folder_of_another_version_is_left_alone, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_version_that_a_crash_left_empty_is_written_again, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_was_being_filled_is_swept_and_the_rest_stays, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_path_that_is_a_file_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(incoming_names_are_unlike_each_other, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_spell_of_trouble_is_told_once_at_each_end, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_spell_ends_when_all_that_failed_can_be_written, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(damage_is_told_each_time, set_up, tear_down),
        cmocka_unit_test_setup_teardown(trouble_that_many_meet_at_once_is_told_once, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_file_is_written_whole, set_up, tear_down),
        cmocka_unit_test(what_is_gone_already_is_removed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
