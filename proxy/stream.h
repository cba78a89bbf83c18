/* A fetch's response on its way into an answer, watched.
 *
 * Readers always stand on a pkt boundary, so that when the source breaks off a message can stand
 * behind what they have and git can say why: the part of a sideband pkt that has come goes out as a
 * pkt of its own, and so does the rest, when it comes.  While nothing comes, keepalives are put in
 * where the protocol allows it: clients' low-speed guards count the time that a server thinks.
 *
 * One producer's thread. */
#ifndef PANNIER_PROXY_STREAM_H
#define PANNIER_PROXY_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/answer.h"
#include "protocol/bytes.h"
#include "protocol/fetch_request.h"
#include "protocol/fetch_response.h"
#include "protocol/pkt.h"

enum {
    STREAM_KEEPALIVE_MS = 5000, /* git's own upload-pack does the same */
    STREAM_HOLD_MAX = 1 << 20,
};

struct stream {
    struct answer *answer; /* borrowed */
    struct fetch_response_shape shape;
    struct fetch_response *watch;
    struct bytes held; /* came, not handed on */
    uint64_t seen;     /* bytes of the response so far */
    uint64_t taken;    /* of them, handed on */
    size_t cut_left;   /* of a sideband pkt whose beginning went out as one of its own */
    enum band cut_band;
    struct bytes cut; /* where such pkts are put together */
    bool raw;         /* this is no response to a fetch: handed on as it comes */
    bool hold;        /* hand nothing on before the pack has begun */
    bool pack_begun;
    bool opened_early; /* "packfile" and a keepalive were sent before the response came */
    size_t skip;       /* bytes of the response that were sent early */
    bool astray;       /* the response begins otherwise than was sent early */
    bool handed_on;    /* readers have bytes */
    bool note_set;
    uint64_t last_ms;
    struct err why; /* why it can't become whole */
    bool broken;
    /* Of a response that was kept: nothing but the ends of its pkts is looked at. */
    bool kept;
    int64_t open_at; /* where its sideband opens; -1: never */
    char header[PKT_HEADER];
    size_t header_len, pkt_left;
};

void stream_init(struct stream *s, struct answer *a, const struct fetch_request *req);
void stream_clear(struct stream *s);

/* Start over with another source; only while nothing of the response was handed on. */
bool stream_restart(struct stream *s);

/* -1 only when the answer takes no more (ERR_CANCELLED): what the source says is judged at the end.
 */
int stream_feed(struct stream *s, const void *data, size_t len, struct err *err);
/* In place of stream_feed(): pieces of a response that was whole and right when it was kept, and
 * are known to be what was kept.  note_offset: as the answer had it; size: of all, which readers
 * are told; -1: not known.  -1 as above, or ERR_CORRUPT: it isn't made of pkts. */
void stream_begin_kept(struct stream *s, int64_t note_offset, int64_t size);
int stream_feed_kept(struct stream *s, const void *data, size_t len, struct err *err);
/* All of it came.  -1: ERR_CORRUPT, it ends amid a pkt, or has another size. */
int stream_finish_kept(const struct stream *s, struct err *err);

/* Nothing has come for a while; call about once a second. */
int stream_idle(struct stream *s, struct err *err);

/* The source has ended by itself.  0: whole, keep it.  -1: *err says what was wrong; bytes that
 * were held have been handed on, unless upstream refused the question (stream_refused()). */
int stream_finish(struct stream *s, struct err *err);
/* Upstream's own ERR in first place, nothing handed on: its words, or NULL. */
const char *stream_refused(const struct stream *s);
/* True when the response carries upstream's own word of failure, which was handed on. */
bool stream_said_error(const struct stream *s);

/* The source broke off: tell git, in the form that fits where the response stands. */
void stream_break(struct stream *s, const struct err *why);

#endif
