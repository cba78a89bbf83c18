/* The data folder: who owns it, which version it has, where things are, whether it can be written.
 *
 *     <data>/version       what wrote it
 *     <data>/lock          held (flock) while a process serves from it
 *     <data>/control       the socket for commands, while it serves
 *     <data>/answers/ab/   whole answers
 *     <data>/mirrors/      bare repositories
 *     <data>/pins          repositories whose entries stay
 *     <data>/incoming/     being filled; emptied when the folder is opened
 *
 * Trouble with the disk is remembered here: writers report it, the first report of a spell is
 * handed to the callback (so that it is logged once).  A spell ends when each part that failed has
 * been written again: a disk may well take small answers and no mirrors, and must not be said to
 * fail and to work in turns. */
#ifndef PANNIER_CACHE_FOLDER_H
#define PANNIER_CACHE_FOLDER_H

#include <stdbool.h>
#include <stddef.h>

#include "protocol/err.h"

struct folder;

/* What the owner wants to hear.  Called in the thread that found out; must not block. */
struct folder_listener {
    /* Writing fails; NULL: it works again. */
    void (*trouble)(void *ctx, const struct err *trouble);
    /* Something kept was not what was written, and has been dropped. */
    void (*damage)(void *ctx, const char *what, const struct err *why);
    void *ctx;
};

/* -1: ERR_STORAGE, it can't be made or written, or has another version; ERR_BUSY, another process
 * serves from it. */
int folder_open(const char *path, const struct folder_listener *listener, struct folder **out,
                struct err *err);
void folder_close(struct folder **f);

const char *folder_path(const struct folder *f);
/* "<data>/<fmt...>", yours to free. */
char *folder_pathf(const struct folder *f, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* A new unique path below incoming/, yours to free; suffix ends it. */
char *folder_incoming_path(struct folder *f, const char *suffix);

/* What is written.  A view is what git sees a mirror through: small, and gone after one answer. */
enum folder_part {
    FOLDER_ANSWERS,
    FOLDER_MIRRORS,
    FOLDER_VIEWS,
    FOLDER_INDEX,
    FOLDER_PARTS_COUNT,
};

/* Any thread. */
void folder_report_trouble(struct folder *f, enum folder_part part, const struct err *trouble);
void folder_report_success(struct folder *f, enum folder_part part);
void folder_report_damage(struct folder *f, const char *what, const struct err *why);
/* True while the last write of some part failed; *trouble is then a copy of why.  Any thread. */
bool folder_troubled(struct folder *f, struct err *trouble);

/* Make dir and its parents (mode 0700 for new ones). */
int make_folders(const char *dir, struct err *err);
/* Remove path and everything below; what is gone already is fine.  Errors are ignored: what is
 * left lies in incoming/ and goes at the next start. */
void remove_tree(const char *path);
/* fsync the folder that holds path, so that a rename in it survives a power cut. */
int sync_parent(const char *path, struct err *err);
/* Write a small file whole; durable: with fsync. */
int write_file(const char *path, const void *data, size_t len, bool durable, struct err *err);

#endif
