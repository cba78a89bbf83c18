#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "protocol/smart_http.h"

#define HEX38 "23456789abcdef0123456789abcdef01234567"
#define HEX40 "01" HEX38
#define HEX62 HEX38 "0123456789abcdef01234567"
#define HEX64 "01" HEX62

static void git_s_urls_are_taken_apart(void **state)
{
    static const struct {
        const char *target;
        enum service service;
        const char *upstream, *repo, *wire_repo, *wire_rest;
    } rows[] = {
        {"/github.com/o/r.git/info/refs?service=git-upload-pack", SERVICE_UPLOAD_PACK_REFS,
         "github.com", "o/r", "o/r.git", "info/refs?service=git-upload-pack"},
        {"/github.com/o/r/info/refs?service=git-receive-pack", SERVICE_RECEIVE_PACK_REFS,
         "github.com", "o/r", "o/r", "info/refs?service=git-receive-pack"},
        {"/github.com/o/r/git-upload-pack", SERVICE_UPLOAD_PACK, "github.com", "o/r", "o/r",
         "git-upload-pack"},
        {"/github.com/o/r/git-receive-pack", SERVICE_RECEIVE_PACK, "github.com", "o/r", "o/r",
         "git-receive-pack"},
        /* Nested groups are kept whole: g/a/r and g/b/r are two repositories. */
        {"/gl/g/a/r.git/git-upload-pack", SERVICE_UPLOAD_PACK, "gl", "g/a/r", "g/a/r.git",
         "git-upload-pack"},
        {"/gl/g/b/r.git/git-upload-pack", SERVICE_UPLOAD_PACK, "gl", "g/b/r", "g/b/r.git",
         "git-upload-pack"},
        {"/h:8443/r/git-upload-pack", SERVICE_UPLOAD_PACK, "h:8443", "r", "r", "git-upload-pack"},
        {"//h///o//r//git-upload-pack", SERVICE_UPLOAD_PACK, "h", "o/r", "o/r", "git-upload-pack"},
        {"/h/o/r.git/info/lfs/objects/batch", SERVICE_LFS, "h", "o/r", "o/r.git",
         "info/lfs/objects/batch"},
        {"/h/o/r/info/lfs/locks?path=a%2fb&limit=1", SERVICE_LFS, "h", "o/r", "o/r",
         "info/lfs/locks?path=a%2Fb&limit=1"},
        {"/h/o/r/info/lfs/x/git-upload-pack", SERVICE_LFS, "h", "o/r", "o/r",
         "info/lfs/x/git-upload-pack"},
        {"/h/o/r/HEAD", SERVICE_DUMB, "h", "o/r", "o/r", "HEAD"},
        {"/h/o/r/info/refs", SERVICE_DUMB, "h", "o/r", "o/r", "info/refs"},
        {"/h/o/r/info/refs?a=b", SERVICE_DUMB, "h", "o/r", "o/r", "info/refs"},
        {"/h/o/r/objects/info/packs", SERVICE_DUMB, "h", "o/r", "o/r", "objects/info/packs"},
        {"/h/o/r/objects/info/alternates", SERVICE_DUMB, "h", "o/r", "o/r",
         "objects/info/alternates"},
        {"/h/o/r/objects/info/http-alternates", SERVICE_DUMB, "h", "o/r", "o/r",
         "objects/info/http-alternates"},
        {"/h/o/r/objects/01/" HEX38, SERVICE_DUMB, "h", "o/r", "o/r", "objects/01/" HEX38},
        {"/h/o/r/objects/01/" HEX62, SERVICE_DUMB, "h", "o/r", "o/r", "objects/01/" HEX62},
        {"/h/o/r/objects/pack/pack-" HEX40 ".pack", SERVICE_DUMB, "h", "o/r", "o/r",
         "objects/pack/pack-" HEX40 ".pack"},
        {"/h/o/r/objects/pack/pack-" HEX64 ".idx", SERVICE_DUMB, "h", "o/r", "o/r",
         "objects/pack/pack-" HEX64 ".idx"},
        /* One spelling upstream, however it was typed. */
        {"/h/%6f/r%2egit/git-upload-pack", SERVICE_UPLOAD_PACK, "h", "o/r", "o/r.git",
         "git-upload-pack"},
        {"/h/~user/libstdc++/git-upload-pack", SERVICE_UPLOAD_PACK, "h", "~user/libstdc++",
         "~user/libstdc++", "git-upload-pack"},
        {"/h/a%20b;c%3b%c3%a4/git-upload-pack", SERVICE_UPLOAD_PACK, "h", "a b;c;\xc3\xa4",
         "a%20b%3Bc%3B%C3%A4", "git-upload-pack"},
        {"/h/a%3fb%23c/git-upload-pack", SERVICE_UPLOAD_PACK, "h", "a?b#c", "a%3Fb%23c",
         "git-upload-pack"},
        {"/h/a@b:c,d=e/git-upload-pack", SERVICE_UPLOAD_PACK, "h", "a@b:c,d=e", "a@b:c,d=e",
         "git-upload-pack"},
        {"/h/r.git.git/git-upload-pack", SERVICE_UPLOAD_PACK, "h", "r.git", "r.git.git",
         "git-upload-pack"},
        {"/h/tree/.git/git-upload-pack", SERVICE_UPLOAD_PACK, "h", "tree/.git", "tree/.git",
         "git-upload-pack"},
        /* What git does not send does not go upstream, where it might mean something. */
        {"/h/r/git-upload-pack?service=git-receive-pack", SERVICE_UPLOAD_PACK, "h", "r", "r",
         "git-upload-pack"},
        {"/h/r/info/refs?x=1&%73ervice=git%2dupload-pack&y", SERVICE_UPLOAD_PACK_REFS, "h", "r",
         "r", "info/refs?service=git-upload-pack"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct smart_path p;
        struct err err = {0};

        if (smart_path_parse(rows[i].target, &p, &err) != 0)
            fail_msg("%s: %s", rows[i].target, err.text);
        assert_int_equal(p.service, rows[i].service);
        assert_string_equal(p.upstream, rows[i].upstream);
        assert_string_equal(p.repo, rows[i].repo);
        assert_string_equal(p.wire_repo, rows[i].wire_repo);
        assert_string_equal(p.wire_rest, rows[i].wire_rest);
        smart_path_clear(&p);
    }
}

static void other_targets_are_told_apart_by_kind(void **state)
{
    static const struct {
        const char *target;
        enum err_kind kind;
    } rows[] = {
        {"/", ERR_NOT_FOUND},
        {"/metrics", ERR_NOT_FOUND},
        {"/h/o/r", ERR_NOT_FOUND},
        {"/h/o/r/tree/main", ERR_NOT_FOUND},
        {"/h/o/r/info/lfs", ERR_NOT_FOUND},
        {"/h/o/r/info/lfs/", ERR_NOT_FOUND},
        {"/h/o/r/info/refs/", ERR_NOT_FOUND},
        {"/h/o/r/objects/0g/" HEX38, ERR_NOT_FOUND},
        {"/h/o/r/objects/01/" HEX38 "0", ERR_NOT_FOUND},
        {"/h/o/r/objects/pack/pack-" HEX38 ".pack", ERR_NOT_FOUND},
        {"/h/o/rgit-upload-pack", ERR_NOT_FOUND},
        {"/info/refs", ERR_NOT_FOUND},
        {"", ERR_INPUT},
        {"http://h/o/r/HEAD", ERR_INPUT},
        {"*", ERR_INPUT},
        {"/h/info/refs?service=git-upload-pack", ERR_INPUT},
        {"/h/.git/git-upload-pack", ERR_INPUT},
        {"/h/info/lfs/objects/batch", ERR_INPUT},
        {"/h/../r/git-upload-pack", ERR_INPUT},
        {"/h/o/./r/git-upload-pack", ERR_INPUT},
        {"/h/o/%2e%2E/r/git-upload-pack", ERR_INPUT},
        {"/h/...git/git-upload-pack", ERR_INPUT}, /* ".." and ".git" */
        {"/h/o/..git/git-upload-pack", ERR_INPUT},
        {"/h/o%2fr/git-upload-pack", ERR_INPUT},
        {"/h/o%5cr/git-upload-pack", ERR_INPUT},
        {"/h/o\\r/git-upload-pack", ERR_INPUT},
        {"/h/o%00r/git-upload-pack", ERR_INPUT},
        {"/h/o%0ar/git-upload-pack", ERR_INPUT},
        {"/h/o\tr/git-upload-pack", ERR_INPUT},
        {"/h/o%7fr/git-upload-pack", ERR_INPUT},
        {"/h/o%2/git-upload-pack", ERR_INPUT},
        {"/h/o/git-upload-pack%", ERR_INPUT},
        {"/h/o%zz/git-upload-pack", ERR_INPUT},
        {"/h/o/r#x/git-upload-pack", ERR_INPUT},
        {"/u:secret@h/o/r/git-upload-pack", ERR_INPUT},
        {"/u%40h/o/r/git-upload-pack", ERR_INPUT},
        {"/h/r/info/refs?service=git-upload-pack&service=git-receive-pack", ERR_INPUT},
        {"/h/r/info/refs?service=%0a", ERR_INPUT},
        {"/h/r/info/lfs/locks?a=%0", ERR_INPUT},
        {"/h/r/info/lfs/locks?a=%0d%0ax", ERR_INPUT},
        {"/h/r/info/refs?service=git-upload-archive", ERR_REFUSED},
        {"/h/r/info/refs?service=", ERR_REFUSED},
        {"/h/r/info/refs?service", ERR_REFUSED},
        {"/h/r/info/refs?service=git+upload-pack", ERR_REFUSED},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct smart_path p;
        struct err err = {0};

        if (smart_path_parse(rows[i].target, &p, &err) == 0)
            fail_msg("%s was taken", rows[i].target);
        if (err.kind != rows[i].kind)
            fail_msg("%s: %s", rows[i].target, err_kind_name(err.kind));
        assert_null(strstr(err.text, "secret"));
    }
}

static void a_target_that_is_too_long_is_over_the_limit(void **state)
{
    char target[TARGET_MAX + 100];
    struct smart_path p;
    struct err err;

    (void)state;
    memset(target, 'a', sizeof(target));
    memcpy(target, "/h/", 3);
    strcpy(target + TARGET_MAX - strlen("/HEAD"), "/HEAD");
    assert_int_equal(smart_path_parse(target, &p, &err), 0);
    smart_path_clear(&p);
    strcpy(target + TARGET_MAX - strlen("/HEAD"), "a/HEAD");
    assert_int_equal(smart_path_parse(target, &p, &err), -1);
    assert_int_equal(err.kind, ERR_LIMIT);
    memset(target, 'a', sizeof(target));
    memcpy(target, "/h/r/HEAD?", 10);
    target[10 + QUERY_MAX + 1] = '\0';
    assert_int_equal(smart_path_parse(target, &p, &err), -1);
    assert_int_equal(err.kind, ERR_LIMIT);
}

static void a_path_of_escapes_only_fits(void **state)
{
    char target[TARGET_MAX + 1] = "/h/";
    struct smart_path p;
    struct err err;

    (void)state;
    for (size_t at = 3; at + 3 + 5 <= TARGET_MAX; at += 3)
        strcpy(target + at, "\xff\xfe;");
    strcat(target, "/HEAD");
    assert_int_equal(smart_path_parse(target, &p, &err), 0);
    smart_path_clear(&p);
}

static void repositories_of_different_upstreams_have_different_ids(void **state)
{
    struct key a, b, c;

    (void)state;
    repo_id_of("github.com", "o/r", &a);
    repo_id_of("github.com/o", "r", &b);
    repo_id_of("github.com", "o/r", &c);
    assert_false(key_equal(&a, &b));
    assert_true(key_equal(&a, &c));
}

static void the_protocol_version_may_stand_anywhere_in_the_header(void **state)
{
    static const struct {
        const char *header;
        int version;
    } rows[] = {
        {NULL, 0},
        {"", 0},
        {"version=2", 2},
        {"version=1", 1},
        {"version=0", 0},
        {"x:version=2", 2},
        {"version=2:key=v", 2},
        {"version=3", 2},
        {"version=17", 2},
        {"version=", 0},
        {"version=x", 0},
        {"version=-1", 0},
        {"version=2x", 0},
        {"VERSION=2", 0},
        {"version=1:version=2", 2},
        {"version=2:version=1", 2},
        {"xversion=2", 0},
        {":::", 0},
        {"version=02", 0},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_int_equal(git_protocol_version(rows[i].header), rows[i].version);
}

static void content_types_are_those_that_clients_check(void **state)
{
    (void)state;
    assert_string_equal(content_type_response(SERVICE_UPLOAD_PACK_REFS),
                        "application/x-git-upload-pack-advertisement");
    assert_string_equal(content_type_response(SERVICE_UPLOAD_PACK),
                        "application/x-git-upload-pack-result");
    assert_string_equal(content_type_response(SERVICE_RECEIVE_PACK_REFS),
                        "application/x-git-receive-pack-advertisement");
    assert_string_equal(content_type_response(SERVICE_RECEIVE_PACK),
                        "application/x-git-receive-pack-result");
    assert_string_equal(content_type_request(SERVICE_UPLOAD_PACK),
                        "application/x-git-upload-pack-request");
    assert_string_equal(content_type_request(SERVICE_RECEIVE_PACK),
                        "application/x-git-receive-pack-request");
    for (int s = SERVICE_UPLOAD_PACK_REFS; s <= SERVICE_DUMB; s++)
        assert_true(strlen(service_name((enum service)s)) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(git_s_urls_are_taken_apart),
        cmocka_unit_test(other_targets_are_told_apart_by_kind),
        cmocka_unit_test(a_target_that_is_too_long_is_over_the_limit),
        cmocka_unit_test(a_path_of_escapes_only_fits),
        cmocka_unit_test(repositories_of_different_upstreams_have_different_ids),
        cmocka_unit_test(the_protocol_version_may_stand_anywhere_in_the_header),
        cmocka_unit_test(content_types_are_those_that_clients_check),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
