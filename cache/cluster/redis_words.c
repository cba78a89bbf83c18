#include "cache/cluster/redis_words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "protocol/base.h"
#include "protocol/digest.h"

const char *redis_number(uint64_t n, char out[REDIS_NUMBER_SIZE])
{
    snprintf(out, REDIS_NUMBER_SIZE, "%llu", (unsigned long long)n);
    return out;
}

void redis_token(char out[REDIS_TOKEN_SIZE])
{
    uint8_t raw[REDIS_TOKEN_SIZE / 2];

    must(getrandom(raw, sizeof(raw), 0) == sizeof(raw));
    hex_encode(raw, sizeof(raw), out);
}

void redis_reply_free(struct redis_reply **rp)
{
    struct redis_reply *r = *rp;

    *rp = NULL;
    if (r == NULL)
        return;
    for (size_t i = 0; i < r->count; i++)
        redis_reply_free(&r->items[i]);
    free(r->items);
    free(r->text);
    free(r);
}

const struct redis_reply *redis_item(const struct redis_reply *array, size_t i)
{
    return array != NULL && i < array->count ? array->items[i] : NULL;
}

const char *redis_item_text(const struct redis_reply *array, size_t i)
{
    const struct redis_reply *item = redis_item(array, i);

    return item != NULL && item->text != NULL ? item->text : "";
}

int64_t redis_item_integer(const struct redis_reply *array, size_t i)
{
    const struct redis_reply *item = redis_item(array, i);

    if (item == NULL)
        return 0;
    return item->text != NULL ? strtoll(item->text, NULL, 10) : item->integer;
}

const char *redis_field(const struct redis_reply *pairs, const char *name)
{
    for (size_t i = 0; pairs != NULL && i + 1 < pairs->count; i += 2)
        if (strcmp(redis_item_text(pairs, i), name) == 0)
            return redis_item_text(pairs, i + 1);
    return NULL;
}
