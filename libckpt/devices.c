/* See devices.h. */
#include "libckpt/devices.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "libckpt/gpu_cuda.h"

#ifndef DEVICES_PCI /* a test has its own */
#define DEVICES_PCI "/sys/bus/pci/devices"
#endif

struct devices {
    pthread_mutex_t lock;
    bool tried; /* the runtime was looked for; `cuda.devices` 0: there is none */
    char why_not[300];
    struct cuda cuda;
    struct gpu *gpu[DEVICES_MAX];
};

enum ckpt_status devices_new(struct devices **ret, struct ckpt_err *err)
{
    struct devices *d = calloc(1, sizeof(*d));
    if (!d)
        return err_set(err, CKPT_NO_MEMORY, "out of memory");
    enum ckpt_status st = gpu_host_new(&d->gpu[0], err);
    if (st != CKPT_OK) {
        free(d);
        return st;
    }
    pthread_mutex_init(&d->lock, NULL);
    snprintf(d->why_not, sizeof(d->why_not), "the program has no CUDA driver loaded");
    *ret = d;
    return CKPT_OK;
}

void devices_free(struct devices *d, bool own)
{
    if (!d)
        return;
    for (size_t i = 0; own && i < DEVICES_MAX; i++)
        if (d->gpu[i])
            d->gpu[i]->ops->free(d->gpu[i]);
    if (own)
        pthread_mutex_destroy(&d->lock);
    free(d);
}

/* Memory on a device needs the driver in the process. */
static bool may_have_device_memory(void)
{
    const char *named = getenv("CKPT_CUDART"); // NOLINT(concurrency-mt-unsafe): only read
    if (named && named[0])
        return true;
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    if (driver)
        dlclose(driver);
    return driver != NULL;
}

/* True with a usable runtime.  Lock held. */
static bool look_for_cuda(struct devices *d)
{
    struct ckpt_err err = { 0 };
    if (d->tried || !may_have_device_memory())
        return d->cuda.devices > 0;
    d->tried = true;
    if (cuda_open(&d->cuda, &err) != CKPT_OK)
        snprintf(d->why_not, sizeof(d->why_not), "%.299s", err_text(&err));
    return d->cuda.devices > 0;
}

/* The queue of a CUDA device.  Lock held. */
static enum ckpt_status use_device(struct devices *d, int device, unsigned *ret,
                                   struct ckpt_err *err)
{
    unsigned i = (unsigned)device + 1;
    enum ckpt_status st = CKPT_OK;
    if (device < 0 || i >= DEVICES_MAX)
        return err_set(err, CKPT_LIMIT, "CUDA device %d: at most %d are used", device,
                       DEVICES_MAX - 1);
    if (!d->gpu[i])
        st = gpu_cuda_new(&d->cuda, device, &d->gpu[i], err);
    if (st == CKPT_OK)
        *ret = i;
    return st;
}

bool devices_any(struct devices *d)
{
    pthread_mutex_lock(&d->lock);
    bool any = look_for_cuda(d);
    pthread_mutex_unlock(&d->lock);
    return any;
}

bool devices_possible(struct devices *d)
{
    return devices_any(d) || may_have_device_memory();
}

/* Can this process read there?  Device memory it cannot.  The kernel reads the signals to block
 * before it refuses the rest of the call: nothing happens, and no sandbox forbids it. */
static bool readable(const void *p)
{
    uintptr_t word = (uintptr_t)p / sizeof(uint64_t) * sizeof(uint64_t);
    return syscall(SYS_rt_sigprocmask, ~0, word, NULL, sizeof(uint64_t)) == 0 || errno != EFAULT;
}

/* Lock held. */
static enum ckpt_status find(struct devices *d, const void *p, unsigned *ret, struct ckpt_err *err)
{
    int device = -1;
    enum ckpt_status st = CKPT_OK;
    if (d->cuda.devices > 0)
        st = cuda_device_of(&d->cuda, p, &device, err);
    if (st == CKPT_OK && device >= 0)
        return use_device(d, device, ret, err);
    if (!readable(p)) /* reading it would end the process */
        return st != CKPT_OK
                   ? st
                   : err_set(err, CKPT_UNSUPPORTED,
                             "a buffer at %p is not host memory, and on no device that can "
                             "be used: %.200s",
                             p, d->cuda.devices > 0 ? "CUDA does not know it" : d->why_not);
    *ret = 0; /* also when CUDA answers nothing any more, after a lost device */
    return CKPT_OK;
}

enum ckpt_status devices_find(struct devices *d, const void *p, unsigned *ret, struct ckpt_err *err)
{
    pthread_mutex_lock(&d->lock);
    enum ckpt_status st = find(d, p, ret, err);
    pthread_mutex_unlock(&d->lock);
    return st;
}

enum ckpt_status devices_current(struct devices *d, unsigned *ret, struct ckpt_err *err)
{
    int device = 0;
    pthread_mutex_lock(&d->lock);
    enum ckpt_status st = cuda_device_current(&d->cuda, &device, err);
    if (st == CKPT_OK)
        st = use_device(d, device, ret, err);
    pthread_mutex_unlock(&d->lock);
    return st;
}

bool devices_in_use(struct devices *d, unsigned *ret)
{
    bool in_use = false;
    pthread_mutex_lock(&d->lock);
    if (look_for_cuda(d))
        in_use = cuda_context_here(&d->cuda);
    pthread_mutex_unlock(&d->lock);
    return in_use && devices_current(d, ret, NULL) == CKPT_OK;
}

enum ckpt_status devices_capturing(struct devices *d, void *stream, bool *ret, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    *ret = false;
    pthread_mutex_lock(&d->lock);
    if (stream && look_for_cuda(d))
        st = cuda_capturing(&d->cuda, stream, ret, err);
    pthread_mutex_unlock(&d->lock);
    return st;
}

enum ckpt_status devices_queue(struct devices *d, unsigned index, struct gpu **ret,
                               struct ckpt_err *err)
{
    unsigned used;
    pthread_mutex_lock(&d->lock);
    enum ckpt_status st = use_device(d, (int)index - 1, &used, err);
    pthread_mutex_unlock(&d->lock);
    return st == CKPT_OK ? gpu_cuda_new(&d->cuda, (int)index - 1, ret, err) : st;
}

/* The number in a device's own file; 0: none. */
static uint32_t read_numa(const char *id)
{
    char path[128], text[16] = "";
    (void)snprintf(path, sizeof(path), DEVICES_PCI "/%s/numa_node", id);
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0 || text[0] < '0' || text[0] > '9')
        return 0; /* -1: the machine does not say */
    return (uint32_t)strtoul(text, NULL, 10) + 1;
}

uint32_t devices_numa(struct devices *d, unsigned index)
{
    char id[32] = "";
    pthread_mutex_lock(&d->lock);
    cuda_error e = d->cuda.api.DeviceGetPCIBusId(id, sizeof(id), (int)index - 1);
    if (e != CUDA_SUCCESS)
        (void)d->cuda.api.GetLastError();
    pthread_mutex_unlock(&d->lock);
    for (char *p = id; *p; p++) /* as the kernel writes it */
        *p = (char)(*p >= 'A' && *p <= 'F' ? *p - 'A' + 'a' : *p);
    return e == CUDA_SUCCESS ? read_numa(id) : 0;
}

struct gpu *devices_gpu(const struct devices *d, unsigned index)
{
    return d->gpu[index];
}

const struct cuda *devices_cuda(const struct devices *d)
{
    return &d->cuda;
}

/* Of the first device that has no batches of copies; lock held. */
static int one_by_one(const struct devices *d)
{
    int e = CUDA_SUCCESS;
    for (size_t i = 1; e == CUDA_SUCCESS && i < DEVICES_MAX; i++)
        e = d->gpu[i] ? gpu_cuda_one_by_one(d->gpu[i]) : CUDA_SUCCESS;
    return e;
}

void devices_text(struct devices *d, char *ret, size_t cap)
{
    pthread_mutex_lock(&d->lock);
    int e = one_by_one(d);
    if (!look_for_cuda(d))
        snprintf(ret, cap, "host memory only: %s", d->why_not);
    else
        snprintf(ret, cap, "%d CUDA device%s by %.200s%s%.60s", d->cuda.devices,
                 d->cuda.devices == 1 ? "" : "s", d->cuda.api.from,
                 e == CUDA_SUCCESS ? "" : "; copies one by one: ",
                 e == CUDA_SUCCESS ? "" : d->cuda.api.GetErrorName(e));
    pthread_mutex_unlock(&d->lock);
}
