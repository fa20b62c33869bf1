/* Whose saves lie in a node's own directory (`--local`), where nothing is decided.
 *
 * The name of an attempt says job, epoch and step, and not its home: two homes count alike.  So
 * before a save puts anything there, its epoch is marked with the home's uuid.  What is marked by
 * another home, too, or by none, is never taken away because of what this one says. */
#pragma once

#include "storage/repo/repo.h"

struct owner {
    bool ours, others; /* marks there are of that epoch, ... */
    bool any;          /* ... and of any: it is a node's own directory */
};

/* home: its ckpt.repo. */
enum ckpt_status owner_mark(struct store *tier, const char *job, uint64_t epoch,
                            const struct record_repo *home, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status owner_look(struct store *tier, const char *job, uint64_t epoch,
                            const struct record_repo *home, struct owner *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
