/* Questions to upstream that several requests share.
 *
 * Two kinds.  Decisions: who needs the same one waits for the first to ask (flights_enter/_leave,
 * for workers).  Refs: an answer may only be shared by requests that came before upstream was
 * asked, or a push between the two would be missed; so at most FLIGHTS_PER_KEY questions run at
 * once, those who come meanwhile gather behind one that has not started, and it starts when one
 * lands.  A hundred equal ls-refs at once cost three or four upstream, and none sees old refs. */
#ifndef PANNIER_PROXY_FLIGHTS_H
#define PANNIER_PROXY_FLIGHTS_H

#include <stdbool.h>

#include "protocol/fetch_request.h"
#include "proxy/exchange.h"

enum { FLIGHTS_PER_KEY = 2 };

struct flights;
struct flights *flights_new(void);
void flights_free(struct flights **f);

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

/* Handlers: answer x with upstream's refs.  GET info/refs?service=git-upload-pack, and POSTs
 * whose command is ls-refs (req; body is what to send, taken over). */
void refs_serve_advertisement(struct exchange *x);
void refs_serve_ls(struct exchange *x, const struct fetch_request *req, struct bytes *body);

/* After a push: what was kept for refs_ttl is dropped. */
void flights_forget(struct flights *f, const struct key *repo_id);

#endif
