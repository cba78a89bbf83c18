/* What the admin API's commands say: what a pannier has said, for people or as JSON.  Names and
 * texts come from clients and upstreams: to a terminal they go by print_name(). */
#ifndef PANNIER_PROXY_ADMIN_CLI_SAY_H
#define PANNIER_PROXY_ADMIN_CLI_SAY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "protocol/err.h"
#include "proxy/command_line.h"

enum { SAID_RATIO_SIZE = 16 };

/* Members of what was said.  0 where there is no such number. */
uint64_t said_number(const json_t *object, const char *key);
const char *said_words(const json_t *object, const char *key, const char *otherwise);
/* "97.1 %", or "-". */
void said_ratio(const json_t *object, const char *key, char out[SAID_RATIO_SIZE]);

/* A line of a list of names and values. */
void say_size(const char *name, uint64_t bytes);
void say_number(const char *name, uint64_t n);
void say_time(const char *name, uint64_t s);
void say_ratio(const char *name, const json_t *object, const char *key);

void say_json(const json_t *json);
/* A line on stderr. */
void say_failure(const char *text);
/* The same, or as JSON, as line says; the exit status. */
int say_error(const struct command_line *line, const struct err *why);
/* May out have colours? */
bool say_in_colour(FILE *out);

#endif
