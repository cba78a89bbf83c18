#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/answer.h"
#include "cache/lock.h"
#include "scratch.h"

/* One reader with a thread of its own that sleeps until it is woken, as an HTTP connection does. */
struct follower {
    struct answer_reader reader;
    pthread_mutex_t mutex;
    pthread_cond_t more;
    bool woken;
    atomic_uint wakes, arms;

    struct answer *answer;
    unsigned seed;
    uint64_t seen;
    bool wrong;
    ssize_t ended; /* READER_END or READER_FAILED */
};

static void on_wake(void *ctx)
{
    struct follower *f = ctx;

    pthread_mutex_lock(&f->mutex);
    f->woken = true;
    atomic_fetch_add(&f->wakes, 1);
    pthread_cond_signal(&f->more);
    pthread_mutex_unlock(&f->mutex);
}

static void follower_init(struct follower *f, struct answer *a, unsigned seed)
{
    struct err err;

    *f = (struct follower){.answer = a, .seed = seed, .ended = 1};
    pthread_mutex_init(&f->mutex, NULL);
    pthread_cond_init(&f->more, NULL);
    assert_int_equal(answer_reader_open(&f->reader, a, on_wake, f, &err), 0);
}

static void follower_clear(struct follower *f)
{
    answer_reader_close(&f->reader);
    pthread_cond_destroy(&f->more);
    pthread_mutex_destroy(&f->mutex);
}

static void sleep_until_woken(struct follower *f)
{
    if (!answer_reader_arm(&f->reader))
        return;
    atomic_fetch_add(&f->arms, 1);
    pthread_mutex_lock(&f->mutex);
    while (!f->woken)
        pthread_cond_wait(&f->more, &f->mutex);
    f->woken = false;
    pthread_mutex_unlock(&f->mutex);
}

/* Reads at most `most` bytes to the end in blocks of random sizes. */
static void follow(struct follower *f, uint64_t most)
{
    static const size_t BLOCK_MAX = 100000;
    char *block = xmalloc(BLOCK_MAX);

    while (f->seen < most) {
        size_t len = 1 + (size_t)rand_r(&f->seed) % BLOCK_MAX;
        ssize_t n;

        if (len > most - f->seen)
            len = (size_t)(most - f->seen);
        n = answer_reader_read(&f->reader, block, len);
        if (n == READER_WAIT) {
            sleep_until_woken(f);
        } else if (n <= 0) {
            f->ended = n;
            break;
        } else {
            for (ssize_t i = 0; i < n; i++)
                f->wrong |= block[i] != byte_at(f->seen + (uint64_t)i);
            f->seen += (uint64_t)n;
        }
    }
    free(block);
}

static void *follow_to_the_end(void *ctx)
{
    follow(ctx, UINT64_MAX);
    return NULL;
}

static struct answer *stored_answer(const struct scratch *s)
{
    struct answer *a = answer_new_filling();
    char *path = scratch_path(s, "answer");
    struct claim *none = NULL;

    answer_store_at(a, path, &none);
    free(path);
    return a;
}

static void append_pattern(struct answer *a, size_t len)
{
    uint64_t at = answer_size(a);
    char *data = pattern(at, len);
    struct err err;

    assert_int_equal(answer_append(a, data, len, &err), 0);
    free(data);
}

static void append_in_pieces(struct answer *a, uint64_t total, unsigned seed)
{
    while (total > 0) {
        size_t len = 1 + (size_t)rand_r(&seed) % 300000;

        if (len > total)
            len = (size_t)total;
        append_pattern(a, len);
        total -= len;
    }
}

static void many_followers_get_the_same_bytes(bool in_file)
{
    enum { FOLLOWERS = 24, TOTAL = 5 << 20 };
    struct follower *f = xcalloc(FOLLOWERS, sizeof(*f));
    pthread_t threads[FOLLOWERS];
    struct scratch scratch;
    struct answer *a;

    scratch_init(&scratch);
    a = in_file ? stored_answer(&scratch) : answer_new_passing();
    for (unsigned i = 0; i < FOLLOWERS; i++)
        follower_init(&f[i], a, i + 1);
    for (unsigned i = 0; i < FOLLOWERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, follow_to_the_end, &f[i]), 0);
    append_in_pieces(a, TOTAL, 99);
    answer_end(a);
    for (unsigned i = 0; i < FOLLOWERS; i++) {
        pthread_join(threads[i], NULL);
        assert_false(f[i].wrong);
        assert_int_equal(f[i].seen, TOTAL);
        assert_int_equal(f[i].ended, READER_END);
        assert_int_equal(f[i].wakes, f[i].arms);
        follower_clear(&f[i]);
    }
    free(f);
    answer_unref(&a);
    scratch_clear(&scratch);
}

static void followers_of_a_file_get_the_same_bytes_in_blocks_of_any_size(void **state)
{
    (void)state;
    many_followers_get_the_same_bytes(true);
}

static void followers_of_a_window_get_the_same_bytes_in_blocks_of_any_size(void **state)
{
    (void)state;
    many_followers_get_the_same_bytes(false);
}

static void an_armed_reader_is_woken_once_and_only_when_there_is_something(void **state)
{
    struct scratch scratch;
    struct follower f;
    struct answer *a;
    char block[8];

    (void)state;
    scratch_init(&scratch);
    a = stored_answer(&scratch);
    follower_init(&f, a, 1);
    assert_int_equal(answer_reader_read(&f.reader, block, sizeof(block)), READER_WAIT);
    assert_true(answer_reader_arm(&f.reader));
    assert_int_equal(f.wakes, 0);
    append_pattern(a, 4);
    append_pattern(a, 4);
    assert_int_equal(f.wakes, 1);
    assert_false(answer_reader_arm(&f.reader)); /* something is there already */
    append_pattern(a, 4);
    assert_int_equal(f.wakes, 1);
    f.woken = false;
    f.seen = 0;
    follow(&f, 12);
    assert_true(answer_reader_arm(&f.reader));
    answer_end(a);
    assert_int_equal(f.wakes, 2);
    assert_false(answer_reader_arm(&f.reader)); /* nothing comes any more */
    assert_int_equal(answer_reader_read(&f.reader, block, sizeof(block)), READER_END);
    assert_int_equal(f.wakes, 2);
    follower_clear(&f);
    answer_unref(&a);
    scratch_clear(&scratch);
}

/* Reads, arms and closes from within wake(), as an HTTP connection may that is resumed at once. */
struct hasty {
    struct answer_reader reader;
    uint64_t seen;
    unsigned wakes;
};

static void on_hasty_wake(void *ctx)
{
    struct hasty *h = ctx;
    char block[64];
    ssize_t n;

    h->wakes++;
    while ((n = answer_reader_read(&h->reader, block, sizeof(block))) > 0)
        h->seen += (uint64_t)n;
    if (n == READER_WAIT)
        assert_true(answer_reader_arm(&h->reader));
    else
        answer_reader_close(&h->reader);
}

static void a_reader_may_read_arm_and_close_while_it_is_woken(void **state)
{
    struct hasty h[3] = {0};
    struct answer *a = answer_new_passing();
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(h); i++) {
        assert_int_equal(answer_reader_open(&h[i].reader, a, on_hasty_wake, &h[i], &err), 0);
        assert_true(answer_reader_arm(&h[i].reader));
    }
    for (int i = 0; i < 5; i++)
        append_pattern(a, 100);
    answer_end(a);
    for (size_t i = 0; i < ARRAY_LEN(h); i++) {
        assert_int_equal(h[i].seen, 500);
        assert_int_equal(h[i].wakes, 6);
        answer_reader_close(&h[i].reader);
    }
    answer_unref(&a);
}

static void states_sizes_and_sources_are_told(void **state)
{
    const struct err why = {ERR_UPSTREAM, "it broke off"};
    struct scratch scratch;
    struct answer *a;
    struct err found;

    (void)state;
    scratch_init(&scratch);
    a = stored_answer(&scratch);
    assert_int_equal(answer_state(a), ANSWER_FILLING);
    assert_int_equal(answer_source(a), SOURCE_UNKNOWN);
    assert_int_equal(answer_note_offset(a), -1);
    answer_set_source(a, SOURCE_MIRROR);
    answer_set_note_offset(a, 3);
    append_pattern(a, 10);
    assert_int_equal(answer_size(a), 10);
    assert_int_equal(answer_source(a), SOURCE_MIRROR);
    assert_int_equal(answer_note_offset(a), 3);
    assert_false(answer_storage_trouble(a, &found));
    answer_fail(a, &why);
    assert_int_equal(answer_state(a), ANSWER_FAILED);
    answer_why(a, &found);
    assert_int_equal(found.kind, ERR_UPSTREAM);
    assert_string_equal(found.text, why.text);
    answer_unref(&a);
    scratch_clear(&scratch);
}

static void a_file_goes_with_the_last_reference(void **state)
{
    struct scratch scratch;
    struct answer *a, *other;
    char *path;

    (void)state;
    scratch_init(&scratch);
    path = scratch_path(&scratch, "answer");
    a = stored_answer(&scratch);
    other = answer_ref(a);
    assert_true(exists(path));
    answer_unref(&a);
    assert_null(a);
    assert_true(exists(path));
    answer_unref(&other);
    assert_false(exists(path));
    free(path);
    scratch_clear(&scratch);
}

static void a_renamed_file_stays(void **state)
{
    struct scratch scratch;
    struct answer *a;
    struct err err;
    char *kept;

    (void)state;
    scratch_init(&scratch);
    kept = scratch_path(&scratch, "kept");
    a = stored_answer(&scratch);
    append_pattern(a, 10);
    answer_end(a);
    assert_int_equal(answer_rename_file(a, kept, &err), 0);
    answer_unref(&a);
    assert_int_equal(size_of(kept), 10);
    free(kept);
    scratch_clear(&scratch);
}

static void a_slow_reader_does_not_slow_a_producer_that_writes_to_a_file(void **state)
{
    struct scratch scratch;
    struct follower f;
    struct answer *a;

    (void)state;
    scratch_init(&scratch);
    a = stored_answer(&scratch);
    follower_init(&f, a, 5);
    /* This thread is producer and reader: were the one to wait for the other it would hang. */
    append_in_pieces(a, 3 * ANSWER_WINDOW, 7);
    answer_end(a);
    follow(&f, UINT64_MAX);
    assert_int_equal(f.seen, 3 * ANSWER_WINDOW);
    assert_false(f.wrong);
    follower_clear(&f);
    answer_unref(&a);
    scratch_clear(&scratch);
}

static void a_late_reader_of_a_file_gets_it_from_the_start(void **state)
{
    struct scratch scratch;
    struct follower f;
    struct answer *a;

    (void)state;
    scratch_init(&scratch);
    a = stored_answer(&scratch);
    append_in_pieces(a, 2 * ANSWER_WINDOW, 7);
    follower_init(&f, a, 5);
    answer_end(a);
    follow(&f, UINT64_MAX);
    assert_int_equal(f.seen, 2 * ANSWER_WINDOW);
    assert_false(f.wrong);
    follower_clear(&f);
    answer_unref(&a);
    scratch_clear(&scratch);
}

/* A producer in a thread of its own. */
struct producer {
    struct answer *answer;
    uint64_t total;
    atomic_bool done;
    int rc;
    struct err err;
};

static void *produce(void *ctx)
{
    struct producer *p = ctx;
    uint64_t at = answer_size(p->answer);
    char *data = pattern(at, (size_t)(p->total - at));

    p->rc = answer_append(p->answer, data, (size_t)(p->total - at), &p->err);
    atomic_store(&p->done, true);
    if (p->rc == 0)
        answer_end(p->answer);
    free(data);
    return NULL;
}

static void a_window_is_as_far_ahead_as_it_is_wide(void **state)
{
    struct producer p = {.answer = answer_new_passing(), .total = ANSWER_WINDOW + 1000};
    struct follower fast, slow;
    pthread_t thread;

    (void)state;
    follower_init(&fast, p.answer, 1);
    follower_init(&slow, p.answer, 2);
    assert_int_equal(pthread_create(&thread, NULL, produce, &p), 0);
    follow(&fast, ANSWER_WINDOW);
    /* The slowest decides: nothing more comes before it has read, and never did. */
    assert_int_equal(answer_size(p.answer), ANSWER_WINDOW);
    assert_false(atomic_load(&p.done));
    follow(&slow, 1000);
    follow(&fast, UINT64_MAX);
    assert_int_equal(fast.ended, READER_END);
    pthread_join(thread, NULL);
    follow(&slow, UINT64_MAX);
    assert_int_equal(slow.seen, p.total);
    assert_int_equal(slow.ended, READER_END);
    assert_false(fast.wrong || slow.wrong);
    follower_clear(&fast);
    follower_clear(&slow);
    answer_unref(&p.answer);
}

static void a_reader_that_leaves_a_window_lets_the_producer_go_on(void **state)
{
    struct producer p = {.answer = answer_new_passing(), .total = 3 * ANSWER_WINDOW};
    struct follower stays, leaves;
    pthread_t thread;

    (void)state;
    follower_init(&stays, p.answer, 1);
    follower_init(&leaves, p.answer, 2);
    assert_int_equal(pthread_create(&thread, NULL, produce, &p), 0);
    follow(&stays, ANSWER_WINDOW); /* the producer waits for the other one now, or soon */
    follower_clear(&leaves);
    follow(&stays, UINT64_MAX);
    pthread_join(thread, NULL);
    assert_int_equal(p.rc, 0);
    assert_int_equal(stays.seen, p.total);
    assert_false(stays.wrong);
    follower_clear(&stays);
    answer_unref(&p.answer);
}

static void a_window_that_all_have_left_ends_its_producer(void **state)
{
    struct producer p = {.answer = answer_new_passing(), .total = 3 * ANSWER_WINDOW};
    struct follower f[2];
    pthread_t thread;

    (void)state;
    follower_init(&f[0], p.answer, 1);
    follower_init(&f[1], p.answer, 2);
    assert_int_equal(pthread_create(&thread, NULL, produce, &p), 0);
    follow(&f[0], ANSWER_WINDOW);
    follower_clear(&f[0]);
    follower_clear(&f[1]);
    pthread_join(thread, NULL);
    assert_int_equal(p.rc, -1);
    assert_int_equal(p.err.kind, ERR_CANCELLED);
    answer_fail(p.answer, &p.err);
    answer_unref(&p.answer);
}

static void who_joins_a_window_too_late_is_told(void **state)
{
    struct answer *a = answer_new_passing();
    struct answer_reader late;
    struct follower first, second;
    struct err err;

    (void)state;
    follower_init(&first, a, 1);
    append_pattern(a, 100);
    follower_init(&second, a, 2); /* all bytes are there still */
    follow(&first, 50);
    follow(&second, 60);
    append_pattern(a, 100); /* makes room: the first 50 are gone */
    assert_int_equal(answer_reader_open(&late, a, on_wake, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_BUSY);
    answer_reader_close(&late);
    answer_end(a);
    follow(&first, UINT64_MAX);
    follow(&second, UINT64_MAX);
    assert_int_equal(first.seen, 200);
    assert_int_equal(second.seen, 200);
    assert_false(first.wrong || second.wrong);
    follower_clear(&first);
    follower_clear(&second);
    answer_unref(&a);
}

/* ---- the disk fails ---- */

static void a_disk_that_fills_up_loses_no_byte(void **state)
{
    enum { FITS = 300000, TOTAL = 4 << 20, FOLLOWERS = 4 };
    struct follower f[FOLLOWERS];
    pthread_t threads[FOLLOWERS];
    struct scratch scratch;
    struct answer *a;
    struct err why;

    (void)state;
    scratch_init(&scratch);
    a = stored_answer(&scratch);
    for (unsigned i = 0; i < FOLLOWERS; i++) {
        follower_init(&f[i], a, i + 1);
        assert_int_equal(pthread_create(&threads[i], NULL, follow_to_the_end, &f[i]), 0);
    }
    limit_file_size(FITS); /* in the middle of an append */
    append_in_pieces(a, TOTAL, 3);
    limit_file_size(RLIM_INFINITY);
    assert_true(answer_storage_trouble(a, &why));
    assert_int_equal(why.kind, ERR_STORAGE);
    answer_end(a);
    for (unsigned i = 0; i < FOLLOWERS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(f[i].seen, TOTAL);
        assert_int_equal(f[i].ended, READER_END);
        assert_false(f[i].wrong);
        follower_clear(&f[i]);
    }
    assert_int_equal(answer_fd(a), -1);
    answer_unref(&a);
    assert_int_equal(count_entries(scratch.dir), 0);
    scratch_clear(&scratch);
}

static void who_comes_after_the_disk_failed_reads_the_file_and_then_the_window(void **state)
{
    enum { FITS = 5000 };
    struct answer_reader late;
    struct follower first, second;
    struct scratch scratch;
    struct answer *a;
    struct err err;

    (void)state;
    scratch_init(&scratch);
    a = stored_answer(&scratch);
    follower_init(&first, a, 1);
    limit_file_size(FITS);
    append_pattern(a, ANSWER_WINDOW); /* goes into the file now */
    limit_file_size(RLIM_INFINITY);
    follower_init(&second, a, 2);
    follow(&second, 4000); /* in the file: holds nothing of the window up */
    follow(&first, ANSWER_WINDOW);
    append_pattern(a, 1000);
    follow(&second, ANSWER_WINDOW);
    append_pattern(a, 1000); /* what lies behind the file is gone from here on */
    assert_int_equal(answer_reader_open(&late, a, on_wake, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_BUSY);
    answer_end(a);
    follow(&first, UINT64_MAX);
    follow(&second, UINT64_MAX);
    assert_int_equal(first.seen, ANSWER_WINDOW + 2000);
    assert_int_equal(second.seen, ANSWER_WINDOW + 2000);
    assert_false(first.wrong || second.wrong);
    follower_clear(&first);
    follower_clear(&second);
    answer_unref(&a);
    scratch_clear(&scratch);
}

static void a_disk_that_fails_while_nobody_reads_ends_the_producer(void **state)
{
    struct scratch scratch;
    struct answer *a;
    struct err err;
    char *data = pattern(0, ANSWER_WINDOW + 1);

    (void)state;
    scratch_init(&scratch);
    a = stored_answer(&scratch);
    limit_file_size(1000);
    assert_int_equal(answer_append(a, data, ANSWER_WINDOW + 1, &err), -1);
    limit_file_size(RLIM_INFINITY);
    assert_int_equal(err.kind, ERR_CANCELLED);
    answer_fail(a, &err);
    answer_unref(&a);
    free(data);
    scratch_clear(&scratch);
}

static void a_disk_that_fails_at_the_end_loses_no_byte(void **state)
{
    struct follower before, after;
    struct scratch scratch;
    struct answer *a;
    struct err why;

    (void)state;
    scratch_init(&scratch);
    a = stored_answer(&scratch);
    follower_init(&before, a, 1);
    append_pattern(a, 5000);
    assert_false(answer_storage_trouble(a, &why));
    limit_file_size(1000);
    answer_end(a);
    limit_file_size(RLIM_INFINITY);
    assert_true(answer_storage_trouble(a, &why));
    assert_int_equal(answer_state(a), ANSWER_WHOLE);
    assert_int_equal(answer_fd(a), -1);
    follower_init(&after, a, 2);
    follow(&before, UINT64_MAX);
    follow(&after, UINT64_MAX);
    assert_int_equal(before.seen, 5000);
    assert_int_equal(after.seen, 5000);
    assert_false(before.wrong || after.wrong);
    follower_clear(&before);
    follower_clear(&after);
    answer_unref(&a);
    scratch_clear(&scratch);
}

static void a_place_that_is_not_there_is_as_good_as_a_full_disk(void **state)
{
    struct answer *a = answer_new_filling();
    struct claim *none = NULL;
    struct follower f;
    struct err why;

    (void)state;
    answer_store_at(a, "/nonexistent/folder/answer", &none);
    assert_true(answer_storage_trouble(a, &why));
    assert_int_equal(why.kind, ERR_STORAGE);
    follower_init(&f, a, 1);
    append_pattern(a, 5000);
    answer_end(a);
    follow(&f, UINT64_MAX);
    assert_int_equal(f.seen, 5000);
    assert_false(f.wrong);
    follower_clear(&f);
    answer_unref(&a);
}

/* ---- at the end ---- */

static void the_file_can_be_read_by_a_descriptor_of_ones_own(void **state)
{
    struct scratch scratch;
    struct answer *a;
    char block[100];
    int fd;

    (void)state;
    scratch_init(&scratch);
    a = stored_answer(&scratch);
    append_pattern(a, 100);
    fd = answer_dup_fd(a);
    answer_end(a);
    assert_true(fd >= 0);
    assert_int_not_equal(fd, answer_fd(a));
    answer_unref(&a);
    assert_int_equal(pread(fd, block, sizeof(block), 0), 100);
    for (size_t i = 0; i < sizeof(block); i++)
        assert_int_equal(block[i], byte_at(i));
    close(fd);
    scratch_clear(&scratch);
}

static void a_failure_stands_behind_the_bytes(void **state)
{
    const struct err why = {ERR_UPSTREAM, "it broke off"};
    struct scratch scratch;
    struct follower f, late;
    struct answer *a;

    (void)state;
    scratch_init(&scratch);
    a = stored_answer(&scratch);
    follower_init(&f, a, 1);
    append_pattern(a, 1000);
    answer_fail(a, &why);
    follower_init(&late, a, 2);
    follow(&f, UINT64_MAX);
    follow(&late, UINT64_MAX);
    assert_int_equal(f.seen, 1000);
    assert_int_equal(f.ended, READER_FAILED);
    assert_int_equal(late.seen, 1000);
    assert_int_equal(late.ended, READER_FAILED);
    follower_clear(&f);
    follower_clear(&late);
    answer_unref(&a);
    scratch_clear(&scratch);
}

static void a_file_that_was_cut_under_its_readers_fails_them(void **state)
{
    struct scratch scratch;
    struct follower f;
    struct answer *a;
    char *path;

    (void)state;
    scratch_init(&scratch);
    path = scratch_path(&scratch, "answer");
    a = stored_answer(&scratch);
    follower_init(&f, a, 1);
    append_pattern(a, 1000);
    answer_end(a);
    assert_int_equal(truncate(path, 600), 0);
    follow(&f, UINT64_MAX);
    assert_int_equal(f.seen, 600);
    assert_int_equal(f.ended, READER_FAILED);
    follower_clear(&f);
    answer_unref(&a);
    free(path);
    scratch_clear(&scratch);
}

static void a_verified_file_makes_an_answer_whole_at_once(void **state)
{
    struct scratch scratch;
    struct answer *a = answer_new_filling();
    struct follower f;
    struct claim *claim = NULL;
    static const uint8_t sha256[SHA256_SIZE] = {7};
    uint8_t known[SHA256_SIZE];
    char *path, *data = pattern(0, 1000);

    (void)state;
    scratch_init(&scratch);
    path = scratch_path(&scratch, "file");
    put_file(path, data, 1000);
    follower_init(&f, a, 1);
    assert_false(answer_digest(a, known));
    assert_true(answer_reader_arm(&f.reader));
    answer_fill_from_file(a, open(path, O_RDONLY | O_CLOEXEC), 900, sha256, 17, &claim);
    assert_int_equal(f.wakes, 1);
    assert_int_equal(answer_state(a), ANSWER_WHOLE);
    assert_int_equal(answer_source(a), SOURCE_LOCAL);
    assert_int_equal(answer_note_offset(a), 17);
    assert_true(answer_digest(a, known));
    assert_memory_equal(known, sha256, SHA256_SIZE);
    follow(&f, UINT64_MAX);
    assert_int_equal(f.seen, 900); /* what lies behind the body is not sent */
    assert_false(f.wrong);
    follower_clear(&f);
    answer_unref(&a);
    assert_true(exists(path)); /* its name is the store's */
    free(data);
    free(path);
    scratch_clear(&scratch);
}

static void a_note_has_no_place_behind_a_files_end(void **state)
{
    static const int64_t offsets[][2] = {{-1, -1}, {0, 0}, {900, 900}, {901, -1}};
    const uint8_t sha256[SHA256_SIZE] = {1};
    struct scratch scratch;
    char *path;

    (void)state;
    scratch_init(&scratch);
    path = scratch_path(&scratch, "file");
    put_file(path, "", 0);
    for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
        struct answer *a = answer_new_filling();
        struct claim *claim = NULL;

        answer_fill_from_file(a, open(path, O_RDONLY | O_CLOEXEC), 900, sha256, offsets[i][0],
                              &claim);
        assert_int_equal(answer_note_offset(a), offsets[i][1]);
        answer_unref(&a);
    }
    free(path);
    scratch_clear(&scratch);
}

static void expect_checksum(const uint8_t found[CHECKSUM_SIZE], const void *data, size_t len)
{
    struct checksum *c = checksum_new();
    uint8_t expected[CHECKSUM_SIZE];

    checksum_update(c, data, len);
    checksum_take(c, expected);
    checksum_free(c);
    assert_memory_equal(found, expected, CHECKSUM_SIZE);
}

static void the_checksum_is_taken_on_the_way_or_read_off_the_file(void **state)
{
    enum { SIZE = 300000 };
    uint8_t found[CHECKSUM_SIZE], sha256[SHA256_SIZE] = {7};
    char *data = pattern(0, SIZE);
    struct scratch scratch;

    (void)state;
    scratch_init(&scratch);
    for (unsigned known = 0; known < 2; known++) {
        struct answer *a = stored_answer(&scratch);

        if (known)
            answer_set_digest(a, sha256); /* nothing is taken on the way */
        append_pattern(a, SIZE);
        assert_false(answer_checksum(a, found));
        answer_end(a);
        for (unsigned times = 0; times < 2; times++) {
            assert_true(answer_checksum(a, found));
            expect_checksum(found, data, SIZE);
        }
        answer_unref(&a);
    }
    free(data);
    scratch_clear(&scratch);
}

static void a_file_that_was_cut_has_no_checksum(void **state)
{
    uint8_t found[CHECKSUM_SIZE], sha256[SHA256_SIZE] = {7};
    struct scratch scratch;
    struct answer *a;

    (void)state;
    scratch_init(&scratch);
    a = stored_answer(&scratch);
    answer_set_digest(a, sha256);
    append_pattern(a, 300000);
    answer_end(a);
    assert_int_equal(ftruncate(answer_fd(a), 200000), 0);
    assert_false(answer_checksum(a, found));
    answer_unref(&a);
    scratch_clear(&scratch);
}

static void a_digest_that_is_awaited_is_known_once_it_is_told(void **state)
{
    enum { SIZE = 300000 };
    uint8_t found[CHECKSUM_SIZE], known[SHA256_SIZE], sha256[SHA256_SIZE] = {7};
    char *data = pattern(0, SIZE);
    struct scratch scratch;

    (void)state;
    scratch_init(&scratch);
    for (unsigned told = 0; told < 2; told++) {
        struct answer *a = stored_answer(&scratch);

        answer_await_digest(a);
        append_pattern(a, SIZE);
        assert_true(answer_checksum_so_far(a, found));
        expect_checksum(found, data, SIZE);
        if (told)
            answer_tell_digest(a, sha256);
        answer_end(a);
        assert_int_equal(answer_digest(a, known), told);
        if (told)
            assert_memory_equal(known, sha256, SHA256_SIZE);
        assert_true(answer_checksum(a, found));
        expect_checksum(found, data, SIZE);
        answer_unref(&a);
    }
    free(data);
    scratch_clear(&scratch);
}

static void what_passes_through_memory_has_no_sums(void **state)
{
    uint8_t found[CHECKSUM_SIZE], known[SHA256_SIZE];
    struct answer *a = answer_new_passing();
    struct follower f;

    (void)state;
    follower_init(&f, a, 1);
    append_pattern(a, 1000);
    assert_false(answer_checksum_so_far(a, found));
    answer_end(a);
    assert_false(answer_checksum(a, found));
    assert_false(answer_digest(a, known));
    follower_clear(&f);
    answer_unref(&a);
}

/* How many bytes can be read now; *last is what is said behind them. */
static size_t read_what_is_shown(struct answer_reader *r, ssize_t *last)
{
    char block[4];
    size_t n = 0;

    while ((*last = answer_reader_read(r, block, sizeof(block))) > 0)
        n += (size_t)*last;
    return n;
}

static void the_last_of_the_promised_bytes_comes_when_the_answer_is_whole(void **state)
{
    struct answer *a = answer_new_passing();
    struct follower f;
    ssize_t last;

    (void)state;
    assert_int_equal(answer_promised_size(a), -1);
    answer_promise_size(a, 10);
    assert_int_equal(answer_promised_size(a), 10);
    follower_init(&f, a, 1);
    append_pattern(a, 10);
    assert_int_equal(read_what_is_shown(&f.reader, &last), 9);
    assert_int_equal(last, READER_WAIT);
    assert_true(answer_reader_arm(&f.reader)); /* no other than the end wakes it */
    assert_int_equal(f.wakes, 0);
    answer_end(a);
    assert_int_equal(f.wakes, 1);
    assert_int_equal(read_what_is_shown(&f.reader, &last), 1);
    assert_int_equal(last, READER_END);
    follower_clear(&f);
    answer_unref(&a);
}

static void a_failed_answer_never_has_as_many_bytes_as_were_promised(void **state)
{
    const struct err why = {ERR_UPSTREAM, "it broke off"};
    struct answer *a = answer_new_passing();
    struct follower f;
    ssize_t last;

    (void)state;
    answer_promise_size(a, 10);
    follower_init(&f, a, 1);
    append_pattern(a, 8);
    assert_int_equal(read_what_is_shown(&f.reader, &last), 8);
    append_pattern(a, 8); /* a message that is longer than what was to come */
    assert_int_equal(read_what_is_shown(&f.reader, &last), 1);
    assert_int_equal(last, READER_WAIT);
    answer_fail(a, &why);
    assert_int_equal(read_what_is_shown(&f.reader, &last), 0);
    assert_int_equal(last, READER_FAILED);
    follower_clear(&f);
    answer_unref(&a);
}

static void who_looks_is_told_what_lies_in_the_file_and_gets_the_rest(void **state)
{
    enum { IN_FILE = 256 * 1024, REST = 100 };
    char *expected = pattern(IN_FILE, REST);
    struct scratch scratch;
    struct follower f;
    struct answer *a;
    char block[1000];
    int fd;

    (void)state;
    scratch_init(&scratch);
    a = stored_answer(&scratch);
    follower_init(&f, a, 1);
    append_pattern(a, IN_FILE + REST);
    assert_int_equal(answer_reader_look(&f.reader, block, sizeof(block), &fd), IN_FILE);
    assert_int_equal(fd, answer_fd(a));
    answer_reader_take(&f.reader, 1000);
    assert_int_equal(answer_reader_look(&f.reader, block, sizeof(block), &fd), IN_FILE - 1000);
    answer_reader_take(&f.reader, IN_FILE - 1000);
    for (int i = 0; i < 2; i++) { /* it stays where it is */
        assert_int_equal(answer_reader_look(&f.reader, block, sizeof(block), &fd), REST);
        assert_int_equal(fd, -1);
        assert_memory_equal(block, expected, REST);
    }
    assert_int_equal(answer_reader_look(&f.reader, block, 7, &fd), 7);
    answer_reader_take(&f.reader, REST);
    assert_int_equal(answer_reader_look(&f.reader, block, sizeof(block), &fd), READER_WAIT);
    answer_end(a);
    assert_int_equal(answer_reader_look(&f.reader, block, sizeof(block), &fd), READER_END);
    follower_clear(&f);
    free(expected);
    answer_unref(&a);
    scratch_clear(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(followers_of_a_file_get_the_same_bytes_in_blocks_of_any_size),
        cmocka_unit_test(followers_of_a_window_get_the_same_bytes_in_blocks_of_any_size),
        cmocka_unit_test(an_armed_reader_is_woken_once_and_only_when_there_is_something),
        cmocka_unit_test(a_reader_may_read_arm_and_close_while_it_is_woken),
        cmocka_unit_test(states_sizes_and_sources_are_told),
        cmocka_unit_test(a_file_goes_with_the_last_reference),
        cmocka_unit_test(a_renamed_file_stays),
        cmocka_unit_test(a_slow_reader_does_not_slow_a_producer_that_writes_to_a_file),
        cmocka_unit_test(a_late_reader_of_a_file_gets_it_from_the_start),
        cmocka_unit_test(a_window_is_as_far_ahead_as_it_is_wide),
        cmocka_unit_test(a_reader_that_leaves_a_window_lets_the_producer_go_on),
        cmocka_unit_test(a_window_that_all_have_left_ends_its_producer),
        cmocka_unit_test(who_joins_a_window_too_late_is_told),
        cmocka_unit_test(a_disk_that_fills_up_loses_no_byte),
        cmocka_unit_test(who_comes_after_the_disk_failed_reads_the_file_and_then_the_window),
        cmocka_unit_test(a_disk_that_fails_at_the_end_loses_no_byte),
        cmocka_unit_test(a_disk_that_fails_while_nobody_reads_ends_the_producer),
        cmocka_unit_test(a_place_that_is_not_there_is_as_good_as_a_full_disk),
        cmocka_unit_test(the_file_can_be_read_by_a_descriptor_of_ones_own),
        cmocka_unit_test(a_failure_stands_behind_the_bytes),
        cmocka_unit_test(a_file_that_was_cut_under_its_readers_fails_them),
        cmocka_unit_test(a_verified_file_makes_an_answer_whole_at_once),
        cmocka_unit_test(a_note_has_no_place_behind_a_files_end),
        cmocka_unit_test(the_checksum_is_taken_on_the_way_or_read_off_the_file),
        cmocka_unit_test(a_file_that_was_cut_has_no_checksum),
        cmocka_unit_test(a_digest_that_is_awaited_is_known_once_it_is_told),
        cmocka_unit_test(what_passes_through_memory_has_no_sums),
        cmocka_unit_test(the_last_of_the_promised_bytes_comes_when_the_answer_is_whole),
        cmocka_unit_test(a_failed_answer_never_has_as_many_bytes_as_were_promised),
        cmocka_unit_test(who_looks_is_told_what_lies_in_the_file_and_gets_the_rest),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
