/* What the linker puts in the place of the worker's calls (--wrap, tests/CMakeLists.txt),
 * and the real ones behind it. */
#pragma once

#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/types.h>
#include <time.h>

#include "ckptd/control.h"
#include "ckptd/log.h"
#include "storage/crew.h"

struct sockaddr;

#define SIM_WRAP(type, name, args) \
    type __real_##name args;       \
    type __wrap_##name args

SIM_WRAP(int, epoll_create1, (int flags));
SIM_WRAP(int, epoll_ctl, (int epoll, int op, int fd, struct epoll_event *ev));
SIM_WRAP(int, epoll_wait, (int fd, struct epoll_event *events, int cap, int timeout_ms));
SIM_WRAP(int, eventfd, (unsigned initial, int flags));
SIM_WRAP(int, signalfd, (int fd, const sigset_t *mask, int flags));
SIM_WRAP(int, accept4, (int fd, struct sockaddr *to, unsigned *len, int flags));
SIM_WRAP(ssize_t, read, (int fd, void *to, size_t bytes));
SIM_WRAP(ssize_t, recv, (int fd, void *to, size_t bytes, int flags));
SIM_WRAP(int, close, (int fd));
SIM_WRAP(int, fcntl, (int fd, int cmd, long arg));
SIM_WRAP(void, _exit, (int status)) __attribute__((noreturn));
SIM_WRAP(void *, malloc, (size_t bytes));
SIM_WRAP(void *, calloc, (size_t n, size_t bytes));
SIM_WRAP(void *, realloc, (void *p, size_t bytes));
SIM_WRAP(void *, aligned_alloc, (size_t align, size_t bytes));
SIM_WRAP(char *, strdup, (const char *text));
SIM_WRAP(void, free, (void *p));
SIM_WRAP(int, clock_gettime, (clockid_t clock, struct timespec *ret));
SIM_WRAP(int, nanosleep, (const struct timespec *ts, struct timespec *rest));
SIM_WRAP(ssize_t, getrandom, (void *to, size_t bytes, unsigned flags));
SIM_WRAP(int, pthread_create,
         (pthread_t * ret, const pthread_attr_t *attr, void *(*run)(void *), void *arg));

SIM_WRAP(int, control_run, (struct control * c));
SIM_WRAP(int64_t, jobs_now_ns, (void));
SIM_WRAP(int64_t, jobs_wall_ns, (void));
SIM_WRAP(void, log_line, (enum log_level level, const char *what, const char *fmt, ...))
CKPT_PRINTF(3, 4);
SIM_WRAP(enum ckpt_status, peer_of, (int fd, struct peer *ret, struct ckpt_err *err));
SIM_WRAP(enum ckpt_status, peer_allowed, (const struct peer *p, struct ckpt_err *err));
SIM_WRAP(enum ckpt_status, peer_check_pidfd,
         (const struct peer *p, int pidfd, struct ckpt_err *err));
SIM_WRAP(bool, peer_shares_fate, (const struct peer *p, bool client_says, bool env_says));
SIM_WRAP(void, rundir_say, (const struct rundir *r, const char *role));
SIM_WRAP(enum ckpt_status, rundir_node,
         (const struct rundir *r, const char *store, uint8_t ret[16], struct ckpt_err *err));
SIM_WRAP(enum ckpt_status, store_open,
         (const char *url, const struct store_options *options, struct store **ret,
          struct ckpt_err *err));
SIM_WRAP(void, store_close, (struct store * s));
SIM_WRAP(bool, store_url_shared, (const char *url));
SIM_WRAP(void, store_to_text, (const struct store *s, char *buf, size_t cap));
SIM_WRAP(enum ckpt_status, repo_probe, (struct store * s, struct ckpt_err *err));
SIM_WRAP(enum ckpt_status, repo_open,
         (struct store * s, bool create, struct record_repo *ret, struct ckpt_err *err));

SIM_WRAP(bool, keep_add,
         (const struct keep *k, const uint8_t session[16], enum kept_kind kind, uint32_t index,
          int fd));
SIM_WRAP(void, keep_drop,
         (const struct keep *k, const uint8_t session[16], enum kept_kind kind, uint32_t index));
SIM_WRAP(void, keep_ready, (const struct keep *k));
SIM_WRAP(enum ckpt_status, ledger_new,
         (const char *name, struct ledger *ret, struct ckpt_err *err));
SIM_WRAP(enum ckpt_status, ledger_open,
         (int fd, struct ledger *ret, struct session *ret_session, struct ckpt_err *err));
SIM_WRAP(void, ledger_close, (struct ledger * l));
SIM_WRAP(void, ledger_commit, (struct ledger * l, const struct session *s));
SIM_WRAP(enum ckpt_status, ledger_op_new,
         (const struct ledger *l, uint32_t index, uint32_t image_slots, uint64_t chunks,
          struct ledger_op *ret, struct ckpt_err *err));
SIM_WRAP(enum ckpt_status, ledger_op_open,
         (const struct ledger *l, uint32_t index, uint32_t image_slots, uint64_t chunks,
          struct ledger_op *ret, struct ckpt_err *err));
SIM_WRAP(void, ledger_op_close,
         (const struct ledger *l, uint32_t index, struct ledger_op *op, bool void_it));
SIM_WRAP(enum ckpt_status, arena_new,
         (const char *who, uint64_t bytes, uint32_t numa, struct arena *ret, uint64_t *ret_left,
          struct ckpt_err *err));
SIM_WRAP(enum ckpt_status, arena_open,
         (int fd, uint64_t bytes, struct arena *ret, struct ckpt_err *err));
SIM_WRAP(void, arena_close, (struct arena * a));
SIM_WRAP(enum ckpt_status, wire_memfd_map,
         (int fd, size_t len, const void **ret, struct ckpt_err *err));
SIM_WRAP(enum ckpt_status, decl_decode,
         (const void *bytes, size_t len, uint64_t slot_bytes, struct decl *ret,
          struct ckpt_err *err));
SIM_WRAP(enum ckpt_status, decl_finish,
         (struct decl * d, uint64_t slot_bytes, struct ckpt_err *err));

SIM_WRAP(enum ckpt_status, wire_send, (int fd, const struct wire_msg *m, struct ckpt_err *err));
SIM_WRAP(enum ckpt_status, wire_recv, (int fd, struct wire_msg *m, struct ckpt_err *err));

SIM_WRAP(enum ckpt_status, crew_new,
         (const struct crew_options *options, struct crew **ret, struct ckpt_err *err));
SIM_WRAP(void, crew_submit, (struct crew * c, struct crew_job *job));
SIM_WRAP(struct crew_job *, crew_done, (struct crew * c));
SIM_WRAP(void, crew_free, (struct crew * c));
SIM_WRAP(void, plan_free, (struct plan * p));
SIM_WRAP(void, reader_close, (struct reader * r));
