#include "proxy/manners/throttle.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "protocol/base.h"
#include "proxy/upstream.h"

/* Words that mean it, in any case.  Only those that no other refusal is made of: what is taken for
 * throttling keeps everybody of that credential from upstream. */
static const struct {
    const char *words;
    enum throttle_scope scope;
    uint64_t wait_ms;
} known[] = {
    /* GitHub, status 403 or 429: docs.github.com, "Rate limits for the REST API", which asks for a
     * minute where no header says more. */
    {"you have exceeded a secondary rate limit", THROTTLE_CREDENTIAL, THROTTLE_DEFAULT_MS},
    {"you have triggered an abuse detection mechanism", THROTTLE_CREDENTIAL, THROTTLE_DEFAULT_MS},
    {"api rate limit exceeded for", THROTTLE_CREDENTIAL, THROTTLE_DEFAULT_MS},
    /* GitLab, an ERR pkt: its workhorse writes it when Gitaly's limit of concurrent requests for
     * one repository is reached: docs.gitlab.com, "GitLab.com settings", Gitaly RPC concurrency
     * limits. */
    {"gitlab is currently unable to handle this request due to load", THROTTLE_REPOSITORY, 5000},
    /* GitLab, status 429: its application's limiter. */
    {"this endpoint has been requested too many times", THROTTLE_CREDENTIAL, THROTTLE_DEFAULT_MS},
    /* Bitbucket Cloud, the body of a 429: support.atlassian.com, "API request limits". */
    {"rate limit for this resource has been exceeded", THROTTLE_CREDENTIAL, THROTTLE_DEFAULT_MS},
    /* Gitea and Forgejo have no limiter of their own for git; what stands in front of them answers
     * with 429 or 503, which throttle_of_head() knows. */
};

static bool number(const char *text, uint64_t *out)
{
    char *end;

    if (text == NULL || *text < '0' || *text > '9' || strlen(text) > 15)
        return false;
    *out = strtoull(text, &end, 10);
    return *end == '\0';
}

/* "120", or "Wed, 21 Oct 2026 07:28:00 GMT". */
static bool retry_after(const char *text, int64_t now_s, uint64_t *ms)
{
    struct tm when = {0};
    const char *end;
    uint64_t seconds;
    int64_t at;

    if (text == NULL)
        return false;
    if (number(text, &seconds)) {
        *ms = seconds * 1000;
        return true;
    }
    end = strptime(text, "%a, %d %b %Y %H:%M:%S GMT", &when);
    if (end == NULL || *end != '\0')
        return false;
    at = (int64_t)timegm(&when);
    *ms = at > now_s ? (uint64_t)(at - now_s) * 1000 : 0;
    return true;
}

/* Nothing is left until a moment that a header tells, as a time or as seconds from now. */
static bool used_up(const struct response_head *head, int64_t now_s, uint64_t *ms)
{
    enum { EPOCH_AFTER = 1000000000 }; /* who counts from now doesn't wait for 30 years */
    static const char *const names[][2] = {
        {"x-ratelimit-remaining", "x-ratelimit-reset"}, /* GitHub, Gitea, Bitbucket */
        {"ratelimit-remaining", "ratelimit-reset"},     /* GitLab */
    };

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const char *left = response_head_get(head, names[i][0]);
        uint64_t reset;

        if (left == NULL || strcmp(left, "0") != 0 ||
            !number(response_head_get(head, names[i][1]), &reset))
            continue;
        if (reset >= EPOCH_AFTER)
            reset = reset > (uint64_t)now_s ? reset - (uint64_t)now_s : 0;
        *ms = reset * 1000;
        return true;
    }
    return false;
}

static enum throttle_scope bounded(enum throttle_scope scope, uint64_t *wait_ms)
{
    if (*wait_ms > THROTTLE_MAX_MS)
        *wait_ms = THROTTLE_MAX_MS;
    return *wait_ms > 0 ? scope : THROTTLE_NONE;
}

enum throttle_scope throttle_of_head(const struct response_head *head, int64_t now_s,
                                     uint64_t *wait_ms)
{
    const char *after = response_head_get(head, "retry-after");
    bool asks = head->status == 429 || head->status == 503 || head->status == 403;
    uint64_t other = 0;

    *wait_ms = 0;
    if (used_up(head, now_s, &other) && other > 0)
        *wait_ms = other;
    if (asks && retry_after(after, now_s, &other))
        *wait_ms = other > *wait_ms ? other : *wait_ms;
    else if (head->status == 429 && *wait_ms == 0)
        *wait_ms = THROTTLE_DEFAULT_MS;
    return bounded(THROTTLE_CREDENTIAL, wait_ms);
}

enum throttle_scope throttle_of_text(const char *text, uint64_t *wait_ms)
{
    *wait_ms = 0;
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (strcasestr(text, known[i].words) == NULL)
            continue;
        *wait_ms = known[i].wait_ms;
        return known[i].scope;
    }
    return THROTTLE_NONE;
}
