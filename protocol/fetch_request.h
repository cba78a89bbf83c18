/* The body of POST git-upload-pack, understood: which question is this?
 * Sources: git's gitprotocol-v2.txt ("fetch"), gitprotocol-pack.txt and
 * gitprotocol-capabilities.txt; for what clients send in fact, fetch-pack.c.
 *
 * Equal questions have equal keys, whoever asks: fetch_request_write() makes one canonical body
 * of every way to ask the same, and the key is a digest of the repository's id and that body.
 * The producer runs *from* the canonical body, so that the bytes of the answer fit the key.
 *
 * Left out of the canonical form: agent, session-id, the order and duplicates of wants and
 * haves, and progress (the canonical question always says no-progress where a sideband is
 * open).  Kept: all that changes bytes. */
#ifndef PANNIER_PROTOCOL_FETCH_REQUEST_H
#define PANNIER_PROTOCOL_FETCH_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/bytes.h"
#include "protocol/err.h"
#include "protocol/oid.h"
#include "protocol/sideband.h"

enum upload_pack_command {
    COMMAND_PROBE,   /* the whole body is 0000: the client only tests access */
    COMMAND_LS_REFS, /* v2 */
    COMMAND_FETCH,   /* v2 command=fetch, or any v0/v1 request */
    COMMAND_OTHER,   /* a v2 command that this parser does not know: forward, keep nothing */
};

enum multi_ack { MULTI_ACK_NONE = 0, MULTI_ACK_PLAIN, MULTI_ACK_DETAILED };

struct fetch_request {
    int version; /* 0 or 2; v1 bodies are v0 bodies */
    enum upload_pack_command command;
    enum hash_algo algo;
    bool algo_named; /* object-format stood in the request */

    struct oid_list wants, haves, shallow; /* sorted sets */
    uint32_t depth;                        /* 0: no deepen line */
    bool deepen_relative;
    int64_t deepen_since; /* 0: none */
    char **deepen_not;    /* ref names, sorted; deepen_not_count of them */
    size_t deepen_not_count;
    char *filter; /* NULL: none; as typed */

    bool thin_pack, ofs_delta, include_tag, done;
    bool no_progress;         /* what this client asked for; not part of the key */
    bool wait_for_done;       /* v2 */
    enum sideband sideband;   /* v2: always SIDEBAND_64K */
    enum multi_ack multi_ack; /* v0 only */
    bool no_done;             /* v0 capability */

    /* A capability or argument that the parser does not know was there, or one whose answer
     * depends on more than the request (a sparse filter that names a branch; in v0 a flush
     * between haves, each of which gets a NAK of its own): forward the body as it came, keep
     * nothing, share nothing.  Also true for COMMAND_OTHER. */
    bool unknown;

    /* COMMAND_LS_REFS: canonical arguments. */
    bool ls_symrefs, ls_peel, ls_unborn;
    char **ls_prefixes; /* as they came, in order, duplicates dropped */
    size_t ls_prefix_count;
};

enum {
    FETCH_LINES_MAX = 1000000, /* wants + haves + shallow of one request; more is ERR_LIMIT */
};

/* version is git_protocol_version() of the request's header; body is inflated already.
 * 0: *req is filled, clear it.  -1 (nothing to clear): ERR_INPUT for what is not pkt-lines or
 * breaks the grammar (a want that is no oid, a fetch without wants, two filters, bytes behind
 * the end), ERR_LIMIT for too many lines. */
int fetch_request_parse(int version, const void *body, size_t len, struct fetch_request *req,
                        struct err *err);
void fetch_request_clear(struct fetch_request *req);

/* A copy of a request that can be written (see fetch_request_write()); to is uninitialised. */
void fetch_request_copy(const struct fetch_request *from, struct fetch_request *to);

/* True when equal requests get equal answers, so that one may be kept: a fetch with wants and
 * `done`, and nothing unknown.  Negotiation rounds depend on the server's state, and deepen-not
 * on what the ref that it names is that day. */
bool fetch_request_keepable(const struct fetch_request *req);

/* True when the answer is closed under reachability, so that a mirror can start from it: no
 * haves, shallow lines, depth or filter. */
bool fetch_request_is_closed(const struct fetch_request *req);

/* True for depth, deepen-since, deepen-not or shallow lines: the response then has shallow
 * information before the pack. */
bool fetch_request_is_shallow(const struct fetch_request *req);

/* Append the canonical body.  Only for COMMAND_LS_REFS and COMMAND_FETCH without unknown. */
void fetch_request_write(const struct fetch_request *req, struct bytes *out);

/* Digest of repo_id, protocol version, and the canonical body. */
void fetch_request_key(const struct fetch_request *req, const struct key *repo_id, struct key *out);

#endif
