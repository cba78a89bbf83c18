#include "cache/shared/s3_credentials.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "cache/lock.h"
#include "protocol/base.h"
#include "protocol/s3_xml.h"

enum {
    REFRESH_BEFORE_S = 5 * 60,
    FILE_AGAIN_S = 60,
    FAILED_AGAIN_S = 10, /* who asks meanwhile is told at once */
    FETCH_TIMEOUT_MS = 5000,
    IDENTITY_MAX = 16 * 1024,
    FILE_LINE_MAX = 8 * 1024,
    FILE_LINES_MAX = 10000,
    ROLE_MAX = 128,
};

enum source { FROM_CONFIG, FROM_FILE, FROM_ENVIRONMENT, FROM_WEB_IDENTITY, FROM_MACHINE };

struct s3_credentials {
    enum source source;
    char *file, *region;
    struct s3_http *http;
    struct lock lock;
    pthread_cond_t fetched;
    struct s3_keys keys; /* access_key NULL: none yet */
    int64_t expires;     /* 0: never */
    int64_t retry_at;    /* not before, as it failed */
    struct err failure;
    bool fetching;
};

/* ---- keys ---- */

void s3_keys_clear(struct s3_keys *keys)
{
    if (keys->secret_key != NULL)
        explicit_bzero((char *)keys->secret_key, strlen(keys->secret_key));
    free((char *)keys->access_key);
    free((char *)keys->secret_key);
    free((char *)keys->session_token);
    *keys = (struct s3_keys){0};
}

static bool is_set(const char *s)
{
    return s != NULL && s[0] != '\0';
}

static void copy_keys(const char *access, const char *secret, const char *token,
                      struct s3_keys *out)
{
    out->access_key = xstrdup(access);
    out->secret_key = xstrdup(secret);
    out->session_token = is_set(token) ? xstrdup(token) : NULL;
}

/* They go into headers as they are. */
static bool are_usable(const struct s3_keys *k)
{
    const char *all[] = {k->access_key, k->secret_key, k->session_token};

    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        for (const char *p = all[i]; p != NULL && *p != '\0'; p++)
            if (*p <= ' ' || *p > '~')
                return false;
    }
    return is_set(k->access_key) && is_set(k->secret_key);
}

/* ---- from a file ---- */

static char *trim(char *s)
{
    size_t len;

    s += strspn(s, " \t\r\n");
    len = strlen(s);
    while (len > 0 && strchr(" \t\r\n", s[len - 1]) != NULL)
        s[--len] = '\0';
    return s;
}

static void take_line(char *line, const char *profile, bool *ours, struct s3_keys *out)
{
    static const char *const names[] = {"aws_access_key_id", "aws_secret_access_key",
                                        "aws_session_token"};
    const char **values[] = {&out->access_key, &out->secret_key, &out->session_token};
    char *equals, *name = trim(line);
    size_t len = strlen(name);

    if (name[0] == '[' && name[len - 1] == ']') {
        name[len - 1] = '\0';
        *ours = strcmp(trim(name + 1), profile) == 0;
        return;
    }
    equals = strchr(name, '=');
    if (!*ours || equals == NULL || name[0] == '#' || name[0] == ';')
        return;
    *equals = '\0';
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(trim(name), names[i]) == 0) {
            free((char *)*values[i]);
            *values[i] = xstrdup(trim(equals + 1));
        }
    }
}

static int read_file(const char *path, struct s3_keys *out, struct err *err)
{
    const char *profile = getenv("AWS_PROFILE");
    FILE *f = fopen(path, "re");
    char line[FILE_LINE_MAX];
    bool ours = false;

    if (!is_set(profile))
        profile = "default";
    if (f == NULL)
        return err_errno(err, ERR_INPUT, "the S3 credentials file %s can't be read", path);
    for (int lines = 0; lines < FILE_LINES_MAX && fgets(line, sizeof(line), f) != NULL; lines++)
        take_line(line, profile, &ours, out);
    fclose(f);
    explicit_bzero(line, sizeof(line));
    if (are_usable(out))
        return 0;
    s3_keys_clear(out);
    return err_set(err, ERR_INPUT, "the S3 credentials file %s has no keys for profile %s", path,
                   profile);
}

/* ---- from services ---- */

/* The body of a 200. */
static int fetch(struct s3_credentials *c, const char *method, const char *url, const char *header,
                 struct bytes *out, struct err *err)
{
    struct http_reply reply;
    struct http_call call = {.method = method,
                             .url = url,
                             .headers = &header,
                             .header_count = header != NULL,
                             .deadline_ms = now_ms() + FETCH_TIMEOUT_MS};
    bool again;
    int rc;

    http_reply_init(&reply);
    rc = s3_http_perform(c->http, &call, &reply, &again, err);
    if (rc == 0 && reply.status != 200)
        rc = err_set(err, ERR_DENIED, "status %d", reply.status);
    if (rc == 0 &&
        bytes_add(out, reply.body.data != NULL ? reply.body.data : "", reply.body.len) != 0)
        rc = err_set(err, ERR_UPSTREAM, "the answer is too long");
    http_reply_clear(&reply);
    return rc;
}

struct fetched {
    struct s3_keys keys;
    int64_t expires;
};

static int take_element(void *ctx, const char *path, const char *text)
{
    static const char parent[] =
        "AssumeRoleWithWebIdentityResponse/AssumeRoleWithWebIdentityResult/Credentials/";
    struct fetched *f = ctx;
    const char *name = path + strlen(parent);

    if (strncmp(path, parent, strlen(parent)) != 0)
        return 0;
    if (strcmp(name, "AccessKeyId") == 0 && f->keys.access_key == NULL)
        f->keys.access_key = xstrdup(text);
    else if (strcmp(name, "SecretAccessKey") == 0 && f->keys.secret_key == NULL)
        f->keys.secret_key = xstrdup(text);
    else if (strcmp(name, "SessionToken") == 0 && f->keys.session_token == NULL)
        f->keys.session_token = xstrdup(text);
    else if (strcmp(name, "Expiration") == 0)
        s3_xml_time(text, &f->expires);
    return 0;
}

static char *read_identity(const char *path, struct err *err)
{
    char text[IDENTITY_MAX];
    FILE *f = fopen(path, "re");
    size_t len;

    if (f == NULL) {
        err_errno(err, ERR_DENIED, "the web identity token %s can't be read", path);
        return NULL;
    }
    len = fread(text, 1, sizeof(text) - 1, f);
    fclose(f);
    text[len] = '\0';
    return xstrdup(trim(text));
}

static int fetch_by_web_identity(struct s3_credentials *c, struct fetched *out, struct err *err)
{
    const char *endpoint = getenv("AWS_ENDPOINT_URL_STS"),
               *session = getenv("AWS_ROLE_SESSION_NAME");
    char *identity = read_identity(getenv("AWS_WEB_IDENTITY_TOKEN_FILE"), err);
    struct s3_field query[] = {
        {"Action", "AssumeRoleWithWebIdentity"},
        {"Version", "2011-06-15"},
        {"RoleArn", getenv("AWS_ROLE_ARN")},
        {"RoleSessionName", is_set(session) ? session : "pannier"},
        {"WebIdentityToken", identity},
    };
    struct bytes body;
    char *target, *url;
    int rc;

    if (identity == NULL)
        return -1;
    bytes_init(&body, HTTP_BODY_MAX);
    target = s3_target(
        &(struct s3_request){.path = "/", .query = query, .query_count = ARRAY_LEN(query)});
    url = is_set(endpoint) ? xasprintf("%s%s", endpoint, target)
                           : xasprintf("https://sts.%s.amazonaws.com%s", c->region, target);
    rc = fetch(c, "GET", url, NULL, &body, err);
    if (rc == 0)
        rc = s3_xml_walk(body.data, body.len, take_element, out, err);
    bytes_clear(&body);
    free(url);
    free(target);
    free(identity);
    return rc == 0 ? 0 : err_prefix(err, "changing the web identity for S3 keys");
}

static int take_json(const struct bytes *body, struct fetched *out, struct err *err)
{
    json_t *json = json_loadb(body->data != NULL ? body->data : "", body->len, 0, NULL);
    const char *access = json_string_value(json_object_get(json, "AccessKeyId"));
    const char *secret = json_string_value(json_object_get(json, "SecretAccessKey"));
    const char *expires = json_string_value(json_object_get(json, "Expiration"));
    int rc = 0;

    if (!is_set(access) || !is_set(secret) || expires == NULL ||
        !s3_xml_time(expires, &out->expires))
        rc = err_set(err, ERR_UPSTREAM, "its answer holds no keys");
    else
        copy_keys(access, secret, json_string_value(json_object_get(json, "Token")), &out->keys);
    json_decref(json);
    return rc;
}

/* GET below .../security-credentials/ */
static int ask_machine(struct s3_credentials *c, const char *endpoint, const char *token,
                       const char *name, struct bytes *out, struct err *err)
{
    char *url = xasprintf("%s/latest/meta-data/iam/security-credentials/%s", endpoint, name);
    char *header = xasprintf("X-aws-ec2-metadata-token: %s", token);
    int rc = fetch(c, "GET", url, header, out, err);

    free(header);
    free(url);
    return rc;
}

static int fetch_from_machine(struct s3_credentials *c, struct fetched *out, struct err *err)
{
    const char *endpoint = getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    struct bytes token, role, body;
    char *url;
    int rc;

    if (!is_set(endpoint))
        endpoint = "http://169.254.169.254";
    bytes_init(&token, IDENTITY_MAX);
    bytes_init(&role, ROLE_MAX);
    bytes_init(&body, HTTP_BODY_MAX);
    url = xasprintf("%s/latest/api/token", endpoint);
    rc = fetch(c, "PUT", url, "X-aws-ec2-metadata-token-ttl-seconds: 300", &token, err);
    if (rc == 0 && (token.len == 0 || strpbrk(token.data, "\r\n") != NULL))
        rc = err_set(err, ERR_UPSTREAM, "its token makes no sense");
    if (rc == 0)
        rc = ask_machine(c, endpoint, token.data, "", &role, err);
    if (rc == 0 && (role.len == 0 || strpbrk(role.data, "/\r\n? ") != NULL))
        rc = err_set(err, ERR_UPSTREAM, "the name of its role makes no sense");
    if (rc == 0)
        rc = ask_machine(c, endpoint, token.data, role.data, &body, err);
    if (rc == 0)
        rc = take_json(&body, out, err);
    free(url);
    bytes_clear(&body);
    bytes_clear(&role);
    bytes_clear(&token);
    return rc == 0 ? 0
                   : err_prefix(err, "no S3 keys in the configuration, a file or the environment, "
                                     "nor from the machine's metadata service");
}

/* ---- whichever it is ---- */

static int fetch_keys(struct s3_credentials *c, struct fetched *out, struct err *err)
{
    int rc = c->source == FROM_FILE           ? read_file(c->file, &out->keys, err)
             : c->source == FROM_WEB_IDENTITY ? fetch_by_web_identity(c, out, err)
                                              : fetch_from_machine(c, out, err);

    if (rc == 0 && !are_usable(&out->keys))
        rc = err_set(err, ERR_DENIED, "the S3 keys that came make no sense");
    if (rc == 0 && c->source == FROM_FILE)
        out->expires = time(NULL) + FILE_AGAIN_S + REFRESH_BEFORE_S;
    if (rc != 0) {
        err->kind = ERR_DENIED;
        s3_keys_clear(&out->keys);
    }
    return rc;
}

/* One thread fetches; on failure the old keys stay for as long as they are good. */
static bool refresh_locked(struct s3_credentials *c)
{
    struct fetched f = {0};
    struct err err;
    int rc;

    c->fetching = true;
    lock_drop(&c->lock);
    rc = fetch_keys(c, &f, &err);
    lock_take(&c->lock);
    c->fetching = false;
    if (rc == 0) {
        s3_keys_clear(&c->keys);
        c->keys = f.keys;
        c->expires = f.expires;
        c->retry_at = 0;
    } else {
        c->failure = err;
        c->retry_at = time(NULL) + FAILED_AGAIN_S;
    }
    pthread_cond_broadcast(&c->fetched);
    return rc == 0;
}

int s3_credentials_get(struct s3_credentials *c, struct s3_keys *out, struct err *err)
{
    int64_t now = time(NULL);
    bool good;

    lock_take(&c->lock);
    for (;;) {
        bool fresh =
            c->keys.access_key != NULL && (c->expires == 0 || now < c->expires - REFRESH_BEFORE_S);

        good = fresh || (c->keys.access_key != NULL && now < c->expires);
        if (fresh || now < c->retry_at || (good && c->fetching))
            break;
        if (c->fetching) {
            lock_wait(&c->lock, &c->fetched);
        } else if (refresh_locked(c)) {
            good = true; /* also if they live shortly, or our clock is wrong */
            break;
        }
        now = time(NULL);
    }
    if (good)
        copy_keys(c->keys.access_key, c->keys.secret_key, c->keys.session_token, out);
    else
        *err = c->failure;
    lock_drop(&c->lock);
    return good ? 0 : -1;
}

bool s3_credentials_distrust(struct s3_credentials *c)
{
    if (c->source == FROM_CONFIG || c->source == FROM_ENVIRONMENT)
        return false;
    lock_take(&c->lock);
    c->expires = 1;
    lock_drop(&c->lock);
    return true;
}

/* ---- opening ---- */

static int choose(struct s3_credentials *c, const struct object_store_config *config,
                  struct err *err)
{
    const char *access = getenv("AWS_ACCESS_KEY_ID"), *secret = getenv("AWS_SECRET_ACCESS_KEY");

    if (is_set(config->access_key) && is_set(config->secret_key)) {
        c->source = FROM_CONFIG;
        copy_keys(config->access_key, config->secret_key, config->session_token, &c->keys);
    } else if (is_set(config->credentials_file)) {
        struct s3_keys keys = {0};

        c->source = FROM_FILE;
        c->file = xstrdup(config->credentials_file);
        if (read_file(c->file, &keys, err) != 0)
            return -1;
        s3_keys_clear(&keys);
    } else if (is_set(access) && is_set(secret)) {
        c->source = FROM_ENVIRONMENT;
        copy_keys(access, secret, getenv("AWS_SESSION_TOKEN"), &c->keys);
    } else {
        c->source = is_set(getenv("AWS_WEB_IDENTITY_TOKEN_FILE")) && is_set(getenv("AWS_ROLE_ARN"))
                        ? FROM_WEB_IDENTITY
                        : FROM_MACHINE;
    }
    if (c->keys.access_key != NULL && !are_usable(&c->keys))
        return err_set(err, ERR_INPUT, "the S3 keys hold bytes that no key has");
    return 0;
}

int s3_credentials_open(const struct object_store_config *config, struct s3_http *http,
                        struct s3_credentials **out, struct err *err)
{
    struct s3_credentials *c = xcalloc(1, sizeof(*c));

    c->http = http;
    c->region = xstrdup(config->region);
    lock_init(&c->lock, LOCK_S3_CREDENTIALS);
    lock_cond_init(&c->fetched);
    if (choose(c, config, err) != 0) {
        s3_credentials_free(&c);
        return -1;
    }
    *out = c;
    return 0;
}

void s3_credentials_free(struct s3_credentials **cp)
{
    struct s3_credentials *c = *cp;

    *cp = NULL;
    if (c == NULL)
        return;
    s3_keys_clear(&c->keys);
    free(c->file);
    free(c->region);
    pthread_cond_destroy(&c->fetched);
    lock_clear(&c->lock);
    free(c);
}
