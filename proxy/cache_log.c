#include "proxy/cache_log.h"

#include "proxy/log.h"

/* ---- the data folder ---- */

static void on_trouble(void *ctx, const struct err *trouble)
{
    (void)ctx;
    if (trouble != NULL)
        log_line(LOG_WARN, "the disk fails; clones pass through and nothing is kept", "reason",
                 LOG_STR, trouble->text, NULL);
    else
        log_line(LOG_INFO, "the disk works again", NULL);
}

static void on_damage(void *ctx, const char *what, const struct err *why)
{
    (void)ctx;
    log_line(LOG_WARN, "damage found; dropped, to be made again", "what", LOG_STR, what, "reason",
             LOG_STR, why->text, NULL);
}

const struct folder_listener cache_log_folder = {.trouble = on_trouble, .damage = on_damage};

/* ---- the janitor ---- */

static void on_scanned(void *ctx, const struct local_usage *found, uint64_t took_us)
{
    (void)ctx;
    log_line(LOG_INFO, "index compared with the files", "answers", LOG_U64,
             found->entries[ENTRY_ANSWER], "mirrors", LOG_U64, found->entries[ENTRY_MIRROR],
             "bytes", LOG_U64, found->total, "total_ms", LOG_MS, took_us, NULL);
}

static void on_maintained(void *ctx, const char *repo, const struct mirror_upkeep *what,
                          uint64_t took_us)
{
    (void)ctx;
    log_line(LOG_INFO, "mirror maintained", "repository", LOG_STR, repo, "packs_before", LOG_U64,
             (uint64_t)what->packs_before, "packs", LOG_U64, (uint64_t)what->packs_after,
             "tips_before", LOG_U64, (uint64_t)what->tips_before, "tips", LOG_U64,
             (uint64_t)what->tips_after, "bytes", LOG_U64, what->bytes_after, "total_ms", LOG_MS,
             took_us, NULL);
}

static void on_upkeep_failed(void *ctx, const char *repo, const struct err *why)
{
    (void)ctx;
    /* No room for a second copy is nobody's fault; nor is a mirror that went meanwhile. */
    log_line(why->kind == ERR_LIMIT || why->kind == ERR_NOT_FOUND ? LOG_DEBUG : LOG_WARN,
             "mirror not maintained", "repository", LOG_STR, repo, "reason", LOG_STR, why->text,
             NULL);
}

const struct janitor_listener cache_log_janitor = {
    .scanned = on_scanned, .maintained = on_maintained, .failed = on_upkeep_failed};

/* ---- the shared tier ---- */

static void on_shared_changed(void *ctx, const struct err *why)
{
    (void)ctx;
    if (why != NULL)
        log_line(LOG_WARN, "the shared tier can't be used; serving without it", "reason", LOG_STR,
                 why->text, NULL);
    else
        log_line(LOG_INFO, "the shared tier works", NULL);
}

static void on_uploaded(void *ctx, const char *path, uint64_t bytes, uint64_t took_us)
{
    (void)ctx;
    log_line(LOG_INFO, "uploaded", "path", LOG_STR, path, "bytes", LOG_U64, bytes, "total_ms",
             LOG_MS, took_us, NULL);
}

static void on_not_uploaded(void *ctx, const char *path, const struct err *why)
{
    (void)ctx;
    log_line(LOG_WARN, "not uploaded", "path", LOG_STR, path, "reason", LOG_STR, why->text, NULL);
}

static void on_shared_damage(void *ctx, const char *what, const struct err *why)
{
    (void)ctx;
    log_line(LOG_WARN, "damage found in the shared tier; removed, to be made again", "what",
             LOG_STR, what, "reason", LOG_STR, why->text, NULL);
}

static void on_tidied(void *ctx, const struct keeper_round *round, uint64_t took_us)
{
    (void)ctx;
    log_line(LOG_INFO, "shared tier tidied", "objects", LOG_U64, round->objects, "bytes", LOG_U64,
             round->bytes, "removed", LOG_U64, round->removed, "removed_bytes", LOG_U64,
             round->removed_bytes, "orphans", LOG_U64, round->orphans, "total_ms", LOG_MS, took_us,
             NULL);
}

static void on_demoted(void *ctx, const struct keeper_demoted *what)
{
    (void)ctx;
    log_line(LOG_INFO, "large and cold: left to the shared tier", "entries", LOG_U64,
             (uint64_t)what->entries, "bytes", LOG_U64, what->bytes, NULL);
}

const struct shared_listener cache_log_shared = {.changed = on_shared_changed,
                                                 .uploaded = on_uploaded,
                                                 .not_uploaded = on_not_uploaded,
                                                 .damage = on_shared_damage,
                                                 .tidied = on_tidied,
                                                 .demoted = on_demoted};
