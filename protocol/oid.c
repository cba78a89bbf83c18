#include "protocol/oid.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

bool oid_from_hex(enum hash_algo algo, const char *hex, size_t len, struct oid *out)
{
    struct oid oid = {{0}};

    if (len != 2 * hash_size(algo) || !hex_decode(hex, hash_size(algo), oid.raw))
        return false;
    *out = oid;
    return true;
}

void oid_to_hex(enum hash_algo algo, const struct oid *oid, char out[OID_HEX_SIZE])
{
    hex_encode(oid->raw, hash_size(algo), out);
}

int oid_cmp(const struct oid *a, const struct oid *b)
{
    return memcmp(a->raw, b->raw, sizeof(a->raw));
}

bool oid_is_zero(const struct oid *oid)
{
    static const struct oid zero;

    return oid_cmp(oid, &zero) == 0;
}

static int compare(const void *a, const void *b)
{
    return oid_cmp(a, b);
}

void oid_list_add(struct oid_list *list, const struct oid *oid)
{
    if (list->count == list->cap) {
        list->cap = list->cap > 0 ? 2 * list->cap : 16;
        list->items = xrealloc(list->items, list->cap * sizeof(list->items[0]));
    }
    list->items[list->count++] = *oid;
}

void oid_list_sort(struct oid_list *list)
{
    size_t kept = 0;

    if (list->count == 0)
        return;
    qsort(list->items, list->count, sizeof(list->items[0]), compare);
    for (size_t i = 1; i < list->count; i++) {
        if (oid_cmp(&list->items[kept], &list->items[i]) != 0)
            list->items[++kept] = list->items[i];
    }
    list->count = kept + 1;
}

bool oid_list_contains(const struct oid_list *list, const struct oid *oid)
{
    if (list->count == 0)
        return false;
    return bsearch(oid, list->items, list->count, sizeof(list->items[0]), compare) != NULL;
}

void oid_list_copy(const struct oid_list *from, struct oid_list *to)
{
    must(to->items == NULL);
    if (from->count == 0)
        return;
    to->items = xmalloc(from->count * sizeof(from->items[0]));
    memcpy(to->items, from->items, from->count * sizeof(from->items[0]));
    to->count = to->cap = from->count;
}

void oid_list_clear(struct oid_list *list)
{
    free(list->items);
    *list = (struct oid_list){0};
}
