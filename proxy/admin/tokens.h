/* Who may do what on the admin listener: a file of tokens' digests.
 *
 *     # name    scopes          digest of the token
 *     scraper   read sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 oncall
 * read,operate    sha256:...
 *
 * `operate` means `read` as well.  The file is read again when it has changed; one that is wrong
 * then is told once (wrong()), and those who were known before are known still.
 *
 * Any thread; reads the local disk. */
#ifndef PANNIER_PROXY_ADMIN_TOKENS_H
#define PANNIER_PROXY_ADMIN_TOKENS_H

#include <stdbool.h>
#include <stddef.h>

#include "protocol/err.h"

enum scope {
    SCOPE_NONE = 0, /* of who is not known */
    SCOPE_READ = 1,
    SCOPE_OPERATE = 2,
};

enum {
    TOKEN_NAME_MAX = 64, /* with its NUL */
    TOKENS_MAX = 1000,   /* all of them are compared with each token that is shown */
};

struct tokens;

/* A file that was read before has changed and is wrong now; or right again (why NULL). */
typedef void tokens_wrong_fn(const struct err *why);

/* -1: ERR_INPUT, it can't be read, has no token or a line that is none: "path:line: ...". */
int tokens_open(const char *path, tokens_wrong_fn *wrong, struct tokens **out, struct err *err);
void tokens_free(struct tokens **t); /* NULL inside is fine */

/* What whoever shows this value of an Authorization header may do: bits of enum scope, and who it
 * is. SCOPE_NONE: NULL, no bearer token, or one that isn't known.  Takes as long whichever it is.
 */
unsigned tokens_look(struct tokens *t, const char *authorization, char name[TOKEN_NAME_MAX]);

/* One file's text; for tokens.c and its tests.  -1: as tokens_open(), without the path. */
struct token_list;
int token_list_read(const char *text, size_t len, struct token_list **out, struct err *err);
void token_list_free(struct token_list **list);
unsigned token_list_look(const struct token_list *list, const char *authorization,
                         char name[TOKEN_NAME_MAX]);

#endif
