#include "proxy/network.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned bits_of(const struct address *a)
{
    return a->v6 ? 128 : 32;
}

bool address_parse(const char *text, struct address *out)
{
    static const uint8_t carried[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

    *out = (struct address){0};
    if (inet_pton(AF_INET, text, out->bytes) == 1)
        return true;
    if (inet_pton(AF_INET6, text, out->bytes) != 1)
        return false;
    out->v6 = memcmp(out->bytes, carried, sizeof(carried)) != 0;
    if (!out->v6) {
        memcpy(out->bytes, out->bytes + sizeof(carried), 4);
        memset(out->bytes + 4, 0, sizeof(carried));
    }
    return true;
}

bool address_is_loopback(const struct address *a)
{
    static const uint8_t one[16] = {[15] = 1};

    return a->v6 ? memcmp(a->bytes, one, sizeof(one)) == 0 : a->bytes[0] == 127;
}

static bool bit_of(const struct address *a, unsigned bit)
{
    return (a->bytes[bit / 8] >> (7 - bit % 8) & 1) != 0;
}

bool network_parse(const char *text, struct network *out)
{
    char address[NETWORK_TEXT_MAX];
    const char *slash = strchr(text, '/'), *digits;
    size_t len = slash != NULL ? (size_t)(slash - text) : strlen(text);

    if (len >= sizeof(address))
        return false;
    memcpy(address, text, len);
    address[len] = '\0';
    if (!address_parse(address, &out->first))
        return false;
    out->bits = bits_of(&out->first);
    if (slash == NULL)
        return true;
    digits = slash + 1;
    len = strspn(digits, "0123456789");
    /* The length that such an address is written with counts what is around it, too. */
    if (len == 0 || len > 3 || digits[len] != '\0' || (!out->first.v6 && strchr(address, ':')) ||
        (unsigned)atoi(digits) > out->bits)
        return false;
    out->bits = (unsigned)atoi(digits);
    for (unsigned bit = out->bits; bit < bits_of(&out->first); bit++)
        if (bit_of(&out->first, bit))
            return false;
    return true;
}

void network_format(const struct network *n, char out[NETWORK_TEXT_MAX])
{
    char address[INET6_ADDRSTRLEN] = "";

    inet_ntop(n->first.v6 ? AF_INET6 : AF_INET, n->first.bytes, address, sizeof(address));
    snprintf(out, NETWORK_TEXT_MAX, "%s/%u", address, n->bits);
}

bool network_holds(const struct network *n, const struct address *a)
{
    if (n->first.v6 != a->v6)
        return false;
    for (unsigned bit = 0; bit < n->bits; bit++)
        if (bit_of(&n->first, bit) != bit_of(a, bit))
            return false;
    return true;
}
