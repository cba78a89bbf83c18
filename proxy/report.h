/* The lines of a command's response (proxy/commands.h) for who typed it: tables, sentences and a
 * progress bar, or one JSON document.
 *
 *     r = report_new(&request, json)
 *     report_line(r, line, len)      each, in order
 *     or report_fail(r, &why)        when there is nobody to say them
 *     report_finish(&r)              prints the rest; the exit status */
#ifndef PANNIER_PROXY_REPORT_H
#define PANNIER_PROXY_REPORT_H

#include <stdbool.h>
#include <stddef.h>

#include "protocol/err.h"
#include "proxy/commands.h"

struct report;

/* request is borrowed until report_finish().  Writes to stdout, of progress and trouble to
 * stderr. */
struct report *report_new(const struct commands_request *request, bool json);
/* Lines of a kind that isn't known here, from a newer pannier, say nothing. */
void report_line(struct report *r, const char *line, size_t len);
void report_fail(struct report *r, const struct err *why);
int report_finish(struct report **r);

#endif
