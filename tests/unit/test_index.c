#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "cache/local/index.h"
#include "scratch.h"

enum {
    MANY = 10000, /* more rows than SQLite keeps in memory */
    PAGE = 4096,
};

struct fixture {
    struct scratch scratch;
    char *path, *journal;
    struct index *index;
    bool fresh;
    struct err err;
};

static int set_up(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));

    scratch_init(&f->scratch);
    f->path = scratch_path(&f->scratch, "index.db");
    f->journal = scratch_path(&f->scratch, "index.db-wal");
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    index_close(&f->index);
    scratch_clear(&f->scratch);
    free(f->path);
    free(f->journal);
    free(f);
    return 0;
}

static void open_it(struct fixture *f, bool fresh)
{
    if (index_open(f->path, &f->index, &f->fresh, &f->err) != 0)
        fail_msg("%s", f->err.text);
    assert_int_equal(f->fresh, fresh);
}

static void reopen(struct fixture *f, bool fresh)
{
    index_close(&f->index);
    open_it(f, fresh);
}

/* ---- entries ---- */

static struct entry sample(const char *path)
{
    return (struct entry){
        .kind = ENTRY_MIRROR,
        .repo_id = (char *)"00ff",
        .repo = (char *)"example.org/r",
        .url = (char *)"https://example.org/group/repo 'quoted'",
        .ref = (char *)"refs/heads/\xc3\xbc",
        .commit = (char *)"1234",
        .size = UINT64_C(1) << 40,
        .stored_size = INT64_MAX,
        .created = 1700000000,
        .accessed = -5,
        .accesses = 6,
        .tier = TIER_SHARED,
        .path = (char *)path,
        .node = (char *)"node",
        .note_offset = -1,
        .objects = UINT32_MAX,
    };
}

static void assert_same_text(const char *a, const char *b)
{
    assert_int_equal(a == NULL, b == NULL);
    if (a != NULL)
        assert_string_equal(a, b);
}

static void assert_same_entry(const struct entry *a, const struct entry *b)
{
    assert_int_equal(a->kind, b->kind);
    assert_same_text(a->repo_id, b->repo_id);
    assert_same_text(a->repo, b->repo);
    assert_same_text(a->url, b->url);
    assert_same_text(a->ref, b->ref);
    assert_same_text(a->commit, b->commit);
    assert_true(a->size == b->size);
    assert_true(a->stored_size == b->stored_size);
    assert_true(a->created == b->created);
    assert_true(a->accessed == b->accessed);
    assert_true(a->accesses == b->accesses);
    assert_int_equal(a->tier, b->tier);
    assert_same_text(a->path, b->path);
    assert_same_text(a->node, b->node);
    assert_true(a->note_offset == b->note_offset);
    assert_true(a->objects == b->objects);
}

static void begin(struct fixture *f)
{
    assert_int_equal(index_begin(f->index, &f->err), 0);
}

static void commit(struct fixture *f)
{
    assert_int_equal(index_commit(f->index, &f->err), 0);
}

static void put_one(struct fixture *f, const struct entry *e)
{
    begin(f);
    assert_int_equal(index_put(f->index, e, &f->err), 0);
    commit(f);
}

static void put_path(struct fixture *f, const char *path, int64_t accessed)
{
    struct entry e = sample(path);

    e.accessed = accessed;
    put_one(f, &e);
}

/* A path as long as those of answers; numbers say how new. */
static char *numbered(int n)
{
    return xasprintf("answers/00/%064d", n);
}

static int put_numbered(struct fixture *f, int from, int count)
{
    int rc = 0;

    for (int i = from; i < from + count && rc == 0; i++) {
        char *path = numbered(i);
        struct entry e = sample(path);

        e.accessed = i;
        rc = index_put(f->index, &e, &f->err);
        free(path);
    }
    return rc;
}

static void fill(struct fixture *f, int count)
{
    begin(f);
    assert_int_equal(put_numbered(f, 0, count), 0);
    commit(f);
}

static int append_path(void *ctx, const struct entry *e)
{
    assert_int_equal(bytes_addf(ctx, "%s ", e->path), 0);
    return 0;
}

static void assert_order(struct fixture *f, const char *expected)
{
    struct bytes paths;

    bytes_init(&paths, 4096);
    assert_int_equal(bytes_add_str(&paths, ""), 0);
    assert_int_equal(index_each(f->index, append_path, &paths, &f->err), 0);
    assert_string_equal(paths.len > 0 ? paths.data : "", expected);
    bytes_clear(&paths);
}

static int count_one(void *ctx, const struct entry *e)
{
    (void)e;
    ++*(int *)ctx;
    return 0;
}

static int count_all(struct fixture *f)
{
    int count = 0;

    assert_int_equal(index_each(f->index, count_one, &count, &f->err), 0);
    return count;
}

/* ---- what it does ---- */

static void one_that_was_never_there_is_fresh_and_empty(void **state)
{
    struct fixture *f = *state;
    struct stat st;

    open_it(f, true);
    assert_int_equal(count_all(f), 0);
    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    reopen(f, false);
    assert_int_equal(count_all(f), 0);
}

static void what_was_put_is_found_after_opening_anew(void **state)
{
    struct fixture *f = *state;
    struct entry full = sample("full"), bare = sample("bare"), out;

    bare.ref = bare.commit = bare.node = NULL;
    bare.kind = ENTRY_ANSWER;
    bare.tier = TIER_LOCAL;
    bare.size = bare.stored_size = bare.accesses = bare.objects = 0;
    open_it(f, true);
    put_one(f, &full);
    put_one(f, &bare);
    reopen(f, false);
    assert_int_equal(index_get(f->index, "full", &out, &f->err), 0);
    assert_same_entry(&out, &full);
    entry_clear(&out);
    assert_int_equal(index_get(f->index, "bare", &out, &f->err), 0);
    assert_same_entry(&out, &bare);
    entry_clear(&out);
}

static void what_is_not_there_is_not_found(void **state)
{
    struct fixture *f = *state;
    struct entry out;

    open_it(f, true);
    put_path(f, "here", 1);
    assert_int_equal(index_get(f->index, "her", &out, &f->err), -1);
    assert_int_equal(f->err.kind, ERR_NOT_FOUND);
}

static void a_path_has_one_entry_the_latest(void **state)
{
    struct fixture *f = *state;
    struct entry e = sample("a"), out;

    open_it(f, true);
    put_one(f, &e);
    e.url = (char *)"https://example.org/other";
    e.ref = NULL;
    e.stored_size = 3;
    put_one(f, &e);
    assert_order(f, "a ");
    assert_int_equal(index_get(f->index, "a", &out, &f->err), 0);
    assert_same_entry(&out, &e);
    entry_clear(&out);
}

static void a_touch_changes_time_and_count_and_nothing_else(void **state)
{
    struct fixture *f = *state;
    struct entry e = sample("a"), out;

    open_it(f, true);
    put_one(f, &e);
    begin(f);
    assert_int_equal(index_touch(f->index, "a", 1800000000, 77, &f->err), 0);
    assert_int_equal(index_touch(f->index, "unknown", 1, 1, &f->err), 0);
    commit(f);
    e.accessed = 1800000000;
    e.accesses = 77;
    assert_int_equal(index_get(f->index, "a", &out, &f->err), 0);
    assert_same_entry(&out, &e);
    entry_clear(&out);
    assert_order(f, "a ");
}

static void what_was_removed_is_gone_and_the_unknown_may_be_removed(void **state)
{
    struct fixture *f = *state;

    open_it(f, true);
    put_path(f, "a", 1);
    put_path(f, "b", 2);
    begin(f);
    assert_int_equal(index_remove(f->index, "a", &f->err), 0);
    assert_int_equal(index_remove(f->index, "unknown", &f->err), 0);
    commit(f);
    reopen(f, false);
    assert_order(f, "b ");
}

static void each_comes_in_the_order_of_last_access(void **state)
{
    struct fixture *f = *state;

    open_it(f, true);
    put_path(f, "third", 30);
    put_path(f, "first", -10);
    put_path(f, "fourth", INT64_C(1) << 40);
    put_path(f, "second", 20);
    assert_order(f, "first second third fourth ");
    begin(f);
    assert_int_equal(index_touch(f->index, "first", 31, 1, &f->err), 0);
    commit(f);
    assert_order(f, "second third first fourth ");
}

static int stop_at_second(void *ctx, const struct entry *e)
{
    (void)e;
    return ++*(int *)ctx == 2 ? 42 : 0;
}

static void each_ends_when_it_is_told_to(void **state)
{
    struct fixture *f = *state;
    int count = 0;

    open_it(f, true);
    fill(f, 5);
    assert_int_equal(index_each(f->index, stop_at_second, &count, &f->err), 42);
    assert_int_equal(count, 2);
    assert_int_equal(count_all(f), 5);
}

static void a_rollback_leaves_what_was(void **state)
{
    struct fixture *f = *state;

    open_it(f, true);
    put_path(f, "a", 1);
    put_path(f, "b", 2);
    begin(f);
    put_numbered(f, 0, 10);
    assert_int_equal(index_touch(f->index, "a", 3, 1, &f->err), 0);
    assert_int_equal(index_remove(f->index, "b", &f->err), 0);
    index_rollback(f->index);
    assert_order(f, "a b ");
    put_path(f, "c", 3); /* and the next transaction is one */
    reopen(f, false);
    assert_order(f, "a b c ");
}

static void closing_in_a_transaction_is_a_rollback(void **state)
{
    struct fixture *f = *state;

    open_it(f, true);
    put_path(f, "a", 1);
    begin(f);
    assert_int_equal(index_remove(f->index, "a", &f->err), 0);
    reopen(f, false);
    assert_order(f, "a ");
}

/* Writes more than memory holds, tells, and waits to be killed, or for the end of who would. */
static void change_and_wait(struct fixture *f, int parent)
{
    bool fresh;
    char byte;

    if (index_open(f->path, &f->index, &fresh, &f->err) == 0 && !fresh &&
        index_begin(f->index, &f->err) == 0 && put_numbered(f, MANY, MANY) == 0 &&
        index_remove(f->index, "a", &f->err) == 0 && write(parent, "x", 1) == 1)
        (void)!read(parent, &byte, 1);
    _exit(1);
}

static void a_kill_in_a_transaction_leaves_what_was(void **state)
{
    struct fixture *f = *state;
    int ends[2], status;
    char byte;
    pid_t child;

    open_it(f, true);
    put_path(f, "a", 1);
    put_path(f, "b", 2);
    index_close(&f->index);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(ends[0]);
        change_and_wait(f, ends[1]);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_true(size_of(f->journal) > 1 << 20);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    close(ends[0]);
    open_it(f, false);
    assert_order(f, "a b ");
}

/* ---- damage ---- */

/* A closed index with some rows. */
static void make_one(struct fixture *f, int rows)
{
    open_it(f, true);
    fill(f, rows);
    index_close(&f->index);
}

static void assert_made_anew(struct fixture *f)
{
    open_it(f, true);
    assert_int_equal(count_all(f), 0);
    put_path(f, "a", 1);
    reopen(f, false);
    assert_order(f, "a ");
}

static void overwrite(const char *path, uint64_t at, int byte, size_t len)
{
    char *data = xmalloc(len);
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    memset(data, byte, len);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, len, (off_t)at), len);
    close(fd);
    free(data);
}

/* len bytes at an offset of SQLite's file head. */
static void set_in_head(struct fixture *f, uint64_t at, const char *bytes, size_t len)
{
    int fd = open(f->path, O_WRONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, len, (off_t)at), len);
    close(fd);
}

static void garbage_is_replaced(void **state)
{
    struct fixture *f = *state;

    put_file(f->path, "garbage\n", 8);
    assert_made_anew(f);
    index_close(&f->index);
    overwrite(f->path, 0, 0xa5, 5 * PAGE);
    assert_made_anew(f);
}

static void an_empty_file_is_replaced(void **state)
{
    struct fixture *f = *state;

    put_file(f->path, "", 0);
    assert_made_anew(f);
}

static void a_truncated_one_is_replaced(void **state)
{
    static const uint64_t lengths[] = {1, 99, 100, PAGE - 1, PAGE, 3 * PAGE, 5 * PAGE + 7};
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        make_one(f, 100);
        assert_true(size_of(f->path) > lengths[i]);
        assert_int_equal(truncate(f->path, (off_t)lengths[i]), 0);
        assert_made_anew(f);
        index_close(&f->index);
        assert_int_equal(unlink(f->path), 0);
    }
}

static void a_damaged_page_in_the_middle_is_found_at_opening(void **state)
{
    static const int bytes[] = {0, 0xa5, 0xff};
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(bytes); i++) {
        uint64_t middle;

        make_one(f, 1000);
        middle = size_of(f->path) / 2 / PAGE * PAGE;
        overwrite(f->path, middle, bytes[i], PAGE);
        assert_made_anew(f);
        index_close(&f->index);
        assert_int_equal(unlink(f->path), 0);
    }
}

static void one_of_another_version_is_replaced(void **state)
{
    struct fixture *f = *state;

    make_one(f, 10);
    set_in_head(f, 60, "\0\0\0\3", 4); /* user_version */
    assert_made_anew(f);
}

static void one_of_another_program_is_replaced(void **state)
{
    struct fixture *f = *state;

    make_one(f, 10);
    set_in_head(f, 68, "GPKG", 4); /* application_id */
    assert_made_anew(f);
}

static void one_of_a_later_sqlite_is_replaced(void **state)
{
    /* What may write it, what may read it, the format of its tables. */
    static const struct {
        uint64_t at;
        const char *bytes;
        size_t len;
    } rows[] = {{18, "\3", 1}, {19, "\3", 1}, {44, "\0\0\0\5", 4}};
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        make_one(f, 10);
        set_in_head(f, rows[i].at, rows[i].bytes, rows[i].len);
        assert_made_anew(f);
        index_close(&f->index);
        assert_int_equal(unlink(f->path), 0);
    }
}

static void a_journal_whose_index_is_lost_is_not_played(void **state)
{
    struct fixture *f = *state;
    char data[64 * 1024];
    ssize_t len;
    int fd;

    open_it(f, true);
    fill(f, 10);
    fd = open(f->journal, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    len = read(fd, data, sizeof(data));
    assert_true(len > 0);
    close(fd);
    index_close(&f->index);
    assert_int_equal(unlink(f->path), 0);
    put_file(f->journal, data, (size_t)len);
    assert_made_anew(f);
}

static void a_journal_of_garbage_is_ignored(void **state)
{
    struct fixture *f = *state;
    char *garbage = pattern(1, 64 * 1024);

    make_one(f, 10);
    put_file(f->journal, garbage, 64 * 1024);
    open_it(f, false);
    assert_int_equal(count_all(f), 10);
    free(garbage);
}

/* All pages but the first are lost while it is open. */
static void lose_pages(struct fixture *f)
{
    make_one(f, MANY);
    open_it(f, false);
    overwrite(f->path, PAGE, 0, size_of(f->path) - PAGE);
}

static void damage_that_shows_while_reading_is_told_and_gone_after_opening_anew(void **state)
{
    struct fixture *f = *state;
    int count = 0;

    lose_pages(f);
    assert_int_equal(index_each(f->index, count_one, &count, &f->err), -1);
    assert_int_equal(f->err.kind, ERR_CORRUPT);
    index_close(&f->index);
    assert_made_anew(f);
}

static void damage_that_shows_while_looking_up_is_told(void **state)
{
    struct fixture *f = *state;
    int rc = 0;

    lose_pages(f);
    for (int i = 0; i < MANY && rc == 0; i++) {
        char *path = numbered(i);
        struct entry e;

        rc = index_get(f->index, path, &e, &f->err);
        if (rc == 0)
            entry_clear(&e);
        free(path);
    }
    assert_int_equal(rc, -1);
    assert_int_equal(f->err.kind, ERR_CORRUPT);
    index_close(&f->index);
    assert_made_anew(f);
}

static void damage_that_shows_while_writing_is_told_and_gone_after_opening_anew(void **state)
{
    struct fixture *f = *state;
    int rc = 0;

    lose_pages(f);
    begin(f);
    for (int i = 0; i < MANY && rc == 0; i++) {
        char *path = numbered(i);

        rc = index_touch(f->index, path, 1, 1, &f->err);
        free(path);
    }
    assert_int_equal(rc, -1);
    assert_int_equal(f->err.kind, ERR_CORRUPT);
    index_rollback(f->index);
    index_close(&f->index);
    assert_made_anew(f);
}

/* ---- a disk that doesn't do what it should ---- */

static void assert_cannot_open(struct fixture *f, const char *path)
{
    assert_int_equal(index_open(path, &f->index, &f->fresh, &f->err), -1);
    assert_int_equal(f->err.kind, ERR_STORAGE);
    assert_null(f->index);
}

static void a_place_where_nothing_can_be_made_is_told(void **state)
{
    struct fixture *f = *state;
    char *in_nothing = scratch_path(&f->scratch, "nothing/index.db");
    char *in_file = scratch_path(&f->scratch, "file/index.db");
    char *file = scratch_path(&f->scratch, "file");

    put_file(file, "", 0);
    assert_cannot_open(f, in_nothing);
    assert_cannot_open(f, in_file);
    assert_cannot_open(f, f->scratch.dir);
    free(in_nothing);
    free(in_file);
    free(file);
}

static void become(uid_t uid)
{
    if (geteuid() == 0 || getuid() == 0)
        assert_int_equal(seteuid(uid), 0);
}

static void in_an_unwritable_folder_none_is_made_and_none_is_lost(void **state)
{
    const uid_t nobody = 65534;
    struct fixture *f = *state;

    make_one(f, 10);
    assert_int_equal(chmod(f->path, 0644), 0);
    assert_int_equal(chmod(f->scratch.dir, 0555), 0);
    become(nobody);
    assert_cannot_open(f, f->path);
    become(getuid());
    assert_int_equal(chmod(f->scratch.dir, 0755), 0);
    open_it(f, false);
    assert_int_equal(count_all(f), 10);
    index_close(&f->index);

    assert_int_equal(unlink(f->path), 0);
    assert_int_equal(chmod(f->scratch.dir, 0555), 0);
    become(nobody);
    assert_cannot_open(f, f->path);
    become(getuid());
    assert_int_equal(chmod(f->scratch.dir, 0755), 0);
}

static void limit_files(rlim_t bytes)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void changes_that_the_disk_does_not_take_fail_together_and_can_be_tried_again(void **state)
{
    struct fixture *f = *state;
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);

    open_it(f, true);
    put_path(f, "a", -1);
    limit_files(64 * 1024);
    begin(f);
    assert_int_equal(put_numbered(f, 0, MANY), -1);
    assert_int_equal(f->err.kind, ERR_STORAGE);
    /* Whoever goes on doesn't write half of it. */
    (void)index_put(
        f->index,
        &(struct entry){
            .repo_id = (char *)"", .repo = (char *)"", .url = (char *)"", .path = (char *)"half"},
        &f->err);
    index_rollback(f->index);
    assert_order(f, "a ");
    limit_files(RLIM_INFINITY);
    begin(f);
    assert_int_equal(put_numbered(f, 0, MANY), 0);
    commit(f);
    assert_int_equal(count_all(f), MANY + 1);
    signal(SIGXFSZ, before);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(one_that_was_never_there_is_fresh_and_empty),
        TEST(what_was_put_is_found_after_opening_anew),
        TEST(what_is_not_there_is_not_found),
        TEST(a_path_has_one_entry_the_latest),
        TEST(a_touch_changes_time_and_count_and_nothing_else),
        TEST(what_was_removed_is_gone_and_the_unknown_may_be_removed),
        TEST(each_comes_in_the_order_of_last_access),
        TEST(each_ends_when_it_is_told_to),
        TEST(a_rollback_leaves_what_was),
        TEST(closing_in_a_transaction_is_a_rollback),
        TEST(a_kill_in_a_transaction_leaves_what_was),
        TEST(garbage_is_replaced),
        TEST(an_empty_file_is_replaced),
        TEST(a_truncated_one_is_replaced),
        TEST(a_damaged_page_in_the_middle_is_found_at_opening),
        TEST(one_of_another_version_is_replaced),
        TEST(one_of_another_program_is_replaced),
        TEST(one_of_a_later_sqlite_is_replaced),
        TEST(a_journal_whose_index_is_lost_is_not_played),
        TEST(a_journal_of_garbage_is_ignored),
        TEST(damage_that_shows_while_reading_is_told_and_gone_after_opening_anew),
        TEST(damage_that_shows_while_looking_up_is_told),
        TEST(damage_that_shows_while_writing_is_told_and_gone_after_opening_anew),
        TEST(a_place_where_nothing_can_be_made_is_told),
        TEST(in_an_unwritable_folder_none_is_made_and_none_is_lost),
        TEST(changes_that_the_disk_does_not_take_fail_together_and_can_be_tried_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
