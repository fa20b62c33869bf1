/* Threads of the library in the trainer's process: none of its signals are theirs. */
#pragma once

#include <pthread.h>

/* Begins one; 0, or an errno.  ret NULL: nobody will wait for its end. */
int own_thread_start(pthread_t *ret, void *(*body)(void *arg), void *arg);
