#include "proxy/admin/cli.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "protocol/base.h"
#include "proxy/admin/cli_ask.h"
#include "proxy/admin/cli_say.h"
#include "proxy/table.h"
#include "proxy/warm/warmups.h"

enum {
    WARM_INTERVAL_MS = 200,
    /* Redis may be away for a while, in which no node can tell how far it is. */
    WARM_PATIENCE_MS = 60 * 1000,
    WARM_BAR = 30, /* characters */
};

/* A number as typed; -1: it is none, or none that makes sense. */
static json_int_t typed_number(const char *text, json_int_t max)
{
    size_t len = strlen(text);

    if (len == 0 || len > 9 || strspn(text, "0123456789") != len || atol(text) < 1 ||
        atol(text) > max)
        return -1;
    return atol(text);
}

static json_t *branches_json(const struct command_line *line)
{
    json_t *list = json_array();

    for (size_t i = 0; i < line->branch_count; i++)
        must(json_array_append_new(list, json_string(line->branches[i])) == 0);
    return list;
}

/* NULL: what was typed makes no sense, which was said. */
static json_t *warmup_request(const struct command_line *line)
{
    json_int_t depth = line->depth != NULL ? typed_number(line->depth, WARMUP_DEPTH_MAX) : 1;
    json_int_t most =
        line->most_used != NULL ? typed_number(line->most_used, PROGRESS_ITEMS_MAX) : 1;
    json_t *repositories, *body;
    bool utf8 = true;

    for (int i = 0; i < line->argument_count; i++)
        utf8 = utf8 && ask_is_utf8(line->arguments[i]);
    for (size_t i = 0; i < line->branch_count; i++)
        utf8 = utf8 && ask_is_utf8(line->branches[i]);
    if (depth < 0 || most < 0 || !utf8 || (line->argument_count == 0 && line->most_used == NULL)) {
        fprintf(stderr, "pannier warm: %s; see 'pannier warm --help'\n",
                depth < 0  ? "--depth is no number from 1 to 1000000"
                : most < 0 ? "--most-used is no number from 1 to 1000"
                : !utf8    ? "a name is not UTF-8"
                           : "needs REPO or --most-used");
        return NULL;
    }
    repositories = json_array();
    for (int i = 0; i < line->argument_count; i++)
        must(json_array_append_new(
                 repositories, json_pack("{s:s, s:o, s:I}", "repository", line->arguments[i],
                                         "branches", branches_json(line), "depth", depth)) == 0);
    body = json_pack("{s:s, s:o}", "by", "command", "repositories", repositories);
    if (line->most_used != NULL)
        must(json_object_set_new(body, "most_used", json_integer(most)) == 0);
    return body;
}

static bool has_ended(const json_t *warmup)
{
    return json_is_string(json_object_get(warmup, "ended"));
}

/* On a terminal only; in place of what stood there. */
static void draw_progress(const json_t *warmup)
{
    uint64_t total = said_number(warmup, "total"), failed = said_number(warmup, "failed");
    uint64_t over = said_number(warmup, "done") + failed;
    bool coloured = say_in_colour(stderr);
    char bar[WARM_BAR + 1];
    size_t filled = over < total ? (size_t)(over * WARM_BAR / total) : WARM_BAR;

    if (!isatty(STDERR_FILENO))
        return;
    memset(bar, '.', WARM_BAR);
    memset(bar, '#', filled);
    bar[WARM_BAR] = '\0';
    fprintf(stderr, "\r[%s] %" PRIu64 " of %" PRIu64, bar, over, total);
    if (failed > 0)
        fprintf(stderr, ", %s%" PRIu64 " failed%s", coloured ? "\033[31m" : "", failed,
                coloured ? "\033[0m" : "");
    fputs(has_ended(warmup) ? "\n" : "", stderr);
    fflush(stderr);
}

static int begin_warmup(struct client *client, json_t *body, json_t **out, struct err *err)
{
    if (ask_call(client, "POST", "/warmups", body, out, err) != 0)
        return -1;
    return *said_words(*out, "id", "") != '\0' ? 0 : ask_not_pannier("/warmups", err);
}

/* Until it has ended; *warmup is then what it has become. */
static int wait_for_warmup(struct client *client, json_t **warmup, struct err *err)
{
    char *id = ask_escape(said_words(*warmup, "id", ""));
    char *path = xasprintf("/warmups/%s", id);
    int rc = 0;

    draw_progress(*warmup);
    while (rc == 0 && !has_ended(*warmup)) {
        json_t *news;

        poll(NULL, 0, WARM_INTERVAL_MS);
        rc = ask_patiently(client, path, WARM_PATIENCE_MS, &news, err);
        if (rc != 0)
            break;
        if (strcmp(said_words(news, "id", ""), said_words(*warmup, "id", "")) != 0)
            rc = ask_not_pannier(path, err);
        else
            draw_progress(news);
        json_decref(*warmup);
        *warmup = news;
    }
    if (rc != 0 && err->kind == ERR_BUSY) {
        struct err why = *err;

        err_set(err, ERR_BUSY, "warm-up %s goes on, and how far it is can't be asked: %s", id,
                why.text);
    }
    free(path);
    free(id);
    return rc;
}

static void print_warmup(const json_t *warmup)
{
    const json_t *r;
    size_t i;

    json_array_foreach(json_object_get(warmup, "repositories"), i, r)
    {
        const char *error = said_words(r, "error", NULL);
        bool failed = error != NULL && strcmp(said_words(r, "state", ""), "failed") == 0;
        FILE *out = failed ? stderr : stdout;

        if (failed && say_in_colour(stderr))
            fputs("\033[31m", out);
        print_name(said_words(r, "repository", "?"), out);
        fputs(": ", out);
        print_name(failed                                  ? error
                   : said_words(r, "detail", NULL) != NULL ? said_words(r, "detail", "")
                                                           : said_words(r, "state", "?"),
                   out);
        fputs(failed && say_in_colour(stderr) ? "\033[0m\n" : "\n", out);
    }
    printf("warm-up %s: %" PRIu64 " of %" PRIu64 " done, %" PRIu64 " failed\n",
           said_words(warmup, "id", "?"), said_number(warmup, "done"), said_number(warmup, "total"),
           said_number(warmup, "failed"));
}

int admin_cli_warm(const struct command_line *line)
{
    json_t *body = warmup_request(line), *warmup = NULL;
    struct client *client = NULL;
    struct err why;
    int rc;

    if (body == NULL)
        return EXIT_USAGE;
    rc = ask_open(line, &client, &why);
    if (rc != 0)
        json_decref(body);
    else
        rc = begin_warmup(client, body, &warmup, &why);
    if (rc == 0 && line->wait)
        rc = wait_for_warmup(client, &warmup, &why);
    if (rc != 0) {
        rc = say_error(line, &why);
    } else {
        if (line->json)
            say_json(warmup);
        else
            print_warmup(warmup);
        rc = said_number(warmup, "failed") > 0 ? EXIT_FAILED : EXIT_DONE;
    }
    json_decref(warmup);
    client_free(&client);
    return rc;
}
