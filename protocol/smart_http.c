#include "protocol/smart_http.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"
#include "protocol/bytes.h"

static const char *const service_names[] = {
    [SERVICE_UPLOAD_PACK_REFS] = "upload-pack-refs",
    [SERVICE_UPLOAD_PACK] = "upload-pack",
    [SERVICE_RECEIVE_PACK_REFS] = "receive-pack-refs",
    [SERVICE_RECEIVE_PACK] = "receive-pack",
    [SERVICE_LFS] = "lfs",
    [SERVICE_DUMB] = "dumb",
};

const char *service_name(enum service s)
{
    must((size_t)s < ARRAY_LEN(service_names));
    return service_names[s];
}

/* Escapes ---------------------------------------------------------------------------------- */

/* What stands unescaped in the path that goes upstream.  RFC 3986's unreserved characters, which
 * mean the same with and without an escape ("~user" is one of these), and those of its delimiters
 * that hosts have in the names of repositories and that git sends as they are: "libstdc++",
 * "user@team", "scope:name", "a,b", "key=value".  The other delimiters are escaped, as there are
 * servers to which they mean something: ';' begins a parameter, '$', '(', '*' and '!' are rewritten
 * by some gateways. */
static bool is_literal(unsigned char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("-._~/+@:,=", c) != NULL);
}

static void add_escape(struct bytes *out, unsigned char c)
{
    must(bytes_addf(out, "%%%02X", c) == 0);
}

static void add_escaped(struct bytes *out, const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (is_literal((unsigned char)s[i]))
            must(bytes_add(out, s + i, 1) == 0);
        else
            add_escape(out, (unsigned char)s[i]);
    }
}

/* One byte, escaped or not, from *p (not at end).  -1: a broken escape. */
static int unescape(const char **p, const char *end, unsigned char *c, bool *escaped)
{
    *escaped = **p == '%';
    if (!*escaped) {
        *c = (unsigned char)*(*p)++;
        return 0;
    }
    if (end - *p < 3 || hex_value((*p)[1]) < 0 || hex_value((*p)[2]) < 0)
        return -1;
    *c = (unsigned char)(hex_value((*p)[1]) << 4 | hex_value((*p)[2]));
    *p += 3;
    return 0;
}

/* The path decoded, doubled slashes made one. */
static int decode_path(const char *p, size_t len, struct bytes *out, struct err *err)
{
    const char *end = p + len;
    unsigned char c;
    bool escaped;

    while (p < end) {
        if (unescape(&p, end, &c, &escaped) != 0)
            return err_set(err, ERR_INPUT, "a broken escape in the path");
        if (c < 0x20 || c == 0x7f)
            return err_set(err, ERR_INPUT, "a control byte in the path");
        if (c == '\\' || (c == '/' && escaped))
            return err_set(err, ERR_INPUT, "a backslash or an escaped slash in the path");
        if (c == '#' && !escaped)
            return err_set(err, ERR_INPUT, "a fragment in the request target");
        if (c == '/' && out->len > 0 && out->data[out->len - 1] == '/')
            continue;
        must(bytes_add(out, &c, 1) == 0);
    }
    return 0;
}

static bool is_dots(const char *segment, size_t len)
{
    return (len == 1 || len == 2) && memcmp(segment, "..", len) == 0;
}

static int check_segments(const char *path, struct err *err)
{
    for (const char *p = path; *p != '\0';) {
        size_t len = strcspn(p, "/");

        if (is_dots(p, len))
            return err_set(err, ERR_INPUT, "a '.' or '..' segment in the path");
        p += len;
        p += *p == '/';
    }
    return 0;
}

/* Services --------------------------------------------------------------------------------- */

static bool all_hex(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (hex_value(s[i]) < 0)
            return false;
    }
    return true;
}

/* Is pattern the end of path?  In pattern, '#' is one hex digit and '*' a whole object name's
 * rest: digits hex digits.  Gives where it starts. */
static bool ends_with(const char *path, const char *pattern, size_t digits, const char **at)
{
    const char *star = strchr(pattern, '*');
    size_t len = strlen(pattern) - (star != NULL) + (star != NULL ? digits : 0);
    size_t path_len = strlen(path);
    const char *p;

    if (path_len < len)
        return false;
    p = *at = path + path_len - len;
    for (; *pattern != '\0'; pattern++) {
        if (*pattern == '*') {
            if (!all_hex(p, digits))
                return false;
            p += digits;
        } else {
            if (*pattern == '#' ? hex_value(*p) < 0 : *p != *pattern)
                return false;
            p++;
        }
    }
    return true;
}

/* Ends of paths.  digits: sizes that '*' may have, sha1 and sha256. */
static const struct {
    const char *pattern;
    size_t digits[2];
    enum service service;
} suffixes[] = {
    {"/info/refs", {0, 0}, SERVICE_DUMB}, /* unless the query says otherwise */
    {"/git-upload-pack", {0, 0}, SERVICE_UPLOAD_PACK},
    {"/git-receive-pack", {0, 0}, SERVICE_RECEIVE_PACK},
    {"/HEAD", {0, 0}, SERVICE_DUMB},
    {"/objects/info/packs", {0, 0}, SERVICE_DUMB},
    {"/objects/info/alternates", {0, 0}, SERVICE_DUMB},
    {"/objects/info/http-alternates", {0, 0}, SERVICE_DUMB},
    {"/objects/##/*", {38, 62}, SERVICE_DUMB},
    {"/objects/pack/pack-*.pack", {40, 64}, SERVICE_DUMB},
    {"/objects/pack/pack-*.idx", {40, 64}, SERVICE_DUMB},
};

/* Where does the service begin in path (which starts with the slash behind the upstream)?  NULL:
 * there is none. */
static const char *find_service(const char *path, enum service *service)
{
    const char *at = strstr(path, "/info/lfs/");

    /* First, for what follows it may end in anything. */
    if (at != NULL && at[strlen("/info/lfs/")] != '\0') {
        *service = SERVICE_LFS;
        return at;
    }
    for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
        for (size_t j = 0; j < 2; j++) {
            if (ends_with(path, suffixes[i].pattern, suffixes[i].digits[j], &at)) {
                *service = suffixes[i].service;
                return at;
            }
        }
    }
    return NULL;
}

/* One name=value of a query, decoded, NUL-terminated.  -1: a broken escape or a control byte. */
static int decode_parameter(const char *p, size_t len, struct bytes *out)
{
    const char *end = p + len;
    unsigned char c;
    bool escaped;

    bytes_reset(out);
    while (p < end) {
        if (unescape(&p, end, &c, &escaped) != 0 || c < 0x20 || c == 0x7f)
            return -1;
        must(bytes_add(out, &c, 1) == 0);
    }
    return 0;
}

/* Which service does the query of info/refs name? */
static int refs_service(const char *query, enum service *service, struct err *err)
{
    struct bytes param;
    bool named = false;
    int rc = 0;

    bytes_init(&param, QUERY_MAX);
    for (const char *p = query; rc == 0 && *p != '\0';) {
        size_t len = strcspn(p, "&");
        const char *value;

        if (decode_parameter(p, len, &param) != 0)
            rc = err_set(err, ERR_INPUT, "a broken escape or a control byte in the query");
        p += len;
        p += *p == '&';
        if (rc != 0 || param.len == 0 || strncmp(param.data, "service", 7) != 0 ||
            (param.data[7] != '=' && param.data[7] != '\0'))
            continue;
        value = param.data[7] == '=' ? param.data + 8 : "";
        /* Servers differ in which of two they believe. */
        if (named)
            rc = err_set(err, ERR_INPUT, "two services in the query");
        else if (strcmp(value, "git-upload-pack") == 0)
            *service = SERVICE_UPLOAD_PACK_REFS;
        else if (strcmp(value, "git-receive-pack") == 0)
            *service = SERVICE_RECEIVE_PACK_REFS;
        else
            rc =
                err_set(err, ERR_REFUSED, "a service that is neither upload-pack nor receive-pack");
        named = true;
    }
    bytes_clear(&param);
    return rc;
}

/* The query of an LFS call, as typed, but nothing in it that could end a request line. */
static int add_query(struct bytes *out, const char *query, struct err *err)
{
    const char *end = query + strlen(query);

    must(bytes_add_str(out, "?") == 0);
    for (const char *p = query; p < end;) {
        unsigned char c;
        bool escaped;

        if (unescape(&p, end, &c, &escaped) != 0)
            return err_set(err, ERR_INPUT, "a broken escape in the query");
        if (c < 0x20 || c == 0x7f)
            return err_set(err, ERR_INPUT, "a control byte in the query");
        if (!escaped && (is_literal(c) || strchr("!$&'()*;?", c) != NULL))
            must(bytes_add(out, &c, 1) == 0);
        else
            add_escape(out, c);
    }
    return 0;
}

/* What goes upstream behind the repository.  git's own services get the query that git sends and
 * no other: a parameter that is not passed on can't mean something else there. */
static int write_rest(enum service service, const char *rest, const char *query, struct bytes *out,
                      struct err *err)
{
    add_escaped(out, rest, strlen(rest));
    if (service == SERVICE_UPLOAD_PACK_REFS)
        must(bytes_add_str(out, "?service=git-upload-pack") == 0);
    else if (service == SERVICE_RECEIVE_PACK_REFS)
        must(bytes_add_str(out, "?service=git-receive-pack") == 0);
    else if (service == SERVICE_LFS && *query != '\0')
        return add_query(out, query, err);
    return 0;
}

/* Length of the repository's path without a ".git" that is not the whole last segment. */
static size_t without_dot_git(const char *repo, size_t len)
{
    if (len > 4 && memcmp(repo + len - 4, ".git", 4) == 0 && repo[len - 5] != '/')
        return len - 4;
    return len;
}

static bool is_dot_git(const char *repo, size_t len)
{
    return len == 4 && memcmp(repo, ".git", 4) == 0;
}

static bool ends_in_dots(const char *repo, size_t len)
{
    const char *slash = memrchr(repo, '/', len);
    const char *last = slash != NULL ? slash + 1 : repo;

    return is_dots(last, len - (size_t)(last - repo));
}

/* path is decoded and starts with a slash. */
static int split_path(const char *path, const char *query, struct smart_path *out, struct err *err)
{
    const char *slash = strchr(path + 1, '/');
    const char *repo, *at;
    struct bytes wire, rest;
    size_t repo_len;
    int rc;

    if (path[1] == '\0' || slash == NULL)
        return err_set(err, ERR_NOT_FOUND, "not a git URL");
    if (memchr(path, '@', (size_t)(slash - path)) != NULL)
        return err_set(err, ERR_INPUT, "user information in the upstream's place");
    at = find_service(slash, &out->service);
    if (at == NULL)
        return err_set(err, ERR_NOT_FOUND, "not a git URL");
    if (strcmp(at, "/info/refs") == 0 && refs_service(query, &out->service, err) != 0)
        return -1;
    repo = slash + 1;
    repo_len = at > slash ? (size_t)(at - repo) : 0;
    if (repo_len == 0 || is_dot_git(repo, repo_len))
        return err_set(err, ERR_INPUT, "the repository's path is empty");
    /* "...git" is a name like any other until its ".git" is taken off. */
    if (ends_in_dots(repo, without_dot_git(repo, repo_len)))
        return err_set(err, ERR_INPUT, "a '.' or '..' segment in the path");

    bytes_init(&wire, 3 * (size_t)TARGET_MAX);
    bytes_init(&rest, 3 * (size_t)(TARGET_MAX + QUERY_MAX));
    add_escaped(&wire, repo, repo_len);
    rc = write_rest(out->service, at + 1, query, &rest, err);
    if (rc == 0) {
        out->upstream = xstrndup(path + 1, (size_t)(slash - path - 1));
        out->repo = xstrndup(repo, without_dot_git(repo, repo_len));
        out->wire_repo = bytes_take(&wire, NULL);
        out->wire_rest = bytes_take(&rest, NULL);
    }
    bytes_clear(&wire);
    bytes_clear(&rest);
    return rc;
}

int smart_path_parse(const char *target, struct smart_path *out, struct err *err)
{
    size_t path_len = strcspn(target, "?");
    const char *query = target + path_len + (target[path_len] == '?');
    struct bytes path;
    int rc;

    *out = (struct smart_path){0};
    if (strlen(target) > TARGET_MAX || strlen(query) > QUERY_MAX)
        return err_set(err, ERR_LIMIT, "the request target is longer than %d bytes",
                       strlen(target) > TARGET_MAX ? TARGET_MAX : QUERY_MAX);
    if (target[0] != '/')
        return err_set(err, ERR_INPUT, "the request target does not begin with a slash");
    bytes_init(&path, TARGET_MAX);
    rc = decode_path(target, path_len, &path, err);
    if (rc == 0)
        rc = check_segments(path.data, err);
    if (rc == 0)
        rc = split_path(path.data, query, out, err);
    bytes_clear(&path);
    return rc;
}

void smart_path_clear(struct smart_path *p)
{
    free(p->upstream);
    free(p->repo);
    free(p->wire_repo);
    free(p->wire_rest);
    *p = (struct smart_path){0};
}

void repo_id_of(const char *upstream, const char *repo, struct key *out)
{
    struct digest *d = digest_new(HASH_SHA256);

    digest_update(d, upstream,
                  strlen(upstream) + 1); /* the NUL keeps "a/b" + "c" off "a" + "b/c" */
    digest_update(d, repo, strlen(repo));
    digest_final(d, out->raw);
    digest_free(d);
}

/* Headers ---------------------------------------------------------------------------------- */

/* A decimal number of len digits; -1 for anything else.  Past 9 it does not matter how far. */
static int version_number(const char *s, size_t len)
{
    if (len == 0 || strspn(s, "0123456789") < len || (len > 1 && s[0] == '0'))
        return -1;
    return len > 1 ? 10 : s[0] - '0';
}

int git_protocol_version(const char *header)
{
    static const char field[] = "version=";
    const size_t n = sizeof(field) - 1;
    int version = 0;

    if (header == NULL)
        return 0;
    for (const char *p = header; *p != '\0';) {
        size_t len = strcspn(p, ":");

        /* The highest one counts, as in git. */
        if (len > n && strncmp(p, field, n) == 0) {
            int v = version_number(p + n, len - n);

            version = v > version ? v : version;
        }
        p += len;
        p += *p == ':';
    }
    return version > 2 ? 2 : version;
}

const char *content_type_response(enum service s)
{
    switch (s) {
    case SERVICE_UPLOAD_PACK_REFS: return "application/x-git-upload-pack-advertisement";
    case SERVICE_UPLOAD_PACK: return "application/x-git-upload-pack-result";
    case SERVICE_RECEIVE_PACK_REFS: return "application/x-git-receive-pack-advertisement";
    case SERVICE_RECEIVE_PACK: return "application/x-git-receive-pack-result";
    default: must_failed("a service with a content type", __FILE__, __LINE__);
    }
}

const char *content_type_request(enum service s)
{
    must(s == SERVICE_UPLOAD_PACK || s == SERVICE_RECEIVE_PACK);
    return s == SERVICE_UPLOAD_PACK ? "application/x-git-upload-pack-request"
                                    : "application/x-git-receive-pack-request";
}
