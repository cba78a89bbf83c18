/* What was taken is clean, and its canonical spelling means the same again. */
#include "tests/fuzz/fuzz.h"

#include "protocol/smart_http.h"

static void check_clean(const char *wire)
{
    for (; *wire != '\0'; wire++)
        must(*wire > 0x20 && *wire < 0x7f && *wire != '\\' && *wire != '"' && *wire != '#');
}

static void check_again(const struct smart_path *p)
{
    char *target;
    struct smart_path again;
    struct err err;

    /* The upstream is a configured name and has no spelling of its own: only a plain one goes
     * through once more. */
    if (strpbrk(p->upstream, "%?#") != NULL)
        return;
    target = xasprintf("/%s/%s/%s", p->upstream, p->wire_repo, p->wire_rest);
    if (smart_path_parse(target, &again, &err) != 0) {
        must(err.kind == ERR_LIMIT); /* escapes may have made it longer */
    } else {
        must(again.service == p->service);
        must(strcmp(again.upstream, p->upstream) == 0 && strcmp(again.repo, p->repo) == 0);
        must(strcmp(again.wire_repo, p->wire_repo) == 0);
        must(strcmp(again.wire_rest, p->wire_rest) == 0);
        smart_path_clear(&again);
    }
    free(target);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *target = xstrndup((const char *)data, size);
    struct smart_path p;
    struct err err;

    git_protocol_version(target);
    if (smart_path_parse(target, &p, &err) == 0) {
        must(p.upstream[0] != '\0' && p.repo[0] != '\0' && p.repo[0] != '/');
        must(strstr(p.repo, "//") == NULL && strcmp(p.repo, "..") != 0);
        must(strstr(p.repo, "/../") == NULL && strncmp(p.repo, "../", 3) != 0);
        must(p.repo[strlen(p.repo) - 1] != '/' && strchr(p.upstream, '@') == NULL);
        check_clean(p.wire_repo);
        check_clean(p.wire_rest);
        check_again(&p);
        smart_path_clear(&p);
    } else {
        must(err.kind == ERR_INPUT || err.kind == ERR_LIMIT || err.kind == ERR_NOT_FOUND ||
             err.kind == ERR_REFUSED);
    }
    free(target);
    return 0;
}
