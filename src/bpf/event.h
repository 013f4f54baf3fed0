/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Events for the daemon, which handles them at once in a thread of its own. */
#ifndef EVENT_H
#define EVENT_H

#include "flow.h"

/* Tells the daemon of the program that a task executes. */
static __always_inline void tell_program(enum event_kind kind, const struct program_key *key,
					 struct task_struct *task)
{
	struct event *event = bpf_ringbuf_reserve(&sockredir_event, sizeof(*event), 0);

	if (!event) {
		count(COUNTER_EVENTS_DROPPED);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->kind = kind;
	event->program = *key;
	event->pid = task->tgid;
	BPF_CORE_READ_STR_INTO(&event->name, task, group_leader, comm);
	bpf_ringbuf_submit(event, 0);
}

/* The peer, as long as it is registered. */
static __always_inline struct tcp_sock *peer_of(struct end *end)
{
	struct flow *flow = flow_of(end);

	if (!flow || !(flow_word(flow) & FLOW_END(!end->side)))
		return NULL;
	return kernel_object((void *)flow->sock[!end->side], struct tcp_sock);
}

/* Has the daemon reset the connection of a locked socket, as only TCP itself and raw sockets can. The peer,
 * if known, may go away meanwhile: what is then read of it fits no connection.
 */
static __always_inline void reset(struct tcp_sock *tcp, struct tcp_sock *peer, enum counter reason)
{
	struct event *event = bpf_ringbuf_reserve(&sockredir_event, sizeof(*event), 0);
	struct sock *sock = sock_of(tcp);

	if (!event) {
		count(COUNTER_EVENTS_DROPPED);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	endpoints_of(sock, &event->endpoints);
	event->kind = EVENT_RESET;
	event->reason = reason;
	event->netns = netns_number(sock);
	event->seq = tcp->snd_nxt;
	event->heard = tcp->snd_una;
	if (peer) {
		endpoints_of(sock_of(peer), &event->peer);
		event->peer_netns = netns_number(sock_of(peer));
		event->heard = peer->rcv_nxt;
	}
	event->ack = tcp->rcv_nxt;
	event->mark = sock->sk_mark;
	event->interface = sock->__sk_common.skc_bound_dev_if;
	bpf_ringbuf_submit(event, 0);
	decide(sock, reason);
}

#endif
