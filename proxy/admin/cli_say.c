#include "proxy/admin/cli_say.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "protocol/base.h"
#include "proxy/people.h"
#include "proxy/table.h"

uint64_t said_number(const json_t *object, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(object, key));
}

const char *said_words(const json_t *object, const char *key, const char *otherwise)
{
    const char *s = json_string_value(json_object_get(object, key));

    return s != NULL ? s : otherwise;
}

void said_ratio(const json_t *object, const char *key, char out[SAID_RATIO_SIZE])
{
    const json_t *value = json_object_get(object, key);

    if (json_is_number(value))
        snprintf(out, SAID_RATIO_SIZE, "%.1f %%", 100 * json_number_value(value));
    else
        snprintf(out, SAID_RATIO_SIZE, "-");
}

void say_size(const char *name, uint64_t bytes)
{
    char text[PEOPLE_TEXT_MAX];

    people_size(bytes, text);
    print_field(name, text);
}

void say_number(const char *name, uint64_t n)
{
    printf("  %-14s%" PRIu64 "\n", name, n);
}

void say_time(const char *name, uint64_t s)
{
    char text[PEOPLE_TEXT_MAX];

    people_time((int64_t)s, text);
    print_field(name, text);
}

void say_ratio(const char *name, const json_t *object, const char *key)
{
    char text[SAID_RATIO_SIZE];

    said_ratio(object, key, text);
    print_field(name, text);
}

void say_json(const json_t *json)
{
    char *text = json_dumps(json, JSON_INDENT(2));

    must(text != NULL);
    puts(text);
    free(text);
}

bool say_in_colour(FILE *out)
{
    const char *no = getenv("NO_COLOR"), *terminal = getenv("TERM");

    return isatty(fileno(out)) && (no == NULL || *no == '\0') &&
           (terminal == NULL || strcmp(terminal, "dumb") != 0);
}

void say_failure(const char *text)
{
    bool coloured = say_in_colour(stderr);

    fputs(coloured ? "\033[31mpannier:\033[0m " : "pannier: ", stderr);
    print_name(text, stderr);
    putc('\n', stderr);
}

int say_error(const struct command_line *line, const struct err *why)
{
    if (line->json) {
        json_t *json = json_pack("{s:{s:s, s:s}}", "error", "kind", err_kind_name(why->kind),
                                 "text", why->text);

        if (json != NULL)
            say_json(json);
        json_decref(json);
    } else {
        say_failure(why->text);
    }
    return why->kind == ERR_INPUT ? EXIT_USAGE : EXIT_FAILED;
}
