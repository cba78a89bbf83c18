#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/shared/invalidations.h"
#include "scratch.h"

static const char REPO[] = "1111111111111111111111111111111111111111111111111111111111111111";

struct bench {
    struct scratch scratch;
    struct object_store *store;
    /* What was handed out. */
    struct event events[8];
    char ids[8][EVENT_ID_SIZE];
    bool about_all[8];
    size_t count;
};

static int set_up(void **state)
{
    struct bench *b = xcalloc(1, sizeof(*b));
    struct object_store_config config = {.driver = "file", .deadline_ms = 60000};
    struct err err;

    scratch_init(&b->scratch);
    config.endpoint = b->scratch.dir;
    assert_int_equal(object_store_open(&config, &b->store, &err), 0);
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *b = *state;

    object_store_free(&b->store);
    scratch_clear(&b->scratch);
    free(b);
    return 0;
}

static void note(struct bench *b, enum event_scope scope, const char *repo_id, const char *id,
                 int64_t now_ms)
{
    struct event e = {.kind = EVENT_INVALIDATE,
                      .scope = scope,
                      .repo = "origin/r",
                      .name = "",
                      .reason = "a secret",
                      .node = "n"};
    struct err err;

    strcpy(e.repo_id, repo_id);
    if (invalidations_note(b->store, &e, id, now_ms, &err) != 0)
        fail_msg("%s", err.text);
}

static int take_event(void *ctx, const struct event *e, const char *id, struct err *err)
{
    struct bench *b = ctx;

    (void)err;
    b->events[b->count] = *e;
    strcpy(b->ids[b->count++], id);
    return 0;
}

static void take_name(void *ctx, const struct key *repo_id, const char *id)
{
    struct bench *b = ctx;
    char hex[KEY_HEX_SIZE];

    b->about_all[b->count] = repo_id == NULL;
    if (repo_id != NULL) {
        key_to_hex(repo_id, hex);
        assert_string_equal(hex, REPO);
    }
    strcpy(b->ids[b->count++], id);
}

static void a_note_tells_about_what_and_which_event_it_was(void **state)
{
    struct bench *b = *state;
    struct err err;

    note(b, SCOPE_REPOSITORY, REPO, "1700000000000-3 0123456789abcdef", 1700000000001);
    note(b, SCOPE_OBJECT, "", "1700000000005-0 0123456789abcdef", 1700000000006);
    note(b, SCOPE_EVERYTHING, "", "1700000000007-0", 1700000000008);
    assert_int_equal(invalidations_each(b->store, NULL, take_event, b, &err), 0);
    assert_int_equal(b->count, 3);
    assert_string_equal(b->events[0].repo_id, REPO);
    assert_int_equal(b->events[0].scope, SCOPE_REPOSITORY);
    assert_string_equal(b->ids[0], "1700000000000-3");
    assert_int_equal(b->events[1].scope, SCOPE_EVERYTHING);
    assert_int_equal(b->events[2].scope, SCOPE_EVERYTHING);
    b->count = 0;
    assert_int_equal(invalidations_list(b->store, take_name, b, &err), 0);
    assert_int_equal(b->count, 3);
    assert_false(b->about_all[0]);
    assert_true(b->about_all[1] && b->about_all[2]);
    assert_string_equal(b->ids[0], "1700000000000-3");
    assert_string_equal(b->ids[2], "1700000000007-0");
}

static void a_note_tells_whether_pins_go(void **state)
{
    struct bench *b = *state;
    struct event e = {.kind = EVENT_INVALIDATE,
                      .repo_id = "1111111111111111111111111111111111111111111111111111111111111111",
                      .repo = "origin/r",
                      .name = "",
                      .reason = "",
                      .node = "n",
                      .unpin = true};
    struct err err;

    assert_int_equal(invalidations_note(b->store, &e, "1700000000000-0", 1700000000001, &err), 0);
    e.unpin = false;
    assert_int_equal(invalidations_note(b->store, &e, "1700000000002-0", 1700000000003, &err), 0);
    assert_int_equal(invalidations_each(b->store, NULL, take_event, b, &err), 0);
    assert_int_equal(b->count, 2);
    assert_true(b->events[0].unpin);
    assert_false(b->events[1].unpin);
}

static ssize_t read_words(void *ctx, void *buf, size_t len, struct err *err)
{
    const char **words = ctx;
    size_t n = strlen(*words) < len ? strlen(*words) : len;

    (void)err;
    memcpy(buf, *words, n);
    *words += n;
    return (ssize_t)n;
}

/* As versions wrote it that let go of no pin by a note. */
static void a_note_without_a_word_on_pins_is_read(void **state)
{
    const char *words = "{\"scope\":0,\"repo_id\":\"11111111111111111111111111111111111111111111"
                        "11111111111111111111\",\"repo\":\"origin/r\",\"name\":\"\","
                        "\"reason\":\"\",\"node\":\"n\"}";
    const struct object_source source = {.fd = -1, .read = read_words, .ctx = &words};
    struct bench *b = *state;
    struct err err;

    assert_int_equal(
        object_put(b->store,
                   "invalidations/1700000000000-0123456789abcdef-1111111111111111111111"
                   "111111111111111111111111111111111111111111-1700000000000-0.json",
                   &source, NULL, NULL, &err),
        0);
    assert_int_equal(invalidations_each(b->store, NULL, take_event, b, &err), 0);
    assert_int_equal(b->count, 1);
    assert_int_equal(b->events[0].scope, SCOPE_REPOSITORY);
    assert_false(b->events[0].unpin);
}

static void old_ones_go_with_the_next(void **state)
{
    const int64_t then = 1700000000000, kept_ms = (int64_t)INVALIDATIONS_KEPT_S * 1000;
    struct bench *b = *state;
    struct err err;

    note(b, SCOPE_REPOSITORY, REPO, "1-1", then);
    note(b, SCOPE_REPOSITORY, REPO, "2-1", then + 1);
    note(b, SCOPE_REPOSITORY, REPO, "3-1", then + kept_ms + 1);
    assert_int_equal(invalidations_list(b->store, take_name, b, &err), 0);
    assert_int_equal(b->count, 2);
    assert_string_equal(b->ids[0], "2-1");
}

static ssize_t read_nothing(void *ctx, void *buf, size_t len, struct err *err)
{
    (void)ctx;
    (void)buf;
    (void)len;
    (void)err;
    return 0;
}

static void other_objects_are_none(void **state)
{
    static const char *const names[] = {
        "1700000000000-0123456789abcdef.json",
        "1700000000000-0123456789abcdef-most-1-1.json",
        "1700000000000-0123456789abcdef-all-1-x.json",
        "1700000000000-0123456789abcdef-all-1-1.json2",
        "1700000000000-0123456789abcdef-11-1-1.json",
    };
    const struct object_source nothing = {.fd = -1, .read = read_nothing};
    struct bench *b = *state;
    struct err err;

    note(b, SCOPE_REPOSITORY, REPO, "1-1", 1700000000000);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *key = xasprintf("invalidations/%s", names[i]);

        assert_int_equal(object_put(b->store, key, &nothing, NULL, NULL, &err), 0);
        free(key);
    }
    assert_int_equal(invalidations_list(b->store, take_name, b, &err), 0);
    assert_int_equal(b->count, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_note_tells_about_what_and_which_event_it_was, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_note_tells_whether_pins_go, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_note_without_a_word_on_pins_is_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(old_ones_go_with_the_next, set_up, tear_down),
        cmocka_unit_test_setup_teardown(other_objects_are_none, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
