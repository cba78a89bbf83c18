/* What `pannier ls`, `show`, `rm`, `verify` and `evict` do with a cache: in the process that
 * serves, or in the command itself when none does.  Both speak the same lines:
 *
 *     request     {"command":"ls","repo":"host/a/b","entries":true}
 *     response    {"entry":{...}}, {"repository":{...}}, {"finding":{...}}, {"progress":{...}}
 *                 any number of them, then {"result":{...}} or {"error":{...}}
 *
 * Sizes are bytes, times seconds since 1970, what is unknown is null. */
#ifndef PANNIER_PROXY_COMMANDS_H
#define PANNIER_PROXY_COMMANDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/cache.h"
#include "cache/shared/shared_remove.h"
#include "protocol/bytes.h"
#include "protocol/err.h"
#include "proxy/control.h"

enum commands_kind {
    COMMANDS_LS,     /* a line per repository, or per entry */
    COMMANDS_SHOW,   /* every entry of one repository */
    COMMANDS_RM,     /* remove one repository's entries, or all */
    COMMANDS_VERIFY, /* read all */
    COMMANDS_EVICT,  /* make room, or only tell how */
};

/* Only what belongs to the command is set. */
struct commands_request {
    enum commands_kind kind;
    char *repo;    /* ls (NULL: every one), show, rm */
    char *repo_id; /* ls, show: in a name's place, in hex */
    bool all;      /* rm: instead of a repo */
    bool entries;  /* ls */
    bool repair;   /* verify */
    bool dry_run;  /* evict */
    uint64_t goal; /* evict: bytes; UINT64_MAX: the limits */
};

/* -1: ERR_INPUT, this is none, or more than is known here: what a newer client means by it can't be
 * guessed.  0: *out is yours to clear. */
int commands_request_read(const char *line, size_t len, struct commands_request *out,
                          struct err *err);
/* Appends it without a line's end.  -1: ERR_INPUT, the repository's name is no UTF-8 or too long
 * for out. */
int commands_request_write(const struct commands_request *r, struct bytes *out, struct err *err);
void commands_request_clear(struct commands_request *r);
/* -1: ERR_INPUT, the command doesn't take what is set, or lacks something. */
int commands_request_check(const struct commands_request *r, struct err *err);

/* Takes a line of the response, without its end.  False: nobody listens any more. */
struct commands_output {
    bool (*line)(void *ctx, const char *line, size_t len);
    void *ctx;
};

/* Do it, and tell out; the last line is a result or an error unless nobody listened.  Reads and
 * removes files: no thread of HTTP's.  Any number at once. */
void commands_run(struct cache *c, const struct commands_request *r,
                  const struct commands_output *out);

/* The same for a request that came through the socket: a control_handler, whose ctx is the struct
 * cache. */
void commands_serve(void *cache, const char *request, size_t len, struct control_client *client);

/* The id of the repository that a person means by "<upstream>/<path>", in any of the forms that
 * commands_repo_matches() takes but the URL upstream.  False: no path is in it. */
bool commands_repo_id(const char *typed, struct key *out);
/* What a person typed without "http(s)://" and a credential in front, and ".git" behind.  Yours to
 * free. */
char *commands_repo_name(const char *typed);
/* Does a name that a person typed mean the repository of e?  "<upstream>/<path>" or the URL
 * upstream, with or without "http(s)://" in front and ".git" behind. */
bool commands_repo_matches(const char *typed, const struct entry *e);

#endif
