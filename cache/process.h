/* Git programs, and what git would run for us: run without a shell, with a clean environment, in
 * bounded number.
 *
 *     process_start(pool, &spec, &p, &err)     waits for a slot
 *     read p->out_fd / write p->in_fd          blocking pipes; close in_fd with process_close_in()
 *     process_finish(&p, &err)                 waits for the exit; 0: exit status 0
 *     or process_kill(&p)
 *
 * Worker threads only: these block. */
#ifndef PANNIER_CACHE_PROCESS_H
#define PANNIER_CACHE_PROCESS_H

#include <stdbool.h>
#include <stddef.h>

#include "protocol/err.h"

struct processes;

/* At most max git programs at once, of them at most half (but one) in the background, so that
 * mirrors being built never keep clients waiting for a slot.  Needs `git` in PATH: -1 (ERR_PROCESS)
 * if it can't be run or is older than 2.39. */
int processes_new(size_t max, struct processes **out, struct err *err);
void processes_free(struct processes **pool);
/* Ends all that run, at once, and starts no more (ERR_CANCELLED): for the end of the program. */
void processes_kill_all(struct processes *pool);
/* How many run now. */
size_t processes_running(struct processes *pool);

struct process_spec {
    /* NULL: git, for work on mirrors.  Else a program of the operator's, looked for in PATH, which
     * gets these arguments alone and our own environment. */
    const char *program;
    const char *const *args; /* behind the program's name; ends with NULL */
    const char *protocol;    /* GIT_PROTOCOL, or NULL */
    const void *input;       /* the whole standard input; NULL: in_fd is a pipe */
    size_t input_len;
    bool background; /* yields the processor to everything else */
    bool writes;     /* to the disk: when that fails, it is ERR_STORAGE and nobody's damage */
};

struct process {
    int in_fd; /* -1 when the input was given whole */
    int out_fd;
    int err_fd; /* a memory file that collects standard error */
    int pid;
    bool background, writes;
    struct processes *pool;
    struct process *next, *prev;
};

/* -1: ERR_BUSY: no slot came free within a minute, or the machine is short of something; or
 * ERR_CANCELLED. */
int process_start(struct processes *pool, const struct process_spec *spec, struct process **out,
                  struct err *err);
void process_close_in(struct process *p);
/* Frees p.  -1 (ERR_PROCESS; ERR_STORAGE as above; ERR_BUSY: the machine was short of descriptors,
 * memory or processes, which is nobody's damage) with the program's name and the last line that
 * it said. */
int process_finish(struct process **p, struct err *err);
void process_kill(struct process **p); /* NULL inside is fine */

#endif
