/* `auth: github_app`: a token of the app's installation at the owner of the repository, good for an
 * hour, and for reading contents only unless it is for a push. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "protocol/base.h"
#include "protocol/jwt.h"
#include "protocol/s3_xml.h"
#include "proxy/credentials/internal.h"
#include "proxy/upstream.h"

enum {
    ANSWER_MAX = 256 * 1024,
    OWNER_MAX = 100,
    /* GitHub takes tokens for ten minutes at most; clocks differ. */
    JWT_AGO_S = 60,
    JWT_LIFE_S = 9 * 60,
    EARLY_S = 5 * 60,
    KEEP_S = 30 * 60,
};

/* One call to the API. */
struct call {
    int status;
    struct bytes body;
};

static int on_head(void *ctx, const struct response_head *head, struct err *err)
{
    struct call *c = ctx;

    (void)err;
    c->status = head->status;
    return 0;
}

static int on_data(void *ctx, const void *data, size_t len, struct err *err)
{
    struct call *c = ctx;

    return bytes_add(&c->body, data, len) == 0
               ? 0
               : err_set(err, ERR_UPSTREAM, "GitHub's API answers at too great a length");
}

static void call_clear(struct call *c)
{
    secret_bytes_clear(&c->body);
}

/* below/rest, behind api_url.  body NULL: GET.  0: *c is filled, whatever the status. */
static int call(const struct credential_tools *tools, const struct upstream_config *u,
                const char *jwt, const char *below, const char *rest, const char *body,
                struct call *c, struct err *err)
{
    char *authorization = xasprintf("Bearer %s", jwt);
    struct upstream_request r = {
        .method = body != NULL ? "POST" : "GET",
        .base_url = u->api_url,
        .repo = below,
        .rest = rest,
        .authorization = authorization,
        .content_type = body != NULL ? "application/json" : NULL,
        .accept = "application/vnd.github+json",
        .body = body,
        .body_len = body != NULL ? strlen(body) : 0,
        .share = UINT32_MAX,
        .head_fn = on_head,
        .data_fn = on_data,
        .ctx = c,
    };
    int rc;

    *c = (struct call){0};
    bytes_init(&c->body, ANSWER_MAX);
    rc = upstream_perform(tools->origins, u, &r, NULL, err);
    if (rc != 0)
        call_clear(c);
    credentials_wipe(&authorization);
    return rc == 0 ? 0 : err_prefix(err, "asking GitHub's API");
}

static json_t *read_json(const struct call *c)
{
    return json_loadb(c->body.data != NULL ? c->body.data : "", c->body.len, JSON_REJECT_DUPLICATES,
                      NULL);
}

static int complain_status(const struct call *c, const char *about, struct err *err)
{
    return err_set(err, ERR_UPSTREAM, "GitHub's API answers with HTTP status %d when asked for %s",
                   c->status, about);
}

/* folder: "orgs" or "users".  1: *id is the installation's; 0: there is none there. */
static int find_below(const struct credential_tools *tools, const struct upstream_config *u,
                      const char *jwt, const char *folder, const char *owner, json_int_t *id,
                      struct err *err)
{
    char *rest = xasprintf("%s/installation", owner);
    json_t *json = NULL;
    struct call c;
    int rc = call(tools, u, jwt, folder, rest, NULL, &c, err);

    free(rest);
    if (rc != 0)
        return -1;
    if (c.status == 200) {
        json = read_json(&c);
        *id = json_integer_value(json_object_get(json, "id"));
        rc =
            *id > 0 ? 1 : err_set(err, ERR_UPSTREAM, "GitHub's API names no id of an installation");
    } else if (c.status != 404) {
        rc = complain_status(&c, "the app's installation", err);
    }
    json_decref(json);
    call_clear(&c);
    return rc;
}

static int find_installation(const struct credential_tools *tools, const struct upstream_config *u,
                             const char *jwt, const char *owner, json_int_t *id, struct err *err)
{
    int rc = find_below(tools, u, jwt, "orgs", owner, id, err);

    if (rc == 0)
        rc = find_below(tools, u, jwt, "users", owner, id, err);
    if (rc == 0)
        return err_set(err, ERR_NOT_FOUND, "pannier's GitHub App is not installed at this owner");
    return rc < 0 ? -1 : 0;
}

static int take_token(const struct call *c, struct credential *out, struct err *err)
{
    json_t *json = read_json(c);
    const char *token = json_string_value(json_object_get(json, "token"));
    const char *ends = json_string_value(json_object_get(json, "expires_at"));
    int rc = 0;

    if (token == NULL) {
        rc = err_set(err, ERR_UPSTREAM, "GitHub's API gives no token");
    } else {
        out->username = xstrdup("x-access-token");
        out->password = xstrdup(token);
        if (ends == NULL || !s3_xml_time(ends, &out->expires))
            out->expires = 0;
        rc = credential_check(out, err);
    }
    json_decref(json);
    return rc;
}

/* What is read with it can't be written with it. */
static const char *permissions(const struct credential_use *use)
{
    return use->push ? "{\"permissions\":{\"contents\":\"write\"}}"
                     : "{\"permissions\":{\"contents\":\"read\"}}";
}

static int make_token(const struct credential_tools *tools, const struct credential_use *use,
                      const char *jwt, json_int_t id, struct credential *out, struct err *err)
{
    char *rest = xasprintf("%" JSON_INTEGER_FORMAT "/access_tokens", id);
    struct call c;
    int rc = call(tools, use->upstream, jwt, "app/installations", rest, permissions(use), &c, err);

    free(rest);
    if (rc != 0)
        return -1;
    rc = c.status == 201 ? take_token(&c, out, err) : complain_status(&c, "a token", err);
    call_clear(&c);
    return rc;
}

/* The first part of the path; it goes into a URL as it is. */
static int owner_of(const char *repo, char out[OWNER_MAX + 1], struct err *err)
{
    size_t len = strcspn(repo, "/");

    for (size_t i = 0; i < len && len <= OWNER_MAX; i++)
        if (!isalnum((unsigned char)repo[i]) && strchr("-_.", repo[i]) == NULL)
            len = 0;
    if (len == 0 || len > OWNER_MAX)
        return err_set(err, ERR_NOT_FOUND, "GitHub has no owners of this name");
    memcpy(out, repo, len);
    out[len] = '\0';
    return 0;
}

static int sign(const struct upstream_config *u, int64_t now, char **jwt, struct err *err)
{
    const struct jwt_claims claims = {u->app_id, now - JWT_AGO_S, now + JWT_LIFE_S};
    struct bytes pem;
    int rc;

    if (secret_file_read(u->private_key_file, "private_key_file", &pem, err) != 0)
        return -1;
    rc = jwt_sign(pem.data != NULL ? pem.data : "", pem.len, &claims, jwt, err);
    secret_bytes_clear(&pem);
    return rc == 0 ? 0 : err_prefix(err, "its private_key_file");
}

static int get(const struct credential_tools *tools, const struct credential_use *use, int64_t now,
               struct credential *out, struct err *err)
{
    char owner[OWNER_MAX + 1], *jwt = NULL;
    json_int_t id = 0;
    int rc;

    if (owner_of(use->repo, owner, err) != 0 || sign(use->upstream, now, &jwt, err) != 0)
        return -1;
    rc = find_installation(tools, use->upstream, jwt, owner, &id, err);
    if (rc == 0)
        rc = make_token(tools, use, jwt, id, out, err);
    credentials_wipe(&jwt);
    return rc;
}

const struct credential_kind credential_github_app = {
    .get = get, .by_owner = true, .early_s = EARLY_S, .keep_s = KEEP_S};
