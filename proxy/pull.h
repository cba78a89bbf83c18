/* One fetch from upstream, on somebody's behalf: its response into the stream of an answer, or as a
 * pack into a mirror.
 *
 *     struct pull p = {.asker = a, .stream = s};
 *     pull_perform(&p, &req, &err)      the response went into s as it came; judge it there
 *     pull_clear(&p)
 *
 * Fill workers and background workers: blocks for as long as upstream takes. */
#ifndef PANNIER_PROXY_PULL_H
#define PANNIER_PROXY_PULL_H

#include "cache/mirror/mirror.h"
#include "protocol/fetch_request.h"
#include "proxy/access.h"
#include "proxy/stream.h"

struct pull {
    const struct asker *asker;
    /* -1 ends it: nobody wants it any more.  NULL: somebody always does. */
    int (*wanted)(void *ctx, struct err *err);
    void *ctx;
    struct stream *stream;  /* where the response goes; NULL: to watch */
    struct stream *waiting; /* with watch: kept alive meanwhile; may be NULL */
    struct fetch_response *watch;
    struct response_head head; /* upstream's, once it has come */

    /* pull.c's own. */
    struct bytes gathered; /* on its way into the stream */
    uint64_t passed_us;    /* when it last went there */
};

int pull_perform(struct pull *p, const struct fetch_request *req, struct err *err);
void pull_clear(struct pull *p);

/* A pack on its way into a mirror; the intake begins at the pack's first byte: git slots are few.
 */
struct pack_intake {
    const struct asker *asker;
    struct mirror *mirror;
    bool background;
    uint64_t begun; /* purges_now() before anything was asked for */
    struct mirror_intake *intake;
};
/* A function for fetch_response_new(), whose ctx is a struct pack_intake. */
int pack_intake_feed(void *ctx, const void *data, size_t len, struct err *err);
/* As mirror_intake_commit(), unless the repository was invalidated meanwhile: ERR_CANCELLED. */
int pack_intake_commit(struct pack_intake *in, const struct oid_list *tips, struct err *err);

/* Fetch wants into the mirror; haves are what it has.  Between mirror_write_begin and _end.
 * waiting: kept alive meanwhile; may be NULL. */
int pull_into_mirror(const struct asker *a, struct mirror *m, const struct oid_list *wants,
                     const struct oid_list *haves, bool background, struct stream *waiting,
                     struct err *err);

#endif
