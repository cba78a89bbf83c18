/* What the driver for a shared folder does besides what every object store does: nodes that meet in
 * one folder, and what is left in it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <sys/file.h>
#include <sys/wait.h>
#include <time.h>

#include "cache/shared/object_store.h"
#include "scratch.h"

enum { NODES = 6 };

struct bench {
    struct scratch scratch;
    struct object_store *store;
};

static struct object_store *open_folder(const char *path, uint64_t deadline_ms)
{
    struct object_store_config config = {
        .driver = "file", .endpoint = path, .deadline_ms = deadline_ms};
    struct object_store *store;
    struct err err;

    must(object_store_open(&config, &store, &err) == 0);
    return store;
}

static int set_up(void **state)
{
    struct bench *b = xcalloc(1, sizeof(*b));

    scratch_init(&b->scratch);
    b->store = open_folder(b->scratch.dir, 60000);
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

/* ---- small objects ---- */

struct text {
    const char *rest;
};

static ssize_t give_text(void *ctx, void *buf, size_t len, struct err *err)
{
    struct text *t = ctx;
    size_t left = strlen(t->rest);

    (void)err;
    if (len > left)
        len = left;
    memcpy(buf, t->rest, len);
    t->rest += len;
    return (ssize_t)len;
}

static int put_text(struct object_store *s, const char *key, const char *text,
                    const struct object_put_options *options, struct err *err)
{
    struct text t = {text};
    struct object_source source = {.fd = -1, .read = give_text, .ctx = &t};

    return object_put(s, key, &source, options, NULL, err);
}

static int take_text(void *ctx, const void *data, size_t len, struct err *err)
{
    (void)err;
    return bytes_add(ctx, data, len);
}

/* Yours to clear. */
static struct bytes get_text(struct object_store *s, const char *key)
{
    struct bytes b;
    struct err err;

    bytes_init(&b, 4096);
    must(object_get(s, key, 0, UINT64_MAX, NULL, take_text, &b, &err) == 0);
    return b;
}

/* ---- nodes ---- */

/* fn(store, number) in so many processes, all let go at once; how many returned true. */
static unsigned run_nodes(const char *folder, bool (*fn)(struct object_store *s, unsigned number))
{
    int gate[2];
    pid_t nodes[NODES];
    unsigned yes = 0;

    assert_int_equal(pipe2(gate, O_CLOEXEC), 0);
    for (unsigned i = 0; i < NODES; i++) {
        nodes[i] = fork();
        assert_true(nodes[i] >= 0);
        if (nodes[i] == 0) {
            struct object_store *s = open_folder(folder, 60000);
            char end;

            close(gate[1]);
            must(read(gate[0], &end, 1) == 0);
            _exit(fn(s, i) ? 1 : 0);
        }
    }
    close(gate[0]);
    close(gate[1]); /* go */
    for (unsigned i = 0; i < NODES; i++) {
        int status;

        assert_int_equal(waitpid(nodes[i], &status, 0), nodes[i]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) <= 1);
        yes += (unsigned)WEXITSTATUS(status);
    }
    return yes;
}

static bool put_new(struct object_store *s, unsigned number)
{
    struct object_put_options options = {.only_new = true};
    char text[16];
    struct err err;
    int rc;

    snprintf(text, sizeof(text), "node %u", number);
    rc = put_text(s, "prize", text, &options, &err);
    must(rc == 0 || err.kind == ERR_CONFLICT);
    return rc == 0;
}

static void one_node_of_many_makes_a_new_object(void **state)
{
    struct bench *b = *state;
    struct err err;

    for (int round = 0; round < 5; round++) {
        assert_int_equal(run_nodes(b->scratch.dir, put_new), 1);
        assert_int_equal(object_remove(b->store, "prize", &err), 0);
    }
}

static bool count_up(struct object_store *s, unsigned number)
{
    enum { TIMES = 20 };

    (void)number;
    for (int done = 0; done < TIMES;) {
        struct object_info now;
        struct object_put_options options = {.if_match = now.etag};
        struct bytes text;
        char next[16];
        struct err err;

        must(object_head(s, "prize", &now, &err) == 0);
        text = get_text(s, "prize"); /* of that version, or the put fails */
        snprintf(next, sizeof(next), "%d", atoi(text.data) + 1);
        bytes_clear(&text);
        if (put_text(s, "prize", next, &options, &err) == 0)
            done++;
        else
            must(err.kind == ERR_CONFLICT);
    }
    return true;
}

static void no_update_of_many_nodes_is_lost(void **state)
{
    struct bench *b = *state;
    struct bytes text;
    struct err err;

    assert_int_equal(put_text(b->store, "prize", "0", NULL, &err), 0);
    assert_int_equal(run_nodes(b->scratch.dir, count_up), NODES);
    text = get_text(b->store, "prize");
    assert_string_equal(text.data, "120");
    bytes_clear(&text);
}

/* All in one folder, which comes and goes. */
static bool put_and_remove(struct object_store *s, unsigned number)
{
    enum { TIMES = 100 };
    char key[32];
    struct err err;

    snprintf(key, sizeof(key), "deep/er/key-%u", number);
    for (int i = 0; i < TIMES; i++) {
        struct bytes text;

        must(put_text(s, key, key, NULL, &err) == 0);
        text = get_text(s, key);
        must(strcmp(text.data, key) == 0);
        bytes_clear(&text);
        must(object_remove(s, key, &err) == 0);
    }
    return true;
}

static void folders_that_come_and_go_take_no_object_along(void **state)
{
    struct bench *b = *state;
    char *objects = scratch_path(&b->scratch, "objects");
    char *incoming = scratch_path(&b->scratch, "incoming");

    assert_int_equal(run_nodes(b->scratch.dir, put_and_remove), NODES);
    assert_int_equal(count_entries(objects), 0);
    assert_int_equal(count_entries(incoming), 0);
    free(objects);
    free(incoming);
}

/* ---- what is left ---- */

static void what_killed_writers_left_is_swept(void **state)
{
    struct bench *b = *state;
    char *incoming = scratch_path(&b->scratch, "incoming");
    char *old = scratch_path(&b->scratch, "incoming/old");
    char *young = scratch_path(&b->scratch, "incoming/young");
    struct timespec long_ago[2] = {{.tv_sec = time(NULL) - 2 * 24 * 3600},
                                   {.tv_sec = time(NULL) - 2 * 24 * 3600}};
    struct err err;

    assert_int_equal(mkdir(incoming, 0700), 0);
    put_file(old, "x", 1);
    put_file(young, "x", 1);
    assert_int_equal(utimensat(AT_FDCWD, old, long_ago, 0), 0);
    assert_int_equal(put_text(b->store, "key", "x", NULL, &err), 0);
    assert_false(exists(old));
    assert_true(exists(young)); /* its writer may live */
    free(incoming);
    free(old);
    free(young);
}

static int count_damaged(void *ctx, const char *key, const struct object_info *info)
{
    assert_string_equal(key, "key");
    assert_string_equal(info->etag, "");
    ++*(int *)ctx;
    return 0;
}

static void an_object_that_was_cut_short_is_damaged_and_can_be_replaced(void **state)
{
    struct bench *b = *state;
    char *path = scratch_path(&b->scratch, "objects/key=");
    struct object_put_options only_new = {.only_new = true};
    struct object_info info;
    struct bytes text;
    int listed = 0;
    struct err err;

    assert_int_equal(put_text(b->store, "key", "some text", NULL, &err), 0);
    for (uint64_t size = size_of(path); size-- > 0;) {
        assert_int_equal(truncate(path, (off_t)size), 0);
        assert_int_equal(object_head(b->store, "key", &info, &err), -1);
        assert_int_equal(err.kind, ERR_CORRUPT);
        assert_int_equal(object_get(b->store, "key", 0, 1, NULL, take_text, NULL, &err), -1);
        assert_int_equal(err.kind, ERR_CORRUPT);
    }
    assert_int_equal(object_list(b->store, "", count_damaged, &listed, &err), 0);
    assert_int_equal(listed, 1);
    assert_int_equal(put_text(b->store, "key", "new", &only_new, &err), -1);
    assert_int_equal(err.kind, ERR_CONFLICT);
    assert_int_equal(put_text(b->store, "key", "new", NULL, &err), 0);
    text = get_text(b->store, "key");
    assert_string_equal(text.data, "new");
    bytes_clear(&text);
    free(path);
}

static void names_of_others_are_no_objects(void **state)
{
    struct bench *b = *state;
    char *path = scratch_path(&b->scratch, "objects/.nfs0001");
    int listed = 0;
    struct err err;

    assert_int_equal(put_text(b->store, "key", "x", NULL, &err), 0);
    assert_int_equal(object_remove(b->store, "key", &err), 0);
    put_file(path, "x", 1);
    assert_int_equal(object_list(b->store, "", count_damaged, &listed, &err), 0);
    assert_int_equal(listed, 0);
    free(path);
}

static void a_folder_that_is_not_mounted_is_refused_and_not_made(void **state)
{
    struct bench *b = *state;
    char *path = scratch_path(&b->scratch, "mount/point");
    struct object_store *s = open_folder(path, 1000);
    struct object_info info;
    int listed = 0;
    struct err err;

    assert_int_equal(put_text(s, "key", "x", NULL, &err), -1);
    assert_int_equal(err.kind, ERR_REFUSED);
    assert_int_equal(object_head(s, "key", &info, &err), -1);
    assert_int_equal(err.kind, ERR_REFUSED);
    assert_int_equal(object_list(s, "", count_damaged, &listed, &err), -1);
    assert_int_equal(err.kind, ERR_REFUSED);
    assert_int_equal(object_remove(s, "key", &err), -1);
    assert_int_equal(err.kind, ERR_REFUSED);
    assert_non_null(strstr(err.text, "mounted"));
    assert_false(exists(path));
    object_store_free(&s);
    free(path);
}

static void a_lock_that_nobody_gives_back_is_a_timeout(void **state)
{
    struct bench *b = *state;
    struct object_store *impatient = open_folder(b->scratch.dir, 1);
    char path[100];
    int locks[256];
    struct err err;

    assert_int_equal(put_text(b->store, "key", "old", NULL, &err), 0);
    for (int i = 0; i < 256; i++) {
        snprintf(path, sizeof(path), "%s/locks/%02x", b->scratch.dir, i);
        locks[i] = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        assert_true(locks[i] >= 0);
        assert_int_equal(flock(locks[i], LOCK_EX), 0);
    }
    assert_int_equal(put_text(impatient, "key", "new", NULL, &err), -1);
    assert_int_equal(err.kind, ERR_TIMEOUT);
    assert_int_equal(object_remove(impatient, "key", &err), -1);
    assert_int_equal(err.kind, ERR_TIMEOUT);
    /* New objects need no lock. */
    assert_int_equal(
        put_text(impatient, "new", "x", &(struct object_put_options){.only_new = true}, &err), 0);
    for (int i = 0; i < 256; i++)
        close(locks[i]);
    assert_int_equal(put_text(b->store, "key", "new", NULL, &err), 0);
    object_store_free(&impatient);
}

struct removing {
    struct object_store *store;
    int rc;
    struct err err;
};

static void *remove_key(void *ctx)
{
    struct removing *r = ctx;

    r->rc = object_remove(r->store, "key", &r->err);
    return NULL;
}

static void a_wait_for_a_lock_ends_when_the_store_is_stopped(void **state)
{
    struct bench *b = *state;
    struct removing r = {.store = b->store};
    char path[100];
    int locks[256];
    pthread_t thread;
    struct err err;

    assert_int_equal(put_text(b->store, "key", "old", NULL, &err), 0);
    for (int i = 0; i < 256; i++) {
        snprintf(path, sizeof(path), "%s/locks/%02x", b->scratch.dir, i);
        locks[i] = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(flock(locks[i], LOCK_EX), 0);
    }
    assert_int_equal(pthread_create(&thread, NULL, remove_key, &r), 0);
    object_store_stop(b->store); /* whether it waits already or not */
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(r.rc, -1);
    assert_int_equal(r.err.kind, ERR_CANCELLED);
    for (int i = 0; i < 256; i++)
        close(locks[i]);
}

#define WITH_BENCH(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_BENCH(one_node_of_many_makes_a_new_object),
        WITH_BENCH(no_update_of_many_nodes_is_lost),
        WITH_BENCH(folders_that_come_and_go_take_no_object_along),
        WITH_BENCH(what_killed_writers_left_is_swept),
        WITH_BENCH(an_object_that_was_cut_short_is_damaged_and_can_be_replaced),
        WITH_BENCH(names_of_others_are_no_objects),
        WITH_BENCH(a_folder_that_is_not_mounted_is_refused_and_not_made),
        WITH_BENCH(a_lock_that_nobody_gives_back_is_a_timeout),
        WITH_BENCH(a_wait_for_a_lock_ends_when_the_store_is_stopped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
