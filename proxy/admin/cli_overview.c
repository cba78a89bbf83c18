#include "proxy/admin/cli.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "protocol/base.h"
#include "proxy/admin/cli_ask.h"
#include "proxy/admin/cli_say.h"
#include "proxy/people.h"
#include "proxy/table.h"

enum {
    TOP_ROWS = 20,
    TOP_INTERVAL_MS = 2000,
};

/* ---- repo ls ---- */

static const struct table_column repository_columns[] = {
    {"REPOSITORY", false}, {"ANSWERS", true}, {"MIRROR", false},   {"PINNED", false},
    {"ON DISK", true},     {"HITS", true},    {"HIT RATIO", true}, {"LAST ACCESS", false},
};

static void add_repository(struct table *t, const json_t *r)
{
    const json_t *traffic = json_object_get(r, "traffic");
    char answers[24], hits[24], ratio[SAID_RATIO_SIZE], size[PEOPLE_TEXT_MAX],
        accessed[PEOPLE_TEXT_MAX];
    const char *cells[] = {
        said_words(r, "repo", "?"),
        answers,
        json_is_true(json_object_get(r, "mirror")) ? "yes" : "no",
        json_is_true(json_object_get(r, "pinned")) ? "yes" : "no",
        size,
        hits,
        ratio,
        accessed,
    };

    snprintf(answers, sizeof(answers), "%" PRIu64, said_number(r, "answers"));
    snprintf(hits, sizeof(hits), "%" PRIu64, said_number(traffic, "hits"));
    said_ratio(traffic, "hit_ratio", ratio);
    people_size(said_number(r, "stored_size"), size);
    people_ago((int64_t)said_number(r, "accessed"), time(NULL), accessed);
    table_add(t, cells);
}

static void print_repositories(const json_t *list)
{
    struct table *t = table_new(repository_columns, ARRAY_LEN(repository_columns));
    const json_t *r;
    size_t i;

    json_array_foreach(list, i, r) add_repository(t, r);
    table_print(t, stdout);
    table_free(&t);
}

/* "/repositories?limit=...", yours. */
static char *list_path(const struct command_line *line, unsigned limit, const char *sort)
{
    char *filter = line->filter != NULL ? ask_escape(line->filter) : NULL;
    char *order = sort != NULL ? ask_escape(sort) : NULL;
    char *path = xasprintf("/repositories?limit=%u%s%s%s%s", limit, filter != NULL ? "&q=" : "",
                           filter != NULL ? filter : "", order != NULL ? "&sort=" : "",
                           order != NULL ? order : "");

    free(order);
    free(filter);
    return path;
}

static void print_list(const struct command_line *line, const json_t *document)
{
    (void)line;
    print_repositories(json_object_get(document, "repositories"));
    if (!json_is_true(json_object_get(document, "complete")))
        say_failure("the folder is still being read; there may be more");
}

int admin_cli_ls(const struct command_line *line)
{
    char *path = list_path(line, ASK_PAGE, line->sort);
    int rc = ask_run(line, (struct ask){.path = path, .list = "repositories", .print = print_list});

    free(path);
    return rc;
}

/* ---- nodes ---- */

static const struct table_column node_columns[] = {
    {"NODE", false},    {"STATE", false}, {"ADDRESS", false}, {"VERSION", false},
    {"REQUESTS", true}, {"DISK", true},   {"SINCE", false},
};

static void add_node(struct table *t, const json_t *n)
{
    char requests[24], disk[PEOPLE_TEXT_MAX], since[PEOPLE_TEXT_MAX];
    bool silent = strcmp(said_words(n, "state", ""), "silent") == 0;
    int64_t now_s = time(NULL);
    const char *cells[] = {
        said_words(n, "name", "?"),
        said_words(n, "state", "?"),
        said_words(n, "peer_address", said_words(n, "address", "-")),
        said_words(n, "version", "-"),
        silent ? "-" : requests,
        silent ? "-" : disk,
        since,
    };

    snprintf(requests, sizeof(requests), "%" PRIu64, said_number(n, "requests"));
    people_size(said_number(n, "disk_used"), disk);
    people_ago(silent ? now_s - (int64_t)(said_number(n, "silent_ms") / 1000)
                      : (int64_t)said_number(n, "started"),
               now_s, since);
    table_add(t, cells);
}

static void print_nodes(const struct command_line *line, const json_t *said)
{
    struct table *t = table_new(node_columns, ARRAY_LEN(node_columns));
    const char *reason = said_words(said, "reason", NULL);
    const json_t *n;
    size_t i;

    (void)line;
    json_array_foreach(json_object_get(said, "nodes"), i, n) add_node(t, n);
    table_print(t, stdout);
    table_free(&t);
    if (json_is_true(json_object_get(said, "alone")))
        puts("this node is alone: redis.url is not set");
    if (reason != NULL)
        say_failure(reason);
}

static void print_forgotten(const struct command_line *line, const json_t *said)
{
    (void)line;
    print_name(said_words(said, "forgotten", "?"), stdout);
    puts(": nobody waits for it any more");
}

int admin_cli_nodes(const struct command_line *line)
{
    char *name, *path;
    int rc;

    if (line->forget == NULL)
        return ask_run(line, (struct ask){"GET", "/nodes", .print = print_nodes});
    name = ask_escape(line->forget);
    path = xasprintf("/nodes/%s", name);
    rc = ask_run(line, (struct ask){"DELETE", path, .print = print_forgotten});
    free(path);
    free(name);
    return rc;
}

/* ---- stats ---- */

static void print_stats(const struct command_line *line, const json_t *s)
{
    const json_t *traffic = json_object_get(s, "traffic"), *local = json_object_get(s, "local");
    const json_t *hits = json_object_get(traffic, "hits");
    const json_t *misses = json_object_get(traffic, "misses");
    const json_t *entries = json_object_get(local, "entries");
    const json_t *shared = json_object_get(s, "shared");

    (void)line;
    puts("since its start");
    printf("  %-14slocal %" PRIu64 ", shared %" PRIu64 ", coalesced %" PRIu64 ", peer %" PRIu64
           "\n",
           "hits", said_number(hits, "local"), said_number(hits, "shared"),
           said_number(hits, "coalesced"), said_number(hits, "peer"));
    printf("  %-14smirror %" PRIu64 ", refresh %" PRIu64 ", upstream %" PRIu64
           ", passed on %" PRIu64 "\n",
           "misses", said_number(misses, "mirror"), said_number(misses, "refresh"),
           said_number(misses, "upstream"), said_number(misses, "pass"));
    say_ratio("hit ratio", traffic, "hit_ratio");
    say_ratio("by bytes", traffic, "byte_hit_ratio");
    say_size("sent", said_number(traffic, "client_bytes"));
    say_size("from upstream", said_number(traffic, "upstream_bytes"));
    say_size("saved", said_number(traffic, "saved_bytes"));
    say_number("evicted", said_number(local, "evicted"));
    puts("now");
    say_number("in flight", said_number(s, "in_flight"));
    say_size("on disk", said_number(local, "total"));
    if (json_is_integer(json_object_get(local, "limit")))
        say_size("of at most", said_number(local, "limit"));
    say_number("answers", said_number(entries, "answers"));
    say_number("mirrors", said_number(entries, "mirrors"));
    say_number("pinned", said_number(local, "pinned"));
    if (json_is_object(shared))
        print_field("shared tier", json_is_true(json_object_get(shared, "works"))
                                       ? "works"
                                       : said_words(shared, "reason", "does not work"));
}

int admin_cli_stats(const struct command_line *line)
{
    return ask_run(line, (struct ask){"GET", "/stats", .print = print_stats});
}

/* ---- top ---- */

static int look(const struct command_line *line, struct client *client, bool screen,
                struct err *err)
{
    char *path = list_path(line, TOP_ROWS, "-accessed");
    json_t *stats = NULL, *page = NULL;
    int rc = ask_call(client, "GET", "/stats", NULL, &stats, err);

    if (rc == 0)
        rc = ask_call(client, "GET", path, NULL, &page, err);
    if (rc == 0) {
        if (screen)
            fputs("\033[H\033[2J", stdout);
        print_stats(line, stats);
        putchar('\n');
        print_repositories(json_object_get(page, "repositories"));
        fflush(stdout);
    }
    json_decref(stats);
    json_decref(page);
    free(path);
    return rc;
}

int admin_cli_top(const struct command_line *line)
{
    bool screen = isatty(STDOUT_FILENO);
    struct client *client = NULL;
    struct err why;
    int rc = ask_open(line, &client, &why);

    while (rc == 0) {
        rc = look(line, client, screen, &why);
        if (!screen || ferror(stdout))
            break;
        if (rc == 0)
            poll(NULL, 0, TOP_INTERVAL_MS);
    }
    client_free(&client);
    return rc == 0 ? EXIT_DONE : say_error(line, &why);
}
