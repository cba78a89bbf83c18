#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/mirror/internal.h"

/* `pannier-packs`: a line "<name> <size>" for each pack, in the order in which they came; behind
 * those of which git has made a multi-pack index, a line "multi-pack-index <its checksum>". */

static const char FILE_NAME[] = "pannier-packs";
static const char MIDX_NAME[] = "multi-pack-index";
static const char WHAT[] = "list of packs";

enum { LIST_MAX = 1 << 20 };

int cannot_look(const char *name, struct err *err)
{
    bool damage = errno == ENOENT || errno == ENOTDIR || errno == EIO;

    return err_errno(err, damage ? ERR_CORRUPT : ERR_STORAGE, "look at its %s", name);
}

bool is_pack(const char *name)
{
    return strncmp(name, "pack-", 5) == 0 && ends_with(name, ".pack");
}

void pack_list_clear(struct pack_list *list)
{
    free(list->packs);
    *list = (struct pack_list){0};
}

bool pack_list_add(struct pack_list *list, const char *name, uint64_t size)
{
    struct listed_pack *p;

    if (pack_list_has(list, name, strlen(name) - strlen(".pack")))
        return false;
    list->packs = xrealloc(list->packs, (list->count + 1) * sizeof(*list->packs));
    p = &list->packs[list->count++];
    *p = (struct listed_pack){.size = size};
    snprintf(p->name, sizeof(p->name), "%s", name);
    return true;
}

bool pack_list_has(const struct pack_list *list, const char *name, size_t stem_len)
{
    for (size_t i = 0; i < list->count; i++)
        if (strncmp(list->packs[i].name, name, stem_len) == 0 &&
            strcmp(list->packs[i].name + stem_len, ".pack") == 0)
            return true;
    return false;
}

uint64_t pack_list_bytes(const struct pack_list *list)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < list->count; i++)
        sum += list->packs[i].size;
    return sum;
}

static int parse_line(const char *line, struct pack_list *list, struct err *err)
{
    char name[64], rest[64];
    uint64_t size;

    if (sscanf(line, "%60s %60s", name, rest) != 2 || strchr(name, '/') != NULL)
        return err_set(err, ERR_CORRUPT, "its %s is damaged", WHAT);
    if (strcmp(name, MIDX_NAME) == 0 && strlen(rest) == GIT_HEX_LEN &&
        strspn(rest, "0123456789abcdef") == GIT_HEX_LEN) {
        memcpy(list->midx, rest, GIT_HEX_LEN + 1);
        list->indexed = list->count;
    } else if (is_pack(name) && sscanf(rest, "%" SCNu64, &size) == 1) {
        pack_list_add(list, name, size);
    } else {
        return err_set(err, ERR_CORRUPT, "its %s is damaged", WHAT);
    }
    return 0;
}

/* The whole file, yours to free. */
static int read_text(const char *path, char **out, struct err *err)
{
    char *file = xasprintf("%s/%s", path, FILE_NAME);
    char *text = NULL;
    int fd = -1, rc = 0;
    struct stat st;
    size_t len;

    /* First the folder, then the list: a mirror appears with both. */
    if (access(path, F_OK) != 0 && errno == ENOENT)
        rc = err_set(err, ERR_NOT_FOUND, "there is no mirror");
    else if ((fd = open(file, O_RDONLY | O_CLOEXEC)) < 0 || fstat(fd, &st) != 0)
        rc = cannot_look(WHAT, err);
    else if (st.st_size > LIST_MAX)
        rc = err_set(err, ERR_CORRUPT, "its %s is too long", WHAT);
    if (rc == 0) {
        ssize_t n;

        len = (size_t)st.st_size;
        text = xmalloc(len + 1);
        n = read(fd, text, len);
        if (n < 0)
            rc = cannot_look(WHAT, err);
        else if ((size_t)n != len)
            rc = err_set(err, ERR_CORRUPT, "its %s can't be read", WHAT);
        text[len] = '\0';
    }
    if (rc == 0) {
        *out = text;
        text = NULL;
    }
    if (fd >= 0)
        close(fd);
    free(text);
    free(file);
    return rc;
}

int pack_list_read(const char *path, struct pack_list *out, struct err *err)
{
    char *text = NULL, *save = NULL;
    int rc = read_text(path, &text, err);

    *out = (struct pack_list){0};
    if (rc != 0)
        return -1;
    for (char *line = strtok_r(text, "\n", &save); line != NULL && rc == 0;
         line = strtok_r(NULL, "\n", &save))
        rc = parse_line(line, out, err);
    if (rc == 0 && out->count == 0)
        rc = err_set(err, ERR_CORRUPT, "its %s is empty", WHAT);
    free(text);
    if (rc != 0)
        pack_list_clear(out);
    return rc;
}

int pack_list_write(const char *path, const struct pack_list *list, struct err *err)
{
    struct bytes text;
    int rc = 0;

    bytes_init(&text, LIST_MAX);
    for (size_t i = 0; i < list->count && rc == 0; i++) {
        rc = bytes_addf(&text, "%s %" PRIu64 "\n", list->packs[i].name, list->packs[i].size);
        if (rc == 0 && i + 1 == list->indexed)
            rc = bytes_addf(&text, "%s %s\n", MIDX_NAME, list->midx);
    }
    if (rc != 0)
        rc = err_set(err, ERR_STORAGE, "a mirror has too many packs to list");
    else
        rc = replace_below(path, FILE_NAME, &text, true, err);
    bytes_clear(&text);
    return rc;
}
