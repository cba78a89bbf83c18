#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base64.h"
#include "proxy/clients.h"
#include "proxy/exchange.h"
#include "scratch.h"

/* In the server's place: what was replied. */
static int replied;
static char challenge[64];

void reply_header(struct exchange *x, const char *name, const char *value)
{
    (void)x;
    assert_string_equal(name, "WWW-Authenticate");
    snprintf(challenge, sizeof(challenge), "%s", value);
}

void reply_text(struct exchange *x, int status, const char *result, const char *fmt, ...)
{
    (void)x;
    (void)fmt;
    assert_string_equal(result, "refused");
    replied = status;
}

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

struct asked {
    const char *upstream, *repo, *client, *plain;
    enum service service;
    int status;      /* 0: admitted */
    const char *who; /* then */
};

static void assert_admission(const struct config *c, const struct asked *a)
{
    struct exchange x = {.config = c};
    bool admitted;

    snprintf(x.client, sizeof(x.client), "%s", a->client);
    x.upstream = config_find_upstream(c, a->upstream, &x.base_url);
    assert_non_null(x.upstream);
    x.path = (struct smart_path){
        .service = a->service, .upstream = (char *)a->upstream, .repo = (char *)a->repo};
    x.authorization = a->plain != NULL ? basic(a->plain) : NULL;
    replied = 0;
    challenge[0] = '\0';
    admitted = clients_admit(&x);
    if (replied != a->status || admitted != (a->status == 0))
        fail_msg("%d for %s %s from %s", replied, a->upstream, a->repo, a->client);
    assert_string_equal(challenge, replied == 401 ? "Basic realm=\"pannier\"" : "");
    if (admitted)
        assert_string_equal(x.who != NULL ? x.who->name : "nobody", a->who);
    free(x.authorization);
    free(x.base_url);
}

#define UPSTREAMS                                                                                  \
    "upstreams: [{name: h, url: 'https://h', auth: token, token_file: /t},\n"                      \
    "            {name: o, url: 'https://o'}]\n"

static void who_asks_is_let_in_or_told_why_not(void **state)
{
    static const struct asked all[] = {
        {"h", "a", "1.1.1.1", "u:one", SERVICE_UPLOAD_PACK, 0, "one"},
        {"h", "a", "1.1.1.1", "u:one", SERVICE_UPLOAD_PACK_REFS, 0, "one"},
        {"h", "a", "1.1.1.1", "u:one", SERVICE_DUMB, 403, NULL},
        {"h", "c", "1.1.1.1", "u:one", SERVICE_UPLOAD_PACK_REFS, 403, NULL},
        {"h", "a", "1.1.1.1", "u:one", SERVICE_RECEIVE_PACK, 403, NULL},
        {"h", "a", "1.1.1.1", "u:one", SERVICE_RECEIVE_PACK_REFS, 403, NULL},
        {"h", "a", "1.1.1.1", "u:one", SERVICE_LFS, 403, NULL},
        {"h", "a", "10.0.0.1", "u:two", SERVICE_RECEIVE_PACK, 0, "two"},
        {"h", "a", "10.0.0.1", "u:two", SERVICE_LFS, 403, NULL},
        {"h", "a", "127.0.0.1", NULL, SERVICE_UPLOAD_PACK, 401, NULL},
        {"h", "a", "1.1.1.1", "u:wrong", SERVICE_RECEIVE_PACK_REFS, 401, NULL},
        {"h", "a", "1.1.1.1", "u:wrong", SERVICE_LFS, 401, NULL},
        /* This upstream is shown the client's own, whoever it is. */
        {"o", "a", "1.1.1.1", NULL, SERVICE_UPLOAD_PACK, 0, "nobody"},
        {"o", "a", "1.1.1.1", "u:one", SERVICE_RECEIVE_PACK, 0, "nobody"},
        {"o", "a", "1.1.1.1", "u:wrong", SERVICE_LFS, 0, "nobody"},
    };
    char *yaml = xasprintf("%s%s", UPSTREAMS, listed);
    struct config *c = load(yaml);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        assert_admission(c, &all[i]);
    config_unref(&c);
    free(yaml);
}

/* `listen` may say loopback since a reload, while the port is still open to all. */
static void without_a_list_only_this_machine_is_let_in(void **state)
{
    static const struct asked all[] = {
        {"h", "a", "127.0.0.1", NULL, SERVICE_UPLOAD_PACK, 0, "nobody"},
        {"h", "a", "::1", "u:p", SERVICE_RECEIVE_PACK, 0, "nobody"},
        {"h", "a", "::ffff:127.0.0.1", NULL, SERVICE_LFS, 0, "nobody"},
        {"h", "a", "192.168.1.1", NULL, SERVICE_UPLOAD_PACK, 403, NULL},
        {"h", "a", "192.168.1.1", "u:p", SERVICE_RECEIVE_PACK, 403, NULL},
        {"h", "a", "?", NULL, SERVICE_UPLOAD_PACK, 403, NULL},
        {"o", "a", "192.168.1.1", NULL, SERVICE_UPLOAD_PACK, 0, "nobody"},
    };
    struct config *c = load(UPSTREAMS);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        assert_admission(c, &all[i]);
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
        cmocka_unit_test(who_asks_is_let_in_or_told_why_not),
        cmocka_unit_test(without_a_list_only_this_machine_is_let_in),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
