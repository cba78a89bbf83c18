/* Which refs upstream has shown of each repository, when, and to what kind of asker: for operators.
 * Nothing is served or decided by it, and whose credential it was is not known here.
 *
 *     seen_listing_init(&l)
 *     seen_listing_add(&l, ...)            each ref, as it is read: a refs_ref_fn
 *     seen_note(s, &repo_id, &how, &l)     when upstream's answer has come whole
 *     seen_listing_clear(&l)
 *
 * By name, with what it was shown as last.  A ref goes when a later listing, to the same kind of
 * asker, would have had it and has not; or for room: of a repository who was not shown for longest,
 * of repositories that whose refs were not shown for longest.  In memory: a restart forgets.
 *
 * Any thread; never blocks on I/O. */
#ifndef PANNIER_PROXY_SEEN_H
#define PANNIER_PROXY_SEEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/bytes.h"
#include "protocol/digest.h"
#include "protocol/oid.h"

struct seen;

enum {
    SEEN_REFS_MAX = 2000,      /* of one repository; some 100 bytes each */
    SEEN_NAME_MAX = 1024,      /* a longer name is left out */
    SEEN_PREFIXES_MAX = 64,    /* a question about more drops none: each costs a look */
    SEEN_BYTES_MAX = 32 << 20, /* all together */
};

/* Which credential upstream was shown. */
enum seen_by {
    SEEN_ANONYMOUS,
    SEEN_CLIENT, /* a client's */
    SEEN_OWN,    /* pannier's own */
};
/* "anonymous", "client", "own".  Static storage. */
const char *seen_by_name(enum seen_by by);

/* One answer of upstream's, while it is read. */
struct seen_listing {
    struct bytes names; /* each with its NUL */
    struct oid_list oids;
    bool left_out; /* there were more, or longer ones */
};
void seen_listing_init(struct seen_listing *l);
void seen_listing_add(void *listing, const char *name, size_t len, const struct oid *oid);
void seen_listing_clear(struct seen_listing *l);

/* How upstream came to give it. */
struct seen_how {
    enum seen_by by;
    enum hash_algo algo;
    /* What was asked for: names that begin so; none: all.  Borrowed. */
    char *const *prefixes;
    size_t prefix_count;
    bool unclear; /* asked in a way of which nobody here knows what it leaves out */
    int64_t now_s;
};

struct seen *seen_new(void);
void seen_free(struct seen **s); /* NULL inside is fine */
void seen_note(struct seen *s, const struct key *repo_id, const struct seen_how *how,
               const struct seen_listing *l);
/* repo_id NULL: of all repositories. */
void seen_forget(struct seen *s, const struct key *repo_id);

struct seen_ref {
    const char *name;
    struct oid oid;
    enum hash_algo algo;
    enum seen_by by;
    int64_t seen_s; /* seconds since 1970 */
};
struct seen_view {
    struct seen_ref *refs; /* by name */
    size_t count;
    char *names;
    /* The last listing. */
    int64_t listed_s;
    enum seen_by by;
    bool complete; /* no more were shown than are remembered */
};
/* False: nothing was shown since the start, and *out is empty.  *out is yours to clear. */
bool seen_get(struct seen *s, const struct key *repo_id, struct seen_view *out);
void seen_view_clear(struct seen_view *v);

#endif
