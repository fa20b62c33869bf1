/* ckptd's settings, as ckptd itself reads them. */
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>

#include "tools/ckptd_path.h"
#include "tools/doctor.h"

#define FILE_DEFAULT "/etc/ckpt/ckptd.conf"

#define CONFIG_WORDS 20480 /* all that --check says: 16 errors of at most 1 KiB */

/* What `ckptd --check` says on `fd`, its exit status, or -1: it cannot be run. */
static int check(const char *store, const char *file, int fd, char *ret, size_t cap)
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
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO + STDERR_FILENO - fd, "/dev/null",
                                     O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, p[1], fd);
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

/* NULL: none is read. */
static const char *file_of_ckptd(void)
{
    const char *file = getenv("CKPT_CONFIG");
    if (file && *file)
        return strcmp(file, "none") == 0 ? NULL : file;
    return access(FILE_DEFAULT, F_OK) == 0 ? FILE_DEFAULT : NULL;
}

bool doctor_local(const char *store, char *ret, size_t cap)
{
    static const char name[] = "\nlocal = ";
    const char *env = getenv("CKPT_LOCAL"), *file = file_of_ckptd();
    char text[CONFIG_WORDS] = "";
    if (env && *env)
        return (size_t)snprintf(ret, cap, "%s", env) < cap;
    if (file) /* what is wrong with it is another finding */
        (void)check(store && *store ? store : NULL, file, STDOUT_FILENO, text, sizeof(text));
    const char *value = strstr(text, name);
    if (!value)
        return false;
    value += sizeof(name) - 1; /* "/nvme/ckpt        # line 5" */
    size_t n = strcspn(value, "\n");
    while (n && value[n] != '#')
        n--;
    while (n && value[n - 1] == ' ')
        n--;
    return n && (size_t)snprintf(ret, cap, "%.*s", (int)n, value) < cap;
}

void doctor_config(const char *store, struct doctor_finding *ret)
{
    const char *file = file_of_ckptd();
    char text[CONFIG_WORDS] = "";
    *ret = (struct doctor_finding){ .what = "ckptd.conf" };
    if (!file) {
        doctor_found(ret, DOCTOR_ABSENT, "none: what is not said otherwise is as it is by itself");
        return;
    }
    int status = check(store && *store ? store : NULL, file, STDERR_FILENO, text, sizeof(text));
    const char *line = strncmp(text, "ckptd: ", 7) == 0 ? text + 7 : text;
    int len = (int)min_u64(strcspn(line, "\n"), 220);
    if (status == 0 && len) {
        doctor_found(ret, DOCTOR_YELLOW, "%.*s", len, line);
        doctor_remedy(ret, "\"ckptd --check\" names all that does nothing; set what is missing, or "
                           "take it away");
    } else if (status == 0) {
        doctor_found(ret, DOCTOR_GREEN, "%.200s is sound", file);
    } else if (status == 2) {
        doctor_found(ret, DOCTOR_RED, "%.*s", len, line);
        doctor_remedy(ret, "mend the file; \"ckptd --check\" names all that is wrong in it");
    } else {
        doctor_found(ret, DOCTOR_YELLOW, "ckptd cannot be run to look at %.180s", file);
        doctor_remedy(ret, "install ckptd beside ckpt, or put it on the PATH");
    }
}
