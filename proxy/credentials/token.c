/* `auth: token`: a file that holds a token and nothing else. */
#include <string.h>

#include "protocol/base.h"
#include "proxy/credentials/internal.h"

/* GitHub and GitLab look at the token only; others need `username`. */
static const char USUAL_NAME[] = "x-access-token";

static int get(const struct credential_tools *tools, const struct credential_use *use, int64_t now,
               struct credential *out, struct err *err)
{
    const struct upstream_config *u = use->upstream;
    struct bytes text;
    size_t start = 0;

    (void)tools;
    (void)now;
    if (secret_file_read(u->token_file, "token_file", &text, err) != 0)
        return -1;
    while (text.len > 0 && strchr(" \t\r\n", text.data[text.len - 1]) != NULL)
        text.len--;
    while (start < text.len && strchr(" \t\r\n", text.data[start]) != NULL)
        start++;
    out->username = xstrdup(u->username != NULL ? u->username : USUAL_NAME);
    out->password = xstrndup(text.len > 0 ? text.data + start : "", text.len - start);
    secret_bytes_clear(&text);
    return credential_check(out, err) == 0 ? 0 : err_prefix(err, "its token_file");
}

static const char *file(const struct upstream_config *u)
{
    return u->token_file;
}

const struct credential_kind credential_token = {.get = get, .file = file};
