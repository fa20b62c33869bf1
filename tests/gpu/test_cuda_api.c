/* The table of CUDA functions against real runtimes, on machines without a GPU: each is
 * loaded, every function found, and what it says without a device is understood.
 *
 * Each runtime in a process of its own: a loaded one stays. */
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libckpt/cuda_api.h"

#include "check.h"

static int cases;

static void says(const struct ckpt_err *err, const char *words)
{
    if (!strstr(err_text(err), words)) {
        fprintf(stderr, "\"%s\" does not say \"%s\"\n", err_text(err), words);
        exit(1);
    }
}

static int functions(const struct cuda_api *api)
{
    int n = 0;
#define CUDA_COUNT(name, params) n += api->name != NULL;
    CUDA_FUNCTIONS(CUDA_COUNT)
#undef CUDA_COUNT
    return n;
}

static int functions_wanted(void)
{
    int n = 0;
#define CUDA_COUNT(name, params) n++;
    CUDA_FUNCTIONS(CUDA_COUNT)
#undef CUDA_COUNT
    return n;
}

/* What works without a device, and what an error becomes. */
static void use(const struct cuda_api *api, int major)
{
    struct ckpt_err err = { 0 };
    int n = -1;
    CHECK_EQ(functions(api), functions_wanted());
    CHECK_EQ(api->runtime_version / 1000, major);
    CHECK((api->MemcpyBatch13 != NULL) == (major == 13));
    CHECK((api->MemcpyBatch12 != NULL) == (major == 12 && api->runtime_version >= 12080));
    CHECK_STR(api->GetErrorName(CUDA_NO_DEVICE), "cudaErrorNoDevice");
    CHECK_STR(api->GetErrorName(CUDA_INSUFFICIENT_DRIVER), "cudaErrorInsufficientDriver");
    CHECK_STR(api->GetErrorName(CUDA_NOT_READY), "cudaErrorNotReady");
    CHECK_STR(api->GetErrorName(CUDA_ECC), "cudaErrorECCUncorrectable");
    CHECK_STR(api->GetErrorName(CUDA_NO_MEMORY), "cudaErrorMemoryAllocation");
    CHECK_STR(api->GetErrorName(CUDA_HOST_ALREADY_REGISTERED),
              "cudaErrorHostMemoryAlreadyRegistered");
    CHECK_EQ(cuda_fail(api, CUDA_NO_DEVICE, "counting devices", &err), CKPT_UNSUPPORTED);
    says(&err, "counting devices: cudaErrorNoDevice");
    CHECK_EQ(cuda_fail(api, CUDA_NO_MEMORY, "pinning", &err), CKPT_NO_MEMORY);
    CHECK_EQ(cuda_fail(api, CUDA_ECC, "copying", &err), CKPT_DEVICE);
    cuda_error e = api->GetDeviceCount(&n);
    if (api->driver_version == 0) { /* no GPU here */
        CHECK(e == CUDA_INSUFFICIENT_DRIVER || e == CUDA_NO_DEVICE || e == CUDA_STUB_LIBRARY);
        CHECK_EQ(cuda_fail(api, e, "counting devices", &err), CKPT_UNSUPPORTED);
    } else {
        CHECK_EQ(api->GetLastError(), CUDA_SUCCESS); /* the trainer must not find our errors */
    }
}

enum how { BY_NAME, LOADED_BEFORE, NOTHING, WRONG_NAME, NO_RUNTIME };

static void in_child(const char *path, int major, enum how how)
{
    struct cuda_api api;
    struct ckpt_err err = { 0 };
    unsetenv("CKPT_CUDART");
    if (how == BY_NAME)
        setenv("CKPT_CUDART", path, 1);
    if (how == WRONG_NAME)
        setenv("CKPT_CUDART", "/nowhere/libcudart.so", 1);
    if (how == NO_RUNTIME)
        setenv("CKPT_CUDART", "libm.so.6", 1);
    if (how == LOADED_BEFORE)
        CHECK(dlopen(path, RTLD_NOW | RTLD_GLOBAL));
    enum ckpt_status st = cuda_api_load(&api, &err);
    if (how == WRONG_NAME) {
        CHECK_EQ(st, CKPT_UNSUPPORTED);
        says(&err, "CKPT_CUDART: /nowhere/libcudart.so");
    } else if (how == NO_RUNTIME) {
        CHECK_EQ(st, CKPT_UNSUPPORTED);
        says(&err, "libm.so.6 has no cuda");
    } else if (how == NOTHING && st != CKPT_OK) { /* unless the machine has one installed */
        CHECK_EQ(st, CKPT_UNSUPPORTED);
        says(&err, "neither libcudart.so.13 nor .12");
    } else if (how != NOTHING) {
        CHECK_EQ(st, CKPT_OK);
        use(&api, major);
        CHECK_STR(api.from, how == BY_NAME ? path : "the program");
    }
    exit(0);
}

static void run(const char *path, int major, enum how how)
{
    int status;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        in_child(path, major, how);
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    cases++;
}

/* With both on the search path the driver decides, also when one that it refuses is there for the
 * whole process to see.  argv: the version that is to be found, and what is loaded before. */
static int find_by_path(const char *version, const char *before)
{
    struct cuda_api api;
    CHECK(!before || dlopen(before, RTLD_NOW | RTLD_GLOBAL));
    CHECK_OK(cuda_api_load(&api, NULL));
    CHECK_EQ(api.runtime_version / 1000, strtol(version, NULL, 10));
    CHECK_STR(api.from, api.runtime_version < 13000 ? "libcudart.so.12" : "libcudart.so.13");
    return 0;
}

static void run_by_path(const char *driver, const char *version, const char *before)
{
    char dir[] = "/tmp/ckpt-runtimes-XXXXXX", name[2][64];
    int status;
    CHECK(mkdtemp(dir));
    for (int i = 0; i < 2; i++) {
        snprintf(name[i], sizeof(name[i]), "%s/libcudart.so.%d", dir, 12 + i);
        CHECK_EQ(symlink(i ? FAKE_13 : FAKE_12, name[i]), 0);
    }
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        unsetenv("CKPT_CUDART");
        setenv("FAKE_DRIVER_VERSION", driver, 1);
        setenv("LD_LIBRARY_PATH", dir, 1);
        execl("/proc/self/exe", "test_cuda_api", version, before, (char *)NULL);
        _exit(127);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_EQ(status, 0);
    for (int i = 0; i < 2; i++)
        unlink(name[i]);
    rmdir(dir);
    cases++;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *file;
        int major;
    } runtimes[] = { { "libcudart.so.12", 12 }, { "libcudart.so.13", 13 } };
    const char *given = getenv("CKPT_TEST_CUDART");
    int found = 0;
    if (argc > 1)
        return find_by_path(argv[1], argc > 2 ? argv[2] : NULL);
    run_by_path("13000", "13", NULL);
    run_by_path("12020", "12", NULL);
    run_by_path("12020", "12", "libcudart.so.13");
    run("", 0, NOTHING);
    run("", 0, WRONG_NAME);
    run("", 0, NO_RUNTIME);
    for (size_t i = 0; i < ARRAY_COUNT(runtimes); i++) {
        char path[4096];
        snprintf(path, sizeof(path), "%s/%s", given ? given : CUDART_DIR, runtimes[i].file);
        if (access(path, R_OK) != 0)
            continue;
        found++;
        run(path, runtimes[i].major, BY_NAME);
        run(path, runtimes[i].major, LOADED_BEFORE);
    }
    if (found < (int)ARRAY_COUNT(runtimes))
        TEST_SKIP("PyPI's CUDA runtimes are not here (tests/gpu/fetch-runtimes gets them)");
    TEST_CASES(cases);
    return 0;
}
