#include "protocol/digest.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "protocol/base.h"

static const struct {
    const char *name;
    size_t size;
    const EVP_MD *(*md)(void);
} algos[] = {
    [HASH_SHA1] = {"sha1", SHA1_SIZE, EVP_sha1},
    [HASH_SHA256] = {"sha256", SHA256_SIZE, EVP_sha256},
};

struct digest {
    EVP_MD_CTX *ctx;
};

size_t hash_size(enum hash_algo algo)
{
    must((size_t)algo < ARRAY_LEN(algos));
    return algos[algo].size;
}

const char *hash_name(enum hash_algo algo)
{
    must((size_t)algo < ARRAY_LEN(algos));
    return algos[algo].name;
}

struct digest *digest_new(enum hash_algo algo)
{
    struct digest *d = xmalloc(sizeof(*d));

    must((size_t)algo < ARRAY_LEN(algos));
    d->ctx = EVP_MD_CTX_new();
    must(d->ctx != NULL);
    must(EVP_DigestInit_ex(d->ctx, algos[algo].md(), NULL) == 1);
    return d;
}

void digest_free(struct digest *d)
{
    if (d == NULL)
        return;
    EVP_MD_CTX_free(d->ctx);
    free(d);
}

void digest_update(struct digest *d, const void *data, size_t len)
{
    must(EVP_DigestUpdate(d->ctx, data, len) == 1);
}

void digest_final(struct digest *d, uint8_t *out)
{
    must(EVP_DigestFinal_ex(d->ctx, out, NULL) == 1);
}

void key_of(const void *data, size_t len, struct key *out)
{
    must(EVP_Digest(data, len, out->raw, NULL, EVP_sha256(), NULL) == 1);
}

void key_hmac(const struct key *secret, const void *data, size_t len, struct key *out)
{
    must(HMAC(EVP_sha256(), secret->raw, (int)sizeof(secret->raw), data, len, out->raw, NULL) !=
         NULL);
}

void key_hmac_text(const char *secret, const void *data, size_t len, struct key *out)
{
    key_hmac_bytes(secret, strlen(secret), data, len, out);
}

void key_hmac_bytes(const void *secret, size_t secret_len, const void *data, size_t len,
                    struct key *out)
{
    must(secret_len <= INT_MAX);
    must(HMAC(EVP_sha256(), secret, (int)secret_len, data, len, out->raw, NULL) != NULL);
}

bool key_equal(const struct key *a, const struct key *b)
{
    /* Fingerprints of credentials are compared here: the time must not tell where they differ. */
    return CRYPTO_memcmp(a->raw, b->raw, sizeof(a->raw)) == 0;
}

void key_to_hex(const struct key *k, char out[KEY_HEX_SIZE])
{
    hex_encode(k->raw, sizeof(k->raw), out);
}

int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool hex_decode(const char *hex, size_t len, uint8_t *out)
{
    for (size_t i = 0; i < len; i++) {
        int high = hex_value(hex[2 * i]);
        /* The second digit is read only behind a first one: hex may be shorter. */
        int low = high < 0 ? -1 : hex_value(hex[2 * i + 1]);

        if (low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

bool key_from_hex(const char *hex, struct key *out)
{
    struct key k;

    if (!hex_decode(hex, sizeof(k.raw), k.raw) || hex[2 * sizeof(k.raw)] != '\0')
        return false;
    *out = k;
    return true;
}

void hex_encode(const uint8_t *raw, size_t len, char *out)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < len; i++) {
        out[2 * i] = digits[raw[i] >> 4];
        out[2 * i + 1] = digits[raw[i] & 15];
    }
    out[2 * len] = '\0';
}
