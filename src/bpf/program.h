/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Programs that are kept off: those that the user names, those that were seen to splice from a mapped socket, and those with
 * an io_uring. splice(2) reads TCP's own queue, which on a mapped socket stays empty: the program would wait for ever, or
 * take the end of the connection for the end of the data. io_uring goes on with a send where the kernel says that it ended,
 * and for a mapped socket with a full send buffer that is too far (SEND with MSG_WAITALL: a hole in the stream); SEND_ZC
 * fails.
 */
#ifndef PROGRAM_H
#define PROGRAM_H

#include "flow.h"
#include "socket.h"

/* Macros of the kernel's headers, which BTF does not carry. */
#define S_IFMT 0170000
#define S_IFSOCK 0140000
/* The task flag of io_uring's own threads, which work in the name of a program (linux/sched.h). */
#define PF_IO_WORKER 0x10

/* The registers of a system call, as the machines name them. */
struct pt_regs___x86 {
	unsigned long di;
	/* Negative where it was no system call that has entered the kernel. */
	unsigned long orig_ax;
} __attribute__((preserve_access_index));

struct pt_regs___arm64 {
	__u64 regs[31];
	__u64 orig_x0;
	/* As above. */
	__s32 syscallno;
} __attribute__((preserve_access_index));

static __always_inline void program_name(struct task_struct *task, struct program *program)
{
	BPF_CORE_READ_STR_INTO(&program->name, task, group_leader, comm);
}

static __always_inline bool has_io_uring(struct task_struct *task)
{
	return task->flags & PF_IO_WORKER || (bpf_core_field_exists(task->io_uring) && task->io_uring);
}

/* Why the connections of a program are not inserted; 0 if they may be. */
static __always_inline enum counter exclusion_of(struct task_struct *task)
{
	struct program program = {};

	program_name(task, &program);
	if (bpf_map_lookup_elem(&sockredir_prog, &program))
		return COUNTER_REFUSED_PROGRAM;
	return has_io_uring(task) ? COUNTER_REFUSED_IO_URING : 0;
}

static __always_inline enum counter connect_exclusion(struct bpf_sock *sk)
{
	struct end *end = bpf_sk_storage_get(&sockredir_end, sk, NULL, 0);
	enum counter exclusion = end ? end->exclusion : 0;

	if (exclusion)
		bpf_sk_storage_delete(&sockredir_end, sk);
	return exclusion;
}

static __always_inline unsigned long first_argument(void *registers)
{
	struct pt_regs___arm64 *arm64 = registers;
	struct pt_regs___x86 *x86 = registers;

	if (bpf_core_field_exists(x86->di))
		return BPF_CORE_READ(x86, di);
	if (bpf_core_field_exists(arm64->orig_x0))
		return BPF_CORE_READ(arm64, orig_x0);
	return ~0ul;
}

static __always_inline bool is_system_call(void *registers)
{
	struct pt_regs___arm64 *arm64 = registers;
	struct pt_regs___x86 *x86 = registers;

	if (bpf_core_field_exists(x86->orig_ax))
		return (long)BPF_CORE_READ(x86, orig_ax) >= 0;
	return bpf_core_field_exists(arm64->syscallno) && BPF_CORE_READ(arm64, syscallno) >= 0;
}

/* The socket that a thread has under a descriptor, or none. */
static __always_inline struct sock *sock_at(struct task_struct *task, unsigned int fd)
{
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files = BPF_CORE_READ(table, fd);
	struct socket *socket;
	struct file *file;

	if (fd >= BPF_CORE_READ(table, max_fds) || bpf_probe_read_kernel(&file, sizeof(file), files + fd) ||
	    !file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return NULL;
	socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

/* The running program calls splice: if it reads from a mapped socket, it is kept off from now on. */
static __always_inline void notice_splice(void *registers)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct sock *sock = sock_at(task, first_argument(registers));
	struct program program = {};
	__u32 spliced = 1, side;

	if (!sock || !psock_of(kernel_object(sock, struct sock)) ||
	    !flow_of_socket(kernel_object(sock, struct tcp_sock), &side))
		return;
	program_name(task, &program);
	bpf_map_update_elem(&sockredir_prog, &program, &spliced, BPF_NOEXIST);
}

#endif
