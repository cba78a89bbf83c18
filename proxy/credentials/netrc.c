/* `auth: netrc`: the entry for the upstream's host in a netrc file. */
#include "protocol/netrc.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/credentials/internal.h"

static int get(const struct credential_tools *tools, const struct credential_use *use, int64_t now,
               struct credential *out, struct err *err)
{
    const struct upstream_config *u = use->upstream;
    struct bytes text;
    char *host, *colon;
    int rc;

    (void)tools;
    (void)now;
    if (secret_file_read(u->netrc_file, "netrc_file", &text, err) != 0)
        return -1;
    /* Entries know no ports; an IPv6 address in brackets has colons of its own. */
    host = host_of(use->base_url);
    colon = host[0] == '[' ? strstr(host, "]:") : strchr(host, ':');
    if (colon != NULL)
        colon[host[0] == '['] = '\0';
    rc = netrc_find(text.data != NULL ? text.data : "", text.len, host, u->username, &out->username,
                    &out->password, err);
    if (rc == 0)
        rc = credential_check(out, err);
    free(host);
    secret_bytes_clear(&text);
    return rc == 0 ? 0 : err_prefix(err, "its netrc_file");
}

static const char *file(const struct upstream_config *u)
{
    return u->netrc_file;
}

const struct credential_kind credential_netrc = {.get = get, .file = file};
