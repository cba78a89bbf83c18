/* Addresses of clients, and networks of them. */
#ifndef PANNIER_PROXY_NETWORK_H
#define PANNIER_PROXY_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An IPv4 address that IPv6 carries (::ffff:10.0.0.1) is the IPv4 address. */
struct address {
    bool v6;
    uint8_t bytes[16]; /* IPv4: the first four */
};
bool address_parse(const char *text, struct address *out);
bool address_is_loopback(const struct address *a);

struct network {
    struct address first;
    unsigned bits; /* that all its addresses share */
};
enum { NETWORK_TEXT_MAX = 64 };
/* "10.0.0.0/8", "2001:db8::/32", or one address.  False also when bits are set behind the length:
 * it is not clear then what was meant. */
bool network_parse(const char *text, struct network *out);
void network_format(const struct network *n, char out[NETWORK_TEXT_MAX]);
bool network_holds(const struct network *n, const struct address *a);

struct network_list {
    struct network *items;
    size_t count;
};

#endif
