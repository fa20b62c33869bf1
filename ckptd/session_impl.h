/* Between the parts of the session machine, and for nobody else:
 *
 *   session.c        tables, states, dispatch
 *   session_state.c  where a state's slots lie, and how it is forgotten
 *   session_save.c   saves
 *   session_load.c   restores
 *   session_life.c   the client comes, goes, dies; the next worker goes on */
#pragma once

#include "ckptd/session.h"

/* -- session.c -- */
/* Appends an action; op: index in ops, finals or states. */
struct session_action *session_act(struct session_actions *out, enum session_action_kind kind,
                                   uint32_t op);
uint32_t session_op_index(const struct session *s, const struct session_op *op);
/* A slot that nobody needs: back to the pool, or never used again. */
void session_release(struct session *s, uint32_t slot);
/* All slots of an op that `owner` has. */
void session_release_op(struct session *s, uint64_t op, enum slot_owner owner);
/* Remembers how an op ended; the index in finals. */
uint32_t session_add_final(struct session *s, const struct session_op *op);
/* The same, and tells the client. */
uint32_t session_tell(struct session *s, struct session_op *op, struct session_actions *out);
void session_set_failure(struct session_op *op, enum ckpt_status status, const char *text);
/* What is forgotten, and what a dead client leaves, goes when nobody uses it any more. */
void session_drop_quiet(struct session *s, struct session_actions *out);
/* What saves and loads have in common: the state is ready, the id is new. */
enum ckpt_status session_new_op(struct session *s, const struct session_event *ev, int64_t now,
                                struct session_op *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
struct session_op *session_free_op(struct session *s); /* NULL: all are in use */

/* -- session_state.c -- */
/* Where `slots` slots in a row are free; UINT32_MAX: nowhere. */
uint32_t session_place(const struct session *s, uint32_t slots);
enum ckpt_status session_on_forget(struct session *s, const struct session_event *ev,
                                   struct session_actions *out, struct ckpt_err *err)
    CKPT_MUST_CHECK;
void session_on_forgotten(struct session *s, uint32_t state);

/* -- session_save.c -- */
/* Gives free slots to the oldest saves that want them. */
void session_grant(struct session *s, struct session_actions *out);
/* The rank's part failed: tells the client, gives the slots back, makes it known. */
void session_fail_op(struct session *s, struct session_op *op, enum ckpt_status status,
                     const char *text, struct session_actions *out);
/* Frees an op when nothing of it is out any more. */
void session_end_if_quiet(struct session *s, struct session_op *op, struct session_actions *out);
enum ckpt_status session_on_save(struct session *s, const struct session_event *ev, int64_t now,
                                 struct session_actions *out, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status session_on_full(struct session *s, const struct session_event *ev, int64_t now,
                                 struct session_actions *out, struct ckpt_err *err) CKPT_MUST_CHECK;
void session_on_fail(struct session *s, const struct session_event *ev,
                     struct session_actions *out);
void session_on_begun(struct session *s, struct session_op *op, const struct session_event *ev,
                      struct session_actions *out);
void session_on_packed(struct session *s, struct session_op *op, const struct session_event *ev,
                       int64_t now, struct session_actions *out);
void session_on_finished(struct session *s, struct session_op *op, const struct session_event *ev,
                         int64_t now, struct session_actions *out);
/* Sends out again what waits for its home, when it is time. */
void session_look_for_home(struct session *s, int64_t now, struct session_actions *out);
void session_on_failed_put(struct session *s, struct session_op *op, struct session_actions *out);
void session_on_decided(struct session *s, struct session_op *op, const struct session_event *ev,
                        struct session_actions *out);

/* -- session_load.c -- */
void session_end_load(struct session *s, struct session_op *op, enum ckpt_status status,
                      const char *text, struct session_actions *out);
enum ckpt_status session_on_load(struct session *s, const struct session_event *ev, int64_t now,
                                 struct session_actions *out, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status session_on_back(struct session *s, const struct session_event *ev,
                                 struct session_actions *out, struct ckpt_err *err) CKPT_MUST_CHECK;
void session_on_loaded(struct session *s, struct session_op *op, const struct session_event *ev,
                       struct session_actions *out);

/* -- session_life.c -- */
void session_on_attach(struct session *s, struct session_actions *out);
void session_on_detach(struct session *s, int64_t now, struct session_actions *out);
void session_on_dead(struct session *s, const char *how, struct session_actions *out);
/* Everything that needs the client fails; what is staged goes on without it. */
void session_give_up(struct session *s, enum ckpt_status status, const char *how,
                     struct session_actions *out);
void session_on_tick(struct session *s, int64_t now, struct session_actions *out);
void session_on_replay(struct session *s, int64_t now, struct session_actions *out);
