#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base64.h"
#include "proxy/clients.h"
#include "scratch.h"

#define HASH_OF_ONE   "sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
#define HASH_OF_TWO   "sha256:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"
#define HASH_OF_EMPTY "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static const char listed[] =
    "clients:\n"
    "  - {name: net, network: [10.0.0.0/8], repositories: ['h/net/*']}\n"
    "  - {name: narrow, network: [10.1.0.0/16], repositories: ['h/narrow']}\n"
    "  - {name: cert, tls_subject: 'CN=ci,O=x', repositories: ['h/**']}\n"
    "  - {name: one, token_hash: '" HASH_OF_ONE "', repositories: ['h/a', 'h/b/*']}\n"
    "  - {name: two, token_hash: '" HASH_OF_TWO "', network: [192.168.0.0/16, 10.0.0.0/8],\n"
    "     repositories: ['**'], push: true}\n";

static struct config *load(const char *yaml)
{
    char path[] = "/tmp/pannier-test-clients-XXXXXX";
    struct config *c = NULL;
    struct err err;
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, yaml, strlen(yaml)), strlen(yaml));
    close(fd);
    if (config_load(path, NULL, &c, &err) != 0)
        fail_msg("%s", err.text);
    unlink(path);
    return c;
}

static char *basic(const char *plain)
{
    char *coded = base64_encode(plain, strlen(plain)), *value = xasprintf("Basic %s", coded);

    free(coded);
    return value;
}

/* plain NULL: authorization is the header as it is. */
static void assert_known(const struct config *c, const char *plain, const char *authorization,
                         const char *subject, const char *address, const char *name)
{
    char *value = plain != NULL ? basic(plain) : NULL;
    const struct caller who = {value != NULL ? value : authorization, subject, address};
    const struct client_config *found = clients_find(c, &who);

    assert_string_equal(found != NULL ? found->name : "nobody", name);
    free(value);
}

static void a_token_is_the_password_or_the_bearers(void **state)
{
    struct config *c = load(listed);

    (void)state;
    assert_known(c, "any:one", NULL, NULL, "1.2.3.4", "one");
    assert_known(c, ":one", NULL, NULL, "1.2.3.4", "one");
    assert_known(c, NULL, "Bearer one", NULL, "1.2.3.4", "one");
    assert_known(c, NULL, "bEARER  one", NULL, "1.2.3.4", "one");
    assert_known(c, "one:", NULL, NULL, "1.2.3.4", "nobody");
    assert_known(c, "one", NULL, NULL, "1.2.3.4", "nobody");
    assert_known(c, "a:one:", NULL, NULL, "1.2.3.4", "nobody");
    assert_known(c, "a:One", NULL, NULL, "1.2.3.4", "nobody");
    assert_known(c, NULL, "Bearerone", NULL, "1.2.3.4", "nobody");
    assert_known(c, NULL, "Bearer", NULL, "1.2.3.4", "nobody");
    assert_known(c, NULL, "Digest one", NULL, "1.2.3.4", "nobody");
    assert_known(c, NULL, "", NULL, "1.2.3.4", "nobody");
    assert_known(c, NULL, NULL, NULL, "1.2.3.4", "nobody");
    config_unref(&c);
}

static void a_certificate_is_known_by_its_whole_subject(void **state)
{
    struct config *c = load(listed);

    (void)state;
    assert_known(c, NULL, NULL, "CN=ci,O=x", "1.2.3.4", "cert");
    assert_known(c, NULL, NULL, "CN=ci", "1.2.3.4", "nobody");
    assert_known(c, NULL, NULL, "CN=ci,O=xy", "1.2.3.4", "nobody");
    config_unref(&c);
}

static void all_that_an_entry_says_has_to_hold(void **state)
{
    struct config *c = load(listed);

    (void)state;
    assert_known(c, "a:two", NULL, NULL, "192.168.1.1", "two");
    assert_known(c, "a:two", NULL, NULL, "10.9.9.9", "two");
    assert_known(c, "a:two", NULL, NULL, "172.16.0.1", "nobody");
    assert_known(c, "a:two", NULL, NULL, "?", "nobody");
    assert_known(c, NULL, NULL, NULL, "192.168.1.1", "nobody");
    config_unref(&c);
}

static void a_token_wins_over_a_certificate_and_that_over_a_network(void **state)
{
    struct config *c = load(listed);

    (void)state;
    assert_known(c, NULL, NULL, NULL, "10.1.0.1", "net"); /* the first in the list */
    assert_known(c, NULL, NULL, "CN=ci,O=x", "10.1.0.1", "cert");
    assert_known(c, "a:one", NULL, "CN=ci,O=x", "10.1.0.1", "one");
    assert_known(c, "a:wrong", NULL, NULL, "10.1.0.1", "net");
    assert_known(c, NULL, NULL, NULL, "::ffff:10.1.0.1", "net");
    config_unref(&c);
}

/* A hash that was never set is all zeroes; an empty password has a hash as well. */
static void no_token_is_nobodys(void **state)
{
    struct config *c =
        load("clients: [{name: e, token_hash: '" HASH_OF_EMPTY "', repositories: ['**']}]\n");

    (void)state;
    assert_known(c, NULL, NULL, NULL, "1.2.3.4", "nobody");
    assert_known(c, NULL, "Digest x", NULL, "1.2.3.4", "nobody");
    config_unref(&c);
}

static void a_client_may_ask_for_what_its_patterns_say(void **state)
{
    static const struct {
        const char *name, *upstream, *repo;
        bool may;
    } cases[] = {
        {"one", "h", "a", true},     {"one", "h", "b/c", true},  {"one", "h", "b/c/d", false},
        {"one", "h", "aa", false},   {"one", "g", "a", false},   {"one", "h", "b", false},
        {"two", "h", "x/y", true},   {"net", "h", "net", false}, {"net", "h", "net/x", true},
        {"cert", "h:1", "x", false},
    };
    struct config *c = load(listed);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (size_t k = 0; k < c->client_count; k++)
            if (strcmp(c->clients[k].name, cases[i].name) == 0 &&
                client_may_ask_for(&c->clients[k], cases[i].upstream, cases[i].repo) !=
                    cases[i].may)
                fail_msg("%s for %s/%s", cases[i].name, cases[i].upstream, cases[i].repo);
    config_unref(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_is_the_password_or_the_bearers),
        cmocka_unit_test(a_certificate_is_known_by_its_whole_subject),
        cmocka_unit_test(all_that_an_entry_says_has_to_hold),
        cmocka_unit_test(a_token_wins_over_a_certificate_and_that_over_a_network),
        cmocka_unit_test(no_token_is_nobodys),
        cmocka_unit_test(a_client_may_ask_for_what_its_patterns_say),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
