/* Where credentials come from: each source by itself, the order among them, and what
 * hostile or broken ones answer (s3_creds_answer.c, s3_creds_profile.c, s3_creds_process.c,
 * s3_creds_sts.c, s3_creds_container.c, s3_creds_instance.c). */
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "fakes/aws_world.h"
#include "storage/store/s3_creds.h"
#include "storage/store/s3_creds_source.h"

#include "check.h"

#define NOW 1700000000

#define IMDS_ROLES "/latest/meta-data/iam/security-credentials/"
#define JSON_KEYS                                                                     \
    "{\"Code\":\"Success\",\"AccessKeyId\":\"JID\",\"SecretAccessKey\":\"CANARY-J\"," \
    "\"Token\":\"CANARY-JT\",\"Expiration\":\"2023-11-15T01:13:20Z\"}"
#define PROCESS_KEYS                                                              \
    "{\\\"Version\\\":1,\\\"AccessKeyId\\\":\\\"PID\\\",\\\"SecretAccessKey\\\":" \
    "\\\"CANARY-P\\\",\\\"SessionToken\\\":\\\"CANARY-PT\\\","                    \
    "\\\"Expiration\\\":\\\"2023-11-15T02:13:20+01:00\\\"}"
#define XML_KEYS(action, id)                                                                  \
    "<" action "Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><" action        \
    "Result><AssumedRoleUser><Arn>arn:x</Arn></AssumedRoleUser><Credentials><AccessKeyId>" id \
    "</AccessKeyId><SecretAccessKey>CANARY-S</SecretAccessKey><SessionToken>CANARY-ST"        \
    "</SessionToken><Expiration>2023-11-15T01:13:20Z</Expiration></Credentials></" action     \
    "Result></" action "Response>"

static struct world w;

static void start(void)
{
    world_init(&w);
    world_set(&w, "AWS_EC2_METADATA_DISABLED", "true");
}

/* Asks once; what comes back in words is checked for secrets. */
static enum ckpt_status ask(const char *profile, struct s3_keys *keys, char *text, size_t cap)
{
    struct ckpt_err err = { 0 };
    struct s3_creds *creds = world_creds(&w, profile);
    memset(keys, 0, sizeof(*keys));
    enum ckpt_status st = s3_creds_get(creds, NOW, NULL, keys, &err);
    if (st == CKPT_OK)
        s3_creds_to_text(creds, text, cap);
    else
        snprintf(text, cap, "%s", err.text);
    world_check_text(text);
    s3_creds_unref(creds);
    return st;
}

/* The id that is found ("" when none is), and the words must hold `words`. */
static int expect(const char *profile, enum ckpt_status st, const char *id, const char *words)
{
    struct s3_keys keys;
    char text[1024];
    enum ckpt_status got = ask(profile, &keys, text, sizeof(text));
    if (got != st || !strstr(text, words))
        fprintf(stderr, "got %s: %s\nexpected %s\n", status_name(got), text, words);
    CHECK_EQ(got, st);
    CHECK(strstr(text, words));
    CHECK_STR(keys.id, id);
    return 1;
}

static int test_environment(void)
{
    int n = 0;
    struct s3_keys keys;
    char text[1024];
    start();
    world_set(&w, "AWS_ACCESS_KEY_ID", "EID");
    n += expect(NULL, CKPT_INVALID, "", "only one is set");
    world_set(&w, "AWS_SECRET_ACCESS_KEY", "CANARY-E");
    n += expect(NULL, CKPT_OK, "EID", "environment");
    world_set(&w, "AWS_SESSION_TOKEN", "CANARY-ET");
    CHECK_OK(ask(NULL, &keys, text, sizeof(text)));
    CHECK_STR(keys.secret, "CANARY-E");
    CHECK_STR(keys.token, "CANARY-ET");
    CHECK_EQ(keys.expires_s, INT64_MAX);
    CHECK_EQ(keys.generation, 1);
    world_set(&w, "AWS_SECRET_ACCESS_KEY", "CANARY\nE");
    n += expect(NULL, CKPT_INVALID, "", "the secret access key");
    world_set(&w, "AWS_SECRET_ACCESS_KEY", "CANARY-E");
    world_set(&w, "AWS_SESSION_TOKEN", "CANARY ET");
    n += expect(NULL, CKPT_INVALID, "", "the session token");
    world_set(&w, "AWS_SESSION_TOKEN", "");
    /* AWS_PROFILE does not come before the keys, a profile of the options does. */
    world_credentials(&w, "[p]\naws_access_key_id=CID\naws_secret_access_key=CANARY-C\n");
    world_set(&w, "AWS_PROFILE", "p");
    n += expect(NULL, CKPT_OK, "EID", "environment");
    n += expect("p", CKPT_OK, "CID", "profile \"p\"");
    world_fini(&w);
    return n + 1;
}

static int test_none(void)
{
    int n = 0;
    start();
    n += expect(NULL, CKPT_DENIED, "",
                "AWS_ACCESS_KEY_ID is not set; there is no profile \"default\"");
    n += expect(NULL, CKPT_DENIED, "",
                "AWS_WEB_IDENTITY_TOKEN_FILE is not set; "
                "AWS_CONTAINER_CREDENTIALS_*_URI is not set; "
                "AWS_EC2_METADATA_DISABLED is set");
    world_config(&w, "[default]\nregion = us-east-1\n");
    n += expect(NULL, CKPT_DENIED, "", "profile \"default\" has no credentials");
    n += expect("gone", CKPT_INVALID, "", "there is no profile \"gone\"");
    n += expect("default", CKPT_DENIED, "", "profile \"default\" has no credentials");
    world_set(&w, "AWS_EC2_METADATA_DISABLED", NULL);
    n += expect(NULL, CKPT_DENIED, "", "no answer from http://169.254.169.254");
    CHECK_EQ(w.count, 3);
    world_fini(&w);
    return n;
}

static int test_static_profiles(void)
{
    int n = 0;
    start();
    world_credentials(&w, "[default]\naws_access_key_id=CID\naws_secret_access_key=CANARY-C\n"
                          "aws_session_token=CANARY-CT\n[half]\naws_access_key_id=HID\n");
    n += expect(NULL, CKPT_OK, "CID", "profile \"default\"");
    n += expect("half", CKPT_INVALID, "", "profile \"half\": the secret access key is missing");
    world_config(&w, "[profile sso]\nsso_session = x\n[profile odd]\nrole_arn = r\n"
                     "[profile both]\nrole_arn=r\nsource_profile=default\n"
                     "credential_source=Environment\n[profile mfa]\nrole_arn=r\n"
                     "source_profile=default\nmfa_serial=m\n[profile strange]\nrole_arn=r\n"
                     "credential_source=Moon\n[profile a]\nrole_arn=r\nsource_profile=b\n"
                     "[profile b]\nrole_arn=r\nsource_profile=a\n[profile lost]\nrole_arn=r\n"
                     "source_profile=nobody\n[profile empty]\nregion=x\n[profile on-empty]\n"
                     "role_arn=r\nsource_profile=empty\n");
    n += expect("sso", CKPT_INVALID, "", "aws configure export-credentials --profile sso");
    n += expect("odd", CKPT_INVALID, "", "it needs source_profile or credential_source");
    n += expect("both", CKPT_INVALID, "", "one of them");
    n += expect("mfa", CKPT_INVALID, "", "mfa_serial");
    n += expect("strange", CKPT_INVALID, "", "credential_source is Environment");
    n += expect("a", CKPT_INVALID, "", "source_profile goes round");
    n += expect("lost", CKPT_INVALID, "", "there is no profile \"nobody\"");
    n += expect("on-empty", CKPT_INVALID, "", "profile \"empty\" has no credentials");
    CHECK_EQ(w.count, 0);
    world_fini(&w);
    return n;
}

/* A profile that somebody named for its region has no credentials: the pod or the machine has. */
static int test_profile_without_keys(void)
{
    int n = 0;
    start();
    world_config(&w, "[profile train]\nregion = eu-west-1\n");
    world_set(&w, "AWS_PROFILE", "train");
    n += expect(NULL, CKPT_DENIED, "", "AWS_EC2_METADATA_DISABLED is set");
    world_set(&w, "AWS_EC2_METADATA_DISABLED", NULL);
    world_reply(&w, "PUT", "http://169.254.169.254/latest/api/token", 200, "CANARY-imds");
    world_reply(&w, "GET", IMDS_ROLES "my-role", 200, JSON_KEYS);
    world_reply(&w, "GET", IMDS_ROLES, 200, "my-role");
    n += expect(NULL, CKPT_OK, "JID", "instance role my-role");
    n += expect("train", CKPT_OK, "JID", "instance role my-role");
    world_set(&w, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/k");
    world_reply(&w, "GET", "http://169.254.170.2/k", 200, JSON_KEYS);
    n += expect("train", CKPT_OK, "JID", "container");
    world_set(&w, "AWS_WEB_IDENTITY_TOKEN_FILE", world_file(&w, "token", "CANARY/token"));
    world_set(&w, "AWS_ROLE_ARN", "arn:pod");
    world_reply(&w, "POST", "https://sts.eu-west-1.amazonaws.com/", 200,
                XML_KEYS("AssumeRoleWithWebIdentity", "WID"));
    n += expect(NULL, CKPT_OK, "WID", "web identity");
    n += expect("train", CKPT_OK, "WID", "web identity");
    world_set(&w, "AWS_PROFILE", "gone");
    n += expect(NULL, CKPT_INVALID, "", "there is no profile \"gone\"");
    world_fini(&w);
    return n;
}

static int test_roles(void)
{
    int n = 0;
    struct s3_keys keys;
    char text[1024];
    start();
    world_credentials(&w, "[base]\naws_access_key_id=BID\naws_secret_access_key=CANARY-B\n"
                          "[self]\naws_access_key_id=SID\naws_secret_access_key=CANARY-X\n");
    world_config(&w, "[profile r]\nregion = eu-west-3\nrole_arn = arn:aws:iam::1:role/a b\n"
                     "source_profile = base\nrole_session_name = me\nexternal_id = x&y\n"
                     "duration_seconds = 900\n[profile deep]\nrole_arn=arn:deep\n"
                     "source_profile=r\n[profile self]\nrole_arn=arn:self\nsource_profile=self\n"
                     "[profile env]\nrole_arn=arn:env\ncredential_source=Environment\n"
                     "[profile ecs]\nrole_arn=arn:ecs\ncredential_source=EcsContainer\n"
                     "[profile ec2]\nrole_arn=arn:ec2\ncredential_source=Ec2InstanceMetadata\n");
    world_reply(&w, "POST", "https://sts.eu-west-3.amazonaws.com/", 200,
                XML_KEYS("AssumeRole", "RID"));
    world_reply(&w, "POST", "https://sts.amazonaws.com/", 200, XML_KEYS("AssumeRole", "GID"));
    CHECK_OK(ask("r", &keys, text, sizeof(text)));
    CHECK_STR(keys.id, "RID");
    CHECK_STR(keys.secret, "CANARY-S");
    CHECK_STR(keys.token, "CANARY-ST");
    CHECK_EQ(keys.expires_s, 1700010800);
    CHECK_STR(text, "profile \"r\", role arn:aws:iam::1:role/a b, until 2023-11-15T01:13:20Z");
    CHECK_STR(w.requests[0].body, "Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A"
                                  "%3A1%3Arole%2Fa%20b&RoleSessionName=me&ExternalId=x%26y&"
                                  "DurationSeconds=900");
    CHECK(strstr(w.requests[0].headers, "Credential=BID/20231114/eu-west-3/sts/aws4_request, "
                                        "SignedHeaders=content-type;host;x-amz-date, Signature="));
    CHECK(!strstr(w.requests[0].headers, "CANARY") && !strstr(w.requests[0].headers, "Token"));
    CHECK(!w.requests[0].direct);
    world_forget(&w);
    /* A role in the name of a role: the second call is signed with keys and a token. */
    world_reply(&w, "POST", "https://sts.amazonaws.com/", 200, XML_KEYS("AssumeRole", "GID"));
    n += expect("deep", CKPT_OK, "GID", "role arn:deep");
    CHECK_EQ(w.count, 2);
    CHECK(strstr(w.requests[0].headers, "Credential=BID/20231114/us-east-1/sts/"));
    CHECK(strstr(w.requests[1].headers, "Credential=GID/"));
    CHECK(strstr(w.requests[1].headers, "\nX-Amz-Security-Token: CANARY-ST\n"));
    CHECK(strstr(w.requests[1].body, "RoleSessionName=ckpt"));
    n += expect("self", CKPT_OK, "GID", "role arn:self");
    CHECK(strstr(w.requests[2].headers, "Credential=SID/"));
    n += expect("env", CKPT_INVALID, "", "AWS_ACCESS_KEY_ID is not set");
    n += expect("ecs", CKPT_INVALID, "", "AWS_CONTAINER_CREDENTIALS_*_URI is not set");
    n += expect("ec2", CKPT_INVALID, "", "AWS_EC2_METADATA_DISABLED is set");
    world_set(&w, "AWS_ACCESS_KEY_ID", "EID");
    world_set(&w, "AWS_SECRET_ACCESS_KEY", "CANARY-E");
    world_set(&w, "AWS_REGION", "cn-north-1");
    world_reply(&w, "POST", "https://sts.cn-north-1.amazonaws.com.cn/", 200,
                XML_KEYS("AssumeRole", "NID"));
    n += expect("env", CKPT_OK, "NID", "role arn:env");
    world_fini(&w);
    return n + 2;
}

static void start_role(void)
{
    start();
    world_credentials(&w, "[base]\naws_access_key_id=BID\naws_secret_access_key=CANARY-B\n");
    world_config(&w, "[profile r]\nrole_arn = arn:r\nsource_profile = base\n");
    world_set(&w, "AWS_ENDPOINT_URL_STS", "http://127.0.0.1:99/");
}

/* STS says with 400, too, that it has no time now. */
static int test_sts_throttled(void)
{
    static const char *const codes[] = { "Throttling", "ThrottlingException",
                                         "RequestLimitExceeded", "IDPCommunicationError" };
    char body[200], words[100];
    start_role();
    for (size_t i = 0; i < ARRAY_COUNT(codes); i++) {
        snprintf(body, sizeof(body),
                 "<R><Error><Code>%s</Code><Message>later</Message></Error></R>", codes[i]);
        snprintf(words, sizeof(words), "HTTP 400 %s: later", codes[i]);
        world_reply(&w, "POST", "http://127.0.0.1:99/", 400, body);
        expect("r", CKPT_UNREACHABLE, "", words);
    }
    world_fini(&w);
    return ARRAY_COUNT(codes);
}

static int test_sts_answers(void)
{
    static const struct {
        int status;
        const char *body, *words;
        enum ckpt_status st;
    } answers[] = {
        { 403,
          "<ErrorResponse><Error><Code>AccessDenied</Code><Message>not\x01 you</Message></Error>"
          "</ErrorResponse>",
          "arn:r: HTTP 403 AccessDenied: not", CKPT_DENIED },
        { 400, "no XML", "HTTP 400", CKPT_DENIED },
        { 500, "", "HTTP 500", CKPT_UNREACHABLE },
        { 429, "", "HTTP 429", CKPT_UNREACHABLE },
        { 200, "", "holds no keys", CKPT_DENIED },
        { 200, "<a/>", "holds no keys", CKPT_DENIED },
        { 200, "<R><Credentials><AccessKeyId>A</AccessKeyId></Credentials></R>", "holds no keys",
          CKPT_DENIED },
        { 200,
          "<R><Credentials><AccessKeyId>A</AccessKeyId><SecretAccessKey>CANARY</SecretAccessKey>"
          "<SessionToken>CANARY</SessionToken><Expiration>soon</Expiration></Credentials></R>",
          "expiration", CKPT_DENIED },
        { 200,
          "<R><Credentials><AccessKeyId>A B</AccessKeyId><SecretAccessKey>CANARY</SecretAccessKey>"
          "<SessionToken>CANARY</SessionToken><Expiration>2023-11-15T01:13:20Z</Expiration>"
          "</Credentials></R>",
          "access key id", CKPT_DENIED },
        { 302, "", "HTTP 302", CKPT_DENIED },
    };
    start_role();
    for (size_t i = 0; i < ARRAY_COUNT(answers); i++) {
        world_forget(&w);
        world_reply(&w, "POST", "http://127.0.0.1:99/", answers[i].status, answers[i].body);
        expect("r", answers[i].st, "", answers[i].words);
        CHECK_EQ(w.count, answers[i].st == CKPT_UNREACHABLE ? 3 : 1);
        CHECK(w.requests[0].direct);
    }
    world_forget(&w);
    expect("r", CKPT_UNREACHABLE, "", "STS: nobody is there");
    world_reply_failure(&w, "POST", "http://127.0.0.1:99/", CKPT_TIMEOUT);
    expect("r", CKPT_UNREACHABLE, "", "STS"); /* TIMEOUT is for the caller's own deadline */
    world_reply_failure(&w, "POST", "http://127.0.0.1:99/", CKPT_LIMIT);
    w.count = 0;
    expect("r", CKPT_LIMIT, "", "STS");
    CHECK_EQ(w.count, 1);
    static const char *const urls[] = { "127.0.0.1",  "ftp://h",       "http://",
                                        "http://u@h", "http://h/path", "http://h?q" };
    for (size_t i = 0; i < ARRAY_COUNT(urls); i++) {
        world_set(&w, "AWS_ENDPOINT_URL_STS", urls[i]);
        expect("r", CKPT_INVALID, "", "AWS_ENDPOINT_URL_STS");
    }
    /* The endpoint of all services is that of STS, too; and a profile may have one for it. */
    world_set(&w, "AWS_ENDPOINT_URL_STS", NULL);
    world_reply(&w, "POST", "http://127.0.0.1:98/", 200, XML_KEYS("AssumeRole", "OID"));
    world_config(&w, "[profile r]\nrole_arn = arn:r\nsource_profile = base\nservices = s\n"
                     "[services s]\nsts =\n  endpoint_url = http://127.0.0.1:98\n");
    expect("r", CKPT_OK, "OID", "role arn:r");
    world_set(&w, "AWS_ENDPOINT_URL", "http://127.0.0.1:97");
    world_reply(&w, "POST", "http://127.0.0.1:97/", 200, XML_KEYS("AssumeRole", "AID"));
    expect("r", CKPT_OK, "AID", "role arn:r");
    world_fini(&w);
    return (int)(ARRAY_COUNT(answers) + ARRAY_COUNT(urls)) + 5;
}

static int test_web_identity(void)
{
    int n = 0;
    static char long_token[20002];
    start();
    world_set(&w, "AWS_REGION", "us-west-2");
    world_set(&w, "AWS_WEB_IDENTITY_TOKEN_FILE", "/none/token");
    n += expect(NULL, CKPT_INVALID, "", "AWS_ROLE_ARN is not");
    world_set(&w, "AWS_ROLE_ARN", "arn:aws:iam::1:role/pod");
    n += expect(NULL, CKPT_INVALID, "", "token file /none/token");
    world_set(&w, "AWS_WEB_IDENTITY_TOKEN_FILE", world_file(&w, "token", "CANARY/tok+en=\n"));
    world_reply(&w, "POST", "https://sts.us-west-2.amazonaws.com/", 200,
                XML_KEYS("AssumeRoleWithWebIdentity", "WID"));
    n += expect(NULL, CKPT_OK, "WID", "role arn:aws:iam::1:role/pod by web identity");
    CHECK_STR(w.requests[0].body, "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn="
                                  "arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fpod&RoleSessionName=ckpt&"
                                  "WebIdentityToken=CANARY%2Ftok%2Ben%3D");
    CHECK(!strstr(w.requests[0].headers, "Authorization"));
    world_set(&w, "AWS_ROLE_SESSION_NAME", "rank0");
    world_file(&w, "token", "CANARY-second");
    n += expect(NULL, CKPT_OK, "WID", "web identity");
    CHECK(strstr(w.requests[1].body, "RoleSessionName=rank0&WebIdentityToken=CANARY-second"));
    /* An answer that repeats the token. */
    world_reply(&w, "POST", "https://sts.us-west-2.amazonaws.com/", 400,
                "<E><Error><Code>InvalidIdentityToken</Code><Message>bad: CANARY-second</Message>"
                "</Error></E>");
    n += expect(NULL, CKPT_DENIED, "", "InvalidIdentityToken");
    static const char *const files[] = { "", "\n", "CANARY\nCANARY\n", "CANARY\x01" };
    for (size_t i = 0; i < ARRAY_COUNT(files); i++) {
        world_file(&w, "token", files[i]);
        n += expect(NULL, CKPT_DENIED, "", "does not hold one line");
    }
    memset(long_token, 'C', 20001);
    world_file(&w, "token", long_token);
    n += expect(NULL, CKPT_DENIED, "", "does not hold one line");
    long_token[20000] = '\0';
    world_file(&w, "token", long_token);
    world_reply(&w, "POST", "https://sts.us-west-2.amazonaws.com/", 200,
                XML_KEYS("AssumeRoleWithWebIdentity", "WID"));
    n += expect(NULL, CKPT_OK, "WID", "web identity");
    world_set(&w, "AWS_WEB_IDENTITY_TOKEN_FILE", NULL);
    world_config(&w, "[profile w]\nrole_arn = arn:w\nweb_identity_token_file = /none/w\n");
    n += expect("w", CKPT_INVALID, "", "token file /none/w");
    world_fini(&w);
    return n;
}

static int test_process(void)
{
    static const struct {
        const char *command, *id, *words;
        enum ckpt_status st;
    } commands[] = {
        { "echo \"" PROCESS_KEYS "\"", "PID",
          "profile \"p\", credential_process, until 2023-11-15"
          "T01:13:20Z",
          CKPT_OK },
        { "echo CANARY >&2; exit 3", "", "status 3", CKPT_DENIED },
        { "kill -9 $$", "", "signal 9", CKPT_DENIED },
        { "/none/such", "", "status 127", CKPT_DENIED },
        { "echo CANARY", "", "no JSON object", CKPT_DENIED },
        { "true", "", "no JSON object", CKPT_DENIED },
        { "cat /dev/zero", "", "more than 65536 bytes", CKPT_DENIED },
        { "echo '{\"AccessKeyId\":\"A\",\"AccessKeyId\":\"B\",\"SecretAccessKey\":\"CANARY\"}'", "",
          "no JSON object", CKPT_DENIED },
        { "echo '{\"AccessKeyId\":1,\"SecretAccessKey\":\"CANARY\"}'", "", "access key id",
          CKPT_DENIED },
        { "echo '{\"AccessKeyId\":\"A\",\"SecretAccessKey\":\"CANARY\",\"SessionToken\":7}'", "",
          "SessionToken", CKPT_DENIED },
        { "echo '{\"AccessKeyId\":\"A\",\"SecretAccessKey\":\"CANARY\",\"SessionToken\":null}'",
          "A", "credential_process", CKPT_OK },
        { "echo '{\"AccessKeyId\":\"A\",\"SecretAccessKey\":\"\"}'", "", "secret access key",
          CKPT_DENIED },
    };
    char config[2000];
    start();
    for (size_t i = 0; i < ARRAY_COUNT(commands); i++) {
        snprintf(config, sizeof(config), "[profile p]\ncredential_process = %s\n",
                 commands[i].command);
        world_config(&w, config);
        expect("p", commands[i].st, commands[i].id, commands[i].words);
    }
    world_fini(&w);
    return (int)ARRAY_COUNT(commands);
}

/* True when no process of the group that the command was is left. */
static bool group_gone(const char *pid_file)
{
    const struct timespec slice = { .tv_nsec = 5000000 };
    int pid = 0;
    FILE *f = fopen(pid_file, "re");
    if (!f || fscanf(f, "%d", &pid) != 1)
        pid = 0; /* cancelled before it wrote anything */
    if (f)
        fclose(f);
    for (int i = 0; pid > 0 && kill(-pid, 0) == 0; i++) {
        (void)waitpid(-pid, NULL, WNOHANG); /* ours since their parent died: see main */
        if (i == 2000)
            return false;
        nanosleep(&slice, NULL);
    }
    return true;
}

/* A command that does not end is ended with all that it started, in time or when nobody
 * waits any more. */
static int test_process_limits(void)
{
    static const char *const commands[] = { "sleep 1000", "exec >/dev/null; sleep 1000",
                                            "sleep 1000 & sleep 1000" };
    char config[1000], pid_file[300];
    struct timespec now;
    start();
    snprintf(pid_file, sizeof(pid_file), "%s/pid", w.dir);
    for (size_t i = 0; i < 2 * ARRAY_COUNT(commands); i++) {
        atomic_bool cancel = i % 2 == 0;
        struct s3_limits limits = { 0, i % 2 ? NULL : &cancel };
        struct s3_keys keys = { .generation = 0 };
        struct s3_creds *creds = world_creds(&w, "p");
        clock_gettime(CLOCK_MONOTONIC, &now);
        limits.deadline_ns = now.tv_sec * INT64_C(1000000000) + now.tv_nsec +
                             (i % 2 ? INT64_C(300000000) : INT64_C(60000000000));
        snprintf(config, sizeof(config), "[profile p]\ncredential_process = echo $$ >%s; %s\n",
                 pid_file, commands[i / 2]);
        world_config(&w, config);
        CHECK_EQ(s3_creds_get(creds, NOW, &limits, &keys, NULL),
                 i % 2 ? CKPT_TIMEOUT : CKPT_CANCELLED);
        CHECK(group_gone(pid_file));
        s3_creds_unref(creds);
    }
    world_fini(&w);
    return 2 * (int)ARRAY_COUNT(commands);
}

static int test_container(void)
{
    static const struct {
        const char *url;
        enum ckpt_status st;
        bool direct;
    } urls[] = {
        { "http://127.0.0.1:80/x", CKPT_OK, true },
        { "http://127.255.0.9/x?a=b", CKPT_OK, true },
        { "http://localhost/x", CKPT_OK, true },
        { "http://[::1]:1/x", CKPT_OK, true },
        { "http://169.254.170.2/x", CKPT_OK, true },
        { "http://169.254.170.23/v1/credentials", CKPT_OK, true },
        { "http://[fd00:ec2::23]/v1", CKPT_OK, true },
        { "https://keys.example.org/x", CKPT_OK, false },
        { "http://keys.example.org/x", CKPT_DENIED, false },
        { "http://127.0.0.1.example.org/x", CKPT_DENIED, false },
        { "http://127.0.0.1x/", CKPT_DENIED, false },
        { "http://localhost.example.org/", CKPT_DENIED, false },
        { "http://169.254.170.22/x", CKPT_DENIED, false },
        { "http://128.0.0.1/x", CKPT_DENIED, false },
        { "http://[::2]/x", CKPT_DENIED, false },
        { "http://u@127.0.0.1/x", CKPT_INVALID, false },
        { "http://evil.example#@127.0.0.1/", CKPT_INVALID, false },
        { "http://127.0.0.1\\@evil/", CKPT_INVALID, false },
        { "http://127.0.0.1/ x", CKPT_INVALID, false },
        { "http://127.0.0.1\n/x", CKPT_INVALID, false },
        { "http:///x", CKPT_INVALID, false },
        { "http://[::1", CKPT_INVALID, false },
        { "ftp://127.0.0.1/x", CKPT_DENIED, true },
        { "nonsense", CKPT_INVALID, false },
    };
    start();
    world_reply(&w, "GET", "://", 200, JSON_KEYS);
    for (size_t i = 0; i < ARRAY_COUNT(urls); i++) {
        struct s3_keys keys;
        char text[1024];
        w.count = 0;
        world_set(&w, "AWS_CONTAINER_CREDENTIALS_FULL_URI", urls[i].url);
        enum ckpt_status st = ask(NULL, &keys, text, sizeof(text));
        if (st != urls[i].st)
            fprintf(stderr, "%s: %s\n", urls[i].url, text);
        CHECK_EQ(st, urls[i].st);
        CHECK_EQ(w.count, st == CKPT_OK);
        if (st == CKPT_OK) {
            CHECK_STR(w.requests[0].url, urls[i].url);
            CHECK_EQ(w.requests[0].direct, urls[i].direct);
        }
    }
    world_fini(&w);
    return (int)ARRAY_COUNT(urls);
}

static int test_container_token(void)
{
    int n = 0;
    start();
    world_set(&w, "AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1/full");
    world_set(&w, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "no-slash");
    n += expect(NULL, CKPT_INVALID, "", "_RELATIVE_URI");
    world_set(&w, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/1");
    world_reply(&w, "GET", "http://169.254.170.2/v2/credentials/1", 200, JSON_KEYS);
    n +=
        expect(NULL, CKPT_OK, "JID", "container's credential endpoint, until 2023-11-15T01:13:20Z");
    CHECK(!strstr(w.requests[0].headers, "Authorization"));
    world_set(&w, "AWS_CONTAINER_AUTHORIZATION_TOKEN", "CANARY-1");
    n += expect(NULL, CKPT_OK, "JID", "container");
    CHECK(strstr(w.requests[1].headers, "\nAuthorization: CANARY-1\n"));
    world_set(&w, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", world_file(&w, "t", "CANARY-2\n"));
    n += expect(NULL, CKPT_OK, "JID", "container");
    CHECK(strstr(w.requests[2].headers, "\nAuthorization: CANARY-2\n"));
    world_file(&w, "t", "CANARY-3\r\nX-Other: 1");
    n += expect(NULL, CKPT_DENIED, "", "does not hold one line");
    world_set(&w, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", NULL);
    world_set(&w, "AWS_CONTAINER_AUTHORIZATION_TOKEN", "CANARY-4\r\nX-Other: 1");
    n += expect(NULL, CKPT_INVALID, "", "cannot be sent in a header");
    world_set(&w, "AWS_CONTAINER_AUTHORIZATION_TOKEN", NULL);
    world_reply(&w, "GET", "http://169.254.170.2/v2/credentials/1", 403, "CANARY");
    n += expect(NULL, CKPT_DENIED, "", "HTTP 403");
    world_reply(&w, "GET", "http://169.254.170.2/v2/credentials/1", 200, "<html>CANARY");
    n += expect(NULL, CKPT_DENIED, "", "no JSON object");
    world_reply(&w, "GET", "http://169.254.170.2/v2/credentials/1", 503, "CANARY");
    n += expect(NULL, CKPT_UNREACHABLE, "", "HTTP 503");
    world_fini(&w);
    return n;
}

static int test_instance(void)
{
    int n = 0;
    start();
    world_set(&w, "AWS_EC2_METADATA_DISABLED", "false");
    world_reply(&w, "PUT", "http://169.254.169.254/latest/api/token", 200, "CANARY-imds\n");
    world_reply(&w, "GET", IMDS_ROLES "my-role", 200, JSON_KEYS);
    world_reply(&w, "GET", IMDS_ROLES, 200, "my-role\nother\n");
    n += expect(NULL, CKPT_OK, "JID", "instance role my-role, until");
    CHECK_EQ(w.count, 3);
    CHECK_STR(w.requests[0].headers, "X-aws-ec2-metadata-token-ttl-seconds: 21600\n");
    CHECK_STR(w.requests[1].url, "http://169.254.169.254" IMDS_ROLES);
    CHECK_STR(w.requests[2].headers, "X-aws-ec2-metadata-token: CANARY-imds\n");
    CHECK_STR(w.requests[2].url, "http://169.254.169.254" IMDS_ROLES "my-role");
    CHECK(w.requests[0].direct && w.requests[1].direct && w.requests[2].direct);
    world_set(&w, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6");
    world_reply(&w, "PUT", "http://[fd00:ec2::254]/latest/api/token", 200, "CANARY-imds");
    n += expect(NULL, CKPT_OK, "JID", "instance role my-role");
    world_set(&w, "AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:8/");
    world_reply(&w, "PUT", "http://127.0.0.1:8/latest/api/token", 200, "CANARY-imds");
    n += expect(NULL, CKPT_OK, "JID", "instance role my-role");
    static const char *const roles[] = { "../x", "a/b", "a b", "a?b", "..", "\x01" };
    for (size_t i = 0; i < ARRAY_COUNT(roles); i++) {
        world_reply(&w, "GET", IMDS_ROLES, 200, roles[i]);
        n += expect(NULL, CKPT_DENIED, "", "name of a role");
    }
    world_reply(&w, "GET", IMDS_ROLES, 200, "");
    n += expect(NULL, CKPT_DENIED, "", "the instance has no role");
    world_reply(&w, "GET", IMDS_ROLES, 404, "");
    n += expect(NULL, CKPT_DENIED, "", "the instance has no role");
    world_reply(&w, "GET", IMDS_ROLES, 401, "");
    n += expect(NULL, CKPT_DENIED, "", "HTTP 401");
    world_reply(&w, "GET", IMDS_ROLES, 200, "my-role");
    world_reply(&w, "GET", IMDS_ROLES "my-role", 200,
                "{\"Code\":\"AssumeRoleUnauthorizedAccess\"}");
    n += expect(NULL, CKPT_DENIED, "", "AssumeRoleUnauthorizedAccess");
    world_reply(&w, "PUT", "http://127.0.0.1:8/latest/api/token", 200, "CANARY\r\n\x01");
    world_reply(&w, "GET", IMDS_ROLES "my-role", 200, JSON_KEYS);
    n += expect(NULL, CKPT_OK, "JID", "my-role"); /* the first line counts */
    world_reply(&w, "PUT", "http://127.0.0.1:8/latest/api/token", 200, "CAN ARY");
    n += expect(NULL, CKPT_DENIED, "", "token that is none");
    world_reply(&w, "PUT", "http://127.0.0.1:8/latest/api/token", 403, "");
    n += expect(NULL, CKPT_DENIED, "", "gives no token (HTTP 403)");
    world_set(&w, "AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://h?x");
    n += expect(NULL, CKPT_INVALID, "", "AWS_EC2_METADATA_SERVICE_ENDPOINT");
    world_fini(&w);
    return n;
}

static int test_times(void)
{
    static const struct {
        const char *text;
        int64_t s; /* -1: none */
    } times[] = { { "1970-01-01T00:00:00Z", 0 },
                  { "2023-11-14T22:13:20Z", 1700000000 },
                  { "2023-11-14T22:13:20.123456Z", 1700000000 },
                  { "2023-11-14T23:43:20+01:30", 1700000000 },
                  { "2023-11-14 17:13:20-0500", 1700000000 },
                  { "2024-02-29T00:00:00Z", 1709164800 },
                  { "9999-12-31T23:59:59Z", INT64_C(253402300799) },
                  { "", -1 },
                  { "2023-11-14T22:13:20", -1 },
                  { "2023-11-14T22:13:20Zx", -1 },
                  { "2023-13-14T22:13:20Z", -1 },
                  { "2023-00-14T22:13:20Z", -1 },
                  { "2023-11-32T22:13:20Z", -1 },
                  { "2023-11-14T24:13:20Z", -1 },
                  { "2023-11-14T22:60:20Z", -1 },
                  { "2023-11-14T22:13:61Z", -1 },
                  { "1969-11-14T22:13:20Z", -1 },
                  { "+023-11-14T22:13:20Z", -1 },
                  { "2023-11-14T22:13:20+25:00", -1 },
                  { "2023-11-14T22:13:20+1", -1 },
                  { "1700000000", -1 } };
    for (size_t i = 0; i < ARRAY_COUNT(times); i++) {
        int64_t s = -1;
        CHECK_EQ(s3_answer_time(times[i].text, &s), times[i].s >= 0);
        CHECK_EQ(s, times[i].s);
    }
    return (int)ARRAY_COUNT(times);
}

/* Lengths at the edge, and a byte changed anywhere: never more than an error in words. */
static int test_hostile_answers(void)
{
    enum { ROUNDS = 400 };
    static char body[3 * S3_SESSION_TOKEN_MAX], token[S3_SESSION_TOKEN_MAX + 2];
    unsigned long long seed = test_seed(5);
    int n = 0;
    start();
    world_set(&w, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/k");
    for (int more = 0; more < 2; more++) {
        memset(token, 't', S3_SESSION_TOKEN_MAX + (size_t)more);
        snprintf(body, sizeof(body),
                 "{\"AccessKeyId\":\"A\",\"SecretAccessKey\":\"CANARY\",\"Token\":\"%s\"}", token);
        world_reply(&w, "GET", "/k", 200, body);
        n += expect(NULL, more ? CKPT_DENIED : CKPT_OK, more ? "" : "A",
                    more ? "token" : "container");
    }
    for (int round = 0; round < ROUNDS; round++) {
        bool xml = round % 2;
        struct s3_found found;
        struct ckpt_err err = { 0 };
        char text[600];
        int len =
            snprintf(text, sizeof(text), "%s", xml ? XML_KEYS("AssumeRole", "RID") : JSON_KEYS);
        for (int k = 0; k < 3; k++)
            text[test_rand(&seed) % (unsigned)len] = (char)test_rand(&seed);
        if (xml)
            world_reply(&w, "POST", "sts.", 200, text);
        else if (s3_answer_json("x", text, (size_t)len, "Token", &found.keys, &err) != CKPT_OK)
            world_check_text(err.text);
        if (xml) {
            struct s3_search search = { world_env,    &w,        world_fetch,  &w,
                                        .region = "", .sts = "", .ca_file = "" };
            const struct s3_role role = { .arn = "arn:r" };
            struct s3_keys keys = { .id = "A", .secret = "CANARY" };
            if (s3_sts_assume(&search, &role, &keys, &found, &err) != CKPT_OK)
                CHECK(err.text[0] && !strstr(err.text, "CANARY-S"));
        }
    }
    world_fini(&w);
    return n + ROUNDS;
}

int main(void)
{
    CHECK_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    int n = test_environment() + test_none() + test_static_profiles();
    n += test_profile_without_keys() + test_roles();
    n += test_sts_throttled() + test_sts_answers() + test_web_identity() + test_process() +
         test_process_limits();
    n += test_container() + test_container_token() + test_instance() + test_times();
    n += test_hostile_answers();
    TEST_CASES(n);
    return 0;
}
