/* Making an answer: the slow part of a fetch, in a worker, for everyone who follows.
 *
 *     the shared tier has it ..... hand it on, keep it here ...... SOURCE_SHARED
 *     another node makes it ...... follow it as it grows ......... SOURCE_PEER
 *     another node has it ........ take it from there ............ SOURCE_PEER
 *     mirror has all the wants ... `git upload-pack` on it ....... SOURCE_MIRROR
 *     mirror lacks some .......... fetch the difference, then so . SOURCE_REFRESH
 *     no mirror, or unsuited ..... forward upstream, stream it ... SOURCE_UPSTREAM
 *
 * A mirror that isn't here is made from what the shared tier has of it, if it has.
 *
 * Each falls through to the next as long as no byte has gone out. */
#ifndef PANNIER_PROXY_FILL_H
#define PANNIER_PROXY_FILL_H

#include "cache/cluster/filling.h"
#include "cache/mirror/mirror.h"
#include "protocol/fetch_request.h"
#include "proxy/access.h"

struct fill {
    struct asker asker;            /* who leads: its credential is used upstream */
    struct fetch_request req;      /* canonical; owned */
    struct oid_list tags, targets; /* with include-tag: those that may be included */
    struct answer *answer;         /* a reference */
    bool kept;                     /* by key; otherwise for one reader only */
    struct key key;
    char *url;             /* of the repository, for the entry */
    struct mirror *mirror; /* a reference; NULL: it has none, and is to have none */
    struct key leading;    /* with only_upstream: what to give to flights_landed() */
    bool only_upstream;    /* the wants are upstream's to judge for this credential */
    /* Once it is settled, well or badly, in the thread that did so; NULL: nobody waits so. */
    void (*ended)(void *ctx);
    void *ctx;

    /* fill.c's own. */
    uint64_t epoch; /* cache_epoch() when it began: what was invalidated since isn't kept */
    bool claimed;   /* others may follow it here */
    struct filling claim;
};

/* Take what *f holds and make its answer in a worker.  When no worker takes it the answer fails
 * with ERR_BUSY. */
void fill_start(struct fill *f);

#endif
