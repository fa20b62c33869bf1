/* ckptd's command line and environment. */
#pragma once

#include "formats/base.h"
#include "formats/codec.h"
#include "storage/repo/policy.h"

#define CONFIG_REMOTES_MAX 6

struct config {
    const char *store;  /* URL as given */
    const char *socket; /* NULL = the default of this user and store */
    const char *io;     /* "auto", "uring", "threads" */
    const char *local;  /* where packs are saved, when that is not the store; else NULL */
    const char *remotes[CONFIG_REMOTES_MAX];
    size_t remote_count;
    struct policy remote_policy;
    bool remote_codec_given;
    enum codec_id remote_codec; /* STORED: as the packs are */
    int remote_codec_level;
    uint64_t remote_rate; /* bytes a second into each remote store; 0 = no limit */
    unsigned remote_streams;
    const char *metrics; /* address for Prometheus (metrics.h); NULL = none */
    int listen_fd;       /* -1 = bind the socket ourselves */
    unsigned crew;
    uint64_t slot_bytes;
    enum codec_id codec;
    int codec_level;
    unsigned stop_s; /* how long a stop may take */
    bool private_, foreground, help, version;
};
/* argv's and the environment's strings are borrowed.  getenv_: getenv, or a test's. */
enum ckpt_status config_parse(int argc, char *const argv[], char *(*getenv_)(const char *),
                              struct config *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
extern const char config_usage[];
