/* Names of codes, and the small encodings of gRPC's headers: timeouts, percent-encoding of grpc-message. */
#include <stdio.h>

#include "net/rpc/rpc_int.h"

static const char *const code_names[] = {
    "OK",       "Canceled",       "Unknown",          "InvalidArgument",   "DeadlineExceeded",
    "NotFound", "AlreadyExists",  "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
    "Aborted",  "OutOfRange",     "Unimplemented",    "Internal",          "Unavailable",
    "DataLoss", "Unauthenticated"};

const char *rpc_code_name(int code, char ret[RPC_CODE_NAME_MAX])
{
    if (code >= 0 && (size_t)code < ARRAY_LEN(code_names))
        snprintf(ret, RPC_CODE_NAME_MAX, "%s", code_names[code]);
    else
        snprintf(ret, RPC_CODE_NAME_MAX, "%d", code);
    return ret;
}

enum rpc_code rpc_code_of_err(enum err_code code)
{
    switch (code) {
    case ERR_OK:
        return RPC_OK;
    case ERR_CANCELED:
        return RPC_CANCELED;
    case ERR_TIMEOUT:
        return RPC_DEADLINE_EXCEEDED;
    case ERR_METHOD_NOT_ALLOWED:
        return RPC_UNIMPLEMENTED;
    default:
        break;
    }
    switch (err_http_status(code)) {
    case 400:
        return RPC_INVALID_ARGUMENT;
    case 401:
        return RPC_UNAUTHENTICATED;
    case 404:
        return RPC_NOT_FOUND;
    case 409:
        return RPC_FAILED_PRECONDITION;
    case 413:
    case 429:
        return RPC_RESOURCE_EXHAUSTED;
    case 422:
        return RPC_INVALID_ARGUMENT;
    case 503:
        return RPC_UNAVAILABLE;
    default:
        return RPC_INTERNAL;
    }
}

void rpc_status_release(struct rpc_status *st)
{
    buf_release(&st->details);
    st->code = RPC_OK;
    st->text[0] = '\0';
}

bool rpc_timeout_parse(struct slice s, int64_t *ret_ms)
{
    if (s.n < 2 || s.n > 9)
        return false;
    int64_t n = 0;
    for (size_t i = 0; i + 1 < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        n = n * 10 + (s.p[i] - '0');
    }
    switch (s.p[s.n - 1]) {
    case 'H':
        *ret_ms = n * 3600000;
        return true;
    case 'M':
        *ret_ms = n * 60000;
        return true;
    case 'S':
        *ret_ms = n * 1000;
        return true;
    case 'm':
        *ret_ms = n;
        return true;
    case 'u':
        *ret_ms = (n + 999) / 1000;
        return true;
    case 'n':
        *ret_ms = (n + 999999) / 1000000;
        return true;
    default:
        return false;
    }
}

void rpc_timeout_format(int64_t ms, char ret[16])
{
    int64_t seconds = MIN(ms / 1000, (int64_t)99999999);
    if (ms <= 99999999)
        snprintf(ret, 16, "%dm", (int)MAX(ms, (int64_t)1));
    else
        snprintf(ret, 16, "%dS", (int)seconds);
}

void rpc_percent_encode(struct slice in, struct buf *out)
{
    static const char hex[] = "0123456789ABCDEF";
    for (size_t i = 0; i < in.n; i++) {
        unsigned char c = (unsigned char)in.p[i];
        if (c >= ' ' && c <= '~' && c != '%') {
            buf_putc(out, (char)c);
        } else {
            buf_putc(out, '%');
            buf_putc(out, hex[c >> 4]);
            buf_putc(out, hex[c & 15]);
        }
    }
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* What is not an escape stays as it is: the text is for people. */
void rpc_percent_decode(struct slice in, struct buf *out)
{
    for (size_t i = 0; i < in.n; i++) {
        int high = in.p[i] == '%' && i + 2 < in.n ? hex_digit(in.p[i + 1]) : -1;
        int low = high >= 0 ? hex_digit(in.p[i + 2]) : -1;
        if (low < 0) {
            buf_putc(out, in.p[i]);
            continue;
        }
        buf_putc(out, (char)(high << 4 | low));
        i += 2;
    }
}
