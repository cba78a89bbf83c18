#include "cache/cluster/events.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/bytes.h"

enum {
    KEEP_DEFAULT = 10000,
    POLL_DEFAULT_MS = 1000,
    BATCH = 100,
    RETRY_MS = 200,      /* after something could not be applied */
    UNKNOWN_MS = 20,     /* while we have read, but the others don't count us as alive yet */
    LOOK_AGAIN_MS = 100, /* for acknowledgements whose message was lost, and for who died */
    LOCAL_MAX = 1024,    /* events within the process */
};

static const char SEND[] = "local words = {}\n"
                           "for i = 3, #ARGV do words[#words + 1] = ARGV[i] end\n"
                           "local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*',\n"
                           "                      'token', ARGV[2], unpack(words))\n"
                           "redis.call('PUBLISH', KEYS[1], id)\n"
                           "return id\n";
/* From position ARGV[1] ARGV[2], at most ARGV[3].  {is our position there, id and token of the last
 * one, {entries behind our position}}.  An empty stream gets an entry, to be a position. */
static const char READ[] =
    "local function token(entry)\n"
    "  for i = 1, #entry[2], 2 do\n"
    "    if entry[2][i] == 'token' then return entry[2][i + 1] end\n"
    "  end\n"
    "  return ''\n"
    "end\n"
    "local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]\n"
    "if not last then\n"
    "  redis.call('XADD', KEYS[1], '*', 'token', ARGV[4], 'kind', 'start')\n"
    "  last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]\n"
    "end\n"
    "local found = {}\n"
    "if ARGV[1] ~= '' then\n"
    "  found = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[3] + 1)\n"
    "end\n"
    "if #found == 0 or found[1][1] ~= ARGV[1] or token(found[1]) ~= ARGV[2] then\n"
    "  return {0, last[1], token(last), {}}\n"
    "end\n"
    "table.remove(found, 1)\n"
    "return {1, last[1], token(last), found}\n";

/* Within the process. */
struct local_event {
    struct local_event *prev, *next;
    struct event event;
    char *texts[4]; /* what event points to */
    uint64_t number;
};

struct events {
    struct redis *redis; /* NULL: within the process */
    struct nodes *nodes;
    struct events_handler handler;
    uint64_t keep, poll_ms;
    char *key;
    struct redis_script send, read;
    pthread_t thread;

    /* The thread's alone. */
    char position[EVENT_ID_SIZE]; /* "": none */

    struct lock lock;
    pthread_cond_t woken;   /* the thread has something to look at */
    pthread_cond_t applied; /* somebody has applied something */
    bool wake, ending;
    uint64_t look_at_ms;
    uint64_t acknowledgements; /* that were heard of */
    uint64_t times_away;
    bool up;
    bool caught, said; /* read to the end; and told the others; since it came up */
    char begun[EVENT_ID_SIZE], seen[EVENT_ID_SIZE]; /* as events_seen() tells them */
    uint64_t read_ms;                               /* when that look began */
    struct local_event *local;
    uint64_t local_count, local_sent, local_applied;
    struct events_counts counts;
};

/* ---- what the thread hands out ---- */

/* False: nothing of ours has such an id. */
static bool join_id(const char *id, const char *token, char out[EVENT_ID_SIZE])
{
    int n = snprintf(out, EVENT_ID_SIZE, "%s %s", id, token != NULL ? token : "");

    return n > 0 && n < EVENT_ID_SIZE;
}

/* As the stream has it, without the token. */
static void cut_id(const char *id, char out[EVENT_ID_SIZE])
{
    snprintf(out, EVENT_ID_SIZE, "%.*s", (int)strcspn(id, " "), id);
}

static const char *token_of(const char *id)
{
    return id + strcspn(id, " ") + (strchr(id, ' ') != NULL);
}

static void tell_position(struct events *e)
{
    if (e->handler.position != NULL)
        e->handler.position(e->handler.ctx, e->position);
}

static void count(struct events *e, uint64_t *what)
{
    lock_take(&e->lock);
    ++*what;
    lock_drop(&e->lock);
}

/* Before anything is done about it. */
static void note_begun(struct events *e, const char *id)
{
    lock_take(&e->lock);
    snprintf(e->begun, sizeof(e->begun), "%s", id);
    lock_drop(&e->lock);
}

static void note_applied(struct events *e)
{
    lock_take(&e->lock);
    strcpy(e->seen, e->position);
    lock_drop(&e->lock);
}

static int miss(struct events *e, const char *id, const char *why)
{
    struct err err;

    note_begun(e, id);
    count(e, &e->counts.missed);
    return e->handler.missed(e->handler.ctx, why, &err);
}

/* *tell: somebody may wait for it. */
static int apply_one(struct events *e, const struct redis_reply *entry, bool *tell)
{
    const struct redis_reply *fields = redis_item(entry, 1);
    char id[EVENT_ID_SIZE];
    struct event event;
    struct err err;
    int rc = 0;

    if (!join_id(redis_item_text(entry, 0), redis_field(fields, "token"), id))
        join_id(redis_item_text(entry, 0), "?", id); /* somebody else's; as good as any */
    if (fields != NULL && strcmp(redis_item_text(fields, 3), "start") == 0) {
        /* Nothing but a position. */
    } else if (event_read(fields, &event, &err) == 0) {
        if (event.kind == EVENT_INVALIDATE)
            note_begun(e, id);
        rc = e->handler.apply(e->handler.ctx, id, &event, &err);
        count(e, rc == 0 ? &e->counts.applied : &e->counts.retried);
        *tell = *tell || event.kind == EVENT_INVALIDATE;
    } else if (err.kind == ERR_REFUSED) {
        count(e, &e->counts.skipped);
    } else {
        /* It may have been an invalidation. */
        rc = miss(e, id, err.text);
        *tell = true;
    }
    if (rc == 0) {
        strcpy(e->position, id);
        note_applied(e);
    }
    return rc;
}

/* 0: all of them. */
static int apply_all(struct events *e, const struct redis_reply *entries, bool *tell)
{
    int rc = 0;
    size_t i;

    for (i = 0; entries != NULL && i < entries->count && rc == 0; i++)
        rc = apply_one(e, entries->items[i], tell);
    if (i > 0)
        tell_position(e);
    return rc;
}

static int catch_up_from_nowhere(struct events *e, const struct redis_reply *reply, bool *tell)
{
    const char *why = e->position[0] == '\0'
                          ? "this node doesn't know which events it has applied"
                          : "the stream of events doesn't go back to the last one applied here";
    char last[EVENT_ID_SIZE];

    if (!join_id(redis_item_text(reply, 1), redis_item_text(reply, 2), last))
        join_id(redis_item_text(reply, 1), "?", last); /* and so missed again next time */
    if (miss(e, last, why) != 0)
        return -1;
    strcpy(e->position, last);
    note_applied(e);
    tell_position(e);
    *tell = true;
    return 0;
}

/* ---- reading ---- */

enum look { TO_THE_END, MORE, NOT_NOW, UNREACHABLE };

static enum look look_once(struct events *e, bool *tell)
{
    char batch[REDIS_NUMBER_SIZE], token[REDIS_TOKEN_SIZE], id[EVENT_ID_SIZE];
    struct redis_reply *reply = NULL;
    const struct redis_reply *entries;
    enum look result = TO_THE_END;
    struct err err;

    redis_token(token);
    cut_id(e->position, id);
    if (redis_run(e->redis, &e->read, REDIS_WORDS(e->key),
                  REDIS_WORDS(id, token_of(e->position), redis_number(BATCH, batch), token), &reply,
                  &err) != 0)
        return UNREACHABLE;
    entries = redis_item(reply, 3);
    if (redis_item_integer(reply, 0) != 1) {
        if (catch_up_from_nowhere(e, reply, tell) != 0)
            result = NOT_NOW;
    } else if (apply_all(e, entries, tell) != 0) {
        result = NOT_NOW;
    } else if (entries != NULL && entries->count >= BATCH) {
        result = MORE;
    }
    redis_reply_free(&reply);
    return result;
}

static bool is_ending(struct events *e)
{
    bool ending;

    lock_take(&e->lock);
    ending = e->ending;
    lock_drop(&e->lock);
    return ending;
}

/* Say where we are; tell: to who may wait for it.  times_away: when that look began. */
static void say_applied(struct events *e, bool changed, bool tell, uint64_t times_away)
{
    struct err ignored;
    bool said;
    int rc;

    lock_take(&e->lock);
    said = e->said;
    lock_drop(&e->lock);
    if (said && !changed)
        return;
    rc = nodes_applied(e->nodes, e->position, tell || !said, &ignored);
    lock_take(&e->lock);
    e->said = rc == 0 && times_away == e->times_away;
    lock_drop(&e->lock);
}

static void look(struct events *e)
{
    char before[EVENT_ID_SIZE];
    enum look result;
    uint64_t started, times_away, since;
    bool tell = false, changed, counted;

    strcpy(before, e->position);
    lock_take(&e->lock);
    times_away = e->times_away;
    lock_drop(&e->lock);
    do {
        started = now_ms();
        result = look_once(e, &tell);
    } while (result == MORE && !is_ending(e));
    changed = strcmp(before, e->position) != 0;
    if (result == TO_THE_END || changed)
        say_applied(e, changed, tell, times_away);
    counted = nodes_is_alive(e->nodes, now_ms(), &since) && started >= since;
    lock_take(&e->lock);
    /* What a look that fails says is nothing new: hear_change() knows whether Redis is there. */
    if (times_away != e->times_away || result == NOT_NOW)
        e->caught = false;
    else if (result == TO_THE_END && e->up) {
        e->caught = true;
        e->read_ms = started;
    }
    e->look_at_ms = now_ms() + (result == NOT_NOW                  ? RETRY_MS
                                : result == TO_THE_END && !counted ? UNKNOWN_MS
                                                                   : e->poll_ms);
    lock_drop(&e->lock);
}

bool events_caught_up(struct events *e, uint64_t now_ms)
{
    uint64_t since;
    bool caught;

    if (e->redis == NULL)
        return true;
    if (!nodes_is_alive(e->nodes, now_ms, &since))
        return false;
    lock_take(&e->lock);
    /* The look may be old when the thread has much to apply, or hangs in it. */
    caught = e->caught && e->read_ms >= since && now_ms < e->read_ms + 3 * e->poll_ms;
    lock_drop(&e->lock);
    return caught;
}

/* ---- within the process ---- */

static void local_free(struct local_event *l)
{
    for (size_t i = 0; i < ARRAY_LEN(l->texts); i++)
        free(l->texts[i]);
    free(l);
}

/* Milliseconds, as in the stream: so that they go on behind those of an earlier start, and are like
 * those of other nodes. */
static uint64_t next_number_locked(const struct events *e)
{
    uint64_t now = wall_ms();

    return now > e->local_sent ? now : e->local_sent + 1;
}

static int send_here(struct events *e, const struct event *event, char id[EVENT_ID_SIZE],
                     struct err *err)
{
    struct local_event *l = xcalloc(1, sizeof(*l));
    const char **texts[] = {&l->event.repo, &l->event.name, &l->event.reason, &l->event.node};
    bool full;

    l->event = *event;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        l->texts[i] = xstrdup(*texts[i]);
        *texts[i] = l->texts[i];
    }
    lock_take(&e->lock);
    full = e->local_count == LOCAL_MAX;
    if (!full) {
        l->number = e->local_sent = next_number_locked(e);
        snprintf(id, EVENT_ID_SIZE, "%" PRIu64 "-0", l->number);
        DL_APPEND(e->local, l);
        e->local_count++;
        e->counts.sent++;
        e->wake = true;
        pthread_cond_signal(&e->woken);
    }
    lock_drop(&e->lock);
    if (!full)
        return 0;
    local_free(l);
    return err_set(err, ERR_BUSY, "%d events wait to be applied here", LOCAL_MAX);
}

static void look_here(struct events *e)
{
    for (;;) {
        struct local_event *l;
        char id[EVENT_ID_SIZE];
        struct err err;
        int rc;

        lock_take(&e->lock);
        l = e->ending ? NULL : e->local;
        e->look_at_ms = now_ms() + (l != NULL ? RETRY_MS : e->poll_ms);
        lock_drop(&e->lock);
        if (l == NULL)
            return;
        snprintf(id, sizeof(id), "%" PRIu64 "-0", l->number);
        rc = e->handler.apply(e->handler.ctx, id, &l->event, &err);
        count(e, rc == 0 ? &e->counts.applied : &e->counts.retried);
        if (rc != 0)
            return;
        nodes_applied(e->nodes, id, false, &err);
        lock_take(&e->lock);
        DL_DELETE(e->local, l);
        e->local_count--;
        e->local_applied = l->number;
        pthread_cond_broadcast(&e->applied);
        lock_drop(&e->lock);
        local_free(l);
    }
}

/* ---- sending ---- */

int events_send(struct events *e, const struct event *event, char id[EVENT_ID_SIZE],
                struct err *err)
{
    struct event ours = *event;
    const char *words[EVENT_WORDS_MAX + 3];
    char keep[REDIS_NUMBER_SIZE], token[REDIS_TOKEN_SIZE], generation[REDIS_NUMBER_SIZE];
    struct redis_reply *reply = NULL;
    size_t n;
    bool known;

    ours.node = nodes_id(e->nodes);
    redis_token(token);
    words[0] = redis_number(e->keep, keep);
    words[1] = token;
    n = event_write(&ours, words, 2, generation, err);
    if (n == 0)
        return -1;
    must(n < ARRAY_LEN(words));
    words[n] = NULL;
    if (e->redis == NULL)
        return send_here(e, &ours, id, err);
    if (redis_run(e->redis, &e->send, REDIS_WORDS(e->key), words, &reply, err) != 0)
        return -1;
    known = join_id(reply->text != NULL ? reply->text : "", token, id);
    redis_reply_free(&reply);
    count(e, &e->counts.sent);
    return known ? 0 : err_set(err, ERR_UPSTREAM, "Redis gave the event an id that is none");
}

static int check_is_there(struct events *e, const char *id, struct err *err)
{
    struct redis_reply *reply = NULL;
    char name[EVENT_ID_SIZE];
    const char *token;
    bool there;

    cut_id(id, name);
    if (redis_ask(e->redis, REDIS_WORDS("XRANGE", e->key, name, name), &reply, err) != 0)
        return -1;
    token = redis_field(redis_item(redis_item(reply, 0), 1), "token");
    there = token != NULL && strcmp(token, token_of(id)) == 0;
    redis_reply_free(&reply);
    return there ? 0
                 : err_set(err, ERR_NOT_FOUND,
                           "Redis has lost the event %s: it is to be sent again", name);
}

static int find_late(struct events *e, const char *id, struct node_list *late, bool *complete,
                     struct err *err)
{
    size_t count_late = 0;

    if (nodes_list(e->nodes, late, err) != 0)
        return -1;
    *complete = late->complete;
    for (size_t i = 0; i < late->count; i++)
        if (event_id_compare(late->nodes[i].applied, id) < 0)
            late->nodes[count_late++] = late->nodes[i];
    late->count = count_late;
    /* A failover may have lost it; later ones, which nodes have applied, have larger ids. */
    return check_is_there(e, id, err);
}

static int say_who_is_late(const struct node_list *late, bool complete, struct err *err)
{
    struct bytes names;

    if (late->count == 0 && !complete)
        return err_set(err, ERR_TIMEOUT,
                       "Redis was restarted, and not all nodes may have told it of themselves yet");
    bytes_init(&names, ERR_TEXT_MAX / 2);
    for (size_t i = 0; i < late->count; i++)
        if (bytes_addf(&names, " %s", late->nodes[i].id) != 0)
            break;
    err_set(err, ERR_TIMEOUT, "%zu nodes have not applied it yet:%s", late->count,
            names.data != NULL ? names.data : "");
    bytes_clear(&names);
    return -1;
}

static int wait_here(struct events *e, const char *id, uint64_t deadline, struct err *err)
{
    uint64_t number = strtoull(id, NULL, 10);
    bool done;

    lock_take(&e->lock);
    while (e->local_applied < number && lock_wait_until(&e->lock, &e->applied, deadline))
        ;
    done = e->local_applied >= number;
    lock_drop(&e->lock);
    return done ? 0 : err_set(err, ERR_TIMEOUT, "it was not applied yet");
}

/* 1: not yet. */
static int wait_a_little(struct events *e, const char *id, uint64_t deadline,
                         struct node_list *late, struct err *err)
{
    uint64_t seen, now;
    bool complete;

    lock_take(&e->lock);
    seen = e->acknowledgements;
    lock_drop(&e->lock);
    if (find_late(e, id, late, &complete, err) != 0)
        return -1;
    if (late->count == 0 && complete)
        return 0;
    now = now_ms();
    if (now >= deadline)
        return say_who_is_late(late, complete, err);
    lock_take(&e->lock);
    while (e->acknowledgements == seen &&
           lock_wait_until(&e->lock, &e->applied,
                           deadline < now + LOOK_AGAIN_MS ? deadline : now + LOOK_AGAIN_MS))
        ;
    lock_drop(&e->lock);
    return 1;
}

int events_wait_applied(struct events *e, const char *id, uint64_t timeout_ms,
                        struct node_list *late, struct err *err)
{
    uint64_t deadline = now_ms() + timeout_ms;
    struct node_list list = {0};
    int rc;

    if (late != NULL)
        *late = list;
    if (e->redis == NULL)
        return wait_here(e, id, deadline, err);
    do {
        node_list_clear(&list);
        rc = wait_a_little(e, id, deadline, &list, err);
    } while (rc == 1);
    if (rc == -1 && err->kind == ERR_TIMEOUT && late != NULL) {
        *late = list;
        return -1;
    }
    node_list_clear(&list);
    return rc;
}

/* ---- the thread, and what wakes it ---- */

static void *events_main(void *arg)
{
    struct events *e = arg;

    lock_take(&e->lock);
    while (!e->ending) {
        bool can = e->redis == NULL || e->up;

        if (!can) {
            lock_wait(&e->lock, &e->woken);
            continue;
        }
        if (!e->wake && now_ms() < e->look_at_ms) {
            lock_wait_until(&e->lock, &e->woken, e->look_at_ms);
            continue;
        }
        e->wake = false;
        lock_drop(&e->lock);
        if (e->redis != NULL)
            look(e);
        else
            look_here(e);
        lock_take(&e->lock);
    }
    lock_drop(&e->lock);
    return NULL;
}

static void hear_event(void *ctx, const char *id)
{
    struct events *e = ctx;

    (void)id;
    lock_take(&e->lock);
    e->wake = true;
    pthread_cond_signal(&e->woken);
    lock_drop(&e->lock);
}

static void hear_applied(void *ctx, const char *id)
{
    struct events *e = ctx;

    (void)id;
    lock_take(&e->lock);
    e->acknowledgements++;
    pthread_cond_broadcast(&e->applied);
    lock_drop(&e->lock);
}

static void hear_change(void *ctx, bool up, const struct err *why)
{
    struct events *e = ctx;

    (void)why;
    lock_take(&e->lock);
    e->up = up;
    if (up) {
        e->wake = true;
        pthread_cond_signal(&e->woken);
    } else {
        e->times_away++;
        e->caught = false;
        e->said = false;
    }
    lock_drop(&e->lock);
}

/* ---- beginning and end ---- */

static size_t count_digits(const char *s)
{
    return strspn(s, "0123456789");
}

/* A damaged one is as good as none; Redis would refuse it again and again. */
static void read_position(struct events *e, const char *position)
{
    const char *number;

    if (position == NULL || strlen(position) >= EVENT_ID_SIZE)
        return;
    number = position + count_digits(position);
    if (number == position || number - position > 18 || number[0] != '-')
        return;
    number++;
    if (count_digits(number) >= 1 && count_digits(number) <= 18 &&
        number[count_digits(number)] == ' ')
        strcpy(e->position, position);
}

struct events *events_new(struct redis *redis, struct nodes *nodes,
                          const struct events_handler *handler, const char *position,
                          const struct events_config *config)
{
    struct events *e = xcalloc(1, sizeof(*e));

    e->redis = redis;
    e->nodes = nodes;
    e->handler = *handler;
    e->keep = config->keep != 0 ? config->keep : KEEP_DEFAULT;
    e->poll_ms = config->poll_ms != 0 ? config->poll_ms : POLL_DEFAULT_MS;
    read_position(e, position);
    strcpy(e->begun, e->position);
    strcpy(e->seen, e->position);
    lock_init(&e->lock, LOCK_EVENTS);
    lock_cond_init(&e->woken);
    lock_cond_init(&e->applied);
    if (redis != NULL) {
        e->key = redis_key(redis, "events");
        redis_script_init(&e->send, SEND);
        redis_script_init(&e->read, READ);
        redis_subscribe(redis, "events", hear_event, e);
        redis_subscribe(redis, "applied", hear_applied, e);
        redis_watch(redis, hear_change, e);
    }
    must(pthread_create(&e->thread, NULL, events_main, e) == 0);
    pthread_setname_np(e->thread, "events");
    return e;
}

void events_free(struct events **ep)
{
    struct events *e = *ep;
    struct local_event *l, *next;

    *ep = NULL;
    if (e == NULL)
        return;
    lock_take(&e->lock);
    e->ending = true;
    pthread_cond_broadcast(&e->woken);
    lock_drop(&e->lock);
    must(pthread_join(e->thread, NULL) == 0);
    DL_FOREACH_SAFE(e->local, l, next)
    local_free(l);
    pthread_cond_destroy(&e->woken);
    pthread_cond_destroy(&e->applied);
    lock_clear(&e->lock);
    free(e->key);
    free(e);
}

void events_seen(struct events *e, char begun[EVENT_ID_SIZE], char applied[EVENT_ID_SIZE])
{
    lock_take(&e->lock);
    strcpy(begun, e->begun);
    strcpy(applied, e->seen);
    lock_drop(&e->lock);
}

bool events_are_seen(struct events *e, const char *begun)
{
    char ignored[EVENT_ID_SIZE], applied[EVENT_ID_SIZE];

    events_seen(e, ignored, applied);
    return event_id_compare(applied, begun) >= 0;
}

void events_applied(struct events *e, char out[EVENT_ID_SIZE])
{
    lock_take(&e->lock);
    if (e->redis != NULL) {
        strcpy(out, e->seen);
    } else {
        /* All there are: what is sent later is later than now. */
        if (e->local == NULL)
            e->local_applied = e->local_sent = next_number_locked(e);
        snprintf(out, EVENT_ID_SIZE, "%" PRIu64 "-0", e->local_applied);
    }
    lock_drop(&e->lock);
}

void events_raise(struct events *e, const char *id)
{
    uint64_t number = strtoull(id, NULL, 10);

    lock_take(&e->lock);
    if (e->redis == NULL && number > e->local_sent)
        e->local_sent = number;
    lock_drop(&e->lock);
}

void events_count(struct events *e, struct events_counts *out)
{
    lock_take(&e->lock);
    *out = e->counts;
    lock_drop(&e->lock);
}
