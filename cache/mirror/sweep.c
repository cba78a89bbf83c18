#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/mirror/internal.h"

/* Packs that are not of the list any more go in two steps:
 *
 *     readers who began before the list was changed read them.  When these are done
 *     1. their indexes go, and with these git no longer sees the packs; but who began before this
 *        step may have seen them, and come to read them.  When these are done, too,
 *     2. the packs go.
 *
 * A reader that has seen a pack, but not opened its index in time, does without it: all that is in
 * it is in a pack of the list, or is to be forgotten. */

enum { OPEN_FOLDERS_MAX = 16 };

/* ---- what a git program left that was killed, or we ---- */

static bool is_abandoned(const char *name)
{
    return strncmp(name, "tmp_", 4) == 0 || ends_with(name, ".lock") || ends_with(name, ".new");
}

static int remove_abandoned(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    if (flag == FTW_F && is_abandoned(path + ftw->base))
        unlink(path);
    return 0;
}

static int find_abandoned(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    return flag == FTW_F && is_abandoned(path + ftw->base);
}

static void sweep_abandoned(const char *path)
{
    nftw(path, remove_abandoned, OPEN_FOLDERS_MAX, FTW_PHYS);
}

/* ---- what is not of the list ---- */

/* A file of a pack that the list doesn't have, or a bitmap of another multi-pack index. */
static bool is_unlisted(const char *name, const struct pack_list *list)
{
    static const char bitmap[] = "multi-pack-index-";
    size_t len = sizeof(bitmap) - 1;

    if (strncmp(name, "pack-", 5) == 0)
        return !pack_list_has(list, name, strcspn(name, "."));
    return strncmp(name, bitmap, len) == 0 &&
           (list->midx[0] == '\0' || strncmp(name + len, list->midx, GIT_HEX_LEN) != 0);
}

bool midx_checksum(int folder, char out[GIT_HEX_LEN + 1])
{
    int fd = openat(folder, "multi-pack-index", O_RDONLY | O_CLOEXEC);
    char hex[OID_HEX_SIZE] = "";
    struct oid sum = {0};
    struct stat st;

    out[0] = '\0';
    if (fd < 0)
        return false;
    /* It ends in it. */
    if (fstat(fd, &st) == 0 && pread(fd, sum.raw, SHA1_SIZE, st.st_size - SHA1_SIZE) == SHA1_SIZE)
        oid_to_hex(HASH_SHA1, &sum, hex);
    memcpy(out, hex, GIT_HEX_LEN + 1);
    close(fd);
    return true;
}

/* Also when there is none. */
static bool midx_is_listed(int folder, const struct pack_list *list)
{
    char sum[GIT_HEX_LEN + 1];

    return !midx_checksum(folder, sum) || strcmp(sum, list->midx) == 0;
}

/* How many of the files that are not of the list end so (NULL: in any way); remove: how many of
 * them went. */
static size_t unlisted(int folder, const struct pack_list *list, const char *end, bool remove)
{
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *d;
    size_t count = 0;

    while (dir != NULL && (d = readdir(dir)) != NULL)
        if (is_unlisted(d->d_name, list) && (end == NULL || ends_with(d->d_name, end)))
            count += !remove || unlinkat(folder, d->d_name, 0) == 0;
    if (dir != NULL)
        closedir(dir);
    else if (fd >= 0)
        close(fd);
    return count;
}

static int open_packs(const struct mirror *m)
{
    char *path = mirror_file(m, "objects/pack");
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    free(path);
    return fd;
}

/* Step 1; false: there was nothing to hide. */
static bool hide_packs(int folder, const struct pack_list *list)
{
    bool hidden = false;

    /* A kill came between the new list and its multi-pack index. */
    if (!midx_is_listed(folder, list))
        hidden = unlinkat(folder, "multi-pack-index", 0) == 0;
    return unlisted(folder, list, ".idx", true) > 0 || hidden;
}

/* True when something went. */
static bool sweep_packs(struct mirror *m, int folder, const struct pack_list *list)
{
    bool gone = false;

    while (unlisted(folder, list, NULL, false) > 0 || !midx_is_listed(folder, list)) {
        if (!mirror_users_are_new(m))
            break; /* the last of the others comes here, too */
        gone = true;
        if (hide_packs(folder, list)) {
            mirror_epoch_end(m);
            continue;
        }
        unlisted(folder, list, NULL, true);
        break;
    }
    return gone;
}

void mirror_sweep(struct mirror *m)
{
    struct pack_list list;
    struct err none;
    int folder;

    sweep_abandoned(m->path);
    if (pack_list_read(m->path, &list, &none) != 0)
        return;
    folder = open_packs(m);
    if (folder >= 0 && sweep_packs(m, folder, &list)) {
        mirror_forget_verified_but(m, &list);
        mirror_publish(m, NULL);
    }
    if (folder >= 0)
        close(folder);
    pack_list_clear(&list);
}

bool mirror_has_leftovers(struct mirror *m, const struct pack_list *list)
{
    int folder = open_packs(m);
    bool has = nftw(m->path, find_abandoned, OPEN_FOLDERS_MAX, FTW_PHYS) == 1;

    if (folder >= 0) {
        has = has || unlisted(folder, list, NULL, false) > 0 || !midx_is_listed(folder, list);
        close(folder);
    }
    return has;
}
