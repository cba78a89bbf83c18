/* What happens, as it happens, for who listens: the lines of the log from info on, as JSON.
 *
 * The last EVENTS_KEPT are in memory; who is too slow for that is told how many he missed.  Nothing
 * is kept while nobody listens. */
#ifndef PANNIER_PROXY_ADMIN_EVENTS_H
#define PANNIER_PROXY_ADMIN_EVENTS_H

#include <stddef.h>

enum {
    EVENTS_KEPT = 1024,
    EVENTS_CLIENTS_MAX = 16, /* each has a thread */
};

void events_start(void);
/* Who listens comes to the end, soon; nobody new gets in. */
void events_stop(void);
void events_free(void);      /* waits for them */
size_t events_clients(void); /* now */

#endif
