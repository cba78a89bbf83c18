#include "proxy/commands.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <uthash.h>

#include "cache/lock.h"
#include "cache/shared/shared.h"
#include "protocol/base.h"
#include "protocol/smart_http.h"

enum { PROGRESS_MS = 200 }; /* between two lines about it; also when a client that left is seen */

/* ---- which repository is meant ---- */

struct name {
    const char *host;
    size_t host_len, len; /* host_len of len bytes; upper and lower case are the same there */
};

static struct name name_of(const char *s)
{
    struct name n;
    const char *at;

    if (strncasecmp(s, "https://", 8) == 0)
        s += 8;
    else if (strncasecmp(s, "http://", 7) == 0)
        s += 7;
    /* Whoever pastes the URL of a remote may paste a credential. */
    at = memchr(s, '@', strcspn(s, "/"));
    n.host = at != NULL ? at + 1 : s;
    n.host_len = strcspn(n.host, "/");
    n.len = strlen(n.host);
    while (n.len > 0 && n.host[n.len - 1] == '/')
        n.len--;
    if (n.len > 4 && memcmp(n.host + n.len - 4, ".git", 4) == 0)
        n.len -= 4;
    if (n.host_len > n.len)
        n.host_len = n.len;
    return n;
}

static bool same_name(const struct name *a, const char *s)
{
    struct name b = name_of(s);

    return a->len == b.len && a->host_len == b.host_len &&
           strncasecmp(a->host, b.host, b.host_len) == 0 &&
           memcmp(a->host + b.host_len, b.host + b.host_len, b.len - b.host_len) == 0;
}

char *commands_repo_name(const char *typed)
{
    struct name n = name_of(typed);

    return xstrndup(n.host, n.len);
}

bool commands_repo_matches(const char *typed, const struct entry *e)
{
    struct name n = name_of(typed);

    return n.len > 0 && ((e->repo != NULL && same_name(&n, e->repo)) ||
                         (e->url != NULL && same_name(&n, e->url)));
}

/* ---- lines ---- */

struct sums {
    uint64_t count, size, stored_size;
};

struct run {
    struct cache *cache;
    const struct commands_request *request;
    const struct commands_output *out;
    bool gone; /* nobody listens */
    struct sums sums;
};

/* Steals json. */
static void say(struct run *run, json_t *json)
{
    char *text;

    must(json != NULL);
    if (!run->gone) {
        text = json_dumps(json, JSON_COMPACT);
        must(text != NULL);
        run->gone = !run->out->line(run->out->ctx, text, strlen(text));
        free(text);
    }
    json_decref(json);
}

static void say_error(struct run *run, const struct err *why)
{
    char *text = control_error(why);

    if (!run->gone)
        run->gone = !run->out->line(run->out->ctx, text, strlen(text));
    free(text);
}

static json_t *number(uint64_t n)
{
    return n <= INT64_MAX ? json_integer((json_int_t)n) : json_null();
}

static json_t *words(const char *s)
{
    return s != NULL ? control_string(s) : json_null();
}

static json_t *entry_json(const struct entry *e)
{
    json_t *json = json_pack(
        "{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:o, s:s, s:o, s:o, s:I}", "kind",
        entry_kind_name(e->kind), "repo", words(e->repo), "repo_id", words(e->repo_id), "url",
        words(e->url), "ref", words(e->ref), "commit", words(e->commit), "size", number(e->size),
        "stored_size", number(e->stored_size), "created", (json_int_t)e->created, "accessed",
        (json_int_t)e->accessed, "accesses", number(e->accesses), "tier",
        e->tier == TIER_LOCAL ? "local" : "shared", "path", words(e->path), "node", words(e->node),
        "objects", (json_int_t)e->objects);

    must(json != NULL);
    return json;
}

static void count(struct sums *sums, const struct entry *e)
{
    sums->count++;
    sums->size += e->size;
    sums->stored_size += e->stored_size;
}

static json_t *usage_json(struct local *local)
{
    struct local_usage u;

    local_usage(local, &u);
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "total", number(u.total), "limit",
                     number(u.limit), "answers", number(u.bytes[ENTRY_ANSWER]), "mirrors",
                     number(u.bytes[ENTRY_MIRROR]), "filling", number(u.filling), "frame",
                     number(u.frame), "evicted", number(u.evicted), "evicted_bytes",
                     number(u.evicted_bytes));
}

/* {"result":{what all commands tell, ...}}; steals more. */
static void say_result(struct run *run, json_t *more)
{
    json_t *result =
        json_pack("{s:o, s:o, s:o, s:b, s:o}", "count", number(run->sums.count), "size",
                  number(run->sums.size), "stored_size", number(run->sums.stored_size), "complete",
                  (int)local_scanned(run->cache->local), "usage", usage_json(run->cache->local));

    must(result != NULL);
    if (more != NULL)
        must(json_object_update(result, more) == 0);
    json_decref(more);
    say(run, json_pack("{s:o}", "result", result));
}

static bool wanted(const struct run *run, const struct entry *e)
{
    const struct commands_request *r = run->request;

    if (r->repo_id != NULL)
        return e->repo_id != NULL && strcmp(r->repo_id, e->repo_id) == 0;
    return r->repo == NULL || commands_repo_matches(r->repo, e);
}

/* When nothing was found: false, and it is said. */
static bool found_any(struct run *run)
{
    const struct commands_request *r = run->request;
    const char *asked = r->repo != NULL ? r->repo : r->repo_id;
    struct err why;

    if (run->sums.count > 0 || asked == NULL)
        return true;
    err_set(&why, ERR_NOT_FOUND, "nothing is kept of %s%s", asked,
            local_scanned(run->cache->local) ? "" : " so far; the folder is still being read");
    say_error(run, &why);
    return false;
}

/* ---- ls, show ---- */

static int list_entry(void *ctx, const struct entry *e)
{
    struct run *run = ctx;

    if (wanted(run, e)) {
        count(&run->sums, e);
        say(run, json_pack("{s:o}", "entry", entry_json(e)));
    }
    return run->gone;
}

static void run_list_entries(struct run *run)
{
    struct err why;

    if (local_each(run->cache->local, list_entry, run, &why) < 0)
        say_error(run, &why);
    else if (found_any(run))
        say_result(run, NULL);
}

struct repository {
    char *repo, *repo_id, *url;
    struct sums sums;
    uint64_t answers, accesses;
    uint64_t bytes[ENTRY_KINDS_COUNT]; /* on the disk */
    bool mirror;
    int64_t created, accessed;
    UT_hash_handle hh;
};

struct listing {
    struct run *run;
    struct repository *all;
};

static struct repository *repository_of(struct listing *l, const struct entry *e)
{
    struct repository *r;

    HASH_FIND_STR(l->all, e->repo, r);
    if (r != NULL)
        return r;
    r = xcalloc(1, sizeof(*r));
    r->repo = xstrdup(e->repo);
    r->repo_id = xstrdup(e->repo_id != NULL ? e->repo_id : "");
    r->url = xstrdup(e->url);
    HASH_ADD_KEYPTR(hh, l->all, r->repo, strlen(r->repo), r);
    return r;
}

static int list_repository(void *ctx, const struct entry *e)
{
    struct listing *l = ctx;
    struct repository *r;

    if (!wanted(l->run, e))
        return 0;
    count(&l->run->sums, e);
    r = repository_of(l, e);
    count(&r->sums, e);
    r->answers += e->kind == ENTRY_ANSWER;
    r->mirror = r->mirror || e->kind == ENTRY_MIRROR;
    r->accesses += e->accesses;
    r->bytes[e->kind] += e->stored_size;
    if (r->created == 0 || e->created < r->created)
        r->created = e->created;
    if (e->accessed > r->accessed)
        r->accessed = e->accessed;
    return 0;
}

static int by_name(const struct repository *a, const struct repository *b)
{
    return strcmp(a->repo, b->repo);
}

static void say_repository(struct run *run, const struct repository *r)
{
    int64_t pinned_s;
    bool pinned = local_is_pinned(run->cache->local, r->repo_id, &pinned_s);

    say(run,
        json_pack("{s:{s:o, s:o, s:o, s:o, s:b, s:b, s:o, s:o, s:o, s:o, s:I, s:I, s:o}}",
                  "repository", "repo", words(r->repo), "repo_id", words(r->repo_id), "url",
                  words(r->url), "answers", number(r->answers), "mirror", (int)r->mirror, "pinned",
                  (int)pinned, "size", number(r->sums.size), "stored_size",
                  number(r->sums.stored_size), "answers_size", number(r->bytes[ENTRY_ANSWER]),
                  "mirror_size", number(r->bytes[ENTRY_MIRROR]), "created", (json_int_t)r->created,
                  "accessed", (json_int_t)r->accessed, "accesses", number(r->accesses)));
}

static void run_list_repositories(struct run *run)
{
    struct listing l = {.run = run};
    struct repository *r, *next;
    uint64_t repositories;
    struct err why;
    int rc = local_each(run->cache->local, list_repository, &l, &why);

    HASH_SORT(l.all, by_name);
    repositories = HASH_COUNT(l.all);
    HASH_ITER(hh, l.all, r, next)
    {
        if (rc == 0)
            say_repository(run, r);
        HASH_DEL(l.all, r);
        free(r->repo);
        free(r->repo_id);
        free(r->url);
        free(r);
    }
    if (rc != 0)
        say_error(run, &why);
    else if (found_any(run))
        say_result(run, json_pack("{s:o}", "repository_count", number(repositories)));
}

/* ---- rm ---- */

struct removal {
    struct run *run;
    struct entry *entries; /* their number is bounded by what the disk holds */
    size_t len, cap;
    struct key *repo_ids; /* of one repository by all its names: what goes in the shared tier */
    size_t repo_count;
    struct shared_removed shared;
};

static void note_repository(struct removal *r, const struct key *repo_id)
{
    for (size_t i = 0; i < r->repo_count; i++)
        if (memcmp(&r->repo_ids[i], repo_id, sizeof(*repo_id)) == 0)
            return;
    r->repo_ids = xrealloc(r->repo_ids, (r->repo_count + 1) * sizeof(*r->repo_ids));
    r->repo_ids[r->repo_count++] = *repo_id;
}

bool commands_repo_id(const char *typed, struct key *out)
{
    struct name n = name_of(typed);
    char *host, *path;

    if (n.len <= n.host_len + 1)
        return false;
    host = xstrndup(n.host, n.host_len);
    path = xstrndup(n.host + n.host_len + 1, n.len - n.host_len - 1);
    repo_id_of(host, path, out);
    free(path);
    free(host);
    return true;
}

static int remove_shared(struct removal *r, struct err *err)
{
    struct shared *shared = r->run->cache->shared;
    int rc = 0;

    for (size_t i = 0; i < r->repo_count && shared != NULL && rc == 0; i++)
        rc = shared_remove_repository(shared, &r->repo_ids[i], &r->shared, err);
    return rc;
}

static int collect(void *ctx, const struct entry *e)
{
    struct removal *r = ctx;

    struct key repo_id;

    if (!wanted(r->run, e))
        return 0;
    if (r->run->request->repo != NULL && e->repo_id != NULL && key_from_hex(e->repo_id, &repo_id))
        note_repository(r, &repo_id);
    if (r->len == r->cap) {
        r->cap = r->cap > 0 ? 2 * r->cap : 64;
        r->entries = xrealloc(r->entries, r->cap * sizeof(*r->entries));
    }
    entry_copy(e, &r->entries[r->len++]);
    return 0;
}

/* -1: it can't be removed; what went meanwhile by itself isn't counted, and is no trouble. */
static int remove_entry(struct run *run, const struct entry *e, struct err *err)
{
    if (local_remove(run->cache->local, e->path, err) == 0) {
        count(&run->sums, e);
        say(run, json_pack("{s:o}", "entry", entry_json(e)));
        return 0;
    }
    return err->kind == ERR_NOT_FOUND ? 0 : -1;
}

static void run_rm(struct run *run)
{
    struct removal r = {.run = run};
    struct err why, first;
    struct key typed;
    /* First all, then away with them: what is walked stays as it is meanwhile. */
    int rc = local_each(run->cache->local, collect, &r, &first);

    /* The shared tier may have what isn't here. */
    if (run->request->repo != NULL && commands_repo_id(run->request->repo, &typed))
        note_repository(&r, &typed);
    if (rc == 0)
        rc = remove_shared(&r, &first);
    for (size_t i = 0; i < r.len; i++) {
        /* What can't be removed keeps nothing else here. */
        if (!run->gone && remove_entry(run, &r.entries[i], &why) != 0 && rc == 0) {
            first = why;
            rc = -1;
        }
        entry_clear(&r.entries[i]);
    }
    /* Once more, as some of it may have been on its way up. */
    if (rc == 0)
        rc = remove_shared(&r, &first);
    free(r.entries);
    free(r.repo_ids);
    if (rc != 0)
        say_error(run, &first);
    else if (r.shared.objects > 0 || found_any(run))
        say_result(run, json_pack("{s:{s:o, s:o}}", "shared", "objects", number(r.shared.objects),
                                  "bytes", number(r.shared.bytes)));
}

/* ---- verify ---- */

struct verification {
    struct run *run;
    atomic_bool stop;
    uint64_t told_ms, checked, repaired;
};

static void verify_progress(void *ctx, uint64_t done, uint64_t total)
{
    struct verification *v = ctx;
    uint64_t now = now_ms();

    v->checked = done;
    if (done < total && v->told_ms != 0 && now - v->told_ms < PROGRESS_MS)
        return;
    v->told_ms = now;
    say(v->run,
        json_pack("{s:{s:o, s:o}}", "progress", "done", number(done), "total", number(total)));
    v->stop = v->run->gone;
}

static void verify_finding(void *ctx, const struct cache_finding *f)
{
    struct verification *v = ctx;

    count(&v->run->sums, f->entry);
    v->repaired += f->repaired;
    say(v->run, json_pack("{s:{s:o, s:s, s:o, s:b}}", "finding", "entry", entry_json(f->entry),
                          "kind", err_kind_name(f->why->kind), "text", words(f->why->text),
                          "repaired", (int)f->repaired));
    v->stop = v->run->gone;
}

static void run_verify(struct run *run)
{
    struct verification v = {.run = run};
    const struct cache_verify how = {
        .repair = run->request->repair,
        .progress = verify_progress,
        .finding = verify_finding,
        .ctx = &v,
        .stop = &v.stop,
    };
    struct err why;

    if (cache_verify(run->cache, &how, &why) != 0)
        say_error(run, &why);
    else
        say_result(run, json_pack("{s:o, s:o}", "checked", number(v.checked), "repaired",
                                  number(v.repaired)));
}

/* ---- evict ---- */

static void preview_entry(void *ctx, const struct entry *e, const char *why)
{
    struct run *run = ctx;
    json_t *entry = entry_json(e);

    count(&run->sums, e);
    must(json_object_set_new(entry, "why", words(why)) == 0);
    say(run, json_pack("{s:o}", "entry", entry));
}

static void run_evict(struct run *run)
{
    struct local *local = run->cache->local;
    struct local_usage before, after;

    local_usage(local, &before);
    if (run->request->dry_run) {
        local_preview(local, time(NULL), run->request->goal, preview_entry, run);
    } else {
        run->sums.stored_size = local_evict(local, time(NULL), run->request->goal);
        local_usage(local, &after);
        run->sums.count = after.evicted - before.evicted;
    }
    say_result(run, json_pack("{s:b, s:o, s:o}", "dry_run", (int)run->request->dry_run, "goal",
                              number(run->request->goal), "before", number(before.total)));
}

void commands_run(struct cache *c, const struct commands_request *r,
                  const struct commands_output *out)
{
    struct run run = {.cache = c, .request = r, .out = out};

    switch (r->kind) {
    case COMMANDS_LS:
        if (r->entries)
            run_list_entries(&run);
        else
            run_list_repositories(&run);
        break;
    case COMMANDS_SHOW: run_list_entries(&run); break;
    case COMMANDS_RM: run_rm(&run); break;
    case COMMANDS_VERIFY: run_verify(&run); break;
    case COMMANDS_EVICT: run_evict(&run); break;
    }
}

static bool send_line(void *client, const char *line, size_t len)
{
    return control_send(client, line, len);
}

void commands_serve(void *cache, const char *request, size_t len, struct control_client *client)
{
    const struct commands_output out = {.line = send_line, .ctx = client};
    struct run none = {.out = &out};
    struct commands_request r;
    struct err why;

    if (commands_request_read(request, len, &r, &why) != 0) {
        say_error(&none, &why);
        return;
    }
    commands_run(cache, &r, &out);
    commands_request_clear(&r);
}
