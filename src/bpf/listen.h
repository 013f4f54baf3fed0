/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is known of programs that accept. A connection enters the map before it is accepted, so whether its program uses
 * blocking sockets has to be known beforehand: a thread that sleeps in recv on a mapped socket wakes up to EAGAIN on a
 * reset or a signal, and reads short with MSG_WAITALL.
 */
#ifndef LISTEN_H
#define LISTEN_H

#include "flow.h"
#include "program.h"

/* A process holds a listening socket. Several may hold the same one: it is excluded if one of them is. */
static __always_inline void listener_add(__u64 netns, struct sock *sock, struct task_struct *task)
{
	struct listener_key key = { .netns = netns, .port = sock->__sk_common.skc_num };
	struct listener *known = bpf_map_lookup_elem(&sockredir_listen, &key);
	struct listener listener = { .sock = (unsigned long)sock, .exclusion = exclusion_of(task) };

	if (!known || known->sock != listener.sock)
		bpf_map_update_elem(&sockredir_listen, &key, &listener, BPF_ANY);
	else if (listener.exclusion)
		known->exclusion = listener.exclusion;
}

static __always_inline void listen_begins(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;

	if (tcp)
		listener_add(bpf_get_netns_cookie(ctx), sock_of(tcp), bpf_get_current_task_btf());
}

static __always_inline struct listener *listener_of(struct bpf_sock_ops *ctx)
{
	struct listener_key key = { .netns = bpf_get_netns_cookie(ctx), .port = ctx->local_port };

	return bpf_map_lookup_elem(&sockredir_listen, &key);
}

/* What the accepted sockets turned out to be; before the first of them has shown it, what the listener is: programs with
 * event loops make both non-blocking. Programs that accept in a thread of their own do not, and are known after one
 * connection. The listener may have closed, so nothing is believed of it unless it still listens on that port.
 */
static __always_inline enum accepts accepts_of(struct listener *listener, __u32 port)
{
	struct sock *sock;
	struct file *file;

	if (!listener)
		return ACCEPTS_UNKNOWN;
	if (listener->accepts != ACCEPTS_UNKNOWN)
		return listener->accepts;
	sock = kernel_object((void *)listener->sock, struct sock);
	if (sock->__sk_common.skc_state != TCP_LISTEN || sock->__sk_common.skc_num != port)
		return ACCEPTS_UNKNOWN;
	file = file_of(sock);
	return file && is_nonblocking(file) ? ACCEPTS_NONBLOCKING : ACCEPTS_UNKNOWN;
}

/* An accepted socket that sends shows what its program makes of its sockets. The running thread is the sender if it owns the
 * socket's lock; it may have an io_uring where the thread that listens has none.
 */
static __always_inline void listener_learn(struct bpf_sock_ops *ctx, struct sock *sock, struct file *file)
{
	struct listener *listener = listener_of(ctx);

	if (!listener)
		return;
	listener->accepts = is_nonblocking(file) ? ACCEPTS_NONBLOCKING : ACCEPTS_BLOCKING;
	if (sock->sk_lock.owned && has_io_uring(bpf_get_current_task_btf()))
		listener->exclusion = COUNTER_REFUSED_IO_URING;
}

#endif
