// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The entry points of the datapath. docs/datapath.md explains its laws. */
#include "adopt.h"
#include "observe.h"
#include "options.h"
#include "queue.h"
#include "reset.h"
#include "verdict.h"

#include <bpf/bpf_tracing.h>

/* New connections, and ends to look at under their own lock. */
SEC("sockops")
int sockredir_ops(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		establish_active(ctx);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		establish_passive(ctx);
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		connect_begins(ctx);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		listen_begins(ctx);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
	case BPF_SOCK_OPS_RTT_CB:
		maintain_end(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == TCP_CLOSE)
			end_of_life(ctx);
		else if (ctx->args[0] == ctx->args[1] &&
			 (ctx->args[1] == TCP_FIN_WAIT1 || ctx->args[1] == TCP_FIN_WAIT2))
			close_half_closed(ctx);
		else if (admit_any && ctx->args[1] == TCP_FIN_WAIT1)
			half_close(ctx);
		break;
	}
	return 1;
}

SEC("sk_msg")
int sockredir_msg(struct sk_msg_md *msg)
{
	return verdict(msg);
}

SEC("sk_skb/verdict")
int sockredir_skb(struct __sk_buff *skb)
{
	cut_repeated(skb);
	return SK_PASS;
}

SEC("cgroup/setsockopt")
int sockredir_option(struct bpf_sockopt *ctx)
{
	return guard_option(ctx);
}

/* Notes the programs that already listen, in all network namespaces, and those that hold connections that may
 * be adopted. Sleepable, to read their arguments.
 */
SEC("iter.s/task_file")
int sockredir_listeners(struct bpf_iter__task_file *ctx)
{
	struct sock *sock = tcp_behind(ctx->file);
	struct task_struct *task = ctx->task;
	struct program_key program;

	if (!sock || !task)
		return 0;
	if (sock->__sk_common.skc_state == TCP_ESTABLISHED) {
		held(sock, task);
	} else if (sock->__sk_common.skc_state == TCP_LISTEN) {
		if (program_key_of(task, &program, false))
			program_at(&program, task);
		listener_add(sock, &program, exclusion_of(task), false);
	}
	return 0;
}

/* Law 11: the first two where the kernel has them, as they cost nothing until somebody splices or receives
 * without copies; else the tracepoint that every read from TCP's own queue passes.
 */
SEC("fentry/tcp_splice_read")
int BPF_PROG(sockredir_splice, struct socket *socket)
{
	notice_splice(socket->sk);
	return 0;
}

SEC("fentry/tcp_mmap")
int BPF_PROG(sockredir_mmap, struct file *file, struct socket *socket)
{
	notice_splice(socket->sk);
	return 0;
}

SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(sockredir_read, struct sock *sock)
{
	/* Without an owner of the lock this is an interrupt, in an arbitrary thread. */
	if (sock && sock->sk_lock.owned && is_around_recv())
		notice_splice(sock);
	return 0;
}

/* Writes the namespace number (__u32) of each connection that a scan may adopt, in all namespaces. */
SEC("iter/task_file")
int sockredir_elsewhere(struct bpf_iter__task_file *ctx)
{
	struct sock *sock = tcp_behind(ctx->file);
	__u32 number;

	if (!sock || !is_candidate(sock))
		return 0;
	number = netns_number(sock);
	bpf_seq_write(ctx->meta->seq, &number, sizeof(number));
	return 0;
}

/* Writes struct socket_info for each TCP socket of the covered cgroups, in all network namespaces. */
SEC("iter/task_file")
int sockredir_sockets(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;
	struct sock *sock = tcp_behind(file);
	struct task_struct *task = ctx->task;

	if (sock && task)
		report_socket(ctx->meta->seq, sock, file, task);
	return 0;
}

/* Totals over all ends in the map (struct tally). */
SEC("syscall")
int sockredir_tally(struct tally *ctx)
{
	struct tally tally = {};

	bpf_for_each_map_elem(&sockredir_flow, tally_flow, &tally, 0);
	*ctx = tally;
	return 0;
}

/* Law 8: looks at every end of the reader's network namespace. */
SEC("iter/tcp")
int sockredir_stop(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tcp = common ? bpf_skc_to_tcp_sock(common) : NULL;

	if (tcp)
		maintain_idle_end(tcp);
	return 0;
}

/* Law 1, adoption: looks at every connection of the reader's network namespace. */
SEC("iter/tcp")
int sockredir_adopt(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tcp;

	if (!common || common->skc_state != TCP_ESTABLISHED)
		return 0;
	tcp = bpf_skc_to_tcp_sock(common);
	if (tcp)
		adopt(tcp);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
