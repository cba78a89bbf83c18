#include "proxy/server.h"

#include <errno.h>
#include <limits.h>
#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

#include "protocol/base.h"
#include "proxy/acceptor.h"
#include "proxy/connection.h"
#include "proxy/log.h"
#include "proxy/phases.h"
#include "proxy/server_part.h"
#include "proxy/tls.h"

enum {
    /* libmicrohttpd maps a pool of this size per connection and touches what it needs: request
     * headers must fit in, and a chunk of a growing answer can't be bigger. */
    CONNECTION_MEMORY = 32 * 1024,
    LOOK_INTERVAL_MS = 250, /* at whether to go on waiting */
    STOP_WAIT_MS = 5000,
};

/* ---- start and stop ---- */

static void on_mhd_log(void *cls, const char *fmt, va_list ap)
{
    char text[256];

    (void)cls;
    vsnprintf(text, sizeof(text), fmt, ap);
    text[strcspn(text, "\n")] = '\0';
    log_line(LOG_DEBUG, "http", "message", LOG_STR, text, NULL);
}

static unsigned http_threads(const struct config *config)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    if (config->limits.http_threads > 0)
        return config->limits.http_threads;
    return cores < 1 ? 1 : cores > 8 ? 8 : (unsigned)cores;
}

/* Where connections are added from outside libmicrohttpd 0.9.75 checks the limit with a lock that
 * it doesn't give back when the limit is reached, so the limit is the acceptor's alone. */
static struct MHD_Daemon *start_daemon(struct front *f, const struct config *config)
{
    struct server *s = f->server;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ITC |
                     MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    unsigned stall_s = (unsigned)((config->limits.stall_timeout_ms + 999) / 1000);
    struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t)TLS_PRIORITIES},
        {MHD_OPTION_HTTPS_CERT_CALLBACK2, 0, (void *)(uintptr_t)tls_unused()},
        {MHD_OPTION_END, 0, NULL}};

    if (s->tls)
        flags |= MHD_USE_TLS;
    else
        tls[0].option = MHD_OPTION_END;
    return MHD_start_daemon(flags, 0, NULL, NULL, phases_on_request, s, MHD_OPTION_EXTERNAL_LOGGER,
                            on_mhd_log, NULL, MHD_OPTION_ARRAY, tls, MHD_OPTION_URI_LOG_CALLBACK,
                            phases_on_first_line, s, MHD_OPTION_NOTIFY_COMPLETED,
                            phases_on_completed, s, MHD_OPTION_NOTIFY_CONNECTION,
                            connection_on_notice, f, MHD_OPTION_CONNECTION_LIMIT, UINT_MAX,
                            MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
                            MHD_OPTION_CONNECTION_TIMEOUT, stall_s, MHD_OPTION_END);
}

static bool give_connection(void *ctx, unsigned taker, int fd, const struct sockaddr *from,
                            socklen_t len)
{
    struct server *s = ctx;

    return MHD_add_connection(s->fronts[taker].daemon, fd, from, len) == MHD_YES;
}

static bool start_fronts(struct server *s, unsigned count, const struct config *config)
{
    s->fronts = xcalloc(count, sizeof(*s->fronts));
    for (; s->front_count < count; s->front_count++) {
        struct front *f = &s->fronts[s->front_count];

        *f = (struct front){.server = s, .index = s->front_count};
        f->daemon = start_daemon(f, config);
        if (f->daemon == NULL)
            return false;
    }
    return true;
}

/* Nobody is accepted any more, or was ever. */
static void server_free(struct server *s)
{
    for (unsigned i = 0; i < s->front_count; i++)
        MHD_stop_daemon(s->fronts[i].daemon);
    acceptor_free(&s->acceptor);
    free(s->fronts);
    tls_identity_unref(&s->identity);
    config_unref(&s->config);
    pthread_cond_destroy(&s->idle);
    pthread_cond_destroy(&s->stop_now);
    lock_clear(&s->lock);
    free(s);
}

int server_start(struct proxy *proxy, struct config *config, const struct server_listener *listener,
                 struct server **out, struct err *err)
{
    struct acceptor_config accepting = {
        .takers = listener->threads > 0 ? listener->threads : http_threads(config),
        .limit = listener->connections > 0 ? listener->connections : config->limits.connections,
        .give = give_connection};
    int listen_fd = listener->socket;
    struct server *s;

    if (listener->tls != NULL && MHD_is_feature_supported(MHD_FEATURE_TLS) != MHD_YES)
        return err_set(err, ERR_INPUT, "tls: the libmicrohttpd here was built without TLS");
    if (listen_fd <= 0 && acceptor_listen(listener->host, listener->port, &listen_fd, err) != 0)
        return -1;
    s = xcalloc(1, sizeof(*s));
    s->proxy = proxy;
    s->plan = listener->plan;
    s->ended = listener->ended;
    s->tls = listener->tls != NULL;
    if (s->tls)
        s->identity = tls_identity_ref(listener->tls);
    s->config = (struct config *)config_ref(config);
    lock_init(&s->lock, LOCK_SERVER);
    lock_cond_init(&s->idle);
    lock_cond_init(&s->stop_now);
    if (!start_fronts(s, accepting.takers, config)) {
        err_errno(err, ERR_INPUT, "the HTTP front can't be started");
        server_free(s);
        if (listener->socket <= 0)
            close(listen_fd);
        return -1;
    }
    accepting.ctx = s;
    s->acceptor = acceptor_new(listen_fd, &accepting);
    must(pthread_create(&s->watchman, NULL, connection_watchman, s) == 0);
    acceptor_start(s->acceptor);
    *out = s;
    return 0;
}

void server_drain(struct server *s)
{
    lock_take(&s->lock);
    s->draining = true;
    lock_drop(&s->lock);
    acceptor_stop(s->acceptor);
}

bool server_wait_idle(struct server *s, uint64_t deadline_ms, const volatile int *stop_waiting)
{
    bool idle;

    lock_take(&s->lock);
    while (s->active > 0 && !*stop_waiting && now_ms() < deadline_ms)
        lock_wait_until(&s->lock, &s->idle, now_ms() + LOOK_INTERVAL_MS);
    idle = s->active == 0;
    lock_drop(&s->lock);
    return idle;
}

void server_stop(struct server **sp)
{
    struct server *s = *sp;

    *sp = NULL;
    acceptor_stop(s->acceptor);
    lock_take(&s->lock);
    s->stopping = true;
    pthread_cond_signal(&s->stop_now);
    lock_drop(&s->lock);
    pthread_join(s->watchman, NULL);
    /* A request that slipped in before `stopping` was seen: libmicrohttpd aborts when it is stopped
     * with a connection asleep. */
    lock_take(&s->lock);
    for (uint64_t until = now_ms() + STOP_WAIT_MS; s->active > 0 && now_ms() < until;)
        lock_wait_until(&s->lock, &s->idle, until);
    lock_drop(&s->lock);
    server_free(s);
}

/* ---- while it serves ---- */

void server_configure(struct server *s, struct config *config)
{
    struct config *old;

    lock_take(&s->lock);
    old = s->config;
    s->config = (struct config *)config_ref(config);
    lock_drop(&s->lock);
    config_unref(&old);
}

bool server_has_tls(const struct server *s)
{
    return s->tls;
}

void server_set_identity(struct server *s, struct tls_identity *id)
{
    struct tls_identity *old;

    must(s->tls);
    lock_take(&s->lock);
    old = s->identity;
    s->identity = tls_identity_ref(id);
    lock_drop(&s->lock);
    tls_identity_unref(&old);
}

const char *server_address(const struct server *s)
{
    return acceptor_address(s->acceptor);
}

size_t server_connections(struct server *s)
{
    return connection_count(s);
}

size_t server_active(struct server *s)
{
    size_t n;

    lock_take(&s->lock);
    n = s->active;
    lock_drop(&s->lock);
    return n;
}

/* ---- for who looks on ---- */

/* Only these have a version of git's protocol. */
static bool speaks_git(const struct exchange *x)
{
    if (x->upstream == NULL)
        return false;
    switch (x->path.service) {
    case SERVICE_UPLOAD_PACK_REFS:
    case SERVICE_UPLOAD_PACK:
    case SERVICE_RECEIVE_PACK_REFS:
    case SERVICE_RECEIVE_PACK: return true;
    case SERVICE_LFS:
    case SERVICE_DUMB: break;
    }
    return false;
}

void server_log_request(const struct exchange *x, const struct exchange_end *end)
{
    char repository[512] = "", stale[32] = "";

    if (x->upstream != NULL)
        snprintf(repository, sizeof(repository), "%s/%s", x->path.upstream, x->path.repo);
    if (x->stale_age_ms > 0)
        snprintf(stale, sizeof(stale), "%.1f s", (double)x->stale_age_ms / 1000);
    log_line(LOG_INFO, "request", "id", LOG_STR, x->id, "client", LOG_STR, x->client, "subject",
             LOG_STR, x->tls_subject, "as", LOG_STR, x->who != NULL ? x->who->name : NULL, "method",
             LOG_STR, x->method != NULL ? x->method : "?", "repository", LOG_STR,
             repository[0] != '\0' ? repository : NULL, "service", LOG_STR,
             x->upstream != NULL ? service_name(x->path.service) : NULL, "protocol",
             speaks_git(x) ? LOG_U64 : LOG_NO_U64, (uint64_t)x->protocol, "result", LOG_STR,
             x->result != NULL ? x->result : "aborted", "stale", LOG_STR,
             stale[0] != '\0' ? stale : NULL, "status", LOG_U64, (uint64_t)end->status, "bytes",
             LOG_U64, end->bytes, "first_byte_ms", LOG_MS, end->first_byte_us, "total_ms", LOG_MS,
             end->total_us, "ended", LOG_STR, end->whole ? "whole" : "cut", NULL);
}

static const char *state_name(enum phase phase)
{
    static const char *const names[] = {[RECEIVING] = "receiving",
                                        [WORKING] = "working",
                                        [FOLLOWING] = "waiting",
                                        [REPLYING] = "sending"};

    return names[phase];
}

/* False: there is nothing to be seen of p yet, or any more. */
static bool hold_if_known(struct server_part *p)
{
    bool held;

    lock_take(&p->lock);
    held = p->known && p->refs > 0 && p->connection != NULL;
    p->refs += held;
    lock_drop(&p->lock);
    return held;
}

static void look_at(struct server_part *p, struct server_request *out)
{
    const struct exchange *x = &p->x;

    *out = (struct server_request){
        .method = xstrdup(x->method),
        .as = x->who != NULL ? xstrdup(x->who->name) : NULL,
        .bytes = atomic_load(&p->body_sent),
        .age_ms = (now_us() - p->started_us) / 1000,
    };
    memcpy(out->id, x->id, sizeof(out->id));
    memcpy(out->client, x->client, sizeof(out->client));
    if (x->upstream != NULL) {
        out->repo = xasprintf("%s/%s", x->path.upstream, x->path.repo);
        out->service = service_name(x->path.service);
        repo_id_of(x->path.upstream, x->path.repo, &out->repo_id);
    }
    lock_take(&p->lock);
    out->state = state_name(p->phase);
    if (p->phase == REPLYING)
        out->result = x->result;
    lock_drop(&p->lock);
}

size_t server_requests(struct server *s, struct server_request *out, size_t max)
{
    struct server_part **parts = xcalloc(max, sizeof(struct server_part *)), *p;
    size_t count = 0;

    lock_take(&s->lock);
    DL_FOREACH(s->exchanges, p)
    {
        if (count == max)
            break;
        if (hold_if_known(p))
            parts[count++] = p;
    }
    lock_drop(&s->lock);
    for (size_t i = 0; i < count; i++) {
        look_at(parts[i], &out[i]);
        part_unref(parts[i]);
    }
    free(parts);
    return count;
}

void server_request_clear(struct server_request *r)
{
    free(r->as);
    free(r->method);
    free(r->repo);
}
