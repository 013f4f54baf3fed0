//! Watches for programs that splice from accelerated connections: they never see redirected data, and stall.

use std::collections::{HashMap, HashSet};

use anyhow::Result;

use crate::kernel::{Datapath, EndKey, SpliceTrace};

/// Looks at listening sockets and at unread data are so many ticks apart.
const LOOK: u32 = 3;

/// Traces `splice` only while some data stays unread, because a trace costs every program of the host about 40 ns a system
/// call. It ends with the next tick.
#[derive(Default)]
pub struct SpliceWatch {
    ticks: u32,
    unread: HashMap<EndKey, u32>,
    trace: Option<SpliceTrace>,
    told: HashSet<String>,
}

impl SpliceWatch {
    /// To be called about once a second. Returns the programs that were found out since; their new connections stay on TCP
    /// from now on.
    pub fn tick(&mut self, datapath: &Datapath<'_>) -> Result<Vec<String>> {
        if self.trace.take().is_some() {
            let mut found = datapath.spliced()?;
            found.retain(|name| self.told.insert(name.clone()));
            if !found.is_empty() {
                datapath.scan_listeners()?;
            }
            return Ok(found);
        }
        self.ticks += 1;
        if self.ticks % LOOK == 0 {
            // Listening sockets are handed on, and processes take other names.
            datapath.scan_listeners()?;
            let now = datapath.ends()?.unread;
            if is_stuck(&self.unread, &now) {
                self.trace = datapath.trace_splices()?;
            }
            self.unread = now;
        }
        Ok(Vec::new())
    }
}

/// Whether an end had as much to read at the last look already.
fn is_stuck(before: &HashMap<EndKey, u32>, now: &HashMap<EndKey, u32>) -> bool {
    now.iter()
        .any(|(end, unread)| before.get(end).is_some_and(|before| before <= unread))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unread(ends: &[(u32, u32)]) -> HashMap<EndKey, u32> {
        ends.iter().map(|(end, unread)| ((*end, *end), *unread)).collect()
    }

    #[test]
    fn data_that_nobody_reads_is_noticed() {
        assert!(is_stuck(&unread(&[(1, 100)]), &unread(&[(1, 100)])));
        assert!(is_stuck(&unread(&[(1, 100), (2, 5)]), &unread(&[(2, 7), (1, 3)])));
    }

    #[test]
    fn data_that_is_read_or_new_is_not() {
        assert!(!is_stuck(&unread(&[(1, 100)]), &unread(&[(1, 99)])));
        assert!(!is_stuck(&unread(&[(1, 100)]), &unread(&[(2, 100)])));
        assert!(!is_stuck(&unread(&[]), &unread(&[(2, 100)])));
    }
}
