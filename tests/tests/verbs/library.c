/* A stand-in for libibverbs with the versions that the real one gives its symbols. ibv_modify_qp says what it was told. */
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attributes.h"

int ibv_modify_qp(struct queue_pair *qp, struct qp_attributes *attr, int mask) {
    (void)qp;
    int port = 0xC000 | ((attr->ah.grh.flow_label & 0x3FFF) ^ ((attr->ah.grh.flow_label & 0xFC000) >> 14));
    printf("modify state=%d mask=%d label=%u port=%d\n", attr->qp_state, mask, attr->ah.grh.flow_label, port);
    if (attr->ah.grh.flow_label && getenv("STUB_REFUSES_LABELS"))
        return EINVAL;
    return 0;
}

int ibv_destroy_qp(struct queue_pair *qp) {
    /* None is when the client only asks whether it is there. */
    if (!qp)
        return 7;
    qp->alive = 0;
    return 0;
}

/* The real one loads what drives the NICs that it finds. */
int ibv_get_device_list(void) {
    if (getenv("STUB_HAS_MLX5") && !dlopen("libmlx5.so.1", RTLD_NOW | RTLD_LOCAL))
        printf("libmlx5 is missing: %s\n", dlerror());
    return 7;
}

#define EMPTY(name) int name(void) { return 7; }
EMPTY(ibv_free_device_list) EMPTY(ibv_get_device_name) EMPTY(ibv_open_device)
EMPTY(ibv_close_device) EMPTY(ibv_get_async_event) EMPTY(ibv_ack_async_event) EMPTY(ibv_query_device)
EMPTY(ibv_query_port) EMPTY(ibv_query_gid) EMPTY(ibv_query_qp) EMPTY(ibv_alloc_pd) EMPTY(ibv_dealloc_pd)
EMPTY(ibv_reg_mr) EMPTY(ibv_reg_mr_iova2) EMPTY(ibv_reg_dmabuf_mr) EMPTY(ibv_dereg_mr) EMPTY(ibv_create_cq)
EMPTY(ibv_destroy_cq) EMPTY(ibv_create_qp) EMPTY(ibv_fork_init) EMPTY(ibv_event_type_str)
EMPTY(ibv_query_ece) EMPTY(ibv_set_ece)
