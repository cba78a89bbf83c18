#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "cache/lock.h"
#include "proxy/upstream.h"
#include "scratch.h"

/* ---- a host that says what it was told to say ---- */

enum { STEPS_MAX = 16 };

/* One reply.  close: the connection ends with it.  Without text it stays silent until the client
 * leaves. */
struct step {
    const char *text;
    size_t len; /* 0: a string */
    bool close;
};

struct host {
    int listener;
    uint16_t port;
    struct step steps[STEPS_MAX];
    size_t step_count;
    pthread_t thread;
    /* What it saw; to be read once it is done. */
    struct bytes requests[STEPS_MAX];
    size_t request_count, connections;
};

/* False when the client leaves instead. */
static bool more(int fd, struct bytes *to)
{
    char block[4096];
    ssize_t n = read(fd, block, sizeof(block));

    return n > 0 && bytes_add(to, block, (size_t)n) == 0;
}

static bool has_header(const struct bytes *request, const char *line)
{
    return strcasestr(request->data, line) != NULL;
}

static bool read_request(int fd, struct bytes *out)
{
    const char *end, *length;
    size_t wanted;

    while (out->data == NULL || (end = memmem(out->data, out->len, "\r\n\r\n", 4)) == NULL)
        if (!more(fd, out))
            return false;
    if (has_header(out, "Transfer-Encoding: chunked")) {
        while (memmem(out->data, out->len, "0\r\n\r\n", 5) == NULL)
            if (!more(fd, out))
                return false;
        return true;
    }
    length = strcasestr(out->data, "Content-Length: ");
    wanted = (size_t)(end + 4 - out->data);
    wanted += length != NULL ? strtoul(length + 16, NULL, 10) : 0;
    while (out->len < wanted)
        if (!more(fd, out))
            return false;
    return true;
}

static void *be_host(void *ctx)
{
    struct host *h = ctx;
    int fd = -1;

    for (size_t i = 0; i < h->step_count;) {
        const struct step *step = &h->steps[i];
        struct bytes *request = &h->requests[i];

        if (fd < 0) {
            fd = accept(h->listener, NULL, NULL);
            if (fd < 0)
                break;
            h->connections++;
        }
        bytes_reset(request);
        if (!read_request(fd, request)) { /* it wants another connection */
            close(fd);
            fd = -1;
            continue;
        }
        h->request_count = ++i;
        if (step->text == NULL) {
            struct bytes ignored;

            bytes_init(&ignored, 1 << 20);
            while (more(fd, &ignored))
                ;
            bytes_clear(&ignored);
        } else {
            size_t len = step->len > 0 ? step->len : strlen(step->text);

            if (send(fd, step->text, len, MSG_NOSIGNAL) < 0)
                break;
        }
        if (step->close || step->text == NULL) {
            close(fd);
            fd = -1;
        }
    }
    if (fd >= 0)
        close(fd);
    return NULL;
}

static void host_start(struct host *h, const struct step *steps, size_t count)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);

    *h = (struct host){.step_count = count};
    memcpy(h->steps, steps, count * sizeof(*steps));
    for (size_t i = 0; i < STEPS_MAX; i++)
        bytes_init(&h->requests[i], 4 << 20);
    h->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(h->listener >= 0);
    assert_int_equal(bind(h->listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(h->listener, 16), 0);
    assert_int_equal(getsockname(h->listener, (struct sockaddr *)&address, &len), 0);
    h->port = ntohs(address.sin_port);
    assert_int_equal(pthread_create(&h->thread, NULL, be_host, h), 0);
}

/* Waits until all its steps are done or can't be any more. */
static void host_finish(struct host *h)
{
    shutdown(h->listener, SHUT_RDWR);
    pthread_join(h->thread, NULL);
    close(h->listener);
}

static void host_clear(struct host *h)
{
    for (size_t i = 0; i < STEPS_MAX; i++)
        bytes_clear(&h->requests[i]);
}

/* ---- asking it ---- */

struct client {
    struct host host;
    struct origins *origins;
    struct upstream_config config;
    char base_url[64];

    struct response_head head;
    unsigned heads;
    struct bytes body;
    struct err err;
    char *moved;

    enum err_kind refuse_head, refuse_data;
    int (*during)(struct client *c); /* called with the first data */
};

static void client_init(struct client *c, const struct step *steps, size_t count)
{
    *c = (struct client){
        .origins = origins_new(),
        .config = {.name = (char *)"test",
                   .max_connections = 4,
                   .connect_timeout_ms = 5000,
                   .response_timeout_ms = 20000,
                   .stall_timeout_ms = 20000},
    };
    host_start(&c->host, steps, count);
    bytes_init(&c->body, 4 << 20);
    snprintf(c->base_url, sizeof(c->base_url), "http://127.0.0.1:%u/base", c->host.port);
}

#define SAYS(words)                                                                                \
    {                                                                                              \
        .text = (words)                                                                            \
    }
#define SAYS_AND_LEAVES(words)                                                                     \
    {                                                                                              \
        .text = (words), .close = true                                                             \
    }
#define SAYS_NOTHING                                                                               \
    {                                                                                              \
        .text = NULL                                                                               \
    }
#define CLIENT_INIT(c, ...)                                                                        \
    client_init(c, (const struct step[]){__VA_ARGS__},                                             \
                sizeof((const struct step[]){__VA_ARGS__}) / sizeof(struct step))

/* Ends the connections, so that the host sees them go. */
static void client_close(struct client *c)
{
    origins_free(&c->origins);
    host_finish(&c->host);
}

static void client_clear(struct client *c)
{
    if (c->origins != NULL)
        client_close(c);
    host_clear(&c->host);
    response_head_clear(&c->head);
    bytes_clear(&c->body);
    free(c->moved);
}

static int on_head(void *ctx, const struct response_head *head, struct err *err)
{
    struct client *c = ctx;

    response_head_clear(&c->head);
    response_head_copy(head, &c->head);
    c->heads++;
    return c->refuse_head != ERR_NONE ? err_set(err, c->refuse_head, "no, thank you") : 0;
}

static int on_data(void *ctx, const void *data, size_t len, struct err *err)
{
    struct client *c = ctx;

    bytes_add(&c->body, data, len);
    if (c->during != NULL) {
        int (*during)(struct client *) = c->during;

        c->during = NULL;
        assert_int_equal(during(c), 0);
    }
    return c->refuse_data != ERR_NONE ? err_set(err, c->refuse_data, "no more") : 0;
}

static struct upstream_request get(struct client *c)
{
    return (struct upstream_request){
        .method = "GET",
        .base_url = c->base_url,
        .repo = "g/r.git",
        .rest = "info/refs?service=git-upload-pack",
        .content_length = -1,
        .head_fn = on_head,
        .data_fn = on_data,
        .ctx = c,
    };
}

static int perform(struct client *c, const struct upstream_request *r)
{
    bytes_reset(&c->body);
    free(c->moved);
    return upstream_perform(c->origins, &c->config, r, &c->moved, &c->err);
}

static int get_once(struct client *c)
{
    struct upstream_request r = get(c);

    return perform(c, &r);
}

static void assert_body(struct client *c, const char *expected)
{
    assert_int_equal(c->body.len, strlen(expected));
    if (c->body.len > 0)
        assert_memory_equal(c->body.data, expected, c->body.len);
}

#define OK "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

/* ---- responses ---- */

static void a_response_is_handed_on_with_its_head(void **state)
{
    struct client c;

    (void)state;
    CLIENT_INIT(&c, SAYS("HTTP/1.1 401 Unauthorized\r\n"
                         "WWW-Authenticate: Basic realm=\"a: b\"  \r\n"
                         "x-EMPTY:\r\n"
                         "www-authenticate:\tBearer\r\n"
                         "Content-Length: 5\r\n\r\nhello"));
    assert_int_equal(get_once(&c), 0);
    assert_int_equal(c.heads, 1);
    assert_int_equal(c.head.status, 401);
    assert_string_equal(response_head_get(&c.head, "www-authenticate"), "Basic realm=\"a: b\"");
    assert_string_equal(c.head.headers[2].value, "Bearer");
    assert_string_equal(response_head_get(&c.head, "x-empty"), "");
    assert_null(response_head_get(&c.head, "retry-after"));
    assert_body(&c, "hello");
    assert_null(c.moved);
    client_clear(&c);
}

static void headers_beyond_the_bounds_are_dropped(void **state)
{
    struct bytes reply;
    struct client c;

    (void)state;
    bytes_init(&reply, 1 << 20);
    bytes_add_str(&reply, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Long: ");
    for (int i = 0; i < UPSTREAM_HEADER_SIZE_MAX; i++)
        bytes_add(&reply, "x", 1);
    bytes_add_str(&reply, "\r\n");
    for (int i = 0; i < 2 * UPSTREAM_HEADERS_MAX; i++)
        bytes_addf(&reply, "X-%d: %d\r\n", i, i);
    bytes_add_str(&reply, "\r\n");
    CLIENT_INIT(&c, {.text = reply.data, .len = reply.len});
    assert_int_equal(get_once(&c), 0);
    assert_int_equal(c.head.header_count, UPSTREAM_HEADERS_MAX);
    assert_null(response_head_get(&c.head, "x-long"));
    assert_string_equal(response_head_get(&c.head, "x-3"), "3");
    client_clear(&c);
    bytes_clear(&reply);
}

static void interim_responses_are_not_the_response(void **state)
{
    struct client c;

    (void)state;
    CLIENT_INIT(&c, SAYS("HTTP/1.1 100 Continue\r\n\r\n"
                         "HTTP/1.1 103 Early Hints\r\nX-Early: yes\r\n\r\n" OK));
    assert_int_equal(get_once(&c), 0);
    assert_int_equal(c.heads, 1);
    assert_int_equal(c.head.status, 200);
    assert_null(response_head_get(&c.head, "x-early"));
    assert_body(&c, "hello");
    client_clear(&c);
}

static void a_forward_proxys_word_is_not_upstreams(void **state)
{
    struct client c;
    char proxy[64];
    struct upstream_request r;

    (void)state;
    CLIENT_INIT(&c, SAYS_AND_LEAVES("HTTP/1.1 200 Connection established\r\nX-Proxy: yes\r\n\r\n"));
    snprintf(proxy, sizeof(proxy), "http://127.0.0.1:%u", c.host.port);
    setenv("https_proxy", proxy, 1);
    r = get(&c);
    r.base_url = "https://upstream.invalid";
    assert_int_equal(perform(&c, &r), -1);
    unsetenv("https_proxy");
    assert_int_equal(c.err.kind, ERR_DOWN);
    assert_int_equal(c.heads, 0);
    client_clear(&c);
}

static void compressed_bytes_are_inflated_only_where_that_was_asked_for(void **state)
{
    static const char reply[] =
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 25\r\n\r\n"
        "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48\xcd\xc9\xc9\x07"
        "\x00\x86\xa6\x10\x36\x05\x00\x00\x00";
    struct client c;
    struct upstream_request r;

    (void)state;
    CLIENT_INIT(&c, {.text = reply, .len = sizeof(reply) - 1},
                {.text = reply, .len = sizeof(reply) - 1});
    r = get(&c);
    r.decode = true;
    assert_int_equal(perform(&c, &r), 0);
    assert_body(&c, "hello");
    r.decode = false;
    assert_int_equal(perform(&c, &r), 0);
    assert_int_equal(c.body.len, 25);
    client_close(&c);
    assert_true(has_header(&c.host.requests[0], "Accept-Encoding: gzip"));
    assert_false(has_header(&c.host.requests[1], "Accept-Encoding"));
    client_clear(&c);
}

static void a_response_that_is_cut_off_is_no_response(void **state)
{
    static const char *const rows[] = {
        "",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nhello",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct client c;

        CLIENT_INIT(&c, SAYS_AND_LEAVES(rows[i]));
        assert_int_equal(get_once(&c), -1);
        assert_int_equal(c.err.kind, ERR_DOWN);
        assert_null(c.moved);
        client_clear(&c);
    }
}

static void a_head_that_is_cut_off_is_no_response(void **state)
{
    static const char *const rows[] = {
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct client c;
        int rc;

        CLIENT_INIT(&c, SAYS_AND_LEAVES(rows[i]));
        rc = get_once(&c);
        client_close(&c);
        assert_int_equal(c.heads, 0);
        assert_int_equal(rc, -1);
        assert_int_equal(c.err.kind, ERR_DOWN);
        client_clear(&c);
    }
}

static void what_is_no_http_is_no_response(void **state)
{
    struct client c;

    (void)state;
    CLIENT_INIT(&c, SAYS_AND_LEAVES("SSH-2.0-OpenSSH_9.2\r\n"));
    assert_int_equal(get_once(&c), -1);
    assert_int_equal(c.err.kind, ERR_DOWN);
    assert_int_equal(c.heads, 0);
    client_clear(&c);
}

static void a_host_that_is_not_there_is_told(void **state)
{
    struct client c;
    struct upstream_request r;

    (void)state;
    CLIENT_INIT(&c, SAYS(OK));
    r = get(&c);
    r.base_url = "http://127.0.0.1:1";
    assert_int_equal(perform(&c, &r), -1);
    assert_int_equal(c.err.kind, ERR_DOWN);
    client_clear(&c);
}

static void errors_never_tell_the_credential(void **state)
{
    struct client c;
    struct upstream_request r;

    (void)state;
    CLIENT_INIT(&c, SAYS_AND_LEAVES(""));
    r = get(&c);
    r.authorization = "Basic hunter2";
    assert_int_equal(perform(&c, &r), -1);
    assert_null(strstr(c.err.text, "hunter2"));
    client_clear(&c);
}

/* ---- requests ---- */

static void a_request_says_what_it_was_told_and_no_more(void **state)
{
    struct upstream_request r;
    struct client c;

    (void)state;
    CLIENT_INIT(&c, SAYS(OK), SAYS(OK));
    r = get(&c);
    r.authorization = "Basic abc";
    r.git_protocol = "version=2";
    r.accept = "text/x";
    r.range = "bytes=1-2";
    assert_int_equal(perform(&c, &r), 0);
    assert_int_equal(get_once(&c), 0);
    client_close(&c);
    assert_non_null(strstr(c.host.requests[0].data,
                           "GET /base/g/r.git/info/refs?service=git-upload-pack HTTP/1.1\r\n"));
    assert_true(has_header(&c.host.requests[0], "\r\nAuthorization: Basic abc\r\n"));
    assert_true(has_header(&c.host.requests[0], "\r\nGit-Protocol: version=2\r\n"));
    assert_true(has_header(&c.host.requests[0], "\r\nAccept: text/x\r\n"));
    assert_true(has_header(&c.host.requests[0], "\r\nRange: bytes=1-2\r\n"));
    assert_true(has_header(&c.host.requests[0], "\r\nUser-Agent: git/"));
    assert_false(has_header(&c.host.requests[0], "Expect:"));
    /* The same connection, and nothing of the one before. */
    assert_int_equal(c.host.connections, 1);
    assert_false(has_header(&c.host.requests[1], "Authorization"));
    assert_false(has_header(&c.host.requests[1], "Git-Protocol"));
    assert_false(has_header(&c.host.requests[1], "Range"));
    client_clear(&c);
}

static void a_body_goes_along(void **state)
{
    struct upstream_request r;
    struct client c;

    (void)state;
    CLIENT_INIT(&c, SAYS(OK), SAYS(OK));
    r = get(&c);
    r.method = "POST";
    r.rest = "git-upload-pack";
    r.content_type = "application/x";
    r.body = "question";
    r.body_len = 8;
    assert_int_equal(perform(&c, &r), 0);
    r.body = NULL;
    r.body_len = 0;
    assert_int_equal(perform(&c, &r), 0);
    client_close(&c);
    assert_true(has_header(&c.host.requests[0], "\r\nContent-Type: application/x\r\n"));
    assert_true(has_header(&c.host.requests[0], "\r\nContent-Length: 8\r\n"));
    assert_non_null(strstr(c.host.requests[0].data, "\r\n\r\nquestion"));
    assert_true(has_header(&c.host.requests[1], "\r\nContent-Length: 0\r\n"));
    client_clear(&c);
}

/* Gives three pieces, and then the end or a failure. */
struct upload {
    struct client client; /* first: also the context of head and data */
    int pieces;
    bool fails;
};

static ssize_t on_read(void *ctx, void *buf, size_t len)
{
    struct upload *u = ctx;

    assert_true(len >= 5);
    if (u->pieces == 3)
        return u->fails ? -1 : 0;
    u->pieces++;
    memcpy(buf, "piece", 5);
    return 5;
}

static void a_body_is_streamed_with_and_without_a_length(void **state)
{
    (void)state;
    for (int chunked = 0; chunked < 2; chunked++) {
        struct upload u = {.pieces = 0};
        struct upstream_request r;
        const struct bytes *seen;

        CLIENT_INIT(&u.client, SAYS(OK));
        r = get(&u.client);
        r.method = "POST";
        r.read_fn = on_read;
        r.content_length = chunked ? -1 : 15;
        r.ctx = &u;
        assert_int_equal(perform(&u.client, &r), 0);
        client_close(&u.client);
        seen = &u.client.host.requests[0];
        if (chunked)
            assert_non_null(memmem(seen->data, seen->len, "5\r\npiece\r\n", 10));
        else
            assert_non_null(memmem(seen->data, seen->len, "\r\n\r\npiecepiecepiece", 19));
        client_clear(&u.client);
    }
}

static void a_body_that_breaks_off_ends_the_request(void **state)
{
    struct upload u = {.fails = true};
    struct upstream_request r;

    (void)state;
    CLIENT_INIT(&u.client, SAYS(OK));
    r = get(&u.client);
    r.method = "POST";
    r.read_fn = on_read;
    r.ctx = &u;
    assert_int_equal(perform(&u.client, &r), -1);
    assert_int_equal(u.client.err.kind, ERR_CANCELLED);
    client_clear(&u.client);
}

/* ---- redirects ---- */

static void redirects_within_the_origin_are_followed_with_method_and_body(void **state)
{
    struct upstream_request r;
    struct client c;
    char absolute[256];

    (void)state;
    CLIENT_INIT(&c,
                SAYS("HTTP/1.1 301 Moved\r\nLocation: /base/new/place.git/git-upload-pack\r\n"
                     "Content-Length: 6\r\n\r\nnobody"),
                SAYS(OK));
    r = get(&c);
    r.method = "POST";
    r.rest = "git-upload-pack";
    r.body = "question";
    r.body_len = 8;
    assert_int_equal(perform(&c, &r), 0);
    assert_string_equal(c.moved, "new/place.git");
    assert_int_equal(c.heads, 1);
    assert_int_equal(c.head.status, 200);
    assert_body(&c, "hello"); /* and nothing of the redirect's own */
    client_close(&c);
    assert_non_null(strstr(c.host.requests[1].data, "POST /base/new/place.git/git-upload-pack "));
    assert_non_null(strstr(c.host.requests[1].data, "\r\n\r\nquestion"));
    client_clear(&c);

    CLIENT_INIT(&c, SAYS(absolute), SAYS(OK)); /* filled in below: the host waits for a request */
    snprintf(absolute, sizeof(absolute),
             "HTTP/1.1 307 Moved\r\nLocation: %s/a/b/info/refs?service=git-upload-pack\r\n"
             "Content-Length: 0\r\n\r\n",
             c.base_url);
    assert_int_equal(get_once(&c), 0);
    assert_string_equal(c.moved, "a/b");
    client_clear(&c);
}

static void redirects_that_lead_away_are_refused(void **state)
{
    static const char *const rows[] = {
        "http://elsewhere.example/base/g/r/info/refs?service=git-upload-pack",
        "https://127.0.0.1/base/g/r/info/refs?service=git-upload-pack",
        "//elsewhere.example/base/g/r/info/refs?service=git-upload-pack",
        "http://127.0.0.1:1/base/g/r/info/refs?service=git-upload-pack",
        "/base/login",
        "/base/info/refs?service=git-upload-pack",
        "/base/g/r/info/refs?service=git-receive-pack",
        "/basement/g/r/info/refs?service=git-upload-pack",
        "/other/g/r/info/refs?service=git-upload-pack",
        "g/r/info/refs?service=git-upload-pack",
        "",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char reply[512];
        struct client c;

        snprintf(reply, sizeof(reply),
                 "HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", rows[i]);
        CLIENT_INIT(&c, SAYS(reply));
        assert_int_equal(get_once(&c), -1);
        assert_int_equal(c.err.kind, ERR_UPSTREAM);
        assert_null(c.moved);
        assert_int_equal(c.heads, 0);
        client_clear(&c);
    }
}

static void redirects_have_an_end(void **state)
{
#define AGAIN                                                                                      \
    SAYS("HTTP/1.1 302 Found\r\nLocation: /base/g/r/info/refs?service=git-upload-pack\r\n"         \
         "Content-Length: 0\r\n\r\n")
    struct client c;

    (void)state;
    CLIENT_INIT(&c, AGAIN, AGAIN, AGAIN, AGAIN, AGAIN, AGAIN, AGAIN, AGAIN);
    assert_int_equal(get_once(&c), -1);
    assert_int_equal(c.err.kind, ERR_UPSTREAM);
    client_close(&c);
    assert_int_equal(c.host.request_count, REDIRECTS_MAX + 1);
    client_clear(&c);
}

static void a_redirect_without_a_place_is_a_response(void **state)
{
    struct client c;

    (void)state;
    CLIENT_INIT(&c, SAYS("HTTP/1.1 302 Found\r\nContent-Length: 5\r\n\r\nhello"));
    assert_int_equal(get_once(&c), 0);
    assert_int_equal(c.head.status, 302);
    assert_body(&c, "hello");
    client_clear(&c);
}

/* ---- ends ---- */

static void who_refuses_the_head_or_the_data_gets_its_own_error(void **state)
{
    struct client c;

    (void)state;
    CLIENT_INIT(&c, SAYS(OK), SAYS(OK), SAYS(OK));
    c.refuse_head = ERR_DENIED;
    assert_int_equal(get_once(&c), -1);
    assert_int_equal(c.err.kind, ERR_DENIED);
    assert_string_equal(c.err.text, "no, thank you");
    assert_int_equal(c.body.len, 0);
    c.refuse_head = ERR_NONE;
    c.refuse_data = ERR_BUSY;
    assert_int_equal(get_once(&c), -1);
    assert_int_equal(c.err.kind, ERR_BUSY);
    c.refuse_data = ERR_NONE;
    assert_int_equal(get_once(&c), 0); /* on a connection that is sound */
    assert_body(&c, "hello");
    client_clear(&c);
}

static void silence_has_an_end(void **state)
{
    struct client c;

    (void)state;
    CLIENT_INIT(&c, SAYS_NOTHING);
    c.config.response_timeout_ms = 10;
    assert_int_equal(get_once(&c), -1);
    assert_int_equal(c.err.kind, ERR_TIMEOUT);
    client_clear(&c);
}

/* Half a body, and then nothing, but no end either. */
static void silence_in_the_middle_has_an_end_of_its_own(void **state)
{
    struct client c;

    (void)state;
    CLIENT_INIT(&c, SAYS("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello"), SAYS(OK));
    c.config.stall_timeout_ms = 10;
    assert_int_equal(get_once(&c), -1);
    assert_int_equal(c.err.kind, ERR_TIMEOUT);
    assert_body(&c, "hello");
    client_clear(&c);
}

struct canceller {
    struct client client;
    unsigned ticks, pauses;
};

static int cancel_on_tick(void *ctx, struct err *err)
{
    struct canceller *k = ctx;

    (void)err;
    k->ticks++;
    origins_cancel(k->client.origins);
    return 0;
}

static void ticks_come_in_silence_and_all_can_be_cancelled(void **state)
{
    struct canceller k = {.ticks = 0};
    struct upstream_request r;

    (void)state;
    CLIENT_INIT(&k.client, SAYS_NOTHING);
    r = get(&k.client);
    r.tick_fn = cancel_on_tick;
    r.ctx = &k;
    assert_int_equal(perform(&k.client, &r), -1);
    assert_int_equal(k.client.err.kind, ERR_CANCELLED);
    assert_int_equal(k.ticks, 1);
    client_clear(&k.client);
}

static int refuse_on_tick(void *ctx, struct err *err)
{
    (void)ctx;
    return err_set(err, ERR_CANCELLED, "nobody waits");
}

static void a_tick_may_end_it(void **state)
{
    struct upstream_request r;
    struct client c;

    (void)state;
    CLIENT_INIT(&c, SAYS_NOTHING);
    r = get(&c);
    r.tick_fn = refuse_on_tick;
    assert_int_equal(perform(&c, &r), -1);
    assert_string_equal(c.err.text, "nobody waits");
    client_clear(&c);
}

enum { PAUSE_MS = 2, PAUSES = 20 };

static int ask_to_be_called_again(void *ctx, uint64_t *again_ms, struct err *err)
{
    struct canceller *k = ctx;

    *again_ms = PAUSE_MS;
    return ++k->pauses < PAUSES ? 0 : err_set(err, ERR_CANCELLED, "enough");
}

static int count_tick(void *ctx, struct err *err)
{
    struct canceller *k = ctx;

    (void)err;
    k->ticks++;
    return 0;
}

/* The ticks are the clock, a second each. */
static void what_was_gathered_does_not_wait_for_the_tick(void **state)
{
    struct canceller k = {.ticks = 0};
    struct upstream_request r;

    (void)state;
    CLIENT_INIT(&k.client, SAYS_NOTHING);
    r = get(&k.client);
    r.tick_fn = count_tick;
    r.pause_fn = ask_to_be_called_again;
    r.ctx = &k;
    assert_int_equal(perform(&k.client, &r), -1);
    assert_string_equal(k.client.err.text, "enough");
    assert_int_equal(k.pauses, PAUSES);
    assert_true(k.ticks < PAUSES / 4);
    client_clear(&k.client);
}

enum { PATIENCE_MS = 100 };

static int refuse_after_long(void *ctx, uint64_t *again_ms, struct err *err)
{
    uint64_t until = now_ms() + (uint64_t)2 * PATIENCE_MS;

    (void)ctx;
    (void)again_ms;
    while (now_ms() < until)
        ;
    return err_set(err, ERR_CANCELLED, "nobody reads");
}

/* curl comes back once more as it closes what was stopped. */
static void who_stops_it_late_is_still_the_one_who_did(void **state)
{
    struct upstream_request r;
    struct client c;

    (void)state;
    CLIENT_INIT(&c, SAYS_NOTHING);
    c.config.response_timeout_ms = PATIENCE_MS;
    r = get(&c);
    r.pause_fn = refuse_after_long;
    assert_int_equal(perform(&c, &r), -1);
    assert_string_equal(c.err.text, "nobody reads");
    client_clear(&c);
}

/* ---- bounds ---- */

/* Another request of the same kind, while the first is under way. */
static int try_another(struct client *c, uint32_t share, enum err_kind expected)
{
    struct upstream_request r = get(c);
    struct err err = {0};
    char *moved;

    r.share = share;
    r.head_fn = NULL;
    upstream_perform(c->origins, &c->config, &r, &moved, &err);
    free(moved);
    return err.kind == expected ? 0 : -1;
}

static int another_transfer_is_too_much(struct client *c)
{
    return try_another(c, 0, ERR_BUSY);
}

static int another_question_is_too_much(struct client *c)
{
    return try_another(c, 1, ERR_BUSY);
}

static void connections_to_a_host_are_bounded(void **state)
{
    struct client c;

    (void)state;
    CLIENT_INIT(&c, SAYS(OK), SAYS(OK));
    c.config.max_connections = 1;
    c.config.connect_timeout_ms = 50;
    c.during = another_transfer_is_too_much;
    assert_int_equal(get_once(&c), 0);
    assert_null(c.during); /* it was called */
    assert_int_equal(get_once(&c), 0);
    client_clear(&c);
}

static void questions_have_a_share_and_are_refused_at_once_beyond_it(void **state)
{
    struct upstream_request r;
    struct client c;

    (void)state;
    CLIENT_INIT(&c, SAYS(OK));
    c.config.connect_timeout_ms = 60000; /* the test would hang */
    c.during = another_question_is_too_much;
    r = get(&c);
    r.share = 1;
    assert_int_equal(perform(&c, &r), 0);
    assert_null(c.during);
    client_clear(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_response_is_handed_on_with_its_head),
        cmocka_unit_test(headers_beyond_the_bounds_are_dropped),
        cmocka_unit_test(interim_responses_are_not_the_response),
        cmocka_unit_test(a_forward_proxys_word_is_not_upstreams),
        cmocka_unit_test(compressed_bytes_are_inflated_only_where_that_was_asked_for),
        cmocka_unit_test(a_response_that_is_cut_off_is_no_response),
        cmocka_unit_test(a_head_that_is_cut_off_is_no_response),
        cmocka_unit_test(what_is_no_http_is_no_response),
        cmocka_unit_test(a_host_that_is_not_there_is_told),
        cmocka_unit_test(errors_never_tell_the_credential),
        cmocka_unit_test(a_request_says_what_it_was_told_and_no_more),
        cmocka_unit_test(a_body_goes_along),
        cmocka_unit_test(a_body_is_streamed_with_and_without_a_length),
        cmocka_unit_test(a_body_that_breaks_off_ends_the_request),
        cmocka_unit_test(redirects_within_the_origin_are_followed_with_method_and_body),
        cmocka_unit_test(redirects_that_lead_away_are_refused),
        cmocka_unit_test(redirects_have_an_end),
        cmocka_unit_test(a_redirect_without_a_place_is_a_response),
        cmocka_unit_test(who_refuses_the_head_or_the_data_gets_its_own_error),
        cmocka_unit_test(silence_has_an_end),
        cmocka_unit_test(silence_in_the_middle_has_an_end_of_its_own),
        cmocka_unit_test(ticks_come_in_silence_and_all_can_be_cancelled),
        cmocka_unit_test(a_tick_may_end_it),
        cmocka_unit_test(what_was_gathered_does_not_wait_for_the_tick),
        cmocka_unit_test(who_stops_it_late_is_still_the_one_who_did),
        cmocka_unit_test(connections_to_a_host_are_bounded),
        cmocka_unit_test(questions_have_a_share_and_are_refused_at_once_beyond_it),
    };

    signal(SIGPIPE, SIG_IGN);
    unsetenv("http_proxy");
    unsetenv("https_proxy");
    unsetenv("HTTPS_PROXY");
    unsetenv("ALL_PROXY");
    unsetenv("all_proxy");
    unsetenv("no_proxy");
    unsetenv("NO_PROXY");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
