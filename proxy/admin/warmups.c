/* The handlers about warm-ups. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "protocol/base.h"
#include "proxy/admin/call.h"
#include "proxy/admin/handlers.h"
#include "proxy/warm/schedule.h"
#include "proxy/warm/warmups.h"

enum { FIELD_MAX = 80 };

_Static_assert(WARMUP_BRANCHES_MAX == 16 && WARMUP_BRANCH_MAX == 244 && WARMUP_DEPTH_MAX == 1000000,
               "the sentences here have these numbers, and so has openapi.json");

static const char *const no_names[] = {NULL};

/* ---- what is told ---- */

/* RFC 3339; null for 0. */
static json_t *time_json(int64_t s)
{
    time_t t = (time_t)s;
    char text[32];
    struct tm tm;

    if (s == 0 || gmtime_r(&t, &tm) == NULL)
        return json_null();
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
    return json_string(text);
}

static json_t *items_json(const struct progress_task *t)
{
    json_t *list = json_array();

    for (size_t i = 0; i < t->total; i++)
        must(json_array_append_new(list, json_pack("{s:o, s:s, s:o, s:o}", "repository",
                                                   json_words(t->items[i].name), "state",
                                                   progress_state_name(t->items[i].state), "detail",
                                                   json_words(t->items[i].detail), "error",
                                                   json_words(t->items[i].error))) == 0);
    return list;
}

static json_t *task_json(const struct progress_task *t)
{
    json_t *json =
        json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "id", t->id, "started",
                  time_json(t->started), "ended", time_json(t->ended), "by", json_words(t->by),
                  "total", json_number(t->total), "done", json_number(t->done), "failed",
                  json_number(t->failed), "waiting", json_number(t->total - t->done - t->failed));

    must(json != NULL);
    if (t->items != NULL)
        must(json_object_set_new(json, "repositories", items_json(t)) == 0);
    return json;
}

/* What is not known for want of Redis may be known later. */
static void reply_unknown(struct exchange *x, struct err *why)
{
    if (why->kind != ERR_NOT_FOUND)
        why->kind = ERR_BUSY;
    reply_failure(x, why);
}

static void reply_task(struct exchange *x, int status, const char *id)
{
    struct progress_task task;
    struct err why;

    if (progress_get(warmups_progress(x->proxy->warmups), id, (int64_t)time(NULL), &task, &why) !=
        0) {
        reply_unknown(x, &why);
        return;
    }
    reply_json(x, status, task_json(&task));
    progress_task_clear(&task);
}

void admin_list_warmups(struct exchange *x)
{
    struct progress_tasks tasks;
    json_t *list;
    struct err why;
    int64_t next;

    if (!call_knows(x, no_names))
        return;
    if (progress_list(warmups_progress(x->proxy->warmups), &tasks, &why) != 0) {
        reply_unknown(x, &why);
        return;
    }
    list = json_array();
    for (size_t i = 0; i < tasks.count; i++)
        must(json_array_append_new(list, task_json(&tasks.tasks[i])) == 0);
    progress_tasks_clear(&tasks);
    if (!schedule_next(x->proxy->schedule, (int64_t)time(NULL), &next))
        next = 0;
    reply_json(x, 200, json_pack("{s:o, s:o}", "warmups", list, "next", time_json(next)));
}

void admin_show_warmup(struct exchange *x)
{
    const char *id = call_of(x)->id;

    if (!call_knows(x, no_names))
        return;
    /* It becomes a part of a name in Redis. */
    if (strlen(id) != REDIS_TOKEN_SIZE - 1 ||
        strspn(id, "0123456789abcdef") != REDIS_TOKEN_SIZE - 1)
        reply_problem(x, 404, "id", "a warm-up's id is %d hex digits; see GET /api/v1/warmups",
                      REDIS_TOKEN_SIZE - 1);
    else
        reply_task(x, 200, id);
}

/* ---- what is asked for ---- */

/* A member of one of the repositories, and what is wrong with it. */
static bool refuse(struct exchange *x, size_t i, const char *member, const char *why)
{
    char field[FIELD_MAX];

    snprintf(field, sizeof(field), "repositories[%zu]%s%.32s", i, *member ? "." : "", member);
    reply_problem(x, 400, field, "%s", why);
    return false;
}

static bool knows_members(struct exchange *x, size_t i, json_t *object)
{
    static const char *const names[] = {"repository", "branches", "depth", "priority"};
    const char *name;
    json_t *value;

    json_object_foreach(object, name, value)
    {
        bool known = false;

        for (size_t n = 0; n < ARRAY_LEN(names); n++)
            known = known || strcmp(names[n], name) == 0;
        if (!known)
            return refuse(x, i, name, "this is no member of a repository here");
    }
    return true;
}

/* A text without NUL or other control characters, of a branch or a repository. */
static const char *text_of(const json_t *value, size_t max)
{
    const char *text = json_string_value(value);
    size_t len = json_string_length(value);

    if (text == NULL || len == 0 || len > max || strlen(text) != len)
        return NULL;
    for (const char *p = text; *p != '\0'; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            return NULL;
    return text;
}

/* out->branches points at borrowed texts. */
static bool read_branches(struct exchange *x, size_t i, const json_t *list, struct warmup_wish *out)
{
    const json_t *name;
    size_t n;

    if (list == NULL || json_is_null(list))
        return true;
    if (!json_is_array(list) || json_array_size(list) > WARMUP_BRANCHES_MAX)
        return refuse(x, i, "branches", "write a list of at most 16 branches");
    json_array_foreach(list, n, name)
    {
        const char *text = text_of(name, WARMUP_BRANCH_MAX);

        if (text == NULL)
            return refuse(x, i, "branches", "a branch's name is a text of 1 to 244 bytes");
        out->branches[out->branch_count++] = (char *)text;
    }
    return true;
}

static bool read_depth(struct exchange *x, size_t i, const json_t *value, struct warmup_wish *out)
{
    if (value == NULL || json_is_null(value))
        return true;
    if (!json_is_integer(value) || json_integer_value(value) < 1 ||
        json_integer_value(value) > WARMUP_DEPTH_MAX)
        return refuse(x, i, "depth", "write a number from 1 to 1000000, or null");
    out->depth = (uint32_t)json_integer_value(value);
    return true;
}

static bool read_priority(struct exchange *x, size_t i, const json_t *value,
                          struct warmup_wish *out)
{
    static const char *const words[] = {
        [QUEUE_HIGH] = "high", [QUEUE_NORMAL] = "normal", [QUEUE_LOW] = "low"};

    if (value == NULL)
        return true;
    for (size_t n = 0; n < ARRAY_LEN(words); n++)
        if (json_is_string(value) && strcmp(words[n], json_string_value(value)) == 0) {
            out->priority = (enum queue_priority)n;
            return true;
        }
    return refuse(x, i, "priority", "write high, normal or low");
}

/* "origin/a/b", or an object.  False: answered. */
static bool read_repository(struct exchange *x, size_t i, json_t *value, struct warmup_list *list)
{
    bool object = json_is_object(value);
    json_t *name = object ? json_object_get(value, "repository") : value;
    char *branches[WARMUP_BRANCHES_MAX];
    struct warmup_wish wish = {.repository = (char *)text_of(name, CALL_TEXT_MAX),
                               .branches = branches,
                               .depth = WARMUP_DEPTH_DEFAULT,
                               .priority = QUEUE_NORMAL};
    struct err why;

    if (object && (!knows_members(x, i, value) ||
                   !read_branches(x, i, json_object_get(value, "branches"), &wish) ||
                   !read_depth(x, i, json_object_get(value, "depth"), &wish) ||
                   !read_priority(x, i, json_object_get(value, "priority"), &wish)))
        return false;
    if (wish.repository == NULL)
        return refuse(x, i, object ? "repository" : "", "write <upstream>/<path>");
    if (warmup_list_add(list, x->config, &wish, &why) != 0)
        return refuse(x, i, object ? "repository" : "", why.text);
    return true;
}

static bool read_repositories(struct exchange *x, struct warmup_list *list)
{
    json_t *all = json_object_get(call_of(x)->body, "repositories"), *value;
    size_t i;

    if (all == NULL)
        return true;
    if (!json_is_array(all) || json_array_size(all) > PROGRESS_ITEMS_MAX) {
        reply_problem(x, 400, "repositories", "write a list of at most %d repositories",
                      PROGRESS_ITEMS_MAX);
        return false;
    }
    json_array_foreach(all, i, value)
    {
        if (!read_repository(x, i, value, list))
            return false;
    }
    return true;
}

static bool read_most_used(struct exchange *x, struct warmup_list *list)
{
    json_t *value = json_object_get(call_of(x)->body, "most_used");
    struct err why;

    if (value == NULL)
        return true;
    if (!json_is_integer(value) || json_integer_value(value) < 1 ||
        json_integer_value(value) > PROGRESS_ITEMS_MAX) {
        reply_problem(x, 400, "most_used", "write a number from 1 to %d", PROGRESS_ITEMS_MAX);
        return false;
    }
    if (warmup_list_add_most_used(list, x->proxy, x->config, (size_t)json_integer_value(value),
                                  &why) == 0)
        return true;
    reply_failure(x, &why);
    return false;
}

/* Whom its word "by" names: a person at a command line, or a program. */
static bool read_by(struct exchange *x, const char **out)
{
    *out = "api";
    if (!call_string(x, "by", out))
        return false;
    if (strcmp(*out, "api") == 0 || strcmp(*out, "command") == 0)
        return true;
    reply_problem(x, 400, "by", "write api or command");
    return false;
}

void admin_begin_warmup(struct exchange *x)
{
    static const char *const names[] = {"repositories", "most_used", "by", NULL};
    struct warmup_list list = {NULL, 0};
    char id[REDIS_TOKEN_SIZE];
    const char *by;
    struct err why;

    if (!call_knows(x, no_names) || call_body(x) == NULL || !call_body_knows(x, names) ||
        !read_by(x, &by))
        return;
    if (json_array_size(json_object_get(call_of(x)->body, "repositories")) == 0 &&
        json_object_get(call_of(x)->body, "most_used") == NULL) {
        reply_problem(x, 400, "repositories",
                      "say what is to be fetched ahead: repositories, most_used, or both");
    } else if (read_repositories(x, &list) && read_most_used(x, &list)) {
        if (list.count == 0)
            reply_problem(x, 409, "most_used", "nothing has been used yet");
        else if (warmups_begin(x->proxy->warmups, by, &list, id, &why) != 0)
            reply_unknown(x, &why);
        else
            reply_task(x, 202, id);
    }
    warmup_list_clear(&list);
}
