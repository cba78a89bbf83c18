/* Reading.  The first range goes to the sink as it comes; if the object goes on behind it, other
 * threads read the ranges that follow, each into a slot of its own, and this one hands them out in
 * their order, also as they come.  What is held never passes the slots.
 *
 * Several connections are for what one can't bring: a network that takes its time, a server that
 * gives each its share.  Where the first range shows that one brings as much as can be used, it
 * reads the rest as well: slots, threads and the pause before each range cost more than they bring.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/lock.h"
#include "cache/shared/s3.h"
#include "protocol/base.h"

enum {
    RANGE_SIZE = 8 * 1024 * 1024,
    RANGE_TEXT_SIZE = 64,
    JUDGED_SIZE = 2 * 1024 * 1024, /* by the first bytes */
    /* What is handed out at once while much comes: a thread that is woken for each piece that curl
     * has costs more than what it does with it. */
    HAND_OUT_SIZE = 4 * 1024 * 1024,
    HAND_OUT_MS = 20,
};

/* One range, however many tries it takes. */
struct range {
    struct s3 *s;
    const char *key;
    uint64_t first, length; /* UINT64_MAX: to the end */
    uint64_t done;          /* bytes of it that came, from all tries */
    struct object_info info;
    bool known; /* info is, so the next try must bring the same version */
    bool whole; /* the server knows no ranges */
    object_sink_fn *fn;
    void *ctx;
    int (*head_fn)(struct range *r, struct err *err);
    const atomic_bool *stop;
};

/* The first head tells what the object is; the others must agree. */
static int on_head(void *ctx, const struct http_reply *reply, struct err *err)
{
    struct range *r = ctx;
    uint64_t from = r->first + r->done;
    struct object_info info = {.modified = reply->modified};

    s3_copy_etag(reply->etag, info.etag);
    if (reply->status == 206 && reply->has_range && reply->range_first == from) {
        info.size = reply->range_total;
    } else if (reply->status == 200 && from == 0 && reply->has_length) {
        info.size = reply->length; /* whoever knows no ranges sends all of it */
    } else {
        return err_set(err, ERR_UPSTREAM, "%s answers with another range than was asked for",
                       r->s->endpoint);
    }
    if (r->known && (strcmp(info.etag, r->info.etag) != 0 || info.size != r->info.size))
        return err_set(err, ERR_CONFLICT, "s3 %s, bucket %s, %s: it was replaced while it was read",
                       r->s->endpoint, r->s->bucket, r->key);
    r->info = info;
    if (r->known)
        return 0;
    r->whole = reply->status == 200;
    r->known = true;
    if (r->length > info.size - r->first)
        r->length = info.size - r->first;
    return r->head_fn != NULL ? r->head_fn(r, err) : 0;
}

static int on_data(void *ctx, const void *data, size_t len, struct err *err)
{
    struct range *r = ctx;

    if (len > r->length - r->done) /* all of it came, and a part was asked for */
        len = (size_t)(r->length - r->done);
    if (len > 0 && r->fn(r->ctx, data, len, err) != 0)
        return -1;
    r->done += len;
    return 0;
}

static enum s3_verdict try_range(struct range *r, struct s3_patience *patience, struct s3_answer *a,
                                 struct err *err)
{
    struct s3_ask ask = {.method = "GET",
                         .key = r->key,
                         .head_fn = on_head,
                         .data_fn = on_data,
                         .ctx = r,
                         .stop = r->stop};
    char range[RANGE_TEXT_SIZE], if_match[OBJECT_ETAG_MAX + 2];
    uint64_t from = r->first + r->done;

    if (r->length == UINT64_MAX || r->first > UINT64_MAX - r->length)
        snprintf(range, sizeof(range), "bytes=%llu-", (unsigned long long)from);
    else
        snprintf(range, sizeof(range), "bytes=%llu-%llu", (unsigned long long)from,
                 (unsigned long long)(r->first + r->length - 1));
    s3_ask_header(&ask, "range", range);
    if (r->known && r->info.etag[0] != '\0') {
        snprintf(if_match, sizeof(if_match), "\"%s\"", r->info.etag);
        s3_ask_header(&ask, "if-match", if_match);
    }
    must(s3_ask_hash(&ask, err) == 0); /* of nothing */
    return s3_try(r->s, &ask, patience, a, err);
}

/* A try that was cut goes on where it ended; as long as bytes come there is patience. */
static int read_range(struct range *r, struct err *err)
{
    struct s3_patience patience;
    struct s3_answer a;
    int rc = -1;

    s3_patience_init(&patience, r->s, r->stop);
    s3_answer_init(&a);
    for (;;) {
        uint64_t before = r->done;
        enum s3_verdict verdict = try_range(r, &patience, &a, err);

        if (r->known && r->done == r->length) {
            rc = 0;
            break;
        }
        if (verdict == S3_DONE) /* a 206 that ends early, and says so */
            err_set(err, ERR_UPSTREAM, "%s sends less than was asked for", r->s->endpoint);
        if (r->done > before)
            s3_patience_init(&patience, r->s, r->stop);
        if (verdict == S3_FAILED || !s3_patience_wait(&patience, &a.reply, err))
            break;
    }
    if (rc != 0 && r->known && a.code[0] != '\0' && err->kind == ERR_CONFLICT)
        err_set(err, ERR_CONFLICT, "s3 %s, bucket %s, %s: it was replaced while it was read",
                r->s->endpoint, r->s->bucket, r->key);
    s3_answer_clear(&a);
    return rc;
}

/* ---- several at once ---- */

struct slot {
    char *buf;       /* RANGE_SIZE; once it is used */
    size_t filled;   /* bytes that came */
    unsigned number; /* of the range that it is for */
};

struct download {
    struct s3 *s;
    const char *key;
    uint64_t first, end;     /* of all ranges, the first included */
    struct object_info info; /* of the first */
    pthread_t threads[S3_PARALLEL_MAX];
    unsigned thread_count;
    struct slot slots[S3_PARALLEL_MAX];
    unsigned slot_count;
    unsigned range_count; /* the first is number 0 */
    uint64_t alone;       /* bytes that came by the only connection */
    uint64_t alone_us;    /* since when */
    bool judged;
    atomic_bool stop;

    struct lock lock;
    pthread_cond_t arrived; /* bytes, or a failure; one waits */
    pthread_cond_t freed;   /* a slot, or it is over; the others wait */
    unsigned next;          /* range to be read */
    unsigned wanted;        /* range that is being handed out */
    unsigned failing;       /* the lowest range that failed; UINT_MAX: none */
    struct err err;         /* its */

    object_sink_fn *fn;
    void *ctx;
    struct object_info *out;
};

static uint64_t range_begin(const struct download *d, unsigned number)
{
    return d->first + (uint64_t)number * RANGE_SIZE;
}

static size_t range_length(const struct download *d, unsigned number)
{
    uint64_t left = d->end - range_begin(d, number);

    return left < RANGE_SIZE ? (size_t)left : RANGE_SIZE;
}

struct filling {
    struct download *download;
    struct slot *slot;
    size_t length; /* of the range */
    size_t came;   /* in the slot; slot->filled is what the others know of */
    uint64_t told_ms;
};

static int fill_slot(void *ctx, const void *data, size_t len, struct err *err)
{
    struct filling *f = ctx;

    (void)err;
    must(len <= RANGE_SIZE - f->came);
    memcpy(f->slot->buf + f->came, data, len); /* behind what others read */
    f->came += len;
    if (f->came < f->length && f->came - f->slot->filled < HAND_OUT_SIZE &&
        now_ms() - f->told_ms < HAND_OUT_MS)
        return 0;
    f->told_ms = now_ms();
    lock_take(&f->download->lock);
    f->slot->filled = f->came;
    pthread_cond_signal(&f->download->arrived);
    lock_drop(&f->download->lock);
    return 0;
}

/* The next range's slot, when what was in it has been handed out.  NULL: there is none any more. */
static struct slot *take_slot(struct download *d, unsigned *number)
{
    struct slot *slot = NULL;

    lock_take(&d->lock);
    while (!atomic_load(&d->stop) && d->next < d->range_count &&
           d->next >= d->wanted + d->slot_count)
        lock_wait(&d->lock, &d->freed);
    if (!atomic_load(&d->stop) && d->next < d->range_count) {
        *number = d->next++;
        slot = &d->slots[*number % d->slot_count];
        slot->number = *number;
        slot->filled = 0;
    }
    lock_drop(&d->lock);
    if (slot != NULL && slot->buf == NULL)
        slot->buf = xmalloc(RANGE_SIZE);
    return slot;
}

static void *read_ranges(void *ctx)
{
    struct download *d = ctx;
    struct slot *slot;
    unsigned number;

    while ((slot = take_slot(d, &number)) != NULL) {
        struct filling filling = {d, slot, range_length(d, number), 0, now_ms()};
        struct range r = {.s = d->s,
                          .key = d->key,
                          .first = range_begin(d, number),
                          .length = range_length(d, number),
                          .info = d->info,
                          .known = true,
                          .fn = fill_slot,
                          .ctx = &filling,
                          .stop = &d->stop};
        struct err err;

        if (read_range(&r, &err) == 0)
            continue;
        lock_take(&d->lock);
        if (number < d->failing) {
            d->failing = number;
            d->err = err;
        }
        d->next = d->range_count; /* nobody comes so far */
        pthread_cond_signal(&d->arrived);
        pthread_cond_broadcast(&d->freed);
        lock_drop(&d->lock);
    }
    return NULL;
}

/* The first range's head is here: now it's known what there is to read behind it. */
static int learn(struct range *r, struct err *err)
{
    struct download *d = r->ctx;
    uint64_t length;

    (void)err;
    *d->out = r->info;
    d->info = r->info;
    if (d->end > r->info.size)
        d->end = r->info.size;
    length = d->end - d->first;
    d->range_count = (unsigned)((length + RANGE_SIZE - 1) / RANGE_SIZE);
    /* Without an etag nothing would hold the ranges together. */
    if (r->length >= length || r->whole || r->info.etag[0] == '\0') {
        d->range_count = 1;
        r->length = length;
    }
    d->alone_us = now_us();
    return 0;
}

static int start_others(struct download *d, struct err *err)
{
    while (d->thread_count < d->slot_count && d->thread_count < d->range_count - 1 &&
           pthread_create(&d->threads[d->thread_count], NULL, read_ranges, d) == 0)
        d->thread_count++;
    if (d->thread_count == 0)
        return err_set(err, ERR_BUSY, "no thread could be started to read an object");
    return 0;
}

/* One byte a microsecond is 1 MB/s. */
static bool is_fast(const struct download *d, uint64_t bytes)
{
    return bytes >= (now_us() - d->alone_us) * d->s->alone_rate;
}

/* As soon as the first bytes are late the others start. */
static int judge(struct download *d, struct err *err)
{
    bool fast = is_fast(d, JUDGED_SIZE);

    if (fast && d->alone < JUDGED_SIZE)
        return 0;
    d->judged = true;
    return fast ? 0 : start_others(d, err);
}

static int pass_on(void *ctx, const void *data, size_t len, struct err *err)
{
    struct download *d = ctx;

    if (d->fn(d->ctx, data, len, err) != 0)
        return -1;
    d->alone += len;
    return d->judged || d->range_count == 1 ? 0 : judge(d, err);
}

/* All that stands behind the first range, if that was fast to its end. */
static int go_on(struct download *d, struct err *err)
{
    struct range rest = {.s = d->s,
                         .key = d->key,
                         .first = d->first + RANGE_SIZE,
                         .length = d->end - d->first - RANGE_SIZE,
                         .info = d->info,
                         .known = true,
                         .fn = pass_on,
                         .ctx = d};

    if (!is_fast(d, RANGE_SIZE))
        return start_others(d, err);
    d->range_count = 1;
    return read_range(&rest, err);
}

/* More bytes of a range than there were, or -1 and its failure. */
static int await(struct download *d, unsigned number, size_t had, size_t *have, struct err *err)
{
    struct slot *slot = &d->slots[number % d->slot_count];
    bool got;

    lock_take(&d->lock);
    while (!(got = slot->number == number && slot->filled > had) && d->failing > number)
        lock_wait(&d->lock, &d->arrived);
    if (got)
        *have = slot->filled;
    else
        *err = d->err;
    lock_drop(&d->lock);
    return got ? 0 : -1;
}

static int hand_out(struct download *d, unsigned number, struct err *err)
{
    const struct slot *slot = &d->slots[number % d->slot_count];
    size_t length = range_length(d, number), done = 0, have;

    while (done < length) {
        if (s3_http_stopped(d->s->http))
            return object_store_cancelled(err);
        if (await(d, number, done, &have, err) != 0 ||
            d->fn(d->ctx, slot->buf + done, have - done, err) != 0)
            return -1;
        done = have;
    }
    return 0;
}

static void want(struct download *d, unsigned number)
{
    lock_take(&d->lock);
    d->wanted = number;
    pthread_cond_broadcast(&d->freed);
    lock_drop(&d->lock);
}

static void finish(struct download *d)
{
    lock_take(&d->lock);
    atomic_store(&d->stop, true);
    pthread_cond_broadcast(&d->freed);
    lock_drop(&d->lock);
    for (unsigned i = 0; i < d->thread_count; i++)
        must(pthread_join(d->threads[i], NULL) == 0);
    for (unsigned i = 0; i < d->slot_count; i++)
        free(d->slots[i].buf);
    pthread_cond_destroy(&d->freed);
    pthread_cond_destroy(&d->arrived);
    lock_clear(&d->lock);
}

/* S3 has no range in an object without bytes. */
static int get_empty(struct s3 *s, const char *key, struct object_info *info, struct err *err)
{
    struct err no_range = *err;

    if (s3_head(s, key, info, err) != 0)
        return -1;
    if (info->size == 0)
        return 0;
    *err = no_range;
    return -1;
}

int s3_get(void *self, const char *key, uint64_t offset, uint64_t length, struct object_info *info,
           object_sink_fn *fn, void *ctx, struct err *err)
{
    struct s3 *s = self;
    uint64_t end = length > UINT64_MAX - offset ? UINT64_MAX : offset + length;
    struct download d = {.s = s,
                         .key = key,
                         .first = offset,
                         .end = end,
                         .slot_count = s->parallel,
                         .range_count = 1,
                         .next = 1,
                         .wanted = 1,
                         .failing = UINT_MAX,
                         .fn = fn,
                         .ctx = ctx,
                         .out = info};
    struct range first = {.s = s,
                          .key = key,
                          .first = offset,
                          .length = s->parallel > 1 && length > RANGE_SIZE ? RANGE_SIZE : length,
                          .fn = pass_on,
                          .ctx = &d,
                          .head_fn = learn};
    int rc;

    lock_init(&d.lock, LOCK_S3_TRANSFER);
    lock_cond_init(&d.arrived);
    lock_cond_init(&d.freed);
    rc = read_range(&first, err);
    if (rc == 0 && d.range_count > 1 && d.thread_count == 0)
        rc = go_on(&d, err);
    for (unsigned number = 1; rc == 0 && number < d.range_count; number++) {
        want(&d, number);
        rc = hand_out(&d, number, err);
    }
    finish(&d);
    if (rc != 0 && err->kind == ERR_LIMIT && offset == 0)
        rc = get_empty(s, key, info, err);
    return rc;
}
