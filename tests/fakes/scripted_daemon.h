/* A peer for libckpt, inside the test's process: one thread that speaks formats/wire.h on
 * a socket in a temporary directory, keeps what was saved in memory, gives it back on
 * restore, and misbehaves as its script says.  It checks the client on the way: numbers
 * without gaps, repeats with the same bytes, each slot filled exactly once. */
#pragma once

#include <pthread.h>

#include "formats/decl.h"
#include "formats/wire.h"

#define FAKE_STATES 8
#define FAKE_LOG    4096

enum fake_drop {
    FAKE_KEEP = 0,
    FAKE_DROP_BEFORE, /* the message is lost with the connection */
    FAKE_DROP_AFTER,  /* it took effect, only its answer is lost */
};
enum fake_lie {
    FAKE_HONEST = 0,
    FAKE_TENSOR,   /* a fragment of a tensor that is not there */
    FAKE_PIECE,    /* of a piece that is not there */
    FAKE_OUTSIDE,  /* outside its piece */
    FAKE_OFFSET,   /* beyond the slot */
    FAKE_NDIM,     /* 17 dimensions */
    FAKE_CUT,      /* a message that ends too early */
    FAKE_EXTRA,    /* bytes after the last fragment */
    FAKE_LOSES,    /* leaves out fragments */
    FAKE_HEADLESS, /* the first bytes of objects */
    FAKE_SHORT,    /* all but the first bytes of objects */
    FAKE_DTYPE,    /* fragments in a type that nobody asked to convert */
    FAKE_SLOT,     /* a slot that is not there */
    FAKE_GRANT,    /* grants a slot that is not there */
    FAKE_MANY,     /* grants one slot more than the state has */
    FAKE_EARLY,    /* says local before anything was handed over */
    FAKE_LEVEL,    /* a level that does not exist */
    FAKE_NOT_DONE, /* ends a load without its last level */
    FAKE_MAGIC,    /* a message without the magic */
    FAKE_VERSION,  /* a message of another version */
    FAKE_LENGTH,   /* a message whose length is wrong */
    FAKE_MIXED,    /* fragments for a save */
};
/* What the daemon does; changed by fake_set only. */
struct fake_script {
    uint32_t slots;             /* of each arena; 0 = 2 */
    uint32_t slot_bytes;        /* 0 = the smallest */
    uint32_t grants;            /* how many it gives per save; UINT32_MAX = all */
    uint32_t hold_state;        /* a state that gets none at all */
    uint32_t repeat_grants;     /* each is said so often again */
    uint32_t level_max;         /* of saves; 0 = local */
    bool not_final;             /* keeps saves open after level_max */
    bool process;               /* says staged (process) instead of staged */
    bool forget;                /* a resumed session is not known */
    bool lose_answer;           /* the next session is taken up, and the connection lost */
    bool late_state;            /* answers STATE late; nothing about the state may come before */
    bool silent;                /* answers neither SAVE nor LOAD */
    bool refuse_connections;    /* closes each at once */
    bool mute;                  /* takes connections and does not answer HELLO */
    bool unsealed, small_arena; /* an arena that could shrink; one that is too small */
    bool omit_objects;          /* restores tensors only */
    uint64_t epoch;             /* of HELLO_OK; 0 = 3 */
    uint32_t hello_flags;       /* of HELLO_OK, beside HAS_POINT */
    struct wire_name point;     /* attempt 0 = none */
    enum ckpt_status refuse_hello, refuse_state, refuse_op;
    enum fake_drop drop; /* when the drop_at-th message of drop_type has come */
    uint32_t drop_type, drop_at;
    uint32_t loads_gone; /* so many loads end with DAEMON_GONE */
    enum fake_lie lie;
    /* What a REPORT before each load, and LISTED, carry; NULL = no report, an empty list. */
    const void *body;
    size_t body_len;
    uint64_t body_says; /* how long it says it is; 0 = as long as it is */
    bool body_open;     /* the memfd is not sealed */
    enum ckpt_status refuse_list;
    uint32_t lists_busy; /* so many are refused first: another is being made */
    const char *text;
};
struct fake_seen {
    uint32_t hellos, resumed, saves, fulls, loads, backs, fails, cancels, progress, restored, byes;
    uint32_t numa; /* of the last STATE */
    uint32_t repeats, drops, states, repeated_grants, forgets;
    uint32_t last_status; /* of FAIL or RESTORED */
    char fail_text[512], launch[300], job[200], resume[100];
    uint32_t last_try, load_flags, lists, list_flags;
    struct wire_name list_point;
    uint8_t rules[256]; /* of the last LOAD or LIST */
    size_t rules_len;
    struct wire_name load_point;
    uint32_t witnesses; /* FULLs that had one; the last one's: */
    uint64_t witness;
    struct digest witness_digest;
    bool wrong; /* the client broke a rule: `why` */
    char why[256];
};
struct fake_daemon;
struct fake_daemon *fake_start(const char *path); /* the socket's path; NULL = its own */
void fake_stop(struct fake_daemon *d);
const char *fake_path(const struct fake_daemon *d);
void fake_set(struct fake_daemon *d, const struct fake_script *s);
struct fake_seen fake_seen(struct fake_daemon *d);
/* Drops the present connection. */
void fake_drop(struct fake_daemon *d);
/* Waits until *field-like condition: so many messages of this type have come. */
void fake_await(struct fake_daemon *d, unsigned type, uint32_t count);
/* The bytes of image slot `slot` as last saved in state `state`; NULL = never filled. */
const uint8_t *fake_image(struct fake_daemon *d, uint32_t state, uint32_t slot);
