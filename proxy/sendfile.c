#include "proxy/sendfile.h"

#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    FILES_MAX = 1 << 16, /* descriptors above this one have no sender */
    COPY_SIZE = 32 * 1024,
};

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

/* Where another library's comes first, that one would be called, and send what isn't there yet.
 * That libmicrohttpd calls sendfile64() at all, as Debian's does, and not sendfile(), is for who
 * builds it otherwise to see to. */
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

/* Where the file's file system has no such thing. */
static ssize_t copy_step(int to, int fd, off64_t at, size_t len)
{
    char block[COPY_SIZE];
    ssize_t n = pread64(fd, block, len < sizeof(block) ? len : sizeof(block), at);

    return n > 0 ? send(to, block, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) : n;
}

ssize_t sendfile_step(int to, int fd, uint64_t offset, size_t len)
{
    off64_t at = (off64_t)offset;
    ssize_t n = call(to, fd, &at, len);

    return n < 0 && (errno == EINVAL || errno == ENOSYS) ? copy_step(to, fd, at, len) : n;
}

void sendfile_push(int to)
{
    int on = 1;

    /* Not by taking TCP_CORK off: libmicrohttpd remembers whether it is on. */
    setsockopt(to, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
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
