#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cache/cluster/redis_url.h"
#include "protocol/base.h"

static struct redis_url read_url(const char *text)
{
    struct redis_url u;
    struct err err;

    if (redis_url_read(text, &u, &err) != 0)
        fail_msg("%s: %s", text, err.text);
    return u;
}

static void host_port_user_and_database_are_read(void **state)
{
    struct redis_url u = read_url("redis://worker@redis.example:7000/3");

    (void)state;
    assert_int_equal(u.scheme, REDIS_TCP);
    assert_string_equal(u.hosts[0].name, "redis.example");
    assert_int_equal(u.hosts[0].port, 7000);
    assert_string_equal(u.user, "worker");
    assert_int_equal(u.db, 3);
    redis_url_clear(&u);
    u = read_url("rediss://[::1]");
    assert_int_equal(u.scheme, REDIS_TCP);
    assert_true(u.tls);
    assert_string_equal(u.hosts[0].name, "::1");
    assert_int_equal(u.hosts[0].port, 6379);
    assert_null(u.user);
    redis_url_clear(&u);
    u = read_url("redis://[fe80::1]:7001/");
    assert_int_equal(u.hosts[0].port, 7001);
    redis_url_clear(&u);
}

static void a_unix_socket_is_a_path(void **state)
{
    struct redis_url u = read_url("unix:///run/redis/redis.sock");

    (void)state;
    assert_int_equal(u.scheme, REDIS_UNIX);
    assert_string_equal(u.path, "/run/redis/redis.sock");
    redis_url_clear(&u);
}

static void sentinels_come_with_the_masters_name(void **state)
{
    struct redis_url u = read_url("sentinel://a,b:5000,[::1]:5001/mymaster/2");

    (void)state;
    assert_int_equal(u.scheme, REDIS_SENTINEL);
    assert_int_equal(u.host_count, 3);
    assert_int_equal(u.hosts[0].port, 26379);
    assert_string_equal(u.hosts[1].name, "b");
    assert_int_equal(u.hosts[1].port, 5000);
    assert_string_equal(u.hosts[2].name, "::1");
    assert_string_equal(u.master, "mymaster");
    assert_int_equal(u.db, 2);
    assert_false(u.tls);
    redis_url_clear(&u);
    u = read_url("rediss+sentinel://a,b/mymaster");
    assert_int_equal(u.scheme, REDIS_SENTINEL);
    assert_true(u.tls);
    assert_int_equal(u.hosts[1].port, 26379);
    redis_url_clear(&u);
}

static void nonsense_is_refused(void **state)
{
    static const char *const urls[] = {
        "",
        "redis",
        "http://host",
        "redis://",
        "redis:///1",
        "redis://:6379",
        "redis://a b",
        "redis://host:",
        "redis://host:0",
        "redis://host:65536",
        "redis://host:99999999999",
        "redis://host/x",
        "redis://host/10000",
        "redis://host/1/2",
        "redis://a,b",
        "redis://@host",
        "redis://[::1",
        "redis://[]",
        "redis://[::1]x",
        "redis://[host]",
        "unix://relative/path",
        "unix:///",
        "unix://",
        "sentinel://host",
        "sentinel://host/",
        "rediss+sentinel://host",
        "sentinels://host/m",
        "sentinel://host,/m",
        "sentinel://user@host/m",
        "sentinel://a,b,c,d,e,f,g,h,i/m",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(urls); i++) {
        struct redis_url u;
        struct err err;

        if (redis_url_read(urls[i], &u, &err) == 0)
            fail_msg("taken: %s", urls[i]);
        assert_int_equal(err.kind, ERR_INPUT);
        assert_true(strlen(err.text) > 10);
    }
}

static void a_password_is_refused_and_not_repeated(void **state)
{
    struct redis_url u;
    struct err err;

    (void)state;
    assert_int_equal(redis_url_read("redis://user:hunter2@host/", &u, &err), -1);
    assert_non_null(strstr(err.text, "redis.password_file"));
    assert_null(strstr(err.text, "hunter2"));
    assert_int_equal(redis_url_read("redis://:hunter2@host", &u, &err), -1);
    assert_null(strstr(err.text, "hunter2"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(host_port_user_and_database_are_read),
        cmocka_unit_test(a_unix_socket_is_a_path),
        cmocka_unit_test(sentinels_come_with_the_masters_name),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(a_password_is_refused_and_not_repeated),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
