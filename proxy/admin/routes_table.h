/* Every route of the admin listener, once.  proxy/admin/openapi.json describes those below /api/
 * and is compared with this table by a test.
 *
 *     X(method, path, scope, handler)
 *
 * {id} is one segment.  HEAD goes where GET goes.  scope: what a token needs (SCOPE_ is left out);
 * NONE: everybody may. */
#ifndef PANNIER_PROXY_ADMIN_ROUTES_TABLE_H
#define PANNIER_PROXY_ADMIN_ROUTES_TABLE_H

#define ADMIN_ROUTES(X)                                                                            \
    X(GET, "/", NONE, admin_web)                                                                   \
    X(GET, "/page/{id}", NONE, admin_web_file)                                                     \
    X(GET, "/metrics", READ, admin_metrics)                                                        \
    X(GET, "/api/v1/openapi.json", NONE, admin_openapi)                                            \
    X(GET, "/api/v1/whoami", READ, admin_whoami)                                                   \
    X(GET, "/api/v1/requests", READ, admin_list_requests)                                          \
    X(GET, "/api/v1/history", READ, admin_history)                                                 \
    X(GET, "/api/v1/repositories", READ, admin_list_repositories)                                  \
    X(GET, "/api/v1/repositories/{id}", READ, admin_show_repository)                               \
    X(DELETE, "/api/v1/repositories/{id}", OPERATE, admin_remove_repository)                       \
    X(POST, "/api/v1/repositories/{id}/invalidate", OPERATE, admin_invalidate)                     \
    X(POST, "/api/v1/repositories/{id}/refresh", OPERATE, admin_refresh)                           \
    X(POST, "/api/v1/repositories/{id}/pin", OPERATE, admin_pin)                                   \
    X(DELETE, "/api/v1/repositories/{id}/pin", OPERATE, admin_unpin)                               \
    X(GET, "/api/v1/repositories/{id}/refs", READ, admin_list_refs)                                \
    X(POST, "/api/v1/invalidate", OPERATE, admin_invalidate_all)                                   \
    X(GET, "/api/v1/answers", READ, admin_list_answers)                                            \
    X(POST, "/api/v1/warmups", OPERATE, admin_begin_warmup)                                        \
    X(GET, "/api/v1/warmups", READ, admin_list_warmups)                                            \
    X(GET, "/api/v1/warmups/{id}", READ, admin_show_warmup)                                        \
    X(GET, "/api/v1/nodes", READ, admin_list_nodes)                                                \
    X(DELETE, "/api/v1/nodes/{id}", OPERATE, admin_forget_node)                                    \
    X(GET, "/api/v1/stats", READ, admin_stats)                                                     \
    X(GET, "/api/v1/events", READ, admin_events)                                                   \
    X(GET, "/api/v1/log/level", READ, admin_get_log_level)                                         \
    X(PUT, "/api/v1/log/level", OPERATE, admin_set_log_level)                                      \
    X(POST, "/api/v1/evict", OPERATE, admin_evict)

#endif
