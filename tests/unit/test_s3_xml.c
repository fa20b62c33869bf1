/* The XML reader: what S3 sends, and what nobody should. */
#include "storage/store/s3_xml.h"

#include "check.h"

static const char list[] =
    "\xef\xbb\xbf<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
    "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name>\n"
    "<!-- two --><Contents a='1' b=\"2\" ><Key>a&amp;b&#x2F;&#99;&lt;&gt;&quot;&apos;</Key ><Size>5"
    "</Size></Contents><Empty/><CommonPrefixes><Prefix>c/</Prefix></CommonPrefixes>"
    "</ListBucketResult>\n";

static int test_events(void)
{
    static const struct {
        enum s3_xml_event event;
        unsigned depth;
        const char *name, *text;
    } want[] = {
        { S3_XML_OPEN, 1, "ListBucketResult", NULL },
        { S3_XML_OPEN, 2, "Name", NULL },
        { S3_XML_CLOSE, 1, "Name", "b" },
        { S3_XML_OPEN, 2, "Contents", NULL },
        { S3_XML_OPEN, 3, "Key", NULL },
        { S3_XML_CLOSE, 2, "Key", "a&b/c<>\"'" },
        { S3_XML_OPEN, 3, "Size", NULL },
        { S3_XML_CLOSE, 2, "Size", "5" },
        { S3_XML_CLOSE, 1, "Contents", "" },
        { S3_XML_OPEN, 2, "Empty", NULL },
        { S3_XML_CLOSE, 1, "Empty", "" },
        { S3_XML_OPEN, 2, "CommonPrefixes", NULL },
        { S3_XML_OPEN, 3, "Prefix", NULL },
        { S3_XML_CLOSE, 2, "Prefix", "c/" },
        { S3_XML_CLOSE, 1, "CommonPrefixes", "" },
        { S3_XML_CLOSE, 0, "ListBucketResult", NULL },
        { S3_XML_END, 0, NULL, NULL },
    };
    static struct s3_xml x;
    s3_xml_init(&x, list, sizeof(list) - 1);
    for (size_t i = 0; i < ARRAY_COUNT(want); i++) {
        CHECK_EQ(s3_xml_next(&x), want[i].event);
        CHECK_EQ(x.depth, want[i].depth);
        if (want[i].name)
            CHECK_STR(x.names[want[i].event == S3_XML_OPEN ? x.depth - 1 : x.depth], want[i].name);
        if (want[i].text)
            CHECK_STR(x.text, want[i].text);
    }
    return ARRAY_COUNT(want);
}

static enum s3_xml_event last_event(const char *bytes, size_t len)
{
    static struct s3_xml x;
    enum s3_xml_event event;
    s3_xml_init(&x, bytes, len);
    for (size_t i = 0; i < 2 * len + 2; i++) {
        event = s3_xml_next(&x);
        if (event == S3_XML_END || event == S3_XML_BAD) {
            CHECK_EQ(s3_xml_next(&x), event);
            return event;
        }
    }
    CHECK(!"it ends");
    return S3_XML_BAD;
}

static int test_unsound(void)
{
    static const char *const bad[] = {
        "",
        " ",
        "text",
        "<a>",
        "</a>",
        "<a></b>",
        "<a></a><b></b>",
        "<a></a>x",
        "x<a></a>",
        "<a",
        "<a b></a>",
        "<a b=c></a>",
        "<a b=\"c></a>",
        "<a b=\"<\"></a>",
        "<a/",
        "<a/><",
        "<!DOCTYPE a><a></a>",
        "<a><![CDATA[x]]></a>",
        "<a><?php ?></a>",
        "<a><!-- </a>",
        "<a>&</a>",
        "<a>&lt</a>",
        "<a>&nbsp;</a>",
        "<a>&#;</a>",
        "<a>&#x;</a>",
        "<a>&#0;</a>",
        "<a>&#xd800;</a>",
        "<a>&#x110000;</a>",
        "<a>&#123456789;</a>",
        "<a>&#1g;</a>",
        "<a>&#65",
        "<a><b><c><d><e><f><g><h><i></i></h></g></f></e></d></c></b></a>",
        "< a></a>",
        "<a></a",
        "<a b=\"1\"c=\"2\"></a>",
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        if (last_event(bad[i], strlen(bad[i])) != S3_XML_BAD) {
            fprintf(stderr, "accepted: %s\n", bad[i]);
            exit(1);
        }
    }
    CHECK_EQ(last_event("<a>\0</a>", 8), S3_XML_BAD);
    static const char *const good[] = { "<a/>", " <a> </a> ", "<a>&#x10ffff;&#xe9;&#x20ac;</a>",
                                        "<a b='>'/>",
                                        "<a><b><c><d><e><f><g><h/></g></f></e></d></c></b></a>" };
    for (size_t i = 0; i < ARRAY_COUNT(good); i++)
        CHECK_EQ(last_event(good[i], strlen(good[i])), S3_XML_END);
    return ARRAY_COUNT(bad) + 1 + ARRAY_COUNT(good);
}

/* Names and texts at their limit, and one byte more. */
static int test_limits(void)
{
    static char doc[3 * S3_XML_TEXT_MAX];
    for (int more = 0; more < 2; more++) {
        char name[S3_XML_NAME_MAX + 2];
        memset(name, 'n', sizeof(name));
        name[S3_XML_NAME_MAX + more] = 0;
        int len = snprintf(doc, sizeof(doc), "<%s></%s>", name, name);
        CHECK_EQ(last_event(doc, (size_t)len), more ? S3_XML_BAD : S3_XML_END);
        len = snprintf(doc, sizeof(doc), "<a>%*s</a>", S3_XML_TEXT_MAX + more, "x");
        CHECK_EQ(last_event(doc, (size_t)len), more ? S3_XML_BAD : S3_XML_END);
    }
    return 4;
}

/* Cut anywhere it is bad; with any byte changed it ends, in memory of its own. */
static int test_damage(void)
{
    unsigned long long seed = test_seed(20261121);
    size_t len = sizeof(list) - 2; /* without the last line end */
    int cases = 0;
    for (size_t cut = 0; cut < len; cut++, cases++) {
        char *copy = malloc(cut + 1);
        memcpy(copy, list, cut);
        char *exact = realloc(copy, cut ? cut : 1); /* a sanitizer sees a read behind it */
        CHECK_EQ(last_event(exact, cut), S3_XML_BAD);
        free(exact);
    }
    for (int i = 0; i < 20000; i++, cases++) {
        char copy[sizeof(list)];
        memcpy(copy, list, sizeof(list));
        for (unsigned long long n = test_rand(&seed) % 4 + 1; n > 0; n--)
            copy[test_rand(&seed) % len] = "<>/&;#x=\"' a"[test_rand(&seed) % 12];
        last_event(copy, len);
    }
    return cases;
}

static int test_find(void)
{
    static const char error[] = "<Error><Code>NoSuchKey</Code><Message>a\nb</Message>"
                                "<Code>Other</Code><Resource><Code>No</Code></Resource></Error>";
    char got[16], small[5];
    CHECK(s3_xml_find(error, sizeof(error) - 1, "Error", "Code", got, sizeof(got)));
    CHECK_STR(got, "NoSuchKey");
    CHECK(s3_xml_find(error, sizeof(error) - 1, "Error", "Message", got, sizeof(got)));
    CHECK_STR(got, "a?b");
    CHECK(s3_xml_find(error, sizeof(error) - 1, "Error", "Code", small, sizeof(small)));
    CHECK_STR(small, "NoSu");
    CHECK(s3_xml_find(error, sizeof(error) - 1, "Resource", "Code", got, sizeof(got)));
    CHECK_STR(got, "No");
    CHECK(!s3_xml_find(error, sizeof(error) - 1, "Error", "Region", got, sizeof(got)));
    CHECK_STR(got, "");
    CHECK(!s3_xml_find(error, sizeof(error) - 2, "Error", "Code", got, sizeof(got)));
    CHECK_STR(got, "");
    return 6;
}

int main(void)
{
    TEST_CASES(test_events() + test_unsound() + test_limits() + test_damage() + test_find());
    return 0;
}
