/* A real redis-server of one's own: on a unix socket in a temporary folder, and on a loopback port.
 * Included by unit tests only; everything asserts with cmocka. */
#ifndef PANNIER_TESTS_UNIT_REAL_REDIS_H
#define PANNIER_TESTS_UNIT_REAL_REDIS_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cache/cluster/redis.h"
#include "cache/lock.h"
#include "scratch.h"

enum { REAL_REDIS_DEADLINE_MS = 30000 };

struct real_redis {
    struct scratch scratch;
    pid_t pid; /* 0: not running */
    unsigned port;
    char unix_url[96], tcp_url[64];
    const char *options[8]; /* for redis-server, ended by NULL */
};

/* What is waited for comes from another process, which has no way to tell us: look again and again.
 */
#define AWAIT(condition)                                                                           \
    do {                                                                                           \
        uint64_t await_until = now_ms() + REAL_REDIS_DEADLINE_MS;                                  \
        while (!(condition)) {                                                                     \
            assert_true(now_ms() < await_until);                                                   \
            nanosleep(&(struct timespec){.tv_nsec = 1000 * 1000}, NULL);                           \
        }                                                                                          \
    } while (0)

static inline unsigned real_redis_free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    close(fd);
    return ntohs(a.sin_port);
}

/* Its own output says when it listens. */
static inline void real_redis_await_ready(int fd)
{
    struct bytes said;
    char buf[4096];
    ssize_t n;

    bytes_init(&said, 1024 * 1024);
    while (said.data == NULL || strstr(said.data, "eady to accept connections") == NULL) {
        n = read(fd, buf, sizeof(buf));
        if (n <= 0)
            fail_msg("redis-server ended: %s", said.data != NULL ? said.data : "");
        assert_int_equal(bytes_add(&said, buf, (size_t)n), 0);
    }
    bytes_clear(&said);
}

/* Start, with nothing in it. */
static inline void real_redis_start(struct real_redis *s)
{
    char port[16];
    const char *argv[32] = {"redis-server", "--save",      "",       "--appendonly", "no",
                            "--bind",       "127.0.0.1",   "--port", port,           "--unixsocket",
                            "redis.sock",   "--daemonize", "no"};
    int pipes[2], n = 13;
    pid_t parent = getpid();

    snprintf(port, sizeof(port), "%u", s->port);
    for (int i = 0; s->options[i] != NULL; i++)
        argv[n++] = s->options[i];
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    s->pid = fork();
    assert_true(s->pid >= 0);
    if (s->pid == 0) {
        /* It never outlives us. */
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent ||
            chdir(s->scratch.dir) != 0 || dup2(pipes[1], 1) < 0)
            _exit(126);
        execvp(argv[0], (char *const *)argv);
        _exit(127);
    }
    close(pipes[1]);
    real_redis_await_ready(pipes[0]);
    /* What it says later is of no interest, but must not stop it: a pipe without a reader only
     * raises an error for it, as it ignores SIGPIPE. */
    close(pipes[0]);
}

static inline void real_redis_signal(struct real_redis *s, int number)
{
    assert_int_equal(kill(s->pid, number), 0);
}

static inline void real_redis_kill(struct real_redis *s)
{
    int status;

    if (s->pid == 0)
        return;
    real_redis_signal(s, SIGKILL);
    assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
    s->pid = 0;
}

static inline void real_redis_restart_empty(struct real_redis *s)
{
    real_redis_kill(s);
    real_redis_start(s);
}

/* options: NULL, or for redis-server, ended by NULL. */
static inline void real_redis_init(struct real_redis *s, const char *const *options)
{
    *s = (struct real_redis){0};
    for (int i = 0; options != NULL && options[i] != NULL; i++)
        s->options[i] = options[i];
    scratch_init(&s->scratch);
    s->port = real_redis_free_port();
    snprintf(s->unix_url, sizeof(s->unix_url), "unix://%s/redis.sock", s->scratch.dir);
    snprintf(s->tcp_url, sizeof(s->tcp_url), "redis://127.0.0.1:%u", s->port);
    real_redis_start(s);
}

static inline void real_redis_clear(struct real_redis *s)
{
    real_redis_kill(s);
    scratch_clear(&s->scratch);
}

/* A client of it, not started. */
static inline struct redis *real_redis_open(const char *url)
{
    struct redis_config config = {.url = url, .timeout_ms = 5000};
    struct redis *r = NULL;
    struct err err;

    if (redis_open(&config, &r, &err) != 0)
        fail_msg("%s", err.text);
    return r;
}

static inline void real_redis_connect(struct redis *r)
{
    redis_start(r);
    assert_true(redis_wait_up(r, REAL_REDIS_DEADLINE_MS));
}

/* The reply's text or number as text; yours. */
static inline char *real_redis_ask(struct redis *r, const char *const *words)
{
    struct redis_reply *reply = NULL;
    struct err err;
    char *out;

    if (redis_ask(r, words, &reply, &err) != 0)
        fail_msg("%s: %s", words[0], err.text);
    out = reply->type == REDIS_INTEGER ? xasprintf("%lld", (long long)reply->integer)
                                       : xstrdup(reply->text != NULL ? reply->text : "");
    redis_reply_free(&reply);
    return out;
}

#endif
