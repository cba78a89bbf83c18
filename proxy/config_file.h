/* The YAML file as texts with their lines, before anything is made of them.
 *
 *     config_file_load(path, &file, &err)     0, or -1 with "path:line: key: ..."
 *     ... file->set[setting_limits_body].text, .line ...
 *     config_file_free(&file)
 *
 * The home of libcyaml and libyaml.  Internal to the config_*.c files. */
#ifndef PANNIER_PROXY_CONFIG_FILE_H
#define PANNIER_PROXY_CONFIG_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "protocol/err.h"
#include "proxy/config_setting.h"

struct config_place {
    const char *text; /* NULL: not in the file */
    char *items;      /* of a list: its text, ours */
    unsigned line;
};

/* An entry of a list of mappings. */
struct config_file_item {
    unsigned line;                           /* where it begins */
    struct config_place set[SETTINGS_TOTAL]; /* its list's section of it */
};

struct config_file_list {
    struct config_file_item *items;
    size_t count;
    bool there;    /* an empty list is a list */
    unsigned line; /* if it is there */
};

struct config_file {
    struct config_place set[SETTINGS_TOTAL]; /* all sections but the lists */
    struct config_file_list lists[SECTION_COUNT];
    void *yaml; /* what libcyaml made; the texts are its */
};

/* Keys, shapes and values' presence are right afterwards; the values themselves are unread. */
int config_file_load(const char *path, struct config_file **out, struct err *err);
void config_file_free(struct config_file **file);

#endif
