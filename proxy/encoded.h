/* An answer whose body goes to its readers in one Content-Encoding, for bodies that pass by once.
 *
 *     encoded_init(&e, encoding)
 *     producer: encoded_append() ..., then encoded_end() or encoded_fail();
 *               when nothing has come for a while: encoded_flush()
 *     readers:  follow e.answer; when it has bytes, or is at its end: encoded_header(&e)
 *     encoded_clear(&e)
 *
 * It is encoded by its producer, as a stream, once for all who read it.  To wait until the body is
 * whole would shrink it no better, and would cost readers upstream's whole transfer before their
 * first byte; so they wait for the first ENCODING_WORTH bytes only, which tell whether encoding is
 * worth it, and then for a piece of ENCODED_FLUSH at most.  Compressing hides behind upstream's
 * transfer, and HTTP threads send bytes as ever.
 *
 * One worker thread produces; encoded_header() is for any, when the answer has something to say. */
#ifndef PANNIER_PROXY_ENCODED_H
#define PANNIER_PROXY_ENCODED_H

#include <stdbool.h>
#include <stddef.h>

#include "cache/answer.h"
#include "protocol/bytes.h"
#include "protocol/content_encoding.h"

/* Encoded bytes are handed on so often: smaller pieces would shrink less. */
enum { ENCODED_FLUSH = 32 * 1024 };

struct encoded {
    struct answer *answer; /* a reference */
    enum content_encoding wanted;
    struct content_encoder *encoder; /* NULL: not worth it, or not yet */
    struct bytes held;               /* while that isn't known */
    size_t pending;                  /* appended since the last flush */
    bool deserted;
};

/* a (may be new, and passing): the reference is taken over. */
void encoded_init(struct encoded *e, struct answer *a, enum content_encoding wanted);
void encoded_clear(struct encoded *e);

/* As answer_append(); when that fails the answer has, too, and the producer need not go on. */
int encoded_append(struct encoded *e, const void *data, size_t len, struct err *err);
/* What came so far must not wait for more, unless it isn't known yet in what form it goes. */
int encoded_flush(struct encoded *e, struct err *err);
void encoded_end(struct encoded *e);
/* Readers get all that was appended, and then why. */
void encoded_fail(struct encoded *e, const struct err *why);

/* What Content-Encoding says, or NULL. */
const char *encoded_header(const struct encoded *e);

#endif
