#include "cache/mirror/copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/mirror/upkeep.h"

/* As a fresh intake: all of it is made in incoming/, and appears by one rename.  So a kill in the
 * middle leaves what the next start sweeps.
 *
 * What comes beside a mirror is made there, too, as a repository of only the new packs, which sees
 * what the mirror has as its alternate: a folder of hard links to the packs of the list.  So all is
 * looked at before the mirror changes.  Then, as upkeep does, the packs are linked in, the list is
 * replaced, and the tips come last; what a kill leaves without the list knowing it is swept. */

struct mirror_copy_in {
    struct mirror *mirror;
    char *path; /* in incoming/; NULL when it has become the mirror */
    struct entry about;
    struct claim *claim;
    uint64_t claimed;
    char *had;             /* below path: what the mirror had; NULL: it wasn't there */
    struct pack_list list; /* of what it had */
};

/* From the folder's objects/. */
static const char ALTERNATES[] = "../had/objects\n";

static void free_copy(struct mirror_copy_in *c)
{
    if (c->path != NULL)
        remove_tree(c->path);
    mirror_claim_free(&c->claim);
    entry_clear(&c->about);
    pack_list_clear(&c->list);
    free(c->had);
    free(c->path);
    free(c);
}

void mirror_copy_in_abort(struct mirror_copy_in **cp)
{
    struct mirror_copy_in *c = *cp;

    *cp = NULL;
    if (c != NULL)
        free_copy(c);
}

int mirror_copy_in_room(struct mirror_copy_in *c, uint64_t bytes, struct err *err)
{
    if (bytes > c->claimed) {
        if (mirror_claim_grow(c->claim, bytes - c->claimed, err) != 0)
            return -1;
        c->claimed = bytes;
    }
    return 0;
}

int mirror_copy_in_begin(struct mirror *m, const struct entry *about, uint64_t bytes,
                         struct mirror_copy_in **out, struct err *err)
{
    struct mirror_copy_in *c;
    int rc;

    if (mirror_doomed(m))
        return err_set(err, ERR_BUSY, "the mirror is being removed");
    if (access(m->path, F_OK) == 0)
        return err_set(err, ERR_CONFLICT, "there is a mirror already");
    c = xcalloc(1, sizeof(*c));
    c->mirror = m;
    c->path = folder_incoming_path(m->all->folder, ".git");
    c->claim = mirror_claim_new(m, "making");
    entry_copy(about, &c->about);
    rc = mirror_copy_in_room(c, bytes, err);
    if (rc == 0)
        rc = make_bare(c->path, true, err);
    if (rc == 0)
        *out = c;
    else
        free_copy(c);
    return rc;
}

/* ---- files ---- */

int mirror_copy_in_create(struct mirror_copy_in *c, const char *name, int *fd, struct err *err)
{
    char *path = xasprintf("%s/objects/%s", c->path, name);

    *fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (*fd < 0)
        err_errno(err, ERR_STORAGE, "make %s", path);
    free(path);
    return *fd >= 0 ? 0 : -1;
}

int mirror_copy_in_close(struct mirror_copy_in *c, const char *name, int fd, struct err *err)
{
    bool good = fchmod(fd, 0444) == 0 && fsync(fd) == 0;

    (void)c;
    if (!good)
        err_errno(err, ERR_STORAGE, "write %s", name);
    close(fd);
    return good ? 0 : -1;
}

void mirror_copy_in_remove(struct mirror_copy_in *c, const char *name)
{
    char *path = xasprintf("%s/objects/%s", c->path, name);

    unlink(path);
    free(path);
}

/* ---- what is written around them ---- */

static void list_packs(const struct mirror_content *content, struct pack_list *out)
{
    for (size_t i = 0; i < content->packs_count; i++) {
        char *name = xasprintf("pack-%s.pack", content->packs[i].hash);

        pack_list_add(out, name, content->packs[i].sizes[MIRROR_PACK]);
        free(name);
    }
    out->indexed = content->indexed;
    snprintf(out->midx, sizeof(out->midx), "%s", content->midx_hash);
}

static int write_tips(struct mirror_copy_in *c, const struct mirror_content *content,
                      struct oid_list *tips, struct err *err)
{
    struct tip_list times = {0};
    int rc;

    for (size_t i = 0; i < content->tips_count; i++) {
        oid_list_add(tips, &content->tips[i].oid);
        tip_list_want(&times, &content->tips[i].oid, content->tips[i].wanted_s);
    }
    rc = packed_refs_write(c->path, tips, err);
    if (rc == 0)
        rc = tip_list_write(c->path, &times, err);
    tip_list_clear(&times);
    return rc;
}

static int write_lists(struct mirror_copy_in *c, const struct mirror_content *content,
                       struct pack_list *packs, struct oid_list *tips, struct err *err)
{
    int rc;

    list_packs(content, packs);
    rc = pack_list_write(c->path, packs, err);
    if (rc == 0)
        rc = write_tips(c, content, tips, err);
    if (rc == 0)
        rc = record_write(c->path, c->mirror->name, &c->about, tips, err);
    return rc;
}

/* ---- is it whole? ---- */

/* The bytes [-from_end, -from_end + SHA1_SIZE) of a file below objects/.  -1: as cannot_look(), or
 * it is too short. */
static int read_sum(const struct mirror_copy_in *c, const char *name, off_t from_end,
                    uint8_t out[SHA1_SIZE], struct err *err)
{
    char *path = xasprintf("%s/objects/%s", c->path, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;
    struct stat st;
    ssize_t n = 0;

    if (fd < 0 || fstat(fd, &st) != 0 ||
        (st.st_size >= from_end && (n = pread(fd, out, SHA1_SIZE, st.st_size - from_end)) < 0))
        rc = cannot_look(name, err);
    else if (n != SHA1_SIZE)
        rc = err_set(err, ERR_CORRUPT, "%s is too short", name);
    if (fd >= 0)
        close(fd);
    free(path);
    return rc;
}

/* An index says of which pack it is: before its own checksum stands that of the pack. */
static int check_pair(const struct mirror_copy_in *c, const char *hash, struct err *err)
{
    char *pack = xasprintf("pack/pack-%s.pack", hash), *idx = xasprintf("pack/pack-%s.idx", hash);
    uint8_t of_pack[SHA1_SIZE], in_idx[SHA1_SIZE];
    int rc = read_sum(c, pack, SHA1_SIZE, of_pack, err);

    if (rc == 0)
        rc = read_sum(c, idx, (off_t)2 * SHA1_SIZE, in_idx, err);
    if (rc == 0 && memcmp(of_pack, in_idx, SHA1_SIZE) != 0)
        rc = err_set(err, ERR_CORRUPT, "%s is not that of its pack", idx);
    free(pack);
    free(idx);
    return rc;
}

static int check_midx(const struct mirror_copy_in *c, const struct pack_list *packs,
                      struct err *err)
{
    uint8_t sum[SHA1_SIZE];
    char hex[2 * SHA1_SIZE + 1] = "";

    if (packs->midx[0] == '\0')
        return 0;
    if (read_sum(c, "pack/multi-pack-index", SHA1_SIZE, sum, err) != 0)
        return -1;
    hex_encode(sum, sizeof(sum), hex);
    return strcmp(hex, packs->midx) == 0
               ? 0
               : err_set(err, ERR_CORRUPT, "the multi-pack index is not that of the packs");
}

/* The files were checked. */
static int check_together(struct mirror_copy_in *c, const struct mirror_content *content,
                          const struct pack_list *packs, const struct oid_list *tips,
                          struct err *err)
{
    int rc = 0;

    for (size_t i = 0; i < content->packs_count && rc == 0; i++)
        rc = check_pair(c, content->packs[i].hash, err);
    if (rc == 0)
        rc = check_midx(c, packs, err);
    return rc == 0 ? objects_check_tips(c->path, tips, err) : -1;
}

/* The names in the folders, too, are to be there after a power cut. */
static int sync_folders(const struct mirror_copy_in *c, struct err *err)
{
    static const char *const inside[] = {"objects/pack/.", "objects/info/.", "objects/.", "."};
    int rc = 0;

    for (size_t i = 0; i < ARRAY_LEN(inside) && rc == 0; i++) {
        char *path = xasprintf("%s/%s", c->path, inside[i]);

        rc = sync_parent(path, err);
        free(path);
    }
    return rc;
}

static void trust(struct mirror *m, const struct pack_list *packs)
{
    for (size_t i = 0; i < packs->count; i++)
        mirror_trust_pack(m, &packs->packs[i]);
    mirror_trust_indexes(m, packs);
}

int mirror_copy_in_commit(struct mirror_copy_in **cp, const struct mirror_content *content,
                          mirror_idle_fn *tick, void *ctx, struct err *err)
{
    struct mirror_copy_in *c = *cp;
    struct pack_list packs = {0};
    struct oid_list tips = {0};
    int rc;

    *cp = NULL;
    rc = write_lists(c, content, &packs, &tips, err);
    if (rc == 0)
        rc = mirror_check_folder(c->mirror, c->path, tick, ctx, err);
    if (rc == 0)
        rc = check_together(c, content, &packs, &tips, err);
    if (rc == 0)
        rc = sync_folders(c, err);
    if (rc == 0 && tick != NULL)
        rc = tick(ctx, err);
    if (rc == 0 && mirror_doomed(c->mirror))
        rc = err_set(err, ERR_CANCELLED, "the mirror was removed meanwhile");
    if (rc == 0)
        rc = mirror_appear(c->mirror, c->path, err);
    if (rc == 0) {
        free(c->path);
        c->path = NULL;
        trust(c->mirror, &packs);
        mirror_publish(c->mirror, &c->claim);
    }
    oid_list_clear(&tips);
    pack_list_clear(&packs);
    free_copy(c);
    return rc;
}

/* ---- beside what is there ---- */

static bool has_files_of(const char *path, const struct listed_pack *pack)
{
    int stem = (int)(strlen(pack->name) - strlen(".pack"));
    char *idx = xasprintf("%s/objects/pack/%.*s.idx", path, stem, pack->name);
    char *packed = xasprintf("%s/objects/pack/%s", path, pack->name);
    bool has = access(packed, F_OK) == 0 && access(idx, F_OK) == 0;

    free(packed);
    free(idx);
    return has;
}

/* A mirror that was found damaged goes whoever writes. */
static int link_had(struct mirror_copy_in *c, struct err *err)
{
    const char *path = c->mirror->path;
    int rc = pack_list_read(path, &c->list, err);

    for (size_t i = 0; i < c->list.count && rc == 0; i++) {
        rc = link_pack(path, c->had, c->list.packs[i].name, err);
        if (rc == 0 && !has_files_of(c->had, &c->list.packs[i]))
            rc = err_set(err, ERR_NOT_FOUND, "%s is gone", c->list.packs[i].name);
    }
    /* These kinds are told of what comes, not of what is here. */
    if (rc != 0 && (err->kind == ERR_NOT_FOUND || err->kind == ERR_CORRUPT))
        err->kind = ERR_BUSY;
    return rc;
}

int mirror_copy_in_begin_beside(struct mirror *m, const struct entry *about,
                                struct mirror_copy_in **out, struct err *err)
{
    struct mirror_copy_in *c;
    int rc;

    if (mirror_doomed(m))
        return err_set(err, ERR_BUSY, "the mirror is being removed");
    mirror_sweep(m);
    c = xcalloc(1, sizeof(*c));
    c->mirror = m;
    c->path = folder_incoming_path(m->all->folder, ".git");
    c->had = xasprintf("%s/had", c->path);
    c->claim = mirror_claim_new(m, NULL);
    entry_copy(about, &c->about);
    rc = make_bare(c->path, false, err);
    if (rc == 0)
        rc = make_bare(c->had, false, err);
    if (rc == 0)
        rc = write_below(c->path, "objects/info/alternates", ALTERNATES, false, err);
    if (rc == 0)
        rc = link_had(c, err);
    if (rc == 0)
        *out = c;
    else
        free_copy(c);
    return rc;
}

bool mirror_copy_in_has_pack(const struct mirror_copy_in *c, const char *hash)
{
    char *stem = xasprintf("pack-%s", hash);
    bool has = pack_list_has(&c->list, stem, strlen(stem));

    free(stem);
    return has;
}

uint64_t mirror_copy_in_bytes_beside(const struct mirror_copy_in *c)
{
    return pack_list_bytes(&c->list);
}

void mirror_copy_in_lacking(const struct mirror_copy_in *c, const struct oid_list *oids,
                            struct oid_list *out)
{
    objects_missing(c->had, oids, out);
}

static int check_beside(struct mirror_copy_in *c, const struct mirror_content *content,
                        const struct pack_list *packs, const struct oid_list *tips, struct err *err)
{
    int rc = 0;

    if (packs->count > 0) { /* an empty list is none */
        rc = pack_list_write(c->path, packs, err);
        if (rc == 0)
            rc = mirror_check_folder(c->mirror, c->path, NULL, NULL, err);
    }
    for (size_t i = 0; i < packs->count && rc == 0; i++)
        rc = check_pair(c, content->packs[i].hash, err);
    return rc == 0 ? objects_check_closed(c->path, c->had, tips, &c->mirror->all->stop, err) : -1;
}

static int link_in(struct mirror_copy_in *c, const struct pack_list *packs, struct err *err)
{
    char *inside = mirror_file(c->mirror, "objects/pack/.");
    int rc = 0;

    for (size_t i = 0; i < packs->count && rc == 0; i++)
        rc = link_pack(c->path, c->mirror->path, packs->packs[i].name, err);
    if (rc == 0)
        rc = sync_parent(inside, err);
    free(inside);
    return rc;
}

static int add_times(struct mirror *m, const struct mirror_content *content, struct err *err)
{
    struct tip_list times;
    int rc;

    tip_list_read(m->path, &times);
    for (size_t i = 0; i < content->tips_count; i++)
        tip_list_want(&times, &content->tips[i].oid, content->tips[i].wanted_s);
    rc = tip_list_write(m->path, &times, err);
    tip_list_clear(&times);
    return rc;
}

/* The list comes before the tips, as in an intake. */
static int join(struct mirror_copy_in *c, const struct mirror_content *content,
                const struct pack_list *packs, const struct oid_list *tips, struct err *err)
{
    struct mirror *m = c->mirror;
    int rc = link_in(c, packs, err);

    for (size_t i = 0; i < packs->count; i++)
        pack_list_add(&c->list, packs->packs[i].name, packs->packs[i].size);
    if (rc == 0)
        rc = pack_list_write(m->path, &c->list, err);
    if (rc == 0)
        rc = objects_add_refs(m->path, tips, err);
    if (rc == 0)
        rc = add_times(m, content, err);
    if (rc == 0)
        rc = record_write(m->path, m->name, &c->about, tips, err);
    /* What it has become it is, however far that went. */
    if (rc != 0 && err->kind == ERR_CORRUPT)
        err->kind = ERR_STORAGE;
    return rc;
}

int mirror_copy_in_join(struct mirror_copy_in **cp, const struct mirror_content *content,
                        struct err *err)
{
    struct mirror_copy_in *c = *cp;
    struct mirror *m = c->mirror;
    struct pack_list packs = {0};
    struct oid_list tips = {0};
    int rc;

    *cp = NULL;
    list_packs(content, &packs);
    for (size_t i = 0; i < content->tips_count; i++)
        oid_list_add(&tips, &content->tips[i].oid);
    rc = check_beside(c, content, &packs, &tips, err);
    if (rc == 0 && (mirror_doomed(m) || access(m->path, F_OK) != 0))
        rc = err_set(err, ERR_CANCELLED, "the mirror was removed meanwhile");
    if (rc == 0) {
        rc = join(c, content, &packs, &tips, err);
        if (rc != 0)
            mirror_sweep(m);
    }
    if (rc == 0) {
        for (size_t i = 0; i < packs.count; i++)
            mirror_trust_pack(m, &packs.packs[i]);
        mirror_publish(m, &c->claim);
    }
    oid_list_clear(&tips);
    pack_list_clear(&packs);
    free_copy(c);
    return rc;
}
