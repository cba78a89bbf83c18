#include "protocol/glob.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

/* reached[i]: what has been read of the pattern can stand for the first i bytes of the path.  One
 * pass a token: no pattern makes it try again and again. */
static void take_star(bool *reached, const char *path, size_t len, bool any)
{
    for (size_t i = 0; i < len; i++)
        if (reached[i] && (any || path[i] != '/'))
            reached[i + 1] = true;
}

/* False: nothing is reached any more. */
static bool take_letter(bool *reached, const char *path, size_t len, char letter)
{
    bool any = false;

    for (size_t i = len; i > 0; i--) {
        reached[i] = reached[i - 1] && path[i - 1] == letter;
        any = any || reached[i];
    }
    reached[0] = false;
    return any;
}

bool glob_matches(const char *pattern, const char *path)
{
    size_t len = strlen(path);
    bool *reached = xcalloc(len + 1, sizeof(*reached)), some = true, whole;

    reached[0] = true;
    while (*pattern != '\0' && some) {
        size_t stars = strspn(pattern, "*");

        if (stars > 0)
            take_star(reached, path, len, stars > 1);
        else
            some = take_letter(reached, path, len, *pattern);
        pattern += stars > 0 ? stars : 1;
    }
    whole = some && reached[len];
    free(reached);
    return whole;
}
