/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Socket options that redirected data cannot honour: a flow whose end sets one goes back to TCP. What was
 * redirected before is still read in order.
 */
#ifndef OPTIONS_H
#define OPTIONS_H

#include "adopt.h"
#include "socket.h"

/* Kernel macros, which BTF does not carry (asm-generic/socket.h, linux/tcp.h, errno). */
#define SO_OOBINLINE 10
#define SO_TIMESTAMP_OLD 29
#define SO_RCVBUFFORCE 33
#define SO_TIMESTAMPNS_OLD 35
#define SO_TIMESTAMPING_OLD 37
#define SO_PEEK_OFF 42
#define SO_ZEROCOPY 60
#define SO_TIMESTAMP_NEW 63
#define SO_TIMESTAMPNS_NEW 64
#define SO_TIMESTAMPING_NEW 65
#define TCP_REPAIR 19
#define TCP_ULP 31
#define TCP_INQ 36
#define ENOENT 2
#define EBUSY 16
/* BPF sees this much of a value; with the length set to 0 the kernel takes the original of a longer one. */
#define OPTION_BYTES 4096

/* The integer value of an option, or 0 if it has none. */
static __always_inline __s32 option_value(struct bpf_sockopt *ctx)
{
	__s32 *value = ctx->optval;

	return (void *)(value + 1) <= ctx->optval_end ? *value : 0;
}

static __always_inline bool is_option_special(struct bpf_sockopt *ctx)
{
	__s32 value = option_value(ctx);

	if (ctx->level == SOL_TCP)
		return ctx->optname == TCP_ULP ||
		       ((ctx->optname == TCP_REPAIR || ctx->optname == TCP_INQ) && value);
	if (ctx->level != SOL_SOCKET)
		return false;
	switch (ctx->optname) {
	case SO_RCVLOWAT:
		return value > 1;
	/* The kernel doubles it. */
	case SO_RCVBUF:
	case SO_RCVBUFFORCE:
		return value < RCVBUF_LEAST / 2;
	case SO_PEEK_OFF:
		return value >= 0;
	case SO_OOBINLINE:
	case SO_ZEROCOPY:
	case SO_TIMESTAMP_OLD:
	case SO_TIMESTAMPNS_OLD:
	case SO_TIMESTAMPING_OLD:
	case SO_TIMESTAMP_NEW:
	case SO_TIMESTAMPNS_NEW:
	case SO_TIMESTAMPING_NEW:
		return value;
	}
	return false;
}

/* The error for the program, or 0 to let the kernel go on. On some kernels a ULP on a mapped socket would mix
 * its records with redirected bytes, so the program is told there is none, as without kernel TLS; the
 * service's later connections stay on TCP and get theirs. TCP_REPAIR must not miss data outside TCP's queue.
 */
static __always_inline int option_error(struct bpf_sockopt *ctx, struct sock *sock)
{
	struct sk_psock *psock;

	if (ctx->level != SOL_TCP)
		return 0;
	psock = psock_of(sock);
	if (!psock)
		return 0;
	if (ctx->optname == TCP_ULP)
		return -ENOENT;
	return ctx->optname == TCP_REPAIR && !is_queue_empty(psock) ? -EBUSY : 0;
}

/* Returns 1 to let the kernel set the option. */
static __always_inline int guard_option(struct bpf_sockopt *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct flow *flow;
	struct end *end;
	int error;

	if (ctx->optlen > OPTION_BYTES)
		ctx->optlen = 0;
	if (!sk || !is_option_special(ctx))
		return 1;
	end = bpf_sk_storage_get(&sockredir_end, sk, NULL, 0);
	if (!end || !end->mapped) {
		forget(kernel_object(sk, struct sock));
		return 1;
	}
	flow = flow_of(end);
	if (!flow)
		return 1;
	refuse(flow, COUNTER_TCP_ONLY_SPECIAL);
	send_back(flow, COUNTER_DRAIN_SPECIAL);
	if (ctx->optname == TCP_ULP && ctx->level == SOL_TCP)
		flow_turns(flow, COUNTER_REFUSED_ULP);
	error = option_error(ctx, kernel_object(sk, struct sock));
	if (!error)
		return 1;
	bpf_set_retval(error);
	return 0;
}

#endif
