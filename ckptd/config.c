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
    "  --local DIR       the node's own tier; must be the store in this version ($CKPT_LOCAL)\n"
    "  --remote URL      where to drain to; not in this version ($CKPT_REMOTE)\n"
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

static enum ckpt_status parse_codec(struct config *c, const char *text, struct ckpt_err *err)
{
    uint64_t level = 1;
    if (strcmp(text, "stored") == 0) {
        c->codec = CODEC_STORED;
        return CKPT_OK;
    }
    if (strncmp(text, "zstd", 4) != 0 || (text[4] && text[4] != ':'))
        return err_set(err, CKPT_INVALID, "--codec \"%s\": stored, zstd or zstd:LEVEL", text);
    c->codec = CODEC_ZSTD;
    if (text[4]) {
        enum ckpt_status st = parse_number("--codec zstd", text + 5, 1, 19, &level, err);
        if (st != CKPT_OK)
            return st;
    }
    c->codec_level = (int)level;
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
    } else if (strcmp(name, "--io") == 0) {
        if (strcmp(value, "auto") != 0 && strcmp(value, "uring") != 0 &&
            strcmp(value, "threads") != 0)
            return err_set(err, CKPT_INVALID, "--io \"%s\": auto, uring or threads", value);
        c->io = value;
    } else if (strcmp(name, "--codec") == 0) {
        return parse_codec(c, value, err);
    } else if (strcmp(name, "--remote") == 0) {
        if (c->remote_count == CONFIG_REMOTES_MAX)
            return err_set(err, CKPT_LIMIT, "more than %d --remote", CONFIG_REMOTES_MAX);
        c->remotes[c->remote_count++] = value;
    } else {
        return set_number(c, name, value, err);
    }
    return CKPT_OK;
}

static enum ckpt_status check(struct config *c, struct ckpt_err *err)
{
    char store[4096], local[4096];
    if (!c->store || !c->store[0])
        return err_set(err, CKPT_INVALID,
                       "no store: give --store DIR or set CKPT_STORE (see --help)");
    if (c->socket && (c->socket[0] != '/' || strlen(c->socket) >= SOCKPATH_MAX))
        return err_set(err, CKPT_INVALID,
                       "--socket \"%s\": an absolute path of at most %d bytes is expected",
                       c->socket, SOCKPATH_MAX - 1);
    if (c->remote_count > 0)
        return err_set(err, CKPT_UNSUPPORTED,
                       "--remote %s: draining to another store is not in this version",
                       c->remotes[0]);
    if (!c->local)
        return CKPT_OK;
    enum ckpt_status st = sockpath_store(c->store, "", store, sizeof(store), err);
    if (st == CKPT_OK)
        st = sockpath_store(c->local, "", local, sizeof(local), err);
    if (st == CKPT_OK && strcmp(store, local) != 0)
        st = err_set(err, CKPT_UNSUPPORTED,
                     "--local %s differs from --store %s: a tier of its own is not in this version",
                     c->local, c->store);
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
    static const char *const names[] = { "--store",      "--socket",      "--local", "--io",
                                         "--codec",      "--remote",      "--crew",  "--listen-fd",
                                         "--slot-bytes", "--stop-seconds" };
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
    };
    const char *remote = from_env(getenv_, "CKPT_REMOTE");
    if (remote)
        c.remotes[c.remote_count++] = remote;
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
    enum ckpt_status st = c.help || c.version ? CKPT_OK : check(&c, err);
    if (st == CKPT_OK)
        *ret = c;
    return st;
}
