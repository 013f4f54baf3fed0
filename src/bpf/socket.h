/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reads the kernel's sockets: what a program asked of its socket, and what the socket map keeps for it. */
#ifndef SOCKET_H
#define SOCKET_H

#include "maps.h"

/* Kernel macros, which BTF does not carry. */
#define EEXIST 17
#define AF_INET 2
#define AF_INET6 10
#define O_NONBLOCK 04000
#define SOL_SOCKET 1
#define SO_RCVBUF 8
#define SO_RCVLOWAT 18
/* The program has set SO_RCVBUF (include/net/sock.h). */
#define SOCK_RCVBUF_LOCK 2
#define SOL_TCP 6
#define IPPROTO_TCP 6
/* The low bits of sk_user_data are flags, and one says that the rest points to a psock (include/net/sock.h,
 * SK_USER_DATA_PTRMASK and SK_USER_DATA_PSOCK).
 */
#define USER_DATA_FLAGS 7ul
#define USER_DATA_PSOCK 4ul

extern void *bpf_rdonly_cast(const void *object, __u32 btf_id) __ksym;
extern void *bpf_cast_to_kern_ctx(void *context) __ksym;
/* The wake function of a thread that waits in recv on a mapped socket. */
extern const void woken_wake_function __ksym __weak;

/* Walks from a pointer that the verifier does not know, by plain loads that cannot fault. */
#define kernel_object(pointer, type) ((type *)bpf_rdonly_cast((pointer), bpf_core_type_id_kernel(type)))

static __always_inline struct sock *sock_of(struct tcp_sock *tcp)
{
	return (struct sock *)tcp;
}

/* The open file behind a socket; NULL while a connection waits to be accepted. */
static __always_inline struct file *file_of(struct sock *sock)
{
	struct socket *socket = sock->sk_socket;

	return socket ? socket->file : NULL;
}

/* The inode number of a socket's network namespace, as in /proc. */
static __always_inline __u32 netns_number(struct sock *sock)
{
	return sock->__sk_common.skc_net.net->ns.inum;
}

/* The TCP socket behind an open file, or NULL. */
static __always_inline struct sock *tcp_behind(struct file *file)
{
	struct socket *socket = file ? bpf_sock_from_file(file) : NULL;
	struct sock *sock = socket ? socket->sk : NULL;

	return sock && sock->sk_protocol == IPPROTO_TCP ? sock : NULL;
}

static __always_inline bool is_nonblocking(struct file *file)
{
	return file->f_flags & O_NONBLOCK;
}

/* The psock of a socket, or NULL if it is not mapped or close has unlinked it. A peer that waits for the lock
 * of a closing socket keeps the psock for that time, and what it brings is thrown away.
 */
static __always_inline struct sk_psock *psock_of(struct sock *sock)
{
	unsigned long data = (unsigned long)sock->sk_user_data, open;
	struct sk_psock *psock;

	if (!(data & USER_DATA_PSOCK))
		return NULL;
	psock = kernel_object((void *)(data & ~USER_DATA_FLAGS), struct sk_psock);
	open = psock->state & 1ul << bpf_core_enum_value(enum sk_psock_state_bits, SK_PSOCK_TX_ENABLED);
	/* Without a branch the verifier sees arithmetic on the pointer. */
	barrier_var(open);
	return open ? psock : NULL;
}

/* True if the one receive queue (law 3) holds nothing, neither redirected nor from TCP. */
static __always_inline bool is_queue_empty(struct sk_psock *psock)
{
	return (void *)psock->ingress_msg.next ==
	       (void *)psock + bpf_core_field_offset(struct sk_psock, ingress_msg);
}

/* The least receive buffer that a program may set for a mapped socket: what TCP begins with. The psock's
 * queue fills it too; if close finds it more than full and two segments arrive then, Linux 6.12 stops
 * (tcp_collapse).
 */
#define RCVBUF_LEAST 131072

static __always_inline bool is_buffer_small(struct sock *sock)
{
	return BPF_CORE_READ_BITFIELD(sock, sk_userlocks) & SOCK_RCVBUF_LOCK &&
	       sock->sk_rcvbuf < RCVBUF_LEAST;
}

/* True if a socket asks for what redirected data cannot honour, or is not a program's own. */
static __always_inline bool is_special(struct tcp_sock *tcp)
{
	struct sock *sock = sock_of(tcp);

	unsigned long flags = 1ul << bpf_core_enum_value(enum sock_flags, SOCK_ZEROCOPY) |
			      1ul << bpf_core_enum_value(enum sock_flags, SOCK_RCVTSTAMP) |
			      1ul << bpf_core_enum_value(enum sock_flags, SOCK_URGINLINE);

	if (tcp->inet_conn.icsk_ulp_ops || sock->sk_rcvlowat > 1 || sock->sk_peek_off >= 0 ||
	    is_buffer_small(sock))
		return true;
	if (sock->__sk_common.skc_flags & flags || sock->sk_tsflags)
		return true;
	if (BPF_CORE_READ_BITFIELD(tcp, repair) || BPF_CORE_READ_BITFIELD(tcp, recvmsg_inq) ||
	    BPF_CORE_READ_BITFIELD(sock, sk_kern_sock))
		return true;
	if (bpf_core_field_exists(tcp->is_mptcp) && tcp->is_mptcp)
		return true;
	return bpf_core_field_exists(tcp->syn_smc) && BPF_CORE_READ_BITFIELD(tcp, syn_smc);
}

/* How many cgroup levels to search for a covered one. */
#define CGROUP_LEVELS 64

/* True if the socket's cgroup, or one above it, is covered. */
static __always_inline bool is_in_cgroup(struct sock *sock)
{
	struct cgroup *cgroup = sock->sk_cgrp_data.cgroup;
	struct cgroup **ancestors = (void *)cgroup + bpf_core_field_offset(struct cgroup, ancestors);
	int level = BPF_CORE_READ(cgroup, level);

	for (int i = 0; i < CGROUP_LEVELS && i <= level; i++) {
		struct cgroup *ancestor;
		__u64 number;

		if (bpf_probe_read_kernel(&ancestor, sizeof(ancestor), ancestors + i))
			continue;
		number = BPF_CORE_READ(ancestor, kn, id);
		if (bpf_map_lookup_elem(&sockredir_cgrp, &number))
			return true;
	}
	return false;
}

/* Orders earlier loads before later ones on every machine: a compare-and-swap that succeeds is a full barrier
 * in BPF. Other atomic operations lose that where their result is not used.
 */
static __always_inline void full_barrier(struct end *end)
{
	__sync_val_compare_and_swap(&end->fence, 0, 0);
}

#endif
