#include "proxy/command_line.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

enum {
    OPTION_HELP = 'h',
    OPTION_CONFIG = 256, /* beyond all letters, which getopt reports in the same place */
    OPTION_LISTEN,
    OPTION_ADMIN_LISTEN,
    OPTION_DATA,
    OPTION_UPSTREAM,
    OPTION_LOG_FORMAT,
    OPTION_JSON,
    OPTION_ENTRIES,
    OPTION_ALL,
    OPTION_REPAIR,
    OPTION_DRY_RUN,
    OPTION_TO,
    OPTION_FORGET,
    OPTION_ADMIN,
    OPTION_TOKEN_FILE,
    OPTION_SORT,
    OPTION_FILTER,
    OPTION_REFS,
    OPTION_REF,
    OPTION_OBJECT,
    OPTION_EVERYTHING,
    OPTION_REASON,
    OPTION_MOST_USED,
    OPTION_BRANCH,
    OPTION_DEPTH,
    OPTION_WAIT
};

/* One table for getopt_long and for the help, which shows its end first. */
static const struct option_row {
    const char *name;
    const char *value;
    int id;
    unsigned set; /* 0: of every command */
    const char *what;
} options[] = {
    {"help", NULL, OPTION_HELP, 0, "show this"},
    {"config", "FILE", OPTION_CONFIG, OPTIONS_FOLDER, "the configuration, in YAML (default: none)"},
    {"listen", "HOST:PORT", OPTION_LISTEN, OPTIONS_SERVE, "the address to serve on"},
    {"admin-listen", "HOST:PORT", OPTION_ADMIN_LISTEN, OPTIONS_SERVE,
     "the address for operators, or off"},
    {"data", "DIR", OPTION_DATA, OPTIONS_FOLDER, "where answers and mirrors are kept"},
    {"upstream", "NAME=URL", OPTION_UPSTREAM, OPTIONS_SERVE,
     "add or replace an upstream; may be given again; one '*' in both is a pattern"},
    {"log-format", "FORMAT", OPTION_LOG_FORMAT, OPTIONS_SERVE, "text or json"},
    {"json", NULL, OPTION_JSON, OPTIONS_JSON, "print one JSON document"},
    {"entries", NULL, OPTION_ENTRIES, OPTIONS_LS, "a line for every answer and mirror"},
    {"all", NULL, OPTION_ALL, OPTIONS_RM, "remove everything"},
    {"repair", NULL, OPTION_REPAIR, OPTIONS_VERIFY,
     "drop what is damaged; it is made again when it is asked for"},
    {"dry-run", NULL, OPTION_DRY_RUN, OPTIONS_EVICT | OPTIONS_REPO_INVALIDATE,
     "only tell what would go, and why"},
    {"forget", "NODE", OPTION_FORGET, OPTIONS_NODES,
     "a silent one is gone for good: wait for it no more"},
    {"refs", NULL, OPTION_REFS, OPTIONS_REPO_INVALIDATE, "only its refs, and who may see what"},
    {"ref", "NAME", OPTION_REF, OPTIONS_REPO_INVALIDATE, "only what is known of this ref"},
    {"object", "ID", OPTION_OBJECT, OPTIONS_REPO_INVALIDATE, "only what may hold this object"},
    {"everything", NULL, OPTION_EVERYTHING, OPTIONS_REPO_INVALIDATE, "all that is kept of it"},
    {"all", NULL, OPTION_ALL, OPTIONS_REPO_INVALIDATE, "everything of all repositories"},
    {"reason", "TEXT", OPTION_REASON, OPTIONS_REPO_INVALIDATE, "for the logs of all nodes"},
    {"to", "SIZE", OPTION_TO, OPTIONS_EVICT,
     "keep at most so much, such as 20G (default: the limits of the configuration)"},
    {"admin", "URL", OPTION_ADMIN, OPTIONS_ADMIN,
     "the admin listener (default: $PANNIER_ADMIN, or http://127.0.0.1:8081)"},
    {"token-file", "FILE", OPTION_TOKEN_FILE, OPTIONS_ADMIN,
     "the file that holds the token (default: $PANNIER_ADMIN_TOKEN is one)"},
    {"sort", "KEY", OPTION_SORT, OPTIONS_REPO_LS,
     "name, size, stored_size, accessed, accesses, requests, hit_bytes, hit_ratio or "
     "byte_hit_ratio; '-' before it turns the order round"},
    {"filter", "TEXT", OPTION_FILTER, OPTIONS_REPO_LS, "only names that have this in them"},
    {"wait", NULL, OPTION_WAIT, OPTIONS_WARM, "until it is done; 1 if any of it failed"},
    {"depth", "N", OPTION_DEPTH, OPTIONS_WARM, "how deep shallow answers are (default: 1)"},
    {"branch", "NAME", OPTION_BRANCH, OPTIONS_WARM,
     "make shallow answers of it; may be given again (default: the default branch)"},
    {"most-used", "N", OPTION_MOST_USED, OPTIONS_WARM, "also the N that are asked for most"},
};

static bool takes(const struct command *c, const struct option_row *o)
{
    return o->set == 0 || (c->options & o->set) != 0;
}

static const struct command *command_named(const char *name)
{
    for (const struct command *c = commands; c->name; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

const struct command *command_find(char *const *words, int count, int *used)
{
    const struct command *c = command_named(words[0]);
    char *both;

    if (used)
        *used = c ? 1 : 2;
    if (c || count < 2)
        return c;
    both = xasprintf("%s %s", words[0], words[1]);
    c = command_named(both);
    free(both);
    return c;
}

static char *call_of(const struct command *c)
{
    return xasprintf("%s%s%s%s", c->name, c->argument ? " " : "", c->argument ? c->argument : "",
                     c->options ? " [options]" : "");
}

static int longest_call(void)
{
    size_t longest = 0;

    for (const struct command *c = commands; c->name; c++) {
        char *call = call_of(c);

        if (strlen(call) > longest)
            longest = strlen(call);
        free(call);
    }
    return (int)longest;
}

static void help_program(FILE *out)
{
    int width = longest_call();

    fputs("pannier: a caching proxy for git's smart HTTP protocol\n\nusage:\n", out);
    for (const struct command *c = commands; c->name; c++) {
        char *call = call_of(c);

        fprintf(out, "  pannier %-*s  %s\n", width, call, c->what);
        free(call);
    }
    fputs("\n'pannier COMMAND --help' shows a command's options.\n", out);
}

void command_line_help(const struct command *command, FILE *out)
{
    if (!command) {
        help_program(out);
        return;
    }
    fprintf(out, "usage: pannier %s%s%s%s\n\n  %s\n\noptions:\n", command->name,
            command->options ? " [options]" : "", command->argument ? " " : "",
            command->argument ? command->argument : "", command->what);
    for (size_t i = ARRAY_LEN(options); i-- > 0;) {
        const char *value = options[i].value ? options[i].value : "";

        if (!takes(command, &options[i]))
            continue;
        fprintf(out, "  --%s %-*s %s\n", options[i].name, 21 - (int)strlen(options[i].name), value,
                options[i].what);
    }
}

int command_line_unknown(const char *word)
{
    size_t len = strlen(word);
    bool group = false;

    for (const struct command *c = commands; c->name; c++)
        group = group || (strncmp(c->name, word, len) == 0 && c->name[len] == ' ');
    fprintf(stderr,
            group ? "pannier: '%s' alone is no command; see 'pannier help'\n"
                  : "pannier: '%s' is no command; see 'pannier help'\n",
            word);
    return EXIT_USAGE;
}

/* The option as typed without its value, which may be a URL with a secret. */
static int refuse_option(const struct command *c, const char *typed, const char *what)
{
    fprintf(stderr, "pannier %s: %.*s %s; see 'pannier %s --help'\n", c->name,
            (int)strcspn(typed, "="), typed, what, c->name);
    return EXIT_USAGE;
}

static void add_upstream(struct config_overrides *o, const char *text)
{
    o->upstreams = xrealloc(o->upstreams, (o->upstream_count + 1) * sizeof(*o->upstreams));
    o->upstreams[o->upstream_count++] = text;
}

static void add_branch(struct command_line *line, const char *name)
{
    line->branches = xrealloc(line->branches, (line->branch_count + 1) * sizeof(*line->branches));
    line->branches[line->branch_count++] = name;
}

static void option_take(struct command_line *line, int id, const char *value)
{
    switch (id) {
    case OPTION_CONFIG: line->file = value; break;
    case OPTION_LISTEN: line->overrides.listen = value; break;
    case OPTION_ADMIN_LISTEN: line->overrides.admin_listen = value; break;
    case OPTION_DATA: line->overrides.data = value; break;
    case OPTION_UPSTREAM: add_upstream(&line->overrides, value); break;
    case OPTION_LOG_FORMAT: line->overrides.log_format = value; break;
    case OPTION_JSON: line->json = true; break;
    case OPTION_ENTRIES: line->entries = true; break;
    case OPTION_ALL: line->all = true; break;
    case OPTION_REPAIR: line->repair = true; break;
    case OPTION_DRY_RUN: line->dry_run = true; break;
    case OPTION_TO: line->to = value; break;
    case OPTION_FORGET: line->forget = value; break;
    case OPTION_ADMIN: line->admin = value; break;
    case OPTION_TOKEN_FILE: line->token_file = value; break;
    case OPTION_SORT: line->sort = value; break;
    case OPTION_FILTER: line->filter = value; break;
    case OPTION_REFS: line->refs = true; break;
    case OPTION_REF: line->ref = value; break;
    case OPTION_OBJECT: line->object = value; break;
    case OPTION_EVERYTHING: line->everything = true; break;
    case OPTION_REASON: line->reason = value; break;
    case OPTION_MOST_USED: line->most_used = value; break;
    case OPTION_BRANCH: add_branch(line, value); break;
    case OPTION_DEPTH: line->depth = value; break;
    case OPTION_WAIT: line->wait = true; break;
    default: must(!"an option of the table");
    }
}

static void getopt_table(const struct command *c, struct option table[ARRAY_LEN(options) + 1])
{
    size_t count = 0;

    memset(table, 0, (ARRAY_LEN(options) + 1) * sizeof(*table));
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        if (!takes(c, &options[i]))
            continue;
        table[count].name = options[i].name;
        table[count].has_arg = options[i].value ? required_argument : no_argument;
        table[count++].val = options[i].id;
    }
}

/* The option that getopt has just stopped at, as it was typed. */
static const char *option_typed(char **argv, char letter[3])
{
    if (optopt == 0 || optopt == OPTION_HELP || optopt >= OPTION_CONFIG)
        return argv[optind - 1];
    letter[0] = '-';
    letter[1] = (char)optopt;
    letter[2] = '\0';
    return letter;
}

static int parse_options(int argc, char **argv, struct command_line *line)
{
    struct option table[ARRAY_LEN(options) + 1];
    char letter[3];
    int id;

    getopt_table(line->command, table);
    opterr = 0;
    for (;;) {
        id = getopt_long(argc, argv, ":h", table, NULL);
        if (id == -1)
            return -1;
        if (id == '?')
            return refuse_option(line->command, option_typed(argv, letter),
                                 optopt >= OPTION_CONFIG ? "takes no value"
                                                         : "is no option of this command");
        if (id == ':')
            return refuse_option(line->command, option_typed(argv, letter), "needs a value");
        if (id == OPTION_HELP) {
            command_line_help(line->command, stdout);
            return EXIT_DONE;
        }
        option_take(line, id, optarg);
    }
}

static int take_arguments(int count, char **arguments, struct command_line *line)
{
    const struct command *c = line->command;

    if (count > c->arguments_max)
        fprintf(stderr, "pannier %s: there is an argument too many; see 'pannier %s --help'\n",
                c->name, c->name);
    else if (count < c->arguments_min)
        fprintf(stderr, "pannier %s: %s is missing; see 'pannier %s --help'\n", c->name,
                c->argument, c->name);
    else {
        line->arguments = arguments;
        line->argument_count = count;
        return -1;
    }
    return EXIT_USAGE;
}

int command_line_parse(int argc, char **argv, struct command_line *line)
{
    int words, rc;

    memset(line, 0, sizeof(*line));
    if (argc < 2) {
        command_line_help(NULL, stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        command_line_help(NULL, stdout);
        return EXIT_DONE;
    }
    if (strcmp(argv[1], "--version") == 0)
        argv[1] += 2;
    line->command = command_find(argv + 1, argc - 1, &words);
    if (!line->command)
        return command_line_unknown(argv[1]);
    /* getopt reads from the word behind its "program", here the command's last word. */
    argc -= words;
    argv += words;
    optind = 1;
    rc = parse_options(argc, argv, line);
    return rc >= 0 ? rc : take_arguments(argc - optind, argv + optind, line);
}

void command_line_clear(struct command_line *line)
{
    free(line->overrides.upstreams);
    free(line->branches);
    memset(line, 0, sizeof(*line));
}
