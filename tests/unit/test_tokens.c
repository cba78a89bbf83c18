/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */

#include "cache/lock.h"
#include "protocol/digest.h"
#include "proxy/admin/tokens.h"
#include "scratch.h"

static void digest_of(const char *token, char out[KEY_HEX_SIZE])
{
    struct key key;

    key_of(token, strlen(token), &key);
    key_to_hex(&key, out);
}

/* "name scopes sha256:<of token>\n"; yours to free. */
static char *line_of(const char *name, const char *scopes, const char *token)
{
    char hex[KEY_HEX_SIZE];

    digest_of(token, hex);
    return xasprintf("%s %s sha256:%s\n", name, scopes, hex);
}

static unsigned look(const struct token_list *list, const char *authorization, char *name)
{
    return token_list_look(list, authorization, name);
}

static void a_token_has_its_scopes_and_its_name(void **state)
{
    char *reader = line_of("scraper", "read", "first"),
         *oncall = line_of("on.call-1", "operate", "second");
    char *text = xasprintf("# who\n\n  %s%s", reader, oncall), name[TOKEN_NAME_MAX];
    struct token_list *list;
    struct err err;

    (void)state;
    assert_int_equal(token_list_read(text, strlen(text), &list, &err), 0);
    assert_int_equal(look(list, "Bearer first", name), SCOPE_READ);
    assert_string_equal(name, "scraper");
    assert_int_equal(look(list, "bearer  second", name), SCOPE_READ | SCOPE_OPERATE);
    assert_string_equal(name, "on.call-1");
    token_list_free(&list);
    assert_null(list);
    free(text);
    free(oncall);
    free(reader);
}

static void what_is_no_known_token_has_no_scope(void **state)
{
    static const char *const rows[] = {NULL,
                                       "",
                                       "Bearer",
                                       "Bearer ",
                                       "Bearer x",
                                       "Basic one",
                                       "Bearerone",
                                       "one",
                                       "Bearer on",
                                       "Bearer one ",
                                       "Bearer one, Bearer two"};
    char *text = line_of("a", "read,operate", "one"), name[TOKEN_NAME_MAX];
    struct token_list *list;
    struct err err;

    (void)state;
    assert_int_equal(token_list_read(text, strlen(text), &list, &err), 0);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_int_equal(look(list, rows[i], name), SCOPE_NONE);
        assert_string_equal(name, "");
    }
    assert_int_equal(look(list, "Bearer one", name), SCOPE_READ | SCOPE_OPERATE);
    token_list_free(&list);
    free(text);
}

static void a_line_that_is_none_is_refused_by_its_number_and_not_repeated(void **state)
{
    static const char *const rows[] = {
        "",
        "# nobody\n",
        "hunter2\n",
        "a hunter2\n",
        "a read hunter2\n",
        "a read sha256:abc\n",
        "a write sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824\n",
        "a read, sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824\n",
        "a read sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824 hunter2\n",
        "a! read sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824\n",
        "a read sha1:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824\n",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct token_list *list;
        struct err err;

        assert_int_equal(token_list_read(rows[i], strlen(rows[i]), &list, &err), -1);
        assert_null(list);
        assert_int_equal(err.kind, ERR_INPUT);
        assert_int_equal(err.text[0], '1');
        assert_null(strstr(err.text, "hunter2"));
    }
}

static void a_name_stands_for_one_token(void **state)
{
    char *line = line_of("a", "read", "one"), *text = xasprintf("%s\n%s", line, line);
    struct token_list *list;
    struct err err;

    (void)state;
    assert_int_equal(token_list_read(text, strlen(text), &list, &err), -1);
    assert_string_equal(err.text, "3: the name stands here a second time");
    free(text);
    free(line);
}

/* ---- the file ---- */

static unsigned wrong_count, right_count;

static void on_wrong(const struct err *why)
{
    wrong_count += why != NULL;
    right_count += why == NULL;
}

static void put_text(const char *path, const char *text)
{
    char *fresh = xasprintf("%s.fresh", path);

    put_file(fresh, text, strlen(text));
    assert_int_equal(rename(fresh, path), 0);
    free(fresh);
}

static void a_file_that_changes_is_read_again(void **state)
{
    char *one = line_of("a", "read", "one"), *two = line_of("b", "operate", "two");
    char *path, name[TOKEN_NAME_MAX];
    struct scratch scratch;
    struct tokens *tokens;
    struct err err;

    (void)state;
    wrong_count = right_count = 0;
    scratch_init(&scratch);
    path = scratch_path(&scratch, "tokens");
    assert_int_equal(tokens_open(path, on_wrong, &tokens, &err), -1);
    assert_non_null(strstr(err.text, path));
    put_text(path, one);
    assert_int_equal(tokens_open(path, on_wrong, &tokens, &err), 0);
    assert_int_equal(tokens_look(tokens, "Bearer one", name), SCOPE_READ);
    put_text(path, two);
    assert_int_equal(tokens_look(tokens, "Bearer one", name), SCOPE_NONE);
    assert_int_equal(tokens_look(tokens, "Bearer two", name), SCOPE_READ | SCOPE_OPERATE);

    put_text(path, "nonsense\n");
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(tokens_look(tokens, "Bearer two", name), SCOPE_READ | SCOPE_OPERATE);
    assert_int_equal(wrong_count, 1);
    assert_int_equal(unlink(path), 0);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(tokens_look(tokens, "Bearer two", name), SCOPE_READ | SCOPE_OPERATE);
    put_text(path, one);
    assert_int_equal(tokens_look(tokens, "Bearer one", name), SCOPE_READ);
    assert_int_equal(right_count, 1);
    tokens_free(&tokens);
    assert_null(tokens);
    scratch_clear(&scratch);
    free(path);
    free(one);
    free(two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_has_its_scopes_and_its_name),
        cmocka_unit_test(what_is_no_known_token_has_no_scope),
        cmocka_unit_test(a_line_that_is_none_is_refused_by_its_number_and_not_repeated),
        cmocka_unit_test(a_name_stands_for_one_token),
        cmocka_unit_test(a_file_that_changes_is_read_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
