#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/mirror/upkeep.h"

enum {
    LOOSE_PACKS_MAX = 8,   /* not in the multi-pack index: git looks into each of them */
    LOOSE_TIPS_MAX = 64,   /* a file each */
    SMALL_BYTES = 1 << 20, /* of packs, that git counts through quickly without a bitmap */
    SLACK_PART = 8,        /* of the ttl: what is over its time waits, to go together */
};

int64_t expired_before(const struct mirror_upkeep_options *o, bool with_slack)
{
    return o->now_s - o->unreachable_ttl_s - (with_slack ? o->unreachable_ttl_s / SLACK_PART : 0);
}

int64_t latest_wanted(const struct tip_list *tips)
{
    int64_t latest = INT64_MIN;

    for (size_t i = 0; i < tips->count; i++)
        latest = tips->items[i].wanted_s > latest ? tips->items[i].wanted_s : latest;
    return latest;
}

bool tips_expired(const struct tip_list *tips, const bool *redundant,
                  const struct mirror_upkeep_options *o)
{
    int64_t limit = expired_before(o, true), latest = latest_wanted(tips);

    for (size_t i = 0; i < tips->count; i++)
        if ((redundant == NULL || !redundant[i]) && tips->items[i].wanted_s < limit &&
            tips->items[i].wanted_s < latest)
            return true;
    return false;
}

static uint32_t big_endian_32(const uint8_t b[4])
{
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* The oldest time in a cruft pack's file of times; INT64_MAX where there is none. */
static int64_t oldest_in(FILE *file, off_t size)
{
    enum { HEADER = 12, TRAILER = 2 * SHA1_SIZE };
    int64_t oldest = INT64_MAX;
    uint8_t b[4];

    if (fseeko(file, HEADER, SEEK_SET) != 0)
        return INT64_MAX;
    for (off_t at = HEADER; at + TRAILER < size && fread(b, sizeof(b), 1, file) == 1; at += 4)
        oldest = big_endian_32(b) < oldest ? big_endian_32(b) : oldest;
    return oldest;
}

/* Something in it is over its time.  What newer cruft needs stays nevertheless, so a file that is
 * young is not looked at. */
bool cruft_expired(const char *path, const struct pack_list *list,
                   const struct mirror_upkeep_options *o)
{
    bool expired = false;

    for (size_t i = 0; i < list->count && !expired; i++) {
        int stem = (int)(strlen(list->packs[i].name) - strlen("pack"));
        char *name = xasprintf("%s/objects/pack/%.*smtimes", path, stem, list->packs[i].name);
        FILE *file = fopen(name, "re");
        struct stat st;

        if (file != NULL && fstat(fileno(file), &st) == 0 &&
            st.st_mtime < o->now_s - o->unreachable_ttl_s / SLACK_PART)
            expired = oldest_in(file, st.st_size) < expired_before(o, true);
        if (file != NULL)
            fclose(file);
        free(name);
    }
    return expired;
}

static size_t count_loose_tips(const struct mirror *m)
{
    char *path = xasprintf("%s/%s", m->path, TIP_PREFIX);
    DIR *dir = opendir(path);
    struct dirent *d;
    size_t count = 0;

    while (dir != NULL && (d = readdir(dir)) != NULL)
        count += d->d_name[0] != '.';
    if (dir != NULL)
        closedir(dir);
    free(path);
    return count;
}

bool has_bitmap(const struct mirror *m, const struct pack_list *list)
{
    char *folder = mirror_file(m, "objects/pack");
    char *bitmap = xasprintf("%s/multi-pack-index-%s.bitmap", folder, list->midx);
    char sum[GIT_HEX_LEN + 1];
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool has = fd >= 0 && midx_checksum(fd, sum) && strcmp(sum, list->midx) == 0 &&
               access(bitmap, F_OK) == 0;

    if (fd >= 0)
        close(fd);
    free(bitmap);
    free(folder);
    return has;
}

bool upkeep_needs_git(struct mirror *m, const struct pack_list *list,
                      const struct mirror_upkeep_options *o)
{
    struct tip_list tips;
    bool needs;

    if (list->count - list->indexed > LOOSE_PACKS_MAX || count_loose_tips(m) > LOOSE_TIPS_MAX)
        return true;
    if (!has_bitmap(m, list) && (list->count > 1 || pack_list_bytes(list) > SMALL_BYTES))
        return true;
    tip_list_read(m->path, &tips);
    needs = tips_expired(&tips, NULL, o) || cruft_expired(m->path, list, o);
    tip_list_clear(&tips);
    return needs;
}

bool mirror_needs_upkeep(struct mirror *m, const struct mirror_upkeep_options *options)
{
    struct pack_list list;
    struct err none;
    bool busy, needs;

    lock_take(&m->all->lock);
    busy = m->writing || m->doomed; /* what it writes looks like something left over */
    needs = m->sweep_due;           /* seen to by who reads it */
    lock_drop(&m->all->lock);
    if (busy || pack_list_read(m->path, &list, &none) != 0)
        return false;
    needs = upkeep_needs_git(m, &list, options) || (!needs && mirror_has_leftovers(m, &list));
    pack_list_clear(&list);
    return needs;
}
