/* The table of all options, and how each one's text is read. */
#pragma once

#include "ckptd/config.h"

#define CONFIG_LIVE      1U  /* a reload changes it */
#define CONFIG_REPEATS   2U  /* several values */
#define CONFIG_PER_JOB   4U  /* also in a section [job PATTERN] */
#define CONFIG_FLAG_ONLY 8U  /* of one process, not of a machine: in no file */
#define CONFIG_SHIPPED   16U /* set in the example file */

struct config_key {
    const char *name;     /* "crew" in the file, "--crew", "CKPT_CREW" */
    const char *argument; /* what stands for its value in texts; NULL: a switch, and a flag only */
    const char *fallback; /* the default, as it would be written; NULL: none */
    const char *example;
    const char *help; /* lines without indentation */
    unsigned flags;
    const char *needs, *or_needs; /* the settings without which it does nothing; NULL: none */
    /* Reads `text` into *c, or into *job if that is not NULL.  The words of an error begin
     * behind the option's name. */
    enum ckpt_status (*set)(const struct config_key *k, const char *text, struct config *c,
                            struct config_job *job, struct ckpt_err *err);
    size_t at;         /* of a number, a string or a switch: its offset in struct config */
    size_t size;       /* of a number; of rules: their offset in struct config_job */
    uint64_t min, max; /* of a number */
};
extern const struct config_key config_keys[];
extern const size_t config_key_count;

/* The key called name[0..len); NULL: there is none. */
const struct config_key *config_key_find(const char *name, size_t len);
/* " (did you mean \"store\"?)" when one is near, else "". */
void config_key_nearest(const char *name, char *ret, size_t cap);
/* "CKPT_SLOT_BYTES" of "slot-bytes". */
void config_key_env(const struct config_key *k, char ret[64]);
