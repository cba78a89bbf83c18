/* What the operator wants: defaults, then the YAML file, then the command line.
 *
 *     config_load(file_or_NULL, &overrides, &config, &err)   0, or -1 with "file:line: key: ..."
 *     ... read config->...  (immutable from here on; shared by reference)
 *     config_unref(&config)
 *
 * Every setting stands once, in config_table.h, with type, bounds, default, whether a reload takes
 * it over, and prose; docs/configuration.md and `pannier config show` are made from the table.
 * config_file.c is the home of libcyaml and libyaml. */
#ifndef PANNIER_PROXY_CONFIG_H
#define PANNIER_PROXY_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "cache/compress.h"
#include "cache/local/local.h"
#include "cache/shared/object_store.h"
#include "protocol/digest.h"
#include "protocol/err.h"
#include "protocol/webhook.h"
#include "proxy/manners/budget.h"
#include "proxy/network.h"
#include "proxy/tls.h"

/* How pannier shows itself to an upstream; proxy/credentials/credentials.h. */
enum auth_kind { AUTH_PASSTHROUGH, AUTH_TOKEN, AUTH_HELPER, AUTH_GITHUB_APP, AUTH_NETRC };
enum refs_mode { REFS_ASK, REFS_WEBHOOK };
enum shared_driver { SHARED_OFF, SHARED_S3, SHARED_LIBS3, SHARED_FILE };
enum when_away { AWAY_SERVE, AWAY_PASS };
enum log_format { LOG_TEXT, LOG_JSON };
enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

struct host_port {
    char *host; /* its first member; NULL: none */
    uint16_t port;
};

struct upstream_config {
    char *name; /* what stands in the client's URL: a host, host:port, or a pattern with one '*' */
    char *url;  /* http(s) base URL without a trailing slash; its '*' is what the name's matched */
    char *ca_file; /* NULL: the system's */
    enum auth_kind auth;
    char *username;          /* NULL: the kind's own */
    char *token_file;        /* AUTH_TOKEN's; each kind has what it needs, and the others' NULL */
    char *credential_helper; /* AUTH_HELPER's */
    char *app_id, *private_key_file, *api_url; /* AUTH_GITHUB_APP's; api_url is always set */
    char *netrc_file;                          /* AUTH_NETRC's */
    uint64_t access_ttl_ms;
    uint64_t denied_ttl_ms;
    enum refs_mode refs;
    uint64_t refs_ttl_ms;      /* 0 (default): every ls-refs asks upstream */
    uint64_t refs_floor_ms;    /* the same for REFS_WEBHOOK */
    char *webhook_secret_file; /* NULL: there is no webhook */
    enum webhook_forge webhook_forge;
    uint32_t max_connections;
    struct rate rate;             /* of requests; count 0: no limit */
    uint32_t burst;               /* of them at once, after a quiet while */
    uint64_t stale_if_error_ms;   /* how old what is shown while upstream is down may be; 0: none */
    uint64_t stale_access_ttl_ms; /* and how long ago upstream's yes */
    uint64_t connect_timeout_ms;
    uint64_t response_timeout_ms; /* until the first byte; hosts may compute for minutes */
    uint64_t stall_timeout_ms;    /* between bytes, once they flow */
};

/* SHA-256 of a token. */
struct token_hash {
    bool set;
    struct key sha256;
};

struct text_list {
    char **items;
    size_t count;
};

/* Somebody for whom pannier uses credentials of its own; see proxy/clients.h. */
struct client_config {
    char *name;
    struct token_hash token_hash;
    char *tls_subject; /* or NULL */
    struct network_list network;
    struct text_list repositories; /* globs */
    bool push;
};

enum warm_priority { WARM_HIGH, WARM_NORMAL, WARM_LOW };

/* A repository that is fetched ahead; see proxy/warm/warmups.h. */
struct warm_repository_config {
    char *url;                 /* "<upstream>/<path>", or its URL */
    struct text_list branches; /* none: the default branch */
    uint32_t depth;
    enum warm_priority priority;
    unsigned line; /* of the file */
};

struct config {
    char *file; /* NULL: none */
    struct host_port listen;
    char *data; /* absolute path */
    char *node; /* what this node is called */

    struct {
        char *certificate, *key, *client_ca; /* or NULL; certificate NULL: plain HTTP */
        enum tls_client client;
    } tls;

    struct upstream_config *upstreams;
    size_t upstream_count;
    struct client_config *clients;
    size_t client_count;

    struct {
        uint64_t body_bytes;        /* a request body, as sent and after inflating */
        uint32_t connections;       /* clients at once */
        uint32_t http_threads;      /* 0: as many as cores, at most 8 */
        uint32_t fills;             /* answers being made at once */
        uint32_t queries;           /* short upstream questions (refs, access) at once */
        uint32_t queue;             /* requests waiting for either, each */
        uint32_t git_processes;     /* git programs at once; 0: twice the cores */
        uint64_t header_timeout_ms; /* from a connection's first byte to the end of headers */
        uint64_t body_timeout_ms;   /* between headers and the end of a kept body */
        uint64_t idle_timeout_ms;   /* a kept-alive connection without a request */
        uint64_t stall_timeout_ms;  /* a client that takes nothing */
    } limits;

    struct {
        uint32_t
            mirror_after; /* cold requests of one repository until it gets a mirror; 0: never */
        bool mirrors;     /* false: keep answers only */
        struct share local_size, min_free;
        enum policy_kind policy;
        uint64_t max_age_ms;                   /* for POLICY_SIZE */
        uint64_t answer_ttl_ms, mirror_ttl_ms; /* 0: as long as there is room */
        uint64_t unreachable_ttl_ms;
        enum compression compression;
        uint64_t maintenance_interval_ms;
        uint32_t maintenance_threads; /* 0: no upkeep of mirrors */
        uint64_t maintenance_memory_bytes;
        uint64_t verify_interval_ms; /* 0: never */
    } cache;

    struct {
        enum shared_driver driver;
        char *endpoint, *bucket, *prefix, *region, *ca_file, *credentials_file; /* or NULL */
        char *server_side_encryption, *kms_key;
        bool virtual_host;
        uint64_t max_size_bytes; /* 0: no limit */
        uint64_t ttl_ms;         /* 0: never */
        enum policy_kind policy;
        uint64_t tidy_interval_ms;
        uint64_t hot_ms; /* large entries leave the local disk when nobody asked for so long */
        uint32_t uploads, upload_queue;
        uint32_t parallel;
        uint64_t connect_timeout_ms, stall_timeout_ms, deadline_ms;
    } shared;

    struct {
        char *url; /* NULL: this node is alone */
        char *password_file, *ca_file, *certificate, *key, *prefix;
        uint64_t timeout_ms;
    } redis;

    struct {
        struct host_port listen; /* for the other nodes; host NULL: they can't follow us */
        char *advertise;         /* how they reach it; NULL: as listened on */
        char *secret_file;       /* what they know each other by */
        bool tls;                /* with tls's certificate */
        char *ca_file;           /* that others' are checked against; NULL: the system's */
        enum when_away when_away;
        uint64_t node_ttl_ms, lease_ttl_ms;
    } cluster;

    struct {
        struct host_port listen; /* host NULL: off */
        char *tokens_file;       /* NULL: whoever reaches it may do all */
        char *hosts;             /* "name, name", or NULL */
    } admin;

    struct {
        uint32_t repositories; /* with series of their own */
    } metrics;

    struct {
        char *schedule; /* NULL: only who asks for it has anything fetched ahead */
        char *time_zone;
        uint32_t parallelism;
        uint32_t most_used; /* repositories, besides those that are listed */
    } warm;
    struct warm_repository_config *warm_repositories;
    size_t warm_repository_count;

    struct {
        enum log_format format;
        enum log_level level;
    } log;

    uint64_t shutdown_grace_ms;
};

/* From the command line; NULL or 0 where not given.  Borrowed for the call. */
struct config_overrides {
    const char *listen;       /* HOST:PORT, [V6]:PORT */
    const char *admin_listen; /* the same, or "off" */
    const char *data;
    const char *log_format; /* "text", "json" */
    const char **upstreams; /* NAME=URL each; the same NAME replaces */
    size_t upstream_count;
};

/* Reference counted, immutable after loading, any thread.
 * file NULL: defaults (upstreams github.com, gitlab.com, bitbucket.org, codeberg.org over https;
 * an `upstreams` list in the file replaces these four, --upstream adds to whatever there is).
 * -1: err says file, line, key and what would be right, in one sentence. */
int config_load(const char *file, const struct config_overrides *overrides, struct config **out,
                struct err *err);
struct config *config_ref(const struct config *c);
void config_unref(struct config **c);

/* The upstream for the name in a client's URL; NULL: not listed, so refused.  Exact names win over
 * patterns; '*' matches one or more of [A-Za-z0-9.-] (never '/', ':' or '@'), in order of the list.
 * *base_url is yours to free: the URL with its '*' replaced. */
const struct upstream_config *config_find_upstream(const struct config *c, const char *name,
                                                   char **base_url);

/* The settings of `tls`, borrowed from c; false: none, plain HTTP. */
bool config_tls(const struct config *c, struct tls_files *out);

/* The settings of `shared` as object_store_open() takes them, borrowed from c; only where a driver
 * is set. */
void config_object_store(const struct config *c, struct object_store_config *out);

/* Settings that differ between the two and that only a restart would take over, as a
 * comma-separated list; NULL when none.  Yours to free. */
char *config_restart_needed(const struct config *running, const struct config *loaded);

/* `pannier config show`: the effective configuration as YAML, each setting with a comment that
 * gives its default. */
void config_show(const struct config *c, FILE *out);
/* docs/configuration.md's table. */
void config_describe(FILE *out);

/* "30s", "10ms", "5m", "1h", "2d", and plain numbers as seconds; "100G", "512K" in powers of 1024,
 * plain numbers as bytes. */
/* As size_parse(), or "80%": 1 to 100 of it. */
bool share_parse(const char *s, struct share *out);
/* "localhost", 127.0.0.0/8 or ::1, as text and without brackets; nobody is asked. */
bool host_is_loopback(const char *host, size_t len);
/* The address that is served on where nobody said anything else. */
bool config_admin_is_default(const struct config *c);
bool duration_parse(const char *s, uint64_t *ms);
bool size_parse(const char *s, uint64_t *bytes);
void duration_format(uint64_t ms, char out[32]);
void size_format(uint64_t bytes, char out[32]);

#endif
