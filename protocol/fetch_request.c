#include "protocol/fetch_request.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"
#include "protocol/pkt.h"

enum {
    FILTER_DEPTH_MAX = 4, /* combine: within combine:; nobody writes more, and it recurses */
    FILTER_MAX = 4096,
};

/* A line without its newline, or what remains of one.  Not NUL-terminated. */
struct text {
    const char *s;
    size_t len;
};

static bool text_is(struct text t, const char *s)
{
    return t.len == strlen(s) && memcmp(t.s, s, t.len) == 0;
}

/* When t starts with prefix: true, and *rest is what follows. */
static bool text_after(struct text t, const char *prefix, struct text *rest)
{
    size_t n = strlen(prefix);

    if (t.len < n || memcmp(t.s, prefix, n) != 0)
        return false;
    *rest = (struct text){t.s + n, t.len - n};
    return true;
}

/* Cut t at the first separator: *rest is behind it. */
static struct text text_cut(struct text t, char separator, struct text *rest)
{
    const char *at = memchr(t.s, separator, t.len);
    size_t n = at != NULL ? (size_t)(at - t.s) : t.len;
    size_t skip = at != NULL ? n + 1 : n;

    *rest = (struct text){t.s + skip, t.len - skip};
    return (struct text){t.s, n};
}

/* A decimal number from 1 to max without sign or leading zero; 0: it is none.  git's own clients
 * write no other; its server would take "0x10" and "010" too, each meaning something else. */
static uint64_t text_number(struct text t, uint64_t max)
{
    uint64_t n = 0;

    if (t.len == 0 || t.s[0] == '0')
        return 0;
    for (size_t i = 0; i < t.len; i++) {
        uint64_t digit = (uint64_t)(t.s[i] - '0');

        if (t.s[i] < '0' || t.s[i] > '9' || n > (max - digit) / 10)
            return 0;
        n = 10 * n + digit;
    }
    return n;
}

/* Parsing ----------------------------------------------------------------------------------- */

struct parser {
    struct fetch_request *req;
    const char *p; /* what is not read yet */
    size_t left;
    size_t lines;    /* counted against FETCH_LINES_MAX */
    bool stranger;   /* the object format is none of ours: ids can't be read */
    struct err *err; /* the caller's */
};

static int malformed(struct parser *ps, const char *what)
{
    return err_set(ps->err, ERR_INPUT, "not a request to upload-pack: %s", what);
}

static int count_line(struct parser *ps)
{
    if (++ps->lines <= FETCH_LINES_MAX)
        return 0;
    return err_set(ps->err, ERR_LIMIT, "a request of more than %d lines", FETCH_LINES_MAX);
}

/* 1: *type is the next pkt's, and of a data pkt *line the text.  0: the body is at its end. */
static int next_line(struct parser *ps, enum pkt_type *type, struct text *line)
{
    struct pkt pkt;
    int rc = pkt_next(&ps->p, &ps->left, &pkt, ps->err);

    if (rc < 0)
        return -1;
    if (rc == 0)
        return ps->left == 0 ? 0 : malformed(ps, "it ends inside a pkt-line");
    pkt_chomp(&pkt);
    *type = pkt.type;
    *line = (struct text){pkt.type == PKT_DATA ? pkt.data : "", pkt.len};
    if (ps->req->command == COMMAND_OTHER)
        return 1; /* passed on as it is, whatever it means */
    /* The canonical body puts a newline behind each line, for which there must be room. */
    if (line->len >= PKT_PAYLOAD_MAX)
        return malformed(ps, "a line that is too long");
    /* git's server reads a line as a C string: what stands behind a NUL would be in the key and
     * not in the question. */
    if (memchr(line->s, '\0', line->len) != NULL || memchr(line->s, '\n', line->len) != NULL)
        return malformed(ps, "a NUL or a newline inside a line");
    return 1;
}

static int at_end(struct parser *ps)
{
    return ps->left == 0 ? 0 : malformed(ps, "something follows its end");
}

static int add_oid(struct parser *ps, struct text hex, struct oid_list *to)
{
    struct fetch_request *req = ps->req;
    struct oid oid;

    if (count_line(ps) != 0)
        return -1;
    /* git's v0 client never names the object format in a fetch: the first id's length tells. */
    if (req->version == 0 && to == &req->wants && to->count == 0 && !req->algo_named &&
        hex.len == 2 * SHA256_SIZE)
        req->algo = HASH_SHA256;
    if (ps->stranger)
        return 0;
    if (!oid_from_hex(ps->req->algo, hex.s, hex.len, &oid))
        return malformed(ps, "an object id that is none");
    oid_list_add(to, &oid);
    return 0;
}

/* Grow by doubling, without a capacity of its own: at each power of two. */
static void add_string(char ***list, size_t *count, struct text t)
{
    if ((*count & (*count - 1)) == 0)
        *list = xrealloc(*list, (*count > 0 ? 2 * *count : 1) * sizeof(**list));
    (*list)[(*count)++] = xstrndup(t.s, t.len);
}

static void clear_strings(char ***list, size_t *count)
{
    for (size_t i = 0; i < *count; i++)
        free((*list)[i]);
    free(*list);
    *list = NULL;
    *count = 0;
}

static void set_algo(struct parser *ps, struct text name)
{
    struct fetch_request *req = ps->req;

    req->algo_named = true;
    /* v0 can name it on any want: ids of two lengths in one request are nothing of ours. */
    if (req->wants.count + req->shallow.count > 0 && !text_is(name, hash_name(req->algo)))
        req->unknown = ps->stranger = true;
    else if (text_is(name, hash_name(HASH_SHA1)))
        req->algo = HASH_SHA1;
    else if (text_is(name, hash_name(HASH_SHA256)))
        req->algo = HASH_SHA256;
    else
        req->unknown = ps->stranger = true;
}

/* Filters: gitprotocol-v2.txt sends to rev-list's --filter. */

static bool filter_known(struct text t, int depth);

static bool is_type_filter(struct text t)
{
    return text_is(t, "commit") || text_is(t, "tree") || text_is(t, "blob") || text_is(t, "tag");
}

static bool is_size(struct text t)
{
    if (t.len > 1 && strchr("kmgKMG", t.s[t.len - 1]) != NULL)
        t.len--;
    return text_is(t, "0") || text_number(t, UINT64_MAX) > 0;
}

static bool is_object_name(struct text t)
{
    struct oid oid;

    return oid_from_hex(HASH_SHA1, t.s, t.len, &oid) || oid_from_hex(HASH_SHA256, t.s, t.len, &oid);
}

/* One part of a combine:, in which git escapes what could be mistaken. */
static bool part_known(struct text t, int depth)
{
    char plain[FILTER_MAX];
    size_t n = 0;

    for (size_t i = 0; i < t.len; i++) {
        if (t.s[i] != '%') {
            plain[n++] = t.s[i];
            continue;
        }
        if (t.len - i < 3 || hex_value(t.s[i + 1]) < 0 || hex_value(t.s[i + 2]) < 0)
            return false;
        plain[n++] = (char)(hex_value(t.s[i + 1]) << 4 | hex_value(t.s[i + 2]));
        i += 2;
    }
    return filter_known((struct text){plain, n}, depth + 1);
}

static bool filter_known(struct text t, int depth)
{
    struct text arg;

    if (t.len > FILTER_MAX || depth > FILTER_DEPTH_MAX)
        return false;
    if (text_is(t, "blob:none"))
        return true;
    if (text_after(t, "blob:limit=", &arg))
        return is_size(arg);
    if (text_after(t, "tree:", &arg))
        return text_is(arg, "0") || text_number(arg, UINT32_MAX) > 0;
    if (text_after(t, "object:type=", &arg))
        return is_type_filter(arg);
    /* "sparse:oid=<branch>:<path>" is allowed too, and means what the branch says that day. */
    if (text_after(t, "sparse:oid=", &arg))
        return is_object_name(arg);
    if (!text_after(t, "combine:", &arg) || arg.len == 0)
        return false;
    while (arg.len > 0) {
        if (!part_known(text_cut(arg, '+', &arg), depth))
            return false;
    }
    return true;
}

/* Arguments that v0 and v2 write alike.  1: it was one; 0: not; -1: it was, and is wrong. */

static int read_number(struct parser *ps, struct text t, bool again, uint64_t max, uint64_t *out)
{
    if (again)
        return malformed(ps, "two deepen lines of one kind");
    *out = text_number(t, max);
    return *out > 0 ? 1 : malformed(ps, "a deepen line without a number");
}

static int read_filter(struct parser *ps, struct text spec)
{
    if (ps->req->filter != NULL)
        return malformed(ps, "two filters");
    ps->req->filter = xstrndup(spec.s, spec.len);
    if (!filter_known(spec, 0))
        ps->req->unknown = true;
    return 1;
}

static int read_deepen(struct parser *ps, struct text line)
{
    struct fetch_request *req = ps->req;
    struct text rest;
    uint64_t n;
    int rc;

    if (text_after(line, "deepen ", &rest)) {
        /* git's "infinite" is 2^31 - 1, the greatest that its server takes. */
        if ((rc = read_number(ps, rest, req->depth != 0, INT32_MAX, &n)) == 1)
            req->depth = (uint32_t)n;
        return rc;
    }
    if (text_after(line, "deepen-since ", &rest)) {
        if ((rc = read_number(ps, rest, req->deepen_since != 0, INT64_MAX, &n)) == 1)
            req->deepen_since = (int64_t)n;
        return rc;
    }
    if (text_after(line, "deepen-not ", &rest)) {
        if (rest.len == 0)
            return malformed(ps, "a deepen-not without a ref");
        add_string(&req->deepen_not, &req->deepen_not_count, rest);
        return count_line(ps) == 0 ? 1 : -1;
    }
    return 0;
}

static int read_common(struct parser *ps, struct text line)
{
    struct text rest;

    if (text_after(line, "shallow ", &rest))
        return add_oid(ps, rest, &ps->req->shallow) == 0 ? 1 : -1;
    if (text_after(line, "filter ", &rest))
        return read_filter(ps, rest);
    return read_deepen(ps, line);
}

/* v0 ---------------------------------------------------------------------------------------- */

static void set_multi_ack(struct fetch_request *req, enum multi_ack mode)
{
    if (mode > req->multi_ack)
        req->multi_ack = mode;
}

static void set_sideband(struct fetch_request *req, enum sideband kind)
{
    if (kind > req->sideband)
        req->sideband = kind;
}

/* Capabilities that say what the client could send or take, and change no byte of the answer. */
static const char *const silent_capabilities[] = {
    "shallow", "deepen-since",           "deepen-not",
    "filter",  "allow-tip-sha1-in-want", "allow-reachable-sha1-in-want",
};

static bool is_silent(struct text word)
{
    struct text rest;

    if (text_after(word, "agent=", &rest) || text_after(word, "session-id=", &rest))
        return true;
    for (size_t i = 0; i < ARRAY_LEN(silent_capabilities); i++) {
        if (text_is(word, silent_capabilities[i]))
            return true;
    }
    return false;
}

static void v0_capability(struct parser *ps, struct text word)
{
    struct fetch_request *req = ps->req;
    struct text rest;

    if (word.len == 0 || is_silent(word))
        return;
    if (text_is(word, "multi_ack"))
        set_multi_ack(req, MULTI_ACK_PLAIN);
    else if (text_is(word, "multi_ack_detailed"))
        set_multi_ack(req, MULTI_ACK_DETAILED);
    else if (text_is(word, "side-band"))
        set_sideband(req, SIDEBAND_SMALL);
    else if (text_is(word, "side-band-64k"))
        set_sideband(req, SIDEBAND_64K);
    else if (text_is(word, "no-done"))
        req->no_done = true;
    else if (text_is(word, "thin-pack"))
        req->thin_pack = true;
    else if (text_is(word, "ofs-delta"))
        req->ofs_delta = true;
    else if (text_is(word, "no-progress"))
        req->no_progress = true;
    else if (text_is(word, "include-tag"))
        req->include_tag = true;
    else if (text_is(word, "deepen-relative"))
        req->deepen_relative = true;
    else if (text_after(word, "object-format=", &rest))
        set_algo(ps, rest);
    else
        req->unknown = true;
}

/* "want <oid>[ <capability>]...".  The capabilities first: one of them says how long an id is.
 * They belong on the first want; git's server reads them on every one. */
static int v0_want(struct parser *ps, struct text rest)
{
    struct text capabilities, hex = text_cut(rest, ' ', &capabilities);

    while (capabilities.len > 0)
        v0_capability(ps, text_cut(capabilities, ' ', &capabilities));
    return add_oid(ps, hex, &ps->req->wants);
}

/* Wants and what limits them, up to a flush. */
static int v0_needs(struct parser *ps)
{
    enum pkt_type type;
    struct text line, rest;
    int rc;

    while ((rc = next_line(ps, &type, &line)) == 1) {
        if (type == PKT_FLUSH)
            return 0;
        if (type != PKT_DATA)
            return malformed(ps, "a delimiter where none may stand");
        if (text_after(line, "want ", &rest))
            rc = v0_want(ps, rest);
        else if ((rc = read_common(ps, line)) == 0)
            ps->req->unknown = true;
        if (rc < 0)
            return -1;
    }
    return rc < 0 ? -1 : malformed(ps, "no flush behind the wants");
}

/* Haves, perhaps in batches with a flush behind each, then "done" or the end. */
static int v0_haves(struct parser *ps)
{
    bool open = false;  /* a have without a flush behind it */
    bool batch = false; /* a flush stood here */
    enum pkt_type type;
    struct text line, rest;
    int rc;

    while ((rc = next_line(ps, &type, &line)) == 1) {
        /* Each flush gets a NAK of its own.  git's clients send one flush, at the very end; who
         * sends more may count the NAKs, and the canonical body would give them fewer. */
        if (batch)
            ps->req->unknown = true;
        if (type == PKT_FLUSH) {
            batch = true;
            open = false;
        } else if (type != PKT_DATA) {
            return malformed(ps, "a delimiter where none may stand");
        } else if (text_is(line, "done")) {
            ps->req->done = true;
            return at_end(ps);
        } else if (text_after(line, "have ", &rest)) {
            open = true;
            if (add_oid(ps, rest, &ps->req->haves) != 0)
                return -1;
        } else {
            ps->req->unknown = true;
        }
    }
    if (rc < 0)
        return -1;
    return open ? malformed(ps, "neither a flush nor done behind the haves") : 0;
}

static int parse_v0(struct parser *ps)
{
    ps->req->command = COMMAND_FETCH;
    return v0_needs(ps) == 0 ? v0_haves(ps) : -1;
}

/* v2 ---------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    enum upload_pack_command command;
} commands[] = {
    {"ls-refs", COMMAND_LS_REFS},
    {"fetch", COMMAND_FETCH},
};

static enum upload_pack_command command_of(struct text name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (text_is(name, commands[i].name))
            return commands[i].command;
    }
    return COMMAND_OTHER;
}

static int v2_capability(struct parser *ps, struct text line, bool *commanded)
{
    struct text rest;

    if (text_after(line, "command=", &rest)) {
        if (*commanded)
            return malformed(ps, "two commands");
        *commanded = true;
        ps->req->command = command_of(rest);
        if (ps->req->command == COMMAND_OTHER)
            ps->req->unknown = true;
    } else if (text_after(line, "object-format=", &rest)) {
        set_algo(ps, rest);
    } else if (!text_after(line, "agent=", &rest) && !text_after(line, "session-id=", &rest)) {
        ps->req->unknown = true;
    }
    return 0;
}

/* The command and the capabilities, in any order.  *more: arguments follow. */
static int v2_head(struct parser *ps, bool *more)
{
    bool commanded = false;
    enum pkt_type type;
    struct text line;
    int rc;

    while ((rc = next_line(ps, &type, &line)) == 1 && type == PKT_DATA) {
        if (v2_capability(ps, line, &commanded) != 0)
            return -1;
    }
    if (rc < 0)
        return -1;
    if (rc == 0 || type == PKT_RESPONSE_END)
        return malformed(ps, "no end of its capabilities");
    *more = type == PKT_DELIM;
    return commanded ? 0 : malformed(ps, "no command");
}

static int v2_fetch_argument(struct parser *ps, struct text line)
{
    struct fetch_request *req = ps->req;
    const struct {
        const char *word;
        bool *flag;
    } flags[] = {
        {"thin-pack", &req->thin_pack},
        {"no-progress", &req->no_progress},
        {"include-tag", &req->include_tag},
        {"ofs-delta", &req->ofs_delta},
        {"deepen-relative", &req->deepen_relative},
        {"wait-for-done", &req->wait_for_done},
        {"done", &req->done},
    };
    struct text rest;

    /* First, as there may be hundreds of thousands of them. */
    if (text_after(line, "have ", &rest))
        return add_oid(ps, rest, &req->haves);
    if (text_after(line, "want ", &rest))
        return add_oid(ps, rest, &req->wants);
    for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
        if (text_is(line, flags[i].word)) {
            *flags[i].flag = true;
            return 0;
        }
    }
    switch (read_common(ps, line)) {
    case 1: return 0;
    case 0: req->unknown = true; return 0;
    default: return -1;
    }
}

static int v2_ls_refs_argument(struct parser *ps, struct text line)
{
    struct fetch_request *req = ps->req;
    struct text rest;

    if (text_is(line, "peel")) {
        req->ls_peel = true;
    } else if (text_is(line, "symrefs")) {
        req->ls_symrefs = true;
    } else if (text_is(line, "unborn")) {
        req->ls_unborn = true;
    } else if (text_after(line, "ref-prefix ", &rest)) {
        if (count_line(ps) != 0)
            return -1;
        add_string(&req->ls_prefixes, &req->ls_prefix_count, rest);
    } else {
        req->unknown = true;
    }
    return 0;
}

static int v2_argument(struct parser *ps, struct text line)
{
    if (ps->req->command == COMMAND_FETCH)
        return v2_fetch_argument(ps, line);
    return v2_ls_refs_argument(ps, line);
}

/* The arguments of a command that is not ours to understand: pkts, at least. */
static int skip_arguments(struct parser *ps)
{
    enum pkt_type type;
    struct text line;
    int rc;

    while ((rc = next_line(ps, &type, &line)) == 1)
        ;
    return rc;
}

static int parse_v2(struct parser *ps)
{
    bool more = false;
    enum pkt_type type;
    struct text line;
    int rc;

    ps->req->sideband = SIDEBAND_64K;
    if (v2_head(ps, &more) != 0)
        return -1;
    if (!more)
        return at_end(ps);
    if (ps->req->command == COMMAND_OTHER)
        return skip_arguments(ps);
    while ((rc = next_line(ps, &type, &line)) == 1 && type == PKT_DATA) {
        if (v2_argument(ps, line) != 0)
            return -1;
    }
    if (rc < 0)
        return -1;
    if (rc == 0 || type != PKT_FLUSH)
        return malformed(ps, "no flush behind its arguments");
    return at_end(ps);
}

/* Whole requests ---------------------------------------------------------------------------- */

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void sort_strings(char **list, size_t *count)
{
    size_t kept = 0;

    if (*count == 0)
        return;
    qsort(list, *count, sizeof(list[0]), compare_strings);
    for (size_t i = 1; i < *count; i++) {
        if (strcmp(list[kept], list[i]) != 0)
            list[++kept] = list[i];
        else
            free(list[i]);
    }
    *count = kept + 1;
}

struct placed {
    char *s;
    size_t place;
};

static int compare_placed(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;
    int c = strcmp(x->s, y->s);

    return c != 0 ? c : (x->place > y->place) - (x->place < y->place);
}

/* Drop all but the first of equal strings and keep the order.  By sorting: a client may send as
 * many as FETCH_LINES_MAX, which must not cost the square of that. */
static void drop_duplicates(char **list, size_t *count)
{
    struct placed *sorted;
    size_t kept = 0;

    if (*count < 2)
        return;
    sorted = xmalloc(*count * sizeof(*sorted));
    for (size_t i = 0; i < *count; i++)
        sorted[i] = (struct placed){list[i], i};
    qsort(sorted, *count, sizeof(*sorted), compare_placed);
    for (size_t i = 1, first = 0; i < *count; i++) {
        if (strcmp(sorted[first].s, sorted[i].s) == 0)
            list[sorted[i].place] = NULL;
        else
            first = i;
    }
    for (size_t i = 0; i < *count; i++) {
        if (sorted[i].s != list[sorted[i].place])
            free(sorted[i].s);
    }
    for (size_t i = 0; i < *count; i++) {
        if (list[i] != NULL)
            list[kept++] = list[i];
    }
    *count = kept;
    free(sorted);
}

static int settle(struct parser *ps)
{
    struct fetch_request *req = ps->req;

    oid_list_sort(&req->wants);
    oid_list_sort(&req->haves);
    oid_list_sort(&req->shallow);
    sort_strings(req->deepen_not, &req->deepen_not_count);
    drop_duplicates(req->ls_prefixes, &req->ls_prefix_count);
    /* With wait-for-done a client may ask only which of its haves are common. */
    if (req->command == COMMAND_FETCH && req->wants.count == 0 && !req->wait_for_done &&
        !req->unknown)
        return malformed(ps, "a fetch without wants");
    return 0;
}

int fetch_request_parse(int version, const void *body, size_t len, struct fetch_request *req,
                        struct err *err)
{
    struct parser ps = {.req = req, .p = body, .left = len, .err = err};
    int rc;

    must(version >= 0 && version <= 2);
    *req = (struct fetch_request){.version = version == 2 ? 2 : 0, .algo = HASH_SHA1};
    if (len == 0)
        return err_set(err, ERR_INPUT, "the body is empty");
    if (len == PKT_HEADER && memcmp(body, "0000", PKT_HEADER) == 0) {
        req->command = COMMAND_PROBE;
        return 0;
    }
    rc = req->version == 2 ? parse_v2(&ps) : parse_v0(&ps);
    if (rc == 0)
        rc = settle(&ps);
    if (rc != 0)
        fetch_request_clear(req);
    return rc;
}

void fetch_request_clear(struct fetch_request *req)
{
    oid_list_clear(&req->wants);
    oid_list_clear(&req->haves);
    oid_list_clear(&req->shallow);
    clear_strings(&req->deepen_not, &req->deepen_not_count);
    clear_strings(&req->ls_prefixes, &req->ls_prefix_count);
    free(req->filter);
    *req = (struct fetch_request){0};
}

/* deepen lines that name refs are answered by what the refs are that day. */
bool fetch_request_keepable(const struct fetch_request *req)
{
    return req->command == COMMAND_FETCH && req->done && !req->unknown && req->wants.count > 0 &&
           req->deepen_not_count == 0;
}

bool fetch_request_is_closed(const struct fetch_request *req)
{
    return req->command == COMMAND_FETCH && !req->unknown && req->wants.count > 0 &&
           req->haves.count == 0 && req->filter == NULL && !fetch_request_is_shallow(req);
}

bool fetch_request_is_shallow(const struct fetch_request *req)
{
    return req->depth != 0 || req->deepen_since != 0 || req->deepen_not_count > 0 ||
           req->shallow.count > 0;
}

/* Writing ----------------------------------------------------------------------------------- */

static void write_text(struct bytes *out, const char *before, const char *s)
{
    must(pkt_addf(out, "%s%s\n", before, s) == 0);
}

static void write_flag(struct bytes *out, bool flag, const char *word)
{
    if (flag)
        write_text(out, "", word);
}

static void write_oids(const struct fetch_request *req, struct bytes *out, const char *before,
                       const struct oid_list *list)
{
    char hex[OID_HEX_SIZE];

    for (size_t i = 0; i < list->count; i++) {
        oid_to_hex(req->algo, &list->items[i], hex);
        write_text(out, before, hex);
    }
}

/* What limits the pack; v0 and v2 write it alike. */
static void write_limits(const struct fetch_request *req, struct bytes *out)
{
    write_oids(req, out, "shallow ", &req->shallow);
    if (req->depth != 0)
        must(pkt_addf(out, "deepen %lu\n", (unsigned long)req->depth) == 0);
    if (req->deepen_since != 0)
        must(pkt_addf(out, "deepen-since %lld\n", (long long)req->deepen_since) == 0);
    for (size_t i = 0; i < req->deepen_not_count; i++)
        write_text(out, "deepen-not ", req->deepen_not[i]);
    if (req->filter != NULL)
        write_text(out, "filter ", req->filter);
}

static void write_v2_head(const struct fetch_request *req, struct bytes *out, const char *command)
{
    write_text(out, "command=", command);
    if (req->algo_named)
        write_text(out, "object-format=", hash_name(req->algo));
    must(pkt_add_delim(out) == 0);
}

static void write_ls_refs(const struct fetch_request *req, struct bytes *out)
{
    write_v2_head(req, out, "ls-refs");
    write_flag(out, req->ls_peel, "peel");
    write_flag(out, req->ls_symrefs, "symrefs");
    write_flag(out, req->ls_unborn, "unborn");
    for (size_t i = 0; i < req->ls_prefix_count; i++)
        write_text(out, "ref-prefix ", req->ls_prefixes[i]);
    must(pkt_add_flush(out) == 0);
}

static void write_v2_fetch(const struct fetch_request *req, struct bytes *out)
{
    write_v2_head(req, out, "fetch");
    write_flag(out, req->thin_pack, "thin-pack");
    write_flag(out, true, "no-progress");
    write_flag(out, req->include_tag, "include-tag");
    write_flag(out, req->ofs_delta, "ofs-delta");
    write_flag(out, req->wait_for_done, "wait-for-done");
    write_limits(req, out);
    write_flag(out, req->deepen_relative, "deepen-relative");
    write_oids(req, out, "want ", &req->wants);
    write_oids(req, out, "have ", &req->haves);
    write_flag(out, req->done, "done");
    must(pkt_add_flush(out) == 0);
}

static void add_word(struct bytes *line, bool flag, const char *word)
{
    if (flag)
        must(bytes_addf(line, " %s", word) == 0);
}

/* The first want with all capabilities, in the order in which git's own client has them. */
static void write_v0_first(const struct fetch_request *req, struct bytes *out)
{
    char hex[OID_HEX_SIZE];
    struct bytes line;

    bytes_init(&line, PKT_PAYLOAD_MAX);
    oid_to_hex(req->algo, &req->wants.items[0], hex);
    must(bytes_addf(&line, "want %s", hex) == 0);
    add_word(&line, req->multi_ack == MULTI_ACK_DETAILED, "multi_ack_detailed");
    add_word(&line, req->multi_ack == MULTI_ACK_PLAIN, "multi_ack");
    add_word(&line, req->no_done, "no-done");
    add_word(&line, req->sideband == SIDEBAND_64K, "side-band-64k");
    add_word(&line, req->sideband == SIDEBAND_SMALL, "side-band");
    add_word(&line, req->deepen_relative, "deepen-relative");
    add_word(&line, req->thin_pack, "thin-pack");
    /* Without a sideband progress has nowhere to go, so the word would change nothing. */
    add_word(&line, req->sideband != SIDEBAND_NONE, "no-progress");
    add_word(&line, req->include_tag, "include-tag");
    add_word(&line, req->ofs_delta, "ofs-delta");
    add_word(&line, req->deepen_since != 0, "deepen-since");
    add_word(&line, req->deepen_not_count > 0, "deepen-not");
    add_word(&line, req->filter != NULL, "filter");
    if (req->algo_named)
        must(bytes_addf(&line, " object-format=%s", hash_name(req->algo)) == 0);
    write_text(out, "", line.data);
    bytes_clear(&line);
}

static void write_v0_fetch(const struct fetch_request *req, struct bytes *out)
{
    struct oid_list others = req->wants; /* borrowed */

    write_v0_first(req, out);
    others.items++;
    others.count--;
    write_oids(req, out, "want ", &others);
    write_limits(req, out);
    must(pkt_add_flush(out) == 0);
    write_oids(req, out, "have ", &req->haves);
    if (req->done)
        write_text(out, "", "done");
    else if (req->haves.count > 0)
        must(pkt_add_flush(out) == 0);
}

void fetch_request_write(const struct fetch_request *req, struct bytes *out)
{
    must(!req->unknown);
    must(req->command == COMMAND_LS_REFS || req->command == COMMAND_FETCH);
    if (req->command == COMMAND_LS_REFS)
        write_ls_refs(req, out);
    else if (req->version == 2)
        write_v2_fetch(req, out);
    else
        write_v0_fetch(req, out);
}

void fetch_request_key(const struct fetch_request *req, const struct key *repo_id, struct key *out)
{
    const uint8_t version = (uint8_t)req->version;
    struct digest *d = digest_new(HASH_SHA256);
    struct bytes body;

    bytes_init(&body, SIZE_MAX / 2); /* as large as the request, which was bounded */
    fetch_request_write(req, &body);
    digest_update(d, repo_id->raw, sizeof(repo_id->raw));
    digest_update(d, &version, sizeof(version));
    digest_update(d, body.data, body.len);
    digest_final(d, out->raw);
    digest_free(d);
    bytes_clear(&body);
}

void fetch_request_copy(const struct fetch_request *from, struct fetch_request *to)
{
    struct bytes body;
    struct err ignored;

    bytes_init(&body, SIZE_MAX / 2);
    fetch_request_write(from, &body);
    must(fetch_request_parse(from->version, body.data, body.len, to, &ignored) == 0);
    to->no_progress = from->no_progress;
    bytes_clear(&body);
}
