/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>

#include "cache/local/local.h"
#include "cache/lock.h"
#include "scratch.h"

/* A tier whose entries are plain files below answers/, named by a number. */
enum { ENTRY_BYTES = 64 * 1024, ROOM = 10 };

/* Those with even numbers are of one repository, those with odd numbers of another. */
static const char EVEN_ID[] = "e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0";
static const char ODD_ID[] = "0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d";

struct fixture {
    struct scratch scratch;
    struct folder *folder;
    struct local *local;
    struct local_limits limits;
    unsigned in_use; /* bits: entries that can't be removed without force */
    unsigned rotten; /* bits: entries that are nothing that can be used */
    unsigned damaged;
    atomic_uint publishing; /* threads that still do */
    bool over_limit;
    bool republish; /* the next one that is removed comes back at once */
};

static char *name_of(unsigned number)
{
    return xasprintf("answers/00/%u", number);
}

static void describe_number(unsigned number, struct entry *e)
{
    *e = (struct entry){
        .kind = ENTRY_ANSWER,
        .repo_id = xstrdup(number % 2 == 0 ? EVEN_ID : ODD_ID),
        .repo = xstrdup("example.org/r"),
        .url = xstrdup("https://example.org/r"),
        .path = name_of(number),
        .size = ENTRY_BYTES,
        .created = 1000 + number,
    };
}

static char *path_of(const struct fixture *f, unsigned number)
{
    return folder_pathf(f->folder, "answers/00/%u", number);
}

/* As a producer does: room first, then the file, then the entry. */
static bool keep(struct fixture *f, unsigned number, uint64_t bytes)
{
    struct claim *claim = local_claim_new(f->local);
    char *path = path_of(f, number), *data = pattern(number, bytes);
    struct entry e;
    struct err err;
    bool kept;

    describe_number(number, &e);
    local_claim_for(claim, e.path);
    kept = local_claim_grow(claim, bytes, &err) == 0;
    if (kept) {
        put_file(path, data, bytes);
        e.stored_size = disk_usage(path);
        local_publish(f->local, &e, &claim);
    } else {
        assert_int_equal(err.kind, ERR_LIMIT);
        local_claim_free(&claim);
    }
    assert_null(claim);
    entry_clear(&e);
    free(data);
    free(path);
    return kept;
}

static bool kept(struct fixture *f, unsigned number)
{
    char *path = path_of(f, number);
    bool there = exists(path);

    free(path);
    return there;
}

static bool remove_file(void *ctx, const char *name, bool force)
{
    struct fixture *f = ctx;
    unsigned number = (unsigned)strtoul(strrchr(name, '/') + 1, NULL, 10);
    char *path = folder_pathf(f->folder, "%s", name);
    bool removed = force || (f->in_use & (1u << number)) == 0;

    if (removed)
        unlink(path);
    free(path);
    if (f->republish) {
        f->republish = false;
        assert_true(keep(f, number, ENTRY_BYTES));
    }
    return removed;
}

static int describe_file(void *ctx, const char *name, struct entry *out, struct err *err)
{
    struct fixture *f = ctx;
    const char *base = strrchr(name, '/') + 1;
    unsigned number = (unsigned)strtoul(base, NULL, 10);
    char *path;

    if (strspn(base, "0123456789") != strlen(base))
        return err_set(err, ERR_CORRUPT, "no number");
    if ((f->rotten & (1u << number)) != 0)
        return err_set(err, ERR_CORRUPT, "rotten");
    describe_number(number, out);
    path = folder_pathf(f->folder, "%s", name);
    out->stored_size = disk_usage(path);
    free(path);
    return 0;
}

static void on_damage(void *ctx, const char *what, const struct err *why)
{
    struct fixture *f = ctx;

    (void)what;
    assert_int_equal(why->kind, ERR_CORRUPT);
    f->damaged++;
}

static void open_tier(struct fixture *f)
{
    const struct folder_listener listener = {.damage = on_damage, .ctx = f};
    const struct local_owner owner = {remove_file, describe_file, f};
    struct err err;

    assert_int_equal(folder_open(f->scratch.dir, &listener, &f->folder, &err), 0);
    f->local = local_open(f->folder, &f->limits);
    local_set_owner(f->local, ENTRY_ANSWER, &owner);
    local_set_owner(f->local, ENTRY_MIRROR, &owner);
}

static void close_tier(struct fixture *f)
{
    local_close(&f->local);
    folder_close(&f->folder);
}

static struct local_usage usage(struct fixture *f)
{
    struct local_usage u;

    local_usage(f->local, &u);
    return u;
}

/* Room for so many entries and not one more, whatever folders and index take. */
static void limit_to(struct fixture *f, unsigned entries)
{
    struct local_usage u = usage(f);

    f->limits.size = (struct share){.bytes = u.frame + entries * ENTRY_BYTES + ENTRY_BYTES / 2};
    local_configure(f->local, &f->limits);
}

static int set_up(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));
    struct err err;
    char *folder;

    scratch_init(&f->scratch);
    f->limits = (struct local_limits){.size = {.percent = 100}, .policy = POLICY_LRU};
    open_tier(f);
    folder = folder_pathf(f->folder, "answers/00");
    assert_int_equal(make_folders(folder, &err), 0);
    free(folder);
    local_tick(f->local, 1000);
    limit_to(f, ROOM);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    close_tier(f);
    scratch_clear(&f->scratch);
    free(f);
    return 0;
}

static void fill(struct fixture *f, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++)
        assert_true(keep(f, i, ENTRY_BYTES));
}

/* ---- room ---- */

static void room_is_made_before_it_is_given(void **state)
{
    struct fixture *f = *state;

    fill(f, 0, ROOM);
    assert_int_equal(usage(f).evicted, 0);
    fill(f, ROOM, ROOM + 3);
    for (unsigned i = 0; i < ROOM + 3; i++)
        assert_int_equal(kept(f, i), i >= 3);
    assert_int_equal(usage(f).evicted, 3);
    assert_true(usage(f).total <= usage(f).limit);
}

static void hear_gone(void *ctx, enum entry_kind kind, const char *path)
{
    char *heard = ctx;

    assert_int_equal(kind, ENTRY_ANSWER);
    strcat(strcat(heard, path), " ");
}

static void who_listens_is_told_of_what_goes_however_it_does(void **state)
{
    struct fixture *f = *state;
    char heard[256] = "";
    struct err err;

    local_set_gone_listener(f->local, hear_gone, heard);
    fill(f, 0, ROOM);
    assert_string_equal(heard, "");
    fill(f, ROOM, ROOM + 1); /* evicts the first */
    assert_int_equal(local_remove(f->local, "answers/00/1", &err), 0);
    local_forget(f->local, "answers/00/2");
    local_forget(f->local, "answers/00/2");
    assert_string_equal(heard, "answers/00/0 answers/00/1 answers/00/2 ");
    local_set_gone_listener(f->local, NULL, NULL);
    assert_int_equal(local_remove(f->local, "answers/00/3", &err), 0);
}

static void what_is_claimed_counts_until_it_is_given_up(void **state)
{
    struct fixture *f = *state;
    struct claim *claim = local_claim_new(f->local);
    struct err err;

    fill(f, 0, ROOM);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(local_claim_grow(claim, ENTRY_BYTES, &err), 0);
    assert_int_equal(usage(f).filling, 4 * ENTRY_BYTES);
    assert_int_equal(usage(f).entries[ENTRY_ANSWER], ROOM - 4);
    local_claim_set(claim, ENTRY_BYTES);
    assert_int_equal(usage(f).filling, ENTRY_BYTES);
    local_claim_free(&claim);
    assert_int_equal(usage(f).filling, 0);
    fill(f, 20, 24);
    assert_int_equal(usage(f).entries[ENTRY_ANSWER], ROOM);
}

static void what_is_in_use_stays_and_others_go(void **state)
{
    struct fixture *f = *state;

    fill(f, 0, ROOM);
    f->in_use = 1u << 0 | 1u << 1;
    fill(f, ROOM, ROOM + 2);
    assert_true(kept(f, 0) && kept(f, 1));
    assert_false(kept(f, 2) || kept(f, 3));
    f->in_use = (1u << (ROOM + 2)) - 1;
    assert_false(keep(f, 30, ENTRY_BYTES));
    assert_int_equal(usage(f).entries[ENTRY_ANSWER], ROOM);
    f->in_use = 0;
    assert_true(keep(f, 30, ENTRY_BYTES));
}

static void an_entry_larger_than_the_tier_is_refused_and_empties_it_only_once(void **state)
{
    struct fixture *f = *state;

    fill(f, 0, ROOM);
    assert_false(keep(f, 99, (ROOM + 2) * ENTRY_BYTES));
    assert_int_equal(usage(f).entries[ENTRY_ANSWER], ROOM); /* it was clear from the start */
    for (unsigned round = 0; round < 2; round++) {
        struct claim *claim = local_claim_new(f->local);
        unsigned grown = 0;
        struct err err;

        local_claim_for(claim, "answers/00/98");
        while (local_claim_grow(claim, ENTRY_BYTES, &err) == 0)
            grown++;
        assert_int_equal(err.kind, ERR_LIMIT);
        assert_int_equal(grown, round == 0 ? ROOM : 0);
        local_claim_free(&claim);
        if (round == 0)
            fill(f, 0, ROOM);
    }
    assert_int_equal(usage(f).entries[ENTRY_ANSWER], ROOM);
}

static void the_file_system_keeps_its_free_share(void **state)
{
    struct fixture *f = *state;

    assert_true(keep(f, 0, ENTRY_BYTES));
    f->limits.min_free.percent = 100; /* more than is free on any that is in use */
    local_configure(f->local, &f->limits);
    assert_false(keep(f, 1, ENTRY_BYTES));
    local_tick(f->local, 2000);
    assert_false(kept(f, 0));
    f->limits.min_free = (struct share){0};
    local_configure(f->local, &f->limits);
    assert_true(keep(f, 1, ENTRY_BYTES));
}

static void a_smaller_limit_is_kept_at_the_next_tick(void **state)
{
    struct fixture *f = *state;

    fill(f, 0, ROOM);
    limit_to(f, 4);
    local_tick(f->local, 2000);
    assert_true(usage(f).total <= usage(f).limit);
    assert_in_range(usage(f).entries[ENTRY_ANSWER], 3, 4);
    assert_true(kept(f, ROOM - 1));
}

static void what_nobody_asked_for_during_its_ttl_goes(void **state)
{
    struct fixture *f = *state;

    fill(f, 0, 3);                         /* created at 1000 and on */
    local_touch(f->local, "answers/00/1"); /* now, which is later */
    f->limits.ttl_s[ENTRY_ANSWER] = 500;
    local_configure(f->local, &f->limits);
    local_tick(f->local, 100 * 1000);
    assert_false(kept(f, 0) || kept(f, 2));
    assert_true(kept(f, 1));
}

static void an_entry_that_comes_back_while_it_is_removed_is_known(void **state)
{
    struct fixture *f = *state;
    struct err err;

    fill(f, 0, ROOM - 1);
    f->republish = true;
    assert_int_equal(local_remove(f->local, "answers/00/0", &err), 0);
    assert_true(kept(f, 0));
    assert_int_equal(usage(f).entries[ENTRY_ANSWER], ROOM - 1);
    fill(f, ROOM, 2 * ROOM);
    assert_false(kept(f, 0));
    assert_int_equal(usage(f).entries[ENTRY_ANSWER], ROOM);
}

static void forcing_removes_what_is_in_use(void **state)
{
    struct fixture *f = *state;
    struct err err;

    fill(f, 0, 2);
    f->in_use = ~0u;
    assert_int_equal(local_remove(f->local, "answers/00/1", &err), 0);
    assert_false(kept(f, 1));
    assert_int_equal(usage(f).entries[ENTRY_ANSWER], 1);
    assert_int_equal(local_remove(f->local, "answers/00/1", &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
}

static void what_is_in_use_or_was_just_now_is_not_removed_without_force(void **state)
{
    struct fixture *f = *state;
    struct err err;

    fill(f, 0, 3); /* created, and so last accessed, at 1000, 1001 and 1002 */
    f->in_use = 1u << 0;
    assert_int_equal(local_remove_unused(f->local, "answers/00/0", 2000, &err), -1);
    assert_int_equal(err.kind, ERR_BUSY);
    assert_int_equal(local_remove_unused(f->local, "answers/00/2", 1001, &err), -1);
    assert_int_equal(err.kind, ERR_BUSY);
    assert_int_equal(local_remove_unused(f->local, "answers/00/7", 2000, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    assert_int_equal(usage(f).entries[ENTRY_ANSWER], 3);
    assert_true(kept(f, 0) && kept(f, 1) && kept(f, 2));
    assert_int_equal(local_remove_unused(f->local, "answers/00/1", 1001, &err), 0);
    assert_false(kept(f, 1));
    f->in_use = 0;
    assert_int_equal(local_remove_unused(f->local, "answers/00/0", 2000, &err), 0);
    assert_int_equal(usage(f).entries[ENTRY_ANSWER], 1);
    assert_int_equal(usage(f).evicted, 0);
    local_touch(f->local, "answers/00/2"); /* now, by the clock */
    assert_int_equal(local_remove_unused(f->local, "answers/00/2", 2000, &err), -1);
    assert_int_equal(err.kind, ERR_BUSY);
    assert_true(kept(f, 2));
}

static void the_total_is_what_du_says(void **state)
{
    struct fixture *f = *state;
    uint64_t found, said;

    fill(f, 0, ROOM + 4);
    local_tick(f->local, 2000); /* measures the folders and the index */
    local_tick(f->local, 2001);
    found = disk_usage(f->scratch.dir);
    said = usage(f).total;
    assert_in_range(said, found - found / 100, found + found / 100);
}

/* ---- what stays ---- */

static void fill_and_pin_even(struct fixture *f, unsigned to, int64_t at_s)
{
    struct err err;

    fill(f, 0, to);
    assert_int_equal(local_pin(f->local, EVEN_ID, at_s, &err), 0);
}

static void what_is_pinned_stays_whatever_room_is_needed(void **state)
{
    struct fixture *f = *state;
    struct err err;

    fill_and_pin_even(f, ROOM, 2000);
    assert_int_equal(usage(f).pinned, ROOM / 2);
    for (unsigned i = 11; i < 31; i += 2)
        assert_true(keep(f, i, ENTRY_BYTES));
    for (unsigned i = 0; i < ROOM; i++)
        assert_int_equal(kept(f, i), i % 2 == 0);
    local_evict(f->local, 3000, 0);
    assert_int_equal(usage(f).entries[ENTRY_ANSWER], ROOM / 2);
    assert_int_equal(local_remove_unused(f->local, "answers/00/2", INT64_MAX, &err), -1);
    assert_int_equal(err.kind, ERR_BUSY);
    assert_true(usage(f).total <= usage(f).limit);
}

static void what_is_pinned_gets_not_too_old(void **state)
{
    struct fixture *f = *state;

    fill_and_pin_even(f, 4, 2000);
    f->limits.ttl_s[ENTRY_ANSWER] = 500;
    local_configure(f->local, &f->limits);
    local_tick(f->local, 100 * 1000);
    assert_true(kept(f, 0) && kept(f, 2));
    assert_false(kept(f, 1) || kept(f, 3));
}

static void what_is_made_after_the_pin_comes_and_goes(void **state)
{
    struct fixture *f = *state;
    struct err err;

    fill_and_pin_even(f, 4, 1002); /* they were made at 1000 and on */
    fill(f, 4, 6);
    local_evict(f->local, 3000, 0);
    assert_true(kept(f, 0) && kept(f, 2));
    assert_false(kept(f, 4) || kept(f, 5));
    fill(f, 4, 5);
    assert_int_equal(local_pin(f->local, EVEN_ID, 2000, &err), 0);
    local_evict(f->local, 3000, 0);
    assert_true(kept(f, 4));
}

static void a_pin_survives_a_restart_and_a_lost_index(void **state)
{
    struct fixture *f = *state;
    int64_t since;

    fill_and_pin_even(f, 4, 2000);
    for (unsigned round = 0; round < 2; round++) {
        atomic_bool stop = false;
        char *path = folder_pathf(f->folder, "index.db");

        close_tier(f);
        if (round == 1)
            assert_int_equal(unlink(path), 0);
        free(path);
        open_tier(f);
        local_scan(f->local, &stop);
        assert_true(local_is_pinned(f->local, EVEN_ID, &since));
        assert_int_equal(since, 2000);
        assert_false(local_is_pinned(f->local, ODD_ID, &since));
        assert_int_equal(usage(f).pinned, 2);
    }
    local_evict(f->local, 3000, 0);
    assert_true(kept(f, 0) && kept(f, 2));
    assert_false(kept(f, 1) || kept(f, 3));
}

static void what_is_unpinned_goes_as_others_do(void **state)
{
    struct fixture *f = *state;
    struct err err;

    fill_and_pin_even(f, 4, 2000);
    local_touch(f->local, "answers/00/0");
    assert_int_equal(local_unpin(f->local, EVEN_ID, &err), 0);
    assert_int_equal(usage(f).pinned, 0);
    assert_int_equal(local_unpin(f->local, EVEN_ID, &err), -1);
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    close_tier(f);
    open_tier(f);
    assert_int_equal(usage(f).pinned, 0);
    local_evict(f->local, 3000, 0);
    assert_int_equal(usage(f).entries[ENTRY_ANSWER], 0);
}

static void what_is_pinned_is_removed_by_hand_and_pinned_again_when_it_comes_back(void **state)
{
    struct fixture *f = *state;
    struct err err;

    fill_and_pin_even(f, 4, 2000);
    assert_int_equal(local_remove(f->local, "answers/00/2", &err), 0);
    assert_int_equal(usage(f).pinned, 1);
    local_forget(f->local, "answers/00/0");
    assert_int_equal(usage(f).pinned, 0);
    fill(f, 2, 3);
    assert_int_equal(usage(f).pinned, 1);
    f->limits.policy = POLICY_SIZE; /* another policy gets what the first one had, and no more */
    local_configure(f->local, &f->limits);
    local_evict(f->local, 3000, 0);
    assert_true(kept(f, 2));
}

/* ---- a look ahead ---- */

struct foreseen {
    char *paths[32];
    size_t count;
};

static void foresee(void *ctx, const struct entry *e, const char *why)
{
    struct foreseen *seen = ctx;

    assert_non_null(why);
    assert_string_equal(e->repo, "example.org/r");
    seen->paths[seen->count++] = xstrdup(e->path);
}

static void a_preview_says_what_goes_and_removes_nothing(void **state)
{
    struct fixture *f = *state;
    struct foreseen seen = {0};
    uint64_t goal;

    fill(f, 0, ROOM);
    goal = usage(f).total - 3 * ENTRY_BYTES;
    local_preview(f->local, 2000, goal, foresee, &seen);
    assert_int_equal(seen.count, 3);
    assert_int_equal(usage(f).entries[ENTRY_ANSWER], ROOM);
    local_evict(f->local, 2000, goal);
    for (unsigned i = 0; i < ROOM; i++) {
        char *name = name_of(i);
        bool said = false;

        for (size_t s = 0; s < seen.count; s++)
            said = said || strcmp(seen.paths[s], name) == 0;
        assert_int_equal(kept(f, i), !said);
        free(name);
    }
    for (size_t s = 0; s < seen.count; s++)
        free(seen.paths[s]);
}

/* ---- the index and the files ---- */

struct listing {
    unsigned count;
    uint64_t accesses;
    uint64_t bytes;
};

static int list_one(void *ctx, const struct entry *e)
{
    struct listing *all = ctx;

    all->count++;
    all->accesses += e->accesses;
    all->bytes += e->stored_size;
    assert_int_equal(e->size, ENTRY_BYTES);
    return 0;
}

static struct listing list(struct fixture *f)
{
    struct listing all = {0};
    struct err err;

    assert_int_equal(local_each(f->local, list_one, &all, &err), 0);
    return all;
}

static void scan(struct fixture *f)
{
    atomic_bool stop = false;

    local_scan(f->local, &stop);
    assert_true(local_scanned(f->local));
}

static void entries_and_their_accesses_survive_a_restart(void **state)
{
    struct fixture *f = *state;

    fill(f, 0, 4);
    local_touch(f->local, "answers/00/2");
    local_touch(f->local, "answers/00/2");
    local_touch(f->local, "answers/00/3");
    close_tier(f);
    open_tier(f);
    assert_int_equal(usage(f).entries[ENTRY_ANSWER], 4);
    assert_int_equal(list(f).accesses, 3);
    assert_int_equal(list(f).bytes, usage(f).bytes[ENTRY_ANSWER]);
}

static void lose_index(struct fixture *f, const char *how)
{
    static const char *const suffixes[] = {"", "-wal", "-shm"};

    for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
        char *path = xasprintf("%s/index.db%s", f->scratch.dir, suffixes[i]);

        unlink(path);
        if (i == 0 && how != NULL)
            put_file(path, how, strlen(how));
        free(path);
    }
}

static void put_file_below(const char *folder, const char *name)
{
    char *path = xasprintf("%s/%s", folder, name);

    put_file(path, name, strlen(name));
    free(path);
}

static void a_lost_or_damaged_index_is_made_from_the_files(void **state)
{
    struct fixture *f = *state;
    const char *const ways[] = {NULL, "", "this is no database"};

    fill(f, 0, 5);
    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        close_tier(f);
        lose_index(f, ways[i]);
        open_tier(f);
        assert_int_equal(usage(f).entries[ENTRY_ANSWER], 0);
        scan(f);
        assert_int_equal(usage(f).entries[ENTRY_ANSWER], 5);
        assert_int_equal(list(f).count, 5);
    }
}

static void a_scan_finds_what_came_and_forgets_what_went(void **state)
{
    struct fixture *f = *state;
    char *path;

    fill(f, 0, 4);
    path = path_of(f, 1);
    unlink(path);
    free(path);
    path = path_of(f, 7);
    put_file(path, "seven", 5);
    free(path);
    path = folder_pathf(f->folder, "answers/00/rubbish");
    put_file(path, "?", 1);
    scan(f);
    assert_int_equal(usage(f).entries[ENTRY_ANSWER], 4);
    assert_int_equal(list(f).count, 4);
    assert_int_equal(f->damaged, 1);
    free(path);
}

static void an_index_damaged_under_us_is_made_anew(void **state)
{
    struct fixture *f = *state;
    char *path = folder_pathf(f->folder, "index.db"), *nonsense = pattern(3, 64 * 1024);

    fill(f, 0, 4);
    local_tick(f->local, 2000);
    lose_index(f, NULL);
    put_file(path, nonsense, 64 * 1024);
    fill(f, 4, 6);
    for (unsigned i = 0; i < 3 && !local_scanned(f->local); i++) {
        atomic_bool stop = false;

        local_tick(f->local, 2001 + i);
        local_scan(f->local, &stop);
    }
    close_tier(f);
    open_tier(f);
    scan(f);
    assert_int_equal(list(f).count, 6);
    free(nonsense);
    free(path);
}

static void what_a_scan_finds_damaged_is_counted_no_more(void **state)
{
    struct fixture *f = *state;
    char *path = folder_pathf(f->folder, "index.db"), *nonsense = pattern(3, 64 * 1024);

    fill(f, 0, 4);
    local_tick(f->local, 2000);
    lose_index(f, NULL);
    put_file(path, nonsense, 64 * 1024); /* so that it looks at what is known, too */
    fill(f, 4, 6);
    f->rotten = 1u << 2;
    for (unsigned i = 0; i < 3 && !local_scanned(f->local); i++) {
        atomic_bool stop = false;

        local_tick(f->local, 2001 + i);
        local_scan(f->local, &stop);
    }
    assert_false(kept(f, 2));
    assert_int_equal(usage(f).entries[ENTRY_ANSWER], 5);
    assert_int_equal(list(f).count, 5);
    free(nonsense);
    free(path);
}

static void without_an_index_entries_are_kept_and_found_by_a_scan(void **state)
{
    struct fixture *f = *state;
    char *path = folder_pathf(f->folder, "index.db");
    atomic_bool stop = false;
    struct err err;

    fill(f, 0, 3);
    close_tier(f);
    lose_index(f, NULL);
    assert_int_equal(mkdir(path, 0700), 0); /* nothing that SQLite could open */
    put_file_below(path, "in the way");
    open_tier(f);
    assert_true(keep(f, 3, ENTRY_BYTES));
    local_scan(f->local, &stop);
    assert_false(local_scanned(f->local));
    assert_int_equal(usage(f).entries[ENTRY_ANSWER], 4);
    local_tick(f->local, 2000);
    assert_int_equal(local_remove(f->local, "answers/00/0", &err), 0);
    assert_int_equal(usage(f).entries[ENTRY_ANSWER], 3);
    remove_tree(path);
    local_tick(f->local, 2001);
    local_scan(f->local, &stop); /* the index is made */
    scan(f);
    assert_int_equal(list(f).count, 3);
    free(path);
}

/* ---- many at once ---- */

enum { THREADS = 6, ROUNDS = 60 };

struct worker {
    struct fixture *f;
    pthread_barrier_t *start;
    unsigned number;
};

static void *work(void *ctx)
{
    struct worker *w = ctx;
    unsigned seed = w->number;

    pthread_barrier_wait(w->start);
    for (unsigned i = 0; i < ROUNDS; i++) {
        unsigned number = (unsigned)rand_r(&seed) % 31;
        char *name = name_of(number);
        struct err err;

        switch (rand_r(&seed) % 6) {
        case 0: local_touch(w->f->local, name); break;
        case 1: local_remove(w->f->local, name, &err); break;
        case 2: local_tick(w->f->local, 2000 + i); break;
        default: keep(w->f, number, ENTRY_BYTES);
        }
        free(name);
    }
    return NULL;
}

static void many_at_once_keep_the_sums_right(void **state)
{
    struct fixture *f = *state;
    struct worker workers[THREADS];
    pthread_barrier_t start;
    struct listing all;

    pthread_barrier_init(&start, NULL, THREADS);
    for (unsigned i = 0; i < THREADS; i++)
        workers[i] = (struct worker){f, &start, i};
    run_together(THREADS, work, workers, sizeof(workers[0]));
    pthread_barrier_destroy(&start);
    scan(f); /* a file may have gone with a removal that came late */
    all = list(f);
    assert_int_equal(all.count, usage(f).entries[ENTRY_ANSWER]);
    assert_int_equal(all.bytes, usage(f).bytes[ENTRY_ANSWER]);
    assert_int_equal(usage(f).filling, 0);
    local_tick(f->local, 5000);
    assert_true(usage(f).total <= usage(f).limit);
}

static void *publish_many(void *ctx)
{
    struct worker *w = ctx;

    pthread_barrier_wait(w->start);
    for (unsigned i = 0; i < 10 * ROUNDS; i++)
        keep(w->f, w->number + THREADS * (i % 5), ENTRY_BYTES);
    atomic_fetch_sub(&w->f->publishing, 1);
    return NULL;
}

static void *watch_total(void *ctx)
{
    struct worker *w = ctx;

    pthread_barrier_wait(w->start);
    while (w->f->publishing > 0) {
        struct local_usage u = usage(w->f);

        w->f->over_limit |= u.total > u.limit;
    }
    return NULL;
}

static void *publish_or_watch(void *ctx)
{
    return ((struct worker *)ctx)->number == 0 ? watch_total(ctx) : publish_many(ctx);
}

/* Or others would be evicted for room that nobody needs. */
static void what_is_published_is_not_counted_twice(void **state)
{
    struct fixture *f = *state;
    struct worker workers[THREADS];
    pthread_barrier_t start;

    pthread_barrier_init(&start, NULL, THREADS);
    f->publishing = THREADS - 1;
    for (unsigned i = 0; i < THREADS; i++)
        workers[i] = (struct worker){f, &start, i};
    run_together(THREADS, publish_or_watch, workers, sizeof(workers[0]));
    pthread_barrier_destroy(&start);
    assert_false(f->over_limit);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(room_is_made_before_it_is_given),
        TEST(who_listens_is_told_of_what_goes_however_it_does),
        TEST(what_is_claimed_counts_until_it_is_given_up),
        TEST(what_is_in_use_stays_and_others_go),
        TEST(an_entry_larger_than_the_tier_is_refused_and_empties_it_only_once),
        TEST(the_file_system_keeps_its_free_share),
        TEST(a_smaller_limit_is_kept_at_the_next_tick),
        TEST(what_nobody_asked_for_during_its_ttl_goes),
        TEST(an_entry_that_comes_back_while_it_is_removed_is_known),
        TEST(forcing_removes_what_is_in_use),
        TEST(what_is_in_use_or_was_just_now_is_not_removed_without_force),
        TEST(the_total_is_what_du_says),
        TEST(what_is_pinned_stays_whatever_room_is_needed),
        TEST(what_is_pinned_gets_not_too_old),
        TEST(what_is_made_after_the_pin_comes_and_goes),
        TEST(a_pin_survives_a_restart_and_a_lost_index),
        TEST(what_is_unpinned_goes_as_others_do),
        TEST(what_is_pinned_is_removed_by_hand_and_pinned_again_when_it_comes_back),
        TEST(a_preview_says_what_goes_and_removes_nothing),
        TEST(entries_and_their_accesses_survive_a_restart),
        TEST(a_lost_or_damaged_index_is_made_from_the_files),
        TEST(a_scan_finds_what_came_and_forgets_what_went),
        TEST(an_index_damaged_under_us_is_made_anew),
        TEST(what_a_scan_finds_damaged_is_counted_no_more),
        TEST(without_an_index_entries_are_kept_and_found_by_a_scan),
        TEST(many_at_once_keep_the_sums_right),
        TEST(what_is_published_is_not_counted_twice),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
