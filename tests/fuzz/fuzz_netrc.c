/* Any bytes as a netrc file.  What is found is words of it, and a failure tells none of them. */
#include "protocol/netrc.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *login = fuzz_choice(&data, &size) % 2 == 0 ? NULL : "u";
    char *text = fuzz_copy(data, size), *user, *password;
    struct err err;

    if (netrc_find(text, size, "h", login, &user, &password, &err) == 0) {
        must(strlen(password) <= NETRC_WORD_MAX && strlen(user) <= NETRC_WORD_MAX);
        must(login == NULL || strcmp(user, login) == 0);
        must(strchr(password, '\n') == NULL && strchr(user, '\n') == NULL);
        free(user);
        free(password);
    } else {
        must(err.kind == ERR_INPUT || err.kind == ERR_NOT_FOUND);
    }
    free(text);
    return 0;
}
