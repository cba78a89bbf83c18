/* libmicrohttpd's sendfile, in steps of our own.
 *
 * Unless each connection has a thread it sends at most 128 KiB a call and then goes through its
 * event loop, which costs a third and more of a warm answer's processor time (docs/performance.md).
 * There is no option for that; nor does it know bodies that are still being written, or have
 * something put in.  So the program defines sendfile64() itself: the dynamic linker gives it to the
 * library, too, and for a descriptor that has a sender of its own that one is called instead, and
 * decides what is sent.  libmicrohttpd goes by how much that was, not by what it asked for. */
#ifndef PANNIER_PROXY_SENDFILE_H
#define PANNIER_PROXY_SENDFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { SENDFILE_STEP = 2 << 20 }; /* what nginx takes; the socket's buffer bounds it further */

/* Sends what comes next to the socket, `wanted` bytes at least where that is possible; as
 * sendfile(2).  EAGAIN: nothing now; EBADF: never again, the connection is to be broken off. */
typedef ssize_t sendfile_fn(void *ctx, int to, size_t wanted);
/* Call before a response is made of fd.  False: it can't be had, nothing was done. */
bool sendfile_instead(int fd, sendfile_fn *fn, void *ctx);

/* How much to send, where `left` bytes of the body are left and the library wants to send so many
 * of them.  Unless these are all, it has the kernel wait for more before a packet goes out that
 * isn't full (TCP_CORK), and go on when it sends the last ones: so those are left to it, or a
 * client that keeps its connection waits 200 ms for the end. */
size_t sendfile_bounded(size_t step, uint64_t left, size_t wanted);
/* What was sent goes on its way: nothing follows for now. */
void sendfile_push(int to);

/* The system call itself, or what does the same where the file system has none. */
ssize_t sendfile_step(int to, int fd, uint64_t offset, size_t len);

#endif
