#include "protocol/git_credential.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

static void wipe(char **text)
{
    if (*text != NULL)
        explicit_bzero(*text, strlen(*text));
    free(*text);
    *text = NULL;
}

void git_credential_clear(struct git_credential *c)
{
    wipe(&c->protocol);
    wipe(&c->host);
    wipe(&c->username);
    wipe(&c->password);
    c->expires = 0;
}

static void write_line(struct bytes *out, const char *key, const char *value)
{
    if (value == NULL)
        return;
    must(strchr(value, '\n') == NULL);
    must(bytes_addf(out, "%s=%s\n", key, value) == 0);
}

void git_credential_write(const struct git_credential *c, struct bytes *out)
{
    write_line(out, "protocol", c->protocol);
    write_line(out, "host", c->host);
    write_line(out, "username", c->username);
    write_line(out, "password", c->password);
    if (c->expires > 0)
        must(bytes_addf(out, "password_expiry_utc=%" PRId64 "\n", c->expires) == 0);
    must(bytes_add_str(out, "\n") == 0);
}

static bool is_true(const char *value)
{
    return strcmp(value, "1") == 0 || strcmp(value, "true") == 0;
}

/* As git: what can't be read as a number says nothing. */
static int64_t read_time(const char *value)
{
    char *end;
    long long n;

    errno = 0;
    n = strtoll(value, &end, 10);
    return errno == 0 && end != value && *end == '\0' && n > 0 ? n : 0;
}

static void take(struct git_credential *c, bool *quit, const char *key, const char *value)
{
    char **field = strcmp(key, "protocol") == 0   ? &c->protocol
                   : strcmp(key, "host") == 0     ? &c->host
                   : strcmp(key, "username") == 0 ? &c->username
                   : strcmp(key, "password") == 0 ? &c->password
                                                  : NULL;

    if (field != NULL) {
        wipe(field);
        *field = xstrdup(value);
    } else if (strcmp(key, "password_expiry_utc") == 0) {
        c->expires = read_time(value);
    } else if (strcmp(key, "quit") == 0) {
        *quit = is_true(value);
    }
}

static int take_line(struct git_credential *c, bool *quit, const char *text, size_t len,
                     struct err *err)
{
    const char *equals = memchr(text, '=', len);
    char *line;

    if (equals == NULL || memchr(text, '\0', len) != NULL)
        return err_set(err, ERR_INPUT, "it said something else than key=value");
    len -= text[len - 1] == '\r';
    line = xstrndup(text, len);
    line[equals - text] = '\0';
    take(c, quit, line, line + (equals - text) + 1);
    explicit_bzero(line, len);
    free(line);
    return 0;
}

int git_credential_parse(const char *text, size_t len, const char *username,
                         struct git_credential *out, struct err *err)
{
    struct git_credential c = {0};
    bool quit = false;
    int rc = 0;

    while (len > 0 && rc == 0) {
        const char *newline = memchr(text, '\n', len);
        size_t line = newline != NULL ? (size_t)(newline - text) : len;

        if (line == 0 || (line == 1 && text[0] == '\r'))
            break; /* the end of it */
        rc = take_line(&c, &quit, text, line, err);
        text += newline != NULL ? line + 1 : line;
        len -= newline != NULL ? line + 1 : line;
    }
    if (rc == 0 && c.username == NULL && username != NULL)
        c.username = xstrdup(username);
    if (rc == 0 && (quit || c.username == NULL || c.password == NULL || c.password[0] == '\0'))
        rc = err_set(err, ERR_NOT_FOUND, "it has no password for this host");
    if (rc != 0) {
        git_credential_clear(&c);
        return -1;
    }
    *out = c;
    return 0;
}
