#include "cache/answer_file.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/compress.h"
#include "protocol/base.h"

static const char MAGIC[8] = {'P', 'A', 'N', 'N', 'I', 'E', 'R', 'A'};

enum {
    VERSION_PLAIN = 1,
    VERSION_PACKED = 2,
    RECORD_MAX = 64 * 1024, /* a longer one is damage */
    READ_BLOCK = 1 << 20,
};

struct tail {
    char magic[8];
    uint32_t version;
    uint32_t record_len;
    uint64_t body_len; /* unpacked */
    uint8_t body_sha256[SHA256_SIZE];
    uint8_t check[8]; /* first bytes of the SHA-256 of the record and all of the above */
};
_Static_assert(sizeof(struct tail) == 64, "the tail's layout is the format");

static void tail_check(const char *record, size_t record_len, const struct tail *tail,
                       uint8_t out[8])
{
    struct digest *d = digest_new(HASH_SHA256);
    uint8_t full[SHA256_SIZE];

    digest_update(d, record, record_len);
    digest_update(d, tail, offsetof(struct tail, check));
    digest_final(d, full);
    digest_free(d);
    memcpy(out, full, 8);
}

static int write_at(int fd, const void *data, size_t len, uint64_t offset, struct err *err)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, data, len, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(err, ERR_STORAGE, "write the end of an answer");
        data = (const char *)data + n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

static int read_at(int fd, void *data, size_t len, uint64_t offset, struct err *err)
{
    while (len > 0) {
        ssize_t n = pread(fd, data, len, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(err, ERR_STORAGE, "read an answer");
        if (n == 0)
            return err_set(err, ERR_CORRUPT, "an answer's file ends too early");
        data = (char *)data + n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

int answer_file_seal(int fd, uint64_t stored_len, const struct entry *entry,
                     const uint8_t body_sha256[SHA256_SIZE], struct err *err)
{
    struct tail tail = {
        .version = htole32(entry->packed ? VERSION_PACKED : VERSION_PLAIN),
        .body_len = htole64(entry->size),
    };
    struct bytes out;
    int rc;

    bytes_init(&out, RECORD_MAX + sizeof(tail));
    must(entry_write(entry, &out) == 0);
    memcpy(tail.magic, MAGIC, sizeof(tail.magic));
    tail.record_len = htole32((uint32_t)out.len);
    memcpy(tail.body_sha256, body_sha256, SHA256_SIZE);
    tail_check(out.data, out.len, &tail, tail.check);
    must(bytes_add(&out, &tail, sizeof(tail)) == 0);
    rc = write_at(fd, out.data, out.len, stored_len, err);
    if (rc == 0 && fdatasync(fd) != 0)
        rc = err_errno(err, ERR_STORAGE, "sync an answer");
    bytes_clear(&out);
    return rc;
}

/* What is read of a file, and how far its bytes have been checked. */
struct reading {
    struct tail tail;
    uint64_t stored_len; /* of the body, or its frame */
    struct digest *digest;
    int to; /* where the body goes, or -1 */
    const atomic_bool *stop;
    uint64_t offset;
    int (*fn)(void *ctx, const void *data, size_t len, struct err *err); /* or NULL */
    void *ctx;
};

static int take_body(void *ctx, const void *data, size_t len, struct err *err)
{
    struct reading *r = ctx;

    if (r->stop != NULL && *r->stop)
        return err_set(err, ERR_CANCELLED, "pannier is shutting down");
    digest_update(r->digest, data, len);
    if (r->to >= 0 && write_at(r->to, data, len, r->offset, err) != 0)
        return -1;
    r->offset += len;
    return 0;
}

/* What stands before the record, once through. */
static int each_block(int fd, struct decompressor *d, struct reading *r, struct err *err)
{
    char *block = xmalloc(READ_BLOCK);
    int rc = 0;

    for (uint64_t at = 0; at < r->stored_len && rc == 0;) {
        uint64_t left = r->stored_len - at;
        size_t n = left < READ_BLOCK ? (size_t)left : READ_BLOCK;

        rc = read_at(fd, block, n, at, err);
        if (rc == 0 && r->fn != NULL)
            rc = r->fn(r->ctx, block, n, err);
        if (rc == 0)
            rc = d != NULL ? decompressor_take(d, block, n, err) : take_body(r, block, n, err);
        at += n;
    }
    free(block);
    return rc;
}

static int check_body(int fd, const struct entry *entry, struct reading *r, struct err *err)
{
    struct decompressor *d = entry->packed ? decompressor_new(entry->size, take_body, r) : NULL;
    uint8_t found[SHA256_SIZE];
    int rc;

    r->digest = digest_new(HASH_SHA256);
    rc = each_block(fd, d, r, err);
    if (rc == 0 && d != NULL)
        rc = decompressor_end(d, err);
    decompressor_free(&d);
    digest_final(r->digest, found);
    digest_free(r->digest);
    if (rc == 0 && memcmp(found, r->tail.body_sha256, SHA256_SIZE) != 0)
        rc = err_set(err, ERR_CORRUPT, "an answer's bytes are not those that were written");
    return rc;
}

static int read_tail(int fd, uint64_t size, struct reading *r, struct err *err)
{
    uint64_t body_len, ends;
    uint32_t version;

    *r = (struct reading){.to = -1};
    if (size < sizeof(r->tail))
        return err_set(err, ERR_CORRUPT, "an answer's file is too short");
    if (read_at(fd, &r->tail, sizeof(r->tail), size - sizeof(r->tail), err) != 0)
        return -1;
    body_len = le64toh(r->tail.body_len);
    version = le32toh(r->tail.version);
    ends = (uint64_t)le32toh(r->tail.record_len) + sizeof(r->tail);
    if (memcmp(r->tail.magic, MAGIC, sizeof(MAGIC)) != 0 ||
        (version != VERSION_PLAIN && version != VERSION_PACKED) ||
        ends > RECORD_MAX + sizeof(r->tail) || ends > size ||
        (version == VERSION_PLAIN && body_len != size - ends))
        return err_set(err, ERR_CORRUPT, "an answer's file has no proper end");
    r->stored_len = size - ends;
    return 0;
}

/* Read and check record and tail; *r is filled for the caller. */
static int read_ends(int fd, struct entry *entry, struct reading *r, struct err *err)
{
    struct stat st;
    uint8_t check[8];
    char *record = NULL;
    size_t record_len;
    int rc;

    *entry = (struct entry){0};
    if (fstat(fd, &st) != 0)
        return err_errno(err, ERR_STORAGE, "look at an answer");
    if (read_tail(fd, (uint64_t)st.st_size, r, err) != 0)
        return -1;
    record_len = le32toh(r->tail.record_len);
    record = xmalloc(record_len);
    rc = read_at(fd, record, record_len, r->stored_len, err);
    if (rc == 0) {
        tail_check(record, record_len, &r->tail, check);
        if (memcmp(check, r->tail.check, sizeof(check)) != 0)
            rc = err_set(err, ERR_CORRUPT, "an answer's record is damaged");
    }
    if (rc == 0)
        rc = entry_read(record, record_len, entry, err);
    if (rc == 0) {
        entry->size = le64toh(r->tail.body_len);
        entry->stored_size = (uint64_t)st.st_size;
        entry->packed = le32toh(r->tail.version) == VERSION_PACKED;
    }
    free(record);
    return rc;
}

static void tell_stored(const struct reading *r, struct answer_file_stored *out)
{
    out->len = r->stored_len;
    memcpy(out->sha256, r->tail.body_sha256, SHA256_SIZE);
}

int answer_file_describe(int fd, struct entry *entry, struct answer_file_stored *stored,
                         struct err *err)
{
    struct reading r;
    int rc = read_ends(fd, entry, &r, err);

    if (rc == 0 && stored != NULL)
        tell_stored(&r, stored);
    return rc;
}

int answer_file_read(int fd, struct entry *entry, const atomic_bool *stop,
                     struct answer_file_stored *stored,
                     int (*fn)(void *ctx, const void *data, size_t len, struct err *err), void *ctx,
                     struct err *err)
{
    struct reading r;
    int rc = read_ends(fd, entry, &r, err);

    r.stop = stop;
    r.fn = fn;
    r.ctx = ctx;
    if (rc == 0) {
        tell_stored(&r, stored);
        rc = check_body(fd, entry, &r, err);
    }
    if (rc != 0)
        entry_clear(entry);
    return rc;
}

int answer_file_verify(int fd, struct entry *entry, struct answer_file_stored *stored,
                       const atomic_bool *stop, struct err *err)
{
    struct answer_file_stored unasked;

    return answer_file_read(fd, entry, stop, stored != NULL ? stored : &unasked, NULL, NULL, err);
}

int answer_file_unpack(int fd, const struct entry *entry, int to, struct err *err)
{
    struct entry found;
    struct reading r;
    int rc = read_ends(fd, &found, &r, err);

    r.to = to;
    if (rc == 0 && (!found.packed || found.size != entry->size))
        rc = err_set(err, ERR_CORRUPT, "an answer's file has changed while it was read");
    if (rc == 0)
        rc = check_body(fd, &found, &r, err);
    entry_clear(&found);
    return rc;
}

static bool identity_from(const struct stat *st, struct file_identity *out)
{
    *out = (struct file_identity){
        .inode = st->st_ino,
        .size = (uint64_t)st->st_size,
        .mtime_ns = st->st_mtim.tv_sec * INT64_C(1000000000) + st->st_mtim.tv_nsec,
        .ctime_ns = st->st_ctim.tv_sec * INT64_C(1000000000) + st->st_ctim.tv_nsec,
    };
    return st->st_nlink > 0;
}

bool file_identity_of(int fd, struct file_identity *out)
{
    struct stat st;

    return fstat(fd, &st) == 0 && identity_from(&st, out);
}

bool file_identity_at(const char *path, struct file_identity *out)
{
    struct stat st;

    return stat(path, &st) == 0 && identity_from(&st, out);
}

bool file_identity_equal(const struct file_identity *a, const struct file_identity *b)
{
    return a->inode == b->inode && a->size == b->size && a->mtime_ns == b->mtime_ns &&
           a->ctime_ns == b->ctime_ns;
}
