/* The S3 server that PANNIER_TEST_S3 names, for unit tests that run against a real one.  It holds
 * words:
 *
 *     PANNIER_TEST_S3="endpoint=http://127.0.0.1:7480 bucket=b access_key=A secret_key=S"
 *     and as needed    prefix=P region=R ca_file=F session_token=T virtual_host=yes
 *
 * The bucket must exist.  Every test keeps to a prefix of its own. */
#ifndef PANNIER_TESTS_UNIT_S3_WORDS_H
#define PANNIER_TESTS_UNIT_S3_WORDS_H

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "cache/shared/object_store.h"
#include "protocol/base.h"

static inline void s3_words_set(struct object_store_config *config, const char *name,
                                const char *value)
{
    static const struct word {
        const char *name;
        size_t at;
    } words[] = {
        {"endpoint", offsetof(struct object_store_config, endpoint)},
        {"bucket", offsetof(struct object_store_config, bucket)},
        {"prefix", offsetof(struct object_store_config, prefix)},
        {"region", offsetof(struct object_store_config, region)},
        {"ca_file", offsetof(struct object_store_config, ca_file)},
        {"access_key", offsetof(struct object_store_config, access_key)},
        {"secret_key", offsetof(struct object_store_config, secret_key)},
        {"session_token", offsetof(struct object_store_config, session_token)},
    };

    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strcmp(words[i].name, name) == 0) {
            *(const char **)((char *)config + words[i].at) = value;
            return;
        }
    }
    if (strcmp(name, "virtual_host") == 0)
        config->virtual_host = strcmp(value, "yes") == 0;
    else
        fail_msg("PANNIER_TEST_S3 has a word that is unknown: %s", name);
}

/* False: there is none.  *words is yours to free, after the last use of config. */
static inline bool s3_words_read(struct object_store_config *config, char **words)
{
    char *rest = NULL;

    *words = NULL;
    if (getenv("PANNIER_TEST_S3") == NULL)
        return false;
    *words = xstrdup(getenv("PANNIER_TEST_S3"));
    for (char *w = strtok_r(*words, " ", &rest); w != NULL; w = strtok_r(NULL, " ", &rest)) {
        char *equals = strchr(w, '=');

        assert_non_null(equals);
        *equals = '\0';
        s3_words_set(config, w, equals + 1);
    }
    return true;
}

/* A prefix that nobody else has, below the one that is set; yours to free. */
static inline char *s3_words_own_prefix(const struct object_store_config *config)
{
    unsigned long long own;

    assert_int_equal(getrandom(&own, sizeof(own), 0), sizeof(own));
    return xasprintf("%sunit-%016llx/", config->prefix != NULL ? config->prefix : "", own);
}

#endif
