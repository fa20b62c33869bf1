/* The table of NCCL's functions against a fake one, and against the real one on machines
 * without a GPU: loaded, every function found, what it says without a device understood.
 *
 * Each library in a process of its own: a loaded one stays. */
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libckpt/nccl_api.h"

#include "check.h"

static int cases;

static void says(const struct ckpt_err *err, const char *words)
{
    if (!strstr(err_text(err), words)) {
        fprintf(stderr, "\"%s\" does not say \"%s\"\n", err_text(err), words);
        exit(1);
    }
}

/* What works without a device, and what an error becomes. */
static void use(const struct nccl_api *api)
{
    struct ckpt_err err = { 0 };
    struct nccl_id one, other;
#define NCCL_CHECK(name, params) CHECK(api->name != NULL);
    NCCL_FUNCTIONS(NCCL_CHECK)
#undef NCCL_CHECK
    CHECK(api->GetErrorString && api->GetLastError);
    CHECK(api->version >= NCCL_OLDEST);
    CHECK_EQ(nccl_fail(api, NCCL_REMOTE, "broadcasting", &err), CKPT_DEVICE);
    says(&err, "broadcasting: NCCL says \"");
    char fine[200];
    snprintf(fine, sizeof(fine), "%s", api->GetErrorString(NCCL_SUCCESS));
    CHECK(strcmp(api->GetErrorString(NCCL_REMOTE), fine) != 0);
    CHECK_EQ(api->GetUniqueId(&one), NCCL_SUCCESS);
    CHECK_EQ(api->GetUniqueId(&other), NCCL_SUCCESS);
    CHECK(memcmp(&one, &other, sizeof(one)) != 0);
    CHECK_EQ(api->GroupStart(), NCCL_SUCCESS);
    CHECK_EQ(api->GroupEnd(), NCCL_SUCCESS); /* nothing in it */
}

enum how { BY_NAME, LOADED_BEFORE, LOADED_LOCALLY, NOTHING, WRONG_NAME, NO_NCCL, TOO_OLD };

static void in_child(const char *path, enum how how)
{
    struct nccl_api api;
    struct ckpt_err err = { 0 };
    unsetenv("CKPT_NCCL");
    if (how == BY_NAME || how == TOO_OLD)
        setenv("CKPT_NCCL", path, 1);
    if (how == TOO_OLD)
        setenv("FAKE_NCCL_VERSION", "21399", 1);
    if (how == WRONG_NAME)
        setenv("CKPT_NCCL", "/nowhere/libnccl.so", 1);
    if (how == NO_NCCL)
        setenv("CKPT_NCCL", "libm.so.6", 1);
    if (how == LOADED_BEFORE)
        CHECK(dlopen(path, RTLD_NOW | RTLD_GLOBAL));
    if (how == LOADED_LOCALLY) /* as Python loads a framework's */
        CHECK(dlopen(path, RTLD_NOW | RTLD_LOCAL));
    enum ckpt_status st = nccl_api_load(&api, &err);
    if (how == WRONG_NAME || how == NO_NCCL || how == TOO_OLD) {
        CHECK_EQ(st, CKPT_UNSUPPORTED);
        says(&err, how == WRONG_NAME ? "CKPT_NCCL: /nowhere/libnccl.so"
                   : how == NO_NCCL  ? "libm.so.6 has no nccl"
                                     : "is older than 2.14");
    } else if (how == NOTHING) { /* unless the machine has one installed */
        CHECK(st == CKPT_OK || st == CKPT_UNSUPPORTED);
        if (st != CKPT_OK)
            says(&err, "libnccl.so.2 is neither loaded nor");
    } else {
        CHECK_EQ(st, CKPT_OK);
        use(&api);
        CHECK_STR(api.from, how == BY_NAME         ? path
                            : how == LOADED_BEFORE ? "the program"
                                                   : "libnccl.so.2");
    }
    _exit(0); /* the real one has threads */
}

static void run(const char *path, enum how how)
{
    int status;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        in_child(path, how);
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    cases++;
}

/* A thread that NCCL holds (nccl_end.c) is in the library for good. */
static void test_never_unloaded(void)
{
    void *lib = dlopen(LIBCKPT, RTLD_NOW | RTLD_LOCAL);
    CHECK(lib);
    CHECK_EQ(dlclose(lib), 0);
    CHECK(dlopen(LIBCKPT, RTLD_NOW | RTLD_NOLOAD));
    cases++;
}

int main(void)
{
    char path[4096];
    const char *given = getenv("CKPT_TEST_NCCL");
    run("", NOTHING);
    run("", WRONG_NAME);
    run("", NO_NCCL);
    run(FAKE_NCCL, TOO_OLD);
    run(FAKE_NCCL, BY_NAME);
    run(FAKE_NCCL, LOADED_BEFORE);
    test_never_unloaded();
    snprintf(path, sizeof(path), "%s/libnccl.so.2", given ? given : NCCL_DIR);
    if (access(path, R_OK) != 0)
        TEST_SKIP("PyPI's NCCL is not here (tests/gpu/fetch-nccl gets it)");
    run(path, BY_NAME);
    run(path, LOADED_BEFORE);
    run(path, LOADED_LOCALLY);
    TEST_CASES(cases);
    return 0;
}
