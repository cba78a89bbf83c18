#include "proxy/encoded.h"

#include "protocol/base.h"

void encoded_init(struct encoded *e, struct answer *a, enum content_encoding wanted)
{
    *e = (struct encoded){.answer = a, .wanted = wanted};
    bytes_init(&e->held, SIZE_MAX / 2);
}

void encoded_clear(struct encoded *e)
{
    content_encoder_free(&e->encoder);
    bytes_clear(&e->held);
    answer_unref(&e->answer);
}

static int hand_on(struct encoded *e, const void *data, size_t len, struct err *err)
{
    if (!e->deserted && answer_append(e->answer, data, len, err) == 0)
        return 0;
    if (e->deserted)
        return err_set(err, ERR_CANCELLED, "nobody reads this any more");
    e->deserted = true;
    answer_fail(e->answer, err);
    return -1;
}

static int encode(struct encoded *e, const void *data, size_t len, bool flush, struct err *err)
{
    struct bytes out;
    int rc;

    bytes_init(&out, SIZE_MAX / 2); /* nobody appends nearly so much: it isn't reached */
    must(content_encoder_add(e->encoder, data, len, &out) == 0);
    e->pending += len;
    if (flush || e->pending >= ENCODED_FLUSH) {
        must(content_encoder_flush(e->encoder, &out) == 0);
        e->pending = 0;
    }
    rc = hand_on(e, out.data, out.len, err);
    bytes_clear(&out);
    return rc;
}

int encoded_append(struct encoded *e, const void *data, size_t len, struct err *err)
{
    int rc;

    if (e->wanted == ENCODING_IDENTITY)
        return hand_on(e, data, len, err);
    if (e->encoder != NULL)
        return encode(e, data, len, false, err);
    bytes_add(&e->held, data, len);
    if (e->held.len <= ENCODING_WORTH)
        return 0;
    e->encoder = content_encoder_new(e->wanted);
    rc = encode(e, e->held.data, e->held.len, true, err); /* for an early first byte */
    bytes_clear(&e->held);
    return rc;
}

int encoded_flush(struct encoded *e, struct err *err)
{
    return e->pending == 0 ? 0 : encode(e, "", 0, true, err);
}

void encoded_end(struct encoded *e)
{
    struct bytes last;
    struct err ignored;

    bytes_init(&last, SIZE_MAX / 2);
    if (e->encoder != NULL)
        must(content_encoder_end(e->encoder, &last) == 0);
    else
        bytes_add(&last, e->held.data, e->held.len);
    if (hand_on(e, last.data, last.len, &ignored) == 0)
        answer_end(e->answer);
    bytes_clear(&last);
}

void encoded_fail(struct encoded *e, const struct err *why)
{
    struct err ignored;

    /* The encoding's own end would say that it is whole. */
    if (encoded_flush(e, &ignored) == 0 && hand_on(e, e->held.data, e->held.len, &ignored) == 0)
        answer_fail(e->answer, why);
}

const char *encoded_header(const struct encoded *e)
{
    return e->encoder != NULL ? content_encoding_name(e->wanted) : NULL;
}
