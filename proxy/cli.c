#include "proxy/cli.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "protocol/base.h"
#include "proxy/commands.h"
#include "proxy/control.h"
#include "proxy/report.h"
#include "proxy/serve.h"

static bool take_line(void *ctx, const char *line, size_t len)
{
    report_line(ctx, line, len);
    return true;
}

static int hear_line(void *ctx, const char *line, size_t len)
{
    report_line(ctx, line, len);
    return 0;
}

/* Opening a folder makes what is missing in it, and as whoever does it: so only one that is a data
 * folder already, and the caller's own. */
static int check_folder(const char *data, struct err *err)
{
    char *version = xasprintf("%s/version", data);
    struct stat folder;
    int rc = 0;

    if (stat(data, &folder) != 0)
        rc = errno == ENOENT
                 ? err_set(err, ERR_NOT_FOUND,
                           "there is no folder %s; name the one in use by --data or --config", data)
                 : err_errno(err, ERR_STORAGE, "look at %s", data);
    else if (folder.st_uid != geteuid())
        rc = err_set(err, ERR_STORAGE,
                     "%s belongs to user %u and no pannier serves from it; run this as that user",
                     data, (unsigned)folder.st_uid);
    else if (access(version, F_OK) != 0)
        rc = err_set(err, ERR_NOT_FOUND,
                     "%s is no data folder of pannier; name the one in use by --data or --config",
                     data);
    free(version);
    return rc;
}

/* Nobody serves. */
static int run_here(const struct config *config, const struct commands_request *request,
                    struct report *report, struct err *err)
{
    const struct commands_output output = {.line = take_line, .ctx = report};
    struct cache_options options;
    atomic_bool stop = false;
    struct cache cache = {0};
    int rc;

    if (check_folder(config->data, err) != 0)
        return -1;
    serve_cache_options(config, &options);
    rc = cache_open(config->data, NULL, &options, &cache, err);
    if (rc == 0) {
        local_scan(cache.local, &stop); /* the index may lack what a kill left unwritten */
        commands_run(&cache, request, &output);
    } else if (err->kind == ERR_BUSY) {
        err_set(
            err, ERR_BUSY,
            "a pannier has the folder %s but doesn't listen at its 'control': it is starting or "
            "stopping, or another command; try again in a moment",
            config->data);
    }
    cache_close(&cache);
    return rc;
}

static int ask(const struct config *config, const struct commands_request *request,
               struct report *report, struct err *err)
{
    struct bytes text;
    int rc;

    bytes_init(&text, CONTROL_REQUEST_MAX);
    rc = commands_request_write(request, &text, err);
    if (rc == 0)
        rc = control_call(config->data, text.data, text.len, hear_line, report, err);
    bytes_clear(&text);
    if (rc != 0 && err->kind == ERR_NOT_FOUND)
        rc = run_here(config, request, report, err);
    return rc;
}

static int run(const struct command_line *line, struct commands_request *request)
{
    struct report *report;
    struct config *config;
    struct err why;

    if (config_load(line->file, &line->overrides, &config, &why) != 0) {
        fprintf(stderr, "%s\n", why.text);
        return EXIT_USAGE;
    }
    if (line->argument_count > 0)
        request->repo = line->arguments[0];
    report = report_new(request, line->json);
    if (ask(config, request, report, &why) != 0)
        report_fail(report, &why);
    config_unref(&config);
    return report_finish(&report);
}

int cli_ls(const struct command_line *line)
{
    struct commands_request request = {
        .kind = COMMANDS_LS, .entries = line->entries, .goal = UINT64_MAX};

    return run(line, &request);
}

int cli_show(const struct command_line *line)
{
    struct commands_request request = {.kind = COMMANDS_SHOW, .goal = UINT64_MAX};

    return run(line, &request);
}

int cli_rm(const struct command_line *line)
{
    struct commands_request request = {.kind = COMMANDS_RM, .all = line->all, .goal = UINT64_MAX};

    if (line->all == (line->argument_count > 0)) {
        fputs("pannier rm: needs either REPO or --all; see 'pannier rm --help'\n", stderr);
        return EXIT_USAGE;
    }
    return run(line, &request);
}

int cli_verify(const struct command_line *line)
{
    struct commands_request request = {
        .kind = COMMANDS_VERIFY, .repair = line->repair, .goal = UINT64_MAX};

    return run(line, &request);
}

int cli_evict(const struct command_line *line)
{
    struct commands_request request = {
        .kind = COMMANDS_EVICT, .dry_run = line->dry_run, .goal = UINT64_MAX};

    if (line->to != NULL && !size_parse(line->to, &request.goal)) {
        fputs("pannier evict: --to is not a size; write a number with K, M, G or T, such as 20G\n",
              stderr);
        return EXIT_USAGE;
    }
    return run(line, &request);
}
