#include "proxy/seen.h"

#include <stdlib.h>
#include <string.h>

#include <uthash.h>
#include <utlist.h>

#include "cache/lock.h"
#include "protocol/base.h"

struct repository {
    struct key repo_id;
    struct seen_view seen;
    size_t names_len;
    struct repository *prev, *next; /* shown longest ago first */
    UT_hash_handle hh;
};

struct seen {
    struct lock lock;
    struct repository *by_id, *by_age;
    size_t bytes;
};

const char *seen_by_name(enum seen_by by)
{
    static const char *const names[] = {
        [SEEN_ANONYMOUS] = "anonymous", [SEEN_CLIENT] = "client", [SEEN_OWN] = "own"};

    must((size_t)by < ARRAY_LEN(names));
    return names[by];
}

/* ---- one listing ---- */

void seen_listing_init(struct seen_listing *l)
{
    *l = (struct seen_listing){0};
    bytes_init(&l->names, (size_t)SEEN_REFS_MAX * (SEEN_NAME_MAX + 1));
}

void seen_listing_add(void *listing, const char *name, size_t len, const struct oid *oid)
{
    struct seen_listing *l = listing;

    if (l->oids.count == SEEN_REFS_MAX || len > SEEN_NAME_MAX || memchr(name, '\0', len) != NULL) {
        l->left_out = true;
        return;
    }
    must(bytes_add(&l->names, name, len) == 0 && bytes_add(&l->names, "", 1) == 0);
    oid_list_add(&l->oids, oid);
}

void seen_listing_clear(struct seen_listing *l)
{
    bytes_clear(&l->names);
    oid_list_clear(&l->oids);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct seen_ref *)a)->name, ((const struct seen_ref *)b)->name);
}

/* As refs, by name; the names are l's. */
static size_t sort_listing(const struct seen_listing *l, const struct seen_how *how,
                           struct seen_ref *out)
{
    const char *name = l->names.data;
    size_t count = 0;

    for (size_t i = 0; i < l->oids.count; i++) {
        out[i] = (struct seen_ref){name, l->oids.items[i], how->algo, how->by, how->now_s};
        name += strlen(name) + 1;
    }
    if (l->oids.count > 0)
        qsort(out, l->oids.count, sizeof(*out), by_name);
    for (size_t i = 0; i < l->oids.count; i++)
        if (count == 0 || strcmp(out[count - 1].name, out[i].name) != 0)
            out[count++] = out[i];
    return count;
}

/* ---- old and new together ---- */

static bool was_asked_for(const struct seen_how *how, const char *name)
{
    for (size_t i = 0; i < how->prefix_count; i++)
        if (strncmp(name, how->prefixes[i], strlen(how->prefixes[i])) == 0)
            return true;
    return how->prefix_count == 0;
}

/* A listing without it says that it is no more, at least not for such askers. */
static bool has_gone(const struct seen_ref *r, const struct seen_how *how,
                     const struct seen_listing *l)
{
    return r->by == how->by && !how->unclear && how->prefix_count <= SEEN_PREFIXES_MAX &&
           !l->left_out && was_asked_for(how, r->name);
}

static int latest_first(const void *a, const void *b)
{
    const struct seen_ref *x = a, *y = b;

    if (x->seen_s != y->seen_s)
        return x->seen_s > y->seen_s ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* What is known from now on, by name, in out, where there is room for all of both. */
static size_t merge(const struct seen_view *old, const struct seen_ref *new, size_t new_count,
                    const struct seen_how *how, const struct seen_listing *l, struct seen_ref *out)
{
    size_t i = 0, k = 0, count = 0;

    while (i < old->count || k < new_count) {
        int order = i == old->count ? 1 : k == new_count ? -1 : by_name(&old->refs[i], &new[k]);

        if (order >= 0)
            out[count++] = new[k++];
        else if (!has_gone(&old->refs[i], how, l))
            out[count++] = old->refs[i];
        i += order <= 0;
    }
    if (count > SEEN_REFS_MAX) {
        qsort(out, count, sizeof(*out), latest_first);
        qsort(out, SEEN_REFS_MAX, sizeof(*out), by_name);
    }
    return count;
}

static size_t copy_refs(const struct seen_ref *refs, size_t count, struct seen_view *out)
{
    size_t len = 0;
    char *at;

    for (size_t i = 0; i < count; i++)
        len += strlen(refs[i].name) + 1;
    out->count = count;
    out->refs = xcalloc(count + 1, sizeof(*refs));
    out->names = at = xmalloc(len + 1);
    for (size_t i = 0; i < count; i++) {
        out->refs[i] = refs[i];
        out->refs[i].name = at;
        at = stpcpy(at, refs[i].name) + 1;
    }
    return len;
}

/* ---- all repositories ---- */

static size_t cost(const struct repository *r)
{
    return sizeof(*r) + r->seen.count * sizeof(*r->seen.refs) + r->names_len;
}

struct seen *seen_new(void)
{
    struct seen *s = xcalloc(1, sizeof(*s));

    lock_init(&s->lock, LOCK_SEEN);
    return s;
}

static void forget_locked(struct seen *s, struct repository *r)
{
    s->bytes -= cost(r);
    HASH_DEL(s->by_id, r);
    DL_DELETE(s->by_age, r);
    seen_view_clear(&r->seen);
    free(r);
}

void seen_free(struct seen **sp)
{
    struct seen *s = *sp;

    *sp = NULL;
    if (s == NULL)
        return;
    while (s->by_age != NULL)
        forget_locked(s, s->by_age);
    lock_clear(&s->lock);
    free(s);
}

/* The latest from now on. */
static struct repository *take_locked(struct seen *s, const struct key *repo_id)
{
    struct repository *r;

    HASH_FIND(hh, s->by_id, repo_id, sizeof(*repo_id), r);
    if (r != NULL) {
        DL_DELETE(s->by_age, r);
    } else {
        r = xcalloc(1, sizeof(*r));
        r->repo_id = *repo_id;
        r->seen.complete = true;
        s->bytes += cost(r);
        HASH_ADD(hh, s->by_id, repo_id, sizeof(r->repo_id), r);
    }
    DL_APPEND(s->by_age, r);
    return r;
}

static void note_locked(struct repository *r, const struct seen_ref *new, size_t new_count,
                        const struct seen_how *how, const struct seen_listing *l)
{
    struct seen_ref *all = xcalloc(r->seen.count + new_count + 1, sizeof(*all));
    size_t count = merge(&r->seen, new, new_count, how, l, all);
    bool trimmed = count > SEEN_REFS_MAX, has_all = how->prefix_count == 0 && !how->unclear;
    struct seen_view old = r->seen;

    r->names_len = copy_refs(all, trimmed ? SEEN_REFS_MAX : count, &r->seen);
    r->seen.listed_s = how->now_s;
    r->seen.by = how->by;
    /* What was left out before isn't there now, unless all was shown. */
    r->seen.complete = (old.complete || has_all) && !l->left_out && !trimmed;
    seen_view_clear(&old);
    free(all);
}

void seen_note(struct seen *s, const struct key *repo_id, const struct seen_how *how,
               const struct seen_listing *l)
{
    struct seen_ref *new = xcalloc(l->oids.count + 1, sizeof(*new));
    size_t count = sort_listing(l, how, new);
    struct repository *r;

    lock_take(&s->lock);
    r = take_locked(s, repo_id);
    s->bytes -= cost(r);
    note_locked(r, new, count, how, l);
    s->bytes += cost(r);
    while (s->bytes > SEEN_BYTES_MAX && s->by_age != r)
        forget_locked(s, s->by_age);
    lock_drop(&s->lock);
    free(new);
}

void seen_forget(struct seen *s, const struct key *repo_id)
{
    struct repository *r;

    lock_take(&s->lock);
    if (repo_id != NULL) {
        HASH_FIND(hh, s->by_id, repo_id, sizeof(*repo_id), r);
        if (r != NULL)
            forget_locked(s, r);
    } else {
        while (s->by_age != NULL)
            forget_locked(s, s->by_age);
    }
    lock_drop(&s->lock);
}

bool seen_get(struct seen *s, const struct key *repo_id, struct seen_view *out)
{
    struct repository *r;

    *out = (struct seen_view){.complete = true};
    lock_take(&s->lock);
    HASH_FIND(hh, s->by_id, repo_id, sizeof(*repo_id), r);
    if (r != NULL) {
        *out = r->seen;
        copy_refs(r->seen.refs, r->seen.count, out);
    }
    lock_drop(&s->lock);
    return r != NULL;
}

void seen_view_clear(struct seen_view *v)
{
    free(v->refs);
    free(v->names);
    *v = (struct seen_view){0};
}
