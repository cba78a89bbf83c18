#include "cache/answer_file.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "protocol/base.h"

static const char MAGIC[8] = {'P', 'A', 'N', 'N', 'I', 'E', 'R', 'A'};

enum {
    FILE_VERSION = 1,
    RECORD_MAX = 64 * 1024, /* a longer one is damage */
    READ_BLOCK = 1 << 20,
};

struct tail {
    char magic[8];
    uint32_t version;
    uint32_t record_len;
    uint64_t body_len;
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

int answer_file_seal(int fd, const struct entry *entry, const uint8_t body_sha256[SHA256_SIZE],
                     struct err *err)
{
    struct tail tail = {.version = htole32(FILE_VERSION), .body_len = htole64(entry->size)};
    struct bytes out;
    int rc;

    bytes_init(&out, RECORD_MAX + sizeof(tail));
    must(entry_write(entry, &out) == 0);
    memcpy(tail.magic, MAGIC, sizeof(tail.magic));
    tail.record_len = htole32((uint32_t)out.len);
    memcpy(tail.body_sha256, body_sha256, SHA256_SIZE);
    tail_check(out.data, out.len, &tail, tail.check);
    must(bytes_add(&out, &tail, sizeof(tail)) == 0);
    rc = write_at(fd, out.data, out.len, entry->size, err);
    if (rc == 0 && fdatasync(fd) != 0)
        rc = err_errno(err, ERR_STORAGE, "sync an answer");
    bytes_clear(&out);
    return rc;
}

static int check_body(int fd, uint64_t len, const uint8_t sha256[SHA256_SIZE], struct err *err)
{
    struct digest *d = digest_new(HASH_SHA256);
    char *block = xmalloc(READ_BLOCK);
    uint8_t found[SHA256_SIZE];
    int rc = 0;

    for (uint64_t at = 0; at < len && rc == 0;) {
        size_t n = len - at < READ_BLOCK ? (size_t)(len - at) : READ_BLOCK;

        rc = read_at(fd, block, n, at, err);
        if (rc == 0)
            digest_update(d, block, n);
        at += n;
    }
    digest_final(d, found);
    if (rc == 0 && memcmp(found, sha256, SHA256_SIZE) != 0)
        rc = err_set(err, ERR_CORRUPT, "an answer's bytes are not those that were written");
    free(block);
    digest_free(d);
    return rc;
}

/* Read and check record and tail; *tail is filled for the caller. */
static int read_ends(int fd, struct entry *entry, struct tail *out, struct err *err)
{
    struct tail tail;
    struct stat st;
    uint8_t check[8];
    char *record = NULL;
    uint64_t body_len, record_len;
    int rc;

    *entry = (struct entry){0};
    if (fstat(fd, &st) != 0)
        return err_errno(err, ERR_STORAGE, "look at an answer");
    if ((uint64_t)st.st_size < sizeof(tail))
        return err_set(err, ERR_CORRUPT, "an answer's file is too short");
    rc = read_at(fd, &tail, sizeof(tail), (uint64_t)st.st_size - sizeof(tail), err);
    if (rc != 0)
        return rc;
    body_len = le64toh(tail.body_len);
    record_len = le32toh(tail.record_len);
    if (memcmp(tail.magic, MAGIC, sizeof(MAGIC)) != 0 || le32toh(tail.version) != FILE_VERSION ||
        record_len > RECORD_MAX || body_len > (uint64_t)st.st_size ||
        body_len + record_len + sizeof(tail) != (uint64_t)st.st_size)
        return err_set(err, ERR_CORRUPT, "an answer's file has no proper end");
    record = xmalloc(record_len);
    rc = read_at(fd, record, record_len, body_len, err);
    if (rc == 0) {
        tail_check(record, record_len, &tail, check);
        if (memcmp(check, tail.check, sizeof(check)) != 0)
            rc = err_set(err, ERR_CORRUPT, "an answer's record is damaged");
    }
    if (rc == 0)
        rc = entry_read(record, record_len, entry, err);
    if (rc == 0) {
        entry->size = body_len;
        entry->stored_size = (uint64_t)st.st_size;
        *out = tail;
    }
    free(record);
    return rc;
}

int answer_file_describe(int fd, struct entry *entry, struct err *err)
{
    struct tail tail;

    return read_ends(fd, entry, &tail, err);
}

int answer_file_verify(int fd, struct entry *entry, struct err *err)
{
    struct tail tail;
    int rc = read_ends(fd, entry, &tail, err);

    if (rc == 0)
        rc = check_body(fd, entry->size, tail.body_sha256, err);
    if (rc != 0)
        entry_clear(entry);
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
