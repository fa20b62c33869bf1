/* The functions of a library that is none, by name: how often each was called, and which call is
 * to fail.  No lock: the library has one. */
#pragma once

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAMED_CALLS_MAX 40

struct named_call {
    const char *name;
    unsigned count, fail_at; /* fail_at: the nth next one, 0 = none */
    int error;
    unsigned fail_from; /* this call and later ones, for the time being; 0: none */
    bool sticky;        /* for the library: so does everything else from then on */
    unsigned hold_from; /* for the library: this call and later ones do not come back; 0: all do */
};
struct named_calls {
    struct named_call of[NAMED_CALLS_MAX];
};

static inline struct named_call *named_call(struct named_calls *all, const char *name)
{
    size_t i = 0;
    while (i < NAMED_CALLS_MAX && all->of[i].name && strcmp(all->of[i].name, name) != 0)
        i++;
    if (i == NAMED_CALLS_MAX) {
        fputs("too many names of functions\n", stderr);
        abort();
    }
    all->of[i].name = name;
    return &all->of[i];
}

/* Asked right behind the count, and again until it is false. */
static inline bool named_call_held(const struct named_call *f)
{
    return f->hold_from && f->count >= f->hold_from;
}

/* Counts a call; true: this is the one to fail. */
static inline bool named_call_fails(struct named_call *f)
{
    f->count++;
    return (f->fail_at && --f->fail_at == 0) || (f->fail_from && f->count >= f->fail_from);
}
