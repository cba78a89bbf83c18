#include "proxy/upload.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cache/lock.h"
#include "protocol/base.h"

enum { UPLOAD_WINDOW = 256 * 1024 };

struct upload {
    char *window;
    size_t start, len; /* bytes start..start+len, modulo UPLOAD_WINDOW */
    bool ended;        /* the client has sent all */
    bool abandoned;    /* nobody takes the rest */
    pthread_cond_t more;
};

struct upload *upload_new(void)
{
    struct upload *u = xcalloc(1, sizeof(*u));

    u->window = xmalloc(UPLOAD_WINDOW);
    lock_cond_init(&u->more);
    return u;
}

void upload_free(struct upload **up)
{
    struct upload *u = *up;

    *up = NULL;
    if (u == NULL)
        return;
    pthread_cond_destroy(&u->more);
    free(u->window);
    free(u);
}

size_t upload_put_locked(struct upload *u, const char *data, size_t len)
{
    size_t done = 0;

    while (done < len && u->len < UPLOAD_WINDOW) {
        size_t at = (u->start + u->len) % UPLOAD_WINDOW;
        size_t n = UPLOAD_WINDOW - at;

        n = n < UPLOAD_WINDOW - u->len ? n : UPLOAD_WINDOW - u->len;
        n = n < len - done ? n : len - done;
        memcpy(u->window + at, data + done, n);
        u->len += n;
        done += n;
    }
    if (done > 0)
        pthread_cond_signal(&u->more);
    return done;
}

void upload_end_locked(struct upload *u)
{
    if (u->ended)
        return;
    u->ended = true;
    pthread_cond_signal(&u->more);
}

void upload_abandon_locked(struct upload *u)
{
    u->abandoned = true;
    pthread_cond_broadcast(&u->more);
}

bool upload_is_abandoned_locked(const struct upload *u)
{
    return u->abandoned;
}

bool upload_is_dry_locked(const struct upload *u)
{
    return u->len == 0 && !u->ended && !u->abandoned;
}

void upload_wait_locked(struct upload *u, struct lock *lock)
{
    lock_wait(lock, &u->more);
}

void upload_wake_locked(struct upload *u)
{
    pthread_cond_broadcast(&u->more);
}

ssize_t upload_take_locked(struct upload *u, void *buf, size_t len)
{
    size_t done = 0;

    while (done < len && u->len > 0) {
        size_t n = UPLOAD_WINDOW - u->start;

        n = n < u->len ? n : u->len;
        n = n < len - done ? n : len - done;
        memcpy((char *)buf + done, u->window + u->start, n);
        u->start = (u->start + n) % UPLOAD_WINDOW;
        u->len -= n;
        done += n;
    }
    /* What was abandoned has no proper end. */
    return u->abandoned || (done == 0 && !u->ended) ? -1 : (ssize_t)done;
}
