/* Copying past the caches: non-temporal stores where the processor has them. */
#include "formats/bulk.h"

#define STREAM_MIN (UINT64_C(256) << 10) /* a shorter run may be in a cache, and stay there */

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
    _mm_sfence(); /* such stores are ordered by nothing else: who is told next must see them */
}

void bulk_copy(void *restrict to, const void *restrict from, size_t bytes)
{
    unsigned char *out = to;
    const unsigned char *in = from;
    if (bytes < STREAM_MIN) {
        memcpy(out, in, bytes);
        return;
    }
    size_t head = -(uintptr_t)out % LINE;
    size_t lines = (bytes - head) / LINE * LINE;
    memcpy(out, in, head);
    stream_lines(out + head, in + head, lines);
    memcpy(out + head + lines, in + head + lines, bytes - head - lines);
}

#else

void bulk_copy(void *restrict to, const void *restrict from, size_t bytes)
{
    memcpy(to, from, bytes);
}

#endif
