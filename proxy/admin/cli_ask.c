#include "proxy/admin/cli_ask.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/digest.h"
#include "proxy/admin/cli_say.h"
#include "proxy/commands.h"

enum {
    TOKEN_MAX_BYTES = 4096,
    ASK_AGAIN_MS = 1000, /* where it isn't said how long to wait */
};

/* ---- who is asked ---- */

static bool token_ok(const char *token)
{
    for (const char *p = token; *p != '\0'; p++)
        if (*p <= ' ' || *p == 0x7f)
            return false;
    return *token != '\0';
}

/* The first line; the token is yours. */
static int read_token(const char *path, char **out, struct err *err)
{
    char text[TOKEN_MAX_BYTES + 1];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, TOKEN_MAX_BYTES) : -1;

    if (n < 0)
        err_errno(err, ERR_INPUT, "read %s", path);
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return -1;
    text[n] = '\0';
    text[strcspn(text, "\r\n")] = '\0';
    *out = xstrdup(text);
    explicit_bzero(text, sizeof(text));
    return 0;
}

static int find_token(const struct command_line *line, char **out, struct err *err)
{
    const char *given = getenv("PANNIER_ADMIN_TOKEN");

    *out = NULL;
    if (line->token_file != NULL) {
        if (read_token(line->token_file, out, err) != 0)
            return -1;
    } else if (given != NULL && *given != '\0') {
        *out = xstrdup(given);
    }
    if (*out == NULL || token_ok(*out))
        return 0;
    free(*out);
    *out = NULL;
    return err_set(err, ERR_INPUT, "the token holds a space or a control character, or is empty");
}

int ask_open(const struct command_line *line, struct client **out, struct err *err)
{
    const char *url = line->admin != NULL ? line->admin : getenv("PANNIER_ADMIN");
    char *token;
    int rc;

    if (find_token(line, &token, err) != 0)
        return -1;
    rc = client_new(url != NULL && *url != '\0' ? url : "http://127.0.0.1:8081", token, out, err);
    if (token != NULL)
        explicit_bzero(token, strlen(token));
    free(token);
    return rc;
}

/* ---- one call ---- */

/* What a problem document says, as an error. */
static int problem(int status, const json_t *json, struct err *err)
{
    const char *detail = said_words(json, "detail", NULL), *field = said_words(json, "field", NULL);
    enum err_kind kind = status == 400                    ? ERR_INPUT
                         : status == 404                  ? ERR_NOT_FOUND
                         : status == 401 || status == 403 ? ERR_DENIED
                         : status == 409                  ? ERR_CONFLICT
                         : status == 503                  ? ERR_BUSY
                                                          : ERR_UPSTREAM;

    if (detail == NULL)
        return err_set(err, kind, "it answered with HTTP status %d and not as a pannier does",
                       status);
    return err_set(err, kind, "%s%s%s", field != NULL ? field : "", field != NULL ? ": " : "",
                   detail);
}

int ask_not_pannier(const char *path, struct err *err)
{
    return err_set(err, ERR_UPSTREAM, "what answers /api/v1%s does not answer as a pannier does",
                   path);
}

/* *retry_after_s: as in struct client_reply. */
static int call(struct client *c, const char *method, const char *path, json_t *body, json_t **out,
                unsigned *retry_after_s, struct err *err)
{
    char *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
    struct client_reply reply;
    json_error_t ignored;
    int rc = 0;

    json_decref(body);
    *out = NULL;
    *retry_after_s = 0;
    if (client_call(c, method, path, text, text != NULL ? strlen(text) : 0, &reply, err) != 0) {
        rc = -1;
    } else {
        *out =
            json_loadb(reply.body.data != NULL ? reply.body.data : "", reply.body.len, 0, &ignored);
        if ((reply.status != 200 && reply.status != 202) || *out == NULL)
            rc = problem(reply.status, *out, err);
        else if (!json_is_object(*out))
            rc = ask_not_pannier(path, err);
        *retry_after_s = reply.retry_after_s;
        client_reply_clear(&reply);
    }
    if (rc != 0) {
        json_decref(*out);
        *out = NULL;
    }
    free(text);
    return rc;
}

int ask_call(struct client *c, const char *method, const char *path, json_t *body, json_t **out,
             struct err *err)
{
    unsigned ignored;

    return call(c, method, path, body, out, &ignored, err);
}

int ask_patiently(struct client *c, const char *path, uint64_t patience_ms, json_t **out,
                  struct err *err)
{
    uint64_t until = now_ms() + patience_ms;
    unsigned retry_after_s;

    for (;;) {
        int rc = call(c, "GET", path, NULL, out, &retry_after_s, err);
        uint64_t wait_ms = retry_after_s > 0 ? (uint64_t)retry_after_s * 1000 : ASK_AGAIN_MS;

        if (rc == 0 || err->kind != ERR_BUSY || now_ms() + wait_ms > until)
            return rc;
        poll(NULL, 0, (int)wait_ms);
    }
}

char *ask_escape(const char *s)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._";
    char *out = xmalloc(3 * strlen(s) + 1), *at = out;

    for (; *s != '\0'; s++)
        at += sprintf(at, strchr(plain, *s) != NULL ? "%c" : "%%%02X", (unsigned char)*s);
    *at = '\0';
    return out;
}

bool ask_is_utf8(const char *s)
{
    json_t *string = s != NULL ? json_string(s) : NULL;
    bool is = s == NULL || string != NULL;

    json_decref(string);
    return is;
}

/* Appends what is on the page to all; *next is yours, NULL: it was the last one. */
static int take_page(const json_t *page, const char *path, const char *name, json_t *all,
                     char **next, struct err *err)
{
    const json_t *cursor = json_object_get(page, "next");

    if (!json_is_array(json_object_get(page, name)) ||
        !(json_is_null(cursor) || json_is_string(cursor)))
        return ask_not_pannier(path, err);
    must(json_array_extend(all, json_object_get(page, name)) == 0);
    *next = json_is_string(cursor) ? ask_escape(json_string_value(cursor)) : NULL;
    return 0;
}

/* All pages of the list that is called so, at path, which has a query: the document of the last
 * page with all of them in it. */
static int list_all(struct client *client, const char *path, const char *name, json_t **out,
                    struct err *err)
{
    json_t *all = json_array();
    char *cursor = NULL;
    int rc;

    *out = NULL;
    do {
        char *at = xasprintf("%s%s%s", path, cursor != NULL ? "&cursor=" : "",
                             cursor != NULL ? cursor : "");
        json_t *page;

        rc = ask_call(client, "GET", at, NULL, &page, err);
        free(at);
        free(cursor);
        cursor = NULL;
        if (rc == 0) {
            rc = take_page(page, path, name, all, &cursor, err);
            json_decref(*out);
            *out = page;
        }
    } while (rc == 0 && cursor != NULL);
    if (rc == 0) {
        must(json_object_set(*out, name, all) == 0 && json_object_del(*out, "next") == 0);
    } else {
        json_decref(*out);
        *out = NULL;
    }
    json_decref(all);
    return rc;
}

/* ---- a whole command ---- */

/* Which one is meant by what was typed: one that is known by this name, or by its URL upstream;
 * else what clients write so.  -1: there are two, or it can't be asked. */
static int find_repository(struct client *client, const char *typed, char hex[KEY_HEX_SIZE],
                           struct err *err)
{
    struct key id;
    char *name, *value, *path;
    const json_t *found;
    json_t *page;
    int rc;

    if (key_from_hex(typed, &id)) {
        key_to_hex(&id, hex);
        return 0;
    }
    name = commands_repo_name(typed);
    value = ask_escape(name);
    path = xasprintf("/repositories?limit=2&name=%s", value);
    rc = ask_call(client, "GET", path, NULL, &page, err);
    found = json_object_get(page, "repositories");
    if (rc != 0) {
        ;
    } else if (!json_is_array(found)) {
        rc = ask_not_pannier(path, err);
    } else if (json_array_size(found) > 1) {
        rc = err_set(err, ERR_INPUT, "%s may be %s or %s: name one of them by its id", name,
                     said_words(json_array_get(found, 0), "repo", "?"),
                     said_words(json_array_get(found, 1), "repo", "?"));
    } else if (json_array_size(found) == 1) {
        if (key_from_hex(said_words(json_array_get(found, 0), "id", ""), &id))
            key_to_hex(&id, hex);
        else
            rc = ask_not_pannier(path, err);
    } else {
        must(commands_repo_id(typed, &id)); /* ask_run() has looked */
        key_to_hex(&id, hex);
    }
    json_decref(page);
    free(path);
    free(value);
    free(name);
    return rc;
}

/* *out: the document, yours. */
static int do_ask(const struct command_line *line, struct client *client, struct ask *a,
                  json_t **out, struct err *err)
{
    json_t *body = a->body;
    char hex[KEY_HEX_SIZE];
    char *path;
    int rc;

    a->body = NULL;
    *out = NULL;
    if (a->on_repository && find_repository(client, line->arguments[0], hex, err) != 0) {
        json_decref(body);
        return -1;
    }
    path = a->on_repository ? xasprintf("/repositories/%s%s", hex, a->path) : xstrdup(a->path);
    rc = a->list != NULL ? list_all(client, path, a->list, out, err)
                         : ask_call(client, a->method, path, body, out, err);
    if (rc != 0 && a->on_repository && err->kind == ERR_NOT_FOUND) {
        char *name = commands_repo_name(line->arguments[0]);

        err_prefix(err, "%s", name); /* the API says its id only */
        free(name);
    }
    free(path);
    return rc;
}

static bool is_repository(const char *typed)
{
    struct key id;

    return key_from_hex(typed, &id) || commands_repo_id(typed, &id);
}

/* It was told, and is not in force everywhere yet; or the other nodes can't be listed. */
static bool is_unfinished(const json_t *document)
{
    return (json_is_false(json_object_get(document, "acknowledged")) &&
            json_is_false(json_object_get(document, "dry_run"))) ||
           json_is_string(json_object_get(document, "reason"));
}

int ask_run(const struct command_line *line, struct ask ask)
{
    struct client *client = NULL;
    json_t *document = NULL;
    struct err why;
    int rc = EXIT_DONE;

    if (ask.on_repository && !is_repository(line->arguments[0])) {
        fprintf(stderr, "pannier %s: REPO is neither <upstream>/<path> nor an id\n",
                line->command->name);
        rc = EXIT_USAGE;
    } else if (ask_open(line, &client, &why) != 0 ||
               do_ask(line, client, &ask, &document, &why) != 0) {
        rc = say_error(line, &why);
    } else if (line->json) {
        say_json(document);
    } else {
        ask.print(line, document);
    }
    if (is_unfinished(document))
        rc = EXIT_FAILED;
    json_decref(ask.body);
    json_decref(document);
    client_free(&client);
    return rc;
}
