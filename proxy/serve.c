#include "proxy/serve.h"

#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "proxy/commands.h"
#include "proxy/control.h"
#include "proxy/decisions.h"
#include "proxy/fetch.h"
#include "proxy/fill.h"
#include "proxy/flights.h"
#include "proxy/log.h"
#include "proxy/proxy.h"
#include "proxy/refs.h"
#include "proxy/relay.h"
#include "proxy/server.h"

enum {
    BACKGROUND_THREADS = 2, /* each builds a mirror, which takes a processor */
    BACKGROUND_QUEUE = 256,
    /* Descriptors per client: its socket, a file, and a share of pipes and upstream sockets. */
    DESCRIPTORS_PER_CLIENT = 3,
    DESCRIPTORS_SPARE = 1024,
};

/* ---- which request goes where ---- */

static struct proxy the_proxy;

static struct plan replied(void)
{
    return (struct plan){.kind = PLAN_REPLIED};
}

static struct plan health(struct exchange *x)
{
    struct answers_counts counts;
    struct janitor_counts upkeep;
    struct local_usage usage;
    struct err trouble;
    bool troubled = folder_troubled(x->proxy->cache.folder, &trouble);
    char text[ERR_TEXT_MAX + 512];
    int n;

    answers_count(x->proxy->cache.answers, &counts);
    local_usage(x->proxy->cache.local, &usage);
    janitor_count(x->proxy->janitor, &upkeep);
    n = snprintf(text, sizeof(text),
                 "{\"status\":\"%s\",\"version\":\"%s\",\"storage\":\"%s\","
                 "\"answers\":{\"filling\":%llu,\"kept\":%llu,\"damaged\":%llu},"
                 "\"mirrors\":{\"damaged\":%llu},"
                 "\"space\":{\"total\":%llu,\"limit\":%llu,\"filling\":%llu,"
                 "\"answers\":%llu,\"mirrors\":%llu,\"evicted\":%llu},"
                 "\"janitor\":{\"maintained\":%llu,\"verified\":%llu,\"failed\":%llu}}\n",
                 troubled ? "degraded" : "ok", PANNIER_VERSION, troubled ? "failing" : "ok",
                 (unsigned long long)counts.filling, (unsigned long long)counts.kept,
                 (unsigned long long)counts.damaged,
                 (unsigned long long)mirrors_damaged(x->proxy->cache.mirrors),
                 (unsigned long long)usage.total, (unsigned long long)usage.limit,
                 (unsigned long long)usage.filling, (unsigned long long)usage.entries[ENTRY_ANSWER],
                 (unsigned long long)usage.entries[ENTRY_MIRROR], (unsigned long long)usage.evicted,
                 (unsigned long long)upkeep.maintained, (unsigned long long)upkeep.verified,
                 (unsigned long long)upkeep.failed);
    reply_header(x, "Cache-Control", "no-store");
    reply_bytes(x, 200, "application/json", text, (size_t)n, "health");
    return replied();
}

static bool is_get(const struct exchange *x)
{
    return strcmp(x->method, "GET") == 0 || strcmp(x->method, "HEAD") == 0;
}

struct route {
    enum service service;
    bool get; /* or else POST; LFS has methods of its own */
    struct plan plan;
};

/* Which service is answered how. */
static struct plan route(struct exchange *x)
{
    const struct proxy *p = x->proxy;
    const struct plan refs = {PLAN_KEEP_BODY, refs_serve_advertisement, p->queries, NULL};
    const struct plan fetch = {PLAN_KEEP_BODY, fetch_serve, p->queries, fetch_serve_quickly};
    const struct plan relay = {PLAN_STREAM_BODY, relay_serve, p->queries, NULL};
    const struct route routes[] = {
        {SERVICE_UPLOAD_PACK_REFS, true, refs},
        {SERVICE_UPLOAD_PACK, false, fetch},
        {SERVICE_RECEIVE_PACK_REFS, true, relay},
        {SERVICE_RECEIVE_PACK, false, relay},
        {SERVICE_DUMB, true, relay},
    };

    if (x->path.service == SERVICE_LFS)
        return relay;
    for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
        if (routes[i].service != x->path.service)
            continue;
        if (routes[i].get == is_get(x) && (is_get(x) || strcmp(x->method, "POST") == 0))
            return routes[i].plan;
        reply_header(x, "Allow", routes[i].get ? "GET, HEAD" : "POST");
        reply_text(x, 405, "refused", "pannier: this needs another method");
        return replied();
    }
    must(!"a service without a route");
    return replied();
}

static struct plan plan(struct exchange *x)
{
    struct err why;

    if (strcmp(x->target, "/healthz") == 0 && is_get(x))
        return health(x);
    if (strcmp(x->target, "/") == 0) {
        reply_text(x, 404, "refused",
                   "pannier: a caching proxy for git; repositories are at "
                   "/<upstream>/<path of the repository>");
        return replied();
    }
    if (smart_path_parse(x->target, &x->path, &why) != 0) {
        reply_error(x, &why);
        return replied();
    }
    x->upstream = config_find_upstream(x->config, x->path.upstream, &x->base_url);
    if (x->upstream == NULL) {
        smart_path_clear(&x->path);
        reply_text(x, 403, "refused", "pannier: this host is not among the configured upstreams");
        return replied();
    }
    return route(x);
}

/* ---- start ---- */

static void on_trouble(void *ctx, const struct err *trouble)
{
    (void)ctx;
    if (trouble != NULL)
        log_line(LOG_WARN, "the disk fails; clones pass through and nothing is kept", "reason",
                 LOG_STR, trouble->text, NULL);
    else
        log_line(LOG_INFO, "the disk works again", NULL);
}

static void on_damage(void *ctx, const char *what, const struct err *why)
{
    (void)ctx;
    log_line(LOG_WARN, "damage found; dropped, to be made again", "what", LOG_STR, what, "reason",
             LOG_STR, why->text, NULL);
}

static void on_scanned(void *ctx, const struct local_usage *found, uint64_t took_us)
{
    (void)ctx;
    log_line(LOG_INFO, "index compared with the files", "answers", LOG_U64,
             found->entries[ENTRY_ANSWER], "mirrors", LOG_U64, found->entries[ENTRY_MIRROR],
             "bytes", LOG_U64, found->total, "total_ms", LOG_MS, took_us, NULL);
}

static void on_maintained(void *ctx, const char *repo, const struct mirror_upkeep *what,
                          uint64_t took_us)
{
    (void)ctx;
    log_line(LOG_INFO, "mirror maintained", "repository", LOG_STR, repo, "packs_before", LOG_U64,
             (uint64_t)what->packs_before, "packs", LOG_U64, (uint64_t)what->packs_after,
             "tips_before", LOG_U64, (uint64_t)what->tips_before, "tips", LOG_U64,
             (uint64_t)what->tips_after, "bytes", LOG_U64, what->bytes_after, "total_ms", LOG_MS,
             took_us, NULL);
}

static void on_upkeep_failed(void *ctx, const char *repo, const struct err *why)
{
    (void)ctx;
    /* No room for a second copy is nobody's fault; nor is a mirror that went meanwhile. */
    log_line(why->kind == ERR_LIMIT || why->kind == ERR_NOT_FOUND ? LOG_DEBUG : LOG_WARN,
             "mirror not maintained", "repository", LOG_STR, repo, "reason", LOG_STR, why->text,
             NULL);
}

static size_t git_processes(const struct config *c)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    if (c->limits.git_processes > 0)
        return c->limits.git_processes;
    return cores < 1 ? 2 : 2 * (size_t)cores;
}

static void raise_descriptor_limit(const struct config *c)
{
    rlim_t wanted = (rlim_t)c->limits.connections * DESCRIPTORS_PER_CLIENT + DESCRIPTORS_SPARE;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
    if (limit.rlim_max < wanted) {
        struct rlimit more = {wanted, wanted};

        if (setrlimit(RLIMIT_NOFILE, &more) == 0)
            return;
        log_line(LOG_WARN, "fewer descriptors than limits.connections needs", "limit", LOG_U64,
                 (uint64_t)limit.rlim_max, "needed", LOG_U64, (uint64_t)wanted, NULL);
    }
    setrlimit(RLIMIT_NOFILE, &limit);
}

static int64_t in_seconds(uint64_t ms)
{
    return (int64_t)((ms + 999) / 1000);
}

static void limits_of(const struct config *c, struct local_limits *out)
{
    *out = (struct local_limits){
        .size = c->cache.local_size,
        .min_free = c->cache.min_free,
        .policy = c->cache.policy,
        .max_age_s = in_seconds(c->cache.max_age_ms),
        .ttl_s = {[ENTRY_ANSWER] = in_seconds(c->cache.answer_ttl_ms),
                  [ENTRY_MIRROR] = in_seconds(c->cache.mirror_ttl_ms)},
    };
}

void serve_cache_options(const struct config *c, struct cache_options *out)
{
    *out = (struct cache_options){
        .compression = c->cache.compression,
        .git_processes = git_processes(c),
        .unreachable_ttl_s = in_seconds(c->cache.unreachable_ttl_ms),
        .maintenance_interval_ms = c->cache.maintenance_interval_ms,
        .maintenance_memory = c->cache.maintenance_memory_bytes,
        .maintenance_threads = c->cache.maintenance_threads,
        .verify_interval_s = in_seconds(c->cache.verify_interval_ms),
    };
    limits_of(c, &out->limits);
}

/* Commands are for people, clones don't need them: some file systems know no sockets. */
static void start_control(struct proxy *p, const struct config *c)
{
    struct err why;

    if (control_start(c->data, commands_serve, &p->cache, &p->control, &why) != 0)
        log_line(LOG_WARN, "commands such as 'pannier ls' can't reach this process", "reason",
                 LOG_STR, why.text, NULL);
}

static int build(struct proxy *p, const struct config *c, struct err *err)
{
    const struct folder_listener listener = {.trouble = on_trouble, .damage = on_damage};
    const struct janitor_listener upkeep = {
        .scanned = on_scanned, .maintained = on_maintained, .failed = on_upkeep_failed};
    struct cache_options options;

    serve_cache_options(c, &options);
    if (cache_open(c->data, &listener, &options, &p->cache, err) != 0)
        return -1;
    p->origins = origins_new();
    p->decisions = decisions_new();
    p->flights = flights_new();
    p->refs = refs_new();
    p->repositories = repositories_new();
    p->queries = workers_new("query", c->limits.queries, c->limits.queue);
    p->fills = workers_new("fill", c->limits.fills, c->limits.queue);
    p->relays = workers_new("relay", c->limits.fills, c->limits.queue);
    p->background = workers_new("mirror", BACKGROUND_THREADS, BACKGROUND_QUEUE);
    p->janitor = janitor_start(&p->cache, &options, &upkeep);
    start_control(p, c);
    return 0;
}

/* Nobody may be asking any more. */
static void tear_down(struct proxy *p)
{
    if (p->origins != NULL)
        origins_cancel(p->origins);
    cache_stop(&p->cache);
    janitor_stop(&p->janitor);
    control_free(&p->control);
    workers_free(&p->queries);
    workers_free(&p->fills);
    workers_free(&p->relays);
    workers_free(&p->background);
    repositories_free(&p->repositories);
    refs_free(&p->refs);
    flights_free(&p->flights);
    decisions_free(&p->decisions);
    origins_free(&p->origins);
    cache_close(&p->cache);
}

/* ---- signals ---- */

static volatile sig_atomic_t stop_signals;
static volatile sig_atomic_t reload_wanted;
static volatile int hurry; /* a second signal to stop */

static void on_stop(int signal)
{
    (void)signal;
    if (++stop_signals > 1)
        hurry = 1;
}

static void on_reload(int signal)
{
    (void)signal;
    reload_wanted = 1;
}

static void catch_signals(sigset_t *while_waiting)
{
    struct sigaction stop = {.sa_handler = on_stop}, reload = {.sa_handler = on_reload},
                     ignore = {.sa_handler = SIG_IGN};
    sigset_t blocked;

    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGHUP, &reload, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
    sigaction(SIGXFSZ, &ignore,
              NULL); /* a file over `ulimit -f` is trouble with the disk, no more */
    /* Blocked everywhere, so that all threads inherit that and only sigsuspend() lets them in. */
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    sigaddset(&blocked, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &blocked, while_waiting);
}

static void reload(struct server *s, struct config **config, const struct serve_origin *origin)
{
    struct local_limits limits;
    struct config *loaded;
    struct err why;
    char *restart;

    if (config_load(origin->file, origin->overrides, &loaded, &why) != 0) {
        log_line(LOG_ERROR, "configuration refused, the old one goes on", "reason", LOG_STR,
                 why.text, NULL);
        return;
    }
    restart = config_restart_needed(*config, loaded);
    if (restart != NULL)
        log_line(LOG_WARN, "these settings need a restart", "settings", LOG_STR, restart, NULL);
    free(restart);
    server_configure(s, loaded);
    limits_of(loaded, &limits);
    local_configure(the_proxy.cache.local, &limits);
    log_set(loaded->log.format, loaded->log.level);
    config_unref(config);
    *config = loaded;
    log_line(LOG_INFO, "configuration reloaded", NULL);
}

/* Waits for SIGTERM or SIGINT. */
static void attend(struct server *s, struct config **config, const struct serve_origin *origin,
                   const sigset_t *open)
{
    while (stop_signals == 0) {
        sigsuspend(open);
        if (reload_wanted) {
            reload_wanted = 0;
            reload(s, config, origin);
        }
    }
}

/* True when all requests ended by themselves. */
static bool drain(struct server *s, const struct config *config, const sigset_t *open)
{
    log_line(LOG_INFO, "stopping", "active", LOG_U64, (uint64_t)server_active(s), NULL);
    server_drain(s);
    /* From here on the handler itself must run in this thread. */
    pthread_sigmask(SIG_SETMASK, open, NULL);
    return server_wait_idle(s, now_ms() + config->shutdown_grace_ms, &hurry);
}

static void leave_at_once(struct proxy *p)
{
    /* What is being filled lies in incoming/ and is swept at the next start; what is whole is
     * published.  So there is nothing to wait for, and much that could hang. */
    log_line(LOG_WARN, "stopped with requests under way", NULL);
    processes_kill_all(p->cache.processes);
    log_stop();
    _exit(0);
}

int serve_run(struct config *config, const struct serve_origin *origin)
{
    struct config *current = (struct config *)config_ref(config);
    struct server *server = NULL;
    sigset_t open;
    struct err why;

    /* Threads by the dozen would each keep an arena of free memory. */
    mallopt(M_ARENA_MAX, 2);
    catch_signals(&open);
    raise_descriptor_limit(current);
    /* Before the first request can want to say something. */
    log_start(current->log.format, current->log.level);
    if (build(&the_proxy, current, &why) != 0 ||
        server_start(&the_proxy, current, plan, &server, &why) != 0) {
        fprintf(stderr, "pannier: %s\n", why.text);
        tear_down(&the_proxy);
        log_stop();
        config_unref(&current);
        return 1;
    }
    log_line(LOG_INFO, "listening", "address", LOG_STR, server_address(server), "data", LOG_STR,
             folder_path(the_proxy.cache.folder), "version", LOG_STR, PANNIER_VERSION, NULL);
    attend(server, &current, origin, &open);
    control_drain(the_proxy.control);
    if (!drain(server, current, &open))
        leave_at_once(&the_proxy);
    server_stop(&server);
    tear_down(&the_proxy);
    log_line(LOG_INFO, "stopped", NULL);
    log_stop();
    config_unref(&current);
    return 0;
}
