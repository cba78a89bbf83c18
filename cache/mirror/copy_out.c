#include "cache/mirror/copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cache/mirror/internal.h"

/* What is read, and in which order, so that it is one state of the mirror:
 *
 *     a use begins       what the list names stays from here on
 *     the list           an intake writes the list first, then the tips; upkeep the list, then the
 *     the tips           multi-pack index, the commit-graph, the tips: so what tips are read reach
 *     the indexes        is in the packs of a list that was the same before and afterwards
 *     the list again
 *
 * Upkeep drops a tip in one run and what only that one reached in another, so tips of before and
 * packs of after go together.  The multi-pack index is taken if it is that of the list. */

enum {
    /* Each intake or upkeep that falls into it costs one. */
    SNAPSHOT_TRIES = 10,
    /* Refs that upkeep writes anew at this moment may seem to be none that can be read. */
    TIPS_TRIES = 3,
};

static const char MIDX[] = "pack/multi-pack-index";
static const char COMMIT_GRAPH[] = "info/commit-graph";
static const char *const PARTS[MIRROR_PARTS_COUNT] = {"pack", "idx", "rev", "bitmap", "mtimes"};

struct mirror_copy_out {
    struct mirror *mirror;
    struct mirror_use use;
    int objects;            /* the folder, also when another mirror has its name by now */
    int midx, commit_graph; /* -1: there is none.  Upkeep puts others in their place */
    struct mirror_content content;
    struct claim *scratch;
};

void mirror_content_clear(struct mirror_content *c)
{
    entry_clear(&c->about);
    free(c->packs);
    free(c->tips);
    *c = (struct mirror_content){0};
}

/* ---- files ---- */

bool mirror_copy_out_gone(const struct mirror_copy_out *c)
{
    char *path = mirror_file(c->mirror, "objects");
    struct stat ours, there;
    bool gone = mirror_doomed(c->mirror) || fstat(c->objects, &ours) != 0 ||
                stat(path, &there) != 0 || ours.st_ino != there.st_ino ||
                ours.st_dev != there.st_dev;

    free(path);
    return gone;
}

/* Of a file that can't be opened; errno says why. */
static int cannot_open(const struct mirror_copy_out *c, const char *name, struct err *err)
{
    int why = errno;

    if (mirror_copy_out_gone(c))
        return err_set(err, ERR_NOT_FOUND, "the mirror was removed meanwhile");
    errno = why;
    return cannot_look(name, err);
}

int mirror_copy_out_open(const struct mirror_copy_out *c, const char *name, int *fd,
                         struct err *err)
{
    if (strcmp(name, MIDX) == 0)
        *fd = fcntl(c->midx, F_DUPFD_CLOEXEC, 0);
    else if (strcmp(name, COMMIT_GRAPH) == 0)
        *fd = fcntl(c->commit_graph, F_DUPFD_CLOEXEC, 0);
    else
        *fd = openat(c->objects, name, O_RDONLY | O_CLOEXEC);
    return *fd >= 0 ? 0 : cannot_open(c, name, err);
}

int mirror_copy_out_scratch(struct mirror_copy_out *c, uint64_t bytes, int *fd, struct err *err)
{
    char *path;

    mirror_claim_free(&c->scratch);
    c->scratch = mirror_claim_new(c->mirror, NULL);
    if (mirror_claim_grow(c->scratch, bytes, err) != 0)
        return -1;
    path = folder_incoming_path(c->mirror->all->folder, ".packed");
    *fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (*fd < 0)
        err_errno(err, ERR_STORAGE, "make %s", path);
    else
        unlink(path);
    free(path);
    return *fd >= 0 ? 0 : -1;
}

/* ---- what there is ---- */

/* 0 in *size where there is no such file. */
static int measure(const struct mirror_copy_out *c, const char *name, bool needed, uint64_t *size,
                   struct err *err)
{
    struct stat st = {0};

    if (fstatat(c->objects, name, &st, 0) != 0 && (needed || errno != ENOENT))
        return cannot_open(c, name, err);
    *size = (uint64_t)st.st_size;
    return 0;
}

static int measure_pack(const struct mirror_copy_out *c, const struct listed_pack *listed,
                        struct mirror_content_pack *out, struct err *err)
{
    int stem = (int)(strlen(listed->name) - strlen(".pack")), rc = 0;

    if (sscanf(listed->name, "pack-%40[0-9a-f].pack", out->hash) != 1 ||
        strlen(out->hash) != MIRROR_HASH_HEX)
        return err_set(err, ERR_CORRUPT, "its list of packs has one that git doesn't name so");
    for (int part = 0; part < MIRROR_PARTS_COUNT && rc == 0; part++) {
        char *name = xasprintf("pack/%.*s.%s", stem, listed->name, PARTS[part]);

        rc = measure(c, name, part <= MIRROR_IDX, &out->sizes[part], err);
        free(name);
    }
    if (rc == 0 && out->sizes[MIRROR_PACK] != listed->size)
        rc = err_set(err, ERR_CORRUPT, "%s is not what was written", listed->name);
    return rc;
}

static int measure_packs(struct mirror_copy_out *c, const struct pack_list *list, struct err *err)
{
    struct mirror_content *content = &c->content;
    int rc = 0;

    content->packs = xcalloc(list->count, sizeof(*content->packs));
    for (; content->packs_count < list->count && rc == 0; content->packs_count++)
        rc = measure_pack(c, &list->packs[content->packs_count],
                          &content->packs[content->packs_count], err);
    return rc;
}

static int open_optional(const struct mirror_copy_out *c, const char *name, int *fd, uint64_t *size,
                         struct err *err)
{
    struct stat st;

    *fd = openat(c->objects, name, O_RDONLY | O_CLOEXEC);
    if (*fd < 0)
        return errno == ENOENT ? 0 : cannot_open(c, name, err);
    if (fstat(*fd, &st) != 0)
        return err_errno(err, ERR_STORAGE, "look at %s", name);
    *size = (uint64_t)st.st_size;
    return 0;
}

static bool ends_in(int fd, uint64_t size, const char *hash)
{
    uint8_t sum[SHA1_SIZE];
    char hex[2 * SHA1_SIZE + 1];

    if (size < SHA1_SIZE || pread(fd, sum, sizeof(sum), (off_t)(size - SHA1_SIZE)) != SHA1_SIZE)
        return false;
    hex_encode(sum, sizeof(sum), hex);
    return strcmp(hex, hash) == 0;
}

/* That of another list is none. */
static int take_midx(struct mirror_copy_out *c, const struct pack_list *list, struct err *err)
{
    struct mirror_content *content = &c->content;
    char *bitmap = xasprintf("pack/multi-pack-index-%s.bitmap", list->midx);
    int rc = 0;

    if (list->midx[0] != '\0')
        rc = open_optional(c, MIDX, &c->midx, &content->midx_size, err);
    if (rc == 0 && content->midx_size > 0 && ends_in(c->midx, content->midx_size, list->midx)) {
        content->indexed = list->indexed;
        snprintf(content->midx_hash, sizeof(content->midx_hash), "%s", list->midx);
        rc = measure(c, bitmap, false, &content->midx_bitmap_size, err);
    } else {
        content->midx_size = 0;
    }
    free(bitmap);
    return rc;
}

/* When each was asked for: as is written, or was noted since; a tip of which nothing is written was
 * asked for just now. */
static void date_tips(struct mirror_copy_out *c, const struct oid_list *refs)
{
    struct mirror_content *content = &c->content;
    struct mirror *m = c->mirror;
    int64_t now_s = time(NULL);
    struct tip_list times;

    tip_list_read(m->path, &times);
    content->tips = xcalloc(refs->count + 1, sizeof(*content->tips));
    content->tips_count = refs->count;
    lock_take(&m->all->lock);
    for (size_t i = 0; i < refs->count; i++) {
        const struct tip *written = tip_list_find(&times, &refs->items[i]);
        const struct tip *noted = tip_list_find(&m->wanted, &refs->items[i]);
        int64_t wanted_s = written != NULL ? written->wanted_s : now_s;

        if (noted != NULL && noted->wanted_s > wanted_s)
            wanted_s = noted->wanted_s;
        content->tips[i] = (struct mirror_content_tip){refs->items[i], wanted_s > 0 ? wanted_s : 0};
    }
    lock_drop(&m->all->lock);
    tip_list_clear(&times);
}

static int read_tips(struct mirror_copy_out *c, struct err *err)
{
    struct oid_list refs = {0};
    int rc = -1;

    for (unsigned i = 0; i < TIPS_TRIES && rc != 0; i++) {
        oid_list_clear(&refs);
        rc = objects_refs(c->mirror->path, &refs, err);
    }
    if (rc == 0)
        date_tips(c, &refs);
    oid_list_clear(&refs);
    return rc;
}

static bool lists_equal(const struct pack_list *a, const struct pack_list *b)
{
    if (a->count != b->count || a->indexed != b->indexed || strcmp(a->midx, b->midx) != 0)
        return false;
    for (size_t i = 0; i < a->count; i++)
        if (strcmp(a->packs[i].name, b->packs[i].name) != 0 || a->packs[i].size != b->packs[i].size)
            return false;
    return true;
}

/* *stable: the list was the same all the while. */
static int look(struct mirror_copy_out *c, bool *stable, struct err *err)
{
    const char *path = c->mirror->path;
    struct pack_list list, again = {0};
    int rc = pack_list_read(path, &list, err);

    if (rc == 0)
        rc = read_tips(c, err);
    if (rc == 0)
        rc = measure_packs(c, &list, err);
    if (rc == 0)
        rc = take_midx(c, &list, err);
    if (rc == 0)
        rc = open_optional(c, COMMIT_GRAPH, &c->commit_graph, &c->content.commit_graph_size, err);
    if (rc == 0)
        rc = pack_list_read(path, &again, err);
    if (rc == 0)
        *stable = lists_equal(&list, &again);
    pack_list_clear(&again);
    pack_list_clear(&list);
    return rc;
}

static void close_files(struct mirror_copy_out *c)
{
    if (c->midx >= 0)
        close(c->midx);
    if (c->commit_graph >= 0)
        close(c->commit_graph);
    if (c->objects >= 0)
        close(c->objects);
    c->midx = c->commit_graph = c->objects = -1;
}

static int begin_use(struct mirror_copy_out *c, struct err *err)
{
    char *objects = mirror_file(c->mirror, "objects");
    int rc = 0;

    mirror_use_begin(c->mirror, &c->use);
    c->objects = open(objects, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (c->objects < 0)
        rc = err_errno(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_STORAGE, "look at %s", objects);
    else if (mirror_doomed(c->mirror))
        rc = err_set(err, ERR_NOT_FOUND, "the mirror is being removed");
    free(objects);
    return rc;
}

static void end_use(struct mirror_copy_out *c)
{
    close_files(c);
    mirror_content_clear(&c->content);
    mirror_use_end(c->mirror, &c->use);
}

static int read_about(struct mirror_copy_out *c, struct err *err)
{
    int rc = mirror_read_entry(c->mirror->path, &c->content.about, err);

    /* One without a record is nobody's. */
    if (rc != 0 && err->kind == ERR_NOT_FOUND && !mirror_copy_out_gone(c))
        err->kind = ERR_CORRUPT;
    return rc;
}

int mirror_copy_out_begin(struct mirror *m, struct mirror_copy_out **out, struct err *err)
{
    struct mirror_copy_out *c = xcalloc(1, sizeof(*c));
    bool stable = false;
    int rc = 0;

    c->mirror = m;
    c->midx = c->commit_graph = c->objects = -1;
    for (unsigned i = 0; i < SNAPSHOT_TRIES && rc == 0 && !stable; i++) {
        rc = begin_use(c, err);
        if (rc == 0)
            rc = look(c, &stable, err);
        if (rc == 0)
            rc = read_about(c, err);
        if (rc != 0 || !stable)
            end_use(c);
    }
    if (rc == 0 && !stable)
        rc = err_set(err, ERR_BUSY, "the mirror changes all the time");
    if (rc == 0)
        *out = c;
    else
        free(c);
    return rc;
}

const struct mirror_content *mirror_copy_out_content(const struct mirror_copy_out *c)
{
    return &c->content;
}

void mirror_copy_out_end(struct mirror_copy_out **cp)
{
    struct mirror_copy_out *c = *cp;

    *cp = NULL;
    if (c == NULL)
        return;
    mirror_claim_free(&c->scratch);
    end_use(c);
    free(c);
}
