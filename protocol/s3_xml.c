#include "protocol/s3_xml.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <expat.h>

#include "protocol/base.h"
#include "protocol/bytes.h"

struct walk {
    XML_Parser parser;
    char path[S3_XML_DEPTH_MAX * (S3_XML_NAME_MAX + 1)];
    size_t starts[S3_XML_DEPTH_MAX]; /* of each element's name in it, with the slash */
    bool has_elements[S3_XML_DEPTH_MAX];
    size_t depth;
    struct bytes text; /* of the innermost element */
    s3_xml_fn *fn;
    void *ctx;
    bool done; /* fn had enough */
    const char *wrong;
};

static void stop(struct walk *w, const char *wrong)
{
    if (w->wrong == NULL)
        w->wrong = wrong;
    XML_StopParser(w->parser, XML_FALSE);
}

static void on_start(void *ctx, const XML_Char *name, const XML_Char **attributes)
{
    struct walk *w = ctx;
    const char *colon = strrchr(name, ':');
    size_t at = strlen(w->path);

    (void)attributes;
    name = colon != NULL ? colon + 1 : name;
    if (w->depth == S3_XML_DEPTH_MAX || strlen(name) > S3_XML_NAME_MAX) {
        stop(w, "it is nested too deeply, or its names are too long");
        return;
    }
    if (w->depth > 0)
        w->has_elements[w->depth - 1] = true;
    w->has_elements[w->depth] = false;
    w->starts[w->depth++] = at;
    if (at > 0)
        strcpy(w->path + at++, "/");
    strcpy(w->path + at, name);
    bytes_reset(&w->text);
}

static void on_text(void *ctx, const XML_Char *text, int len)
{
    struct walk *w = ctx;

    if (bytes_add(&w->text, text, (size_t)len) != 0)
        stop(w, "a text in it is too long");
}

static void on_end(void *ctx, const XML_Char *name)
{
    struct walk *w = ctx;

    (void)name;
    if (w->wrong != NULL || w->done)
        return; /* expat ends an empty element although it was stopped at its start */
    if (w->has_elements[w->depth - 1])
        bytes_reset(&w->text); /* blanks and line ends between them */
    if (w->fn(w->ctx, w->path, w->text.data != NULL ? w->text.data : "") != 0) {
        w->done = true;
        stop(w, NULL);
        return;
    }
    w->path[w->starts[--w->depth]] = '\0';
    bytes_reset(&w->text);
}

static void on_doctype(void *ctx, const XML_Char *name, const XML_Char *sysid,
                       const XML_Char *pubid, int has_internal_subset)
{
    (void)name, (void)sysid, (void)pubid, (void)has_internal_subset;
    stop(ctx, "it has a document type");
}

int s3_xml_walk(const void *data, size_t len, s3_xml_fn *fn, void *ctx, struct err *err)
{
    struct walk w = {.parser = XML_ParserCreate(NULL), .fn = fn, .ctx = ctx};
    enum XML_Status status;
    int rc = 0;

    must(w.parser != NULL);
    must(len <= INT_MAX);
    bytes_init(&w.text, S3_XML_TEXT_MAX);
    XML_SetUserData(w.parser, &w);
    XML_SetElementHandler(w.parser, on_start, on_end);
    XML_SetCharacterDataHandler(w.parser, on_text);
    XML_SetStartDoctypeDeclHandler(w.parser, on_doctype);
    status = XML_Parse(w.parser, data, (int)len, XML_TRUE);
    if (status != XML_STATUS_OK && !w.done)
        rc = err_set(err, ERR_UPSTREAM, "the answer's XML can't be read: %s",
                     w.wrong != NULL ? w.wrong : XML_ErrorString(XML_GetErrorCode(w.parser)));
    XML_ParserFree(w.parser);
    bytes_clear(&w.text);
    return rc;
}

bool s3_xml_time(const char *text, int64_t *out)
{
    int year, month, day, hour, minute, second, at = 0;
    int64_t y, days;

    if (sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d%n", &year, &month, &day, &hour, &minute, &second,
               &at) != 6 ||
        (text[at] != 'Z' && text[at] != '.') || year < 1970 || month < 1 || month > 12 || day < 1 ||
        day > 31 || hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 60)
        return false;
    y = month <= 2 ? year - 1 : year; /* Howard Hinnant's days_from_civil */
    days = y * 365 + y / 4 - y / 100 + y / 400 + (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 +
           day - 1 - 719468;
    *out = days * 86400 + hour * 3600 + minute * 60 + second;
    return true;
}
