#include "cache/workers.h"

#include <stdio.h>
#include <stdlib.h>

#include "cache/lock.h"
#include "protocol/base.h"

/* git, curl and OpenSSL keep their big buffers on the heap; 512 KiB leaves room for libgit2's
 * recursion and costs address space only. */
enum { STACK_SIZE = 512 * 1024 };

struct job {
    struct job *next;
    worker_fn *fn;
    void *ctx;
};

struct workers {
    struct lock lock;
    pthread_cond_t work; /* a job was queued, or stopping */
    struct job *first, **last;
    size_t queued, queue_max;
    size_t running, idle;
    pthread_t *threads;
    size_t thread_count, threads_max;
    bool stopping;
    char name[11];
};

static void *worker_main(void *arg)
{
    struct workers *w = arg;

    lock_take(&w->lock);
    for (;;) {
        struct job *job;

        while (w->first == NULL && !w->stopping) {
            w->idle++;
            lock_wait(&w->lock, &w->work);
            w->idle--;
        }
        job = w->first;
        if (job == NULL)
            break; /* stopping, and nothing is left */
        w->first = job->next;
        if (w->first == NULL)
            w->last = &w->first;
        w->queued--;
        w->running++;
        lock_drop(&w->lock);
        job->fn(job->ctx);
        free(job);
        lock_take(&w->lock);
        w->running--;
    }
    lock_drop(&w->lock);
    return NULL;
}

struct workers *workers_new(const char *name, size_t threads_max, size_t queue_max)
{
    struct workers *w = xcalloc(1, sizeof(*w));

    must(threads_max > 0);
    lock_init(&w->lock, LOCK_WORKERS);
    lock_cond_init(&w->work);
    w->last = &w->first;
    w->queue_max = queue_max;
    w->threads_max = threads_max;
    w->threads = xcalloc(threads_max, sizeof(*w->threads));
    snprintf(w->name, sizeof(w->name), "%s", name);
    return w;
}

/* False when the system refuses a thread; those that run go on. */
static bool start_thread_locked(struct workers *w)
{
    pthread_attr_t attr;
    pthread_t *thread = &w->threads[w->thread_count];
    char name[16];
    bool ok;

    must(pthread_attr_init(&attr) == 0);
    pthread_attr_setstacksize(&attr, STACK_SIZE);
    ok = pthread_create(thread, &attr, worker_main, w) == 0;
    pthread_attr_destroy(&attr);
    if (!ok)
        return false;
    snprintf(name, sizeof(name), "%s-%zu", w->name, w->thread_count);
    pthread_setname_np(*thread, name);
    w->thread_count++;
    return true;
}

bool workers_submit(struct workers *w, worker_fn *fn, void *ctx)
{
    struct job *job = xmalloc(sizeof(*job));
    bool ok;

    *job = (struct job){.fn = fn, .ctx = ctx};
    lock_take(&w->lock);
    /* Jobs that a free thread is about to take aren't waiting: a burst must not be refused while
     * threads are idle. */
    ok = !w->stopping && w->queued < w->queue_max + (w->threads_max - w->running);
    if (ok && w->queued >= w->idle && w->thread_count < w->threads_max)
        ok = start_thread_locked(w) || w->thread_count > 0;
    if (ok) {
        *w->last = job;
        w->last = &job->next;
        w->queued++;
        pthread_cond_signal(&w->work);
        job = NULL;
    }
    lock_drop(&w->lock);
    free(job);
    return ok;
}

size_t workers_load(struct workers *w)
{
    size_t load;

    lock_take(&w->lock);
    load = w->queued + w->running;
    lock_drop(&w->lock);
    return load;
}

size_t workers_limit(const struct workers *w)
{
    return w->threads_max + w->queue_max;
}

void workers_free(struct workers **wp)
{
    struct workers *w = *wp;

    if (w == NULL)
        return;
    lock_take(&w->lock);
    w->stopping = true;
    pthread_cond_broadcast(&w->work);
    lock_drop(&w->lock);
    for (size_t i = 0; i < w->thread_count; i++)
        pthread_join(w->threads[i], NULL);
    must(w->first == NULL);
    *wp = NULL; /* not before: jobs may look there for where to submit more */
    pthread_cond_destroy(&w->work);
    lock_clear(&w->lock);
    free(w->threads);
    free(w);
}
