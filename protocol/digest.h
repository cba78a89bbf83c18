/* SHA-1, SHA-256 and HMAC-SHA-256, and the 32-byte key that names things.  The home of OpenSSL's
 * digests. */
#ifndef PANNIER_PROTOCOL_DIGEST_H
#define PANNIER_PROTOCOL_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* git's object formats.  The values are ours, not git's. */
enum hash_algo { HASH_SHA1 = 0, HASH_SHA256 = 1 };

enum { SHA1_SIZE = 20, SHA256_SIZE = 32, DIGEST_MAX = 32 };

/* 20 or 32. */
size_t hash_size(enum hash_algo algo);
/* "sha1" or "sha256", as in git's object-format capability. */
const char *hash_name(enum hash_algo algo);

/* A running digest. */
struct digest;
struct digest *digest_new(enum hash_algo algo);
void digest_free(struct digest *d); /* NULL is fine */
void digest_update(struct digest *d, const void *data, size_t len);
/* Writes hash_size() bytes; d can only be freed afterwards. */
void digest_final(struct digest *d, uint8_t *out);

/* A name made from content: repository ids, keys of answers, credential fingerprints. */
struct key {
    uint8_t raw[SHA256_SIZE];
};
enum { KEY_HEX_SIZE = 2 * SHA256_SIZE + 1 };

/* SHA-256 of data. */
void key_of(const void *data, size_t len, struct key *out);
/* HMAC-SHA-256 of data under secret: for fingerprints that must not be guessable. */
void key_hmac(const struct key *secret, const void *data, size_t len, struct key *out);
/* The same under a secret that is text of any length, as others choose theirs. */
void key_hmac_text(const char *secret, const void *data, size_t len, struct key *out);
void key_hmac_bytes(const void *secret, size_t secret_len, const void *data, size_t len,
                    struct key *out);
bool key_equal(const struct key *a, const struct key *b);
/* Lower-case hex, NUL-terminated. */
void key_to_hex(const struct key *k, char out[KEY_HEX_SIZE]);
/* Exactly 64 hex digits followed by NUL; false otherwise. */
bool key_from_hex(const char *hex, struct key *out);

/* 0 to 15, or -1 for what is no hexadecimal digit. */
int hex_value(char c);

/* Hex of len bytes of raw into out (2 * len + 1 bytes). */
void hex_encode(const uint8_t *raw, size_t len, char *out);
/* The other way, upper case too.  False: these are not 2 * len digits; out is undefined then. */
bool hex_decode(const char *hex, size_t len, uint8_t *out);

#endif
