/* Whatever a server answers: errors, uploads, pages of listings. */
#include <stddef.h>
#include <stdint.h>

#include "base/assert.h"
#include "storage/objstore/s3_xml_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice xml = slice_make(data, size);
    struct s3_error error;
    struct s3_page page;
    struct err err = ERR_NONE;
    struct buf id;
    int64_t ms;
    s3_error_parse(xml, &error);
    if (!s3_complete_parse(xml, &error, &err))
        ASSERT(error.code[0] || error.message[0] || error.region[0] || err.code == ERR_CORRUPT || s3_error_parse(xml, &error));
    buf_init(&id, 0);
    if (s3_upload_id_parse(xml, &id, &err))
        ASSERT(id.n > 0);
    buf_release(&id);
    if (s3_page_parse(xml, &page, &err))
        for (size_t i = 0; i < page.n; i++)
            ASSERT(page.entries[i].name_offset + page.entries[i].name_n <= page.names.n);
    ASSERT(page.n <= S3_PAGE_ENTRIES_MAX);
    s3_page_release(&page);
    s3_time_parse(xml, &ms);
    return 0;
}
