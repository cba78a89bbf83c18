#include "cache/local/index.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "protocol/base.h"

enum {
    APPLICATION_ID = 0x50414e49, /* tells our file from another program's */
    SCHEMA_VERSION = 2,
    BUSY_TIMEOUT_MS = 5000, /* somebody may look into it with a program of SQLite's */
};

/* cache_size and journal_size_limit bound what a scan costs that puts everything in one
 * transaction: its journal grows, and is cut afterwards.  temp_store: the order of all rows takes
 * some 60 bytes for each while it is made, and no file in a folder that may not be writable. */
static const char SETTINGS[] = "PRAGMA cache_size = -2048;"
                               "PRAGMA temp_store = MEMORY;"
                               "PRAGMA cell_size_check = ON;"
                               "PRAGMA journal_mode = WAL;"
                               "PRAGMA synchronous = NORMAL;"
                               "PRAGMA journal_size_limit = 4194304;";

/* Numbers come first: what looks for them only doesn't read over the strings. */
static const char SCHEMA[] = "CREATE TABLE entry ("
                             " id INTEGER PRIMARY KEY,"
                             " accessed INTEGER NOT NULL,"
                             " accesses INTEGER NOT NULL,"
                             " kind INTEGER NOT NULL,"
                             " size INTEGER NOT NULL,"
                             " stored_size INTEGER NOT NULL,"
                             " created INTEGER NOT NULL,"
                             " tier INTEGER NOT NULL,"
                             " note_offset INTEGER NOT NULL,"
                             " objects INTEGER NOT NULL,"
                             " path TEXT NOT NULL UNIQUE,"
                             " repo_id TEXT NOT NULL,"
                             " repo TEXT NOT NULL,"
                             " url TEXT NOT NULL,"
                             " ref TEXT,"
                             " \"commit\" TEXT,"
                             " node TEXT"
                             ") STRICT;"
                             "CREATE INDEX entry_of_repo ON entry (repo_id)";

#define COLUMNS                                                                                    \
    "accessed, accesses, kind, size, stored_size, created, tier, note_offset, objects, path,"      \
    " repo_id, repo, url, ref, \"commit\", node"

/* In the order of COLUMNS; parameters of PUT are one higher. */
enum column {
    ACCESSED,
    ACCESSES,
    KIND,
    SIZE,
    STORED_SIZE,
    CREATED,
    TIER,
    NOTE_OFFSET,
    OBJECTS,
    PATH,
    REPO_ID,
    REPO,
    URL,
    REF,
    COMMIT,
    NODE,
};

enum statement {
    DO_BEGIN,
    DO_COMMIT,
    DO_ROLLBACK,
    DO_ORDER,
    DO_OF_REPO,
    DO_READ,
    DO_GET,
    DO_PUT,
    DO_TOUCH,
    DO_REMOVE,
};

static const char *const STATEMENTS[] = {
    [DO_BEGIN] = "BEGIN IMMEDIATE",
    [DO_COMMIT] = "COMMIT",
    [DO_ROLLBACK] = "ROLLBACK",
    /* Sorting whole rows would take their size in memory once more; an index by time would have to
     * be written with each access. */
    [DO_ORDER] = "SELECT id FROM entry ORDER BY accessed, id",
    [DO_OF_REPO] = "SELECT id FROM entry WHERE repo_id = ?",
    [DO_READ] = "SELECT " COLUMNS " FROM entry WHERE id = ?",
    [DO_GET] = "SELECT " COLUMNS " FROM entry WHERE path = ?",
    [DO_PUT] =
        "INSERT OR REPLACE INTO entry (" COLUMNS ") VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    [DO_TOUCH] = "UPDATE entry SET accessed = ?, accesses = ? WHERE path = ?",
    [DO_REMOVE] = "DELETE FROM entry WHERE path = ?",
};

struct index {
    char *path;
    sqlite3 *db;
    sqlite3_stmt *statements[ARRAY_LEN(STATEMENTS)];
    bool changing; /* between index_begin() and index_commit() or index_rollback() */
    bool damaged;  /* not to be seen again */
};

/* Our statements are right: where one makes no sense, the tables aren't ours. */
static bool is_damage(int code)
{
    return code == SQLITE_CORRUPT || code == SQLITE_NOTADB || code == SQLITE_ERROR ||
           code == SQLITE_CONSTRAINT;
}

/* Says what SQLite said last. */
static int failed(struct index *x, const char *doing, struct err *err)
{
    bool damage = is_damage(sqlite3_errcode(x->db) & 0xff); /* without what extends the code */

    x->damaged = x->damaged || damage;
    return err_set(err, damage ? ERR_CORRUPT : ERR_STORAGE, "%s the index: %s", doing,
                   sqlite3_errmsg(x->db));
}

static int damaged(struct index *x, struct err *err, const char *how)
{
    x->damaged = true;
    return err_set(err, ERR_CORRUPT, "the index is damaged: %s", how);
}

/* ---- opening ---- */

static int execute(struct index *x, const char *sql, struct err *err)
{
    return sqlite3_exec(x->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : failed(x, "set up", err);
}

/* The one number that sql answers with. */
static int ask_number(struct index *x, const char *sql, int *out, struct err *err)
{
    sqlite3_stmt *s = NULL;
    int rc = 0;

    if (sqlite3_prepare_v2(x->db, sql, -1, &s, NULL) != SQLITE_OK || sqlite3_step(s) != SQLITE_ROW)
        rc = failed(x, "open", err);
    else
        *out = sqlite3_column_int(s, 0);
    sqlite3_finalize(s);
    return rc;
}

static int check_is_ours(struct index *x, struct err *err)
{
    int application = 0, version = 0;

    if (ask_number(x, "PRAGMA application_id", &application, err) != 0 ||
        ask_number(x, "PRAGMA user_version", &version, err) != 0)
        return -1;
    if (application != APPLICATION_ID || version != SCHEMA_VERSION)
        return damaged(x, err, "another program or another version wrote it");
    /* connect_to() has seen that it may be written, so this comes from the file's head. */
    if (sqlite3_db_readonly(x->db, "main") == 1)
        return damaged(x, err, "it says that it must not be written");
    return 0;
}

/* Reads all pages, but compares no table with its index: 30 ms for 100,000 rows (40 MB), when the
 * file is in memory.  What comes next, index_each(), reads most of them anyway. */
static int check_pages(struct index *x, struct err *err)
{
    sqlite3_stmt *s = NULL;
    const char *said;
    int rc = 0;

    if (sqlite3_prepare_v2(x->db, "PRAGMA quick_check(1)", -1, &s, NULL) != SQLITE_OK ||
        sqlite3_step(s) != SQLITE_ROW)
        rc = failed(x, "check", err);
    else if ((said = (const char *)sqlite3_column_text(s, 0)) == NULL || strcmp(said, "ok") != 0)
        rc = damaged(x, err, said != NULL ? said : "it can't be checked");
    sqlite3_finalize(s);
    return rc;
}

static int prepare(struct index *x, struct err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(STATEMENTS); i++)
        if (sqlite3_prepare_v3(x->db, STATEMENTS[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &x->statements[i], NULL) != SQLITE_OK)
            return failed(x, "open", err);
    return 0;
}

static int connect_to(struct index *x, struct err *err)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;

    if (sqlite3_open_v2(x->path, &x->db, flags, NULL) != SQLITE_OK)
        return failed(x, "open", err);
    sqlite3_busy_timeout(x->db, BUSY_TIMEOUT_MS);
    /* What can't be opened for writing is opened for reading without a word. */
    if (sqlite3_db_readonly(x->db, "main") == 1)
        return err_set(err, ERR_STORAGE, "open the index: %s can only be read", x->path);
    return 0;
}

static int open_existing(struct index *x, struct err *err)
{
    if (connect_to(x, err) != 0 || check_is_ours(x, err) != 0 || execute(x, SETTINGS, err) != 0 ||
        check_pages(x, err) != 0)
        return -1;
    return prepare(x, err);
}

static int make_tables(struct index *x, struct err *err)
{
    char *sql = xasprintf("BEGIN; %s; PRAGMA application_id = %d; PRAGMA user_version = %d; COMMIT",
                          SCHEMA, APPLICATION_ID, SCHEMA_VERSION);
    int rc = execute(x, sql, err);

    free(sql);
    return rc;
}

static int open_new(struct index *x, struct err *err)
{
    /* SQLite's own files take over the mode of this one. */
    int fd = open(x->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0)
        return err_errno(err, ERR_STORAGE, "make the index %s", x->path);
    close(fd);
    if (connect_to(x, err) != 0 || execute(x, SETTINGS, err) != 0 || make_tables(x, err) != 0)
        return -1;
    return prepare(x, err);
}

static void disconnect(struct index *x)
{
    for (size_t i = 0; i < ARRAY_LEN(STATEMENTS); i++) {
        sqlite3_finalize(x->statements[i]);
        x->statements[i] = NULL;
    }
    must(sqlite3_close(x->db) == SQLITE_OK);
    x->db = NULL;
}

/* A journal that stayed behind would be played into the next file. */
static int remove_files(struct index *x, struct err *err)
{
    static const char *const ends[] = {"-wal", "-shm", "-journal", ""};
    int rc = 0;

    for (size_t i = 0; i < ARRAY_LEN(ends) && rc == 0; i++) {
        char *path = xasprintf("%s%s", x->path, ends[i]);

        if (unlink(path) != 0 && errno != ENOENT)
            rc = err_errno(err, ERR_STORAGE, "remove %s", path);
        free(path);
    }
    return rc;
}

int index_open(const char *path, struct index **out, bool *fresh, struct err *err)
{
    struct index *x = xcalloc(1, sizeof(*x));
    int rc = -1;

    x->path = xstrdup(path);
    *out = NULL;
    *fresh = access(path, F_OK) != 0 && errno == ENOENT;
    if (!*fresh) {
        rc = open_existing(x, err);
        *fresh = rc != 0 && x->damaged;
    }
    if (*fresh) {
        disconnect(x);
        x->damaged = false;
        rc = remove_files(x, err);
        if (rc == 0)
            rc = open_new(x, err);
    }
    if (rc == 0)
        *out = x;
    else
        index_close(&x);
    return rc;
}

void index_close(struct index **xp)
{
    struct index *x = *xp;
    struct err ignored;

    *xp = NULL;
    if (x == NULL)
        return;
    disconnect(x);
    if (x->damaged)
        (void)remove_files(x, &ignored); /* index_open() finds the damage, and tries again */
    free(x->path);
    free(x);
}

/* ---- reading ---- */

static const char *text_of(sqlite3_stmt *s, enum column column)
{
    return (const char *)sqlite3_column_text(s, (int)column);
}

/* The strings are SQLite's, until the statement is reset. */
static int borrow_entry(struct index *x, sqlite3_stmt *s, struct entry *out, struct err *err)
{
    int64_t accesses = sqlite3_column_int64(s, ACCESSES), kind = sqlite3_column_int64(s, KIND);
    int64_t size = sqlite3_column_int64(s, SIZE), tier = sqlite3_column_int64(s, TIER);
    int64_t stored_size = sqlite3_column_int64(s, STORED_SIZE);

    *out = (struct entry){
        .kind = (enum entry_kind)kind,
        .repo_id = (char *)text_of(s, REPO_ID),
        .repo = (char *)text_of(s, REPO),
        .url = (char *)text_of(s, URL),
        .ref = (char *)text_of(s, REF),
        .commit = (char *)text_of(s, COMMIT),
        .size = (uint64_t)size,
        .stored_size = (uint64_t)stored_size,
        .created = sqlite3_column_int64(s, CREATED),
        .accessed = sqlite3_column_int64(s, ACCESSED),
        .accesses = (uint64_t)accesses,
        .tier = (enum entry_tier)tier,
        .path = (char *)text_of(s, PATH),
        .node = (char *)text_of(s, NODE),
        .note_offset = sqlite3_column_int64(s, NOTE_OFFSET),
        .objects = (uint32_t)sqlite3_column_int64(s, OBJECTS),
    };
    /* A page can be damaged and still be a page. */
    if (kind < 0 || kind >= ENTRY_KINDS_COUNT || tier < TIER_LOCAL || tier > TIER_SHARED ||
        size < 0 || stored_size < 0 || accesses < 0 || out->path == NULL || out->repo_id == NULL ||
        out->repo == NULL || out->url == NULL)
        return damaged(x, err, "a row makes no sense");
    return 0;
}

/* fn gets the entry with this id; one that went meanwhile is passed over. */
static int visit(struct index *x, sqlite3_int64 id, int (*fn)(void *, const struct entry *),
                 void *ctx, struct err *err)
{
    sqlite3_stmt *s = x->statements[DO_READ];
    struct entry e;
    int step, rc;

    sqlite3_bind_int64(s, 1, id);
    step = sqlite3_step(s);
    if (step == SQLITE_ROW) {
        rc = borrow_entry(x, s, &e, err);
        if (rc == 0)
            rc = fn(ctx, &e);
    } else {
        rc = step == SQLITE_DONE ? 0 : failed(x, "read", err);
    }
    sqlite3_reset(s);
    return rc;
}

static int visit_all(struct index *x, sqlite3_stmt *s, int (*fn)(void *ctx, const struct entry *e),
                     void *ctx, struct err *err)
{
    int step, rc = 0;

    while ((step = sqlite3_step(s)) == SQLITE_ROW && rc == 0)
        rc = visit(x, sqlite3_column_int64(s, 0), fn, ctx, err);
    if (rc == 0 && step != SQLITE_DONE)
        rc = failed(x, "read", err);
    sqlite3_reset(s);
    return rc;
}

int index_each(struct index *x, int (*fn)(void *ctx, const struct entry *e), void *ctx,
               struct err *err)
{
    return visit_all(x, x->statements[DO_ORDER], fn, ctx, err);
}

int index_each_of(struct index *x, const char *repo_id, int (*fn)(void *ctx, const struct entry *e),
                  void *ctx, struct err *err)
{
    sqlite3_stmt *s = x->statements[DO_OF_REPO];
    int rc;

    sqlite3_bind_text(s, 1, repo_id, -1, SQLITE_STATIC);
    rc = visit_all(x, s, fn, ctx, err);
    sqlite3_clear_bindings(s);
    return rc;
}

int index_get(struct index *x, const char *path, struct entry *out, struct err *err)
{
    sqlite3_stmt *s = x->statements[DO_GET];
    struct entry e;
    int step, rc;

    sqlite3_bind_text(s, 1, path, -1, SQLITE_STATIC);
    step = sqlite3_step(s);
    if (step == SQLITE_ROW)
        rc = borrow_entry(x, s, &e, err);
    else if (step == SQLITE_DONE)
        rc = err_set(err, ERR_NOT_FOUND, "%s is not in the index", path);
    else
        rc = failed(x, "read", err);
    if (rc == 0)
        entry_copy(&e, out);
    sqlite3_reset(s);
    sqlite3_clear_bindings(s);
    return rc;
}

/* ---- changing ---- */

/* Runs a statement that answers nothing. */
static int run(struct index *x, enum statement which, struct err *err)
{
    sqlite3_stmt *s = x->statements[which];
    int rc = 0;

    if (sqlite3_step(s) != SQLITE_DONE)
        rc = failed(x, "write", err);
    sqlite3_reset(s);
    sqlite3_clear_bindings(s); /* they point to what the caller frees */
    return rc;
}

/* A change outside of a transaction would be one of its own, with its own sync. */
static int run_change(struct index *x, enum statement which, struct err *err)
{
    must(x->changing);
    if (sqlite3_get_autocommit(x->db)) {
        /* SQLite gave it up by itself, as it does when the disk is full. */
        sqlite3_clear_bindings(x->statements[which]);
        return err_set(err, ERR_STORAGE, "write the index: an earlier change of these failed");
    }
    return run(x, which, err);
}

int index_begin(struct index *x, struct err *err)
{
    must(!x->changing);
    if (run(x, DO_BEGIN, err) != 0)
        return -1;
    x->changing = true;
    return 0;
}

static void bind_text(sqlite3_stmt *s, enum column column, const char *text)
{
    sqlite3_bind_text(s, (int)column + 1, text, -1, SQLITE_STATIC); /* NULL stays NULL */
}

static void bind_number(sqlite3_stmt *s, enum column column, int64_t n)
{
    sqlite3_bind_int64(s, (int)column + 1, n);
}

static void bind_count(sqlite3_stmt *s, enum column column, uint64_t n)
{
    must(n <= INT64_MAX); /* no disk has more */
    bind_number(s, column, (int64_t)n);
}

int index_put(struct index *x, const struct entry *e, struct err *err)
{
    sqlite3_stmt *s = x->statements[DO_PUT];

    must(e->path != NULL && e->repo_id != NULL && e->repo != NULL && e->url != NULL);
    bind_number(s, ACCESSED, e->accessed);
    bind_count(s, ACCESSES, e->accesses);
    bind_number(s, KIND, e->kind);
    bind_count(s, SIZE, e->size);
    bind_count(s, STORED_SIZE, e->stored_size);
    bind_number(s, CREATED, e->created);
    bind_number(s, TIER, e->tier);
    bind_number(s, NOTE_OFFSET, e->note_offset);
    bind_number(s, OBJECTS, e->objects);
    bind_text(s, PATH, e->path);
    bind_text(s, REPO_ID, e->repo_id);
    bind_text(s, REPO, e->repo);
    bind_text(s, URL, e->url);
    bind_text(s, REF, e->ref);
    bind_text(s, COMMIT, e->commit);
    bind_text(s, NODE, e->node);
    return run_change(x, DO_PUT, err);
}

int index_touch(struct index *x, const char *path, int64_t accessed, uint64_t accesses,
                struct err *err)
{
    sqlite3_stmt *s = x->statements[DO_TOUCH];

    must(accesses <= INT64_MAX);
    sqlite3_bind_int64(s, 1, accessed);
    sqlite3_bind_int64(s, 2, (int64_t)accesses);
    sqlite3_bind_text(s, 3, path, -1, SQLITE_STATIC);
    return run_change(x, DO_TOUCH, err);
}

int index_remove(struct index *x, const char *path, struct err *err)
{
    sqlite3_bind_text(x->statements[DO_REMOVE], 1, path, -1, SQLITE_STATIC);
    return run_change(x, DO_REMOVE, err);
}

int index_commit(struct index *x, struct err *err)
{
    if (run_change(x, DO_COMMIT, err) != 0)
        return -1;
    x->changing = false;
    return 0;
}

void index_rollback(struct index *x)
{
    struct err ignored;

    if (x->changing && !sqlite3_get_autocommit(x->db))
        (void)run(x, DO_ROLLBACK, &ignored);
    x->changing = false;
}
