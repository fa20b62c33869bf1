/* ckptd's settings, as ckptd itself reads them. */
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>

#include "tools/ckptd_path.h"
#include "tools/doctor.h"

#define FILE_DEFAULT "/etc/ckpt/ckptd.conf"

#define CONFIG_WORDS 20480 /* all that --check says: 16 errors of at most 1 KiB */

/* What `ckptd --check` says on stderr, its exit status, or -1: it cannot be run. */
static int check(const char *store, const char *file, char *ret, size_t cap)
{
    char program[4200];
    char *argv[] = { program,
                     (char[]){ "--check" },
                     (char[]){ "--config" },
                     (char *)(uintptr_t)file,
                     store ? (char[]){ "--store" } : NULL,
                     (char *)(uintptr_t)store,
                     NULL };
    posix_spawn_file_actions_t actions;
    int p[2], status = 0;
    pid_t pid;
    size_t len = 0;
    ckptd_path(program, sizeof(program));
    if (pipe2(p, O_CLOEXEC) < 0)
        return -1;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, p[1], STDERR_FILENO);
    int rc = posix_spawnp(&pid, program, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(p[1]);
    for (ssize_t n = 1; rc == 0 && n > 0; len += n > 0 ? (size_t)n : 0)
        n = read(p[0], ret + len, cap - 1 - len);
    ret[len] = 0;
    close(p[0]);
    if (rc != 0 || waitpid(pid, &status, 0) != pid)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void doctor_config(const char *store, struct doctor_finding *ret)
{
    const char *file = getenv("CKPT_CONFIG");
    char text[CONFIG_WORDS];
    bool named = file && *file;
    *ret = (struct doctor_finding){ .what = "ckptd.conf" };
    if (!named)
        file = FILE_DEFAULT;
    if (strcmp(file, "none") == 0 || (!named && access(file, F_OK) != 0)) {
        doctor_found(ret, DOCTOR_ABSENT, "none: what is not said otherwise is as it is by itself");
        return;
    }
    int status = check(store && *store ? store : NULL, file, text, sizeof(text));
    const char *line = strncmp(text, "ckptd: ", 7) == 0 ? text + 7 : text;
    if (status == 0) {
        doctor_found(ret, DOCTOR_GREEN, "%.200s is sound", file);
    } else if (status == 2) {
        doctor_found(ret, DOCTOR_RED, "%.*s", (int)min_u64(strcspn(line, "\n"), 220), line);
        doctor_remedy(ret, "mend the file; \"ckptd --check\" names all that is wrong in it");
    } else {
        doctor_found(ret, DOCTOR_YELLOW, "ckptd cannot be run to look at %.180s", file);
        doctor_remedy(ret, "install ckptd beside ckpt, or put it on the PATH");
    }
}
