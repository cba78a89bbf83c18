#include "cache/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/lock.h"
#include "protocol/base.h"

enum { LOCK_WAIT_MS = 1000, LOCK_RETRY_MS = 20 };

/* Raised when files of an older pannier could not be read any more. */
static const char FOLDER_VERSION[] = "pannier data 1\n";

struct folder {
    char *path;
    int lock_fd;
    uint64_t nonce; /* makes names in incoming/ unlike those of a process that died */
    atomic_uint_fast64_t serial;
    struct folder_listener listener;

    struct lock lock;
    bool troubled[FOLDER_PARTS_COUNT];
    struct err trouble;
};

int make_folders(const char *dir, struct err *err)
{
    char *path = xstrdup(dir);
    int rc = 0;

    for (char *p = path + 1; rc == 0; p++) {
        char c = *p;

        if (c != '/' && c != '\0')
            continue;
        *p = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            rc = err_errno(err, ERR_STORAGE, "make folder %s", path);
        *p = c;
        if (c == '\0')
            break;
    }
    free(path);
    return rc;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    remove(path);
    return 0;
}

void remove_tree(const char *path)
{
    enum { OPEN_FOLDERS_MAX = 16 };

    nftw(path, remove_one, OPEN_FOLDERS_MAX, FTW_DEPTH | FTW_PHYS);
}

int sync_parent(const char *path, struct err *err)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash != NULL ? xstrndup(path, (size_t)(slash - path)) : xstrdup(".");
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = 0;

    if (fd < 0 || fsync(fd) != 0)
        rc = err_errno(err, ERR_STORAGE, "sync folder %s", dir);
    if (fd >= 0)
        close(fd);
    free(dir);
    return rc;
}

int write_file(const char *path, const void *data, size_t len, bool durable, struct err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int rc = 0;

    if (fd < 0)
        return err_errno(err, ERR_STORAGE, "create %s", path);
    for (size_t done = 0; done < len && rc == 0;) {
        ssize_t n = write(fd, (const char *)data + done, len - done);

        if (n > 0)
            done += (size_t)n;
        else if (errno != EINTR)
            rc = err_errno(err, ERR_STORAGE, "write %s", path);
    }
    if (rc == 0 && durable && fsync(fd) != 0)
        rc = err_errno(err, ERR_STORAGE, "sync %s", path);
    if (close(fd) != 0 && rc == 0)
        rc = err_errno(err, ERR_STORAGE, "close %s", path);
    return rc;
}

/* One that was killed may have left a child that is about to become git, and holds the lock until
 * it has: so this tries for a moment. */
static int lock_for_us(int fd)
{
    uint64_t until = now_ms() + LOCK_WAIT_MS;
    int rc;

    while ((rc = flock(fd, LOCK_EX | LOCK_NB)) != 0 && errno == EWOULDBLOCK && now_ms() < until)
        poll(NULL, 0, LOCK_RETRY_MS);
    return rc;
}

static int take_ownership(struct folder *f, struct err *err)
{
    char *path = folder_pathf(f, "lock");
    int rc = 0;

    f->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (f->lock_fd < 0)
        rc = err_errno(err, ERR_STORAGE, "open %s", path);
    else if (lock_for_us(f->lock_fd) != 0)
        rc = errno == EWOULDBLOCK
                 ? err_set(err, ERR_BUSY,
                           "the data folder %s is in use by another pannier; give this one a "
                           "folder of its own",
                           f->path)
                 : err_errno(err, ERR_STORAGE, "lock %s", path);
    free(path);
    return rc;
}

static int check_version(struct folder *f, struct err *err)
{
    char *path = folder_pathf(f, "version");
    char found[64] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, found, sizeof(found) - 1) : 0;
    int rc = 0;

    if (fd < 0 && errno != ENOENT) {
        rc = err_errno(err, ERR_STORAGE, "open %s", path);
    } else if (n < 0) {
        rc = err_errno(err, ERR_STORAGE, "read %s", path);
    } else if (n == 0) { /* new; or a crash came between its making and its writing */
        rc = write_file(path, FOLDER_VERSION, strlen(FOLDER_VERSION), true, err);
    } else if (strcmp(found, FOLDER_VERSION) != 0) {
        rc = err_set(err, ERR_STORAGE,
                     "the data folder %s was written by another version of pannier; use that one, "
                     "or an empty folder",
                     f->path);
    }
    if (fd >= 0)
        close(fd);
    free(path);
    return rc;
}

static int make_places(struct folder *f, struct err *err)
{
    static const char *const places[] = {"answers", "mirrors", "incoming"};
    char *incoming = folder_pathf(f, "incoming");
    int rc = 0;

    remove_tree(incoming);
    free(incoming);
    for (size_t i = 0; i < ARRAY_LEN(places) && rc == 0; i++) {
        char *path = folder_pathf(f, "%s", places[i]);

        rc = make_folders(path, err);
        if (rc == 0 && access(path, W_OK) != 0)
            rc = err_errno(err, ERR_STORAGE, "the data folder can't be written: %s", path);
        free(path);
    }
    return rc;
}

int folder_open(const char *path, const struct folder_listener *listener, struct folder **out,
                struct err *err)
{
    struct folder *f = xcalloc(1, sizeof(*f));

    f->path = xstrdup(path);
    f->lock_fd = -1;
    if (listener != NULL)
        f->listener = *listener;
    lock_init(&f->lock, LOCK_FOLDER);
    must(getrandom(&f->nonce, sizeof(f->nonce), 0) == sizeof(f->nonce));
    if (make_folders(path, err) != 0 || take_ownership(f, err) != 0 || check_version(f, err) != 0 ||
        make_places(f, err) != 0) {
        folder_close(&f);
        return -1;
    }
    *out = f;
    return 0;
}

void folder_close(struct folder **fp)
{
    struct folder *f = *fp;

    *fp = NULL;
    if (f == NULL)
        return;
    if (f->lock_fd >= 0)
        close(f->lock_fd);
    lock_clear(&f->lock);
    free(f->path);
    free(f);
}

const char *folder_path(const struct folder *f)
{
    return f->path;
}

char *folder_pathf(const struct folder *f, const char *fmt, ...)
{
    va_list ap;
    char *rest = NULL, *path;
    int n;

    va_start(ap, fmt);
    n = vasprintf(&rest, fmt, ap);
    va_end(ap);
    must(n >= 0);
    path = xasprintf("%s/%s", f->path, rest);
    free(rest);
    return path;
}

char *folder_incoming_path(struct folder *f, const char *suffix)
{
    return folder_pathf(f, "incoming/%016" PRIx64 "-%" PRIuFAST64 "%s", f->nonce,
                        atomic_fetch_add(&f->serial, 1), suffix);
}

static bool is_troubled_locked(const struct folder *f)
{
    bool troubled = false;

    for (size_t i = 0; i < FOLDER_PARTS_COUNT; i++)
        troubled = troubled || f->troubled[i];
    return troubled;
}

void folder_report_trouble(struct folder *f, enum folder_part part, const struct err *trouble)
{
    bool first;

    lock_take(&f->lock);
    first = !is_troubled_locked(f);
    f->troubled[part] = true;
    f->trouble = *trouble;
    lock_drop(&f->lock);
    if (first && f->listener.trouble != NULL)
        f->listener.trouble(f->listener.ctx, trouble);
}

void folder_report_success(struct folder *f, enum folder_part part)
{
    bool ended;

    lock_take(&f->lock);
    ended = f->troubled[part];
    f->troubled[part] = false;
    ended = ended && !is_troubled_locked(f);
    lock_drop(&f->lock);
    if (ended && f->listener.trouble != NULL)
        f->listener.trouble(f->listener.ctx, NULL);
}

void folder_report_damage(struct folder *f, const char *what, const struct err *why)
{
    if (f->listener.damage != NULL)
        f->listener.damage(f->listener.ctx, what, why);
}

bool folder_troubled(struct folder *f, struct err *trouble)
{
    bool troubled;

    lock_take(&f->lock);
    troubled = is_troubled_locked(f);
    if (troubled)
        *trouble = f->trouble;
    lock_drop(&f->lock);
    return troubled;
}
