#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cache/mirror/internal.h"

/* `pannier-entry`, the record of an entry, in the mirror's folder. */

enum { RECORD_MAX = 64 * 1024 };

static const char FILE_NAME[] = "pannier-entry";

int mirror_read_entry(const char *mirror_path, struct entry *out, struct err *err)
{
    char *path = xasprintf("%s/%s", mirror_path, FILE_NAME);
    char *text = xmalloc(RECORD_MAX);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, RECORD_MAX) : -1;
    int rc;

    if (n < 0)
        rc = err_errno(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_STORAGE, "read %s", path);
    else
        rc = entry_read(text, (size_t)n, out, err);
    if (rc == 0 && out->kind != ENTRY_MIRROR) {
        entry_clear(out);
        rc = err_set(err, ERR_CORRUPT, "the record of a mirror says that it is something else");
    }
    if (fd >= 0)
        close(fd);
    free(text);
    free(path);
    return rc;
}

int record_write(const char *path, const char *name, const struct entry *about,
                 const struct oid_list *tips, struct err *err)
{
    char *entry_path = xasprintf("mirrors/%s.git", name);
    char commit[OID_HEX_SIZE] = "";
    struct entry known = {0}, e = *about; /* borrowed */
    struct pack_list list;
    struct bytes text;
    struct err none;
    int rc = pack_list_read(path, &list, err);

    if (rc == 0) {
        if (tips->count > 0)
            oid_to_hex(HASH_SHA1, &tips->items[0], commit);
        e.kind = ENTRY_MIRROR;
        e.path = entry_path;
        e.commit = commit[0] != '\0' ? commit : NULL;
        e.size = pack_list_bytes(&list);
        e.created = mirror_read_entry(path, &known, &none) == 0 ? known.created : time(NULL);
        e.note_offset = -1;
        bytes_init(&text, RECORD_MAX);
        rc = entry_write(&e, &text) == 0
                 ? replace_below(path, FILE_NAME, &text, false, err)
                 : err_set(err, ERR_STORAGE, "the record of a mirror is too long");
        bytes_clear(&text);
    }
    entry_clear(&known);
    pack_list_clear(&list);
    free(entry_path);
    return rc;
}

/* ---- the local tier ---- */

/* With no local tier (in tests) all of this does nothing. */

static char *path_of(const struct mirror *m)
{
    return xasprintf("mirrors/%s.git", m->name);
}

void mirror_publish(struct mirror *m, struct claim **claim)
{
    struct entry e;
    struct pack_list list;
    struct err none;

    if (m->all->local == NULL)
        return;
    if (mirror_read_entry(m->path, &e, &none) == 0) {
        if (pack_list_read(m->path, &list, &none) == 0)
            e.size = pack_list_bytes(&list);
        pack_list_clear(&list);
        e.stored_size = disk_usage(m->path);
        local_publish(m->all->local, &e, claim);
        entry_clear(&e);
    }
    mirror_claim_free(claim);
}

void mirror_touch(struct mirror *m)
{
    char *path = path_of(m);

    if (m->all->local != NULL)
        local_touch(m->all->local, path);
    free(path);
}

void mirror_forget(struct mirror *m)
{
    char *path = path_of(m);

    if (m->all->local != NULL)
        local_forget(m->all->local, path);
    free(path);
}

struct claim *mirror_claim_new(struct mirror *m, const char *use)
{
    struct claim *claim = m->all->local != NULL ? local_claim_new(m->all->local) : NULL;

    if (claim != NULL && use != NULL) {
        char *what = xasprintf("mirrors/%s.git %s", m->name, use);

        local_claim_for(claim, what);
        free(what);
    }
    return claim;
}

int mirror_claim_grow(struct claim *c, uint64_t bytes, struct err *err)
{
    return c != NULL ? local_claim_grow(c, bytes, err) : 0;
}

void mirror_claim_free(struct claim **c)
{
    if (c != NULL && *c != NULL)
        local_claim_free(c);
}

static int describe(void *ctx, const char *path, struct entry *out, struct err *err)
{
    struct mirrors *all = ctx;
    char *full = folder_pathf(all->folder, "%s", path);
    int rc = mirror_read_entry(full, out, err);

    /* One without a record is nobody's. */
    if (rc != 0 && err->kind == ERR_NOT_FOUND)
        err->kind = ERR_CORRUPT;
    if (rc == 0)
        out->stored_size = disk_usage(full);
    free(full);
    return rc;
}

void records_own(struct mirrors *all, local_remove_fn *remove_fn)
{
    if (all->local != NULL)
        local_set_owner(all->local, ENTRY_MIRROR, &(struct local_owner){remove_fn, describe, all});
}
