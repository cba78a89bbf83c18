/* What git and its credential helpers say to each other (gitcredentials(7), git-credential(1)):
 * lines of key=value, an empty one at the end. */
#ifndef PANNIER_PROTOCOL_GIT_CREDENTIAL_H
#define PANNIER_PROTOCOL_GIT_CREDENTIAL_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/bytes.h"
#include "protocol/err.h"

struct git_credential {
    char *protocol, *host, *username, *password; /* or NULL; no newline and no NUL in any */
    int64_t expires;                             /* seconds since 1970; 0: not said */
};
/* Wiped, too. */
void git_credential_clear(struct git_credential *c);

/* Append it, with the empty line.  Its texts hold no newline: must(). */
void git_credential_write(const struct git_credential *c, struct bytes *out);

/* What a helper answered to `get`.  username, when not NULL, is the one that it was asked for and
 * need not repeat.  0: *out has a user name and a password, clear it.  -1: ERR_INPUT, these are no
 * such lines; ERR_NOT_FOUND, it knows none (`quit` included).  The sentence holds nothing of them.
 */
int git_credential_parse(const char *text, size_t len, const char *username,
                         struct git_credential *out, struct err *err);

#endif
