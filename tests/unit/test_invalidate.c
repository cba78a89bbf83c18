#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/invalidate.h"
#include "protocol/base.h"
#include "protocol/smart_http.h"
#include "real_git.h"
#include "scratch.h"

#define REPO_A "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define REPO_B "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define OBJECT "1111111111111111111111111111111111111111"

/* One upstream repository for all tests. */
static struct real_git upstream;

struct fixture {
    struct scratch scratch;
    struct cache cache;
};

static int set_up(void **state)
{
    const struct cache_options options = {.limits = {.size = {.percent = 100}}, .git_processes = 2};
    struct fixture *f = xcalloc(1, sizeof(*f));
    struct err err;

    scratch_init(&f->scratch);
    assert_int_equal(cache_open(f->scratch.dir, NULL, &options, &f->cache, &err), 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    cache_close(&f->cache);
    scratch_clear(&f->scratch);
    free(f);
    return 0;
}

static struct key key_of_number(unsigned n)
{
    struct key key;

    key_of(&n, sizeof(n), &key);
    return key;
}

static void keep(struct fixture *f, unsigned number, const char *repo_id)
{
    struct answers *answers = f->cache.answers;
    struct key key = key_of_number(number);
    struct entry e = {.repo_id = xstrdup(repo_id),
                      .repo = xstrdup("host/repo"),
                      .url = xstrdup("https://host/repo")};
    struct answer *a;
    struct err err;
    bool leads;

    a = answers_join(answers, &key, &leads);
    assert_true(leads);
    answers_begin(answers, &key, a);
    assert_int_equal(answer_append(a, "what is kept", 12, &err), 0);
    assert_true(answers_keep(answers, &key, a, &e));
    answer_unref(&a);
    entry_clear(&e);
}

static bool have(struct fixture *f, unsigned number)
{
    struct key key = key_of_number(number);

    return answers_have(f->cache.answers, &key);
}

static struct invalidated invalidate(struct fixture *f, enum event_scope scope, const char *repo_id,
                                     const char *object)
{
    const struct invalidation what = {.scope = scope, .repo_id = repo_id, .object = object};
    uint64_t before = cache_epoch(&f->cache);
    struct invalidated out;
    struct err err;

    assert_int_equal(cache_invalidate(&f->cache, &what, &out, &err), 0);
    assert_true(cache_epoch(&f->cache) > before);
    return out;
}

static void a_repository_goes_and_leaves_the_others(void **state)
{
    struct fixture *f = *state;
    struct invalidated gone;

    keep(f, 1, REPO_A);
    keep(f, 2, REPO_A);
    keep(f, 3, REPO_B);
    gone = invalidate(f, SCOPE_REPOSITORY, REPO_A, "");
    assert_int_equal(gone.answers, 2);
    assert_true(gone.bytes > 0);
    assert_false(have(f, 1));
    assert_false(have(f, 2));
    assert_true(have(f, 3));
    assert_int_equal(invalidate(f, SCOPE_REPOSITORY, REPO_A, "").answers, 0);
}

static void what_is_read_just_now_goes_for_all_who_come_later(void **state)
{
    struct fixture *f = *state;
    struct key key = key_of_number(1);
    struct answer *read;
    char bytes[12];

    keep(f, 1, REPO_A);
    read = answers_peek(f->cache.answers, &key);
    assert_non_null(read);
    assert_int_equal(invalidate(f, SCOPE_REPOSITORY, REPO_A, "").answers, 1);
    assert_null(answers_peek(f->cache.answers, &key));
    assert_int_equal(pread(answer_fd(read), bytes, sizeof(bytes), 0), 12);
    answer_unref(&read);
}

/* Which answers hold it can't be told, so all of the repository go. */
static void an_object_takes_all_answers_of_its_repository(void **state)
{
    struct fixture *f = *state;

    keep(f, 1, REPO_A);
    keep(f, 3, REPO_B);
    assert_int_equal(invalidate(f, SCOPE_OBJECT, REPO_A, OBJECT).answers, 1);
    assert_false(have(f, 1));
    assert_true(have(f, 3));
}

static void a_ref_takes_nothing_that_is_kept_by_ids(void **state)
{
    struct fixture *f = *state;

    keep(f, 1, REPO_A);
    assert_int_equal(invalidate(f, SCOPE_REF, REPO_A, "refs/heads/main").answers, 0);
    assert_true(have(f, 1));
}

static void everything_goes(void **state)
{
    struct fixture *f = *state;

    keep(f, 1, REPO_A);
    keep(f, 3, REPO_B);
    assert_int_equal(invalidate(f, SCOPE_EVERYTHING, "", "").answers, 2);
    assert_false(have(f, 1));
    assert_false(have(f, 3));
}

static void a_pin_goes_only_when_that_is_said(void **state)
{
    struct fixture *f = *state;
    struct invalidation what = {.scope = SCOPE_REPOSITORY, .repo_id = REPO_A, .object = ""};
    struct invalidated out;
    struct err err;
    int64_t since_s;

    assert_int_equal(local_pin(f->cache.local, REPO_A, 5, &err), 0);
    invalidate(f, SCOPE_REPOSITORY, REPO_A, "");
    invalidate(f, SCOPE_EVERYTHING, "", "");
    what.unpin_s = 5;
    what.dry_run = true;
    assert_int_equal(cache_invalidate(&f->cache, &what, &out, &err), 0);
    assert_true(local_is_pinned(f->cache.local, REPO_A, &since_s));
    what.dry_run = false;
    assert_int_equal(cache_invalidate(&f->cache, &what, &out, &err), 0);
    assert_false(local_is_pinned(f->cache.local, REPO_A, &since_s));
    /* It was not pinned: that is no trouble. */
    assert_int_equal(cache_invalidate(&f->cache, &what, &out, &err), 0);
}

/* It is told twice, and again after a restart. */
static void a_pin_that_is_newer_than_the_removal_stays(void **state)
{
    struct fixture *f = *state;
    const struct invalidation what = {
        .scope = SCOPE_REPOSITORY, .repo_id = REPO_A, .object = "", .unpin_s = 5};
    struct invalidated out;
    struct err err;
    int64_t since_s;

    keep(f, 1, REPO_A);
    assert_int_equal(local_pin(f->cache.local, REPO_A, 6, &err), 0);
    assert_int_equal(cache_invalidate(&f->cache, &what, &out, &err), 0);
    assert_false(have(f, 1));
    assert_true(local_is_pinned(f->cache.local, REPO_A, &since_s));
    assert_int_equal(since_s, 6);
}

/* Nobody finds it in the index, but who makes it has a handle.  Who invalidates may know no more
 * than the repository's id. */
static void a_mirror_that_is_being_made_is_not_published(void **state)
{
    struct fixture *f = *state;
    struct invalidation what = {.scope = SCOPE_REPOSITORY, .object = ""};
    char repo_id[KEY_HEX_SIZE];
    struct key id;
    struct invalidated out;
    struct mirror *m = mirrors_get(f->cache.mirrors, "host", "repo");
    struct mirror_intake *in = NULL;
    struct oid_list none = {0};
    struct err err;

    mirror_write_begin(m);
    assert_int_equal(mirror_intake_begin(m, NULL, false, &in, &err), 0);
    repo_id_of("host", "repo", &id);
    key_to_hex(&id, repo_id);
    what.repo_id = repo_id;
    assert_int_equal(cache_invalidate(&f->cache, &what, &out, &err), 0);
    /* A pack of no objects. */
    assert_int_equal(mirror_intake_feed(in,
                                        "PACK\0\0\0\2\0\0\0\0\x02\x9d\x08\x82\x3b\xd8\xa8\xea\xb5"
                                        "\x10\xad\x6a\xc7\x5c\x82\x3c\xfd\x3e\xd3\x1e",
                                        32, &err),
                     0);
    assert_int_equal(mirror_intake_commit(&in, &none, &err), -1);
    assert_int_equal(err.kind, ERR_CANCELLED);
    mirror_write_end(m);
    assert_false(mirror_ready(m));
    mirror_unref(&m);
}

static struct oid id_of(const char *revision)
{
    struct oid id = {0};
    char hex[65];

    real_git_id(&upstream, revision, hex);
    assert_true(oid_from_hex(HASH_SHA1, hex, strlen(hex), &id));
    return id;
}

static void take_in(struct mirror *m, const char *revisions, const char *tip)
{
    const struct entry about = {.kind = ENTRY_MIRROR,
                                .repo_id = (char *)REPO_A,
                                .repo = (char *)"host/repo",
                                .url = (char *)"https://host/repo"};
    struct oid id = id_of(tip);
    struct oid_list tips = {0};
    struct mirror_intake *in;
    struct bytes pack;
    struct err err;

    bytes_init(&pack, REAL_GIT_OUTPUT_MAX);
    oid_list_add(&tips, &id);
    assert_int_equal(REAL_GIT(&upstream, NULL, revisions, strlen(revisions), &pack, "git",
                              "pack-objects", "-q", "--revs", "--stdout", "--thin"),
                     0);
    mirror_write_begin(m);
    assert_int_equal(mirror_intake_begin(m, &about, false, &in, &err), 0);
    assert_int_equal(mirror_intake_feed(in, pack.data, pack.len, &err), 0);
    assert_int_equal(mirror_intake_commit(&in, &tips, &err), 0);
    mirror_write_end(m);
    bytes_clear(&pack);
    oid_list_clear(&tips);
}

static void make_mirror(struct fixture *f)
{
    struct mirror *m = mirrors_get(f->cache.mirrors, "host", "repo");

    take_in(m, "main~4\n", "main~4");
    take_in(m, "main~1\n^main~4\n", "main~1");
    assert_true(mirror_ready(m));
    mirror_unref(&m);
}

static bool have_mirror(struct fixture *f)
{
    struct mirror *m = mirrors_get(f->cache.mirrors, "host", "repo");
    bool ready = mirror_ready(m);

    mirror_unref(&m);
    return ready;
}

static void a_mirror_without_the_object_stays(void **state)
{
    struct fixture *f = *state;
    struct oid id = id_of("main");
    char hex[OID_HEX_SIZE];

    make_mirror(f);
    oid_to_hex(HASH_SHA1, &id, hex);
    assert_int_equal(invalidate(f, SCOPE_OBJECT, REPO_A, hex).mirrors, 0);
    assert_true(have_mirror(f));
    id = id_of("main~4");
    oid_to_hex(HASH_SHA1, &id, hex);
    assert_int_equal(invalidate(f, SCOPE_OBJECT, REPO_A, hex).mirrors, 1);
    assert_false(have_mirror(f));
}

static int make_upstream(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    real_git_init(&upstream, "sha1");
    return 0;
}

static int remove_upstream(void **state)
{
    (void)state;
    real_git_clear(&upstream);
    return 0;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_repository_goes_and_leaves_the_others),
        TEST(what_is_read_just_now_goes_for_all_who_come_later),
        TEST(an_object_takes_all_answers_of_its_repository),
        TEST(a_ref_takes_nothing_that_is_kept_by_ids),
        TEST(everything_goes),
        TEST(a_pin_goes_only_when_that_is_said),
        TEST(a_pin_that_is_newer_than_the_removal_stays),
        TEST(a_mirror_that_is_being_made_is_not_published),
        TEST(a_mirror_without_the_object_stays),
    };

    return cmocka_run_group_tests(tests, make_upstream, remove_upstream);
}
