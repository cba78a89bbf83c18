#include "protocol/cron.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "protocol/base.h"

enum {
    DAY_S = 24 * 3600,
    DAYS_MAX = 41 * 366, /* 29 February is a Sunday once in 28 years, or 40 */
    TEXT_MAX = 256,
};
static const int64_t TIME_MAX_S = 253402300799; /* the year 9999's end */

static const char *const month_names[] = {"jan", "feb", "mar", "apr", "may", "jun",
                                          "jul", "aug", "sep", "oct", "nov", "dec"};
static const char *const weekday_names[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat"};

static const struct field {
    const char *what;
    unsigned min, max;
    const char *const *names; /* of min and those that follow; NULL: none */
    size_t name_count;
} fields[] = {
    {"minute", 0, 59, NULL, 0},
    {"hour", 0, 23, NULL, 0},
    {"day of the month", 1, 31, NULL, 0},
    {"month", 1, 12, month_names, ARRAY_LEN(month_names)},
    {"day of the week", 0, 7, weekday_names, ARRAY_LEN(weekday_names)},
};

/* ---- reading ---- */

static bool take_number(const char **s, unsigned *out)
{
    unsigned n = 0;

    if (!isdigit((unsigned char)**s))
        return false;
    for (; isdigit((unsigned char)**s); ++*s)
        if ((n = n * 10 + (unsigned)(**s - '0')) > 1000)
            return false;
    *out = n;
    return true;
}

static bool take_value(const struct field *f, const char **s, unsigned *out)
{
    for (size_t i = 0; i < f->name_count; i++)
        if (strncasecmp(*s, f->names[i], 3) == 0) {
            *s += 3;
            *out = f->min + (unsigned)i;
            return true;
        }
    return take_number(s, out) && *out >= f->min && *out <= f->max;
}

/* "*", "5", "1-5", each with "/2" behind it.  A step behind a single number goes on to the end. */
static bool take_part(const struct field *f, const char **s, uint64_t *bits)
{
    unsigned low = f->min, high = f->max, step = 1;
    bool one = false;

    if (**s == '*') {
        ++*s;
        if (f->max == 7) /* Sunday once, or steps would meet it twice */
            high = 6;
    } else if (!take_value(f, s, &low)) {
        return false;
    } else if (**s == '-') {
        ++*s;
        if (!take_value(f, s, &high) || high < low)
            return false;
    } else {
        one = true;
    }
    if (**s == '/') {
        ++*s;
        if (!take_number(s, &step) || step == 0)
            return false;
    } else if (one) {
        high = low;
    }
    for (unsigned n = low; n <= high; n += step)
        *bits |= UINT64_C(1) << n;
    return true;
}

static bool take_field(const struct field *f, const char **s, uint64_t *bits)
{
    *bits = 0;
    for (;;) {
        if (!take_part(f, s, bits))
            return false;
        if (**s != ',')
            break;
        ++*s;
    }
    return **s == '\0' || **s == ' ' || **s == '\t';
}

static const char *skip_blanks(const char *s)
{
    return s + strspn(s, " \t");
}

static const char *spelled_out(const char *text)
{
    static const struct {
        const char *word, *fields;
    } words[] = {
        {"@hourly", "0 * * * *"},   {"@daily", "0 0 * * *"},   {"@midnight", "0 0 * * *"},
        {"@weekly", "0 0 * * 0"},   {"@monthly", "0 0 1 * *"}, {"@yearly", "0 0 1 1 *"},
        {"@annually", "0 0 1 1 *"},
    };

    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (strcasecmp(words[i].word, text) == 0)
            return words[i].fields;
    return text;
}

/* 30 February never comes. */
static bool comes(const struct cron *c)
{
    static const int lengths[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    for (int m = 1; m <= 12; m++)
        for (int d = 1; d <= lengths[m - 1]; d++)
            if ((c->months >> m & 1) && (c->days >> d & 1))
                return true;
    return c->either_day;
}

int cron_parse(const char *text, struct cron *out, struct err *err)
{
    uint64_t bits[ARRAY_LEN(fields)];
    bool star[ARRAY_LEN(fields)];
    const char *s;

    if (strlen(text) > TEXT_MAX)
        return err_set(err, ERR_INPUT, "is longer than %d bytes", TEXT_MAX);
    if (text[0] == '@' && spelled_out(text) == text)
        return err_set(err, ERR_INPUT,
                       "is no word of cron's; write @hourly, @daily, @weekly, @monthly or @yearly");
    s = spelled_out(text);
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        s = skip_blanks(s);
        star[i] = *s == '*';
        if (*s == '\0')
            return err_set(err, ERR_INPUT, "has no %s; write five fields such as 0 6 * * 1-5",
                           fields[i].what);
        if (!take_field(&fields[i], &s, &bits[i]))
            return err_set(err, ERR_INPUT,
                           "has no %s as its %s field; write *, or what is between %u and %u",
                           fields[i].what,
                           i == 0   ? "first"
                           : i == 1 ? "second"
                           : i == 2 ? "third"
                           : i == 3 ? "fourth"
                                    : "fifth",
                           fields[i].min, fields[i].max);
    }
    if (*skip_blanks(s) != '\0')
        return err_set(err, ERR_INPUT, "has more than five fields; write such as 0 6 * * 1-5");
    if (bits[4] >> 7 & 1)
        bits[4] |= 1;
    *out = (struct cron){.minutes = bits[0],
                         .hours = (uint32_t)bits[1],
                         .days = (uint32_t)bits[2],
                         .months = (uint32_t)bits[3],
                         .weekdays = (uint32_t)bits[4] & 0x7f,
                         .either_day = !star[2] && !star[4]};
    if (!comes(out))
        return err_set(err, ERR_INPUT, "never comes: these months have no such day");
    return 0;
}

/* ---- when ---- */

static bool fits_day(const struct cron *c, int64_t days)
{
    int64_t year;
    int month, day, weekday = (int)(((days + 4) % 7 + 7) % 7);
    bool by_day, by_weekday;

    date_of_days(days, &year, &month, &day);
    if (!(c->months >> month & 1))
        return false;
    by_day = c->days >> day & 1;
    by_weekday = c->weekdays >> weekday & 1;
    return c->either_day ? by_day || by_weekday : by_day && by_weekday;
}

/* The first of its hour that is behind after. */
static bool next_in_hour(const struct cron *c, const struct time_zone *z, int64_t begin,
                         int64_t after, int64_t *out)
{
    /* Later on the clocks is never earlier, so this leaves out hours that are over. */
    if (time_zone_from_local(z, begin + 59 * 60) <= after)
        return false;
    for (int m = 0; m < 60; m++) {
        if (!(c->minutes >> m & 1))
            continue;
        *out = time_zone_from_local(z, begin + m * 60);
        if (*out > after)
            return true;
    }
    return false;
}

bool cron_next(const struct cron *c, const struct time_zone *z, int64_t after, int64_t *out)
{
    int64_t first;

    if (after < 0 || after > TIME_MAX_S)
        return false;
    /* One day earlier than the clocks say, as they may have been put back meanwhile. */
    first = (after + 2 * DAY_S + time_zone_offset(z, after)) / DAY_S - 3;
    for (int64_t d = first; d <= first + DAYS_MAX; d++) {
        if (!fits_day(c, d))
            continue;
        for (int h = 0; h < 24; h++)
            if ((c->hours >> h & 1) && next_in_hour(c, z, d * DAY_S + h * 3600, after, out))
                return true;
    }
    return false;
}

bool cron_latest(const struct cron *c, const struct time_zone *z, int64_t now, int64_t *out)
{
    int64_t low = now - (int64_t)DAYS_MAX * DAY_S, high = now, next;

    if (low < 0)
        low = 0;
    if (!cron_next(c, z, low, out) || *out > now)
        return false;
    /* Behind low one is due until now, and behind high none is. */
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;

        if (cron_next(c, z, middle, &next) && next <= now) {
            low = middle;
            *out = next;
        } else {
            high = middle;
        }
    }
    return true;
}
