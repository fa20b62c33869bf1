/* What a machine has for saving and restoring. */
#include <dlfcn.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/timex.h>

#include "storage/store/file_io.h"
#include "tools/doctor.h"
#include "tools/output.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define HUGE_PAGE       (UINT64_C(2) << 20)
#define MEMLOCK_ENOUGH  (UINT64_C(8) << 20) /* rings of kernels before 5.12 */
#define CUDA_VERSION_OK 12000

void doctor_io(struct doctor_finding *ret)
{
    struct file_io *io = NULL;
    struct ckpt_err err = { 0 };
    *ret = (struct doctor_finding){ .what = "io_uring" };
    if (file_io_uring_new(&io, &err) == CKPT_OK) {
        doctor_found(ret, DOCTOR_GREEN, "the kernel gives rings");
        file_io_free(io);
        return;
    }
    doctor_found(ret, DOCTOR_YELLOW, "%.200s: ckptd uses threads, which cost more of the CPU",
                 err_text(&err));
    doctor_remedy(ret,
                  "sysctl kernel.io_uring_disabled=0; in a container a seccomp profile that allows "
                  "io_uring_setup, io_uring_enter and io_uring_register");
}

void doctor_memlock(struct doctor_finding *ret)
{
    struct rlimit limit;
    char text[OUTPUT_TEXT];
    *ret = (struct doctor_finding){ .what = "memlock" };
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
        doctor_found(ret, DOCTOR_GREEN, "no limit");
        return;
    }
    bool enough = limit.rlim_cur >= MEMLOCK_ENOUGH;
    doctor_found(ret, enough ? DOCTOR_GREEN : DOCTOR_YELLOW, "at most %s",
                 output_bytes(limit.rlim_cur, text));
    if (!enough)
        doctor_remedy(ret,
                      "ulimit -l unlimited, LimitMEMLOCK=infinity for the service: older kernels "
                      "count rings, and some drivers count pinned memory");
}

/* A number of kB behind `label` in /proc/meminfo, as bytes; 0 if it is not there. */
static uint64_t meminfo(const char *label)
{
    char line[256];
    uint64_t n = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && n == 0 && fgets(line, sizeof(line), f))
        if (strncmp(line, label, strlen(label)) == 0)
            n = strtoull(line + strlen(label), NULL, 10) * 1024;
    if (f)
        fclose(f);
    return n;
}

void doctor_memory(struct doctor_finding *ret)
{
    char left[OUTPUT_TEXT], all[OUTPUT_TEXT];
    *ret = (struct doctor_finding){ .what = "memory" };
    uint64_t available = meminfo("MemAvailable:"), total = meminfo("MemTotal:");
    bool little = available < total / 4;
    doctor_found(ret, little ? DOCTOR_YELLOW : DOCTOR_GREEN,
                 "%s of %s available; staging takes as much as the state of the node's ranks",
                 output_bytes(available, left), output_bytes(total, all));
    if (little)
        doctor_remedy(
            ret, "if seal is refused, a smaller arena (arena_bytes): saves then stall on the disk");
}

/* A huge page of a file must begin at a multiple of its size in memory, too. */
static uint8_t *map_aligned(int fd, uint8_t **ret_room)
{
    uint8_t *room = mmap(NULL, 2 * HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED)
        return MAP_FAILED;
    *ret_room = room;
    uint8_t *page = (uint8_t *)align_up((uintptr_t)room, HUGE_PAGE);
    return mmap(page, HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
}

void doctor_huge_pages(struct doctor_finding *ret)
{
    uint8_t *room = NULL;
    *ret = (struct doctor_finding){ .what = "huge pages" };
    CLEANUP_FD int fd = memfd_create("ckpt-doctor", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)HUGE_PAGE) != 0) {
        doctor_found(ret, DOCTOR_RED, "no shared memory: %m");
        doctor_remedy(ret, "memfd_create must be allowed");
        return;
    }
    uint8_t *page = map_aligned(fd, &room);
    if (page == MAP_FAILED) {
        doctor_found(ret, DOCTOR_RED, "shared memory cannot be mapped: %m");
    } else {
        *page = 1;
        if (madvise(page, HUGE_PAGE, MADV_COLLAPSE) == 0) {
            doctor_found(ret, DOCTOR_GREEN, "shared memory collapses into huge pages");
        } else {
            doctor_found(ret, DOCTOR_YELLOW,
                         "shared memory stays in 4 KiB pages (%m): direct I/O is slower");
            doctor_remedy(ret, "Linux 6.1 or newer with CONFIG_TRANSPARENT_HUGEPAGE");
        }
    }
    if (room)
        munmap(room, 2 * HUGE_PAGE);
}

/* -- libraries ------------------------------------------------------------------ */

static void *load_any(const char *const *names, size_t count, const char **ret_name)
{
    for (size_t i = 0; i < count; i++) {
        void *lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        *ret_name = names[i];
        if (lib)
            return lib;
    }
    return NULL;
}

/* A function of a library that is not known when this is built. */
static void *symbol(void *lib, const char *name, void *ret_function)
{
    void *s = dlsym(lib, name);
    memcpy(ret_function, &s, sizeof(s));
    return s;
}

void doctor_gpu(struct doctor_finding *ret)
{
    static const char *const drivers[] = { "libcuda.so.1" };
    const char *name;
    int (*init)(unsigned), (*version)(int *), (*count)(int *);
    int v = 0, n = 0;
    *ret = (struct doctor_finding){ .what = "GPU" };
    void *lib = load_any(drivers, ARRAY_COUNT(drivers), &name);
    if (!lib) {
        doctor_found(ret, DOCTOR_ABSENT, "no CUDA driver (%s): host memory only", name);
        return;
    }
    if (!symbol(lib, "cuInit", &init) || !symbol(lib, "cuDriverGetVersion", &version) ||
        !symbol(lib, "cuDeviceGetCount", &count)) {
        doctor_found(ret, DOCTOR_RED, "%s is no CUDA driver", name);
        return;
    }
    int failed = init(0);
    if (failed || version(&v) || count(&n)) {
        doctor_found(ret, DOCTOR_YELLOW, "the driver does not start (error %d)", failed);
        doctor_remedy(ret, "nvidia-smi says more; in a container the devices must be passed in");
    } else {
        char devices[OUTPUT_TEXT];
        doctor_found(ret, v < CUDA_VERSION_OK ? DOCTOR_YELLOW : DOCTOR_GREEN,
                     "%s, driver for CUDA %d.%d", output_count((uint64_t)n, "device", devices),
                     v / 1000, v % 1000 / 10);
        if (v < CUDA_VERSION_OK)
            doctor_remedy(ret, "a driver for CUDA 12 or newer");
    }
    dlclose(lib);
}

void doctor_nccl(struct doctor_finding *ret)
{
    static const char *const names[] = { "libnccl.so.2" };
    const char *name;
    int (*version)(int *);
    int v = 0;
    *ret = (struct doctor_finding){ .what = "NCCL" };
    void *lib = load_any(names, ARRAY_COUNT(names), &name);
    if (!lib)
        doctor_found(ret, DOCTOR_ABSENT, "no %s on the search path; a framework may bring its own",
                     name);
    else if (!symbol(lib, "ncclGetVersion", &version) || version(&v))
        doctor_found(ret, DOCTOR_YELLOW, "%s does not tell its version", name);
    else
        doctor_found(ret, DOCTOR_GREEN, "%d.%d.%d", v / 10000, v / 100 % 100, v % 100);
    if (lib)
        dlclose(lib);
}

void doctor_clock(struct doctor_finding *ret)
{
    struct timex t = { 0 };
    *ret = (struct doctor_finding){ .what = "clock" };
    int state = adjtimex(&t);
    if (state < 0) {
        doctor_found(ret, DOCTOR_ABSENT,
                     "the kernel does not say whether somebody keeps the clock (%m)");
    } else if (state == TIME_ERROR || t.status & STA_UNSYNC) {
        doctor_found(ret, DOCTOR_YELLOW, "nobody keeps the clock");
        doctor_remedy(
            ret, "run chrony or systemd-timesyncd: S3 refuses requests from clocks that are 15 "
                 "minutes off, and ages in listings are wrong");
    } else {
        doctor_found(ret, DOCTOR_GREEN, "synchronised");
    }
}
