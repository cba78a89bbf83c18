#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "protocol/netrc.h"

static void assert_found(const char *text, const char *host, const char *login, const char *user,
                         const char *password)
{
    char *got_user, *got_password;
    struct err err;

    if (netrc_find(text, strlen(text), host, login, &got_user, &got_password, &err) != 0)
        fail_msg("%s, for: %s", err.text, text);
    assert_string_equal(got_user, user);
    assert_string_equal(got_password, password);
    free(got_user);
    free(got_password);
}

static void assert_none(const char *text, size_t len, const char *host, const char *login,
                        enum err_kind kind)
{
    char *user = NULL, *password = NULL;
    struct err err;

    if (netrc_find(text, len, host, login, &user, &password, &err) == 0)
        fail_msg("found %s in: %s", password, text);
    assert_int_equal(err.kind, kind);
    assert_null(user);
    assert_null(strstr(err.text, "s3cret"));
}

static const char usual[] = "# machine a login no password no\n"
                            "machine a.example login u password s3cret\n"
                            "machine B.example\n\tpassword p2\n\tlogin u2\n\taccount x\n"
                            "machine a.example login other password p3\n"
                            "macdef init\nmachine c.example login m password m\n\n"
                            "machine c.example login u4 password a#b\n"
                            "machine d.example password alone\n"
                            "machine e.example login \"u \\\"5\\\\\" password \"with blank\"\n"
                            "default login any password p6";

static void an_entry_is_found_by_its_host(void **state)
{
    (void)state;
    assert_found(usual, "a.example", NULL, "u", "s3cret");
    assert_found(usual, "b.EXAMPLE", NULL, "u2", "p2");
    assert_found(usual, "c.example", NULL, "u4", "a#b");
    assert_found(usual, "d.example", NULL, "", "alone");
    assert_found(usual, "e.example", NULL, "u \"5\\", "with blank");
    assert_found(usual, "a", NULL, "any", "p6");
}

static void a_login_chooses_among_a_hosts_entries(void **state)
{
    (void)state;
    assert_found(usual, "a.example", "other", "other", "p3");
    assert_found(usual, "a.example", "any", "any", "p6");
    assert_none(usual, strlen(usual), "a.example", "nobody", ERR_NOT_FOUND);
}

static void the_first_that_fits_wins(void **state)
{
    (void)state;
    assert_found("default login d password first\nmachine a login u password second", "a", NULL,
                 "d", "first");
    assert_found("machine a login no-password\nmachine a login u password p", "a", NULL, "u", "p");
}

static void without_an_entry_there_is_none(void **state)
{
    static const char one[] = "machine a login u password s3cret";

    (void)state;
    assert_none("", 0, "a", NULL, ERR_NOT_FOUND);
    assert_none(one, strlen(one), "b", NULL, ERR_NOT_FOUND);
    assert_none("machine a login u", 17, "a", NULL, ERR_NOT_FOUND);
    assert_none("# machine a password s3cret\n", 28, "a", NULL, ERR_NOT_FOUND);
    assert_none("macdef x\nmachine a password s3cret\n", 35, "a", NULL, ERR_NOT_FOUND);
}

static void what_is_no_netrc_is_refused_without_a_word_of_it(void **state)
{
    static const char *const bad[] = {"s3cret",
                                      "machine",
                                      "machine a login u password",
                                      "machine a login u pass s3cret",
                                      "machine a login \"s3cret\nx\" password y",
                                      "machine a password \"s3cret"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_none(bad[i], strlen(bad[i]), "b", NULL, ERR_INPUT);
}

static void a_word_that_is_too_long_is_refused(void **state)
{
    char *text = xasprintf("machine a login u password %0*d", NETRC_WORD_MAX + 1, 0);

    (void)state;
    assert_none(text, strlen(text), "a", NULL, ERR_INPUT);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_entry_is_found_by_its_host),
        cmocka_unit_test(a_login_chooses_among_a_hosts_entries),
        cmocka_unit_test(the_first_that_fits_wins),
        cmocka_unit_test(without_an_entry_there_is_none),
        cmocka_unit_test(what_is_no_netrc_is_refused_without_a_word_of_it),
        cmocka_unit_test(a_word_that_is_too_long_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
