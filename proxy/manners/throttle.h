/* Does a response say that its sender wants to be left alone, and for how long?  Pure.
 *
 * Hosts say it by 429, by 503 or 403 with Retry-After, by headers about what is left of a limit,
 * and in words: in the body of a 403, or in an ERR pkt under status 200. */
#ifndef PANNIER_PROXY_MANNERS_THROTTLE_H
#define PANNIER_PROXY_MANNERS_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

struct response_head;

enum {
    THROTTLE_DEFAULT_MS = 60 * 1000,  /* where it isn't said; what GitHub asks for then */
    THROTTLE_MAX_MS = 60 * 60 * 1000, /* whatever is said: limits are counted by the hour */
    THROTTLE_TEXT_MAX = 2048,         /* bytes of a body that are worth looking at */
};

enum throttle_scope {
    THROTTLE_NONE,
    THROTTLE_REPOSITORY, /* too much goes on in this one */
    THROTTLE_CREDENTIAL, /* whoever asked has asked too much */
};

/* now_s: seconds since 1970, for the dates that stand in headers.  *wait_ms > 0 unless
 * THROTTLE_NONE. */
enum throttle_scope throttle_of_head(const struct response_head *head, int64_t now_s,
                                     uint64_t *wait_ms);
/* text: an ERR pkt's words, or the body of a refusal. */
enum throttle_scope throttle_of_text(const char *text, uint64_t *wait_ms);

#endif
