//! How programs that splice are detected, as far as this kernel allows.

use super::kernel_types::KernelTypes;
use super::sys;
use crate::model::finding::Finding;

/// How the datapath detects programs that splice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SpliceWatch {
    /// Splicing from an accelerated connection works: nothing to detect.
    Works,
    /// By tracing the function that splices, which costs others nothing.
    Function,
    /// By a tracepoint on every read from TCP's own queue.
    Reads,
    /// Not at all.
    Nothing,
}

impl SpliceWatch {
    /// The cheapest method that this kernel offers.
    pub(super) fn choose() -> Result<Self, Finding> {
        if [c"tcp_splice_read", c"tcp_mmap"]
            .into_iter()
            .all(sys::traces_function)
        {
            return Ok(Self::Function);
        }
        if KernelTypes::read()?.has_tracepoint("tcp_rcv_space_adjust") {
            return Ok(Self::Reads);
        }
        Ok(Self::Nothing)
    }

    /// What the method means, or what it means to have none.
    pub fn meaning(self) -> Result<&'static str, Finding> {
        match self {
            Self::Works => Ok("a splice from an accelerated connection works"),
            Self::Function => {
                Ok("programs that splice from sockets are seen by the function that does it, and kept off")
            }
            Self::Reads => {
                Ok("programs that splice from sockets are seen by a tracepoint of all reads, and kept off")
            }
            Self::Nothing => Err(Finding::new(
                "nothing shows on this kernel which programs splice, so only those are accelerated whose files call no splice, \
                 and those that are trusted",
                "name others that read by recv only with `--trust-programs`, or use a kernel that traces functions or has the \
                 tracepoint tcp_rcv_space_adjust",
            )),
        }
    }
}
