#include "proxy/admin/page.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"
#include "protocol/digest.h"

enum { PLACE_MAX = 2 * PAGE_KEY_MAX + 1 };

/* A cursor is the place of the last item, in hex: names hold anything. */
static char *cursor_write(const char *place)
{
    size_t len = strlen(place);
    char *out = xmalloc(2 * len + 1);

    hex_encode((const uint8_t *)place, len, out);
    return out;
}

static char *cursor_read(const char *cursor)
{
    size_t len = strlen(cursor);
    char *out;

    if (len == 0 || len % 2 != 0 || len > 2 * PLACE_MAX)
        return NULL;
    out = xmalloc(len / 2 + 1);
    for (size_t i = 0; i < len; i += 2) {
        int high = hex_value(cursor[i]), low = hex_value(cursor[i + 1]);

        if (high < 0 || low < 0 || high * 16 + low == 0) {
            free(out);
            return NULL;
        }
        out[i / 2] = (char)(high * 16 + low);
    }
    out[len / 2] = '\0';
    return out;
}

int page_init(struct page *p, size_t limit, const char *cursor)
{
    *p = (struct page){.limit = limit};
    if (cursor != NULL && (p->after = cursor_read(cursor)) == NULL)
        return -1;
    p->items = xcalloc(limit + 1, sizeof(*p->items));
    return 0;
}

static void drop_last(struct page *p)
{
    struct page_item *last = &p->items[--p->count];

    free(last->place);
    json_decref(last->json);
    p->more = true;
}

void page_offer(struct page *p, const char *key, const char *id, json_t *json)
{
    /* 0x01 sorts before whatever a name goes on with. */
    char *place = xasprintf("%.*s\001%.*s", PAGE_KEY_MAX, key, PAGE_KEY_MAX, id);
    size_t at = p->count;

    if (p->after != NULL && strcmp(place, p->after) <= 0) {
        free(place);
        json_decref(json);
        return;
    }
    while (at > 0 && strcmp(place, p->items[at - 1].place) < 0) {
        p->items[at] = p->items[at - 1];
        at--;
    }
    p->items[at] = (struct page_item){place, json};
    if (++p->count > p->limit)
        drop_last(p);
}

json_t *page_end(struct page *p, char **next)
{
    json_t *list = json_array();

    *next = p->more ? cursor_write(p->items[p->count - 1].place) : NULL;
    for (size_t i = 0; i < p->count; i++) {
        must(json_array_append_new(list, p->items[i].json) == 0);
        free(p->items[i].place);
    }
    free(p->items);
    free(p->after);
    *p = (struct page){.limit = 0};
    return list;
}

void page_drop(struct page *p)
{
    char *ignored;

    json_decref(page_end(p, &ignored));
    free(ignored);
}

void page_number(uint64_t n, bool descending, char out[24])
{
    snprintf(out, 24, "%020" PRIu64, descending ? UINT64_MAX - n : n);
}
