/* Signature V4, as S3 endpoints want it: who sends this request, and that nobody changed it.
 *
 *     struct s3_signer signer;
 *     s3_signer_init(&signer, &credentials, "us-east-1", "s3", now);
 *     char *target = s3_target(&request);                        what to send behind the host
 *     char *value = s3_authorization(&signer, &request);         the Authorization header
 *
 * A signer is good for the second that it was made for; making one costs some microseconds.  The
 * target is written here, too, as what is sent must be, byte for byte, what was signed.
 *
 * Pure: the time is an argument.  What is returned is the caller's to free. */
#ifndef PANNIER_PROTOCOL_S3_SIGN_H
#define PANNIER_PROTOCOL_S3_SIGN_H

#include <stdint.h>

#include "protocol/digest.h"

enum {
    S3_TIME_SIZE = sizeof("20130524T000000Z"),
    S3_PRESIGNED_MAX_S = 7 * 24 * 3600, /* endpoints refuse URLs that live longer */
};

#define S3_UNSIGNED_PAYLOAD "UNSIGNED-PAYLOAD"

struct s3_keys {
    const char *access_key;
    const char *secret_key;
    const char *session_token; /* NULL: none */
};

struct s3_field {
    const char *name; /* of a header: lower case */
    const char *value;
};

/* A request, nothing in it escaped yet. */
struct s3_request {
    const char *method;
    const char *host; /* as the Host header says it: with the port when it isn't the usual one */
    const char *path; /* "/", or "/bucket/key" */
    const struct s3_field *query;
    size_t query_count;
    /* All that are to be signed, besides host, x-amz-date, x-amz-content-sha256 and
     * x-amz-security-token, which are signed always and which the caller sends as he signs. */
    const struct s3_field *headers;
    size_t header_count;
    /* SHA-256 of the body in lower-case hex, or S3_UNSIGNED_PAYLOAD. */
    const char *payload_hash;
};

struct s3_signer {
    struct s3_keys keys; /* borrowed */
    const char *region, *service;
    char time[S3_TIME_SIZE]; /* the x-amz-date header */
    struct key key;          /* of that day, region and service */
};

/* now: seconds since 1970.  The strings must outlive the signer. */
void s3_signer_init(struct s3_signer *s, const struct s3_keys *keys, const char *region,
                    const char *service, int64_t now);

/* Path and query, escaped. */
char *s3_target(const struct s3_request *r);

char *s3_authorization(const struct s3_signer *s, const struct s3_request *r);

/* The target of a request that whoever holds it may send, until expires_s from now on.  Its payload
 * is not signed (payload_hash is not looked at); headers of r must be sent with it. */
char *s3_presigned(const struct s3_signer *s, const struct s3_request *r, uint32_t expires_s);

#endif
