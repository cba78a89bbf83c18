#include "proxy/routes.h"

#include <string.h>

#include "protocol/base.h"
#include "proxy/clients.h"
#include "proxy/fetch.h"
#include "proxy/health.h"
#include "proxy/refs.h"
#include "proxy/relay.h"
#include "proxy/webhooks.h"

static struct plan replied(void)
{
    return (struct plan){.kind = PLAN_REPLIED};
}

static bool is_get(const struct exchange *x)
{
    return strcmp(x->method, "GET") == 0 || strcmp(x->method, "HEAD") == 0;
}

struct route {
    enum service service;
    bool get; /* or else POST; LFS has methods of its own */
    struct plan plan;
};

/* Which service is answered how. */
static struct plan route(struct exchange *x)
{
    const struct proxy *p = x->proxy;
    const struct plan refs = {PLAN_KEEP_BODY, refs_serve_advertisement, p->queries, NULL};
    const struct plan fetch = {PLAN_KEEP_BODY, fetch_serve, p->queries, fetch_serve_quickly};
    const struct plan relay = {PLAN_STREAM_BODY, relay_serve, p->queries, NULL};
    const struct route routes[] = {
        {SERVICE_UPLOAD_PACK_REFS, true, refs},
        {SERVICE_UPLOAD_PACK, false, fetch},
        {SERVICE_RECEIVE_PACK_REFS, true, relay},
        {SERVICE_RECEIVE_PACK, false, relay},
        {SERVICE_DUMB, true, relay},
    };

    if (x->path.service == SERVICE_LFS)
        return relay;
    for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
        if (routes[i].service != x->path.service)
            continue;
        if (routes[i].get == is_get(x) && (is_get(x) || strcmp(x->method, "POST") == 0))
            return routes[i].plan;
        reply_header(x, "Allow", routes[i].get ? "GET, HEAD" : "POST");
        reply_text(x, 405, "refused", "pannier: this needs another method");
        return replied();
    }
    must(!"a service without a route");
    return replied();
}

struct plan routes_plan(struct exchange *x)
{
    struct plan hook;
    struct err why;

    if (health_serve(x))
        return replied();
    if (webhooks_plan(x, &hook))
        return hook;
    if (strcmp(x->target, "/") == 0) {
        reply_text(x, 404, "refused",
                   "pannier: a caching proxy for git; repositories are at "
                   "/<upstream>/<path of the repository>");
        return replied();
    }
    if (smart_path_parse(x->target, &x->path, &why) != 0) {
        reply_error(x, &why);
        return replied();
    }
    x->upstream = config_find_upstream(x->config, x->path.upstream, &x->base_url);
    if (x->upstream == NULL) {
        smart_path_clear(&x->path);
        reply_text(x, 403, "refused", "pannier: this host is not among the configured upstreams");
        return replied();
    }
    return clients_admit(x) ? route(x) : replied();
}
