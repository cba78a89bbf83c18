/* Who asks.  Where pannier shows a credential of its own to an upstream, upstream's yes is for
 * pannier; which of its clients may have what pannier may have is said by `clients` in the
 * configuration.  Both have to say yes.
 *
 * An entry fits when all that it says of how the client is known fits: its token, its certificate's
 * subject, where it connects from.  Of several that fit one with a token wins over one with a
 * subject, and that over one with networks alone; then the first in the list.
 *
 * Any thread; never blocks. */
#ifndef PANNIER_PROXY_CLIENTS_H
#define PANNIER_PROXY_CLIENTS_H

#include <stdbool.h>

#include "proxy/config.h"

struct exchange;

struct caller {
    const char *authorization; /* the header's value, or NULL: Basic (the password) or Bearer */
    const char *tls_subject;   /* or NULL */
    const char *address;       /* as text */
};

/* NULL: nobody of the list. */
const struct client_config *clients_find(const struct config *c, const struct caller *who);
/* repo in canonical form. */
bool client_may_ask_for(const struct client_config *client, const char *upstream, const char *repo);

/* May x go on?  Sets x->who where its upstream needs one.  False: it has been replied to (401,
 * 403). Where no clients are listed those on this machine may read, and stay nobody. */
bool clients_admit(struct exchange *x);

#endif
