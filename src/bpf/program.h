/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Programs: which one a task executes, which ones are excluded, and what is known of them (law 11). Those
 * with an io_uring are kept off: it goes on with a send where the kernel says that it ended, which for a
 * mapped socket with a full buffer is too far (SEND with MSG_WAITALL: a hole); SEND_ZC fails.
 */
#ifndef PROGRAM_H
#define PROGRAM_H

#include "event.h"
#include "flow.h"
#include "socket.h"

/* Kernel macros, which BTF does not carry. */
#define S_IFMT 0170000
#define S_IFSOCK 0140000
/* Task flag of io_uring's worker threads (linux/sched.h). */
#define PF_IO_WORKER 0x10
/* Flag in i_ctime_nsec since Linux 6.13: the time was queried (linux/fs.h). */
#define I_CTIME_QUERIED (1u << 31)

/* System call registers, by architecture. */
struct pt_regs___call_x86 {
	unsigned long di;
	/* Negative if the kernel was not entered by a system call. */
	unsigned long orig_ax;
} __attribute__((preserve_access_index));

struct pt_regs___call_arm64 {
	__u64 regs[31];
	__u64 orig_x0;
	/* As above. */
	__s32 syscallno;
} __attribute__((preserve_access_index));

static __always_inline void name_of(struct task_struct *task, struct name *name)
{
	BPF_CORE_READ_STR_INTO(&name->name, task, group_leader, comm);
}

/* What the user says about a program, or -1. */
static __always_inline int said_of(struct task_struct *task)
{
	struct name name = {};
	enum said *said;

	name_of(task, &name);
	said = bpf_map_lookup_elem(&sockredir_said, &name);
	return said ? (int)*said : -1;
}

static __always_inline bool has_io_uring(struct task_struct *task)
{
	return task->flags & PF_IO_WORKER || (bpf_core_field_exists(task->io_uring) && task->io_uring);
}

/* Why a program's connections are not inserted, or 0. */
static __always_inline enum counter exclusion_of(struct task_struct *task)
{
	if (said_of(task) == SAID_EXCLUDED)
		return COUNTER_REFUSED_PROGRAM;
	return has_io_uring(task) ? COUNTER_REFUSED_IO_URING : 0;
}

/* How much of the arguments is hashed, and in what pieces. */
#define ARGUMENT_BYTES 256
#define ARGUMENT_PIECE 64

/* FNV-1a, 64 bits (draft-eastlake-fnv). */
#define FNV_OFFSET 0xcbf29ce484222325ull
#define FNV_PRIME 0x100000001b3ull

/* The state of hashing the arguments. */
struct arguments {
	__u64 hash;
	/* The current argument, from 0; whether it has just begun; whether it is an option. */
	__u32 index;
	__u32 begins;
	__u32 option;
};

/* Hashes one byte. True at the end of the first non-option argument, as in `python3 -u server.py`, or of all
 * arguments. The program's name is skipped, as programs write titles into it.
 */
static __always_inline bool take_argument(struct arguments *arguments, char byte)
{
	if (arguments->index)
		arguments->hash = (arguments->hash ^ (__u8)byte) * FNV_PRIME;
	if (!byte) {
		if (arguments->index && (arguments->begins || !arguments->option))
			return true;
		arguments->index = 1;
		arguments->begins = 1;
		return false;
	}
	if (arguments->begins)
		arguments->option = byte == '-';
	arguments->begins = 0;
	return false;
}

/* The hash of a task's arguments. `mine`: it is the running one; others' take a sleepable program to read. */
static __always_inline __u64 arguments_of(struct task_struct *task, bool mine)
{
	unsigned long at = BPF_CORE_READ(task, mm, arg_start), end = BPF_CORE_READ(task, mm, arg_end);
	struct arguments arguments = { .hash = FNV_OFFSET };
	char piece[ARGUMENT_PIECE];
	int i, k;

	bpf_for(i, 0, ARGUMENT_BYTES / ARGUMENT_PIECE) {
		unsigned long size = end - at;
		long error;

		if (at >= end)
			break;
		if (size > sizeof(piece))
			size = sizeof(piece);
		error = mine ? bpf_probe_read_user(piece, size, (void *)at) :
			       bpf_copy_from_user_task(piece, size, (void *)at, task, 0);
		if (error)
			break;
		at += size;
		bpf_for(k, 0, ARGUMENT_PIECE) {
			if (k >= size)
				break;
			if (take_argument(&arguments, piece[k & (ARGUMENT_PIECE - 1)]))
				return arguments.hash;
		}
	}
	return arguments.hash;
}

/* True if the program's files do not splice, whatever its arguments. */
static __noinline bool is_without_splice(const struct program_key *key)
{
	struct file_key file = key->file;
	enum image *image = bpf_map_lookup_elem(&sockredir_image, &file);

	return image && *image == IMAGE_WITHOUT_SPLICE;
}

/* True if a program was noted with its arguments and its files have since shown that they do not matter:
 * those of `curl` differ each time.
 */
static __always_inline bool has_needless_arguments(const struct program_key *key)
{
	return key->arguments && is_without_splice(key);
}

/* Settles on the key under which a program noted earlier is known now. */
static __always_inline void program_key_settle(struct program_key *key)
{
	if (has_needless_arguments(key))
		key->arguments = 0;
}

/* False for a kernel thread, which executes no file. */
static __always_inline bool program_key_of(struct task_struct *task, struct program_key *key, bool mine)
{
	struct inode *inode = BPF_CORE_READ(task, mm, exe_file, f_inode);

	__builtin_memset(key, 0, sizeof(*key));
	if (!inode)
		return false;
	key->file.inode = BPF_CORE_READ(inode, i_ino);
	key->file.changed = BPF_CORE_READ(inode, i_ctime_sec) * 1000000000ull +
			    (BPF_CORE_READ(inode, i_ctime_nsec) & ~I_CTIME_QUERIED);
	key->file.device = BPF_CORE_READ(inode, i_sb, s_dev);
	if (!is_without_splice(key))
		key->arguments = arguments_of(task, mine);
	return true;
}

/* What is known of a program, or NULL if there was no room. The daemon is asked to look at its files, as it
 * may not have got to them the first time.
 */
static __always_inline struct program *program_at(const struct program_key *key, struct task_struct *task)
{
	struct program *program = bpf_map_lookup_elem(&sockredir_prog, key);
	struct file_key file = key->file;
	struct program fresh = {};

	if (!bpf_map_lookup_elem(&sockredir_image, &file))
		tell_program(EVENT_PROGRAM, key, task);
	if (program)
		return program;
	BPF_CORE_READ_STR_INTO(&fresh.name, task, group_leader, comm);
	fresh.trusted = said_of(task) == SAID_TRUSTED;
	if (bpf_map_update_elem(&sockredir_prog, key, &fresh, BPF_NOEXIST))
		return NULL;
	return bpf_map_lookup_elem(&sockredir_prog, key);
}

/* The program that a task executes. True if there is room for what is known of it. */
static __noinline int program_enter(struct task_struct *task, struct program_key *key)
{
	return program_key_of(task, key, true) && program_at(key, task);
}

static __always_inline bool is_trusted(const struct program *program)
{
	return trust_all || program->trusted;
}

/* Law 11: why a program's sockets may not be where only recv reads, or NO_REASON. */
static __always_inline enum counter reader_refusal(const struct program_key *key)
{
	struct program *program = bpf_map_lookup_elem(&sockredir_prog, key);

	if (splice_works)
		return NO_REASON;
	if (!program)
		return trust_all ? NO_REASON : COUNTER_REFUSED_UNKNOWN_PROGRAM;
	if (program->splices)
		return COUNTER_REFUSED_SPLICES;
	if (program->receives || is_trusted(program))
		return NO_REASON;
	return is_without_splice(key) ? NO_REASON : COUNTER_REFUSED_UNKNOWN_PROGRAM;
}

/* The same for a connecting program, which by default must not block: at all, or at this service. */
static __always_inline enum counter client_refusal(const struct program_key *key,
						   const struct service_key *service)
{
	struct program *program = bpf_map_lookup_elem(&sockredir_prog, key);
	enum counter refusal = reader_refusal(key);
	int turn = turn_of(service);

	if (refusal == NO_REASON && turn > 0)
		return turn;
	if (refusal != NO_REASON || admit_any || !program || is_trusted(program))
		return refusal;
	if (program->connects == NATURE_NONBLOCKING || (program->connects == NATURE_BLOCKING && !turn))
		return NO_REASON;
	return COUNTER_REFUSED_UNKNOWN_PROGRAM;
}

/* Learns whether a program's sockets block. A single one that did makes it a blocking program. */
static __always_inline void nature_learn(enum nature *nature, bool nonblocking)
{
	if (!nonblocking)
		*nature = NATURE_BLOCKING;
	else if (*nature == NATURE_UNKNOWN)
		*nature = NATURE_NONBLOCKING;
}

/* A program may run an event loop at one port and blocking threads at another. Branch-free, as each branch would
 * double the verifier's work.
 */
static __always_inline bool has_shown_port(const struct program *program, __u16 port)
{
	__u32 shown = 0;

	for (int i = 0; i < PROGRAM_PORTS; i++) {
		__u32 difference = program->ports[i] ^ port;

		shown |= (difference - 1) & ~difference;
	}
	return shown >> 31;
}

static __always_inline void port_learn(struct program *program, __u16 port)
{
	__u32 end = program->ports_end;

	if (end >= PROGRAM_PORTS || has_shown_port(program, port))
		return;
	program->ports[end] = port;
	program->ports_end = end + 1;
}

/* The same for accepted sockets. */
static __always_inline void accepted_learn(struct program *program, __u16 port, bool nonblocking,
					   bool is_first)
{
	program->accepted += nonblocking && is_first;
	if (nonblocking)
		port_learn(program, port);
	if (!nonblocking || program->accepted >= known_accepted)
		nature_learn(&program->accepts, nonblocking);
}

static __always_inline unsigned long first_argument(struct task_struct *thread)
{
	void *registers = (void *)bpf_task_pt_regs(thread);
	struct pt_regs___call_arm64 *arm64 = registers;
	struct pt_regs___call_x86 *x86 = registers;

	if (bpf_core_field_exists(x86->di))
		return x86->di;
	return bpf_core_field_exists(arm64->orig_x0) ? arm64->orig_x0 : ~0ul;
}

/* The system call that a thread is in; negative if none. By plain loads: helpers would take four times as long. */
static __always_inline long system_call_of(struct task_struct *thread)
{
	void *registers = (void *)bpf_task_pt_regs(thread);
	struct pt_regs___call_arm64 *arm64 = registers;
	struct pt_regs___call_x86 *x86 = registers;

	if (bpf_core_field_exists(x86->orig_ax))
		return x86->orig_ax;
	return bpf_core_field_exists(arm64->syscallno) ? arm64->syscallno : -1;
}

/* The socket behind a thread's descriptor, or NULL. */
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

#endif
