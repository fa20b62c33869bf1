/* Coroutines for tests: stacks that take turns on one thread.
 *
 *      fiber_make(&f, stack, sizeof(stack), run);
 *      while (!done)
 *          fiber_go(&f);           until run calls fiber_yield(&f)
 *
 * The switch is setjmp's, which asks the kernel nothing; swapcontext makes a system call each way.
 * `run` finds what it is to work on in variables of the caller's, and must not return: its last
 * act is to yield.  One that is never gone on with may be made anew on the same stack. */
#pragma once

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <ucontext.h>

struct fiber {
    ucontext_t inside, outside;
    jmp_buf jump_inside, jump_outside;
    bool entered;
};
/* The stack is the caller's, for as long as the fiber is used. */
void fiber_make(struct fiber *f, void *stack, size_t bytes, void (*run)(void));
void fiber_go(struct fiber *f);
void fiber_yield(struct fiber *f);
