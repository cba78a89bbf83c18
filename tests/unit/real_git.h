/* The real git, for round-trips: repositories in a temporary folder and programs run to their end.
 * Included by unit tests only; everything asserts with cmocka. */
#ifndef PANNIER_TESTS_UNIT_REAL_GIT_H
#define PANNIER_TESTS_UNIT_REAL_GIT_H

#include <ftw.h>
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

static inline void real_git_environment(const char *protocol)
{
    setenv("GIT_CONFIG_GLOBAL", "/dev/null", 1);
    setenv("GIT_CONFIG_NOSYSTEM", "1", 1);
    setenv("LC_ALL", "C", 1);
    unsetenv("GIT_DIR");
    if (protocol != NULL)
        setenv("GIT_PROTOCOL", protocol, 1);
    else
        unsetenv("GIT_PROTOCOL");
}

static inline void slurp(FILE *f, struct bytes *out)
{
    char buf[65536];
    size_t n;

    rewind(f);
    while ((n = fread(buf, 1, sizeof(buf), f)) > 0)
        assert_int_equal(bytes_add(out, buf, n), 0);
}

/* Run a program in the repository: in is its standard input, out (may be NULL) gets its output.
 * Through files, so that no pipe can fill up.  Returns its exit status. */
static inline int real_git_run(const struct real_git *g, const char *protocol, const void *in,
                               size_t in_len, struct bytes *out, const char *const argv[])
{
    FILE *input = tmpfile(), *output = tmpfile();
    int status;
    pid_t pid;

    assert_non_null(input);
    assert_non_null(output);
    assert_int_equal(fwrite(in, 1, in_len, input), in_len);
    rewind(input);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        real_git_environment(protocol);
        if (dup2(fileno(input), 0) < 0 || dup2(fileno(output), 1) < 0 || chdir(g->dir) != 0 ||
            freopen("/dev/null", "w", stderr) == NULL)
            _exit(126);
        execvp(argv[0], (char *const *)argv);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (out != NULL)
        slurp(output, out);
    fclose(input);
    fclose(output);
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
