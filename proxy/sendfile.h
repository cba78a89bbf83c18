/* Bigger steps for libmicrohttpd's sendfile.
 *
 * With a pool of threads it sends at most 128 KiB a call and then goes through its event loop,
 * which costs a third and more of a warm answer's processor time (docs/performance.md).  There is
 * no option for that, so the program defines sendfile64() itself: the dynamic linker gives it to
 * the library, too, and it sends up to SENDFILE_STEP where the file's body has that much left.
 * libmicrohttpd goes by what was sent, not by what it asked for. */
#ifndef PANNIER_PROXY_SENDFILE_H
#define PANNIER_PROXY_SENDFILE_H

#include <stdint.h>

enum {
    SENDFILE_STEP = 2 << 20,      /* what nginx takes; the socket's buffer bounds it further */
    SENDFILE_FILES_MAX = 1 << 16, /* descriptors above this one get no bigger steps */
};

/* The body in the file behind fd ends at end: nothing behind it is ever sent.  Call before a
 * response is made of fd; any thread. */
void sendfile_body_ends(int fd, uint64_t end);
/* How far that has gone out. */
uint64_t sendfile_body_sent(int fd);

#endif
