/* ckpt doctor: is this machine fit, and is this store? */
#include <getopt.h>
#include <stdio.h>
#include <sys/stat.h>

#include "tools/doctor.h"
#include "tools/output.h"
#include "tools/tool.h"

#define FINDINGS_MAX 24

struct doctor {
    struct tool *t;
    const char *socket;
    uint64_t speed_bytes;
    struct doctor_finding findings[FINDINGS_MAX];
    size_t count;
};

void doctor_found(struct doctor_finding *f, enum doctor_verdict verdict, const char *fmt, ...)
{
    va_list args;
    f->verdict = verdict;
    va_start(args, fmt);
    vsnprintf(f->found, sizeof(f->found), fmt, args);
    va_end(args);
}

void doctor_remedy(struct doctor_finding *f, const char *text)
{
    snprintf(f->remedy, sizeof(f->remedy), "%s", text);
}

static struct doctor_finding *next(struct doctor *d)
{
    return &d->findings[d->count++];
}

static void look_at_machine(struct doctor *d)
{
    doctor_io(next(d));
    doctor_huge_pages(next(d));
    doctor_memory(next(d));
    doctor_memlock(next(d));
    doctor_gpu(next(d));
    doctor_nccl(next(d));
    doctor_clock(next(d));
}

/* The directory of a dir store; false for other stores. */
static bool directory_of(const char *url, char *ret, size_t cap)
{
    const char *path = strncmp(url, "dir://", 6) == 0 ? url + 6 : url;
    if (strstr(path, "://"))
        return false;
    size_t n = strcspn(path, "?");
    return (size_t)snprintf(ret, cap, "%.*s", (int)min_u64(n, cap), path) < cap;
}

static enum ckpt_status open_to_try(struct doctor *d, const char *url, const char *what,
                                    struct store **ret)
{
    struct ckpt_err err = { 0 };
    struct store_options options = { .attended = true };
    enum ckpt_status st = store_open(url, &options, ret, &err);
    if (st == CKPT_OK)
        return st;
    struct doctor_finding *f = next(d);
    f->what = what;
    doctor_found(f, DOCTOR_RED, "%.200s", err_text(&err));
    if (st == CKPT_NOT_FOUND)
        doctor_remedy(f, "the first trainer or ckptd makes it; or is the name wrong?");
    return st;
}

/* The first put makes a directory store's ".tmp".  Made here it is this user's, and ckptd, which may
 * be another, could put nothing: so it goes again.  Whoever has just come to it makes it anew. */
static void try_store(struct doctor *d, const char *url, struct store *s,
                      void (*checks)(struct doctor *d, struct store *s, const char *dir))
{
    char dir[4096], temp[sizeof(dir) + 8];
    bool is_dir = directory_of(url, dir, sizeof(dir));
    snprintf(temp, sizeof(temp), "%s/.tmp", is_dir ? dir : "");
    bool before = !is_dir || access(temp, F_OK) == 0;
    checks(d, s, is_dir ? dir : NULL);
    if (!before)
        rmdir(temp);
}

static void check_store(struct doctor *d, struct store *s, const char *dir)
{
    struct doctor_finding *rights = next(d);
    doctor_store_rights(s, rights);
    doctor_store_name(s, rights->verdict, next(d)); /* it has its keys by now */
    doctor_store_conditional(s, next(d));
    doctor_store_clock(s, next(d));
    if (dir)
        doctor_space(dir, next(d));
    if (d->speed_bytes)
        doctor_store_speed(s, d->speed_bytes, next(d));
}

static void look_at_store(struct doctor *d)
{
    const char *url = d->t->store_url;
    CLEANUP_STORE struct store *s = NULL;
    if (url && *url) {
        if (open_to_try(d, url, "store", &s) == CKPT_OK)
            try_store(d, url, s, check_store);
        return;
    }
    struct doctor_finding *f = next(d);
    f->what = "store";
    doctor_found(f, DOCTOR_ABSENT, "none is named: --store or CKPT_STORE");
}

/* Under a name of its own, so that it is not taken for the store's. */
static void name_last(struct doctor *d, const char *what)
{
    d->findings[d->count - 1].what = what;
}

static void check_local(struct doctor *d, struct store *s, const char *dir)
{
    struct doctor_finding *rights = next(d);
    doctor_store_rights(s, rights);
    name_last(d, "local's rights");
    doctor_store_name(s, rights->verdict, next(d));
    name_last(d, "local");
    if (dir) {
        doctor_space(dir, next(d));
        name_last(d, "local's room");
    }
    if (d->speed_bytes) {
        doctor_store_speed(s, d->speed_bytes, next(d));
        name_last(d, "local's speed");
    }
}

/* What this user may do in another one's directory says nothing of ckptd, which runs as that one,
 * and what this user makes there is in its way. */
static bool is_of_another(struct doctor *d, const char *url)
{
    char dir[4096];
    struct stat st = { 0 };
    if (!directory_of(url, dir, sizeof(dir)))
        return false;
    int failed = stat(dir, &st) < 0 ? errno : 0;
    if (failed ? failed != EACCES : st.st_uid == geteuid())
        return false; /* other errors: opening it has words for them */
    struct doctor_finding *f = next(d);
    f->what = "local";
    if (failed)
        doctor_found(f, DOCTOR_ABSENT, "%.200s is not for this user to see", dir);
    else
        doctor_found(f, DOCTOR_ABSENT, "%.200s belongs to uid %u: not tried", dir,
                     (unsigned)st.st_uid);
    doctor_remedy(f, "run \"ckpt doctor\" as the user that ckptd runs as");
    return true;
}

/* Where this node's packs go when the store is elsewhere: no records are decided there. */
static void look_at_local(struct doctor *d)
{
    char url[4096];
    CLEANUP_STORE struct store *s = NULL;
    const char *store = d->t->store_url;
    if (!doctor_local(store, url, sizeof(url)) || (store && strcmp(store, url) == 0) ||
        is_of_another(d, url))
        return;
    if (open_to_try(d, url, "local", &s) == CKPT_OK)
        try_store(d, url, s, check_local);
}

static void look_at_daemon(struct doctor *d)
{
    char path[SOCKPATH_MAX];
    struct ckpt_err err = { 0 };
    if (tool_socket(d->t, d->socket, path, &err) == CKPT_OK)
        doctor_daemon(path, next(d));
}

/* -- the answer ---------------------------------------------------------- */

static const char *const words[] = { [DOCTOR_GREEN] = "green",
                                     [DOCTOR_YELLOW] = "yellow",
                                     [DOCTOR_RED] = "red",
                                     [DOCTOR_ABSENT] = "-" };

static enum ckpt_status print_json(const struct doctor *d, struct ckpt_err *err)
{
    json_t *out = json_array();
    for (size_t i = 0; i < d->count; i++) {
        const struct doctor_finding *f = &d->findings[i];
        json_t *o = json_pack("{s:o, s:o, s:o}", "check", output_string(f->what), "verdict",
                              output_string(words[f->verdict]), "found", output_string(f->found));
        if (f->remedy[0])
            json_object_set_new(o, "remedy", output_string(f->remedy));
        json_array_append_new(out, o);
    }
    return output_json(out, err);
}

static enum ckpt_status print_text(const struct doctor *d, struct ckpt_err *err)
{
    static const enum output_tone tones[] = { [DOCTOR_GREEN] = OUTPUT_GOOD,
                                              [DOCTOR_YELLOW] = OUTPUT_PLAIN,
                                              [DOCTOR_RED] = OUTPUT_BAD,
                                              [DOCTOR_ABSENT] = OUTPUT_DIM };
    static const struct output_column columns[] = { { "", OUTPUT_LEFT },
                                                    { "CHECK", OUTPUT_LEFT },
                                                    { "FOUND", OUTPUT_LEFT } };
    struct output_table table;
    output_table_init(&table, columns, ARRAY_COUNT(columns));
    for (size_t i = 0; i < d->count; i++) {
        const struct doctor_finding *f = &d->findings[i];
        output_row(&table, tones[f->verdict]);
        output_cell(&table, 0, "%s", words[f->verdict]);
        output_cell(&table, 1, "%s", f->what);
        output_cell(&table, 2, "%s", f->found);
    }
    enum ckpt_status st = output_table_print(&table, stdout, err);
    output_table_fini(&table);
    for (size_t i = 0, n = 0; st == CKPT_OK && i < d->count; i++) {
        const struct doctor_finding *f = &d->findings[i];
        if (!f->remedy[0])
            continue;
        if (n++ == 0)
            puts("\nwhat to do");
        output_line(stdout, "  %s: %s", f->what, f->remedy);
    }
    return st == CKPT_OK ? output_flush(err) : st;
}

static int run(struct tool *t, int argc, char **argv)
{
    static const struct option options[] = { { "socket", required_argument, NULL, 's' },
                                             { "size", required_argument, NULL, 'n' },
                                             { 0 } };
    struct doctor d = { .t = t, .speed_bytes = UINT64_C(256) << 20 };
    struct ckpt_err err = { 0 };
    int c;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 's')
            d.socket = optarg;
        else if (c != 'n')
            return tool_bad_option("doctor", argv);
        else if (!output_parse_bytes(optarg, &d.speed_bytes))
            return tool_misuse("doctor", "--size \"%s\" is no size", optarg);
    }
    if (optind != argc)
        return tool_misuse("doctor", "it takes no arguments");
    look_at_machine(&d);
    look_at_store(&d);
    look_at_local(&d);
    doctor_config(t->store_url, next(&d));
    look_at_daemon(&d);
    enum ckpt_status st = t->json ? print_json(&d, &err) : print_text(&d, &err);
    if (st != CKPT_OK)
        return tool_fail(st, &err);
    for (size_t i = 0; i < d.count; i++)
        if (d.findings[i].verdict == DOCTOR_RED)
            return TOOL_DAMAGE;
    return TOOL_FINE;
}

const struct tool_verb cmd_doctor = {
    .name = "doctor",
    .arguments = "[--socket PATH] [--size SIZE]",
    .summary = "check this machine and the store for what makes saves slow or impossible",
    .help =
        "Looks at io_uring, huge pages, memory and its limits, GPU driver, NCCL and clock; with\n"
        "--store at the store's rights and credentials, conditional writes, clock, room and\n"
        "speed (one small object and SIZE of noise are written under \"ckpt.doctor/\" and removed\n"
        "again), also of the directory that CKPT_LOCAL or ckptd's file names as local, if it is\n"
        "this user's; at ckptd's settings (as ckptd --check does); and whether a ckptd listens.  green: as it should be;\n"
        "yellow: works, with a drawback, and what takes it away; red: does not work; -: not there,\n"
        "which may be just as well.\n"
        "\n"
        "  --socket PATH   where ckptd listens (else CKPT_SOCKET, else by user and store)\n"
        "  --size SIZE     how much to write for the speed (default 256M; 0 = nothing)\n"
        "\n"
        "exit status: 1 if anything is red.  --json prints an array of {check, verdict, found,\n"
        "remedy}.",
    .run = run,
};
