/* Copying past the caches: non-temporal stores where the processor has them. */
#include "formats/bulk.h"

#define STREAM_MIN (UINT64_C(256) << 10) /* what is less in all may be in a cache, and stay there */
#define RUN_MIN    1024                  /* in shorter runs too many lines are written by halves */

#if defined(__x86_64__)

#include <emmintrin.h>

#define LINE 64

/* Whole lines; `to` lies on a line. */
static void stream_lines(unsigned char *to, const unsigned char *from, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += LINE) {
        const __m128i *in = (const __m128i *)(const void *)(from + at);
        __m128i *out = (__m128i *)(void *)(to + at);
        __m128i a = _mm_loadu_si128(in), b = _mm_loadu_si128(in + 1);
        __m128i c = _mm_loadu_si128(in + 2), d = _mm_loadu_si128(in + 3);
        _mm_stream_si128(out, a);
        _mm_stream_si128(out + 1, b);
        _mm_stream_si128(out + 2, c);
        _mm_stream_si128(out + 3, d);
    }
}

static void stream_run(unsigned char *to, const unsigned char *from, size_t bytes)
{
    size_t head = -(uintptr_t)to % LINE;
    size_t lines = (bytes - head) / LINE * LINE;
    memcpy(to, from, head);
    stream_lines(to + head, from + head, lines);
    memcpy(to + head + lines, from + head + lines, bytes - head - lines);
}

void bulk_copy_runs(void *restrict to, size_t to_step, const void *restrict from,
                    ptrdiff_t from_step, size_t bytes, size_t count)
{
    unsigned char *out = to;
    const unsigned char *in = from;
    bool stream = bytes >= RUN_MIN && count >= div_up(STREAM_MIN, bytes);
    for (size_t i = 0; i < count; i++, out += to_step, in += from_step) {
        if (stream)
            stream_run(out, in, bytes);
        else
            memcpy(out, in, bytes);
    }
    if (stream)
        _mm_sfence(); /* such stores are ordered by nothing else: who is told next must see them */
}

#else

void bulk_copy_runs(void *restrict to, size_t to_step, const void *restrict from,
                    ptrdiff_t from_step, size_t bytes, size_t count)
{
    unsigned char *out = to;
    const unsigned char *in = from;
    for (size_t i = 0; i < count; i++, out += to_step, in += from_step)
        memcpy(out, in, bytes);
}

#endif

void bulk_copy(void *restrict to, const void *restrict from, size_t bytes)
{
    bulk_copy_runs(to, 0, from, 0, bytes, 1);
}
