/* What the kinds of credentials and the table of those that were got share. */
#ifndef PANNIER_PROXY_CREDENTIALS_INTERNAL_H
#define PANNIER_PROXY_CREDENTIALS_INTERNAL_H

#include "protocol/bytes.h"
#include "proxy/credentials/credentials.h"
#include "proxy/credentials/secret.h"

/* Bytes of a token, a user name, a password, an answer of a helper. */
enum { SECRET_MAX = 16 * 1024 };

struct credential {
    char *username, *password; /* neither holds a control character, the former no ':' */
    int64_t expires;           /* 0: not known */
};
void credential_clear(struct credential *c);
/* ERR_INPUT when it can't go into a header. */
int credential_check(const struct credential *c, struct err *err);

/* What a kind may use. */
struct credential_tools {
    struct processes *processes;
    struct origins *origins;
};

struct credential_kind {
    /* *out is filled as far as it came: clear it in any case. */
    int (*get)(const struct credential_tools *tools, const struct credential_use *use, int64_t now,
               struct credential *out, struct err *err);
    /* What upstream thought of it; either may be NULL. */
    void (*accepted)(const struct credential_tools *tools, const struct credential_use *use,
                     const struct credential *c);
    void (*refused)(const struct credential_tools *tools, const struct credential_use *use,
                    const struct credential *c);
    /* A file that makes another credential when it changes; may be NULL. */
    const char *(*file)(const struct upstream_config *u);
    bool by_owner;   /* one for each owner of repositories, and for pushing another */
    int64_t early_s; /* how long before it ends the next one is got */
    int64_t keep_s;  /* how long it is kept when no end is known; 0: until its file changes */
};

extern const struct credential_kind credential_token, credential_helper, credential_github_app,
    credential_netrc;

/* Where the host stands in a base URL, with its port: yours to free. */
char *host_of(const char *base_url);

#endif
