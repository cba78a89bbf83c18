/* Makes file operations fail, or the program die at one of them, while it runs.
 *
 *     LD_PRELOAD=faults.so FAULTS_CONTROL=<file> pannier serve ...
 *
 * The file is a struct control, shared with whoever steers: tests/support/faults.py.  Operations on
 * paths below one folder are looked at; the rest, and all while nothing is asked for, go straight
 * to the kernel.  Descriptors are traced back to their paths through /proc, so nothing is
 * remembered.
 *
 * pannier gives its git programs an environment of their own; execvpe() puts this library into it,
 * so that they meet the same disk. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum op {
    OP_CREATE = 1 << 0,
    OP_WRITE = 1 << 1,
    OP_SYNC = 1 << 2,
    OP_RENAME = 1 << 3,
    OP_LINK = 1 << 4,
    OP_TRUNCATE = 1 << 5,
    OP_MKDIR = 1 << 6,
    OP_UNLINK = 1 << 7,
};

/* The layout is known to faults.py. */
struct control {
    _Atomic uint32_t ops;    /* what to look at; 0: nothing */
    _Atomic int32_t error;   /* errno to fail with; 0: only count */
    _Atomic int32_t skip;    /* so many go well first */
    _Atomic uint32_t lethal; /* kill -9 the program instead of failing */
    _Atomic uint32_t hit;    /* failed so far, or killed at */
    char below[512];         /* the folder */
    char part[128];          /* only paths with this in them; "": all */
};

enum { ENV_MAX = 64 };

static struct control *control;
static int (*next_execvpe)(const char *, char *const *, char *const *);
static pid_t program; /* whose git programs, or which, we are in */
static char preload_var[PATH_MAX + 16], control_var[PATH_MAX + 16], program_var[32];

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAULTS_CONTROL"), *parent = getenv("FAULTS_PROGRAM");
    Dl_info self;
    void *map;
    int fd;

    next_execvpe = (int (*)(const char *, char *const *, char *const *))dlsym(RTLD_NEXT, "execvpe");
    if (path == NULL || dladdr((void *)begin, &self) == 0)
        return;
    snprintf(preload_var, sizeof(preload_var), "LD_PRELOAD=%s", self.dli_fname);
    snprintf(control_var, sizeof(control_var), "FAULTS_CONTROL=%s", path);
    program = parent != NULL ? (pid_t)atol(parent) : getpid();
    snprintf(program_var, sizeof(program_var), "FAULTS_PROGRAM=%ld", (long)program);
    fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0)
        return;
    map = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED)
        control = map;
}

static bool concerns(const char *path)
{
    size_t len = strlen(control->below);

    return strncmp(path, control->below, len) == 0 && (path[len] == '/' || path[len] == '\0') &&
           strstr(path + len, control->part) != NULL;
}

/* Not async-signal-safe by the letter (memory on the stack only, though): may run after fork(). */
static bool path_of_fd(int fd, char out[PATH_MAX])
{
    char link[64];
    ssize_t n;

    if (fd == AT_FDCWD)
        strcpy(link, "/proc/self/cwd");
    else
        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, out, PATH_MAX - 1);
    out[n < 0 ? 0 : n] = '\0';
    return n > 0;
}

/* It is an operation that is looked at: true when it has to fail, with errno set. */
static bool strikes(void)
{
    int32_t error = control->error;

    if (atomic_fetch_sub(&control->skip, 1) > 0)
        return false;
    if (control->lethal) {
        if (atomic_fetch_add(&control->hit, 1) == 0)
            kill(program, SIGKILL);
        return false;
    }
    if (error == 0)
        return false;
    atomic_fetch_add(&control->hit, 1);
    errno = error;
    return true;
}

static bool fails_fd(enum op op, int fd)
{
    int saved = errno;
    char path[PATH_MAX];
    bool mine = control != NULL && (control->ops & op) && path_of_fd(fd, path) && concerns(path);

    errno = saved;
    return mine && strikes();
}

static bool fails_at(enum op op, int dir, const char *path)
{
    int saved = errno;
    char whole[2 * PATH_MAX + 1];
    bool mine = false;

    if (control != NULL && (control->ops & op)) {
        if (path[0] == '/')
            mine = concerns(path);
        else if (path_of_fd(dir, whole) && strlen(path) < PATH_MAX)
            mine = concerns(strcat(strcat(whole, "/"), path));
    }
    errno = saved;
    return mine && strikes();
}

/* What is there already needs nothing from the disk to be opened, or refused. */
static bool is_new(int dir, const char *path)
{
    int saved = errno;
    bool found = syscall(SYS_faccessat, dir, path, F_OK) == 0;

    errno = saved;
    return !found;
}

/* ---- open ---- */

static int open_at(int dir, const char *path, int flags, mode_t mode)
{
    if ((flags & O_CREAT) && is_new(dir, path) && fails_at(OP_CREATE, dir, path))
        return -1;
    return (int)syscall(SYS_openat, dir, path, flags, mode);
}

/* The mode is there only with O_CREAT; what is read otherwise isn't used. */
#define OPEN_BODY(dir)                                                                             \
    va_list ap;                                                                                    \
    mode_t mode;                                                                                   \
                                                                                                   \
    va_start(ap, flags);                                                                           \
    mode = va_arg(ap, mode_t);                                                                     \
    va_end(ap);                                                                                    \
    return open_at(dir, path, flags, mode)

int open(const char *path, int flags, ...)
{
    OPEN_BODY(AT_FDCWD);
}

int open64(const char *path, int flags, ...)
{
    OPEN_BODY(AT_FDCWD);
}

int openat(int dir, const char *path, int flags, ...)
{
    OPEN_BODY(dir);
}

int openat64(int dir, const char *path, int flags, ...)
{
    OPEN_BODY(dir);
}

int creat(const char *path, mode_t mode)
{
    return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int creat64(const char *path, mode_t mode)
{
    return creat(path, mode);
}

/* ---- write ---- */

ssize_t write(int fd, const void *data, size_t len)
{
    return fails_fd(OP_WRITE, fd) ? -1 : syscall(SYS_write, fd, data, len);
}

ssize_t writev(int fd, const struct iovec *pieces, int count)
{
    return fails_fd(OP_WRITE, fd) ? -1 : syscall(SYS_writev, fd, pieces, count);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
    return fails_fd(OP_WRITE, fd) ? -1 : syscall(SYS_pwrite64, fd, data, len, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t offset)
{
    return pwrite(fd, data, len, offset);
}

ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t offset)
{
    return fails_fd(OP_WRITE, fd) ? -1 : syscall(SYS_pwritev, fd, pieces, count, offset, 0);
}

ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t offset)
{
    return pwritev(fd, pieces, count, offset);
}

int ftruncate(int fd, off_t len)
{
    return fails_fd(OP_TRUNCATE, fd) ? -1 : (int)syscall(SYS_ftruncate, fd, len);
}

int ftruncate64(int fd, off64_t len)
{
    return ftruncate(fd, len);
}

/* ---- sync ---- */

int fsync(int fd)
{
    return fails_fd(OP_SYNC, fd) ? -1 : (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    return fails_fd(OP_SYNC, fd) ? -1 : (int)syscall(SYS_fdatasync, fd);
}

/* ---- names ---- */

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    if (fails_at(OP_RENAME, to_dir, to))
        return -1;
    return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    return renameat2(from_dir, from, to_dir, to, 0);
}

int rename(const char *from, const char *to)
{
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
    if (fails_at(OP_LINK, to_dir, to))
        return -1;
    return (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
}

int link(const char *from, const char *to)
{
    return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int mkdirat(int dir, const char *path, mode_t mode)
{
    if (is_new(dir, path) && fails_at(OP_MKDIR, dir, path))
        return -1;
    return (int)syscall(SYS_mkdirat, dir, path, mode);
}

int mkdir(const char *path, mode_t mode)
{
    return mkdirat(AT_FDCWD, path, mode);
}

int unlinkat(int dir, const char *path, int flags)
{
    return fails_at(OP_UNLINK, dir, path) ? -1 : (int)syscall(SYS_unlinkat, dir, path, flags);
}

int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
    return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}

/* In glibc it calls its own unlink(). */
int remove(const char *path)
{
    int rc = unlink(path);

    return rc != 0 && errno == EISDIR ? rmdir(path) : rc;
}

/* ---- git programs ---- */

int execvpe(const char *file, char *const *argv, char *const *envp)
{
    const char *with[ENV_MAX];
    size_t n = 0;

    if (control == NULL)
        return next_execvpe(file, argv, envp);
    while (n < ENV_MAX - 4 && envp[n] != NULL) {
        with[n] = envp[n];
        n++;
    }
    with[n++] = preload_var;
    with[n++] = control_var;
    with[n++] = program_var;
    with[n] = NULL;
    return next_execvpe(file, argv, (char *const *)with);
}
