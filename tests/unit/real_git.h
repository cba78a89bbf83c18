/* The real git, for round-trips: repositories in a temporary folder and programs run to their end.
 * Included by unit tests only; everything asserts with cmocka. */
#ifndef PANNIER_TESTS_UNIT_REAL_GIT_H
#define PANNIER_TESTS_UNIT_REAL_GIT_H

#include <fcntl.h>
#include <ftw.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "protocol/base.h"
#include "protocol/bytes.h"

enum { REAL_GIT_OUTPUT_MAX = 64 * 1024 * 1024, REAL_GIT_COMMITS = 40 };

struct real_git {
    char dir[64]; /* a bare repository */
};

static inline void slurp(FILE *f, struct bytes *out)
{
    char buf[65536];
    size_t n;

    rewind(f);
    while ((n = fread(buf, 1, sizeof(buf), f)) > 0)
        assert_int_equal(bytes_add(out, buf, n), 0);
}

/* Run a program in the repository: in is its standard input, out (may be NULL) gets its output.
 * Through files, so that no pipe can fill up.  Returns its exit status.
 *
 * Spawned, not forked: between fork() and exec a child of a process with threads may not even
 * allocate, and did hang under ASan. */
static inline int real_git_run(const struct real_git *g, const char *protocol, const void *in,
                               size_t in_len, struct bytes *out, const char *const argv[])
{
    char *version = xasprintf("GIT_PROTOCOL=%s", protocol != NULL ? protocol : "");
    const char *words[32] = {
        "env",      "-u",   "GIT_DIR", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
        "LC_ALL=C", version};
    FILE *input = tmpfile(), *output = tmpfile();
    posix_spawn_file_actions_t actions;
    size_t n = 7;
    int status;
    pid_t pid;

    for (size_t i = 0; argv[i] != NULL; i++) {
        assert_true(n < ARRAY_LEN(words) - 1);
        words[n++] = argv[i];
    }
    assert_non_null(input);
    assert_non_null(output);
    assert_int_equal(fwrite(in, 1, in_len, input), in_len);
    rewind(input);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fileno(input), 0);
    posix_spawn_file_actions_adddup2(&actions, fileno(output), 1);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addchdir_np(&actions, g->dir);
    assert_int_equal(posix_spawnp(&pid, words[0], &actions, NULL, (char *const *)words, environ),
                     0);
    posix_spawn_file_actions_destroy(&actions);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (out != NULL)
        slurp(output, out);
    fclose(input);
    fclose(output);
    free(version);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#define REAL_GIT(g, protocol, in, in_len, out, ...)                                                \
    real_git_run(g, protocol, in, in_len, out, (const char *const[]){__VA_ARGS__, NULL})

/* A file that grows a line per commit (so that there are deltas), noise that does not compress,
 * and a tag. */
static inline void real_git_history(struct bytes *stream)
{
    unsigned noise = 1;

    bytes_init(stream, REAL_GIT_OUTPUT_MAX);
    for (int i = 1; i <= REAL_GIT_COMMITS; i++) {
        struct bytes file;

        bytes_init(&file, REAL_GIT_OUTPUT_MAX);
        for (int line = 0; line < 20 * i; line++)
            bytes_addf(&file, "line %d of a file that grows\n", line);
        bytes_addf(stream, "commit refs/heads/main\ncommitter A <a@example.org> %d +0000\n",
                   1000000000 + i);
        bytes_addf(stream, "data 2\nc\nM 644 inline grows\ndata %zu\n%s\n", file.len, file.data);
        bytes_add_str(stream, "M 644 inline noise\ndata 5000\n");
        for (int n = 0; n < 5000; n++) {
            char c = (char)((noise = noise * 1103515245u + 12345u) >> 16);

            bytes_add(stream, &c, 1);
        }
        bytes_add_str(stream, "\n");
        bytes_clear(&file);
    }
    bytes_add_str(stream, "tag v1\nfrom refs/heads/main\ntagger A <a@example.org> 1 +0000\n"
                          "data 1\nt\n");
}

static inline void real_git_init(struct real_git *g, const char *object_format)
{
    char option[64];
    struct bytes stream;

    strcpy(g->dir, "/tmp/pannier-test-XXXXXX");
    assert_non_null(mkdtemp(g->dir));
    snprintf(option, sizeof(option), "--object-format=%s", object_format);
    assert_int_equal(
        REAL_GIT(g, NULL, "", 0, NULL, "git", "init", "-q", "--bare", option, "-b", "main", "."),
        0);
    real_git_history(&stream);
    assert_int_equal(
        REAL_GIT(g, NULL, stream.data, stream.len, NULL, "git", "fast-import", "--quiet"), 0);
    REAL_GIT(g, NULL, "", 0, NULL, "git", "config", "uploadpack.allowFilter", "true");
    bytes_clear(&stream);
}

/* The id of a revision, as hex. */
static inline void real_git_id(const struct real_git *g, const char *revision, char hex[65])
{
    struct bytes out;

    bytes_init(&out, 256);
    assert_int_equal(REAL_GIT(g, NULL, "", 0, &out, "git", "rev-parse", revision), 0);
    out.data[strcspn(out.data, "\n")] = '\0';
    assert_true(out.len <= 65);
    strcpy(hex, out.data);
    bytes_clear(&out);
}

static inline int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static inline void real_git_clear(struct real_git *g)
{
    assert_int_equal(nftw(g->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0);
}

#endif
