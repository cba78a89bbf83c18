/* Nodes among themselves: an answer that one makes, or has, is followed by the others as it grows.
 *
 *     GET /peer/answers/<key>              the body; X-Pannier-Note-Offset where it is known
 *     GET /peer/answers/<key>/after/<id>   the same, of who has applied the event with this id
 *     GET /peer/answers/<key>/sums         "<SHA-256> <XXH3>" of the body, in hex, once it is whole
 *                                          and kept
 *     X-Pannier-Answer                     in all responses: which body; there may be another one
 *                                          under this key by the time that the sums are asked for
 *     Authorization: Pannier <until>.<mac>
 *
 * on the listener of `cluster.listen`.  <until> is seconds since 1970, at most PEER_VALID_S from
 * now, <mac> the HMAC-SHA-256 of method, target and <until> under the nodes' secret.  Whoever asks
 * has had access decided by upstream, as for anything that it serves from its own disk.
 *
 * Who asks names the last invalidation that it knows of, and who hasn't applied that yet refuses
 * (409): so what was invalidated doesn't come back by way of a node that has yet to hear of it.
 *
 * A follower hands on what comes as it comes; only what ends with the XXH3 that the other tells is
 * kept, under the SHA-256 that it tells, and what doesn't is broken off. */
#ifndef PANNIER_PROXY_PEER_H
#define PANNIER_PROXY_PEER_H

#include "protocol/checksum.h"
#include "protocol/digest.h"
#include "proxy/server.h"

enum { PEER_VALID_S = 60 }; /* clocks may differ by so much */

struct peers;

/* What is needed to follow and to be followed.  *out is NULL where cluster.secret_file is not set.
 * -1: ERR_INPUT, the file can't be read or holds nothing. */
int peers_new(const struct config *c, struct peers **out, struct err *err);
void peers_free(struct peers **p);

/* HTTP threads; a plan_fn for the listener of other nodes. */
struct plan peer_plan(struct exchange *x);

struct peer_sink {
    /* Once, before the first byte.  -1 for either: not known.  size: of the body; no more and no
     * less comes, or peer_follow() fails. */
    int (*begin)(void *ctx, int64_t note_offset, int64_t size, struct err *err);
    int (*data)(void *ctx, const void *data, size_t len, struct err *err);
    void *ctx;
};
/* Of a body. */
struct peer_sums {
    uint8_t sha256[SHA256_SIZE];
    uint8_t checksum[CHECKSUM_SIZE];
};
/* Follow key's answer at address ("host:port") to its end.  0: data() has had all of it, and *sums
 * are what they must be; *kept false: the other doesn't keep it, or can't tell.
 * -1: ERR_NOT_FOUND, it is not there (any more); ERR_CONFLICT, the other has yet to hear of an
 * invalidation; ERR_UPSTREAM, ERR_TIMEOUT, ERR_DENIED (another
 * secret, or a clock that is off); or what the sink said.  Worker threads: blocks. */
int peer_follow(struct proxy *proxy, const char *address, const struct key *key,
                const struct peer_sink *sink, struct peer_sums *sums, bool *kept, struct err *err);

/* ---- for tests: what is signed, and whether it holds ---- */

enum { PEER_TOKEN_MAX = 128 };
void peer_sign(const char *secret, const char *method, const char *target, int64_t until_s,
               char out[PEER_TOKEN_MAX]);
bool peer_token_holds(const char *secret, const char *method, const char *target, const char *token,
                      int64_t now_s);

#endif
