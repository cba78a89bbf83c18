/* The file ~/.netrc, as ftp and curl read it: words between blanks, a word in double quotes where
 * it has to hold a blank, '#' at the beginning of a line that is a comment.
 *
 *     machine git.example.com login ci password s3cret
 *     default login anonymous password none */
#ifndef PANNIER_PROTOCOL_NETRC_H
#define PANNIER_PROTOCOL_NETRC_H

#include <stddef.h>

#include "protocol/err.h"

enum { NETRC_WORD_MAX = 4096 };

/* The first entry for the host, of that login unless it is NULL; or else `default`, which has to
 * stand behind all machines.  0: *user and *password are yours to wipe and free.  -1:
 * ERR_NOT_FOUND, no entry with a password; ERR_INPUT, it isn't such a file.  The sentence holds
 * none of its words.
 */
int netrc_find(const char *text, size_t len, const char *host, const char *login, char **user,
               char **password, struct err *err);

#endif
