#include "proxy/report.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "protocol/base.h"
#include "proxy/command_line.h"
#include "proxy/control.h"
#include "proxy/people.h"
#include "proxy/table.h"

enum {
    BAR_WIDTH = 30,
    TOLD_STEP_PERCENT = 10, /* between two lines where there is no terminal for a bar */
};

/* What stands between the request and the result. */
struct row {
    const char *line, *list;                          /* in the response; in the document */
    void (*take)(struct report *r, const json_t *of); /* NULL: the sum says enough */
    const struct table_column *columns;
    size_t column_count;
};

struct report {
    const struct commands_request *request;
    const struct row *row;
    bool json;
    bool row_printed;    /* with json: at least one */
    struct table *table; /* NULL: rows need none */
    json_t *result;      /* NULL: none came */
    json_t *error;       /* NULL: none came */
    bool terminal;       /* stderr is one */
    bool bar;            /* one stands there now */
    unsigned told_percent;
};

/* ---- what a response says ---- */

static uint64_t number(const json_t *object, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(object, key));
}

static const char *words(const json_t *object, const char *key, const char *otherwise)
{
    const char *s = json_string_value(json_object_get(object, key));

    return s != NULL ? s : otherwise;
}

static bool is_true(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

/* A row's cells as text. */
struct cells {
    char size[PEOPLE_TEXT_MAX], stored[PEOPLE_TEXT_MAX], accessed[PEOPLE_TEXT_MAX], count[24];
};

static struct cells cells_of(const json_t *of, const char *count)
{
    struct cells c;

    people_size(number(of, "size"), c.size);
    people_size(number(of, "stored_size"), c.stored);
    people_ago((int64_t)number(of, "accessed"), time(NULL), c.accessed);
    snprintf(c.count, sizeof(c.count), "%" PRIu64, number(of, count));
    return c;
}

/* ---- rows ---- */

static const struct table_column repository_columns[] = {
    {"REPOSITORY", false}, {"ANSWERS", true}, {"MIRROR", false},
    {"SIZE", true},        {"ON DISK", true}, {"LAST ACCESS", false},
};

static void add_repository(struct report *r, const json_t *of)
{
    const struct cells c = cells_of(of, "answers");
    const char *row[] = {
        words(of, "repo", "?"),
        c.count,
        is_true(of, "mirror") ? "yes" : "no",
        c.size,
        c.stored,
        c.accessed,
    };

    table_add(r->table, row);
}

static const struct table_column entry_columns[] = {
    {"KIND", false}, {"REPOSITORY", false}, {"REF", false},     {"COMMIT", false},
    {"SIZE", true},  {"ON DISK", true},     {"ACCESSES", true}, {"LAST ACCESS", false},
};

static void add_entry(struct report *r, const json_t *of)
{
    const struct cells c = cells_of(of, "accesses");
    char commit[13];
    const char *row[] = {
        words(of, "kind", "?"),
        words(of, "repo", "?"),
        words(of, "ref", "-"),
        commit,
        c.size,
        c.stored,
        c.count,
        c.accessed,
    };

    snprintf(commit, sizeof(commit), "%s", words(of, "commit", "-"));
    table_add(r->table, row);
}

static const struct table_column victim_columns[] = {
    {"KIND", false},    {"REPOSITORY", false},  {"ON DISK", true},
    {"ACCESSES", true}, {"LAST ACCESS", false}, {"WHY", false},
};

static void add_victim(struct report *r, const json_t *of)
{
    const struct cells c = cells_of(of, "accesses");
    const char *row[] = {
        words(of, "kind", "?"), words(of, "repo", "?"), c.stored, c.count, c.accessed,
        words(of, "why", "?"),
    };

    table_add(r->table, row);
}

static void show_size(const char *name, uint64_t bytes)
{
    char size[PEOPLE_TEXT_MAX];

    people_size(bytes, size);
    if (bytes < 1024)
        printf("  %-14s%s\n", name, size);
    else
        printf("  %-14s%s (%" PRIu64 " bytes)\n", name, size, bytes);
}

static void show_entry(struct report *r, const json_t *of)
{
    char created[PEOPLE_TEXT_MAX], accessed[PEOPLE_TEXT_MAX];
    char *location = xasprintf("%s, %s, %s", words(of, "tier", "?"), words(of, "path", "?"),
                               words(of, "node", "this node"));

    people_time((int64_t)number(of, "created"), created);
    people_time((int64_t)number(of, "accessed"), accessed);
    (void)r;
    printf("%s of ", words(of, "kind", "?"));
    print_name(words(of, "repo", "?"), stdout);
    putchar('\n');
    print_field("url", words(of, "url", "?"));
    print_field("repository id", words(of, "repo_id", "?"));
    print_field("ref", words(of, "ref", "-"));
    print_field("commit", words(of, "commit", "-"));
    show_size("size", number(of, "size"));
    show_size("on disk", number(of, "stored_size"));
    print_field("created", created);
    print_field("last access", accessed);
    printf("  %-14s%" PRIu64 "\n", "accesses", number(of, "accesses"));
    print_field("location", location);
    putchar('\n');
    free(location);
}

/* ---- progress ---- */

static void clear_bar(struct report *r)
{
    if (r->bar)
        fputs("\r\033[K", stderr);
    r->bar = false;
}

static void draw_bar(struct report *r, unsigned percent, const char *done, const char *total)
{
    int full = (int)(percent * BAR_WIDTH / 100);

    fprintf(stderr, "\r[%.*s%*s] %3u %%  %s of %s\033[K", full, "##############################",
            BAR_WIDTH - full, "", percent, done, total);
    r->bar = true;
}

static void take_progress(struct report *r, const json_t *of)
{
    uint64_t done = number(of, "done"), total = number(of, "total");
    unsigned percent = done >= total ? 100 : (unsigned)((double)done * 100 / (double)total);
    char so_far[PEOPLE_TEXT_MAX], all[PEOPLE_TEXT_MAX];

    people_size(done, so_far);
    people_size(total, all);
    if (r->terminal) {
        draw_bar(r, percent, so_far, all);
    } else if (!r->json && percent >= r->told_percent + TOLD_STEP_PERCENT) {
        fprintf(stderr, "%u %%: %s of %s read\n", percent, so_far, all);
        r->told_percent = percent;
    }
}

/* ---- lines ---- */

static void print_finding(struct report *r, const json_t *of)
{
    const json_t *entry = json_object_get(of, "entry");

    clear_bar(r);
    print_name(words(entry, "path", "?"), stdout);
    printf(" (%s of ", words(entry, "kind", "?"));
    print_name(words(entry, "repo", "?"), stdout);
    fputs("): ", stdout);
    print_name(words(of, "text", "?"), stdout);
    puts(is_true(of, "repaired") ? "; dropped" : "");
    fflush(stdout); /* the next may take minutes */
}

#define TABLE(columns) columns, ARRAY_LEN(columns)
static const struct row *row_of(const struct commands_request *request)
{
    static const struct row repositories = {"repository", "repositories", add_repository,
                                            TABLE(repository_columns)},
                            entries = {"entry", "entries", add_entry, TABLE(entry_columns)},
                            blocks = {"entry", "entries", show_entry, NULL, 0},
                            removed = {"entry", "entries", NULL, NULL, 0},
                            findings = {"finding", "findings", print_finding, NULL, 0},
                            victims = {"entry", "entries", add_victim, TABLE(victim_columns)};

    switch (request->kind) {
    case COMMANDS_LS: return request->entries ? &entries : &repositories;
    case COMMANDS_SHOW: return &blocks;
    case COMMANDS_RM: return &removed;
    case COMMANDS_VERIFY: return &findings;
    case COMMANDS_EVICT: return &victims;
    }
    must(!"a command of the table");
    return NULL;
}
#undef TABLE

/* A document of many entries is printed as they come: it may be larger than one wants in memory. */
static void print_json_row(struct report *r, const json_t *of)
{
    char *text = json_dumps(of, JSON_COMPACT);

    must(text != NULL);
    if (r->row_printed)
        printf(",\n    %s", text);
    else
        printf("{\n  \"%s\": [\n    %s", r->row->list, text);
    r->row_printed = true;
    free(text);
}

static void take_row(struct report *r, json_t *of)
{
    if (r->json)
        print_json_row(r, of);
    else if (r->row->take != NULL)
        r->row->take(r, of);
}

static void keep(json_t **place, json_t *of)
{
    json_decref(*place);
    *place = json_incref(of);
}

static void take(struct report *r, const char *what, json_t *of)
{
    if (!json_is_object(of) || json_object_size(of) == 0)
        return;
    if (strcmp(what, "progress") == 0) {
        take_progress(r, of);
    } else if (strcmp(what, "error") == 0) {
        keep(&r->error, of);
    } else if (strcmp(what, "result") == 0) {
        keep(&r->result, of);
    } else if (strcmp(what, r->row->line) == 0) {
        take_row(r, of);
    }
}

void report_line(struct report *r, const char *line, size_t len)
{
    json_t *json = json_loadb(line, len, 0, NULL), *of;
    const char *what;

    json_object_foreach(json, what, of)
    {
        take(r, what, of);
    }
    json_decref(json);
}

void report_fail(struct report *r, const struct err *why)
{
    json_decref(r->error);
    r->error = json_pack("{s:s, s:o}", "kind", err_kind_name(why->kind), "text",
                         control_string(why->text));
    must(r->error != NULL);
}

/* ---- begin and end ---- */

struct report *report_new(const struct commands_request *request, bool json)
{
    struct report *r = xcalloc(1, sizeof(*r));

    r->request = request;
    r->row = row_of(request);
    r->terminal = isatty(STDERR_FILENO) != 0;
    r->json = json;
    if (!json && r->row->column_count > 0)
        r->table = table_new(r->row->columns, r->row->column_count);
    return r;
}

/* How much of what may be. */
static void print_usage(const json_t *result)
{
    const json_t *usage = json_object_get(result, "usage");
    char total[PEOPLE_TEXT_MAX], limit[PEOPLE_TEXT_MAX];

    people_size(number(usage, "total"), total);
    people_size(number(usage, "limit"), limit);
    if (json_is_integer(json_object_get(usage, "limit")))
        printf("the folder takes %s of at most %s\n", total, limit);
    else
        printf("the folder takes %s\n", total);
}

/* "1 entry, 5 entries". */
static void print_count(uint64_t n, const char *one, const char *many)
{
    printf("%" PRIu64 " %s", n, n == 1 ? one : many);
}

static void conclude_ls(const json_t *result)
{
    char size[PEOPLE_TEXT_MAX], stored[PEOPLE_TEXT_MAX];

    people_size(number(result, "size"), size);
    people_size(number(result, "stored_size"), stored);
    if (json_object_get(result, "repository_count") != NULL) {
        print_count(number(result, "repository_count"), "repository", "repositories");
        fputs(", ", stdout);
    }
    print_count(number(result, "count"), "entry", "entries");
    printf(" of %s, %s on disk; ", size, stored);
    print_usage(result);
}

/* What went in the shared tier, when something did. */
static void print_shared(const json_t *shared)
{
    char size[PEOPLE_TEXT_MAX];

    if (number(shared, "objects") == 0)
        return;
    people_size(number(shared, "bytes"), size);
    print_count(number(shared, "objects"), "object", "objects");
    printf(" of %s in the shared tier; ", size);
}

static void conclude_removal(const struct report *r)
{
    char stored[PEOPLE_TEXT_MAX];

    people_size(number(r->result, "stored_size"), stored);
    fputs(r->request->dry_run ? "would remove " : "removed ", stdout);
    print_count(number(r->result, "count"), "entry", "entries");
    printf(", %s on disk; ", stored);
    print_shared(json_object_get(r->result, "shared"));
    print_usage(r->result);
}

static void conclude_verify(const json_t *result)
{
    char checked[PEOPLE_TEXT_MAX];
    uint64_t findings = number(result, "count"), repaired = number(result, "repaired");

    people_size(number(result, "checked"), checked);
    printf("%s read; ", checked);
    if (findings == 0) {
        puts("all is as it was written");
        return;
    }
    print_count(findings, "entry is", "entries are");
    printf(" damaged, %" PRIu64 " dropped%s\n", repaired,
           repaired < findings ? "; see 'pannier verify --repair'" : "");
}

/* What stands behind the rows: the result's members, or what went wrong. */
static void print_document_end(const struct report *r)
{
    json_t *end = r->error != NULL ? json_pack("{s:O}", "error", r->error) : json_incref(r->result);
    char *text = json_dumps(end, JSON_INDENT(2));

    must(text != NULL);
    if (r->row_printed)
        printf("\n  ],%s\n", text + strlen("{"));
    else if (r->error == NULL)
        printf("{\n  \"%s\": [],%s\n", r->row->list, text + strlen("{"));
    else
        puts(text);
    free(text);
    json_decref(end);
}

static void print_end(const struct report *r)
{
    if (r->table != NULL)
        table_print(r->table, stdout);
    switch (r->request->kind) {
    case COMMANDS_LS: conclude_ls(r->result); break;
    case COMMANDS_SHOW: break;
    case COMMANDS_RM:
    case COMMANDS_EVICT: conclude_removal(r); break;
    case COMMANDS_VERIFY: conclude_verify(r->result); break;
    }
}

/* It was done as far as it could be, and that isn't all. */
static bool something_is_left(const struct report *r)
{
    return r->request->kind == COMMANDS_VERIFY &&
           number(r->result, "count") > number(r->result, "repaired");
}

int report_finish(struct report **rp)
{
    struct report *r = *rp;
    bool failed;
    struct err why;

    *rp = NULL;
    clear_bar(r);
    if (r->error == NULL && r->result == NULL) {
        err_set(&why, ERR_CANCELLED, "the pannier that serves ended before it had answered");
        report_fail(r, &why);
    }
    if (r->json)
        print_document_end(r);
    else if (r->error == NULL)
        print_end(r);
    if (r->error != NULL)
        fprintf(stderr, "pannier: %s\n", words(r->error, "text", "it failed"));
    else if (!is_true(r->result, "complete"))
        fputs("pannier: the folder is still being read after the start; there may be more\n",
              stderr);
    failed = r->error != NULL || something_is_left(r);
    json_decref(r->result);
    json_decref(r->error);
    table_free(&r->table);
    free(r);
    return failed ? EXIT_FAILED : EXIT_DONE;
}
