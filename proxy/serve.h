/* `pannier serve`: everything put together, started, reloaded and stopped. */
#ifndef PANNIER_PROXY_SERVE_H
#define PANNIER_PROXY_SERVE_H

#include "cache/cache.h"
#include "proxy/config.h"

/* What a reload needs to load the configuration again.  Borrowed until serve_run() returns. */
struct serve_origin {
    const char *file;
    const struct config_overrides *overrides;
};

/* Serve until SIGTERM or SIGINT.  Logs "listening" with the address once it accepts connections.
 * SIGHUP reloads.  Returns the exit status: 0 after a graceful stop, 1 when it could not start
 * (one clear sentence on stderr).  Main thread only; call once. */
int serve_run(struct config *config, const struct serve_origin *origin);

/* What the configuration says about the cache: for whoever opens it. */
void serve_cache_options(const struct config *c, struct cache_options *out);

#endif
