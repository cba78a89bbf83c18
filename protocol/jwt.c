#include "protocol/jwt.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include "protocol/base.h"
#include "protocol/base64.h"

enum {
    KEY_BITS_MIN = 2048,
    SIGNATURE_MAX = 2048, /* bytes: of a key of 16384 bits */
};

bool jwt_issuer_ok(const char *issuer)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_";

    return issuer[0] != '\0' && issuer[strspn(issuer, plain)] == '\0';
}

/* OpenSSL would ask for it on the terminal. */
static int no_password(char *buf, int size, int writing, void *ctx)
{
    (void)buf, (void)size, (void)writing, (void)ctx;
    return -1;
}

static EVP_PKEY *read_key(const char *pem, size_t len)
{
    EVP_PKEY *key = NULL;
    BIO *bio;

    if (len > INT_MAX)
        return NULL;
    bio = BIO_new_mem_buf(pem, (int)len);
    must(bio != NULL);
    key = PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
    BIO_free(bio);
    ERR_clear_error(); /* what it said of a broken one is nobody else's */
    return key;
}

static int sign(EVP_PKEY *key, const char *text, uint8_t *out, size_t *len)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int ok;

    must(ctx != NULL);
    *len = SIGNATURE_MAX;
    ok = EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
         EVP_DigestSign(ctx, out, len, (const uint8_t *)text, strlen(text)) == 1;
    EVP_MD_CTX_free(ctx);
    ERR_clear_error();
    return ok ? 0 : -1;
}

/* The part that is signed. */
static char *unsigned_token(const struct jwt_claims *claims)
{
    static const char header[] = "{\"alg\":\"RS256\",\"typ\":\"JWT\"}";
    char *json = xasprintf("{\"iat\":%" PRId64 ",\"exp\":%" PRId64 ",\"iss\":\"%s\"}",
                           claims->issued, claims->expires, claims->issuer);
    char *first = base64url_encode(header, strlen(header));
    char *second = base64url_encode(json, strlen(json));
    char *text = xasprintf("%s.%s", first, second);

    free(second);
    free(first);
    free(json);
    return text;
}

int jwt_sign(const char *pem, size_t len, const struct jwt_claims *claims, char **out,
             struct err *err)
{
    EVP_PKEY *key = read_key(pem, len);
    uint8_t raw[SIGNATURE_MAX];
    char *text = NULL, *signature;
    int rc = 0;

    must(jwt_issuer_ok(claims->issuer));
    if (key == NULL)
        return err_set(err, ERR_INPUT, "it is no private key in PEM, or has a password");
    text = unsigned_token(claims);
    if (EVP_PKEY_get_base_id(key) != EVP_PKEY_RSA || EVP_PKEY_get_bits(key) < KEY_BITS_MIN)
        rc = err_set(err, ERR_INPUT, "it is no RSA key of %d bits or more", KEY_BITS_MIN);
    else if (EVP_PKEY_get_size(key) > SIGNATURE_MAX || sign(key, text, raw, &len) != 0)
        rc = err_set(err, ERR_INPUT, "it can't sign");
    if (rc == 0) {
        signature = base64url_encode(raw, len);
        *out = xasprintf("%s.%s", text, signature);
        free(signature);
    }
    free(text);
    EVP_PKEY_free(key);
    return rc;
}
