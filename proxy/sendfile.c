#include "proxy/sendfile.h"

#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

struct source {
    atomic_uint_fast64_t end, sent;
    _Atomic(sendfile_fn *) fn; /* NULL: none of its own */
    _Atomic(void *) ctx;
};

/* By descriptor.  An entry outlives its descriptor, but sendfile is only ever called for one that a
 * response was made of, and then the entry is new. */
static struct source sources[SENDFILE_FILES_MAX];

static struct source *source_of(int fd)
{
    return fd >= 0 && fd < SENDFILE_FILES_MAX ? &sources[fd] : NULL;
}

void sendfile_body_ends(int fd, uint64_t end)
{
    struct source *s = source_of(fd);

    if (s == NULL)
        return;
    atomic_store(&s->fn, NULL);
    atomic_store(&s->sent, 0);
    atomic_store(&s->end, end);
}

uint64_t sendfile_body_sent(int fd)
{
    const struct source *s = source_of(fd);

    return s != NULL ? atomic_load(&s->sent) : 0;
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
    struct source *s = offset != NULL && *offset >= 0 ? source_of(in) : NULL;
    sendfile_fn *fn = s != NULL ? atomic_load(&s->fn) : NULL;
    uint64_t end = s != NULL ? atomic_load(&s->end) : 0;
    ssize_t n;

    if (fn != NULL)
        return fn(atomic_load(&s->ctx), out, count);
    if (s != NULL && end > (uint64_t)*offset)
        count = sendfile_bounded(SENDFILE_STEP, end - (uint64_t)*offset, count);
    n = call(out, in, offset, count);
    if (n > 0 && end > 0)
        atomic_store(&s->sent, (uint64_t)*offset);
    return n;
}
