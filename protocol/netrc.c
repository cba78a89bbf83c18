#include "protocol/netrc.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "protocol/base.h"

struct reader {
    const char *at, *end;
    bool amid_line; /* there is a word before this place in its line */
    char word[NETRC_WORD_MAX + 1];
};

enum { WORD_END, WORD_READ, WORD_BAD };

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\0';
}

static void skip_line(struct reader *r)
{
    while (r->at < r->end && *r->at != '\n')
        r->at++;
}

static void skip_blanks(struct reader *r)
{
    while (r->at < r->end && (is_blank(*r->at) || (*r->at == '#' && !r->amid_line))) {
        if (*r->at == '\n')
            r->amid_line = false;
        if (*r->at == '#')
            skip_line(r);
        else
            r->at++;
    }
}

/* Inside quotes a backslash takes the next byte as it is. */
static int next_word(struct reader *r)
{
    size_t len = 0;
    bool quoted;

    skip_blanks(r);
    if (r->at == r->end)
        return WORD_END;
    r->amid_line = true;
    quoted = *r->at == '"';
    r->at += quoted;
    while (r->at < r->end && (quoted ? *r->at != '"' : !is_blank(*r->at))) {
        if (quoted && *r->at == '\\' && r->at + 1 < r->end)
            r->at++;
        if (len == NETRC_WORD_MAX || *r->at == '\0' || *r->at == '\n')
            return WORD_BAD;
        r->word[len++] = *r->at++;
    }
    if (quoted && r->at == r->end)
        return WORD_BAD;
    r->at += quoted;
    r->word[len] = '\0';
    return WORD_READ;
}

/* A macro ends with an empty line. */
static void skip_macro(struct reader *r)
{
    do {
        skip_line(r);
        r->at += r->at < r->end;
    } while (r->at < r->end && *r->at != '\n' && *r->at != '\r');
}

struct entry {
    bool here; /* it is for the host, or the default */
    char *user, *password;
};

static void wipe(char **text)
{
    if (*text != NULL)
        explicit_bzero(*text, strlen(*text));
    free(*text);
    *text = NULL;
}

static void entry_clear(struct entry *e)
{
    wipe(&e->user);
    wipe(&e->password);
    e->here = false;
}

static bool entry_fits(const struct entry *e, const char *login)
{
    return e->here && e->password != NULL &&
           (login == NULL || (e->user != NULL && strcmp(e->user, login) == 0));
}

static bool take_value(struct reader *r, char **to)
{
    if (next_word(r) != WORD_READ)
        return false;
    wipe(to);
    *to = xstrdup(r->word);
    return true;
}

/* One keyword, which is in r->word, and its value.  *done: an entry before it is the one. */
static bool take_keyword(struct reader *r, const char *host, const char *login, struct entry *e,
                         bool *done)
{
    bool machine = strcmp(r->word, "machine") == 0, standard = strcmp(r->word, "default") == 0;

    if (machine || standard) {
        *done = entry_fits(e, login);
        if (*done)
            return true;
        entry_clear(e);
        if (machine && next_word(r) != WORD_READ)
            return false;
        e->here = standard || strcasecmp(r->word, host) == 0;
        return true;
    }
    if (strcmp(r->word, "login") == 0)
        return take_value(r, &e->user);
    if (strcmp(r->word, "password") == 0)
        return take_value(r, &e->password);
    if (strcmp(r->word, "account") == 0)
        return next_word(r) == WORD_READ;
    if (strcmp(r->word, "macdef") != 0)
        return false;
    skip_macro(r);
    return true;
}

int netrc_find(const char *text, size_t len, const char *host, const char *login, char **user,
               char **password, struct err *err)
{
    struct reader r = {.at = text, .end = text + len};
    struct entry e = {0};
    bool done = false, sound = true;
    int word = WORD_END, rc = -1;

    while (!done && sound && (word = next_word(&r)) == WORD_READ)
        sound = take_keyword(&r, host, login, &e, &done);
    if (!sound || word == WORD_BAD) {
        err_set(err, ERR_INPUT, "it is not written as a netrc file is");
    } else if (!entry_fits(&e, login)) {
        err_set(err, ERR_NOT_FOUND, "it has no password for this host");
    } else {
        *user = e.user != NULL ? e.user : xstrdup("");
        *password = e.password;
        e = (struct entry){0};
        rc = 0;
    }
    entry_clear(&e);
    explicit_bzero(r.word, sizeof(r.word));
    return rc;
}
