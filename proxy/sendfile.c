#include "proxy/sendfile.h"

#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FILES_MAX = 1 << 16 }; /* descriptors above this one have no sender */

struct source {
    _Atomic(sendfile_fn *) fn; /* NULL: none of its own */
    _Atomic(void *) ctx;
};

/* By descriptor.  An entry outlives its descriptor, but the library calls sendfile only for one
 * that a response was made of, and then the entry is new. */
static struct source sources[FILES_MAX];

static struct source *source_of(int fd)
{
    return fd >= 0 && fd < FILES_MAX ? &sources[fd] : NULL;
}

/* A library that was built otherwise, or that got another one's, would send what isn't there yet.
 */
static bool is_asked(void)
{
    return dlsym(RTLD_DEFAULT, "sendfile64") == (void *)sendfile64;
}

bool sendfile_instead(int fd, sendfile_fn *fn, void *ctx)
{
    struct source *s = source_of(fd);

    if (s == NULL || !is_asked())
        return false;
    atomic_store(&s->ctx, ctx);
    atomic_store(&s->fn, fn);
    return true;
}

static ssize_t call(int out, int in, off64_t *offset, size_t count)
{
#ifdef SYS_sendfile64
    return syscall(SYS_sendfile64, out, in, offset, count);
#else
    return syscall(SYS_sendfile, out, in, offset, count);
#endif
}

ssize_t sendfile_step(int to, int fd, uint64_t offset, size_t len)
{
    off64_t at = (off64_t)offset;

    return call(to, fd, &at, len);
}

void sendfile_push(int to)
{
    int off = 0;

    setsockopt(to, IPPROTO_TCP, TCP_CORK, &off, sizeof(off));
}

size_t sendfile_bounded(size_t step, uint64_t left, size_t wanted)
{
    if (left <= wanted)
        return (size_t)left < step ? (size_t)left : step;
    if (step < wanted)
        return step;
    return left - 1 < step ? (size_t)(left - 1) : step;
}

/* Takes the place of the C library's for all of the program. */
ssize_t sendfile64(int out, int in, off64_t *offset, size_t count)
{
    struct source *s = source_of(in);
    sendfile_fn *fn = s != NULL ? atomic_load(&s->fn) : NULL;

    return fn != NULL ? fn(atomic_load(&s->ctx), out, count) : call(out, in, offset, count);
}
