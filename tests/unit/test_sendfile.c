#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "proxy/sendfile.h"

enum { WANTED = 128 * 1024 };

static void a_bigger_step_leaves_the_end_to_the_library(void **state)
{
    (void)state;
    assert_int_equal(sendfile_bounded(SENDFILE_STEP, 10 * SENDFILE_STEP, WANTED), SENDFILE_STEP);
    assert_int_equal(sendfile_bounded(SENDFILE_STEP, SENDFILE_STEP, WANTED), SENDFILE_STEP - 1);
    assert_int_equal(sendfile_bounded(SENDFILE_STEP, WANTED + 1, WANTED), WANTED);
}

static void what_the_library_takes_for_the_end_is_sent_to_the_end(void **state)
{
    (void)state;
    assert_int_equal(sendfile_bounded(SENDFILE_STEP, WANTED, WANTED), WANTED);
    assert_int_equal(sendfile_bounded(SENDFILE_STEP, 1, 1), 1);
}

static void a_step_is_never_more_than_there_is(void **state)
{
    (void)state;
    assert_int_equal(sendfile_bounded(10, SENDFILE_STEP, WANTED), 10);
    assert_int_equal(sendfile_bounded(10, 100, 100), 10);
}

static void connect_two(int *from, int *to)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t len = sizeof(at);

    assert_int_equal(bind(listener, (struct sockaddr *)&at, len), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &len), 0);
    *to = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(*to, (struct sockaddr *)&at, len), 0);
    *from = accept(listener, NULL, NULL);
    assert_true(*from >= 0);
    close(listener);
}

static void set_cork(int fd, int on)
{
    assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on)), 0);
}

/* Until nothing has come for half of the time that the kernel holds a packet back. */
static size_t take_what_comes(int fd, char *buf, size_t size)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    size_t got = 0;

    while (poll(&p, 1, 100) == 1) {
        ssize_t n = recv(fd, buf, size, MSG_DONTWAIT);

        assert_true(n > 0);
        got += (size_t)n;
    }
    return got;
}

struct body {
    int fd;
    uint64_t sent, size;
};

static ssize_t send_body(void *ctx, int to, size_t wanted)
{
    struct body *b = ctx;
    ssize_t n = sendfile_step(to, b->fd, b->sent,
                              sendfile_bounded(SENDFILE_STEP, b->size - b->sent, wanted));

    assert_true(n > 0);
    b->sent += (uint64_t)n;
    return n;
}

/* As libmicrohttpd's mhd_send.c does it on a connection that stays open. */
static void the_end_of_a_body_waits_for_nothing(void **state)
{
    enum { SIZE = 300001 };
    static char buf[SIZE];
    FILE *file = tmpfile();
    struct body body = {.fd = fileno(file), .size = SIZE};
    int from, to;
    off64_t at = 0;
    size_t got = 0;

    (void)state;
    assert_int_equal(fwrite(buf, 1, SIZE, file), SIZE);
    assert_int_equal(fflush(file), 0);
    connect_two(&from, &to);
    assert_true(sendfile_instead(body.fd, send_body, &body));
    while (at < SIZE) {
        size_t left = (size_t)(SIZE - at);
        off64_t offset = at;

        set_cork(from, left > WANTED);
        at += sendfile64(from, body.fd, &offset, left < WANTED ? left : WANTED);
        got += take_what_comes(to, buf, SIZE);
    }
    assert_int_equal(got, SIZE);
    close(from);
    close(to);
    fclose(file);
}

static void what_is_pushed_goes_although_more_is_awaited(void **state)
{
    char buf[100] = {0};
    int from, to;

    (void)state;
    connect_two(&from, &to);
    set_cork(from, 1);
    assert_int_equal(send(from, buf, sizeof(buf), 0), sizeof(buf));
    sendfile_push(from);
    assert_int_equal(take_what_comes(to, buf, sizeof(buf)), sizeof(buf));
    close(from);
    close(to);
}

/* /proc has files that sendfile(2) refuses, on all kernels so far. */
static void where_the_file_system_has_no_sendfile_it_goes_by_memory(void **state)
{
    char text[8], buf[sizeof(text)];
    int file = open("/proc/self/auxv", O_RDONLY | O_CLOEXEC), from, to;
    off64_t at = 0;

    (void)state;
    assert_int_equal(pread(file, text, sizeof(text), 0), sizeof(text));
    connect_two(&from, &to);
    assert_int_equal(syscall(SYS_sendfile, from, file, &at, sizeof(text)), -1);
    assert_int_equal(sendfile_step(from, file, 0, sizeof(text)), sizeof(text));
    assert_int_equal(recv(to, buf, sizeof(buf), MSG_WAITALL), sizeof(text));
    assert_memory_equal(buf, text, sizeof(text));
    close(from);
    close(to);
    close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bigger_step_leaves_the_end_to_the_library),
        cmocka_unit_test(what_the_library_takes_for_the_end_is_sent_to_the_end),
        cmocka_unit_test(a_step_is_never_more_than_there_is),
        cmocka_unit_test(the_end_of_a_body_waits_for_nothing),
        cmocka_unit_test(what_is_pushed_goes_although_more_is_awaited),
        cmocka_unit_test(where_the_file_system_has_no_sendfile_it_goes_by_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
