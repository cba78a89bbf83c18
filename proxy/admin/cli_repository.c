#include "proxy/admin/cli.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "protocol/base.h"
#include "proxy/admin/cli_ask.h"
#include "proxy/admin/cli_say.h"
#include "proxy/people.h"
#include "proxy/table.h"

/* ---- repo show ---- */

static void print_errors(const json_t *errors)
{
    const json_t *e;
    size_t i;

    json_array_foreach(errors, i, e)
    {
        char when[PEOPLE_TEXT_MAX];

        people_time((int64_t)said_number(e, "time"), when);
        printf("  %s  ", when);
        print_name(said_words(e, "event", "?"), stdout);
        fputs(": ", stdout);
        print_name(said_words(e, "text", ""), stdout);
        putchar('\n');
    }
}

static const char *shown_to(const json_t *object)
{
    const char *word = said_words(object, "shown_to", "?");

    return strcmp(word, "anonymous") == 0 ? "a client without a credential"
           : strcmp(word, "client") == 0  ? "a client with its own credential"
           : strcmp(word, "own") == 0     ? "pannier with its own credential"
                                          : word;
}

static void say_refs_seen(const json_t *seen)
{
    char listed[PEOPLE_TEXT_MAX];

    if (!json_is_object(seen)) {
        print_field("refs seen", "none since the start");
        return;
    }
    people_time((int64_t)said_number(seen, "listed"), listed);
    printf("  %-14s%" PRIu64 "%s; last at %s by ", "refs seen", said_number(seen, "count"),
           json_is_true(json_object_get(seen, "complete")) ? "" : " and more", listed);
    print_name(shown_to(seen), stdout);
    putchar('\n');
}

static void print_repository(const struct command_line *line, const json_t *r)
{
    const json_t *traffic = json_object_get(r, "traffic"), *errors = json_object_get(r, "errors");
    const json_t *shared = json_object_get(r, "shared_mirror");

    (void)line;
    print_name(said_words(r, "repo", "?"), stdout);
    putchar('\n');
    print_field("id", said_words(r, "id", "?"));
    print_field("url", said_words(r, "url", "?"));
    print_field("mirror", json_is_true(json_object_get(r, "mirror")) ? "yes" : "no");
    if (json_is_object(shared)) {
        printf("  %-14sgeneration %" PRIu64 ", by ", "in the bucket",
               said_number(shared, "generation"));
        print_name(said_words(shared, "node", "?"), stdout);
        putchar('\n');
    }
    say_number("answers", said_number(r, "answers"));
    print_field("pinned", json_is_true(json_object_get(r, "pinned")) ? "yes" : "no");
    say_size("on disk", said_number(r, "stored_size"));
    say_time("created", said_number(r, "created"));
    say_time("last access", said_number(r, "accessed"));
    say_number("hits", said_number(traffic, "hits"));
    say_number("misses", said_number(traffic, "misses"));
    say_number("passed on", said_number(traffic, "passes"));
    say_ratio("hit ratio", traffic, "hit_ratio");
    say_ratio("by bytes", traffic, "byte_hit_ratio");
    say_size("sent", said_number(traffic, "bytes"));
    say_refs_seen(json_object_get(r, "refs_seen"));
    if (json_array_size(errors) > 0) {
        puts("latest errors");
        print_errors(errors);
    }
}

int admin_cli_show(const struct command_line *line)
{
    return ask_run(line, (struct ask){"GET", "", .on_repository = true, .print = print_repository});
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
        people_ago((int64_t)said_number(r, "seen"), time(NULL), when);
        table_add(t, (const char *const[]){said_words(r, "name", "?"), said_words(r, "object", "?"),
                                           when, said_words(r, "shown_to", "?")});
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
    char *path = xasprintf("/refs?limit=%d", ASK_PAGE);
    int rc = ask_run(
        line,
        (struct ask){.path = path, .on_repository = true, .list = "refs", .print = print_refs});

    free(path);
    return rc;
}

/* ---- repo invalidate ---- */

static bool is_nothing(const json_t *said)
{
    const json_t *node = json_array_get(json_object_get(said, "nodes"), 0);

    return said_number(node, "entries") == 0 &&
           said_number(json_object_get(said, "shared"), "objects") == 0;
}

static void print_invalidated(const struct command_line *line, const json_t *said)
{
    const json_t *node, *shared = json_object_get(said, "shared");
    const char *verb = line->dry_run ? "would remove" : "removed";
    char size[PEOPLE_TEXT_MAX];
    size_t i;

    json_array_foreach(json_object_get(said, "nodes"), i, node)
    {
        uint64_t entries = said_number(node, "entries");

        people_size(said_number(node, "stored_bytes"), size);
        print_name(said_words(node, "name", "?"), stdout);
        printf(": %s %" PRIu64 " %s of %s%s\n", verb, entries, entries == 1 ? "entry" : "entries",
               size,
               json_is_true(json_object_get(node, "mirror")) ? ", the mirror among them" : "");
    }
    if (json_is_object(shared)) {
        people_size(said_number(shared, "bytes"), size);
        printf("shared tier: removed %" PRIu64 " objects of %s\n", said_number(shared, "objects"),
               size);
    }
    /* Under another name than clients write nothing goes, and no node serves that. */
    if ((line->everything || line->object != NULL) && !line->all && is_nothing(said))
        puts("this node had nothing of it: is it called so by clients?");
    if (line->dry_run)
        return;
    puts("what was remembered of refs and of who may see what is forgotten");
    json_array_foreach(json_object_get(said, "late"), i, node)
    {
        print_name(json_is_string(node) ? json_string_value(node) : "?", stdout);
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
    if (!ask_is_utf8(line->ref) || !ask_is_utf8(line->object) || !ask_is_utf8(line->reason))
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
    return ask_run(line, (struct ask){"POST", "/invalidate", .on_repository = !line->all,
                                      .body = body, .print = print_invalidated});
}

/* ---- repo refresh, pin, unpin ---- */

static void print_refreshed(const struct command_line *line, const json_t *said)
{
    (void)line;
    if (json_is_true(json_object_get(said, "made")))
        printf("made the mirror: %" PRIu64 " branches and tags\n", said_number(said, "tips"));
    else
        printf("of %" PRIu64 " branches and tags %" PRIu64 " were not here; now they are\n",
               said_number(said, "tips"), said_number(said, "missing"));
}

int admin_cli_refresh(const struct command_line *line)
{
    return ask_run(
        line, (struct ask){"POST", "/refresh", .on_repository = true, .print = print_refreshed});
}

static void print_pinned(const struct command_line *line, const json_t *said)
{
    (void)line;
    puts(json_is_true(json_object_get(said, "pinned")) ? "pinned" : "not pinned any more");
}

int admin_cli_pin(const struct command_line *line)
{
    return ask_run(line,
                   (struct ask){"POST", "/pin", .on_repository = true, .print = print_pinned});
}

int admin_cli_unpin(const struct command_line *line)
{
    return ask_run(line,
                   (struct ask){"DELETE", "/pin", .on_repository = true, .print = print_pinned});
}
