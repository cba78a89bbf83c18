/* The command line: which command, with which options.
 *
 *     command_line_parse(argc, argv, &line)   -1: run it; else an exit status
 *     line.command->run(&line)                the exit status
 *     command_line_clear(&line) */
#ifndef PANNIER_PROXY_COMMAND_LINE_H
#define PANNIER_PROXY_COMMAND_LINE_H

#include <stdbool.h>

#include "proxy/config.h"

/* Exit statuses: what was asked for, what could not be done, what makes no sense. */
enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

enum { WARM_ARGUMENTS_MAX = 1000 }; /* repositories of one warm-up */

/* Which options a command takes; --help goes with every one. */
enum option_set {
    OPTIONS_FOLDER = 1,             /* --config, --data */
    OPTIONS_SERVE = 2,              /* --listen, --upstream, --log-format */
    OPTIONS_JSON = 4,               /* --json */
    OPTIONS_LS = 8,                 /* --entries */
    OPTIONS_RM = 16,                /* --all */
    OPTIONS_VERIFY = 32,            /* --repair */
    OPTIONS_EVICT = 64,             /* --dry-run, --to */
    OPTIONS_NODES = 128,            /* --forget */
    OPTIONS_ADMIN = 256,            /* --admin, --token-file */
    OPTIONS_REPO_LS = 512,          /* --sort, --filter */
    OPTIONS_WARM = 1024,            /* --most-used, --branch, --depth, --wait */
    OPTIONS_REPO_INVALIDATE = 2048, /* --all, --refs, --ref, --object, --everything, ... */
};

struct command_line;

struct command {
    const char *name;     /* "serve", "config check" */
    const char *argument; /* what stands behind it, for the help; NULL: nothing */
    int arguments_min, arguments_max;
    unsigned options; /* of enum option_set */
    const char *what; /* one line for the list of commands */
    int (*run)(const struct command_line *line);
};

struct command_line {
    const struct command *command;
    char **arguments;
    int argument_count;
    const char *file; /* --config; NULL: none */
    struct config_overrides overrides;
    bool json, entries, all, repair, dry_run, refs, everything, wait;
    const char *to; /* --to, as typed; NULL: not given */
    /* As typed; NULL: not given. */
    const char *forget, *admin, *token_file, *sort, *filter, *ref, *object, *reason, *most_used,
        *depth;
    const char **branches; /* --branch, each */
    size_t branch_count;
};

/* The commands, ended by one without a name; main.c has them. */
extern const struct command commands[];

/* -1: line->command is to be run.  Otherwise the exit status: help was printed, or one sentence
 * about what is wrong.  argv's strings are borrowed by line; clear it in any case. */
int command_line_parse(int argc, char **argv, struct command_line *line);
void command_line_clear(struct command_line *line);

/* Help on one command, or with NULL on the program. */
void command_line_help(const struct command *command, FILE *out);

/* The command that the words begin with, or NULL; *used, where asked for, is how many of them
 * are its name. */
const struct command *command_find(char *const *words, int count, int *used);

/* Say on stderr that there is no such command, and return the exit status for that. */
int command_line_unknown(const char *word);

#endif
