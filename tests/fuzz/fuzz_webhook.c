/* A webhook is believed by nobody who has the secret, whatever it is signed with, and what it says
 * is bounded and a repository that could be asked for. */
#include <stdio.h>

#include "tests/fuzz/fuzz.h"

#include "protocol/smart_http.h"
#include "protocol/webhook.h"

static const struct {
    enum webhook_forge forge;
    enum webhook_header event, signature;
    const char *value, *base_url;
} hosts[] = {
    {FORGE_GITHUB, WEBHOOK_GITHUB_EVENT, WEBHOOK_HUB_SIGNATURE_256, "push", "https://h"},
    {FORGE_GITHUB, WEBHOOK_GITHUB_EVENT, WEBHOOK_HUB_SIGNATURE_256, "create", "https://h/a"},
    {FORGE_GITLAB, WEBHOOK_GITLAB_EVENT, WEBHOOK_GITLAB_TOKEN, "Push Hook", "https://h"},
    {FORGE_GITLAB, WEBHOOK_GITLAB_EVENT, WEBHOOK_STANDARD_SIGNATURE, "System Hook", "https://h"},
    {FORGE_GITEA, WEBHOOK_GITEA_EVENT, WEBHOOK_GITEA_SIGNATURE, "push", "http://h:3000/x"},
    {FORGE_BITBUCKET, WEBHOOK_EVENT_KEY, WEBHOOK_HUB_SIGNATURE, "repo:push", "https://h"},
    {FORGE_BITBUCKET, WEBHOOK_EVENT_KEY, WEBHOOK_HUB_SIGNATURE, "repo:refs_changed", "https://h"},
};

static void check_push(const struct webhook *hook)
{
    char *target = xasprintf("/u/%s/HEAD", hook->repo);
    struct smart_path path;
    struct err err;

    must(hook->repo[0] != '\0' && hook->repo[0] != '/' && hook->ref_count <= WEBHOOK_REFS_MAX);
    must(hook->repo[strlen(hook->repo) - 1] != '/');
    for (size_t i = 0; i < hook->ref_count; i++) {
        must(strlen(hook->refs[i].before) <= 64 && strlen(hook->refs[i].after) <= 64);
        must(hook->refs[i].name[0] != '\0');
    }
    /* What needs no escapes reads as a client's. */
    if (strpbrk(hook->repo, "%?#") == NULL && strstr(hook->repo, ".git") == NULL &&
        smart_path_parse(target, &path, &err) == 0) {
        must(path.service != SERVICE_DUMB || strcmp(path.repo, hook->repo) == 0);
        smart_path_clear(&path);
    }
    free(target);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t host = fuzz_choice(&data, &size) % ARRAY_LEN(hosts);
    const uint8_t *line = memchr(data, '\n', size);
    size_t line_len = line != NULL ? (size_t)(line - data) : 0;
    char *signature = xstrndup((const char *)data, line_len);
    char *body = fuzz_copy(data + line_len, size - line_len);
    struct webhook_headers headers = {{NULL}};
    struct webhook hook;
    struct err err;

    headers.values[WEBHOOK_STANDARD_ID] = headers.values[WEBHOOK_STANDARD_TIMESTAMP] = "1";
    headers.values[hosts[host].event] = hosts[host].value;
    headers.values[hosts[host].signature] = signature;
    must(webhook_forge_of(&headers) == hosts[host].forge);
    must(webhook_verify(hosts[host].forge, &headers, body, size - line_len,
                        "by chance: 5c6ac1d9\nwhsec_Ynk6IGNoYW5jZQ==\n", &err) != 0);
    if (webhook_parse(hosts[host].forge, &headers, body, size - line_len, hosts[host].base_url,
                      &hook, &err) == 0) {
        if (hook.kind == WEBHOOK_PUSH)
            check_push(&hook);
        webhook_clear(&hook);
    } else {
        must(err.kind == ERR_INPUT || err.kind == ERR_LIMIT || err.kind == ERR_NOT_FOUND);
    }
    free(body);
    free(signature);
    return 0;
}
