#include "cache/shared/keeper_orphans.h"

#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "cache/shared/manifest.h"
#include "protocol/base.h"

enum {
    UNNAMED_MAX = 64 * 1024, /* some 150 bytes each; the turn of more comes when these have gone */
    QUIET_MAX = 256 * 1024,  /* mirrors, as many bytes each; more are read in each round */
};

/* One file in the store; of bytes alone, as they are compared and hashed. */
struct file_name {
    struct key repo_id, sha256;
    uint8_t packed;
};

struct unnamed {
    struct file_name name;
    int64_t since_s;
    uint64_t round; /* the last that saw it so */
    UT_hash_handle hh;
};

/* A mirror at which there was nothing to do. */
struct quiet {
    struct key repo_id;
    struct key listing; /* digest of what the listing showed */
    uint64_t round;
    UT_hash_handle hh;
};

struct orphans {
    struct unnamed *unnamed;
    struct quiet *quiet;
    uint64_t round;
};

struct orphans *orphans_new(void)
{
    return xcalloc(1, sizeof(struct orphans));
}

static void forget_unnamed(struct orphans *o, struct unnamed *u)
{
    HASH_DEL(o->unnamed, u);
    free(u);
}

static void forget_quiet(struct orphans *o, struct quiet *q)
{
    HASH_DEL(o->quiet, q);
    free(q);
}

void orphans_free(struct orphans **op)
{
    struct orphans *o = *op;

    *op = NULL;
    if (o == NULL)
        return;
    while (o->unnamed != NULL)
        forget_unnamed(o, o->unnamed);
    while (o->quiet != NULL)
        forget_quiet(o, o->quiet);
    free(o);
}

void orphans_begin(struct orphans *o)
{
    o->round++;
}

void orphans_end(struct orphans *o)
{
    struct unnamed *u, *next;
    struct quiet *q, *after;

    HASH_ITER(hh, o->unnamed, u, next)
    {
        if (u->round != o->round)
            forget_unnamed(o, u);
    }
    HASH_ITER(hh, o->quiet, q, after)
    {
        if (q->round != o->round)
            forget_quiet(o, q);
    }
}

/* ---- mirrors at which there is nothing to do ---- */

static void digest_listing(const struct listed_mirror *m, const struct listed_file *files,
                           struct key *out)
{
    struct digest *d = digest_new(HASH_SHA256);

    digest_update(d, &m->manifest, sizeof(m->manifest));
    digest_update(d, &m->manifest_info.size, sizeof(m->manifest_info.size));
    digest_update(d, &m->manifest_info.modified, sizeof(m->manifest_info.modified));
    digest_update(d, m->manifest_info.etag, strlen(m->manifest_info.etag));
    for (size_t i = 0; i < m->count; i++) {
        digest_update(d, &files[i].sha256, sizeof(files[i].sha256));
        digest_update(d, &files[i].packed, sizeof(files[i].packed));
    }
    digest_final(d, out->raw);
    digest_free(d);
}

static bool is_quiet(struct orphans *o, const struct key *repo_id, const struct key *listing)
{
    struct quiet *q;

    HASH_FIND(hh, o->quiet, repo_id, sizeof(*repo_id), q);
    if (q == NULL || !key_equal(&q->listing, listing))
        return false;
    q->round = o->round;
    return true;
}

static void note_quiet(struct orphans *o, const struct key *repo_id, const struct key *listing)
{
    struct quiet *q;

    HASH_FIND(hh, o->quiet, repo_id, sizeof(*repo_id), q);
    if (q == NULL && HASH_COUNT(o->quiet) >= QUIET_MAX)
        return;
    if (q == NULL) {
        q = xcalloc(1, sizeof(*q));
        q->repo_id = *repo_id;
        HASH_ADD(hh, o->quiet, repo_id, sizeof(q->repo_id), q);
    }
    q->listing = *listing;
    q->round = o->round;
}

/* ---- what a manifest names ---- */

struct names {
    const struct key *repo_id;
    struct file_name *items;
    size_t count, room;
};

static int compare_names(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct file_name));
}

static struct file_name name_of(const struct key *repo_id, const struct key *sha256, bool packed)
{
    return (struct file_name){*repo_id, *sha256, packed};
}

/* By its object's name, not its content's: the same content may be there in both forms. */
static int add_name(void *ctx, const char *name, const struct manifest_file *file)
{
    struct names *n = ctx;

    (void)name;
    if (n->count == n->room) {
        n->room = n->room > 0 ? 2 * n->room : 64;
        n->items = xrealloc(n->items, n->room * sizeof(*n->items));
    }
    n->items[n->count++] = name_of(n->repo_id, &file->sha256, file->stored_size != 0);
    return 0;
}

static int take_text(void *ctx, const void *data, size_t len, struct err *err)
{
    if (bytes_add(ctx, data, len) != 0)
        return err_set(err, ERR_CORRUPT, "the manifest of a mirror is too long");
    return 0;
}

enum reading { READ, NONE, UNREADABLE, FAILED };

/* *names is sorted, and the caller's to free. */
static enum reading read_names(struct object_store *store, const struct key *repo_id,
                               struct names *names, struct err *err)
{
    char key[OBJECT_KEY_MAX + 1];
    struct manifest m;
    struct bytes text;
    enum reading result = READ;

    bytes_init(&text, MANIFEST_MAX);
    manifest_key(repo_id, key);
    if (object_get(store, key, 0, UINT64_MAX, NULL, take_text, &text, err) != 0)
        result = err->kind == ERR_NOT_FOUND                              ? NONE
                 : err->kind == ERR_CORRUPT || err->kind == ERR_CONFLICT ? UNREADABLE
                                                                         : FAILED;
    else if (manifest_read(text.data != NULL ? text.data : "", text.len, repo_id, &m, err) != 0)
        result = UNREADABLE;
    bytes_clear(&text);
    if (result != READ)
        return result;
    manifest_each(&m, add_name, names);
    manifest_clear(&m);
    qsort(names->items, names->count, sizeof(*names->items), compare_names);
    return READ;
}

/* ---- files without a name ---- */

/* NULL: too many are remembered; its turn comes later. */
static struct unnamed *note_unnamed(struct orphans *o, const struct file_name *name, int64_t now_s)
{
    struct unnamed *u;

    HASH_FIND(hh, o->unnamed, name, sizeof(*name), u);
    if (u == NULL && HASH_COUNT(o->unnamed) >= UNNAMED_MAX)
        return NULL;
    if (u == NULL) {
        u = xcalloc(1, sizeof(*u));
        u->name = *name;
        u->since_s = now_s;
        HASH_ADD(hh, o->unnamed, name, sizeof(u->name), u);
    }
    u->round = o->round;
    return u;
}

static int remove_orphan(struct orphans *o, struct object_store *store, struct unnamed *u,
                         int64_t now_s, struct shared_removed *out, struct err *err)
{
    const struct manifest_file file = {
        .size = 1, .sha256 = u->name.sha256, .stored_size = u->name.packed};
    char key[OBJECT_KEY_MAX + 1];
    struct object_info info = {0};

    manifest_file_key(&u->name.repo_id, &file, key);
    /* It was listed a while ago: an upload that needs it may have put it anew, and is about to
     * name it. */
    if (object_head(store, key, &info, err) != 0) {
        if (err->kind == ERR_NOT_FOUND) {
            forget_unnamed(o, u);
            return 0;
        }
        if (err->kind != ERR_CORRUPT)
            return -1;
    } else if (info.modified > now_s - ORPHAN_S) {
        return 0;
    }
    if (object_remove(store, key, err) != 0)
        return -1;
    out->objects++;
    out->bytes += info.size;
    forget_unnamed(o, u);
    return 0;
}

int orphans_tidy(struct orphans *o, struct object_store *store, const struct listed_mirror *m,
                 const struct listed_file *files, int64_t now_s, const atomic_bool *stop,
                 struct shared_removed *out, struct err *err)
{
    struct names names = {.repo_id = &m->repo_id};
    bool any = false;
    struct key listing;
    enum reading reading;
    int rc = 0;

    digest_listing(m, files, &listing);
    if (is_quiet(o, &m->repo_id, &listing))
        return 0;
    reading = read_names(store, &m->repo_id, &names, err);
    if (reading == FAILED)
        return -1;
    for (size_t i = 0; rc == 0 && reading != UNREADABLE && i < m->count; i++) {
        struct file_name name = name_of(&m->repo_id, &files[i].sha256, files[i].packed);
        struct unnamed *u;

        if (names.count > 0 &&
            bsearch(&name, names.items, names.count, sizeof(name), compare_names) != NULL)
            continue;
        any = true;
        u = note_unnamed(o, &name, now_s);
        if (u == NULL || u->since_s > now_s - ORPHAN_S || files[i].modified > now_s - ORPHAN_S)
            continue;
        if (stop != NULL && *stop)
            rc = err_set(err, ERR_CANCELLED, "tidying the shared tier was ended");
        else
            rc = remove_orphan(o, store, u, now_s, out, err);
    }
    if (rc == 0 && !any && reading != NONE)
        note_quiet(o, &m->repo_id, &listing);
    free(names.items);
    return rc;
}
