#include "protocol/base64.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

static const char USUAL[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char FOR_URLS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static char *encode(const uint8_t *in, size_t len, const char *alphabet, bool pad)
{
    char *out = xmalloc((len + 2) / 3 * 4 + 1), *to = out;

    for (size_t i = 0; i < len; i += 3) {
        size_t n = len - i < 3 ? len - i : 3;
        uint32_t three = (uint32_t)in[i] << 16 | (n > 1 ? (uint32_t)in[i + 1] << 8 : 0) |
                         (n > 2 ? (uint32_t)in[i + 2] : 0);

        for (size_t j = 0; j < 4; j++) {
            if (j <= n)
                *to++ = alphabet[three >> (18 - 6 * j) & 63];
            else if (pad)
                *to++ = '=';
        }
    }
    *to = '\0';
    return out;
}

char *base64_encode(const void *data, size_t len)
{
    return encode(data, len, USUAL, true);
}

char *base64url_encode(const void *data, size_t len)
{
    return encode(data, len, FOR_URLS, false);
}

char *base64_decode(const char *text, size_t *len)
{
    size_t digits = strspn(text, USUAL), padding = strspn(text + digits, "=");
    uint8_t *out, *to;
    uint32_t bits = 0;

    if (text[digits + padding] != '\0' || digits % 4 == 1 || padding > 2 ||
        (padding > 0 && (digits + padding) % 4 != 0))
        return NULL;
    out = to = xmalloc(digits / 4 * 3 + 4);
    for (size_t i = 0; i < digits; i++) {
        bits = bits << 6 | (uint32_t)(strchr(USUAL, text[i]) - USUAL);
        if (i % 4 > 0)
            *to++ = (uint8_t)(bits >> (6 - 2 * (i % 4)));
    }
    *len = (size_t)(to - out);
    *to = '\0';
    return (char *)out;
}
