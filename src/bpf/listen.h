/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is known of programs that accept. A connection enters the map before it is accepted, so whether its program uses
 * blocking sockets has to be known beforehand: a thread that sleeps in recv on a mapped socket wakes up to EAGAIN on a
 * reset or a signal, and reads short with MSG_WAITALL.
 */
#ifndef LISTEN_H
#define LISTEN_H

#include "flow.h"
#include "program.h"

/* Of a listening socket, and of those that it has accepted unless it listens at all addresses. One port can have several, of
 * programs that differ.
 */
static __always_inline void listener_key_of(struct sock *sock, struct listener_key *key)
{
	struct sock_common *common = &sock->__sk_common;

	__builtin_memset(key, 0, sizeof(*key));
	key->netns = common->skc_net.net->net_cookie;
	key->port = common->skc_num;
	key->family = common->skc_family;
	if (key->family == AF_INET6)
		BPF_CORE_READ_INTO(&key->address, common, skc_v6_rcv_saddr.in6_u.u6_addr32);
	else
		key->address[0] = common->skc_rcv_saddr;
}

/* The listening socket that something is known of, if it still listens there: it may have closed. */
static __always_inline struct sock *listening(struct listener *listener, __u32 port)
{
	struct sock *sock = kernel_object((void *)listener->sock, struct sock);

	return sock->__sk_common.skc_state == TCP_LISTEN && sock->__sk_common.skc_num == port ? sock : NULL;
}

/* Who has accepted a socket: as the kernel looks for it, a listener at its address goes before one at all addresses. */
static __always_inline struct listener *listener_of(struct sock *sock)
{
	struct listener *here, *anywhere;
	struct listener_key key;

	listener_key_of(sock, &key);
	here = bpf_map_lookup_elem(&sockredir_listen, &key);
	if (here && listening(here, key.port))
		return here;
	__builtin_memset(key.address, 0, sizeof(key.address));
	anywhere = bpf_map_lookup_elem(&sockredir_listen, &key);
	return anywhere ? anywhere : here;
}

/* A process holds a listening socket. Several may hold the same one, and several sockets may have one address
 * (SO_REUSEPORT): it is excluded if one of them is. A new socket may be where an old one was in memory.
 */
static __always_inline void listener_add(struct sock *sock, struct task_struct *task, bool is_new)
{
	struct listener listener = { .sock = (unsigned long)sock, .exclusion = exclusion_of(task) };
	struct listener_key key;
	struct listener *known;

	listener_key_of(sock, &key);
	known = bpf_map_lookup_elem(&sockredir_listen, &key);
	if (!known || (known->sock == listener.sock ? is_new : !listening(known, key.port)))
		bpf_map_update_elem(&sockredir_listen, &key, &listener, BPF_ANY);
	else if (listener.exclusion)
		known->exclusion = listener.exclusion;
}

static __always_inline void listen_begins(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;

	if (tcp)
		listener_add(sock_of(tcp), bpf_get_current_task_btf(), true);
}

/* What the accepted sockets turned out to be; before the first of them has shown it, what the listener is: programs with
 * event loops make both non-blocking. Programs that accept in a thread of their own do not, and are known after one
 * connection.
 */
static __always_inline enum accepts accepts_of(struct listener *listener, __u32 port)
{
	struct sock *sock;
	struct file *file;

	if (!listener)
		return ACCEPTS_UNKNOWN;
	if (listener->accepts != ACCEPTS_UNKNOWN)
		return listener->accepts;
	sock = listening(listener, port);
	file = sock ? file_of(sock) : NULL;
	return file && is_nonblocking(file) ? ACCEPTS_NONBLOCKING : ACCEPTS_UNKNOWN;
}

/* An accepted socket that sends shows what its program makes of its sockets. The running thread is the sender if it owns the
 * socket's lock; it may have an io_uring where the thread that listens has none.
 */
static __always_inline void listener_learn(struct sock *sock, struct file *file)
{
	struct listener *listener = listener_of(sock);

	if (!listener)
		return;
	listener->accepts = is_nonblocking(file) ? ACCEPTS_NONBLOCKING : ACCEPTS_BLOCKING;
	if (sock->sk_lock.owned && has_io_uring(bpf_get_current_task_btf()))
		listener->exclusion = COUNTER_REFUSED_IO_URING;
}

#endif
