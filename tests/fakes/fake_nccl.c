/* See fake_nccl.h. */
#include "fakes/fake_nccl.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "fakes/fake_cudart.h"
#include "fakes/named_calls.h"
#include "libckpt/cuda_api.h"
#include "libckpt/nccl_api.h"

#define RANKS_MAX   8
#define BLOCK_BYTES ((size_t)256 << 10)
#define WORDS_MAX   32
#define POISON      0xEE
#define LATE_NS     200000000 /* until the last write of an aborted collective */
#define POLLS       3         /* looks until something is not in progress any more */

#define INVALID_ARGUMENT 4
#define INVALID_USAGE    5

#define DIE(...)                                                                  \
    do {                                                                          \
        fprintf(stderr, "fake NCCL: " __VA_ARGS__), fputc('\n', stderr), abort(); \
    } while (0)

struct what { /* equal on all ranks */
    uint64_t all_reduce, root, bytes;
};
/* Block number b is written when everybody has read b - 1, and read when it is published. */
struct board {
    atomic_int joined;
    struct what what;
    atomic_ulong published, given[RANKS_MAX], taken[RANKS_MAX];
    uint64_t words[RANKS_MAX][WORDS_MAX];
    unsigned char block[BLOCK_BYTES];
};
struct ncclComm {
    struct ncclComm *next;
    struct board *board;
    int count, rank, device, polls;
    atomic_bool over; /* aborted or destroyed */
    atomic_bool aborted;
    atomic_int error, under_way;
    uint64_t blocks; /* of the stream's thread: so many are behind us */
    bool late;
};
struct call { /* one collective */
    struct call *next;
    nccl_comm c;
    struct what what;
    const unsigned char *from;
    unsigned char *to;
    fake_stream stream;
    enum fake_nccl_fault fault;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static nccl_comm comms;
static struct named_calls calls;
static enum fake_nccl_fault fault;
static unsigned fault_at;
static atomic_uint ran;
static _Thread_local struct {
    int depth;
    struct call *calls, **tail;
} group;

extern int cudaGetDevice(int *ret);
extern int cudaThreadExchangeStreamCaptureMode(int *mode);
extern int cudaDeviceGetAttribute(int *ret, int attribute, int device);
extern int cuPointerGetAttributes(unsigned count, int *attributes, void **data,
                                  unsigned long long p);

/* -- on demand --------------------------------------------------------------------------- */

static int begin(const char *name)
{
    pthread_mutex_lock(&lock);
    struct named_call *f = named_call(&calls, name);
    int result = named_call_fails(f) ? f->error : NCCL_SUCCESS;
    pthread_mutex_unlock(&lock);
    return result;
}

void fake_nccl_fail(const char *function, unsigned nth, int result)
{
    pthread_mutex_lock(&lock);
    struct named_call *f = named_call(&calls, function);
    f->fail_at = nth;
    f->error = result;
    pthread_mutex_unlock(&lock);
}

void fake_nccl_hold(const char *function, bool hold)
{
    pthread_mutex_lock(&lock);
    struct named_call *f = named_call(&calls, function);
    f->hold_from = hold ? f->count + 1 : 0;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

/* As one that waits for other ranks: who is held must be able to afford it. */
static void stay(nccl_comm c, const char *name)
{
    int device = -1, mode = CUDA_CAPTURE_RELAXED;
    sigset_t blocked;
    pthread_mutex_lock(&lock);
    bool held = named_call_held(named_call(&calls, name));
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    cudaGetDevice(&device);
    cudaThreadExchangeStreamCaptureMode(&mode);
    if (held && (!sigismember(&blocked, SIGTERM) || device != c->device || mode == 0))
        DIE("held in a thread that takes signals, minds captures, or works with device %d", device);
    cudaThreadExchangeStreamCaptureMode(&mode);
    while (named_call_held(named_call(&calls, name)))
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

unsigned fake_nccl_calls(const char *function)
{
    pthread_mutex_lock(&lock);
    unsigned n = named_call(&calls, function)->count;
    pthread_mutex_unlock(&lock);
    return n;
}

unsigned fake_nccl_ran(void)
{
    return atomic_load(&ran);
}

void fake_nccl_fault(enum fake_nccl_fault what, unsigned nth)
{
    fault = what;
    fault_at = nth;
}

int fake_nccl_alive(void)
{
    int n = 0;
    for (nccl_comm c = comms; c; c = c->next)
        n += !atomic_load(&c->over);
    return n;
}

/* -- what runs in the stream's thread ------------------------------------------------------ */

static void nap(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
}

/* Waits until all ranks are at `least`; false: aborted meanwhile. */
static bool all_at(nccl_comm c, const atomic_ulong *at, uint64_t least)
{
    for (int i = 0; i < c->count; i++)
        while (atomic_load(&at[i]) < least) {
            if (atomic_load(&c->aborted))
                return false;
            nap();
        }
    return true;
}

static void stall(nccl_comm c)
{
    while (!atomic_load(&c->aborted))
        nap();
}

/* One block: the root's bytes to everybody. */
static bool broadcast_block(const struct call *k, size_t at, size_t n)
{
    struct board *b = k->c->board;
    uint64_t number = k->c->blocks;
    if ((int)k->what.root == k->c->rank) {
        if (!all_at(k->c, b->taken, number))
            return false;
        b->what = k->what;
        memcpy(b->block, k->from + at, n);
        atomic_store(&b->published, number + 1);
    }
    while (atomic_load(&b->published) <= number) {
        if (atomic_load(&k->c->aborted))
            return false;
        nap();
    }
    if (memcmp(&b->what, &k->what, sizeof(k->what)) != 0)
        DIE("rank %d broadcasts %lu bytes from %lu, others %lu from %lu", k->c->rank, k->what.bytes,
            k->what.root, b->what.bytes, b->what.root);
    memcpy(k->to + at, b->block, n);
    atomic_store(&b->taken[k->c->rank], ++k->c->blocks);
    return true;
}

static bool reduce(const struct call *k)
{
    struct board *b = k->c->board;
    uint64_t number = k->c->blocks, least[WORDS_MAX];
    if (!all_at(k->c, b->taken, number))
        return false;
    memcpy(b->words[k->c->rank], k->from, k->what.bytes);
    if (k->c->rank == 0)
        b->what = k->what;
    atomic_store(&b->given[k->c->rank], number + 1);
    if (!all_at(k->c, b->given, number + 1))
        return false;
    if (memcmp(&b->what, &k->what, sizeof(k->what)) != 0)
        DIE("rank %d reduces %lu bytes, others do something else", k->c->rank, k->what.bytes);
    memset(least, 0xff, sizeof(least));
    for (int i = 0; i < k->c->count; i++)
        for (size_t w = 0; w < k->what.bytes / 8; w++)
            least[w] = min_u64(least[w], b->words[i][w]);
    memcpy(k->to, least, k->what.bytes);
    atomic_store(&b->published, number + 1);
    atomic_store(&b->taken[k->c->rank], ++k->c->blocks);
    return true;
}

static void run(void *arg)
{
    struct call *k = arg;
    atomic_fetch_add(&ran, 1);
    bool going = !atomic_load(&k->c->aborted);
    if (going && (k->fault == FAKE_NCCL_HANG || k->fault == FAKE_NCCL_ASYNC)) {
        if (k->fault == FAKE_NCCL_ASYNC)
            atomic_store(&k->c->error, NCCL_REMOTE);
        stall(k->c);
        going = false;
    }
    if (k->from != k->to && going)
        memset(k->to, POISON, k->what.bytes);
    if (going && !k->what.all_reduce && (int)k->what.root != k->c->rank)
        memset(k->to, POISON, k->what.bytes);
    if (going && k->what.all_reduce)
        going = reduce(k);
    for (size_t at = 0; going && !k->what.all_reduce && at < k->what.bytes; at += BLOCK_BYTES) {
        if (k->fault == FAKE_NCCL_DIE && (at > 0 || k->what.bytes <= BLOCK_BYTES))
            kill(getpid(), SIGKILL);
        going = broadcast_block(k, at, min_u64(BLOCK_BYTES, k->what.bytes - at));
    }
    if (!going && (int)k->what.root != k->c->rank) { /* it sees the abort late */
        if (!k->c->late)
            nanosleep(&(struct timespec){ .tv_nsec = LATE_NS }, NULL);
        k->c->late = true;
        memset(k->to, POISON, k->what.bytes);
    }
    atomic_fetch_sub(&k->c->under_way, 1);
    free(k);
}

/* -- the functions --------------------------------------------------------------------------- */

#define API                   __attribute__((visibility("default")))
#define DECLARE(name, params) API nccl_result nccl##name params;
NCCL_FUNCTIONS(DECLARE)
API const char *ncclGetErrorString(nccl_result r);
API const char *ncclGetLastError(nccl_comm c);

const char *ncclGetErrorString(nccl_result r)
{
    static _Thread_local char text[32];
    snprintf(text, sizeof(text), "fake error %d", r);
    return text;
}

const char *ncclGetLastError(nccl_comm c)
{
    (void)c;
    return "said by the fake";
}

nccl_result ncclGetVersion(int *version)
{
    const char *given = getenv("FAKE_NCCL_VERSION");
    *version = given ? (int)strtol(given, NULL, 10) : 22809;
    return NCCL_SUCCESS;
}

nccl_result ncclGetUniqueId(struct nccl_id *ret)
{
    nccl_result r = begin("GetUniqueId");
    int fd = r ? -1 : memfd_create("fake-nccl", MFD_CLOEXEC);
    if (r)
        return r;
    if (fd < 0 || ftruncate(fd, sizeof(struct board)) < 0)
        DIE("no memory");
    memset(ret, 0, sizeof(*ret));
    snprintf(ret->bytes, sizeof(ret->bytes), "/proc/%d/fd/%d", getpid(), fd);
    return NCCL_SUCCESS;
}

nccl_result ncclCommInitRankConfig(nccl_comm *ret, int count, struct nccl_id id, int rank,
                                   struct nccl_config *config)
{
    nccl_result r = begin("CommInitRankConfig");
    if (r)
        return r;
    if (config->magic != NCCL_CONFIG_MAGIC || config->size < sizeof(*config) ||
        config->version < NCCL_OLDEST || config->blocking != 0 || rank < 0 || rank >= count ||
        count > RANKS_MAX)
        return INVALID_ARGUMENT;
    int fd = open(id.bytes, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return INVALID_ARGUMENT;
    nccl_comm c = calloc(1, sizeof(*c));
    c->board = mmap(NULL, sizeof(*c->board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (c->board == MAP_FAILED)
        DIE("no memory");
    c->count = count;
    c->rank = rank;
    c->polls = POLLS;
    cudaGetDevice(&c->device);
    c->next = comms;
    comms = c;
    atomic_fetch_add(&c->board->joined, 1);
    *ret = c;
    return NCCL_IN_PROGRESS;
}

static void alive(nccl_comm c)
{
    if (!c || atomic_load(&c->over))
        DIE("a communicator that is not one any more");
}

nccl_result ncclCommGetAsyncError(nccl_comm c, nccl_result *ret)
{
    nccl_result r = begin("CommGetAsyncError");
    alive(c);
    *ret = NCCL_SUCCESS;
    if (atomic_load(&c->error))
        *ret = atomic_load(&c->error);
    else if (atomic_load(&c->board->joined) < c->count || (c->polls > 0 && c->polls-- > 0))
        *ret = NCCL_IN_PROGRESS;
    return r;
}

nccl_result ncclCommFinalize(nccl_comm c)
{
    nccl_result r = begin("CommFinalize");
    alive(c);
    if (atomic_load(&c->under_way))
        DIE("finalized while something is under way");
    c->polls = POLLS;
    return r ? r : NCCL_IN_PROGRESS;
}

static void end(nccl_comm c)
{
    alive(c);
    atomic_store(&c->over, true);
}

nccl_result ncclCommDestroy(nccl_comm c)
{
    nccl_result r = begin("CommDestroy");
    if (c && c->polls > 0)
        DIE("destroyed before it was finalized");
    end(c);
    stay(c, "CommDestroy");
    return r;
}

nccl_result ncclCommAbort(nccl_comm c)
{
    nccl_result r = begin("CommAbort");
    end(c);
    atomic_store(&c->aborted, true);
    stay(c, "CommAbort");
    return r;
}

nccl_result ncclCommCount(nccl_comm c, int *count)
{
    alive(c);
    *count = c->count;
    return begin("CommCount");
}

nccl_result ncclCommUserRank(nccl_comm c, int *rank)
{
    alive(c);
    *rank = c->rank;
    return begin("CommUserRank");
}

nccl_result ncclCommCuDevice(nccl_comm c, int *device)
{
    alive(c);
    *device = c->device;
    return begin("CommCuDevice");
}

nccl_result ncclGroupStart(void)
{
    nccl_result r = begin("GroupStart");
    if (!r && group.depth++ == 0)
        group.tail = &group.calls;
    return r;
}

static nccl_result launch(void)
{
    struct call *k = group.calls;
    nccl_comm c = k ? k->c : NULL;
    group.calls = NULL;
    while (k) {
        struct call *next = k->next;
        atomic_fetch_add(&k->c->under_way, 1);
        if (fault != FAKE_NCCL_NONE && fault_at > 0 && --fault_at == 0)
            k->fault = fault;
        fake_launch(k->stream, run, k);
        k = next;
    }
    if (!c)
        return NCCL_SUCCESS;
    c->polls = POLLS;
    return NCCL_IN_PROGRESS;
}

nccl_result ncclGroupEnd(void)
{
    nccl_result r = begin("GroupEnd");
    if (--group.depth < 0)
        DIE("a group that was not begun");
    if (group.depth > 0)
        return r;
    if (!r)
        return launch();
    while (group.calls) {
        struct call *k = group.calls;
        group.calls = k->next;
        free(k);
    }
    return r;
}

struct place {
    int type, device;
};

static bool place_of(const void *p, struct place *ret)
{
    int what[] = { CUDA_POINTER_MEMORY_TYPE, CUDA_POINTER_DEVICE };
    void *answers[] = { &ret->type, &ret->device };
    return cuPointerGetAttributes(2, what, answers, (uintptr_t)p) == CUDA_SUCCESS;
}

static bool host_pointers(int device)
{
    int same = 0;
    return cudaDeviceGetAttribute(&same, CUDA_USES_HOST_POINTERS, device) == CUDA_SUCCESS && same;
}

/* Does a forked child get that page too?  Then one of the two writes where no device reads. */
static bool forks(const void *p)
{
    char line[4096];
    uintptr_t first = 0, end = 0;
    bool ret = true;
    FILE *f = fopen("/proc/self/smaps", "re");
    while (f && fgets(line, sizeof(line), f)) {
        uintptr_t low, high;
        if (sscanf(line, "%lx-%lx ", &low, &high) == 2) {
            first = low;
            end = high;
        }
        if ((uintptr_t)p >= first && (uintptr_t)p < end && strncmp(line, "VmFlags:", 8) == 0)
            ret = !strstr(line, " dc");
    }
    if (f)
        fclose(f);
    return ret;
}

/* The host's view of a buffer; NULL: NCCL would refuse it. */
static unsigned char *view(nccl_comm c, const void *p, size_t bytes)
{
    struct place first, last;
    union {
        const void *given;
        unsigned char *p;
    } u = { .given = p };
    if (!place_of(p, &first) || !place_of(u.p + bytes - 1, &last))
        return NULL;
    if (first.type != last.type)
        DIE("a buffer of %zu bytes at %p is outside of its allocation", bytes, p);
    if (first.type == CUDA_MEMORY_HOST && !host_pointers(c->device))
        DIE("device %d has no memory at %p", c->device, p);
    if (first.type == CUDA_MEMORY_HOST && forks(p))
        DIE("a forked child takes the page at %p along", p);
    if (first.type == CUDA_MEMORY_HOST)
        return u.p;
    if (first.type != CUDA_MEMORY_DEVICE || first.device != c->device)
        return NULL;
    unsigned char *at = fake_look(u.p), *to = fake_look(u.p + bytes - 1);
    if (to != at + bytes - 1)
        DIE("a buffer of %zu bytes at %p is outside of its allocation", bytes, p);
    return at;
}

static nccl_result collective(const char *name, nccl_comm c, const void *from, void *to,
                              const struct what *what, void *stream)
{
    nccl_result r = begin(name);
    if (r)
        return r;
    alive(c);
    if (c->polls > 0)
        return INVALID_USAGE;
    struct call k = { .c = c, .what = *what, .stream = stream };
    k.from = view(c, from, what->bytes);
    k.to = view(c, to, what->bytes);
    if (!k.from || !k.to)
        return INVALID_ARGUMENT;
    bool alone = group.depth == 0;
    if (alone)
        group.tail = &group.calls;
    *group.tail = memcpy(malloc(sizeof(k)), &k, sizeof(k));
    group.tail = &(*group.tail)->next;
    return alone ? launch() : NCCL_IN_PROGRESS; /* as one that does not block may say */
}

nccl_result ncclBroadcast(const void *from, void *to, size_t count, int type, int root, nccl_comm c,
                          void *stream)
{
    struct what what = { .root = (uint64_t)root, .bytes = count };
    if (type != NCCL_U8 || root < 0 || root >= c->count || count == 0)
        return INVALID_ARGUMENT;
    return collective("Broadcast", c, from, to, &what, stream);
}

nccl_result ncclAllReduce(const void *from, void *to, size_t count, int type, int op, nccl_comm c,
                          void *stream)
{
    struct what what = { .all_reduce = 1, .bytes = count * 8 };
    if (type != NCCL_U64 || op != NCCL_MIN || count == 0 || count > WORDS_MAX)
        return INVALID_ARGUMENT;
    return collective("AllReduce", c, from, to, &what, stream);
}
