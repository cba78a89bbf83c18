#include <git2.h>
#include <stdlib.h>
#include <string.h>

#include "cache/mirror/internal.h"

/* From the tips down to what was there before: each commit, tree and tag on the way is read, and
 * each blob is to be there.  The way ends at what was there, so this takes as long as there is new
 * to see. */

enum {
    /* Commits, trees and tags, at about a hundred bytes each.  So many never come between two looks
     * at a repository that lives. */
    SEEN_MAX = 1 << 20,
};

struct seen {
    git_oid id;
    struct seen *next; /* still to be read */
    UT_hash_handle hh;
};

struct walk {
    git_repository *repo;
    git_odb *all, *had;
    struct seen *seen, *ahead;
};

static int lacking(const git_oid *id, struct err *err)
{
    char hex[GIT_OID_HEXSZ + 1];

    return err_set(err, ERR_CORRUPT, "a mirror's packs lack %s, which a tip of it reaches",
                   git_oid_tostr(hex, sizeof(hex), id));
}

static bool is_in(git_odb *odb, const git_oid *id)
{
    return git_odb_exists_ext(odb, id, GIT_ODB_LOOKUP_NO_REFRESH) == 1;
}

/* It is reached: to be read, unless it was before or needn't be. */
static int reach(struct walk *w, const git_oid *id, struct err *err)
{
    struct seen *s;

    HASH_FIND(hh, w->seen, id->id, GIT_OID_RAWSZ, s);
    if (s != NULL || is_in(w->had, id))
        return 0;
    if (HASH_COUNT(w->seen) >= SEEN_MAX)
        return err_set(err, ERR_LIMIT, "too many new objects to look through");
    s = xcalloc(1, sizeof(*s));
    git_oid_cpy(&s->id, id);
    s->next = w->ahead;
    w->ahead = s;
    HASH_ADD(hh, w->seen, id.id, GIT_OID_RAWSZ, s);
    return 0;
}

static int read_commit(struct walk *w, const git_commit *commit, struct err *err)
{
    int rc = reach(w, git_commit_tree_id(commit), err);

    for (unsigned i = 0; i < git_commit_parentcount(commit) && rc == 0; i++)
        rc = reach(w, git_commit_parent_id(commit, i), err);
    return rc;
}

static int read_tree(struct walk *w, const git_tree *tree, struct err *err)
{
    int rc = 0;

    for (size_t i = 0; i < git_tree_entrycount(tree) && rc == 0; i++) {
        const git_tree_entry *entry = git_tree_entry_byindex(tree, i);
        const git_oid *id = git_tree_entry_id(entry);
        git_object_t type = git_tree_entry_type(entry);

        if (type == GIT_OBJECT_TREE)
            rc = reach(w, id, err);
        else if (type == GIT_OBJECT_BLOB && !is_in(w->all, id)) /* a commit is a submodule's */
            rc = lacking(id, err);
    }
    return rc;
}

/* It is there, and can't be read: as git says, or because we are short of something. */
static int unreadable(const git_oid *id, struct err *err)
{
    const git_error *why = git_error_last();

    if (why != NULL && (why->klass == GIT_ERROR_OS || why->klass == GIT_ERROR_NOMEMORY))
        return err_set(err, ERR_STORAGE, "read an object of a mirror: %s", why->message);
    return lacking(id, err);
}

static int read_one(struct walk *w, const git_oid *id, struct err *err)
{
    git_object *object;
    int rc = git_object_lookup(&object, w->repo, id, GIT_OBJECT_ANY);

    if (rc != 0)
        return rc == GIT_ENOTFOUND ? lacking(id, err) : unreadable(id, err);
    switch (git_object_type(object)) {
    case GIT_OBJECT_COMMIT: rc = read_commit(w, (const git_commit *)object, err); break;
    case GIT_OBJECT_TREE: rc = read_tree(w, (const git_tree *)object, err); break;
    case GIT_OBJECT_TAG: rc = reach(w, git_tag_target_id((const git_tag *)object), err); break;
    default: break; /* a blob that a tag names */
    }
    git_object_free(object);
    return rc;
}

static int walk_down(struct walk *w, const atomic_bool *stop, struct err *err)
{
    int rc = 0;

    while (w->ahead != NULL && rc == 0) {
        struct seen *s = w->ahead;

        w->ahead = s->next;
        rc = *stop ? err_set(err, ERR_CANCELLED, "pannier is shutting down")
                   : read_one(w, &s->id, err);
    }
    return rc;
}

int objects_check_tips(const char *path, const struct oid_list *tips, struct err *err)
{
    struct oid_list found = {0};
    int rc = objects_that_are_tips(path, tips, &found, err);

    if (rc == 0 && found.count != tips->count)
        rc = err_set(err, ERR_CORRUPT, "a mirror lacks %zu of its %zu tips",
                     tips->count - found.count, tips->count);
    oid_list_clear(&found);
    return rc;
}

static int open_walk(struct walk *w, const char *path, const char *had, struct err *err)
{
    char *objects = xasprintf("%s/objects", had);
    int rc = 0;

    if (git_repository_open_bare(&w->repo, path) != 0 ||
        git_repository_odb(&w->all, w->repo) != 0 || git_odb_open(&w->had, objects) != 0)
        rc = err_set(err, ERR_STORAGE, "%s can't be opened as a repository", path);
    free(objects);
    return rc;
}

static void close_walk(struct walk *w)
{
    struct seen *s, *next;

    HASH_ITER(hh, w->seen, s, next)
    {
        HASH_DEL(w->seen, s);
        free(s);
    }
    git_odb_free(w->had);
    git_odb_free(w->all);
    git_repository_free(w->repo);
}

static int walk_all(const char *path, const char *had, const struct oid_list *tips,
                    const atomic_bool *stop, struct err *err)
{
    struct walk w = {0};
    struct err why;
    int rc = open_walk(&w, path, had, err);

    for (size_t i = 0; i < tips->count && rc == 0; i++) {
        git_oid id;

        memcpy(id.id, tips->items[i].raw, GIT_OID_RAWSZ);
        rc = reach(&w, &id, err);
    }
    if (rc == 0)
        rc = walk_down(&w, stop, err);
    if (rc != 0 && err->kind == ERR_CORRUPT &&
        (objects_can_be_read(path, &why) != 0 || objects_can_be_read(had, &why) != 0))
        *err = why;
    close_walk(&w);
    return rc;
}

int objects_check_closed(const char *path, const char *had, const struct oid_list *tips,
                         const atomic_bool *stop, struct err *err)
{
    int rc = objects_check_tips(path, tips, err);

    if (rc == 0)
        rc = walk_all(path, had, tips, stop, err);
    /* What can be opened by now could not be, perhaps, a moment ago. */
    if (rc != 0 && err->kind == ERR_CORRUPT)
        rc = objects_check_tips(path, tips, err) == 0 ? walk_all(path, had, tips, stop, err) : -1;
    return rc;
}
