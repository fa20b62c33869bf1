/* ckptd.conf: every error with its line and what to write, the order of strength, reloads; and
 * the laws: what a random file says is what comes out, and what --check prints is a file that
 * says the same.  (It covers config_sources.c, config_keys.c and config_text.c, too.) */
#include <fcntl.h>
#include <sys/stat.h>

#include "ckptd/config.h"
#include "ckptd/config_file.h"
#include "ckptd/config_keys.h"

#include "check.h"

#define VALUES_MAX 64

static long cases;
static const char *env_crew, *env_config, *env_keep;
static struct config_errors errors;

static char *fake_env(const char *name)
{
    const char *v = strcmp(name, "CKPT_CREW") == 0     ? env_crew
                    : strcmp(name, "CKPT_CONFIG") == 0 ? env_config
                    : strcmp(name, "CKPT_KEEP") == 0   ? env_keep
                                                       : NULL;
    return (char *)(uintptr_t)v;
}

static char *words[8] = { (char[]){ "ckptd" } };
static struct config_input input = {
    .argc = 1, .argv = words, .getenv_ = fake_env, .default_file = "f"
};

static void flags(const char *a, const char *b)
{
    input.argc = 1;
    if (a)
        words[input.argc++] = (char *)(uintptr_t)a;
    if (b)
        words[input.argc++] = (char *)(uintptr_t)b;
}

static struct config *load(const char *text)
{
    struct config *c = NULL;
    input.text = text;
    input.text_len = strlen(text);
    enum ckpt_status st = config_load(&input, &c, &errors);
    CHECK((st == CKPT_OK) == (errors.count == 0));
    CHECK((c != NULL) == (st == CKPT_OK));
    for (size_t i = 0; i < min_u64(errors.count, CONFIG_ERRORS_MAX); i++)
        CHECK(errors.list[i].text[0] && errors.list[i].status != CKPT_OK);
    cases++;
    return c;
}

/* -- errors ------------------------------------------------------------------------------- */

static void wrong(const char *text, const char *one)
{
    struct config *c = load(text);
    CHECK(!c);
    if (errors.count != 1 || !strstr(errors.list[0].text, one))
        fprintf(stderr, "%zu errors of: %s\n%s\n", errors.count, text, errors.list[0].text);
    CHECK_EQ(errors.count, 1);
    CHECK(strstr(errors.list[0].text, one));
}

static const struct {
    const char *text, *words;
} refused[] = {
    { "stor = /x\n", "f:1: unknown setting \"stor\" (did you mean \"store\"?)" },
    { "store = /s\n\n# c\nremote-raet = 1\n", "f:4: unknown setting \"remote-raet\" (did you mean "
                                              "\"remote-rate\"?)" },
    { "store = /s\nqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq = 1\n", "f:2: unknown" },
    { "store /s\n", "f:1: write NAME = VALUE" },
    { "--store = /s\n", "f:1: write options without \"--\"" },
    { "= /s\n", "f:1: a name is missing" },
    { "store =\n", "f:1: a value is missing" },
    { "store = # nothing\n", "f:1: a value is missing" },
    { "store = \"/s\"\n", "f:1: write the value without quotes" },
    { "store = '/s'\n", "f:1: write the value without quotes" },
    { "store = /s\nstore = /t\n", "f:2: \"store\" stands in line 1 already" },
    { "store = /s\nprivate = yes\n", "f:2: \"private\" is no setting: give --private" },
    { "store = /s\nconfig = g\n", "f:2: \"config\" is no setting" },
    { "store = /s\nlisten-fd = 3\n", "f:2: \"listen-fd\" is no setting" },
    { "store = /s\naws-secret-key = x\n", "f:2: no secrets here" },
    { "store = /s\nAccess_Key_Id = x\n", "f:2: no secrets here" },
    { "store = /s\npassword = x\n", "f:2: no secrets here" },
    { "store = /s\ncrew = none\n", "f:2: crew \"none\": a number from 1 to 64" },
    { "store = /s\ncrew = 65\n", "f:2: crew \"65\"" },
    { "store = /s\ncrew = -1\n", "f:2: crew \"-1\"" },
    { "store = /s\ncrew = +1\n", "f:2: crew \"+1\"" },
    { "store = /s\ncrew = 18446744073709551617\n", "f:2: crew" },
    { "store = /s\nremote-rate = 1T\n", "f:2: remote-rate \"1T\"" },
    { "store = /s\nslot-bytes = 8388609\n", "f:2: slot-bytes 8388609 is no multiple of 4096" },
    { "store = /s\nsocket = x.sock\n", "f:2: socket \"x.sock\": an absolute path" },
    { "store = /s\nio = fast\n", "f:2: io \"fast\": auto, uring or threads" },
    { "store = /s\nlog-level = all\n", "f:2: log-level \"all\": error, warn, info or debug" },
    { "store = /s\ncodec = lz4\n", "f:2: codec \"lz4\": stored, zstd" },
    { "store = /s\nremote-codec = stored\n", "f:2: remote-codec \"stored\": copy, zstd" },
    { "store = /s\nremote-policy = newest\n", "f:2: remote-policy" },
    { "store = /s\nkeep = last\n", "f:2: keep \"last\": keep \"last\": RULE=VALUE" },
    { "store = /s\nkeep = last=0\n", "f:2: keep \"last=0\": keep last \"0\": a number" },
    { "store = /s\nkeep = newest=3\n", "\"newest\" is no rule" },
    { "store = /s\nkeep = ,\n", "f:2: keep" },
    { "store = /s\ndelete-grace = 3\n", "f:2: delete-grace \"3\": a duration is expected" },
    { "store = /s\n[job a\n", "f:2: a section's line ends with \"]\"" },
    { "store = /s\n[]\n", "f:2: this section is not known: write [job PATTERN]" },
    { "store = /s\n[tier x]\ncrew = 1\n", "f:2: this section is not known" },
    { "store = /s\n[jobs x]\n", "f:2: this section is not known" },
    { "store = /s\n[job]\n", "f:2: write [job PATTERN]" },
    { "store = /s\n[job a/b]\n", "f:2: write [job PATTERN]" },
    { "store = /s\n[job a b]\n", "f:2: write [job PATTERN]" },
    { "store = /s\n[job a]\n[job b]\n[job a]\n", "f:4: this section stands twice" },
    { "store = /s\n[job a]\ncrew = 3\n", "f:3: \"crew\" is for all jobs: it stands before" },
    { "store = /s\n[job a]\nkeep = last=2\nkeep = last=3\n", "f:4: \"keep\" stands in line 3" },
    { "store = /s\n[job a]\nkeep = last=x\n", "f:3: keep \"last=x\"" },
    { "store = /s\ncrew = 3\001\n", "f:2: the line has control characters" },
    { "store = /s\nremote = /r\nremote = /r/\n", "remote /r/ is named twice" },
    { "store = /s\nremote = dir:///s\n", "is the store itself" },
    { "crew = 3\n", "no store: give --store" },
    { "", "no store" },
};

static void all_errors(void)
{
    for (size_t i = 0; i < ARRAY_COUNT(refused); i++)
        wrong(refused[i].text, refused[i].words);
    /* All of them are told, up to a number; then how many. */
    CHECK(!load("a = 1\nb = 2\n\nc\n"));
    CHECK_EQ(errors.count, 3);
    CHECK(strstr(errors.list[0].text, "f:1:") && strstr(errors.list[1].text, "f:2:") &&
          strstr(errors.list[2].text, "f:4:"));
    char many[512] = "";
    for (int i = 0; i < 40; i++)
        memcpy(many + (size_t)2 * (size_t)i, "x\n", 2);
    CHECK(!load(many));
    CHECK_EQ(errors.count, 40);
    /* Wrong also where something stronger hides it. */
    flags("--crew=3", "--store=/s");
    wrong("crew = 0\n", "f:1: crew \"0\"");
    flags(NULL, NULL);
    char line[CONFIG_LINE_MAX + 64];
    memset(line, 'x', sizeof(line));
    memcpy(line, "store = /s\n# ", 13);
    line[sizeof(line) - 1] = 0;
    wrong(line, "f:2: the line is longer");
    char seven[256] = "store = /s\n";
    for (int i = 0; i < 7; i++)
        snprintf(seven + strlen(seven), 32, "remote = /r%d\n", i);
    wrong(seven, "f:8: remote /r6: more than 6 remotes");
}

static void write_file(const char *path, const char *text, mode_t mode)
{
    FILE *f = fopen(path, "we");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0 && chmod(path, mode) == 0);
}

static void files(void)
{
    char dir[] = "/tmp/ckpt-conf-XXXXXX", path[64], flag[96];
    struct config *c;
    CHECK(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/c", dir);
    snprintf(flag, sizeof(flag), "--config=%s", path);
    input.text = NULL;
    input.default_file = path; /* one that is not there is none */
    flags("--store=/s", NULL);
    CHECK_OK(config_load(&input, &c, &errors));
    CHECK(!c->file && c->crew == 6);
    config_free(c);
    flags("--store=/s", flag); /* one that was named must be */
    CHECK_EQ(config_load(&input, &c, &errors), CKPT_NOT_FOUND);
    CHECK(strstr(errors.list[0].text, path) && strstr(errors.list[0].text, "--config none"));
    write_file(path, "crew = 9\n", 0644);
    CHECK_OK(config_load(&input, &c, &errors));
    CHECK_STR(c->file, path);
    CHECK_EQ(c->crew, 9);
    config_free(c);
    flags("--store=/s", NULL);
    env_config = "none";
    CHECK_OK(config_load(&input, &c, &errors));
    CHECK(!c->file && c->crew == 6);
    config_free(c);
    env_config = NULL;
    flags("--store=/s", "--private"); /* the machine's is not a trainer's own daemon's */
    CHECK_OK(config_load(&input, &c, &errors));
    CHECK(!c->file && c->crew == 6);
    config_free(c);
    env_config = path; /* but what its environment names is */
    CHECK_OK(config_load(&input, &c, &errors));
    CHECK_EQ(c->crew, 9);
    config_free(c);
    env_config = NULL;
    flags("--store=/s", NULL);
    write_file(path, "crew = 9\n", 0666);
    CHECK_EQ(config_load(&input, &c, &errors), CKPT_DENIED);
    CHECK(strstr(errors.list[0].text, "chmod o-w"));
    CHECK(truncate(path, (off_t)CONFIG_FILE_BYTES_MAX + 1) == 0 && chmod(path, 0600) == 0);
    CHECK_EQ(config_load(&input, &c, &errors), CKPT_LIMIT);
    CHECK(unlink(path) == 0 && mkfifo(path, 0600) == 0);
    CHECK_EQ(config_load(&input, &c, &errors), CKPT_INVALID); /* and does not wait */
    CHECK(unlink(path) == 0 && rmdir(dir) == 0);
    input.default_file = "f";
    flags(NULL, NULL);
    cases += 9;
}

/* -- strength, sections, reloads ------------------------------------------------------------- */

static void strength(void)
{
    const char *text = "store = /s # a comment\n\tcrew=7  \r\n remote = /r#1\nremote = /q\n"
                       "keep = last=3,daily=2\n[job a*]\nkeep = all\n[job ab]\nkeep=last=9\n"
                       "[ job c ] # one\nkeep = last=4\n[job d]\nkeep-local = last=6\n"
                       "keep-remote = last=11\nkeep-store = last=12\n";
    struct config *c = load(text);
    CHECK(c);
    CHECK_STR(c->store, "/s");
    CHECK_STR(c->remotes[0], "/r#1");
    CHECK(c->crew == 7 && c->remote_count == 2 && c->log_level == LOG_LEVEL_INFO);
    CHECK(c->delete_grace_ns == INT64_C(72) * 3600 * 1000000000 && config_keeps(c));
    CHECK(config_keep(c, "z", CONFIG_KEEP)->count == 2 &&
          config_keep(c, "d", CONFIG_KEEP)->count == 2);
    CHECK(config_keep(c, "d", CONFIG_KEEP_LOCAL)->rules[0].n == 6 &&
          !config_keep(c, "c", CONFIG_KEEP_LOCAL));
    CHECK(config_keep(c, "d", CONFIG_KEEP_REMOTE)->rules[0].n == 11 &&
          !config_keep(c, "c", CONFIG_KEEP_REMOTE));
    CHECK(config_keep(c, "d", CONFIG_KEEP_STORE)->rules[0].n == 12 &&
          !config_keep(c, "c", CONFIG_KEEP_STORE));
    CHECK(config_drops(c, "d") && !config_drops(c, "c"));
    CHECK(!config_keep(c, "a", CONFIG_KEEP) &&
          !config_keep(c, "ab", CONFIG_KEEP)); /* the first that fits */
    CHECK_EQ(config_keep(c, "c", CONFIG_KEEP)->rules[0].n, 4);
    config_free(c);
    env_crew = "8";
    c = load(text);
    CHECK(c && c->crew == 8);
    config_free(c);
    flags("--crew=9", "--remote=/x");
    c = load(text);
    CHECK(c && c->crew == 9 && c->remote_count == 1);
    CHECK_STR(c->remotes[0], "/x");
    config_free(c);
    flags("--crew=9", "--crew=10");
    c = load(text);
    CHECK(c && c->crew == 10);
    config_free(c);
    flags(NULL, NULL);
    env_crew = "many";
    CHECK(!load(text));
    CHECK(strstr(errors.list[0].text, "CKPT_CREW \"many\""));
    env_crew = NULL;
    c = load("store = /s\nremote = /r\n[job j]\nkeep-remote = last=2\n");
    CHECK(c && config_keeps(c) && !config_keep(c, "j", CONFIG_KEEP));
    CHECK_EQ(config_keep(c, "j", CONFIG_KEEP_REMOTE)->rules[0].n, 2);
    CHECK(config_drops(c, "j") && !config_drops(c, "i"));
    config_free(c);
    c = load("store = /s\nremote = /r\n[job j]\nkeep-store = last=2\n");
    CHECK(c && config_keeps(c) && config_drops(c, "j") && !config_drops(c, "i"));
    config_free(c);
    c = load("store = /s\nkeep = all\n");
    CHECK(c && !config_keeps(c) && !config_keep(c, "j", CONFIG_KEEP));
    config_free(c);
}

/* What somebody says now stands above what the file says of single jobs. */
static void stronger_than_sections(void)
{
    const char *text = "store = /s\nkeep = last=3\n[job c]\nkeep = last=4\n"
                       "[job d*]\nkeep-local = last=6\n[job d]\nkeep = last=7\n";
    struct config *c = load(text);
    CHECK(c);
    CHECK_EQ(config_keep(c, "c", CONFIG_KEEP)->rules[0].n, 4);
    CHECK_EQ(config_keep(c, "d", CONFIG_KEEP)->rules[0].n, 7); /* the first that fits and has it */
    CHECK_EQ(config_keep(c, "d", CONFIG_KEEP_LOCAL)->rules[0].n, 6);
    config_free(c);
    env_keep = "all";
    c = load(text);
    CHECK(c && !config_keep(c, "c", CONFIG_KEEP) && !config_keep(c, "d", CONFIG_KEEP));
    CHECK_EQ(config_keep(c, "d", CONFIG_KEEP_LOCAL)->rules[0].n, 6);
    config_free(c);
    flags("--keep=last=8", NULL);
    c = load(text);
    CHECK(c);
    CHECK_EQ(config_keep(c, "c", CONFIG_KEEP)->rules[0].n, 8);
    CHECK_EQ(config_keep(c, "z", CONFIG_KEEP)->rules[0].n, 8);
    config_free(c);
    env_keep = NULL;
    flags("--keep=all", "--keep-local=all");
    c = load(text);
    CHECK(c && !config_keeps(c));
    config_free(c);
    flags(NULL, NULL);
}

static char said[2048];

static void say_idle(void *arg, const char *where, const char *missing)
{
    (void)arg;
    size_t n = strlen(said);
    snprintf(said + n, sizeof(said) - n, "%s>%s ", where, missing);
}

static void idle(void)
{
    static const struct {
        const char *text, *words;
    } texts[] = {
        { "store = /s\nkeep-local = last=2\n[job a]\nkeep-local = last=3\n",
          "f:2: keep-local>local f:4: keep-local>local " },
        { "store = /s\nlocal = /l\nkeep-local = last=2\n", "" },
        { "store = /s\nlocal = /l\nkeep-remote = last=2\n", "f:3: keep-remote>remote " },
        { "store = /s\nremote = /r\nkeep-remote = last=2\n", "" },
        { "store = /s\nkeep-store = last=2\n", "f:2: keep-store>remote " },
        { "store = /s\nremote = /r\nkeep-store = last=2\n", "" },
        { "store = /s\ndelete-grace = 1h\nremote-rate = 1M\n",
          "f:2: delete-grace>keep f:3: remote-rate>remote or local " },
        { "store = /s\nlocal = /l\nremote-policy = last\nremote-codec = copy\nremote-rate = 1M\n"
          "remote-streams = 2\n",
          "" },
        { "store = /s\ndelete-grace = 1h\nremote = /r\nremote-rate = 1M\n[job a]\nkeep = all\n",
          "" },
    };
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        struct config *c = load(texts[i].text);
        CHECK(c);
        said[0] = 0;
        config_idle(c, say_idle, NULL);
        CHECK_STR(said, texts[i].words);
        config_free(c);
    }
}

static void say(void *arg, const struct config_change *c)
{
    (void)arg;
    size_t n = strlen(said);
    snprintf(said + n, sizeof(said) - n, "%s[%s]%s:%s>%s ", c->name, c->job ? c->job : "",
             c->live ? "" : "!", c->before, c->after);
}

static struct config *again(const char *text, const struct config *start, const struct config *now)
{
    struct config *c = NULL;
    said[0] = 0;
    input.text = text;
    input.text_len = strlen(text);
    enum ckpt_status st = config_reload(&input, start, now, say, NULL, &c, &errors);
    CHECK((c != NULL) == (st == CKPT_OK));
    cases++;
    return c;
}

static void reloads(void)
{
    flags("--stop-seconds=5", NULL);
    struct config *start = load("store = /s\ncrew = 7\nremote = /r\nremote-rate = 1M\n"
                                "[job a]\nkeep = last=2\n[job b]\nkeep = last=3\n");
    struct config *c, *d;
    CHECK(start);
    c = again("store = /t\ncrew = 7\nremote = /q\nremote-rate = 2M\nlog-level = warn\n"
              "stop-seconds = 9\ncodec = zstd\nkeep-remote = last=6\n[job b]\nkeep = last=4\n"
              "[job c]\nkeep = last=5\n",
              start, start);
    CHECK(c);
    /* What may change has; what may not is as at the start, and both were said. */
    CHECK_STR(said, "store[]!:/s>/t codec[]!:stored>zstd remote[]!:/r>/q remote-rate[]:1M>2M "
                    "keep[b]:last=3>last=4 keep[c]:>last=5 keep[a]:last=2> "
                    "keep-remote[]:all>last=6 log-level[]:info>warn ");
    CHECK_STR(c->store, "/s");
    CHECK_STR(c->remotes[0], "/r");
    CHECK(c->remote_rate == 2 * MIB && c->log_level == LOG_LEVEL_WARN && c->stop_s == 5);
    CHECK(c->codec == CODEC_STORED && c->remote_codec == CODEC_ZSTD);
    CHECK(!config_keep(c, "a", CONFIG_KEEP) && config_keep(c, "b", CONFIG_KEEP)->rules[0].n == 4);
    CHECK_EQ(config_keep(c, "c", CONFIG_KEEP)->rules[0].n, 5);
    CHECK_EQ(config_keep(c, "a", CONFIG_KEEP_REMOTE)->rules[0].n, 6);
    /* Wrong: nothing comes of it. */
    CHECK(!again("store = /s\ncrew = 0\n", start, c));
    CHECK(strstr(errors.list[0].text, "f:2: crew") && !said[0]);
    /* Against the last reload; what needs a restart is said again. */
    d = again("store = /t\nremote = /r\nremote-rate = 2M\n", start, c);
    CHECK(d);
    CHECK_STR(said, "store[]!:/s>/t crew[]!:7>6 keep[b]:last=4> keep[c]:last=5> "
                    "keep-remote[]:last=6>all log-level[]:warn>info ");
    CHECK(d->crew == 7 && d->log_level == LOG_LEVEL_INFO && !config_keeps(d));
    config_free(c);
    /* A file that is gone is no file without settings. */
    input.default_file = "/nonexistent/f";
    input.text = NULL;
    CHECK_EQ(config_reload(&input, start, d, say, NULL, &c, &errors), CKPT_INVALID);
    input.default_file = "f";
    flags("--config=none", "--store=/s");
    CHECK_EQ(config_reload(&input, start, d, say, NULL, &c, &errors), CKPT_NOT_FOUND);
    CHECK(strstr(errors.list[0].text, "not there any more"));
    flags(NULL, NULL);
    config_free(d);
    config_free(start);
    cases += 2;
}

/* -- laws -------------------------------------------------------------------------------------- */

/* Sound values of each setting, to be drawn from. */
static const char *const drawn[][4] = {
    { "store", "/s", "/s/b", "dir:///x?shared=1" },
    { "socket", "/run/a", "/b.sock", "/c" },
    { "local", "/l", "/m", "/n" },
    { "io", "auto", "uring", "threads" },
    { "crew", "1", "64", "2" },
    { "slot-bytes", "8M", "128M", "16M" },
    { "codec", "stored", "zstd", "zstd:19" },
    { "remote-policy", "all", "every=10,last", "none" },
    { "remote-codec", "copy", "zstd", "zstd:2" },
    { "remote-rate", "0", "1G", "77" },
    { "remote-streams", "1", "32", "5" },
    { "keep", "all", "last=3", "every=5,tag=x*" },
    { "keep-store", "all", "last=4", "daily=3" },
    { "keep-local", "all", "last=2", "within=3d" },
    { "keep-remote", "all", "last=5", "weekly=2" },
    { "delete-grace", "0s", "2w", "90m" },
    { "stop-seconds", "1", "86400", "60" },
    { "log-level", "error", "debug", "warn" },
};

static unsigned long long seed;

static unsigned below_(unsigned n)
{
    return (unsigned)(test_rand(&seed) % n);
}

static const char *some_blanks(void)
{
    static const char *const all[] = { "", " ", "\t", "   ", " \t " };
    return all[below_(5)];
}

/* Writes a random file; what each setting must be comes out. */
static void draw(char *text, size_t cap, const char *ret[ARRAY_COUNT(drawn)])
{
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_COUNT(drawn); i++) {
        ret[i] = i == 0 || below_(2) ? drawn[i][1 + below_(3)] : NULL;
        while (below_(3) == 0)
            n += (size_t)snprintf(text + n, cap - n, "%s%s\n", some_blanks(),
                                  below_(2) ? "# crew = 0 [x" : "");
        if (ret[i])
            n += (size_t)snprintf(text + n, cap - n, "%s%s%s=%s%s%s%s\n", some_blanks(),
                                  drawn[i][0], some_blanks(), some_blanks(), ret[i], some_blanks(),
                                  below_(3)   ? ""
                                  : below_(2) ? "\r"
                                              : " # = [x] #");
    }
}

/* What stands for a setting, by the values that are left. */
static const char *stands(const struct config *c, const char *name)
{
    for (size_t i = 0; i < c->value_count; i++)
        if (strcmp(c->values[i].key->name, name) == 0)
            return c->values[i].text;
    return NULL;
}

static void printed_again(const struct config *c)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    CHECK(f);
    config_print(c, f);
    CHECK(fclose(f) == 0);
    struct config *d = load(text);
    CHECK(d);
    for (size_t i = 0; i < ARRAY_COUNT(drawn); i++) {
        const char *a = stands(c, drawn[i][0]), *b = stands(d, drawn[i][0]);
        CHECK(b || !a);
        if (a)
            CHECK_STR(a, b);
    }
    CHECK(c->crew == d->crew && c->slot_bytes == d->slot_bytes && c->codec == d->codec &&
          c->remote_codec == d->remote_codec && c->remote_rate == d->remote_rate &&
          c->keep[CONFIG_KEEP].count == d->keep[CONFIG_KEEP].count &&
          c->delete_grace_ns == d->delete_grace_ns);
    config_free(d);
    free(text);
}

static void what_is_written_comes_out(int rounds)
{
    char text[8192];
    const char *must[ARRAY_COUNT(drawn)];
    for (int r = 0; r < rounds; r++) {
        draw(text, sizeof(text), must);
        struct config *c = load(text);
        if (!c)
            fprintf(stderr, "%s\n%s", errors.list[0].text, text);
        CHECK(c);
        for (size_t i = 0; i < ARRAY_COUNT(drawn); i++) {
            const char *got = stands(c, drawn[i][0]);
            CHECK((got != NULL) == (must[i] != NULL));
            if (got)
                CHECK_STR(got, must[i]);
        }
        printed_again(c);
        config_free(c);
    }
}

/* Any bytes: taken or refused, each refusal with a line that is there. */
static void any_bytes(int rounds)
{
    static const char some[] = "=[]#job \n\n\t\rkeep,last3\"store/--x\001\200";
    char text[8192];
    const char *must[ARRAY_COUNT(drawn)];
    for (int r = 0; r < rounds; r++) {
        draw(text, sizeof(text), must);
        size_t len = strlen(text), lines = 1;
        for (unsigned k = 1 + below_(8); k > 0; k--)
            text[below_((unsigned)len)] = some[below_(sizeof(some) - 1)];
        for (size_t i = 0; i < len; i++)
            lines += text[i] == '\n';
        struct config *c = load(text);
        for (size_t i = 0; !c && i < min_u64(errors.count, CONFIG_ERRORS_MAX); i++) {
            unsigned line = 0;
            if (sscanf(errors.list[i].text, "f:%u:", &line) == 1)
                CHECK(line >= 1 && line <= lines);
        }
        config_free(c);
    }
}

/* The shipped file is that of the table, and a sound one, also with all of it in force. */
static void example(void)
{
    char *text = NULL, *given = NULL;
    size_t len = 0, given_len = 0;
    struct ckpt_err err = { 0 };
    FILE *f = open_memstream(&text, &len);
    CHECK(f);
    config_print_example(f);
    CHECK(fclose(f) == 0);
    CHECK_OK(config_file_read(EXAMPLE_FILE, &given, &given_len, &err));
    if (strcmp(text, given) != 0)
        fprintf(stderr, "ckptd --example > tools/deploy/ckptd.conf\n");
    CHECK_STR(given, text);
    struct config *c = load(text);
    CHECK(c);
    CHECK_STR(c->store, "/var/lib/ckpt");
    CHECK_EQ(c->value_count, 2);
    config_free(c);
    for (char *p = text; p; p = strchr(p + 1, '\n')) /* "#name = value": without the # */
        if (p[0] == '\n' && p[1] == '#' && p[2] != ' ' && p[2] != '\n')
            p[1] = ' ';
    c = load(text);
    if (!c)
        fprintf(stderr, "%s\n", errors.list[0].text);
    CHECK(c);
    size_t settings = 0;
    for (size_t i = 0; i < config_key_count; i++)
        settings += !(config_keys[i].flags & CONFIG_FLAG_ONLY);
    CHECK_EQ(c->value_count, settings + 1); /* keep twice */
    config_free(c);
    free(text);
    free(given);
}

/* Texts of the options: each is named in --help. */
static void usage(void)
{
    char *text = NULL, option[64];
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    CHECK(f);
    config_print_usage(f);
    CHECK(fclose(f) == 0);
    for (size_t i = 0; i < config_key_count; i++) {
        snprintf(option, sizeof(option), "\n  --%s", config_keys[i].name);
        CHECK(strstr(text, option));
        cases++;
    }
    for (const char *line = text; *line; line += strcspn(line, "\n") + 1)
        CHECK(strcspn(line, "\n") <= 110);
    free(text);
}

int main(void)
{
    int rounds = (getenv("CKPT_DEEP") ? 20000 : 600) / TEST_TENTH;
    seed = test_seed(7);
    all_errors();
    files();
    strength();
    stronger_than_sections();
    idle();
    reloads();
    what_is_written_comes_out(rounds);
    any_bytes(rounds);
    example();
    usage();
    TEST_CASES(cases);
    return 0;
}
