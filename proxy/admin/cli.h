/* The commands that speak the admin API of a pannier, wherever it runs.  All return the exit
 * status. REPO is "<upstream>/<path>", as for `pannier show`, or the URL upstream of one that is
 * kept there, or a repository's id. */
#ifndef PANNIER_PROXY_ADMIN_CLI_H
#define PANNIER_PROXY_ADMIN_CLI_H

#include "proxy/command_line.h"

/* What there is: cli_overview.c */
int admin_cli_ls(const struct command_line *line);
int admin_cli_nodes(const struct command_line *line);
int admin_cli_stats(const struct command_line *line);
/* Until it is interrupted; without a terminal one look is all. */
int admin_cli_top(const struct command_line *line);

/* One repository: cli_repository.c */
int admin_cli_show(const struct command_line *line);
int admin_cli_refs(const struct command_line *line);
int admin_cli_invalidate(const struct command_line *line);
int admin_cli_refresh(const struct command_line *line);
int admin_cli_pin(const struct command_line *line);
int admin_cli_unpin(const struct command_line *line);

/* cli_warm.c */
int admin_cli_warm(const struct command_line *line);

#endif
