/* How an upstream is treated: no more requests than its budget allows, and none that can wait while
 * it asks to be left alone.
 *
 *     manners_admit(m, &who, need, now, &err)     before each request
 *     manners_heard(m, &who, scope, wait, now)    when a response said something of that kind
 *
 * Throttling is first the credential's own matter (limits are mostly counted by user), or of the
 * credential and the repository; one client's exhausted token must not close a host to all others.
 * When a second credential is told the same in that time it is taken for the whole host's, which
 * is then tried again after a minute at the latest.
 *
 * Credentials are held as HMACs under a key of this process.  Any thread; never blocks on I/O. */
#ifndef PANNIER_PROXY_MANNERS_MANNERS_H
#define PANNIER_PROXY_MANNERS_MANNERS_H

#include <stdint.h>

#include "protocol/err.h"
#include "proxy/config.h"
#include "proxy/manners/throttle.h"

enum {
    MANNERS_HOSTS_MAX = 4096, /* base URLs with a budget or a throttle; those soonest over go */
    MANNERS_TOLD_MAX = 4096,  /* credentials that were told to wait; likewise */
    MANNERS_ALL_MAX_MS = 60 * 1000,
};

enum need {
    NEED_CLIENT = 0, /* a client waits for it, and can be told to come again */
    NEED_MUST,  /* a push and the like, which nothing here can answer: upstream says no itself */
    NEED_SPARE, /* nobody waits for it */
};

/* Who asks whom for what; borrowed. */
struct manners_who {
    const struct upstream_config *config;
    const char *base_url, *authorization, *repo; /* authorization NULL: anonymous */
};

struct manners_counts {
    uint64_t throttled; /* times that an upstream asked to be left alone */
    uint64_t refused;   /* requests that therefore, or for the budget, didn't go out */
};

struct manners;
struct manners *manners_new(void);
void manners_free(struct manners **m);

/* 0: it may go out, and is counted.  -1: ERR_THROTTLED. */
int manners_admit(struct manners *m, const struct manners_who *who, enum need need, uint64_t now_ms,
                  struct err *err);
void manners_heard(struct manners *m, const struct manners_who *who, enum throttle_scope scope,
                   uint64_t wait_ms, uint64_t now_ms);
/* How long to wait until manners_admit() may say yes to a client; at least 1. */
uint32_t manners_retry_after_s(struct manners *m, const struct manners_who *who, uint64_t now_ms);
void manners_count(struct manners *m, struct manners_counts *out);

#endif
