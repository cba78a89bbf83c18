#include "proxy/admin/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "protocol/base.h"
#include "protocol/digest.h"
#include "proxy/admin/client.h"
#include "proxy/commands.h"
#include "proxy/people.h"
#include "proxy/table.h"
#include "proxy/warm/warmups.h"

enum {
    TOKEN_MAX_BYTES = 4096,
    PAGE = 1000,
    TOP_ROWS = 20,
    TOP_INTERVAL_MS = 2000,
    WARM_INTERVAL_MS = 200,
    WARM_BAR = 30, /* characters */
};

/* ---- who is asked, and how ---- */

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

static int open_client(const struct command_line *line, struct client **out, struct err *err)
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

/* ---- how it is said ---- */

static bool colours(FILE *out)
{
    const char *no = getenv("NO_COLOR"), *terminal = getenv("TERM");

    return isatty(fileno(out)) && (no == NULL || *no == '\0') &&
           (terminal == NULL || strcmp(terminal, "dumb") != 0);
}

static void print_failure(const char *text)
{
    bool coloured = colours(stderr);

    fputs(coloured ? "\033[31mpannier:\033[0m " : "pannier: ", stderr);
    print_name(text, stderr);
    putc('\n', stderr);
}

static void print_json(const json_t *json)
{
    char *text = json_dumps(json, JSON_INDENT(2));

    must(text != NULL);
    puts(text);
    free(text);
}

/* The exit status. */
static int fail(const struct command_line *line, const struct err *why)
{
    if (line->json) {
        json_t *json = json_pack("{s:{s:s, s:s}}", "error", "kind", err_kind_name(why->kind),
                                 "text", why->text);

        if (json != NULL)
            print_json(json);
        json_decref(json);
    } else {
        print_failure(why->text);
    }
    return why->kind == ERR_INPUT ? EXIT_USAGE : EXIT_FAILED;
}

static uint64_t number(const json_t *object, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(object, key));
}

static const char *words(const json_t *object, const char *key, const char *otherwise)
{
    const char *s = json_string_value(json_object_get(object, key));

    return s != NULL ? s : otherwise;
}

static void format_ratio(const json_t *object, const char *key, char out[16])
{
    const json_t *value = json_object_get(object, key);

    if (json_is_number(value))
        snprintf(out, 16, "%.1f %%", 100 * json_number_value(value));
    else
        snprintf(out, 16, "-");
}

/* ---- one call ---- */

/* What a problem document says, as an error. */
static int problem(int status, const json_t *json, struct err *err)
{
    const char *detail = words(json, "detail", NULL), *field = words(json, "field", NULL);
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

/* *out: the document, yours.  body is stolen; NULL: none. */
static int call(struct client *c, const char *method, const char *path, json_t *body, json_t **out,
                struct err *err)
{
    char *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
    struct client_reply reply;
    json_error_t ignored;
    int rc = 0;

    json_decref(body);
    *out = NULL;
    if (client_call(c, method, path, text, text != NULL ? strlen(text) : 0, &reply, err) != 0) {
        rc = -1;
    } else {
        *out =
            json_loadb(reply.body.data != NULL ? reply.body.data : "", reply.body.len, 0, &ignored);
        if ((reply.status != 200 && reply.status != 202) || *out == NULL)
            rc = problem(reply.status, *out, err);
        client_reply_clear(&reply);
    }
    if (rc != 0) {
        json_decref(*out);
        *out = NULL;
    }
    free(text);
    return rc;
}

/* It was told, and is not in force everywhere yet; or the other nodes can't be listed. */
static bool is_unfinished(const json_t *document)
{
    return (json_is_false(json_object_get(document, "acknowledged")) &&
            json_is_false(json_object_get(document, "dry_run"))) ||
           json_is_string(json_object_get(document, "reason"));
}

static char *escape(const char *s)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._";
    char *out = xmalloc(3 * strlen(s) + 1), *at = out;

    for (; *s != '\0'; s++)
        at += sprintf(at, strchr(plain, *s) != NULL ? "%c" : "%%%02X", (unsigned char)*s);
    *at = '\0';
    return out;
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

        rc = call(client, "GET", at, NULL, &page, err);
        free(at);
        free(cursor);
        cursor = NULL;
        if (rc == 0) {
            const char *next = words(page, "next", NULL);

            must(json_array_extend(all, json_object_get(page, name)) == 0);
            cursor = next != NULL ? xstrdup(next) : NULL;
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

typedef void print_fn(const struct command_line *line, const json_t *document);

/* Call, print (or print the document), be done. */
struct task {
    const char *method, *path;
    bool on_repository; /* path is what stands behind "/repositories/<REPO's id>" */
    const char *list;   /* all pages of the list of this name; NULL: it has none */
    json_t *body;       /* stolen; NULL: none */
    print_fn *print;
};

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
    value = escape(name);
    path = xasprintf("/repositories?limit=2&name=%s", value);
    rc = call(client, "GET", path, NULL, &page, err);
    found = json_object_get(page, "repositories");
    if (rc != 0) {
        ;
    } else if (json_array_size(found) > 1) {
        rc = err_set(err, ERR_INPUT, "%s may be %s or %s: name one of them by its id", name,
                     words(json_array_get(found, 0), "repo", "?"),
                     words(json_array_get(found, 1), "repo", "?"));
    } else if (json_array_size(found) == 1) {
        snprintf(hex, KEY_HEX_SIZE, "%s", words(json_array_get(found, 0), "id", ""));
    } else {
        must(commands_repo_id(typed, &id)); /* run() has looked */
        key_to_hex(&id, hex);
    }
    json_decref(page);
    free(path);
    free(value);
    free(name);
    return rc;
}

/* *out: the document, yours. */
static int do_task(const struct command_line *line, struct client *client, struct task *t,
                   json_t **out, struct err *err)
{
    json_t *body = t->body;
    char hex[KEY_HEX_SIZE];
    char *path;
    int rc;

    t->body = NULL;
    *out = NULL;
    if (t->on_repository && find_repository(client, line->arguments[0], hex, err) != 0) {
        json_decref(body);
        return -1;
    }
    path = t->on_repository ? xasprintf("/repositories/%s%s", hex, t->path) : xstrdup(t->path);
    rc = t->list != NULL ? list_all(client, path, t->list, out, err)
                         : call(client, t->method, path, body, out, err);
    free(path);
    return rc;
}

static bool is_repository(const char *typed)
{
    struct key id;

    return key_from_hex(typed, &id) || commands_repo_id(typed, &id);
}

static int run(const struct command_line *line, struct task t)
{
    struct client *client = NULL;
    json_t *document = NULL;
    struct err why;
    int rc = EXIT_DONE;

    if (t.on_repository && !is_repository(line->arguments[0])) {
        fprintf(stderr, "pannier %s: REPO is neither <upstream>/<path> nor an id\n",
                line->command->name);
        rc = EXIT_USAGE;
    } else if (open_client(line, &client, &why) != 0 ||
               do_task(line, client, &t, &document, &why) != 0) {
        rc = fail(line, &why);
    } else if (line->json) {
        print_json(document);
    } else {
        t.print(line, document);
    }
    if (is_unfinished(document))
        rc = EXIT_FAILED;
    json_decref(t.body);
    json_decref(document);
    client_free(&client);
    return rc;
}

/* ---- repo ls ---- */

static const struct table_column repository_columns[] = {
    {"REPOSITORY", false}, {"ANSWERS", true}, {"MIRROR", false},   {"PINNED", false},
    {"ON DISK", true},     {"HITS", true},    {"HIT RATIO", true}, {"LAST ACCESS", false},
};

static void add_repository(struct table *t, const json_t *r)
{
    const json_t *traffic = json_object_get(r, "traffic");
    char answers[24], hits[24], ratio[16], size[PEOPLE_TEXT_MAX], accessed[PEOPLE_TEXT_MAX];
    const char *cells[] = {
        words(r, "repo", "?"),
        answers,
        json_is_true(json_object_get(r, "mirror")) ? "yes" : "no",
        json_is_true(json_object_get(r, "pinned")) ? "yes" : "no",
        size,
        hits,
        ratio,
        accessed,
    };

    snprintf(answers, sizeof(answers), "%" PRIu64, number(r, "answers"));
    snprintf(hits, sizeof(hits), "%" PRIu64, number(traffic, "hits"));
    format_ratio(traffic, "hit_ratio", ratio);
    people_size(number(r, "stored_size"), size);
    people_ago((int64_t)number(r, "accessed"), time(NULL), accessed);
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
    char *filter = line->filter != NULL ? escape(line->filter) : NULL;
    char *order = sort != NULL ? escape(sort) : NULL;
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
        print_failure("the folder is still being read; there may be more");
}

int admin_cli_ls(const struct command_line *line)
{
    char *path = list_path(line, PAGE, line->sort);
    int rc = run(line, (struct task){.path = path, .list = "repositories", .print = print_list});

    free(path);
    return rc;
}

/* ---- repo show ---- */

static void show_size(const char *name, uint64_t bytes)
{
    char text[PEOPLE_TEXT_MAX];

    people_size(bytes, text);
    print_field(name, text);
}

static void show_number(const char *name, uint64_t n)
{
    printf("  %-14s%" PRIu64 "\n", name, n);
}

static void show_time(const char *name, uint64_t s)
{
    char text[PEOPLE_TEXT_MAX];

    people_time((int64_t)s, text);
    print_field(name, text);
}

static void show_ratio(const char *name, const json_t *object, const char *key)
{
    char text[16];

    format_ratio(object, key, text);
    print_field(name, text);
}

static void print_errors(const json_t *errors)
{
    const json_t *e;
    size_t i;

    json_array_foreach(errors, i, e)
    {
        char when[PEOPLE_TEXT_MAX];

        people_time((int64_t)number(e, "time"), when);
        printf("  %s  ", when);
        print_name(words(e, "event", "?"), stdout);
        fputs(": ", stdout);
        print_name(words(e, "text", ""), stdout);
        putchar('\n');
    }
}

static const char *shown_to(const json_t *object)
{
    const char *word = words(object, "shown_to", "?");

    return strcmp(word, "anonymous") == 0 ? "a client without a credential"
           : strcmp(word, "client") == 0  ? "a client with its own credential"
           : strcmp(word, "own") == 0     ? "pannier with its own credential"
                                          : word;
}

static void show_refs_seen(const json_t *seen)
{
    char listed[PEOPLE_TEXT_MAX];

    if (!json_is_object(seen)) {
        print_field("refs seen", "none since the start");
        return;
    }
    people_time((int64_t)number(seen, "listed"), listed);
    printf("  %-14s%" PRIu64 "%s; last at %s by ", "refs seen", number(seen, "count"),
           json_is_true(json_object_get(seen, "complete")) ? "" : " and more", listed);
    print_name(shown_to(seen), stdout);
    putchar('\n');
}

static void print_repository(const struct command_line *line, const json_t *r)
{
    const json_t *traffic = json_object_get(r, "traffic"), *errors = json_object_get(r, "errors");
    const json_t *shared = json_object_get(r, "shared_mirror");

    (void)line;
    print_name(words(r, "repo", "?"), stdout);
    putchar('\n');
    print_field("id", words(r, "id", "?"));
    print_field("url", words(r, "url", "?"));
    print_field("mirror", json_is_true(json_object_get(r, "mirror")) ? "yes" : "no");
    if (json_is_object(shared))
        printf("  %-14sgeneration %" PRIu64 ", by %s\n", "in the bucket",
               number(shared, "generation"), words(shared, "node", "?"));
    show_number("answers", number(r, "answers"));
    print_field("pinned", json_is_true(json_object_get(r, "pinned")) ? "yes" : "no");
    show_size("on disk", number(r, "stored_size"));
    show_time("created", number(r, "created"));
    show_time("last access", number(r, "accessed"));
    show_number("hits", number(traffic, "hits"));
    show_number("misses", number(traffic, "misses"));
    show_number("passed on", number(traffic, "passes"));
    show_ratio("hit ratio", traffic, "hit_ratio");
    show_ratio("by bytes", traffic, "byte_hit_ratio");
    show_size("sent", number(traffic, "bytes"));
    show_refs_seen(json_object_get(r, "refs_seen"));
    if (json_array_size(errors) > 0) {
        puts("latest errors");
        print_errors(errors);
    }
}

int admin_cli_show(const struct command_line *line)
{
    return run(line, (struct task){"GET", "", .on_repository = true, .print = print_repository});
}

/* ---- repo refs ---- */

static const struct table_column ref_columns[] = {
    {"REF", false}, {"OBJECT", false}, {"SEEN", false}, {"SHOWN TO", false}};

static void print_refs(const struct command_line *line, const json_t *document)
{
    struct table *t = table_new(ref_columns, ARRAY_LEN(ref_columns));
    const json_t *seen = json_object_get(document, "seen"), *r;
    char when[PEOPLE_TEXT_MAX];
    size_t i;

    (void)line;
    json_array_foreach(json_object_get(document, "refs"), i, r)
    {
        people_ago((int64_t)number(r, "seen"), time(NULL), when);
        table_add(t, (const char *const[]){words(r, "name", "?"), words(r, "object", "?"), when,
                                           words(r, "shown_to", "?")});
    }
    table_print(t, stdout);
    table_free(&t);
    if (!json_is_object(seen))
        puts("upstream has shown none since the start");
    else if (!json_is_true(json_object_get(seen, "complete")))
        puts("it has shown more than are remembered");
}

int admin_cli_refs(const struct command_line *line)
{
    char *path = xasprintf("/refs?limit=%d", PAGE);
    int rc = run(
        line,
        (struct task){.path = path, .on_repository = true, .list = "refs", .print = print_refs});

    free(path);
    return rc;
}

/* ---- repo invalidate, refresh, pin ---- */

static bool is_nothing(const json_t *said)
{
    const json_t *node = json_array_get(json_object_get(said, "nodes"), 0);

    return number(node, "entries") == 0 && number(json_object_get(said, "shared"), "objects") == 0;
}

static void print_invalidated(const struct command_line *line, const json_t *said)
{
    const json_t *node, *shared = json_object_get(said, "shared");
    const char *verb = line->dry_run ? "would remove" : "removed";
    char size[PEOPLE_TEXT_MAX];
    size_t i;

    json_array_foreach(json_object_get(said, "nodes"), i, node)
    {
        uint64_t entries = number(node, "entries");

        people_size(number(node, "stored_bytes"), size);
        print_name(words(node, "name", "?"), stdout);
        printf(": %s %" PRIu64 " %s of %s%s\n", verb, entries, entries == 1 ? "entry" : "entries",
               size,
               json_is_true(json_object_get(node, "mirror")) ? ", the mirror among them" : "");
    }
    if (json_is_object(shared)) {
        people_size(number(shared, "bytes"), size);
        printf("shared tier: removed %" PRIu64 " objects of %s\n", number(shared, "objects"), size);
    }
    /* Under another name than clients write nothing goes, and no node serves that. */
    if ((line->everything || line->object != NULL) && !line->all && is_nothing(said))
        puts("this node had nothing of it: is it called so by clients?");
    if (line->dry_run)
        return;
    puts("what was remembered of refs and of who may see what is forgotten");
    json_array_foreach(json_object_get(said, "late"), i, node)
    {
        print_name(json_string_value(node), stdout);
        puts(" has not said that it has done so ('pannier nodes --forget' when it is gone for "
             "good)");
    }
    puts(json_is_true(json_object_get(said, "acknowledged"))
             ? "no node serves it any more"
             : "not acknowledged: nodes may serve it still");
}

static void set_words(json_t *body, const char *name, const char *value)
{
    if (value != NULL)
        must(json_object_set_new(body, name, json_string(value)) == 0);
}

static void set_true(json_t *body, const char *name, bool value)
{
    if (value)
        must(json_object_set_new(body, name, json_true()) == 0);
}

static bool is_utf8(const char *s)
{
    json_t *string = s != NULL ? json_string(s) : NULL;
    bool is = s == NULL || string != NULL;

    json_decref(string);
    return is;
}

/* NULL: what was typed makes sense. */
static const char *invalidation_fault(const struct command_line *line)
{
    bool some = line->refs || line->ref != NULL || line->object != NULL;

    if (line->all == (line->argument_count > 0))
        return "needs either REPO or --all";
    if (line->all && some)
        return "--all is everything of all repositories, and takes none of --refs, --ref and "
               "--object";
    if (!line->all &&
        line->refs + line->everything + (line->ref != NULL) + (line->object != NULL) != 1)
        return "needs one of --refs, --ref, --object and --everything";
    if (!is_utf8(line->ref) || !is_utf8(line->object) || !is_utf8(line->reason))
        return "a value is not UTF-8";
    return NULL;
}

int admin_cli_invalidate(const struct command_line *line)
{
    const char *fault = invalidation_fault(line);
    json_t *body;

    if (fault != NULL) {
        fprintf(stderr, "pannier repo invalidate: %s; see 'pannier repo invalidate --help'\n",
                fault);
        return EXIT_USAGE;
    }
    body = json_object();
    set_true(body, "refs", line->refs);
    set_true(body, "everything", line->everything || line->all);
    set_true(body, "dry_run", line->dry_run);
    set_words(body, "ref", line->ref);
    set_words(body, "object", line->object);
    set_words(body, "reason", line->reason);
    return run(line, (struct task){"POST", "/invalidate", .on_repository = !line->all, .body = body,
                                   .print = print_invalidated});
}

static void print_refreshed(const struct command_line *line, const json_t *said)
{
    (void)line;
    if (json_is_true(json_object_get(said, "made")))
        printf("made the mirror: %" PRIu64 " branches and tags\n", number(said, "tips"));
    else
        printf("of %" PRIu64 " branches and tags %" PRIu64 " were not here; now they are\n",
               number(said, "tips"), number(said, "missing"));
}

int admin_cli_refresh(const struct command_line *line)
{
    return run(line,
               (struct task){"POST", "/refresh", .on_repository = true, .print = print_refreshed});
}

static void print_pinned(const struct command_line *line, const json_t *said)
{
    (void)line;
    puts(json_is_true(json_object_get(said, "pinned")) ? "pinned" : "not pinned any more");
}

int admin_cli_pin(const struct command_line *line)
{
    return run(line, (struct task){"POST", "/pin", .on_repository = true, .print = print_pinned});
}

int admin_cli_unpin(const struct command_line *line)
{
    return run(line, (struct task){"DELETE", "/pin", .on_repository = true, .print = print_pinned});
}

/* ---- warm ---- */

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
        utf8 = utf8 && is_utf8(line->arguments[i]);
    for (size_t i = 0; i < line->branch_count; i++)
        utf8 = utf8 && is_utf8(line->branches[i]);
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
    uint64_t total = number(warmup, "total"), failed = number(warmup, "failed");
    uint64_t over = number(warmup, "done") + failed;
    bool coloured = colours(stderr);
    char bar[WARM_BAR + 1];
    size_t filled = total > 0 ? (size_t)(over * WARM_BAR / total) : 0;

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

/* Until it has ended; *warmup is then what it has become. */
static int wait_for_warmup(struct client *client, json_t **warmup, struct err *err)
{
    char *path = xasprintf("/warmups/%s", words(*warmup, "id", ""));
    int rc = 0;

    draw_progress(*warmup);
    while (rc == 0 && !has_ended(*warmup)) {
        json_t *news;

        poll(NULL, 0, WARM_INTERVAL_MS);
        rc = call(client, "GET", path, NULL, &news, err);
        if (rc != 0)
            break;
        json_decref(*warmup);
        *warmup = news;
        draw_progress(*warmup);
    }
    free(path);
    return rc;
}

static void print_warmup(const json_t *warmup)
{
    const json_t *r;
    size_t i;

    json_array_foreach(json_object_get(warmup, "repositories"), i, r)
    {
        const char *error = words(r, "error", NULL);
        bool failed = error != NULL && strcmp(words(r, "state", ""), "failed") == 0;
        FILE *out = failed ? stderr : stdout;

        if (failed && colours(stderr))
            fputs("\033[31m", out);
        print_name(words(r, "repository", "?"), out);
        fputs(": ", out);
        print_name(failed                             ? error
                   : words(r, "detail", NULL) != NULL ? words(r, "detail", "")
                                                      : words(r, "state", "?"),
                   out);
        fputs(failed && colours(stderr) ? "\033[0m\n" : "\n", out);
    }
    printf("warm-up %s: %" PRIu64 " of %" PRIu64 " done, %" PRIu64 " failed\n",
           words(warmup, "id", "?"), number(warmup, "done"), number(warmup, "total"),
           number(warmup, "failed"));
}

int admin_cli_warm(const struct command_line *line)
{
    json_t *body = warmup_request(line), *warmup = NULL;
    struct client *client = NULL;
    struct err why;
    int rc;

    if (body == NULL)
        return EXIT_USAGE;
    rc = open_client(line, &client, &why);
    if (rc != 0)
        json_decref(body);
    else
        rc = call(client, "POST", "/warmups", body, &warmup, &why);
    if (rc == 0 && line->wait)
        rc = wait_for_warmup(client, &warmup, &why);
    if (rc != 0) {
        rc = fail(line, &why);
    } else {
        if (line->json)
            print_json(warmup);
        else
            print_warmup(warmup);
        rc = number(warmup, "failed") > 0 ? EXIT_FAILED : EXIT_DONE;
    }
    json_decref(warmup);
    client_free(&client);
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
    bool silent = strcmp(words(n, "state", ""), "silent") == 0;
    int64_t now_s = time(NULL);
    const char *cells[] = {
        words(n, "name", "?"),
        words(n, "state", "?"),
        words(n, "peer_address", "-"),
        words(n, "version", "-"),
        silent ? "-" : requests,
        silent ? "-" : disk,
        since,
    };

    snprintf(requests, sizeof(requests), "%" PRIu64, number(n, "requests"));
    people_size(number(n, "disk_used"), disk);
    people_ago(silent ? now_s - (int64_t)(number(n, "silent_ms") / 1000)
                      : (int64_t)number(n, "started"),
               now_s, since);
    table_add(t, cells);
}

static void print_nodes(const struct command_line *line, const json_t *said)
{
    struct table *t = table_new(node_columns, ARRAY_LEN(node_columns));
    const char *reason = words(said, "reason", NULL);
    const json_t *n;
    size_t i;

    (void)line;
    json_array_foreach(json_object_get(said, "nodes"), i, n) add_node(t, n);
    table_print(t, stdout);
    table_free(&t);
    if (json_is_true(json_object_get(said, "alone")))
        puts("this node is alone: redis.url is not set");
    if (reason != NULL)
        print_failure(reason);
}

static void print_forgotten(const struct command_line *line, const json_t *said)
{
    (void)line;
    print_name(words(said, "forgotten", "?"), stdout);
    puts(": nobody waits for it any more");
}

int admin_cli_nodes(const struct command_line *line)
{
    char *name, *path;
    int rc;

    if (line->forget == NULL)
        return run(line, (struct task){"GET", "/nodes", .print = print_nodes});
    name = escape(line->forget);
    path = xasprintf("/nodes/%s", name);
    rc = run(line, (struct task){"DELETE", path, .print = print_forgotten});
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
           "hits", number(hits, "local"), number(hits, "shared"), number(hits, "coalesced"),
           number(hits, "peer"));
    printf("  %-14smirror %" PRIu64 ", refresh %" PRIu64 ", upstream %" PRIu64
           ", passed on %" PRIu64 "\n",
           "misses", number(misses, "mirror"), number(misses, "refresh"),
           number(misses, "upstream"), number(misses, "pass"));
    show_ratio("hit ratio", traffic, "hit_ratio");
    show_ratio("by bytes", traffic, "byte_hit_ratio");
    show_size("sent", number(traffic, "client_bytes"));
    show_size("from upstream", number(traffic, "upstream_bytes"));
    show_size("saved", number(traffic, "saved_bytes"));
    show_number("evicted", number(local, "evicted"));
    puts("now");
    show_number("in flight", number(s, "in_flight"));
    show_size("on disk", number(local, "total"));
    if (json_is_integer(json_object_get(local, "limit")))
        show_size("of at most", number(local, "limit"));
    show_number("answers", number(entries, "answers"));
    show_number("mirrors", number(entries, "mirrors"));
    show_number("pinned", number(local, "pinned"));
    if (json_is_object(shared))
        print_field("shared tier", json_is_true(json_object_get(shared, "works"))
                                       ? "works"
                                       : words(shared, "reason", "does not work"));
}

int admin_cli_stats(const struct command_line *line)
{
    return run(line, (struct task){"GET", "/stats", .print = print_stats});
}

/* ---- top ---- */

static int look(const struct command_line *line, struct client *client, bool screen,
                struct err *err)
{
    char *path = list_path(line, TOP_ROWS, "-accessed");
    json_t *stats = NULL, *page = NULL;
    int rc = call(client, "GET", "/stats", NULL, &stats, err);

    if (rc == 0)
        rc = call(client, "GET", path, NULL, &page, err);
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

/* Until it is interrupted; without a terminal one look is all. */
int admin_cli_top(const struct command_line *line)
{
    bool screen = isatty(STDOUT_FILENO);
    struct client *client = NULL;
    struct err why;
    int rc = open_client(line, &client, &why);

    while (rc == 0) {
        rc = look(line, client, screen, &why);
        if (!screen || ferror(stdout))
            break;
        if (rc == 0)
            poll(NULL, 0, TOP_INTERVAL_MS);
    }
    client_free(&client);
    return rc == 0 ? EXIT_DONE : fail(line, &why);
}
