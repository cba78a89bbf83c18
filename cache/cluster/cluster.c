#include "cache/cluster/cluster.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "protocol/base.h"

enum { LEASE_TTL_DEFAULT_MS = 15000, INDEX_TTL_DEFAULT_S = 7 * 24 * 3600 };

struct cluster {
    struct redis *redis;
    struct leases *leases;
    struct nodes *nodes;
    struct events *events;
    struct queue *queue;
    struct shared_index *index;
    struct records *records;
    struct events_handler handler;
    char *position_file;
    bool stopped;
};

/* ---- the position ---- */

static void read_position(const char *path, char out[EVENT_ID_SIZE])
{
    FILE *f = path != NULL ? fopen(path, "re") : NULL;

    out[0] = '\0';
    if (f == NULL)
        return; /* none: this node takes everything for invalidated */
    if (fgets(out, EVENT_ID_SIZE, f) == NULL)
        out[0] = '\0';
    fclose(f);
    out[strcspn(out, "\n")] = '\0';
}

/* Without fsync: after a crash an older one stands there, from which events are applied again; or
 * none that makes sense, and everything is taken for invalidated. */
static bool write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (fd >= 0)
        close(fd);
    return ok;
}

static void keep_position(void *ctx, const char *position)
{
    struct cluster *c = ctx;
    char *tmp, *line;

    if (c->position_file == NULL)
        return;
    tmp = xasprintf("%s.new", c->position_file);
    line = xasprintf("%s\n", position);
    if (!write_file(tmp, line) || rename(tmp, c->position_file) != 0)
        unlink(tmp); /* the older one does as well */
    free(line);
    free(tmp);
}

static int apply(void *ctx, const char *id, const struct event *event, struct err *err)
{
    struct cluster *c = ctx;

    return c->handler.apply(c->handler.ctx, id, event, err);
}

static int missed(void *ctx, const char *why, struct err *err)
{
    struct cluster *c = ctx;

    return c->handler.missed(c->handler.ctx, why, err);
}

/* ---- beginning and end ---- */

int cluster_open(const struct cluster_config *config, struct cluster **out, struct err *err)
{
    struct cluster *c = xcalloc(1, sizeof(*c));
    uint64_t index_ttl_s = config->index_ttl_s != 0 ? config->index_ttl_s : INDEX_TTL_DEFAULT_S;
    struct events_handler handler = {
        .apply = apply, .missed = missed, .position = keep_position, .ctx = c};
    char position[EVENT_ID_SIZE];

    c->handler = config->handler;
    if ((config->redis.url != NULL && redis_open(&config->redis, &c->redis, err) != 0) ||
        nodes_new(c->redis, &config->node, &c->nodes, err) != 0) {
        cluster_free(&c);
        return -1;
    }
    c->position_file = config->position_file != NULL ? xstrdup(config->position_file) : NULL;
    read_position(c->position_file, position);
    c->events = events_new(c->redis, c->nodes, &handler, position, &config->events);
    c->leases = leases_new(c->redis, config->node.id,
                           config->lease_ttl_ms != 0 ? config->lease_ttl_ms : LEASE_TTL_DEFAULT_MS);
    c->queue = queue_new(c->redis, &config->queue);
    c->index = shared_index_new(c->redis, index_ttl_s);
    c->records = records_new(c->redis, c->index,
                             &(struct records_config){.node = nodes_id(c->nodes),
                                                      .list = config->list,
                                                      .ctx = config->list_ctx,
                                                      .again_ms = index_ttl_s * 1000 / 7});
    *out = c;
    return 0;
}

void cluster_start(struct cluster *c)
{
    if (c->redis != NULL)
        redis_start(c->redis);
}

void cluster_stop(struct cluster *c)
{
    if (c->stopped)
        return;
    c->stopped = true;
    leases_stop(c->leases);
    queue_stop(c->queue);
    records_stop(c->records);
    nodes_leave(c->nodes);
    /* Redis is stopped last, in cluster_free(): leases and jobs are given back until then. */
}

void cluster_free(struct cluster **cp)
{
    struct cluster *c = *cp;

    *cp = NULL;
    if (c == NULL)
        return;
    if (c->events != NULL)
        cluster_stop(c);
    if (c->redis != NULL)
        redis_stop(c->redis);
    events_free(&c->events);
    leases_free(&c->leases);
    queue_free(&c->queue);
    records_free(&c->records);
    shared_index_free(&c->index);
    nodes_free(&c->nodes);
    redis_free(&c->redis);
    free(c->position_file);
    free(c);
}

/* ---- questions ---- */

bool cluster_may_serve(struct cluster *c, uint64_t now_ms)
{
    return events_caught_up(c->events, now_ms);
}

bool cluster_trouble(struct cluster *c, struct err *why)
{
    if (c->redis == NULL)
        return false;
    return !redis_is_up(c->redis, why) || nodes_trouble(c->nodes, why);
}

struct redis *cluster_redis(struct cluster *c)
{
    return c->redis;
}

struct leases *cluster_leases(struct cluster *c)
{
    return c->leases;
}

struct nodes *cluster_nodes(struct cluster *c)
{
    return c->nodes;
}

struct events *cluster_events(struct cluster *c)
{
    return c->events;
}

struct queue *cluster_queue(struct cluster *c)
{
    return c->queue;
}

struct shared_index *cluster_index(struct cluster *c)
{
    return c->index;
}

struct records *cluster_records(struct cluster *c)
{
    return c->records;
}
