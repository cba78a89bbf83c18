#include "protocol/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(struct err *err, enum err_kind kind, const char *fmt, ...)
{
    va_list ap;

    err->kind = kind;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    return -1;
}

int err_errno(struct err *err, enum err_kind kind, const char *fmt, ...)
{
    va_list ap;
    char reason[96];
    int saved = errno;
    size_t len;

    err->kind = kind;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    len = strlen(err->text);
    snprintf(err->text + len, sizeof(err->text) - len, ": %s",
             strerror_r(saved, reason, sizeof(reason)));
    return -1;
}

int err_prefix(struct err *err, const char *fmt, ...)
{
    char old[ERR_TEXT_MAX];
    va_list ap;
    size_t len;

    memcpy(old, err->text, sizeof(old));
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    len = strlen(err->text);
    snprintf(err->text + len, sizeof(err->text) - len, ": %s", old);
    return -1;
}

const char *err_kind_name(enum err_kind kind)
{
    switch (kind) {
    case ERR_NONE: return "none";
    case ERR_INPUT: return "input";
    case ERR_LIMIT: return "limit";
    case ERR_REFUSED: return "refused";
    case ERR_NOT_FOUND: return "not-found";
    case ERR_DENIED: return "denied";
    case ERR_UPSTREAM: return "upstream";
    case ERR_DOWN: return "down";
    case ERR_TIMEOUT: return "timeout";
    case ERR_BUSY: return "busy";
    case ERR_THROTTLED: return "throttled";
    case ERR_STORAGE: return "storage";
    case ERR_CORRUPT: return "corrupt";
    case ERR_PROCESS: return "process";
    case ERR_CONFLICT: return "conflict";
    case ERR_CANCELLED: return "cancelled";
    }
    return "unknown";
}
