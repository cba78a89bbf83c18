#include "protocol/time_zone.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

enum {
    HEADER_SIZE = 44,
    DAY_S = 24 * 3600,
    TRANSITIONS_MAX = 4096, /* the longest of the database has some 240 */
    TYPES_MAX = 256,        /* a byte names one */
    /* As RFC 9636 has them. */
    OFFSET_MIN_S = -89999,
    OFFSET_MAX_S = 93599,
    RULE_HOURS_MAX = 167,
};

/* A day of each year, and when on it. */
struct turn {
    enum { TURN_WEEKDAY, TURN_JULIAN, TURN_DAY } kind;
    int month, week, day; /* TURN_WEEKDAY: week 5 is the last; else only day */
    int32_t time_s;
};

/* The line at the end of the file: POSIX's TZ. */
struct rule {
    bool there, summer;
    int32_t standard_s, summer_s; /* what is added to UTC */
    struct turn begin, end;
};

struct time_zone {
    size_t count, type_count;
    int64_t *times; /* count of them, rising */
    uint8_t *types; /* from each on */
    int32_t offsets[TYPES_MAX];
    struct rule rule;
};

/* ---- dates ---- */

int64_t days_of_date(int64_t year, int month, int day)
{
    /* Years that begin in March have their odd day at the end; 400 of them are all alike. */
    int64_t y = month <= 2 ? year - 1 : year;
    int64_t era = (y >= 0 ? y : y - 399) / 400, in_era = y - era * 400;
    int64_t in_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;

    return era * 146097 + in_era * 365 + in_era / 4 - in_era / 100 + in_year - 719468;
}

void date_of_days(int64_t days, int64_t *year, int *month, int *day)
{
    int64_t z = days + 719468, era = (z >= 0 ? z : z - 146096) / 146097, in_era = z - era * 146097;
    int64_t y = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
    int64_t in_year = in_era - (365 * y + y / 4 - y / 100), m = (5 * in_year + 2) / 153;

    *day = (int)(in_year - (153 * m + 2) / 5 + 1);
    *month = (int)(m < 10 ? m + 3 : m - 9);
    *year = y + era * 400 + (*month <= 2);
}

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static int weekday_of(int64_t days)
{
    return (int)(((days + 4) % 7 + 7) % 7); /* 1 January 1970 was a Thursday */
}

static bool is_leap(int64_t year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

/* ---- the rule ---- */

static bool take_number(const char **s, int max, int *out)
{
    int n = 0;

    if (!isdigit((unsigned char)**s))
        return false;
    for (; isdigit((unsigned char)**s); ++*s)
        if ((n = n * 10 + (**s - '0')) > max)
            return false;
    *out = n;
    return true;
}

static bool take_char(const char **s, char c)
{
    if (**s != c)
        return false;
    ++*s;
    return true;
}

/* "CET", "<+03>" */
static bool take_name(const char **s)
{
    const char *begin = *s;

    if (take_char(s, '<')) {
        while (isalnum((unsigned char)**s) || **s == '+' || **s == '-')
            ++*s;
        return take_char(s, '>');
    }
    while (isalpha((unsigned char)**s))
        ++*s;
    return *s - begin >= 3;
}

/* "[+-]hh[:mm[:ss]]" */
static bool take_time(const char **s, int hours_max, int32_t *out)
{
    int sign = take_char(s, '-') ? -1 : 1, h = 0, m = 0, sec = 0;

    if (sign > 0)
        take_char(s, '+');
    if (!take_number(s, hours_max, &h) || (take_char(s, ':') && !take_number(s, 59, &m)))
        return false;
    if (take_char(s, ':') && !take_number(s, 59, &sec))
        return false;
    *out = sign * (h * 3600 + m * 60 + sec);
    return true;
}

static bool take_turn(const char **s, struct turn *out)
{
    bool ok;

    *out = (struct turn){.time_s = 2 * 3600};
    if (!take_char(s, ','))
        return false;
    if (take_char(s, 'M')) {
        out->kind = TURN_WEEKDAY;
        ok = take_number(s, 12, &out->month) && out->month >= 1 && take_char(s, '.') &&
             take_number(s, 5, &out->week) && out->week >= 1 && take_char(s, '.') &&
             take_number(s, 6, &out->day);
    } else if (take_char(s, 'J')) {
        out->kind = TURN_JULIAN;
        ok = take_number(s, 365, &out->day) && out->day >= 1;
    } else {
        out->kind = TURN_DAY;
        ok = take_number(s, 365, &out->day);
    }
    return ok && (!take_char(s, '/') || take_time(s, RULE_HOURS_MAX, &out->time_s));
}

static bool read_rule(const char *s, struct rule *out)
{
    *out = (struct rule){.there = false};
    if (*s == '\0') /* nobody knows what comes */
        return true;
    if (!take_name(&s) || !take_time(&s, 24, &out->standard_s))
        return false;
    out->there = true;
    out->standard_s = -out->standard_s; /* it counts westwards */
    if (*s == '\0')
        return true;
    out->summer = true;
    out->summer_s = out->standard_s + 3600;
    if (!take_name(&s))
        return false;
    if (*s != ',') {
        if (!take_time(&s, 24, &out->summer_s))
            return false;
        out->summer_s = -out->summer_s;
    }
    return take_turn(&s, &out->begin) && take_turn(&s, &out->end) && *s == '\0';
}

static int64_t day_of_turn(const struct turn *t, int64_t year)
{
    int64_t first, day;

    if (t->kind == TURN_DAY)
        return days_of_date(year, 1, 1) + t->day;
    if (t->kind == TURN_JULIAN) /* 29 February is never counted */
        return days_of_date(year, 1, 1) + t->day - 1 + (t->day >= 60 && is_leap(year));
    first = days_of_date(year, t->month, 1);
    day = first + (t->day - weekday_of(first) + 7) % 7 + 7 * (t->week - 1);
    while (day >=
           (t->month == 12 ? days_of_date(year + 1, 1, 1) : days_of_date(year, t->month + 1, 1)))
        day -= 7;
    return day;
}

static int32_t offset_by_rule(const struct rule *r, int64_t t)
{
    int64_t year, begin, end;
    int month, day;
    bool summer;

    if (!r->summer)
        return r->standard_s;
    date_of_days(floor_div(t + r->standard_s, DAY_S), &year, &month, &day);
    begin = day_of_turn(&r->begin, year) * DAY_S + r->begin.time_s - r->standard_s;
    end = day_of_turn(&r->end, year) * DAY_S + r->end.time_s - r->summer_s;
    summer = begin < end ? begin <= t && t < end : !(end <= t && t < begin);
    return summer ? r->summer_s : r->standard_s;
}

/* ---- the file ---- */

struct counts {
    uint32_t isut, isstd, leaps, times, types, chars;
};

static int64_t number_at(const uint8_t *p, size_t size)
{
    uint64_t n = p[0] >= 0x80 ? UINT64_MAX : 0;

    for (size_t i = 0; i < size; i++)
        n = n << 8 | p[i];
    return (int64_t)n;
}

static bool read_header(const uint8_t *p, size_t len, struct counts *out)
{
    uint32_t n[6];

    if (len < HEADER_SIZE || memcmp(p, "TZif", 4) != 0)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(n); i++)
        n[i] = (uint32_t)number_at(p + 20 + 4 * i, 4);
    *out = (struct counts){n[0], n[1], n[2], n[3], n[4], n[5]};
    return out->times <= TRANSITIONS_MAX && out->types >= 1 && out->types <= TYPES_MAX &&
           out->isut <= TYPES_MAX && out->isstd <= TYPES_MAX && out->leaps <= TRANSITIONS_MAX &&
           out->chars <= TRANSITIONS_MAX;
}

/* Behind its header; width: bytes of a time. */
static size_t body_size(const struct counts *n, size_t width)
{
    return n->times * (width + 1) + n->types * 6 + n->chars + n->leaps * (width + 4) + n->isstd +
           n->isut;
}

static bool read_body(const uint8_t *p, const struct counts *n, size_t width, struct time_zone *z)
{
    const uint8_t *types = p + n->times * width, *infos = types + n->times;

    if (n->leaps > 0)
        return false;
    z->count = n->times;
    z->type_count = n->types;
    z->times = xcalloc(n->times + 1, sizeof(*z->times));
    z->types = xcalloc(n->times + 1, sizeof(*z->types));
    for (size_t i = 0; i < n->times; i++) {
        z->times[i] = number_at(p + i * width, width);
        z->types[i] = types[i];
        if (types[i] >= n->types || (i > 0 && z->times[i] <= z->times[i - 1]))
            return false;
    }
    for (size_t i = 0; i < n->types; i++) {
        z->offsets[i] = (int32_t)number_at(infos + 6 * i, 4);
        if (z->offsets[i] < OFFSET_MIN_S || z->offsets[i] > OFFSET_MAX_S)
            return false;
    }
    return true;
}

/* "\n<rule>\n", to the end. */
static bool read_footer(const uint8_t *p, size_t len, struct time_zone *z)
{
    char line[128];

    if (len < 2 || len - 2 >= sizeof(line) || p[0] != '\n' || p[len - 1] != '\n')
        return false;
    memcpy(line, p + 1, len - 2);
    line[len - 2] = '\0';
    return strlen(line) == len - 2 && read_rule(line, &z->rule);
}

static bool read_file(const uint8_t *p, size_t len, struct time_zone *z)
{
    struct counts n;
    size_t size;

    if (!read_header(p, len, &n) || (size = HEADER_SIZE + body_size(&n, 4)) > len)
        return false;
    if (p[4] == '\0') /* the first version has nothing more */
        return read_body(p + HEADER_SIZE, &n, 4, z);
    p += size;
    len -= size;
    if (!read_header(p, len, &n) || (size = HEADER_SIZE + body_size(&n, 8)) > len)
        return false;
    return read_body(p + HEADER_SIZE, &n, 8, z) && read_footer(p + size, len - size, z);
}

int time_zone_read(const void *data, size_t len, struct time_zone **out, struct err *err)
{
    struct time_zone *z = xcalloc(1, sizeof(*z));

    if (read_file(data, len, z)) {
        *out = z;
        return 0;
    }
    time_zone_free(&z);
    return err_set(err, ERR_INPUT,
                   "is no time zone of the tz database, or one that counts leap seconds");
}

struct time_zone *time_zone_utc(void)
{
    struct time_zone *z = xcalloc(1, sizeof(*z));

    z->type_count = 1;
    return z;
}

void time_zone_free(struct time_zone **zp)
{
    struct time_zone *z = *zp;

    *zp = NULL;
    if (z == NULL)
        return;
    free(z->times);
    free(z->types);
    free(z);
}

/* ---- questions ---- */

int32_t time_zone_offset(const struct time_zone *z, int64_t t)
{
    size_t low = 0, high = z->count; /* how many transitions are not behind t */

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (z->times[middle] <= t)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == z->count && z->rule.there)
        return offset_by_rule(&z->rule, t);
    return z->offsets[low > 0 ? z->types[low - 1] : 0];
}

int64_t time_zone_from_local(const struct time_zone *z, int64_t local)
{
    /* No zone is a day away from UTC, so these are before and behind it.  That the clocks are put
     * twice within two days is not provided for. */
    int32_t before = time_zone_offset(z, local - DAY_S), after = time_zone_offset(z, local + DAY_S);
    int64_t early = local - before, late = local - after;

    if (time_zone_offset(z, early) == before)
        return early;
    if (time_zone_offset(z, late) == after || late >= early)
        return late;
    /* Skipped: late is before the clocks are put forward, and early is not. */
    while (early - late > 1) {
        int64_t middle = late + (early - late) / 2;

        if (time_zone_offset(z, middle) == before)
            late = middle;
        else
            early = middle;
    }
    return early;
}
