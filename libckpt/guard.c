/* Calls that outlive a failed assert: see guard.h. */
#include "libckpt/guard.h"

#include <setjmp.h>

struct guard {
    struct guard *outer;
    const char *what, *file;
    unsigned line;
    jmp_buf back;
};
static _Thread_local struct guard *innermost;

/* The link gives these names: --wrap=__assert_fail. */
_Noreturn void __real___assert_fail(const char *what, const char *file, unsigned line,
                                    const char *function);
_Noreturn void __wrap___assert_fail(const char *what, const char *file, unsigned line,
                                    const char *function);

_Noreturn void __wrap___assert_fail(const char *what, const char *file, unsigned line,
                                    const char *function)
{
    struct guard *g = innermost;
    if (!g)
        __real___assert_fail(what, file, line, function);
    g->what = what;
    g->file = file;
    g->line = line;
    longjmp(g->back, 1);
}

enum ckpt_status guard_run(guard_call call, void *arg, struct ckpt_err *err)
{
    struct guard g = { .outer = innermost };
    enum ckpt_status st;
    innermost = &g;
    if (setjmp(g.back) == 0) {
        st = call(arg, err);
    } else {
        *err = (struct ckpt_err){ 0 }; /* of what was half done */
        st = err_set(err, CKPT_BUG, "internal error at %s:%u: %s does not hold", g.file, g.line,
                     g.what);
    }
    innermost = g.outer;
    return st;
}
