/* A network between two ends on loopback: passes bytes on, until it is frozen (nothing comes
 * through, and nobody is told) or cut (both ends are).  Included by unit tests only. */
#ifndef PANNIER_TESTS_UNIT_RELAY_H
#define PANNIER_TESTS_UNIT_RELAY_H

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RELAY_PAIRS_MAX = 32 };

struct relay {
    int fd, wake;
    unsigned port, to_port;
    pthread_t thread;
    pthread_mutex_t mutex;
    bool frozen, cut, ending; /* cut: once */
    struct {
        int fds[2];
    } pairs[RELAY_PAIRS_MAX];
    size_t count;
};

static inline int relay_connect(unsigned port)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static inline void relay_drop(struct relay *r, size_t i)
{
    close(r->pairs[i].fds[0]);
    close(r->pairs[i].fds[1]);
    r->pairs[i] = r->pairs[--r->count];
}

static inline void relay_accept(struct relay *r)
{
    int fd = accept4(r->fd, NULL, NULL, SOCK_CLOEXEC), other;

    if (fd < 0)
        return;
    other = r->count < RELAY_PAIRS_MAX ? relay_connect(r->to_port) : -1;
    if (other < 0) {
        close(fd);
        return;
    }
    r->pairs[r->count].fds[0] = fd;
    r->pairs[r->count].fds[1] = other;
    r->count++;
}

/* False: one end is gone. */
static inline bool relay_pass(int from, int to)
{
    char buf[16384];
    ssize_t n = recv(from, buf, sizeof(buf), 0), sent = 0;

    while (n > 0 && sent < n) {
        ssize_t m = send(to, buf + sent, (size_t)(n - sent), MSG_NOSIGNAL);

        if (m <= 0)
            return false;
        sent += m;
    }
    return n > 0;
}

static inline void relay_look(struct relay *r, bool frozen)
{
    struct pollfd fds[2 + 2 * RELAY_PAIRS_MAX] = {{.fd = r->wake, .events = POLLIN},
                                                  {.fd = r->fd, .events = POLLIN}};
    size_t count = frozen ? 0 : r->count;
    uint64_t ignored;

    for (size_t i = 0; i < 2 * count; i++)
        fds[2 + i] = (struct pollfd){.fd = r->pairs[i / 2].fds[i % 2], .events = POLLIN};
    poll(fds, frozen ? 1 : 2 + 2 * count, -1);
    if (fds[0].revents != 0)
        (void)!read(r->wake, &ignored, sizeof(ignored));
    for (size_t i = count; i-- > 0;) {
        bool ok = true;

        for (size_t side = 0; side < 2 && ok; side++)
            if (fds[2 + 2 * i + side].revents != 0)
                ok = relay_pass(r->pairs[i].fds[side], r->pairs[i].fds[1 - side]);
        if (!ok)
            relay_drop(r, i);
    }
    if (!frozen && fds[1].revents != 0)
        relay_accept(r);
}

static inline void *relay_main(void *arg)
{
    struct relay *r = arg;

    for (;;) {
        bool frozen, ending, cut;

        pthread_mutex_lock(&r->mutex);
        frozen = r->frozen;
        ending = r->ending;
        cut = r->cut;
        r->cut = false;
        pthread_mutex_unlock(&r->mutex);
        while ((cut || ending) && r->count > 0)
            relay_drop(r, r->count - 1);
        if (ending)
            return NULL;
        relay_look(r, frozen);
    }
}

static inline void relay_set(struct relay *r, bool *what, bool value)
{
    uint64_t one = 1;

    pthread_mutex_lock(&r->mutex);
    *what = value;
    pthread_mutex_unlock(&r->mutex);
    (void)!write(r->wake, &one, sizeof(one));
}

static inline void relay_init(struct relay *r, unsigned to_port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);

    *r = (struct relay){.to_port = to_port};
    r->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(r->fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(r->fd, 16), 0);
    assert_int_equal(getsockname(r->fd, (struct sockaddr *)&a, &len), 0);
    r->port = ntohs(a.sin_port);
    r->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    pthread_mutex_init(&r->mutex, NULL);
    assert_int_equal(pthread_create(&r->thread, NULL, relay_main, r), 0);
}

static inline void relay_freeze(struct relay *r, bool frozen)
{
    relay_set(r, &r->frozen, frozen);
}

static inline void relay_cut(struct relay *r)
{
    relay_set(r, &r->cut, true);
}

static inline void relay_clear(struct relay *r)
{
    relay_set(r, &r->ending, true);
    pthread_join(r->thread, NULL);
    close(r->fd);
    close(r->wake);
    pthread_mutex_destroy(&r->mutex);
}

#endif
