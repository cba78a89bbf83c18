/* One mirror, of one upstream repository that all tests of a program share.  Included by unit tests
 * only; everything asserts with cmocka. */
#ifndef PANNIER_TESTS_UNIT_ONE_MIRROR_H
#define PANNIER_TESTS_UNIT_ONE_MIRROR_H

#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "cache/mirror/mirror.h"
#include "protocol/fetch_response.h"
#include "real_git.h"
#include "scratch.h"

/* One upstream repository for all tests. */
static struct real_git upstream;

struct fixture {
    struct scratch scratch;
    struct folder *folder;
    struct processes *processes;
    struct mirrors *mirrors;
    struct mirror *mirror;
    char *path;                /* of the mirror */
    const struct entry *about; /* what intakes say; may be NULL */
};

static inline void open_all(struct fixture *f)
{
    struct err err;

    assert_int_equal(folder_open(f->scratch.dir, NULL, &f->folder, &err), 0);
    assert_int_equal(processes_new(4, &f->processes, &err), 0);
    f->mirrors = mirrors_new(f->folder, f->processes, NULL);
    f->mirror = mirrors_get(f->mirrors, "example.org", "group/repo");
    assert_non_null(f->mirror);
}

static inline void close_all(struct fixture *f)
{
    mirror_unref(&f->mirror);
    mirrors_free(&f->mirrors);
    processes_free(&f->processes);
    folder_close(&f->folder);
}

static inline void restart(struct fixture *f)
{
    close_all(f);
    open_all(f);
}

static inline int set_up(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));

    scratch_init(&f->scratch);
    f->path = scratch_path(&f->scratch, "mirrors/example.org/group/repo.git");
    open_all(f);
    *state = f;
    return 0;
}

static inline int tear_down(void **state)
{
    struct fixture *f = *state;
    char *incoming = folder_pathf(f->folder, "incoming");

    assert_int_equal(count_entries(incoming), 0); /* whatever happened */
    free(incoming);
    close_all(f);
    scratch_clear(&f->scratch);
    free(f->path);
    free(f);
    return 0;
}

/* What can't be removed for want of descriptors stays there until the next start. */
static inline void empty_incoming(struct fixture *f)
{
    char *incoming = folder_pathf(f->folder, "incoming");
    struct err err;

    remove_tree(incoming);
    assert_int_equal(make_folders(incoming, &err), 0);
    free(incoming);
}

static inline struct oid oid_of(const char *revision)
{
    struct oid oid = {0};
    char hex[65];

    real_git_id(&upstream, revision, hex);
    assert_true(oid_from_hex(HASH_SHA1, hex, strlen(hex), &oid));
    return oid;
}

static inline struct oid_list list_of(const char *revision)
{
    struct oid_list list = {0};
    struct oid oid = oid_of(revision);

    oid_list_add(&list, &oid);
    return list;
}

static inline struct oid unknown_oid(void)
{
    return (struct oid){{1, 2, 3}};
}

/* What revisions (as rev-list takes them, a line each) name, as a pack. */
static inline void make_pack(const char *revisions, bool thin, struct bytes *out)
{
    bytes_init(out, REAL_GIT_OUTPUT_MAX);
    assert_int_equal(REAL_GIT(&upstream, NULL, revisions, strlen(revisions), out, "git",
                              "pack-objects", "-q", "--revs", "--stdout",
                              thin ? "--thin" : "--delta-base-offset"),
                     0);
}

static inline int take_in(struct fixture *f, const char *revisions, bool thin,
                          const struct oid_list *tips, struct err *err)
{
    struct mirror_intake *in;
    struct bytes pack;
    int rc;

    make_pack(revisions, thin, &pack);
    mirror_write_begin(f->mirror);
    rc = mirror_intake_begin(f->mirror, f->about, false, &in, err);
    assert_int_equal(rc, 0);
    rc = mirror_intake_feed(in, pack.data, pack.len, err);
    if (rc == 0)
        rc = mirror_intake_commit(&in, tips, err);
    else
        mirror_intake_abort(&in);
    mirror_write_end(f->mirror);
    bytes_clear(&pack);
    return rc;
}

static inline void fill(struct fixture *f, const char *revisions, bool thin, const char *tip)
{
    struct oid_list tips = list_of(tip);
    struct err err;

    assert_int_equal(take_in(f, revisions, thin, &tips, &err), 0);
    oid_list_clear(&tips);
}

static inline void make_whole(struct fixture *f)
{
    fill(f, "main\nv1\n", false, "main");
    assert_true(mirror_ready(f->mirror));
}

static inline bool has(const struct fixture *f, const char *revision)
{
    struct oid_list list = list_of(revision);
    bool yes = mirror_has_all(f->mirror, &list);

    oid_list_clear(&list);
    return yes;
}

static inline bool reaches(const struct fixture *f, const struct oid_list *oids, const char *tip)
{
    struct oid_list tips = list_of(tip);
    bool yes = mirror_reaches_all(f->mirror, oids, &tips);

    oid_list_clear(&tips);
    return yes;
}

struct output {
    struct fetch_response *watch;
    struct bytes pack;
    unsigned idles;
    size_t refuse_after; /* 0: never */
    size_t seen;
};

static inline int on_pack(void *ctx, const void *data, size_t len, struct err *err)
{
    struct output *o = ctx;

    (void)err;
    return bytes_add(&o->pack, data, len);
}

static inline int on_output(void *ctx, const void *data, size_t len, struct err *err)
{
    struct output *o = ctx;

    o->seen += len;
    if (o->refuse_after > 0 && o->seen > o->refuse_after)
        return err_set(err, ERR_CANCELLED, "nobody wants it");
    return fetch_response_feed(o->watch, data, len, err);
}

static inline int on_idle(void *ctx, struct err *err)
{
    struct output *o = ctx;

    (void)err;
    o->idles++;
    return 0;
}

static inline struct fetch_request request(int version, const char *want)
{
    return (struct fetch_request){
        .version = version,
        .command = COMMAND_FETCH,
        .wants = list_of(want),
        .done = true,
        .ofs_delta = true,
        .sideband = SIDEBAND_64K,
    };
}

static inline void request_clear(struct fetch_request *req)
{
    oid_list_clear(&req->wants);
    oid_list_clear(&req->haves);
    oid_list_clear(&req->shallow);
}

/* -1 with *err where upload-pack or the response is no good. */
static inline int serve(const struct fixture *f, const struct fetch_request *req,
                        const struct oid_list *tags, const struct oid_list *targets,
                        struct bytes *pack, struct err *err)
{
    static const struct oid_list none;
    struct fetch_response_shape shape;
    struct output o = {0};
    int rc;

    fetch_response_shape_of(req, &shape);
    o.watch = fetch_response_new(&shape, on_pack, &o);
    bytes_init(&o.pack, REAL_GIT_OUTPUT_MAX);
    rc = mirror_upload_pack(f->mirror, req, tags != NULL ? tags : &none,
                            targets != NULL ? targets : &none, on_output, on_idle, 1000, &o, err);
    if (rc == 0)
        rc = fetch_response_finish(o.watch, err);
    fetch_response_free(o.watch);
    *pack = o.pack;
    return rc;
}

/* The objects of a pack, as `git index-pack` in a repository with nothing else (or beside
 * upstream's objects, for a thin one) and then `git show-index` tell them; returns how many. */
static inline size_t count_objects(const struct bytes *pack, bool thin)
{
    struct bytes out;
    struct real_git g;
    size_t lines = 0;

    strcpy(g.dir, "/tmp/pannier-test-XXXXXX");
    assert_non_null(mkdtemp(g.dir));
    assert_int_equal(REAL_GIT(&g, NULL, "", 0, NULL, "git", "init", "-q", "--bare", "."), 0);
    if (thin) {
        char *alternates = xasprintf("%s/objects/info/alternates", g.dir);
        char *objects = xasprintf("%s/objects\n", upstream.dir);

        put_file(alternates, objects, strlen(objects));
        free(alternates);
        free(objects);
    }
    bytes_init(&out, REAL_GIT_OUTPUT_MAX);
    assert_int_equal(REAL_GIT(&g, NULL, pack->data, pack->len, NULL, "git", "index-pack", "--stdin",
                              "--fix-thin"),
                     0);
    assert_int_equal(
        REAL_GIT(&g, NULL, "", 0, &out, "sh", "-c", "git show-index < $(echo objects/pack/*.idx)"),
        0);
    for (size_t i = 0; i < out.len; i++)
        lines += out.data[i] == '\n';
    bytes_clear(&out);
    real_git_clear(&g);
    return lines;
}

static inline size_t count_revisions(const char *arguments)
{
    char *command = xasprintf("git rev-list --objects %s | wc -l", arguments);
    struct bytes out;
    size_t n;

    bytes_init(&out, 100);
    assert_int_equal(REAL_GIT(&upstream, NULL, "", 0, &out, "sh", "-c", command), 0);
    n = strtoul(out.data, NULL, 10);
    bytes_clear(&out);
    free(command);
    return n;
}

/* The one file with this end in the folder of packs. */
static inline char *pack_file(const struct fixture *f, const char *end)
{
    char *folder = xasprintf("%s/objects/pack", f->path), *found = NULL;
    DIR *dir = opendir(folder);
    struct dirent *d;

    assert_non_null(dir);
    while ((d = readdir(dir)) != NULL) {
        size_t len = strlen(d->d_name), n = strlen(end);

        if (len > n && strcmp(d->d_name + len - n, end) == 0)
            found = xasprintf("%s/%s", folder, d->d_name);
    }
    closedir(dir);
    free(folder);
    assert_non_null(found);
    return found;
}

static inline int make_upstream(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    real_git_init(&upstream, "sha1");
    return 0;
}

static inline int remove_upstream(void **state)
{
    (void)state;
    real_git_clear(&upstream);
    return 0;
}

#endif
