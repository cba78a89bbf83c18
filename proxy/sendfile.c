#include "proxy/sendfile.h"

#include <stdatomic.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <unistd.h>

/* By descriptor.  An entry outlives its descriptor, but sendfile is only ever called for one that a
 * response was made of, and then the entry is new. */
static atomic_uint_fast64_t ends[SENDFILE_FILES_MAX];

void sendfile_body_ends(int fd, uint64_t end)
{
    if (fd >= 0 && fd < SENDFILE_FILES_MAX)
        atomic_store(&ends[fd], end);
}

/* Takes the place of the C library's for all of the program. */
ssize_t sendfile64(int out, int in, off64_t *offset, size_t count)
{
    uint64_t end = in >= 0 && in < SENDFILE_FILES_MAX ? atomic_load(&ends[in]) : 0;

    if (offset != NULL && *offset >= 0 && end > (uint64_t)*offset) {
        uint64_t left = end - (uint64_t)*offset;
        size_t step = left < SENDFILE_STEP ? (size_t)left : SENDFILE_STEP;

        if (step > count)
            count = step;
    }
#ifdef SYS_sendfile64
    return syscall(SYS_sendfile64, out, in, offset, count);
#else
    return syscall(SYS_sendfile, out, in, offset, count);
#endif
}
