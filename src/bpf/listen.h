/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is known of programs that accept. A connection is mapped before it is accepted, so whether its program
 * blocks must be known beforehand: a thread that sleeps in recv on a mapped socket wakes up to EAGAIN on a
 * reset or a signal, and reads short with MSG_WAITALL.
 */
#ifndef LISTEN_H
#define LISTEN_H

#include "flow.h"
#include "program.h"

/* The key of a listening socket, and of those it accepted unless it listens at all addresses. Several
 * programs may listen on one port.
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

/* The known listening socket, or NULL if it has closed. */
static __always_inline struct sock *listening(struct listener *listener, __u32 port)
{
	struct sock *sock = kernel_object((void *)listener->sock, struct sock);

	return sock->__sk_common.skc_state == TCP_LISTEN && sock->__sk_common.skc_num == port ? sock : NULL;
}

/* The listener that accepted a socket: as in the kernel, one at its address precedes one at all addresses. */
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

static __always_inline bool is_same_program(const struct program_key *one, const struct program_key *other)
{
	return one->file.inode == other->file.inode && one->file.changed == other->file.changed &&
	       one->file.device == other->file.device && one->arguments == other->arguments;
}

/* Notes that a process holds a listening socket. Several may hold the same one, and several sockets may have
 * one address (SO_REUSEPORT): one excluded holder excludes it. A new socket may reuse an old one's memory.
 */
static __always_inline void listener_add(struct sock *sock, const struct program_key *program,
					 enum counter exclusion, bool is_new)
{
	struct listener listener = { .sock = (unsigned long)sock,
				     .exclusion = exclusion,
				     .program = *program };
	struct listener_key key;
	struct listener *known;

	listener_key_of(sock, &key);
	known = bpf_map_lookup_elem(&sockredir_listen, &key);
	if (!known || (known->sock == listener.sock ? is_new : !listening(known, key.port)))
		bpf_map_update_elem(&sockredir_listen, &key, &listener, BPF_ANY);
	else if (exclusion)
		known->exclusion = exclusion;
	if (known)
		program_key_settle(&known->program);
	if (known && known->sock != listener.sock && !is_same_program(&known->program, program) &&
	    listening(known, key.port))
		known->shared = 1;
}

static __noinline void listen_begins(struct bpf_sock_ops *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;
	struct program_key program;

	if (!tcp)
		return;
	program_enter(task, &program);
	listener_add(sock_of(tcp), &program, exclusion_of(task), true);
}

/* What the accepted sockets turned out to be, of this listener or of its program's earlier ones at this port. A
 * listener that does not block says nothing, as some programs poll it and block in recv on what they accept; it
 * counts for trusted ones.
 */
static __always_inline enum nature accepts_of(struct listener *listener, struct program *program, __u32 port)
{
	struct sock *sock;
	struct file *file;

	if (listener->accepts != NATURE_UNKNOWN)
		return listener->accepts;
	if (program && program->accepts == NATURE_NONBLOCKING && has_shown_port(program, port))
		return NATURE_NONBLOCKING;
	if (!(program ? is_trusted(program) : trust_all))
		return NATURE_UNKNOWN;
	sock = listening(listener, port);
	file = sock ? file_of(sock) : NULL;
	return file && is_nonblocking(file) ? NATURE_NONBLOCKING : NATURE_UNKNOWN;
}

/* Learns from an accepted socket that sends which program has it, and whether that blocks. */
static __always_inline void listener_learn(struct sock *sock, const struct program_key *program,
					   enum counter exclusion, bool nonblocking)
{
	struct listener *listener = listener_of(sock);

	if (!listener)
		return;
	listener->accepts = nonblocking ? NATURE_NONBLOCKING : NATURE_BLOCKING;
	listener->program = *program;
	if (exclusion)
		listener->exclusion = exclusion;
}

#endif
