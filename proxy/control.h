/* The socket through which commands reach the process that serves: <data>/control, for its own user
 * only.
 *
 *     client                                   server
 *     one line: a JSON object       ──▶
 *                                   ◀──        lines, a JSON object each; the last one says how
 *                                              it went: {"result":{...}}, or
 *                                              {"error":{"kind":"busy","text":"..."}}
 *     closed: nobody listens        ──▶        what can be ended early is
 *
 * One request per connection.  What the lines mean is not known here: see proxy/commands.h.  The
 * folder's lock tells who serves from it; a socket that a killed process left is replaced. */
#ifndef PANNIER_PROXY_CONTROL_H
#define PANNIER_PROXY_CONTROL_H

#include <stdbool.h>
#include <stddef.h>

#include "protocol/err.h"

enum {
    /* A longer request is refused; it has one name of a repository in it. */
    CONTROL_REQUEST_MAX = 8192,
    /* A longer line of a response ends the command: an entry has six names in it at most. */
    CONTROL_LINE_MAX = 256 * 1024,
    /* Commands at once, each in a thread of its own; one more is told that all are busy. */
    CONTROL_CLIENTS_MAX = 8,
};

/* ---- the process that serves ---- */

struct control;
struct control_client;

/* Answer one request (a line without its end) by control_send().  Runs in a thread of control's;
 * may block. */
typedef void control_handler(void *ctx, const char *request, size_t len,
                             struct control_client *client);

/* A line of the response, without its end.  False: nobody listens any more, or the program ends;
 * what can be given up should be.  Blocks for a client that reads slowly. */
bool control_send(struct control_client *client, const char *line, size_t len);

/* Call with the folder's lock held.  -1 (ERR_STORAGE): there can be no socket. */
int control_start(const char *data, control_handler *handler, void *ctx, struct control **out,
                  struct err *err);
/* The socket goes, and commands that run are told to end.  Never blocks.  NULL is fine. */
void control_drain(struct control *c);
/* Waits for them. */
void control_free(struct control **c);

/* {"error":{...}}, the last line of a response that failed; yours to free. */
char *control_error(const struct err *why);
/* s as a JSON string (json_t *, new), with '?' where it isn't UTF-8. */
struct json_t *control_string(const char *s);

/* ---- the command ---- */

/* One line of the response.  Returns anything but 0 to hear no more. */
typedef int control_line_fn(void *ctx, const char *line, size_t len);

/* Ask the process that serves from data, and hear all it says.  -1: ERR_NOT_FOUND, none is
 * listening there; else it can't be reached or heard. */
int control_call(const char *data, const char *request, size_t len, control_line_fn *fn, void *ctx,
                 struct err *err);

#endif
