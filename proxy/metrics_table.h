/* Every metric, once.  From these rows come the text at GET /metrics, `pannier metrics describe`
 * and with it docs/metrics.md.
 *
 *     X(id, type, name, labels, help)
 *
 * type      COUNTER (goes up only, name ends in _total), GAUGE, or TIMES (a histogram of seconds)
 * name      as Prometheus has it: a unit in it (_bytes, _seconds), no label's name
 * labels    their names, for people
 * help      one sentence
 *
 * What this program counts as it happens has cells, one for each set of labels that there can be,
 * so that counting is one addition without a lock:
 *
 *     C(id, metric, labels)      metrics_count(CELL_id, n)
 *     T(id, metric, labels)      metrics_time(TIMER_id, us)
 *
 * Everything else is asked for when somebody reads /metrics: proxy/collect.c. */
#ifndef PANNIER_PROXY_METRICS_TABLE_H
#define PANNIER_PROXY_METRICS_TABLE_H

/* clang-format off */
#define METRICS_TABLE(X)                                                                           \
    X(requests, COUNTER, "pannier_requests_total", "result",                                       \
      "Requests of clients that have ended, by how they were answered.")                           \
    X(hits, COUNTER, "pannier_hits_total", "tier",                                                 \
      "Requests for packs that were answered with what was kept, by where it lay: local, shared, " \
      "coalesced (another request was just having it made), peer (another node).")                 \
    X(misses, COUNTER, "pannier_misses_total", "reason",                                           \
      "Requests for packs whose answer had to be made, by how: from the mirror, after a refresh "  \
      "of it, from upstream, or passed on and not kept.")                                          \
    X(client_bytes, COUNTER, "pannier_client_bytes_total", "source",                               \
      "Bytes of bodies sent to clients, by where they came from.")                                 \
    X(first_byte, TIMES, "pannier_request_first_byte_seconds", "kind",                             \
      "From a request's first line until its reply began.")                                        \
    X(duration, TIMES, "pannier_request_duration_seconds", "kind",                                 \
      "From a request's first line until its reply's end.")                                        \
    X(cut, COUNTER, "pannier_requests_cut_total", "",                                              \
      "Requests whose connection broke, or whose reply was broken off to show an error.")          \
    X(access, TIMES, "pannier_access_decision_seconds", "verdict",                                 \
      "Until it was known whether a credential may read a repository, out of memory or by asking " \
      "upstream; none: upstream made no decision.")                                                \
    X(generation, TIMES, "pannier_generation_seconds", "source",                                   \
      "Until an answer that was not there was made, or given up.")                                 \
    X(generation_failed, COUNTER, "pannier_generation_failures_total", "",                         \
      "Answers that were given up.")                                                               \
    X(in_flight, GAUGE, "pannier_requests_in_flight", "",                                          \
      "Requests of clients that have not ended.")                                                  \
    X(connections, GAUGE, "pannier_client_connections", "", "Connections of clients.")             \
    X(connections_limit, GAUGE, "pannier_client_connections_limit", "",                            \
      "Connections that there may be: limits.connections.")                                        \
    X(filling, GAUGE, "pannier_answers_filling", "", "Answers that are being made.")               \
    X(jobs, GAUGE, "pannier_pool_jobs", "pool",                                                    \
      "Jobs of a pool of threads that wait or run.")                                               \
    X(jobs_limit, GAUGE, "pannier_pool_jobs_limit", "pool",                                        \
      "Jobs that a pool takes; beyond them it refuses.")                                           \
    X(git, GAUGE, "pannier_git_processes", "", "Git programs that run.")                           \
    X(upstream_requests, COUNTER, "pannier_upstream_requests_total", "upstream, code",             \
      "Requests to upstreams by HTTP status, redirects included.")                                 \
    X(upstream_failures, COUNTER, "pannier_upstream_failures_total", "upstream, reason",           \
      "Requests to upstreams that got no whole response.")                                         \
    X(upstream_throttled, COUNTER, "pannier_upstream_throttled_total", "upstream",                 \
      "Responses by which an upstream asked for less: 429, or a refusal with Retry-After.")        \
    X(upstream_bytes, COUNTER, "pannier_upstream_received_bytes_total", "upstream",                \
      "Bytes of bodies received from upstreams.")                                                  \
    X(upstream_duration, TIMES, "pannier_upstream_request_duration_seconds", "kind",               \
      "From asking an upstream until its response's end: questions (refs, access) and transfers.") \
    X(repository_requests, COUNTER, "pannier_repository_requests_total", "repository, result",     \
      "Requests for packs of the repositories that are asked for most: hit, miss or pass. The "    \
      "rest is counted under other. A repository that comes to have series of its own begins at 0.")\
    X(repository_bytes, COUNTER, "pannier_repository_client_bytes_total", "repository, result",    \
      "Bytes of packs sent to clients, likewise.")                                                 \
    X(cache_entries, GAUGE, "pannier_cache_entries", "tier, kind",                                 \
      "What is kept. Of the shared tier, as this node last saw it: objects.")                      \
    X(cache_bytes, GAUGE, "pannier_cache_bytes", "tier, kind",                                     \
      "What that takes; filling is being made, frame is folders and the index.")                   \
    X(cache_limit, GAUGE, "pannier_cache_limit_bytes", "tier",                                     \
      "What the tier may take now; +Inf without a limit.")                                         \
    X(cache_pinned, GAUGE, "pannier_cache_pinned_entries", "",                                     \
      "Entries of the local tier that are never evicted.")                                         \
    X(evictions, COUNTER, "pannier_evictions_total", "tier",                                       \
      "Entries (of the shared tier: objects) that went for room or age.")                          \
    X(evicted_bytes, COUNTER, "pannier_evicted_bytes_total", "tier", "What they took.")            \
    X(kept, COUNTER, "pannier_answers_kept_total", "", "Answers that were kept.")                  \
    X(damaged, COUNTER, "pannier_damaged_total", "kind",                                           \
      "Things that were not what had been written, and were dropped.")                             \
    X(storage, GAUGE, "pannier_storage_failing", "",                                               \
      "1 while the last write to the data folder failed.")                                         \
    X(redis_up, GAUGE, "pannier_redis_up", "",                                                     \
      "1 while Redis answers; not there without Redis.")                                           \
    X(redis_operations, COUNTER, "pannier_redis_operations_total", "outcome",                      \
      "Commands to Redis: answered, failed, and those refused at once while it was away.")         \
    X(redis_seconds, TIMES, "pannier_redis_operation_seconds", "",                                 \
      "Until Redis had answered a command.")                                                       \
    X(cluster_caught_up, GAUGE, "pannier_cluster_caught_up", "",                                   \
      "1 while all that other nodes have told is applied here, and what is kept may be served.")   \
    X(cluster_events, COUNTER, "pannier_cluster_events_total", "outcome",                          \
      "Events between nodes: sent, applied, missed (times that some may have been), skipped (of "  \
      "kinds that this version doesn't know), retried.")                                           \
    X(cluster_leases, GAUGE, "pannier_cluster_leases", "state",                                    \
      "Leases that this node holds or waits for.")                                                 \
    X(cluster_leases_lost, COUNTER, "pannier_cluster_leases_lost_total", "",                       \
      "Leases that were lost before they were given back.")                                        \
    X(cluster_records, COUNTER, "pannier_cluster_records_total", "outcome",                        \
      "What other nodes are told of what lies here and in the shared tier: told, or dropped.")     \
    X(queue_jobs, GAUGE, "pannier_queue_jobs", "priority",                                         \
      "Background work that waits: with Redis that of all nodes; not there while Redis is away.")  \
    X(queue_taken, GAUGE, "pannier_queue_jobs_taken", "",                                          \
      "Background work under way, counted as those that wait.")                                    \
    X(queue_dropped, COUNTER, "pannier_queue_jobs_dropped_total", "",                              \
      "Background work that this node dropped after too many tries.")                              \
    X(shared_up, GAUGE, "pannier_shared_up", "",                                                   \
      "1 while the shared tier's store works; not there without a shared tier.")                   \
    X(shared_lookups, COUNTER, "pannier_shared_lookups_total", "result",                           \
      "Answers asked for in the shared tier: hit or miss.")                                        \
    X(shared_restored, COUNTER, "pannier_shared_restored_total", "",                               \
      "Mirrors brought down from the shared tier.")                                                \
    X(shared_demoted, COUNTER, "pannier_shared_demoted_total", "",                                 \
      "Entries that left the local disk since the shared tier has them.")                          \
    X(shared_bytes, COUNTER, "pannier_shared_bytes_total", "direction",                            \
      "Bytes of objects put (up) and got (down).")                                                 \
    X(shared_operations, COUNTER, "pannier_shared_operations_total", "operation",                  \
      "Questions to the shared tier's store.")                                                     \
    X(shared_failures, COUNTER, "pannier_shared_operation_failures_total", "operation",            \
      "Of them, those that failed for a reason of the store's.")                                   \
    X(shared_seconds, TIMES, "pannier_shared_operation_seconds", "operation",                      \
      "Until the store had answered.")                                                             \
    X(shared_refused, COUNTER, "pannier_shared_refused_total", "",                                 \
      "Questions that were not asked, since the store was known not to work.")                     \
    X(shared_opened, COUNTER, "pannier_shared_breaks_total", "",                                   \
      "How often the store was found not to work.")                                                \
    X(uploads_queue, GAUGE, "pannier_uploads", "state",                                            \
      "Entries on their way into the shared tier: waiting or sending.")                            \
    X(uploads, COUNTER, "pannier_uploads_total", "outcome",                                        \
      "Entries that were to go up: sent, failed, or dropped for want of room in the queue.")       \
    X(maintained, COUNTER, "pannier_janitor_maintained_total", "", "Mirrors repacked.")            \
    X(maintenance_failed, COUNTER, "pannier_janitor_failed_total", "",                             \
      "Repacks of mirrors that failed.")                                                           \
    X(verified, COUNTER, "pannier_janitor_verified_total", "", "Entries read again.")              \
    X(warmups, COUNTER, "pannier_warmups_total", "result",                                         \
      "Repositories that were to be fetched ahead and that this node had to do with last: done, "  \
      "or failed for good.")                                                                       \
    X(log_dropped, COUNTER, "pannier_log_lines_dropped_total", "",                                 \
      "Log lines that found stderr stuck.")                                                        \
    X(webhooks, COUNTER, "pannier_webhooks_total", "upstream, result",                             \
      "Webhooks: pushed (refs were forgotten), ping, ignored (they told of nothing that changes "  \
      "refs here), forged (not signed with its secret), malformed, failed (for a reason of ours).")\
    X(admin_requests, COUNTER, "pannier_admin_requests_total", "code",                             \
      "Requests of operators by HTTP status.")                                                     \
    X(event_clients, GAUGE, "pannier_event_clients", "", "Who listens to events.")                 \
    X(events_dropped, COUNTER, "pannier_events_dropped_total", "",                                 \
      "Events that somebody who listens was too slow for.")                                        \
    X(ready, GAUGE, "pannier_ready", "", "1 while clients are served: what /readyz says.")         \
    X(build, GAUGE, "pannier_build_info", "version", "1; the version is the label.")               \
    X(process_rss, GAUGE, "process_resident_memory_bytes", "", "Memory in use.")                   \
    X(process_fds, GAUGE, "process_open_fds", "", "Descriptors that are open.")                    \
    X(process_max_fds, GAUGE, "process_max_fds", "", "Descriptors that there may be.")             \
    X(process_threads, GAUGE, "process_threads", "", "Threads.")                                   \
    X(process_cpu, COUNTER, "process_cpu_seconds_total", "",                                       \
      "Processor time, without that of git programs.")                                             \
    X(process_children, COUNTER, "pannier_git_cpu_seconds_total", "",                              \
      "Processor time of git programs that have ended.")                                           \
    X(process_start, GAUGE, "process_start_time_seconds", "",                                      \
      "When the process was started, in seconds since 1970.")

/* result="...": in the words of the log, without what can't stand in a name. */
#define METRICS_CELLS(C)                                                                           \
    C(HIT_LOCAL, requests, "result=\"hit_local\"")                                                 \
    C(HIT_SHARED, requests, "result=\"hit_shared\"")                                               \
    C(HIT_COALESCED, requests, "result=\"hit_coalesced\"")                                         \
    C(HIT_PEER, requests, "result=\"hit_peer\"")                                                   \
    C(MISS_MIRROR, requests, "result=\"miss_mirror\"")                                             \
    C(MISS_REFRESH, requests, "result=\"miss_refresh\"")                                           \
    C(MISS_UPSTREAM, requests, "result=\"miss_upstream\"")                                         \
    C(PASS, requests, "result=\"pass\"")                                                           \
    C(REFS, requests, "result=\"refs\"")                                                           \
    C(PUSH, requests, "result=\"push\"")                                                           \
    C(LFS, requests, "result=\"lfs\"")                                                             \
    C(DUMB, requests, "result=\"dumb\"")                                                           \
    C(PROBE, requests, "result=\"probe\"")                                                         \
    C(DENIED, requests, "result=\"denied\"")                                                       \
    C(REFUSED, requests, "result=\"refused\"")                                                     \
    C(ERROR, requests, "result=\"error\"")                                                         \
    C(HEALTH, requests, "result=\"health\"")                                                       \
    C(HOOK, requests, "result=\"hook\"")                                                           \
    C(ABORTED, requests, "result=\"aborted\"")                                                     \
    C(HITS_LOCAL, hits, "tier=\"local\"")                                                          \
    C(HITS_SHARED, hits, "tier=\"shared\"")                                                        \
    C(HITS_COALESCED, hits, "tier=\"coalesced\"")                                                  \
    C(HITS_PEER, hits, "tier=\"peer\"")                                                            \
    C(MISSES_MIRROR, misses, "reason=\"mirror\"")                                                  \
    C(MISSES_REFRESH, misses, "reason=\"refresh\"")                                                \
    C(MISSES_UPSTREAM, misses, "reason=\"upstream\"")                                              \
    C(MISSES_PASS, misses, "reason=\"pass\"")                                                      \
    C(BYTES_LOCAL, client_bytes, "source=\"local\"")                                               \
    C(BYTES_SHARED, client_bytes, "source=\"shared\"")                                             \
    C(BYTES_COALESCED, client_bytes, "source=\"coalesced\"")                                       \
    C(BYTES_PEER, client_bytes, "source=\"peer\"")                                                 \
    C(BYTES_MIRROR, client_bytes, "source=\"mirror\"")                                             \
    C(BYTES_REFRESH, client_bytes, "source=\"refresh\"")                                           \
    C(BYTES_UPSTREAM, client_bytes, "source=\"upstream\"")                                         \
    C(BYTES_PASS, client_bytes, "source=\"pass\"")                                                 \
    C(BYTES_REFS, client_bytes, "source=\"refs\"")                                                 \
    C(BYTES_OTHER, client_bytes, "source=\"other\"")                                               \
    C(CUT, cut, "")                                                                                \
    C(GENERATION_FAILED, generation_failed, "")                                                    \
    C(WARMUPS_DONE, warmups, "result=\"done\"")                                                  \
    C(WARMUPS_FAILED, warmups, "result=\"failed\"")                                              \
    C(LOG_DROPPED, log_dropped, "")                                                                \
    C(ADMIN_2XX, admin_requests, "code=\"2xx\"")                                                   \
    C(ADMIN_3XX, admin_requests, "code=\"3xx\"")                                                   \
    C(ADMIN_4XX, admin_requests, "code=\"4xx\"")                                                   \
    C(ADMIN_5XX, admin_requests, "code=\"5xx\"")                                                   \
    C(EVENTS_DROPPED, events_dropped, "")

#define METRICS_TIMERS(T)                                                                          \
    T(FIRST_BYTE_PACK, first_byte, "kind=\"pack\"")                                                \
    T(FIRST_BYTE_REFS, first_byte, "kind=\"refs\"")                                                \
    T(FIRST_BYTE_PUSH, first_byte, "kind=\"push\"")                                                \
    T(FIRST_BYTE_OTHER, first_byte, "kind=\"other\"")                                              \
    T(TOTAL_PACK, duration, "kind=\"pack\"")                                                       \
    T(TOTAL_REFS, duration, "kind=\"refs\"")                                                       \
    T(TOTAL_PUSH, duration, "kind=\"push\"")                                                       \
    T(TOTAL_OTHER, duration, "kind=\"other\"")                                                     \
    T(ACCESS_NONE, access, "verdict=\"none\"")                                                     \
    T(ACCESS_ALLOWED, access, "verdict=\"allowed\"")                                               \
    T(ACCESS_DENIED, access, "verdict=\"denied\"")                                                 \
    T(MADE_MIRROR, generation, "source=\"mirror\"")                                                \
    T(MADE_REFRESH, generation, "source=\"refresh\"")                                              \
    T(MADE_UPSTREAM, generation, "source=\"upstream\"")                                            \
    T(MADE_SHARED, generation, "source=\"shared\"")                                                \
    T(MADE_PEER, generation, "source=\"peer\"")                                                    \
    T(UPSTREAM_QUESTION, upstream_duration, "kind=\"question\"")                                   \
    T(UPSTREAM_TRANSFER, upstream_duration, "kind=\"transfer\"")
/* clang-format on */

#endif
