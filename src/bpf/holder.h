/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The processes that hold a connection that may be adopted, and their threads inside a call on it. */
#ifndef HOLDER_H
#define HOLDER_H

#include "program.h"

/* In the place of the first one, for good. No process has this number. */
#define HOLDERS_TOO_MANY ~0u

/* The states of a sleeping thread (linux/sched.h). */
#define TASK_NORMAL 3

extern struct task_struct *bpf_task_from_pid(__s32 pid) __ksym;
extern void bpf_task_release(struct task_struct *task) __ksym;
extern int bpf_iter_task_new(struct bpf_iter_task *iter, struct task_struct *task, unsigned int flags) __ksym;
extern struct task_struct *bpf_iter_task_next(struct bpf_iter_task *iter) __ksym;
extern void bpf_iter_task_destroy(struct bpf_iter_task *iter) __ksym;

/* Notes a process that holds a candidate. */
static __always_inline void holder_add(struct candidate *candidate, __u32 process)
{
	if (candidate->holders[0] == HOLDERS_TOO_MANY)
		return;
	for (int i = 0; i < CANDIDATE_HOLDERS; i++) {
		if (candidate->holders[i] == process)
			return;
		if (!candidate->holders[i]) {
			candidate->holders[i] = process;
			return;
		}
	}
	candidate->holders[0] = HOLDERS_TOO_MANY;
}

/* True if a thread was preempted inside a system call on the socket. A running one soon reaches the lock, and
 * one that sleeps inside is in a queue of the socket.
 */
static __always_inline bool is_inside(struct task_struct *thread, struct sock *sock)
{
	/* Linux 7 made it a byte. */
	if (thread->__state & TASK_NORMAL || BPF_CORE_READ_BITFIELD(thread, on_cpu))
		return false;
	return system_call_of(thread) >= 0 && sock_at(thread, first_argument(thread)) == sock;
}

/* True if a thread may have begun a call on the socket and not reached its lock. */
static __always_inline bool is_entered(struct candidate *candidate, struct sock *sock)
{
	struct task_struct *process, *thread;
	bool entered = !candidate->holders[0] || candidate->holders[0] == HOLDERS_TOO_MANY;

	for (int i = 0; i < CANDIDATE_HOLDERS && !entered && candidate->holders[i]; i++) {
		process = bpf_task_from_pid(candidate->holders[i]);
		if (!process)
			continue;
		bpf_for_each(task, thread, process, BPF_TASK_ITER_PROC_THREADS) {
			if (is_inside(thread, sock)) {
				entered = true;
				break;
			}
		}
		bpf_task_release(process);
	}
	return entered;
}

#endif
