#include "cache/mirror/upkeep.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* git works on a copy of hard links, so it never touches what is served:
 *
 *     with the write lock     copy: links to all packs of the list, and the tips
 *     without                 which tips stay; repack; commit-graph
 *     with the write lock     adopt: link what is new into the mirror; the new list (this is the
 *                             switch); multi-pack index; commit-graph; refs
 *
 * A kill at any time leaves a mirror that its list describes.  What the list doesn't have goes by
 * mirror_sweep(). */

enum {
    STOP_POLL_MS = 100,
    OUTPUT_BLOCK = 64 * 1024,
    LINE_MAX_BYTES = 1 << 20, /* a commit with 25 000 parents */
};

static const char *const PACK_FILES[] = {"pack", "idx", "rev", "bitmap", "mtimes"};

/* ---- git programs ---- */

static int check_stop(const struct upkeep *u, struct err *err)
{
    return u->options->stop != NULL && *u->options->stop
               ? err_set(err, ERR_CANCELLED, "upkeep was told to stop")
               : 0;
}

/* Whole lines go to fn; the rest stays in text. */
static void hand_out_lines(struct bytes *text, const struct program *program)
{
    char *start = text->data, *end = text->data + text->len, *newline;

    while (start < end && (newline = memchr(start, '\n', (size_t)(end - start))) != NULL) {
        *newline = '\0';
        if (program->line != NULL)
            program->line(program->ctx, start);
        start = newline + 1;
    }
    text->len = (size_t)(end - start);
    memmove(text->data, start, text->len);
}

static int follow(struct upkeep *u, struct process *p, const struct program *program,
                  struct err *err)
{
    char *block = xmalloc(OUTPUT_BLOCK);
    struct bytes text;
    int rc = 0;

    bytes_init(&text, LINE_MAX_BYTES + OUTPUT_BLOCK);
    while (rc == 0 && (rc = check_stop(u, err)) == 0) {
        struct pollfd ready = {.fd = p->out_fd, .events = POLLIN};
        ssize_t n;

        if (poll(&ready, 1, STOP_POLL_MS) <= 0)
            continue;
        n = read(p->out_fd, block, OUTPUT_BLOCK);
        if (n == 0)
            break;
        if (n < 0 && errno != EINTR)
            rc = err_errno(err, ERR_PROCESS, "read from git");
        else if (n > 0 && bytes_add(&text, block, (size_t)n) != 0)
            rc = err_set(err, ERR_PROCESS, "git says too long a line");
        else
            hand_out_lines(&text, program);
    }
    bytes_clear(&text);
    free(block);
    return rc;
}

int upkeep_run(struct upkeep *u, const struct program *program, struct err *err)
{
    struct process *p = NULL;
    int rc = process_start(u->mirror->all->processes,
                           &(struct process_spec){.args = program->args,
                                                  .input = program->input,
                                                  .input_len = strlen(program->input),
                                                  .background = true,
                                                  .writes = true},
                           &p, err);

    if (rc == 0)
        rc = follow(u, p, program, err);
    if (rc == 0)
        rc = process_finish(&p, err);
    process_kill(&p);
    return rc;
}

/* ---- the copy ---- */

int upkeep_write_begin(struct upkeep *u, struct err *err)
{
    int rc = 0;

    while (rc == 0 && !mirror_write_try(u->mirror, STOP_POLL_MS))
        rc = check_stop(u, err);
    return rc;
}

/* name: below objects/.  What isn't there isn't linked; what lies there already under this name is
 * replaced as one. */
static int link_object_file(const char *from, const char *to, const char *name, struct err *err)
{
    char *source = xasprintf("%s/objects/%s", from, name);
    char *target = xasprintf("%s/objects/%s", to, name);
    char *temporary = xasprintf("%s.new", target);
    struct stat a, b;
    int rc = 0;

    if (link(source, target) != 0 && errno != ENOENT) {
        if (errno != EEXIST || stat(source, &a) != 0 || stat(target, &b) != 0)
            rc = err_errno(err, ERR_STORAGE, "link %s", target);
        else if (a.st_ino != b.st_ino &&
                 (link(source, temporary) != 0 || rename(temporary, target) != 0))
            rc = err_errno(err, ERR_STORAGE, "link %s", target);
    }
    free(temporary);
    free(target);
    free(source);
    return rc;
}

int link_pack(const char *from, const char *to, const char *name, struct err *err)
{
    int stem = (int)(strlen(name) - strlen("pack"));
    int rc = 0;

    for (size_t i = 0; i < ARRAY_LEN(PACK_FILES) && rc == 0; i++) {
        char *file = xasprintf("pack/%.*s%s", stem, name, PACK_FILES[i]);

        rc = link_object_file(from, to, file, err);
        free(file);
    }
    return rc;
}

int link_bitmap(const char *from, const char *to, const struct pack_list *list, struct err *err)
{
    char *name = xasprintf("pack/multi-pack-index-%s.bitmap", list->midx);
    int rc = list->midx[0] != '\0' ? link_object_file(from, to, name, err) : 0;

    free(name);
    return rc;
}

static int link_copy(struct upkeep *u, struct err *err)
{
    struct mirror *m = u->mirror;
    int rc = make_bare(u->copy, false, err);

    for (size_t i = 0; i < u->before.count && rc == 0; i++)
        rc = link_pack(m->path, u->copy, u->before.packs[i].name, err);
    /* git makes the new index and bitmap from these; or not, should a kill have left another index
     * than that of the list. */
    if (rc == 0)
        rc = link_object_file(m->path, u->copy, "pack/multi-pack-index", err);
    if (rc == 0)
        rc = link_bitmap(m->path, u->copy, &u->before, err);
    if (rc == 0)
        rc = link_object_file(m->path, u->copy, "info/commit-graph", err);
    return rc;
}

/* What was asked for and is a commit or a tag is as good as a tip. */
static int gather_tips(struct upkeep *u, struct err *err)
{
    struct tip_list times, wanted;
    struct oid_list asked = {0}, tips = {0};
    struct mirror *m = u->mirror;
    int rc = objects_refs(m->path, &u->refs, err);

    if (rc != 0)
        return -1;
    tip_list_read(m->path, &times);
    mirror_take_wanted(m, &wanted);
    for (size_t i = 0; i < wanted.count; i++)
        tip_list_want(&times, &wanted.items[i].oid, wanted.items[i].wanted_s);
    for (size_t i = 0; i < u->refs.count; i++)
        if (tip_list_find(&times, &u->refs.items[i]) == NULL)
            tip_list_want(&times, &u->refs.items[i], u->options->now_s);
    rc = tip_list_write(m->path, &times, err); /* or what was in memory would be lost */
    for (size_t i = 0; i < times.count; i++)
        oid_list_add(&asked, &times.items[i].oid);
    if (rc == 0)
        rc = objects_that_are_tips(m->path, &asked, &tips, err);
    for (size_t i = 0; i < tips.count; i++)
        tip_list_want(&u->tips, &tips.items[i], tip_list_find(&times, &tips.items[i])->wanted_s);
    if (rc == 0 && tips.count == 0)
        rc = err_set(err, ERR_CORRUPT, "a mirror has none of its tips");
    oid_list_clear(&asked);
    oid_list_clear(&tips);
    tip_list_clear(&times);
    tip_list_clear(&wanted);
    return rc;
}

/* True when there is something for git to do; the copy is made then. */
static int copy(struct upkeep *u, bool *needed, struct err *err)
{
    struct mirror *m = u->mirror;
    int rc = upkeep_write_begin(u, err);

    if (rc != 0)
        return -1;
    mirror_sweep(m);
    rc = pack_list_read(m->path, &u->before, err);
    *needed = rc == 0 && upkeep_needs_git(m, &u->before, u->options);
    if (*needed) {
        if (stat(m->path, &u->folder) != 0)
            rc = err_errno(err, ERR_STORAGE, "look at %s", m->path);
        if (rc == 0)
            rc = gather_tips(u, err);
        if (rc == 0)
            rc = link_copy(u, err);
    }
    mirror_write_end(m);
    return rc;
}

/* ---- git's work ---- */

/* What becomes cruft takes its pack's time, which may be that of a pack from long ago; its time
 * starts now. */
static void date_packs(struct upkeep *u)
{
    for (size_t i = 0; i < u->before.count; i++)
        mirror_date_pack(u->mirror, &u->before.packs[i], u->options->now_s);
}

/* Room for what git writes: all, or what is behind a pack so big that a geometric run leaves it. */
static int claim_room(struct upkeep *u, struct err *err)
{
    uint64_t biggest = 0, all = pack_list_bytes(&u->before);

    for (size_t i = 0; i < u->before.count; i++)
        biggest = u->before.packs[i].size > biggest ? u->before.packs[i].size : biggest;
    u->claim = mirror_claim_new(u->mirror, "upkeep");
    if (!u->full && biggest >= 2 * (all - biggest))
        all -= biggest;
    return mirror_claim_grow(u->claim, all, err);
}

static int repack(struct upkeep *u, struct err *err)
{
    char *git_dir = xasprintf("--git-dir=%s", u->copy);
    char *window = xasprintf("pack.windowMemory=%" PRIu64, u->options->memory / 2);
    char *deltas = xasprintf("pack.deltaCacheSize=%" PRIu64, u->options->memory / 4);
    char *bases = xasprintf("core.deltaBaseCacheLimit=%" PRIu64, u->options->memory / 4);
    char *expiration;
    char date[32];
    time_t limit = expired_before(u->options, false);
    struct tm tm;
    int rc;

    strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&limit, &tm));
    expiration = xasprintf("--cruft-expiration=%s", date);
    {
        const char *const args[] = {git_dir,
                                    "-c",
                                    "pack.threads=1",
                                    "-c",
                                    window,
                                    "-c",
                                    deltas,
                                    "-c",
                                    bases,
                                    "repack",
                                    "-q",
                                    "-d",
                                    "--write-midx",
                                    "--write-bitmap-index",
                                    u->full ? "--cruft" : "--geometric=2",
                                    u->cruft_goes ? expiration : NULL,
                                    NULL};

        rc = upkeep_run(u, &(struct program){.args = args, .input = ""}, err);
    }
    free(expiration);
    free(bases);
    free(deltas);
    free(window);
    free(git_dir);
    return rc;
}

static int write_commit_graph(struct upkeep *u, struct err *err)
{
    char *git_dir = xasprintf("--git-dir=%s", u->copy);
    const char *const args[] = {git_dir,       "commit-graph",  "write",
                                "--reachable", "--no-progress", NULL};
    int rc = upkeep_run(u, &(struct program){.args = args, .input = ""}, err);

    free(git_dir);
    return rc;
}

/* What git has made of the copy. */
static int list_result(struct upkeep *u, struct err *err)
{
    char *folder = xasprintf("%s/objects/pack", u->copy);
    DIR *dir = opendir(folder);
    struct dirent *d;
    struct stat st;
    int rc = dir == NULL ? err_errno(err, ERR_STORAGE, "list %s", folder) : 0;

    while (rc == 0 && (d = readdir(dir)) != NULL)
        if (is_pack(d->d_name)) {
            if (fstatat(dirfd(dir), d->d_name, &st, 0) != 0)
                rc = err_errno(err, ERR_STORAGE, "look at %s", d->d_name);
            else
                pack_list_add(&u->after, d->d_name, (uint64_t)st.st_size);
        }
    if (rc == 0 && u->after.count == 0)
        rc = err_set(err, ERR_PROCESS, "git repack has left no pack");
    if (rc == 0 && midx_checksum(dirfd(dir), u->after.midx))
        u->after.indexed = u->after.count;
    if (dir != NULL)
        closedir(dir);
    free(folder);
    return rc;
}

static int work(struct upkeep *u, struct err *err)
{
    int rc = upkeep_choose_tips(u, err);

    if (rc == 0)
        rc = claim_room(u, err);
    if (rc == 0 && u->full)
        date_packs(u);
    if (rc == 0)
        rc = repack(u, err);
    if (rc == 0)
        rc = write_commit_graph(u, err);
    if (rc == 0)
        rc = list_result(u, err);
    return rc;
}

static void report(const struct upkeep *u, struct mirror_upkeep *out)
{
    *out = (struct mirror_upkeep){
        .packs_before = (unsigned)u->before.count,
        .packs_after = (unsigned)u->after.count,
        .tips_before = (unsigned)u->refs.count,
        .tips_after = (unsigned)u->kept.count,
        .bytes_before = pack_list_bytes(&u->before),
        .bytes_after = pack_list_bytes(&u->after),
        .bitmap = has_bitmap(u->mirror, &u->after),
        .commit_graph = true,
    };
}

int mirror_upkeep(struct mirror *m, const struct mirror_upkeep_options *options,
                  struct mirror_upkeep *out, struct err *err)
{
    struct upkeep u = {.mirror = m, .options = options};
    bool needed = false;
    int rc;

    *out = (struct mirror_upkeep){0};
    if (!mirror_ready(m))
        return err_set(err, ERR_NOT_FOUND, "there is no mirror");
    u.copy = folder_incoming_path(m->all->folder, ".upkeep");
    rc = copy(&u, &needed, err);
    if (rc == 0 && needed)
        rc = work(&u, err);
    if (rc == 0 && needed)
        rc = upkeep_adopt(&u, err);
    if (rc == 0 && needed)
        report(&u, out);
    remove_tree(u.copy);
    mirror_claim_free(&u.claim);
    oid_list_clear(&u.kept);
    oid_list_clear(&u.refs);
    tip_list_clear(&u.tips);
    pack_list_clear(&u.before);
    pack_list_clear(&u.after);
    free(u.redundant);
    free(u.copy);
    return rc;
}
