/* Any bytes as a credential helper's answer.  What was taken can be written, and reads the same. */
#include "protocol/git_credential.h"
#include "tests/fuzz/fuzz.h"

static void check_again(const struct git_credential *c)
{
    struct git_credential again;
    struct bytes text;
    struct err err;

    bytes_init(&text, SIZE_MAX / 2);
    git_credential_write(c, &text);
    must(git_credential_parse(text.data, text.len, NULL, &again, &err) == 0);
    must(strcmp(again.password, c->password) == 0 && again.expires == c->expires);
    git_credential_clear(&again);
    bytes_clear(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *asked = fuzz_choice(&data, &size) % 2 == 0 ? NULL : "u";
    char *text = fuzz_copy(data, size);
    struct git_credential c;
    struct err err;

    if (git_credential_parse(text, size, asked, &c, &err) == 0) {
        must(c.username != NULL && c.password[0] != '\0' && c.expires >= 0);
        if (strchr(c.password, '\r') == NULL) /* at the end of a line it is the line's */
            check_again(&c);
        git_credential_clear(&c);
    } else {
        must(err.kind == ERR_INPUT || err.kind == ERR_NOT_FOUND);
    }
    free(text);
    return 0;
}
