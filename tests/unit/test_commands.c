#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "proxy/commands.h"
#include "tests/unit/scratch.h"

static void round_trip(const struct commands_request *r, struct commands_request *out)
{
    struct bytes text;
    struct err err;

    bytes_init(&text, 4096);
    assert_int_equal(commands_request_write(r, &text, &err), 0);
    assert_null(memchr(text.data, '\n', text.len));
    assert_int_equal(commands_request_read(text.data, text.len, out, &err), 0);
    bytes_clear(&text);
}

static void what_is_written_is_read_again(void **state)
{
    char name[] = "host/\xc3\xbc \"quoted\"\n";
    const struct commands_request rows[] = {
        {.kind = COMMANDS_LS, .goal = UINT64_MAX},
        {.kind = COMMANDS_LS, .goal = UINT64_MAX, .repo = name, .entries = true},
        {.kind = COMMANDS_SHOW, .goal = UINT64_MAX, .repo = name},
        {.kind = COMMANDS_RM, .goal = UINT64_MAX, .repo = name},
        {.kind = COMMANDS_RM, .goal = UINT64_MAX, .all = true},
        {.kind = COMMANDS_VERIFY, .goal = UINT64_MAX},
        {.kind = COMMANDS_VERIFY, .goal = UINT64_MAX, .repair = true},
        {.kind = COMMANDS_EVICT, .goal = UINT64_MAX},
        {.kind = COMMANDS_EVICT, .goal = 0},
        {.kind = COMMANDS_EVICT, .goal = INT64_MAX, .dry_run = true},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct commands_request out;

        round_trip(&rows[i], &out);
        assert_int_equal(out.kind, rows[i].kind);
        assert_int_equal(out.all, rows[i].all);
        assert_int_equal(out.entries, rows[i].entries);
        assert_int_equal(out.repair, rows[i].repair);
        assert_int_equal(out.dry_run, rows[i].dry_run);
        assert_true(out.goal == rows[i].goal);
        assert_int_equal(out.repo != NULL, rows[i].repo != NULL);
        if (out.repo != NULL)
            assert_string_equal(out.repo, rows[i].repo);
        commands_request_clear(&out);
        assert_null(out.repo);
    }
}

static void a_name_that_cannot_be_sent_is_refused(void **state)
{
    struct commands_request latin = {
        .kind = COMMANDS_SHOW, .goal = UINT64_MAX, .repo = (char *)"host/\xfc"};
    struct commands_request longer = {
        .kind = COMMANDS_SHOW, .goal = UINT64_MAX, .repo = (char *)"host/a-name-too-long"};
    struct bytes text;
    struct err err;

    (void)state;
    bytes_init(&text, 16);
    assert_int_equal(commands_request_write(&latin, &text, &err), -1);
    assert_int_equal(err.kind, ERR_INPUT);
    assert_int_equal(commands_request_write(&longer, &text, &err), -1);
    assert_int_equal(err.kind, ERR_INPUT);
    bytes_clear(&text);
}

static void what_is_no_request_is_refused(void **state)
{
    static const char *const rows[] = {
        "",
        "{",
        "[]",
        "null",
        "{}",
        "{\"command\":1}",
        "{\"command\":\"list\"}",
        "{\"command\":\"ls\",\"command\":\"rm\"}",
        "{\"command\":\"ls\",\"repo\":1}",
        "{\"command\":\"ls\",\"entries\":\"yes\"}",
        "{\"command\":\"ls\"} behind",
        "{\"command\":\"ls\",\"from\":\"tomorrow\"}",
        /* fields of other commands */
        "{\"command\":\"ls\",\"all\":true}",
        "{\"command\":\"rm\",\"all\":true,\"dry_run\":true}",
        "{\"command\":\"verify\",\"goal\":1}",
        "{\"command\":\"verify\",\"repo\":\"a/b\"}",
        "{\"command\":\"evict\",\"repair\":true}",
        /* too few, too many */
        "{\"command\":\"show\"}",
        "{\"command\":\"show\",\"repo\":\"\"}",
        "{\"command\":\"rm\"}",
        "{\"command\":\"rm\",\"repo\":\"a/b\",\"all\":true}",
        "{\"command\":\"rm\",\"all\":false}",
        "{\"command\":\"evict\",\"goal\":1.5}",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct commands_request out;
        struct err err = {.kind = ERR_NONE};

        assert_int_equal(commands_request_read(rows[i], strlen(rows[i]), &out, &err), -1);
        assert_int_equal(err.kind, ERR_INPUT);
    }
}

static void every_cut_of_a_request_is_refused(void **state)
{
    static const char whole[] = "{\"command\":\"rm\",\"repo\":\"host/a\"}";
    struct commands_request out;
    struct err err;

    (void)state;
    for (size_t len = 0; len + 1 < sizeof(whole) - 1; len++)
        assert_int_equal(commands_request_read(whole, len, &out, &err), -1);
}

static void a_repository_is_found_by_every_name_it_has(void **state)
{
    static const char *const yes[] = {
        "hub/Group/r",
        "hub/Group/r.git",
        "hub/Group/r/",
        "hub/Group/r.git/",
        "HUB/Group/r",
        "http://hub/Group/r",
        "https://hub/Group/r.git",
        "HTTPS://hub/Group/r",
        "https://git.example.org/Group/r",
        "https://me:secret@git.example.org/Group/r.git",
        "git.example.org/Group/r",
    };
    static const char *const no[] = {
        "",
        "/",
        ".git",
        "hub",
        "hub/",
        "hub/Group",
        "r",
        "hub/group/r",
        "hub/Group/R",
        "hub/Group/r2",
        "hub/Group/r/x",
        "hub2/Group/r",
        "https",
        "https://",
        "https:///Group/r",
    };
    const struct entry e = {.repo = (char *)"hub/Group/r",
                            .url = (char *)"https://git.example.org/Group/r.git"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(yes); i++)
        assert_true(commands_repo_matches(yes[i], &e));
    for (size_t i = 0; i < ARRAY_LEN(no); i++)
        assert_false(commands_repo_matches(no[i], &e));
}

/* ---- what is said of a tier with a few answers, to somebody who listens for so many lines ---- */

enum { ENTRIES = 3 };

struct fixture {
    struct scratch scratch;
    struct cache cache;
    size_t patience; /* the line after which nobody listens */
    size_t lines;
    char last[4096];
};

static bool remove_file(void *ctx, const char *name, bool force)
{
    struct fixture *f = ctx;
    char *path = scratch_path(&f->scratch, name);

    (void)force;
    assert_int_equal(unlink(path), 0);
    free(path);
    return true;
}

static void keep(struct fixture *f, unsigned number, const char *ref)
{
    char *name = xasprintf("answers/00/%u", number), *path = scratch_path(&f->scratch, name);
    const struct entry e = {
        .kind = ENTRY_ANSWER,
        .repo_id = (char *)"00",
        .repo = (char *)"hub/r",
        .url = (char *)"https://hub.example/r",
        .ref = (char *)ref,
        .path = name,
        .size = 1,
        .stored_size = 4096,
    };

    put_file(path, "x", 1);
    local_publish(f->cache.local, &e, NULL);
    free(path);
    free(name);
}

static int set_up(void **state)
{
    const struct local_limits limits = {.size = {.percent = 100}};
    struct fixture *f = xcalloc(1, sizeof(*f));
    const struct local_owner owner = {.remove = remove_file, .ctx = f};
    struct err err;
    char *path;

    scratch_init(&f->scratch);
    assert_int_equal(folder_open(f->scratch.dir, NULL, &f->cache.folder, &err), 0);
    f->cache.local = local_open(f->cache.folder, &limits);
    local_set_owner(f->cache.local, ENTRY_ANSWER, &owner);
    local_set_owner(f->cache.local, ENTRY_MIRROR, &owner);
    path = scratch_path(&f->scratch, "answers/00");
    assert_int_equal(make_folders(path, &err), 0);
    free(path);
    for (unsigned i = 0; i < ENTRIES; i++)
        keep(f, i, NULL);
    f->patience = SIZE_MAX;
    *state = f;
    return 0;
}

static int clean_up(void **state)
{
    struct fixture *f = *state;

    local_close(&f->cache.local);
    folder_close(&f->cache.folder);
    scratch_clear(&f->scratch);
    free(f);
    return 0;
}

static bool listen_to(void *ctx, const char *line, size_t len)
{
    struct fixture *f = ctx;

    assert_true(f->lines < f->patience);
    snprintf(f->last, sizeof(f->last), "%.*s", (int)len, line);
    return ++f->lines < f->patience;
}

static void run(struct fixture *f, struct commands_request r)
{
    const struct commands_output out = {.line = listen_to, .ctx = f};

    r.goal = UINT64_MAX;
    f->lines = 0;
    commands_run(&f->cache, &r, &out);
}

static uint64_t entries_left(struct fixture *f)
{
    struct local_usage usage;

    local_usage(f->cache.local, &usage);
    return usage.entries[ENTRY_ANSWER];
}

static void the_last_line_is_the_result(void **state)
{
    struct fixture *f = *state;

    run(f, (struct commands_request){.kind = COMMANDS_LS, .entries = true});
    assert_int_equal(f->lines, ENTRIES + 1);
    assert_ptr_equal(strstr(f->last, "{\"result\":{\"count\":3,"), f->last);
    run(f, (struct commands_request){.kind = COMMANDS_LS});
    assert_int_equal(f->lines, 2);
    run(f, (struct commands_request){.kind = COMMANDS_SHOW, .repo = (char *)"hub/other"});
    assert_int_equal(f->lines, 1);
    assert_ptr_equal(strstr(f->last, "{\"error\":{\"kind\":\"not-found\","), f->last);
}

static void a_listing_ends_when_nobody_listens(void **state)
{
    struct fixture *f = *state;

    f->patience = 1;
    run(f, (struct commands_request){.kind = COMMANDS_LS, .entries = true});
    assert_int_equal(f->lines, 1);
    run(f, (struct commands_request){.kind = COMMANDS_LS});
    assert_int_equal(f->lines, 1);
}

static void a_removal_ends_when_nobody_listens(void **state)
{
    struct fixture *f = *state;

    f->patience = 2;
    run(f, (struct commands_request){.kind = COMMANDS_RM, .all = true});
    assert_int_equal(entries_left(f), ENTRIES - 2);
    f->patience = SIZE_MAX;
    run(f, (struct commands_request){.kind = COMMANDS_RM, .all = true});
    assert_int_equal(entries_left(f), 0);
    assert_int_equal(f->lines, 2);
}

static void a_ref_that_is_not_utf_8_is_said_nevertheless(void **state)
{
    struct fixture *f = *state;

    run(f, (struct commands_request){.kind = COMMANDS_RM, .all = true});
    keep(f, 0, "caf\xe9");
    f->patience = 1;
    run(f, (struct commands_request){.kind = COMMANDS_LS, .entries = true});
    assert_non_null(strstr(f->last, "\"ref\":\"caf?\""));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, clean_up)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_again),
        cmocka_unit_test(a_name_that_cannot_be_sent_is_refused),
        cmocka_unit_test(what_is_no_request_is_refused),
        cmocka_unit_test(every_cut_of_a_request_is_refused),
        cmocka_unit_test(a_repository_is_found_by_every_name_it_has),
        TEST(the_last_line_is_the_result),
        TEST(a_listing_ends_when_nobody_listens),
        TEST(a_removal_ends_when_nobody_listens),
        TEST(a_ref_that_is_not_utf_8_is_said_nevertheless),
    };
#undef TEST

    return cmocka_run_group_tests(tests, NULL, NULL);
}
