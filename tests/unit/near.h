/* Where pages of memory are to come from: what mbind and get_mempolicy say. */
#pragma once

#include <linux/mempolicy.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"

#define NEAR_NODES 1024
#define NEAR_WORD  (8 * sizeof(unsigned long))

/* The one node that is preferred for the page at `p`; -1: none is. */
static inline int near_of(void *p)
{
    unsigned long nodes[NEAR_NODES / NEAR_WORD] = { 0 };
    int mode = -1;
    CHECK_EQ(syscall(SYS_get_mempolicy, &mode, nodes, NEAR_NODES + 1, p, MPOL_F_ADDR), 0);
    if (mode != MPOL_PREFERRED)
        return -1;
    for (int n = 0; n < NEAR_NODES; n++)
        if (nodes[n / NEAR_WORD] >> (n % NEAR_WORD) & 1)
            return n;
    return -1;
}

/* False where the kernel, or a sandbox, has no memory policies. */
static inline bool near_can_be(int node)
{
    const size_t bytes = 4096;
    unsigned long nodes = 1UL << node;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    bool can = syscall(SYS_mbind, p, bytes, MPOL_PREFERRED, &nodes, NEAR_WORD, 0) == 0;
    munmap(p, bytes);
    return can;
}
