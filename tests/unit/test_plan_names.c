/* What a plan takes of a checkpoint: patterns, renames, other dtypes, tied tensors; and what
 * it refuses, with names. */
#include "props/engine_kit.h"
#include "storage/repo/plan_names.h"

static uint64_t cases;
static struct store *store;

static struct kit_model model(void)
{
    struct kit_model m = { 0 };
    kit_model_add(&m, "a.w", CKPT_DTYPE_F32, 1, (const uint64_t[]){ 24 });
    kit_model_add(&m, "a.b", CKPT_DTYPE_BF16, 1, (const uint64_t[]){ 24 });
    kit_model_add(&m, "b.w", CKPT_DTYPE_F32, 1, (const uint64_t[]){ 24 });
    kit_model_add(&m, "n", CKPT_DTYPE_I32, 1, (const uint64_t[]){ 24 });
    kit_model_add(&m, "locked", CKPT_DTYPE_F32, 1, (const uint64_t[]){ 24 });
    m.tensors[4].kind = DECL_LOCKED;
    kit_model_add(&m, "tied", CKPT_DTYPE_F32, 1, (const uint64_t[]){ 24 });
    snprintf(m.tensors[5].alias, sizeof(m.tensors[5].alias), "a.w");
    m.tensors[5].flags = DECL_ALIAS;
    return m;
}

static struct reader *saved(void)
{
    struct kit_model m = model();
    struct kit_layout l;
    struct kit_save how = { .name = { 1, 2, 3 } };
    struct record_commit commit;
    struct reader *r;
    kit_layout_rows(&l, &m, 2);
    kit_save_parts(store, &l, &how);
    CHECK_OK(publish(store, KIT_JOB, &how.name, 2, &commit, NULL));
    CHECK_OK(reader_open(&store, 1, KIT_JOB, &how.name, &r, NULL));
    kit_layout_fini(&l);
    return r;
}

/* Rules as text: "+only", "-except", "from>to". */
static void add_rules(struct select *s, const char *const *rules)
{
    for (; *rules; rules++) {
        char from[40];
        const char *to = strchr(*rules, '>');
        if (to) {
            snprintf(from, sizeof(from), "%.*s", (int)(to - *rules), *rules);
            CHECK_OK(select_add(s, SELECT_RENAME, from, to + 1, NULL));
        } else {
            CHECK_OK(select_add(s, **rules == '+' ? SELECT_ONLY : SELECT_EXCEPT, *rules + 1, NULL,
                                NULL));
        }
    }
}
#define RULES(...) ((const char *const[]){ __VA_ARGS__, NULL })
static const char *const none[] = { NULL };

static struct plan *plan_for(struct reader *r, const struct kit_model *m, unsigned flags,
                             const char *const *rules, enum ckpt_status want, const char *word)
{
    static const uint32_t ranks[] = { 5, 7 };
    struct kit_layout l;
    struct select s = { 0 };
    struct plan *p = NULL;
    struct ckpt_err err = { 0 };
    kit_layout_rows(&l, m, 2);
    add_rules(&s, rules);
    const struct plan_ask ask = { .consumers = l.list,
                                  .count = 2,
                                  .slot_bytes = KIT_SLOT,
                                  .flags = flags,
                                  .select = &s,
                                  .ranks = ranks };
    enum ckpt_status st = plan_make(r, &ask, &p, &err);
    if (st != want || (word && !strstr(err_text(&err), word))) {
        fprintf(stderr, "%s: \"%s\"; expected %s, \"%s\"\n", status_name(st), err_text(&err),
                status_name(want), word ? word : "");
        exit(1);
    }
    CHECK(word == NULL || strstr(err_text(&err), "rank 5: "));
    select_fini(&s);
    kit_layout_fini(&l);
    cases++;
    return p;
}

static void refuse(struct reader *r, const struct kit_model *m, unsigned flags,
                   const char *const *rules, enum ckpt_status want, const char *word)
{
    CHECK(plan_for(r, m, flags, rules, want, word) == NULL);
}

static const char *unasked(const struct plan *p)
{
    static char text[200];
    text[0] = 0;
    for (size_t i = 0; i < p->unasked_count; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s ", p->unasked[i]);
    return text;
}

static void rename_to(struct kit_model *m, size_t i, const char *name)
{
    snprintf(m->tensors[i].name, sizeof(m->tensors[i].name), "%s", name);
}

static void test_dtypes(struct reader *r)
{
    struct kit_model m = model();
    m.count = 2;
    m.tensors[0].dtype = CKPT_DTYPE_F16;
    m.tensors[1].dtype = CKPT_DTYPE_F64;
    refuse(r, &m, 0, none, CKPT_MISMATCH, "tensor a.w: asked for as F16, saved as F32: a restore");
    struct plan *p = plan_for(r, &m, PLAN_CONVERT, none, CKPT_OK, NULL);
    CHECK_EQ(p->consumer_bytes[0], 12 * 4 + 12 * 2); /* as it was saved */
    CHECK_EQ(p->note_count, 4);
    CHECK(p->notes[2].consumer == 1 && p->notes[2].tensor == 0);
    CHECK_EQ(p->notes[3].saved->dtype, CKPT_DTYPE_BF16);
    plan_free(p);
    m.tensors[0].dtype = CKPT_DTYPE_I32;
    refuse(r, &m, PLAN_CONVERT, none, CKPT_MISMATCH, "asked for as I32, saved as F32: there is no");
    plan_free(plan_for(r, &m, PLAN_CONVERT, RULES("-a.w"), CKPT_OK, NULL));
    m.tensors[0] = model().tensors[4];
    m.tensors[0].kind = DECL_ELEMENTWISE;
    m.tensors[0].dtype = CKPT_DTYPE_F16;
    refuse(r, &m, PLAN_CONVERT, none, CKPT_MISMATCH, "tensor locked: asked for as F16, saved as");
    m.tensors[0].dtype = CKPT_DTYPE_F32; /* equal: nothing is noted */
    m.tensors[1].dtype = CKPT_DTYPE_BF16;
    p = plan_for(r, &m, PLAN_CONVERT | PLAN_PARTIAL, none, CKPT_OK, NULL);
    CHECK_EQ(p->note_count, 0);
    CHECK_STR(unasked(p), "a.w b.w n ");
    plan_free(p);
}

static void test_patterns(struct reader *r)
{
    struct kit_model m = model();
    struct plan *p = plan_for(r, &m, 0, none, CKPT_OK, NULL);
    CHECK_STR(unasked(p), "");
    plan_free(p);
    p = plan_for(r, &m, 0, RULES("+a.*", "-*.b"), CKPT_OK, NULL);
    CHECK_EQ(p->consumer_bytes[0], 12 * 4);
    CHECK_EQ(p->gap_count, 0);
    CHECK_STR(unasked(p), ""); /* left out, not forgotten */
    plan_free(p);
    rename_to(&m, 2, "elsewhere");
    refuse(r, &m, 0, none, CKPT_NOT_FOUND, "tensor elsewhere");
    p = plan_for(r, &m, 0, RULES("-elsewhere"), CKPT_OK, NULL);
    CHECK_STR(unasked(p), "b.w ");
    plan_free(p);
    p = plan_for(r, &m, 0, RULES("-else*", "-b.?"), CKPT_OK, NULL);
    CHECK_STR(unasked(p), "");
    plan_free(p);
    p = plan_for(r, &m, PLAN_PARTIAL, RULES("-a*", "-tied"), CKPT_OK, NULL);
    CHECK(p->gap_count == 2 && p->gaps[1].consumer == 1 && p->gaps[1].tensor == 2);
    plan_free(p);
}

static void test_renames(struct reader *r)
{
    struct kit_model m = model();
    rename_to(&m, 0, "m.a.w");
    rename_to(&m, 1, "m.a.b");
    snprintf(m.tensors[5].alias, sizeof(m.tensors[5].alias), "m.a.w");
    refuse(r, &m, 0, none, CKPT_NOT_FOUND, "tensor m.a.w");
    struct plan *p = plan_for(r, &m, 0, RULES("a.*>m.a.*"), CKPT_OK, NULL);
    CHECK_EQ(p->note_count, 4);
    CHECK_STR(p->notes[1].saved->name, "a.b");
    CHECK_STR(unasked(p), "");
    plan_free(p);
    m = model(); /* an exchange: same shapes */
    refuse(r, &m, PLAN_PARTIAL, RULES("a.w>b.w", "b.w>a.w"), CKPT_MISMATCH,
           "tensor tied is tied to a.w here, and was saved with bytes of a.w");
    p = plan_for(r, &m, 0, RULES("a.w>b.w", "b.w>a.w", "-tied"), CKPT_OK, NULL);
    CHECK_EQ(p->note_count, 4);
    CHECK_STR(p->notes[0].saved->name, "b.w");
    plan_free(p);
    refuse(r, &m, 0, RULES("a.w>b.w"), CKPT_NOT_FOUND, "tensor a.w is not");
    m.tensors[0] = m.tensors[2];
    m.count = 1;
    refuse(r, &m, 0, RULES("a.w>b.w"), CKPT_INVALID,
           "a.w and b.w of the checkpoint both become b.w");
    refuse(r, &m, 0, RULES("*.w>b.w*"), CKPT_NOT_FOUND, "tensor b.w");
    rename_to(&m, 0, "x");
    refuse(r, &m, 0, RULES("*.w>x*", "a.w>x"), CKPT_NOT_FOUND, "tensor x");
    plan_free(plan_for(r, &m, 0, RULES("a.w>x", "b.*>x*"), CKPT_OK, NULL));
    refuse(r, &m, 0, RULES("a*>x*", "b*>x*", "x.w>x"), CKPT_NOT_FOUND, "tensor x");
    rename_to(&m, 0, "x.w");
    refuse(r, &m, 0, RULES("a*>x*", "b*>x*"), CKPT_INVALID, "a.w and b.w");
    rename_to(&m, 0, "tied2"); /* the name of a tie may be changed, too */
    p = plan_for(r, &m, 0, RULES("tied>tied2"), CKPT_OK, NULL);
    CHECK_STR(p->notes[0].saved->name, "a.w");
    plan_free(p);
}

/* Tied here, saved apart, and the other way round. */
static void test_ties(struct reader *r)
{
    struct kit_model m = model();
    m.tensors[5].flags = 0; /* own memory here: both get the bytes */
    m.tensors[5].alias[0] = 0;
    struct plan *p = plan_for(r, &m, 0, none, CKPT_OK, NULL);
    CHECK_EQ(p->note_count, 2);
    CHECK_STR(p->notes[0].saved->name, "a.w");
    plan_free(p);
    m = model();
    snprintf(m.tensors[5].alias, sizeof(m.tensors[5].alias), "b.w");
    refuse(r, &m, 0, none, CKPT_MISMATCH,
           "tensor tied is tied to b.w here, and was saved with bytes of a.w");
    refuse(r, &m, PLAN_PARTIAL, none, CKPT_MISMATCH, "(leave tied out");
    plan_free(plan_for(r, &m, 0, RULES("-tied"), CKPT_OK, NULL));
    rename_to(&m, 5, "b.w2"); /* not in the checkpoint at all: the target has the bytes */
    plan_free(plan_for(r, &m, 0, none, CKPT_OK, NULL));
    m = model();
    m.tensors[2] = m.tensors[5]; /* b.w has bytes of its own there */
    rename_to(&m, 2, "b.w");
    m.count = 3;
    refuse(r, &m, 0, none, CKPT_MISMATCH,
           "tensor b.w is tied to a.w here, and was saved with bytes of b.w");
    refuse(r, &m, PLAN_PARTIAL, none, CKPT_MISMATCH, "saved with bytes of b.w");
    p = plan_for(r, &m, 0, RULES("-b.w"), CKPT_OK, NULL);
    CHECK_EQ(p->consumer_bytes[0], 12 * 4 + 12 * 2);
    plan_free(p);
    rename_to(&m, 0, "fresh"); /* the target is not there, what is tied to it is */
    snprintf(m.tensors[2].alias, sizeof(m.tensors[2].alias), "fresh");
    refuse(r, &m, PLAN_PARTIAL, none, CKPT_MISMATCH, "saved with bytes of b.w");
    rename_to(&m, 2, "fresher"); /* neither is */
    p = plan_for(r, &m, PLAN_PARTIAL, none, CKPT_OK, NULL);
    CHECK_EQ(p->gap_count, 2); /* of each consumer, the one that has memory */
    plan_free(p);
}

/* What has no memory of its own is asked for with what has it, or not at all. */
static void test_ties_apart(struct reader *r)
{
    static const char word[] = "tensor tied is tied to a.w, which the patterns leave out";
    struct kit_model m = model();
    refuse(r, &m, 0, RULES("+tied"), CKPT_INVALID, word);
    refuse(r, &m, PLAN_PARTIAL, RULES("+tied"), CKPT_INVALID, word);
    refuse(r, &m, 0, RULES("-a.w"), CKPT_INVALID, word);
    struct plan *p = plan_for(r, &m, 0, RULES("+tied", "+a.w"), CKPT_OK, NULL);
    CHECK_EQ(p->consumer_bytes[0], 12 * 4);
    plan_free(p);
    p = plan_for(r, &m, 0, RULES("+a.w"), CKPT_OK, NULL);
    CHECK_EQ(p->consumer_bytes[0], 12 * 4);
    plan_free(p);
    p = plan_for(r, &m, 0, RULES("-a.w", "-tied"), CKPT_OK, NULL);
    CHECK_EQ(p->gap_count, 0);
    plan_free(p);
    m.tensors[0].flags = DECL_OPTIONAL; /* it may be missing: what is tied to it may, too */
    rename_to(&m, 0, "fresh");
    rename_to(&m, 5, "fresher");
    snprintf(m.tensors[5].alias, sizeof(m.tensors[5].alias), "fresh");
    p = plan_for(r, &m, 0, none, CKPT_OK, NULL);
    CHECK_EQ(p->gap_count, 2);
    plan_free(p);
}

int main(void)
{
    store = kit_store("mem://plan_names");
    struct reader *r = saved();
    test_dtypes(r);
    test_patterns(r);
    test_renames(r);
    test_ties(r);
    test_ties_apart(r);
    reader_close(r);
    store_close(store);
    TEST_CASES(cases);
    return 0;
}
