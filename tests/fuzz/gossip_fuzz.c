/*
 * What arrives at the gossip port: 01 a packet, 02 a stream, anything else the answer to a push/pull. The node knows
 * another one, probes it and has a seed's label check off; checksums of CRC layers are made right, so that mutations
 * get past them.
 */
#include <stdlib.h>
#include <zlib.h>

#include "ring/desc.h"
#include "ring/memberlist/core_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void fix_crc(uint8_t *p, size_t n)
{
    size_t at = n > 1 ? 2U + p[1] : 0;
    if (n < 2 || n < at + 5 + 16)
        return;
    if (p[at] == WIRE_LABEL && n > at + 2)
        at += 2U + p[at + 1];
    if (n < at + 5 + 16 || p[at] != WIRE_CRC)
        return;
    uint32_t crc = (uint32_t)crc32(0, p + at + 5, (uInt)(n - 16 - at - 5));
    for (size_t i = 0; i < 4; i++)
        p[at + 1 + i] = (uint8_t)(crc >> (24 - 8 * i));
}

static void feed(struct core *c, uint8_t *p, size_t n)
{
    struct buf reply = {0};
    size_t need = 0;
    struct slice in = {(const char *)p + 1, n - 1};
    if (p[0] == WIRE_FRAME_PACKET) {
        fix_crc(p, n);
        core_on_packet(c, in);
    } else if (p[0] == WIRE_FRAME_STREAM) {
        if (core_on_stream(c, in, &reply, &need) == WIRE_SHORT && need <= in.n)
            abort();
    } else if (core_on_reply(c, in, &need) == WIRE_SHORT && need <= in.n) {
        abort();
    }
    buf_release(&reply);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct memberlist_config cfg;
    struct kv_codecs codecs = {.codecs = {&ring_desc_codec}, .n = 1};
    struct gossip_addr addr;
    if (!n || n > 1 << 17)
        return 0;
    memberlist_config_default(&cfg);
    cfg.cluster_label_verification_disabled = true;
    addr_from_text(SL("127.0.0.1:18258"), &addr);
    struct core *c = malloc(sizeof *c);
    uint8_t *copy = malloc(n);
    memcpy(copy, data, n);
    core_init(c, &cfg, &codecs, "node-c", &addr, 1, 1000, 1795237940000);
    core_alive(
        c,
        &(struct wire_msg){.Node = SL("node-b"), .Addr = {(const char *)addr.ip, 16}, .Port = 18257, .Incarnation = 1},
        false);
    core_tick(c, 7000, 1795237946000); /* a probe is under way */
    feed(c, copy, n);
    for (int64_t ms = 7200; ms < 14000; ms += 2200)
        core_tick(c, ms, 1795237940000 + ms);
    core_release(c);
    free(c);
    free(copy);
    return 0;
}
