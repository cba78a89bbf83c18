/* Runs a fuzz target over the files of the folders named in argv: the corpus as a regression
 * test, for compilers without libFuzzer. */
#include <dirent.h>
#include <stdio.h>

#include "tests/fuzz/fuzz.h"

static int replay_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data;
    size_t size = 0;
    long length;

    if (f == NULL || fseek(f, 0, SEEK_END) != 0 || (length = ftell(f)) < 0) {
        if (f != NULL)
            fclose(f);
        return 0;
    }
    rewind(f);
    data = xmalloc((size_t)length + 1);
    size = fread(data, 1, (size_t)length, f);
    fclose(f);
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 1;
}

static int replay_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    int count = 0;

    if (dir == NULL) {
        perror(folder);
        return 0;
    }
    while ((entry = readdir(dir)) != NULL) {
        char *path;

        if (entry->d_name[0] == '.')
            continue;
        path = xasprintf("%s/%s", folder, entry->d_name);
        count += replay_file(path);
        free(path);
    }
    closedir(dir);
    return count;
}

int main(int argc, char **argv)
{
    int count = 0;

    for (int i = 1; i < argc; i++)
        count += replay_folder(argv[i]);
    printf("%d inputs replayed\n", count);
    return count > 0 ? 0 : 1;
}
