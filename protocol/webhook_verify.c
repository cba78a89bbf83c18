/* Whose webhook is it, and is it signed? */
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"
#include "protocol/base64.h"
#include "protocol/bytes.h"
#include "protocol/digest.h"
#include "protocol/webhook.h"

static const char *const names[WEBHOOK_HEADERS_COUNT] = {
    [WEBHOOK_EVENT_KEY] = "X-Event-Key",
    [WEBHOOK_FORGEJO_EVENT] = "X-Forgejo-Event",
    [WEBHOOK_FORGEJO_SIGNATURE] = "X-Forgejo-Signature",
    [WEBHOOK_GITEA_EVENT] = "X-Gitea-Event",
    [WEBHOOK_GITEA_SIGNATURE] = "X-Gitea-Signature",
    [WEBHOOK_GITHUB_EVENT] = "X-GitHub-Event",
    [WEBHOOK_GITLAB_EVENT] = "X-Gitlab-Event",
    [WEBHOOK_GITLAB_TOKEN] = "X-Gitlab-Token",
    [WEBHOOK_HUB_SIGNATURE] = "X-Hub-Signature",
    [WEBHOOK_HUB_SIGNATURE_256] = "X-Hub-Signature-256",
    [WEBHOOK_STANDARD_ID] = "webhook-id",
    [WEBHOOK_STANDARD_SIGNATURE] = "webhook-signature",
    [WEBHOOK_STANDARD_TIMESTAMP] = "webhook-timestamp",
};

const char *webhook_header_name(enum webhook_header header)
{
    must((size_t)header < ARRAY_LEN(names));
    return names[header];
}

const char *webhook_forge_name(enum webhook_forge forge)
{
    static const char *const forges[] = {[FORGE_AUTO] = "auto",
                                         [FORGE_GITHUB] = "github",
                                         [FORGE_GITLAB] = "gitlab",
                                         [FORGE_GITEA] = "gitea",
                                         [FORGE_BITBUCKET] = "bitbucket"};

    must((size_t)forge < ARRAY_LEN(forges));
    return forges[forge];
}

enum webhook_forge webhook_forge_of(const struct webhook_headers *headers)
{
    /* Gitea and Forgejo send GitHub's as well, so theirs come first. */
    static const struct {
        enum webhook_header header;
        enum webhook_forge forge;
    } signs[] = {
        {WEBHOOK_GITEA_EVENT, FORGE_GITEA},   {WEBHOOK_FORGEJO_EVENT, FORGE_GITEA},
        {WEBHOOK_GITLAB_EVENT, FORGE_GITLAB}, {WEBHOOK_EVENT_KEY, FORGE_BITBUCKET},
        {WEBHOOK_GITHUB_EVENT, FORGE_GITHUB},
    };

    for (size_t i = 0; i < ARRAY_LEN(signs); i++)
        if (headers->values[signs[i].header] != NULL)
            return signs[i].forge;
    return FORGE_AUTO;
}

/* Signatures of the body alone, in hex. */
static const struct {
    enum webhook_forge forge;
    enum webhook_header header;
    const char *prefix;
} signatures[] = {
    {FORGE_GITHUB, WEBHOOK_HUB_SIGNATURE_256, "sha256="},
    {FORGE_GITEA, WEBHOOK_GITEA_SIGNATURE, ""},
    {FORGE_GITEA, WEBHOOK_FORGEJO_SIGNATURE, ""},
    {FORGE_GITEA, WEBHOOK_HUB_SIGNATURE_256, "sha256="},
    {FORGE_BITBUCKET, WEBHOOK_HUB_SIGNATURE, "sha256="},
};

struct hook {
    enum webhook_forge forge;
    const struct webhook_headers *headers;
    const void *body;
    size_t len;
};

static bool is_signed(const struct hook *h)
{
    if (h->forge == FORGE_GITLAB)
        return h->headers->values[WEBHOOK_GITLAB_TOKEN] != NULL ||
               h->headers->values[WEBHOOK_STANDARD_SIGNATURE] != NULL;
    for (size_t i = 0; i < ARRAY_LEN(signatures); i++)
        if (signatures[i].forge == h->forge && h->headers->values[signatures[i].header] != NULL)
            return true;
    return false;
}

static bool body_fits(const struct hook *h, const char *secret)
{
    struct key right, shown;

    key_hmac_text(secret, h->body, h->len, &right);
    for (size_t i = 0; i < ARRAY_LEN(signatures); i++) {
        const char *value = h->headers->values[signatures[i].header];
        size_t skip = strlen(signatures[i].prefix);

        if (signatures[i].forge == h->forge && value != NULL &&
            strncmp(value, signatures[i].prefix, skip) == 0 && key_from_hex(value + skip, &shown) &&
            key_equal(&shown, &right))
            return true;
    }
    return false;
}

/* Digests are compared, as the time that takes says nothing of the texts. */
static bool token_fits(const struct hook *h, const char *secret)
{
    const char *token = h->headers->values[WEBHOOK_GITLAB_TOKEN];
    struct key right, shown;

    if (token == NULL)
        return false;
    key_of(secret, strlen(secret), &right);
    key_of(token, strlen(token), &shown);
    return key_equal(&shown, &right);
}

/* "v1,<base64>" */
static bool is_signature(const char *text, size_t text_len, const struct key *right)
{
    char *copy = xstrndup(text, text_len), *raw = NULL;
    struct key shown;
    size_t len = 0;
    bool fits = false;

    if (strncmp(copy, "v1,", 3) == 0)
        raw = base64_decode(copy + 3, &len);
    if (raw != NULL && len == sizeof(shown.raw)) {
        memcpy(shown.raw, raw, len);
        fits = key_equal(&shown, right);
    }
    free(raw);
    free(copy);
    return fits;
}

/* By Standard Webhooks: there may be several, with blanks between them. */
static bool standard_fits(const struct hook *h, const char *secret)
{
    const char *const *values = h->headers->values;
    const char *shown = values[WEBHOOK_STANDARD_SIGNATURE];
    struct bytes content;
    struct key right;
    size_t key_len;
    char *key;
    bool fits = false;

    if (shown == NULL || values[WEBHOOK_STANDARD_ID] == NULL ||
        values[WEBHOOK_STANDARD_TIMESTAMP] == NULL || strncmp(secret, "whsec_", 6) != 0)
        return false;
    key = base64_decode(secret + 6, &key_len);
    if (key == NULL || key_len == 0) { /* an empty one everybody has */
        free(key);
        return false;
    }
    bytes_init(&content, SIZE_MAX / 2);
    bytes_addf(&content, "%s.%s.", values[WEBHOOK_STANDARD_ID], values[WEBHOOK_STANDARD_TIMESTAMP]);
    bytes_add(&content, h->body, h->len);
    key_hmac_bytes(key, key_len, content.data, content.len, &right);
    bytes_clear(&content);
    explicit_bzero(key, key_len);
    free(key);
    while (*shown != '\0' && !fits) {
        size_t len = strcspn(shown, " ");

        fits = is_signature(shown, len, &right);
        shown += len + (shown[len] == ' ');
    }
    return fits;
}

static bool secret_fits(const struct hook *h, const char *secret)
{
    if (h->forge == FORGE_GITLAB)
        return standard_fits(h, secret) || token_fits(h, secret);
    return body_fits(h, secret);
}

int webhook_verify(enum webhook_forge forge, const struct webhook_headers *headers,
                   const void *body, size_t len, const char *secrets, struct err *err)
{
    const struct hook h = {forge, headers, body, len};
    static const char blanks[] = " \t\r";
    bool fits = false;
    size_t count = 0;

    for (const char *p = secrets; *p != '\0';) {
        size_t size = strcspn(p, "\n"), start = strspn(p, blanks), end = size;

        while (end > start && strchr(blanks, p[end - 1]) != NULL)
            end--;
        if (end > start) {
            char *secret = xstrndup(p + start, end - start);

            fits = secret_fits(&h, secret) || fits;
            count++;
            explicit_bzero(secret, end - start);
            free(secret);
        }
        p += size + (p[size] == '\n');
    }
    if (count == 0)
        return err_set(err, ERR_INPUT, "there is no secret");
    if (!is_signed(&h))
        return err_set(err, ERR_DENIED, "it isn't signed as %s does that",
                       webhook_forge_name(forge));
    return fits ? 0 : err_set(err, ERR_DENIED, "it is signed with another secret");
}

bool webhook_is_unsigned_ping(enum webhook_forge forge, const struct webhook_headers *headers)
{
    const char *event = headers->values[WEBHOOK_EVENT_KEY];

    return forge == FORGE_BITBUCKET && headers->values[WEBHOOK_HUB_SIGNATURE] == NULL &&
           event != NULL && strcmp(event, "diagnostics:ping") == 0;
}
