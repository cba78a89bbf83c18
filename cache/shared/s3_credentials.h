/* Keys for an S3 endpoint, from where there are some; the first of
 *
 *     the configuration
 *     a file        of the form of ~/.aws/credentials, profile AWS_PROFILE or "default"
 *     environment   AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN
 *     web identity  AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN, changed for keys at STS
 *     the machine   its instance's metadata service (IMDSv2)
 *
 * Those that expire are fetched anew before they do, by one thread while others go on with the old
 * ones; a file is read again every minute.  Any worker thread; may block on the network. */
#ifndef PANNIER_CACHE_SHARED_S3_CREDENTIALS_H
#define PANNIER_CACHE_SHARED_S3_CREDENTIALS_H

#include <stdbool.h>

#include "cache/shared/object_store.h"
#include "cache/shared/s3_http.h"
#include "protocol/s3_sign.h"

struct s3_credentials;

/* http is borrowed, and lives longer.  -1: ERR_INPUT, a file that is named can't be used. */
int s3_credentials_open(const struct object_store_config *config, struct s3_http *http,
                        struct s3_credentials **out, struct err *err);
void s3_credentials_free(struct s3_credentials **c);

/* The keys in force; yours: s3_keys_clear().  -1: ERR_DENIED, there are none. */
int s3_credentials_get(struct s3_credentials *c, struct s3_keys *out, struct err *err);
void s3_keys_clear(struct s3_keys *keys);

/* The endpoint says that they have expired.  False: there is no hope of others. */
bool s3_credentials_distrust(struct s3_credentials *c);

#endif
