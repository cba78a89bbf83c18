#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "cache/lock.h"
#include "proxy/acceptor.h"

enum { TAKERS = 3, MOST = 64, DEADLINE_MS = 20000, MOMENT_MS = 50 };

/* Who was given what. */
struct house {
    struct acceptor *acceptor;
    int listen_fd; /* only to know the address */
    struct sockaddr_in address;
    socklen_t address_len;
    bool refuse;

    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned given, refused;
    unsigned taker[MOST];
    int fd[MOST];
    bool loopback[MOST];
};

static bool take(void *ctx, unsigned taker, int fd, const struct sockaddr *from, socklen_t len)
{
    struct house *h = ctx;
    bool refuse;

    pthread_mutex_lock(&h->mutex);
    refuse = h->refuse;
    if (refuse) {
        h->refused++;
        close(fd);
    } else {
        assert_true(h->given < MOST);
        h->taker[h->given] = taker;
        h->loopback[h->given] = from->sa_family == AF_INET && len == sizeof(struct sockaddr_in) &&
                                ((const struct sockaddr_in *)(const void *)from)->sin_addr.s_addr ==
                                    htonl(INADDR_LOOPBACK);
        h->fd[h->given++] = fd;
    }
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->mutex);
    return !refuse;
}

static void open_house(struct house *h, unsigned limit)
{
    struct acceptor_config config = {.takers = TAKERS, .limit = limit, .give = take, .ctx = h};
    struct err err;

    *h = (struct house){.address_len = sizeof(h->address)};
    pthread_mutex_init(&h->mutex, NULL);
    pthread_cond_init(&h->changed, NULL);
    assert_int_equal(acceptor_listen("127.0.0.1", 0, &h->listen_fd, &err), 0);
    assert_int_equal(getsockname(h->listen_fd, (struct sockaddr *)&h->address, &h->address_len), 0);
    h->acceptor = acceptor_new(h->listen_fd, &config);
    assert_memory_equal(acceptor_address(h->acceptor), "127.0.0.1:", 10);
    acceptor_start(h->acceptor);
}

static void close_house(struct house *h)
{
    acceptor_free(&h->acceptor);
    for (unsigned i = 0; i < h->given; i++)
        close(h->fd[i]);
    pthread_cond_destroy(&h->changed);
    pthread_mutex_destroy(&h->mutex);
}

/* A client's end; the caller's to close. */
static int come(const struct house *h)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&h->address, h->address_len), 0);
    return fd;
}

/* How many were given by then; waits until there are so many, for ms at most. */
static unsigned wait_given(struct house *h, unsigned count, uint64_t ms)
{
    uint64_t until = now_ms() + ms;
    struct timespec at = {.tv_sec = (time_t)(until / 1000),
                          .tv_nsec = (long)(until % 1000) * 1000000};
    unsigned given;

    pthread_mutex_lock(&h->mutex);
    while (h->given < count &&
           pthread_cond_clockwait(&h->changed, &h->mutex, CLOCK_MONOTONIC, &at) != ETIMEDOUT)
        ;
    given = h->given;
    pthread_mutex_unlock(&h->mutex);
    return given;
}

static void count_by_taker(struct house *h, unsigned out[TAKERS])
{
    memset(out, 0, TAKERS * sizeof(*out));
    for (unsigned i = 0; i < h->given; i++)
        out[h->taker[i]]++;
}

static void each_taker_gets_as_many(void **state)
{
    struct house h;
    unsigned each[TAKERS];
    int clients[3 * TAKERS];

    (void)state;
    open_house(&h, 100);
    for (unsigned i = 0; i < 3 * TAKERS; i++)
        clients[i] = come(&h);
    assert_int_equal(wait_given(&h, 3 * TAKERS, DEADLINE_MS), 3 * TAKERS);
    count_by_taker(&h, each);
    for (unsigned i = 0; i < TAKERS; i++)
        assert_int_equal(each[i], 3);
    for (unsigned i = 0; i < 3 * TAKERS; i++) {
        assert_true(h.loopback[i]);
        close(clients[i]);
    }
    close_house(&h);
}

static void who_has_lost_some_gets_the_next(void **state)
{
    struct house h;
    int clients[2 * TAKERS + 2];

    (void)state;
    open_house(&h, 100);
    for (unsigned i = 0; i < 2 * TAKERS; i++)
        clients[i] = come(&h);
    assert_int_equal(wait_given(&h, 2 * TAKERS, DEADLINE_MS), 2 * TAKERS);
    acceptor_left(h.acceptor, 1);
    acceptor_left(h.acceptor, 1);
    for (unsigned i = 2 * TAKERS; i < 2 * TAKERS + 2; i++) {
        clients[i] = come(&h);
        assert_int_equal(wait_given(&h, i + 1, DEADLINE_MS), i + 1);
        assert_int_equal(h.taker[i], 1);
    }
    for (unsigned i = 0; i < 2 * TAKERS + 2; i++)
        close(clients[i]);
    close_house(&h);
}

static void at_the_limit_the_next_waits_until_one_has_left(void **state)
{
    struct house h;
    int clients[3];

    (void)state;
    open_house(&h, 2);
    for (unsigned i = 0; i < 3; i++)
        clients[i] = come(&h); /* the third one is the kernel's */
    assert_int_equal(wait_given(&h, 3, MOMENT_MS), 2);
    acceptor_left(h.acceptor, h.taker[0]);
    assert_int_equal(wait_given(&h, 3, DEADLINE_MS), 3);
    assert_int_equal(h.taker[2], h.taker[0]);
    for (unsigned i = 0; i < 3; i++)
        close(clients[i]);
    close_house(&h);
}

static void who_was_refused_does_not_count(void **state)
{
    struct house h;
    int clients[3];

    (void)state;
    open_house(&h, 1);
    h.refuse = true;
    for (unsigned i = 0; i < 2; i++)
        clients[i] = come(&h);
    pthread_mutex_lock(&h.mutex);
    while (h.refused < 2)
        pthread_cond_wait(&h.changed, &h.mutex);
    h.refuse = false;
    pthread_mutex_unlock(&h.mutex);
    clients[2] = come(&h);
    assert_int_equal(wait_given(&h, 1, DEADLINE_MS), 1);
    for (unsigned i = 0; i < 3; i++)
        close(clients[i]);
    close_house(&h);
}

static void without_descriptors_the_next_waits_until_one_has_left(void **state)
{
    struct rlimit before, none;
    struct house h;
    int first, second, probe;

    (void)state;
    open_house(&h, 100);
    first = come(&h);
    assert_int_equal(wait_given(&h, 1, DEADLINE_MS), 1);
    second = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    probe = dup(second);
    assert_true(probe >= 0);
    close(probe);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = (rlim_t)probe; /* descriptors below that are all in use */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(connect(second, (struct sockaddr *)&h.address, h.address_len), 0);
    assert_int_equal(wait_given(&h, 2, MOMENT_MS), 1);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    acceptor_left(h.acceptor, h.taker[0]);
    assert_int_equal(wait_given(&h, 2, DEADLINE_MS), 2);
    close(first);
    close(second);
    close_house(&h);
}

static bool is_closed(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char byte;

    return poll(&p, 1, DEADLINE_MS) == 1 && read(fd, &byte, 1) <= 0;
}

static void after_the_stop_nobody_comes(void **state)
{
    struct house h;
    int waiting[2], late;

    (void)state;
    open_house(&h, 1);
    for (unsigned i = 0; i < 2; i++)
        waiting[i] = come(&h);
    assert_int_equal(wait_given(&h, 1, DEADLINE_MS), 1);
    acceptor_stop(h.acceptor);
    assert_true(is_closed(waiting[1])); /* the kernel has let go of it */
    late = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(late, (struct sockaddr *)&h.address, h.address_len), -1);
    assert_int_equal(errno, ECONNREFUSED);
    acceptor_left(h.acceptor, h.taker[0]); /* who was there may still leave */
    acceptor_stop(h.acceptor);
    assert_int_equal(h.given, 1);
    close(waiting[0]);
    close(waiting[1]);
    close(late);
    close_house(&h);
}

static void an_address_that_is_taken_is_named(void **state)
{
    struct house h;
    struct err err;
    int fd = -1;

    (void)state;
    open_house(&h, 1);
    assert_int_equal(acceptor_listen("127.0.0.1", ntohs(h.address.sin_port), &fd, &err), -1);
    assert_int_equal(err.kind, ERR_INPUT);
    assert_non_null(strstr(err.text, acceptor_address(h.acceptor)));
    close_house(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_taker_gets_as_many),
        cmocka_unit_test(who_has_lost_some_gets_the_next),
        cmocka_unit_test(at_the_limit_the_next_waits_until_one_has_left),
        cmocka_unit_test(who_was_refused_does_not_count),
        cmocka_unit_test(without_descriptors_the_next_waits_until_one_has_left),
        cmocka_unit_test(after_the_stop_nobody_comes),
        cmocka_unit_test(an_address_that_is_taken_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
