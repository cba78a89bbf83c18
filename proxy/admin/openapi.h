/* proxy/admin/openapi.json, as it lies there; CMake puts it in. */
#ifndef PANNIER_PROXY_ADMIN_OPENAPI_H
#define PANNIER_PROXY_ADMIN_OPENAPI_H

#include <stddef.h>

extern const unsigned char openapi_json[];
extern const size_t openapi_json_len;

#endif
