/* May this credential read this repository?  Upstream decides; decisions.h remembers.
 * Worker threads only: these ask upstream when nothing fresh is known. */
#ifndef PANNIER_PROXY_ACCESS_H
#define PANNIER_PROXY_ACCESS_H

#include "protocol/refs.h"
#include "proxy/decisions.h"
#include "proxy/exchange.h"
#include "proxy/seen.h"

/* On whose behalf upstream is asked, and for what. */
struct asker {
    struct proxy *proxy;
    const struct config *config; /* a reference of its own */
    const struct upstream_config *upstream;
    char *name; /* "<upstream>/<repository>", for logs */
    char *base_url, *wire_repo;
    char *authorization; /* the client's; NULL: none, or own */
    bool own;            /* upstream is shown a credential of pannier's own in its place */
    bool push;
    struct key repo_id;
    struct subject subject;
};
/* x has been admitted (clients.h).  -1: pannier should have a credential of its own and has none;
 * then there is nothing to clear. */
int asker_init(struct asker *a, const struct exchange *x, struct err *err);
/* For a question of the program's own, that no client waits for: with the credential that pannier
 * has of its own for the upstream, if it has one, and else without any.  What comes of it
 * is told to no client before upstream has said yes to that client itself.  name:
 * "<upstream>/<path>". -1: ERR_REFUSED, its host is not among the upstreams; or there should be a
 * credential and is none.
 */
int asker_init_for_program(struct asker *a, struct proxy *p, const struct config *config,
                           const char *name, struct err *err);
void asker_copy(const struct asker *from, struct asker *to);
void asker_clear(struct asker *a);

/* Upstream's words in an ERR pkt: they may ask to be left alone. */
void access_heard(const struct asker *a, const char *words);

/* Logs that something went wrong for a's repository, and remembers it for people.  event: static.
 */
void asker_warn(const struct asker *a, const char *event, const struct err *why);
/* It asks upstream no more; what it is remembered for needs no credential. */
void asker_forget_credential(struct asker *a);

/* upstream_perform() on its behalf: base_url and authorization are put in here.  Upstream's 401 to
 * a credential of pannier's own is not for the client, who can't mend it: another one is tried
 * once, where the body can be sent again, and then it is ERR_UPSTREAM. */
int asker_perform(const struct asker *a, const struct upstream_request *request, char **moved_repo,
                  struct err *err);

/* How many of the workers that ask may wait for one upstream. */
uint32_t question_share(const struct asker *a);

/* The path to ask for now: where redirects led, or as typed.  Yours to free. */
char *asker_wire_repo(const struct asker *a);

/* Learn from any of upstream's responses to a read. */
void access_learn(const struct asker *a, const struct response_head *head);
/* True for 401, 403 and 404 that are decisions, not throttling. */
bool access_is_denial(const struct response_head *head);
/* Upstream can't be asked now: it is down, hangs, or wants to be left alone. */
bool access_is_outage(enum err_kind kind);
/* And from a whole, parsed advertisement or ls-refs response.  asked: the body that asked for the
 * latter, in canonical form; NULL for an advertisement, of which v2_body then is what came.
 * listing: its refs by name. */
void access_learn_refs(const struct asker *a, const struct refs_reader *refs,
                       const struct seen_listing *listing, const char *content_type,
                       const struct bytes *asked, const struct bytes *v2_body);

/* The decision, asked for if none is fresh; once for all who wait for the same.
 * VERDICT_NONE: upstream made no decision, *err says why.  VERDICT_DENIED: *denial is filled. */
enum verdict access_check(const struct asker *a, struct response_head *denial, struct err *err);
/* The same where a denial is a failure like others.  0: yes.  -1: ERR_DENIED, or no decision. */
int access_require(const struct asker *a, struct err *err);
/* Reply to x with upstream's denial: its status and WWW-Authenticate, unchanged. */
void reply_denial(struct exchange *x, const struct response_head *denial);

/* Ask upstream to hand out oids (commits) to this credential, as little of them as it can: a
 * fetch of depth 1 without trees, where it can filter.  True: it did, and that is remembered. */
bool access_probe(const struct asker *a, const struct oid_list *oids);

/* All heads and tags, as upstream advertises them to this credential; remembered.  out may be NULL.
 */
int access_list_refs(const struct asker *a, struct oid_list *out, struct err *err);
/* The same with HEAD, by name: fn is called for each while they come, also when that fails later.
 */
int access_list_names(const struct asker *a, refs_ref_fn *fn, void *ctx, struct oid_list *out,
                      struct err *err);

#endif
