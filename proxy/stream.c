#include "proxy/stream.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/pkt.h"
#include "protocol/sideband.h"

/* With `done` and without shallow information a v2 response always begins like this. */
static const char EARLY_PREFIX[] = "000dpackfile\n";
enum { EARLY_PREFIX_LEN = sizeof(EARLY_PREFIX) - 1 };

static int on_pack(void *ctx, const void *data, size_t len, struct err *err)
{
    struct stream *s = ctx;

    (void)data;
    (void)len;
    (void)err;
    s->pack_begun = true;
    return 0;
}

void stream_init(struct stream *s, struct answer *a, const struct fetch_request *req)
{
    *s = (struct stream){.answer = a, .last_ms = now_ms()};
    fetch_response_shape_of(req, &s->shape);
    s->watch = fetch_response_new(&s->shape, on_pack, s);
    bytes_init(&s->held, SIZE_MAX / 2); /* bounded by PKT_MAX, or by STREAM_HOLD_MAX */
    bytes_init(&s->cut, 2 * PKT_MAX);
}

void stream_clear(struct stream *s)
{
    fetch_response_free(s->watch);
    s->watch = NULL;
    bytes_clear(&s->held);
    bytes_clear(&s->cut);
}

bool stream_restart(struct stream *s)
{
    if (s->handed_on && !s->opened_early)
        return false;
    if (s->opened_early && s->skip < EARLY_PREFIX_LEN)
        return false; /* the response itself has begun */
    fetch_response_free(s->watch);
    s->watch = fetch_response_new(&s->shape, on_pack, s);
    bytes_reset(&s->held);
    if (s->kept)
        answer_promise_size(s->answer, -1);
    /* Another source may begin with other lines in front of its pack. */
    if (s->note_set && !s->opened_early) {
        s->note_set = false;
        answer_set_note_offset(s->answer, -1);
    }
    s->seen = s->taken = 0;
    s->raw = s->hold = s->pack_begun = s->broken = s->astray = s->kept = false;
    s->header_len = s->pkt_left = 0;
    return true;
}

static int hand_on(struct stream *s, const void *data, size_t len, struct err *err)
{
    if (s->skip > 0) {
        size_t n = s->skip < len ? s->skip : len;

        s->skip -= n;
        data = (const char *)data + n;
        len -= n;
    }
    if (len == 0)
        return 0;
    s->handed_on = true;
    s->last_ms = now_ms();
    return answer_append(s->answer, data, len, err);
}

static void set_note(struct stream *s)
{
    int64_t at = fetch_response_note_offset(s->watch);

    if (s->note_set || at < 0)
        return;
    s->note_set = true;
    answer_set_note_offset(s->answer, at);
}

static bool still_held(struct stream *s)
{
    if (s->hold && (s->pack_begun || s->raw || s->held.len > STREAM_HOLD_MAX ||
                    now_ms() - s->last_ms >= STREAM_KEEPALIVE_MS))
        s->hold = false;
    return s->hold;
}

/* A piece of a sideband pkt's payload, as a pkt. */
static int hand_on_piece(struct stream *s, const char *data, size_t len, struct err *err)
{
    bytes_reset(&s->cut);
    must(sideband_add(&s->cut, s->shape.sideband, s->cut_band, data, len) == 0);
    s->taken += len;
    return hand_on(s, s->cut.data, s->cut.len, err);
}

/* The beginning of a sideband pkt, if enough of it is there; returns how many bytes were taken.
 * last: nothing follows. */
static ssize_t begin_piece(struct stream *s, const char *data, size_t len, bool last,
                           struct err *err)
{
    const struct pkt beginning = {PKT_DATA, data + PKT_HEADER, len - PKT_HEADER};
    const char *payload;
    size_t payload_len;
    struct pkt whole;
    struct err ignored;

    if (pkt_header(data, &whole, &ignored) != 0 || whole.type != PKT_DATA ||
        !sideband_split(&beginning, &s->cut_band, &payload, &payload_len))
        return 0;
    /* git ends at the first pkt of this band, and would show half of why. */
    if (s->cut_band == BAND_ERROR && !last)
        return 0;
    s->cut_left = PKT_HEADER + whole.len - len;
    s->taken += len - payload_len;
    return hand_on_piece(s, payload, payload_len, err) == 0 ? (ssize_t)len : -1;
}

/* Hand on what may go of data, which is all that has come and isn't taken yet.  Returns how much
 * that was, or -1.  last: nothing follows. */
static ssize_t pass(struct stream *s, const char *data, size_t len, bool last, struct err *err)
{
    size_t at = 0;
    uint64_t complete;

    if (s->cut_left > 0 && len > 0) {
        at = s->cut_left < len ? s->cut_left : len;
        s->cut_left -= at;
        if (hand_on_piece(s, data, at, err) != 0)
            return -1;
    }
    set_note(s);
    complete = s->raw ? s->seen : fetch_response_complete(s->watch);
    if (complete > s->taken) {
        size_t n = (size_t)(complete - s->taken);

        s->taken = complete;
        if (hand_on(s, data + at, n, err) != 0)
            return -1;
        at += n;
    }
    if (!s->raw && len - at > PKT_HEADER + 1 && s->cut_left == 0 &&
        fetch_response_sideband_open(s->watch)) {
        ssize_t n = begin_piece(s, data + at, len - at, last, err);

        if (n < 0)
            return -1;
        at += (size_t)n;
    }
    return (ssize_t)at;
}

/* What was sent early must be what comes. */
static void compare_early(struct stream *s, const char *data, size_t len)
{
    for (size_t i = 0; i < len && s->seen + i < EARLY_PREFIX_LEN; i++)
        if (data[i] != EARLY_PREFIX[s->seen + i])
            s->astray = true;
}

/* The response goes no further: upstream refused, or what comes doesn't fit what was sent early.
 * Whoever asked decides how to say it. */
static bool is_mute(const struct stream *s)
{
    return fetch_response_refused(s->watch) || s->astray || (s->broken && !s->raw);
}

int stream_feed(struct stream *s, const void *data, size_t len, struct err *err)
{
    ssize_t n;

    if (s->opened_early)
        compare_early(s, data, len);
    s->seen += len;
    if (!s->raw && fetch_response_feed(s->watch, data, len, &s->why) != 0) {
        s->broken = true;
        s->raw = !s->opened_early; /* behind what was sent early it makes no sense to anybody */
    }
    if (is_mute(s))
        return 0;
    if (still_held(s))
        return bytes_add(&s->held, data, len); /* its limit is out of reach */
    if (s->held.len == 0) {
        n = pass(s, data, len, false, err);
        if (n >= 0)
            bytes_add(&s->held, (const char *)data + n, len - (size_t)n);
    } else {
        bytes_add(&s->held, data, len);
        n = pass(s, s->held.data, s->held.len, false, err);
        if (n >= 0)
            bytes_drop_front(&s->held, (size_t)n);
    }
    return n < 0 ? -1 : 0;
}

/* ---- what was kept ---- */

void stream_begin_kept(struct stream *s, int64_t note_offset, int64_t size)
{
    must(!s->handed_on);
    if (size >= 0 && note_offset > size)
        note_offset = -1;
    s->kept = true;
    answer_promise_size(s->answer, size);
    s->open_at = note_offset;
    s->note_set = note_offset >= 0;
    if (s->note_set)
        answer_set_note_offset(s->answer, note_offset);
}

/* Goes on with the pkt under way; sets *whole when it ends in data.  Returns the bytes of it. */
static ssize_t walk_pkt(struct stream *s, const char *data, size_t len, bool *whole,
                        struct err *err)
{
    size_t n = PKT_HEADER - s->header_len < len ? PKT_HEADER - s->header_len : len;
    struct pkt pkt;

    memcpy(s->header + s->header_len, data, n);
    s->header_len += n;
    if (n > 0 && s->header_len == PKT_HEADER) {
        if (pkt_header(s->header, &pkt, err) != 0)
            return err_set(err, ERR_CORRUPT, "what was kept is no response to a fetch");
        s->pkt_left = pkt.type == PKT_DATA ? pkt.len : 0;
    }
    if (s->header_len == PKT_HEADER) {
        size_t rest = s->pkt_left < len - n ? s->pkt_left : len - n;

        s->pkt_left -= rest;
        n += rest;
        *whole = s->pkt_left == 0;
        s->header_len = *whole ? 0 : PKT_HEADER;
    }
    return (ssize_t)n;
}

int stream_feed_kept(struct stream *s, const void *data, size_t len, struct err *err)
{
    int64_t promised = answer_promised_size(s->answer);
    size_t end = 0; /* of the last pkt that is whole */

    if (promised >= 0 && len > (uint64_t)promised - s->seen)
        return err_set(err, ERR_CORRUPT,
                       "what was kept goes on behind the %" PRId64 " bytes that were promised",
                       promised);
    for (size_t at = 0; at < len;) {
        bool whole = false;
        ssize_t n = walk_pkt(s, (const char *)data + at, len - at, &whole, err);

        if (n < 0)
            return -1;
        at += (size_t)n;
        if (whole)
            end = at;
    }
    s->seen += len;
    if (end > 0) {
        s->taken += s->held.len + end;
        if (hand_on(s, s->held.data, s->held.len, err) != 0 || hand_on(s, data, end, err) != 0)
            return -1;
        bytes_reset(&s->held);
    }
    return bytes_add(&s->held, (const char *)data + end, len - end); /* less than a pkt */
}

int stream_finish_kept(const struct stream *s, struct err *err)
{
    int64_t promised = answer_promised_size(s->answer);

    if (s->held.len > 0)
        return err_set(err, ERR_CORRUPT, "what was kept ends amid a pkt");
    if (promised >= 0 && answer_size(s->answer) != (uint64_t)promised)
        return err_set(err, ERR_CORRUPT,
                       "what was kept has %" PRIu64 " bytes, and %" PRId64 " were promised",
                       answer_size(s->answer), promised);
    return 0;
}

/* Do readers stand where sideband pkts may?  Behind what was sent early they do until the
 * response's own beginning has come; from there on the response tells. */
static bool is_open(const struct stream *s)
{
    if (s->kept)
        return s->open_at >= 0 && s->taken >= (uint64_t)s->open_at;
    return s->skip > 0 || fetch_response_sideband_open(s->watch);
}

int stream_idle(struct stream *s, struct err *err)
{
    if (now_ms() - s->last_ms < STREAM_KEEPALIVE_MS || s->raw)
        return 0;
    if (!s->handed_on) {
        if (s->shape.version != 2 || s->shape.shallow || !s->shape.done || s->seen > 0)
            return 0; /* what comes first isn't known yet */
        answer_set_note_offset(s->answer, EARLY_PREFIX_LEN);
        s->note_set = true;
        s->opened_early = true;
        if (hand_on(s, EARLY_PREFIX, EARLY_PREFIX_LEN, err) != 0)
            return -1;
        s->skip = EARLY_PREFIX_LEN;
    } else if (!is_open(s)) {
        return 0;
    }
    s->last_ms = now_ms();
    return answer_append(s->answer, SIDEBAND_KEEPALIVE, strlen(SIDEBAND_KEEPALIVE), err);
}

int stream_finish(struct stream *s, struct err *err)
{
    struct err ignored;
    int rc = s->broken ? -1 : fetch_response_finish(s->watch, &s->why);

    if (rc == 0 && s->astray)
        rc = err_set(&s->why, ERR_UPSTREAM, "the response begins with something else than a pack");
    if (rc != 0)
        *err = s->why;
    s->hold = false;
    if (!is_mute(s) && pass(s, s->held.data, s->held.len, true, rc == 0 ? err : &ignored) < 0)
        rc = -1;
    bytes_reset(&s->held);
    return rc;
}

const char *stream_refused(const struct stream *s)
{
    return fetch_response_refused(s->watch) ? fetch_response_error(s->watch) : NULL;
}

bool stream_said_error(const struct stream *s)
{
    return fetch_response_error(s->watch) != NULL;
}

void stream_break(struct stream *s, const struct err *why)
{
    enum sideband form = s->shape.sideband;
    struct bytes message;
    struct err ignored;
    char text[ERR_TEXT_MAX + 16];

    if (!s->handed_on || s->raw)
        return;
    bytes_init(&message, PKT_MAX);
    snprintf(text, sizeof(text), "pannier: %s\n", why->text);
    if (is_open(s))
        sideband_add(&message, form, BAND_ERROR, text, strlen(text));
    else if (form != SIDEBAND_NONE)
        pkt_addf(&message, "ERR %s", text);
    if (message.len > 0)
        answer_append(s->answer, message.data, message.len, &ignored);
    bytes_clear(&message);
}
