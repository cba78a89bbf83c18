#include "proxy/warm/warmups.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <uthash.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/smart_http.h"
#include "proxy/fleet.h"
#include "proxy/log.h"
#include "proxy/metrics.h"

struct warmups {
    struct proxy *proxy;
    struct progress *progress;
};

struct warmups *warmups_new(struct proxy *p)
{
    struct warmups *w = xcalloc(1, sizeof(*w));

    w->proxy = p;
    w->progress = progress_new(cluster_redis(fleet_cluster(p->fleet)));
    return w;
}

void warmups_free(struct warmups **wp)
{
    struct warmups *w = *wp;

    *wp = NULL;
    if (w == NULL)
        return;
    progress_free(&w->progress);
    free(w);
}

struct progress *warmups_progress(struct warmups *w)
{
    return w->progress;
}

/* ---- lists ---- */

static void wish_clear(struct warmup_wish *w)
{
    for (size_t i = 0; i < w->branch_count; i++)
        free(w->branches[i]);
    free(w->branches);
    free(w->repository);
    *w = (struct warmup_wish){.repository = NULL};
}

void warmup_list_clear(struct warmup_list *l)
{
    for (size_t i = 0; i < l->count; i++)
        wish_clear(&l->wishes[i]);
    free(l->wishes);
    *l = (struct warmup_list){NULL, 0};
}

static bool is_listed(const struct warmup_list *l, const char *name)
{
    for (size_t i = 0; i < l->count; i++)
        if (strcmp(l->wishes[i].repository, name) == 0)
            return true;
    return false;
}

static int add_named(struct warmup_list *l, const char *name, const struct warmup_wish *wish,
                     struct err *err)
{
    struct warmup_wish *to;

    if (is_listed(l, name))
        return 0;
    if (l->count == PROGRESS_ITEMS_MAX)
        return err_set(err, ERR_LIMIT, "there are more than %d", PROGRESS_ITEMS_MAX);
    l->wishes = xrealloc(l->wishes, (l->count + 1) * sizeof(*l->wishes));
    to = &l->wishes[l->count++];
    *to = *wish;
    to->repository = xstrdup(name);
    to->branches = xcalloc(wish->branch_count + 1, sizeof(*to->branches));
    for (size_t i = 0; i < wish->branch_count; i++)
        to->branches[i] = xstrdup(wish->branches[i]);
    return 0;
}

int warmup_list_add(struct warmup_list *l, const struct config *config,
                    const struct warmup_wish *wish, struct err *err)
{
    char *name;
    int rc;

    if (warmup_name(config, wish->repository, &name, err) != 0)
        return -1;
    rc = add_named(l, name, wish, err);
    free(name);
    return rc;
}

void warmup_list_add_configured(struct warmup_list *l, const struct config *config)
{
    static const enum queue_priority priorities[] = {
        [WARM_HIGH] = QUEUE_HIGH, [WARM_NORMAL] = QUEUE_NORMAL, [WARM_LOW] = QUEUE_LOW};
    struct err ignored; /* that they are upstream's was checked when the file was read */

    for (size_t i = 0; i < config->warm_repository_count; i++) {
        const struct warm_repository_config *r = &config->warm_repositories[i];
        const struct warmup_wish wish = {.repository = r->url,
                                         .branches = r->branches.items,
                                         .branch_count = r->branches.count,
                                         .depth = r->depth,
                                         .priority = priorities[r->priority]};

        warmup_list_add(l, config, &wish, &ignored);
    }
}

/* ---- those that are asked for most ---- */

struct used {
    char *name;
    uint64_t accesses;
    UT_hash_handle hh;
};

/* Mirrors are left out: they are used by what is fetched ahead, too. */
static int count_use(void *ctx, const struct entry *e)
{
    struct used **all = ctx, *u;

    if (e->kind != ENTRY_ANSWER || e->accesses == 0)
        return 0;
    HASH_FIND_STR(*all, e->repo, u);
    if (u == NULL) {
        u = xcalloc(1, sizeof(*u));
        u->name = xstrdup(e->repo);
        HASH_ADD_KEYPTR(hh, *all, u->name, strlen(u->name), u);
    }
    u->accesses += e->accesses;
    return 0;
}

static int by_accesses(const struct used *a, const struct used *b)
{
    if (a->accesses != b->accesses)
        return a->accesses < b->accesses ? 1 : -1;
    return strcmp(a->name, b->name);
}

/* Names in the index are canonical already, unless somebody has tampered with it; their host may be
 * no upstream any more. */
static bool is_upstreams(const struct config *config, const char *name)
{
    char *upstream = xstrndup(name, strcspn(name, "/")), *base_url = NULL;
    bool is = name[strlen(upstream)] != '\0' && strchr(name, '\n') == NULL &&
              entry_can_name(name) && config_find_upstream(config, upstream, &base_url) != NULL;

    free(base_url);
    free(upstream);
    return is;
}

int warmup_list_add_most_used(struct warmup_list *l, struct proxy *p, const struct config *config,
                              size_t n, struct err *err)
{
    struct used *all = NULL, *u, *next;
    struct err ignored; /* the list is full */
    int rc = local_each(p->cache.local, count_use, &all, err);
    size_t taken = 0;

    HASH_SORT(all, by_accesses);
    HASH_ITER(hh, all, u, next)
    {
        const struct warmup_wish wish = {.depth = WARMUP_DEPTH_DEFAULT, .priority = QUEUE_NORMAL};

        if (rc == 0 && taken < n && is_upstreams(config, u->name) &&
            add_named(l, u->name, &wish, &ignored) == 0)
            taken++;
        HASH_DEL(all, u);
        free(u->name);
        free(u);
    }
    return rc;
}

/* ---- jobs ---- */

static char *write_job(const char *id, size_t item, const struct warmup_wish *wish)
{
    json_t *branches = json_array(), *job;
    char *text;

    for (size_t i = 0; i < wish->branch_count; i++)
        must(json_array_append_new(branches, json_string(wish->branches[i])) == 0);
    job =
        json_pack("{s:s, s:I, s:s, s:o, s:I}", "warmup", id, "item", (json_int_t)item, "repository",
                  wish->repository, "branches", branches, "depth", (json_int_t)wish->depth);
    must(job != NULL); /* names that are not UTF-8 were refused */
    text = json_dumps(job, JSON_COMPACT);
    must(text != NULL);
    json_decref(job);
    return text;
}

static bool read_branches(const json_t *list, struct warmup_wish *out)
{
    const json_t *name;
    size_t i;

    if (!json_is_array(list) || json_array_size(list) > WARMUP_BRANCHES_MAX)
        return false;
    out->branches = xcalloc(json_array_size(list) + 1, sizeof(*out->branches));
    json_array_foreach(list, i, name)
    {
        if (!json_is_string(name))
            return false;
        out->branches[out->branch_count++] = xstrdup(json_string_value(name));
    }
    return true;
}

int warmup_job_read(const char *payload, struct warmup_job *out, struct err *err)
{
    json_error_t ignored;
    json_t *json = json_loads(payload, JSON_REJECT_DUPLICATES, &ignored);
    const char *id = json_string_value(json_object_get(json, "warmup"));
    const char *repository = json_string_value(json_object_get(json, "repository"));
    json_int_t item = json_integer_value(json_object_get(json, "item"));
    json_int_t depth = json_integer_value(json_object_get(json, "depth"));
    bool ok = id != NULL && repository != NULL && item >= 0 && item < PROGRESS_ITEMS_MAX &&
              depth >= 1 && depth <= WARMUP_DEPTH_MAX;

    *out = (struct warmup_job){.id = NULL};
    if (ok) {
        out->id = xstrdup(id);
        out->item = (size_t)item;
        out->wish.repository = xstrdup(repository);
        out->wish.depth = (uint32_t)depth;
        ok = read_branches(json_object_get(json, "branches"), &out->wish);
    }
    json_decref(json);
    if (ok)
        return 0;
    warmup_job_clear(out);
    return err_set(err, ERR_INPUT, "this is no job that is known here");
}

void warmup_job_clear(struct warmup_job *job)
{
    free(job->id);
    wish_clear(&job->wish);
    *job = (struct warmup_job){.id = NULL};
}

/* What is lost with Redis, or forgotten, changes nothing for the work. */
static void note(struct warmups *w, const char *id, size_t item, enum progress_state state,
                 const char *detail, const char *error)
{
    struct err ignored;

    progress_set(w->progress, id, item, state, detail != NULL && *detail != '\0' ? detail : NULL,
                 error, (int64_t)time(NULL), &ignored);
}

static void log_failed(const struct warmup_wish *wish, const char *id, const struct err *why,
                       bool again)
{
    log_line(LOG_WARN, "not warmed up", "repository", LOG_STR, wish->repository, "warmup", LOG_STR,
             id, "reason", LOG_STR, why->text, "again", LOG_STR, again ? "yes" : "no", NULL);
}

static void fail_job(struct warmups *w, const char *id, size_t item, const struct warmup_wish *wish,
                     const struct err *why)
{
    note(w, id, item, PROGRESS_FAILED, NULL, why->text);
    metrics_count(CELL_WARMUPS_FAILED, 1);
    log_failed(wish, id, why, false);
}

/* -1: as queue_add(). */
static int add_job(struct warmups *w, const char *id, size_t item, const struct warmup_wish *wish,
                   struct err *err)
{
    struct queue *q = cluster_queue(fleet_cluster(w->proxy->fleet));
    const char *slash = strchr(wish->repository, '/');
    char *upstream = xstrndup(wish->repository, (size_t)(slash - wish->repository));
    char *payload = write_job(id, item, wish), *name, hex[KEY_HEX_SIZE];
    struct key repo_id;
    int rc;

    repo_id_of(upstream, slash + 1, &repo_id);
    key_to_hex(&repo_id, hex);
    name = xasprintf(WARMUP_JOBS "%s:%s", id, hex);
    rc = queue_add(q, wish->priority, name, payload, err);
    free(name);
    free(payload);
    free(upstream);
    return rc;
}

/* -1: Redis can't be asked.  What comes behind that one isn't tried: it is all begun again. */
static int add_jobs(struct warmups *w, const char *id, const struct warmup_list *list,
                    struct err *err)
{
    bool lost = false;

    for (size_t i = 0; i < list->count; i++) {
        struct err full;

        if (lost) {
            fail_job(w, id, i, &list->wishes[i], err);
        } else if (add_job(w, id, i, &list->wishes[i], &full) != 0) {
            fail_job(w, id, i, &list->wishes[i], &full);
            lost = full.kind != ERR_LIMIT;
            *err = full;
        }
    }
    return lost ? -1 : 0;
}

int warmups_begin(struct warmups *w, const char *by, const struct warmup_list *list,
                  char id[REDIS_TOKEN_SIZE], struct err *err)
{
    const char **names = xcalloc(list->count, sizeof(*names));
    int rc;

    for (size_t i = 0; i < list->count; i++)
        names[i] = list->wishes[i].repository;
    rc = progress_begin(w->progress, by, names, list->count, (int64_t)time(NULL), id, err);
    free(names);
    if (rc != 0)
        return -1;
    log_line(LOG_INFO, "warm-up begins", "warmup", LOG_STR, id, "by", LOG_STR, by, "repositories",
             LOG_U64, (uint64_t)list->count, NULL);
    return add_jobs(w, id, list, err);
}

int warmups_do(struct warmups *w, const struct config *config, struct warmup_job *job,
               struct err *err)
{
    const struct ahead_wish wish = {.name = job->wish.repository,
                                    .branches = job->wish.branches,
                                    .branch_count = job->wish.branch_count,
                                    .depth = job->wish.depth};
    uint64_t started = now_us();
    int rc;

    note(w, job->id, job->item, PROGRESS_RUNNING, NULL, NULL);
    rc = ahead_make(w->proxy, config, &wish, &job->made, err);
    job->took_us = now_us() - started;
    return rc;
}

void warmups_done(struct warmups *w, const struct warmup_job *job, const struct err *why,
                  bool again)
{
    const struct ahead_made *m = &job->made;

    note(w, job->id, job->item,
         why == NULL ? PROGRESS_DONE
         : again     ? PROGRESS_WAITING
                     : PROGRESS_FAILED,
         m->text, why != NULL ? why->text : NULL);
    if (!again)
        metrics_count(why == NULL ? CELL_WARMUPS_DONE : CELL_WARMUPS_FAILED, 1);
    if (why != NULL)
        log_failed(&job->wish, job->id, why, again);
    else
        log_line(LOG_INFO, "warmed up", "repository", LOG_STR, job->wish.repository, "warmup",
                 LOG_STR, job->id, "mirror", LOG_STR, ahead_mirror_word(m), "missing", LOG_U64,
                 (uint64_t)m->refreshed.missing, "answers", LOG_U64, (uint64_t)m->answers, "there",
                 LOG_U64, (uint64_t)m->there, "total_ms", LOG_MS, job->took_us, NULL);
}
