/* A load client: N connections on 127.0.0.1 that send one recorded HTTP request and read the
 * response to its end, as fast as it comes or at a fixed pace each.
 *
 *     load --port P --request FILE [--readers N] [--repeat N] [--rate BYTES] [--seconds S] [--copy]
 *
 * The request must carry "Connection: close": a response ends where its connection does.  Bodies
 * are thrown away by the kernel (MSG_TRUNC), so that what is measured is the server; --copy reads
 * them as a program would.  --repeat: so many responses for each reader, one after the other.
 * --rate: bytes a second for each reader.  After --seconds (default 120) everything still open is
 * left.
 *
 * Prints one line of JSON.  Exits with 1 when a response was not a 200, or ended before its
 * Content-Length or its last chunk; readers that were left at the end are no failure. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    HEAD_MAX = 8192,
    BLOCK = 1 << 20,
    TAIL = 5,              /* "0\r\n\r\n" */
    SLOTS_PER_SECOND = 10, /* a paced reader takes its bytes in so many portions */
    SECONDS_MAX = 3600,
};

struct reader {
    int fd; /* -1: not connected */
    unsigned repeats_left;
    size_t sent;
    char head[HEAD_MAX];
    size_t head_len;
    bool in_body;
    int64_t length;  /* -1: chunked */
    uint64_t body;   /* bytes so far, of this response, as they are on the wire */
    uint64_t total;  /* of all responses */
    char tail[TAIL]; /* of a chunked body */
    uint64_t next_us;
};

static struct {
    uint16_t port;
    const char *request;
    size_t request_len;
    unsigned readers, repeat, seconds;
    uint64_t rate;
    bool copy;
} opt = {.readers = 1, .repeat = 1, .seconds = 120};

static struct {
    unsigned whole, failed;
    char why[200];
} done;

static char block[BLOCK];
static int poller;

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(2);
}

static uint64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void start(struct reader *r)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(opt.port)};
    struct epoll_event e = {.events = EPOLLOUT, .data.ptr = r};

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    r->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (r->fd < 0)
        die("socket");
    if (connect(r->fd, (struct sockaddr *)&to, sizeof(to)) != 0 && errno != EINPROGRESS)
        die("connect");
    r->sent = r->head_len = r->body = 0;
    r->in_body = false;
    r->length = -1;
    memset(r->tail, 0, TAIL);
    if (epoll_ctl(poller, EPOLL_CTL_ADD, r->fd, &e) != 0)
        die("epoll_ctl");
}

static void finish(struct reader *r, const char *failure)
{
    if (failure == NULL && !r->in_body)
        failure = "closed before the response's head was whole";
    else if (failure == NULL && r->length >= 0 && r->body != (uint64_t)r->length)
        failure = "closed before the body's end";
    else if (failure == NULL && r->length < 0 && memcmp(r->tail, "0\r\n\r\n", TAIL) != 0)
        failure = "closed before the last chunk";
    if (failure != NULL) {
        done.failed++;
        snprintf(done.why, sizeof(done.why), "%s", failure);
    } else {
        done.whole++;
    }
    close(r->fd);
    r->fd = -1;
    if (--r->repeats_left > 0)
        start(r);
}

static void send_request(struct reader *r)
{
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = r};
    ssize_t n = send(r->fd, opt.request + r->sent, opt.request_len - r->sent, MSG_NOSIGNAL);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0) {
        finish(r, strerror(errno));
        return;
    }
    r->sent += (size_t)n;
    if (r->sent < opt.request_len)
        return;
    if (opt.rate > 0) { /* by the clock from here on */
        e.events = 0;
        r->next_us = now_us();
    }
    epoll_ctl(poller, EPOLL_CTL_MOD, r->fd, &e);
}

static void keep_tail(struct reader *r, const char *data, size_t n)
{
    if (n >= TAIL) {
        memcpy(r->tail, data + n - TAIL, TAIL);
        return;
    }
    memmove(r->tail, r->tail + n, TAIL - n);
    memcpy(r->tail + TAIL - n, data, n);
}

/* Returns what is wrong with it, or NULL. */
static const char *take_head(struct reader *r, size_t *extra)
{
    char *end, *length;

    r->head[r->head_len] = '\0';
    end = strstr(r->head, "\r\n\r\n");
    *extra = 0;
    if (end == NULL)
        return r->head_len == HEAD_MAX - 1 ? "the head is too long" : NULL;
    *end = '\0';
    if (strncmp(r->head, "HTTP/1.1 200", 12) != 0) {
        r->head[strcspn(r->head, "\"\\\r\n")] = '\0';
        return r->head;
    }
    length = strcasestr(r->head, "\r\nContent-Length:");
    if (length != NULL)
        r->length = strtoll(length + 17, NULL, 10);
    r->in_body = true;
    *extra = r->head_len - (size_t)(end + 4 - r->head);
    keep_tail(r, end + 4, *extra);
    return NULL;
}

/* Read up to max bytes.  False when there is no more now. */
static bool take(struct reader *r, size_t max)
{
    const char *wrong = NULL;
    size_t extra;
    ssize_t n;

    if (!r->in_body) {
        n = recv(r->fd, r->head + r->head_len, HEAD_MAX - 1 - r->head_len, 0);
    } else {
        /* A chunked body's end has to be looked at. */
        bool look = opt.copy || r->length < 0;

        n = recv(r->fd, block, max < BLOCK ? max : BLOCK, look ? 0 : MSG_TRUNC);
        if (n > 0 && look)
            keep_tail(r, block, (size_t)n);
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) {
        finish(r, n < 0 ? strerror(errno) : NULL);
        return false;
    }
    if (r->in_body) {
        r->body += (uint64_t)n;
        r->total += (uint64_t)n;
        return true;
    }
    r->head_len += (size_t)n;
    wrong = take_head(r, &extra);
    r->body += extra;
    r->total += extra;
    if (wrong != NULL) {
        finish(r, wrong);
        return false;
    }
    return true;
}

/* One portion for each reader whose time has come; the time of the next one, or 0. */
static uint64_t take_paced(struct reader *all)
{
    size_t portion = (size_t)(opt.rate / SLOTS_PER_SECOND);
    uint64_t now = now_us(), next = 0;

    for (unsigned i = 0; i < opt.readers; i++) {
        struct reader *r = &all[i];

        if (r->fd < 0 || r->sent < opt.request_len)
            continue;
        if (r->next_us <= now) {
            size_t left = portion;

            while (left > 0) {
                uint64_t before = r->body;

                if (!take(r, left) || r->fd < 0)
                    break;
                left -= r->body - before < left ? (size_t)(r->body - before) : left;
            }
            r->next_us += 1000000 / SLOTS_PER_SECOND;
            if (r->next_us < now) /* it is behind: no catching up by a burst */
                r->next_us = now + 1000000 / SLOTS_PER_SECOND;
        }
        if (r->fd >= 0 && (next == 0 || r->next_us < next))
            next = r->next_us;
    }
    return next;
}

static unsigned open_readers(const struct reader *all)
{
    unsigned n = 0;

    for (unsigned i = 0; i < opt.readers; i++)
        n += all[i].fd >= 0;
    return n;
}

static void run(struct reader *all)
{
    uint64_t end = now_us() + (uint64_t)opt.seconds * 1000000;
    struct epoll_event events[256];

    for (unsigned i = 0; i < opt.readers; i++) {
        all[i].repeats_left = opt.repeat;
        start(&all[i]);
    }
    while (open_readers(all) > 0 && now_us() < end) {
        uint64_t next = opt.rate > 0 ? take_paced(all) : 0, now = now_us();
        int wait = next == 0 ? 100 : next <= now ? 0 : (int)((next - now) / 1000 + 1);
        int n = epoll_wait(poller, events, 256, wait < 100 ? wait : 100);

        for (int i = 0; i < n; i++) {
            struct reader *r = events[i].data.ptr;

            if (r->sent < opt.request_len)
                send_request(r);
            else if (opt.rate == 0)
                take(r, BLOCK);
            else if (events[i].events & (EPOLLHUP | EPOLLERR)) {
                /* Reported for ever otherwise; what has come can still be read. */
                epoll_ctl(poller, EPOLL_CTL_DEL, r->fd, NULL);
            }
        }
    }
}

static void report(const struct reader *all, uint64_t us)
{
    uint64_t sum = 0, least = UINT64_MAX, most = 0;

    for (unsigned i = 0; i < opt.readers; i++) {
        sum += all[i].total;
        least = all[i].total < least ? all[i].total : least;
        most = all[i].total > most ? all[i].total : most;
    }
    printf("{\"seconds\": %.6f, \"bytes\": %llu, \"least\": %llu, \"most\": %llu, \"whole\": %u, "
           "\"failed\": %u, \"left\": %u, \"why\": \"%s\"}\n",
           (double)us / 1e6, (unsigned long long)sum, (unsigned long long)least,
           (unsigned long long)most, done.whole, done.failed, open_readers(all), done.why);
}

static char *read_file(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    char *data = malloc(BLOCK);

    if (f == NULL || data == NULL)
        die(path);
    *len = fread(data, 1, BLOCK, f);
    fclose(f);
    return data;
}

static unsigned long number(const char *text, unsigned long max)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);

    if (*end != '\0' || end == text || n == 0 || n > max) {
        fprintf(stderr, "load: %s is not a number from 1 to %lu\n", text, max);
        exit(2);
    }
    return n;
}

int main(int argc, char **argv)
{
    struct rlimit files;
    struct reader *all;
    uint64_t started;

    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";

        if (strcmp(argv[i], "--copy") == 0) {
            opt.copy = true;
            continue;
        }
        if (strcmp(argv[i], "--port") == 0)
            opt.port = (uint16_t)number(value, 65535);
        else if (strcmp(argv[i], "--request") == 0)
            opt.request = read_file(value, &opt.request_len);
        else if (strcmp(argv[i], "--readers") == 0)
            opt.readers = (unsigned)number(value, 100000);
        else if (strcmp(argv[i], "--repeat") == 0)
            opt.repeat = (unsigned)number(value, 1000000);
        else if (strcmp(argv[i], "--rate") == 0)
            opt.rate = number(value, 1000000000);
        else if (strcmp(argv[i], "--seconds") == 0)
            opt.seconds = (unsigned)number(value, SECONDS_MAX);
        else {
            fprintf(stderr, "load: %s is no option\n", argv[i]);
            return 2;
        }
        i++;
    }
    if (opt.port == 0 || opt.request == NULL) {
        fprintf(stderr, "load: --port and --request are needed\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(opt.seconds + 30);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    poller = epoll_create1(EPOLL_CLOEXEC);
    all = calloc(opt.readers, sizeof(*all));
    if (poller < 0 || all == NULL)
        die("start");
    started = now_us();
    run(all);
    report(all, now_us() - started);
    return done.failed > 0;
}
