//! What is known of programs.

/// A file that is executed, by what changes when it is replaced or written: as the kernel numbers it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct File {
    pub device: u32,
    pub inode: u64,
    /// Nanoseconds since 1970.
    pub changed: u64,
}

/// What the files of a program say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Image {
    WithoutSplice,
    WithSplice,
}

/// What the sockets of a program are.
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
    /// A hash of the arguments that tell programs of one interpreter apart.
    pub arguments: u64,
    /// Of its process, as in /proc/PID/comm.
    pub name: String,
    /// It reads from sockets by another way than recv.
    pub splices: bool,
    /// It has read enough by recv.
    pub receives: bool,
    /// How often it was seen to have read something.
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
    /// Nothing of what is known keeps it off.
    pub fn is_harmless(&self) -> bool {
        !self.splices && self.accepts != Nature::Blocking && self.connects != Nature::Blocking
    }
}
