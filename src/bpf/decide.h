/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Decisions on flows: each is counted and, with --log-decisions, logged with its endpoints. */
#ifndef DECIDE_H
#define DECIDE_H

#include "socket.h"

static __always_inline void address_of(__u32 *address, __be32 v4, const struct in6_addr *v6, __u16 family)
{
	if (family == AF_INET) {
		address[0] = address[1] = 0;
		address[2] = bpf_htonl(0xffff);
		address[3] = v4;
		return;
	}
	for (int i = 0; i < 4; i++)
		address[i] = v6->in6_u.u6_addr32[i];
}

static __always_inline void endpoints_of(struct sock *sock, struct endpoints *endpoints)
{
	struct sock_common *common = &sock->__sk_common;

	endpoints->netns = common->skc_net.net->net_cookie;
	address_of(endpoints->local, common->skc_rcv_saddr, &common->skc_v6_rcv_saddr, common->skc_family);
	address_of(endpoints->remote, common->skc_daddr, &common->skc_v6_daddr, common->skc_family);
	endpoints->local_port = common->skc_num;
	endpoints->remote_port = bpf_ntohs(common->skc_dport);
}

static __noinline void log_decision(struct sock *sock, enum counter reason)
{
	struct decision *decision = bpf_ringbuf_reserve(&sockredir_log, sizeof(*decision), 0);

	if (!decision) {
		count(COUNTER_DECISIONS_DROPPED);
		return;
	}
	endpoints_of(sock, &decision->endpoints);
	decision->time = bpf_ktime_get_ns();
	decision->reason = reason;
	decision->pad = 0;
	bpf_ringbuf_submit(decision, 0);
}

/* Counts a decision about this end. */
static __always_inline void decide(struct sock *sock, enum counter reason)
{
	count(reason);
	if (log_decisions)
		log_decision(sock, reason);
}

#endif
