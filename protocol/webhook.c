#include "protocol/webhook.h"

#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "protocol/base.h"
#include "protocol/bytes.h"
#include "protocol/digest.h"
#include "protocol/smart_http.h"

struct reading {
    const char *base_url;
    const json_t *json; /* an object */
    struct webhook *out;
    struct err *err;
};

/* ---- the body ---- */

static int form_byte(const char **p, const char *end)
{
    char c = *(*p)++;

    if (c == '+')
        return ' ';
    if (c != '%' || end - *p < 2 || hex_value((*p)[0]) < 0 || hex_value((*p)[1]) < 0)
        return (unsigned char)c;
    *p += 2;
    return hex_value((*p)[-2]) << 4 | hex_value((*p)[-1]);
}

/* The value of `payload` in a form.  False: it is none, or has none. */
static bool read_form(const char *p, const char *end, struct bytes *out)
{
    static const char name[] = "payload=";
    size_t skip = sizeof(name) - 1;

    while (p < end) {
        const char *amp = memchr(p, '&', (size_t)(end - p));
        const char *stop = amp != NULL ? amp : end;

        if ((size_t)(stop - p) >= skip && memcmp(p, name, skip) == 0) {
            for (p += skip; p < stop;)
                must(bytes_add(out, &(char){(char)form_byte(&p, stop)}, 1) == 0);
            return true;
        }
        p = amp != NULL ? amp + 1 : end;
    }
    return false;
}

static const char *skip_blanks(const char *p, const char *end)
{
    while (p < end && memchr(" \t\r\n", *p, 4) != NULL)
        p++;
    return p;
}

/* p is at a quote; behind the string that begins there. */
static const char *skip_string(const char *p, const char *end)
{
    for (p++; p < end && *p != '"'; p++)
        p += *p == '\\' && p + 1 < end;
    return p < end ? p + 1 : end;
}

/* Behind the value that begins at p; somewhere, where there is none. */
static const char *skip_value(const char *p, const char *end)
{
    size_t depth = 0;

    while (p < end) {
        bool opens = *p == '{' || *p == '[', closes = *p == '}' || *p == ']';

        if (depth == 0 && (closes || *p == ','))
            return p;
        depth += opens;
        depth -= closes;
        p = *p == '"' ? skip_string(p, end) : p + 1;
        if (closes && depth == 0)
            return p;
    }
    return end;
}

static bool is_name(const char *p, const char *end, const char *name)
{
    size_t len = strlen(name);

    return (size_t)(end - p) == len + 2 && memcmp(p + 1, name, len) == 0;
}

/* Copies JSON without what stands in members called "commits" and "head_commit".  Of a large hook
 * that is nearly all, who pushes chooses it, and a tree of it takes twenty times its bytes. */
static int leave_out_commits(const char *p, const char *end, struct bytes *out)
{
    while (p < end) {
        const char *from = p;

        if (*p == '"')
            p = skip_string(p, end);
        else
            while (p < end && *p != '"')
                p++;
        if (bytes_add(out, from, (size_t)(p - from)) != 0)
            return -1;
        if (!is_name(from, p, "commits") && !is_name(from, p, "head_commit"))
            continue;
        p = skip_blanks(p, end);
        if (p < end && *p == ':') {
            p = skip_value(skip_blanks(p + 1, end), end);
            if (bytes_add_str(out, ":null") != 0)
                return -1;
        }
    }
    return 0;
}

/* Yours to json_decref(); or NULL. */
static json_t *read_json(const char *p, const char *end, struct err *err)
{
    struct bytes text;
    json_error_t why;
    json_t *json = NULL;

    bytes_init(&text, WEBHOOK_JSON_MAX);
    if (leave_out_commits(p, end, &text) != 0) {
        err_set(err, ERR_LIMIT, "it says too much, commits apart");
    } else {
        /* In a description there may be anything. */
        json = json_loadb(text.len > 0 ? text.data : "", text.len, JSON_ALLOW_NUL, &why);
        if (json == NULL) /* jansson's own words may repeat some of the body */
            err_set(err, ERR_INPUT, "the body is no JSON");
    }
    bytes_clear(&text);
    return json;
}

/* An object, yours to json_decref(); or NULL. */
static json_t *read_body(const char *body, size_t len, struct err *err)
{
    const char *end = body + len, *p = skip_blanks(body, end);
    struct bytes form;
    json_t *json;

    bytes_init(&form, len);
    if (p < end && *p != '{' && read_form(p, end, &form)) {
        p = form.data != NULL ? form.data : "";
        end = p + form.len;
    }
    json = read_json(p, end, err);
    bytes_clear(&form);
    if (json == NULL || json_is_object(json))
        return json;
    err_set(err, ERR_INPUT, "the body is no JSON object");
    json_decref(json);
    return NULL;
}

/* A member that is text, without a NUL and of some length; else NULL. */
static const char *text_of(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    const char *text = json_string_value(value);

    return text != NULL && text[0] != '\0' && strlen(text) == json_string_length(value) ? text
                                                                                        : NULL;
}

/* ---- which repository ---- */

/* "https://user@host/path": its host with port, and its path from the slash on. */
struct place {
    const char *host;
    size_t host_len;
    const char *path;
};

static bool place_of(const char *url, struct place *out)
{
    const char *host = strstr(url, "://"), *at;

    if (host == NULL)
        return false;
    host += 3;
    out->host_len = strcspn(host, "/?#");
    at = memrchr(host, '@', out->host_len);
    if (at != NULL) {
        out->host_len -= (size_t)(at + 1 - host);
        host = at + 1;
    }
    out->host = host;
    out->path = host + out->host_len;
    return true;
}

/* Where url is below base_url, from the slash on.  NULL: at another host, or not there
 * (*elsewhere).
 */
static const char *below(const char *base_url, const char *url, bool *elsewhere)
{
    struct place base, there;
    size_t len;

    if (url == NULL || !place_of(base_url, &base) || !place_of(url, &there) ||
        base.host_len != there.host_len || strncasecmp(base.host, there.host, base.host_len) != 0)
        return NULL;
    len = strlen(base.path);
    *elsewhere = strncmp(there.path, base.path, len) != 0 || there.path[len] != '/';
    return *elsewhere ? NULL : there.path + len;
}

/* path (which begins with a slash) as requests for the repository have it. */
static int set_repo(struct reading *r, const char *path)
{
    size_t len = strcspn(path, "?#");
    struct smart_path read;
    struct err ignored;
    char *target;
    bool fits = false;

    while (len > 0 && path[len - 1] == '/')
        len--;
    if (len <= TARGET_MAX) {
        target = xasprintf("/x%.*s/info/refs?service=git-upload-pack", (int)len, path);
        if (smart_path_parse(target, &read, &ignored) == 0) {
            fits = read.service == SERVICE_UPLOAD_PACK_REFS;
            if (fits)
                r->out->repo = xstrdup(read.repo);
            smart_path_clear(&read);
        }
        free(target);
    }
    return fits ? 0
                : err_set(r->err, ERR_INPUT, "the repository has no path that could be asked for");
}

/* url: where it can be cloned or looked at; path: within the host.  Either may be NULL. */
static int find_repo(struct reading *r, const char *url, const char *path)
{
    bool elsewhere = false;
    const char *found = below(r->base_url, url, &elsewhere);
    char *whole;
    int rc;

    if (elsewhere)
        return err_set(r->err, ERR_NOT_FOUND, "the repository isn't one of this upstream's");
    if (found != NULL)
        return set_repo(r, found);
    if (path == NULL)
        return err_set(r->err, ERR_INPUT, "it names no repository");
    whole = xasprintf("/%s", path);
    rc = set_repo(r, whole);
    free(whole);
    return rc;
}

/* ---- which refs ---- */

/* "": none, which hosts write as zeros or null. */
static char *copy_oid(const char *hex)
{
    size_t len = hex != NULL ? strlen(hex) : 0;

    if (len > 2 * DIGEST_MAX || strspn(hex != NULL ? hex : "", "0") == len)
        len = 0;
    for (size_t i = 0; i < len; i++)
        if (hex_value(hex[i]) < 0)
            len = 0;
    return xstrndup(len > 0 ? hex : "", len);
}

static int add_ref(struct reading *r, const char *prefix, const char *name, const char *before,
                   const char *after)
{
    struct webhook *w = r->out;

    if (name == NULL || strlen(name) > WEBHOOK_TEXT_MAX)
        return err_set(r->err, ERR_INPUT, "it names no ref");
    if (w->ref_count == WEBHOOK_REFS_MAX)
        return 0;
    w->refs = xrealloc(w->refs, (w->ref_count + 1) * sizeof(*w->refs));
    w->refs[w->ref_count++] =
        (struct webhook_ref){xasprintf("%s%s", prefix, name), copy_oid(before), copy_oid(after)};
    return 0;
}

static const char *prefix_of(const char *type, const char *name)
{
    if (name != NULL && strncmp(name, "refs/", 5) == 0)
        return "";
    return type != NULL && strcmp(type, "tag") == 0 ? "refs/tags/" : "refs/heads/";
}

/* ---- GitHub, and Gitea and Forgejo, which do as GitHub does ---- */

static int read_github(struct reading *r)
{
    const char *event = r->out->event, *ref = text_of(r->json, "ref");
    const json_t *repo = json_object_get(r->json, "repository");
    int rc;

    if (strcmp(event, "ping") == 0) {
        r->out->kind = WEBHOOK_PING;
        return 0;
    }
    if (strcmp(event, "push") == 0)
        rc = add_ref(r, "", ref, text_of(r->json, "before"), text_of(r->json, "after"));
    else if (strcmp(event, "create") == 0 || strcmp(event, "delete") == 0)
        rc = add_ref(r, prefix_of(text_of(r->json, "ref_type"), ref), ref, NULL,
                     text_of(r->json, "sha"));
    else
        return 0;
    r->out->kind = WEBHOOK_PUSH;
    return rc != 0 ? -1 : find_repo(r, text_of(repo, "clone_url"), text_of(repo, "full_name"));
}

/* ---- GitLab ---- */

static int add_changes(struct reading *r, const json_t *changes, const char *name,
                       const char *before, const char *after)
{
    const json_t *change;
    size_t i;

    json_array_foreach(changes, i, change)
    {
        if (add_ref(r, "", text_of(change, name), text_of(change, before),
                    text_of(change, after)) != 0)
            return -1;
    }
    return 0;
}

/* A push of many refs has no hook of its own for each, or none at all; of the system's hooks there
 * is one of each push, with all of them. */
static int read_gitlab(struct reading *r)
{
    const json_t *repo = json_object_get(r->json, "project");
    const char *kind = r->out->event;
    int rc;

    if (strcmp(kind, "System Hook") == 0) {
        kind = text_of(r->json, "event_name");
        free(r->out->event);
        r->out->event = xasprintf("%.*s", WEBHOOK_TEXT_MAX, kind != NULL ? kind : "");
        kind = r->out->event;
    }
    if (strcmp(kind, "Push Hook") == 0 || strcmp(kind, "Tag Push Hook") == 0 ||
        strcmp(kind, "push") == 0 || strcmp(kind, "tag_push") == 0)
        rc = add_ref(r, "", text_of(r->json, "ref"), text_of(r->json, "before"),
                     text_of(r->json, "after"));
    else if (strcmp(kind, "repository_update") == 0)
        rc = add_changes(r, json_object_get(r->json, "changes"), "ref", "before", "after");
    else
        return 0;
    r->out->kind = WEBHOOK_PUSH;
    return rc != 0
               ? -1
               : find_repo(r, text_of(repo, "git_http_url"), text_of(repo, "path_with_namespace"));
}

/* ---- Bitbucket ---- */

static const char *target_of(const json_t *side)
{
    return text_of(json_object_get(side, "target"), "hash");
}

static int read_bitbucket_cloud(struct reading *r)
{
    const json_t *repo = json_object_get(r->json, "repository"), *change;
    const json_t *html = json_object_get(json_object_get(repo, "links"), "html");
    const json_t *changes = json_object_get(json_object_get(r->json, "push"), "changes");
    size_t i;

    json_array_foreach(changes, i, change)
    {
        const json_t *old = json_object_get(change, "old"), *new = json_object_get(change, "new");
        const json_t *side = json_is_object(new) ? new : old;
        const char *name = text_of(side, "name");

        if (add_ref(r, prefix_of(text_of(side, "type"), name), name, target_of(old),
                    target_of(new)) != 0)
            return -1;
    }
    return find_repo(r, text_of(html, "href"), text_of(repo, "full_name"));
}

/* Its repositories are cloned from "/scm/<project>/<slug>", in lower case, which base_url may
 * have in it. */
static int read_bitbucket_server(struct reading *r)
{
    const json_t *repo = json_object_get(r->json, "repository"), *link;
    const json_t *links = json_object_get(json_object_get(repo, "links"), "clone");
    const char *project = text_of(json_object_get(repo, "project"), "key");
    const char *slug = text_of(repo, "slug"), *url = NULL;
    size_t len = strlen(r->base_url), i;
    char *path = NULL;
    int rc;

    json_array_foreach(links, i, link)
    {
        const char *kind = text_of(link, "name");

        if (kind != NULL && (strcmp(kind, "http") == 0 || strcmp(kind, "https") == 0))
            url = text_of(link, "href");
    }
    if (project != NULL && slug != NULL) {
        bool has_scm = len >= 4 && strcmp(r->base_url + len - 4, "/scm") == 0;

        path = xasprintf("%s%s/%s", has_scm ? "" : "scm/", project, slug);
        for (char *c = path; *c != '\0'; c++)
            if (*c >= 'A' && *c <= 'Z')
                *c += 'a' - 'A';
    }
    rc = add_changes(r, json_object_get(r->json, "changes"), "refId", "fromHash", "toHash");
    if (rc == 0)
        rc = find_repo(r, url, path);
    free(path);
    return rc;
}

static int read_bitbucket(struct reading *r)
{
    const char *event = r->out->event;

    if (strcmp(event, "diagnostics:ping") == 0) {
        r->out->kind = WEBHOOK_PING;
        return 0;
    }
    r->out->kind = WEBHOOK_PUSH;
    if (strcmp(event, "repo:push") == 0)
        return read_bitbucket_cloud(r);
    if (strcmp(event, "repo:refs_changed") == 0 || strcmp(event, "mirror:repo_synchronized") == 0)
        return read_bitbucket_server(r);
    r->out->kind = WEBHOOK_OTHER;
    return 0;
}

/* ---- all of them ---- */

static const char *event_of(enum webhook_forge forge, const struct webhook_headers *headers)
{
    const char *const *v = headers->values;

    switch (forge) {
    case FORGE_AUTO: return NULL;
    case FORGE_GITHUB: return v[WEBHOOK_GITHUB_EVENT];
    case FORGE_GITLAB: return v[WEBHOOK_GITLAB_EVENT];
    case FORGE_GITEA:
        return v[WEBHOOK_GITEA_EVENT] != NULL     ? v[WEBHOOK_GITEA_EVENT]
               : v[WEBHOOK_FORGEJO_EVENT] != NULL ? v[WEBHOOK_FORGEJO_EVENT]
                                                  : v[WEBHOOK_GITHUB_EVENT];
    case FORGE_BITBUCKET: return v[WEBHOOK_EVENT_KEY];
    }
    return NULL;
}

int webhook_parse(enum webhook_forge forge, const struct webhook_headers *headers, const void *body,
                  size_t len, const char *base_url, struct webhook *out, struct err *err)
{
    static int (*const readers[])(struct reading *) = {
        [FORGE_GITHUB] = read_github,
        [FORGE_GITLAB] = read_gitlab,
        [FORGE_GITEA] = read_github,
        [FORGE_BITBUCKET] = read_bitbucket,
    };
    const char *event = event_of(forge, headers);
    struct reading r = {.base_url = base_url, .out = out, .err = err};
    json_t *json;
    int rc;

    if (event == NULL)
        return err_set(err, ERR_INPUT, "no header says what has happened");
    json = read_body(body, len, err);
    if (json == NULL)
        return -1;
    r.json = json;
    *out = (struct webhook){.kind = WEBHOOK_OTHER,
                            .event = xasprintf("%.*s", WEBHOOK_TEXT_MAX, event)};
    rc = readers[forge](&r);
    json_decref(json);
    if (rc != 0)
        webhook_clear(out);
    return rc;
}

void webhook_clear(struct webhook *hook)
{
    for (size_t i = 0; i < hook->ref_count; i++) {
        free(hook->refs[i].name);
        free(hook->refs[i].before);
        free(hook->refs[i].after);
    }
    free(hook->refs);
    free(hook->event);
    free(hook->repo);
    *hook = (struct webhook){.kind = WEBHOOK_OTHER};
}
