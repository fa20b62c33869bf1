/* put of the S3 store: one PUT, streamed from the caller's memory; with IF_ABSENT a
 * conditional one, whose outcome is looked up whenever the answer leaves it open. */
#include <openssl/evp.h>
#include <stdio.h>

#include "formats/digest.h"
#include "storage/store/store_s3.h"

/* An object that others put and remove under our feet is given up after this many rounds. */
#define ROUNDS_MAX 5

static void crc_header(const struct iovec *iov, int count, char ret[32])
{
    uint32_t crc = 0;
    for (int i = 0; i < count; i++)
        crc = crc32c_more(crc, iov[i].iov_base, iov[i].iov_len);
    const uint8_t be[4] = { (uint8_t)(crc >> 24), (uint8_t)(crc >> 16), (uint8_t)(crc >> 8),
                            (uint8_t)crc };
    EVP_EncodeBlock((unsigned char *)ret, be, sizeof(be));
}

static void md5_header(const struct iovec *iov, int count, char ret[32])
{
    uint8_t sum[EVP_MAX_MD_SIZE] = { 0 };
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    bool ok = md && EVP_DigestInit_ex(md, EVP_md5(), NULL);
    for (int i = 0; ok && i < count; i++)
        ok = EVP_DigestUpdate(md, iov[i].iov_base, iov[i].iov_len);
    ok = ok && EVP_DigestFinal_ex(md, sum, NULL);
    EVP_MD_CTX_free(md);
    ret[0] = 0;
    if (ok) /* a libcrypto without MD5 (FIPS): no header */
        EVP_EncodeBlock((unsigned char *)ret, sum, 16);
}

void s3_body_init(const struct s3_place *place, enum s3_digest digest, const struct iovec *iov,
                  int count, struct s3_body *ret)
{
    *ret = (struct s3_body){ .iov = iov, .count = count };
    bool sign = place->payload == S3_PAYLOAD_SIGNED ||
                (place->payload == S3_PAYLOAD_AUTO && (!place->tls || digest == S3_DIGEST_SHA256));
    if (sign)
        s3_payload_hash(iov, count, ret->payload_hash);
    else
        snprintf(ret->payload_hash, sizeof(ret->payload_hash), "%s", S3_UNSIGNED_PAYLOAD);
    const char *name = NULL;
    if (digest == S3_DIGEST_CRC32C) {
        name = "x-amz-checksum-crc32c";
        crc_header(iov, count, ret->sum);
    } else if (digest == S3_DIGEST_MD5) {
        name = "content-md5";
        md5_header(iov, count, ret->sum);
    }
    if (name && ret->sum[0])
        ret->headers[ret->header_count++] = (struct s3_pair){ name, ret->sum };
}

struct s3_call s3_put_call(const char *key, const struct s3_body *body)
{
    struct s3_call call = { .method = S3_PUT,
                            .key = key,
                            .iov = body->iov,
                            .iov_count = body->count,
                            .payload_hash = body->payload_hash };
    for (size_t i = 0; i < body->header_count; i++)
        call.headers[i] = body->headers[i];
    return call;
}

struct comparison {
    const struct iovec *iov;
    int count;
    bool differs;
};

static bool compare_bytes(struct s3_call *call, const struct s3_answer *answer, uint64_t at,
                          const void *bytes, size_t len)
{
    struct comparison *c = call->arg;
    if (!answer->etag[0]) /* not the object's bytes: it is asked again */
        return false;
    c->differs = !store_iov_equal(c->iov, c->count, at, bytes, len);
    return !c->differs;
}

enum ckpt_status s3_compare(struct store_s3 *s, const char *key, const struct iovec *iov, int count,
                            bool *ret_equal, struct ckpt_err *err)
{
    struct comparison c = { .iov = iov, .count = count };
    struct s3_call call = { .method = S3_GET, .key = key, .take = compare_bytes, .arg = &c };
    struct ckpt_err mine = { 0 };
    enum ckpt_status st = s3_run(s, "compare", &call, 1, &mine);
    if (st != CKPT_OK && !c.differs)
        return err_set(err, st, "%s", err_text(&mine));
    *ret_equal = !c.differs && call.ret.received == store_iov_bytes(iov, count);
    return CKPT_OK;
}

static enum ckpt_status conflict(const struct store_s3 *s, const char *key, struct ckpt_err *err)
{
    return err_set(err, CKPT_CONFLICT, "put %s: there are other bytes under this key in %s", key,
                   s->base.url);
}

/* 412, or lost: what lies there decides.  A conflict ends a save, so a difference is
 * looked at twice. */
static enum ckpt_status settle(struct store_s3 *s, const char *key, const struct s3_body *body,
                               struct ckpt_err *err)
{
    bool equal = false;
    for (int look = 0; look < 2 && !equal; look++) {
        enum ckpt_status st = s3_compare(s, key, body->iov, body->count, &equal, err);
        if (st != CKPT_OK)
            return st;
    }
    return equal ? CKPT_OK : conflict(s, key, err);
}

enum ckpt_status s3_put_absent(struct store_s3 *s, const char *key, struct s3_body *body,
                               struct ckpt_err *err)
{
    body->headers[body->header_count++] = (struct s3_pair){ "if-none-match", "*" };
    for (int round = 0; round < ROUNDS_MAX; round++) {
        struct ckpt_err mine = { 0 };
        struct s3_call call = s3_put_call(key, body);
        enum ckpt_status st = s3_run(s, "put", &call, 1, &mine);
        if (st == CKPT_EXISTS) {
            memset(&mine, 0, sizeof(mine));
            st = settle(s, key, body, &mine);
            if (st == CKPT_NOT_FOUND)
                continue; /* removed in between: the key is free again */
        }
        return st == CKPT_OK ? CKPT_OK : err_set(err, st, "%s", err_text(&mine));
    }
    return err_set(err, CKPT_UNREACHABLE,
                   "put %s in %s: the server says that it is there, and then that it is not", key,
                   s->base.url);
}

/* For servers without conditional writes: look, put, look again.  Two that do so at the
 * same moment may both see their own bytes; s3_to_text says so. */
static enum ckpt_status put_and_look(struct store_s3 *s, const char *key, struct s3_body *body,
                                     struct ckpt_err *err)
{
    struct ckpt_err mine = { 0 };
    enum ckpt_status st = settle(s, key, body, &mine);
    if (st != CKPT_NOT_FOUND)
        return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&mine));
    struct s3_call call = s3_put_call(key, body);
    st = s3_run(s, "put", &call, 1, err);
    return st == CKPT_OK ? settle(s, key, body, err) : st;
}

enum ckpt_status s3_put(struct store *base, const char *key, const struct iovec *iov, int count,
                        unsigned flags, struct ckpt_err *err)
{
    struct store_s3 *s = store_s3_of(base);
    struct s3_traits traits;
    struct s3_body body;
    enum ckpt_status st = s3_traits(s, &traits, err);
    if (st != CKPT_OK)
        return st;
    s3_body_init(&s->site->place, traits.digest, iov, count, &body);
    base->racy |= (flags & STORE_IF_ABSENT) && !traits.conditional;
    if (flags & STORE_IF_ABSENT)
        return traits.conditional ? s3_put_absent(s, key, &body, err)
                                  : put_and_look(s, key, &body, err);
    struct s3_call call = s3_put_call(key, &body);
    return s3_run(s, "put", &call, 1, err);
}
