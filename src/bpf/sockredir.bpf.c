// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The entry points of the datapath. docs/datapath.md numbers its laws. */
#include "establish.h"
#include "leave.h"
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
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
	case BPF_SOCK_OPS_RTT_CB:
		attend(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == TCP_CLOSE)
			end_of_life(ctx);
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

/* Law 8: for every end in the map, the bytes that wait to be read from its queue. */
SEC("iter/sockmap")
int sockredir_ends(struct bpf_iter__sockmap *ctx)
{
	struct sock *sock = ctx->sk;
	struct sk_psock *psock = sock ? psock_of(sock) : NULL;
	__u32 unread;

	if (!psock)
		return 0;
	unread = is_queue_empty(psock) ? 0 : psock->msg_tot_len;
	bpf_seq_write(ctx->meta->seq, &unread, sizeof(unread));
	return 0;
}

/* Law 8: one look at every end of this network namespace. */
SEC("iter/tcp")
int sockredir_stop(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tcp = common ? bpf_skc_to_tcp_sock(common) : NULL;

	if (tcp)
		attend_idle(tcp);
	return 0;
}

/* The connection that the tool tries the kernel with, before anything else is attached: its two ends by index. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} sockredir_probe SEC(".maps");

/* The end that the probe redirects to; any other number lets its messages go through TCP. */
volatile __u32 probe_target;

SEC("sk_msg")
int sockredir_try(struct sk_msg_md *msg)
{
	bpf_msg_redirect_map(msg, &sockredir_probe, probe_target, BPF_F_INGRESS);
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
