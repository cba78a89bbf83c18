#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/pkt.h"
#include "proxy/stream.h"

#define ID1 "1111111111111111111111111111111111111111"

static const struct fetch_request V2 = {
    .version = 2, .command = COMMAND_FETCH, .done = true, .sideband = SIDEBAND_64K};
static const struct fetch_request V2_ROUND = {
    .version = 2, .command = COMMAND_FETCH, .sideband = SIDEBAND_64K};
static const struct fetch_request V2_DEPTH = {
    .version = 2, .command = COMMAND_FETCH, .done = true, .sideband = SIDEBAND_64K, .depth = 1};
static const struct fetch_request V0 = {
    .version = 0, .command = COMMAND_FETCH, .done = true, .sideband = SIDEBAND_64K};
static const struct fetch_request V0_SMALL = {
    .version = 0, .command = COMMAND_FETCH, .done = true, .sideband = SIDEBAND_SMALL};
static const struct fetch_request V0_BARE = {
    .version = 0, .command = COMMAND_FETCH, .done = true, .sideband = SIDEBAND_NONE};

/* A stream into an answer with one reader, and what the reader has. */
struct rig {
    struct answer *answer;
    struct answer_reader reader;
    struct stream stream;
    struct bytes out;
};

static void ignore_wake(void *ctx)
{
    (void)ctx;
}

static void rig_init(struct rig *r, const struct fetch_request *req)
{
    struct err err;

    r->answer = answer_new_passing();
    assert_int_equal(answer_reader_open(&r->reader, r->answer, ignore_wake, NULL, &err), 0);
    stream_init(&r->stream, r->answer, req);
    bytes_init(&r->out, 4 << 20);
}

static void rig_clear(struct rig *r)
{
    stream_clear(&r->stream);
    answer_reader_close(&r->reader);
    answer_unref(&r->answer);
    bytes_clear(&r->out);
}

/* What the reader has by now. */
static const struct bytes *read_out(struct rig *r)
{
    char block[4096];
    ssize_t n;

    while ((n = answer_reader_read(&r->reader, block, sizeof(block))) > 0)
        bytes_add(&r->out, block, (size_t)n);
    return &r->out;
}

static void feed(struct rig *r, const void *data, size_t len)
{
    struct err err;

    assert_int_equal(stream_feed(&r->stream, data, len, &err), 0);
}

static void feed_pieces(struct rig *r, const struct bytes *body, size_t piece)
{
    for (size_t at = 0; at < body->len; at += piece)
        feed(r, body->data + at, body->len - at < piece ? body->len - at : piece);
}

/* So much time passes without a byte. */
static void idle(struct rig *r, uint64_t ms)
{
    struct err err;

    r->stream.last_ms -= ms;
    assert_int_equal(stream_idle(&r->stream, &err), 0);
}

static void assert_out(struct rig *r, const struct bytes *expected)
{
    const struct bytes *out = read_out(r);

    assert_int_equal(out->len, expected->len);
    if (out->len > 0)
        assert_memory_equal(out->data, expected->data, out->len);
}

static void assert_text(struct rig *r, const char *expected)
{
    const struct bytes *out = read_out(r);

    assert_int_equal(out->len, strlen(expected));
    if (out->len > 0)
        assert_memory_equal(out->data, expected, out->len);
}

/* ---- bodies ---- */

/* A pack of count objects that are all empty blobs. */
static void add_pack(struct bytes *out, unsigned count)
{
    static const char blob[] = "\x30\x78\x9c\x03\x00\x00\x00\x00\x01"; /* blob, 0 bytes, deflated */
    struct digest *d = digest_new(HASH_SHA1);
    uint8_t sum[DIGEST_MAX];
    size_t from = out->len;

    bytes_add(out, "PACK\0\0\0\2\0\0", 10);
    bytes_addf(out, "%c", (int)(count >> 8));
    bytes_addf(out, "%c", (int)(count & 0xff));
    for (unsigned i = 0; i < count; i++)
        bytes_add(out, blob, sizeof(blob) - 1);
    digest_update(d, out->data + from, out->len - from);
    digest_final(d, sum);
    digest_free(d);
    bytes_add(out, sum, SHA1_SIZE);
}

/* Headers as req's response has them, a pack in sideband pkts of pkt_len bytes with progress
 * between, and the end. */
static void add_body(struct bytes *out, const struct fetch_request *req, size_t pkt_len)
{
    struct bytes pack;

    bytes_init(&pack, 1 << 20);
    add_pack(&pack, 500);
    if (req->version == 2 && req->depth > 0) {
        pkt_addf(out, "shallow-info\n");
        pkt_addf(out, "shallow " ID1 "\n");
        pkt_add_delim(out);
    }
    if (req->version == 2)
        pkt_addf(out, "packfile\n");
    else
        pkt_addf(out, "NAK\n");
    if (req->sideband == SIDEBAND_NONE) {
        bytes_add(out, pack.data, pack.len);
    } else {
        for (size_t at = 0; at < pack.len; at += pkt_len) {
            size_t n = pack.len - at < pkt_len ? pack.len - at : pkt_len;

            if (at / pkt_len % 3 == 1)
                pkt_addf(out, "\2progress %zu\r", at);
            assert_int_equal(sideband_add(out, req->sideband, BAND_PACK, pack.data + at, n), 0);
        }
        pkt_add_flush(out);
    }
    bytes_clear(&pack);
}

/* All bytes of one band, wherever they were cut; pkts that are on no band are taken as they are. */
static void gather_band(const struct bytes *body, enum band wanted, struct bytes *out)
{
    const char *at = body->data;
    size_t left = body->len;
    struct pkt pkt;
    struct err err;

    while (pkt_next(&at, &left, &pkt, &err) == 1) {
        const char *data;
        enum band band;
        size_t len;

        if (sideband_split(&pkt, &band, &data, &len) && band == wanted)
            bytes_add(out, data, len);
    }
    assert_int_equal(left, 0);
}

static void assert_bands_equal(const struct bytes *a, const struct bytes *b)
{
    for (int band = BAND_PACK; band <= BAND_ERROR; band++) {
        struct bytes of_a, of_b;

        bytes_init(&of_a, 1 << 20);
        bytes_init(&of_b, 1 << 20);
        gather_band(a, (enum band)band, &of_a);
        gather_band(b, (enum band)band, &of_b);
        assert_int_equal(of_a.len, of_b.len);
        if (of_a.len > 0)
            assert_memory_equal(of_a.data, of_b.data, of_a.len);
        bytes_clear(&of_a);
        bytes_clear(&of_b);
    }
}

static bool ends_on_a_boundary(const struct bytes *out)
{
    const char *at = out->data;
    size_t left = out->len;
    struct pkt pkt;
    struct err err;

    while (pkt_next(&at, &left, &pkt, &err) == 1)
        ;
    return left == 0;
}

/* ---- what goes out ---- */

static const size_t pieces[] = {1, 3, 7, 100, 997, 4096, SIZE_MAX};
static const struct fetch_request *const all_shapes[] = {&V2, &V2_DEPTH, &V0, &V0_SMALL, &V0_BARE};

static void a_response_goes_through_in_pieces_of_any_size(void **state)
{
    (void)state;
    for (size_t shape = 0; shape < ARRAY_LEN(all_shapes); shape++) {
        const struct fetch_request *req = all_shapes[shape];

        for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
            struct bytes body;
            struct rig r;
            struct err err;

            bytes_init(&body, 1 << 20);
            add_body(&body, req, 700);
            rig_init(&r, req);
            feed_pieces(&r, &body, pieces[i]);
            assert_int_equal(stream_finish(&r.stream, &err), 0);
            assert_null(stream_refused(&r.stream));
            assert_false(stream_said_error(&r.stream));
            read_out(&r);
            if (req->sideband == SIDEBAND_NONE || pieces[i] == SIZE_MAX)
                assert_out(&r, &body);
            else
                assert_bands_equal(&r.out, &body);
            bytes_clear(&body);
            rig_clear(&r);
        }
    }
}

static void readers_stand_on_a_boundary_after_every_byte(void **state)
{
    (void)state;
    for (size_t shape = 0; shape < ARRAY_LEN(all_shapes); shape++) {
        const struct fetch_request *req = all_shapes[shape];
        struct bytes body;
        struct rig r;

        if (req->sideband == SIDEBAND_NONE)
            continue;
        bytes_init(&body, 1 << 20);
        add_body(&body, req, 100);
        rig_init(&r, req);
        for (size_t at = 0; at < body.len && at < 2000; at++) {
            feed(&r, body.data + at, 1);
            assert_true(ends_on_a_boundary(read_out(&r)));
        }
        bytes_clear(&body);
        rig_clear(&r);
    }
}

static void a_pkt_that_comes_slowly_is_not_held_back(void **state)
{
    struct bytes body;
    struct rig r;

    (void)state;
    bytes_init(&body, 1 << 20);
    add_body(&body, &V2, 60000);
    rig_init(&r, &V2);
    feed(&r, body.data, 2000);
    assert_true(read_out(&r)->len >= 1990);
    bytes_clear(&body);
    rig_clear(&r);
}

static void the_note_stands_in_front_of_the_first_sideband_pkt(void **state)
{
    (void)state;
    for (size_t shape = 0; shape < ARRAY_LEN(all_shapes); shape++) {
        const struct fetch_request *req = all_shapes[shape];

        for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
            const char *pack;
            struct bytes body;
            struct rig r;
            struct err err;

            bytes_init(&body, 1 << 20);
            add_body(&body, req, 700);
            rig_init(&r, req);
            assert_int_equal(answer_note_offset(r.answer), -1);
            feed_pieces(&r, &body, pieces[i]);
            assert_int_equal(stream_finish(&r.stream, &err), 0);
            if (req->sideband == SIDEBAND_NONE) {
                assert_int_equal(answer_note_offset(r.answer), -1);
            } else {
                /* header and band stand between the place and the pack */
                pack = memmem(body.data, body.len, "PACK", 4);
                assert_int_equal(answer_note_offset(r.answer), pack - body.data - PKT_HEADER - 1);
            }
            bytes_clear(&body);
            rig_clear(&r);
        }
    }
}

/* ---- keepalives ---- */

static void silence_in_the_pack_is_filled_with_keepalives(void **state)
{
    (void)state;
    for (size_t shape = 0; shape < ARRAY_LEN(all_shapes); shape++) {
        const struct fetch_request *req = all_shapes[shape];
        struct bytes body, pack;
        size_t before;
        struct rig r;
        struct err err;

        bytes_init(&body, 1 << 20);
        bytes_init(&pack, 1 << 20);
        add_body(&body, req, 700);
        rig_init(&r, req);
        feed(&r, body.data, body.len / 2);
        before = read_out(&r)->len;
        idle(&r, STREAM_KEEPALIVE_MS - 1000);
        assert_int_equal(read_out(&r)->len, before);
        idle(&r, STREAM_KEEPALIVE_MS);
        if (req->sideband == SIDEBAND_NONE) {
            assert_int_equal(read_out(&r)->len, before);
        } else {
            assert_int_equal(read_out(&r)->len, before + strlen(SIDEBAND_KEEPALIVE));
            assert_true(ends_on_a_boundary(&r.out));
        }
        feed(&r, body.data + body.len / 2, body.len - body.len / 2);
        assert_int_equal(stream_finish(&r.stream, &err), 0);
        read_out(&r);
        if (req->sideband != SIDEBAND_NONE)
            assert_bands_equal(&r.out, &body);
        bytes_clear(&pack);
        bytes_clear(&body);
        rig_clear(&r);
    }
}

static void nothing_is_said_where_nothing_may_be_said(void **state)
{
    static const struct {
        const struct fetch_request *req;
        const char *begun;
    } rows[] = {
        {&V2_ROUND, ""}, /* acknowledgments may come */
        {&V2_DEPTH, ""}, /* shallow information comes */
        {&V2_DEPTH, "0011shallow-info\n"},
        {&V2, "000dpack"},
        {&V0, ""},
        {&V0, "0008NAK\n"},
        {&V0_BARE, ""},
        {&V0_BARE, "0008NAK\nPACK"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct rig r;
        size_t before;

        rig_init(&r, rows[i].req);
        feed(&r, rows[i].begun, strlen(rows[i].begun));
        before = read_out(&r)->len;
        idle(&r, 10 * STREAM_KEEPALIVE_MS);
        assert_int_equal(read_out(&r)->len, before);
        rig_clear(&r);
    }
}

static void nothing_is_said_behind_the_end(void **state)
{
    (void)state;
    for (int early = 0; early < 2; early++) {
        struct bytes body;
        struct rig r;
        size_t before;

        bytes_init(&body, 1 << 20);
        add_body(&body, &V2, 700);
        rig_init(&r, &V2);
        if (early)
            idle(&r, STREAM_KEEPALIVE_MS);
        feed(&r, body.data, body.len);
        before = read_out(&r)->len;
        idle(&r, 10 * STREAM_KEEPALIVE_MS);
        assert_int_equal(read_out(&r)->len, before);
        bytes_clear(&body);
        rig_clear(&r);
    }
}

/* ---- opening early ---- */

static void a_response_that_takes_long_is_opened_early(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        struct bytes body;
        struct rig r;
        struct err err;

        bytes_init(&body, 1 << 20);
        add_body(&body, &V2, 700);
        rig_init(&r, &V2);
        idle(&r, STREAM_KEEPALIVE_MS);
        assert_text(&r, "000dpackfile\n"
                        "0005\2");
        assert_int_equal(answer_note_offset(r.answer), 13);
        idle(&r, STREAM_KEEPALIVE_MS);
        feed_pieces(&r, &body, pieces[i]);
        assert_int_equal(stream_finish(&r.stream, &err), 0);
        read_out(&r);
        assert_bands_equal(&r.out, &body);
        assert_null(memmem(r.out.data + 13, r.out.len - 13, "packfile", 8)); /* once */
        assert_int_equal(answer_note_offset(r.answer), 13);
        bytes_clear(&body);
        rig_clear(&r);
    }
}

static void another_source_may_take_over_until_the_response_has_begun(void **state)
{
    struct bytes body;
    struct rig r;
    struct err err;

    (void)state;
    bytes_init(&body, 1 << 20);
    add_body(&body, &V2, 700);
    rig_init(&r, &V2);
    r.stream.hold = true;
    feed(&r, "000dpackfile\n0009\2abc", 21);
    assert_int_equal(read_out(&r)->len, 0);
    assert_true(stream_restart(&r.stream));
    idle(&r, STREAM_KEEPALIVE_MS); /* opened early in between */
    assert_true(stream_restart(&r.stream));
    feed(&r, body.data, body.len);
    assert_false(stream_restart(&r.stream));
    assert_int_equal(stream_finish(&r.stream, &err), 0);
    read_out(&r);
    assert_bands_equal(&r.out, &body);
    bytes_clear(&body);
    rig_clear(&r);
}

static void what_is_held_goes_out_when_the_pack_begins(void **state)
{
    struct bytes body;
    struct rig r;
    size_t pack_at;

    (void)state;
    bytes_init(&body, 1 << 20);
    add_body(&body, &V2, 700);
    rig_init(&r, &V2);
    r.stream.hold = true;
    pack_at = (size_t)((char *)memmem(body.data, body.len, "PACK", 4) - body.data);
    for (size_t at = 0; at < pack_at; at++)
        feed(&r, body.data + at, 1);
    assert_int_equal(read_out(&r)->len, 0);
    feed(&r, body.data + pack_at, 100);
    assert_true(read_out(&r)->len > pack_at);
    assert_false(stream_restart(&r.stream));
    bytes_clear(&body);
    rig_clear(&r);
}

static void what_is_held_goes_out_after_a_while(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, &V2);
    r.stream.hold = true;
    feed(&r, "000dpackfile\n", 13);
    r.stream.last_ms -= STREAM_KEEPALIVE_MS;
    feed(&r, "0005\1", 5); /* git's own keepalive */
    assert_text(&r, "000dpackfile\n"
                    "0005\1");
    rig_clear(&r);
}

/* ---- refusals, nonsense, breaks ---- */

static void a_refusal_is_held_back_and_told(void **state)
{
    static const struct fetch_request *const rows[] = {&V2, &V2_ROUND, &V0, &V0_BARE};
    static const char refusal[] = "0013ERR not our ref";

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct rig r;
        struct err err;

        rig_init(&r, rows[i]);
        for (size_t at = 0; at < strlen(refusal); at++)
            feed(&r, refusal + at, 1);
        feed(&r, "and more behind it", 18);
        assert_string_equal(stream_refused(&r.stream), "not our ref");
        assert_int_equal(stream_finish(&r.stream, &err), -1);
        assert_int_equal(read_out(&r)->len, 0);
        assert_true(stream_restart(&r.stream));
        assert_null(stream_refused(&r.stream));
        rig_clear(&r);
    }
}

static void what_follows_a_refusal_takes_no_memory(void **state)
{
    char *block = xcalloc(1, 1 << 20);
    struct rig r;

    (void)state;
    rig_init(&r, &V2);
    feed(&r, "0013ERR not our ref", 19);
    for (int i = 0; i < 20; i++)
        feed(&r, block, 1 << 20);
    assert_true(r.stream.held.cap < 1 << 20);
    free(block);
    rig_clear(&r);
}

static void nonsense_is_handed_on_as_it_comes(void **state)
{
    static const char page[] = "<html>please log in</html>";

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        struct bytes body = {.data = (char *)page, .len = strlen(page)};
        struct rig r;
        struct err err;

        rig_init(&r, &V2);
        feed_pieces(&r, &body, pieces[i]);
        assert_int_equal(stream_finish(&r.stream, &err), -1);
        assert_int_equal(err.kind, ERR_UPSTREAM);
        assert_text(&r, page);
        stream_break(&r.stream, &(struct err){ERR_UPSTREAM, "unheard"});
        assert_text(&r, page);
        rig_clear(&r);
    }
}

static void nonsense_behind_an_early_opening_is_told_instead(void **state)
{
    static const char *const rows[] = {"<html>please log in</html>", "000bstrange",
                                       "0011shallow-info\n"
                                       "0001"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct bytes *out;
        struct rig r;
        struct err err;

        rig_init(&r, &V2);
        idle(&r, STREAM_KEEPALIVE_MS);
        feed(&r, rows[i], strlen(rows[i]));
        assert_int_equal(stream_finish(&r.stream, &err), -1);
        stream_break(&r.stream, &err);
        out = read_out(&r);
        assert_true(ends_on_a_boundary(out));
        assert_non_null(memmem(out->data, out->len, "\3pannier: ", 10));
        assert_null(memmem(out->data, out->len, "log in", 6));
        rig_clear(&r);
    }
}

static void a_damaged_pack_keeps_its_framing(void **state)
{
    struct bytes body, before, after;
    struct rig r;
    struct err err;

    (void)state;
    bytes_init(&body, 1 << 20);
    bytes_init(&before, 1 << 20);
    bytes_init(&after, 1 << 20);
    add_body(&body, &V2, 2000);
    /* Seen inside a pkt whose beginning has gone out already. */
    body.data[body.len - 600] ^= 0x55;
    rig_init(&r, &V2);
    feed_pieces(&r, &body, 97);
    assert_int_equal(stream_finish(&r.stream, &err), -1);
    gather_band(&body, BAND_PACK, &before);
    gather_band(read_out(&r), BAND_PACK, &after);
    assert_int_equal(after.len, before.len);
    assert_memory_equal(after.data, before.data, before.len);
    bytes_clear(&before);
    bytes_clear(&after);
    bytes_clear(&body);
    rig_clear(&r);
}

static void upstreams_word_of_failure_is_handed_on_whole(void **state)
{
    static const char body[] = "000dpackfile\n"
                               "0018\3fatal: disk is full";
    struct rig r;
    struct err err;

    (void)state;
    rig_init(&r, &V2);
    for (size_t at = 0; at < strlen(body) - 1; at++)
        feed(&r, body + at, 1);
    assert_text(&r, "000dpackfile\n"); /* git would end at the first piece */
    feed(&r, body + strlen(body) - 1, 1);
    assert_text(&r, body);
    assert_true(stream_said_error(&r.stream));
    assert_int_equal(stream_finish(&r.stream, &err), -1);
    rig_clear(&r);
    /* Cut off in the middle, half of it is better than nothing. */
    rig_init(&r, &V2);
    feed(&r, body, strlen(body) - 5);
    assert_int_equal(stream_finish(&r.stream, &err), -1);
    read_out(&r);
    assert_non_null(memmem(r.out.data, r.out.len, "\3fatal: disk", 12));
    assert_true(ends_on_a_boundary(&r.out));
    rig_clear(&r);
}

/* The words that a break puts behind a response that has come so far. */
static void a_break_is_told_in_the_form_that_fits(void **state)
{
    static const struct {
        const struct fetch_request *req;
        const char *begun;
        const char *told; /* NULL: nothing can be said */
    } rows[] = {
        {&V2, "", NULL}, /* the status can still say it */
        {&V2, "000dpack", NULL},
        {&V2, "000dpackfile\n", "0018\3pannier: cut cable\n"},
        {&V2, "000dpackfile\n0009\2abc", "0018\3pannier: cut cable\n"},
        {&V2, "000dpackfile\n0fff\1PACK", "0018\3pannier: cut cable\n"},
        {&V2, "000dpackfile\n0fff", "0018\3pannier: cut cable\n"},
        {&V2_DEPTH, "0011shallow-info\n", "001bERR pannier: cut cable\n"},
        {&V2_DEPTH, "0011shallow-info\n0035shallow " ID1 "\n0001", "001bERR pannier: cut cable\n"},
        {&V2_ROUND, "0014acknowledgments\n0008NAK\n", "001bERR pannier: cut cable\n"},
        {&V0, "0008NAK\n", "001bERR pannier: cut cable\n"},
        {&V0, "0008NAK\n0009\2abc", "0018\3pannier: cut cable\n"},
        {&V0_SMALL, "0008NAK\n0009\2abc", "0018\3pannier: cut cable\n"},
        {&V0_BARE, "0008NAK\n", NULL},
        {&V0_BARE, "0008NAK\nPACK", NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct bytes *out;
        struct rig r;
        size_t before;

        rig_init(&r, rows[i].req);
        feed(&r, rows[i].begun, strlen(rows[i].begun));
        before = read_out(&r)->len;
        stream_break(&r.stream, &(struct err){ERR_UPSTREAM, "cut cable"});
        out = read_out(&r);
        if (rows[i].told == NULL) {
            assert_int_equal(out->len, before);
        } else {
            assert_int_equal(out->len, before + strlen(rows[i].told));
            assert_memory_equal(out->data + before, rows[i].told, strlen(rows[i].told));
            assert_true(ends_on_a_boundary(out));
        }
        rig_clear(&r);
    }
}

static void a_break_behind_an_early_opening_goes_by_the_sideband(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, &V2);
    idle(&r, STREAM_KEEPALIVE_MS);
    stream_break(&r.stream, &(struct err){ERR_UPSTREAM, "cut cable"});
    assert_text(&r, "000dpackfile\n0005\2"
                    "0018\3pannier: cut cable\n");
    rig_clear(&r);
}

static void a_response_cut_anywhere_is_not_whole(void **state)
{
    (void)state;
    for (size_t shape = 0; shape < ARRAY_LEN(all_shapes); shape++) {
        const struct fetch_request *req = all_shapes[shape];
        struct bytes body;

        bytes_init(&body, 1 << 20);
        add_body(&body, req, 700);
        for (size_t len = 0; len < body.len; len += len < 40 || len + 40 > body.len ? 1 : 61) {
            struct rig r;
            struct err err;

            rig_init(&r, req);
            feed(&r, body.data, len);
            assert_int_equal(stream_finish(&r.stream, &err), -1);
            if (req->sideband != SIDEBAND_NONE)
                assert_true(ends_on_a_boundary(read_out(&r)));
            rig_clear(&r);
        }
        bytes_clear(&body);
    }
}

static void readers_that_are_gone_end_the_stream(void **state)
{
    struct rig r;
    struct err err;

    (void)state;
    rig_init(&r, &V2);
    answer_reader_close(&r.reader);
    assert_int_equal(stream_feed(&r.stream, "000dpackfile\n", 13, &err), -1);
    assert_int_equal(err.kind, ERR_CANCELLED);
    r.stream.last_ms -= STREAM_KEEPALIVE_MS;
    assert_int_equal(stream_idle(&r.stream, &err), -1);
    rig_clear(&r);
}

/* ---- what was kept ---- */

/* As the shared tier hands it out: pieces of any size, of which readers see whole pkts only. */
static void what_was_kept_goes_through_in_pieces_of_any_size(void **state)
{
    static const size_t sizes[] = {1, 3, 4, 5, 999, 70000, 1 << 20};
    struct bytes body;

    (void)state;
    bytes_init(&body, 4 << 20);
    add_body(&body, &V2, 1000);
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct rig r;
        struct err err;

        rig_init(&r, &V2);
        stream_begin_kept(&r.stream, 13, -1);
        assert_int_equal(answer_note_offset(r.answer), 13);
        for (size_t at = 0; at < body.len; at += sizes[i]) {
            size_t n = body.len - at < sizes[i] ? body.len - at : sizes[i];

            assert_int_equal(stream_feed_kept(&r.stream, body.data + at, n, &err), 0);
            read_out(&r);
        }
        assert_int_equal(stream_finish_kept(&r.stream, &err), 0);
        assert_out(&r, &body);
        rig_clear(&r);
    }
    bytes_clear(&body);
}

/* Wherever it breaks off, git finds a message where it expects a pkt. */
static void a_break_amid_what_was_kept_is_told_by_the_sideband(void **state)
{
    static const struct err why = {ERR_TIMEOUT, "the store went away"};
    struct bytes body;

    (void)state;
    bytes_init(&body, 4 << 20);
    add_body(&body, &V2, 1000);
    for (size_t cut = 13; cut < 4000; cut += 7) {
        const struct bytes *out;
        const char *p;
        size_t left, last = 0;
        struct pkt pkt = {0};
        struct rig r;
        struct err err;

        rig_init(&r, &V2);
        stream_begin_kept(&r.stream, 13, -1);
        assert_int_equal(stream_feed_kept(&r.stream, body.data, cut, &err), 0);
        stream_break(&r.stream, &why);
        out = read_out(&r);
        p = out->data;
        left = out->len;
        while (pkt_next(&p, &left, &pkt, &err) == 1)
            last = pkt.len;
        assert_int_equal(left, 0);
        assert_int_equal(last, strlen("\3pannier: the store went away\n"));
        assert_memory_equal(pkt.data, "\3pannier: the store went away\n", last);
        rig_clear(&r);
    }
    bytes_clear(&body);
}

static void what_was_kept_and_ends_amid_a_pkt_is_not_whole(void **state)
{
    struct rig r;
    struct err err;

    (void)state;
    rig_init(&r, &V2);
    stream_begin_kept(&r.stream, -1, -1);
    assert_int_equal(stream_feed_kept(&r.stream, "000dpackfi", 10, &err), 0);
    assert_int_equal(stream_finish_kept(&r.stream, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
    /* Nobody has seen a byte of it, so another source may take over. */
    assert_int_equal(read_out(&r)->len, 0);
    assert_true(stream_restart(&r.stream));
    feed(&r, "000dpackfile\n", 13);
    assert_text(&r, "000dpackfile\n");
    assert_int_equal(stream_feed_kept(&r.stream, "zzzz", 4, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
    rig_clear(&r);
}

/* Whoever was told a length goes by it, so what has another one is never whole. */
static void what_was_kept_and_has_another_size_than_promised_is_not_whole(void **state)
{
    static const struct err why = {ERR_CORRUPT, "it lies"};
    static const int64_t promised[] = {12, 14};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(promised); i++) {
        struct rig r;
        struct err err;

        rig_init(&r, &V2);
        stream_begin_kept(&r.stream, -1, promised[i]);
        assert_int_equal(answer_promised_size(r.answer), promised[i]);
        assert_int_equal(stream_feed_kept(&r.stream, "000d", 4, &err), 0);
        /* What goes on behind it is not waited for to its end, which may never come. */
        assert_int_equal(stream_feed_kept(&r.stream, "packfile\n", 9, &err),
                         promised[i] < 13 ? -1 : 0);
        if (promised[i] > 13)
            assert_int_equal(stream_finish_kept(&r.stream, &err), -1);
        assert_int_equal(err.kind, ERR_CORRUPT);
        answer_fail(r.answer, &why);
        assert_true(read_out(&r)->len < (size_t)promised[i]);
        rig_clear(&r);
    }
}

static void a_note_has_no_place_behind_the_end(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, &V2);
    stream_begin_kept(&r.stream, 14, 13);
    assert_int_equal(answer_note_offset(r.answer), -1);
    rig_clear(&r);
}

static void another_source_takes_over_without_the_promise(void **state)
{
    struct rig r;
    struct err err;

    (void)state;
    rig_init(&r, &V2);
    stream_begin_kept(&r.stream, -1, 4000);
    assert_int_equal(stream_feed_kept(&r.stream, "000dpackfi", 10, &err), 0);
    assert_true(stream_restart(&r.stream));
    assert_int_equal(answer_promised_size(r.answer), -1);
    rig_clear(&r);
}

/* The kept one had more lines of ACK in front of the pack than the one that is made instead. */
static void the_note_goes_where_the_source_that_took_over_has_room_for_it(void **state)
{
    struct bytes body;
    struct rig r;
    struct err err;

    (void)state;
    bytes_init(&body, 1 << 20);
    add_body(&body, &V0, 3);
    rig_init(&r, &V0);
    stream_begin_kept(&r.stream, 100, -1);
    assert_true(stream_restart(&r.stream));
    assert_int_equal(answer_note_offset(r.answer), -1);
    feed_pieces(&r, &body, body.len);
    assert_int_equal(answer_note_offset(r.answer), strlen("0008NAK\n"));
    assert_int_equal(stream_finish(&r.stream, &err), 0);
    assert_out(&r, &body);
    rig_clear(&r);
    bytes_clear(&body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_response_goes_through_in_pieces_of_any_size),
        cmocka_unit_test(readers_stand_on_a_boundary_after_every_byte),
        cmocka_unit_test(a_pkt_that_comes_slowly_is_not_held_back),
        cmocka_unit_test(the_note_stands_in_front_of_the_first_sideband_pkt),
        cmocka_unit_test(silence_in_the_pack_is_filled_with_keepalives),
        cmocka_unit_test(nothing_is_said_where_nothing_may_be_said),
        cmocka_unit_test(nothing_is_said_behind_the_end),
        cmocka_unit_test(a_response_that_takes_long_is_opened_early),
        cmocka_unit_test(another_source_may_take_over_until_the_response_has_begun),
        cmocka_unit_test(what_is_held_goes_out_when_the_pack_begins),
        cmocka_unit_test(what_is_held_goes_out_after_a_while),
        cmocka_unit_test(a_refusal_is_held_back_and_told),
        cmocka_unit_test(what_follows_a_refusal_takes_no_memory),
        cmocka_unit_test(nonsense_is_handed_on_as_it_comes),
        cmocka_unit_test(nonsense_behind_an_early_opening_is_told_instead),
        cmocka_unit_test(a_damaged_pack_keeps_its_framing),
        cmocka_unit_test(upstreams_word_of_failure_is_handed_on_whole),
        cmocka_unit_test(a_break_is_told_in_the_form_that_fits),
        cmocka_unit_test(a_break_behind_an_early_opening_goes_by_the_sideband),
        cmocka_unit_test(a_response_cut_anywhere_is_not_whole),
        cmocka_unit_test(readers_that_are_gone_end_the_stream),
        cmocka_unit_test(what_was_kept_goes_through_in_pieces_of_any_size),
        cmocka_unit_test(a_break_amid_what_was_kept_is_told_by_the_sideband),
        cmocka_unit_test(what_was_kept_and_ends_amid_a_pkt_is_not_whole),
        cmocka_unit_test(what_was_kept_and_has_another_size_than_promised_is_not_whole),
        cmocka_unit_test(a_note_has_no_place_behind_the_end),
        cmocka_unit_test(another_source_takes_over_without_the_promise),
        cmocka_unit_test(the_note_goes_where_the_source_that_took_over_has_room_for_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
