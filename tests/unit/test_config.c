#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "proxy/config.h"
#include "proxy/config_setting.h"

/* The content of a file that lives for one load. */
static char file_path[] = "/tmp/pannier-test-config-XXXXXX";

static void write_config(const void *content, size_t len)
{
    FILE *f = fopen(file_path, "w");

    assert_non_null(f);
    assert_int_equal(fwrite(content, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static int load_text(const char *yaml, struct config **c, struct err *err)
{
    write_config(yaml, strlen(yaml));
    return config_load(file_path, NULL, c, err);
}

static struct config *load_good(const char *yaml)
{
    struct config *c = NULL;
    struct err err;

    if (load_text(yaml, &c, &err) != 0)
        fail_msg("%s", err.text);
    return c;
}

/* The sentence begins with "FILE:LINE: KEY: " and holds the words. */
static void assert_complaint(const char *yaml, unsigned line, const char *key, const char *words)
{
    struct config *c = NULL;
    struct err err;
    char *start;

    if (load_text(yaml, &c, &err) == 0)
        fail_msg("accepted: %s", yaml);
    start = xasprintf("%s:%u: %s%s", file_path, line, key, *key ? ": " : "");
    if (strncmp(err.text, start, strlen(start)) != 0 || !strstr(err.text, words))
        fail_msg("\n got: %s\nwant: %s...%s\n for: %s", err.text, start, words, yaml);
    assert_int_equal(err.kind, ERR_INPUT);
    assert_null(c);
    free(start);
}

#define CLIENT       "clients:\n  - name: a\n    network: ['::1']\n    repositories: [h/**]\n"
#define CLIENT_AGAIN "  - {name: a, network: ['::1'], repositories: [h/**]}\n"
#define ENTRY        "upstreams:\n  - name: a\n    url: https://a\n"

static void a_bad_file_is_refused_with_line_key_and_advice(void **state)
{
    static const struct {
        const char *yaml;
        unsigned line;
        const char *key, *words;
    } bad[] = {
        /* keys */
        {"listen: a:1\nlitsen: b:1\n", 2, "litsen", "did you mean 'listen'?"},
        {"\n\nlimit:\n  body: 1M\n", 3, "limit", "did you mean 'limits'?"},
        {"limits:\n  body: 1M\n  conections: 3\n", 3, "limits.conections", "'connections'"},
        {"limits:\n  mirrors: true\n", 2, "limits.mirrors", "belongs to cache"},
        {"body: 3\n", 1, "body", "belongs to limits"},
        {"cache:\n  listen: a:1\n", 2, "cache.listen", "belongs to the top level"},
        {"log: {formt: text}\n", 1, "log.formt", "did you mean 'format'?"},
        {ENTRY "    tokn: x\n", 4, "upstreams[0].tokn", "is not a setting"},
        {"xyzzy: 1\n", 1, "xyzzy", "pannier config describe"},
        {"https://user:hunter2@host: 1\n", 1, "this key", "no setting"},
        {"listen: a:1\ndata: /d\nlisten: b:1\n", 3, "listen", "second time; keep this or line 1"},
        {"log:\n  level: info\ncache:\nlog:\n  level: warn\n", 4, "log", "keep this or line 1"},
        {ENTRY "    url: https://b\n", 4, "upstreams[0].url", "second time"},
        {"[a]: b\n", 1, "this key", "as a key"},
        {"limits:\n  ? {a: b}\n  : c\n", 2, "limits", "as a key"},
        /* shapes */
        {"- listen\n", 1, "", "not a mapping"},
        {"just words\n", 1, "", "not a mapping"},
        {"listen:\n  - a:1\n", 2, "listen", "is a list"},
        {"data: {a: b}\n", 1, "data", "is a mapping"},
        {"\nlisten:\n", 2, "listen", "has no value"},
        {"listen: ~\n", 1, "listen", "has no value"},
        {"listen: ''\n", 1, "listen", "has no value"},
        {"listen: \"a:1\\0b\"\n", 1, "listen", "NUL"},
        {"limits: 5\n", 1, "limits", "not a mapping"},
        {"limits:\n- body\n", 2, "limits", "not a mapping"},
        {"upstreams:\n", 1, "upstreams", "not a list"},
        {"upstreams:\n  name: a\n", 2, "upstreams", "not a list"},
        {"upstreams:\n  - https://user:hunter2@a\n", 2, "upstreams[0]", "not a mapping"},
        {"listen: &here a:1\ndata: *here\n", 2, "", "alias"},
        {"listen: a:1\n---\nlisten: b:1\n", 2, "", "second document"},
        {"listen: a:1\nlimits: {body: 1\n", 3, "", "not valid YAML"},
        {"listen: a:1\n\tdata: /d\n", 2, "", "not valid YAML"},
        {"listen: a:1\ndata: 'x\n", 3, "", "not valid YAML"},
        /* addresses and paths */
        {"\nlisten: 8080\n", 2, "listen", "HOST:PORT"},
        {"listen: :8080\n", 1, "listen", "HOST:PORT"},
        {"listen: a:65536\n", 1, "listen", "HOST:PORT"},
        {"listen: a:80x\n", 1, "listen", "HOST:PORT"},
        {"listen: ::1:80\n", 1, "listen", "HOST:PORT"},
        {"listen: '[::1]'\n", 1, "listen", "HOST:PORT"},
        {"listen: 'a b:80'\n", 1, "listen", "HOST:PORT"},
        {"data: cache\n", 1, "data", "begins with '/'"},
        {"data: \"/a\\nb\"\n", 1, "data", "control character"},
        {ENTRY "    ca_file: ca.pem\n", 4, "upstreams[0].ca_file", "begins with '/'"},
        /* numbers */
        {"shutdown_grace: soon\n", 1, "shutdown_grace", "not a duration"},
        {"shutdown_grace: -1s\n", 1, "shutdown_grace", "not a duration"},
        {"shutdown_grace: 1.5h\n", 1, "shutdown_grace", "not a duration"},
        {"shutdown_grace: 2d\n", 1, "shutdown_grace", "too large; write 1d or less"},
        {"shutdown_grace: 99999999999999999999s\n", 1, "shutdown_grace", "not a duration"},
        {"limits:\n\n  body: lots\n", 3, "limits.body", "not a size"},
        {"limits:\n  body: 1\n", 2, "limits.body", "too small; write 1K or more"},
        {"limits:\n  body: 100G\n", 2, "limits.body", "too large; write 4G or less"},
        {"limits:\n  fills: 0\n", 2, "limits.fills", "too small; write 1 or more"},
        {"limits:\n  fills: many\n", 2, "limits.fills", "not a whole number"},
        {"limits:\n  fills: 3K\n", 2, "limits.fills", "not a whole number"},
        {"limits:\n  fills: 4294967297\n", 2, "limits.fills", "too large"},
        {"limits:\n  idle_timeout: 1ms\n", 2, "limits.idle_timeout", "too small; write 10ms"},
        {"limits:\n  body:\n    1\n", 3, "limits.body", "too small"},
        /* words */
        {"cache:\n  mirrors: maybe\n", 2, "cache.mirrors", "neither true nor false"},
        {"log:\n  format: xml\n", 2, "log.format", "text, json"},
        {"log:\n  level: inf\n", 2, "log.level", "debug, info, warn, error"},
        {"log:\n  level: Info\n", 2, "log.level", "debug, info, warn, error"},
        /* upstreams */
        {"upstreams:\n  - url: https://a\n", 2, "upstreams[0].name", "is missing"},
        {ENTRY "  - name: b\n", 4, "upstreams[1].url", "is missing"},
        {ENTRY "  - url: https://b\n    name: a\n", 5, "upstreams[1].name", "earlier upstream"},
        {"upstreams: [{name: a/b, url: https://a}]\n", 1, "upstreams[0].name", "no name may"},
        {"upstreams: [{name: u@b, url: https://a}]\n", 1, "upstreams[0].name", "no name may"},
        {"upstreams: [{name: 'a b', url: https://a}]\n", 1, "upstreams[0].name", "no name may"},
        {"upstreams: [{name: '*.*', url: https://*}]\n", 1, "upstreams[0].name", "more than one"},
        {"upstreams: [{name: .., url: https://a}]\n", 1, "upstreams[0].name", "begins with '.'"},
        {"upstreams: [{name: -a, url: https://a}]\n", 1, "upstreams[0].name", "begins with '-'"},
        {"upstreams:\n  - name: '*.a'\n    url: https://a\n", 3, "upstreams[0].url", "has no '*'"},
        {"upstreams:\n  - name: a\n    url: https://*\n", 3, "upstreams[0].url", "has a '*'"},
        {"upstreams: [{name: '*', url: https://*.*}]\n", 1, "upstreams[0].url", "more than one"},
        {"upstreams: [{name: '*', url: https://a/*}]\n", 1, "upstreams[0].url", "in its path"},
        {"upstreams: [{name: a, url: a}]\n", 1, "upstreams[0].url", "not a URL"},
        {"upstreams: [{name: a, url: ssh://a}]\n", 1, "upstreams[0].url", "not a URL"},
        {"upstreams: [{name: a, url: 'file:///a'}]\n", 1, "upstreams[0].url", "not a URL"},
        {"upstreams: [{name: a, url: https://}]\n", 1, "upstreams[0].url", "names no host"},
        {"upstreams: [{name: a, url: 'https://a:x'}]\n", 1, "upstreams[0].url", "host or port"},
        {"upstreams: [{name: a, url: 'https://a:0'}]\n", 1, "upstreams[0].url", "host or port"},
        {"upstreams: [{name: a, url: 'https://a:'}]\n", 1, "upstreams[0].url", "host or port"},
        {"upstreams: [{name: a, url: 'https://a?b'}]\n", 1, "upstreams[0].url", "a query"},
        {"upstreams: [{name: a, url: 'https://a/#b'}]\n", 1, "upstreams[0].url", "a fragment"},
        {"upstreams: [{name: a, url: 'https://a/b c'}]\n", 1, "upstreams[0].url", "no URL may"},
        {"upstreams: [{name: a, url: https://a/../b}]\n", 1, "upstreams[0].url", "'..'"},
        {"upstreams: [{name: a, url: https://a/..}]\n", 1, "upstreams[0].url", "'..'"},
        {ENTRY "    access_ttl: 2h\n", 4, "upstreams[0].access_ttl", "write 1h or less"},
        {ENTRY "  - name: b\n    url: https://b\n    max_connections: 0\n", 6,
         "upstreams[1].max_connections", "write 1 or more"},
        /* credentials of its own */
        {ENTRY "    refs: webhook\n", 4, "upstreams[0].refs", "webhook_secret_file is missing"},
        {ENTRY "    refs_floor: 5s\n", 4, "upstreams[0].refs_floor", "is for 'refs: webhook'"},
        {ENTRY "    webhook_secret_file: /s\n    refs: webhook\n    refs_ttl: 5s\n", 6,
         "upstreams[0].refs_ttl", "write refs_floor"},
        {ENTRY "    webhook_forge: gitea\n", 4, "upstreams[0].webhook_forge",
         "without webhook_secret_file"},
        {ENTRY "    auth: magic\n", 4, "upstreams[0].auth", "not one of the known words"},
        {ENTRY "    auth: token\n", 4, "upstreams[0].token_file", "'auth: token' needs"},
        {ENTRY "    auth: helper\n", 4, "upstreams[0].credential_helper", "is missing"},
        {ENTRY "    auth: netrc\n", 4, "upstreams[0].netrc_file", "is missing"},
        {ENTRY "    auth: github_app\n", 4, "upstreams[0].app_id", "is missing"},
        {ENTRY "    app_id: 1\n    auth: github_app\n", 5, "upstreams[0].private_key_file",
         "is missing"},
        {ENTRY "    app_id: a/b\n    auth: github_app\n    private_key_file: /k\n", 4,
         "upstreams[0].app_id", "is no id of an app"},
        {ENTRY "    token_file: /t\n", 4, "upstreams[0].token_file", "is for 'auth: token'"},
        {ENTRY "    auth: netrc\n    netrc_file: /n\n    token_file: /t\n", 6,
         "upstreams[0].token_file", "is for 'auth: token'"},
        {ENTRY "    username: u\n", 4, "upstreams[0].username", "leave it out"},
        {ENTRY "    auth: token\n    token_file: /t\n    username: 'u:v'\n", 6,
         "upstreams[0].username", "holds a ':'"},
        {ENTRY "    api_url: 'https://*'\n", 4, "upstreams[0].api_url", "names no host"},
        {"upstreams:\n  - name: '*.a'\n    url: https://*.a\n    auth: token\n"
         "    token_file: /t\n",
         4, "upstreams[0].auth", "whatever host a client chooses"},
        {"listen: 10.0.0.1:1\n" ENTRY "    auth: token\n    token_file: /t\n", 5, "clients",
         "others than this machine"},
        {"listen: '[::]:1'\nclients: []\n" ENTRY "    auth: token\n    token_file: /t\n", 6,
         "clients", "are missing"},
        /* clients */
        {"clients:\n  - network: [10.0.0.0/8]\n", 2, "clients[0].name", "is missing"},
        {"clients:\n  - name: a\n", 2, "clients[0].token_hash", "or network"},
        {"clients:\n  - name: a\n    network: ['::1']\n", 2, "clients[0].repositories",
         "is missing"},
        {CLIENT CLIENT_AGAIN, 5, "clients[1].name", "earlier client"},
        {CLIENT "    token_hash: abc\n", 5, "clients[0].token_hash", "is not a hash"},
        {CLIENT "    token_hash: sha256:abc\n", 5, "clients[0].token_hash", "64 hex digits"},
        {"clients:\n  - network: 10.0.0.0/8\n", 2, "clients[0].network", "is not a list"},
        {"clients:\n  - network: []\n", 2, "clients[0].network", "is empty"},
        {"clients:\n  - network:\n", 2, "clients[0].network", "is not a list"},
        {"clients:\n  - network:\n      - '::1'\n      - ['::2']\n", 4, "clients[0].network",
         "not one word"},
        {"clients:\n  - network: ['::1', '']\n", 2, "clients[0].network", "not one word"},
        {"clients:\n  - network: ['::1, ::2']\n", 2, "clients[0].network", "not one word"},
        {"clients:\n  - name: a\n    network: ['::1', 10.0.0.1/8]\n", 3, "clients[0].network",
         "as item 2"},
        {"clients:\n  - repositories: [a/b, a]\n", 2, "clients[0].repositories", "as item 2"},
        {"clients:\n  - repositories: [a/b.git]\n", 2, "clients[0].repositories", "without '.git'"},
        {"clients:\n  - repositories: [/a/b]\n", 2, "clients[0].repositories", "as item 1"},
        {"clients:\n  - name: [a]\n", 2, "clients[0].name", "is a list"},
        {CLIENT "    psuh: yes\n", 5, "clients[0].psuh", "did you mean 'push'?"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_complaint(bad[i].yaml, bad[i].line, bad[i].key, bad[i].words);
}

static void a_url_with_user_information_is_refused_and_not_shown(void **state)
{
    static const char *const urls[] = {"https://user:hunter2@git.example.com",
                                       "https://hunter2@git.example.com/x",
                                       "https://user:hunter2/x@git.example.com",
                                       "user:hunter2@git.example.com", "https://a/?token=hunter2"};
    struct config *c;
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(urls); i++) {
        char *yaml = xasprintf("upstreams:\n  - name: a\n    url: '%s'\n", urls[i]);
        char *option = xasprintf("a=%s", urls[i]);
        const char *options[] = {option};
        struct config_overrides o = {.upstreams = options, .upstream_count = 1};

        assert_complaint(yaml, 3, "upstreams[0].url", "; write");
        assert_int_equal(load_text(yaml, &c, &err), -1);
        assert_null(strstr(err.text, "hunter2"));
        assert_int_equal(config_load(NULL, &o, &c, &err), -1);
        assert_null(strstr(err.text, "hunter2"));
        assert_memory_equal(err.text, "--upstream: ", 12);
        free(option);
        free(yaml);
    }
}

static void assert_file_refused(const char *path, const char *words)
{
    struct config *c;
    struct err err;

    assert_int_equal(config_load(path, NULL, &c, &err), -1);
    if (strncmp(err.text, path, strlen(path)) != 0 || !strstr(err.text, words))
        fail_msg("got: %s\nwant: %s...%s", err.text, path, words);
}

static void what_is_no_yaml_file_is_refused_in_one_sentence(void **state)
{
    static const unsigned char junk[] = "listen: a:1\n\x7f"
                                        "ELF\xff\xfe\x00\x01\x80";
    size_t size = 10 << 20;
    char *nonsense = xmalloc(size);

    (void)state;
    assert_file_refused("/nonexistent/pannier.yaml", "cannot be read: No such file");
    assert_file_refused("/tmp", "is a directory");
    write_config(junk, sizeof(junk));
    assert_file_refused(file_path, ":2: is not");
    memset(nonsense, 'x', size);
    write_config(nonsense, size);
    assert_file_refused(file_path, "larger than 1 MiB");
    memset(nonsense, '[', size);
    write_config(nonsense, 1 << 20);
    assert_file_refused(file_path, ":1: ");
    free(nonsense);
}

static void assert_defaults(const struct config *c)
{
    static const char *const names[] = {"github.com", "gitlab.com", "bitbucket.org",
                                        "codeberg.org"};

    assert_string_equal(c->listen.host, "127.0.0.1");
    assert_int_equal(c->listen.port, 8080);
    assert_int_equal(c->upstream_count, 4);
    for (size_t i = 0; i < 4; i++) {
        const struct upstream_config *u = &c->upstreams[i];

        assert_string_equal(u->name, names[i]);
        assert_memory_equal(u->url, "https://", 8);
        assert_string_equal(u->url + 8, names[i]);
        assert_null(u->ca_file);
        assert_int_equal(u->access_ttl_ms, 60000);
        assert_int_equal(u->denied_ttl_ms, 10000);
        assert_int_equal(u->refs_ttl_ms, 0);
        assert_int_equal(u->max_connections, 64);
        assert_int_equal(u->connect_timeout_ms, 10000);
        assert_int_equal(u->response_timeout_ms, 600000);
        assert_int_equal(u->stall_timeout_ms, 120000);
    }
    assert_int_equal(c->limits.body_bytes, 32 << 20);
    assert_int_equal(c->limits.connections, 4096);
    assert_int_equal(c->limits.http_threads, 0);
    assert_int_equal(c->limits.fills, 64);
    assert_int_equal(c->limits.queries, 32);
    assert_int_equal(c->limits.queue, 1024);
    assert_int_equal(c->limits.git_processes, 0);
    assert_int_equal(c->limits.header_timeout_ms, 15000);
    assert_int_equal(c->limits.body_timeout_ms, 300000);
    assert_int_equal(c->limits.idle_timeout_ms, 60000);
    assert_int_equal(c->limits.stall_timeout_ms, 300000);
    assert_true(c->cache.mirrors);
    assert_int_equal(c->cache.mirror_after, 2);
    assert_int_equal(c->log.format, LOG_TEXT);
    assert_int_equal(c->log.level, LOG_INFO);
    assert_int_equal(c->shutdown_grace_ms, 30000);
}

static void without_a_file_or_with_one_that_says_nothing_the_defaults_hold(void **state)
{
    static const char *const files[] = {
        "",           "\n\n", "# nothing\n", "---\n",
        "---\n...\n", "~\n",  "{}\n",        "limits:\n  # body: 1M\nlog:\n"};
    struct config *c;
    struct err err;

    (void)state;
    assert_int_equal(config_load(NULL, NULL, &c, &err), 0);
    assert_null(c->file);
    assert_defaults(c);
    config_unref(&c);
    assert_null(c);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        c = load_good(files[i]);
        assert_string_equal(c->file, file_path);
        assert_defaults(c);
        config_unref(&c);
    }
}

static void the_data_folder_is_found_as_caches_are(void **state)
{
    static const struct {
        const char *xdg, *home, *data;
    } cases[] = {
        {"/x/cache", "/home/u", "/x/cache/pannier"},
        {NULL, "/home/u", "/home/u/.cache/pannier"},
        {"", "/home/u", "/home/u/.cache/pannier"},
        {"relative", "/h", "/h/.cache/pannier"},
        {NULL, NULL, "/var/cache/pannier"},
        {NULL, "", "/var/cache/pannier"},
        {NULL, "/", "/.cache/pannier"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct config *c;

        cases[i].xdg ? setenv("XDG_CACHE_HOME", cases[i].xdg, 1) : unsetenv("XDG_CACHE_HOME");
        cases[i].home ? setenv("HOME", cases[i].home, 1) : unsetenv("HOME");
        c = load_good("");
        assert_string_equal(c->data, cases[i].data);
        config_unref(&c);
    }
    setenv("HOME", "/home/u", 1);
}

#define ZEROES "000000000000000000000000000000000000000000000000000000000000000"

static const char everything[] = "listen: '[::1]:0'\n"
                                 "data: /srv/pannier/\n"
                                 "shutdown_grace: 5\n"
                                 "upstreams:\n"
                                 "  - name: '*.git.example.com'\n"
                                 "    url: https://*.git.example.com:8443/base//\n"
                                 "    ca_file: '/etc/ssl/our \"own\" \\ ca.pem'\n"
                                 "    access_ttl: 1500ms\n"
                                 "    denied_ttl: 0\n"
                                 "    refs_ttl: 1h\n"
                                 "    max_connections: 7\n"
                                 "    connect_timeout: 3s\n"
                                 "    response_timeout: 1d\n"
                                 "    stall_timeout: 90s\n"
                                 "    auth: passthrough\n"
                                 "  - {name: localhost:3000, url: 'http://[::1]:3000'}\n"
                                 "  - {name: t, url: 'http://t', auth: token, token_file: /t/,\n"
                                 "     username: u}\n"
                                 "  - {name: h, url: 'http://h', auth: helper,\n"
                                 "     credential_helper: store --file /x}\n"
                                 "  - {name: g, url: 'http://g', auth: github_app, app_id: 4711,\n"
                                 "     private_key_file: /k, api_url: 'https://g/api/v3/'}\n"
                                 "  - {name: n, url: 'http://n', auth: netrc, netrc_file: /n,\n"
                                 "     refs: webhook, refs_floor: 5m, webhook_secret_file: /s,\n"
                                 "     webhook_forge: bitbucket}\n"
                                 "clients:\n"
                                 "  - name: ci\n"
                                 "    token_hash: sha256:" ZEROES "1\n"
                                 "    tls_subject: CN=ci,O=\"x\"\n"
                                 "    network: [10.0.0.0/8, '2001:db8::/32']\n"
                                 "    repositories:\n"
                                 "      - h/a\n"
                                 "      - 'h/b/**'\n"
                                 "    push: true\n"
                                 "limits: {body: 1MiB, connections: 1, http_threads: 2, fills: 3,\n"
                                 "  queries: 4, queue: 0, git_processes: 6, header_timeout: 7s,\n"
                                 "  body_timeout: 8m, idle_timeout: 9s, stall_timeout: 10ms}\n"
                                 "cache: {mirrors: no, mirror_after: 0}\n"
                                 "log: {format: json, level: debug}\n";

static void every_setting_is_taken_from_the_file(void **state)
{
    struct config *c = load_good(everything);
    const struct upstream_config *u = c->upstreams;
    const struct client_config *client = c->clients;

    (void)state;
    assert_string_equal(c->listen.host, "::1");
    assert_int_equal(c->listen.port, 0);
    assert_string_equal(c->data, "/srv/pannier");
    assert_int_equal(c->shutdown_grace_ms, 5000);
    assert_int_equal(c->upstream_count, 6);
    assert_string_equal(u->name, "*.git.example.com");
    assert_string_equal(u->url, "https://*.git.example.com:8443/base");
    assert_string_equal(u->ca_file, "/etc/ssl/our \"own\" \\ ca.pem");
    assert_int_equal(u->access_ttl_ms, 1500);
    assert_int_equal(u->denied_ttl_ms, 0);
    assert_int_equal(u->refs_ttl_ms, 3600000);
    assert_int_equal(u->max_connections, 7);
    assert_int_equal(u->connect_timeout_ms, 3000);
    assert_int_equal(u->response_timeout_ms, 86400000);
    assert_int_equal(u->stall_timeout_ms, 90000);
    assert_string_equal(u[1].name, "localhost:3000");
    assert_string_equal(u[1].url, "http://[::1]:3000");
    assert_int_equal(u[1].access_ttl_ms, 60000);
    assert_int_equal(u[1].auth, AUTH_PASSTHROUGH);
    assert_int_equal(u[2].auth, AUTH_TOKEN);
    assert_string_equal(u[2].token_file, "/t");
    assert_string_equal(u[2].username, "u");
    assert_int_equal(u[3].auth, AUTH_HELPER);
    assert_string_equal(u[3].credential_helper, "store --file /x");
    assert_int_equal(u[4].auth, AUTH_GITHUB_APP);
    assert_string_equal(u[4].app_id, "4711");
    assert_string_equal(u[4].private_key_file, "/k");
    assert_string_equal(u[4].api_url, "https://g/api/v3");
    assert_int_equal(u[5].auth, AUTH_NETRC);
    assert_string_equal(u[5].netrc_file, "/n");
    assert_int_equal(u[0].refs, REFS_ASK);
    assert_int_equal(u[5].refs, REFS_WEBHOOK);
    assert_int_equal(u[5].refs_floor_ms, 300000);
    assert_string_equal(u[5].webhook_secret_file, "/s");
    assert_int_equal(u[0].webhook_forge, FORGE_AUTO);
    assert_int_equal(u[5].webhook_forge, FORGE_BITBUCKET);
    assert_int_equal(c->client_count, 1);
    assert_string_equal(client->name, "ci");
    assert_true(client->token_hash.set && client->token_hash.sha256.raw[31] == 1);
    assert_string_equal(client->tls_subject, "CN=ci,O=\"x\"");
    assert_int_equal(client->network.count, 2);
    assert_int_equal(client->network.items[1].bits, 32);
    assert_int_equal(client->repositories.count, 2);
    assert_string_equal(client->repositories.items[1], "h/b/**");
    assert_true(client->push);
    assert_int_equal(c->limits.body_bytes, 1 << 20);
    assert_int_equal(c->limits.connections, 1);
    assert_int_equal(c->limits.http_threads, 2);
    assert_int_equal(c->limits.fills, 3);
    assert_int_equal(c->limits.queries, 4);
    assert_int_equal(c->limits.queue, 0);
    assert_int_equal(c->limits.git_processes, 6);
    assert_int_equal(c->limits.header_timeout_ms, 7000);
    assert_int_equal(c->limits.body_timeout_ms, 480000);
    assert_int_equal(c->limits.idle_timeout_ms, 9000);
    assert_int_equal(c->limits.stall_timeout_ms, 10);
    assert_false(c->cache.mirrors);
    assert_int_equal(c->cache.mirror_after, 0);
    assert_int_equal(c->log.format, LOG_JSON);
    assert_int_equal(c->log.level, LOG_DEBUG);
    config_unref(&c);
}

static void the_command_line_wins_over_the_file(void **state)
{
    const char *upstreams[] = {"new=http://new", "localhost:3000=http://other/", "new=http://newer",
                               "127.0.0.1:*=http://127.0.0.1:*"};
    struct config_overrides o = {.listen = "0.0.0.0:1",
                                 .data = "here/x",
                                 .log_format = "text",
                                 .upstreams = upstreams,
                                 .upstream_count = ARRAY_LEN(upstreams)};
    char *cwd = getcwd(NULL, 0), *data = xasprintf("%s/here/x", cwd);
    struct config *c;
    struct err err;

    (void)state;
    write_config(everything, strlen(everything));
    assert_int_equal(config_load(file_path, &o, &c, &err), 0);
    assert_string_equal(c->listen.host, "0.0.0.0");
    assert_int_equal(c->listen.port, 1);
    assert_string_equal(c->data, data);
    assert_int_equal(c->log.format, LOG_TEXT);
    assert_int_equal(c->log.level, LOG_DEBUG);
    assert_int_equal(c->upstream_count, 8);
    assert_string_equal(c->upstreams[1].name, "localhost:3000");
    assert_string_equal(c->upstreams[1].url, "http://other");
    assert_string_equal(c->upstreams[6].url, "http://newer");
    assert_string_equal(c->upstreams[7].name, "127.0.0.1:*");
    config_unref(&c);
    free(data);
    free(cwd);
}

static void a_replaced_upstream_forgets_the_settings_of_the_old_url(void **state)
{
    const char *upstreams[] = {"a=https://elsewhere"};
    struct config_overrides o = {.upstreams = upstreams, .upstream_count = 1};
    const char *yaml = ENTRY "    ca_file: /ca.pem\n    refs_ttl: 1h\n";
    struct config *c;
    struct err err;

    (void)state;
    write_config(yaml, strlen(yaml));
    assert_int_equal(config_load(file_path, &o, &c, &err), 0);
    assert_int_equal(c->upstream_count, 1);
    assert_null(c->upstreams[0].ca_file);
    assert_int_equal(c->upstreams[0].refs_ttl_ms, 0);
    config_unref(&c);
}

static void a_bad_option_is_refused_by_its_name(void **state)
{
    static const struct {
        const char *listen, *data, *log_format, *upstream, *start;
    } cases[] = {
        {"8080", NULL, NULL, NULL, "--listen: is not HOST:PORT"},
        {NULL, "", NULL, NULL, "--data: is not"},
        {NULL, NULL, "xml", NULL, "--log-format: is not one of"},
        {NULL, NULL, NULL, "github.com", "--upstream: has no '='"},
        {NULL, NULL, NULL, "=https://a", "--upstream: the name is empty"},
        {NULL, NULL, NULL, "a/b=https://a", "--upstream: the name holds"},
        {NULL, NULL, NULL, "a=b", "--upstream: the URL of a is not a URL"},
        {NULL, NULL, NULL, "*=https://b", "--upstream: the URL of * has no '*'"},
        {NULL, NULL, NULL, "a=https://*", "--upstream: the URL of a has a '*'"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const char *upstreams[] = {cases[i].upstream};
        struct config_overrides o = {.listen = cases[i].listen,
                                     .data = cases[i].data,
                                     .log_format = cases[i].log_format,
                                     .upstreams = upstreams,
                                     .upstream_count = cases[i].upstream != NULL};
        struct config *c;
        struct err err;

        assert_int_equal(config_load(NULL, &o, &c, &err), -1);
        if (strncmp(err.text, cases[i].start, strlen(cases[i].start)) != 0)
            fail_msg("got: %s\nwant: %s", err.text, cases[i].start);
    }
}

static void an_empty_list_of_upstreams_is_a_list(void **state)
{
    struct config *c = load_good("upstreams: []\n");

    (void)state;
    assert_int_equal(c->upstream_count, 0);
    config_unref(&c);
}

static void too_many_upstreams_are_refused(void **state)
{
    enum { COUNT = 1001 };
    char *yaml = xcalloc(COUNT + 1, 64);
    size_t len = (size_t)sprintf(yaml, "upstreams:\n");

    (void)state;
    for (int i = 0; i < COUNT; i++)
        len += (size_t)sprintf(yaml + len, "- {name: h%d, url: http://h%d}\n", i, i);
    assert_complaint(yaml, COUNT + 1, "upstreams", "more than 1000");
    free(yaml);
}

static void a_name_finds_its_upstream_or_none(void **state)
{
    static const struct {
        const char *name, *url; /* NULL: refused */
    } cases[] = {
        {"exact.git.example.com", "https://mirror"},
        {"a.git.example.com", "https://a.git.example.com/base"},
        {"a.b.git.example.com", "https://a.b.git.example.com/base"},
        {".git.example.com", NULL},
        {"git.example.com", NULL},
        {"a.git.example.com.evil.com", NULL},
        {"evil.com/@x.git.example.com", NULL},
        {"evil.com:80.git.example.com", NULL},
        {"u@a.git.example.com", NULL},
        {"evil.com/.git.example.com", NULL},
        {"evil.com?.git.example.com", NULL},
        {"evil.com#.git.example.com", NULL},
        {"a%2f.git.example.com", NULL},
        {"a_b.git.example.com", NULL},
        {"a\n.git.example.com", NULL},
        {"*.git.example.com", NULL},
        {"127.0.0.1:8080", "http://127.0.0.1:8080"},
        {"127.0.0.1:", NULL},
        {"127.0.0.1:0", NULL},
        {"127.0.0.1:80a", NULL},
        {"127.0.0.1:80.evil.com", NULL},
        {"127.0.0.1:99999", NULL},
        {"127.0.0.1:80:80", NULL},
        {"gitlab-eu", "http://first.eu"},
        {"gitlab-", "http://second.-"},
        {"gitlab", NULL},
        {"", NULL},
        {"..", NULL},
        {".", NULL},
        {"evil.com/@x", NULL},
        {"GITHUB.COM", NULL},
    };
    struct config *c =
        load_good("upstreams:\n"
                  "- {name: '*.git.example.com', url: 'https://*.git.example.com/base'}\n"
                  "- {name: exact.git.example.com, url: https://mirror/}\n"
                  "- {name: '127.0.0.1:*', url: 'http://127.0.0.1:*'}\n"
                  "- {name: 'gitlab-*', url: 'http://first.*'}\n"
                  "- {name: 'gitlab*', url: 'http://second.*'}\n");

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *url = NULL;
        const struct upstream_config *u = config_find_upstream(c, cases[i].name, &url);

        if (!cases[i].url && u)
            fail_msg("%s was matched: %s", cases[i].name, url);
        if (cases[i].url) {
            assert_non_null(u);
            assert_string_equal(url, cases[i].url);
        }
        free(url);
    }
    config_unref(&c);
}

static void a_pattern_of_only_a_star_never_matches_a_folder_above(void **state)
{
    struct config *c = load_good("upstreams: [{name: '*', url: 'http://*'}]\n");
    static const char *const names[] = {"..", ".", "...", "-a", "a/b", "a:1", "a@b", "*", ""};
    char *url = NULL;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        assert_null(config_find_upstream(c, names[i], &url));
    assert_non_null(config_find_upstream(c, "host", &url));
    assert_string_equal(url, "http://host");
    free(url);
    config_unref(&c);
}

static void durations_and_sizes_read_as_people_write_them(void **state)
{
    static const struct {
        const char *text;
        bool good;
        uint64_t value;
    } durations[] =
        {
            {"0", true, 0},
            {"30", true, 30000},
            {"10ms", true, 10},
            {"30s", true, 30000},
            {"5m", true, 300000},
            {"1h", true, 3600000},
            {"2d", true, 172800000},
            {"18446744073709551615ms", true, UINT64_MAX},
            {"18446744073709551616ms", false, 0},
            {"18446744073709551615", false, 0},
            {"18446744073709552s", false, 0},
            {"213503982335d", false, 0},
            {"", false, 0},
            {"s", false, 0},
            {"-1s", false, 0},
            {"+1s", false, 0},
            {" 1s", false, 0},
            {"1 s", false, 0},
            {"1s ", false, 0},
            {"1.5s", false, 0},
            {"1S", false, 0},
            {"1w", false, 0},
            {"0x10", false, 0},
        },
      sizes[] = {
          {"0", true, 0},
          {"17", true, 17},
          {"17B", true, 17},
          {"512K", true, 512 << 10},
          {"512k", true, 512 << 10},
          {"1M", true, 1 << 20},
          {"1MB", true, 1 << 20},
          {"1MiB", true, 1 << 20},
          {"100G", true, 100ULL << 30},
          {"2T", true, 2ULL << 40},
          {"16777215T", true, 16777215ULL << 40},
          {"16777216T", false, 0},
          {"18446744073709551615", true, UINT64_MAX},
          {"18446744073709551616", false, 0},
          {"", false, 0},
          {"K", false, 0},
          {"-1", false, 0},
          {"1.5G", false, 0},
          {"1 G", false, 0},
          {"1GG", false, 0},
          {"1iB", false, 0},
          {"1Gi", false, 0},
          {"1P", false, 0},
      };
    uint64_t value;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(durations); i++) {
        if (duration_parse(durations[i].text, &value) != durations[i].good)
            fail_msg("duration %s", durations[i].text);
        if (durations[i].good)
            assert_int_equal(value, durations[i].value);
    }
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        if (size_parse(sizes[i].text, &value) != sizes[i].good)
            fail_msg("size %s", sizes[i].text);
        if (sizes[i].good)
            assert_int_equal(value, sizes[i].value);
    }
}

static void what_is_formatted_parses_to_the_same_value(void **state)
{
    static const uint64_t values[] = {0,     1,          999,       1000,    1024,
                                      1500,  60000,      86400000,  1 << 20, (1 << 20) + 1,
                                      90000, 3ULL << 40, UINT64_MAX};
    char text[32];
    uint64_t back;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        duration_format(values[i], text);
        assert_true(duration_parse(text, &back));
        assert_int_equal(back, values[i]);
        size_format(values[i], text);
        assert_true(size_parse(text, &back));
        assert_int_equal(back, values[i]);
    }
}

static void only_what_needs_a_restart_is_named(void **state)
{
    static const struct {
        const char *yaml, *list;
    } cases[] = {
        {"", NULL},
        {"log: {level: debug, format: json}\nupstreams: []\ncache: {mirrors: false}\n", NULL},
        {"shutdown_grace: 1s\nlimits: {body: 1M, idle_timeout: 1s}\n", NULL},
        {"listen: 127.0.0.1:8081\n", "listen"},
        {"listen: 127.0.0.2:8080\n", "listen"},
        {"listen: 127.0.0.1:1\ndata: /d\nlimits: {http_threads: 3, fills: 65}\n",
         "listen, data, limits.http_threads, limits.fills"},
    };
    struct config *running = load_good(""), *loaded;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *list;

        loaded = load_good(cases[i].yaml);
        list = config_restart_needed(running, loaded);
        if (cases[i].list)
            assert_string_equal(list ? list : "nothing", cases[i].list);
        else
            assert_null(list);
        free(list);
        config_unref(&loaded);
    }
    config_unref(&running);
}

static char *shown(const struct config *c)
{
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);

    config_show(c, f);
    fclose(f);
    return text;
}

static void what_is_shown_loads_to_the_same_configuration(void **state)
{
    static const char *const files[] = {"", "upstreams: []\n", everything,
                                        "data: '/a \"b\" \\c # d: é'\n"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        struct config *c = load_good(files[i]), *again;
        char *first = shown(c), *second;

        again = load_good(first);
        second = shown(again);
        assert_string_equal(first, second);
        assert_string_equal(c->data, again->data);
        assert_int_equal(c->upstream_count, again->upstream_count);
        assert_null(config_restart_needed(c, again));
        free(first);
        free(second);
        config_unref(&c);
        config_unref(&again);
    }
}

static void each_setting_is_shown_with_its_default(void **state)
{
    struct config *c = load_good("limits: {body: 1M}\n");
    char *text = shown(c);

    (void)state;
    assert_non_null(strstr(text, "  body: 1M  # default: 32M\n"));
    assert_non_null(strstr(text, "    # ca_file:  # default: the system's\n"));
    free(text);
    config_unref(&c);
}

static void whoever_listens_beyond_loopback_has_tokens(void **state)
{
    static const struct {
        const char *yaml;
        bool accepted;
    } rows[] = {
        {"admin: {listen: '127.0.0.1:0'}\n", true},
        {"admin: {listen: '127.8.9.10:1'}\n", true},
        {"admin: {listen: '[::1]:1'}\n", true},
        {"admin: {listen: 'LocalHost:1'}\n", true},
        {"admin: {listen: 'off'}\n", true},
        {"admin: {listen: '0.0.0.0:1'}\n", false},
        {"admin: {listen: '[::]:1'}\n", false},
        {"admin: {listen: '128.0.0.1:1'}\n", false},
        {"admin: {listen: '127.0.0.1.example.org:1'}\n", false},
        {"admin: {listen: 'localhost.example.org:1'}\n", false},
        {"admin: {listen: '0.0.0.0:1', tokens_file: /etc/tokens}\n", true},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct config *c = NULL;
        struct err err;

        if ((load_text(rows[i].yaml, &c, &err) == 0) != rows[i].accepted)
            fail_msg("%s", rows[i].yaml);
        if (!rows[i].accepted)
            assert_non_null(strstr(err.text, "admin.listen: is beyond loopback"));
        config_unref(&c);
    }
}

static void every_row_of_the_table_holds_together(void **state)
{
    (void)state;
    for (size_t i = 0; i < SETTINGS_TOTAL; i++) {
        const struct setting *s = &setting_table[i];
        struct upstream_config upstream = {0};
        struct client_config client = {0};
        struct config config = {0};
        void *base = s->section == SECTION_upstreams ? (void *)&upstream
                     : s->section == SECTION_clients ? (void *)&client
                                                     : (void *)&config;
        bool number = s->type >= SETTING_SIZE && s->type <= SETTING_COUNT;
        char why[SETTING_WHY_MAX];

        assert_true(number == (s->min != NULL) && number == (s->max != NULL));
        if (number && (!setting_set(s, s->min, base, why) || !setting_set(s, s->max, base, why)))
            fail_msg("%s: %s", s->key, why);
        if (s->standard) {
            char *text;

            if (!setting_set(s, s->standard, base, why))
                fail_msg("%s: the default %s", s->key, why);
            text = setting_get(s, base);
            assert_string_equal(text, s->standard);
            free(text);
        }
        setting_clear(s->section, base);
    }
}

/* Of the command line, too: what is given there may open what the file had closed. */
static void who_listens_beyond_loopback_has_to_list_the_clients_of_its_credentials(void **state)
{
    static const struct {
        const char *listen;
        bool good;
    } cases[] = {
        {"127.0.0.1:1", true}, {"127.9.9.9:1", true}, {"[::1]:1", true}, {"localhost:1", true},
        {"0.0.0.0:1", false},  {"[::]:1", false},     {"host:1", false}, {"192.168.0.1:1", false},
    };

    (void)state;
    write_config(ENTRY "    auth: token\n    token_file: /t\n",
                 strlen(ENTRY "    auth: token\n    token_file: /t\n"));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct config_overrides o = {.listen = cases[i].listen};
        struct config *c = NULL;
        struct err err;

        if ((config_load(file_path, &o, &c, &err) == 0) != cases[i].good)
            fail_msg("%s", cases[i].listen);
        if (c != NULL)
            config_unref(&c);
    }
}

static void a_reference_keeps_a_configuration_alive(void **state)
{
    struct config *c = load_good("listen: kept:1\n"), *second = config_ref(c);

    (void)state;
    config_unref(&c);
    assert_null(c);
    assert_string_equal(second->listen.host, "kept");
    config_unref(&second);
    config_unref(&second);
}

static void the_example_is_accepted(void **state)
{
    struct config *c;
    struct err err;

    (void)state;
    if (config_load(SOURCE_DIR "/deploy/pannier.example.yaml", NULL, &c, &err) != 0)
        fail_msg("%s", err.text);
    config_unref(&c);
}

/* Between the markers of docs/configuration.md stands what `pannier config describe` prints. */
static void the_documented_table_is_the_programs(void **state)
{
    static const char begin[] = "<!-- pannier config describe: begin -->\n",
                      end[] = "<!-- pannier config describe: end -->\n";
    FILE *doc = fopen(SOURCE_DIR "/docs/configuration.md", "r"), *out;
    char *text = xcalloc(1, 1 << 20), *table = NULL, *from, *to;
    size_t len;

    (void)state;
    if (!doc)
        fail_msg("docs/configuration.md is not there");
    assert_true(fread(text, 1, (1 << 20) - 1, doc) > 0);
    fclose(doc);
    out = open_memstream(&table, &len);
    config_describe(out);
    fclose(out);
    from = strstr(text, begin);
    to = strstr(text, end);
    assert_non_null(from);
    assert_non_null(to);
    *to = '\0';
    if (strcmp(from + strlen(begin), table) != 0)
        fail_msg("docs/configuration.md: put the output of `pannier config describe` between the "
                 "two markers");
    free(table);
    free(text);
}

static int make_file(void **state)
{
    int fd = mkstemp(file_path);

    (void)state;
    unsetenv("XDG_CACHE_HOME");
    setenv("HOME", "/home/u", 1);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(file_path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bad_file_is_refused_with_line_key_and_advice),
        cmocka_unit_test(a_url_with_user_information_is_refused_and_not_shown),
        cmocka_unit_test(what_is_no_yaml_file_is_refused_in_one_sentence),
        cmocka_unit_test(without_a_file_or_with_one_that_says_nothing_the_defaults_hold),
        cmocka_unit_test(the_data_folder_is_found_as_caches_are),
        cmocka_unit_test(every_setting_is_taken_from_the_file),
        cmocka_unit_test(the_command_line_wins_over_the_file),
        cmocka_unit_test(a_replaced_upstream_forgets_the_settings_of_the_old_url),
        cmocka_unit_test(a_bad_option_is_refused_by_its_name),
        cmocka_unit_test(an_empty_list_of_upstreams_is_a_list),
        cmocka_unit_test(too_many_upstreams_are_refused),
        cmocka_unit_test(a_name_finds_its_upstream_or_none),
        cmocka_unit_test(a_pattern_of_only_a_star_never_matches_a_folder_above),
        cmocka_unit_test(durations_and_sizes_read_as_people_write_them),
        cmocka_unit_test(what_is_formatted_parses_to_the_same_value),
        cmocka_unit_test(only_what_needs_a_restart_is_named),
        cmocka_unit_test(what_is_shown_loads_to_the_same_configuration),
        cmocka_unit_test(each_setting_is_shown_with_its_default),
        cmocka_unit_test(whoever_listens_beyond_loopback_has_tokens),
        cmocka_unit_test(every_row_of_the_table_holds_together),
        cmocka_unit_test(who_listens_beyond_loopback_has_to_list_the_clients_of_its_credentials),
        cmocka_unit_test(a_reference_keeps_a_configuration_alive),
        cmocka_unit_test(the_example_is_accepted),
        cmocka_unit_test(the_documented_table_is_the_programs),
    };

    return cmocka_run_group_tests(tests, make_file, remove_file);
}
