/* The parts that every request meets, put together by serve.c. */
#ifndef PANNIER_PROXY_PROXY_H
#define PANNIER_PROXY_PROXY_H

#include <stdatomic.h>

#include "cache/cache.h"
#include "cache/janitor.h"
#include "cache/workers.h"
#include "proxy/config.h"

struct admin;
struct chores;
struct control;
struct credentials;
struct decisions;
struct fleet;
struct flights;
struct origins;
struct peers;
struct refs;
struct repositories;
struct schedule;
struct seen;
struct stale;
struct server;
struct traffic;
struct warmups;

enum proxy_state {
    PROXY_STARTING,
    PROXY_SERVING,
    PROXY_DRAINING, /* no new clients; those who are there may end */
};

struct proxy {
    struct cache cache;
    struct janitor *janitor;
    struct control *control; /* NULL: there is no socket for commands */
    struct origins *origins;
    struct peers *peers;             /* NULL: other nodes can't be followed */
    struct credentials *credentials; /* of its own */
    struct decisions *decisions;
    struct fleet *fleet;
    struct chores *chores;
    struct warmups *warmups;
    struct schedule *schedule;
    struct flights *flights;
    struct refs *refs;
    struct repositories *repositories;
    struct seen *seen;   /* which refs upstream has shown, for operators */
    struct stale *stale; /* what may be shown while an upstream is down */

    /* Short questions (refs, access); answers being made; what is passed on at its client's pace;
     * mirrors being built. */
    struct workers *queries, *fills, *relays, *background;

    struct traffic *traffic;
    _Atomic(struct server *) clients; /* NULL: they are not listened to yet */
    struct admin *admin;              /* NULL: off */
    atomic_int state;                 /* an enum proxy_state */
};

static inline enum proxy_state proxy_state(struct proxy *p)
{
    return (enum proxy_state)atomic_load(&p->state);
}

#endif
