#include "protocol/fetch_response.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"
#include "protocol/bytes.h"
#include "protocol/pack_watch.h"
#include "protocol/pkt.h"

/* Every byte of a cold clone passes here, so payloads are not copied: of an unfinished pkt only
 * the four bytes of its length are held, and what follows is handed on in the pieces that it comes
 * in.  The exception are the few short lines in front of the pack, which must be whole to be read.
 */

enum { ERROR_TEXT_MAX = 1024 }; /* of an ERR pkt or band 3; the rest is dropped */

enum state {
    V0_SHALLOW,   /* shallow and unshallow lines up to a flush */
    V0_ACKS,      /* ACK and NAK lines */
    V2_SECTION,   /* the name of a section must follow */
    V2_ACKS,      /* in "acknowledgments" */
    V2_LINES,     /* in a section whose lines don't matter here */
    IN_SIDEBAND,  /* sideband pkts up to a flush */
    IN_BARE_PACK, /* no pkts any more */
    AT_END,       /* behind the final flush */
    BEHIND_ERROR, /* behind an ERR pkt: nothing that follows counts */
};

/* What the payload at hand is; its first byte tells. */
enum payload { PAYLOAD_UNKNOWN, PAYLOAD_LINE, PAYLOAD_PACK, PAYLOAD_SKIP, PAYLOAD_ERROR };

struct fetch_response {
    struct fetch_response_shape shape;
    fetch_response_pack_fn *pack_fn;
    void *ctx;
    struct pack_watch *pack;
    enum state state;

    char head[PKT_HEADER];
    size_t head_len;
    size_t payload_left; /* of the pkt at hand */
    enum payload payload;
    struct bytes line; /* a line that came in pieces */

    uint64_t fed, complete;
    int64_t note_offset;
    bool any_line, any_ack; /* v0: what stood before the pack */
    unsigned sections;      /* v2: a bit for each that was */
    bool ended_without_pack;

    struct bytes error;
    bool refused;
    bool failed;
    struct err failure;
};

/* v2's sections.  gitprotocol-v2.txt gives them an order; git's own upload-pack sends wanted-refs
 * before shallow-info all the same, so only a second one of a kind is wrong. */
static const struct {
    const char *name;
    enum state state;
} sections[] = {
    {"acknowledgments", V2_ACKS}, {"shallow-info", V2_LINES}, {"wanted-refs", V2_LINES},
    {"packfile-uris", V2_LINES},  {"packfile", IN_SIDEBAND},
};

void fetch_response_shape_of(const struct fetch_request *req, struct fetch_response_shape *out)
{
    *out = (struct fetch_response_shape){
        .version = req->version,
        .algo = req->algo,
        .sideband = req->sideband,
        .shallow = fetch_request_is_shallow(req),
        .done = req->done,
    };
}

struct fetch_response *fetch_response_new(const struct fetch_response_shape *shape,
                                          fetch_response_pack_fn *pack_fn, void *ctx)
{
    struct fetch_response *w = xcalloc(1, sizeof(*w));

    must(shape->version == 0 || shape->version == 2);
    w->shape = *shape;
    w->pack_fn = pack_fn;
    w->ctx = ctx;
    w->pack = pack_watch_new(shape->algo);
    w->state = shape->version == 2 ? V2_SECTION : shape->shallow ? V0_SHALLOW : V0_ACKS;
    w->note_offset = -1;
    bytes_init(&w->line, PKT_PAYLOAD_MAX);
    bytes_init(&w->error, ERROR_TEXT_MAX);
    return w;
}

void fetch_response_free(struct fetch_response *w)
{
    if (w == NULL)
        return;
    pack_watch_free(w->pack);
    bytes_clear(&w->line);
    bytes_clear(&w->error);
    free(w);
}

static int malformed(struct err *err, const char *what)
{
    return err_set(err, ERR_UPSTREAM, "not a response to a fetch: %s", what);
}

/* Keep what upstream says, fit for a log: bounded, and no control bytes. */
static void add_error(struct fetch_response *w, const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];

        if (bytes_add(&w->error, c < 0x20 || c == 0x7f ? " " : s + i, 1) != 0)
            return;
    }
}

/* Lines before the pack ------------------------------------------------------------------------ */

static int read_oid(const struct fetch_response *w, const char *s, size_t len, struct err *err)
{
    struct oid oid;

    return oid_from_hex(w->shape.algo, s, len, &oid) ? 0 : malformed(err, "a line without an id");
}

/* "ACK <oid>", in v0 perhaps with the word of a multi_ack mode behind it. */
static int read_ack(struct fetch_response *w, const char *s, size_t len, struct err *err)
{
    static const char *const words[] = {" continue", " common", " ready"};
    const size_t hex = 2 * hash_size(w->shape.algo);
    bool known = len == hex;

    for (size_t i = 0; i < ARRAY_LEN(words) && w->shape.version == 0; i++) {
        size_t n = strlen(words[i]);

        if (len == hex + n && memcmp(s + hex, words[i], n) == 0)
            known = true;
    }
    if (!known)
        return malformed(err, "an ACK of an unknown kind");
    return read_oid(w, s, hex, err);
}

static int read_ack_line(struct fetch_response *w, const struct pkt *line, struct err *err)
{
    const char *rest;
    size_t len;

    w->any_ack = true;
    if (pkt_is(line, "NAK"))
        return 0;
    if (pkt_skip_prefix(line, "ACK ", &rest, &len))
        return read_ack(w, rest, len, err);
    if (w->shape.version == 2 && pkt_is(line, "ready"))
        return 0;
    return malformed(err, "neither ACK nor NAK");
}

static int read_shallow_line(struct fetch_response *w, const struct pkt *line, struct err *err)
{
    const char *rest;
    size_t len;

    if (pkt_skip_prefix(line, "shallow ", &rest, &len) ||
        pkt_skip_prefix(line, "unshallow ", &rest, &len))
        return read_oid(w, rest, len, err);
    if (w->any_line)
        return malformed(err, "neither shallow nor unshallow");
    /* A request with shallow lines and no deepen is answered without this part. */
    w->state = V0_ACKS;
    return read_ack_line(w, line, err);
}

static int read_section(struct fetch_response *w, const struct pkt *line, struct err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(sections); i++) {
        if (!pkt_is(line, sections[i].name))
            continue;
        if (w->sections & 1u << i)
            return malformed(err, "a section for the second time");
        if (sections[i].state == V2_ACKS && w->shape.done)
            return malformed(err, "acknowledgments where the client is done");
        w->sections |= 1u << i;
        w->state = sections[i].state;
        if (w->state == IN_SIDEBAND)
            w->note_offset = (int64_t)w->fed;
        return 0;
    }
    return malformed(err, "a section of an unknown name");
}

static int read_line(struct fetch_response *w, const char *data, size_t len, struct err *err)
{
    struct pkt line = {.type = PKT_DATA, .data = data, .len = len};
    const char *rest;
    size_t rest_len;
    int rc;

    if (w->state == BEHIND_ERROR)
        return 0;
    if (pkt_skip_prefix(&line, "ERR ", &rest, &rest_len)) {
        w->refused = !w->any_line;
        add_error(w, rest, rest_len);
        w->state = BEHIND_ERROR;
        return 0;
    }
    switch (w->state) {
    case V0_SHALLOW: rc = read_shallow_line(w, &line, err); break;
    case V0_ACKS:
    case V2_ACKS: rc = read_ack_line(w, &line, err); break;
    case V2_SECTION: rc = read_section(w, &line, err); break;
    case V2_LINES: rc = 0; break;
    case IN_SIDEBAND: rc = malformed(err, "a pkt on an unknown band"); break;
    default: rc = malformed(err, "something follows its end"); break;
    }
    w->any_line = true;
    return rc;
}

static int read_flush(struct fetch_response *w, struct err *err)
{
    switch (w->state) {
    case V0_SHALLOW:
        w->state = V0_ACKS;
        w->any_line = true;
        return 0;
    case V2_ACKS: /* negotiation goes on in another request */
        w->ended_without_pack = true;
        w->state = AT_END;
        return 0;
    case IN_SIDEBAND: w->state = AT_END; return 0;
    case BEHIND_ERROR: return 0;
    case AT_END: return malformed(err, "something follows its end");
    default: return malformed(err, "a flush where none may stand");
    }
}

static int read_special(struct fetch_response *w, enum pkt_type type, struct err *err)
{
    if (type == PKT_FLUSH)
        return read_flush(w, err);
    if (w->state == BEHIND_ERROR)
        return 0;
    if (type != PKT_DELIM || (w->state != V2_ACKS && w->state != V2_LINES))
        return malformed(err, "a delimiter where none may stand");
    w->state = V2_SECTION;
    return 0;
}

/* Payloads ------------------------------------------------------------------------------------- */

static int pack_bytes(struct fetch_response *w, const char *p, size_t len, struct err *err)
{
    if (len == 0)
        return 0;
    if (pack_watch_feed(w->pack, p, len, err) != 0)
        return -1;
    return w->pack_fn != NULL ? w->pack_fn(w->ctx, p, len, err) : 0;
}

/* May the pkt at hand be the first of the sideband?  v0 has no word for where that begins: the
 * byte of a band does, which no ACK or NAK starts with. */
static bool sideband_may_start(const struct fetch_response *w)
{
    return w->state == V0_ACKS && w->any_ack && w->shape.sideband != SIDEBAND_NONE;
}

/* Look at the first byte of a payload, fed up to its pkt's header: how many of its bytes (0 or 1)
 * are a band's and no content? */
static size_t classify(struct fetch_response *w, unsigned char first)
{
    w->payload = PAYLOAD_LINE;
    if (first < BAND_PACK || first > BAND_ERROR)
        return 0;
    if (sideband_may_start(w)) {
        w->state = IN_SIDEBAND;
        w->note_offset = (int64_t)(w->fed - PKT_HEADER);
    }
    if (w->state != IN_SIDEBAND)
        return 0;
    if (first == BAND_PACK)
        w->payload = PAYLOAD_PACK;
    else
        w->payload = first == BAND_PROGRESS ? PAYLOAD_SKIP : PAYLOAD_ERROR;
    return 1;
}

/* A piece of a line; payload_left is what comes after it. */
static int take_line(struct fetch_response *w, const char *p, size_t len, struct err *err)
{
    int rc;

    if (w->payload_left == 0 && w->line.len == 0)
        return read_line(w, p, len, err);
    must(bytes_add(&w->line, p, len) == 0); /* a payload is never over PKT_PAYLOAD_MAX */
    if (w->payload_left > 0)
        return 0;
    rc = read_line(w, w->line.data, w->line.len, err);
    bytes_reset(&w->line);
    return rc;
}

/* Take len bytes, at least one, of the payload at hand. */
static int take_payload(struct fetch_response *w, const char *p, size_t len, struct err *err)
{
    size_t band = w->payload == PAYLOAD_UNKNOWN ? classify(w, (unsigned char)*p) : 0;
    int rc = 0;

    w->fed += len;
    w->payload_left -= len;
    switch (w->payload) {
    case PAYLOAD_LINE: rc = take_line(w, p, len, err); break;
    case PAYLOAD_PACK: rc = pack_bytes(w, p + band, len - band, err); break;
    case PAYLOAD_ERROR: add_error(w, p + band, len - band); break;
    default: break;
    }
    if (rc == 0 && w->payload_left == 0)
        w->complete = w->fed;
    return rc;
}

/* Pkts ----------------------------------------------------------------------------------------- */

static bool bare_pack_may_start(const struct fetch_response *w)
{
    return w->state == V0_ACKS && w->any_ack && w->shape.sideband == SIDEBAND_NONE;
}

/* head is full. */
static int read_head(struct fetch_response *w, struct err *err)
{
    struct pkt pkt;

    w->head_len = 0;
    /* Without a sideband the pack follows the last ACK or NAK with nothing between. */
    if (bare_pack_may_start(w) && memcmp(w->head, "PACK", PKT_HEADER) == 0) {
        w->state = IN_BARE_PACK;
        w->complete = w->fed;
        return pack_bytes(w, w->head, PKT_HEADER, err);
    }
    if (pkt_header(w->head, &pkt, err) != 0) {
        err->kind = ERR_UPSTREAM; /* pkt.c blames whoever sent the bytes */
        return -1;
    }
    w->payload_left = pkt.len;
    w->payload = PAYLOAD_UNKNOWN;
    if (pkt.type != PKT_DATA) {
        if (read_special(w, pkt.type, err) != 0)
            return -1;
    } else if (pkt.len == 0 && read_line(w, "", 0, err) != 0) {
        return -1;
    }
    if (pkt.len == 0)
        w->complete = w->fed;
    return 0;
}

static int take_head(struct fetch_response *w, const char *p, size_t len, struct err *err)
{
    memcpy(w->head + w->head_len, p, len);
    w->head_len += len;
    w->fed += len;
    return w->head_len == PKT_HEADER ? read_head(w, err) : 0;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static int take(struct fetch_response *w, const char *p, size_t len, struct err *err)
{
    while (len > 0) {
        size_t n;
        int rc;

        if (w->state == IN_BARE_PACK) {
            n = len;
            rc = pack_bytes(w, p, n, err);
            if (rc == 0)
                w->complete = w->fed += n;
        } else if (w->payload_left > 0) {
            n = smaller(len, w->payload_left);
            rc = take_payload(w, p, n, err);
        } else {
            n = smaller(len, PKT_HEADER - w->head_len);
            rc = take_head(w, p, n, err);
        }
        if (rc != 0)
            return -1;
        p += n;
        len -= n;
    }
    return 0;
}

int fetch_response_feed(struct fetch_response *w, const void *data, size_t len, struct err *err)
{
    if (!w->failed)
        w->failed = take(w, data, len, &w->failure) != 0;
    if (!w->failed)
        return 0;
    *err = w->failure;
    return -1;
}

int fetch_response_finish(struct fetch_response *w, struct err *err)
{
    if (w->failed) {
        *err = w->failure;
        return -1;
    }
    if (w->error.len > 0 || w->state == BEHIND_ERROR)
        return err_set(err, ERR_UPSTREAM, "upstream says: %s", w->error.len ? w->error.data : "");
    if (w->fed != w->complete)
        return err_set(err, ERR_UPSTREAM, "the response broke off inside a pkt");
    if (w->state == IN_SIDEBAND)
        return err_set(err, ERR_UPSTREAM, "the response broke off before its final flush");
    if (w->ended_without_pack || (w->state != IN_BARE_PACK && w->state != AT_END))
        return err_set(err, ERR_UPSTREAM,
                       w->shape.done ? "the response broke off before its pack"
                                     : "the response has no pack: negotiation goes on");
    return pack_watch_finish(w->pack, err);
}

/* Answers -------------------------------------------------------------------------------------- */

uint64_t fetch_response_complete(const struct fetch_response *w)
{
    return w->complete;
}

int64_t fetch_response_note_offset(const struct fetch_response *w)
{
    return w->note_offset;
}

bool fetch_response_sideband_open(const struct fetch_response *w)
{
    return w->state == IN_SIDEBAND;
}

const char *fetch_response_error(const struct fetch_response *w)
{
    if (w->error.len > 0)
        return w->error.data;
    return w->state == BEHIND_ERROR ? "" : NULL;
}

bool fetch_response_refused(const struct fetch_response *w)
{
    return w->refused;
}

uint32_t fetch_response_objects(const struct fetch_response *w)
{
    return pack_watch_objects(w->pack);
}
