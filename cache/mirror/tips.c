#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/mirror/internal.h"

/* `pannier-tips`: a line "<oid> <seconds since 1970>" for each tip, when it was last asked for.  It
 * is only worth something together with the refs: a tip that it lacks was asked for just now. */

enum {
    WANTED_MAX = 4096,   /* between two writings; who comes too late isn't counted */
    FILE_MAX = 16 << 20, /* 300 000 tips */
};

static const char FILE_NAME[] = "pannier-tips";
const char TIP_PREFIX[] = "refs/pannier/oid/";

void tip_list_clear(struct tip_list *list)
{
    free(list->items);
    *list = (struct tip_list){0};
}

/* Where oid is, or would be. */
static size_t place_of(const struct tip_list *list, const struct oid *oid)
{
    size_t low = 0, high = list->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (oid_cmp(&list->items[middle].oid, oid) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct tip *tip_list_find(const struct tip_list *list, const struct oid *oid)
{
    size_t i = place_of(list, oid);

    return i < list->count && oid_cmp(&list->items[i].oid, oid) == 0 ? &list->items[i] : NULL;
}

void tip_list_want(struct tip_list *list, const struct oid *oid, int64_t time_s)
{
    size_t i = place_of(list, oid);

    if (i < list->count && oid_cmp(&list->items[i].oid, oid) == 0) {
        if (list->items[i].wanted_s < time_s)
            list->items[i].wanted_s = time_s;
        return;
    }
    if ((list->count & (list->count - 1)) == 0)
        list->items =
            xrealloc(list->items, (list->count > 0 ? 2 * list->count : 1) * sizeof(*list->items));
    memmove(list->items + i + 1, list->items + i, (list->count - i) * sizeof(*list->items));
    list->items[i] = (struct tip){*oid, time_s};
    list->count++;
}

/* ---- on the disk ---- */

static void read_lines(FILE *file, struct tip_list *out)
{
    char hex[GIT_HEX_LEN + 1];
    int64_t time_s;
    struct oid oid;

    while (fscanf(file, "%40s %" SCNd64, hex, &time_s) == 2)
        if (oid_from_hex(HASH_SHA1, hex, strlen(hex), &oid))
            tip_list_want(out, &oid, time_s);
}

void tip_list_read(const char *path, struct tip_list *out)
{
    char *name = xasprintf("%s/%s", path, FILE_NAME);
    FILE *file = fopen(name, "re");

    *out = (struct tip_list){0};
    if (file != NULL) {
        read_lines(file, out);
        fclose(file);
    }
    free(name);
}

int tip_list_write(const char *path, const struct tip_list *list, struct err *err)
{
    struct bytes text;
    bool fits = true;
    int rc;

    bytes_init(&text, FILE_MAX);
    /* A tip of which nothing is written counts as asked for when somebody looks. */
    for (size_t i = 0; i < list->count && fits; i++) {
        char hex[OID_HEX_SIZE];

        oid_to_hex(HASH_SHA1, &list->items[i].oid, hex);
        fits = bytes_addf(&text, "%s %" PRId64 "\n", hex, list->items[i].wanted_s) == 0;
    }
    rc = replace_below(path, FILE_NAME, &text, false, err);
    bytes_clear(&text);
    return rc;
}

int packed_refs_write(const char *path, const struct oid_list *tips, struct err *err)
{
    struct bytes text;
    int rc;

    bytes_init(&text, SIZE_MAX / 2);
    bytes_add_str(&text, "# pack-refs with: peeled fully-peeled sorted \n");
    for (size_t i = 0; i < tips->count; i++) {
        char hex[OID_HEX_SIZE];

        oid_to_hex(HASH_SHA1, &tips->items[i], hex);
        bytes_addf(&text, "%s %s%s\n", hex, TIP_PREFIX, hex);
    }
    rc = replace_below(path, "packed-refs", &text, true, err);
    bytes_clear(&text);
    return rc;
}

/* ---- in memory ---- */

void mirror_want(struct mirror *m, const struct oid_list *oids, int64_t now_s)
{
    lock_take(&m->all->lock);
    for (size_t i = 0; i < oids->count; i++)
        if (m->wanted.count < WANTED_MAX || tip_list_find(&m->wanted, &oids->items[i]) != NULL)
            tip_list_want(&m->wanted, &oids->items[i], now_s);
    lock_drop(&m->all->lock);
}

void mirror_take_wanted(struct mirror *m, struct tip_list *out)
{
    lock_take(&m->all->lock);
    *out = m->wanted;
    m->wanted = (struct tip_list){0};
    lock_drop(&m->all->lock);
}
