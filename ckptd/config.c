/* Reading options, by a table; nothing is opened here. */
#include "ckptd/config.h"

#include <stdio.h>

#include "formats/sockpath.h"

const char config_usage[] =
    "usage: ckptd --store DIR|URL [options]\n"
    "Keeps the checkpoints of the training jobs on this node.  A trainer that links libckpt\n"
    "finds it by its socket, and starts a private one when none is running.\n"
    "\n"
    "  --store URL       where checkpoints are kept: a directory, or dir:///path?shared=1 when\n"
    "                    several nodes reach it (default: $CKPT_STORE)\n"
    "  --socket PATH     where trainers connect (default: $CKPT_SOCKET, else a name made from\n"
    "                    user and store in $XDG_RUNTIME_DIR/ckpt, /run/ckpt or /tmp/ckpt-UID)\n"
    "  --io ENGINE       auto (default), uring or threads\n"
    "  --crew N          threads that write and read (default 6)\n"
    "  --slot-bytes N    bytes of a slot, 8M to 128M (default 32M)\n"
    "  --codec NAME      stored (default), zstd or zstd:LEVEL\n"
    "  --local DIR       where this node writes, when the store (then the home of the records) is\n"
    "                    elsewhere; what is saved goes on to the store ($CKPT_LOCAL)\n"
    "  --remote URL      where checkpoints go on to; several times for several ($CKPT_REMOTE)\n"
    "  --remote-policy P which of them: all (default), every=STEPS, tagged, last, none, or\n"
    "                    several of these with commas between them\n"
    "  --remote-codec C  copy, zstd or zstd:LEVEL (default: zstd:1 when --codec is stored,\n"
    "                    else copy)\n"
    "  --remote-rate N   at most so many bytes a second, as 200M (default: no limit)\n"
    "  --remote-streams N  packs on their way to a remote store at a time (default 4)\n"
    "  --metrics ADDR    numbers for Prometheus over HTTP at [ADDRESS:]PORT/metrics; a port alone:\n"
    "                    on loopback only\n"
    "  --private         end when the last trainer is gone; goes to the background\n"
    "  --listen-fd N     use this socket, which listens already\n"
    "  --foreground      stay in the foreground also with --private\n"
    "  --stop-seconds N  how long ending may take (default 540)\n"
    "  --help, --version\n"
    "\n"
    "It ends on SIGTERM after it has finished what is staged.  Log: stderr.\n"
    "Try: ckptd --store /var/tmp/ckpts      and in another shell: ckpt status\n";

static enum ckpt_status parse_number(const char *name, const char *text, uint64_t min, uint64_t max,
                                     uint64_t *ret, struct ckpt_err *err)
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
    if (errno || end == text || *end || text[0] == '-' || n > max / unit || n * unit < min)
        return err_set(err, CKPT_INVALID, "%s \"%s\": a number from %llu to %llu is expected", name,
                       text, (unsigned long long)min, (unsigned long long)max);
    *ret = n * unit;
    return CKPT_OK;
}

/* plain: the word for no coding. */
static enum ckpt_status parse_codec(const char *name, const char *plain, const char *text,
                                    enum codec_id *ret, int *ret_level, struct ckpt_err *err)
{
    uint64_t level = 1;
    if (strcmp(text, plain) == 0) {
        *ret = CODEC_STORED;
        return CKPT_OK;
    }
    if (strncmp(text, "zstd", 4) != 0 || (text[4] && text[4] != ':'))
        return err_set(err, CKPT_INVALID, "%s \"%s\": %s, zstd or zstd:LEVEL", name, text, plain);
    if (text[4]) {
        enum ckpt_status st = parse_number(name, text + 5, 1, 19, &level, err);
        if (st != CKPT_OK)
            return st;
    }
    *ret = CODEC_ZSTD;
    *ret_level = (int)level;
    return CKPT_OK;
}

static enum ckpt_status set_number(struct config *c, const char *name, const char *value,
                                   struct ckpt_err *err)
{
    uint64_t n;
    enum ckpt_status st;
    if (strcmp(name, "--crew") == 0) {
        st = parse_number(name, value, 1, 64, &n, err);
        if (st == CKPT_OK)
            c->crew = (unsigned)n;
    } else if (strcmp(name, "--listen-fd") == 0) {
        st = parse_number(name, value, 3, 1 << 20, &n, err);
        if (st == CKPT_OK)
            c->listen_fd = (int)n;
    } else if (strcmp(name, "--stop-seconds") == 0) {
        st = parse_number(name, value, 1, 86400, &n, err);
        if (st == CKPT_OK)
            c->stop_s = (unsigned)n;
    } else if (strcmp(name, "--remote-rate") == 0) {
        st = parse_number(name, value, 0, UINT64_C(1) << 50, &n, err);
        if (st == CKPT_OK)
            c->remote_rate = n;
    } else if (strcmp(name, "--remote-streams") == 0) {
        st = parse_number(name, value, 1, 32, &n, err);
        if (st == CKPT_OK)
            c->remote_streams = (unsigned)n;
    } else {
        st = parse_number(name, value, CKPT_SLOT_BYTES_MIN, CKPT_SLOT_BYTES_MAX, &n, err);
        if (st == CKPT_OK && n % CKPT_BLOCK)
            st = err_set(err, CKPT_INVALID, "--slot-bytes %s is no multiple of 4096", value);
        if (st == CKPT_OK)
            c->slot_bytes = n;
    }
    return st;
}

static enum ckpt_status set_value(struct config *c, const char *name, const char *value,
                                  struct ckpt_err *err)
{
    if (strcmp(name, "--store") == 0) {
        c->store = value;
    } else if (strcmp(name, "--socket") == 0) {
        c->socket = value;
    } else if (strcmp(name, "--local") == 0) {
        c->local = value;
    } else if (strcmp(name, "--metrics") == 0) {
        c->metrics = value;
    } else if (strcmp(name, "--io") == 0) {
        if (strcmp(value, "auto") != 0 && strcmp(value, "uring") != 0 &&
            strcmp(value, "threads") != 0)
            return err_set(err, CKPT_INVALID, "--io \"%s\": auto, uring or threads", value);
        c->io = value;
    } else if (strcmp(name, "--codec") == 0) {
        return parse_codec(name, "stored", value, &c->codec, &c->codec_level, err);
    } else if (strcmp(name, "--remote") == 0) {
        if (c->remote_count == CONFIG_REMOTES_MAX)
            return err_set(err, CKPT_LIMIT, "more than %d --remote", CONFIG_REMOTES_MAX);
        c->remotes[c->remote_count++] = value;
    } else if (strcmp(name, "--remote-policy") == 0) {
        return policy_parse(value, &c->remote_policy, err);
    } else if (strcmp(name, "--remote-codec") == 0) {
        c->remote_codec_given = true;
        return parse_codec(name, "copy", value, &c->remote_codec, &c->remote_codec_level, err);
    } else {
        return set_number(c, name, value, err);
    }
    return CKPT_OK;
}

/* One spelling for private directories, so that two names of one place are found out. */
static enum ckpt_status same_place(const char *a, const char *b, bool *ret, struct ckpt_err *err)
{
    char one[4096], other[4096];
    enum ckpt_status st = sockpath_store(a, "", one, sizeof(one), err);
    if (st == CKPT_OK)
        st = sockpath_store(b, "", other, sizeof(other), err);
    if (st == CKPT_OK)
        *ret = strcmp(one, other) == 0;
    return st;
}

static enum ckpt_status check_remote(const struct config *c, size_t at, struct ckpt_err *err)
{
    const char *others[2 + CONFIG_REMOTES_MAX] = { c->store, c->local };
    size_t count = c->local ? 2 : 1;
    for (size_t i = 0; i < at; i++)
        others[count++] = c->remotes[i];
    for (size_t i = 0; i < count; i++) {
        bool same = false;
        enum ckpt_status st = same_place(others[i], c->remotes[at], &same, err);
        if (st != CKPT_OK)
            return st;
        if (same)
            return err_set(err, CKPT_INVALID, "--remote %s is named twice, or is the store itself",
                           c->remotes[at]);
    }
    return CKPT_OK;
}

static enum ckpt_status check(struct config *c, struct ckpt_err *err)
{
    if (!c->store || !c->store[0])
        return err_set(err, CKPT_INVALID,
                       "no store: give --store DIR or set CKPT_STORE (see --help)");
    if (c->socket && (c->socket[0] != '/' || strlen(c->socket) >= SOCKPATH_MAX))
        return err_set(err, CKPT_INVALID,
                       "--socket \"%s\": an absolute path of at most %d bytes is expected",
                       c->socket, SOCKPATH_MAX - 1);
    bool same = false;
    enum ckpt_status st = c->local ? same_place(c->store, c->local, &same, err) : CKPT_OK;
    if (same)
        c->local = NULL;
    for (size_t i = 0; st == CKPT_OK && i < c->remote_count; i++)
        st = check_remote(c, i, err);
    if (!c->remote_codec_given && c->codec == CODEC_STORED) {
        c->remote_codec = CODEC_ZSTD;
        c->remote_codec_level = 1;
    }
    return st;
}

static bool set_flag(struct config *c, const char *arg)
{
    const struct {
        const char *name;
        bool *flag;
    } flags[] = {
        { "--private", &c->private_ }, { "--foreground", &c->foreground },
        { "--help", &c->help },        { "-h", &c->help },
        { "--version", &c->version },
    };
    for (size_t i = 0; i < ARRAY_COUNT(flags); i++) {
        if (strcmp(arg, flags[i].name) == 0) {
            *flags[i].flag = true;
            return true;
        }
    }
    return false;
}

static const char *from_env(char *(*getenv_)(const char *), const char *name)
{
    const char *v = getenv_(name);
    return v && v[0] ? v : NULL;
}

enum ckpt_status config_parse(int argc, char *const argv[], char *(*getenv_)(const char *),
                              struct config *ret, struct ckpt_err *err)
{
    static const char *const names[] = {
        "--store",       "--socket",         "--local",         "--io",           "--codec",
        "--remote",      "--crew",           "--listen-fd",     "--slot-bytes",   "--stop-seconds",
        "--remote-rate", "--remote-streams", "--remote-policy", "--remote-codec", "--metrics"
    };
    struct config c = {
        .store = from_env(getenv_, "CKPT_STORE"),
        .socket = from_env(getenv_, "CKPT_SOCKET"),
        .local = from_env(getenv_, "CKPT_LOCAL"),
        .io = "auto",
        .listen_fd = -1,
        .crew = 6,
        .slot_bytes = CKPT_SLOT_BYTES,
        .codec = CODEC_STORED,
        .stop_s = 540,
        .remote_streams = 4,
    };
    for (int i = 1; i < argc; i++) {
        if (set_flag(&c, argv[i]))
            continue;
        size_t len = strcspn(argv[i], "=");
        const char *name = NULL;
        for (size_t k = 0; k < ARRAY_COUNT(names); k++)
            if (strlen(names[k]) == len && strncmp(argv[i], names[k], len) == 0)
                name = names[k];
        if (!name)
            return err_set(err, CKPT_INVALID, "unknown option \"%s\" (see --help)", argv[i]);
        const char *value = argv[i][len] == '=' ? argv[i] + len + 1 : argv[++i];
        if (!value)
            return err_set(err, CKPT_INVALID, "%s needs a value (see --help)", name);
        enum ckpt_status st = set_value(&c, name, value, err);
        if (st != CKPT_OK)
            return st;
    }
    const char *remote = from_env(getenv_, "CKPT_REMOTE");
    if (remote && c.remote_count == 0)
        c.remotes[c.remote_count++] = remote;
    enum ckpt_status st = c.help || c.version ? CKPT_OK : check(&c, err);
    if (st == CKPT_OK)
        *ret = c;
    return st;
}
