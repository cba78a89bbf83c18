/* Questions to upstream that several workers share: single flight, in three forms.
 *
 * Keys are the callers' digests of who asks what.  Worker threads: all but flights_lead(),
 * flights_leads() and flights_landed() may block as long as the question takes. */
#ifndef PANNIER_PROXY_FLIGHTS_H
#define PANNIER_PROXY_FLIGHTS_H

#include <stdbool.h>

#include "protocol/digest.h"
#include "proxy/upstream.h"

struct flights;
struct flights *flights_new(void);
void flights_free(struct flights **f); /* nobody may be asking any more */

/* Ask, once for all who come with the same key meanwhile: all get what the one got.  ask()
 * returns a verdict of the caller's own making and fills *head and *err as it likes; head (a
 * copy, clear it) may be NULL. */
typedef int flights_ask_fn(void *ctx, struct response_head *head, struct err *err);
int flights_ask_once(struct flights *f, const struct key *key, flights_ask_fn *ask, void *ctx,
                     struct response_head *head, struct err *err);

/* One at a time: waits for whoever has entered with the same key to leave. */
void flights_enter(struct flights *f, const struct key *key);
void flights_leave(struct flights *f, const struct key *key);

/* Upstream is being asked key's question (an answer's key and a credential), and what it says is
 * that credential's to have: who asks the same with the same credential may follow without a
 * question of its own.  From flights_lead() until flights_landed(), which pair. */
void flights_lead(struct flights *f, const struct key *key);
bool flights_leads(struct flights *f, const struct key *key);
void flights_landed(struct flights *f, const struct key *key);

#endif
