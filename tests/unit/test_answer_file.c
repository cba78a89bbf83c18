#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/answer_file.h"
#include "cache/compress.h"
#include "scratch.h"

enum { BODY = 2000 };

struct fixture {
    struct scratch scratch;
    char *path;
    int fd;
};

static void *sealed(const void *body, size_t len, struct fixture *f)
{
    const struct entry entry = {.repo_id = (char *)"00",
                                .repo = (char *)"r",
                                .url = (char *)"https://example.org/r",
                                .path = (char *)"answers/00/00",
                                .size = len,
                                .created = 5,
                                .note_offset = 13,
                                .objects = 3};
    uint8_t sha256[SHA256_SIZE];
    struct digest *d = digest_new(HASH_SHA256);
    struct err err;

    scratch_init(&f->scratch);
    f->path = scratch_path(&f->scratch, "file");
    put_file(f->path, body, len);
    digest_update(d, body, len);
    digest_final(d, sha256);
    digest_free(d);
    f->fd = open(f->path, O_RDWR | O_CLOEXEC);
    assert_int_equal(answer_file_seal(f->fd, len, &entry, sha256, &err), 0);
    return f;
}

static int set_up(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));
    char *body = pattern(0, BODY);

    *state = sealed(body, BODY, f);
    free(body);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    close(f->fd);
    scratch_clear(&f->scratch);
    free(f->path);
    free(f);
    return 0;
}

static enum err_kind verify(const struct fixture *f)
{
    struct entry entry;
    struct err err = {0};

    if (answer_file_verify(f->fd, &entry, NULL, NULL, &err) == 0)
        entry_clear(&entry);
    return err.kind;
}

static void a_sealed_file_tells_what_it_is(void **state)
{
    const struct fixture *f = *state;
    struct entry entry;
    struct err err;
    char block[BODY];

    for (int whole = 0; whole < 2; whole++) {
        assert_int_equal((whole ? answer_file_verify(f->fd, &entry, NULL, NULL, &err)
                                : answer_file_describe(f->fd, &entry, NULL, &err)),
                         0);
        assert_string_equal(entry.url, "https://example.org/r");
        assert_int_equal(entry.size, BODY);
        assert_int_equal(entry.stored_size, size_of(f->path));
        assert_int_equal(entry.note_offset, 13);
        assert_int_equal(entry.objects, 3);
        entry_clear(&entry);
    }
    /* The body stands first and unchanged: it goes out by sendfile. */
    assert_int_equal(pread(f->fd, block, BODY, 0), BODY);
    for (size_t i = 0; i < BODY; i++)
        assert_int_equal(block[i], byte_at(i));
}

static void an_empty_body_is_a_body(void **state)
{
    struct fixture f;

    (void)state;
    sealed("", 0, &f);
    assert_int_equal(verify(&f), ERR_NONE);
    close(f.fd);
    scratch_clear(&f.scratch);
    free(f.path);
}

static void any_flipped_byte_is_damage(void **state)
{
    const struct fixture *f = *state;

    for (uint64_t at = 0; at < size_of(f->path); at += at < BODY ? 97 : 1) {
        flip_byte(f->path, at);
        assert_int_equal(verify(f), ERR_CORRUPT);
        flip_byte(f->path, at);
    }
    assert_int_equal(verify(f), ERR_NONE);
}

static void any_other_length_is_damage(void **state)
{
    const struct fixture *f = *state;
    uint64_t size = size_of(f->path);
    static const uint64_t cuts[] = {1, 63, 64, 65, 100, BODY};

    assert_int_equal(truncate(f->path, (off_t)size + 1), 0);
    assert_int_equal(verify(f), ERR_CORRUPT);
    for (size_t i = 0; i < ARRAY_LEN(cuts); i++) {
        assert_int_equal(truncate(f->path, (off_t)(size - cuts[i])), 0);
        assert_int_equal(verify(f), ERR_CORRUPT);
    }
    assert_int_equal(truncate(f->path, 0), 0);
    assert_int_equal(verify(f), ERR_CORRUPT);
}

static void a_glance_does_not_read_the_body(void **state)
{
    const struct fixture *f = *state;
    struct entry entry;
    struct err err;

    flip_byte(f->path, 5);
    assert_int_equal(answer_file_describe(f->fd, &entry, NULL, &err), 0);
    entry_clear(&entry);
    flip_byte(f->path, BODY + 3);
    assert_int_equal(answer_file_describe(f->fd, &entry, NULL, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
}

static void what_cannot_be_read_is_not_called_damaged(void **state)
{
    struct fixture f = {.fd = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC)};

    (void)state;
    assert_true(f.fd >= 0);
    /* A folder has a size of some kind, and can't be read. */
    if (size_of("/tmp") >= 64)
        assert_int_equal(verify(&f), ERR_STORAGE);
    close(f.fd);
}

/* ---- packed ---- */

static int append_to(void *ctx, const void *data, size_t len, struct err *err)
{
    (void)err;
    return write(*(int *)ctx, data, len) == (ssize_t)len ? 0 : -1;
}

/* Two bodies of equal length; the file holds the frame of one and the digest of the other, or of
 * the same.  f->fd is the packed file. */
static void sealed_packed(struct fixture *f, bool others_frame)
{
    struct entry entry = {.repo_id = (char *)"00",
                          .repo = (char *)"r",
                          .url = (char *)"https://example.org/r",
                          .path = (char *)"answers/00/00",
                          .size = BODY,
                          .note_offset = 13,
                          .packed = true};
    char *body = pattern(0, BODY), *other = pattern(1, BODY);
    char *plain = scratch_path(&f->scratch, "plain");
    uint8_t sha256[SHA256_SIZE];
    struct digest *d = digest_new(HASH_SHA256);
    struct err err;
    int from;

    digest_update(d, body, BODY);
    digest_final(d, sha256);
    digest_free(d);
    put_file(plain, others_frame ? other : body, BODY);
    from = open(plain, O_RDONLY | O_CLOEXEC);
    close(f->fd);
    f->fd = open(f->path, O_RDWR | O_TRUNC | O_CLOEXEC);
    assert_int_equal(compress_file(from, BODY, append_to, &f->fd, &err), 0);
    assert_int_equal(answer_file_seal(f->fd, size_of(f->path), &entry, sha256, &err), 0);
    close(from);
    free(body);
    free(other);
    free(plain);
}

static int unpack_to(const struct fixture *f, char **path, struct err *err)
{
    struct entry entry;
    int to, rc;

    *path = scratch_path(&f->scratch, "unpacked");
    to = open(*path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    rc = answer_file_describe(f->fd, &entry, NULL, err);
    if (rc == 0) {
        assert_true(entry.packed);
        assert_int_equal(entry.size, BODY);
        assert_int_equal(entry.stored_size, size_of(f->path));
        rc = answer_file_unpack(f->fd, &entry, to, err);
        entry_clear(&entry);
    }
    close(to);
    return rc;
}

static void a_packed_body_is_described_verified_and_unpacked(void **state)
{
    struct fixture *f = *state;
    char *path, block[BODY];
    struct err err;
    int fd;

    sealed_packed(f, false);
    assert_int_equal(verify(f), ERR_NONE);
    assert_int_equal(unpack_to(f, &path, &err), 0);
    assert_int_equal(size_of(path), BODY);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(fd, block, BODY), BODY);
    for (size_t i = 0; i < BODY; i++)
        assert_int_equal(block[i], byte_at(i));
    close(fd);
    free(path);
}

static void a_sound_frame_of_another_body_is_damage(void **state)
{
    struct fixture *f = *state;
    struct err err;
    char *path;

    sealed_packed(f, true);
    assert_int_equal(verify(f), ERR_CORRUPT);
    assert_int_equal(unpack_to(f, &path, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
    free(path);
}

static void a_packed_file_that_is_cut_or_changed_is_damage(void **state)
{
    struct fixture *f = *state;
    uint64_t size;

    sealed_packed(f, false);
    size = size_of(f->path);
    for (uint64_t at = 8; at < size; at += at + 300 < size ? 41 : 1) {
        flip_byte(f->path, at);
        assert_int_equal(verify(f), ERR_CORRUPT);
        flip_byte(f->path, at);
    }
    assert_int_equal(verify(f), ERR_NONE);
    assert_int_equal(truncate(f->path, (off_t)size + 1), 0);
    assert_int_equal(verify(f), ERR_CORRUPT);
    assert_int_equal(truncate(f->path, (off_t)size - 1), 0);
    assert_int_equal(verify(f), ERR_CORRUPT);
    assert_int_equal(truncate(f->path, 64), 0);
    assert_int_equal(verify(f), ERR_CORRUPT);
}

static void what_is_not_packed_is_not_unpacked(void **state)
{
    const struct fixture *f = *state;
    struct entry entry;
    struct err err;

    assert_int_equal(answer_file_describe(f->fd, &entry, NULL, &err), 0);
    assert_false(entry.packed);
    assert_int_equal(answer_file_unpack(f->fd, &entry, -1, &err), -1);
    assert_int_equal(err.kind, ERR_CORRUPT);
    entry_clear(&entry);
}

static void identity_changes_with_every_write_and_ends_with_the_name(void **state)
{
    struct fixture *f = *state;
    struct file_identity before, after, by_name;
    char *other = scratch_path(&f->scratch, "other");

    assert_true(file_identity_of(f->fd, &before));
    assert_true(file_identity_at(f->path, &by_name));
    assert_true(file_identity_equal(&before, &by_name));
    /* Times are as coarse as the kernel's tick: give the file an old one first. */
    assert_int_equal(futimens(f->fd, (struct timespec[]){{1, 0}, {1, 0}}), 0);
    assert_true(file_identity_of(f->fd, &before));
    flip_byte(f->path, 0);
    assert_true(file_identity_of(f->fd, &after));
    assert_false(file_identity_equal(&before, &after));
    assert_int_equal(truncate(f->path, BODY), 0);
    assert_true(file_identity_of(f->fd, &before));
    assert_false(file_identity_equal(&before, &after));
    put_file(other, "x", 1);
    assert_int_equal(rename(other, f->path), 0); /* another file takes the name */
    assert_false(file_identity_of(f->fd, &after));
    assert_true(file_identity_at(f->path, &after));
    assert_int_equal(unlink(f->path), 0);
    assert_false(file_identity_at(f->path, &after));
    put_file(f->path, "", 0); /* for tear_down */
    free(other);
}

static void a_full_disk_is_told(void **state)
{
    const struct entry entry = {
        .repo_id = (char *)"00", .repo = (char *)"r", .url = (char *)"u", .path = (char *)"p"};
    const uint8_t sha256[SHA256_SIZE] = {0};
    int fd = open("/dev/full", O_RDWR | O_CLOEXEC);
    struct err err;

    (void)state;
    if (fd < 0)
        skip();
    assert_int_equal(answer_file_seal(fd, 0, &entry, sha256, &err), -1);
    assert_int_equal(err.kind, ERR_STORAGE);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_sealed_file_tells_what_it_is, set_up, tear_down),
        cmocka_unit_test(an_empty_body_is_a_body),
        cmocka_unit_test_setup_teardown(any_flipped_byte_is_damage, set_up, tear_down),
        cmocka_unit_test_setup_teardown(any_other_length_is_damage, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_glance_does_not_read_the_body, set_up, tear_down),
        cmocka_unit_test(what_cannot_be_read_is_not_called_damaged),
        cmocka_unit_test_setup_teardown(a_packed_body_is_described_verified_and_unpacked, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_sound_frame_of_another_body_is_damage, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_packed_file_that_is_cut_or_changed_is_damage, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_is_not_packed_is_not_unpacked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(identity_changes_with_every_write_and_ends_with_the_name,
                                        set_up, tear_down),
        cmocka_unit_test(a_full_disk_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
