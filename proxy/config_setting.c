#include "proxy/config_setting.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "protocol/base.h"

#define OFFSET_top(field)       offsetof(struct config, field)
#define OFFSET_upstreams(field) offsetof(struct upstream_config, field)
#define OFFSET_limits(field)    offsetof(struct config, field)
#define OFFSET_cache(field)     offsetof(struct config, field)
#define OFFSET_shared(field)    offsetof(struct config, field)
#define OFFSET_admin(field)     offsetof(struct config, field)
#define OFFSET_metrics(field)   offsetof(struct config, field)
#define OFFSET_log(field)       offsetof(struct config, field)
#define TAKES_RELOAD            false
#define TAKES_RESTART           true

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
    static const char *const names[SECTION_COUNT] = {"",       "upstreams", "limits",  "cache",
                                                     "shared", "admin",     "metrics", "log"};

    return names[section];
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

bool address_parse(const char *text, char **host, uint16_t *port)
{
    size_t len = host_span(text, false), skip = text[0] == '[';
    uint64_t number;

    if (len == 0 || text[len] != ':' ||
        !port_ok(text + len + 1, strlen(text + len + 1), 0, &number))
        return false;
    *host = xstrndup(text + skip, len - 2 * skip);
    *port = (uint16_t)number;
    return true;
}

static bool address_set(const char *text, struct config *c, char why[SETTING_WHY_MAX])
{
    char *host;

    if (!address_parse(text, &host, &c->listen_port))
        return refuse(why, "is not HOST:PORT; write for instance 127.0.0.1:8080 or [::1]:8080");
    free(c->listen_host);
    c->listen_host = host;
    return true;
}

static bool listen_set(const char *text, char **field, char why[SETTING_WHY_MAX])
{
    char *host = NULL;
    uint16_t port;
    bool off = strcmp(text, "off") == 0;

    if (!off && !address_parse(text, &host, &port))
        return refuse(why,
                      "is neither HOST:PORT nor off; write for instance 127.0.0.1:8081 or [::1]:0");
    free(host);
    free(*field);
    *field = xstrdup(text);
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

static bool url_set(const char *text, char **field, char why[SETTING_WHY_MAX])
{
    size_t len;

    if (!upstream_url_ok(text, true, &len, why))
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

bool setting_set(const struct setting *s, const char *text, void *base, char why[SETTING_WHY_MAX])
{
    void *field = (char *)base + s->offset;

    switch (s->type) {
    case SETTING_ADDRESS: return address_set(text, base, why);
    case SETTING_FOLDER:
    case SETTING_FILE: return path_set(text, field, why);
    case SETTING_NAME: return name_set(text, field, why);
    case SETTING_TEXT: return text_set(text, field, why);
    case SETTING_LISTEN: return listen_set(text, field, why);
    case SETTING_URL: return url_set(text, field, why);
    case SETTING_SIZE:
    case SETTING_DURATION:
    case SETTING_COUNT: return number_set(s, text, field, why);
    case SETTING_SHARE: return share_set(s, text, field, why);
    case SETTING_BOOL: return bool_set(text, field, why);
    case SETTING_ENUM: return enum_set(s, text, field, why);
    }
    must(!"a setting of a known type");
    return false;
}

static char *address_get(const struct config *c)
{
    bool v6 = strchr(c->listen_host, ':') != NULL;

    return xasprintf("%s%s%s:%u", v6 ? "[" : "", c->listen_host, v6 ? "]" : "", c->listen_port);
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
    case SETTING_ADDRESS: return address_get(base);
    case SETTING_FOLDER:
    case SETTING_FILE:
    case SETTING_NAME:
    case SETTING_TEXT:
    case SETTING_LISTEN:
    case SETTING_URL: string = *(char *const *)field; return string ? xstrdup(string) : NULL;
    case SETTING_SIZE: size_format(*(const uint64_t *)field, number); return xstrdup(number);
    case SETTING_DURATION:
        duration_format(*(const uint64_t *)field, number);
        return xstrdup(number);
    case SETTING_COUNT: return xasprintf("%" PRIu32, *(const uint32_t *)field);
    case SETTING_SHARE: return share_get(field);
    case SETTING_BOOL: return xstrdup(*(const bool *)field ? "true" : "false");
    case SETTING_ENUM: return enum_get(s, field);
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
    for (size_t i = 0; i < SETTINGS_TOTAL; i++)
        if (setting_table[i].section == section && setting_table[i].type <= SETTING_URL) {
            char **field = (char **)((char *)base + setting_table[i].offset);

            free(*field);
            *field = NULL;
        }
}
