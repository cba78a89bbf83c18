#include "cache/shared/guard.h"

#include <stdlib.h>

#include "cache/lock.h"
#include "protocol/base.h"

enum {
    PROBE_MIN_MS = 1000, /* doubles with every probe that fails */
    PROBE_MAX_MS = 60 * 1000,
    STEADY_MS = 60 * 1000, /* who fails sooner than that has not recovered */
};

/* What a probe asks for: no keys begin with it, so the answer is short. */
static const char PROBE_PREFIX[] = "probe/";

/* That is to be told. */
struct change {
    struct change *next;
    bool works;
    struct err why;
};

struct guard {
    struct object_store *inner;
    guard_changed_fn *changed;
    void *ctx;
    atomic_uint_fast64_t bytes_up, bytes_down;

    struct lock lock;
    bool open;
    struct err why;  /* of the last failure, while it is open */
    bool known;      /* somebody has asked and was told how it is */
    uint64_t period; /* which time between two changes it is */
    bool probing;
    uint64_t wait_ms, due_ms;   /* before the next probe; 0: to be found */
    uint64_t closed_ms;         /* when a probe was last answered; 0: never */
    struct guard_counts counts; /* but for bytes */
    struct change *first, **last;
    bool telling;
};

/* ---- changes ---- */

static void add_change_locked(struct guard *g, const struct err *why)
{
    struct change *c = xcalloc(1, sizeof(*c));

    c->works = why == NULL;
    if (why != NULL)
        c->why = *why;
    *g->last = c;
    g->last = &c->next;
    g->known = true;
}

static struct change *take_change_locked(struct guard *g)
{
    struct change *c = g->first;

    if (c == NULL)
        return NULL;
    g->first = c->next;
    if (g->first == NULL)
        g->last = &g->first;
    return c;
}

/* In their order: who comes while another thread tells leaves it to that. */
static void tell_changes(struct guard *g)
{
    struct change *c;

    lock_take(&g->lock);
    if (g->telling) {
        lock_drop(&g->lock);
        return;
    }
    g->telling = true;
    while ((c = take_change_locked(g)) != NULL) {
        lock_drop(&g->lock);
        g->changed(g->ctx, c->works ? NULL : &c->why);
        free(c);
        lock_take(&g->lock);
    }
    g->telling = false;
    lock_drop(&g->lock);
}

static void open_locked(struct guard *g, const struct err *why)
{
    g->open = true;
    g->why = *why;
    g->period++;
    g->counts.opened++;
    g->due_ms = 0;
    add_change_locked(g, why);
}

static void close_locked(struct guard *g, uint64_t now_ms)
{
    g->open = false;
    g->period++;
    g->closed_ms = now_ms;
    add_change_locked(g, NULL);
}

/* ---- one operation ---- */

static bool is_failure(const struct err *err)
{
    switch (err->kind) {
    case ERR_DENIED:
    case ERR_REFUSED:
    case ERR_BUSY:
    case ERR_TIMEOUT:
    case ERR_UPSTREAM: return true;
    default: return false;
    }
}

/* One question to the store, under way. */
struct question {
    enum guard_operation operation;
    uint64_t period; /* in which it began */
    uint64_t started_us;
};

/* False: it is open.  *q: for end(). */
static bool begin(struct guard *g, enum guard_operation operation, struct question *q,
                  struct err *err)
{
    bool refused;

    lock_take(&g->lock);
    refused = g->open;
    *q = (struct question){operation, g->period, now_us()};
    if (refused) {
        g->counts.refused++;
        err_set(err, ERR_BUSY, "it is not asked until it works again: %s", g->why.text);
    } else {
        g->counts.asked[operation]++;
    }
    lock_drop(&g->lock);
    return !refused;
}

/* Failures of what began before the last change say nothing about how it is now. */
static void failed(struct guard *g, const struct question *q, const struct err *err)
{
    lock_take(&g->lock);
    g->counts.failed[q->operation]++;
    if (!g->open && g->period == q->period)
        open_locked(g, err);
    lock_drop(&g->lock);
    tell_changes(g);
}

static void note_time(struct guard *g, const struct question *q)
{
    lock_take(&g->lock);
    timing_add(&g->counts.took[q->operation], now_us() - q->started_us);
    lock_drop(&g->lock);
}

static int end(struct guard *g, const struct question *q, int rc, const struct err *err)
{
    note_time(g, q);
    if (rc != 0 && is_failure(err))
        failed(g, q, err);
    return rc;
}

static int first_is_enough(void *ctx, const char *key, const struct object_info *info)
{
    (void)ctx;
    (void)key;
    (void)info;
    return 1;
}

/* The probe's question. */
static int ask(struct guard *g, struct err *err)
{
    int rc;

    lock_take(&g->lock);
    g->counts.asked[GUARD_LIST]++;
    lock_drop(&g->lock);
    rc = object_list(g->inner, PROBE_PREFIX, first_is_enough, NULL, err);
    lock_take(&g->lock);
    g->counts.failed[GUARD_LIST] += rc != 0 && err->kind != ERR_CANCELLED;
    lock_drop(&g->lock);
    return rc;
}

/* That this may not be put says nothing about what may be read: the store can't do it, has no room
 * for more, or these keys may only read. */
static bool is_about_putting(const struct err *err)
{
    return err->kind == ERR_REFUSED || err->kind == ERR_DENIED;
}

/* Is a put that was refused the only one? */
static bool works_otherwise(struct guard *g)
{
    struct err err;

    return ask(g, &err) == 0 || err.kind == ERR_CANCELLED;
}

/* ---- the driver ---- */

struct stream {
    const struct object_source *source;
    bool failed;
};

static ssize_t read_stream(void *ctx, void *buf, size_t len, struct err *err)
{
    struct stream *s = ctx;
    ssize_t n = s->source->read(s->source->ctx, buf, len, err);

    s->failed = n < 0;
    return n;
}

static int guard_put(void *self, const char *key, const struct object_source *source,
                     const struct object_put_options *options, struct object_info *out,
                     struct err *err)
{
    struct guard *g = self;
    struct stream stream = {.source = source};
    struct object_source watched = *source;
    struct question q;
    int rc;

    if (!begin(g, GUARD_PUT, &q, err))
        return -1;
    if (source->fd < 0) {
        watched.read = read_stream;
        watched.ctx = &stream;
    }
    rc = object_put(g->inner, key, &watched, options, out, err);
    if (rc == 0)
        atomic_fetch_add(&g->bytes_up, out->size);
    if (stream.failed || (rc != 0 && is_about_putting(err) && works_otherwise(g)))
        return rc;
    return end(g, &q, rc, err);
}

struct sink {
    struct guard *guard;
    object_sink_fn *fn;
    void *ctx;
    bool failed;
};

static int pass_on(void *ctx, const void *data, size_t len, struct err *err)
{
    struct sink *s = ctx;

    atomic_fetch_add(&s->guard->bytes_down, len);
    s->failed = s->fn(s->ctx, data, len, err) != 0;
    return s->failed ? -1 : 0;
}

static int guard_get(void *self, const char *key, uint64_t offset, uint64_t length,
                     struct object_info *info, object_sink_fn *fn, void *ctx, struct err *err)
{
    struct guard *g = self;
    struct sink sink = {.guard = g, .fn = fn, .ctx = ctx};
    struct question q;
    int rc;

    if (!begin(g, GUARD_GET, &q, err))
        return -1;
    rc = object_get(g->inner, key, offset, length, info, pass_on, &sink, err);
    return sink.failed ? rc : end(g, &q, rc, err);
}

static int guard_head(void *self, const char *key, struct object_info *out, struct err *err)
{
    struct guard *g = self;
    struct question q;

    if (!begin(g, GUARD_HEAD, &q, err))
        return -1;
    return end(g, &q, object_head(g->inner, key, out, err), err);
}

static int guard_list(void *self, const char *prefix, object_list_fn *fn, void *ctx,
                      struct err *err)
{
    struct guard *g = self;
    struct question q;

    if (!begin(g, GUARD_LIST, &q, err))
        return -1;
    return end(g, &q, object_list(g->inner, prefix, fn, ctx, err), err);
}

static int guard_remove(void *self, const char *key, struct err *err)
{
    struct guard *g = self;
    struct question q;

    if (!begin(g, GUARD_REMOVE, &q, err))
        return -1;
    return end(g, &q, object_remove(g->inner, key, err), err);
}

static void guard_stop(void *self)
{
    struct guard *g = self;

    object_store_stop(g->inner);
}

static void guard_free(void *self)
{
    struct guard *g = self;

    object_store_free(&g->inner);
    must(g->first == NULL);
    lock_clear(&g->lock);
    free(g);
}

static bool guard_lacks_conditions(void *self)
{
    const struct guard *g = self;

    return !object_store_has_conditions(g->inner);
}

struct object_store *guard_new(struct object_store **inner, guard_changed_fn *changed, void *ctx,
                               struct guard **guard)
{
    struct object_driver driver = {
        .put = guard_put,
        .get = guard_get,
        .head = guard_head,
        .list = guard_list,
        .remove = guard_remove,
        .stop = guard_stop,
        .free = guard_free,
        .has_conditions = object_store_has_conditions(*inner),
        .lacks_conditions = guard_lacks_conditions,
    };
    struct guard *g = xcalloc(1, sizeof(*g));

    g->inner = *inner;
    *inner = NULL;
    g->changed = changed;
    g->ctx = ctx;
    g->last = &g->first;
    lock_init(&g->lock, LOCK_GUARD);
    *guard = g;
    return object_store_new(&driver, g, object_store_name(g->inner));
}

/* ---- probes ---- */

/* The next one's time, from the one before at now_ms. */
static void put_off_locked(struct guard *g, uint64_t now_ms)
{
    g->wait_ms = g->wait_ms * 2 < PROBE_MAX_MS ? g->wait_ms * 2 : PROBE_MAX_MS;
    if (g->wait_ms < PROBE_MIN_MS)
        g->wait_ms = PROBE_MIN_MS;
    g->due_ms = now_ms + g->wait_ms;
}

/* The first one's, since it was opened. */
static void begin_probes_locked(struct guard *g, uint64_t now_ms)
{
    if (g->closed_ms == 0 || now_ms >= g->closed_ms + STEADY_MS)
        g->wait_ms = 0;
    put_off_locked(g, now_ms);
}

static bool is_due_locked(struct guard *g, uint64_t now_ms)
{
    if (!g->open)
        return false;
    if (g->due_ms == 0)
        begin_probes_locked(g, now_ms);
    return now_ms >= g->due_ms;
}

/* Unless others found out something else meanwhile. */
static void take_answer_locked(struct guard *g, uint64_t now_ms, int rc, const struct err *err)
{
    if (rc != 0 && err->kind == ERR_CANCELLED)
        return;
    if (rc == 0 && g->open) {
        close_locked(g, now_ms);
    } else if (rc == 0 && !g->known) {
        add_change_locked(g, NULL);
    } else if (rc != 0 && g->open) {
        g->why = *err;
        put_off_locked(g, now_ms);
    } else if (rc != 0) {
        open_locked(g, err);
        begin_probes_locked(g, now_ms);
    }
}

void guard_probe(struct guard *g, uint64_t now_ms, bool first)
{
    struct err err;
    uint64_t period;
    bool due;
    int rc;

    lock_take(&g->lock);
    due = !g->probing && (is_due_locked(g, now_ms) || first);
    if (due)
        g->probing = true;
    period = g->period;
    lock_drop(&g->lock);
    if (!due)
        return;
    rc = ask(g, &err);
    lock_take(&g->lock);
    g->probing = false;
    if (g->period == period)
        take_answer_locked(g, now_ms, rc, &err);
    lock_drop(&g->lock);
    tell_changes(g);
}

/* ---- how it is ---- */

bool guard_open(struct guard *g, struct err *why)
{
    bool open;

    lock_take(&g->lock);
    open = g->open;
    if (open && why != NULL)
        *why = g->why;
    lock_drop(&g->lock);
    return open;
}

void guard_count(struct guard *g, struct guard_counts *out)
{
    lock_take(&g->lock);
    *out = g->counts;
    lock_drop(&g->lock);
    out->bytes_up = atomic_load(&g->bytes_up);
    out->bytes_down = atomic_load(&g->bytes_down);
}
