#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "protocol/glob.h"

static void a_pattern_matches_what_it_says_and_nothing_else(void **state)
{
    static const struct {
        const char *pattern, *path;
        bool matches;
    } cases[] = {
        {"github.com/acme/a", "github.com/acme/a", true},
        {"github.com/acme/a", "github.com/acme/ab", false},
        {"github.com/acme/ab", "github.com/acme/a", false},
        {"github.com/acme/a", "github.com/ACME/a", false},
        {"github.com/acme/a", "githubXcom/acme/a", false},
        {"github.com/acme/*", "github.com/acme/a", true},
        {"github.com/acme/*", "github.com/acme/a/b", false},
        {"github.com/acme/*", "github.com/acmeX/a", false},
        {"github.com/acme/*", "evil.com/github.com/acme/a", false},
        {"github.com/*/a", "github.com/acme/a", true},
        {"github.com/*/a", "github.com/acme/b/a", false},
        {"github.com/**/a", "github.com/acme/b/a", true},
        {"github.com/acme/a*b*c", "github.com/acme/axbycbc", true},
        {"github.com/acme/a*b*c", "github.com/acme/axbycbd", false},
        {"github.com/acme/*-docs", "github.com/acme/x-docs", true},
        {"github.com/acme/*-docs", "github.com/acme/x-docs-y", false},
        {"github.com/**", "github.com/a/b/c", true},
        {"github.com/**", "gitlab.com/a/b/c", false},
        {"**", "anything/at/all", true},
        {"*/a", "github.com/a", true},
        {"*/a", "github.com/b/a", false},
        {"***/x", "a/b/x", true},
        {"a/**b/*c", "a/x/y/b/zc", true},
        {"a/**b/*c", "a/x/y/b/z/c", false},
        {"", "", true},
        {"", "a", false},
        {"*", "", true},
        {"a/[b]?", "a/bx", false}, /* nothing else is special */
        {"a/[b]?", "a/[b]?", true},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        if (glob_matches(cases[i].pattern, cases[i].path) != cases[i].matches)
            fail_msg("%s on %s", cases[i].pattern, cases[i].path);
}

/* A matcher that tries again and again would take longer than the sun lasts. */
static void a_pattern_of_many_stars_costs_little(void **state)
{
    char pattern[GLOB_MAX + 1], path[4097];

    (void)state;
    for (size_t i = 0; i < GLOB_MAX; i++)
        pattern[i] = i % 2 == 0 ? '*' : 'a';
    pattern[GLOB_MAX] = '\0';
    memset(path, 'a', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    path[sizeof(path) - 2] = 'b';
    assert_false(glob_matches(pattern, path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pattern_matches_what_it_says_and_nothing_else),
        cmocka_unit_test(a_pattern_of_many_stars_costs_little),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
