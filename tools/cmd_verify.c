/* ckpt verify: reads checkpoints whole and checks every sum and digest. */
#include <getopt.h>
#include <stdio.h>

#include "storage/repo/scrub.h"
#include "tools/output.h"
#include "tools/tool.h"

struct verify {
    struct tool *tool;
    struct store *store;
    json_t *json; /* array of checkpoints, or NULL */
    bool many;    /* places: each is named */
    uint64_t sound, damaged, incomplete, dropped;
    /* of the checkpoint under way: */
    const char *job;
    struct ckpt_name name;
    json_t *findings;
    struct output_progress progress;
};

static const char *kind_word(enum scrub_kind kind)
{
    switch (kind) {
    case SCRUB_MISSING:
        return "missing";
    case SCRUB_DAMAGED:
        return "damaged";
    case SCRUB_AWAITED:
        return "awaited";
    case SCRUB_EXTRA:
        break;
    }
    return "extra";
}

static void on_finding(void *arg, const struct scrub_finding *f)
{
    struct verify *v = arg;
    if (v->json) {
        json_array_append_new(v->findings,
                              json_pack("{s:o, s:o, s:o}", "kind",
                                        output_string(kind_word(f->kind)), "object",
                                        output_string(f->key), "text", output_string(f->text)));
        return;
    }
    if (f->kind == SCRUB_AWAITED) /* they are counted */
        return;
    output_progress_end(&v->progress);
    output_line(stdout, "%s@%llu~%llu: %s %s: %s", v->job, (unsigned long long)v->name.step,
                (unsigned long long)v->name.epoch, kind_word(f->kind), f->key, f->text);
}

static void on_progress(void *arg, uint64_t done, uint64_t total)
{
    struct verify *v = arg;
    output_progress_step(&v->progress, done, total, output_monotonic());
}

static void report_json(struct verify *v, enum ckpt_status st, const struct scrub_report *r)
{
    json_t *o = output_point(v->job, &v->name);
    json_object_set_new(o, "ok", json_boolean(st == CKPT_OK));
    json_object_set_new(o, "awaited", json_integer((json_int_t)r->awaited));
    json_object_set_new(o, "dropped", json_boolean(r->dropped));
    json_object_set_new(o, "objects", json_integer((json_int_t)r->objects));
    json_object_set_new(o, "bytes", json_integer((json_int_t)r->bytes));
    json_object_set_new(o, "findings", v->findings);
    if (v->many)
        json_object_set_new(o, "store", output_string(v->store->url));
    v->findings = NULL;
    json_array_append_new(v->json, o);
}

static void report_text(const struct verify *v, enum ckpt_status st, const struct scrub_report *r,
                        double seconds)
{
    char bytes[OUTPUT_TEXT], rate[OUTPUT_TEXT], damage[80] = "", awaited[80] = "";
    char objects[OUTPUT_TEXT], packs[OUTPUT_TEXT], data[2 * OUTPUT_TEXT + 8] = "";
    if (st == CKPT_CORRUPT)
        snprintf(damage, sizeof(damage), ": %llu damaged, %llu missing",
                 (unsigned long long)r->damaged, (unsigned long long)r->missing);
    if (r->awaited)
        snprintf(awaited, sizeof(awaited), ": not all has arrived here (%s missing)",
                 output_count(r->awaited, "pack", packs));
    if (!r->dropped)
        snprintf(data, sizeof(data), ", %s, %s", output_bytes(r->bytes, bytes),
                 output_rate(r->bytes, seconds, rate));
    output_line(stdout, "%s@%llu~%llu: %s (%s%s)%s%s", v->job, (unsigned long long)v->name.step,
                (unsigned long long)v->name.epoch,
                st == CKPT_BUSY      ? "incomplete"
                : st == CKPT_CORRUPT ? "DAMAGED"
                : r->dropped         ? "dropped here, its records are sound"
                                     : "sound",
                output_count(r->objects, "object", objects), data, damage, awaited);
    fflush(stdout);
}

/* Damage is counted, not returned: the other checkpoints are looked at too. */
static enum ckpt_status verify_one(struct verify *v, const char *job, const struct ckpt_name *name,
                                   struct ckpt_err *err)
{
    struct scrub_callbacks cb = { on_finding, on_progress, v };
    struct scrub_report report = { 0 };
    struct ckpt_err why = { 0 };
    char what[CKPT_JOB_NAME_MAX + 64];
    snprintf(what, sizeof(what), "verifying %s@%llu", job, (unsigned long long)name->step);
    v->job = job;
    v->name = *name;
    v->findings = v->json ? json_array() : NULL;
    v->progress = output_progress_start(what);
    double started = output_monotonic();
    enum ckpt_status st =
        scrub_verify(v->store, job, name, CKPT_SLOT_BYTES_MAX, &cb, &report, &why);
    output_progress_end(&v->progress);
    bool awaited = st == CKPT_BUSY && report.awaited;
    if (st != CKPT_OK && st != CKPT_CORRUPT && !awaited) {
        json_decref(v->findings);
        return err_set(err, st, "%s@%llu could not be looked at: %s", job,
                       (unsigned long long)name->step, err_text(&why));
    }
    v->sound += st == CKPT_OK && !report.dropped;
    v->dropped += st == CKPT_OK && report.dropped;
    v->incomplete += awaited;
    v->damaged += st == CKPT_CORRUPT;
    if (v->json)
        report_json(v, st, &report);
    else
        report_text(v, st, &report, output_monotonic() - started);
    return CKPT_OK;
}

static enum ckpt_status verify_job(struct verify *v, const char *job, struct ckpt_err *err)
{
    struct catalog c = { 0 };
    enum ckpt_status st = catalog_read(v->store, job, CATALOG_ALL, &c, err);
    for (size_t i = 0; st == CKPT_OK && i < c.count; i++) {
        if (c.entries[i].state == CATALOG_LIVE)
            st = verify_one(v, job, &c.entries[i].name, err);
    }
    catalog_fini(&c);
    return st;
}

static enum ckpt_status verify_all(struct verify *v, struct ckpt_err *err)
{
    char **jobs;
    enum ckpt_status st = catalog_jobs(v->store, &jobs, err);
    if (st != CKPT_OK)
        return st;
    for (size_t i = 0; jobs[i] && st == CKPT_OK; i++)
        st = verify_job(v, jobs[i], err);
    catalog_jobs_free(jobs);
    return st;
}

/* "JOB" means all its checkpoints, "JOB@STEP" that one. */
static enum ckpt_status verify_named(struct verify *v, const char *text, struct ckpt_err *err)
{
    struct catalog_spec spec = { 0 };
    struct ckpt_name name;
    if (!strchr(text, '@')) {
        enum ckpt_status st = tool_job_check(v->store, text, err);
        return st == CKPT_OK ? verify_job(v, text, err) : st;
    }
    enum ckpt_status st = tool_find(v->store, text, &spec, &name, err);
    return st == CKPT_OK ? verify_one(v, spec.job, &name, err) : st;
}

/* Each place by itself; a checkpoint that was named must be in one of them. */
static enum ckpt_status verify_places(struct verify *v, const struct tool_stores *stores,
                                      const char *text, struct ckpt_err *err)
{
    struct ckpt_err first = { 0 };
    bool found = false;
    for (size_t i = 0; i < stores->count; i++) {
        struct ckpt_err why = { 0 };
        v->store = stores->s[i];
        v->many = stores->count > 1;
        if (v->many && !v->json)
            output_line(stdout, "%s:", v->store->url);
        enum ckpt_status st = text ? verify_named(v, text, &why) : verify_all(v, &why);
        if (st != CKPT_OK && (st != CKPT_NOT_FOUND || !v->many))
            return err_set(err, st, "%s", err_text(&why));
        found |= st == CKPT_OK;
        if (i == 0)
            first = why;
    }
    return found ? CKPT_OK : err_set(err, CKPT_NOT_FOUND, "%s", err_text(&first));
}

static enum ckpt_status conclude(struct verify *v, struct ckpt_err *err)
{
    if (v->json)
        return output_json(json_incref(v->json), err);
    if (v->sound + v->damaged + v->incomplete + v->dropped == 0) {
        puts("no checkpoints to verify");
    } else {
        printf("%llu sound, %llu damaged", (unsigned long long)v->sound,
               (unsigned long long)v->damaged);
        if (v->incomplete)
            printf(", %llu incomplete", (unsigned long long)v->incomplete);
        if (v->dropped)
            printf(", %llu dropped here", (unsigned long long)v->dropped);
        puts("");
    }
    if (v->damaged)
        fprintf(stderr, "ckpt: damage was found: restore from another checkpoint (\"ckpt ls\") and "
                        "look after the disk\n");
    return output_flush(err);
}

static int run(struct tool *t, int argc, char **argv)
{
    static const struct option options[] = { { 0 } };
    opterr = 0;
    if (getopt_long(argc, argv, "", options, NULL) != -1)
        return tool_bad_option("verify", argv);
    if (argc - optind > 1)
        return tool_misuse("verify", "one JOB or JOB@STEP at most");
    CLEANUP_STORES struct tool_stores stores = { 0 };
    struct ckpt_err err = { 0 };
    enum ckpt_status st = tool_open_all(t, &stores, &err);
    if (st != CKPT_OK)
        return tool_fail(st, &err);
    struct verify v = { .tool = t, .json = t->json ? json_array() : NULL };
    st = verify_places(&v, &stores, optind < argc ? argv[optind] : NULL, &err);
    if (st == CKPT_OK)
        st = conclude(&v, &err);
    json_decref(v.json);
    if (st != CKPT_OK)
        return tool_fail(st, &err);
    return v.damaged || v.incomplete ? TOOL_DAMAGE : TOOL_FINE;
}

const struct tool_verb cmd_verify = {
    .name = "verify",
    .arguments = "[JOB[@STEP[~EPOCH]]]",
    .summary = "read checkpoints whole and check every byte",
    .help =
        "Reads a checkpoint, all of a job, or all of the store (default: everything that is\n"
        "not deleted) and checks every sum, digest and reference.  Prints what is damaged:\n"
        "object, tensor, box.  Changes nothing.  Exit status 1 if anything is damaged, or if a\n"
        "checkpoint is incomplete: a commit shows in this store before all its packs have\n"
        "arrived from the nodes that saved them (\"ckpt status\" shows how far they are).\n"
        "Of what a policy has dropped here (keep-store of ckptd) the records are looked at;\n"
        "its data lies in other stores.  With --remote each place is verified by itself.\n"
        "\n"
        "--json prints an array of {job, step, epoch, attempt, ok, awaited, dropped, objects,\n"
        "bytes, findings: [{kind, object, text}]}, and store when there are several.",
    .run = run,
};
