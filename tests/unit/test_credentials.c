#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base64.h"
#include "proxy/credentials/credentials.h"
#include "proxy/upstream.h"
#include "scratch.h"

enum { START = 1700000000 };

struct context {
    struct scratch scratch;
    struct processes *processes;
    struct origins *origins;
    struct credentials *all;
    struct upstream_config upstream;
    struct credential_use use;
    char *file, *program, *helper, *log;
};

static int set_up(void **state)
{
    struct context *c = xcalloc(1, sizeof(*c));
    struct err err;

    scratch_init(&c->scratch);
    assert_int_equal(processes_new(4, &c->processes, &err), 0);
    c->origins = origins_new();
    c->all = credentials_new(c->processes, c->origins);
    c->file = scratch_path(&c->scratch, "secret");
    c->program = scratch_path(&c->scratch, "helper");
    c->log = scratch_path(&c->scratch, "log");
    c->helper = xasprintf("%s word", c->program);
    c->upstream = (struct upstream_config){
        .name = (char *)"host", .url = (char *)"https://host", .api_url = (char *)"https://api"};
    c->use = (struct credential_use){
        .upstream = &c->upstream, .base_url = "https://host", .repo = "owner/repo"};
    *state = c;
    return 0;
}

static int tear_down(void **state)
{
    struct context *c = *state;

    credentials_free(&c->all);
    origins_free(&c->origins);
    processes_free(&c->processes);
    scratch_clear(&c->scratch);
    free(c->file);
    free(c->program);
    free(c->helper);
    free(c->log);
    free(c);
    return 0;
}

static struct context *with_token(void **state, const char *text)
{
    struct context *c = *state;

    put_file(c->file, text, strlen(text));
    c->upstream.auth = AUTH_TOKEN;
    c->upstream.token_file = c->file;
    return c;
}

/* The script finds the verb in $2 and what it is told on its input. */
static struct context *with_helper(void **state, const char *script)
{
    struct context *c = *state;
    char *text = xasprintf("#!/bin/sh\necho $2 >>%s\n%s\n", c->log, script);

    put_file(c->program, text, strlen(text));
    chmod(c->program, 0700);
    c->upstream.auth = AUTH_HELPER;
    c->upstream.credential_helper = c->helper;
    free(text);
    return c;
}

/* The user name and password in what is got. */
static void assert_got(struct context *c, int64_t now, const char *plain)
{
    char *authorization = NULL, *got;
    struct err err;
    size_t len;

    if (credentials_get(c->all, &c->use, now, &authorization, &err) != 0)
        fail_msg("%s", err.text);
    assert_memory_equal(authorization, "Basic ", 6);
    got = base64_decode(authorization + 6, &len);
    assert_string_equal(got, plain);
    free(got);
    credentials_wipe(&authorization);
}

static void assert_not_got(struct context *c, int64_t now, enum err_kind kind, const char *words)
{
    char *authorization = NULL;
    struct err err;

    assert_int_equal(credentials_get(c->all, &c->use, now, &authorization, &err), -1);
    assert_int_equal(err.kind, kind);
    if (strstr(err.text, words) == NULL || strstr(err.text, "s3cret") != NULL)
        fail_msg("%s", err.text);
    assert_null(authorization);
}

static void refuse(struct context *c, int64_t now, const char *plain)
{
    char *coded = base64_encode(plain, strlen(plain)), *value = xasprintf("Basic %s", coded);

    credentials_refused(c->all, &c->use, now, value);
    free(value);
    free(coded);
}

static void accept_it(struct context *c, const char *plain)
{
    char *coded = base64_encode(plain, strlen(plain)), *value = xasprintf("Basic %s", coded);

    credentials_accepted(c->all, &c->use, value);
    free(value);
    free(coded);
}

static void assert_calls(const struct context *c, const char *verbs)
{
    struct bytes log;

    bytes_init(&log, 4096);
    if (exists(c->log)) {
        char text[4096];
        FILE *f = fopen(c->log, "re");
        size_t len = fread(text, 1, sizeof(text), f);

        fclose(f);
        for (size_t i = 0; i < len; i++)
            text[i] = text[i] == '\n' ? ' ' : text[i];
        assert_int_equal(bytes_add(&log, text, len), 0);
    }
    assert_string_equal(log.len > 0 ? log.data : "", verbs);
    bytes_clear(&log);
}

/* ---- files ---- */

static void a_token_is_what_stands_in_the_file_without_blanks_around_it(void **state)
{
    struct context *c = with_token(state, "\n  t0ken \r\n");

    assert_got(c, START, "x-access-token:t0ken");
    c->upstream.username = (char *)"me";
    assert_got(c, START, "me:t0ken");
}

static void a_file_is_looked_at_once_a_second_and_read_when_it_has_changed(void **state)
{
    struct context *c = with_token(state, "one");

    assert_got(c, START, "x-access-token:one");
    put_file(c->file, "another", 7);
    assert_got(c, START, "x-access-token:one");
    assert_got(c, START + 1, "x-access-token:another");
    unlink(c->file);
    assert_not_got(c, START + 2, ERR_UPSTREAM, "token_file can't be read");
}

static void a_file_that_comes_back_ends_a_failure(void **state)
{
    struct context *c = with_token(state, "one");

    unlink(c->file);
    assert_not_got(c, START, ERR_UPSTREAM, "no credential for host: its token_file");
    put_file(c->file, "two", 3);
    assert_not_got(c, START, ERR_UPSTREAM, "token_file"); /* the same second */
    assert_got(c, START + 1, "x-access-token:two");
}

static void a_file_that_holds_no_token_is_refused_without_a_word_of_it(void **state)
{
    struct context *c = with_token(state, "");

    assert_not_got(c, START, ERR_UPSTREAM, "is empty");
    put_file(c->file, "s3cret\ns3cret", 13);
    assert_not_got(c, START + 1, ERR_UPSTREAM, "what no credential may");
}

static void what_upstream_refused_is_not_given_out_again_for_a_while(void **state)
{
    struct context *c = with_token(state, "one");

    assert_got(c, START, "x-access-token:one");
    refuse(c, START, "x-access-token:one");
    assert_not_got(c, START, ERR_UPSTREAM, "host refuses the credential");
    assert_not_got(c, START + 9, ERR_UPSTREAM, "host refuses the credential");
    assert_got(c, START + 10, "x-access-token:one");
}

static void a_newer_one_is_given_out_at_once_after_a_refusal(void **state)
{
    struct context *c = with_token(state, "one");

    assert_got(c, START, "x-access-token:one");
    put_file(c->file, "second", 6);
    refuse(c, START, "x-access-token:one");
    assert_got(c, START, "x-access-token:second");
    /* One that is late hits nobody. */
    refuse(c, START, "x-access-token:one");
    assert_got(c, START, "x-access-token:second");
}

static void a_netrc_file_is_asked_for_the_host_without_its_port(void **state)
{
    static const char text[] = "machine host login a password p\nmachine ::1 login v6 password q\n";
    struct context *c = *state;

    put_file(c->file, text, strlen(text));
    c->upstream.auth = AUTH_NETRC;
    c->upstream.netrc_file = c->file;
    c->use.base_url = "https://host:8443/below";
    assert_got(c, START, "a:p");
    c->use.base_url = "https://elsewhere";
    assert_not_got(c, START, ERR_UPSTREAM, "netrc_file: it has no password for this host");
    c->use.base_url = "https://host";
    c->upstream.username = (char *)"b";
    assert_not_got(c, START, ERR_UPSTREAM, "no password for this host");
}

/* ---- helpers ---- */

#define GIVES(more) "test $2 = get && printf 'username=u\\npassword=s3cret\\n" more "'; exit 0"

static void a_helper_is_asked_once_and_again_after_some_minutes(void **state)
{
    struct context *c = with_helper(state, GIVES(""));

    assert_got(c, START, "u:s3cret");
    assert_got(c, START + 299, "u:s3cret");
    assert_calls(c, "get ");
    assert_got(c, START + 300, "u:s3cret");
    assert_calls(c, "get get ");
}

static void what_ends_is_asked_for_again_shortly_before(void **state)
{
    struct context *c = with_helper(state, GIVES("password_expiry_utc=1700001000\\n"));

    assert_got(c, START, "u:s3cret");
    assert_got(c, START + 969, "u:s3cret");
    assert_calls(c, "get ");
    assert_got(c, START + 970, "u:s3cret");
    assert_calls(c, "get get ");
    assert_not_got(c, START + 1000, ERR_UPSTREAM, "it has expired already");
}

static void one_that_still_holds_is_used_while_its_helper_fails(void **state)
{
    struct context *c = with_helper(state, GIVES("password_expiry_utc=1700001000\\n"));

    assert_got(c, START, "u:s3cret");
    with_helper(state, "exit 1");
    assert_got(c, START + 980, "u:s3cret");
    assert_not_got(c, START + 1000, ERR_UPSTREAM, "failed; run it by hand");
}

static void a_helper_that_fails_is_left_alone_for_some_seconds(void **state)
{
    struct context *c = with_helper(state, "echo s3cret >&2; exit 1");

    assert_not_got(c, START, ERR_UPSTREAM, "failed; run it by hand");
    assert_not_got(c, START + 9, ERR_UPSTREAM, "failed; run it by hand");
    assert_calls(c, "get ");
    with_helper(state, GIVES(""));
    assert_got(c, START + 10, "u:s3cret");
}

static void a_helper_hears_once_what_upstream_thought(void **state)
{
    struct context *c = with_helper(state, GIVES(""));

    assert_got(c, START, "u:s3cret");
    accept_it(c, "u:s3cret");
    accept_it(c, "u:s3cret");
    accept_it(c, "u:other");
    assert_calls(c, "get store ");
    refuse(c, START, "u:other");
    refuse(c, START, "u:s3cret");
    refuse(c, START, "u:s3cret");
    assert_calls(c, "get store erase ");
}

static void a_helper_is_told_the_host_and_the_name_by_its_input(void **state)
{
    struct context *c = with_helper(
        state, "test \"$(cat)\" = \"$(printf 'protocol=https\\nhost=host:1\\nusername=me')\" &&"
               "test \"$1\" = word && test $# = 2 && echo password=p");

    c->use.base_url = "https://host:1/x";
    c->upstream.username = (char *)"me";
    assert_got(c, START, "me:p");
}

static void a_program_that_is_not_there_is_said(void **state)
{
    struct context *c = with_helper(state, "");

    c->upstream.credential_helper = (char *)"/nowhere/to/be/found";
    assert_not_got(c, START, ERR_UPSTREAM, "credential_helper failed");
    c->upstream.credential_helper = (char *)"!echo password=p";
    assert_not_got(c, START, ERR_UPSTREAM, "credential_helper failed");
    c->upstream.credential_helper =
        (char *)"a a a a a a a a a a a a a a a a a a a a a a a a a a a a";
    assert_not_got(c, START, ERR_UPSTREAM, "no name and a few arguments");
}

static void a_helper_that_talks_without_end_is_stopped(void **state)
{
    struct context *c =
        with_helper(state, "while echo x=yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; do :; done");

    assert_not_got(c, START, ERR_UPSTREAM, "says too much");
}

/* ---- together ---- */

struct asking {
    struct context *c;
    pthread_barrier_t *together;
};

static void *ask(void *ctx)
{
    const struct asking *a = ctx;
    char *authorization;
    struct err err;

    pthread_barrier_wait(a->together);
    assert_int_equal(credentials_get(a->c->all, &a->c->use, START, &authorization, &err), 0);
    pthread_barrier_wait(a->together);
    credentials_accepted(a->c->all, &a->c->use, authorization);
    pthread_barrier_wait(a->together);
    credentials_refused(a->c->all, &a->c->use, START, authorization);
    credentials_wipe(&authorization);
    return NULL;
}

static void many_at_once_make_one_call_of_each_kind(void **state)
{
    enum { THREADS = 8 };
    struct context *c = with_helper(state, GIVES(""));
    pthread_t threads[THREADS];
    pthread_barrier_t together;
    struct asking a = {c, &together};

    pthread_barrier_init(&together, NULL, THREADS);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask, &a), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&together);
    assert_calls(c, "get store erase ");
}

/* ---- GitHub Apps ---- */

static void an_owner_that_could_be_no_owner_is_not_asked_for(void **state)
{
    struct context *c = *state;

    c->upstream.auth = AUTH_GITHUB_APP;
    c->upstream.app_id = (char *)"1";
    c->upstream.private_key_file = c->file;
    c->use.repo = "a b/c";
    assert_not_got(c, START, ERR_NOT_FOUND, "no owners of this name");
    c->use.repo = "a?x=/c";
    assert_not_got(c, START, ERR_NOT_FOUND, "no owners of this name");
    c->use.repo = "owner/repo";
    assert_not_got(c, START, ERR_UPSTREAM, "private_key_file can't be read");
    put_file(c->file, "s3cret", 6);
    assert_not_got(c, START + 10, ERR_UPSTREAM, "private_key_file: it is no private key");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_token_is_what_stands_in_the_file_without_blanks_around_it),
        TEST(a_file_is_looked_at_once_a_second_and_read_when_it_has_changed),
        TEST(a_file_that_comes_back_ends_a_failure),
        TEST(a_file_that_holds_no_token_is_refused_without_a_word_of_it),
        TEST(what_upstream_refused_is_not_given_out_again_for_a_while),
        TEST(a_newer_one_is_given_out_at_once_after_a_refusal),
        TEST(a_netrc_file_is_asked_for_the_host_without_its_port),
        TEST(a_helper_is_asked_once_and_again_after_some_minutes),
        TEST(what_ends_is_asked_for_again_shortly_before),
        TEST(one_that_still_holds_is_used_while_its_helper_fails),
        TEST(a_helper_that_fails_is_left_alone_for_some_seconds),
        TEST(a_helper_hears_once_what_upstream_thought),
        TEST(a_helper_is_told_the_host_and_the_name_by_its_input),
        TEST(a_program_that_is_not_there_is_said),
        TEST(a_helper_that_talks_without_end_is_stopped),
        TEST(many_at_once_make_one_call_of_each_kind),
        TEST(an_owner_that_could_be_no_owner_is_not_asked_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
