/* POST /hooks/<upstream>: a git host tells that somebody has pushed to it (protocol/webhook.h).
 *
 *     200   it only tries whether we are there
 *     202   what is known of the repository's refs is forgotten, on the other nodes too, and its
 *           mirror will be brought forward (pushes.h); or it tells of something else
 *     400   it makes no sense          401   it isn't signed with the upstream's secret
 *     404   there is none for such an upstream (webhook_secret_file)
 *     413   it is over WEBHOOK_BODY_MAX, WEBHOOK_JSON_MAX or limits.body
 *     503   the secret can't be read
 *
 * It needs no other credential than its signature, and gets to know nothing. */
#ifndef PANNIER_PROXY_WEBHOOKS_H
#define PANNIER_PROXY_WEBHOOKS_H

#include "proxy/server.h"

/* In a plan_fn: false where x asks for something else. */
bool webhooks_plan(struct exchange *x, struct plan *out);

#endif
