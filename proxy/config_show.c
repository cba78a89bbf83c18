/* Configuration for people's eyes: as YAML, as a table, and what changed. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"
#include "protocol/bytes.h"
#include "proxy/config_setting.h"

/* Text is quoted, since '*' and ':' mean something to YAML; words and numbers are not. */
static void show_value(const struct setting *s, const char *text, FILE *out)
{
    bool list = setting_is_list(s);

    if (s->type > SETTING_URL && !list) {
        fputs(text, out);
        return;
    }
    fputs(list ? "[\"" : "\"", out);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            putc('\\', out);
        if (list && *text == ',')
            fputs("\", \"", out);
        else if (!list || *text != ' ')
            putc(*text, out);
    }
    fputs(list ? "\"]" : "\"", out);
}

static const char *default_words(const struct setting *s)
{
    if (s->standard)
        return s->standard;
    switch (s->type) {
    case SETTING_FOLDER: return "$XDG_CACHE_HOME/pannier or $HOME/.cache/pannier";
    case SETTING_FILE: return strcmp(s->key, "ca_file") == 0 ? "the system's" : NULL;
    default: return NULL;
    }
}

static void show_setting(const struct setting *s, const void *base, const char *indent, FILE *out)
{
    char *text = setting_get(s, base);
    const char *standard = default_words(s);

    fprintf(out, "%s%s%s:", indent, text ? "" : "# ", s->key);
    if (text) {
        putc(' ', out);
        show_value(s, text, out);
    }
    if (standard)
        fprintf(out, "  # default: %s", standard);
    putc('\n', out);
    free(text);
}

static void show_section(enum setting_section section, const void *base, const char *first,
                         const char *indent, FILE *out)
{
    for (size_t i = 0; i < SETTINGS_TOTAL; i++)
        if (setting_table[i].section == section) {
            show_setting(&setting_table[i], base, first, out);
            first = indent;
        }
}

static void show_list(const struct setting_list *l, const struct config *c, FILE *out)
{
    size_t count = setting_list_count(l, c);
    bool inner = l->within != SECTION_top;

    fprintf(out, "%s%s:%s\n", inner ? "  " : "", l->key, count == 0 ? " []" : "");
    for (size_t i = 0; i < count; i++)
        show_section(l->section, setting_list_item(l, c, i), inner ? "    - " : "  - ",
                     inner ? "      " : "    ", out);
}

void config_show(const struct config *c, FILE *out)
{
    for (int s = 0; s < SECTION_COUNT; s++) {
        enum setting_section section = (enum setting_section)s;

        if (setting_list_of(section)) {
            show_list(setting_list_of(section), c, out);
            continue;
        }
        if (section != SECTION_top)
            fprintf(out, "%s:\n", section_name(section));
        show_section(section, c, section == SECTION_top ? "" : "  ",
                     section == SECTION_top ? "" : "  ", out);
    }
}

static void describe_setting(const struct setting *s, FILE *out)
{
    const char *section = section_name(s->section);

    fprintf(out, "| `%s%s%s` | %s | ", section,
            s->section == SECTION_top     ? ""
            : setting_list_of(s->section) ? "[]."
                                          : ".",
            s->key, s->values);
    if (s->min)
        fprintf(out, "%s to %s", s->min, s->max);
    fprintf(out, " | %s | %s | %s |\n", s->standard ? s->standard : "",
            s->restart ? "restart" : "reload", s->prose);
}

void config_describe(FILE *out)
{
    fputs("| Setting | Value | Range | Default | A change needs | Meaning |\n"
          "|---|---|---|---|---|---|\n",
          out);
    for (size_t i = 0; i < SETTINGS_TOTAL; i++)
        describe_setting(&setting_table[i], out);
}

static bool setting_same(const struct setting *s, const struct config *a, const struct config *b)
{
    char *left = setting_get(s, a), *right = setting_get(s, b);
    bool same = left && right ? strcmp(left, right) == 0 : left == right;

    free(left);
    free(right);
    return same;
}

char *config_restart_needed(const struct config *running, const struct config *loaded)
{
    enum { LIST_MAX = 4096 }; /* all names together are far below */
    struct bytes list;
    size_t len;

    bytes_init(&list, LIST_MAX);
    for (size_t i = 0; i < SETTINGS_TOTAL; i++) {
        const struct setting *s = &setting_table[i];

        if (setting_list_of(s->section) || !s->restart || setting_same(s, running, loaded))
            continue;
        must(bytes_addf(&list, "%s%s%s%s", list.len ? ", " : "", section_name(s->section),
                        s->section == SECTION_top ? "" : ".", s->key) == 0);
    }
    if (list.len == 0) {
        bytes_clear(&list);
        return NULL;
    }
    return bytes_take(&list, &len);
}
