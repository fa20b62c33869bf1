/* What processes and directories hold on to: descriptors, shared memory, threads, names. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

struct probe {
    long rss_kib, threads;
    long fds; /* but for rings, of which each thread makes one when it needs it */
    long rings;
    long memfds;      /* descriptors and mappings of shared memory */
    long memfd_pages; /* of 4 KiB, behind the descriptors */
};
/* Of a process; false when it is gone. */
bool probe_process(pid_t pid, struct probe *ret);
/* Its descriptors, to stderr. */
void probe_say_fds(pid_t pid);
/* Files and directories below `path`, itself not; 0 when it is not there. */
long probe_entries(const char *path);
/* Processes whose command line or environment has the text, this one and its own children
 * that wait to be reaped not counted. */
long probe_processes(const char *text);
/* True while the process runs: a zombie does not. */
bool probe_runs(pid_t pid);
