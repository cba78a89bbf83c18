/* The handlers about what goes on: requests under way, the last day, and who asks. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "protocol/base.h"
#include "proxy/admin/admin.h"
#include "proxy/admin/call.h"
#include "proxy/admin/handlers.h"
#include "proxy/admin/history.h"
#include "proxy/server.h"

enum { REQUESTS_MAX = 1000 };

static const char *const no_names[] = {NULL};

/* ---- who asks ---- */

void admin_whoami(struct exchange *x)
{
    const struct call *c = call_of(x);
    json_t *scopes;

    if (!call_knows(x, no_names))
        return;
    scopes = json_array();
    if (c->scopes & SCOPE_READ)
        must(json_array_append_new(scopes, json_string("read")) == 0);
    if (c->scopes & SCOPE_OPERATE)
        must(json_array_append_new(scopes, json_string("operate")) == 0);
    reply_json(x, 200,
               json_pack("{s:o, s:o}", "name", json_words(c->who[0] != '\0' ? c->who : NULL),
                         "scopes", scopes));
}

/* ---- requests under way ---- */

static json_t *request_json(const struct server_request *r, int64_t now_s)
{
    char id[KEY_HEX_SIZE];

    key_to_hex(&r->repo_id, id);
    return json_pack(
        "{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:I, s:o}", "id", r->id, "client",
        json_words(r->client), "as", json_words(r->as), "method", json_words(r->method), "repo",
        json_words(r->repo), "repository", json_words(r->repo != NULL ? id : NULL), "service",
        json_words(r->service), "state", r->state, "result", json_words(r->result), "bytes",
        json_number(r->bytes), "started", (json_int_t)(now_s - (int64_t)(r->age_ms / 1000)),
        "age_ms", json_number(r->age_ms));
}

void admin_list_requests(struct exchange *x)
{
    struct server *clients = x->proxy->clients;
    struct server_request *requests;
    int64_t now_s = (int64_t)time(NULL);
    size_t count;
    json_t *list;

    if (!call_knows(x, no_names))
        return;
    requests = xcalloc(REQUESTS_MAX, sizeof(*requests));
    count = clients != NULL ? server_requests(clients, requests, REQUESTS_MAX) : 0;
    list = json_array();
    for (size_t i = 0; i < count; i++) {
        must(json_array_append_new(list, request_json(&requests[i], now_s)) == 0);
        server_request_clear(&requests[i]);
    }
    free(requests);
    reply_json(x, 200,
               json_pack("{s:o, s:b}", "requests", list, "complete", (int)(count < REQUESTS_MAX)));
}

/* ---- the last day ---- */

static json_t *sample_json(const struct history_sample *s)
{
    const struct history_counts *c = &s->counts;

    /* What an upstream sent for a request that goes on is paid for already, and not yet sent. */
    return json_pack("{s:I, s:o, s:{s:o, s:o, s:o, s:o}, s:{s:o, s:o, s:o, s:o}, s:o, s:o, s:I}",
                     "time", (json_int_t)s->time_s, "requests", json_number(c->requests), "hits",
                     "local", json_number(c->hits[0]), "shared", json_number(c->hits[1]),
                     "coalesced", json_number(c->hits[2]), "peer", json_number(c->hits[3]),
                     "misses", "mirror", json_number(c->misses[0]), "refresh",
                     json_number(c->misses[1]), "upstream", json_number(c->misses[2]), "pass",
                     json_number(c->misses[3]), "client_bytes", json_number(c->client_bytes),
                     "upstream_bytes", json_number(c->upstream_bytes), "saved_bytes",
                     (json_int_t)(c->client_bytes - c->upstream_bytes));
}

/* False: answered. */
static bool read_since(struct exchange *x, int64_t *out)
{
    const char *text = call_parameter(x, "since");
    char *end;

    *out = 0;
    if (text == NULL)
        return true;
    *out = strtoll(text, &end, 10);
    if (*text >= '0' && *text <= '9' && *end == '\0')
        return true;
    reply_problem(x, 400, "since", "write seconds since 1970");
    return false;
}

static bool read_grain(struct exchange *x, enum history_grain *out)
{
    const char *text = call_parameter(x, "step");

    *out = text != NULL && strcmp(text, "5") == 0 ? HISTORY_STEPS : HISTORY_MINUTES;
    if (text == NULL || *out == HISTORY_STEPS || strcmp(text, "60") == 0)
        return true;
    reply_problem(x, 400, "step", "write %d or %d, which are seconds", HISTORY_STEP_S,
                  HISTORY_MINUTE_S);
    return false;
}

void admin_history(struct exchange *x)
{
    static const char *const names[] = {"since", "step", NULL};
    struct history_sample *samples;
    enum history_grain grain;
    int64_t since_s;
    size_t count;
    json_t *list;

    if (!call_knows(x, names) || !read_since(x, &since_s) || !read_grain(x, &grain))
        return;
    history_read(admin_history_of(x->proxy->admin), grain, since_s, &samples, &count);
    list = json_array();
    for (size_t i = 0; i < count; i++)
        must(json_array_append_new(list, sample_json(&samples[i])) == 0);
    free(samples);
    reply_json(x, 200,
               json_pack("{s:i, s:o}", "step",
                         grain == HISTORY_STEPS ? HISTORY_STEP_S : HISTORY_MINUTE_S, "samples",
                         list));
}
