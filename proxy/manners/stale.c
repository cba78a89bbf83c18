#include "proxy/manners/stale.h"

#include <stdlib.h>
#include <string.h>

#include <uthash.h>
#include <utlist.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "proxy/decisions_refs.h"

struct shown {
    struct key digest;
    enum refs_form form;
    struct refs_reader *reader;
    char *content_type;
    struct bytes asked, body;
    size_t cost;
    size_t refs;
    UT_hash_handle hh;
};

struct answered {
    struct key question;
    struct shown *shown; /* NULL: free */
    uint64_t asked_ms;
};

struct watched {
    struct subject subject;
    uint64_t allowed_ms;
    uint64_t holds_until_ms, oldest_ms; /* since stale_admit() */
    struct answered answers[STALE_QUESTIONS_MAX];
    struct watched *prev, *next; /* shown something longest ago first */
    UT_hash_handle hh;
};

struct stale {
    struct lock lock;
    struct watched *by_subject, *order;
    size_t count;
    struct shown *shown;
    size_t bytes;
    uint64_t served;
};

struct stale *stale_new(void)
{
    struct stale *st = xcalloc(1, sizeof(*st));

    lock_init(&st->lock, LOCK_STALE);
    return st;
}

/* ---- what was shown ---- */

struct shown *shown_new(enum refs_form form, struct refs_reader **reader, const char *content_type,
                        const struct bytes *asked, struct bytes *body)
{
    struct shown *s = xcalloc(1, sizeof(*s));
    const struct oid_list *tags, *targets;
    struct key parts[2];

    s->form = form;
    s->reader = *reader;
    *reader = NULL;
    s->content_type = content_type != NULL ? xstrdup(content_type) : NULL;
    bytes_init(&s->asked, SIZE_MAX / 2);
    bytes_add(&s->asked, asked->data, asked->len);
    s->body = *body;
    bytes_init(body, body->limit);
    key_of(s->body.data, s->body.len, &parts[0]);
    key_of(s->asked.data, s->asked.len, &parts[1]);
    key_of(parts, sizeof(parts), &s->digest);
    refs_reader_tags(s->reader, &tags, &targets);
    s->cost = sizeof(*s) + s->body.len + s->asked.len +
              sizeof(struct oid) * (refs_reader_oids(s->reader)->count + 2 * tags->count);
    return s;
}

void shown_free(struct shown *s)
{
    if (s == NULL)
        return;
    refs_reader_free(s->reader);
    free(s->content_type);
    bytes_clear(&s->asked);
    bytes_clear(&s->body);
    free(s);
}

static void drop_answer_locked(struct stale *st, struct answered *a)
{
    struct shown *s = a->shown;

    a->shown = NULL;
    if (s == NULL || --s->refs > 0)
        return;
    HASH_DEL(st->shown, s);
    st->bytes -= s->cost;
    shown_free(s);
}

static void drop_locked(struct stale *st, struct watched *w)
{
    for (size_t i = 0; i < STALE_QUESTIONS_MAX; i++)
        drop_answer_locked(st, &w->answers[i]);
    HASH_DEL(st->by_subject, w);
    DL_DELETE(st->order, w);
    st->count--;
    free(w);
}

void stale_free(struct stale **stp)
{
    struct stale *st = *stp;

    *stp = NULL;
    if (st == NULL)
        return;
    while (st->order != NULL)
        drop_locked(st, st->order);
    lock_clear(&st->lock);
    free(st);
}

static struct watched *find_locked(struct stale *st, const struct subject *s)
{
    struct watched *w;

    HASH_FIND(hh, st->by_subject, &s->key, sizeof(s->key), w);
    return w;
}

/* ---- what upstream says ---- */

void stale_allowed(struct stale *st, const struct subject *s, const struct upstream_config *c,
                   uint64_t now_ms)
{
    struct watched *w;

    if (c->stale_if_error_ms == 0)
        return;
    lock_take(&st->lock);
    w = find_locked(st, s);
    if (w == NULL) {
        if (st->count == STALE_SUBJECTS_MAX)
            drop_locked(st, st->order);
        w = xcalloc(1, sizeof(*w));
        w->subject = *s;
        HASH_ADD(hh, st->by_subject, subject.key, sizeof(w->subject.key), w);
        DL_APPEND(st->order, w);
        st->count++;
    }
    w->allowed_ms = now_ms;
    w->holds_until_ms = 0; /* upstream is back */
    lock_drop(&st->lock);
}

void stale_refused(struct stale *st, const struct subject *s)
{
    struct watched *w;

    lock_take(&st->lock);
    w = find_locked(st, s);
    if (w != NULL)
        drop_locked(st, w);
    lock_drop(&st->lock);
}

void stale_forget(struct stale *st, const struct key *repo_id)
{
    struct watched *w, *next;

    lock_take(&st->lock);
    DL_FOREACH_SAFE(st->order, w, next)
    {
        if (key_equal(&w->subject.repo_id, repo_id))
            drop_locked(st, w);
    }
    lock_drop(&st->lock);
}

/* Where the answer to question goes: in place of the one before, or of the oldest. */
static struct answered *place_for(struct watched *w, const struct key *question)
{
    struct answered *best = &w->answers[0];

    for (size_t i = 0; i < STALE_QUESTIONS_MAX; i++) {
        struct answered *a = &w->answers[i];

        if (a->shown != NULL && key_equal(&a->question, question))
            return a;
        if (best->shown != NULL && (a->shown == NULL || a->asked_ms < best->asked_ms))
            best = a;
    }
    return best;
}

/* Others go before w, which has just been shown something. */
static void keep_within_locked(struct stale *st, const struct watched *w)
{
    while (st->bytes > STALE_BYTES_MAX && st->order != w)
        drop_locked(st, st->order);
}

void stale_keep(struct stale *st, const struct subject *s, const struct key *question,
                struct shown **shownp, uint64_t asked_ms)
{
    struct shown *mine = *shownp, *shown;
    struct answered *a;
    struct watched *w;

    *shownp = NULL;
    lock_take(&st->lock);
    w = find_locked(st, s);
    if (w != NULL) {
        a = place_for(w, question);
        drop_answer_locked(st, a);
        HASH_FIND(hh, st->shown, &mine->digest, sizeof(mine->digest), shown);
        if (shown == NULL) {
            shown = mine;
            mine = NULL;
            HASH_ADD(hh, st->shown, digest, sizeof(shown->digest), shown);
            st->bytes += shown->cost;
        }
        shown->refs++;
        *a = (struct answered){*question, shown, asked_ms};
        DL_DELETE(st->order, w);
        DL_APPEND(st->order, w);
        keep_within_locked(st, w);
    }
    lock_drop(&st->lock);
    shown_free(mine);
}

/* ---- while it says nothing ---- */

static bool is_young(uint64_t then_ms, uint64_t limit_ms, uint64_t now_ms)
{
    return now_ms < then_ms + limit_ms;
}

static struct watched *admissible_locked(struct stale *st, const struct subject *s,
                                         const struct upstream_config *c, uint64_t now_ms)
{
    struct watched *w = c->stale_if_error_ms > 0 ? find_locked(st, s) : NULL;

    return w != NULL && is_young(w->allowed_ms, c->stale_access_ttl_ms, now_ms) ? w : NULL;
}

static struct answered *answer_locked(struct stale *st, const struct subject *s,
                                      const struct key *question, const struct upstream_config *c,
                                      uint64_t now_ms)
{
    struct watched *w = admissible_locked(st, s, c, now_ms);

    for (size_t i = 0; w != NULL && i < STALE_QUESTIONS_MAX; i++) {
        struct answered *a = &w->answers[i];

        if (a->shown != NULL && key_equal(&a->question, question))
            return is_young(a->asked_ms, c->stale_if_error_ms, now_ms) ? a : NULL;
    }
    return NULL;
}

bool stale_can(struct stale *st, const struct subject *s, const struct key *question,
               const struct upstream_config *c, uint64_t now_ms)
{
    bool can;

    lock_take(&st->lock);
    can = answer_locked(st, s, question, c, now_ms) != NULL;
    lock_drop(&st->lock);
    return can;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Under our lock, which a refusal takes before it reaches d: so none can come between. */
static bool admit_locked(struct watched *w, struct decisions *d, const struct upstream_config *c,
                         uint64_t now_ms)
{
    uint64_t holds = least(STALE_HOLDS_MS, w->allowed_ms + c->stale_access_ttl_ms - now_ms);
    bool any = false;

    w->oldest_ms = now_ms;
    for (size_t i = 0; i < STALE_QUESTIONS_MAX; i++) {
        const struct answered *a = &w->answers[i];
        uint64_t ttl;

        if (a->shown == NULL || !is_young(a->asked_ms, c->stale_if_error_ms, now_ms))
            continue;
        ttl = least(holds, a->asked_ms + c->stale_if_error_ms - now_ms);
        if (!any)
            decisions_allow(d, &w->subject, now_ms, holds);
        decisions_learn_refs(d, &w->subject, now_ms, ttl, a->shown->reader, a->shown->content_type,
                             a->shown->form == REFS_LS_REFS ? &a->shown->asked : NULL,
                             a->shown->form == REFS_ADVERTISEMENT ? &a->shown->body : NULL);
        w->oldest_ms = least(w->oldest_ms, a->asked_ms);
        any = true;
    }
    w->holds_until_ms = any ? now_ms + holds : 0;
    return any;
}

bool stale_admit(struct stale *st, struct decisions *d, const struct subject *s,
                 const struct upstream_config *c, uint64_t now_ms)
{
    struct watched *w;
    bool admitted;

    lock_take(&st->lock);
    w = admissible_locked(st, s, c, now_ms);
    admitted = w != NULL && admit_locked(w, d, c, now_ms);
    lock_drop(&st->lock);
    return admitted;
}

bool stale_holds(struct stale *st, const struct subject *s, uint64_t now_ms, uint64_t *age_ms)
{
    struct watched *w;
    bool holds;

    lock_take(&st->lock);
    w = find_locked(st, s);
    holds = w != NULL && now_ms < w->holds_until_ms;
    if (holds)
        *age_ms = now_ms - w->oldest_ms;
    lock_drop(&st->lock);
    return holds;
}

bool stale_show(struct stale *st, const struct subject *s, const struct key *question,
                const struct upstream_config *c, uint64_t now_ms, struct bytes *body)
{
    struct answered *a;
    bool shown;

    bytes_init(body, STALE_BODY_MAX);
    lock_take(&st->lock);
    a = answer_locked(st, s, question, c, now_ms);
    shown = a != NULL && bytes_add(body, a->shown->body.data, a->shown->body.len) == 0;
    lock_drop(&st->lock);
    return shown;
}

void stale_served(struct stale *st)
{
    lock_take(&st->lock);
    st->served++;
    lock_drop(&st->lock);
}

uint64_t stale_count(struct stale *st)
{
    uint64_t n;

    lock_take(&st->lock);
    n = st->served;
    lock_drop(&st->lock);
    return n;
}
