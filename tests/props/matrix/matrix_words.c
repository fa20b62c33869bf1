/* The oracle's process, and a case in its words. */
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "formats/base.h"
#include "formats/dtype.h"
#include "props/matrix/matrix_case.h"

static void become_oracle(const int in[2], const int out[2])
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(in[0], 0);
    dup2(out[1], 1);
    close(in[1]);
    close(out[0]);
    /* numpy is of the Debian package: no other python has it for sure. */
    execl("/usr/bin/python3", "/usr/bin/python3", "-I", MATRIX_ORACLE, (char *)NULL);
    _exit(127);
}

void matrix_oracle_start(struct matrix_oracle *o)
{
    int in[2], out[2];
    CHECK(pipe(in) == 0 && pipe(out) == 0);
    fflush(NULL);
    o->pid = fork();
    CHECK(o->pid >= 0);
    if (o->pid == 0)
        become_oracle(in, out);
    close(in[0]);
    close(out[1]);
    CHECK(fcntl(in[1], F_SETFD, FD_CLOEXEC) == 0 && fcntl(out[0], F_SETFD, FD_CLOEXEC) == 0);
    o->to = fdopen(in[1], "w");
    o->from = fdopen(out[0], "r");
    CHECK(o->to && o->from);
}

void matrix_oracle_end(struct matrix_oracle *o)
{
    int status;
    fclose(o->to);
    fclose(o->from);
    CHECK_EQ(waitpid(o->pid, &status, 0), o->pid);
    CHECK_EQ(status, 0);
}

static void say_u32(FILE *f, const char *word, const uint32_t *n, size_t count)
{
    fprintf(f, " %s=", word);
    for (size_t i = 0; i < count; i++)
        fprintf(f, "%u,", n[i]);
}

static void say_tensor(FILE *f, const struct topo_tensor *t, const struct topo_memory *m)
{
    static const char *const cls[] = { "param", "grad", "optim" };
    static const char *const roles[] = { "whole",   "shard",  "fused", "vocab",
                                         "experts", "expert", "fixed" };
    static const char *const stages[] = { "layer", "stack", "first", "last", "ends", "all" };
    static const char *const kinds[] = { "elementwise", "blocked", "locked" };
    unsigned long long volume = 1;
    fprintf(f, "tensor name=%s tied=%s dtype=%u bits=%u kind=%s cls=%s role=%s stage=%s shape=",
            t->name, t->tied ? t->tied : "", t->dtype, dtype_bits(t->dtype), kinds[t->kind],
            cls[t->cls], roles[t->role], stages[t->stage]);
    for (uint32_t d = 0; d < t->ndim; d++) {
        fprintf(f, "%llu,", (unsigned long long)t->shape[d]);
        volume *= t->shape[d];
    }
    say_u32(f, "unit", t->ndim ? t->unit : (const uint32_t[]){ 1 }, t->ndim ? t->ndim : 1);
    say_u32(f, "group", t->group, t->groups);
    fprintf(f, " volume=%llu layer=%u layers=%u dim=%u edim=%u expert=%u experts=%u parts=%u",
            volume, t->layer, t->layers, t->dim, t->edim, t->expert, t->experts, t->parts);
    say_u32(f, "perm", m->perm, t->ndim);
    say_u32(f, "gap", m->gap, t->ndim);
    fprintf(f, " first=%u lead=%u negative=%u wide=%u\n", m->first, m->lead, m->negative, m->wide);
}

static void say_side(FILE *f, const struct matrix_side *s, size_t tensors)
{
    static const char *const cuts[] = { "box", "flat", "bucket" };
    const struct topo *o = &s->topo;
    fprintf(f,
            "layout world=%u tp=%u pp=%u vp=%u dr=%u ds=%u ep=%u etp=%u zero=%u cut=%s strided=%u "
            "inner=%u align=%u vpad=%u shift=%u copies=%u memories=",
            s->world, o->tp, o->pp, o->vp, o->dr, o->ds, o->ep, o->etp, o->zero, cuts[o->cut],
            o->strided, o->inner, o->align, o->vpad, o->shift,
            (unsigned)min_u64(o->copies, s->world));
    for (uint32_t r = 0; r < s->world; r++)
        fprintf(f, "%zu,", s->blobs[r]);
    fprintf(f, " bytes=");
    for (uint32_t r = 0; r < s->world; r++)
        for (size_t b = 0; b < s->blobs[r]; b++)
            fprintf(f, "%llu,", (unsigned long long)s->bytes[r][b]);
    fprintf(f, "\n");
    for (size_t i = 0; i < tensors; i++)
        say_tensor(f, &s->tensor[i], &s->memory[i]);
}

void matrix_say(FILE *f, size_t tensors, const struct matrix_side *from,
                const struct matrix_side *to)
{
    say_side(f, from, tensors);
    say_side(f, to, tensors);
}

void matrix_oracle_make(struct matrix_oracle *o, unsigned long long id, unsigned long long seed,
                        size_t tensors, struct matrix_side *from, const struct matrix_side *to)
{
    fprintf(o->to, "case id=%llu seed=%llu\n", id, seed);
    matrix_say(o->to, tensors, from, to);
    fprintf(o->to, "make\n");
    CHECK_EQ(fflush(o->to), 0);
    if (fread(from->memories, 1, from->total, o->from) == from->total)
        return;
    matrix_say(stderr, tensors, from, to);
    fprintf(stderr, "the oracle cannot make sense of seed %llu\n", seed);
    exit(1);
}

bool matrix_oracle_check(struct matrix_oracle *o, unsigned long long id,
                         const struct matrix_side *to)
{
    char line[512];
    fprintf(o->to, "check id=%llu\n", id);
    CHECK_EQ(fwrite(to->memories, 1, to->total, o->to), to->total);
    CHECK_EQ(fflush(o->to), 0);
    CHECK(fgets(line, sizeof(line), o->from));
    if (strcmp(line, "ok\n") == 0)
        return true;
    fputs(line, stderr);
    return false;
}
