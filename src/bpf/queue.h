/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The one receive queue (law 3): what comes through TCP is moved, in order of arrival, to the queue of
 * redirected messages. Readers that use edges or FIONREAD then see one stream.
 */
#ifndef QUEUE_H
#define QUEUE_H

#include "flow.h"
#include "socket.h"

/* The most that one call cuts off (sk_skb_adjust_room), and the calls needed for a 64 KiB segment. */
#define CUT_BYTES 4095
#define CUTS 17

/* Cuts off bytes that were received before: a segment sent again together with later ones can begin with
 * some. TCP's own readers skip them; the socket map hands on the whole segment. On loopback this happens when
 * tiny segments fill the receiver's memory and the kernel drops some.
 */
static __always_inline void cut_repeated(struct __sk_buff *ctx)
{
	struct sk_buff *skb = bpf_cast_to_kern_ctx(ctx);
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;
	__u32 side = 0, begin, end, repeated;
	struct tcp_skb_cb *segment;
	struct flow *flow;

	flow = tcp ? flow_of_socket(tcp, &side) : NULL;
	if (!flow)
		return;
	segment = kernel_object((void *)skb + bpf_core_field_offset(struct sk_buff, cb), struct tcp_skb_cb);
	begin = segment->seq;
	end = segment->end_seq;
	repeated = flow->queue_next[side & 1] - begin;
	if ((__s32)(end - flow->queue_next[side & 1]) > 0)
		flow->queue_next[side & 1] = end;
	if ((__s32)repeated <= 0 || repeated >= ctx->len)
		return;
	count_many(COUNTER_BYTES_REPEATED, repeated);
	for (int i = 0; i < CUTS && repeated; i++) {
		__u32 cut = repeated < CUT_BYTES ? repeated : CUT_BYTES;

		if (bpf_skb_adjust_room(ctx, -(__s32)cut, 0, 0)) {
			count(COUNTER_REPEATED_UNCUT);
			return;
		}
		repeated -= cut;
	}
}

#endif
