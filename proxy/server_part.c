#include "proxy/server_part.h"

#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include <utlist.h>

#include "protocol/base.h"

/* ---- its life ---- */

struct server_part *part_new(struct server *s, const char *target,
                             struct MHD_Connection *connection)
{
    struct server_part *p = xcalloc(1, sizeof(*p));
    uint64_t random;

    lock_init(&p->lock, LOCK_EXCHANGE);
    p->server = s;
    p->refs = 1;
    p->connection = connection;
    p->started_us = now_us();
    p->note_offset = -1;
    bytes_init(&p->note, 4 * NOTE_MAX);
    p->x.proxy = s->proxy;
    p->x.server = p;
    p->x.target = xstrdup(target);
    p->x.content_length = -1;
    must(getrandom(&random, sizeof(random), 0) == sizeof(random));
    snprintf(p->x.id, sizeof(p->x.id), "%016llx", (unsigned long long)random);
    lock_take(&s->lock);
    p->x.config = config_ref(s->config);
    DL_APPEND(s->exchanges, p);
    s->active++;
    lock_drop(&s->lock);
    return p;
}

static void part_free(struct server_part *p)
{
    struct exchange *x = &p->x;

    answer_reader_close(&p->reader);
    if (x->free_state != NULL)
        x->free_state(x->state);
    for (size_t i = 0; i < p->header_count; i++) {
        free(p->headers[i].name);
        free(p->headers[i].value);
    }
    upload_free(&p->upload);
    bytes_clear(&p->note);
    bytes_clear(&x->body);
    if (x->upstream != NULL)
        smart_path_clear(&x->path);
    free(p->body);
    free(x->method);
    free(x->target);
    free(x->base_url);
    free(x->authorization);
    free(x->git_protocol);
    free(x->content_type);
    free(x->content_encoding);
    free(x->accept_encoding);
    free(x->accept);
    free(x->range);
    free(x->tls_subject);
    if (x->config != NULL)
        config_unref((struct config **)&x->config);
    lock_clear(&p->lock);
    free(p);
}

void part_ref(struct server_part *p)
{
    lock_take(&p->lock);
    p->refs++;
    lock_drop(&p->lock);
}

void part_unref(struct server_part *p)
{
    struct server *s = p->server;
    bool last;

    lock_take(&p->lock);
    last = --p->refs == 0;
    lock_drop(&p->lock);
    if (!last)
        return;
    lock_take(&s->lock);
    DL_DELETE(s->exchanges, p);
    lock_drop(&s->lock);
    part_free(p);
    /* Counted down last: server_stop() may follow at once. */
    lock_take(&s->lock);
    if (--s->active == 0)
        pthread_cond_broadcast(&s->idle);
    lock_drop(&s->lock);
}

const char *part_header(const struct server_part *p, const char *name)
{
    return MHD_lookup_connection_value(p->connection, MHD_HEADER_KIND, name);
}

void part_commit_phase(struct server_part *p)
{
    lock_take(&p->lock);
    p->phase = p->decided;
    p->known = true;
    lock_drop(&p->lock);
}

/* ---- sleeping and waking ---- */

void part_sleep_locked(struct server_part *p, enum wait what)
{
    MHD_suspend_connection(p->connection);
    p->waits_for = what;
}

void part_wake(struct server_part *p, int what)
{
    struct MHD_Connection *connection = NULL;

    lock_take(&p->lock);
    if ((p->waits_for & what) != 0) {
        p->waits_for = WAIT_NOTHING;
        connection = p->connection;
    }
    lock_drop(&p->lock);
    if (connection != NULL)
        MHD_resume_connection(connection);
}

void part_on_answer(void *ctx)
{
    part_wake(ctx, WAIT_ANSWER);
}

void part_sleep_until_more(struct server_part *p)
{
    lock_take(&p->lock);
    part_sleep_locked(p, WAIT_ANSWER);
    lock_drop(&p->lock);
    if (!answer_reader_arm(&p->reader))
        part_wake(p, WAIT_ANSWER);
}
