/* A mirror that is ready is brought forward by what another node has put into the object store.
 * Most tests have a store of files; with PANNIER_TEST_S3 (s3_words.h) some run against that server,
 * too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cache/answer_file.h"
#include "two_nodes.h"

/* ---- what all tests want ---- */

static int try_catch_up(struct bench *b, struct node *n, struct shared_mirror_got *got,
                        struct err *err)
{
    int rc;

    mirror_write_begin(n->f.mirror);
    rc = shared_mirror_catch_up(b->store, NULL, n->f.mirror, &b->repo_id, NULL, NULL, got, err);
    mirror_write_end(n->f.mirror);
    return rc;
}

static struct shared_mirror_got catch_up(struct bench *b, struct node *n)
{
    struct shared_mirror_got got;
    struct err err;

    if (try_catch_up(b, n, &got, &err) != 0)
        fail_msg("%s", err.text);
    return got;
}

/* Both nodes have main~3, a has fetched the rest since, and put it. */
static void let_a_be_ahead(struct bench *b)
{
    fill(&b->a.f, "main~3\n", false, "main~3");
    put(b, &b->a);
    restore(b, &b->b);
    fetch_often(&b->a, 3, 0);
    put(b, &b->a);
    b->watched.calls[WATCHED_GET] = 0;
}

/* b is as let_a_be_ahead() left it, and works. */
static void b_is_as_before(struct bench *b)
{
    is_sound(&b->b);
    assert_int_equal(count_packs(&b->b), 1);
    assert_false(has(&b->b.f, "main"));
    is_an_entry(&b->b);
    clone_is_sound(&b->b, "main~3");
}

static void write_manifest(struct bench *b, struct manifest *m)
{
    char key[OBJECT_KEY_MAX + 1];
    struct bytes text;
    struct err err;

    bytes_init(&text, MANIFEST_MAX);
    if (manifest_write(m, &text, &err) != 0)
        fail_msg("%s", err.text);
    manifest_clear(m);
    manifest_key(&b->repo_id, key);
    write_object(b->watched.inner, key, &text);
}

/* Yours to free. */
static char *key_of_file(struct bench *b, size_t pack, enum manifest_part part)
{
    char key[OBJECT_KEY_MAX + 1];
    struct manifest m;

    read_manifest(b, &m);
    assert_true(pack < m.packs_count);
    manifest_file_key(&b->repo_id, &m.packs[pack].parts[part], key);
    manifest_clear(&m);
    return xstrdup(key);
}

static void refuses(struct bench *b, enum err_kind kind)
{
    struct shared_mirror_got got;
    struct err err;

    assert_int_equal(try_catch_up(b, &b->b, &got, &err), -1);
    if (err.kind != kind)
        fail_msg("%d, not %d: %s", err.kind, kind, err.text);
}

/* ---- it works ---- */

static void the_second_node_catches_up_and_serves_the_newest(void **state)
{
    struct bench *b = bench_of(state);
    struct shared_mirror_got got;
    struct ticks ticks = {0};
    struct err err;
    int rc;

    let_a_be_ahead(b);
    assert_false(has(&b->b.f, "main"));
    mirror_write_begin(b->b.f.mirror);
    rc = shared_mirror_catch_up(b->store, NULL, b->b.f.mirror, &b->repo_id, on_tick, &ticks, &got,
                                &err);
    mirror_write_end(b->b.f.mirror);
    if (rc != 0)
        fail_msg("%s", err.text);
    assert_true(got.files >= 6 && got.files <= 9); /* pack, idx and rev of three */
    assert_int_equal(b->watched.calls[WATCHED_GET], got.files + 1);
    assert_true(got.bytes > 3 * 5000);
    assert_int_equal(got.generation, 2);
    assert_true(ticks.count >= got.files);
    assert_int_equal(ticks.done, ticks.total);
    assert_int_equal(count_packs(&b->b), 4);
    assert_true(has(&b->b.f, "main"));
    is_sound(&b->b);
    is_an_entry(&b->b);
    clone_is_sound(&b->b, "main");
    clone_is_sound(&b->b, "main~1");
    /* It is a mirror like any other, also after a start. */
    close_node(&b->b);
    open_node(&b->b);
    is_sound(&b->b);
    assert_int_equal(put(b, &b->b).bytes, 0);
    fill(&b->b.f, "v1\n^main\n", true, "v1");
    keep_up(&b->b);
    is_sound(&b->b);
    clone_is_sound(&b->b, "main");
}

static void where_nothing_is_new_only_the_manifest_travels(void **state)
{
    struct bench *b = bench_of(state);
    struct shared_mirror_got got;

    let_a_be_ahead(b);
    catch_up(b, &b->b);
    b->watched.calls[WATCHED_GET] = 0;
    got = catch_up(b, &b->b);
    assert_int_equal(got.files, 0);
    assert_int_equal(got.bytes, 0);
    assert_int_equal(got.generation, 2);
    assert_int_equal(b->watched.calls[WATCHED_GET], 1);
    /* Other packs of the same are nothing new. */
    keep_up(&b->a);
    assert_true(put(b, &b->a).bytes > 0);
    b->watched.calls[WATCHED_GET] = 0;
    got = catch_up(b, &b->b);
    assert_int_equal(got.files, 0);
    assert_int_equal(got.generation, 3);
    assert_int_equal(b->watched.calls[WATCHED_GET], 1);
    is_sound(&b->b);
}

static void nodes_with_other_packs_of_the_same_catch_up(void **state)
{
    struct bench *b = bench_of(state);

    fill(&b->a.f, "main\nv1\n", false, "v1");
    keep_up(&b->a);
    put(b, &b->a);
    fill(&b->b.f, "main~12\n", false, "main~12");
    fetch_often(&b->b, 12, 5);
    keep_up(&b->b); /* a multi-pack index, a bitmap and a commit-graph of its own */
    assert_true(catch_up(b, &b->b).files > 0);
    is_sound(&b->b);
    is_an_entry(&b->b);
    clone_is_sound(&b->b, "main");
    assert_true(has(&b->b.f, "v1"));
    keep_up(&b->b);
    is_sound(&b->b);
    clone_is_sound(&b->b, "main");
}

static void frames_are_opened(void **state)
{
    struct bench *b = bench_of(state);
    struct shared_mirror_put_options options = {.node = "a", .compression = COMPRESSION_ON};
    struct shared_mirror_sent sent;
    struct err err;

    fill(&b->a.f, "main~20\n", false, "main~20");
    put(b, &b->a);
    restore(b, &b->b);
    fill(&b->a.f, "main\n^main~20\n", true, "main");
    assert_int_equal(put_with(b, &b->a, &options, &sent, &err), 0);
    assert_true(catch_up(b, &b->b).files > 0);
    is_sound(&b->b);
    clone_is_sound(&b->b, "main");
}

/* A tag of a commit that has a submodule, is a merge, and has nothing below it that b knows. */
static void all_kinds_of_objects_are_looked_through(void **state)
{
    struct bench *b = bench_of(state);

    assert_int_equal(
        REAL_GIT(&upstream, NULL, "", 0, NULL, "sh", "-c",
                 "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org "
                 "GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org;"
                 "blob=$(echo odd | git hash-object -w --stdin);"
                 "sub=$(printf '100644 blob %s\\tfile\\n' $blob | git mktree);"
                 "tree=$(printf '160000 commit %s\\tmodule\\n040000 tree %s\\tsub\\n' "
                 "$(printf '%040d' 1) $sub | git mktree --missing);"
                 "root=$(git commit-tree -m root $tree);"
                 "git tag -f -a -m odd odd $(git commit-tree -p main -p $root -m odd $tree)"),
        0);
    fill(&b->a.f, "main\n", false, "main");
    put(b, &b->a);
    restore(b, &b->b);
    fill(&b->a.f, "odd\n^main\n", true, "odd");
    put(b, &b->a);
    assert_true(catch_up(b, &b->b).files > 0);
    is_sound(&b->b);
    clone_is_sound(&b->b, "odd^{commit}");
    assert_true(has(&b->b.f, "odd"));
}

static void times_of_tips_come_with_them(void **state)
{
    struct bench *b = bench_of(state);
    int64_t then = time(NULL) - 1000;
    char *there = xasprintf("%s/pannier-tips", b->a.f.path);
    char *here = xasprintf("%s/pannier-tips", b->b.f.path), *line, hex[65];
    struct bytes text;
    FILE *file;

    fill(&b->a.f, "main~3\n", false, "main~3");
    put(b, &b->a);
    restore(b, &b->b);
    fetch_often(&b->a, 3, 0);
    real_git_id(&upstream, "main", hex);
    line = xasprintf("%s %jd\n", hex, (intmax_t)then);
    put_file(there, line, strlen(line));
    put(b, &b->a);
    catch_up(b, &b->b);
    file = fopen(here, "r");
    assert_non_null(file);
    bytes_init(&text, 1 << 20);
    slurp(file, &text);
    fclose(file);
    bytes_add(&text, "", 1);
    assert_non_null(strstr(text.data, line));
    bytes_clear(&text);
    free(line);
    free(here);
    free(there);
}

static void tips_of_long_ago_are_no_reason(void **state)
{
    struct bench *b = bench_of(state);
    char *file = xasprintf("%s/pannier-tips", b->a.f.path), hex[65], *line;
    struct shared_mirror_got got;

    make_side_branch();
    fill(&b->a.f, "main\n", false, "main");
    put(b, &b->a);
    restore(b, &b->b);
    fill(&b->a.f, "side\n^main\n", true, "side");
    real_git_id(&upstream, "side", hex);
    line = xasprintf("%s 1000000000\n", hex);
    put_file(file, line, strlen(line));
    put(b, &b->a);
    got = catch_up(b, &b->b);
    assert_int_equal(got.files, 0);
    assert_false(has(&b->b.f, "side"));
    free(line);
    free(file);
}

/* ---- it isn't worth it, or there is no room ---- */

static void too_much_is_left_to_upstream(void **state)
{
    struct bench *b = bench_of(state);
    struct shared_mirror_got got;
    struct manifest m;
    struct err err;

    let_a_be_ahead(b);
    read_manifest(b, &m);
    m.packs[2].parts[MANIFEST_PACK].size = UINT64_C(65) << 20;
    write_manifest(b, &m);
    assert_int_equal(try_catch_up(b, &b->b, &got, &err), -1);
    assert_int_equal(err.kind, ERR_LIMIT);
    assert_int_equal(got.files, 0);
    assert_int_equal(got.bytes, 0);
    assert_int_equal(got.generation, 2);
    assert_int_equal(b->watched.calls[WATCHED_GET], 1); /* the manifest was enough */
    assert_true(store_has(b));
    b_is_as_before(b);
}

/* What is here counts for nothing, however large it is. */
static void packs_that_are_here_do_not_count(void **state)
{
    struct bench *b = bench_of(state);
    struct manifest m;

    let_a_be_ahead(b);
    read_manifest(b, &m);
    m.packs[0].parts[MANIFEST_PACK].size = UINT64_C(65) << 20;
    write_manifest(b, &m);
    assert_true(catch_up(b, &b->b).files >= 6);
    is_sound(&b->b);
}

static void without_room_nothing_comes(void **state)
{
    struct bench *b = bench_of(state);
    struct shared_mirror_got got;
    struct node c = {.local = NULL};
    struct local_usage usage;
    struct err err;

    fill(&b->a.f, "main~35\n", false, "main~35");
    put(b, &b->a);
    make_node(&c, SMALL);
    restore(b, &c);
    fill(&b->a.f, "main\n^main~35\n", true, "main");
    put(b, &b->a);
    b->watched.calls[WATCHED_GET] = 0;
    assert_int_equal(try_catch_up(b, &c, &got, &err), -1);
    assert_int_equal(err.kind, ERR_LIMIT);
    assert_int_equal(b->watched.calls[WATCHED_GET], 1);
    local_usage(c.local, &usage);
    assert_int_equal(usage.filling, 0);
    is_sound(&c);
    is_an_entry(&c);
    clone_is_sound(&c, "main~35");
    assert_false(has(&c.f, "main"));
    remove_node(&c);
    assert_true(store_has(b));
}

/* ---- damage ---- */

static void a_damaged_file_changes_nothing_and_is_put_anew(void **state)
{
    static const struct {
        enum manifest_part part;
        size_t cut, flip;
        bool longer;
    } cases[] = {
        {MANIFEST_PACK, 0, 100, false}, {MANIFEST_PACK, 1, 0, false}, {MANIFEST_PACK, 0, 0, true},
        {MANIFEST_IDX, 0, 1, false},    {MANIFEST_IDX, 20, 0, false}, {MANIFEST_IDX, 0, 30, false},
    };
    struct bench *b = bench_of(state);

    let_a_be_ahead(b);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *key = key_of_file(b, 2, cases[i].part);

        change_object(b, key, cases[i].cut, cases[i].flip, cases[i].longer);
        refuses(b, ERR_CORRUPT);
        assert_false(store_has(b));
        assert_int_equal(count_keys(b->watched.inner, key), 0);
        b_is_as_before(b);
        refuses(b, ERR_NOT_FOUND);
        put(b, &b->a);
        free(key);
    }
    catch_up(b, &b->b);
    is_sound(&b->b);
    clone_is_sound(&b->b, "main");
}

static void a_file_that_is_missing_is_damage(void **state)
{
    struct bench *b = bench_of(state);
    struct err err;
    char *key;

    let_a_be_ahead(b);
    key = key_of_file(b, 3, MANIFEST_IDX);
    assert_int_equal(object_remove(b->watched.inner, key, &err), 0);
    free(key);
    refuses(b, ERR_CORRUPT);
    assert_false(store_has(b));
    b_is_as_before(b);
    put(b, &b->a);
    catch_up(b, &b->b);
    clone_is_sound(&b->b, "main");
}

/* What b doesn't ask for may be as it likes. */
static void damage_of_what_is_here_is_not_met(void **state)
{
    struct bench *b = bench_of(state);
    char *key;

    let_a_be_ahead(b);
    key = key_of_file(b, 0, MANIFEST_PACK);
    change_object(b, key, 0, 100, false);
    free(key);
    assert_true(catch_up(b, &b->b).files >= 6);
    is_sound(&b->b);
}

/* Each file is whole, but the index is another pack's. */
static void files_that_do_not_belong_together_do_not_get_in(void **state)
{
    struct bench *b = bench_of(state);
    struct manifest_file idx;
    struct manifest m;

    let_a_be_ahead(b);
    read_manifest(b, &m);
    idx = m.packs[1].parts[MANIFEST_IDX];
    m.packs[1].parts[MANIFEST_IDX] = m.packs[2].parts[MANIFEST_IDX];
    m.packs[2].parts[MANIFEST_IDX] = idx;
    write_manifest(b, &m);
    refuses(b, ERR_CORRUPT);
    assert_false(store_has(b));
    b_is_as_before(b);
}

/* A file whose SHA-256 is right, and whose own checksum isn't: in a blob, which is only looked
 * for. */
static void a_file_that_git_would_not_take_does_not_get_in(void **state)
{
    struct bench *b = bench_of(state);
    struct manifest_file *file;
    struct bytes content;
    struct manifest m;
    struct digest *d;
    char *key = NULL;

    let_a_be_ahead(b);
    key = key_of_file(b, 2, MANIFEST_PACK);
    read_object(b->watched.inner, key, &content);
    content.data[content.len / 2] ^= 1;
    read_manifest(b, &m);
    file = &m.packs[2].parts[MANIFEST_PACK];
    d = digest_new(HASH_SHA256);
    digest_update(d, content.data, content.len);
    digest_final(d, file->sha256.raw);
    digest_free(d);
    free(key);
    key = xmalloc(OBJECT_KEY_MAX + 1);
    manifest_file_key(&b->repo_id, file, key);
    write_object(b->watched.inner, key, &content);
    write_manifest(b, &m);
    free(key);
    refuses(b, ERR_CORRUPT);
    assert_false(store_has(b));
    b_is_as_before(b);
}

static void a_tip_that_is_nowhere_is_refused(void **state)
{
    struct bench *b = bench_of(state);
    struct manifest m;

    let_a_be_ahead(b);
    read_manifest(b, &m);
    m.tips[m.tips_count - 1].oid.raw[SHA1_SIZE - 1] ^= 1;
    write_manifest(b, &m);
    refuses(b, ERR_CORRUPT);
    assert_false(store_has(b));
    b_is_as_before(b);
}

/* And one of which the manifest names no pack that isn't here. */
static void a_tip_without_packs_is_refused(void **state)
{
    struct bench *b = bench_of(state);
    struct manifest m;

    let_a_be_ahead(b);
    read_manifest(b, &m);
    m.packs_count = 1;
    write_manifest(b, &m);
    refuses(b, ERR_CORRUPT);
    assert_false(store_has(b));
    b_is_as_before(b);
}

static void a_gap_in_the_history_is_refused(void **state)
{
    struct bench *b = bench_of(state);
    struct oid newest = oid_of("main");
    struct manifest m;

    let_a_be_ahead(b);
    read_manifest(b, &m);
    m.packs[2] = m.packs[3];
    m.packs_count = 3;
    m.tips_count = 1;
    m.tips[0].oid = newest; /* which is there, and its parent isn't */
    write_manifest(b, &m);
    refuses(b, ERR_CORRUPT);
    assert_false(store_has(b));
    b_is_as_before(b);
}

/* A commit on main~3 with one file in a folder, named deep. */
static void make_deep_branch(void)
{
    assert_int_equal(REAL_GIT(&upstream, NULL, "", 0, NULL, "sh", "-c",
                              "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org "
                              "GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org;"
                              "blob=$(echo deep | git hash-object -w --stdin);"
                              "tree=$(printf '100644 blob %s\\tfile\\n' $blob | git mktree);"
                              "root=$(printf '040000 tree %s\\tfolder\\n' $tree | git mktree);"
                              "git branch -f deep $(git commit-tree -p main~3 -m deep $root)"),
                     0);
}

/* a takes in a pack that lacks something, as nobody looks there. */
static void take_in_filtered(struct node *n, const char *tip, const char *filter)
{
    char *command = xasprintf("git rev-list --objects --filter=%s %s ^main~3 |"
                              "git pack-objects -q --stdout",
                              filter, tip);
    struct oid_list tips = list_of(tip);
    struct mirror_intake *in;
    struct bytes pack;
    struct err err;

    bytes_init(&pack, REAL_GIT_OUTPUT_MAX);
    assert_int_equal(REAL_GIT(&upstream, NULL, "", 0, &pack, "sh", "-c", command), 0);
    mirror_write_begin(n->f.mirror);
    assert_int_equal(mirror_intake_begin(n->f.mirror, &ABOUT, false, &in, &err), 0);
    assert_int_equal(mirror_intake_feed(in, pack.data, pack.len, &err), 0);
    assert_int_equal(mirror_intake_commit(&in, &tips, &err), 0);
    mirror_write_end(n->f.mirror);
    oid_list_clear(&tips);
    bytes_clear(&pack);
    free(command);
}

static void start_anew(struct bench *b)
{
    struct err err;

    assert_int_equal(local_remove(b->a.local, MIRROR_PATH, &err), 0);
    assert_int_equal(local_remove(b->b.local, MIRROR_PATH, &err), 0);
    empty_store(b->watched.inner);
}

static void trees_and_blobs_that_are_missing_are_refused(void **state)
{
    static const char *const cases[][2] = {
        {"main~2", "blob:none"}, {"main~2", "tree:0"}, {"deep", "blob:none"}, {"deep", "tree:1"}};
    struct bench *b = bench_of(state);

    make_deep_branch();
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        fill(&b->a.f, "main~3\n", false, "main~3");
        put(b, &b->a);
        restore(b, &b->b);
        take_in_filtered(&b->a, cases[i][0], cases[i][1]);
        put(b, &b->a);
        refuses(b, ERR_CORRUPT);
        assert_false(store_has(b));
        b_is_as_before(b);
        start_anew(b);
    }
    /* Nothing else is wrong with it. */
    fill(&b->a.f, "main~3\n", false, "main~3");
    put(b, &b->a);
    restore(b, &b->b);
    fill(&b->a.f, "deep\n^main~3\n", true, "deep");
    put(b, &b->a);
    catch_up(b, &b->b);
    clone_is_sound(&b->b, "deep");
}

static void a_damaged_manifest_is_removed(void **state)
{
    struct bench *b = bench_of(state);
    char key[OBJECT_KEY_MAX + 1];

    let_a_be_ahead(b);
    manifest_key(&b->repo_id, key);
    change_object(b, key, 0, 7, false);
    refuses(b, ERR_CORRUPT);
    assert_false(store_has(b));
    b_is_as_before(b);
}

static void what_a_newer_pannier_has_put_is_left_alone(void **state)
{
    static const char newer[] = "{\"version\":2}\n";
    struct bench *b = bench_of(state);
    char key[OBJECT_KEY_MAX + 1];
    struct bytes text;

    let_a_be_ahead(b);
    manifest_key(&b->repo_id, key);
    bytes_init(&text, 100);
    assert_int_equal(bytes_add_str(&text, newer), 0);
    write_object(b->watched.inner, key, &text);
    refuses(b, ERR_REFUSED);
    assert_true(store_has(b));
    b_is_as_before(b);
}

/* ---- what happens meanwhile ---- */

static void a_manifest_that_is_replaced_in_the_middle_is_read_again(void **state)
{
    struct bench *b = bench_of(state);
    struct shared_mirror_got got;

    fill(&b->a.f, "main~12\n", false, "main~12");
    put(b, &b->a);
    restore(b, &b->b);
    fetch_often(&b->a, 12, 0);
    put(b, &b->a);
    b->key = key_of_file(b, 12, MANIFEST_PACK);
    b->watched.before = replace_in_the_middle;
    got = catch_up(b, &b->b);
    assert_true(b->seen);
    assert_int_equal(got.generation, 3);
    assert_true(count_packs(&b->b) <= 1 + count_packs(&b->a)); /* and none of those of before */
    is_sound(&b->b);
    is_an_entry(&b->b);
    clone_is_sound(&b->b, "main");
}

/* What comes in its place is much larger. */
static int enlarge_in_the_middle(void *ctx, enum watched_call call, const char *key,
                                 struct err *err)
{
    struct bench *b = ctx;
    struct manifest m;

    if (call != WATCHED_GET || b->seen || strcmp(key, b->key) != 0)
        return 0;
    b->seen = true;
    read_manifest(b, &m);
    m.packs[1].parts[MANIFEST_PACK].size = UINT64_C(65) << 20;
    write_manifest(b, &m);
    return object_remove(b->watched.inner, key, err);
}

static void one_that_becomes_too_much_is_given_up(void **state)
{
    struct bench *b = bench_of(state);

    let_a_be_ahead(b);
    b->key = key_of_file(b, 3, MANIFEST_PACK);
    b->watched.before = enlarge_in_the_middle;
    refuses(b, ERR_LIMIT);
    assert_true(b->seen);
    assert_true(store_has(b));
    b_is_as_before(b);
}

/* What comes in its place has only what is here. */
static int shrink_in_the_middle(void *ctx, enum watched_call call, const char *key, struct err *err)
{
    struct bench *b = ctx;
    struct oid old;
    struct manifest m;

    if (call != WATCHED_GET || b->seen || strcmp(key, b->key) != 0)
        return 0;
    b->seen = true;
    old = oid_of("main~3");
    read_manifest(b, &m);
    m.packs_count = 1;
    m.tips_count = 1;
    m.tips[0].oid = old;
    write_manifest(b, &m);
    return object_remove(b->watched.inner, key, err);
}

static void one_that_becomes_nothing_new_changes_nothing(void **state)
{
    struct bench *b = bench_of(state);

    let_a_be_ahead(b);
    b->key = key_of_file(b, 3, MANIFEST_PACK);
    b->watched.before = shrink_in_the_middle;
    catch_up(b, &b->b);
    assert_true(b->seen);
    b_is_as_before(b);
}

static void one_that_nobody_wants_any_more_changes_nothing(void **state)
{
    struct bench *b = bench_of(state);
    struct ticks ticks = {.give_up_at = 2};
    struct shared_mirror_got got;
    struct err err;
    int rc;

    let_a_be_ahead(b);
    mirror_write_begin(b->b.f.mirror);
    rc = shared_mirror_catch_up(b->store, NULL, b->b.f.mirror, &b->repo_id, on_tick, &ticks, &got,
                                &err);
    mirror_write_end(b->b.f.mirror);
    assert_int_equal(rc, -1);
    assert_string_equal(err.text, "nobody wants it");
    assert_int_equal(ticks.count, 2);
    assert_true(store_has(b));
    b_is_as_before(b);
}

static int fail_the_nth_get(void *ctx, enum watched_call call, const char *key, struct err *err)
{
    struct bench *b = ctx;

    (void)key;
    return call == WATCHED_GET && b->at++ == b->skips ? err_set(err, ERR_UPSTREAM, "gone") : 0;
}

static void a_store_that_goes_away_changes_nothing(void **state)
{
    struct bench *b = bench_of(state);

    let_a_be_ahead(b);
    b->watched.before = fail_the_nth_get;
    for (b->skips = 0; b->skips < 6; b->skips += 5, b->at = 0)
        refuses(b, ERR_UPSTREAM);
    b->watched.before = NULL;
    assert_true(store_has(b));
    b_is_as_before(b);
}

static int evict_before_the_first_file(void *ctx, enum watched_call call, const char *key,
                                       struct err *err)
{
    struct bench *b = ctx;

    if (call == WATCHED_GET && !is_manifest(key) && !b->seen) {
        b->seen = true;
        assert_int_equal(local_remove(b->b.local, MIRROR_PATH, err), 0);
    }
    return 0;
}

static void one_that_is_removed_meanwhile_goes(void **state)
{
    struct bench *b = bench_of(state);

    let_a_be_ahead(b);
    b->watched.before = evict_before_the_first_file;
    refuses(b, ERR_CANCELLED);
    assert_true(b->seen);
    assert_false(exists(b->b.f.path));
    assert_true(store_has(b));
    refuses(b, ERR_BUSY); /* it isn't there */
    assert_true(store_has(b));
    assert_false(exists(b->b.f.path));
}

static int damage_before_the_first_file(void *ctx, enum watched_call call, const char *key,
                                        struct err *err)
{
    struct bench *b = ctx;

    (void)err;
    if (call == WATCHED_GET && !is_manifest(key) && !b->seen) {
        b->seen = true;
        mirror_drop_damaged(b->b.f.mirror, &(struct err){.kind = ERR_CORRUPT});
    }
    return 0;
}

static void one_that_is_found_damaged_meanwhile_is_not_the_fault_of_the_store(void **state)
{
    struct bench *b = bench_of(state);

    let_a_be_ahead(b);
    b->watched.before = damage_before_the_first_file;
    refuses(b, ERR_CANCELLED);
    assert_true(b->seen);
    assert_false(exists(b->b.f.path));
    assert_true(store_has(b));
    restore(b, &b->b);
    is_an_entry(&b->b);
}

/* ---- kills ---- */

static int die_at_the_nth_get(void *ctx, enum watched_call call, const char *key, struct err *err)
{
    struct bench *b = ctx;

    (void)key;
    (void)err;
    if (call == WATCHED_GET && b->at++ == b->skips)
        raise(SIGKILL);
    return 0;
}

static pid_t catch_up_in_a_child(struct bench *b, watched_fn *before)
{
    struct shared_mirror_got got;
    struct err err;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        open_node(&b->b);
        b->watched.before = before;
        _exit(try_catch_up(b, &b->b, &got, &err) != 0);
    }
    return pid;
}

/* True when it came to its end. */
static bool wait_for_child(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    return !WIFSIGNALED(status);
}

static void a_kill_while_files_come_leaves_the_mirror_as_it_was(void **state)
{
    struct bench *b = bench_of(state);
    bool over;

    let_a_be_ahead(b);
    do {
        close_node(&b->b);
        over = wait_for_child(catch_up_in_a_child(b, die_at_the_nth_get));
        open_node(&b->b);
        assert_true(mirror_ready(b->b.f.mirror));
        assert_int_equal(has(&b->b.f, "main"), over);
        assert_int_equal(count_packs(&b->b), over ? 4 : 1);
        b->skips += 3;
    } while (!over);
    assert_true(b->skips > 6);
    is_sound(&b->b);
    clone_is_sound(&b->b, "main");
}

/* What changes in the mirror, in this order, when all has come. */
enum { NEW_PACK, NEW_LIST, NEW_TIP, NEW_TIMES, STEPS };

struct steps {
    size_t files;
    struct file_identity list, times;
};

static void look_at(struct node *n, struct steps *s)
{
    char *list = xasprintf("%s/pannier-packs", n->f.path);
    char *times = xasprintf("%s/pannier-tips", n->f.path);
    char *packs = xasprintf("%s/objects/pack", n->f.path);

    memset(s, 0, sizeof(*s));
    file_identity_at(list, &s->list);
    file_identity_at(times, &s->times);
    s->files = count_entries(packs);
    free(packs);
    free(times);
    free(list);
}

static bool has_come_to(struct node *n, int step, const struct steps *before)
{
    char *refs = xasprintf("%s/refs/pannier/oid", n->f.path);
    struct steps now;
    bool loose = exists(refs) && count_entries(refs) > 0;

    free(refs);
    look_at(n, &now);
    switch (step) {
    case NEW_PACK: return now.files > before->files;
    case NEW_LIST: return now.list.inode != before->list.inode;
    case NEW_TIP: return loose;
    default: return now.times.inode != before->times.inode;
    }
}

static void kill_at(struct bench *b, int step)
{
    struct steps before;
    siginfo_t ended = {.si_pid = 0};
    pid_t pid;

    close_node(&b->b);
    look_at(&b->b, &before);
    pid = catch_up_in_a_child(b, NULL);
    while (!has_come_to(&b->b, step, &before) && ended.si_pid == 0)
        assert_int_equal(waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT), 0);
    kill(pid, SIGKILL);
    wait_for_child(pid);
    open_node(&b->b);
}

/* The kill may come a bit late; whatever it finds, what is left is a mirror. */
static void a_kill_while_they_are_put_in_leaves_a_mirror(void **state)
{
    struct bench *b = bench_of(state);

    for (int step = 0; step < STEPS; step++) {
        let_a_be_ahead(b);
        kill_at(b, step);
        is_sound(&b->b);
        clone_is_sound(&b->b, "main~3");
        /* What was left is in nobody's way. */
        catch_up(b, &b->b);
        fill(&b->b.f, "v1\n^main\n", true, "v1");
        is_sound(&b->b);
        is_an_entry(&b->b);
        assert_int_equal(count_packs(&b->b), 5);
        clone_is_sound(&b->b, "main");
        start_anew(b);
    }
}

/* ---- threads ---- */

struct busy {
    struct node *node;
    struct fetch_request request;
    atomic_bool over;
    unsigned rounds;
    bool failed;
};

static void *serve_on(void *ctx)
{
    struct busy *w = ctx;

    while (!atomic_load(&w->over) || w->rounds == 0) {
        struct bytes pack;
        struct err err;

        w->failed |= serve(&w->node->f, &w->request, NULL, NULL, &pack, &err) != 0 || pack.len == 0;
        w->rounds++;
        bytes_clear(&pack);
    }
    return NULL;
}

static void *keep_up_on(void *ctx)
{
    struct busy *w = ctx;

    while (!atomic_load(&w->over) || w->rounds == 0) {
        const struct mirror_upkeep_options options = {
            .now_s = time(NULL), .unreachable_ttl_s = TTL_S, .memory = 64 << 20};
        struct mirror_upkeep done;
        struct err err;

        w->failed |= mirror_upkeep(w->node->f.mirror, &options, &done, &err) != 0;
        w->rounds++;
    }
    return NULL;
}

static void serving_and_upkeep_go_on_meanwhile(void **state)
{
    struct bench *b = bench_of(state);
    struct busy server = {.node = &b->b}, keeper = {.node = &b->b};
    struct fetcher fetcher = {.over = false};
    unsigned came = 0;
    pthread_t threads[2];

    fill(&b->a.f, "main~12\n", false, "main~12");
    put(b, &b->a);
    restore(b, &b->b);
    prepare(&fetcher, &b->a);
    server.request = request(2, "main~12");
    assert_int_equal(pthread_create(&threads[0], NULL, serve_on, &server), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, keep_up_on, &keeper), 0);
    for (int i = 0; i < FETCHES; i++) {
        fetch_one(&fetcher, i);
        put(b, &b->a);
        came += catch_up(b, &b->b).files > 0;
    }
    atomic_store(&server.over, true);
    atomic_store(&keeper.over, true);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_false(fetcher.failed || server.failed || keeper.failed);
    assert_int_equal(came, FETCHES);
    is_sound(&b->b);
    is_an_entry(&b->b);
    clone_is_sound(&b->b, "main");
    keep_up(&b->b);
    is_sound(&b->b);
    request_clear(&server.request);
}

/* What can't be opened now is no damage, wherever descriptors run out. */
static void a_want_of_descriptors_is_no_damage(void **state)
{
    struct bench *b = bench_of(state);
    struct shared_mirror_got got;
    struct rlimit before;
    struct err err;
    rlim_t few = 0;
    int rc;

    let_a_be_ahead(b);
    do {
        few_descriptors(few++, &before);
        rc = try_catch_up(b, &b->b, &got, &err);
        descriptors_are_back(&before);
        empty_incoming(&b->b.f);
        if (rc != 0 && err.kind == ERR_CORRUPT)
            fail_msg("with %d descriptors: %s", (int)few - 1, err.text);
        assert_true(store_has(b));
    } while (rc != 0);
    assert_true(few > 2);
    is_sound(&b->b);
    assert_true(has(&b->b.f, "main"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_second_node_catches_up_and_serves_the_newest),
        TEST(a_want_of_descriptors_is_no_damage),
        TEST(where_nothing_is_new_only_the_manifest_travels),
        TEST(nodes_with_other_packs_of_the_same_catch_up),
        TEST(frames_are_opened),
        TEST(all_kinds_of_objects_are_looked_through),
        TEST(times_of_tips_come_with_them),
        TEST(tips_of_long_ago_are_no_reason),
        TEST(too_much_is_left_to_upstream),
        TEST(packs_that_are_here_do_not_count),
        TEST(without_room_nothing_comes),
        TEST(a_damaged_file_changes_nothing_and_is_put_anew),
        TEST(a_file_that_is_missing_is_damage),
        TEST(damage_of_what_is_here_is_not_met),
        TEST(files_that_do_not_belong_together_do_not_get_in),
        TEST(a_file_that_git_would_not_take_does_not_get_in),
        TEST(a_tip_that_is_nowhere_is_refused),
        TEST(a_tip_without_packs_is_refused),
        TEST(a_gap_in_the_history_is_refused),
        TEST(trees_and_blobs_that_are_missing_are_refused),
        TEST(a_damaged_manifest_is_removed),
        TEST(what_a_newer_pannier_has_put_is_left_alone),
        TEST(a_manifest_that_is_replaced_in_the_middle_is_read_again),
        TEST(one_that_becomes_too_much_is_given_up),
        TEST(one_that_becomes_nothing_new_changes_nothing),
        TEST(one_that_nobody_wants_any_more_changes_nothing),
        TEST(a_store_that_goes_away_changes_nothing),
        TEST(one_that_is_removed_meanwhile_goes),
        TEST(one_that_is_found_damaged_meanwhile_is_not_the_fault_of_the_store),
        TEST(a_kill_while_files_come_leaves_the_mirror_as_it_was),
        TEST(a_kill_while_they_are_put_in_leaves_a_mirror),
        TEST(serving_and_upkeep_go_on_meanwhile),
        TEST_S3(the_second_node_catches_up_and_serves_the_newest),
        TEST_S3(where_nothing_is_new_only_the_manifest_travels),
        TEST_S3(a_damaged_file_changes_nothing_and_is_put_anew),
        TEST_S3(a_manifest_that_is_replaced_in_the_middle_is_read_again),
    };

    return cmocka_run_group_tests(tests, make_upstream, remove_upstream);
}
