#include "proxy/traffic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>
#include <utlist.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/smart_http.h"
#include "proxy/metrics.h"

enum { CHALLENGE_PERCENT = 150 }; /* of an owner's score, to take its series */

struct repository {
    struct key repo_id;
    char *name;
    struct traffic_counts counts;
    int64_t asked_s;
    struct traffic_error errors[TRAFFIC_ERRORS_MAX]; /* a ring */
    size_t error_next, error_count;

    bool owns;                      /* series of its own */
    struct traffic_counts series;   /* since then */
    uint64_t recent;                /* requests since the last look */
    uint64_t score;                 /* recent ones, older ones half as much at each look */
    struct repository *prev, *next; /* least recently asked for first */
    UT_hash_handle hh;
};

struct traffic {
    struct lock lock;
    struct repository *by_id, *by_age;
    struct traffic_counts other;
    size_t owners;
};

struct traffic *traffic_new(void)
{
    struct traffic *t = xcalloc(1, sizeof(*t));

    lock_init(&t->lock, LOCK_TRAFFIC);
    return t;
}

static void forget_locked(struct traffic *t, struct repository *r)
{
    HASH_DEL(t->by_id, r);
    DL_DELETE(t->by_age, r);
    t->owners -= r->owns;
    free(r->name);
    free(r);
}

void traffic_free(struct traffic **tp)
{
    struct traffic *t = *tp;

    *tp = NULL;
    if (t == NULL)
        return;
    while (t->by_age != NULL)
        forget_locked(t, t->by_age);
    lock_clear(&t->lock);
    free(t);
}

static void id_of(const char *name, struct key *out)
{
    const char *slash = strchr(name, '/');
    char *host = slash != NULL ? xstrndup(name, (size_t)(slash - name)) : xstrdup(name);

    repo_id_of(host, slash != NULL ? slash + 1 : "", out);
    free(host);
}

/* Who was not asked for longest goes, but not one with series: names that clients make up must not
 * push those out. */
static void make_room_locked(struct traffic *t)
{
    struct repository *r;

    DL_FOREACH(t->by_age, r)
    {
        if (!r->owns)
            break;
    }
    forget_locked(t, r != NULL ? r : t->by_age);
}

static struct repository *take_locked(struct traffic *t, const char *name, const struct key *id)
{
    struct repository *r;

    HASH_FIND(hh, t->by_id, id, sizeof(*id), r);
    if (r != NULL) {
        DL_DELETE(t->by_age, r);
    } else {
        if (HASH_COUNT(t->by_id) >= TRAFFIC_MAX)
            make_room_locked(t);
        r = xcalloc(1, sizeof(*r));
        r->repo_id = *id;
        r->name = xstrdup(name);
        HASH_ADD(hh, t->by_id, repo_id, sizeof(r->repo_id), r);
    }
    DL_APPEND(t->by_age, r);
    return r;
}

static void count(struct traffic_counts *c, enum traffic_result result, uint64_t bytes)
{
    c->requests[result]++;
    c->bytes[result] += bytes;
}

void traffic_note(struct traffic *t, const char *name, enum traffic_result result, uint64_t bytes,
                  int64_t now_s)
{
    struct repository *r;
    struct key id;

    id_of(name, &id);
    lock_take(&t->lock);
    r = take_locked(t, name, &id);
    count(&r->counts, result, bytes);
    count(r->owns ? &r->series : &t->other, result, bytes);
    r->recent++;
    r->asked_s = now_s;
    lock_drop(&t->lock);
}

void traffic_failed(struct traffic *t, const char *name, const char *what, const struct err *why,
                    int64_t now_s)
{
    struct repository *r;
    struct key id;

    if (why->kind == ERR_CANCELLED || why->kind == ERR_LIMIT)
        return;
    id_of(name, &id);
    lock_take(&t->lock);
    r = take_locked(t, name, &id);
    r->errors[r->error_next] = (struct traffic_error){now_s, what, *why};
    r->error_next = (r->error_next + 1) % TRAFFIC_ERRORS_MAX;
    if (r->error_count < TRAFFIC_ERRORS_MAX)
        r->error_count++;
    lock_drop(&t->lock);
}

bool traffic_get(struct traffic *t, const struct key *repo_id, struct traffic_view *out)
{
    struct repository *r;

    memset(out, 0, sizeof(*out));
    lock_take(&t->lock);
    HASH_FIND(hh, t->by_id, repo_id, sizeof(*repo_id), r);
    if (r != NULL) {
        out->counts = r->counts;
        out->asked_s = r->asked_s;
        out->error_count = r->error_count;
        for (size_t i = 0; i < r->error_count; i++)
            out->errors[i] =
                r->errors[(r->error_next + TRAFFIC_ERRORS_MAX - 1 - i) % TRAFFIC_ERRORS_MAX];
    }
    lock_drop(&t->lock);
    return r != NULL;
}

/* ---- who has series ---- */

static void own_locked(struct traffic *t, struct repository *r)
{
    r->owns = true;
    r->series = (struct traffic_counts){0};
    t->owners++;
}

static void disown_locked(struct traffic *t, struct repository *r)
{
    r->owns = false;
    t->owners--;
}

static struct repository *weakest_owner_locked(struct traffic *t)
{
    struct repository *weakest = NULL;

    for (struct repository *r = t->by_id; r != NULL; r = r->hh.next)
        if (r->owns && (weakest == NULL || r->score < weakest->score))
            weakest = r;
    return weakest;
}

static struct repository *strongest_other_locked(struct traffic *t)
{
    struct repository *strongest = NULL;

    for (struct repository *r = t->by_id; r != NULL; r = r->hh.next)
        if (!r->owns && r->score > 0 && (strongest == NULL || r->score > strongest->score))
            strongest = r;
    return strongest;
}

static void choose_owners_locked(struct traffic *t, size_t limit)
{
    struct repository *r, *weakest;

    for (r = t->by_id; r != NULL; r = r->hh.next) {
        r->score = r->score / 2 + 4 * r->recent;
        r->recent = 0;
    }
    while (t->owners > limit)
        disown_locked(t, weakest_owner_locked(t));
    while (limit > 0 && (r = strongest_other_locked(t)) != NULL) {
        if (t->owners == limit) {
            weakest = weakest_owner_locked(t);
            if (r->score * 100 <= weakest->score * CHALLENGE_PERCENT)
                break;
            disown_locked(t, weakest);
        }
        own_locked(t, r);
    }
}

static void text_counts(struct metrics_text *out, const char *name, const struct traffic_counts *c)
{
    static const char *const results[] = {
        [TRAFFIC_HIT] = "hit", [TRAFFIC_MISS] = "miss", [TRAFFIC_PASS] = "pass"};
    char repository[2 * METRICS_LABEL_MAX + 32], labels[sizeof(repository) + 32];

    metrics_label("repository", name, repository, sizeof(repository));
    for (size_t i = 0; i < TRAFFIC_RESULTS_COUNT; i++) {
        snprintf(labels, sizeof(labels), "%s,result=\"%s\"", repository, results[i]);
        metrics_text_number(out, METRIC_repository_requests, labels, c->requests[i]);
        metrics_text_number(out, METRIC_repository_bytes, labels, c->bytes[i]);
    }
}

void traffic_metrics(struct traffic *t, size_t limit, struct metrics_text *out)
{
    lock_take(&t->lock);
    for (struct repository *r = t->by_id; r != NULL; r = r->hh.next)
        if (r->owns)
            text_counts(out, r->name, &r->series);
    text_counts(out, "other", &t->other);
    /* After what it will be counted under was told once as 0, an owner begins. */
    choose_owners_locked(t, limit);
    lock_drop(&t->lock);
}
