/* What upstream said its refs are: v0/v1 advertisements, v2 capability advertisements, and v2
 * ls-refs responses, read as they come.
 *
 *     struct refs_reader *r = refs_reader_new(REFS_ADVERTISEMENT);
 *     refs_reader_feed(r, data, len, &err)  ... any number of times; -1: not what it should be
 *     refs_reader_finish(r, &err)           ... 0: the body was whole
 *     refs_reader_...                       ... ask
 *     refs_reader_free(r)
 *
 * Reading never changes or delays the bytes: the caller relays them whatever the reader says. */
#ifndef PANNIER_PROTOCOL_REFS_H
#define PANNIER_PROTOCOL_REFS_H

#include <stdbool.h>
#include <stddef.h>

#include "protocol/bytes.h"
#include "protocol/err.h"
#include "protocol/oid.h"

enum refs_form {
    REFS_ADVERTISEMENT, /* GET info/refs: "# service=..." first (optional in v2), v0, v1 or v2 */
    REFS_LS_REFS,       /* response to v2's command=ls-refs */
};

struct refs_reader;

/* max_oids bounds memory: past it oids are no longer collected and refs_reader_overflowed()
 * turns true.  algo is what an ls-refs response is read with; an advertisement says it itself
 * (object-format), so there it is only the default. */
struct refs_reader *refs_reader_new(enum refs_form form, enum hash_algo algo, size_t max_oids);
void refs_reader_free(struct refs_reader *r);

/* Called for each ref as it is read, with its name and its id; unborn ones are left out, and what a
 * tag peels to.  Before the first bytes. */
typedef void refs_ref_fn(void *ctx, const char *name, size_t len, const struct oid *oid);
void refs_reader_on_ref(struct refs_reader *r, refs_ref_fn *fn, void *ctx);

int refs_reader_feed(struct refs_reader *r, const void *data, size_t len, struct err *err);
/* 0: the terminating flush was seen and nothing follows it. */
int refs_reader_finish(struct refs_reader *r, struct err *err);

/* All oids that were advertised: refs, peeled tags, in any order and with duplicates.
 * Borrowed from r.  Zero ids ("capabilities^{}", unborn) are left out. */
const struct oid_list *refs_reader_oids(const struct refs_reader *r);
/* The annotated tags among them, with what each peels to: pairs at equal places.  Only where
 * upstream told (v0; v2 when the request said `peel`).  Borrowed. */
void refs_reader_tags(const struct refs_reader *r, const struct oid_list **tags,
                      const struct oid_list **targets);
bool refs_reader_overflowed(const struct refs_reader *r);
size_t refs_reader_ref_count(const struct refs_reader *r);
enum hash_algo refs_reader_algo(const struct refs_reader *r);
/* The message of an ERR pkt, or NULL.  Borrowed. */
const char *refs_reader_error(const struct refs_reader *r);

/* Advertisements only: 0, 1 or 2. */
int refs_reader_version(const struct refs_reader *r);
/* Advertisements only.  Does the capability list hold name ("filter" in v0, "fetch" or
 * "object-format" in v2)?  v2: *value / *len, when not NULL, are what stands behind '='. */
bool refs_reader_capability(const struct refs_reader *r, const char *name, const char **value,
                            size_t *len);
/* v2: is word among the space-separated features of the capability `fetch` ("filter",
 * "shallow", "wait-for-done", ...)?  v0: is it a capability? */
bool refs_reader_fetch_feature(const struct refs_reader *r, const char *word);

#endif
