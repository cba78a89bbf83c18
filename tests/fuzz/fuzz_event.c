/* Names and values, one a line, are an event or none; one that was read is, written again, read
 * alike. */
#include "tests/fuzz/fuzz.h"

#include "cache/cluster/event.h"

enum { ITEMS_MAX = 64 };

/* An array whose items are the lines. */
struct lines {
    struct redis_reply array, items[ITEMS_MAX];
    struct redis_reply *pointers[ITEMS_MAX];
};

static void lines_init(struct lines *l)
{
    *l = (struct lines){.array = {.type = REDIS_ARRAY, .items = l->pointers}};
    for (size_t i = 0; i < ITEMS_MAX; i++)
        l->pointers[i] = &l->items[i];
}

static void lines_add(struct lines *l, char *text)
{
    l->items[l->array.count++] =
        (struct redis_reply){.type = REDIS_TEXT, .text = text, .len = strlen(text)};
}

static void check_again(const struct event *e)
{
    const char *words[EVENT_WORDS_MAX];
    char generation[REDIS_NUMBER_SIZE];
    struct event again;
    struct lines l;
    struct err err;
    size_t n = event_write(e, words, 0, generation, &err);

    must(n > 0 && n <= EVENT_WORDS_MAX && n % 2 == 0);
    lines_init(&l);
    for (size_t i = 0; i < n; i++)
        lines_add(&l, (char *)words[i]);
    must(event_read(&l.array, &again, &err) == 0);
    must(again.kind == e->kind && again.scope == e->scope && again.generation == e->generation);
    must(again.unpin == e->unpin && strcmp(again.unpin_id, e->unpin_id) == 0);
    must(strcmp(again.repo_id, e->repo_id) == 0);
    must(strcmp(again.name, e->name) == 0 && strcmp(again.reason, e->reason) == 0);
    must(strcmp(again.repo, e->repo) == 0 && strcmp(again.node, e->node) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = xmalloc(size + 1), *line, *rest = text;
    struct event e;
    struct lines l;
    struct err err;

    memcpy(text, data, size);
    text[size] = '\0';
    lines_init(&l);
    while (l.array.count < ITEMS_MAX && (line = strsep(&rest, "\n")) != NULL)
        lines_add(&l, line);
    if (event_read(&l.array, &e, &err) == 0)
        check_again(&e);
    else
        must(err.kind == ERR_CORRUPT || err.kind == ERR_REFUSED);
    event_id_ms(text);
    event_id_compare(text, text + strlen(text) / 2);
    free(text);
    return 0;
}
