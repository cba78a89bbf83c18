/* Any header gets an answer, refusals behind it are obeyed, and case and space change nothing. */
#include <ctype.h>

#include "tests/fuzz/fuzz.h"

#include "protocol/content_encoding.h"

static enum content_encoding with(const char *header, const char *more)
{
    char *longer = xasprintf("%s%s", header, more);
    enum content_encoding chosen = content_encoding_choose(longer);

    free(longer);
    return chosen;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *header = xstrndup((const char *)data, size);
    enum content_encoding chosen = content_encoding_choose(header);

    must(chosen == ENCODING_IDENTITY || content_encoding_name(chosen) != NULL);
    must(with(header, ",zstd;q=0,gzip;q=0") == ENCODING_IDENTITY);
    must(with(header, ",zstd;q=0") != ENCODING_ZSTD);
    must(with(header, " , br;q=0.1,identity;q=0") == chosen);
    if (chosen == ENCODING_ZSTD) /* a refusal takes away one coding and adds none */
        must(with(header, ",gzip;q=0") == ENCODING_ZSTD);
    for (char *c = header; *c != '\0'; c++)
        *c = (char)toupper((unsigned char)*c);
    must(content_encoding_choose(header) == chosen);
    free(header);
    return 0;
}
