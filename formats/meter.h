/* Every number that a ckptd tells about itself: one name, one unit, one help text.
 *
 * The status page (JSON) holds them under these names; `ckpt status` and `ckpt top` show
 * them; ckptd-metrics gives them to Prometheus.  A name says its unit (_bytes, _seconds);
 * without one it is a count or a number of a training step.  Prometheus' name is made of it:
 *
 *     scope  where on the page         Prometheus                     labels
 *     NODE   counters.NAME             ckpt_NAME                      -
 *     TIER   tiers[].NAME              ckpt_tier_NAME                 tier
 *     JOB    jobs[].NAME               ckpt_job_NAME                  job
 *     KEPT   jobs[].tiers[].NAME       ckpt_job_tier_NAME             job, tier
 *     RANK   sessions[].NAME           ckpt_rank_NAME                 job, rank
 *
 * and what only grows (COUNTER) ends in _total there.  A number that is not known is absent
 * from the page. */
#pragma once

#include "formats/base.h"

enum meter_scope { METER_NODE, METER_TIER, METER_JOB, METER_KEPT, METER_RANK, METER_SCOPES };
enum meter_kind { METER_COUNTER, METER_GAUGE };

/* id, scope, kind, name, help.  Help: one sentence, without a backslash. */
#define METERS(X)                                                                                  \
    X(NODE_UPTIME, NODE, GAUGE, "uptime_seconds", "Time since this worker of ckptd started.")      \
    X(NODE_WORKERS, NODE, COUNTER, "worker_starts",                                                \
      "Workers that this ckptd has started: above 1 one died and was replaced.")                   \
    X(NODE_STOPPING, NODE, GAUGE, "stopping", "1 while ckptd ends, else 0.")                       \
    X(NODE_CONNECTIONS, NODE, COUNTER, "connections", "Connections accepted on the socket.")       \
    X(NODE_REFUSED, NODE, COUNTER, "refused",                                                      \
      "Connections and sessions refused: another user, a launch that failed.")                     \
    X(NODE_HOSTILE, NODE, COUNTER, "hostile", "Messages that broke the protocol.")                 \
    X(NODE_MESSAGES, NODE, COUNTER, "messages", "Messages from trainers.")                         \
    X(NODE_SESSIONS, NODE, COUNTER, "sessions", "Sessions opened by trainers and readers.")        \
    X(NODE_SESSIONS_OPEN, NODE, GAUGE, "sessions_open", "Sessions that are here now.")             \
    X(NODE_PACKS, NODE, COUNTER, "packs", "Packs of saves that became durable here.")              \
    X(NODE_PACK_BYTES, NODE, COUNTER, "pack_bytes", "Bytes of tensors in those packs.")            \
    X(NODE_PACK_SECONDS, NODE, COUNTER, "pack_seconds",                                            \
      "Time that threads spent on encoding and writing those packs.")                              \
    X(NODE_LOAD_BATCHES, NODE, COUNTER, "load_batches", "Reads of restores.")                      \
    X(NODE_LOAD_BYTES, NODE, COUNTER, "load_bytes", "Bytes of tensors that restores read.")        \
    X(NODE_COMMITTED, NODE, COUNTER, "saves_committed", "Saves that became checkpoints.")          \
    X(NODE_ABORTED, NODE, COUNTER, "saves_aborted", "Saves that were given up.")                   \
    X(NODE_JOBS_OUT, NODE, GAUGE, "jobs_out", "Pieces of work queued for or held by threads.")     \
    X(NODE_TROUBLES, NODE, COUNTER, "log_troubles", "Lines of level warn and error in the log.")   \
    X(NODE_ARENA_BYTES, NODE, GAUGE, "arena_bytes", "Memory shared with trainers.")                \
    X(NODE_SLOTS, NODE, GAUGE, "slots", "Slots of that memory.")                                   \
    X(NODE_SLOTS_FREE, NODE, GAUGE, "slots_free", "Slots that are free.")                          \
    X(NODE_SLOTS_QUEUED, NODE, GAUGE, "slots_queued", "Slots that wait to be written.")            \
    X(TIER_LAG, TIER, GAUGE, "lag", "Checkpoints that are to go there and are not there yet.")     \
    X(TIER_LAG_SECONDS, TIER, GAUGE, "lag_seconds", "How long the oldest of them has waited.")     \
    X(TIER_HELD, TIER, COUNTER, "held", "Checkpoints that became complete there.")                 \
    X(TIER_PUT_BYTES, TIER, COUNTER, "put_bytes", "Stored bytes that were put there.")             \
    X(TIER_TROUBLES, TIER, COUNTER, "troubles", "Failures of work on that tier.")                  \
    X(TIER_FAILING, TIER, GAUGE, "failing", "1 while the last thing tried there failed, else 0.")  \
    X(JOB_RANKS, JOB, GAUGE, "ranks", "Ranks that train the job on this node.")                    \
    X(JOB_STEP, JOB, GAUGE, "step", "Newest step that the trainers told of.")                      \
    X(JOB_STAGED, JOB, COUNTER, "parts_staged",                                                    \
      "Ranks' parts of saves that reached the level staged.")                                      \
    X(JOB_COMMITTED, JOB, COUNTER, "checkpoints", "Saves that reached the level local.")           \
    X(JOB_ABORTED, JOB, COUNTER, "saves_aborted", "Saves of the job that were given up.")          \
    X(JOB_AGE, JOB, GAUGE, "since_checkpoint_seconds",                                             \
      "Time since the newest checkpoint began to be saved, or since this launch began.")           \
    X(KEPT_HELD, KEPT, COUNTER, "checkpoints", "Checkpoints of the job that the tier got.")        \
    X(KEPT_STEP, KEPT, GAUGE, "newest_step", "Step of the newest of them.")                        \
    X(KEPT_LOST_SECONDS, KEPT, GAUGE, "rpo_seconds",                                               \
      "Training time that is lost if the job must go on from this tier now.")                      \
    X(KEPT_LOST_STEPS, KEPT, GAUGE, "rpo_steps",                                                   \
      "Training steps that are lost if the job must go on from this tier now.")                    \
    X(RANK_PROGRESS, RANK, GAUGE, "progress", "Step that the rank last told of.")                  \
    X(RANK_BEGUN, RANK, COUNTER, "saves_begun", "Saves that the rank began.")                      \
    X(RANK_COMMITTED, RANK, COUNTER, "saves_committed", "Of them, those that became checkpoints.") \
    X(RANK_FAILED, RANK, COUNTER, "saves_failed", "Of them, those that failed.")                   \
    X(RANK_LEFT, RANK, GAUGE, "left_bytes", "Bytes of its saves and restores still to be moved.")

enum meter_id {
#define METER_ID(id, scope, kind, name, help) METER_##id,
    METERS(METER_ID)
#undef METER_ID
        METER_COUNT
};
struct meter {
    enum meter_scope scope;
    enum meter_kind kind;
    const char *name, *help;
};
extern const struct meter meters[METER_COUNT];

/* The meter of that name there; NULL: there is none. */
const struct meter *meter_find(enum meter_scope scope, const char *name);
/* "ckpt_tier_put_bytes_total" */
#define METER_TEXT 64
char *meter_prometheus(const struct meter *m, char ret[METER_TEXT]);
