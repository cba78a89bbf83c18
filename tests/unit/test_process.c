#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/process.h"
#include "scratch.h"

static struct processes *pool_of(size_t max)
{
    struct processes *pool;
    struct err err;

    assert_int_equal(processes_new(max, &pool, &err), 0);
    return pool;
}

/* git runs a shell for an alias with '!', and so any script runs as a git program. */
static struct process *start_script(struct processes *pool, const char *script, const char *input)
{
    char *alias = xasprintf("alias.t=!%s", script);
    const char *const args[] = {"-c", alias, "t", NULL};
    const struct process_spec spec = {
        .args = args, .input = input, .input_len = input != NULL ? strlen(input) : 0};
    struct process *p;
    struct err err;

    assert_int_equal(process_start(pool, &spec, &p, &err), 0);
    free(alias);
    return p;
}

/* Ends when its input does; a single process, so that killing it closes its output. */
static struct process *start_waiting(struct processes *pool, bool background)
{
    static const char *const args[] = {"hash-object", "--stdin", NULL};
    const struct process_spec spec = {.args = args, .background = background};
    struct process *p;
    struct err err;

    assert_int_equal(process_start(pool, &spec, &p, &err), 0);
    return p;
}

static void read_all(int fd, char *out, size_t size)
{
    size_t len = 0;
    ssize_t n;

    while ((n = read(fd, out + len, size - 1 - len)) > 0)
        len += (size_t)n;
    assert_int_equal(n, 0);
    out[len] = '\0';
}

static void input_is_given_whole(void **state)
{
    struct processes *pool = pool_of(2);
    struct process *p = start_script(pool, "cat; echo end", "some input\n");
    char out[100];
    struct err err;

    (void)state;
    assert_int_equal(p->in_fd, -1);
    read_all(p->out_fd, out, sizeof(out));
    assert_string_equal(out, "some input\nend\n");
    assert_int_equal(process_finish(&p, &err), 0);
    assert_null(p);
    processes_free(&pool);
}

static void input_is_given_through_a_pipe(void **state)
{
    struct processes *pool = pool_of(2);
    struct process *p = start_script(pool, "cat", NULL);
    char out[100];
    struct err err;

    (void)state;
    assert_int_equal(write(p->in_fd, "one ", 4), 4);
    assert_int_equal(read(p->out_fd, out, sizeof(out)), 4);
    assert_int_equal(write(p->in_fd, "two", 3), 3);
    process_close_in(p);
    read_all(p->out_fd, out, sizeof(out));
    assert_string_equal(out, "two");
    assert_int_equal(process_finish(&p, &err), 0);
    processes_free(&pool);
}

static void a_failure_tells_the_last_words(void **state)
{
    static const struct {
        const char *script, *words;
    } rows[] = {
        {"echo first >&2; echo 'fatal: the last' >&2; echo >&2; exit 3", "fatal: the last"},
        {"printf 'no newline' >&2; exit 1", "no newline"},
        {"exit 1", "it gave no reason"},
        {"head -c 100000 /dev/zero | tr '\\0' x >&2; echo >&2; echo short >&2; exit 1", "short"},
    };
    struct processes *pool = pool_of(2);
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct process *p = start_script(pool, rows[i].script, "");

        assert_int_equal(process_finish(&p, &err), -1);
        assert_int_equal(err.kind, ERR_PROCESS);
        assert_non_null(strstr(err.text, rows[i].words));
    }
    processes_free(&pool);
}

static void a_disk_that_fails_a_writer_is_told_from_other_failures(void **state)
{
    static const struct {
        const char *name; /* its end is the system's word */
        bool writes;
        enum err_kind kind;
    } rows[] = {
        {"fatal: write error: No space left on device", true, ERR_STORAGE},
        {"fatal: fsync error on 'x': Input/output error", true, ERR_STORAGE},
        {"fatal: write error: No space left on device", false, ERR_PROCESS},
        {"fatal: No space left on device is no reason", true, ERR_PROCESS},
        {"fatal: short", true, ERR_PROCESS},
    };
    struct processes *pool = pool_of(2);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char *alias = xasprintf("alias.t=!echo \"%s\" >&2; exit 128 #", rows[i].name);
        const char *const args[] = {"-c", alias, "t", NULL};
        const struct process_spec spec = {.args = args, .writes = rows[i].writes};
        struct process *p;
        struct err err;

        assert_int_equal(process_start(pool, &spec, &p, &err), 0);
        assert_int_equal(process_finish(&p, &err), -1);
        assert_int_equal(err.kind, rows[i].kind);
        assert_non_null(strstr(err.text, rows[i].name));
        free(alias);
    }
    processes_free(&pool);
}

/* That a machine is short of something says nothing about what git worked on, though git's last
 * words may well say so. */
static void what_the_machine_lacks_is_told_from_other_failures(void **state)
{
    static const struct {
        const char *says;
        enum err_kind kind;
    } rows[] = {
        {"fatal: open failed: Too many open files", ERR_BUSY},
        {"error: unable to open objects/pack/x.pack: Too many open files in system", ERR_BUSY},
        {"fatal: mmap failed: Cannot allocate memory", ERR_BUSY},
        {"fatal: Out of memory, malloc failed (tried to allocate 4096 bytes)", ERR_BUSY},
        {"fatal: unable to create thread: Resource temporarily unavailable", ERR_BUSY},
        {"fatal: mmap failed: Cannot allocate memory\nfatal: git upload-pack: aborting due to "
         "possible "
         "repository corruption on the remote side.",
         ERR_BUSY},
        {"fatal: git upload-pack: not our ref Out of memory, malloc failed", ERR_PROCESS},
        {"fatal: Cannot allocate memory, says who", ERR_PROCESS},
    };
    struct processes *pool = pool_of(2);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char *alias = xasprintf("alias.t=!printf '%%s\\n' \"%s\" >&2; exit 128 #", rows[i].says);
        const char *const args[] = {"-c", alias, "t", NULL};
        const struct process_spec spec = {.args = args};
        struct process *p;
        struct err err;

        assert_int_equal(process_start(pool, &spec, &p, &err), 0);
        assert_int_equal(process_finish(&p, &err), -1);
        if (err.kind != rows[i].kind)
            fail_msg("%d for: %s", err.kind, rows[i].says);
        free(alias);
    }
    processes_free(&pool);
}

static void a_want_of_descriptors_is_told_from_other_failures(void **state)
{
    static const char *const args[] = {"rev-parse", "--git-dir", NULL};
    const struct process_spec specs[] = {{.args = args},
                                         {.args = args, .input = "x", .input_len = 1}};
    struct processes *pool = pool_of(2);
    struct rlimit before;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(specs); i++) {
        struct process *p;
        struct err err;
        rlim_t few = 0;
        int rc;

        do {
            few_descriptors(few++, &before);
            rc = process_start(pool, &specs[i], &p, &err);
            descriptors_are_back(&before);
            if (rc != 0)
                assert_int_equal(err.kind, ERR_BUSY);
        } while (rc != 0);
        assert_true(few > 2);
        process_kill(&p);
    }
    processes_free(&pool);
}

static void words_without_a_failure_are_no_failure(void **state)
{
    struct processes *pool = pool_of(2);
    struct process *p = start_script(pool, "echo warning >&2", "");
    struct err err;

    (void)state;
    assert_int_equal(process_finish(&p, &err), 0);
    processes_free(&pool);
}

static void output_that_nobody_read_does_not_end_it(void **state)
{
    struct processes *pool = pool_of(2);
    struct process *p = start_script(pool, "head -c 4000000 /dev/zero && exit 0; exit 9", "");
    struct err err;

    (void)state;
    assert_int_equal(process_finish(&p, &err), 0);
    processes_free(&pool);
}

static void the_environment_is_clean(void **state)
{
    struct processes *pool;
    struct process *p;
    char out[4096];
    struct err err;

    (void)state;
    setenv("GIT_DIR", "/secret", 1);
    setenv("SECRET_TOKEN", "hunter2", 1);
    pool = pool_of(2);
    p = start_script(pool, "env", "");
    read_all(p->out_fd, out, sizeof(out));
    assert_int_equal(process_finish(&p, &err), 0);
    assert_null(strstr(out, "hunter2"));
    assert_null(strstr(out, "/secret"));
    assert_non_null(strstr(out, "HOME=/nonexistent"));
    assert_non_null(strstr(out, "GIT_CONFIG_NOSYSTEM=1"));
    assert_null(strstr(out, "GIT_PROTOCOL="));
    unsetenv("GIT_DIR");
    unsetenv("SECRET_TOKEN");
    processes_free(&pool);
}

static void the_protocol_is_told(void **state)
{
    static const char *const args[] = {"-c", "alias.t=!printf %s $GIT_PROTOCOL", "t", NULL};
    const struct process_spec spec = {.args = args, .protocol = "version=2"};
    struct processes *pool = pool_of(2);
    struct process *p;
    char out[100];
    struct err err;

    (void)state;
    assert_int_equal(process_start(pool, &spec, &p, &err), 0);
    read_all(p->out_fd, out, sizeof(out));
    assert_string_equal(out, "version=2");
    assert_int_equal(process_finish(&p, &err), 0);
    processes_free(&pool);
}

static int descriptors_of_a_script(struct processes *pool)
{
    struct process *p = start_script(pool, "ls /proc/self/fd | wc -l", "");
    char out[100];
    struct err err;

    read_all(p->out_fd, out, sizeof(out));
    assert_int_equal(process_finish(&p, &err), 0);
    return atoi(out);
}

static void no_descriptor_of_ours_is_passed_on(void **state)
{
    struct processes *pool = pool_of(4);
    int before = descriptors_of_a_script(pool);
    struct process *other = start_waiting(pool, false);
    struct err err;

    (void)state;
    assert_true(before > 0);
    assert_int_equal(descriptors_of_a_script(pool), before);
    assert_int_equal(process_finish(&other, &err), 0);
    processes_free(&pool);
}

static void descriptors_are_given_back(void **state)
{
    size_t before = count_entries("/proc/self/fd");
    struct processes *pool = pool_of(2);
    struct err err;

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct process *p = start_script(pool, "exit 1", i == 0 ? "x" : NULL);

        if (i == 2)
            process_kill(&p);
        else
            process_finish(&p, &err);
    }
    processes_free(&pool);
    assert_int_equal(count_entries("/proc/self/fd"), before);
}

static void one_that_is_killed_is_gone(void **state)
{
    struct processes *pool = pool_of(2);
    struct process *p = start_waiting(pool, false), *none = NULL;
    pid_t pid = p->pid;

    (void)state;
    assert_int_equal(processes_running(pool), 1);
    process_kill(&p);
    assert_null(p);
    process_kill(&none);
    assert_int_equal(processes_running(pool), 0);
    assert_int_equal(kill(pid, 0), -1);
    assert_int_equal(errno, ESRCH);
    processes_free(&pool);
}

static void all_can_be_ended_at_once(void **state)
{
    struct processes *pool = pool_of(4);
    struct process *p[3];
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(p); i++)
        p[i] = start_waiting(pool, false);
    processes_kill_all(pool);
    for (size_t i = 0; i < ARRAY_LEN(p); i++) {
        assert_int_equal(process_finish(&p[i], &err), -1);
        assert_int_equal(err.kind, ERR_CANCELLED); /* not what it worked on is to blame */
    }
    assert_int_equal(
        process_start(pool, &(struct process_spec){.args = (const char *const[]){"version", NULL}},
                      &p[0], &err),
        -1);
    assert_int_equal(err.kind, ERR_CANCELLED);
    processes_free(&pool);
}

/* ---- slots ---- */

struct runner {
    struct processes *pool;
    pthread_barrier_t *barrier;
    bool background;
    atomic_size_t *running, *most;
};

static void *run_some(void *ctx)
{
    struct runner *r = ctx;
    struct err err;

    pthread_barrier_wait(r->barrier);
    for (int i = 0; i < 4; i++) {
        struct process *p = start_waiting(r->pool, r->background);
        size_t now = atomic_fetch_add(r->running, 1) + 1, most = atomic_load(r->most);

        while (now > most && !atomic_compare_exchange_weak(r->most, &most, now))
            ;
        atomic_fetch_sub(r->running, 1);
        assert_int_equal(process_finish(&p, &err), 0);
    }
    return NULL;
}

static size_t most_at_once(size_t max, bool background)
{
    enum { RUNNERS = 8 };
    struct processes *pool = pool_of(max);
    struct runner runners[RUNNERS];
    atomic_size_t running = 0, most = 0;
    pthread_barrier_t barrier;

    pthread_barrier_init(&barrier, NULL, RUNNERS);
    for (size_t i = 0; i < RUNNERS; i++)
        runners[i] = (struct runner){pool, &barrier, background, &running, &most};
    run_together(RUNNERS, run_some, runners, sizeof(runners[0]));
    assert_int_equal(processes_running(pool), 0);
    pthread_barrier_destroy(&barrier);
    processes_free(&pool);
    return most;
}

static void never_more_run_than_there_are_slots(void **state)
{
    (void)state;
    assert_true(most_at_once(3, false) <= 3);
}

static void the_background_never_takes_more_than_half(void **state)
{
    (void)state;
    assert_true(most_at_once(4, true) <= 2);
    assert_true(most_at_once(1, true) <= 1);
}

static void a_full_background_leaves_slots_for_the_rest(void **state)
{
    struct processes *pool = pool_of(4);
    struct process *p[4];
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(p); i++)
        p[i] = start_waiting(pool, i < 2); /* would wait for a minute if there were none */
    assert_int_equal(processes_running(pool), 4);
    for (size_t i = 0; i < ARRAY_LEN(p); i++)
        assert_int_equal(process_finish(&p[i], &err), 0);
    processes_free(&pool);
}

static void *finish_in_a_while(void *ctx)
{
    struct process **p = ctx;
    struct err err;

    assert_int_equal(process_finish(p, &err), 0);
    return NULL;
}

static void who_waits_for_a_slot_gets_it_when_one_is_freed(void **state)
{
    struct processes *pool = pool_of(1);
    struct process *first = start_waiting(pool, false), *second;
    pthread_t thread;
    struct err err;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, finish_in_a_while, &first), 0);
    second = start_waiting(pool, true);
    pthread_join(thread, NULL);
    assert_int_equal(processes_running(pool), 1);
    assert_int_equal(process_finish(&second, &err), 0);
    processes_free(&pool);
}

static void a_start_that_fails_gives_its_slot_back(void **state)
{
    static const char *const args[] = {"version", NULL};
    const struct process_spec spec = {.args = args};
    char *path = xstrdup(getenv("PATH"));
    struct processes *pool = pool_of(1);
    struct process *p;
    struct err err;

    (void)state;
    setenv("PATH", "/nonexistent", 1);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(process_start(pool, &spec, &p, &err), 0);
        assert_int_equal(process_finish(&p, &err), -1);
        assert_int_equal(err.kind, ERR_PROCESS);
        assert_non_null(strstr(err.text, "git can't be run"));
    }
    assert_int_equal(processes_running(pool), 0);
    processes_free(&pool);
    assert_int_equal(processes_new(1, &pool, &err), -1); /* no git at all: told at the start */
    setenv("PATH", path, 1);
    free(path);
}

/* Nothing of what git is told for mirrors, and our own environment. */
static void a_program_of_the_operators_runs_as_it_is(void **state)
{
    static const char script[] = "printf %s, $0 $# $PANNIER_TEST_OWN \"$GIT_CONFIG_NOSYSTEM\"; cat";
    const char *const args[] = {"-c", script, NULL};
    const struct process_spec spec = {
        .program = "sh", .args = args, .input = "told", .input_len = 4};
    struct processes *pool = pool_of(2);
    struct process *p;
    char said[128];
    struct err err;

    (void)state;
    setenv("PANNIER_TEST_OWN", "ours", 1);
    assert_int_equal(process_start(pool, &spec, &p, &err), 0);
    read_all(p->out_fd, said, sizeof(said));
    assert_int_equal(process_finish(&p, &err), 0);
    assert_string_equal(said, "sh,0,ours,,told");
    unsetenv("PANNIER_TEST_OWN");
    processes_free(&pool);
}

static void a_program_that_is_not_there_fails(void **state)
{
    struct processes *pool = pool_of(2);
    const char *const args[] = {NULL};
    const struct process_spec spec = {.program = "/nowhere/at/all", .args = args, .input = ""};
    struct process *p;
    struct err err;

    (void)state;
    assert_int_equal(process_start(pool, &spec, &p, &err), 0);
    assert_int_equal(process_finish(&p, &err), -1);
    assert_int_equal(err.kind, ERR_PROCESS);
    assert_non_null(strstr(err.text, "can't be run: No such file"));
    processes_free(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(input_is_given_whole),
        cmocka_unit_test(input_is_given_through_a_pipe),
        cmocka_unit_test(a_failure_tells_the_last_words),
        cmocka_unit_test(a_disk_that_fails_a_writer_is_told_from_other_failures),
        cmocka_unit_test(what_the_machine_lacks_is_told_from_other_failures),
        cmocka_unit_test(a_want_of_descriptors_is_told_from_other_failures),
        cmocka_unit_test(words_without_a_failure_are_no_failure),
        cmocka_unit_test(output_that_nobody_read_does_not_end_it),
        cmocka_unit_test(the_environment_is_clean),
        cmocka_unit_test(the_protocol_is_told),
        cmocka_unit_test(no_descriptor_of_ours_is_passed_on),
        cmocka_unit_test(descriptors_are_given_back),
        cmocka_unit_test(one_that_is_killed_is_gone),
        cmocka_unit_test(all_can_be_ended_at_once),
        cmocka_unit_test(never_more_run_than_there_are_slots),
        cmocka_unit_test(the_background_never_takes_more_than_half),
        cmocka_unit_test(a_full_background_leaves_slots_for_the_rest),
        cmocka_unit_test(who_waits_for_a_slot_gets_it_when_one_is_freed),
        cmocka_unit_test(a_start_that_fails_gives_its_slot_back),
        cmocka_unit_test(a_program_of_the_operators_runs_as_it_is),
        cmocka_unit_test(a_program_that_is_not_there_fails),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
