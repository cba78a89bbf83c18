#include "cache/shared/manifest.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base.h"

/* The keys of a pack's parts, and how their names end. */
static const char *const PARTS[MANIFEST_PARTS_COUNT] = {"pack", "idx", "rev", "bitmap", "mtimes"};

void manifest_clear(struct manifest *m)
{
    free(m->repo);
    free(m->url);
    free(m->node);
    free(m->applied);
    free(m->packs);
    free(m->tips);
    *m = (struct manifest){0};
}

/* ---- what one may be ---- */

static bool is_file(const struct manifest_file *f, bool needed)
{
    if (f->size == 0)
        return !needed && f->stored_size == 0;
    return f->size <= MANIFEST_SIZE_MAX && f->stored_size <= MANIFEST_SIZE_MAX;
}

static bool is_hash(const char *s)
{
    return strlen(s) == MANIFEST_HASH_HEX && strspn(s, "0123456789abcdef") == MANIFEST_HASH_HEX;
}

/* A line of text; that it is UTF-8, jansson knows. */
static bool is_text(const char *s)
{
    if (s == NULL || s[0] == '\0' || strlen(s) > MANIFEST_NAME_MAX)
        return false;
    for (; *s != '\0'; s++) {
        if ((unsigned char)*s < ' ' || *s == 0x7f)
            return false;
    }
    return true;
}

static bool has_user(const char *url)
{
    const char *host = strstr(url, "://");

    host = host != NULL ? host + 3 : url;
    return memchr(host, '@', strcspn(host, "/?#")) != NULL;
}

static int compare_hashes(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool are_different(const struct manifest_pack *packs, size_t count)
{
    const char **hashes = xmalloc(count * sizeof(*hashes));
    bool different = true;

    for (size_t i = 0; i < count; i++)
        hashes[i] = packs[i].hash;
    qsort(hashes, count, sizeof(*hashes), compare_hashes);
    for (size_t i = 1; i < count; i++)
        different = different && strcmp(hashes[i - 1], hashes[i]) != 0;
    free(hashes);
    return different;
}

static const char *what_is_wrong_with_packs(const struct manifest *m)
{
    if (m->packs_count == 0 || m->packs_count > MANIFEST_PACKS_MAX)
        return "the number of packs";
    for (size_t i = 0; i < m->packs_count; i++) {
        if (!is_hash(m->packs[i].hash))
            return "the name of a pack";
        for (int part = 0; part < MANIFEST_PARTS_COUNT; part++) {
            if (!is_file(&m->packs[i].parts[part], part <= MANIFEST_IDX))
                return "a pack's file";
        }
    }
    return are_different(m->packs, m->packs_count) ? NULL : "a pack that is there twice";
}

static const char *what_is_wrong_with_tips(const struct manifest *m)
{
    if (m->tips_count > MANIFEST_TIPS_MAX)
        return "the number of tips";
    for (size_t i = 0; i < m->tips_count; i++) {
        if (m->tips[i].wanted_s < 0 || oid_is_zero(&m->tips[i].oid))
            return "a tip";
        if (i > 0 && oid_cmp(&m->tips[i - 1].oid, &m->tips[i].oid) >= 0)
            return "the order of tips";
    }
    return NULL;
}

/* NULL: nothing. */
static const char *what_is_wrong(const struct manifest *m)
{
    bool has_midx = m->midx_hash[0] != '\0';
    const char *wrong;

    if (!is_text(m->repo) || !is_text(m->url) || !is_text(m->node) ||
        (m->applied != NULL && !is_text(m->applied)))
        return "a name";
    if (has_user(m->url))
        return "a URL with a user";
    if (m->generation == 0 || m->generation > INT64_MAX || m->fence > INT64_MAX || m->created < 0)
        return "the generation, the fencing number or the time";
    if (has_midx && (!is_hash(m->midx_hash) || !is_file(&m->midx, true)))
        return "the multi-pack index";
    if (!has_midx && (m->midx.size != 0 || m->midx_bitmap.size != 0 || m->indexed != 0))
        return "a multi-pack index without a checksum";
    if (!is_file(&m->midx, false) || !is_file(&m->midx_bitmap, false) ||
        !is_file(&m->commit_graph, false))
        return "a file";
    if (m->indexed > m->packs_count || (has_midx && m->indexed == 0))
        return "the number of indexed packs";
    wrong = what_is_wrong_with_packs(m);
    return wrong != NULL ? wrong : what_is_wrong_with_tips(m);
}

/* ---- writing ---- */

/* NULL, which json_pack() leaves out, when there is none. */
static json_t *write_file_of(const struct manifest_file *f)
{
    char hex[KEY_HEX_SIZE];
    json_t *json;

    if (f->size == 0)
        return NULL;
    key_to_hex(&f->sha256, hex);
    json = json_pack("{s:s, s:I}", "sha256", hex, "size", (json_int_t)f->size);
    must(json != NULL);
    if (f->stored_size != 0)
        json_object_set_new(json, "stored", json_integer((json_int_t)f->stored_size));
    return json;
}

static json_t *write_packs(const struct manifest *m)
{
    json_t *packs = json_array();

    for (size_t i = 0; i < m->packs_count; i++) {
        json_t *pack = json_pack("{s:s}", "hash", m->packs[i].hash);

        for (int part = 0; part < MANIFEST_PARTS_COUNT; part++) {
            json_t *file = write_file_of(&m->packs[i].parts[part]);

            if (file != NULL)
                json_object_set_new(pack, PARTS[part], file);
        }
        json_array_append_new(packs, pack);
    }
    return packs;
}

/* "<oid> <seconds>": half the memory of a pair. */
static json_t *write_tips(const struct manifest *m)
{
    json_t *tips = json_array();

    for (size_t i = 0; i < m->tips_count; i++) {
        char hex[OID_HEX_SIZE];

        oid_to_hex(HASH_SHA1, &m->tips[i].oid, hex);
        json_array_append_new(tips, json_sprintf("%s %" PRId64, hex, m->tips[i].wanted_s));
    }
    return tips;
}

static json_t *write_midx(const struct manifest *m)
{
    json_t *json;

    if (m->midx_hash[0] == '\0')
        return NULL;
    json =
        json_pack("{s:s, s:o, s:o*, s:I}", "hash", m->midx_hash, "index", write_file_of(&m->midx),
                  "bitmap", write_file_of(&m->midx_bitmap), "packs", (json_int_t)m->indexed);
    must(json != NULL);
    return json;
}

/* Set "sha256" to the digest of the text without it. */
static char *seal(json_t *json)
{
    char *text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);
    char hex[KEY_HEX_SIZE];
    struct key sum;

    must(text != NULL);
    key_of(text, strlen(text), &sum);
    free(text);
    key_to_hex(&sum, hex);
    json_object_set_new(json, "sha256", json_string(hex));
    text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);
    must(text != NULL);
    return text;
}

int manifest_write(const struct manifest *m, struct bytes *out, struct err *err)
{
    const char *wrong = what_is_wrong(m);
    char repo_id[KEY_HEX_SIZE];
    json_t *json;
    char *text;
    int rc = 0;

    if (wrong != NULL)
        return err_set(err, ERR_INPUT, "a mirror's manifest can't hold this: %s", wrong);
    key_to_hex(&m->repo_id, repo_id);
    json = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:s*, s:I, s:I, s:I, s:o, s:o, s:o*, s:o*}",
                     "version", MANIFEST_VERSION, "format", hash_name(HASH_SHA1), "repo_id",
                     repo_id, "repo", m->repo, "url", m->url, "node", m->node, "applied",
                     m->applied, "generation", (json_int_t)m->generation, "fence",
                     (json_int_t)m->fence, "created", (json_int_t)m->created, "packs",
                     write_packs(m), "tips", write_tips(m), "multi_pack_index", write_midx(m),
                     "commit_graph", write_file_of(&m->commit_graph));
    if (json == NULL)
        return err_set(err, ERR_INPUT, "a mirror's manifest can't hold a name that is not UTF-8");
    text = seal(json);
    json_decref(json);
    if (bytes_addf(out, "%s\n", text) != 0)
        rc = err_set(err, ERR_LIMIT, "a mirror's manifest is too long");
    free(text);
    return rc;
}

/* ---- reading ---- */

static int damaged(struct err *err, const char *what)
{
    return err_set(err, ERR_CORRUPT, "the manifest of a mirror is damaged: %s", what);
}

/* json NULL: there is none. */
static int read_file_of(json_t *json, struct manifest_file *out, struct err *err)
{
    const char *sha256;
    json_int_t size, stored = 0;

    *out = (struct manifest_file){0};
    if (json == NULL)
        return 0;
    if (json_unpack(json, "{s:s, s:I, s?I !}", "sha256", &sha256, "size", &size, "stored",
                    &stored) != 0 ||
        size <= 0 || stored < 0 || !key_from_hex(sha256, &out->sha256))
        return damaged(err, "a file");
    out->size = (uint64_t)size;
    out->stored_size = (uint64_t)stored;
    return 0;
}

static int copy_hash(const char *hash, char out[MANIFEST_HASH_HEX + 1], struct err *err)
{
    if (!is_hash(hash))
        return damaged(err, "a hash");
    memcpy(out, hash, MANIFEST_HASH_HEX + 1);
    return 0;
}

static int read_pack(json_t *json, struct manifest_pack *out, struct err *err)
{
    json_t *parts[MANIFEST_PARTS_COUNT] = {NULL};
    const char *hash;

    if (json_unpack(json, "{s:s, s:o, s:o, s?o, s?o, s?o !}", "hash", &hash, PARTS[0], &parts[0],
                    PARTS[1], &parts[1], PARTS[2], &parts[2], PARTS[3], &parts[3], PARTS[4],
                    &parts[4]) != 0)
        return damaged(err, "a pack");
    for (int part = 0; part < MANIFEST_PARTS_COUNT; part++) {
        if (read_file_of(parts[part], &out->parts[part], err) != 0)
            return -1;
    }
    return copy_hash(hash, out->hash, err);
}

static int read_packs(json_t *json, struct manifest *out, struct err *err)
{
    size_t count = json_array_size(json); /* 0 for what is no array */

    if (count == 0 || count > MANIFEST_PACKS_MAX)
        return damaged(err, "the number of packs");
    out->packs = xcalloc(count, sizeof(*out->packs));
    for (; out->packs_count < count; out->packs_count++) {
        if (read_pack(json_array_get(json, out->packs_count), &out->packs[out->packs_count], err) !=
            0)
            return -1;
    }
    return 0;
}

static bool read_tip(const json_t *json, struct manifest_tip *out)
{
    const char *text = json_string_value(json), *digits = NULL;

    if (text != NULL && strlen(text) > MANIFEST_HASH_HEX + 1 && text[MANIFEST_HASH_HEX] == ' ')
        digits = text + MANIFEST_HASH_HEX + 1;
    /* 18 digits fit; that there is no zero too many, the comparison at the end shows. */
    if (digits == NULL || strlen(digits) > 18 || strspn(digits, "0123456789") != strlen(digits))
        return false;
    out->wanted_s = strtoll(digits, NULL, 10);
    return oid_from_hex(HASH_SHA1, text, MANIFEST_HASH_HEX, &out->oid);
}

static int read_tips(json_t *json, struct manifest *out, struct err *err)
{
    size_t count = json_array_size(json);

    if (!json_is_array(json) || count > MANIFEST_TIPS_MAX)
        return damaged(err, "the number of tips");
    out->tips = count > 0 ? xcalloc(count, sizeof(*out->tips)) : NULL;
    for (; out->tips_count < count; out->tips_count++) {
        if (!read_tip(json_array_get(json, out->tips_count), &out->tips[out->tips_count]))
            return damaged(err, "a tip");
    }
    return 0;
}

static int read_midx(json_t *json, struct manifest *out, struct err *err)
{
    json_t *index, *bitmap = NULL;
    const char *hash;
    json_int_t packs;

    if (json == NULL)
        return 0;
    if (json_unpack(json, "{s:s, s:o, s?o, s:I !}", "hash", &hash, "index", &index, "bitmap",
                    &bitmap, "packs", &packs) != 0 ||
        packs <= 0 || packs > MANIFEST_PACKS_MAX)
        return damaged(err, "the multi-pack index");
    out->indexed = (size_t)packs;
    if (read_file_of(index, &out->midx, err) != 0 ||
        read_file_of(bitmap, &out->midx_bitmap, err) != 0)
        return -1;
    return copy_hash(hash, out->midx_hash, err);
}

static int read_names(json_t *json, struct manifest *out, struct err *err)
{
    const char *format, *repo_id, *repo, *url, *node, *applied = NULL;
    json_int_t generation, fence, created;

    if (json_unpack(json, "{s:s, s:s, s:s, s:s, s:s, s?s, s:I, s:I, s:I}", "format", &format,
                    "repo_id", &repo_id, "repo", &repo, "url", &url, "node", &node, "applied",
                    &applied, "generation", &generation, "fence", &fence, "created", &created) != 0)
        return damaged(err, "it lacks a name or a number");
    if (!key_from_hex(repo_id, &out->repo_id))
        return damaged(err, "the repository's id");
    if (generation < 0 || fence < 0)
        return damaged(err, "the generation or the fencing number");
    out->repo = xstrdup(repo);
    out->url = xstrdup(url);
    out->node = xstrdup(node);
    out->applied = applied != NULL ? xstrdup(applied) : NULL;
    out->generation = (uint64_t)generation;
    out->fence = (uint64_t)fence;
    out->created = created;
    return 0;
}

/* So many values at most: in memory the parser makes a hundred bytes of "[],". */
static bool is_small(const char *text, size_t len)
{
    enum { VALUES_MAX = MANIFEST_TIPS_MAX + 32 * MANIFEST_PACKS_MAX + 3 * MANIFEST_NAME_MAX + 64 };
    size_t values = 0;

    if (len > MANIFEST_MAX)
        return false;
    for (size_t i = 0; i < len; i++)
        values += text[i] == ',' || text[i] == '[' || text[i] == '{';
    return values <= VALUES_MAX;
}

static int read_json(json_t *json, struct manifest *out, struct err *err)
{
    json_int_t version = 0;

    if (json_unpack(json, "{s:I}", "version", &version) != 0)
        return damaged(err, "it has no version");
    if (version != MANIFEST_VERSION)
        return err_set(err, ERR_REFUSED,
                       "the manifest of a mirror is of version %" PRId64 "; this pannier knows %d",
                       (int64_t)version, MANIFEST_VERSION);
    if (read_names(json, out, err) != 0 ||
        read_packs(json_object_get(json, "packs"), out, err) != 0 ||
        read_tips(json_object_get(json, "tips"), out, err) != 0 ||
        read_midx(json_object_get(json, "multi_pack_index"), out, err) != 0)
        return -1;
    return read_file_of(json_object_get(json, "commit_graph"), &out->commit_graph, err);
}

/* One form only: whatever the parser let pass (unknown keys, spaces, digits written otherwise, a
 * digest of something else) shows here. */
static int check_form(const char *text, size_t len, const struct manifest *m, struct err *err)
{
    struct bytes again;
    struct err why;
    int rc = 0;

    bytes_init(&again, MANIFEST_MAX);
    if (manifest_write(m, &again, &why) != 0)
        rc = damaged(err, why.text);
    else if (again.len != len || memcmp(again.data, text, len) != 0)
        rc = damaged(err, "its text is not what was written");
    bytes_clear(&again);
    return rc;
}

int manifest_read(const char *text, size_t len, const struct key *repo_id, struct manifest *out,
                  struct err *err)
{
    json_t *json = NULL;
    int rc = 0;

    *out = (struct manifest){0};
    if (!is_small(text, len))
        rc = damaged(err, "it is too long");
    else if ((json = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL)) == NULL)
        rc = damaged(err, "it is no JSON");
    else
        rc = read_json(json, out, err);
    if (rc == 0)
        rc = check_form(text, len, out, err);
    if (rc == 0 && !key_equal(&out->repo_id, repo_id))
        rc = damaged(err, "it is another repository's");
    json_decref(json);
    if (rc != 0)
        manifest_clear(out);
    return rc;
}

/* ---- questions ---- */

int manifest_check_next(const struct manifest *old, const struct manifest *next, struct err *err)
{
    uint64_t generation = old != NULL ? old->generation : 0;

    if (old != NULL && next->fence < old->fence)
        return err_set(err, ERR_CONFLICT,
                       "the mirror was uploaded by %s under a newer lease (%" PRIu64
                       ", ours is %" PRIu64 ")",
                       old->node, old->fence, next->fence);
    if (next->generation != generation + 1)
        return err_set(err, ERR_CONFLICT,
                       "the mirror in the shared tier is of generation %" PRIu64 ", which %" PRIu64
                       " does not follow",
                       generation, next->generation);
    return 0;
}

static int each_of_pack(const struct manifest_pack *pack, manifest_file_fn *fn, void *ctx)
{
    char name[sizeof("pack/pack-.bitmap") + MANIFEST_HASH_HEX];
    int rc = 0;

    for (int part = 0; rc == 0 && part < MANIFEST_PARTS_COUNT; part++) {
        snprintf(name, sizeof(name), "pack/pack-%s.%s", pack->hash, PARTS[part]);
        if (pack->parts[part].size != 0)
            rc = fn(ctx, name, &pack->parts[part]);
    }
    return rc;
}

int manifest_each(const struct manifest *m, manifest_file_fn *fn, void *ctx)
{
    char bitmap[sizeof("pack/multi-pack-index-.bitmap") + MANIFEST_HASH_HEX];
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < m->packs_count; i++)
        rc = each_of_pack(&m->packs[i], fn, ctx);
    snprintf(bitmap, sizeof(bitmap), "pack/multi-pack-index-%s.bitmap", m->midx_hash);
    if (rc == 0 && m->midx.size != 0)
        rc = fn(ctx, "pack/multi-pack-index", &m->midx);
    if (rc == 0 && m->midx_bitmap.size != 0)
        rc = fn(ctx, bitmap, &m->midx_bitmap);
    if (rc == 0 && m->commit_graph.size != 0)
        rc = fn(ctx, "info/commit-graph", &m->commit_graph);
    return rc;
}

struct search {
    const struct key *sha256;
    const struct manifest_file *found;
};

static int compare_content(void *ctx, const char *name, const struct manifest_file *file)
{
    struct search *s = ctx;

    (void)name;
    if (!key_equal(&file->sha256, s->sha256))
        return 0;
    s->found = file;
    return 1;
}

const struct manifest_file *manifest_find(const struct manifest *m, const struct key *sha256)
{
    struct search s = {sha256, NULL};

    manifest_each(m, compare_content, &s);
    return s.found;
}

static int add_bytes(void *ctx, const char *name, const struct manifest_file *file)
{
    (void)name;
    *(uint64_t *)ctx += file->size;
    return 0;
}

static int add_stored_bytes(void *ctx, const char *name, const struct manifest_file *file)
{
    (void)name;
    *(uint64_t *)ctx += file->stored_size != 0 ? file->stored_size : file->size;
    return 0;
}

uint64_t manifest_bytes(const struct manifest *m)
{
    uint64_t sum = 0;

    manifest_each(m, add_bytes, &sum);
    return sum;
}

uint64_t manifest_stored_bytes(const struct manifest *m)
{
    uint64_t sum = 0;

    manifest_each(m, add_stored_bytes, &sum);
    return sum;
}

/* ---- keys ---- */

void manifest_key(const struct key *repo_id, char out[OBJECT_KEY_MAX + 1])
{
    char hex[KEY_HEX_SIZE];

    key_to_hex(repo_id, hex);
    snprintf(out, OBJECT_KEY_MAX + 1, "mirrors/%s/manifest.json", hex);
}

void manifest_file_key(const struct key *repo_id, const struct manifest_file *file,
                       char out[OBJECT_KEY_MAX + 1])
{
    char id[KEY_HEX_SIZE], content[KEY_HEX_SIZE];

    key_to_hex(repo_id, id);
    key_to_hex(&file->sha256, content);
    snprintf(out, OBJECT_KEY_MAX + 1, "mirrors/%s/files/%s%s", id, content,
             file->stored_size != 0 ? ".zst" : "");
}
