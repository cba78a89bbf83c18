/* The window of a streamed upload (push, LFS): what the client has sent and the worker hasn't
 * taken.  The HTTP thread puts in, one worker takes; all under the lock of the exchange whose it
 * is. */
#ifndef PANNIER_PROXY_UPLOAD_H
#define PANNIER_PROXY_UPLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct lock;
struct upload;

struct upload *upload_new(void);
void upload_free(struct upload **u);

/* How many of the bytes there was room for. */
size_t upload_put_locked(struct upload *u, const char *data, size_t len);
/* The client has sent all. */
void upload_end_locked(struct upload *u);
/* Nobody takes the rest. */
void upload_abandon_locked(struct upload *u);
bool upload_is_abandoned_locked(const struct upload *u);

/* Nothing lies there, and something may still come. */
bool upload_is_dry_locked(const struct upload *u);
/* Until something has changed; lock is the exchange's. */
void upload_wait_locked(struct upload *u, struct lock *lock);
/* Something has that isn't told here: the client is gone. */
void upload_wake_locked(struct upload *u);
/* As read(2): bytes; 0 at the end; -1 where the end isn't the client's, or none has come. */
ssize_t upload_take_locked(struct upload *u, void *buf, size_t len);

#endif
