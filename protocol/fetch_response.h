/* Watches the response to one fetch go by: where are the pkt boundaries, has the sideband
 * opened, is there an ERR, and was it whole at the end?
 *
 *     w = fetch_response_new(&shape, pack_fn, ctx)
 *     fetch_response_feed(w, data, len, &err)     any split; hands on nothing itself
 *     fetch_response_finish(w, &err)              0: may be kept
 *
 * The watcher never changes bytes.  A producer appends only whole pkts to an answer (so that
 * a message of ours can be put behind them if upstream breaks off): fetch_response_complete()
 * says how many of the bytes fed so far end on a pkt boundary.
 *
 * Grammar, v2 (gitprotocol-v2.txt, "fetch"): sections "acknowledgments", "shallow-info",
 * "wanted-refs", "packfile-uris", each ended by 0001, then "packfile" and sideband pkts, then
 * 0000; or only acknowledgments, then 0000 (no pack: not an error, and not keepable).
 * v0 (gitprotocol-pack.txt): with depth: shallow/unshallow lines and 0000; then ACK/NAK lines;
 * then sideband pkts up to 0000, or, without a sideband, the bare pack up to the end. */
#ifndef PANNIER_PROTOCOL_FETCH_RESPONSE_H
#define PANNIER_PROTOCOL_FETCH_RESPONSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/err.h"
#include "protocol/fetch_request.h"

struct fetch_response_shape {
    int version; /* 0 or 2 */
    enum hash_algo algo;
    enum sideband sideband;
    bool shallow; /* fetch_request_is_shallow() */
    bool done;    /* the request had `done`: a pack must come */
};

/* Gets the pack's bytes (band 1, or the bare pack) as they pass.  -1 with err filled stops. */
typedef int fetch_response_pack_fn(void *ctx, const void *data, size_t len, struct err *err);

struct fetch_response;

void fetch_response_shape_of(const struct fetch_request *req, struct fetch_response_shape *out);

/* pack_fn may be NULL. */
struct fetch_response *fetch_response_new(const struct fetch_response_shape *shape,
                                          fetch_response_pack_fn *pack_fn, void *ctx);
void fetch_response_free(struct fetch_response *w);

/* Returns 0 as long as the bytes can be a response (an ERR pkt is one).  -1: they are not, and the
 * answer can't become whole (ERR_UPSTREAM); every later call returns -1 too.  An error of pack_fn
 * is returned with its own kind. */
int fetch_response_feed(struct fetch_response *w, const void *data, size_t len, struct err *err);
/* 0: whole, with a pack whose header, count and checksum are right, and the final flush. */
int fetch_response_finish(struct fetch_response *w, struct err *err);

/* How many of all bytes fed end on a pkt boundary (in a bare pack: all of them). */
uint64_t fetch_response_complete(const struct fetch_response *w);
/* Offset in the response at which the first sideband pkt stands, i.e. where a line for the person
 * may be put in; -1 while that isn't known or where there is no sideband.  v2 knows behind
 * "packfile", v0 only when the first sideband pkt has begun. */
int64_t fetch_response_note_offset(const struct fetch_response *w);
/* True from the first sideband pkt's place on (v2: behind "packfile") until the final flush. */
bool fetch_response_sideband_open(const struct fetch_response *w);
/* The text of an ERR pkt (or of band 3), or NULL.  Borrowed. */
const char *fetch_response_error(const struct fetch_response *w);
/* True when the error was an ERR pkt in first place: upstream refused the question. */
bool fetch_response_refused(const struct fetch_response *w);
uint32_t fetch_response_objects(const struct fetch_response *w);

#endif
