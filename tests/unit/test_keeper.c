#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <time.h>

#include "cache/shared/keeper.h"
#include "cache/shared/keeper_lease.h"
#include "cache/shared/keeper_orphans.h"
#include "cache/shared/manifest.h"
#include "cache/shared/shared_remove.h"
#include "scratch.h"

/* ---- a store in memory, with a clock of its own ---- */

enum { OBJECTS_MAX = 64, INTERVAL_S = 600 };
static const int64_t NOW = 1700000000;

struct object {
    char *key;
    struct bytes data;
    struct object_info info;
};

struct fake {
    struct object objects[OBJECTS_MAX]; /* in the order of their keys */
    size_t count;
    int64_t now_s; /* what is put is of that time */
    unsigned versions;
    unsigned gets, puts, removes;
    /* Removals until the store fails; 0: never. */
    unsigned fails_in;
    bool fails;
    bool is_full; /* no put has room */
    /* Called once, before the next put or remove. */
    void (*interrupt)(struct fake *f);
    atomic_bool *stop_at_remove;
};

static size_t place_of(struct fake *f, const char *key, bool *there)
{
    size_t i = 0;

    while (i < f->count && strcmp(f->objects[i].key, key) < 0)
        i++;
    *there = i < f->count && strcmp(f->objects[i].key, key) == 0;
    return i;
}

static int fake_fails(struct fake *f, struct err *err)
{
    return f->fails ? err_set(err, ERR_UPSTREAM, "the store is away") : 0;
}

static int not_found(const char *key, struct err *err)
{
    return err_set(err, ERR_NOT_FOUND, "there is no %s", key);
}

static void interrupt(struct fake *f)
{
    void (*fn)(struct fake * f) = f->interrupt;

    f->interrupt = NULL;
    if (fn != NULL)
        fn(f);
}

static int fake_put(void *self, const char *key, const struct object_source *source,
                    const struct object_put_options *options, struct object_info *out,
                    struct err *err)
{
    struct fake *f = self;
    struct object *o;
    char buf[1024];
    bool there;
    ssize_t n;
    size_t i;

    interrupt(f);
    if (fake_fails(f, err) != 0)
        return -1;
    if (f->is_full)
        return err_set(err, ERR_REFUSED, "the quota is used up");
    i = place_of(f, key, &there);
    o = &f->objects[i];
    if ((options->only_new && there) ||
        (options->if_match != NULL && (!there || strcmp(o->info.etag, options->if_match) != 0)))
        return err_set(err, ERR_CONFLICT, "the condition does not hold");
    f->puts++;
    if (!there) {
        must(f->count < OBJECTS_MAX);
        memmove(o + 1, o, (f->count - i) * sizeof(*o));
        f->count++;
        *o = (struct object){.key = xstrdup(key)};
        bytes_init(&o->data, 1 << 20);
    }
    bytes_reset(&o->data);
    while ((n = source->read(source->ctx, buf, sizeof(buf), err)) > 0)
        must(bytes_add(&o->data, buf, (size_t)n) == 0);
    o->info.size = o->data.len;
    o->info.modified = f->now_s;
    snprintf(o->info.etag, sizeof(o->info.etag), "v%u", ++f->versions);
    *out = o->info;
    return 0;
}

static int fake_get(void *self, const char *key, uint64_t offset, uint64_t length,
                    struct object_info *info, object_sink_fn *fn, void *ctx, struct err *err)
{
    struct fake *f = self;
    bool there;
    size_t i = place_of(f, key, &there);

    if (fake_fails(f, err) != 0)
        return -1;
    if (!there)
        return not_found(key, err);
    must(offset == 0 && length == UINT64_MAX);
    f->gets++;
    *info = f->objects[i].info;
    return fn(ctx, f->objects[i].data.data, f->objects[i].data.len, err);
}

static int fake_head(void *self, const char *key, struct object_info *out, struct err *err)
{
    struct fake *f = self;
    bool there;
    size_t i = place_of(f, key, &there);

    if (fake_fails(f, err) != 0)
        return -1;
    if (!there)
        return not_found(key, err);
    *out = f->objects[i].info;
    return 0;
}

static int fake_list(void *self, const char *prefix, object_list_fn *fn, void *ctx, struct err *err)
{
    struct fake *f = self;

    if (fake_fails(f, err) != 0)
        return -1;
    for (size_t i = 0; i < f->count; i++) {
        if (strncmp(f->objects[i].key, prefix, strlen(prefix)) == 0 &&
            fn(ctx, f->objects[i].key, &f->objects[i].info) != 0)
            break;
    }
    return 0;
}

static int fake_remove(void *self, const char *key, struct err *err)
{
    struct fake *f = self;
    struct object *o;
    bool there;
    size_t i;

    interrupt(f);
    if (f->fails_in > 0 && --f->fails_in == 0)
        f->fails = true;
    if (fake_fails(f, err) != 0)
        return -1;
    if (f->stop_at_remove != NULL)
        *f->stop_at_remove = true;
    i = place_of(f, key, &there);
    if (!there)
        return 0;
    f->removes++;
    o = &f->objects[i];
    free(o->key);
    bytes_clear(&o->data);
    f->count--;
    memmove(o, o + 1, (f->count - i) * sizeof(*o));
    return 0;
}

static void fake_free(void *self)
{
    struct fake *f = self;

    for (size_t i = 0; i < f->count; i++) {
        free(f->objects[i].key);
        bytes_clear(&f->objects[i].data);
    }
    f->count = 0;
}

static struct object_store *fake_store(struct fake *f, bool has_conditions)
{
    const struct object_driver driver = {
        .put = fake_put,
        .get = fake_get,
        .head = fake_head,
        .list = fake_list,
        .remove = fake_remove,
        .free = fake_free,
        .has_conditions = has_conditions,
    };

    return object_store_new(&driver, f, "a store in memory");
}

/* ---- the bench ---- */

enum { LOCAL_LIMIT = 100 * 1000 * 1000 };

struct bench {
    struct scratch scratch, store_folder;
    struct fake fake;
    struct object_store *store;
    struct folder *folder;
    struct local *local;
    struct keeper *keeper;
    struct keeper_limits limits;
    /* What the double for shared_mirror_has_all() says and was asked. */
    bool has_mirror, is_newer;
    unsigned asked;
    bool in_use; /* nothing local can go */
    unsigned removed_locally;
    unsigned missing;
    char missing_path[256];
};

static bool remove_locally(void *ctx, const char *path, bool force)
{
    struct bench *b = ctx;

    (void)path;
    assert_false(force);
    b->removed_locally += !b->in_use;
    return !b->in_use;
}

static int describe_nothing(void *ctx, const char *path, struct entry *out, struct err *err)
{
    (void)ctx;
    (void)out;
    return err_set(err, ERR_CORRUPT, "%s is nothing", path);
}

static int has_all(void *ctx, const char *path, bool *has, struct err *err)
{
    struct bench *b = ctx;

    assert_string_equal(path, "mirrors/example.org/r.git");
    b->asked++;
    if (fake_fails(&b->fake, err) != 0)
        return -1;
    *has = false;
    if (b->is_newer)
        return err_set(err, ERR_REFUSED, "another version of pannier put it");
    *has = b->has_mirror;
    return 0;
}

static struct keeper *new_keeper(struct bench *b, const char *node)
{
    const struct keeper_mirrors mirrors = {has_all, b};

    return keeper_new(b->store, b->local, &mirrors, NULL, node, &b->limits);
}

static struct bench *bench_new(void)
{
    const struct local_limits limits = {.size = {.bytes = LOCAL_LIMIT}, .policy = POLICY_LRU};
    struct bench *b = xcalloc(1, sizeof(*b));
    const struct local_owner owner = {remove_locally, describe_nothing, b};
    struct err err;

    b->fake.now_s = NOW;
    scratch_init(&b->scratch);
    scratch_init(&b->store_folder);
    assert_int_equal(folder_open(b->scratch.dir, NULL, &b->folder, &err), 0);
    b->local = local_open(b->folder, &limits);
    local_set_owner(b->local, ENTRY_ANSWER, &owner);
    local_set_owner(b->local, ENTRY_MIRROR, &owner);
    b->limits =
        (struct keeper_limits){.policy = POLICY_LRU, .hot_s = 100, .interval_s = INTERVAL_S};
    return b;
}

static int set_up(void **state)
{
    struct bench *b = bench_new();

    b->store = fake_store(&b->fake, true);
    b->keeper = new_keeper(b, "here");
    *state = b;
    return 0;
}

static int set_up_without_conditions(void **state)
{
    struct bench *b = bench_new();

    b->store = fake_store(&b->fake, false);
    b->keeper = new_keeper(b, "here");
    *state = b;
    return 0;
}

static int set_up_files(void **state)
{
    struct bench *b = bench_new();
    const struct object_store_config config = {
        .driver = "file", .endpoint = b->store_folder.dir, .deadline_ms = 60000};
    struct err err;

    assert_int_equal(object_store_open(&config, &b->store, &err), 0);
    b->keeper = new_keeper(b, "here");
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *b = *state;

    keeper_free(&b->keeper);
    object_store_free(&b->store);
    local_close(&b->local);
    folder_close(&b->folder);
    scratch_clear(&b->store_folder);
    scratch_clear(&b->scratch);
    free(b);
    return 0;
}

static void configure(struct bench *b)
{
    keeper_configure(b->keeper, &b->limits);
}

/* ---- objects ---- */

struct source {
    const char *data;
    size_t left;
};

static ssize_t give(void *ctx, void *buf, size_t len, struct err *err)
{
    struct source *s = ctx;

    (void)err;
    if (len > s->left)
        len = s->left;
    memcpy(buf, s->data, len);
    s->data += len;
    s->left -= len;
    return (ssize_t)len;
}

static void put_text(struct bench *b, const char *key, const char *text, size_t len)
{
    struct source s = {text, len};
    const struct object_source source = {.fd = -1, .read = give, .ctx = &s};
    struct err err;

    if (object_put(b->store, key, &source, NULL, NULL, &err) != 0)
        fail_msg("%s", err.text);
}

static void put_bytes(struct bench *b, const char *key, size_t len)
{
    char *data = pattern(0, len);

    put_text(b, key, data, len);
    free(data);
}

static bool there(struct bench *b, const char *key)
{
    struct object_info info;
    struct err err;

    if (object_head(b->store, key, &info, &err) == 0)
        return true;
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    return false;
}

static struct key key_number(uint8_t n)
{
    struct key k;

    memset(k.raw, n, sizeof(k.raw));
    return k;
}

/* Static storage, of two names at once. */
static const char *hex(uint8_t n)
{
    static char names[2][KEY_HEX_SIZE];
    static unsigned turn;
    struct key k = key_number(n);
    char *out = names[turn++ % 2];

    key_to_hex(&k, out);
    return out;
}

static const char *answer(uint8_t repo, uint8_t n)
{
    static char key[OBJECT_KEY_MAX + 1];

    snprintf(key, sizeof(key), "answers/%s/%s", hex(repo), hex(n));
    return key;
}

static const char *file(uint8_t repo, uint8_t n, const char *end)
{
    static char key[OBJECT_KEY_MAX + 1];

    snprintf(key, sizeof(key), "mirrors/%s/files/%s%s", hex(repo), hex(n), end);
    return key;
}

static const char *manifest(uint8_t repo)
{
    static char key[OBJECT_KEY_MAX + 1];

    snprintf(key, sizeof(key), "mirrors/%s/manifest.json", hex(repo));
    return key;
}

/* One pack, of the files n (as it is) and n + 1 (packed). */
static void put_manifest(struct bench *b, uint8_t repo, uint8_t n)
{
    struct manifest_pack pack = {.hash = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    const struct manifest m = {
        .repo_id = key_number(repo),
        .repo = "example.org/r",
        .url = "https://example.org/r",
        .node = "here",
        .generation = 1,
        .created = NOW,
        .packs = &pack,
        .packs_count = 1,
    };
    struct bytes text;
    struct err err;

    pack.parts[MANIFEST_PACK] = (struct manifest_file){.size = 500, .sha256 = key_number(n)};
    pack.parts[MANIFEST_IDX] = (struct manifest_file){
        .size = 900, .sha256 = key_number((uint8_t)(n + 1)), .stored_size = 300};
    bytes_init(&text, MANIFEST_MAX);
    if (manifest_write(&m, &text, &err) != 0)
        fail_msg("%s", err.text);
    put_text(b, manifest(repo), text.data, text.len);
    bytes_clear(&text);
}

/* With its two files, of 800 bytes. */
static void put_mirror(struct bench *b, uint8_t repo, uint8_t n)
{
    put_bytes(b, file(repo, n, ""), 500);
    put_bytes(b, file(repo, (uint8_t)(n + 1), ".zst"), 300);
    put_manifest(b, repo, n);
}

static struct keeper_round tidy_by(struct keeper *k, int64_t now_s)
{
    struct keeper_round round;
    struct err err;

    if (keeper_tidy(k, now_s, NULL, &round, &err) != 0)
        fail_msg("%s", err.text);
    return round;
}

static struct keeper_round tidy(struct bench *b, int64_t now_s)
{
    return tidy_by(b->keeper, now_s);
}

static void used(struct bench *b, const char *key, int64_t now_s)
{
    keeper_used(b->keeper, key, now_s);
}

/* ---- age ---- */

static void what_nobody_used_for_its_ttl_goes(void **state)
{
    struct bench *b = *state;
    struct keeper_round round;

    b->limits.ttl_s = 1000;
    configure(b);
    put_bytes(b, answer(1, 1), 400);
    put_bytes(b, answer(1, 2), 500);
    b->fake.now_s = NOW + 500;
    put_bytes(b, answer(2, 3), 600);
    used(b, answer(1, 2), NOW + 700);
    round = tidy(b, NOW + 1000);
    assert_true(round.held);
    assert_int_equal(round.objects, 3);
    assert_int_equal(round.bytes, 1500);
    assert_int_equal(round.removed, 0);
    round = tidy(b, NOW + 1001);
    assert_int_equal(round.objects, 2);
    assert_int_equal(round.bytes, 1100);
    assert_int_equal(round.removed, 1);
    assert_int_equal(round.removed_bytes, 400);
    assert_false(there(b, answer(1, 1)));
    round = tidy(b, NOW + 1501);
    assert_int_equal(round.removed, 1);
    assert_false(there(b, answer(2, 3)));
    assert_true(there(b, answer(1, 2)));
}

/* ---- local entries ---- */

static void publish(struct bench *b, enum entry_kind kind, uint8_t repo, uint8_t n,
                    uint64_t stored_size, int64_t accessed)
{
    char path[128];
    struct entry e = {
        .kind = kind,
        .repo_id = xstrdup(hex(repo)),
        .repo = xstrdup("example.org/r"),
        .url = xstrdup("https://example.org/r"),
        .size = stored_size,
        .stored_size = stored_size,
        .created = 1,
        .accessed = accessed,
    };

    snprintf(path, sizeof(path), "answers/%.2s/%s", hex(n), hex(n));
    e.path = xstrdup(kind == ENTRY_ANSWER ? path : "mirrors/example.org/r.git");
    local_publish(b->local, &e, NULL);
    entry_clear(&e);
}

static void what_is_used_here_stays_there(void **state)
{
    struct bench *b = *state;

    b->limits.ttl_s = 1000;
    configure(b);
    put_bytes(b, answer(1, 1), 400);
    put_bytes(b, answer(1, 2), 400);
    put_mirror(b, 3, 10);
    put_mirror(b, 4, 20);
    publish(b, ENTRY_ANSWER, 1, 2, 1, NOW + 900);
    publish(b, ENTRY_MIRROR, 4, 0, 1, NOW + 900);
    assert_int_equal(tidy(b, NOW + 1500).removed, 1 + 3);
    assert_false(there(b, answer(1, 1)));
    assert_true(there(b, answer(1, 2)));
    assert_false(there(b, manifest(3)));
    assert_true(there(b, manifest(4)));
}

static void a_mirror_goes_with_all_its_files_and_its_manifest_first(void **state)
{
    struct bench *b = *state;
    struct keeper_round round;
    struct err err;

    b->limits.ttl_s = 1000;
    configure(b);
    put_mirror(b, 3, 10);
    b->fake.fails_in = 2; /* after the first one was removed */
    assert_int_equal(keeper_tidy(b->keeper, NOW + 2000, NULL, &round, &err), -1);
    assert_int_equal(err.kind, ERR_UPSTREAM);
    assert_int_equal(round.removed, 1);
    b->fake.fails = false;
    assert_false(there(b, manifest(3)));
    assert_true(there(b, file(3, 10, "")));
    put_manifest(b, 3, 10);
    round = tidy(b, NOW + 2000);
    assert_int_equal(round.removed, 3);
    assert_int_equal(round.objects, 0);
    assert_int_equal(round.bytes, 0);
    assert_int_equal(b->fake.count, 1); /* keeper.json */
}

static void a_mirror_of_which_one_file_was_used_stays_as_a_whole(void **state)
{
    struct bench *b = *state;

    b->limits.ttl_s = 1000;
    configure(b);
    put_mirror(b, 3, 10);
    used(b, file(3, 11, ".zst"), NOW + 900);
    assert_int_equal(tidy(b, NOW + 1500).removed, 0);
    assert_int_equal(tidy(b, NOW + 1901).removed, 3);
}

static void with_files_for_objects_the_same_goes(void **state)
{
    struct bench *b = *state;
    int64_t now = (int64_t)time(NULL);
    struct keeper_round round;

    b->limits.ttl_s = 1000;
    configure(b);
    put_bytes(b, answer(1, 1), 400);
    put_bytes(b, answer(1, 2), 500);
    put_mirror(b, 3, 10);
    used(b, answer(1, 2), now + 900);
    assert_int_equal(tidy(b, now + 500).removed, 0);
    round = tidy(b, now + 1500);
    assert_int_equal(round.removed, 4);
    assert_int_equal(round.objects, 1);
    assert_int_equal(round.bytes, 500);
    assert_false(there(b, manifest(3)));
    assert_false(there(b, file(3, 11, ".zst")));
    assert_true(there(b, answer(1, 2)));
}

/* ---- room ---- */

static void room_is_made_by_last_use(void **state)
{
    struct bench *b = *state;
    struct keeper_round round;

    put_bytes(b, answer(1, 1), 400);
    put_bytes(b, answer(1, 2), 400);
    put_bytes(b, answer(1, 3), 400);
    used(b, answer(1, 1), NOW + 30);
    used(b, answer(1, 2), NOW + 10);
    used(b, answer(1, 3), NOW + 20);
    b->limits.max_size = 1200;
    configure(b);
    assert_int_equal(tidy(b, NOW + 40).removed, 0);
    b->limits.max_size = 799;
    configure(b);
    round = tidy(b, NOW + 40);
    assert_int_equal(round.removed, 2);
    assert_int_equal(round.bytes, 400);
    assert_true(there(b, answer(1, 1)));
}

static void room_is_made_by_size(void **state)
{
    struct bench *b = *state;

    put_bytes(b, answer(1, 1), 900);
    put_bytes(b, answer(1, 2), 300);
    put_mirror(b, 3, 10); /* all of it is larger than the first */
    put_bytes(b, file(3, 12, ""), 300);
    b->limits.policy = POLICY_SIZE;
    b->limits.max_size = 1200;
    configure(b);
    assert_int_equal(tidy(b, NOW + 40).removed, 4);
    assert_false(there(b, manifest(3)));
    b->limits.max_size = 1199;
    configure(b);
    assert_int_equal(tidy(b, NOW + 40).removed, 1);
    assert_true(there(b, answer(1, 2)));
    /* What was unused for longer than max_age goes before what is large. */
    put_bytes(b, answer(1, 4), 800);
    used(b, answer(1, 4), NOW + 5000);
    b->limits.max_size = 1000;
    b->limits.max_age_s = 1000;
    configure(b);
    assert_int_equal(tidy(b, NOW + 5000).removed, 1);
    assert_true(there(b, answer(1, 4)));
}

/* One get is a second use: the first was the one that it was made for. */
static void room_is_made_by_what_was_asked_for_again(void **state)
{
    struct bench *b = *state;

    put_bytes(b, answer(1, 1), 400);
    put_bytes(b, answer(1, 2), 400);
    put_bytes(b, answer(1, 3), 400);
    used(b, answer(1, 1), NOW);
    b->limits.policy = POLICY_S3FIFO;
    b->limits.max_size = 400;
    configure(b);
    assert_int_equal(tidy(b, NOW + 40).removed, 2);
    assert_true(there(b, answer(1, 1)));
}

static void names_that_are_nothing_of_ours_stay(void **state)
{
    struct bench *b = *state;
    struct keeper_round round;

    put_bytes(b, "answers/readme", 400);
    put_bytes(b, "mirrors/0123/files/45", 400);
    put_bytes(b, "others/1", 400);
    put_bytes(b, answer(1, 1), 400);
    used(b, "answers/readme", NOW);
    b->limits.ttl_s = 1;
    b->limits.max_size = 1;
    configure(b);
    round = tidy(b, NOW + 10000);
    assert_int_equal(round.removed, 1);
    assert_int_equal(round.objects + round.bytes, 0);
    assert_int_equal(b->fake.count, 4); /* keeper.json */
}

static void only_so_many_uses_are_remembered(void **state)
{
    struct bench *b = *state;

    put_bytes(b, answer(1, 1), 400);
    put_bytes(b, answer(1, 2), 400);
    used(b, answer(1, 1), NOW + 5000);
    used(b, answer(1, 2), NOW + 5000);
    for (unsigned i = 0; i < KEEPER_NOTES_MAX - 1; i++) {
        char key[OBJECT_KEY_MAX + 1];

        snprintf(key, sizeof(key), "answers/%s/%064x", hex(9), i);
        used(b, key, NOW);
    }
    b->limits.ttl_s = 1000;
    configure(b);
    assert_int_equal(tidy(b, NOW + 5000).removed, 1);
    assert_true(there(b, answer(1, 2)));
}

/* ---- orphans ---- */

static void a_file_without_a_name_goes_after_an_hour_and_not_before(void **state)
{
    struct bench *b = *state;
    struct keeper_round round;

    b->fake.now_s = NOW - 10000; /* long ago, but nobody knows whether it had a name then */
    put_mirror(b, 3, 10);
    put_bytes(b, file(3, 30, ""), 700);
    put_bytes(b, file(3, 31, ".zst"), 200);
    /* The same content as a file that is named, in the form that isn't. */
    put_bytes(b, file(3, 10, ".zst"), 100);
    assert_int_equal(tidy(b, NOW).orphans, 0);
    assert_int_equal(tidy(b, NOW + ORPHAN_S - 1).orphans, 0);
    round = tidy(b, NOW + ORPHAN_S);
    assert_int_equal(round.orphans, 3);
    assert_int_equal(round.orphans_bytes, 1000);
    assert_int_equal(round.removed, 0);
    assert_int_equal(round.objects, 3);
    assert_true(there(b, file(3, 10, "")));
    assert_true(there(b, file(3, 11, ".zst")));
    assert_false(there(b, file(3, 10, ".zst")));
}

static void a_file_that_was_put_within_the_hour_stays(void **state)
{
    struct bench *b = *state;

    put_mirror(b, 3, 10);
    put_bytes(b, file(3, 30, ""), 700);
    assert_int_equal(tidy(b, NOW).orphans, 0);
    b->fake.now_s = NOW + 1000;
    put_bytes(b, file(3, 30, ""), 700); /* by another upload */
    assert_int_equal(tidy(b, NOW + ORPHAN_S).orphans, 0);
    assert_int_equal(tidy(b, NOW + 1000 + ORPHAN_S - 1).orphans, 0);
    assert_int_equal(tidy(b, NOW + 1000 + ORPHAN_S).orphans, 1);
}

static void put_file_anew(struct fake *f)
{
    bool known;
    size_t i = place_of(f, file(3, 31, ""), &known);

    must(known);
    f->objects[i].info.modified = NOW + ORPHAN_S;
}

static void a_file_that_is_put_anew_while_others_are_removed_stays(void **state)
{
    struct bench *b = *state;

    put_mirror(b, 3, 10);
    put_bytes(b, file(3, 30, ""), 700);
    put_bytes(b, file(3, 31, ""), 700);
    tidy(b, NOW);
    b->fake.interrupt = put_file_anew; /* when 30 is removed, 31 was listed as an old one */
    assert_int_equal(tidy(b, NOW + ORPHAN_S).orphans, 1);
    assert_true(there(b, file(3, 31, "")));
}

static void a_file_that_a_manifest_names_again_stays(void **state)
{
    struct bench *b = *state;

    put_mirror(b, 3, 10);
    put_mirror(b, 3, 20); /* its files replace the first's */
    assert_int_equal(tidy(b, NOW).orphans, 0);
    put_manifest(b, 3, 10);
    assert_int_equal(tidy(b, NOW + 1000).orphans, 0);
    put_manifest(b, 3, 20);
    /* The hour of 10 and 11 begins anew, that of 20 and 21 has been broken off. */
    assert_int_equal(tidy(b, NOW + 2000).orphans, 0);
    assert_int_equal(tidy(b, NOW + 2000 + ORPHAN_S - 1).orphans, 0);
    assert_int_equal(tidy(b, NOW + 2000 + ORPHAN_S).orphans, 2);
    assert_true(there(b, file(3, 20, "")) && there(b, file(3, 21, ".zst")));
    assert_false(there(b, file(3, 10, "")) || there(b, file(3, 11, ".zst")));
}

static void files_of_an_upload_that_never_ended_go(void **state)
{
    struct bench *b = *state;
    struct keeper_round round;

    put_bytes(b, file(3, 30, ""), 700);
    put_bytes(b, file(3, 31, ".zst"), 200);
    b->limits.ttl_s = 1;
    b->limits.max_size = 1; /* they are nobody's to remove for room */
    configure(b);
    round = tidy(b, NOW + 100);
    assert_int_equal(round.removed + round.orphans, 0);
    assert_int_equal(round.bytes, 900);
    assert_int_equal(tidy(b, NOW + 100 + ORPHAN_S).orphans, 2);
}

static void a_manifest_that_cannot_be_read_keeps_its_files(void **state)
{
    struct bench *b = *state;

    put_bytes(b, file(3, 30, ""), 700);
    put_bytes(b, file(4, 30, ""), 700);
    put_text(b, manifest(3), "{}", 2);
    put_text(b, manifest(4), "{\"version\":2}", 13);
    tidy(b, NOW);
    assert_int_equal(tidy(b, NOW + 2 * ORPHAN_S).orphans, 0);
    assert_true(there(b, file(3, 30, "")) && there(b, file(4, 30, "")));
}

static void a_mirror_that_looks_as_before_is_not_read_again(void **state)
{
    struct bench *b = *state;
    unsigned gets;

    put_mirror(b, 3, 10);
    tidy(b, NOW);
    gets = b->fake.gets;
    tidy(b, NOW + 1);
    assert_int_equal(b->fake.gets, gets + 1); /* keeper.json */
    put_manifest(b, 3, 10);
    tidy(b, NOW + 2);
    assert_int_equal(b->fake.gets, gets + 3);
    put_bytes(b, file(3, 30, ""), 700);
    tidy(b, NOW + 3);
    assert_int_equal(b->fake.gets, gets + 5);
}

/* ---- the lease ---- */

static void one_node_tidies_and_another_takes_over_when_it_is_gone(void **state)
{
    struct bench *b = *state;
    struct keeper *other = new_keeper(b, "there");
    int64_t lasts = KEEPER_LEASE_INTERVALS * INTERVAL_S;
    int64_t now = NOW;

    assert_true(tidy(b, now).held);
    assert_false(tidy_by(other, now).held);
    assert_false(tidy_by(other, now + lasts - 1).held);
    assert_true(tidy(b, now + 100).held); /* renewed */
    assert_false(tidy_by(other, now + lasts).held);
    assert_true(tidy_by(other, now + 100 + lasts).held);
    assert_false(tidy(b, now + 100 + lasts).held);
    keeper_free(&other);
}

static void who_does_not_hold_it_touches_nothing(void **state)
{
    struct bench *b = *state;
    struct keeper *other;
    struct keeper_round round;

    tidy(b, NOW);
    b->limits.ttl_s = 1;
    other = new_keeper(b, "there");
    put_bytes(b, answer(1, 1), 400);
    b->fake.puts = 0;
    round = tidy_by(other, NOW + 1000);
    assert_false(round.held);
    assert_int_equal(round.objects + round.removed, 0);
    assert_int_equal(b->fake.puts + b->fake.removes, 0);
    keeper_free(&other);
}

static struct bench *racing;

static void take_it_first(struct fake *f)
{
    struct keeper *other = new_keeper(racing, "there");

    (void)f;
    assert_true(tidy_by(other, NOW + 100000).held);
    keeper_free(&other);
}

static void who_loses_the_race_for_it_does_not_hold_it(void **state)
{
    struct bench *b = *state;

    racing = b;
    b->fake.interrupt = take_it_first; /* between our look and our put: there is none yet */
    assert_false(tidy(b, NOW + 100000).held);
    object_remove(b->store, KEEPER_LEASE_KEY, &(struct err){0});
    assert_true(tidy(b, NOW).held);
    b->fake.interrupt = take_it_first; /* the same over one that has run out */
    assert_false(tidy(b, NOW + 100000).held);
}

static void a_lease_that_makes_no_sense_is_taken_over(void **state)
{
    struct bench *b = *state;
    char text[128];
    int64_t lasts = KEEPER_LEASE_INTERVALS * INTERVAL_S;

    put_text(b, KEEPER_LEASE_KEY, "?", 1);
    assert_true(tidy(b, NOW).held);
    put_text(b, KEEPER_LEASE_KEY, "", 0);
    assert_true(tidy(b, NOW).held);
    /* Its clock may be ahead of ours, but not by years. */
    snprintf(text, sizeof(text), "{\"node\":\"there\",\"until\":%lld}",
             (long long)(NOW + lasts + KEEPER_CLOCKS_DIFFER_S));
    put_text(b, KEEPER_LEASE_KEY, text, strlen(text));
    assert_true(tidy(b, NOW - 1).held);
    put_text(b, KEEPER_LEASE_KEY, text, strlen(text));
    assert_false(tidy(b, NOW).held);
}

static void without_conditions_every_node_tidies(void **state)
{
    struct bench *b = *state;
    struct keeper *other = new_keeper(b, "there");

    put_bytes(b, answer(1, 1), 400);
    assert_true(tidy(b, NOW).held);
    assert_true(tidy_by(other, NOW).held);
    assert_int_equal(b->fake.count, 1);
    keeper_free(&other);
}

/* Or it would stay full. */
static void a_store_that_is_full_is_tidied(void **state)
{
    struct bench *b = *state;
    struct keeper *other = new_keeper(b, "there");

    put_bytes(b, answer(1, 1), 400);
    b->limits.ttl_s = 1;
    configure(b);
    b->fake.is_full = true;
    assert_int_equal(tidy(b, NOW + 1000).removed, 1);
    b->fake.is_full = false;
    assert_true(tidy(b, NOW + 1000).held);
    b->fake.is_full = true;
    assert_false(tidy_by(other, NOW + 1000).held); /* whose it is can still be read */
    keeper_free(&other);
}

/* ---- failures, and the end ---- */

static void a_store_that_fails_in_the_middle_is_tidied_in_the_next_round(void **state)
{
    struct bench *b = *state;
    struct keeper_round round;
    struct err err;

    for (uint8_t n = 1; n <= 5; n++)
        put_bytes(b, answer(1, n), 400);
    put_mirror(b, 3, 10);
    put_bytes(b, file(3, 30, ""), 700);
    tidy(b, NOW);
    b->limits.ttl_s = 1;
    configure(b);
    b->fake.fails_in = 3;
    assert_int_equal(keeper_tidy(b->keeper, NOW + ORPHAN_S, NULL, &round, &err), -1);
    assert_int_equal(err.kind, ERR_UPSTREAM);
    assert_true(round.held);
    assert_int_equal(round.orphans, 1);
    assert_int_equal(round.removed, 1);
    assert_int_equal(round.objects, 7);
    assert_int_equal(keeper_tidy(b->keeper, NOW + ORPHAN_S, NULL, &round, &err), -1);
    assert_false(round.held); /* not even that can be told */
    b->fake.fails = false;
    round = tidy(b, NOW + ORPHAN_S);
    assert_int_equal(round.removed, 7);
    assert_int_equal(round.objects + round.bytes, 0);
    assert_int_equal(b->fake.count, 1);
}

static void stop_ends_a_round_early(void **state)
{
    struct bench *b = *state;
    atomic_bool stop = false;
    struct keeper_round round;
    struct keeper_demoted demoted;
    struct err err;

    for (uint8_t n = 1; n <= 5; n++)
        put_bytes(b, answer(1, n), 400);
    publish(b, ENTRY_ANSWER, 1, 1, LOCAL_LIMIT / 5, NOW);
    b->limits.ttl_s = 1;
    configure(b);
    b->fake.stop_at_remove = &stop;
    assert_int_equal(keeper_tidy(b->keeper, NOW + 1000, &stop, &round, &err), -1);
    assert_int_equal(err.kind, ERR_CANCELLED);
    assert_int_equal(round.removed, 1);
    assert_int_equal(round.objects, 4);
    assert_int_equal(keeper_tidy(b->keeper, NOW + 1000, &stop, &round, &err), -1);
    assert_int_equal(err.kind, ERR_CANCELLED);
    assert_false(round.held);
    assert_int_equal(keeper_demote(b->keeper, NOW + 1000, &stop, NULL, NULL, &demoted, &err), -1);
    assert_int_equal(err.kind, ERR_CANCELLED);
    assert_int_equal(b->removed_locally, 0);
}

/* ---- demotion ---- */

static void on_missing(void *ctx, enum entry_kind kind, const char *path)
{
    struct bench *b = ctx;

    assert_int_equal(kind, strncmp(path, "answers/", 8) == 0 ? ENTRY_ANSWER : ENTRY_MIRROR);
    b->missing++;
    snprintf(b->missing_path, sizeof(b->missing_path), "%s", path);
}

static struct keeper_demoted demote(struct bench *b, int64_t now_s)
{
    struct keeper_demoted out;
    struct err err;

    b->missing = 0;
    if (keeper_demote(b->keeper, now_s, NULL, on_missing, b, &out, &err) != 0)
        fail_msg("%s", err.text);
    return out;
}

static void large_entries_that_lie_there_go_here_when_they_are_cold(void **state)
{
    struct bench *b = *state;
    struct keeper_demoted out;
    struct local_usage usage;

    put_bytes(b, answer(1, 1), 400);
    put_bytes(b, answer(1, 2), 400);
    publish(b, ENTRY_ANSWER, 1, 1, LOCAL_LIMIT / 10, NOW);
    publish(b, ENTRY_ANSWER, 1, 2, LOCAL_LIMIT / 10 - 1, NOW); /* small */
    publish(b, ENTRY_MIRROR, 1, 0, LOCAL_LIMIT / 4, NOW + 50);
    b->has_mirror = true;
    assert_int_equal(demote(b, NOW + 99).entries, 0);
    out = demote(b, NOW + 100);
    assert_int_equal(out.entries, 1);
    assert_int_equal(out.bytes, LOCAL_LIMIT / 10);
    assert_int_equal(b->asked, 0);
    out = demote(b, NOW + 150);
    assert_int_equal(out.entries, 1);
    assert_int_equal(out.bytes, LOCAL_LIMIT / 4);
    assert_int_equal(b->asked, 1);
    assert_int_equal(b->missing, 0);
    local_usage(b->local, &usage);
    assert_int_equal(usage.entries[ENTRY_ANSWER], 1);
    assert_int_equal(usage.entries[ENTRY_MIRROR], 0);
    assert_int_equal(usage.evicted, 0);
}

static void what_the_store_lacks_stays_and_is_told(void **state)
{
    struct bench *b = *state;

    publish(b, ENTRY_ANSWER, 1, 1, LOCAL_LIMIT / 5, NOW);
    assert_int_equal(demote(b, NOW + 1000).entries, 0);
    assert_int_equal(b->missing, 1);
    put_bytes(b, answer(2, 1), 400); /* another repository's */
    put_bytes(b, answer(1, 1), 40);  /* nothing of that size is an answer */
    assert_int_equal(demote(b, NOW + 1000).entries, 0);
    assert_int_equal(b->missing, 1);
    assert_int_equal(b->removed_locally, 0);
    put_bytes(b, answer(1, 1), 400);
    assert_int_equal(demote(b, NOW + 1000).entries, 1);
    publish(b, ENTRY_MIRROR, 1, 0, LOCAL_LIMIT / 4, NOW);
    assert_int_equal(demote(b, NOW + 1000).entries, 0);
    assert_int_equal(b->missing, 1);
    assert_string_equal(b->missing_path, "mirrors/example.org/r.git");
}

static void what_somebody_reads_stays(void **state)
{
    struct bench *b = *state;

    put_bytes(b, answer(1, 1), 400);
    publish(b, ENTRY_ANSWER, 1, 1, LOCAL_LIMIT / 5, NOW);
    b->in_use = true;
    assert_int_equal(demote(b, NOW + 1000).entries, 0);
    assert_int_equal(b->missing, 0);
    b->in_use = false;
    assert_int_equal(demote(b, NOW + 1000).entries, 1);
}

static void a_mirror_that_another_version_put_keeps_nothing_else_here(void **state)
{
    struct bench *b = *state;

    publish(b, ENTRY_MIRROR, 1, 0, LOCAL_LIMIT / 4, NOW);
    put_bytes(b, answer(1, 1), 400);
    publish(b, ENTRY_ANSWER, 1, 1, LOCAL_LIMIT / 5, NOW + 1);
    b->is_newer = true;
    assert_int_equal(demote(b, NOW + 1000).entries, 1);
    assert_int_equal(b->asked, 1);
    assert_int_equal(b->missing, 0); /* it can't be put over */
}

static void a_store_that_fails_demotes_nothing(void **state)
{
    struct bench *b = *state;
    struct keeper_demoted out;
    struct err err;

    publish(b, ENTRY_ANSWER, 1, 1, LOCAL_LIMIT / 5, NOW);
    publish(b, ENTRY_MIRROR, 1, 0, LOCAL_LIMIT / 4, NOW + 1);
    b->fake.fails = b->has_mirror = true;
    assert_int_equal(keeper_demote(b->keeper, NOW + 1000, NULL, on_missing, b, &out, &err), -1);
    assert_int_equal(err.kind, ERR_UPSTREAM);
    assert_int_equal(b->missing + b->removed_locally + b->asked, 0);
}

/* ---- removing a repository ---- */

static void a_repository_is_removed_with_all_that_it_has(void **state)
{
    struct bench *b = *state;
    const struct key repo = key_number(3), none = key_number(7);
    struct shared_removed gone = {0};
    struct object_info info;
    struct err err;

    put_bytes(b, answer(3, 1), 400);
    put_bytes(b, answer(3, 2), 500);
    put_bytes(b, answer(4, 1), 600);
    put_mirror(b, 3, 10);
    put_mirror(b, 4, 10);
    put_bytes(b, file(3, 30, ""), 70); /* of no manifest */
    assert_int_equal(object_head(b->store, manifest(3), &info, &err), 0);
    assert_int_equal(shared_remove(b->store, &none, NULL, &gone, &err), 0);
    assert_int_equal(gone.objects + gone.bytes, 0);
    assert_int_equal(shared_remove(b->store, &repo, NULL, &gone, &err), 0);
    assert_int_equal(gone.objects, 6);
    assert_int_equal(gone.bytes, 900 + 800 + 70 + info.size);
    assert_false(there(b, answer(3, 1)) || there(b, answer(3, 2)) || there(b, manifest(3)));
    assert_false(there(b, file(3, 10, "")) || there(b, file(3, 30, "")));
    assert_true(there(b, answer(4, 1)) && there(b, manifest(4)) && there(b, file(4, 10, "")));
}

static void put_it_meanwhile(struct fake *f)
{
    f->interrupt = NULL;
    put_manifest(racing, 3, 10);
}

static void interrupt_the_second_removal(struct fake *f)
{
    f->interrupt = put_it_meanwhile;
}

static void a_manifest_that_comes_while_its_files_go_goes_too(void **state)
{
    struct bench *b = *state;
    const struct key repo = key_number(3);
    struct shared_removed gone = {0};
    struct err err;

    racing = b;
    put_mirror(b, 3, 10);
    b->fake.interrupt = interrupt_the_second_removal;
    assert_int_equal(shared_remove_mirror(b->store, &repo, NULL, &gone, &err), 0);
    assert_int_equal(gone.objects, 4);
    assert_int_equal(b->fake.count, 0);
}

static void what_was_removed_before_a_failure_or_a_stop_is_counted(void **state)
{
    struct bench *b = *state;
    const struct key repo = key_number(3);
    struct shared_removed gone = {0};
    atomic_bool stop = false;
    struct err err;

    for (uint8_t n = 1; n <= 5; n++)
        put_bytes(b, answer(3, n), 400);
    b->fake.fails_in = 3;
    assert_int_equal(shared_remove(b->store, &repo, &stop, &gone, &err), -1);
    assert_int_equal(err.kind, ERR_UPSTREAM);
    assert_int_equal(gone.objects, 2);
    assert_int_equal(gone.bytes, 800);
    b->fake.fails = false;
    b->fake.stop_at_remove = &stop;
    assert_int_equal(shared_remove(b->store, &repo, &stop, &gone, &err), -1);
    assert_int_equal(err.kind, ERR_CANCELLED);
    assert_int_equal(gone.objects, 3);
    assert_int_equal(b->fake.count, 2);
}

/* Notes come in from any thread while rounds go on. */
enum { USERS = 4, USES = 2000 };
struct user {
    struct bench *bench;
    pthread_barrier_t *barrier;
    uint8_t number;
};

static void *use_much(void *ctx)
{
    struct user *u = ctx;

    pthread_barrier_wait(u->barrier);
    for (unsigned i = 0; i < USES; i++) {
        char key[OBJECT_KEY_MAX + 1];

        snprintf(key, sizeof(key), "answers/%064x/%064x", u->number, i % 50);
        if (u->number > 0)
            keeper_used(u->bench->keeper, key, NOW + i);
        else if (i % 100 == 0)
            assert_true(tidy(u->bench, NOW + i).held);
    }
    return NULL;
}

static void uses_are_noted_while_a_round_goes_on(void **state)
{
    struct bench *b = *state;
    struct user users[USERS];
    pthread_barrier_t barrier;

    b->limits.ttl_s = USES;
    configure(b);
    for (unsigned n = 0; n < 50; n++) {
        char key[OBJECT_KEY_MAX + 1];

        snprintf(key, sizeof(key), "answers/%064x/%064x", 1u, n);
        put_bytes(b, key, 10);
    }
    pthread_barrier_init(&barrier, NULL, USERS);
    for (unsigned i = 0; i < USERS; i++)
        users[i] = (struct user){b, &barrier, (uint8_t)i};
    run_together(USERS, use_much, users, sizeof(users[0]));
    assert_int_equal(tidy(b, NOW + USES + 1900).objects, 50); /* all were used at 1950 or later */
    assert_int_equal(tidy(b, NOW + 2 * USES).objects, 0);
    pthread_barrier_destroy(&barrier);
}

#define TEST(name)       cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define FILES_TEST(name) cmocka_unit_test_setup_teardown(name, set_up_files, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_nobody_used_for_its_ttl_goes),
        TEST(what_is_used_here_stays_there),
        TEST(a_mirror_goes_with_all_its_files_and_its_manifest_first),
        TEST(a_mirror_of_which_one_file_was_used_stays_as_a_whole),
        FILES_TEST(with_files_for_objects_the_same_goes),
        TEST(room_is_made_by_last_use),
        TEST(room_is_made_by_size),
        TEST(room_is_made_by_what_was_asked_for_again),
        TEST(names_that_are_nothing_of_ours_stay),
        TEST(only_so_many_uses_are_remembered),
        TEST(a_file_without_a_name_goes_after_an_hour_and_not_before),
        TEST(a_file_that_was_put_within_the_hour_stays),
        /* Without a lease the keeper puts nothing, and the first removal is the interrupted one. */
        cmocka_unit_test_setup_teardown(a_file_that_is_put_anew_while_others_are_removed_stays,
                                        set_up_without_conditions, tear_down),
        TEST(a_file_that_a_manifest_names_again_stays),
        TEST(files_of_an_upload_that_never_ended_go),
        TEST(a_manifest_that_cannot_be_read_keeps_its_files),
        TEST(a_mirror_that_looks_as_before_is_not_read_again),
        TEST(one_node_tidies_and_another_takes_over_when_it_is_gone),
        FILES_TEST(one_node_tidies_and_another_takes_over_when_it_is_gone),
        TEST(who_does_not_hold_it_touches_nothing),
        TEST(who_loses_the_race_for_it_does_not_hold_it),
        TEST(a_lease_that_makes_no_sense_is_taken_over),
        cmocka_unit_test_setup_teardown(without_conditions_every_node_tidies,
                                        set_up_without_conditions, tear_down),
        TEST(a_store_that_is_full_is_tidied),
        TEST(a_store_that_fails_in_the_middle_is_tidied_in_the_next_round),
        TEST(stop_ends_a_round_early),
        TEST(large_entries_that_lie_there_go_here_when_they_are_cold),
        TEST(what_the_store_lacks_stays_and_is_told),
        TEST(what_somebody_reads_stays),
        TEST(a_mirror_that_another_version_put_keeps_nothing_else_here),
        TEST(a_store_that_fails_demotes_nothing),
        TEST(a_repository_is_removed_with_all_that_it_has),
        FILES_TEST(a_repository_is_removed_with_all_that_it_has),
        TEST(a_manifest_that_comes_while_its_files_go_goes_too),
        TEST(what_was_removed_before_a_failure_or_a_stop_is_counted),
        TEST(uses_are_noted_while_a_round_goes_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
