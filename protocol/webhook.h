/* Webhooks: what git hosts send when somebody has pushed to them.
 *
 *     forge = webhook_forge_of(&headers)          unless the operator says which one it is
 *     webhook_verify(forge, &headers, body, len, secrets, &err)    before anything is believed
 *     webhook_parse(forge, &headers, body, len, base_url, &hook, &err)
 *     webhook_clear(&hook)
 *
 * How each of them signs, and says what was pushed:
 *
 *     GitHub      X-Hub-Signature-256: sha256=<hex>; push, create, delete
 *     GitLab      X-Gitlab-Token: the secret itself; or, newer, webhook-signature: v1,<base64> of
 *                 "<webhook-id>.<webhook-timestamp>.<body>" as Standard Webhooks have it, under
 *                 whsec_<base64>; Push Hook, Tag Push Hook, and of a System Hook the like
 *     Gitea,      X-Gitea-Signature or X-Forgejo-Signature: <hex>, X-Hub-Signature-256 as GitHub;
 *     Forgejo     push, create, delete
 *     Bitbucket   X-Hub-Signature: sha256=<hex>; repo:push (Cloud), repo:refs_changed and
 *                 mirror:repo_synchronized (Data Center)
 *
 * All of them are HMAC-SHA-256 of the body as it was sent.  Nothing here stops who has seen a hook
 * from sending it again: whatever is done upon it has to bear that.
 *
 * Pure.  A home of jansson. */
#ifndef PANNIER_PROTOCOL_WEBHOOK_H
#define PANNIER_PROTOCOL_WEBHOOK_H

#include <stdbool.h>
#include <stddef.h>

#include "protocol/err.h"

enum {
    WEBHOOK_BODY_MAX = 25 << 20, /* GitHub sends none that is larger; others' are far below */
    WEBHOOK_JSON_MAX = 4 << 20,  /* without its commits, which nobody reads: some 10,000 refs */
    WEBHOOK_TEXT_MAX = 4096,     /* of one name or URL; a hook with a longer one is refused */
    WEBHOOK_REFS_MAX = 1000,     /* of one hook; those beyond are left out */
};

/* In the order of the setting's words. */
enum webhook_forge { FORGE_AUTO, FORGE_GITHUB, FORGE_GITLAB, FORGE_GITEA, FORGE_BITBUCKET };
/* "github"; "auto" for none.  Static storage. */
const char *webhook_forge_name(enum webhook_forge forge);

/* The headers that matter. */
enum webhook_header {
    WEBHOOK_EVENT_KEY,
    WEBHOOK_FORGEJO_EVENT,
    WEBHOOK_FORGEJO_SIGNATURE,
    WEBHOOK_GITEA_EVENT,
    WEBHOOK_GITEA_SIGNATURE,
    WEBHOOK_GITHUB_EVENT,
    WEBHOOK_GITLAB_EVENT,
    WEBHOOK_GITLAB_TOKEN,
    WEBHOOK_HUB_SIGNATURE,
    WEBHOOK_HUB_SIGNATURE_256,
    WEBHOOK_STANDARD_ID,
    WEBHOOK_STANDARD_SIGNATURE,
    WEBHOOK_STANDARD_TIMESTAMP,
    WEBHOOK_HEADERS_COUNT
};
/* As it stands in a request.  Static storage. */
const char *webhook_header_name(enum webhook_header header);
struct webhook_headers {
    const char *values[WEBHOOK_HEADERS_COUNT]; /* NULL: it isn't there */
};

/* Whose headers are these?  FORGE_AUTO: nobody's. */
enum webhook_forge webhook_forge_of(const struct webhook_headers *headers);

/* secrets: one a line, any of which will do, so that a host and its receiver needn't change theirs
 * in the same moment; blanks around it don't count, and empty lines are none.  Compared in constant
 * time.  -1: ERR_DENIED, it isn't signed with any of them, or at all; ERR_INPUT, there are no
 * secrets. */
int webhook_verify(enum webhook_forge forge, const struct webhook_headers *headers,
                   const void *body, size_t len, const char *secrets, struct err *err);
/* Bitbucket Data Center tries a URL without a signature, and wants to be told that it is there. */
bool webhook_is_unsigned_ping(enum webhook_forge forge, const struct webhook_headers *headers);

struct webhook_ref {
    char *name;           /* "refs/heads/main" */
    char *before, *after; /* object ids in hex; "": it was made, was deleted, or isn't said */
};

enum webhook_kind {
    WEBHOOK_PUSH,  /* refs of repo have changed */
    WEBHOOK_PING,  /* somebody tries whether we are there */
    WEBHOOK_OTHER, /* nothing that changes refs */
};

struct webhook {
    enum webhook_kind kind;
    char *event; /* the host's word for it; "" for none */
    char *repo;  /* WEBHOOK_PUSH: as struct smart_path has it: below base_url, no ".git"; or NULL */
    struct webhook_ref *refs; /* those that are told; perhaps none */
    size_t ref_count;
};

/* base_url: the upstream's.  Where a hook has the repository's URL at the same host, that says
 * where below base_url it is; else (a host that is called otherwise from inside) its path there
 * does.  A body may be JSON, or a form with it in `payload`, as GitHub sends unless it is told
 * otherwise.
 * -1, and nothing to clear: ERR_INPUT, it makes no sense; ERR_LIMIT, it is over WEBHOOK_JSON_MAX;
 * ERR_NOT_FOUND, the repository is not below base_url. */
int webhook_parse(enum webhook_forge forge, const struct webhook_headers *headers, const void *body,
                  size_t len, const char *base_url, struct webhook *out, struct err *err);
void webhook_clear(struct webhook *hook);

#endif
