#include "proxy/collect.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "cache/shared/shared.h"
#include "cache/lock.h"
#include "protocol/base.h"
#include "proxy/admin/feed.h"
#include "proxy/fleet.h"
#include "proxy/metrics.h"
#include "proxy/server.h"
#include "proxy/traffic.h"

/* ---- clients ---- */

static void collect_clients(struct proxy *p, const struct config *config, struct metrics_text *t)
{
    struct server *clients = p->clients;
    struct answers_counts answers;

    answers_count(p->cache.answers, &answers);
    if (clients != NULL) {
        metrics_text_number(t, METRIC_in_flight, "", server_active(clients));
        metrics_text_number(t, METRIC_connections, "", server_connections(clients));
    }
    metrics_text_number(t, METRIC_connections_limit, "", config->limits.connections);
    metrics_text_number(t, METRIC_filling, "", answers.filling);
    metrics_text_number(t, METRIC_kept, "", answers.kept);
    metrics_text_number(t, METRIC_damaged, "kind=\"answer\"", answers.damaged);
    metrics_text_number(t, METRIC_damaged, "kind=\"mirror\"", mirrors_damaged(p->cache.mirrors));
    metrics_text_number(t, METRIC_git, "", processes_running(p->cache.processes));
    metrics_text_number(t, METRIC_ready, "", proxy_state(p) == PROXY_SERVING);
    metrics_text_number(t, METRIC_event_clients, "", feed_clients());
    traffic_metrics(p->traffic, config->metrics.repositories, t);
}

static void collect_pools(struct proxy *p, struct metrics_text *t)
{
    const struct {
        const char *labels;
        struct workers *workers;
    } pools[] = {
        {"pool=\"queries\"", p->queries},
        {"pool=\"fills\"", p->fills},
        {"pool=\"relays\"", p->relays},
        {"pool=\"background\"", p->background},
    };

    for (size_t i = 0; i < ARRAY_LEN(pools); i++) {
        metrics_text_number(t, METRIC_jobs, pools[i].labels, workers_load(pools[i].workers));
        metrics_text_number(t, METRIC_jobs_limit, pools[i].labels, workers_limit(pools[i].workers));
    }
}

/* ---- what is kept ---- */

static void collect_local(struct proxy *p, struct metrics_text *t)
{
    struct local_usage u;
    struct janitor_counts janitor;
    struct err ignored;

    local_usage(p->cache.local, &u);
    metrics_text_number(t, METRIC_cache_entries, "tier=\"local\",kind=\"answer\"",
                        u.entries[ENTRY_ANSWER]);
    metrics_text_number(t, METRIC_cache_entries, "tier=\"local\",kind=\"mirror\"",
                        u.entries[ENTRY_MIRROR]);
    metrics_text_number(t, METRIC_cache_bytes, "tier=\"local\",kind=\"answer\"",
                        u.bytes[ENTRY_ANSWER]);
    metrics_text_number(t, METRIC_cache_bytes, "tier=\"local\",kind=\"mirror\"",
                        u.bytes[ENTRY_MIRROR]);
    metrics_text_number(t, METRIC_cache_bytes, "tier=\"local\",kind=\"filling\"", u.filling);
    metrics_text_number(t, METRIC_cache_bytes, "tier=\"local\",kind=\"frame\"", u.frame);
    metrics_text_real(t, METRIC_cache_limit, "tier=\"local\"",
                      u.limit == UINT64_MAX ? (double)__builtin_inf() : (double)u.limit);
    metrics_text_number(t, METRIC_cache_pinned, "", u.pinned);
    metrics_text_number(t, METRIC_evictions, "tier=\"local\"", u.evicted);
    metrics_text_number(t, METRIC_evicted_bytes, "tier=\"local\"", u.evicted_bytes);
    metrics_text_number(t, METRIC_storage, "", folder_troubled(p->cache.folder, &ignored));
    janitor_count(p->janitor, &janitor);
    metrics_text_number(t, METRIC_maintained, "", janitor.maintained);
    metrics_text_number(t, METRIC_maintenance_failed, "", janitor.failed);
    metrics_text_number(t, METRIC_verified, "", janitor.verified);
}

static void collect_store(const struct guard_counts *n, struct metrics_text *t)
{
    static const char *const operations[] = {[GUARD_PUT] = "operation=\"put\"",
                                             [GUARD_GET] = "operation=\"get\"",
                                             [GUARD_HEAD] = "operation=\"head\"",
                                             [GUARD_LIST] = "operation=\"list\"",
                                             [GUARD_REMOVE] = "operation=\"remove\""};

    for (size_t i = 0; i < GUARD_OPERATIONS_COUNT; i++) {
        metrics_text_number(t, METRIC_shared_operations, operations[i], n->asked[i]);
        metrics_text_number(t, METRIC_shared_failures, operations[i], n->failed[i]);
        metrics_text_times(t, METRIC_shared_seconds, operations[i], &n->took[i]);
    }
    metrics_text_number(t, METRIC_shared_refused, "", n->refused);
    metrics_text_number(t, METRIC_shared_opened, "", n->opened);
    metrics_text_number(t, METRIC_shared_bytes, "direction=\"up\"", n->bytes_up);
    metrics_text_number(t, METRIC_shared_bytes, "direction=\"down\"", n->bytes_down);
}

static void collect_shared(struct proxy *p, const struct config *config, struct metrics_text *t)
{
    struct shared *shared = p->cache.shared;
    struct shared_counts n;
    struct err ignored;

    if (shared == NULL)
        return;
    shared_count(shared, &n);
    metrics_text_number(t, METRIC_shared_up, "", !shared_troubled(shared, &ignored));
    metrics_text_number(t, METRIC_shared_lookups, "result=\"hit\"", n.hits);
    metrics_text_number(t, METRIC_shared_lookups, "result=\"miss\"", n.misses);
    metrics_text_number(t, METRIC_shared_restored, "", n.restored);
    metrics_text_number(t, METRIC_shared_demoted, "", n.demoted);
    metrics_text_number(t, METRIC_damaged, "kind=\"shared\"", n.damaged);
    metrics_text_number(t, METRIC_uploads_queue, "state=\"waiting\"", n.uploads.waiting);
    metrics_text_number(t, METRIC_uploads_queue, "state=\"sending\"", n.uploads.sending);
    metrics_text_number(t, METRIC_uploads, "outcome=\"sent\"", n.uploads.sent);
    metrics_text_number(t, METRIC_uploads, "outcome=\"failed\"", n.uploads.failed);
    metrics_text_number(t, METRIC_uploads, "outcome=\"dropped\"", n.uploads.dropped);
    collect_store(&n.store, t);
    metrics_text_number(t, METRIC_cache_entries, "tier=\"shared\",kind=\"object\"",
                        n.round.objects);
    metrics_text_number(t, METRIC_cache_bytes, "tier=\"shared\",kind=\"object\"", n.round.bytes);
    metrics_text_real(t, METRIC_cache_limit, "tier=\"shared\"",
                      config->shared.max_size_bytes == 0 ? (double)__builtin_inf()
                                                         : (double)config->shared.max_size_bytes);
    metrics_text_number(t, METRIC_evictions, "tier=\"shared\"", n.removed);
    metrics_text_number(t, METRIC_evicted_bytes, "tier=\"shared\"", n.removed_bytes);
}

/* ---- other nodes ---- */

static void collect_redis(struct redis *redis, struct metrics_text *t)
{
    struct redis_counts n;
    struct err ignored;

    redis_count(redis, &n);
    metrics_text_number(t, METRIC_redis_up, "", redis_is_up(redis, &ignored));
    metrics_text_number(t, METRIC_redis_operations, "outcome=\"answered\"",
                        n.asked > n.failed ? n.asked - n.failed : 0);
    metrics_text_number(t, METRIC_redis_operations, "outcome=\"failed\"", n.failed);
    metrics_text_number(t, METRIC_redis_operations, "outcome=\"refused\"", n.refused);
    metrics_text_times(t, METRIC_redis_seconds, "", &n.took);
}

static void collect_queue(struct queue *queue, struct metrics_text *t)
{
    static const char *const priorities[] = {[QUEUE_HIGH] = "priority=\"high\"",
                                             [QUEUE_NORMAL] = "priority=\"normal\"",
                                             [QUEUE_LOW] = "priority=\"low\""};
    struct queue_counts n;
    struct err ignored;
    int rc = queue_count(queue, &n, &ignored);

    metrics_text_number(t, METRIC_queue_dropped, "", n.dropped);
    if (rc != 0)
        return;
    for (size_t i = 0; i < QUEUE_PRIORITIES_COUNT; i++)
        metrics_text_number(t, METRIC_queue_jobs, priorities[i], n.waiting[i]);
    metrics_text_number(t, METRIC_queue_taken, "", n.taken);
}

static void collect_cluster(struct proxy *p, struct metrics_text *t)
{
    struct cluster *cluster = fleet_cluster(p->fleet);
    struct events_counts events;
    struct leases_counts leases;
    struct records_counts records;

    collect_queue(cluster_queue(cluster), t);
    if (fleet_is_alone(p->fleet))
        return;
    collect_redis(cluster_redis(cluster), t);
    metrics_text_number(t, METRIC_cluster_caught_up, "", cluster_may_serve(cluster, now_ms()));
    events_count(cluster_events(cluster), &events);
    metrics_text_number(t, METRIC_cluster_events, "outcome=\"sent\"", events.sent);
    metrics_text_number(t, METRIC_cluster_events, "outcome=\"applied\"", events.applied);
    metrics_text_number(t, METRIC_cluster_events, "outcome=\"missed\"", events.missed);
    metrics_text_number(t, METRIC_cluster_events, "outcome=\"skipped\"", events.skipped);
    metrics_text_number(t, METRIC_cluster_events, "outcome=\"retried\"", events.retried);
    leases_count(cluster_leases(cluster), &leases);
    metrics_text_number(t, METRIC_cluster_leases, "state=\"held\"", leases.held);
    metrics_text_number(t, METRIC_cluster_leases, "state=\"waiting\"", leases.waiting);
    metrics_text_number(t, METRIC_cluster_leases_lost, "", leases.lost);
    records_count(cluster_records(cluster), &records);
    metrics_text_number(t, METRIC_cluster_records, "outcome=\"told\"", records.told);
    metrics_text_number(t, METRIC_cluster_records, "outcome=\"dropped\"", records.dropped);
}

/* ---- the process ---- */

static size_t count_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *d;
    size_t n = 0;

    if (dir == NULL)
        return 0;
    while ((d = readdir(dir)) != NULL)
        n += d->d_name[0] != '.';
    closedir(dir);
    return n > 0 ? n - 1 : 0; /* without the one that looks */
}

/* Behind "pid (name) ", which may hold anything: the fields from the third on. */
static bool read_stat(char *text, size_t size, const char **fields)
{
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, size - 1) : -1;

    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return false;
    text[n] = '\0';
    *fields = strrchr(text, ')');
    return *fields != NULL;
}

/* When the machine was started, in seconds since 1970. */
static double boot_time(void)
{
    struct timespec wall, since_boot;

    clock_gettime(CLOCK_REALTIME, &wall);
    clock_gettime(CLOCK_BOOTTIME, &since_boot);
    return (double)(wall.tv_sec - since_boot.tv_sec) +
           (double)(wall.tv_nsec - since_boot.tv_nsec) / 1e9;
}

static void collect_stat(struct metrics_text *t)
{
    enum { STATE = 3, THREADS = 20, START = 22, RSS = 24 };
    unsigned long long values[RSS + 1] = {0};
    const char *at;
    char text[1024];

    if (!read_stat(text, sizeof(text), &at))
        return;
    at += 2;
    for (int i = STATE; i <= RSS && *at != '\0'; i++) {
        values[i] = strtoull(at, NULL, 10);
        at += strcspn(at, " ");
        at += *at == ' ';
    }
    metrics_text_number(t, METRIC_process_threads, "", values[THREADS]);
    metrics_text_number(t, METRIC_process_rss, "", values[RSS] * (uint64_t)sysconf(_SC_PAGESIZE));
    metrics_text_real(t, METRIC_process_start, "",
                      boot_time() + (double)values[START] / (double)sysconf(_SC_CLK_TCK));
}

static double cpu_seconds(int who)
{
    struct rusage u = {0};

    getrusage(who, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void collect_process(struct metrics_text *t)
{
    struct rlimit files = {0};

    collect_stat(t);
    getrlimit(RLIMIT_NOFILE, &files);
    metrics_text_number(t, METRIC_process_fds, "", count_descriptors());
    metrics_text_number(t, METRIC_process_max_fds, "", files.rlim_cur);
    metrics_text_real(t, METRIC_process_cpu, "", cpu_seconds(RUSAGE_SELF));
    metrics_text_real(t, METRIC_process_children, "", cpu_seconds(RUSAGE_CHILDREN));
    metrics_text_number(t, METRIC_build, "version=\"" PANNIER_VERSION "\"", 1);
}

void collect_metrics(struct proxy *p, const struct config *config, struct bytes *out)
{
    struct metrics_text t;

    metrics_text_init(&t);
    metrics_text_counted(&t);
    collect_clients(p, config, &t);
    collect_pools(p, &t);
    collect_local(p, &t);
    collect_cluster(p, &t);
    collect_shared(p, config, &t);
    collect_process(&t);
    metrics_text_end(&t, out);
}
