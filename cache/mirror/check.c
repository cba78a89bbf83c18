#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/mirror/internal.h"
#include "protocol/digest.h"

enum { READ_BLOCK = 1 << 20 };

const char MIRROR_CONFIG[] = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n";
const char MIRROR_HEAD[] = "ref: refs/heads/none\n";

struct checking {
    struct mirror *mirror;
    const char *path; /* where it lies */
    bool anew;
    bool apart; /* it is not the mirror yet, and nothing is known or to be remembered of it */
    mirror_idle_fn *tick; /* or NULL */
    void *ctx;
};

/* Is it to go on? */
static int check_going(const struct checking *c, struct err *err)
{
    if (c->mirror->all->stop)
        return err_set(err, ERR_CANCELLED, "pannier is shutting down");
    return c->tick != NULL ? c->tick(c->ctx, err) : 0;
}

/* All that git makes beside its objects ends, like a pack, in a SHA-1 of all before it. */
static int check_sum(const struct checking *c, const char *path, const char *name, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct digest *d;
    char *block;
    uint8_t found[SHA1_SIZE], stored[SHA1_SIZE];
    struct stat st;
    off_t left;
    int going = 0;

    if (fd < 0)
        return cannot_look(name, err);
    d = digest_new(HASH_SHA1);
    block = xmalloc(READ_BLOCK);
    left = fstat(fd, &st) == 0 ? st.st_size - SHA1_SIZE : -1; /* which never fails */
    while (left > 0 && (going = check_going(c, err)) == 0) {
        ssize_t n = read(fd, block, left < READ_BLOCK ? (size_t)left : READ_BLOCK);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            going = cannot_look(name, err);
        if (n <= 0)
            left = -1;
        else
            digest_update(d, block, (size_t)n);
        left -= n > 0 ? n : 0;
    }
    digest_final(d, found);
    if (left == 0 && read(fd, stored, sizeof(stored)) != (ssize_t)sizeof(stored))
        left = -1;
    digest_free(d);
    free(block);
    close(fd);
    if (going != 0)
        return -1;
    return left == 0 && memcmp(found, stored, sizeof(found)) == 0
               ? 0
               : err_set(err, ERR_CORRUPT, "%s is not what was written", name);
}

/* The time of change of the inode is not looked at: it changes with each hard link, of which upkeep
 * makes and removes many.  Whoever writes changes the other one. */
static bool same_content(const struct file_identity *a, const struct file_identity *b)
{
    return a->inode == b->inode && a->size == b->size && a->mtime_ns == b->mtime_ns;
}

static bool was_verified(struct mirror *m, const char *name, const struct file_identity *identity)
{
    bool known = false;

    lock_take(&m->all->lock);
    for (size_t i = 0; i < m->verified_count && !known; i++)
        known = strcmp(m->verified[i].name, name) == 0 &&
                same_content(&m->verified[i].identity, identity);
    lock_drop(&m->all->lock);
    return known;
}

static void remember_verified(struct mirror *m, const char *name,
                              const struct file_identity *identity)
{
    size_t i = 0;

    lock_take(&m->all->lock);
    while (i < m->verified_count && strcmp(m->verified[i].name, name) != 0)
        i++;
    if (i == m->verified_count) {
        m->verified = xrealloc(m->verified, (i + 1) * sizeof(*m->verified));
        m->verified[i].name = xstrdup(name);
        m->verified_count++;
    }
    m->verified[i].identity = *identity;
    lock_drop(&m->all->lock);
}

/* ---- each file that the list stands for ---- */

struct listed_file {
    const char *name;     /* below objects/ */
    const uint64_t *size; /* NULL: any */
    bool optional;        /* git does without it, more slowly */
};
typedef int file_fn(void *ctx, const struct listed_file *file, struct err *err);

static int each_of_pack(const struct listed_pack *pack, file_fn *fn, void *ctx, struct err *err)
{
    static const struct {
        const char *end;
        bool optional;
    } kinds[] = {
        {"pack", false}, {"idx", false}, {"rev", true}, {"bitmap", true}, {"mtimes", true}};
    int stem_len = (int)(strlen(pack->name) - strlen("pack"));
    int rc = 0;

    for (size_t i = 0; i < ARRAY_LEN(kinds) && rc == 0; i++) {
        char *name = xasprintf("pack/%.*s%s", stem_len, pack->name, kinds[i].end);

        rc = fn(ctx, &(struct listed_file){name, i == 0 ? &pack->size : NULL, kinds[i].optional},
                err);
        free(name);
    }
    return rc;
}

/* While upkeep changes from one state to the next, the multi-pack index may still be the old one:
 * it is good for packs that are still there. */
static int each_index(const struct pack_list *list, file_fn *fn, void *ctx, struct err *err)
{
    char *bitmap = xasprintf("pack/multi-pack-index-%s.bitmap", list->midx);
    const char *const names[] = {"pack/multi-pack-index", "info/commit-graph", bitmap};
    int rc = 0;

    for (size_t i = 0; i < ARRAY_LEN(names) && rc == 0; i++)
        rc = fn(ctx, &(struct listed_file){names[i], NULL, true}, err);
    free(bitmap);
    return rc;
}

static int each_file(const struct pack_list *list, file_fn *fn, void *ctx, struct err *err)
{
    int rc = 0;

    for (size_t i = 0; i < list->count && rc == 0; i++)
        rc = each_of_pack(&list->packs[i], fn, ctx, err);
    return rc == 0 ? each_index(list, fn, ctx, err) : -1;
}

static int check_file(void *ctx, const struct listed_file *file, struct err *err)
{
    const struct checking *c = ctx;
    char *path = xasprintf("%s/objects/%s", c->path, file->name);
    struct file_identity identity;
    int rc = 0;

    if (!file_identity_at(path, &identity))
        rc = file->optional && errno == ENOENT ? 0 : cannot_look(file->name, err);
    else if (file->size != NULL && identity.size != *file->size)
        rc = err_set(err, ERR_CORRUPT, "%s is not what was written", file->name);
    else if (c->anew || c->apart || !was_verified(c->mirror, file->name, &identity)) {
        rc = check_sum(c, path, file->name, err);
        if (rc == 0 && !c->apart)
            remember_verified(c->mirror, file->name, &identity);
        else if (rc != 0 && file->optional && access(path, F_OK) != 0 && errno == ENOENT)
            rc = 0; /* upkeep took it away */
    }
    free(path);
    return rc;
}

static int trust_file(void *ctx, const struct listed_file *file, struct err *err)
{
    struct mirror *m = ctx;
    char *path = xasprintf("%s/objects/%s", m->path, file->name);
    struct file_identity identity;

    (void)err;
    if (file_identity_at(path, &identity))
        remember_verified(m, file->name, &identity);
    free(path);
    return 0;
}

void mirror_trust_pack(struct mirror *m, const struct listed_pack *pack)
{
    struct err none;

    each_of_pack(pack, trust_file, m, &none);
}

void mirror_trust_indexes(struct mirror *m, const struct pack_list *list)
{
    struct err none;

    each_index(list, trust_file, m, &none);
}

void mirror_date_pack(struct mirror *m, const struct listed_pack *pack, int64_t time_s)
{
    const struct timespec times[] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = time_s}};
    char *name = xasprintf("pack/%s", pack->name);
    char *path = xasprintf("%s/objects/%s", m->path, name);
    struct file_identity identity;
    bool verified = file_identity_at(path, &identity) && was_verified(m, name, &identity);

    if (utimensat(AT_FDCWD, path, times, 0) == 0 && verified && file_identity_at(path, &identity))
        remember_verified(m, name, &identity);
    free(path);
    free(name);
}

void mirror_forget_verified_but(struct mirror *m, const struct pack_list *list)
{
    size_t kept = 0;

    lock_take(&m->all->lock);
    for (size_t i = 0; i < m->verified_count; i++) {
        struct verified_file *v = &m->verified[i];
        const char *name = strrchr(v->name, '/') + 1;

        if (strncmp(name, "pack-", 5) == 0 && !pack_list_has(list, name, strcspn(name, ".")))
            free(v->name);
        else
            m->verified[kept++] = *v;
    }
    m->verified_count = kept;
    lock_drop(&m->all->lock);
}

/* ---- the mirror ---- */

/* What git needs around the packs. */
static int check_frame(const char *folder, struct err *err)
{
    const struct {
        const char *name, *content;
    } files[] = {{"config", MIRROR_CONFIG}, {"HEAD", MIRROR_HEAD}};
    int rc = 0;

    for (size_t i = 0; i < ARRAY_LEN(files) && rc == 0; i++) {
        char *path = xasprintf("%s/%s", folder, files[i].name);
        char found[256] = "";
        int fd = open(path, O_RDONLY | O_CLOEXEC);

        if (fd < 0 || read(fd, found, sizeof(found) - 1) < 0)
            rc = cannot_look(files[i].name, err);
        else if (strcmp(found, files[i].content) != 0)
            rc = err_set(err, ERR_CORRUPT, "its %s is not what was written", files[i].name);
        if (fd >= 0)
            close(fd);
        free(path);
    }
    return rc;
}

static int check_all(struct checking *c, struct err *err)
{
    struct pack_list list;
    int rc = pack_list_read(c->path, &list, err);

    if (rc == 0)
        rc = each_file(&list, check_file, c, err);
    if (rc == 0)
        rc = check_frame(c->path, err);
    pack_list_clear(&list);
    return rc;
}

int mirror_check(struct mirror *m, bool anew, struct err *err)
{
    struct checking c = {.mirror = m, .path = m->path, .anew = anew};
    struct mirror_use use;
    int rc;

    mirror_use_begin(m, &use); /* what the list names must not go while it is looked at */
    rc = check_all(&c, err);
    mirror_use_end(m, &use);
    return rc;
}

int mirror_check_folder(struct mirror *m, const char *path, mirror_idle_fn *tick, void *ctx,
                        struct err *err)
{
    struct checking c = {.mirror = m, .path = path, .apart = true, .tick = tick, .ctx = ctx};

    return check_all(&c, err);
}

/* A kill may have left packs that were linked in and are not of the list yet: what is in them would
 * count as here although what it needs may lie in others that never came.  Before anybody looks. */
static void sweep_first(struct mirror *m)
{
    bool mine;

    lock_take(&m->all->lock);
    mine = m->verified == NULL && m->users == NULL && !m->writing;
    m->writing |= mine;
    lock_drop(&m->all->lock);
    if (!mine)
        return; /* a writer sweeps when it begins */
    mirror_sweep(m);
    mirror_write_end(m);
}

bool mirror_ready(struct mirror *m)
{
    struct lock *lock = &m->all->lock;
    struct err why;
    bool good;

    /* One at a time: after a restart a hundred requests must not read the same packs at once. */
    lock_take(lock);
    while (m->checking)
        lock_wait(lock, &m->all->done);
    m->checking = true;
    lock_drop(lock);
    sweep_first(m);
    good = !mirror_doomed(m);
    if (good && mirror_check(m, false, &why) != 0) {
        good = false;
        if (why.kind == ERR_CORRUPT)
            mirror_drop_damaged(m, &why);
    }
    lock_take(lock);
    m->checking = false;
    pthread_cond_broadcast(&m->all->done);
    lock_drop(lock);
    return good;
}
