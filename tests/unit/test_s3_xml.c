#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "protocol/bytes.h"
#include "protocol/s3_xml.h"

static int add_line(void *ctx, const char *path, const char *text)
{
    return bytes_addf(ctx, "%s=%s\n", path, text);
}

static int walk(const char *xml, struct bytes *lines, struct err *err)
{
    bytes_init(lines, 1 << 20);
    return s3_xml_walk(xml, strlen(xml), add_line, lines, err);
}

static void every_element_is_told_with_its_path_and_text(void **state)
{
    struct bytes lines;
    struct err err;

    (void)state;
    assert_int_equal(
        walk("<?xml version=\"1.0\"?>\n<R xmlns=\"urn:x\">\n <a:A xmlns:a=\"urn:y\"> <B>"
             "1 &amp; &#50;</B>\n </a:A> <C/>\n</R>",
             &lines, &err),
        0);
    assert_string_equal(lines.data, "R/A/B=1 & 2\nR/A=\nR/C=\nR=\n");
    bytes_clear(&lines);
}

static void whoever_had_enough_gets_no_more(void **state)
{
    struct bytes lines;
    struct err err;
    static const char xml[] = "<R><A>1</A><B>2</B>this needn't even end";

    (void)state;
    bytes_init(&lines, strlen("R/A=1\n")); /* the second add fails */
    assert_int_equal(s3_xml_walk(xml, strlen(xml), add_line, &lines, &err), 0);
    assert_string_equal(lines.data, "R/A=1\n");
    bytes_clear(&lines);
}

static void what_could_grow_or_is_none_is_refused(void **state)
{
    static const struct {
        const char *xml, *words;
    } rows[] = {
        {"<!DOCTYPE R [<!ENTITY x \"y\">]><R>&x;</R>", "document type"},
        {"<a><a><a><a><a><a><a><a><a/></a></a></a></a></a></a></a></a>", "too deeply"},
        {"<R>", "can't be read"},
        {"", "can't be read"},
        {"no xml", "can't be read"},
        {"<R>&undefined;</R>", "can't be read"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct bytes lines;
        struct err err = {ERR_NONE, ""};

        assert_int_equal(walk(rows[i].xml, &lines, &err), -1);
        assert_int_equal(err.kind, ERR_UPSTREAM);
        assert_non_null(strstr(err.text, rows[i].words));
        bytes_clear(&lines);
    }
}

static void a_text_has_a_bound(void **state)
{
    char *text = xmalloc(S3_XML_TEXT_MAX + 2), *xml;
    struct bytes lines;
    struct err err;

    (void)state;
    memset(text, 'x', S3_XML_TEXT_MAX + 1);
    text[S3_XML_TEXT_MAX + 1] = '\0';
    xml = xasprintf("<R>%s</R>", text);
    assert_int_equal(walk(xml, &lines, &err), -1);
    assert_non_null(strstr(err.text, "too long"));
    bytes_clear(&lines);
    free(xml);
    xml = xasprintf("<R>%s</R>", text + 1);
    assert_int_equal(walk(xml, &lines, &err), 0);
    bytes_clear(&lines);
    free(xml);
    free(text);
}

static void times_are_read_through_leap_years(void **state)
{
    static const struct {
        const char *text;
        int64_t time;
    } rows[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"2000-02-29T00:00:00.000Z", 951782400},
        {"2013-05-24T00:00:00.123Z", 1369353600},
        {"2024-12-31T23:59:59Z", 1735689599},
        {"2100-03-01T00:00:00Z", 4107542400},
    };
    static const char *const none[] = {"",
                                       "yesterday",
                                       "2024-12-31",
                                       "2024-13-01T00:00:00Z",
                                       "1969-12-31T23:59:59Z",
                                       "2024-12-31T23:59:59+01:00"};
    int64_t time;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_true(s3_xml_time(rows[i].text, &time));
        assert_int_equal(time, rows[i].time);
    }
    for (size_t i = 0; i < ARRAY_LEN(none); i++)
        assert_false(s3_xml_time(none[i], &time));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_element_is_told_with_its_path_and_text),
        cmocka_unit_test(whoever_had_enough_gets_no_more),
        cmocka_unit_test(what_could_grow_or_is_none_is_refused),
        cmocka_unit_test(a_text_has_a_bound),
        cmocka_unit_test(times_are_read_through_leap_years),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
