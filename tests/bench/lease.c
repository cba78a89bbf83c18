/* What a lease costs: taking and releasing one, against a bare SET and GET on the same Redis, one
 * after the other in one thread.
 *
 *     lease redis://127.0.0.1:6379 [ROUNDS] */
#include <stdio.h>
#include <stdlib.h>

#include "cache/cluster/lease.h"
#include "cache/lock.h"
#include "protocol/base.h"

enum { ROUNDS = 20000, TTL_MS = 15000, CONNECT_MS = 5000 };

static void fail(const char *why)
{
    fprintf(stderr, "lease: %s\n", why);
    exit(1);
}

static void ask(struct redis *r, const char *const *words)
{
    struct err err;

    if (redis_ask(r, words, NULL, &err) != 0)
        fail(err.text);
}

static double set_us(struct redis *r, unsigned rounds)
{
    char *key = redis_key(r, "bench");
    uint64_t start = now_us();

    for (unsigned i = 0; i < rounds; i++)
        ask(r, REDIS_WORDS("SET", key, "value", "PX", "15000"));
    ask(r, REDIS_WORDS("DEL", key));
    free(key);
    return (double)(now_us() - start) / rounds;
}

static double lease_us(struct leases *all, unsigned rounds)
{
    uint64_t start = now_us();

    for (unsigned i = 0; i < rounds; i++) {
        struct lease *l;
        struct err err;

        if (leases_take(all, "bench", 0, &l, &err) != 0)
            fail(err.text);
        lease_release(&l);
    }
    return (double)(now_us() - start) / rounds;
}

int main(int argc, char **argv)
{
    unsigned rounds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : ROUNDS;
    struct redis_config config = {.url = argc > 1 ? argv[1] : NULL};
    struct leases *all;
    struct redis *r;
    struct err err;
    double set, lease;

    if (config.url == NULL || rounds == 0)
        fail("usage: lease URL [ROUNDS]");
    if (redis_open(&config, &r, &err) != 0)
        fail(err.text);
    all = leases_new(r, "bench", TTL_MS);
    redis_start(r);
    if (!redis_wait_up(r, CONNECT_MS))
        fail("Redis can't be reached");
    set = set_us(r, rounds);
    lease = lease_us(all, rounds);
    printf("SET %.1f us, lease taken and released %.1f us (two round trips): %.2f of two SETs\n",
           set, lease, lease / (2 * set));
    redis_stop(r);
    leases_free(&all);
    redis_free(&r);
    return 0;
}
