/* Aligned columns, for people. */
#ifndef PANNIER_PROXY_TABLE_H
#define PANNIER_PROXY_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct table_column {
    const char *title;
    bool right; /* for numbers */
};

struct table;

/* columns are borrowed until table_free(). */
struct table *table_new(const struct table_column *columns, size_t count);
void table_free(struct table **t);

/* One cell per column; copied. */
void table_add(struct table *t, const char *const *cells);
/* Titles and rows; nothing when there is no row. */
void table_print(const struct table *t, FILE *out);

/* As fputs, with '?' for what a terminal would obey: names come from clients and upstreams. */
void print_name(const char *s, FILE *out);
/* A line of a list of names and values, to stdout. */
void print_field(const char *name, const char *value);

#endif
