/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What an end does under its own lock: give up pairing, drain, leave the map, and be forgotten. */
#ifndef LEAVE_H
#define LEAVE_H

#include "establish.h"
#include "unsent.h"

/* How many waiters to look at; a connected socket rarely has more than one. */
#define WAITERS 8

/* How many threads sleep in recv or send on a socket; -1 if unknown. Waiters of epoll, poll and io_uring are
 * not inside the socket.
 */
static __always_inline int sleepers(struct sock *sock)
{
	struct socket_wq *wq = BPF_CORE_READ(sock, sk_wq);
	struct list_head *head, *next;
	int count = 0;

	if (!wq)
		return 0;
	head = (void *)wq + bpf_core_field_offset(struct socket_wq, wait.head);
	next = BPF_CORE_READ(head, next);
	for (int i = 0; i < WAITERS; i++) {
		struct wait_queue_entry *entry;

		if (next == head)
			return count;
		entry = (void *)next - bpf_core_field_offset(struct wait_queue_entry, entry);
		if (&woken_wake_function)
			count += (void *)BPF_CORE_READ(entry, func) == &woken_wake_function;
		else if (BPF_CORE_READ(entry, private))
			return -1;
		next = BPF_CORE_READ(next, next);
	}
	return next == head ? count : -1;
}

/* True if the end may leave (law 2): unread data would be lost, and a thread inside the socket must not find
 * its queue gone. Each thread in sendmsg or recvmsg holds a psock reference; `inside` is 1 if one runs this.
 */
static __always_inline bool can_leave(struct sock *sock, struct sk_psock *psock, int inside)
{
	if (!is_queue_empty(psock) || psock->ingress_skb.qlen || sock->sk_receive_queue.qlen) {
		count(COUNTER_LEAVE_UNREAD);
		return false;
	}
	if (psock->refcnt.refs.counter > 1 + inside) {
		count(COUNTER_LEAVE_BUSY);
		return false;
	}
	/* A sleeper would wake to an error when the entry goes: EAGAIN from a blocking socket. */
	if (sleepers(sock)) {
		count(COUNTER_LEAVE_WAITED);
		return false;
	}
	return true;
}

static __always_inline void unmap(struct end *end, struct sock *sock)
{
	struct end_key own = end->own;

	bpf_map_delete_elem(&sockredir_map, &own);
	decide(sock, COUNTER_ENDS_LEFT);
}

/* True if the peer has no redirect under way: every thread inside it sleeps, by two looks at its references
 * with one at its sleepers between them. Later threads see the state that the caller has set.
 */
static __always_inline bool is_peer_quiet(struct end *end, struct flow *flow)
{
	struct sk_psock *psock;
	struct sock *peer;
	int inside, asleep;

	if (!(flow_word(flow) & FLOW_END(!end->side)))
		return true;
	/* It is joining the record at this moment. */
	if (!READ_ONCE(flow->sock[!end->side]))
		return false;
	peer = kernel_object((void *)flow->sock[!end->side], struct sock);
	psock = psock_of(peer);
	if (!psock)
		return true;
	inside = READ_ONCE(psock->refcnt.refs.counter) - 1;
	asleep = sleepers(peer);
	return inside <= asleep && inside == READ_ONCE(psock->refcnt.refs.counter) - 1;
}

/* Marks an end as drained once no redirect of its own is under way. A thread between its verdict and the
 * enqueue has released the socket's lock and holds a psock reference. With the lock held, no thread inside
 * and no reference but the map's there is no such thread, and a later one sees DRAIN before its verdict. A
 * lock owner in process context may be that very thread, so `inside` must be 0: the proof waits for an
 * interrupt, which acknowledgements bring to a sender. A receiver that is slower than its sender has none, as
 * it acknowledges by the window updates of its recv; so the sender looks whether it is quiet.
 */
static __always_inline void drain(struct end *end, struct flow *flow, struct sock *sock,
				  struct sk_psock *psock, int inside)
{
	__u64 done = 0;

	if (!inside && psock->refcnt.refs.counter <= 1)
		done = FLOW_DONE(end->side);
	if (is_peer_quiet(end, flow))
		done |= FLOW_DONE(!end->side);
	if (((__sync_fetch_and_or(&flow->word, done) | done) & FLOW_BOTH_DONE) == FLOW_BOTH_DONE)
		flow_drained(flow, sock);
}

/* Takes the next step out of the map, under the end's own lock. True if the end has left. */
static __always_inline bool step_out(struct end *end, struct flow *flow, struct sock *sock,
				     struct sk_psock *psock, int inside)
{
	if (stopping) {
		refuse(flow, COUNTER_TCP_ONLY_STOPPING);
		send_back(flow, COUNTER_DRAIN_STOPPING);
	}
	if (state_of(flow_word(flow)) == FLOW_DRAIN)
		drain(end, flow, sock, psock, inside);
	if (state_of(flow_word(flow)) != FLOW_TCP_ONLY || !can_leave(sock, psock, inside))
		return false;
	unmap(end, sock);
	flow_release(end);
	return true;
}

/* --admit any: after shutdown a blocking program goes on to recv, where the acknowledgement of its FIN would
 * wake it to EAGAIN (20 of 20 half-closes). So it leaves before the FIN is sent, with no thread inside.
 */
static __always_inline void half_close(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct end *end = sk ? bpf_sk_storage_get(&sockredir_end, sk, NULL, 0) : NULL;
	struct tcp_sock *tcp = end ? bpf_skc_to_tcp_sock(sk) : NULL;
	struct sk_psock *psock = tcp ? psock_of(sock_of(tcp)) : NULL;
	struct file *file = psock ? file_of(sock_of(tcp)) : NULL;
	struct flow *flow;

	if (!file || is_nonblocking(file) || !end->mapped)
		return;
	flow = flow_of(end);
	if (!flow)
		return;
	refuse(flow, COUNTER_TCP_ONLY_CLOSED);
	send_back(flow, COUNTER_DRAIN_HALF_CLOSED);
	if (step_out(end, flow, sock_of(tcp), psock, 0))
		callbacks_drop(ctx, end);
}

/* True if the scan that adopted this end, or the next one, may bring its peer. */
static __always_inline bool awaits_peer(struct end *end)
{
	return end->adopted && bpf_ktime_get_ns() - end->since < adopt_peer_ms * 1000000ull;
}

/* Why an observed flow will never be admitted, as far as this end sees, or NO_REASON. Something acknowledged
 * or received means that the peer is established: if it is not in the record by now, it never will be.
 */
static __always_inline enum counter give_up(struct bpf_sock_ops *ctx, struct end *end, struct flow *flow)
{
	bool heard = ctx->snd_una != end->own.seq || ctx->rcv_nxt != end->own.ack;

	if (ctx->state != TCP_ESTABLISHED && ctx->state != TCP_SYN_RECV)
		return COUNTER_TCP_ONLY_CLOSED;
	if (heard && !(flow_word(flow) & FLOW_END(!end->side)) && !awaits_peer(end))
		return COUNTER_TCP_ONLY_NO_MATE;
	return NO_REASON;
}

/* close() has unlinked the socket and is sending its FIN. TCP would send a reset if data was unread; here
 * that data is in the psock's queue, counts as received until freed, and may keep the window shut for a
 * minute. With more room the FIN opens the window, and what the peer then sends is answered with a reset.
 */
static __always_inline void forget_unread(struct bpf_sock_ops *ctx, struct sock *sock)
{
	int room = 1 << 30;

	if (sock->sk_backlog.rmem_alloc.counter)
		bpf_setsockopt(ctx, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
}

/* Looks at one end, from the header-length and round-trip callbacks. */
static __noinline void maintain_end(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct end *end = sk ? bpf_sk_storage_get(&sockredir_end, sk, NULL, 0) : NULL;
	struct tcp_sock *tcp = end ? bpf_skc_to_tcp_sock(sk) : NULL;
	struct sk_psock *psock;
	enum flow_state state;
	enum counter reason;
	struct flow *flow;
	bool left;

	if (!tcp)
		return;
	if (!end->mapped) {
		if (!is_unknown(end->leave_reason) || watch(ctx, end, tcp))
			callbacks_drop(ctx, end);
		return;
	}
	/* This look, before its first message goes out, may be the last one. */
	if (!end->shown && (ctx->skb_len || end->observed) && sock_of(tcp)->sk_lock.owned)
		show(end, sock_of(tcp));
	flow = flow_of(end);
	if (!flow)
		return;
	if (state_of(flow_word(flow)) == FLOW_OBSERVE) {
		reason = give_up(ctx, end, flow);
		if (reason == COUNTER_TCP_ONLY_NO_MATE)
			service_score(flow, -score_absent);
		if (reason != NO_REASON)
			refuse(flow, reason);
	}
	psock = psock_of(sock_of(tcp));
	if (!psock) {
		forget_unread(ctx, sock_of(tcp));
		flow_release(end);
		callbacks_drop(ctx, end);
		return;
	}
	left = step_out(end, flow, sock_of(tcp), psock, !!sock_of(tcp)->sk_lock.owned);
	/* Once the end has left, the record may be another flow's. */
	state = left ? FLOW_TCP_ONLY : state_of(flow_word(flow));
	unsent_update(ctx, end, tcp, state);
	if (left)
		callbacks_drop(ctx, end);
	else if (state == FLOW_DRAIN)
		callbacks_add(ctx, end, BPF_SOCK_OPS_RTT_CB_FLAG);
}

/* Law 8: when the tool stops, idle ends get no callbacks. The iterator over TCP sockets holds the lock of
 * each and is no thread inside.
 */
static __always_inline void maintain_idle_end(struct tcp_sock *tcp)
{
	struct end *end = bpf_sk_storage_get(&sockredir_end, tcp, NULL, 0);
	struct sk_psock *psock = psock_of(sock_of(tcp));
	struct flow *flow;
	int flags;

	if (!end || !end->mapped || !psock)
		return;
	flow = flow_of(end);
	if (!flow)
		return;
	unsent_set(tcp, end, tcp, 0);
	if (!step_out(end, flow, sock_of(tcp), psock, 0))
		return;
	flags = tcp->bpf_sock_ops_cb_flags & ~end->callbacks;
	bpf_setsockopt(tcp, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags));
}

/* The connection is over. The map forgets the socket at close, which its program may put off; until then only
 * an unmapped one behaves as on TCP: a send after a reset fails with ECONNRESET once, then with EPIPE.
 */
static __always_inline void end_of_life(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct end *end = sk ? bpf_sk_storage_get(&sockredir_end, sk, NULL, 0) : NULL;
	struct tcp_sock *tcp = end ? bpf_skc_to_tcp_sock(sk) : NULL;
	struct sk_psock *psock;

	if (!tcp || !end->mapped)
		return;
	psock = psock_of(sock_of(tcp));
	if (psock && can_leave(sock_of(tcp), psock, !!sock_of(tcp)->sk_lock.owned))
		unmap(end, sock_of(tcp));
	flow_release(end);
}

#endif
