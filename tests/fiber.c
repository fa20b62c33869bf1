/* Coroutines.  See fiber.h. */
#undef _FORTIFY_SOURCE /* its longjmp takes one to another stack for a mistake */
#include "fiber.h"

#include "check.h"

/* AddressSanitizer takes a longjmp for the end of all frames below it.  It knows swapcontext, but
 * with each switch clears all that it knows of a stack that the context names. */
#ifdef __SANITIZE_ADDRESS__
#define BY_CONTEXT true
#else
#define BY_CONTEXT false
#endif

void fiber_make(struct fiber *f, void *stack, size_t bytes, void (*run)(void))
{
    CHECK(getcontext(&f->inside) == 0);
    f->inside.uc_stack.ss_sp = stack;
    f->inside.uc_stack.ss_size = bytes;
    f->inside.uc_link = NULL;
    makecontext(&f->inside, run, 0);
    f->inside.uc_stack = (stack_t){ 0 };
    f->entered = false;
}

void fiber_go(struct fiber *f)
{
    if (BY_CONTEXT) {
        CHECK(swapcontext(&f->outside, &f->inside) == 0);
        return;
    }
    if (_setjmp(f->jump_outside) != 0)
        return;
    if (f->entered)
        _longjmp(f->jump_inside, 1);
    f->entered = true;
    setcontext(&f->inside);
    CHECK(!"entered");
}

void fiber_yield(struct fiber *f)
{
    if (BY_CONTEXT) {
        CHECK(swapcontext(&f->inside, &f->outside) == 0);
        return;
    }
    if (_setjmp(f->jump_inside) == 0)
        _longjmp(f->jump_outside, 1);
}
