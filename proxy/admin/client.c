#include "proxy/admin/client.h"

#include <curl/curl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "protocol/base.h"

enum {
    REPLY_MAX_BYTES = 64 << 20, /* a page has at most 1000 entries */
    CONNECT_TIMEOUT_MS = 10 * 1000,
    RETRY_AFTER_MAX_S = 24 * 3600, /* nobody waits for longer */
};

struct client {
    CURL *curl;          /* keeps its connection */
    char *base;          /* without a slash at the end */
    char *authorization; /* the whole header line; NULL: none */
};

int client_new(const char *url, const char *token, struct client **out, struct err *err)
{
    struct client *c;
    size_t len = strlen(url);

    if (strncasecmp(url, "http://", 7) != 0 && strncasecmp(url, "https://", 8) != 0)
        return err_set(err, ERR_INPUT,
                       "--admin is not a URL of http or https; write for instance "
                       "http://127.0.0.1:8081");
    must(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
    c = xcalloc(1, sizeof(*c));
    c->curl = curl_easy_init();
    must(c->curl != NULL);
    while (len > 0 && url[len - 1] == '/')
        len--;
    c->base = xstrndup(url, len);
    if (token != NULL)
        c->authorization = xasprintf("Authorization: Bearer %s", token);
    *out = c;
    return 0;
}

void client_free(struct client **cp)
{
    struct client *c = *cp;

    *cp = NULL;
    if (c == NULL)
        return;
    curl_easy_cleanup(c->curl);
    if (c->authorization != NULL)
        explicit_bzero(c->authorization, strlen(c->authorization));
    free(c->authorization);
    free(c->base);
    free(c);
    curl_global_cleanup();
}

void client_reply_clear(struct client_reply *r)
{
    bytes_clear(&r->body);
}

static size_t on_data(char *data, size_t size, size_t count, void *ctx)
{
    return bytes_add(ctx, data, size * count) == 0 ? size * count : 0;
}

static struct curl_slist *headers_for(const struct client *c, bool body)
{
    struct curl_slist *list = NULL;

    if (c->authorization != NULL)
        list = curl_slist_append(list, c->authorization);
    if (body)
        list = curl_slist_append(list, "Content-Type: application/json");
    return list;
}

int client_call(struct client *c, const char *method, const char *path, const char *body,
                size_t body_len, struct client_reply *out, struct err *err)
{
    char *url = xasprintf("%s/api/v1%s", c->base, path), words[CURL_ERROR_SIZE] = "";
    struct curl_slist *headers = headers_for(c, body != NULL);
    CURLcode code;
    curl_off_t retry_after_s = 0;
    long status = 0;

    out->status = 0;
    out->retry_after_s = 0;
    bytes_init(&out->body, REPLY_MAX_BYTES);
    curl_easy_reset(c->curl);
    curl_easy_setopt(c->curl, CURLOPT_URL, url);
    curl_easy_setopt(c->curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(c->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c->curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
    curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c->curl, CURLOPT_USERAGENT, "pannier/" PANNIER_VERSION);
    curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, words);
    curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, &out->body);
    if (body != NULL) {
        curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, body);
        curl_easy_setopt(c->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body_len);
    }
    code = curl_easy_perform(c->curl);
    curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(c->curl, CURLINFO_RETRY_AFTER, &retry_after_s);
    curl_slist_free_all(headers);
    free(url);
    out->status = (int)status;
    out->retry_after_s = retry_after_s > 0 && retry_after_s < RETRY_AFTER_MAX_S
                             ? (unsigned)retry_after_s
                         : retry_after_s > 0 ? RETRY_AFTER_MAX_S
                                             : 0;
    if (code == CURLE_OK)
        return 0;
    bytes_clear(&out->body);
    if (code == CURLE_WRITE_ERROR)
        return err_set(err, ERR_LIMIT, "%s says more than is taken", c->base);
    return err_set(err, ERR_UPSTREAM, "%s can't be reached: %s", c->base,
                   words[0] != '\0' ? words : curl_easy_strerror(code));
}
