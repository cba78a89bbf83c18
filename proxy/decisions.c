#include "proxy/decisions.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <uthash.h>
#include <utlist.h>

#include "cache/lock.h"
#include "protocol/base.h"

enum { UNKNOWN_PIECE = 1024 }; /* ids looked up while the lock is held */

/* One listing's object ids, shared by all to whom the same was advertised. */
struct oid_set {
    struct key digest;
    struct oid_list oids;
    struct oid_list tags, targets; /* pairs */
    size_t refs;
    UT_hash_handle hh;
};

struct timed_set {
    struct oid_set *set; /* NULL: free */
    struct key question;
    struct bytes prefixes; /* of the refs that were asked for, each with its NUL; none: all */
    uint64_t until_ms;
};

struct grant {
    struct oid oid;
    uint64_t until_ms;
};

struct decision {
    struct subject subject;
    enum verdict verdict;
    uint64_t until_ms;
    struct response_head denial;
    struct timed_set sets[DECISION_SETS_MAX];
    struct grant *grants;
    size_t grant_count, grant_cap;
    uint64_t old_refs_ms; /* 0: none were given */
    bool has_advert;
    struct advert advert;
    uint64_t advert_until_ms;
    char *moved;
    uint64_t moved_until_ms;
    struct decision *prev, *next; /* least recently made first */
    UT_hash_handle hh;
};

struct decisions {
    struct lock lock;
    struct key secret;
    struct decision *by_subject;
    struct decision *order;
    size_t count;
    struct oid_set *sets;
    size_t oid_count;
};

struct decisions *decisions_new(void)
{
    struct decisions *d = xcalloc(1, sizeof(*d));

    lock_init(&d->lock, LOCK_DECISIONS);
    must(getrandom(d->secret.raw, sizeof(d->secret.raw), 0) == sizeof(d->secret.raw));
    return d;
}

void advert_clear(struct advert *a)
{
    free(a->v2_body);
    free(a->v2_content_type);
    *a = (struct advert){0};
}

static size_t set_size(const struct oid_set *set)
{
    return set->oids.count + 2 * set->tags.count;
}

static void free_set(struct oid_set *set)
{
    if (set == NULL)
        return;
    oid_list_clear(&set->oids);
    oid_list_clear(&set->tags);
    oid_list_clear(&set->targets);
    free(set);
}

static void drop_set_locked(struct decisions *d, struct timed_set *t)
{
    struct oid_set *set = t->set;

    bytes_clear(&t->prefixes);
    t->set = NULL;
    if (set == NULL || --set->refs > 0)
        return;
    HASH_DEL(d->sets, set);
    d->oid_count -= set_size(set);
    free_set(set);
}

/* All that goes with a verdict. */
static void reset_locked(struct decisions *d, struct decision *r)
{
    for (size_t i = 0; i < DECISION_SETS_MAX; i++)
        drop_set_locked(d, &r->sets[i]);
    free(r->grants);
    r->grants = NULL;
    r->grant_count = r->grant_cap = 0;
    advert_clear(&r->advert);
    r->has_advert = false;
    response_head_clear(&r->denial);
    r->verdict = VERDICT_NONE;
}

static void remove_locked(struct decisions *d, struct decision *r)
{
    reset_locked(d, r);
    free(r->moved);
    HASH_DEL(d->by_subject, r);
    DL_DELETE(d->order, r);
    d->count--;
    free(r);
}

void decisions_free(struct decisions **dp)
{
    struct decisions *d = *dp;

    *dp = NULL;
    if (d == NULL)
        return;
    while (d->order != NULL)
        remove_locked(d, d->order);
    lock_clear(&d->lock);
    free(d);
}

void decisions_subject(struct decisions *d, const char *authorization, const char *base_url,
                       const char *wire_repo, const struct key *repo_id, struct subject *out)
{
    struct bytes text;

    /* NULs keep the parts apart: none of them can hold one. */
    bytes_init(&text, SIZE_MAX / 2);
    bytes_add(&text, base_url, strlen(base_url) + 1);
    bytes_add(&text, wire_repo, strlen(wire_repo) + 1);
    if (authorization != NULL)
        bytes_add(&text, authorization, strlen(authorization) + 1);
    key_hmac(&d->secret, text.data, text.len, &out->key);
    out->repo_id = *repo_id;
    explicit_bzero(text.data, text.len);
    bytes_clear(&text);
}

static struct decision *find_locked(struct decisions *d, const struct subject *s)
{
    struct decision *r;

    HASH_FIND(hh, d->by_subject, &s->key, sizeof(s->key), r);
    return r;
}

static struct decision *allowed_locked(struct decisions *d, const struct subject *s, uint64_t now)
{
    struct decision *r = find_locked(d, s);

    return r != NULL && r->verdict == VERDICT_ALLOWED && now < r->until_ms ? r : NULL;
}

static struct decision *renew_locked(struct decisions *d, const struct subject *s)
{
    struct decision *r = find_locked(d, s);

    if (r != NULL) {
        DL_DELETE(d->order, r);
    } else {
        if (d->count == DECISIONS_MAX)
            remove_locked(d, d->order);
        r = xcalloc(1, sizeof(*r));
        r->subject = *s;
        HASH_ADD(hh, d->by_subject, subject.key, sizeof(r->subject.key), r);
        d->count++;
    }
    DL_APPEND(d->order, r);
    return r;
}

enum verdict decisions_get(struct decisions *d, const struct subject *s, uint64_t now_ms,
                           struct response_head *denial)
{
    enum verdict verdict = VERDICT_NONE;
    struct decision *r;

    lock_take(&d->lock);
    r = find_locked(d, s);
    if (r != NULL && now_ms < r->until_ms)
        verdict = r->verdict;
    if (verdict == VERDICT_DENIED && denial != NULL)
        response_head_copy(&r->denial, denial);
    lock_drop(&d->lock);
    return verdict;
}

void decisions_allow(struct decisions *d, const struct subject *s, uint64_t now_ms, uint64_t ttl_ms)
{
    struct decision *r;

    lock_take(&d->lock);
    r = renew_locked(d, s);
    if (r->verdict != VERDICT_ALLOWED)
        reset_locked(d, r);
    r->verdict = VERDICT_ALLOWED;
    r->until_ms = now_ms + ttl_ms;
    lock_drop(&d->lock);
}

/* Names that clients make up are denied, too: only what will be told is worth its memory. */
static void copy_denial(const struct response_head *from, struct response_head *to)
{
    *to = (struct response_head){.status = from->status};
    for (size_t i = 0; i < from->header_count; i++)
        if (strcmp(from->headers[i].name, "www-authenticate") == 0)
            to->headers[to->header_count++] =
                (struct header){xstrdup(from->headers[i].name), xstrdup(from->headers[i].value)};
}

void decisions_deny(struct decisions *d, const struct subject *s, uint64_t now_ms, uint64_t ttl_ms,
                    const struct response_head *head)
{
    struct decision *r;

    lock_take(&d->lock);
    r = renew_locked(d, s);
    reset_locked(d, r);
    r->verdict = VERDICT_DENIED;
    r->until_ms = now_ms + ttl_ms;
    copy_denial(head, &r->denial);
    lock_drop(&d->lock);
}

static struct oid_set *make_set(const struct listing *listing)
{
    struct oid_set *set = xcalloc(1, sizeof(*set));
    struct key parts[3];

    oid_list_copy(listing->oids, &set->oids);
    oid_list_sort(&set->oids);
    oid_list_copy(listing->tags, &set->tags);
    oid_list_copy(listing->targets, &set->targets);
    key_of(set->oids.items, set->oids.count * sizeof(struct oid), &parts[0]);
    key_of(set->tags.items, set->tags.count * sizeof(struct oid), &parts[1]);
    key_of(set->targets.items, set->targets.count * sizeof(struct oid), &parts[2]);
    key_of(parts, sizeof(parts), &set->digest);
    return set;
}

/* Nothing of it is in force any more. */
static bool has_ended(const struct decision *r, uint64_t now_ms)
{
    return now_ms >= r->until_ms && (r->moved == NULL || now_ms >= r->moved_until_ms);
}

/* Makes room for size more object ids: first what has ended goes, then the listings of those whose
 * decisions are oldest.  False for more than the bound itself. */
static bool set_room_locked(struct decisions *d, const struct decision *keep, uint64_t now_ms,
                            size_t size)
{
    struct decision *r, *next;

    if (size > DECISION_OIDS_MAX)
        return false;
    if (d->oid_count + size <= DECISION_OIDS_MAX)
        return true;
    DL_FOREACH_SAFE(d->order, r, next)
    {
        if (r != keep && has_ended(r, now_ms))
            remove_locked(d, r);
    }
    DL_FOREACH(d->order, r)
    {
        for (size_t i = 0; i < DECISION_SETS_MAX; i++)
            if (r->sets[i].set != NULL && d->oid_count + size > DECISION_OIDS_MAX)
                drop_set_locked(d, &r->sets[i]);
    }
    return true;
}

/* The set that equals *mine, or mine itself, which is then taken over; NULL beyond the bound.  For
 * keep, which stays. */
static struct oid_set *share_set_locked(struct decisions *d, const struct decision *keep,
                                        uint64_t now_ms, struct oid_set **mine)
{
    struct oid_set *set;

    HASH_FIND(hh, d->sets, &(*mine)->digest, sizeof((*mine)->digest), set);
    if (set == NULL) {
        if (!set_room_locked(d, keep, now_ms, set_size(*mine)))
            return NULL;
        set = *mine;
        *mine = NULL;
        d->oid_count += set_size(set);
        HASH_ADD(hh, d->sets, digest, sizeof(set->digest), set);
    }
    set->refs++;
    return set;
}

static bool starts_with_one_of(const char *s, const struct listing *listing)
{
    for (size_t i = 0; i < listing->prefix_count; i++)
        if (strncmp(s, listing->prefixes[i], strlen(listing->prefixes[i])) == 0)
            return true;
    return listing->prefix_count == 0;
}

/* Would a ref that stood in old stand in the listing, too, if upstream still showed it?  HEAD
 * points to a branch, so it doesn't count; to drop too much costs a question, to keep too much a
 * secret. */
static bool covers(const struct listing *listing, const struct timed_set *old)
{
    if (key_equal(&old->question, &listing->question) || listing->prefix_count == 0)
        return true;
    for (size_t at = 0; at < old->prefixes.len; at += strlen(old->prefixes.data + at) + 1)
        if (strcmp(old->prefixes.data + at, "HEAD") != 0 &&
            !starts_with_one_of(old->prefixes.data + at, listing))
            return false;
    return old->prefixes.len > 0;
}

/* A free place, or else that of the one that ends first. */
static struct timed_set *place_for(struct decision *r)
{
    struct timed_set *place = &r->sets[0];

    for (size_t i = 0; i < DECISION_SETS_MAX; i++) {
        struct timed_set *t = &r->sets[i];

        if (place->set != NULL && (t->set == NULL || t->until_ms < place->until_ms))
            place = t;
    }
    return place;
}

void decisions_advertised(struct decisions *d, const struct subject *s, uint64_t now_ms,
                          uint64_t ttl_ms, const struct listing *listing)
{
    struct oid_set *mine = make_set(listing);
    struct decision *r;

    lock_take(&d->lock);
    r = allowed_locked(d, s, now_ms);
    if (r != NULL) {
        struct timed_set *place;

        for (size_t i = 0; i < DECISION_SETS_MAX; i++)
            if (r->sets[i].set != NULL && covers(listing, &r->sets[i]))
                drop_set_locked(d, &r->sets[i]);
        place = place_for(r);
        drop_set_locked(d, place);
        bytes_init(&place->prefixes, SIZE_MAX / 2);
        for (size_t i = 0; i < listing->prefix_count; i++)
            bytes_add(&place->prefixes, listing->prefixes[i], strlen(listing->prefixes[i]) + 1);
        place->set = share_set_locked(d, r, now_ms, &mine);
        place->question = listing->question;
        /* A newer word than that on what upstream handed out before. */
        r->grant_count = 0;
        r->old_refs_ms = 0;
        place->until_ms = now_ms + ttl_ms;
    }
    lock_drop(&d->lock);
    free_set(mine);
}

void decisions_gave_old_refs(struct decisions *d, const struct subject *s, uint64_t then_ms)
{
    struct decision *r;

    lock_take(&d->lock);
    r = find_locked(d, s);
    if (r != NULL)
        r->old_refs_ms = then_ms;
    lock_drop(&d->lock);
}

uint64_t decisions_refs_age(struct decisions *d, const struct subject *s, uint64_t now_ms)
{
    struct decision *r;
    uint64_t age = 0;

    lock_take(&d->lock);
    r = find_locked(d, s);
    if (r != NULL && r->old_refs_ms > 0 && now_ms > r->old_refs_ms)
        age = now_ms - r->old_refs_ms;
    lock_drop(&d->lock);
    return age;
}

struct tag {
    struct oid tag, target;
};

static int by_tag(const void *a, const void *b)
{
    return oid_cmp(&((const struct tag *)a)->tag, &((const struct tag *)b)->tag);
}

bool decisions_tags(struct decisions *d, const struct subject *s, uint64_t now_ms,
                    struct oid_list *tags, struct oid_list *targets)
{
    struct tag *all = NULL;
    struct decision *r;
    size_t count = 0;
    bool listed = false;

    lock_take(&d->lock);
    r = allowed_locked(d, s, now_ms);
    for (size_t i = 0; r != NULL && i < DECISION_SETS_MAX; i++) {
        const struct timed_set *t = &r->sets[i];

        if (t->set == NULL || now_ms >= t->until_ms)
            continue;
        listed = true;
        all = xrealloc(all, (count + t->set->tags.count) * sizeof(*all));
        for (size_t k = 0; k < t->set->tags.count; k++)
            all[count++] = (struct tag){t->set->tags.items[k], t->set->targets.items[k]};
    }
    lock_drop(&d->lock);
    if (count > 0)
        qsort(all, count, sizeof(*all), by_tag);
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && by_tag(&all[i], &all[i - 1]) == 0)
            continue;
        oid_list_add(tags, &all[i].tag);
        oid_list_add(targets, &all[i].target);
    }
    free(all);
    return listed;
}

/* Where oid is among the grants, which are sorted, or would have to be. */
static size_t grant_place(const struct decision *r, const struct oid *oid)
{
    size_t low = 0, high = r->grant_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (oid_cmp(&r->grants[middle].oid, oid) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct grant *find_grant(const struct decision *r, const struct oid *oid)
{
    size_t at = grant_place(r, oid);

    return at < r->grant_count && oid_cmp(&r->grants[at].oid, oid) == 0 ? &r->grants[at] : NULL;
}

/* Makes room by forgetting what has ended; false when all are in force. */
static bool grant_room_locked(struct decision *r, uint64_t now_ms)
{
    size_t kept = 0;

    if (r->grant_count < r->grant_cap)
        return true;
    for (size_t i = 0; i < r->grant_count; i++)
        if (now_ms < r->grants[i].until_ms)
            r->grants[kept++] = r->grants[i];
    r->grant_count = kept;
    if (kept < r->grant_cap)
        return true;
    if (r->grant_cap >= DECISION_GRANTS_MAX)
        return false;
    r->grant_cap = r->grant_cap > 0 ? 2 * r->grant_cap : 8;
    r->grants = xrealloc(r->grants, r->grant_cap * sizeof(*r->grants));
    return true;
}

static bool grant_locked(struct decision *r, uint64_t now_ms, uint64_t until_ms,
                         const struct oid *oid)
{
    struct grant *known = find_grant(r, oid);
    size_t at;

    if (known != NULL) {
        known->until_ms = until_ms;
        return true;
    }
    if (!grant_room_locked(r, now_ms))
        return false;
    at = grant_place(r, oid);
    memmove(&r->grants[at + 1], &r->grants[at], (r->grant_count - at) * sizeof(*r->grants));
    r->grants[at] = (struct grant){*oid, until_ms};
    r->grant_count++;
    return true;
}

void decisions_grant(struct decisions *d, const struct subject *s, uint64_t now_ms, uint64_t ttl_ms,
                     const struct oid_list *oids)
{
    struct decision *r;

    lock_take(&d->lock);
    r = allowed_locked(d, s, now_ms);
    for (size_t i = 0; r != NULL && i < oids->count; i++)
        if (!grant_locked(r, now_ms, now_ms + ttl_ms, &oids->items[i]))
            break;
    lock_drop(&d->lock);
}

static bool is_known_locked(const struct decision *r, uint64_t now_ms, const struct oid *oid)
{
    const struct grant *granted = find_grant(r, oid);

    for (size_t i = 0; i < DECISION_SETS_MAX; i++)
        if (r->sets[i].set != NULL && now_ms < r->sets[i].until_ms &&
            oid_list_contains(&r->sets[i].set->oids, oid))
            return true;
    return granted != NULL && now_ms < granted->until_ms;
}

void decisions_unknown(struct decisions *d, const struct subject *s, uint64_t now_ms,
                       const struct oid_list *oids, struct oid_list *unknown)
{
    /* In pieces: a request may want a million objects, and others wait for the lock. */
    for (size_t from = 0; from < oids->count; from += UNKNOWN_PIECE) {
        size_t to = oids->count - from > UNKNOWN_PIECE ? from + UNKNOWN_PIECE : oids->count;
        const struct decision *r;

        lock_take(&d->lock);
        r = allowed_locked(d, s, now_ms);
        for (size_t i = from; i < to; i++)
            if (r == NULL || !is_known_locked(r, now_ms, &oids->items[i]))
                oid_list_add(unknown, &oids->items[i]);
        lock_drop(&d->lock);
    }
}

void decisions_all_advertised(struct decisions *d, const struct subject *s, uint64_t now_ms,
                              struct oid_list *out)
{
    struct decision *r;

    lock_take(&d->lock);
    r = allowed_locked(d, s, now_ms);
    for (size_t i = 0; r != NULL && i < DECISION_SETS_MAX; i++) {
        const struct timed_set *t = &r->sets[i];

        for (size_t k = 0; t->set != NULL && now_ms < t->until_ms && k < t->set->oids.count; k++)
            oid_list_add(out, &t->set->oids.items[k]);
    }
    lock_drop(&d->lock);
    oid_list_sort(out);
}

void decisions_set_advert(struct decisions *d, const struct subject *s, uint64_t now_ms,
                          uint64_t ttl_ms, struct advert *a)
{
    struct decision *r;

    lock_take(&d->lock);
    r = find_locked(d, s);
    if (r != NULL && r->verdict == VERDICT_ALLOWED) {
        advert_clear(&r->advert);
        r->advert = *a;
        r->advert_until_ms = now_ms + ttl_ms;
        r->has_advert = true;
        *a = (struct advert){0};
    }
    lock_drop(&d->lock);
    advert_clear(a);
}

bool decisions_get_advert(struct decisions *d, const struct subject *s, uint64_t now_ms,
                          struct advert *out)
{
    struct decision *r;
    bool found;

    lock_take(&d->lock);
    r = allowed_locked(d, s, now_ms);
    found = r != NULL && r->has_advert && now_ms < r->advert_until_ms;
    if (found) {
        *out = r->advert;
        out->v2_content_type = out->v2_content_type != NULL ? xstrdup(out->v2_content_type) : NULL;
        if (out->v2_body != NULL) {
            out->v2_body = xmalloc(out->v2_len);
            memcpy(out->v2_body, r->advert.v2_body, out->v2_len);
        }
    }
    lock_drop(&d->lock);
    return found;
}

void decisions_set_moved(struct decisions *d, const struct subject *s, uint64_t now_ms,
                         uint64_t ttl_ms, const char *moved)
{
    struct decision *r;

    lock_take(&d->lock);
    r = moved != NULL ? renew_locked(d, s) : find_locked(d, s);
    if (r != NULL) {
        free(r->moved);
        r->moved = moved != NULL ? xstrdup(moved) : NULL;
        r->moved_until_ms = now_ms + ttl_ms;
    }
    lock_drop(&d->lock);
}

char *decisions_moved(struct decisions *d, const struct subject *s, uint64_t now_ms)
{
    struct decision *r;
    char *moved = NULL;

    lock_take(&d->lock);
    r = find_locked(d, s);
    if (r != NULL && r->moved != NULL && now_ms < r->moved_until_ms)
        moved = xstrdup(r->moved);
    lock_drop(&d->lock);
    return moved;
}

/* repo_id NULL: of all. */
static void forget(struct decisions *d, const struct key *repo_id)
{
    struct decision *r, *next;

    lock_take(&d->lock);
    DL_FOREACH_SAFE(d->order, r, next)
    {
        if (repo_id == NULL || key_equal(&r->subject.repo_id, repo_id))
            remove_locked(d, r);
    }
    lock_drop(&d->lock);
}

void decisions_forget(struct decisions *d, const struct key *repo_id)
{
    forget(d, repo_id);
}

void decisions_forget_all(struct decisions *d)
{
    forget(d, NULL);
}
