/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The verdict on one message: redirect it to the peer's receive queue, or let it go through TCP, and why. */
#ifndef VERDICT_H
#define VERDICT_H

#include "program.h"

/* Redirecting to the own key without BPF_F_INGRESS is a plain TCP send: it takes a redirect back (law 7). */
static __always_inline bool redirect_to_tcp(struct sk_msg_md *msg, struct end *end)
{
	return bpf_msg_redirect_hash(msg, &sockredir_map, &end->own, 0) == SK_PASS;
}

static __always_inline bool redirect_to_peer(struct sk_msg_md *msg, struct end *end)
{
	return bpf_msg_redirect_hash(msg, &sockredir_map, &end->peer, BPF_F_INGRESS) == SK_PASS;
}

/* The pattern of the observed messages, as the counter of its admission, or NO_REASON. Request/response: at
 * least half of them answer the peer; three quarters would refuse servers that send header and body apart.
 */
static __always_inline enum counter pattern_of(struct end *end)
{
	if (end->turns * 2 >= end->observed)
		return COUNTER_ADMITTED_REQUEST_RESPONSE;
	if (end->observed_bytes >= (__u64)bulk_bytes * end->observed)
		return COUNTER_ADMITTED_BULK;
	return NO_REASON;
}

/* True if every earlier byte of this direction is in the receiver's one queue (law 5). The loads must happen
 * in this order: a byte is first counted by rcv_nxt, then in the receive queue, then perhaps with the psock's
 * worker, and last in the psock's queue. Softirq and reader hold the receiver's lock over the whole move.
 */
static __always_inline bool is_in_order(struct end *end, struct tcp_sock *own, struct tcp_sock *peer,
					struct sk_psock *psock)
{
	if (READ_ONCE(peer->rcv_nxt) != own->write_seq)
		return false;
	full_barrier(end);
	if (READ_ONCE(sock_of(peer)->sk_receive_queue.qlen))
		return false;
	full_barrier(end);
	return !READ_ONCE(psock->ingress_skb.qlen);
}

/* Law 6: how many messages of this direction may still be queued. What was redirected less what is queued was
 * consumed; two checkpoints turn those bytes into messages, without a hook at the receiver.
 */
static __always_inline __u64 queued_messages(struct end *end, __u32 queued)
{
	if (!queued) {
		end->older = end->newer = end->sent;
		return 0;
	}
	if ((__s64)(end->sent.bytes - queued) >= (__s64)end->newer.bytes) {
		end->older = end->newer;
		end->newer = end->sent;
	}
	return end->sent.messages - end->older.messages;
}

/* True if the kernel is short of TCP memory: a redirect may fail with ENOMEM, which no send on TCP does. */
static __always_inline bool is_memory_short(struct sock *sock)
{
	unsigned long *since = sock->__sk_common.skc_prot->memory_pressure, pressure = 0;

	return since && !bpf_probe_read_kernel(&pressure, sizeof(pressure), since) && pressure;
}

/* Law 6: the limit is what the receiver has set with SO_RCVBUF, or else half of what TCP may let the buffer
 * grow to. Its present size says nothing, as it grows with what is read from TCP; but above twice of it, half
 * of the send buffer and 64 KiB, packets that find the socket locked are dropped (sk_rcvqueues_full), window
 * updates too. The bound here leaves one buffer size to TCP. A queue below its least size gets memory in any
 * case.
 */
static __always_inline enum counter limit_of(struct end *end, struct sock *peer, struct sk_psock *psock,
					     __u32 size)
{
	__u32 shift = end->via == VIA_REDIRECT ? 0 : 1;
	struct netns_ipv4 *limits = &peer->__sk_common.skc_net.net->ipv4;
	__s64 queued = peer->sk_backlog.rmem_alloc.counter;
	__s64 buffer = peer->sk_rcvbuf, undropped = buffer + (peer->sk_sndbuf >> 1);
	__s64 bytes = queue_bytes;
	__u32 unread;

	if (!(BPF_CORE_READ_BITFIELD(peer, sk_userlocks) & SOCK_RCVBUF_LOCK))
		buffer = limits->sysctl_tcp_rmem[2];
	if (bytes > buffer >> 1)
		bytes = buffer >> 1;
	if (bytes > undropped)
		bytes = undropped;
	bytes >>= shift;
	if (queued + size > bytes)
		return COUNTER_MESSAGES_LIMIT_BYTES;
	if (queued >= limits->sysctl_tcp_rmem[0] && is_memory_short(peer))
		return COUNTER_MESSAGES_MEMORY;
	unread = psock->msg_tot_len;
	if (queued_messages(end, unread) >= queue_messages >> shift)
		return COUNTER_MESSAGES_LIMIT_COUNT;
	if (unread + size > end->queue_peak)
		end->queue_peak = unread + size;
	return COUNTER_MESSAGES_REDIRECTED;
}

/* One program turned its socket to blocking. `shun`: it is the client, and may have met an error in a
 * blocking recv meanwhile, as it would again.
 */
static __always_inline enum counter turn_back(struct flow *flow, bool shun)
{
	if (shun)
		flow_turns(flow, COUNTER_REFUSED_TURNS_BLOCKING);
	refuse(flow, COUNTER_TCP_ONLY_BLOCKING);
	return send_back(flow, COUNTER_DRAIN_BLOCKING);
}

/* Why two ends do not trust each other (--same-user, --same-cgroup), or NO_REASON. The user of an accepted
 * socket is known once it is accepted.
 */
static __always_inline enum counter distrust_of(struct sock *own, struct sock *peer)
{
	if (same_user && own->sk_uid.val != peer->sk_uid.val)
		return COUNTER_TCP_ONLY_USER;
	if (same_cgroup && own->sk_cgrp_data.cgroup != peer->sk_cgrp_data.cgroup)
		return COUNTER_TCP_ONLY_CGROUP;
	return NO_REASON;
}

/* True if this message must go through TCP, so that whatever tracks the connection between the ends does not
 * take it for idle (law 9).
 */
static __always_inline bool is_refresh_due(struct end *end, struct flow *flow)
{
	__u64 now;

	if (!flow->tracked)
		return false;
	/* The coarse clock may lag some milliseconds behind the one of end_init(). */
	now = bpf_ktime_get_coarse_ns();
	if ((__s64)(now - end->refreshed) < refresh_seconds * 1000000000ll)
		return false;
	end->refreshed = now;
	return true;
}

/* Whether this message may go to the queue of the peer, which is mapped and alive under RCU. `admission` is
 * the pattern that admits the flow with this message, or NO_REASON if it is already admitted.
 */
static __always_inline enum counter judge_peer(struct sk_msg *kmsg, struct end *end, struct flow *flow,
					       struct tcp_sock *own, __u32 size, enum counter admission)
{
	struct tcp_sock *tcp = kernel_object(kmsg->sk_redir, struct tcp_sock);
	struct sock *peer = sock_of(tcp);
	struct sk_psock *psock = psock_of(peer);
	struct file *file = file_of(peer);
	enum counter distrust;

	if (!psock || peer->sk_shutdown || peer->__sk_common.skc_state != TCP_ESTABLISHED)
		return COUNTER_MESSAGES_MATE_CLOSING;
	/* Its user is not known yet. */
	if (!file && same_user)
		return COUNTER_MESSAGES_NOT_ACCEPTED;
	if (file && !admit_any && !is_nonblocking(file))
		return turn_back(flow, end->accepted);
	if (admission != NO_REASON) {
		distrust = distrust_of(sock_of(own), peer);
		if (distrust != NO_REASON) {
			service_score(flow, -score_most);
			return refuse(flow, distrust);
		}
		/* This many messages would have paid, had they been redirected from the beginning. */
		if (flow_decide(flow, FLOW_OBSERVE, FLOW_ADMITTED, admission) &&
		    end->observed >= observe_messages)
			service_credit(flow);
	}
	/* The peer, or another thread, may have decided otherwise. */
	if (state_of(flow_word(flow)) != FLOW_ADMITTED)
		return COUNTER_MESSAGES_TCP_ONLY;
	/* A message that was taken back may be sent after the verdicts of other threads. */
	if ((end->via == VIA_TCP || own->write_seq != end->redirect_seq) &&
	    !is_in_order(end, own, tcp, psock))
		return COUNTER_MESSAGES_ORDER;
	return limit_of(end, peer, psock, size);
}

/* True for a first message before accept. Through TCP it reaches the one queue only when something follows,
 * hidden from FIONREAD (before Linux 7.0); redirected, it is there at once.
 */
static __always_inline bool is_before_accept(struct end *end, struct flow *flow)
{
	__u64 peer = READ_ONCE(flow->sock[!end->side]);

	return !end->accepted && end->observed == 1 && peer &&
	       !file_of(kernel_object((void *)peer, struct sock));
}

/* True for a message of a file whose pages TCP sends as they are. In the map each of them is copied. */
static __always_inline bool is_sent_file(__u32 size)
{
	return size >= sendfile_bytes && system_call_of(bpf_get_current_task_btf()) == call_sendfile;
}

/* Looks at the first messages until the flow shows its nature: NO_REASON to go on observing, else the pattern
 * that admits it, or COUNTER_MESSAGES_TCP_ONLY.
 */
static __always_inline enum counter observe(struct end *end, struct flow *flow, struct tcp_sock *own,
					    bool turn, __u32 size)
{
	struct file *file = file_of(sock_of(own));
	enum counter pattern;

	end->observed++;
	end->turns += turn;
	end->observed_bytes += size;
	if (file && !admit_any && !is_nonblocking(file)) {
		/* A client that blocks before it has sent or received anything just leaves with this send. */
		turn_back(flow, !end->accepted && (end->observed > 1 || own->rcv_nxt != end->own.ack));
		return COUNTER_MESSAGES_TCP_ONLY;
	}
	if (has_io_uring(bpf_get_current_task_btf())) {
		if (!end->accepted)
			flow_turns(flow, COUNTER_REFUSED_IO_URING);
		return refuse(flow, COUNTER_TCP_ONLY_SPECIAL);
	}
	if (is_sent_file(size))
		return refuse(flow, COUNTER_TCP_ONLY_SENDFILE);
	/* The answers of an end that has not been adopted yet are not seen. */
	if (end->adopted && !(flow_word(flow) & FLOW_END(!end->side)))
		end->observed = end->turns = end->observed_bytes = 0;
	if (end->observed < flow->observe && !is_before_accept(end, flow))
		return NO_REASON;
	pattern = pattern_of(end);
	return pattern == NO_REASON ? refuse(flow, COUNTER_TCP_ONLY_PATTERN) : pattern;
}

/* Rounds of gain_messages that an admitted flow has to get its first message redirected. */
#define FIRST_ROUND 4

/* Why a message of an admitted flow goes through TCP, its peer apart, or NO_REASON. Runs of small one-way
 * messages are slower redirected than through TCP, which joins them: 0.4 of plain TCP at 1 KiB.
 */
static __always_inline enum counter judge_own(struct end *end, struct flow *flow, struct tcp_sock *own,
					      bool turn, __u32 size)
{
	struct file *file = file_of(sock_of(own));

	if (file && !admit_any && !is_nonblocking(file))
		return turn_back(flow, !end->accepted);
	if (has_io_uring(bpf_get_current_task_btf()))
		return send_back(flow, COUNTER_DRAIN_SPECIAL);
	if (is_sent_file(size))
		return send_back(flow, COUNTER_DRAIN_SENDFILE);
	/* Until the first redirect, what was sent before the receiver has accepted is still on its way through TCP. */
	if (++end->round > (end->sent.messages ? gain_messages : FIRST_ROUND * gain_messages)) {
		bool gain = end->round_redirected * 2 >= gain_messages;

		end->round = 1;
		end->round_redirected = 0;
		if (!gain)
			return send_back(flow, COUNTER_DRAIN_NO_GAIN);
	}
	if (turn || size >= bulk_bytes) {
		end->one_way = 0;
	} else if (++end->one_way >= one_way_tcp) {
		return end->one_way >= one_way_drain ? send_back(flow, COUNTER_DRAIN_ONE_WAY) :
						       COUNTER_MESSAGES_ONE_WAY;
	}
	return NO_REASON;
}

static __always_inline void account(struct end *end, struct flow *flow, struct tcp_sock *own, __u32 size)
{
	end->via = VIA_REDIRECT;
	end->redirect_seq = own->write_seq;
	if (!end->sent.messages)
		end->round = 1;
	end->round_redirected++;
	end->sent.bytes += size;
	if (++end->sent.messages == worth_messages)
		service_credit(flow);
}

/* The counter of the message, which is redirected if that is COUNTER_MESSAGES_REDIRECTED. */
static __always_inline enum counter judge(struct sk_msg_md *msg, struct sk_msg *kmsg, struct bpf_sock *sk,
					  struct end *end)
{
	struct tcp_sock *own = bpf_skc_to_tcp_sock(sk);
	enum counter reason, admission = NO_REASON;
	__u32 size = msg->size;
	struct flow *flow;
	bool turn;
	__u8 state;

	if (!own || !end->mapped || end->state == FLOW_TCP_ONLY)
		return COUNTER_MESSAGES_TCP_ONLY;
	/* A send after shutdown must fail as on TCP, which only TCP can do. */
	state = sock_of(own)->__sk_common.skc_state;
	if (state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT)
		return COUNTER_MESSAGES_CLOSING;
	flow = flow_of(end);
	if (!flow)
		return COUNTER_MESSAGES_TCP_ONLY;
	turn = flow->last_side != end->side;
	if (turn)
		flow->last_side = end->side;
	if (stopping)
		send_back(flow, COUNTER_DRAIN_STOPPING);
	end->state = state_of(flow_word(flow));
	switch (end->state) {
	case FLOW_OBSERVE:
		admission = observe(end, flow, own, turn, size);
		if (admission == NO_REASON)
			return COUNTER_MESSAGES_OBSERVED;
		if (admission == COUNTER_MESSAGES_TCP_ONLY || stopping)
			return COUNTER_MESSAGES_TCP_ONLY;
		break;
	case FLOW_ADMITTED:
		/* Its program is seen only in the callback of a message through TCP. */
		if (end->accepted && !end->shown)
			return COUNTER_MESSAGES_OBSERVED;
		if (is_refresh_due(end, flow))
			return COUNTER_MESSAGES_REFRESH;
		reason = judge_own(end, flow, own, turn, size);
		if (reason != NO_REASON)
			return reason;
		break;
	case FLOW_DRAIN:
		return COUNTER_MESSAGES_DRAIN;
	default:
		return COUNTER_MESSAGES_TCP_ONLY;
	}
	/* Law 7: once the own end is found, any redirect can be taken back. An end that just redirected was
	 * found then, and has left since under its own lock, which `mapped` tells, or is no longer
	 * established. The lookup costs 50 ns of 4 us.
	 */
	if (end->via == VIA_TCP && !redirect_to_tcp(msg, end))
		return COUNTER_MESSAGES_UNMAPPED;
	/* The map finds the peer each time: a live entry under RCU, never a stored pointer. */
	if (!redirect_to_peer(msg, end))
		return COUNTER_MESSAGES_NO_MATE;
	reason = judge_peer(kmsg, end, flow, own, size, admission);
	if (reason == COUNTER_MESSAGES_REDIRECTED)
		account(end, flow, own, size);
	else if (!redirect_to_tcp(msg, end))
		return COUNTER_MESSAGES_DROPPED;
	return reason;
}

/* Law 7: a miss of the helper is not an error. The verdict is SK_PASS, as SK_DROP would stick to the socket,
 * unless a redirect is in place that can neither go nor be taken back.
 */
static __always_inline int verdict(struct sk_msg_md *msg)
{
	struct sk_msg *kmsg = bpf_cast_to_kern_ctx(msg);
	struct bpf_sock *sk = msg->sk;
	struct end *end = sk ? bpf_sk_storage_get(&sockredir_end, sk, NULL, 0) : NULL;
	enum counter reason;

	if (!end)
		return SK_PASS;
	/* After a partial enqueue the program runs again with the old redirect in place, and nothing holds
	 * its socket any more. An end with a redirect under way cannot have left, so its key is there.
	 */
	if (kmsg->sk_redir && !redirect_to_tcp(msg, end))
		reason = COUNTER_MESSAGES_DROPPED;
	else
		reason = judge(msg, kmsg, sk, end);
	end->reason = reason;
	count(reason);
	if (reason == COUNTER_MESSAGES_DROPPED)
		return SK_DROP;
	if (reason == COUNTER_MESSAGES_REDIRECTED) {
		count_many(COUNTER_BYTES_REDIRECTED, msg->size);
	} else {
		end->via = VIA_TCP;
		/* The rest of a large message that was taken in part is no small one. */
		end->bulk =
			msg->size >= bulk_bytes || (end->bulk && end->one_way && end->one_way < one_way_tcp);
		end->passed.bytes += msg->size;
		end->passed.messages++;
		count_many(COUNTER_BYTES_TCP, msg->size);
	}
	return SK_PASS;
}

#endif
