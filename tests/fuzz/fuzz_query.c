/* What is read of a query is bounded and named once each, and escaping it again says the same. */
#include <stdio.h>

#include "tests/fuzz/fuzz.h"

#include "protocol/bytes.h"
#include "proxy/admin/query.h"

static void escape(struct bytes *b, const char *s)
{
    for (; *s != '\0'; s++)
        must(bytes_addf(b, "%%%02x", (unsigned char)*s) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = xstrndup((const char *)data, size), *name;
    struct query q, again;
    struct bytes written;
    struct err err;

    if (query_parse(text, &q, &name, &err) != 0) {
        must(err.kind == ERR_INPUT);
        free(name);
        free(text);
        return 0;
    }
    must(name == NULL && q.count <= QUERY_PARAMETERS_MAX);
    bytes_init(&written, 1 << 20);
    for (size_t i = 0; i < q.count; i++) {
        must(strlen(q.parameters[i].name) <= QUERY_TEXT_MAX);
        must(strlen(q.parameters[i].value) <= QUERY_TEXT_MAX);
        must(query_get(&q, q.parameters[i].name) == q.parameters[i].value);
        must(bytes_add_str(&written, i > 0 ? "&" : "") == 0);
        escape(&written, q.parameters[i].name);
        must(bytes_add_str(&written, "=") == 0);
        escape(&written, q.parameters[i].value);
    }
    must(query_parse(written.data != NULL ? written.data : "", &again, &name, &err) == 0);
    must(again.count == q.count);
    for (size_t i = 0; i < q.count; i++)
        must(strcmp(q.parameters[i].name, again.parameters[i].name) == 0 &&
             strcmp(q.parameters[i].value, again.parameters[i].value) == 0);
    query_clear(&again);
    query_clear(&q);
    bytes_clear(&written);
    free(text);
    return 0;
}
