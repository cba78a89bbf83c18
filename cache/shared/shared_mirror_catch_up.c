#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache/mirror/copy.h"
#include "cache/shared/manifest_merge.h"
#include "cache/shared/mirror_download.h"
#include "protocol/base.h"

/* Packs of another node stand beside those of this one; its multi-pack index and commit-graph stay
 * there, being about packs that are not here.  Upkeep puts all of it in order. */

/* More than half of what is here, and so much, means that the other node has made its packs anew:
 * upstream tells the difference in fewer bytes. */
#define WORTH_ANYWAY (UINT64_C(64) << 20)

/* What is to come of the manifest, in storage of our own. */
struct choice {
    struct manifest_pack *packs;
    struct manifest_tip *tips;
};

static void choice_clear(struct choice *c)
{
    free(c->packs);
    free(c->tips);
    *c = (struct choice){0};
}

/* Tips that nobody has asked for in a long time are no reason: this mirror may have let go of them
 * on purpose. */
static bool is_nothing_new(struct mirror *m, const struct manifest *there)
{
    int64_t dead_s = time(NULL) - MERGE_TIP_LIVES_S;
    struct oid_list tips = {0};
    bool all;

    for (size_t i = 0; i < there->tips_count; i++)
        if (there->tips[i].wanted_s > dead_s)
            oid_list_add(&tips, &there->tips[i].oid);
    all = mirror_has_all(m, &tips);
    oid_list_clear(&tips);
    return all;
}

static int begin(struct mirror_download *d, struct err *err)
{
    char hex[KEY_HEX_SIZE];
    struct entry about;

    mirror_download_about(d, hex, &about);
    return mirror_copy_in_begin_beside(d->mirror, &about, &d->in, err);
}

static void choose_packs(struct mirror_download *d, struct choice *c)
{
    const struct manifest *there = &d->there.manifest;

    c->packs = xcalloc(there->packs_count + 1, sizeof(*c->packs));
    d->part.packs = c->packs;
    for (size_t i = 0; i < there->packs_count; i++)
        if (!mirror_copy_in_has_pack(d->in, there->packs[i].hash))
            c->packs[d->part.packs_count++] = there->packs[i];
}

static void choose_tips(struct mirror_download *d, struct choice *c)
{
    const struct manifest *there = &d->there.manifest;
    struct oid_list all = {0}, lacking = {0};

    for (size_t i = 0; i < there->tips_count; i++)
        oid_list_add(&all, &there->tips[i].oid);
    mirror_copy_in_lacking(d->in, &all, &lacking);
    oid_list_sort(&lacking);
    c->tips = xcalloc(there->tips_count + 1, sizeof(*c->tips));
    d->part.tips = c->tips;
    for (size_t i = 0; i < there->tips_count; i++)
        if (oid_list_contains(&lacking, &there->tips[i].oid))
            c->tips[d->part.tips_count++] = there->tips[i];
    oid_list_clear(&all);
    oid_list_clear(&lacking);
}

static int check_worth(const struct mirror_download *d, struct err *err)
{
    uint64_t bytes = manifest_bytes(&d->part);
    uint64_t most = mirror_copy_in_bytes_beside(d->in) / 2 + WORTH_ANYWAY;

    return bytes <= most ? 0
                         : err_set(err, ERR_LIMIT,
                                   "the mirror in the shared tier has %" PRIu64
                                   " bytes in other packs, and %" PRIu64 " are worth it",
                                   bytes, most);
}

/* No tips in the part: there is nothing to do. */
static int choose(struct mirror_download *d, struct err *err)
{
    struct choice *c = d->chooser;

    choice_clear(c);
    d->got->generation = d->there.manifest.generation;
    if (is_nothing_new(d->mirror, &d->there.manifest))
        return 0;
    if (d->in == NULL && begin(d, err) != 0)
        return -1;
    choose_packs(d, c);
    choose_tips(d, c);
    return check_worth(d, err);
}

static int commit(struct mirror_download *d, struct err *err)
{
    struct mirror_content content;
    int rc;

    mirror_download_content(d, &content);
    rc = mirror_copy_in_join(&d->in, &content, err);
    mirror_content_clear(&content);
    /* Each file is what was put, but they and ours together lack something. */
    d->damaged = rc != 0 && err->kind == ERR_CORRUPT;
    return rc;
}

static int bring(struct mirror_download *d, struct err *err)
{
    int rc = mirror_copy_in_room(d->in, manifest_bytes(&d->part), err);

    d->got->bytes = d->there.size;
    if (rc == 0)
        rc = mirror_download_files(d, err);
    /* Of another manifest that came meanwhile we may have all. */
    if (rc == 0 && d->part.tips_count > 0)
        rc = commit(d, err);
    return rc;
}

int shared_mirror_catch_up(struct object_store *store, struct cutoffs *cutoffs, struct mirror *m,
                           const struct key *repo_id, shared_mirror_tick_fn *tick, void *ctx,
                           struct shared_mirror_got *out, struct err *err)
{
    struct choice choice = {0};
    struct mirror_download d = {.store = store,
                                .cutoffs = cutoffs,
                                .mirror = m,
                                .repo_id = repo_id,
                                .tick = tick,
                                .ctx = ctx,
                                .got = out,
                                .choose = choose,
                                .chooser = &choice};
    int rc;

    *out = (struct shared_mirror_got){0};
    rc = mirror_download_begin(&d, err);
    if (rc == 0 && d.part.tips_count > 0)
        rc = bring(&d, err);
    mirror_download_end(&d);
    choice_clear(&choice);
    return rc;
}
