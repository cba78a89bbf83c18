#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "protocol/base.h"
#include "proxy/log.h"

/* What goes to stderr between capture_begin() and capture_end() comes back as text. */
struct capture {
    int kept;
    FILE *file;
};

static void capture_begin(struct capture *c)
{
    c->kept = dup(STDERR_FILENO);
    c->file = tmpfile();
    assert_non_null(c->file);
    assert_int_not_equal(dup2(fileno(c->file), STDERR_FILENO), -1);
}

static char *capture_end(struct capture *c)
{
    long len;
    char *text;

    dup2(c->kept, STDERR_FILENO);
    close(c->kept);
    fseek(c->file, 0, SEEK_END);
    len = ftell(c->file);
    rewind(c->file);
    text = xcalloc(1, (size_t)len + 1);
    assert_int_equal(fread(text, 1, (size_t)len, c->file), len);
    fclose(c->file);
    return text;
}

/* One line with one field, without its time: " info test v=...\n". */
static char *logged(enum log_format format, const char *value)
{
    struct capture c;
    char *text, *rest, *found;

    capture_begin(&c);
    log_set(format, LOG_INFO);
    log_line(LOG_INFO, "test", "v", LOG_STR, value, NULL);
    text = capture_end(&c);
    found = strstr(text, format == LOG_JSON ? "\"level\"" : "info");
    assert_non_null(found);
    rest = xstrdup(found);
    free(text);
    return rest;
}

static void values_are_quoted_so_that_none_can_forge_a_line(void **state)
{
    static const struct {
        const char *value, *text, *json;
    } cases[] = {
        {"plain", "plain", "plain"},
        {"a/b.git-1:2@x?y&z", "a/b.git-1:2@x?y&z", "a/b.git-1:2@x?y&z"},
        {"", "\"\"", ""},
        {"two words", "\"two words\"", "two words"},
        {"a=b", "\"a=b\"", "a=b"},
        {"say \"hi\"", "\"say \\\"hi\\\"\"", "say \\\"hi\\\""},
        {"back\\slash", "\"back\\\\slash\"", "back\\\\slash"},
        {"a\nb", "\"a\\nb\"", "a\\u000ab"},
        {"a\r\tb", "\"a\\r\\tb\"", "a\\u000d\\u0009b"},
        {"\x1b[31m", "\"\\x1b[31m\"", "\\u001b[31m"},
        {"\x7f", "\"\\x7f\"", "\\u007f"},
        {"\xc2\x9b", "\"\\xc2\\x9b\"", "\\u009b"}, /* CSI in one character */
        {"\xc3\xa9", "\"\\xc3\\xa9\"", "\\u00e9"},
        {"\xe2\x80\xae", "\"\\xe2\\x80\\xae\"", "\\u202e"}, /* writes on from right to left */
        {"\xf0\x9f\x98\x80", "\"\\xf0\\x9f\\x98\\x80\"", "\\ud83d\\ude00"},
        {"\xff", "\"\\xff\"", "\\ufffd"},
        {"\xc3(", "\"\\xc3(\"", "\\ufffd("},
        {"\xc0\xaf", "\"\\xc0\\xaf\"", "\\ufffd\\ufffd"},
        {"\xed\xa0\x80", "\"\\xed\\xa0\\x80\"", "\\ufffd\\ufffd\\ufffd"},
        {"\xe2\x80", "\"\\xe2\\x80\"", "\\ufffd\\ufffd"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *text = logged(LOG_TEXT, cases[i].value), *json = logged(LOG_JSON, cases[i].value);
        char *want_text = xasprintf("info test v=%s\n", cases[i].text);
        char *want_json =
            xasprintf("\"level\":\"info\",\"event\":\"test\",\"v\":\"%s\"}\n", cases[i].json);

        assert_string_equal(text, want_text);
        assert_string_equal(json, want_json);
        free(text);
        free(json);
        free(want_text);
        free(want_json);
    }
}

static void numbers_and_milliseconds_and_absent_strings_have_their_form(void **state)
{
    struct capture c;
    char *text;

    (void)state;
    capture_begin(&c);
    log_set(LOG_TEXT, LOG_INFO);
    log_line(LOG_WARN, "two words", "n", LOG_U64, UINT64_MAX, "none", LOG_STR, NULL, "no",
             LOG_NO_U64, UINT64_C(7), "t", LOG_MS, UINT64_C(12345), "u", LOG_MS, UINT64_C(99),
             NULL);
    log_set(LOG_JSON, LOG_INFO);
    log_line(LOG_ERROR, "bad \"event\"", "none", LOG_STR, NULL, "n", LOG_U64, UINT64_C(0), NULL);
    text = capture_end(&c);
    assert_non_null(strstr(text, "Z warn two words n=18446744073709551615 t=12.3 u=0.0\n"));
    assert_non_null(
        strstr(text, "\",\"level\":\"error\",\"event\":\"bad \\\"event\\\"\",\"n\":0}\n"));
    free(text);
}

static void the_time_is_utc_with_milliseconds(void **state)
{
    struct capture c;
    int year, month, day, hour, minute, second, ms, end = 0;
    char *text;

    (void)state;
    setenv("TZ", "Asia/Kathmandu", 1);
    capture_begin(&c);
    log_set(LOG_TEXT, LOG_INFO);
    log_line(LOG_INFO, "x", NULL);
    text = capture_end(&c);
    assert_int_equal(sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ info x\n%n", &year, &month, &day,
                            &hour, &minute, &second, &ms, &end),
                     7);
    assert_int_equal(end, strlen(text));
    assert_int_equal(strlen(text), strlen("2000-01-01T00:00:00.000Z info x\n"));
    free(text);
}

static void lines_below_the_level_are_left_out(void **state)
{
    struct capture c;
    char *text;

    (void)state;
    capture_begin(&c);
    log_set(LOG_TEXT, LOG_WARN);
    log_line(LOG_DEBUG, "d", NULL);
    log_line(LOG_INFO, "i", NULL);
    log_line(LOG_WARN, "w", NULL);
    log_line(LOG_ERROR, "e", NULL);
    text = capture_end(&c);
    assert_null(strstr(text, " d\n"));
    assert_null(strstr(text, " i\n"));
    assert_non_null(strstr(text, " warn w\n"));
    assert_non_null(strstr(text, " error e\n"));
    free(text);
}

static void a_long_value_is_cut_and_a_line_stays_whole(void **state)
{
    char value[100000];
    struct capture c;
    char *text;

    (void)state;
    memset(value, 1, sizeof(value));
    value[sizeof(value) - 1] = '\0';
    capture_begin(&c);
    log_set(LOG_JSON, LOG_INFO);
    log_line(LOG_INFO, "x", "a", LOG_STR, value, "b", LOG_STR, value, "c", LOG_STR, value, "d",
             LOG_STR, value, "last", LOG_U64, UINT64_C(7), NULL);
    text = capture_end(&c);
    assert_true(strlen(text) <= 16384);
    assert_non_null(strstr(text, "\\u0001...\",\"b\":\""));
    assert_non_null(strstr(text, ",\"last\":7}\n"));
    free(text);
}

enum { THREADS = 4, LINES = 500 };

static void *log_many(void *name)
{
    for (uint64_t i = 0; i < LINES; i++)
        log_line(LOG_INFO, "many", "who", LOG_STR, (const char *)name, "n", LOG_U64, i, NULL);
    return NULL;
}

static void every_thread_keeps_its_order_and_stop_writes_what_is_queued(void **state)
{
    static char names[THREADS][2] = {"a", "b", "c", "d"};
    unsigned next[THREADS] = {0}, lines = 0, n;
    pthread_t threads[THREADS];
    struct capture c;
    char *text, *line, *rest, who;

    (void)state;
    capture_begin(&c);
    log_start(LOG_TEXT, LOG_INFO);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, log_many, names[i]), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    log_stop();
    text = capture_end(&c);
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest), lines++) {
        assert_int_equal(sscanf(line, "%*s info many who=%c n=%u", &who, &n), 2);
        assert_int_equal(n, next[who - 'a']++);
    }
    assert_int_equal(lines, THREADS * LINES);
    free(text);
}

static void lines_are_written_before_the_start_and_after_the_stop(void **state)
{
    struct capture c;
    char *text;

    (void)state;
    capture_begin(&c);
    log_set(LOG_TEXT, LOG_INFO);
    log_line(LOG_INFO, "before", NULL);
    log_start(LOG_TEXT, LOG_INFO);
    log_stop();
    log_line(LOG_INFO, "between", NULL);
    log_start(LOG_TEXT, LOG_INFO);
    log_line(LOG_INFO, "again", NULL);
    log_stop();
    log_stop();
    text = capture_end(&c);
    assert_non_null(strstr(text, "info before\n"));
    assert_non_null(strstr(text, "info between\n"));
    assert_non_null(strstr(text, "info again\n"));
    free(text);
}

static void *read_until_end(void *arg)
{
    int fd = *(int *)arg;
    FILE *in = fdopen(fd, "r"), *out;
    char *text = NULL;
    size_t len;
    int ch;

    out = open_memstream(&text, &len);
    while ((ch = getc(in)) != EOF)
        putc(ch, out);
    fclose(out);
    fclose(in);
    return text;
}

/* A pipe that nobody reads: the writer sticks in it, the queue fills, and logging goes on. */
static void a_stuck_stderr_blocks_nobody_and_what_is_lost_is_counted(void **state)
{
    enum { MANY = 20000 };
    unsigned long long dropped = 0, written = 0;
    char *text, *line, *rest, *at;
    pthread_t reader;
    int fds[2], kept = dup(STDERR_FILENO);

    (void)state;
    assert_int_equal(pipe(fds), 0);
    dup2(fds[1], STDERR_FILENO);
    close(fds[1]);
    log_start(LOG_TEXT, LOG_INFO);
    for (uint64_t i = 0; i < MANY; i++)
        log_line(LOG_INFO, "flood", "n", LOG_U64, i, NULL);
    /* Only now does somebody read; the flood is over, so what it lost is known. */
    assert_int_equal(pthread_create(&reader, NULL, read_until_end, &fds[0]), 0);
    log_stop();
    dup2(kept, STDERR_FILENO);
    close(kept);
    pthread_join(reader, (void **)&text);
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        at = strstr(line, "log lines dropped count=");
        written += at == NULL;
        if (at)
            dropped += strtoull(strchr(at, '=') + 1, NULL, 10);
    }
    assert_true(dropped > 0);
    assert_int_equal(dropped + written, MANY);
    free(text);
}

static void a_closed_stderr_ends_neither_the_program_nor_the_log(void **state)
{
    int fds[2], kept = dup(STDERR_FILENO);

    (void)state;
    assert_int_equal(pipe(fds), 0);
    dup2(fds[1], STDERR_FILENO);
    close(fds[1]);
    close(fds[0]);
    log_start(LOG_TEXT, LOG_INFO);
    log_line(LOG_INFO, "lost", NULL);
    log_stop();
    dup2(kept, STDERR_FILENO);
    close(kept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_quoted_so_that_none_can_forge_a_line),
        cmocka_unit_test(numbers_and_milliseconds_and_absent_strings_have_their_form),
        cmocka_unit_test(the_time_is_utc_with_milliseconds),
        cmocka_unit_test(lines_below_the_level_are_left_out),
        cmocka_unit_test(a_long_value_is_cut_and_a_line_stays_whole),
        cmocka_unit_test(every_thread_keeps_its_order_and_stop_writes_what_is_queued),
        cmocka_unit_test(lines_are_written_before_the_start_and_after_the_stop),
        cmocka_unit_test(a_stuck_stderr_blocks_nobody_and_what_is_lost_is_counted),
        cmocka_unit_test(a_closed_stderr_ends_neither_the_program_nor_the_log),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
