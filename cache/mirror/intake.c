#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cache/mirror/internal.h"

enum { PUBLISH_TRIES = 5 };

struct mirror_intake {
    struct mirror *mirror;
    bool fresh; /* path is in incoming/, to be renamed */
    bool committed;
    bool added; /* its pack is one that the mirror didn't have */
    char *path;
    struct entry about; /* its repo_id is NULL: nothing is known */
    struct claim *claim;
    struct process *index_pack;
};

int make_bare(const char *path, bool durable, struct err *err)
{
    static const char *const folders[] = {"objects/pack", "objects/info", "refs"};
    int rc = 0;

    for (size_t i = 0; i < ARRAY_LEN(folders) && rc == 0; i++) {
        char *folder = xasprintf("%s/%s", path, folders[i]);

        rc = make_folders(folder, err);
        free(folder);
    }
    if (rc == 0)
        rc = write_below(path, "config", MIRROR_CONFIG, durable, err);
    if (rc == 0)
        rc = write_below(path, "HEAD", MIRROR_HEAD, durable, err);
    return rc;
}

static void free_intake(struct mirror_intake *in)
{
    process_kill(&in->index_pack);
    if (in->fresh)
        remove_tree(in->path);
    else if (!in->committed)
        mirror_sweep(in->mirror);
    mirror_claim_free(&in->claim);
    entry_clear(&in->about);
    free(in->path);
    free(in);
}

static int start_index_pack(struct mirror_intake *in, bool background, struct err *err)
{
    char *git_dir = xasprintf("--git-dir=%s", in->path);
    const char *const args[] = {git_dir, "index-pack", "--stdin",
                                in->fresh ? "--check-self-contained-and-connected" : "--fix-thin",
                                NULL};
    int rc = process_start(
        in->mirror->all->processes,
        &(struct process_spec){.args = args, .background = background, .writes = true},
        &in->index_pack, err);

    free(git_dir);
    return rc;
}

int mirror_intake_begin(struct mirror *m, const struct entry *about, bool background,
                        struct mirror_intake **out, struct err *err)
{
    struct mirror_intake *in;
    int rc = 0;

    if (mirror_doomed(m))
        return err_set(err, ERR_BUSY, "the mirror is being removed");
    in = xcalloc(1, sizeof(*in));
    in->mirror = m;
    in->fresh = access(m->path, F_OK) != 0;
    in->path = in->fresh ? folder_incoming_path(m->all->folder, ".git") : xstrdup(m->path);
    in->claim = mirror_claim_new(m, in->fresh ? "making" : NULL);
    if (about != NULL)
        entry_copy(about, &in->about);
    if (in->fresh)
        rc = make_bare(in->path, true, err);
    else
        mirror_sweep(m);
    if (rc == 0)
        rc = start_index_pack(in, background, err);
    if (rc != 0)
        free_intake(in);
    else
        *out = in;
    return rc;
}

int mirror_intake_feed(struct mirror_intake *in, const void *data, size_t len, struct err *err)
{
    if (mirror_claim_grow(in->claim, len, err) != 0)
        return -1;
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

/* index-pack says "pack<tab><hash>". */
static void read_pack_name(struct process *p, char hash[GIT_HEX_LEN + 1])
{
    char said[64];
    size_t len = 0;
    ssize_t n;

    do {
        n = read(p->out_fd, said + len, sizeof(said) - 1 - len);
        len += n > 0 ? (size_t)n : 0;
    } while (n > 0 || (n < 0 && errno == EINTR));
    said[len] = '\0';
    if (sscanf(said, "pack %40[0-9a-f]", hash) != 1)
        hash[0] = '\0';
}

static int finish_index_pack(struct mirror_intake *in, char hash[GIT_HEX_LEN + 1], struct err *err)
{
    process_close_in(in->index_pack);
    read_pack_name(in->index_pack, hash);
    if (process_finish(&in->index_pack, err) != 0)
        return -1;
    return strlen(hash) == GIT_HEX_LEN
               ? 0
               : err_set(err, ERR_PROCESS, "git index-pack doesn't say what it has made");
}

static int add_to_list(struct mirror_intake *in, const char *hash, struct pack_list *list,
                       struct err *err)
{
    char *name = xasprintf("pack-%s.pack", hash);
    char *path = xasprintf("%s/objects/pack/%s", in->path, name);
    struct file_identity identity;
    int rc = in->fresh ? 0 : pack_list_read(in->path, list, err);

    if (rc == 0 && !file_identity_at(path, &identity))
        rc = err_errno(err, ERR_STORAGE, "look at %s", name);
    if (rc == 0) {
        in->added = pack_list_add(list, name, identity.size);
        rc = pack_list_write(in->path, list, err);
    }
    free(path);
    free(name);
    return rc;
}

static int write_tip_times(struct mirror_intake *in, const struct oid_list *tips, struct err *err)
{
    struct tip_list times, wanted;
    int64_t now_s = time(NULL);
    int rc;

    mirror_want(in->mirror, tips, now_s);
    mirror_take_wanted(in->mirror, &wanted);
    tip_list_read(in->path, &times);
    for (size_t i = 0; i < wanted.count; i++)
        tip_list_want(&times, &wanted.items[i].oid, wanted.items[i].wanted_s);
    rc = tip_list_write(in->path, &times, err);
    tip_list_clear(&times);
    tip_list_clear(&wanted);
    return rc;
}

int mirror_appear(struct mirror *m, const char *from, struct err *err)
{
    const char *path = m->path; /* others read it meanwhile */
    char *parent = xstrndup(path, (size_t)(strrchr(path, '/') - path));
    struct err ignored;
    bool again = true;
    int rc = 0;

    /* The parent goes with the last mirror in it, perhaps just now. */
    for (unsigned i = 0; i < PUBLISH_TRIES && again && rc == 0; i++) {
        rc = make_folders(parent, err);
        again = rc == 0 && rename(from, path) != 0;
        if (again && errno != ENOENT)
            break;
    }
    if (rc == 0 && again)
        rc = err_errno(err, ERR_STORAGE, "publish %s", path);
    free(parent);
    if (rc == 0)
        sync_parent(path, &ignored);
    return rc;
}

/* All that makes the pack a part of the mirror.  The list comes before the tips: these are told to
 * upstream as what is here, so a kill between the two must leave too few rather than too many. */
static int record(struct mirror_intake *in, const char *hash, const struct oid_list *tips,
                  struct pack_list *list, struct err *err)
{
    int rc = add_to_list(in, hash, list, err);

    if (rc == 0)
        rc = in->fresh ? packed_refs_write(in->path, tips, err)
                       : objects_add_refs(in->path, tips, err);
    if (rc == 0)
        rc = write_tip_times(in, tips, err);
    if (rc == 0 && in->about.repo_id != NULL)
        rc = record_write(in->path, in->mirror->name, &in->about, tips, err);
    return rc;
}

int mirror_intake_commit(struct mirror_intake **inp, const struct oid_list *tips, struct err *err)
{
    struct mirror_intake *in = *inp;
    struct oid_list kept = {0};
    struct pack_list list = {0};
    char hash[GIT_HEX_LEN + 1];
    int rc;

    *inp = NULL;
    rc = finish_index_pack(in, hash, err);
    if (rc == 0)
        rc = objects_choose_tips(in->path, tips, &kept, err);
    if (rc == 0 && mirror_doomed(in->mirror))
        rc = err_set(err, ERR_CANCELLED, "the mirror was removed meanwhile");
    if (rc == 0)
        rc = record(in, hash, &kept, &list, err);
    if (rc == 0 && in->fresh)
        rc = mirror_appear(in->mirror, in->path, err);
    if (rc == 0) {
        in->fresh = false; /* nothing to remove any more */
        if (in->added)
            mirror_trust_pack(in->mirror, &list.packs[list.count - 1]);
        mirror_publish(in->mirror, &in->claim);
    }
    in->committed = rc == 0;
    pack_list_clear(&list);
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
