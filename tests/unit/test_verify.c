#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/cache.h"
#include "real_git.h"
#include "scratch.h"

/* One upstream repository for all tests. */
static struct real_git upstream;

struct fixture {
    struct scratch scratch;
    struct cache cache;
    struct cache_verify how;
    atomic_bool stop;

    /* What was told. */
    unsigned steps;
    uint64_t first_done, first_total, last_done, last_total;
    unsigned findings, repaired;
    enum err_kind kind; /* of the last finding */
    char *path;
};

static void on_progress(void *ctx, uint64_t done, uint64_t total)
{
    struct fixture *f = ctx;

    assert_true(done <= total);
    assert_true(f->steps == 0 || done >= f->last_done);
    if (f->steps++ == 0) {
        f->first_done = done;
        f->first_total = total;
    }
    f->last_done = done;
    f->last_total = total;
}

static void on_finding(void *ctx, const struct cache_finding *finding)
{
    struct fixture *f = ctx;

    f->findings++;
    f->repaired += finding->repaired;
    f->kind = finding->why->kind;
    free(f->path);
    f->path = xstrdup(finding->entry->path);
}

static int set_up(void **state)
{
    const struct cache_options options = {.limits = {.size = {.percent = 100}}, .git_processes = 2};
    struct fixture *f = xcalloc(1, sizeof(*f));
    struct err err;

    scratch_init(&f->scratch);
    assert_int_equal(cache_open(f->scratch.dir, NULL, &options, &f->cache, &err), 0);
    f->how = (struct cache_verify){
        .progress = on_progress, .finding = on_finding, .ctx = f, .stop = &f->stop};
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    cache_close(&f->cache);
    scratch_clear(&f->scratch);
    free(f->path);
    free(f);
    return 0;
}

/* ---- what is kept ---- */

static struct entry about(void)
{
    return (struct entry){.repo_id = xstrdup("00"),
                          .repo = xstrdup("example.org/r"),
                          .url = xstrdup("https://example.org/r")};
}

/* Keeps an answer; returns where, yours to free. */
static char *keep_answer(struct fixture *f, unsigned number, size_t len)
{
    struct entry entry = about();
    char hex[KEY_HEX_SIZE], *body = pattern(number, len);
    struct answer *a;
    struct key key;
    struct err err;
    bool leads;

    key_of(&number, sizeof(number), &key);
    key_to_hex(&key, hex);
    a = answers_join(f->cache.answers, &key, &leads);
    assert_true(leads);
    answers_begin(f->cache.answers, &key, a);
    assert_int_equal(answer_append(a, body, len, &err), 0);
    assert_true(answers_keep(f->cache.answers, &key, a, &entry));
    answer_unref(&a);
    entry_clear(&entry);
    free(body);
    return folder_pathf(f->cache.folder, "answers/%.2s/%s", hex, hex);
}

static void keep_answers(struct fixture *f, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        free(keep_answer(f, i, 10000));
}

static void make_pack(struct bytes *out)
{
    static const char revisions[] = "main\nv1\n";

    bytes_init(out, REAL_GIT_OUTPUT_MAX);
    assert_int_equal(REAL_GIT(&upstream, NULL, revisions, strlen(revisions), out, "git",
                              "pack-objects", "-q", "--revs", "--stdout"),
                     0);
}

static void keep_mirror(struct fixture *f)
{
    struct mirror *m = mirrors_get(f->cache.mirrors, "example.org", "r");
    struct entry entry = about();
    struct oid_list tips = {0};
    struct mirror_intake *in;
    struct bytes pack;
    struct oid tip = {0};
    char hex[65];
    struct err err;

    real_git_id(&upstream, "main", hex);
    assert_true(oid_from_hex(HASH_SHA1, hex, strlen(hex), &tip));
    oid_list_add(&tips, &tip);
    make_pack(&pack);
    mirror_write_begin(m);
    assert_int_equal(mirror_intake_begin(m, &entry, false, &in, &err), 0);
    assert_int_equal(mirror_intake_feed(in, pack.data, pack.len, &err), 0);
    assert_int_equal(mirror_intake_commit(&in, &tips, &err), 0);
    mirror_write_end(m);
    mirror_unref(&m);
    bytes_clear(&pack);
    oid_list_clear(&tips);
    entry_clear(&entry);
}

/* The mirror's only file below objects/pack/ that ends so; yours to free. */
static char *mirror_file(const struct fixture *f, const char *end)
{
    char *folder = folder_pathf(f->cache.folder, "mirrors/example.org/r.git/objects/pack");
    DIR *dir = opendir(folder);
    struct dirent *d;
    char *found = NULL;

    assert_non_null(dir);
    while (found == NULL && (d = readdir(dir)) != NULL)
        if (strlen(d->d_name) > strlen(end) &&
            strcmp(d->d_name + strlen(d->d_name) - strlen(end), end) == 0)
            found = xasprintf("%s/%s", folder, d->d_name);
    closedir(dir);
    free(folder);
    assert_non_null(found);
    return found;
}

/* ---- looking ---- */

/* How many findings there are. */
static unsigned verify(struct fixture *f, bool repair)
{
    struct err err;

    f->how.repair = repair;
    f->steps = f->findings = f->repaired = 0;
    if (cache_verify(&f->cache, &f->how, &err) != 0)
        fail_msg("%s", err.text);
    return f->findings;
}

static uint64_t kept_entries(struct fixture *f, enum entry_kind kind)
{
    struct local_usage usage;

    local_usage(f->cache.local, &usage);
    return usage.entries[kind];
}

static void nothing_is_verified_at_once(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(verify(f, false), 0);
    assert_int_equal(f->last_total, 0);
}

static void what_was_written_is_found_whole(void **state)
{
    struct fixture *f = *state;
    struct local_usage usage;
    uint64_t bytes;

    keep_answers(f, 3);
    keep_mirror(f);
    local_usage(f->cache.local, &usage);
    bytes = usage.bytes[ENTRY_ANSWER] + usage.bytes[ENTRY_MIRROR];
    assert_int_equal(verify(f, true), 0);
    assert_true(bytes > 30000);
    assert_int_equal(f->first_done, 0);
    assert_int_equal(f->first_total, bytes);
    assert_int_equal(f->last_done, bytes);
    assert_int_equal(f->last_total, bytes);
    assert_int_equal(f->steps, 4 + 2);
    assert_int_equal(kept_entries(f, ENTRY_ANSWER), 3);
    assert_int_equal(kept_entries(f, ENTRY_MIRROR), 1);
}

static void a_damaged_answer_is_found_and_stays_unless_it_is_to_be_repaired(void **state)
{
    struct fixture *f = *state;
    char *path = keep_answer(f, 7, 5000);

    keep_answers(f, 3);
    flip_byte(path, 2500);
    assert_int_equal(verify(f, false), 1);
    assert_int_equal(f->kind, ERR_CORRUPT);
    assert_int_equal(f->repaired, 0);
    assert_non_null(strstr(path, f->path));
    assert_true(exists(path));

    assert_int_equal(verify(f, true), 1);
    assert_int_equal(f->repaired, 1);
    assert_false(exists(path));
    assert_int_equal(kept_entries(f, ENTRY_ANSWER), 3);
    assert_int_equal(verify(f, true), 0);
    free(path);
}

static void a_damaged_mirror_is_found_and_stays_unless_it_is_to_be_repaired(void **state)
{
    struct fixture *f = *state;
    char *pack;

    keep_mirror(f);
    pack = mirror_file(f, ".pack");
    flip_byte(pack, size_of(pack) / 2);
    assert_int_equal(verify(f, false), 1);
    assert_int_equal(f->kind, ERR_CORRUPT);
    assert_string_equal(f->path, "mirrors/example.org/r.git");
    assert_true(exists(pack));

    assert_int_equal(verify(f, true), 1);
    assert_int_equal(f->repaired, 1);
    assert_false(exists(pack));
    assert_int_equal(kept_entries(f, ENTRY_MIRROR), 0);
    free(pack);
}

static void what_is_gone_is_not_damaged(void **state)
{
    struct fixture *f = *state;
    char *answer = keep_answer(f, 7, 5000);
    char *mirror = folder_pathf(f->cache.folder, "mirrors/example.org/r.git");

    keep_mirror(f);
    assert_int_equal(unlink(answer), 0);
    remove_tree(mirror);
    assert_int_equal(verify(f, true), 0);
    free(answer);
    free(mirror);
}

static void what_can_not_be_read_is_told_and_left_alone(void **state)
{
    struct fixture *f = *state;
    char *path = keep_answer(f, 7, 5000);

    /* Reading a folder fails, as root too. */
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(verify(f, true), 1);
    assert_int_equal(f->kind, ERR_STORAGE);
    assert_int_equal(f->repaired, 0);
    assert_int_equal(kept_entries(f, ENTRY_ANSWER), 1);
    free(path);
}

static void stop_after_first(void *ctx, uint64_t done, uint64_t total)
{
    struct fixture *f = ctx;

    on_progress(ctx, done, total);
    f->stop = done > 0;
}

static void it_stops_when_it_is_told_to(void **state)
{
    struct fixture *f = *state;

    keep_answers(f, 3);
    f->how.progress = stop_after_first;
    assert_int_equal(verify(f, false), 0);
    assert_int_equal(f->steps, 2);
    assert_true(f->last_done < f->last_total);
}

/* Entries whose answers are gone. */
static void publish_many(struct fixture *f, int count)
{
    struct entry e = about();

    e.stored_size = 1000;
    for (int i = 0; i < count; i++) {
        e.path = xasprintf("answers/00/%064d", i);
        local_publish(f->cache.local, &e, NULL);
        free(e.path);
    }
    e.path = NULL;
    entry_clear(&e);
}

static void more_than_are_copied_at_once_are_each_looked_at(void **state)
{
    enum { COUNT = 40000 };
    struct fixture *f = *state;

    publish_many(f, COUNT);
    assert_int_equal(verify(f, false), 0);
    assert_int_equal(f->steps, COUNT + 2);
    assert_int_equal(f->last_done, 1000 * COUNT);
}

static void what_the_index_does_not_say_is_not_called_whole(void **state)
{
    enum { COUNT = 40000, HEAD = 4096 };
    struct fixture *f = *state;
    char *index = folder_pathf(f->cache.folder, "index.db");
    struct err err;

    publish_many(f, COUNT);
    assert_int_equal(verify(f, false), 0); /* it is written, and larger than what SQLite keeps */
    assert_int_equal(truncate(index, HEAD), 0);
    f->steps = 0;
    assert_int_equal(cache_verify(&f->cache, &f->how, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
    free(index);
}

static int init_upstream(void **state)
{
    (void)state;
    real_git_init(&upstream, "sha1");
    return 0;
}

static int clear_upstream(void **state)
{
    (void)state;
    real_git_clear(&upstream);
    return 0;
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_verified_at_once),
        TEST(what_was_written_is_found_whole),
        TEST(a_damaged_answer_is_found_and_stays_unless_it_is_to_be_repaired),
        TEST(a_damaged_mirror_is_found_and_stays_unless_it_is_to_be_repaired),
        TEST(what_is_gone_is_not_damaged),
        TEST(what_can_not_be_read_is_told_and_left_alone),
        TEST(it_stops_when_it_is_told_to),
        TEST(more_than_are_copied_at_once_are_each_looked_at),
        TEST(what_the_index_does_not_say_is_not_called_whole),
    };

    return cmocka_run_group_tests(tests, init_upstream, clear_upstream);
}
