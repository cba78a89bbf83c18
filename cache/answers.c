#include "cache/answers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <uthash.h>
#include <utlist.h>

#include "cache/answer_file.h"
#include "cache/lock.h"
#include "protocol/base.h"

/* What is known about one key: an answer at hand, a verified file, or both. */
struct slot {
    struct key key;
    struct answer *answer; /* our reference; NULL when only the file is known */
    bool published;        /* its file has its final name, and identity is true */
    unsigned joined;       /* while it is filled: followers, who count as accesses */
    bool apart;            /* its answer is read from another file than the one that is kept */
    struct file_identity identity; /* of the file that is kept */
    struct slot *prev, *next;      /* least recently used first */
    UT_hash_handle hh;
};

/* Somebody in answers_keep(), from the moment at which he may publish until it is an entry. */
struct publishing {
    uint64_t round; /* in which he began */
    struct publishing *prev, *next;
};

struct answers {
    struct folder *folder;
    struct local *local;
    enum compression compression;
    struct lock lock;
    struct slot *by_key;
    struct slot *idle_order;
    size_t slot_count, open_count, apart_count;
    struct publishing *publishing;
    uint64_t round; /* ends when all that is being filled is let go of */
    pthread_cond_t published;
    atomic_uint_fast64_t damaged, kept;
    atomic_bool stop;
};

static char *name_of(const struct key *key)
{
    char hex[KEY_HEX_SIZE];

    key_to_hex(key, hex);
    return xasprintf("answers/%.2s/%s", hex, hex);
}

static char *path_of(struct answers *all, const struct key *key)
{
    char *name = name_of(key);
    char *path = folder_pathf(all->folder, "%s", name);

    free(name);
    return path;
}

static struct slot *find_locked(struct answers *all, const struct key *key)
{
    struct slot *s;

    HASH_FIND(hh, all->by_key, key, sizeof(*key), s);
    return s;
}

static void touch_locked(struct answers *all, struct slot *s)
{
    DL_DELETE(all->idle_order, s);
    DL_APPEND(all->idle_order, s);
}

static struct slot *add_locked(struct answers *all, const struct key *key)
{
    struct slot *s = xcalloc(1, sizeof(*s));

    s->key = *key;
    HASH_ADD(hh, all->by_key, key, sizeof(s->key), s);
    DL_APPEND(all->idle_order, s);
    all->slot_count++;
    return s;
}

static void set_answer_locked(struct answers *all, struct slot *s, struct answer *a)
{
    all->open_count += (a != NULL) - (s->answer != NULL);
    all->apart_count -= s->apart;
    s->answer = a;
    s->published = s->apart = false;
}

static void remove_locked(struct answers *all, struct slot *s)
{
    must(s->answer == NULL);
    HASH_DEL(all->by_key, s);
    DL_DELETE(all->idle_order, s);
    all->slot_count--;
    free(s);
}

/* Does it help to close s, or to forget it? */
static bool is_surplus_locked(struct answers *all, const struct slot *s)
{
    if (s->answer != NULL && !s->published) /* being filled */
        return false;
    return all->slot_count > ANSWERS_VERIFIED_MAX ||
           (s->answer != NULL && all->open_count > ANSWERS_IDLE_OPEN_MAX) ||
           (s->apart && all->apart_count > ANSWERS_IDLE_APART_MAX);
}

/* Forget the least recently used answers beyond the bounds; what is being filled stays.  Returns
 * one reference to drop outside the lock, so that it is called until it returns NULL. */
static struct answer *trim_one_locked(struct answers *all)
{
    struct slot *s, *next;

    if (all->open_count <= ANSWERS_IDLE_OPEN_MAX && all->slot_count <= ANSWERS_VERIFIED_MAX &&
        all->apart_count <= ANSWERS_IDLE_APART_MAX)
        return NULL;
    DL_FOREACH_SAFE(all->idle_order, s, next)
    {
        struct answer *a = s->answer;

        if (!is_surplus_locked(all, s))
            continue;
        set_answer_locked(all, s, NULL);
        if (all->slot_count > ANSWERS_VERIFIED_MAX)
            remove_locked(all, s);
        if (a != NULL)
            return a;
    }
    return NULL;
}

static void trim(struct answers *all)
{
    for (;;) {
        struct answer *a;

        lock_take(&all->lock);
        a = trim_one_locked(all);
        lock_drop(&all->lock);
        if (a == NULL)
            return;
        answer_unref(&a);
    }
}

/* A published answer whose file was changed or removed under us is not served again. */
static bool still_intact(struct answers *all, const struct key *key, struct answer *a, bool apart,
                         const struct file_identity *expected)
{
    struct file_identity found;
    int fd = answer_fd(a);
    char *path;
    bool intact;

    if (!apart)
        return fd < 0 || (file_identity_of(fd, &found) && file_identity_equal(&found, expected));
    path = path_of(all, key);
    intact = file_identity_at(path, &found) && file_identity_equal(&found, expected);
    free(path);
    return intact;
}

static void drop_slot_answer(struct answers *all, const struct key *key, struct answer *a)
{
    struct slot *s;
    bool dropped = false;

    lock_take(&all->lock);
    s = find_locked(all, key);
    if (s != NULL && s->answer == a) {
        set_answer_locked(all, s, NULL);
        remove_locked(all, s);
        dropped = true;
    }
    lock_drop(&all->lock);
    if (dropped) {
        struct answer *table_ref = a;

        answer_unref(&table_ref);
    }
}

/* ---- for the tier ---- */

static char *absolute(struct answers *all, const char *name)
{
    return folder_pathf(all->folder, "%s", name);
}

static bool key_of_name(const char *name, struct key *out)
{
    const char *slash = strrchr(name, '/');

    return slash != NULL && key_from_hex(slash + 1, out);
}

/* Out of the table, unless it must stay. */
static bool give_up_slot(struct answers *all, const struct key *key, bool force)
{
    struct answer *a = NULL;
    struct slot *s;
    bool gives_up;

    lock_take(&all->lock);
    s = find_locked(all, key);
    gives_up = s == NULL || s->answer == NULL ||
               (s->published && (force || !answer_has_readers(s->answer)));
    if (gives_up && s != NULL) {
        a = s->answer;
        set_answer_locked(all, s, NULL);
        remove_locked(all, s);
    }
    lock_drop(&all->lock);
    answer_unref(&a);
    return gives_up;
}

static bool remove_answer(void *ctx, const char *name, bool force)
{
    struct answers *all = ctx;
    char *path = absolute(all, name);
    struct key key;
    bool removed;

    /* What is no key is nobody's. */
    removed = (!key_of_name(name, &key) || give_up_slot(all, &key, force)) &&
              (unlink(path) == 0 || errno == ENOENT);
    free(path);
    return removed;
}

static int describe_answer(void *ctx, const char *name, struct entry *out, struct err *err)
{
    char *path = absolute(ctx, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc;

    if (fd < 0)
        rc = err_errno(err, ERR_STORAGE, "open %s", name);
    else
        rc = answer_file_describe(fd, out, NULL, err);
    if (rc == 0 && strcmp(out->path, name) != 0) {
        rc = err_set(err, ERR_CORRUPT, "an answer lies under another one's name");
        entry_clear(out);
    }
    if (rc == 0)
        out->stored_size = disk_usage(path);
    if (fd >= 0)
        close(fd);
    free(path);
    return rc;
}

int answers_verify(struct answers *all, const char *name, struct err *err)
{
    char *path = absolute(all, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct entry entry = {0};
    int rc = 0;

    if (fd < 0 && errno != ENOENT)
        rc = err_errno(err, ERR_STORAGE, "open %s", name);
    if (fd >= 0) {
        rc = answer_file_verify(fd, &entry, NULL, &all->stop, err);
        close(fd);
    }
    entry_clear(&entry);
    free(path);
    return rc;
}

struct answers *answers_new(struct folder *folder, struct local *local,
                            enum compression compression)
{
    struct answers *all = xcalloc(1, sizeof(*all));

    all->local = local;
    all->compression = compression;
    local_set_owner(local, ENTRY_ANSWER,
                    &(struct local_owner){remove_answer, describe_answer, all});

    all->folder = folder;
    lock_init(&all->lock, LOCK_ANSWERS);
    lock_cond_init(&all->published);
    return all;
}

void answers_free(struct answers **allp)
{
    struct answers *all = *allp;
    struct slot *s, *next;

    *allp = NULL;
    if (all == NULL)
        return;
    HASH_ITER(hh, all->by_key, s, next)
    {
        HASH_DEL(all->by_key, s);
        answer_unref(&s->answer);
        free(s);
    }
    pthread_cond_destroy(&all->published);
    lock_clear(&all->lock);
    free(all);
}

void answers_stop(struct answers *all)
{
    all->stop = true;
}

/* ---- by key ---- */

static struct answer *glance(struct answers *all, const struct key *key, bool only_kept)
{
    struct file_identity identity;
    struct answer *a = NULL;
    struct slot *s;
    bool published = false, apart = false;

    lock_take(&all->lock);
    s = find_locked(all, key);
    if (s != NULL && s->answer != NULL && (s->published || !only_kept)) {
        a = answer_ref(s->answer);
        published = s->published;
        apart = s->apart;
        identity = s->identity;
        touch_locked(all, s);
        s->joined += !published;
    }
    lock_drop(&all->lock);
    if (a != NULL && published && !still_intact(all, key, a, apart, &identity)) {
        drop_slot_answer(all, key, a);
        answer_unref(&a);
    }
    return a;
}

struct answer *answers_peek(struct answers *all, const struct key *key)
{
    return glance(all, key, false);
}

bool answers_have(struct answers *all, const struct key *key)
{
    struct answer *a = answers_peek(all, key);
    bool have = a != NULL;

    if (!have) {
        char *path = path_of(all, key);

        have = access(path, F_OK) == 0;
        free(path);
    }
    answer_unref(&a);
    return have;
}

/* Of no effect while it is filled: who follows is counted in its slot. */
static void touch(struct answers *all, const struct key *key)
{
    char *name = name_of(key);

    local_touch(all->local, name);
    free(name);
}

struct answer *answers_at_hand(struct answers *all, const struct key *key)
{
    struct answer *a = glance(all, key, true);

    if (a != NULL)
        touch(all, key);
    return a;
}

struct answer *answers_join(struct answers *all, const struct key *key, bool *leads)
{
    struct answer *a;
    struct slot *s;

    *leads = false;
    a = answers_peek(all, key);
    if (a != NULL) {
        touch(all, key);
        return a;
    }
    lock_take(&all->lock);
    s = find_locked(all, key);
    if (s == NULL)
        s = add_locked(all, key);
    if (s->answer == NULL) {
        set_answer_locked(all, s, answer_new_filling());
        *leads = true;
    }
    a = answer_ref(s->answer);
    lock_drop(&all->lock);
    trim(all);
    return a;
}

/* The file is good and is what the key's answer is read from, unless that is done apart.  Returns
 * how many joined meanwhile. */
static unsigned mark_published(struct answers *all, const struct key *key, struct answer *a,
                               const struct file_identity *identity, bool apart)
{
    unsigned joined = 0;
    struct slot *s;

    lock_take(&all->lock);
    s = find_locked(all, key);
    if (s != NULL && s->answer == a) {
        s->published = true;
        all->apart_count += apart - s->apart;
        s->apart = apart;
        s->identity = *identity;
        joined = s->joined;
        s->joined = 0;
    }
    lock_drop(&all->lock);
    return joined;
}

static bool known_good(struct answers *all, const struct key *key,
                       const struct file_identity *identity)
{
    struct slot *s;
    bool good;

    lock_take(&all->lock);
    s = find_locked(all, key);
    good = s != NULL && s->identity.size > 0 && file_identity_equal(&s->identity, identity);
    lock_drop(&all->lock);
    return good;
}

/* Is the file at fd this key's answer, unchanged since it was written?  Of a packed one only the
 * ends are looked at: it is about to be unpacked, and that checks the rest. */
static int check_file(struct answers *all, const struct key *key, int fd,
                      const struct file_identity *identity, struct entry *entry,
                      struct answer_file_stored *stored, struct err *err)
{
    char *name = name_of(key);
    int rc = answer_file_describe(fd, entry, stored, err);

    if (rc == 0 && !entry->packed && !known_good(all, key, identity)) {
        entry_clear(entry);
        rc = answer_file_verify(fd, entry, stored, &all->stop, err);
    }
    if (rc == 0 && strcmp(entry->path, name) != 0)
        rc = err_set(err, ERR_CORRUPT, "an answer lies under another one's name");
    free(name);
    return rc;
}

/* A new file in incoming/; the caller's are the descriptor, the path and the claim, also of -1. */
static int open_incoming(struct answers *all, char **path, struct claim **claim, struct err *err)
{
    int fd;

    *path = folder_incoming_path(all->folder, ".answer");
    *claim = local_claim_new(all->local);
    fd = open(*path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        err_errno(err, ERR_STORAGE, "create %s", *path);
    return fd;
}

/* *fd becomes that of the body, in a file without a name.  *claim is the caller's in any case. */
static int unpack(struct answers *all, const struct entry *entry, int *fd, struct claim **claim,
                  struct err *err)
{
    char *path;
    int to = open_incoming(all, &path, claim, err);
    int rc = -1;

    if (to >= 0) {
        unlink(path);
        rc = local_claim_grow(*claim, entry->size, err);
        if (rc == 0)
            rc = answer_file_unpack(*fd, entry, to, err);
        close(rc == 0 ? *fd : to);
        if (rc == 0)
            *fd = to;
    }
    free(path);
    return rc;
}

static void drop_damaged(struct answers *all, const char *name, const char *path,
                         const struct err *why)
{
    unlink(path);
    local_forget(all->local, name);
    atomic_fetch_add(&all->damaged, 1);
    folder_report_damage(all->folder, path, why);
}

bool answers_find_local(struct answers *all, const struct key *key, struct answer *a)
{
    char *path = path_of(all, key);
    char *name = name_of(key);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct file_identity identity;
    struct answer_file_stored stored;
    struct entry entry = {0};
    struct claim *claim = NULL;
    bool found = false;
    struct err why;

    if (fd < 0 || !file_identity_of(fd, &identity)) {
        if (errno == ENOENT)
            local_forget(all->local, name);
        goto out;
    }
    found = check_file(all, key, fd, &identity, &entry, &stored, &why) == 0 &&
            (!entry.packed || unpack(all, &entry, &fd, &claim, &why) == 0);
    if (found) {
        mark_published(all, key, a, &identity, entry.packed);
        local_touch(all->local, name);
        answer_fill_from_file(a, fd, entry.size, stored.sha256, entry.note_offset, &claim);
        fd = -1;
    } else if (why.kind == ERR_STORAGE) { /* that it can't be read now is no damage */
        folder_report_trouble(all->folder, FOLDER_ANSWERS, &why);
    } else if (why.kind == ERR_CORRUPT) {
        drop_damaged(all, name, path, &why);
    }                         /* or else there is no room to unpack it now */
    local_claim_free(&claim); /* the answer's, when it has taken it */
out:
    entry_clear(&entry);
    if (fd >= 0)
        close(fd);
    free(name);
    free(path);
    return found;
}

void answers_begin(struct answers *all, const struct key *key, struct answer *a)
{
    char *path = folder_incoming_path(all->folder, ".answer");
    struct claim *claim = local_claim_new(all->local);

    if (key != NULL) {
        char *name = name_of(key);

        local_claim_for(claim, name);
        free(name);
    }
    answer_store_at(a, path, &claim);
    free(path);
}

/* What becomes the kept file: the one that an answer was made in, or one beside it with the body
 * packed. */
struct kept_file {
    int fd;
    uint64_t stored_len;
    char *path;          /* of the one beside; NULL: the answer's own */
    struct claim *claim; /* of the same */
};

static void kept_file_clear(struct kept_file *k)
{
    if (k->path != NULL && k->fd >= 0) {
        unlink(k->path); /* unless it has moved to its final name */
        close(k->fd);
    }
    local_claim_free(&k->claim);
    free(k->path);
}

static int put_packed(void *ctx, const void *data, size_t len, struct err *err)
{
    struct kept_file *k = ctx;

    if (local_claim_grow(k->claim, len, err) != 0)
        return -1;
    while (len > 0) {
        ssize_t n = pwrite(k->fd, data, len, (off_t)k->stored_len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(err, ERR_STORAGE, "write a packed answer");
        data = (const char *)data + n;
        len -= (size_t)n;
        k->stored_len += (uint64_t)n;
    }
    return 0;
}

static bool wants_packing(struct answers *all, struct answer *a)
{
    switch (all->compression) {
    case COMPRESSION_AUTO: return compress_pays(answer_fd(a), answer_size(a));
    case COMPRESSION_ON: return true;
    case COMPRESSION_OFF: return false;
    }
    return false;
}

/* Packed, if that is wanted, makes it smaller, and there's room: if not, nothing is lost. */
static void choose_kept_file(struct answers *all, struct answer *a, struct kept_file *out)
{
    uint64_t size = answer_size(a);
    struct kept_file packed = {.stored_len = 0};
    struct err ignored;

    *out = (struct kept_file){.fd = answer_fd(a), .stored_len = size};
    if (!wants_packing(all, a))
        return;
    packed.fd = open_incoming(all, &packed.path, &packed.claim, &ignored);
    if (packed.fd >= 0 && compress_file(out->fd, size, put_packed, &packed, &ignored) == 0 &&
        packed.stored_len < size)
        *out = packed;
    else
        kept_file_clear(&packed);
}

/* From incoming/ to its final name. */
static int move_kept_file(const struct kept_file *k, struct answer *a, char *path, struct err *err)
{
    char *slash = strrchr(path, '/');
    int rc;

    *slash = '\0';
    rc = make_folders(path, err);
    *slash = '/';
    if (rc != 0)
        return rc;
    if (k->path == NULL)
        return answer_rename_file(a, path, err);
    return rename(k->path, path) == 0 ? 0 : err_errno(err, ERR_STORAGE, "publish %s", path);
}

/* -1 (ERR_CANCELLED): it was let go of.  Who lets go, and then looks for what is to be removed,
 * waits for those who were in time. */
static int begin_publishing(struct answers *all, const struct key *key, const struct answer *a,
                            struct publishing *p, struct err *err)
{
    const struct slot *s;
    int rc = 0;

    lock_take(&all->lock);
    s = find_locked(all, key);
    if (s != NULL && s->answer == a) {
        p->round = all->round;
        DL_APPEND(all->publishing, p);
    } else {
        rc = err_set(err, ERR_CANCELLED, "it was let go of while it was made");
    }
    lock_drop(&all->lock);
    return rc;
}

static void end_publishing(struct answers *all, struct publishing *p)
{
    lock_take(&all->lock);
    DL_DELETE(all->publishing, p);
    pthread_cond_broadcast(&all->published);
    lock_drop(&all->lock);
}

/* From its final name on it can be found, so that comes with the entry, and after the last look at
 * whether it may be. */
static int make_entry(struct answers *all, const struct key *key, struct answer *a,
                      struct kept_file *kept, char *path, struct entry *entry, struct err *err)
{
    struct file_identity identity;
    struct publishing p;
    int rc = begin_publishing(all, key, a, &p, err);

    if (rc != 0)
        return rc;
    /* The name changes hands last: a crash before this leaves a file in incoming/, which the
     * next start sweeps; a crash after it leaves the answer whole. */
    rc = move_kept_file(kept, a, path, err);
    if (rc == 0 && !file_identity_of(kept->fd, &identity))
        rc = err_set(err, ERR_STORAGE, "a new answer vanished");
    if (rc == 0) {
        struct claim *claim = entry->packed ? kept->claim : answer_take_claim(a);

        kept->claim = NULL;
        entry->accesses = mark_published(all, key, a, &identity, entry->packed);
        entry->stored_size = disk_usage(path);
        local_publish(all->local, entry, &claim);
    }
    end_publishing(all, &p);
    return rc;
}

static int publish(struct answers *all, const struct key *key, struct answer *a,
                   struct entry *entry, struct err *err)
{
    char *path = path_of(all, key);
    uint8_t sha256[SHA256_SIZE];
    struct kept_file kept;
    struct err ignored;
    int rc;

    must(answer_digest(a, sha256));
    choose_kept_file(all, a, &kept);
    free(entry->path);
    entry->path = name_of(key);
    entry->size = answer_size(a);
    entry->note_offset = answer_note_offset(a);
    entry->packed = kept.path != NULL;
    rc = answer_file_seal(kept.fd, kept.stored_len, entry, sha256, err);
    if (rc == 0)
        rc = make_entry(all, key, a, &kept, path, entry, err);
    if (rc == 0)
        sync_parent(path, &ignored); /* the rename is atomic anyway; this is for power cuts */
    kept_file_clear(&kept);
    free(path);
    return rc;
}

static void report_trouble(struct answers *all, struct answer *a)
{
    struct err why;

    if (answer_storage_trouble(a, &why))
        folder_report_trouble(all->folder, FOLDER_ANSWERS, &why);
}

bool answers_keep(struct answers *all, const struct key *key, struct answer *a, struct entry *entry)
{
    struct err why;

    if (answer_fd(a) < 0) { /* no disk, or no room */
        answers_end(all, key, a);
        return false;
    }
    answer_end(a);
    if (answer_fd(a) < 0) { /* just now */
        report_trouble(all, a);
        drop_slot_answer(all, key, a);
        return false;
    }
    if (publish(all, key, a, entry, &why) != 0) {
        if (why.kind != ERR_CANCELLED)
            folder_report_trouble(all->folder, FOLDER_ANSWERS, &why);
        drop_slot_answer(all, key, a);
        return false;
    }
    folder_report_success(all->folder, FOLDER_ANSWERS);
    atomic_fetch_add(&all->kept, 1);
    trim(all);
    return true;
}

void answers_end(struct answers *all, const struct key *key, struct answer *a)
{
    /* Out of the table before the end shows: who asks later is answered anew. */
    drop_slot_answer(all, key, a);
    report_trouble(all, a);
    answer_end(a);
}

void answers_fail(struct answers *all, const struct key *key, struct answer *a,
                  const struct err *why)
{
    drop_slot_answer(all, key, a);
    report_trouble(all, a);
    answer_fail(a, why);
}

static bool is_being_published_locked(const struct answers *all, uint64_t round)
{
    const struct publishing *p;

    DL_FOREACH(all->publishing, p)
    {
        if (p->round <= round)
            return true;
    }
    return false;
}

void answers_let_go(struct answers *all)
{
    struct answer **gone = NULL;
    struct slot *s, *next;
    size_t count = 0;
    uint64_t round;

    lock_take(&all->lock);
    gone = xcalloc(HASH_COUNT(all->by_key) + 1, sizeof(*gone));
    HASH_ITER(hh, all->by_key, s, next)
    {
        if (s->answer == NULL || s->published)
            continue;
        gone[count++] = s->answer;
        set_answer_locked(all, s, NULL);
        remove_locked(all, s);
    }
    round = all->round++;
    while (is_being_published_locked(all, round))
        lock_wait(&all->lock, &all->published);
    lock_drop(&all->lock);
    while (count > 0)
        answer_unref(&gone[--count]);
    free(gone);
}

void answers_count(struct answers *all, struct answers_counts *out)
{
    struct slot *s;

    *out = (struct answers_counts){.damaged = atomic_load(&all->damaged),
                                   .kept = atomic_load(&all->kept)};
    lock_take(&all->lock);
    for (s = all->by_key; s != NULL; s = s->hh.next)
        out->filling += s->answer != NULL && !s->published;
    lock_drop(&all->lock);
}
