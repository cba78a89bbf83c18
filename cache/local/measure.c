/* How much it is, and how much it may be. */
#include "cache/local/internal.h"

#include <dirent.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "protocol/base.h"

enum {
    BLOCK_SIZE = 512, /* of st_blocks, whatever the file system's is */
    OPEN_FOLDERS_MAX = 16,
    CROWDED_PART =
        2, /* when others have this part of what could be ours; also what is open still */
};

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

bool is_mirror_name(const char *name)
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

        if (d->d_type != DT_DIR || d->d_name[0] == '.' || is_mirror_name(d->d_name))
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
void local_measure_frame(struct local *l)
{
    static const char *const files[] = {"version", "lock", "control", "pins"};
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

uint64_t local_total_locked(const struct local *l)
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

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

/* The limits depend on the file system, which others fill, too. */
void local_measure_limit(struct local *l)
{
    struct statvfs fs;
    bool known = statvfs(folder_path(l->folder), &fs) == 0;
    uint64_t all, available, total, limit, min_free;

    lock_take(&l->lock);
    total = local_total_locked(l);
    limit = share_of(&l->limits.size, UINT64_MAX);
    if (known) {
        all = (uint64_t)fs.f_blocks * fs.f_frsize;
        available = (uint64_t)fs.f_bavail * fs.f_frsize;
        min_free = share_of(&l->limits.min_free, all);
        limit = share_of(&l->limits.size, all);
        /* What there would be if nobody else used the file system. */
        l->asked = least(limit, less(all, min_free));
        /* What is claimed but not written yet still counts as available. */
        limit = least(limit, less(total + available, min_free));
        l->crowded = limit < l->asked - l->asked / CROWDED_PART;
    }
    if (limit != l->limit) {
        l->limit = limit;
        policy_set_capacity(l->policy, limit);
    }
    lock_drop(&l->lock);
}
