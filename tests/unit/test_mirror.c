#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "one_mirror.h"

/* ---- intake ---- */

static void nothing_is_in_a_mirror_that_is_not_there(void **state)
{
    struct fixture *f = *state;
    struct oid_list oids = list_of("main"), missing = {0};

    assert_false(mirror_ready(f->mirror));
    assert_false(mirror_has_all(f->mirror, &oids));
    assert_false(mirror_reaches_all(f->mirror, &oids, &oids));
    mirror_missing(f->mirror, &oids, &missing);
    assert_int_equal(missing.count, 1);
    oid_list_clear(&missing);
    mirror_tips(f->mirror, 10, &missing);
    assert_int_equal(missing.count, 0);
    oid_list_clear(&oids);
    assert_int_equal(mirrors_damaged(f->mirrors), 0);
}

static void a_pack_that_is_closed_makes_a_mirror(void **state)
{
    struct fixture *f = *state;
    struct oid_list oids = list_of("main"), missing = {0};
    struct oid unknown = unknown_oid();

    make_whole(f);
    assert_true(has(f, "main"));
    assert_true(has(f, "main~39"));
    assert_true(has(f, "v1"));
    assert_true(has(f, "main:grows"));
    oid_list_add(&oids, &unknown);
    mirror_missing(f->mirror, &oids, &missing);
    assert_int_equal(missing.count, 1);
    assert_int_equal(oid_cmp(&missing.items[0], &unknown), 0);
    oid_list_clear(&missing);
    oid_list_clear(&oids);
    mirror_tips(f->mirror, 10, &oids);
    assert_int_equal(oids.count, 1);
    oid_list_clear(&oids);
    restart(f);
    assert_true(mirror_ready(f->mirror));
    assert_true(has(f, "main"));
}

static void a_pack_with_holes_makes_none(void **state)
{
    struct fixture *f = *state;
    struct oid_list tips = list_of("main");
    struct err err;

    assert_int_equal(take_in(f, "main\n^main~5\n", false, &tips, &err), -1);
    assert_int_equal(err.kind, ERR_PROCESS);
    assert_false(exists(f->path));
    oid_list_clear(&tips);
}

static void a_pack_that_lacks_a_tip_makes_none(void **state)
{
    struct fixture *f = *state;
    struct oid_list tips = list_of("main");
    struct err err;

    assert_int_equal(take_in(f, "main~5\n", false, &tips, &err), -1);
    assert_int_equal(err.kind, ERR_UPSTREAM);
    assert_false(exists(f->path));
    oid_list_clear(&tips);
}

static void nonsense_makes_none(void **state)
{
    struct fixture *f = *state;
    struct oid_list tips = list_of("main");
    struct mirror_intake *in;
    struct err err;
    int rc;

    assert_int_equal(mirror_intake_begin(f->mirror, NULL, true, &in, &err), 0);
    /* index-pack ends at the first bytes, so the feed may fail, too. */
    rc = mirror_intake_feed(in, "this is no pack at all", 22, &err);
    if (rc == 0)
        rc = mirror_intake_commit(&in, &tips, &err);
    else
        mirror_intake_abort(&in);
    assert_int_equal(rc, -1);
    assert_int_equal(err.kind, ERR_PROCESS);
    assert_false(exists(f->path));
    oid_list_clear(&tips);
}

static void an_intake_that_is_given_up_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    struct mirror_intake *in, *none = NULL;
    struct bytes pack;
    struct err err;
    char *packs = xasprintf("%s/objects/pack", f->path);
    size_t before;

    make_pack("main\n", false, &pack);
    assert_int_equal(mirror_intake_begin(f->mirror, NULL, false, &in, &err), 0);
    assert_int_equal(mirror_intake_feed(in, pack.data, pack.len / 2, &err), 0);
    mirror_intake_abort(&in);
    mirror_intake_abort(&none);
    assert_false(exists(f->path));
    assert_int_equal(processes_running(f->processes), 0);
    make_whole(f);
    before = count_entries(packs);
    assert_int_equal(mirror_intake_begin(f->mirror, NULL, false, &in, &err), 0);
    assert_int_equal(mirror_intake_feed(in, pack.data, pack.len / 2, &err), 0);
    mirror_intake_abort(&in);
    assert_int_equal(count_entries(packs), before);
    assert_true(mirror_ready(f->mirror));
    bytes_clear(&pack);
    free(packs);
}

static void a_thin_pack_brings_a_mirror_forward(void **state)
{
    struct fixture *f = *state;
    struct oid_list tips = {0};
    struct oid main_tip;

    fill(f, "main~10\n", false, "main~10");
    assert_true(mirror_ready(f->mirror));
    assert_false(has(f, "main"));
    fill(f, "main\n^main~10\n", true, "main");
    assert_true(mirror_ready(f->mirror));
    assert_true(has(f, "main"));
    mirror_tips(f->mirror, 10, &tips);
    assert_int_equal(tips.count, 2);
    oid_list_clear(&tips);
    mirror_tips(f->mirror, 1, &tips); /* the latest */
    assert_int_equal(tips.count, 1);
    main_tip = oid_of("main");
    assert_int_equal(oid_cmp(&tips.items[0], &main_tip), 0);
    oid_list_clear(&tips);
    restart(f);
    assert_true(mirror_ready(f->mirror));
    assert_true(has(f, "main~3"));
}

static void blobs_and_trees_are_no_tips(void **state)
{
    struct fixture *f = *state;
    struct oid_list tips = list_of("main"), found = {0};
    struct oid blob = oid_of("main:grows"), tag = oid_of("v1");
    struct err err;

    oid_list_add(&tips, &blob);
    oid_list_add(&tips, &tag);
    assert_int_equal(take_in(f, "main\nv1\n", false, &tips, &err), 0);
    mirror_tips(f->mirror, 10, &found);
    assert_int_equal(found.count, 2);
    assert_false(oid_list_contains(&found, &blob));
    assert_true(oid_list_contains(&found, &tag));
    oid_list_clear(&found);
    oid_list_clear(&tips);
}

static void what_a_crash_left_does_not_stop_the_next_intake(void **state)
{
    struct fixture *f = *state;
    char hex[65];
    char *lock, *pack, *folder;
    struct err err;

    fill(f, "main~10\n", false, "main~10");
    real_git_id(&upstream, "main", hex);
    folder = xasprintf("%s/refs/pannier/oid", f->path);
    lock = xasprintf("%s/%s.lock", folder, hex);
    pack = xasprintf("%s/objects/pack/tmp_pack_left", f->path);
    assert_int_equal(make_folders(folder, &err), 0);
    put_file(lock, "", 0);
    put_file(pack, "half", 4);
    restart(f);
    assert_true(mirror_ready(f->mirror));
    fill(f, "main\n^main~10\n", true, "main");
    assert_true(mirror_ready(f->mirror));
    assert_false(exists(lock));
    assert_false(exists(pack));
    assert_true(has(f, "main"));
    free(folder);
    free(lock);
    free(pack);
}

/* ---- what is reachable ---- */

static void ancestors_are_reached_and_nothing_else(void **state)
{
    static const struct {
        const char *oid, *tip;
        bool reached;
    } rows[] = {
        {"main", "main", true},         {"main~1", "main", true},
        {"main~39", "main", true},      {"main", "main~1", false},
        {"main~5", "main~5", true},     {"v1", "v1", true},
        {"v1", "main", false},          {"main:grows", "main", false},
        {"main^{tree}", "main", false}, {"main:grows", "main:grows", true},
    };
    struct fixture *f = *state;

    make_whole(f);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct oid_list oids = list_of(rows[i].oid);

        assert_int_equal(reaches(f, &oids, rows[i].tip), rows[i].reached);
        oid_list_clear(&oids);
    }
}

static void all_must_be_reached_and_tips_may_be_unknown(void **state)
{
    struct fixture *f = *state;
    struct oid_list oids = list_of("main~3"), tips = {0};
    struct oid unknown = unknown_oid(), tip = oid_of("main");

    make_whole(f);
    assert_false(mirror_reaches_all(f->mirror, &oids, &tips));
    oid_list_add(&tips, &unknown);
    assert_false(mirror_reaches_all(f->mirror, &oids, &tips));
    oid_list_add(&tips, &tip);
    oid_list_sort(&tips);
    assert_true(mirror_reaches_all(f->mirror, &oids, &tips));
    oid_list_add(&oids, &(struct oid){{9}});
    assert_false(mirror_reaches_all(f->mirror, &oids, &tips));
    oid_list_clear(&oids);
    oid_list_clear(&tips);
}

/* ---- making packs ---- */

static void a_mirror_hands_out_what_was_asked_for(void **state)
{
    struct fixture *f = *state;

    make_whole(f);
    for (int version = 0; version <= 2; version += 2) {
        struct fetch_request req = request(version, "main");
        struct bytes pack;
        struct err err;

        /* all of it */
        assert_int_equal(serve(f, &req, NULL, NULL, &pack, &err), 0);
        assert_int_equal(count_objects(&pack, false), count_revisions("main"));
        bytes_clear(&pack);
        /* a commit that is no tip, with nothing behind it */
        request_clear(&req);
        req = request(version, "main~7");
        req.depth = 1;
        assert_int_equal(serve(f, &req, NULL, NULL, &pack, &err), 0);
        assert_int_equal(count_objects(&pack, false), 4); /* commit, tree, two blobs */
        bytes_clear(&pack);
        /* without blobs */
        req.filter = (char *)"blob:none";
        assert_int_equal(serve(f, &req, NULL, NULL, &pack, &err), 0);
        assert_int_equal(count_objects(&pack, false), 2);
        bytes_clear(&pack);
        /* what is new, thin */
        request_clear(&req);
        req = request(version, "main");
        req.haves = list_of("main~3");
        req.thin_pack = true;
        assert_int_equal(serve(f, &req, NULL, NULL, &pack, &err), 0);
        assert_true(count_objects(&pack, true) >= count_revisions("main ^main~3"));
        bytes_clear(&pack);
        request_clear(&req);
    }
}

static void only_the_tags_that_are_shown_are_included(void **state)
{
    struct fixture *f = *state;
    struct oid_list tags = list_of("v1"), targets = list_of("main"), none = {0};
    size_t all = count_revisions("main");

    make_whole(f);
    oid_list_add(&tags, &(struct oid){{7}}); /* one that the mirror lacks does no harm */
    oid_list_add(&targets, &(struct oid){{8}});
    for (int version = 0; version <= 2; version += 2) {
        struct fetch_request req = request(version, "main");
        struct bytes pack;
        struct err err;

        req.include_tag = true;
        assert_int_equal(serve(f, &req, &tags, &targets, &pack, &err), 0);
        assert_int_equal(count_objects(&pack, false), all + 1);
        bytes_clear(&pack);
        assert_int_equal(serve(f, &req, &none, &none, &pack, &err), 0);
        assert_int_equal(count_objects(&pack, false), all);
        bytes_clear(&pack);
        req.include_tag = false;
        assert_int_equal(serve(f, &req, &tags, &targets, &pack, &err), 0);
        assert_int_equal(count_objects(&pack, false), all);
        bytes_clear(&pack);
        request_clear(&req);
    }
    oid_list_clear(&tags);
    oid_list_clear(&targets);
}

static void tags_that_are_missing_are_told_where_their_targets_are_here(void **state)
{
    struct fixture *f = *state;
    struct oid_list tags = list_of("v1"), targets = list_of("main"), missing = {0};

    fill(f, "main\n", false, "main");
    oid_list_add(&tags, &(struct oid){{7}});
    oid_list_add(&targets, &(struct oid){{8}}); /* neither is here */
    mirror_missing_tags(f->mirror, &tags, &targets, &missing);
    assert_int_equal(missing.count, 1);
    assert_int_equal(oid_cmp(&missing.items[0], &tags.items[0]), 0);
    oid_list_clear(&missing);
    oid_list_clear(&tags);
    oid_list_clear(&targets);
}

static void who_wants_no_more_ends_the_program(void **state)
{
    struct fixture *f = *state;
    struct fetch_request req = request(2, "main");
    struct oid_list none = {0};
    struct fetch_response_shape shape;
    struct output o = {.refuse_after = 20};
    struct err err;

    make_whole(f);
    fetch_response_shape_of(&req, &shape);
    o.watch = fetch_response_new(&shape, NULL, NULL);
    assert_int_equal(
        mirror_upload_pack(f->mirror, &req, &none, &none, on_output, on_idle, 1000, &o, &err), -1);
    assert_int_equal(err.kind, ERR_CANCELLED);
    assert_int_equal(processes_running(f->processes), 0);
    fetch_response_free(o.watch);
    request_clear(&req);
}

static void a_question_that_git_refuses_says_nothing_about_the_mirror(void **state)
{
    char *names[] = {(char *)"refs/heads/other"};
    struct fetch_request rows[5];
    struct fixture *f = *state;

    make_whole(f);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        rows[i] = request(2, "main");
    rows[0].deepen_not = names;
    rows[0].deepen_not_count = 1;
    rows[1].deepen_since = INT64_C(4000000000);
    rows[2].filter = (char *)"sparse:oid=main:nothing";
    oid_list_add(&rows[3].wants, &(struct oid){{1, 2, 3}});
    oid_list_sort(&rows[3].wants);
    rows[4].shallow = list_of("main:grows"); /* no commit */
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct bytes pack;
        struct err err;

        assert_int_equal(serve(f, &rows[i], NULL, NULL, &pack, &err), -1);
        bytes_clear(&pack);
        mirror_doubt(f->mirror);
        assert_true(mirror_ready(f->mirror));
        request_clear(&rows[i]);
    }
    assert_int_equal(mirrors_damaged(f->mirrors), 0);
}

/* ---- damage ---- */

static void flip_pack(const struct fixture *f)
{
    char *file = pack_file(f, ".pack");

    flip_byte(file, size_of(file) / 2);
    free(file);
}

static void flip_index(const struct fixture *f)
{
    char *file = pack_file(f, ".idx");

    flip_byte(file, size_of(file) / 2);
    free(file);
}

static void cut_pack(const struct fixture *f)
{
    char *file = pack_file(f, ".pack");

    assert_int_equal(chmod(file, 0600), 0);
    assert_int_equal(truncate(file, (off_t)size_of(file) - 1), 0);
    free(file);
}

static void empty_index(const struct fixture *f)
{
    char *file = pack_file(f, ".idx");

    assert_int_equal(chmod(file, 0600), 0);
    assert_int_equal(truncate(file, 0), 0);
    free(file);
}

static void remove_pack(const struct fixture *f)
{
    char *file = pack_file(f, ".pack");

    assert_int_equal(unlink(file), 0);
    free(file);
}

static void remove_index(const struct fixture *f)
{
    char *file = pack_file(f, ".idx");

    assert_int_equal(unlink(file), 0);
    free(file);
}

static void put_below(const struct fixture *f, const char *name, const char *text)
{
    char *file = xasprintf("%s/%s", f->path, name);

    if (text != NULL)
        put_file(file, text, strlen(text));
    else
        assert_int_equal(unlink(file), 0);
    free(file);
}

static void remove_list(const struct fixture *f)
{
    put_below(f, "pannier-packs", NULL);
}

static void empty_list(const struct fixture *f)
{
    put_below(f, "pannier-packs", "");
}

static void nonsense_list(const struct fixture *f)
{
    put_below(f, "pannier-packs", "../../../../etc/passwd 5\n");
}

static void other_config(const struct fixture *f)
{
    put_below(f, "config", "[core]\n\tbare = true\n[uploadpack]\n\tpackObjectsHook = evil\n");
}

static void remove_head(const struct fixture *f)
{
    put_below(f, "HEAD", NULL);
}

static void damage_is_found_dropped_counted_and_mended(bool after_restart)
{
    static void (*const damages[])(const struct fixture *f) = {
        flip_pack,   flip_index, cut_pack,      empty_index,  remove_pack, remove_index,
        remove_list, empty_list, nonsense_list, other_config, remove_head,
    };

    /* Found alike in both cases: a few of them are enough for the second. */
    for (size_t i = 0; i < ARRAY_LEN(damages); i += after_restart ? 3 : 1) {
        void *state;
        struct fixture *f;

        set_up(&state);
        f = state;
        make_whole(f);
        damages[i](f);
        if (after_restart)
            restart(f);
        assert_false(mirror_ready(f->mirror));
        assert_int_equal(mirrors_damaged(f->mirrors), 1);
        assert_false(exists(f->path));
        assert_false(mirror_ready(f->mirror));
        assert_int_equal(mirrors_damaged(f->mirrors), 1); /* once */
        make_whole(f);
        assert_true(has(f, "main"));
        tear_down(&state);
    }
}

static void damage_under_us_is_found_dropped_and_mended(void **state)
{
    (void)state;
    damage_is_found_dropped_counted_and_mended(false);
}

static void damage_while_we_were_away_is_found_dropped_and_mended(void **state)
{
    (void)state;
    damage_is_found_dropped_counted_and_mended(true);
}

static void a_want_of_descriptors_costs_no_mirror(void **state)
{
    struct fixture *f = *state;
    struct rlimit before, none;

    make_whole(f);
    restart(f);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 3;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_false(mirror_ready(f->mirror));
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(mirrors_damaged(f->mirrors), 0);
    assert_true(mirror_ready(f->mirror));
}

/* What can't be opened now may have it: an invalidation must not spare such a mirror. */
static void what_can_not_be_looked_for_does_not_count_as_lacking(void **state)
{
    struct fixture *f = *state;
    struct oid here = oid_of("main"), nowhere = unknown_oid();
    struct rlimit before;

    make_whole(f);
    few_descriptors(0, &before);
    assert_false(mirror_lacks(f->mirror, &here));
    assert_false(mirror_lacks(f->mirror, &nowhere));
    descriptors_are_back(&before);
    assert_false(mirror_lacks(f->mirror, &here));
    assert_true(mirror_lacks(f->mirror, &nowhere));
}

/* Whoever serves takes git's own failures (ERR_PROCESS) for damage. */
static void git_s_want_of_descriptors_is_not_its_failure(void **state)
{
    struct fixture *f = *state;
    struct fetch_request req = request(2, "main");
    struct rlimit before;
    struct err err;
    rlim_t few = 0;
    int rc;

    fill(f, "main~3\n", false, "main~3");
    fill(f, "main~2\n^main~3\n", true, "main~2");
    fill(f, "main~1\n^main~2\n", true, "main~1");
    fill(f, "main\n^main~1\n", true, "main");
    assert_true(mirror_ready(f->mirror));
    do {
        struct bytes pack;

        few_descriptors(few++, &before);
        rc = serve(f, &req, NULL, NULL, &pack, &err);
        descriptors_are_back(&before);
        if (rc != 0 && err.kind == ERR_PROCESS)
            fail_msg("with %d descriptors: %s", (int)few - 1, err.text);
        bytes_clear(&pack);
    } while (rc != 0);
    assert_true(few > 2);
    request_clear(&req);
}

/* Nor does git's want of them, or what libgit2 can't open. */
static void a_want_of_descriptors_is_no_damage_to_who_reads_all_of_it(void **state)
{
    struct fixture *f = *state;
    struct rlimit before;
    struct err err;
    rlim_t few = 0;
    int rc;

    fill(f, "main~3\n", false, "main~3");
    fill(f, "main\n^main~3\n", true, "main");
    assert_true(mirror_ready(f->mirror));
    do {
        few_descriptors(few++, &before);
        rc = mirror_verify(f->mirror, &err);
        descriptors_are_back(&before);
        if (rc != 0 && err.kind == ERR_CORRUPT)
            fail_msg("with %d descriptors: %s", (int)few - 1, err.text);
    } while (rc != 0);
    assert_true(few > 2);
    assert_int_equal(mirrors_damaged(f->mirrors), 0);
}

/* ---- handles and writers ---- */

static void unsuited_names_have_no_mirror(void **state)
{
    struct fixture *f = *state;
    char name[400];
    struct mirror *m;

    assert_null(mirrors_get(f->mirrors, "example.org", "a.git/b"));
    assert_null(mirrors_get(f->mirrors, "example.org", "a/b.git"));
    assert_null(mirrors_get(f->mirrors, "example.org", ".git"));
    memset(name, 'x', sizeof(name));
    name[241] = '\0';
    assert_null(mirrors_get(f->mirrors, "example.org", name));
    name[240] = '\0';
    m = mirrors_get(f->mirrors, "example.org", name);
    assert_non_null(m);
    mirror_unref(&m);
    assert_null(m);
    mirror_unref(&m);
}

static void one_name_is_one_mirror(void **state)
{
    struct fixture *f = *state;
    struct mirror *same = mirrors_get(f->mirrors, "example.org", "group/repo");
    struct mirror *other = mirrors_get(f->mirrors, "example.com", "group/repo");
    struct mirror *below = mirrors_get(f->mirrors, "example.org", "group/repo/below");

    assert_ptr_equal(same, f->mirror);
    assert_ptr_not_equal(other, f->mirror);
    make_whole(f);
    assert_false(mirror_ready(other));
    assert_false(mirror_ready(below));
    mirror_unref(&same);
    mirror_unref(&other);
    mirror_unref(&below);
}

struct writer {
    struct mirrors *mirrors;
    pthread_barrier_t *barrier;
    atomic_int *inside;
    bool wrong;
};

static void *write_often(void *ctx)
{
    struct writer *w = ctx;

    pthread_barrier_wait(w->barrier);
    for (int i = 0; i < 200; i++) {
        struct mirror *m = mirrors_get(w->mirrors, "example.org", "made/up");

        if (i % 3 == 0)
            mirror_write_begin(m);
        else if (!mirror_write_try(m, i % 3 == 1 ? 0 : 10000)) {
            mirror_unref(&m);
            continue;
        }
        w->wrong |= atomic_fetch_add(w->inside, 1) != 0;
        atomic_fetch_sub(w->inside, 1);
        mirror_write_end(m);
        mirror_unref(&m);
    }
    return NULL;
}

static void there_is_one_writer_at_a_time(void **state)
{
    enum { WRITERS = 8 };
    struct fixture *f = *state;
    struct writer writers[WRITERS];
    pthread_barrier_t barrier;
    atomic_int inside = 0;

    pthread_barrier_init(&barrier, NULL, WRITERS);
    for (size_t i = 0; i < WRITERS; i++)
        writers[i] = (struct writer){f->mirrors, &barrier, &inside, false};
    run_together(WRITERS, write_often, writers, sizeof(writers[0]));
    for (size_t i = 0; i < WRITERS; i++)
        assert_false(writers[i].wrong);
    pthread_barrier_destroy(&barrier);
    mirror_write_begin(f->mirror);
    assert_false(mirror_write_try(f->mirror, 0));
    mirror_write_end(f->mirror);
    assert_true(mirror_write_try(f->mirror, 0));
    mirror_write_end(f->mirror);
}

struct asker {
    struct mirror *mirror;
    pthread_barrier_t *barrier;
    const struct oid_list *oids;
    bool ready, has;
};

static void *ask_at_once(void *ctx)
{
    struct asker *a = ctx;

    pthread_barrier_wait(a->barrier);
    a->ready = mirror_ready(a->mirror);
    a->has = mirror_has_all(a->mirror, a->oids) && mirror_reaches_all(a->mirror, a->oids, a->oids);
    return NULL;
}

static uint64_t bytes_read(void)
{
    FILE *io = fopen("/proc/self/io", "re");
    unsigned long long n = 0;

    if (io != NULL && fscanf(io, "rchar: %llu", &n) != 1)
        n = 0;
    if (io != NULL)
        fclose(io);
    return n;
}

static void many_who_ask_at_once_after_a_restart_read_it_once(void **state)
{
    enum { ASKERS = 16 };
    struct fixture *f = *state;
    struct asker askers[ASKERS];
    struct oid_list oids = list_of("main");
    pthread_barrier_t barrier;
    uint64_t before;
    char *pack;

    make_whole(f);
    restart(f);
    pack = pack_file(f, ".pack");
    before = bytes_read();
    pthread_barrier_init(&barrier, NULL, ASKERS);
    for (size_t i = 0; i < ASKERS; i++)
        askers[i] = (struct asker){.mirror = f->mirror, .barrier = &barrier, .oids = &oids};
    run_together(ASKERS, ask_at_once, askers, sizeof(askers[0]));
    for (size_t i = 0; i < ASKERS; i++)
        assert_true(askers[i].ready && askers[i].has);
    if (before > 0)
        assert_true(bytes_read() - before < 3 * size_of(pack));
    pthread_barrier_destroy(&barrier);
    oid_list_clear(&oids);
    free(pack);
}

static void *make_it_meanwhile(void *ctx)
{
    struct fixture *f = ctx;

    fill(f, "main\n", false, "main");
    return NULL;
}

static void who_asks_while_it_is_made_sees_none_or_a_whole_one(void **state)
{
    struct fixture *f = *state;
    struct mirror *beside = mirrors_get(f->mirrors, "example.org", "group/other");
    struct oid_list oids = list_of("main");
    pthread_t maker;

    make_whole(f); /* one that must not come to harm */
    mirror_unref(&f->mirror);
    f->mirror = beside;
    assert_int_equal(pthread_create(&maker, NULL, make_it_meanwhile, f), 0);
    while (!mirror_ready(beside))
        ;
    assert_true(mirror_has_all(beside, &oids));
    pthread_join(maker, NULL);
    assert_int_equal(mirrors_damaged(f->mirrors), 0);
    assert_true(exists(f->path));
    oid_list_clear(&oids);
}

static void many_who_find_damage_at_once_drop_it_once(void **state)
{
    enum { ASKERS = 16 };
    struct fixture *f = *state;
    struct asker askers[ASKERS];
    struct oid_list oids = list_of("main");
    pthread_barrier_t barrier;

    make_whole(f);
    flip_pack(f);
    pthread_barrier_init(&barrier, NULL, ASKERS);
    for (size_t i = 0; i < ASKERS; i++)
        askers[i] = (struct asker){.mirror = f->mirror, .barrier = &barrier, .oids = &oids};
    run_together(ASKERS, ask_at_once, askers, sizeof(askers[0]));
    for (size_t i = 0; i < ASKERS; i++)
        assert_false(askers[i].ready);
    assert_int_equal(mirrors_damaged(f->mirrors), 1);
    pthread_barrier_destroy(&barrier);
    oid_list_clear(&oids);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_in_a_mirror_that_is_not_there),
        TEST(a_pack_that_is_closed_makes_a_mirror),
        TEST(a_pack_with_holes_makes_none),
        TEST(a_pack_that_lacks_a_tip_makes_none),
        TEST(nonsense_makes_none),
        TEST(an_intake_that_is_given_up_leaves_nothing),
        TEST(a_thin_pack_brings_a_mirror_forward),
        TEST(blobs_and_trees_are_no_tips),
        TEST(what_a_crash_left_does_not_stop_the_next_intake),
        TEST(ancestors_are_reached_and_nothing_else),
        TEST(all_must_be_reached_and_tips_may_be_unknown),
        TEST(a_mirror_hands_out_what_was_asked_for),
        TEST(only_the_tags_that_are_shown_are_included),
        TEST(tags_that_are_missing_are_told_where_their_targets_are_here),
        TEST(who_wants_no_more_ends_the_program),
        TEST(a_question_that_git_refuses_says_nothing_about_the_mirror),
        cmocka_unit_test(damage_under_us_is_found_dropped_and_mended),
        cmocka_unit_test(damage_while_we_were_away_is_found_dropped_and_mended),
        TEST(a_want_of_descriptors_costs_no_mirror),
        TEST(git_s_want_of_descriptors_is_not_its_failure),
        TEST(what_can_not_be_looked_for_does_not_count_as_lacking),
        TEST(a_want_of_descriptors_is_no_damage_to_who_reads_all_of_it),
        TEST(unsuited_names_have_no_mirror),
        TEST(one_name_is_one_mirror),
        TEST(there_is_one_writer_at_a_time),
        TEST(many_who_ask_at_once_after_a_restart_read_it_once),
        TEST(who_asks_while_it_is_made_sees_none_or_a_whole_one),
        TEST(many_who_find_damage_at_once_drop_it_once),
    };

    return cmocka_run_group_tests(tests, make_upstream, remove_upstream);
}
