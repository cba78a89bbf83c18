/* One page of a long list: of all that is offered, in any order, the first `limit` behind a cursor.
 * Takes no more memory than a page, however long the list.
 *
 * A cursor is a place in the order and no number of items: what comes and goes between two pages
 * moves nothing else.  Only what itself changes its place meanwhile may come twice, or not at all.
 *
 *     page_init(&p, limit, cursor)          -1: the cursor is none of ours
 *     page_offer(&p, key, id, json)         each; by key, then by id
 *     page_end(&p, &next)                   an array, and the next page's cursor or NULL
 */
#ifndef PANNIER_PROXY_ADMIN_PAGE_H
#define PANNIER_PROXY_ADMIN_PAGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PAGE_KEY_MAX = 160, /* bytes of a key and of an id that count */
};

struct page {
    size_t limit;
    char *after; /* NULL: from the beginning */
    struct page_item {
        char *place;
        json_t *json;
    } * items; /* sorted */
    size_t count;
    bool more;
};

int page_init(struct page *p, size_t limit, const char *cursor);
/* Steals json. */
void page_offer(struct page *p, const char *key, const char *id, json_t *json);
/* New array and cursor (yours, may be NULL); clears p. */
json_t *page_end(struct page *p, char **next);

/* Clears p when there is to be no page. */
void page_drop(struct page *p);

/* A number as a key: ascending, or descending. */
void page_number(uint64_t n, bool descending, char out[24]);
/* As a key: behind all numbers, whatever the order. */
#define PAGE_LAST "~"

#endif
