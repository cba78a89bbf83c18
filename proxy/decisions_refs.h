/* What a whole answer about refs tells decisions.h: which objects were advertised to whom, and what
 * upstream's advertisement said of itself.  Whoever has one may say so: access.c of what upstream
 * has just shown, manners/stale.c of what it showed before.  Any thread; never blocks. */
#ifndef PANNIER_PROXY_DECISIONS_REFS_H
#define PANNIER_PROXY_DECISIONS_REFS_H

#include "protocol/bytes.h"
#include "protocol/refs.h"
#include "proxy/decisions.h"

/* refs has read all of it.  asked: the body of the ls-refs that it answers, in canonical form; NULL
 * for an advertisement, of which v2_body then is what came.  content_type goes with v2_body. */
void decisions_learn_refs(struct decisions *d, const struct subject *s, uint64_t now_ms,
                          uint64_t ttl_ms, const struct refs_reader *refs, const char *content_type,
                          const struct bytes *asked, const struct bytes *v2_body);

#endif
