/* Any JSON page becomes text; units come from the members' names. */
#include "tools/page_view.h"

#include "check.h"

static long cases;

static void expect(const char *page, const char *want)
{
    char buf[4096];
    json_t *json = json_loads(page, 0, NULL);
    FILE *f = tmpfile();
    CHECK(json && f);
    CHECK_OK(page_view_print(json, f, NULL));
    rewind(f);
    buf[fread(buf, 1, sizeof(buf) - 1, f)] = 0;
    CHECK_STR(buf, want);
    fclose(f);
    json_decref(json);
    cases++;
}

int main(void)
{
    expect("{}", "");
    expect("{\"version\":\"0.1\",\"arena_bytes\":1073741824,\"age_seconds\":90,\"busy\":true}",
           "version                  0.1\n"
           "arena_bytes              1.00 GiB\n"
           "age_seconds              1 min 30 s\n"
           "busy                     yes\n");
    expect("{\"io\":{\"engine\":\"uring\",\"why\":null},\"sessions\":[]}",
           "io.engine                uring\n"
           "io.why                   -\n"
           "sessions                 none\n");
    expect("{\"sessions\":[{\"job\":\"gpt\",\"held_bytes\":2048,"
           "\"ops\":[{\"op\":1,\"level\":\"st\\u001baged\"}]},{\"job\":\"x\"}]}",
           "\nsessions\nJOB      HELD\ngpt  2.00 KiB\nx           -\n"
           "\nsessions[0].ops\nOP  LEVEL\n 1  st?aged\n");
    expect("{\"tiers\":[1,2]}", "");
    expect("{\"errors\":[\"one\",\"two\"],\"uptime\":2.5,\"counters\":{\"pack_bytes\":1024}}",
           "errors                   one\n"
           "                         two\n"
           "uptime                   2.5 s\n"
           "counters.pack_bytes      1.00 KiB\n");
    expect("{\"ops\":[{\"op\":1},{\"op\":2,\"rate\":1048576,\"eta\":0.5}]}",
           "\nops\nOP        RATE     ETA\n 1           -       -\n"
           " 2  1.00 MiB/s  500 ms\n");
    json_t *list = json_array();
    CHECK_EQ(page_view_print(list, stdout, NULL), CKPT_CORRUPT);
    json_decref(list);
    cases++;
    TEST_CASES(cases);
    return 0;
}
