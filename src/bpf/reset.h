/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Law 10: an end that closes after it half-closed tells its sender what will never be read. */
#ifndef RESET_H
#define RESET_H

#include "event.h"

/* True if data is, or was, in the psock's queue unread: it is freed some time after close() unlinked it. */
static __always_inline bool has_unread(struct tcp_sock *tcp)
{
	return sock_of(tcp)->sk_backlog.rmem_alloc.counter || (__s32)(tcp->rcv_nxt - tcp->copied_seq) > 0;
}

/* close() of an end that has sent its FIN: from a state to the same one, which nothing else does. TCP would
 * reset if its own queue held data; here the psock's does, so nothing is sent, and the time-wait socket that
 * follows keeps the window shut for a minute.
 */
static __noinline void close_half_closed(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct end *end = sk ? bpf_sk_storage_get(&sockredir_end, sk, NULL, 0) : NULL;
	struct tcp_sock *tcp = end ? bpf_skc_to_tcp_sock(sk) : NULL;

	if (tcp && end->mapped && !psock_of(sock_of(tcp)) && has_unread(tcp))
		reset(tcp, peer_of(end), COUNTER_RESETS_UNREAD);
}

#endif
