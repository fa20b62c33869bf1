/* The fault server (fault_server.py) for tests in C: start, tell, ask, stop. */
#pragma once

#include <sys/types.h>

struct fault_server {
    pid_t pid;
    char s3[64], control[64]; /* "127.0.0.1:PORT" */
};

/* args: of fault_server.py, ended by NULL; NULL = none.  Ends the test when it cannot. */
void fault_server_start(struct fault_server *f, const char *const *args);
void fault_server_stop(struct fault_server *f);
/* POST of JSON: "/faults", "/behaviour", "/keys", "/clock", "/region", "/reset". */
void fault_server_tell(const struct fault_server *f, const char *path, const char *json);
/* The number `name` of GET /counts; "faults" and "puts": the sum of their entries. */
long long fault_server_count(const struct fault_server *f, const char *name);
/* How many objects lie in its buckets. */
long long fault_server_objects(const struct fault_server *f);
