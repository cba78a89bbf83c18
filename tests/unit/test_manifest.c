#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <jansson.h>

#include "cache/shared/manifest.h"
#include "protocol/base.h"

#define HASH_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define HASH_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define HASH_C "cccccccccccccccccccccccccccccccccccccccc"

static struct manifest_file file_of(uint64_t size, uint8_t content, uint64_t stored)
{
    struct manifest_file f = {.size = size, .stored_size = stored};

    memset(f.sha256.raw, content, sizeof(f.sha256.raw));
    return f;
}

static struct oid oid_of(uint8_t first)
{
    struct oid oid = {{first}};

    return oid;
}

/* Two packs, one of them in the multi-pack index; two tips.  Yours to clear. */
static struct manifest sample(void)
{
    struct manifest m = {
        .repo = xstrdup("example.org/group/repo"),
        .url = xstrdup("https://example.org/group/repo"),
        .node = xstrdup("node \"1\", \xc3\xbc"),
        .applied = xstrdup("1700000000000-3"),
        .generation = 7,
        .fence = 3,
        .created = 1700000000,
        .packs = xcalloc(2, sizeof(struct manifest_pack)),
        .packs_count = 2,
        .indexed = 1,
        .midx_hash = HASH_C,
        .midx = file_of(3000, 6, 2000),
        .midx_bitmap = file_of(400, 7, 0),
        .commit_graph = file_of(500, 8, 0),
        .tips = xcalloc(2, sizeof(struct manifest_tip)),
        .tips_count = 2,
    };

    memset(m.repo_id.raw, 0x11, sizeof(m.repo_id.raw));
    strcpy(m.packs[0].hash, HASH_B);
    m.packs[0].parts[MANIFEST_PACK] = file_of(1000000, 1, 0);
    m.packs[0].parts[MANIFEST_IDX] = file_of(20000, 2, 15000);
    m.packs[0].parts[MANIFEST_REV] = file_of(2000, 3, 0);
    strcpy(m.packs[1].hash, HASH_A);
    m.packs[1].parts[MANIFEST_PACK] = file_of(500, 4, 0);
    m.packs[1].parts[MANIFEST_IDX] = file_of(1100, 5, 0);
    m.tips[0] = (struct manifest_tip){oid_of(1), 1700000001};
    m.tips[1] = (struct manifest_tip){oid_of(2), 0};
    return m;
}

static struct bytes write_it(const struct manifest *m)
{
    struct bytes text;
    struct err err;

    bytes_init(&text, MANIFEST_MAX);
    if (manifest_write(m, &text, &err) != 0)
        fail_msg("%s", err.text);
    return text;
}

static int read_it(const char *text, size_t len, struct manifest *out, struct err *err)
{
    struct key repo_id;

    memset(repo_id.raw, 0x11, sizeof(repo_id.raw));
    return manifest_read(text, len, &repo_id, out, err);
}

static void expect_damaged(const char *text, size_t len)
{
    struct manifest out;
    struct err err;

    assert_int_equal(read_it(text, len, &out, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
    assert_null(out.packs);
}

static void expect_same_file(const struct manifest_file *a, const struct manifest_file *b)
{
    assert_true(a->size == b->size);
    assert_true(a->stored_size == b->stored_size);
    assert_true(key_equal(&a->sha256, &b->sha256));
}

static void what_is_written_is_read_again(void **state)
{
    struct manifest m = sample(), out;
    struct bytes text = write_it(&m);
    struct err err;

    (void)state;
    assert_int_equal(read_it(text.data, text.len, &out, &err), 0);
    assert_true(key_equal(&out.repo_id, &m.repo_id));
    assert_string_equal(out.repo, m.repo);
    assert_string_equal(out.url, m.url);
    assert_string_equal(out.node, m.node);
    assert_string_equal(out.applied, m.applied);
    assert_true(out.generation == 7 && out.fence == 3 && out.created == 1700000000);
    assert_int_equal(out.packs_count, 2);
    assert_int_equal(out.indexed, 1);
    for (size_t i = 0; i < 2; i++) {
        assert_string_equal(out.packs[i].hash, m.packs[i].hash);
        for (int part = 0; part < MANIFEST_PARTS_COUNT; part++)
            expect_same_file(&out.packs[i].parts[part], &m.packs[i].parts[part]);
    }
    assert_string_equal(out.midx_hash, HASH_C);
    expect_same_file(&out.midx, &m.midx);
    expect_same_file(&out.midx_bitmap, &m.midx_bitmap);
    expect_same_file(&out.commit_graph, &m.commit_graph);
    assert_int_equal(out.tips_count, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(oid_cmp(&out.tips[i].oid, &m.tips[i].oid), 0);
        assert_true(out.tips[i].wanted_s == m.tips[i].wanted_s);
    }
    manifest_clear(&out);
    bytes_clear(&text);
    manifest_clear(&m);
}

static void a_mirror_needs_no_more_than_a_pack(void **state)
{
    struct manifest m = sample(), out;
    struct bytes text;
    struct err err;

    (void)state;
    m.packs_count = 1;
    m.tips_count = m.indexed = 0;
    m.midx_hash[0] = '\0';
    m.midx = m.midx_bitmap = m.commit_graph = (struct manifest_file){0};
    m.fence = 0;
    text = write_it(&m);
    assert_int_equal(read_it(text.data, text.len, &out, &err), 0);
    assert_int_equal(out.packs_count, 1);
    assert_int_equal(out.tips_count, 0);
    assert_string_equal(out.midx_hash, "");
    assert_true(out.midx.size == 0 && out.commit_graph.size == 0);
    manifest_clear(&out);
    bytes_clear(&text);
    manifest_clear(&m);
}

/* Of other nodes, too: changing it needs a new version. */
static void the_text_is_this(void **state)
{
    static const char START[] =
        "{\"applied\":\"1700000000000-3\",\"commit_graph\":{\"sha256\":\"0808";
    struct manifest m = sample();
    struct bytes text = write_it(&m);

    (void)state;
    assert_memory_equal(text.data, START, strlen(START));
    assert_non_null(strstr(
        text.data, "\"created\":1700000000,\"fence\":3,\"format\":\"sha1\",\"generation\":7,"));
    assert_non_null(strstr(text.data, "\"packs\":[{\"hash\":\"" HASH_B "\",\"idx\":{\"sha256\":"));
    assert_non_null(strstr(text.data, "\"size\":20000,\"stored\":15000}"));
    assert_non_null(strstr(text.data, "\"tips\":[\"0100000000000000000000000000000000000000 "
                                      "1700000001\",\"0200000000000000000000000000000000000000 "
                                      "0\"],\"url\":"));
    assert_string_equal(text.data + text.len - strlen(",\"version\":1}\n"), ",\"version\":1}\n");
    bytes_clear(&text);
    manifest_clear(&m);
}

static void every_cut_and_every_changed_byte_is_damage(void **state)
{
    struct manifest m = sample();
    struct bytes text = write_it(&m);

    (void)state;
    for (size_t len = 0; len < text.len; len++)
        expect_damaged(text.data, len);
    for (size_t i = 0; i < text.len; i++) {
        static const char *const others[] = {"\x01", " ", "0", "\xff"};

        for (size_t j = 0; j < ARRAY_LEN(others); j++) {
            char was = text.data[i];
            struct manifest out;
            struct err err;

            text.data[i] = others[j][0] != was ? others[j][0] : '9';
            assert_int_equal(read_it(text.data, text.len, &out, &err), -1);
            /* A damaged version can't be told from a new one. */
            assert_true(err.kind == ERR_CORRUPT || err.kind == ERR_REFUSED);
            text.data[i] = was;
        }
    }
    bytes_clear(&text);
    manifest_clear(&m);
}

static void another_repositorys_is_damage(void **state)
{
    struct manifest m = sample();
    struct bytes text;

    (void)state;
    m.repo_id.raw[31]++;
    text = write_it(&m);
    expect_damaged(text.data, text.len);
    bytes_clear(&text);
    manifest_clear(&m);
}

/* Its JSON changed by somebody who knows how to make the digest right; yours to free. */
static char *forge(const char *text, const char *member, const char *json)
{
    json_t *all = json_loads(text, 0, NULL), *value = json_loads(json, JSON_DECODE_ANY, NULL);
    char hex[KEY_HEX_SIZE], *out, *line;
    struct key sum;

    assert_non_null(all);
    assert_non_null(value);
    json_object_set_new(all, member, value);
    json_object_del(all, "sha256");
    out = json_dumps(all, JSON_COMPACT | JSON_SORT_KEYS);
    key_of(out, strlen(out), &sum);
    free(out);
    key_to_hex(&sum, hex);
    json_object_set_new(all, "sha256", json_string(hex));
    out = json_dumps(all, JSON_COMPACT | JSON_SORT_KEYS);
    line = xasprintf("%s\n", out);
    free(out);
    json_decref(all);
    return line;
}

static void what_was_forged_is_damage(void **state)
{
#define FILE_OF(size) "{\"sha256\":\"" HASH_A "aaaaaaaaaaaaaaaaaaaaaaaa\",\"size\":" size "}"
#define PACK(hash)    "{\"hash\":\"" hash "\",\"pack\":" FILE_OF("1") ",\"idx\":" FILE_OF("1") "}"
    static const struct {
        const char *member, *json;
    } rows[] = {
        {"unknown", "1"},
        {"created", "-1"},
        {"created", "1.5"},
        {"created", "\"1\""},
        {"generation", "0"},
        {"generation", "-1"},
        {"fence", "-1"},
        {"format", "\"sha256\""},
        {"repo", "\"\""},
        {"repo", "\"a\\nb\""},
        {"node", "null"},
        {"url", "\"https://user:password@example.org/x\""},
        {"repo_id", "\"11\""},
        {"packs", "[]"},
        {"packs", "{}"},
        {"packs", "[1]"},
        {"packs", "[[]]"},
        {"packs", "[" PACK("../../../../etc/passwd") "]"},
        {"packs", "[" PACK(HASH_A) "," PACK(HASH_A) "]"},
        {"packs", "[{\"hash\":\"" HASH_A "\",\"pack\":" FILE_OF("1") "}]"},
        {"packs", "[{\"hash\":\"" HASH_A "\",\"pack\":" FILE_OF("0") ",\"idx\":" FILE_OF("1") "}]"},
        {"packs", "[{\"hash\":\"" HASH_A "\",\"pack\":" FILE_OF("99999999999999999") ",\"idx\":" //
         FILE_OF("1") "}]"},
        {"packs", "[{\"hash\":\"" HASH_A "\",\"pack\":" FILE_OF("1") ",\"idx\":" FILE_OF(
                      "1") ",\"exe\":" FILE_OF("1") "}]"},
        {"tips", "{}"},
        {"tips", "[1]"},
        {"tips", "[\"" HASH_A "\"]"},
        {"tips", "[\"" HASH_A " \"]"},
        {"tips", "[\"" HASH_A " -1\"]"},
        {"tips", "[\"" HASH_A " 01\"]"},
        {"tips", "[\"" HASH_A " 9999999999999999999\"]"},
        {"tips", "[\"" HASH_A " 1\",\"" HASH_A " 1\"]"},
        {"tips", "[\"" HASH_B " 1\",\"" HASH_A " 1\"]"},
        {"tips", "[\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA 1\"]"},
        {"tips", "[\"0000000000000000000000000000000000000000 1\"]"},
        {"multi_pack_index", "{}"},
        {"multi_pack_index", "null"},
        {"multi_pack_index", "{\"hash\":\"" HASH_A "\",\"packs\":1}"},
        {"multi_pack_index", "{\"hash\":\"" HASH_A "\",\"packs\":3,\"index\":" FILE_OF("1") "}"},
        {"multi_pack_index", "{\"hash\":\"" HASH_A "\",\"packs\":0,\"index\":" FILE_OF("1") "}"},
        {"multi_pack_index", "{\"hash\":\"../x\",\"packs\":1,\"index\":" FILE_OF("1") "}"},
        {"commit_graph", "[]"},
        {"commit_graph", FILE_OF("-1")},
        {"commit_graph", "{\"sha256\":\"x\",\"size\":1}"},
    };
    struct manifest m = sample();
    struct bytes text = write_it(&m);
    struct manifest out;
    struct err err;
    char *as_good;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char *forged = forge(text.data, rows[i].member, rows[i].json);

        expect_damaged(forged, strlen(forged));
        free(forged);
    }
    /* And were it not wrong, it would be read. */
    as_good = forge(text.data, "packs", "[" PACK(HASH_A) "," PACK(HASH_B) "]");
    assert_int_equal(read_it(as_good, strlen(as_good), &out, &err), 0);
    manifest_clear(&out);
    free(as_good);
    bytes_clear(&text);
    manifest_clear(&m);
}

static void another_versions_is_left_alone(void **state)
{
    struct manifest m = sample(), out;
    struct bytes text = write_it(&m);
    char *newer = forge(text.data, "version", "2");
    struct err err;

    (void)state;
    assert_int_equal(read_it(newer, strlen(newer), &out, &err), -1);
    assert_int_equal(err.kind, ERR_REFUSED);
    free(newer);
    bytes_clear(&text);
    manifest_clear(&m);
}

static void garbage_is_damage(void **state)
{
    static const char *const rows[] = {"",    "\n", "{", "[]", "null", "{}", "{\"version\":1}",
                                       "[[[["};
    char *many = xmalloc(MANIFEST_MAX + 1);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        expect_damaged(rows[i], strlen(rows[i]));
    memset(many, '[', MANIFEST_MAX + 1);
    expect_damaged(many, MANIFEST_MAX);
    expect_damaged(many, MANIFEST_MAX + 1);
    free(many);
}

/* One thing about it is wrong. */
static void expect_unwritable(struct manifest *m)
{
    struct bytes text;
    struct err err;

    bytes_init(&text, MANIFEST_MAX);
    assert_int_equal(manifest_write(m, &text, &err), -1);
    assert_int_equal(err.kind, ERR_INPUT);
    assert_int_equal(text.len, 0);
    bytes_clear(&text);
    manifest_clear(m);
}

static void what_could_not_be_read_is_not_written(void **state)
{
    struct manifest m;

    (void)state;
    m = sample();
    m.generation = 0;
    expect_unwritable(&m);
    m = sample();
    m.packs_count = 0;
    expect_unwritable(&m);
    m = sample();
    m.packs_count = MANIFEST_PACKS_MAX + 1;
    expect_unwritable(&m);
    m = sample();
    m.tips_count = MANIFEST_TIPS_MAX + 1;
    expect_unwritable(&m);
    m = sample();
    m.packs[1].hash[0] = 'A';
    expect_unwritable(&m);
    m = sample();
    strcpy(m.packs[1].hash, m.packs[0].hash);
    expect_unwritable(&m);
    m = sample();
    m.packs[1].parts[MANIFEST_IDX].size = 0;
    expect_unwritable(&m);
    m = sample();
    m.midx.size = MANIFEST_SIZE_MAX + 1;
    expect_unwritable(&m);
    m = sample();
    m.indexed = 3;
    expect_unwritable(&m);
    m = sample();
    m.midx_hash[0] = '\0';
    expect_unwritable(&m);
    m = sample();
    m.tips[1] = m.tips[0];
    expect_unwritable(&m);
    m = sample();
    m.repo[0] = (char)0xff; /* not UTF-8 */
    expect_unwritable(&m);
    m = sample();
    free(m.url);
    m.url = xstrdup("https://token@example.org/r");
    expect_unwritable(&m);
}

static void a_full_buffer_is_told(void **state)
{
    struct manifest m = sample();
    struct bytes text;
    struct err err;

    (void)state;
    bytes_init(&text, 100);
    assert_int_equal(manifest_write(&m, &text, &err), -1);
    assert_int_equal(err.kind, ERR_LIMIT);
    assert_int_equal(text.len, 0);
    bytes_clear(&text);
    manifest_clear(&m);
}

static void the_largest_one_fits(void **state)
{
    struct manifest m = sample(), out;
    struct bytes text;
    struct err err;

    (void)state;
    m.packs = xrealloc(m.packs, MANIFEST_PACKS_MAX * sizeof(*m.packs));
    m.packs_count = MANIFEST_PACKS_MAX;
    for (unsigned i = 0; i < MANIFEST_PACKS_MAX; i++) {
        snprintf(m.packs[i].hash, sizeof(m.packs[i].hash), "%040x", i);
        for (int part = 0; part < MANIFEST_PARTS_COUNT; part++)
            m.packs[i].parts[part] =
                file_of(MANIFEST_SIZE_MAX, (uint8_t)part, MANIFEST_SIZE_MAX - 1);
    }
    m.tips = xrealloc(m.tips, MANIFEST_TIPS_MAX * sizeof(*m.tips));
    m.tips_count = MANIFEST_TIPS_MAX;
    for (unsigned i = 0; i < MANIFEST_TIPS_MAX; i++) {
        m.tips[i] = (struct manifest_tip){.wanted_s = 1700000000};
        m.tips[i].oid.raw[17] = (uint8_t)((i + 1) >> 16);
        m.tips[i].oid.raw[18] = (uint8_t)((i + 1) >> 8);
        m.tips[i].oid.raw[19] = (uint8_t)(i + 1);
    }
    text = write_it(&m);
    assert_int_equal(read_it(text.data, text.len, &out, &err), 0);
    assert_true(manifest_bytes(&out) >
                (uint64_t)MANIFEST_PACKS_MAX * MANIFEST_PARTS_COUNT * MANIFEST_SIZE_MAX);
    manifest_clear(&out);
    bytes_clear(&text);
    manifest_clear(&m);
}

static void only_the_next_generation_under_no_older_lease_may_follow(void **state)
{
    static const struct {
        uint64_t generation, fence;
        bool may;
    } rows[] = {
        {8, 3, true},  /* the same lease */
        {8, 9, true},  /* a newer one */
        {8, 2, false}, /* a node that was cut off */
        {7, 3, false}, {9, 3, false}, {1, 9, false},
    };
    struct manifest old = sample(), next = sample();
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        next.generation = rows[i].generation;
        next.fence = rows[i].fence;
        assert_int_equal(manifest_check_next(&old, &next, &err), rows[i].may ? 0 : -1);
        assert_true(rows[i].may || err.kind == ERR_CONFLICT);
    }
    next.generation = 1;
    assert_int_equal(manifest_check_next(NULL, &next, &err), 0);
    next.generation = 2;
    assert_int_equal(manifest_check_next(NULL, &next, &err), -1);
    manifest_clear(&old);
    manifest_clear(&next);
}

static int add_name(void *ctx, const char *name, const struct manifest_file *file)
{
    (void)file;
    return bytes_addf(ctx, "%s\n", name);
}

static int stop(void *ctx, const char *name, const struct manifest_file *file)
{
    (void)name;
    (void)file;
    ++*(int *)ctx;
    return 42;
}

static void its_files_are_told_with_their_places(void **state)
{
    struct manifest m = sample();
    struct bytes names;
    int count = 0;

    (void)state;
    bytes_init(&names, 4096);
    assert_int_equal(manifest_each(&m, add_name, &names), 0);
    assert_string_equal(names.data,
                        "pack/pack-" HASH_B ".pack\npack/pack-" HASH_B ".idx\npack/pack-" HASH_B
                        ".rev\npack/pack-" HASH_A ".pack\npack/pack-" HASH_A
                        ".idx\npack/multi-pack-index\npack/multi-pack-index-" HASH_C
                        ".bitmap\ninfo/commit-graph\n");
    assert_int_equal(manifest_each(&m, stop, &count), 42);
    assert_int_equal(count, 1);
    assert_true(manifest_bytes(&m) == 1000000 + 20000 + 2000 + 500 + 1100 + 3000 + 400 + 500);
    assert_true(manifest_stored_bytes(&m) ==
                1000000 + 15000 + 2000 + 500 + 1100 + 2000 + 400 + 500);
    bytes_clear(&names);
    manifest_clear(&m);
}

static void what_is_there_already_is_found_by_its_content(void **state)
{
    struct manifest m = sample();
    struct manifest_file idx = file_of(1, 2, 0), other = file_of(1, 99, 0);

    (void)state;
    assert_ptr_equal(manifest_find(&m, &idx.sha256), &m.packs[0].parts[MANIFEST_IDX]);
    assert_null(manifest_find(&m, &other.sha256));
    manifest_clear(&m);
}

static void keys_name_the_repository_and_the_content(void **state)
{
    struct manifest m = sample();
    char key[OBJECT_KEY_MAX + 1];

    (void)state;
    manifest_key(&m.repo_id, key);
    assert_string_equal(key, "mirrors/1111111111111111111111111111111111111111111111111111111111111"
                             "111/manifest.json");
    manifest_file_key(&m.repo_id, &m.packs[0].parts[MANIFEST_PACK], key);
    assert_string_equal(key, "mirrors/1111111111111111111111111111111111111111111111111111111111111"
                             "111/files/"
                             "0101010101010101010101010101010101010101010101010101010101010101");
    manifest_file_key(&m.repo_id, &m.midx, key);
    assert_string_equal(key + strlen(key) - 8, "0606.zst");
    manifest_clear(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_again),
        cmocka_unit_test(a_mirror_needs_no_more_than_a_pack),
        cmocka_unit_test(the_text_is_this),
        cmocka_unit_test(every_cut_and_every_changed_byte_is_damage),
        cmocka_unit_test(another_repositorys_is_damage),
        cmocka_unit_test(what_was_forged_is_damage),
        cmocka_unit_test(another_versions_is_left_alone),
        cmocka_unit_test(garbage_is_damage),
        cmocka_unit_test(what_could_not_be_read_is_not_written),
        cmocka_unit_test(a_full_buffer_is_told),
        cmocka_unit_test(the_largest_one_fits),
        cmocka_unit_test(only_the_next_generation_under_no_older_lease_may_follow),
        cmocka_unit_test(its_files_are_told_with_their_places),
        cmocka_unit_test(what_is_there_already_is_found_by_its_content),
        cmocka_unit_test(keys_name_the_repository_and_the_content),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
