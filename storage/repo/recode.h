/* From an image to a coded pack: what save does to a slot, and drain to a stored pack. */
#pragma once

#include "formats/codec.h"
#include "formats/pack.h"

/* Room that the coded body of a slot may need at worst. */
uint64_t recode_bytes_max(uint64_t slot_bytes);
/* Codes `count` chunks, one behind the other, into `to` (cap bytes).  chunks: on entry
 * stored ones, at their offsets in `body` and with their sums; on return as they lie in
 * `to`.  Gaps, and the rest of the last block, become zero; *ret_end is where the last
 * chunk ends. */
enum ckpt_status recode_chunks(struct codec *codec, enum codec_id want, int level,
                               const uint8_t *body, struct pack_chunk *chunks, uint32_t count,
                               uint8_t *to, uint64_t cap, uint64_t *ret_end) CKPT_MUST_CHECK;
