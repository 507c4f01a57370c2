/* A server with the test methods, for standard gRPC clients (tests/e2e/test_grpc.py): prints its port, ends at the end
 * of its input. */
#include "tests/net/rpc/rpc_methods.h"

int main(void)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_serve(&r);
    printf("%d\n", rpc_server_port(r.server));
    fflush(stdout);
    while (getchar() != EOF)
        ;
    rig_stop(&r);
    return 0;
}
