/* Finds the functions of libibverbs as NCCL does, and takes queue pairs to "ready to receive" and "ready to send". */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attributes.h"

typedef int (*modify)(void *, struct qp_attributes *, int);

static void *find(void *library, const char *name, const char *version) {
    void *found = dlvsym(library, name, version);
    if (!found)
        printf("missing %s@%s: %s\n", name, version, dlerror());
    return found;
}

int main(int count, char **arguments) {
    void *library = dlopen("libibverbs.so.1", RTLD_NOW);
    if (!library) {
        printf("no library: %s\n", dlerror());
        return 3;
    }
    const char *plain[] = {"ibv_get_device_list", "ibv_free_device_list", "ibv_get_device_name", "ibv_open_device",
        "ibv_close_device", "ibv_get_async_event", "ibv_ack_async_event", "ibv_query_device", "ibv_query_port",
        "ibv_query_gid", "ibv_query_qp", "ibv_alloc_pd", "ibv_dealloc_pd", "ibv_reg_mr", "ibv_dereg_mr", "ibv_create_cq",
        "ibv_destroy_cq", "ibv_create_qp", "ibv_destroy_qp", "ibv_fork_init", "ibv_event_type_str"};
    for (size_t n = 0; n < sizeof plain / sizeof *plain; n++) {
        int (*call)(void) = (int (*)(void))find(library, plain[n], "IBVERBS_1.1");
        if (call && call() != 7)
            printf("wrong %s\n", plain[n]);
    }
    find(library, "ibv_reg_mr_iova2", "IBVERBS_1.8");
    find(library, "ibv_query_ece", "IBVERBS_1.10");
    find(library, "ibv_set_ece", "IBVERBS_1.10");
    find(library, "ibv_reg_dmabuf_mr", "IBVERBS_1.12");
    if (dlvsym(library, "ibv_modify_qp", "IBVERBS_9.9"))
        printf("a version that is not there was found\n");
    /* Where the loader looks at who asks. */
    if (!dlvsym(RTLD_NEXT, "getpid", "GLIBC_2.2.5") && !dlvsym(RTLD_NEXT, "getpid", "GLIBC_2.17"))
        printf("getpid was not found\n");
    modify change = (modify)find(library, "ibv_modify_qp", "IBVERBS_1.1");
    for (int n = 1; n < count; n++) {
        struct qp_attributes attr;
        memset(&attr, 0, sizeof attr);
        attr.qp_state = 2;
        attr.ah.is_global = 1;
        attr.ah.grh.dgid.raw[10] = attr.ah.grh.dgid.raw[11] = 0xff;
        inet_pton(AF_INET, arguments[n], attr.ah.grh.dgid.raw + 12);
        /* State, address, path MTU, the peer's number, packet sequence number, as NCCL does. */
        int result = change(NULL, &attr, 1 | 1 << 7 | 1 << 8 | 1 << 20 | 1 << 12);
        printf("result %d label %u\n", result, attr.ah.grh.flow_label);
        attr.qp_state = 3;
        change(NULL, &attr, 1 | 1 << 16);
    }
    return 0;
}
