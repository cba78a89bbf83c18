/* What may still be shown while upstream is down (stale_if_error; off by default).
 *
 *     stale_allowed(), stale_refused()   each time that upstream decides
 *     stale_keep()                       what it showed, per credential, path as typed and question
 *     stale_forget()                     after a push
 *     stale_can(), stale_admit()         upstream can't be asked: may we go by what it said before?
 *     stale_show()                       the refs themselves
 *
 * Never to a credential that upstream has refused, never refs older than stale_if_error, never
 * later than stale_access_ttl after upstream's last yes.  Upstream is asked again after a few
 * seconds each time: stale_admit() makes its yes and its listings hold in `decisions` for that
 * long, so that what follows (may it have these objects? which tags are there?) goes the usual way.
 *
 * In memory, with a bound; equal answers are kept once, whoever got them.  Any thread; never blocks
 * on I/O. */
#ifndef PANNIER_PROXY_MANNERS_STALE_H
#define PANNIER_PROXY_MANNERS_STALE_H

#include "protocol/bytes.h"
#include "protocol/refs.h"
#include "proxy/config.h"
#include "proxy/decisions.h"

enum {
    STALE_SUBJECTS_MAX = 10000, /* credential and path pairs; who was shown something longest ago
                                   goes first */
    STALE_QUESTIONS_MAX = 4,    /* of each; the oldest goes first */
    STALE_BODY_MAX = 8 << 20,   /* refs beyond it aren't remembered */
    STALE_BYTES_MAX = 64 << 20, /* all together */
    STALE_HOLDS_MS = 5000,      /* until upstream is asked again */
};

struct stale;
struct stale *stale_new(void);
void stale_free(struct stale **st);

void stale_allowed(struct stale *st, const struct subject *s, const struct upstream_config *c,
                   uint64_t now_ms);
void stale_refused(struct stale *st, const struct subject *s);
void stale_forget(struct stale *st, const struct key *repo_id);

/* A whole answer about refs.  Consumes *reader, which has read it, and what is in *body. */
struct shown;
struct shown *shown_new(enum refs_form form, struct refs_reader **reader, const char *content_type,
                        const struct bytes *asked, struct bytes *body);
void shown_free(struct shown *s);
/* Upstream showed it to s at asked_ms.  Consumes *shown.  Only for whom stale_allowed() was said,
 * and not stale_refused() since. */
void stale_keep(struct stale *st, const struct subject *s, const struct key *question,
                struct shown **shown, uint64_t asked_ms);

/* May refs be shown to s in answer to question? */
bool stale_can(struct stale *st, const struct subject *s, const struct key *question,
               const struct upstream_config *c, uint64_t now_ms);
/* True: s goes by what it was shown before, for STALE_HOLDS_MS; d knows. */
bool stale_admit(struct stale *st, struct decisions *d, const struct subject *s,
                 const struct upstream_config *c, uint64_t now_ms);
/* Does it at now_ms, after stale_admit() and no word of upstream's since?  *age_ms: of the oldest
 * refs that it goes by. */
bool stale_holds(struct stale *st, const struct subject *s, uint64_t now_ms, uint64_t *age_ms);
/* A copy of the answer into *body, which is yours to clear in any case; false where stale_can()
 * would say no. */
bool stale_show(struct stale *st, const struct subject *s, const struct key *question,
                const struct upstream_config *c, uint64_t now_ms, struct bytes *body);

/* An exchange was answered by it. */
void stale_served(struct stale *st);
uint64_t stale_count(struct stale *st);

#endif
