/* See dynlib.h. */
#include "libckpt/dynlib.h"

#include <dlfcn.h>

static void *first_of(const struct dynlib_wish *w, int flags, const char **ret_from)
{
    void *lib = NULL;
    for (size_t i = 0; !lib && i < w->count; i++) {
        *ret_from = w->names[i];
        lib = dlopen(w->names[i], RTLD_NOW | RTLD_LOCAL | flags);
    }
    return lib;
}

void *dynlib_find(const struct dynlib_wish *w, const char **ret_from, struct ckpt_err *err)
{
    const char *given = getenv(w->variable); // NOLINT(concurrency-mt-unsafe): only read
    void *lib = NULL;
    if (given && *given) {
        *ret_from = given;
        lib = dlopen(given, RTLD_NOW | RTLD_LOCAL);
        if (!lib)
            (void)!err_set(err, CKPT_UNSUPPORTED, "%s: %.300s", w->variable, dlerror());
        return lib;
    }
    *ret_from = "the program";
    if (w->function && dlsym(RTLD_DEFAULT, w->function))
        lib = dlopen(NULL, RTLD_NOW);
    if (!lib)
        lib = first_of(w, RTLD_NOLOAD, ret_from);
    if (!lib)
        lib = first_of(w, 0, ret_from);
    if (!lib)
        (void)!err_set(err, CKPT_UNSUPPORTED, "%s (%s names one)", w->absent, w->variable);
    return lib;
}

/* ISO C has no cast from void * to a function pointer. */
bool dynlib_take(void *lib, const char *name, void *ret_function)
{
    void *s = dlsym(lib, name);
    memcpy(ret_function, &s, sizeof(s));
    return s != NULL;
}
