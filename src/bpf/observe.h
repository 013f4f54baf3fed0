/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is told of sockets when somebody asks, read from where it is. */
#ifndef OBSERVE_H
#define OBSERVE_H

#include "adopt.h"

/* What waits in the one receive queue (law 3). */
static __always_inline __u32 unread_bytes(struct sk_psock *psock)
{
	return is_queue_empty(psock) ? 0 : psock->msg_tot_len;
}

/* One end of a flow that is in the map. Its socket lives as long as the record counts it, but for the moment of the look. */
static __always_inline void tally_end(struct tally *tally, struct flow *flow, __u32 side)
{
	struct sock *sock = kernel_object((void *)flow->sock[side], struct sock);
	struct sk_psock *psock;
	__u32 netns, unread;
	__u8 here = 1;

	if (!(flow_word(flow) & FLOW_END(side)))
		return;
	tally->ends++;
	netns = netns_number(sock);
	bpf_map_update_elem(&sockredir_home, &netns, &here, BPF_ANY);
	psock = psock_of(sock);
	unread = psock ? unread_bytes(psock) : 0;
	tally->unread_ends += !!unread;
	tally->unread_bytes += unread;
}

static long tally_flow(void *map, struct flow_key *key, struct flow *flow, struct tally *tally)
{
	tally->flows[state_of(flow_word(flow)) & FLOW_TCP_ONLY]++;
	tally_end(tally, flow, 0);
	tally_end(tally, flow, 1);
	return 0;
}

/* Why a scan has not adopted a socket that it would take: it has seen it for a while, but not the other end, or had something to
 * read.
 */
static __always_inline enum counter unadopted(const struct endpoints *endpoints)
{
	struct candidate *own = bpf_map_lookup_elem(&sockredir_cand, endpoints), *mate;
	struct endpoints mirrored;

	if (!own || own->scan != adopt_scan || bpf_ktime_get_ns() - own->since < adopt_seen_ms * MILLISECOND)
		return NOT_FOLLOWED;
	mirror(endpoints, &mirrored);
	mate = bpf_map_lookup_elem(&sockredir_cand, &mirrored);
	if (!mate || mate->scan != adopt_scan)
		return COUNTER_ADOPT_UNPAIRED;
	return own->unread ? COUNTER_ADOPT_UNREAD : NOT_FOLLOWED;
}

/* Why a socket that was never followed is not: what the gate and a scan would say now. */
static __always_inline enum counter refusal_now(struct sock *sock, struct tcp_sock *tcp,
						const struct endpoints *endpoints, struct task_struct *task)
{
	enum counter refusal = gate_of(tcp, exclusion_of(task));
	__u32 netns = netns_number(sock);
	struct service_key key = {};
	struct service *service;

	if (refusal != COUNTERS)
		return refusal;
	refusal = adoption_of(tcp);
	if (refusal == COUNTER_REFUSED_TAKEN)
		return refusal;
	service_of(sock, &key);
	service = bpf_map_lookup_elem(&sockredir_svc, &key);
	if (turn_of(&key) > 0)
		return turn_of(&key);
	if (!adopt_scan)
		return service && service->score <= 0 ? COUNTER_REFUSED_SERVICE : NOT_FOLLOWED;
	if (bpf_map_lookup_elem(&sockredir_netns, &netns))
		return COUNTER_ADOPT_NAMESPACE;
	return refusal == COUNTERS ? unadopted(endpoints) : refusal;
}

static __always_inline void see_end(struct seen *seen, struct end *end, struct sk_psock *psock)
{
	struct flow *flow = end->mapped ? flow_of(end) : NULL;

	seen->age = bpf_ktime_get_ns() - end->since;
	seen->flow = end->flow;
	seen->accepted = end->accepted;
	seen->redirected = end->sent;
	seen->passed = end->passed;
	seen->queue = psock ? unread_bytes(psock) : 0;
	seen->queue_peak = end->queue_peak;
	if (end->sent.messages || end->passed.messages)
		seen->last_message = end->reason;
	seen->state = flow ? state_of(flow_word(flow)) : FLOW_TCP_ONLY;
	seen->reason = flow ? flow->reason : end->left;
	if (!seen->reason)
		seen->reason = flow ? COUNTER_MESSAGES_OBSERVED : COUNTER_TCP_ONLY_CLOSED;
}

/* A process has a TCP socket open. */
static __always_inline void see(struct seq_file *seq, struct sock *sock, struct file *file,
				struct task_struct *task)
{
	struct tcp_sock *tcp = kernel_object(sock, struct tcp_sock);
	struct seen seen = { .last_message = COUNTERS, .state = FLOW_TCP_ONLY };
	__u8 state = sock->__sk_common.skc_state;
	struct listener *listener;
	struct end *end;

	if (state == TCP_CLOSE || state == TCP_SYN_SENT || !is_in_cgroup(sock))
		return;
	endpoints_of(sock, &seen.endpoints);
	seen.inode = file->f_inode->i_ino;
	seen.pid = task->tgid;
	seen.uid = BPF_CORE_READ(task, cred, uid.val);
	BPF_CORE_READ_STR_INTO(&seen.name, task, group_leader, comm);
	seen.tcp_state = state;
	seen.blocking = !is_nonblocking(file);
	if (state == TCP_LISTEN) {
		listener = listener_of(sock);
		seen.reason = listener ? listener->exclusion : 0;
		bpf_seq_write(seq, &seen, sizeof(seen));
		return;
	}
	seen.tcp_bytes = tcp->bytes_sent - tcp->bytes_retrans;
	end = bpf_sk_storage_get(&sockredir_end, sock, NULL, 0);
	if (end && !end->unpaired)
		see_end(&seen, end, psock_of(sock));
	else
		seen.reason = refusal_now(sock, tcp, &seen.endpoints, task);
	bpf_seq_write(seq, &seen, sizeof(seen));
}

#endif
