/* One row of config_table.h at work: text as an operator writes it <-> a field of struct config.
 * Internal to the config_*.c files. */
#ifndef PANNIER_PROXY_CONFIG_SETTING_H
#define PANNIER_PROXY_CONFIG_SETTING_H

#include <stdbool.h>
#include <stddef.h>

#include "proxy/config.h"
#include "proxy/config_table.h"

enum setting_type {
    SETTING_ADDRESS,   /* struct host_port, HOST:PORT */
    SETTING_LISTEN,    /* the same, or "off": host NULL */
    SETTING_FOLDER,    /* char *, an absolute path */
    SETTING_FILE,      /* char * or NULL, an absolute path */
    SETTING_NAME,      /* char *, an upstream's name */
    SETTING_TEXT,      /* char * or NULL, a line of text without control characters */
    SETTING_SCHEDULE,  /* char * or NULL, cron's five fields */
    SETTING_PLAIN_URL, /* char *, the same without a '*' */
    SETTING_URL,       /* char *, an upstream's base URL */
    SETTING_SIZE,      /* uint64_t, bytes */
    SETTING_SHARE,     /* struct share, a size or a percentage */
    SETTING_DURATION,  /* uint64_t, milliseconds */
    SETTING_COUNT,     /* uint32_t */
    SETTING_RATE,      /* struct rate, "300/m", or 0 for none */
    SETTING_BOOL,      /* bool */
    SETTING_ENUM,      /* an enum whose words stand in `values` */
    SETTING_HASH,      /* struct token_hash */
    SETTING_NETWORKS,  /* struct network_list; in the file a list, here "a, b" */
    SETTING_GLOBS,     /* struct text_list, likewise */
    SETTING_BRANCHES,  /* struct text_list, likewise */
};

enum setting_section {
    SECTION_top,
    SECTION_tls,
    SECTION_upstreams,
    SECTION_clients,
    SECTION_limits,
    SECTION_cache,
    SECTION_shared,
    SECTION_redis,
    SECTION_cluster,
    SECTION_admin,
    SECTION_metrics,
    SECTION_warm,
    SECTION_warm_repositories, /* behind the mapping that holds it */
    SECTION_log,
    SECTION_COUNT
};

struct setting {
    enum setting_section section;
    enum setting_type type;
    const char *key;
    size_t offset; /* in struct config; of a list's rows: in the struct of its entries */
    const char *min, *max;
    const char *standard; /* the default; NULL: none, or worked out at start */
    bool restart;
    const char *values, *prose;
};

/* setting_limits_body and so on: the row's place in setting_table. */
enum setting_id {
#define X(section, key, ...) setting_##section##_##key,
    CONFIG_TABLE(X)
#undef X
        SETTINGS_TOTAL
};

extern const struct setting setting_table[SETTINGS_TOTAL];

/* "limits", "upstreams", "warm.repositories"; "" for the top. */
const char *section_name(enum setting_section section);

/* Is it written as a list?  Its text then holds the items with ", " between them; none of them may
 * hold a comma. */
bool setting_is_list(const struct setting *s);

/* A section that is a list of mappings, and where struct config has it. */
struct setting_list {
    enum setting_section section;
    size_t items_offset, count_offset, item_size;
    size_t max;
    const char *beyond, *like;   /* advice: to who has more; how an entry is written */
    enum setting_section within; /* SECTION_top, or the mapping that holds it */
    const char *key;             /* what it is called there */
};
/* NULL for a section that is a mapping. */
const struct setting_list *setting_list_of(enum setting_section section);
size_t setting_list_count(const struct setting_list *l, const struct config *c);
void *setting_list_item(const struct setting_list *l, const struct config *c, size_t index);
/* One more entry at its end, with the defaults. */
void *setting_list_add(const struct setting_list *l, struct config *c);
/* Free all entries. */
void setting_list_clear(const struct setting_list *l, struct config *c);

enum { SETTING_WHY_MAX = 200 };

/* Put what text says into the setting's field of base.  false: base is as it was, and why says
 * what is wrong and what would be right ("..., ...; ..."), without text where that could hold a
 * secret. */
bool setting_set(const struct setting *s, const char *text, void *base, char why[SETTING_WHY_MAX]);

/* The field of base as text that setting_set() takes; NULL when it is not set.  Yours to free. */
char *setting_get(const struct setting *s, const void *base);

/* Put the defaults of one section's settings into base, which is zeroed or was set before. */
void setting_set_defaults(enum setting_section section, void *base);

/* Free what the settings of one section hold in base. */
void setting_clear(enum setting_section section, void *base);

/* May text stand as an upstream's name?  with_star: one '*' is welcome. */
bool upstream_name_ok(const char *text, bool with_star, char why[SETTING_WHY_MAX]);

/* Likewise its URL.  On success *len is the length without trailing slashes. */
bool upstream_url_ok(const char *text, bool with_star, size_t *len, char why[SETTING_WHY_MAX]);

#endif
