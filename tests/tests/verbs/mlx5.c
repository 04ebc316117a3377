/* A stand-in for libmlx5: says which queue pair it was told to move where. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "attributes.h"

bool mlx5dv_is_supported(struct device *device) { return device->is_mlx5; }

int mlx5dv_modify_qp_udp_sport(struct queue_pair *qp, uint16_t port) {
    printf("moved qp=%d port=%u%s\n", qp->number, port, qp->alive ? "" : " not alive");
    return getenv("STUB_REFUSES_MOVES") ? EINVAL : 0;
}

int mlx5dv_modify_qp_lag_port(struct queue_pair *qp, uint8_t port) {
    if (getenv("STUB_WITHOUT_BOND"))
        return EOPNOTSUPP;
    printf("bonded qp=%d port=%u%s\n", qp->number, port, qp->alive ? "" : " not alive");
    return 0;
}
