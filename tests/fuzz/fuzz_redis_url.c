/* A URL is read or refused; what was read has what its scheme needs, and a refusal repeats nothing.
 */
#include "tests/fuzz/fuzz.h"

#include "cache/cluster/redis_url.h"

static void look(const struct redis_url *u)
{
    must(u->db <= REDIS_DB_MAX);
    must((u->path != NULL) == (u->scheme == REDIS_UNIX));
    must((u->master != NULL) == (u->scheme == REDIS_SENTINEL));
    must(!u->tls || u->scheme != REDIS_UNIX);
    must(u->host_count <= REDIS_HOSTS_MAX);
    must((u->host_count == 0) == (u->scheme == REDIS_UNIX));
    must(u->host_count <= 1 || u->scheme == REDIS_SENTINEL);
    must(u->path == NULL || (u->path[0] == '/' && strlen(u->path) <= 107));
    for (size_t i = 0; i < u->host_count; i++) {
        must(u->hosts[i].port >= 1 && u->hosts[i].port <= 65535);
        must(u->hosts[i].name[0] != '\0' && strpbrk(u->hosts[i].name, "@/, []") == NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = xmalloc(size + 1);
    struct redis_url u;
    struct err err;

    memcpy(text, data, size);
    text[size] = '\0';
    if (redis_url_read(text, &u, &err) == 0) {
        look(&u);
        redis_url_clear(&u);
    } else {
        must(err.kind == ERR_INPUT && err.text[0] != '\0');
        must(u.host_count == 0 && u.path == NULL && u.user == NULL && u.master == NULL);
    }
    free(text);
    return 0;
}
