/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The write queue of a bulk sender. A direction comes back from TCP when all its earlier bytes have arrived (law 5); a sender that
 * fills its queue again as soon as there is room never gets there, and goes on through TCP for good. While TCP_NOTSENT_LOWAT is
 * one byte, it has room when nothing is unsent, and on loopback what is sent has arrived: streams of 64 KiB messages on one
 * core run at 2.3 of plain TCP, and at 0.96 without.
 */
#ifndef UNSENT_H
#define UNSENT_H

#include "flow.h"
#include "socket.h"

/* The context is that of a callback, or a socket whose lock is held. What the program has set itself stays. */
static __always_inline void unsent_set(void *context, struct end *end, struct tcp_sock *tcp, int most)
{
	if (tcp->notsent_lowat == end->unsent)
		bpf_setsockopt(context, SOL_TCP, TCP_NOTSENT_LOWAT, &most, sizeof(most));
	end->unsent = most;
}

/* Under the end's own lock, at each look at it. */
static __always_inline void unsent_tend(void *context, struct end *end, struct tcp_sock *tcp,
					enum flow_state state)
{
	int most = end->bulk && (state == FLOW_OBSERVE || state == FLOW_ADMITTED);

	if (most != end->unsent)
		unsent_set(context, end, tcp, most);
}

#endif
