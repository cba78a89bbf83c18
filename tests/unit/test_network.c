#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "proxy/network.h"

static void a_network_holds_its_addresses_and_no_other(void **state)
{
    static const struct {
        const char *network, *address;
        bool holds;
    } cases[] = {
        {"10.0.0.0/8", "10.255.0.1", true},
        {"10.0.0.0/8", "11.0.0.0", false},
        {"10.1.2.128/25", "10.1.2.128", true},
        {"10.1.2.128/25", "10.1.2.127", false},
        {"10.1.2.3", "10.1.2.3", true},
        {"10.1.2.3", "10.1.2.2", false},
        {"10.1.2.3/32", "10.1.2.3", true},
        {"0.0.0.0/0", "255.1.2.3", true},
        {"0.0.0.0/0", "::1", false},
        {"::/0", "fe80::1", true},
        {"::/0", "1.2.3.4", false},
        {"2001:db8::/32", "2001:db8:ffff::1", true},
        {"2001:db8::/32", "2001:db9::1", false},
        {"2001:db8::/33", "2001:db8:8000::", false},
        {"::1", "::1", true},
        {"10.0.0.0/8", "::ffff:10.1.2.3", true},
        {"::ffff:10.1.2.3", "10.1.2.3", true},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct network network;
        struct address address;

        if (!network_parse(cases[i].network, &network) ||
            !address_parse(cases[i].address, &address) ||
            network_holds(&network, &address) != cases[i].holds)
            fail_msg("%s and %s", cases[i].network, cases[i].address);
    }
}

static void what_is_no_network_is_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "/8",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/8x",
        "10.0.0.0/ 8",
        "10.0.0/8",
        "10.0.0.0/0008",
        "10.0.0.1/8", /* bits behind its length */
        "2001:db8::1/32",
        "::/129",
        "::ffff:10.0.0.0/104",
        "localhost",
        "fe80::1%eth0",
        "1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc/64"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct network n;

        if (network_parse(bad[i], &n))
            fail_msg("taken: %s", bad[i]);
    }
}

static void what_is_written_reads_the_same(void **state)
{
    static const char *const texts[] = {"10.0.0.0/8", "1.2.3.4/32", "0.0.0.0/0", "2001:db8::/32",
                                        "::1/128"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        char text[NETWORK_TEXT_MAX];
        struct network n;

        assert_true(network_parse(texts[i], &n));
        network_format(&n, text);
        assert_string_equal(text, texts[i]);
    }
}

static void loopback_is_this_machine_alone(void **state)
{
    static const struct {
        const char *text;
        bool is;
    } cases[] = {{"127.0.0.1", true},  {"127.9.9.9", true},        {"::1", true},
                 {"128.0.0.1", false}, {"::ffff:127.0.0.1", true}, {"::2", false},
                 {"::", false},        {"0.0.0.0", false},         {"::127.0.0.1", false}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct address a;

        assert_true(address_parse(cases[i].text, &a));
        if (address_is_loopback(&a) != cases[i].is)
            fail_msg("%s", cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_network_holds_its_addresses_and_no_other),
        cmocka_unit_test(what_is_no_network_is_refused),
        cmocka_unit_test(what_is_written_reads_the_same),
        cmocka_unit_test(loopback_is_this_machine_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
