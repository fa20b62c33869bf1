/* Files get their names only when all are complete; what is not committed goes. */
#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>

#include "tools/export_files.h"

#include "check.h"

/* The linker sends fsync here: a file or directory that is not made durable is noticed. */
static int fsyncs;
int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
    fsyncs++;
    return __real_fsync(fd);
}

static char dir[] = "export-XXXXXX";
static long cases;

static int entries(const char *path)
{
    DIR *d = opendir(path);
    int n = 0;
    const struct dirent *e;
    CHECK(d);
    while ((e = readdir(d)))
        n += e->d_name[0] != '.' || strlen(e->d_name) > 2;
    closedir(d);
    return n;
}

static void check_content(const char *path, const char *want)
{
    char buf[64] = "";
    FILE *f = fopen(path, "re");
    CHECK(f);
    buf[fread(buf, 1, sizeof(buf) - 1, f)] = 0;
    fclose(f);
    CHECK_STR(buf, want);
    CHECK_EQ(unlink(path), 0);
}

static void test_given_up(void)
{
    struct export_files f;
    void *map;
    CHECK_OK(export_files_init(&f, "x/y/z", false, NULL));
    CHECK_OK(export_files_map(&f, "a", 4096, &map, NULL));
    memset(map, 1, 4096);
    CHECK_EQ(entries("x/y/z"), 1);
    export_files_fini(&f);
    CHECK(access("x/y/z", F_OK) != 0 && access("x/y", F_OK) == 0);
    cases++;
}

static void test_committed(void)
{
    struct export_files f;
    struct ckpt_err err = { 0 };
    void *map;
    CHECK_OK(export_files_init(&f, "x/y/z/", false, NULL));
    CHECK_OK(export_files_map(&f, "a", 3, &map, NULL));
    memcpy(map, "abc", 3);
    CHECK_OK(export_files_write(&f, "objects/p/q/r", "rst", 3, NULL));
    CHECK_OK(export_files_write(&f, "objects/empty", "", 0, NULL));
    CHECK(access("x/y/z/a", F_OK) != 0 && access("x/y/z/objects", F_OK) != 0);
    fsyncs = 0;
    CHECK_OK(export_files_commit(&f, NULL));
    /* Three files; z for each of them and at the end; objects twice, p and q. */
    CHECK_EQ(fsyncs, 3 + 4 + 2 + 2);
    export_files_fini(&f);
    CHECK_EQ(entries("x/y/z"), 2);
    check_content("x/y/z/objects/p/q/r", "rst");
    check_content("x/y/z/objects/empty", "");
    /* Not empty: refused, and nothing of it is touched; forced: replaced. */
    CHECK_EQ(export_files_init(&f, "x/y/z", false, &err), CKPT_REFUSED);
    CHECK(strstr(err.text, "--force"));
    export_files_fini(&f);
    CHECK_OK(export_files_init(&f, "x/y/z", true, NULL));
    CHECK_OK(export_files_write(&f, "a", "new", 3, NULL));
    CHECK_OK(export_files_commit(&f, NULL));
    export_files_fini(&f);
    check_content("x/y/z/a", "new");
    cases += 3;
}

/* A part of a name that no file system takes. */
static void test_long_name(void)
{
    struct export_files f;
    char name[600] = "objects/";
    memset(name + 8, 'n', 500);
    name[508] = 0;
    CHECK_OK(export_files_init(&f, "long", false, NULL));
    CHECK_OK(export_files_write(&f, name, "abc", 3, NULL));
    CHECK_OK(export_files_commit(&f, NULL));
    export_files_fini(&f);
    CHECK_EQ(entries("long/objects"), 1);
    cases++;
}

/* A file where a directory is wanted; more than a disk has. */
static void test_refused(void)
{
    struct export_files f;
    void *map;
    CHECK_OK(export_files_init(&f, "plain", false, NULL));
    CHECK_OK(export_files_write(&f, "f", "x", 1, NULL));
    CHECK_OK(export_files_commit(&f, NULL));
    export_files_fini(&f);
    CHECK(export_files_init(&f, "plain/f", false, NULL) != CKPT_OK);
    export_files_fini(&f);
    CHECK(export_files_init(&f, "plain/f/g", false, NULL) != CKPT_OK);
    export_files_fini(&f);
    CHECK_EQ(access("plain/f", F_OK), 0);
    CHECK_OK(export_files_init(&f, "much", false, NULL));
    CHECK(export_files_map(&f, "a", UINT64_C(1) << 60, &map, NULL) != CKPT_OK);
    export_files_fini(&f);
    CHECK(access("much", F_OK) != 0);
    cases += 3;
}

int main(void)
{
    char command[64];
    CHECK(mkdtemp(dir) && chdir(dir) == 0);
    test_given_up();
    test_committed();
    test_long_name();
    test_refused();
    CHECK_EQ(chdir(".."), 0);
    snprintf(command, sizeof(command), "rm -r %s", dir);
    CHECK_EQ(system(command), 0);
    TEST_CASES(cases);
    return 0;
}
