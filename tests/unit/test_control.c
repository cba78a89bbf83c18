#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cmocka.h>

#include "proxy/control.h"
#include "tests/unit/scratch.h"

struct fixture {
    struct scratch scratch;
    struct control *control;
    pthread_barrier_t begun, may_end; /* of handlers that wait */
    struct err err;
};

static int set_up(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));

    scratch_init(&f->scratch);
    *state = f;
    return 0;
}

static int clean_up(void **state)
{
    struct fixture *f = *state;

    control_free(&f->control);
    scratch_clear(&f->scratch);
    free(f);
    return 0;
}

/* ---- handlers ---- */

static void echo(void *ctx, const char *request, size_t len, struct control_client *client)
{
    (void)ctx;
    control_send(client, request, len);
    control_send(client, "end", 3);
}

static void hold(void *ctx, const char *request, size_t len, struct control_client *client)
{
    struct fixture *f = ctx;

    (void)request;
    (void)len;
    pthread_barrier_wait(&f->begun);
    pthread_barrier_wait(&f->may_end);
    control_send(client, "held", 4);
}

/* Ends when nobody listens any more, and only then. */
static void talk(void *ctx, const char *request, size_t len, struct control_client *client)
{
    struct fixture *f = ctx;

    (void)request;
    (void)len;
    pthread_barrier_wait(&f->begun);
    while (control_send(client, "more", 4))
        ;
    pthread_barrier_wait(&f->may_end);
}

/* ---- clients ---- */

struct heard {
    size_t lines;
    char last[256];
};

static int hear(void *ctx, const char *line, size_t len)
{
    struct heard *h = ctx;

    h->lines++;
    snprintf(h->last, sizeof(h->last), "%.*s", (int)len, line);
    return 0;
}

static int call(struct fixture *f, const char *request, struct heard *heard)
{
    *heard = (struct heard){0};
    return control_call(f->scratch.dir, request, strlen(request), hear, heard, &f->err);
}

static int connect_raw(const struct fixture *f)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s/control", f->scratch.dir);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

/* All that comes, as text. */
static void read_all(int fd, char *out, size_t size)
{
    size_t len = 0;
    ssize_t n;

    while ((n = recv(fd, out + len, size - 1 - len, 0)) > 0)
        len += (size_t)n;
    out[len] = '\0';
}

static void start(struct fixture *f, control_handler *handler)
{
    assert_int_equal(control_start(f->scratch.dir, handler, f, &f->control, &f->err), 0);
}

/* ---- tests ---- */

static void a_request_gets_its_lines(void **state)
{
    struct fixture *f = *state;
    struct heard heard;

    start(f, echo);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(call(f, "{\"command\":\"ls\"}", &heard), 0);
        assert_int_equal(heard.lines, 2);
        assert_string_equal(heard.last, "end");
    }
}

static int hear_one(void *ctx, const char *line, size_t len)
{
    (void)line;
    (void)len;
    ++*(int *)ctx;
    return 1;
}

static void who_has_heard_enough_hears_no_more(void **state)
{
    struct fixture *f = *state;
    int lines = 0;

    start(f, echo);
    assert_int_equal(control_call(f->scratch.dir, "x", 1, hear_one, &lines, &f->err), 0);
    assert_int_equal(lines, 1);
}

static void the_socket_is_its_users_alone_and_goes_at_the_end(void **state)
{
    struct fixture *f = *state;
    char *path = scratch_path(&f->scratch, "control");
    struct heard heard;
    struct stat st;

    start(f, echo);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    control_free(&f->control);
    assert_false(exists(path));
    assert_int_equal(call(f, "x", &heard), -1);
    assert_int_equal(f->err.kind, ERR_NOT_FOUND);
    free(path);
}

static void a_socket_that_somebody_left_is_replaced(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct heard heard;

    snprintf(address.sun_path, sizeof(address.sun_path), "%s/control", f->scratch.dir);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
    assert_int_equal(call(f, "x", &heard), -1);
    assert_int_equal(f->err.kind, ERR_NOT_FOUND);
    start(f, echo);
    assert_int_equal(call(f, "x", &heard), 0);
}

static void no_folder_is_nobody(void **state)
{
    struct fixture *f = *state;
    struct heard heard;

    assert_int_equal(control_call("/nowhere/at/all", "x", 1, hear, &heard, &f->err), -1);
    assert_int_equal(f->err.kind, ERR_NOT_FOUND);
}

static void a_folder_with_a_long_name_has_a_socket_too(void **state)
{
    enum { SEGMENT = 120 };
    struct fixture *f = *state;
    char segment[SEGMENT + 1], *data;
    struct heard heard;

    memset(segment, 'd', SEGMENT);
    segment[SEGMENT] = '\0';
    data = scratch_path(&f->scratch, segment);
    assert_int_equal(mkdir(data, 0700), 0);
    assert_int_equal(control_call(data, "x", 1, hear, &heard, &f->err), -1);
    assert_int_equal(f->err.kind, ERR_NOT_FOUND);
    assert_int_equal(control_start(data, echo, f, &f->control, &f->err), 0);
    heard.lines = 0;
    assert_int_equal(control_call(data, "x", 1, hear, &heard, &f->err), 0);
    assert_int_equal(heard.lines, 2);
    control_free(&f->control);
    assert_int_equal(count_entries(data), 0);
    free(data);
}

static void a_folder_that_cannot_hold_a_socket_is_told(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(control_start("/nowhere/at/all", echo, f, &f->control, &f->err), -1);
    assert_int_equal(f->err.kind, ERR_STORAGE);
    assert_null(f->control);
}

static void a_request_that_is_too_long_is_refused(void **state)
{
    struct fixture *f = *state;
    char *longest = pattern(0, CONTROL_REQUEST_MAX + 1);
    struct heard heard = {0};

    start(f, echo);
    memset(longest, 'x', CONTROL_REQUEST_MAX + 1);
    assert_int_equal(
        control_call(f->scratch.dir, longest, CONTROL_REQUEST_MAX, hear, &heard, &f->err), 0);
    assert_string_equal(heard.last, "end");
    assert_int_equal(
        control_call(f->scratch.dir, longest, CONTROL_REQUEST_MAX + 1, hear, &heard, &f->err), 0);
    assert_non_null(strstr(heard.last, "\"kind\":\"limit\""));
    free(longest);
}

static void a_request_without_an_end_is_refused(void **state)
{
    struct fixture *f = *state;
    char text[256];
    int fd;

    start(f, echo);
    fd = connect_raw(f);
    assert_int_equal(send(fd, "{}", 2, 0), 2);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    read_all(fd, text, sizeof(text));
    assert_non_null(strstr(text, "\"kind\":\"input\""));
    close(fd);
}

static void who_sends_no_more_hears_the_answer(void **state)
{
    struct fixture *f = *state;
    char text[256];
    int fd;

    start(f, echo);
    fd = connect_raw(f);
    assert_int_equal(send(fd, "a\n", 2, 0), 2);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    read_all(fd, text, sizeof(text));
    assert_string_equal(text, "a\nend\n");
    close(fd);
}

struct caller {
    struct fixture *f;
    struct heard heard;
};

static void *call_main(void *arg)
{
    struct caller *c = arg;
    struct err err;

    control_call(c->f->scratch.dir, "x", 1, hear, &c->heard, &err);
    return NULL;
}

static void one_command_too_many_is_told_so(void **state)
{
    struct fixture *f = *state;
    struct caller callers[CONTROL_CLIENTS_MAX] = {{0}};
    pthread_t threads[CONTROL_CLIENTS_MAX];
    struct heard heard;

    pthread_barrier_init(&f->begun, NULL, CONTROL_CLIENTS_MAX + 1);
    pthread_barrier_init(&f->may_end, NULL, CONTROL_CLIENTS_MAX + 1);
    start(f, hold);
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        callers[i].f = f;
        assert_int_equal(pthread_create(&threads[i], NULL, call_main, &callers[i]), 0);
    }
    pthread_barrier_wait(&f->begun);
    assert_int_equal(call(f, "x", &heard), 0);
    assert_non_null(strstr(heard.last, "\"kind\":\"busy\""));
    pthread_barrier_wait(&f->may_end);
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        pthread_join(threads[i], NULL);
        assert_string_equal(callers[i].heard.last, "held");
    }
    control_free(&f->control);
    pthread_barrier_destroy(&f->begun);
    pthread_barrier_destroy(&f->may_end);
}

static int begin_talk(struct fixture *f)
{
    int fd;

    pthread_barrier_init(&f->begun, NULL, 2);
    pthread_barrier_init(&f->may_end, NULL, 2);
    start(f, talk);
    fd = connect_raw(f);
    assert_int_equal(send(fd, "x\n", 2, 0), 2);
    pthread_barrier_wait(&f->begun);
    return fd;
}

static void end_talk(struct fixture *f)
{
    pthread_barrier_wait(&f->may_end);
    control_free(&f->control);
    pthread_barrier_destroy(&f->begun);
    pthread_barrier_destroy(&f->may_end);
}

static void a_client_that_leaves_ends_its_command(void **state)
{
    struct fixture *f = *state;

    close(begin_talk(f));
    end_talk(f);
}

static void the_end_of_the_program_waits_for_no_reader(void **state)
{
    struct fixture *f = *state;
    int fd = begin_talk(f);

    control_drain(f->control);
    end_talk(f);
    close(fd);
}

static void the_end_of_the_program_waits_for_no_request(void **state)
{
    struct fixture *f = *state;
    int fd;

    start(f, echo);
    fd = connect_raw(f);
    control_free(&f->control);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, clean_up)
        TEST(a_request_gets_its_lines),
        TEST(who_has_heard_enough_hears_no_more),
        TEST(the_socket_is_its_users_alone_and_goes_at_the_end),
        TEST(a_socket_that_somebody_left_is_replaced),
        TEST(no_folder_is_nobody),
        TEST(a_folder_with_a_long_name_has_a_socket_too),
        TEST(a_folder_that_cannot_hold_a_socket_is_told),
        TEST(a_request_that_is_too_long_is_refused),
        TEST(a_request_without_an_end_is_refused),
        TEST(who_sends_no_more_hears_the_answer),
        TEST(one_command_too_many_is_told_so),
        TEST(a_client_that_leaves_ends_its_command),
        TEST(the_end_of_the_program_waits_for_no_reader),
        TEST(the_end_of_the_program_waits_for_no_request),
#undef TEST
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
