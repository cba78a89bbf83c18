/* Whatever upstream says: a wait is bounded, and there is one exactly where there is a scope. */
#include "tests/fuzz/fuzz.h"

#include "proxy/manners/throttle.h"
#include "proxy/upstream.h"

enum { NOW_S = 1790000000 };

/* A status in the first byte, then lines "name: value". */
static void as_head(const uint8_t *data, size_t size)
{
    static const int statuses[] = {200, 401, 403, 404, 429, 500, 503};
    struct response_head head = {0};
    uint8_t choice = fuzz_choice(&data, &size);
    char *text = xstrndup((const char *)data, size), *line = text;
    enum throttle_scope scope;
    uint64_t wait_ms;

    head.status = statuses[choice % ARRAY_LEN(statuses)];
    while (line != NULL && head.header_count < 8) {
        char *name = strsep(&line, "\n"), *value = name;

        strsep(&value, ":");
        if (value != NULL)
            head.headers[head.header_count++] = (struct header){name, value};
    }
    scope = throttle_of_head(&head, NOW_S, &wait_ms);
    must((scope == THROTTLE_NONE) == (wait_ms == 0));
    must(wait_ms <= THROTTLE_MAX_MS);
    must(scope != THROTTLE_NONE || head.status != 429 || head.header_count > 0);
    free(text);
}

static void as_text(const uint8_t *data, size_t size)
{
    char *text = xstrndup((const char *)data, size);
    enum throttle_scope scope;
    uint64_t wait_ms;

    scope = throttle_of_text(text, &wait_ms);
    must((scope == THROTTLE_NONE) == (wait_ms == 0));
    must(wait_ms <= THROTTLE_MAX_MS);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    as_head(data, size);
    as_text(data, size);
    return 0;
}
