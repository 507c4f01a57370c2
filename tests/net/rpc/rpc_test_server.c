/* A server with the test methods, for standard gRPC clients (tests/e2e/test_grpc.py): prints its port, ends at the end
 * of its input. With three arguments, PEM files, it speaks TLS: its certificate, the key, the authority of clients' certificates. */
#include "tests/net/rpc/rpc_methods.h"

int main(int argc, char **argv)
{
    struct rpc_rig r;
    rig_new(&r);
    if (argc == 4) {
        r.cfg.grpc_tls_cert_path = argv[1];
        r.cfg.grpc_tls_key_path = argv[2];
        r.cfg.grpc_tls_ca_path = argv[3];
        r.cfg.grpc_tls_client_auth = "RequireAndVerifyClientCert";
    }
    rig_serve(&r);
    printf("%d\n", rpc_server_port(r.server));
    fflush(stdout);
    while (getchar() != EOF)
        ;
    rig_stop(&r);
    return 0;
}
