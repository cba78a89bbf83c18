/* Refs are upstream's: info/refs and ls-refs are passed on, and shared only where that can't make
 * them old.
 *
 * An answer may only be shared by requests that came before upstream was asked, or a push between
 * the two would be missed.  So at most REFS_FLIGHTS_MAX equal questions run at once; those who come
 * meanwhile gather behind one that has not started, and it starts when one lands.  A hundred equal
 * ls-refs at once cost three or four upstream, and none sees old refs.
 *
 * A flight has its answer in as many Content-Encodings as its passengers take, each made once,
 * while it comes (proxy/encoded.h).
 *
 * With refs_ttl an answer is also kept for that long, and given to whom upstream has lately said
 * yes to; with `refs: webhook` for refs_floor, which is the same but for who ends it before. */
#ifndef PANNIER_PROXY_REFS_H
#define PANNIER_PROXY_REFS_H

#include "protocol/fetch_request.h"
#include "proxy/exchange.h"

enum { REFS_FLIGHTS_MAX = 2 };

struct refs;
struct refs *refs_new(void);
void refs_free(struct refs **r);

/* Handlers: answer x with upstream's refs.  GET info/refs?service=git-upload-pack, and POSTs
 * whose command is ls-refs (req; body is what to send, taken over). */
void refs_serve_advertisement(struct exchange *x);
void refs_serve_ls(struct exchange *x, const struct fetch_request *req, struct bytes *body);

/* After a push: what was kept is dropped (repo_id NULL: of all repositories), and what upstream was
 * asked before is not kept. */
void refs_forget(struct refs *r, const struct key *repo_id);
/* The same for all that are called so ("<upstream>/<path>") but for capitals: to most hosts these
 * are one repository, and a client may write it in other ways than the host itself. */
void refs_forget_named(struct refs *r, const char *name);

#endif
