/* As far as it matters here, the layout of libibverbs' structures. */
#include <stdint.h>

struct device {
    int is_mlx5;
};

struct context {
    struct device *device;
};

struct queue_pair {
    struct context *context;
    int number, alive;
};

struct global_route {
    union { uint8_t raw[16]; struct { uint64_t subnet_prefix, interface_id; } global; } dgid;
    uint32_t flow_label;
    uint8_t sgid_index, hop_limit, traffic_class;
};

struct ah_attributes {
    struct global_route grh;
    uint16_t dlid;
    uint8_t sl, src_path_bits, static_rate, is_global, port_num;
};

struct qp_attributes {
    int qp_state, cur_qp_state, path_mtu, path_mig_state;
    uint32_t qkey, rq_psn, sq_psn, dest_qp_num;
    unsigned int qp_access_flags;
    uint32_t max_send_wr, max_recv_wr, max_send_sge, max_recv_sge, max_inline_data;
    struct ah_attributes ah, alt_ah;
    uint16_t pkey_index, alt_pkey_index;
    uint8_t rest[20];
};
