#include <stdlib.h>
#include <string.h>

#include "cache/mirror/upkeep.h"

/* A commit that is still to come in the walk, and how lately something that reaches it was asked
 * for. */
struct ahead {
    uint8_t id[SHA1_SIZE];
    int64_t wanted_s;
    UT_hash_handle hh;
};

struct walk {
    struct upkeep *upkeep;
    struct ahead *ahead;
};

static void pass_on(struct walk *w, const struct oid *parent, int64_t wanted_s)
{
    struct ahead *a;

    HASH_FIND(hh, w->ahead, parent->raw, SHA1_SIZE, a);
    if (a == NULL) {
        a = xmalloc(sizeof(*a));
        memcpy(a->id, parent->raw, SHA1_SIZE);
        a->wanted_s = wanted_s;
        HASH_ADD(hh, w->ahead, id, SHA1_SIZE, a);
    } else if (a->wanted_s < wanted_s) {
        a->wanted_s = wanted_s;
    }
}

/* How lately something was asked for that reaches commit; it won't come again. */
static int64_t take_ahead(struct walk *w, const struct oid *commit)
{
    int64_t wanted_s = INT64_MIN;
    struct ahead *a;

    HASH_FIND(hh, w->ahead, commit->raw, SHA1_SIZE, a);
    if (a != NULL) {
        wanted_s = a->wanted_s;
        HASH_DEL(w->ahead, a);
        free(a);
    }
    return wanted_s;
}

/* "<commit> <parent>...", children before parents. */
static void on_commit(void *ctx, char *line)
{
    struct walk *w = ctx;
    struct upkeep *u = w->upkeep;
    char *save = NULL, *word = strtok_r(line, " ", &save);
    struct oid oid;
    struct tip *tip;
    int64_t wanted_s;

    if (word == NULL || !oid_from_hex(HASH_SHA1, word, strlen(word), &oid))
        return;
    wanted_s = take_ahead(w, &oid);
    tip = tip_list_find(&u->tips, &oid);
    if (tip != NULL) {
        u->redundant[tip - u->tips.items] = wanted_s >= tip->wanted_s;
        wanted_s = wanted_s > tip->wanted_s ? wanted_s : tip->wanted_s;
    }
    while ((word = strtok_r(NULL, " ", &save)) != NULL)
        if (oid_from_hex(HASH_SHA1, word, strlen(word), &oid))
            pass_on(w, &oid, wanted_s);
}

/* One walk over all commits, however many tips there are. */
static int find_redundant(struct upkeep *u, struct err *err)
{
    char *git_dir = xasprintf("--git-dir=%s", u->copy);
    const char *const args[] = {git_dir, "rev-list", "--topo-order", "--parents", "--stdin", NULL};
    struct walk w = {.upkeep = u};
    struct ahead *a, *next;
    struct bytes input;
    int rc;

    u->redundant = xcalloc(u->tips.count, sizeof(*u->redundant));
    bytes_init(&input, SIZE_MAX / 2);
    for (size_t i = 0; i < u->tips.count; i++) {
        char hex[OID_HEX_SIZE];

        oid_to_hex(HASH_SHA1, &u->tips.items[i].oid, hex);
        bytes_addf(&input, "%s\n", hex);
    }
    bytes_add(&input, "", 1);
    rc = upkeep_run(u, &(struct program){args, input.data, on_commit, &w}, err);
    HASH_ITER(hh, w.ahead, a, next)
    {
        HASH_DEL(w.ahead, a);
        free(a);
    }
    bytes_clear(&input);
    free(git_dir);
    return rc;
}

/* Either cruft goes or tips do: a tip is told to upstream as what is here until the very end, and
 * what it reaches may be cruft of long ago, of which something was asked for again. */
int upkeep_choose_tips(struct upkeep *u, struct err *err)
{
    int64_t limit = expired_before(u->options, false), latest = latest_wanted(&u->tips);
    int rc = find_redundant(u, err);

    if (rc != 0)
        return -1;
    u->cruft_goes = cruft_expired(u->copy, &u->before, u->options);
    u->full = u->cruft_goes || tips_expired(&u->tips, u->redundant, u->options);
    for (size_t i = 0; i < u->tips.count; i++) {
        const struct tip *tip = &u->tips.items[i];
        bool expired = u->full && !u->cruft_goes && tip->wanted_s < limit && tip->wanted_s < latest;

        if (!u->redundant[i] && !expired)
            oid_list_add(&u->kept, &tip->oid);
    }
    return packed_refs_write(u->copy, &u->kept, err);
}
