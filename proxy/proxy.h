/* The parts that every request meets, put together by serve.c. */
#ifndef PANNIER_PROXY_PROXY_H
#define PANNIER_PROXY_PROXY_H

#include <stdatomic.h>

#include "cache/cache.h"
#include "cache/janitor.h"
#include "cache/workers.h"
#include "proxy/config.h"

struct control;
struct credentials;
struct decisions;
struct flights;
struct origins;
struct refs;
struct repositories;

struct proxy {
    struct cache cache;
    struct janitor *janitor;
    struct control *control; /* NULL: there is no socket for commands */
    struct origins *origins;
    struct credentials *credentials; /* of its own */
    struct decisions *decisions;
    struct flights *flights;
    struct refs *refs;
    struct repositories *repositories;

    /* Short questions (refs, access); answers being made; what is passed on at its client's pace;
     * mirrors being built. */
    struct workers *queries, *fills, *relays, *background;
};

#endif
