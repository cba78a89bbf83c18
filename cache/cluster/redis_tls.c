#include "cache/cluster/redis_tls.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "protocol/base.h"

struct redis_tls {
    SSL *ssl;
    BIO *in, *out; /* ssl's, in memory */
    char *host;
};

/* ---- why not ---- */

/* In OpenSSL's words, and it has many: the last one is the nearest. */
static const char *last_reason(void)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());

    return reason != NULL ? reason : "no reason is known";
}

static int fail_file(struct err *err, const char *setting, const char *file)
{
    err_set(err, ERR_INPUT, "%s: %s can't be used: %s", setting, file, last_reason());
    ERR_clear_error();
    return -1;
}

static int fail_tls(const struct redis_tls *t, struct err *err)
{
    long verdict = SSL_get_verify_result(t->ssl);

    if (verdict == X509_V_ERR_HOSTNAME_MISMATCH || verdict == X509_V_ERR_IP_ADDRESS_MISMATCH)
        err_set(err, ERR_UPSTREAM, "TLS failed: its certificate is not for %s", t->host);
    else if (verdict != X509_V_OK)
        err_set(err, ERR_UPSTREAM,
                "TLS failed: its certificate is not trusted (%s); redis.ca_file must hold the "
                "authority that it comes from",
                X509_verify_cert_error_string(verdict));
    else
        err_set(err, ERR_UPSTREAM, "TLS failed: %s", last_reason());
    ERR_clear_error();
    return -1;
}

/* ---- beginning and end ---- */

static int load_files(SSL_CTX *ctx, const struct redis_tls_files *files, struct err *err)
{
    if (files->ca_file == NULL)
        SSL_CTX_set_default_verify_paths(ctx);
    else if (SSL_CTX_load_verify_locations(ctx, files->ca_file, NULL) != 1)
        return fail_file(err, "redis.ca_file", files->ca_file);
    if (files->certificate == NULL)
        return 0;
    if (SSL_CTX_use_certificate_chain_file(ctx, files->certificate) != 1)
        return fail_file(err, "redis.certificate", files->certificate);
    if (SSL_CTX_use_PrivateKey_file(ctx, files->key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(ctx) != 1)
        return fail_file(err, "redis.key", files->key);
    return 0;
}

/* An address stands in a certificate as one, and servers are told of names only. */
static void expect_host(SSL *ssl, const char *host)
{
    if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) == 1)
        return;
    ERR_clear_error();
    must(SSL_set1_host(ssl, host) == 1);
    must(SSL_set_tlsext_host_name(ssl, host) == 1);
}

int redis_tls_new(const struct redis_tls_files *files, const char *host, struct redis_tls **out,
                  struct err *err)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    struct redis_tls *t;

    must(ctx != NULL);
    must(SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    if (load_files(ctx, files, err) != 0) {
        SSL_CTX_free(ctx);
        return -1;
    }
    t = xcalloc(1, sizeof(*t));
    t->host = xstrdup(host);
    t->ssl = SSL_new(ctx);
    SSL_CTX_free(ctx); /* lives as long as ssl */
    t->in = BIO_new(BIO_s_mem());
    t->out = BIO_new(BIO_s_mem());
    must(t->ssl != NULL && t->in != NULL && t->out != NULL);
    SSL_set_bio(t->ssl, t->in, t->out);
    SSL_set_connect_state(t->ssl);
    expect_host(t->ssl, host);
    *out = t;
    return 0;
}

void redis_tls_free(struct redis_tls **tp)
{
    struct redis_tls *t = *tp;

    *tp = NULL;
    if (t == NULL)
        return;
    SSL_free(t->ssl);
    free(t->host);
    free(t);
}

/* ---- in between ---- */

static bool waits(const struct redis_tls *t, int rc)
{
    return SSL_get_error(t->ssl, rc) == SSL_ERROR_WANT_READ;
}

int redis_tls_handshake(struct redis_tls *t, struct err *err)
{
    int rc;

    ERR_clear_error();
    rc = SSL_do_handshake(t->ssl);
    if (rc == 1)
        return 1;
    return waits(t, rc) ? 0 : fail_tls(t, err);
}

int redis_tls_write(struct redis_tls *t, const void *data, size_t len, struct err *err)
{
    size_t written = 0;

    ERR_clear_error();
    /* All of it: the memory that takes it has no bound but ours, on a command. */
    if (len > 0 && SSL_write_ex(t->ssl, data, len, &written) != 1)
        return fail_tls(t, err);
    must(written == len);
    return 0;
}

ssize_t redis_tls_read(struct redis_tls *t, void *buf, size_t len, struct err *err)
{
    size_t got = 0;
    int rc;

    ERR_clear_error();
    rc = SSL_read_ex(t->ssl, buf, len, &got);
    if (rc == 1)
        return (ssize_t)got;
    if (waits(t, rc))
        return 0;
    if (SSL_get_error(t->ssl, rc) == SSL_ERROR_ZERO_RETURN)
        return err_set(err, ERR_UPSTREAM, "Redis closed the connection");
    return fail_tls(t, err);
}

size_t redis_tls_take(struct redis_tls *t, void *buf, size_t len)
{
    size_t got = 0;

    return BIO_read_ex(t->out, buf, len, &got) == 1 ? got : 0;
}

void redis_tls_give(struct redis_tls *t, const void *data, size_t len)
{
    size_t written = 0;

    must(BIO_write_ex(t->in, data, len, &written) == 1 && written == len);
}
