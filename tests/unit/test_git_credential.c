#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "protocol/git_credential.h"

static void assert_answer(const char *text, const char *asked, const char *user,
                          const char *password, int64_t expires)
{
    struct git_credential c;
    struct err err;

    if (git_credential_parse(text, strlen(text), asked, &c, &err) != 0)
        fail_msg("%s, for: %s", err.text, text);
    assert_string_equal(c.username, user);
    assert_string_equal(c.password, password);
    assert_int_equal(c.expires, expires);
    git_credential_clear(&c);
    assert_null(c.password);
}

static void an_answer_of_a_helper_is_read_as_git_reads_it(void **state)
{
    (void)state;
    assert_answer("username=u\npassword=p=q\n", NULL, "u", "p=q", 0);
    assert_answer("protocol=https\nhost=h\nusername=u\npassword=p\n\nusername=x\n", NULL, "u", "p",
                  0);
    assert_answer("username=u\r\npassword=p\r\n\r\n", NULL, "u", "p", 0);
    assert_answer("password=p", "asked", "asked", "p", 0);
    assert_answer("username=other\npassword=p", "asked", "other", "p", 0);
    assert_answer("username=a\nusername=b\npassword=p\n", NULL, "b", "p", 0);
    assert_answer("capability[]=authtype\nwwwauth[]=x\nusername=u\npassword=p\n", NULL, "u", "p",
                  0);
    assert_answer("quit=0\nusername=\npassword=p\n", NULL, "", "p", 0);
}

static void an_end_is_a_number_of_seconds_or_nothing(void **state)
{
    (void)state;
    assert_answer("username=u\npassword=p\npassword_expiry_utc=1700000000\n", NULL, "u", "p",
                  1700000000);
    assert_answer("username=u\npassword=p\npassword_expiry_utc=soon\n", NULL, "u", "p", 0);
    assert_answer("username=u\npassword=p\npassword_expiry_utc=-1\n", NULL, "u", "p", 0);
    assert_answer("username=u\npassword=p\npassword_expiry_utc=99999999999999999999\n", NULL, "u",
                  "p", 0);
}

static void what_is_no_answer_is_refused_without_a_word_of_it(void **state)
{
    static const struct {
        const char *text;
        size_t len;
        enum err_kind kind;
    } bad[] = {
        {"", 0, ERR_NOT_FOUND},
        {"\nusername=u\npassword=p\n", 22, ERR_NOT_FOUND},
        {"username=u\n", 11, ERR_NOT_FOUND},
        {"password=s3cret\n", 16, ERR_NOT_FOUND},
        {"username=u\npassword=\n", 21, ERR_NOT_FOUND},
        {"quit=1\nusername=u\npassword=s3cret\n", 34, ERR_NOT_FOUND},
        {"quit=true\nusername=u\npassword=s3cret\n", 37, ERR_NOT_FOUND},
        {"s3cret\n", 7, ERR_INPUT},
        {"username=u\npassword=p\ns3cret", 28, ERR_INPUT},
        {"username=u\npassword=s3\0cret\n", 28, ERR_INPUT},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct git_credential c = {0};
        struct err err;

        assert_int_equal(git_credential_parse(bad[i].text, bad[i].len, NULL, &c, &err), -1);
        assert_int_equal(err.kind, bad[i].kind);
        assert_null(strstr(err.text, "s3cret"));
        assert_null(c.password);
    }
}

static void what_is_written_is_what_helpers_read(void **state)
{
    const struct git_credential c = {(char *)"https", (char *)"h:8443", (char *)"u", (char *)"p",
                                     1700000000};
    const struct git_credential question = {.protocol = (char *)"http", .host = (char *)"h"};
    struct bytes text;

    (void)state;
    bytes_init(&text, 1000);
    git_credential_write(&question, &text);
    assert_string_equal(text.data, "protocol=http\nhost=h\n\n");
    bytes_reset(&text);
    git_credential_write(&c, &text);
    assert_string_equal(text.data, "protocol=https\nhost=h:8443\nusername=u\npassword=p\n"
                                   "password_expiry_utc=1700000000\n\n");
    assert_answer(text.data, NULL, "u", "p", 1700000000);
    bytes_clear(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_of_a_helper_is_read_as_git_reads_it),
        cmocka_unit_test(an_end_is_a_number_of_seconds_or_nothing),
        cmocka_unit_test(what_is_no_answer_is_refused_without_a_word_of_it),
        cmocka_unit_test(what_is_written_is_what_helpers_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
