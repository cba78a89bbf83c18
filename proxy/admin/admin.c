#include "proxy/admin/admin.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "proxy/admin/call.h"
#include "proxy/admin/feed.h"
#include "proxy/admin/handlers.h"
#include "proxy/admin/history.h"
#include "proxy/admin/routes_table.h"
#include "proxy/health.h"
#include "proxy/log.h"
#include "proxy/metrics.h"
#include "proxy/server.h"

enum {
    HTTP_THREADS = 1, /* nobody clones here */
    CONNECTIONS = 256,
    WORKERS = 8, /* of which refreshes may have REFRESHES_MAX */
    QUEUE = 64,
    REFRESHES_MAX = 2,
};

struct admin {
    struct proxy *proxy;
    _Atomic(struct server *) server; /* NULL: not yet, though requests may come */
    struct workers *workers;
    struct history *history;
    struct tokens *tokens; /* NULL: whoever reaches it may do all */
    char *host;            /* that is listened on, as it was configured */
    char *hosts;           /* further ones, or NULL */
    atomic_int refreshes;
};

struct route {
    const char *method, *path;
    unsigned scope;
    exchange_fn *handler;
};

static const struct route routes[] = {
#define X(method_, path_, scope_, handler_) {#method_, path_, SCOPE_##scope_, handler_},
    ADMIN_ROUTES(X)
#undef X
};

/* ---- who asks, and from where ---- */

static bool name_is(const char *name, const char *s, size_t len)
{
    return strlen(name) == len && strncasecmp(name, s, len) == 0;
}

static bool is_listed(const char *list, const char *host, size_t len)
{
    while (list != NULL && *list != '\0') {
        size_t skip = strspn(list, ", "), n = strcspn(list + skip, ", ");

        if (n == len && n > 0 && strncasecmp(list + skip, host, n) == 0)
            return true;
        list += skip + n;
    }
    return false;
}

/* A page that somebody else's name server has led here must not be taken for ours: its Host says
 * where the browser believes to be. */
static bool host_is_ours(const struct admin *a, const char *header)
{
    const char *host = header;
    size_t len;

    if (header == NULL)
        return false;
    if (*host == '[') {
        host++;
        len = strcspn(host, "]");
    } else {
        len = strcspn(host, ":");
    }
    return host_is_loopback(host, len) || name_is(a->host, host, len) ||
           is_listed(a->hosts, host, len);
}

/* Browsers say of a request that changes something where it comes from; others say nothing. */
static bool origin_is_ours(const struct exchange *x)
{
    const char *origin = exchange_header(x, "Origin");
    const char *site = exchange_header(x, "Sec-Fetch-Site");
    const char *host = exchange_header(x, "Host");
    const char *slashes;

    if (site != NULL && strcasecmp(site, "same-origin") != 0 && strcasecmp(site, "none") != 0)
        return false;
    if (origin == NULL)
        return true;
    slashes = strstr(origin, "://");
    return slashes != NULL && host != NULL && strcasecmp(slashes + 3, host) == 0;
}

static bool is_safe(const struct exchange *x)
{
    return strcmp(x->method, "GET") == 0 || strcmp(x->method, "HEAD") == 0;
}

/* False: refused, which was answered. */
static bool may(struct admin *a, struct exchange *x, const struct route *route, struct call *c)
{
    unsigned scopes = SCOPE_READ | SCOPE_OPERATE;
    bool shown = false;

    if (!is_safe(x) && !origin_is_ours(x)) {
        reply_problem(x, 403, NULL, "this comes from a page of another origin");
        return false;
    }
    if (a->tokens != NULL) {
        scopes = tokens_look(a->tokens, x->authorization, c->who);
        shown = scopes != SCOPE_NONE;
    }
    if (!shown && !host_is_ours(a, exchange_header(x, "Host"))) {
        reply_problem(x, 421, NULL, "this host's name is not among admin.hosts");
        return false;
    }
    c->scopes = scopes;
    if ((route->scope & ~scopes) == 0)
        return true;
    if (shown) {
        reply_problem(x, 403, NULL, "this token lacks the scope '%s'",
                      route->scope == SCOPE_READ ? "read" : "operate");
    } else {
        reply_header(x, "WWW-Authenticate", "Bearer realm=\"pannier\"");
        reply_problem(x, 401, NULL, "show a token: 'Authorization: Bearer ...'");
    }
    return false;
}

static void on_tokens_wrong(const struct err *why)
{
    if (why != NULL)
        log_line(LOG_ERROR, "tokens refused, the old ones go on", "reason", LOG_STR, why->text,
                 NULL);
    else
        log_line(LOG_INFO, "tokens read again", NULL);
}

/* ---- routes ---- */

static struct plan replied(void)
{
    return (struct plan){.kind = PLAN_REPLIED};
}

/* path, len bytes, fits pattern; *id is then what stands in {id}'s place, or NULL.  Yours to free.
 */
static bool path_fits(const char *pattern, const char *path, size_t len, char **id)
{
    const char *hole = strstr(pattern, "{id}");
    size_t before, after, n;

    *id = NULL;
    if (hole == NULL)
        return strlen(pattern) == len && memcmp(pattern, path, len) == 0;
    before = (size_t)(hole - pattern);
    after = strlen(hole + 4);
    if (len <= before + after || memcmp(path, pattern, before) != 0 ||
        memcmp(path + len - after, hole + 4, after) != 0)
        return false;
    n = len - before - after;
    if (memchr(path + before, '/', n) != NULL)
        return false;
    *id = xstrndup(path + before, n);
    return true;
}

/* NULL: answered. */
static const struct route *find_route(struct exchange *x, const char *path, size_t len, char **id)
{
    const char *method = strcmp(x->method, "HEAD") == 0 ? "GET" : x->method;
    char allowed[64] = "";

    for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
        if (!path_fits(routes[i].path, path, len, id))
            continue;
        if (strcmp(routes[i].method, method) == 0)
            return &routes[i];
        free(*id);
        *id = NULL;
        if (allowed[0] != '\0')
            strcat(allowed, ", ");
        strcat(allowed, routes[i].method); /* four short words at most */
    }
    if (allowed[0] == '\0') {
        reply_problem(x, 404, NULL, "there is nothing here; see /api/v1/openapi.json");
    } else {
        reply_header(x, "Allow", allowed);
        reply_problem(x, 405, NULL, "this needs another method");
    }
    return NULL;
}

static struct plan admin_plan(struct exchange *x)
{
    struct admin *a = x->proxy->admin;
    size_t len = strcspn(x->target, "?");
    const struct route *route;
    struct call *call;
    char *id = NULL;

    if (health_serve(x))
        return replied();
    route = find_route(x, x->target, len, &id);
    if (route == NULL)
        return replied();
    call = xcalloc(1, sizeof(*call));
    call->id = id;
    call->method = route->method;
    x->state = call;
    x->free_state = call_free;
    if (!may(a, x, route, call) ||
        !call_parse_query(x, call, x->target + len + (x->target[len] == '?')))
        return replied();
    if (x->content_length > CALL_BODY_MAX) {
        reply_problem(x, 413, NULL, "a body has at most %d bytes here", CALL_BODY_MAX);
        return replied();
    }
    return (struct plan){PLAN_KEEP_BODY, route->handler, a->workers, NULL};
}

static void on_end(const struct exchange *x, const struct exchange_end *end)
{
    const struct call *call = x->state;
    bool changes = call != NULL && strcmp(call->method, "GET") != 0;

    metrics_admin_request(end->status);
    /* Who changed what is worth a line; who looks in every few seconds isn't. */
    log_line(changes || end->status == 401 || end->status == 403 ? LOG_INFO : LOG_DEBUG,
             "admin request", "id", LOG_STR, x->id, "client", LOG_STR, x->client, "who", LOG_STR,
             call != NULL && call->who[0] != '\0' ? call->who : NULL, "method", LOG_STR,
             x->method != NULL ? x->method : "?", "target", LOG_STR, x->target, "status", LOG_U64,
             (uint64_t)end->status, "bytes", LOG_U64, end->bytes, "total_ms", LOG_MS, end->total_us,
             NULL);
}

/* ---- for handlers ---- */

bool admin_may_refresh(struct exchange *x)
{
    atomic_int *n = &x->proxy->admin->refreshes;

    if (atomic_fetch_add(n, 1) < REFRESHES_MAX)
        return true;
    atomic_fetch_sub(n, 1);
    return false;
}

void admin_refreshed(struct exchange *x)
{
    atomic_fetch_sub(&x->proxy->admin->refreshes, 1);
}

struct history *admin_history_of(struct admin *a)
{
    return a->history;
}

/* ---- life ---- */

/* Is what somebody else opened for us for this machine alone? */
static bool is_local(int socket)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } at = {.any = {.sa_family = AF_UNSPEC}};
    socklen_t len = sizeof(at);

    if (getsockname(socket, &at.any, &len) != 0)
        return false;
    switch (at.any.sa_family) {
    case AF_UNIX: return true;
    case AF_INET: return ntohl(at.v4.sin_addr.s_addr) >> 24 == 127;
    case AF_INET6: return IN6_IS_ADDR_LOOPBACK(&at.v6.sin6_addr);
    default: return false;
    }
}

static int listen_at(struct admin *a, struct config *c, int socket, struct err *err)
{
    struct server_listener listener = {
        .host = c->admin.listen.host,
        .port = c->admin.listen.port,
        .socket = socket,
        .threads = HTTP_THREADS,
        .connections = CONNECTIONS,
        .plan = admin_plan,
        .ended = on_end,
    };
    struct server *server;

    if (socket > 0 && a->tokens == NULL && !is_local(socket))
        return err_set(err, ERR_INPUT,
                       "the socket that was passed is beyond loopback and there is no "
                       "admin.tokens_file");
    a->host = xstrdup(c->admin.listen.host);
    if (server_start(a->proxy, c, &listener, &server, err) != 0)
        return -1;
    atomic_store(&a->server, server);
    return 0;
}

int admin_start(struct proxy *p, struct config *c, int socket, struct admin **out, struct err *err)
{
    struct admin *a;

    *out = NULL;
    if (c->admin.listen.host == NULL)
        return 0;
    a = xcalloc(1, sizeof(*a));
    a->proxy = p;
    a->hosts = c->admin.hosts != NULL ? xstrdup(c->admin.hosts) : NULL;
    *out = a; /* before the first request comes, which looks for it there */
    if (c->admin.tokens_file != NULL &&
        tokens_open(c->admin.tokens_file, on_tokens_wrong, &a->tokens, err) != 0) {
        admin_stop(out);
        return -1;
    }
    a->workers = workers_new("admin", WORKERS, QUEUE);
    a->history = history_start();
    feed_start();
    if (listen_at(a, c, socket, err) == 0)
        return 0;
    admin_stop(out);
    if (socket > 0 || !config_admin_is_default(c))
        return err_prefix(err, "admin.listen");
    log_line(LOG_WARN,
             "operators are not served: the default address can't be had; set "
             "admin.listen",
             "reason", LOG_STR, err->text, NULL);
    return 0;
}

void admin_configure(struct admin *a, struct config *c)
{
    if (a != NULL)
        server_configure(a->server, c);
}

bool admin_drain(struct admin *a, uint64_t deadline_ms, const volatile int *stop_waiting)
{
    if (a == NULL)
        return true;
    feed_stop();
    server_drain(a->server);
    return server_wait_idle(a->server, deadline_ms, stop_waiting);
}

void admin_stop(struct admin **ap)
{
    struct admin *a = *ap;
    struct server *server;

    if (a == NULL)
        return;
    server = atomic_exchange(&a->server, NULL);
    if (server != NULL)
        server_stop(&server);
    *ap = NULL;
    if (a->workers != NULL) {
        workers_free(&a->workers);
        feed_free();
    }
    history_stop(&a->history);
    tokens_free(&a->tokens);
    free(a->host);
    free(a->hosts);
    free(a);
}

const char *admin_address(struct admin *a)
{
    struct server *server = a != NULL ? atomic_load(&a->server) : NULL;

    return server != NULL ? server_address(server) : NULL;
}
