/* An exchange's way from phase to phase (see exchange.h), as libmicrohttpd calls: its first line,
 * its headers, its body piece by piece, its turn once it's woken, and its end.  HTTP threads. */
#ifndef PANNIER_PROXY_PHASES_H
#define PANNIER_PROXY_PHASES_H

#include <microhttpd.h>

/* cls: the struct server.  The struct server_part that is begun is what *con_cls holds later. */
void *phases_on_first_line(void *cls, const char *target, struct MHD_Connection *connection);
enum MHD_Result phases_on_request(void *cls, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_len, void **con_cls);
void phases_on_completed(void *cls, struct MHD_Connection *connection, void **con_cls,
                         enum MHD_RequestTerminationCode why);

#endif
