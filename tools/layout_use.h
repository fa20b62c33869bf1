/* Layouts in the verbs: the mesh and the layout file as they were given, applied to the
 * tensors of a checkpoint. */
#pragma once

#include "formats/decl.h"
#include "formats/topology.h"
#include "storage/repo/reader.h"

/* What --to and --layout said. */
struct layout_option {
    const char *mesh; /* "tp=4,dp=2"; NULL = the file's; borrowed */
    const char *path; /* of the layout file; NULL = none; borrowed */
    char *text;       /* its bytes; owned */
    size_t len;
};
/* One value of --layout: a mesh (it has '=' and no '/'), or a file, which is read.  Each
 * can be given once: CKPT_INVALID. */
enum ckpt_status layout_option_add(struct layout_option *o, const char *value, struct ckpt_err *err)
    CKPT_MUST_CHECK;
static inline bool layout_option_given(const struct layout_option *o)
{
    return o->mesh || o->path;
}
void layout_option_fini(struct layout_option *o);

/* The tensors of a checkpoint that have bytes (no aliases), in name order, under a
 * topology.  Borrows the reader. */
struct layout_list {
    const struct index_tensor **tensors;
    struct topology_tensor *described;
    size_t count;
    struct topology *topology;
};
enum ckpt_status layout_list_init(struct layout_list *l, struct reader *r,
                                  const struct layout_option *o, struct ckpt_err *err)
    CKPT_MUST_CHECK;
void layout_list_fini(struct layout_list *l);
/* CKPT_INVALID unless there is such a rank. */
enum ckpt_status layout_check_rank(const struct topology *t, uint64_t rank, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Its number in the list, by name; SIZE_MAX if it is not there. */
size_t layout_list_find(const struct layout_list *l, const char *name);
/* The pieces (malloc'ed, *ret_count) of tensor i on a rank.  A locked tensor that is not
 * cut comes as the boxes in which it was saved. */
enum ckpt_status layout_list_pieces(const struct layout_list *l, size_t i, uint32_t rank,
                                    struct topology_shard *ret_shard, struct layout_piece **ret,
                                    size_t *ret_count, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Adds tensor i with its pieces to a declaration, if the rank has any part of it. */
enum ckpt_status layout_list_declare(const struct layout_list *l, size_t i, uint32_t rank,
                                     struct decl *d, struct topology_shard *ret_shard,
                                     struct ckpt_err *err) CKPT_MUST_CHECK;

/* topology_pieces into memory of its own (malloc'ed). */
enum ckpt_status layout_pieces_of(const struct topology *t, size_t i, uint32_t rank,
                                  struct topology_shard *ret_shard, struct layout_piece **ret,
                                  size_t *ret_count, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The boxes in which a tensor was saved, in a dense array of the whole (malloc'ed): how
 * locked tensors are to be had. */
enum ckpt_status layout_saved_pieces(const struct index_tensor *t, struct layout_piece **ret,
                                     size_t *ret_count, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Adds a piece to the last tensor of a declaration that restores. */
enum ckpt_status layout_declare_piece(struct decl *d, const struct layout_piece *piece,
                                      struct ckpt_err *err) CKPT_MUST_CHECK;
