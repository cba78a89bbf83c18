#include "cache/answer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/lock.h"
#include "protocol/base.h"

enum {
    /* What the file takes at once.  The page cache keeps it in such pieces, and sendfile costs
     * readers a quarter less than of small ones; bigger ones bring readers hardly anything, and the
     * kernel has to find them. */
    WRITE_SIZE = 128 * 1024,
    /* Where it is known how much comes the file system gives its blocks ahead, so many bytes at
     * once: asked for one by one they cost half as much as writing them.  Not all at once, as a
     * file system in memory fills them with zeros while the first byte waits. */
    RESERVE_SIZE = 32 << 20,
};
_Static_assert(ANSWER_WINDOW % WRITE_SIZE == 0, "a piece lies in the window in one piece");

struct answer {
    atomic_int refs;
    uint64_t number;
    struct lock lock;
    pthread_cond_t room; /* window mode: a reader took something, or left; or summing is over */

    enum answer_state state;
    enum answer_source source;
    struct err why;
    int64_t note_offset;
    int64_t promised; /* bytes that there will be; -1: not known */

    /* [0, file_len) lies in the file, [window_start, total) in the window.  The file takes the
     * window's bytes as soon as they are an aligned piece. */
    int fd;
    char *path; /* unlinked with the last reference; NULL when there's no name to unlink */
    uint64_t file_len;
    uint64_t total;
    char *window; /* byte b lies at b % ANSWER_WINDOW; NULL while nothing needs it */
    uint64_t window_start;
    bool passing;        /* nothing goes into the file: the readers make room */
    struct claim *claim; /* producer's; on what the file takes */
    uint64_t reserved;   /* producer's; bytes that there is room for */
    bool storage_failed;
    struct err storage_why;

    /* Producer's; of the body, while it is in file mode and they are to be taken of it. */
    struct digest *sha256;
    struct checksum *checksum;
    bool digest_known; /* from before the first byte, or from the end on */
    bool checksum_known;
    bool summing; /* somebody reads the file for it */
    uint8_t known_sha256[SHA256_SIZE];
    uint8_t known_checksum[CHECKSUM_SIZE];
    struct answer_reader *readers;
};

struct answer *answer_new_filling(void)
{
    static atomic_uint_fast64_t count;
    struct answer *a = xcalloc(1, sizeof(*a));

    a->number = atomic_fetch_add(&count, 1);
    atomic_init(&a->refs, 1);
    lock_init(&a->lock, LOCK_ANSWER);
    lock_cond_init(&a->room);
    a->note_offset = a->promised = -1;
    a->fd = -1;
    return a;
}

struct answer *answer_new_passing(void)
{
    struct answer *a = answer_new_filling();

    a->passing = true;
    return a;
}

struct answer *answer_ref(struct answer *a)
{
    must(atomic_fetch_add(&a->refs, 1) > 0);
    return a;
}

void answer_unref(struct answer **ap)
{
    struct answer *a = *ap;

    *ap = NULL;
    if (a == NULL || atomic_fetch_sub(&a->refs, 1) > 1)
        return;
    must(a->readers == NULL);
    if (a->path != NULL)
        unlink(a->path);
    if (a->fd >= 0)
        close(a->fd);
    local_claim_free(&a->claim); /* now that the bytes are gone */
    digest_free(a->sha256);
    checksum_free(a->checksum);
    pthread_cond_destroy(&a->room);
    lock_clear(&a->lock);
    free(a->window);
    free(a->path);
    free(a);
}

/* Unlink all armed readers into a list of their own, so that they can be woken without the lock:
 * waking may make one read, arm and be linked again. */
static struct answer_reader *take_armed_locked(struct answer *a)
{
    struct answer_reader *woken = NULL;

    for (struct answer_reader *r = a->readers; r != NULL; r = r->next) {
        if (!r->armed)
            continue;
        r->armed = false;
        r->next_woken = woken;
        woken = r;
    }
    return woken;
}

static void wake_all(struct answer_reader *woken)
{
    while (woken != NULL) {
        struct answer_reader *r = woken;

        /* Read before the call: afterwards r may be closed, or armed again. */
        woken = r->next_woken;
        r->wake(r->ctx);
    }
}

/* What is taken of the bytes to come. */
static void take_sums(struct answer *a, bool digest, bool checksum)
{
    must(a->total == 0);
    digest_free(a->sha256);
    checksum_free(a->checksum);
    a->sha256 = digest && a->fd >= 0 ? digest_new(HASH_SHA256) : NULL;
    a->checksum = checksum && a->fd >= 0 ? checksum_new() : NULL;
    a->digest_known = a->checksum_known = false;
}

void answer_tell_digest(struct answer *a, const uint8_t sha256[SHA256_SIZE])
{
    must(a->sha256 == NULL);
    memcpy(a->known_sha256, sha256, SHA256_SIZE);
    a->digest_known = true;
}

void answer_set_digest(struct answer *a, const uint8_t sha256[SHA256_SIZE])
{
    take_sums(a, sha256 == NULL, sha256 == NULL);
    if (sha256 != NULL)
        answer_tell_digest(a, sha256);
}

void answer_await_digest(struct answer *a)
{
    take_sums(a, false, true);
}

void answer_promise_size(struct answer *a, int64_t size)
{
    lock_take(&a->lock);
    must(a->total == 0 && size >= -1);
    a->promised = size;
    lock_drop(&a->lock);
}

bool answer_checksum_so_far(struct answer *a, uint8_t out[CHECKSUM_SIZE])
{
    if (a->passing || a->checksum == NULL)
        return false;
    checksum_take(a->checksum, a->known_checksum);
    checksum_free(a->checksum);
    a->checksum = NULL;
    a->checksum_known = true;
    memcpy(out, a->known_checksum, CHECKSUM_SIZE);
    return true;
}

/* From here on bytes pass through memory.  What the file holds can still be read from it. */
static void start_passing(struct answer *a, uint64_t file_len, const struct err *why)
{
    lock_take(&a->lock);
    a->storage_failed = why->kind != ERR_LIMIT; /* that it has no room is no trouble */
    a->storage_why = *why;
    a->passing = true;
    a->file_len = a->window_start = file_len;
    lock_drop(&a->lock);
}

void answer_store_at(struct answer *a, const char *path, struct claim **claim)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    struct err why;

    must(a->fd < 0 && !a->passing && a->total == 0);
    a->claim = *claim;
    *claim = NULL;
    if (fd < 0) {
        err_errno(&why, ERR_STORAGE, "create %s", path);
        start_passing(a, 0, &why);
        return;
    }
    lock_take(&a->lock);
    a->fd = fd;
    a->path = xstrdup(path);
    lock_drop(&a->lock);
    take_sums(a, true, true);
}

/* Room for what ends at `end`. */
static int reserve(struct answer *a, uint64_t end, struct err *err)
{
    uint64_t step = end - a->reserved;

    if (end <= a->reserved)
        return 0;
    if (a->promised >= 0 && end < (uint64_t)a->promised) {
        step = (uint64_t)a->promised - a->reserved;
        step = step < RESERVE_SIZE ? step : RESERVE_SIZE;
    }
    if (a->claim != NULL && local_claim_grow(a->claim, step, err) != 0)
        return -1;
    /* Whatever else it says, the write will tell. */
    if (a->promised >= 0 &&
        fallocate(a->fd, FALLOC_FL_KEEP_SIZE, (off_t)a->reserved, (off_t)step) != 0 &&
        errno == ENOSPC)
        return err_errno(err, ERR_STORAGE, "reserve room for an answer");
    a->reserved += step;
    return 0;
}

/* Appends to the file what has its place at `at`; returns how much of it the disk took.  When that
 * isn't all, *why says why. */
static size_t write_some(struct answer *a, const char *data, size_t len, uint64_t at,
                         struct err *why)
{
    size_t done = 0;

    if (reserve(a, at + len, why) != 0)
        return 0;
    while (done < len) {
        ssize_t n = pwrite(a->fd, data + done, len - done, (off_t)(at + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            err_errno(why, ERR_STORAGE, "write an answer");
            break;
        }
        done += (size_t)n;
    }
    return done;
}

/* What the window holds goes into the file, all of it or as much as the disk takes.  The file ends
 * at a multiple of WRITE_SIZE until the last time, so the bytes lie in one piece. */
static void flush(struct answer *a)
{
    uint64_t at = a->file_len;
    size_t len = (size_t)(a->total - at), n;
    struct err why;

    if (len == 0)
        return;
    n = write_some(a, a->window + at % ANSWER_WINDOW, len, at, &why);
    if (n < len) {
        start_passing(a, at + n, &why);
        return;
    }
    lock_take(&a->lock);
    a->file_len = a->window_start = at + n;
    lock_drop(&a->lock);
}

/* Of whole pieces that come in one the window would only be a detour.  Returns how much went into
 * the file. */
static size_t write_through(struct answer *a, const char *data, size_t len)
{
    uint64_t at = a->file_len;
    struct err why;
    size_t n;

    if (a->fd < 0 || a->passing || a->total != at || at % WRITE_SIZE != 0 || len < WRITE_SIZE)
        return 0;
    n = write_some(a, data, WRITE_SIZE, at, &why);
    lock_take(&a->lock);
    a->file_len = a->window_start = a->total = at + n;
    lock_drop(&a->lock);
    if (n < WRITE_SIZE)
        start_passing(a, at + n, &why);
    return n;
}

static size_t window_copy_in_locked(struct answer *a, const char *data, size_t len)
{
    size_t at = (size_t)(a->total % ANSWER_WINDOW);
    size_t left = WRITE_SIZE - at % WRITE_SIZE, n = left < len ? left : len;

    if (a->window == NULL)
        a->window = xmalloc(ANSWER_WINDOW);
    memcpy(a->window + at, data, n);
    a->total += n;
    return n;
}

/* While passing, bytes before the slowest open reader's offset are not needed any more. */
static size_t window_room_locked(struct answer *a)
{
    uint64_t slowest = a->total;

    for (struct answer_reader *r = a->readers; r != NULL && a->passing; r = r->next)
        if (r->offset < slowest)
            slowest = r->offset;
    if (a->passing && slowest > a->window_start)
        a->window_start = slowest;
    return (size_t)(ANSWER_WINDOW - (a->total - a->window_start));
}

/* All readers are past what the file holds, and who comes now comes too late. */
static bool file_has_passed_locked(const struct answer *a)
{
    return a->passing && a->claim != NULL && a->window_start > a->file_len;
}

/* A slow client may take hours for the rest; others need the room. */
static void give_room_back(struct answer *a)
{
    if (a->fd < 0 || ftruncate(a->fd, 0) == 0)
        local_claim_free(&a->claim);
}

/* Goes on when there is room in the window, or nobody needs any.  Whoever sleeps for more of what
 * stands there makes room by reading it. */
static size_t wait_for_room_locked(struct answer *a)
{
    size_t room;

    while ((room = window_room_locked(a)) == 0 && a->readers != NULL) {
        struct answer_reader *woken = take_armed_locked(a);

        if (woken == NULL) {
            lock_wait(&a->lock, &a->room);
            continue;
        }
        lock_drop(&a->lock);
        wake_all(woken);
        lock_take(&a->lock);
    }
    return room;
}

/* Returns how much of it was taken; 0: nobody reads what passes through. */
static size_t write_into_window(struct answer *a, const char *data, size_t len)
{
    size_t n = 0, room;
    bool passed;

    lock_take(&a->lock);
    room = wait_for_room_locked(a);
    if (!a->passing || a->readers != NULL)
        n = window_copy_in_locked(a, data, room < len ? room : len);
    passed = file_has_passed_locked(a);
    lock_drop(&a->lock);
    if (n > 0 && passed)
        give_room_back(a);
    if (!a->passing && a->total % WRITE_SIZE == 0)
        flush(a);
    return n;
}

int answer_append(struct answer *a, const void *data, size_t len, struct err *err)
{
    const char *from = data;
    struct answer_reader *woken;

    must(a->state == ANSWER_FILLING);
    if (a->sha256 != NULL)
        digest_update(a->sha256, data, len);
    if (a->checksum != NULL)
        checksum_update(a->checksum, data, len);
    while (len > 0) {
        size_t n = write_through(a, from, len);

        if (n == 0)
            n = write_into_window(a, from, len);
        if (n == 0)
            return err_set(err, ERR_CANCELLED, "nobody reads this any more");
        from += n;
        len -= n;
    }
    /* Once for all of it: what they do costs both sides more than a piece does. */
    lock_take(&a->lock);
    woken = take_armed_locked(a);
    lock_drop(&a->lock);
    wake_all(woken);
    return 0;
}

void answer_set_note_offset(struct answer *a, int64_t offset)
{
    lock_take(&a->lock);
    must(offset >= (int64_t)a->total || (offset == -1 && a->total == 0));
    a->note_offset = offset;
    lock_drop(&a->lock);
}

void answer_set_source(struct answer *a, enum answer_source source)
{
    lock_take(&a->lock);
    a->source = source;
    lock_drop(&a->lock);
}

static void stop_filling(struct answer *a, enum answer_state state, const struct err *why)
{
    struct answer_reader *woken;

    lock_take(&a->lock);
    must(a->state == ANSWER_FILLING);
    a->state = state;
    if (why != NULL)
        a->why = *why;
    woken = take_armed_locked(a);
    lock_drop(&a->lock);
    wake_all(woken);
}

void answer_end(struct answer *a)
{
    if (!a->passing)
        flush(a);
    must(a->promised < 0 || a->total == (uint64_t)a->promised);
    lock_take(&a->lock);
    if (a->passing) { /* perhaps since just now, as the disk failed */
        a->digest_known = a->checksum_known = false;
    } else {
        free(a->window);
        a->window = NULL;
        if (a->sha256 != NULL) {
            digest_final(a->sha256, a->known_sha256);
            a->digest_known = true;
        }
        if (a->checksum != NULL) {
            checksum_take(a->checksum, a->known_checksum);
            a->checksum_known = true;
        }
    }
    lock_drop(&a->lock);
    stop_filling(a, ANSWER_WHOLE, NULL);
}

void answer_fail(struct answer *a, const struct err *why)
{
    stop_filling(a, ANSWER_FAILED, why);
}

enum answer_state answer_state(struct answer *a)
{
    enum answer_state state;

    lock_take(&a->lock);
    state = a->state;
    lock_drop(&a->lock);
    return state;
}

enum answer_source answer_source(struct answer *a)
{
    enum answer_source source;

    lock_take(&a->lock);
    source = a->source;
    lock_drop(&a->lock);
    return source;
}

uint64_t answer_size(struct answer *a)
{
    uint64_t total;

    lock_take(&a->lock);
    total = a->total;
    lock_drop(&a->lock);
    return total;
}

int64_t answer_promised_size(struct answer *a)
{
    int64_t size;

    lock_take(&a->lock);
    size = a->promised;
    lock_drop(&a->lock);
    return size;
}

uint64_t answer_number(const struct answer *a)
{
    return a->number;
}

int64_t answer_note_offset(struct answer *a)
{
    int64_t offset;

    lock_take(&a->lock);
    offset = a->note_offset;
    lock_drop(&a->lock);
    return offset;
}

bool answer_has_readers(struct answer *a)
{
    bool has;

    lock_take(&a->lock);
    has = a->readers != NULL;
    lock_drop(&a->lock);
    return has;
}

void answer_why(struct answer *a, struct err *why)
{
    lock_take(&a->lock);
    *why = a->why;
    lock_drop(&a->lock);
}

bool answer_storage_trouble(struct answer *a, struct err *why)
{
    bool failed;

    lock_take(&a->lock);
    failed = a->storage_failed;
    if (failed)
        *why = a->storage_why;
    lock_drop(&a->lock);
    return failed;
}

int answer_dup_fd(struct answer *a)
{
    int fd = -1;

    lock_take(&a->lock);
    if (a->fd >= 0)
        fd = fcntl(a->fd, F_DUPFD_CLOEXEC, 0);
    lock_drop(&a->lock);
    return fd;
}

int answer_fd(struct answer *a)
{
    int fd;

    lock_take(&a->lock);
    fd = a->passing ? -1 : a->fd;
    lock_drop(&a->lock);
    return fd;
}

struct claim *answer_take_claim(struct answer *a)
{
    struct claim *claim = a->claim;

    a->claim = NULL;
    return claim;
}

bool answer_digest(struct answer *a, uint8_t out[SHA256_SIZE])
{
    bool known;

    lock_take(&a->lock);
    known = a->state == ANSWER_WHOLE && a->digest_known;
    if (known)
        memcpy(out, a->known_sha256, SHA256_SIZE);
    lock_drop(&a->lock);
    return known;
}

static ssize_t read_from_file(int fd, void *buf, size_t len, uint64_t offset)
{
    ssize_t n;

    do
        n = pread(fd, buf, len, (off_t)offset);
    while (n < 0 && errno == EINTR);
    return n;
}

/* False: the disk lost what it had taken. */
static bool sum_file(int fd, uint64_t size, uint8_t out[CHECKSUM_SIZE])
{
    struct checksum *sum = checksum_new();
    char *block = xmalloc(WRITE_SIZE);
    uint64_t at = 0;
    ssize_t n = 1;

    while (at < size && n > 0) {
        uint64_t left = size - at;

        n = read_from_file(fd, block, left < WRITE_SIZE ? (size_t)left : WRITE_SIZE, at);
        if (n > 0) {
            checksum_update(sum, block, (size_t)n);
            at += (uint64_t)n;
        }
    }
    checksum_take(sum, out);
    checksum_free(sum);
    free(block);
    return at == size;
}

bool answer_checksum(struct answer *a, uint8_t out[CHECKSUM_SIZE])
{
    bool readable, known;

    lock_take(&a->lock);
    while (a->summing)
        lock_wait(&a->lock, &a->room);
    readable = a->state == ANSWER_WHOLE && !a->passing && a->fd >= 0;
    known = readable && a->checksum_known;
    if (known)
        memcpy(out, a->known_checksum, CHECKSUM_SIZE);
    a->summing = readable && !known;
    lock_drop(&a->lock);
    if (known || !readable)
        return known;
    known = sum_file(a->fd, a->total, out);
    lock_take(&a->lock);
    if (known)
        memcpy(a->known_checksum, out, CHECKSUM_SIZE);
    a->checksum_known = known;
    a->summing = false;
    pthread_cond_broadcast(&a->room);
    lock_drop(&a->lock);
    return known;
}

int answer_rename_file(struct answer *a, const char *path, struct err *err)
{
    if (rename(a->path, path) != 0)
        return err_errno(err, ERR_STORAGE, "publish %s", path);
    lock_take(&a->lock);
    free(a->path);
    a->path = NULL;
    lock_drop(&a->lock);
    return 0;
}

void answer_fill_from_file(struct answer *a, int fd, uint64_t size,
                           const uint8_t sha256[SHA256_SIZE], int64_t note_offset,
                           struct claim **claim)
{
    struct answer_reader *woken;

    must(a->claim == NULL);
    a->claim = *claim;
    *claim = NULL;
    lock_take(&a->lock);
    must(a->state == ANSWER_FILLING && a->fd < 0 && !a->passing);
    a->fd = fd;
    a->total = a->file_len = size;
    a->note_offset = note_offset <= (int64_t)size ? note_offset : -1; /* a record may lie */
    memcpy(a->known_sha256, sha256, SHA256_SIZE);
    a->digest_known = true;
    a->source = SOURCE_LOCAL;
    a->state = ANSWER_WHOLE;
    woken = take_armed_locked(a);
    lock_drop(&a->lock);
    wake_all(woken);
}

int answer_reader_open(struct answer_reader *r, struct answer *a, void (*wake)(void *ctx),
                       void *ctx, struct err *err)
{
    bool late;

    *r = (struct answer_reader){.wake = wake, .ctx = ctx};
    lock_take(&a->lock);
    late = a->window_start > a->file_len;
    if (!late) {
        r->answer = answer_ref(a);
        r->next = a->readers;
        if (r->next != NULL)
            r->next->prev = r;
        a->readers = r;
    }
    lock_drop(&a->lock);
    if (late)
        return err_set(err, ERR_BUSY, "the first bytes of this answer have passed already");
    return 0;
}

static size_t window_copy_out_locked(const struct answer_reader *r, char *buf, size_t len)
{
    size_t done = 0;

    while (done < len) {
        size_t at = (size_t)((r->offset + done) % ANSWER_WINDOW);
        size_t n = ANSWER_WINDOW - at < len - done ? ANSWER_WINDOW - at : len - done;

        memcpy(buf + done, r->answer->window + at, n);
        done += n;
    }
    return done;
}

/* Whoever was told how many bytes there will be takes them for the whole when they are there: so
 * the last one only comes when it is whole.  What comes in its place when the producer gives up is
 * a message that may be longer. */
static uint64_t shown_locked(const struct answer *a)
{
    if (a->state == ANSWER_WHOLE || a->promised <= 0 || a->total < (uint64_t)a->promised)
        return a->total;
    return (uint64_t)a->promised - 1;
}

ssize_t answer_reader_look(struct answer_reader *r, void *buf, size_t len, int *fd)
{
    struct answer *a = r->answer;
    uint64_t shown;
    ssize_t n;

    *fd = -1;
    lock_take(&a->lock);
    shown = shown_locked(a);
    if (r->offset >= shown) {
        n = a->state == ANSWER_FILLING ? READER_WAIT
            : a->state == ANSWER_WHOLE ? READER_END
                                       : READER_FAILED;
    } else {
        uint64_t end = r->offset < a->file_len && a->file_len < shown ? a->file_len : shown;

        n = (ssize_t)(end - r->offset);
        /* Only the producer moves file_len, and only up: this range stays readable. */
        if (r->offset < a->file_len)
            *fd = a->fd;
        else
            n = (ssize_t)window_copy_out_locked(r, buf, (size_t)n < len ? (size_t)n : len);
    }
    lock_drop(&a->lock);
    return n;
}

void answer_reader_take(struct answer_reader *r, size_t len)
{
    struct answer *a = r->answer;

    lock_take(&a->lock);
    r->offset += len; /* under the lock: a producer in window mode looks at it */
    pthread_cond_signal(&a->room);
    lock_drop(&a->lock);
}

ssize_t answer_reader_read(struct answer_reader *r, void *buf, size_t len)
{
    int fd;
    ssize_t n = answer_reader_look(r, buf, len, &fd);

    if (n <= 0)
        return n;
    if (fd >= 0)
        n = read_from_file(fd, buf, (size_t)n < len ? (size_t)n : len, r->offset);
    if (n <= 0)
        return READER_FAILED; /* the disk lost what it had taken */
    answer_reader_take(r, (size_t)n);
    return n;
}

bool answer_reader_arm(struct answer_reader *r)
{
    struct answer *a = r->answer;
    bool armed;

    lock_take(&a->lock);
    must(!r->armed);
    armed = a->state == ANSWER_FILLING && r->offset >= shown_locked(a);
    r->armed = armed;
    lock_drop(&a->lock);
    return armed; /* r may be woken, and used again, already */
}

void answer_reader_close(struct answer_reader *r)
{
    struct answer *a = r->answer;

    if (a == NULL)
        return;
    lock_take(&a->lock);
    must(!r->armed);
    if (r->prev != NULL)
        r->prev->next = r->next;
    else
        a->readers = r->next;
    if (r->next != NULL)
        r->next->prev = r->prev;
    pthread_cond_signal(&a->room);
    lock_drop(&a->lock);
    answer_unref(&r->answer);
}
