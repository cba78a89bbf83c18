/* What a person calls a repository, in the configuration or on a command line, and what may stand
 * with it. */
#ifndef PANNIER_PROXY_WARM_NAME_H
#define PANNIER_PROXY_WARM_NAME_H

#include "proxy/config.h"

enum {
    WARMUP_BRANCHES_MAX = 16, /* of one repository; each costs two answers */
    WARMUP_BRANCH_MAX = 244,  /* git's own: a file's name, with what it puts around it */
    WARMUP_DEPTH_MAX = 1000000,
    WARMUP_DEPTH_DEFAULT = 1,
};

/* The repository that a person means by what was typed: "<upstream>/<path>", with or without
 * "https://" in front and ".git" behind, or its URL at the upstream.  0: *out is yours.  -1:
 * ERR_INPUT, this is none; ERR_REFUSED, its host is not among the upstreams. */
int warmup_name(const struct config *config, const char *typed, char **out, struct err *err);

#endif
