#include "cache/shared/manifest_merge.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

static const struct manifest_pack *pack_of(const struct manifest *m, const char *hash)
{
    for (size_t i = 0; i < m->packs_count; i++)
        if (strcmp(m->packs[i].hash, hash) == 0)
            return &m->packs[i];
    return NULL;
}

static int by_oid(const void *a, const void *b)
{
    return oid_cmp(&((const struct manifest_tip *)a)->oid, &((const struct manifest_tip *)b)->oid);
}

static const struct manifest_tip *tip_of(const struct manifest *m, const struct oid *oid)
{
    struct manifest_tip key = {.oid = *oid};

    return m->tips_count > 0 ? bsearch(&key, m->tips, m->tips_count, sizeof(key), by_oid) : NULL;
}

/* Packs that only from has, and their bytes. */
static size_t count_others(const struct manifest *from, const struct manifest *than,
                           uint64_t *bytes)
{
    size_t count = 0;

    *bytes = 0;
    for (size_t i = 0; i < from->packs_count; i++) {
        if (pack_of(than, from->packs[i].hash) != NULL)
            continue;
        count++;
        for (int part = 0; part < MANIFEST_PARTS_COUNT; part++)
            *bytes += from->packs[i].parts[part].size;
    }
    return count;
}

bool manifest_can_keep(const struct manifest *there, const struct manifest *mine)
{
    uint64_t bytes;
    size_t packs = count_others(there, mine, &bytes);

    return packs > 0 && bytes <= manifest_bytes(mine) / 2 * 3 &&
           mine->packs_count + packs <= MERGE_PACKS_MAX &&
           mine->tips_count + there->tips_count <= MANIFEST_TIPS_MAX;
}

bool manifest_is_better(const struct manifest *mine, const struct manifest *there, bool keeps)
{
    uint64_t bytes;
    size_t kept = keeps ? count_others(there, mine, &bytes) : 0;
    size_t loose = mine->packs_count + kept - mine->indexed;
    size_t loose_there = there->packs_count - there->indexed;

    if ((mine->midx_bitmap.size > 0) != (there->midx_bitmap.size > 0))
        return mine->midx_bitmap.size > 0;
    if (loose != loose_there)
        return loose < loose_there;
    return mine->commit_graph.size > 0 && there->commit_graph.size == 0;
}

/* ---- the next one ---- */

static void take_later_times(struct manifest *next, const struct manifest *there)
{
    for (size_t i = 0; i < next->tips_count; i++) {
        const struct manifest_tip *tip = tip_of(there, &next->tips[i].oid);

        if (tip != NULL && tip->wanted_s > next->tips[i].wanted_s)
            next->tips[i].wanted_s = tip->wanted_s;
    }
}

static void add_tips(struct manifest *next, const struct manifest *there,
                     const struct manifest *mine)
{
    for (size_t i = 0; i < there->tips_count; i++)
        if (tip_of(mine, &there->tips[i].oid) == NULL)
            next->tips[next->tips_count++] = there->tips[i];
    qsort(next->tips, next->tips_count, sizeof(*next->tips), by_oid);
}

/* Behind those of the multi-pack index: git looks into each of them. */
static void add_packs(struct manifest *next, const struct manifest *there,
                      const struct manifest *mine)
{
    for (size_t i = 0; i < there->packs_count; i++)
        if (pack_of(mine, there->packs[i].hash) == NULL)
            next->packs[next->packs_count++] = there->packs[i];
}

void manifest_merge(const struct manifest *mine, const struct manifest *there, bool keeps,
                    struct manifest *next)
{
    static const struct manifest none;

    if (there == NULL)
        there = &none;
    *next = *mine;
    next->generation = there->generation + 1;
    next->packs = xcalloc(mine->packs_count + there->packs_count + 1, sizeof(*next->packs));
    memcpy(next->packs, mine->packs, mine->packs_count * sizeof(*next->packs));
    next->tips = xcalloc(mine->tips_count + there->tips_count + 1, sizeof(*next->tips));
    if (mine->tips_count > 0)
        memcpy(next->tips, mine->tips, mine->tips_count * sizeof(*next->tips));
    take_later_times(next, there);
    if (keeps) {
        add_packs(next, there, mine);
        add_tips(next, there, mine);
    }
}

void manifest_merge_clear(struct manifest *next)
{
    free(next->packs);
    free(next->tips);
    *next = (struct manifest){0};
}
