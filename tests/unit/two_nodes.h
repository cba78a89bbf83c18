/* Mirrors of two nodes and what they have in common in an object store.  Included by unit tests
 * only; everything asserts with cmocka. */
#ifndef PANNIER_TESTS_UNIT_TWO_NODES_H
#define PANNIER_TESTS_UNIT_TWO_NODES_H

#include <sys/wait.h>
#include <time.h>

#include "cache/lock.h"
#include "cache/shared/manifest.h"
#include "cache/shared/shared_mirror.h"
#include "one_mirror.h"
#include "s3_words.h"
#include "watched_store.h"

#define REPO_ID     "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define MIRROR_PATH "mirrors/example.org/group/repo.git"

static const struct entry ABOUT = {
    .kind = ENTRY_MIRROR,
    .repo_id = (char *)REPO_ID,
    .repo = (char *)"example.org/group/repo",
    .url = (char *)"https://example.org/group/repo",
};
enum { TTL_S = 30 * 24 * 3600, BIG = 1 << 30, SMALL = 150 << 10 };

/* ---- nodes and their store ---- */

struct node {
    struct fixture f;
    struct local *local;
    uint64_t size; /* of its tier */
};

struct bench {
    struct node a, b;
    struct scratch scratch; /* the store's, where it is one of files */
    char *words, *prefix;
    struct watched watched;
    struct object_store *store; /* NULL: not to be had here */
    struct key repo_id;
    /* What a test's watcher works with. */
    unsigned at;
    unsigned skips;
    char *key;
    bool seen;
};

static inline void open_node(struct node *n)
{
    const struct local_limits limits = {.size = {.bytes = n->size}, .policy = POLICY_LRU};
    struct fixture *f = &n->f;
    struct err err;

    assert_int_equal(folder_open(f->scratch.dir, NULL, &f->folder, &err), 0);
    assert_int_equal(processes_new(4, &f->processes, &err), 0);
    n->local = local_open(f->folder, &limits);
    f->mirrors = mirrors_new(f->folder, f->processes, n->local);
    f->mirror = mirrors_get(f->mirrors, "example.org", "group/repo");
    f->about = &ABOUT;
}

static inline void close_node(struct node *n)
{
    struct fixture *f = &n->f;
    char *incoming = folder_pathf(f->folder, "incoming");

    assert_int_equal(count_entries(incoming), 0); /* whatever happened */
    free(incoming);
    mirror_unref(&f->mirror);
    local_close(&n->local);
    mirrors_free(&f->mirrors);
    processes_free(&f->processes);
    folder_close(&f->folder);
}

static inline void make_node(struct node *n, uint64_t size)
{
    n->size = size;
    scratch_init(&n->f.scratch);
    n->f.path = scratch_path(&n->f.scratch, MIRROR_PATH);
    open_node(n);
}

static inline void remove_node(struct node *n)
{
    close_node(n);
    scratch_clear(&n->f.scratch);
    free(n->f.path);
}

static inline struct object_store *open_store(struct bench *b, bool s3)
{
    struct object_store_config config = {
        .driver = s3 ? "s3" : "file",
        .endpoint = b->scratch.dir,
        .connect_timeout_ms = 5000,
        .stall_timeout_ms = 20000,
        .deadline_ms = 60000,
        .parallel = 4,
    };
    struct object_store *store;
    struct err err;

    if (s3) {
        config.endpoint = NULL;
        assert_true(s3_words_read(&config, &b->words));
        b->prefix = s3_words_own_prefix(&config);
        config.prefix = b->prefix;
    }
    if (object_store_open(&config, &store, &err) != 0)
        fail_msg("%s", err.text);
    return store;
}

static inline int set_up_bench(void **state, bool s3, bool conditions)
{
    struct bench *b = xcalloc(1, sizeof(*b));

    *state = b;
    scratch_init(&b->scratch);
    assert_true(key_from_hex(REPO_ID, &b->repo_id));
    make_node(&b->a, BIG);
    make_node(&b->b, BIG);
    if (s3 && getenv("PANNIER_TEST_S3") == NULL)
        return 0;
    watched_init(&b->watched, open_store(b, s3), conditions);
    b->watched.ctx = b;
    b->store = b->watched.store;
    return 0;
}

static inline int set_up_files(void **state)
{
    return set_up_bench(state, false, true);
}

static inline int set_up_s3(void **state)
{
    return set_up_bench(state, true, true);
}

static inline int set_up_plain(void **state)
{
    return set_up_bench(state, false, false);
}

static inline int tear_down_bench(void **state)
{
    struct bench *b = *state;

    remove_node(&b->a);
    remove_node(&b->b);
    if (b->store != NULL) {
        b->watched.before = NULL;
        empty_store(b->watched.inner);
        object_store_free(&b->watched.store);
    }
    scratch_clear(&b->scratch);
    free(b->words);
    free(b->prefix);
    free(b->key);
    free(b);
    return 0;
}

static inline struct bench *bench_of(void **state)
{
    struct bench *b = *state;

    if (b->store == NULL)
        skip();
    return b;
}

/* ---- up and down ---- */

static inline int put_with(struct bench *b, struct node *n,
                           const struct shared_mirror_put_options *options,
                           struct shared_mirror_sent *sent, struct err *err)
{
    return shared_mirror_put(b->store, n->f.mirror, options, sent, err);
}

static inline struct shared_mirror_put_options options_of(const struct bench *b,
                                                          const struct node *n)
{
    return (struct shared_mirror_put_options){.node = n == &b->a ? "a" : "b"};
}

static inline int try_put(struct bench *b, struct node *n, struct err *err)
{
    struct shared_mirror_put_options options = options_of(b, n);
    struct shared_mirror_sent sent;

    return put_with(b, n, &options, &sent, err);
}

static inline struct shared_mirror_sent put(struct bench *b, struct node *n)
{
    struct shared_mirror_put_options options = options_of(b, n);
    struct shared_mirror_sent sent;
    uint64_t before = b->watched.bytes_up;
    struct err err;

    if (put_with(b, n, &options, &sent, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(sent.bytes, b->watched.bytes_up - before);
    return sent;
}

static inline int try_restore(struct bench *b, struct node *n, struct err *err)
{
    struct shared_mirror_got got;
    int rc;

    mirror_write_begin(n->f.mirror);
    rc = shared_mirror_restore(b->store, NULL, n->f.mirror, &b->repo_id, NULL, NULL, &got, err);
    mirror_write_end(n->f.mirror);
    return rc;
}

static inline struct shared_mirror_got restore(struct bench *b, struct node *n)
{
    struct shared_mirror_got got;
    struct err err;
    int rc;

    mirror_write_begin(n->f.mirror);
    rc = shared_mirror_restore(b->store, NULL, n->f.mirror, &b->repo_id, NULL, NULL, &got, &err);
    mirror_write_end(n->f.mirror);
    if (rc != 0)
        fail_msg("%s", err.text);
    return got;
}

static inline bool store_has(struct bench *b)
{
    struct err err;
    bool has;

    assert_int_equal(shared_mirror_has(b->store, &b->repo_id, &has, &err), 0);
    return has;
}

static inline bool store_has_all(struct bench *b, struct node *n)
{
    struct err err;
    bool has;

    assert_int_equal(shared_mirror_has_all(b->store, NULL, n->f.mirror, &has, &err), 0);
    return has;
}

static inline void read_manifest(struct bench *b, struct manifest *out)
{
    char key[OBJECT_KEY_MAX + 1];
    struct bytes text;
    struct err err;

    manifest_key(&b->repo_id, key);
    read_object(b->watched.inner, key, &text);
    if (manifest_read(text.data, text.len, &b->repo_id, out, &err) != 0)
        fail_msg("%s", err.text);
    bytes_clear(&text);
}

static inline size_t files_there(struct bench *b)
{
    return count_keys(b->watched.inner, "mirrors/" REPO_ID "/files/");
}

/* Yours to free. */
static inline char *key_of_part(struct bench *b, enum manifest_part part)
{
    char key[OBJECT_KEY_MAX + 1];
    struct manifest m;

    read_manifest(b, &m);
    manifest_file_key(&b->repo_id, &m.packs[0].parts[part], key);
    manifest_clear(&m);
    return xstrdup(key);
}

/* ---- what mirrors are like ---- */

static inline void keep_up(struct node *n)
{
    const struct mirror_upkeep_options options = {
        .now_s = time(NULL), .unreachable_ttl_s = TTL_S, .memory = 64 << 20};
    struct mirror_upkeep done;
    struct err err;

    assert_int_equal(mirror_upkeep(n->f.mirror, &options, &done, &err), 0);
}

/* A before of watched: when b->key is asked for, a has put another state, and the keeper has been
 * there. */
static inline int replace_in_the_middle(void *ctx, enum watched_call call, const char *key,
                                        struct err *err)
{
    struct bench *b = ctx;

    if (call != WATCHED_GET || b->seen || strcmp(key, b->key) != 0)
        return 0;
    b->seen = true;
    keep_up(&b->a);
    assert_int_equal(try_put(b, &b->a, err), 0);
    return object_remove(b->watched.inner, key, err);
}

static inline bool needs_upkeep(struct node *n)
{
    const struct mirror_upkeep_options options = {
        .now_s = time(NULL), .unreachable_ttl_s = TTL_S, .memory = 64 << 20};

    return mirror_needs_upkeep(n->f.mirror, &options);
}

static inline void fetch_often(struct node *n, int from, int to)
{
    for (int i = from; i > to; i--) {
        char *tip = xasprintf("main~%d", i - 1);
        char *revisions = xasprintf("main~%d\n^main~%d\n", i - 1, i);

        fill(&n->f, revisions, true, tip);
        free(revisions);
        free(tip);
    }
}

static inline void make_old(struct node *n)
{
    fill(&n->f, "main~12\n", false, "main~12");
    fetch_often(n, 12, 0);
    assert_true(mirror_ready(n->f.mirror));
}

/* A commit on main~5 that main doesn't reach, named side. */
static inline void make_side_branch(void)
{
    assert_int_equal(REAL_GIT(&upstream, NULL, "", 0, NULL, "sh", "-c",
                              "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org "
                              "GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org;"
                              "git branch -f side $(git commit-tree -p main~5 -m side "
                              "$(git mktree < /dev/null))"),
                     0);
}

static inline size_t count_files(const struct node *n, const char *folder, const char *end)
{
    char *path = xasprintf("%s/objects/%s", n->f.path, folder);
    DIR *dir = opendir(path);
    struct dirent *d;
    size_t count = 0;

    assert_non_null(dir);
    while ((d = readdir(dir)) != NULL) {
        size_t len = strlen(d->d_name), end_len = strlen(end);

        count += len >= end_len && strcmp(d->d_name + len - end_len, end) == 0;
    }
    closedir(dir);
    free(path);
    return count;
}

static inline size_t count_packs(const struct node *n)
{
    return count_files(n, "pack", ".pack");
}

/* A clone of what, taken from the node, is what git calls sound. */
static inline void clone_is_sound(struct node *n, const char *what)
{
    struct fetch_request req = request(2, what);
    struct real_git clone;
    struct bytes pack;
    struct err err;
    char hex[65];

    if (serve(&n->f, &req, NULL, NULL, &pack, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(count_objects(&pack, false), count_revisions(what));
    strcpy(clone.dir, "/tmp/pannier-test-XXXXXX");
    assert_non_null(mkdtemp(clone.dir));
    real_git_id(&upstream, what, hex);
    assert_int_equal(REAL_GIT(&clone, NULL, "", 0, NULL, "git", "init", "-q", "--bare", "."), 0);
    assert_int_equal(
        REAL_GIT(&clone, NULL, pack.data, pack.len, NULL, "git", "index-pack", "--stdin"), 0);
    assert_int_equal(REAL_GIT(&clone, NULL, "", 0, NULL, "git", "update-ref", "refs/heads/m", hex),
                     0);
    assert_int_equal(REAL_GIT(&clone, NULL, "", 0, NULL, "git", "fsck", "--full", "--strict"), 0);
    real_git_clear(&clone);
    bytes_clear(&pack);
    request_clear(&req);
}

static inline void is_sound(struct node *n)
{
    struct err err;

    assert_true(mirror_ready(n->f.mirror));
    if (mirror_verify(n->f.mirror, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(mirrors_damaged(n->f.mirrors), 0);
}

static inline bool is_manifest(const char *key)
{
    return strstr(key, "/manifest.json") != NULL;
}

static inline void change_object(struct bench *b, const char *key, size_t cut, size_t flip,
                                 bool longer)
{
    struct bytes content;

    read_object(b->watched.inner, key, &content);
    content.len -= cut;
    if (flip > 0)
        content.data[content.len - flip] ^= 1;
    if (longer)
        assert_int_equal(bytes_add(&content, "x", 1), 0);
    write_object(b->watched.inner, key, &content);
}

/* ---- what is told of a download ---- */

struct ticks {
    unsigned count;
    uint64_t done, total;
    unsigned give_up_at; /* 0: never */
};

static inline int on_tick(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
    struct ticks *t = ctx;

    assert_true(done >= t->done && done <= total);
    t->done = done;
    t->total = total;
    return ++t->count == t->give_up_at ? err_set(err, ERR_NOT_FOUND, "nobody wants it") : 0;
}

static inline void is_an_entry(struct node *n)
{
    struct local_usage usage;
    struct entry e;
    struct err err;

    local_usage(n->local, &usage);
    assert_int_equal(usage.entries[ENTRY_MIRROR], 1);
    assert_int_equal(usage.bytes[ENTRY_MIRROR], disk_usage(n->f.path));
    assert_int_equal(usage.filling, 0);
    assert_int_equal(mirror_read_entry(n->f.path, &e, &err), 0);
    assert_string_equal(e.repo_id, ABOUT.repo_id);
    assert_string_equal(e.repo, ABOUT.repo);
    assert_string_equal(e.url, ABOUT.url);
    entry_clear(&e);
}

/* ---- fetches from a thread ---- */

enum { FETCHES = 12 };

/* Made before there are threads: the tests' git is started by a plain fork. */
struct fetcher {
    struct node *node;
    struct bytes packs[FETCHES];
    struct oid_list tips[FETCHES];
    atomic_bool over;
    bool failed;
};

static inline void prepare(struct fetcher *fetcher, struct node *n)
{
    fetcher->node = n;
    for (int i = 0; i < FETCHES; i++) {
        char *tip = xasprintf("main~%d", FETCHES - 1 - i);
        char *revisions = xasprintf("main~%d\n^main~%d\n", FETCHES - 1 - i, FETCHES - i);

        make_pack(revisions, true, &fetcher->packs[i]);
        fetcher->tips[i] = list_of(tip);
        free(revisions);
        free(tip);
    }
}

static inline void fetch_one(struct fetcher *fetcher, int i)
{
    struct mirror *m = fetcher->node->f.mirror;
    struct mirror_intake *in;
    struct err err;
    int rc;

    mirror_write_begin(m);
    rc = mirror_intake_begin(m, &ABOUT, false, &in, &err);
    if (rc == 0)
        rc = mirror_intake_feed(in, fetcher->packs[i].data, fetcher->packs[i].len, &err);
    if (rc == 0)
        rc = mirror_intake_commit(&in, &fetcher->tips[i], &err);
    mirror_write_end(m);
    fetcher->failed |= rc != 0;
    bytes_clear(&fetcher->packs[i]);
    oid_list_clear(&fetcher->tips[i]);
}

#define TEST(name)       cmocka_unit_test_setup_teardown(name, set_up_files, tear_down_bench)
#define TEST_PLAIN(name) cmocka_unit_test_setup_teardown(name, set_up_plain, tear_down_bench)
#define TEST_S3(name)                                                                              \
    {                                                                                              \
#name " (s3)", name, set_up_s3, tear_down_bench, NULL                                      \
    }

#endif
