/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Fills struct socket_info and struct tally for the iterators that `status` and `flows` read. */
#ifndef OBSERVE_H
#define OBSERVE_H

#include "adopt.h"

/* Unread bytes in the one receive queue (law 3). */
static __always_inline __u32 unread_bytes(struct sk_psock *psock)
{
	return is_queue_empty(psock) ? 0 : psock->msg_tot_len;
}

/* Counts one mapped end. Its socket lives as long as the record counts it, which may end during the look. */
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

/* Why no scan has adopted a socket that qualifies: its peer was not seen, its program, or unread data. */
static __always_inline enum counter unadopted(const struct endpoints *endpoints)
{
	struct candidate *own = bpf_map_lookup_elem(&sockredir_cand, endpoints), *peer;
	struct endpoints mirrored;
	enum counter refusal;

	if (!own || own->scan != adopt_scan || bpf_ktime_get_ns() - own->since < adopt_seen_ms * MILLISECOND)
		return NOT_FOLLOWED;
	mirror(endpoints, &mirrored);
	peer = bpf_map_lookup_elem(&sockredir_cand, &mirrored);
	if (!peer || peer->scan != adopt_scan)
		return COUNTER_ADOPT_UNPAIRED;
	refusal = reader_refusal(&own->program);
	if (refusal != NO_REASON)
		return refusal;
	return own->unread ? COUNTER_ADOPT_UNREAD : NOT_FOLLOWED;
}

/* Why a socket that was never followed would be refused now, by the gate or by a scan. */
static __always_inline enum counter refusal_now(struct sock *sock, struct tcp_sock *tcp,
						const struct endpoints *endpoints, struct task_struct *task)
{
	enum counter refusal = gate_of(tcp, exclusion_of(task));
	__u32 netns = netns_number(sock);
	struct service_key key = {};
	struct service *service;

	if (refusal != NO_REASON)
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
	return refusal == NO_REASON ? unadopted(endpoints) : refusal;
}

static __always_inline void report_end(struct socket_info *info, struct end *end, struct sk_psock *psock)
{
	struct flow *flow = end->mapped ? flow_of(end) : NULL;

	info->age = bpf_ktime_get_ns() - end->since;
	info->flow = end->flow;
	info->accepted = end->accepted;
	info->redirected = end->sent;
	info->passed = end->passed;
	info->queue = psock ? unread_bytes(psock) : 0;
	info->queue_peak = end->queue_peak;
	if (end->sent.messages || end->passed.messages)
		info->last_message = end->reason;
	info->state = flow ? state_of(flow_word(flow)) : FLOW_TCP_ONLY;
	info->reason = flow ? flow->reason : end->leave_reason;
	if (!info->reason)
		info->reason = flow ? COUNTER_MESSAGES_OBSERVED : COUNTER_TCP_ONLY_CLOSED;
}

/* Fills struct socket_info for the socket iterator. */
static __always_inline void report_socket(struct seq_file *seq, struct sock *sock, struct file *file,
					  struct task_struct *task)
{
	struct tcp_sock *tcp = kernel_object(sock, struct tcp_sock);
	struct socket_info info = { .last_message = NO_REASON, .state = FLOW_TCP_ONLY };
	__u8 state = sock->__sk_common.skc_state;
	struct listener *listener;
	struct end *end;

	if (state == TCP_CLOSE || state == TCP_SYN_SENT || !is_in_cgroup(sock))
		return;
	endpoints_of(sock, &info.endpoints);
	info.inode = file->f_inode->i_ino;
	info.pid = task->tgid;
	info.uid = BPF_CORE_READ(task, cred, uid.val);
	BPF_CORE_READ_STR_INTO(&info.name, task, group_leader, comm);
	info.tcp_state = state;
	info.blocking = !is_nonblocking(file);
	if (state == TCP_LISTEN) {
		listener = listener_of(sock);
		info.reason = listener ? listener->exclusion : 0;
		bpf_seq_write(seq, &info, sizeof(info));
		return;
	}
	info.tcp_bytes = tcp->bytes_sent - tcp->bytes_retrans;
	end = bpf_sk_storage_get(&sockredir_end, sock, NULL, 0);
	if (end && !end->unpaired)
		report_end(&info, end, psock_of(sock));
	else
		info.reason = refusal_now(sock, tcp, &info.endpoints, task);
	bpf_seq_write(seq, &info, sizeof(info));
}

#endif
