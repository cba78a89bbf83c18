#include "proxy/config_file.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cyaml/cyaml.h>
#include <yaml.h>

#include "protocol/base.h"
#include "protocol/bytes.h"

/* A configuration is a page or two; whatever is larger was given by mistake. */
enum { FILE_MAX_BYTES = 1 << 20 };
enum { KEY_MAX = 96 };

/* What libcyaml fills.  Every value is text here: ours are the sentences about bad ones. */

/* A setting's value is a scalar or a list of them, by its type. */
#define SHAPE_ADDRESS   ONE
#define SHAPE_LISTEN    ONE
#define SHAPE_FOLDER    ONE
#define SHAPE_FILE      ONE
#define SHAPE_NAME      ONE
#define SHAPE_TEXT      ONE
#define SHAPE_SCHEDULE  ONE
#define SHAPE_PLAIN_URL ONE
#define SHAPE_URL       ONE
#define SHAPE_SIZE      ONE
#define SHAPE_SHARE     ONE
#define SHAPE_DURATION  ONE
#define SHAPE_COUNT     ONE
#define SHAPE_RATE      ONE
#define SHAPE_BOOL      ONE
#define SHAPE_ENUM      ONE
#define SHAPE_HASH      ONE
#define SHAPE_NETWORKS  MANY
#define SHAPE_GLOBS     MANY
#define SHAPE_BRANCHES  MANY
#define JOINED_(a, b)   a##b
#define JOINED(a, b)    JOINED_(a, b)

#define MEMBER_ONE(key) char *key;
#define MEMBER_MANY(key)                                                                           \
    char **key;                                                                                    \
    unsigned key##_count;
#define RAW_MEMBER(section, key, field, type, ...) JOINED(MEMBER_, SHAPE_##type)(key)
#define Y(section, rows, ...)                                                                      \
    struct raw_##section {                                                                         \
        rows(RAW_MEMBER)                                                                           \
    };
CONFIG_LISTS(Y)
CONFIG_INNER_LISTS(Y)
#undef Y
#define RAW_LIST(section, key, list)                                                               \
    struct raw_##list *key;                                                                        \
    unsigned key##_count;
#define Y(section, rows, lists)                                                                    \
    struct raw_##section {                                                                         \
        rows(RAW_MEMBER) lists(RAW_LIST)                                                           \
    };
CONFIG_SECTIONS(Y)
#undef Y
struct raw_top {
    CONFIG_TOP(RAW_MEMBER)
#define Y(section, ...)                                                                            \
    struct raw_##section *section;                                                                 \
    unsigned section##_count;
    CONFIG_LISTS(Y)
#undef Y
#define Y(section, ...) struct raw_##section *section;
    CONFIG_SECTIONS(Y)
#undef Y
};

static const cyaml_schema_value_t text_item = {
    CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 0, CYAML_UNLIMITED)};

#define FIELD_ONE(section, key)                                                                    \
    CYAML_FIELD_STRING_PTR(#key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct raw_##section,   \
                           key, 0, CYAML_UNLIMITED),
#define FIELD_MANY(section, key)                                                                   \
    CYAML_FIELD_SEQUENCE(#key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct raw_##section,     \
                         key, &text_item, 0, CYAML_UNLIMITED),
#define RAW_FIELD(section, key, field, type, ...) JOINED(FIELD_, SHAPE_##type)(section, key)

#define Y(section, rows, ...)                                                                      \
    static const cyaml_schema_field_t section##_fields[] = {rows(RAW_FIELD) CYAML_FIELD_END};      \
    static const cyaml_schema_value_t section##_item = {                                           \
        CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct raw_##section, section##_fields)};
CONFIG_LISTS(Y)
CONFIG_INNER_LISTS(Y)
#undef Y

#define LIST_FIELD(section, key, list)                                                             \
    CYAML_FIELD_SEQUENCE(#key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct raw_##section,     \
                         key, &list##_item, 0, CYAML_UNLIMITED),
#define Y(section, rows, lists)                                                                    \
    static const cyaml_schema_field_t section##_fields[] = {rows(RAW_FIELD) lists(LIST_FIELD)      \
                                                                CYAML_FIELD_END};
CONFIG_SECTIONS(Y)
#undef Y

static const cyaml_schema_field_t top_fields[] = {CONFIG_TOP(RAW_FIELD)
#define Y(section, rows, type, counter, max, ...)                                                  \
    CYAML_FIELD_SEQUENCE(#section, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct raw_top,       \
                         section, &section##_item, 0, max),
                                                      CONFIG_LISTS(Y)
#undef Y
#define Y(section, ...)                                                                            \
    CYAML_FIELD_MAPPING_PTR(#section, CYAML_FLAG_POINTER_NULL | CYAML_FLAG_OPTIONAL,               \
                            struct raw_top, section, section##_fields),
                                                          CONFIG_SECTIONS(Y)
#undef Y
                                                              CYAML_FIELD_END};

static const cyaml_schema_value_t top_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct raw_top, top_fields)};

/* Reading. */

static int read_all(int fd, const char *path, struct bytes *b, struct err *err)
{
    char part[65536];
    ssize_t n;

    for (;;) {
        n = read(fd, part, sizeof(part));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(err, ERR_INPUT, "%s: cannot be read", path);
        if (n == 0)
            return 0;
        if (bytes_add(b, part, (size_t)n) != 0)
            return err_set(
                err, ERR_INPUT,
                "%s: is larger than 1 MiB, which no configuration is; give the path of a "
                "YAML file",
                path);
    }
}

static int file_read(const char *path, struct bytes *b, struct err *err)
{
    struct stat st;
    int fd, rc;

    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, ERR_INPUT, "%s: cannot be read", path);
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
        rc = err_set(err, ERR_INPUT, "%s: is a directory; give the path of a YAML file", path);
    else
        rc = read_all(fd, path, b, err);
    close(fd);
    return rc;
}

/* The walk over libyaml's events: libcyaml checks the same shape, but only libyaml's marks say on
 * which line each value stands, which the checks of the values need as well. */

struct walk {
    yaml_parser_t parser;
    yaml_event_t event;
    bool has_event;
    const char *path;
    const struct bytes *content;
    struct config_file *file;
    struct err *err;
};

static unsigned line_of(const struct walk *w)
{
    return (unsigned)w->event.start_mark.line + 1;
}

static int __attribute__((format(printf, 4, 5)))
complain(struct walk *w, unsigned line, const char *key, const char *fmt, ...)
{
    char what[ERR_TEXT_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    return err_set(w->err, ERR_INPUT, "%s:%u: %s%s%s", w->path, line, key, *key ? ": " : "", what);
}

static int complain_parse(struct walk *w)
{
    const yaml_parser_t *p = &w->parser;
    unsigned line = (unsigned)p->problem_mark.line + 1;

    if (p->error != YAML_READER_ERROR)
        return complain(w, line, "",
                        "is not valid YAML: %s; mind the indentation, the colons and "
                        "the quotes here and on the lines before",
                        p->problem ? p->problem : "it does not parse");
    /* Bytes that are no text: libyaml gives an offset and no line. */
    line = 1;
    for (size_t i = 0; i < p->problem_offset && i < w->content->len; i++)
        line += w->content->data[i] == '\n';
    return complain(w, line, "", "is not text in UTF-8; give the path of a YAML file");
}

/* The next event that carries something. */
static int walk_next(struct walk *w)
{
    if (w->has_event)
        yaml_event_delete(&w->event);
    w->has_event = false;
    if (!yaml_parser_parse(&w->parser, &w->event))
        return complain_parse(w);
    w->has_event = true;
    if (w->event.type == YAML_ALIAS_EVENT)
        return complain(w, line_of(w), "",
                        "is an alias, which is not understood here; write the "
                        "value out");
    return 0;
}

static bool is_null(const yaml_event_t *e)
{
    const char *text = (const char *)e->data.scalar.value;

    return e->type == YAML_SCALAR_EVENT && e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (*text == '\0' || strcmp(text, "~") == 0 || strcasecmp(text, "null") == 0);
}

/* Levenshtein's distance, for short words. */
static size_t word_distance(const char *a, const char *b)
{
    size_t row[KEY_MAX], n = strlen(b);

    must(n < KEY_MAX);
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t corner = row[0];

        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t best = corner + (a[i - 1] != b[j - 1]);

            corner = row[j];
            best = best < row[j] + 1 ? best : row[j] + 1;
            row[j] = best < row[j - 1] + 1 ? best : row[j - 1] + 1;
        }
    }
    return row[n];
}

struct nearest {
    const char *asked;
    const char *key;
    size_t distance;
};

static void nearest_try(struct nearest *n, const char *key)
{
    size_t d = word_distance(n->asked, key);

    if (d < n->distance) {
        n->distance = d;
        n->key = key;
    }
}

/* Could these be the keys of a secret's holder?  Then they are not shown. */
static bool key_showable(const char *key)
{
    size_t len = strlen(key);

    if (len == 0 || len > 40)
        return false;
    return strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == len;
}

static bool stands_at_top(enum setting_section section)
{
    const struct setting_list *l = setting_list_of(section);

    return !l || l->within == SECTION_top;
}

static const char *section_with(const char *key)
{
    for (size_t i = 0; i < SETTINGS_TOTAL; i++)
        if (strcmp(setting_table[i].key, key) == 0)
            return setting_table[i].section == SECTION_top ? "the top level"
                                                           : section_name(setting_table[i].section);
    return NULL;
}

static int complain_unknown(struct walk *w, enum setting_section section, const char *prefix,
                            const char *key)
{
    struct nearest n = {.asked = key, .distance = 4};
    char full[KEY_MAX];
    const char *elsewhere;

    if (!key_showable(key))
        return complain(w, line_of(w), *prefix ? prefix : "this key",
                        "holds a key that is no setting; see 'pannier config describe'");
    snprintf(full, sizeof(full), "%s%s%s", prefix, *prefix ? "." : "", key);
    if (n.distance > strlen(key)) /* a short word is near to everything */
        n.distance = strlen(key);
    for (size_t i = 0; i < SETTINGS_TOTAL; i++)
        if (setting_table[i].section == section)
            nearest_try(&n, setting_table[i].key);
    if (section == SECTION_top)
        for (int s = SECTION_top + 1; s < SECTION_COUNT; s++)
            if (stands_at_top((enum setting_section)s))
                nearest_try(&n, section_name((enum setting_section)s));
    elsewhere = section_with(key);
    if (elsewhere)
        return complain(w, line_of(w), full, "is not a setting here; it belongs to %s", elsewhere);
    if (n.key)
        return complain(w, line_of(w), full, "is not a setting; did you mean '%s'?", n.key);
    return complain(w, line_of(w), full, "is not a setting; see 'pannier config describe'");
}

static int find_setting(enum setting_section section, const char *key)
{
    for (int i = 0; i < SETTINGS_TOTAL; i++)
        if (setting_table[i].section == section && strcmp(setting_table[i].key, key) == 0)
            return i;
    return -1;
}

/* The event begins a list: put its items together. */
static int walk_items(struct walk *w, const struct setting *s, const char *full,
                      struct config_place *place)
{
    const yaml_event_t *e = &w->event;
    struct bytes items;
    size_t len;

    place->line = line_of(w);
    if (e->type != YAML_SEQUENCE_START_EVENT)
        return complain(w, line_of(w), full, "is not a list; write [...] around it (%s)",
                        s->values);
    bytes_init(&items, SIZE_MAX / 2); /* the file is bounded */
    for (;;) {
        if (walk_next(w) != 0)
            break;
        if (e->type == YAML_SEQUENCE_END_EVENT && items.len == 0) {
            complain(w, place->line, full, "is empty; write an item (%s) or leave the line out",
                     s->values);
            break;
        }
        if (e->type == YAML_SEQUENCE_END_EVENT) {
            place->items = bytes_take(&items, &len);
            return 0;
        }
        if (e->type != YAML_SCALAR_EVENT || is_null(e) ||
            strcspn((const char *)e->data.scalar.value, ", ") != e->data.scalar.length ||
            e->data.scalar.length == 0) {
            complain(w, line_of(w), full, "has an item that is not one word; write words (%s)",
                     s->values);
            break;
        }
        bytes_addf(&items, "%s%s", items.len > 0 ? ", " : "", (const char *)e->data.scalar.value);
    }
    bytes_clear(&items);
    return -1;
}

/* The event is the value of a setting: one scalar with something in it, or a list. */
static int walk_value(struct walk *w, int id, const char *prefix, struct config_place *place)
{
    const struct setting *s = &setting_table[id];
    const yaml_event_t *e = &w->event;
    char full[KEY_MAX];

    snprintf(full, sizeof(full), "%s%s%s", prefix, *prefix ? "." : "", s->key);
    if (setting_is_list(s))
        return walk_items(w, s, full, place);
    if (e->type != YAML_SCALAR_EVENT)
        return complain(w, line_of(w), full, "is a %s; write one value (%s)",
                        e->type == YAML_SEQUENCE_START_EVENT ? "list" : "mapping", s->values);
    if (is_null(e) || e->data.scalar.length == 0)
        return complain(w, line_of(w), full, "has no value; write one (%s) or leave the line out",
                        s->values);
    if (strlen((const char *)e->data.scalar.value) != e->data.scalar.length)
        return complain(w, line_of(w), full, "holds a NUL; write it without");
    place->line = line_of(w);
    return 0;
}

/* The next key of the mapping; *more is false at its end.  The text is the event's. */
static int walk_key(struct walk *w, const char *prefix, bool *more, const char **key)
{
    if (walk_next(w) != 0)
        return -1;
    *more = w->event.type != YAML_MAPPING_END_EVENT;
    if (!*more)
        return 0;
    if (w->event.type != YAML_SCALAR_EVENT)
        return complain(w, line_of(w), *prefix ? prefix : "this key",
                        "has a list or mapping as a key; write a setting's name");
    *key = (const char *)w->event.data.scalar.value;
    return 0;
}

static int complain_twice(struct walk *w, const char *prefix, const char *key, unsigned first)
{
    char full[KEY_MAX];

    snprintf(full, sizeof(full), "%s%s%s", prefix, *prefix ? "." : "", key);
    return complain(w, line_of(w), full, "stands here a second time; keep this or line %u", first);
}

/* A setting's key was met: check and note its value. */
static int walk_setting(struct walk *w, enum setting_section section, const char *prefix,
                        const char *key, struct config_place *places)
{
    int id = find_setting(section, key);

    if (id < 0)
        return complain_unknown(w, section, prefix, key);
    if (places[id].line)
        return complain_twice(w, prefix, setting_table[id].key, places[id].line);
    return walk_next(w) != 0 ? -1 : walk_value(w, id, prefix, &places[id]);
}

static int walk_list(struct walk *w, const struct setting_list *l);

/* The list that a mapping holds under this key, or NULL. */
static const struct setting_list *list_within(enum setting_section section, const char *key)
{
    for (int s = SECTION_top + 1; s < SECTION_COUNT; s++) {
        const struct setting_list *l = setting_list_of((enum setting_section)s);

        if (l && section != SECTION_top && l->within == section && strcmp(l->key, key) == 0)
            return l;
    }
    return NULL;
}

static int walk_inner_list(struct walk *w, const struct setting_list *l)
{
    if (w->file->lists[l->section].there)
        return complain_twice(w, "", section_name(l->section), w->file->lists[l->section].line);
    return walk_next(w) != 0 ? -1 : walk_list(w, l);
}

/* Inside a mapping: settings, and lists of mappings. */
static int walk_section(struct walk *w, enum setting_section section, const char *prefix,
                        struct config_place *places)
{
    const char *key = NULL;
    bool more;

    for (;;) {
        if (walk_key(w, prefix, &more, &key) != 0)
            return -1;
        if (!more)
            return 0;
        if (list_within(section, key) ? walk_inner_list(w, list_within(section, key)) != 0
                                      : walk_setting(w, section, prefix, key, places) != 0)
            return -1;
    }
}

static struct config_file_item *add_item(struct config_file_list *list)
{
    struct config_file_item *item;

    list->items = xrealloc(list->items, (list->count + 1) * sizeof(*list->items));
    item = &list->items[list->count++];
    memset(item, 0, sizeof(*item));
    return item;
}

static int walk_list(struct walk *w, const struct setting_list *l)
{
    struct config_file_list *list = &w->file->lists[l->section];
    const char *name = section_name(l->section);
    struct config_file_item *item;
    char prefix[KEY_MAX];

    list->there = true;
    list->line = line_of(w);
    if (w->event.type != YAML_SEQUENCE_START_EVENT)
        return complain(w, line_of(w), name,
                        "is not a list; write %s below it, or leave the key out", l->like);
    for (;;) {
        if (walk_next(w) != 0)
            return -1;
        if (w->event.type == YAML_SEQUENCE_END_EVENT)
            return 0;
        snprintf(prefix, sizeof(prefix), "%s[%zu]", name, list->count);
        if (w->event.type != YAML_MAPPING_START_EVENT)
            return complain(w, line_of(w), prefix, "is not a mapping; write %s below it", l->like);
        if (list->count == l->max)
            return complain(w, line_of(w), name, "has more than %zu entries; %s", l->max,
                            l->beyond);
        item = add_item(list);
        item->line = line_of(w);
        if (walk_section(w, l->section, prefix, item->set) != 0)
            return -1;
    }
}

/* A section's key was met. */
static int walk_named_section(struct walk *w, enum setting_section section)
{
    const char *name = section_name(section);

    if (walk_next(w) != 0)
        return -1;
    if (setting_list_of(section))
        return walk_list(w, setting_list_of(section));
    if (is_null(&w->event)) /* all that was in it is commented out */
        return 0;
    if (w->event.type != YAML_MAPPING_START_EVENT)
        return complain(w, line_of(w), name, "is not a mapping; write 'key: value' lines below it");
    return walk_section(w, section, name, w->file->set);
}

static enum setting_section find_section(const char *key)
{
    for (int s = SECTION_top + 1; s < SECTION_COUNT; s++)
        if (stands_at_top((enum setting_section)s) &&
            strcmp(section_name((enum setting_section)s), key) == 0)
            return (enum setting_section)s;
    return SECTION_top;
}

static int walk_top(struct walk *w)
{
    unsigned seen[SECTION_COUNT] = {0};
    enum setting_section section;
    const char *key = NULL;
    bool more;
    int rc;

    for (;;) {
        if (walk_key(w, "", &more, &key) != 0)
            return -1;
        if (!more)
            return 0;
        section = find_section(key);
        if (seen[section])
            return complain_twice(w, "", section_name(section), seen[section]);
        if (section != SECTION_top) {
            seen[section] = line_of(w);
            rc = walk_named_section(w, section);
        } else {
            rc = walk_setting(w, SECTION_top, "", key, w->file->set);
        }
        if (rc != 0)
            return -1;
    }
}

/* One document with one mapping, or nothing at all; *empty says which. */
static int walk_document(struct walk *w, bool *empty)
{
    *empty = true;
    if (walk_next(w) != 0 || walk_next(w) != 0) /* stream start, then document start or the end */
        return -1;
    if (w->event.type == YAML_STREAM_END_EVENT)
        return 0;
    if (walk_next(w) != 0)
        return -1;
    if (!is_null(&w->event)) {
        *empty = false;
        if (w->event.type != YAML_MAPPING_START_EVENT)
            return complain(w, line_of(w), "", "is not a mapping; write 'key: value' lines");
        if (walk_top(w) != 0)
            return -1;
    }
    if (walk_next(w) != 0 || walk_next(w) != 0) /* document end, then stream end */
        return -1;
    if (w->event.type != YAML_STREAM_END_EVENT)
        return complain(w, line_of(w), "", "begins a second document; keep one");
    return 0;
}

static int walk(const char *path, const struct bytes *content, struct config_file *file,
                bool *empty, struct err *err)
{
    struct walk w = {.path = path, .content = content, .file = file, .err = err};
    int rc;

    must(yaml_parser_initialize(&w.parser)); /* fails without memory only */
    yaml_parser_set_input_string(
        &w.parser, (const unsigned char *)(content->data ? content->data : ""), content->len);
    rc = walk_document(&w, empty);
    if (w.has_event)
        yaml_event_delete(&w.event);
    yaml_parser_delete(&w.parser);
    return rc;
}

/* libcyaml. */

/* Keep the last thing that libcyaml complained of. */
static void __attribute__((format(printf, 3, 0)))
keep_complaint(cyaml_log_t level, void *ctx, const char *fmt, va_list args)
{
    char *kept = ctx;

    if (level < CYAML_LOG_ERROR || *kept)
        return;
    vsnprintf(kept, ERR_TEXT_MAX / 2, fmt, args);
    kept[strcspn(kept, "\n")] = '\0';
}

static const cyaml_config_t *cyaml_settings(cyaml_config_t *c, char complaint[ERR_TEXT_MAX / 2])
{
    memset(c, 0, sizeof(*c));
    c->log_fn = keep_complaint;
    c->log_ctx = complaint;
    c->log_level = CYAML_LOG_ERROR;
    c->mem_fn = cyaml_mem;
    c->flags = CYAML_CFG_NO_ALIAS;
    return c;
}

static int load_texts(const char *path, const struct bytes *content, struct config_file *file,
                      struct err *err)
{
    char complaint[ERR_TEXT_MAX / 2] = "";
    cyaml_config_t c;
    cyaml_err_t rc;

    rc = cyaml_load_data((const uint8_t *)content->data, content->len,
                         cyaml_settings(&c, complaint), &top_schema, &file->yaml, NULL);
    if (rc == CYAML_OK)
        return 0;
    return err_set(err, ERR_INPUT, "%s:1: is not understood: %s; see 'pannier config describe'",
                   path, *complaint ? complaint : cyaml_strerror(rc));
}

/* Point the places at libcyaml's texts. */
static void place_texts(struct config_file *file)
{
    const struct raw_top *top = file->yaml;

#define TEXT_ONE(place, raw, key)  (place)->text = (raw)->key;
#define TEXT_MANY(place, raw, key) (place)->text = (place)->items;
#define X(section, key, field, type, ...)                                                          \
    JOINED(TEXT_, SHAPE_##type)(&file->set[setting_##section##_##key], top, key)
    CONFIG_TOP(X)
#undef X
#define X(section_, key, field, type, ...)                                                         \
    if (top->section_)                                                                             \
        JOINED(TEXT_, SHAPE_##type)                                                                \
    (&file->set[setting_##section_##_##key], top->section_, key)
#define Y(section, rows, lists) rows(X)
    CONFIG_SECTIONS(Y)
#undef Y
#undef X
#define X(section_, key, field, type, ...)                                                         \
    JOINED(TEXT_, SHAPE_##type)(&item->set[setting_##section_##_##key], raw, key)
#define ENTRIES(section_, rows, raws, raw_count)                                                   \
    must((raw_count) == file->lists[SECTION_##section_].count);                                    \
    for (size_t i = 0; i < file->lists[SECTION_##section_].count; i++) {                           \
        struct config_file_item *item = &file->lists[SECTION_##section_].items[i];                 \
        const struct raw_##section_ *raw = &(raws)[i];                                             \
                                                                                                   \
        rows(X)                                                                                    \
    }
#define Y(section_, rows, ...) ENTRIES(section_, rows, top->section_, top->section_##_count)
    CONFIG_LISTS(Y)
#undef Y
#define Y(section_, rows, type, counter, max, beyond, like, within, key)                           \
    if (top->within) {                                                                             \
        ENTRIES(section_, rows, top->within->key, top->within->key##_count)                        \
    }
    CONFIG_INNER_LISTS(Y)
#undef Y
#undef X
}

int config_file_load(const char *path, struct config_file **out, struct err *err)
{
    struct config_file *file = xcalloc(1, sizeof(*file));
    struct bytes content;
    bool empty;
    int rc = -1;

    bytes_init(&content, FILE_MAX_BYTES);
    if (file_read(path, &content, err) != 0 || walk(path, &content, file, &empty, err) != 0)
        goto out;
    if (!empty) {
        if (load_texts(path, &content, file, err) != 0)
            goto out;
        place_texts(file);
    }
    *out = file;
    file = NULL;
    rc = 0;
out:
    bytes_clear(&content);
    config_file_free(&file);
    return rc;
}

void config_file_free(struct config_file **filep)
{
    struct config_file *file = *filep;
    char complaint[ERR_TEXT_MAX / 2] = "";
    cyaml_config_t c;

    *filep = NULL;
    if (!file)
        return;
    if (file->yaml)
        cyaml_free(cyaml_settings(&c, complaint), &top_schema, file->yaml, 0);
    for (int s = 0; s < SECTION_COUNT; s++) {
        for (size_t i = 0; i < file->lists[s].count; i++)
            for (size_t k = 0; k < SETTINGS_TOTAL; k++)
                free(file->lists[s].items[i].set[k].items);
        free(file->lists[s].items);
    }
    for (size_t k = 0; k < SETTINGS_TOTAL; k++)
        free(file->set[k].items);
    free(file);
}
