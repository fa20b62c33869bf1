/* The model of the large benchmarks: a transformer with the tensors of a 405B Llama
 * (126 layers, 16384 wide) and its optimizer, by name and shape, and what each rank of a
 * layout holds of it.  No bytes of tensors anywhere.
 *
 * A parameter is four tensors: bf16 weight, fp32 master, Adam's two moments. */
#pragma once

#include "formats/decl.h"

enum scale_cut {             /* how tensor parallelism cuts a weight */
                 SCALE_ROWS, /* dimension 0: q k v, gate, up, embedding, head */
                 SCALE_COLUMNS,
                 SCALE_WHOLE, /* norms: every rank has it */
};
struct scale_param {
    char name[64];
    enum scale_cut cut;
    uint32_t ndim;
    uint64_t shape[2];
    uint32_t layer; /* embedding: as layer 0; last norm and head: as the last one */
};
struct scale_model {
    struct scale_param *params;
    size_t count;
    uint32_t layers;
};
enum scale_kind {
    SCALE_FSDP, /* each tensor's dimension 0 over all ranks, as torch.chunk cuts */
    SCALE_MESH, /* tensor, pipeline and data parallel, ZeRO-1: flat optimizer over dp */
};
struct scale_layout {
    enum scale_kind kind;
    uint32_t world, tp, pp, dp; /* SCALE_MESH: rank = (pp * dp_size + dp) * tp_size + tp */
};

/* `layers` 126 and `shrink` 1 are the real thing; every width is divided by shrink (a
 * power of two up to 16).  CKPT_NO_MEMORY. */
enum ckpt_status scale_model_init(struct scale_model *m, uint32_t layers, uint32_t shrink)
    CKPT_MUST_CHECK;
void scale_model_fini(struct scale_model *m);
/* "fsdp:16384" or "tp=8,pp=16,dp=128"; false if it is neither. */
bool scale_layout_parse(const char *text, struct scale_layout *ret);
/* What `rank` holds, finished for slots of slot_bytes; decl_fini is the caller's. */
enum ckpt_status scale_decl(const struct scale_model *m, const struct scale_layout *l,
                            uint32_t rank, uint64_t slot_bytes, struct decl *ret,
                            struct ckpt_err *err) CKPT_MUST_CHECK;
