/* Answers in the object store.
 *
 *     answers/<repo_id>/<key>      head | body, or the body as one zstd frame
 *
 * The head stands in front, so that one GET is enough and the first byte comes as soon as it can.
 * It holds magic, version, lengths, the record (entry_write), the SHA-256 of the body, a checksum
 * of each piece of what lies behind it, and digests of itself, all little-endian:
 *
 *     fixed part, 128 bytes    with a digest of its own, there in every version
 *     record                   its path is the object's key, so that no other object can stand in
 *     pieces                   a checksum each (protocol/checksum.h)
 *
 *     piece 0 is SHARED_ANSWER_FIRST bytes, so that little has to come before something can be
 *     handed on; the others end at multiples of SHARED_ANSWER_PIECE
 *
 * so a piece is checked before it is handed on, and nobody ever sees a byte that was not put. */
#ifndef PANNIER_CACHE_SHARED_SHARED_ANSWER_H
#define PANNIER_CACHE_SHARED_SHARED_ANSWER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "cache/entry.h"
#include "cache/shared/cutoffs.h"
#include "cache/shared/object_store.h"
#include "protocol/checksum.h"
#include "protocol/digest.h"
#include "protocol/err.h"

enum {
    SHARED_ANSWER_FIRST = 64 * 1024,
    SHARED_ANSWER_PIECE = 1024 * 1024,
};

/* repo_id: hex, as in an entry. */
void shared_answer_key(const char *repo_id, const struct key *key, char out[OBJECT_KEY_MAX + 1]);

struct shared_answer {
    struct entry entry;          /* as its record says; tier, path and packed are of no meaning */
    uint8_t sha256[SHA256_SIZE]; /* of the whole body, entry.size bytes */
};

/* Put the answer in the file at fd (answer_file.h), which is read whole and checked before a byte
 * goes out; but first it is asked for, and where there is one nothing is read.  0: it is there;
 * *sent is the bytes of the object, or 0 where one with that key was there already.  One that a
 * glance shows to be damaged there is replaced; of another whoever gets it finds out, and removes
 * it; one that was put too late (cutoffs, which may be NULL) is replaced, too.  applied: the last
 * event that was applied here before fd was opened (cutoffs.h); NULL: none.
 *
 * -1: as answer_file_verify(), object_put(), ERR_INPUT (too long for the format), or ERR_CANCELLED
 * when *stop (may be NULL) has become true before it goes out; then object_store_stop() ends it.
 * Worker threads. */
int shared_answer_put(struct object_store *store, struct cutoffs *cutoffs, const struct key *key,
                      int fd, const char *applied, const atomic_bool *stop, uint64_t *sent,
                      struct err *err);
/* A glance: is there one, and wasn't it put too late (cutoffs, which may be NULL)?  Such a one is
 * removed now.  0: *has says so; what is damaged is none.  -1: as object_get(). */
int shared_answer_has(struct object_store *store, struct cutoffs *cutoffs, const char *repo_id,
                      const struct key *key, bool *has, struct err *err);

struct shared_answer_sink {
    /* Once, before the first byte.  Borrowed. */
    int (*begin)(void *ctx, const struct shared_answer *what, struct err *err);
    /* The body's bytes in their order, unpacked; each piece was checked. */
    object_sink_fn *data;
    void *ctx;
};
/* 0: data() has had the whole body.  -1: ERR_NOT_FOUND, also of one that was put too late (cutoffs,
 * which may be NULL), and was removed now; ERR_CORRUPT, the object is not what was put (what data()
 * had of it was); ERR_REFUSED, another version of pannier wrote it; or as object_get(), or what the
 * sink said.  Worker threads. */
int shared_answer_get(struct object_store *store, struct cutoffs *cutoffs, const char *repo_id,
                      const struct key *key, const struct shared_answer_sink *sink,
                      struct err *err);

/* ---- the head, for the above and for tests; pure ---- */

struct shared_answer_head {
    struct shared_answer answer;
    bool packed;                      /* what lies behind the head is a zstd frame */
    uint64_t stored_size;             /* bytes behind the head */
    uint8_t (*pieces)[CHECKSUM_SIZE]; /* of each piece */
    size_t pieces_count;
};
void shared_answer_head_clear(struct shared_answer_head *h);
size_t shared_answer_pieces(uint64_t stored_size);
/* Where piece number i begins. */
uint64_t shared_answer_piece_at(size_t i);
/* -1: ERR_INPUT, it can't be told (a record that is too long, more than 256 GiB). */
int shared_answer_head_write(const struct shared_answer_head *h, struct bytes *out,
                             struct err *err);
/* How many bytes the head has, once the first SHARED_ANSWER_FIXED are there; bounded, as they are
 * to be kept.  -1: as shared_answer_head_read(). */
enum { SHARED_ANSWER_FIXED = 128 };
int shared_answer_head_size(const void *data, size_t len, size_t *size, struct err *err);
/* len: exactly the head.  *out is yours to clear.  -1: ERR_CORRUPT; ERR_REFUSED, another version of
 * pannier wrote it. */
int shared_answer_head_read(const void *data, size_t len, struct shared_answer_head *out,
                            struct err *err);

#endif
