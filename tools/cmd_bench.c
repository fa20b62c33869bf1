/* ckpt bench: the whole path against fio on the same directory, alternately, so that the
 * noise of the machine meets both. */
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#include "tools/bench_fio.h"
#include "tools/bench_run.h"
#include "tools/output.h"
#include "tools/tool.h"

#define ROUNDS_MAX  99
#define LATE_ROUNDS 3
#define DAEMONS_MAX 8

static const char method[] =
    "Method.  State: incompressible bytes in host memory, in tensors of 64 MiB.  Each round is a\n"
    "launch of its own through the public API against a ckptd of its own with default settings:\n"
    "open, seal, restore the checkpoint before (page cache dropped, destination touched, bytes\n"
    "compared), then save twice (fence at once), each to local.  The first save, which finds the\n"
    "file system's own blocks dropped too, has a line of its own.  fio does the same bytes in as\n"
    "many files in the same directory: O_DIRECT, 4 MiB blocks, io_uring, fixed buffers, fsync at\n"
    "the end, at the queue depth (8 or 32) that was faster here; over its own files of the round\n"
    "before, which a store must never do, and once more into new files, as every save does.  The\n"
    "two take turns, the first one changing each round; ratios are of the pair in one round;\n"
    "medians, with the lowest and highest.  First fio against itself: its ratios are the noise.\n"
    "blocked = seconds in save and fence; memcpy = one thread into touched pages.\n";

struct series {
    double v[ROUNDS_MAX];
    size_t n;
};
struct bench {
    const struct tool *tool;
    const char *dir;
    char scratch[4096], fio_dir[4200];
    uint64_t bytes;
    unsigned rounds;
    struct bench_fio fio;
    struct bench_run run;
    struct bench_times first;
    struct series control, fio_write, fio_new, fio_read, save, restore;
    struct series first_save, save_ratio, new_ratio, restore_ratio;
    struct series blocked, copy, blocked_ratio, late;
    json_t *peers;
};

/* -- numbers ------------------------------------------------------------- */

static void add(struct series *s, double v)
{
    if (s->n < ROUNDS_MAX)
        s->v[s->n++] = v;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

struct spread {
    double low, median, high;
};
static struct spread spread_of(const struct series *s)
{
    struct series sorted = *s;
    if (s->n == 0)
        return (struct spread){ 0 };
    qsort(sorted.v, sorted.n, sizeof(*sorted.v), by_value);
    double middle = sorted.n % 2 ? sorted.v[sorted.n / 2]
                                 : (sorted.v[sorted.n / 2 - 1] + sorted.v[sorted.n / 2]) / 2;
    return (struct spread){ sorted.v[0], middle, sorted.v[sorted.n - 1] };
}

/* -- the page cache and old rounds --------------------------------------- */

static int forget_file(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)at;
    if (type == FTW_F) {
        CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
            posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    }
    return 0;
}

/* All of it as root; otherwise the files of this bench. */
static void drop_caches(const struct bench *b)
{
    sync();
    CLEANUP_FD int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "3", 1) != 1)
        nftw(b->scratch, forget_file, 16, FTW_PHYS);
}

static uint64_t newest_step; /* nftw has no argument */

/* Packs of earlier rounds; their records stay, the next commit reads them. */
static int remove_old_pack(const char *path, const struct stat *st, int type, struct FTW *at)
{
    struct ckpt_name name;
    (void)st;
    const char *file = path + at->base;
    const char *dir = file - 1 - (NAME_TEXT - 1);
    if (type == FTW_F && strchr(file, '-') && at->base > NAME_TEXT &&
        name_parse(dir, NAME_TEXT - 1, &name) && name.step < newest_step)
        unlink(path);
    return 0;
}

static void remove_old_packs(const struct bench *b)
{
    char data[4300];
    newest_step = b->run.step;
    snprintf(data, sizeof(data), "%s/" BENCH_JOB "/d", b->run.store);
    nftw(data, remove_old_pack, 16, FTW_PHYS);
}

static int remove_any(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

/* -- rounds -------------------------------------------------------------- */

static enum ckpt_status fio_write(struct bench *b, double *ret, struct ckpt_err *err)
{
    return bench_fio_run(&b->fio, BENCH_WRITE, ret, err);
}

/* The faster of the two depths, then fio against fio. */
static enum ckpt_status control(struct bench *b, struct ckpt_err *err)
{
    static const unsigned depths[] = { 8, 32 };
    double best = 0;
    unsigned depth = depths[0];
    for (unsigned i = 0; i < 2 * ARRAY_COUNT(depths); i++) {
        double rate;
        b->fio.depth = depths[i % ARRAY_COUNT(depths)];
        enum ckpt_status st = fio_write(b, &rate, err);
        if (st != CKPT_OK)
            return st;
        depth = rate > best ? b->fio.depth : depth;
        best = rate > best ? rate : best;
    }
    b->fio.depth = depth;
    for (unsigned i = 0; i < b->rounds; i++) {
        double one, two;
        enum ckpt_status st = fio_write(b, &one, err);
        if (st == CKPT_OK)
            st = fio_write(b, &two, err);
        if (st != CKPT_OK)
            return st;
        add(&b->control, i % 2 ? one / two : two / one);
    }
    return CKPT_OK;
}

struct fio_rates {
    double read, write, write_new;
};

static enum ckpt_status fio_round(struct bench *b, struct fio_rates *ret, struct ckpt_err *err)
{
    drop_caches(b);
    enum ckpt_status st = bench_fio_run(&b->fio, BENCH_READ, &ret->read, err);
    if (st == CKPT_OK)
        st = fio_write(b, &ret->write, err);
    return st == CKPT_OK ? bench_fio_run(&b->fio, BENCH_WRITE_NEW, &ret->write_new, err) : st;
}

static enum ckpt_status our_pair(struct bench *b, struct bench_times *t, struct ckpt_err *err)
{
    drop_caches(b);
    enum ckpt_status st = bench_run_launch(&b->run, false, t, err);
    remove_old_packs(b);
    return st;
}

static enum ckpt_status one_round(struct bench *b, unsigned round, struct ckpt_err *err)
{
    struct fio_rates fio = { 0 };
    struct bench_times t = { 0 };
    bool ours_first = round % 2;
    enum ckpt_status st = ours_first ? our_pair(b, &t, err) : fio_round(b, &fio, err);
    if (st == CKPT_OK)
        st = ours_first ? fio_round(b, &fio, err) : our_pair(b, &t, err);
    if (st != CKPT_OK)
        return st;
    double copy = bench_run_memcpy(&b->run);
    double bytes = (double)b->bytes;
    add(&b->fio_read, fio.read);
    add(&b->fio_write, fio.write);
    add(&b->fio_new, fio.write_new);
    add(&b->save, bytes / t.local);
    add(&b->first_save, bytes / t.first);
    add(&b->restore, bytes / t.restore);
    add(&b->save_ratio, bytes / t.local / fio.write);
    add(&b->new_ratio, bytes / t.local / fio.write_new);
    add(&b->restore_ratio, bytes / t.restore / fio.read);
    add(&b->blocked, t.blocked);
    add(&b->copy, copy);
    add(&b->blocked_ratio, t.blocked / copy);
    return CKPT_OK;
}

static enum ckpt_status all_rounds(struct bench *b, struct ckpt_err *err)
{
    struct output_progress p = output_progress_start("measuring");
    enum ckpt_status st = control(b, err);
    if (st == CKPT_OK)
        st = bench_run_init(&b->run, b->scratch, b->bytes, err);
    if (st == CKPT_OK)
        st = bench_run_launch(&b->run, false, &b->first, err);
    for (unsigned i = 0; st == CKPT_OK && i < b->rounds; i++) {
        char phase[64];
        snprintf(phase, sizeof(phase), "round %u of %u", i + 1, b->rounds);
        output_progress_wait(&p, phase, output_monotonic());
        st = one_round(b, i, err);
    }
    for (unsigned i = 0; st == CKPT_OK && i < LATE_ROUNDS; i++) {
        struct bench_times t;
        st = bench_run_launch(&b->run, true, &t, err);
        remove_old_packs(b);
        if (st == CKPT_OK)
            add(&b->late, t.late_fence);
    }
    output_progress_end(&p);
    return st;
}

/* -- other people's ------------------------------------------------------ */

/* peers.py prints a JSON array; without python or the script there is none. */
static void run_peers(struct bench *b)
{
    char command[9000];
    if (access(TOOL_PEERS, R_OK) != 0)
        return;
    snprintf(command, sizeof(command), "exec python3 '%s' '%s' %" PRIu64, TOOL_PEERS, b->scratch,
             b->bytes);
    FILE *f = popen(command, "re"); // NOLINT(cert-env33-c): a command line of our own making
    if (!f)
        return;
    b->peers = json_loadf(f, 0, NULL);
    pclose(f);
}

static void print_peers(const struct bench *b)
{
    size_t i;
    json_t *peer;
    puts("\nothers, durable save / cold load:");
    if (!json_is_array(b->peers))
        puts("  not run: no python3, or tests/bench/peers.py is not there");
    json_array_foreach(b->peers, i, peer)
    {
        char save[OUTPUT_TEXT], load[OUTPUT_TEXT];
        const char *name = json_string_value(json_object_get(peer, "name"));
        const char *missing = json_string_value(json_object_get(peer, "missing"));
        if (missing)
            output_line(stdout, "  %-32s %s", name ? name : "?", missing);
        else
            output_line(
                stdout, "  %-32s %s / %s", name ? name : "?",
                output_rate(b->bytes, json_number_value(json_object_get(peer, "save_s")), save),
                output_rate(b->bytes, json_number_value(json_object_get(peer, "load_s")), load));
    }
}

/* -- the answer ---------------------------------------------------------- */

static void line_rate(const char *label, const struct series *s)
{
    struct spread x = spread_of(s);
    char a[OUTPUT_TEXT], m[OUTPUT_TEXT], z[OUTPUT_TEXT];
    output_line(stdout, "  %-32s %-12s (%s .. %s)", label, output_rate((uint64_t)x.median, 1, m),
                output_rate((uint64_t)x.low, 1, a), output_rate((uint64_t)x.high, 1, z));
}

static void line_ratio(const char *label, const struct series *s)
{
    struct spread x = spread_of(s);
    output_line(stdout, "  %-32s %-12.2f (%.2f .. %.2f)", label, x.median, x.low, x.high);
}

static void line_seconds(const char *label, const struct series *s)
{
    struct spread x = spread_of(s);
    output_line(stdout, "  %-32s %-12.4f (%.4f .. %.4f) s", label, x.median, x.low, x.high);
}

static void print_memory(const struct bench *b)
{
    pid_t pids[DAEMONS_MAX];
    char text[OUTPUT_TEXT];
    size_t n = bench_run_daemons(&b->run, pids, DAEMONS_MAX);
    printf("\npeak memory (resident, shared arena counted in each that maps it)\n");
    output_line(stdout, "  %-32s %s", "this process (state included)",
                output_bytes(bench_peak_rss(getpid()), text));
    for (size_t i = 0; i < n; i++)
        output_line(stdout, "  ckptd %-26s %s", i ? "worker" : "keeper",
                    output_bytes(bench_peak_rss(pids[i]), text));
}

static enum ckpt_status print_text(const struct bench *b, struct ckpt_err *err)
{
    char size[OUTPUT_TEXT], seal[OUTPUT_TEXT], rounds[OUTPUT_TEXT];
    puts(method);
    output_line(stdout, "%s in %s, %s; fio: %s", output_bytes(b->bytes, size), b->dir,
                output_count(b->rounds, "round", rounds), b->fio.line);
    puts("");
    line_ratio("fio / fio (the noise)", &b->control);
    puts("");
    line_rate("fio write, over its files", &b->fio_write);
    line_rate("fio write, new files", &b->fio_new);
    line_rate("save to local", &b->save);
    line_ratio("save / fio write, over", &b->save_ratio);
    line_ratio("save / fio write, new", &b->new_ratio);
    puts("");
    line_rate("fio read", &b->fio_read);
    line_rate("cold restore", &b->restore);
    line_ratio("restore / fio read", &b->restore_ratio);
    puts("");
    line_seconds("blocked, fence at once", &b->blocked);
    line_seconds("memcpy, one thread", &b->copy);
    line_ratio("blocked / memcpy", &b->blocked_ratio);
    line_seconds("blocked, fence after the copy", &b->late);
    puts("");
    output_line(stdout, "  %-32s %s", "arena population (seal)",
                output_seconds(b->first.seal, seal));
    line_rate("first save to local", &b->first_save);
    print_memory(b);
    print_peers(b);
    return output_flush(err);
}

static json_t *spread_json(const struct series *s)
{
    struct spread x = spread_of(s);
    return json_pack("{s:f, s:f, s:f}", "low", x.low, "median", x.median, "high", x.high);
}

static enum ckpt_status print_json(const struct bench *b, struct ckpt_err *err)
{
    pid_t pids[DAEMONS_MAX];
    size_t n = bench_run_daemons(&b->run, pids, DAEMONS_MAX);
    json_t *rss = json_array();
    json_array_append_new(rss, json_integer((json_int_t)bench_peak_rss(getpid())));
    for (size_t i = 0; i < n; i++)
        json_array_append_new(rss, json_integer((json_int_t)bench_peak_rss(pids[i])));
    return output_json(
        json_pack(
            "{s:o, s:o, s:I, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, "
            "s:o, s:f, s:f, s:o, s:O?}",
            "method", output_string(method), "dir", output_string(b->dir), "bytes",
            (json_int_t)b->bytes, "rounds", (int)b->rounds, "fio", output_string(b->fio.line),
            "control_ratio", spread_json(&b->control), "fio_write", spread_json(&b->fio_write),
            "fio_write_new", spread_json(&b->fio_new), "save_new_ratio", spread_json(&b->new_ratio),
            "save_local", spread_json(&b->save), "first_save", spread_json(&b->first_save),
            "save_ratio", spread_json(&b->save_ratio), "fio_read", spread_json(&b->fio_read),
            "restore", spread_json(&b->restore), "restore_ratio", spread_json(&b->restore_ratio),
            "blocked_seconds", spread_json(&b->blocked), "memcpy_seconds", spread_json(&b->copy),
            "blocked_ratio", spread_json(&b->blocked_ratio), "late_fence_seconds",
            spread_json(&b->late), "seal_seconds", b->first.seal, "first_save_seconds",
            b->first.first, "peak_rss_bytes", rss, "peers", b->peers),
        err);
}

/* ------------------------------------------------------------------------ */

static enum ckpt_status bench(struct bench *b, struct ckpt_err *err)
{
    if (!bench_fio_there())
        return err_set(err, CKPT_NOT_FOUND,
                       "fio is the yardstick and is not installed: "
                       "apt-get install fio");
    CLEANUP_FREE char *dir = realpath(b->dir, NULL); /* ckptd's socket wants a whole path */
    if (!dir)
        return err_errno(err, errno, "cannot write to %s", b->dir);
    snprintf(b->scratch, sizeof(b->scratch), "%s/ckpt-bench-%ld", dir, (long)getpid());
    snprintf(b->fio_dir, sizeof(b->fio_dir), "%s/fio", b->scratch);
    if (mkdir(b->scratch, 0700) != 0 || mkdir(b->fio_dir, 0700) != 0)
        return err_errno(err, errno, "cannot make %s", b->scratch);
    b->fio = (struct bench_fio){ .dir = b->fio_dir,
                                 .file_bytes = min_u64(b->bytes, CKPT_SLOT_BYTES),
                                 .files = (unsigned)div_up(b->bytes, CKPT_SLOT_BYTES) };
    enum ckpt_status st = all_rounds(b, err);
    if (st == CKPT_OK)
        run_peers(b);
    if (st == CKPT_OK)
        st = b->tool->json ? print_json(b, err) : print_text(b, err);
    bench_run_fini(&b->run);
    json_decref(b->peers);
    nftw(b->scratch, remove_any, 16, FTW_DEPTH | FTW_PHYS);
    return st;
}

static int parse(struct bench *b, int argc, char **argv)
{
    static const struct option options[] = { { "size", required_argument, NULL, 's' },
                                             { "dir", required_argument, NULL, 'd' },
                                             { "rounds", required_argument, NULL, 'r' },
                                             { 0 } };
    uint64_t n;
    int c;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 's':
            if (!output_parse_bytes(optarg, &b->bytes) || b->bytes == 0 ||
                b->bytes % CKPT_SLOT_BYTES != 0)
                return tool_misuse("bench", "--size \"%s\" is no multiple of 32 MiB", optarg);
            break;
        case 'd':
            b->dir = optarg;
            break;
        case 'r':
            if (!output_parse_u64(optarg, &n) || n == 0 || n > ROUNDS_MAX)
                return tool_misuse("bench", "--rounds is 1 to %d", ROUNDS_MAX);
            b->rounds = (unsigned)n;
            break;
        default:
            return tool_bad_option("bench", argv);
        }
    }
    return optind == argc ? 0 : tool_misuse("bench", "it takes no arguments");
}

static int run(struct tool *t, int argc, char **argv)
{
    struct bench *b = calloc(1, sizeof(*b));
    struct ckpt_err err = { 0 };
    if (!b)
        return TOOL_STORE;
    *b = (struct bench){ .tool = t, .dir = ".", .bytes = 4 * GIB, .rounds = 7 };
    int code = parse(b, argc, argv);
    if (code == 0) {
        enum ckpt_status st = bench(b, &err);
        code = st == CKPT_OK ? TOOL_FINE : tool_fail(st, &err);
    }
    free(b);
    return code;
}

const struct tool_verb cmd_bench = {
    .name = "bench",
    .arguments = "[--size 4G] [--dir DIR] [--rounds 7]",
    .summary = "measure saving and restoring on this machine against fio",
    .help = "Saves and restores a state of incompressible bytes in DIR (default: here), in turns\n"
            "with fio on the same directory, and prints medians of paired ratios with its\n"
            "method.  Starts a ckptd of its own; leaves nothing behind.  Wants memory for about\n"
            "2.5 x SIZE, disk for 3 x SIZE, and some minutes on a machine that does nothing else.\n"
            "\n"
            "  --size SIZE    of the state, a multiple of 32 MiB (default 4G)\n"
            "  --dir DIR      where to write (default: the working directory)\n"
            "  --rounds N     pairs to measure (default 7)\n"
            "\n"
            "--json prints all figures: rates in bytes a second, {low, median, high}.",
    .run = run,
};
