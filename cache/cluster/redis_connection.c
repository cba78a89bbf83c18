#include "cache/cluster/redis_connection.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <hiredis.h>
#ifdef PANNIER_REDIS_TLS
#include <hiredis_ssl.h>
#endif

#include "cache/lock.h"
#include "protocol/base.h"

enum {
    CHUNK = 16 * 1024,
    SECRET_MAX = 512, /* a line of the password file */
    CODE_MAX = 32,
    /* A peer that is gone without a word is noticed by our own deadlines; these are for the
     * connections that nobody uses, which firewalls forget. */
    KEEPALIVE_IDLE_S = 15,
    KEEPALIVE_EACH_S = 5,
    KEEPALIVE_PROBES = 3,
    TLS_LOOK_AGAIN_MS = 5,
};

struct redis_place {
    struct redis_url url;
    char *password_file, *name;
    atomic_uint next_sentinel; /* the one that answered last */
#ifdef PANNIER_REDIS_TLS
    redisSSLContext *tls;
#endif
};

struct redis_connection {
    int fd;
    redisReader *reader;
    size_t pending;    /* bytes fed since the last whole reply */
    redisContext *tls; /* NULL: plain.  Owns fd and reader. */
};

/* ---- replies: hiredis builds ours ---- */

static struct redis_reply *put_reply(const redisReadTask *task, enum redis_type type)
{
    struct redis_reply *reply = xcalloc(1, sizeof(*reply));

    reply->type = type;
    if (task->parent != NULL) {
        struct redis_reply *parent = task->parent->obj;

        must((size_t)task->idx < parent->count);
        parent->items[task->idx] = reply;
    }
    return reply;
}

static void *put_text(const redisReadTask *task, char *text, size_t len)
{
    struct redis_reply *reply =
        put_reply(task, task->type == REDIS_REPLY_ERROR ? REDIS_ERROR : REDIS_TEXT);

    reply->text = xstrndup(text, len);
    /* Text from here ends where C says; nothing of ours holds a NUL. */
    reply->len = strlen(reply->text);
    return reply;
}

static void *put_integer(const redisReadTask *task, long long n)
{
    struct redis_reply *reply = put_reply(task, REDIS_INTEGER);

    reply->integer = n;
    return reply;
}

static void *put_nil(const redisReadTask *task)
{
    return put_reply(task, REDIS_NIL);
}

static void *put_some(const redisReadTask *task, size_t count)
{
    struct redis_reply *reply;

    if (count > REDIS_ITEMS_MAX)
        return NULL; /* hiredis says that it has no memory */
    reply = put_reply(task, REDIS_ARRAY);
    reply->items = count > 0 ? xcalloc(count, sizeof(reply->items[0])) : NULL;
    reply->count = count;
    return reply;
}

static void drop(void *reply)
{
    struct redis_reply *r = reply;

    redis_reply_free(&r);
}

#if HIREDIS_MAJOR >= 1
static void *put_array(const redisReadTask *task, size_t count)
{
    return put_some(task, count);
}

static void *put_double(const redisReadTask *task, double n, char *text, size_t len)
{
    (void)n;
    return put_text(task, text, len);
}

static void *put_bool(const redisReadTask *task, int n)
{
    return put_integer(task, n);
}
#else
static void *put_array(const redisReadTask *task, int count)
{
    return put_some(task, (size_t)count);
}
#endif

static redisReplyObjectFunctions builders = {
    .createString = put_text,
    .createArray = put_array,
    .createInteger = put_integer,
    .createNil = put_nil,
#if HIREDIS_MAJOR >= 1
    .createDouble = put_double,
    .createBool = put_bool,
#endif
    .freeObject = drop,
};

/* ---- places ---- */

static char *name_place(const struct redis_url *u)
{
    const struct redis_host *h = &u->hosts[0];

    if (u->scheme == REDIS_UNIX)
        return xasprintf("unix:%s", u->path);
    if (u->scheme == REDIS_SENTINEL)
        return xasprintf("%s (sentinel %s:%u)", u->master, h->name, h->port);
    return xasprintf(strchr(h->name, ':') != NULL ? "[%s]:%u" : "%s:%u", h->name, h->port);
}

static int open_tls(struct redis_place *p, const char *ca_file, struct err *err)
{
    if (p->url.scheme != REDIS_TLS)
        return 0;
#ifdef PANNIER_REDIS_TLS
    /* hiredis before 1.5 compares no host name: with the system's authorities anybody who has any
     * certificate could be our Redis. */
    if (ca_file == NULL)
        return err_set(
            err, ERR_INPUT,
            "rediss:// needs redis.ca_file, a certificate authority of your own: hiredis "
            "doesn't compare the host's name with the certificate's");
    redisInitOpenSSL();
    p->tls = redisCreateSSLContext(ca_file, NULL, NULL, NULL, p->url.hosts[0].name, NULL);
    return p->tls != NULL
               ? 0
               : err_set(err, ERR_INPUT, "the certificates in %s can't be used", ca_file);
#else
    (void)ca_file;
    return err_set(
        err, ERR_REFUSED,
        "rediss:// can't be had: this pannier was built with hiredis %d.%d.%d, which has "
        "no TLS (1.0 and newer with hiredis_ssl have); use redis:// or a tunnel",
        HIREDIS_MAJOR, HIREDIS_MINOR, HIREDIS_PATCH);
#endif
}

int redis_place_new(struct redis_url *url, const char *password_file, const char *ca_file,
                    struct redis_place **out, struct err *err)
{
    struct redis_place *p = xcalloc(1, sizeof(*p));

    p->url = *url;
    *url = (struct redis_url){0};
    p->password_file = password_file != NULL ? xstrdup(password_file) : NULL;
    p->name = name_place(&p->url);
    if (open_tls(p, ca_file, err) != 0) {
        redis_place_free(&p);
        return -1;
    }
    *out = p;
    return 0;
}

void redis_place_free(struct redis_place **pp)
{
    struct redis_place *p = *pp;

    *pp = NULL;
    if (p == NULL)
        return;
#ifdef PANNIER_REDIS_TLS
    if (p->tls != NULL)
        redisFreeSSLContext(p->tls);
#endif
    redis_url_clear(&p->url);
    free(p->password_file);
    free(p->name);
    free(p);
}

const char *redis_place_name(const struct redis_place *p)
{
    return p->name;
}

/* ---- sockets ---- */

/* 0: ready, or broken, which the next call tells. */
static int wait_for(int fd, short events, uint64_t deadline_ms, const char *what, struct err *err)
{
    struct pollfd p = {.fd = fd, .events = events};

    for (;;) {
        uint64_t now = now_ms();
        int n;

        /* A deadline that has passed still takes what is there already. */
        n = poll(&p, 1, now < deadline_ms ? (int)(deadline_ms - now) : 0);
        if (n > 0)
            return 0;
        if (n == 0 && now_ms() >= deadline_ms)
            return err_set(err, ERR_TIMEOUT, "%s took longer than its deadline", what);
        if (n < 0 && errno != EINTR)
            return err_errno(err, ERR_UPSTREAM, "poll");
    }
}

static int connect_socket(int fd, const struct sockaddr *address, socklen_t len,
                          uint64_t deadline_ms, struct err *err)
{
    int failure = 0;
    socklen_t size = sizeof(failure);

    if (connect(fd, address, len) == 0)
        return 0;
    /* A unix socket whose backlog is full says EAGAIN, and won't say more later. */
    if (errno != EINPROGRESS)
        return err_errno(err, ERR_UPSTREAM, "connecting");
    if (wait_for(fd, POLLOUT, deadline_ms, "connecting", err) != 0)
        return -1;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &size) != 0)
        failure = errno;
    errno = failure;
    return failure == 0 ? 0 : err_errno(err, ERR_UPSTREAM, "connecting");
}

static int connect_unix(const char *path, uint64_t deadline_ms, int *out, struct err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return err_errno(err, ERR_UPSTREAM, "a socket");
    must(strlen(path) < sizeof(address.sun_path));
    strcpy(address.sun_path, path);
    if (connect_socket(fd, (struct sockaddr *)&address, sizeof(address), deadline_ms, err) != 0) {
        close(fd);
        return -1;
    }
    *out = fd;
    return 0;
}

/* Not on a unix socket: there they fail. */
static void set_tcp_options(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S},
        {IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_EACH_S},
        {IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES},
    };

    for (size_t i = 0; i < ARRAY_LEN(options); i++)
        setsockopt(fd, options[i].level, options[i].name, &options[i].value,
                   sizeof(options[i].value));
}

static int connect_tcp(const struct redis_host *host, uint64_t deadline_ms, int *out,
                       struct err *err)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list = NULL;
    char port[REDIS_NUMBER_SIZE];
    int rc = getaddrinfo(host->name, redis_number(host->port, port), &hints, &list);

    if (rc != 0)
        return err_set(err, ERR_UPSTREAM, "looking up %s: %s", host->name, gai_strerror(rc));
    rc = err_set(err, ERR_UPSTREAM, "%s has no address", host->name);
    for (struct addrinfo *a = list; a != NULL && rc != 0; a = a->ai_next) {
        int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

        if (fd < 0) {
            rc = err_errno(err, ERR_UPSTREAM, "a socket");
            continue;
        }
        rc = connect_socket(fd, a->ai_addr, a->ai_addrlen, deadline_ms, err);
        if (rc == 0) {
            set_tcp_options(fd);
            *out = fd;
        } else {
            close(fd);
        }
    }
    freeaddrinfo(list);
    return rc;
}

/* ---- in and out ---- */

static int fail_reader(const redisReader *reader, struct err *err)
{
    return err_set(err, ERR_UPSTREAM, "what came is no reply of Redis: %s", reader->errstr);
}

#ifdef PANNIER_REDIS_TLS
/* OpenSSL writes by write(), which raises SIGPIPE where the other end is gone. */
static int flush_tls(redisContext *tls, int *done)
{
    const struct timespec at_once = {0};
    sigset_t pipe, before, pending;
    int rc;

    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    sigpending(&pending);
    must(pthread_sigmask(SIG_BLOCK, &pipe, &before) == 0);
    rc = redisBufferWrite(tls, done);
    if (!sigismember(&pending, SIGPIPE))
        sigtimedwait(&pipe, NULL, &at_once);
    must(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    return rc;
}

static int fail_tls(const redisContext *tls, struct err *err)
{
    return err_set(err, ERR_UPSTREAM,
                   "TLS failed (%s); redis.ca_file must hold the authority of its certificate",
                   tls->errstr);
}

static int send_tls(struct redis_connection *c, const char *text, size_t len, uint64_t deadline_ms,
                    struct err *err)
{
    int done = 0;

    if (redisAppendFormattedCommand(c->tls, text, len) != REDIS_OK)
        return err_set(err, ERR_UPSTREAM, "%s", c->tls->errstr);
    for (;;) {
        struct pollfd p = {.fd = c->fd, .events = POLLIN};

        if (flush_tls(c->tls, &done) != REDIS_OK)
            return fail_tls(c->tls, err);
        if (done)
            return 0;
        if (now_ms() >= deadline_ms)
            return err_set(err, ERR_TIMEOUT, "sending a command took longer than its deadline");
        /* For its handshake it wants to read, and doesn't say so; a full socket is rare. */
        poll(&p, 1, TLS_LOOK_AGAIN_MS);
    }
}
#endif

static int send_plain(struct redis_connection *c, const char *text, size_t len,
                      uint64_t deadline_ms, struct err *err)
{
    while (len > 0) {
        ssize_t n = send(c->fd, text, len, MSG_NOSIGNAL);

        if (n >= 0) {
            text += n;
            len -= (size_t)n;
        } else if (errno == EAGAIN) {
            if (wait_for(c->fd, POLLOUT, deadline_ms, "sending a command", err) != 0)
                return -1;
        } else if (errno != EINTR) {
            return err_errno(err, ERR_UPSTREAM, "the connection broke");
        }
    }
    return 0;
}

int redis_connection_send(struct redis_connection *c, const char *const *words,
                          uint64_t deadline_ms, struct err *err)
{
    char *text = NULL;
    const char *argv[REDIS_WORDS_MAX];
    int count = 0, len, rc;

    for (; words[count] != NULL; count++) {
        must(count < REDIS_WORDS_MAX);
        argv[count] = words[count];
    }
    len = redisFormatCommandArgv(&text, count, argv, NULL);
    must(len > 0);
#ifdef PANNIER_REDIS_TLS
    if (c->tls != NULL)
        rc = send_tls(c, text, (size_t)len, deadline_ms, err);
    else
#endif
        rc = send_plain(c, text, (size_t)len, deadline_ms, err);
    redisFreeCommand(text);
    return rc;
}

static int receive_plain(struct redis_connection *c, struct err *err)
{
    char buf[CHUNK];
    ssize_t n = recv(c->fd, buf, sizeof(buf), 0);

    if (n == 0)
        return err_set(err, ERR_UPSTREAM, "Redis closed the connection");
    if (n < 0)
        return errno == EAGAIN || errno == EINTR
                   ? 0
                   : err_errno(err, ERR_UPSTREAM, "the connection broke");
    c->pending += (size_t)n;
    if (redisReaderFeed(c->reader, buf, (size_t)n) != REDIS_OK)
        return fail_reader(c->reader, err);
    return 0;
}

#ifdef PANNIER_REDIS_TLS
static int receive_tls(struct redis_connection *c, struct err *err)
{
    size_t before = c->reader->len;

    if (redisBufferRead(c->tls) != REDIS_OK)
        return fail_tls(c->tls, err);
    c->pending += c->reader->len - before;
    return 0;
}
#endif

int redis_connection_receive(struct redis_connection *c, struct err *err)
{
    int rc;

#ifdef PANNIER_REDIS_TLS
    if (c->tls != NULL)
        rc = receive_tls(c, err);
    else
#endif
        rc = receive_plain(c, err);
    if (rc == 0 && c->pending > REDIS_REPLY_MAX)
        rc =
            err_set(err, ERR_UPSTREAM, "a reply of Redis is longer than %d bytes", REDIS_REPLY_MAX);
    return rc;
}

int redis_connection_next(struct redis_connection *c, struct redis_reply **reply, struct err *err)
{
    void *out = NULL;

    *reply = NULL;
    if (redisReaderGetReply(c->reader, &out) != REDIS_OK)
        return fail_reader(c->reader, err);
    if (out != NULL)
        c->pending = c->reader->len - c->reader->pos;
    *reply = out;
    return 0;
}

int redis_connection_read(struct redis_connection *c, uint64_t deadline_ms,
                          struct redis_reply **reply, struct err *err)
{
    for (;;) {
        if (redis_connection_next(c, reply, err) != 0)
            return -1;
        if (*reply != NULL)
            return 0;
        if (wait_for(c->fd, POLLIN, deadline_ms, "a reply of Redis", err) != 0 ||
            redis_connection_receive(c, err) != 0)
            return -1;
    }
}

int redis_connection_fd(const struct redis_connection *c)
{
    return c->fd;
}

bool redis_connection_is_quiet(const struct redis_connection *c)
{
    struct pollfd p = {.fd = c->fd, .events = POLLIN};

    return poll(&p, 1, 0) == 0;
}

/* ---- what Redis says no with ---- */

/* The first word, if it looks like one of Redis's codes; the rest may repeat what was sent. */
static void copy_code(const struct redis_reply *error, char code[CODE_MAX])
{
    size_t len = strspn(error->text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ");

    if (len == 0 || len >= CODE_MAX || (error->text[len] != ' ' && error->text[len] != '\0'))
        len = 0;
    memcpy(code, error->text, len);
    strcpy(code + len, len > 0 ? "" : "?");
}

bool redis_judge(const struct redis_reply *error, struct err *err)
{
    static const struct {
        const char *code;
        enum err_kind kind;
        bool away;
    } meanings[] = {
        {"NOAUTH", ERR_DENIED, true},
        {"WRONGPASS", ERR_DENIED, true},
        {"NOPERM", ERR_DENIED, false},
        {"LOADING", ERR_UPSTREAM, true},
        {"MASTERDOWN", ERR_UPSTREAM, true},
        {"READONLY", ERR_UPSTREAM, true},
        {"CLUSTERDOWN", ERR_UPSTREAM, true},
        {"MISCONF", ERR_BUSY, false},
        {"OOM", ERR_BUSY, false},
        {"BUSY", ERR_BUSY, false},
        {"NOSCRIPT", ERR_NOT_FOUND, false},
    };
    char code[CODE_MAX];

    copy_code(error, code);
    err_set(err, ERR_REFUSED, "Redis said: %s", error->text);
    for (size_t i = 0; i < ARRAY_LEN(meanings); i++) {
        if (strcmp(code, meanings[i].code) != 0)
            continue;
        err->kind = meanings[i].kind;
        return meanings[i].away;
    }
    return false;
}

/* ---- hello ---- */

struct secret {
    char user[SECRET_MAX], password[SECRET_MAX]; /* "": none */
};

/* False when there is no such line, or it is longer than any secret may be. */
static bool read_line(FILE *f, char line[SECRET_MAX], bool *too_long)
{
    size_t len;

    line[0] = '\0';
    if (fgets(line, SECRET_MAX, f) == NULL)
        return false;
    len = strcspn(line, "\r\n");
    *too_long = *too_long || (line[len] == '\0' && len == SECRET_MAX - 1);
    line[len] = '\0';
    return len > 0;
}

static int read_secret(const struct redis_place *p, struct secret *out, struct err *err)
{
    char first[SECRET_MAX], second[SECRET_MAX];
    bool too_long = false, two;
    FILE *f;

    *out = (struct secret){0};
    if (p->url.user != NULL)
        snprintf(out->user, sizeof(out->user), "%s", p->url.user);
    if (p->password_file == NULL)
        return 0;
    f = fopen(p->password_file, "re");
    if (f == NULL)
        return err_errno(err, ERR_DENIED, "the Redis password file %s can't be read",
                         p->password_file);
    if (!read_line(f, first, &too_long))
        first[0] = '\0';
    two = read_line(f, second, &too_long);
    fclose(f);
    if (two)
        strcpy(out->user, first);
    strcpy(out->password, two ? second : first);
    explicit_bzero(first, sizeof(first));
    explicit_bzero(second, sizeof(second));
    if (!too_long && out->password[0] != '\0')
        return 0;
    explicit_bzero(out, sizeof(*out));
    return err_set(err, ERR_DENIED,
                   "the Redis password file %s holds no password: one line with it, or two with "
                   "the user and the password",
                   p->password_file);
}

/* A command of the hello.  An error reply is told by its code only: some repeat what was sent. */
static int greet(struct redis_connection *c, const char *const *words, const char *what,
                 uint64_t deadline_ms, struct redis_reply **out, struct err *err)
{
    struct redis_reply *reply = NULL;
    char code[CODE_MAX];
    int rc = -1;

    if (redis_connection_send(c, words, deadline_ms, err) != 0 ||
        redis_connection_read(c, deadline_ms, &reply, err) != 0)
        return -1;
    if (reply->type != REDIS_ERROR) {
        rc = 0;
    } else {
        copy_code(reply, code);
        redis_judge(reply, err);
        if (strcmp(code, "NOAUTH") == 0)
            err_set(err, ERR_DENIED, "it wants a password (redis.password_file)");
        else
            err_set(err, err->kind, "it refused %s (%s)", what, code);
    }
    if (rc == 0 && out != NULL) {
        *out = reply;
        reply = NULL;
    }
    redis_reply_free(&reply);
    return rc;
}

static int authenticate(struct redis_connection *c, const struct redis_place *p,
                        uint64_t deadline_ms, struct err *err)
{
    struct secret s;
    int rc;

    if (read_secret(p, &s, err) != 0)
        return -1;
    if (s.user[0] != '\0')
        rc = greet(c, REDIS_WORDS("AUTH", s.user, s.password), "user and password", deadline_ms,
                   NULL, err);
    else if (s.password[0] != '\0')
        rc = greet(c, REDIS_WORDS("AUTH", s.password), "the password", deadline_ms, NULL, err);
    else
        rc = 0;
    explicit_bzero(&s, sizeof(s));
    if (rc != 0 && err->kind == ERR_REFUSED)
        err->kind = ERR_DENIED;
    return rc;
}

/* A sentinel that was cut off may name a master of yesterday, which must not take our writes. */
static int check_role(struct redis_connection *c, uint64_t deadline_ms, struct err *err)
{
    struct redis_reply *reply = NULL;
    int rc = 0;

    if (greet(c, REDIS_WORDS("ROLE"), "ROLE", deadline_ms, &reply, err) != 0)
        return -1;
    if (strcmp(redis_item_text(reply, 0), "master") != 0)
        rc = err_set(err, ERR_UPSTREAM, "what the sentinel names is no master now");
    redis_reply_free(&reply);
    return rc;
}

static int say_hello(struct redis_connection *c, const struct redis_place *p, uint64_t deadline_ms,
                     struct err *err)
{
    char db[REDIS_NUMBER_SIZE];

    if (authenticate(c, p, deadline_ms, err) != 0)
        return -1;
    if (p->url.db != 0 && greet(c, REDIS_WORDS("SELECT", redis_number(p->url.db, db)),
                                "the database", deadline_ms, NULL, err) != 0)
        return -1;
    if (p->url.scheme == REDIS_SENTINEL && check_role(c, deadline_ms, err) != 0)
        return -1;
    return greet(c, REDIS_WORDS("PING"), "PING", deadline_ms, NULL, err);
}

/* ---- opening ---- */

static int start_tls(struct redis_connection *c, const struct redis_place *p, struct err *err)
{
#ifdef PANNIER_REDIS_TLS
    c->tls = redisConnectFd(c->fd);
    must(c->tls != NULL);
    c->tls->flags &= ~REDIS_BLOCK;
    redisReaderFree(c->tls->reader);
    c->tls->reader = c->reader;
    if (redisInitiateSSLWithContext(c->tls, p->tls) != REDIS_OK)
        return fail_tls(c->tls, err);
#else
    (void)c;
    (void)p;
    (void)err;
#endif
    return 0;
}

static int open_at(const struct redis_place *p, const struct redis_host *host, bool tls,
                   uint64_t deadline_ms, struct redis_connection **out, struct err *err)
{
    struct redis_connection *c;
    int fd, rc = host == NULL ? connect_unix(p->url.path, deadline_ms, &fd, err)
                              : connect_tcp(host, deadline_ms, &fd, err);

    if (rc != 0)
        return -1;
    c = xcalloc(1, sizeof(*c));
    c->fd = fd;
    c->reader = redisReaderCreateWithFunctions(&builders);
    must(c->reader != NULL);
    if (tls && start_tls(c, p, err) != 0) {
        redis_connection_free(&c);
        return -1;
    }
    *out = c;
    return 0;
}

static int ask_sentinel(const struct redis_place *p, const struct redis_host *sentinel,
                        uint64_t deadline_ms, struct redis_host *out, struct err *err)
{
    struct redis_connection *c = NULL;
    struct redis_reply *reply = NULL;
    int rc = -1;

    if (open_at(p, sentinel, false, deadline_ms, &c, err) != 0)
        return -1;
    if (greet(c, REDIS_WORDS("SENTINEL", "get-master-addr-by-name", p->url.master),
              "the question for the master", deadline_ms, &reply, err) == 0) {
        int64_t port = redis_item_integer(reply, 1);

        if (redis_item_text(reply, 0)[0] == '\0' || port < 1 || port > 65535) {
            err_set(err, ERR_UPSTREAM, "it knows no master %s", p->url.master);
        } else {
            out->name = xstrdup(redis_item_text(reply, 0));
            out->port = (unsigned)port;
            rc = 0;
        }
    }
    redis_reply_free(&reply);
    redis_connection_free(&c);
    return rc;
}

/* Ask one after the other, beginning with the one that knew last; each has its share of the time,
 * so that one that hangs doesn't take it all. */
static int find_master(struct redis_place *p, uint64_t deadline_ms, struct redis_host *out,
                       struct err *err)
{
    unsigned first = atomic_load(&p->next_sentinel);
    size_t count = p->url.host_count;

    for (size_t i = 0; i < count; i++) {
        const struct redis_host *h = &p->url.hosts[(first + i) % count];
        uint64_t now = now_ms(), left = deadline_ms > now ? deadline_ms - now : 0;

        if (ask_sentinel(p, h, now + left / (count - i + 1), out, err) == 0) {
            atomic_store(&p->next_sentinel, (first + (unsigned)i) % (unsigned)count);
            return 0;
        }
        err_prefix(err, "sentinel %s:%u", h->name, h->port);
    }
    return -1;
}

int redis_connection_open(struct redis_place *p, uint64_t deadline_ms,
                          struct redis_connection **out, struct err *err)
{
    struct redis_connection *c = NULL;
    struct redis_host master = {0};
    int rc;

    if (p->url.scheme == REDIS_SENTINEL) {
        rc = find_master(p, deadline_ms, &master, err);
        if (rc == 0)
            rc = open_at(p, &master, false, deadline_ms, &c, err);
    } else {
        rc = open_at(p, p->url.scheme == REDIS_UNIX ? NULL : &p->url.hosts[0],
                     p->url.scheme == REDIS_TLS, deadline_ms, &c, err);
    }
    if (rc == 0)
        rc = say_hello(c, p, deadline_ms, err);
    free(master.name);
    if (rc != 0) {
        redis_connection_free(&c);
        return err_prefix(err, "Redis at %s", p->name);
    }
    *out = c;
    return 0;
}

void redis_connection_free(struct redis_connection **cp)
{
    struct redis_connection *c = *cp;

    *cp = NULL;
    if (c == NULL)
        return;
    if (c->tls != NULL) {
        redisFree(c->tls);
    } else {
        redisReaderFree(c->reader);
        close(c->fd);
    }
    free(c);
}
