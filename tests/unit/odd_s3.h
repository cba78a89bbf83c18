/* An S3 endpoint on loopback that does what it is told: refuses, hangs, cuts, lies.  Included by
 * unit tests only.
 *
 *     struct odd_s3 odd;
 *     odd_s3_start(&odd);
 *     odd_s3_on(&odd, "GET /b/k", SLOW_DOWN, 2);     the first two times
 *     odd_s3_on(&odd, "GET /b/k", "...", ALWAYS);    then this
 *     ... a store with odd.endpoint ...
 *     odd_s3_stop(&odd);                              after the store is freed
 *
 * The first rule that matches and has times left wins; its `when` may stand anywhere in the
 * request's head.  Without one: 404 without words. */
#ifndef PANNIER_TESTS_UNIT_ODD_S3_H
#define PANNIER_TESTS_UNIT_ODD_S3_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "scratch.h"

enum { ODD_RULES_MAX = 32, ODD_CONNECTIONS_MAX = 64, ODD_REQUEST_MAX = 32 << 20, ALWAYS = -1 };

struct odd_rule {
    const char *when;
    const char *says; /* a whole response; NULL: nothing, until the client leaves */
    int times;
    /* Instead of `says`: the bytes of this object that the range header asks for, of which only
     * so many are sent before the connection breaks. */
    const char *object;
    size_t size, cut_after;
    const char *etag;
};

struct odd_s3 {
    int listener;
    char endpoint[64];
    pthread_t acceptor, connections[ODD_CONNECTIONS_MAX];
    int fds[ODD_CONNECTIONS_MAX];
    unsigned connection_count;
    pthread_mutex_t mutex; /* of what follows */
    struct odd_rule rules[ODD_RULES_MAX];
    unsigned rule_count;
    struct bytes heads; /* of all requests, one behind the other */
    struct bytes body;  /* of the last one that had one */
};

struct odd_connection {
    struct odd_s3 *odd;
    int fd;
};

static inline bool odd_more(int fd, struct bytes *to)
{
    char block[65536];
    ssize_t n = read(fd, block, sizeof(block));

    return n > 0 && bytes_add(to, block, (size_t)n) == 0;
}

static inline void odd_send(int fd, const void *data, size_t len)
{
    for (size_t sent = 0; sent < len;) {
        ssize_t n = send(fd, (const char *)data + sent, len - sent, MSG_NOSIGNAL);

        if (n <= 0)
            return;
        sent += (size_t)n;
    }
}

/* Leaves what came behind the request in `from`. */
static inline bool odd_read(struct odd_s3 *odd, int fd, struct bytes *from, char **head)
{
    const char *end, *length;
    size_t wanted, head_len;

    while (from->data == NULL || (end = memmem(from->data, from->len, "\r\n\r\n", 4)) == NULL)
        if (!odd_more(fd, from))
            return false;
    head_len = (size_t)(end - from->data) + 4;
    *head = xstrndup(from->data, head_len);
    length = strcasestr(*head, "Content-Length: ");
    wanted = head_len + (length != NULL ? strtoul(length + 16, NULL, 10) : 0);
    if (strcasestr(*head, "Expect: 100-continue") != NULL)
        odd_send(fd, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    while (from->len < wanted)
        if (!odd_more(fd, from)) {
            free(*head);
            return false;
        }
    if (wanted > head_len) {
        pthread_mutex_lock(&odd->mutex);
        bytes_reset(&odd->body);
        bytes_add(&odd->body, from->data + head_len, wanted - head_len);
        pthread_mutex_unlock(&odd->mutex);
    }
    bytes_drop_front(from, wanted);
    return true;
}

static inline struct odd_rule odd_choose(struct odd_s3 *odd, const char *head)
{
    struct odd_rule rule = {.says = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"};

    pthread_mutex_lock(&odd->mutex);
    bytes_add_str(&odd->heads, head);
    for (unsigned i = 0; i < odd->rule_count; i++) {
        struct odd_rule *r = &odd->rules[i];

        if (r->times == 0 || strstr(head, r->when) == NULL)
            continue;
        r->times -= r->times > 0;
        rule = *r;
        break;
    }
    pthread_mutex_unlock(&odd->mutex);
    return rule;
}

/* "@MARK@" in what it says is the x-amz-meta-pannier-mark that came last. */
static inline void odd_send_text(struct odd_s3 *odd, int fd, const char *text)
{
    static const char name[] = "x-amz-meta-pannier-mark: ", place[] = "@MARK@";
    const char *at = strstr(text, place), *mark = NULL;
    char *filled;

    if (at == NULL) {
        odd_send(fd, text, strlen(text));
        return;
    }
    pthread_mutex_lock(&odd->mutex);
    for (const char *p = odd->heads.data; (p = strstr(p, name)) != NULL; p++)
        mark = p + strlen(name);
    assert_non_null(mark);
    filled = xasprintf("%.*s%.*s%s", (int)(at - text), text, (int)strcspn(mark, "\r"), mark,
                       at + strlen(place));
    pthread_mutex_unlock(&odd->mutex);
    odd_send(fd, filled, strlen(filled));
    free(filled);
}

/* False: the connection is to end. */
static inline bool odd_send_object(int fd, const struct odd_rule *r, const char *head)
{
    const char *range = strstr(head, "range: bytes=");
    size_t first = 0, last = r->size - 1, len;
    char *end, *text;

    assert_non_null(range);
    first = strtoul(range + 13, &end, 10);
    if (end[0] == '-' && end[1] >= '0' && end[1] <= '9')
        last = strtoul(end + 1, NULL, 10);
    if (last > r->size - 1)
        last = r->size - 1;
    len = last - first + 1;
    text = xasprintf("HTTP/1.1 206 Partial Content\r\nContent-Length: %zu\r\n"
                     "Content-Range: bytes %zu-%zu/%zu\r\nETag: \"%s\"\r\n\r\n",
                     len, first, last, r->size, r->etag);
    odd_send(fd, text, strlen(text));
    free(text);
    if (r->cut_after > 0 && r->cut_after < len) {
        odd_send(fd, r->object + first, r->cut_after);
        return false;
    }
    odd_send(fd, r->object + first, len);
    return true;
}

static inline void *odd_serve(void *ctx)
{
    struct odd_connection *c = ctx;
    struct bytes from;
    char *head;
    bool go_on = true;

    bytes_init(&from, ODD_REQUEST_MAX);
    while (go_on && odd_read(c->odd, c->fd, &from, &head)) {
        struct odd_rule rule = odd_choose(c->odd, head);

        if (rule.object != NULL) {
            go_on = odd_send_object(c->fd, &rule, head);
        } else if (rule.says != NULL) {
            odd_send_text(c->odd, c->fd, rule.says);
            go_on = strstr(rule.says, "Connection: close") == NULL;
        } else {
            while (odd_more(c->fd, &from))
                ;
            go_on = false;
        }
        free(head);
    }
    bytes_clear(&from);
    shutdown(c->fd, SHUT_RDWR);
    free(c);
    return NULL;
}

static inline void *odd_accept(void *ctx)
{
    struct odd_s3 *odd = ctx;
    int fd;

    while ((fd = accept(odd->listener, NULL, NULL)) >= 0) {
        struct odd_connection *c = xcalloc(1, sizeof(*c));

        must(odd->connection_count < ODD_CONNECTIONS_MAX);
        *c = (struct odd_connection){odd, fd};
        odd->fds[odd->connection_count] = fd;
        must(pthread_create(&odd->connections[odd->connection_count++], NULL, odd_serve, c) == 0);
    }
    return NULL;
}

static inline void odd_s3_start(struct odd_s3 *odd)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);

    *odd = (struct odd_s3){.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    bytes_init(&odd->heads, 4 << 20);
    bytes_init(&odd->body, ODD_REQUEST_MAX);
    pthread_mutex_init(&odd->mutex, NULL);
    assert_true(odd->listener >= 0);
    assert_int_equal(bind(odd->listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(odd->listener, 16), 0);
    assert_int_equal(getsockname(odd->listener, (struct sockaddr *)&address, &len), 0);
    snprintf(odd->endpoint, sizeof(odd->endpoint), "http://127.0.0.1:%u", ntohs(address.sin_port));
    assert_int_equal(pthread_create(&odd->acceptor, NULL, odd_accept, odd), 0);
}

static inline void odd_s3_stop(struct odd_s3 *odd)
{
    shutdown(odd->listener, SHUT_RDWR);
    pthread_join(odd->acceptor, NULL);
    for (unsigned i = 0; i < odd->connection_count; i++) {
        shutdown(odd->fds[i], SHUT_RDWR);
        pthread_join(odd->connections[i], NULL);
        close(odd->fds[i]);
    }
    close(odd->listener);
    bytes_clear(&odd->heads);
    bytes_clear(&odd->body);
    pthread_mutex_destroy(&odd->mutex);
}

static inline struct odd_rule *odd_add(struct odd_s3 *odd, const struct odd_rule *rule)
{
    struct odd_rule *added;

    pthread_mutex_lock(&odd->mutex);
    assert_true(odd->rule_count < ODD_RULES_MAX);
    added = &odd->rules[odd->rule_count++];
    *added = *rule;
    pthread_mutex_unlock(&odd->mutex);
    return added;
}

static inline void odd_s3_on(struct odd_s3 *odd, const char *when, const char *says, int times)
{
    odd_add(odd, &(struct odd_rule){.when = when, .says = says, .times = times});
}

/* How many requests had this in their head. */
static inline unsigned odd_s3_count(struct odd_s3 *odd, const char *what)
{
    unsigned count = 0;

    pthread_mutex_lock(&odd->mutex);
    for (const char *p = odd->heads.data; p != NULL && (p = strstr(p, what)) != NULL; p++)
        count++;
    pthread_mutex_unlock(&odd->mutex);
    return count;
}

/* Was this the last body that came? */
static inline bool odd_s3_had_body(struct odd_s3 *odd, const void *body, size_t len)
{
    bool same;

    pthread_mutex_lock(&odd->mutex);
    same = odd->body.len == len && memcmp(odd->body.data, body, len) == 0;
    pthread_mutex_unlock(&odd->mutex);
    return same;
}

#endif
