/* What users read when an object store says no. */
#include "storage/store/s3_trouble.h"

#include "check.h"

static struct s3_place place = { .bucket = "bucket", .host = "h:1", .region = "us-east-1" };

static struct s3_answer answer;
static struct ckpt_err err;

static enum ckpt_status trouble(enum s3_wire wire, int status, const char *body)
{
    struct s3_outcome o;
    struct s3_context c = { .what = "put",
                            .key = "a/b",
                            .url = "s3://bucket",
                            .place = &place,
                            .region = "us-east-1",
                            .now_s = 1000 };
    answer.wire = wire;
    answer.status = status;
    snprintf(answer.error, sizeof(answer.error), "%s", body);
    answer.error_len = strlen(answer.error);
    memset(&err, 0, sizeof(err));
    s3_outcome_read(&answer, &o);
    enum ckpt_status st = s3_trouble(&c, &o, &answer, &err);
    CHECK_EQ(st, err.status);
    CHECK(strstr(err.text, "put a/b in s3://bucket"));
    return st;
}

#define ERROR(code) "<Error><Code>" code "</Code><Message>the server's words</Message></Error>"

static int test_answers(void)
{
    static const struct {
        int status;
        const char *body;
        enum ckpt_status st;
        const char *words;
    } cases[] = {
        { 404, ERROR("NoSuchKey"), CKPT_NOT_FOUND, "no such object" },
        { 404, "", CKPT_NOT_FOUND, "no such object" },
        { 404, ERROR("NoSuchBucket"), CKPT_UNREACHABLE, "create it" },
        { 403, ERROR("AccessDenied"), CKPT_DENIED, "s3:ListBucket" },
        { 403, "", CKPT_DENIED, "policy" },
        { 403, ERROR("SignatureDoesNotMatch"), CKPT_DENIED, "secret key" },
        { 403, ERROR("InvalidAccessKeyId"), CKPT_DENIED, "does not know this access key" },
        { 400, ERROR("ExpiredToken"), CKPT_DENIED, "expired" },
        { 403, ERROR("QuotaExceeded"), CKPT_FULL, "quota" },
        { 507, ERROR("XMinioStorageFull"), CKPT_FULL, "no room" },
        { 507, "", CKPT_FULL, "no room" },
        { 412, ERROR("PreconditionFailed"), CKPT_EXISTS, "already there" },
        { 416, ERROR("InvalidRange"), CKPT_CORRUPT, "shorter" },
        { 501, ERROR("NotImplemented"), CKPT_UNSUPPORTED, "does not know" },
        { 503, ERROR("SlowDown"), CKPT_UNREACHABLE, "SlowDown: the server's words" },
        { 500, ERROR("InternalError"), CKPT_UNREACHABLE, "in trouble" },
        { 400, ERROR("BadDigest"), CKPT_UNREACHABLE, "in trouble" },
        { 200, ERROR("InternalError"), CKPT_UNREACHABLE, "in trouble" },
        { 400, ERROR("MalformedXML"), CKPT_IO, "refuses (HTTP 400 MalformedXML" },
        { 301, ERROR("PermanentRedirect"), CKPT_UNREACHABLE, "region=" },
        { 403, ERROR("RequestTimeTooSkewed"), CKPT_DENIED, "clocks differ by 4000 s" },
        { 400, "not <xml", CKPT_IO, "HTTP 400" },
    };
    answer.date_s = 5000;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        enum ckpt_status st = trouble(S3_WIRE_OK, cases[i].status, cases[i].body);
        if (st != cases[i].st || !strstr(err.text, cases[i].words)) {
            fprintf(stderr, "case %zu: %s: %s\n", i, status_name(st), err.text);
            exit(1);
        }
    }
    return ARRAY_COUNT(cases);
}

static int test_wire(void)
{
    static const struct {
        enum s3_wire wire;
        const char *words;
    } cases[] = {
        { S3_WIRE_DNS, "name servers" },     { S3_WIRE_CONNECT, "proxy" },
        { S3_WIRE_TLS, "https://" },         { S3_WIRE_TLS_TRUST, "AWS_CA_BUNDLE" },
        { S3_WIRE_CONFIG, "CA file" },       { S3_WIRE_BROKEN, "curl's words (h:1)" },
        { S3_WIRE_STALLED, "curl's words" }, { S3_WIRE_FOREIGN, "endpoint" },
    };
    snprintf(answer.trouble, sizeof(answer.trouble), "curl's words");
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        CHECK_EQ(trouble(cases[i].wire, 0, ""), CKPT_UNREACHABLE);
        CHECK(strstr(err.text, cases[i].words) && strstr(err.text, "curl's words"));
    }
    /* A page that says that there is nothing says nothing about the object. */
    CHECK_EQ(trouble(S3_WIRE_FOREIGN, 404, "<html></html>"), CKPT_UNREACHABLE);
    CHECK(strstr(err.text, "curl's words"));
    return ARRAY_COUNT(cases) + 1;
}

/* An error that repeats what was sent is not repeated to the log. */
static int test_discretion(void)
{
    trouble(S3_WIRE_OK, 403,
            "<Error><Code>SignatureDoesNotMatch</Code><Message>no match</Message>"
            "<StringToSign>canary</StringToSign><CanonicalRequest>x-amz-security-token:canary"
            "</CanonicalRequest></Error>");
    CHECK(!strstr(err.text, "canary"));
    CHECK(strstr(err.text, "no match"));
    return 1;
}

int main(void)
{
    TEST_CASES(test_answers() + test_wire() + test_discretion());
    return 0;
}
