/* A trainer is killed while its device copies (transfer_copies.c, flight.c; of ckptd session_life.c,
 * control_act.c), on a real ckptd and a CUDA runtime with real asynchrony.
 *
 *   trainer                  ckptd                           its device
 *   step 1 or 2 is saved     perhaps only staged: in slots
 *   the next step            some slots are full             others are under copies
 *   SIGKILL                  what is staged is finished,     goes on writing for a while, as the
 *                            by another worker, too; the     real one does until the driver has
 *                            rest is given up                torn the context down
 *   the next launch          has other memory
 *
 * The device that outlives the trainer is a process that writes into the parts of the arena that
 * copies were queued for, from before the kill until the next launch has restored and saved. */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gpu/trainer.h"

#define JOB         "killed"
#define SPANS_MAX   1024
#define ARENA_BYTES (UINT64_C(112) << 20) /* more than two saves of `large` */

enum { IN_AIR = 1, AT_WORK, GO_ON }; /* stages of the board */
enum moment {
    COMMITTED, /* the save before is */
    STAGED,    /* the save before is, and cannot be made durable */
    ORPHANED,  /* the same, and ckptd's worker is killed behind the trainer */
    RESTORING, /* out of the arena */
    MOMENTS
};
static bool is_staged(enum moment m)
{
    return m == STAGED || m == ORPHANED;
}

struct blow {
    enum moment moment;
    uint64_t from;     /* the checkpoint that is there; 0: none */
    uint64_t safe;     /* the one that must be there in the end */
    unsigned long rnd; /* which copy is the first that does not end */
};

/* What the device has to do when the trainer dies; shared with the test. */
static struct air {
    uint64_t arena; /* which: its inode */
    size_t count;
    struct {
        uint64_t at, bytes; /* in the arena */
    } span[SPANS_MAX];
    atomic_ulong passes; /* of the device over them */
} * air;

static char gate[96];

/* -- the trainer --------------------------------------------------------------------- */

/* Says where the copies in the air are, and that they are. */
static void tell_air(struct kit_board *board)
{
    static struct fake_span in_air[SPANS_MAX];
    char line[512];
    uint64_t from, to, offset, inode;
    size_t n = fake_in_air(in_air, SPANS_MAX);
    FILE *maps = fopen("/proc/self/maps", "re");
    CHECK(maps && n <= SPANS_MAX);
    air->count = 0;
    while (fgets(line, sizeof(line), maps)) {
        if (!strstr(line, "/memfd:ckpt-arena") ||
            sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %" SCNx64 " %*s %" SCNu64, &from, &to,
                   &offset, &inode) != 4)
            continue;
        air->arena = inode;
        for (size_t i = 0; i < n; i++) {
            uint64_t at = (uintptr_t)in_air[i].at;
            if (at < from || at >= to)
                continue;
            air->span[air->count].at = at - from + offset;
            air->span[air->count++].bytes = in_air[i].bytes;
        }
    }
    fclose(maps);
    CHECK_EQ(air->count, n);
    kit_reach(board, IN_AIR);
}

static _Noreturn void await_death(void)
{
    for (;;)
        kit_pause(1000);
}

struct watch {
    struct kit_board *board;
    unsigned copies;
};

static void *watch_restore(void *arg)
{
    const struct watch *w = arg;
    while (fake_calls("copies") < w->copies)
        kit_pause(1);
    tell_air(w->board);
    return NULL;
}

static void die_restoring(struct trainer *t, const struct blow *b)
{
    unsigned nth = 1 + (unsigned)(b->rnd % 4);
    struct watch w = { t->r->board, fake_calls("copies") + nth };
    pthread_t thread;
    fake_hold_from("copies", nth);
    CHECK_EQ(pthread_create(&thread, NULL, watch_restore, &w), 0);
    restore(t);
    CHECK(!"copies were held, and the restore has ended");
}

/* Slots that ckptd cannot free, as it cannot make them durable. */
static void stage(struct trainer *t, uint64_t step)
{
    uint64_t op;
    int fd = open(gate, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    close(fd);
    compute(t, step);
    KIT_OK(save(t, step, &op));
    KIT_OK(ckpt_fence(t->r->s, 60000));
    KIT_OK(ckpt_wait(t->r->c, op, CKPT_LEVEL_PROCESS, 60000));
}

static void victim(struct kit_rank *r)
{
    const struct blow *b = r->arg;
    struct trainer t;
    uint64_t op, step = b->from + 1;
    r->arena_bytes = ARENA_BYTES;
    start_one(&t, r, 0);
    if (b->moment == RESTORING)
        die_restoring(&t, b);
    if (r->point.size)
        restore(&t);
    unsigned events = fake_calls("EventRecord"), copies = fake_calls("copies");
    save_local(&t, step++);
    events = fake_calls("EventRecord") - events; /* of a save */
    copies = fake_calls("copies") - copies;
    if (is_staged(b->moment))
        stage(&t, step++);
    unsigned nth = 1 + (unsigned)(b->rnd % copies);
    unsigned queued = fake_calls("EventRecord") + events;
    unsigned begun = fake_calls("copies") + nth;
    fake_hold_from("copies", nth);
    compute(&t, step);
    KIT_OK(save(&t, step, &op));
    while (fake_calls("EventRecord") < queued || fake_calls("copies") < begun)
        kit_pause(1);
    tell_air(r->board);
    await_death();
}

/* What is safe is there, bit by bit; and what is saved now is whole, as the next one sees. */
static void next_launch(struct kit_rank *r)
{
    const struct blow *b = r->arg;
    struct trainer t;
    r->arena_bytes = ARENA_BYTES; /* as the one before had */
    start_one(&t, r, 0);
    CHECK_EQ(r->point.step, b->safe);
    restore(&t);
    kit_reach(r->board, AT_WORK);
    kit_await(r->board, GO_ON, 1);
    restore(&t);
    save_local(&t, b->safe + 1);
    unplace(&t);
}

/* -- its arena, and its device ---------------------------------------------------------- */

/* How many arenas a process holds, or of a certain one (an inode); *ret_fd: that, opened. */
static unsigned arenas_of(pid_t pid, uint64_t which, int *ret_fd)
{
    char path[300], name[64];
    unsigned n = 0;
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    for (const struct dirent *e; dir && (e = readdir(dir));) {
        struct stat st;
        snprintf(path, sizeof(path), "/proc/%d/fd/%s", (int)pid, e->d_name);
        ssize_t len = readlink(path, name, sizeof(name) - 1);
        name[len > 0 ? len : 0] = 0;
        if (strncmp(name, "/memfd:ckpt-arena", 17) != 0 || stat(path, &st) < 0 ||
            (which && st.st_ino != which))
            continue;
        n++;
        if (ret_fd && *ret_fd < 0)
            *ret_fd = open(path, O_RDWR | O_CLOEXEC);
    }
    if (dir)
        closedir(dir);
    return n;
}

static void await_arenas(uint64_t which, unsigned each)
{
    for (int i = 0; i < 30000; i++) {
        if (arenas_of(kit_worker(), which, NULL) == each &&
            arenas_of(kit.keeper, which, NULL) == each)
            return;
        kit_pause(1);
    }
    fprintf(stderr, "arena %" PRIu64 ": ckptd has it still, or not any more\n", which);
    exit(1);
}

static pid_t device_goes_on(int arena)
{
    struct stat st;
    CHECK_EQ(fstat(arena, &st), 0);
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    uint8_t *base = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, arena, 0);
    if (base == MAP_FAILED)
        _exit(1);
    for (uint8_t byte = 1;; byte++) {
        for (size_t i = 0; i < air->count; i++)
            for (uint64_t k = 0; k < air->span[i].bytes; k += 512)
                *(volatile uint8_t *)(base + air->span[i].at + k) = byte;
        atomic_fetch_add(&air->passes, 1);
        kit_pause(1);
    }
}

/* Until it has written everything twice: what began before is over, too. */
static void await_device(void)
{
    unsigned long passes = atomic_load(&air->passes);
    for (int i = 0; atomic_load(&air->passes) < passes + 2; i++) {
        CHECK(i < 30000);
        kit_pause(1);
    }
}

static void end_device(pid_t pid)
{
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(waitpid(pid, NULL, 0), pid);
}

/* -- rounds ------------------------------------------------------------------------------ */

static void await_words(const char *words, int times)
{
    for (int i = 0; kit_logged_times(words) < times; i++) {
        CHECK(i < 3000);
        kit_pause(10);
    }
}

/* ckptd holds what is staged until it is durable, and nothing of what is not. */
static void check_drain(const struct blow *b)
{
    if (is_staged(b->moment) && kit.preload) {
        await_arenas(air->arena, 1);
        CHECK(!kit_committed(JOB, b->safe));
    }
    if (b->moment == ORPHANED)
        kit_kill(kit_worker(), SIGKILL);
    (void)unlink(gate);
}

static unsigned long one_round(const struct blow *b)
{
    struct kit_crowd w;
    int arena = -1, deaths = kit_logged_times("how=\"died\"");
    kit_ranks(&w, JOB, 1, victim, b);
    kit_await(w.board, IN_AIR, 1);
    unsigned long copies = air->count;
    CHECK_EQ(arenas_of(kit_worker(), air->arena, &arena), 1);
    CHECK(arena >= 0);
    pid_t device = b->moment == RESTORING ? 0 : device_goes_on(arena);
    CHECK_EQ(kill(w.pid[0], SIGKILL), 0); /* kit_wait counts it */
    kit_wait(&w, 1);
    await_words("how=\"died\"", deaths + 1);
    check_drain(b);
    kit_ranks(&w, JOB, 1, next_launch, b);
    kit_await(w.board, AT_WORK, 1);
    await_arenas(air->arena, 0); /* nobody gets it, although it is mapped here */
    await_arenas(0, 1);
    if (device)
        await_device();
    kit_reach(w.board, GO_ON);
    kit_wait(&w, 0);
    await_arenas(0, 0);
    if (device) {
        await_device();
        end_device(device);
    }
    close(arena);
    kit.cases++;
    return copies;
}

static uint64_t test_rounds(void)
{
    unsigned long long random = seed;
    static const char *const names[MOMENTS] = { "beside a commit", "beside a staged save",
                                                "and the worker, too", "in a restore" };
    unsigned long hits[MOMENTS] = { 0 }, copies = 0;
    uint64_t from = 0;
    for (int i = 0; i < (getenv("CKPT_DEEP") ? 24 : 8); i++) {
        struct blow b = { .moment = (enum moment)(i % MOMENTS), .from = from };
        b.rnd = i < MOMENTS ? 0 : test_rand(&random); /* at first: none ends */
        b.safe = from + (b.moment == COMMITTED) + 2 * is_staged(b.moment);
        unsigned long in_air = one_round(&b);
        hits[b.moment] += in_air > 0;
        copies += in_air;
        from = b.safe + 1;
    }
    printf("    killed with %lu copies in the air:", copies);
    for (size_t i = 0; i < MOMENTS; i++) {
        printf(" %s %lu", names[i], hits[i]);
        CHECK(hits[i] > 0);
    }
    printf("\n");
    return from;
}

/* -- at any moment ------------------------------------------------------------------------ */

/* Saves one after the other until it is killed. */
static void copy_loop(struct kit_rank *r)
{
    struct trainer t;
    uint64_t op;
    r->arena_bytes = 1;
    start_one(&t, r, 0);
    uint64_t first = r->point.size ? r->point.step + 1 : 1;
    if (r->point.size)
        restore(&t);
    for (uint64_t step = first;; step++) {
        compute(&t, step);
        KIT_OK(save(&t, step, &op));
        KIT_OK(ckpt_fence_stream(r->s, t.stream));
        launch_change(&t, true);
        if (step == first + 1)
            kit_reach(r->board, 1);
        ckpt_progress(r->c, step);
    }
}

static void come_back(struct kit_rank *r)
{
    struct trainer t;
    r->arena_bytes = 1;
    start_one(&t, r, 0);
    CHECK(r->point.size);
    restore(&t);
    unplace(&t);
}

static void test_any_moment(void)
{
    unsigned long long random = seed * 3;
    for (int i = 0; i < (getenv("CKPT_DEEP") ? 20 : 3); i++) {
        struct kit_crowd w;
        kit_ranks(&w, "loop", 1, copy_loop, NULL);
        kit_await(w.board, 1, 1);
        kit_pause((long)(test_rand(&random) % 60));
        CHECK_EQ(kill(w.pid[0], SIGKILL), 0);
        kit_wait(&w, 1);
        kit.cases++;
    }
    kit_run("loop", 1, come_back, NULL);
}

int main(void)
{
    seed = test_seed(20261128);
    setenv("CKPT_CUDART", kit_file("CKPT_TEST_CUDART", FAKE_CUDART), 1);
    setenv("CKPT_AUDIT", "0", 1); /* which copies, too */
    air = mmap(NULL, sizeof(*air), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(air != MAP_FAILED);
    snprintf(gate, sizeof(gate), "/tmp/e2e-" JOB "-%d.gate", (int)getpid());
    if (GATE_LIBRARY[0]) {
        kit.preload = kit_file("CKPT_TEST_GATE_LIBRARY", GATE_LIBRARY);
        kit.io = "threads"; /* the gate is in front of fdatasync */
        setenv("CKPT_TEST_GATE", gate, 1);
    }
    kit_begin(JOB);
    uint64_t newest = test_rounds();
    kit_verify(JOB, newest);
    test_any_moment();
    (void)unlink(gate);
    return kit_end();
}
