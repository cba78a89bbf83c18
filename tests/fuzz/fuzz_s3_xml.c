/* Any bytes as an S3 endpoint's answer.  Paths and texts keep to their bounds. */
#include <string.h>

#include "protocol/base.h"
#include "protocol/s3_xml.h"
#include "tests/fuzz/fuzz.h"

static int on_element(void *ctx, const char *path, const char *text)
{
    size_t *count = ctx;

    must(path[0] != '\0' && strlen(path) <= S3_XML_DEPTH_MAX * (S3_XML_NAME_MAX + 1));
    must(strlen(text) <= S3_XML_TEXT_MAX);
    return ++*count == 1000;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct err err = {ERR_NONE, ""};
    size_t count = 0;

    if (s3_xml_walk(data, len, on_element, &count, &err) != 0)
        must(err.kind == ERR_UPSTREAM);
    return 0;
}
