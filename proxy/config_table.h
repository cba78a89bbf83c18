/* Every setting, once.  From these rows come the libcyaml schema, the defaults, the range checks,
 * `pannier config show`, `pannier config describe` and with it docs/configuration.md.
 *
 *     X(section, key, field, type, min, max, default, takes, values, prose)
 *
 * section   where it stands in the YAML: `top`, one of CONFIG_SECTIONS, CONFIG_LISTS or
 *           CONFIG_INNER_LISTS
 * key       its name there
 * field     the member of struct config (in a list: of the struct of its entries)
 * type      an enum setting_type without its SETTING_ (proxy/config_setting.h)
 * min, max  as an operator would write them; NULL where order has no meaning
 * default   likewise; NULL: nothing, or worked out at start (see values)
 * takes     RELOAD: SIGHUP takes a change over; RESTART: only a restart does
 * values    what may stand there, for people; for ENUM the words, in the order of the C enum
 * prose     what it is for and what happens beyond it, one or two sentences */
#ifndef PANNIER_PROXY_CONFIG_TABLE_H
#define PANNIER_PROXY_CONFIG_TABLE_H

/* clang-format off */
#define CONFIG_TOP(X)                                                                              \
    X(top, listen, listen, ADDRESS, NULL, NULL, "127.0.0.1:8080", RESTART, "HOST:PORT",       \
      "The address to serve on; an IPv6 address stands in brackets, port 0 takes a free one.")     \
    X(top, data, data, FOLDER, NULL, NULL, NULL, RESTART, "folder",                                \
      "Where answers and mirrors are kept, as an absolute path. Without it: "                      \
      "`$XDG_CACHE_HOME/pannier`, else `$HOME/.cache/pannier`, else `/var/cache/pannier`.")        \
    X(top, node, node, TEXT, NULL, NULL, NULL, RESTART, "name",                                    \
      "What this node is called where several share something. Without it: the host's name.")      \
    X(top, shutdown_grace, shutdown_grace_ms, DURATION, "0s", "1d", "30s", RELOAD, "duration",     \
      "How long running transfers may go on after SIGTERM.")

#define CONFIG_TLS(X)                                                                              \
    X(tls, certificate, tls.certificate, FILE, NULL, NULL, NULL, RELOAD, "file",                   \
      "Serve https with this certificate (PEM, with those that lead to a root behind it); an "     \
      "absolute path. Read again on each reload. Without it: http.")                               \
    X(tls, key, tls.key, FILE, NULL, NULL, NULL, RELOAD, "file",                                   \
      "The certificate's key (PEM, without a password); an absolute path.")                        \
    X(tls, client_ca, tls.client_ca, FILE, NULL, NULL, NULL, RELOAD, "file",                       \
      "Ask clients for a certificate that one of these (PEM) has signed; an absolute path. "       \
      "Without it: they are asked for none.")                                                      \
    X(tls, client, tls.client, ENUM, NULL, NULL, "required", RELOAD, "required, optional",         \
      "With `client_ca`: whether who has no certificate is turned away. One that isn't signed "    \
      "by them is turned away in any case.")

#define CONFIG_UPSTREAMS(X)                                                                        \
    X(upstreams, name, name, NAME, NULL, NULL, NULL, RELOAD, "host, host:port or pattern",         \
      "What stands first in the path of a client's URL. One `*` matches one or more letters, "     \
      "digits, dots and hyphens; an exact name wins over a pattern. Required.")                    \
    X(upstreams, url, url, URL, NULL, NULL, NULL, RELOAD, "http or https URL",                     \
      "Where the repositories of this name are. Its `*` is what the name's `*` matched. Required.")\
    X(upstreams, ca_file, ca_file, FILE, NULL, NULL, NULL, RELOAD, "file",                         \
      "Certificates (PEM) to trust for this upstream in place of the system's; an absolute path.") \
    X(upstreams, auth, auth, ENUM, NULL, NULL, "passthrough", RELOAD,                              \
      "passthrough, token, helper, github_app, netrc",                                             \
      "Whose credential goes to this upstream: the client's, or one of pannier's own out of a "    \
      "file, a credential helper of git's, a GitHub App or a netrc file. With one of its own "     \
      "`clients` have to be listed.")                                                              \
    X(upstreams, username, username, TEXT, NULL, NULL, NULL, RELOAD, "name",                       \
      "With `token`: the user name that goes with it; without it: `x-access-token`. With `helper` "\
      "and `netrc`: the one to ask for.")                                                          \
    X(upstreams, token_file, token_file, FILE, NULL, NULL, NULL, RELOAD, "file",                   \
      "For `token`: a file with the token and nothing else; an absolute path. It is read again "   \
      "when it changes.")                                                                          \
    X(upstreams, credential_helper, credential_helper, TEXT, NULL, NULL, NULL, RELOAD,             \
      "name or path, with arguments",                                                              \
      "For `helper`: as git's `credential.helper`, without a shell: `store --file /x` is "         \
      "`git credential-store --file /x`; an absolute path is a program. Words end at blanks.")     \
    X(upstreams, app_id, app_id, TEXT, NULL, NULL, NULL, RELOAD, "id",                             \
      "For `github_app`: the app's id, or its client id.")                                         \
    X(upstreams, private_key_file, private_key_file, FILE, NULL, NULL, NULL, RELOAD, "file",       \
      "For `github_app`: its private key (PEM); an absolute path. It is read for each token.")     \
    X(upstreams, api_url, api_url, PLAIN_URL, NULL, NULL, "https://api.github.com", RELOAD,        \
      "http or https URL",                                                                         \
      "For `github_app`: where the API is; of an Enterprise server `https://HOST/api/v3`.")        \
    X(upstreams, netrc_file, netrc_file, FILE, NULL, NULL, NULL, RELOAD, "file",                   \
      "For `netrc`: the file; an absolute path. It is read again when it changes.")                \
    X(upstreams, access_ttl, access_ttl_ms, DURATION, "0s", "1h", "1m", RELOAD, "duration",       \
      "How long upstream's yes to a credential and repository is believed.")                       \
    X(upstreams, denied_ttl, denied_ttl_ms, DURATION, "0s", "1h", "10s", RELOAD, "duration",       \
      "How long upstream's no is believed.")                                                       \
    X(upstreams, refs_ttl, refs_ttl_ms, DURATION, "0s", "1d", "0s", RELOAD, "duration",            \
      "How long refs may be answered without asking upstream; until then a push may go unseen. "   \
      "0s: every request for refs asks.")                                                          \
    X(upstreams, refs, refs, ENUM, NULL, NULL, "ask", RELOAD, "ask, webhook",                      \
      "Whether refs are asked for each time (or as `refs_ttl` says), or kept until a webhook "     \
      "tells of a push, at most for `refs_floor`.")                                                \
    X(upstreams, refs_floor, refs_floor_ms, DURATION, "100ms", "1d", "1m", RELOAD, "duration",     \
      "With `refs: webhook`: refs this old are asked for anew though no webhook came; within this "\
      "time a push of which none told is seen.")                                                   \
    X(upstreams, webhook_secret_file, webhook_secret_file, FILE, NULL, NULL, NULL, RELOAD, "file", \
      "What the host signs its webhooks with, one secret a line, any of which will do; an "        \
      "absolute path. It is read for each. Without it there is no `/hooks/` for this upstream.")   \
    X(upstreams, webhook_forge, webhook_forge, ENUM, NULL, NULL, "auto", RELOAD,                   \
      "auto, github, gitlab, gitea, bitbucket",                                                    \
      "Whose webhooks are taken; Forgejo's are Gitea's. `auto`: their headers tell.")              \
    X(upstreams, max_connections, max_connections, COUNT, "1", "10000", "64", RELOAD,              \
      "connections", "Connections to this upstream at once; further questions wait.")              \
    X(upstreams, rate, rate, RATE, NULL, NULL, "0", RELOAD, "number/s, /m or /h",                  \
      "Requests to this upstream; what would be beyond it is answered from here or with 429. "     \
      "Pushes and LFS count, but are never held up by it. 0: no limit.")                           \
    X(upstreams, burst, burst, COUNT, "1", "100000", "60", RELOAD, "requests",                     \
      "How many of `rate` may come at once after a quiet while; half of them are kept for "        \
      "clients' requests, against mirrors that are made in the background.")                       \
    X(upstreams, stale_if_error, stale_if_error_ms, DURATION, "0s", "30d", "0s", RELOAD,           \
      "duration", "While upstream can't be reached, answers with 5xx or throttles, refs that it "  \
      "showed this long ago may still be shown. 0s: never.")                                       \
    X(upstreams, stale_access_ttl, stale_access_ttl_ms, DURATION, "0s", "30d", "1h", RELOAD,       \
      "duration", "With `stale_if_error`: only to a credential that upstream last let in within "  \
      "this time, and hasn't refused since.")                                                      \
    X(upstreams, connect_timeout, connect_timeout_ms, DURATION, "10ms", "5m", "10s", RELOAD,       \
      "duration", "For a connection to stand, TLS included.")                                      \
    X(upstreams, response_timeout, response_timeout_ms, DURATION, "10ms", "1d", "10m", RELOAD,     \
      "duration", "Until the first byte of a response; a host may compute a pack for minutes.")    \
    X(upstreams, stall_timeout, stall_timeout_ms, DURATION, "10ms", "1d", "2m", RELOAD,            \
      "duration", "Between two bytes of a response, once they flow.")

#define CONFIG_CLIENTS(X)                                                                          \
    X(clients, name, name, TEXT, NULL, NULL, NULL, RELOAD, "name",                                 \
      "What the client is called in the log. Required. What an entry says of how the client is "   \
      "known (`token_hash`, `tls_subject`, `network`) has to hold together; one is required.")     \
    X(clients, token_hash, token_hash, HASH, NULL, NULL, NULL, RELOAD, "sha256:HEX",               \
      "SHA-256 of the token that it sends, as the password of Basic or as Bearer. Make tokens "    \
      "long and by chance: `openssl rand -hex 32`.")                                               \
    X(clients, tls_subject, tls_subject, TEXT, NULL, NULL, NULL, RELOAD, "distinguished name",     \
      "The subject of its certificate, as RFC 4514 writes it: `CN=ci,O=Example`.")                 \
    X(clients, network, network, NETWORKS, NULL, NULL, NULL, RELOAD, "list of CIDR",               \
      "Where it connects from: `[10.1.0.0/16, '2001:db8::/32']`.")                                   \
    X(clients, repositories, repositories, GLOBS, NULL, NULL, NULL, RELOAD,                        \
      "list of upstream/path patterns",                                                            \
      "What it may ask for, as far as upstream lets pannier. `*` matches letters but `/`, `**` "   \
      "any: `[github.com/acme/*, git.example.com/**]`. Required.")                                 \
    X(clients, push, push, BOOL, NULL, NULL, "false", RELOAD, "true, false",                       \
      "Whether its pushes go out with pannier's credential. false: they are refused.")

#define CONFIG_LIMITS(X)                                                                           \
    X(limits, body, limits.body_bytes, SIZE, "1K", "4G", "32M", RELOAD, "size",                    \
      "A request body, as sent and after inflating; beyond it: 413. A push is not held to it.")    \
    X(limits, connections, limits.connections, COUNT, "1", "1000000", "4096", RESTART,             \
      "clients", "Clients connected at once; further ones are not accepted.")                      \
    X(limits, http_threads, limits.http_threads, COUNT, "0", "256", "0", RESTART, "threads",       \
      "Threads that speak HTTP. 0: as many as cores, at most 8.")                                  \
    X(limits, fills, limits.fills, COUNT, "1", "4096", "64", RESTART, "answers",                   \
      "Answers being made at once; further ones wait in the queue.")                               \
    X(limits, queries, limits.queries, COUNT, "1", "4096", "32", RESTART, "questions",             \
      "Short questions to upstreams (refs, access) at once; further ones wait in the queue.")      \
    X(limits, queue, limits.queue, COUNT, "0", "1000000", "1024", RESTART, "requests",             \
      "Requests waiting for a fill, and as many for a question; beyond it: 503.")                  \
    X(limits, git_processes, limits.git_processes, COUNT, "0", "4096", "0", RESTART, "processes",  \
      "Git programs at once. 0: twice the cores.")                                                 \
    X(limits, header_timeout, limits.header_timeout_ms, DURATION, "10ms", "1h", "15s", RELOAD,     \
      "duration", "From a connection's first byte to the end of a request's headers.")             \
    X(limits, body_timeout, limits.body_timeout_ms, DURATION, "10ms", "1d", "5m", RELOAD,          \
      "duration", "From the end of the headers to the end of a body.")                             \
    X(limits, idle_timeout, limits.idle_timeout_ms, DURATION, "10ms", "1d", "1m", RELOAD,         \
      "duration", "How long a connection is kept without a request.")                              \
    X(limits, stall_timeout, limits.stall_timeout_ms, DURATION, "10ms", "1d", "5m", RELOAD,        \
      "duration", "How long a client may take nothing of a response until it is cut off.")

#define CONFIG_CACHE(X)                                                                            \
    X(cache, mirrors, cache.mirrors, BOOL, NULL, NULL, "true", RELOAD, "true, false",              \
      "Keep a mirror of repositories, so that a fetch costs upstream only what is new. "           \
      "false: keep answers only.")                                                                 \
    X(cache, mirror_after, cache.mirror_after, COUNT, "0", "1000000", "2", RELOAD, "requests",     \
      "Cold shallow or filtered requests of one repository until it gets a mirror; a full clone "  \
      "makes one at once. 0: never.")                                                              \
    X(cache, local_size, cache.local_size, SHARE, "1M", "100%", "80%", RELOAD,                     \
      "size or percentage",                                                                        \
      "Everything below the data folder, what is being filled included, in bytes or as a share of "\
      "the file system. Beyond it the least useful goes; what finds no room passes through.")      \
    X(cache, min_free, cache.min_free, SHARE, "0", "100%", "2%", RELOAD, "size or percentage",     \
      "What stays free on the file system, whoever uses the rest.")                                \
    X(cache, policy, cache.policy, ENUM, NULL, NULL, "s3fifo", RELOAD, "s3fifo, lru, size",        \
      "Which goes first. `s3fifo`: what was asked for once; `lru`: the oldest access; `size`: "    \
      "what nobody asked for since `max_age`, then the largest by size / (accesses + 1).")         \
    X(cache, max_age, cache.max_age_ms, DURATION, "1m", "3650d", "7d", RELOAD, "duration",         \
      "For the policy `size`: unused for so long, an entry goes before all others.")               \
    X(cache, answer_ttl, cache.answer_ttl_ms, DURATION, "0s", "3650d", "0s", RELOAD, "duration",   \
      "An answer that nobody asked for during this time goes even where there is room. 0s: never.")\
    X(cache, mirror_ttl, cache.mirror_ttl_ms, DURATION, "0s", "3650d", "0s", RELOAD, "duration",   \
      "The same for mirrors.")                                                                     \
    X(cache, unreachable_ttl, cache.unreachable_ttl_ms, DURATION, "1h", "3650d", "14d", RESTART,   \
      "duration", "How long a mirror keeps what is not reachable from anything asked for.")        \
    X(cache, compression, cache.compression, ENUM, NULL, NULL, "auto", RESTART, "auto, on, off",   \
      "Keep answers compressed by zstd: where a sample says that it pays, always, or never.")      \
    X(cache, maintenance_interval, cache.maintenance_interval_ms, DURATION, "100ms", "1d", "5m",   \
      RESTART, "duration", "How often to look which mirrors need a repack.")                       \
    X(cache, maintenance_threads, cache.maintenance_threads, COUNT, "0", "64", "1", RESTART,       \
      "mirrors", "Mirrors repacked or verified at once, in the background. 0: none.")              \
    X(cache, maintenance_memory, cache.maintenance_memory_bytes, SIZE, "16M", "1T", "256M",        \
      RESTART, "size", "Memory that git may use for one repack, about.")                           \
    X(cache, verify_interval, cache.verify_interval_ms, DURATION, "0s", "3650d", "30d", RESTART,   \
      "duration", "Each entry is read again about this often, in the background. 0s: never.")

#define CONFIG_SHARED(X)                                                                           \
    X(shared, driver, shared.driver, ENUM, NULL, NULL, "off", RESTART, "off, s3, libs3, file",     \
      "Where answers and mirrors are kept for all nodes: an S3 endpoint (`s3`), one that wants "   \
      "signature V2 (`libs3`), a folder on a shared file system (`file`), or nowhere.")            \
    X(shared, endpoint, shared.endpoint, TEXT, NULL, NULL, NULL, RESTART, "http(s)://host[:port]", \
      "The endpoint; for `file` the folder, as an absolute path.")                                 \
    X(shared, bucket, shared.bucket, TEXT, NULL, NULL, NULL, RESTART, "name",                      \
      "The bucket, which has to be there; for `file` a folder below the endpoint, or nothing.")    \
    X(shared, prefix, shared.prefix, TEXT, NULL, NULL, NULL, RESTART, "text",                      \
      "Stands before every key as it is, so end it with `/`.")                                     \
    X(shared, region, shared.region, TEXT, NULL, NULL, "us-east-1", RESTART, "name",               \
      "What requests are signed for.")                                                             \
    X(shared, virtual_host, shared.virtual_host, BOOL, NULL, NULL, "false", RESTART, "true, false",\
      "The bucket stands in the host (`bucket.host/key`) rather than in the path.")                \
    X(shared, ca_file, shared.ca_file, FILE, NULL, NULL, NULL, RESTART, "file",                    \
      "Certificates (PEM) to trust in place of the system's; an absolute path.")                   \
    X(shared, credentials_file, shared.credentials_file, FILE, NULL, NULL, NULL, RESTART, "file",  \
      "Keys in the form of `~/.aws/credentials`, read again every minute. Without it: the "        \
      "environment, or the machine's identity. `libs3` takes the environment's only.")             \
    X(shared, server_side_encryption, shared.server_side_encryption, TEXT, NULL, NULL, NULL,       \
      RESTART, "AES256, aws:kms", "What the endpoint is asked to encrypt objects with.")           \
    X(shared, kms_key, shared.kms_key, TEXT, NULL, NULL, NULL, RESTART, "id",                      \
      "The key for `aws:kms`; without it the bucket's own.")                                       \
    X(shared, max_size, shared.max_size_bytes, SIZE, "0", "8388607T", "0", RELOAD, "size",         \
      "All objects together; beyond it the least useful go. 0: no limit.")                         \
    X(shared, ttl, shared.ttl_ms, DURATION, "0s", "3650d", "0s", RELOAD, "duration",               \
      "What nobody asked for during this time goes. 0s: never.")                                   \
    X(shared, policy, shared.policy, ENUM, NULL, NULL, "s3fifo", RELOAD, "s3fifo, lru, size",      \
      "Which goes first; as `cache.policy`.")                                                      \
    X(shared, tidy_interval, shared.tidy_interval_ms, DURATION, "1s", "30d", "10m", RESTART,        \
      "duration", "How often one of the nodes lists all objects to keep to `max_size` and `ttl`.") \
    X(shared, hot, shared.hot_ms, DURATION, "1s", "3650d", "10m", RELOAD, "duration",              \
      "An entry over a tenth of `cache.local_size` leaves the local disk when nobody asked for it "\
      "for so long and it lies in the shared tier.")                                               \
    X(shared, uploads, shared.uploads, COUNT, "1", "256", "2", RESTART, "entries",                 \
      "Entries on their way into the shared tier at once.")                                        \
    X(shared, upload_queue, shared.upload_queue, COUNT, "1", "1000000", "1024", RESTART,           \
      "entries", "Entries that may wait for it; what comes beyond stays local.")                   \
    X(shared, parallel, shared.parallel, COUNT, "1", "32", "4", RESTART, "requests",               \
      "Parts or ranges of one large object at once.")                                              \
    X(shared, connect_timeout, shared.connect_timeout_ms, DURATION, "10ms", "1m", "2s", RESTART,   \
      "duration", "For a connection to stand, TLS included.")                                      \
    X(shared, stall_timeout, shared.stall_timeout_ms, DURATION, "10ms", "10m", "5s", RESTART,      \
      "duration", "Between two bytes, once they flow.")                                            \
    X(shared, deadline, shared.deadline_ms, DURATION, "10ms", "10m", "5s", RESTART, "duration",    \
      "For a request with its retries, until its bytes flow. Beyond it the shared tier counts as " \
      "away and clients are served without it.")

#define CONFIG_REDIS(X)                                                                            \
    X(redis, url, redis.url, TEXT, NULL, NULL, NULL, RESTART,                                      \
      "redis://, rediss://, unix://, sentinel:// or rediss+sentinel:// URL",                       \
      "What nodes coordinate through; without it this node is alone. Passwords don't belong here.")\
    X(redis, password_file, redis.password_file, FILE, NULL, NULL, NULL, RESTART, "file",          \
      "The password in its first line; or in two lines user and password. Read at each connect.")  \
    X(redis, ca_file, redis.ca_file, FILE, NULL, NULL, NULL, RESTART, "file",                      \
      "Certificates (PEM) to trust for Redis's TLS in place of the system's.")                     \
    X(redis, certificate, redis.certificate, FILE, NULL, NULL, NULL, RESTART, "file",              \
      "Shown to a Redis with TLS that asks for one (PEM). Read at each connect.")           \
    X(redis, key, redis.key, FILE, NULL, NULL, NULL, RESTART, "file",                              \
      "Its key (PEM). Read at each connect.")                                                      \
    X(redis, prefix, redis.prefix, TEXT, NULL, NULL, "pannier:", RESTART, "text",                  \
      "Stands before every key and channel.")                                                      \
    X(redis, timeout, redis.timeout_ms, DURATION, "10ms", "1m", "1s", RESTART, "duration",         \
      "For one command, with connecting. Beyond it Redis counts as away.")

#define CONFIG_CLUSTER(X)                                                                          \
    X(cluster, listen, cluster.listen, ADDRESS, NULL, NULL, NULL, RESTART, "HOST:PORT",            \
      "Where other nodes follow answers that this one makes. Without it they can't.")              \
    X(cluster, advertise, cluster.advertise, TEXT, NULL, NULL, NULL, RESTART, "HOST:PORT",         \
      "How other nodes reach that address. Without it: as it is listened on.")                     \
    X(cluster, secret_file, cluster.secret_file, FILE, NULL, NULL, NULL, RESTART, "file",          \
      "A line that all nodes have alike and nobody else: what they know each other by. Required "  \
      "with `listen`.")                                                                            \
    X(cluster, tls, cluster.tls, BOOL, NULL, NULL, "false", RESTART, "true, false",                \
      "Nodes speak https to each other, with the certificate of `tls`; all nodes alike.")          \
    X(cluster, ca_file, cluster.ca_file, FILE, NULL, NULL, NULL, RESTART, "file",                  \
      "Certificates (PEM) that those of other nodes are checked against in place of the system's.")\
    X(cluster, when_away, cluster.when_away, ENUM, NULL, NULL, "serve", RELOAD, "serve, pass",     \
      "While Redis can't be reached: `serve` goes on with what is on this disk and in the shared " \
      "tier; `pass` has upstream make every answer, so that nothing is served that others have "   \
      "invalidated meanwhile.")                                                                    \
    X(cluster, node_ttl, cluster.node_ttl_ms, DURATION, "500ms", "10m", "5s", RESTART, "duration", \
      "A node that says nothing for so long counts as gone.")                                      \
    X(cluster, lease_ttl, cluster.lease_ttl_ms, DURATION, "100ms", "10m", "15s", RESTART,          \
      "duration", "A node that stalls for so long loses what it was doing for all to another.")

#define CONFIG_ADMIN(X)                                                                            \
    X(admin, listen, admin.listen, LISTEN, NULL, NULL, "127.0.0.1:8081", RESTART,                  \
      "HOST:PORT, off",                                                                            \
      "Where operators are served: metrics, the API, the page. Beyond loopback only with "         \
      "`tokens_file`. That the default address is taken is a warning; one that was asked for has "  \
      "to be free.")                                                                               \
    X(admin, tokens_file, admin.tokens_file, FILE, NULL, NULL, NULL, RESTART, "file",              \
      "Who may do what there: lines `name scope[,scope] sha256:<hex of the token's digest>`, "     \
      "with the scopes `read` and `operate`. Read again when it changes. Without it everybody who " \
      "reaches the address may do all.")                                                           \
    X(admin, hosts, admin.hosts, TEXT, NULL, NULL, NULL, RESTART, "name[, name]",                  \
      "Further names by which browsers reach it. A request that shows no token is refused under "  \
      "any other than these, loopback's, and the one in `listen`.")

#define CONFIG_METRICS(X)                                                                          \
    X(metrics, repositories, metrics.repositories, COUNT, "0", "4000", "50", RELOAD,              \
      "repositories",                                                                              \
      "Repositories with metrics of their own: those that are asked for most. The rest are "       \
      "counted as `other`.")

#define CONFIG_WARM(X)                                                                             \
    X(warm, schedule, warm.schedule, SCHEDULE, NULL, NULL, NULL, RELOAD, "cron's five fields",     \
      "When to fetch ahead, as cron has it: `0 6 * * 1-5`, or `@hourly`, `@daily`, `@weekly`, "    \
      "`@monthly`, `@yearly`. One that was missed is made up for once. Without it: never by itself.")\
    X(warm, time_zone, warm.time_zone, TEXT, NULL, NULL, "UTC", RELOAD, "IANA time zone",          \
      "Whose clocks `schedule` goes by: `Europe/Berlin`.")                                         \
    X(warm, parallelism, warm.parallelism, COUNT, "1", "64", "1", RESTART, "jobs",                 \
      "Jobs of the queue that this node does at once.")                                            \
    X(warm, most_used, warm.most_used, COUNT, "0", "1000", "0", RELOAD, "repositories",            \
      "So many of those that are asked for most are fetched ahead besides `repositories`.")

#define CONFIG_WARM_REPOSITORIES(X)                                                                \
    X(warm_repositories, url, url, TEXT, NULL, NULL, NULL, RELOAD, "upstream/path, or its URL",    \
      "What to fetch ahead. Its host has to be among `upstreams`. Required.")                      \
    X(warm_repositories, branches, branches, BRANCHES, NULL, NULL, NULL, RELOAD,                   \
      "list of branches", "Of which shallow answers are made. Without it: the default branch.")    \
    X(warm_repositories, depth, depth, COUNT, "1", "1000000", "1", RELOAD, "commits",              \
      "How deep these are: what jobs ask for with `--depth`.")                                     \
    X(warm_repositories, priority, priority, ENUM, NULL, NULL, "normal", RELOAD,                   \
      "high, normal, low", "Which go first.")

#define CONFIG_LOG(X)                                                                              \
    X(log, format, log.format, ENUM, NULL, NULL, "text", RELOAD, "text, json",                     \
      "The form of the lines on stderr.")                                                          \
    X(log, level, log.level, ENUM, NULL, NULL, "info", RELOAD, "debug, info, warn, error",         \
      "The least important lines that are still written.")

/* The lists of mappings below the top: their rows, and in struct config the type of their entries,
 * which has the name of the list, too, and the member that counts them; then how many there may be,
 * and what to do who has more. */
#define CONFIG_LISTS(Y)                                                                            \
    Y(upstreams, CONFIG_UPSTREAMS, upstream_config, upstream_count, 1000, "use patterns with '*'", \
      "'- name: ...' with 'url: ...'")                                                             \
    Y(clients, CONFIG_CLIENTS, client_config, client_count, 1000, "use networks",                  \
      "'- name: ...' with 'token_hash: ...' and 'repositories: [...]'")

/* Those within a mapping: as above, and the mapping, and the list's key there. */
#define CONFIG_INNER_LISTS(Y)                                                                      \
    Y(warm_repositories, CONFIG_WARM_REPOSITORIES, warm_repository_config, warm_repository_count,  \
      1000, "use 'most_used'", "'- url: ...'", warm, repositories)
/* What mappings hold besides settings. */
#define CONFIG_NO_LISTS(Z)
#define CONFIG_WARM_LISTS(Z) Z(warm, repositories, warm_repositories)

/* The mappings below the top, and the lists that they hold. */
#define CONFIG_SECTIONS(Y)                                                                         \
    Y(tls, CONFIG_TLS, CONFIG_NO_LISTS)                                                            \
    Y(limits, CONFIG_LIMITS, CONFIG_NO_LISTS)                                                      \
    Y(cache, CONFIG_CACHE, CONFIG_NO_LISTS)                                                        \
    Y(shared, CONFIG_SHARED, CONFIG_NO_LISTS)                                                      \
    Y(redis, CONFIG_REDIS, CONFIG_NO_LISTS)                                                        \
    Y(cluster, CONFIG_CLUSTER, CONFIG_NO_LISTS)                                                    \
    Y(admin, CONFIG_ADMIN, CONFIG_NO_LISTS)                                                        \
    Y(metrics, CONFIG_METRICS, CONFIG_NO_LISTS)                                                    \
    Y(warm, CONFIG_WARM, CONFIG_WARM_LISTS)                                                        \
    Y(log, CONFIG_LOG, CONFIG_NO_LISTS)

#define CONFIG_TABLE(X)                                                                            \
    CONFIG_TOP(X) CONFIG_TLS(X) CONFIG_UPSTREAMS(X) CONFIG_CLIENTS(X) CONFIG_LIMITS(X)             \
    CONFIG_CACHE(X) CONFIG_SHARED(X) CONFIG_REDIS(X) CONFIG_CLUSTER(X) CONFIG_ADMIN(X)             \
    CONFIG_METRICS(X) CONFIG_WARM(X) CONFIG_WARM_REPOSITORIES(X) CONFIG_LOG(X)
/* clang-format on */

#endif
