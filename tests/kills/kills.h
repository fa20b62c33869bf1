/* Kill by phase: one trial brings a save, a start or a restore to a chosen phase, sees that
 * it is there, kills, starts again what died, and checks everything that was promised. */
#pragma once

#include "e2e/kit.h"
#include "kills/aim.h"

#define WORLD 2

/* Where the victim is when it is hit. */
enum phase {
    IN_COPYING,  /* both ranks wait for slots; no rank is staged */
    IN_STAGED,   /* all of the state is in ckptd's hands, nothing of it in the store */
    IN_ENCODING, /* staged; a data thread digests or codes */
    IN_PUT,      /* staged; a pack is being written or named */
    IN_MANIFEST, /* packs are there; a manifest, its account or their names are being put */
    IN_PUBLISH,  /* all manifests are there; index, commit or h/ are being put */
    IN_RESOLVE,  /* a launch is claimed or decided */
    IN_LOAD,     /* a restore reads */
    PHASES,
};
extern const char *const phase_names[PHASES];

enum victims { TRAINER = 1, WORKER = 2, KEEPER = 4 };

struct trial {
    unsigned long long seed;
    char job[32];
    enum phase phase;
    unsigned victims;  /* enum victims, joined */
    uint32_t dead;     /* TRAINER: which ranks, a bit each */
    bool trainer_last; /* of a pair */
    long pause_ms;     /* between the kill and the end of the hold */
    bool large;        /* four slots a rank, else one */
    struct aim_point point;
    uint32_t nth;
    int safe;             /* step 20: 1 it is committed in the end, 0 it is not, -1 either */
    uint64_t least, most; /* from where the next launch may resume */
};

/* The kills that were dealt; everything promised held, or the process has ended. */
unsigned trial_run(struct trial *t);

/* The block that ckptd's threads look at; made by the test. */
extern struct aim *aim_block;
void aim_make(const char *path);
/* Takes the aim, or away. */
void aim_set(const char *job, const struct aim_point *point, uint32_t nth);
void aim_clear(void);
