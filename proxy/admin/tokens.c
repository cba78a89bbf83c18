#include "proxy/admin/tokens.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/bytes.h"
#include "protocol/digest.h"

enum {
    FILE_MAX_BYTES = 1 << 20,
    BEARER_MAX = 4096, /* a longer token is nobody's */
};

/* ---- a file's text ---- */

struct token {
    char name[TOKEN_NAME_MAX];
    unsigned scopes;
    struct key digest;
};

struct token_list {
    struct token *items;
    size_t count;
};

void token_list_free(struct token_list **lp)
{
    struct token_list *list = *lp;

    *lp = NULL;
    if (list == NULL)
        return;
    free(list->items);
    free(list);
}

/* The next word of *s, which ends at end; false: there is none. */
static bool next_word(const char **s, const char *end, const char **word, size_t *len)
{
    while (*s < end && isspace((unsigned char)**s))
        (*s)++;
    *word = *s;
    while (*s < end && !isspace((unsigned char)**s))
        (*s)++;
    *len = (size_t)(*s - *word);
    return *len > 0;
}

static bool scopes_read(const char *s, size_t len, unsigned *out)
{
    *out = SCOPE_NONE;
    for (const char *end = s + len; s <= end;) {
        const char *comma = memchr(s, ',', (size_t)(end - s));
        size_t n = (size_t)((comma != NULL ? comma : end) - s);

        if (n == 4 && memcmp(s, "read", n) == 0)
            *out |= SCOPE_READ;
        else if (n == 7 && memcmp(s, "operate", n) == 0)
            *out |= SCOPE_READ | SCOPE_OPERATE;
        else
            return false;
        s += n + 1;
    }
    return true;
}

static bool name_ok(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)s[i]) && strchr("._-@", s[i]) == NULL)
            return false;
    return len < TOKEN_NAME_MAX;
}

static bool digest_read(const char *s, size_t len, struct key *out)
{
    static const char prefix[] = "sha256:";
    char hex[KEY_HEX_SIZE];

    if (len != sizeof(prefix) - 1 + sizeof(hex) - 1 || memcmp(s, prefix, sizeof(prefix) - 1) != 0)
        return false;
    memcpy(hex, s + sizeof(prefix) - 1, sizeof(hex) - 1);
    hex[sizeof(hex) - 1] = '\0';
    for (char *p = hex; *p != '\0'; p++)
        *p = (char)tolower((unsigned char)*p);
    return key_from_hex(hex, out);
}

static bool name_taken(const struct token_list *list, const char *name)
{
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i].name, name) == 0)
            return true;
    return false;
}

/* Nothing of the line is repeated: it may be a token that somebody put there as it is. */
static int add_line(struct token_list *list, unsigned number, const char *s, const char *end,
                    struct err *err)
{
    const char *name, *scopes, *digest, *more;
    size_t name_len, scopes_len, digest_len, more_len;
    struct token t = {0};

    if (!next_word(&s, end, &name, &name_len) || name[0] == '#')
        return 0;
    if (!next_word(&s, end, &scopes, &scopes_len) || !next_word(&s, end, &digest, &digest_len) ||
        (next_word(&s, end, &more, &more_len) && more[0] != '#'))
        return err_set(err, ERR_INPUT, "%u: is not 'name scope[,scope] sha256:<hex>'", number);
    if (!name_ok(name, name_len))
        return err_set(err, ERR_INPUT,
                       "%u: the name holds more than letters, digits, '.', '_', '-' and '@', or "
                       "more than %d bytes",
                       number, TOKEN_NAME_MAX - 1);
    if (!scopes_read(scopes, scopes_len, &t.scopes))
        return err_set(err, ERR_INPUT, "%u: a scope is neither read nor operate", number);
    if (!digest_read(digest, digest_len, &t.digest))
        return err_set(err, ERR_INPUT,
                       "%u: the digest is not sha256: and 64 hex digits; make it by "
                       "'printf %%s \"$TOKEN\" | sha256sum'",
                       number);
    memcpy(t.name, name, name_len);
    if (name_taken(list, t.name))
        return err_set(err, ERR_INPUT, "%u: the name stands here a second time", number);
    if (list->count == TOKENS_MAX)
        return err_set(err, ERR_INPUT, "%u: there are more than %d tokens", number, TOKENS_MAX);
    list->items = xrealloc(list->items, (list->count + 1) * sizeof(*list->items));
    list->items[list->count++] = t;
    return 0;
}

int token_list_read(const char *text, size_t len, struct token_list **out, struct err *err)
{
    struct token_list *list = xcalloc(1, sizeof(*list));
    const char *end = text + len;
    int rc = 0;

    for (unsigned number = 1; text < end && rc == 0; number++) {
        const char *eol = memchr(text, '\n', (size_t)(end - text));

        rc = add_line(list, number, text, eol != NULL ? eol : end, err);
        text = eol != NULL ? eol + 1 : end;
    }
    /* Without one nobody could do anything, and an empty file is rather a mistake. */
    if (rc == 0 && list->count == 0)
        rc = err_set(err, ERR_INPUT, "1: has no token");
    if (rc != 0)
        token_list_free(&list);
    *out = list;
    return rc;
}

unsigned token_list_look(const struct token_list *list, const char *authorization,
                         char name[TOKEN_NAME_MAX])
{
    static const char scheme[] = "Bearer ";
    const char *shown = "";
    const struct token *found = NULL;
    struct key digest;

    name[0] = '\0';
    if (authorization != NULL && strncasecmp(authorization, scheme, sizeof(scheme) - 1) == 0)
        shown = authorization + sizeof(scheme) - 1;
    while (*shown == ' ')
        shown++;
    if (*shown == '\0' || strlen(shown) > BEARER_MAX)
        return SCOPE_NONE;
    key_of(shown, strlen(shown), &digest);
    /* All of them, to the end, so that the time tells nothing of who is there. */
    for (size_t i = 0; i < list->count; i++)
        if (key_equal(&list->items[i].digest, &digest))
            found = &list->items[i];
    if (found == NULL)
        return SCOPE_NONE;
    memcpy(name, found->name, TOKEN_NAME_MAX);
    return found->scopes;
}

/* ---- the file ---- */

struct version {
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec modified;
};

struct tokens {
    char *path;
    tokens_wrong_fn *wrong;
    struct lock lock;
    struct version version; /* of the file that was looked at last */
    struct token_list *list;
    bool failing;
};

static bool version_of(const struct stat *st, struct version *out)
{
    memset(out, 0, sizeof(*out));
    out->device = st->st_dev;
    out->inode = st->st_ino;
    out->size = st->st_size;
    out->modified = st->st_mtim;
    return true;
}

static int read_whole(int fd, struct bytes *out, struct err *err)
{
    char piece[4096];
    ssize_t n;

    while ((n = read(fd, piece, sizeof(piece))) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(err, ERR_INPUT, "cannot be read");
        if (bytes_add(out, piece, (size_t)n) != 0)
            return err_set(err, ERR_INPUT, "is larger than 1 MiB; give the path of a tokens file");
    }
    return 0;
}

static int load(const char *path, struct version *version, struct token_list **out, struct err *err)
{
    /* A pipe without a writer must not hold up whoever asks. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct bytes text;
    struct stat st;
    int rc = -1;

    *out = NULL;
    bytes_init(&text, FILE_MAX_BYTES);
    if (fd < 0 || fstat(fd, &st) != 0)
        err_errno(err, ERR_INPUT, "cannot be read");
    else if (version_of(&st, version) && read_whole(fd, &text, err) == 0)
        rc = token_list_read(text.data != NULL ? text.data : "", text.len, out, err);
    if (fd >= 0)
        close(fd);
    bytes_clear(&text);
    if (rc != 0) {
        char words[ERR_TEXT_MAX];

        snprintf(words, sizeof(words), "%s", err->text);
        err_set(err, ERR_INPUT, "%s:%s%s", path, isdigit((unsigned char)words[0]) ? "" : " ",
                words);
    }
    return rc;
}

int tokens_open(const char *path, tokens_wrong_fn *wrong, struct tokens **out, struct err *err)
{
    struct tokens *t;
    struct token_list *list;
    struct version version = {0};

    if (load(path, &version, &list, err) != 0)
        return -1;
    t = xcalloc(1, sizeof(*t));
    t->path = xstrdup(path);
    t->wrong = wrong;
    t->version = version;
    t->list = list;
    lock_init(&t->lock, LOCK_TOKENS);
    *out = t;
    return 0;
}

void tokens_free(struct tokens **tp)
{
    struct tokens *t = *tp;

    *tp = NULL;
    if (t == NULL)
        return;
    token_list_free(&t->list);
    lock_clear(&t->lock);
    free(t->path);
    free(t);
}

static bool has_changed(struct tokens *t)
{
    struct version now = {0};
    struct stat st;
    bool changed, failing;

    if (stat(t->path, &st) == 0)
        version_of(&st, &now);
    lock_take(&t->lock);
    changed = memcmp(&now, &t->version, sizeof(now)) != 0;
    failing = t->failing;
    lock_drop(&t->lock);
    /* What isn't there has no version: told once. */
    return changed && !(failing && now.inode == 0);
}

/* Two threads may do this at once; both read the newest. */
static void read_again(struct tokens *t)
{
    struct version version = {0};
    struct token_list *list, *old = NULL;
    struct err why;
    bool right = load(t->path, &version, &list, &why) == 0;
    bool was_failing;

    lock_take(&t->lock);
    if (right) {
        old = t->list;
        t->list = list;
    }
    was_failing = t->failing;
    t->failing = !right;
    t->version = version;
    lock_drop(&t->lock);
    token_list_free(&old);
    if (!right || was_failing)
        t->wrong(right ? NULL : &why);
}

unsigned tokens_look(struct tokens *t, const char *authorization, char name[TOKEN_NAME_MAX])
{
    unsigned scopes;

    if (has_changed(t))
        read_again(t);
    lock_take(&t->lock);
    scopes = token_list_look(t->list, authorization, name);
    lock_drop(&t->lock);
    return scopes;
}
