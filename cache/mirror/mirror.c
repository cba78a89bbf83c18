#include "cache/mirror/mirror.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <git2.h>
#include <inttypes.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <uthash.h>

#include "cache/answer_file.h"
#include "cache/lock.h"
#include "protocol/base.h"

enum {
    SEGMENT_MAX = 240,  /* NAME_MAX less ".git" and some room */
    LIST_MAX = 1 << 20, /* of a mirror's list of packs */
    OUTPUT_BLOCK = 256 * 1024,
    /* upload-pack sends a keepalive every 5 seconds; one that is silent this long hangs. */
    SILENCE_MAX_MS = 5 * 60 * 1000,
    READ_BLOCK = 1 << 20,
    /* libgit2 maps packs; what is mapped counts as our memory. */
    MAPPED_MAX = 24 << 20,
    MAPPED_PIECE = 1 << 20,
};

static const char TIP_PREFIX[] = "refs/pannier/oid/";
static const char CONFIG[] = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n";
static const char HEAD[] = "ref: refs/heads/none\n";

/* A pack whose bytes were checked, as it was then. */
struct verified_pack {
    char *name;
    struct file_identity identity;
};

struct mirror {
    struct mirrors *all;
    char *name; /* "<upstream>/<path>", the table's key */
    char *path;
    int refs; /* under all->lock, as is all below */
    bool writing;
    bool checking; /* somebody reads it to see whether it is whole */
    struct verified_pack *verified;
    size_t verified_count;
    UT_hash_handle hh;
};

struct mirrors {
    struct folder *folder;
    struct local *local;
    struct processes *processes;
    struct lock lock;
    pthread_cond_t done; /* some mirror's writer is, or who checks it */
    struct mirror *by_name;
    atomic_uint_fast64_t damaged;
};

struct mirrors *mirrors_new(struct folder *folder, struct processes *processes, struct local *local)
{
    static const int levels[] = {GIT_CONFIG_LEVEL_PROGRAMDATA, GIT_CONFIG_LEVEL_SYSTEM,
                                 GIT_CONFIG_LEVEL_XDG, GIT_CONFIG_LEVEL_GLOBAL};
    struct mirrors *all = xcalloc(1, sizeof(*all));

    must(git_libgit2_init() > 0);
    /* The machine's and the user's configuration are not ours. */
    for (size_t i = 0; i < ARRAY_LEN(levels); i++)
        git_libgit2_opts(GIT_OPT_SET_SEARCH_PATH, levels[i], "");
    git_libgit2_opts(GIT_OPT_SET_OWNER_VALIDATION, 0);
    git_libgit2_opts(GIT_OPT_SET_MWINDOW_SIZE, (size_t)MAPPED_PIECE);
    git_libgit2_opts(GIT_OPT_SET_MWINDOW_MAPPED_LIMIT, (size_t)MAPPED_MAX);
    all->folder = folder;
    all->local = local;
    all->processes = processes;
    lock_init(&all->lock, LOCK_MIRRORS);
    lock_cond_init(&all->done);
    return all;
}

static void forget_verified_locked(struct mirror *m)
{
    for (size_t i = 0; i < m->verified_count; i++)
        free(m->verified[i].name);
    free(m->verified);
    m->verified = NULL;
    m->verified_count = 0;
}

static void free_mirror_locked(struct mirror *m)
{
    HASH_DEL(m->all->by_name, m);
    forget_verified_locked(m);
    free(m->name);
    free(m->path);
    free(m);
}

void mirrors_free(struct mirrors **allp)
{
    struct mirrors *all = *allp;
    struct mirror *m, *next;

    *allp = NULL;
    if (all == NULL)
        return;
    HASH_ITER(hh, all->by_name, m, next)
    {
        must(m->refs == 0);
        free_mirror_locked(m);
    }
    pthread_cond_destroy(&all->done);
    lock_clear(&all->lock);
    free(all);
    git_libgit2_shutdown();
}

uint64_t mirrors_damaged(struct mirrors *all)
{
    return atomic_load(&all->damaged);
}

/* Another repository's mirror could lie inside one whose name has ".git" in the middle. */
static bool is_suitable(const char *repo)
{
    while (*repo != '\0') {
        size_t len = strcspn(repo, "/");

        if (len > SEGMENT_MAX || (len >= 4 && memcmp(repo + len - 4, ".git", 4) == 0))
            return false;
        repo += len;
        repo += *repo == '/';
    }
    return true;
}

struct mirror *mirrors_get(struct mirrors *all, const char *upstream, const char *repo)
{
    struct mirror *m;
    char *name;

    if (!is_suitable(repo))
        return NULL;
    name = xasprintf("%s/%s", upstream, repo);
    lock_take(&all->lock);
    HASH_FIND_STR(all->by_name, name, m);
    if (m == NULL) {
        m = xcalloc(1, sizeof(*m));
        m->all = all;
        m->name = xstrdup(name);
        m->path = folder_pathf(all->folder, "mirrors/%s.git", name);
        HASH_ADD_KEYPTR(hh, all->by_name, m->name, strlen(m->name), m);
    }
    m->refs++;
    lock_drop(&all->lock);
    free(name);
    return m;
}

void mirror_unref(struct mirror **mp)
{
    struct mirror *m = *mp;
    struct mirrors *all;

    *mp = NULL;
    if (m == NULL)
        return;
    all = m->all;
    lock_take(&all->lock);
    /* One that holds no knowledge isn't worth its place: names that clients make up must
     * not pile up. */
    if (--m->refs == 0 && m->verified == NULL)
        free_mirror_locked(m);
    lock_drop(&all->lock);
}

/* ---- is it whole? ---- */

/* What is gone or can't be read is damage.  A want of descriptors or memory is not: that must not
 * cost a mirror. */
static int cannot_look(const char *name, struct err *err)
{
    bool damage = errno == ENOENT || errno == ENOTDIR || errno == EIO;

    return err_errno(err, damage ? ERR_CORRUPT : ERR_STORAGE, "look at its %s", name);
}

/* The list of packs, yours to free.  -1: ERR_NOT_FOUND where there is no mirror, or as
 * cannot_look(). */
static int read_list(const struct mirror *m, char **out, struct err *err)
{
    static const char name[] = "list of packs";
    char *path = xasprintf("%s/pannier-packs", m->path);
    char *text = NULL;
    int fd = -1, rc = 0;
    struct stat st;
    size_t len;

    /* First the folder, then the list: a mirror appears with both. */
    if (access(m->path, F_OK) != 0 && errno == ENOENT)
        rc = err_set(err, ERR_NOT_FOUND, "there is no mirror");
    else if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0 || fstat(fd, &st) != 0)
        rc = cannot_look(name, err);
    else if (st.st_size > LIST_MAX)
        rc = err_set(err, ERR_CORRUPT, "its %s is too long", name);
    if (rc == 0) {
        len = (size_t)st.st_size;
        text = xmalloc(len + 1);
        if (read(fd, text, len) != (ssize_t)len)
            rc = err_set(err, ERR_CORRUPT, "its %s can't be read", name);
        text[len] = '\0';
    }
    if (rc == 0) {
        *out = text;
        text = NULL;
    }
    if (fd >= 0)
        close(fd);
    free(text);
    free(path);
    return rc;
}

/* Packs and indexes both end in a SHA-1 of all before it. */
static int check_sum(const char *path, const char *name, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct digest *d;
    char *block;
    uint8_t found[SHA1_SIZE], stored[SHA1_SIZE];
    struct stat st;
    off_t left;

    if (fd < 0)
        return cannot_look(name, err);
    d = digest_new(HASH_SHA1);
    block = xmalloc(READ_BLOCK);
    left = fstat(fd, &st) == 0 ? st.st_size - SHA1_SIZE : -1;
    while (left > 0) {
        ssize_t n = read(fd, block, left < READ_BLOCK ? (size_t)left : READ_BLOCK);

        if (n <= 0)
            left = -1;
        else
            digest_update(d, block, (size_t)n);
        left -= n > 0 ? n : 0;
    }
    digest_final(d, found);
    if (left != 0 || read(fd, stored, sizeof(stored)) != (ssize_t)sizeof(stored))
        left = -1;
    digest_free(d);
    free(block);
    close(fd);
    return left == 0 && memcmp(found, stored, sizeof(found)) == 0
               ? 0
               : err_set(err, ERR_CORRUPT, "%s is not what was written", name);
}

static bool was_verified(struct mirror *m, const char *name, const struct file_identity *identity)
{
    bool known = false;

    lock_take(&m->all->lock);
    for (size_t i = 0; i < m->verified_count && !known; i++)
        known = strcmp(m->verified[i].name, name) == 0 &&
                file_identity_equal(&m->verified[i].identity, identity);
    lock_drop(&m->all->lock);
    return known;
}

static void remember_verified(struct mirror *m, const char *name,
                              const struct file_identity *identity)
{
    size_t i = 0;

    lock_take(&m->all->lock);
    while (i < m->verified_count && strcmp(m->verified[i].name, name) != 0)
        i++;
    if (i == m->verified_count) {
        m->verified = xrealloc(m->verified, (i + 1) * sizeof(*m->verified));
        m->verified[i].name = xstrdup(name);
        m->verified_count++;
    }
    m->verified[i].identity = *identity;
    lock_drop(&m->all->lock);
}

static bool is_pack(const char *name)
{
    size_t len = strlen(name);

    return len > 5 && strcmp(name + len - 5, ".pack") == 0 && strncmp(name, "pack-", 5) == 0;
}

/* name: "pack-<hash>.pack" or ".idx". */
static int check_file(struct mirror *m, const char *name, const uint64_t *size, struct err *err)
{
    char *path = xasprintf("%s/objects/pack/%s", m->path, name);
    struct file_identity identity;
    int rc = 0;

    if (!file_identity_at(path, &identity))
        rc = cannot_look(name, err);
    else if (size != NULL && identity.size != *size)
        rc = err_set(err, ERR_CORRUPT, "%s is not what was written", name);
    else if (!was_verified(m, name, &identity)) {
        rc = check_sum(path, name, err);
        if (rc == 0)
            remember_verified(m, name, &identity);
    }
    free(path);
    return rc;
}

static int check_packs(struct mirror *m, char *list, struct err *err)
{
    char *save = NULL;
    size_t packs = 0;

    for (char *line = strtok_r(list, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        char name[128];
        uint64_t size;

        if (sscanf(line, "%100s %" SCNu64, name, &size) != 2 || strchr(name, '/') != NULL ||
            !is_pack(name))
            return err_set(err, ERR_CORRUPT, "its list of packs is damaged");
        if (check_file(m, name, &size, err) != 0)
            return -1;
        snprintf(name + strlen(name) - strlen("pack"), sizeof("idx"), "idx");
        if (check_file(m, name, NULL, err) != 0)
            return -1;
        packs++;
    }
    return packs > 0 ? 0 : err_set(err, ERR_CORRUPT, "its list of packs is empty");
}

/* What git needs around the packs. */
static int check_frame(struct mirror *m, struct err *err)
{
    static const struct {
        const char *name, *content;
    } files[] = {{"config", CONFIG}, {"HEAD", HEAD}};
    int rc = 0;

    for (size_t i = 0; i < ARRAY_LEN(files) && rc == 0; i++) {
        char *path = xasprintf("%s/%s", m->path, files[i].name);
        char found[256] = "";
        int fd = open(path, O_RDONLY | O_CLOEXEC);

        if (fd < 0)
            rc = cannot_look(files[i].name, err);
        else if (read(fd, found, sizeof(found) - 1) < 0 || strcmp(found, files[i].content) != 0)
            rc = err_set(err, ERR_CORRUPT, "its %s is not what was written", files[i].name);
        if (fd >= 0)
            close(fd);
        free(path);
    }
    return rc;
}

static int check(struct mirror *m, struct err *err)
{
    char *list;
    int rc = read_list(m, &list, err);

    if (rc != 0)
        return -1;
    rc = check_packs(m, list, err);
    if (rc == 0)
        rc = check_frame(m, err);
    free(list);
    return rc;
}

bool mirror_ready(struct mirror *m)
{
    struct lock *lock = &m->all->lock;
    struct err why;
    bool good;

    /* One at a time: after a restart a hundred requests must not read the same packs at once. */
    lock_take(lock);
    while (m->checking)
        lock_wait(lock, &m->all->done);
    m->checking = true;
    lock_drop(lock);
    good = check(m, &why) == 0;
    if (!good && why.kind == ERR_CORRUPT)
        mirror_drop_damaged(m, &why);
    lock_take(lock);
    m->checking = false;
    pthread_cond_broadcast(&m->all->done);
    lock_drop(lock);
    return good;
}

void mirror_doubt(struct mirror *m)
{
    lock_take(&m->all->lock);
    forget_verified_locked(m);
    lock_drop(&m->all->lock);
}

void mirror_drop_damaged(struct mirror *m, const struct err *why)
{
    char *away = folder_incoming_path(m->all->folder, ".dropped");

    /* Aside first: from the rename on nobody finds it, and a crash in the middle of the removal
     * leaves only what the next start sweeps. */
    if (rename(m->path, away) == 0) {
        atomic_fetch_add(&m->all->damaged, 1);
        folder_report_damage(m->all->folder, m->path, why);
        remove_tree(away);
    }
    free(away);
    mirror_doubt(m);
}

/* ---- questions that must not cost a process ---- */

static git_repository *open_repository(struct mirror *m)
{
    git_repository *repo = NULL;

    return git_repository_open_bare(&repo, m->path) == 0 ? repo : NULL;
}

static void to_git_oid(const struct oid *oid, git_oid *out)
{
    memcpy(out->id, oid->raw, GIT_OID_RAWSZ);
}

void mirror_missing(struct mirror *m, const struct oid_list *oids, struct oid_list *out)
{
    git_repository *repo = open_repository(m);
    git_odb *odb = NULL;

    if (repo != NULL && git_repository_odb(&odb, repo) != 0)
        odb = NULL;
    for (size_t i = 0; i < oids->count; i++) {
        git_oid id;

        to_git_oid(&oids->items[i], &id);
        if (odb == NULL || !git_odb_exists_ext(odb, &id, GIT_ODB_LOOKUP_NO_REFRESH))
            oid_list_add(out, &oids->items[i]);
    }
    git_odb_free(odb);
    git_repository_free(repo);
}

void mirror_missing_tags(struct mirror *m, const struct oid_list *tags,
                         const struct oid_list *targets, struct oid_list *out)
{
    git_repository *repo = tags->count > 0 ? open_repository(m) : NULL;
    git_odb *odb = NULL;

    if (repo != NULL && git_repository_odb(&odb, repo) != 0)
        odb = NULL;
    for (size_t i = 0; i < tags->count && odb != NULL; i++) {
        git_oid tag, target;

        to_git_oid(&tags->items[i], &tag);
        to_git_oid(&targets->items[i], &target);
        if (!git_odb_exists_ext(odb, &tag, GIT_ODB_LOOKUP_NO_REFRESH) &&
            git_odb_exists_ext(odb, &target, GIT_ODB_LOOKUP_NO_REFRESH))
            oid_list_add(out, &tags->items[i]);
    }
    git_odb_free(odb);
    git_repository_free(repo);
}

bool mirror_has_all(struct mirror *m, const struct oid_list *oids)
{
    struct oid_list missing = {0};
    bool all;

    mirror_missing(m, oids, &missing);
    all = missing.count == 0;
    oid_list_clear(&missing);
    return all;
}

bool mirror_reaches_all(struct mirror *m, const struct oid_list *oids, const struct oid_list *tips)
{
    git_repository *repo = open_repository(m);
    git_odb *odb = NULL;
    git_oid *from = xcalloc(tips->count, sizeof(*from));
    size_t from_count = 0;
    bool all = repo != NULL && git_repository_odb(&odb, repo) == 0;

    for (size_t i = 0; i < tips->count && all; i++) {
        git_object_t type;
        size_t len;

        to_git_oid(&tips->items[i], &from[from_count]);
        if (git_odb_read_header(&len, &type, odb, &from[from_count]) == 0 &&
            type == GIT_OBJECT_COMMIT)
            from_count++;
    }
    for (size_t i = 0; i < oids->count && all; i++) {
        git_oid id;

        to_git_oid(&oids->items[i], &id);
        all = oid_list_contains(tips, &oids->items[i]) ||
              (from_count > 0 && git_graph_reachable_from_any(repo, &id, from, from_count) == 1);
    }
    free(from);
    git_odb_free(odb);
    git_repository_free(repo);
    return all;
}

struct dated_tip {
    struct oid oid;
    int64_t time;
};

static int latest_first(const void *pa, const void *pb)
{
    const struct dated_tip *a = pa, *b = pb;

    return (a->time < b->time) - (a->time > b->time);
}

/* The time of the commit that id is, or that the tag id leads to; 0 for anything else. */
static int64_t commit_time(git_repository *repo, const git_oid *id)
{
    git_object *object = NULL, *commit = NULL;
    int64_t time = 0;

    if (git_object_lookup(&object, repo, id, GIT_OBJECT_ANY) == 0 &&
        git_object_peel(&commit, object, GIT_OBJECT_COMMIT) == 0)
        time = git_commit_time((git_commit *)commit);
    git_object_free(commit);
    git_object_free(object);
    return time;
}

void mirror_tips(struct mirror *m, size_t max, struct oid_list *out)
{
    git_repository *repo = open_repository(m);
    git_reference_iterator *it = NULL;
    git_reference *ref;
    struct dated_tip *tips = NULL;
    size_t count = 0, cap = 0;

    if (repo == NULL || git_reference_iterator_new(&it, repo) != 0)
        goto out;
    while (git_reference_next(&ref, it) == 0) {
        const git_oid *id = git_reference_target(ref);

        if (id != NULL) {
            if (count == cap) {
                cap = cap > 0 ? 2 * cap : 64;
                tips = xrealloc(tips, cap * sizeof(*tips));
            }
            tips[count] = (struct dated_tip){.time = commit_time(repo, id)};
            memcpy(tips[count++].oid.raw, id->id, GIT_OID_RAWSZ);
        }
        git_reference_free(ref);
    }
    if (count > 0)
        qsort(tips, count, sizeof(*tips), latest_first);
    for (size_t i = 0; i < count && i < max; i++)
        oid_list_add(out, &tips[i].oid);
    oid_list_sort(out);
out:
    free(tips);
    git_reference_iterator_free(it);
    git_repository_free(repo);
}

/* ---- taking packs in ---- */

void mirror_write_begin(struct mirror *m)
{
    lock_take(&m->all->lock);
    while (m->writing)
        lock_wait(&m->all->lock, &m->all->done);
    m->writing = true;
    lock_drop(&m->all->lock);
}

bool mirror_write_try(struct mirror *m, uint64_t timeout_ms)
{
    uint64_t deadline = now_ms() + timeout_ms;
    bool mine;

    lock_take(&m->all->lock);
    while (m->writing && lock_wait_until(&m->all->lock, &m->all->done, deadline))
        ;
    mine = !m->writing;
    m->writing = true;
    lock_drop(&m->all->lock);
    return mine;
}

void mirror_write_end(struct mirror *m)
{
    lock_take(&m->all->lock);
    m->writing = false;
    pthread_cond_broadcast(&m->all->done);
    lock_drop(&m->all->lock);
}

struct mirror_intake {
    struct mirror *mirror;
    bool fresh; /* path is in incoming/, to be renamed */
    bool committed;
    char *path;
    struct process *index_pack;
};

static int write_below(const char *folder, const char *name, const char *text, bool durable,
                       struct err *err)
{
    char *path = xasprintf("%s/%s", folder, name);
    int rc = write_file(path, text, strlen(text), durable, err);

    free(path);
    return rc;
}

static int make_bare(const char *path, bool durable, struct err *err)
{
    static const char *const folders[] = {"objects/pack", "objects/info", "refs"};
    int rc = 0;

    for (size_t i = 0; i < ARRAY_LEN(folders) && rc == 0; i++) {
        char *folder = xasprintf("%s/%s", path, folders[i]);

        rc = make_folders(folder, err);
        free(folder);
    }
    if (rc == 0)
        rc = write_below(path, "config", CONFIG, durable, err);
    if (rc == 0)
        rc = write_below(path, "HEAD", HEAD, durable, err);
    return rc;
}

static int remove_lock(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    size_t len = strlen(path);

    (void)st;
    (void)ftw;
    if (flag == FTW_F && len > 5 && strcmp(path + len - 5, ".lock") == 0)
        unlink(path);
    return 0;
}

/* What an index-pack that was killed leaves beside the packs, and a crash beside the refs; the
 * latter would keep a tip from ever being recorded.  There is one writer, so nobody needs them. */
static void sweep_leftovers(const char *path)
{
    enum { OPEN_FOLDERS_MAX = 16 };
    char *packs = xasprintf("%s/objects/pack", path);
    char *refs = xasprintf("%s/refs", path);
    DIR *dir = opendir(packs);
    struct dirent *d;

    while (dir != NULL && (d = readdir(dir)) != NULL)
        if (strncmp(d->d_name, "tmp_", 4) == 0)
            unlinkat(dirfd(dir), d->d_name, 0);
    if (dir != NULL)
        closedir(dir);
    nftw(refs, remove_lock, OPEN_FOLDERS_MAX, FTW_PHYS);
    free(packs);
    free(refs);
}

static void free_intake(struct mirror_intake *in)
{
    process_kill(&in->index_pack);
    if (in->fresh)
        remove_tree(in->path);
    else if (!in->committed)
        sweep_leftovers(in->path);
    free(in->path);
    free(in);
}

int mirror_intake_begin(struct mirror *m, const struct entry *about, bool background,
                        struct mirror_intake **out, struct err *err)
{
    struct mirror_intake *in = xcalloc(1, sizeof(*in));
    char *git_dir = NULL;
    int rc = 0;

    (void)about;
    in->mirror = m;
    in->fresh = access(m->path, F_OK) != 0;
    in->path = in->fresh ? folder_incoming_path(m->all->folder, ".git") : xstrdup(m->path);
    if (in->fresh)
        rc = make_bare(in->path, true, err);
    else
        sweep_leftovers(in->path);
    if (rc == 0) {
        git_dir = xasprintf("--git-dir=%s", in->path);
        rc = process_start(
            m->all->processes,
            &(struct process_spec){
                .args = (const char *const[]){git_dir, "index-pack", "--stdin",
                                              in->fresh ? "--check-self-contained-and-connected"
                                                        : "--fix-thin",
                                              NULL},
                .background = background,
                .writes = true,
            },
            &in->index_pack, err);
    }
    free(git_dir);
    if (rc != 0)
        free_intake(in);
    else
        *out = in;
    return rc;
}

int mirror_intake_feed(struct mirror_intake *in, const void *data, size_t len, struct err *err)
{
    while (len > 0) {
        ssize_t n = write(in->index_pack->in_fd, data, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EPIPE) { /* it knows better why it has ended */
            if (process_finish(&in->index_pack, err) != 0)
                return -1;
            return err_set(err, ERR_PROCESS, "git index-pack ended before its pack did");
        }
        if (n < 0)
            return err_errno(err, ERR_PROCESS, "feed git index-pack");
        data = (const char *)data + n;
        len -= (size_t)n;
    }
    return 0;
}

/* tips must exist; *out gets those that are commits or tags: others can't be compared with what
 * upstream has. */
static int choose_tips(const char *path, const struct oid_list *tips, struct oid_list *out,
                       struct err *err)
{
    git_repository *repo = NULL;
    git_odb *odb = NULL;
    int rc = 0;

    if (git_repository_open_bare(&repo, path) != 0 || git_repository_odb(&odb, repo) != 0)
        rc = err_set(err, ERR_CORRUPT, "a new mirror can't be opened");
    for (size_t i = 0; i < tips->count && rc == 0; i++) {
        git_object_t type;
        git_oid id;
        size_t len;

        to_git_oid(&tips->items[i], &id);
        if (git_odb_read_header(&len, &type, odb, &id) != 0)
            rc = err_set(err, ERR_UPSTREAM, "upstream's pack lacks an object that was asked for");
        else if (type == GIT_OBJECT_COMMIT || type == GIT_OBJECT_TAG)
            oid_list_add(out, &tips->items[i]);
    }
    git_odb_free(odb);
    git_repository_free(repo);
    oid_list_sort(out);
    return rc;
}

static int write_packed_refs(const char *path, const struct oid_list *tips, struct err *err)
{
    char *file = xasprintf("%s/packed-refs", path);
    struct bytes text;
    int rc;

    bytes_init(&text, SIZE_MAX / 2);
    bytes_add_str(&text, "# pack-refs with: peeled fully-peeled sorted \n");
    for (size_t i = 0; i < tips->count; i++) {
        char hex[OID_HEX_SIZE];

        oid_to_hex(HASH_SHA1, &tips->items[i], hex);
        bytes_addf(&text, "%s %s%s\n", hex, TIP_PREFIX, hex);
    }
    rc = write_file(file, text.data, text.len, true, err);
    bytes_clear(&text);
    free(file);
    return rc;
}

static int write_loose_refs(const char *path, const struct oid_list *tips, struct err *err)
{
    git_repository *repo = NULL;
    int rc = 0;

    if (git_repository_open_bare(&repo, path) != 0)
        return err_set(err, ERR_CORRUPT, "a mirror can't be opened");
    for (size_t i = 0; i < tips->count && rc == 0; i++) {
        char hex[OID_HEX_SIZE], name[sizeof(TIP_PREFIX) + OID_HEX_SIZE];
        git_reference *ref = NULL;
        git_oid id;

        to_git_oid(&tips->items[i], &id);
        oid_to_hex(HASH_SHA1, &tips->items[i], hex);
        snprintf(name, sizeof(name), "%s%s", TIP_PREFIX, hex);
        if (git_reference_create(&ref, repo, name, &id, 1, NULL) != 0)
            rc = err_set(err, ERR_STORAGE, "record a tip: %s", git_error_last()->message);
        git_reference_free(ref);
    }
    git_repository_free(repo);
    return rc;
}

/* The list is what makes a folder a mirror, so it comes last and by rename. */
static int write_list(const char *path, struct err *err)
{
    char *folder = xasprintf("%s/objects/pack", path);
    char *file = xasprintf("%s/pannier-packs", path);
    char *temporary = xasprintf("%s.new", file);
    DIR *dir = opendir(folder);
    struct bytes text;
    struct dirent *d;
    int rc = 0;

    bytes_init(&text, LIST_MAX);
    if (dir == NULL)
        rc = err_errno(err, ERR_STORAGE, "list %s", folder);
    while (rc == 0 && (d = readdir(dir)) != NULL) {
        struct stat st;

        if (!is_pack(d->d_name))
            continue;
        if (fstatat(dirfd(dir), d->d_name, &st, 0) != 0 ||
            bytes_addf(&text, "%s %jd\n", d->d_name, (intmax_t)st.st_size) != 0)
            rc = err_set(err, ERR_STORAGE, "list the packs of a mirror");
    }
    if (rc == 0)
        rc = write_file(temporary, text.data != NULL ? text.data : "", text.len, true, err);
    if (rc == 0 && rename(temporary, file) != 0)
        rc = err_errno(err, ERR_STORAGE, "publish %s", file);
    if (dir != NULL)
        closedir(dir);
    bytes_clear(&text);
    free(temporary);
    free(file);
    free(folder);
    return rc;
}

static int publish_fresh(struct mirror_intake *in, struct err *err)
{
    const char *path = in->mirror->path; /* others read it meanwhile */
    char *parent = xstrndup(path, (size_t)(strrchr(path, '/') - path));
    struct err ignored;
    int rc = make_folders(parent, err);

    free(parent);
    if (rc == 0 && rename(in->path, path) != 0)
        rc = err_errno(err, ERR_STORAGE, "publish %s", path);
    if (rc == 0) {
        in->fresh = false; /* nothing to remove any more */
        sync_parent(path, &ignored);
    }
    return rc;
}

/* An index-pack that finished has written what it was given, so its bytes need no reading back. */
static void trust_packs(struct mirror *m)
{
    char *list = NULL, *save = NULL;
    struct err ignored;

    if (read_list(m, &list, &ignored) != 0)
        return;
    for (char *line = strtok_r(list, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        size_t len = strcspn(line, " ");
        char *name = xstrndup(line, len);

        for (int index = 0; index < 2; index++) {
            char *file, *path;
            struct file_identity identity;

            file = index ? xasprintf("%.*s.idx", (int)len - 5, name) : xstrdup(name);
            path = xasprintf("%s/objects/pack/%s", m->path, file);
            if (file_identity_at(path, &identity))
                remember_verified(m, file, &identity);
            free(path);
            free(file);
        }
        free(name);
    }
    free(list);
}

int mirror_intake_commit(struct mirror_intake **inp, const struct oid_list *tips, struct err *err)
{
    struct mirror_intake *in = *inp;
    struct oid_list kept = {0};
    int rc;

    *inp = NULL;
    process_close_in(in->index_pack);
    rc = process_finish(&in->index_pack, err);
    if (rc == 0)
        rc = choose_tips(in->path, tips, &kept, err);
    if (rc == 0)
        rc = in->fresh ? write_packed_refs(in->path, &kept, err)
                       : write_loose_refs(in->path, &kept, err);
    if (rc == 0)
        rc = write_list(in->path, err);
    if (rc == 0 && in->fresh) {
        rc = publish_fresh(in, err);
        if (rc == 0)
            trust_packs(in->mirror);
    }
    in->committed = rc == 0;
    oid_list_clear(&kept);
    free_intake(in);
    return rc;
}

void mirror_intake_abort(struct mirror_intake **inp)
{
    struct mirror_intake *in = *inp;

    *inp = NULL;
    if (in != NULL)
        free_intake(in);
}

/* ---- making packs ---- */

static int pump(int fd, mirror_output_fn *fn, mirror_idle_fn *idle_fn, int idle_ms, void *ctx,
                struct err *err)
{
    char *block = xmalloc(OUTPUT_BLOCK);
    uint64_t last_ms = now_ms();
    int rc = 0;

    while (rc == 0) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        ssize_t n;

        if (poll(&ready, 1, idle_ms) == 0) {
            if (now_ms() - last_ms > SILENCE_MAX_MS)
                rc = err_set(err, ERR_TIMEOUT, "git upload-pack said nothing for too long");
            else if (idle_fn != NULL)
                rc = idle_fn(ctx, err);
            continue;
        }
        last_ms = now_ms();
        n = read(fd, block, OUTPUT_BLOCK);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = err_errno(err, ERR_PROCESS, "read from git upload-pack");
        else if (n == 0)
            break;
        else
            rc = fn(ctx, block, (size_t)n, err);
    }
    free(block);
    return rc;
}

/* The tags that the mirror has, as packed refs.  What they peel to stands beside them, so git
 * needn't look; their names are of no interest to anybody. */
static size_t list_tags(struct mirror *m, const struct oid_list *tags,
                        const struct oid_list *targets, struct bytes *out)
{
    git_repository *repo = tags->count > 0 ? open_repository(m) : NULL;
    git_odb *odb = NULL;
    size_t count = 0;

    bytes_add_str(out, "# pack-refs with: peeled fully-peeled sorted \n");
    if (repo != NULL && git_repository_odb(&odb, repo) != 0)
        odb = NULL;
    for (size_t i = 0; i < tags->count && odb != NULL; i++) {
        char tag_hex[OID_HEX_SIZE], target_hex[OID_HEX_SIZE];
        git_oid tag;

        to_git_oid(&tags->items[i], &tag);
        if (!git_odb_exists_ext(odb, &tag, GIT_ODB_LOOKUP_NO_REFRESH))
            continue;
        oid_to_hex(HASH_SHA1, &tags->items[i], tag_hex);
        oid_to_hex(HASH_SHA1, &targets->items[i], target_hex);
        bytes_addf(out, "%s refs/tags/%s\n^%s\n", tag_hex, tag_hex, target_hex);
        count++;
    }
    git_odb_free(odb);
    git_repository_free(repo);
    return count;
}

/* *view is a bare repository without objects of its own, which sees the mirror's; or NULL when
 * there are no tags to show and the mirror itself will do. */
static int make_view(struct mirror *m, const struct oid_list *tags, const struct oid_list *targets,
                     char **view, struct err *err)
{
    char *path = folder_incoming_path(m->all->folder, ".view");
    char *alternates = xasprintf("%s/objects\n", m->path);
    struct bytes refs;
    int rc = 0;

    *view = NULL;
    bytes_init(&refs, SIZE_MAX / 2);
    if (list_tags(m, tags, targets, &refs) > 0) {
        rc = make_bare(path, false, err);
        if (rc == 0)
            rc = write_below(path, "packed-refs", refs.data, false, err);
        if (rc == 0)
            rc = write_below(path, "objects/info/alternates", alternates, false, err);
        *view = path;
        path = NULL;
    }
    bytes_clear(&refs);
    free(alternates);
    free(path);
    return rc;
}

int mirror_upload_pack(struct mirror *m, const struct fetch_request *req,
                       const struct oid_list *tags, const struct oid_list *targets,
                       mirror_output_fn *fn, mirror_idle_fn *idle_fn, int idle_ms, void *ctx,
                       struct err *err)
{
    struct process *p = NULL;
    struct bytes body;
    char *view;
    int rc = make_view(m, tags, targets, &view, err);
    /* Which objects a client may have was decided before; here everything is allowed. */
    const char *const args[] = {"-c",          "uploadpack.allowFilter=true",
                                "-c",          "uploadpack.allowAnySHA1InWant=true",
                                "upload-pack", "--stateless-rpc",
                                "--strict",    view != NULL ? view : m->path,
                                NULL};

    bytes_init(&body, SIZE_MAX / 2);
    fetch_request_write(req, &body);
    if (rc == 0)
        rc =
            process_start(m->all->processes,
                          &(struct process_spec){.args = args,
                                                 .protocol = req->version == 2 ? "version=2" : NULL,
                                                 .input = body.data,
                                                 .input_len = body.len},
                          &p, err);
    if (rc == 0)
        rc = pump(p->out_fd, fn, idle_fn, idle_ms, ctx, err);
    if (rc == 0)
        rc = process_finish(&p, err);
    process_kill(&p);
    if (view != NULL)
        remove_tree(view);
    free(view);
    bytes_clear(&body);
    return rc;
}
