/* The log: one line an event on stderr, as text or JSON.
 *
 * Lines are formatted in the calling thread and written by a thread of the log's own through a
 * bounded queue, so that a stuck stderr never stops an HTTP thread; lines that find the queue
 * full are dropped and counted, and the count is logged when there is room again.
 *
 *     log_line(LOG_INFO, "request", "client", LOG_STR, addr, "bytes", LOG_U64, n, NULL);
 *
 * Secrets never go into a field. */
#ifndef PANNIER_PROXY_LOG_H
#define PANNIER_PROXY_LOG_H

#include "proxy/config.h"

enum log_type {
    LOG_STR,    /* const char *; NULL leaves the field out */
    LOG_U64,    /* uint64_t */
    LOG_MS,     /* uint64_t microseconds, shown as milliseconds with one decimal */
    LOG_NO_U64, /* uint64_t that means nothing here: leaves the field out */
};

/* Before log_start() and after log_stop() lines are written at once by the caller. */
void log_start(enum log_format format, enum log_level level);
void log_set(enum log_format format, enum log_level level); /* on reload */
/* What is written now. */
enum log_level log_get_level(void);
void log_set_level(enum log_level level);
/* "debug", "info", "warn", "error"; false: none of these. */
const char *log_level_name(enum log_level level);
bool log_level_parse(const char *name, enum log_level *out);
void log_stop(void); /* writes what is queued */

/* event is a short word or sentence ("request", "mirror made"); then triples of name, enum log_type
 * and value, ended by NULL.  Text form: time, level, event, name=value with quoting where needed;
 * JSON form: {"time":...,"level":...,"event":...,name:value}.  Any thread; never blocks. */
void log_line(enum log_level level, const char *event, ...) __attribute__((sentinel));

/* Who wants to hear of lines as well, from LOG_INFO on whatever level is written: as JSON, without
 * a line's end.  Called in the thread that logs, maybe in several at once; must not block or log.
 * NULL: nobody. */
typedef void log_listener_fn(const char *json, size_t len);
void log_listen(log_listener_fn *fn);

#endif
