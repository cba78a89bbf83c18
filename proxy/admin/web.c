/* The operators' page: files that are in the program.  They say nothing of what is kept, so
 * everybody may have them; what they show they ask of the API, with the token that somebody typed.
 */
#include <string.h>

#include "protocol/base.h"
#include "proxy/admin/call.h"
#include "proxy/admin/handlers.h"
#include "proxy/admin/web_table.h"

#define X(symbol_, name_, type_)                                                                   \
    extern const unsigned char symbol_[];                                                          \
    extern const size_t symbol_##_len;
WEB_FILES(X)
#undef X

static const struct file {
    const char *name, *type;
    const unsigned char *bytes;
    const size_t *len;
} files[] = {
#define X(symbol_, name_, type_) {name_, type_, symbol_, &symbol_##_len},
    WEB_FILES(X)
#undef X
};

/* A repository may be called anything.  Should its name ever come to be taken for markup, this is
 * what is left to it: nothing runs that isn't among the files above, nothing is sent elsewhere, and
 * no page elsewhere can put a frame around it. */
static const char POLICY[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

static void reply_file(struct exchange *x, const char *name)
{
    static const char *const no_names[] = {NULL};

    if (!call_knows(x, no_names))
        return;
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        if (strcmp(files[i].name, name) != 0)
            continue;
        reply_header(x, "Content-Security-Policy", POLICY);
        reply_header(x, "X-Content-Type-Options", "nosniff");
        reply_header(x, "Referrer-Policy", "no-referrer");
        reply_header(x, "Cache-Control", "no-cache"); /* another version has another page */
        reply_bytes(x, 200, files[i].type, files[i].bytes, *files[i].len, "admin");
        return;
    }
    reply_problem(x, 404, NULL, "the page has no such file");
}

void admin_web(struct exchange *x)
{
    reply_file(x, "index.html");
}

void admin_web_file(struct exchange *x)
{
    reply_file(x, call_of(x)->id);
}
