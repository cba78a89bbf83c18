/* How the admin API's commands ask: which pannier, with which token, one call or all pages of a
 * list.
 *
 *     ask_run(line, (struct ask){"GET", "/stats", .print = print_stats})
 *
 * is all of a command that asks once and prints what was said.  One that asks more often opens
 * the client itself. */
#ifndef PANNIER_PROXY_ADMIN_CLI_ASK_H
#define PANNIER_PROXY_ADMIN_CLI_ASK_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "protocol/err.h"
#include "proxy/admin/client.h"
#include "proxy/command_line.h"

enum { ASK_PAGE = 1000 }; /* what a page of a list may hold at most */

typedef void ask_print_fn(const struct command_line *line, const json_t *document);

/* Call, print (or print the document), be done. */
struct ask {
    const char *method, *path;
    bool on_repository; /* path is what stands behind "/repositories/<REPO's id>" */
    const char *list;   /* all pages of the list of this name; NULL: it has none */
    json_t *body;       /* stolen; NULL: none */
    ask_print_fn *print;
};
/* The exit status. */
int ask_run(const struct command_line *line, struct ask ask);

/* Whom line and the environment mean.  -1: ERR_INPUT. */
int ask_open(const struct command_line *line, struct client **out, struct err *err);
/* *out: the document, an object, yours.  body is stolen; NULL: none.  -1: as client_call(), or what
 * was answered: ERR_BUSY, not now (503); ERR_UPSTREAM, it is no pannier that answers. */
int ask_call(struct client *c, const char *method, const char *path, json_t *body, json_t **out,
             struct err *err);
/* The same with GET, again and again while it answers with 503 and still may within patience_ms. */
int ask_patiently(struct client *c, const char *path, uint64_t patience_ms, json_t **out,
                  struct err *err);
/* What was answered lacks something that a pannier always says.  -1, with err set. */
int ask_not_pannier(const char *path, struct err *err);

/* For a path or a query; yours. */
char *ask_escape(const char *s);
/* Can it be asked for at all?  NULL can. */
bool ask_is_utf8(const char *s);

#endif
