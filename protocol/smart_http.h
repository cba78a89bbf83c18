/* Smart-HTTP's paths, headers and content types.  Source: git's gitprotocol-http.txt.
 *
 * A request target reads /<upstream>/<path of the repository>[.git]/<service>.  The parser
 * takes it as it stands on the request line, percent-escapes and query included, so that no
 * escape can mean one thing here and another upstream. */
#ifndef PANNIER_PROTOCOL_SMART_HTTP_H
#define PANNIER_PROTOCOL_SMART_HTTP_H

#include <stdbool.h>

#include "protocol/digest.h"
#include "protocol/err.h"

enum service {
    SERVICE_UPLOAD_PACK_REFS,  /* GET <repo>/info/refs?service=git-upload-pack */
    SERVICE_UPLOAD_PACK,       /* POST <repo>/git-upload-pack */
    SERVICE_RECEIVE_PACK_REFS, /* GET <repo>/info/refs?service=git-receive-pack */
    SERVICE_RECEIVE_PACK,      /* POST <repo>/git-receive-pack */
    SERVICE_LFS,               /* <repo>/info/lfs/..., any method */
    SERVICE_DUMB,              /* GET <repo>/HEAD, /info/refs without a service, /objects/... */
};
/* "upload-pack-refs", "upload-pack", ...: one word each, for logs.  Static storage. */
const char *service_name(enum service s);

enum {
    TARGET_MAX = 4096, /* a longer request target is refused with ERR_LIMIT */
    QUERY_MAX = 2048,
};

struct smart_path {
    enum service service;
    char *upstream;  /* first segment as typed, decoded: a configured name, perhaps host:port */
    char *repo;      /* path of the repository in canonical form: decoded, no leading, trailing
                      * or doubled slash, no ".git" at the end; nested groups kept whole */
    char *wire_repo; /* the same path as it is sent upstream: canonically escaped, ".git" kept
                      * as typed */
    char *wire_rest; /* what follows the repository, canonically escaped, no leading slash,
                      * with the query: "info/refs?service=git-upload-pack".  Other parameters
                      * go upstream with LFS calls only */
};

/* 0: *out is filled, clear it with smart_path_clear().  -1, and nothing to clear:
 *   ERR_INPUT      "." or ".." segments (escaped ones too), escaped slashes or backslashes, NUL or
 *                  control bytes, broken escapes, user information ('@' in the upstream's
 *                  segment), an empty repository path
 *   ERR_LIMIT      longer than TARGET_MAX
 *   ERR_NOT_FOUND  well-formed and not a git URL
 *   ERR_REFUSED    info/refs with a service that is neither upload-pack nor receive-pack
 * The sentence never repeats the target (it may hold a password). */
int smart_path_parse(const char *target, struct smart_path *out, struct err *err);
void smart_path_clear(struct smart_path *p);

/* The repository's id: SHA-256 over the upstream's name, a NUL and the canonical path. */
void repo_id_of(const char *upstream, const char *repo, struct key *out);

/* 0, 1 or 2 from a Git-Protocol header's value (colon-separated fields, "version=N" may stand
 * anywhere); NULL or nonsense means 0, a version above 2 means 2. */
int git_protocol_version(const char *header);

/* "application/x-git-upload-pack-advertisement" and its kin.  Static storage.  service must be
 * one of the four upload-pack / receive-pack values. */
const char *content_type_response(enum service s);
const char *content_type_request(enum service s); /* for the two POSTs only */

#endif
