/* Credentials of pannier's own: what it shows to an upstream in place of the client's.
 *
 *     credentials_get(all, &use, now, &authorization, &err)
 *     ... ask upstream ...
 *     credentials_accepted() or, after a 401, credentials_refused(); a get after that is a new one
 *
 * Where they come from is the upstream's `auth` (one file each beside this one): a file, a
 * credential helper of git's, a GitHub App, a netrc file.  What was got is kept until it ends or
 * its file changes, which is looked at no more than once a second; one thread gets a newer one, and
 * the others go on with the old one while it is good.  A failure is kept for some seconds, so that
 * a source that fails isn't asked for each request.
 *
 * Nothing of them goes anywhere but into the header, or to the helper that gave them.  now is in
 * seconds since 1970.  Worker threads only: these block. */
#ifndef PANNIER_PROXY_CREDENTIALS_CREDENTIALS_H
#define PANNIER_PROXY_CREDENTIALS_CREDENTIALS_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/process.h"
#include "proxy/config.h"

struct origins;
struct credentials;

/* Both are borrowed. */
struct credentials *credentials_new(struct processes *processes, struct origins *origins);
void credentials_free(struct credentials **all);

/* What one is wanted for.  Borrowed. */
struct credential_use {
    const struct upstream_config *upstream; /* its auth is not AUTH_PASSTHROUGH */
    const char *base_url;
    const char *repo; /* canonical path */
    bool push;
};

/* 0: *authorization is the header's value, yours to wipe and free.  -1: ERR_NOT_FOUND, there is
 * none for this repository; ERR_UPSTREAM and others: not to be had now.  The sentence says why, and
 * holds no secret. */
int credentials_get(struct credentials *all, const struct credential_use *use, int64_t now,
                    char **authorization, struct err *err);

/* Upstream has let us in with it. */
void credentials_accepted(struct credentials *all, const struct credential_use *use,
                          const char *authorization);
/* Upstream has said 401 to it.  The same one isn't given out again for some seconds. */
void credentials_refused(struct credentials *all, const struct credential_use *use, int64_t now,
                         const char *authorization);

void credentials_wipe(char **text); /* and free; NULL inside is fine */

#endif
