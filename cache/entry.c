#include "cache/entry.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

void entry_clear(struct entry *e)
{
    free(e->repo_id);
    free(e->repo);
    free(e->url);
    free(e->ref);
    free(e->commit);
    free(e->path);
    free(e->node);
    free(e->applied);
    *e = (struct entry){0};
}

const char *entry_kind_name(enum entry_kind kind)
{
    return kind == ENTRY_ANSWER ? "answer" : "mirror";
}

static char *copy_or_null(const char *s)
{
    return s != NULL ? xstrdup(s) : NULL;
}

void entry_copy(const struct entry *from, struct entry *to)
{
    *to = *from;
    to->repo_id = copy_or_null(from->repo_id);
    to->repo = copy_or_null(from->repo);
    to->url = copy_or_null(from->url);
    to->ref = copy_or_null(from->ref);
    to->commit = copy_or_null(from->commit);
    to->path = copy_or_null(from->path);
    to->node = copy_or_null(from->node);
    to->applied = copy_or_null(from->applied);
}

bool entry_can_name(const char *repo)
{
    json_t *json = json_string(repo);
    bool can = json != NULL;

    json_decref(json);
    return can;
}

int entry_write(const struct entry *e, struct bytes *out)
{
    json_t *json =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s*, s:s*, s:s*, s:I, s:I, s:I, s:I}", "kind",
                  entry_kind_name(e->kind), "repo_id", e->repo_id, "repo", e->repo, "url", e->url,
                  "path", e->path, "ref", e->ref, "commit", e->commit, "applied", e->applied,
                  "size", (json_int_t)e->size, "created", (json_int_t)e->created, "note_offset",
                  (json_int_t)e->note_offset, "objects", (json_int_t)e->objects);
    char *text;
    int rc;

    must(json != NULL);
    text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);
    must(text != NULL);
    rc = bytes_addf(out, "%s\n", text);
    free(text);
    json_decref(json);
    return rc;
}

int entry_read(const char *text, size_t len, struct entry *out, struct err *err)
{
    json_error_t why;
    json_t *json = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    const char *kind, *repo_id, *repo, *url, *path, *ref = NULL, *commit = NULL, *applied = NULL;
    json_int_t size, created, note_offset, objects;

    if (json == NULL)
        return err_set(err, ERR_CORRUPT, "the record of an entry is no JSON: %s", why.text);
    if (json_unpack_ex(json, &why, 0,
                       "{s:s, s:s, s:s, s:s, s:s, s?s, s?s, s?s, s:I, s:I, s:I, s:I}", "kind",
                       &kind, "repo_id", &repo_id, "repo", &repo, "url", &url, "path", &path, "ref",
                       &ref, "commit", &commit, "applied", &applied, "size", &size, "created",
                       &created, "note_offset", &note_offset, "objects", &objects) != 0) {
        json_decref(json);
        return err_set(err, ERR_CORRUPT, "the record of an entry lacks a field: %s", why.text);
    }
    if (size < 0) {
        json_decref(json);
        return err_set(err, ERR_CORRUPT, "the record of an entry has a size that none has");
    }
    *out = (struct entry){
        .kind = strcmp(kind, "mirror") == 0 ? ENTRY_MIRROR : ENTRY_ANSWER,
        .repo_id = xstrdup(repo_id),
        .repo = xstrdup(repo),
        .url = xstrdup(url),
        .path = xstrdup(path),
        .ref = copy_or_null(ref),
        .commit = copy_or_null(commit),
        .applied = copy_or_null(applied),
        .size = (uint64_t)size,
        .created = created,
        .note_offset = note_offset,
        .objects = (uint32_t)objects,
    };
    json_decref(json);
    return 0;
}
