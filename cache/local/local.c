#include "cache/local/local.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include <uthash.h>
#include <utlist.h>

#include "cache/local/index.h"
#include "cache/lock.h"
#include "protocol/base.h"

enum {
    BLOCK_SIZE = 512, /* of st_blocks, whatever the file system's is */
    /* What took more than this of the tier and then found no room isn't tried again while it is
     * remembered: it would empty the tier each time. */
    TOO_LARGE_PERCENT = 50,
    TOO_LARGE_MAX = 64,
    EXPIRE_INTERVAL_S = 60,
    OPEN_FOLDERS_MAX = 16,
};

/* What is known of one entry; the rest is in the index. */
struct record {
    struct policy_item item; /* its first member: policies hand it back */
    char *path;
    enum entry_kind kind;
    bool leaving;               /* out of the policy: somebody removes it without the lock */
    bool counted;               /* among the bytes that are leaving */
    bool gone;                  /* while leaving: it was forgotten */
    bool expired;               /* a preview's mark */
    bool changed;               /* in the list of changes */
    struct entry *put;          /* to be written whole into the index; NULL: only its access */
    uint64_t seen;              /* the scan that saw its file */
    struct record *prev, *next; /* among the changed */
    UT_hash_handle hh;
};

struct claim {
    struct local *local;
    uint64_t id; /* of what it is going to be; 0: not said */
    uint64_t bytes;
};

struct local {
    struct folder *folder;
    struct index *index; /* used by whoever has index_busy */
    struct lock lock;
    pthread_cond_t changed; /* index_busy, or something has left */
    bool index_busy;

    struct record *by_path;
    struct record *changes;
    char **removed; /* paths, to be taken out of the index */
    size_t removed_count;
    struct policy *policy;
    struct local_limits limits;
    struct local_owner owners[ENTRY_KINDS_COUNT];

    uint64_t entries[ENTRY_KINDS_COUNT], bytes[ENTRY_KINDS_COUNT];
    uint64_t claimed;
    uint64_t leaving; /* bytes that somebody is removing just now */
    uint64_t frame;   /* of folders and the index */
    uint64_t limit;
    uint64_t evicted, evicted_bytes;
    uint64_t scan; /* number of the latest */
    bool scanned;
    bool index_lost;   /* it lacks things that are known here */
    int64_t expired_s; /* local_tick()'s own */
    struct {
        uint64_t id, limit;
    } too_large[TOO_LARGE_MAX];
    size_t too_large_next;
};

/* ---- how much is it? ---- */

static uint64_t file_usage(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0 ? (uint64_t)st.st_blocks * BLOCK_SIZE : 0;
}

static _Thread_local uint64_t usage_sum; /* nftw() has no argument of the caller's */

static int add_usage(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)path;
    (void)flag;
    (void)ftw;
    usage_sum += (uint64_t)st->st_blocks * BLOCK_SIZE;
    return 0;
}

uint64_t disk_usage(const char *path)
{
    usage_sum = 0;
    nftw(path, add_usage, OPEN_FOLDERS_MAX, FTW_PHYS);
    return usage_sum;
}

static bool ends_in_git(const char *name)
{
    size_t len = strlen(name);

    return len > 4 && strcmp(name + len - 4, ".git") == 0;
}

/* Folders only, and of mirrors none inside. */
static uint64_t folders_usage(const char *path)
{
    uint64_t sum = file_usage(path);
    DIR *dir = opendir(path);
    struct dirent *d;

    while (dir != NULL && (d = readdir(dir)) != NULL) {
        char *below;

        if (d->d_type != DT_DIR || d->d_name[0] == '.' || ends_in_git(d->d_name))
            continue;
        below = xasprintf("%s/%s", path, d->d_name);
        sum += folders_usage(below);
        free(below);
    }
    if (dir != NULL)
        closedir(dir);
    return sum;
}

static uint64_t index_usage(struct local *l)
{
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    uint64_t sum = 0;

    for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
        char *path = folder_pathf(l->folder, "index.db%s", suffixes[i]);

        sum += file_usage(path);
        free(path);
    }
    return sum;
}

/* All that is neither an entry nor claimed. */
static void measure_frame(struct local *l)
{
    static const char *const files[] = {"version", "lock", "control"};
    uint64_t sum = index_usage(l) + folders_usage(folder_path(l->folder));

    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char *path = folder_pathf(l->folder, "%s", files[i]);

        sum += file_usage(path);
        free(path);
    }
    lock_take(&l->lock);
    l->frame = sum;
    lock_drop(&l->lock);
}

static uint64_t total_locked(const struct local *l)
{
    uint64_t total = l->frame + l->claimed;

    for (size_t k = 0; k < ENTRY_KINDS_COUNT; k++)
        total += l->bytes[k];
    return total;
}

static uint64_t share_of(const struct share *share, uint64_t all)
{
    return share->percent > 0 ? all / 100 * share->percent : share->bytes;
}

/* The limits depend on the file system, which others fill, too. */
static void measure_limit(struct local *l)
{
    struct statvfs fs;
    bool known = statvfs(folder_path(l->folder), &fs) == 0;
    uint64_t all, available, total, limit, min_free;

    lock_take(&l->lock);
    total = total_locked(l);
    limit = share_of(&l->limits.size, UINT64_MAX);
    if (known) {
        all = (uint64_t)fs.f_blocks * fs.f_frsize;
        available = (uint64_t)fs.f_bavail * fs.f_frsize;
        min_free = share_of(&l->limits.min_free, all);
        limit = share_of(&l->limits.size, all);
        /* What is claimed but not written yet still counts as available. */
        if (total + available < min_free)
            limit = 0;
        else if (total + available - min_free < limit)
            limit = total + available - min_free;
    }
    if (limit != l->limit) {
        l->limit = limit;
        policy_set_capacity(l->policy, limit);
    }
    lock_drop(&l->lock);
}

/* ---- the table ---- */

static uint64_t id_of(const char *path)
{
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */

    for (; *path != '\0'; path++)
        hash = (hash ^ (uint8_t)*path) * UINT64_C(1099511628211);
    return hash;
}

static struct record *find_locked(struct local *l, const char *path)
{
    struct record *r;

    HASH_FIND_STR(l->by_path, path, r);
    return r;
}

static void note_change_locked(struct local *l, struct record *r)
{
    if (!r->changed)
        DL_APPEND(l->changes, r);
    r->changed = true;
}

static void clear_change_locked(struct local *l, struct record *r)
{
    if (r->changed)
        DL_DELETE(l->changes, r);
    r->changed = false;
    if (r->put != NULL)
        entry_clear(r->put);
    free(r->put);
    r->put = NULL;
}

static struct record *add_locked(struct local *l, const struct entry *e)
{
    struct record *r = xcalloc(1, sizeof(*r));

    r->path = xstrdup(e->path);
    r->kind = e->kind;
    r->item.id = id_of(e->path);
    r->item.size = e->stored_size;
    r->item.accessed = e->accessed > 0 ? e->accessed : e->created;
    r->item.accesses = e->accesses;
    HASH_ADD_KEYPTR(hh, l->by_path, r->path, strlen(r->path), r);
    policy_insert(l->policy, &r->item);
    l->entries[r->kind]++;
    l->bytes[r->kind] += r->item.size;
    return r;
}

/* Takes path. */
static void note_removed_locked(struct local *l, char *path)
{
    l->removed = xrealloc(l->removed, (l->removed_count + 1) * sizeof(*l->removed));
    l->removed[l->removed_count++] = path;
}

static void uncount_locked(struct local *l, struct record *r)
{
    if (r->counted)
        l->leaving -= r->item.size;
    r->counted = false;
}

/* It is out of the policy already. */
static void drop_locked(struct local *l, struct record *r)
{
    clear_change_locked(l, r);
    note_removed_locked(l, r->path);
    l->entries[r->kind]--;
    l->bytes[r->kind] -= r->item.size;
    HASH_DEL(l->by_path, r);
    free(r);
}

static void resize_locked(struct local *l, struct record *r, uint64_t size)
{
    l->bytes[r->kind] += size - r->item.size;
    if (r->leaving) {
        uncount_locked(l, r);
        r->item.size = size;
    } else {
        policy_resize(l->policy, &r->item, size);
    }
}

void local_publish(struct local *l, const struct entry *e, struct claim **claim)
{
    struct record *r;

    lock_take(&l->lock);
    r = find_locked(l, e->path);
    if (r == NULL) {
        struct entry unused = *e; /* borrowed strings */

        /* Who asked while it was made counts, but doesn't make it one that has proved itself. */
        unused.accesses = 0;
        r = add_locked(l, &unused);
        for (uint64_t i = 0; i < e->accesses; i++)
            policy_touch(l->policy, &r->item, r->item.accessed);
    } else {
        resize_locked(l, r, e->stored_size);
        if (r->leaving) { /* who is removing it has come too late */
            r->leaving = r->gone = false;
            policy_insert(l->policy, &r->item);
        }
    }
    r->seen = l->scan;
    clear_change_locked(l, r);
    r->put = xmalloc(sizeof(*r->put));
    entry_copy(e, r->put);
    note_change_locked(l, r);
    lock_drop(&l->lock);
    if (claim != NULL)
        local_claim_free(claim);
}

void local_touch(struct local *l, const char *path)
{
    struct record *r;
    int64_t now = (int64_t)time(NULL);

    lock_take(&l->lock);
    r = find_locked(l, path);
    if (r != NULL && !r->leaving) {
        policy_touch(l->policy, &r->item, now);
        note_change_locked(l, r);
    }
    lock_drop(&l->lock);
}

static void forget_locked(struct local *l, struct record *r)
{
    if (r->leaving) {
        r->gone = true;
        return;
    }
    policy_remove(l->policy, &r->item);
    drop_locked(l, r);
}

void local_forget(struct local *l, const char *path)
{
    struct record *r;

    lock_take(&l->lock);
    r = find_locked(l, path);
    if (r != NULL)
        forget_locked(l, r);
    lock_drop(&l->lock);
}

/* ---- making room ---- */

/* Start to remove what is out of the policy; the lock is dropped meanwhile.  False: it is in use
 * and stays, out of the policy still: give_back_locked(). */
static bool remove_locked(struct local *l, struct record *r, bool force)
{
    char *path = xstrdup(r->path);
    enum entry_kind kind = r->kind;
    uint64_t size = r->item.size;
    bool removed;

    r->leaving = r->counted = true;
    l->leaving += size;
    lock_drop(&l->lock);
    removed = l->owners[kind].remove(l->owners[kind].ctx, path, force);
    lock_take(&l->lock);
    r = find_locked(l, path);
    if (r != NULL && r->counted) { /* else it was published anew */
        uncount_locked(l, r);
        if (removed || r->gone)
            drop_locked(l, r);
    }
    pthread_cond_broadcast(&l->changed);
    free(path);
    return removed;
}

static void give_back_locked(struct local *l, const char *path)
{
    struct record *r = find_locked(l, path);

    if (r == NULL || !r->leaving || r->counted)
        return;
    r->leaving = false;
    policy_insert(l->policy, &r->item);
    if (r->gone)
        forget_locked(l, r);
}

/* Those who could not go must not be offered again and again, so they are given back at the end. */
struct refused {
    char **paths;
    size_t count;
};

static bool evict_one_locked(struct local *l, int64_t now_s, struct refused *refused)
{
    struct policy_victim victim = policy_evict(l->policy, now_s);
    struct record *r = (struct record *)victim.item;
    uint64_t size;
    char *path;

    if (r == NULL)
        return false;
    size = r->item.size;
    path = xstrdup(r->path);
    if (remove_locked(l, r, false)) {
        l->evicted++;
        l->evicted_bytes += size;
        free(path);
    } else {
        refused->paths = xrealloc(refused->paths, (refused->count + 1) * sizeof(char *));
        refused->paths[refused->count++] = path;
    }
    return true;
}

/* Until total and need are at most goal; NULL: the limit, whatever it becomes meanwhile.  False: it
 * can't be done. */
static bool make_room_locked(struct local *l, uint64_t need, const uint64_t *goal, int64_t now_s)
{
    struct refused refused = {0};
    bool made = true;

    while (made) {
        uint64_t total = total_locked(l) + need;
        uint64_t limit = goal != NULL ? *goal : l->limit;

        if (total <= limit)
            break;
        if (l->leaving > 0 && total - l->leaving <= limit) /* others are at it */
            lock_wait(&l->lock, &l->changed);
        else
            made = evict_one_locked(l, now_s, &refused);
    }
    for (size_t i = 0; i < refused.count; i++) {
        give_back_locked(l, refused.paths[i]);
        free(refused.paths[i]);
    }
    free(refused.paths);
    return made;
}

uint64_t local_evict(struct local *l, int64_t now_s, uint64_t goal)
{
    uint64_t before, after;

    measure_limit(l);
    lock_take(&l->lock);
    before = l->evicted_bytes;
    make_room_locked(l, 0, goal != UINT64_MAX ? &goal : NULL, now_s);
    after = l->evicted_bytes;
    lock_drop(&l->lock);
    return after - before;
}

int local_remove(struct local *l, const char *path, struct err *err)
{
    struct record *r;

    lock_take(&l->lock);
    while ((r = find_locked(l, path)) != NULL && r->leaving)
        lock_wait(&l->lock, &l->changed);
    if (r != NULL) {
        policy_remove(l->policy, &r->item);
        if (!remove_locked(l, r, true))
            give_back_locked(l, path);
    }
    lock_drop(&l->lock);
    return r != NULL ? 0 : err_set(err, ERR_NOT_FOUND, "%s is not kept here", path);
}

/* ---- claims ---- */

struct claim *local_claim_new(struct local *l)
{
    struct claim *c = xcalloc(1, sizeof(*c));

    c->local = l;
    return c;
}

void local_claim_for(struct claim *c, const char *path)
{
    c->id = id_of(path);
}

static bool was_too_large_locked(const struct local *l, uint64_t id)
{
    for (size_t i = 0; i < TOO_LARGE_MAX; i++)
        if (l->too_large[i].id == id && l->too_large[i].limit >= l->limit)
            return id != 0;
    return false;
}

static void note_too_large_locked(struct local *l, uint64_t id)
{
    if (id == 0)
        return;
    l->too_large[l->too_large_next].id = id;
    l->too_large[l->too_large_next].limit = l->limit;
    l->too_large_next = (l->too_large_next + 1) % TOO_LARGE_MAX;
}

int local_claim_grow(struct claim *c, uint64_t bytes, struct err *err)
{
    struct local *l = c->local;
    bool fits, known;

    measure_limit(l);
    lock_take(&l->lock);
    known = was_too_large_locked(l, c->id);
    fits = !known && c->bytes + bytes <= l->limit &&
           make_room_locked(l, bytes, NULL, (int64_t)time(NULL));
    if (fits) {
        c->bytes += bytes;
        l->claimed += bytes;
    } else if (!known && c->bytes + bytes > l->limit / 100 * TOO_LARGE_PERCENT) {
        note_too_large_locked(l, c->id);
    }
    lock_drop(&l->lock);
    return fits ? 0 : err_set(err, ERR_LIMIT, "the cache has no room for it");
}

void local_claim_set(struct claim *c, uint64_t bytes)
{
    lock_take(&c->local->lock);
    c->local->claimed += bytes - c->bytes;
    c->bytes = bytes;
    lock_drop(&c->local->lock);
}

void local_claim_free(struct claim **cp)
{
    struct claim *c = *cp;

    *cp = NULL;
    if (c == NULL)
        return;
    local_claim_set(c, 0);
    free(c);
}

/* ---- the index ---- */

static void take_index(struct local *l)
{
    lock_take(&l->lock);
    while (l->index_busy)
        lock_wait(&l->lock, &l->changed);
    l->index_busy = true;
    lock_drop(&l->lock);
}

static void give_index(struct local *l)
{
    lock_take(&l->lock);
    l->index_busy = false;
    pthread_cond_broadcast(&l->changed);
    lock_drop(&l->lock);
}

/* What one record's row becomes. */
struct change {
    char *path;
    struct entry *put; /* NULL: only the access */
    int64_t accessed;
    uint64_t accesses, size;
};

struct changes {
    struct change *items;
    size_t count;
    char **removed;
    size_t removed_count;
};

static void take_changes(struct local *l, struct changes *out)
{
    struct record *r, *next;

    *out = (struct changes){0};
    lock_take(&l->lock);
    DL_FOREACH(l->changes, r)
    out->count++;
    out->items = xcalloc(out->count, sizeof(*out->items));
    out->count = 0;
    DL_FOREACH_SAFE(l->changes, r, next)
    {
        out->items[out->count++] = (struct change){
            .path = xstrdup(r->path),
            .put = r->put,
            .accessed = r->item.accessed,
            .accesses = r->item.accesses,
            .size = r->item.size,
        };
        r->put = NULL;
        clear_change_locked(l, r);
    }
    out->removed = l->removed;
    out->removed_count = l->removed_count;
    l->removed = NULL;
    l->removed_count = 0;
    lock_drop(&l->lock);
}

static void clear_changes(struct changes *c)
{
    for (size_t i = 0; i < c->count; i++) {
        if (c->items[i].put != NULL)
            entry_clear(c->items[i].put);
        free(c->items[i].put);
        free(c->items[i].path);
    }
    for (size_t i = 0; i < c->removed_count; i++)
        free(c->removed[i]);
    free(c->items);
    free(c->removed);
}

static int write_changes(struct index *x, const struct changes *c, struct err *err)
{
    int rc = index_begin(x, err);

    /* Removals first: what was published anew under the same path comes after. */
    for (size_t i = 0; i < c->removed_count && rc == 0; i++)
        rc = index_remove(x, c->removed[i], err);
    for (size_t i = 0; i < c->count && rc == 0; i++) {
        const struct change *change = &c->items[i];

        if (change->put != NULL) {
            change->put->accessed = change->accessed;
            change->put->accesses = change->accesses;
            change->put->stored_size = change->size;
            rc = index_put(x, change->put, err);
        } else {
            rc = index_touch(x, change->path, change->accessed, change->accesses, err);
        }
    }
    if (rc == 0)
        rc = index_commit(x, err);
    if (rc != 0)
        index_rollback(x);
    return rc;
}

/* Between take_index() and give_index().  The index can be made from the files at any time, so what
 * could not be written is not kept: the next scan makes up for it. */
static void index_failed(struct local *l, const struct err *why)
{
    char *path = folder_pathf(l->folder, "index.db");
    struct err err;
    bool fresh;

    if (why->kind == ERR_CORRUPT) {
        folder_report_damage(l->folder, path, why);
        index_close(&l->index);
        if (index_open(path, &l->index, &fresh, &err) != 0)
            folder_report_trouble(l->folder, &err);
    } else {
        folder_report_trouble(l->folder, why);
    }
    lock_take(&l->lock);
    l->index_lost = true;
    l->scanned = false;
    lock_drop(&l->lock);
    free(path);
}

static bool open_again(struct local *l)
{
    char *path = folder_pathf(l->folder, "index.db");
    struct err ignored;
    bool fresh;

    if (l->index == NULL && index_open(path, &l->index, &fresh, &ignored) != 0)
        l->index = NULL;
    free(path);
    return l->index != NULL;
}

/* True when there was something. */
static bool flush(struct local *l)
{
    struct changes changes;
    struct err why;
    bool any;

    take_index(l);
    take_changes(l, &changes);
    any = changes.count + changes.removed_count > 0;
    if (any) {
        if (!open_again(l))
            err_set(&why, ERR_STORAGE, "the index can't be opened");
        if (l->index == NULL || write_changes(l->index, &changes, &why) != 0)
            index_failed(l, &why);
    }
    give_index(l);
    clear_changes(&changes);
    return any;
}

int local_each(struct local *l, int (*fn)(void *ctx, const struct entry *e), void *ctx,
               struct err *err)
{
    int rc;

    flush(l);
    take_index(l);
    rc = l->index != NULL ? index_each(l->index, fn, ctx, err)
                          : err_set(err, ERR_STORAGE, "the index can't be opened");
    give_index(l);
    return rc;
}

/* ---- start and end ---- */

static int load_one(void *ctx, const struct entry *e)
{
    struct local *l = ctx;

    if (find_locked(l, e->path) == NULL)
        add_locked(l, e);
    return 0;
}

int local_open(struct folder *folder, const struct local_limits *limits, struct local **out,
               struct err *err)
{
    struct local *l = xcalloc(1, sizeof(*l));
    char *path = folder_pathf(folder, "index.db");
    bool fresh = false;
    int rc;

    l->folder = folder;
    l->limits = *limits;
    lock_init(&l->lock, LOCK_LOCAL);
    lock_cond_init(&l->changed);
    l->policy = policy_new(limits->policy, UINT64_MAX, limits->max_age_s);
    rc = index_open(path, &l->index, &fresh, err);
    l->index_lost = fresh;
    /* Nobody else knows l yet. */
    lock_take(&l->lock);
    if (rc == 0 && !fresh && index_each(l->index, load_one, l, err) != 0)
        l->index_lost = true; /* the scan finds the rest */
    lock_drop(&l->lock);
    if (rc == 0) {
        measure_frame(l);
        measure_limit(l);
        *out = l;
    } else {
        local_close(&l);
    }
    free(path);
    return rc;
}

void local_close(struct local **lp)
{
    struct local *l = *lp;
    struct record *r, *next;

    *lp = NULL;
    if (l == NULL)
        return;
    if (l->index != NULL)
        flush(l);
    index_close(&l->index);
    HASH_ITER(hh, l->by_path, r, next)
    {
        HASH_DEL(l->by_path, r);
        policy_remove(l->policy, &r->item);
        clear_change_locked(l, r);
        free(r->path);
        free(r);
    }
    for (size_t i = 0; i < l->removed_count; i++)
        free(l->removed[i]);
    free(l->removed);
    policy_free(&l->policy);
    pthread_cond_destroy(&l->changed);
    lock_clear(&l->lock);
    free(l);
}

void local_set_owner(struct local *l, enum entry_kind kind, const struct local_owner *owner)
{
    l->owners[kind] = *owner;
}

void local_configure(struct local *l, const struct local_limits *limits)
{
    lock_take(&l->lock);
    if (limits->policy != l->limits.policy || limits->max_age_s != l->limits.max_age_s) {
        struct policy *fresh = policy_new(limits->policy, l->limit, limits->max_age_s);

        for (struct policy_victim v = policy_evict(l->policy, 0); v.item != NULL;
             v = policy_evict(l->policy, 0))
            policy_insert(fresh, v.item);
        policy_free(&l->policy);
        l->policy = fresh;
    }
    l->limits = *limits;
    lock_drop(&l->lock);
    measure_limit(l);
}

/* ---- from time to time ---- */

struct paths {
    char **items;
    size_t count;
};

static void paths_add(struct paths *p, const char *path)
{
    p->items = xrealloc(p->items, (p->count + 1) * sizeof(char *));
    p->items[p->count++] = xstrdup(path);
}

static void paths_clear(struct paths *p)
{
    for (size_t i = 0; i < p->count; i++)
        free(p->items[i]);
    free(p->items);
    *p = (struct paths){0};
}

static bool is_expired_locked(const struct local *l, const struct record *r, int64_t now_s)
{
    int64_t ttl = l->limits.ttl_s[r->kind];

    return ttl > 0 && !r->leaving && r->item.accessed + ttl < now_s;
}

static void list_expired_locked(struct local *l, int64_t now_s, struct paths *out)
{
    struct record *r, *next;

    HASH_ITER(hh, l->by_path, r, next)
    if (is_expired_locked(l, r, now_s))
        paths_add(out, r->path);
}

static void remove_expired(struct local *l, int64_t now_s)
{
    struct paths expired = {0};

    lock_take(&l->lock);
    list_expired_locked(l, now_s, &expired);
    for (size_t i = 0; i < expired.count; i++) {
        struct record *r = find_locked(l, expired.items[i]);
        uint64_t size;

        if (r == NULL || !is_expired_locked(l, r, now_s))
            continue;
        size = r->item.size;
        policy_remove(l->policy, &r->item);
        if (remove_locked(l, r, false)) {
            l->evicted++;
            l->evicted_bytes += size;
        } else {
            give_back_locked(l, expired.items[i]);
        }
    }
    lock_drop(&l->lock);
    paths_clear(&expired);
}

void local_tick(struct local *l, int64_t now_s)
{
    if (flush(l))
        measure_frame(l);
    if (now_s - l->expired_s >= EXPIRE_INTERVAL_S) {
        remove_expired(l, now_s);
        l->expired_s = now_s;
    }
    local_evict(l, now_s, UINT64_MAX);
}

/* ---- the scan ---- */

struct scan {
    struct local *local;
    uint64_t number;
    bool all; /* what is known is written into the index again, too */
    const atomic_bool *stop;
};

/* Something lies at path, relative to the data folder. */
static void scan_found(const struct scan *s, enum entry_kind kind, const char *path)
{
    struct local *l = s->local;
    struct entry e = {0};
    struct record *r;
    struct err why;
    bool wanted;

    lock_take(&l->lock);
    r = find_locked(l, path);
    wanted = r == NULL || (s->all && r->put == NULL);
    if (r != NULL)
        r->seen = s->number;
    lock_drop(&l->lock);
    if (!wanted)
        return;
    if (l->owners[kind].describe(l->owners[kind].ctx, path, &e, &why) == 0) {
        local_publish(l, &e, NULL);
    } else if (why.kind == ERR_CORRUPT) {
        l->owners[kind].remove(l->owners[kind].ctx, path, true);
        folder_report_damage(l->folder, path, &why);
    }
    entry_clear(&e);
}

static void scan_answers(const struct scan *s)
{
    for (unsigned i = 0; i < 256 && !*s->stop; i++) {
        char *folder = folder_pathf(s->local->folder, "answers/%02x", i);
        DIR *dir = opendir(folder);
        struct dirent *d;

        while (dir != NULL && !*s->stop && (d = readdir(dir)) != NULL) {
            char *path;

            if (d->d_name[0] == '.')
                continue;
            path = xasprintf("answers/%02x/%s", i, d->d_name);
            scan_found(s, ENTRY_ANSWER, path);
            free(path);
        }
        if (dir != NULL)
            closedir(dir);
        free(folder);
    }
}

/* path: relative to the data folder, a folder that is no mirror. */
static void scan_mirrors(const struct scan *s, const char *path)
{
    char *folder = folder_pathf(s->local->folder, "%s", path);
    DIR *dir = opendir(folder);
    struct dirent *d;

    while (dir != NULL && !*s->stop && (d = readdir(dir)) != NULL) {
        char *below;

        if (d->d_name[0] == '.')
            continue;
        below = xasprintf("%s/%s", path, d->d_name);
        if (ends_in_git(d->d_name))
            scan_found(s, ENTRY_MIRROR, below);
        else
            scan_mirrors(s, below);
        free(below);
    }
    if (dir != NULL)
        closedir(dir);
    free(folder);
}

static void list_unseen_locked(struct local *l, uint64_t number, struct paths *out)
{
    struct record *r, *next;

    HASH_ITER(hh, l->by_path, r, next)
    if (r->seen < number)
        paths_add(out, r->path);
}

/* Known, but not seen: gone, unless they came just now. */
static void forget_missing(const struct scan *s)
{
    struct local *l = s->local;
    struct paths unseen = {0};

    lock_take(&l->lock);
    list_unseen_locked(l, s->number, &unseen);
    lock_drop(&l->lock);
    for (size_t i = 0; i < unseen.count; i++) {
        char *path = folder_pathf(l->folder, "%s", unseen.items[i]);

        if (access(path, F_OK) != 0 && errno == ENOENT)
            local_forget(l, unseen.items[i]);
        free(path);
    }
    paths_clear(&unseen);
}

static int drop_if_unknown(void *ctx, const struct entry *e)
{
    struct local *l = ctx;

    lock_take(&l->lock);
    if (find_locked(l, e->path) == NULL)
        note_removed_locked(l, xstrdup(e->path));
    lock_drop(&l->lock);
    return 0;
}

void local_scan(struct local *l, const atomic_bool *stop)
{
    struct scan s = {.local = l, .stop = stop};
    struct err ignored;
    bool was_lost;

    lock_take(&l->lock);
    s.number = ++l->scan;
    s.all = was_lost = l->index_lost;
    l->index_lost = false;
    lock_drop(&l->lock);
    scan_answers(&s);
    scan_mirrors(&s, "mirrors");
    if (!*stop) {
        forget_missing(&s);
        if (was_lost)
            local_each(l, drop_if_unknown, l, &ignored);
    }
    lock_take(&l->lock);
    l->scanned = !*stop && !l->index_lost;
    l->index_lost = l->index_lost || (was_lost && *stop);
    lock_drop(&l->lock);
    measure_frame(l);
}

bool local_scanned(struct local *l)
{
    bool scanned;

    lock_take(&l->lock);
    scanned = l->scanned;
    lock_drop(&l->lock);
    return scanned;
}

/* ---- for people ---- */

void local_usage(struct local *l, struct local_usage *out)
{
    lock_take(&l->lock);
    *out = (struct local_usage){
        .filling = l->claimed,
        .frame = l->frame,
        .total = total_locked(l),
        .limit = l->limit,
        .evicted = l->evicted,
        .evicted_bytes = l->evicted_bytes,
    };
    memcpy(out->entries, l->entries, sizeof(out->entries));
    memcpy(out->bytes, l->bytes, sizeof(out->bytes));
    lock_drop(&l->lock);
}

struct preview {
    struct paths paths;
    const char **why;
    uint64_t total, goal;
};

static void preview_add(struct preview *p, const struct record *r, const char *why)
{
    p->why = xrealloc(p->why, (p->paths.count + 1) * sizeof(*p->why));
    p->why[p->paths.count] = why;
    paths_add(&p->paths, r->path);
    p->total -= r->item.size;
}

static bool preview_victim(void *ctx, const struct policy_victim *victim)
{
    struct preview *p = ctx;
    const struct record *r = (const struct record *)victim->item;

    if (p->total <= p->goal)
        return false;
    if (!r->expired)
        preview_add(p, r, victim->why);
    return true;
}

void local_preview(struct local *l, int64_t now_s, uint64_t goal, local_preview_fn *fn, void *ctx)
{
    struct preview p = {.goal = goal};
    struct record *r, *next;
    struct err ignored;

    flush(l);
    measure_limit(l);
    lock_take(&l->lock);
    p.total = total_locked(l);
    p.goal = goal != UINT64_MAX ? goal : l->limit;
    HASH_ITER(hh, l->by_path, r, next)
    {
        r->expired = is_expired_locked(l, r, now_s);
        if (r->expired)
            preview_add(&p, r, "not used for its ttl");
    }
    policy_preview(l->policy, now_s, preview_victim, &p);
    lock_drop(&l->lock);
    for (size_t i = 0; i < p.paths.count; i++) {
        struct entry e = {0};
        int rc;

        take_index(l);
        rc = l->index != NULL ? index_get(l->index, p.paths.items[i], &e, &ignored) : -1;
        give_index(l);
        if (rc == 0)
            fn(ctx, &e, p.why[i]);
        entry_clear(&e);
    }
    paths_clear(&p.paths);
    free(p.why);
}
