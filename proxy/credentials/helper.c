/* `auth: helper`: a credential helper of git's, run as git runs it, but without a shell: "store
 * --file /x" is `git credential-store --file /x get`, and what begins with '/' is a program. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/git_credential.h"
#include "proxy/credentials/internal.h"

enum {
    WORDS_MAX = 24,
    TIMEOUT_MS = 30 * 1000,
    EARLY_S = 30,
    /* A helper that names no end is asked again: what it says may have changed. */
    KEEP_S = 5 * 60,
};

struct words {
    char *text; /* what they lie in */
    const char *program;
    const char *args[WORDS_MAX + 2];
};

static int split(const char *value, const char *verb, struct words *out, struct err *err)
{
    char *rest, *word;
    size_t n = 0;

    *out = (struct words){.text = xasprintf("credential-%s", value)};
    word = strtok_r(out->text, " ", &rest);
    while (word != NULL && n < WORDS_MAX) {
        out->args[n++] = word;
        word = strtok_r(NULL, " ", &rest);
    }
    if (word != NULL || value[0] == ' ') {
        free(out->text);
        return err_set(err, ERR_INPUT, "its credential_helper is no name and a few arguments");
    }
    out->program = "git";
    if (value[0] == '/') {
        out->program = out->args[0] + strlen("credential-");
        memmove(out->args, out->args + 1, n * sizeof(out->args[0]));
        n--;
    }
    out->args[n] = verb;
    return 0;
}

/* Until it closes its output. */
static int read_answer(int fd, struct bytes *out, struct err *err)
{
    uint64_t deadline = now_ms() + TIMEOUT_MS;

    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        uint64_t now = now_ms();
        char block[1024];
        int ready = now < deadline ? poll(&p, 1, (int)(deadline - now)) : 0;
        ssize_t n;

        if (ready == 0)
            return err_set(err, ERR_TIMEOUT, "its credential_helper did not answer within %d s",
                           TIMEOUT_MS / 1000);
        n = ready > 0 ? read(fd, block, sizeof(block)) : -1;
        if (n == 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return err_errno(err, ERR_PROCESS, "its credential_helper can't be heard");
        if (n > 0 && bytes_add(out, block, (size_t)n) != 0)
            return err_set(err, ERR_INPUT, "its credential_helper says too much");
        explicit_bzero(block, sizeof(block));
    }
}

/* Its last words are not ours to tell: who knows what a helper prints. */
static int finish(struct process **p, struct err *err)
{
    struct err words;

    if (process_finish(p, &words) == 0)
        return 0;
    return err_set(err, words.kind == ERR_CANCELLED ? ERR_CANCELLED : ERR_PROCESS,
                   "its credential_helper failed; run it by hand to see why");
}

/* verb: as helpers know it.  c goes to it by a memory file.  answer may be NULL. */
static int ask(const struct credential_tools *tools, const struct upstream_config *u,
               const char *verb, const struct git_credential *c, struct bytes *answer,
               struct err *err)
{
    struct process_spec spec = {0};
    struct bytes input, ignored;
    struct process *p = NULL;
    struct words words;
    int rc;

    if (split(u->credential_helper, verb, &words, err) != 0)
        return -1;
    bytes_init(&input, SIZE_MAX / 2);
    bytes_init(&ignored, SECRET_MAX);
    git_credential_write(c, &input);
    spec.program = words.program;
    spec.args = words.args;
    spec.input = input.data;
    spec.input_len = input.len;
    rc = process_start(tools->processes, &spec, &p, err);
    if (rc == 0)
        rc = read_answer(p->out_fd, answer != NULL ? answer : &ignored, err);
    if (rc == 0)
        rc = finish(&p, err);
    process_kill(&p);
    secret_bytes_clear(&ignored);
    secret_bytes_clear(&input);
    free(words.text);
    return rc;
}

/* What helpers are told of the host. */
static void describe(const struct credential_use *use, const char *username,
                     struct git_credential *out)
{
    bool tls = strncmp(use->base_url, "https:", 6) == 0;

    *out = (struct git_credential){
        .protocol = xstrdup(tls ? "https" : "http"),
        .host = host_of(use->base_url),
        .username = username != NULL ? xstrdup(username) : NULL,
    };
}

static int get(const struct credential_tools *tools, const struct credential_use *use, int64_t now,
               struct credential *out, struct err *err)
{
    struct git_credential question, answer = {0};
    struct bytes text;
    int rc;

    (void)now;
    describe(use, use->upstream->username, &question);
    bytes_init(&text, SECRET_MAX);
    rc = ask(tools, use->upstream, "get", &question, &text, err);
    if (rc == 0) {
        /* A helper may leave out what it was told. */
        rc = git_credential_parse(text.data != NULL ? text.data : "", text.len, question.username,
                                  &answer, err);
        if (rc != 0)
            err_prefix(err, "its credential_helper");
    }
    if (rc == 0) {
        *out = (struct credential){answer.username, answer.password, answer.expires};
        answer.username = answer.password = NULL;
        rc = credential_check(out, err);
    }
    git_credential_clear(&answer);
    git_credential_clear(&question);
    secret_bytes_clear(&text);
    return rc;
}

static void tell(const struct credential_tools *tools, const struct credential_use *use,
                 const char *verb, const struct credential *c)
{
    struct git_credential words;
    struct err ignored; /* as git: it was only told */

    describe(use, c->username, &words);
    words.password = xstrdup(c->password);
    words.expires = c->expires;
    ask(tools, use->upstream, verb, &words, NULL, &ignored);
    git_credential_clear(&words);
}

static void accepted(const struct credential_tools *tools, const struct credential_use *use,
                     const struct credential *c)
{
    tell(tools, use, "store", c);
}

static void refused(const struct credential_tools *tools, const struct credential_use *use,
                    const struct credential *c)
{
    tell(tools, use, "erase", c);
}

const struct credential_kind credential_helper = {
    .get = get, .accepted = accepted, .refused = refused, .early_s = EARLY_S, .keep_s = KEEP_S};
