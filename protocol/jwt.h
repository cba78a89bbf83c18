/* A JSON Web Token that says "I am this app, now", signed with the app's key (RS256).  One of the
 * two homes of OpenSSL, beside protocol/digest.h.
 *
 * Pure: the times are arguments. */
#ifndef PANNIER_PROTOCOL_JWT_H
#define PANNIER_PROTOCOL_JWT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"

struct jwt_claims {
    const char *issuer;      /* jwt_issuer_ok() */
    int64_t issued, expires; /* seconds since 1970 */
};

/* Letters, digits, '.', '-' and '_': it goes into JSON as it is. */
bool jwt_issuer_ok(const char *issuer);

/* pem: an RSA key of 2048 bits or more, without a password, len bytes.  0: *out is the token, yours
 * to wipe and free.  -1: ERR_INPUT; the sentence holds nothing of the key. */
int jwt_sign(const char *pem, size_t len, const struct jwt_claims *claims, char **out,
             struct err *err);

#endif
