/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */

#include <inttypes.h>

#include "cache/lock.h"
#include "protocol/smart_http.h"
#include "proxy/metrics.h"
#include "proxy/traffic.h"
#include "scratch.h"

enum { TEXT_MAX = 4 << 20, THREADS = 4, ROUNDS = 20000 };

/* All that was counted, as text; yours to free. */
static char *counted(void)
{
    struct metrics_text t;
    struct bytes out;
    size_t len;

    bytes_init(&out, TEXT_MAX);
    metrics_text_init(&t);
    metrics_text_counted(&t);
    metrics_text_end(&t, &out);
    return bytes_take(&out, &len);
}

static char *traffic_text(struct traffic *t, size_t limit)
{
    struct metrics_text text;
    struct bytes out;
    size_t len;

    bytes_init(&out, TEXT_MAX);
    metrics_text_init(&text);
    traffic_metrics(t, limit, &text);
    metrics_text_end(&text, &out);
    return bytes_take(&out, &len);
}

/* The value behind "series "; UINT64_MAX: it isn't there. */
static uint64_t value_of(const char *text, const char *series)
{
    size_t len = strlen(series);

    for (const char *at = text; (at = strstr(at, series)) != NULL; at += len)
        if ((at == text || at[-1] == '\n') && at[len] == ' ')
            return strtoull(at + len + 1, NULL, 10);
    return UINT64_MAX;
}

static void each_family_is_said_once_with_its_type(void **state)
{
    char *text = counted();

    (void)state;
    assert_non_null(strstr(text, "# HELP pannier_hits_total "));
    assert_non_null(strstr(text, "# TYPE pannier_hits_total counter\n"));
    assert_null(strstr(strstr(text, "# TYPE pannier_hits_total") + 1, "# TYPE pannier_hits_total"));
    assert_non_null(strstr(text, "# TYPE pannier_request_duration_seconds histogram\n"));
    assert_true(text[strlen(text) - 1] == '\n');
    free(text);
}

static void a_histogram_adds_up(void **state)
{
    char *text;

    (void)state;
    metrics_time(TIMER_MADE_SHARED, 1000);            /* a bound is in its own bucket */
    metrics_time(TIMER_MADE_SHARED, 1001);            /* the next one's */
    metrics_time(TIMER_MADE_SHARED, 4000 * 1000000u); /* beyond all */
    text = counted();
    assert_int_equal(
        value_of(text, "pannier_generation_seconds_bucket{source=\"shared\",le=\"0.001\"}"), 1);
    assert_int_equal(
        value_of(text, "pannier_generation_seconds_bucket{source=\"shared\",le=\"0.005\"}"), 2);
    assert_int_equal(
        value_of(text, "pannier_generation_seconds_bucket{source=\"shared\",le=\"600\"}"), 2);
    assert_int_equal(
        value_of(text, "pannier_generation_seconds_bucket{source=\"shared\",le=\"+Inf\"}"), 3);
    assert_int_equal(value_of(text, "pannier_generation_seconds_count{source=\"shared\"}"), 3);
    assert_non_null(
        strstr(text, "pannier_generation_seconds_sum{source=\"shared\"} 4000.002001\n"));
    free(text);
}

static void *count_many(void *unused)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        metrics_count(CELL_HITS_PEER, 1);
        metrics_time(TIMER_ACCESS_DENIED, i);
        metrics_upstream_bytes("host", 3);
    }
    return unused;
}

static void nothing_is_lost_when_many_count(void **state)
{
    uint64_t before = metrics_counted(CELL_HITS_PEER);
    pthread_t threads[THREADS];
    char *text;

    (void)state;
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count_many, NULL), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(metrics_counted(CELL_HITS_PEER) - before, THREADS * ROUNDS);
    text = counted();
    assert_int_equal(value_of(text, "pannier_access_decision_seconds_count{verdict=\"denied\"}"),
                     THREADS * ROUNDS);
    assert_int_equal(value_of(text, "pannier_upstream_received_bytes_total{upstream=\"host\"}"),
                     3 * THREADS * ROUNDS);
    free(text);
}

static void an_upstream_is_counted_by_what_it_said(void **state)
{
    char *text;

    (void)state;
    metrics_upstream_response("said", 200, false);
    metrics_upstream_response("said", 429, true);
    metrics_upstream_response("said", 404, false);
    metrics_upstream_failure("said", ERR_TIMEOUT);
    text = counted();
    assert_int_equal(
        value_of(text, "pannier_upstream_requests_total{upstream=\"said\",code=\"2xx\"}"), 1);
    assert_int_equal(
        value_of(text, "pannier_upstream_requests_total{upstream=\"said\",code=\"4xx\"}"), 2);
    assert_int_equal(value_of(text, "pannier_upstream_throttled_total{upstream=\"said\"}"), 1);
    assert_int_equal(
        value_of(text, "pannier_upstream_failures_total{upstream=\"said\",reason=\"timeout\"}"), 1);
    free(text);
}

static void a_label_holds_what_it_is_given_and_nothing_breaks_out(void **state)
{
    char out[2 * METRICS_LABEL_MAX + 16], *longer = xmalloc(METRICS_LABEL_MAX * 2);

    (void)state;
    metrics_label("r", "a\"b\\c\nd\xff", out, sizeof(out));
    assert_string_equal(out, "r=\"a\\\"b\\\\c?d?\"");
    memset(longer, '"', METRICS_LABEL_MAX * 2);
    longer[METRICS_LABEL_MAX * 2 - 1] = '\0';
    metrics_label("r", longer, out, sizeof(out));
    assert_int_equal(strlen(out), 2 * METRICS_LABEL_MAX + 4);
    free(longer);
}

static void every_metric_is_named_as_prometheus_wants_it(void **state)
{
    static const struct {
        const char *name, *type;
    } rows[] = {
#define X(id, type, name, labels, help) {name, #type},
        METRICS_TABLE(X)
#undef X
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        size_t len = strlen(rows[i].name);
        bool total = len > 6 && strcmp(rows[i].name + len - 6, "_total") == 0;

        assert_int_equal(total, strcmp(rows[i].type, "COUNTER") == 0);
        assert_true(strncmp(rows[i].name, "pannier_", 8) == 0 ||
                    strncmp(rows[i].name, "process_", 8) == 0);
        if (strcmp(rows[i].type, "TIMES") == 0)
            assert_string_equal(rows[i].name + len - 8, "_seconds");
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(rows[i].name, rows[j].name);
    }
}

/* ---- by repository ---- */

static char *series_of(const char *repository)
{
    return xasprintf("pannier_repository_requests_total{repository=\"%s\",result=\"hit\"}",
                     repository);
}

static uint64_t hits_of(struct traffic *t, size_t limit, const char *repository)
{
    char *text = traffic_text(t, limit), *series = series_of(repository);
    uint64_t value = value_of(text, series);

    free(series);
    free(text);
    return value;
}

static void ask(struct traffic *t, const char *name, unsigned times)
{
    while (times-- > 0)
        traffic_note(t, name, TRAFFIC_HIT, 10, 1000);
}

static void only_so_many_repositories_have_series(void **state)
{
    struct traffic *t = traffic_new();
    char *text;
    unsigned own = 0;

    (void)state;
    for (unsigned i = 0; i < 20; i++) {
        char *name = xasprintf("host/r%u", i);

        ask(t, name, 1 + i);
        free(name);
    }
    free(traffic_text(t, 3));
    text = traffic_text(t, 3);
    for (const char *at = text; (at = strstr(at, "repository=\"host/")) != NULL; at++)
        own++;
    assert_int_equal(own, 3 * 3 * 2); /* results, and requests and bytes of each */
    assert_true(value_of(text, "pannier_repository_requests_total{repository=\"host/r19\","
                               "result=\"hit\"}") == 0);
    free(text);
    assert_int_equal(hits_of(t, 3, "other"), 210);
    traffic_free(&t);
    assert_null(t);
}

static void no_series_ever_goes_down(void **state)
{
    struct traffic *t = traffic_new();
    uint64_t other = 0;

    (void)state;
    for (unsigned round = 0; round < 30; round++) {
        char *name = xasprintf("host/r%u", round % 7);
        uint64_t now;

        ask(t, name, 5 + round);
        now = hits_of(t, 2, "other");
        assert_true(now >= other);
        other = now;
        free(name);
    }
    traffic_free(&t);
}

static void who_has_series_keeps_them_until_clearly_outdone(void **state)
{
    struct traffic *t = traffic_new();

    (void)state;
    ask(t, "host/first", 10);
    free(traffic_text(t, 1));
    ask(t, "host/first", 10);
    ask(t, "host/second", 11);
    assert_int_equal(hits_of(t, 1, "host/first"), 10);
    assert_int_equal(hits_of(t, 1, "host/second"), UINT64_MAX);
    ask(t, "host/second", 100);
    free(traffic_text(t, 1));
    ask(t, "host/second", 7);
    assert_int_equal(hits_of(t, 1, "host/second"), 7);
    assert_int_equal(hits_of(t, 1, "host/first"), UINT64_MAX);
    assert_int_equal(hits_of(t, 0, "other"), 121);
    traffic_free(&t);
}

static void the_latest_errors_of_a_repository_are_remembered(void **state)
{
    struct traffic *t = traffic_new();
    struct traffic_view view;
    struct key id;

    (void)state;
    repo_id_of("host", "a/b", &id);
    assert_false(traffic_get(t, &id, &view));
    traffic_failed(t, "host/a/b", "left", &(struct err){ERR_CANCELLED, "the client is gone"}, 1);
    assert_false(traffic_get(t, &id, &view));
    for (int64_t i = 0; i < TRAFFIC_ERRORS_MAX + 2; i++) {
        struct err why;

        err_set(&why, ERR_UPSTREAM, "number %d", (int)i);
        traffic_failed(t, "host/a/b", "upstream broke off", &why, i);
    }
    assert_true(traffic_get(t, &id, &view));
    assert_int_equal(view.error_count, TRAFFIC_ERRORS_MAX);
    assert_int_equal(view.errors[0].time_s, TRAFFIC_ERRORS_MAX + 1);
    assert_string_equal(view.errors[0].why.text, "number 6");
    assert_int_equal(view.errors[TRAFFIC_ERRORS_MAX - 1].time_s, 2);
    traffic_free(&t);
}

static void who_was_not_asked_for_longest_is_forgotten(void **state)
{
    struct traffic *t = traffic_new();
    struct traffic_view view;
    struct key id;

    (void)state;
    for (unsigned i = 0; i <= TRAFFIC_MAX; i++) {
        char *name = xasprintf("host/r%u", i);

        ask(t, name, 1);
        if (i > 0)
            ask(t, "host/r0", 1);
        free(name);
    }
    repo_id_of("host", "r0", &id);
    assert_true(traffic_get(t, &id, &view));
    repo_id_of("host", "r1", &id);
    assert_false(traffic_get(t, &id, &view));
    traffic_free(&t);
}

static void who_has_series_is_not_forgotten_for_made_up_names(void **state)
{
    struct traffic *t = traffic_new();

    (void)state;
    ask(t, "host/real", 2);
    free(traffic_text(t, 1));
    ask(t, "host/real", 3);
    for (unsigned i = 0; i <= 2 * TRAFFIC_MAX; i++) {
        char *name = xasprintf("host/made-up%u", i);

        traffic_failed(t, name, "request failed", &(struct err){ERR_UPSTREAM, "no"}, 1);
        free(name);
    }
    assert_int_equal(hits_of(t, 1, "host/real"), 3);
    traffic_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_family_is_said_once_with_its_type),
        cmocka_unit_test(a_histogram_adds_up),
        cmocka_unit_test(nothing_is_lost_when_many_count),
        cmocka_unit_test(an_upstream_is_counted_by_what_it_said),
        cmocka_unit_test(a_label_holds_what_it_is_given_and_nothing_breaks_out),
        cmocka_unit_test(every_metric_is_named_as_prometheus_wants_it),
        cmocka_unit_test(only_so_many_repositories_have_series),
        cmocka_unit_test(no_series_ever_goes_down),
        cmocka_unit_test(who_has_series_keeps_them_until_clearly_outdone),
        cmocka_unit_test(the_latest_errors_of_a_repository_are_remembered),
        cmocka_unit_test(who_was_not_asked_for_longest_is_forgotten),
        cmocka_unit_test(who_has_series_is_not_forgotten_for_made_up_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
