#include "proxy/serve.h"

#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "cache/lock.h"
#include "cache/shared/shared.h"
#include "protocol/base.h"
#include "proxy/admin/admin.h"
#include "proxy/cache_log.h"
#include "proxy/chores.h"
#include "proxy/commands.h"
#include "proxy/control.h"
#include "proxy/credentials/credentials.h"
#include "proxy/decisions.h"
#include "proxy/fleet.h"
#include "proxy/flights.h"
#include "proxy/listeners.h"
#include "proxy/log.h"
#include "proxy/manners/stale.h"
#include "proxy/mirroring.h"
#include "proxy/peer.h"
#include "proxy/proxy.h"
#include "proxy/refs.h"
#include "proxy/server.h"
#include "proxy/systemd.h"
#include "proxy/tls.h"
#include "proxy/seen.h"
#include "proxy/traffic.h"
#include "proxy/warm/schedule.h"
#include "proxy/warm/warmups.h"

enum {
    BACKGROUND_THREADS = 2, /* each builds a mirror, which takes a processor */
    BACKGROUND_QUEUE = 256,
    /* Descriptors per client: its socket, a file, and a share of pipes and upstream sockets. */
    DESCRIPTORS_PER_CLIENT = 3,
    DESCRIPTORS_SPARE = 1024,
    OPERATORS_GRACE_MS = 5000, /* after the last client */
};

static struct proxy the_proxy;

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

static void shared_limits_of(const struct config *c, struct keeper_limits *out)
{
    *out = (struct keeper_limits){
        .max_size = c->shared.max_size_bytes,
        .ttl_s = in_seconds(c->shared.ttl_ms),
        .policy = c->shared.policy,
        .max_age_s = in_seconds(c->cache.max_age_ms),
        .hot_s = in_seconds(c->shared.hot_ms),
        .interval_s = in_seconds(c->shared.tidy_interval_ms),
    };
}

static int open_shared(struct proxy *p, const struct config *c, struct err *err)
{
    struct shared_listener listener = cache_log_shared;
    struct shared_options options = {
        .node = c->node,
        .compression = c->cache.compression,
        .uploads = c->shared.uploads,
        .upload_queue = c->shared.upload_queue,
        .events = cluster_events(fleet_cluster(p->fleet)),
        .leases = fleet_is_alone(p->fleet) ? NULL : cluster_leases(fleet_cluster(p->fleet)),
    };

    if (c->shared.driver == SHARED_OFF)
        return 0;
    config_object_store(c, &options.store);
    shared_limits_of(c, &options.limits);
    listener.put = fleet_on_put;
    listener.removed = fleet_on_removed;
    listener.ctx = p->fleet;
    return shared_open(&p->cache, &options, &listener, &p->cache.shared, err);
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
    struct cache_options options;

    serve_cache_options(c, &options);
    if (cache_open(c->data, &cache_log_folder, &options, &p->cache, err) != 0 ||
        peers_new(c, &p->peers, err) != 0 || fleet_new(p, c, &p->fleet, err) != 0 ||
        open_shared(p, c, err) != 0)
        return -1;
    p->origins = origins_new();
    p->credentials = credentials_new(p->cache.processes, p->origins);
    p->decisions = decisions_new();
    p->stale = stale_new();
    p->flights = flights_new();
    p->refs = refs_new();
    p->repositories = repositories_new();
    p->seen = seen_new();
    p->traffic = traffic_new();
    p->queries = workers_new("query", c->limits.queries, c->limits.queue);
    p->fills = workers_new("fill", c->limits.fills, c->limits.queue);
    p->relays = workers_new("relay", c->limits.fills, c->limits.queue);
    p->background = workers_new("mirror", BACKGROUND_THREADS, BACKGROUND_QUEUE);
    p->janitor = janitor_start(&p->cache, &options, &cache_log_janitor);
    start_control(p, c);
    p->warmups = warmups_new(p);
    fleet_start(p->fleet);
    p->chores = chores_start(p, c);
    p->schedule = schedule_start(p, c);
    return 0;
}

/* Nobody may be asking any more. */
static void tear_down(struct proxy *p)
{
    if (p->origins != NULL)
        origins_cancel(p->origins);
    schedule_stop(&p->schedule);
    if (p->fleet != NULL)
        fleet_stop(p->fleet);
    cache_stop(&p->cache);
    if (p->cache.shared != NULL)
        shared_stop(p->cache.shared);
    janitor_stop(&p->janitor);
    control_free(&p->control);
    chores_stop(&p->chores);
    workers_free(&p->queries);
    workers_free(&p->fills);
    workers_free(&p->relays);
    workers_free(&p->background);
    /* Events may ask the shared tier, whose uploads hold leases. */
    if (p->cache.shared != NULL)
        shared_join(p->cache.shared);
    fleet_free(&p->fleet);
    warmups_free(&p->warmups);
    repositories_free(&p->repositories);
    refs_free(&p->refs);
    traffic_free(&p->traffic);
    seen_free(&p->seen);
    flights_free(&p->flights);
    stale_free(&p->stale);
    decisions_free(&p->decisions);
    credentials_free(&p->credentials);
    origins_free(&p->origins);
    peers_free(&p->peers);
    shared_close(&p->cache.shared);
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

static void reload(const struct listeners *l, struct config **config,
                   const struct serve_origin *origin)
{
    struct local_limits limits;
    struct keeper_limits shared_limits;
    struct config *loaded = NULL;
    struct tls_identity *identity = NULL;
    struct err why;
    char *restart;

    if (config_load(origin->file, origin->overrides, &loaded, &why) != 0 ||
        listeners_prepare(l, loaded, &identity, &why) != 0) {
        if (loaded != NULL)
            config_unref(&loaded);
        log_line(LOG_ERROR, "configuration refused, the old one goes on", "reason", LOG_STR,
                 why.text, NULL);
        return;
    }
    restart = config_restart_needed(*config, loaded);
    if (restart != NULL)
        log_line(LOG_WARN, "these settings need a restart", "settings", LOG_STR, restart, NULL);
    free(restart);
    listeners_configure(l, loaded, &identity);
    limits_of(loaded, &limits);
    local_configure(the_proxy.cache.local, &limits);
    shared_limits_of(loaded, &shared_limits);
    if (the_proxy.cache.shared != NULL)
        shared_configure(the_proxy.cache.shared, &shared_limits);
    chores_configure(the_proxy.chores, loaded);
    schedule_configure(the_proxy.schedule, loaded);
    log_set(loaded->log.format, loaded->log.level);
    config_unref(config);
    *config = loaded;
    log_line(LOG_INFO, "configuration reloaded", NULL);
}

/* Waits for SIGTERM or SIGINT. */
static void attend(const struct listeners *l, struct config **config,
                   const struct serve_origin *origin, const sigset_t *open)
{
    while (stop_signals == 0) {
        sigsuspend(open);
        if (reload_wanted) {
            reload_wanted = 0;
            systemd_reloading();
            reload(l, config, origin);
            systemd_ready();
        }
    }
}

/* True when all requests ended by themselves. */
static bool drain(const struct listeners *l, const struct config *config, const sigset_t *open)
{
    systemd_stopping();
    atomic_store(&the_proxy.state, PROXY_DRAINING);
    log_line(LOG_INFO, "stopping", "active", LOG_U64, (uint64_t)listeners_active(l), NULL);
    listeners_drain(l);
    /* From here on the handler itself must run in this thread. */
    pthread_sigmask(SIG_SETMASK, open, NULL);
    return listeners_wait_idle(l, now_ms() + config->shutdown_grace_ms, &hurry);
}

static void leave_at_once(struct proxy *p)
{
    /* What is being filled lies in incoming/ and is swept at the next start; what is whole is
     * published.  So there is nothing to wait for, and much that could hang. */
    log_line(LOG_WARN, "stopped with requests under way", NULL);
    fleet_stop(p->fleet);
    processes_kill_all(p->cache.processes);
    log_stop();
    _exit(0);
}

/* What operators ask for ends soon once upstream, programs and events have been ended. */
static bool see_operators_off(struct proxy *p)
{
    origins_cancel(p->origins);
    return admin_drain(p->admin, now_ms() + OPERATORS_GRACE_MS, &hurry);
}

int serve_run(struct config *config, const struct serve_origin *origin)
{
    struct config *current = (struct config *)config_ref(config);
    struct systemd_sockets sockets;
    struct tls_identity *identity = NULL;
    struct listeners listeners = {NULL};
    sigset_t open;
    struct err why;

    /* Threads by the dozen would each keep an arena of free memory. */
    mallopt(M_ARENA_MAX, 2);
    catch_signals(&open);
    raise_descriptor_limit(current);
    /* Before the first request can want to say something. */
    log_start(current->log.format, current->log.level);
    if (systemd_take_sockets(&sockets, &why) != 0 ||
        listeners_identity(current, &identity, &why) != 0 ||
        build(&the_proxy, current, &why) != 0 ||
        listeners_start(&the_proxy, current, &sockets, identity, &listeners, &why) != 0) {
        tls_identity_unref(&identity);
        fprintf(stderr, "pannier: %s\n", why.text);
        tear_down(&the_proxy);
        log_stop();
        config_unref(&current);
        return 1;
    }
    tls_identity_unref(&identity);
    log_line(LOG_INFO, "listening", "address", LOG_STR, server_address(listeners.clients), "scheme",
             LOG_STR, server_has_tls(listeners.clients) ? "https" : "http", "admin", LOG_STR,
             admin_address(the_proxy.admin), "data", LOG_STR, folder_path(the_proxy.cache.folder),
             "version", LOG_STR, PANNIER_VERSION, NULL);
    systemd_ready();
    attend(&listeners, &current, origin, &open);
    control_drain(the_proxy.control);
    if (!drain(&listeners, current, &open) || !see_operators_off(&the_proxy))
        leave_at_once(&the_proxy);
    listeners_stop(&listeners);
    tear_down(&the_proxy);
    log_line(LOG_INFO, "stopped", NULL);
    log_stop();
    config_unref(&current);
    return 0;
}
