#include "proxy/warm/timetable.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "protocol/base.h"
#include "protocol/cron.h"

enum {
    ZONE_FILE_MAX = 64 * 1024, /* the largest has 4 KiB */
    ZONE_NAME_MAX = 64,
};
static const char ZONES[] = "/usr/share/zoneinfo";

struct timetable {
    struct cron cron;
    struct time_zone *zone;
};

/* "Europe/Berlin": nothing that leads out of the folder. */
static bool name_ok(const char *name)
{
    size_t len = strlen(name);

    return len > 0 && len <= ZONE_NAME_MAX && name[0] != '/' && strstr(name, "..") == NULL &&
           strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/_+-") ==
               len;
}

static ssize_t read_all(int fd, char *data, size_t size)
{
    size_t len = 0;
    ssize_t n;

    while (len < size && (n = read(fd, data + len, size - len)) != 0) {
        if (n < 0)
            return -1;
        len += (size_t)n;
    }
    return (ssize_t)len;
}

static int read_zone(const char *name, struct time_zone **out, struct err *err)
{
    char *path = xasprintf("%s/%s", ZONES, name), *data = xmalloc(ZONE_FILE_MAX);
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc;
    ssize_t len = fd >= 0 ? read_all(fd, data, ZONE_FILE_MAX) : -1;

    if (len < 0)
        rc = err_errno(err, ERR_INPUT,
                       "is not to be found (Debian's package tzdata has them): read %s", path);
    else
        rc = time_zone_read(data, (size_t)len, out, err);
    if (fd >= 0)
        close(fd);
    free(data);
    free(path);
    return rc;
}

static int find_zone(const char *name, struct time_zone **out, struct err *err)
{
    /* Also where there is no tz database. */
    if (strcmp(name, "UTC") == 0) {
        *out = time_zone_utc();
        return 0;
    }
    if (!name_ok(name))
        return err_set(err, ERR_INPUT, "is no time zone's name; write such as Europe/Berlin");
    return read_zone(name, out, err);
}

int timetable_open(const char *schedule, const char *zone, struct timetable **out,
                   bool *zone_is_wrong, struct err *err)
{
    struct timetable *t = xcalloc(1, sizeof(*t));

    *zone_is_wrong = false;
    if (cron_parse(schedule, &t->cron, err) == 0) {
        *zone_is_wrong = find_zone(zone, &t->zone, err) != 0;
        if (!*zone_is_wrong) {
            *out = t;
            return 0;
        }
    }
    timetable_free(&t);
    return -1;
}

void timetable_free(struct timetable **tp)
{
    struct timetable *t = *tp;

    *tp = NULL;
    if (t == NULL)
        return;
    time_zone_free(&t->zone);
    free(t);
}

bool timetable_due(const struct timetable *t, int64_t last, int64_t now, int64_t *when)
{
    return cron_latest(&t->cron, t->zone, now, when) && *when > last;
}

bool timetable_next(const struct timetable *t, int64_t now, int64_t *when)
{
    return cron_next(&t->cron, t->zone, now, when);
}
