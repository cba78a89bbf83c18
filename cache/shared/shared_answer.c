#include "cache/shared/shared_answer.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/answer_file.h"
#include "cache/compress.h"
#include "protocol/base.h"

static const char MAGIC[8] = {'P', 'A', 'N', 'N', 'I', 'E', 'R', 'S'};

enum {
    VERSION = 1,
    FLAG_PACKED = 1,
    RECORD_MAX = 64 * 1024, /* as in a file */
};

/* A head that is longer than 4 MiB would cost more than what it is for. */
static const uint64_t STORED_MAX = UINT64_C(256) << 30;

struct fixed {
    char magic[8];
    uint32_t version;
    uint32_t flags;
    uint32_t record_len;
    uint32_t zero;
    uint64_t size; /* of the body */
    uint64_t stored_size;
    uint8_t sha256[SHA256_SIZE]; /* of the body */
    uint8_t rest[SHA256_SIZE];   /* of record and pieces */
    uint8_t check[24];           /* first bytes of the SHA-256 of all of the above */
};
_Static_assert(sizeof(struct fixed) == SHARED_ANSWER_FIXED, "the head's layout is the format");

void shared_answer_key(const char *repo_id, const struct key *key, char out[OBJECT_KEY_MAX + 1])
{
    char hex[KEY_HEX_SIZE];

    key_to_hex(key, hex);
    must(snprintf(out, OBJECT_KEY_MAX + 1, "answers/%s/%s", repo_id, hex) <= OBJECT_KEY_MAX);
}

/* ---- pieces ---- */

size_t shared_answer_pieces(uint64_t stored_size)
{
    if (stored_size <= SHARED_ANSWER_FIRST)
        return stored_size > 0 ? 1 : 0;
    return 1 + (size_t)((stored_size + SHARED_ANSWER_PIECE - 1) / SHARED_ANSWER_PIECE);
}

uint64_t shared_answer_piece_at(size_t i)
{
    if (i <= 1)
        return i == 0 ? 0 : SHARED_ANSWER_FIRST;
    return (uint64_t)(i - 1) * SHARED_ANSWER_PIECE;
}

static size_t piece_len(size_t i, uint64_t stored_size)
{
    uint64_t at = shared_answer_piece_at(i), next = shared_answer_piece_at(i + 1);

    return (size_t)((next < stored_size ? next : stored_size) - at);
}

/* ---- the head ---- */

void shared_answer_head_clear(struct shared_answer_head *h)
{
    entry_clear(&h->answer.entry);
    free(h->pieces);
    *h = (struct shared_answer_head){0};
}

static void sha256_of(const void *data, size_t len, uint8_t out[SHA256_SIZE])
{
    struct key digest;

    key_of(data, len, &digest);
    memcpy(out, digest.raw, SHA256_SIZE);
}

static void check_of(const struct fixed *f, uint8_t out[sizeof(f->check)])
{
    uint8_t full[SHA256_SIZE];

    sha256_of(f, offsetof(struct fixed, check), full);
    memcpy(out, full, sizeof(f->check));
}

int shared_answer_head_write(const struct shared_answer_head *h, struct bytes *out, struct err *err)
{
    struct fixed f = {
        .version = htole32(VERSION),
        .flags = htole32(h->packed ? FLAG_PACKED : 0),
        .size = htole64(h->answer.entry.size),
        .stored_size = htole64(h->stored_size),
    };
    size_t pieces_len = h->pieces_count * CHECKSUM_SIZE;
    struct bytes rest;
    int rc = 0;

    must(h->pieces_count == shared_answer_pieces(h->stored_size));
    must(h->packed || h->stored_size == h->answer.entry.size);
    if (h->stored_size > STORED_MAX)
        return err_set(err, ERR_INPUT, "an answer is too long to be shared");
    bytes_init(&rest, RECORD_MAX + pieces_len);
    if (entry_write(&h->answer.entry, &rest) != 0 || rest.len > RECORD_MAX)
        rc = err_set(err, ERR_INPUT, "an answer's record is too long to be shared");
    if (rc == 0) {
        memcpy(f.magic, MAGIC, sizeof(f.magic));
        memcpy(f.sha256, h->answer.sha256, SHA256_SIZE);
        f.record_len = htole32((uint32_t)rest.len);
        if (pieces_len > 0)
            must(bytes_add(&rest, h->pieces, pieces_len) == 0);
        sha256_of(rest.data, rest.len, f.rest);
        check_of(&f, f.check);
    }
    if (rc == 0 && (bytes_add(out, &f, sizeof(f)) != 0 || bytes_add(out, rest.data, rest.len) != 0))
        rc = err_set(err, ERR_INPUT, "the head of a shared answer is too long");
    bytes_clear(&rest);
    return rc;
}

static int read_fixed(const void *data, struct fixed *f, size_t *size, struct err *err)
{
    uint8_t check[sizeof(f->check)];

    memcpy(f, data, sizeof(*f));
    check_of(f, check);
    if (memcmp(f->magic, MAGIC, sizeof(MAGIC)) != 0 || memcmp(f->check, check, sizeof(check)) != 0)
        return err_set(err, ERR_CORRUPT, "a shared answer's head is damaged");
    f->version = le32toh(f->version);
    if (f->version != VERSION)
        return err_set(err, ERR_REFUSED,
                       "a shared answer is of version %u, written by another pannier", f->version);
    f->flags = le32toh(f->flags);
    f->record_len = le32toh(f->record_len);
    f->size = le64toh(f->size);
    f->stored_size = le64toh(f->stored_size);
    if ((f->flags & ~(uint32_t)FLAG_PACKED) != 0 || f->zero != 0 || f->record_len > RECORD_MAX ||
        f->stored_size > STORED_MAX || (f->flags == 0 && f->stored_size != f->size))
        return err_set(err, ERR_CORRUPT, "a shared answer's head makes no sense");
    *size = sizeof(*f) + f->record_len + shared_answer_pieces(f->stored_size) * CHECKSUM_SIZE;
    return 0;
}

int shared_answer_head_size(const void *data, size_t len, size_t *size, struct err *err)
{
    struct fixed f;

    must(len >= SHARED_ANSWER_FIXED);
    return read_fixed(data, &f, size, err);
}

static int read_record(const char *record, const struct fixed *f, struct entry *out,
                       struct err *err)
{
    if (entry_read(record, f->record_len, out, err) != 0)
        return -1;
    if (out->kind != ENTRY_ANSWER || out->size != f->size) {
        entry_clear(out);
        return err_set(err, ERR_CORRUPT, "a shared answer's record makes no sense");
    }
    out->tier = TIER_SHARED;
    out->stored_size = f->stored_size;
    out->packed = f->flags == FLAG_PACKED;
    return 0;
}

int shared_answer_head_read(const void *data, size_t len, struct shared_answer_head *out,
                            struct err *err)
{
    const char *rest = (const char *)data + SHARED_ANSWER_FIXED;
    uint8_t digest[SHA256_SIZE];
    struct fixed f;
    size_t size;

    *out = (struct shared_answer_head){0};
    if (len < SHARED_ANSWER_FIXED)
        return err_set(err, ERR_CORRUPT, "a shared answer's head is cut short");
    if (read_fixed(data, &f, &size, err) != 0)
        return -1;
    if (size != len)
        return err_set(err, ERR_CORRUPT, "a shared answer's head has another length than it says");
    sha256_of(rest, len - SHARED_ANSWER_FIXED, digest);
    if (memcmp(digest, f.rest, SHA256_SIZE) != 0)
        return err_set(err, ERR_CORRUPT, "a shared answer's head is damaged");
    if (read_record(rest, &f, &out->answer.entry, err) != 0)
        return -1;
    memcpy(out->answer.sha256, f.sha256, SHA256_SIZE);
    out->packed = f.flags == FLAG_PACKED;
    out->stored_size = f.stored_size;
    out->pieces_count = shared_answer_pieces(f.stored_size);
    if (out->pieces_count > 0) {
        out->pieces = xmalloc(out->pieces_count * CHECKSUM_SIZE);
        memcpy(out->pieces, rest + f.record_len, out->pieces_count * CHECKSUM_SIZE);
    }
    return 0;
}

/* ---- put ---- */

/* The checksums of pieces, from what passes. */
struct tally {
    struct answer_file_stored stored;
    uint8_t (*pieces)[CHECKSUM_SIZE]; /* once something passes */
    size_t piece;
    size_t done; /* bytes of it */
    struct checksum *sum;
};

static int tally_piece(void *ctx, const void *data, size_t len, struct err *err)
{
    struct tally *t = ctx;
    const char *p = data;

    if (t->stored.len > STORED_MAX)
        return err_set(err, ERR_INPUT, "an answer is too long to be shared");
    if (t->pieces == NULL)
        t->pieces = xcalloc(shared_answer_pieces(t->stored.len), CHECKSUM_SIZE);
    while (len > 0) {
        size_t size = piece_len(t->piece, t->stored.len), left = size - t->done;
        size_t n = len < left ? len : left;

        checksum_update(t->sum, p, n);
        t->done += n;
        p += n;
        len -= n;
        if (t->done < size)
            continue;
        checksum_take(t->sum, t->pieces[t->piece++]);
        t->done = 0;
    }
    return 0;
}

static int send_object(struct object_store *store, const char *object_key,
                       const struct object_source *source, uint64_t *sent, struct err *err)
{
    struct object_put_options options = {.only_new = object_store_has_conditions(store)};
    int rc = object_put(store, object_key, source, &options, NULL, err);

    /* An endpoint may lack what its driver has, which shows now.  Then one of two that put it at
     * once does so in vain, and no more. */
    if (rc != 0 && options.only_new && !object_store_has_conditions(store))
        rc = object_put(store, object_key, source, NULL, NULL, err);
    if (rc != 0 && err->kind == ERR_CONFLICT)
        return 0;
    if (rc == 0)
        *sent = source->head_len + source->size;
    return rc;
}

/* It isn't there, the file is good, and h is filled. */
static int put_whole(struct object_store *store, const char *object_key, int fd,
                     const struct shared_answer_head *h, uint64_t *sent, struct err *err)
{
    struct object_source source = {.fd = fd, .size = h->stored_size};
    struct bytes head;
    int rc;

    bytes_init(&head, SHARED_ANSWER_FIXED + RECORD_MAX + h->pieces_count * CHECKSUM_SIZE);
    rc = shared_answer_head_write(h, &head, err);
    if (rc == 0) {
        source.head = head.data;
        source.head_len = head.len;
        rc = send_object(store, object_key, &source, sent, err);
    }
    bytes_clear(&head);
    return rc;
}

static int read_and_put(struct object_store *store, const char *object_key, int fd,
                        const char *applied, const atomic_bool *stop, uint64_t *sent,
                        struct err *err)
{
    struct shared_answer_head h = {0};
    struct tally t = {.sum = checksum_new()};
    int rc = answer_file_read(fd, &h.answer.entry, stop, &t.stored, tally_piece, &t, err);

    if (rc == 0) {
        memcpy(h.answer.sha256, t.stored.sha256, SHA256_SIZE);
        h.packed = h.answer.entry.packed;
        h.stored_size = t.stored.len;
        h.pieces = t.pieces;
        h.pieces_count = t.piece;
        t.pieces = NULL;
        free(h.answer.entry.path);
        h.answer.entry.path = xstrdup(object_key);
        if (applied != NULL && applied[0] != '\0')
            h.answer.entry.applied = xstrdup(applied);
        rc = stop != NULL && atomic_load(stop)
                 ? err_set(err, ERR_CANCELLED, "pannier is shutting down")
                 : put_whole(store, object_key, fd, &h, sent, err);
    }
    checksum_free(t.sum);
    free(t.pieces);
    shared_answer_head_clear(&h);
    return rc;
}

/* ---- get ---- */

#define HEAD_MAX                                                                                   \
    (SHARED_ANSWER_FIXED + RECORD_MAX + shared_answer_pieces(STORED_MAX) * CHECKSUM_SIZE)

struct getting {
    const char *object_key, *repo_id;
    const struct shared_answer_sink *sink;
    struct cutoffs *cutoffs; /* may be NULL */
    bool late;
    struct object_info info;
    struct bytes head;
    size_t head_size;            /* 0: not yet known */
    struct shared_answer_head h; /* once begun */
    bool begun;
    size_t piece;         /* that is coming */
    size_t held;          /* bytes of it that have come */
    char *buf;            /* with them */
    struct checksum *sum; /* of them */
    struct decompressor *unpacker;
};

static bool was_put_too_late(const struct getting *g)
{
    const struct entry *e = &g->h.answer.entry;
    struct key repo_id;

    return g->cutoffs != NULL && key_from_hex(e->repo_id, &repo_id) &&
           cutoffs_refuse(g->cutoffs, &repo_id, e->applied);
}

/* The whole head is here. */
static int begin(struct getting *g, struct err *err)
{
    const struct entry *e = &g->h.answer.entry;

    if (shared_answer_head_read(g->head.data, g->head.len, &g->h, err) != 0)
        return -1;
    if (strcmp(e->repo_id, g->repo_id) != 0 || strcmp(e->path, g->object_key) != 0)
        return err_set(err, ERR_CORRUPT, "another answer lies there");
    if (g->info.size != g->head_size + g->h.stored_size)
        return err_set(err, ERR_CORRUPT, "a shared answer has another length than it says");
    g->late = was_put_too_late(g);
    if (g->late)
        return err_set(err, ERR_NOT_FOUND,
                       "%s was put by a node that had yet to hear of an invalidation",
                       g->object_key);
    bytes_clear(&g->head);
    if (g->h.packed)
        g->unpacker = decompressor_new(e->size, g->sink->data, g->sink->ctx);
    g->begun = true;
    return g->sink->begin(g->sink->ctx, &g->h.answer, err);
}

/* What of data belongs to the head. */
static int take_head(struct getting *g, const char **data, size_t *len, struct err *err)
{
    while (!g->begun && *len > 0) {
        size_t want = g->head_size > 0 ? g->head_size : SHARED_ANSWER_FIXED;
        size_t n = want - g->head.len < *len ? want - g->head.len : *len;

        must(bytes_add(&g->head, *data, n) == 0);
        *data += n;
        *len -= n;
        if (g->head.len < want)
            return 0;
        if (g->head_size > 0)
            return begin(g, err);
        if (shared_answer_head_size(g->head.data, g->head.len, &g->head_size, err) != 0)
            return -1;
    }
    return 0;
}

static int hand_on(struct getting *g, const char *data, size_t len, struct err *err)
{
    if (g->unpacker != NULL)
        return decompressor_take(g->unpacker, data, len, err);
    return g->sink->data(g->sink->ctx, data, len, err);
}

static int check_piece(struct getting *g, struct err *err)
{
    uint8_t found[CHECKSUM_SIZE];

    checksum_take(g->sum, found);
    if (memcmp(found, g->h.pieces[g->piece], CHECKSUM_SIZE) != 0)
        return err_set(err, ERR_CORRUPT, "a shared answer is damaged at byte %llu",
                       (unsigned long long)shared_answer_piece_at(g->piece));
    return 0;
}

/* What of data belongs to the piece that is coming: kept until its end has come, and handed on with
 * that, which needs no copy. */
static int take_piece(struct getting *g, const char **data, size_t *len, struct err *err)
{
    size_t size = piece_len(g->piece, g->h.stored_size);
    size_t n = *len < size - g->held ? *len : size - g->held;
    const char *from = *data;

    checksum_update(g->sum, from, n);
    *data += n;
    *len -= n;
    if (g->held + n < size) {
        if (g->buf == NULL)
            g->buf = xmalloc(SHARED_ANSWER_PIECE);
        memcpy(g->buf + g->held, from, n);
        g->held += n;
        return 0;
    }
    if (check_piece(g, err) != 0 || (g->held > 0 && hand_on(g, g->buf, g->held, err) != 0))
        return -1;
    g->piece++;
    g->held = 0;
    return hand_on(g, from, n, err);
}

static int take(void *ctx, const void *data, size_t len, struct err *err)
{
    struct getting *g = ctx;
    const char *p = data;
    int rc = take_head(g, &p, &len, err);

    while (rc == 0 && len > 0) {
        if (g->piece == g->h.pieces_count)
            return err_set(err, ERR_CORRUPT, "something follows a shared answer");
        rc = take_piece(g, &p, &len, err);
    }
    return rc;
}

static int finish(struct getting *g, struct err *err)
{
    if (!g->begun || g->piece < g->h.pieces_count)
        return err_set(err, ERR_CORRUPT, "a shared answer is cut short");
    return g->unpacker != NULL ? decompressor_end(g->unpacker, err) : 0;
}

int shared_answer_get(struct object_store *store, struct cutoffs *cutoffs, const char *repo_id,
                      const struct key *key, const struct shared_answer_sink *sink, struct err *err)
{
    char object_key[OBJECT_KEY_MAX + 1];
    struct getting g = {.object_key = object_key,
                        .repo_id = repo_id,
                        .sink = sink,
                        .cutoffs = cutoffs,
                        .sum = checksum_new()};
    struct err ignored;
    int rc;

    shared_answer_key(repo_id, key, object_key);
    bytes_init(&g.head, HEAD_MAX);
    rc = object_get(store, object_key, 0, UINT64_MAX, &g.info, take, &g, err);
    if (rc == 0)
        rc = finish(&g, err);
    if (rc != 0 && err->kind == ERR_CORRUPT)
        err_prefix(err, "%s", object_key);
    if (g.late) /* it would be in the way of the next one */
        object_remove(store, object_key, &ignored);
    decompressor_free(&g.unpacker);
    checksum_free(g.sum);
    free(g.buf);
    bytes_clear(&g.head);
    shared_answer_head_clear(&g.h);
    return rc;
}

/* ---- what is there ---- */

static int begin_nothing(void *ctx, const struct shared_answer *what, struct err *err)
{
    (void)ctx;
    (void)what;
    (void)err;
    return 0;
}

static int take_only_head(void *ctx, const void *data, size_t len, struct err *err)
{
    const char *p = data;

    return take_head(ctx, &p, &len, err);
}

/* 1: that was not all of it.  head_size: 0, or what is known of it. */
static int read_head(struct object_store *store, struct getting *g, struct err *err)
{
    uint64_t length = g->head_size > 0 ? g->head_size : SHARED_ANSWER_FIRST;
    int rc;

    bytes_reset(&g->head);
    g->head_size = 0;
    rc = object_get(store, g->object_key, 0, length, &g->info, take_only_head, g, err);
    return rc != 0 || g->begun ? rc : 1;
}

/* Was what is there put too late?  Then it is removed.  Without an invalidation of the repository
 * nothing was, and nothing is read.  *gone: there is none any more. */
static int remove_late(struct object_store *store, struct cutoffs *cutoffs,
                       const struct key *repo_id, const char *repo_hex, const char *object_key,
                       bool *gone, struct err *err)
{
    const struct shared_answer_sink sink = {.begin = begin_nothing};
    struct getting g = {
        .object_key = object_key, .repo_id = repo_hex, .sink = &sink, .cutoffs = cutoffs};
    int rc;

    *gone = false;
    if (cutoffs == NULL || !cutoffs_refuse(cutoffs, repo_id, NULL))
        return 0;
    bytes_init(&g.head, HEAD_MAX);
    rc = read_head(store, &g, err);
    if (rc == 1)
        rc = read_head(store, &g, err);
    *gone = g.late || (rc == -1 && err->kind == ERR_NOT_FOUND);
    if (*gone)
        rc = object_remove(store, object_key, err);
    else if (rc == 1 || (rc != 0 && (err->kind == ERR_CORRUPT || err->kind == ERR_REFUSED)))
        rc = 0; /* whoever gets it finds out */
    decompressor_free(&g.unpacker);
    bytes_clear(&g.head);
    shared_answer_head_clear(&g.h);
    return rc;
}

int shared_answer_has(struct object_store *store, struct cutoffs *cutoffs, const char *repo_id,
                      const struct key *key, bool *has, struct err *err)
{
    char object_key[OBJECT_KEY_MAX + 1];
    struct object_info there;
    struct key repo;
    bool gone;
    int rc;

    *has = false;
    if (!key_from_hex(repo_id, &repo))
        return 0;
    shared_answer_key(repo_id, key, object_key);
    rc = object_head(store, object_key, &there, err);
    if (rc == 0)
        rc = remove_late(store, cutoffs, &repo, repo_id, object_key, &gone, err);
    if (rc != 0)
        return err->kind == ERR_NOT_FOUND || err->kind == ERR_CORRUPT ? 0 : -1;
    /* An object is whole or not there; what has no room for a head is none of ours. */
    *has = !gone && there.size > SHARED_ANSWER_FIXED;
    return 0;
}

/* 0: *there says whether one is there already; what is damaged or was put too late is not, and not
 * in the way either. */
static int make_way(struct object_store *store, struct cutoffs *cutoffs, const struct key *repo_id,
                    const char *repo_hex, const char *object_key, bool *there, struct err *err)
{
    struct object_info info;
    bool gone;

    *there = false;
    if (object_head(store, object_key, &info, err) == 0) {
        if (remove_late(store, cutoffs, repo_id, repo_hex, object_key, &gone, err) != 0)
            return -1;
        *there = !gone;
        return 0;
    }
    if (err->kind == ERR_CORRUPT)
        return object_remove(store, object_key, err);
    return err->kind == ERR_NOT_FOUND ? 0 : -1;
}

int shared_answer_put(struct object_store *store, struct cutoffs *cutoffs, const struct key *key,
                      int fd, const char *applied, const atomic_bool *stop, uint64_t *sent,
                      struct err *err)
{
    char object_key[OBJECT_KEY_MAX + 1];
    struct entry entry;
    struct key repo_id;
    bool there = false;
    int rc;

    *sent = 0;
    rc = answer_file_describe(fd, &entry, NULL, err);
    if (rc == 0 && !key_from_hex(entry.repo_id, &repo_id))
        rc = err_set(err, ERR_CORRUPT, "an answer's record names no repository");
    if (rc == 0) {
        shared_answer_key(entry.repo_id, key, object_key);
        rc = make_way(store, cutoffs, &repo_id, entry.repo_id, object_key, &there, err);
    }
    entry_clear(&entry);
    if (rc != 0 || there)
        return rc;
    return read_and_put(store, object_key, fd, applied, stop, sent, err);
}
