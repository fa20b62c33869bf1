/* See s3_trouble.h.  Of the server's text only <Code> and <Message> are shown: other parts
 * of an error (StringToSign, CanonicalRequest) repeat what was sent, tokens among it. */
#include "storage/store/s3_trouble.h"

#include <stdio.h>

#include "storage/store/s3_xml.h"

void s3_outcome_read(const struct s3_answer *answer, struct s3_outcome *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->wire = answer->wire;
    ret->status = answer->status;
    if (answer->error_len == 0)
        return;
    s3_xml_find(answer->error, answer->error_len, "Error", "Code", ret->code, sizeof(ret->code));
}

void s3_outcome_text(const struct s3_outcome *outcome, const struct s3_answer *answer, char *buf,
                     size_t cap)
{
    bool told = outcome->status >= 300 || outcome->code[0];
    if (told && outcome->wire != S3_WIRE_FOREIGN)
        snprintf(buf, cap, "HTTP %d %s", outcome->status, outcome->code);
    else
        snprintf(buf, cap, "%s", answer->trouble);
}

/* Codes for which there is something to say. */
static const struct advice {
    const char *code;
    enum ckpt_status st;
    const char *text;
} advices[] = {
    { "NoSuchKey", CKPT_NOT_FOUND, "no such object" },
    { "NoSuchBucket", CKPT_UNREACHABLE,
      "the bucket does not exist; create it, or check its name, region and endpoint" },
    { "AccessDenied", CKPT_DENIED,
      "access denied; these keys need s3:GetObject, s3:PutObject, s3:DeleteObject and "
      "s3:ListBucket there (without ListBucket, what does not exist is denied, too)" },
    { "AllAccessDisabled", CKPT_DENIED, "the bucket's owner has disabled it" },
    { "AccountProblem", CKPT_DENIED, "there is a problem with the account that owns it" },
    { "InvalidAccessKeyId", CKPT_DENIED,
      "the server does not know this access key; check the credentials and the endpoint" },
    { "SignatureDoesNotMatch", CKPT_DENIED,
      "the signature does not match; check the secret key (and that no proxy changes requests)" },
    { "ExpiredToken", CKPT_DENIED, "the credentials have expired and there are no newer ones" },
    { "TokenRefreshRequired", CKPT_DENIED,
      "the credentials have expired and there are no newer ones" },
    { "InvalidToken", CKPT_DENIED, "the server refuses the session token of the credentials" },
    { "QuotaExceeded", CKPT_FULL, "the quota is used up; raise it, or delete something" },
    { "XMinioStorageFull", CKPT_FULL, "the server has no room left" },
    { "InsufficientStorage", CKPT_FULL, "the server has no room left" },
    { "EntityTooLarge", CKPT_LIMIT, "the server takes no object of this size" },
    { "InvalidRange", CKPT_CORRUPT, "shorter than what refers to it" },
    { "PreconditionFailed", CKPT_EXISTS, "already there" },
    { "NotImplemented", CKPT_UNSUPPORTED, "the server does not know this operation" },
    { "InvalidBucketName", CKPT_INVALID, "the server refuses this bucket name" },
    { "KMS.DisabledException", CKPT_DENIED, "the key that encrypts the bucket is disabled" },
};

static const struct advice statuses[] = {
    { "404", CKPT_NOT_FOUND, "no such object" },
    { "403", CKPT_DENIED, "access denied; check the credentials and the bucket's policy" },
    { "401", CKPT_DENIED, "access denied; check the credentials" },
    { "412", CKPT_EXISTS, "already there" },
    { "416", CKPT_CORRUPT, "shorter than what refers to it" },
    { "501", CKPT_UNSUPPORTED, "the server does not know this operation" },
    { "507", CKPT_FULL, "the server has no room left" },
    { "429", CKPT_UNREACHABLE, "the server is asked more than it allows" },
    { "503", CKPT_UNREACHABLE, "the server is overloaded or asked more than it allows" },
};

static const struct advice *advice_of(const struct s3_outcome *outcome)
{
    char status[16];
    for (size_t i = 0; i < ARRAY_COUNT(advices); i++) {
        if (strcmp(advices[i].code, outcome->code) == 0)
            return &advices[i];
    }
    snprintf(status, sizeof(status), "%d", outcome->status);
    for (size_t i = 0; i < ARRAY_COUNT(statuses); i++) {
        if (strcmp(statuses[i].code, status) == 0)
            return &statuses[i];
    }
    return NULL;
}

static enum ckpt_status wire_trouble(const struct s3_context *c, const struct s3_outcome *outcome,
                                     const struct s3_answer *answer, struct ckpt_err *err)
{
    static const char *const hints[] = {
        [S3_WIRE_DNS] = "; check the endpoint's name and this node's name servers",
        [S3_WIRE_CONNECT] = "; check the endpoint, the network and proxy settings",
        [S3_WIRE_TLS] = "; check that the endpoint speaks TLS (https://) there",
        [S3_WIRE_TLS_TRUST] =
            "; name the file of an authority of your own with ca=FILE or AWS_CA_BUNDLE",
        [S3_WIRE_CONFIG] = "; check the CA file (ca=, AWS_CA_BUNDLE) and the endpoint",
        [S3_WIRE_BROKEN] = "",
        [S3_WIRE_STALLED] = "",
        [S3_WIRE_REFUSED] = "",
        [S3_WIRE_FOREIGN] = "; check the endpoint",
    };
    char host[S3_HOST_MAX + 1];
    s3_place_host(c->place, c->region, host);
    return err_set(err, CKPT_UNREACHABLE, "%s %s in %s: %s (%s)%s", c->what, c->key, c->url,
                   answer->trouble[0] ? answer->trouble : "the answer is not whole", host,
                   hints[outcome->wire] ? hints[outcome->wire] : "");
}

enum ckpt_status s3_trouble(const struct s3_context *c, const struct s3_outcome *outcome,
                            const struct s3_answer *answer, struct ckpt_err *err)
{
    char message[200], host[S3_HOST_MAX + 1];
    bool told = outcome->status >= 300 || outcome->code[0];
    if (!told || outcome->wire == S3_WIRE_FOREIGN)
        return wire_trouble(c, outcome, answer, err);
    enum s3_class class_ = s3_classify(outcome);
    if (class_ == S3_SKEWED && answer->date_s)
        return err_set(err, CKPT_DENIED,
                       "%s %s in %s: the clocks differ by %lld s and the server refuses the "
                       "corrected time, too; set this node's clock",
                       c->what, c->key, c->url, (long long)(answer->date_s - c->now_s));
    if (class_ == S3_REGION) {
        s3_place_host(c->place, c->region, host);
        return err_set(
            err, CKPT_UNREACHABLE,
            "%s %s in %s: the bucket is not in region %s at %s (HTTP %d %s%s%s); name the "
            "right one with region= or AWS_REGION, or with endpoint=",
            c->what, c->key, c->url, c->region, host, outcome->status, outcome->code,
            answer->location[0] ? ", it points to " : "", answer->location);
    }
    const struct advice *a = advice_of(outcome);
    bool transient = class_ == S3_TRANSIENT || class_ == S3_THROTTLED || class_ == S3_DAMAGED;
    enum ckpt_status st = a ? a->st : transient ? CKPT_UNREACHABLE : CKPT_IO;
    s3_xml_find(answer->error, answer->error_len, "Error", "Message", message, sizeof(message));
    return err_set(err, st, "%s %s in %s: %s (HTTP %d%s%s%s%s)", c->what, c->key, c->url,
                   a           ? a->text
                   : transient ? "the server is in trouble"
                               : "the server refuses",
                   outcome->status, outcome->code[0] ? " " : "", outcome->code,
                   message[0] ? ": " : "", message);
}
