/* The index: a SQLite file with one row per entry of this disk, by path.  It spares reading all
 * files at a start, and is worth no more than that: one that is lost or damaged is made anew,
 * empty, and filled from the files.
 *
 * Damage that index_open() didn't see shows later, as ERR_CORRUPT from any of these: close it, and
 * open it anew; it is fresh then.
 *
 * The home of SQLite.  One thread at a time; any thread but those of HTTP: it reads the disk.  Open
 * its files nowhere else in the process: closing them would end SQLite's locks. */
#ifndef PANNIER_CACHE_LOCAL_INDEX_H
#define PANNIER_CACHE_LOCAL_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/entry.h"
#include "protocol/err.h"

struct index;

/* *fresh: there was none, or it was damaged or of another version, and has been made anew.
 * -1 (ERR_STORAGE): not even that can be done. */
int index_open(const char *path, struct index **out, bool *fresh, struct err *err);
void index_close(struct index **x);

/* Every entry, in the order of last access, oldest first.  fn's entry is borrowed for the call;
 * what fn returns, unless 0, ends it.  Strings that fn doesn't look at cost little. */
int index_each(struct index *x, int (*fn)(void *ctx, const struct entry *e), void *ctx,
               struct err *err);
/* The same for one repository's, in any order. */
int index_each_of(struct index *x, const char *repo_id, int (*fn)(void *ctx, const struct entry *e),
                  void *ctx, struct err *err);
/* 0: *out is yours to clear.  -1: ERR_NOT_FOUND, or ERR_STORAGE. */
int index_get(struct index *x, const char *path, struct entry *out, struct err *err);

/* Changes stand between index_begin() and index_commit(), one transaction; when one of them fails
 * (ERR_STORAGE) call index_rollback() and try all again later. */
int index_begin(struct index *x, struct err *err);
int index_put(struct index *x, const struct entry *e, struct err *err); /* new, or in place of */
int index_touch(struct index *x, const char *path, int64_t accessed, uint64_t accesses,
                struct err *err);
int index_remove(struct index *x, const char *path, struct err *err); /* unknown ones are fine */
int index_commit(struct index *x, struct err *err);
void index_rollback(struct index *x);

#endif
