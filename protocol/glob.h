/* Which repositories: patterns on "<upstream>/<path>".  '*' stands for any letters but '/', "**"
 * for any letters at all; the rest for itself, capitals included. */
#ifndef PANNIER_PROTOCOL_GLOB_H
#define PANNIER_PROTOCOL_GLOB_H

#include <stdbool.h>

enum { GLOB_MAX = 512 }; /* bytes of a pattern */

bool glob_matches(const char *pattern, const char *path);

#endif
