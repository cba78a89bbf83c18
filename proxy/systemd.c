#include "proxy/systemd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "protocol/base.h"

enum {
    FIRST_FD = 3,
    SOCKETS_MAX = 64, /* more than anybody means to pass */
};

static bool number(const char *text, long max, long *out)
{
    char *end;

    if (text == NULL || *text < '0' || *text > '9')
        return false;
    errno = 0;
    *out = strtol(text, &end, 10);
    return errno == 0 && *end == '\0' && *out <= max;
}

/* The index-th of "a:b:c", into name. */
static void name_at(const char *names, long index, char *name, size_t size)
{
    size_t len;

    for (; names != NULL && index > 0; index--) {
        names = strchr(names, ':');
        names = names != NULL ? names + 1 : NULL;
    }
    len = names != NULL ? strcspn(names, ":") : 0;
    snprintf(name, size, "%.*s", (int)(len < size ? len : size - 1), names != NULL ? names : "");
}

static int take(struct systemd_sockets *s, int fd, const char *name, struct err *err)
{
    int *place = strcmp(name, "admin") == 0     ? &s->admin
                 : strcmp(name, "cluster") == 0 ? &s->cluster
                                                : &s->clients;
    int listens = 0, type = 0, flags;
    socklen_t len = sizeof(int), type_len = sizeof(int);

    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) != 0 || !listens ||
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) != 0 || type != SOCK_STREAM)
        return err_set(err, ERR_INPUT,
                       "systemd passed descriptor %d (%s), which is no listening stream socket; "
                       "use ListenStream= and Accept=no",
                       fd, name[0] != '\0' ? name : "without a name");
    if (*place > 0)
        return err_set(err, ERR_INPUT,
                       "systemd passed two sockets for %s; there can be one (FileDescriptorName= "
                       "tells them apart: clients, admin, cluster)",
                       place == &s->admin     ? "admin"
                       : place == &s->cluster ? "cluster"
                                              : "clients");
    flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
        return err_errno(err, ERR_INPUT, "take systemd's descriptor %d", fd);
    *place = fd;
    return 0;
}

int systemd_take_sockets(struct systemd_sockets *out, struct err *err)
{
    const char *names = getenv("LISTEN_FDNAMES");
    long pid, count = 0;
    char name[64];
    int rc = 0;

    *out = (struct systemd_sockets){0};
    /* The variables may be meant for a parent of ours that forgot to remove them. */
    if (number(getenv("LISTEN_PID"), LONG_MAX, &pid) && pid == (long)getpid() &&
        !number(getenv("LISTEN_FDS"), SOCKETS_MAX, &count))
        rc = err_set(err, ERR_INPUT, "LISTEN_FDS is no number up to %d", SOCKETS_MAX);
    for (long i = 0; i < count && rc == 0; i++) {
        name_at(names, i, name, sizeof(name));
        rc = take(out, FIRST_FD + (int)i, name, err);
    }
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return rc;
}

static void notify(const char *text)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t len = path != NULL ? strlen(path) : 0;
    int fd;

    if (len < 2 || len >= sizeof(to.sun_path) || (path[0] != '/' && path[0] != '@'))
        return;
    memcpy(to.sun_path, path, len);
    if (to.sun_path[0] == '@')
        to.sun_path[0] = '\0'; /* in the abstract namespace, whose names have a length */
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    sendto(fd, text, strlen(text), MSG_NOSIGNAL, (const struct sockaddr *)&to,
           (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len));
    close(fd);
}

void systemd_ready(void)
{
    notify("READY=1");
}

void systemd_reloading(void)
{
    struct timespec now;
    char text[64];

    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%llu",
             (unsigned long long)now.tv_sec * 1000000 + (unsigned long long)now.tv_nsec / 1000);
    notify(text);
}

void systemd_stopping(void)
{
    notify("STOPPING=1");
}
