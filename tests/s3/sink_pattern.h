/* What the sink server's big objects hold. */
#pragma once

#include "formats/base.h"

#define SINK_PATTERN_BYTES (UINT64_C(64) << 20)

/* The byte at offset i of every object: different in each 4 KiB block, without runs. */
static inline uint8_t sink_pattern_byte(uint64_t i)
{
    i %= SINK_PATTERN_BYTES;
    return (uint8_t)(((i >> 12) * UINT64_C(0x9e3779b1) + (i & 4095) * 167) >> 3);
}
