/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Law 10: an end that closes when it has half-closed before tells its sender what is never going to be read. */
#ifndef RESET_H
#define RESET_H

#include "event.h"

/* Nobody will read what is in the psock's queue, or was there: it is freed at some time after close() has unlinked it. */
static __always_inline bool has_unread(struct tcp_sock *tcp)
{
	return sock_of(tcp)->sk_backlog.rmem_alloc.counter || (__s32)(tcp->rcv_nxt - tcp->copied_seq) > 0;
}

/* close() of an end that has sent its FIN: from a state to the same one, which nothing else does. TCP would send a reset if
 * its own queue held something; here that is in the psock's, so nothing is sent any more, and the time-wait socket that
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
