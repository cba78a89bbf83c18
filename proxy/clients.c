#include "proxy/clients.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "protocol/base.h"
#include "protocol/base64.h"
#include "protocol/glob.h"
#include "proxy/exchange.h"

/* The scheme's value, or NULL for another scheme. */
static const char *behind(const char *authorization, const char *scheme)
{
    size_t len = strlen(scheme);

    if (strncasecmp(authorization, scheme, len) != 0 || authorization[len] != ' ')
        return NULL;
    return authorization + len + strspn(authorization + len, " ");
}

/* SHA-256 of the token in there; false: there is none. */
static bool hash_token(const char *authorization, struct key *out)
{
    const char *bearer, *basic, *colon;
    char *plain;
    size_t len;

    if (authorization == NULL)
        return false;
    bearer = behind(authorization, "Bearer");
    if (bearer != NULL) {
        key_of(bearer, strlen(bearer), out);
        return true;
    }
    basic = behind(authorization, "Basic");
    plain = basic != NULL ? base64_decode(basic, &len) : NULL;
    if (plain == NULL)
        return false;
    colon = memchr(plain, ':', len);
    if (colon != NULL)
        key_of(colon + 1, len - (size_t)(colon + 1 - plain), out);
    explicit_bzero(plain, len);
    free(plain);
    return colon != NULL;
}

struct known {
    bool has_token, has_address;
    struct key token;
    const char *subject;
    struct address address;
};

static bool in_networks(const struct network_list *l, const struct known *k)
{
    for (size_t i = 0; i < l->count; i++)
        if (k->has_address && network_holds(&l->items[i], &k->address))
            return true;
    return false;
}

static bool fits(const struct client_config *c, const struct known *k)
{
    /* First and always: the time tells nothing of which hash it was, nor how much of it was right.
     */
    bool token = key_equal(&c->token_hash.sha256, &k->token) && c->token_hash.set && k->has_token;

    if (!c->token_hash.set && c->tls_subject == NULL && c->network.count == 0)
        return false;
    return (token || !c->token_hash.set) &&
           (c->tls_subject == NULL ||
            (k->subject != NULL && strcmp(c->tls_subject, k->subject) == 0)) &&
           (c->network.count == 0 || in_networks(&c->network, k));
}

static int weight(const struct client_config *c)
{
    return c->token_hash.set ? 3 : c->tls_subject != NULL ? 2 : 1;
}

const struct client_config *clients_find(const struct config *c, const struct caller *who)
{
    const struct client_config *best = NULL;
    struct known k = {.subject = who->tls_subject};

    k.has_token = hash_token(who->authorization, &k.token);
    k.has_address = address_parse(who->address, &k.address);
    for (size_t i = 0; i < c->client_count; i++) {
        const struct client_config *client = &c->clients[i];

        if (fits(client, &k) && (best == NULL || weight(client) > weight(best)))
            best = client;
    }
    return best;
}

bool client_may_ask_for(const struct client_config *client, const char *upstream, const char *repo)
{
    char *path = xasprintf("%s/%s", upstream, repo);
    bool may = false;

    for (size_t i = 0; i < client->repositories.count && !may; i++)
        may = glob_matches(client->repositories.items[i], path);
    free(path);
    return may;
}

/* The configuration may have been reloaded since the address was listened on: it is the connection
 * that counts. */
static bool is_local(const struct exchange *x)
{
    struct address address;

    return address_parse(x->client, &address) && address_is_loopback(&address);
}

static bool refuse(struct exchange *x, const char *why)
{
    reply_text(x, 403, "refused", "pannier: %s", why);
    return false;
}

static bool may_do(struct exchange *x)
{
    const enum service service = x->path.service;

    if (!client_may_ask_for(x->who, x->path.upstream, x->path.repo))
        return refuse(x, "this client has no right to this repository");
    if ((service == SERVICE_RECEIVE_PACK || service == SERVICE_RECEIVE_PACK_REFS) && !x->who->push)
        return refuse(x, "this client has no right to push through pannier");
    /* Hosts put the credential that they were asked with into their answers to LFS calls, for the
     * client to use. */
    if (service == SERVICE_LFS)
        return refuse(x, "LFS does not pass with a credential of pannier's own");
    /* Its paths can be made to look like other things that a host serves. */
    if (service == SERVICE_DUMB)
        return refuse(x, "only git's smart protocol passes with a credential of pannier's own");
    return true;
}

bool clients_admit(struct exchange *x)
{
    const struct caller caller = {x->authorization, x->tls_subject, x->client};

    if (x->upstream->auth == AUTH_PASSTHROUGH)
        return true;
    if (x->config->client_count == 0)
        return is_local(x) || refuse(x, "no clients are listed, so only this machine may ask");
    x->who = clients_find(x->config, &caller);
    if (x->who != NULL)
        return may_do(x);
    reply_header(x, "WWW-Authenticate", "Basic realm=\"pannier\"");
    reply_text(x, 401, "refused",
               "pannier: this client is not known here; its token goes as the "
               "password");
    return false;
}
