/* Every option is one row here; nothing is opened. */
#include "ckptd/config_keys.h"

#include <ctype.h>
#include <stdio.h>

#include "formats/sockpath.h"
#include "storage/repo/life.h"

#define NAME_COMPARED 40 /* of what is compared with names */

/* -- reading values ----------------------------------------------------------------------- */

static enum ckpt_status parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret,
                                     struct ckpt_err *err)
{
    char *end = NULL;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    uint64_t unit = 1;
    if (*end == 'K' || *end == 'k')
        unit = KIB;
    else if (*end == 'M' || *end == 'm')
        unit = MIB;
    else if (*end == 'G' || *end == 'g')
        unit = GIB;
    if (unit > 1)
        end++;
    if (errno || end == text || *end || !isdigit((unsigned char)text[0]) || n > max / unit ||
        n * unit < min)
        return err_set(err, CKPT_INVALID, "\"%s\": a number from %llu to %llu is expected", text,
                       (unsigned long long)min, (unsigned long long)max);
    *ret = n * unit;
    return CKPT_OK;
}

static enum ckpt_status set_number(const struct config_key *k, const char *text, struct config *c,
                                   struct config_job *job, struct ckpt_err *err)
{
    uint64_t n = 0;
    (void)job;
    enum ckpt_status st = parse_number(text, k->min, k->max, &n, err);
    if (st == CKPT_OK) /* little-endian: the low bytes come first */
        memcpy((char *)c + k->at, &n, k->size);
    return st;
}

static enum ckpt_status set_slot(const struct config_key *k, const char *text, struct config *c,
                                 struct config_job *job, struct ckpt_err *err)
{
    enum ckpt_status st = set_number(k, text, c, job, err);
    if (st == CKPT_OK && c->slot_bytes % CKPT_BLOCK)
        return err_set(err, CKPT_INVALID, "%s is no multiple of 4096", text);
    return st;
}

static enum ckpt_status set_text(const struct config_key *k, const char *text, struct config *c,
                                 struct config_job *job, struct ckpt_err *err)
{
    (void)job;
    (void)err;
    memcpy((char *)c + k->at, &text, sizeof(text));
    return CKPT_OK;
}

static enum ckpt_status set_switch(const struct config_key *k, const char *text, struct config *c,
                                   struct config_job *job, struct ckpt_err *err)
{
    (void)text;
    (void)job;
    (void)err;
    *(bool *)((char *)c + k->at) = true;
    return CKPT_OK;
}

static enum ckpt_status set_socket(const struct config_key *k, const char *text, struct config *c,
                                   struct config_job *job, struct ckpt_err *err)
{
    if (text[0] != '/' || strlen(text) >= SOCKPATH_MAX)
        return err_set(err, CKPT_INVALID,
                       "\"%s\": an absolute path of at most %d bytes is expected", text,
                       SOCKPATH_MAX - 1);
    return set_text(k, text, c, job, err);
}

static enum ckpt_status set_io(const struct config_key *k, const char *text, struct config *c,
                               struct config_job *job, struct ckpt_err *err)
{
    if (strcmp(text, "auto") != 0 && strcmp(text, "uring") != 0 && strcmp(text, "threads") != 0)
        return err_set(err, CKPT_INVALID, "\"%s\": auto, uring or threads", text);
    return set_text(k, text, c, job, err);
}

static enum ckpt_status set_log_level(const struct config_key *k, const char *text,
                                      struct config *c, struct config_job *job,
                                      struct ckpt_err *err)
{
    static const char *const words[] = { "error", "warn", "info", "debug" };
    (void)k;
    (void)job;
    for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
        if (strcmp(text, words[i]) == 0) {
            c->log_level = (enum log_level)i;
            return CKPT_OK;
        }
    }
    return err_set(err, CKPT_INVALID, "\"%s\": error, warn, info or debug", text);
}

/* plain: the word for no coding. */
static enum ckpt_status parse_codec(const char *plain, const char *text, enum codec_id *ret,
                                    int *ret_level, struct ckpt_err *err)
{
    uint64_t level = 1;
    if (strcmp(text, plain) == 0) {
        *ret = CODEC_STORED;
        return CKPT_OK;
    }
    if (strncmp(text, "zstd", 4) != 0 || (text[4] && text[4] != ':'))
        return err_set(err, CKPT_INVALID, "\"%s\": %s, zstd or zstd:LEVEL", text, plain);
    if (text[4]) {
        enum ckpt_status st = parse_number(text + 5, 1, 19, &level, err);
        if (st != CKPT_OK)
            return st;
    }
    *ret = CODEC_ZSTD;
    *ret_level = (int)level;
    return CKPT_OK;
}

static enum ckpt_status set_codec(const struct config_key *k, const char *text, struct config *c,
                                  struct config_job *job, struct ckpt_err *err)
{
    (void)k;
    (void)job;
    return parse_codec("stored", text, &c->codec, &c->codec_level, err);
}

static enum ckpt_status set_remote_codec(const struct config_key *k, const char *text,
                                         struct config *c, struct config_job *job,
                                         struct ckpt_err *err)
{
    (void)k;
    (void)job;
    c->remote_codec_given = true;
    return parse_codec("copy", text, &c->remote_codec, &c->remote_codec_level, err);
}

static enum ckpt_status set_remote(const struct config_key *k, const char *text, struct config *c,
                                   struct config_job *job, struct ckpt_err *err)
{
    (void)job;
    if (c->remote_count == CONFIG_REMOTES_MAX)
        return err_set(err, CKPT_LIMIT, "%s: more than %d %ss", text, CONFIG_REMOTES_MAX, k->name);
    c->remotes[c->remote_count++] = text;
    return CKPT_OK;
}

static enum ckpt_status set_remote_policy(const struct config_key *k, const char *text,
                                          struct config *c, struct config_job *job,
                                          struct ckpt_err *err)
{
    (void)k;
    (void)job;
    return policy_parse(text, &c->remote_policy, err);
}

/* at: of struct config, size: of struct config_job. */
static enum ckpt_status set_keep(const struct config_key *k, const char *text, struct config *c,
                                 struct config_job *job, struct ckpt_err *err)
{
    struct keep_policy p = { 0 };
    struct ckpt_err why = { 0 };
    bool all = strcmp(text, "all") == 0;
    enum ckpt_status st = all ? CKPT_OK : keep_policy_parse(text, &p, &why);
    if (st == CKPT_OK && p.count == 0 && !all)
        st = err_set(&why, CKPT_INVALID, "it names no rule");
    if (st != CKPT_OK)
        return err_set(err, st, "\"%.200s\": %s (all, or rules as last=3,daily=7)", text,
                       err_text(&why));
    memcpy(job ? (char *)job + k->size : (char *)c + k->at, &p, sizeof(p));
    return CKPT_OK;
}

static enum ckpt_status set_grace(const struct config_key *k, const char *text, struct config *c,
                                  struct config_job *job, struct ckpt_err *err)
{
    (void)k;
    (void)job;
    if (!keep_duration_parse(text, &c->delete_grace_ns))
        return err_set(err, CKPT_INVALID, "\"%s\": a duration is expected: 90m, 36h, 7d, 2w", text);
    return CKPT_OK;
}

/* -- the table ---------------------------------------------------------------------------- */

#define AT(field)     .at = offsetof(struct config, field)
#define NUMBER(field) .set = set_number, AT(field), .size = sizeof(((struct config *)0)->field)
#define KEEP(field)   AT(field), .size = offsetof(struct config_job, field)
#define SWITCH(field) .set = set_switch, AT(field), .flags = CONFIG_FLAG_ONLY

/* In the order of texts. */
const struct config_key config_keys[] = {
    { "store", "URL", NULL, "/var/lib/ckpt",
      "where checkpoints are kept: a directory, s3://bucket/prefix, or\n"
      "dir:///path?shared=1 when several nodes reach it",
      .flags = CONFIG_SHIPPED, .set = set_text, AT(store) },
    { "socket", "PATH", NULL, "/run/ckpt/ckptd.sock",
      "where trainers connect (default: a name made from user and store in\n"
      "$XDG_RUNTIME_DIR/ckpt, /run/ckpt or /tmp/ckpt-UID)",
      .flags = CONFIG_SHIPPED, .set = set_socket, AT(socket) },
    { "local", "DIR", NULL, "/nvme/ckpt",
      "where this node writes, when the store (then the home of the records) is\n"
      "elsewhere; what is saved goes on to the store",
      .set = set_text, AT(local) },
    { "io", "ENGINE", "auto", "threads", "auto, uring or threads", .set = set_io, AT(io) },
    { "crew", "N", "6", "8", "threads that write and read", NUMBER(crew), .min = 1, .max = 64 },
    { "slot-bytes", "N", "32M", "64M", "bytes of a slot, 8M to 128M", .set = set_slot,
      AT(slot_bytes), .size = sizeof(uint64_t), .min = CKPT_SLOT_BYTES_MIN,
      .max = CKPT_SLOT_BYTES_MAX },
    { "codec", "NAME", "stored", "zstd:3", "stored, zstd or zstd:LEVEL", .set = set_codec },
    { "remote", "URL", NULL, "s3://bucket/prefix",
      "where checkpoints go on to; several times for several", .flags = CONFIG_REPEATS,
      .set = set_remote },
    { "remote-policy", "P", "all", "every=1000,tagged",
      "which of them: all, every=STEPS, tagged, last, none, or several of\n"
      "these with commas between them.  With local, the store is one that they\n"
      "go on to: this and the next three are for it, too",
      .needs = "remote", .or_needs = "local", .flags = CONFIG_LIVE, .set = set_remote_policy },
    { "remote-codec", "C", NULL, "zstd:3",
      "copy, zstd or zstd:LEVEL (default: zstd:1 when codec is stored, else\n"
      "copy)",
      .needs = "remote", .or_needs = "local", .flags = CONFIG_LIVE, .set = set_remote_codec },
    { "remote-rate", "N", "0", "200M",
      "at most so many bytes a second into each remote store; 0: no limit", .needs = "remote",
      .or_needs = "local", .flags = CONFIG_LIVE, NUMBER(remote_rate), .max = UINT64_C(1) << 50 },
    { "remote-streams", "N", "4", "8", "packs on their way to a remote store at a time",
      .needs = "remote", .or_needs = "local", NUMBER(remote_streams), .min = 1, .max = 32 },
    { "metrics", "ADDR", NULL, "9464",
      "numbers for Prometheus over HTTP at [ADDRESS:]PORT/metrics; a port alone:\n"
      "on loopback only",
      .set = set_text, AT(metrics) },
    { "keep", "RULES", "all", "last=3,every=1000,daily=7",
      "what stays of a job, looked at after each of its commits: all, or rules\n"
      "with commas between them, of which one suffices: last=N, every=STEPS,\n"
      "within=DURATION, hourly=N, daily=N, weekly=N, tag=GLOB,\n"
      "best=METRIC[:min|:max][:N].  The newest two that can be restored, what\n"
      "a launch resumed from, what has a tag or is on its way always stay",
      .flags = CONFIG_LIVE | CONFIG_PER_JOB, .set = set_keep, KEEP(keep[CONFIG_KEEP]) },
    { "keep-store", "RULES", "all", "last=4",
      "with remote: what stays of a job in the store itself once all remote ones\n"
      "hold it; rules as for keep.  It never takes the last copy; the newest two\n"
      "stay, and what went is listed as ever and restored from where it lies",
      .needs = "remote", .flags = CONFIG_LIVE | CONFIG_PER_JOB, .set = set_keep,
      KEEP(keep[CONFIG_KEEP_STORE]) },
    { "keep-local", "RULES", "all", "last=2",
      "with local: what stays of a job in this directory once all other stores\n"
      "hold it; rules as for keep.  It never takes the last copy",
      .needs = "local", .flags = CONFIG_LIVE | CONFIG_PER_JOB, .set = set_keep,
      KEEP(keep[CONFIG_KEEP_LOCAL]) },
    { "keep-remote", "RULES", "all", "last=3,weekly=8",
      "with remote: what stays of a job in each remote store, of all that is\n"
      "there, once the other stores hold it; rules as for keep.  It never takes\n"
      "the last copy; the newest two stay, and what went is not sent again",
      .needs = "remote", .flags = CONFIG_LIVE | CONFIG_PER_JOB, .set = set_keep,
      KEEP(keep[CONFIG_KEEP_REMOTE]) },
    { "delete-grace", "TIME", "72h", "36h",
      "how long what is not kept can be brought back (ckpt undelete) before\n"
      "its data goes",
      .needs = "keep", .flags = CONFIG_LIVE, .set = set_grace },
    { "stop-seconds", "N", "540", "300", "how long ending may take", .flags = CONFIG_LIVE,
      NUMBER(stop_s), .min = 1, .max = 86400 },
    { "log-level", "LEVEL", "info", "warn", "error, warn, info or debug", .flags = CONFIG_LIVE,
      .set = set_log_level },
    { "private", .help = "end when the last trainer is gone; goes to the background",
      SWITCH(private_) },
    { "foreground", .help = "stay in the foreground also with --private", SWITCH(foreground) },
    { "listen-fd", "N", .help = "use this socket, which listens already", .flags = CONFIG_FLAG_ONLY,
      NUMBER(listen_fd), .min = 3, .max = 1 << 20 },
    { "config", "FILE",
      .help = "settings (default: $CKPT_CONFIG, else " CONFIG_FILE "\n"
              "if it is there and --private is not given); none: no file",
      .flags = CONFIG_FLAG_ONLY, .set = set_text, AT(file) },
    { "check", .help = "print all settings and where each is from, or what is wrong; end",
      SWITCH(check) },
    { "example", .help = "print a file with all settings; end", SWITCH(example) },
    { "manual", .help = "print the manual page, for man; end", SWITCH(manual) },
    { "help", .help = "print this; end", SWITCH(help) },
    { "version", .help = "print the version; end", SWITCH(version) },
};
const size_t config_key_count = ARRAY_COUNT(config_keys);

/* -- names -------------------------------------------------------------------------------- */

const struct config_key *config_key_find(const char *name, size_t len)
{
    for (size_t i = 0; i < config_key_count; i++)
        if (strlen(config_keys[i].name) == len && strncmp(config_keys[i].name, name, len) == 0)
            return &config_keys[i];
    return NULL;
}

/* Letters to be put, taken away or changed to make one of the other (Levenshtein's distance);
 * more than `most`: some number above it, found out early. */
static size_t distance(const char *a, const char *b, size_t most)
{
    size_t row[NAME_COMPARED + 1], la = strlen(a), lb = strlen(b);
    if (la > NAME_COMPARED || lb > NAME_COMPARED || la > lb + most || lb > la + most)
        return most + 1;
    for (size_t k = 0; k <= lb; k++)
        row[k] = k;
    for (size_t i = 1; i <= la; i++) {
        size_t corner = row[0], least = i;
        row[0] = i;
        for (size_t k = 1; k <= lb; k++) {
            size_t swap = corner + (a[i - 1] != b[k - 1]);
            corner = row[k];
            row[k] = min_u64(swap, 1 + min_u64(row[k], row[k - 1]));
            least = min_u64(least, row[k]);
        }
        if (least > most)
            return most + 1;
    }
    return row[lb];
}

void config_key_nearest(const char *name, char *ret, size_t cap)
{
    size_t best = SIZE_MAX;
    const char *near = NULL;
    for (size_t i = 0; i < config_key_count; i++) {
        size_t most = 1 + strlen(config_keys[i].name) / 3;
        size_t d = distance(name, config_keys[i].name, most);
        if (d < best && d <= most) {
            best = d;
            near = config_keys[i].name;
        }
    }
    *ret = 0;
    if (near)
        snprintf(ret, cap, " (did you mean \"%s\"?)", near);
}

void config_key_env(const struct config_key *k, char ret[64])
{
    snprintf(ret, 64, "CKPT_%s", k->name);
    for (char *p = ret; *p; p++)
        *p = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
}
