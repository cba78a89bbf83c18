/* The world's fault, as a value: a kind that code decides on and a sentence that people read.
 *
 * A function that can fail takes `struct err *err` last, returns -1 and fills it.  Lower code
 * never logs; whoever decides what happens next logs, once.  On the way up an error keeps its
 * words: add context with err_prefix(), do not replace.  err may never be NULL.
 *
 * Secrets (credentials, Authorization values, URLs with user information) never go into
 * an error's text. */
#ifndef PANNIER_PROTOCOL_ERR_H
#define PANNIER_PROTOCOL_ERR_H

enum err_kind {
    ERR_NONE = 0,
    ERR_INPUT,     /* what the client sent makes no sense */
    ERR_LIMIT,     /* what the client sent is over a limit */
    ERR_REFUSED,   /* a host or a thing that is not to be had here */
    ERR_NOT_FOUND, /* not here; absence is not damage */
    ERR_CONFLICT,  /* somebody else was first */
    ERR_DENIED,    /* upstream said no to this credential */
    ERR_UPSTREAM,  /* upstream spoke nonsense */
    ERR_DOWN,      /* upstream could not be reached, broke off, or answered with trouble (5xx) */
    ERR_TIMEOUT,   /* a deadline passed */
    ERR_BUSY,      /* a bound of ours is reached; later it may work */
    ERR_THROTTLED, /* upstream asks, or its budget demands, that it be left alone for a while */
    ERR_STORAGE,   /* disk: full, read-only, broken */
    ERR_CORRUPT,   /* what was stored is not what was written */
    ERR_PROCESS,   /* a git program failed */
    ERR_CANCELLED, /* we are shutting down, or nobody wants it any more */
};

enum { ERR_TEXT_MAX = 320 }; /* longer sentences are cut */

struct err {
    enum err_kind kind;
    char text[ERR_TEXT_MAX];
};

/* Fill err; always returns -1, so that `return err_set(...)` reads as what it is. */
int err_set(struct err *err, enum err_kind kind, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* As err_set, with ": " and strerror(errno) behind the sentence. */
int err_errno(struct err *err, enum err_kind kind, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Put "<words>: " before the sentence that is there.  Returns -1. */
int err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* One lower-case word per kind ("upstream", "storage", ...), for logs.  Static storage. */
const char *err_kind_name(enum err_kind kind);

#endif
