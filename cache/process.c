#include "cache/process.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utlist.h>

#include "cache/lock.h"
#include "protocol/base.h"

enum {
    SLOT_WAIT_MS = 60 * 1000,
    ARGS_MAX = 32,
    PIPE_SIZE = 1 << 20, /* fewer switches between git and us; the kernel may give less */
    WORDS_MAX = 1024,    /* of what a program says at its end */
};

struct processes {
    struct lock lock;
    pthread_cond_t freed;
    size_t running, max;
    size_t background, background_max; /* of those running */
    bool closing;
    struct process *all;
    char *path_var;
};

/* What every git program is told.  The configuration of the machine and of its user must not
 * change what we serve; the rest says what our mirrors are for. */
static const char *const COMMON_ARGS[] = {
    "git",
    "-c",
    "safe.directory=*",
    "-c",
    "gc.auto=0",
    "-c",
    "maintenance.auto=false",
    "-c",
    "core.alternateRefsCommand=",
    "-c",
    "pack.writeReverseIndex=true",
};

int processes_new(size_t max, struct processes **out, struct err *err)
{
    static const char *const args[] = {"version", NULL};
    const struct process_spec spec = {.args = args};
    struct processes *pool = xcalloc(1, sizeof(*pool));
    const char *path = getenv("PATH");
    struct process *p;
    char found[128] = "";
    int major = 0, minor = 0;
    ssize_t n;

    lock_init(&pool->lock, LOCK_PROCESSES);
    lock_cond_init(&pool->freed);
    pool->max = max;
    pool->background_max = max > 1 ? max / 2 : 1;
    pool->path_var = xasprintf("PATH=%s", path != NULL ? path : "/usr/local/bin:/usr/bin:/bin");
    if (process_start(pool, &spec, &p, err) != 0)
        goto fail;
    process_close_in(p);
    n = read(p->out_fd, found, sizeof(found) - 1);
    if (process_finish(&p, err) != 0)
        goto fail;
    if (n <= 0 || sscanf(found, "git version %d.%d", &major, &minor) != 2 ||
        major * 1000 + minor < 2039) {
        err_set(err, ERR_PROCESS, "git 2.39 or newer is needed, found: %.60s", found);
        goto fail;
    }
    *out = pool;
    return 0;
fail:
    processes_free(&pool);
    return -1;
}

void processes_free(struct processes **poolp)
{
    struct processes *pool = *poolp;

    *poolp = NULL;
    if (pool == NULL)
        return;
    must(pool->all == NULL);
    pthread_cond_destroy(&pool->freed);
    lock_clear(&pool->lock);
    free(pool->path_var);
    free(pool);
}

void processes_kill_all(struct processes *pool)
{
    struct process *p;

    lock_take(&pool->lock);
    pool->closing = true;
    pthread_cond_broadcast(&pool->freed);
    DL_FOREACH(pool->all, p)
    kill(-p->pid, SIGKILL);
    lock_drop(&pool->lock);
}

size_t processes_running(struct processes *pool)
{
    size_t n;

    lock_take(&pool->lock);
    n = pool->running;
    lock_drop(&pool->lock);
    return n;
}

static bool slot_free_locked(const struct processes *pool, bool background)
{
    return pool->running < pool->max && (!background || pool->background < pool->background_max);
}

static int take_slot(struct processes *pool, bool background, struct err *err)
{
    uint64_t deadline = now_ms() + SLOT_WAIT_MS;
    bool got, closing;

    lock_take(&pool->lock);
    while (!pool->closing && !slot_free_locked(pool, background) &&
           lock_wait_until(&pool->lock, &pool->freed, deadline))
        ;
    closing = pool->closing;
    got = !closing && slot_free_locked(pool, background);
    if (got) {
        pool->running++;
        pool->background += background;
    }
    lock_drop(&pool->lock);
    if (closing)
        return err_set(err, ERR_CANCELLED, "pannier is shutting down");
    return got ? 0 : err_set(err, ERR_BUSY, "too many git programs are running");
}

static void give_slot(struct processes *pool, bool background)
{
    lock_take(&pool->lock);
    pool->running--;
    pool->background -= background;
    /* All: the one who is woken may be of the class that still has no room. */
    pthread_cond_broadcast(&pool->freed);
    lock_drop(&pool->lock);
}

static int memory_file(const void *data, size_t len, struct err *err)
{
    int fd = memfd_create("pannier", MFD_CLOEXEC);

    if (fd < 0)
        return err_errno(err, ERR_BUSY, "make a memory file");
    for (size_t done = 0; done < len;) {
        ssize_t n = pwrite(fd, (const char *)data + done, len - done, (off_t)done);

        if (n <= 0) {
            err_errno(err, ERR_BUSY, "fill a memory file");
            close(fd);
            return -1;
        }
        done += (size_t)n;
    }
    return fd;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* The lowest class of the scheduler: a mirror that is being built must not take processor
 * time from the clients that caused it. */
static void put_in_background(pid_t pid)
{
    const struct sched_param none = {0};

    sched_setscheduler(pid, SCHED_IDLE, &none);
}

/* The child, between fork and exec: nothing but system calls here.  It dies with the thread that
 * started it, so that after a crash no git program goes on writing into a folder that the next
 * start has swept.  It leads a group of its own, so that the programs that it starts end with it.
 */
_Noreturn static void become(const char *const *argv, char *const *envp, int in, int out,
                             int err_fd, pid_t parent)
{
    sigset_t none;

    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* it died before the line above */
        _exit(127);
    for (int sig = 1; sig < NSIG; sig++)
        signal(sig, SIG_DFL);
    if (dup2(in, 0) >= 0 && dup2(out, 1) >= 0 && dup2(err_fd, 2) >= 0) {
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execvpe(argv[0], (char *const *)argv, envp);
    }
    dprintf(err_fd, "%s can't be run: %s\n", argv[0], strerrordesc_np(errno));
    _exit(127);
}

static void fill_args(const struct process_spec *spec, const char *argv[ARGS_MAX + 1])
{
    size_t n = 0;

    if (spec->program != NULL)
        argv[n++] = spec->program;
    else
        for (; n < ARRAY_LEN(COMMON_ARGS); n++)
            argv[n] = COMMON_ARGS[n];
    for (size_t i = 0; spec->args[i] != NULL; i++) {
        must(n < ARGS_MAX);
        argv[n++] = spec->args[i];
    }
    argv[n] = NULL;
}

/* Ours, and nobody is asked at a terminal.  The array is the caller's to free. */
static char **own_environment(void)
{
    size_t n = 0;
    char **envp;

    while (environ[n] != NULL)
        n++;
    envp = xcalloc(n + 2, sizeof(*envp));
    envp[0] = (char *)"GIT_TERMINAL_PROMPT=0";
    memcpy(envp + 1, environ, n * sizeof(*envp));
    return envp;
}

static char **clean_environment(const struct processes *pool, const char *protocol_var)
{
    enum { VARIABLES_MAX = 12 };
    char **envp = xcalloc(VARIABLES_MAX, sizeof(*envp));
    size_t n = 0;

    envp[n++] = pool->path_var;
    envp[n++] = (char *)"HOME=/nonexistent";
    envp[n++] = (char *)"LC_ALL=C";
    envp[n++] = (char *)"GIT_CONFIG_NOSYSTEM=1";
    envp[n++] = (char *)"GIT_CONFIG_GLOBAL=/dev/null";
    envp[n++] = (char *)"GIT_TERMINAL_PROMPT=0";
    envp[n++] = (char *)"GIT_NO_LAZY_FETCH=1";
    envp[n++] = (char *)"GIT_ALLOW_PROTOCOL=";
    if (protocol_var != NULL)
        envp[n++] = (char *)protocol_var;
    must(n < VARIABLES_MAX);
    return envp;
}

static int spawn(struct processes *pool, const struct process_spec *spec, int in, int out,
                 int err_fd, pid_t *pid, struct err *err)
{
    char *protocol_var =
        spec->protocol != NULL ? xasprintf("GIT_PROTOCOL=%s", spec->protocol) : NULL;
    char **envp = spec->program != NULL ? own_environment() : clean_environment(pool, protocol_var);
    const char *argv[ARGS_MAX + 1];
    pid_t parent = getpid();
    int rc = 0;

    fill_args(spec, argv);
    *pid = fork();
    if (*pid == 0)
        become(argv, envp, in, out, err_fd, parent);
    if (*pid < 0)
        rc = err_errno(err, ERR_BUSY, "run %s %s", spec->program != NULL ? spec->program : "git",
                       spec->args[0] != NULL ? spec->args[0] : "");
    else
        setpgid(*pid, *pid); /* whoever comes first: the child, or who wants to end it */
    if (rc == 0 && spec->background)
        put_in_background(*pid);
    free(envp);
    free(protocol_var);
    return rc;
}

static int open_input(const struct process_spec *spec, int *ours, int *theirs, struct err *err)
{
    int pair[2];

    if (spec->input != NULL) {
        *theirs = memory_file(spec->input, spec->input_len, err);
        return *theirs >= 0 ? 0 : -1;
    }
    if (pipe2(pair, O_CLOEXEC) != 0)
        return err_errno(err, ERR_BUSY, "make a pipe");
    *theirs = pair[0];
    *ours = pair[1];
    fcntl(*ours, F_SETPIPE_SZ, PIPE_SIZE);
    return 0;
}

static int open_output(int *ours, int *theirs, struct err *err)
{
    int pair[2];

    if (pipe2(pair, O_CLOEXEC) != 0)
        return err_errno(err, ERR_BUSY, "make a pipe");
    *ours = pair[0];
    *theirs = pair[1];
    fcntl(*ours, F_SETPIPE_SZ, PIPE_SIZE);
    return 0;
}

int process_start(struct processes *pool, const struct process_spec *spec, struct process **out,
                  struct err *err)
{
    struct process *p = xcalloc(1, sizeof(*p));
    int in = -1, output = -1;
    pid_t pid = -1;
    int rc;

    *p = (struct process){.in_fd = -1,
                          .out_fd = -1,
                          .err_fd = -1,
                          .background = spec->background,
                          .writes = spec->writes,
                          .pool = pool};
    rc = take_slot(pool, spec->background, err);
    if (rc != 0) {
        free(p);
        return -1;
    }
    rc = open_input(spec, &p->in_fd, &in, err);
    if (rc == 0)
        rc = open_output(&p->out_fd, &output, err);
    if (rc == 0 && (p->err_fd = memory_file(NULL, 0, err)) < 0)
        rc = -1;
    if (rc == 0)
        rc = spawn(pool, spec, in, output, p->err_fd, &pid, err);
    close_fd(&in);
    close_fd(&output);
    if (rc != 0) {
        close_fd(&p->in_fd);
        close_fd(&p->out_fd);
        close_fd(&p->err_fd);
        give_slot(pool, spec->background);
        free(p);
        return -1;
    }
    p->pid = pid;
    lock_take(&pool->lock);
    DL_APPEND(pool->all, p);
    if (pool->closing) /* came too late for processes_kill_all() */
        kill(-pid, SIGKILL);
    lock_drop(&pool->lock);
    *out = p;
    return 0;
}

void process_close_in(struct process *p)
{
    close_fd(&p->in_fd);
}

/* The end of what the program said, without its newline. */
static void last_words(int fd, char out[WORDS_MAX])
{
    off_t end = lseek(fd, 0, SEEK_END);
    off_t at = end > WORDS_MAX - 1 ? end - (WORDS_MAX - 1) : 0;
    ssize_t n = end >= 0 ? pread(fd, out, WORDS_MAX - 1, at) : -1;

    while (n > 0 && (out[n - 1] == '\n' || out[n - 1] == '\r'))
        n--;
    out[n > 0 ? n : 0] = '\0';
}

static const char *last_line(const char *words)
{
    const char *end = strrchr(words, '\n');

    return end != NULL ? end + 1 : words;
}

/* git has but one exit status for all that goes wrong; a line ends with what the system said to it,
 * in the language that we have it run in. */
static bool ends_with_error(const char *words, const int *errors, size_t count)
{
    size_t len = strlen(words);

    for (size_t i = 0; i < count; i++) {
        const char *text = strerrordesc_np(errors[i]);
        size_t text_len = strlen(text);

        if (len >= text_len && strcmp(words + len - text_len, text) == 0)
            return true;
    }
    return false;
}

static bool blames_disk(const char *words)
{
    static const int errors[] = {ENOSPC, EDQUOT, EFBIG, EIO, EROFS};

    return ends_with_error(words, errors, ARRAY_LEN(errors));
}

/* Any line will do: a program that waits for another one has the last word, and takes what kept
 * that from its work for damage. */
static bool blames_machine(const char *words)
{
    static const int errors[] = {EMFILE, ENFILE, ENOMEM, EAGAIN};
    static const char OUT_OF_MEMORY[] = "fatal: Out of memory";
    char *text = xstrdup(words), *save = NULL;
    bool blames = false;

    for (char *line = strtok_r(text, "\n", &save); line != NULL && !blames;
         line = strtok_r(NULL, "\n", &save))
        blames = strncmp(line, OUT_OF_MEMORY, strlen(OUT_OF_MEMORY)) == 0 ||
                 ends_with_error(line, errors, ARRAY_LEN(errors));
    free(text);
    return blames;
}

/* What its words say that it is. */
static enum err_kind kind_of(const struct process *p, const char *words)
{
    if (blames_machine(words))
        return ERR_BUSY;
    return p->writes && blames_disk(last_line(words)) ? ERR_STORAGE : ERR_PROCESS;
}

static int reap(struct process *p)
{
    struct processes *pool = p->pool;
    siginfo_t ignored;
    int status = -1;

    close_fd(&p->in_fd);
    close_fd(&p->out_fd);
    /* Off the list before its id is given back: processes_kill_all() must not hit a stranger. */
    while (waitid(P_PID, (id_t)p->pid, &ignored, WEXITED | WNOWAIT) < 0 && errno == EINTR)
        ;
    lock_take(&pool->lock);
    DL_DELETE(pool->all, p);
    lock_drop(&pool->lock);
    while (waitpid(p->pid, &status, 0) < 0 && errno == EINTR)
        ;
    give_slot(pool, p->background);
    return status;
}

/* What the caller didn't read: closing the pipe instead would end the program with SIGPIPE. */
static void drain(int fd)
{
    char block[4096];
    ssize_t n;

    do
        n = read(fd, block, sizeof(block));
    while (n > 0 || (n < 0 && errno == EINTR));
}

int process_finish(struct process **pp, struct err *err)
{
    struct process *p = *pp;
    struct processes *pool = p->pool;
    int status;
    bool closing;
    char words[WORDS_MAX];
    int rc = 0;

    *pp = NULL;
    close_fd(&p->in_fd);
    drain(p->out_fd);
    status = reap(p);
    lock_take(&pool->lock);
    closing = pool->closing;
    lock_drop(&pool->lock);
    if (closing && WIFSIGNALED(status)) {
        /* Ours to blame, not what it worked on. */
        rc = err_set(err, ERR_CANCELLED, "pannier is shutting down");
    } else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        last_words(p->err_fd, words);
        rc = WIFSIGNALED(status)
                 ? err_set(err, ERR_PROCESS, "git was ended by signal %d", WTERMSIG(status))
                 : err_set(err, kind_of(p, words), "git failed: %s",
                           words[0] != '\0' ? last_line(words) : "it gave no reason");
    }
    close_fd(&p->err_fd);
    free(p);
    return rc;
}

void process_kill(struct process **pp)
{
    struct process *p = *pp;

    *pp = NULL;
    if (p == NULL)
        return;
    kill(-p->pid, SIGKILL);
    reap(p);
    close_fd(&p->err_fd);
    free(p);
}
