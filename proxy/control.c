#include "proxy/control.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "cache/lock.h"
#include "cache/workers.h"
#include "protocol/base.h"
#include "protocol/bytes.h"

enum {
    REQUEST_TIMEOUT_MS = 10 * 1000, /* for the whole line; a program writes it at once */
    STALL_TIMEOUT_MS = 60 * 1000,   /* a client that takes nothing; `pannier ls | less` may wait */
    BACKLOG = 16,
    ACCEPT_PAUSE_MS = 100, /* when there are no descriptors: or the loop would spin */
};

struct control {
    char *path;
    int listen_fd;
    int stop_fd; /* readable from control_drain() on */
    bool listening;
    pthread_t thread;
    struct workers *workers;
    control_handler *handler;
    void *ctx;
};

struct control_client {
    struct control *control;
    int fd;
    bool gone;
};

/* ---- where it is ---- */

/* A socket's path has room for 107 bytes, a data folder's may be longer: then the folder is opened,
 * and named by its descriptor.  *folder_fd is yours to close unless -1. */
static int address_of(const char *data, struct sockaddr_un *address, int *folder_fd,
                      struct err *err)
{
    int n;

    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    *folder_fd = -1;
    n = snprintf(address->sun_path, sizeof(address->sun_path), "%s/control", data);
    if (n > 0 && (size_t)n < sizeof(address->sun_path))
        return 0;
    *folder_fd = open(data, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*folder_fd < 0)
        return err_errno(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_STORAGE, "open %s", data);
    snprintf(address->sun_path, sizeof(address->sun_path), "/proc/self/fd/%d/control", *folder_fd);
    return 0;
}

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

/* ---- the process that serves: one client ---- */

/* -1: ERR_TIMEOUT, or ERR_CANCELLED when the program ends. */
static int wait_until(const struct control_client *client, short events, uint64_t deadline_ms,
                      struct err *err)
{
    struct pollfd fds[] = {{.fd = client->fd, .events = events},
                           {.fd = client->control->stop_fd, .events = POLLIN}};

    for (;;) {
        uint64_t now = now_ms();

        if (now >= deadline_ms)
            return err_set(err, ERR_TIMEOUT, "the client was silent for too long");
        if (poll(fds, ARRAY_LEN(fds), (int)(deadline_ms - now)) <= 0)
            continue;
        if (fds[1].revents != 0)
            return err_set(err, ERR_CANCELLED, "pannier is stopping");
        return 0;
    }
}

bool control_send(struct control_client *client, const char *line, size_t len)
{
    char *text = xmalloc(len + 1);
    struct err why;

    must(len < CONTROL_LINE_MAX);
    memcpy(text, line, len);
    text[len++] = '\n';
    for (size_t done = 0; done < len && !client->gone;) {
        ssize_t n = -1;

        if (wait_until(client, POLLOUT, now_ms() + STALL_TIMEOUT_MS, &why) == 0)
            n = send(client->fd, text + done, len - done, MSG_NOSIGNAL);
        else
            errno = ETIMEDOUT;
        if (n >= 0)
            done += (size_t)n;
        else if (errno != EAGAIN && errno != EINTR)
            client->gone = true;
    }
    free(text);
    return !client->gone;
}

struct json_t *control_string(const char *s)
{
    json_t *string = json_string(s);
    char *clean;

    if (string != NULL)
        return string;
    clean = xstrdup(s);
    for (char *p = clean; *p != '\0'; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    string = json_string(clean);
    must(string != NULL);
    free(clean);
    return string;
}

char *control_error(const struct err *why)
{
    json_t *json = json_pack("{s:{s:s, s:o}}", "error", "kind", err_kind_name(why->kind), "text",
                             control_string(why->text));
    char *line;

    must(json != NULL);
    line = json_dumps(json, JSON_COMPACT);
    must(line != NULL);
    json_decref(json);
    return line;
}

static void send_error(struct control_client *client, const struct err *why)
{
    char *line = control_error(why);

    control_send(client, line, strlen(line));
    free(line);
}

/* The request without its line's end. */
static int read_request(struct control_client *client, struct bytes *out, struct err *err)
{
    uint64_t deadline = now_ms() + REQUEST_TIMEOUT_MS;
    char piece[1024];

    for (;;) {
        const char *end;
        ssize_t n;

        if (wait_until(client, POLLIN, deadline, err) != 0)
            return -1;
        n = recv(client->fd, piece, sizeof(piece), 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n <= 0)
            return err_set(err, ERR_INPUT, "the request has no end");
        end = memchr(piece, '\n', (size_t)n);
        if (bytes_add(out, piece, end != NULL ? (size_t)(end - piece) : (size_t)n) != 0)
            return err_set(err, ERR_LIMIT, "the request is longer than %d bytes",
                           CONTROL_REQUEST_MAX);
        if (end != NULL)
            return 0;
    }
}

static void serve_client(void *arg)
{
    struct control_client *client = arg;
    const struct control *c = client->control;
    struct bytes request;
    struct err why;

    bytes_init(&request, CONTROL_REQUEST_MAX);
    if (read_request(client, &request, &why) != 0)
        send_error(client, &why);
    else
        c->handler(c->ctx, request.len > 0 ? request.data : "", request.len, client);
    bytes_clear(&request);
    close(client->fd);
    free(client);
}

/* ---- the process that serves: all clients ---- */

static void take_client(struct control *c, int fd)
{
    struct control_client *client = xcalloc(1, sizeof(*client));
    struct err why;

    client->control = c;
    client->fd = fd;
    if (workers_submit(c->workers, serve_client, client))
        return;
    err_set(&why, ERR_BUSY, "%d commands run already; try again when one is done",
            CONTROL_CLIENTS_MAX);
    send_error(client, &why); /* fits into a new socket, so this doesn't wait */
    close(fd);
    free(client);
}

static void *listen_main(void *arg)
{
    struct control *c = arg;
    bool pause = false;

    for (;;) {
        struct pollfd fds[] = {{.fd = c->stop_fd, .events = POLLIN},
                               {.fd = c->listen_fd, .events = POLLIN}};
        int fd;

        poll(fds, pause ? 1 : 2, pause ? ACCEPT_PAUSE_MS : -1);
        if (fds[0].revents != 0)
            return NULL;
        pause = false;
        fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
            take_client(c, fd);
        else
            pause = errno != EAGAIN && errno != EINTR && errno != ECONNABORTED;
    }
}

static int open_socket(struct control *c, const char *data, struct err *err)
{
    struct sockaddr_un address;
    int folder_fd, rc = 0;

    if (address_of(data, &address, &folder_fd, err) != 0)
        return -1;
    c->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* Whoever is killed leaves it; the caller has the folder's lock, so nobody listens on it. */
    unlink(address.sun_path);
    /* Nobody can connect before listen(), so its mode is right in time. */
    if (c->listen_fd < 0 || bind(c->listen_fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        chmod(address.sun_path, 0600) != 0 || listen(c->listen_fd, BACKLOG) != 0)
        rc = err_errno(err, ERR_STORAGE, "make the socket %s", c->path);
    close_fd(folder_fd);
    return rc;
}

int control_start(const char *data, control_handler *handler, void *ctx, struct control **out,
                  struct err *err)
{
    struct control *c = xcalloc(1, sizeof(*c));

    c->path = xasprintf("%s/control", data);
    c->handler = handler;
    c->ctx = ctx;
    c->listen_fd = -1;
    c->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    c->workers = workers_new("control", CONTROL_CLIENTS_MAX, 0);
    if (c->stop_fd < 0)
        err_errno(err, ERR_STORAGE, "make an eventfd");
    else if (open_socket(c, data, err) == 0) {
        c->listening = pthread_create(&c->thread, NULL, listen_main, c) == 0;
        if (!c->listening)
            err_set(err, ERR_STORAGE, "start a thread for %s", c->path);
    }
    if (!c->listening) {
        control_free(&c);
        return -1;
    }
    pthread_setname_np(c->thread, "control");
    *out = c;
    return 0;
}

void control_drain(struct control *c)
{
    if (c == NULL || !c->listening)
        return;
    must(eventfd_write(c->stop_fd, 1) == 0);
    unlink(c->path);
}

void control_free(struct control **cp)
{
    struct control *c = *cp;

    *cp = NULL;
    if (c == NULL)
        return;
    control_drain(c);
    if (c->listening)
        pthread_join(c->thread, NULL);
    workers_free(&c->workers);
    close_fd(c->listen_fd);
    close_fd(c->stop_fd);
    free(c->path);
    free(c);
}

/* ---- the command ---- */

static int connect_to(const char *data, int *out, struct err *err)
{
    struct sockaddr_un address;
    int folder_fd, fd, rc = 0;

    if (address_of(data, &address, &folder_fd, err) != 0)
        return -1;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        bool nobody = errno == ENOENT || errno == ECONNREFUSED || errno == ENOTDIR;

        rc = err_errno(err, nobody ? ERR_NOT_FOUND : ERR_STORAGE,
                       "reach the pannier that serves from %s", data);
        close_fd(fd);
        fd = -1;
    }
    close_fd(folder_fd);
    *out = fd;
    return rc;
}

/* What goes wrong here shows when the answer is read: a server that refuses at once has closed its
 * side, and its reason lies there. */
static void send_request(int fd, const char *request, size_t len)
{
    struct iovec parts[] = {{(void *)request, len}, {(void *)"\n", 1}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = ARRAY_LEN(parts)};

    while (sendmsg(fd, &message, MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
}

/* Every whole line in text; what is behind the last one stays. */
static int take_lines(struct bytes *text, control_line_fn *fn, void *ctx)
{
    size_t from = 0;
    const char *end;
    int rc = 0;

    while (rc == 0 && from < text->len &&
           (end = memchr(text->data + from, '\n', text->len - from)) != NULL) {
        size_t len = (size_t)(end - (text->data + from));

        rc = fn(ctx, text->data + from, len);
        from += len + 1;
    }
    bytes_drop_front(text, from);
    return rc;
}

static int read_response(int fd, control_line_fn *fn, void *ctx, struct err *err)
{
    char *piece = xmalloc(CONTROL_LINE_MAX);
    struct bytes text;
    int rc = -1;

    bytes_init(&text, 2 * CONTROL_LINE_MAX);
    for (;;) {
        ssize_t n = recv(fd, piece, CONTROL_LINE_MAX, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == ECONNRESET) /* the end, when not all of the request was read */
            n = 0;
        if (n < 0) {
            err_errno(err, ERR_CANCELLED, "hear the pannier that serves");
            break;
        }
        if (n == 0) {
            rc = text.len == 0
                     ? 0
                     : err_set(err, ERR_CANCELLED, "the pannier that serves ended amid its answer");
            break;
        }
        if (bytes_add(&text, piece, (size_t)n) != 0) {
            err_set(err, ERR_LIMIT, "the pannier that serves says too long a line");
            break;
        }
        if (take_lines(&text, fn, ctx) != 0) {
            rc = 0;
            break;
        }
    }
    bytes_clear(&text);
    free(piece);
    return rc;
}

int control_call(const char *data, const char *request, size_t len, control_line_fn *fn, void *ctx,
                 struct err *err)
{
    int fd, rc;

    if (connect_to(data, &fd, err) != 0)
        return -1;
    send_request(fd, request, len);
    rc = read_response(fd, fn, ctx, err);
    close(fd);
    return rc;
}
