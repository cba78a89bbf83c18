#include "proxy/sendfile.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <unistd.h>

/* By descriptor.  An entry outlives its descriptor, but sendfile is only ever called for one that a
 * response was made of, and then the entry is new. */
static atomic_uint_fast64_t ends[SENDFILE_FILES_MAX], sent[SENDFILE_FILES_MAX];

static bool has_entry(int fd)
{
    return fd >= 0 && fd < SENDFILE_FILES_MAX;
}

void sendfile_body_ends(int fd, uint64_t end)
{
    if (!has_entry(fd))
        return;
    atomic_store(&sent[fd], 0);
    atomic_store(&ends[fd], end);
}

uint64_t sendfile_body_sent(int fd)
{
    return has_entry(fd) ? atomic_load(&sent[fd]) : 0;
}

static ssize_t call(int out, int in, off64_t *offset, size_t count)
{
#ifdef SYS_sendfile64
    return syscall(SYS_sendfile64, out, in, offset, count);
#else
    return syscall(SYS_sendfile, out, in, offset, count);
#endif
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
    uint64_t end = has_entry(in) ? atomic_load(&ends[in]) : 0;
    ssize_t n;

    if (offset != NULL && *offset >= 0 && end > (uint64_t)*offset)
        count = sendfile_bounded(SENDFILE_STEP, end - (uint64_t)*offset, count);
    n = call(out, in, offset, count);
    if (n > 0 && end > 0 && offset != NULL)
        atomic_store(&sent[in], (uint64_t)*offset);
    return n;
}
