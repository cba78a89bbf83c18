#include "cache/mirror/mirror.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <utlist.h>

#include "cache/mirror/internal.h"
#include "protocol/smart_http.h"

enum { SEGMENT_MAX = 240 }; /* NAME_MAX less ".git" and some room */

static bool remove_unused(void *ctx, const char *path, bool force);

struct mirrors *mirrors_new(struct folder *folder, struct processes *processes, struct local *local)
{
    struct mirrors *all = xcalloc(1, sizeof(*all));

    objects_start();
    all->folder = folder;
    all->local = local;
    all->processes = processes;
    lock_init(&all->lock, LOCK_MIRRORS);
    lock_cond_init(&all->done);
    records_own(all, remove_unused);
    return all;
}

static void forget_verified_locked(struct mirror *m)
{
    for (size_t i = 0; i < m->verified_count; i++)
        free(m->verified[i].name);
    free(m->verified);
    m->verified = NULL;
    m->verified_count = 0;
}

static void free_mirror_locked(struct mirror *m)
{
    HASH_DEL(m->all->by_name, m);
    must(m->users == NULL);
    forget_verified_locked(m);
    tip_list_clear(&m->wanted);
    free(m->name);
    free(m->path);
    free(m);
}

void mirrors_free(struct mirrors **allp)
{
    struct mirrors *all = *allp;
    struct mirror *m, *next;

    *allp = NULL;
    if (all == NULL)
        return;
    HASH_ITER(hh, all->by_name, m, next)
    {
        must(m->refs == 0);
        free_mirror_locked(m);
    }
    pthread_cond_destroy(&all->done);
    lock_clear(&all->lock);
    free(all);
    objects_stop();
}

void mirrors_stop(struct mirrors *all)
{
    all->stop = true;
}

uint64_t mirrors_damaged(struct mirrors *all)
{
    return atomic_load(&all->damaged);
}

/* ---- names and handles ---- */

/* Another repository's mirror could lie inside one whose name has ".git" in the middle. */
static bool is_suitable(const char *repo)
{
    while (*repo != '\0') {
        size_t len = strcspn(repo, "/");

        if (len > SEGMENT_MAX || (len >= 4 && memcmp(repo + len - 4, ".git", 4) == 0))
            return false;
        repo += len;
        repo += *repo == '/';
    }
    return true;
}

static struct mirror *get_locked(struct mirrors *all, const char *name)
{
    struct mirror *m;

    HASH_FIND_STR(all->by_name, name, m);
    if (m == NULL) {
        m = xcalloc(1, sizeof(*m));
        m->all = all;
        m->name = xstrdup(name);
        m->path = folder_pathf(all->folder, "mirrors/%s.git", name);
        HASH_ADD_KEYPTR(hh, all->by_name, m->name, strlen(m->name), m);
    }
    m->refs++;
    return m;
}

struct mirror *mirrors_get(struct mirrors *all, const char *upstream, const char *repo)
{
    struct mirror *m;
    char *name;

    if (!is_suitable(repo))
        return NULL;
    name = xasprintf("%s/%s", upstream, repo);
    lock_take(&all->lock);
    m = get_locked(all, name);
    lock_drop(&all->lock);
    free(name);
    return m;
}

/* "mirrors/<name>.git", yours to free; NULL when it is not of this form. */
static char *name_of_path(const char *path)
{
    static const char folder[] = "mirrors/";
    size_t start = sizeof(folder) - 1, len = strlen(path);
    char *name, *slash;

    if (strncmp(path, folder, start) != 0 || !ends_with(path, ".git") || len < start + 4)
        return NULL;
    name = xstrndup(path + start, len - start - 4);
    slash = strchr(name, '/');
    if (slash == NULL || slash == name || slash[1] == '\0' || !is_suitable(slash + 1)) {
        free(name);
        name = NULL;
    }
    return name;
}

struct mirror *mirrors_at(struct mirrors *all, const char *path)
{
    char *name = name_of_path(path);
    struct mirror *m = NULL;

    if (name != NULL) {
        lock_take(&all->lock);
        m = get_locked(all, name);
        lock_drop(&all->lock);
    }
    free(name);
    return m;
}

static void unref_locked(struct mirror *m)
{
    /* One that holds no knowledge isn't worth its place: names that clients make up must
     * not pile up. */
    if (--m->refs == 0 && m->verified == NULL)
        free_mirror_locked(m);
}

/* ---- removal ---- */

/* The folders that it was the last one in: "mirrors/<upstream>/<group>", and up. */
static void remove_empty_parents(const struct mirror *m)
{
    size_t root = strlen(m->path) - strlen(m->name) - strlen(".git");
    char *path = xstrdup(m->path);
    char *slash;

    while ((slash = strrchr(path, '/')) != NULL && (size_t)(slash - path) >= root) {
        *slash = '\0';
        if (rmdir(path) != 0)
            break;
    }
    free(path);
}

/* Aside first: from the rename on nobody finds it, and a crash in the middle of the removal leaves
 * only what the next start sweeps.  False: there was none. */
static bool remove_files(struct mirror *m)
{
    char *away = folder_incoming_path(m->all->folder, ".dropped");
    bool was_there = rename(m->path, away) == 0;

    if (was_there) {
        remove_empty_parents(m);
        remove_tree(away);
    }
    free(away);
    mirror_forget(m);
    mirror_doubt(m);
    mirror_set_generation(m, 0);
    return was_there;
}

/* One that is to go does so when nobody reads or writes its files; handles alone don't hold it, or
 * on a busy server it would never go. */
static void remove_doomed(struct mirror *m)
{
    bool idle;

    lock_take(&m->all->lock);
    idle = m->doomed && m->users == NULL && !m->writing;
    m->writing |= idle;
    lock_drop(&m->all->lock);
    if (!idle)
        return;
    remove_files(m);
    lock_take(&m->all->lock);
    m->doomed = m->writing = false;
    pthread_cond_broadcast(&m->all->done);
    lock_drop(&m->all->lock);
}

static bool remove_unused(void *ctx, const char *path, bool force)
{
    struct mirror *m = mirrors_at(ctx, path);
    bool used;

    if (m == NULL)
        return true; /* nothing of ours */
    lock_take(&m->all->lock);
    used = m->refs > 1;
    m->doomed |= !used || force;
    lock_drop(&m->all->lock);
    remove_doomed(m);
    mirror_unref(&m);
    return !used || force;
}

static void doom(struct mirror *m)
{
    lock_take(&m->all->lock);
    m->doomed = true;
    lock_drop(&m->all->lock);
    remove_doomed(m);
}

/* All that have a handle, as who makes one does.  Yours to unref and free. */
static struct mirror **hold_all(struct mirrors *all, size_t *count)
{
    struct mirror *m, *next;
    struct mirror **held;

    *count = 0;
    lock_take(&all->lock);
    held = xcalloc(HASH_COUNT(all->by_name) + 1, sizeof(struct mirror *));
    HASH_ITER(hh, all->by_name, m, next)
    {
        m->refs++;
        held[(*count)++] = m;
    }
    lock_drop(&all->lock);
    return held;
}

static bool is_of(const struct mirror *m, const struct key *repo_id)
{
    const char *slash = strchr(m->name, '/');
    char *upstream = xstrndup(m->name, (size_t)(slash - m->name));
    struct key id;

    repo_id_of(upstream, slash + 1, &id);
    free(upstream);
    return key_equal(&id, repo_id);
}

static bool is_written(struct mirror *m)
{
    bool writing;

    lock_take(&m->all->lock);
    writing = m->writing;
    lock_drop(&m->all->lock);
    return writing;
}

void mirrors_remove_unborn(struct mirrors *all, const struct key *repo_id)
{
    size_t count;
    struct mirror **held = hold_all(all, &count);

    for (size_t i = 0; i < count; i++) {
        /* One whose folder is there already may be a step away from the index. */
        if (is_of(held[i], repo_id) && (is_written(held[i]) || access(held[i]->path, F_OK) != 0))
            doom(held[i]);
        mirror_unref(&held[i]);
    }
    free(held);
}

void mirrors_remove_all(struct mirrors *all)
{
    size_t count;
    struct mirror **held = hold_all(all, &count);

    for (size_t i = 0; i < count; i++) {
        doom(held[i]);
        mirror_unref(&held[i]);
    }
    free(held);
}

struct mirror *mirror_ref(struct mirror *m)
{
    lock_take(&m->all->lock);
    m->refs++;
    lock_drop(&m->all->lock);
    return m;
}

void mirror_unref(struct mirror **mp)
{
    struct mirror *m = *mp;
    struct mirrors *all;

    *mp = NULL;
    if (m == NULL)
        return;
    all = m->all;
    lock_take(&all->lock);
    unref_locked(m);
    lock_drop(&all->lock);
}

bool mirror_doomed(struct mirror *m)
{
    bool doomed;

    lock_take(&m->all->lock);
    doomed = m->doomed;
    lock_drop(&m->all->lock);
    return doomed;
}

uint64_t mirror_generation(struct mirror *m)
{
    uint64_t generation;

    lock_take(&m->all->lock);
    generation = m->generation;
    lock_drop(&m->all->lock);
    return generation;
}

void mirror_set_generation(struct mirror *m, uint64_t generation)
{
    lock_take(&m->all->lock);
    m->generation = generation;
    lock_drop(&m->all->lock);
}

void mirror_doubt(struct mirror *m)
{
    lock_take(&m->all->lock);
    forget_verified_locked(m);
    lock_drop(&m->all->lock);
}

void mirror_drop_damaged(struct mirror *m, const struct err *why)
{
    if (remove_files(m)) {
        atomic_fetch_add(&m->all->damaged, 1);
        folder_report_damage(m->all->folder, m->path, why);
    }
}

/* ---- writers and users ---- */

void mirror_write_begin(struct mirror *m)
{
    lock_take(&m->all->lock);
    while (m->writing)
        lock_wait(&m->all->lock, &m->all->done);
    m->writing = true;
    lock_drop(&m->all->lock);
}

bool mirror_write_try(struct mirror *m, uint64_t timeout_ms)
{
    uint64_t deadline = now_ms() + timeout_ms;
    bool mine;

    lock_take(&m->all->lock);
    while (m->writing && lock_wait_until(&m->all->lock, &m->all->done, deadline))
        ;
    mine = !m->writing;
    m->writing = true;
    lock_drop(&m->all->lock);
    return mine;
}

static bool users_are_new_locked(const struct mirror *m)
{
    const struct mirror_use *use;

    DL_FOREACH(m->users, use)
    if (use->epoch < m->epoch)
        return false;
    return true;
}

void mirror_write_end(struct mirror *m)
{
    lock_take(&m->all->lock);
    /* Under one lock with the end of writing: a user who goes in between leaves it to the writer.
     */
    while (m->sweep_due && users_are_new_locked(m)) {
        m->sweep_due = false;
        lock_drop(&m->all->lock);
        mirror_sweep(m);
        lock_take(&m->all->lock);
    }
    m->writing = false;
    pthread_cond_broadcast(&m->all->done);
    lock_drop(&m->all->lock);
    remove_doomed(m);
}

void mirror_use_begin(struct mirror *m, struct mirror_use *use)
{
    lock_take(&m->all->lock);
    *use = (struct mirror_use){.epoch = m->epoch};
    DL_APPEND(m->users, use);
    lock_drop(&m->all->lock);
}

void mirror_use_end(struct mirror *m, struct mirror_use *use)
{
    bool sweep;

    lock_take(&m->all->lock);
    DL_DELETE(m->users, use);
    /* Where there is a writer, it does so at its end. */
    sweep = m->sweep_due && !m->writing && users_are_new_locked(m);
    m->writing |= sweep;
    lock_drop(&m->all->lock);
    if (sweep)
        mirror_write_end(m);
    else
        remove_doomed(m);
}

bool mirror_users_are_new(struct mirror *m)
{
    bool are;

    lock_take(&m->all->lock);
    are = users_are_new_locked(m);
    m->sweep_due = !are; /* the last of the others sees to it */
    lock_drop(&m->all->lock);
    return are;
}

void mirror_epoch_end(struct mirror *m)
{
    lock_take(&m->all->lock);
    m->epoch++;
    lock_drop(&m->all->lock);
}

/* ---- small files ---- */

bool ends_with(const char *s, const char *end)
{
    size_t len = strlen(s), n = strlen(end);

    return len > n && strcmp(s + len - n, end) == 0;
}

char *mirror_file(const struct mirror *m, const char *name)
{
    return xasprintf("%s/%s", m->path, name);
}

int write_below(const char *folder, const char *name, const char *text, bool durable,
                struct err *err)
{
    char *path = xasprintf("%s/%s", folder, name);
    int rc = write_file(path, text, strlen(text), durable, err);

    free(path);
    return rc;
}

int replace_below(const char *folder, const char *name, const struct bytes *text, bool durable,
                  struct err *err)
{
    char *path = xasprintf("%s/%s", folder, name);
    char *temporary = xasprintf("%s.new", path);
    int rc = write_file(temporary, text->data != NULL ? text->data : "", text->len, durable, err);

    if (rc == 0 && rename(temporary, path) != 0)
        rc = err_errno(err, ERR_STORAGE, "publish %s", path);
    if (rc != 0)
        unlink(temporary);
    free(temporary);
    free(path);
    return rc;
}
