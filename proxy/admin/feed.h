/* What happens, as it happens, for who listens: the lines of the log from info on, as JSON.
 *
 * The last FEED_KEPT are in memory; who is too slow for that is told how many he missed.  Nothing
 * is kept while nobody listens. */
#ifndef PANNIER_PROXY_ADMIN_FEED_H
#define PANNIER_PROXY_ADMIN_FEED_H

#include <stddef.h>

enum {
    FEED_KEPT = 1024,
    FEED_CLIENTS_MAX = 16, /* each has a thread */
};

void feed_start(void);
/* Who listens comes to the end, soon; nobody new gets in. */
void feed_stop(void);
void feed_free(void);      /* waits for them */
size_t feed_clients(void); /* now */

#endif
