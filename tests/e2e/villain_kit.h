/* What hostile clients have in common: the right beginning of a session, and ways to say
 * what no good client would.  One villain a process: its state is the process's. */
#pragma once

#include "e2e/villains.h"
#include "unit/daemon_client.h"

#include "check.h"

#define WORLD    65536 /* ranks of the villains' launch: more than there will be sessions */
#define ELEMENTS UINT64_C(5000000)
#define FDS_MANY 253 /* as many as the kernel lets through at once */

extern const struct villain *vk_self;
extern unsigned long long vk_rnd;
extern struct wire_msg vk_out, vk_in;
extern struct buf vk_body; /* a right declaration of one rank */

void vk_begin(const struct villain *v, unsigned long long seed);
uint64_t vk_any(uint64_t n); /* below n */
void vk_count(unsigned n);   /* cases */
void vk_pause_ms(long ms);

/* Sends bytes as they are, with any number of descriptors; false if nobody listens. */
bool vk_say(int fd, const void *bytes, size_t len, const int *fds, size_t fd_count);
bool vk_say_out(int fd); /* vk_out */
/* The next message, in vk_in; false once the daemon has closed.  It may close, but not fall
 * silent. */
bool vk_hear_any(int fd);
/* The next message of that type; the others on the way are read over. */
bool vk_hear(int fd, unsigned type);
/* Reads what is there; false once the daemon has closed. */
bool vk_read_over(int fd);
void vk_hear_end(int fd); /* until it closes; closes too */
int vk_connect(void);

/* Builds a message with the session's next number in vk_out. */
void vk_numbered(struct tc *c, enum wire_type type, const void *fixed);
/* A session; each is a rank of its own. */
void vk_open_session(struct tc *c);
/* STATE with this body; the type of the answer, 0 when the daemon closed. */
unsigned vk_ask_state(struct tc *c, int fd, uint64_t bytes);
/* A sealed state; its arena's descriptor stays open in *ret_fd, if that is given. */
void vk_open_state(struct tc *c, int *ret_fd);
/* A save with its first slot granted; that slot. */
uint32_t vk_open_save(struct tc *c);
/* A session; depth 1: with a state; 2: and a save. */
void vk_begin_to(struct tc *c, unsigned depth);
int vk_own_pidfd(void);
/* HELLO with `sent` descriptors of which the head tells `told`; it must be refused. */
void vk_say_hello(int fd, const int *fds, uint32_t told, size_t sent);

/* villains_fds.c, villains_links.c */
void run_pidfd(void);
void run_body(void);
void run_scribble(void);
void run_arena(void);
void run_load(void);
void run_connect(void);
void run_crowd(void);
void run_stall(void);
void run_deaf(void);
void run_orphan(void);
