#include "proxy/peer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "proxy/fleet.h"
#include "proxy/gather.h"

enum {
    SECRET_MAX = 4096,
    SECRET_MIN = 16, /* shorter ones can be guessed */
    PEER_CONNECTIONS = 64,
    PEER_CONNECT_MS = 1000, /* a node that isn't there must not hold anybody up */
    /* The other puts in a keepalive each five seconds, from the start on. */
    PEER_RESPONSE_MS = 15 * 1000,
    PEER_STALL_MS = 15 * 1000,
};

static const char SCHEME[] = "Pannier ";
static const char ROOT[] = "/peer/answers/";
static const char NOTE_HEADER[] = "X-Pannier-Note-Offset";
static const char WHICH_HEADER[] = "X-Pannier-Answer";
enum {
    WHICH_MAX = 64,
    SUMS_MAX = 2 * (SHA256_SIZE + CHECKSUM_SIZE) + 2,
};

struct peers {
    char *secret;
    char start[REDIS_TOKEN_SIZE]; /* tells this process's answers from an earlier one's */
    const char *scheme;
    struct upstream_config how; /* to ask: name, ca_file, timeouts */
};

/* ---- who asks ---- */

void peer_sign(const char *secret, const char *method, const char *target, int64_t until_s,
               char out[PEER_TOKEN_MAX])
{
    char *text = xasprintf("%s\n%s\n%" PRId64, method, target, until_s);
    char hex[KEY_HEX_SIZE];
    struct key mac;

    key_hmac_text(secret, text, strlen(text), &mac);
    key_to_hex(&mac, hex);
    snprintf(out, PEER_TOKEN_MAX, "%s%" PRId64 ".%s", SCHEME, until_s, hex);
    free(text);
}

bool peer_token_holds(const char *secret, const char *method, const char *target, const char *token,
                      int64_t now_s)
{
    char right[PEER_TOKEN_MAX];
    struct key given, expected;
    const char *dot;
    char *end;
    int64_t until_s;

    if (token == NULL || strncmp(token, SCHEME, sizeof(SCHEME) - 1) != 0)
        return false;
    until_s = strtoll(token + sizeof(SCHEME) - 1, &end, 10);
    dot = end;
    if (*dot != '.' || until_s < now_s || until_s - now_s > 2 * PEER_VALID_S ||
        !key_from_hex(dot + 1, &given))
        return false;
    peer_sign(secret, method, target, until_s, right);
    must(key_from_hex(strchr(right, '.') + 1, &expected));
    return key_equal(&given, &expected);
}

static int read_secret(const char *path, char **out, struct err *err)
{
    char text[SECRET_MAX];
    FILE *file = fopen(path, "re");
    int rc = 0;

    if (file == NULL)
        return err_errno(err, ERR_INPUT, "cluster.secret_file: open %s", path);
    if (fgets(text, sizeof(text), file) == NULL)
        text[0] = '\0';
    text[strcspn(text, "\r\n")] = '\0';
    if (strlen(text) < SECRET_MIN)
        rc = err_set(err, ERR_INPUT,
                     "cluster.secret_file: the first line of %s has less than %d bytes", path,
                     SECRET_MIN);
    else
        *out = xstrdup(text);
    explicit_bzero(text, sizeof(text));
    fclose(file);
    return rc;
}

int peers_new(const struct config *c, struct peers **out, struct err *err)
{
    struct peers *p;
    char *secret;

    *out = NULL;
    if (c->cluster.secret_file == NULL)
        return 0;
    if (read_secret(c->cluster.secret_file, &secret, err) != 0)
        return -1;
    p = xcalloc(1, sizeof(*p));
    p->secret = secret;
    redis_token(p->start);
    p->scheme = c->cluster.tls ? "https" : "http";
    p->how = (struct upstream_config){
        .name = xstrdup("the other node"),
        .ca_file = c->cluster.ca_file != NULL ? xstrdup(c->cluster.ca_file) : NULL,
        .max_connections = PEER_CONNECTIONS,
        .connect_timeout_ms = PEER_CONNECT_MS,
        .response_timeout_ms = PEER_RESPONSE_MS,
        .stall_timeout_ms = PEER_STALL_MS,
    };
    *out = p;
    return 0;
}

void peers_free(struct peers **pp)
{
    struct peers *p = *pp;

    *pp = NULL;
    if (p == NULL)
        return;
    explicit_bzero(p->secret, strlen(p->secret));
    free(p->secret);
    free(p->how.ca_file);
    free(p->how.name);
    free(p);
}

/* ---- being followed ---- */

struct wanted {
    struct key key;
    bool sums;
    const char *after; /* id of an event; "": none */
};

/* "/peer/answers/<key>", ".../<key>/after/<id>" or ".../<key>/sums". */
static bool parse_target(const char *target, struct wanted *out)
{
    static const char after[] = "/after/";
    char hex[KEY_HEX_SIZE];
    size_t len;

    if (strncmp(target, ROOT, sizeof(ROOT) - 1) != 0)
        return false;
    target += sizeof(ROOT) - 1;
    len = strcspn(target, "/");
    if (len != KEY_HEX_SIZE - 1)
        return false;
    memcpy(hex, target, len);
    hex[len] = '\0';
    target += len;
    *out = (struct wanted){.sums = strcmp(target, "/sums") == 0, .after = ""};
    if (strncmp(target, after, sizeof(after) - 1) == 0)
        out->after = target + sizeof(after) - 1;
    else if (target[0] != '\0' && !out->sums)
        return false;
    return key_from_hex(hex, &out->key);
}

static void reply_absent(struct exchange *x)
{
    reply_text(x, 404, "peer", "pannier: this node does not have that answer");
}

static void say_which(struct exchange *x, const struct answer *a)
{
    char which[WHICH_MAX];

    snprintf(which, sizeof(which), "%s.%" PRIu64, x->proxy->peers->start, answer_number(a));
    reply_header(x, WHICH_HEADER, which);
}

static void followed_ready(struct exchange *x)
{
    struct answer *a = exchange_answer(x);
    char offset[24];

    if (answer_state(a) == ANSWER_FAILED && answer_size(a) == 0) {
        reply_absent(x);
        return;
    }
    if (answer_note_offset(a) >= 0) {
        snprintf(offset, sizeof(offset), "%" PRId64, answer_note_offset(a));
        reply_header(x, NOTE_HEADER, offset);
    }
    say_which(x, a);
    reply_stream(x, 200, "application/octet-stream", NULL, "peer");
}

/* At hand, or whole on disk; NULL.  To join leads, and then whoever joins meanwhile hangs on us: so
 * only where there is something. */
static struct answer *find_answer(struct answers *answers, const struct key *key)
{
    struct answer *a = answers_peek(answers, key);
    bool leads;

    if (a != NULL || !answers_have(answers, key))
        return a;
    a = answers_join(answers, key, &leads);
    if (leads && !answers_find_local(answers, key, a)) {
        answers_fail(answers, key, a, &(struct err){ERR_CANCELLED, "it is gone"});
        answer_unref(&a);
    }
    return a;
}

static void write_sums(const struct peer_sums *sums, char out[SUMS_MAX])
{
    hex_encode(sums->sha256, SHA256_SIZE, out);
    out[2 * SHA256_SIZE] = ' ';
    hex_encode(sums->checksum, CHECKSUM_SIZE, out + 2 * SHA256_SIZE + 1);
}

static bool read_sums(const char *text, struct peer_sums *out)
{
    const char *rest = text + 2 * SHA256_SIZE;

    return hex_decode(text, SHA256_SIZE, out->sha256) && rest[0] == ' ' &&
           hex_decode(rest + 1, CHECKSUM_SIZE, out->checksum) &&
           rest[1 + 2 * CHECKSUM_SIZE] == '\0';
}

static void serve_sums(struct exchange *x, struct answer *a)
{
    struct peer_sums sums;
    char text[SUMS_MAX];

    if (a == NULL || !answer_digest(a, sums.sha256) || !answer_checksum(a, sums.checksum)) {
        reply_absent(x);
        return;
    }
    write_sums(&sums, text);
    say_which(x, a);
    reply_bytes(x, 200, "text/plain", text, strlen(text), "peer");
}

static void serve_peer(struct exchange *x)
{
    struct cluster *cluster = fleet_cluster(x->proxy->fleet);
    struct wanted w;
    struct answer *a;
    struct err why;

    must(parse_target(x->target, &w));
    /* Whatever cluster.when_away says: others, who can reach Redis, know of what was invalidated,
     * and we may not. */
    if (!cluster_may_serve(cluster, now_ms())) {
        reply_absent(x);
        return;
    }
    /* Before it is looked for: what is found then was not invalidated by what the other knows of.
     */
    if (!events_are_seen(cluster_events(cluster), w.after)) {
        reply_text(x, 409, "peer", "pannier: this node has yet to hear of an invalidation");
        return;
    }
    a = find_answer(x->proxy->cache.answers, &w.key);
    if (w.sums)
        serve_sums(x, a);
    else if (a == NULL || exchange_follow(x, a, followed_ready, &why) != 0)
        reply_absent(x);
    answer_unref(&a);
}

struct plan peer_plan(struct exchange *x)
{
    struct wanted w;

    if (!peer_token_holds(x->proxy->peers->secret, x->method, x->target, x->authorization,
                          (int64_t)time(NULL)))
        reply_text(x, 401, "refused", "pannier: this is for other nodes, which know a secret");
    else if (strcmp(x->method, "GET") != 0 || !parse_target(x->target, &w))
        reply_absent(x);
    else
        return (struct plan){PLAN_KEEP_BODY, serve_peer, x->proxy->queries, NULL};
    return (struct plan){.kind = PLAN_REPLIED};
}

/* ---- following ---- */

struct following {
    const struct peer_sink *sink; /* NULL: the sums */
    struct gather gathered;
    bool begun;
    int status;
    char which[WHICH_MAX];
    char sums[SUMS_MAX]; /* as they come */
    size_t sums_len;
};

/* -1: it isn't there, or none that makes sense. */
static int64_t number_of(const struct response_head *head, const char *name)
{
    const char *value = response_head_get(head, name);
    int64_t n = value != NULL ? strtoll(value, NULL, 10) : -1;

    return n >= 0 ? n : -1;
}

static int on_head(void *ctx, const struct response_head *head, struct err *err)
{
    struct following *f = ctx;
    const char *which = response_head_get(head, "x-pannier-answer");

    f->status = head->status;
    if (head->status == 404)
        return err_set(err, ERR_NOT_FOUND, "the other node does not have that answer");
    if (head->status == 401)
        return err_set(err, ERR_DENIED,
                       "the other node has another cluster.secret_file, or a clock that is off");
    if (head->status == 409)
        return err_set(err, ERR_CONFLICT, "the other node has yet to hear of an invalidation");
    if (head->status != 200)
        return err_set(err, ERR_UPSTREAM, "the other node answered with HTTP status %d",
                       head->status);
    snprintf(f->which, sizeof(f->which), "%s", which != NULL ? which : "");
    if (f->sink == NULL)
        return 0;
    f->begun = true;
    return f->sink->begin(f->sink->ctx, number_of(head, "x-pannier-note-offset"),
                          number_of(head, "content-length"), err);
}

static int on_data(void *ctx, const void *data, size_t len, struct err *err)
{
    struct following *f = ctx;

    if (f->sink != NULL)
        return gather_add(&f->gathered, data, len, err);
    if (len > sizeof(f->sums) - 1 - f->sums_len)
        return err_set(err, ERR_UPSTREAM, "the other node tells no sums");
    memcpy(f->sums + f->sums_len, data, len);
    f->sums_len += len;
    return 0;
}

static int on_pause(void *ctx, uint64_t *again_ms, struct err *err)
{
    struct following *f = ctx;

    return f->sink != NULL ? gather_pause(&f->gathered, again_ms, err) : 0;
}

static int ask(struct proxy *proxy, const char *address, const char *target, struct following *f,
               struct err *err)
{
    struct peers *peers = proxy->peers;
    char *base_url = xasprintf("%s://%s", peers->scheme, address);
    char token[PEER_TOKEN_MAX];
    struct upstream_request r = {
        .method = "GET",
        .base_url = base_url,
        .repo = "peer",
        .rest = target + strlen("/peer/"),
        .authorization = token,
        .direct = true,
        .head_fn = on_head,
        .data_fn = on_data,
        .pause_fn = on_pause,
        .ctx = f,
    };
    int rc;

    peer_sign(peers->secret, r.method, target, (int64_t)time(NULL) + PEER_VALID_S, token);
    rc = upstream_perform(proxy->origins, &peers->how, &r, NULL, err);
    free(base_url);
    return rc;
}

static int pass(void *ctx, const void *data, size_t len, struct err *err)
{
    const struct following *f = ctx;

    return f->sink->data(f->sink->ctx, data, len, err);
}

/* which: of which body they must be.  False: the other has another one by now, or doesn't tell; it
 * may take long to read a large one for them. */
static bool ask_sums(struct proxy *proxy, const char *address, const char *target,
                     const char *which, struct peer_sums *sums)
{
    struct following f = {.sink = NULL};
    struct err ignored;

    return ask(proxy, address, target, &f, &ignored) == 0 && read_sums(f.sums, sums) &&
           strcmp(f.which, which) == 0;
}

int peer_follow(struct proxy *proxy, const char *address, const struct key *key,
                const struct peer_sink *sink, struct peer_sums *sums, bool *kept, struct err *err)
{
    char begun[EVENT_ID_SIZE], applied[EVENT_ID_SIZE], hex[KEY_HEX_SIZE];
    struct following f = {.sink = sink};
    char *target, *sums_target;
    struct err ignored;
    int rc;

    key_to_hex(key, hex);
    events_seen(cluster_events(fleet_cluster(proxy->fleet)), begun, applied);
    begun[strcspn(begun, " ")] = '\0'; /* its token is of no use to the other */
    target = xasprintf("%s%s%s%s", ROOT, hex, begun[0] != '\0' ? "/after/" : "", begun);
    sums_target = xasprintf("%s%s/sums", ROOT, hex);
    gather_init(&f.gathered, pass, &f);
    rc = ask(proxy, address, target, &f, err);
    if (f.begun && gather_flush(&f.gathered, rc == 0 ? err : &ignored) != 0)
        rc = -1;
    gather_clear(&f.gathered);
    *kept = rc == 0 && ask_sums(proxy, address, sums_target, f.which, sums);
    free(sums_target);
    free(target);
    return rc;
}
