#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "proxy/sendfile.h"

enum { WANTED = 128 * 1024 };

static void a_bigger_step_leaves_the_end_to_the_library(void **state)
{
    (void)state;
    assert_int_equal(sendfile_bounded(SENDFILE_STEP, 10 * SENDFILE_STEP, WANTED), SENDFILE_STEP);
    assert_int_equal(sendfile_bounded(SENDFILE_STEP, SENDFILE_STEP, WANTED), SENDFILE_STEP - 1);
    assert_int_equal(sendfile_bounded(SENDFILE_STEP, WANTED + 1, WANTED), WANTED);
}

static void what_the_library_takes_for_the_end_is_sent_to_the_end(void **state)
{
    (void)state;
    assert_int_equal(sendfile_bounded(SENDFILE_STEP, WANTED, WANTED), WANTED);
    assert_int_equal(sendfile_bounded(SENDFILE_STEP, 1, 1), 1);
}

static void a_step_is_never_more_than_there_is(void **state)
{
    (void)state;
    assert_int_equal(sendfile_bounded(10, SENDFILE_STEP, WANTED), 10);
    assert_int_equal(sendfile_bounded(10, 100, 100), 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bigger_step_leaves_the_end_to_the_library),
        cmocka_unit_test(what_the_library_takes_for_the_end_is_sent_to_the_end),
        cmocka_unit_test(a_step_is_never_more_than_there_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
