#include <errno.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/mirror/upkeep.h"

enum { OPEN_FOLDERS_MAX = 16 };

/* Packs that came in since the copy was made are not in what git has made of it. */
static void add_newcomers(struct upkeep *u, const struct pack_list *now)
{
    for (size_t i = 0; i < now->count; i++) {
        const struct listed_pack *p = &now->packs[i];

        if (!pack_list_has(&u->before, p->name, strlen(p->name) - strlen(".pack")))
            pack_list_add(&u->after, p->name, p->size);
    }
}

static int link_result(struct upkeep *u, struct err *err)
{
    struct mirror *m = u->mirror;
    char *bitmap = xasprintf("%s/objects/pack/.", m->path);
    int rc = 0;

    for (size_t i = 0; i < u->after.count && rc == 0; i++)
        rc = link_pack(u->copy, m->path, u->after.packs[i].name, err);
    if (rc == 0)
        rc = link_bitmap(u->copy, m->path, &u->after, err);
    if (rc == 0)
        rc = sync_parent(bitmap, err);
    free(bitmap);
    return rc;
}

/* name: below objects/. */
static int move_in(struct upkeep *u, const char *name, struct err *err)
{
    char *from = xasprintf("%s/objects/%s", u->copy, name);
    char *to = xasprintf("%s/objects/%s", u->mirror->path, name);
    int rc = 0;

    if (rename(from, to) != 0 && errno != ENOENT)
        rc = err_errno(err, ERR_STORAGE, "publish %s", to);
    free(to);
    free(from);
    return rc;
}

static int remove_ref(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    if (ftw->level > 0)
        (void)!(flag == FTW_DP ? rmdir(path) : unlink(path));
    return 0;
}

/* Tips that came in meanwhile stay, too. */
static int write_refs(struct upkeep *u, struct oid_list *refs, struct err *err)
{
    struct mirror *m = u->mirror;
    char *loose = mirror_file(m, "refs");
    struct oid_list now = {0};
    int rc = objects_refs(m->path, &now, err);

    oid_list_copy(&u->kept, refs);
    for (size_t i = 0; i < now.count; i++)
        if (!oid_list_contains(&u->refs, &now.items[i]))
            oid_list_add(refs, &now.items[i]);
    oid_list_sort(refs);
    if (rc == 0)
        rc = packed_refs_write(m->path, refs, err);
    if (rc == 0)
        nftw(loose, remove_ref, OPEN_FOLDERS_MAX, FTW_DEPTH | FTW_PHYS);
    oid_list_clear(&now);
    free(loose);
    return rc;
}

static int write_times(struct upkeep *u, const struct oid_list *refs, struct err *err)
{
    struct tip_list now, times = {0};
    int rc;

    tip_list_read(u->mirror->path, &now);
    for (size_t i = 0; i < now.count; i++) {
        const struct tip *then = tip_list_find(&u->tips, &now.items[i].oid);

        if (oid_list_contains(refs, &now.items[i].oid) ||
            (then != NULL && then->wanted_s < now.items[i].wanted_s))
            tip_list_want(&times, &now.items[i].oid, now.items[i].wanted_s);
    }
    rc = tip_list_write(u->mirror->path, &times, err);
    tip_list_clear(&now);
    tip_list_clear(&times);
    return rc;
}

static bool is_still_there(const struct upkeep *u)
{
    struct stat st;

    return !mirror_doomed(u->mirror) && stat(u->mirror->path, &st) == 0 &&
           st.st_ino == u->folder.st_ino && st.st_dev == u->folder.st_dev;
}

static void trust_result(struct upkeep *u, const struct pack_list *known)
{
    for (size_t i = 0; i < u->after.count; i++) {
        const struct listed_pack *p = &u->after.packs[i];

        if (!pack_list_has(known, p->name, strlen(p->name) - strlen(".pack")))
            mirror_trust_pack(u->mirror, p);
    }
    mirror_trust_indexes(u->mirror, &u->after);
}

static int adopt_locked(struct upkeep *u, struct err *err)
{
    struct mirror *m = u->mirror;
    struct oid_list refs = {0};
    struct pack_list now = {0};
    int rc;

    if (!is_still_there(u))
        return err_set(err, ERR_CANCELLED, "the mirror was removed meanwhile");
    rc = pack_list_read(m->path, &now, err);
    if (rc == 0)
        rc = link_result(u, err);
    if (rc == 0) {
        add_newcomers(u, &now);
        rc = pack_list_write(m->path, &u->after, err);
    }
    if (rc == 0) {
        rc = move_in(u, "pack/multi-pack-index", err);
        mirror_epoch_end(m); /* who began before may have the old index, and so need old packs */
    }
    if (rc == 0)
        rc = move_in(u, "info/commit-graph", err);
    if (rc == 0) {
        trust_result(u, &now);
        rc = write_refs(u, &refs, err);
    }
    if (rc == 0)
        rc = write_times(u, &refs, err);
    oid_list_clear(&refs);
    pack_list_clear(&now);
    return rc;
}

int upkeep_adopt(struct upkeep *u, struct err *err)
{
    int rc = upkeep_write_begin(u, err);

    if (rc != 0)
        return -1;
    rc = adopt_locked(u, err);
    mirror_sweep(u->mirror);
    mirror_publish(u->mirror, &u->claim);
    mirror_write_end(u->mirror);
    return rc;
}
