#include "proxy/table.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

struct table {
    const struct table_column *columns;
    size_t column_count;
    char **cells; /* row after row */
    size_t cell_count, cell_cap;
};

struct table *table_new(const struct table_column *columns, size_t count)
{
    struct table *t = xcalloc(1, sizeof(*t));

    t->columns = columns;
    t->column_count = count;
    return t;
}

void table_free(struct table **tp)
{
    struct table *t = *tp;

    *tp = NULL;
    if (t == NULL)
        return;
    for (size_t i = 0; i < t->cell_count; i++)
        free(t->cells[i]);
    free(t->cells);
    free(t);
}

void table_add(struct table *t, const char *const *cells)
{
    if (t->cell_count + t->column_count > t->cell_cap) {
        t->cell_cap = 2 * t->cell_cap + 16 * t->column_count;
        t->cells = xrealloc(t->cells, t->cell_cap * sizeof(*t->cells));
    }
    for (size_t i = 0; i < t->column_count; i++)
        t->cells[t->cell_count++] = xstrdup(cells[i]);
}

/* Characters, where s is UTF-8. */
static int width_of(const char *s)
{
    int width = 0;

    for (; *s != '\0'; s++)
        width += ((unsigned char)*s & 0xc0) != 0x80;
    return width;
}

void print_name(const char *s, FILE *out)
{
    for (; *s != '\0'; s++) {
        unsigned char c = (unsigned char)s[0], next = (unsigned char)s[1];

        if (c < 0x20 || c == 0x7f) {
            putc('?', out);
        } else if (c == 0xc2 && next >= 0x80 && next < 0xa0) { /* the same in UTF-8 */
            putc('?', out);
            s++;
        } else {
            putc(c, out);
        }
    }
}

static void print_row(const struct table *t, char *const *cells, const int *widths, FILE *out)
{
    for (size_t i = 0; i < t->column_count; i++) {
        const char *cell = cells != NULL ? cells[i] : t->columns[i].title;
        int room = widths[i] - width_of(cell);
        bool last = i + 1 == t->column_count;

        fprintf(out, "%s%*s", i > 0 ? "  " : "", t->columns[i].right ? room : 0, "");
        print_name(cell, out);
        fprintf(out, "%*s", t->columns[i].right || last ? 0 : room, "");
    }
    putc('\n', out);
}

void table_print(const struct table *t, FILE *out)
{
    int *widths;

    if (t->cell_count == 0)
        return;
    widths = xcalloc(t->column_count, sizeof(*widths));
    for (size_t i = 0; i < t->column_count; i++)
        widths[i] = width_of(t->columns[i].title);
    for (size_t i = 0; i < t->cell_count; i++) {
        int width = width_of(t->cells[i]);

        if (width > widths[i % t->column_count])
            widths[i % t->column_count] = width;
    }
    print_row(t, NULL, widths, out);
    for (size_t i = 0; i < t->cell_count; i += t->column_count)
        print_row(t, t->cells + i, widths, out);
    free(widths);
}

void print_field(const char *name, const char *value)
{
    printf("  %-14s", name);
    print_name(value, stdout);
    putchar('\n');
}
