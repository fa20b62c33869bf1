/* The ledger: what was committed is there after a kill at any moment, and whole. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "ckptd/ledger.h"

#include "check.h"

static struct session s, got;
static long cases;

static void stamp(uint64_t n)
{
    s.seq = s.last_op = s.progress = n;
    s.slot_count = SESSION_SLOTS_MAX;
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        s.ops[i].id = n;
    for (uint32_t i = 0; i < SESSION_SLOTS_MAX; i++)
        s.slots[i].op = n;
}

static void check_whole(const struct session *t)
{
    CHECK(t->last_op == t->seq && t->progress == t->seq);
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        CHECK_EQ(t->ops[i].id, t->seq);
    for (uint32_t i = 0; i < SESSION_SLOTS_MAX; i++)
        CHECK_EQ(t->slots[i].op, t->seq);
}

/* A child commits as fast as it can and is killed; the session read back is whole. */
static void test_kill(unsigned long long *rnd)
{
    struct ledger l, again;
    CHECK_OK(ledger_new("test", &l, NULL));
    CHECK_EQ(ledger_open(dup(l.fd), &again, &got, NULL), CKPT_CORRUPT); /* nothing in it */
    stamp(1);
    ledger_commit(&l, &s);
    pid_t child = fork();
    if (child == 0)
        for (uint64_t n = 2;; n++) {
            stamp(n);
            ledger_commit(&l, &s);
        }
    nanosleep(&(struct timespec){ .tv_nsec = (long)(1000000 + test_rand(rnd) % 4000000) }, NULL);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    CHECK_OK(ledger_open(dup(l.fd), &again, &got, NULL));
    check_whole(&got);
    ledger_close(&again);
    ledger_close(&l);
    cases++;
}

int main(void)
{
    unsigned long long rnd = test_seed(3);
    struct ledger l, again;
    struct ledger_op op, other;
    CHECK_OK(ledger_new("test", &l, NULL));
    for (uint64_t n = 1; n < 50; n++) {
        stamp(n);
        ledger_commit(&l, &s);
        CHECK_OK(ledger_open(dup(l.fd), &again, &got, NULL));
        CHECK_EQ(got.seq, n);
        check_whole(&got);
        ledger_close(&again);
        cases++;
    }
    CHECK_OK(ledger_op_open(&l, 0, 100, 1000, &op, NULL));
    CHECK_OK(ledger_op_open(&l, SESSION_OPS_MAX - 1, 1, 1, &other, NULL));
    op.digests[999].b[15] = 7;
    op.packs[99].full_seq = 8;
    *op.metric_count = 3;
    op.metrics[RECORD_METRICS_MAX - 1].value = 1.5;
    CHECK_EQ(op.packs[0].full_seq, 0);
    ledger_op_close(&l, 0, &op, false);
    CHECK_OK(ledger_op_open(&l, 0, 100, 1000, &op, NULL));
    CHECK(op.digests[999].b[15] == 7 && op.packs[99].full_seq == 8 && *op.metric_count == 3);
    ledger_op_close(&l, 0, &op, true); /* void: zero again */
    CHECK_OK(ledger_op_open(&l, 0, 100, 1000, &op, NULL));
    CHECK(op.digests[999].b[15] == 0 && op.packs[99].full_seq == 0 && *op.metric_count == 0);
    /* A worker that was killed before it voided the area: the next save starts empty. */
    op.packs[99].full_seq = 8;
    *op.metric_count = 3;
    ledger_op_close(&l, 0, &op, false);
    CHECK_OK(ledger_op_new(&l, 0, 100, 1000, &op, NULL));
    CHECK(op.packs[99].full_seq == 0 && *op.metric_count == 0);
    CHECK_EQ(ledger_op_open(&l, 1, 1, UINT64_C(1) << 40, &other, NULL), CKPT_LIMIT);
    ledger_close(&l);
    int fd = memfd_create("x", MFD_CLOEXEC);
    CHECK_EQ(ledger_open(fd, &again, &got, NULL), CKPT_CORRUPT);
    for (int i = 0; i < 100; i++)
        test_kill(&rnd);
    TEST_CASES(cases + 8);
    return 0;
}
