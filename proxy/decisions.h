/* What upstream has decided and shown, per credential and repository as the client typed it, for
 * access_ttl: may this credential read, which objects were advertised to it, which others
 * has upstream handed out to it.
 *
 * A credential is only ever held as an HMAC under a key of this process.  Nothing here asks
 * upstream; access.c does.  Any thread; never blocks. */
#ifndef PANNIER_PROXY_DECISIONS_H
#define PANNIER_PROXY_DECISIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/bytes.h"
#include "protocol/digest.h"
#include "protocol/oid.h"
#include "proxy/upstream.h"

struct decisions;

enum {
    DECISIONS_MAX = 100000,      /* credential and repository pairs; the oldest go first */
    DECISION_SETS_MAX = 8,       /* advertisements remembered for one pair */
    DECISION_OIDS_MAX = 500000,  /* object ids in all sets (16 MB); the oldest sets go first */
    DECISION_GRANTS_MAX = 4096,  /* objects handed out by id, for one pair */
    DECISION_ADVERT_MAX = 16384, /* bytes of a v2 capability advertisement */
};

/* Who asks for what. */
struct subject {
    struct key key;     /* of credential, base URL and path as typed */
    struct key repo_id; /* whatever the spelling */
};

enum verdict { VERDICT_NONE, VERDICT_ALLOWED, VERDICT_DENIED };

struct decisions *decisions_new(void);
void decisions_free(struct decisions **d);

/* authorization NULL: anonymous; else who asks, as text: the header's value, or what stands in its
 * place.  repo_id is copied.  The repository as typed (".git" or not), so
 * that one spelling never answers for another. */
void decisions_subject(struct decisions *d, const char *authorization, const char *base_url,
                       const char *wire_repo, const struct key *repo_id, struct subject *out);

/* The verdict, if it is fresh at now_ms.  VERDICT_DENIED: *denial, when not NULL, has
 * upstream's status and WWW-Authenticate (clear it). */
enum verdict decisions_get(struct decisions *d, const struct subject *s, uint64_t now_ms,
                           struct response_head *denial);
void decisions_allow(struct decisions *d, const struct subject *s, uint64_t now_ms,
                     uint64_t ttl_ms);
void decisions_deny(struct decisions *d, const struct subject *s, uint64_t now_ms, uint64_t ttl_ms,
                    const struct response_head *head);

/* What goes with an ALLOWED verdict and ends with it. */

/* A listing of refs, as upstream gave it to s.  It replaces older ones that it covers (those of the
 * same question, and those whose prefixes all begin with one of its own; no prefixes: all refs),
 * so that what upstream has hidden since is not taken for advertised.  Object ids are copied;
 * tags[i] peels to targets[i]. */
struct listing {
    struct key question;   /* a digest of what was asked */
    char *const *prefixes; /* borrowed, like the rest */
    size_t prefix_count;
    const struct oid_list *oids, *tags, *targets;
};
void decisions_advertised(struct decisions *d, const struct subject *s, uint64_t now_ms,
                          uint64_t ttl_ms, const struct listing *listing);
/* False when no listing is in force.  *tags, *targets: all annotated tags that the listings name,
 * sorted by tag, without duplicates, as pairs at equal places. */
bool decisions_tags(struct decisions *d, const struct subject *s, uint64_t now_ms,
                    struct oid_list *tags, struct oid_list *targets);
/* s was given refs that upstream said at then_ms, kept since (refs_ttl); the next listing ends
 * that. */
void decisions_gave_old_refs(struct decisions *d, const struct subject *s, uint64_t then_ms);
/* How old the refs are that s goes by: milliseconds, 0 when they are upstream's newest. */
uint64_t decisions_refs_age(struct decisions *d, const struct subject *s, uint64_t now_ms);
/* Upstream has given these to s when asked by id. */
void decisions_grant(struct decisions *d, const struct subject *s, uint64_t now_ms, uint64_t ttl_ms,
                     const struct oid_list *oids);
/* Adds to *unknown those of oids that were neither advertised to s nor granted, within their time.
 */
void decisions_unknown(struct decisions *d, const struct subject *s, uint64_t now_ms,
                       const struct oid_list *oids, struct oid_list *unknown);
/* All object ids advertised to s, as one sorted set. */
void decisions_all_advertised(struct decisions *d, const struct subject *s, uint64_t now_ms,
                              struct oid_list *out);

/* What upstream's advertisement said of itself. */
struct advert {
    int version;
    bool filter; /* fetches may be filtered */
    enum hash_algo algo;
    char *v2_body; /* the capability advertisement, or NULL */
    size_t v2_len;
    char *v2_content_type;
};
void advert_clear(struct advert *a);
/* Takes what *a holds. */
void decisions_set_advert(struct decisions *d, const struct subject *s, uint64_t now_ms,
                          uint64_t ttl_ms, struct advert *a);
/* False when there is none within its own time and the verdict's.  *out is a copy: clear it. */
bool decisions_get_advert(struct decisions *d, const struct subject *s, uint64_t now_ms,
                          struct advert *out);

/* Where upstream's redirects led to, as an escaped path; whatever the verdict.  moved NULL:
 * nowhere. decisions_moved(): a copy, yours to free, or NULL. */
void decisions_set_moved(struct decisions *d, const struct subject *s, uint64_t now_ms,
                         uint64_t ttl_ms, const char *moved);
char *decisions_moved(struct decisions *d, const struct subject *s, uint64_t now_ms);

/* After a push: forget what is known of the repository, for all credentials. */
void decisions_forget(struct decisions *d, const struct key *repo_id);
void decisions_forget_all(struct decisions *d);

#endif
