/* What every driver of object stores passes; all tests run once for each of them.
 *
 * `file` always runs, in a scratch folder.  `s3` and `libs3` run where PANNIER_TEST_S3 says, else
 * they are skipped; libs3 is, too, where the build has no such library (s3_words.h).  Every test
 * empties its prefix. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/shared/object_store.h"
#include "s3_words.h"
#include "scratch.h"

enum {
    MIB = 1024 * 1024,
    BIG = 70 * MIB, /* more than one part */
    RACERS = 8,
};

/* ---- a store for a test ---- */

struct bench {
    const char *driver;
    struct scratch scratch;
    struct object_store_config config;
    char *words; /* PANNIER_TEST_S3, cut up */
    char *prefix;
    struct object_store *store; /* NULL: not to be had here */
};

static struct object_store *open_store(struct bench *b)
{
    struct object_store *store = NULL;
    struct err err;

    if (object_store_open(&b->config, &store, &err) == 0)
        return store;
    if (strcmp(b->driver, "libs3") != 0 || err.kind != ERR_REFUSED)
        fail_msg("%s", err.text);
    print_message("%s\n", err.text);
    return NULL;
}

static int set_up(void **state)
{
    struct bench *b = xcalloc(1, sizeof(*b));

    b->driver = *state;
    *state = b;
    scratch_init(&b->scratch);
    b->config = (struct object_store_config){
        .driver = b->driver,
        .endpoint = b->scratch.dir,
        .connect_timeout_ms = 5000,
        .stall_timeout_ms = 20000,
        .deadline_ms = 60000,
        .parallel = 4,
    };
    if (strcmp(b->driver, "file") != 0) {
        b->config.endpoint = NULL;
        if (!s3_words_read(&b->config, &b->words))
            return 0;
    }
    b->prefix = s3_words_own_prefix(&b->config);
    b->config.prefix = b->prefix;
    b->store = open_store(b);
    return 0;
}

static int remove_listed(void *ctx, const char *key, const struct object_info *info)
{
    struct bytes *keys = ctx;

    (void)info;
    assert_int_equal(bytes_add(keys, key, strlen(key) + 1), 0);
    return 0;
}

static void empty_store(struct object_store *s)
{
    struct bytes keys;
    struct err err;

    bytes_init(&keys, 16 * MIB);
    if (object_list(s, "", remove_listed, &keys, &err) != 0)
        print_message("the prefix was not emptied: %s\n", err.text);
    for (size_t at = 0; at < keys.len; at += strlen(keys.data + at) + 1) {
        if (object_remove(s, keys.data + at, &err) != 0)
            print_message("%s was not removed: %s\n", keys.data + at, err.text);
    }
    bytes_clear(&keys);
}

static int tear_down(void **state)
{
    struct bench *b = *state;

    if (b->store != NULL)
        empty_store(b->store);
    object_store_free(&b->store);
    scratch_clear(&b->scratch);
    free(b->words);
    free(b->prefix);
    free(b);
    return 0;
}

/* The store, or the end of a test that can't run here. */
static struct object_store *store_of(void **state)
{
    struct bench *b = *state;

    if (b->store == NULL)
        skip();
    return b->store;
}

/* ---- content ---- */

/* Bytes [at, at + len) of content number n: each has its own. */
static void fill(char *out, unsigned n, uint64_t at, size_t len)
{
    for (size_t i = 0; i < len; i++)
        out[i] = byte_at((uint64_t)n * 1000003 + at + i);
}

static bool is_content(const char *data, unsigned n, uint64_t at, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (data[i] != byte_at((uint64_t)n * 1000003 + at + i))
            return false;
    }
    return true;
}

/* A stream that gives content number n, in pieces of uneven size. */
struct giver {
    unsigned n;
    uint64_t at, size;
    uint64_t breaks_at; /* fails there; UINT64_MAX: never */
};

static ssize_t give(void *ctx, void *buf, size_t len, struct err *err)
{
    struct giver *g = ctx;
    uint64_t left = g->size - g->at;

    if (len > 100003)
        len = 100003;
    if (len > left)
        len = (size_t)left;
    if (g->at + len >= g->breaks_at)
        return err_set(err, ERR_PROCESS, "the source broke");
    fill(buf, g->n, g->at, len);
    g->at += len;
    return (ssize_t)len;
}

static int put_stream(struct object_store *s, const char *key, unsigned n, uint64_t size,
                      const struct object_put_options *options, struct object_info *out,
                      struct err *err)
{
    struct giver g = {.n = n, .size = size, .breaks_at = UINT64_MAX};
    struct object_source source = {.fd = -1, .read = give, .ctx = &g};

    return object_put(s, key, &source, options, out, err);
}

/* By a head in memory, and a file in which the rest of the content lies somewhere. */
static int put_headed(struct object_store *s, const char *key, unsigned n, size_t head_len,
                      uint64_t size, struct object_info *out, struct err *err)
{
    enum { BEFORE = 1234 };
    static const char garbage[BEFORE];
    FILE *f = tmpfile();
    char *piece = xmalloc(MIB), *head = head_len > 0 ? xmalloc(head_len) : NULL;
    struct object_source source = {
        .fd = fileno(f), .offset = BEFORE, .size = size, .head = head, .head_len = head_len};
    int rc;

    if (head != NULL)
        fill(head, n, 0, head_len);
    assert_int_equal(fwrite(garbage, 1, BEFORE, f), BEFORE);
    for (uint64_t at = 0; at < size; at += MIB) {
        size_t len = size - at < MIB ? (size_t)(size - at) : MIB;

        fill(piece, n, head_len + at, len);
        assert_int_equal(fwrite(piece, 1, len, f), len);
    }
    assert_int_equal(fwrite(garbage, 1, BEFORE, f), BEFORE);
    assert_int_equal(fflush(f), 0);
    rc = object_put(s, key, &source, NULL, out, err);
    free(head);
    free(piece);
    fclose(f);
    return rc;
}

static int put_content(struct object_store *s, const char *key, unsigned n, uint64_t size,
                       struct object_info *out, struct err *err)
{
    return put_headed(s, key, n, 0, size, out, err);
}

static void must_put(struct object_store *s, const char *key, unsigned n, uint64_t size)
{
    struct err err;

    if (put_stream(s, key, n, size, NULL, NULL, &err) != 0)
        fail_msg("put %s: %s", key, err.text);
}

/* What came of a get that should give content number n. */
struct taker {
    unsigned n;
    uint64_t from, at;
    bool wrong;
    uint64_t enough_at; /* stops there; 0: never */
    struct object_info info;
    bool info_came_first;
    void (*meanwhile)(void *ctx); /* after the first piece */
    void *ctx;
};

static int take(void *ctx, const void *data, size_t len, struct err *err)
{
    struct taker *t = ctx;
    bool first = t->at == t->from;

    if (first)
        t->info_came_first = t->info.etag[0] != '\0';
    t->wrong = t->wrong || !is_content(data, t->n, t->at, len);
    t->at += len;
    if (t->enough_at != 0 && t->at >= t->enough_at)
        return err_set(err, ERR_CANCELLED, "enough of that");
    if (first && t->meanwhile != NULL)
        t->meanwhile(t->ctx);
    return 0;
}

static int get_into(struct object_store *s, const char *key, uint64_t length, struct taker *t,
                    struct err *err)
{
    t->at = t->from;
    return object_get(s, key, t->from, length, &t->info, take, t, err);
}

/* Bytes [from, from + length), of which count are to come, of an object of size bytes. */
static void expect_range(struct object_store *s, const char *key, unsigned n, uint64_t size,
                         uint64_t from, uint64_t length, uint64_t count)
{
    struct taker t = {.n = n, .from = from};
    struct err err;

    if (get_into(s, key, length, &t, &err) != 0)
        fail_msg("get %s: %s", key, err.text);
    assert_false(t.wrong);
    assert_int_equal(t.at - from, count);
    assert_int_equal(t.info.size, size);
    assert_true(t.info_came_first || count == 0);
}

static void expect_content(struct object_store *s, const char *key, unsigned n, uint64_t size)
{
    expect_range(s, key, n, size, 0, UINT64_MAX, size);
}

static void expect_nothing(struct object_store *s, const char *key)
{
    struct object_info info;
    struct taker t = {0};
    struct err err;

    assert_int_equal(object_head(s, key, &info, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    assert_int_equal(get_into(s, key, UINT64_MAX, &t, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    assert_int_equal(t.at, 0);
}

/* ---- put, get, head ---- */

static void round_trip(struct object_store *s, uint64_t size)
{
    struct object_info put = {0}, head = {0};
    struct err err;

    if (put_content(s, "from/a/file", 1, size, &put, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(put.size, size);
    assert_true(put.etag[0] != '\0');
    assert_int_equal(object_head(s, "from/a/file", &head, &err), 0);
    assert_int_equal(head.size, size);
    assert_string_equal(head.etag, put.etag);
    assert_true(head.modified > 1600000000);
    expect_content(s, "from/a/file", 1, size);
    must_put(s, "from/a/stream", 2, size);
    expect_content(s, "from/a/stream", 2, size);
}

static void an_object_of_no_bytes_is_one(void **state)
{
    struct object_store *s = store_of(state);

    round_trip(s, 0);
    expect_range(s, "from/a/file", 1, 0, 0, 10, 0);
}

static void one_byte_comes_back(void **state)
{
    round_trip(store_of(state), 1);
}

static void five_mebibytes_come_back(void **state)
{
    round_trip(store_of(state), 5 * MIB);
}

static void more_than_64_mebibytes_come_back(void **state)
{
    struct object_store *s = store_of(state);

    round_trip(s, BIG + 1);
    expect_range(s, "from/a/stream", 2, BIG + 1, 64 * MIB - 1, 2, 2);
    expect_range(s, "from/a/stream", 2, BIG + 1, 10, 66 * MIB, 66 * MIB);
}

static void a_head_stands_before_the_file(void **state)
{
    static const struct row {
        size_t head;
        uint64_t file;
    } rows[] = {
        {1, 0},
        {100, 1000},
        {300 * 1000, 700 * 1000},
        {3 * MIB, 2 * MIB},
        {100, 64 * MIB - 100}, /* just one request, and a byte more */
        {100, 64 * MIB - 99},
        {17 * MIB, 50 * MIB}, /* longer than a part */
    };
    struct object_store *s = store_of(state);

    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        const struct row *r = &rows[i];
        struct object_info put = {0};
        struct err err;

        if (put_headed(s, "headed", i, r->head, r->file, &put, &err) != 0)
            fail_msg("%zu and %llu: %s", r->head, (unsigned long long)r->file, err.text);
        assert_int_equal(put.size, r->head + r->file);
        expect_content(s, "headed", i, r->head + r->file);
    }
}

static void a_file_behind_a_head_that_is_too_short_leaves_nothing(void **state)
{
    struct object_store *s = store_of(state);
    FILE *f = tmpfile();
    struct object_source source = {.fd = fileno(f), .size = 10, .head = "head", .head_len = 4};
    struct err err;

    assert_int_equal(fwrite("short", 1, 5, f), 5);
    assert_int_equal(fflush(f), 0);
    assert_int_equal(object_put(s, "key", &source, NULL, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_STORAGE);
    expect_nothing(s, "key");
    fclose(f);
}

static void a_range_is_what_was_asked_for(void **state)
{
    struct object_store *s = store_of(state);

    must_put(s, "key", 1, MIB);
    expect_range(s, "key", 1, MIB, 0, 1, 1);
    expect_range(s, "key", 1, MIB, 0, 100, 100);
    expect_range(s, "key", 1, MIB, 5000, 300000, 300000);
    expect_range(s, "key", 1, MIB, MIB - 1, 1, 1);
    expect_range(s, "key", 1, MIB, 5000, UINT64_MAX, MIB - 5000);
    expect_range(s, "key", 1, MIB, MIB - 10, 1000, 10);
    expect_range(s, "key", 1, MIB, 0, MIB + 1, MIB);
    expect_range(s, "key", 1, MIB, 7, 0, 0);
}

static void a_range_behind_the_end_is_told(void **state)
{
    static const uint64_t offsets[] = {1000, 1001, 1 << 20};
    static const uint64_t lengths[] = {0, 1, UINT64_MAX};
    struct object_store *s = store_of(state);

    must_put(s, "key", 1, 1000);
    for (size_t i = 0; i < ARRAY_LEN(offsets); i++) {
        for (size_t j = 0; j < ARRAY_LEN(lengths); j++) {
            struct taker t = {.n = 1, .from = offsets[i]};
            struct err err;

            assert_int_equal(get_into(s, "key", lengths[j], &t, &err), -1);
            assert_int_equal(err.kind, ERR_LIMIT);
            assert_int_equal(t.at, offsets[i]);
        }
    }
}

static void what_is_not_there_is_not_found(void **state)
{
    struct object_store *s = store_of(state);
    struct taker t = {.from = 5};
    struct err err;

    expect_nothing(s, "nothing");
    assert_int_equal(get_into(s, "nothing", 1, &t, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    assert_int_equal(get_into(s, "nothing", 0, &t, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
}

static void every_version_has_its_own_etag(void **state)
{
    struct object_store *s = store_of(state);
    struct object_info first, second, head;
    struct err err;

    assert_int_equal(put_stream(s, "key", 1, 100, NULL, &first, &err), 0);
    assert_int_equal(put_stream(s, "key", 2, 100, NULL, &second, &err), 0);
    assert_string_not_equal(first.etag, second.etag);
    assert_int_equal(object_head(s, "key", &head, &err), 0);
    assert_string_equal(head.etag, second.etag);
    expect_content(s, "key", 2, 100);
}

static void overwrite_key(void *ctx)
{
    must_put(ctx, "key", 2, BIG);
}

static void a_reader_sees_one_version(void **state)
{
    struct object_store *s = store_of(state);
    struct taker t = {.n = 1, .meanwhile = overwrite_key, .ctx = s};
    struct err err;

    must_put(s, "key", 1, BIG);
    if (get_into(s, "key", UINT64_MAX, &t, &err) != 0)
        assert_int_equal(err.kind, ERR_CONFLICT); /* rather than a mixture */
    else
        assert_int_equal(t.at, BIG);
    assert_false(t.wrong);
    expect_content(s, "key", 2, BIG);
}

static void a_sink_that_stops_ends_the_transfer(void **state)
{
    struct object_store *s = store_of(state);
    struct taker t = {.n = 1, .enough_at = 1000};
    struct err err;

    must_put(s, "key", 1, 20 * MIB);
    assert_int_equal(get_into(s, "key", UINT64_MAX, &t, &err), -1);
    assert_int_equal(err.kind, ERR_CANCELLED);
    assert_non_null(strstr(err.text, "enough of that"));
    assert_false(t.wrong);
    assert_true(t.at < 20 * MIB);
    expect_content(s, "key", 1, 20 * MIB); /* and the store is as good as before */
}

static void a_source_that_breaks_leaves_nothing(void **state)
{
    static const uint64_t places[] = {0, 1000, 69 * MIB};
    struct object_store *s = store_of(state);

    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        struct giver g = {.n = 1, .size = BIG, .breaks_at = places[i]};
        struct object_source source = {.fd = -1, .read = give, .ctx = &g};
        struct err err;

        assert_int_equal(object_put(s, "key", &source, NULL, NULL, &err), -1);
        assert_int_equal(err.kind, ERR_PROCESS);
        assert_non_null(strstr(err.text, "the source broke"));
        expect_nothing(s, "key");
    }
}

static void a_source_that_breaks_leaves_what_was_there(void **state)
{
    struct object_store *s = store_of(state);
    struct giver g = {.n = 2, .size = BIG, .breaks_at = 69 * MIB};
    struct object_source source = {.fd = -1, .read = give, .ctx = &g};
    struct err err;

    must_put(s, "key", 1, 10);
    assert_int_equal(object_put(s, "key", &source, NULL, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_PROCESS);
    expect_content(s, "key", 1, 10);
}

static void a_file_that_is_too_short_leaves_nothing(void **state)
{
    struct object_store *s = store_of(state);
    FILE *f = tmpfile();
    struct object_source source = {.fd = fileno(f), .size = 1000};
    struct err err;

    assert_int_equal(fwrite("short", 1, 5, f), 5);
    assert_int_equal(fflush(f), 0);
    assert_int_equal(object_put(s, "key", &source, NULL, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_STORAGE);
    expect_nothing(s, "key");
    fclose(f);
}

static void a_type_of_content_may_be_given(void **state)
{
    struct object_store *s = store_of(state);
    struct object_put_options options = {.content_type = "application/json"};
    struct err err;

    assert_int_equal(put_stream(s, "key", 1, 10, &options, NULL, &err), 0);
    expect_content(s, "key", 1, 10);
}

/* ---- keys ---- */

static void awkward_keys_are_keys(void **state)
{
    struct object_store *s = store_of(state);
    static const char *const keys[] = {
        "a",
        "a/b", /* "a" is an object and has others below */
        "a/b/c",
        "A",
        "-rf",
        "_",
        ".hidden",
        "dir./x",
        "x/.y/z",
        "0/1/2/3/4/5/6/7/8/9",
        "with.many.dots",
        "objects",
        "incoming/x",
    };
    char longest[OBJECT_KEY_MAX + 1] = "", nested[OBJECT_KEY_MAX + 1] = "";

    memset(longest, 'l', OBJECT_KEY_MAX);
    for (size_t i = 0; i + 2 < OBJECT_KEY_MAX; i += 2)
        memcpy(nested + i, "n/", 3);
    nested[strlen(nested) - 1] = '\0';
    for (unsigned i = 0; i < ARRAY_LEN(keys); i++)
        must_put(s, keys[i], i, 100 + i);
    must_put(s, longest, 50, 50);
    must_put(s, nested, 51, 51);
    for (unsigned i = 0; i < ARRAY_LEN(keys); i++)
        expect_content(s, keys[i], i, 100 + i);
    expect_content(s, longest, 50, 50);
    expect_content(s, nested, 51, 51);
}

static int no_key(void *ctx, const char *key, const struct object_info *info)
{
    (void)ctx;
    (void)info;
    fail_msg("%s was listed", key);
    return 1;
}

static void what_is_no_key_is_refused(void **state)
{
    struct object_store *s = store_of(state);
    char too_long[OBJECT_KEY_MAX + 2] = "";
    const char *keys[] = {"",     "/",   "/a",   "a/",  "a//b",  "..",   "a/../b",
                          "a..b", "a b", "a%2f", "a?b", "a#b",   "a\\b", "\xc3\xa9",
                          "a\nb", "a+b", "a=b",  "~a",  too_long};

    memset(too_long, 'x', OBJECT_KEY_MAX + 1);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        struct object_info info;
        struct taker t = {0};
        struct err err;

        assert_int_equal(put_stream(s, keys[i], 1, 1, NULL, NULL, &err), -1);
        assert_int_equal(err.kind, ERR_INPUT);
        assert_int_equal(get_into(s, keys[i], 1, &t, &err), -1);
        assert_int_equal(err.kind, ERR_INPUT);
        assert_int_equal(object_head(s, keys[i], &info, &err), -1);
        assert_int_equal(err.kind, ERR_INPUT);
        assert_int_equal(object_remove(s, keys[i], &err), -1);
        assert_int_equal(err.kind, ERR_INPUT);
    }
}

static void what_no_key_begins_with_is_refused(void **state)
{
    static const char *const prefixes[] = {"/", "a//", "a/../", "..", "a b", "%"};
    struct object_store *s = store_of(state);

    for (size_t i = 0; i < ARRAY_LEN(prefixes); i++) {
        struct err err;

        assert_int_equal(object_list(s, prefixes[i], no_key, NULL, &err), -1);
        assert_int_equal(err.kind, ERR_INPUT);
    }
}

/* ---- list ---- */

struct seen {
    char *keys[2000];
    struct object_info infos[2000];
    size_t count, enough;
};

static int see(void *ctx, const char *key, const struct object_info *info)
{
    struct seen *seen = ctx;

    assert_true(seen->count < ARRAY_LEN(seen->keys));
    seen->infos[seen->count] = *info;
    seen->keys[seen->count++] = xstrdup(key);
    return seen->count == seen->enough;
}

static struct seen *list(struct object_store *s, const char *prefix, size_t enough)
{
    struct seen *seen = xcalloc(1, sizeof(*seen));
    struct err err;

    seen->enough = enough;
    if (object_list(s, prefix, see, seen, &err) != 0)
        fail_msg("list %s: %s", prefix, err.text);
    for (size_t i = 0; i < seen->count; i++) {
        assert_int_equal(strncmp(seen->keys[i], prefix, strlen(prefix)), 0);
        assert_true(i == 0 || strcmp(seen->keys[i - 1], seen->keys[i]) < 0);
    }
    return seen;
}

static void seen_free(struct seen *seen)
{
    for (size_t i = 0; i < seen->count; i++)
        free(seen->keys[i]);
    free(seen);
}

static void expect_count(struct object_store *s, const char *prefix, size_t count)
{
    struct seen *seen = list(s, prefix, 0);

    assert_int_equal(seen->count, count);
    seen_free(seen);
}

static void keys_are_listed_in_their_order(void **state)
{
    /* Sorted; neighbours of '/' in both directions. */
    static const char *const keys[] = {"A",     "a",     "a-",    "a-b/c",  "a.b", "a/b",
                                       "a/b-c", "a/b.c", "a/b/c", "a/b0",   "a/c", "a0",
                                       "aa",    "b/x/y", "b/x0",  "b/x0/y", "ba"};
    struct object_store *s = store_of(state);
    struct seen *seen;

    for (unsigned i = ARRAY_LEN(keys); i-- > 0;)
        must_put(s, keys[i], i, i);
    seen = list(s, "", 0);
    assert_int_equal(seen->count, ARRAY_LEN(keys));
    for (unsigned i = 0; i < ARRAY_LEN(keys); i++) {
        struct object_info head;
        struct err err;

        assert_string_equal(seen->keys[i], keys[i]);
        assert_int_equal(object_head(s, keys[i], &head, &err), 0);
        assert_int_equal(seen->infos[i].size, i);
        assert_string_equal(seen->infos[i].etag, head.etag);
        assert_true(llabs(seen->infos[i].modified - head.modified) <= 1);
    }
    seen_free(seen);
}

static void a_prefix_need_not_end_where_a_part_does(void **state)
{
    struct object_store *s = store_of(state);

    expect_count(s, "", 0);
    must_put(s, "mirrors/one/x", 1, 1);
    must_put(s, "mirrors/one/y", 1, 1);
    must_put(s, "mirrors/only", 1, 1);
    must_put(s, "mirrors2", 1, 1);
    expect_count(s, "", 4);
    expect_count(s, "mirrors", 4);
    expect_count(s, "mirrors/", 3);
    expect_count(s, "mirrors/on", 3);
    expect_count(s, "mirrors/one", 2);
    expect_count(s, "mirrors/one/", 2);
    expect_count(s, "mirrors/one/y", 1);
    expect_count(s, "mirrors/one/yy", 0);
    expect_count(s, "mirrors/one/y/", 0);
    expect_count(s, "n", 0);
}

static void long_keys_are_listed_in_their_order(void **state)
{
    /* Around the lengths at which a driver may have to fold them. */
    static const unsigned lengths[] = {119, 120, 121, 240, 250, 255, 256, 500};
    static const char *const ends[] = {"", "-", "/x", "0"};
    struct object_store *s = store_of(state);
    char key[OBJECT_KEY_MAX + 1], start[OBJECT_KEY_MAX + 1] = "";

    for (unsigned i = 0; i < ARRAY_LEN(lengths) * ARRAY_LEN(ends); i++) {
        memset(key, 'k', lengths[i / ARRAY_LEN(ends)]);
        strcpy(key + lengths[i / ARRAY_LEN(ends)], ends[i % ARRAY_LEN(ends)]);
        must_put(s, key, 1, 1);
    }
    expect_count(s, "", ARRAY_LEN(lengths) * ARRAY_LEN(ends));
    memset(start, 'k', 250);
    expect_count(s, start, 4 * ARRAY_LEN(ends));
    start[250] = '/';
    expect_count(s, start, 1);
}

/* A share of many puts, for a thread. */
struct many {
    struct object_store *store;
    unsigned from, to;
};

static void *put_many(void *ctx)
{
    const struct many *m = ctx;
    struct err err;
    char key[32];

    for (unsigned i = m->from; i < m->to; i++) {
        snprintf(key, sizeof(key), "many/%u/%u", i % 3, i);
        must(put_stream(m->store, key, i, i % 7, NULL, NULL, &err) == 0);
    }
    return NULL;
}

static void more_keys_than_one_answer_holds_are_listed(void **state)
{
    enum { KEYS = 1100 };
    struct object_store *s = store_of(state);
    struct many shares[4];
    struct seen *seen;

    for (unsigned i = 0; i < ARRAY_LEN(shares); i++)
        shares[i] = (struct many){s, i * KEYS / 4, (i + 1) * KEYS / 4};
    run_together(ARRAY_LEN(shares), put_many, shares, sizeof(shares[0]));
    expect_count(s, "many/", KEYS);
    expect_count(s, "many/1/", KEYS / 3 + 1);
    seen = list(s, "", 1050);
    assert_int_equal(seen->count, 1050); /* enough was enough */
    seen_free(seen);
    seen = list(s, "", 3);
    assert_int_equal(seen->count, 3);
    seen_free(seen);
}

/* ---- remove ---- */

static void what_is_removed_is_gone_and_may_be_removed_again(void **state)
{
    struct object_store *s = store_of(state);
    struct err err;

    must_put(s, "a/b", 1, 1);
    must_put(s, "a/b/c", 2, 2);
    assert_int_equal(object_remove(s, "a/b", &err), 0);
    expect_nothing(s, "a/b");
    assert_int_equal(object_remove(s, "a/b", &err), 0);
    assert_int_equal(object_remove(s, "never/was", &err), 0);
    expect_content(s, "a/b/c", 2, 2);
    assert_int_equal(object_remove(s, "a/b/c", &err), 0);
    expect_count(s, "", 0);
    must_put(s, "a/b/c", 3, 3);
    expect_content(s, "a/b/c", 3, 3);
}

/* ---- conditions ---- */

/* A server may refuse what the driver could do. */
static bool has_conditions(struct object_store *s)
{
    struct object_put_options options = {.only_new = true};
    struct err err;
    int rc = put_stream(s, "probe", 1, 1, &options, NULL, &err);

    if (rc == 0 && object_store_has_conditions(s))
        return true;
    assert_int_equal(rc, -1);
    assert_int_equal(err.kind, ERR_REFUSED);
    expect_nothing(s, "probe");
    return false;
}

static void what_a_store_cannot_do_it_refuses_by_name(void **state)
{
    struct object_store *s = store_of(state);
    struct object_put_options only_new = {.only_new = true}, match = {.if_match = "x"};
    struct err err;

    if (has_conditions(s))
        return;
    assert_int_equal(put_stream(s, "key", 1, 1, &only_new, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_REFUSED);
    assert_non_null(strstr(err.text, "condition"));
    assert_int_equal(put_stream(s, "key", 1, 1, &match, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_REFUSED);
    expect_nothing(s, "key");
}

static void a_condition_that_does_not_hold_changes_nothing(void **state)
{
    struct object_store *s = store_of(state);
    struct object_put_options only_new = {.only_new = true}, match = {0};
    struct object_info first, second;
    struct err err;

    if (!has_conditions(s))
        skip();
    assert_int_equal(put_stream(s, "key", 1, 10, &only_new, &first, &err), 0);
    assert_int_equal(put_stream(s, "key", 2, 10, &only_new, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_CONFLICT);
    expect_content(s, "key", 1, 10);
    match.if_match = first.etag;
    assert_int_equal(put_stream(s, "key", 3, 10, &match, &second, &err), 0);
    expect_content(s, "key", 3, 10);
    assert_int_equal(put_stream(s, "key", 4, 10, &match, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_CONFLICT);
    expect_content(s, "key", 3, 10);
    assert_int_equal(put_stream(s, "nothing", 4, 10, &match, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_CONFLICT);
    expect_nothing(s, "nothing");
    assert_int_equal(object_remove(s, "key", &err), 0);
    assert_int_equal(put_stream(s, "key", 5, 10, &only_new, NULL, &err), 0);
    expect_content(s, "key", 5, 10);
}

struct racer {
    struct object_store *store;
    pthread_barrier_t *start;
    struct object_put_options options;
    unsigned n;
    uint64_t size;
    int rc;
    struct object_info info;
    struct err err;
};

static void *race(void *ctx)
{
    struct racer *r = ctx;

    pthread_barrier_wait(r->start);
    r->rc = put_stream(r->store, "prize", r->n, r->size, &r->options, &r->info, &r->err);
    return NULL;
}

/* Exactly one gets what it wants, and it is the one that stays. */
static void expect_one_winner(struct object_store *s, const struct object_put_options *options,
                              uint64_t size)
{
    struct racer racers[RACERS];
    pthread_barrier_t start;
    const struct racer *winner = NULL;
    struct object_info head;
    struct err err;

    pthread_barrier_init(&start, NULL, RACERS);
    for (unsigned i = 0; i < RACERS; i++)
        racers[i] = (struct racer){
            .store = s, .start = &start, .options = *options, .n = 10 + i, .size = size};
    run_together(RACERS, race, racers, sizeof(racers[0]));
    for (unsigned i = 0; i < RACERS; i++) {
        if (racers[i].rc == 0) {
            assert_null(winner);
            winner = &racers[i];
        } else if (racers[i].err.kind != ERR_CONFLICT) {
            fail_msg("%s", racers[i].err.text);
        }
    }
    assert_non_null(winner);
    expect_content(s, "prize", winner->n, size);
    assert_int_equal(object_head(s, "prize", &head, &err), 0);
    assert_string_equal(head.etag, winner->info.etag);
    pthread_barrier_destroy(&start);
}

static void one_of_many_makes_a_new_object(void **state)
{
    struct object_store *s = store_of(state);
    struct object_put_options options = {.only_new = true};
    struct err err;

    if (!has_conditions(s))
        skip();
    for (int round = 0; round < 5; round++) {
        expect_one_winner(s, &options, 1000);
        assert_int_equal(object_remove(s, "prize", &err), 0);
    }
}

static void one_of_many_overwrites_a_version(void **state)
{
    struct object_store *s = store_of(state);
    struct object_put_options options = {0};
    struct object_info info;
    struct err err;

    if (!has_conditions(s))
        skip();
    assert_int_equal(put_stream(s, "prize", 1, 10, NULL, &info, &err), 0);
    for (int round = 0; round < 5; round++) {
        options.if_match = info.etag;
        /* Never the same content twice: S3 would give it the same etag, and a second one could win
         * when the first put back what was there. */
        expect_one_winner(s, &options, 1000 + (uint64_t)round);
        assert_int_equal(object_head(s, "prize", &info, &err), 0);
    }
}

/* Add 1 to the size of the object, so often.  must() rather than an assertion: those jump, which
 * another thread can't. */
static void *count_up(void *ctx)
{
    enum { TIMES = 5 };
    struct racer *r = ctx;

    pthread_barrier_wait(r->start);
    for (int done = 0; done < TIMES;) {
        struct object_info now;
        struct object_put_options options = {.if_match = now.etag};
        struct err err;

        must(object_head(r->store, "prize", &now, &err) == 0);
        if (put_stream(r->store, "prize", 1, now.size + 1, &options, NULL, &err) == 0)
            done++;
        else
            must(err.kind == ERR_CONFLICT);
    }
    return NULL;
}

static void no_update_is_lost(void **state)
{
    enum { COUNTERS = 4 };
    struct object_store *s = store_of(state);
    struct racer racers[COUNTERS];
    pthread_barrier_t start;

    if (!has_conditions(s))
        skip();
    must_put(s, "prize", 1, 100);
    pthread_barrier_init(&start, NULL, COUNTERS);
    for (unsigned i = 0; i < COUNTERS; i++)
        racers[i] = (struct racer){.store = s, .start = &start};
    run_together(COUNTERS, count_up, racers, sizeof(racers[0]));
    expect_content(s, "prize", 1, 100 + COUNTERS * 5);
    pthread_barrier_destroy(&start);
}

static void one_of_many_that_overwrite_at_will_stays_whole(void **state)
{
    struct object_store *s = store_of(state);
    struct racer racers[RACERS];
    pthread_barrier_t start;
    struct object_info head;
    struct err err;
    unsigned matches = 0;

    pthread_barrier_init(&start, NULL, RACERS);
    for (unsigned i = 0; i < RACERS; i++)
        racers[i] = (struct racer){.store = s, .start = &start, .n = 10 + i, .size = MIB + i};
    run_together(RACERS, race, racers, sizeof(racers[0]));
    assert_int_equal(object_head(s, "prize", &head, &err), 0);
    for (unsigned i = 0; i < RACERS; i++) {
        if (racers[i].rc != 0)
            fail_msg("%s", racers[i].err.text);
        if (head.size == MIB + i) {
            matches++;
            expect_content(s, "prize", 10 + i, MIB + i);
        }
    }
    assert_int_equal(matches, 1);
    pthread_barrier_destroy(&start);
}

/* ---- the end ---- */

static void expect_cancelled(int rc, const struct err *err)
{
    assert_int_equal(rc, -1);
    if (err->kind != ERR_CANCELLED)
        fail_msg("%s", err->text);
}

static void a_store_that_was_stopped_is_not_asked_any_more(void **state)
{
    struct object_store *s = store_of(state), *stopped = open_store(*state);
    struct taker t = {0};
    struct object_info info;
    struct err err;

    must_put(s, "key", 1, 10);
    for (int again = 0; again < 2; again++) {
        object_store_stop(stopped);
        expect_cancelled(put_stream(stopped, "new", 1, 1, NULL, NULL, &err), &err);
        expect_cancelled(get_into(stopped, "key", UINT64_MAX, &t, &err), &err);
        expect_cancelled(get_into(stopped, "key", 0, &t, &err), &err);
        expect_cancelled(object_head(stopped, "key", &info, &err), &err);
        expect_cancelled(object_list(stopped, "", no_key, NULL, &err), &err);
        expect_cancelled(object_remove(stopped, "key", &err), &err);
    }
    object_store_free(&stopped);
    expect_content(s, "key", 1, 10);
    expect_nothing(s, "new");
}

static void stop_it(void *ctx)
{
    object_store_stop(ctx);
}

static void what_comes_down_ends_when_the_store_is_stopped(void **state)
{
    struct object_store *s = store_of(state), *stopped = open_store(*state);
    struct taker t = {.n = 1, .meanwhile = stop_it, .ctx = stopped};
    struct err err;

    must_put(s, "key", 1, BIG);
    expect_cancelled(get_into(stopped, "key", UINT64_MAX, &t, &err), &err);
    assert_false(t.wrong);
    assert_true(t.at < BIG);
    object_store_free(&stopped);
}

struct stopping_giver {
    struct giver giver;
    uint64_t stops_at;
    struct object_store *store;
};

static ssize_t give_and_stop(void *ctx, void *buf, size_t len, struct err *err)
{
    struct stopping_giver *g = ctx;

    if (g->giver.at >= g->stops_at)
        object_store_stop(g->store);
    return give(&g->giver, buf, len, err);
}

static void what_goes_up_ends_when_the_store_is_stopped(void **state)
{
    static const uint64_t places[] = {0, 1000, 40 * MIB};
    struct object_store *s = store_of(state);

    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        struct stopping_giver g = {.giver = {.n = 1, .size = BIG, .breaks_at = UINT64_MAX},
                                   .stops_at = places[i],
                                   .store = open_store(*state)};
        struct object_source source = {.fd = -1, .read = give_and_stop, .ctx = &g};
        struct err err;

        expect_cancelled(object_put(g.store, "key", &source, NULL, NULL, &err), &err);
        expect_nothing(s, "key");
        object_store_free(&g.store);
    }
}

/* ---- names, other stores ---- */

static void a_name_says_where_and_holds_no_secret(void **state)
{
    struct object_store *s = store_of(state);
    const struct bench *b = *state;
    const char *name = object_store_name(s);

    assert_int_equal(strncmp(name, b->driver, strlen(b->driver)), 0);
    assert_non_null(strstr(name, b->config.endpoint));
    if (b->config.bucket != NULL)
        assert_non_null(strstr(name, b->config.bucket));
    if (b->config.secret_key != NULL)
        assert_null(strstr(name, b->config.secret_key));
    if (b->config.session_token != NULL)
        assert_null(strstr(name, b->config.session_token));
}

static void a_second_store_sees_what_the_first_one_put(void **state)
{
    struct object_store *s = store_of(state);
    struct object_store *other = open_store(*state);

    must_put(s, "key", 1, 1000);
    expect_content(other, "key", 1, 1000);
    object_store_free(&other);
    assert_null(other);
}

static void prefixes_keep_stores_apart(void **state)
{
    struct object_store *s = store_of(state), *inner, *outside;
    struct bench *b = *state;
    char *below = xasprintf("%sbelow/", b->prefix), *beside = xasprintf("%s0/", b->prefix);

    b->config.prefix = below;
    inner = open_store(b);
    b->config.prefix = beside;
    outside = open_store(b);
    b->config.prefix = b->prefix;
    must_put(inner, "key", 1, 10);
    expect_content(s, "below/key", 1, 10);
    expect_count(inner, "", 1);
    expect_count(inner, "k", 1);
    expect_count(s, "b", 1);
    expect_count(outside, "", 0);
    expect_nothing(outside, "key");
    object_store_free(&inner);
    object_store_free(&outside);
    free(below);
    free(beside);
}

static void a_bucket_that_is_not_there_is_refused(void **state)
{
    struct bench *b = *state;
    const char *bucket = b->config.bucket;
    struct object_store *other;
    struct object_info info;
    struct err err;

    store_of(state);
    b->config.bucket = "pannier-no-such-bucket";
    other = open_store(b); /* connects to nothing */
    b->config.bucket = bucket;
    assert_int_equal(put_stream(other, "key", 1, 1, NULL, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_REFUSED);
    assert_int_equal(object_list(other, "", no_key, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_REFUSED);
    assert_int_equal(object_head(other, "key", &info, &err), -1);
    object_store_free(&other);
}

/* ---- what needs no server ---- */

static void a_configuration_that_cannot_work_is_one_sentence(void **state)
{
    static const struct object_store_config rows[] = {
        {.driver = NULL},
        {.driver = "ftp", .endpoint = "http://h", .bucket = "b"},
        {.driver = "file"},
        {.driver = "file", .endpoint = "relative"},
        {.driver = "file", .endpoint = "/f", .bucket = "a/b"},
        {.driver = "file", .endpoint = "/f", .bucket = ".."},
        {.driver = "file", .endpoint = "/f", .prefix = "../"},
        {.driver = "file", .endpoint = "/f", .prefix = "/a"},
        {.driver = "s3", .bucket = "b"},
        {.driver = "s3", .endpoint = "host", .bucket = "b"},
        {.driver = "s3", .endpoint = "http://", .bucket = "b"},
        {.driver = "s3", .endpoint = "http://h/path", .bucket = "b"},
        {.driver = "s3", .endpoint = "http://h/", .bucket = "b"},
        {.driver = "s3", .endpoint = "http://h"},
        {.driver = "s3", .endpoint = "http://h", .bucket = "b c"},
        {.driver = "libs3", .endpoint = "http://h", .bucket = "b", .access_key = "a"},
        {.driver = "s3", .endpoint = "http://h", .bucket = "b", .secret_key = "SECRET"},
        {.driver = "s3", .endpoint = "http://u:SECRET@h", .bucket = "b"},
        {.driver = "s3", .endpoint = "SECRET@h", .bucket = "b"},
        {.driver = "s3", .endpoint = "http://h?k=SECRET", .bucket = "b"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct object_store *store = NULL;
        struct err err;

        assert_int_equal(object_store_open(&rows[i], &store, &err), -1);
        assert_int_equal(err.kind, ERR_INPUT);
        assert_null(store);
        assert_null(strstr(err.text, "SECRET"));
    }
}

static void no_store_is_freed_without_complaint(void **state)
{
    struct object_store *none = NULL;

    (void)state;
    object_store_free(&none);
    assert_null(none);
}

/* ---- all of it, for every driver ---- */

#define TESTS(X)                                                                                   \
    X(an_object_of_no_bytes_is_one)                                                                \
    X(one_byte_comes_back)                                                                         \
    X(five_mebibytes_come_back)                                                                    \
    X(more_than_64_mebibytes_come_back)                                                            \
    X(a_head_stands_before_the_file)                                                               \
    X(a_file_behind_a_head_that_is_too_short_leaves_nothing)                                       \
    X(a_range_is_what_was_asked_for)                                                               \
    X(a_range_behind_the_end_is_told)                                                              \
    X(what_is_not_there_is_not_found)                                                              \
    X(every_version_has_its_own_etag)                                                              \
    X(a_reader_sees_one_version)                                                                   \
    X(a_sink_that_stops_ends_the_transfer)                                                         \
    X(a_source_that_breaks_leaves_nothing)                                                         \
    X(a_source_that_breaks_leaves_what_was_there)                                                  \
    X(a_file_that_is_too_short_leaves_nothing)                                                     \
    X(a_type_of_content_may_be_given)                                                              \
    X(awkward_keys_are_keys)                                                                       \
    X(what_is_no_key_is_refused)                                                                   \
    X(what_no_key_begins_with_is_refused)                                                          \
    X(keys_are_listed_in_their_order)                                                              \
    X(a_prefix_need_not_end_where_a_part_does)                                                     \
    X(long_keys_are_listed_in_their_order)                                                         \
    X(more_keys_than_one_answer_holds_are_listed)                                                  \
    X(what_is_removed_is_gone_and_may_be_removed_again)                                            \
    X(what_a_store_cannot_do_it_refuses_by_name)                                                   \
    X(a_condition_that_does_not_hold_changes_nothing)                                              \
    X(one_of_many_makes_a_new_object)                                                              \
    X(one_of_many_overwrites_a_version)                                                            \
    X(no_update_is_lost)                                                                           \
    X(one_of_many_that_overwrite_at_will_stays_whole)                                              \
    X(a_store_that_was_stopped_is_not_asked_any_more)                                              \
    X(what_comes_down_ends_when_the_store_is_stopped)                                              \
    X(what_goes_up_ends_when_the_store_is_stopped)                                                 \
    X(a_name_says_where_and_holds_no_secret)                                                       \
    X(a_second_store_sees_what_the_first_one_put)                                                  \
    X(prefixes_keep_stores_apart)                                                                  \
    X(a_bucket_that_is_not_there_is_refused)

#define WITH(driver, test) {driver ": " #test, test, set_up, tear_down, (void *)(uintptr_t)driver},
#define WITH_FILE(test)    WITH("file", test)
#define WITH_S3(test)      WITH("s3", test)
#define WITH_LIBS3(test)   WITH("libs3", test)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_configuration_that_cannot_work_is_one_sentence),
        cmocka_unit_test(no_store_is_freed_without_complaint),
        TESTS(WITH_FILE) TESTS(WITH_S3) TESTS(WITH_LIBS3)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
