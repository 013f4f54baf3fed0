/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Law 11: what a program's sockets show about it. An end of an unknown program is watched out of the map,
 * where nothing that it does can go wrong; and every splice is seen, whoever does it.
 */
#ifndef WATCH_H
#define WATCH_H

#include "listen.h"

/* True if a client connected without blocking and blocks before it has sent or received anything: it would
 * leave with this send, before any recv slept there. hiredis and others do so beside clean connections.
 */
static __always_inline bool turns_harmlessly(struct end *end, struct sock *sock, bool nonblocking)
{
	struct tcp_sock *tcp = kernel_object(sock, struct tcp_sock);

	return !nonblocking && !end->accepted && !end->shown && tcp->rcv_nxt == end->own.ack;
}

/* Learns whether a client's socket blocks. Once others of its program did, each service is judged alone. */
static __noinline void connected_learn(struct end *end, struct sock *sock, struct program *program,
				       bool nonblocking)
{
	struct service_key service = {};
	__u32 clean = 0;

	if (nonblocking && program->connects != NATURE_BLOCKING) {
		program->connects = NATURE_NONBLOCKING;
		return;
	}
	service_of(sock, &service);
	if (nonblocking)
		bpf_map_update_elem(&sockredir_turn, &service, &clean, BPF_NOEXIST);
	else
		service_turns(&service, &end->program, COUNTER_REFUSED_TURNS_BLOCKING);
}

/* Learns the program of an end that sends. The running thread is the sender if it owns the socket's lock. It
 * may be of another program than connected or listens, and have an io_uring where that has none.
 */
static __always_inline void show(struct end *end, struct sock *sock)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct file *file = file_of(sock);
	struct program *program;
	bool nonblocking, is_new;

	/* Between accept and fcntl every socket is blocking, but then nothing is sent. */
	if (!file)
		return;
	nonblocking = is_nonblocking(file);
	if (turns_harmlessly(end, sock, nonblocking))
		end->leave_reason = COUNTER_REFUSED_BLOCKING;
	/* Also once its files have been looked at. */
	is_new = !end->shown || has_needless_arguments(&end->program);
	if (is_new)
		program_enter(task, &end->program);
	program = bpf_map_lookup_elem(&sockredir_prog, &end->program);
	if (program && end->accepted)
		accepted_learn(program, sock->__sk_common.skc_num, nonblocking, is_new);
	else if (program && end->leave_reason != COUNTER_REFUSED_BLOCKING)
		connected_learn(end, sock, program, nonblocking);
	if (end->accepted && is_new)
		listener_learn(sock, &end->program, has_io_uring(task) ? COUNTER_REFUSED_IO_URING : 0,
			       nonblocking);
	end->shown = 1;
}

/* What a program reads without a splice it reads by recv. */
static __always_inline void note_read(struct end *end, struct tcp_sock *tcp, struct program *program)
{
	__u32 read = tcp->copied_seq - end->read_seq;

	if (!read || (__s32)read < 0)
		return;
	end->read_seq += read;
	end->read_bytes += read;
	program->reads++;
	if (splices_seen && !program->receives && !program->splices &&
	    (program->reads >= known_reads || end->read_bytes >= known_bytes)) {
		program->receives = 1;
		count(COUNTER_PROGRAMS_KNOWN);
	}
}

/* Looks at one end out of the map. True if there is nothing more to see. */
static __always_inline bool watch(struct bpf_sock_ops *ctx, struct end *end, struct tcp_sock *tcp)
{
	struct sock *sock = sock_of(tcp);
	struct program *program;

	if (!file_of(sock))
		return false;
	if (ctx->skb_len && sock->sk_lock.owned)
		show(end, sock);
	program = bpf_map_lookup_elem(&sockredir_prog, &end->program);
	if (!program || end->leave_reason == COUNTER_REFUSED_BLOCKING)
		return end->shown;
	note_read(end, tcp, program);
	if (program->splices)
		return true;
	/* Its files have been looked at, so its nature has to be noted without its arguments. */
	if (has_needless_arguments(&end->program))
		return false;
	/* An accepted end has told its listener already. */
	return end->shown && reader_refusal(&end->program) == NO_REASON;
}

/* The program that accepted the socket may not be the one that has it now: both stay out of the map. */
static __always_inline void accepted_splice(struct sock *sock)
{
	struct listener *listener = listener_of(sock);
	struct program *program;

	if (!listener)
		return;
	listener->exclusion = COUNTER_REFUSED_SPLICES;
	program = bpf_map_lookup_elem(&sockredir_prog, &listener->program);
	if (program)
		program->splices = 1;
}

/* A program reads a TCP socket around recv, in its own call. It will never see what was redirected or moved
 * out of TCP's queue, so its sockets stay out of the map from now on, and a mapped one goes back to TCP. If
 * its queue holds data already the connection is reset: the program would wait for ever, or take the end of
 * the connection for the end of the data.
 */
static __always_inline void notice_splice(struct sock *sock)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct end *end = bpf_sk_storage_get(&sockredir_end, sock, NULL, 0);
	struct program *program = NULL;
	struct program_key key;
	struct sk_psock *psock;
	struct flow *flow;

	if (splice_works)
		return;
	if (program_key_of(task, &key, true))
		program = program_at(&key, task);
	if (program && !program->splices) {
		program->splices = 1;
		if (is_in_cgroup(sock))
			tell_program(EVENT_SPLICES, &key, task);
	}
	accepted_splice(sock);
	if (!end || !end->mapped)
		return;
	flow = flow_of(end);
	if (flow) {
		refuse(flow, COUNTER_TCP_ONLY_SPLICES);
		send_back(flow, COUNTER_DRAIN_SPLICES);
	}
	psock = psock_of(sock);
	if (psock && !is_queue_empty(psock) && !end->stranded) {
		end->stranded = 1;
		reset(kernel_object(sock, struct tcp_sock), peer_of(end), COUNTER_RESETS_STRANDED);
	}
}

/* Whether the running thread is in a system call that reads from a socket without recv. Every recv from TCP's own queue asks. */
static __always_inline bool is_around_recv(void)
{
	__u32 call = system_call_of(bpf_get_current_task_btf());

	return call == calls_around_recv[0] || call == calls_around_recv[1] || call == calls_around_recv[2] ||
	       call == calls_around_recv[3];
}

#endif
