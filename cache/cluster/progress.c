#include "cache/cluster/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/bytes.h"

enum {
    NAMES_MAX_BYTES = 4 << 20,
    ID_TIME_DIGITS = 8,     /* of an id, in front; the rest is by chance */
    CLOCKS_DIFFER_S = 3600, /* between nodes; more is no time of an id */
};

static const char *const state_names[] = {"waiting", "running", "done", "failed"};

/* KEYS: hash, list.  ARGV: id, by, now, how many tasks, ttl, names by line. */
static const char BEGIN[] =
    "local n = 0\n"
    "for name in string.gmatch(ARGV[6], '[^\\n]+') do\n"
    "  redis.call('HSET', KEYS[1], 'name:' .. n, name, 'state:' .. n, 'waiting')\n"
    "  n = n + 1\n"
    "end\n"
    "redis.call('HSET', KEYS[1], 'by', ARGV[2], 'started', ARGV[3], 'ended', 0, 'total', n,\n"
    "           'done', 0, 'failed', 0)\n"
    "redis.call('EXPIRE', KEYS[1], ARGV[5])\n"
    "redis.call('LPUSH', KEYS[2], ARGV[1])\n"
    "while redis.call('LLEN', KEYS[2]) > tonumber(ARGV[4]) do\n"
    "  local old = redis.call('RPOP', KEYS[2])\n"
    "  redis.call('DEL', string.sub(KEYS[1], 1, -#ARGV[1] - 1) .. old)\n"
    "end\n"
    "return redis.call('EXPIRE', KEYS[2], ARGV[5])\n";
/* KEYS: hash.  ARGV: item, state, detail, error, now, ttl.  0: not known. */
static const char SET[] =
    "local old = redis.call('HGET', KEYS[1], 'state:' .. ARGV[1])\n"
    "if not old then return 0 end\n"
    "redis.call('HSET', KEYS[1], 'state:' .. ARGV[1], ARGV[2], 'detail:' .. ARGV[1], ARGV[3],\n"
    "           'error:' .. ARGV[1], ARGV[4])\n"
    "if old == 'done' or old == 'failed' then redis.call('HINCRBY', KEYS[1], old, -1) end\n"
    "if ARGV[2] == 'done' or ARGV[2] == 'failed' then\n"
    "  redis.call('HINCRBY', KEYS[1], ARGV[2], 1)\n"
    "end\n"
    "local n = redis.call('HMGET', KEYS[1], 'done', 'failed', 'total')\n"
    "local all = tonumber(n[1]) + tonumber(n[2]) >= tonumber(n[3])\n"
    "redis.call('HSET', KEYS[1], 'ended', all and ARGV[5] or 0)\n"
    "redis.call('EXPIRE', KEYS[1], ARGV[6])\n"
    "return 1\n";

struct local_task {
    struct progress_task task;
    struct local_task *prev, *next; /* newest first */
};

struct progress {
    struct redis *redis; /* NULL: within the process */
    char *list_key;
    struct redis_script begin, set;

    struct lock lock;
    struct local_task *tasks;
    size_t count;
};

const char *progress_state_name(enum progress_state state)
{
    return state_names[state];
}

static char *copy(const char *s)
{
    return s != NULL ? xstrdup(s) : NULL;
}

void progress_task_clear(struct progress_task *t)
{
    for (size_t i = 0; t->items != NULL && i < t->total; i++) {
        free(t->items[i].name);
        free(t->items[i].detail);
        free(t->items[i].error);
    }
    free(t->items);
    free(t->by);
    *t = (struct progress_task){.total = 0};
}

void progress_tasks_clear(struct progress_tasks *t)
{
    for (size_t i = 0; i < t->count; i++)
        progress_task_clear(&t->tasks[i]);
    free(t->tasks);
    *t = (struct progress_tasks){NULL, 0};
}

static void copy_head(const struct progress_task *from, struct progress_task *to)
{
    *to = *from;
    to->by = copy(from->by);
    to->items = NULL;
}

static int unknown(struct err *err)
{
    return err_set(err, ERR_NOT_FOUND, "nothing is known of this; it is long ago, or was lost");
}

/* ---- ids ---- */

static void make_id(int64_t now_s, char id[REDIS_TOKEN_SIZE])
{
    char digits[ID_TIME_DIGITS + 1];

    redis_token(id);
    snprintf(digits, sizeof(digits), "%08x", (unsigned)(uint32_t)now_s);
    memcpy(id, digits, ID_TIME_DIGITS);
}

/* When the task with this id began. */
static int64_t time_of(const char *id)
{
    char digits[ID_TIME_DIGITS + 1];

    snprintf(digits, sizeof(digits), "%s", id);
    return (int64_t)strtoul(digits, NULL, 16);
}

/* ---- within the process ---- */

static void drop_locked(struct progress *p, struct local_task *t)
{
    DL_DELETE(p->tasks, t);
    p->count--;
    progress_task_clear(&t->task);
    free(t);
}

static struct local_task *find_locked(struct progress *p, const char *id)
{
    struct local_task *t;

    DL_FOREACH(p->tasks, t)
    if (strcmp(t->task.id, id) == 0)
        return t;
    return NULL;
}

static void begin_here(struct progress *p, const struct progress_task *head,
                       const char *const *names)
{
    struct local_task *t = xcalloc(1, sizeof(*t));

    copy_head(head, &t->task);
    t->task.items = xcalloc(head->total, sizeof(*t->task.items));
    for (size_t i = 0; i < head->total; i++)
        t->task.items[i].name = xstrdup(names[i]);
    lock_take(&p->lock);
    DL_PREPEND(p->tasks, t);
    p->count++;
    if (p->count > PROGRESS_TASKS_MAX)
        drop_locked(p, p->tasks->prev); /* the head's is the last one */
    lock_drop(&p->lock);
}

static void count(struct progress_task *t, enum progress_state state, bool more)
{
    size_t *n = state == PROGRESS_DONE ? &t->done : state == PROGRESS_FAILED ? &t->failed : NULL;

    if (n != NULL)
        *n = more ? *n + 1 : *n - 1;
}

static void change(struct progress_task *t, size_t item, enum progress_state state,
                   const char *detail, const char *error, int64_t now_s)
{
    struct progress_item *i = &t->items[item];

    count(t, i->state, false);
    count(t, state, true);
    i->state = state;
    free(i->detail);
    free(i->error);
    i->detail = copy(detail);
    i->error = copy(error);
    t->ended = t->done + t->failed == t->total ? now_s : 0;
}

static int set_here(struct progress *p, const char *id, size_t item, enum progress_state state,
                    const char *detail, const char *error, int64_t now_s, struct err *err)
{
    struct local_task *t;
    bool known;

    lock_take(&p->lock);
    t = find_locked(p, id);
    known = t != NULL && item < t->task.total;
    if (known)
        change(&t->task, item, state, detail, error, now_s);
    lock_drop(&p->lock);
    return known ? 0 : unknown(err);
}

static void list_here(struct progress *p, struct progress_tasks *out)
{
    const struct local_task *t;

    lock_take(&p->lock);
    out->tasks = xcalloc(p->count + 1, sizeof(*out->tasks));
    DL_FOREACH(p->tasks, t)
    copy_head(&t->task, &out->tasks[out->count++]);
    lock_drop(&p->lock);
}

static void copy_items(const struct progress_task *from, struct progress_task *to)
{
    to->items = xcalloc(from->total, sizeof(*to->items));
    for (size_t i = 0; i < from->total; i++)
        to->items[i] = (struct progress_item){
            .name = copy(from->items[i].name),
            .state = from->items[i].state,
            .detail = copy(from->items[i].detail),
            .error = copy(from->items[i].error),
        };
}

static int get_here(struct progress *p, const char *id, struct progress_task *out, struct err *err)
{
    const struct local_task *t;

    lock_take(&p->lock);
    t = find_locked(p, id);
    if (t != NULL) {
        copy_head(&t->task, out);
        copy_items(&t->task, out);
    }
    lock_drop(&p->lock);
    return t != NULL ? 0 : unknown(err);
}

/* ---- in Redis ---- */

static char *key_of_task(struct progress *p, const char *id)
{
    return redis_key(p->redis, "progress:%s", id);
}

static int begin_there(struct progress *p, const struct progress_task *head,
                       const char *const *names, struct err *err)
{
    char now[REDIS_NUMBER_SIZE], max[REDIS_NUMBER_SIZE], ttl[REDIS_NUMBER_SIZE];
    char *key = key_of_task(p, head->id);
    struct bytes lines;
    int rc = 0;

    bytes_init(&lines, NAMES_MAX_BYTES);
    for (size_t i = 0; i < head->total && rc == 0; i++)
        rc = bytes_addf(&lines, "%s\n", names[i]);
    if (rc != 0)
        err_set(err, ERR_LIMIT, "the names take more than %d bytes", NAMES_MAX_BYTES);
    else
        rc = redis_run(p->redis, &p->begin, REDIS_WORDS(key, p->list_key),
                       REDIS_WORDS(head->id, head->by, redis_number((uint64_t)head->started, now),
                                   redis_number(PROGRESS_TASKS_MAX, max),
                                   redis_number(PROGRESS_TTL_S, ttl), lines.data),
                       NULL, err);
    bytes_clear(&lines);
    free(key);
    return rc;
}

static int set_there(struct progress *p, const char *id, size_t item, enum progress_state state,
                     const char *detail, const char *error, int64_t now_s, struct err *err)
{
    char n[REDIS_NUMBER_SIZE], now[REDIS_NUMBER_SIZE], ttl[REDIS_NUMBER_SIZE];
    char *key = key_of_task(p, id);
    struct redis_reply *reply = NULL;
    int rc = redis_run(p->redis, &p->set, REDIS_WORDS(key),
                       REDIS_WORDS(redis_number(item, n), state_names[state],
                                   detail != NULL ? detail : "", error != NULL ? error : "",
                                   redis_number((uint64_t)now_s, now),
                                   redis_number(PROGRESS_TTL_S, ttl)),
                       &reply, err);

    if (rc == 0 && reply->integer != 1)
        rc = unknown(err);
    redis_reply_free(&reply);
    free(key);
    return rc;
}

/* by, started, ended, total, done, failed */
static bool read_head(const struct redis_reply *fields, const char *id, struct progress_task *out)
{
    int64_t total = redis_item_integer(fields, 3), done = redis_item_integer(fields, 4);
    int64_t failed = redis_item_integer(fields, 5);

    if (total < 1 || total > PROGRESS_ITEMS_MAX || done < 0 || failed < 0 || done + failed > total)
        return false;
    *out = (struct progress_task){
        .by = xstrdup(redis_item_text(fields, 0)),
        .started = redis_item_integer(fields, 1),
        .ended = redis_item_integer(fields, 2),
        .total = (size_t)total,
        .done = (size_t)done,
        .failed = (size_t)failed,
    };
    snprintf(out->id, sizeof(out->id), "%s", id);
    return true;
}

static int get_head(struct progress *p, const char *id, struct progress_task *out, struct err *err)
{
    char *key = key_of_task(p, id);
    struct redis_reply *fields = NULL;
    int rc = redis_ask(
        p->redis, REDIS_WORDS("HMGET", key, "by", "started", "ended", "total", "done", "failed"),
        &fields, err);

    if (rc == 0 && !read_head(fields, id, out))
        rc = unknown(err);
    redis_reply_free(&fields);
    free(key);
    return rc;
}

static int list_there(struct progress *p, struct progress_tasks *out, struct err *err)
{
    struct redis_reply *ids = NULL;
    int rc = redis_ask(p->redis, REDIS_WORDS("LRANGE", p->list_key, "0", "-1"), &ids, err);

    if (rc == 0)
        out->tasks = xcalloc(ids->count + 1, sizeof(*out->tasks));
    for (size_t i = 0; rc == 0 && i < ids->count; i++) {
        rc = get_head(p, redis_item_text(ids, i), &out->tasks[out->count], err);
        if (rc == 0)
            out->count++;
        else if (err->kind == ERR_NOT_FOUND) /* its time is over */
            rc = 0;
    }
    redis_reply_free(&ids);
    if (rc != 0)
        progress_tasks_clear(out);
    return rc;
}

/* "state:12" with its value. */
static void read_field(struct progress_task *t, const char *name, const char *value)
{
    const char *colon = strchr(name, ':');
    struct progress_item *item;
    char *end, **text = NULL;
    unsigned long n;

    if (colon == NULL)
        return;
    n = strtoul(colon + 1, &end, 10);
    if (*end != '\0' || n >= t->total)
        return;
    item = &t->items[n];
    if (strncmp(name, "state:", 6) == 0) {
        for (size_t i = 0; i < ARRAY_LEN(state_names); i++)
            if (strcmp(state_names[i], value) == 0)
                item->state = (enum progress_state)i;
    } else if (strncmp(name, "name:", 5) == 0) {
        text = &item->name;
    } else if (strncmp(name, "detail:", 7) == 0) {
        text = &item->detail;
    } else if (strncmp(name, "error:", 6) == 0) {
        text = &item->error;
    }
    if (text != NULL && *text == NULL && *value != '\0')
        *text = xstrdup(value);
}

static int get_there(struct progress *p, const char *id, struct progress_task *out, struct err *err)
{
    char *key = key_of_task(p, id);
    struct redis_reply *fields = NULL;
    int rc = get_head(p, id, out, err);

    if (rc == 0) {
        rc = redis_ask(p->redis, REDIS_WORDS("HGETALL", key), &fields, err);
        if (rc != 0)
            progress_task_clear(out);
    }
    if (rc == 0) {
        out->items = xcalloc(out->total, sizeof(*out->items));
        for (size_t i = 0; i + 1 < fields->count; i += 2)
            read_field(out, redis_item_text(fields, i), redis_item_text(fields, i + 1));
        for (size_t i = 0; i < out->total; i++)
            if (out->items[i].name == NULL)
                out->items[i].name = xstrdup("");
    }
    redis_reply_free(&fields);
    free(key);
    return rc;
}

/* ---- whichever it is ---- */

int progress_begin(struct progress *p, const char *by, const char *const *names, size_t total,
                   int64_t now_s, char id[REDIS_TOKEN_SIZE], struct err *err)
{
    struct progress_task head = {.by = (char *)by, .started = now_s, .total = total};
    int rc = 0;

    must(total >= 1 && total <= PROGRESS_ITEMS_MAX);
    for (size_t i = 0; i < total; i++)
        must(names[i][0] != '\0' && strchr(names[i], '\n') == NULL);
    make_id(now_s, head.id);
    if (p->redis != NULL)
        rc = begin_there(p, &head, names, err);
    else
        begin_here(p, &head, names);
    memcpy(id, head.id, sizeof(head.id));
    return rc;
}

int progress_set(struct progress *p, const char *id, size_t item, enum progress_state state,
                 const char *detail, const char *error, int64_t now_s, struct err *err)
{
    return p->redis != NULL ? set_there(p, id, item, state, detail, error, now_s, err)
                            : set_here(p, id, item, state, detail, error, now_s, err);
}

int progress_list(struct progress *p, struct progress_tasks *out, struct err *err)
{
    *out = (struct progress_tasks){NULL, 0};
    if (p->redis != NULL)
        return list_there(p, out, err);
    list_here(p, out);
    return 0;
}

/* It should be among those that are known, unless so many began after it. */
static bool was_lost(const struct progress_tasks *known, const char *id)
{
    return known->count < PROGRESS_TASKS_MAX ||
           time_of(known->tasks[known->count - 1].id) < time_of(id);
}

/* For who asks for one that isn't known. */
static int explain(struct progress *p, const char *id, int64_t now_s, struct err *err)
{
    struct progress_tasks known;
    int64_t began = time_of(id);

    if (began > now_s + CLOCKS_DIFFER_S)
        return err_set(err, ERR_NOT_FOUND, "none has this id");
    if (began + PROGRESS_TTL_S <= now_s)
        return err_set(err, ERR_NOT_FOUND, "none that began within the last %d days has this id",
                       PROGRESS_TTL_S / (24 * 3600));
    if (progress_list(p, &known, err) != 0)
        return -1;
    if (!was_lost(&known, id))
        err_set(err, ERR_NOT_FOUND, "it is not among the last %d, which are all that is known",
                PROGRESS_TASKS_MAX);
    else if (p->redis != NULL)
        err_set(err, ERR_NOT_FOUND,
                "Redis has lost it, if it ever was, and most likely what still waited: begin it "
                "again; what is there already costs little");
    else
        err_set(err, ERR_NOT_FOUND,
                "it is lost, if it ever was: pannier was started anew, and what waited then is not "
                "done any more; begin it again; what is there already costs little");
    progress_tasks_clear(&known);
    return -1;
}

int progress_get(struct progress *p, const char *id, int64_t now_s, struct progress_task *out,
                 struct err *err)
{
    int rc;

    *out = (struct progress_task){.total = 0};
    rc = p->redis != NULL ? get_there(p, id, out, err) : get_here(p, id, out, err);
    if (rc != 0 && err->kind == ERR_NOT_FOUND)
        rc = explain(p, id, now_s, err);
    return rc;
}

/* ---- beginning and end ---- */

struct progress *progress_new(struct redis *redis)
{
    struct progress *p = xcalloc(1, sizeof(*p));

    p->redis = redis;
    lock_init(&p->lock, LOCK_PROGRESS);
    if (redis != NULL) {
        p->list_key = redis_key(redis, "progress:tasks");
        redis_script_init(&p->begin, BEGIN);
        redis_script_init(&p->set, SET);
    }
    return p;
}

void progress_free(struct progress **pp)
{
    struct progress *p = *pp;

    *pp = NULL;
    if (p == NULL)
        return;
    while (p->tasks != NULL)
        drop_locked(p, p->tasks);
    free(p->list_key);
    lock_clear(&p->lock);
    free(p);
}
