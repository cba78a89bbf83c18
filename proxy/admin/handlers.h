/* What the routes of routes_table.h do, each in a worker of the admin listener's. */
#ifndef PANNIER_PROXY_ADMIN_HANDLERS_H
#define PANNIER_PROXY_ADMIN_HANDLERS_H

#include "proxy/exchange.h"

struct history;

void admin_metrics(struct exchange *x);
void admin_openapi(struct exchange *x);
void admin_web(struct exchange *x);
void admin_web_file(struct exchange *x);

void admin_whoami(struct exchange *x);
void admin_list_requests(struct exchange *x);
void admin_history(struct exchange *x);

void admin_list_repositories(struct exchange *x);
void admin_show_repository(struct exchange *x);
void admin_remove_repository(struct exchange *x);
void admin_list_refs(struct exchange *x);
void admin_invalidate(struct exchange *x);
void admin_invalidate_all(struct exchange *x);
void admin_refresh(struct exchange *x);
void admin_pin(struct exchange *x);
void admin_unpin(struct exchange *x);

void admin_begin_warmup(struct exchange *x);
void admin_list_warmups(struct exchange *x);
void admin_show_warmup(struct exchange *x);

void admin_list_answers(struct exchange *x);
void admin_list_nodes(struct exchange *x);
void admin_forget_node(struct exchange *x);
void admin_stats(struct exchange *x);
void admin_events(struct exchange *x);
void admin_get_log_level(struct exchange *x);
void admin_set_log_level(struct exchange *x);
void admin_evict(struct exchange *x);

/* A refresh takes its worker for as long as upstream takes, so there are few at once.  False: there
 * are enough; true: admin_refreshed() afterwards. */
bool admin_may_refresh(struct exchange *x);
void admin_refreshed(struct exchange *x);

struct history *admin_history_of(struct admin *a);

#endif
