/* What the cache tells of itself, as log lines. */
#ifndef PANNIER_PROXY_CACHE_LOG_H
#define PANNIER_PROXY_CACHE_LOG_H

#include "cache/folder.h"
#include "cache/janitor.h"
#include "cache/shared/shared.h"

extern const struct folder_listener cache_log_folder;
extern const struct janitor_listener cache_log_janitor;
extern const struct shared_listener cache_log_shared;

#endif
