/* The canonical body means what the request meant: parsed, it gives the same body and key. */
#include "tests/fuzz/fuzz.h"

#include "protocol/fetch_request.h"

enum { BODY_MAX = 1 << 24 };

static bool has_canonical_body(const struct fetch_request *req)
{
    return !req->unknown && (req->command == COMMAND_LS_REFS || req->command == COMMAND_FETCH);
}

static void check_fixed_point(const struct fetch_request *req)
{
    const struct key repo = {{7}};
    struct fetch_request again;
    struct bytes first, second;
    struct key a, b;
    struct err err;

    bytes_init(&first, BODY_MAX);
    bytes_init(&second, BODY_MAX);
    fetch_request_write(req, &first);
    must(fetch_request_parse(req->version, first.data, first.len, &again, &err) == 0);
    must(has_canonical_body(&again));
    must(again.command == req->command && again.wants.count == req->wants.count);
    must(fetch_request_keepable(&again) == fetch_request_keepable(req));
    must(fetch_request_is_closed(&again) == fetch_request_is_closed(req));
    must(fetch_request_is_shallow(&again) == fetch_request_is_shallow(req));
    fetch_request_write(&again, &second);
    must(first.len == second.len && memcmp(first.data, second.data, first.len) == 0);
    fetch_request_key(req, &repo, &a);
    fetch_request_key(&again, &repo, &b);
    must(key_equal(&a, &b));
    fetch_request_clear(&again);
    bytes_clear(&first);
    bytes_clear(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int version = fuzz_choice(&data, &size) % 3;
    char *body = fuzz_copy(data, size);
    struct fetch_request req;
    struct err err;

    if (fetch_request_parse(version, body, size, &req, &err) == 0) {
        must(!fetch_request_keepable(&req) || has_canonical_body(&req));
        if (has_canonical_body(&req))
            check_fixed_point(&req);
        fetch_request_clear(&req);
    } else {
        must(err.kind == ERR_INPUT || err.kind == ERR_LIMIT);
    }
    free(body);
    return 0;
}
