#include "proxy/commands.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

enum field {
    FIELD_REPO = 1,
    FIELD_ALL = 2,
    FIELD_ENTRIES = 4,
    FIELD_REPAIR = 8,
    FIELD_EVICT = 16,
    FIELD_REPO_ID = 32,
};

/* What a command doesn't know it refuses: `rm` must not take "dry_run" for nothing. */
static const struct {
    const char *name;
    unsigned fields;
} kinds[] = {
    [COMMANDS_LS] = {"ls", FIELD_REPO | FIELD_REPO_ID | FIELD_ENTRIES},
    [COMMANDS_SHOW] = {"show", FIELD_REPO | FIELD_REPO_ID},
    [COMMANDS_RM] = {"rm", FIELD_REPO | FIELD_ALL},
    [COMMANDS_VERIFY] = {"verify", FIELD_REPAIR},
    [COMMANDS_EVICT] = {"evict", FIELD_EVICT},
};

/* The texts of a request. */
static const struct {
    const char *name;
    size_t offset;
} texts[] = {
    {"repo", offsetof(struct commands_request, repo)},
    {"repo_id", offsetof(struct commands_request, repo_id)},
};

static char **text_of(struct commands_request *r, size_t i)
{
    return (char **)((char *)r + texts[i].offset);
}

static unsigned fields_of(const struct commands_request *r)
{
    return (r->repo != NULL ? FIELD_REPO : 0) | (r->repo_id != NULL ? FIELD_REPO_ID : 0) |
           (r->all ? FIELD_ALL : 0) | (r->entries ? FIELD_ENTRIES : 0) |
           (r->repair ? FIELD_REPAIR : 0) | (r->dry_run || r->goal != UINT64_MAX ? FIELD_EVICT : 0);
}

int commands_request_check(const struct commands_request *r, struct err *err)
{
    const char *name = kinds[r->kind].name;

    if ((fields_of(r) & ~kinds[r->kind].fields) != 0)
        return err_set(err, ERR_INPUT, "%s does not take all of this", name);
    if (r->repo != NULL && r->repo_id != NULL)
        return err_set(err, ERR_INPUT, "%s takes a repository's name or its id", name);
    if (r->kind == COMMANDS_SHOW && r->repo == NULL && r->repo_id == NULL)
        return err_set(err, ERR_INPUT, "%s needs a repository", name);
    if (r->kind == COMMANDS_RM && (r->repo == NULL) == !r->all)
        return err_set(err, ERR_INPUT, "%s needs a repository, or all", name);
    if (r->repo != NULL && r->repo[0] == '\0')
        return err_set(err, ERR_INPUT, "the repository has no name");
    return 0;
}

static int find_kind(const char *name, enum commands_kind *out, struct err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (strcmp(kinds[i].name, name) == 0) {
            *out = (enum commands_kind)i;
            return 0;
        }
    return err_set(err, ERR_INPUT, "this pannier does not know the command");
}

static int unpack_request(json_t *json, struct commands_request *out, struct err *err)
{
    const char *command, *values[ARRAY_LEN(texts)] = {NULL};
    int all = 0, entries = 0, repair = 0, dry_run = 0;
    json_int_t goal = -1;
    json_error_t why;

    if (json_unpack_ex(json, &why, 0, "{s:s, s?s, s?s, s?b, s?b, s?b, s?b, s?I !}", "command",
                       &command, texts[0].name, &values[0], texts[1].name, &values[1], "all", &all,
                       "entries", &entries, "repair", &repair, "dry_run", &dry_run, "goal",
                       &goal) != 0)
        return err_set(err, ERR_INPUT, "the request makes no sense: %s", why.text);
    *out = (struct commands_request){
        .all = all != 0,
        .entries = entries != 0,
        .repair = repair != 0,
        .dry_run = dry_run != 0,
        .goal = goal < 0 ? UINT64_MAX : (uint64_t)goal,
    };
    if (find_kind(command, &out->kind, err) != 0)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        *text_of(out, i) = values[i] != NULL ? xstrdup(values[i]) : NULL;
    if (commands_request_check(out, err) == 0)
        return 0;
    commands_request_clear(out);
    return -1;
}

int commands_request_read(const char *line, size_t len, struct commands_request *out,
                          struct err *err)
{
    json_error_t why;
    json_t *json = json_loadb(line, len, JSON_REJECT_DUPLICATES, &why);
    int rc;

    if (json == NULL)
        return err_set(err, ERR_INPUT, "the request is no JSON: %s", why.text);
    rc = unpack_request(json, out, err);
    json_decref(json);
    return rc;
}

static void set_if(json_t *json, const char *name, bool value)
{
    if (value)
        must(json_object_set_new(json, name, json_true()) == 0);
}

static int set_texts(json_t *json, const struct commands_request *r, struct err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        const char *text = *text_of((struct commands_request *)r, i);
        json_t *value = text != NULL ? json_string(text) : NULL;

        if (text != NULL && value == NULL)
            return err_set(err, ERR_INPUT, "the %s is not UTF-8",
                           i == 0 ? "repository's name" : texts[i].name);
        if (value != NULL)
            must(json_object_set_new(json, texts[i].name, value) == 0);
    }
    return 0;
}

int commands_request_write(const struct commands_request *r, struct bytes *out, struct err *err)
{
    json_t *json = json_pack("{s:s}", "command", kinds[r->kind].name);
    char *text;
    int rc;

    must(json != NULL);
    if (set_texts(json, r, err) != 0) {
        json_decref(json);
        return -1;
    }
    set_if(json, "all", r->all);
    set_if(json, "entries", r->entries);
    set_if(json, "repair", r->repair);
    set_if(json, "dry_run", r->dry_run);
    if (r->goal <= INT64_MAX)
        must(json_object_set_new(json, "goal", json_integer((json_int_t)r->goal)) == 0);
    text = json_dumps(json, JSON_COMPACT);
    must(text != NULL);
    rc = bytes_add_str(out, text) == 0
             ? 0
             : err_set(err, ERR_INPUT, "the repository's name is too long");
    free(text);
    json_decref(json);
    return rc;
}

void commands_request_clear(struct commands_request *r)
{
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        free(*text_of(r, i));
    *r = (struct commands_request){.goal = UINT64_MAX};
}
