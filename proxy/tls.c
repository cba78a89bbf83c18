#include "proxy/tls.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include "protocol/base.h"

enum { CHAIN_MAX = 16 }; /* certificates in one file of ours */

struct tls_identity {
    atomic_uint references;
    gnutls_certificate_credentials_t credentials;
    gnutls_certificate_request_t request; /* what clients are asked for */
    int64_t expires;
};

/* ---- files ---- */

/* GnuTLS says neither which file nor why it can't be read. */
static int read_file(const char *what, const char *path, gnutls_datum_t *out, struct err *err)
{
    int rc;

    errno = 0;
    rc = gnutls_load_file(path, out);
    if (rc == GNUTLS_E_SUCCESS)
        return 0;
    return err_set(err, ERR_INPUT, "tls.%s: %s can't be read: %s", what, path,
                   errno != 0 ? strerror(errno) : gnutls_strerror(rc));
}

static void forget(gnutls_datum_t *d)
{
    if (d->data != NULL) {
        explicit_bzero(d->data, d->size);
        gnutls_free(d->data);
    }
    *d = (gnutls_datum_t){0};
}

/* Looks at the chain before the key does, for a sentence of its own and the day when it ends. */
static int look_at_chain(struct tls_identity *id, const char *path, const gnutls_datum_t *pem,
                         struct err *err)
{
    gnutls_x509_crt_t chain[CHAIN_MAX];
    unsigned count = CHAIN_MAX;
    int rc;

    rc = gnutls_x509_crt_list_import(chain, &count, pem, GNUTLS_X509_FMT_PEM,
                                     GNUTLS_X509_CRT_LIST_IMPORT_FAIL_IF_EXCEED);
    if (rc == GNUTLS_E_SHORT_MEMORY_BUFFER)
        return err_set(err, ERR_INPUT, "tls.certificate: %s holds more than %d certificates", path,
                       CHAIN_MAX);
    if (rc <= 0)
        return err_set(err, ERR_INPUT, "tls.certificate: %s holds no certificate in PEM form (%s)",
                       path, gnutls_strerror(rc < 0 ? rc : GNUTLS_E_NO_CERTIFICATE_FOUND));
    id->expires = INT64_MAX;
    for (int i = 0; i < rc; i++) {
        int64_t end = (int64_t)gnutls_x509_crt_get_expiration_time(chain[i]);

        id->expires = end < id->expires ? end : id->expires;
        gnutls_x509_crt_deinit(chain[i]);
    }
    return 0;
}

static int load_ours(struct tls_identity *id, const struct tls_files *f, struct err *err)
{
    gnutls_datum_t certificate = {0}, key = {0};
    int rc = -1, said;

    if (read_file("certificate", f->certificate, &certificate, err) != 0 ||
        read_file("key", f->key, &key, err) != 0 ||
        look_at_chain(id, f->certificate, &certificate, err) != 0)
        goto out;
    said = gnutls_certificate_set_x509_key_mem2(id->credentials, &certificate, &key,
                                                GNUTLS_X509_FMT_PEM, NULL, 0);
    if (said == GNUTLS_E_CERTIFICATE_KEY_MISMATCH)
        err_set(err, ERR_INPUT, "tls.key: %s is not the key of the certificate in %s", f->key,
                f->certificate);
    else if (said == GNUTLS_E_DECRYPTION_FAILED)
        err_set(err, ERR_INPUT,
                "tls.key: %s is protected by a password; write it without one, readable to "
                "pannier's user only",
                f->key);
    else if (said < 0)
        err_set(err, ERR_INPUT, "tls.key: %s holds no key in PEM form (%s)", f->key,
                gnutls_strerror(said));
    else
        rc = 0;
out:
    forget(&certificate);
    forget(&key);
    return rc;
}

/* GnuTLS calls this in the handshake; what isn't 0 ends it.  Who shows no certificate comes here
 * only where none is required. */
static int verify_client(gnutls_session_t session)
{
    gnutls_typed_vdata_st purpose = {.type = GNUTLS_DT_KEY_PURPOSE_OID,
                                     .data = (unsigned char *)(uintptr_t)GNUTLS_KP_TLS_WWW_CLIENT};
    unsigned count = 0, status = 0;

    if (gnutls_certificate_get_peers(session, &count) == NULL || count == 0)
        return 0;
    return gnutls_certificate_verify_peers(session, &purpose, 1, &status) == 0 && status == 0 ? 0
                                                                                              : -1;
}

static int load_theirs(struct tls_identity *id, const struct tls_files *f, struct err *err)
{
    gnutls_datum_t pem = {0};
    int said;

    id->request = GNUTLS_CERT_IGNORE;
    if (f->client_ca == NULL)
        return 0;
    if (read_file("client_ca", f->client_ca, &pem, err) != 0)
        return -1;
    said = gnutls_certificate_set_x509_trust_mem(id->credentials, &pem, GNUTLS_X509_FMT_PEM);
    forget(&pem);
    if (said <= 0)
        return err_set(err, ERR_INPUT, "tls.client_ca: %s holds no certificate in PEM form (%s)",
                       f->client_ca,
                       gnutls_strerror(said < 0 ? said : GNUTLS_E_NO_CERTIFICATE_FOUND));
    gnutls_certificate_set_verify_function(id->credentials, verify_client);
    id->request = f->client == TLS_CLIENT_REQUIRED ? GNUTLS_CERT_REQUIRE : GNUTLS_CERT_REQUEST;
    return 0;
}

int tls_identity_load(const struct tls_files *files, struct tls_identity **out, struct err *err)
{
    struct tls_identity *id = xcalloc(1, sizeof(*id));

    atomic_init(&id->references, 1);
    must(gnutls_certificate_allocate_credentials(&id->credentials) == GNUTLS_E_SUCCESS);
    if (load_ours(id, files, err) != 0 || load_theirs(id, files, err) != 0) {
        tls_identity_unref(&id);
        return -1;
    }
    *out = id;
    return 0;
}

struct tls_identity *tls_identity_ref(struct tls_identity *id)
{
    atomic_fetch_add_explicit(&id->references, 1, memory_order_relaxed);
    return id;
}

void tls_identity_unref(struct tls_identity **idp)
{
    struct tls_identity *id = *idp;

    *idp = NULL;
    if (id == NULL || atomic_fetch_sub_explicit(&id->references, 1, memory_order_acq_rel) > 1)
        return;
    gnutls_certificate_free_credentials(id->credentials);
    free(id);
}

int64_t tls_identity_expires(const struct tls_identity *id)
{
    return id->expires;
}

/* ---- sessions ---- */

void tls_session_begin(void *session, const struct tls_identity *id)
{
    must(gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, id->credentials) ==
         GNUTLS_E_SUCCESS);
    gnutls_certificate_server_set_request(session, id->request);
}

char *tls_session_subject(void *session)
{
    gnutls_datum_t name = {0};
    const gnutls_datum_t *peers;
    gnutls_x509_crt_t crt;
    unsigned count = 0;
    char *subject = NULL;

    /* That there is one means that it was verified: else the handshake would have failed. */
    peers = gnutls_certificate_get_peers(session, &count);
    if (peers == NULL || count == 0 || gnutls_x509_crt_init(&crt) != GNUTLS_E_SUCCESS)
        return NULL;
    if (gnutls_x509_crt_import(crt, &peers[0], GNUTLS_X509_FMT_DER) == GNUTLS_E_SUCCESS &&
        gnutls_x509_crt_get_dn3(crt, &name, 0) == GNUTLS_E_SUCCESS) {
        subject = xstrndup((const char *)name.data, name.size);
        gnutls_free(name.data);
    }
    gnutls_x509_crt_deinit(crt);
    return subject;
}

bool tls_session_last_words(void *session, const char *data, size_t len)
{
    if (gnutls_record_send(session, data, len) != (ssize_t)len)
        return false;
    gnutls_bye(session, GNUTLS_SHUT_WR);
    return true;
}

static void never(void)
{
    must(false);
}

tls_unused_fn *tls_unused(void)
{
    return never;
}
