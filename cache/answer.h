/* An answer: the response body to one question, which one producer writes and any number of
 * readers follow while it grows.
 *
 *      phase      meaning                               producer may        readers see
 *      absent     no object; not on disk                -                   -
 *      FILLING    a producer writes                     append, end, fail   bytes, then "wait"
 *      WHOLE      all bytes are there                   -                   bytes, then the end
 *      FAILED     the producer gave up                  -                   bytes so far, then why
 *      gone       dropped from the table and the disk;  -                   as WHOLE: those who
 *                 freed with the last reference                             have it keep it
 *
 * Producer (one worker thread):
 *
 *      answer_store_at(a, path, &claim)
 *      answer_append(a, data, len, &err)  ...  any number of times
 *      answer_end(a) or answer_fail(a, &why), exactly once
 *
 * Reader (HTTP thread or worker), one struct answer_reader each:
 *
 *      answer_reader_open(&r, a, wake, ctx)
 *      answer_reader_read(&r, buf, len)     >0 bytes; or READER_END / READER_WAIT / READER_FAILED
 *      READER_WAIT: answer_reader_arm(&r)   true: wake(ctx) comes, exactly once, from the
 * producer's thread, and r must stay open until it does; false: something is there already, read
 * again answer_reader_close(&r)
 *
 * Where the bytes lie: in a file, so that the producer sets the pace and a slow reader costs
 * nothing; the newest ones in a window in memory, until there are enough or the end comes.  When
 * the disk fails or has no room for it (or when nothing is to be kept: answer_new_passing) the
 * window is all there is, and then the producer waits for the slowest reader that is open. */
#ifndef PANNIER_CACHE_ANSWER_H
#define PANNIER_CACHE_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "cache/entry.h"
#include "cache/local/local.h"
#include "protocol/checksum.h"
#include "protocol/digest.h"
#include "protocol/err.h"

enum answer_state { ANSWER_FILLING, ANSWER_WHOLE, ANSWER_FAILED };

/* Where the bytes came from; set by the producer before the first byte. */
enum answer_source {
    SOURCE_UNKNOWN,
    SOURCE_LOCAL,    /* found whole on disk */
    SOURCE_MIRROR,   /* made by upload-pack, the mirror had all */
    SOURCE_REFRESH,  /* the same, after the mirror was brought forward */
    SOURCE_UPSTREAM, /* streamed from upstream */
    SOURCE_SHARED,   /* from the shared tier */
    SOURCE_PEER,     /* from another node, as it grew or lay there */
};

enum {
    /* Memory of one answer while it is made: of one that passes through it is all there is, and big
     * enough that a client one round trip of 100 ms away still gets 10 MB/s. */
    ANSWER_WINDOW = 1 << 20,
};

struct answer;

/* An answer that is never kept, in window mode from the start: for relays with one reader.
 * The reference is yours. */
struct answer *answer_new_passing(void);

/* An answer without bytes and without a place yet; the producer calls answer_store_at() or
 * answer_fill_from_file() first. */
struct answer *answer_new_filling(void);

struct answer *answer_ref(struct answer *a);
void answer_unref(struct answer **a); /* NULL inside is fine */

/* Producer.  Put the bytes to come into a new file at path, whose name goes with the last
 * reference unless answer_rename_file() was called.  Where that can't be done they pass through
 * the window (answer_storage_trouble() then says why).  Room for them is asked of *claim, which is
 * taken; NULL inside: there is enough. */
void answer_store_at(struct answer *a, const char *path, struct claim **claim);
/* Producer.  Appends all of it.  In window mode it blocks while the slowest reader is a window
 * behind.  0, or -1: ERR_CANCELLED when in window mode no reader is open: so readers
 * are opened before the producer starts. */
int answer_append(struct answer *a, const void *data, size_t len, struct err *err);
/* Where a line for the person may be put in; -1: nowhere.  Call before the bytes there are
 * appended.
 */
void answer_set_note_offset(struct answer *a, int64_t offset);
void answer_set_source(struct answer *a, enum answer_source source);
/* Producer, before the first byte: the digest of all that will come is known, and whoever hands it
 * out sees to it that it is right.  NULL: it isn't after all. */
void answer_set_digest(struct answer *a, const uint8_t sha256[SHA256_SIZE]);
/* Producer, before the first byte: as that, but the digest will be told before the end by
 * answer_tell_digest().  Until then only the checksum is taken, at a tenth of the cost. */
void answer_await_digest(struct answer *a);
void answer_tell_digest(struct answer *a, const uint8_t sha256[SHA256_SIZE]);
/* Producer, before the first byte: so many bytes will come, or -1: it isn't known after all.
 * Readers may tell others; so they get the last byte only when the answer is WHOLE, and never that
 * many of one that FAILED. */
void answer_promise_size(struct answer *a, int64_t size);
/* Complete; readers come to the end. */
void answer_end(struct answer *a);
/* Given up; readers get why behind the bytes that are there. */
void answer_fail(struct answer *a, const struct err *why);

/* Any thread. */
enum answer_state answer_state(struct answer *a);
enum answer_source answer_source(struct answer *a);
uint64_t answer_size(struct answer *a); /* bytes so far; final once WHOLE */
int64_t answer_note_offset(struct answer *a);
int64_t answer_promised_size(struct answer *a);
/* Tells it from all others of this process, also from one that takes its place. */
uint64_t answer_number(const struct answer *a);
bool answer_has_readers(struct answer *a);          /* open ones, now */
void answer_why(struct answer *a, struct err *why); /* of a FAILED one */
/* Why the disk refused this answer's bytes; false when it didn't. */
bool answer_storage_trouble(struct answer *a, struct err *why);
/* SHA-256 of the body of a WHOLE one.  False: it is not known, as the bytes did not lie in a file.
 */
bool answer_digest(struct answer *a, uint8_t out[SHA256_SIZE]);
/* The checksum of the same.  Where it wasn't taken as the bytes came it is read off the file, once.
 * Blocks on the local disk. */
bool answer_checksum(struct answer *a, uint8_t out[CHECKSUM_SIZE]);
/* Producer, before the end: of all that was appended, which is all that will be.  False: as above,
 * or it wasn't taken. */
bool answer_checksum_so_far(struct answer *a, uint8_t out[CHECKSUM_SIZE]);
/* A duplicate of the file's descriptor, in whatever state the answer is.  What of it is the
 * answer's answer_reader_look() says.  -1: no file.  Yours to close. */
int answer_dup_fd(struct answer *a);

/* For cache/answers.c: the store that keeps answers by key. */
int answer_fd(struct answer *a); /* borrowed; -1 when not (or not wholly) in a file */
struct claim *answer_take_claim(struct answer *a); /* for the entry that the file becomes */
/* Give the file its final name; from then on the name is the store's. */
int answer_rename_file(struct answer *a, const char *path, struct err *err);
/* Make a FILLING answer without bytes WHOLE from a verified file: takes fd over, and *claim (NULL
 * inside: none) until its bytes are gone.  sha256: of the body. */
void answer_fill_from_file(struct answer *a, int fd, uint64_t size,
                           const uint8_t sha256[SHA256_SIZE], int64_t note_offset,
                           struct claim **claim);

struct answer_reader {
    struct answer *answer; /* holds a reference */
    uint64_t offset;       /* of the next byte */
    void (*wake)(void *ctx);
    void *ctx;
    bool armed;
    struct answer_reader *next, *prev;
    struct answer_reader *next_woken;
};

enum { READER_END = 0, READER_WAIT = -1, READER_FAILED = -2 };

/* -1 (ERR_BUSY) when the first bytes have already passed through the window: too late to join. */
int answer_reader_open(struct answer_reader *r, struct answer *a, void (*wake)(void *ctx),
                       void *ctx, struct err *err);
/* Never blocks on anything but the local disk.  READER_FAILED: answer_why() says why. */
ssize_t answer_reader_read(struct answer_reader *r, void *buf, size_t len);
/* In place of answer_reader_read(), in two steps, for whoever may not get rid of all.  As that, but
 * the reader stays where it is; *fd is not -1: so many bytes, however long buf is, lie in the file
 * behind it, from r->offset on, and were not read.  It is borrowed while the reader is open. */
ssize_t answer_reader_look(struct answer_reader *r, void *buf, size_t len, int *fd);
/* So many of them are done with. */
void answer_reader_take(struct answer_reader *r, size_t len);
bool answer_reader_arm(struct answer_reader *r);
void answer_reader_close(struct answer_reader *r); /* must not be armed; closing twice is fine */

#endif
