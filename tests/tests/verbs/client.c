/*
 * Finds the functions of libibverbs as NCCL does, then does what it reads:
 *   connect N ADDRESS   takes queue pair N to "ready to receive" and "ready to send"
 *   many N ADDRESS      N queue pairs, numbered from 1000
 *   destroy N           reset N
 *   fork ADDRESS        a child connects one of its own and ends all that it knows of
 * and says "done" after each.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attributes.h"

#define MOST 6000

static int (*modify)(struct queue_pair *, struct qp_attributes *, int);
static int (*destroy)(struct queue_pair *);
static struct device device;
static struct context context = {&device};
static struct queue_pair pairs[MOST];

static void *find(void *library, const char *name, const char *version) {
    void *found = dlvsym(library, name, version);
    if (!found)
        printf("missing %s@%s: %s\n", name, version, dlerror());
    return found;
}

static void symbols(void) {
    const char *own = getenv("NCCL_IBVERBS_LIB");
    void *library = own ? dlopen(own, RTLD_NOW) : NULL;
    if (!library)
        library = dlopen("libibverbs.so", RTLD_NOW);
    if (!library)
        library = dlopen("libibverbs.so.1", RTLD_NOW);
    if (!library) {
        printf("no library: %s\n", dlerror());
        exit(3);
    }
    const char *plain[] = {"ibv_get_device_list", "ibv_free_device_list", "ibv_get_device_name", "ibv_open_device",
        "ibv_close_device", "ibv_get_async_event", "ibv_ack_async_event", "ibv_query_device", "ibv_query_port",
        "ibv_query_gid", "ibv_query_qp", "ibv_alloc_pd", "ibv_dealloc_pd", "ibv_reg_mr", "ibv_dereg_mr", "ibv_create_cq",
        "ibv_destroy_cq", "ibv_create_qp", "ibv_destroy_qp", "ibv_fork_init", "ibv_event_type_str"};
    for (size_t n = 0; n < sizeof plain / sizeof *plain; n++) {
        int (*call)(void *) = (int (*)(void *))find(library, plain[n], "IBVERBS_1.1");
        if (call && call(NULL) != 7)
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
    modify = (int (*)(struct queue_pair *, struct qp_attributes *, int))find(library, "ibv_modify_qp", "IBVERBS_1.1");
    destroy = (int (*)(struct queue_pair *))find(library, "ibv_destroy_qp", "IBVERBS_1.1");
}

static void connect_pair(int number, const char *address) {
    struct queue_pair *qp = &pairs[number];
    *qp = (struct queue_pair){&context, number, 1};
    struct qp_attributes attr;
    memset(&attr, 0, sizeof attr);
    attr.qp_state = 2;
    attr.ah.is_global = 1;
    uint8_t *gid = attr.ah.grh.dgid.raw;
    if (strchr(address, ':')) {
        inet_pton(AF_INET6, address, gid);
    } else {
        gid[10] = gid[11] = 0xff;
        inet_pton(AF_INET, address, gid + 12);
    }
    /* State, address, path MTU, the peer's number, packet sequence number, as NCCL does. */
    int result = modify(qp, &attr, 1 | 1 << 7 | 1 << 8 | 1 << 20 | 1 << 12);
    printf("result %d label %u\n", result, attr.ah.grh.flow_label);
    attr.qp_state = 3;
    modify(qp, &attr, 1 | 1 << 16);
}

static void reset_pair(int number) {
    struct qp_attributes attr;
    memset(&attr, 0, sizeof attr);
    modify(&pairs[number], &attr, 1);
    pairs[number].alive = 0;
}

static void fork_child(const char *address) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        connect_pair(5999, address);
        for (int n = 0; n < MOST; n++)
            if (pairs[n].alive)
                destroy(&pairs[n]);
        fflush(stdout);
        _exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    printf("child %d\n", status);
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    device.is_mlx5 = !getenv("STUB_OTHER_NIC");
    symbols();
    char line[256], word[16], address[64];
    while (fgets(line, sizeof line, stdin)) {
        int n = 0;
        if (sscanf(line, "connect %d %63s", &n, address) == 2)
            connect_pair(n, address);
        else if (sscanf(line, "many %d %63s", &n, address) == 2)
            for (int i = 0; i < n; i++)
                connect_pair(1000 + i, address);
        else if (sscanf(line, "destroy %d", &n) == 1)
            destroy(&pairs[n]);
        else if (sscanf(line, "reset %d", &n) == 1)
            reset_pair(n);
        else if (sscanf(line, "fork %63s", address) == 1)
            fork_child(address);
        else if (sscanf(line, "%15s", word) == 1)
            printf("wrong command %s\n", word);
        printf("done\n");
    }
    return 0;
}
