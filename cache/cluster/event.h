/* What nodes tell each other: one event, and how it lies in the stream: as names and values, which
 * may hold any bytes but NUL, as names of refs do.  Pure. */
#ifndef PANNIER_CACHE_CLUSTER_EVENT_H
#define PANNIER_CACHE_CLUSTER_EVENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/cluster/redis_words.h"
#include "protocol/digest.h"
#include "protocol/err.h"

enum {
    /* "<milliseconds>-<number> <token>" and a NUL.  The first part is the stream's and tells which
     * is older; the token, by chance, tells it from another of that name, as a Redis that has lost
     * its stream begins anew within the same millisecond. */
    EVENT_ID_SIZE = 64,
    EVENT_TEXT_MAX = 4096, /* of a repository, ref or object name */
    EVENT_REASON_MAX = 1024,
    EVENT_WORDS_MAX = 20,
};

enum event_kind {
    EVENT_UPDATE,     /* a repository has newer refs or a newer mirror: repo_id, generation */
    EVENT_INVALIDATE, /* what was kept is not to be served any more: scope and what it wants */
};
enum event_scope {
    SCOPE_REPOSITORY, /* repo_id */
    SCOPE_REF,        /* repo_id, name */
    SCOPE_OBJECT,     /* name: an object's id, in hex; repo_id, or "" for all repositories */
    SCOPE_EVERYTHING,
};

struct event {
    enum event_kind kind;
    enum event_scope scope;     /* EVENT_INVALIDATE */
    char repo_id[KEY_HEX_SIZE]; /* hex; "": none */
    uint64_t generation;        /* EVENT_UPDATE: of the mirror in the shared tier; 0: not said */
    bool unpin; /* SCOPE_REPOSITORY: its pin goes, too, unless it is newer than the event */
    /* Of the event that has said it first, where this one only says it again; "": it doesn't. */
    char unpin_id[EVENT_ID_SIZE];
    const char *repo;   /* as clients write it, for people; "": none */
    const char *name;   /* of the ref or object; "": none */
    const char *reason; /* the operator's, or which webhook; "": none */
    const char *node;   /* who sent it; events_send() fills it in */
};

/* "update", "ref": for logs.  Static storage. */
const char *event_kind_name(enum event_kind kind);
const char *event_scope_name(enum event_scope scope);

/* Names and values for XADD behind words[0 .. n-1]; they point into e and numbers.  Returns the new
 * n, or 0 with err: ERR_INPUT, there is a text that is too long, or something lacks. */
size_t event_write(const struct event *e, const char **words, size_t n,
                   char generation[REDIS_NUMBER_SIZE], struct err *err);

/* 0: *out points into fields.  -1: ERR_REFUSED, a kind that this version doesn't know; ERR_CORRUPT.
 * An invalidation of a scope that this version doesn't know is read as one of everything. */
int event_read(const struct redis_reply *fields, struct event *out, struct err *err);

/* When it was sent, in milliseconds since 1970; 0: it is no id. */
int64_t event_id_ms(const char *id);
/* <0, 0, >0: which id is older.  What is no id is older than any. */
int event_id_compare(const char *a, const char *b);

/* An id's place in the one order of events, for who compares it often; {0}: it is no id. */
struct event_place {
    unsigned long long ms, number;
};
struct event_place event_place_of(const char *id);
int event_place_compare(const struct event_place *a, const struct event_place *b);

#endif
