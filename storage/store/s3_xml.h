/* The XML that S3 speaks: a strict pull parser over bytes in memory.
 *
 * Elements, text, the five named and the numeric entities; attributes, one XML
 * declaration and comments are passed over.  Everything else (DOCTYPE, CDATA, processing
 * instructions, tags that do not match, bytes after the end) is an error: what a store
 * answers is hostile until checked.  No allocation, no recursion, linear time. */
#pragma once

#include "formats/base.h"

#define S3_XML_DEPTH_MAX 8
#define S3_XML_NAME_MAX  63   /* bytes of a name; longer is an error */
#define S3_XML_TEXT_MAX  8191 /* bytes of text in one element, decoded; longer is an error */

enum s3_xml_event {
    S3_XML_OPEN,  /* name */
    S3_XML_CLOSE, /* name, and text if it had no elements inside */
    S3_XML_END,   /* of the document, whole and in order */
    S3_XML_BAD,   /* not a document of this kind; comes again and again */
};

/* Callers read depth, names and text after an event.  An open element's name is
 * names[depth - 1]; at CLOSE the one that closes is names[depth]. */
struct s3_xml {
    const char *at, *end;
    unsigned depth;
    bool begun, bad;
    bool closing; /* <a/> was opened and closes next */
    char names[S3_XML_DEPTH_MAX][S3_XML_NAME_MAX + 1];
    char text[S3_XML_TEXT_MAX + 1];
    size_t text_len;
};

/* Borrows `bytes` until the last event. */
void s3_xml_init(struct s3_xml *x, const char *bytes, size_t len);
enum s3_xml_event s3_xml_next(struct s3_xml *x);

/* Copies the text of the first leaf `name` whose parent is `parent` into ret (cut off
 * at cap - 1 bytes, control characters replaced).  False, and ret "", when the document
 * is not sound or has none. */
bool s3_xml_find(const char *bytes, size_t len, const char *parent, const char *name, char *ret,
                 size_t cap);
