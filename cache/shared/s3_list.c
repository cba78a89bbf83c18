#include <stdlib.h>
#include <string.h>

#include "cache/shared/s3.h"
#include "protocol/base.h"
#include "protocol/s3_xml.h"

enum {
    TOKEN_MAX = 4096,
    ENCODED_MAX = 3 * (2 * OBJECT_KEY_MAX) + 1,
};

struct listing {
    struct s3 *s;
    const char *prefix;
    object_list_fn *fn;
    void *ctx;
    struct object_info info;
    char encoded[ENCODED_MAX]; /* "": longer than any key of ours */
    char last[ENCODED_MAX];    /* key of all, decoded, ours or not */
    char token[TOKEN_MAX];
    bool more;   /* pages */
    bool enough; /* for fn */
};

/* False for what can't be a key of ours: it has a '+' for a blank, or a NUL. */
static bool decode(const char *in, char *out)
{
    for (; *in != '\0'; in++) {
        int high, low;

        if (*in == '+')
            return false;
        if (*in != '%') {
            *out++ = *in;
            continue;
        }
        high = hex_value(in[1]);
        low = high < 0 ? -1 : hex_value(in[2]);
        if (low < 0 || (high | low) == 0)
            return false;
        *out++ = (char)(high << 4 | low);
        in += 2;
    }
    *out = '\0';
    return true;
}

static int end_object(struct listing *l)
{
    char stored[ENCODED_MAX];
    const char *key;
    int enough = 0;

    if (l->encoded[0] != '\0' && decode(l->encoded, stored)) {
        strcpy(l->last, stored);
        key = object_listed_key(stored, l->s->prefix, l->prefix);
        if (key != NULL)
            enough = l->fn(l->ctx, key, &l->info);
    }
    l->info = (struct object_info){0};
    l->encoded[0] = '\0';
    l->enough = enough != 0;
    return enough;
}

static int take_element(void *ctx, const char *path, const char *text)
{
    static const char root[] = "ListBucketResult/", contents[] = "Contents/";
    struct listing *l = ctx;

    if (strncmp(path, root, strlen(root)) != 0)
        return 0;
    path += strlen(root);
    if (strcmp(path, "IsTruncated") == 0)
        l->more = strcmp(text, "true") == 0;
    else if (strcmp(path, "NextContinuationToken") == 0 && strlen(text) < sizeof(l->token))
        strcpy(l->token, text);
    else if (strcmp(path, "Contents") == 0)
        return end_object(l);
    if (strncmp(path, contents, strlen(contents)) != 0)
        return 0;
    path += strlen(contents);
    if (strcmp(path, "Key") == 0 && strlen(text) < sizeof(l->encoded))
        strcpy(l->encoded, text);
    else if (strcmp(path, "Size") == 0)
        l->info.size = strtoull(text, NULL, 10);
    else if (strcmp(path, "ETag") == 0 && strlen(text) < OBJECT_ETAG_MAX)
        s3_copy_etag(text, l->info.etag);
    else if (strcmp(path, "LastModified") == 0)
        s3_xml_time(text, &l->info.modified);
    return 0;
}

/* from: where the page before ended, as a token or, if there was none, as a key. */
static int list_page(struct listing *l, const char *token, const char *from, struct err *err)
{
    struct s3_ask ask = {.method = "GET"};
    char *prefix = xasprintf("%s%s", l->s->prefix, l->prefix);
    struct s3_answer a;
    int rc;

    s3_ask_query(&ask, "list-type", "2");
    s3_ask_query(&ask, "encoding-type", "url");
    s3_ask_query(&ask, "prefix", prefix);
    if (token[0] != '\0')
        s3_ask_query(&ask, "continuation-token", token);
    else if (from[0] != '\0')
        s3_ask_query(&ask, "start-after", from);
    s3_answer_init(&a);
    rc = s3_ask(l->s, &ask, &a, err);
    /* The bucket itself: whatever the words of its absence, no object is meant. */
    if (rc != 0 && err->kind == ERR_NOT_FOUND)
        err->kind = ERR_REFUSED;
    if (rc == 0 && s3_xml_walk(a.reply.body.data != NULL ? a.reply.body.data : "", a.reply.body.len,
                               take_element, l, err) != 0)
        rc = err_prefix(err, "%s", l->s->endpoint);
    s3_answer_clear(&a);
    free(prefix);
    return rc;
}

int s3_list(void *self, const char *prefix, object_list_fn *fn, void *ctx, struct err *err)
{
    struct listing *l = xcalloc(1, sizeof(*l));
    char *token = xcalloc(1, TOKEN_MAX), *from = xcalloc(1, ENCODED_MAX);
    int rc;

    *l = (struct listing){.s = self, .prefix = prefix, .fn = fn, .ctx = ctx};
    for (;;) {
        l->more = false;
        l->token[0] = '\0';
        rc = list_page(l, token, from, err);
        if (rc != 0 || l->enough || !l->more)
            break;
        if (strcmp(l->last, from) == 0 &&
            strcmp(l->token, token) == 0) { /* it would go on for ever */
            rc = err_set(err, ERR_UPSTREAM, "%s: a page of a list brings nothing new",
                         l->s->endpoint);
            break;
        }
        strcpy(token, l->token);
        strcpy(from, l->last);
    }
    free(from);
    free(token);
    free(l);
    return rc;
}
