/* The page for people: what it says of a busy node, of a quiet one, of a foreign page. */
#include "tools/output.h"
#include "tools/page_summary.h"

#include "check.h"

static long cases;

static char *shown(const char *page, const char *before)
{
    char *text = NULL;
    size_t len = 0;
    json_t *a = json_loads(page, 0, NULL), *b = before ? json_loads(before, 0, NULL) : NULL;
    FILE *to = open_memstream(&text, &len);
    CHECK(a && to && !!b == !!before);
    CHECK_OK(page_summary_print(a, b, to, NULL));
    fclose(to);
    json_decref(a);
    json_decref(b);
    cases++;
    return text;
}

static void says(const char *text, const char *words)
{
    if (!strstr(text, words))
        fprintf(stderr, "\"%s\" is not in:\n%s", words, text);
    CHECK(strstr(text, words));
    cases++;
}

static const char busy[] =
    "{\"version\":\"9\",\"pid\":7,\"private\":true,\"stopping\":true,\"io\":\"dir /s\","
    "\"counters\":{\"uptime_seconds\":90.0,\"worker_starts\":3,\"arena_bytes\":1073741824,"
    "\"sessions_open\":2,\"slots\":32,\"slots_free\":30,\"slots_queued\":2,\"saves_committed\":4,"
    "\"saves_aborted\":1,\"pack_bytes\":3221225472,\"load_bytes\":0},"
    "\"jobs\":[{\"job\":\"gpt\\u001b[2J\",\"training\":true,\"world\":16,\"ranks\":8,\"step\":120,"
    "\"checkpoints\":4,\"tiers\":[{\"tier\":\"local\",\"newest_step\":110,\"rpo_seconds\":65.0,"
    "\"rpo_steps\":10},{\"tier\":\"remote1\",\"rpo_seconds\":600.0,\"rpo_steps\":120}],"
    "\"busy\":{\"kind\":\"save\",\"step\":120,\"level\":\"staged\",\"bytes\":45,\"bytes_total\":100,"
    "\"rate\":1073741824.0,\"eta\":3.0,\"slowest\":{\"rank\":3,\"pid\":77,\"done\":0.12}}},"
    "{\"job\":\"old\",\"training\":false,\"tiers\":[]}],"
    "\"tiers\":[{\"tier\":\"local\",\"url\":\"/s\",\"outlives_node\":false,\"state\":\"idle\","
    "\"lag\":0,\"failing\":0},{\"tier\":\"remote1\",\"url\":\"s3://b/p\",\"outlives_node\":true,"
    "\"state\":\"trouble\",\"lag\":2,\"lag_seconds\":12.0,\"held\":3,\"put_bytes\":1024,"
    "\"troubles\":5,\"failing\":1,\"error\":\"no route\"}],"
    "\"errors\":[\"e1\",\"e2\",\"e3\",\"e4\",\"e5\",\"e6\\u001b\"]}";
static const char earlier[] = "{\"counters\":{\"uptime_seconds\":89.0,\"pack_bytes\":2147483648}}";

int main(void)
{
    (void)output_set_colour("never");
    CLEANUP_FREE char *text = shown(busy, earlier);
    says(text, "ckptd 9, pid 7, up 1 min 30 s, private, ENDING\n");
    says(text, "worker    died and was replaced 2 times\n");
    says(text, "1.00 GiB for 2 sessions; of 32 slots 30 free, 2 to be written\n");
    says(text, "saves     4 committed, 1 given up; 3.00 GiB written, 0 B read\n");
    says(text, "rates     writing 1.00 GiB/s, reading 0 B/s\n");
    says(text, "gpt?[2J");
    says(text, "8 of 16");
    says(text, "save 120 staged");
    says(text, "45 %  1.00 GiB/s  3.0 s  rank 3 (pid 77) at 12 %\n");
    says(text, "local                      no                110   1 min 05 s     10\n");
    says(text, "if the node dies: remote1");
    says(text, "over\n");
    says(text, "remote1: no route\n");
    says(text, "s3://b/p\n");
    says(text, "\nlast troubles\n  e2\n  e3\n  e4\n  e5\n  e6?\n");
    CHECK(!strchr(text, '\033') && !strstr(text, "  e1\n"));
    (void)output_set_colour("always");
    CLEANUP_FREE char *coloured = shown(busy, NULL);
    says(coloured, "\033[31mremote1");
    CHECK(!strstr(coloured, "rates"));
    (void)output_set_colour("auto");
    CHECK(!output_set_colour("sometimes"));
    CLEANUP_FREE char *elsewhere = shown("{\"jobs\":[{\"job\":\"j\",\"training\":true,\"busy\":"
                                         "{\"kind\":\"save\",\"slowest\":{\"rank\":12}}}]}",
                                         NULL);
    says(elsewhere, "rank 12, on another node\n");
    CLEANUP_FREE char *alone = shown("{\"jobs\":[{\"job\":\"j\",\"tiers\":[{\"tier\":\"local\"}]}],"
                                     "\"tiers\":[{\"tier\":\"local\",\"outlives_node\":false}]}",
                                     NULL);
    says(alone, "if the node dies: nothing");
    says(alone, "everything\n");
    static const char *const foreign[] = {
        "{}",
        "{\"jobs\":3,\"tiers\":\"x\",\"errors\":{},\"counters\":[]}",
        "{\"jobs\":[1,null,[],{}],\"tiers\":[null,2,{}],\"errors\":[1,{},\"\"]}",
        "{\"counters\":{\"uptime_seconds\":-1e300,\"slots\":1e300,\"pack_bytes\":-5}}",
        "{\"jobs\":[{\"tiers\":[3,{}],\"busy\":7}]}",
        "{\"jobs\":[{\"busy\":{\"bytes\":1e300,\"bytes_total\":1e-300,\"slowest\":{}}}]}",
    };
    for (size_t i = 0; i < ARRAY_COUNT(foreign); i++)
        free(shown(foreign[i], foreign[i]));
    json_t *list = json_array();
    CHECK_EQ(page_summary_print(list, NULL, stdout, NULL), CKPT_CORRUPT);
    json_decref(list);
    TEST_CASES(cases);
    return 0;
}
