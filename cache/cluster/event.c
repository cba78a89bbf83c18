#include "cache/cluster/event.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

static const char *const kinds[] = {[EVENT_UPDATE] = "update", [EVENT_INVALIDATE] = "invalidate"};
static const char *const scopes[] = {[SCOPE_REPOSITORY] = "repository",
                                     [SCOPE_REF] = "ref",
                                     [SCOPE_OBJECT] = "object",
                                     [SCOPE_EVERYTHING] = "everything"};

const char *event_kind_name(enum event_kind kind)
{
    must((size_t)kind < ARRAY_LEN(kinds));
    return kinds[kind];
}

const char *event_scope_name(enum event_scope scope)
{
    must((size_t)scope < ARRAY_LEN(scopes));
    return scopes[scope];
}

/* What stops e from being sent or taken; NULL: nothing. */
static const char *find_fault(const struct event *e)
{
    struct key ignored;
    bool has_repo = e->repo_id[0] != '\0', wants_repo, wants_name;

    wants_repo =
        e->kind != EVENT_INVALIDATE || e->scope == SCOPE_REPOSITORY || e->scope == SCOPE_REF;
    wants_name = e->kind == EVENT_INVALIDATE && (e->scope == SCOPE_REF || e->scope == SCOPE_OBJECT);
    if (has_repo && !key_from_hex(e->repo_id, &ignored))
        return "its repository's id is none";
    if (wants_repo && !has_repo)
        return "it names no repository";
    if (wants_name && e->name[0] == '\0')
        return "it names no ref or object";
    if (strlen(e->repo) > EVENT_TEXT_MAX || strlen(e->name) > EVENT_TEXT_MAX ||
        strlen(e->reason) > EVENT_REASON_MAX || strlen(e->node) > EVENT_REASON_MAX)
        return "one of its texts is too long";
    return NULL;
}

static size_t put_word(const char **words, size_t n, const char *name, const char *value)
{
    if (value[0] == '\0')
        return n;
    words[n] = name;
    words[n + 1] = value;
    return n + 2;
}

size_t event_write(const struct event *e, const char **words, size_t n,
                   char generation[REDIS_NUMBER_SIZE], struct err *err)
{
    const char *fault = find_fault(e);

    if (fault != NULL) {
        err_set(err, ERR_INPUT, "the event can't be sent: %s", fault);
        return 0;
    }
    n = put_word(words, n, "kind", event_kind_name(e->kind));
    if (e->kind == EVENT_INVALIDATE)
        n = put_word(words, n, "scope", event_scope_name(e->scope));
    n = put_word(words, n, "node", e->node);
    n = put_word(words, n, "repo_id", e->repo_id);
    n = put_word(words, n, "repo", e->repo);
    n = put_word(words, n, "name", e->name);
    if (e->generation != 0)
        n = put_word(words, n, "generation", redis_number(e->generation, generation));
    n = put_word(words, n, "unpin", !e->unpin ? "" : e->unpin_id[0] != '\0' ? e->unpin_id : "1");
    return put_word(words, n, "reason", e->reason);
}

/* The place of word among names, or count. */
static size_t find_word(const char *const *names, size_t count, const char *word)
{
    size_t i = 0;

    while (i < count && strcmp(names[i], word) != 0)
        i++;
    return i;
}

static const char *field(const struct redis_reply *fields, const char *name)
{
    const char *value = redis_field(fields, name);

    return value != NULL ? value : "";
}

/* "1", or the id of the event that has said it first. */
static void read_unpin(const char *text, struct event *out)
{
    out->unpin = out->kind == EVENT_INVALIDATE && out->scope == SCOPE_REPOSITORY && text[0] != '\0';
    if (out->unpin && event_id_ms(text) > 0 && strlen(text) < sizeof(out->unpin_id))
        strcpy(out->unpin_id, text);
}

/* False: longer than any. */
static bool copy_hex(const struct redis_reply *fields, const char *name, char out[KEY_HEX_SIZE])
{
    const char *value = field(fields, name);

    if (strlen(value) >= KEY_HEX_SIZE)
        return false;
    strcpy(out, value);
    return true;
}

static bool read_generation(const char *text, uint64_t *out)
{
    size_t len = strlen(text);

    *out = strtoull(text, NULL, 10);
    return len < 20 && strspn(text, "0123456789") == len;
}

int event_read(const struct redis_reply *fields, struct event *out, struct err *err)
{
    size_t kind = find_word(kinds, ARRAY_LEN(kinds), field(fields, "kind"));
    size_t scope = find_word(scopes, ARRAY_LEN(scopes), field(fields, "scope"));
    const char *fault;

    *out = (struct event){.repo = field(fields, "repo"),
                          .name = field(fields, "name"),
                          .reason = field(fields, "reason"),
                          .node = field(fields, "node")};
    if (field(fields, "kind")[0] == '\0')
        return err_set(err, ERR_CORRUPT, "an event has no kind");
    if (kind == ARRAY_LEN(kinds))
        return err_set(err, ERR_REFUSED, "an event has a kind that this version doesn't know");
    out->kind = (enum event_kind)kind;
    if (out->kind == EVENT_INVALIDATE)
        out->scope = scope < ARRAY_LEN(scopes) ? (enum event_scope)scope : SCOPE_EVERYTHING;
    read_unpin(field(fields, "unpin"), out);
    if (!copy_hex(fields, "repo_id", out->repo_id) ||
        !read_generation(field(fields, "generation"), &out->generation))
        return err_set(err, ERR_CORRUPT, "an event has a field that is too long, or no number");
    fault = find_fault(out);
    return fault == NULL ? 0 : err_set(err, ERR_CORRUPT, "an event makes no sense: %s", fault);
}

int64_t event_id_ms(const char *id)
{
    size_t digits = strspn(id, "0123456789");

    return digits > 0 && digits <= 18 && id[digits] == '-' ? strtoll(id, NULL, 10) : 0;
}

struct event_place event_place_of(const char *id)
{
    struct event_place p = {0};

    sscanf(id, "%llu-%llu", &p.ms, &p.number);
    return p;
}

int event_place_compare(const struct event_place *a, const struct event_place *b)
{
    if (a->ms != b->ms)
        return a->ms < b->ms ? -1 : 1;
    return a->number < b->number ? -1 : a->number > b->number;
}

int event_id_compare(const char *a, const char *b)
{
    struct event_place one = event_place_of(a), other = event_place_of(b);

    return event_place_compare(&one, &other);
}
