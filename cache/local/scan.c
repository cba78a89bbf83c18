#include "cache/local/internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "protocol/base.h"

struct scan {
    struct local *local;
    uint64_t number;
    bool all; /* what is known is written into the index again, too */
    const atomic_bool *stop;
};

/* Whether the tier has something to learn from e, which was looked at when it knew of known bytes.
 * What has changed meanwhile was told by who changed it. */
static bool is_news(const struct scan *s, const struct entry *e, uint64_t known)
{
    struct record *r;
    bool news;

    lock_take(&s->local->lock);
    r = record_find_locked(s->local, e->path);
    news = r == NULL || s->all || (r->item.size == known && e->stored_size != known);
    lock_drop(&s->local->lock);
    return news;
}

/* Something lies at path, relative to the data folder.  Mirrors are measured even if they are
 * known: they grow in place, and a kill may come before the index hears of that. */
static void scan_found(const struct scan *s, enum entry_kind kind, const char *path)
{
    struct local *l = s->local;
    struct entry e = {0};
    struct record *r;
    uint64_t known;
    struct err why;
    bool wanted;

    lock_take(&l->lock);
    r = record_find_locked(l, path);
    known = r != NULL ? r->item.size : 0;
    wanted = r == NULL || (s->all && r->put == NULL) || kind == ENTRY_MIRROR;
    if (r != NULL)
        r->seen = s->number;
    lock_drop(&l->lock);
    if (!wanted)
        return;
    if (l->owners[kind].describe(l->owners[kind].ctx, path, &e, &why) == 0) {
        if (is_news(s, &e, known))
            local_publish(l, &e, NULL);
    } else if (why.kind == ERR_CORRUPT) {
        if (l->owners[kind].remove(l->owners[kind].ctx, path, true))
            local_forget(l, path); /* it may have been known */
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
        if (is_mirror_name(d->d_name))
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

/* Unless it was published after the look at the disk. */
static void forget_unseen(struct local *l, const char *path, uint64_t number)
{
    struct record *r;

    lock_take(&l->lock);
    r = record_find_locked(l, path);
    if (r != NULL && r->seen < number)
        record_forget_locked(l, r);
    lock_drop(&l->lock);
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
            forget_unseen(l, unseen.items[i], s->number);
        free(path);
    }
    paths_clear(&unseen);
}

static int drop_if_unknown(void *ctx, const struct entry *e)
{
    struct local *l = ctx;

    lock_take(&l->lock);
    if (record_find_locked(l, e->path) == NULL)
        local_note_removed_locked(l, xstrdup(e->path));
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
            local_each_row(l, drop_if_unknown, l, &ignored);
    }
    lock_take(&l->lock);
    l->scanned = !*stop && !l->index_lost;
    l->index_lost = l->index_lost || (was_lost && *stop);
    lock_drop(&l->lock);
    local_measure_frame(l);
}

bool local_scanned(struct local *l)
{
    bool scanned;

    lock_take(&l->lock);
    scanned = l->scanned;
    lock_drop(&l->lock);
    return scanned;
}
