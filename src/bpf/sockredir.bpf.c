// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The entry points of the datapath. docs/datapath.md numbers its laws. */
#include "adopt.h"
#include "observe.h"
#include "options.h"
#include "queue.h"
#include "verdict.h"

/* Connections that begin, and ends that are looked at under their own lock. */
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
		attend(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == TCP_CLOSE)
			end_of_life(ctx);
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

/* The programs that listen already, of all network namespaces, and those that hold connections which may be adopted. */
SEC("iter/task_file")
int sockredir_listeners(struct bpf_iter__task_file *ctx)
{
	struct sock *sock = tcp_behind(ctx->file);
	struct task_struct *task = ctx->task;

	if (!sock || !task)
		return 0;
	if (sock->__sk_common.skc_state == TCP_LISTEN)
		listener_add(sock, task, false);
	else if (sock->__sk_common.skc_state == TCP_ESTABLISHED)
		held(sock, task);
	return 0;
}

/* For every connection that a scan may adopt, in all network namespaces, the number of its own (__u32). */
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

/* For every TCP socket of the covered cgroup that a program holds, in all network namespaces (struct seen). */
SEC("iter/task_file")
int sockredir_seen(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;
	struct sock *sock = tcp_behind(file);
	struct task_struct *task = ctx->task;

	if (sock && task)
		see(ctx->meta->seq, sock, file, task);
	return 0;
}

/* Attached for a moment, when readers seem to be stuck: a trace of system calls costs all programs of the host. */
SEC("tp_btf/sys_enter")
int sockredir_splice(unsigned long long *ctx)
{
	if (ctx[1] == splice_call)
		notice_splice((void *)ctx[0]);
	return 0;
}

/* For every end in the map, what waits to be read from its queue and the state of its flow (struct mapped). */
SEC("iter/sockmap")
int sockredir_ends(struct bpf_iter__sockmap *ctx)
{
	struct sock *sock = ctx->sk;
	struct sk_psock *psock = sock ? psock_of(sock) : NULL;
	struct end_key *key = ctx->key;
	struct mapped mapped = {};
	struct flow_key flow_key;
	struct flow *flow;

	if (!psock || !key)
		return 0;
	mapped.end = *key;
	mapped.netns = netns_number(sock);
	mapped.unread = unread_bytes(psock);
	flow_key = flow_key_of(mapped.end);
	flow = bpf_map_lookup_elem(&sockredir_flow, &flow_key);
	mapped.state = flow ? state_of(flow_word(flow)) : FLOW_TCP_ONLY;
	bpf_seq_write(ctx->meta->seq, &mapped, sizeof(mapped));
	return 0;
}

/* Law 8: one look at every end of the reader's network namespace. */
SEC("iter/tcp")
int sockredir_stop(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tcp = common ? bpf_skc_to_tcp_sock(common) : NULL;

	if (tcp)
		attend_idle(tcp);
	return 0;
}

/* Law 1, adoption: one look at every connection of the reader's network namespace. */
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
