/* What goes on to other tiers, and comes back from them: real ckptd, real ranks, a second
 * directory in the place of a remote store. */
#include "e2e/kit.h"

#define ROWS 24000
static const struct kit_part parts[] = {
    { .name = "w", .dtype = CKPT_F32, .ndim = 2, .shape = { ROWS, 100 }, .how = KIT_ROWS },
    { .name = "bias", .dtype = CKPT_F32, .ndim = 1, .shape = { 500 }, .how = KIT_SAME },
    { .name = "rng", .object = true, .shape = { 64, 40 }, .scope = CKPT_OBJECT_SHARED },
};
#define PARTS ARRAY_COUNT(parts)

static char remote[96], local[96];

static void set_args(const char *const *args)
{
    memset(kit.more, 0, sizeof(kit.more));
    for (size_t i = 0; args && args[i]; i++)
        kit.more[i] = args[i];
}

static void restart(const char *const *args)
{
    CHECK_EQ(kit_stop(), 0);
    set_args(args);
    kit_start();
}

static void remove_tree(const char *path)
{
    char command[160];
    snprintf(command, sizeof(command), "rm -rf '%s'", path);
    CHECK_EQ(system(command), 0);
}

/* -- bodies of ranks ------------------------------------------------------------------ */

struct steps {
    uint64_t from, to;
    bool resumed;     /* there is a point, and it is `from - 1` */
    uint64_t planned; /* bit n: step n goes on; 0 = all do.  The others are NOT_PLANNED */
};

static void save_steps(struct kit_rank *r)
{
    const struct steps *s = r->arg;
    uint64_t ops[64];
    kit_open(r);
    kit_declare(r, parts, PARTS);
    CHECK_EQ(r->point.size != 0, s->resumed);
    if (s->resumed) {
        CHECK_EQ(r->point.step, s->from - 1);
        kit_restore(r);
    }
    for (uint64_t step = s->from; step <= s->to; step++) {
        KIT_OK(kit_save(r, step, &ops[step]));
        KIT_OK(ckpt_wait(r->c, ops[step], CKPT_LEVEL_LOCAL, 20000));
    }
    for (uint64_t step = s->from; step <= s->to; step++) {
        enum ckpt_status want =
            s->planned && !(s->planned >> step & 1) ? CKPT_NOT_PLANNED : CKPT_OK;
        enum ckpt_status st = ckpt_wait(r->c, ops[step], CKPT_LEVEL_REMOTE, 20000);
        if (st != want)
            fprintf(stderr, "step %d, wait for remote: %s\n", (int)step, ckpt_error());
        CHECK_EQ(st, want);
    }
}

static void run_steps(const char *job, uint32_t world, const struct steps *s)
{
    kit_run(job, world, save_steps, s);
}

/* -- scenarios ------------------------------------------------------------------------ */

/* Saved here, held there, whole by every sum; and a node that has nothing but the URL goes
 * on from it. */
static void there_and_back(void)
{
    const char *args[] = { "--remote", remote, NULL };
    restart(args);
    run_steps("there", 2, &(struct steps){ 1, 3, false, 0 });
    kit_look_into(remote);
    CHECK_EQ(kit_verify("there", 3), 3);
    kit_look_into(NULL);
    CHECK_EQ(kit_stop(), 0);
    remove_tree(kit.store);
    kit_start();
    run_steps("there", 2, &(struct steps){ 4, 5, true, 0 });
    kit_look_into(remote);
    CHECK_EQ(kit_verify("there", 5), 5);
    kit_look_into(NULL);
}

int main(void)
{
    kit_begin("drain");
    snprintf(remote, sizeof(remote), "%s/remote", kit.root);
    snprintf(local, sizeof(local), "%s/local", kit.root);
    there_and_back();
    return kit_end();
}
