#include "proxy/config.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "protocol/base.h"
#include "protocol/jwt.h"
#include "proxy/config_file.h"
#include "proxy/config_setting.h"
#include "proxy/warm/name.h"
#include "proxy/warm/timetable.h"

/* What callers hold is the second member; the count is ours alone. */
struct counted {
    atomic_uint references;
    unsigned own_line; /* of the file: where an upstream first has a credential of pannier's own */
    struct config config;
};

static struct counted *counted_of(const struct config *c)
{
    return (struct counted *)((char *)c - offsetof(struct counted, config));
}

static void config_free(struct counted *held)
{
    struct config *c = &held->config;

    for (int s = 0; s < SECTION_COUNT; s++) {
        const struct setting_list *list = setting_list_of((enum setting_section)s);

        if (list)
            setting_list_clear(list, c);
        else
            setting_clear((enum setting_section)s, c);
    }
    free(c->file);
    free(held);
}

struct config *config_ref(const struct config *c)
{
    struct counted *held = counted_of(c);

    atomic_fetch_add_explicit(&held->references, 1, memory_order_relaxed);
    return &held->config;
}

void config_unref(struct config **cp)
{
    struct config *c = *cp;

    *cp = NULL;
    if (c && atomic_fetch_sub_explicit(&counted_of(c)->references, 1, memory_order_acq_rel) == 1)
        config_free(counted_of(c));
}

/* Upstreams. */

static struct upstream_config *add_upstream(struct config *c)
{
    return setting_list_add(setting_list_of(SECTION_upstreams), c);
}

static void add_usual_upstreams(struct config *c)
{
    static const char *const hosts[] = {"github.com", "gitlab.com", "bitbucket.org",
                                        "codeberg.org"};

    for (size_t i = 0; i < ARRAY_LEN(hosts); i++) {
        struct upstream_config *u = add_upstream(c);

        u->name = xstrdup(hosts[i]);
        u->url = xasprintf("https://%s", hosts[i]);
    }
}

static bool same_stars(const struct upstream_config *u, char why[SETTING_WHY_MAX])
{
    bool name = strchr(u->name, '*') != NULL, url = strchr(u->url, '*') != NULL;

    if (name != url)
        snprintf(why, SETTING_WHY_MAX, "%s",
                 name
                     ? "has no '*' although the name has one; put '*' where what it matched belongs"
                     : "has a '*' although the name has none; put one into the name as well");
    return name == url;
}

/* The file's part. */

struct loading {
    const char *path;
    struct config *config;
    struct err *err;
};

/* Which kind of credential needs a setting of an upstream; no other kind has a use for it. */
static const struct {
    enum setting_id id;
    enum auth_kind kind;
} auth_settings[] = {
    {setting_upstreams_token_file, AUTH_TOKEN},
    {setting_upstreams_credential_helper, AUTH_HELPER},
    {setting_upstreams_app_id, AUTH_GITHUB_APP},
    {setting_upstreams_private_key_file, AUTH_GITHUB_APP},
    {setting_upstreams_netrc_file, AUTH_NETRC},
};
static const char *const auth_names[] = {"passthrough", "token", "helper", "github_app", "netrc"};

static int complain(struct loading *l, unsigned line, const char *prefix, const char *key,
                    const char *why)
{
    return err_set(l->err, ERR_INPUT, "%s:%u: %s%s%s: %s", l->path, line, prefix,
                   *prefix ? "." : "", key, why);
}

/* Every setting of the section that the file has, into base. */
static int apply_section(struct loading *l, enum setting_section section, const char *prefix,
                         const struct config_place *places, void *base)
{
    char why[SETTING_WHY_MAX];

    for (size_t i = 0; i < SETTINGS_TOTAL; i++) {
        const struct setting *s = &setting_table[i];

        if (s->section == section && places[i].text && !setting_set(s, places[i].text, base, why))
            return complain(l, places[i].line, prefix, s->key, why);
    }
    return 0;
}

static bool name_taken(const struct config *c, const struct upstream_config *u)
{
    for (size_t i = 0; i < c->upstream_count; i++)
        if (&c->upstreams[i] != u && c->upstreams[i].name &&
            strcmp(c->upstreams[i].name, u->name) == 0)
            return true;
    return false;
}

/* A setting for another kind of credential is refused rather than ignored: who writes token_file
 * and forgets auth would find its clients' credentials used. */
static int check_auth(struct loading *l, const struct config_file_item *from, const char *prefix,
                      const struct upstream_config *u)
{
    unsigned line = from->set[setting_upstreams_auth].line;
    const struct config_place *username = &from->set[setting_upstreams_username];
    char why[SETTING_WHY_MAX];

    for (size_t i = 0; i < ARRAY_LEN(auth_settings); i++) {
        const char *key = setting_table[auth_settings[i].id].key;
        const char *kind = auth_names[auth_settings[i].kind];
        const struct config_place *place = &from->set[auth_settings[i].id];

        if (place->text && u->auth != auth_settings[i].kind) {
            snprintf(why, sizeof(why), "is for 'auth: %s'; write that, or leave this out", kind);
            return complain(l, place->line, prefix, key, why);
        }
        if (!place->text && u->auth == auth_settings[i].kind) {
            snprintf(why, sizeof(why), "is missing, which 'auth: %s' needs", kind);
            return complain(l, line, prefix, key, why);
        }
    }
    if (username->text && (u->auth == AUTH_PASSTHROUGH || u->auth == AUTH_GITHUB_APP))
        return complain(l, username->line, prefix, "username",
                        "is for 'auth: token', 'helper' and 'netrc'; leave it out");
    if (username->text && strchr(u->username, ':'))
        return complain(l, username->line, prefix, "username",
                        "holds a ':', which no user name may; write it without");
    if (u->auth != AUTH_PASSTHROUGH && counted_of(l->config)->own_line == 0)
        counted_of(l->config)->own_line = line;
    if (u->app_id && !jwt_issuer_ok(u->app_id))
        return complain(l, from->set[setting_upstreams_app_id].line, prefix, "app_id",
                        "is no id of an app; write letters, digits, '.', '-' and '_'");
    if (u->auth != AUTH_PASSTHROUGH && strchr(u->name, '*'))
        return complain(l, line, prefix, "auth",
                        "gives a credential to whatever host a client chooses; write an entry "
                        "with a name without '*'");
    return 0;
}

static int check_client(struct loading *l, const struct config_file_item *from, const char *prefix,
                        const struct client_config *client)
{
    const struct config *c = l->config;

    if (!client->name)
        return complain(l, from->line, prefix, "name", "is missing; write what the log calls it");
    for (size_t i = 0; &c->clients[i] != client; i++)
        if (strcmp(c->clients[i].name, client->name) == 0)
            return complain(l, from->set[setting_clients_name].line, prefix, "name",
                            "is the name of an earlier client; give each its own");
    if (!client->token_hash.set && !client->tls_subject && client->network.count == 0)
        return complain(l, from->line, prefix, "token_hash",
                        "is missing; write it, or tls_subject, or network");
    if (client->repositories.count == 0)
        return complain(l, from->line, prefix, "repositories",
                        "is missing; write for instance [github.com/acme/*]");
    return 0;
}

/* Does the file say something of it that isn't the default, which `config show` writes? */
static bool is_meant(const struct config_file_item *from, enum setting_id id)
{
    const char *text = from->set[id].text;

    return text && strcmp(text, setting_table[id].standard) != 0;
}

/* Refs are kept by a time, or until a webhook comes: each has settings of its own. */
static int check_webhook(struct loading *l, const struct config_file_item *from, const char *prefix,
                         const struct upstream_config *u)
{
    const struct config_place *set = from->set;

    if (is_meant(from, setting_upstreams_webhook_forge) && !u->webhook_secret_file)
        return complain(l, set[setting_upstreams_webhook_forge].line, prefix, "webhook_forge",
                        "is of no use without webhook_secret_file; write that, or leave this out");
    if (u->refs == REFS_WEBHOOK && !u->webhook_secret_file)
        return complain(l, set[setting_upstreams_refs].line, prefix, "refs",
                        "is 'webhook', and webhook_secret_file is missing, without which none is "
                        "believed");
    if (is_meant(from, setting_upstreams_refs_ttl) && u->refs == REFS_WEBHOOK)
        return complain(l, set[setting_upstreams_refs_ttl].line, prefix, "refs_ttl",
                        "is for 'refs: ask'; write refs_floor");
    if (is_meant(from, setting_upstreams_refs_floor) && u->refs != REFS_WEBHOOK)
        return complain(l, set[setting_upstreams_refs_floor].line, prefix, "refs_floor",
                        "is for 'refs: webhook'; write that, or refs_ttl");
    return 0;
}

/* Are the settings of this entry, each of them right, right together? */
static int check_upstream(struct loading *l, const struct config_file_item *from,
                          const char *prefix, const struct upstream_config *u)
{
    char why[SETTING_WHY_MAX];

    if (!u->name)
        return complain(l, from->line, prefix, "name", "is missing; write the host's name");
    if (!u->url)
        return complain(l, from->line, prefix, "url",
                        "is missing; write for instance https://git.example.com");
    if (name_taken(l->config, u))
        return complain(l, from->set[setting_upstreams_name].line, prefix, "name",
                        "is the name of an earlier upstream; give each its own");
    if (!same_stars(u, why))
        return complain(l, from->set[setting_upstreams_url].line, prefix, "url", why);
    if (check_webhook(l, from, prefix, u) != 0)
        return -1;
    return check_auth(l, from, prefix, u);
}

static int apply_list(struct loading *l, const struct setting_list *list,
                      const struct config_file_list *from)
{
    for (size_t i = 0; i < from->count; i++) {
        const struct config_file_item *item = &from->items[i];
        void *base = setting_list_add(list, l->config);
        char prefix[32];
        int rc;

        snprintf(prefix, sizeof(prefix), "%s[%zu]", section_name(list->section), i);
        rc = apply_section(l, list->section, prefix, item->set, base);
        if (list->section == SECTION_warm_repositories)
            ((struct warm_repository_config *)base)->line = item->line;
        if (rc == 0 && list->section == SECTION_upstreams)
            rc = check_upstream(l, item, prefix, base);
        else if (rc == 0 && list->section == SECTION_clients)
            rc = check_client(l, item, prefix, base);
        if (rc != 0)
            return -1;
    }
    return 0;
}

static int apply_file(struct loading *l, const struct config_file *file)
{
    for (int s = 0; s < SECTION_COUNT; s++) {
        enum setting_section section = (enum setting_section)s;
        const struct setting_list *list = setting_list_of(section);
        int rc = list ? apply_list(l, list, &file->lists[s])
                      : apply_section(l, section, section_name(section), file->set, l->config);

        if (rc != 0)
            return -1;
    }
    if (!file->lists[SECTION_upstreams].there)
        add_usual_upstreams(l->config);
    return 0;
}

/* Whoever reaches the port could use what pannier's own credentials may read. */
static int check_own(const struct config *c, struct err *err)
{
    struct address address;
    bool loopback = strcmp(c->listen.host, "localhost") == 0 ||
                    (address_parse(c->listen.host, &address) && address_is_loopback(&address));

    for (size_t i = 0; i < c->upstream_count && c->client_count == 0 && !loopback; i++)
        if (c->upstreams[i].auth != AUTH_PASSTHROUGH)
            return err_set(err, ERR_INPUT,
                           "%s:%u: clients: are missing, as %s has 'auth: %s' and others than this "
                           "machine could use it; list them, or listen on 127.0.0.1",
                           c->file, counted_of(c)->own_line, c->upstreams[i].name,
                           auth_names[c->upstreams[i].auth]);
    return 0;
}

static int load_file(const char *path, struct config *c, struct err *err)
{
    struct loading l = {.path = path, .config = c, .err = err};
    struct config_file *file;
    int rc;

    if (config_file_load(path, &file, err) != 0)
        return -1;
    c->file = xstrdup(path);
    rc = apply_file(&l, file);
    config_file_free(&file);
    return rc;
}

/* The command line's part. */

static int override(enum setting_id id, const char *option, const char *text, void *base,
                    struct err *err)
{
    char why[SETTING_WHY_MAX];

    if (!text || setting_set(&setting_table[id], text, base, why))
        return 0;
    return err_set(err, ERR_INPUT, "%s: %s", option, why);
}

static int override_data(const char *text, struct config *c, struct err *err)
{
    char *here, *whole;
    int rc;

    if (!text)
        return 0;
    if (*text == '/' || *text == '\0')
        return override(setting_top_data, "--data", text, c, err);
    here = getcwd(NULL, 0);
    if (!here)
        return err_errno(err, ERR_INPUT, "--data: the working directory is unknown");
    whole = xasprintf("%s/%s", here, text);
    rc = override(setting_top_data, "--data", whole, c, err);
    free(whole);
    free(here);
    return rc;
}

/* The entry of that name with its settings back at their defaults, or a new one: an earlier
 * entry's ca_file is not for another URL. */
static struct upstream_config *upstream_for(struct config *c, const char *name)
{
    for (size_t i = 0; i < c->upstream_count; i++)
        if (strcmp(c->upstreams[i].name, name) == 0) {
            setting_clear(SECTION_upstreams, &c->upstreams[i]);
            setting_set_defaults(SECTION_upstreams, &c->upstreams[i]);
            return &c->upstreams[i];
        }
    return add_upstream(c);
}

static int override_upstream(const char *text, struct config *c, struct err *err)
{
    const char *equals = strchr(text, '=');
    struct upstream_config *u;
    char why[SETTING_WHY_MAX], *name;
    int rc = -1;

    if (!equals)
        return err_set(err, ERR_INPUT,
                       "--upstream: has no '='; write NAME=URL, for instance "
                       "git.example.com=https://git.example.com");
    name = xstrndup(text, (size_t)(equals - text));
    if (!upstream_name_ok(name, true, why)) {
        err_set(err, ERR_INPUT, "--upstream: the name %s", why);
        goto out;
    }
    u = upstream_for(c, name);
    must(setting_set(&setting_table[setting_upstreams_name], name, u, why));
    if (!setting_set(&setting_table[setting_upstreams_url], equals + 1, u, why) ||
        !same_stars(u, why)) {
        err_set(err, ERR_INPUT, "--upstream: the URL of %s %s", name, why);
        goto out;
    }
    rc = 0;
out:
    free(name);
    return rc;
}

static int apply_overrides(const struct config_overrides *o, struct config *c, struct err *err)
{
    if (override(setting_top_listen, "--listen", o->listen, c, err) != 0 ||
        override_data(o->data, c, err) != 0 ||
        override(setting_admin_listen, "--admin-listen", o->admin_listen, c, err) != 0 ||
        override(setting_log_format, "--log-format", o->log_format, c, err) != 0)
        return -1;
    for (size_t i = 0; i < o->upstream_count; i++)
        if (override_upstream(o->upstreams[i], c, err) != 0)
            return -1;
    return 0;
}

/* $XDG_CACHE_HOME counts only as an absolute path, as its specification says. */
static int default_data(struct config *c, struct err *err)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char *path;
    int rc;

    if (cache && *cache == '/')
        path = xasprintf("%s/pannier", cache);
    else if (home && *home == '/')
        path = xasprintf("%s/.cache/pannier", strcmp(home, "/") == 0 ? "" : home);
    else
        path = xstrdup("/var/cache/pannier");
    rc = override(setting_top_data, "data (from $XDG_CACHE_HOME or $HOME)", path, c, err);
    free(path);
    return rc;
}

/* Without a name of its own a node is called like its host. */
static void default_node(struct config *c)
{
    char host[256] = "";

    if (c->node)
        return;
    gethostname(host, sizeof(host) - 1);
    c->node = xstrdup(host[0] != '\0' ? host : "localhost");
}

void config_object_store(const struct config *c, struct object_store_config *out)
{
    static const char *const drivers[] = {NULL, "s3", "libs3", "file"};

    *out = (struct object_store_config){
        .driver = drivers[c->shared.driver],
        .endpoint = c->shared.endpoint,
        .bucket = c->shared.bucket,
        .prefix = c->shared.prefix,
        .region = c->shared.region,
        .virtual_host = c->shared.virtual_host,
        .ca_file = c->shared.ca_file,
        .credentials_file = c->shared.credentials_file,
        .server_side_encryption = c->shared.server_side_encryption,
        .kms_key = c->shared.kms_key,
        .connect_timeout_ms = c->shared.connect_timeout_ms,
        .stall_timeout_ms = c->shared.stall_timeout_ms,
        .deadline_ms = c->shared.deadline_ms,
        .parallel = c->shared.parallel,
    };
}

/* What several settings have to be together, the drivers know. */
static int check_shared(const struct config *c, struct err *err)
{
    struct object_store_config store;
    struct object_store *opened;

    if (c->shared.driver == SHARED_OFF)
        return 0;
    config_object_store(c, &store);
    if (object_store_open(&store, &opened, err) != 0)
        return c->file ? err_prefix(err, "%s: shared", c->file) : err_prefix(err, "shared");
    object_store_free(&opened);
    return 0;
}

bool config_tls(const struct config *c, struct tls_files *out)
{
    *out = (struct tls_files){.certificate = c->tls.certificate,
                              .key = c->tls.key,
                              .client_ca = c->tls.client_ca,
                              .client = c->tls.client};
    return c->tls.certificate != NULL;
}

/* Half a TLS must not become none. */
static int check_tls(const struct config *c, struct err *err)
{
    const char *missing = c->tls.certificate == NULL ? "certificate" : "key";
    const char *there = c->tls.certificate != NULL ? "certificate"
                        : c->tls.key != NULL       ? "key"
                                                   : "client_ca";

    if ((c->tls.certificate != NULL && c->tls.key != NULL) ||
        (c->tls.certificate == NULL && c->tls.key == NULL && c->tls.client_ca == NULL))
        return 0;
    return err_set(err, ERR_INPUT, "%s: tls.%s: is missing although tls.%s is set; name both files",
                   c->file, missing, there);
}

bool host_is_loopback(const char *host, size_t len)
{
    static const char *const names[] = {"localhost", "::1"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (len == strlen(names[i]) && strncasecmp(host, names[i], len) == 0)
            return true;
    /* Four numbers: "127.0.0.1.example.org" is anybody's. */
    if (len < 9 || memcmp(host, "127.", 4) != 0)
        return false;
    for (size_t i = 0, dots = 0; i < len; i++) {
        dots += host[i] == '.';
        if (dots > 3 || (host[i] != '.' && (host[i] < '0' || host[i] > '9')))
            return false;
    }
    return true;
}

bool config_admin_is_default(const struct config *c)
{
    const struct setting *s = &setting_table[setting_admin_listen];
    char *text = setting_get(s, c);
    bool same = strcmp(text, s->standard) == 0;

    free(text);
    return same;
}

/* Once all upstreams are known. */
static int check_warm_repository(const struct config *c, size_t i, struct err *err)
{
    const struct warm_repository_config *r = &c->warm_repositories[i];
    char *name;

    if (r->url == NULL)
        return err_set(err, ERR_INPUT,
                       "%s:%u: warm.repositories[%zu].url: is missing; write for instance "
                       "github.com/acme/widget",
                       c->file, r->line, i);
    if (warmup_name(c, r->url, &name, err) != 0)
        return err_prefix(err, "%s:%u: warm.repositories[%zu].url", c->file, r->line, i);
    free(name);
    return 0;
}

static int check_warm(const struct config *c, struct err *err)
{
    struct timetable *t;
    bool zone;

    for (size_t i = 0; i < c->warm_repository_count; i++)
        if (check_warm_repository(c, i, err) != 0)
            return -1;
    if (c->warm.schedule == NULL)
        return 0;
    if (c->warm_repository_count == 0 && c->warm.most_used == 0)
        return err_set(err, ERR_INPUT,
                       "%s: warm.schedule: has nothing to warm up; list warm.repositories, or set "
                       "warm.most_used",
                       c->file);
    if (timetable_open(c->warm.schedule, c->warm.time_zone, &t, &zone, err) != 0)
        return err_prefix(err, "%s: warm.%s", c->file, zone ? "time_zone" : "schedule");
    timetable_free(&t);
    return 0;
}

/* Whoever reaches it may do all, so that has to be this machine. */
static int check_admin(const struct config *c, struct err *err)
{
    const char *host = c->admin.listen.host;

    if (c->admin.tokens_file != NULL || host == NULL || host_is_loopback(host, strlen(host)))
        return 0;
    return err_set(err, ERR_INPUT,
                   "%s%sadmin.listen: is beyond loopback and there is no admin.tokens_file; name "
                   "one, or listen on 127.0.0.1",
                   c->file ? c->file : "", c->file ? ": " : "");
}

int config_load(const char *file, const struct config_overrides *overrides, struct config **out,
                struct err *err)
{
    struct counted *held = xcalloc(1, sizeof(*held));
    struct config *c = &held->config;

    atomic_init(&held->references, 1);
    for (int s = 0; s < SECTION_COUNT; s++)
        if (!setting_list_of((enum setting_section)s))
            setting_set_defaults((enum setting_section)s, c);
    if (!file)
        add_usual_upstreams(c);
    if ((file && load_file(file, c, err) != 0) ||
        (overrides && apply_overrides(overrides, c, err) != 0) ||
        (!c->data && default_data(c, err) != 0) || check_tls(c, err) != 0 ||
        check_own(c, err) != 0 || check_shared(c, err) != 0 || check_admin(c, err) != 0 ||
        check_warm(c, err) != 0) {
        config_free(held);
        return -1;
    }
    default_node(c);
    *out = c;
    return 0;
}

/* Finding. */

/* What the pattern's '*' matched; NULL: no match, or no pattern. */
static const char *pattern_match(const char *pattern, const char *name, size_t *len)
{
    const char *star = strchr(pattern, '*');
    size_t before, after, total = strlen(name);

    if (!star)
        return NULL;
    before = (size_t)(star - pattern);
    after = strlen(star + 1);
    if (total <= before + after || memcmp(name, pattern, before) != 0 ||
        memcmp(name + total - after, star + 1, after) != 0)
        return NULL;
    *len = total - before - after;
    if (strspn(name + before, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-") <
        *len)
        return NULL;
    return name + before;
}

static char *fill_star(const char *url, const char *with, size_t len)
{
    const char *star = strchr(url, '*');

    must(star);
    return xasprintf("%.*s%.*s%s", (int)(star - url), url, (int)len, with, star + 1);
}

/* NULL also when the URL would be none, such as a port of letters. */
static char *matched_url(const struct upstream_config *u, const char *name)
{
    char why[SETTING_WHY_MAX], *url;
    const char *matched;
    size_t len;

    matched = pattern_match(u->name, name, &len);
    if (!matched)
        return NULL;
    url = fill_star(u->url, matched, len);
    if (!upstream_url_ok(url, false, &len, why)) {
        free(url);
        return NULL;
    }
    return url;
}

const struct upstream_config *config_find_upstream(const struct config *c, const char *name,
                                                   char **base_url)
{
    char why[SETTING_WHY_MAX];

    /* The name becomes a folder's: whatever a pattern would match, ".." never passes. */
    if (!upstream_name_ok(name, false, why))
        return NULL;
    for (size_t i = 0; i < c->upstream_count; i++)
        if (strcmp(c->upstreams[i].name, name) == 0) {
            *base_url = xstrdup(c->upstreams[i].url);
            return &c->upstreams[i];
        }
    for (size_t i = 0; i < c->upstream_count; i++) {
        char *url = matched_url(&c->upstreams[i], name);

        if (url) {
            *base_url = url;
            return &c->upstreams[i];
        }
    }
    return NULL;
}
