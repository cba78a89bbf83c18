#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cache/mirror/internal.h"

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
    LOOSE_PACKS_MAX = 8,   /* not in the multi-pack index: git looks into each of them */
    LOOSE_TIPS_MAX = 64,   /* a file each */
    SMALL_BYTES = 1 << 20, /* of packs, that git counts through quickly without a bitmap */
    SLACK_PART = 8,        /* of the ttl: what is over its time waits, to go together */
    STOP_POLL_MS = 100,
    OUTPUT_BLOCK = 64 * 1024,
    LINE_MAX_BYTES = 1 << 20, /* a commit with 25 000 parents */
    OPEN_FOLDERS_MAX = 16,
};

static const char *const PACK_FILES[] = {"pack", "idx", "rev", "bitmap", "mtimes"};

struct upkeep {
    struct mirror *mirror;
    const struct mirror_upkeep_options *options;
    struct stat folder; /* of the mirror that was copied */
    char *copy;
    struct pack_list before, after;
    struct oid_list refs; /* of then */
    struct tip_list tips; /* these, and what was asked for, and when */
    bool *redundant;      /* tips that others reach, which were asked for as lately */
    struct oid_list kept; /* tips of the copy, and of the mirror to be */
    bool full;            /* something that no tip reaches becomes cruft, or goes */
    struct claim *claim;
};

/* ---- is there something to do? ---- */

static int64_t expired_before(const struct mirror_upkeep_options *o, bool with_slack)
{
    return o->now_s - o->unreachable_ttl_s - (with_slack ? o->unreachable_ttl_s / SLACK_PART : 0);
}

/* The latest stay in any case: a mirror without tips would be nothing. */
static int64_t latest_wanted(const struct tip_list *tips)
{
    int64_t latest = INT64_MIN;

    for (size_t i = 0; i < tips->count; i++)
        latest = tips->items[i].wanted_s > latest ? tips->items[i].wanted_s : latest;
    return latest;
}

static bool tips_expired(const struct tip_list *tips, const bool *redundant,
                         const struct mirror_upkeep_options *o)
{
    int64_t limit = expired_before(o, true), latest = latest_wanted(tips);

    for (size_t i = 0; i < tips->count; i++)
        if ((redundant == NULL || !redundant[i]) && tips->items[i].wanted_s < limit &&
            tips->items[i].wanted_s < latest)
            return true;
    return false;
}

static uint32_t big_endian_32(const uint8_t b[4])
{
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* The oldest time in a cruft pack's file of times; INT64_MAX where there is none. */
static int64_t oldest_in(FILE *file, off_t size)
{
    enum { HEADER = 12, TRAILER = 2 * SHA1_SIZE };
    int64_t oldest = INT64_MAX;
    uint8_t b[4];

    if (fseeko(file, HEADER, SEEK_SET) != 0)
        return INT64_MAX;
    for (off_t at = HEADER; at + TRAILER < size && fread(b, sizeof(b), 1, file) == 1; at += 4)
        oldest = big_endian_32(b) < oldest ? big_endian_32(b) : oldest;
    return oldest;
}

/* Something in it is over its time.  What newer cruft needs stays nevertheless, so a file that is
 * young is not looked at. */
static bool cruft_expired(const char *path, const struct pack_list *list,
                          const struct mirror_upkeep_options *o)
{
    bool expired = false;

    for (size_t i = 0; i < list->count && !expired; i++) {
        int stem = (int)(strlen(list->packs[i].name) - strlen("pack"));
        char *name = xasprintf("%s/objects/pack/%.*smtimes", path, stem, list->packs[i].name);
        FILE *file = fopen(name, "re");
        struct stat st;

        if (file != NULL && fstat(fileno(file), &st) == 0 &&
            st.st_mtime < o->now_s - o->unreachable_ttl_s / SLACK_PART)
            expired = oldest_in(file, st.st_size) < expired_before(o, true);
        if (file != NULL)
            fclose(file);
        free(name);
    }
    return expired;
}

static size_t count_loose_tips(const struct mirror *m)
{
    char *path = xasprintf("%s/%s", m->path, TIP_PREFIX);
    DIR *dir = opendir(path);
    struct dirent *d;
    size_t count = 0;

    while (dir != NULL && (d = readdir(dir)) != NULL)
        count += d->d_name[0] != '.';
    if (dir != NULL)
        closedir(dir);
    free(path);
    return count;
}

static bool has_bitmap(const struct mirror *m, const struct pack_list *list)
{
    char *folder = mirror_file(m, "objects/pack");
    char *bitmap = xasprintf("%s/multi-pack-index-%s.bitmap", folder, list->midx);
    char sum[GIT_HEX_LEN + 1];
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool has = fd >= 0 && midx_checksum(fd, sum) && strcmp(sum, list->midx) == 0 &&
               access(bitmap, F_OK) == 0;

    if (fd >= 0)
        close(fd);
    free(bitmap);
    free(folder);
    return has;
}

static bool needs_git(struct mirror *m, const struct pack_list *list,
                      const struct mirror_upkeep_options *o)
{
    struct tip_list tips;
    bool needs;

    if (list->count - list->indexed > LOOSE_PACKS_MAX || count_loose_tips(m) > LOOSE_TIPS_MAX)
        return true;
    if (!has_bitmap(m, list) && (list->count > 1 || pack_list_bytes(list) > SMALL_BYTES))
        return true;
    tip_list_read(m->path, &tips);
    needs = tips_expired(&tips, NULL, o) || cruft_expired(m->path, list, o);
    tip_list_clear(&tips);
    return needs;
}

bool mirror_needs_upkeep(struct mirror *m, const struct mirror_upkeep_options *options)
{
    struct pack_list list;
    struct err none;
    bool busy, needs;

    lock_take(&m->all->lock);
    busy = m->writing || m->doomed; /* what it writes looks like something left over */
    needs = m->sweep_due;           /* seen to by who reads it */
    lock_drop(&m->all->lock);
    if (busy || pack_list_read(m->path, &list, &none) != 0)
        return false;
    needs = needs_git(m, &list, options) || (!needs && mirror_has_leftovers(m, &list));
    pack_list_clear(&list);
    return needs;
}

/* ---- git programs ---- */

typedef void line_fn(void *ctx, char *line);

struct program {
    const char *const *args;
    const char *input; /* "" for none */
    line_fn *line;     /* NULL: what it says is of no interest */
    void *ctx;
};

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

static int run(struct upkeep *u, const struct program *program, struct err *err)
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

/* Wait for the one who writes now, but not when told to stop. */
static int write_begin(struct upkeep *u, struct err *err)
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

static int link_pack(const char *from, const char *to, const char *name, struct err *err)
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

static int link_bitmap(const char *from, const char *to, const struct pack_list *list,
                       struct err *err)
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
    objects_that_are_tips(m->path, &asked, &tips);
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
    int rc = write_begin(u, err);

    if (rc != 0)
        return -1;
    mirror_sweep(m);
    rc = pack_list_read(m->path, &u->before, err);
    *needed = rc == 0 && needs_git(m, &u->before, u->options);
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

/* ---- which tips stay ---- */

/* A commit that is still to come in the walk, and how lately something that reaches it was asked
 * for. */
struct ahead {
    uint8_t id[SHA1_SIZE];
    int64_t wanted_s;
    UT_hash_handle hh;
};

struct walk {
    struct upkeep *upkeep;
    struct ahead *ahead;
};

static void pass_on(struct walk *w, const struct oid *parent, int64_t wanted_s)
{
    struct ahead *a;

    HASH_FIND(hh, w->ahead, parent->raw, SHA1_SIZE, a);
    if (a == NULL) {
        a = xmalloc(sizeof(*a));
        memcpy(a->id, parent->raw, SHA1_SIZE);
        a->wanted_s = wanted_s;
        HASH_ADD(hh, w->ahead, id, SHA1_SIZE, a);
    } else if (a->wanted_s < wanted_s) {
        a->wanted_s = wanted_s;
    }
}

/* How lately something was asked for that reaches commit; it won't come again. */
static int64_t take_ahead(struct walk *w, const struct oid *commit)
{
    int64_t wanted_s = INT64_MIN;
    struct ahead *a;

    HASH_FIND(hh, w->ahead, commit->raw, SHA1_SIZE, a);
    if (a != NULL) {
        wanted_s = a->wanted_s;
        HASH_DEL(w->ahead, a);
        free(a);
    }
    return wanted_s;
}

/* "<commit> <parent>...", children before parents. */
static void on_commit(void *ctx, char *line)
{
    struct walk *w = ctx;
    struct upkeep *u = w->upkeep;
    char *save = NULL, *word = strtok_r(line, " ", &save);
    struct oid oid;
    struct tip *tip;
    int64_t wanted_s;

    if (word == NULL || !oid_from_hex(HASH_SHA1, word, strlen(word), &oid))
        return;
    wanted_s = take_ahead(w, &oid);
    tip = tip_list_find(&u->tips, &oid);
    if (tip != NULL) {
        u->redundant[tip - u->tips.items] = wanted_s >= tip->wanted_s;
        wanted_s = wanted_s > tip->wanted_s ? wanted_s : tip->wanted_s;
    }
    while ((word = strtok_r(NULL, " ", &save)) != NULL)
        if (oid_from_hex(HASH_SHA1, word, strlen(word), &oid))
            pass_on(w, &oid, wanted_s);
}

/* One walk over all commits, however many tips there are. */
static int find_redundant(struct upkeep *u, struct err *err)
{
    char *git_dir = xasprintf("--git-dir=%s", u->copy);
    const char *const args[] = {git_dir, "rev-list", "--topo-order", "--parents", "--stdin", NULL};
    struct walk w = {.upkeep = u};
    struct ahead *a, *next;
    struct bytes input;
    int rc;

    u->redundant = xcalloc(u->tips.count, sizeof(*u->redundant));
    bytes_init(&input, SIZE_MAX / 2);
    for (size_t i = 0; i < u->tips.count; i++) {
        char hex[OID_HEX_SIZE];

        oid_to_hex(HASH_SHA1, &u->tips.items[i].oid, hex);
        bytes_addf(&input, "%s\n", hex);
    }
    bytes_add(&input, "", 1);
    rc = run(u, &(struct program){args, input.data, on_commit, &w}, err);
    HASH_ITER(hh, w.ahead, a, next)
    {
        HASH_DEL(w.ahead, a);
        free(a);
    }
    bytes_clear(&input);
    free(git_dir);
    return rc;
}

static int choose_tips(struct upkeep *u, struct err *err)
{
    int64_t limit = expired_before(u->options, false), latest = latest_wanted(&u->tips);
    int rc = find_redundant(u, err);

    if (rc != 0)
        return -1;
    u->full = tips_expired(&u->tips, u->redundant, u->options) ||
              cruft_expired(u->copy, &u->before, u->options);
    for (size_t i = 0; i < u->tips.count; i++) {
        const struct tip *tip = &u->tips.items[i];
        bool expired = u->full && tip->wanted_s < limit && tip->wanted_s < latest;

        if (!u->redundant[i] && !expired)
            oid_list_add(&u->kept, &tip->oid);
    }
    return packed_refs_write(u->copy, &u->kept, err);
}

/* ---- git's work ---- */

/* What becomes cruft takes its pack's time, which may be that of a pack from long ago; its time
 * starts now. */
static void date_packs(struct upkeep *u)
{
    for (size_t i = 0; i < u->before.count; i++)
        mirror_date_pack(u->mirror, &u->before.packs[i], u->options->now_s);
}

/* Room for what git writes: all, or what is behind the biggest pack. */
static int claim_room(struct upkeep *u, struct err *err)
{
    uint64_t biggest = 0, all = pack_list_bytes(&u->before);

    for (size_t i = 0; i < u->before.count; i++)
        biggest = u->before.packs[i].size > biggest ? u->before.packs[i].size : biggest;
    u->claim = mirror_claim_new(u->mirror);
    return mirror_claim_grow(u->claim, u->full ? all : all - biggest, err);
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
                                    u->full ? expiration : NULL,
                                    NULL};

        rc = run(u, &(struct program){.args = args, .input = ""}, err);
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
    int rc = run(u, &(struct program){.args = args, .input = ""}, err);

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
    int rc = choose_tips(u, err);

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

/* ---- the switch ---- */

/* Packs that came in since the copy was made are not in what git has made of it. */
static void add_newcomers(struct upkeep *u, const struct pack_list *now)
{
    for (size_t i = 0; i < now->count; i++) {
        const struct listed_pack *p = &now->packs[i];

        if (!pack_list_has(&u->before, p->name, strlen(p->name) - strlen(".pack")))
            pack_list_add(&u->after, p->name, p->size);
    }
}

static int link_result(struct upkeep *u, struct err *err)
{
    struct mirror *m = u->mirror;
    char *bitmap = xasprintf("%s/objects/pack/.", m->path);
    int rc = 0;

    for (size_t i = 0; i < u->after.count && rc == 0; i++)
        rc = link_pack(u->copy, m->path, u->after.packs[i].name, err);
    if (rc == 0)
        rc = link_bitmap(u->copy, m->path, &u->after, err);
    if (rc == 0)
        rc = sync_parent(bitmap, err);
    free(bitmap);
    return rc;
}

/* name: below objects/. */
static int move_in(struct upkeep *u, const char *name, struct err *err)
{
    char *from = xasprintf("%s/objects/%s", u->copy, name);
    char *to = xasprintf("%s/objects/%s", u->mirror->path, name);
    int rc = 0;

    if (rename(from, to) != 0 && errno != ENOENT)
        rc = err_errno(err, ERR_STORAGE, "publish %s", to);
    free(to);
    free(from);
    return rc;
}

static int remove_ref(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    if (ftw->level > 0)
        (void)!(flag == FTW_DP ? rmdir(path) : unlink(path));
    return 0;
}

/* Tips that came in meanwhile stay, too. */
static int write_refs(struct upkeep *u, struct oid_list *refs, struct err *err)
{
    struct mirror *m = u->mirror;
    char *loose = mirror_file(m, "refs");
    struct oid_list now = {0};
    int rc = objects_refs(m->path, &now, err);

    oid_list_copy(&u->kept, refs);
    for (size_t i = 0; i < now.count; i++)
        if (!oid_list_contains(&u->refs, &now.items[i]))
            oid_list_add(refs, &now.items[i]);
    oid_list_sort(refs);
    if (rc == 0)
        rc = packed_refs_write(m->path, refs, err);
    if (rc == 0)
        nftw(loose, remove_ref, OPEN_FOLDERS_MAX, FTW_DEPTH | FTW_PHYS);
    oid_list_clear(&now);
    free(loose);
    return rc;
}

static int write_times(struct upkeep *u, const struct oid_list *refs, struct err *err)
{
    struct tip_list now, times = {0};
    int rc;

    tip_list_read(u->mirror->path, &now);
    for (size_t i = 0; i < now.count; i++) {
        const struct tip *then = tip_list_find(&u->tips, &now.items[i].oid);

        if (oid_list_contains(refs, &now.items[i].oid) ||
            (then != NULL && then->wanted_s < now.items[i].wanted_s))
            tip_list_want(&times, &now.items[i].oid, now.items[i].wanted_s);
    }
    rc = tip_list_write(u->mirror->path, &times, err);
    tip_list_clear(&now);
    tip_list_clear(&times);
    return rc;
}

static bool is_still_there(const struct upkeep *u)
{
    struct stat st;

    return !mirror_doomed(u->mirror) && stat(u->mirror->path, &st) == 0 &&
           st.st_ino == u->folder.st_ino && st.st_dev == u->folder.st_dev;
}

static void trust_result(struct upkeep *u, const struct pack_list *known)
{
    for (size_t i = 0; i < u->after.count; i++) {
        const struct listed_pack *p = &u->after.packs[i];

        if (!pack_list_has(known, p->name, strlen(p->name) - strlen(".pack")))
            mirror_trust_pack(u->mirror, p);
    }
    mirror_trust_indexes(u->mirror, &u->after);
}

static int adopt_locked(struct upkeep *u, struct err *err)
{
    struct mirror *m = u->mirror;
    struct oid_list refs = {0};
    struct pack_list now = {0};
    int rc;

    if (!is_still_there(u))
        return err_set(err, ERR_CANCELLED, "the mirror was removed meanwhile");
    rc = pack_list_read(m->path, &now, err);
    if (rc == 0)
        rc = link_result(u, err);
    if (rc == 0) {
        add_newcomers(u, &now);
        rc = pack_list_write(m->path, &u->after, err);
    }
    if (rc == 0)
        mirror_epoch_end(m);
    if (rc == 0)
        rc = move_in(u, "pack/multi-pack-index", err);
    if (rc == 0)
        rc = move_in(u, "info/commit-graph", err);
    if (rc == 0) {
        trust_result(u, &now);
        rc = write_refs(u, &refs, err);
    }
    if (rc == 0)
        rc = write_times(u, &refs, err);
    oid_list_clear(&refs);
    pack_list_clear(&now);
    return rc;
}

static int adopt(struct upkeep *u, struct err *err)
{
    int rc = write_begin(u, err);

    if (rc != 0)
        return -1;
    rc = adopt_locked(u, err);
    mirror_sweep(u->mirror);
    mirror_publish(u->mirror, &u->claim);
    mirror_write_end(u->mirror);
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
        rc = adopt(&u, err);
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
