#include "cache/shared/shared_mirror.h"

#include "cache/mirror/copy.h"
#include "cache/shared/stored_manifest.h"
#include "protocol/base.h"

int shared_mirror_has(struct object_store *store, const struct key *repo_id, bool *has,
                      struct err *err)
{
    char key[OBJECT_KEY_MAX + 1];
    struct object_info info;

    manifest_key(repo_id, key);
    *has = object_head(store, key, &info, err) == 0;
    return *has || err->kind == ERR_NOT_FOUND ? 0 : -1;
}

int shared_mirror_has_all(struct object_store *store, struct cutoffs *cutoffs, struct mirror *m,
                          bool *has, struct err *err)
{
    struct mirror_copy_out *copy = NULL;
    const struct mirror_content *here;
    struct stored_manifest there;
    struct key repo_id;
    int rc;

    *has = false;
    if (mirror_copy_out_begin(m, &copy, err) != 0)
        return -1;
    here = mirror_copy_out_content(copy);
    if (!key_from_hex(here->about.repo_id, &repo_id)) {
        mirror_copy_out_end(&copy);
        return err_set(err, ERR_CORRUPT, "the record of a mirror has no repository's id");
    }
    rc = stored_manifest_read(store, cutoffs, &repo_id, &there, err);
    *has = rc == 0 && manifest_covers(&there.manifest, m, here, INT64_MAX);
    if (rc != 0 && (err->kind == ERR_NOT_FOUND || err->kind == ERR_CORRUPT))
        rc = 0;
    stored_manifest_clear(&there);
    mirror_copy_out_end(&copy);
    return rc;
}
