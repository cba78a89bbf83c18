/* What is read is, written again, the same text; and its keys and sums can be told. */
#include "tests/fuzz/fuzz.h"

#include "cache/shared/manifest.h"

static int look(void *ctx, const char *name, const struct manifest_file *file)
{
    const struct manifest *m = ctx;
    char key[OBJECT_KEY_MAX + 1];

    must(strncmp(name, "pack/", 5) == 0 || strcmp(name, "info/commit-graph") == 0);
    must(strchr(name + 5, '/') == NULL && strstr(name, "..") == NULL);
    must(file->size > 0 && file->size <= MANIFEST_SIZE_MAX);
    must(manifest_find(m, &file->sha256) != NULL);
    manifest_file_key(&m->repo_id, file, key);
    must(strlen(key) > strlen("mirrors/") + 128);
    return 0;
}

static void try_it(const char *text, size_t size, const struct key *repo_id)
{
    struct manifest m;
    struct bytes again;
    struct err err;

    if (manifest_read(text, size, repo_id, &m, &err) != 0) {
        must(err.kind == ERR_CORRUPT || err.kind == ERR_REFUSED);
        must(m.packs == NULL && m.tips == NULL && m.repo == NULL);
        return;
    }
    bytes_init(&again, MANIFEST_MAX);
    must(manifest_write(&m, &again, &err) == 0);
    must(again.len == size && memcmp(again.data, text, size) == 0);
    must(manifest_each(&m, look, &m) == 0);
    must(manifest_bytes(&m) > 0 && manifest_stored_bytes(&m) > 0);
    must(manifest_check_next(&m, &m, &err) == -1);
    bytes_clear(&again);
    manifest_clear(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = fuzz_copy(data, size);
    struct key repo_id;

    memset(&repo_id, 0x11, sizeof(repo_id)); /* as in the corpus */
    try_it(copy, size, &repo_id);
    free(copy);
    return 0;
}
