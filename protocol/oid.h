/* Object ids, and sorted sets of them. */
#ifndef PANNIER_PROTOCOL_OID_H
#define PANNIER_PROTOCOL_OID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/digest.h"

/* A SHA-1 id leaves the last 12 bytes 0.  Which algorithm it is, the holder knows. */
struct oid {
    uint8_t raw[DIGEST_MAX];
};
enum { OID_HEX_SIZE = 2 * DIGEST_MAX + 1 };

/* len must be exactly 40 (sha1) or 64 (sha256) lower- or upper-case hex digits. */
bool oid_from_hex(enum hash_algo algo, const char *hex, size_t len, struct oid *out);
void oid_to_hex(enum hash_algo algo, const struct oid *oid, char out[OID_HEX_SIZE]);
int oid_cmp(const struct oid *a, const struct oid *b);
bool oid_is_zero(const struct oid *oid);

/* A growable array; after oid_list_sort() a sorted set. */
struct oid_list {
    struct oid *items;
    size_t count;
    size_t cap;
};
void oid_list_add(struct oid_list *list, const struct oid *oid);
void oid_list_sort(struct oid_list *list); /* and drop duplicates */
/* list must be sorted. */
bool oid_list_contains(const struct oid_list *list, const struct oid *oid);
void oid_list_copy(const struct oid_list *from, struct oid_list *to); /* to must be empty */
void oid_list_clear(struct oid_list *list);

#endif
