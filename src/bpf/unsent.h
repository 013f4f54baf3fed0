/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The write queue of a bulk sender. A direction comes back from TCP when all its earlier bytes have arrived (law 5); a sender
 * that fills its queue again as soon as there is room never gets there, and goes on through TCP. While TCP_NOTSENT_LOWAT is one
 * byte it has room when nothing is unsent, and on loopback what is sent has arrived. Only a reader that goes on reading is
 * waited for: at the first probe of a shut window the sender has all of its queue again, as on TCP, where a program may count
 * on it that so much can be sent before anything is read.
 */
#ifndef UNSENT_H
#define UNSENT_H

#include "flow.h"
#include "socket.h"

/* linux/tcp.h, whose macros BTF does not carry */
#define TCP_NOTSENT_LOWAT 25

/* The context is that of a callback, or a socket whose lock is held. What the program has set itself stays. */
static __always_inline void unsent_set(void *context, struct end *end, struct tcp_sock *tcp, int most)
{
	if (end->unsent == most)
		return;
	if (tcp->notsent_lowat == end->unsent)
		bpf_setsockopt(context, SOL_TCP, TCP_NOTSENT_LOWAT, &most, sizeof(most));
	end->unsent = most;
}

/* Something is to be sent and nothing is under way: what goes out without data is a probe of the window. */
static __always_inline bool is_probe(struct bpf_sock_ops *ctx, struct tcp_sock *tcp)
{
	return ctx->op == BPF_SOCK_OPS_HDR_OPT_LEN_CB && !(ctx->args[0] & BPF_WRITE_HDR_TCP_CURRENT_MSS) &&
	       !ctx->skb_len && !tcp->packets_out && tcp->write_seq != tcp->snd_nxt;
}

/* Under the end's own lock, at each look at it. */
static __always_inline void unsent_update(struct bpf_sock_ops *ctx, struct end *end, struct tcp_sock *tcp,
					  enum flow_state state)
{
	int most = end->unsent;
	struct file *file;

	if (state != FLOW_ADMITTED || !end->bulk || is_probe(ctx, tcp)) {
		most = 0;
	} else if (ctx->skb_len) {
		file = file_of(sock_of(tcp));
		/* --admit any: room for a writer wakes a thread that blocks in recv to EAGAIN. */
		if (file && is_nonblocking(file))
			most = 1;
	}
	unsent_set(ctx, end, tcp, most);
}

#endif
