/* dynlib.c: which library is taken, and what is said if none is.  (The real ones: tests/gpu.)
 *
 * Each case in a process of its own: a loaded library stays. */
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libckpt/dynlib.h"

#include "check.h"

#define VARIABLE "CKPT_TEST_LIB"

static const char *const two[] = { LIB_ONE, LIB_OTHER };
static const char *const gone[] = { "/nowhere/lib.so", LIB_OTHER };
static const char *const none[] = { "/nowhere/lib.so" };
static const struct dynlib_wish both = { VARIABLE, "cudaGetDevice", two, 2, "no library" };

/* The wish is granted by `want` ("": by none). */
static void found(const struct dynlib_wish *w, const char *want)
{
    struct ckpt_err err = { 0 };
    const char *from = "";
    int (*function)(int *) = NULL;
    void *lib = dynlib_find(w, &from, &err);
    CHECK((lib != NULL) == (want[0] != 0));
    if (!lib)
        return;
    CHECK_STR(from, want);
    CHECK_EQ(err.status, CKPT_OK);
    CHECK(dynlib_take(lib, "cudaGetDevice", &function) && function);
    CHECK(!dynlib_take(lib, "cudaNoSuchThing", &function) && !function);
}

static void nothing_loaded(void)
{
    found(&both, LIB_ONE);
}

static void first_is_not_there(void)
{
    struct dynlib_wish w = both;
    w.names = gone;
    found(&w, LIB_OTHER);
}

/* A framework's own comes before one that would have to be loaded. */
static void other_is_loaded(void)
{
    CHECK(dlopen(LIB_OTHER, RTLD_NOW | RTLD_LOCAL));
    found(&both, LIB_OTHER);
}

static void program_has_it(void)
{
    CHECK(dlopen(LIB_OTHER, RTLD_NOW | RTLD_GLOBAL));
    found(&both, "the program");
}

/* What the variable names comes before everything; empty is none. */
static void variable_names_it(void)
{
    CHECK(dlopen(LIB_ONE, RTLD_NOW | RTLD_GLOBAL));
    setenv(VARIABLE, LIB_OTHER, 1);
    found(&both, LIB_OTHER);
    setenv(VARIABLE, "", 1);
    found(&both, "the program");
}

static void variable_is_wrong(void)
{
    struct ckpt_err err = { 0 };
    const char *from = "";
    setenv(VARIABLE, "/nowhere/given.so", 1);
    CHECK(!dynlib_find(&both, &from, &err));
    CHECK_EQ(err.status, CKPT_UNSUPPORTED);
    CHECK(strstr(err.text, VARIABLE ": /nowhere/given.so"));
}

static void there_is_none(void)
{
    struct ckpt_err err = { 0 };
    const char *from = "";
    struct dynlib_wish w = both;
    w.names = none;
    w.count = 1;
    found(&w, "");
    CHECK(!dynlib_find(&w, &from, &err));
    CHECK_EQ(err.status, CKPT_UNSUPPORTED);
    CHECK_STR(err.text, "no library (" VARIABLE " names one)");
}

int main(void)
{
    static void (*const each[])(void) = { nothing_loaded, first_is_not_there, other_is_loaded,
                                          program_has_it, variable_names_it,  variable_is_wrong,
                                          there_is_none };
    for (size_t i = 0; i < ARRAY_COUNT(each); i++) {
        int status = -1;
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            each[i]();
            _exit(0);
        }
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
    }
    TEST_CASES(ARRAY_COUNT(each));
    return 0;
}
