/* Watches a pack stream go by and says at the end whether it was whole: "PACK", version 2 or 3,
 * as many objects as the header promised, and a trailing checksum that is right.
 * Source: git's gitformat-pack.txt.
 *
 * Objects are counted by walking them (their zlib streams are inflated and thrown away): a pack
 * whose header lies has a right checksum all the same, and would break every client that it is
 * replayed to. */
#ifndef PANNIER_PROTOCOL_PACK_WATCH_H
#define PANNIER_PROTOCOL_PACK_WATCH_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/digest.h"
#include "protocol/err.h"

struct pack_watch;

struct pack_watch *pack_watch_new(enum hash_algo algo);
void pack_watch_free(struct pack_watch *w);

/* -1 (ERR_UPSTREAM): this can no longer become a whole pack.  It stays so. */
int pack_watch_feed(struct pack_watch *w, const void *data, size_t len, struct err *err);
/* 0: the pack was whole and nothing followed it. */
int pack_watch_finish(struct pack_watch *w, struct err *err);

/* What the header promised; 0 before it was read. */
uint32_t pack_watch_objects(const struct pack_watch *w);
uint64_t pack_watch_bytes(const struct pack_watch *w);

#endif
