#include "proxy/decisions_refs.h"

#include <string.h>

#include "protocol/base.h"
#include "protocol/fetch_request.h"

void decisions_learn_refs(struct decisions *d, const struct subject *s, uint64_t now_ms,
                          uint64_t ttl_ms, const struct refs_reader *refs, const char *content_type,
                          const struct bytes *asked, const struct bytes *v2_body)
{
    int version = refs_reader_version(refs);

    if (!refs_reader_overflowed(refs) && (asked != NULL || version != 2)) {
        struct listing listing = {.oids = refs_reader_oids(refs)};
        struct fetch_request question = {0};
        struct err ignored;

        refs_reader_tags(refs, &listing.tags, &listing.targets);
        key_of(asked != NULL ? asked->data : "", asked != NULL ? asked->len : 0, &listing.question);
        if (asked != NULL &&
            fetch_request_parse(2, asked->data, asked->len, &question, &ignored) == 0) {
            listing.prefixes = question.ls_prefixes;
            listing.prefix_count = question.ls_prefix_count;
        }
        /* With arguments that nobody here knows it isn't known either what was left out. */
        if (!question.unknown)
            decisions_advertised(d, s, now_ms, ttl_ms, &listing);
        fetch_request_clear(&question);
    }
    if (v2_body != NULL) {
        struct advert advert = {.version = version,
                                .filter = refs_reader_fetch_feature(refs, "filter"),
                                .algo = refs_reader_algo(refs)};

        if (version == 2 && v2_body->len > 0 && v2_body->len <= DECISION_ADVERT_MAX) {
            advert.v2_body = xmalloc(v2_body->len);
            memcpy(advert.v2_body, v2_body->data, v2_body->len);
            advert.v2_len = v2_body->len;
            advert.v2_content_type = xstrdup(content_type);
        }
        decisions_set_advert(d, s, now_ms, ttl_ms, &advert);
    }
}
