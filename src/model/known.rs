//! What is known about programs.

/// An executable file, identified as the kernel numbers it: the key changes when the file is replaced or written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct File {
    pub device: u32,
    pub inode: u64,
    /// Nanoseconds since 1970 (ctime).
    pub changed: u64,
}

/// What the files of a program show.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Image {
    WithoutSplice,
    WithSplice,
}

/// The mode of a program's sockets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Nature {
    #[default]
    Unknown,
    Nonblocking,
    Blocking,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Program {
    pub file: File,
    /// A hash of the arguments, which tells programs run by one interpreter apart.
    pub arguments: u64,
    /// The process name, as in /proc/PID/comm.
    pub name: String,
    /// It was seen to read from sockets by other means than recv.
    pub splices: bool,
    /// It has read enough by recv.
    pub receives: bool,
    /// How many reads were seen.
    pub reads: u32,
    pub accepts: Nature,
    /// The ports at which it has accepted sockets that did not block.
    pub ports: Vec<u16>,
    pub connects: Nature,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Known {
    pub programs: Vec<Program>,
    pub images: Vec<(File, Image)>,
}

impl Program {
    /// Nothing known about it keeps it off.
    pub fn is_harmless(&self) -> bool {
        !self.splices && self.accepts != Nature::Blocking && self.connects != Nature::Blocking
    }
}
