/* A restore that two ranks share on one real GPU, by the real NCCL; skipped where there is none.
 *
 * NCCL is told that the ranks are on two hosts, else it refuses them one device; they meet over
 * the loopback interface.  NVIDIA does not promise that this works, so what is checked is the
 * bytes, whatever became of the sharing; it is said, and if it never worked the test is skipped
 * with the reason.  CUDA is used in forked processes only: it does not survive a fork. */
#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "e2e/kit.h"
#include "libckpt/cuda_api.h"
#include "libckpt/nccl_api.h"

#define RANKS 2

static const struct kit_part parts[] = {
    { .name = "emb", .dtype = CKPT_F32, .ndim = 2, .how = KIT_SAME, .shape = { 16000, 2000 } },
    { .name = "w", .dtype = CKPT_BF16, .ndim = 2, .how = KIT_SAME, .shape = { 3000, 1000 } },
    { .name = "rows", .dtype = CKPT_F32, .ndim = 2, .how = KIT_ROWS, .shape = { 4000, 500 } },
};
#define PARTS ARRAY_COUNT(parts)

struct hall {
    atomic_int said, shared, begun, dies;
    unsigned char bytes[256];
    char why[256];
};
static struct hall *hall;

/* The few functions that the library itself does not need. */
struct cuda {
    int (*Malloc)(void **ret, size_t bytes);
    int (*Memset)(void *p, int value, size_t bytes);
    int (*Memcpy)(void *to, const void *from, size_t bytes, int kind);
};

static void find(void *lib, const char *name, void *ret)
{
    void *s = dlsym(lib, name);
    CHECK(s);
    memcpy(ret, &s, sizeof(s));
}

/* The first runtime that the driver serves.  One that it refuses stays loaded, so none is for all to
 * see: the library would take it for the program's own. */
static struct cuda load_cuda(void)
{
    struct cuda cu;
    const char *names[] = { getenv("CKPT_CUDART"), "libcudart.so.13", "libcudart.so.12" };
    void *lib = NULL;
    for (size_t i = 0; i < ARRAY_COUNT(names) && !lib; i++) {
        int (*count_devices)(int *) = NULL;
        int count = 0;
        lib = names[i] ? dlopen(names[i], RTLD_NOW | RTLD_LOCAL) : NULL;
        if (lib)
            find(lib, "cudaGetDeviceCount", &count_devices);
        if (lib && count_devices(&count) != 0)
            lib = NULL;
    }
    CHECK(lib);
    find(lib, "cudaMalloc", &cu.Malloc);
    find(lib, "cudaMemset", &cu.Memset);
    find(lib, "cudaMemcpy", &cu.Memcpy);
    return cu;
}

static int tell(void *ctx, void *buf, size_t len)
{
    CHECK(len <= sizeof(hall->bytes));
    if (((struct kit_rank *)ctx)->rank == 0) {
        memcpy(hall->bytes, buf, len);
        atomic_store(&hall->said, 1);
    }
    while (!atomic_load(&hall->said))
        kit_pause(1);
    memcpy(buf, hall->bytes, len);
    return 0;
}

/* As if on two hosts; few threads of the device, as both must run at a time. */
static void as_on_hosts(const struct kit_rank *r)
{
    static const char *const env[][2] = {
        { "NCCL_SOCKET_IFNAME", "lo" },
        { "NCCL_NET", "Socket" },
        { "NCCL_IB_DISABLE", "1" },
        { "NCCL_MNNVL_ENABLE", "0" },
        { "NCCL_NVLS_ENABLE", "0" },
        { "NCCL_MAX_CTAS", "2" },
        { "NCCL_RAS_ENABLE", "0" },
        { "NCCL_ALGO", "Ring" },
        { "NCCL_PROTO", "Simple" },
        { "CUDA_VISIBLE_DEVICES", "0" },
        { "NCCL_MULTI_RANK_GPU_ENABLE", "1" },
    };
    char host[16];
    snprintf(host, sizeof(host), "rank%u", r->rank);
    setenv("NCCL_HOSTID", host, 1);
    for (size_t i = 0; i < ARRAY_COUNT(env); i++)
        setenv(env[i][0], env[i][1], 1);
}

static void save(struct kit_rank *r)
{
    kit_open(r);
    kit_declare(r, parts, PARTS);
    KIT_OK(kit_save_local(r, 1));
    KIT_OK(ckpt_progress(r->c, CKPT_FINISHED));
    kit_close(r);
}

static void restore(struct kit_rank *r)
{
    struct ckpt_buffer at[PARTS];
    struct ckpt_fanout f = { .size = sizeof(f), .rank = r->rank, .count = r->world };
    struct ckpt_restore_opts o = { .size = sizeof(o), .fanout = &f };
    struct ckpt_info info = { .size = sizeof(info) };
    as_on_hosts(r);
    struct cuda cu = load_cuda();
    f.broadcast = tell;
    f.broadcast_ctx = r;
    f.timeout_ms = 15000;
    kit_open(r);
    kit_declare(r, parts, PARTS);
    for (size_t i = 0; i < PARTS; i++) {
        at[i] = r->buffers[i];
        CHECK_EQ(cu.Malloc(&at[i].base, at[i].bytes), 0);
        CHECK_EQ(cu.Memset(at[i].base, 0x77, at[i].bytes), 0);
    }
    kit_scribble(r);
    atomic_store(&hall->begun, 1);
    KIT_OK(ckpt_restore(r->s, NULL, at, PARTS, NULL, &o));
    for (size_t i = 0; i < PARTS; i++)
        CHECK_EQ(cu.Memcpy(r->buffers[i].base, at[i].base, at[i].bytes, CUDA_DEVICE_TO_HOST), 0);
    kit_check(r, 1);
    KIT_OK(ckpt_info(r->c, &info));
    if (info.fanout[0] == 0)
        atomic_fetch_add(&hall->shared, 1);
    else
        memcpy(hall->why, info.fanout, sizeof(hall->why));
    while (atomic_load(&hall->dies) && r->rank == 1)
        kit_pause(10); /* for the end that it was promised */
    KIT_OK(ckpt_progress(r->c, CKPT_FINISHED));
    ckpt_close(r->c);
    _exit(0); /* the driver's own end is no business of this test */
}

/* Is there a device, and both libraries?  In a process of its own. */
static bool can(char *ret_why, size_t cap)
{
    int status, count = 0, ends[2];
    CHECK_EQ(pipe(ends), 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        struct cuda_api cuda;
        struct nccl_api nccl;
        struct ckpt_err err = { 0 };
        enum ckpt_status st = cuda_api_load(&cuda, &err);
        if (st == CKPT_OK && (cuda.GetDeviceCount(&count) != CUDA_SUCCESS || count == 0))
            st = err_set(&err, CKPT_UNSUPPORTED, "no CUDA device");
        if (st == CKPT_OK)
            st = nccl_api_load(&nccl, &err);
        dprintf(ends[1], "%s", st == CKPT_OK ? "" : err_text(&err));
        _exit(st != CKPT_OK);
    }
    close(ends[1]);
    ssize_t n = read(ends[0], ret_why, cap - 1);
    ret_why[n > 0 ? n : 0] = 0;
    close(ends[0]);
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int main(void)
{
    char why[512];
    if (!can(why, sizeof(why)))
        TEST_SKIP(why);
    hall = mmap(NULL, sizeof(*hall), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(hall != MAP_FAILED);
    kit_begin("device");
    kit_run("two", RANKS, save, NULL);
    kit_run("two", RANKS, restore, NULL);
    bool shared = atomic_load(&hall->shared) == RANKS;
    memcpy(why, hall->why, sizeof(hall->why));
    memset(hall, 0, sizeof(*hall));
    atomic_store(&hall->dies, 1);
    struct kit_crowd w; /* one is killed in the middle, or before, or after */
    kit_ranks(&w, "two", RANKS, restore, NULL);
    while (!atomic_load(&hall->begun))
        kit_pause(1);
    kit_pause(700);
    kit_kill(w.pid[1], SIGKILL);
    kit_wait(&w, 1 << 1);
    if (kit_end() != 0)
        return 1;
    if (!shared)
        TEST_SKIP(why);
    return 0;
}
