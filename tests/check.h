/* The whole test framework: CHECK prints where and what, then fails the process.
 * A test file is a main() that calls its cases; `TEST_CASES(n)` at the end
 * prints how much was exercised and fails if that is nothing. */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: %s: check failed: %s\n", __FILE__, __LINE__, __func__, #cond); \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)
/* Both sides are printed as integers. */
#define CHECK_EQ(a, b)                                                                        \
    do {                                                                                      \
        long long a_ = (long long)(a), b_ = (long long)(b);                                   \
        if (a_ != b_) {                                                                       \
            fprintf(stderr, "%s:%d: %s: %s = %lld, expected %s = %lld\n", __FILE__, __LINE__, \
                    __func__, #a, a_, #b, b_);                                                \
            exit(1);                                                                          \
        }                                                                                     \
    } while (0)
#define CHECK_STR(a, b)                                                                      \
    do {                                                                                     \
        const char *a_ = (a), *b_ = (b);                                                     \
        if (strcmp(a_, b_) != 0) {                                                           \
            fprintf(stderr, "%s:%d: %s: %s = \"%s\", expected \"%s\"\n", __FILE__, __LINE__, \
                    __func__, #a, a_, b_);                                                   \
            exit(1);                                                                         \
        }                                                                                    \
    } while (0)
/* A call that must succeed; prints the status by name when it does not. */
#define CHECK_OK(call)                                                                          \
    do {                                                                                        \
        enum ckpt_status st_ = (call);                                                          \
        if (st_ != CKPT_OK) {                                                                   \
            fprintf(stderr, "%s:%d: %s: %s returned %s\n", __FILE__, __LINE__, __func__, #call, \
                    status_name(st_));                                                          \
            exit(1);                                                                            \
        }                                                                                       \
    } while (0)
#define TEST_CASES(n)                  \
    do {                               \
        long long n_ = (long long)(n); \
        printf("%lld cases\n", n_);    \
        if (n_ <= 0)                   \
            exit(1);                   \
    } while (0)
/* Skips the test with a reason that the summary shows. */
#define TEST_SKIP(reason)             \
    do {                              \
        printf("SKIP: %s\n", reason); \
        exit(77);                     \
    } while (0)

/* Under a sanitizer the long tests do a tenth: each way through the code, not each case. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TEST_TENTH 10
#else
#define TEST_TENTH 1
#endif
/* A tenth of `n` then, and at least one. */
#define TEST_COUNT(n) ((n) < TEST_TENTH ? 1 : (n) / TEST_TENTH)

/* For what a test computes over many bytes of memory that no other thread knows yet, or at all:
 * ThreadSanitizer does not look at each access. */
#define TEST_UNSEEN __attribute__((no_sanitize("thread")))

/* A seeded generator for property tests (splitmix64); print the seed, always. */
TEST_UNSEEN static inline unsigned long long test_rand(unsigned long long *state)
{
    unsigned long long z = (*state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}
/* The seed of this run: TEST_SEED, else the given default. */
static inline unsigned long long test_seed(unsigned long long fallback)
{
    const char *s = getenv("TEST_SEED");
    unsigned long long seed = s ? strtoull(s, NULL, 0) : fallback;
    printf("seed %llu\n", seed);
    return seed;
}
