#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <git2.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/mirror/internal.h"

enum {
    /* libgit2 maps packs; what is mapped counts as our memory. */
    MAPPED_MAX = 24 << 20,
    MAPPED_PIECE = 1 << 20,
    CACHED_MAX = 32 << 20, /* objects that were read, of all mirrors together */
    LOOKS = 2,             /* before something counts as lacking */
};

void objects_start(void)
{
    static const int levels[] = {GIT_CONFIG_LEVEL_PROGRAMDATA, GIT_CONFIG_LEVEL_SYSTEM,
                                 GIT_CONFIG_LEVEL_XDG, GIT_CONFIG_LEVEL_GLOBAL};

    must(git_libgit2_init() > 0);
    /* The machine's and the user's configuration are not ours. */
    for (size_t i = 0; i < ARRAY_LEN(levels); i++)
        git_libgit2_opts(GIT_OPT_SET_SEARCH_PATH, levels[i], "");
    git_libgit2_opts(GIT_OPT_SET_OWNER_VALIDATION, 0);
    git_libgit2_opts(GIT_OPT_SET_MWINDOW_SIZE, (size_t)MAPPED_PIECE);
    git_libgit2_opts(GIT_OPT_SET_MWINDOW_MAPPED_LIMIT, (size_t)MAPPED_MAX);
    git_libgit2_opts(GIT_OPT_SET_CACHE_MAX_SIZE, (ssize_t)CACHED_MAX);
}

void objects_stop(void)
{
    git_libgit2_shutdown();
}

static void to_git_oid(const struct oid *oid, git_oid *out)
{
    memcpy(out->id, oid->raw, GIT_OID_RAWSZ);
}

/* A repository with its objects, or neither of them. */
struct view {
    struct mirror *mirror; /* NULL: not one that others change */
    struct mirror_use use;
    git_repository *repo;
    git_odb *odb;
};

static bool open_path(struct view *v, const char *path)
{
    if (git_repository_open_bare(&v->repo, path) != 0)
        v->repo = NULL;
    else if (git_repository_odb(&v->odb, v->repo) != 0)
        v->odb = NULL;
    return v->odb != NULL;
}

static bool open_mirror(struct view *v, struct mirror *m)
{
    *v = (struct view){.mirror = m};
    mirror_use_begin(m, &v->use);
    return open_path(v, m->path);
}

static void close_view(struct view *v)
{
    git_odb_free(v->odb);
    git_repository_free(v->repo);
    if (v->mirror != NULL)
        mirror_use_end(v->mirror, &v->use);
}

static bool is_here(const struct view *v, const struct oid *oid)
{
    git_oid id;

    to_git_oid(oid, &id);
    return v->odb != NULL && git_odb_exists_ext(v->odb, &id, GIT_ODB_LOOKUP_NO_REFRESH);
}

void mirror_missing(struct mirror *m, const struct oid_list *oids, struct oid_list *out)
{
    struct view v;

    if (oids->count == 0)
        return;
    open_mirror(&v, m);
    for (size_t i = 0; i < oids->count; i++)
        if (!is_here(&v, &oids->items[i]))
            oid_list_add(out, &oids->items[i]);
    close_view(&v);
}

void mirror_missing_tags(struct mirror *m, const struct oid_list *tags,
                         const struct oid_list *targets, struct oid_list *out)
{
    struct view v;

    if (tags->count == 0)
        return;
    open_mirror(&v, m);
    for (size_t i = 0; i < tags->count && v.odb != NULL; i++)
        if (!is_here(&v, &tags->items[i]) && is_here(&v, &targets->items[i]))
            oid_list_add(out, &tags->items[i]);
    close_view(&v);
}

bool mirror_has_all(struct mirror *m, const struct oid_list *oids)
{
    struct oid_list missing = {0};
    bool all;

    mirror_missing(m, oids, &missing);
    all = missing.count == 0;
    oid_list_clear(&missing);
    return all;
}

int objects_can_be_read(const char *path, struct err *err)
{
    char *folder = xasprintf("%s/objects/pack", path);
    DIR *dir = opendir(folder);
    struct dirent *d;
    int rc = dir != NULL ? 0 : cannot_look("packs", err);

    while (rc == 0 && (d = readdir(dir)) != NULL) {
        int fd = is_pack(d->d_name) || ends_with(d->d_name, ".idx")
                     ? openat(dirfd(dir), d->d_name, O_RDONLY | O_CLOEXEC)
                     : -1;

        if (fd >= 0)
            close(fd);
        else if (is_pack(d->d_name) || ends_with(d->d_name, ".idx"))
            rc = errno == ENOENT ? 0 : cannot_look(d->d_name, err); /* upkeep took it away */
    }
    if (dir != NULL)
        closedir(dir);
    free(folder);
    return rc;
}

bool mirror_lacks(struct mirror *m, const struct oid *oid)
{
    struct err ignored;
    bool lacks = objects_can_be_read(m->path, &ignored) == 0; /* or libgit2 would leak */

    /* What could be opened by now could not be, perhaps, a moment ago. */
    for (unsigned i = 0; i < LOOKS && lacks; i++) {
        struct view v;

        lacks =
            open_mirror(&v, m) && !is_here(&v, oid) && objects_can_be_read(m->path, &ignored) == 0;
        close_view(&v);
    }
    return lacks;
}

bool mirror_reaches_all(struct mirror *m, const struct oid_list *oids, const struct oid_list *tips)
{
    git_oid *from = xcalloc(tips->count, sizeof(*from));
    size_t from_count = 0;
    struct view v;
    bool all = open_mirror(&v, m);

    for (size_t i = 0; i < tips->count && all; i++) {
        git_object_t type;
        size_t len;

        to_git_oid(&tips->items[i], &from[from_count]);
        if (git_odb_read_header(&len, &type, v.odb, &from[from_count]) == 0 &&
            type == GIT_OBJECT_COMMIT)
            from_count++;
    }
    for (size_t i = 0; i < oids->count && all; i++) {
        git_oid id;

        to_git_oid(&oids->items[i], &id);
        all = oid_list_contains(tips, &oids->items[i]) ||
              (from_count > 0 && git_graph_reachable_from_any(v.repo, &id, from, from_count) == 1);
    }
    free(from);
    close_view(&v);
    return all;
}

/* ---- refs ---- */

static int each_ref(git_repository *repo, void (*fn)(void *ctx, const git_oid *id), void *ctx)
{
    git_reference_iterator *it = NULL;
    git_reference *ref;
    int rc;

    if (git_reference_iterator_new(&it, repo) != 0)
        return -1;
    while ((rc = git_reference_next(&ref, it)) == 0) {
        const git_oid *id = git_reference_target(ref);

        if (id != NULL)
            fn(ctx, id);
        git_reference_free(ref);
    }
    git_reference_iterator_free(it);
    return rc == GIT_ITEROVER ? 0 : -1;
}

struct dated_tip {
    struct oid oid;
    int64_t time;
};

struct dated_tips {
    git_repository *repo;
    struct dated_tip *items;
    size_t count, cap;
};

static int latest_first(const void *pa, const void *pb)
{
    const struct dated_tip *a = pa, *b = pb;

    return (a->time < b->time) - (a->time > b->time);
}

/* The time of the commit that id is, or that the tag id leads to; 0 for anything else. */
static int64_t commit_time(git_repository *repo, const git_oid *id)
{
    git_object *object = NULL, *commit = NULL;
    int64_t time = 0;

    if (git_object_lookup(&object, repo, id, GIT_OBJECT_ANY) == 0 &&
        git_object_peel(&commit, object, GIT_OBJECT_COMMIT) == 0)
        time = git_commit_time((git_commit *)commit);
    git_object_free(commit);
    git_object_free(object);
    return time;
}

static void add_dated(void *ctx, const git_oid *id)
{
    struct dated_tips *tips = ctx;

    if (tips->count == tips->cap) {
        tips->cap = tips->cap > 0 ? 2 * tips->cap : 64;
        tips->items = xrealloc(tips->items, tips->cap * sizeof(*tips->items));
    }
    tips->items[tips->count] = (struct dated_tip){.time = commit_time(tips->repo, id)};
    memcpy(tips->items[tips->count++].oid.raw, id->id, GIT_OID_RAWSZ);
}

void mirror_tips(struct mirror *m, size_t max, struct oid_list *out)
{
    struct dated_tips tips = {0};
    struct view v;

    if (open_mirror(&v, m)) {
        tips.repo = v.repo;
        each_ref(v.repo, add_dated, &tips);
    }
    if (tips.count > 0)
        qsort(tips.items, tips.count, sizeof(*tips.items), latest_first);
    for (size_t i = 0; i < tips.count && i < max; i++)
        oid_list_add(out, &tips.items[i].oid);
    oid_list_sort(out);
    free(tips.items);
    close_view(&v);
}

static void add_plain(void *ctx, const git_oid *id)
{
    struct oid oid = {0};

    memcpy(oid.raw, id->id, GIT_OID_RAWSZ);
    oid_list_add(ctx, &oid);
}

int objects_refs(const char *path, struct oid_list *out, struct err *err)
{
    git_repository *repo = NULL;
    int rc = git_repository_open_bare(&repo, path);

    if (rc == 0)
        rc = each_ref(repo, add_plain, out);
    git_repository_free(repo);
    oid_list_sort(out);
    return rc == 0 ? 0 : err_set(err, ERR_STORAGE, "the tips of a mirror can't be read");
}

/* ---- what may be a tip ---- */

static bool is_tip(const struct view *v, const struct oid *oid, bool *here)
{
    git_object_t type;
    git_oid id;
    size_t len;

    to_git_oid(oid, &id);
    *here = git_odb_read_header(&len, &type, v->odb, &id) == 0;
    return *here && (type == GIT_OBJECT_COMMIT || type == GIT_OBJECT_TAG);
}

int objects_choose_tips(const char *path, const struct oid_list *tips, struct oid_list *out,
                        struct err *err)
{
    struct view v = {0};
    int rc = 0;

    if (!open_path(&v, path))
        rc = err_set(err, ERR_STORAGE, "a new mirror can't be opened");
    for (size_t i = 0; i < tips->count && rc == 0; i++) {
        bool here;

        if (is_tip(&v, &tips->items[i], &here))
            oid_list_add(out, &tips->items[i]);
        else if (!here && (rc = objects_can_be_read(path, err)) == 0)
            rc = err_set(err, ERR_UPSTREAM, "upstream's pack lacks an object that was asked for");
    }
    close_view(&v);
    oid_list_sort(out);
    return rc;
}

/* *lacks: some are not here at all. */
static int look_for_tips(const char *path, const struct oid_list *oids, struct oid_list *out,
                         bool *lacks, struct err *err)
{
    struct view v = {0};
    int rc = 0;

    *lacks = false;
    if (!open_path(&v, path))
        rc = err_set(err, ERR_STORAGE, "the objects of a mirror can't be opened");
    for (size_t i = 0; i < oids->count && rc == 0; i++) {
        bool here;

        if (is_tip(&v, &oids->items[i], &here))
            oid_list_add(out, &oids->items[i]);
        *lacks = *lacks || !here;
    }
    if (rc == 0 && *lacks)
        rc = objects_can_be_read(path, err);
    close_view(&v);
    oid_list_sort(out);
    return rc;
}

int objects_that_are_tips(const char *path, const struct oid_list *oids, struct oid_list *out,
                          struct err *err)
{
    bool lacks = true;
    int rc = 0;

    for (unsigned i = 0; i < LOOKS && lacks && rc == 0; i++) {
        oid_list_clear(out);
        rc = look_for_tips(path, oids, out, &lacks, err);
    }
    return rc;
}

void objects_missing(const char *path, const struct oid_list *oids, struct oid_list *out)
{
    struct view v = {0};

    open_path(&v, path);
    for (size_t i = 0; i < oids->count; i++)
        if (!is_here(&v, &oids->items[i]))
            oid_list_add(out, &oids->items[i]);
    close_view(&v);
}

int objects_add_refs(const char *path, const struct oid_list *tips, struct err *err)
{
    git_repository *repo = NULL;
    int rc = 0;

    if (git_repository_open_bare(&repo, path) != 0)
        return err_set(err, ERR_STORAGE, "a mirror can't be opened");
    for (size_t i = 0; i < tips->count && rc == 0; i++) {
        char hex[OID_HEX_SIZE];
        git_reference *ref = NULL;
        char *name;
        git_oid id;

        to_git_oid(&tips->items[i], &id);
        oid_to_hex(HASH_SHA1, &tips->items[i], hex);
        name = xasprintf("%s%s", TIP_PREFIX, hex);
        if (git_reference_create(&ref, repo, name, &id, 1, NULL) != 0)
            rc = err_set(err, ERR_STORAGE, "record a tip: %s", git_error_last()->message);
        git_reference_free(ref);
        free(name);
    }
    git_repository_free(repo);
    return rc;
}
