/* The ini files of the AWS tools and what is read from them (s3_profile.c, s3_settings.c). */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "storage/store/s3_profile.h"
#include "storage/store/s3_settings.h"
#include "store/scratch.h"

#include "check.h"

/* A small environment: names and values in turn, up to a NULL. */
static const char *env_of(void *arg, const char *name)
{
    const char *const *vars = arg;
    for (; vars[0]; vars += 2)
        if (strcmp(vars[0], name) == 0)
            return vars[1];
    return NULL;
}

static char scratch[200], config[300], credentials[300];

static void write_file(const char *path, const char *bytes, size_t len)
{
    FILE *f = fopen(path, "we");
    CHECK(f && fwrite(bytes, 1, len, f) == len && fclose(f) == 0);
}

static void write_text(const char *path, const char *text)
{
    write_file(path, text, strlen(text));
}

static void *env_with(const char *name, const char *value)
{
    static const char *vars[9];
    const char *all[] = {
        "AWS_CONFIG_FILE", config, "AWS_SHARED_CREDENTIALS_FILE", credentials, name, value, NULL
    };
    memcpy(vars, all, sizeof(all));
    return vars;
}

static struct s3_profiles *load(void)
{
    struct s3_profiles *p;
    CHECK_OK(s3_profiles_load(env_of, env_with(NULL, NULL), &p, NULL));
    return p;
}

static const char *value(const struct s3_profiles *p, const char *profile, const char *setting)
{
    const char *v = s3_profiles_get(p, S3_SECTION_PROFILE, profile, setting);
    return v ? v : "(none)";
}

static int test_syntax(void)
{
    write_text(config, "\xef\xbb\xbf# a comment\r\n"
                       "[default]\r\n"
                       "region = eu-west-1   \r\n"
                       "  ; another\n"
                       "Output=json # not a part\n"
                       "s3 =\n"
                       "   addressing_style = path\n"
                       "   max_queue = 7\n"
                       "endpoint_url = http://a#b\n"
                       "[ profile  \"two words\" ] # why\n"
                       "region=us-east-1\n"
                       "region=us-east-2\n"
                       "credential_process = run 'a ; b' # c\n"
                       "long = one\n"
                       "   two\n"
                       "   three = 3\n"
                       "[profile none]\n"
                       "[sso-session x]\n"
                       "region = hidden\n"
                       "[services local]\n"
                       "s3 = \n"
                       "\tendpoint_url = http://127.0.0.1:9\n"
                       "sts =\n"
                       "  endpoint_url = http://127.0.0.1:8\n"
                       "[plain]\n"
                       "region = hidden\n"
                       "[profile empty]\n"
                       "region =\n");
    write_text(credentials, "[default]\nregion = ap-south-1\n");
    struct s3_profiles *p = load();
    CHECK_STR(value(p, "default", "region"), "ap-south-1"); /* credentials come first */
    CHECK_STR(value(p, "default", "output"), "json");
    CHECK_STR(value(p, "default", "OUTPUT"), "json");
    CHECK_STR(value(p, "default", "s3.addressing_style"), "path");
    CHECK_STR(value(p, "default", "S3.max_queue"), "7");
    CHECK_STR(value(p, "default", "addressing_style"), "(none)");
    CHECK_STR(value(p, "default", "endpoint_url"), "http://a#b");
    CHECK_STR(value(p, "two words", "region"), "us-east-2");
    CHECK_STR(value(p, "two words", "credential_process"), "run 'a ; b' # c");
    CHECK_STR(value(p, "two words", "long"), "one");
    CHECK_STR(value(p, "two words", "three"), "(none)");
    CHECK_STR(value(p, "Two Words", "region"), "(none)");
    CHECK_STR(value(p, "none", "region"), "(none)");
    CHECK_STR(value(p, "empty", "region"), "(none)");
    CHECK_STR(value(p, "x", "region"), "(none)");
    CHECK(s3_profiles_have(p, "none") && s3_profiles_have(p, "default"));
    CHECK(!s3_profiles_have(p, "x") && !s3_profiles_have(p, "local") &&
          !s3_profiles_have(p, "plain"));
    CHECK_STR(s3_profiles_get(p, S3_SECTION_SERVICES, "local", "s3.endpoint_url"),
              "http://127.0.0.1:9");
    CHECK_STR(s3_profiles_get(p, S3_SECTION_SERVICES, "local", "sts.endpoint_url"),
              "http://127.0.0.1:8");
    CHECK(strstr(s3_profiles_places(p), config) && strstr(s3_profiles_places(p), credentials));
    s3_profiles_free(p);
    s3_profiles_free(NULL);
    return 20;
}

/* Never the id of one file and the secret of another. */
static int test_keys(void)
{
    const char *id, *secret, *token;
    write_text(config, "[profile a]\naws_access_key_id = C\naws_secret_access_key = CS\n"
                       "aws_session_token = CT\n[profile b]\naws_access_key_id = C\n");
    write_text(credentials, "[a]\naws_access_key_id = K\naws_secret_access_key = KS\n"
                            "[c]\naws_secret_access_key = KS\n");
    struct s3_profiles *p = load();
    s3_profiles_keys(p, "a", &id, &secret, &token);
    CHECK_STR(id, "K");
    CHECK_STR(secret, "KS");
    CHECK(token == NULL);
    s3_profiles_keys(p, "b", &id, &secret, &token);
    CHECK_STR(id, "C");
    CHECK(secret == NULL);
    s3_profiles_keys(p, "c", &id, &secret, &token);
    CHECK(id == NULL);
    s3_profiles_keys(p, "d", &id, &secret, &token);
    CHECK(id == NULL);
    s3_profiles_free(p);
    return 4;
}

/* What is wrong is named by file and line, and not quoted. */
static int test_unsound(void)
{
    static const struct {
        const char *text;
        int line;
    } bad[] = { { "CANARY\n", 1 },
                { "a = CANARY\n", 1 },
                { "[default]\n\nCANARY\n", 3 },
                { "[default\na = b\n", 1 },
                { "  indented = CANARY\n", 1 },
                { "[default]\ns3 =\n  CANARY\n", 3 } };
    struct s3_profiles *p;
    write_text(config, "");
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct ckpt_err err = { 0 };
        char where[400];
        write_text(credentials, bad[i].text);
        CHECK_EQ(s3_profiles_load(env_of, env_with(NULL, NULL), &p, &err), CKPT_INVALID);
        snprintf(where, sizeof(where), "%s:%d:", credentials, bad[i].line);
        CHECK(strstr(err.text, where) && !strstr(err.text, "CANARY"));
    }
    write_file(credentials, "[default]\na = \0b\n", 16);
    CHECK_EQ(s3_profiles_load(env_of, env_with(NULL, NULL), &p, NULL), CKPT_INVALID);
    CHECK_EQ(truncate(credentials, S3_PROFILE_FILE_MAX + 1), 0);
    CHECK_EQ(s3_profiles_load(env_of, env_with(NULL, NULL), &p, NULL), CKPT_INVALID);
    CHECK_EQ(unlink(credentials), 0);
    CHECK_EQ(mkfifo(credentials, 0600), 0); /* must not hang */
    CHECK_EQ(s3_profiles_load(env_of, env_with(NULL, NULL), &p, NULL), CKPT_INVALID);
    CHECK_EQ(unlink(credentials), 0);
    CHECK_OK(s3_profiles_load(env_of, env_with(NULL, NULL), &p, NULL)); /* not there: empty */
    CHECK(!s3_profiles_have(p, "default"));
    s3_profiles_free(p);
    return (int)ARRAY_COUNT(bad) + 4;
}

/* Any bytes: an answer, and no report of a sanitizer. */
static int test_any_bytes(void)
{
    enum { ROUNDS = 300, LEN = 200 };
    static const char alphabet[] = "[]=#; \t\n\r\nas3profile services\"'\x80";
    unsigned long long seed = test_seed(3);
    int sound = 0;
    for (int round = 0; round < ROUNDS; round++) {
        char text[LEN + 11] = "[default]\n";
        struct s3_profiles *p;
        struct s3_settings settings;
        size_t n = test_rand(&seed) % LEN;
        for (size_t i = 0; i < n; i++)
            text[10 + i] = alphabet[test_rand(&seed) % (sizeof(alphabet) - 1)];
        write_text(config, text);
        if (s3_profiles_load(env_of, env_with(NULL, NULL), &p, NULL) == CKPT_OK) {
            (void)s3_profiles_get(p, S3_SECTION_PROFILE, "default", "s3.a");
            s3_profiles_free(p);
            sound++;
        }
        const struct s3_creds_options options = { .env = env_of,
                                                  .env_arg = env_with("AWS_PROFILE", "default") };
        if (s3_settings_read(&options, &settings, NULL) != CKPT_OK)
            sound += 0;
    }
    CHECK(sound > 0 && sound < ROUNDS);
    return ROUNDS;
}

static int test_places(void)
{
    char home[400];
    struct s3_profiles *p;
    const char *vars[] = { "HOME", scratch, NULL };
    const char *tilde[] = { "HOME", scratch, "AWS_CONFIG_FILE", "~/other", NULL };
    snprintf(home, sizeof(home), "%s/.aws", scratch);
    CHECK_EQ(mkdir(home, 0700), 0);
    snprintf(home, sizeof(home), "%s/.aws/config", scratch);
    write_text(home, "[default]\nregion = here\n");
    CHECK_OK(s3_profiles_load(env_of, vars, &p, NULL));
    CHECK_STR(value(p, "default", "region"), "here");
    s3_profiles_free(p);
    snprintf(home, sizeof(home), "%s/other", scratch);
    write_text(home, "[default]\nregion = there\n");
    CHECK_OK(s3_profiles_load(env_of, tilde, &p, NULL));
    CHECK_STR(value(p, "default", "region"), "there");
    s3_profiles_free(p);
    /* A home that is not ours: nothing there; a file that was named: said. */
    snprintf(home, sizeof(home), "%s/.aws", scratch);
    CHECK_EQ(chmod(home, 0), 0);
    bool root = geteuid() == 0;
    if (root)
        CHECK_EQ(seteuid(65534), 0);
    enum ckpt_status unnamed = s3_profiles_load(env_of, vars, &p, NULL);
    if (root)
        CHECK_EQ(seteuid(0), 0);
    CHECK_OK(unnamed);
    CHECK_STR(value(p, "default", "region"), "(none)");
    s3_profiles_free(p);
    snprintf(home, sizeof(home), "%s/.aws/config", scratch);
    const char *denied[] = { "AWS_CONFIG_FILE", home, NULL };
    if (root)
        CHECK_EQ(seteuid(65534), 0);
    enum ckpt_status st = s3_profiles_load(env_of, denied, &p, NULL);
    if (root)
        CHECK_EQ(seteuid(0), 0);
    CHECK_EQ(st, CKPT_DENIED);
    snprintf(home, sizeof(home), "%s/.aws", scratch);
    CHECK_EQ(chmod(home, 0700), 0);
    bool named;
    CHECK_STR(s3_profile_name("a", env_of, env_with("AWS_PROFILE", "b"), &named), "a");
    CHECK(named);
    CHECK_STR(s3_profile_name(NULL, env_of, env_with("AWS_PROFILE", "b"), &named), "b");
    CHECK(named);
    CHECK_STR(s3_profile_name(NULL, env_of, env_with("AWS_PROFILE", ""), &named), "default");
    CHECK(!named);
    CHECK_STR(s3_profile_name(NULL, env_of, env_with("AWS_DEFAULT_PROFILE", "d"), &named), "d");
    CHECK(named);
    return 8;
}

/* One setting of the environment or of a file, and what comes of it. */
struct settings_case {
    const char *vars[9]; /* names and values in turn */
    const char *config;
    enum ckpt_status st;
    const char *region, *endpoint, *ca_file;
    enum s3_addressing addressing;
};

#define CONFIG_ALL                                                                        \
    "[default]\nregion=r1\nendpoint_url=http://p\nca_bundle=/ca\nservices=sv\ns3=\n "     \
    "addressing_style=virtual\n[services sv]\ns3=\n endpoint_url=http://s\n[profile p]\n" \
    "region=r2\nendpoint_url = https://q:1/base//\n"

static const struct settings_case settings_cases[] = {
    { { NULL }, "", CKPT_OK, "", "", "", S3_ADDRESSING_AUTO },
    { { NULL }, CONFIG_ALL, CKPT_OK, "r1", "http://s", "/ca", S3_ADDRESSING_VIRTUAL },
    { { "AWS_PROFILE", "p" },
      CONFIG_ALL,
      CKPT_OK,
      "r2",
      "https://q:1/base",
      "",
      S3_ADDRESSING_AUTO },
    { { "AWS_ENDPOINT_URL", "http://e", "AWS_DEFAULT_REGION", "d" },
      CONFIG_ALL,
      CKPT_OK,
      "d",
      "http://e",
      "/ca",
      S3_ADDRESSING_VIRTUAL },
    { { "AWS_ENDPOINT_URL", "http://e", "AWS_ENDPOINT_URL_S3", "HTTP://e3/", "AWS_REGION", "x",
        "AWS_DEFAULT_REGION", "d" },
      CONFIG_ALL,
      CKPT_OK,
      "x",
      "HTTP://e3",
      "/ca",
      S3_ADDRESSING_VIRTUAL },
    { { "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "TRUE", "AWS_ENDPOINT_URL", "http://e",
        "AWS_CA_BUNDLE", "/b c" },
      CONFIG_ALL,
      CKPT_OK,
      "r1",
      "",
      "/b c",
      S3_ADDRESSING_VIRTUAL },
    { { "AWS_PROFILE", "gone" }, CONFIG_ALL, CKPT_INVALID, "", "", "", 0 },
    { { "AWS_REGION", "us east" }, "", CKPT_INVALID, "", "", "", 0 },
    { { "AWS_ENDPOINT_URL", "ftp://h" }, "", CKPT_INVALID, "", "", "", 0 },
    { { "AWS_ENDPOINT_URL", "http://" }, "", CKPT_INVALID, "", "", "", 0 },
    { { "AWS_ENDPOINT_URL", "http:///x" }, "", CKPT_INVALID, "", "", "", 0 },
    { { "AWS_ENDPOINT_URL", "http://u:CANARY@h" }, "", CKPT_INVALID, "", "", "", 0 },
    { { "AWS_ENDPOINT_URL", "http://h?CANARY" }, "", CKPT_INVALID, "", "", "", 0 },
    { { "AWS_ENDPOINT_URL", "http://h CANARY" }, "", CKPT_INVALID, "", "", "", 0 },
    { { NULL }, "[default]\ns3 =\n  addressing_style = odd\n", CKPT_INVALID, "", "", "", 0 },
};

static int test_settings(void)
{
    for (size_t i = 0; i < ARRAY_COUNT(settings_cases); i++) {
        const struct settings_case *c = &settings_cases[i];
        const char *vars[13] = { "AWS_CONFIG_FILE", config, "AWS_SHARED_CREDENTIALS_FILE",
                                 "/none" };
        struct s3_settings s = { .region = "untouched" };
        struct ckpt_err err = { 0 };
        const struct s3_creds_options options = { .env = env_of, .env_arg = vars };
        memcpy(vars + 4, c->vars, sizeof(c->vars));
        write_text(config, c->config);
        CHECK_EQ(s3_settings_read(&options, &s, &err), c->st);
        if (c->st != CKPT_OK) {
            CHECK(err.text[0] && !strstr(err.text, "CANARY"));
            CHECK_STR(s.region, "untouched");
            continue;
        }
        CHECK_STR(s.region, c->region);
        CHECK_STR(s.endpoint, c->endpoint);
        CHECK_STR(s.ca_file, c->ca_file);
        CHECK_EQ(s.addressing, c->addressing);
    }
    return (int)ARRAY_COUNT(settings_cases);
}

int main(void)
{
    scratch_make(scratch);
    snprintf(config, sizeof(config), "%s/config", scratch);
    snprintf(credentials, sizeof(credentials), "%s/credentials", scratch);
    int n = test_syntax() + test_keys() + test_unsound() + test_any_bytes() + test_places();
    n += test_settings();
    scratch_remove(scratch);
    TEST_CASES(n);
    return 0;
}
