/* A temporary folder, small files in it, and threads that start together.  Included by unit tests
 * only; everything asserts with cmocka. */
#ifndef PANNIER_TESTS_UNIT_SCRATCH_H
#define PANNIER_TESTS_UNIT_SCRATCH_H

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "protocol/base.h"
#include "protocol/bytes.h"

struct scratch {
    char dir[64];
};

static inline int scratch_remove_one(const char *path, const struct stat *st, int type,
                                     struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static inline void scratch_init(struct scratch *s)
{
    strcpy(s->dir, "/tmp/pannier-unit-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
}

static inline void scratch_clear(struct scratch *s)
{
    assert_int_equal(nftw(s->dir, scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/* Yours to free. */
static inline char *scratch_path(const struct scratch *s, const char *name)
{
    return xasprintf("%s/%s", s->dir, name);
}

static inline bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static inline uint64_t size_of(const char *path)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_size;
}

/* Entries of a folder but "." and "..". */
static inline size_t count_entries(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *d;
    size_t n = 0;

    assert_non_null(dir);
    while ((d = readdir(dir)) != NULL)
        n += d->d_name[0] != '.';
    closedir(dir);
    return n;
}

static inline void put_file(const char *path, const void *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, len), len);
    close(fd);
}

static inline void flip_byte(const char *path, uint64_t at)
{
    /* A pack's file is read-only. */
    int fd = chmod(path, 0600) == 0 ? open(path, O_RDWR | O_CLOEXEC) : -1;
    char c;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &c, 1, (off_t)at), 1);
    c = (char)~c;
    assert_int_equal(pwrite(fd, &c, 1, (off_t)at), 1);
    close(fd);
}

/* Bytes that tell their place, so that a swap or a gap shows. */
static inline char byte_at(uint64_t at)
{
    return (char)((at * 2654435761u) >> 13);
}

static inline char *pattern(uint64_t from, size_t len)
{
    char *out = xmalloc(len);

    for (size_t i = 0; i < len; i++)
        out[i] = byte_at(from + i);
    return out;
}

/* A disk that fails: writes beyond this size of a file do, for all of the process. */
static inline void limit_file_size(rlim_t limit)
{
    struct rlimit now;

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &now), 0);
    now.rlim_cur = limit;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &now), 0);
}

/* As if all but so many descriptors were in use, until descriptors_are_back(), which wants *before.
 */
static inline void few_descriptors(rlim_t free_ones, struct rlimit *before)
{
    int next = dup(STDERR_FILENO);
    struct rlimit few;

    assert_true(next >= 0);
    close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, before), 0);
    few = *before;
    few.rlim_cur = (rlim_t)next + free_ones;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
}

static inline void descriptors_are_back(const struct rlimit *before)
{
    assert_int_equal(setrlimit(RLIMIT_NOFILE, before), 0);
}

/* Run fn(ctx of each) in count threads, all let go at once by the barrier that fn waits at. */
static inline void run_together(size_t count, void *(*fn)(void *), void *ctxs, size_t ctx_size)
{
    pthread_t *threads = xcalloc(count, sizeof(*threads));

    for (size_t i = 0; i < count; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, fn, (char *)ctxs + i * ctx_size), 0);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    free(threads);
}

#endif
