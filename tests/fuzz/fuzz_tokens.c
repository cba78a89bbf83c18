/* A tokens file is read or refused by a line's number; nothing that is no token opens anything. */
#include <ctype.h>
#include <stdio.h>

#include "tests/fuzz/fuzz.h"

#include "protocol/digest.h"
#include "proxy/admin/tokens.h"

/* The token "open" with every right, behind whatever came before. */
static void with_one_more(const char *text, size_t size)
{
    struct token_list *list;
    char name[TOKEN_NAME_MAX], hex[KEY_HEX_SIZE], *longer;
    struct key digest;
    struct err err;

    key_of("open", 4, &digest);
    key_to_hex(&digest, hex);
    longer = xasprintf("%.*s\nfuzz@last read,operate sha256:%s\n", (int)size, text, hex);
    if (strlen(longer) > size && token_list_read(longer, strlen(longer), &list, &err) == 0) {
        must(token_list_look(list, "Bearer open", name) != SCOPE_NONE);
        must(name[0] != '\0' && strlen(name) < TOKEN_NAME_MAX);
        token_list_free(&list);
    }
    free(longer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = fuzz_copy(data, size), name[TOKEN_NAME_MAX];
    char *authorization =
        xasprintf("Bearer %.*s", (int)(size < 64 ? size : 64), (const char *)data);
    struct token_list *list;
    struct err err;

    if (token_list_read(text, size, &list, &err) == 0) {
        must(token_list_look(list, "Bearer ", name) == SCOPE_NONE);
        must(token_list_look(list, NULL, name) == SCOPE_NONE && name[0] == '\0');
        (void)token_list_look(list, authorization, name);
        token_list_free(&list);
    } else {
        must(err.kind == ERR_INPUT && isdigit((unsigned char)err.text[0]) && list == NULL);
    }
    with_one_more(text, size);
    free(authorization);
    free(text);
    return 0;
}
