/* Against a store in memory that can be told to lie, one of files, and a real S3 server where
 * PANNIER_TEST_S3 names one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/answer_file.h"
#include "cache/compress.h"
#include "cache/shared/shared_answer.h"
#include "s3_words.h"
#include "scratch.h"

enum {
    KIB = 1024,
    MIB = 1024 * KIB,
    BIG = 3 * MIB + 12345,
    OBJECT_MAX = 8 * MIB,
    HEAD_MAX = 64 * KIB,
};

static const char REPO[] = "1111111111111111111111111111111111111111111111111111111111111111";
static const char OTHER_REPO[] = "2222222222222222222222222222222222222222222222222222222222222222";

static struct key key_number(uint8_t n)
{
    struct key key;

    memset(&key, n, sizeof(key));
    return key;
}

/* ---- a store in memory, of one object ---- */

struct memory {
    struct bytes object; /* len 0: there is none */
    char key[OBJECT_KEY_MAX + 1];
    size_t chunk;                     /* it is handed out by so much */
    size_t breaks_at;                 /* and a get fails there; 0: never */
    bool refuses_conditions, is_late; /* another is there when it is put, though not before */
    bool is_full;
    bool lacks_conditions; /* as it turned out */
    unsigned puts;
};

static int memory_put(void *self, const char *key, const struct object_source *source,
                      const struct object_put_options *options, struct object_info *out,
                      struct err *err)
{
    struct memory *m = self;
    char buf[64 * KIB];
    uint64_t at = 0;
    ssize_t n;

    m->puts++;
    if (m->is_full)
        return err_set(err, ERR_REFUSED, "no room");
    if (m->refuses_conditions && options->only_new) {
        m->lacks_conditions = true;
        return err_set(err, ERR_REFUSED, "no conditions");
    }
    if (m->is_late || (options->only_new && m->object.len > 0))
        return err_set(err, ERR_CONFLICT, "there is one");
    bytes_reset(&m->object);
    strcpy(m->key, key);
    while ((n = object_source_read(source, at, buf, sizeof(buf), err)) > 0) {
        assert_int_equal(bytes_add(&m->object, buf, (size_t)n), 0);
        at += (uint64_t)n;
    }
    *out = (struct object_info){.size = at, .etag = "e"};
    return n < 0 ? -1 : 0;
}

static int memory_head(void *self, const char *key, struct object_info *out, struct err *err)
{
    const struct memory *m = self;

    if (m->object.len == 0 || strcmp(m->key, key) != 0)
        return err_set(err, ERR_NOT_FOUND, "nothing there");
    *out = (struct object_info){.size = m->object.len, .etag = "e"};
    return 0;
}

static int memory_get(void *self, const char *key, uint64_t offset, uint64_t length,
                      struct object_info *info, object_sink_fn *fn, void *ctx, struct err *err)
{
    const struct memory *m = self;
    size_t end = m->object.len < length ? m->object.len : (size_t)length;

    assert_int_equal(offset, 0);
    if (memory_head(self, key, info, err) != 0)
        return -1;
    for (size_t at = 0; at < end;) {
        size_t left = end - at, n = m->chunk > 0 && m->chunk < left ? m->chunk : left;
        char *piece = xmalloc(n); /* of its own, for the sanitizer */
        int rc;

        if (m->breaks_at > 0 && at + n > m->breaks_at)
            n = m->breaks_at - at;
        memcpy(piece, m->object.data + at, n);
        rc = n > 0 ? fn(ctx, piece, n, err) : 0;
        free(piece);
        if (rc != 0)
            return -1;
        at += n;
        if (at == m->breaks_at)
            return err_set(err, ERR_TIMEOUT, "it hangs");
    }
    return 0;
}

static int memory_remove(void *self, const char *key, struct err *err)
{
    struct memory *m = self;

    (void)err;
    if (strcmp(m->key, key) == 0)
        bytes_reset(&m->object);
    return 0;
}

static void memory_free(void *self)
{
    struct memory *m = self;

    bytes_clear(&m->object);
    free(m);
}

static bool memory_lacks_conditions(void *self)
{
    const struct memory *m = self;

    return m->lacks_conditions;
}

static struct object_store *memory_new(struct memory **m)
{
    static const struct object_driver driver = {
        .put = memory_put,
        .get = memory_get,
        .head = memory_head,
        .remove = memory_remove,
        .free = memory_free,
        .has_conditions = true,
        .lacks_conditions = memory_lacks_conditions,
    };

    *m = xcalloc(1, sizeof(**m));
    bytes_init(&(*m)->object, OBJECT_MAX);
    return object_store_new(&driver, *m, "memory");
}

/* ---- answers ---- */

/* What answers consist of: hard to compress at first, so that a frame has several pieces, and easy
 * behind that. */
static char content_at(uint64_t at)
{
    uint64_t x = (at + 1) * UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ x >> 31) * UINT64_C(0xbf58476d1ce4e5b9);
    return at < 2 * MIB + MIB / 4 ? (char)(x >> 56) : byte_at(at);
}

static char *content(size_t len)
{
    char *out = xmalloc(len);

    for (size_t i = 0; i < len; i++)
        out[i] = content_at(i);
    return out;
}

struct bench {
    struct scratch scratch;
    struct memory *memory;
    struct object_store *store;
};

static int set_up(void **state)
{
    struct bench *b = xcalloc(1, sizeof(*b));

    scratch_init(&b->scratch);
    b->store = memory_new(&b->memory);
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

static int append(void *ctx, const void *data, size_t len, struct err *err)
{
    (void)err;
    assert_int_equal(write(*(int *)ctx, data, len), len);
    return 0;
}

/* A whole answer's file with the first size bytes of it: plain, or as a frame. */
static int make_answer(struct bench *b, size_t size, bool packed)
{
    const struct entry entry = {.repo_id = (char *)REPO,
                                .repo = (char *)"example/r",
                                .url = (char *)"https://example.org/r",
                                .path = (char *)"answers/00/00",
                                .ref = (char *)"refs/heads/main",
                                .size = size,
                                .created = 5,
                                .note_offset = 13,
                                .objects = 3,
                                .packed = packed};
    char *body = content(size), *from_path = scratch_path(&b->scratch, "body"),
         *path = scratch_path(&b->scratch, "answer");
    int from = open(from_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    struct key sha256;
    struct err err;

    append(&from, body, size, &err);
    if (packed)
        assert_int_equal(compress_file(from, size, append, &fd, &err), 0);
    else
        append(&fd, body, size, &err);
    key_of(body, size, &sha256);
    assert_int_equal(
        answer_file_seal(fd, (uint64_t)lseek(fd, 0, SEEK_CUR), &entry, sha256.raw, &err), 0);
    close(from);
    free(path);
    free(from_path);
    free(body);
    return fd;
}

/* What came of a get that should give the content. */
struct taker {
    unsigned begun;
    uint64_t size, at;
    uint8_t sha256[SHA256_SIZE];
    bool wrong;
    bool refuses; /* to begin */
    uint64_t enough_at;
};

static int take_begin(void *ctx, const struct shared_answer *what, struct err *err)
{
    struct taker *t = ctx;

    assert_int_equal(t->at, 0);
    t->begun++;
    t->size = what->entry.size;
    memcpy(t->sha256, what->sha256, SHA256_SIZE);
    assert_string_equal(what->entry.repo_id, REPO);
    assert_string_equal(what->entry.repo, "example/r");
    assert_string_equal(what->entry.url, "https://example.org/r");
    assert_string_equal(what->entry.ref, "refs/heads/main");
    assert_null(what->entry.commit);
    assert_int_equal(what->entry.created, 5);
    assert_int_equal(what->entry.note_offset, 13);
    assert_int_equal(what->entry.objects, 3);
    return t->refuses ? err_set(err, ERR_BUSY, "the sink's") : 0;
}

static int take(void *ctx, const void *data, size_t len, struct err *err)
{
    struct taker *t = ctx;

    assert_int_equal(t->begun, 1);
    for (size_t i = 0; i < len; i++)
        t->wrong = t->wrong || ((const char *)data)[i] != content_at(t->at + i);
    t->at += len;
    if (t->enough_at > 0 && t->at >= t->enough_at)
        return err_set(err, ERR_CANCELLED, "enough of that");
    return 0;
}

static int get_into(struct object_store *s, uint8_t n, struct taker *t, struct err *err)
{
    struct shared_answer_sink sink = {.begin = take_begin, .data = take, .ctx = t};
    struct key key = key_number(n);

    return shared_answer_get(s, NULL, REPO, &key, &sink, err);
}

static int put_answer(struct object_store *s, uint8_t n, int fd, uint64_t *sent, struct err *err)
{
    struct key key = key_number(n);

    return shared_answer_put(s, NULL, &key, fd, NULL, NULL, sent, err);
}

/* The one in the file is put as number 1. */
static void must_put(struct bench *b, size_t size, bool packed)
{
    int fd = make_answer(b, size, packed);
    uint64_t sent;
    struct err err;

    if (put_answer(b->store, 1, fd, &sent, &err) != 0)
        fail_msg("%s", err.text);
    assert_true(sent > 0);
    close(fd);
}

static void expect_whole(struct object_store *s, uint8_t n, size_t size)
{
    char *body = content(size);
    struct taker t = {0};
    struct key sha256;
    struct err err;

    if (get_into(s, n, &t, &err) != 0)
        fail_msg("%zu bytes: %s", size, err.text);
    assert_int_equal(t.begun, 1);
    assert_int_equal(t.size, size);
    assert_int_equal(t.at, size);
    assert_false(t.wrong);
    key_of(body, size, &sha256);
    assert_memory_equal(t.sha256, sha256.raw, SHA256_SIZE);
    free(body);
}

/* ---- round trips ---- */

static const size_t SIZES[] = {
    0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 1, BIG,
};

static void every_size_comes_back_whatever_it_comes_in(void **state)
{
    static const size_t chunks[] = {1000, 64 * KIB, 100001, MIB + 1, 0};
    struct bench *b = *state;

    for (size_t i = 0; i < ARRAY_LEN(SIZES); i++) {
        for (int packed = 0; packed < 2; packed++) {
            bytes_reset(&b->memory->object);
            must_put(b, SIZES[i], packed);
            for (size_t c = 0; c < ARRAY_LEN(chunks); c++) {
                b->memory->chunk = chunks[c];
                expect_whole(b->store, 1, SIZES[i]);
            }
        }
    }
}

static void every_byte_may_come_alone(void **state)
{
    struct bench *b = *state;

    b->memory->chunk = 1;
    must_put(b, 65 * KIB, false);
    expect_whole(b->store, 1, 65 * KIB);
}

static void sizes_come_back_from(struct bench *b, struct object_store *s)
{
    for (uint8_t i = 0; i < ARRAY_LEN(SIZES); i++) {
        for (uint8_t packed = 0; packed < 2; packed++) {
            uint8_t n = (uint8_t)(2 * i + packed);
            int fd = make_answer(b, SIZES[i], packed);
            uint64_t sent;
            struct err err;

            if (put_answer(s, n, fd, &sent, &err) != 0)
                fail_msg("%s", err.text);
            assert_true(sent > SHARED_ANSWER_FIXED);
            expect_whole(s, n, SIZES[i]);
            assert_int_equal(put_answer(s, n, fd, &sent, &err), 0);
            assert_int_equal(sent, 0);
            close(fd);
        }
    }
}

static void every_size_comes_back_from_a_folder(void **state)
{
    struct bench *b = *state;
    struct object_store_config config = {.driver = "file", .endpoint = b->scratch.dir};
    struct object_store *s;
    struct err err;

    assert_int_equal(object_store_open(&config, &s, &err), 0);
    sizes_come_back_from(b, s);
    object_store_free(&s);
}

static void every_size_comes_back_from_a_server(void **state)
{
    struct bench *b = *state;
    struct object_store_config config = {.driver = "s3"};
    struct object_store *s;
    char *words, *prefix;
    struct err err;

    if (!s3_words_read(&config, &words))
        skip();
    prefix = s3_words_own_prefix(&config);
    config.prefix = prefix;
    assert_int_equal(object_store_open(&config, &s, &err), 0);
    sizes_come_back_from(b, s);
    for (uint8_t n = 0; n < 2 * ARRAY_LEN(SIZES); n++) {
        char object_key[OBJECT_KEY_MAX + 1];
        struct key key = key_number(n);

        shared_answer_key(REPO, &key, object_key);
        assert_int_equal(object_remove(s, object_key, &err), 0);
    }
    object_store_free(&s);
    free(prefix);
    free(words);
}

/* A folder's store sees at a glance that an object was cut.  That is nothing against the answer
 * here, which is put in its place. */
static void one_that_is_seen_to_be_damaged_is_put_anew(void **state)
{
    struct bench *b = *state;
    struct object_store_config config = {.driver = "file", .endpoint = b->scratch.dir};
    struct key key = key_number(1);
    char hex[KEY_HEX_SIZE], *path;
    struct object_store *s;
    struct stat st;
    uint64_t sent;
    struct err err;
    int fd = make_answer(b, BIG, false);

    assert_int_equal(object_store_open(&config, &s, &err), 0);
    assert_int_equal(put_answer(s, 1, fd, &sent, &err), 0);
    key_to_hex(&key, hex);
    path = xasprintf("%s/objects/answers,/%s,/%s=", b->scratch.dir, REPO, hex);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size - 1), 0);
    if (put_answer(s, 1, fd, &sent, &err) != 0)
        fail_msg("%s", err.text);
    assert_true(sent > BIG);
    expect_whole(s, 1, BIG);
    free(path);
    close(fd);
    object_store_free(&s);
}

/* ---- damage ---- */

static size_t head_size(const struct bench *b)
{
    size_t size;
    struct err err;

    assert_int_equal(
        shared_answer_head_size(b->memory->object.data, b->memory->object.len, &size, &err), 0);
    return size;
}

/* It fails by that, and what came before was right. */
static uint64_t expect_failure(struct bench *b, enum err_kind kind)
{
    struct taker t = {0};
    struct err err;

    assert_int_equal(get_into(b->store, 1, &t, &err), -1);
    if (err.kind != kind)
        fail_msg("%s", err.text);
    assert_false(t.wrong);
    assert_true(t.at <= t.size);
    return t.at;
}

static void flip(struct bench *b, size_t at)
{
    b->memory->object.data[at] = (char)~b->memory->object.data[at];
}

static void no_flipped_byte_of_a_head_passes(void **state)
{
    struct bench *b = *state;

    must_put(b, MIB + 1, false);
    for (size_t at = 0; at < head_size(b); at++) {
        flip(b, at);
        assert_int_equal(expect_failure(b, ERR_CORRUPT), 0);
        flip(b, at);
    }
    expect_whole(b->store, 1, MIB + 1);
}

/* Of a plain answer everything up to the damaged piece comes, of a packed one no more than that. */
static void no_flipped_byte_of_a_piece_is_handed_on(void **state)
{
    static const size_t places[] = {0, 1, 64 * KIB - 1, 64 * KIB, MIB - 1, MIB, 2 * MIB, BIG - 1};
    struct bench *b = *state;

    for (int packed = 0; packed < 2; packed++) {
        bytes_reset(&b->memory->object);
        must_put(b, BIG, packed);
        assert_true(b->memory->object.len > 2 * MIB + head_size(b));
        for (size_t i = 0; i < ARRAY_LEN(places); i++) {
            size_t head = head_size(b), stored = b->memory->object.len - head, piece = 0;
            size_t at = places[i] < stored ? places[i] : stored - 1;
            uint64_t came;

            while (piece + 1 < shared_answer_pieces(stored) &&
                   shared_answer_piece_at(piece + 1) <= at)
                piece++;
            flip(b, head + at);
            for (b->memory->chunk = 0; b->memory->chunk <= 100 * KIB;
                 b->memory->chunk += 100 * KIB) {
                came = expect_failure(b, ERR_CORRUPT);
                if (!packed)
                    assert_int_equal(came, shared_answer_piece_at(piece));
                else
                    assert_true(came <= shared_answer_piece_at(piece));
            }
            flip(b, head + at);
        }
        expect_whole(b->store, 1, BIG);
    }
}

static void what_was_cut_or_goes_on_is_damaged(void **state)
{
    static const size_t lengths[] = {1, 10, SHARED_ANSWER_FIXED - 1, SHARED_ANSWER_FIXED, 300};
    struct bench *b = *state;

    for (int packed = 0; packed < 2; packed++) {
        struct bytes *object = &b->memory->object;
        size_t whole;

        bytes_reset(object);
        must_put(b, BIG, packed);
        whole = object->len;
        for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
            object->len = lengths[i];
            assert_int_equal(expect_failure(b, ERR_CORRUPT), 0);
        }
        object->len = head_size(b);
        assert_int_equal(expect_failure(b, ERR_CORRUPT), 0);
        object->len = whole - 1;
        assert_int_equal(expect_failure(b, ERR_CORRUPT), 0); /* known at once */
        object->len = whole;
        assert_int_equal(bytes_add(object, "x", 1), 0);
        assert_int_equal(expect_failure(b, ERR_CORRUPT), 0);
        object->len = whole;
        expect_whole(b->store, 1, BIG);
    }
}

static void no_other_object_can_stand_in(void **state)
{
    struct bench *b = *state;
    struct shared_answer_sink sink = {.begin = take_begin, .data = take};
    struct key one = key_number(1), two = key_number(2);
    struct taker t = {0};
    struct err err;

    sink.ctx = &t;
    must_put(b, 1000, false);
    shared_answer_key(OTHER_REPO, &one, b->memory->key);
    assert_int_equal(shared_answer_get(b->store, NULL, OTHER_REPO, &one, &sink, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
    shared_answer_key(REPO, &two, b->memory->key);
    assert_int_equal(shared_answer_get(b->store, NULL, REPO, &two, &sink, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
    assert_int_equal(t.begun, 0);
    shared_answer_key(REPO, &one, b->memory->key);
    expect_whole(b->store, 1, 1000);
}

/* Its upload may have begun before the invalidation, and ended behind it. */
static void one_that_was_put_too_late_is_not_there(void **state)
{
    struct bench *b = *state;
    struct cutoffs *cutoffs = cutoffs_new();
    struct shared_answer_sink sink = {.begin = take_begin, .data = take};
    struct key key = key_number(1), repo_id;
    struct taker t = {0};
    uint64_t sent;
    struct err err;
    int fd = make_answer(b, 1000, false);

    sink.ctx = &t;
    assert_true(key_from_hex(REPO, &repo_id));
    assert_int_equal(shared_answer_put(b->store, NULL, &key, fd, "1000-7", NULL, &sent, &err), 0);
    cutoffs_note(cutoffs, &repo_id, "1000-7");
    assert_int_equal(shared_answer_get(b->store, cutoffs, REPO, &key, &sink, &err), 0);
    assert_int_equal(t.begun, 1);
    cutoffs_note(cutoffs, &repo_id, "1000-8");
    assert_int_equal(shared_answer_get(b->store, cutoffs, REPO, &key, &sink, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    assert_int_equal(t.begun, 1);
    /* Nor is it in the way of the next one. */
    assert_int_equal(b->memory->object.len, 0);
    assert_int_equal(shared_answer_put(b->store, NULL, &key, fd, "1000-8", NULL, &sent, &err), 0);
    assert_true(sent > 0);
    t = (struct taker){0};
    assert_int_equal(shared_answer_get(b->store, cutoffs, REPO, &key, &sink, &err), 0);
    close(fd);
    cutoffs_free(&cutoffs);
}

/* Who has a good one would never put it, and let it go here, too. */
static void one_that_was_put_too_late_is_not_in_the_way(void **state)
{
    struct bench *b = *state;
    struct cutoffs *cutoffs = cutoffs_new();
    struct key key = key_number(1), repo_id;
    uint64_t sent;
    struct err err;
    bool has;
    int fd = make_answer(b, 1000, false);

    assert_true(key_from_hex(REPO, &repo_id));
    assert_int_equal(shared_answer_put(b->store, NULL, &key, fd, "1000-7", NULL, &sent, &err), 0);
    assert_int_equal(shared_answer_has(b->store, cutoffs, REPO, &key, &has, &err), 0);
    assert_true(has);
    cutoffs_note(cutoffs, &repo_id, "1000-8");
    assert_int_equal(shared_answer_put(b->store, cutoffs, &key, fd, "1000-8", NULL, &sent, &err),
                     0);
    assert_true(sent > 0);
    assert_int_equal(shared_answer_put(b->store, cutoffs, &key, fd, "1000-9", NULL, &sent, &err),
                     0);
    assert_int_equal(sent, 0);
    assert_int_equal(shared_answer_has(b->store, cutoffs, REPO, &key, &has, &err), 0);
    assert_true(has);
    cutoffs_note(cutoffs, NULL, "1000-9");
    assert_int_equal(shared_answer_has(b->store, cutoffs, REPO, &key, &has, &err), 0);
    assert_false(has);
    assert_int_equal(b->memory->object.len, 0);
    close(fd);
    cutoffs_free(&cutoffs);
}

/* A byte of the head's fixed part, and the part's digest anew. */
static void forge(struct bench *b, size_t at, uint8_t value)
{
    uint8_t *head = (uint8_t *)b->memory->object.data;
    struct key check;

    head[at] = value;
    key_of(head, SHARED_ANSWER_FIXED - 24, &check);
    memcpy(head + SHARED_ANSWER_FIXED - 24, check.raw, 24);
}

static void another_version_is_refused(void **state)
{
    struct bench *b = *state;

    must_put(b, 1000, false);
    forge(b, 8, 2);
    assert_int_equal(expect_failure(b, ERR_REFUSED), 0);
}

static void a_head_that_was_made_up_is_no_head(void **state)
{
    static const struct row {
        size_t at;
        uint8_t value;
    } rows[] = {
        {12, 2},    /* an unknown flag */
        {12, 1},    /* packed, which it isn't: no frame */
        {18, 0xff}, /* a record over any limit */
        {20, 1},    /* what has to be 0 */
        {24, 1},    /* another length of the body */
        {38, 0xff}, /* more than there can be */
        {80, 0},    /* another digest of what follows */
    };
    struct bench *b = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        bytes_reset(&b->memory->object);
        must_put(b, 1000, false);
        if ((uint8_t)b->memory->object.data[rows[i].at] == rows[i].value)
            fail_msg("row %zu changes nothing", i);
        forge(b, rows[i].at, rows[i].value);
        assert_int_equal(expect_failure(b, ERR_CORRUPT), 0);
    }
}

/* An object of this head, and the frame of the first size bytes of content. */
static void put_made_up(struct bench *b, size_t size, uint64_t said)
{
    struct key key = key_number(1);
    struct shared_answer_head h;
    struct bytes head, frame;
    size_t head_len;
    struct err err;

    bytes_reset(&b->memory->object);
    must_put(b, size, true);
    head_len = head_size(b);
    assert_int_equal(shared_answer_head_read(b->memory->object.data, head_len, &h, &err), 0);
    bytes_init(&frame, OBJECT_MAX);
    bytes_init(&head, HEAD_MAX);
    assert_int_equal(
        bytes_add(&frame, b->memory->object.data + head_len, b->memory->object.len - head_len), 0);
    h.answer.entry.size = said;
    assert_int_equal(shared_answer_head_write(&h, &head, &err), 0);
    bytes_reset(&b->memory->object);
    assert_int_equal(bytes_add(&b->memory->object, head.data, head.len), 0);
    assert_int_equal(bytes_add(&b->memory->object, frame.data, frame.len), 0);
    shared_answer_key(REPO, &key, b->memory->key);
    shared_answer_head_clear(&h);
    bytes_clear(&frame);
    bytes_clear(&head);
}

/* expect_failure() looks that no more was handed on than the head says. */
static void a_frame_of_another_length_is_damage(void **state)
{
    struct bench *b = *state;

    put_made_up(b, BIG, BIG);
    expect_whole(b->store, 1, BIG);
    put_made_up(b, BIG, BIG - 1);
    expect_failure(b, ERR_CORRUPT);
    put_made_up(b, BIG, 10);
    assert_int_equal(expect_failure(b, ERR_CORRUPT), 0);
    put_made_up(b, BIG, BIG + 1);
    expect_failure(b, ERR_CORRUPT);
    put_made_up(b, BIG, 0);
    assert_int_equal(expect_failure(b, ERR_CORRUPT), 0);
}

/* ---- getting ---- */

static void what_is_not_there_is_not_found(void **state)
{
    expect_failure(*state, ERR_NOT_FOUND);
}

static void the_first_piece_waits_for_nothing_else(void **state)
{
    struct bench *b = *state;

    must_put(b, BIG, false);
    b->memory->chunk = 1000;
    b->memory->breaks_at = head_size(b) + 64 * KIB;
    assert_int_equal(expect_failure(b, ERR_TIMEOUT), 64 * KIB);
    b->memory->breaks_at--;
    assert_int_equal(expect_failure(b, ERR_TIMEOUT), 0);
    b->memory->breaks_at = head_size(b) + 2 * MIB - 1;
    assert_int_equal(expect_failure(b, ERR_TIMEOUT), MIB);
}

static void what_the_sink_says_ends_it(void **state)
{
    struct bench *b = *state;
    struct err err;

    for (int packed = 0; packed < 2; packed++) {
        struct taker refuses = {.refuses = true}, enough = {.enough_at = 100 * KIB};

        bytes_reset(&b->memory->object);
        must_put(b, BIG, packed);
        assert_int_equal(get_into(b->store, 1, &refuses, &err), -1);
        assert_int_equal(err.kind, ERR_BUSY);
        assert_string_equal(err.text, "the sink's");
        assert_int_equal(refuses.at, 0);
        assert_int_equal(get_into(b->store, 1, &enough, &err), -1);
        assert_int_equal(err.kind, ERR_CANCELLED);
        assert_true(enough.at < BIG);
    }
}

/* ---- putting ---- */

static void what_is_there_is_not_sent_again_nor_read(void **state)
{
    struct bench *b = *state;
    uint64_t sent = 1;
    struct err err;
    char *path = scratch_path(&b->scratch, "answer");
    int fd;

    must_put(b, 1000, false);
    fd = make_answer(b, 1000, false);
    flip_byte(path, 10); /* nobody sees it */
    assert_int_equal(put_answer(b->store, 1, fd, &sent, &err), 0);
    assert_int_equal(sent, 0);
    assert_int_equal(b->memory->puts, 1);
    close(fd);
    free(path);
}

static void a_damaged_file_is_not_sent(void **state)
{
    struct bench *b = *state;
    char *path = scratch_path(&b->scratch, "answer");

    for (int packed = 0; packed < 2; packed++) {
        int fd = make_answer(b, BIG, packed);
        uint64_t sent;
        struct err err;

        flip_byte(path, size_of(path) / 2);
        assert_int_equal(put_answer(b->store, 1, fd, &sent, &err), -1);
        assert_int_equal(err.kind, ERR_CORRUPT);
        flip_byte(path, size_of(path) / 2);
        flip_byte(path, size_of(path) - 100); /* the record */
        assert_int_equal(put_answer(b->store, 1, fd, &sent, &err), -1);
        assert_int_equal(err.kind, ERR_CORRUPT);
        close(fd);
    }
    assert_int_equal(b->memory->puts, 0);
    free(path);
}

static void who_is_second_has_put_it_too(void **state)
{
    struct bench *b = *state;
    int fd = make_answer(b, 1000, false);
    uint64_t sent = 1;
    struct err err;

    b->memory->is_late = true;
    assert_int_equal(put_answer(b->store, 1, fd, &sent, &err), 0);
    assert_int_equal(sent, 0);
    assert_int_equal(b->memory->puts, 1);
    close(fd);
}

static void an_endpoint_without_conditions_gets_it_without(void **state)
{
    struct bench *b = *state;

    b->memory->refuses_conditions = true;
    must_put(b, 1000, false);
    assert_int_equal(b->memory->puts, 2);
    expect_whole(b->store, 1, 1000);
}

static void what_a_store_has_no_room_for_is_sent_once(void **state)
{
    struct bench *b = *state;
    int fd = make_answer(b, 1000, false);
    uint64_t sent;
    struct err err;

    b->memory->is_full = true;
    assert_int_equal(put_answer(b->store, 1, fd, &sent, &err), -1);
    assert_int_equal(err.kind, ERR_REFUSED);
    assert_int_equal(b->memory->puts, 1);
    close(fd);
}

static void a_put_that_was_stopped_sends_nothing(void **state)
{
    struct bench *b = *state;
    int fd = make_answer(b, 1000, false);
    struct key key = key_number(1);
    atomic_bool stop = true;
    uint64_t sent;
    struct err err;

    assert_int_equal(shared_answer_put(b->store, NULL, &key, fd, NULL, &stop, &sent, &err), -1);
    assert_int_equal(err.kind, ERR_CANCELLED);
    assert_int_equal(b->memory->puts, 0);
    close(fd);
}

/* ---- the head ---- */

static void pieces_end_where_they_should(void **state)
{
    static const struct row {
        uint64_t size;
        size_t pieces;
    } rows[] = {
        {0, 0},       {1, 1},           {64 * KIB, 1}, {64 * KIB + 1, 2}, {MIB, 2},
        {MIB + 1, 3}, {2 * MIB - 1, 3}, {2 * MIB, 3},  {2 * MIB + 1, 4},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_int_equal(shared_answer_pieces(rows[i].size), rows[i].pieces);
    assert_int_equal(shared_answer_piece_at(0), 0);
    assert_int_equal(shared_answer_piece_at(1), 64 * KIB);
    assert_int_equal(shared_answer_piece_at(2), MIB);
    assert_int_equal(shared_answer_piece_at(3), 2 * MIB);
}

static void a_record_that_is_too_long_cannot_be_shared(void **state)
{
    char *url = xmalloc(70 * KIB);
    struct shared_answer_head h = {
        .answer.entry = {
            .repo_id = (char *)REPO, .repo = (char *)"r", .url = url, .path = (char *)"p"}};
    struct bytes out;
    struct err err;

    (void)state;
    memset(url, 'u', 70 * KIB - 1);
    url[70 * KIB - 1] = '\0';
    bytes_init(&out, MIB);
    assert_int_equal(shared_answer_head_write(&h, &out, &err), -1);
    assert_int_equal(err.kind, ERR_INPUT);
    assert_int_equal(out.len, 0);
    bytes_clear(&out);
    free(url);
}

static void keys_name_repository_and_answer(void **state)
{
    struct key key = key_number(0xab);
    char out[OBJECT_KEY_MAX + 1];

    (void)state;
    shared_answer_key(REPO, &key, out);
    assert_int_equal(strncmp(out, "answers/1111", 12), 0);
    assert_int_equal(strlen(out), strlen("answers//") + 64 + 64);
    assert_string_equal(out + strlen(out) - 4, "abab");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_size_comes_back_whatever_it_comes_in),
        TEST(every_byte_may_come_alone),
        TEST(every_size_comes_back_from_a_folder),
        TEST(one_that_is_seen_to_be_damaged_is_put_anew),
        TEST(every_size_comes_back_from_a_server),
        TEST(no_flipped_byte_of_a_head_passes),
        TEST(no_flipped_byte_of_a_piece_is_handed_on),
        TEST(what_was_cut_or_goes_on_is_damaged),
        TEST(no_other_object_can_stand_in),
        TEST(one_that_was_put_too_late_is_not_there),
        TEST(one_that_was_put_too_late_is_not_in_the_way),
        TEST(another_version_is_refused),
        TEST(a_head_that_was_made_up_is_no_head),
        TEST(a_frame_of_another_length_is_damage),
        TEST(what_is_not_there_is_not_found),
        TEST(the_first_piece_waits_for_nothing_else),
        TEST(what_the_sink_says_ends_it),
        TEST(what_is_there_is_not_sent_again_nor_read),
        TEST(a_damaged_file_is_not_sent),
        TEST(who_is_second_has_put_it_too),
        TEST(an_endpoint_without_conditions_gets_it_without),
        TEST(what_a_store_has_no_room_for_is_sent_once),
        TEST(a_put_that_was_stopped_sends_nothing),
        TEST(pieces_end_where_they_should),
        TEST(a_record_that_is_too_long_cannot_be_shared),
        TEST(keys_name_repository_and_answer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
