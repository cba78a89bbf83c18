/* Objects as files in a folder that several nodes may share, by NFS for instance.
 *
 *     <endpoint>/[<bucket>/]objects/a,/b=    the object "a/b"
 *                           incoming/        being written
 *                           locks/00 .. ff   who overwrites or removes
 *
 * An object's file is its bytes and a trailer with its size and its version, a random number: the
 * etag.  So what a reader has open is one version, and says which and whether all of it is there;
 * nothing hangs on inode numbers or on times, which file servers reuse and round.
 *
 * What holds between nodes:
 *   - whole or not at all: rename(2) and link(2) of a file that fsync(2) has seen.
 *   - only_new: link(2), atomic on every NFS.  It may answer "exists" to its own repetition, so the
 *     count of links has the last word.
 *   - if_match: the version is compared and the file renamed under flock(2) on one of locks/, which
 *     everyone takes who overwrites or removes.  NFS passes flock on to the server (version 4, or 3
 *     with its lock daemon).  Where an administrator has switched that off (nolock, local_lock),
 *     it holds between the processes of one node only.  A node that is cut off for longer than its
 *     lease (90 s) in the midst of a rename may still land it: what matters carries a fencing
 *     number.
 *   - one version for a reader: a local file system keeps a file that is open; NFS may not, then
 *     reading ends with ERR_CONFLICT.
 * A node may see what another one wrote a few seconds later than that one (attribute caches). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cache/lock.h"
#include "cache/shared/object_store.h"
#include "protocol/base.h"
#include "protocol/bytes.h"
#include "protocol/digest.h"

enum {
    COPY_SIZE = 256 * 1024,
    /* A part of a key that is as long goes on in a folder below: names end at 255 bytes. */
    NAME_PART = 120,
    VERSION_SIZE = 16,
    VERSION_HEX = 2 * VERSION_SIZE,
    TRAILER_SIZE = 1 + 16 + 1 + VERSION_HEX + 1 + 16 + 1,
    PATH_LIMIT = 4096,
    /* Somebody took the folder away between its making and its use; so often it is no race. */
    TRIES_MAX = 1000,
    LOCK_WAIT_DEFAULT_MS = 30000,
    /* Its writer is dead: living ones write all the time. */
    LEFTOVER_AGE_S = 24 * 3600,
};

/* What a name in objects/ ends with; no key has these bytes. */
enum {
    END_OBJECT = '=', /* an object */
    END_FOLDER = ',', /* a folder: '/' follows in the key */
    END_PART = '+',   /* a folder: the same part of the key goes on */
};

struct files {
    char *root;
    char *prefix;
    uint64_t deadline_ms;
    uint64_t nonce; /* makes names in incoming/ unlike those of other processes */
    atomic_uint_fast64_t serial;
    atomic_bool swept;
    atomic_bool stopped;
    atomic_bool no_links; /* the file system has none, so there are no conditions */
};

/* ---- failures ---- */

/* errno's, of what was tried with an object's file. */
static int fail(struct err *err, const char *what, const char *path)
{
    switch (errno) {
    case ESTALE: return err_set(err, ERR_CONFLICT, "%s was replaced while it was read", path);
    case EACCES:
    case EPERM: return err_errno(err, ERR_DENIED, "%s %s", what, path);
    case ETIMEDOUT: return err_errno(err, ERR_TIMEOUT, "%s %s", what, path);
    default: return err_errno(err, ERR_STORAGE, "%s %s", what, path);
    }
}

static int check_running(const struct files *s, struct err *err)
{
    return atomic_load(&s->stopped) ? object_store_cancelled(err) : 0;
}

/* Without its root a store is a file system that isn't mounted: nothing may be made in its place,
 * and nothing be said about what it holds. */
static int check_root(const struct files *s, struct err *err)
{
    struct stat st;

    if (stat(s->root, &st) == 0)
        return S_ISDIR(st.st_mode) ? 0 : err_set(err, ERR_REFUSED, "%s is no folder", s->root);
    if (errno == ENOENT || errno == ENOTDIR)
        return err_set(err, ERR_REFUSED, "there is no folder %s; is it mounted?", s->root);
    return fail(err, "look at", s->root);
}

/* ---- names ---- */

/* One part of a key, its end being told by end. */
static void add_part(struct bytes *path, const char *part, size_t len, char end)
{
    for (; len >= NAME_PART; part += NAME_PART, len -= NAME_PART) {
        must(bytes_add(path, part, NAME_PART) == 0);
        must(bytes_addf(path, "%c/", END_PART) == 0);
    }
    must(bytes_add(path, part, len) == 0);
    must(bytes_add(path, &end, 1) == 0);
}

/* Yours to free. */
static char *object_path(const struct files *s, const char *key)
{
    char *full = xasprintf("%s%s", s->prefix, key);
    const char *part = full, *slash;
    struct bytes path;

    bytes_init(&path, PATH_LIMIT);
    must(bytes_addf(&path, "%s/objects/", s->root) == 0);
    for (; (slash = strchr(part, '/')) != NULL; part = slash + 1) {
        add_part(&path, part, (size_t)(slash - part), END_FOLDER);
        must(bytes_add_str(&path, "/") == 0);
    }
    add_part(&path, part, strlen(part), END_OBJECT);
    free(full);
    return bytes_take(&path, NULL);
}

/* So that a new name in its folder survives a power cut.  With the folder gone, the name is, too.
 */
static int sync_name(const char *path, struct err *err)
{
    char *folder = xstrndup(path, (size_t)(strrchr(path, '/') - path));
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = 0;

    if ((fd < 0 || fsync(fd) != 0) && errno != ENOENT && errno != ESTALE)
        rc = fail(err, "sync folder", folder);
    if (fd >= 0)
        close(fd);
    free(folder);
    return rc;
}

/* Make the folders between root and the file at path. */
static int make_parents(const struct files *s, const char *path, struct err *err)
{
    char *folder = xstrdup(path);
    int rc = check_root(s, err);

    for (char *p = folder + strlen(s->root) + 1; rc == 0 && (p = strchr(p, '/')) != NULL; p++) {
        *p = '\0';
        if (mkdir(folder, 0700) == 0)
            rc = sync_name(folder, err);
        else if (errno != EEXIST && errno != ENOENT) /* ENOENT: a parent is being tidied away */
            rc = fail(err, "make folder", folder);
        *p = '/';
    }
    free(folder);
    return rc;
}

/* Take away folders that hold nothing, from the file at path up.  Whoever is about to put something
 * there finds them gone, and makes them again. */
static void remove_empty_parents(const struct files *s, const char *path)
{
    size_t top = strlen(s->root) + strlen("/objects");
    char *folder = xstrdup(path);
    char *slash;

    while ((slash = strrchr(folder, '/')) != NULL && (size_t)(slash - folder) > top) {
        *slash = '\0';
        if (rmdir(folder) != 0)
            break;
    }
    free(folder);
}

/* ---- locks ---- */

/* Files for locks stay: there are few, and taking them away would be a race of its own. */
static int open_lock(const struct files *s, const char *path, struct err *err)
{
    struct key name;
    char *lock_path;
    int fd;

    key_of(path + strlen(s->root), strlen(path) - strlen(s->root), &name);
    lock_path = xasprintf("%s/locks/%02x", s->root, name.raw[0]);
    fd = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 && errno == ENOENT && make_parents(s, lock_path, err) == 0)
        fd = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 && check_root(s, err) == 0)
        fail(err, "open", lock_path);
    free(lock_path);
    return fd;
}

/* The lock of the object at path; close() gives it back, as does the process's end. */
static int take_lock(const struct files *s, const char *path, struct err *err)
{
    enum { PAUSE_MIN_MS = 1, PAUSE_MAX_MS = 50 };
    uint64_t wait_ms = s->deadline_ms > 0 ? s->deadline_ms : LOCK_WAIT_DEFAULT_MS;
    uint64_t deadline_ms = now_ms() + wait_ms;
    unsigned pause_ms = PAUSE_MIN_MS;
    int fd = open_lock(s, path, err);

    /* The lock of a node that died is held until its lease ends: waiting without an end for that
     * would hold the caller. */
    while (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR)
            continue;
        if (errno != EWOULDBLOCK) {
            err_errno(err, ERR_REFUSED, "the file system of %s has no locks", s->root);
        } else if (now_ms() >= deadline_ms) {
            err_set(err, ERR_TIMEOUT, "%s is being written by another node", path);
        } else if (check_running(s, err) == 0) {
            usleep(pause_ms * 1000);
            pause_ms = pause_ms * 2 > PAUSE_MAX_MS ? PAUSE_MAX_MS : pause_ms * 2;
            continue;
        }
        close(fd);
        fd = -1;
    }
    return fd;
}

/* ---- the trailer ---- */

static void make_trailer(char out[TRAILER_SIZE + 1], uint64_t size)
{
    uint8_t version[VERSION_SIZE];
    char hex[VERSION_HEX + 1];

    must(getrandom(version, sizeof(version), 0) == sizeof(version));
    hex_encode(version, sizeof(version), hex);
    must(snprintf(out, TRAILER_SIZE + 1, "\npannier-object-1 %s %016" PRIx64 "\n", hex, size) ==
         TRAILER_SIZE);
}

/* What the open file says that it is.  -1: with errno's error, or ERR_CORRUPT; then size and time
 * are the file's. */
static int read_trailer(int fd, const char *path, struct object_info *out, struct err *err)
{
    char text[TRAILER_SIZE + 1] = "", expected[TRAILER_SIZE + 1], hex[VERSION_HEX + 1];
    struct stat st;

    if (fstat(fd, &st) != 0)
        return fail(err, "look at", path);
    *out = (struct object_info){.size = (uint64_t)st.st_size, .modified = st.st_mtime};
    if (st.st_size < TRAILER_SIZE)
        return err_set(err, ERR_CORRUPT, "%s was cut short", path);
    if (pread(fd, text, TRAILER_SIZE, st.st_size - TRAILER_SIZE) < 0)
        return fail(err, "read", path);
    memcpy(hex, text + strlen("\npannier-object-1 "), VERSION_HEX);
    hex[VERSION_HEX] = '\0';
    snprintf(expected, sizeof(expected), "\npannier-object-1 %s %016" PRIx64 "\n", hex,
             (uint64_t)st.st_size - TRAILER_SIZE);
    if (memcmp(text, expected, TRAILER_SIZE) != 0 || strspn(hex, "0123456789abcdef") != VERSION_HEX)
        return err_set(err, ERR_CORRUPT, "%s was cut short, or is no object", path);
    out->size -= TRAILER_SIZE;
    memcpy(out->etag, hex, sizeof(hex));
    return 0;
}

/* -1: ERR_NOT_FOUND, or whatever is the matter. */
static int open_object(const struct files *s, const char *path, const char *key,
                       struct object_info *out, struct err *err)
{
    int fd = -1, rc = -1;

    /* On NFS a name may lead to a file that was replaced a moment ago: ESTALE, try again. */
    for (int tries = 0; rc != 0 && tries < 3; tries++) {
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
            rc = read_trailer(fd, path, out, err);
        else if (errno == ENOENT)
            rc = check_root(s, err) == 0 ? err_set(err, ERR_NOT_FOUND, "there is no object %s", key)
                                         : -1;
        else
            rc = fail(err, "open", path);
        if (rc != 0 && fd >= 0)
            close(fd);
        if (rc != 0 && err->kind != ERR_CONFLICT)
            break;
    }
    return rc == 0 ? fd : -1;
}

/* ---- put ---- */

static int write_all(int fd, const void *data, size_t len, const char *path, struct err *err)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(err, "write", path);
        data = (const char *)data + n;
        len -= (size_t)n;
    }
    return 0;
}

static int write_source(const struct files *s, int fd, const char *path,
                        const struct object_source *source, struct err *err)
{
    char *buf = xmalloc(COPY_SIZE);
    char trailer[TRAILER_SIZE + 1];
    uint64_t done = 0;
    ssize_t n;
    int rc = 0;

    while (rc == 0 && (n = object_source_read(source, done, buf, COPY_SIZE, err)) != 0) {
        rc = n > 0 ? write_all(fd, buf, (size_t)n, path, err) : -1;
        if (rc == 0)
            rc = check_running(s, err);
        done += n > 0 ? (uint64_t)n : 0;
    }
    if (rc == 0) {
        make_trailer(trailer, done);
        rc = write_all(fd, trailer, TRAILER_SIZE, path, err);
    }
    /* Before the name: else a power cut could leave the name of what was never written. */
    if (rc == 0 && fsync(fd) != 0)
        rc = fail(err, "sync", path);
    free(buf);
    return rc;
}

/* Files of writers that were killed. */
static void sweep_incoming(struct files *s)
{
    char *path = xasprintf("%s/incoming", s->root);
    DIR *dir = opendir(path);
    struct dirent *d;
    struct stat st;

    while (dir != NULL && (d = readdir(dir)) != NULL) {
        if (fstatat(dirfd(dir), d->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
            st.st_mtime < time(NULL) - LEFTOVER_AGE_S)
            unlinkat(dirfd(dir), d->d_name, 0);
    }
    if (dir != NULL)
        closedir(dir);
    free(path);
}

/* *path is yours to free and, while it is there, to unlink. */
static int open_incoming(struct files *s, char **path, struct err *err)
{
    int fd = -1;

    *path = xasprintf("%s/incoming/%016" PRIx64 "-%" PRIuFAST64, s->root, s->nonce,
                      atomic_fetch_add(&s->serial, 1));
    if (make_parents(s, *path, err) != 0)
        return -1;
    if (!atomic_exchange(&s->swept, true))
        sweep_incoming(s);
    fd = open(*path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        fail(err, "create", *path);
    return fd;
}

/* As rename(2) and link(2), where path's folder may come and go.  -1 with errno. */
static int move_to(const struct files *s, int (*way)(const char *from, const char *to),
                   const char *from, const char *path, struct err *err)
{
    int rc = -1;

    *err = (struct err){0};
    for (int tries = 0; rc != 0 && tries < TRIES_MAX; tries++) {
        if (make_parents(s, path, err) != 0)
            return -1;
        rc = way(from, path);
        if (rc != 0 && (errno != ENOENT || access(from, F_OK) != 0))
            break;
    }
    return rc;
}

static int publish_new(struct files *s, const char *from, const char *path, const char *key,
                       struct err *err)
{
    struct stat st;

    if (move_to(s, link, from, path, err) == 0)
        return 0;
    if (err->kind != ERR_NONE)
        return -1;
    if (errno == EPERM || errno == EOPNOTSUPP || errno == ENOSYS || errno == EMLINK) {
        err_errno(err, ERR_REFUSED, "the file system of %s has no links", s->root);
        atomic_store(&s->no_links, true);
        return -1;
    }
    if (errno != EEXIST)
        return fail(err, "publish", path);
    /* NFS may have lost the answer to a first try, which did it. */
    if (stat(from, &st) == 0 && st.st_nlink == 2)
        return 0;
    return err_set(err, ERR_CONFLICT, "there is an object %s already", key);
}

static int check_match(const struct files *s, const char *path, const char *key, const char *etag,
                       struct err *err)
{
    struct object_info now;
    int fd = open_object(s, path, key, &now, err);

    if (fd >= 0)
        close(fd);
    /* What is damaged has no version that somebody could mean. */
    if (fd < 0 && err->kind != ERR_NOT_FOUND && err->kind != ERR_CORRUPT)
        return -1;
    if (fd < 0 || strcmp(now.etag, etag) != 0)
        return err_set(err, ERR_CONFLICT, "the object %s has changed", key);
    return 0;
}

static int publish_over(const struct files *s, const char *from, const char *path, const char *key,
                        const char *if_match, struct err *err)
{
    int lock = take_lock(s, path, err);
    int rc = 0;

    if (lock < 0)
        return -1;
    if (if_match != NULL)
        rc = check_match(s, path, key, if_match, err);
    if (rc == 0 && move_to(s, rename, from, path, err) != 0)
        rc = err->kind != ERR_NONE ? -1 : fail(err, "publish", path);
    close(lock);
    return rc;
}

static int files_put(void *self, const char *key, const struct object_source *source,
                     const struct object_put_options *options, struct object_info *out,
                     struct err *err)
{
    struct files *s = self;
    char *path = object_path(s, key), *incoming;
    int fd = open_incoming(s, &incoming, err);
    int rc = fd >= 0 ? write_source(s, fd, incoming, source, err) : -1;

    if (rc == 0 && (rc = read_trailer(fd, incoming, out, err)) != 0 && err->kind == ERR_CORRUPT)
        err->kind = ERR_UPSTREAM; /* the file system lost what was written: no object is damaged */
    if (rc == 0 && options->only_new)
        rc = publish_new(s, incoming, path, key, err);
    else if (rc == 0)
        rc = publish_over(s, incoming, path, key, options->if_match, err);
    if (rc == 0)
        rc = sync_name(path, err);
    if (fd >= 0) {
        unlink(incoming); /* unless it was renamed */
        close(fd);
    }
    free(incoming);
    free(path);
    return rc;
}

/* ---- get, head ---- */

static int send_range(const struct files *s, int fd, const char *path, uint64_t offset,
                      uint64_t length, object_sink_fn *fn, void *ctx, struct err *err)
{
    char *buf = xmalloc(COPY_SIZE);
    int rc = 0;

    while (rc == 0 && length > 0) {
        size_t want = length < COPY_SIZE ? (size_t)length : COPY_SIZE;
        ssize_t n = pread(fd, buf, want, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = fail(err, "read", path);
        else if (n == 0)
            rc = err_set(err, ERR_CORRUPT, "%s was cut short", path);
        else if (check_running(s, err) != 0)
            rc = -1;
        else
            rc = fn(ctx, buf, (size_t)n, err);
        offset += n > 0 ? (uint64_t)n : 0;
        length -= n > 0 ? (uint64_t)n : 0;
    }
    free(buf);
    return rc;
}

static int files_get(void *self, const char *key, uint64_t offset, uint64_t length,
                     struct object_info *info, object_sink_fn *fn, void *ctx, struct err *err)
{
    struct files *s = self;
    char *path = object_path(s, key);
    int fd = open_object(s, path, key, info, err);
    int rc = fd >= 0 ? 0 : -1;

    if (rc == 0 && offset > 0 && offset >= info->size)
        rc = err_set(err, ERR_LIMIT, "the range begins behind the end of %s", key);
    if (rc == 0 && length > info->size - offset)
        length = info->size - offset;
    if (rc == 0)
        rc = send_range(s, fd, path, offset, length, fn, ctx, err);
    if (fd >= 0)
        close(fd);
    free(path);
    return rc;
}

static int files_head(void *self, const char *key, struct object_info *out, struct err *err)
{
    struct files *s = self;
    char *path = object_path(s, key);
    int fd = open_object(s, path, key, out, err);

    if (fd >= 0)
        close(fd);
    free(path);
    return fd >= 0 ? 0 : -1;
}

/* ---- list ---- */

/* One name in a folder: what it adds to the key ("b" or "b/"), and whether it is an object. */
struct listed {
    char *text;
    char end;
};

struct listed_folder {
    struct listed *items;
    size_t count, cap;
};

struct walk {
    const struct files *s;
    const char *wanted; /* what keys in the folder begin with */
    object_list_fn *fn;
    void *ctx;
    bool enough;
};

static int compare_listed(const void *a, const void *b)
{
    return strcmp(((const struct listed *)a)->text, ((const struct listed *)b)->text);
}

/* Do a key that begins with text, and wanted, agree as far as both go? */
static bool may_hold(const char *text, const char *wanted)
{
    while (*text != '\0' && *text == *wanted) {
        text++;
        wanted++;
    }
    return *text == '\0' || *wanted == '\0';
}

static void add_listed(struct listed_folder *f, const char *name)
{
    size_t len = strlen(name);
    char end = len > 0 ? name[len - 1] : '\0';

    /* NFS leaves names of its own (.nfs...), people theirs. */
    if (end != END_OBJECT && end != END_FOLDER && end != END_PART)
        return;
    if (f->count == f->cap) {
        f->cap = f->cap > 0 ? f->cap * 2 : 64;
        f->items = xrealloc(f->items, f->cap * sizeof(*f->items));
    }
    f->items[f->count++] = (struct listed){
        xasprintf("%.*s%s", (int)(len - 1), name, end == END_FOLDER ? "/" : ""), end};
}

/* The names in the folder at path, in the order of their keys: nothing in a folder "b/" sorts
 * before its neighbour "b-" or behind its neighbour "b0". */
static int read_listed(const struct files *s, const char *path, struct listed_folder *out,
                       struct err *err)
{
    DIR *dir = opendir(path);
    struct dirent *d;
    int rc = 0;

    *out = (struct listed_folder){0};
    if (dir == NULL) /* gone is empty */
        return errno == ENOENT ? check_root(s, err) : fail(err, "read folder", path);
    while (errno = 0, (d = readdir(dir)) != NULL)
        add_listed(out, d->d_name);
    if (errno != 0 && errno != ENOENT && errno != ESTALE)
        rc = fail(err, "read folder", path);
    closedir(dir);
    if (out->count > 0)
        qsort(out->items, out->count, sizeof(*out->items), compare_listed);
    return rc;
}

static void listed_clear(struct listed_folder *f)
{
    for (size_t i = 0; i < f->count; i++)
        free(f->items[i].text);
    free(f->items);
}

static int list_object(struct walk *w, const char *path, const char *key, struct err *err)
{
    struct object_info info;
    int fd;

    if (strncmp(key, w->wanted, strlen(w->wanted)) != 0)
        return 0;
    if (check_running(w->s, err) != 0)
        return -1;
    fd = open_object(w->s, path, key, &info, err);
    if (fd >= 0)
        close(fd);
    else if (err->kind == ERR_NOT_FOUND)
        return 0; /* removed meanwhile */
    else if (err->kind != ERR_CORRUPT)
        return -1;
    /* What is damaged is there, too: it takes room, and somebody has to remove it. */
    w->enough = w->fn(w->ctx, key + strlen(w->s->prefix), &info) != 0;
    return 0;
}

/* text: what the keys in the folder at path begin with. */
static int list_folder(struct walk *w, const char *path, const char *text, struct err *err)
{
    struct listed_folder f;
    int rc = read_listed(w->s, path, &f, err);

    for (size_t i = 0; rc == 0 && !w->enough && i < f.count; i++) {
        const struct listed *at = &f.items[i];
        char *key = xasprintf("%s%s", text, at->text);
        size_t name_len = strlen(at->text) - (at->end == END_FOLDER);
        char *below = xasprintf("%s/%.*s%c", path, (int)name_len, at->text, at->end);

        if (!may_hold(key, w->wanted))
            rc = 0;
        else if (at->end == END_OBJECT)
            rc = list_object(w, below, key, err);
        else
            rc = list_folder(w, below, key, err);
        free(below);
        free(key);
    }
    listed_clear(&f);
    return rc;
}

static int files_list(void *self, const char *prefix, object_list_fn *fn, void *ctx,
                      struct err *err)
{
    struct files *s = self;
    char *wanted = xasprintf("%s%s", s->prefix, prefix);
    char *path = xasprintf("%s/objects", s->root);
    struct walk w = {.s = s, .wanted = wanted, .fn = fn, .ctx = ctx};
    int rc = list_folder(&w, path, "", err);

    free(path);
    free(wanted);
    return rc;
}

/* ---- remove ---- */

static int files_remove(void *self, const char *key, struct err *err)
{
    struct files *s = self;
    char *path = object_path(s, key);
    int lock = take_lock(s, path, err);
    int rc = lock >= 0 ? 0 : -1;

    if (rc == 0 && unlink(path) != 0 && errno != ENOENT)
        rc = fail(err, "remove", path);
    if (lock >= 0)
        close(lock);
    if (rc == 0)
        remove_empty_parents(s, path);
    free(path);
    return rc;
}

/* ---- the store ---- */

static void files_stop(void *self)
{
    struct files *s = self;

    atomic_store(&s->stopped, true);
}

static bool files_lacks_conditions(void *self)
{
    const struct files *s = self;

    return atomic_load(&s->no_links);
}

static void files_free(void *self)
{
    struct files *s = self;

    free(s->root);
    free(s->prefix);
    free(s);
}

int object_store_open_file(const struct object_store_config *config, struct object_store **out,
                           struct err *err)
{
    static const struct object_driver driver = {
        .put = files_put,
        .get = files_get,
        .head = files_head,
        .list = files_list,
        .remove = files_remove,
        .stop = files_stop,
        .free = files_free,
        .has_conditions = true,
        .lacks_conditions = files_lacks_conditions,
    };
    /* Room for the longest key below it. */
    enum { ROOT_MAX = PATH_LIMIT - 2 * (2 * OBJECT_KEY_MAX) - 64 };
    const char *bucket = config->bucket != NULL ? config->bucket : "";
    struct files *s;
    char *name;

    if (strlen(config->endpoint) + 1 + strlen(bucket) > ROOT_MAX)
        return err_set(err, ERR_INPUT, "the path of the folder for objects is too long");
    s = xcalloc(1, sizeof(*s));
    s->root = xasprintf("%s%s%s", config->endpoint, bucket[0] != '\0' ? "/" : "", bucket);
    s->prefix = xstrdup(config->prefix != NULL ? config->prefix : "");
    s->deadline_ms = config->deadline_ms;
    must(getrandom(&s->nonce, sizeof(s->nonce), 0) == sizeof(s->nonce));
    name = xasprintf("file %s%s%s", s->root, s->prefix[0] != '\0' ? "/" : "", s->prefix);
    *out = object_store_new(&driver, s, name);
    free(name);
    return 0;
}
