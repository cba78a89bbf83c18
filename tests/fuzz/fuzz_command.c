/* A request that was taken is written again as one line, and means the same. */
#include "tests/fuzz/fuzz.h"

#include "proxy/commands.h"

static void check_again(const struct commands_request *r)
{
    struct commands_request again;
    struct bytes text;
    struct err err;

    bytes_init(&text, 1 << 20);
    must(commands_request_write(r, &text, &err) == 0);
    must(memchr(text.data, '\n', text.len) == NULL);
    must(commands_request_read(text.data, text.len, &again, &err) == 0);
    must(again.kind == r->kind && again.all == r->all && again.entries == r->entries);
    must(again.repair == r->repair && again.dry_run == r->dry_run && again.goal == r->goal);
    must((again.repo != NULL) == (r->repo != NULL));
    must(r->repo == NULL || strcmp(again.repo, r->repo) == 0);
    commands_request_clear(&again);
    bytes_clear(&text);
}

static void check_match(const char *typed)
{
    const struct entry same = {.repo = (char *)typed, .url = (char *)"https://x"};
    const struct entry other = {.repo = (char *)"hub/a/b",
                                .url = (char *)"https://hub.example/a/b"};

    /* A repository has its own name, unless that is empty without what may stand around it. */
    must(commands_repo_matches(typed, &same) || !commands_repo_matches(typed, &other));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *line = fuzz_copy(data, size);
    struct commands_request r;
    struct err err;

    if (commands_request_read(line, size, &r, &err) == 0) {
        check_again(&r);
        if (r.repo != NULL)
            check_match(r.repo);
        commands_request_clear(&r);
    } else {
        must(err.kind == ERR_INPUT && err.text[0] != '\0');
    }
    free(line);
    return 0;
}
