#include "cache/cache.h"

int cache_open(const char *data, const struct folder_listener *listener,
               const struct cache_options *options, struct cache *out, struct err *err)
{
    *out = (struct cache){0};
    if (folder_open(data, listener, &out->folder, err) != 0 ||
        processes_new(options->git_processes, &out->processes, err) != 0)
        return -1;
    out->local = local_open(out->folder, &options->limits);
    out->answers = answers_new(out->folder, out->local, options->compression);
    out->mirrors = mirrors_new(out->folder, out->processes, out->local);
    return 0;
}

void cache_stop(struct cache *c)
{
    if (c->processes != NULL)
        processes_kill_all(c->processes);
    if (c->answers != NULL)
        answers_stop(c->answers);
    if (c->mirrors != NULL)
        mirrors_stop(c->mirrors);
}

void cache_close(struct cache *c)
{
    /* The index is written last, and nobody may ask it about its entries any more then. */
    mirrors_free(&c->mirrors);
    answers_free(&c->answers);
    local_close(&c->local);
    processes_free(&c->processes);
    folder_close(&c->folder);
}
