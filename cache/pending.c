/* To be replaced by cache/verify.c. */
#include "cache/cache.h"

int cache_verify_entry(struct cache *c, const struct entry *e, struct err *err)
{
    (void)err;
    (void)e;
    (void)c;
    return 0;
}
