#include "proxy/webhooks.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"
#include "protocol/webhook.h"
#include "proxy/admin/call.h"
#include "proxy/credentials/secret.h"
#include "proxy/log.h"
#include "proxy/metrics.h"
#include "proxy/pushes.h"

static const char HERE[] = "/hooks/";

/* What an exchange keeps. */
struct request {
    char *name; /* of the upstream, as in a client's URL */
    char *base_url;
    const struct upstream_config *upstream; /* the exchange's configuration has it */
    enum webhook_forge forge;
    char *headers[WEBHOOK_HEADERS_COUNT];
};

static void request_free(void *state)
{
    struct request *r = state;

    for (size_t i = 0; i < WEBHOOK_HEADERS_COUNT; i++) {
        if (r->headers[i] != NULL) /* one of them may be the secret */
            explicit_bzero(r->headers[i], strlen(r->headers[i]));
        free(r->headers[i]);
    }
    free(r->base_url);
    free(r->name);
    free(r);
}

static void headers_of(const struct request *r, struct webhook_headers *out)
{
    for (size_t i = 0; i < WEBHOOK_HEADERS_COUNT; i++)
        out->values[i] = r->headers[i];
}

/* ---- answers ---- */

static void refuse(struct exchange *x, enum hook_result result, int status, const struct err *why)
{
    const struct request *r = x->state;

    metrics_webhook(r->upstream->name, result);
    log_line(LOG_WARN, "webhook refused", "upstream", LOG_STR, r->name, "client", LOG_STR,
             x->client, "reason", LOG_STR, why->text, NULL);
    if (status == 503)
        reply_header(x, "Retry-After", "5");
    reply_problem(x, status, NULL, "%s", why->text);
}

static void accept_ping(struct exchange *x)
{
    const struct request *r = x->state;

    metrics_webhook(r->upstream->name, HOOK_PING);
    reply_json_as(x, 200, json_pack("{s:b}", "ping", 1), "hook");
}

/* Hosts stop sending to who refuses often, so what is of no use is taken as well. */
static void ignore(struct exchange *x, const char *reason)
{
    const struct request *r = x->state;

    metrics_webhook(r->upstream->name, HOOK_IGNORED);
    reply_json_as(x, 202, json_pack("{s:s}", "ignored", reason), "hook");
}

static void accept_push(struct exchange *x, const struct webhook *hook)
{
    const struct request *r = x->state;
    char *name = xasprintf("%s/%s", r->name, hook->repo);
    struct key repo_id;

    repo_id_of(r->name, hook->repo, &repo_id);
    metrics_webhook(r->upstream->name, HOOK_PUSHED);
    log_line(LOG_INFO, "webhook", "repository", LOG_STR, name, "forge", LOG_STR,
             webhook_forge_name(r->forge), "kind", LOG_STR, hook->event, "refs", LOG_U64,
             (uint64_t)hook->ref_count, "ref", LOG_STR,
             hook->ref_count > 0 ? hook->refs[0].name : NULL, NULL);
    pushes_seen(x->proxy, name, &repo_id, "webhook", QUEUE_HIGH);
    reply_json_as(
        x, 202,
        json_pack("{s:o, s:i}", "repository", json_words(name), "refs", (int)hook->ref_count),
        "hook");
    free(name);
}

/* ---- the work ---- */

static void act(struct exchange *x, const struct webhook_headers *headers)
{
    const struct request *r = x->state;
    struct webhook hook;
    struct err why;
    int rc = webhook_parse(r->forge, headers, x->body.data != NULL ? x->body.data : "", x->body.len,
                           r->base_url, &hook, &why);

    if (rc != 0 && why.kind == ERR_NOT_FOUND) {
        ignore(x, "the repository is not below this upstream's url");
        return;
    }
    if (rc != 0) {
        refuse(x, HOOK_MALFORMED, why.kind == ERR_LIMIT ? 413 : 400, &why);
        return;
    }
    switch (hook.kind) {
    case WEBHOOK_PUSH: accept_push(x, &hook); break;
    case WEBHOOK_PING: accept_ping(x); break;
    case WEBHOOK_OTHER: ignore(x, "this event changes no refs"); break;
    }
    webhook_clear(&hook);
}

/* The secret's file is read each time: it is small, hooks are few, and a new one holds at once. */
static int verify(const struct exchange *x, const struct webhook_headers *headers, struct err *err)
{
    const struct request *r = x->state;
    struct bytes secrets;
    int rc;

    if (secret_file_read(r->upstream->webhook_secret_file, "webhook_secret_file", &secrets, err) !=
        0)
        return -1;
    rc = webhook_verify(r->forge, headers, x->body.data, x->body.len,
                        secrets.data != NULL ? secrets.data : "", err);
    secret_bytes_clear(&secrets);
    return rc;
}

static void serve(struct exchange *x)
{
    struct request *r = x->state;
    struct webhook_headers headers;
    struct err why;

    headers_of(r, &headers);
    if (r->forge == FORGE_AUTO)
        r->forge = webhook_forge_of(&headers);
    if (x->body.len > WEBHOOK_BODY_MAX)
        refuse(x, HOOK_MALFORMED, 413, &(struct err){ERR_LIMIT, "no host sends as much"});
    else if (r->forge == FORGE_AUTO)
        refuse(x, HOOK_MALFORMED, 400,
               &(struct err){ERR_INPUT, "no git host that is known here sends such headers"});
    else if (webhook_is_unsigned_ping(r->forge, &headers))
        accept_ping(x);
    else if (verify(x, &headers, &why) == 0)
        act(x, &headers);
    else if (why.kind == ERR_DENIED)
        refuse(x, HOOK_FORGED, 401, &why);
    else
        refuse(x, HOOK_FAILED, 503, &why);
}

/* ---- which requests ---- */

/* The <upstream> of /hooks/<upstream>, with whatever query, read as it is in a client's URL; NULL:
 * it is another path. */
static char *upstream_name(const char *target)
{
    size_t skip = sizeof(HERE) - 1, len;
    struct smart_path path;
    struct err ignored;
    char *name = NULL, *like;

    if (strncmp(target, HERE, skip) != 0)
        return NULL;
    len = strcspn(target + skip, "?");
    if (len == 0 || len > TARGET_MAX || memchr(target + skip, '/', len) != NULL)
        return NULL;
    like = xasprintf("/%.*s/x/HEAD", (int)len, target + skip);
    if (smart_path_parse(like, &path, &ignored) == 0) {
        name = xstrdup(path.upstream);
        smart_path_clear(&path);
    }
    free(like);
    return name;
}

static struct request *request_new(const struct exchange *x, char **name)
{
    struct request *r = xcalloc(1, sizeof(*r));

    r->name = *name;
    *name = NULL;
    r->upstream = config_find_upstream(x->config, r->name, &r->base_url);
    if (r->upstream == NULL || r->upstream->webhook_secret_file == NULL) {
        request_free(r);
        return NULL;
    }
    r->forge = r->upstream->webhook_forge;
    for (size_t i = 0; i < WEBHOOK_HEADERS_COUNT; i++) {
        const char *value = exchange_header(x, webhook_header_name((enum webhook_header)i));

        r->headers[i] = value != NULL ? xstrdup(value) : NULL;
    }
    return r;
}

bool webhooks_plan(struct exchange *x, struct plan *out)
{
    char *name = upstream_name(x->target);
    struct request *r;

    if (name == NULL)
        return false;
    *out = (struct plan){.kind = PLAN_REPLIED};
    r = request_new(x, &name);
    if (r == NULL) {
        reply_problem(x, 404, NULL, "there is no webhook for such an upstream");
        return true;
    }
    x->state = r;
    x->free_state = request_free;
    if (strcmp(x->method, "POST") != 0) {
        reply_header(x, "Allow", "POST");
        reply_problem(x, 405, NULL, "a webhook is a POST");
    } else if (x->content_length > WEBHOOK_BODY_MAX) {
        refuse(x, HOOK_MALFORMED, 413, &(struct err){ERR_LIMIT, "no host sends as much"});
    } else {
        *out = (struct plan){PLAN_KEEP_BODY, serve, x->proxy->queries, NULL};
    }
    return true;
}
