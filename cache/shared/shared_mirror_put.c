#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "cache/compress.h"
#include "cache/lock.h"
#include "cache/mirror/copy.h"
#include "cache/shared/manifest_merge.h"
#include "cache/shared/shared_mirror.h"
#include "cache/shared/stored_manifest.h"
#include "protocol/base.h"

/* A manifest has 54 bytes a tip and some hundred a pack, and goes up whole each time: with 10,000
 * tips half a MB.  It stays text, which people and other programs can read: upkeep lets go of tips
 * that others reach, so that so many are rare. */

enum {
    PUT_TRIES = 6, /* others were first as often */
    /* Before the next try; twice as long each time, half of it by chance. */
    WAIT_FIRST_MS = 20,
    READ_BLOCK = 1 << 20,
    /* A tip that is asked for all the time makes no new manifest more often than this. */
    WANTED_SLACK_S = 24 * 3600,
    /* Who tidies up takes away files that no manifest has had for an hour: those that were sent
     * longer ago than this are looked for before a manifest names them. */
    SURE_MS = 30 * 60 * 1000,
};

/* A file of the snapshot on its way. */
struct outgoing {
    char *name;
    struct manifest_file *file; /* in upload.mine */
    bool checked;               /* it was read, and its digest is known */
    bool sent;                  /* by us, now */
    uint64_t sent_ms;           /* when */
};

struct upload {
    struct object_store *store;
    struct mirror *mirror;
    struct mirror_copy_out *copy;
    const struct shared_mirror_put_options *options;
    struct shared_mirror_sent *sent;
    struct manifest mine; /* what the mirror has; of files that were not met yet, only the size */
    struct outgoing *files;
    size_t files_count;
    struct stored_manifest there;
    bool keeps;      /* packs and tips of there go into the next one */
    bool was_second; /* another node's manifest came between */
};

/* Is there still somebody who wants this? */
static int check_going(const struct upload *u, struct err *err)
{
    if (u->options->stop != NULL && *u->options->stop)
        return err_set(err, ERR_CANCELLED, "the upload of a mirror was told to stop");
    return 0;
}

/* ---- the snapshot as a manifest ---- */

static void take_packs(struct manifest *mine, const struct mirror_content *content)
{
    mine->packs = xcalloc(content->packs_count, sizeof(*mine->packs));
    mine->packs_count = content->packs_count;
    mine->indexed = content->indexed;
    for (size_t i = 0; i < content->packs_count; i++) {
        memcpy(mine->packs[i].hash, content->packs[i].hash, sizeof(mine->packs[i].hash));
        for (int part = 0; part < MANIFEST_PARTS_COUNT; part++)
            mine->packs[i].parts[part].size = content->packs[i].sizes[part];
    }
    memcpy(mine->midx_hash, content->midx_hash, sizeof(mine->midx_hash));
    mine->midx.size = content->midx_size;
    mine->midx_bitmap.size = content->midx_bitmap_size;
    mine->commit_graph.size = content->commit_graph_size;
}

static void take_tips(struct manifest *mine, const struct mirror_content *content)
{
    mine->tips = xcalloc(content->tips_count + 1, sizeof(*mine->tips));
    mine->tips_count = content->tips_count;
    for (size_t i = 0; i < content->tips_count; i++)
        mine->tips[i] = (struct manifest_tip){content->tips[i].oid, content->tips[i].wanted_s};
}

static int add_outgoing(void *ctx, const char *name, const struct manifest_file *file)
{
    struct upload *u = ctx;

    u->files = xrealloc(u->files, (u->files_count + 1) * sizeof(*u->files));
    u->files[u->files_count++] =
        (struct outgoing){.name = xstrdup(name), .file = (struct manifest_file *)file};
    return 0;
}

static int take_snapshot(struct upload *u, struct err *err)
{
    const struct mirror_content *content;
    struct manifest *mine = &u->mine;

    if (mirror_copy_out_begin(u->mirror, &u->copy, err) != 0)
        return -1;
    content = mirror_copy_out_content(u->copy);
    if (!key_from_hex(content->about.repo_id, &mine->repo_id))
        return err_set(err, ERR_CORRUPT, "the record of a mirror has no repository's id");
    mine->repo = xstrdup(content->about.repo);
    mine->url = xstrdup(content->about.url);
    mine->node = xstrdup(u->options->node);
    mine->fence = u->options->fence;
    if (u->options->applied != NULL && u->options->applied[0] != '\0')
        mine->applied = xstrdup(u->options->applied);
    take_packs(mine, content);
    take_tips(mine, content);
    manifest_each(mine, add_outgoing, u);
    return 0;
}

/* ---- what is there already ---- */

/* Does it have tips that the mirror lacks, and room for them? */
static bool is_worth_keeping(const struct upload *u)
{
    const struct manifest *there = &u->there.manifest;
    int64_t dead_s = time(NULL) - MERGE_TIP_LIVES_S;
    struct oid_list tips = {0};
    bool lacks;

    if (!u->there.usable || !manifest_can_keep(there, &u->mine))
        return false;
    for (size_t i = 0; i < there->tips_count; i++)
        if (there->tips[i].wanted_s > dead_s)
            oid_list_add(&tips, &there->tips[i].oid);
    lacks = !mirror_has_all(u->mirror, &tips);
    oid_list_clear(&tips);
    return lacks;
}

/* All is there, and in a state that is as good. */
static bool is_nothing_new(const struct upload *u)
{
    const struct manifest *there = &u->there.manifest;
    const struct mirror_content *here = mirror_copy_out_content(u->copy);

    /* Of a mirror without tips nothing else tells what it has. */
    return u->there.usable && here->tips_count > 0 &&
           manifest_covers(there, u->mirror, here, WANTED_SLACK_S) &&
           !manifest_is_better(&u->mine, there, u->keeps);
}

/* ---- files ---- */

struct same_file {
    const struct outgoing *file;
    const struct manifest *mine;
    const struct manifest *there;
    struct manifest_file *out;
};

static int compare_file(void *ctx, const char *name, const struct manifest_file *file)
{
    struct same_file *s = ctx;

    if (strcmp(name, s->file->name) != 0 || file->size != s->file->file->size)
        return 0;
    *s->out = *file;
    return 1;
}

/* Packs and what goes with them are named by what is in them; the multi-pack index isn't, but for
 * its checksum, and the commit-graph not at all. */
static bool is_named_by_content(const struct upload *u, const struct outgoing *o)
{
    if (o->file == &u->mine.commit_graph)
        return false;
    return o->file != &u->mine.midx || strcmp(u->mine.midx_hash, u->there.manifest.midx_hash) == 0;
}

static bool is_there(const struct upload *u, const struct outgoing *o)
{
    struct same_file same = {o, &u->mine, &u->there.manifest, o->file};
    const struct manifest_file *found;

    if (!u->there.usable)
        return false;
    if (o->checked) {
        found = manifest_find(&u->there.manifest, &o->file->sha256);
        if (found != NULL && found->size == o->file->size)
            *o->file = *found;
        return found != NULL && found->size == o->file->size;
    }
    return is_named_by_content(u, o) && manifest_each(&u->there.manifest, compare_file, &same) == 1;
}

static int read_block(int fd, void *block, size_t len, uint64_t at, const char *name,
                      struct err *err)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(fd, (char *)block + done, len - done, (off_t)(at + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(err, errno == EIO ? ERR_CORRUPT : ERR_STORAGE, "read its %s", name);
        if (n == 0)
            return err_set(err, ERR_CORRUPT, "its %s ends too early", name);
        done += (size_t)n;
    }
    return 0;
}

/* One reading for both: git's SHA-1 at the end of the file, and our name for it. */
static int digest_file(const struct upload *u, const struct outgoing *o, int fd, struct err *err)
{
    struct digest *sha1 = digest_new(HASH_SHA1), *sha256 = digest_new(HASH_SHA256);
    uint64_t size = o->file->size, end = size > SHA1_SIZE ? size - SHA1_SIZE : 0;
    uint8_t found[SHA1_SIZE], stored[SHA1_SIZE];
    char *block = xmalloc(READ_BLOCK);
    int rc = 0;

    for (uint64_t at = 0; at < end && rc == 0;) {
        size_t len = end - at < READ_BLOCK ? (size_t)(end - at) : READ_BLOCK;

        rc = check_going(u, err);
        if (rc == 0)
            rc = read_block(fd, block, len, at, o->name, err);
        if (rc == 0) {
            digest_update(sha1, block, len);
            digest_update(sha256, block, len);
        }
        at += len;
    }
    digest_final(sha1, found);
    if (rc == 0)
        rc = read_block(fd, stored, SHA1_SIZE, end, o->name, err);
    if (rc == 0 && memcmp(found, stored, sizeof(found)) != 0)
        rc = err_set(err, ERR_CORRUPT, "%s is not what was written", o->name);
    if (rc == 0) {
        digest_update(sha256, stored, sizeof(stored));
        digest_final(sha256, o->file->sha256.raw);
    }
    digest_free(sha256);
    digest_free(sha1);
    free(block);
    return rc;
}

struct packed {
    int fd;
    uint64_t size;
};

static int add_packed(void *ctx, const void *data, size_t len, struct err *err)
{
    struct packed *p = ctx;

    for (size_t done = 0; done < len;) {
        ssize_t n = write(p->fd, (const char *)data + done, len - done);

        if (n < 0 && errno != EINTR)
            return err_errno(err, ERR_STORAGE, "write a packed file");
        done += n > 0 ? (size_t)n : 0;
    }
    p->size += len;
    return 0;
}

static bool may_pack(const struct upload *u, const struct outgoing *o, int fd)
{
    size_t len = strlen(o->name);

    if (len > 5 && strcmp(o->name + len - 5, ".pack") == 0)
        return false; /* deflated already */
    switch (u->options->compression) {
    case COMPRESSION_ON: return true;
    case COMPRESSION_OFF: return false;
    default: return compress_pays(fd, o->file->size);
    }
}

/* False: it goes up as it is, for want of room, too. */
static bool pack_file(struct upload *u, const struct outgoing *o, int fd, struct packed *out)
{
    struct err why;

    *out = (struct packed){-1, 0};
    if (!may_pack(u, o, fd) || mirror_copy_out_scratch(u->copy, o->file->size, &out->fd, &why) != 0)
        return false;
    if (compress_file(fd, o->file->size, add_packed, out, &why) == 0 && out->size < o->file->size)
        return true;
    close(out->fd);
    return false;
}

static int put_file(struct upload *u, struct outgoing *o, int fd, struct err *err)
{
    struct object_source source = {.fd = fd, .size = o->file->size};
    char key[OBJECT_KEY_MAX + 1];
    struct packed packed;
    bool is_packed = pack_file(u, o, fd, &packed);
    int rc;

    o->file->stored_size = is_packed ? packed.size : 0;
    if (is_packed)
        source = (struct object_source){.fd = packed.fd, .size = packed.size};
    manifest_file_key(&u->mine.repo_id, o->file, key);
    rc = object_put(u->store, key, &source, NULL, NULL, err);
    if (rc == 0) {
        o->sent = true;
        o->sent_ms = now_ms();
        u->sent->files++;
        u->sent->bytes += source.size;
    }
    if (is_packed)
        close(packed.fd);
    return rc;
}

/* What was sent long ago, and isn't there any more as it was, is to be sent again. */
static int look_for(struct upload *u, struct outgoing *o, struct err *err)
{
    char key[OBJECT_KEY_MAX + 1];
    struct object_info info;

    if (!o->sent || now_ms() - o->sent_ms < SURE_MS)
        return 0;
    manifest_file_key(&u->mine.repo_id, o->file, key);
    if (object_head(u->store, key, &info, err) != 0) {
        if (err->kind != ERR_NOT_FOUND && err->kind != ERR_CORRUPT)
            return -1;
        o->sent = false;
    }
    return 0;
}

static int settle_file(struct upload *u, struct outgoing *o, struct err *err)
{
    int fd, rc = check_going(u, err);

    if (rc != 0 || o->sent || is_there(u, o))
        return rc;
    if (mirror_copy_out_gone(u->copy))
        return err_set(err, ERR_NOT_FOUND, "the mirror was removed meanwhile");
    if (mirror_copy_out_open(u->copy, o->name, &fd, err) != 0)
        return -1;
    if (!o->checked)
        rc = digest_file(u, o, fd, err);
    o->checked = rc == 0;
    if (rc == 0 && !is_there(u, o))
        rc = put_file(u, o, fd, err);
    close(fd);
    return rc;
}

/* ---- the manifest ---- */

static int check_turn(const struct upload *u, struct err *err)
{
    struct manifest next = {.generation = u->there.manifest.generation + 1, .fence = u->mine.fence};

    return manifest_check_next(u->there.usable ? &u->there.manifest : NULL, &next, err);
}

static int read_there(struct upload *u, struct err *err)
{
    stored_manifest_clear(&u->there);
    if (stored_manifest_read(u->store, u->options->cutoffs, &u->mine.repo_id, &u->there, err) == 0)
        return 0;
    /* One that nobody can use is no loss. */
    return err->kind == ERR_NOT_FOUND || err->kind == ERR_CORRUPT ? 0 : -1;
}

/* A stall may have cost us the lease: who has it now is at work, and what we read is old. */
static int check_lease(const struct upload *u, struct err *err)
{
    if (u->options->lease == NULL || lease_held(u->options->lease, now_ms()))
        return 0;
    return err_set(err, ERR_BUSY, "the lease on the repository is over");
}

static int put_manifest(struct upload *u, struct err *err)
{
    struct manifest next;
    uint64_t size;
    int rc;

    manifest_merge(&u->mine, u->there.usable ? &u->there.manifest : NULL, u->keeps, &next);
    /* Nodes count on, whatever became of the one before. */
    next.generation = u->there.generation + 1;
    next.created = time(NULL);
    rc = check_lease(u, err);
    if (rc == 0)
        rc = stored_manifest_put(u->store, &u->there, &next, &size, err);
    if (rc == 0) {
        u->sent->bytes += size;
        u->sent->generation = next.generation;
    }
    u->was_second = rc != 0 && err->kind == ERR_CONFLICT;
    manifest_merge_clear(&next);
    return rc;
}

/* Who put what is there had heard of events that we had yet to hear of: over it our mirror, which
 * may be from before one of them, would be refused by all who have.  So would it anywhere, if one
 * of them is known here. */
static int check_heard(const struct upload *u, struct err *err)
{
    const struct shared_mirror_put_options *o = u->options;
    const char *mine = o->applied != NULL ? o->applied : "";
    const char *there = u->there.usable ? u->there.manifest.applied : NULL;
    char needed[EVENT_ID_SIZE] = "";

    if (there != NULL && event_id_compare(there, mine) > 0)
        snprintf(needed, sizeof(needed), "%s", there);
    else if (o->cutoffs != NULL && cutoffs_refuse(o->cutoffs, &u->mine.repo_id, mine))
        cutoffs_newest(o->cutoffs, &u->mine.repo_id, needed);
    if (needed[0] == '\0')
        return 0;
    strcpy(u->sent->needed, needed);
    return err_set(err, ERR_BUSY, "this node has yet to hear of what others have");
}

static int put_once(struct upload *u, struct err *err)
{
    int rc = read_there(u, err);

    u->was_second = false;
    if (rc == 0)
        rc = check_turn(u, err);
    if (rc != 0)
        return -1;
    u->keeps = is_worth_keeping(u);
    if (is_nothing_new(u)) {
        u->sent->generation = u->there.manifest.generation;
        return 0;
    }
    rc = check_heard(u, err);
    for (size_t i = 0; i < u->files_count && rc == 0; i++)
        rc = settle_file(u, &u->files[i], err);
    for (size_t i = 0; i < u->files_count && rc == 0; i++) {
        rc = look_for(u, &u->files[i], err);
        if (rc == 0)
            rc = settle_file(u, &u->files[i], err);
    }
    return rc == 0 ? put_manifest(u, err) : -1;
}

static void wait_a_little(unsigned tries)
{
    uint64_t most_ms = (uint64_t)WAIT_FIRST_MS << tries, chance = 0, ms;
    struct timespec t;

    (void)!getrandom(&chance, sizeof(chance), 0);
    ms = most_ms / 2 + chance % (most_ms / 2 + 1);
    t = (struct timespec){.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

static void upload_clear(struct upload *u)
{
    for (size_t i = 0; i < u->files_count; i++)
        free(u->files[i].name);
    free(u->files);
    stored_manifest_clear(&u->there);
    manifest_clear(&u->mine);
    mirror_copy_out_end(&u->copy);
}

int shared_mirror_put(struct object_store *store, struct mirror *m,
                      const struct shared_mirror_put_options *options,
                      struct shared_mirror_sent *out, struct err *err)
{
    struct upload u = {.store = store, .mirror = m, .options = options, .sent = out};
    int rc;

    *out = (struct shared_mirror_sent){0};
    rc = take_snapshot(&u, err);
    out->repo_id = u.mine.repo_id;
    if (rc == 0)
        rc = put_once(&u, err);
    for (unsigned i = 1; i < PUT_TRIES && rc != 0 && u.was_second; i++) {
        wait_a_little(i);
        rc = put_once(&u, err);
    }
    upload_clear(&u);
    return rc;
}
