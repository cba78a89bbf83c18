/* Files of secrets: read when they are needed, so that a new one holds at once, and wiped. */
#ifndef PANNIER_PROXY_CREDENTIALS_SECRET_H
#define PANNIER_PROXY_CREDENTIALS_SECRET_H

#include <stdbool.h>
#include <stdint.h>

#include "protocol/bytes.h"
#include "protocol/err.h"

enum { SECRET_FILE_MAX = 1 << 20 };

/* Tells one state of a file from another. */
struct file_stamp {
    bool there;
    uint64_t device, inode, size;
    int64_t modified_s, modified_ns;
};
void file_stamp_of(const char *path, struct file_stamp *out);
bool file_stamp_equal(const struct file_stamp *a, const struct file_stamp *b);

/* out: wipe it, too.  The sentence calls the file by its setting.  Worker threads. */
int secret_file_read(const char *path, const char *setting, struct bytes *out, struct err *err);
void secret_bytes_clear(struct bytes *b);

#endif
