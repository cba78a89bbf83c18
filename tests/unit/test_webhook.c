/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"
#include "protocol/bytes.h"
#include "protocol/digest.h"
#include "protocol/webhook.h"

/* GitHub's documentation has this example of a secret, a body and what it is signed with. */
#define SECRET    "It's a Secret to Everybody"
#define BODY      "Hello, World!"
#define SIGNATURE "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
#define WRONG     "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e18"

/* And this one is Standard Webhooks'. */
#define STANDARD_SECRET    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#define STANDARD_ID        "msg_p5jXN8AQM9LWM0D4loKWxJek"
#define STANDARD_TIMESTAMP "1614265330"
#define STANDARD_BODY      "{\"test\": 2432232314}"
#define STANDARD_SIGNATURE "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

/* ---- signatures ---- */

struct shown {
    enum webhook_header header;
    const char *value;
};

static void headers_from(const struct shown *shown, size_t count, struct webhook_headers *out)
{
    *out = (struct webhook_headers){{NULL}};
    for (size_t i = 0; i < count; i++)
        if (shown[i].value != NULL)
            out->values[shown[i].header] = shown[i].value;
}

enum { SHOWN_MAX = 4 };

struct signing {
    enum webhook_forge forge;
    const char *secrets, *body;
    struct shown shown[SHOWN_MAX];
};

static int verify(const struct signing *s, struct err *err)
{
    struct webhook_headers headers;

    headers_from(s->shown, SHOWN_MAX, &headers);
    return webhook_verify(s->forge, &headers, s->body, strlen(s->body), s->secrets, err);
}

static void what_is_signed_with_the_secret_is_believed(void **state)
{
    static const struct signing cases[] = {
        {FORGE_GITHUB, SECRET, BODY, {{WEBHOOK_HUB_SIGNATURE_256, "sha256=" SIGNATURE}}},
        {FORGE_GITEA, SECRET, BODY, {{WEBHOOK_GITEA_SIGNATURE, SIGNATURE}}},
        {FORGE_GITEA, SECRET, BODY, {{WEBHOOK_FORGEJO_SIGNATURE, SIGNATURE}}},
        {FORGE_GITEA, SECRET, BODY, {{WEBHOOK_HUB_SIGNATURE_256, "sha256=" SIGNATURE}}},
        {FORGE_BITBUCKET, SECRET, BODY, {{WEBHOOK_HUB_SIGNATURE, "sha256=" SIGNATURE}}},
        {FORGE_GITLAB, SECRET, BODY, {{WEBHOOK_GITLAB_TOKEN, SECRET}}},
        {FORGE_GITLAB,
         STANDARD_SECRET,
         STANDARD_BODY,
         {{WEBHOOK_STANDARD_ID, STANDARD_ID},
          {WEBHOOK_STANDARD_TIMESTAMP, STANDARD_TIMESTAMP},
          {WEBHOOK_STANDARD_SIGNATURE, STANDARD_SIGNATURE}}},
        /* Two of them while a host changes its secret. */
        {FORGE_GITLAB,
         STANDARD_SECRET,
         STANDARD_BODY,
         {{WEBHOOK_STANDARD_ID, STANDARD_ID},
          {WEBHOOK_STANDARD_TIMESTAMP, STANDARD_TIMESTAMP},
          {WEBHOOK_STANDARD_SIGNATURE, "v1,aGVsbG8= " STANDARD_SIGNATURE}}},
        /* GitLab sends both where both are set; a file that has one of them does. */
        {FORGE_GITLAB,
         SECRET,
         STANDARD_BODY,
         {{WEBHOOK_STANDARD_ID, STANDARD_ID},
          {WEBHOOK_STANDARD_TIMESTAMP, STANDARD_TIMESTAMP},
          {WEBHOOK_STANDARD_SIGNATURE, STANDARD_SIGNATURE},
          {WEBHOOK_GITLAB_TOKEN, SECRET}}},
        /* Of several secrets any will do; blanks and empty lines are none. */
        {FORGE_GITHUB,
         "\n  \nolder\n \t" SECRET " \r\nnewer",
         BODY,
         {{WEBHOOK_HUB_SIGNATURE_256, "sha256=" SIGNATURE}}},
    };
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        if (verify(&cases[i], &err) != 0)
            fail_msg("case %zu: %s", i, err.text);
}

static void what_is_not_is_denied(void **state)
{
    static const struct signing cases[] = {
        /* Another secret, another body, another signature. */
        {FORGE_GITHUB, SECRET "x", BODY, {{WEBHOOK_HUB_SIGNATURE_256, "sha256=" SIGNATURE}}},
        {FORGE_GITHUB, SECRET, BODY "!", {{WEBHOOK_HUB_SIGNATURE_256, "sha256=" SIGNATURE}}},
        {FORGE_GITHUB, SECRET, BODY, {{WEBHOOK_HUB_SIGNATURE_256, "sha256=" WRONG}}},
        {FORGE_GITEA, SECRET, BODY, {{WEBHOOK_GITEA_SIGNATURE, WRONG}}},
        {FORGE_BITBUCKET, SECRET, BODY, {{WEBHOOK_HUB_SIGNATURE, "sha256=" WRONG}}},
        {FORGE_GITLAB, SECRET, BODY, {{WEBHOOK_GITLAB_TOKEN, "it's a secret to everybody"}}},
        /* Too short, too long, another form, nothing. */
        {FORGE_GITHUB, SECRET, BODY, {{WEBHOOK_HUB_SIGNATURE_256, SIGNATURE}}},
        {FORGE_GITHUB, SECRET, BODY, {{WEBHOOK_HUB_SIGNATURE_256, "sha256=" SIGNATURE "00"}}},
        {FORGE_GITHUB, SECRET, BODY, {{WEBHOOK_HUB_SIGNATURE_256, "sha256=7571"}}},
        {FORGE_GITHUB, SECRET, BODY, {{WEBHOOK_HUB_SIGNATURE_256, "sha1=" SIGNATURE}}},
        {FORGE_GITHUB, SECRET, BODY, {{WEBHOOK_HUB_SIGNATURE_256, ""}}},
        {FORGE_GITEA, SECRET, BODY, {{WEBHOOK_GITEA_SIGNATURE, "sha256=" SIGNATURE}}},
        {FORGE_GITLAB, SECRET, BODY, {{WEBHOOK_GITLAB_TOKEN, ""}}},
        /* Not signed, or as another host does it. */
        {FORGE_GITHUB, SECRET, BODY, {{WEBHOOK_HUB_SIGNATURE_256, NULL}}},
        {FORGE_GITEA, SECRET, BODY, {{WEBHOOK_GITEA_EVENT, "push"}}},
        {FORGE_GITLAB, SECRET, BODY, {{WEBHOOK_GITLAB_EVENT, "Push Hook"}}},
        {FORGE_BITBUCKET, SECRET, BODY, {{WEBHOOK_EVENT_KEY, "repo:push"}}},
        {FORGE_GITHUB, SECRET, BODY, {{WEBHOOK_GITLAB_TOKEN, SECRET}}},
        {FORGE_GITHUB, SECRET, BODY, {{WEBHOOK_HUB_SIGNATURE, "sha256=" SIGNATURE}}},
        {FORGE_BITBUCKET, SECRET, BODY, {{WEBHOOK_HUB_SIGNATURE_256, "sha256=" SIGNATURE}}},
        {FORGE_AUTO, SECRET, BODY, {{WEBHOOK_HUB_SIGNATURE_256, "sha256=" SIGNATURE}}},
        /* The parts of a standard one. */
        {FORGE_GITLAB,
         STANDARD_SECRET,
         STANDARD_BODY,
         {{WEBHOOK_STANDARD_ID, STANDARD_ID},
          {WEBHOOK_STANDARD_TIMESTAMP, "1614265331"},
          {WEBHOOK_STANDARD_SIGNATURE, STANDARD_SIGNATURE}}},
        {FORGE_GITLAB,
         STANDARD_SECRET,
         STANDARD_BODY,
         {{WEBHOOK_STANDARD_TIMESTAMP, STANDARD_TIMESTAMP},
          {WEBHOOK_STANDARD_SIGNATURE, STANDARD_SIGNATURE}}},
        {FORGE_GITLAB,
         STANDARD_SECRET,
         STANDARD_BODY,
         {{WEBHOOK_STANDARD_ID, STANDARD_ID}, {WEBHOOK_STANDARD_SIGNATURE, STANDARD_SIGNATURE}}},
        {FORGE_GITLAB,
         STANDARD_SECRET,
         STANDARD_BODY,
         {{WEBHOOK_STANDARD_ID, STANDARD_ID},
          {WEBHOOK_STANDARD_TIMESTAMP, STANDARD_TIMESTAMP},
          {WEBHOOK_STANDARD_SIGNATURE, "v1,aGVsbG8= v1, v1 ,"}}},
        /* The key is what the secret decodes to, and not the empty one that anybody has. */
        {FORGE_GITLAB,
         "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
         STANDARD_BODY,
         {{WEBHOOK_STANDARD_ID, STANDARD_ID},
          {WEBHOOK_STANDARD_TIMESTAMP, STANDARD_TIMESTAMP},
          {WEBHOOK_STANDARD_SIGNATURE, STANDARD_SIGNATURE}}},
        {FORGE_GITLAB,
         "whsec_",
         STANDARD_BODY,
         {{WEBHOOK_STANDARD_ID, STANDARD_ID},
          {WEBHOOK_STANDARD_TIMESTAMP, STANDARD_TIMESTAMP},
          {WEBHOOK_STANDARD_SIGNATURE, STANDARD_SIGNATURE}}},
    };
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        if (verify(&cases[i], &err) == 0)
            fail_msg("case %zu was believed", i);
        assert_int_equal(err.kind, ERR_DENIED);
        assert_null(strstr(err.text, SECRET));
    }
}

static void without_a_secret_nothing_is_believed(void **state)
{
    static const char *const files[] = {"", "\n", " \t \r\n\n"};
    struct signing s = {FORGE_GITLAB, NULL, BODY, {{WEBHOOK_GITLAB_TOKEN, ""}}};
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        s.secrets = files[i];
        assert_int_equal(verify(&s, &err), -1);
        assert_int_equal(err.kind, ERR_INPUT);
    }
}

static void the_headers_say_whose_it_is(void **state)
{
    static const struct {
        struct shown shown[2];
        enum webhook_forge forge;
    } cases[] = {
        {{{WEBHOOK_GITHUB_EVENT, "push"}}, FORGE_GITHUB},
        {{{WEBHOOK_GITHUB_EVENT, "push"}, {WEBHOOK_GITEA_EVENT, "push"}}, FORGE_GITEA},
        {{{WEBHOOK_GITHUB_EVENT, "push"}, {WEBHOOK_FORGEJO_EVENT, "push"}}, FORGE_GITEA},
        {{{WEBHOOK_GITLAB_EVENT, "Push Hook"}}, FORGE_GITLAB},
        {{{WEBHOOK_EVENT_KEY, "repo:push"}}, FORGE_BITBUCKET},
        {{{WEBHOOK_HUB_SIGNATURE, "sha256=" SIGNATURE}}, FORGE_AUTO},
    };
    struct webhook_headers headers;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        headers_from(cases[i].shown, 2, &headers);
        assert_int_equal(webhook_forge_of(&headers), cases[i].forge);
    }
}

static void only_a_ping_of_bitbuckets_may_be_unsigned(void **state)
{
    const struct shown ping = {WEBHOOK_EVENT_KEY, "diagnostics:ping"};
    const struct shown push = {WEBHOOK_EVENT_KEY, "repo:refs_changed"};
    const struct shown forged[] = {ping, {WEBHOOK_HUB_SIGNATURE, "sha256=" WRONG}};
    struct webhook_headers headers;

    (void)state;
    headers_from(&ping, 1, &headers);
    assert_true(webhook_is_unsigned_ping(FORGE_BITBUCKET, &headers));
    assert_false(webhook_is_unsigned_ping(FORGE_GITHUB, &headers));
    headers_from(&push, 1, &headers);
    assert_false(webhook_is_unsigned_ping(FORGE_BITBUCKET, &headers));
    headers_from(forged, 2, &headers);
    assert_false(webhook_is_unsigned_ping(FORGE_BITBUCKET, &headers));
}

/* ---- what they say ---- */

/* A body in the shape that a host gives it, yours to free. */
static char *body_of(const char *file)
{
    char *path = xasprintf(SOURCE_DIR "/tests/unit/webhooks/%s", file), block[4096];
    FILE *f = fopen(path, "r");
    struct bytes all;
    size_t n, len;

    if (f == NULL)
        fail_msg("%s isn't there", path);
    bytes_init(&all, 1 << 20);
    while ((n = fread(block, 1, sizeof(block), f)) > 0)
        bytes_add(&all, block, n);
    fclose(f);
    free(path);
    return bytes_take(&all, &len);
}

struct saying {
    enum webhook_forge forge;
    enum webhook_header header;
    const char *event, *base_url;
};

static int parse(const struct saying *s, const char *body, struct webhook *out, struct err *err)
{
    const struct shown shown = {s->header, s->event};
    struct webhook_headers headers;

    headers_from(&shown, 1, &headers);
    return webhook_parse(s->forge, &headers, body, strlen(body), s->base_url, out, err);
}

static const struct saying github = {FORGE_GITHUB, WEBHOOK_GITHUB_EVENT, "push",
                                     "https://github.com"};
static const struct saying gitlab = {FORGE_GITLAB, WEBHOOK_GITLAB_EVENT, "Push Hook",
                                     "https://git.example.com"};
static const struct saying gitea = {FORGE_GITEA, WEBHOOK_GITEA_EVENT, "push",
                                    "http://forge.example.com:3000"};
static const struct saying bitbucket = {FORGE_BITBUCKET, WEBHOOK_EVENT_KEY, "repo:push",
                                        "https://bitbucket.org"};
static const struct saying server = {FORGE_BITBUCKET, WEBHOOK_EVENT_KEY, "repo:refs_changed",
                                     "https://bitbucket.example.com"};

/* Each ref as "name before after", a digit or '-' for an id; what is said, with "; " between. */
static char *refs_in_words(const struct webhook *w)
{
    struct bytes out;
    size_t len;

    bytes_init(&out, 1 << 20);
    bytes_add_str(&out, "");
    for (size_t i = 0; i < w->ref_count; i++)
        bytes_addf(&out, "%s%s %.7s %.7s", i > 0 ? "; " : "", w->refs[i].name,
                   w->refs[i].before[0] != '\0' ? w->refs[i].before : "-",
                   w->refs[i].after[0] != '\0' ? w->refs[i].after : "-");
    return bytes_take(&out, &len);
}

static void each_hosts_pushes_are_understood(void **state)
{
    static const struct {
        const struct saying *host;
        const char *event, *file, *repo, *refs;
    } cases[] = {
        {&github, "push", "github-push.json", "Donkeys/Basket", "refs/heads/main 6113728 59b20b8"},
        {&github, "push", "github-push-deleted.json", "Donkeys/Basket",
         "refs/tags/simple-tag 6113728 -"},
        {&github, "create", "github-create.json", "Donkeys/Basket", "refs/tags/v1.0 - -"},
        {&gitlab, "Push Hook", "gitlab-push.json", "transport/animals/basket",
         "refs/heads/main 95790bf da15608"},
        {&gitlab, "Tag Push Hook", "gitlab-tag-push.json", "transport/animals/basket",
         "refs/tags/v1.0.0 - 82b3d5a"},
        {&gitlab, "System Hook", "gitlab-push.json", "transport/animals/basket",
         "refs/heads/main 95790bf da15608"},
        {&gitlab, "System Hook", "gitlab-repository-update.json", "transport/animals/basket",
         "refs/heads/main 8205ea8 4045ea7; refs/tags/v1 - 4045ea7; refs/tags/v2 - 4045ea7; "
         "refs/heads/old 8205ea8 -"},
        {&gitea, "push", "gitea-push.json", "stable/basket", "refs/heads/develop 28e1879 bffeb74"},
        {&gitea, "delete", "gitea-delete.json", "stable/basket", "refs/heads/old - -"},
        {&bitbucket, "repo:push", "bitbucket-cloud-push.json", "donkeys/basket",
         "refs/heads/main 1e65c05 709d658; refs/tags/v2 - 709d658; "
         "refs/heads/feature/strap 1e65c05 -"},
        {&server, "repo:refs_changed", "bitbucket-server-refs-changed.json", "scm/pack/basket",
         "refs/heads/master ecddabb 178864a; refs/tags/v3 - 178864a"},
        {&server, "repo:refs_changed", "bitbucket-server-old.json", "scm/~carrier/basket",
         "refs/heads/gone ecddabb -"},
        {&server, "mirror:repo_synchronized", "bitbucket-server-refs-changed.json",
         "scm/pack/basket", "refs/heads/master ecddabb 178864a; refs/tags/v3 - 178864a"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct saying s = *cases[i].host;
        char *body = body_of(cases[i].file), *refs;
        struct webhook hook;
        struct err err;

        s.event = cases[i].event;
        if (parse(&s, body, &hook, &err) != 0)
            fail_msg("%s: %s", cases[i].file, err.text);
        assert_int_equal(hook.kind, WEBHOOK_PUSH);
        assert_string_equal(hook.repo, cases[i].repo);
        refs = refs_in_words(&hook);
        assert_string_equal(refs, cases[i].refs);
        webhook_clear(&hook);
        free(refs);
        free(body);
    }
}

static void what_changes_no_refs_is_told_from_pushes(void **state)
{
    static const struct {
        const struct saying *host;
        const char *event, *file;
        enum webhook_kind kind;
    } cases[] = {
        {&github, "ping", "github-ping.json", WEBHOOK_PING},
        {&github, "issues", "github-issues.json", WEBHOOK_OTHER},
        {&gitlab, "Note Hook", "gitlab-note.json", WEBHOOK_OTHER},
        {&gitlab, "System Hook", "gitlab-note.json", WEBHOOK_OTHER},
        {&gitea, "issues", "github-issues.json", WEBHOOK_OTHER},
        {&bitbucket, "repo:fork", "bitbucket-cloud-push.json", WEBHOOK_OTHER},
        {&server, "diagnostics:ping", "bitbucket-server-ping.json", WEBHOOK_PING},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct saying s = *cases[i].host;
        char *body = body_of(cases[i].file);
        struct webhook hook;
        struct err err;

        s.event = cases[i].event;
        assert_int_equal(parse(&s, body, &hook, &err), 0);
        assert_int_equal(hook.kind, cases[i].kind);
        assert_null(hook.repo);
        assert_int_equal(hook.ref_count, 0);
        webhook_clear(&hook);
        free(body);
    }
}

/* GitHub's body with this URL and name of the repository. */
static char *push_to(const char *url, const char *full_name)
{
    return xasprintf("{\"ref\": \"refs/heads/x\", \"repository\": {\"clone_url\": \"%s\", "
                     "\"full_name\": \"%s\"}}",
                     url, full_name);
}

static void the_repository_is_found_below_the_upstreams_url(void **state)
{
    static const struct {
        const char *base_url, *url, *full_name, *repo; /* NULL: it is none of this upstream's */
    } cases[] = {
        {"https://h", "https://h/a/b.git", "a/b", "a/b"},
        {"https://h", "https://h/a/b", "a/b", "a/b"},
        {"https://h", "https://h/a/b/", "a/b", "a/b"},
        {"https://h", "https://u@H/a/b.git", "a/b", "a/b"},
        {"https://h", "https://h/a/b.git?x#y", "a/b", "a/b"},
        /* The host's own folder, and one of an owner. */
        {"https://h/forge", "https://h/forge/a/b.git", "a/b", "a/b"},
        {"https://h/a", "https://h/a/b.git", "a/b", "b"},
        {"https://h/a", "https://h/other/b.git", "other/b", NULL},
        {"https://h/a", "https://h/ab.git", "ab", NULL},
        {"https://h/a", "https://h/a", "a", NULL},
        /* From inside it is called otherwise. */
        {"http://inside:3000", "https://h/forge/a/b.git", "a/b", "a/b"},
        {"https://h:8443", "https://h/forge/a/b.git", "a/b", "a/b"},
        {"https://h", "", "a/b/c", "a/b/c"},
        {"https://h", "no URL", "a/b", "a/b"},
        /* As clients' requests have it. */
        {"https://h", "https://h/a/b%20c.git", "", "a/b c"},
        {"https://h", "https://h//a//b.git", "", "a/b"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct saying s = github;
        char *body = push_to(cases[i].url, cases[i].full_name);
        struct webhook hook;
        struct err err;
        int rc;

        s.base_url = cases[i].base_url;
        rc = parse(&s, body, &hook, &err);
        if ((rc == 0) != (cases[i].repo != NULL))
            fail_msg("case %zu: %s", i, rc == 0 ? hook.repo : err.text);
        if (rc == 0) {
            assert_string_equal(hook.repo, cases[i].repo);
            webhook_clear(&hook);
        } else {
            assert_int_equal(err.kind, ERR_NOT_FOUND);
        }
        free(body);
    }
}

static void a_context_path_of_bitbuckets_may_stand_in_the_url(void **state)
{
    static const char *const urls[][2] = {
        {"https://inside/scm", "pack/basket"},
        {"https://inside", "scm/pack/basket"},
        {"https://bitbucket.example.com/scm", "pack/basket"},
    };
    char *body = body_of("bitbucket-server-refs-changed.json");
    struct webhook hook;
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(urls); i++) {
        struct saying s = server;

        s.base_url = urls[i][0];
        assert_int_equal(parse(&s, body, &hook, &err), 0);
        assert_string_equal(hook.repo, urls[i][1]);
        webhook_clear(&hook);
    }
    free(body);
}

static void a_form_may_hold_it(void **state)
{
    static const char form[] =
        "x=1&payload=%7B%22ref%22%3A+%22refs%2Fheads%2Fa%2Bb%22%2C%22repository%22%3A%7B"
        "%22full_name%22%3a%22a/b%22%7D%7D&y={";
    struct webhook hook;
    struct err err;

    (void)state;
    assert_int_equal(parse(&github, form, &hook, &err), 0);
    assert_string_equal(hook.repo, "a/b");
    assert_string_equal(hook.refs[0].name, "refs/heads/a+b");
    webhook_clear(&hook);
}

static void what_makes_no_sense_is_refused_without_being_repeated(void **state)
{
    static const char *const bodies[] = {
        "",
        "hunter2",
        "payload=",
        "payload=%7",
        "payload=hunter2",
        "{\"ref\": \"refs/heads/x\"",
        "[]",
        "{}",
        "{\"ref\": \"refs/heads/x\"}",
        "{\"ref\": null, \"repository\": {\"full_name\": \"a/b\"}}",
        "{\"ref\": 1, \"repository\": {\"full_name\": \"a/b\"}}",
        "{\"ref\": \"x\\u0000y\", \"repository\": {\"full_name\": \"a/b\"}}",
        "{\"ref\": \"x\", \"repository\": \"a/b\"}",
        "{\"ref\": \"x\", \"repository\": {\"full_name\": \"a/../b\"}}",
        "{\"ref\": \"x\", \"repository\": {\"full_name\": \"hunter2%2fb\"}}",
        "{\"ref\": \"x\", \"repository\": {\"full_name\": \"a\\u0001b\"}}",
        "{\"ref\": \"x\", \"repository\": {\"full_name\": \".git\"}}",
        "{\"ref\": \"x\", \"repository\": {\"full_name\": \"a/info/lfs/hunter2\"}}",
    };
    struct saying nothing = github;
    struct webhook hook;
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        if (parse(&github, bodies[i], &hook, &err) == 0)
            fail_msg("taken: %s", bodies[i]);
        assert_int_equal(err.kind, ERR_INPUT);
        assert_null(strstr(err.text, "hunter2"));
    }
    nothing.event = NULL;
    assert_int_equal(parse(&nothing, "{}", &hook, &err), -1);
    assert_int_equal(err.kind, ERR_INPUT);
}

static size_t left_of(const struct bytes *b, const char *at)
{
    return b->len - (size_t)(at - b->data);
}

static void commits_are_passed_over_whatever_they_hold(void **state)
{
    static const char *const commits[] = {
        "[]",
        "null",
        "17",
        "\"x\"",
        "\"\\\"}],{[\\\\\"",
        "[{\"message\": \"}]\\\"{[\", \"added\": [[], [\"\\\\\"]]}, {}]",
        " \n[ \"\\u0000\" ] ",
        "[no JSON]",
    };
    struct webhook hook;
    struct bytes body;
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(commits); i++) {
        char *text = xasprintf("{\"commits\" : %s, \"ref\": \"commits\", \"x\": [\"commits\"], "
                               "\"head_commit\":%s,\"repository\": {\"full_name\": \"a/b\"}}",
                               commits[i], commits[i]);

        if (parse(&github, text, &hook, &err) != 0)
            fail_msg("%s: %s", text, err.text);
        assert_string_equal(hook.refs[0].name, "commits");
        webhook_clear(&hook);
        free(text);
    }
    /* More than would be taken of anything else. */
    bytes_init(&body, WEBHOOK_BODY_MAX);
    bytes_add_str(&body, "{\"ref\": \"x\", \"repository\": {\"full_name\": \"a/b\"}, "
                         "\"commits\": [0");
    while (body.len <= WEBHOOK_JSON_MAX)
        bytes_add_str(&body, ",0,{\"commits\":{\"a\":[]}}");
    bytes_add_str(&body, "]}");
    assert_int_equal(parse(&github, body.data, &hook, &err), 0);
    webhook_clear(&hook);
    /* Not strstr(), which under ASan measures all that follows each time. */
    for (char *c = body.data; (c = memmem(c, left_of(&body, c), "commits", 7)) != NULL;)
        *c = 'x';
    assert_int_equal(parse(&github, body.data, &hook, &err), -1);
    assert_int_equal(err.kind, ERR_LIMIT);
    bytes_clear(&body);
}

static void names_and_lists_have_bounds(void **state)
{
    struct saying s = server;
    struct webhook hook;
    struct bytes body;
    struct err err;
    char *name = xmalloc(WEBHOOK_TEXT_MAX + 2);

    (void)state;
    memset(name, 'n', WEBHOOK_TEXT_MAX + 1);
    name[WEBHOOK_TEXT_MAX + 1] = '\0';
    bytes_init(&body, 4 << 20);
    bytes_addf(&body, "{\"ref\": \"%s\", \"repository\": {\"full_name\": \"a/b\"}}", name);
    assert_int_equal(parse(&github, body.data, &hook, &err), -1);
    bytes_reset(&body);
    bytes_addf(&body, "{\"ref\": \"x\", \"repository\": {\"full_name\": \"%s\"}}", name);
    assert_int_equal(parse(&github, body.data, &hook, &err), -1);
    bytes_reset(&body);
    bytes_add_str(&body, "{\"repository\": {\"slug\": \"b\", \"project\": {\"key\": \"A\"}}, "
                         "\"changes\": [{\"refId\": \"refs/heads/0\"}");
    for (int i = 1; i <= WEBHOOK_REFS_MAX; i++)
        bytes_addf(&body, ", {\"refId\": \"refs/heads/%d\"}", i);
    bytes_add_str(&body, "]}");
    s.base_url = "https://h";
    assert_int_equal(parse(&s, body.data, &hook, &err), 0);
    assert_int_equal(hook.ref_count, WEBHOOK_REFS_MAX);
    webhook_clear(&hook);
    bytes_clear(&body);
    free(name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_signed_with_the_secret_is_believed),
        cmocka_unit_test(what_is_not_is_denied),
        cmocka_unit_test(without_a_secret_nothing_is_believed),
        cmocka_unit_test(the_headers_say_whose_it_is),
        cmocka_unit_test(only_a_ping_of_bitbuckets_may_be_unsigned),
        cmocka_unit_test(each_hosts_pushes_are_understood),
        cmocka_unit_test(what_changes_no_refs_is_told_from_pushes),
        cmocka_unit_test(the_repository_is_found_below_the_upstreams_url),
        cmocka_unit_test(a_context_path_of_bitbuckets_may_stand_in_the_url),
        cmocka_unit_test(a_form_may_hold_it),
        cmocka_unit_test(what_makes_no_sense_is_refused_without_being_repeated),
        cmocka_unit_test(commits_are_passed_over_whatever_they_hold),
        cmocka_unit_test(names_and_lists_have_bounds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
