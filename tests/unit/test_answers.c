#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "cache/answers.h"
#include "scratch.h"

struct fixture {
    struct scratch scratch;
    struct folder *folder;
    struct local_limits limits;
    struct local *local;
    struct answers *answers;
    enum compression compression;
    unsigned damaged; /* as the folder's owner hears of it */
};

static void on_damage(void *ctx, const char *what, const struct err *why)
{
    struct fixture *f = ctx;

    assert_non_null(strstr(what, "answers/"));
    assert_int_equal(why->kind, ERR_CORRUPT);
    f->damaged++;
}

static void open_all(struct fixture *f)
{
    const struct folder_listener listener = {.damage = on_damage, .ctx = f};
    struct err err;

    assert_int_equal(folder_open(f->scratch.dir, &listener, &f->folder, &err), 0);
    f->local = local_open(f->folder, &f->limits);
    f->answers = answers_new(f->folder, f->local, f->compression);
}

static void close_all(struct fixture *f)
{
    answers_free(&f->answers);
    local_close(&f->local);
    folder_close(&f->folder);
}

static void restart(struct fixture *f)
{
    close_all(f);
    open_all(f);
}

static int set_up(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));

    scratch_init(&f->scratch);
    f->limits.size.percent = 100;
    f->compression = COMPRESSION_OFF;
    open_all(f);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    close_all(f);
    scratch_clear(&f->scratch);
    free(f);
    return 0;
}

static struct key key_number(unsigned n)
{
    struct key key;

    key_of(&n, sizeof(n), &key);
    return key;
}

static char *path_of(const struct fixture *f, const struct key *key)
{
    char hex[KEY_HEX_SIZE];

    key_to_hex(key, hex);
    return folder_pathf(f->folder, "answers/%.2s/%s", hex, hex);
}

static struct answers_counts counts(const struct fixture *f)
{
    struct answers_counts c;

    answers_count(f->answers, &c);
    return c;
}

static void append(struct answer *a, size_t len)
{
    uint64_t at = answer_size(a);
    char *data = pattern(at, len);
    struct err err;

    assert_int_equal(answer_append(a, data, len, &err), 0);
    free(data);
}

static bool keep(const struct fixture *f, const struct key *key, struct answer *a)
{
    struct entry entry = {.repo_id = xstrdup("00"),
                          .repo = xstrdup("example.org/r"),
                          .url = xstrdup("https://example.org/r")};
    bool kept = answers_keep(f->answers, key, a, &entry);

    entry_clear(&entry);
    return kept;
}

static struct answer *lead(const struct fixture *f, const struct key *key)
{
    bool leads;
    struct answer *a = answers_join(f->answers, key, &leads);

    assert_true(leads);
    return a;
}

static struct answer *follow(const struct fixture *f, const struct key *key)
{
    bool leads;
    struct answer *a = answers_join(f->answers, key, &leads);

    assert_false(leads);
    return a;
}

/* Makes key's answer of len bytes, and lets it go. */
static void make(const struct fixture *f, const struct key *key, size_t len)
{
    struct answer *a = lead(f, key);

    answers_begin(f->answers, key, a);
    answer_set_note_offset(a, 3);
    append(a, len);
    assert_true(keep(f, key, a));
    answer_unref(&a);
}

static void ignore_wake(void *ctx)
{
    (void)ctx;
}

static void assert_body(struct answer *a, uint64_t size)
{
    struct answer_reader r;
    char block[4096];
    uint64_t at = 0;
    ssize_t n;
    struct err err;

    assert_int_equal(answer_state(a), ANSWER_WHOLE);
    assert_int_equal(answer_size(a), size);
    assert_int_equal(answer_reader_open(&r, a, ignore_wake, NULL, &err), 0);
    while ((n = answer_reader_read(&r, block, sizeof(block))) > 0) {
        for (ssize_t i = 0; i < n; i++)
            assert_int_equal(block[i], byte_at(at + (uint64_t)i));
        at += (uint64_t)n;
    }
    assert_int_equal(n, READER_END);
    assert_int_equal(at, size);
    answer_reader_close(&r);
}

/* ---- who leads ---- */

enum { JOINERS = 32, ROUNDS = 50 };

struct joiner {
    struct answers *answers;
    pthread_barrier_t *barrier;
    struct answer *got[ROUNDS];
    bool leads[ROUNDS];
};

static void *join_all(void *ctx)
{
    struct joiner *j = ctx;

    for (unsigned i = 0; i < ROUNDS; i++) {
        struct key key = key_number(i);

        pthread_barrier_wait(j->barrier);
        j->got[i] = answers_join(j->answers, &key, &j->leads[i]);
    }
    return NULL;
}

static void of_many_who_ask_at_once_one_leads(void **state)
{
    struct fixture *f = *state;
    struct joiner *j = xcalloc(JOINERS, sizeof(*j));
    pthread_barrier_t barrier;

    pthread_barrier_init(&barrier, NULL, JOINERS);
    for (size_t i = 0; i < JOINERS; i++) {
        j[i].answers = f->answers;
        j[i].barrier = &barrier;
    }
    run_together(JOINERS, join_all, j, sizeof(j[0]));
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct key key = key_number(round);
        unsigned leaders = 0;

        for (size_t i = 0; i < JOINERS; i++) {
            leaders += j[i].leads[round];
            assert_ptr_equal(j[i].got[round], j[0].got[round]);
        }
        assert_int_equal(leaders, 1);
        answers_fail(f->answers, &key, j[0].got[round], &(struct err){ERR_CANCELLED, "over"});
        for (size_t i = 0; i < JOINERS; i++)
            answer_unref(&j[i].got[round]);
    }
    assert_int_equal(counts(f).filling, 0);
    pthread_barrier_destroy(&barrier);
    free(j);
}

static void after_a_failure_the_next_leads_anew(void **state)
{
    const struct fixture *f = *state;
    struct key key = key_number(1);
    struct answer *first = lead(f, &key), *other = follow(f, &key), *next;
    struct err why;

    assert_ptr_equal(first, other);
    assert_int_equal(counts(f).filling, 1);
    answers_begin(f->answers, &key, first);
    append(first, 10);
    answers_fail(f->answers, &key, first, &(struct err){ERR_UPSTREAM, "broke off"});
    answer_why(other, &why);
    assert_string_equal(why.text, "broke off");
    next = lead(f, &key);
    assert_ptr_not_equal(next, first);
    answers_fail(f->answers, &key, next, &why);
    answer_unref(&first);
    answer_unref(&other);
    answer_unref(&next);
    assert_int_equal(counts(f).filling, 0);
    assert_false(answers_have(f->answers, &key));
}

static void what_is_ended_without_being_kept_is_for_those_who_have_it(void **state)
{
    const struct fixture *f = *state;
    struct key key = key_number(1);
    struct answer *a = lead(f, &key), *next;
    char *incoming = folder_pathf(f->folder, "incoming");

    answers_begin(f->answers, &key, a);
    append(a, 100);
    answers_end(f->answers, &key, a);
    assert_body(a, 100);
    next = lead(f, &key);
    answers_fail(f->answers, &key, next, &(struct err){ERR_CANCELLED, "over"});
    answer_unref(&next);
    answer_unref(&a);
    assert_int_equal(count_entries(incoming), 0);
    assert_int_equal(counts(f).kept, 0);
    free(incoming);
}

static void a_late_failure_leaves_the_next_ones_answer_alone(void **state)
{
    const struct fixture *f = *state;
    struct key key = key_number(1);
    struct answer *a = lead(f, &key), *next;

    /* Ended first: from then on the key belongs to whoever comes. */
    answers_end(f->answers, &key, a);
    next = lead(f, &key);
    answer_unref(&a);
    answers_begin(f->answers, &key, next);
    append(next, 5);
    assert_true(keep(f, &key, next));
    answer_unref(&next);
    next = follow(f, &key);
    assert_body(next, 5);
    answer_unref(&next);
}

/* Nor is it found by way of its file, where the next one that leads takes nothing from it. */
static void what_was_let_go_of_is_not_kept(void **state)
{
    struct fixture *f = *state;
    struct key key = key_number(1);
    struct answer *old = lead(f, &key), *next;
    char *path = path_of(f, &key);

    answers_begin(f->answers, &key, old);
    append(old, 5);
    answers_let_go(f->answers);
    next = lead(f, &key);
    assert_false(keep(f, &key, old));
    assert_int_equal(answer_state(old), ANSWER_WHOLE);
    assert_int_equal(access(path, F_OK), -1);
    assert_false(answers_find_local(f->answers, &key, next));
    answers_begin(f->answers, &key, next);
    append(next, 5);
    assert_true(keep(f, &key, next));
    assert_int_equal(access(path, F_OK), 0);
    answer_unref(&old);
    answer_unref(&next);
    free(path);
}

struct held_publisher {
    const struct fixture *f;
    struct answer *a;
    pthread_barrier_t inside;
    atomic_bool goes_on;
};

static void hold_publisher(void *ctx, enum entry_kind kind, const char *path)
{
    struct held_publisher *p = ctx;

    (void)kind;
    (void)path;
    pthread_barrier_wait(&p->inside);
    while (!p->goes_on)
        sched_yield();
}

static void *publish_one(void *ctx)
{
    struct held_publisher *p = ctx;
    struct key key = key_number(1);

    assert_true(keep(p->f, &key, p->a));
    return NULL;
}

static void *let_go_of_all(void *ctx)
{
    struct held_publisher *p = ctx;

    answers_let_go(p->f->answers);
    assert_true(p->goes_on);
    return NULL;
}

static int remove_one(void *ctx, const struct entry *e)
{
    struct fixture *f = ctx;
    struct err err;

    assert_int_equal(local_remove(f->local, e->path, &err), 0);
    return 0;
}

static uint64_t remove_all_there_is(struct fixture *f)
{
    struct local_usage before, after;
    struct err err;

    local_usage(f->local, &before);
    assert_int_equal(local_each(f->local, remove_one, f, &err), 0);
    local_usage(f->local, &after);
    return before.entries[ENTRY_ANSWER] - after.entries[ENTRY_ANSWER];
}

/* Who lets go, and then removes what is kept, must meet what is just being published. */
static void who_lets_go_waits_for_what_is_being_published(void **state)
{
    struct fixture *f = *state;
    struct key key = key_number(1);
    struct held_publisher p = {.f = f, .a = lead(f, &key)};
    pthread_t publisher, remover;

    answers_begin(f->answers, &key, p.a);
    append(p.a, 5);
    pthread_barrier_init(&p.inside, NULL, 2);
    local_set_listener(f->local, hold_publisher, &p);
    pthread_create(&publisher, NULL, publish_one, &p);
    pthread_barrier_wait(&p.inside);
    pthread_create(&remover, NULL, let_go_of_all, &p);
    p.goes_on = true;
    pthread_join(publisher, NULL);
    pthread_join(remover, NULL);
    local_set_listener(f->local, NULL, NULL);
    assert_int_equal(remove_all_there_is(f), 1);
    assert_false(answers_have(f->answers, &key));
    pthread_barrier_destroy(&p.inside);
    answer_unref(&p.a);
}

static void what_was_let_go_of_goes_on_for_its_readers_and_is_not_found(void **state)
{
    const struct fixture *f = *state;
    struct key keys[] = {key_number(1), key_number(2)};
    struct answer *kept = lead(f, &keys[1]), *old = lead(f, &keys[0]), *next;

    answers_begin(f->answers, &keys[1], kept);
    assert_true(keep(f, &keys[1], kept));
    answers_begin(f->answers, &keys[0], old);
    append(old, 5);
    answers_let_go(f->answers);
    assert_null(answers_peek(f->answers, &keys[0]));
    next = lead(f, &keys[0]);
    answers_begin(f->answers, &keys[0], next);
    append(next, 7);
    /* The old one's end takes nothing from the next one. */
    append(old, 1);
    answers_end(f->answers, &keys[0], old);
    assert_body(old, 6);
    assert_true(keep(f, &keys[0], next));
    answer_unref(&old);
    old = follow(f, &keys[0]);
    assert_ptr_equal(old, next);
    assert_true(answer_number(old) == answer_number(next));
    assert_true(answer_number(kept) != answer_number(next));
    answer_unref(&old);
    answer_unref(&next);
    /* What is whole is no concern of it. */
    assert_true(answers_have(f->answers, &keys[1]));
    answer_unref(&kept);
}

/* ---- keeping and finding ---- */

static void a_kept_answer_is_at_hand(void **state)
{
    const struct fixture *f = *state;
    struct key key = key_number(1);
    struct answer *a;
    char *path = path_of(f, &key), *incoming = folder_pathf(f->folder, "incoming");

    assert_null(answers_peek(f->answers, &key));
    assert_false(answers_have(f->answers, &key));
    make(f, &key, 5000);
    assert_true(exists(path));
    assert_int_equal(count_entries(incoming), 0);
    assert_true(answers_have(f->answers, &key));
    a = follow(f, &key);
    assert_body(a, 5000);
    assert_int_equal(answer_note_offset(a), 3);
    answer_unref(&a);
    a = answers_peek(f->answers, &key);
    assert_non_null(a);
    answer_unref(&a);
    a = answers_at_hand(f->answers, &key);
    assert_non_null(a);
    answer_unref(&a);
    assert_int_equal(counts(f).kept, 1);
    assert_int_equal(counts(f).filling, 0);
    free(path);
    free(incoming);
}

/* Whoever hands the bytes out has checked them; they are not read a second time, but found damaged
 * at their next use if the digest was another's. */
static void a_digest_that_is_known_is_kept_with_the_answer(void **state)
{
    struct fixture *f = *state;
    char *data = pattern(0, 5000);

    for (unsigned right = 0; right < 2; right++) {
        struct key key = key_number(1 + right);
        struct answer *a = lead(f, &key);
        struct key sha256;
        bool leads;

        key_of(data, right ? 5000 : 4999, &sha256);
        answers_begin(f->answers, &key, a);
        answer_set_digest(a, (const uint8_t *)&sha256);
        append(a, 5000);
        assert_true(keep(f, &key, a));
        answer_unref(&a);
        restart(f);
        a = answers_join(f->answers, &key, &leads);
        assert_true(leads);
        assert_int_equal(answers_find_local(f->answers, &key, a), right);
        if (!right)
            answers_fail(f->answers, &key, a, &(struct err){ERR_CANCELLED, "enough"});
        answer_unref(&a);
    }
    free(data);
}

static void a_digest_that_was_not_right_after_all_is_worked_out(void **state)
{
    struct fixture *f = *state;
    static const uint8_t other[SHA256_SIZE] = {1};
    struct key key = key_number(1);
    struct answer *a = lead(f, &key);

    answers_begin(f->answers, &key, a);
    answer_set_digest(a, other);
    answer_set_digest(a, NULL);
    append(a, 5000);
    assert_true(keep(f, &key, a));
    answer_unref(&a);
    restart(f);
    a = lead(f, &key);
    assert_true(answers_find_local(f->answers, &key, a));
    answer_unref(&a);
}

static void what_is_still_filled_is_not_at_hand(void **state)
{
    const struct fixture *f = *state;
    struct key key = key_number(1);
    struct answer *a;

    assert_null(answers_at_hand(f->answers, &key));
    a = lead(f, &key);
    answers_begin(f->answers, &key, a);
    append(a, 5000);
    assert_null(answers_at_hand(f->answers, &key));
    assert_true(keep(f, &key, a));
    answer_unref(&a);
    a = answers_at_hand(f->answers, &key);
    assert_body(a, 5000);
    answer_unref(&a);
}

static void readers_come_to_the_end_before_it_is_published_or_refused(void **state)
{
    const struct fixture *f = *state;
    struct key key = key_number(1);
    struct answer *a = lead(f, &key);
    char *answers = folder_pathf(f->folder, "answers");

    answers_begin(f->answers, &key, a);
    append(a, 5000);
    /* Its place can't be made: the answer is right all the same. */
    remove_tree(answers);
    put_file(answers, "in the way", 10);
    assert_false(keep(f, &key, a));
    assert_body(a, 5000);
    assert_true(folder_troubled(f->folder, &(struct err){0}));
    answer_unref(&a);
    assert_int_equal(unlink(answers), 0);
    make(f, &key, 10); /* and the next one tries again */
    assert_false(folder_troubled(f->folder, &(struct err){0}));
    free(answers);
}

static void a_restart_finds_what_was_kept(void **state)
{
    struct fixture *f = *state;
    struct key key = key_number(1);
    struct answer *a;

    make(f, &key, 100000);
    restart(f);
    assert_true(answers_have(f->answers, &key));
    a = lead(f, &key);
    assert_true(answers_find_local(f->answers, &key, a));
    assert_body(a, 100000);
    assert_int_equal(answer_source(a), SOURCE_LOCAL);
    assert_int_equal(answer_note_offset(a), 3);
    answer_unref(&a);
    a = follow(f, &key);
    assert_body(a, 100000);
    answer_unref(&a);
    assert_int_equal(counts(f).damaged, 0);
}

static void what_was_half_filled_is_gone_after_a_restart(void **state)
{
    struct fixture *f = *state;
    struct key key = key_number(1);
    struct answer *a = lead(f, &key);
    char *half = folder_incoming_path(f->folder, ".answer");

    put_file(half, "left by a crash", 15);
    answers_fail(f->answers, &key, a, &(struct err){ERR_CANCELLED, "over"});
    answer_unref(&a);
    restart(f);
    assert_false(exists(half));
    a = lead(f, &key);
    assert_false(answers_find_local(f->answers, &key, a));
    answers_fail(f->answers, &key, a, &(struct err){ERR_CANCELLED, "over"});
    answer_unref(&a);
    assert_int_equal(counts(f).damaged, 0);
    free(half);
}

/* ---- damage ---- */

enum damage { FLIP_BODY, FLIP_RECORD, FLIP_TAIL, CUT, EXTEND, EMPTY, SWAP, DAMAGES };

static void damage_file(const struct fixture *f, const struct key *key, enum damage how)
{
    struct key other = key_number(77);
    char *path = path_of(f, key), *others = path_of(f, &other);
    uint64_t size = size_of(path);

    switch (how) {
    case FLIP_BODY: flip_byte(path, 10); break;
    case FLIP_RECORD: flip_byte(path, 5005); break;
    case FLIP_TAIL: flip_byte(path, size - 1); break;
    case CUT: assert_int_equal(truncate(path, (off_t)size - 1), 0); break;
    case EXTEND: assert_int_equal(truncate(path, (off_t)size + 1), 0); break;
    case EMPTY: assert_int_equal(truncate(path, 0), 0); break;
    case SWAP: assert_int_equal(rename(others, path), 0); break;
    case DAMAGES: break;
    }
    free(path);
    free(others);
}

static void a_damaged_file_is_dropped_counted_and_made_again(void **state)
{
    struct fixture *f = *state;
    struct key other = key_number(77);

    for (unsigned how = 0; how < DAMAGES; how++) {
        struct key key = key_number(how);
        char *path = path_of(f, &key);
        struct answer *a;

        make(f, &key, 5000);
        if (how == SWAP) /* sound, but another question's */
            make(f, &other, 5000);
        restart(f);
        damage_file(f, &key, how);
        f->damaged = 0;
        a = lead(f, &key);
        assert_false(answers_find_local(f->answers, &key, a));
        assert_int_equal(counts(f).damaged, 1);
        assert_int_equal(f->damaged, 1);
        assert_false(exists(path));
        answers_begin(f->answers, &key, a);
        append(a, 5000);
        assert_true(keep(f, &key, a));
        answer_unref(&a);
        a = follow(f, &key);
        assert_body(a, 5000);
        answer_unref(&a);
        free(path);
    }
}

static void a_file_that_is_removed_or_changed_under_us_is_noticed_by_the_next(void **state)
{
    struct fixture *f = *state;

    for (unsigned how = 0; how <= DAMAGES; how++) {
        struct key key = key_number(how);
        struct answer *a;
        char *path;

        if (how == SWAP)
            continue; /* not damage of the file that is open */
        path = path_of(f, &key);
        make(f, &key, 5000);
        if (how == DAMAGES)
            assert_int_equal(unlink(path), 0);
        else
            damage_file(f, &key, how);
        assert_null(answers_at_hand(f->answers, &key));
        a = lead(f, &key);
        assert_false(answers_find_local(f->answers, &key, a));
        assert_int_equal(f->damaged, how < SWAP ? how + 1 : SWAP);
        answers_fail(f->answers, &key, a, &(struct err){ERR_CANCELLED, "over"});
        answer_unref(&a);
        free(path);
    }
}

static void who_reads_already_goes_on_when_the_file_is_dropped(void **state)
{
    struct fixture *f = *state;
    struct key key = key_number(1);
    char *path = path_of(f, &key);
    struct answer *reads, *next;

    make(f, &key, 5000);
    reads = follow(f, &key);
    assert_int_equal(unlink(path), 0);
    next = lead(f, &key);
    assert_body(reads, 5000);
    answers_fail(f->answers, &key, next, &(struct err){ERR_CANCELLED, "over"});
    answer_unref(&next);
    answer_unref(&reads);
    free(path);
}

static void a_touched_file_is_read_again_and_found_good(void **state)
{
    struct fixture *f = *state;
    struct key key = key_number(1);
    char *path = path_of(f, &key);
    struct answer *a;

    make(f, &key, 5000);
    assert_int_equal(chmod(path, 0640), 0);
    a = lead(f, &key); /* it isn't known any more that it is the one that was written */
    assert_true(answers_find_local(f->answers, &key, a));
    assert_body(a, 5000);
    answer_unref(&a);
    assert_int_equal(counts(f).damaged, 0);
    free(path);
}

/* ---- packed ---- */

enum { TEXT = 300000 };

static char text_at(uint64_t at)
{
    return "refs/heads/main 0123456789\n"[(at + at / 991) % 27];
}

/* What makes text and pattern differ: packing pays for one of them. */
static void make_text(const struct fixture *f, const struct key *key, size_t len)
{
    struct answer *a = lead(f, key);
    char *data = xmalloc(len);
    struct err err;

    for (size_t i = 0; i < len; i++)
        data[i] = text_at(i);
    answers_begin(f->answers, key, a);
    answer_set_note_offset(a, 3);
    assert_int_equal(answer_append(a, data, len, &err), 0);
    assert_true(keep(f, key, a));
    answer_unref(&a);
    free(data);
}

static void assert_text(struct answer *a, size_t len)
{
    char *data = xmalloc(len);
    int fd = answer_dup_fd(a);

    assert_int_equal(answer_size(a), len);
    assert_true(fd >= 0); /* goes out by sendfile */
    assert_int_equal(pread(fd, data, len, 0), (ssize_t)len);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(data[i], text_at(i));
    close(fd);
    free(data);
}

static void use_compression(struct fixture *f, enum compression compression)
{
    f->compression = compression;
    restart(f);
}

static uint64_t stored(const struct fixture *f, const struct key *key)
{
    char *path = path_of(f, key);
    uint64_t size = size_of(path);

    free(path);
    return size;
}

static uint64_t filling_bytes(const struct fixture *f)
{
    struct local_usage usage;

    local_usage(f->local, &usage);
    return usage.filling;
}

static int sees_sizes(void *ctx, const struct entry *e)
{
    const struct fixture *f = ctx;
    char *path = folder_pathf(f->folder, "%s", e->path);

    assert_int_equal(e->size, TEXT);
    assert_int_equal(e->stored_size, disk_usage(path));
    assert_true(e->stored_size < TEXT / 4);
    free(path);
    return 0;
}

static void what_shrinks_lies_packed_and_is_read_as_it_was(void **state)
{
    struct fixture *f = *state;
    struct key key = key_number(1);
    char *incoming = folder_pathf(f->folder, "incoming");
    struct answer *a;
    struct err err;

    use_compression(f, COMPRESSION_AUTO);
    make_text(f, &key, TEXT);
    assert_true(stored(f, &key) < TEXT / 4);
    assert_int_equal(local_each(f->local, sees_sizes, f, &err), 0);
    a = follow(f, &key); /* what it was made in is still open */
    assert_text(a, TEXT);
    answer_unref(&a);
    restart(f);
    assert_int_equal(count_entries(incoming), 0);
    assert_int_equal(local_each(f->local, sees_sizes, f, &err), 0);
    for (int i = 0; i < 2; i++) {
        a = i == 0 ? lead(f, &key) : follow(f, &key);
        assert_true(i > 0 || answers_find_local(f->answers, &key, a));
        assert_text(a, TEXT);
        assert_int_equal(answer_source(a), SOURCE_LOCAL);
        assert_int_equal(answer_note_offset(a), 3);
        answer_unref(&a);
    }
    assert_int_equal(count_entries(incoming), 0);
    assert_int_equal(counts(f).damaged, 0);
    free(incoming);
}

static void what_does_not_shrink_lies_as_it_is(void **state)
{
    struct fixture *f = *state;
    struct key noise = key_number(1), small = key_number(2), text = key_number(3);

    use_compression(f, COMPRESSION_ON);
    make(f, &noise, 10);
    assert_true(stored(f, &noise) > 10);
    use_compression(f, COMPRESSION_AUTO);
    make_text(f, &small, 4000);
    assert_true(stored(f, &small) > 4000);
    use_compression(f, COMPRESSION_ON);
    make_text(f, &text, 4000);
    assert_true(stored(f, &text) < 2000);
    use_compression(f, COMPRESSION_OFF);
    text = key_number(4);
    make_text(f, &text, TEXT);
    assert_true(stored(f, &text) > TEXT);
}

static void what_lies_packed_is_read_whatever_is_set_now(void **state)
{
    struct fixture *f = *state;
    struct key key = key_number(1);
    struct answer *a;

    use_compression(f, COMPRESSION_ON);
    make_text(f, &key, TEXT);
    use_compression(f, COMPRESSION_OFF);
    a = lead(f, &key);
    assert_true(answers_find_local(f->answers, &key, a));
    assert_text(a, TEXT);
    answer_unref(&a);
}

static void room_for_the_unpacked_is_claimed_until_it_is_closed(void **state)
{
    struct fixture *f = *state;
    struct key key = key_number(1);
    char *path = path_of(f, &key);
    struct answer *a;

    use_compression(f, COMPRESSION_AUTO);
    make_text(f, &key, TEXT);
    assert_int_equal(filling_bytes(f), TEXT);
    restart(f);
    assert_int_equal(filling_bytes(f), 0);
    a = lead(f, &key);
    assert_true(answers_find_local(f->answers, &key, a));
    assert_int_equal(filling_bytes(f), TEXT);
    assert_int_equal(unlink(path), 0);
    assert_null(answers_peek(f->answers, &key)); /* the table lets it go */
    assert_text(a, TEXT);
    assert_int_equal(filling_bytes(f), TEXT);
    answer_unref(&a);
    assert_int_equal(filling_bytes(f), 0);
    free(path);
}

static uint64_t blocks_of(struct answer *a)
{
    struct stat st;

    assert_int_equal(fstat(answer_fd(a), &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void room_for_what_was_promised_is_taken_ahead_of_it(void **state)
{
    enum { PROMISED = 3 << 20, PIECE = 200 * 1000 };
    struct fixture *f = *state;
    struct key key = key_number(1);
    struct answer *a = lead(f, &key);

    answers_begin(f->answers, &key, a);
    answer_promise_size(a, PROMISED);
    assert_int_equal(filling_bytes(f), 0);
    append(a, PIECE);
    assert_int_equal(filling_bytes(f), PROMISED);
    assert_in_range(blocks_of(a), PROMISED, 2 * PROMISED);
    append(a, PROMISED - PIECE);
    assert_int_equal(filling_bytes(f), PROMISED);
    assert_true(keep(f, &key, a));
    answer_unref(&a);
    restart(f);
    a = lead(f, &key);
    assert_true(answers_find_local(f->answers, &key, a)); /* no more and no less than that */
    assert_int_equal(answer_size(a), PROMISED);
    answer_unref(&a);
}

static void a_message_behind_what_was_promised_has_room_of_its_own(void **state)
{
    enum { PROMISED = 1 << 20 };
    const struct err why = {ERR_CORRUPT, "it lied"};
    struct fixture *f = *state;
    struct key key = key_number(1);
    struct answer *a = lead(f, &key);

    answers_begin(f->answers, &key, a);
    answer_promise_size(a, PROMISED);
    append(a, PROMISED / 2);
    assert_int_equal(filling_bytes(f), PROMISED);
    append(a, 2 * PROMISED);
    assert_int_equal(filling_bytes(f), 5 * PROMISED / 2);
    answers_fail(f->answers, &key, a, &why);
    answer_unref(&a);
    assert_int_equal(filling_bytes(f), 0);
}

static void what_is_too_large_gives_its_room_back_while_it_passes(void **state)
{
    enum { PIECE = ANSWER_WINDOW / 2 };
    struct fixture *f = *state;
    struct key key = key_number(1);
    char *data = pattern(1, PIECE), *block = xmalloc(PIECE);
    struct answer_reader r;
    struct answer *a;
    struct err err;

    f->limits.size = (struct share){.bytes = 3 * ANSWER_WINDOW};
    restart(f);
    a = lead(f, &key);
    assert_int_equal(answer_reader_open(&r, a, NULL, NULL, &err), 0);
    answers_begin(f->answers, &key, a);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(answer_append(a, data, PIECE, &err), 0);
        if (i == 4)
            assert_int_equal(filling_bytes(f), 5 * PIECE);
        for (size_t done = 0; done < PIECE;) {
            ssize_t n = answer_reader_read(&r, block, PIECE - done);

            assert_true(n > 0 && memcmp(block, data + done, (size_t)n) == 0);
            done += (size_t)n;
        }
    }
    assert_int_equal(answer_fd(a), -1);
    assert_int_equal(filling_bytes(f), 0);
    answers_end(f->answers, &key, a);
    assert_int_equal(answer_reader_read(&r, block, PIECE), READER_END);
    answer_reader_close(&r);
    answer_unref(&a);
    free(block);
    free(data);
}

static void only_a_few_stay_open_unpacked(void **state)
{
    struct fixture *f = *state;
    struct answer *a;
    struct key key;

    use_compression(f, COMPRESSION_AUTO);
    for (unsigned i = 0; i < ANSWERS_IDLE_APART_MAX + 5; i++) {
        key = key_number(i);
        make_text(f, &key, TEXT);
    }
    assert_int_equal(filling_bytes(f), ANSWERS_IDLE_APART_MAX * TEXT);
    key = key_number(0);
    a = lead(f, &key);
    assert_true(answers_find_local(f->answers, &key, a));
    answer_unref(&a);
    key = key_number(1000);
    make(f, &key, 10);
    assert_int_equal(filling_bytes(f), ANSWERS_IDLE_APART_MAX * TEXT);
}

static void without_room_to_unpack_it_stays_where_it_is(void **state)
{
    struct fixture *f = *state;
    struct key key = key_number(1);
    struct answer *a;

    use_compression(f, COMPRESSION_AUTO);
    make_text(f, &key, TEXT);
    f->limits.size = (struct share){.bytes = TEXT / 2};
    restart(f);
    a = lead(f, &key);
    assert_false(answers_find_local(f->answers, &key, a));
    answers_fail(f->answers, &key, a, &(struct err){ERR_CANCELLED, "over"});
    answer_unref(&a);
    assert_int_equal(counts(f).damaged, 0);
    assert_false(folder_troubled(f->folder, &(struct err){0}));
    assert_int_equal(filling_bytes(f), 0);
}

static void damage_of_a_packed_file_is_found_wherever_it_is(void **state)
{
    struct fixture *f = *state;
    uint64_t size = 100;
    unsigned n = 0;

    use_compression(f, COMPRESSION_AUTO);
    for (uint64_t at = 0; at < size; at += 1 + size / 20) {
        struct key key = key_number(n++);
        char *path = path_of(f, &key), *name;
        struct answer *a;
        struct err err;

        make_text(f, &key, TEXT);
        size = size_of(path);
        name = strstr(path, "answers/");
        assert_int_equal(answers_verify(f->answers, name, &err), 0);
        restart(f);
        flip_byte(path, at);
        f->damaged = 0;
        assert_int_equal(answers_verify(f->answers, name, &err), -1);
        assert_int_equal(err.kind, ERR_CORRUPT);
        a = lead(f, &key);
        assert_false(answers_find_local(f->answers, &key, a));
        assert_int_equal(counts(f).damaged, 1);
        assert_int_equal(f->damaged, 1);
        assert_false(exists(path));
        assert_int_equal(filling_bytes(f), 0);
        answers_fail(f->answers, &key, a, &(struct err){ERR_CANCELLED, "over"});
        answer_unref(&a);
        free(path);
    }
    assert_true(n > 10);
}

static void a_packed_file_that_is_changed_under_us_is_noticed_by_the_next(void **state)
{
    struct fixture *f = *state;
    struct key key = key_number(1);
    char *path = path_of(f, &key);
    struct answer *a;

    use_compression(f, COMPRESSION_AUTO);
    make_text(f, &key, TEXT);
    flip_byte(path, 10);
    a = lead(f, &key);
    assert_false(answers_find_local(f->answers, &key, a));
    assert_int_equal(f->damaged, 1);
    answers_fail(f->answers, &key, a, &(struct err){ERR_CANCELLED, "over"});
    answer_unref(&a);
    free(path);
}

/* ---- bounds ---- */

static size_t open_answers(void)
{
    return count_entries("/proc/self/fd");
}

static void answers_that_nobody_reads_do_not_stay_open_for_ever(void **state)
{
    enum { MORE = 40 };
    struct fixture *f = *state;
    size_t before = open_answers();
    struct answer *a;
    struct key key;

    for (unsigned i = 0; i < ANSWERS_IDLE_OPEN_MAX + MORE; i++) {
        key = key_number(i);
        make(f, &key, 10);
        if (i % 10 == 0) { /* the first one is asked for again and again */
            key = key_number(0);
            a = follow(f, &key);
            answer_unref(&a);
        }
    }
    assert_int_equal(open_answers() - before, ANSWERS_IDLE_OPEN_MAX);
    key = key_number(0);
    a = answers_peek(f->answers, &key);
    assert_non_null(a);
    answer_unref(&a);
    key = key_number(1);
    assert_null(answers_peek(f->answers, &key));
    a = lead(f, &key);
    assert_true(answers_find_local(f->answers, &key, a));
    assert_body(a, 10);
    answer_unref(&a);
    assert_int_equal(open_answers() - before, ANSWERS_IDLE_OPEN_MAX);
}

/* Bytes that this process has read from files, or 0 where the kernel doesn't tell. */
static uint64_t bytes_read(void)
{
    FILE *io = fopen("/proc/self/io", "re");
    unsigned long long n = 0;

    if (io != NULL && fscanf(io, "rchar: %llu", &n) != 1)
        n = 0;
    if (io != NULL)
        fclose(io);
    return n;
}

static void a_file_that_was_written_or_verified_before_is_not_read_again(void **state)
{
    enum { BODY = 4 << 20 };
    struct fixture *f = *state;
    struct key key = key_number(ANSWERS_IDLE_OPEN_MAX + 1);
    uint64_t before;
    struct answer *a;

    make(f, &key, BODY);
    for (unsigned i = 0; i < ANSWERS_IDLE_OPEN_MAX; i++) {
        struct key other = key_number(i);

        make(f, &other, 10);
    }
    assert_null(answers_peek(f->answers, &key)); /* closed, but remembered */
    before = bytes_read();
    if (before == 0)
        skip();
    a = lead(f, &key);
    assert_true(answers_find_local(f->answers, &key, a));
    assert_true(bytes_read() - before < BODY / 2);
    answer_unref(&a);
}

static void what_is_being_filled_is_never_trimmed(void **state)
{
    struct fixture *f = *state;
    struct key first = key_number(100000);
    struct answer *a = lead(f, &first), *again;

    for (unsigned i = 0; i < ANSWERS_IDLE_OPEN_MAX + 10; i++) {
        struct key key = key_number(i);

        make(f, &key, 1);
    }
    again = follow(f, &first);
    assert_ptr_equal(a, again);
    answers_fail(f->answers, &first, a, &(struct err){ERR_CANCELLED, "over"});
    answer_unref(&a);
    answer_unref(&again);
}

/* ---- all at once ---- */

struct user {
    struct fixture *f;
    pthread_barrier_t *barrier;
    unsigned seed;
    atomic_uint *led;
};

/* Leads, follows, keeps, fails, and now and then takes a file away. */
static void *use_all(void *ctx)
{
    struct user *u = ctx;

    pthread_barrier_wait(u->barrier);
    for (int i = 0; i < 300; i++) {
        struct key key = key_number((unsigned)rand_r(&u->seed) % 8);
        unsigned dice = (unsigned)rand_r(&u->seed) % 10;
        bool leads;
        struct answer *a = answers_join(u->f->answers, &key, &leads);

        if (leads && !answers_find_local(u->f->answers, &key, a)) {
            atomic_fetch_add(u->led, 1);
            answers_begin(u->f->answers, &key, a);
            append(a, 2000);
            if (dice == 0)
                answers_fail(u->f->answers, &key, a, &(struct err){ERR_UPSTREAM, "dice"});
            else if (dice == 1)
                answers_end(u->f->answers, &key, a);
            else
                keep(u->f, &key, a); /* not when its file is taken away at once */
        } else if (!leads && answer_state(a) == ANSWER_WHOLE) {
            assert_body(a, 2000);
        }
        if (dice == 2) {
            char *path = path_of(u->f, &key);

            unlink(path);
            free(path);
        }
        answer_unref(&a);
    }
    return NULL;
}

static void all_of_it_at_once_holds(void **state)
{
    enum { USERS = 8 };
    struct fixture *f = *state;
    struct user users[USERS];
    pthread_barrier_t barrier;
    atomic_uint led = 0;
    char *incoming = folder_pathf(f->folder, "incoming");

    pthread_barrier_init(&barrier, NULL, USERS);
    for (unsigned i = 0; i < USERS; i++)
        users[i] = (struct user){f, &barrier, i + 1, &led};
    run_together(USERS, use_all, users, sizeof(users[0]));
    assert_true(led > 0);
    assert_int_equal(counts(f).filling, 0);
    assert_int_equal(counts(f).damaged, 0);
    assert_int_equal(count_entries(incoming), 0);
    pthread_barrier_destroy(&barrier);
    free(incoming);
}

static void who_reads_a_file_to_check_it_ends_with_the_program(void **state)
{
    const struct fixture *f = *state;
    struct key key = key_number(1);
    char hex[KEY_HEX_SIZE], *name;
    struct err err;

    make(f, &key, 100000);
    key_to_hex(&key, hex);
    name = xasprintf("answers/%.2s/%s", hex, hex);
    answers_stop(f->answers);
    assert_int_equal(answers_verify(f->answers, name, &err), -1);
    assert_int_equal(err.kind, ERR_CANCELLED);
    assert_int_equal(counts(f).damaged, 0);
    free(name);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(of_many_who_ask_at_once_one_leads),
        TEST(after_a_failure_the_next_leads_anew),
        TEST(what_is_ended_without_being_kept_is_for_those_who_have_it),
        TEST(a_late_failure_leaves_the_next_ones_answer_alone),
        TEST(what_was_let_go_of_is_not_kept),
        TEST(who_lets_go_waits_for_what_is_being_published),
        TEST(what_was_let_go_of_goes_on_for_its_readers_and_is_not_found),
        TEST(a_kept_answer_is_at_hand),
        TEST(a_digest_that_is_known_is_kept_with_the_answer),
        TEST(a_digest_that_was_not_right_after_all_is_worked_out),
        TEST(what_is_still_filled_is_not_at_hand),
        TEST(readers_come_to_the_end_before_it_is_published_or_refused),
        TEST(a_restart_finds_what_was_kept),
        TEST(what_was_half_filled_is_gone_after_a_restart),
        TEST(a_damaged_file_is_dropped_counted_and_made_again),
        TEST(a_file_that_is_removed_or_changed_under_us_is_noticed_by_the_next),
        TEST(who_reads_already_goes_on_when_the_file_is_dropped),
        TEST(a_touched_file_is_read_again_and_found_good),
        TEST(what_shrinks_lies_packed_and_is_read_as_it_was),
        TEST(what_does_not_shrink_lies_as_it_is),
        TEST(what_lies_packed_is_read_whatever_is_set_now),
        TEST(room_for_the_unpacked_is_claimed_until_it_is_closed),
        TEST(room_for_what_was_promised_is_taken_ahead_of_it),
        TEST(a_message_behind_what_was_promised_has_room_of_its_own),
        TEST(what_is_too_large_gives_its_room_back_while_it_passes),
        TEST(only_a_few_stay_open_unpacked),
        TEST(without_room_to_unpack_it_stays_where_it_is),
        TEST(damage_of_a_packed_file_is_found_wherever_it_is),
        TEST(a_packed_file_that_is_changed_under_us_is_noticed_by_the_next),
        TEST(answers_that_nobody_reads_do_not_stay_open_for_ever),
        TEST(a_file_that_was_written_or_verified_before_is_not_read_again),
        TEST(what_is_being_filled_is_never_trimmed),
        TEST(who_reads_a_file_to_check_it_ends_with_the_program),
        TEST(all_of_it_at_once_holds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
