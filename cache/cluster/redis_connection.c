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
};

struct redis_place {
    struct redis_url url;
    char *password_file, *name;
    char *ca_file, *certificate, *key;
    atomic_uint next_sentinel; /* the one that answered last */

    struct lock lock;
    struct redis_host master; /* as a sentinel said last */
};

struct redis_connection {
    int fd;
    redisReader *reader;
    size_t pending;        /* bytes fed since the last whole reply */
    struct redis_tls *tls; /* NULL: plain */
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

/* The files are read at each connect, so that they can be replaced; here to say at once what is
 * wrong with them. */
static int new_tls(const struct redis_place *p, const struct redis_host *host,
                   struct redis_tls **out, struct err *err)
{
    const struct redis_tls_files files = {p->ca_file, p->certificate, p->key};

    return redis_tls_new(&files, host->name, out, err);
}

static int check_tls(const struct redis_place *p, struct err *err)
{
    struct redis_tls *tls = NULL;
    int rc;

    if (!p->url.tls)
        return 0;
    if ((p->certificate != NULL) != (p->key != NULL))
        return err_set(err, ERR_INPUT, "redis.certificate and redis.key need each other");
    rc = new_tls(p, &p->url.hosts[0], &tls, err);
    redis_tls_free(&tls);
    return rc;
}

static char *copy_or_null(const char *text)
{
    return text != NULL ? xstrdup(text) : NULL;
}

int redis_place_new(struct redis_url *url, const char *password_file,
                    const struct redis_tls_files *files, struct redis_place **out, struct err *err)
{
    struct redis_place *p = xcalloc(1, sizeof(*p));

    p->url = *url;
    *url = (struct redis_url){0};
    p->password_file = copy_or_null(password_file);
    p->ca_file = copy_or_null(files->ca_file);
    p->certificate = copy_or_null(files->certificate);
    p->key = copy_or_null(files->key);
    lock_init(&p->lock, LOCK_REDIS_PLACE);
    p->name = name_place(&p->url);
    if (check_tls(p, err) != 0) {
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
    redis_url_clear(&p->url);
    free(p->password_file);
    free(p->ca_file);
    free(p->certificate);
    free(p->key);
    free(p->master.name);
    lock_clear(&p->lock);
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

/* What came: 0, nothing just now. */
static ssize_t receive_some(struct redis_connection *c, char *buf, size_t len, struct err *err)
{
    ssize_t n = recv(c->fd, buf, len, 0);

    if (n == 0)
        return err_set(err, ERR_UPSTREAM, "Redis closed the connection");
    if (n < 0)
        return errno == EAGAIN || errno == EINTR
                   ? 0
                   : err_errno(err, ERR_UPSTREAM, "the connection broke");
    return n;
}

static int feed(struct redis_connection *c, const char *data, size_t len, struct err *err)
{
    c->pending += len;
    return redisReaderFeed(c->reader, data, len) == REDIS_OK ? 0 : fail_reader(c->reader, err);
}

/* All that can be read of it: who waits for the socket must not wait for what lies here. */
static int feed_tls(struct redis_connection *c, struct err *err)
{
    char buf[CHUNK];
    ssize_t n;

    while ((n = redis_tls_read(c->tls, buf, sizeof(buf), err)) > 0)
        if (feed(c, buf, (size_t)n, err) != 0)
            return -1;
    return (int)n;
}

/* What TLS made of what was given to it. */
static int flush_tls(struct redis_connection *c, uint64_t deadline_ms, struct err *err)
{
    char buf[CHUNK];
    size_t n;

    while ((n = redis_tls_take(c->tls, buf, sizeof(buf))) > 0)
        if (send_plain(c, buf, n, deadline_ms, err) != 0)
            return -1;
    return 0;
}

/* Who won't have us says why, and closes; what we send then only shows that it is closed. */
static void explain(struct redis_connection *c, struct err *err)
{
    char buf[CHUNK];
    struct err why;
    ssize_t n = receive_some(c, buf, sizeof(buf), &why);

    if (n <= 0)
        return;
    redis_tls_give(c->tls, buf, (size_t)n);
    if (feed_tls(c, &why) != 0)
        *err = why;
}

static int send_text(struct redis_connection *c, const char *text, size_t len, uint64_t deadline_ms,
                     struct err *err)
{
    if (c->tls == NULL)
        return send_plain(c, text, len, deadline_ms, err);
    if (redis_tls_write(c->tls, text, len, err) != 0)
        return -1;
    if (flush_tls(c, deadline_ms, err) == 0)
        return 0;
    explain(c, err);
    return -1;
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
    rc = send_text(c, text, (size_t)len, deadline_ms, err);
    redisFreeCommand(text);
    return rc;
}

int redis_connection_receive(struct redis_connection *c, struct err *err)
{
    char buf[CHUNK];
    ssize_t n = receive_some(c, buf, sizeof(buf), err);
    int rc;

    if (n <= 0)
        return (int)n;
    if (c->tls == NULL) {
        rc = feed(c, buf, (size_t)n, err);
    } else {
        redis_tls_give(c->tls, buf, (size_t)n);
        rc = feed_tls(c, err);
    }
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

/* Redis 6 wraps what a script's command was refused with: "ERR Error running script ... -OOM ...".
 */
static bool is_wrapped(const struct redis_reply *error, const char *code)
{
    char wrapped[CODE_MAX + 4];

    snprintf(wrapped, sizeof(wrapped), ": -%s ", code);
    return strncmp(error->text, "ERR Error running script", 24) == 0 &&
           strstr(error->text, wrapped) != NULL;
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
        if (strcmp(code, meanings[i].code) != 0 && !is_wrapped(error, meanings[i].code))
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

static int start_tls(struct redis_connection *c, const struct redis_place *p,
                     const struct redis_host *host, uint64_t deadline_ms, struct err *err)
{
    char buf[CHUNK];
    ssize_t n;

    if (new_tls(p, host, &c->tls, err) != 0)
        return -1;
    for (;;) {
        struct err ignored;
        int done = redis_tls_handshake(c->tls, err);

        /* Also what says to the other side why we won't have it. */
        if (flush_tls(c, deadline_ms, done < 0 ? &ignored : err) != 0 || done != 0)
            return done == 1 ? 0 : -1;
        if (wait_for(c->fd, POLLIN, deadline_ms, "TLS's handshake", err) != 0)
            return -1;
        n = receive_some(c, buf, sizeof(buf), err);
        if (n < 0)
            return -1;
        redis_tls_give(c->tls, buf, (size_t)n);
    }
}

/* host NULL: the socket. */
static int open_at(const struct redis_place *p, const struct redis_host *host, uint64_t deadline_ms,
                   struct redis_connection **out, struct err *err)
{
    struct redis_connection *c;
    int fd = -1, rc = host == NULL ? connect_unix(p->url.path, deadline_ms, &fd, err)
                                   : connect_tcp(host, deadline_ms, &fd, err);

    if (rc != 0)
        return -1;
    c = xcalloc(1, sizeof(*c));
    c->fd = fd;
    c->reader = redisReaderCreateWithFunctions(&builders);
    must(c->reader != NULL);
    if (p->url.tls && start_tls(c, p, host, deadline_ms, err) != 0) {
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

    if (open_at(p, sentinel, deadline_ms, &c, err) != 0)
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

static void remember_master(struct redis_place *p, const struct redis_host *master)
{
    struct redis_host old;

    lock_take(&p->lock);
    old = p->master;
    p->master = (struct redis_host){xstrdup(master->name), master->port};
    lock_drop(&p->lock);
    free(old.name);
}

static bool recall_master(struct redis_place *p, struct redis_host *out)
{
    lock_take(&p->lock);
    if (p->master.name != NULL)
        *out = (struct redis_host){xstrdup(p->master.name), p->master.port};
    lock_drop(&p->lock);
    return out->name != NULL;
}

/* Where no sentinel answers the last master is tried, which still must say that it is one: other
 * connections to it are in use, too. */
static int settle_master(struct redis_place *p, uint64_t deadline_ms, struct redis_host *out,
                         struct err *err)
{
    if (find_master(p, deadline_ms, out, err) != 0)
        return recall_master(p, out) ? 0 : -1;
    remember_master(p, out);
    return 0;
}

int redis_connection_open(struct redis_place *p, uint64_t deadline_ms,
                          struct redis_connection **out, struct err *err)
{
    struct redis_connection *c = NULL;
    struct redis_host master = {0};
    int rc;

    if (p->url.scheme == REDIS_SENTINEL) {
        rc = settle_master(p, deadline_ms, &master, err);
        if (rc == 0)
            rc = open_at(p, &master, deadline_ms, &c, err);
    } else {
        rc =
            open_at(p, p->url.scheme == REDIS_UNIX ? NULL : &p->url.hosts[0], deadline_ms, &c, err);
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
    redis_tls_free(&c->tls);
    redisReaderFree(c->reader);
    close(c->fd);
    free(c);
}
