#include "proxy/acceptor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "proxy/log.h"

enum { RETRY_MS = 1000 };

struct acceptor {
    struct acceptor_config config;
    int listen_fd; /* -1: stopped */
    int wake_fd;   /* readable: stopping */
    char address[ACCEPTOR_ADDRESS_SIZE];
    pthread_t thread;
    bool started;
    bool troubled; /* the thread's: said that nobody can be accepted */

    struct lock lock;
    pthread_cond_t changed;
    bool stopping;
    unsigned total;
    unsigned *each; /* connections by taker */
};

int acceptor_listen(const char *host, uint16_t port, int *out, struct err *err)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    char number[8];
    int on = 1, fd = -1, rc;

    snprintf(number, sizeof(number), "%u", port);
    rc = getaddrinfo(host, number, &hints, &list);
    if (rc != 0)
        return err_set(err, ERR_INPUT, "listen on %s: %s", host, gai_strerror(rc));
    for (struct addrinfo *ai = list; ai != NULL; ai = ai->ai_next) {
        fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
            continue;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0)
            break;
        rc = errno;
        close(fd);
        errno = rc;
        fd = -1;
    }
    if (fd < 0)
        err_errno(err, ERR_INPUT, "listen on %s:%s", host, number);
    freeaddrinfo(list);
    *out = fd;
    return fd < 0 ? -1 : 0;
}

static void name_address(struct acceptor *a)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    char host[INET6_ADDRSTRLEN] = "?", port[8] = "?";
    bool v6;

    if (getsockname(a->listen_fd, (struct sockaddr *)&sa, &len) == 0)
        getnameinfo((struct sockaddr *)&sa, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV);
    v6 = strchr(host, ':') != NULL;
    snprintf(a->address, sizeof(a->address), "%s%s%s:%s", v6 ? "[" : "", host, v6 ? "]" : "", port);
}

struct acceptor *acceptor_new(int listen_fd, const struct acceptor_config *config)
{
    struct acceptor *a = xcalloc(1, sizeof(*a));

    must(config->takers > 0 && config->limit > 0);
    a->config = *config;
    a->listen_fd = listen_fd;
    a->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    must(a->wake_fd >= 0);
    a->each = xcalloc(config->takers, sizeof(*a->each));
    lock_init(&a->lock, LOCK_ACCEPTOR);
    lock_cond_init(&a->changed);
    name_address(a);
    return a;
}

const char *acceptor_address(const struct acceptor *a)
{
    return a->address;
}

/* ---- the thread ---- */

/* False: stopping. */
static bool wait_for_room(struct acceptor *a)
{
    bool stopping;

    lock_take(&a->lock);
    while (!a->stopping && a->total >= a->config.limit)
        lock_wait(&a->lock, &a->changed);
    stopping = a->stopping;
    lock_drop(&a->lock);
    return !stopping;
}

static void wait_for_somebody(const struct acceptor *a)
{
    struct pollfd fds[] = {{.fd = a->listen_fd, .events = POLLIN},
                           {.fd = a->wake_fd, .events = POLLIN}};

    poll(fds, 2, -1);
}

static bool is_of_the_connection(int error)
{
    return error == EAGAIN || error == EINTR || error == ECONNABORTED || error == EPROTO ||
           error == EPERM;
}

/* There are no descriptors or no memory for one more: a connection that ends gives some back, and
 * so may others of whom nothing is known here. */
static void sit_out_trouble(struct acceptor *a, int error)
{
    uint64_t until = now_ms() + RETRY_MS;
    unsigned total;

    if (!a->troubled)
        log_line(LOG_WARN, "connections can't be accepted", "reason", LOG_STR, strerror(error),
                 "address", LOG_STR, a->address, NULL);
    a->troubled = true;
    lock_take(&a->lock);
    total = a->total;
    while (!a->stopping && a->total >= total && lock_wait_until(&a->lock, &a->changed, until))
        ;
    lock_drop(&a->lock);
}

static unsigned count_in(struct acceptor *a)
{
    unsigned taker = 0;

    lock_take(&a->lock);
    for (unsigned i = 1; i < a->config.takers; i++) {
        if (a->each[i] < a->each[taker])
            taker = i;
    }
    a->each[taker]++;
    a->total++;
    lock_drop(&a->lock);
    return taker;
}

static void accept_one(struct acceptor *a)
{
    struct sockaddr_storage from;
    socklen_t len = sizeof(from);
    int fd = accept4(a->listen_fd, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    unsigned taker;

    if (fd < 0) {
        int error = errno;

        if (error == EAGAIN)
            wait_for_somebody(a);
        else if (!is_of_the_connection(error))
            sit_out_trouble(a, error);
        return;
    }
    a->troubled = false;
    taker = count_in(a);
    if (!a->config.give(a->config.ctx, taker, fd, (struct sockaddr *)&from, len))
        acceptor_left(a, taker);
}

static void *acceptor_main(void *arg)
{
    struct acceptor *a = arg;

    while (wait_for_room(a))
        accept_one(a);
    return NULL;
}

void acceptor_start(struct acceptor *a)
{
    must(!a->started);
    must(pthread_create(&a->thread, NULL, acceptor_main, a) == 0);
    pthread_setname_np(a->thread, "acceptor");
    a->started = true;
}

void acceptor_left(struct acceptor *a, unsigned taker)
{
    lock_take(&a->lock);
    must(a->each[taker] > 0);
    a->each[taker]--;
    a->total--;
    pthread_cond_signal(&a->changed);
    lock_drop(&a->lock);
}

void acceptor_stop(struct acceptor *a)
{
    uint64_t one = 1;

    if (a == NULL || a->listen_fd < 0)
        return;
    lock_take(&a->lock);
    a->stopping = true;
    pthread_cond_signal(&a->changed);
    lock_drop(&a->lock);
    must(write(a->wake_fd, &one, sizeof(one)) == sizeof(one));
    if (a->started)
        pthread_join(a->thread, NULL);
    close(a->listen_fd);
    a->listen_fd = -1;
}

void acceptor_free(struct acceptor **ap)
{
    struct acceptor *a = *ap;

    if (a == NULL)
        return;
    *ap = NULL;
    acceptor_stop(a);
    close(a->wake_fd);
    lock_clear(&a->lock);
    pthread_cond_destroy(&a->changed);
    free(a->each);
    free(a);
}
