/* The program's commands; what they are made of is elsewhere. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proxy/admin/cli.h"
#include "proxy/cli.h"
#include "proxy/command_line.h"
#include "proxy/config.h"
#include "proxy/metrics.h"
#include "proxy/serve.h"

/* The sentence begins with FILE:LINE or --OPTION, for people, editors and CI to jump to. */
static int load(const char *file, const struct config_overrides *overrides, struct config **config)
{
    struct err err;

    if (config_load(file, overrides, config, &err) == 0)
        return EXIT_DONE;
    fprintf(stderr, "%s\n", err.text);
    return EXIT_USAGE;
}

static int run_serve(const struct command_line *line)
{
    struct serve_origin origin = {.file = line->file, .overrides = &line->overrides};
    struct config *config;
    int rc;

    rc = load(line->file, &line->overrides, &config);
    if (rc == EXIT_DONE) {
        rc = serve_run(config, &origin);
        config_unref(&config);
    }
    return rc;
}

static int run_config_check(const struct command_line *line)
{
    struct config *config;
    int rc;

    rc = load(line->arguments[0], NULL, &config);
    if (rc == EXIT_DONE) {
        printf("%s: ok\n", line->arguments[0]);
        config_unref(&config);
    }
    return rc;
}

static int run_config_show(const struct command_line *line)
{
    struct config *config;
    int rc;

    rc = load(line->file, &line->overrides, &config);
    if (rc == EXIT_DONE) {
        config_show(config, stdout);
        config_unref(&config);
    }
    return rc;
}

static int run_config_describe(const struct command_line *line)
{
    (void)line;
    config_describe(stdout);
    return EXIT_DONE;
}

static int run_metrics_describe(const struct command_line *line)
{
    (void)line;
    metrics_describe(stdout);
    return EXIT_DONE;
}

static int run_version(const struct command_line *line)
{
    (void)line;
    puts("pannier " PANNIER_VERSION);
    return EXIT_DONE;
}

static int run_help(const struct command_line *line)
{
    const struct command *command = NULL;

    if (line->argument_count > 0) {
        command = command_find(line->arguments, line->argument_count, NULL);
        if (!command)
            return command_line_unknown(line->arguments[0]);
    }
    command_line_help(command, stdout);
    return EXIT_DONE;
}

const struct command commands[] = {
    {"serve", NULL, 0, 0, OPTIONS_FOLDER | OPTIONS_SERVE,
     "answer git clients until SIGTERM; SIGHUP reloads", run_serve},
    {"ls", "[REPO]", 0, 1, OPTIONS_FOLDER | OPTIONS_JSON | OPTIONS_LS,
     "list what is kept, by repository", cli_ls},
    {"show", "REPO", 1, 1, OPTIONS_FOLDER | OPTIONS_JSON, "print all that is known of a repository",
     cli_show},
    {"rm", "REPO|--all", 0, 1, OPTIONS_FOLDER | OPTIONS_JSON | OPTIONS_RM,
     "remove what is kept of a repository", cli_rm},
    {"verify", NULL, 0, 0, OPTIONS_FOLDER | OPTIONS_JSON | OPTIONS_VERIFY,
     "read all that is kept, and say what is damaged", cli_verify},
    {"evict", NULL, 0, 0, OPTIONS_FOLDER | OPTIONS_JSON | OPTIONS_EVICT,
     "make room now, by the policy of the cache", cli_evict},
    {"warm", "[REPO...]", 0, WARM_ARGUMENTS_MAX, OPTIONS_ADMIN | OPTIONS_JSON | OPTIONS_WARM,
     "have some node fetch them ahead, with the answers that jobs ask for", admin_cli_warm},
    {"repo ls", NULL, 0, 0, OPTIONS_ADMIN | OPTIONS_JSON | OPTIONS_REPO_LS,
     "list repositories with what is asked of them", admin_cli_ls},
    {"repo show", "REPO", 1, 1, OPTIONS_ADMIN | OPTIONS_JSON, "print one, with its latest errors",
     admin_cli_show},
    {"repo refs", "REPO", 1, 1, OPTIONS_ADMIN | OPTIONS_JSON,
     "list which refs upstream has shown of it, when, and to whom", admin_cli_refs},
    {"repo invalidate", "REPO|--all", 0, 1, OPTIONS_ADMIN | OPTIONS_JSON | OPTIONS_REPO_INVALIDATE,
     "let no node serve it any more, or some of it", admin_cli_invalidate},
    {"repo refresh", "REPO", 1, 1, OPTIONS_ADMIN | OPTIONS_JSON,
     "bring its mirror to where upstream is", admin_cli_refresh},
    {"repo pin", "REPO", 1, 1, OPTIONS_ADMIN | OPTIONS_JSON, "keep it, whatever room is needed",
     admin_cli_pin},
    {"repo unpin", "REPO", 1, 1, OPTIONS_ADMIN | OPTIONS_JSON, "let it come and go again",
     admin_cli_unpin},
    {"nodes", NULL, 0, 0, OPTIONS_ADMIN | OPTIONS_JSON | OPTIONS_NODES,
     "list the nodes that share something with that pannier", admin_cli_nodes},
    {"stats", NULL, 0, 0, OPTIONS_ADMIN | OPTIONS_JSON, "print the numbers of a pannier",
     admin_cli_stats},
    {"top", NULL, 0, 0, OPTIONS_ADMIN, "watch the numbers and what is asked for", admin_cli_top},
    {"config check", "FILE", 1, 1, 0, "say whether a configuration is right", run_config_check},
    {"config show", NULL, 0, 0, OPTIONS_FOLDER | OPTIONS_SERVE, "print the effective configuration",
     run_config_show},
    {"config describe", NULL, 0, 0, 0, "print every setting as a Markdown table",
     run_config_describe},
    {"metrics describe", NULL, 0, 0, 0, "print every metric as a Markdown table",
     run_metrics_describe},
    {"version", NULL, 0, 0, 0, "print the version", run_version},
    {"help", "[COMMAND]", 0, 2, 0, "print help", run_help},
    {.name = NULL},
};

/* A program that is started without them must not find its data files under these numbers. */
static void have_standard_streams(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

int main(int argc, char **argv)
{
    struct command_line line;
    int rc;

    have_standard_streams();

    rc = command_line_parse(argc, argv, &line);
    if (rc < 0)
        rc = line.command->run(&line);
    command_line_clear(&line);
    /* A full disk under `config show > file` is not success. */
    if (fflush(stdout) != 0 || ferror(stdout)) {
        perror("pannier: standard output");
        return EXIT_FAILED;
    }
    return rc;
}
