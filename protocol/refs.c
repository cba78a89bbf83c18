#include "protocol/refs.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"
#include "protocol/pkt.h"

enum {
    CAPABILITIES_MAX = 256 * 1024, /* GitHub's take 400 bytes; more than this is no list */
    ERROR_TEXT_MAX = 1024,         /* of an ERR pkt; the rest is dropped */
};

enum state {
    AT_START,   /* nothing read, or only "# service=..." and its flush */
    AT_SERVICE, /* behind "# service=...": its flush must follow */
    AT_FIRST,   /* behind "version 1": the first ref must follow */
    AT_REFS,    /* v0, v1: refs; ls-refs: everything */
    AT_CAPABILITIES,
    AT_END,
    AT_ERROR, /* behind an ERR pkt: nothing that follows counts */
};

struct refs_reader {
    enum refs_form form;
    enum state state;
    enum hash_algo algo;
    int version;
    struct pkt_reader pkts;
    struct bytes capabilities; /* a line each */
    struct oid_list oids;
    struct oid_list tags, targets; /* pairs */
    struct oid last;               /* the ref before: what a "^{}" line in v0 belongs to */
    size_t max_oids;
    refs_ref_fn *on_ref; /* NULL: nobody wants to know names */
    void *ctx;
    bool overflowed;
    size_t ref_count;
    char *error;
    bool failed;
    struct err failure;
};

struct refs_reader *refs_reader_new(enum refs_form form, enum hash_algo algo, size_t max_oids)
{
    struct refs_reader *r = xcalloc(1, sizeof(*r));

    r->form = form;
    r->state = form == REFS_LS_REFS ? AT_REFS : AT_START;
    r->algo = algo;
    r->max_oids = max_oids;
    pkt_reader_init(&r->pkts);
    bytes_init(&r->capabilities, CAPABILITIES_MAX);
    return r;
}

void refs_reader_on_ref(struct refs_reader *r, refs_ref_fn *fn, void *ctx)
{
    r->on_ref = fn;
    r->ctx = ctx;
}

void refs_reader_free(struct refs_reader *r)
{
    if (r == NULL)
        return;
    pkt_reader_clear(&r->pkts);
    bytes_clear(&r->capabilities);
    oid_list_clear(&r->oids);
    oid_list_clear(&r->tags);
    oid_list_clear(&r->targets);
    free(r->error);
    free(r);
}

static int malformed(struct err *err, const char *what)
{
    return err_set(err, ERR_UPSTREAM, "not an advertisement of refs: %s", what);
}

static void collect(struct refs_reader *r, const struct oid *oid)
{
    if (oid_is_zero(oid))
        return;
    if (r->oids.count >= r->max_oids)
        r->overflowed = true;
    else
        oid_list_add(&r->oids, oid);
}

static void collect_tag(struct refs_reader *r, const struct oid *tag, const struct oid *target)
{
    if (r->overflowed || oid_is_zero(tag) || oid_is_zero(target))
        return;
    oid_list_add(&r->tags, tag);
    oid_list_add(&r->targets, target);
}

static void tell(struct refs_reader *r, const char *name, size_t len, const struct oid *oid)
{
    if (r->on_ref != NULL && !oid_is_zero(oid))
        r->on_ref(r->ctx, name, len, oid);
}

/* An id and the space behind it at the start of *s; moves *s and *len past both. */
static bool take_oid(const struct refs_reader *r, const char **s, size_t *len, struct oid *oid)
{
    const size_t hex = 2 * hash_size(r->algo);

    if (*len <= hex || (*s)[hex] != ' ' || !oid_from_hex(r->algo, *s, hex, oid))
        return false;
    *s += hex + 1;
    *len -= hex + 1;
    return true;
}

static bool ends_with(const char *s, size_t len, const char *end)
{
    size_t n = strlen(end);

    return len >= n && memcmp(s + len - n, end, n) == 0;
}

static bool equals(const char *s, size_t len, const char *what)
{
    return len == strlen(what) && memcmp(s, what, len) == 0;
}

/* Capabilities -------------------------------------------------------------------------------- */

static int add_capability(struct refs_reader *r, const char *s, size_t len, struct err *err)
{
    if (memchr(s, '\n', len) != NULL)
        return malformed(err, "a newline in a capability");
    if (bytes_add(&r->capabilities, s, len) != 0 || bytes_add_str(&r->capabilities, "\n") != 0)
        return malformed(err, "too many capabilities");
    return 0;
}

static int settle_algo(struct refs_reader *r, struct err *err)
{
    const char *value;
    size_t len;

    if (!refs_reader_capability(r, "object-format", &value, &len)) {
        /* gitprotocol-capabilities.txt: absent means sha1, whatever the caller expected. */
        r->algo = HASH_SHA1;
        return 0;
    }
    if (equals(value, len, hash_name(HASH_SHA1)))
        r->algo = HASH_SHA1;
    else if (equals(value, len, hash_name(HASH_SHA256)))
        r->algo = HASH_SHA256;
    else
        return malformed(err, "an object format that is neither sha1 nor sha256");
    return 0;
}

/* v0 and v1: separated by spaces, behind a NUL on the first line. */
static int add_capabilities(struct refs_reader *r, const char *s, size_t len, struct err *err)
{
    while (len > 0) {
        const char *space = memchr(s, ' ', len);
        size_t n = space != NULL ? (size_t)(space - s) : len;

        if (n > 0 && add_capability(r, s, n, err) != 0)
            return -1;
        n += space != NULL;
        s += n;
        len -= n;
    }
    return settle_algo(r, err);
}

/* Lines --------------------------------------------------------------------------------------- */

static int read_ref(struct refs_reader *r, const char *s, size_t len, struct err *err)
{
    struct oid oid;

    if (!take_oid(r, &s, &len, &oid) || len == 0)
        return malformed(err, "a line that is no ref");
    collect(r, &oid);
    /* "tag^{}" tells what a tag peels to, "capabilities^{}" stands in for no refs at all. */
    if (ends_with(s, len, "^{}")) {
        collect_tag(r, &r->last, &oid);
    } else {
        r->ref_count++;
        r->last = oid;
        tell(r, s, len, &oid);
    }
    return 0;
}

static int read_first_ref(struct refs_reader *r, const char *s, size_t len, struct err *err)
{
    const char *nul = memchr(s, '\0', len);

    r->state = AT_REFS;
    if (nul == NULL)
        return read_ref(r, s, len, err);
    if (add_capabilities(r, nul + 1, len - (size_t)(nul + 1 - s), err) != 0)
        return -1;
    return read_ref(r, s, (size_t)(nul - s), err);
}

/* "shallow <oid>" behind the refs, from a repository that is shallow itself. */
static bool is_shallow_line(const struct pkt *pkt)
{
    const char *rest;
    size_t len;

    return pkt_skip_prefix(pkt, "shallow ", &rest, &len);
}

static int read_attributes(struct refs_reader *r, const struct oid *ref, const char *s, size_t len,
                           struct err *err)
{
    static const char peeled[] = "peeled:";
    const size_t n = sizeof(peeled) - 1;
    struct oid oid;

    while (len > 0) {
        const char *space = memchr(s, ' ', len);
        size_t word = space != NULL ? (size_t)(space - s) : len;

        if (word > n && memcmp(s, peeled, n) == 0) {
            if (!oid_from_hex(r->algo, s + n, word - n, &oid))
                return malformed(err, "a peeled id that is none");
            collect(r, &oid);
            collect_tag(r, ref, &oid);
        }
        word += space != NULL;
        s += word;
        len -= word;
    }
    return 0;
}

/* ls-refs: "<oid or unborn> <ref>[ <attribute>]..." */
static int read_ls_ref(struct refs_reader *r, const struct pkt *line, struct err *err)
{
    const char *s = line->data;
    size_t len = line->len, name;
    const char *space;
    struct oid oid = {0};

    if (!pkt_skip_prefix(line, "unborn ", &s, &len)) {
        if (!take_oid(r, &s, &len, &oid))
            return malformed(err, "a line that is no ref");
        collect(r, &oid);
    }
    space = memchr(s, ' ', len);
    name = space != NULL ? (size_t)(space - s) : len;
    if (name == 0)
        return malformed(err, "a ref without a name");
    r->ref_count++;
    tell(r, s, name, &oid);
    return space == NULL ? 0 : read_attributes(r, &oid, space + 1, len - name - 1, err);
}

static int read_start(struct refs_reader *r, const struct pkt *line, struct err *err)
{
    const char *rest;
    size_t len;

    if (pkt_skip_prefix(line, "# service=", &rest, &len)) {
        r->state = AT_SERVICE;
    } else if (pkt_is(line, "version 1")) {
        r->version = 1;
        r->state = AT_FIRST;
    } else if (pkt_is(line, "version 2")) {
        r->version = 2;
        r->state = AT_CAPABILITIES;
    } else {
        return read_first_ref(r, line->data, line->len, err);
    }
    return 0;
}

static int read_line(struct refs_reader *r, const struct pkt *pkt, struct err *err)
{
    struct pkt line = *pkt;
    const char *rest;
    size_t len;

    pkt_chomp(&line);
    if (pkt_skip_prefix(&line, "ERR ", &rest, &len)) {
        r->error = xstrndup(rest, len < ERROR_TEXT_MAX ? len : ERROR_TEXT_MAX);
        r->state = AT_ERROR;
        return 0;
    }
    switch (r->state) {
    case AT_START: return read_start(r, &line, err);
    case AT_FIRST: return read_first_ref(r, line.data, line.len, err);
    case AT_REFS:
        if (r->form == REFS_LS_REFS)
            return read_ls_ref(r, &line, err);
        return is_shallow_line(&line) ? 0 : read_ref(r, line.data, line.len, err);
    case AT_CAPABILITIES: return add_capability(r, line.data, line.len, err);
    case AT_SERVICE: return malformed(err, "no flush behind its service line");
    default: return malformed(err, "something follows its end");
    }
}

static int read_flush(struct refs_reader *r, struct err *err)
{
    switch (r->state) {
    case AT_SERVICE: r->state = AT_START; return 0;
    case AT_CAPABILITIES: r->state = AT_END; return settle_algo(r, err);
    case AT_START: /* some servers have nothing to say of an empty repository */
    case AT_FIRST:
    case AT_REFS: r->state = AT_END; return 0;
    default: return malformed(err, "something follows its end");
    }
}

static int read_pkt(void *ctx, const struct pkt *pkt, struct err *err)
{
    struct refs_reader *r = ctx;

    if (r->state == AT_ERROR)
        return 0;
    if (pkt->type == PKT_DATA)
        return read_line(r, pkt, err);
    if (pkt->type == PKT_FLUSH)
        return read_flush(r, err);
    return malformed(err, "a delimiter where none may stand");
}

int refs_reader_feed(struct refs_reader *r, const void *data, size_t len, struct err *err)
{
    if (!r->failed && pkt_reader_feed(&r->pkts, data, len, read_pkt, r, &r->failure) != 0) {
        r->failed = true;
        /* pkt.c blames whoever sent the bytes; here that is upstream. */
        r->failure.kind = ERR_UPSTREAM;
    }
    if (!r->failed)
        return 0;
    *err = r->failure;
    return -1;
}

int refs_reader_finish(struct refs_reader *r, struct err *err)
{
    if (r->failed) {
        *err = r->failure;
        return -1;
    }
    if (r->state == AT_ERROR)
        return err_set(err, ERR_UPSTREAM, "upstream says: %s", r->error);
    if (r->state != AT_END || !pkt_reader_at_boundary(&r->pkts))
        return err_set(err, ERR_UPSTREAM, "the advertisement of refs broke off");
    return 0;
}

/* Answers ------------------------------------------------------------------------------------- */

const struct oid_list *refs_reader_oids(const struct refs_reader *r)
{
    return &r->oids;
}

void refs_reader_tags(const struct refs_reader *r, const struct oid_list **tags,
                      const struct oid_list **targets)
{
    *tags = &r->tags;
    *targets = &r->targets;
}

bool refs_reader_overflowed(const struct refs_reader *r)
{
    return r->overflowed;
}

size_t refs_reader_ref_count(const struct refs_reader *r)
{
    return r->ref_count;
}

enum hash_algo refs_reader_algo(const struct refs_reader *r)
{
    return r->algo;
}

const char *refs_reader_error(const struct refs_reader *r)
{
    return r->error;
}

int refs_reader_version(const struct refs_reader *r)
{
    return r->version;
}

bool refs_reader_capability(const struct refs_reader *r, const char *name, const char **value,
                            size_t *len)
{
    const char *p = r->capabilities.len > 0 ? r->capabilities.data : "";
    const char *end = p + r->capabilities.len;

    while (p < end) {
        const char *line_end = memchr(p, '\n', (size_t)(end - p));
        const char *equal = memchr(p, '=', (size_t)(line_end - p));
        const char *name_end = equal != NULL ? equal : line_end;

        if (equals(p, (size_t)(name_end - p), name)) {
            if (value != NULL) {
                *value = equal != NULL ? equal + 1 : line_end;
                *len = (size_t)(line_end - *value);
            }
            return true;
        }
        p = line_end + 1;
    }
    return false;
}

bool refs_reader_fetch_feature(const struct refs_reader *r, const char *word)
{
    const char *s;
    size_t len;

    if (r->version != 2)
        return refs_reader_capability(r, word, NULL, NULL);
    if (!refs_reader_capability(r, "fetch", &s, &len))
        return false;
    while (len > 0) {
        const char *space = memchr(s, ' ', len);
        size_t n = space != NULL ? (size_t)(space - s) : len;

        if (equals(s, n, word))
            return true;
        n += space != NULL;
        s += n;
        len -= n;
    }
    return false;
}
