/* Numbers and times as people read them. */
#ifndef PANNIER_PROXY_PEOPLE_H
#define PANNIER_PROXY_PEOPLE_H

#include <stdint.h>

enum { PEOPLE_TEXT_MAX = 40 };

void people_size(uint64_t bytes, char out[PEOPLE_TEXT_MAX]);
/* ISO 8601, local; "never" for 0. */
void people_time(int64_t s, char out[PEOPLE_TEXT_MAX]);
/* "5 min ago", or as people_time() what is long ago. */
void people_ago(int64_t s, int64_t now_s, char out[PEOPLE_TEXT_MAX]);

#endif
