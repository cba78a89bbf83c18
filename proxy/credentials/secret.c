/* Texts that are wiped, and the files that they come from. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "protocol/base.h"
#include "proxy/credentials/internal.h"

void credentials_wipe(char **text)
{
    if (*text != NULL)
        explicit_bzero(*text, strlen(*text));
    free(*text);
    *text = NULL;
}

void credential_clear(struct credential *c)
{
    credentials_wipe(&c->username);
    credentials_wipe(&c->password);
    c->expires = 0;
}

static bool is_plain(const char *text)
{
    for (const char *p = text; *p != '\0'; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            return false;
    return strlen(text) <= SECRET_MAX;
}

int credential_check(const struct credential *c, struct err *err)
{
    if (c->password[0] == '\0')
        return err_set(err, ERR_INPUT, "it is empty");
    if (!is_plain(c->username) || !is_plain(c->password) || strchr(c->username, ':') != NULL)
        return err_set(err, ERR_INPUT, "it holds what no credential may");
    return 0;
}

char *host_of(const char *base_url)
{
    const char *host = strstr(base_url, "://");

    host = host != NULL ? host + 3 : base_url;
    return xstrndup(host, strcspn(host, "/"));
}

void file_stamp_of(const char *path, struct file_stamp *out)
{
    struct stat st;

    *out = (struct file_stamp){0};
    if (stat(path, &st) != 0)
        return;
    *out = (struct file_stamp){.there = true,
                               .device = st.st_dev,
                               .inode = st.st_ino,
                               .size = (uint64_t)st.st_size,
                               .modified_s = st.st_mtim.tv_sec,
                               .modified_ns = st.st_mtim.tv_nsec};
}

bool file_stamp_equal(const struct file_stamp *a, const struct file_stamp *b)
{
    return a->there == b->there && a->device == b->device && a->inode == b->inode &&
           a->size == b->size && a->modified_s == b->modified_s && a->modified_ns == b->modified_ns;
}

void secret_bytes_clear(struct bytes *b)
{
    if (b->data != NULL)
        explicit_bzero(b->data, b->cap);
    bytes_clear(b);
}

static int read_all(int fd, struct bytes *out)
{
    ssize_t n;

    do {
        char block[4096];

        n = read(fd, block, sizeof(block));
        if (n > 0 && bytes_add(out, block, (size_t)n) != 0) {
            errno = EFBIG;
            n = -1;
        }
        explicit_bzero(block, sizeof(block));
    } while (n > 0 || (n < 0 && errno == EINTR));
    return n == 0 ? 0 : -1;
}

int secret_file_read(const char *path, const char *setting, struct bytes *out, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc = 0;

    bytes_init(out, SECRET_FILE_MAX);
    if (fd < 0)
        return err_errno(err, ERR_INPUT, "its %s can't be read", setting);
    if (read_all(fd, out) != 0)
        rc = err_errno(err, ERR_INPUT, "its %s can't be read", setting);
    close(fd);
    if (rc != 0)
        secret_bytes_clear(out);
    return rc;
}
