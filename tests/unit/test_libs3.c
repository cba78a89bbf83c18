/* What the driver libs3 says without a server, or of a bad one; with a good one it is among
 * test_object_store.c's.  Skipped where the build has no libs3. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <netinet/in.h>
#include <sys/socket.h>

#include "cache/shared/object_store.h"
#include "odd_s3.h"
#include "scratch.h"

static const char SECRET[] = "hunter2hunter2";

static struct object_store_config config_of(const char *endpoint)
{
    return (struct object_store_config){
        .driver = "libs3",
        .endpoint = endpoint,
        .bucket = "bucket",
        .access_key = "access",
        .secret_key = SECRET,
        .stall_timeout_ms = 50,
        .deadline_ms = 1,
    };
}

/* Or the end of a test that can't run here. */
static struct object_store *open_store(const struct object_store_config *config)
{
    struct object_store *store = NULL;
    struct err err;

    if (object_store_open(config, &store, &err) == 0)
        return store;
    assert_int_equal(err.kind, ERR_REFUSED);
    assert_non_null(strstr(err.text, "without libs3"));
    skip();
    return NULL;
}

static void what_libs3_lacks_is_refused_by_name(void **state)
{
    static const struct {
        struct object_store_config with;
        const char *word;
    } rows[] = {
        {{.endpoint = "https://h"}, "certificates"},
        {{.session_token = "t"}, "session tokens"},
        {{.credentials_file = "/f"}, "file"},
        {{.server_side_encryption = "AES256"}, "encryption"},
        {{.kms_key = "k"}, "encryption"},
    };
    struct object_store_config config = config_of("http://127.0.0.1:1");
    struct object_store *store = open_store(&config);

    (void)state;
    object_store_free(&store);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct err err;

        config = config_of("http://127.0.0.1:1");
        if (rows[i].with.endpoint != NULL)
            config.endpoint = rows[i].with.endpoint;
        config.session_token = rows[i].with.session_token;
        config.credentials_file = rows[i].with.credentials_file;
        config.server_side_encryption = rows[i].with.server_side_encryption;
        config.kms_key = rows[i].with.kms_key;
        assert_int_equal(object_store_open(&config, &store, &err), -1);
        assert_int_equal(err.kind, ERR_REFUSED);
        assert_non_null(strstr(err.text, rows[i].word));
        assert_null(strstr(err.text, SECRET));
    }
}

static void keys_may_come_from_the_environment(void **state)
{
    struct object_store_config config = config_of("http://127.0.0.1:1");
    struct object_store *store;
    struct err err;

    (void)state;
    store = open_store(&config);
    object_store_free(&store);
    config.access_key = config.secret_key = NULL;
    unsetenv("AWS_ACCESS_KEY_ID");
    assert_int_equal(object_store_open(&config, &store, &err), -1);
    assert_int_equal(err.kind, ERR_INPUT);
    setenv("AWS_ACCESS_KEY_ID", "access", 1);
    setenv("AWS_SECRET_ACCESS_KEY", SECRET, 1);
    assert_int_equal(object_store_open(&config, &store, &err), 0);
    assert_null(strstr(object_store_name(store), SECRET));
    object_store_free(&store);
}

static void more_than_one_put_can_hold_is_refused(void **state)
{
    struct object_store_config config = config_of("http://127.0.0.1:1");
    struct object_store *store = open_store(&config);
    struct object_source source = {.fd = 0, .size = (UINT64_C(5) << 30) + 1};
    struct err err;

    (void)state;
    assert_int_equal(object_put(store, "key", &source, NULL, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_REFUSED);
    assert_non_null(strstr(err.text, "multipart"));
    object_store_free(&store);
}

/* A server that takes connections (the kernel does) and says nothing; *endpoint is yours. */
static int open_silent(char **endpoint)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);

    assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    *endpoint = xasprintf("http://127.0.0.1:%u", ntohs(at.sin_port));
    return fd;
}

static int take(void *ctx, const void *data, size_t len, struct err *err)
{
    (void)ctx;
    (void)data;
    (void)len;
    return err_set(err, ERR_CORRUPT, "nothing was to come");
}

static int list(void *ctx, const char *key, const struct object_info *info)
{
    (void)ctx;
    (void)key;
    (void)info;
    return 1;
}

/* Every operation on the store ends with this error. */
static void expect_all(struct object_store *s, enum err_kind kind)
{
    struct object_source source = {.fd = 0};
    struct object_info info;
    struct err err;

    assert_int_equal(object_head(s, "key", &info, &err), -1);
    assert_int_equal(err.kind, kind);
    assert_int_equal(object_get(s, "key", 0, UINT64_MAX, NULL, take, NULL, &err), -1);
    assert_int_equal(err.kind, kind);
    assert_int_equal(object_put(s, "key", &source, NULL, NULL, &err), -1);
    assert_int_equal(err.kind, kind);
    assert_int_equal(object_list(s, "", list, NULL, &err), -1);
    assert_int_equal(err.kind, kind);
    assert_int_equal(object_remove(s, "key", &err), -1);
    assert_int_equal(err.kind, kind);
    assert_null(strstr(err.text, SECRET));
}

static void a_silent_server_is_a_timeout(void **state)
{
    char *endpoint;
    int fd = open_silent(&endpoint);
    struct object_store_config config = config_of(endpoint);
    struct object_store *store = open_store(&config);

    (void)state;
    expect_all(store, ERR_TIMEOUT);
    object_store_free(&store);
    close(fd);
    free(endpoint);
}

static void a_server_that_is_not_there_is_told(void **state)
{
    char *endpoint;
    int fd = open_silent(&endpoint);
    struct object_store_config config = config_of(endpoint);
    struct object_store *store = open_store(&config);

    (void)state;
    close(fd);
    expect_all(store, ERR_UPSTREAM);
    object_store_free(&store);
    free(endpoint);
}

struct asking {
    struct object_store *store;
    struct err err;
};

static void *head_it(void *ctx)
{
    struct asking *a = ctx;
    struct object_info info;

    must(object_head(a->store, "key", &info, &a->err) == -1);
    return NULL;
}

static void what_hangs_ends_when_the_store_is_stopped(void **state)
{
    char *endpoint;
    int fd = open_silent(&endpoint), connection;
    struct object_store_config config = config_of(endpoint);
    struct asking a = {0};
    pthread_t thread;

    (void)state;
    config.stall_timeout_ms = config.deadline_ms = 60 * 1000;
    a.store = open_store(&config);
    assert_int_equal(pthread_create(&thread, NULL, head_it, &a), 0);
    connection = accept(fd, NULL, NULL); /* it asks */
    assert_true(connection >= 0);
    object_store_stop(a.store);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(a.err.kind, ERR_CANCELLED);
    object_store_free(&a.store);
    close(connection);
    close(fd);
    free(endpoint);
}

static int add_key(void *ctx, const char *key, const struct object_info *info)
{
    (void)info;
    return bytes_addf(ctx, "%s ", key);
}

/* Keys that are shorter than the prefix, others', and the same page for ever. */
static void a_list_of_lies_ends_and_holds_what_was_asked_for(void **state)
{
    static const char page[] =
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<?xml version=\"1.0\"?>"
        "<ListBucketResult><IsTruncated>true</IsTruncated>"
        "<Contents><Key>p</Key><Size>1</Size></Contents>"
        "<Contents><Key>prefix/a/1</Key><Size>1</Size></Contents>"
        "<Contents><Key>prefix/b/2</Key><Size>1</Size></Contents></ListBucketResult>";
    struct odd_s3 odd;
    struct object_store_config config;
    struct object_store *store;
    struct bytes got;
    struct err err;

    (void)state;
    config = config_of("http://127.0.0.1:1");
    store = open_store(&config); /* or this can't run */
    object_store_free(&store);
    odd_s3_start(&odd);
    odd_s3_on(&odd, "GET ", page, 4);
    config = config_of(odd.endpoint);
    config.prefix = "prefix/";
    config.stall_timeout_ms = config.deadline_ms = 5000;
    store = open_store(&config);
    bytes_init(&got, 1024);
    assert_int_equal(object_list(store, "a/", add_key, &got, &err), -1);
    assert_non_null(strstr(err.text, "nothing new"));
    assert_int_equal(err.kind, ERR_UPSTREAM);
    assert_string_equal(got.data, "a/1 a/1 ");
    bytes_clear(&got);
    object_store_free(&store);
    odd_s3_stop(&odd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_libs3_lacks_is_refused_by_name),
        cmocka_unit_test(keys_may_come_from_the_environment),
        cmocka_unit_test(more_than_one_put_can_hold_is_refused),
        cmocka_unit_test(a_silent_server_is_a_timeout),
        cmocka_unit_test(a_server_that_is_not_there_is_told),
        cmocka_unit_test(what_hangs_ends_when_the_store_is_stopped),
        cmocka_unit_test(a_list_of_lies_ends_and_holds_what_was_asked_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
