/* States that come and go in one context: what is saved of a state that was freed is kept,
 * and ckptd keeps nothing else of it. */
#include <dirent.h>

#include "e2e/kit.h"

static const struct kit_part parts[] = {
    { .name = "w", .dtype = CKPT_F32, .ndim = 2, .shape = { 90, 100 }, .how = KIT_ROWS },
    { .name = "rng", .object = true, .shape = { 64, 40 }, .scope = CKPT_OBJECT_SHARED },
};
#define PARTS  ARRAY_COUNT(parts)
#define CYCLES 200

/* Arenas and declarations that a process holds. */
static int held(pid_t pid)
{
    char path[64], name[320], to[128];
    int n = 0;
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    CHECK(dir);
    for (const struct dirent *e; (e = readdir(dir));) {
        snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
        ssize_t len = readlink(name, to, sizeof(to) - 1);
        to[len > 0 ? len : 0] = 0;
        n += strstr(to, "ckpt-arena") || strstr(to, "ckpt-decl");
    }
    closedir(dir);
    return n;
}

/* Frees while the save, or a restore that nobody waits for, is under way. */
static uint64_t cycle(struct kit_rank *r, uint64_t step)
{
    uint64_t op = 0;
    struct ckpt_restore_opts soon = { .size = sizeof(soon), .timeout_ms = 1 };
    struct ckpt_point last = { .size = sizeof(last), .step = step - 1, .epoch = 1 };
    last.attempt = attempt_of(r->job, 1, 1, step - 1, 0);
    kit_declare(r, parts, PARTS);
    KIT_OK(kit_save(r, step, &op));
    if (step % 5 == 0)
        KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 20000));
    if (step % 10 == 6) {
        struct kit_rank reader = { .world = 1, .job = r->job, .board = r->board };
        struct ckpt_open_opts o = kit_opts(&reader);
        o.mode = CKPT_READ;
        o.launch = NULL;
        kit_open_with(&reader, &o);
        kit_declare(&reader, parts, PARTS);
        enum ckpt_status st =
            ckpt_restore(reader.s, &last, reader.buffers, reader.count, NULL, &soon);
        CHECK(st == CKPT_OK || st == CKPT_TIMEOUT || st == CKPT_NOT_FOUND);
        kit_forget(&reader);
        kit_declare(&reader, parts, PARTS);
        kit_restore(&reader);
        kit_close(&reader);
    }
    if (step % 3 == 0)
        KIT_OK(ckpt_fence(r->s, 20000));
    else /* staged: it goes on without its state */
        KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_PROCESS, 20000));
    kit_forget(r);
    return op;
}

static void many(struct kit_rank *r)
{
    static uint64_t op[CYCLES + 1];
    kit_open(r);
    for (uint64_t step = 1; step <= CYCLES; step++) {
        op[step] = cycle(r, step);
        if (step == 70 || step == 140)
            kit_kill(kit_worker(), SIGKILL);
        if (step > 8)
            KIT_OK(ckpt_wait(r->c, op[step - 8], CKPT_LEVEL_LOCAL, 20000));
    }
    for (uint64_t step = CYCLES - 8; step <= CYCLES; step++)
        KIT_OK(ckpt_wait(r->c, op[step], CKPT_LEVEL_LOCAL, 20000));
    int worker = -1, keeper = -1;
    for (int i = 0; i < 100 && (worker || keeper); i++) {
        kit_pause(50);
        worker = held(kit_worker());
        keeper = held(kit.keeper);
    }
    if (worker || keeper)
        fprintf(stderr, "of freed states the worker holds %d files, the keeper %d\n", worker,
                keeper);
    CHECK(worker == 0 && keeper == 0);
}

/* Seals that nobody waits for: some find no place, which is no offence. */
static void hasty(struct kit_rank *r)
{
    kit_open(r);
    for (int i = 0; i < 100; i++) {
        struct ckpt_state *s;
        KIT_OK(ckpt_state_new(r->c, &s));
        enum ckpt_status st = ckpt_seal(s, 0);
        CHECK(st == CKPT_OK || st == CKPT_TIMEOUT || st == CKPT_LIMIT);
        ckpt_state_free(s);
    }
    kit_pause(500);
    kit_declare(r, parts, PARTS);
    KIT_OK(kit_save_local(r, 1));
    kit_scribble(r);
}

/* A state whose slots come behind those of another one, in more than one pack. */
static const struct kit_part behind[] = {
    { .name = "big", .dtype = CKPT_F32, .ndim = 2, .shape = { 5000, 1001 }, .how = KIT_ROWS },
};

static void second_of_two(struct kit_rank *r)
{
    kit_open(r);
    kit_declare(r, parts, PARTS);
    struct kit_rank second = {
        .world = 1, .job = r->job, .board = r->board, .c = r->c, .point = r->point
    };
    kit_declare(&second, behind, 1);
    if (second.point.size)
        kit_restore(&second);
    KIT_OK(kit_save_local(&second, second.point.size ? 2 : 1));
    kit_forget(&second);
}

int main(void)
{
    kit_begin("states");
    kit_run("many", 1, many, NULL);
    CHECK_EQ(kit_verify("many", CYCLES), CYCLES);
    kit.cases += CYCLES;
    kit_run("hasty", 1, hasty, NULL);
    kit_verify("hasty", 1);
    for (int i = 0; i < 2; i++, kit.cases++)
        kit_run("two", 1, second_of_two, NULL);
    CHECK_EQ(kit_verify("two", 2), 2);
    return kit_end();
}
