/* The commands that look at what is kept: each asks the process that serves, or opens the folder
 * itself when none does.  All return the exit status; see proxy/commands.h for what they do. */
#ifndef PANNIER_PROXY_CLI_H
#define PANNIER_PROXY_CLI_H

#include "proxy/command_line.h"

int cli_ls(const struct command_line *line);
int cli_show(const struct command_line *line);
int cli_rm(const struct command_line *line);
int cli_verify(const struct command_line *line);
int cli_evict(const struct command_line *line);

#endif
