/* What stays, whatever room is needed: `pins`, a line "<repository's id> <seconds since 1970>"
 * each. */
#include "cache/local/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "protocol/base.h"
#include "protocol/bytes.h"

static const char FILE_NAME[] = "pins";

enum { LINE_MAX_BYTES = KEY_HEX_SIZE + 24, FILE_MAX_BYTES = PINS_MAX * LINE_MAX_BYTES };

struct pin {
    char repo_id[KEY_HEX_SIZE];
    int64_t since_s;
    UT_hash_handle hh;
};

static struct pin *find_locked(const struct local *l, const char *repo_id)
{
    struct pin *p;

    HASH_FIND_STR(l->pins, repo_id, p);
    return p;
}

static void set_locked(struct local *l, const char *repo_id, int64_t since_s)
{
    struct pin *p = find_locked(l, repo_id);

    if (p == NULL) {
        p = xcalloc(1, sizeof(*p));
        snprintf(p->repo_id, sizeof(p->repo_id), "%s", repo_id);
        HASH_ADD_STR(l->pins, repo_id, p);
    }
    p->since_s = since_s;
}

static void unset_locked(struct local *l, const char *repo_id)
{
    struct pin *p = find_locked(l, repo_id);

    if (p == NULL)
        return;
    HASH_DEL(l->pins, p);
    free(p);
}

void pins_clear(struct local *l)
{
    while (l->pins != NULL)
        unset_locked(l, l->pins->repo_id);
}

bool pins_hold_locked(const struct local *l, const struct entry *e)
{
    const struct pin *p = e->repo_id != NULL ? find_locked(l, e->repo_id) : NULL;

    return p != NULL && (e->kind == ENTRY_MIRROR || e->created <= p->since_s);
}

/* ---- the file ---- */

static void read_line(struct local *l, const char *line)
{
    char repo_id[KEY_HEX_SIZE];
    struct key key;
    int64_t since_s;

    /* A line that is none is nobody's pin; the rest holds. */
    if (sscanf(line, "%64s %" SCNd64, repo_id, &since_s) == 2 && key_from_hex(repo_id, &key) &&
        HASH_COUNT(l->pins) < PINS_MAX)
        set_locked(l, repo_id, since_s);
}

void pins_load(struct local *l)
{
    char *path = folder_pathf(l->folder, "%s", FILE_NAME);
    FILE *f = fopen(path, "re");
    char line[LINE_MAX_BYTES * 2];

    while (f != NULL && fgets(line, sizeof(line), f) != NULL)
        read_line(l, line);
    if (f != NULL)
        fclose(f);
    free(path);
}

static void write_all_locked(const struct local *l, struct bytes *out)
{
    for (const struct pin *p = l->pins; p != NULL; p = p->hh.next)
        (void)bytes_addf(out, "%s %" PRId64 "\n", p->repo_id, p->since_s);
}

/* By another name and a rename: a kill leaves the old one or the new one. */
static int save(struct local *l, struct err *err)
{
    char *path = folder_pathf(l->folder, "%s", FILE_NAME);
    char *fresh = folder_incoming_path(l->folder, ".pins");
    struct bytes text;
    int rc;

    bytes_init(&text, FILE_MAX_BYTES);
    lock_take(&l->lock);
    write_all_locked(l, &text);
    lock_drop(&l->lock);
    rc = write_file(fresh, text.data != NULL ? text.data : "", text.len, true, err);
    if (rc == 0 && rename(fresh, path) != 0)
        rc = err_errno(err, ERR_STORAGE, "publish %s", path);
    if (rc == 0)
        rc = sync_parent(path, err);
    unlink(fresh);
    bytes_clear(&text);
    free(fresh);
    free(path);
    return rc;
}

/* ---- entries that are here ---- */

struct marking {
    struct local *local;
    const char *repo_id;
};

static int mark(void *ctx, const struct entry *e)
{
    const struct marking *m = ctx;
    struct local *l = m->local;
    struct record *r;

    if (e->repo_id == NULL || strcmp(e->repo_id, m->repo_id) != 0)
        return 0;
    lock_take(&l->lock);
    r = record_find_locked(l, e->path);
    if (r != NULL)
        record_pin_locked(l, r, pins_hold_locked(l, e));
    lock_drop(&l->lock);
    return 0;
}

static int change(struct local *l, const char *repo_id, struct err *err)
{
    struct marking m = {l, repo_id};

    /* What is published from here on sees the pin itself. */
    if (local_each(l, mark, &m, err) != 0)
        return -1;
    return save(l, err);
}

int local_pin(struct local *l, const char *repo_id, int64_t now_s, struct err *err)
{
    bool full, new;

    lock_take(&l->lock);
    new = find_locked(l, repo_id) == NULL;
    full = new &&HASH_COUNT(l->pins) >= PINS_MAX;
    if (!full)
        set_locked(l, repo_id, now_s);
    lock_drop(&l->lock);
    if (full)
        return err_set(err, ERR_BUSY, "%d repositories are pinned, which is as many as may",
                       PINS_MAX);
    if (change(l, repo_id, err) == 0)
        return 0;
    if (new) { /* what can't be written would be forgotten at the next start */
        struct err ignored;

        local_unpin(l, repo_id, &ignored);
    }
    return -1;
}

int local_unpin(struct local *l, const char *repo_id, struct err *err)
{
    return local_unpin_older(l, repo_id, INT64_MAX, err);
}

int local_unpin_older(struct local *l, const char *repo_id, int64_t until_s, struct err *err)
{
    const struct pin *p;
    bool there;

    lock_take(&l->lock);
    p = find_locked(l, repo_id);
    there = p != NULL && p->since_s <= until_s;
    if (there)
        unset_locked(l, repo_id);
    lock_drop(&l->lock);
    return there ? change(l, repo_id, err) : err_set(err, ERR_NOT_FOUND, "this is not pinned");
}

bool local_is_pinned(struct local *l, const char *repo_id, int64_t *since_s)
{
    const struct pin *p;

    lock_take(&l->lock);
    p = find_locked(l, repo_id);
    *since_s = p != NULL ? p->since_s : 0;
    lock_drop(&l->lock);
    return p != NULL;
}
