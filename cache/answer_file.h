/* How a whole answer lies on disk:
 *
 *     version 1:  body       | record (entry_write) | tail, 64 bytes
 *     version 2:  zstd frame | record               | tail
 *
 * The tail holds magic, version, the lengths of record and body, the body's SHA-256 and a checksum
 * of record and tail, all little-endian.  In version 1 the body comes first and unchanged, so that
 * it goes out by sendfile.  In version 2 it is packed, because that pays; length and digest are
 * still the body's own, and the frame is what stands before the record.
 *
 * Pure file work, no locks.  Worker threads: reads whole files. */
#ifndef PANNIER_CACHE_ANSWER_FILE_H
#define PANNIER_CACHE_ANSWER_FILE_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/stat.h>

#include "cache/entry.h"
#include "protocol/digest.h"
#include "protocol/err.h"

/* Append record and tail to fd, which holds just the body, or its frame where entry->packed, in
 * stored_len bytes; sync it. */
int answer_file_seal(int fd, uint64_t stored_len, const struct entry *entry,
                     const uint8_t body_sha256[SHA256_SIZE], struct err *err);

/* What lies in front of the record. */
struct answer_file_stored {
    uint64_t len;                /* of the body, or its frame where entry->packed */
    uint8_t sha256[SHA256_SIZE]; /* of the body */
};

/* Read record and tail, check them, and read the whole body against its digest.
 * 0: *entry is yours to clear; *stored (may be NULL) says what there is.  -1: ERR_CORRUPT when the
 * file is not what was written, ERR_STORAGE when it can't be read, ERR_CANCELLED when *stop (which
 * may be NULL) has become true meanwhile. */
int answer_file_verify(int fd, struct entry *entry, struct answer_file_stored *stored,
                       const atomic_bool *stop, struct err *err);

/* As answer_file_verify(), and what is stored goes to fn on its way, piece by piece; what it did
 * with that is worth nothing before this has returned 0.  *stored is filled before the first. */
int answer_file_read(int fd, struct entry *entry, const atomic_bool *stop,
                     struct answer_file_stored *stored,
                     int (*fn)(void *ctx, const void *data, size_t len, struct err *err), void *ctx,
                     struct err *err);

/* As answer_file_verify(), but the body is not read: for a file that was verified before. */
int answer_file_describe(int fd, struct entry *entry, struct answer_file_stored *stored,
                         struct err *err);

/* The body of a packed one (as described: entry) into the empty file to, read against its digest on
 * the way.  -1: ERR_CORRUPT, or ERR_STORAGE when it can't be read or written. */
int answer_file_unpack(int fd, const struct entry *entry, int to, struct err *err);

/* What tells that a file is still the one that was verified: any write, truncation or replacement
 * changes it.  Silent rot of the medium does not. */
struct file_identity {
    uint64_t inode;
    uint64_t size;
    int64_t mtime_ns;
    int64_t ctime_ns;
};
/* False when the file is unlinked or can't be looked at. */
bool file_identity_of(int fd, struct file_identity *out);
bool file_identity_at(const char *path, struct file_identity *out);
bool file_identity_equal(const struct file_identity *a, const struct file_identity *b);

#endif
