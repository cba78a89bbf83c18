#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/mirror/internal.h"

/* The first line of what fsck finds; its warnings go elsewhere. */
static void read_first_line(struct process *p, char *out, size_t size)
{
    size_t len = 0;
    ssize_t n;

    while (len < size - 1 && (n = read(p->out_fd, out + len, size - 1 - len)) > 0)
        len += (size_t)n;
    out[len] = '\0';
    out[strcspn(out, "\n")] = '\0';
}

static int check_connectivity(struct mirror *m, struct err *err)
{
    char *git_dir = xasprintf("--git-dir=%s", m->path);
    const char *const args[] = {git_dir,         "fsck",          "--connectivity-only",
                                "--no-dangling", "--no-progress", NULL};
    struct process *p;
    char finding[160];
    int rc = process_start(m->all->processes,
                           &(struct process_spec){.args = args, .input = "", .background = true},
                           &p, err);

    if (rc == 0) {
        read_first_line(p, finding, sizeof(finding));
        rc = process_finish(&p, err);
        /* Without a finding git failed for a reason of its own; and what it found when it was
         * killed, or when the machine was short of something, is none. */
        if (rc != 0 && finding[0] != '\0' && err->kind == ERR_PROCESS &&
            strstr(err->text, " signal ") == NULL)
            rc = err_set(err, ERR_CORRUPT, "git fsck says: %s", finding);
    }
    free(git_dir);
    return rc;
}

int mirror_verify(struct mirror *m, struct err *err)
{
    struct mirror_use use;
    int rc;

    mirror_use_begin(m, &use);
    rc = mirror_check(m, true, err);
    if (rc == 0)
        rc = check_connectivity(m, err);
    mirror_use_end(m, &use);
    return rc;
}
