/* To be replaced by cache/mirror/upkeep.c and cache/verify.c. */
#include "cache/cache.h"

bool mirror_needs_upkeep(struct mirror *m, const struct mirror_upkeep_options *options)
{
    (void)m;
    (void)options;
    return false;
}

int mirror_upkeep(struct mirror *m, const struct mirror_upkeep_options *options,
                  struct mirror_upkeep *out, struct err *err)
{
    (void)m;
    (void)options;
    *out = (struct mirror_upkeep){0};
    return err_set(err, ERR_CANCELLED, "not yet");
}

int cache_verify_entry(struct cache *c, const struct entry *e, struct err *err)
{
    (void)err;
    (void)e;
    (void)c;
    return 0;
}
