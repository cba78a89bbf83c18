/* What is said to Redis, and what it says, as plain C values: a command is words, a reply a tree of
 * text and numbers.  Below redis.h, which asks, and redis_connection.h, which carries it. */
#ifndef PANNIER_CACHE_CLUSTER_REDIS_WORDS_H
#define PANNIER_CACHE_CLUSTER_REDIS_WORDS_H

#include <stddef.h>
#include <stdint.h>

enum {
    REDIS_WORDS_MAX = 512,              /* of one command */
    REDIS_REPLY_MAX = 16 * 1024 * 1024, /* bytes of one reply; more is taken for nonsense */
    REDIS_ITEMS_MAX = 256 * 1024,       /* of one array in it */
};

/* A command, ending with NULL. */
#define REDIS_WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

enum { REDIS_NUMBER_SIZE = 24, REDIS_TOKEN_SIZE = 17 };
/* Returns out. */
const char *redis_number(uint64_t n, char out[REDIS_NUMBER_SIZE]);
/* 64 bits by chance, in hex: tells one holder, boot or event from another. */
void redis_token(char out[REDIS_TOKEN_SIZE]);

/* REDIS_ERROR: only inside an array, where Redis put it. */
enum redis_type { REDIS_NIL, REDIS_TEXT, REDIS_INTEGER, REDIS_ARRAY, REDIS_ERROR };

struct redis_reply {
    enum redis_type type;
    int64_t integer;
    char *text; /* ends with a NUL that len doesn't count */
    size_t len;
    struct redis_reply **items; /* none is NULL */
    size_t count;
};
void redis_reply_free(struct redis_reply **reply);

/* Of an array that may be shorter; NULL when it has no such item. */
const struct redis_reply *redis_item(const struct redis_reply *array, size_t i);
/* The item's text, "" when it isn't there or is none. */
const char *redis_item_text(const struct redis_reply *array, size_t i);
/* The item as a number, 0 when it is none.  Numbers in hashes come as text. */
int64_t redis_item_integer(const struct redis_reply *array, size_t i);
/* The value of a name in what HGETALL and XRANGE bring: name, value, name, value...; NULL: none. */
const char *redis_field(const struct redis_reply *pairs, const char *name);

#endif
