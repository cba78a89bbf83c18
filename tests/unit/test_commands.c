#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "proxy/commands.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_again),
        cmocka_unit_test(a_name_that_cannot_be_sent_is_refused),
        cmocka_unit_test(what_is_no_request_is_refused),
        cmocka_unit_test(every_cut_of_a_request_is_refused),
        cmocka_unit_test(a_repository_is_found_by_every_name_it_has),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
