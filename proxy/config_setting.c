#include "proxy/config_setting.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "protocol/base.h"
#include "protocol/bytes.h"
#include "protocol/cron.h"
#include "protocol/glob.h"
#include "proxy/warm/name.h"

#define OFFSET_top(field)               offsetof(struct config, field)
#define OFFSET_tls(field)               offsetof(struct config, field)
#define OFFSET_upstreams(field)         offsetof(struct upstream_config, field)
#define OFFSET_clients(field)           offsetof(struct client_config, field)
#define OFFSET_limits(field)            offsetof(struct config, field)
#define OFFSET_cache(field)             offsetof(struct config, field)
#define OFFSET_shared(field)            offsetof(struct config, field)
#define OFFSET_redis(field)             offsetof(struct config, field)
#define OFFSET_cluster(field)           offsetof(struct config, field)
#define OFFSET_admin(field)             offsetof(struct config, field)
#define OFFSET_metrics(field)           offsetof(struct config, field)
#define OFFSET_warm(field)              offsetof(struct config, field)
#define OFFSET_warm_repositories(field) offsetof(struct warm_repository_config, field)
#define OFFSET_log(field)               offsetof(struct config, field)
#define TAKES_RELOAD                    false
#define TAKES_RESTART                   true

const struct setting setting_table[SETTINGS_TOTAL] = {
#define X(section_, key_, field_, type_, min_, max_, default_, takes_, values_, prose_)            \
    [setting_##section_##_##key_] = {.section = SECTION_##section_,                                \
                                     .type = SETTING_##type_,                                      \
                                     .key = #key_,                                                 \
                                     .offset = OFFSET_##section_(field_),                          \
                                     .min = min_,                                                  \
                                     .max = max_,                                                  \
                                     .standard = default_,                                         \
                                     .restart = TAKES_##takes_,                                    \
                                     .values = values_,                                            \
                                     .prose = prose_},
    CONFIG_TABLE(X)
#undef X
};

const char *section_name(enum setting_section section)
{
    static const char *const names[SECTION_COUNT] = {
        [SECTION_top] = "",
        [SECTION_tls] = "tls",
        [SECTION_upstreams] = "upstreams",
        [SECTION_clients] = "clients",
        [SECTION_limits] = "limits",
        [SECTION_cache] = "cache",
        [SECTION_shared] = "shared",
        [SECTION_redis] = "redis",
        [SECTION_cluster] = "cluster",
        [SECTION_admin] = "admin",
        [SECTION_metrics] = "metrics",
        [SECTION_warm] = "warm",
        [SECTION_warm_repositories] = "warm.repositories",
        [SECTION_log] = "log",
    };

    return names[section];
}

/* Lists. */

static const struct setting_list lists[] = {
#define Z(section_, rows, type, counter, max_, beyond_, like_, within_, key_)                      \
    {.section = SECTION_##section_,                                                                \
     .items_offset = offsetof(struct config, section_),                                            \
     .count_offset = offsetof(struct config, counter),                                             \
     .item_size = sizeof(struct type),                                                             \
     .max = max_,                                                                                  \
     .beyond = beyond_,                                                                            \
     .like = like_,                                                                                \
     .within = SECTION_##within_,                                                                  \
     .key = #key_},
#define Y(section_, rows, type, counter, max_, beyond_, like_)                                     \
    Z(section_, rows, type, counter, max_, beyond_, like_, top, section_)
    CONFIG_LISTS(Y) CONFIG_INNER_LISTS(Z)
#undef Y
#undef Z
};

const struct setting_list *setting_list_of(enum setting_section section)
{
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        if (lists[i].section == section)
            return &lists[i];
    return NULL;
}

size_t setting_list_count(const struct setting_list *l, const struct config *c)
{
    size_t count;

    memcpy(&count, (const char *)c + l->count_offset, sizeof(count));
    return count;
}

static char *list_items(const struct setting_list *l, const struct config *c)
{
    char *items;

    /* The pointer's type is the entries' own. */
    memcpy(&items, (const char *)c + l->items_offset, sizeof(items));
    return items;
}

void *setting_list_item(const struct setting_list *l, const struct config *c, size_t index)
{
    must(index < setting_list_count(l, c));
    return list_items(l, c) + index * l->item_size;
}

static void list_set(const struct setting_list *l, struct config *c, char *items, size_t count)
{
    memcpy((char *)c + l->items_offset, &items, sizeof(items));
    memcpy((char *)c + l->count_offset, &count, sizeof(count));
}

void *setting_list_add(const struct setting_list *l, struct config *c)
{
    size_t count = setting_list_count(l, c);
    char *items = xrealloc(list_items(l, c), (count + 1) * l->item_size);
    char *item = items + count * l->item_size;

    list_set(l, c, items, count + 1);
    memset(item, 0, l->item_size);
    setting_set_defaults(l->section, item);
    return item;
}

void setting_list_clear(const struct setting_list *l, struct config *c)
{
    for (size_t i = 0; i < setting_list_count(l, c); i++)
        setting_clear(l->section, setting_list_item(l, c, i));
    free(list_items(l, c));
    list_set(l, c, NULL, 0);
}

static bool __attribute__((format(printf, 2, 3)))
refuse(char why[SETTING_WHY_MAX], const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(why, SETTING_WHY_MAX, fmt, ap);
    va_end(ap);
    return false;
}

enum { TEXT_MAX = 1024 };

/* Sizes and durations. */

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit duration_units[] = {
    {"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};

static const struct unit size_units[] = {
    {"T", 1ULL << 40}, {"G", 1ULL << 30}, {"M", 1ULL << 20}, {"K", 1ULL << 10}};

/* Digits alone: no sign, no space, no fraction.  *rest is what follows them. */
static bool digits_parse(const char *s, uint64_t *value, const char **rest)
{
    uint64_t v = 0;

    if (!isdigit((unsigned char)*s))
        return false;
    for (; isdigit((unsigned char)*s); s++)
        if (__builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
            return false;
    *value = v;
    *rest = s;
    return true;
}

bool duration_parse(const char *s, uint64_t *ms)
{
    uint64_t value, factor = 0;
    const char *rest;

    if (!digits_parse(s, &value, &rest))
        return false;
    for (size_t i = 0; i < ARRAY_LEN(duration_units); i++)
        if (strcmp(rest, duration_units[i].name) == 0)
            factor = duration_units[i].factor;
    if (*rest == '\0')
        factor = 1000;
    if (factor == 0 || __builtin_mul_overflow(value, factor, &value))
        return false;
    *ms = value;
    return true;
}

bool size_parse(const char *s, uint64_t *bytes)
{
    uint64_t value, factor = 1;
    const char *rest;

    if (!digits_parse(s, &value, &rest))
        return false;
    for (size_t i = 0; *rest && i < ARRAY_LEN(size_units); i++)
        if (toupper((unsigned char)*rest) == size_units[i].name[0])
            factor = size_units[i].factor;
    if (factor > 1)
        rest++;
    /* People write 1G, 1GB and 1GiB and mean the same here: powers of 1024. */
    if (factor > 1 && rest[0] == 'i' && rest[1] == 'B')
        rest++;
    if (*rest == 'B')
        rest++;
    if (*rest != '\0' || __builtin_mul_overflow(value, factor, &value))
        return false;
    *bytes = value;
    return true;
}

bool share_parse(const char *s, struct share *out)
{
    const char *rest;
    uint64_t value;

    if (size_parse(s, &value)) {
        *out = (struct share){.bytes = value};
        return true;
    }
    if (!digits_parse(s, &value, &rest) || strcmp(rest, "%") != 0 || value < 1 || value > 100)
        return false;
    *out = (struct share){.percent = (unsigned)value};
    return true;
}

/* The largest unit that says it exactly, so that what is printed parses to the same value. */
static void unit_format(uint64_t value, const struct unit *units, size_t count, const char *zero,
                        char out[32])
{
    if (value == 0) {
        snprintf(out, 32, "0%s", zero);
        return;
    }
    for (size_t i = 0; i < count; i++)
        if (value % units[i].factor == 0) {
            snprintf(out, 32, "%" PRIu64 "%s", value / units[i].factor, units[i].name);
            return;
        }
    snprintf(out, 32, "%" PRIu64, value);
}

void duration_format(uint64_t ms, char out[32])
{
    unit_format(ms, duration_units, ARRAY_LEN(duration_units), "s", out);
}

void size_format(uint64_t bytes, char out[32])
{
    unit_format(bytes, size_units, ARRAY_LEN(size_units), "", out);
}

/* Numbers with bounds: sizes, durations, counts. */

static bool number_parse(enum setting_type type, const char *text, uint64_t *value)
{
    const char *rest;

    switch (type) {
    case SETTING_SIZE: return size_parse(text, value);
    case SETTING_DURATION: return duration_parse(text, value);
    default: return digits_parse(text, value, &rest) && *rest == '\0';
    }
}

static const char *number_hint(enum setting_type type)
{
    switch (type) {
    case SETTING_SIZE: return "is not a size; write a number with K, M, G or T, such as 512K";
    case SETTING_DURATION:
        return "is not a duration; write a number with ms, s, m, h or d, such as 30s";
    default: return "is not a whole number";
    }
}

static bool number_set(const struct setting *s, const char *text, void *field,
                       char why[SETTING_WHY_MAX])
{
    uint64_t value, min, max;

    must(number_parse(s->type, s->min, &min) && number_parse(s->type, s->max, &max));
    if (!number_parse(s->type, text, &value))
        return refuse(why, "%s, between %s and %s", number_hint(s->type), s->min, s->max);
    if (value < min)
        return refuse(why, "is too small; write %s or more, at most %s", s->min, s->max);
    if (value > max)
        return refuse(why, "is too large; write %s or less, at least %s", s->max, s->min);
    if (s->type == SETTING_COUNT)
        *(uint32_t *)field = (uint32_t)value;
    else
        *(uint64_t *)field = value;
    return true;
}

/* s->min bounds sizes; percentages bound themselves. */
static bool share_set(const struct setting *s, const char *text, struct share *field,
                      char why[SETTING_WHY_MAX])
{
    struct share value, min;

    must(share_parse(s->min, &min));
    if (!share_parse(text, &value))
        return refuse(why, "is neither a size nor a percentage; write a number with K, M, G or T, "
                           "such as 100G, or 1%% to 100%%");
    if (value.percent == 0 && value.bytes < min.bytes)
        return refuse(why, "is too small; write %s or more, at most %s", s->min, s->max);
    *field = value;
    return true;
}

static char *share_get(const struct share *field)
{
    char number[32];

    if (field->percent > 0)
        return xasprintf("%u%%", field->percent);
    size_format(field->bytes, number);
    return xstrdup(number);
}

static const struct unit rate_units[] = {{"s", 1000}, {"m", 60000}, {"h", 3600000}};

static bool rate_set(const char *text, struct rate *field, char why[SETTING_WHY_MAX])
{
    const char *rest;
    uint64_t value;

    if (digits_parse(text, &value, &rest) && value <= RATE_COUNT_MAX) {
        if (value == 0 && *rest == '\0') {
            *field = (struct rate){0};
            return true;
        }
        for (size_t i = 0; value > 0 && *rest == '/' && i < ARRAY_LEN(rate_units); i++)
            if (strcmp(rest + 1, rate_units[i].name) == 0) {
                *field = (struct rate){(uint32_t)value, rate_units[i].factor};
                return true;
            }
    }
    return refuse(why,
                  "is no rate; write how many in a second, minute or hour, such as 5/s, 300/m or "
                  "5000/h, at most %d, or 0 for no limit",
                  RATE_COUNT_MAX);
}

static char *rate_get(const struct rate *field)
{
    for (size_t i = 0; field->count > 0 && i < ARRAY_LEN(rate_units); i++)
        if (rate_units[i].factor == field->per_ms)
            return xasprintf("%" PRIu32 "/%s", field->count, rate_units[i].name);
    return xstrdup("0");
}

/* Words. */

static bool bool_set(const char *text, bool *field, char why[SETTING_WHY_MAX])
{
    static const struct {
        const char *word;
        bool value;
    } words[] = {{"true", true},   {"yes", true}, {"on", true},
                 {"false", false}, {"no", false}, {"off", false}};

    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (strcasecmp(text, words[i].word) == 0) {
            *field = words[i].value;
            return true;
        }
    return refuse(why, "is neither true nor false; write one of them");
}

/* The index-th word of "text, json"; its length in *len, NULL past the last. */
static const char *enum_word(const char *values, int index, size_t *len)
{
    for (; index > 0 && values; index--) {
        values = strstr(values, ", ");
        if (values)
            values += 2;
    }
    if (values)
        *len = strcspn(values, ",");
    return values;
}

static bool enum_set(const struct setting *s, const char *text, void *field,
                     char why[SETTING_WHY_MAX])
{
    const char *word;
    size_t len;

    for (int i = 0; (word = enum_word(s->values, i, &len)) != NULL; i++)
        if (strlen(text) == len && memcmp(text, word, len) == 0) {
            memcpy(field, &i, sizeof(int));
            return true;
        }
    return refuse(why, "is not one of the known words; write one of %s", s->values);
}

/* Text. */

static bool host_char(char c)
{
    return isalnum((unsigned char)c) || c == '.' || c == '-' || c == '_';
}

static bool port_ok(const char *s, size_t len, uint64_t min, uint64_t *port)
{
    const char *rest;

    return len > 0 && len <= 5 && digits_parse(s, port, &rest) && rest == s + len && *port >= min &&
           *port <= UINT16_MAX;
}

/* Length of the host that s begins with, brackets included; 0 when it is none.  with_star: a '*'
 * counts as a letter. */
static size_t host_span(const char *s, bool with_star)
{
    size_t n = 0;

    if (*s == '[') {
        n = 1 + strspn(s + 1, "0123456789abcdefABCDEF:.");
        return n > 1 && s[n] == ']' ? n + 1 : 0;
    }
    while (host_char(s[n]) || (with_star && s[n] == '*'))
        n++;
    return n;
}

static bool address_take(const char *text, struct host_port *a)
{
    size_t host = host_span(text, false), skip = text[0] == '[';
    uint64_t port;

    if (host == 0 || text[host] != ':' ||
        !port_ok(text + host + 1, strlen(text + host + 1), 0, &port))
        return false;
    free(a->host);
    a->host = xstrndup(text + skip, host - 2 * skip);
    a->port = (uint16_t)port;
    return true;
}

static bool address_set(const char *text, struct host_port *a, char why[SETTING_WHY_MAX])
{
    return address_take(text, a) ||
           refuse(why, "is not HOST:PORT; write for instance 127.0.0.1:8080 or [::1]:8080");
}

static bool listen_set(const char *text, struct host_port *a, char why[SETTING_WHY_MAX])
{
    if (strcmp(text, "off") != 0)
        return address_take(text, a) ||
               refuse(why, "is neither HOST:PORT nor off; write for instance 127.0.0.1:8081 or "
                           "[::1]:0");
    free(a->host);
    *a = (struct host_port){.host = NULL};
    return true;
}

bool upstream_name_ok(const char *text, bool with_star, char why[SETTING_WHY_MAX])
{
    /* Names become folder names (mirrors/<name>/): a file system takes 255 bytes, and a first '.'
     * could climb out. */
    enum { NAME_MAX_LEN = 255 };
    size_t stars = 0;

    if (text[0] == '\0' || strlen(text) > NAME_MAX_LEN)
        return refuse(why, "is empty or longer than 255 bytes; write the host's name");
    for (const char *p = text; *p; p++) {
        stars += *p == '*';
        if (!host_char(*p) && !strchr(":[]*", *p))
            return refuse(why, "holds a character that no name may; write letters, digits, "
                               "'.', '-', '_', ':' and at most one '*'");
    }
    if (stars > (with_star ? 1 : 0))
        return refuse(why, "holds more than one '*'; write at most one");
    if (strchr(".-_:]", text[0]))
        return refuse(why, "begins with '%c'; begin with a letter, a digit or '*'", text[0]);
    return true;
}

/* host[:port], with at most one '*' in one of them. */
static bool authority_ok(const char *s, size_t len, bool with_star, char why[SETTING_WHY_MAX])
{
    size_t host = host_span(s, with_star), rest;
    uint64_t port;

    if (memchr(s, '@', len))
        return refuse(why, "holds user information (before '@'); write the URL without it");
    if (host == 0 || host > len)
        return refuse(why, "names no host; write for instance https://git.example.com");
    if (host == len)
        return true;
    rest = len - host - 1;
    if (s[host] == ':' &&
        ((with_star && rest == 1 && s[host + 1] == '*') || port_ok(s + host + 1, rest, 1, &port)))
        return true;
    return refuse(why,
                  "has a broken host or port; write for instance https://git.example.com:8443");
}

/* Printable, and nothing that would need a percent sign. */
static bool path_ok(const char *s, size_t len, char why[SETTING_WHY_MAX])
{
    for (size_t i = 0; i < len; i++) {
        if (s[i] == '*')
            return refuse(why, "has a '*' in its path; put it into the host or the port");
        if (s[i] <= ' ' || s[i] >= 0x7f || strchr("\"<>\\^`{|}", s[i]))
            return refuse(why, "holds a character that no URL may; write it with %%XX");
        if (s[i] == '/' && strncmp(s + i, "/..", 3) == 0 && (i + 3 >= len || s[i + 3] == '/'))
            return refuse(why, "climbs with '..'; write the path without it");
    }
    return true;
}

bool upstream_url_ok(const char *text, bool with_star, size_t *len, char why[SETTING_WHY_MAX])
{
    enum { URL_MAX_LEN = 2048 }; /* with a repository's path behind it a URL must stay bounded */
    size_t total = strlen(text), authority, stars = 0;
    const char *host;

    if (strncmp(text, "https://", 8) == 0)
        host = text + 8;
    else if (strncmp(text, "http://", 7) == 0)
        host = text + 7;
    else
        return refuse(why, "is not a URL of http or https; write for instance "
                           "https://git.example.com");
    if (total > URL_MAX_LEN)
        return refuse(why, "is longer than %d bytes; write a shorter one", URL_MAX_LEN);
    authority = strcspn(host, "/?#");
    if (!authority_ok(host, authority, with_star, why))
        return false;
    if (strpbrk(host, "?#"))
        return refuse(why, "has a query or a fragment; write the URL up to '?' or '#'");
    for (size_t i = 0; i < authority; i++)
        stars += host[i] == '*';
    if (stars > 1)
        return refuse(why, "holds more than one '*'; write at most one");
    while (total > 0 && text[total - 1] == '/')
        total--;
    *len = total;
    return path_ok(host + authority, strlen(host + authority), why);
}

static bool has_control_character(const char *text)
{
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            return true;
    return false;
}

static bool text_set(const char *text, char **field, char why[SETTING_WHY_MAX])
{
    if (has_control_character(text))
        return refuse(why, "holds a control character; write it without");
    if (strlen(text) > TEXT_MAX)
        return refuse(why, "is too long; write at most %d bytes", TEXT_MAX);
    free(*field);
    *field = xstrdup(text);
    return true;
}

static bool path_set(const char *text, char **field, char why[SETTING_WHY_MAX])
{
    size_t len = strlen(text);

    if (has_control_character(text))
        return refuse(why, "holds a control character; write a path without");
    if (text[0] != '/')
        return refuse(why, "is not an absolute path; write one that begins with '/'");
    while (len > 1 && text[len - 1] == '/')
        len--;
    free(*field);
    *field = xstrndup(text, len);
    return true;
}

static bool url_set(const char *text, bool with_star, char **field, char why[SETTING_WHY_MAX])
{
    size_t len;

    if (!upstream_url_ok(text, with_star, &len, why))
        return false;
    free(*field);
    *field = xstrndup(text, len);
    return true;
}

static bool name_set(const char *text, char **field, char why[SETTING_WHY_MAX])
{
    if (!upstream_name_ok(text, true, why))
        return false;
    free(*field);
    *field = xstrdup(text);
    return true;
}

/* Who may ask: hashes, and lists of networks and repositories. */

static bool hash_set(const char *text, struct token_hash *field, char why[SETTING_WHY_MAX])
{
    static const char scheme[] = "sha256:";
    struct key key;

    if (strncmp(text, scheme, strlen(scheme)) != 0 || !key_from_hex(text + strlen(scheme), &key))
        return refuse(why, "is not a hash; write sha256: and 64 hex digits, which "
                           "'printf %%s TOKEN | sha256sum' prints");
    *field = (struct token_hash){.set = true, .sha256 = key};
    return true;
}

static char *hash_get(const struct token_hash *field)
{
    char hex[KEY_HEX_SIZE];

    key_to_hex(&field->sha256, hex);
    return field->set ? xasprintf("sha256:%s", hex) : NULL;
}

enum { ITEMS_MAX = 256 }; /* each costs a comparison at every request */

static void text_list_clear(struct text_list *l)
{
    for (size_t i = 0; i < l->count; i++)
        free(l->items[i]);
    free(l->items);
    *l = (struct text_list){0};
}

/* The items of "a, b". */
static bool split_items(const char *text, struct text_list *out, char why[SETTING_WHY_MAX])
{
    bool more = true;

    *out = (struct text_list){0};
    while (more) {
        size_t len = strcspn(text, ",");

        if (len == 0 || out->count == ITEMS_MAX) {
            text_list_clear(out);
            return len == 0
                       ? refuse(why, "has an item without text; write something or leave it out")
                       : refuse(why, "has more than %d items; write fewer", ITEMS_MAX);
        }
        out->items = xrealloc(out->items, (out->count + 1) * sizeof(*out->items));
        out->items[out->count++] = xstrndup(text, len);
        more = text[len] == ',';
        text += len + more;
        text += strspn(text, " ");
    }
    return true;
}

static bool networks_set(const char *text, struct network_list *field, char why[SETTING_WHY_MAX])
{
    struct network *networks;
    struct text_list items;
    bool good = true;
    size_t count;

    if (!split_items(text, &items, why))
        return false;
    count = items.count;
    networks = xcalloc(count, sizeof(*networks));
    for (size_t i = 0; i < count && good; i++)
        if (!network_parse(items.items[i], &networks[i]))
            good = refuse(why,
                          "has no network as item %zu; write for instance 10.1.0.0/16, with "
                          "no bits set behind its length",
                          i + 1);
    text_list_clear(&items);
    if (!good) {
        free(networks);
        return false;
    }
    free(field->items);
    *field = (struct network_list){networks, count};
    return true;
}

static char *networks_get(const struct network_list *field)
{
    struct bytes text;
    size_t len;

    if (field->count == 0)
        return NULL;
    bytes_init(&text, SIZE_MAX / 2);
    for (size_t i = 0; i < field->count; i++) {
        char one[NETWORK_TEXT_MAX];

        network_format(&field->items[i], one);
        bytes_addf(&text, "%s%s", i > 0 ? ", " : "", one);
    }
    return bytes_take(&text, &len);
}

/* What could never match is a mistake, and one that only shows when somebody is refused. */
static bool glob_ok(const char *glob)
{
    size_t len = strlen(glob);
    bool all = strncmp(glob, "**", 2) == 0;

    if (len > GLOB_MAX || glob[0] == '/' || glob[len - 1] == '/' || strstr(glob, "//") ||
        (len >= 4 && strcmp(glob + len - 4, ".git") == 0))
        return false;
    for (const char *p = glob; *p; p++)
        if ((unsigned char)*p <= ' ' || *p == 0x7f)
            return false;
    return all || strchr(glob, '/');
}

static bool globs_set(const char *text, struct text_list *field, char why[SETTING_WHY_MAX])
{
    struct text_list items;

    if (!split_items(text, &items, why))
        return false;
    for (size_t i = 0; i < items.count; i++)
        if (!glob_ok(items.items[i])) {
            text_list_clear(&items);
            return refuse(why,
                          "has no pattern as item %zu; write upstream/path without '.git', "
                          "such as github.com/acme/*",
                          i + 1);
        }
    text_list_clear(field);
    *field = items;
    return true;
}

/* As git has it, as far as that could lead astray here. */
static bool branch_ok(const char *name)
{
    size_t len = strlen(name);

    return len <= WARMUP_BRANCH_MAX && name[0] != '/' && name[0] != '-' && name[len - 1] != '/' &&
           strstr(name, "..") == NULL && strpbrk(name, " ~^:?*[\\") == NULL &&
           !has_control_character(name);
}

static bool branches_set(const char *text, struct text_list *field, char why[SETTING_WHY_MAX])
{
    struct text_list items;

    if (!split_items(text, &items, why))
        return false;
    for (size_t i = 0; i < items.count; i++)
        if (!branch_ok(items.items[i]) || i == WARMUP_BRANCHES_MAX) {
            text_list_clear(&items);
            return i == WARMUP_BRANCHES_MAX
                       ? refuse(why, "has more than %d branches; write fewer", WARMUP_BRANCHES_MAX)
                       : refuse(why, "has no branch's name as item %zu; write such as main", i + 1);
        }
    text_list_clear(field);
    *field = items;
    return true;
}

static bool schedule_set(const char *text, char **field, char why[SETTING_WHY_MAX])
{
    struct cron cron;
    struct err err;

    if (cron_parse(text, &cron, &err) != 0)
        return refuse(why, "%s", err.text);
    free(*field);
    *field = xstrdup(text);
    return true;
}

static char *globs_get(const struct text_list *field)
{
    struct bytes text;
    size_t len;

    if (field->count == 0)
        return NULL;
    bytes_init(&text, SIZE_MAX / 2);
    for (size_t i = 0; i < field->count; i++)
        bytes_addf(&text, "%s%s", i > 0 ? ", " : "", field->items[i]);
    return bytes_take(&text, &len);
}

bool setting_is_list(const struct setting *s)
{
    return s->type == SETTING_NETWORKS || s->type == SETTING_GLOBS || s->type == SETTING_BRANCHES;
}

bool setting_set(const struct setting *s, const char *text, void *base, char why[SETTING_WHY_MAX])
{
    void *field = (char *)base + s->offset;

    switch (s->type) {
    case SETTING_ADDRESS: return address_set(text, field, why);
    case SETTING_FOLDER:
    case SETTING_FILE: return path_set(text, field, why);
    case SETTING_NAME: return name_set(text, field, why);
    case SETTING_TEXT: return text_set(text, field, why);
    case SETTING_SCHEDULE: return schedule_set(text, field, why);
    case SETTING_LISTEN: return listen_set(text, field, why);
    case SETTING_PLAIN_URL: return url_set(text, false, field, why);
    case SETTING_URL: return url_set(text, true, field, why);
    case SETTING_SIZE:
    case SETTING_DURATION:
    case SETTING_COUNT: return number_set(s, text, field, why);
    case SETTING_RATE: return rate_set(text, field, why);
    case SETTING_SHARE: return share_set(s, text, field, why);
    case SETTING_BOOL: return bool_set(text, field, why);
    case SETTING_ENUM: return enum_set(s, text, field, why);
    case SETTING_HASH: return hash_set(text, field, why);
    case SETTING_NETWORKS: return networks_set(text, field, why);
    case SETTING_GLOBS: return globs_set(text, field, why);
    case SETTING_BRANCHES: return branches_set(text, field, why);
    }
    must(!"a setting of a known type");
    return false;
}

static char *address_get(const struct host_port *a)
{
    bool v6 = a->host != NULL && strchr(a->host, ':') != NULL;

    if (a->host == NULL)
        return NULL;
    return xasprintf("%s%s%s:%u", v6 ? "[" : "", a->host, v6 ? "]" : "", a->port);
}

static char *listen_get(const struct host_port *a)
{
    return a->host != NULL ? address_get(a) : xstrdup("off");
}

static char *enum_get(const struct setting *s, const void *field)
{
    const char *word;
    size_t len;
    int index;

    memcpy(&index, field, sizeof(index));
    word = enum_word(s->values, index, &len);
    must(word);
    return xstrndup(word, len);
}

char *setting_get(const struct setting *s, const void *base)
{
    const void *field = (const char *)base + s->offset;
    const char *string;
    char number[32];

    switch (s->type) {
    case SETTING_ADDRESS: return address_get(field);
    case SETTING_LISTEN: return listen_get(field);
    case SETTING_FOLDER:
    case SETTING_FILE:
    case SETTING_NAME:
    case SETTING_TEXT:
    case SETTING_SCHEDULE:
    case SETTING_PLAIN_URL:
    case SETTING_URL: string = *(char *const *)field; return string ? xstrdup(string) : NULL;
    case SETTING_SIZE: size_format(*(const uint64_t *)field, number); return xstrdup(number);
    case SETTING_DURATION:
        duration_format(*(const uint64_t *)field, number);
        return xstrdup(number);
    case SETTING_COUNT: return xasprintf("%" PRIu32, *(const uint32_t *)field);
    case SETTING_RATE: return rate_get(field);
    case SETTING_SHARE: return share_get(field);
    case SETTING_BOOL: return xstrdup(*(const bool *)field ? "true" : "false");
    case SETTING_ENUM: return enum_get(s, field);
    case SETTING_HASH: return hash_get(field);
    case SETTING_NETWORKS: return networks_get(field);
    case SETTING_GLOBS:
    case SETTING_BRANCHES: return globs_get(field);
    }
    must(!"a setting of a known type");
    return NULL;
}

void setting_set_defaults(enum setting_section section, void *base)
{
    char why[SETTING_WHY_MAX];

    for (size_t i = 0; i < SETTINGS_TOTAL; i++)
        if (setting_table[i].section == section && setting_table[i].standard)
            must(setting_set(&setting_table[i], setting_table[i].standard, base, why));
}

void setting_clear(enum setting_section section, void *base)
{
    for (size_t i = 0; i < SETTINGS_TOTAL; i++) {
        void *field = (char *)base + setting_table[i].offset;

        if (setting_table[i].section != section)
            continue;
        if (setting_table[i].type <= SETTING_URL) {
            free(*(char **)field);
            *(char **)field = NULL;
        } else if (setting_table[i].type == SETTING_NETWORKS) {
            free(((struct network_list *)field)->items);
            *(struct network_list *)field = (struct network_list){0};
        } else if (setting_table[i].type == SETTING_GLOBS ||
                   setting_table[i].type == SETTING_BRANCHES) {
            text_list_clear(field);
        } else if (setting_table[i].type == SETTING_HASH) {
            *(struct token_hash *)field = (struct token_hash){0};
        }
    }
}
