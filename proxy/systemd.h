/* What systemd and pannier say to each other: sockets that it opened for us (sd_listen_fds(3)), and
 * when we are ready (sd_notify(3)).  Three environment variables and a datagram, so there is no
 * library for it.  Main thread, without systemd all of it does nothing. */
#ifndef PANNIER_PROXY_SYSTEMD_H
#define PANNIER_PROXY_SYSTEMD_H

#include "protocol/err.h"

/* Sockets that listen already; 0: none.  FileDescriptorName= says for whom one is: "admin",
 * "cluster"; any other name, and none, is for clients. */
struct systemd_sockets {
    int clients, admin, cluster;
};

/* Call once, before there are threads or children: the variables are removed.  The sockets are the
 * caller's to close.  -1 (ERR_INPUT): two for the same, or what was passed doesn't listen. */
int systemd_take_sockets(struct systemd_sockets *out, struct err *err);

/* Tell the service manager, if there is one; what doesn't arrive is not our trouble. */
void systemd_ready(void);
void systemd_reloading(void); /* systemd_ready() follows */
void systemd_stopping(void);

#endif
