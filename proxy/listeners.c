#include "proxy/listeners.h"

#include <time.h>
#include <unistd.h>

#include "proxy/admin/admin.h"
#include "proxy/count.h"
#include "proxy/log.h"
#include "proxy/peer.h"
#include "proxy/routes.h"
#include "proxy/tls.h"

enum { CERTIFICATE_WARN_DAYS = 14 };

/* A certificate that has run out is the operator's to renew, no reason to turn all away. */
static void say_certificate(const struct config *c, const struct tls_identity *id)
{
    int64_t days = (tls_identity_expires(id) - (int64_t)time(NULL)) / (24 * 3600);

    if (days < CERTIFICATE_WARN_DAYS)
        log_line(LOG_WARN, "the certificate runs out", "file", LOG_STR, c->tls.certificate,
                 "days_left", LOG_U64, (uint64_t)(days < 0 ? 0 : days), NULL);
}

int listeners_identity(const struct config *c, struct tls_identity **out, struct err *err)
{
    struct tls_files files;

    *out = NULL;
    if (!config_tls(c, &files))
        return c->cluster.tls ? err_set(err, ERR_INPUT, "cluster.tls needs tls.certificate") : 0;
    if (tls_identity_load(&files, out, err) != 0)
        return -1;
    say_certificate(c, *out);
    return 0;
}

static int start_all(struct proxy *p, struct config *c, const struct systemd_sockets *sockets,
                     struct tls_identity *identity, struct listeners *out, struct err *err)
{
    const struct server_listener clients = {.host = c->listen.host,
                                            .port = c->listen.port,
                                            .plan = routes_plan,
                                            .ended = count_request,
                                            .tls = identity,
                                            .socket = sockets->clients};
    const struct server_listener peers = {.host = c->cluster.listen.host,
                                          .port = c->cluster.listen.port,
                                          .plan = peer_plan,
                                          .ended = server_log_request,
                                          .tls = c->cluster.tls ? identity : NULL,
                                          .socket = sockets->cluster};

    if (admin_start(p, c, sockets->admin, &p->admin, err) != 0)
        return -1;
    if (peers.host != NULL && server_start(p, c, &peers, &out->peers, err) != 0)
        return -1;
    if (server_start(p, c, &clients, &out->clients, err) != 0)
        return -1;
    atomic_store(&p->clients, out->clients);
    atomic_store(&p->state, PROXY_SERVING);
    return 0;
}

int listeners_start(struct proxy *p, struct config *c, const struct systemd_sockets *sockets,
                    struct tls_identity *identity, struct listeners *out, struct err *err)
{
    *out = (struct listeners){.proxy = p};
    if (start_all(p, c, sockets, identity, out, err) == 0)
        return 0;
    listeners_stop(out);
    return -1;
}

int listeners_prepare(const struct listeners *l, const struct config *loaded,
                      struct tls_identity **identity, struct err *err)
{
    struct tls_files files;
    bool wanted = config_tls(loaded, &files);

    *identity = NULL;
    if (wanted != server_has_tls(l->clients)) {
        log_line(LOG_WARN, "these settings need a restart", "settings", LOG_STR,
                 wanted ? "tls (from http to https)" : "tls (from https to http)", NULL);
        return 0;
    }
    return wanted ? tls_identity_load(&files, identity, err) : 0;
}

void listeners_configure(const struct listeners *l, struct config *loaded,
                         struct tls_identity **identity)
{
    struct server *const all[] = {l->clients, l->peers};

    admin_configure(l->proxy->admin, loaded);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (all[i] == NULL)
            continue;
        server_configure(all[i], loaded);
        if (*identity != NULL && server_has_tls(all[i]))
            server_set_identity(all[i], *identity);
    }
    if (*identity != NULL)
        say_certificate(loaded, *identity);
    tls_identity_unref(identity);
}

size_t listeners_active(const struct listeners *l)
{
    return server_active(l->clients) + (l->peers != NULL ? server_active(l->peers) : 0);
}

void listeners_drain(const struct listeners *l)
{
    server_drain(l->clients);
    if (l->peers != NULL)
        server_drain(l->peers);
}

bool listeners_wait_idle(const struct listeners *l, uint64_t deadline_ms,
                         const volatile int *stop_waiting)
{
    bool idle = server_wait_idle(l->clients, deadline_ms, stop_waiting);

    return (l->peers == NULL || server_wait_idle(l->peers, deadline_ms, stop_waiting)) && idle;
}

void listeners_stop(struct listeners *l)
{
    admin_stop(&l->proxy->admin); /* first: it looks at the clients' */
    atomic_store(&l->proxy->clients, NULL);
    if (l->clients != NULL)
        server_stop(&l->clients);
    if (l->peers != NULL)
        server_stop(&l->peers);
}
