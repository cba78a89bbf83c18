#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/entry.h"
#include "protocol/base.h"

static struct entry sample(void)
{
    return (struct entry){
        .kind = ENTRY_ANSWER,
        .repo_id = (char *)"00ff",
        .repo = (char *)"example.org/r",
        .url = (char *)"https://example.org/group/repo \"quoted\"",
        .path = (char *)"answers/00/00ff",
        .ref = (char *)"refs/heads/\xc3\xbc",
        .commit = (char *)"1234",
        .size = UINT64_C(1) << 40,
        .stored_size = 7,
        .created = 1700000000,
        .accessed = 5,
        .accesses = 6,
        .note_offset = 13,
        .objects = UINT32_MAX,
    };
}

static void round_trip(const struct entry *e, struct entry *out)
{
    struct bytes text;
    struct err err;

    bytes_init(&text, 4096);
    assert_int_equal(entry_write(e, &text), 0);
    assert_int_equal(text.data[text.len - 1], '\n');
    assert_int_equal(entry_read(text.data, text.len, out, &err), 0);
    bytes_clear(&text);
}

static void what_is_written_is_read_again(void **state)
{
    struct entry e = sample(), out;

    (void)state;
    round_trip(&e, &out);
    assert_int_equal(out.kind, ENTRY_ANSWER);
    assert_string_equal(out.repo_id, e.repo_id);
    assert_string_equal(out.url, e.url);
    assert_string_equal(out.path, e.path);
    assert_string_equal(out.ref, e.ref);
    assert_string_equal(out.commit, e.commit);
    assert_true(out.size == e.size);
    assert_true(out.created == e.created);
    assert_true(out.note_offset == e.note_offset);
    assert_true(out.objects == e.objects);
    entry_clear(&out);
}

static void what_is_unknown_stays_unknown(void **state)
{
    struct entry e = sample(), out;

    (void)state;
    e.kind = ENTRY_MIRROR;
    e.ref = e.commit = NULL;
    e.note_offset = -1;
    round_trip(&e, &out);
    assert_int_equal(out.kind, ENTRY_MIRROR);
    assert_null(out.ref);
    assert_null(out.commit);
    assert_true(out.note_offset == -1);
    entry_clear(&out);
}

/* As damage may have it: the index takes no such sizes. */
static void what_has_less_than_no_bytes_is_no_entry(void **state)
{
    struct entry e = sample(), out;
    struct bytes text;
    struct err err;

    (void)state;
    e.size = UINT64_MAX; /* written as -1 */
    bytes_init(&text, 4096);
    assert_int_equal(entry_write(&e, &text), 0);
    assert_int_equal(entry_read(text.data, text.len, &out, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
    bytes_clear(&text);
}

static void access_times_are_not_part_of_what_is_written(void **state)
{
    struct entry e = sample(), out;

    (void)state;
    round_trip(&e, &out);
    assert_int_equal(out.accessed, 0);
    assert_int_equal(out.accesses, 0);
    entry_clear(&out);
}

static void garbage_is_corrupt(void **state)
{
    static const char *const rows[] = {
        "",
        "\n",
        "{",
        "[]",
        "null",
        "{}",
        "{\"kind\":\"answer\"}",
        /* a number where words must stand, and the other way round */
        "{\"kind\":1,\"repo_id\":\"a\",\"url\":\"b\",\"path\":\"c\",\"size\":1,\"created\":1,"
        "\"note_offset\":1,"
        "\"objects\":1}",
        "{\"kind\":\"answer\",\"repo_id\":\"a\",\"url\":\"b\",\"path\":\"c\",\"size\":\"1\","
        "\"created\":1,"
        "\"note_offset\":1,\"objects\":1}",
        "{\"kind\":\"answer\",\"repo_id\":\"a\",\"url\":\"b\",\"path\":\"c\",\"size\":1,"
        "\"created\":1,"
        "\"note_offset\":1,\"objects\":1} behind",
        "{\"kind\":\"answer\",\"kind\":\"answer\",\"repo_id\":\"a\",\"url\":\"b\",\"path\":\"c\","
        "\"size\":1,"
        "\"created\":1,\"note_offset\":1,\"objects\":1}",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct entry out;
        struct err err;

        assert_int_equal(entry_read(rows[i], strlen(rows[i]), &out, &err), -1);
        assert_int_equal(err.kind, ERR_CORRUPT);
    }
}

static void every_cut_of_a_record_is_corrupt(void **state)
{
    struct entry e = sample(), out;
    struct bytes text;
    struct err err;

    (void)state;
    bytes_init(&text, 4096);
    assert_int_equal(entry_write(&e, &text), 0);
    for (size_t len = 0; len + 1 < text.len; len++)
        assert_int_equal(entry_read(text.data, len, &out, &err), -1);
    bytes_clear(&text);
}

static void a_full_buffer_is_told(void **state)
{
    struct entry e = sample();
    struct bytes text;

    (void)state;
    bytes_init(&text, 10);
    assert_int_equal(entry_write(&e, &text), -1);
    assert_int_equal(text.len, 0);
    bytes_clear(&text);
}

static void only_what_is_utf8_can_be_named(void **state)
{
    (void)state;
    assert_true(entry_can_name("origin/group/caf\xc3\xa9 \"1\""));
    assert_false(entry_can_name("origin/group/caf\xe9"));
    assert_false(entry_can_name("origin/\xc0\xaf"));
}

static void a_copy_stands_on_its_own(void **state)
{
    struct entry e = sample(), first, second;

    (void)state;
    e.node = (char *)"node";
    entry_copy(&e, &first);
    entry_copy(&first, &second);
    entry_clear(&first);
    assert_null(first.url);
    assert_string_equal(second.url, e.url);
    assert_string_equal(second.node, "node");
    assert_string_equal(second.path, e.path);
    entry_clear(&second);
    entry_clear(&second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_again),
        cmocka_unit_test(what_is_unknown_stays_unknown),
        cmocka_unit_test(what_has_less_than_no_bytes_is_no_entry),
        cmocka_unit_test(access_times_are_not_part_of_what_is_written),
        cmocka_unit_test(garbage_is_corrupt),
        cmocka_unit_test(every_cut_of_a_record_is_corrupt),
        cmocka_unit_test(a_full_buffer_is_told),
        cmocka_unit_test(only_what_is_utf8_can_be_named),
        cmocka_unit_test(a_copy_stands_on_its_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
