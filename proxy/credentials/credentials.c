#include "proxy/credentials/credentials.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/base64.h"
#include "protocol/digest.h"
#include "proxy/credentials/internal.h"

enum {
    SOURCES_MAX = 1024, /* clients can make up owners */
    FAILED_AGAIN_S = 10,
};

/* Where one comes from, for one purpose, and what came last. */
struct source {
    struct key key;
    unsigned users; /* threads that look at it: it stays */
    int64_t used;
    struct credential got; /* password NULL: none */
    char *authorization;   /* made of it */
    int64_t ends, renew;   /* 0: never; renew is earlier */
    bool accepted;         /* upstream has said so, and the source was told */
    bool getting;          /* one thread is */
    struct err failure;
    int64_t retry; /* not before, as getting failed */
    struct file_stamp stamp;
    int64_t looked;     /* at the file, last */
    struct key refused; /* upstream said 401 to this one */
    int64_t refused_until;
    UT_hash_handle hh;
};

struct credentials {
    struct credential_tools tools;
    struct lock lock;
    pthread_cond_t got;
    struct source *sources;
};

struct credentials *credentials_new(struct processes *processes, struct origins *origins)
{
    struct credentials *all = xcalloc(1, sizeof(*all));

    all->tools = (struct credential_tools){processes, origins};
    lock_init(&all->lock, LOCK_CREDENTIALS);
    lock_cond_init(&all->got);
    return all;
}

static void forget_got(struct source *s)
{
    credential_clear(&s->got);
    credentials_wipe(&s->authorization);
}

static void drop_locked(struct credentials *all, struct source *s)
{
    HASH_DEL(all->sources, s);
    forget_got(s);
    free(s);
}

void credentials_free(struct credentials **allp)
{
    struct credentials *all = *allp;
    struct source *s, *next;

    *allp = NULL;
    if (all == NULL)
        return;
    HASH_ITER(hh, all->sources, s, next)
    {
        must(s->users == 0);
        drop_locked(all, s);
    }
    pthread_cond_destroy(&all->got);
    lock_clear(&all->lock);
    free(all);
}

static const struct credential_kind *kind_of(const struct upstream_config *u)
{
    static const struct credential_kind *const kinds[] = {
        [AUTH_TOKEN] = &credential_token,
        [AUTH_HELPER] = &credential_helper,
        [AUTH_GITHUB_APP] = &credential_github_app,
        [AUTH_NETRC] = &credential_netrc,
    };

    must(u->auth > AUTH_PASSTHROUGH && u->auth < ARRAY_LEN(kinds));
    return kinds[u->auth];
}

/* ---- the table ---- */

static void add_part(struct bytes *text, const char *part)
{
    bytes_add(text, part != NULL ? part : "", part != NULL ? strlen(part) + 1 : 1);
}

/* Of all that makes the source another one, so that a changed configuration never meets what an
 * older one got. */
static void key_of_use(const struct credential_use *use, struct key *out)
{
    const struct upstream_config *u = use->upstream;
    const char *parts[] = {use->base_url, u->username,         u->token_file, u->credential_helper,
                           u->app_id,     u->private_key_file, u->api_url,    u->netrc_file};
    struct bytes text;

    bytes_init(&text, SIZE_MAX / 2);
    bytes_addf(&text, "%d", (int)u->auth);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        add_part(&text, parts[i]);
    if (kind_of(u)->by_owner) {
        size_t from = text.len;

        bytes_add(&text, use->repo, strcspn(use->repo, "/"));
        for (; from < text.len; from++)
            text.data[from] = (char)tolower((unsigned char)text.data[from]);
        add_part(&text, use->push ? " push" : " read");
    }
    key_of(text.data, text.len, out);
    bytes_clear(&text);
}

static void make_room_locked(struct credentials *all)
{
    struct source *oldest = NULL;

    for (struct source *s = all->sources; s != NULL; s = s->hh.next)
        if (s->users == 0 && (oldest == NULL || s->used < oldest->used))
            oldest = s;
    if (oldest != NULL)
        drop_locked(all, oldest);
}

/* A use of it: give it back with leave_locked(). */
static struct source *enter_locked(struct credentials *all, const struct key *key, bool make)
{
    struct source *s;

    HASH_FIND(hh, all->sources, key, sizeof(*key), s);
    if (s == NULL && make) {
        if (HASH_COUNT(all->sources) >= SOURCES_MAX)
            make_room_locked(all);
        s = xcalloc(1, sizeof(*s));
        s->key = *key;
        HASH_ADD(hh, all->sources, key, sizeof(s->key), s);
    }
    if (s != NULL)
        s->users++;
    return s;
}

static void leave_locked(struct source *s)
{
    s->users--;
}

/* ---- getting ---- */

static char *header_of(const struct credential *c)
{
    char *plain = xasprintf("%s:%s", c->username, c->password);
    char *coded = base64_encode(plain, strlen(plain));
    char *value = xasprintf("Basic %s", coded);

    credentials_wipe(&coded);
    credentials_wipe(&plain);
    return value;
}

/* The kinds know the words; which errors they are to a client is the same for all.  What is wrong
 * with our credential isn't the client's to mend. */
static void complain(const struct credential_use *use, struct err *err)
{
    if (err->kind != ERR_NOT_FOUND && err->kind != ERR_BUSY && err->kind != ERR_CANCELLED &&
        err->kind != ERR_TIMEOUT)
        err->kind = ERR_UPSTREAM;
    if (err->kind == ERR_NOT_FOUND && !kind_of(use->upstream)->by_owner)
        err->kind = ERR_UPSTREAM;
    err_prefix(err, "no credential for %s", use->upstream->name);
}

struct attempt {
    struct credential got;
    char *authorization;
    struct file_stamp stamp;
    struct err why;
    int rc;
};

/* Without the lock. */
static void attempt(const struct credentials *all, const struct credential_use *use, int64_t now,
                    struct attempt *a)
{
    const struct credential_kind *kind = kind_of(use->upstream);

    *a = (struct attempt){0};
    /* Before it is read: what changes meanwhile is seen as a change the next time. */
    if (kind->file != NULL)
        file_stamp_of(kind->file(use->upstream), &a->stamp);
    a->rc = kind->get(&all->tools, use, now, &a->got, &a->why);
    if (a->rc == 0)
        a->authorization = header_of(&a->got);
    else
        complain(use, &a->why);
}

static bool is_refused(const struct source *s, int64_t now, const char *authorization)
{
    struct key key;

    key_of(authorization, strlen(authorization), &key);
    return now < s->refused_until && key_equal(&key, &s->refused);
}

/* Takes what is in *a. */
static void settle_locked(struct source *s, const struct credential_use *use, int64_t now,
                          struct attempt *a)
{
    const struct credential_kind *kind = kind_of(use->upstream);

    s->stamp = a->stamp;
    s->looked = now;
    if (a->rc == 0 && is_refused(s, now, a->authorization))
        a->rc = err_set(&a->why, ERR_UPSTREAM, "%s refuses the credential that pannier has for it",
                        use->upstream->name);
    else if (a->rc == 0 && a->got.expires > 0 && a->got.expires <= now)
        a->rc = err_set(&a->why, ERR_UPSTREAM, "no credential for %s: it has expired already",
                        use->upstream->name);
    if (a->rc != 0) {
        credential_clear(&a->got);
        credentials_wipe(&a->authorization);
        s->failure = a->why;
        s->retry = now + FAILED_AGAIN_S;
        return;
    }
    forget_got(s);
    s->got = a->got;
    s->authorization = a->authorization;
    s->accepted = false;
    s->retry = 0;
    s->ends = a->got.expires;
    if (s->ends > 0)
        s->renew = s->ends - kind->early_s;
    else
        s->renew = s->ends = kind->keep_s > 0 ? now + kind->keep_s : 0;
}

/* One thread, with s->getting set. */
static void renew_locked(struct credentials *all, struct source *s,
                         const struct credential_use *use, int64_t now)
{
    struct attempt a;

    s->getting = true;
    lock_drop(&all->lock);
    attempt(all, use, now, &a);
    lock_take(&all->lock);
    settle_locked(s, use, now, &a);
    s->getting = false;
    pthread_cond_broadcast(&all->got);
}

/* At most once a second: has the file become another one? */
static void look_at_file_locked(struct credentials *all, struct source *s,
                                const struct credential_use *use, int64_t now)
{
    const struct credential_kind *kind = kind_of(use->upstream);
    struct file_stamp stamp;

    if (kind->file == NULL || s->looked == now || s->getting)
        return;
    s->looked = now;
    lock_drop(&all->lock);
    file_stamp_of(kind->file(use->upstream), &stamp);
    lock_take(&all->lock);
    if (s->getting || file_stamp_equal(&stamp, &s->stamp))
        return;
    forget_got(s);
    s->retry = 0;
}

static bool is_good(const struct source *s, int64_t now)
{
    return s->authorization != NULL && (s->ends == 0 || now < s->ends);
}

static bool is_fresh(const struct source *s, int64_t now)
{
    return is_good(s, now) && (s->renew == 0 || now < s->renew);
}

int credentials_get(struct credentials *all, const struct credential_use *use, int64_t now,
                    char **authorization, struct err *err)
{
    struct source *s;
    struct key key;
    bool tried = false, good;

    key_of_use(use, &key);
    lock_take(&all->lock);
    s = enter_locked(all, &key, true);
    s->used = now;
    look_at_file_locked(all, s, use, now);
    /* What this thread has just got is good enough, however shortly it lives. */
    while (!is_fresh(s, now) && !tried && now >= s->retry && !(s->getting && is_good(s, now))) {
        if (s->getting) {
            lock_wait(&all->lock, &all->got);
        } else {
            renew_locked(all, s, use, now);
            tried = true;
        }
    }
    good = is_good(s, now);
    if (good)
        *authorization = xstrdup(s->authorization);
    else
        *err = s->failure;
    leave_locked(s);
    lock_drop(&all->lock);
    return good ? 0 : -1;
}

/* ---- what upstream thought of it ---- */

/* A copy of what the source has, if it is still this one. */
static bool copy_got_locked(const struct source *s, const char *authorization,
                            struct credential *out)
{
    if (s == NULL || s->authorization == NULL || strcmp(s->authorization, authorization) != 0)
        return false;
    *out = (struct credential){xstrdup(s->got.username), xstrdup(s->got.password), s->got.expires};
    return true;
}

void credentials_accepted(struct credentials *all, const struct credential_use *use,
                          const char *authorization)
{
    const struct credential_kind *kind = kind_of(use->upstream);
    struct credential got;
    struct source *s;
    struct key key;
    bool news;

    if (kind->accepted == NULL)
        return;
    key_of_use(use, &key);
    lock_take(&all->lock);
    s = enter_locked(all, &key, false);
    news = s != NULL && !s->accepted && copy_got_locked(s, authorization, &got);
    if (news)
        s->accepted = true;
    if (s != NULL)
        leave_locked(s);
    lock_drop(&all->lock);
    if (!news)
        return;
    kind->accepted(&all->tools, use, &got);
    credential_clear(&got);
}

void credentials_refused(struct credentials *all, const struct credential_use *use, int64_t now,
                         const char *authorization)
{
    const struct credential_kind *kind = kind_of(use->upstream);
    struct credential got;
    struct source *s;
    struct key key;
    bool ours, holds = false;

    key_of_use(use, &key);
    lock_take(&all->lock);
    s = enter_locked(all, &key, false);
    /* Of several who were refused with the same one the first tells, and the others find it gone.
     */
    ours = copy_got_locked(s, authorization, &got);
    if (ours) {
        key_of(authorization, strlen(authorization), &s->refused);
        s->refused_until = now + FAILED_AGAIN_S;
        forget_got(s);
        s->retry = 0;
        /* Whoever comes now waits until the source knows, or it would give the same again. */
        holds = kind->refused != NULL && !s->getting;
        s->getting = s->getting || holds;
    }
    if (s != NULL && !ours)
        leave_locked(s);
    lock_drop(&all->lock);
    if (!ours)
        return;
    if (kind->refused != NULL)
        kind->refused(&all->tools, use, &got);
    credential_clear(&got);
    lock_take(&all->lock);
    if (holds)
        s->getting = false;
    pthread_cond_broadcast(&all->got);
    leave_locked(s);
    lock_drop(&all->lock);
}
