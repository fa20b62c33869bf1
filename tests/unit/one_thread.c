/* For tests that are said to have one thread (ONE_THREAD in CMakeLists.txt), and so do not run under
 * ThreadSanitizer: whoever starts another one hears of it. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*main)(void *),
                          void *arg);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*main)(void *),
                          void *arg)
{
    (void)thread, (void)attr, (void)main, (void)arg;
    fputs("this test starts a thread: it must not say ONE_THREAD\n", stderr);
    abort();
}
