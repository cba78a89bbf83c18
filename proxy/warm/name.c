#include "proxy/warm/name.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cache/entry.h"
#include "protocol/base.h"
#include "protocol/smart_http.h"

/* A person's words as clients write them behind pannier's address; yours. */
static char *as_clients_write(const struct config *config, const char *typed)
{
    for (size_t i = 0; i < config->upstream_count; i++) {
        const struct upstream_config *u = &config->upstreams[i];
        size_t len = strlen(u->url);

        if (strncmp(typed, u->url, len) == 0 && typed[len] == '/' && strchr(u->name, '*') == NULL)
            return xasprintf("%s%s", u->name, typed + len);
    }
    if (strncasecmp(typed, "https://", 8) == 0)
        typed += 8;
    else if (strncasecmp(typed, "http://", 7) == 0)
        typed += 7;
    return xstrdup(typed);
}

int warmup_name(const struct config *config, const char *typed, char **out, struct err *err)
{
    char *words = as_clients_write(config, typed), *target, *base_url = NULL;
    const char *slash = strchr(words, '/');
    struct smart_path path;
    int rc;

    target = xasprintf("/%s/info/refs?service=git-upload-pack", words);
    rc = slash == NULL || slash == words ? -1 : smart_path_parse(target, &path, err);
    free(target);
    free(words);
    if (rc != 0)
        return err_set(err, ERR_INPUT,
                       "is no repository; write <upstream>/<path>, such as github.com/acme/widget");
    if (config_find_upstream(config, path.upstream, &base_url) == NULL)
        rc = err_set(err, ERR_REFUSED, "has a host that is not among the configured upstreams");
    else if (!entry_can_name(path.repo))
        rc = err_set(err, ERR_INPUT, "has a name that is not UTF-8, of which nothing is kept");
    else
        *out = xasprintf("%s/%s", path.upstream, path.repo);
    free(base_url);
    smart_path_clear(&path);
    return rc;
}
