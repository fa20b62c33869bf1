/* A library that is found at run time, so that nothing of it is needed to build or load ours.
 *
 * Which one: the one whose functions the process already exposes, then one of `names` that is
 * already loaded (a framework's own), then one on the search path.  A variable of the environment
 * names another one, and only that.  It stays loaded until the process ends: others may use it. */
#pragma once

#include "formats/base.h"

struct dynlib_wish {
    const char *variable;     /* of the environment */
    const char *function;     /* by which the process's own copy is known; NULL: not that one */
    const char *const *names; /* as dlopen takes them, best first */
    size_t count;
    const char *absent; /* what to say if there is none */
};

/* A handle, and where it is from: a name, or "the program" (the environment's or a constant).
 * NULL: err says what was looked for (CKPT_UNSUPPORTED). */
void *dynlib_find(const struct dynlib_wish *wish, const char **ret_from, struct ckpt_err *err);
/* Fills a pointer to a function; false, and NULL there: the library has none of that name. */
bool dynlib_take(void *lib, const char *name, void *ret_function);
