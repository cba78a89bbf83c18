#include "proxy/manners/manners.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <uthash.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/bytes.h"
#include "protocol/digest.h"
#include "proxy/manners/budget.h"

struct host {
    char *base_url;
    struct budget budget;
    /* Who was told to wait, and until when; a second one closes the host to all. */
    struct key told;
    uint64_t told_until_ms;
    uint64_t closed_until_ms;
    UT_hash_handle hh;
};

/* A credential at a host, or a credential at a repository. */
struct told {
    struct key who;
    uint64_t until_ms;
    UT_hash_handle hh;
};

struct manners {
    struct lock lock;
    struct key secret;
    struct host *hosts;
    struct told *told;
    struct manners_counts counts;
};

struct manners *manners_new(void)
{
    struct manners *m = xcalloc(1, sizeof(*m));

    lock_init(&m->lock, LOCK_MANNERS);
    must(getrandom(m->secret.raw, sizeof(m->secret.raw), 0) == sizeof(m->secret.raw));
    return m;
}

static void drop_host_locked(struct manners *m, struct host *h)
{
    HASH_DEL(m->hosts, h);
    free(h->base_url);
    free(h);
}

static void drop_told_locked(struct manners *m, struct told *t)
{
    HASH_DEL(m->told, t);
    free(t);
}

void manners_free(struct manners **mp)
{
    struct manners *m = *mp;
    struct host *h, *next_host;
    struct told *t, *next_told;

    *mp = NULL;
    if (m == NULL)
        return;
    HASH_ITER(hh, m->hosts, h, next_host)
    drop_host_locked(m, h);
    HASH_ITER(hh, m->told, t, next_told)
    drop_told_locked(m, t);
    lock_clear(&m->lock);
    free(m);
}

/* repo NULL: of the credential alone. */
static void name(const struct manners *m, const struct manners_who *who, const char *repo,
                 struct key *out)
{
    struct bytes text;

    bytes_init(&text, SIZE_MAX / 2);
    bytes_add(&text, who->base_url, strlen(who->base_url) + 1);
    bytes_add(&text, repo != NULL ? repo : "", repo != NULL ? strlen(repo) + 1 : 1);
    if (who->authorization != NULL)
        bytes_add(&text, who->authorization, strlen(who->authorization) + 1);
    key_hmac(&m->secret, text.data, text.len, out);
    explicit_bzero(text.data, text.len);
    bytes_clear(&text);
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* When nothing of it matters any more. */
static uint64_t host_over_ms(const struct host *h)
{
    return later(h->budget.due_us / 1000 + 1, later(h->told_until_ms, h->closed_until_ms));
}

/* Room for one more: what is over goes, and else what is over soonest. */
static void make_room_for_host_locked(struct manners *m, uint64_t now_ms)
{
    struct host *h, *next, *soonest = NULL;

    if (HASH_COUNT(m->hosts) < MANNERS_HOSTS_MAX)
        return;
    HASH_ITER(hh, m->hosts, h, next)
    {
        if (host_over_ms(h) <= now_ms)
            drop_host_locked(m, h);
        else if (soonest == NULL || host_over_ms(h) < host_over_ms(soonest))
            soonest = h;
    }
    if (HASH_COUNT(m->hosts) >= MANNERS_HOSTS_MAX)
        drop_host_locked(m, soonest);
}

static struct host *host_locked(struct manners *m, const char *base_url, uint64_t now_ms)
{
    struct host *h;

    HASH_FIND_STR(m->hosts, base_url, h);
    if (h != NULL)
        return h;
    make_room_for_host_locked(m, now_ms);
    h = xcalloc(1, sizeof(*h));
    h->base_url = xstrdup(base_url);
    HASH_ADD_KEYPTR(hh, m->hosts, h->base_url, strlen(h->base_url), h);
    return h;
}

static void make_room_for_told_locked(struct manners *m, uint64_t now_ms)
{
    struct told *t, *next, *soonest = NULL;

    if (HASH_COUNT(m->told) < MANNERS_TOLD_MAX)
        return;
    HASH_ITER(hh, m->told, t, next)
    {
        if (t->until_ms <= now_ms)
            drop_told_locked(m, t);
        else if (soonest == NULL || t->until_ms < soonest->until_ms)
            soonest = t;
    }
    if (HASH_COUNT(m->told) >= MANNERS_TOLD_MAX)
        drop_told_locked(m, soonest);
}

static void tell_locked(struct manners *m, const struct key *who, uint64_t until_ms,
                        uint64_t now_ms)
{
    struct told *t;

    HASH_FIND(hh, m->told, who, sizeof(*who), t);
    if (t == NULL) {
        make_room_for_told_locked(m, now_ms);
        t = xcalloc(1, sizeof(*t));
        t->who = *who;
        HASH_ADD(hh, m->told, who, sizeof(t->who), t);
    }
    t->until_ms = later(t->until_ms, until_ms);
}

static uint64_t told_until_locked(struct manners *m, const struct key *who)
{
    struct told *t;

    HASH_FIND(hh, m->told, who, sizeof(*who), t);
    return t != NULL ? t->until_ms : 0;
}

static uint64_t throttled_until_locked(struct manners *m, const struct host *h,
                                       const struct key *credential, const struct key *repository)
{
    return later(h != NULL ? h->closed_until_ms : 0,
                 later(told_until_locked(m, credential), told_until_locked(m, repository)));
}

int manners_admit(struct manners *m, const struct manners_who *who, enum need need, uint64_t now_ms,
                  struct err *err)
{
    const struct upstream_config *c = who->config;
    struct key credential, repository;
    uint64_t until, wait = 0;
    struct host *h;

    name(m, who, NULL, &credential);
    name(m, who, who->repo, &repository);
    lock_take(&m->lock);
    h = c->rate.count > 0 ? host_locked(m, who->base_url, now_ms) : NULL;
    if (h == NULL)
        HASH_FIND_STR(m->hosts, who->base_url, h);
    until = throttled_until_locked(m, h, &credential, &repository);
    if (h != NULL && need == NEED_MUST)
        budget_overdraw(&h->budget, &c->rate, now_ms);
    else if (h != NULL && until <= now_ms)
        wait = budget_take(&h->budget, &c->rate, c->burst, need == NEED_SPARE ? c->burst / 2 : 0,
                           now_ms);
    if (need == NEED_MUST)
        until = 0;
    m->counts.refused += until > now_ms || wait > 0;
    lock_drop(&m->lock);
    if (until > now_ms)
        return err_set(err, ERR_THROTTLED, "%s asks to be left alone for another %llu s", c->name,
                       (unsigned long long)((until - now_ms + 999) / 1000));
    if (wait > 0)
        return err_set(err, ERR_THROTTLED, "the budget of requests to %s is used up", c->name);
    return 0;
}

void manners_heard(struct manners *m, const struct manners_who *who, enum throttle_scope scope,
                   uint64_t wait_ms, uint64_t now_ms)
{
    struct key credential, repository;
    struct host *h;

    if (scope == THROTTLE_NONE)
        return;
    name(m, who, NULL, &credential);
    name(m, who, who->repo, &repository);
    lock_take(&m->lock);
    m->counts.throttled++;
    if (scope == THROTTLE_REPOSITORY) {
        tell_locked(m, &repository, now_ms + wait_ms, now_ms);
    } else {
        tell_locked(m, &credential, now_ms + wait_ms, now_ms);
        h = host_locked(m, who->base_url, now_ms);
        if (now_ms < h->told_until_ms && !key_equal(&h->told, &credential)) {
            uint64_t all = wait_ms < MANNERS_ALL_MAX_MS ? wait_ms : MANNERS_ALL_MAX_MS;

            h->closed_until_ms = later(h->closed_until_ms, now_ms + all);
        } else {
            h->told = credential;
            h->told_until_ms = later(h->told_until_ms, now_ms + wait_ms);
        }
    }
    lock_drop(&m->lock);
}

uint32_t manners_retry_after_s(struct manners *m, const struct manners_who *who, uint64_t now_ms)
{
    const struct upstream_config *c = who->config;
    struct key credential, repository;
    uint64_t until, wait = 0;
    struct host *h;

    name(m, who, NULL, &credential);
    name(m, who, who->repo, &repository);
    lock_take(&m->lock);
    HASH_FIND_STR(m->hosts, who->base_url, h);
    until = throttled_until_locked(m, h, &credential, &repository);
    if (h != NULL) {
        struct budget look = h->budget;

        wait = budget_take(&look, &c->rate, c->burst, 0, now_ms);
    }
    lock_drop(&m->lock);
    if (until > now_ms && until - now_ms > wait)
        wait = until - now_ms;
    return wait < 1000 ? 1 : (uint32_t)((wait + 999) / 1000);
}

void manners_count(struct manners *m, struct manners_counts *out)
{
    lock_take(&m->lock);
    *out = m->counts;
    lock_drop(&m->lock);
}
